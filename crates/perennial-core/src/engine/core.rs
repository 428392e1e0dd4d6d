//! What all cells of a worker share: its bounds, time, timers, run queue, permits and lanes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use perennial_persistence::{
    Clock, Error, NUMBER_OF_SLICES, PageLimit, PersistenceId, Slice, Timestamp, WriterId,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::config::{PersistenceConfig, SystemConfig};
use crate::engine::actor::ActorTimer;
use crate::engine::breaker::{
    Breaker, BreakerSettings, BreakerState, BreakerView, Call, Change, HeldBack,
};
use crate::engine::journal_writer::{Gathered, Lane, backoff};
use crate::engine::pulse::Pulse;
use crate::engine::recovery::Part;
use crate::engine::reminders::{ReminderSettings, Reminders};
use crate::engine::tally::{Bounded, BusyCounts, Timings, TypeStats};
use crate::engine::{
    CellKey, Expired, HoldRefused, Input, Outbox, ReadRequest, Registry, ReplyCleanup,
};
use crate::error::{AskError, CLEANED_UP, STORE_AWAY};

/// What all cells of a worker share.
pub(crate) struct Core {
    pub(crate) settings: Settings,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) stats: Arc<Stats>,
    /// The time of the latest look at the clock.
    pub(crate) now: Duration,
    /// The wall clock at the beginning of the turn.
    pub(crate) wall: Timestamp,
    pub(crate) out: Outbox,
    /// The types of the messages that an actor has handled since the last look at the clock.
    pub(crate) handled: Vec<&'static str>,
    /// Empty; keeps the room for what the worker's own code sends to it.
    pub(super) own: Vec<Input>,
    /// Whether cells are forgotten as soon as they have nothing to do.
    pub(crate) draining: bool,
    /// Whether actors are to end, so that none of them waits before it begins anew.
    pub(crate) actors_end: bool,
    pub(crate) open_laters: usize,
    /// Whether the store failed to read when it was last asked.
    pub(crate) reads_fail: bool,
    /// Where times go, if they are taken.
    pub(crate) timings: Option<Timings>,
    #[cfg(feature = "defects")]
    pub(crate) defects: Defects,
    rng: SmallRng,
    run_queue: VecDeque<CellKey>,
    pub(super) timers: BTreeMap<TimerKey, Timed>,
    timer_count: u64,
    incarnations: u64,
    laters: u64,
    /// The lanes of the first store, then those of the second, and so on.
    pub(super) lanes: Vec<Lane>,
    /// One per store.
    pub(super) breakers: Vec<Breaker>,
    /// Reminders of its entities.
    pub(super) reminders: Reminders,
    /// Entities that are kept out of memory.
    held: BTreeSet<PersistenceId>,
    registry: Arc<Registry>,
    /// Which worker of the registry this is.
    worker: usize,
    /// Whether it has ever given a slice away, so that it may have entities of other workers.
    has_given: bool,
    permits: usize,
    /// When replies of entity types are next deleted by age, by the index of the type.
    sweeps: Vec<Duration>,
    /// Cells that wait for a permit, those with waiting callers first.
    wanting: [VecDeque<CellKey>; 2],
}

/// The bounds of one worker.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// Batches that may be in flight at once to one store, each with entities of its own; at least
    /// 1.
    pub lanes: usize,
    /// The most events in one batch.
    pub batch_events: usize,
    /// The most payload bytes in one batch; a larger single write goes alone.
    pub batch_bytes: usize,
    /// The most events of one command.
    pub events_per_write: usize,
    /// The most payload bytes of one event.
    pub event_bytes: usize,
    /// Entities that may be recovering at once.
    pub recoveries: usize,
    /// How much is read of an entity's history at once.
    pub page: PageLimit,
    /// The shortest and the longest time before the store is tried again.
    pub retry: (Duration, Duration),
    /// How long an open outcome of a write is pursued before its callers are told `Unknown`.
    pub outcome_timeout: Duration,
    /// When a store counts as slow or down, and how it is found out that it is back.
    pub breaker: BreakerSettings,
    /// Commands of one cell before others run.
    pub messages_per_run: usize,
    /// The time of one turn, after which the worker lets its thread do other things.
    pub turn_budget: Duration,
    /// How long the thread of a worker that has nothing to do looks for something new before it
    /// sleeps.
    pub spin_before_park: Duration,
    /// How long a task that waits for an answer looks for it before it yields.
    pub spin_before_yield: Duration,
    /// How many cells run in one turn at the most; for drivers whose time stands still in a turn, so
    /// that the budget never ends it. As many as the budget allows by default.
    pub runs_per_turn: usize,
    /// A handler that takes longer is named in the log.
    pub slow_handler: Duration,
    /// Futures of `later` that may be open at once.
    pub laters: usize,
    /// How long a future of `later` may take unless it says otherwise.
    pub later_timeout: Duration,
    /// How many dead letters are logged.
    pub dead_letter_log: DeadLetterLog,
    /// How reminders are read ahead, and how many come at once.
    pub reminders: ReminderSettings,
}

/// How many dead letters are named in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadLetterLog {
    /// So many lines at most, in each interval.
    pub lines: u64,
    /// How long an interval is.
    pub interval: Duration,
}

impl Default for DeadLetterLog {
    fn default() -> Self {
        Self {
            lines: 10,
            interval: Duration::from_secs(10),
        }
    }
}

impl Settings {
    /// The bounds of one of `workers` workers, as the configuration says.
    pub fn of(system: &SystemConfig, persistence: &PersistenceConfig, workers: usize) -> Self {
        Self {
            lanes: persistence.writers,
            batch_events: persistence.batch_events,
            batch_bytes: persistence.batch_bytes,
            events_per_write: persistence.max_events_per_write,
            event_bytes: persistence.max_event_bytes,
            recoveries: persistence.recoveries.div_ceil(workers),
            page: PageLimit {
                rows: persistence.replay_rows,
                bytes: persistence.replay_bytes,
            },
            retry: (persistence.retry_min, persistence.retry_max),
            outcome_timeout: persistence.outcome_timeout,
            breaker: BreakerSettings {
                failures: persistence.breaker_failures,
                slow_call: persistence.breaker_slow_call,
                reset: persistence.breaker_reset,
            },
            messages_per_run: system.messages_per_turn,
            turn_budget: system.turn_budget,
            runs_per_turn: usize::MAX,
            spin_before_park: spin(system.spin_before_park),
            spin_before_yield: spin(system.spin_before_yield),
            slow_handler: system.slow_handler,
            laters: system.later_limit.div_ceil(workers),
            later_timeout: system.later_timeout,
            dead_letter_log: DeadLetterLog {
                lines: system.dead_letter_log_lines,
                interval: system.dead_letter_log_interval,
            },
            reminders: ReminderSettings {
                window: persistence.reminder_window,
                ahead: persistence.reminders_ahead.div_ceil(workers),
                at_once: persistence.reminders_at_once.div_ceil(workers),
            },
        }
    }
}

/// How long to spin; not at all where whoever is waited for has no other processor.
fn spin(configured: Duration) -> Duration {
    match std::thread::available_parallelism() {
        Ok(processors) if processors.get() > 1 => configured,
        _ => Duration::ZERO,
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lanes: 4,
            batch_events: 5000,
            batch_bytes: 8 << 20,
            events_per_write: 999,
            event_bytes: 16 << 20,
            recoveries: 128,
            page: PageLimit {
                rows: 500,
                bytes: 1 << 20,
            },
            retry: (Duration::from_millis(50), Duration::from_secs(2)),
            outcome_timeout: Duration::from_secs(30),
            breaker: BreakerSettings::default(),
            messages_per_run: 64,
            turn_budget: Duration::from_micros(500),
            spin_before_park: Duration::ZERO,
            spin_before_yield: Duration::ZERO,
            runs_per_turn: usize::MAX,
            slow_handler: Duration::from_millis(50),
            laters: 1024,
            later_timeout: Duration::from_secs(60),
            dead_letter_log: DeadLetterLog::default(),
            reminders: ReminderSettings::default(),
        }
    }
}

/// What a worker has done and has, for people and for tests that wait for something.
#[derive(Debug, Default)]
pub struct Stats {
    /// Entities in memory, recovering ones included.
    pub resident: AtomicUsize,
    /// Entities that were brought back.
    pub recovered: AtomicU64,
    /// Events that were replayed.
    pub replayed: AtomicU64,
    /// Events that were stored.
    pub stored: AtomicU64,
    /// Snapshots that were saved.
    pub snapshots: AtomicU64,
    /// Actors that have not ended.
    pub actors: AtomicUsize,
    /// Failures of actors.
    pub actor_failures: AtomicU64,
    /// Restarts of actors.
    pub actor_restarts: AtomicU64,
    /// Commands that took longer than `slow-handler`.
    pub slow_handlers: AtomicU64,
    /// Entities that have gone to another worker.
    pub moved: AtomicU64,
    /// How long its turns took, in nanoseconds.
    pub(crate) busy_nanos: AtomicU64,
    /// How long it has handled commands for each slice, in nanoseconds.
    pub(crate) slices: Box<[AtomicU64]>,
    /// Whether it still turns, and whose code runs.
    pub pulse: Pulse,
    /// How it stands with the way to each store.
    pub breakers: Vec<BreakerView>,
    /// By the index of the entity type.
    pub(crate) types: Vec<TypeStats>,
    /// What cells have refused as busy.
    pub(crate) busy: BusyCounts,
}

impl Stats {
    /// `limits` are how many entities of each type may be in memory, 0 for any number.
    pub(super) fn new(stores: &[&'static str], limits: &[usize], worker: usize) -> Self {
        let breaker = |&store: &&'static str| BreakerView::new(store, worker);
        Self {
            breakers: stores.iter().map(breaker).collect(),
            types: limits.iter().copied().map(TypeStats::new).collect(),
            slices: (0..NUMBER_OF_SLICES).map(|_| AtomicU64::new(0)).collect(),
            ..Self::default()
        }
    }
}

/// Adds to a sum that nobody else writes.
fn add_nanos(sum: &AtomicU64, time: Duration) {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let before = sum.load(Ordering::Relaxed);
    sum.store(before.saturating_add(nanos), Ordering::Relaxed);
}

/// Parts of the engine that can be broken on purpose, to see that tests notice.
#[cfg(feature = "defects")]
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Defects {
    /// A reply without events is let out although its state is not durable yet.
    pub show_tentative_state: bool,
    /// Later writes of an entity go out although an earlier one failed.
    pub keep_later_writes: bool,
    /// A command with an id is handled although it was handled before.
    pub handle_again: bool,
    /// What waits for an actor that ends is lost.
    pub lose_at_end: bool,
    /// An actor is told twice of an end, and whether it still watches or not.
    pub tell_twice: bool,
    /// A timer of an actor that is cancelled fires all the same.
    pub keep_cancelled_timers: bool,
    /// A message is handled although its asker was told that it would not be.
    pub handle_expired: bool,
    /// What an actor has stashed comes back in the wrong order.
    pub unstash_backwards: bool,
    /// A message takes the place before the one that came before it.
    pub overtake: bool,
    /// The place in a mailbox is not given back of a message whose asker has gone.
    pub keep_places: bool,
}

/// A timer that has not fired yet: when it does, and a count, so that timers of one instant fire in
/// the order in which they were started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimerKey {
    pub(super) at: Duration,
    count: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Timed {
    Lane(usize),
    /// A store may be tried again.
    Probe(usize),
    /// A call of a store may have taken too long.
    SlowCall(usize),
    /// The longest idle cells of an entity type.
    Idle(usize),
    Cell(CellKey, CellTimer),
    Actor(CellKey, ActorTimer),
    /// Reminders are due, or to be read.
    Reminders,
}

/// Why a cell is woken.
#[derive(Debug, Clone, Copy)]
pub(crate) enum CellTimer {
    /// The time after a failure is over.
    Backoff,
    /// The store is to be asked again for the entity's history.
    Read,
    /// The store was to have answered with a part of the entity's history by now.
    RecoveryTimeout,
    /// The stored replies are to be asked for again.
    Replies,
    /// The entity was to have left by now.
    Leave,
    /// A timer of the entity.
    User(u64),
}

impl Core {
    pub(super) fn new(
        settings: Settings,
        clock: Arc<dyn Clock>,
        seed: [u8; 32],
        stats: Arc<Stats>,
        stores: usize,
        (registry, worker): (Arc<Registry>, usize),
    ) -> Self {
        let lanes = settings.lanes.max(1) * stores.max(1);
        Self {
            lanes: (0..lanes).map(Lane::new).collect(),
            breakers: (0..stats.breakers.len())
                .map(|store| Breaker::new(settings.breaker, store, Arc::clone(&stats)))
                .collect(),
            permits: settings.recoveries.max(1),
            settings,
            now: clock.elapsed(),
            wall: clock.now(),
            clock,
            stats,
            out: Outbox::default(),
            handled: Vec::new(),
            own: Vec::new(),
            draining: false,
            actors_end: false,
            open_laters: 0,
            reads_fail: false,
            timings: None,
            #[cfg(feature = "defects")]
            defects: Defects::default(),
            rng: SmallRng::from_seed(seed),
            run_queue: VecDeque::new(),
            timers: BTreeMap::new(),
            timer_count: 0,
            incarnations: 0,
            laters: 0,
            reminders: Reminders::default(),
            held: BTreeSet::new(),
            registry,
            worker,
            has_given: false,
            sweeps: Vec::new(),
            wanting: [VecDeque::new(), VecDeque::new()],
        }
    }

    pub(crate) fn look_at_clock(&mut self) -> Duration {
        self.now = self.clock.elapsed();
        self.now
    }

    pub(crate) fn schedule(&mut self, key: CellKey) {
        self.run_queue.push_back(key);
    }

    pub(crate) fn gather(&mut self, lane: usize, write: Gathered) {
        self.lanes[lane].gather(write, self.now);
    }

    /// The lane of a slice's entities that are kept in a store.
    pub(crate) fn lane_of(&self, store: usize, slice: Slice) -> usize {
        let lanes = self.settings.lanes.max(1);
        store * lanes + usize::from(slice.value()) % lanes
    }

    pub(crate) fn next_incarnation(&mut self) -> u64 {
        self.incarnations += 1;
        self.incarnations
    }

    pub(crate) fn next_later(&mut self) -> u64 {
        self.laters += 1;
        self.laters
    }

    pub(crate) fn new_writer(&mut self) -> WriterId {
        WriterId::from_random_bits(self.rng.random())
    }

    pub(crate) fn jitter(&mut self) -> f64 {
        self.rng.random()
    }

    /// The time before attempt `number + 1`, spread by chance.
    pub(crate) fn backoff(&mut self, number: u32, min: Duration, max: Duration) -> Duration {
        let jitter = self.jitter();
        backoff(number, min, max, jitter)
    }

    pub(crate) fn start_cell_timer(
        &mut self,
        after: Duration,
        key: CellKey,
        timer: CellTimer,
    ) -> TimerKey {
        let at = self.now.saturating_add(after);
        self.start_timer(at, Timed::Cell(key, timer))
    }

    pub(crate) fn start_actor_timer(
        &mut self,
        after: Duration,
        key: CellKey,
        timer: ActorTimer,
    ) -> TimerKey {
        let at = self.now.saturating_add(after);
        self.start_timer(at, Timed::Actor(key, timer))
    }

    /// Takes a timer back; one that has fired is gone already.
    pub(crate) fn cancel_timer(&mut self, timer: TimerKey) {
        self.timers.remove(&timer);
    }

    pub(crate) fn start_idle_timer(&mut self, at: Duration, host: usize) {
        self.start_timer(at, Timed::Idle(host));
    }

    pub(super) fn start_timer(&mut self, at: Duration, what: Timed) -> TimerKey {
        self.timer_count += 1;
        let key = TimerKey {
            at,
            count: self.timer_count,
        };
        self.timers.insert(key, what);
        key
    }

    /// The next cell that can run: one that may start to recover, or else one with work.
    pub(super) fn next_runnable(&mut self) -> Option<CellKey> {
        let recovers = if self.permits > 0 {
            self.wanting.iter_mut().find_map(VecDeque::pop_front)
        } else {
            None
        };
        recovers.or_else(|| self.run_queue.pop_front())
    }

    pub(super) fn has_runnable(&self) -> bool {
        !self.run_queue.is_empty()
            || (self.permits > 0 && self.wanting.iter().any(|keys| !keys.is_empty()))
    }

    /// Queues a cell for a permit to recover; it is run once there is one.
    pub(crate) fn want_permit(&mut self, key: CellKey, callers_wait: bool) {
        self.wanting[usize::from(!callers_wait)].push_back(key);
    }

    /// How many cells get a permit before this one, if it waits for one.
    pub(crate) fn ahead_of(&self, key: CellKey) -> Option<usize> {
        let mut ahead = 0;
        for keys in &self.wanting {
            match keys.iter().position(|other| *other == key) {
                Some(at) => return Some(ahead + at),
                None => ahead += keys.len(),
            }
        }
        None
    }

    /// Whether a store is slow or down, as far as this worker knows.
    pub(crate) fn is_away(&self, store: usize) -> bool {
        let view = &self.stats.breakers[self.breaker_of(store)];
        view.report().state != BreakerState::Closed
    }

    /// Takes a permit, if there is one.
    pub(crate) fn take_permit(&mut self) -> bool {
        let granted = self.permits > 0;
        self.permits -= usize::from(granted);
        granted
    }

    pub(crate) fn return_permit(&mut self) {
        self.permits += 1;
    }

    /// Asks a store for a part of an entity's history, unless its breaker is open; the cell gets
    /// [`CellTimer::Read`] then as soon as it may ask again. Gives whether it was asked.
    pub(crate) fn read(
        &mut self,
        store: usize,
        key: CellKey,
        id: &PersistenceId,
        part: Part,
    ) -> bool {
        let breaker = self.breaker_of(store);
        let Some(call) = self.begin_call(breaker) else {
            self.breakers[breaker].hold_back(HeldBack::Read(key));
            return false;
        };
        self.out.reads.push(ReadRequest {
            key,
            persistence_id: id.clone(),
            part,
            limit: self.settings.page,
            breaker,
            call,
        });
        true
    }

    /// The breaker of a store. A store's events and its states have numbers of their own, but it is
    /// one store.
    pub(super) fn breaker_of(&self, store: usize) -> usize {
        store % self.breakers.len()
    }

    /// The breaker of a lane's store.
    pub(super) fn breaker_of_lane(&self, lane: usize) -> usize {
        self.breaker_of(lane / self.settings.lanes.max(1))
    }

    /// Whether a command that needs the store may go on.
    ///
    /// # Errors
    /// [`AskError::Busy`] while the store's breaker is open.
    pub(crate) fn admit(&mut self, store: usize) -> Result<(), AskError> {
        let breaker = self.breaker_of(store);
        self.breakers[breaker]
            .admit(self.now)
            .map_err(|left| AskError::Busy {
                what: STORE_AWAY,
                retry_after: left.max(self.settings.retry.0),
            })
    }

    /// A call of a store goes out, unless it must not.
    pub(super) fn begin_call(&mut self, breaker: usize) -> Option<Call> {
        let call = self.breakers[breaker].begin(self.now)?;
        self.watch_calls(breaker);
        Some(call)
    }

    /// A call of a store has ended; with an error if the store did not do its part.
    pub(super) fn end_call(&mut self, breaker: usize, call: Call, error: Option<&Error>) -> Change {
        let change = self.breakers[breaker].end(call, self.now, self.wall, error);
        self.watch_calls(breaker);
        self.follow(breaker, change)
    }

    /// Counts calls that have taken too long.
    pub(super) fn look_for_slow_calls(&mut self, breaker: usize) -> Change {
        self.breakers[breaker].slow_timer = None;
        let change = self.breakers[breaker].look_for_slow_calls(self.now, self.wall);
        self.watch_calls(breaker);
        self.follow(breaker, change)
    }

    /// Has a timer while calls are under way. It may be early, for a call that has ended.
    fn watch_calls(&mut self, breaker: usize) {
        let watched = &mut self.breakers[breaker];
        if watched.slow_timer.is_some() {
            if !watched.has_calls()
                && let Some(timer) = watched.slow_timer.take()
            {
                self.cancel_timer(timer);
            }
        } else if let Some(at) = watched.slow_at() {
            let timer = self.start_timer(at, Timed::SlowCall(breaker));
            self.breakers[breaker].slow_timer = Some(timer);
        }
    }

    fn follow(&mut self, breaker: usize, change: Change) -> Change {
        if let Change::Opened(probe_at) = change {
            self.start_timer(probe_at, Timed::Probe(breaker));
        }
        change
    }

    /// A command of a slice has taken so long.
    pub(crate) fn note_busy(&self, host: usize, slice: Slice, time: Duration) {
        if self.registry.stays(host) {
            // It could not be relieved of that.
            return;
        }
        if let Some(sum) = self.stats.slices.get(usize::from(slice.value())) {
            add_nanos(sum, time);
        }
    }

    /// A turn has taken so long.
    pub(super) fn note_turn(&self, time: Duration) {
        add_nanos(&self.stats.busy_nanos, time);
    }

    /// Whether entities are on their way here.
    pub(super) fn is_expecting(&self) -> bool {
        self.registry.is_expecting(self.worker)
    }

    /// Which worker this is.
    pub(crate) fn worker(&self) -> usize {
        self.worker
    }

    /// Gives slices to another worker, of those that are this one's. What is kept out of memory
    /// keeps its slice here.
    pub(super) fn give_slices(&mut self, slices: &[Slice], to: usize) {
        for slice in slices.iter().copied() {
            let is_held = || self.held.iter().any(|id| id.slice() == slice);
            if !self.registry.is_closed() && self.registry.owner(slice) == self.worker && !is_held()
            {
                self.registry.give_slice(slice, to);
                self.has_given = true;
            }
        }
    }

    /// Where an entity of a type belongs whose slice was given away.
    pub(crate) fn belongs_elsewhere(&self, host: usize, id: &PersistenceId) -> Option<usize> {
        if !self.has_given
            || self.draining
            || self.registry.is_closed()
            || self.registry.stays(host)
        {
            return None;
        }
        let owner = self.registry.owner(id.slice());
        (owner != self.worker && !self.held.contains(id)).then_some(owner)
    }

    /// Keeps an entity out of memory that is not there.
    pub(super) fn hold(&mut self, id: PersistenceId, is_resident: bool) -> Result<(), HoldRefused> {
        if is_resident {
            Err(HoldRefused::Resident)
        } else if self.held.insert(id) {
            Ok(())
        } else {
            Err(HoldRefused::Held)
        }
    }

    pub(super) fn let_go(&mut self, id: &PersistenceId) {
        self.held.remove(id);
    }

    /// Whether an entity is kept out of memory.
    pub(crate) fn is_held(&self, id: &PersistenceId) -> bool {
        !self.held.is_empty() && self.held.contains(id)
    }

    /// Whether an entity may come into memory.
    ///
    /// # Errors
    /// [`AskError::Busy`] while it is kept out.
    pub(crate) fn may_come(&self, id: &PersistenceId) -> Result<(), AskError> {
        if !self.is_held(id) {
            return Ok(());
        }
        Err(self.busy(CLEANED_UP, Bounded::CleanUp))
    }

    /// Has the replies of a type deleted that are older than `age`, now and then.
    pub(crate) fn sweep(&mut self, host: usize, entity_type: &'static str, age: Duration) {
        /// How many times within `age`, and the shortest and longest time between two.
        const OFTEN: u32 = 24;
        const BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));
        if self.sweeps.len() <= host {
            self.sweeps.resize(host + 1, Duration::ZERO);
        }
        if self.now < self.sweeps[host] {
            return;
        }
        let interval = (age / OFTEN).clamp(BOUNDS.0, BOUNDS.1);
        self.sweeps[host] = self.now.saturating_add(interval);
        if let Ok(before) = self.wall.checked_sub(age) {
            let expired = Expired::Before(entity_type, before);
            self.out.cleanups.push(ReplyCleanup { host, expired });
        }
    }

    pub(crate) fn busy(&self, what: &'static str, bound: Bounded) -> AskError {
        self.stats.busy.note(bound);
        AskError::Busy {
            what,
            retry_after: self.settings.retry.0,
        }
    }
}
