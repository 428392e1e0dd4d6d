//! The reminders, on SQLite.

use std::sync::Arc;

use perennial_persistence::{
    BoxFuture, DueReminders, Error, PersistenceId, ReminderChange, ReminderKey, ReminderStore,
    SequenceNr, StoredReminder,
};
use rusqlite::{Connection, Row, params};

use crate::error::{classify, rejected, unavailable};
use crate::executor::{Executor, WriteTransaction};
use crate::row::{Column, Damage, PayloadColumns, PayloadReader, corrupt, tags_text};

const SET: &str = include_str!("sql/reminder/set.sql");
const FORGET: &str = include_str!("sql/reminder/forget.sql");
const DUE: &str = include_str!("sql/reminder/due.sql");
const REMOVE: &str = include_str!("sql/reminder/remove.sql");

#[derive(Debug)]
pub(crate) struct SqliteReminders {
    executor: Arc<Executor>,
}

impl SqliteReminders {
    pub(crate) fn new(executor: Arc<Executor>) -> Self {
        Self { executor }
    }
}

impl ReminderStore for SqliteReminders {
    fn due<'a>(
        &'a self,
        wanted: &'a DueReminders,
    ) -> BoxFuture<'a, Result<Vec<StoredReminder>, Error>> {
        let wanted = wanted.clone();
        Box::pin(
            self.executor
                .read("reminder/due", move |connection| due(connection, &wanted)),
        )
    }

    fn remove<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        limit: usize,
    ) -> BoxFuture<'a, Result<usize, Error>> {
        let id = persistence_id.clone();
        Box::pin(async move {
            self.executor
                .write("reminder/remove", 1, move |transaction| {
                    let removed = transaction
                        .prepare(REMOVE)?
                        .execute(params![id.as_str(), count(limit)]);
                    Ok(transaction
                        .triage(removed)?
                        .map_err(|error| rejected(&id, classify(&error).1, Some(error))))
                })
                .await?
        })
    }
}

fn count(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Makes the changes of one write; the inner error is about one of them.
pub(crate) fn store(
    transaction: &WriteTransaction<'_>,
    id: &PersistenceId,
    changes: &[ReminderChange],
) -> rusqlite::Result<Result<(), Error>> {
    for change in changes {
        let changed = match change {
            ReminderChange::Set(new) => {
                let payload = new.payload();
                transaction.prepare(SET)?.execute(params![
                    id.slice().value(),
                    &**new.entity_type(),
                    id.as_str(),
                    new.key().as_str(),
                    new.due().as_microsecond(),
                    payload.serializer_id,
                    &*payload.manifest,
                    &*payload.bytes,
                ])
            }
            ReminderChange::Forget { key, due } => {
                let due = due.map(|due| due.as_microsecond());
                transaction
                    .prepare(FORGET)?
                    .execute(params![id.as_str(), key.as_str(), due])
            }
        };
        if let Err(error) = transaction.triage(changed)? {
            return Ok(Err(rejected(id, classify(&error).1, Some(error))));
        }
    }
    Ok(Ok(()))
}

fn due(connection: &Connection, wanted: &DueReminders) -> Result<Vec<StoredReminder>, Error> {
    let mut statement = connection.prepare_cached(DUE).map_err(unavailable)?;
    let types: Vec<String> = wanted
        .entity_types
        .iter()
        .map(ToString::to_string)
        .collect();
    let after = wanted.after.as_ref();
    let mut rows = statement
        .query(params![
            wanted.slices.min().value(),
            wanted.slices.max().value(),
            tags_text(&types).unwrap_or_else(|| "[]".to_owned()),
            wanted.from.as_microsecond(),
            after.map_or("", |(id, _)| id.as_str()),
            after.map_or("", |(_, key)| key.as_str()),
            wanted.until.as_microsecond(),
            count(wanted.limit),
        ])
        .map_err(unavailable)?;
    let mut payloads = PayloadReader::default();
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(unavailable)? {
        found.push(reminder(row, &mut payloads)?);
    }
    Ok(found)
}

/// The reminder in a row.
fn reminder(row: &Row<'_>, payloads: &mut PayloadReader) -> Result<StoredReminder, Error> {
    const PERSISTENCE_ID: Column = Column(0, "persistence_id");

    let text = PERSISTENCE_ID.text(row).map_err(nameless)?;
    let id = PersistenceId::of_unique_id(text)
        .map_err(|error| nameless(Damage(format!("persistence_id: {error}"))))?;
    fields(row, &id, payloads).map_err(|Damage(reason)| {
        corrupt(
            &id,
            SequenceNr::ZERO,
            Damage(format!("a reminder: {reason}")),
        )
    })
}

/// A row without a good id cannot be named, and is found by what is wrong with it.
fn nameless(Damage(reason): Damage) -> Error {
    let id = PersistenceId::of_unique_id("perennial_reminder").expect("a valid id");
    corrupt(
        &id,
        SequenceNr::ZERO,
        Damage(format!("a reminder: {reason}")),
    )
}

fn fields(
    row: &Row<'_>,
    id: &PersistenceId,
    payloads: &mut PayloadReader,
) -> Result<StoredReminder, Damage> {
    const ENTITY_TYPE: Column = Column(1, "entity_type");
    const KEY: Column = Column(2, "reminder_key");
    const DUE: Column = Column(3, "due");
    const COMMAND: PayloadColumns = PayloadColumns {
        serializer_id: Column(4, "reminder_ser_id"),
        manifest: Column(5, "reminder_ser_manifest"),
        bytes: Column(6, "reminder_payload"),
    };

    Ok(StoredReminder {
        persistence_id: id.clone(),
        entity_type: ENTITY_TYPE.text(row)?.into(),
        key: ReminderKey::new(KEY.text(row)?)
            .map_err(|error| Damage(format!("reminder_key: {error}")))?,
        due: DUE.micros(row)?,
        payload: payloads.read(row, COMMAND)?,
    })
}
