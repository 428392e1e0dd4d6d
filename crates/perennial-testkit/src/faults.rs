//! Faults on demand, around any store.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use perennial_persistence::{
    AtomicWrite, BoxFuture, CommandReplyStore, DueReminders, DurableStateDelete, DurableStateStore,
    Error, Journal, PageLimit, PersistenceId, ReminderStore, ReplayPage, SequenceNr,
    SerializedPayload, Snapshot, SnapshotCriteria, SnapshotStore, StateWrite, Store,
    StoredReminder, StoredReply, StoredState, Timestamp, WriterId, Written,
};
use tokio::sync::watch;

/// A store that fails when a test wants it to, and is otherwise the one it stands in front of.
///
/// ```
/// use std::sync::Arc;
/// use perennial_persistence::{
///     AtomicWrite, NewEvent, PersistenceId, SequenceNr, SerializedPayload, Store, WriterId,
/// };
/// use perennial_testkit::{FaultyStore, MemoryStore, WriteFault};
///
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let store = FaultyStore::new(Arc::new(MemoryStore::default()));
/// store.faults().writes.next(WriteFault::LostAnswer);
///
/// let event = NewEvent::new(SerializedPayload::new(77, "Added", &b"apple"[..]));
/// let id = PersistenceId::new("Cart", "a")?;
/// let writer = WriterId::from_random_bits(1);
/// let batch = [AtomicWrite::new(id, writer, SequenceNr::FIRST, vec![event])?];
/// let lost = store.journal().write_events(&batch).await.remove(0);
/// assert!(lost.is_err_and(|error| error.is_outcome_unknown()));
/// // It was stored all the same, and the identical write says so.
/// assert!(store.journal().write_events(&batch).await.remove(0).is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A faulty store never claims what cannot be: a write that was handed to the store behind it and
/// not answered since, so that it may be stored, is not refused by [`WriteFault::Rejected`] or
/// [`WriteFault::Conflict`] when it is sent again, but gets the true answer. It may well be
/// answered as unavailable, as by a server that is still down at the second attempt.
#[derive(Debug, Clone)]
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    faults: Faults,
}

impl FaultyStore {
    /// A store in front of `inner`, without faults until some are planned.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self::with_faults(inner, Faults::default())
    }

    /// A store in front of `inner` that goes on with plans that another one began, as after
    /// opening the same data again.
    pub fn with_faults(inner: Arc<dyn Store>, faults: Faults) -> Self {
        Self { inner, faults }
    }

    /// What is to go wrong.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Stores what [`WriteFault::StoredLate`] kept back, in the order in which it was sent: events
    /// first, then states.
    pub async fn deliver_late_writes(&self) {
        let late = std::mem::take(&mut lock(&self.faults.sent_events).late);
        let journal = self.inner.journal();
        for batch in late {
            // The answers find nobody who waits for them.
            journal.write_events(&batch).await;
        }
        let late = std::mem::take(&mut lock(&self.faults.sent_states).late);
        let states = self.inner.durable_state_store();
        for batch in late {
            states.write_states(&batch).await;
        }
    }
}

impl Store for FaultyStore {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn journal(&self) -> Arc<dyn Journal> {
        Arc::new(FaultyJournal {
            inner: self.inner.journal(),
            faults: self.faults.clone(),
        })
    }

    fn snapshot_store(&self) -> Arc<dyn SnapshotStore> {
        Arc::new(FaultySnapshotStore {
            inner: self.inner.snapshot_store(),
            faults: self.faults.clone(),
        })
    }

    fn durable_state_store(&self) -> Arc<dyn DurableStateStore> {
        Arc::new(FaultyDurableStateStore {
            inner: self.inner.durable_state_store(),
            faults: self.faults.clone(),
        })
    }

    fn command_replies(&self) -> Arc<dyn CommandReplyStore> {
        Arc::new(FaultyCommandReplies {
            inner: self.inner.command_replies(),
            faults: self.faults.clone(),
        })
    }

    fn reminders(&self) -> Arc<dyn ReminderStore> {
        Arc::new(FaultyReminders {
            inner: self.inner.reminders(),
            faults: self.faults.clone(),
        })
    }

    fn warnings(&self) -> Vec<String> {
        self.inner.warnings()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.inner.close()
    }
}

/// The plans of a [`FaultyStore`], one per kind of call. A clone is the same plans.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// [`Journal::write_events`], counted by atomic writes.
    pub writes: Plan<WriteFault>,
    /// [`Journal::replay_events`], counted by pages, and [`Journal::highest_sequence_nr`].
    pub reads: Plan<ReadFault>,
    /// [`Journal::delete_events`] and [`Journal::remove_events`].
    pub deletes: Plan<ChangeFault>,
    /// [`SnapshotStore::load`].
    pub snapshot_loads: Plan<ReadFault>,
    /// [`SnapshotStore::save`].
    pub snapshot_saves: Plan<ChangeFault>,
    /// [`SnapshotStore::delete`].
    pub snapshot_deletes: Plan<ChangeFault>,
    /// [`DurableStateStore::write_states`], counted by writes.
    pub state_writes: Plan<WriteFault>,
    /// [`DurableStateStore::load`].
    pub state_loads: Plan<ReadFault>,
    /// [`DurableStateStore::remove`].
    pub state_removals: Plan<ChangeFault>,
    /// [`CommandReplyStore::load`].
    pub reply_loads: Plan<ReadFault>,
    /// [`CommandReplyStore::delete_up_to`].
    pub reply_deletes: Plan<ChangeFault>,
    /// [`ReminderStore::due`], for the id `reminders` as it is of no entity.
    pub reminder_reads: Plan<ReadFault>,
    /// [`ReminderStore::remove`].
    pub reminder_removals: Plan<ChangeFault>,
    sent_events: Arc<Mutex<Sent<AtomicWrite>>>,
    sent_states: Arc<Mutex<Sent<StateWrite>>>,
}

impl Faults {
    /// Forgets every plan; from now on nothing goes wrong. Calls that wait at a [`Gate`] go on
    /// waiting for it.
    pub fn clear(&self) {
        self.writes.clear();
        self.reads.clear();
        self.deletes.clear();
        self.snapshot_loads.clear();
        self.snapshot_saves.clear();
        self.snapshot_deletes.clear();
        self.state_writes.clear();
        self.state_loads.clear();
        self.state_removals.clear();
        self.reply_loads.clear();
        self.reply_deletes.clear();
        self.reminder_reads.clear();
        self.reminder_removals.clear();
    }
}

/// What goes wrong with an atomic write of events, or with the write of a state.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum WriteFault {
    /// The write is refused as [`Error::Rejected`], and the later ones of its entity in the batch
    /// with it. The rest of the batch is stored.
    Rejected,
    /// The write is refused as [`Error::Conflict`], that of a state as [`Error::StaleRevision`], and
    /// the later ones of its entity in the batch with it. The rest of the batch is stored. No row of
    /// another writer is made.
    Conflict,
    /// Nothing of the batch is stored, and the store knows it: [`Error::Unavailable`].
    Unavailable,
    /// Nothing of the batch is stored, but the store cannot know: [`Error::Unavailable`] with an
    /// unknown outcome.
    LostRequest,
    /// The batch is stored, but the store cannot know: [`Error::Unavailable`] with an unknown
    /// outcome.
    LostAnswer,
    /// As [`WriteFault::LostRequest`] at first; [`FaultyStore::deliver_late_writes`] stores it, as
    /// a server does that goes on with a request whose sender has given up.
    StoredLate,
    /// The batch waits at a gate before it is stored.
    Held(Gate),
    /// The batch is stored, and its answer waits at a gate.
    AnswerHeld(Gate),
}

/// What goes wrong with a read.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ReadFault {
    /// [`Error::Unavailable`].
    Unavailable,
    /// [`Error::Corrupt`]; a search for the highest number is [`Error::Unavailable`] instead, as
    /// it looks at nothing that can be damaged.
    Corrupt,
    /// The rows come with bytes that no codec can read, under their own serializer ids and
    /// manifests. A search for the highest number succeeds.
    Undecodable,
    /// The read waits at a gate.
    Held(Gate),
}

/// What goes wrong with a deletion, a removal or the save of a snapshot.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ChangeFault {
    /// Nothing changes, and the store knows it.
    Unavailable,
    /// Nothing changes, but the store cannot know.
    LostRequest,
    /// It takes effect, but the store cannot know.
    LostAnswer,
    /// It waits at a gate before it takes effect.
    Held(Gate),
    /// It takes effect, and the answer waits at a gate.
    AnswerHeld(Gate),
}

/// Which calls of a kind fail. A clone is the same plan.
///
/// Calls are counted from 1, every attempt anew. A fault that was planned by number comes before
/// the decision function, which is asked for all others.
///
/// ```
/// use perennial_testkit::{Faults, WriteFault};
/// use rand::{RngExt, SeedableRng, rngs::SmallRng};
///
/// let faults = Faults::default();
/// faults.writes.at(3, WriteFault::Conflict);
/// let mut random = SmallRng::seed_from_u64(4711);
/// faults.writes.decide(move |_call| {
///     random.random_ratio(1, 10).then_some(WriteFault::LostAnswer)
/// });
/// ```
pub struct Plan<F> {
    state: Arc<Mutex<PlanState<F>>>,
}

/// A call about which a decision function decides.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Call<'a> {
    /// Which call of its kind it is, from 1.
    pub number: u64,
    /// Whose data it is about.
    pub persistence_id: &'a PersistenceId,
}

type Decide<F> = Box<dyn FnMut(Call<'_>) -> Option<F> + Send>;

struct PlanState<F> {
    seen: u64,
    by_number: BTreeMap<u64, F>,
    decide: Option<Decide<F>>,
}

impl<F> Plan<F> {
    /// Plans a fault for the next call, or for the one after those that `next` has planned and
    /// that are still to come.
    pub fn next(&self, fault: F) {
        let mut state = self.lock();
        let mut number = state.seen + 1;
        while state.by_number.contains_key(&number) {
            number += 1;
        }
        state.by_number.insert(number, fault);
    }

    /// Plans a fault for the call with this number, counted from 1 since the plan was made.
    ///
    /// Replaces what was planned for it. A number that has passed has no effect.
    pub fn at(&self, number: u64, fault: F) {
        self.lock().by_number.insert(number, fault);
    }

    /// Lets a function decide about every call that has no planned fault. To replay a run it must
    /// depend on the calls and a seed alone. It must not use this plan itself.
    pub fn decide(&self, decide: impl FnMut(Call<'_>) -> Option<F> + Send + 'static) {
        self.lock().decide = Some(Box::new(decide));
    }

    /// How many calls there were.
    pub fn count(&self) -> u64 {
        self.lock().seen
    }

    /// Forgets the planned faults and the decision function, not the count.
    pub fn clear(&self) {
        let mut state = self.lock();
        state.by_number.clear();
        state.decide = None;
    }

    /// Counts a call and says what goes wrong with it.
    fn take(&self, persistence_id: &PersistenceId) -> Option<F> {
        let mut state = self.lock();
        state.seen += 1;
        let number = state.seen;
        if let Some(fault) = state.by_number.remove(&number) {
            return Some(fault);
        }
        let call = Call {
            number,
            persistence_id,
        };
        state.decide.as_mut().and_then(|decide| decide(call))
    }

    fn lock(&self) -> MutexGuard<'_, PlanState<F>> {
        lock(&self.state)
    }
}

impl<F> Clone for Plan<F> {
    fn clone(&self) -> Self {
        Self {
            state: Arc::clone(&self.state),
        }
    }
}

impl<F> Default for Plan<F> {
    fn default() -> Self {
        Self {
            state: Arc::new(Mutex::new(PlanState {
                seen: 0,
                by_number: BTreeMap::new(),
                decide: None,
            })),
        }
    }
}

impl<F> fmt::Debug for Plan<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Plan")
            .field("seen", &state.seen)
            .field("planned", &state.by_number.keys())
            .finish_non_exhaustive()
    }
}

/// Where held calls wait, until a test opens it. A clone is the same gate.
///
/// Needs no particular runtime and no time.
#[derive(Debug, Clone)]
pub struct Gate {
    state: Arc<watch::Sender<GateState>>,
}

#[derive(Debug)]
struct GateState {
    open: bool,
    arrived: usize,
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        let state = GateState {
            open: false,
            arrived: 0,
        };
        Self {
            state: Arc::new(watch::Sender::new(state)),
        }
    }

    /// Lets everyone through, now and later.
    pub fn open(&self) {
        self.state.send_modify(|state| state.open = true);
    }

    /// How many calls have come to this gate, including those that went through or gave up.
    pub fn arrived(&self) -> usize {
        self.state.borrow().arrived
    }

    /// Waits until so many calls have come to this gate.
    pub async fn wait_for_arrivals(&self, calls: usize) {
        self.wait_until(|state| state.arrived >= calls).await;
    }

    /// Comes to this gate and waits until it is open, as a held call does.
    pub async fn pass(&self) {
        self.state.send_modify(|state| state.arrived += 1);
        self.wait_until(|state| state.open).await;
    }

    async fn wait_until(&self, condition: impl FnMut(&GateState) -> bool) {
        let mut state = self.state.subscribe();
        let reached = state.wait_for(condition).await;
        reached.expect("this gate holds the sender that could be gone");
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

/// A write that is sent in a batch and has a fate of its own.
trait BatchItem: Clone {
    /// Tells its attempts from those of other writes.
    type Key: Eq + Hash;

    fn id(&self) -> &PersistenceId;
    fn key(&self) -> Self::Key;
    /// That another writer was faster.
    fn conflict(&self) -> Error;
}

impl BatchItem for AtomicWrite {
    /// With both ends of its numbers, as a write without events begins with that of the next one.
    type Key = (PersistenceId, WriterId, SequenceNr, SequenceNr);

    fn id(&self) -> &PersistenceId {
        self.persistence_id()
    }

    fn key(&self) -> Self::Key {
        (self.id().clone(), self.writer(), self.first(), self.last())
    }

    fn conflict(&self) -> Error {
        Error::Conflict {
            persistence_id: self.id().clone(),
            seq_nr: self.first(),
        }
    }
}

impl BatchItem for StateWrite {
    type Key = (PersistenceId, SequenceNr, SequenceNr);

    fn id(&self) -> &PersistenceId {
        self.persistence_id()
    }

    fn key(&self) -> Self::Key {
        (self.id().clone(), self.expected(), self.revision())
    }

    fn conflict(&self) -> Error {
        Error::StaleRevision {
            persistence_id: self.id().clone(),
            expected: self.expected(),
            found: self.revision(),
        }
    }
}

/// What became of writes that were sent.
#[derive(Debug)]
struct Sent<W: BatchItem> {
    /// Handed to the store behind and not answered since: these may be stored.
    unanswered: HashSet<W::Key>,
    /// To be stored when the test says so.
    late: Vec<Vec<W>>,
}

impl<W: BatchItem> Default for Sent<W> {
    fn default() -> Self {
        Self {
            unanswered: HashSet::new(),
            late: Vec::new(),
        }
    }
}

/// A batch on its way to the store behind.
struct Passing<'a, W: BatchItem> {
    sent: &'a Mutex<Sent<W>>,
    /// What the store is handed.
    kept: Vec<W>,
    /// An error for each write of the batch that is refused.
    refused: Vec<Option<Error>>,
    answer_is_lost: bool,
    after: Vec<Gate>,
}

impl<'a, W: BatchItem> Passing<'a, W> {
    /// Decides about a batch and waits at its gates. Fails with its answers if it never reaches
    /// the store.
    async fn begin(
        plan: &Plan<WriteFault>,
        sent: &'a Mutex<Sent<W>>,
        batch: &[W],
    ) -> Result<Self, Vec<Result<Written, Error>>> {
        let mut passing = Self {
            sent,
            kept: Vec::with_capacity(batch.len()),
            refused: Vec::with_capacity(batch.len()),
            answer_is_lost: false,
            after: Vec::new(),
        };
        let mut before = Vec::new();
        // The first one; a batch is not lost twice.
        let mut loss = None;
        let mut refused_ids: BTreeMap<&PersistenceId, Error> = BTreeMap::new();
        for write in batch {
            let id = write.id();
            let refusal = match plan.take(id) {
                None => None,
                Some(WriteFault::Rejected) => Some(rejected(id)),
                Some(WriteFault::Conflict) => Some(write.conflict()),
                Some(WriteFault::Held(gate)) => {
                    before.push(gate);
                    None
                }
                Some(WriteFault::AnswerHeld(gate)) => {
                    passing.after.push(gate);
                    None
                }
                Some(fault) => {
                    loss.get_or_insert(fault);
                    None
                }
            };
            if let Some(error) = refusal
                && !lock(sent).unanswered.contains(&write.key())
            {
                refused_ids.entry(id).or_insert(error);
            }
            let refusal = refused_ids.get(id).cloned();
            if refusal.is_none() {
                passing.kept.push(write.clone());
            }
            passing.refused.push(refusal);
        }
        pass_all(&before).await;

        let lost = |error| Err(vec![Err(error); batch.len()]);
        match loss {
            Some(WriteFault::Unavailable) => return lost(unavailable()),
            Some(WriteFault::LostRequest) => return lost(outcome_unknown()),
            Some(WriteFault::StoredLate) => {
                passing.note_as_sent();
                lock(sent).late.push(passing.kept);
                return lost(outcome_unknown());
            }
            other => passing.answer_is_lost = other.is_some(),
        }
        // Noted before the store sees them, so that they stay noted if the future is dropped.
        passing.note_as_sent();
        Ok(passing)
    }

    fn note_as_sent(&self) {
        let keys = self.kept.iter().map(W::key);
        lock(self.sent).unanswered.extend(keys);
    }

    /// The answers to the batch, from those of the store to what it was handed.
    async fn end(self, answers: Vec<Result<Written, Error>>) -> Vec<Result<Written, Error>> {
        pass_all(&self.after).await;
        if self.answer_is_lost {
            return vec![Err(outcome_unknown()); self.refused.len()];
        }
        let mut sent = lock(self.sent);
        for (write, answer) in self.kept.iter().zip(&answers) {
            // "Unavailable" says nothing about an earlier attempt.
            if !matches!(answer, Err(error) if error.is_retryable()) {
                sent.unanswered.remove(&write.key());
            }
        }
        let mut answers = answers.into_iter();
        let refused = self.refused.into_iter();
        refused
            .map(|refused| match refused {
                Some(error) => Err(error),
                None => answers
                    .next()
                    .expect("the store answers every write that it was handed"),
            })
            .collect()
    }
}

#[derive(Debug)]
struct FaultyJournal {
    inner: Arc<dyn Journal>,
    faults: Faults,
}

impl Journal for FaultyJournal {
    fn write_events<'a>(
        &'a self,
        batch: &'a [AtomicWrite],
    ) -> BoxFuture<'a, Vec<Result<Written, Error>>> {
        Box::pin(async move {
            let (plan, sent) = (&self.faults.writes, &self.faults.sent_events);
            match Passing::begin(plan, sent, batch).await {
                Ok(passing) => {
                    let answers = self.inner.write_events(&passing.kept).await;
                    passing.end(answers).await
                }
                Err(answers) => answers,
            }
        })
    }

    fn replay_events<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        from: SequenceNr,
        to: SequenceNr,
        limit: PageLimit,
    ) -> BoxFuture<'a, Result<ReplayPage, Error>> {
        Box::pin(async move {
            let damage = begin_read(&self.faults.reads, persistence_id).await?;
            if damage == Some(Damage::Corrupt) {
                return Err(corrupt(persistence_id, from.max(SequenceNr::FIRST)));
            }
            let read = self.inner.replay_events(persistence_id, from, to, limit);
            let mut page = read.await?;
            if damage == Some(Damage::Undecodable) {
                for event in &mut page.events {
                    make_undecodable(&mut event.payload);
                }
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
            let damage = begin_read(&self.faults.reads, persistence_id).await?;
            if damage == Some(Damage::Corrupt) {
                return Err(unavailable());
            }
            self.inner.highest_sequence_nr(persistence_id, from).await
        })
    }

    fn delete_events<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        to: SequenceNr,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let fault = self.faults.deletes.take(persistence_id);
            change(fault, self.inner.delete_events(persistence_id, to)).await
        })
    }

    fn remove_events<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        to: SequenceNr,
        limit: usize,
    ) -> BoxFuture<'a, Result<usize, Error>> {
        Box::pin(async move {
            let fault = self.faults.deletes.take(persistence_id);
            let mut removed = 0;
            let remove = Box::pin(async {
                removed = self.inner.remove_events(persistence_id, to, limit).await?;
                Ok(())
            });
            change(fault, remove).await?;
            Ok(removed)
        })
    }
}

#[derive(Debug)]
struct FaultySnapshotStore {
    inner: Arc<dyn SnapshotStore>,
    faults: Faults,
}

impl SnapshotStore for FaultySnapshotStore {
    fn load<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        criteria: SnapshotCriteria,
    ) -> BoxFuture<'a, Result<Option<Snapshot>, Error>> {
        Box::pin(async move {
            let damage = begin_read(&self.faults.snapshot_loads, persistence_id).await?;
            let Some(mut snapshot) = self.inner.load(persistence_id, criteria).await? else {
                return Ok(None);
            };
            match damage {
                Some(Damage::Corrupt) => return Err(corrupt(persistence_id, snapshot.seq_nr)),
                Some(Damage::Undecodable) => make_undecodable(&mut snapshot.payload),
                None => {}
            }
            Ok(Some(snapshot))
        })
    }

    fn save<'a>(&'a self, snapshot: &'a Snapshot) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let plan = &self.faults.snapshot_saves;
            let fault = plan.take(&snapshot.persistence_id);
            change(fault, self.inner.save(snapshot)).await
        })
    }

    fn delete<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        criteria: SnapshotCriteria,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let fault = self.faults.snapshot_deletes.take(persistence_id);
            change(fault, self.inner.delete(persistence_id, criteria)).await
        })
    }
}

#[derive(Debug)]
struct FaultyDurableStateStore {
    inner: Arc<dyn DurableStateStore>,
    faults: Faults,
}

impl DurableStateStore for FaultyDurableStateStore {
    fn deletion_leaves(&self) -> DurableStateDelete {
        self.inner.deletion_leaves()
    }

    fn load<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
    ) -> BoxFuture<'a, Result<Option<StoredState>, Error>> {
        Box::pin(async move {
            let damage = begin_read(&self.faults.state_loads, persistence_id).await?;
            let Some(mut row) = self.inner.load(persistence_id).await? else {
                return Ok(None);
            };
            match damage {
                Some(Damage::Corrupt) => return Err(corrupt(persistence_id, row.revision)),
                Some(Damage::Undecodable) => row.payload.iter_mut().for_each(make_undecodable),
                None => {}
            }
            Ok(Some(row))
        })
    }

    fn write_states<'a>(
        &'a self,
        batch: &'a [StateWrite],
    ) -> BoxFuture<'a, Vec<Result<Written, Error>>> {
        Box::pin(async move {
            let (plan, sent) = (&self.faults.state_writes, &self.faults.sent_states);
            match Passing::begin(plan, sent, batch).await {
                Ok(passing) => {
                    let answers = self.inner.write_states(&passing.kept).await;
                    passing.end(answers).await
                }
                Err(answers) => answers,
            }
        })
    }

    fn remove<'a>(&'a self, persistence_id: &'a PersistenceId) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let fault = self.faults.state_removals.take(persistence_id);
            change(fault, self.inner.remove(persistence_id)).await
        })
    }
}

#[derive(Debug)]
struct FaultyCommandReplies {
    inner: Arc<dyn CommandReplyStore>,
    faults: Faults,
}

impl CommandReplyStore for FaultyCommandReplies {
    fn load<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<StoredReply>, Error>> {
        Box::pin(async move {
            let damage = begin_read(&self.faults.reply_loads, persistence_id).await?;
            if damage == Some(Damage::Corrupt) {
                return Err(corrupt(persistence_id, SequenceNr::FIRST));
            }
            let mut replies = self.inner.load(persistence_id, limit).await?;
            if damage == Some(Damage::Undecodable) {
                let payloads = replies
                    .iter_mut()
                    .filter_map(|reply| reply.payload.as_mut());
                payloads.for_each(make_undecodable);
            }
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
            let fault = self.faults.reply_deletes.take(persistence_id);
            change(fault, self.inner.delete_up_to(persistence_id, to, limit)).await
        })
    }

    fn delete_older<'a>(
        &'a self,
        entity_type: &'a str,
        before: Timestamp,
        limit: usize,
    ) -> BoxFuture<'a, Result<usize, Error>> {
        self.inner.delete_older(entity_type, before, limit)
    }
}

/// What is wrong with the rows of a read that gets that far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    Corrupt,
    Undecodable,
}

#[derive(Debug)]
struct FaultyReminders {
    inner: Arc<dyn ReminderStore>,
    faults: Faults,
}

impl ReminderStore for FaultyReminders {
    fn due<'a>(
        &'a self,
        wanted: &'a DueReminders,
    ) -> BoxFuture<'a, Result<Vec<StoredReminder>, Error>> {
        Box::pin(async move {
            let nobody = PersistenceId::of_unique_id("reminders").expect("a valid id");
            let damage = begin_read(&self.faults.reminder_reads, &nobody).await?;
            if damage == Some(Damage::Corrupt) {
                return Err(corrupt(&nobody, SequenceNr::ZERO));
            }
            let mut found = self.inner.due(wanted).await?;
            if damage == Some(Damage::Undecodable) {
                let payloads = found.iter_mut().map(|reminder| &mut reminder.payload);
                payloads.for_each(make_undecodable);
            }
            Ok(found)
        })
    }

    fn remove<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        limit: usize,
    ) -> BoxFuture<'a, Result<usize, Error>> {
        Box::pin(async move {
            let fault = self.faults.reminder_removals.take(persistence_id);
            change(fault, self.inner.remove(persistence_id, limit)).await
        })
    }
}

/// Counts a read, and fails or waits as its fault says.
async fn begin_read(
    plan: &Plan<ReadFault>,
    persistence_id: &PersistenceId,
) -> Result<Option<Damage>, Error> {
    match plan.take(persistence_id) {
        None => Ok(None),
        Some(ReadFault::Unavailable) => Err(unavailable()),
        Some(ReadFault::Corrupt) => Ok(Some(Damage::Corrupt)),
        Some(ReadFault::Undecodable) => Ok(Some(Damage::Undecodable)),
        Some(ReadFault::Held(gate)) => {
            gate.pass().await;
            Ok(None)
        }
    }
}

/// Lets a change take effect, or not, as its fault says.
async fn change<T>(
    fault: Option<ChangeFault>,
    effect: BoxFuture<'_, Result<T, Error>>,
) -> Result<T, Error> {
    match fault {
        None => effect.await,
        Some(ChangeFault::Unavailable) => Err(unavailable()),
        Some(ChangeFault::LostRequest) => Err(outcome_unknown()),
        Some(ChangeFault::LostAnswer) => {
            effect.await?;
            Err(outcome_unknown())
        }
        Some(ChangeFault::Held(gate)) => {
            gate.pass().await;
            effect.await
        }
        Some(ChangeFault::AnswerHeld(gate)) => {
            let answer = effect.await;
            gate.pass().await;
            answer
        }
    }
}

async fn pass_all(gates: &[Gate]) {
    for gate in gates {
        gate.pass().await;
    }
}

/// Bytes that begin no value in MessagePack, JSON or CBOR.
fn make_undecodable(payload: &mut SerializedPayload) {
    *payload = SerializedPayload::new(
        payload.serializer_id,
        Arc::clone(&payload.manifest),
        &b"\xc1\xffdamaged"[..],
    );
}

fn rejected(persistence_id: &PersistenceId) -> Error {
    Error::Rejected {
        persistence_id: persistence_id.clone(),
        reason: "a planned fault refuses it".to_owned(),
        source: None,
    }
}

fn unavailable() -> Error {
    Error::unavailable("a planned fault keeps it from being reached", None)
}

fn outcome_unknown() -> Error {
    Error::outcome_unknown("a planned fault lost the connection", None)
}

fn corrupt(persistence_id: &PersistenceId, seq_nr: SequenceNr) -> Error {
    Error::Corrupt {
        persistence_id: persistence_id.clone(),
        seq_nr,
        reason: "a planned fault damages it".to_owned(),
        source: None,
    }
}

/// A panic of a decision function leaves the plan as valid as it was.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
