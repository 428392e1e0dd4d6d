//! What is stored with a durable state in other tables: change events and the replies to commands
//! with ids.

use perennial_persistence::{
    Companion, Error, FoldedWrite, NewEvent, Occupant, PersistenceId, SequenceNr, Timestamp,
    WriterId,
};
use rusqlite::params;

use crate::command_replies;
use crate::error::{Kind, classify, rejected};
use crate::executor::WriteTransaction;
use crate::row::{Column, corrupt, tags_text};

const INSERT_EVENT: &str = include_str!("sql/event_journal/insert.sql");
const TAKEN: &str = include_str!("sql/event_journal/taken.sql");

/// Inserts everything that goes with a row, which has been changed; the inner error is about one
/// of it. `times` are those of the writes, if there are events; the last one is that of the row,
/// which all replies get.
pub(crate) fn store(
    transaction: &WriteTransaction<'_>,
    write: FoldedWrite<'_, '_>,
    times: &[Timestamp],
) -> rusqlite::Result<Result<(), Error>> {
    let id = write.persistence_id();
    let of_row = times.last().copied().unwrap_or(Timestamp::MAX);
    for (index, one) in write.companions() {
        let stored = match one {
            Companion::Event {
                writer,
                seq_nr,
                event,
            } => {
                let timestamp = times.get(index).copied().unwrap_or(of_row);
                insert_event(transaction, id, writer, seq_nr, event, timestamp)?
            }
            Companion::Reply { seq_nr, reply } => {
                command_replies::store(transaction, id, seq_nr, reply, of_row)?
            }
        };
        if stored.is_err() {
            return Ok(stored);
        }
    }
    Ok(Ok(()))
}

/// Whether what stands in a companion's place is this one.
pub(crate) fn check_own(
    transaction: &WriteTransaction<'_>,
    id: &PersistenceId,
    one: &Companion<'_>,
) -> rusqlite::Result<Result<(), Error>> {
    let there = match *one {
        Companion::Event { writer, seq_nr, .. } => event_at(transaction, id, seq_nr, writer)?,
        Companion::Reply { reply, .. } => {
            let found = command_replies::find(transaction, id, reply.command_id())?;
            found.map(|found| found.map(Occupant::Reply))
        }
    };
    Ok(there.and_then(|there| one.is_own(id, there.as_ref())))
}

fn insert_event(
    transaction: &WriteTransaction<'_>,
    id: &PersistenceId,
    writer: WriterId,
    seq_nr: SequenceNr,
    event: &NewEvent,
    timestamp: Timestamp,
) -> rusqlite::Result<Result<(), Error>> {
    let (payload, metadata) = (&event.payload, event.metadata.as_ref());
    let inserted = transaction.prepare(INSERT_EVENT)?.execute(params![
        id.slice().value(),
        id.entity_type(),
        id.as_str(),
        seq_nr.to_i64(),
        timestamp.as_microsecond(),
        payload.serializer_id,
        &*payload.manifest,
        &*payload.bytes,
        writer.to_string(),
        tags_text(&event.tags),
        metadata.map(|metadata| metadata.serializer_id),
        metadata.map(|metadata| &*metadata.manifest),
        metadata.map(|metadata| &*metadata.bytes),
    ]);
    let (kind, reason, cause) = match transaction.triage(inserted)? {
        Ok(1) => return Ok(Ok(())),
        Ok(_) => (Kind::Taken, "the table left the change event out", None),
        Err(error) => {
            let (kind, reason) = classify(&error);
            (kind, reason, Some(error))
        }
    };
    if kind == Kind::Taken {
        let one = Companion::Event {
            writer,
            seq_nr,
            event,
        };
        match event_at(transaction, id, seq_nr, writer)? {
            Ok(there) => {
                if let Some(obstacle) = one.obstacle(id, there.as_ref()) {
                    return Ok(Err(obstacle));
                }
            }
            Err(damage) => return Ok(Err(damage)),
        }
    }
    Ok(Err(rejected(id, reason, cause)))
}

/// What has a number in the journal; the inner error is about the row.
fn event_at(
    transaction: &WriteTransaction<'_>,
    id: &PersistenceId,
    seq_nr: SequenceNr,
    own: WriterId,
) -> rusqlite::Result<Result<Option<Occupant>, Error>> {
    const WRITER: Column = Column(1, "writer");
    const DELETED: Column = Column(3, "deleted");

    let mut statement = transaction.prepare(TAKEN)?;
    let number = seq_nr.to_i64();
    let mut rows = statement.query(params![id.as_str(), number, number])?;
    let Some(row) = rows.next()? else {
        return Ok(Ok(None));
    };
    Ok(match DELETED.integer(row) {
        Ok(0) if WRITER.text(row) == Ok(&own.to_string()) => Ok(Some(Occupant::OwnEvent)),
        Ok(0) => Ok(Some(Occupant::OtherEvent)),
        Ok(_) => Ok(Some(Occupant::Marker)),
        Err(damage) => Err(corrupt(id, seq_nr, damage)),
    })
}
