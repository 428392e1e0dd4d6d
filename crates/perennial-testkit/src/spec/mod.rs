//! Tests of one entity: given events, when a command comes, then events, state and reply.
//!
//! ```
//! use perennial_core::{Cx, Effect, EventSourced, Handle};
//! use perennial_testkit::Spec;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
//! struct Account {
//!     balance: i64,
//!     open: bool,
//! }
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! enum AccountEvent {
//!     Opened,
//!     Deposited(i64),
//! }
//!
//! /// Refuses deposits that look wrong; a service, as it would ask another system.
//! struct Fraud {
//!     limit: i64,
//! }
//!
//! impl Fraud {
//!     fn fake() -> Self {
//!         Self { limit: 1000 }
//!     }
//! }
//!
//! impl EventSourced for Account {
//!     const TYPE: &'static str = "Account";
//!     type Event = AccountEvent;
//!     type Services = Fraud;
//!
//!     fn apply(&mut self, event: &AccountEvent) {
//!         match event {
//!             AccountEvent::Opened => self.open = true,
//!             AccountEvent::Deposited(cents) => self.balance += cents,
//!         }
//!     }
//! }
//!
//! struct Deposit(i64);
//!
//! #[derive(Debug, PartialEq)]
//! enum Refused {
//!     NotOpen,
//!     Suspicious,
//! }
//!
//! impl Handle<Deposit> for Account {
//!     type Reply = Result<i64, Refused>;
//!
//!     fn handle(&self, command: Deposit, cx: &Cx<'_, Self>) -> Effect<Self, Self::Reply> {
//!         if !self.open {
//!             return cx.reply(Err(Refused::NotOpen));
//!         }
//!         if command.0 > cx.services().limit {
//!             return cx.reply(Err(Refused::Suspicious));
//!         }
//!         cx.persist([AccountEvent::Deposited(command.0)])
//!             .reply(|account| Ok(account.balance))
//!     }
//! }
//!
//! let mut t = Spec::<Account>::new(Fraud::fake()).given([AccountEvent::Opened]);
//! assert_eq!(t.when(Deposit(10)), (vec![AccountEvent::Deposited(10)], Ok(10)));
//! assert_eq!(t.when(Deposit(9999)), (vec![], Err(Refused::Suspicious)));
//! assert_eq!(t.state().balance, 10);
//! t.check_replay();
//! ```

mod outcome;
mod stage;

use std::error::Error as StdError;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use perennial_core::engine::deletion;
use perennial_core::{Durable, DurableState, Entity, EventSourced, Handle, Recovery, StateChange};
use perennial_persistence::{
    AtomicWrite, Clock, Codec, Journal, MessagePack, NewEvent, PersistenceId, SequenceNr,
    SerializedPayload, Snapshot, SnapshotCriteria, Store, WriterId,
};

pub use outcome::{Happened, Outcome};
use outcome::{News, Open, Reply, Waiting};
use serde::Serialize;
use serde::de::DeserializeOwned;
use stage::Stage;

use crate::{Faults, FaultyStore, Gate, ManualClock, MemoryStore, WriteFault};

/// How much virtual time a command may take in which the engine waits on its own account. Longer
/// than the engine pursues a write whose outcome is open.
const PATIENCE: Duration = Duration::from_secs(60);

/// One entity under test: no database, no runtime, no sleeping.
///
/// What runs is the code that ships: the engine's worker with the entity's own codecs and settings,
/// on the thread of the test, in front of a store in memory. Every event is encoded, stored and
/// decoded, what was `given` is recovered, replies leave when their events are stored, and
/// `then_run` runs.
///
/// *Time* is virtual and stands still until [`Spec::advance`]. Only where the engine waits on its
/// own account, to ask a failing store again or to start an entity again that panicked, it goes on
/// by itself within [`Spec::when`], for at most a minute.
///
/// *Futures* of `later` are polled on the test's thread; work of `blocking` runs there. A future
/// that completes without a runtime, as one that asks a fake does, is done before `when` returns.
/// See [`Spec::run_futures`] and [`Spec::wait_for_futures`] for others.
///
/// It stands for one entity and its callers, who wait for as long as it takes, unless one is told to
/// [give up](Outcome::give_up). It stays on its thread.
pub struct Spec<E: EventSourced> {
    entity: Entity<E>,
    id: PersistenceId,
    clock: ManualClock,
    memory: MemoryStore,
    faults: Faults,
    log: Log<E>,
    /// Where it plays; none before the first command and after a crash.
    stage: Option<Stage<E>>,
    /// What would come back, for those who look while nothing is in memory.
    recovered: Option<Stage<E>>,
    slow: Vec<Slow>,
    waiting: Vec<Rc<dyn Waiting>>,
    /// Whether a command has come, so that history is closed.
    began: bool,
    /// How many stages and foreign writers there were; each has an id of its own.
    writers: u64,
    check: Option<Check<E>>,
}

type Check<E> = Box<dyn Fn(&Spec<E>) -> Result<(), String>>;

/// A write that is stored some time after it has reached the store.
struct Slow {
    gate: Gate,
    after: Duration,
    /// Once it has.
    due: Option<Duration>,
}

impl<E: EventSourced> Spec<E> {
    /// An entity with these services, default codecs and settings, and no history. Its id is "spec".
    #[track_caller]
    pub fn new(services: E::Services) -> Self
    where
        E::Event: Serialize + DeserializeOwned,
    {
        Self::of(Entity::new(services))
    }

    /// An entity with codecs and settings of its own: what the program gives to its system.
    ///
    /// # Panics
    /// If a system would not start with it: a setting is out of its range, or snapshots are to be
    /// taken without a codec for the state.
    #[track_caller]
    pub fn of(entity: Entity<E>) -> Self {
        if let Err(error) = entity.config().check(E::TYPE) {
            panic!("{}", with_sources(&error));
        }
        let wants_snapshots = entity.wants_snapshots() || entity.config().snapshot_every > 0;
        assert!(
            !wants_snapshots || entity.codec_of_states().is_some(),
            "{} is to take snapshots and has no codec for them; give it one with `snapshot_every` \
             or `state_codec`",
            E::TYPE
        );
        let clock = ManualClock::new();
        let memory = MemoryStore::new(Arc::new(clock.clone()));
        let id = persistence_id::<E>("spec");
        Self {
            log: Log::new(&entity, id.clone(), &memory),
            entity,
            id,
            clock,
            memory,
            faults: Faults::default(),
            stage: None,
            recovered: None,
            slow: Vec::new(),
            waiting: Vec::new(),
            began: false,
            writers: 0,
            check: None,
        }
    }

    /// The same entity with another id within its type.
    ///
    /// # Panics
    /// If the id cannot be stored, or something was given already.
    #[must_use]
    #[track_caller]
    pub fn with_id(mut self, entity_id: &str) -> Self {
        self.assert_empty("with_id");
        self.id = persistence_id::<E>(entity_id);
        self.log = Log::new(&self.entity, self.id.clone(), &self.memory);
        self
    }

    /// The same entity on another clock, as one that its services look at too.
    ///
    /// # Panics
    /// If something was given already.
    #[must_use]
    #[track_caller]
    pub fn with_clock(mut self, clock: ManualClock) -> Self {
        self.assert_empty("with_clock");
        self.memory = MemoryStore::new(Arc::new(clock.clone()));
        self.log = Log::new(&self.entity, self.id.clone(), &self.memory);
        self.clock = clock;
        self
    }

    /// Adds events to the history from which the entity is recovered by its first command.
    ///
    /// # Panics
    /// If one cannot be encoded, or a command has come already.
    #[must_use]
    #[track_caller]
    pub fn given(mut self, events: impl IntoIterator<Item = E::Event>) -> Self {
        self.assert_not_begun("given");
        for event in events {
            let event = self.encode(&event);
            self.store_elsewhere(vec![event]);
        }
        self
    }

    /// Adds events to the history as they are stored: those of an older version of the program, or
    /// with metadata.
    ///
    /// # Panics
    /// If one cannot be stored, or a command has come already.
    #[must_use]
    #[track_caller]
    pub fn given_stored(mut self, events: impl IntoIterator<Item = NewEvent>) -> Self {
        self.assert_not_begun("given_stored");
        for event in events {
            self.store_elsewhere(vec![event]);
        }
        self
    }

    /// Adds a snapshot to the history: the state right after the event with the number `seq_nr`.
    /// Events that are given later are those after it.
    ///
    /// # Panics
    /// If the entity has no codec for its state (see [`Entity::snapshot_every`] and
    /// [`Entity::state_codec`]), the state cannot be encoded, the number does not exist, or a
    /// command has come already.
    #[must_use]
    #[track_caller]
    pub fn given_snapshot(self, seq_nr: u64, state: &E) -> Self {
        self.assert_not_begun("given_snapshot");
        let Some(seq_nr) = SequenceNr::new(seq_nr).filter(|nr| *nr > SequenceNr::ZERO) else {
            panic!("{seq_nr} is no event's number, so no snapshot can be taken there");
        };
        let Some(codec) = self.entity.codec_of_states() else {
            panic!(
                "{} has no codec for snapshots; make the spec with `Spec::of` from an entity with \
                 `snapshot_every` or `state_codec`",
                E::TYPE
            );
        };
        match codec.encode(state) {
            Ok(payload) => save(&self.memory, &self.id, seq_nr, payload, &self.clock),
            Err(error) => panic!("the state cannot be encoded: {}", with_sources(&error)),
        }
        self
    }

    /// Calls [`Spec::check_replay`] after everything that happens, unless the two are not meant to be
    /// the same: while a write is open, and until the entity has noticed another writer.
    #[must_use]
    pub fn always_check_replay(mut self) -> Self
    where
        E: PartialEq + fmt::Debug,
    {
        self.check = Some(Box::new(|spec| {
            if spec.comparable().is_ok() {
                spec.compare(&|live, replayed| live == replayed, &show)
            } else {
                Ok(())
            }
        }));
        self
    }

    /// Sends a command and lets everything happen that happens without more time: the entity is
    /// recovered if it is not in memory, the handler runs, its events are stored, the reply leaves,
    /// actions and futures run, stashed commands come back.
    ///
    /// # Panics
    /// If an event was stored that cannot be decoded, if the entity goes on and on without coming to
    /// rest, and if [`Spec::always_check_replay`] finds a difference. A panic of the entity itself
    /// is an error of the outcome, as it is for callers.
    #[track_caller]
    pub fn when<C: Send + 'static>(&mut self, command: C) -> Outcome<E, <E as Handle<C>>::Reply>
    where
        E: Handle<C>,
    {
        let stage = self.start();
        let stashed = stage.stashed();
        let reply = Reply::new(stage.entity().ask(command).into_future());
        self.waiting.push(reply.clone());
        self.drive_until(|_| !reply.is_open());
        let stage = self.start();
        let open = if !reply.is_open() {
            None
        } else if stage.stashed() > stashed {
            Some(Open::Stashed)
        } else if stage.open_calls() > 0 {
            Some(Open::Store)
        } else if stage.open_futures() > 0 {
            Some(Open::Future)
        } else {
            Some(Open::Waits)
        };
        let happened = self.happened();
        Outcome::new(happened, std::any::type_name::<C>(), reply, open)
    }

    /// Lets time pass: timers fire, slow writes are answered, futures of `later` time out, an
    /// entity that was idle for long enough leaves memory. Each happens at its own time.
    ///
    /// # Panics
    /// As [`Spec::when`].
    #[track_caller]
    pub fn advance(&mut self, by: Duration) -> Happened<E> {
        let end = self.clock.elapsed().saturating_add(by);
        self.start();
        loop {
            self.drive();
            let now = self.clock.elapsed();
            let next = self.next_time().filter(|at| *at <= end).unwrap_or(end);
            if now >= end {
                break;
            }
            self.clock.advance(next.saturating_sub(now));
        }
        self.happened()
    }

    /// Lets open futures of `later` go on, after the test did what they wait for, such as sending
    /// into a channel that a fake service reads. They are polled, not waited for.
    ///
    /// # Panics
    /// As [`Spec::when`].
    #[track_caller]
    pub fn run_futures(&mut self) -> Happened<E> {
        self.start();
        self.drive();
        self.happened()
    }

    /// Waits until no future of `later` is open, on the runtime of whoever awaits this. For futures
    /// that need one: in a test with `#[tokio::test]` they find tokio in `when` as well.
    ///
    /// # Panics
    /// As [`Spec::when`].
    pub async fn wait_for_futures(&mut self) -> Happened<E> {
        poll_fn(|context| {
            let stage = self.start();
            stage.register(context.waker());
            self.drive();
            if self.start().open_futures() == 0 {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        self.happened()
    }

    /// The state in memory, or the one that the next command will find if the entity is not in
    /// memory. It is ahead of the store while a write is open.
    ///
    /// # Panics
    /// If the entity cannot be brought back.
    #[track_caller]
    pub fn state(&mut self) -> &E {
        if self.live().is_none() {
            self.recovered = Some(self.recover(self.memory.copy()));
        }
        let state = match (self.live(), &self.recovered) {
            (Some(live), _) => Ok(live),
            (None, Some(recovered)) => recovered.state(),
            (None, None) => unreachable!("it was recovered just now"),
        };
        match state {
            Ok(state) => state,
            Err(reason) => panic!("{reason}"),
        }
    }

    /// Every event of the entity that is stored, decoded.
    ///
    /// # Panics
    /// If one cannot be decoded.
    #[track_caller]
    pub fn stored_events(&self) -> Vec<E::Event> {
        let mut log = Log::new(&self.entity, self.id.clone(), &self.memory);
        log.look();
        match log.take() {
            Ok(news) => news.events,
            Err(problem) => panic!("{problem}"),
        }
    }

    /// The stored snapshot, decoded.
    ///
    /// # Panics
    /// If it cannot be decoded.
    #[track_caller]
    pub fn stored_snapshot(&self) -> Option<E> {
        let codec = self.entity.codec_of_states()?;
        let snapshot = self.memory.snapshot(&self.id)?;
        match codec.decode(&snapshot.payload) {
            Ok(state) => Some(state),
            Err(error) => panic!(
                "the snapshot at {} cannot be decoded: {}",
                snapshot.seq_nr,
                with_sources(&error)
            ),
        }
    }

    /// The store behind the entity, for looking at rows.
    pub fn store(&self) -> &MemoryStore {
        &self.memory
    }

    /// The entity's whole id.
    pub fn persistence_id(&self) -> &PersistenceId {
        &self.id
    }

    /// The clock that the entity sees. Moving it fires no timer before something else happens;
    /// [`Spec::advance`] does.
    pub fn clock(&self) -> &ManualClock {
        &self.clock
    }

    /// Whether the entity is in memory.
    pub fn is_in_memory(&self) -> bool {
        self.stage
            .as_ref()
            .is_some_and(|stage| stage.peek().is_some())
    }

    /// Drops the entity with everything in memory, as a crash does, and starts anew with what is
    /// stored. The next command recovers it. Callers without an answer get an error.
    pub fn crash(&mut self) {
        self.stage = None;
    }

    /// As [`Spec::crash`], and recovers the entity at once.
    ///
    /// # Panics
    /// If it cannot be recovered, and as [`Spec::when`].
    #[track_caller]
    pub fn restart(&mut self) {
        self.crash();
        self.start().wake();
        self.drive_until(|spec| spec.live().is_some());
        if let Err(reason) = self.start().state() {
            panic!("{reason}");
        }
        self.happened();
    }

    /// Compares the state in memory with the one that comes back from what is stored: from all
    /// events unless some were deleted, from the snapshot and the events after it if there is one,
    /// and, if the entity has snapshots, from one of the present state. If the entity is not in
    /// memory, these with one another.
    ///
    /// An entity whose [`Recovery`] leaves events out comes back without them, so it has nothing to
    /// compare with; unless every event says the whole state, as [`Recovery::LastEvent`] needs it,
    /// which is what is checked then.
    ///
    /// # Panics
    /// If they differ, if one of them cannot be brought back, while a write is open, and until the
    /// entity has noticed another writer.
    #[track_caller]
    pub fn check_replay(&self)
    where
        E: PartialEq + fmt::Debug,
    {
        if let Err(difference) = self.compare(&|live, replayed| live == replayed, &show) {
            panic!("{difference}");
        }
    }

    /// As [`Spec::check_replay`], by what `view` makes of a state.
    ///
    /// # Panics
    /// As [`Spec::check_replay`].
    #[track_caller]
    pub fn check_replay_by<V: PartialEq + fmt::Debug>(&self, view: impl Fn(&E) -> V) {
        let compared = self.compare(&|live, replayed| view(live) == view(replayed), &|state| {
            show(&view(state))
        });
        if let Err(difference) = compared {
            panic!("{difference}");
        }
    }

    /// What goes wrong at the store, by the number of a call from the entity's first on, or with
    /// the next one. A history that is given does not count.
    ///
    /// - `t.faults().writes.next(WriteFault::Rejected)`: refused for good.
    /// - [`WriteFault::LostRequest`]: not stored, and nobody knows; the engine asks again. If that
    ///   happens to every attempt, the caller is told after half a minute that the outcome is
    ///   unknown.
    /// - [`WriteFault::LostAnswer`]: stored but not acknowledged; the engine finds out.
    /// - [`WriteFault::Unavailable`]: not stored, as everybody knows.
    /// - `reads`, `deletes`, `snapshot_loads`, `snapshot_saves`: as they say.
    /// - `state_writes`, `state_loads`: of an entity of which only the state is kept.
    ///
    /// A slow write is [`Spec::slow_next_write`], another writer [`Spec::another_writer_stores`].
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The next write, or the one after those for which something is planned, is stored so long
    /// after it has reached the store; [`Spec::advance`] gets it there.
    pub fn slow_next_write(&mut self, after: Duration) {
        let gate = Gate::new();
        self.plan_write(WriteFault::Held(gate.clone()));
        let due = None;
        self.slow.push(Slow { gate, after, due });
    }

    /// Stores what [`WriteFault::StoredLate`] kept back.
    pub fn deliver_late_writes(&mut self) -> Happened<E> {
        let store = FaultyStore::with_faults(Arc::new(self.memory.clone()), self.faults.clone());
        at_once(store.deliver_late_writes());
        self.happened()
    }

    /// Stores events behind the entity's back, as a second system on the same database does. The
    /// entity's next write is refused then, and it recovers. They are no events of an outcome.
    ///
    /// # Panics
    /// If one cannot be encoded.
    #[track_caller]
    pub fn another_writer_stores(&mut self, events: impl IntoIterator<Item = E::Event>) {
        let events = events.into_iter().map(|event| self.encode(&event));
        let events = events.collect();
        self.store_elsewhere(events);
    }

    /// The stage, set up if there is none.
    fn start(&mut self) -> &mut Stage<E> {
        self.began = true;
        self.stage.get_or_insert_with(|| {
            self.writers += 1;
            let store =
                FaultyStore::with_faults(Arc::new(self.memory.clone()), self.faults.clone());
            Stage::new(
                self.entity.clone(),
                self.id.entity_id(),
                Arc::new(store),
                self.clock.clone(),
                self.writers,
            )
        })
    }

    /// Lets everything happen that can without more time.
    #[track_caller]
    fn drive(&mut self) {
        let Some(stage) = &mut self.stage else {
            return;
        };
        loop {
            stage.drive(|| self.log.look());
            let now = self.clock.elapsed();
            let mut opened = false;
            self.slow.retain_mut(|slow| {
                if slow.due.is_none() && slow.gate.arrived() > 0 {
                    slow.due = Some(now.saturating_add(slow.after));
                }
                let is_due = slow.due.is_some_and(|due| due <= now);
                if is_due {
                    slow.gate.open();
                    opened = true;
                }
                !is_due
            });
            if !opened {
                break;
            }
        }
        self.waiting.retain(|reply| reply.is_open());
    }

    /// As [`Spec::drive`], and lets time pass while the engine waits on its own account, until
    /// `is_done`.
    #[track_caller]
    fn drive_until(&mut self, is_done: impl Fn(&Self) -> bool) {
        let end = self.clock.elapsed().saturating_add(PATIENCE);
        loop {
            self.drive();
            let waits = self.stage.as_ref().is_some_and(Stage::waits_for_time);
            let next = self.next_time().filter(|at| *at <= end);
            let (false, true, Some(at)) = (is_done(self), waits, next) else {
                return;
            };
            self.clock.advance(at.saturating_sub(self.clock.elapsed()));
        }
    }

    /// When something happens next by time alone.
    fn next_time(&self) -> Option<Duration> {
        let stage = self.stage.as_ref().and_then(Stage::next_time);
        let slow = self.slow.iter().filter_map(|slow| slow.due);
        slow.chain(stage).min()
    }

    /// What has happened since this was asked last.
    #[track_caller]
    fn happened(&mut self) -> Happened<E> {
        self.log.look();
        let news = match self.log.take() {
            Ok(news) => news,
            Err(problem) => panic!("{problem}"),
        };
        if let Some(check) = &self.check
            && let Err(difference) = check(self)
        {
            panic!("{difference}");
        }
        Happened::new(
            news,
            self.is_in_memory(),
            self.id.clone(),
            self.entity.clone(),
            self.memory.copy(),
        )
    }

    fn live(&self) -> Option<&E> {
        self.stage.as_ref()?.peek()?.state
    }

    /// Whether the state in memory and what is stored are to be the same.
    fn comparable(&self) -> Result<(), String> {
        let Some(peek) = self.stage.as_ref().and_then(Stage::peek) else {
            return Ok(());
        };
        let id = &self.id;
        if peek.unsettled > 0 {
            return Err(format!(
                "a write of {id} is still open, so its state is ahead of what is stored; `advance` \
                 first"
            ));
        }
        if peek.state.is_some() && peek.seq_nr < self.reached() {
            return Err(format!(
                "another writer has stored events that {id} has not seen; `restart` it first"
            ));
        }
        Ok(())
    }

    /// The last number that is stored.
    fn reached(&self) -> SequenceNr {
        let snapshot = self.memory.snapshot(&self.id);
        let snapshot = snapshot.map_or(SequenceNr::ZERO, |snapshot| snapshot.seq_nr);
        highest(&*self.journal(), &self.id).max(snapshot)
    }

    /// What is stored, as the engine sees it.
    fn journal(&self) -> Arc<dyn Journal> {
        self.entity.store(Arc::new(self.memory.clone())).journal()
    }

    /// The entity as it comes back from `memory`.
    fn recover(&self, memory: MemoryStore) -> Stage<E> {
        Stage::recovered(self.entity.clone(), self.id.entity_id(), memory)
    }

    fn compare(
        &self,
        is_same: &dyn Fn(&E, &E) -> bool,
        show: &dyn Fn(&E) -> String,
    ) -> Result<(), String> {
        self.comparable()?;
        let id = &self.id;
        let rows = self.memory.rows(id);
        let snapshot = self.memory.snapshot(id);
        let all_events = if self.entity.keeps_state() {
            "its stored state".to_owned()
        } else if self.entity.way_back() == Recovery::LastEvent {
            "its last event".to_owned()
        } else {
            format!("all {} events", rows.len())
        };
        let mut ways = Vec::new();
        if let Some(codec) = self.entity.codec_of_states()
            && let Some(snapshot) = &snapshot
        {
            let at = snapshot.seq_nr;
            ways.push((
                format!("its snapshot at {at} and the events after it"),
                self.memory.copy(),
            ));
            // The engine would go on without it, with a warning.
            codec.decode(&snapshot.payload).map_err(|error| {
                let error = with_sources(&error);
                format!("the snapshot of {id} at {at} cannot be decoded: {error}")
            })?;
            let are_complete = (1_u64..)
                .zip(&rows)
                .all(|(nr, row)| row.seq_nr.value() == nr && row.event.is_some());
            if are_complete && rows.last().is_some_and(|row| row.seq_nr >= at) {
                let memory = self.memory.copy();
                let snapshots = memory.snapshot_store();
                at_once(snapshots.delete(id, SnapshotCriteria::ANY))
                    .expect("the store in memory is open");
                ways.push((all_events, memory));
            }
        } else {
            ways.push((all_events, self.memory.copy()));
        }
        if let Some(codec) = self.entity.codec_of_states() {
            ways.extend(self.snapshot_of_the_present(&**codec)?);
        }
        let mut reference = self.live().map(|state| (state, "the one in memory"));
        let recovered: Vec<_> = ways
            .into_iter()
            .map(|(way, memory)| (way, self.recover(memory)))
            .collect();
        for (way, stage) in &recovered {
            let state = stage
                .state()
                .map_err(|reason| format!("{id} does not come back from {way}: {reason}"))?;
            let &mut (expected, name) = reference.get_or_insert((state, way));
            if !is_same(expected, state) {
                return Err(format!(
                    "{id} comes back from {way} with another state than {name}\n  \
                       expected: {}\n comes back: {}",
                    show(expected),
                    show(state)
                ));
            }
        }
        Ok(())
    }

    /// What is stored, with a snapshot of the state in memory.
    fn snapshot_of_the_present(
        &self,
        codec: &dyn Codec<E>,
    ) -> Result<Option<(String, MemoryStore)>, String> {
        let id = &self.id;
        let Some(peek) = self.stage.as_ref().and_then(Stage::peek) else {
            return Ok(None);
        };
        let (Some(state), seq_nr) = (peek.state, peek.seq_nr) else {
            return Ok(None);
        };
        if seq_nr == SequenceNr::ZERO {
            return Ok(None);
        }
        let way = format!("a snapshot of it at {seq_nr}");
        let payload = codec.encode(state).map_err(|error| {
            let error = with_sources(&error);
            format!("the state of {id} cannot be encoded for a snapshot: {error}")
        })?;
        codec.decode(&payload).map_err(|error| {
            let error = with_sources(&error);
            format!("{id} does not come back from {way}: it cannot be decoded: {error}")
        })?;
        let memory = self.memory.copy();
        save(&memory, id, seq_nr, payload, &self.clock);
        Ok(Some((way, memory)))
    }

    #[track_caller]
    fn encode(&self, event: &E::Event) -> NewEvent {
        match self.entity.codec_of_events().encode(event) {
            Ok(payload) => NewEvent::new(payload),
            Err(error) => panic!("an event cannot be encoded: {}", with_sources(&error)),
        }
    }

    /// Stores events that are not those of the entity under test.
    #[track_caller]
    fn store_elsewhere(&mut self, events: Vec<NewEvent>) {
        if events.is_empty() {
            return;
        }
        // What the entity has stored by now is its own.
        self.log.look();
        self.writers += 1;
        let writer = WriterId::from_random_bits(u128::from(self.writers));
        let write = match AtomicWrite::new(self.id.clone(), writer, self.reached().next(), events) {
            Ok(write) => write,
            Err(error) => panic!("{error}"),
        };
        for answer in at_once(self.journal().write_events(&[write])) {
            answer.expect("the store in memory is open, and the number after the last is free");
        }
        self.log.pass_over();
    }

    /// The entity's next write fails like this.
    fn plan_write(&self, fault: WriteFault) {
        if self.entity.keeps_state() {
            self.faults.state_writes.next(fault);
        } else {
            self.faults.writes.next(fault);
        }
    }

    #[track_caller]
    fn assert_not_begun(&self, method: &str) {
        assert!(
            !self.began,
            "`{method}` comes before the first command; what is stored later by others is given to \
             `another_writer_stores`"
        );
    }

    #[track_caller]
    fn assert_empty(&self, method: &str) {
        let is_empty =
            self.reached() == SequenceNr::ZERO && self.memory.persistence_ids().is_empty();
        assert!(
            is_empty && !self.began,
            "`{method}` comes before everything that is given, and before the first command"
        );
    }
}

impl<S: DurableState> Spec<Durable<S>> {
    /// An entity of which only the latest state is kept, with these services, the default codec and
    /// settings, and no state. Its id is "spec". What it stores are its events: each one is a
    /// [`StateChange`].
    #[track_caller]
    pub fn durable(services: S::Services) -> Self
    where
        S: Serialize + DeserializeOwned,
    {
        Self::of(Entity::durable(services))
    }

    /// Stores this state before the first command; its revision is one more than the one before.
    ///
    /// # Panics
    /// If it cannot be encoded, or a command has come already.
    #[must_use]
    #[track_caller]
    pub fn given_state(self, state: S) -> Self {
        self.given([StateChange::put(state)])
    }

    /// The [change events](Entity::change_events) that are stored, oldest first, decoded with the
    /// default codec.
    ///
    /// # Panics
    /// If one cannot be decoded.
    #[track_caller]
    pub fn change_events<V>(&self) -> Vec<V>
    where
        V: Serialize + DeserializeOwned + Send + 'static,
    {
        self.change_events_by(&MessagePack::new(format!("{}.Event", S::TYPE)))
    }

    /// As [`Spec::change_events`], with a codec of your own.
    ///
    /// # Panics
    /// As [`Spec::change_events`].
    #[track_caller]
    pub fn change_events_by<V: 'static>(&self, codec: &dyn Codec<V>) -> Vec<V> {
        let id = &self.id;
        let rows = self.memory.rows(id).into_iter();
        let mut events = Vec::new();
        for (nr, event) in rows.filter_map(|row| Some((row.seq_nr, row.event?.1))) {
            let decoded = codec.decode_each(&event.payload, &mut |event| events.push(event));
            if let Err(error) = decoded {
                let error = with_sources(&error);
                panic!("change event {nr} of {id} is stored but cannot be decoded: {error}");
            }
        }
        events
    }
}

impl<E: EventSourced> fmt::Debug for Spec<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spec")
            .field("persistence_id", &self.id)
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

/// Notices what is stored, event by event.
struct Log<E: EventSourced> {
    memory: MemoryStore,
    /// Of a state only the latest change is there to be noticed.
    keeps_state: bool,
    /// What is stored, as the engine sees it.
    journal: Arc<dyn Journal>,
    codec: Arc<dyn Codec<E::Event>>,
    id: PersistenceId,
    /// The last row that was looked at.
    seen: SequenceNr,
    news: News<E>,
    /// The first event that could not be decoded.
    problem: Option<String>,
}

impl<E: EventSourced> Log<E> {
    fn new(entity: &Entity<E>, id: PersistenceId, memory: &MemoryStore) -> Self {
        Self {
            memory: memory.clone(),
            keeps_state: entity.keeps_state(),
            journal: entity.store(Arc::new(memory.clone())).journal(),
            codec: Arc::clone(entity.codec_of_events()),
            id,
            seen: SequenceNr::ZERO,
            news: News::default(),
            problem: None,
        }
    }

    /// Decodes what has been stored since the last look.
    fn look(&mut self) {
        if highest(&*self.journal, &self.id) <= self.seen {
            return;
        }
        if self.keeps_state {
            return self.look_at_state();
        }
        for row in self.memory.rows(&self.id) {
            let nr = row.seq_nr;
            if let Some((_, stored)) = row.event.filter(|_| nr > self.seen) {
                self.notice(nr, stored);
            }
        }
    }

    fn look_at_state(&mut self) {
        let states = self.memory.durable_state_store();
        let row = at_once(states.load(&self.id)).expect("the store in memory is open");
        let Some(row) = row else {
            return;
        };
        let mut stored = NewEvent::new(row.payload.unwrap_or_else(deletion));
        stored.tags = row.tags;
        self.notice(row.revision, stored);
    }

    fn notice(&mut self, nr: SequenceNr, stored: NewEvent) {
        self.seen = nr;
        let events = &mut self.news.events;
        let decoded = self
            .codec
            .decode_each(&stored.payload, &mut |event| events.push(event));
        if let Err(error) = decoded {
            let id = &self.id;
            self.problem.get_or_insert_with(|| {
                let error = with_sources(&error);
                format!("event {nr} of {id} is stored but cannot be decoded: {error}")
            });
        }
        self.news.stored.push(stored);
    }

    /// Takes no notice of what has been stored since the last look.
    fn pass_over(&mut self) {
        self.seen = self.seen.max(highest(&*self.journal, &self.id));
    }

    /// What was noticed since this was asked last.
    fn take(&mut self) -> Result<News<E>, String> {
        let news = std::mem::take(&mut self.news);
        self.problem.take().map_or(Ok(news), Err)
    }
}

/// The number of the last row in the journal, markers included; or the revision of a state.
fn highest(journal: &dyn Journal, id: &PersistenceId) -> SequenceNr {
    at_once(journal.highest_sequence_nr(id, SequenceNr::ZERO)).expect("the store in memory is open")
}

fn save(
    memory: &MemoryStore,
    id: &PersistenceId,
    seq_nr: SequenceNr,
    payload: SerializedPayload,
    clock: &ManualClock,
) {
    let snapshot = Snapshot {
        persistence_id: id.clone(),
        seq_nr,
        write_timestamp: clock.now(),
        payload,
        metadata: None,
    };
    at_once(memory.snapshot_store().save(&snapshot)).expect("the store in memory is open");
}

#[track_caller]
fn persistence_id<E: EventSourced>(entity_id: &str) -> PersistenceId {
    match PersistenceId::new(E::TYPE, entity_id) {
        Ok(id) => id,
        Err(error) => panic!("{error}"),
    }
}

/// The output of a future of the store in memory, which never waits.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    future
        .now_or_never()
        .expect("the store in memory answers at once")
}

fn show<T: fmt::Debug>(value: &T) -> String {
    format!("{value:?}")
}

/// The error and its sources in one line.
fn with_sources(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
