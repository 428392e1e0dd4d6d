//! One worker: the owner of some slices and all that lives in them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use perennial_persistence::{Clock, PageLimit, Timestamp, WriterId};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::engine::host::AnyHost;
use crate::engine::journal_writer::{
    BatchBuilder, BatchLimits, Gathered, Lane, RetrySettings, Settled, SettledBatch, backoff,
};
use crate::engine::recovery::Part;
use crate::engine::{CellKey, Input, Outbox, ReadRequest};
use crate::error::AskError;

/// The bounds of one worker.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// Batches that may be in flight at once, each with entities of its own; at least 1.
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
    /// Commands of one cell before others run.
    pub messages_per_run: usize,
    /// The time of one turn, after which the worker lets its thread do other things.
    pub turn_budget: Duration,
    /// A handler that takes longer is named in the log.
    pub slow_handler: Duration,
    /// Futures of `later` that may be open at once.
    pub laters: usize,
    /// How long a future of `later` may take unless it says otherwise.
    pub later_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lanes: 2,
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
            messages_per_run: 64,
            turn_budget: Duration::from_micros(500),
            slow_handler: Duration::from_millis(50),
            laters: 1024,
            later_timeout: Duration::from_secs(60),
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
}

/// A worker's cells and what they need.
pub struct Worker {
    hosts: Vec<Box<dyn AnyHost>>,
    core: Core,
}

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
    /// Whether cells are forgotten as soon as they have nothing to do.
    pub(crate) draining: bool,
    pub(crate) open_laters: usize,
    /// Whether the store failed to read when it was last asked.
    pub(crate) reads_fail: bool,
    #[cfg(feature = "defects")]
    pub(crate) defects: Defects,
    rng: SmallRng,
    run_queue: VecDeque<CellKey>,
    timers: BTreeMap<TimerKey, Timed>,
    timer_count: u64,
    incarnations: u64,
    laters: u64,
    lanes: Vec<Lane>,
    permits: usize,
    /// Cells that wait for a permit, those with waiting callers first.
    wanting: [VecDeque<CellKey>; 2],
}

/// A timer that has not fired yet: when it does, and a count, so that timers of one instant fire in
/// the order in which they were started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimerKey {
    at: Duration,
    count: u64,
}

#[derive(Debug, Clone, Copy)]
enum Timed {
    Lane(usize),
    /// The longest idle cells of an entity type.
    Idle(usize),
    Cell(CellKey, CellTimer),
}

/// Why a cell is woken.
#[derive(Debug, Clone, Copy)]
pub(crate) enum CellTimer {
    /// The time after a failure is over.
    Backoff,
    /// The store is to be asked again for the entity's history.
    Read,
    /// A timer of the entity.
    User(u64),
}

impl Worker {
    /// A worker with one host per entity type, in the registry's order.
    pub(crate) fn new(
        hosts: Vec<Box<dyn AnyHost>>,
        settings: Settings,
        clock: Arc<dyn Clock>,
        seed: [u8; 32],
        stats: Arc<Stats>,
    ) -> Self {
        let lanes = (0..settings.lanes.max(1)).map(Lane::new).collect();
        Self {
            hosts,
            core: Core {
                permits: settings.recoveries.max(1),
                settings,
                now: clock.elapsed(),
                wall: clock.now(),
                clock,
                stats,
                out: Outbox::default(),
                draining: false,
                open_laters: 0,
                reads_fail: false,
                #[cfg(feature = "defects")]
                defects: Defects::default(),
                rng: SmallRng::from_seed(seed),
                run_queue: VecDeque::new(),
                timers: BTreeMap::new(),
                timer_count: 0,
                incarnations: 0,
                laters: 0,
                lanes,
                wanting: [VecDeque::new(), VecDeque::new()],
            },
        }
    }

    /// Breaks the engine on purpose.
    #[cfg(feature = "defects")]
    pub fn set_defects(&mut self, defects: Defects) {
        self.core.defects = defects;
    }

    /// Takes all `inputs`, runs what can run within the turn's budget, and gives what is to be
    /// done outside.
    pub fn turn(&mut self, inputs: impl IntoIterator<Item = Input>) -> Outbox {
        let Self { hosts, core } = self;
        let start = core.look_at_clock();
        core.wall = core.clock.now();
        for input in inputs {
            receive(hosts, core, input);
        }
        fire_timers(hosts, core);
        while let Some(key) = core.next_runnable() {
            hosts[key.host].run(core, key);
            if core.now.saturating_sub(start) >= core.settings.turn_budget {
                break;
            }
        }
        flush(hosts, core);
        core.out.busy = core.has_runnable();
        core.out.wake_at = core.timers.keys().next().map(|timer| timer.at);
        std::mem::take(&mut core.out)
    }

    /// Whether everything is flushed and every entity forgotten, after [`Input::Shutdown`].
    pub fn is_done(&self) -> bool {
        self.core.draining
            && self.hosts.iter().all(|host| host.is_empty())
            && self.core.lanes.iter().all(Lane::is_empty)
    }

    /// What the worker has and has done.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.core.stats
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("stats", &self.core.stats)
            .finish_non_exhaustive()
    }
}

fn receive(hosts: &mut [Box<dyn AnyHost>], core: &mut Core, input: Input) {
    match input {
        Input::Command(command) => {
            let host = command.address().host();
            hosts[host].receive(core, command);
        }
        Input::Written(settled) => answered(hosts, core, *settled),
        Input::Read(read) => {
            let host = read.request.key.host;
            hosts[host].read(core, *read);
        }
        Input::LaterDone(done) => {
            core.open_laters -= 1;
            hosts[done.key.host].later_done(core, *done);
        }
        Input::SnapshotSaved(key, result) => hosts[key.host].snapshot_saved(core, key, *result),
        Input::Shutdown => {
            core.draining = true;
            for host in hosts {
                host.drain(core);
            }
        }
    }
}

fn answered(hosts: &mut [Box<dyn AnyHost>], core: &mut Core, settled: SettledBatch) {
    let retry = RetrySettings {
        min: core.settings.retry.0,
        max: core.settings.retry.1,
        outcome_timeout: core.settings.outcome_timeout,
    };
    let lane = settled.lane();
    let jitter = core.jitter();
    let (done, again_at) = core.lanes[lane].answered(settled, core.now, retry, jitter);
    if let Some(at) = again_at {
        core.start_timer(at, Timed::Lane(lane));
    }
    for (item, outcome) in done {
        if let Settled::Stored(_) = outcome {
            core.stats.stored.fetch_add(item.events, Ordering::Relaxed);
        }
        hosts[item.key.host].settled(core, item, outcome);
    }
}

fn fire_timers(hosts: &mut [Box<dyn AnyHost>], core: &mut Core) {
    while let Some(timer) = core.timers.first_entry()
        && timer.key().at <= core.now
    {
        match timer.remove() {
            Timed::Lane(lane) => {
                if let Some(batch) = core.lanes[lane].retry() {
                    core.out.writes.push(batch);
                }
            }
            Timed::Idle(host) => hosts[host].passivate(core),
            Timed::Cell(key, timer) => hosts[key.host].timer(core, key, timer),
        }
    }
}

/// Sends what has gathered in lanes that are idle.
fn flush(hosts: &mut [Box<dyn AnyHost>], core: &mut Core) {
    let limits = BatchLimits {
        events: core.settings.batch_events,
        bytes: core.settings.batch_bytes,
    };
    for lane in 0..core.lanes.len() {
        while core.lanes[lane].is_due() {
            let mut batch = BatchBuilder::default();
            while let Some(mut gathered) = core.lanes[lane].next_gathered(&batch, limits) {
                match hosts[gathered.key.host].previous(core, gathered.key) {
                    Some(previous) => {
                        gathered.write.previous = previous;
                        batch.push(gathered);
                    }
                    // An earlier write of the entity has failed: this one must not survive it.
                    None => hosts[gathered.key.host].overtaken(core, gathered),
                }
            }
            if !batch.is_empty() {
                let batch = core.lanes[lane].send(batch, core.now);
                core.out.writes.push(batch);
            }
        }
    }
}

impl Core {
    pub(crate) fn look_at_clock(&mut self) -> Duration {
        self.now = self.clock.elapsed();
        self.now
    }

    pub(crate) fn schedule(&mut self, key: CellKey) {
        self.run_queue.push_back(key);
    }

    pub(crate) fn gather(&mut self, lane: usize, write: Gathered) {
        self.lanes[lane].gather(write);
    }

    pub(crate) fn lane_of(&self, slice: perennial_persistence::Slice) -> usize {
        usize::from(slice.value()) % self.lanes.len()
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

    /// Takes a timer back; one that has fired is gone already.
    pub(crate) fn cancel_timer(&mut self, timer: TimerKey) {
        self.timers.remove(&timer);
    }

    pub(crate) fn start_idle_timer(&mut self, at: Duration, host: usize) {
        self.start_timer(at, Timed::Idle(host));
    }

    fn start_timer(&mut self, at: Duration, what: Timed) -> TimerKey {
        self.timer_count += 1;
        let key = TimerKey {
            at,
            count: self.timer_count,
        };
        self.timers.insert(key, what);
        key
    }

    /// The next cell that can run: one that may start to recover, or else one with work.
    fn next_runnable(&mut self) -> Option<CellKey> {
        let recovers = if self.permits > 0 {
            self.wanting.iter_mut().find_map(VecDeque::pop_front)
        } else {
            None
        };
        recovers.or_else(|| self.run_queue.pop_front())
    }

    fn has_runnable(&self) -> bool {
        !self.run_queue.is_empty()
            || (self.permits > 0 && self.wanting.iter().any(|keys| !keys.is_empty()))
    }

    /// Queues a cell for a permit to recover; it is run once there is one.
    pub(crate) fn want_permit(&mut self, key: CellKey, callers_wait: bool) {
        self.wanting[usize::from(!callers_wait)].push_back(key);
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

    pub(crate) fn read(
        &mut self,
        key: CellKey,
        id: &perennial_persistence::PersistenceId,
        part: Part,
    ) {
        self.out.reads.push(ReadRequest {
            key,
            persistence_id: id.clone(),
            part,
            limit: self.settings.page,
        });
    }

    pub(crate) fn busy(&self, what: &'static str) -> AskError {
        AskError::Busy {
            what,
            retry_after: self.settings.retry.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use perennial_persistence::ReplayPage;
    use perennial_testkit::ManualClock;
    use tokio::sync::mpsc::UnboundedReceiver;

    use super::*;
    use crate::engine::{Assembled, Assembly, Frame, PageRead, ReadDone};
    use crate::event_sourced::{Cx, Effect, Entity, EventSourced, Handle};

    #[derive(Default)]
    struct Lamp;

    impl EventSourced for Lamp {
        const TYPE: &'static str = "Lamp";
        type Event = ();
        type Services = ();

        fn apply(&mut self, (): &()) {}
    }

    struct Look;

    impl Handle<Look> for Lamp {
        type Reply = ();

        fn handle(&self, _: Look, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
            cx.reply(())
        }
    }

    struct PutOut;

    impl Handle<PutOut> for Lamp {
        type Reply = ();

        fn handle(&self, _: PutOut, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
            cx.stop().reply(|_| ())
        }
    }

    /// Turns until nothing comes out any more; every history is empty.
    fn turn(worker: &mut Worker, inbox: &mut UnboundedReceiver<Input>) {
        let mut inputs: Vec<Input> = Vec::new();
        loop {
            while let Ok(input) = inbox.try_recv() {
                inputs.push(input);
            }
            let out = worker.turn(inputs.drain(..));
            for request in out.reads {
                let page = ReplayPage {
                    events: Vec::new(),
                    highest: perennial_persistence::SequenceNr::ZERO,
                    highest_timestamp: None,
                    more: false,
                };
                let result = Ok(PageRead {
                    snapshot: None,
                    page,
                });
                inputs.push(Input::Read(Box::new(ReadDone { request, result })));
            }
            if inputs.is_empty() && !out.busy {
                return;
            }
        }
    }

    #[test]
    fn an_entity_that_stops_again_and_again_leaves_no_trail_among_the_idle_ones() {
        const IDLE: Duration = Duration::from_secs(10);
        let clock = ManualClock::new();
        let frame = Frame {
            workers: 1,
            settings: Settings::default(),
            inbox: 10,
            ask_timeout: Duration::from_secs(1),
            deadlines: None,
            clock: Arc::new(clock.clone()),
        };
        let lamp = Entity::<Lamp>::new(()).passivate_after(Some(IDLE));
        let assembled = Assembly::new().entity(lamp).build(frame, || [0; 32]);
        let Assembled { registry, workers } = assembled;
        let [(mut worker, mut inbox)] = <[_; 1]>::try_from(workers).expect("one worker");
        let lamp = registry.entity::<Lamp>("a");
        for _ in 0..100 {
            lamp.tell(Look).expect("there is room");
            turn(&mut worker, &mut inbox);
            clock.advance(Duration::from_secs(1));
            turn(&mut worker, &mut inbox);
            lamp.tell(PutOut).expect("there is room");
            turn(&mut worker, &mut inbox);
        }
        // One for each time that it was there in the last ten seconds.
        let entries = worker.hosts[0].idle_entries();
        assert!(entries <= 11, "{entries} entries");
    }
}
