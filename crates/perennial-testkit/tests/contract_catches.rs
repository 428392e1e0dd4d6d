//! The contract suites find what they are for: stores that are broken in one point each.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use perennial_persistence::{
    AtomicWrite, BoxFuture, CommandReplyStore, DurableStateDelete, DurableStateStore, Error,
    Journal, NewEvent, NewReply, PageLimit, PersistenceId, Previous, ReminderStore, ReplayPage,
    SequenceNr, Snapshot, SnapshotCriteria, SnapshotStore, StateChange, StateWrite, Store,
    StoredReply, StoredState, Timestamp, Written,
};
use perennial_testkit::contract::{
    self, StoreFixture, command_reply_store, durable_state_store, journal, snapshot_store,
    state_companions,
};
use perennial_testkit::{ManualClock, MemoryStore};

#[derive(Debug, Clone, Copy)]
enum Breakage {
    None,
    AnswersInIdOrder,
    BadRowFailsTheBatch,
    ClosedIsUnknown,
    ConflictIsAnsweredAsWritten,
    DeletesOneTooFew,
    DropsMetadata,
    DropsTags,
    ForgetsPreviousInBatch,
    ForgetsPreviousTimestamp,
    HighestIgnoresFrom,
    IdenticalWriteIsConflict,
    LaterWritesSurvive,
    MaxIsANumberLikeAnother,
    NeverMore,
    PageIgnoresBytes,
    PageOfOneRowMore,
    RemovesMoreThanItsLimit,
    RemovingLeavesAMarker,
    RepliesAreDropped,
    RepliesComeInOrderOfTheirNumbers,
    RepliesGoWhateverTheirType,
    RepliesGoWithoutLimit,
    RepliesNeverExpire,
    RepliesStayOneTooLong,
    ReplayExcludesTo,
    StoresHalfOfAWrite,
    SupersededIsAnsweredAsWritten,
    SupersededIsConflict,
    SnapshotCriteriaIgnored,
    SnapshotDeletesUnasked,
    SnapshotOlderReplacesNewer,
    SnapshotSameNumberStays,
    StateAnswersInIdOrder,
    StateBadRowFailsTheBatch,
    StateCompanionsAreDropped,
    StateCompanionsGoAlone,
    StateDamageIsNull,
    StateDeleteForgetsTheRevision,
    StateDropsTags,
    StateFirstReplacesAny,
    StateFoldedCompanionsAreLost,
    StateIdenticalIsAlwaysOwn,
    StateIdenticalIsStale,
    StateLaterWritesSurvive,
    StateRemovalDoesNothing,
    StateRowIsProofEnough,
    StateStaleIsAnsweredAsWritten,
    StateStaleReplaces,
    StateTimesStandStill,
    TakenCommandIsHandledAgain,
    TakenCommandIsConflict,
}

struct Fixture {
    memory: MemoryStore,
    breakage: Breakage,
}

impl Fixture {
    fn wrap(&self, inner: MemoryStore) -> Arc<dyn Store> {
        let breakage = self.breakage;
        Arc::new(Broken { inner, breakage })
    }
}

impl StoreFixture for Fixture {
    fn store(&self) -> Arc<dyn Store> {
        self.wrap(self.memory.clone())
    }

    fn open_again(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        Box::pin(async { self.wrap(self.memory.open_again()) })
    }

    fn refuse_serializer(&self, serializer_id: i32) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.memory.refuse_serializer(serializer_id) })
    }

    fn tags<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        seq_nr: SequenceNr,
    ) -> BoxFuture<'a, Option<Vec<String>>> {
        Box::pin(async move {
            let rows = self.memory.rows(persistence_id);
            let row = rows.into_iter().find(|row| row.seq_nr == seq_nr);
            let (_, event) = row.and_then(|row| row.event).expect("a stored event");
            (!event.tags.is_empty()).then_some(event.tags)
        })
    }

    fn damage_state<'a>(&'a self, persistence_id: &'a PersistenceId) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.memory.damage_state(persistence_id) })
    }
}

#[derive(Debug, Clone)]
struct Broken {
    inner: MemoryStore,
    breakage: Breakage,
}

impl Store for Broken {
    fn name(&self) -> &'static str {
        "broken"
    }

    fn journal(&self) -> Arc<dyn Journal> {
        Arc::new(self.clone())
    }

    fn snapshot_store(&self) -> Arc<dyn SnapshotStore> {
        Arc::new(self.clone())
    }

    fn durable_state_store(&self) -> Arc<dyn DurableStateStore> {
        Arc::new(self.clone())
    }

    fn command_replies(&self) -> Arc<dyn CommandReplyStore> {
        Arc::new(self.clone())
    }

    fn reminders(&self) -> Arc<dyn ReminderStore> {
        self.inner.reminders()
    }

    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.inner.close().await })
    }
}

impl Broken {
    async fn write(&self, batch: &[AtomicWrite]) -> Vec<Result<Written, Error>> {
        let journal = self.inner.journal();
        match self.breakage {
            Breakage::AnswersInIdOrder => {
                let mut sorted = batch.to_vec();
                sorted.sort_by_key(|write| (write.persistence_id().clone(), write.first()));
                journal.write_events(&sorted).await
            }
            Breakage::BadRowFailsTheBatch => {
                let mut answers = journal.write_events(batch).await;
                let first_error = answers.iter().find_map(|answer| answer.clone().err());
                if let Some(error) = first_error {
                    answers.fill(Err(error));
                }
                answers
            }
            Breakage::ClosedIsUnknown => {
                let mut answers = journal.write_events(batch).await;
                for answer in &mut answers {
                    if let Err(Error::Unavailable {
                        outcome_unknown, ..
                    }) = answer
                    {
                        *outcome_unknown = true;
                    }
                }
                answers
            }
            Breakage::ConflictIsAnsweredAsWritten => {
                let mut answers = journal.write_events(batch).await;
                let timestamp = perennial_persistence::Timestamp::UNIX_EPOCH;
                for answer in &mut answers {
                    if matches!(answer, Err(Error::Conflict { .. })) {
                        *answer = Ok(Written { timestamp });
                    }
                }
                answers
            }
            // What a table answers whose only fence is its key.
            Breakage::SupersededIsAnsweredAsWritten => {
                let mut answers = journal.write_events(batch).await;
                let timestamp = perennial_persistence::Timestamp::UNIX_EPOCH;
                for answer in &mut answers {
                    if matches!(answer, Err(Error::Superseded { .. })) {
                        *answer = Ok(Written { timestamp });
                    }
                }
                answers
            }
            Breakage::SupersededIsConflict => {
                let mut answers = journal.write_events(batch).await;
                for answer in &mut answers {
                    if let Err(Error::Superseded {
                        persistence_id,
                        seq_nr,
                        ..
                    }) = answer
                    {
                        *answer = Err(Error::Conflict {
                            persistence_id: persistence_id.clone(),
                            seq_nr: *seq_nr,
                        });
                    }
                }
                answers
            }
            Breakage::DropsMetadata => {
                let batch = change_events(batch, |event| event.metadata = None);
                journal.write_events(&batch).await
            }
            Breakage::DropsTags => {
                let batch = change_events(batch, |event| event.tags.clear());
                journal.write_events(&batch).await
            }
            Breakage::ForgetsPreviousTimestamp => {
                let mut batch = batch.to_vec();
                for write in &mut batch {
                    write.previous = Previous::None;
                }
                journal.write_events(&batch).await
            }
            Breakage::ForgetsPreviousInBatch => {
                let mut batch = batch.to_vec();
                for write in batch.iter_mut().skip(1) {
                    write.previous = Previous::None;
                }
                journal.write_events(&batch).await
            }
            Breakage::IdenticalWriteIsConflict => {
                let mut answers = Vec::new();
                for write in batch {
                    let id = write.persistence_id();
                    let highest = journal.highest_sequence_nr(id, write.first()).await;
                    if highest.is_ok_and(|highest| highest >= write.first()) {
                        answers.push(Err(Error::Conflict {
                            persistence_id: id.clone(),
                            seq_nr: write.first(),
                        }));
                        continue;
                    }
                    answers.push(
                        journal
                            .write_events(std::slice::from_ref(write))
                            .await
                            .remove(0),
                    );
                }
                answers
            }
            Breakage::LaterWritesSurvive => {
                let mut answers = Vec::new();
                for write in batch {
                    answers.push(
                        journal
                            .write_events(std::slice::from_ref(write))
                            .await
                            .remove(0),
                    );
                }
                answers
            }
            Breakage::RepliesAreDropped => {
                journal.write_events(&change_events(batch, |_| {})).await
            }
            Breakage::RepliesNeverExpire => {
                let mut batch = batch.to_vec();
                for write in &mut batch {
                    if let Some(reply) = write.reply() {
                        let (id, payload) = (reply.command_id().clone(), reply.payload().cloned());
                        let to = SequenceNr::ZERO;
                        let reply = NewReply::new(id, *reply.fingerprint(), payload, to);
                        write.set_reply(reply.expect("still valid"));
                    }
                }
                journal.write_events(&batch).await
            }
            Breakage::TakenCommandIsHandledAgain => {
                let mut answers = journal.write_events(batch).await;
                let without = change_events(batch, |_| {});
                for (answer, write) in answers.iter_mut().zip(&without) {
                    if matches!(answer, Err(Error::CommandTaken { .. })) {
                        let one = std::slice::from_ref(write);
                        *answer = journal.write_events(one).await.remove(0);
                    }
                }
                answers
            }
            Breakage::TakenCommandIsConflict => {
                let mut answers = journal.write_events(batch).await;
                for (answer, write) in answers.iter_mut().zip(batch) {
                    if matches!(answer, Err(Error::CommandTaken { .. })) {
                        *answer = Err(Error::Conflict {
                            persistence_id: write.persistence_id().clone(),
                            seq_nr: write.first(),
                        });
                    }
                }
                answers
            }
            Breakage::StoresHalfOfAWrite => {
                let mut answers = Vec::new();
                for write in batch {
                    let mut answer = None;
                    for (seq_nr, event) in write.numbered() {
                        let half = AtomicWrite::new(
                            write.persistence_id().clone(),
                            write.writer(),
                            seq_nr,
                            vec![event.clone()],
                        )
                        .expect("a part of a valid write");
                        let stored = journal.write_events(&[half]).await.remove(0);
                        if !matches!(answer, Some(Err(_))) {
                            answer = Some(stored);
                        }
                    }
                    answers.push(answer.expect("a write is not empty"));
                }
                answers
            }
            _ => journal.write_events(batch).await,
        }
    }
}

fn change_events(batch: &[AtomicWrite], change: fn(&mut NewEvent)) -> Vec<AtomicWrite> {
    let changed = batch.iter().map(|write| {
        let mut events = write.events().to_vec();
        events.iter_mut().for_each(change);
        let (id, writer) = (write.persistence_id().clone(), write.writer());
        AtomicWrite::new(id, writer, write.first(), events).expect("still valid")
    });
    changed.collect()
}

impl Journal for Broken {
    fn write_events<'a>(
        &'a self,
        batch: &'a [AtomicWrite],
    ) -> BoxFuture<'a, Vec<Result<Written, Error>>> {
        Box::pin(self.write(batch))
    }

    fn replay_events<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        from: SequenceNr,
        mut to: SequenceNr,
        mut limit: PageLimit,
    ) -> BoxFuture<'a, Result<ReplayPage, Error>> {
        Box::pin(async move {
            match self.breakage {
                Breakage::ReplayExcludesTo => {
                    let before = to.value().saturating_sub(1);
                    to = SequenceNr::new(before).expect("below the largest");
                }
                Breakage::PageIgnoresBytes => limit.bytes = usize::MAX,
                Breakage::PageOfOneRowMore => limit.rows += 1,
                _ => {}
            }
            let journal = self.inner.journal();
            let page = journal.replay_events(persistence_id, from, to, limit).await;
            let mut page = page?;
            if let Breakage::NeverMore = self.breakage {
                page.more = false;
            }
            Ok(page)
        })
    }

    fn highest_sequence_nr<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        mut from: SequenceNr,
    ) -> BoxFuture<'a, Result<SequenceNr, Error>> {
        Box::pin(async move {
            if let Breakage::HighestIgnoresFrom = self.breakage {
                from = SequenceNr::ZERO;
            }
            let journal = self.inner.journal();
            journal.highest_sequence_nr(persistence_id, from).await
        })
    }

    fn delete_events<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        to: SequenceNr,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let before = to.value().saturating_sub(1);
            let before = SequenceNr::new(before).expect("below the largest");
            let to = match self.breakage {
                Breakage::DeletesOneTooFew if to < SequenceNr::MAX => before,
                Breakage::MaxIsANumberLikeAnother if to == SequenceNr::MAX => before,
                _ => to,
            };
            self.inner.journal().delete_events(persistence_id, to).await
        })
    }

    fn remove_events<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        to: SequenceNr,
        limit: usize,
    ) -> BoxFuture<'a, Result<usize, Error>> {
        Box::pin(async move {
            let limit = match self.breakage {
                Breakage::RemovesMoreThanItsLimit => usize::MAX,
                _ => limit,
            };
            let journal = self.inner.journal();
            let removed = journal.remove_events(persistence_id, to, limit).await?;
            if let Breakage::RemovingLeavesAMarker = self.breakage {
                journal.delete_events(persistence_id, to).await?;
            }
            Ok(removed)
        })
    }
}

impl SnapshotStore for Broken {
    fn load<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        mut criteria: SnapshotCriteria,
    ) -> BoxFuture<'a, Result<Option<Snapshot>, Error>> {
        Box::pin(async move {
            if let Breakage::SnapshotCriteriaIgnored = self.breakage {
                criteria = SnapshotCriteria::ANY;
            }
            self.inner
                .snapshot_store()
                .load(persistence_id, criteria)
                .await
        })
    }

    fn save<'a>(&'a self, snapshot: &'a Snapshot) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let store = self.inner.snapshot_store();
            let id = &snapshot.persistence_id;
            match self.breakage {
                Breakage::SnapshotOlderReplacesNewer => {
                    store.delete(id, SnapshotCriteria::ANY).await?;
                }
                Breakage::SnapshotSameNumberStays => {
                    let stored = store.load(id, SnapshotCriteria::ANY).await?;
                    if stored.is_some_and(|stored| stored.seq_nr == snapshot.seq_nr) {
                        return Ok(());
                    }
                }
                _ => {}
            }
            store.save(snapshot).await
        })
    }

    fn delete<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        mut criteria: SnapshotCriteria,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            if let Breakage::SnapshotDeletesUnasked = self.breakage {
                criteria = SnapshotCriteria::ANY;
            }
            let store = self.inner.snapshot_store();
            store.delete(persistence_id, criteria).await
        })
    }
}

impl Broken {
    async fn write_states(&self, batch: &[StateWrite]) -> Vec<Result<Written, Error>> {
        let states = self.inner.durable_state_store();
        let timestamp = Timestamp::UNIX_EPOCH;
        match self.breakage {
            Breakage::StateAnswersInIdOrder => {
                let mut sorted = batch.to_vec();
                sorted.sort_by_key(|write| (write.persistence_id().clone(), write.expected()));
                states.write_states(&sorted).await
            }
            Breakage::StateBadRowFailsTheBatch => {
                let mut answers = states.write_states(batch).await;
                let first_error = answers.iter().find_map(|answer| answer.clone().err());
                if let Some(error) = first_error {
                    answers.fill(Err(error));
                }
                answers
            }
            Breakage::StateCompanionsAreDropped => {
                let bare: Vec<StateWrite> = batch.iter().map(bare).collect();
                states.write_states(&bare).await
            }
            // Whatever becomes of the state, as in transactions of their own.
            Breakage::StateCompanionsGoAlone => {
                let journal = self.inner.journal();
                for write in batch {
                    if let Some(event) = event_alone(write) {
                        journal.write_events(&[event]).await;
                    }
                }
                let bare: Vec<StateWrite> = batch.iter().map(bare).collect();
                states.write_states(&bare).await
            }
            Breakage::StateFoldedCompanionsAreLost => {
                let mut rest = batch;
                let mut kept = Vec::new();
                while let Some((write, later)) = rest.split_first() {
                    let id = write.persistence_id();
                    let is_folded = later.iter().any(|later| later.persistence_id() == id);
                    kept.push(if is_folded {
                        bare(write)
                    } else {
                        write.clone()
                    });
                    rest = later;
                }
                states.write_states(&kept).await
            }
            Breakage::StateRowIsProofEnough => {
                let mut answers = states.write_states(batch).await;
                for (answer, write) in answers.iter_mut().zip(batch) {
                    if answer.is_err() && write.maybe_stored {
                        *answer = states.write_states(&[bare(write)]).await.remove(0);
                    }
                }
                answers
            }
            Breakage::StateDropsTags => {
                let untagged: Vec<StateWrite> = batch
                    .iter()
                    .map(|write| match write.change() {
                        StateChange::Put { payload, .. } => {
                            let (payload, tags) = (payload.clone(), Vec::new());
                            changed(write, write.expected(), StateChange::Put { payload, tags })
                        }
                        StateChange::Delete => write.clone(),
                    })
                    .collect();
                states.write_states(&untagged).await
            }
            Breakage::StateIdenticalIsAlwaysOwn | Breakage::StateIdenticalIsStale => {
                let mut batch = batch.to_vec();
                for write in &mut batch {
                    write.maybe_stored =
                        matches!(self.breakage, Breakage::StateIdenticalIsAlwaysOwn);
                }
                states.write_states(&batch).await
            }
            Breakage::StateFirstReplacesAny | Breakage::StateStaleReplaces => {
                let mut answers = Vec::new();
                for write in batch {
                    let id = write.persistence_id();
                    let row = states.load(id).await;
                    let there = row.ok().flatten().map(|row| row.revision);
                    let is_first = write.expected() == SequenceNr::ZERO;
                    let blind = is_first || matches!(self.breakage, Breakage::StateStaleReplaces);
                    let expected = match there {
                        // Another revision than the row's, as of a table with a key of both.
                        Some(there) if blind && write.revision() > there => there,
                        Some(there) if blind && write.revision() < there => {
                            let _ = states.remove(id).await;
                            SequenceNr::ZERO
                        }
                        _ => write.expected(),
                    };
                    let mut write = changed(write, expected, write.change().clone());
                    write.maybe_stored = false;
                    answers.push(states.write_states(&[write]).await.remove(0));
                }
                answers
            }
            Breakage::StateLaterWritesSurvive => {
                let mut answers = Vec::new();
                for write in batch {
                    let lone = std::slice::from_ref(write);
                    answers.push(states.write_states(lone).await.remove(0));
                }
                answers
            }
            Breakage::StateStaleIsAnsweredAsWritten => {
                let mut answers = states.write_states(batch).await;
                for answer in &mut answers {
                    if matches!(answer, Err(Error::StaleRevision { .. })) {
                        *answer = Ok(Written { timestamp });
                    }
                }
                answers
            }
            Breakage::StateTimesStandStill => {
                let mut answers = states.write_states(batch).await;
                for written in answers.iter_mut().flatten() {
                    written.timestamp = timestamp;
                }
                answers
            }
            Breakage::StateDeleteForgetsTheRevision => {
                let mut answers = Vec::new();
                for write in batch {
                    if matches!(write.change(), StateChange::Delete) {
                        let removed = states.remove(write.persistence_id()).await;
                        answers.push(removed.map(|()| Written { timestamp }));
                    } else {
                        let lone = std::slice::from_ref(write);
                        answers.push(states.write_states(lone).await.remove(0));
                    }
                }
                answers
            }
            _ => states.write_states(batch).await,
        }
    }
}

/// The write without events and reply.
fn bare(write: &StateWrite) -> StateWrite {
    changed(write, write.expected(), write.change().clone())
}

/// The first change event of a write, as a write of its own.
fn event_alone(write: &StateWrite) -> Option<AtomicWrite> {
    let told = write.change_events()?;
    let (first, event) = told.numbered().next()?;
    let id = write.persistence_id().clone();
    AtomicWrite::new(id, told.writer(), first, vec![event.clone()]).ok()
}

fn changed(write: &StateWrite, expected: SequenceNr, change: StateChange) -> StateWrite {
    let (id, revision) = (write.persistence_id().clone(), write.revision());
    let mut changed = StateWrite::new(id, expected, revision, change).expect("still valid");
    changed.maybe_stored = write.maybe_stored;
    changed
}

impl DurableStateStore for Broken {
    fn deletion_leaves(&self) -> DurableStateDelete {
        self.inner.durable_state_store().deletion_leaves()
    }

    fn load<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
    ) -> BoxFuture<'a, Result<Option<StoredState>, Error>> {
        Box::pin(async move {
            let loaded = self.inner.durable_state_store().load(persistence_id).await;
            match (self.breakage, loaded) {
                (Breakage::StateDamageIsNull, Err(Error::Corrupt { .. })) => Ok(None),
                (_, loaded) => loaded,
            }
        })
    }

    fn write_states<'a>(
        &'a self,
        batch: &'a [StateWrite],
    ) -> BoxFuture<'a, Vec<Result<Written, Error>>> {
        Box::pin(self.write_states(batch))
    }

    fn remove<'a>(&'a self, persistence_id: &'a PersistenceId) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            if let Breakage::StateRemovalDoesNothing = self.breakage {
                return Ok(());
            }
            let states = self.inner.durable_state_store();
            states.remove(persistence_id).await
        })
    }
}

impl CommandReplyStore for Broken {
    fn load<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<StoredReply>, Error>> {
        Box::pin(async move {
            let replies = self.inner.command_replies();
            if let Breakage::RepliesComeInOrderOfTheirNumbers = self.breakage {
                let mut all = replies.load(persistence_id, usize::MAX).await?;
                all.reverse();
                all.truncate(limit);
                return Ok(all);
            }
            replies.load(persistence_id, limit).await
        })
    }

    fn delete_up_to<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        to: SequenceNr,
        limit: usize,
    ) -> BoxFuture<'a, Result<usize, Error>> {
        Box::pin(async move {
            let to = match self.breakage {
                Breakage::RepliesStayOneTooLong => {
                    SequenceNr::new(to.value().saturating_sub(1)).expect("below the largest")
                }
                _ => to,
            };
            let replies = self.inner.command_replies();
            let limit = self.limit_of_replies(limit);
            replies.delete_up_to(persistence_id, to, limit).await
        })
    }

    fn delete_older<'a>(
        &'a self,
        entity_type: &'a str,
        before: Timestamp,
        limit: usize,
    ) -> BoxFuture<'a, Result<usize, Error>> {
        Box::pin(async move {
            let replies = self.inner.command_replies();
            let limit = self.limit_of_replies(limit);
            let mut deleted = replies.delete_older(entity_type, before, limit).await?;
            if let Breakage::RepliesGoWhateverTheirType = self.breakage {
                deleted += replies.delete_older("Other", before, limit).await?;
            }
            Ok(deleted)
        })
    }
}

impl Broken {
    fn limit_of_replies(&self, limit: usize) -> usize {
        match self.breakage {
            Breakage::RepliesGoWithoutLimit => usize::MAX,
            _ => limit,
        }
    }
}

/// Whether a behaviour passes with a store that is broken in this way.
macro_rules! passes {
    ($breakage:ident, $suite:ident::$behaviour:ident) => {{
        let fixture = Fixture {
            memory: MemoryStore::new(Arc::new(ManualClock::new())),
            breakage: Breakage::$breakage,
        };
        let test = || contract::run($suite::$behaviour(&fixture));
        catch_unwind(AssertUnwindSafe(test)).is_ok()
    }};
}

/// One test per breakage: the named behaviours pass with a sound store and fail with that one.
macro_rules! catches {
    ($($test:ident: $breakage:ident => [$($suite:ident::$behaviour:ident),+ $(,)?];)+) => {
        $(
            #[test]
            fn $test() {
                $(
                    let name = stringify!($behaviour);
                    assert!(passes!(None, $suite::$behaviour), "{name} fails a sound store");
                    assert!(!passes!($breakage, $suite::$behaviour), "{name} sees nothing");
                )+
            }
        )+
    };
}

catches! {
    answers_in_another_order: AnswersInIdOrder => [journal::a_batch_is_answered_in_its_order];
    a_batch_that_fails_as_a_whole: BadRowFailsTheBatch => [
        journal::a_conflict_among_a_thousand_fails_alone,
        journal::a_refused_row_among_a_thousand_fails_alone,
        journal::bad_rows_of_every_kind_among_a_thousand_fail_alone,
    ];
    an_unknown_outcome_after_closing: ClosedIsUnknown => [journal::a_closed_store_is_unavailable];
    a_conflict_that_is_not_noticed: ConflictIsAnsweredAsWritten => [
        journal::a_taken_number_is_a_conflict,
        journal::a_write_that_overlaps_another_writers_is_a_conflict,
        journal::two_stores_racing_for_a_number_have_one_winner,
        journal::two_stores_racing_with_batches_have_one_winner_per_entity,
    ];
    a_deletion_without_its_bound: DeletesOneTooFew => [
        journal::deleted_events_are_gone_and_their_numbers_are_not,
        journal::deleting_leaves_later_events,
        journal::deleting_beyond_the_highest_number_moves_it,
    ];
    a_removal_of_everything_at_once: RemovesMoreThanItsLimit => [
        journal::removing_takes_the_lowest_rows_up_to_its_limit,
    ];
    a_removal_with_a_marker: RemovingLeavesAMarker => [
        journal::removed_events_leave_nothing_behind,
        journal::removing_takes_the_lowest_rows_up_to_its_limit,
    ];
    lost_metadata: DropsMetadata => [
        journal::metadata_comes_back,
        journal::a_lone_write_and_a_batch_store_the_same,
    ];
    lost_tags: DropsTags => [
        journal::tags_are_stored,
        journal::a_lone_write_and_a_batch_store_the_same,
    ];
    equal_timestamps_in_a_batch: ForgetsPreviousInBatch => [
        journal::timestamps_increase_within_a_batch,
        journal::timestamps_stay_above_an_unknown_one_in_the_future,
    ];
    timestamps_that_step_back: ForgetsPreviousTimestamp => [
        journal::timestamps_stay_above_a_known_one_in_the_future,
        journal::timestamps_stay_above_an_unknown_one_in_the_future,
        journal::a_marker_counts_as_the_previous_event,
    ];
    a_highest_number_below_the_bound: HighestIgnoresFrom => [
        journal::the_highest_number_is_searched_from_a_number_on,
    ];
    an_identical_write_that_is_not_recognised: IdenticalWriteIsConflict => [
        journal::an_identical_write_is_answered_as_written,
        journal::an_identical_write_is_recognised_after_later_events,
        journal::an_identical_batch_is_answered_as_written,
        journal::an_identical_write_among_new_ones_is_recognised,
        journal::an_identical_write_through_another_store_is_recognised,
        journal::identical_writes_at_the_same_time_are_one,
        journal::a_write_that_was_given_up_can_be_sent_again,
        journal::everything_is_there_after_opening_again,
    ];
    a_later_write_that_survives: LaterWritesSurvive => [
        journal::later_writes_of_an_entity_fail_with_its_refused_one,
        journal::later_writes_of_an_entity_fail_with_its_conflict,
    ];
    a_marker_at_the_end_of_all_numbers: MaxIsANumberLikeAnother => [
        journal::deleting_everything_keeps_the_highest_number,
        journal::deleting_everything_of_an_unknown_id_leaves_a_marker_at_zero,
    ];
    pages_that_hide_the_rest: NeverMore => [
        journal::a_page_ends_at_its_rows,
        journal::a_page_ends_at_its_bytes,
        journal::a_page_counts_markers,
        journal::pages_give_every_event_once,
    ];
    pages_without_a_bound_in_bytes: PageIgnoresBytes => [journal::a_page_ends_at_its_bytes];
    pages_of_a_row_too_many: PageOfOneRowMore => [
        journal::a_page_ends_at_its_rows,
        journal::a_page_counts_markers,
    ];
    a_replay_without_its_bound: ReplayExcludesTo => [
        journal::a_replay_has_both_its_bounds,
        journal::the_largest_number_is_usable,
    ];
    half_a_write: StoresHalfOfAWrite => [
        journal::a_conflict_stores_nothing_of_its_write,
        journal::a_refused_event_stores_nothing_of_its_write,
        journal::the_events_of_one_write_share_a_timestamp,
    ];
    a_stale_write_that_is_stored_after_a_deletion: SupersededIsAnsweredAsWritten => [
        journal::a_number_below_a_marker_is_taken,
        journal::a_number_below_a_later_marker_is_taken,
        journal::a_stale_writer_is_refused_after_a_deletion,
        journal::a_stale_write_among_a_thousand_fails_alone,
        journal::later_writes_of_an_entity_fail_with_its_superseded_one,
        journal::an_identical_write_is_superseded_once_it_is_deleted,
    ];
    a_deleted_write_that_never_was_stored: SupersededIsConflict => [
        journal::a_number_below_a_marker_is_taken,
        journal::a_number_below_a_later_marker_is_taken,
        journal::a_stale_writer_is_refused_after_a_deletion,
        journal::an_identical_write_is_superseded_once_it_is_deleted,
    ];
    snapshots_loaded_whatever_was_asked: SnapshotCriteriaIgnored => [
        snapshot_store::criteria_of_numbers_include_their_bounds,
        snapshot_store::criteria_of_times_include_their_bounds,
        snapshot_store::criteria_are_all_to_be_met,
    ];
    snapshots_deleted_whatever_was_asked: SnapshotDeletesUnasked => [
        snapshot_store::deleting_needs_the_criteria_met,
    ];
    an_older_snapshot_over_a_newer: SnapshotOlderReplacesNewer => [
        snapshot_store::an_older_snapshot_never_replaces_a_newer,
    ];
    a_snapshot_that_is_not_replaced: SnapshotSameNumberStays => [
        snapshot_store::a_snapshot_with_the_same_number_replaces,
    ];
    states_answered_in_another_order: StateAnswersInIdOrder => [
        durable_state_store::a_batch_of_states_is_answered_in_its_order,
    ];
    states_that_fail_as_a_batch: StateBadRowFailsTheBatch => [
        durable_state_store::a_stale_state_is_refused,
        durable_state_store::a_stale_state_among_a_thousand_fails_alone,
        durable_state_store::a_refused_state_among_a_thousand_fails_alone,
        durable_state_store::bad_states_of_every_kind_among_a_thousand_fail_alone,
    ];
    a_damaged_state_that_is_none: StateDamageIsNull => [
        durable_state_store::a_row_that_is_no_state_is_corrupt,
    ];
    a_deletion_without_marker_or_check: StateDeleteForgetsTheRevision => [
        durable_state_store::a_deleted_state_is_gone,
        durable_state_store::a_deleted_state_can_be_put_again,
        durable_state_store::deleting_a_state_that_never_was,
        durable_state_store::deleting_a_state_twice,
        durable_state_store::a_stale_delete_is_refused,
    ];
    lost_tags_of_states: StateDropsTags => [
        durable_state_store::payloads_and_tags_come_back,
        durable_state_store::a_deleted_state_is_gone,
    ];
    a_first_state_over_a_later_one: StateFirstReplacesAny => [
        durable_state_store::a_first_state_beside_a_later_revision_is_refused,
        durable_state_store::a_stale_state_is_refused,
    ];
    a_state_of_another_taken_for_ones_own: StateIdenticalIsAlwaysOwn => [
        durable_state_store::an_identical_state_is_another_writers_at_the_first_attempt,
    ];
    an_identical_state_that_is_not_recognised: StateIdenticalIsStale => [
        durable_state_store::a_state_that_may_be_stored_is_recognised,
        durable_state_store::a_batch_that_may_be_stored_is_recognised,
        durable_state_store::a_state_that_may_be_stored_is_recognised_before_a_new_one,
        durable_state_store::a_state_that_may_be_stored_is_recognised_through_another_store,
        durable_state_store::a_state_that_was_given_up_can_be_sent_again,
        durable_state_store::a_delete_that_may_be_done_is_recognised,
        durable_state_store::states_are_there_after_opening_again,
    ];
    a_later_state_that_survives: StateLaterWritesSurvive => [
        durable_state_store::later_states_of_an_entity_fail_with_its_stale_one,
    ];
    a_removal_that_removes_nothing: StateRemovalDoesNothing => [
        durable_state_store::removing_takes_everything_of_one_id,
        durable_state_store::a_removed_state_begins_anew,
    ];
    a_stale_state_that_is_not_noticed: StateStaleIsAnsweredAsWritten => [
        durable_state_store::a_stale_state_is_refused,
        durable_state_store::a_state_whose_row_is_gone,
        durable_state_store::states_out_of_order_are_refused,
        durable_state_store::another_state_is_not_taken_for_ones_own,
        durable_state_store::two_stores_racing_for_a_revision_have_one_winner,
        durable_state_store::two_stores_racing_with_states_have_one_winner_per_entity,
    ];
    a_stale_state_that_replaces: StateStaleReplaces => [
        durable_state_store::a_stale_state_is_refused,
        durable_state_store::a_stale_delete_is_refused,
    ];
    states_without_times_of_their_own: StateTimesStandStill => [
        durable_state_store::a_state_comes_back,
        durable_state_store::the_states_of_one_batch_have_timestamps_of_their_own,
        durable_state_store::timestamps_increase_from_revision_to_revision,
    ];
    companions_of_states_that_are_not_stored: StateCompanionsAreDropped => [
        state_companions::a_change_event_is_stored_with_its_state,
        state_companions::tags_and_metadata_of_change_events_are_stored,
        state_companions::a_refused_change_event_leaves_no_state,
        state_companions::a_taken_number_leaves_no_state,
        state_companions::a_deleted_number_leaves_no_state,
        state_companions::a_reply_is_stored_with_its_state,
        state_companions::a_taken_command_leaves_no_state,
        state_companions::a_command_twice_in_one_batch_is_taken,
        state_companions::a_refused_reply_leaves_no_state,
        state_companions::another_store_sees_the_companions,
    ];
    companions_in_a_transaction_of_their_own: StateCompanionsGoAlone => [
        state_companions::a_stale_state_leaves_no_companions,
        state_companions::two_stores_racing_with_companions_have_one_winner,
    ];
    companions_of_the_last_state_only: StateFoldedCompanionsAreLost => [
        state_companions::change_events_of_folded_states_are_all_stored,
        state_companions::replies_of_folded_states_are_all_stored,
        state_companions::times_of_change_events_grow_and_end_with_that_of_the_row,
        state_companions::however_companions_are_batched_they_leave_the_same_rows,
    ];
    a_state_that_is_taken_for_ones_own_by_its_row: StateRowIsProofEnough => [
        state_companions::an_identical_state_with_another_change_event_is_another_writers,
        state_companions::an_identical_state_without_a_change_event_is_nobodys,
        state_companions::a_state_whose_change_event_was_deleted_is_nobodys,
        state_companions::an_identical_state_without_a_reply_is_nobodys,
        state_companions::an_identical_state_with_another_reply_is_another_writers,
    ];
    replies_that_are_not_stored: RepliesAreDropped => [
        command_reply_store::a_lone_write_has_its_reply_stored,
        command_reply_store::several_commands_of_one_entity_share_a_batch,
        command_reply_store::a_reply_may_have_no_payload,
        command_reply_store::texts_of_all_kinds_come_back,
        command_reply_store::an_identical_write_has_its_reply_stored_once,
        command_reply_store::a_command_of_another_entity_is_another_command,
        command_reply_store::a_refused_write_leaves_no_reply,
        command_reply_store::a_refused_reply_leaves_no_event,
        command_reply_store::another_opening_sees_them,
    ];
    the_oldest_replies_instead_of_the_latest: RepliesComeInOrderOfTheirNumbers => [
        command_reply_store::several_commands_of_one_entity_share_a_batch,
        command_reply_store::only_the_latest_are_loaded,
    ];
    replies_of_other_types_deleted_by_age: RepliesGoWhateverTheirType => [
        command_reply_store::old_replies_of_a_type_are_deleted,
    ];
    replies_deleted_all_at_once: RepliesGoWithoutLimit => [
        command_reply_store::replies_are_deleted_up_to_a_number,
        command_reply_store::old_replies_of_a_type_are_deleted,
    ];
    an_id_that_is_never_free_again: RepliesNeverExpire => [
        command_reply_store::an_expired_reply_is_replaced,
    ];
    one_reply_too_few_deleted: RepliesStayOneTooLong => [
        command_reply_store::replies_are_deleted_up_to_a_number,
    ];
    a_command_that_is_handled_twice: TakenCommandIsHandledAgain => [
        command_reply_store::a_command_that_another_writer_has_stored_is_refused,
        command_reply_store::a_taken_command_fails_its_own_entity_only,
        command_reply_store::an_expired_reply_is_replaced,
        command_reply_store::another_opening_sees_them,
    ];
    a_taken_command_without_its_name: TakenCommandIsConflict => [
        command_reply_store::a_command_that_another_writer_has_stored_is_refused,
        command_reply_store::a_taken_command_fails_its_own_entity_only,
    ];
}
