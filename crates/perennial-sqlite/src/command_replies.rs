//! The replies to commands with ids, on SQLite.

use std::sync::Arc;

use perennial_persistence::{
    BoxFuture, CommandId, CommandReplyStore, Error, Fingerprint, NO_PAYLOAD_ID, NewReply,
    PersistenceId, SequenceNr, StoredReply, Timestamp,
};
use rusqlite::{Connection, Row, params};

use crate::error::{Kind, classify, rejected, unavailable};
use crate::executor::{Executor, WriteTransaction};
use crate::row::{Column, Damage, PayloadColumns, PayloadReader, corrupt};

const INSERT: &str = include_str!("sql/command_reply/insert.sql");
const DELETE_EXPIRED: &str = include_str!("sql/command_reply/delete_expired.sql");
const LOAD: &str = include_str!("sql/command_reply/load.sql");
const FIND: &str = include_str!("sql/command_reply/find.sql");
const DELETE_UP_TO: &str = include_str!("sql/command_reply/delete_up_to.sql");
const DELETE_OLDER: &str = include_str!("sql/command_reply/delete_older.sql");

#[derive(Debug)]
pub(crate) struct SqliteCommandReplies {
    executor: Arc<Executor>,
}

impl SqliteCommandReplies {
    pub(crate) fn new(executor: Arc<Executor>) -> Self {
        Self { executor }
    }
}

impl CommandReplyStore for SqliteCommandReplies {
    fn load<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<StoredReply>, Error>> {
        let id = persistence_id.clone();
        Box::pin(self.executor.read("command_reply/load", move |connection| {
            load(connection, &id, limit)
        }))
    }

    fn delete_up_to<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        to: SequenceNr,
        limit: usize,
    ) -> BoxFuture<'a, Result<usize, Error>> {
        let id = persistence_id.clone();
        Box::pin(async move {
            self.executor
                .write("command_reply/delete_up_to", 1, move |transaction| {
                    let deleted = transaction.prepare(DELETE_UP_TO)?.execute(params![
                        id.as_str(),
                        to.to_i64(),
                        count(limit)
                    ]);
                    let deleted = transaction.triage(deleted)?;
                    Ok(deleted.map_err(|error| rejected(&id, classify(&error).1, Some(error))))
                })
                .await?
        })
    }

    fn delete_older<'a>(
        &'a self,
        entity_type: &'a str,
        before: Timestamp,
        limit: usize,
    ) -> BoxFuture<'a, Result<usize, Error>> {
        let entity_type = entity_type.to_owned();
        Box::pin(async move {
            self.executor
                .write("command_reply/delete_older", 1, move |transaction| {
                    let before = before.as_microsecond();
                    let deleted = transaction.prepare(DELETE_OLDER)?.execute(params![
                        entity_type,
                        before,
                        count(limit)
                    ]);
                    Ok(transaction.triage(deleted)?.map_err(unavailable))
                })
                .await?
        })
    }
}

fn count(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Inserts the reply of a command whose events or state are stored under this number; the inner
/// error is about the reply.
pub(crate) fn store(
    transaction: &WriteTransaction<'_>,
    id: &PersistenceId,
    seq_nr: SequenceNr,
    reply: &NewReply,
    timestamp: Timestamp,
) -> rusqlite::Result<Result<(), Error>> {
    let command_id = reply.command_id();
    if reply.replaces_to() > SequenceNr::ZERO {
        // What has left the window is nobody's any more, even if the write fails after this.
        let deleted = transaction.prepare(DELETE_EXPIRED)?.execute(params![
            id.as_str(),
            command_id.as_str(),
            reply.replaces_to().to_i64()
        ]);
        if let Err(error) = transaction.triage(deleted)? {
            return Ok(Err(rejected(id, classify(&error).1, Some(error))));
        }
    }
    let (serializer_id, manifest, bytes) = match reply.payload() {
        Some(payload) => (payload.serializer_id, &*payload.manifest, &*payload.bytes),
        None => (NO_PAYLOAD_ID, "", &b""[..]),
    };
    let inserted = transaction.prepare(INSERT)?.execute(params![
        id.slice().value(),
        id.entity_type(),
        id.as_str(),
        command_id.as_str(),
        reply.fingerprint().as_bytes(),
        seq_nr.to_i64(),
        timestamp.as_microsecond(),
        serializer_id,
        manifest,
        bytes,
    ]);
    Ok(match transaction.triage(inserted)? {
        Ok(1) => Ok(()),
        Ok(_) => Err(rejected(id, "the table left the reply out", None)),
        Err(error) => match classify(&error) {
            (Kind::Taken, _) => Err(Error::CommandTaken {
                persistence_id: id.clone(),
                command_id: command_id.clone(),
            }),
            (_, reason) => Err(rejected(id, reason, Some(error))),
        },
    })
}

/// The reply to a command; the inner error is about its row.
pub(crate) fn find(
    transaction: &WriteTransaction<'_>,
    id: &PersistenceId,
    command_id: &CommandId,
) -> rusqlite::Result<Result<Option<StoredReply>, Error>> {
    let mut statement = transaction.prepare(FIND)?;
    let mut rows = statement.query([id.as_str(), command_id.as_str()])?;
    let Some(row) = rows.next()? else {
        return Ok(Ok(None));
    };
    Ok(numbered_reply(row, id, &mut PayloadReader::default()).map(Some))
}

fn load(
    connection: &Connection,
    id: &PersistenceId,
    limit: usize,
) -> Result<Vec<StoredReply>, Error> {
    let mut statement = connection.prepare_cached(LOAD).map_err(unavailable)?;
    let mut rows = statement
        .query(params![id.as_str(), count(limit)])
        .map_err(unavailable)?;
    let mut payloads = PayloadReader::default();
    let mut replies = Vec::new();
    while let Some(row) = rows.next().map_err(unavailable)? {
        replies.push(numbered_reply(row, id, &mut payloads)?);
    }
    Ok(replies)
}

/// The reply in a row, with its number for what is wrong with it.
fn numbered_reply(
    row: &Row<'_>,
    id: &PersistenceId,
    payloads: &mut PayloadReader,
) -> Result<StoredReply, Error> {
    const SEQ_NR: Column = Column(2, "seq_nr");

    let seq_nr = SEQ_NR
        .seq_nr(row)
        .map_err(|damage| corrupt(id, SequenceNr::ZERO, damage))?;
    stored_reply(row, seq_nr, payloads).map_err(|Damage(reason)| {
        let damage = Damage(format!("the reply of its command: {reason}"));
        corrupt(id, seq_nr, damage)
    })
}

fn stored_reply(
    row: &Row<'_>,
    seq_nr: SequenceNr,
    payloads: &mut PayloadReader,
) -> Result<StoredReply, Damage> {
    const COMMAND_ID: Column = Column(0, "command_id");
    const FINGERPRINT: Column = Column(1, "fingerprint");
    const DB_TIMESTAMP: Column = Column(3, "db_timestamp");
    const REPLY: PayloadColumns = PayloadColumns {
        serializer_id: Column(4, "reply_ser_id"),
        manifest: Column(5, "reply_ser_manifest"),
        bytes: Column(6, "reply_payload"),
    };

    let command_id = CommandId::new(COMMAND_ID.text(row)?)
        .map_err(|error| Damage(format!("command_id: {error}")))?;
    let fingerprint = FINGERPRINT.bytes(row)?;
    let fingerprint = <[u8; Fingerprint::BYTES]>::try_from(&*fingerprint)
        .map_err(|_| Damage(format!("fingerprint has {} bytes", fingerprint.len())))?;
    let payload = payloads.read(row, REPLY)?;
    Ok(StoredReply {
        command_id,
        fingerprint: Fingerprint::new(fingerprint),
        seq_nr,
        timestamp: DB_TIMESTAMP.micros(row)?,
        payload: (payload.serializer_id != NO_PAYLOAD_ID).then_some(payload),
    })
}
