//! The durable state store in memory.

use std::collections::BTreeSet;

use perennial_persistence::{
    BoxFuture, Companion, DurableStateDelete, DurableStateStore, Error, FoldedBatch, FoldedOutcome,
    FoldedWrite, NO_PAYLOAD_ID, Occupant, PersistenceId, StateWrite, StoredState, Timestamp,
    Written,
};

#[cfg(feature = "defects")]
use super::StateDefect;
use super::{Handle, MICROSECOND, Row, Tables, command_replies};

impl DurableStateStore for Handle {
    fn deletion_leaves(&self) -> DurableStateDelete {
        self.durable_state_delete
    }

    fn load<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
    ) -> BoxFuture<'a, Result<Option<StoredState>, Error>> {
        Box::pin(async move {
            let tables = self.tables()?;
            let row = tables.states.get(persistence_id);
            row.map(|row| checked(persistence_id, row)).transpose()
        })
    }

    fn write_states<'a>(
        &'a self,
        batch: &'a [StateWrite],
    ) -> BoxFuture<'a, Vec<Result<Written, Error>>> {
        Box::pin(async move {
            let delete = self.durable_state_delete;
            let folded = FoldedBatch::new(batch, |write| write.refused_company(delete));
            let mut tables = match self.tables() {
                Ok(tables) => tables,
                Err(error) => return vec![Err(error); batch.len()],
            };
            let now = self.now();
            let outcomes =
                (0..folded.len()).map(|id| store(&mut tables, now, folded.get(id), delete));
            folded.answers(outcomes)
        })
    }

    fn remove<'a>(&'a self, persistence_id: &'a PersistenceId) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.tables()?.states.remove(persistence_id);
            Ok(())
        })
    }
}

fn store(
    tables: &mut Tables,
    now: Timestamp,
    write: FoldedWrite<'_, '_>,
    delete: DurableStateDelete,
) -> FoldedOutcome {
    let id = write.persistence_id();
    let found = match tables.states.get(id).map(|row| checked(id, row)) {
        None => None,
        Some(Ok(row)) => Some(row),
        Some(Err(damage)) => return Err(damage).into(),
    };
    let stored = match write.count_stored(found.as_ref(), delete) {
        Ok(stored) => stored,
        #[cfg(feature = "defects")]
        Err(_) if tables.state_defect == Some(StateDefect::TakesAnyRevision) => 0,
        Err(stale) => return Err(stale).into(),
    };
    let witness = write.witness(stored);
    #[cfg(feature = "defects")]
    let witness = witness.filter(|_| tables.state_defect != Some(StateDefect::TrustsRows));
    if let Some(witness) = witness
        && let Err(error) = witness.is_own(id, occupant(tables, id, &witness).as_ref())
    {
        return Err(error).into();
    }
    let mut latest = found.map(|row| Written {
        timestamp: row.timestamp,
    });
    let (mut stored, mut at_once) = (stored, write.len());
    while stored < write.len() {
        let part = write.part(stored, at_once);
        match change(tables, now, part, delete) {
            Ok(written) => latest = Some(written),
            // Its last write is refused, perhaps not the first ones.
            Err(_) if part.len() > 1 => {
                at_once = 1;
                continue;
            }
            Err(error) => {
                return match latest {
                    Some(written) => FoldedOutcome::after(stored, written, Err(error)),
                    None => Err(error).into(),
                };
            }
        }
        stored += part.len();
    }
    // All of them have the time of the row that is there in the end.
    Ok(latest.unwrap_or(Written { timestamp: now })).into()
}

/// Makes one change of a row that is known to be the expected one.
fn change(
    tables: &mut Tables,
    now: Timestamp,
    write: FoldedWrite<'_, '_>,
    delete: DurableStateDelete,
) -> Result<Written, Error> {
    let id = write.persistence_id();
    let before = tables.states.get(id);
    let own = later(now, write.position());
    let earliest = before.map(|before| later(before.timestamp, write.time_steps()));
    let timestamp = earliest.map_or(own, |earliest| own.max(earliest));
    let tags = match (write.tags(), before) {
        (Some(tags), _) => tags.to_vec(),
        (None, Some(before)) => before.tags.clone(),
        (None, None) => Vec::new(),
    };
    let payload = write.payload().cloned();
    if let Some(payload) = &payload {
        tables.check_serializer(id, payload.serializer_id)?;
    } else if delete == DurableStateDelete::Row {
        tables.states.remove(id);
        return Ok(Written { timestamp });
    }
    let mut commands = BTreeSet::new();
    for (_, one) in write.companions() {
        if let Some(obstacle) = one.obstacle(id, occupant(tables, id, &one).as_ref()) {
            return Err(obstacle);
        }
        match one {
            Companion::Event { event, .. } => {
                tables.check_serializer(id, event.payload.serializer_id)?;
            }
            Companion::Reply { reply, .. } => {
                command_replies::check(tables, id, reply)?;
                if !commands.insert(reply.command_id()) {
                    return Err(Error::CommandTaken {
                        persistence_id: id.clone(),
                        command_id: reply.command_id().clone(),
                    });
                }
            }
        }
    }
    insert_companions(tables, write, timestamp);
    #[cfg(feature = "defects")]
    if payload.is_none() && tables.state_defect == Some(StateDefect::LosesMarkers) {
        tables.states.remove(id);
        return Ok(Written { timestamp });
    }
    let row = StoredState {
        revision: write.revision(),
        timestamp,
        payload,
        tags,
    };
    tables.states.insert(id.clone(), row);
    Ok(Written { timestamp })
}

/// Stores what goes with a row, which was checked.
fn insert_companions(tables: &mut Tables, write: FoldedWrite<'_, '_>, timestamp: Timestamp) {
    let id = write.persistence_id();
    for (index, one) in write.companions() {
        #[cfg(feature = "defects")]
        if index + 1 < write.len() && tables.state_defect == Some(StateDefect::LosesCompanions) {
            continue;
        }
        match one {
            Companion::Event {
                writer,
                seq_nr,
                event,
            } => {
                let row = Row {
                    timestamp: earlier(timestamp, write.len() - 1 - index),
                    event: Some((writer, event.clone())),
                };
                tables
                    .journal
                    .entry(id.clone())
                    .or_default()
                    .insert(seq_nr, row);
            }
            Companion::Reply { seq_nr, reply } => {
                command_replies::insert(tables, id, seq_nr, timestamp, reply);
            }
        }
    }
}

/// What stands in a companion's place.
fn occupant(tables: &Tables, id: &PersistenceId, one: &Companion<'_>) -> Option<Occupant> {
    match one {
        Companion::Event { writer, seq_nr, .. } => {
            let row = tables.journal.get(id)?.get(seq_nr)?;
            Some(match &row.event {
                Some((stored, _)) if stored == writer => Occupant::OwnEvent,
                Some(_) => Occupant::OtherEvent,
                None => Occupant::Marker,
            })
        }
        Companion::Reply { reply, .. } => {
            let replies = tables.replies.get(id)?;
            replies
                .get(reply.command_id())
                .cloned()
                .map(Occupant::Reply)
        }
    }
}

fn later(timestamp: Timestamp, steps: usize) -> Timestamp {
    let by = MICROSECOND * u32::try_from(steps).unwrap_or(u32::MAX);
    timestamp.checked_add(by).unwrap_or(Timestamp::MAX)
}

fn earlier(timestamp: Timestamp, steps: usize) -> Timestamp {
    let by = MICROSECOND * u32::try_from(steps).unwrap_or(u32::MAX);
    timestamp.checked_sub(by).unwrap_or(Timestamp::MIN)
}

/// The row, unless it is one that no writer of states leaves.
fn checked(persistence_id: &PersistenceId, row: &StoredState) -> Result<StoredState, Error> {
    let payload = row.payload.as_ref();
    if payload.is_some_and(|payload| payload.serializer_id == NO_PAYLOAD_ID) {
        return Err(Error::Corrupt {
            persistence_id: persistence_id.clone(),
            seq_nr: row.revision,
            reason: "it has serializer id 0, which means no payload, and bytes".to_owned(),
            source: None,
        });
    }
    Ok(row.clone())
}
