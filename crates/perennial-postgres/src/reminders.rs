//! The reminders, on the table `perennial_reminder`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use perennial_persistence::{
    AtomicWrite, BoxFuture, DueReminders, Error, NewReminder, PersistenceId, ReminderChange,
    ReminderKey, ReminderStore, SequenceNr, SerializedPayload, StoredReminder, Timestamp,
};
use tokio_postgres::Row;
use tokio_postgres::types::{IsNull, ToSql, Type};

use crate::command_replies::{self, Reply};
use crate::error::Failure;
use crate::executor::{Executor, Params, Sql, sql};
use crate::row::{Column, Micros, column, corrupt, put_text};

const DUE: Sql = sql!("reminders/due.sql");
const REMOVE: Sql = sql!("reminders/remove.sql");

#[derive(Debug)]
pub(crate) struct PostgresReminders {
    executor: Arc<Executor>,
}

impl PostgresReminders {
    pub(crate) fn new(executor: Arc<Executor>) -> Self {
        Self { executor }
    }

    async fn due(&self, wanted: &DueReminders) -> Result<Vec<StoredReminder>, Error> {
        let (min, max) = (wanted.slices.min().into(), wanted.slices.max().into());
        let (min, max): (i32, i32) = (min, max);
        let types: Vec<&str> = wanted.entity_types.iter().map(|name| &**name).collect();
        let after = wanted.after.as_ref();
        let after_id = after.map_or("", |(id, _)| id.as_str());
        let after_key = after.map_or("", |(_, key)| key.as_str());
        // None is due before that, and the server's time begins later than ours.
        let from = wanted.from.max(Timestamp::UNIX_EPOCH);
        let until = wanted.until.max(Timestamp::UNIX_EPOCH);
        let mut found = Vec::new();
        let mut damage = None;
        self.executor
            .read(
                &DUE,
                &[
                    &min,
                    &max,
                    &types,
                    &Micros::of(from),
                    &after_id,
                    &after_key,
                    &Micros::of(until),
                    &count(wanted.limit),
                ],
                |row| match reminder(&row) {
                    Ok(reminder) => {
                        found.push(reminder);
                        ControlFlow::Continue(())
                    }
                    Err(error) => {
                        damage = Some(error);
                        ControlFlow::Break(())
                    }
                },
            )
            .await
            .map_err(|failure| failure.into_error(&nobody()))?;
        damage.map_or(Ok(found), Err)
    }
}

impl ReminderStore for PostgresReminders {
    fn due<'a>(
        &'a self,
        wanted: &'a DueReminders,
    ) -> BoxFuture<'a, Result<Vec<StoredReminder>, Error>> {
        Box::pin(self.due(wanted))
    }

    fn remove<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        limit: usize,
    ) -> BoxFuture<'a, Result<usize, Error>> {
        Box::pin(async move {
            let rows = self
                .executor
                .call(&REMOVE, &[&persistence_id.as_str(), &count(limit)])
                .await
                .map_err(|failure| failure.into_error(persistence_id))?;
            let removed: i64 = rows.first().map_or(0, |row| row.get(0));
            Ok(usize::try_from(removed).unwrap_or(0))
        })
    }
}

fn count(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Who is named where no row is.
fn nobody() -> PersistenceId {
    PersistenceId::of_unique_id("perennial_reminder").expect("a valid id")
}

fn reminder(row: &Row) -> Result<StoredReminder, Error> {
    let none = SequenceNr::ZERO;
    let text: &str = column(row, 0, &nobody(), none)?;
    let id = PersistenceId::of_unique_id(text)
        .map_err(|error| corrupt(&nobody(), none, format!("a reminder: {error}")))?;
    let key: &str = column(row, 2, &id, none)?;
    let key = ReminderKey::new(key)
        .map_err(|error| corrupt(&id, none, format!("a reminder: {error}")))?;
    let due = column::<Micros>(row, 3, &id, none)?
        .timestamp()
        .ok_or_else(|| {
            let reason = format!("the time of reminder {key} is infinite or above the year 9999");
            corrupt(&id, none, reason)
        })?;
    let payload = SerializedPayload::new(
        column::<i32>(row, 4, &id, none)?,
        column::<&str>(row, 5, &id, none)?,
        column::<&[u8]>(row, 6, &id, none)?.to_vec(),
    );
    let entity_type = column::<&str>(row, 1, &id, none)?.into();
    Ok(StoredReminder {
        persistence_id: id,
        entity_type,
        key,
        due,
        payload,
    })
}

/// How many bytes of a statement the changes of a write take.
pub(crate) fn size_of_reminders(write: &AtomicWrite) -> usize {
    write.reminders().iter().map(ReminderChange::bytes).sum()
}

type Set<'a> = (&'a PersistenceId, &'a NewReminder);
type Forgotten<'a> = (&'a PersistenceId, &'a ReminderKey, Option<Timestamp>);

/// What several writes, one after another, amount to: a statement changes each row once.
#[derive(Debug, Default)]
pub(crate) struct Changes<'a> {
    sets: Vec<Set<'a>>,
    forgotten: Vec<Forgotten<'a>>,
}

/// What is known of one reminder.
#[derive(Default)]
struct OfKey<'a> {
    set: Option<&'a NewReminder>,
    /// With the times of those that are meant.
    forgotten: Vec<Option<Timestamp>>,
}

impl<'a> Changes<'a> {
    /// Those of writes in their order.
    pub(crate) fn of(writes: impl Iterator<Item = &'a AtomicWrite>) -> Self {
        let mut of_keys: BTreeMap<(&PersistenceId, &ReminderKey), OfKey<'a>> = BTreeMap::new();
        for write in writes {
            for change in write.reminders() {
                let place = (write.persistence_id(), change.key());
                let of_key = of_keys.entry(place).or_default();
                match change {
                    ReminderChange::Set(new) => {
                        of_key.set = Some(new);
                        of_key.forgotten.clear();
                    }
                    ReminderChange::Forget { due, .. } => {
                        match (of_key.set, due) {
                            // The one that is set is another one, and stays.
                            (Some(set), Some(due)) if set.due() != *due => continue,
                            // It is forgotten again, and so is what it has replaced.
                            (Some(_), _) => of_key.forgotten = vec![None],
                            (None, due) => of_key.forgotten.push(*due),
                        }
                        of_key.set = None;
                    }
                }
            }
        }
        let mut changes = Self::default();
        for ((id, key), of_key) in of_keys {
            changes.sets.extend(of_key.set.map(|new| (id, new)));
            let forgotten = of_key.forgotten.into_iter();
            changes
                .forgotten
                .extend(forgotten.map(|due| (id, key, due)));
        }
        changes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sets.is_empty() && self.forgotten.is_empty()
    }
}

/// Inserts with `sql`, whose first parameters are `events` and whose last are those of `replies`.
pub(crate) async fn change_with(
    executor: &Executor,
    sql: &Sql,
    events: Params<'_>,
    changes: &Changes<'_>,
    replies: &[Reply<'_>],
) -> Result<Vec<Row>, Failure> {
    let Changes { sets, forgotten } = changes;
    let slice = Column::new(sets, Type::INT4, |(id, _): &Set<'_>, out: &mut BytesMut| {
        out.put_i32(id.slice().into());
        IsNull::No
    });
    let entity_type = Column::new(sets, Type::TEXT, |(_, new): &Set<'_>, out| {
        put_text(new.entity_type(), out)
    });
    let id = Column::new(sets, Type::TEXT, |(id, _): &Set<'_>, out| {
        put_text(id.as_str(), out)
    });
    let key = Column::new(sets, Type::TEXT, |(_, new): &Set<'_>, out| {
        put_text(new.key().as_str(), out)
    });
    let due = Column::new(sets, Type::TIMESTAMPTZ, |(_, new): &Set<'_>, out| {
        Micros::of(new.due()).put(out);
        IsNull::No
    });
    let serializer_id = Column::new(
        sets,
        Type::INT4,
        |(_, new): &Set<'_>, out: &mut BytesMut| {
            out.put_i32(new.payload().serializer_id);
            IsNull::No
        },
    );
    let manifest = Column::new(sets, Type::TEXT, |(_, new): &Set<'_>, out| {
        put_text(&new.payload().manifest, out)
    });
    let payload = Column::new(
        sets,
        Type::BYTEA,
        |(_, new): &Set<'_>, out: &mut BytesMut| {
            out.put_slice(&new.payload().bytes);
            IsNull::No
        },
    );
    let forgotten_id = Column::new(forgotten, Type::TEXT, |(id, ..): &Forgotten<'_>, out| {
        put_text(id.as_str(), out)
    });
    let forgotten_key = Column::new(forgotten, Type::TEXT, |(_, key, _): &Forgotten<'_>, out| {
        put_text(key.as_str(), out)
    });
    let forgotten_due = Column::new(
        forgotten,
        Type::TIMESTAMPTZ,
        |(.., due): &Forgotten<'_>, out| match due {
            Some(due) => {
                Micros::of(*due).put(out);
                IsNull::No
            }
            None => IsNull::Yes,
        },
    );
    let of_reminders: [&(dyn ToSql + Sync); 11] = [
        &slice,
        &entity_type,
        &id,
        &key,
        &due,
        &serializer_id,
        &manifest,
        &payload,
        &forgotten_id,
        &forgotten_key,
        &forgotten_due,
    ];
    let others: Vec<&(dyn ToSql + Sync)> = events.iter().copied().chain(of_reminders).collect();
    command_replies::insert_with(executor, sql, &others, replies).await
}

#[cfg(test)]
mod tests {
    use perennial_persistence::WriterId;

    use super::*;

    fn set(key: &str, second: i64) -> ReminderChange {
        let payload = SerializedPayload::new(77, "m", &b"x"[..]);
        let new = NewReminder::new("Cart", name(key), at(second), payload);
        ReminderChange::Set(new.expect("valid"))
    }

    fn forget(key: &str, second: Option<i64>) -> ReminderChange {
        ReminderChange::Forget {
            key: name(key),
            due: second.map(at),
        }
    }

    fn name(key: &str) -> ReminderKey {
        ReminderKey::new(key).expect("valid")
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    /// What single changes, one after another, amount to: the time of what is set, and the times of
    /// what is forgotten.
    fn check(changes: &[ReminderChange], set: Option<i64>, forgotten: &[Option<i64>]) {
        let id = PersistenceId::new("Cart", "a").expect("valid");
        let writer = WriterId::from_random_bits(1);
        let write = |change: &ReminderChange| {
            let changes = vec![change.clone()];
            AtomicWrite::of_reminders(id.clone(), writer, SequenceNr::FIRST, changes)
                .expect("valid")
        };
        let writes: Vec<AtomicWrite> = changes.iter().map(write).collect();
        let folded = Changes::of(writes.iter());
        let sets: Vec<Timestamp> = folded.sets.iter().map(|(_, new)| new.due()).collect();
        assert_eq!(sets, set.map(at).into_iter().collect::<Vec<_>>());
        let found: Vec<Option<Timestamp>> = folded.forgotten.iter().map(|one| one.2).collect();
        let expected: Vec<_> = forgotten.iter().map(|second| second.map(at)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn changes_of_one_reminder_are_folded_into_one() {
        check(&[set("a", 1), set("a", 2)], Some(2), &[]);
        check(&[set("a", 1), forget("a", None)], None, &[None]);
        check(&[set("a", 1), forget("a", Some(1))], None, &[None]);
        check(&[set("a", 1), forget("a", Some(2))], Some(1), &[]);
        check(&[forget("a", Some(2)), set("a", 1)], Some(1), &[]);
        check(&[forget("a", Some(2))], None, &[Some(2)]);
        let twice = [forget("a", Some(2)), forget("a", None)];
        check(&twice, None, &[Some(2), None]);
    }
}
