//! The durable state store on SQLite.

use std::sync::Arc;

use perennial_persistence::{
    BoxFuture, DurableStateDelete, DurableStateStore, Error, FoldedBatch, FoldedOutcome,
    FoldedWrite, NO_PAYLOAD_ID, PersistenceId, Previous, SequenceNr, StateWrite, StoredState,
    Timestamp, Written,
};
use rusqlite::{CachedStatement, Row, params};

use crate::companions;
use crate::error::{Kind, classify, rejected, unavailable};
use crate::executor::{Executor, WriteTransaction};
use crate::row::{Column, Damage, PayloadColumns, PayloadReader, corrupt, tags_of, tags_text};

const LOAD: &str = include_str!("sql/durable_state/load.sql");
const INSERT: &str = include_str!("sql/durable_state/insert.sql");
const UPDATE: &str = include_str!("sql/durable_state/update.sql");
const DELETE: &str = include_str!("sql/durable_state/delete.sql");
const REMOVE: &str = include_str!("sql/durable_state/remove.sql");

#[derive(Debug)]
pub(crate) struct SqliteDurableStateStore {
    executor: Arc<Executor>,
    delete: DurableStateDelete,
}

impl SqliteDurableStateStore {
    pub(crate) fn new(executor: Arc<Executor>, delete: DurableStateDelete) -> Self {
        Self { executor, delete }
    }
}

impl DurableStateStore for SqliteDurableStateStore {
    fn deletion_leaves(&self) -> DurableStateDelete {
        self.delete
    }

    fn load<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
    ) -> BoxFuture<'a, Result<Option<StoredState>, Error>> {
        let id = persistence_id.clone();
        Box::pin(self.executor.read("durable_state/load", move |connection| {
            let statement = connection.prepare_cached(LOAD).map_err(unavailable)?;
            load(statement, &id).map_err(unavailable)?
        }))
    }

    fn write_states<'a>(
        &'a self,
        batch: &'a [StateWrite],
    ) -> BoxFuture<'a, Vec<Result<Written, Error>>> {
        let delete = self.delete;
        Box::pin(async move {
            if batch.is_empty() {
                return Vec::new();
            }
            let owned = batch.to_vec();
            let work = move |transaction: &mut WriteTransaction<'_>| {
                let folded = FoldedBatch::new(&owned, |write| write.refused_company(delete));
                // In the order of the batch, as times are given out in the order of the commits.
                let mut order: Vec<usize> = (0..folded.len()).collect();
                order.sort_by_key(|&id| folded.get(id).position());
                let mut outcomes = Vec::with_capacity(folded.len());
                for id in order {
                    outcomes.push((id, store(transaction, folded.get(id), delete)?));
                }
                outcomes.sort_by_key(|&(id, _)| id);
                Ok(folded.answers(outcomes.into_iter().map(|(_, outcome)| outcome)))
            };
            match self
                .executor
                .write("durable_state/update", batch.len(), work)
                .await
            {
                Ok(results) => results,
                Err(error) => vec![Err(error); batch.len()],
            }
        })
    }

    fn remove<'a>(&'a self, persistence_id: &'a PersistenceId) -> BoxFuture<'a, Result<(), Error>> {
        let id = persistence_id.clone();
        Box::pin(async move {
            self.executor
                .write("durable_state/remove", 1, move |transaction| {
                    let removed = transaction.prepare(REMOVE)?.execute([id.as_str()]);
                    let removed = transaction.triage(removed)?;
                    Ok(removed
                        .map(drop)
                        .map_err(|error| rejected(&id, classify(&error).1, Some(error))))
                })
                .await?
        })
    }
}

/// Stores the writes of one id or finds out why not; an error undoes the transaction.
///
/// The row is expected to be as the writes say, and only looked at when it is not.
fn store(
    transaction: &mut WriteTransaction<'_>,
    write: FoldedWrite<'_, '_>,
    delete: DurableStateDelete,
) -> rusqlite::Result<FoldedOutcome> {
    let id = write.persistence_id();
    let (mut done, mut latest) = (0, None);
    let mut at_once = write.len();
    // Known, not only expected.
    let mut row_is_gone = false;
    let mut looked = false;
    let failure = loop {
        if done == write.len() {
            break None;
        }
        let part = write.part(done, at_once);
        match change(transaction, part, row_is_gone, delete)? {
            Ok(Some(timestamp)) => {
                latest = Some(Written { timestamp });
                done += part.len();
                row_is_gone = part.payload().is_none() && delete == DurableStateDelete::Row;
            }
            Ok(None) if looked => break Some(rejected(id, "the table left the row out", None)),
            Ok(None) => {
                looked = true;
                let row = match load(transaction.prepare(LOAD)?, id)? {
                    Ok(row) => row,
                    Err(damage) => break Some(damage),
                };
                match part.count_stored(row.as_ref(), delete) {
                    Ok(count) => {
                        if let Some(witness) = part.witness(count)
                            && let Err(other) = companions::check_own(transaction, id, &witness)?
                        {
                            break Some(other);
                        }
                        done += count;
                    }
                    Err(stale) => break Some(stale),
                }
                row_is_gone = row.is_none();
                latest = latest.or(row.map(|row| Written {
                    timestamp: row.timestamp,
                }));
            }
            // Its last write is refused, perhaps not the first ones.
            Err(_) if part.len() > 1 => at_once = 1,
            Err(error) => break Some(error),
        }
    };
    Ok(match (failure, latest) {
        (None, Some(written)) => Ok(written).into(),
        (Some(error), Some(written)) => FoldedOutcome::after(done, written, Err(error)),
        (Some(error), None) => Err(error).into(),
        // Nothing of this id was to be stored, so nobody asks.
        (None, None) => Err(no_time_left(id)).into(),
    })
}

/// Makes one change of a row, which may be known to be gone, and says when; `None` if the row is not the
/// one that the change expects.
fn change(
    transaction: &mut WriteTransaction<'_>,
    write: FoldedWrite<'_, '_>,
    row_is_gone: bool,
    delete: DurableStateDelete,
) -> rusqlite::Result<Result<Option<Timestamp>, Error>> {
    let id = write.persistence_id();
    // Later than every other time in the tables, the row's own included.
    let mut times = Vec::with_capacity(1);
    for _ in 0..write.time_steps() {
        let Some(timestamp) = transaction.next_timestamp(Previous::Unknown) else {
            return Ok(Err(no_time_left(id)));
        };
        times.push(timestamp);
    }
    let timestamp = times[times.len() - 1];
    let transaction = &*transaction;
    let stored = if write.has_company() {
        transaction.undone_if_refused(|| {
            let changed = change_row(transaction, write, row_is_gone, delete, timestamp)?;
            if !matches!(changed, Ok(true)) {
                return Ok(changed);
            }
            let stored = companions::store(transaction, write, &times)?;
            Ok(stored.map(|()| true))
        })?
    } else {
        change_row(transaction, write, row_is_gone, delete, timestamp)?
    };
    Ok(stored.map(|is_changed| is_changed.then_some(timestamp)))
}

/// Changes the row alone; `false` if it is not the one that the change expects.
fn change_row(
    transaction: &WriteTransaction<'_>,
    write: FoldedWrite<'_, '_>,
    row_is_gone: bool,
    delete: DurableStateDelete,
    timestamp: Timestamp,
) -> rusqlite::Result<Result<bool, Error>> {
    let id = write.persistence_id();
    let (serializer_id, manifest, bytes) = match write.payload() {
        Some(payload) => (payload.serializer_id, &*payload.manifest, &*payload.bytes),
        None => (NO_PAYLOAD_ID, "", &b""[..]),
    };
    let tags = write.tags();
    let removes = write.payload().is_none() && delete == DurableStateDelete::Row;
    if removes && row_is_gone {
        return Ok(Ok(true));
    }
    let changed = if removes {
        transaction
            .prepare(DELETE)?
            .execute(params![id.as_str(), write.expected().to_i64()])
    } else if row_is_gone || write.expected() == SequenceNr::ZERO {
        transaction.prepare(INSERT)?.execute(params![
            id.slice().value(),
            id.entity_type(),
            id.as_str(),
            write.revision().to_i64(),
            timestamp.as_microsecond(),
            serializer_id,
            manifest,
            bytes,
            tags.and_then(tags_text),
        ])
    } else {
        transaction.prepare(UPDATE)?.execute(params![
            id.as_str(),
            write.expected().to_i64(),
            write.revision().to_i64(),
            timestamp.as_microsecond(),
            serializer_id,
            manifest,
            bytes,
            tags.is_none(),
            tags.and_then(tags_text),
        ])
    };
    Ok(match transaction.triage(changed)? {
        Ok(changed) => Ok(changed == 1),
        Err(error) => match classify(&error) {
            (Kind::Taken, _) => Ok(false),
            (_, reason) => Err(rejected(id, reason, Some(error))),
        },
    })
}

/// The row of an id; the inner error is about the row.
fn load(
    mut statement: CachedStatement<'_>,
    id: &PersistenceId,
) -> rusqlite::Result<Result<Option<StoredState>, Error>> {
    let mut rows = statement.query([id.as_str()])?;
    let Some(row) = rows.next()? else {
        return Ok(Ok(None));
    };
    let state = match state(row, id) {
        Ok(state) => state,
        Err(damage) => return Ok(Err(damage)),
    };
    if rows.next()?.is_some() {
        let reason = "it is not the only row of this id; delete the stale ones";
        return Ok(Err(corrupt(id, state.revision, Damage(reason.to_owned()))));
    }
    Ok(Ok(Some(state)))
}

fn state(row: &Row<'_>, id: &PersistenceId) -> Result<StoredState, Error> {
    const REVISION: Column = Column(0, "revision");
    const DB_TIMESTAMP: Column = Column(1, "db_timestamp");
    const STATE: PayloadColumns = PayloadColumns {
        serializer_id: Column(2, "state_ser_id"),
        manifest: Column(3, "state_ser_manifest"),
        bytes: Column(4, "state_payload"),
    };
    const TAGS: Column = Column(5, "tags");

    let revision = REVISION
        .seq_nr(row)
        .map_err(|damage| corrupt(id, SequenceNr::ZERO, damage))?;
    let damaged = |damage| corrupt(id, revision, damage);
    let payload = PayloadReader::default()
        .read_nullable(row, STATE)
        .map_err(damaged)?;
    let is_marker = payload.serializer_id == NO_PAYLOAD_ID;
    if is_marker && !payload.bytes.is_empty() {
        let reason = "it has serializer id 0, which means no payload, and bytes";
        return Err(damaged(Damage(reason.to_owned())));
    }
    Ok(StoredState {
        revision,
        timestamp: DB_TIMESTAMP.micros(row).map_err(damaged)?,
        payload: (!is_marker).then_some(payload),
        tags: tags_of(row, TAGS).map_err(damaged)?,
    })
}

fn no_time_left(id: &PersistenceId) -> Error {
    let reason = "its time would lie after the year 9999: the latest row in the tables carries such \
                  a db_timestamp; correct that row";
    rejected(id, reason, None)
}
