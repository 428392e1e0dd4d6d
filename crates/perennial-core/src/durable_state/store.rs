//! A state store as the engine uses it: a journal with one event per entity.

use std::sync::Arc;

use perennial_persistence::{
    AtomicWrite, BoxFuture, CommandReplyStore, DurableStateStore, Error, Journal, NewEvent,
    PageLimit, PersistenceId, ReminderStore, ReplayPage, SequenceNr, SerializedPayload, Snapshot,
    SnapshotCriteria, SnapshotStore, StateChange, StateWrite, Store, StoredEvent, Written,
};

/// The serializer id of a deletion on its way to the state store, where it becomes what the store
/// makes of one. It is never stored.
pub(super) const DELETED: i32 = i32::MIN;

/// The payload of a deletion on its way to the state store.
pub fn deletion() -> SerializedPayload {
    SerializedPayload::new(DELETED, "", &b""[..])
}

/// Shows the durable states of a store as events: an event's number is the state's revision, and
/// only the last one is there.
#[derive(Debug)]
pub(crate) struct StateAsEvents {
    store: Arc<dyn Store>,
    states: Arc<States>,
}

#[derive(Debug)]
struct States(Arc<dyn DurableStateStore>);

impl StateAsEvents {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        let states = Arc::new(States(store.durable_state_store()));
        Self { store, states }
    }
}

impl Store for StateAsEvents {
    fn name(&self) -> &'static str {
        self.store.name()
    }

    fn journal(&self) -> Arc<dyn Journal> {
        Arc::clone(&self.states) as _
    }

    fn snapshot_store(&self) -> Arc<dyn SnapshotStore> {
        Arc::clone(&self.states) as _
    }

    fn durable_state_store(&self) -> Arc<dyn DurableStateStore> {
        Arc::clone(&self.states.0)
    }

    fn command_replies(&self) -> Arc<dyn CommandReplyStore> {
        self.store.command_replies()
    }

    fn reminders(&self) -> Arc<dyn ReminderStore> {
        self.store.reminders()
    }

    fn warnings(&self) -> Vec<String> {
        self.store.warnings()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.store.close()
    }
}

impl Journal for States {
    fn write_events<'a>(
        &'a self,
        batch: &'a [AtomicWrite],
    ) -> BoxFuture<'a, Vec<Result<Written, Error>>> {
        Box::pin(async move {
            let writes: Vec<StateWrite> = batch.iter().map(state_write).collect();
            self.0.write_states(&writes).await
        })
    }

    fn replay_events<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        from: SequenceNr,
        to: SequenceNr,
        _: PageLimit,
    ) -> BoxFuture<'a, Result<ReplayPage, Error>> {
        Box::pin(async move {
            let stored = self.0.load(persistence_id).await?;
            let stored = stored.filter(|row| (from..=to).contains(&row.revision));
            let mut page = ReplayPage {
                events: Vec::new(),
                highest: SequenceNr::ZERO,
                highest_timestamp: None,
                more: false,
            };
            if let Some(row) = stored {
                page.highest = row.revision;
                page.highest_timestamp = Some(row.timestamp);
                page.events.extend(row.payload.map(|payload| StoredEvent {
                    seq_nr: row.revision,
                    timestamp: row.timestamp,
                    payload,
                    metadata: None,
                }));
            }
            Ok(page)
        })
    }

    fn highest_sequence_nr<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        from: SequenceNr,
    ) -> BoxFuture<'a, Result<SequenceNr, Error>> {
        Box::pin(async move {
            let stored = self.0.load(persistence_id).await?;
            let revision = stored.map_or(SequenceNr::ZERO, |row| row.revision);
            Ok(if revision >= from {
                revision
            } else {
                SequenceNr::ZERO
            })
        })
    }

    fn delete_events<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        _: SequenceNr,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            Err(Error::Rejected {
                persistence_id: persistence_id.clone(),
                reason: "only its state is kept, there are no events to delete; use `Cx::delete`"
                    .to_owned(),
                source: None,
            })
        })
    }

    fn remove_events<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        _: SequenceNr,
        _: usize,
    ) -> BoxFuture<'a, Result<usize, Error>> {
        Box::pin(async move {
            self.delete_events(persistence_id, SequenceNr::MAX).await?;
            Ok(0)
        })
    }
}

/// The state that the last event of a write makes, at that event's number. What stands in the place
/// of metadata are change events; they go with it, and so does the reply.
fn state_write(write: &AtomicWrite) -> StateWrite {
    let before = SequenceNr::new(write.first().value() - 1).unwrap_or_default();
    let last = write.events().last().expect("a write has an event");
    let change = if last.payload.serializer_id == DELETED {
        StateChange::Delete
    } else {
        StateChange::Put {
            payload: last.payload.clone(),
            tags: last.tags.clone(),
        }
    };
    let id = write.persistence_id().clone();
    let mut state = StateWrite::new(id, before, write.last(), change)
        .expect("an atomic write obeys the same rules");
    let told: Vec<NewEvent> = write.events().iter().filter_map(change_event).collect();
    if !told.is_empty() {
        state
            .set_change_events(write.writer(), told)
            .expect("an atomic write obeys the same rules");
    }
    if let Some(reply) = write.reply() {
        state.set_reply(reply.clone());
    }
    state.maybe_stored = write.maybe_stored;
    state
}

fn change_event(change: &NewEvent) -> Option<NewEvent> {
    let payload = change.metadata.clone()?;
    let tags = change.tags.clone();
    Some(NewEvent {
        tags,
        ..NewEvent::new(payload)
    })
}

/// A state needs no snapshot.
impl SnapshotStore for States {
    fn load<'a>(
        &'a self,
        _: &'a PersistenceId,
        _: SnapshotCriteria,
    ) -> BoxFuture<'a, Result<Option<Snapshot>, Error>> {
        Box::pin(async { Ok(None) })
    }

    fn save<'a>(&'a self, snapshot: &'a Snapshot) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            Err(Error::Rejected {
                persistence_id: snapshot.persistence_id.clone(),
                reason: "only its state is kept, there are no snapshots".to_owned(),
                source: None,
            })
        })
    }

    fn delete<'a>(
        &'a self,
        _: &'a PersistenceId,
        _: SnapshotCriteria,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }
}
