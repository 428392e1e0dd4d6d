//! The replies to commands with ids, on the table `perennial_command_reply`.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use perennial_persistence::{
    AtomicWrite, BoxFuture, CommandId, CommandReplyStore, Error, Fingerprint, NO_PAYLOAD_ID,
    NewReply, PersistenceId, SequenceNr, SerializedPayload, StoredReply, Timestamp,
};
use tokio_postgres::Row;
use tokio_postgres::types::{IsNull, ToSql, Type};

use crate::error::Failure;
use crate::executor::{Executor, Params, Sql, ordinality, sql};
use crate::row::{Column, Micros, column, corrupt, put_text};

const LOAD: Sql = sql!("command_replies/load.sql");
const DELETE_UP_TO: Sql = sql!("command_replies/delete_up_to.sql");
const DELETE_OLDER: Sql = sql!("command_replies/delete_older.sql");
const READ_TAKEN: Sql = sql!("command_replies/read_taken.sql");

#[derive(Debug)]
pub(crate) struct PostgresCommandReplies {
    executor: Arc<Executor>,
}

impl PostgresCommandReplies {
    pub(crate) fn new(executor: Arc<Executor>) -> Self {
        Self { executor }
    }

    async fn load(&self, id: &PersistenceId, limit: usize) -> Result<Vec<StoredReply>, Error> {
        let mut replies = Vec::new();
        let mut damage = None;
        self.executor
            .read(
                &LOAD,
                &[&id.as_str(), &count(limit)],
                |row| match stored_reply(id, &row, 0) {
                    Ok(reply) => {
                        replies.push(reply);
                        ControlFlow::Continue(())
                    }
                    Err(error) => {
                        damage = Some(error);
                        ControlFlow::Break(())
                    }
                },
            )
            .await
            .map_err(|failure| failure.into_error(id))?;
        damage.map_or(Ok(replies), Err)
    }

    async fn delete(&self, sql: &Sql, params: Params<'_>) -> Result<usize, Failure> {
        let rows = self.executor.call(sql, params).await?;
        let deleted: i64 = rows.first().map_or(0, |row| row.get(0));
        Ok(usize::try_from(deleted).unwrap_or(0))
    }
}

impl CommandReplyStore for PostgresCommandReplies {
    fn load<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<StoredReply>, Error>> {
        Box::pin(self.load(persistence_id, limit))
    }

    fn delete_up_to<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        to: SequenceNr,
        limit: usize,
    ) -> BoxFuture<'a, Result<usize, Error>> {
        Box::pin(async move {
            let id = persistence_id.as_str();
            self.delete(&DELETE_UP_TO, &[&id, &to.to_i64(), &count(limit)])
                .await
                .map_err(|failure| failure.into_error(persistence_id))
        })
    }

    fn delete_older<'a>(
        &'a self,
        entity_type: &'a str,
        before: Timestamp,
        limit: usize,
    ) -> BoxFuture<'a, Result<usize, Error>> {
        Box::pin(async move {
            let before = Micros::of(before);
            self.delete(&DELETE_OLDER, &[&entity_type, &before, &count(limit)])
                .await
                .map_err(|failure| match failure {
                    Failure::Unavailable {
                        reason,
                        outcome_unknown,
                        source,
                    } => Error::Unavailable {
                        reason,
                        outcome_unknown,
                        source,
                    },
                    Failure::Duplicate(refusal)
                    | Failure::Refused(refusal)
                    | Failure::Broken(refusal) => {
                        Error::unavailable(refusal.reason, refusal.source)
                    }
                })
        })
    }
}

fn count(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// The reply in a row of the columns of `load.sql`, the first one at index `at`.
pub(crate) fn stored_reply(id: &PersistenceId, row: &Row, at: usize) -> Result<StoredReply, Error> {
    let number: i64 = column(row, at + 2, id, SequenceNr::ZERO)?;
    let seq_nr = SequenceNr::try_from(number)
        .map_err(|negative| corrupt(id, SequenceNr::ZERO, negative.to_string()))?;
    let damaged =
        |reason: String| corrupt(id, seq_nr, format!("the reply of its command: {reason}"));
    let command_id =
        CommandId::new(column(row, at, id, seq_nr)?).map_err(|error| damaged(error.to_string()))?;
    let fingerprint: &[u8] = column(row, at + 1, id, seq_nr)?;
    let fingerprint = <[u8; Fingerprint::BYTES]>::try_from(fingerprint)
        .map_err(|_| damaged(format!("its fingerprint has {} bytes", fingerprint.len())))?;
    let timestamp = column::<Micros>(row, at + 3, id, seq_nr)?
        .timestamp()
        .ok_or_else(|| damaged("its db_timestamp is infinite or above the year 9999".to_owned()))?;
    let serializer_id: i32 = column(row, at + 4, id, seq_nr)?;
    let manifest: &str = column(row, at + 5, id, seq_nr)?;
    let bytes: &[u8] = column(row, at + 6, id, seq_nr)?;
    let payload = (serializer_id != NO_PAYLOAD_ID)
        .then(|| SerializedPayload::new(serializer_id, manifest, bytes.to_vec()));
    Ok(StoredReply {
        command_id,
        fingerprint: Fingerprint::new(fingerprint),
        seq_nr,
        timestamp,
        payload,
    })
}

/// A reply on its way into a statement of many.
#[derive(Clone, Copy)]
pub(crate) struct Reply<'a> {
    pub(crate) id: &'a PersistenceId,
    /// The number under which its events or state are stored.
    pub(crate) seq_nr: SequenceNr,
    pub(crate) new: &'a NewReply,
}

impl<'a> Reply<'a> {
    /// That of a write, if it has one.
    pub(crate) fn of(write: &'a AtomicWrite) -> Option<Self> {
        write.reply().map(|new| Self {
            id: write.persistence_id(),
            seq_nr: write.last(),
            new,
        })
    }
}

/// The replies of writes, those that have one.
pub(crate) fn replies_of<'a>(writes: impl Iterator<Item = &'a AtomicWrite>) -> Vec<Reply<'a>> {
    writes.filter_map(Reply::of).collect()
}

/// How many bytes of a statement a reply takes.
pub(crate) fn size_of_reply(write: &AtomicWrite) -> usize {
    let payload = write.reply().and_then(NewReply::payload);
    payload.map_or(0, |payload| payload.bytes.len())
}

/// Inserts with `sql`, whose first parameters are `others`.
pub(crate) async fn insert_with(
    executor: &Executor,
    sql: &Sql,
    others: Params<'_>,
    replies: &[Reply<'_>],
) -> Result<Vec<Row>, Failure> {
    let slice = Column::new(replies, Type::INT4, |reply: &Reply<'_>, out| {
        out.put_i32(reply.id.slice().into());
        IsNull::No
    });
    let entity_type = Column::new(replies, Type::TEXT, |reply: &Reply<'_>, out| {
        put_text(reply.id.entity_type(), out)
    });
    let id = Column::new(replies, Type::TEXT, put_id);
    let command_id = Column::new(replies, Type::TEXT, put_command_id);
    let fingerprint = Column::new(replies, Type::BYTEA, |reply: &Reply<'_>, out| {
        out.put_slice(reply.new.fingerprint().as_bytes());
        IsNull::No
    });
    let seq_nr = Column::new(replies, Type::INT8, |reply: &Reply<'_>, out| {
        out.put_i64(reply.seq_nr.to_i64());
        IsNull::No
    });
    let replaces_to = Column::new(replies, Type::INT8, put_replaces_to);
    let serializer_id = Column::new(replies, Type::INT4, |reply: &Reply<'_>, out| {
        out.put_i32(
            reply
                .new
                .payload()
                .map_or(NO_PAYLOAD_ID, |payload| payload.serializer_id),
        );
        IsNull::No
    });
    let manifest = Column::new(replies, Type::TEXT, |reply: &Reply<'_>, out| {
        let manifest = reply.new.payload().map_or("", |payload| &payload.manifest);
        put_text(manifest, out)
    });
    let payload = Column::new(replies, Type::BYTEA, |reply: &Reply<'_>, out| {
        out.put_slice(reply.new.payload().map_or(&[], |payload| &payload.bytes));
        IsNull::No
    });
    let of_replies: [&(dyn ToSql + Sync); 10] = [
        &slice,
        &entity_type,
        &id,
        &command_id,
        &fingerprint,
        &seq_nr,
        &replaces_to,
        &serializer_id,
        &manifest,
        &payload,
    ];
    let params: Vec<&(dyn ToSql + Sync)> = others.iter().copied().chain(of_replies).collect();
    executor.call(sql, &params).await
}

/// Which of the replies stand for commands that another writer has stored.
pub(crate) async fn taken(
    executor: &Executor,
    replies: &[Reply<'_>],
) -> Result<Vec<usize>, Failure> {
    if replies.is_empty() {
        return Ok(Vec::new());
    }
    let rows = executor
        .call(
            &READ_TAKEN,
            &[
                &Column::new(replies, Type::TEXT, put_id),
                &Column::new(replies, Type::TEXT, put_command_id),
                &Column::new(replies, Type::INT8, put_replaces_to),
            ],
        )
        .await?;
    Ok(rows
        .iter()
        .filter_map(|row| ordinality(row.get(0)))
        .collect())
}

fn put_id(reply: &Reply<'_>, out: &mut BytesMut) -> IsNull {
    put_text(reply.id.as_str(), out)
}

fn put_command_id(reply: &Reply<'_>, out: &mut BytesMut) -> IsNull {
    put_text(reply.new.command_id().as_str(), out)
}

fn put_replaces_to(reply: &Reply<'_>, out: &mut BytesMut) -> IsNull {
    out.put_i64(reply.new.replaces_to().to_i64());
    IsNull::No
}
