//! The journal on SQLite.

use std::collections::HashMap;
use std::sync::Arc;

use perennial_persistence::telemetry::span;
use perennial_persistence::{
    AtomicWrite, BoxFuture, Error, Journal, PageLimit, PersistenceId, Previous, ReplayPage,
    SequenceNr, StoredEvent, Timestamp, Written,
};
use rusqlite::{CachedStatement, Connection, params};
use tracing::Instrument;

use crate::command_replies;
use crate::error::{Kind, classify, rejected, unavailable};
use crate::executor::{Executor, WriteTransaction};
use crate::reminders;
use crate::row::{Column, PayloadColumns, PayloadReader, corrupt, tags_text};

const INSERT: &str = include_str!("sql/event_journal/insert.sql");
const UNDO: &str = include_str!("sql/event_journal/undo.sql");
const TAKEN: &str = include_str!("sql/event_journal/taken.sql");
const REPLAY: &str = include_str!("sql/event_journal/replay.sql");
const HIGHEST: &str = include_str!("sql/event_journal/highest.sql");
const DELETE: &str = include_str!("sql/event_journal/delete.sql");
const REMOVE: &str = include_str!("sql/event_journal/remove.sql");
const INSERT_MARKER: &str = include_str!("sql/event_journal/insert_marker.sql");

#[derive(Debug)]
pub(crate) struct SqliteJournal {
    executor: Arc<Executor>,
}

impl SqliteJournal {
    pub(crate) fn new(executor: Arc<Executor>) -> Self {
        Self { executor }
    }
}

impl Journal for SqliteJournal {
    fn write_events<'a>(
        &'a self,
        batch: &'a [AtomicWrite],
    ) -> BoxFuture<'a, Vec<Result<Written, Error>>> {
        let events = batch.iter().map(|write| write.events().len()).sum();
        let write = async move {
            if batch.is_empty() {
                return Vec::new();
            }
            let owned = batch.to_vec();
            let work = move |transaction: &mut WriteTransaction<'_>| store(transaction, &owned);
            match self
                .executor
                .write("event_journal/insert", events, work)
                .await
            {
                Ok(results) => results,
                Err(error) => vec![Err(error); batch.len()],
            }
        };
        Box::pin(write.instrument(tracing::debug_span!(span::WRITE_EVENTS, events)))
    }

    fn replay_events<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        from: SequenceNr,
        to: SequenceNr,
        limit: PageLimit,
    ) -> BoxFuture<'a, Result<ReplayPage, Error>> {
        let id = persistence_id.clone();
        Box::pin(
            self.executor
                .read("event_journal/replay", move |connection| {
                    replay(connection, &id, from, to, limit)
                }),
        )
    }

    fn highest_sequence_nr<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        from: SequenceNr,
    ) -> BoxFuture<'a, Result<SequenceNr, Error>> {
        let id = persistence_id.clone();
        Box::pin(
            self.executor
                .read("event_journal/highest", move |connection| {
                    let mut statement = connection.prepare_cached(HIGHEST).map_err(unavailable)?;
                    let mut rows = statement
                        .query(params![id.as_str(), from.to_i64()])
                        .map_err(unavailable)?;
                    highest(&mut rows).map_err(unavailable)
                }),
        )
    }

    fn delete_events<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        to: SequenceNr,
    ) -> BoxFuture<'a, Result<(), Error>> {
        let id = persistence_id.clone();
        Box::pin(async move {
            self.executor
                .write("event_journal/delete", 1, move |transaction| {
                    delete(transaction, &id, to)
                })
                .await?
        })
    }

    fn remove_events<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        to: SequenceNr,
        limit: usize,
    ) -> BoxFuture<'a, Result<usize, Error>> {
        let id = persistence_id.clone();
        Box::pin(async move {
            self.executor
                .write("event_journal/remove", 1, move |transaction| {
                    let removed = transaction.prepare(REMOVE)?.execute(params![
                        id.as_str(),
                        to.to_i64(),
                        i64::try_from(limit).unwrap_or(i64::MAX),
                    ]);
                    Ok(transaction
                        .triage(removed)?
                        .map_err(|error| rejected(&id, classify(&error).1, Some(error))))
                })
                .await?
        })
    }
}

/// Stores each write of a batch or finds out why not; an error undoes all of them.
fn store(
    transaction: &mut WriteTransaction<'_>,
    batch: &[AtomicWrite],
) -> rusqlite::Result<Vec<Result<Written, Error>>> {
    let mut insert = transaction.prepare(INSERT)?;
    let mut fence = transaction.prepare(HIGHEST)?;
    let mut results = Vec::with_capacity(batch.len());
    let mut failed: HashMap<&PersistenceId, Error> = HashMap::new();
    for write in batch {
        // Taken before a failure is noticed: a write's place in the batch is part of its time.
        let timestamp = transaction.next_timestamp(write.previous);
        let earlier = failed.get(write.persistence_id());
        let result = match (earlier, timestamp) {
            (Some(error), _) => Err(error.clone()),
            (None, None) => Err(no_time_left(write.persistence_id())),
            (None, Some(timestamp)) if write.reminders().is_empty() => {
                store_one(transaction, &mut insert, &mut fence, write, timestamp)?
            }
            (None, Some(timestamp)) => transaction.undone_if_refused(|| {
                store_one(transaction, &mut insert, &mut fence, write, timestamp)
            })?,
        };
        if let Err(error) = &result {
            failed.insert(write.persistence_id(), error.clone());
        }
        results.push(result);
    }
    Ok(results)
}

/// Inserts the rows of a write. A failure of its own takes back what it has inserted: cheaper than
/// a savepoint around every write, as failures are rare.
fn store_one(
    transaction: &WriteTransaction<'_>,
    insert: &mut CachedStatement<'_>,
    fence: &mut CachedStatement<'_>,
    write: &AtomicWrite,
    timestamp: Timestamp,
) -> rusqlite::Result<Result<Written, Error>> {
    let id = write.persistence_id();
    let mut buffer = [0; UUID_CHARS];
    let writer: &str = write
        .writer()
        .as_uuid()
        .hyphenated()
        .encode_lower(&mut buffer);
    // The key alone would let a stale writer have a number whose event was deleted. The rows of
    // the entity's earlier writes in the batch are there already, and lie below.
    let fence = highest(&mut fence.query(params![id.as_str(), write.first().to_i64()])?)?;
    if fence > SequenceNr::ZERO
        && let Some(found) = find_rows(transaction, write, writer)?
    {
        return Ok(found);
    }
    for (seq_nr, event) in write.numbered() {
        let (payload, metadata) = (&event.payload, event.metadata.as_ref());
        let inserted = insert.execute(params![
            id.slice().value(),
            id.entity_type(),
            id.as_str(),
            seq_nr.to_i64(),
            timestamp.as_microsecond(),
            payload.serializer_id,
            &*payload.manifest,
            &*payload.bytes,
            writer,
            tags_text(&event.tags),
            metadata.map(|metadata| metadata.serializer_id),
            metadata.map(|metadata| &*metadata.manifest),
            metadata.map(|metadata| &*metadata.bytes),
        ]);
        let cause = match transaction.triage(inserted)? {
            Ok(1) => continue,
            // A trigger or conflict clause that another program added left the row out.
            Ok(_) => None,
            Err(error) => Some(error),
        };
        undo(transaction, write, seq_nr)?;
        return explain(transaction, write, writer, cause);
    }
    if let Some(reply) = write.reply()
        && let Err(error) = command_replies::store(transaction, id, write.last(), reply, timestamp)?
    {
        undo(transaction, write, write.last().next())?;
        return Ok(Err(error));
    }
    // One that is refused has its whole write undone.
    if let Err(error) = reminders::store(transaction, id, write.reminders())? {
        return Ok(Err(error));
    }
    Ok(Ok(Written { timestamp }))
}

/// Takes back the events of a write with numbers below `end`.
fn undo(
    transaction: &WriteTransaction<'_>,
    write: &AtomicWrite,
    end: SequenceNr,
) -> rusqlite::Result<()> {
    let id = write.persistence_id().as_str();
    let (first, end) = (write.first().to_i64(), end.to_i64());
    transaction
        .prepare(UNDO)?
        .execute(params![id, first, end])?;
    Ok(())
}

/// The length of a hyphenated UUID.
const UUID_CHARS: usize = 36;

/// Why a write could not be inserted; or that it need not be, as it was stored before.
fn explain(
    transaction: &WriteTransaction<'_>,
    write: &AtomicWrite,
    writer: &str,
    cause: Option<rusqlite::Error>,
) -> rusqlite::Result<Result<Written, Error>> {
    let (kind, reason) = cause
        .as_ref()
        .map_or((Kind::Taken, "the table left the row out"), |error| {
            classify(error)
        });
    if kind == Kind::Taken
        && let Some(found) = find_rows(transaction, write, writer)?
    {
        return Ok(found);
    }
    Ok(Err(rejected(write.persistence_id(), reason, cause)))
}

/// What the rows from a write's first number on say about it; `None` if there are none.
fn find_rows(
    transaction: &WriteTransaction<'_>,
    write: &AtomicWrite,
    writer: &str,
) -> rusqlite::Result<Option<Result<Written, Error>>> {
    const SEQ_NR: Column = Column(0, "seq_nr");
    const WRITER: Column = Column(1, "writer");
    const DB_TIMESTAMP: Column = Column(2, "db_timestamp");
    const DELETED: Column = Column(3, "deleted");

    let id = write.persistence_id();
    let first = write.first();
    let (witnesses, last) = write.witnesses();
    let mut statement = transaction.prepare(HIGHEST)?;
    let highest = highest(&mut statement.query(params![id.as_str(), first.to_i64()])?)?;
    if highest == SequenceNr::ZERO {
        return Ok(None);
    }
    let mut statement = transaction.prepare(TAKEN)?;
    let mut rows = statement.query(params![id.as_str(), first.to_i64(), last.to_i64()])?;
    let mut ours = 0;
    let mut timestamp = None;
    while let Some(row) = rows.next()? {
        let damaged = |damage| Ok(Some(Err(corrupt(id, first, damage))));
        let seq_nr = match SEQ_NR.seq_nr(row) {
            Ok(seq_nr) => seq_nr,
            Err(damage) => return damaged(damage),
        };
        match DELETED.integer(row) {
            Ok(0) if WRITER.text(row) == Ok(writer) => {
                ours += 1;
                timestamp.get_or_insert(DB_TIMESTAMP.micros(row));
            }
            Ok(0) => {
                return Ok(Some(Err(Error::Conflict {
                    persistence_id: id.clone(),
                    seq_nr,
                })));
            }
            Ok(_) => {}
            Err(damage) => return damaged(damage),
        }
    }
    let found = match timestamp {
        Some(timestamp) if ours == witnesses => timestamp
            .map(|timestamp| Written { timestamp })
            .map_err(|damage| corrupt(id, first, damage)),
        // Of rows of ours that are not all there, the others were deleted: writes are stored whole.
        _ => Err(Error::Superseded {
            persistence_id: id.clone(),
            seq_nr: first,
            highest,
        }),
    };
    Ok(Some(found))
}

fn replay(
    connection: &Connection,
    id: &PersistenceId,
    from: SequenceNr,
    to: SequenceNr,
    limit: PageLimit,
) -> Result<ReplayPage, Error> {
    const SEQ_NR: Column = Column(0, "seq_nr");
    const DB_TIMESTAMP: Column = Column(1, "db_timestamp");
    const DELETED: Column = Column(2, "deleted");
    const EVENT: PayloadColumns = PayloadColumns {
        serializer_id: Column(3, "event_ser_id"),
        manifest: Column(4, "event_ser_manifest"),
        bytes: Column(5, "event_payload"),
    };
    const METADATA: PayloadColumns = PayloadColumns {
        serializer_id: Column(6, "meta_ser_id"),
        manifest: Column(7, "meta_ser_manifest"),
        bytes: Column(8, "meta_payload"),
    };

    let mut page = ReplayPage {
        events: Vec::new(),
        highest: SequenceNr::ZERO,
        highest_timestamp: None,
        more: false,
    };
    let mut statement = connection.prepare_cached(REPLAY).map_err(unavailable)?;
    // One row more than wanted tells whether more follow.
    let max_rows = i64::try_from(limit.rows.max(1))
        .unwrap_or(i64::MAX)
        .saturating_add(1);
    let mut rows = statement
        .query(params![id.as_str(), from.to_i64(), to.to_i64(), max_rows])
        .map_err(unavailable)?;
    let (mut count, mut bytes) = (0, 0);
    let (mut events, mut metadata) = (PayloadReader::default(), PayloadReader::default());
    while let Some(row) = rows.next().map_err(unavailable)? {
        let is_full = count >= limit.rows || bytes >= limit.bytes;
        if is_full && count > 0 {
            page.more = true;
            break;
        }
        // Without its own number, a damaged row is known by the place where it was looked for.
        let seq_nr = SEQ_NR
            .seq_nr(row)
            .map_err(|damage| corrupt(id, page.highest.next().max(from), damage))?;
        let damaged = |damage| corrupt(id, seq_nr, damage);
        let timestamp = DB_TIMESTAMP.micros(row).map_err(damaged)?;
        if DELETED.integer(row).map_err(damaged)? == 0 {
            let payload = events.read(row, EVENT).map_err(damaged)?;
            let metadata = if METADATA.bytes.is_null(row) {
                None
            } else {
                Some(metadata.read(row, METADATA).map_err(damaged)?)
            };
            bytes += payload.bytes.len() + metadata.as_ref().map_or(0, |m| m.bytes.len());
            page.events.push(StoredEvent {
                seq_nr,
                timestamp,
                payload,
                metadata,
            });
        }
        count += 1;
        page.highest = seq_nr;
        page.highest_timestamp = Some(timestamp);
    }
    Ok(page)
}

/// The only column of the only row, a number or NULL.
fn highest(rows: &mut rusqlite::Rows<'_>) -> rusqlite::Result<SequenceNr> {
    let found: Option<i64> = match rows.next()? {
        Some(row) => row.get(0)?,
        None => None,
    };
    // The statement looks from a number on that is not negative.
    Ok(found.map_or(SequenceNr::ZERO, |found| {
        SequenceNr::try_from(found).unwrap_or(SequenceNr::ZERO)
    }))
}

fn delete(
    transaction: &mut WriteTransaction<'_>,
    id: &PersistenceId,
    to: SequenceNr,
) -> rusqlite::Result<Result<(), Error>> {
    let Some(timestamp) = transaction.next_timestamp(Previous::Unknown) else {
        return Ok(Err(no_time_left(id)));
    };
    let deleted = transaction.all_or_nothing(|| {
        let marker = if to == SequenceNr::MAX {
            let mut statement = transaction.prepare(HIGHEST)?;
            let mut rows = statement.query(params![id.as_str(), SequenceNr::ZERO.to_i64()])?;
            highest(&mut rows)?
        } else {
            to
        };
        transaction
            .prepare(DELETE)?
            .execute(params![id.as_str(), marker.to_i64()])?;
        transaction.prepare(INSERT_MARKER)?.execute(params![
            id.slice().value(),
            id.entity_type(),
            id.as_str(),
            marker.to_i64(),
            timestamp.as_microsecond(),
        ])
    })?;
    Ok(deleted
        .map(drop)
        .map_err(|error| rejected(id, classify(&error).1, Some(error))))
}

fn no_time_left(id: &PersistenceId) -> Error {
    let reason = "its time would lie after the year 9999: the latest event in the table, or its \
                  own previous one, carries such a db_timestamp; correct that row";
    rejected(id, reason, None)
}
