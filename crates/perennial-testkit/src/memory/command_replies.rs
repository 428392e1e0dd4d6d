//! The replies to commands with ids, in memory.

use perennial_persistence::{
    BoxFuture, CommandId, CommandReplyStore, Error, NewReply, PersistenceId, SequenceNr,
    StoredReply, Timestamp,
};

use super::{Handle, Tables};

impl CommandReplyStore for Handle {
    fn load<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<StoredReply>, Error>> {
        Box::pin(async move {
            let tables = self.tables()?;
            let rows = tables.replies.get(persistence_id).into_iter().flatten();
            let mut replies: Vec<StoredReply> = rows.map(|(_, reply)| reply.clone()).collect();
            replies.sort_by_key(|reply| std::cmp::Reverse(reply.seq_nr));
            replies.truncate(limit);
            Ok(replies)
        })
    }

    fn delete_up_to<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        to: SequenceNr,
        limit: usize,
    ) -> BoxFuture<'a, Result<usize, Error>> {
        Box::pin(async move {
            let mut tables = self.tables()?;
            Ok(delete(&mut tables, limit, |id, reply| {
                id == persistence_id && reply.seq_nr <= to
            }))
        })
    }

    fn delete_older<'a>(
        &'a self,
        entity_type: &'a str,
        before: Timestamp,
        limit: usize,
    ) -> BoxFuture<'a, Result<usize, Error>> {
        Box::pin(async move {
            let mut tables = self.tables()?;
            Ok(delete(&mut tables, limit, |id, reply| {
                id.entity_type() == entity_type && reply.timestamp < before
            }))
        })
    }
}

fn delete(
    tables: &mut Tables,
    limit: usize,
    is_gone: impl Fn(&PersistenceId, &StoredReply) -> bool,
) -> usize {
    let rows = tables.replies.iter().flat_map(|(id, replies)| {
        replies
            .iter()
            .map(move |(command_id, reply)| (id, command_id, reply))
    });
    let gone: Vec<(PersistenceId, CommandId)> = rows
        .filter(|(id, _, reply)| is_gone(id, reply))
        .take(limit)
        .map(|(id, command_id, _)| (id.clone(), command_id.clone()))
        .collect();
    for (id, command_id) in &gone {
        if let Some(replies) = tables.replies.get_mut(id) {
            replies.remove(command_id);
        }
    }
    gone.len()
}

/// Whether the reply can be stored.
pub(super) fn check(tables: &Tables, id: &PersistenceId, reply: &NewReply) -> Result<(), Error> {
    if let Some(payload) = reply.payload() {
        tables.check_serializer(id, payload.serializer_id)?;
    }
    let replies = tables.replies.get(id);
    let stored = replies.and_then(|replies| replies.get(reply.command_id()));
    if stored.is_some_and(|stored| stored.seq_nr > reply.replaces_to()) {
        return Err(Error::CommandTaken {
            persistence_id: id.clone(),
            command_id: reply.command_id().clone(),
        });
    }
    Ok(())
}

/// Stores a reply that was checked.
pub(super) fn insert(
    tables: &mut Tables,
    id: &PersistenceId,
    seq_nr: SequenceNr,
    timestamp: Timestamp,
    reply: &NewReply,
) {
    let replies = tables.replies.entry(id.clone()).or_default();
    let stored = StoredReply {
        command_id: reply.command_id().clone(),
        fingerprint: *reply.fingerprint(),
        seq_nr,
        timestamp,
        payload: reply.payload().cloned(),
    };
    replies.insert(reply.command_id().clone(), stored);
}
