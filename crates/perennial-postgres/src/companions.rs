//! What is stored with durable states in other tables: change events and the replies to commands
//! with ids.

use bytes::{BufMut, BytesMut};
use perennial_persistence::{Companion, Error, NewEvent, Occupant, PersistenceId, SequenceNr};
use perennial_persistence::{FoldedWrite, WriterId};
use tokio_postgres::Row;
use tokio_postgres::types::{IsNull, ToSql, Type};

use crate::command_replies::{self, Reply, stored_reply};
use crate::error::Failure;
use crate::executor::{Executor, Params, Sql, ordinality, sql};
use crate::row::{Column, WriterText, column, put_tags, put_text};

const READ: Sql = sql!("durable_state_store/read_companions.sql");

/// A change event on its way into a statement of many.
struct NewChangeEvent<'a> {
    id: &'a PersistenceId,
    writer: WriterId,
    seq_nr: SequenceNr,
    /// By how many microseconds it is earlier than its row.
    steps_before: i32,
    event: &'a NewEvent,
}

/// Runs `sql`, whose first parameters are `states`, with all that goes with the writes.
pub(crate) async fn write_with<'a>(
    executor: &Executor,
    sql: &Sql,
    states: Params<'_>,
    writes: impl Iterator<Item = &'a FoldedWrite<'a, 'a>>,
) -> Result<Vec<Row>, Failure> {
    type Event<'a> = NewChangeEvent<'a>;

    let mut events: Vec<Event<'a>> = Vec::new();
    let mut replies: Vec<Reply<'a>> = Vec::new();
    for write in writes {
        let id = write.persistence_id();
        for (index, one) in write.companions() {
            match one {
                Companion::Event {
                    writer,
                    seq_nr,
                    event,
                } => events.push(NewChangeEvent {
                    id,
                    writer,
                    seq_nr,
                    steps_before: i32::try_from(write.len() - 1 - index).unwrap_or(i32::MAX),
                    event,
                }),
                Companion::Reply { seq_nr, reply } => replies.push(Reply {
                    id,
                    seq_nr,
                    new: reply,
                }),
            }
        }
    }

    let slice = Column::new(&events, Type::INT4, |row: &Event<'_>, out| {
        out.put_i32(row.id.slice().into());
        IsNull::No
    });
    let entity_type = Column::new(&events, Type::TEXT, |row: &Event<'_>, out| {
        put_text(row.id.entity_type(), out)
    });
    let id = Column::new(&events, Type::TEXT, |row: &Event<'_>, out| {
        put_text(row.id.as_str(), out)
    });
    let seq_nr = Column::new(&events, Type::INT8, |row: &Event<'_>, out| {
        out.put_i64(row.seq_nr.to_i64());
        IsNull::No
    });
    let steps_before = Column::new(&events, Type::INT4, |row: &Event<'_>, out| {
        out.put_i32(row.steps_before);
        IsNull::No
    });
    let serializer_id = Column::new(&events, Type::INT4, |row: &Event<'_>, out| {
        out.put_i32(row.event.payload.serializer_id);
        IsNull::No
    });
    let manifest = Column::new(&events, Type::TEXT, |row: &Event<'_>, out| {
        put_text(&row.event.payload.manifest, out)
    });
    let payload = Column::new(&events, Type::BYTEA, |row: &Event<'_>, out| {
        out.put_slice(&row.event.payload.bytes);
        IsNull::No
    });
    let writer = Column::new(&events, Type::TEXT, |row: &Event<'_>, out| {
        put_text(WriterText::of_writer(row.writer).as_str(), out)
    });
    let tags = Column::new(&events, Type::TEXT, |row: &Event<'_>, out| {
        put_tags(&row.event.tags, out)
    });
    let meta_id = Column::new(
        &events,
        Type::INT4,
        |row: &Event<'_>, out: &mut BytesMut| {
            let Some(metadata) = &row.event.metadata else {
                return IsNull::Yes;
            };
            out.put_i32(metadata.serializer_id);
            IsNull::No
        },
    );
    let meta_manifest = Column::new(&events, Type::TEXT, |row: &Event<'_>, out| {
        match &row.event.metadata {
            Some(metadata) => put_text(&metadata.manifest, out),
            None => IsNull::Yes,
        }
    });
    let meta_payload = Column::new(
        &events,
        Type::BYTEA,
        |row: &Event<'_>, out: &mut BytesMut| {
            let Some(metadata) = &row.event.metadata else {
                return IsNull::Yes;
            };
            out.put_slice(&metadata.bytes);
            IsNull::No
        },
    );
    let of_events: [&(dyn ToSql + Sync); 13] = [
        &slice,
        &entity_type,
        &id,
        &seq_nr,
        &steps_before,
        &serializer_id,
        &manifest,
        &payload,
        &writer,
        &tags,
        &meta_id,
        &meta_manifest,
        &meta_payload,
    ];
    let others: Vec<&(dyn ToSql + Sync)> = states.iter().copied().chain(of_events).collect();
    command_replies::insert_with(executor, sql, &others, &replies).await
}

/// What stands in the places of companions, in their order; an inner error is about the row there.
pub(crate) async fn occupants(
    executor: &Executor,
    ones: &[(&PersistenceId, Companion<'_>)],
) -> Result<Vec<Result<Option<Occupant>, Error>>, Failure> {
    type One<'a> = (&'a PersistenceId, Companion<'a>);

    let id = Column::new(ones, Type::TEXT, |(id, _): &One<'_>, out| {
        put_text(id.as_str(), out)
    });
    let seq_nr = Column::new(
        ones,
        Type::INT8,
        |(_, one): &One<'_>, out: &mut BytesMut| {
            let Companion::Event { seq_nr, .. } = one else {
                return IsNull::Yes;
            };
            out.put_i64(seq_nr.to_i64());
            IsNull::No
        },
    );
    let command_id = Column::new(ones, Type::TEXT, |(_, one): &One<'_>, out| match one {
        Companion::Event { .. } => IsNull::Yes,
        Companion::Reply { reply, .. } => put_text(reply.command_id().as_str(), out),
    });
    let rows = executor.call(&READ, &[&id, &seq_nr, &command_id]).await?;
    let mut found: Vec<Result<Option<Occupant>, Error>> = vec![Ok(None); ones.len()];
    for row in &rows {
        let Some(at) = ordinality(row.get(0)).filter(|&at| at < ones.len()) else {
            continue;
        };
        let (id, one) = &ones[at];
        found[at] = occupant(id, one, row);
    }
    Ok(found)
}

fn occupant(id: &PersistenceId, one: &Companion<'_>, row: &Row) -> Result<Option<Occupant>, Error> {
    match one {
        Companion::Event { writer, seq_nr, .. } => {
            let Some(is_deleted) = column::<Option<bool>>(row, 2, id, *seq_nr)? else {
                return Ok(None);
            };
            let stored: &str = column(row, 1, id, *seq_nr)?;
            Ok(Some(if is_deleted {
                Occupant::Marker
            } else if stored == WriterText::of_writer(*writer).as_str() {
                Occupant::OwnEvent
            } else {
                Occupant::OtherEvent
            }))
        }
        Companion::Reply { seq_nr, .. } => {
            let is_there = column::<Option<&str>>(row, 3, id, *seq_nr)?.is_some();
            let reply = is_there.then(|| stored_reply(id, row, 3)).transpose()?;
            Ok(reply.map(Occupant::Reply))
        }
    }
}
