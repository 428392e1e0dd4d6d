//! The world around the engine: callers, time, the store, crashes; the seed decides what is next.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use perennial_core::config::Replacement;
use perennial_core::engine::{
    Assembly, BreakerSettings, CellKey, Deletion, DeletionDone, Frame, Input, LaterDone,
    LaterFailure, LaterRequest, Outbox, ReadDone, ReadRequest, Registry, Settings, SettledBatch,
    Worker, WriteBatch,
};
use perennial_core::{Asking, Durable, Entity, EntityRef, Handle, Retention, Work};
use perennial_persistence::{
    AtomicWrite, Clock, CommandId, DurableStateDelete, Error, NUMBER_OF_SLICES, PageLimit,
    PersistenceId, SequenceNr, Snapshot, Timestamp, Written,
};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::sync::mpsc;

use super::entity::{
    Action, Answer, Chain, ChainCodec, Command, EVENT_BYTES, Link, Note, Shared, StepCodec, Tick,
    links, state_payload,
};
use super::ledger::{Checked, Fate, Ledger, Situation, Standing, Violation};
use super::storage::{Storage, WriteFate, keeps_state, run_at_once};
use super::trace::Trace;
use super::{Kept, Options, Report};
use crate::{ManualClock, ReadFault};

/// The most events of one command.
const EVENTS_PER_WRITE: usize = 6;

/// What is usual in a run; drawn from the seed, so that runs differ in kind.
struct Profile {
    workers: usize,
    /// How many systems may run at once.
    systems: usize,
    settings: Settings,
    inbox: usize,
    mailbox: usize,
    stash: usize,
    pipeline: usize,
    passivate_after: Option<Duration>,
    snapshot_every: u64,
    keep_snapshots: u64,
    delete_events: bool,
    /// What is kept of the entities.
    kept: Kept,
    /// What deleting a state leaves. Where that is nothing, a second writer and late writes may
    /// bring a state back, so there are none.
    durable_state_delete: DurableStateDelete,
    restart: (Duration, Duration),
    /// Of a hundred calls of the store, how many go wrong.
    faults: u32,
    /// Of a thousand steps, how many are crashes and the like.
    crashes: u32,
    /// Of a thousand steps, how many are writes of a foreign program.
    foreign: u32,
    /// Of a thousand steps, how many have a slice go to another worker. Which worker an entity is at
    /// is not followed then, and workers die together.
    moves: u32,
    /// Of a hundred commands, how many panic.
    panics: u32,
    /// Of a hundred steps, how many let a caller give up.
    impatience: u32,
    /// How many entities of a type may be in memory, and who leaves for others.
    entity_limit: (usize, Replacement),
    /// Whether entities have a command for their end, and how long they may take for it.
    last_command: Option<Duration>,
}

impl Profile {
    fn draw(random: &mut SmallRng, kept: Kept) -> Self {
        let mut settings = Settings::default();
        settings.lanes = random.random_range(1..=3);
        settings.batch_events = pick(random, &[1, 3, 8, 5000]);
        settings.batch_bytes = pick(random, &[1, 40, 1 << 20]);
        settings.events_per_write = EVENTS_PER_WRITE;
        settings.event_bytes = EVENT_BYTES;
        settings.recoveries = random.random_range(1..=3);
        settings.page = PageLimit {
            rows: pick(random, &[1, 2, 5, 500]),
            bytes: pick(random, &[0, 20, 1 << 20]),
        };
        settings.retry = (Duration::from_millis(2), Duration::from_millis(20));
        settings.outcome_timeout = Duration::from_millis(pick(random, &[5, 60, 2000]));
        settings.breaker = BreakerSettings {
            failures: pick(random, &[0, 1, 2, 3, 10]),
            slow_call: Duration::from_millis(pick(random, &[5, 50, 10_000])),
            reset: Duration::from_millis(pick(random, &[1, 10, 100])),
        };
        settings.messages_per_run = random.random_range(1..=4);
        settings.laters = random.random_range(1..=3);
        settings.later_timeout = Duration::from_secs(1);
        let milliseconds = Duration::from_millis;
        let delete_events = random.random_bool(0.3);
        let kept = match kept {
            Kept::Both if random.random_bool(0.4) => Kept::Events,
            kept => kept,
        };
        let removes_rows = kept != Kept::Events && random.random_bool(0.25);
        let systems = pick(random, &[1, 1, 2]);
        let foreign = pick(random, &[0, 0, 5, 30]);
        // Apart, so that a run without either is the same with any of them.
        let mut of_lives = SmallRng::seed_from_u64(random.clone().random());
        Self {
            workers: random.random_range(1..=3),
            systems: if removes_rows { 1 } else { systems },
            settings,
            inbox: pick(random, &[6, 1000, 1000]),
            mailbox: pick(random, &[2, 8, 1000, 1000, 1000]),
            stash: random.random_range(0..=3),
            pipeline: pick(random, &[1, 2, 3, 8]),
            passivate_after: pick(
                random,
                &[None, Some(milliseconds(1)), Some(milliseconds(30))],
            ),
            snapshot_every: random.random_range(0..=5),
            keep_snapshots: random.random_range(0..=2),
            delete_events,
            kept,
            durable_state_delete: if removes_rows {
                DurableStateDelete::Row
            } else {
                DurableStateDelete::Marker
            },
            restart: (milliseconds(5), milliseconds(80)),
            faults: pick(random, &[0, 3, 15, 40]),
            crashes: pick(random, &[0, 2, 10]),
            foreign: if removes_rows { 0 } else { foreign },
            panics: pick(random, &[0, 3, 15]),
            impatience: pick(random, &[0, 2]),
            moves: pick(random, &[0, 5, 30]),
            entity_limit: (
                pick(&mut of_lives, &[0, 0, 1, 2]),
                pick(
                    &mut of_lives,
                    &[
                        Replacement::LeastRecentlyUsed,
                        Replacement::Segmented,
                        Replacement::Frequency,
                    ],
                ),
            ),
            last_command: pick(
                &mut of_lives,
                &[
                    None,
                    None,
                    Some(milliseconds(5)),
                    Some(milliseconds(10_000)),
                ],
            ),
        }
    }
}

impl Profile {
    fn leaves_markers(&self) -> bool {
        self.durable_state_delete == DurableStateDelete::Marker
    }

    /// The type of an entity, by its number.
    fn entity_type(&self, number: usize) -> &'static str {
        let types = match self.kept {
            Kept::Both => &TYPES[..],
            Kept::Events => &["Snapped", "Plain"],
            Kept::States => &["Told", "Kept"],
        };
        match types[number % types.len()] {
            // The numbers of its change events would begin again.
            "Told" if !self.leaves_markers() => "Kept",
            other => other,
        }
    }

    fn retention(&self) -> Retention {
        let retention = Retention::every(self.snapshot_every).keep(self.keep_snapshots);
        if self.delete_events {
            retention.delete_events()
        } else {
            retention
        }
    }
}

fn pick<T: Copy>(random: &mut SmallRng, among: &[T]) -> T {
    among[random.random_range(0..among.len())]
}

/// A running system.
struct System {
    number: usize,
    registry: Arc<Registry>,
    seats: Vec<Option<Seat>>,
    /// What its workers want done, and how far that is.
    effects: Vec<(usize, Effect)>,
    /// References that somebody keeps.
    kept: Vec<Option<Target>>,
    stopping: bool,
}

impl System {
    /// Whether a worker died while the others go on.
    fn is_maimed(&self) -> bool {
        !self.stopping && self.seats.iter().any(Option::is_none)
    }
}

/// A worker and the way to it.
struct Seat {
    worker: Worker,
    channel: mpsc::UnboundedReceiver<Input>,
    inbox: VecDeque<Input>,
    wake_at: Option<Duration>,
    busy: bool,
    /// Futures that run for it, as the worker has to count them.
    laters: usize,
    /// The most that there were at any time of the last turn.
    most_laters: usize,
}

/// Something outside of a worker, at one of the points where it may stop or be overtaken.
enum Effect {
    /// A batch on its way to the store.
    Write(WriteBatch),
    /// The store has done what it did; the answer is on its way.
    Answered(WriteBatch, Vec<Result<Written, Error>>),
    /// The replies are out; the worker is not told yet.
    Settled(SettledBatch),
    Read(ReadRequest),
    ReadDone(Box<ReadDone>),
    Save(CellKey, Snapshot),
    Saved(CellKey, Result<(), Error>),
    Delete(Deletion),
    Deleted(DeletionDone),
    Later(LaterRequest),
    LaterDone(LaterDone),
}

/// An entity of one of the four types.
#[derive(Clone)]
enum Target {
    Plain(EntityRef<Chain<0>>),
    Snapped(EntityRef<Chain<1>>),
    Told(EntityRef<Durable<Link<true>>>),
    Kept(EntityRef<Durable<Link<false>>>),
}

/// The types, in the order in which entities get them.
const TYPES: [&str; 4] = ["Snapped", "Told", "Plain", "Kept"];

impl Target {
    fn of(id: &PersistenceId, registry: &Arc<Registry>) -> Self {
        let name = id.entity_id();
        match id.entity_type() {
            "Plain" => Self::Plain(registry.entity(name)),
            "Told" => Self::Told(registry.entity(name)),
            "Kept" => Self::Kept(registry.entity(name)),
            _ => Self::Snapped(registry.entity(name)),
        }
    }

    fn ask(&self, command: Command) -> Asking<Answer> {
        if let Some(first) = command.action.first_attempt() {
            let id = CommandId::new(&first.to_string()).expect("a number is an id");
            return match self {
                Self::Plain(entity) => entity.ask(command).command_id(id).into_future(),
                Self::Snapped(entity) => entity.ask(command).command_id(id).into_future(),
                Self::Told(entity) => entity.ask(command).command_id(id).into_future(),
                Self::Kept(entity) => entity.ask(command).command_id(id).into_future(),
            };
        }
        match self {
            Self::Plain(entity) => entity.ask(command).into_future(),
            Self::Snapped(entity) => entity.ask(command).into_future(),
            Self::Told(entity) => entity.ask(command).into_future(),
            Self::Kept(entity) => entity.ask(command).into_future(),
        }
    }

    fn tell(&self, command: Command) -> bool {
        match self {
            Self::Plain(entity) => entity.tell(command),
            Self::Snapped(entity) => entity.tell(command),
            Self::Told(entity) => entity.tell(command),
            Self::Kept(entity) => entity.tell(command),
        }
        .is_ok()
    }
}

/// A whole run.
pub(crate) struct World {
    random: SmallRng,
    clock: ManualClock,
    shared: Arc<Shared>,
    storage: Storage,
    profile: Profile,
    options: Options,
    ids: Vec<PersistenceId>,
    systems: Vec<System>,
    /// The registries of systems that have just ended.
    ended: Vec<Arc<Registry>>,
    /// How it stands with the workers of every system that there ever was.
    standings: Vec<Vec<Standing>>,
    ledger: Ledger,
    /// What was found where nothing could be said of it.
    found: Option<Violation>,
    /// Whether everything goes well from now on.
    calm: bool,
    steps: u64,
    pub(crate) trace: Trace,
}

impl World {
    pub(crate) fn new(seed: u64, options: &Options) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let clock = ManualClock::new();
        let profile = Profile::draw(&mut random, options.kept);
        let entities = random.random_range(1..=5);
        let first_type = random.random_range(0..TYPES.len());
        let ids: Vec<PersistenceId> = (0..entities)
            .map(|entity| {
                let entity_type = profile.entity_type(first_type + entity);
                PersistenceId::new(entity_type, &format!("e{entity}")).expect("a short id")
            })
            .collect();
        let shared = Shared::new(clock.clone());
        #[cfg_attr(not(feature = "defects"), expect(unused_mut))]
        let mut storage = Storage::new(&shared, profile.durable_state_delete);
        #[cfg(feature = "defects")]
        {
            storage.forgets_writers = options.defect == Some(super::Defect::UnrecognisedRetry);
            if options.defect == Some(super::Defect::MissingFence) {
                storage.memory().take_fence_away();
            }
            if let Some(defect) = super::state_defect(options.defect) {
                storage.memory().break_states(defect);
            }
        }
        let memory = storage.memory().clone();
        let markers = profile.leaves_markers();
        let mut ledger = Ledger::new(memory, storage.history(), markers, ids.clone());
        ledger.report.outcome_timeout = profile.settings.outcome_timeout;
        ledger.report.removing_rows = u64::from(!markers);
        Self {
            random,
            shared,
            clock,
            storage,
            profile,
            options: options.clone(),
            ids,
            systems: Vec::new(),
            ended: Vec::new(),
            standings: Vec::new(),
            ledger,
            found: None,
            calm: false,
            steps: 0,
            trace: Trace::new(options.whole_trace),
        }
    }

    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    pub(crate) fn run(&mut self) -> Result<Report, Violation> {
        self.start_system();
        let mut commands = self.options.commands;
        while commands > 0 {
            commands -= u64::from(self.step()?);
        }
        self.come_to_rest()?;
        self.look_back()?;
        let mut report = self.ledger.report.clone();
        report.steps = self.steps;
        report.trace_hash = self.trace.hash();
        Ok(report)
    }

    fn log(&mut self, line: impl FnOnce() -> String) {
        self.trace.add(self.clock.elapsed(), line());
    }

    fn chance(&mut self, per_mille: u32) -> bool {
        self.random.random_ratio(per_mille, 1000)
    }

    /// One thing happens. Gives whether it was a command.
    fn step(&mut self) -> Result<bool, Violation> {
        self.steps += 1;
        if self.systems.is_empty() {
            self.start_system();
        }
        let profile = &self.profile;
        let (crashes, foreign, moves) = (profile.crashes, profile.foreign, profile.moves);
        let impatience = profile.impatience * 10;
        let mut sent = false;
        let is_maimed = self.systems.iter().any(System::is_maimed);
        if self.chance(crashes) || is_maimed && self.chance(100) {
            self.change_systems();
        } else if self.chance(foreign) {
            self.write_foreign()?;
        } else if self.chance(moves) {
            self.move_slice();
        } else if self.chance(impatience) && !self.ledger.open().is_empty() {
            let at = self.random.random_range(0..self.ledger.open().len());
            let dropped = self.random.random_bool(0.5);
            let what = self.ledger.give_up(at, dropped)?;
            self.log(|| what);
        } else {
            match self.random.random_range(0..100) {
                0..15 => sent = self.send(),
                15..45 => self.turn_any()?,
                45..88 => self.progress_any(),
                88..97 => self.let_time_pass(),
                97..99 => self.arrive_late(),
                _ => self.step_wall_clock_back(),
            }
        }
        self.check()?;
        Ok(sent)
    }

    /// Looks at what callers got and what user code did.
    fn check(&mut self) -> Checked {
        if let Some(violation) = self.found.take() {
            return Err(violation);
        }
        let (ran, done): (Vec<Note>, Vec<Note>) = self
            .shared
            .take_notes()
            .into_iter()
            .partition(|note| matches!(note, Note::Ran { .. }));
        self.ledger.take_notes(done)?;
        let now = self.clock.elapsed();
        let (ids, standings, systems) = (&self.ids, &self.standings, &self.systems);
        let profile = &self.profile;
        let situation = |system: usize, entity: usize| {
            let workers = &standings[system];
            // One, or any of them.
            let those = match profile.moves {
                0 => vec![worker_of(&ids[entity], workers.len())],
                _ => (0..workers.len()).collect(),
            };
            let running = systems.iter().find(|running| running.number == system);
            let seats = || {
                let seat = |worker: &usize| running.and_then(|it| it.seats[*worker].as_ref());
                those.iter().map(seat)
            };
            let standings = || those.iter().map(|worker| workers[*worker]);
            let opened = |seat: &Seat| seat.worker.stats().breakers[0].report().opened > 0;
            Situation {
                standing: standings().max().unwrap_or(Standing::Running),
                has_ended: standings().all(|standing| standing >= Standing::Stopped),
                store_failed: seats().any(|seat| seat.is_none_or(opened)),
                slow_is_down: profile.settings.breaker.slow_call < Duration::from_secs(1),
                reset: profile.settings.breaker.reset.max(profile.settings.retry.0),
                futures_are_full: seats()
                    .flatten()
                    .any(|seat| seat.most_laters >= profile.settings.laters),
                worker: those[0],
                inbox: profile.inbox,
                mailbox: profile.mailbox,
                stash: profile.stash,
            }
        };
        let trace = &mut self.trace;
        self.ledger
            .look_at_answers(now, situation, &mut |line| trace.add(now, line))?;
        self.ledger.take_notes(ran)?;
        for registry in self.ended.drain(..) {
            let waiting = registry.waiting();
            if waiting > 0 {
                return Err(Violation {
                    rule: "every command gives its place in the queues back",
                    detail: format!("{waiting} places are taken in a system that has ended"),
                });
            }
        }
        Ok(())
    }

    // Systems.

    fn start_system(&mut self) {
        let number = self.standings.len();
        let profile = &self.profile;
        let assembly = Assembly::new()
            .entity(configure(
                Entity::<Chain<0>>::new(Arc::clone(&self.shared)).event_codec(StepCodec),
                profile,
            ))
            .entity(configure(
                Entity::<Chain<1>>::new(Arc::clone(&self.shared))
                    .event_codec(StepCodec)
                    .state_codec(ChainCodec)
                    .retention(profile.retention()),
                profile,
            ))
            .entity(configure(links::<true>(&self.shared), profile))
            .entity(configure(links::<false>(&self.shared), profile));
        let frame = Frame {
            workers: profile.workers,
            settings: profile.settings.clone(),
            inbox: profile.inbox,
            ask_timeout: Duration::from_secs(1),
            deadlines: None,
            clock: Arc::new(self.clock.clone()),
        };
        let random = &mut self.random;
        let assembled = assembly.build(frame, || {
            let mut seed = [0; 32];
            random.fill_bytes(&mut seed);
            seed
        });
        let seats = assembled
            .workers
            .into_iter()
            .map(|(worker, channel)| {
                #[cfg(feature = "defects")]
                let worker = super::broken(worker, self.options.defect);
                Some(Seat {
                    worker,
                    channel,
                    inbox: VecDeque::new(),
                    wake_at: None,
                    busy: false,
                    laters: 0,
                    most_laters: 0,
                })
            })
            .collect();
        if !self.systems.is_empty() {
            for troubles in &mut self.ledger.troubles {
                troubles.contended = true;
            }
        }
        self.systems.push(System {
            number,
            registry: assembled.registry,
            seats,
            effects: Vec::new(),
            kept: vec![None; self.ids.len()],
            stopping: false,
        });
        self.standings
            .push(vec![Standing::Running; self.profile.workers]);
        self.ledger.system_started();
        self.ledger.report.systems += 1;
        self.log(|| format!("s{number} starts"));
    }

    fn change_systems(&mut self) {
        let maimed = self.systems.iter().position(System::is_maimed);
        let at = maimed.unwrap_or_else(|| self.random.random_range(0..self.systems.len()));
        match self.random.random_range(0..10) {
            _ if maimed.is_some() && self.random.random_bool(0.5) => self.crash(at),
            0..3 if self.systems.len() < self.profile.systems => self.start_system(),
            0..6 => self.crash(at),
            6..8 if self.profile.moves > 0 => self.crash(at),
            6..8 => self.kill_worker(at),
            _ => self.shut_down(at),
        }
    }

    /// The process is gone, and what was under way with it.
    fn crash(&mut self, at: usize) {
        let system = self.systems.remove(at);
        let number = system.number;
        self.log(|| format!("s{number} crashes"));
        self.ledger.report.crashes += 1;
        self.ended.push(system.registry);
        drop(system.seats);
        for standing in &mut self.standings[number] {
            if *standing != Standing::Stopped {
                *standing = Standing::Crashed;
            }
        }
        for (_, effect) in system.effects {
            self.orphan(effect);
        }
    }

    /// A slice is to go to some worker, that of an entity.
    fn move_slice(&mut self) {
        let at = self.random.random_range(0..self.systems.len());
        let slice = self.ids[self.random.random_range(0..self.ids.len())].slice();
        let to = self.random.random_range(0..self.profile.workers);
        let system = &self.systems[at];
        let number = system.number;
        system.registry.move_slices([slice], to);
        self.ledger.report.moves += 1;
        self.log(|| format!("slice {slice} of s{number} is to go to w{to}"));
    }

    /// One worker is gone with all that it had asked for; the rest of its system goes on.
    fn kill_worker(&mut self, at: usize) {
        let system = &mut self.systems[at];
        let number = system.number;
        let worker = self.random.random_range(0..system.seats.len());
        if system.seats[worker].take().is_none() {
            return;
        }
        let effects = std::mem::take(&mut system.effects);
        let (gone, left) = effects.into_iter().partition(|(of, _)| *of == worker);
        system.effects = left;
        self.standings[number][worker] = Standing::Crashed;
        self.log(|| format!("s{number}w{worker} dies"));
        let gone: Vec<(usize, Effect)> = gone;
        for (_, effect) in gone {
            self.orphan(effect);
        }
        self.forget_ended_systems();
    }

    /// Nobody waits for this any more; it may take effect all the same.
    fn orphan(&mut self, effect: Effect) {
        match effect {
            Effect::Write(batch) => {
                let late = self.profile.leaves_markers();
                let what = self.storage.orphan(batch.writes(), late, &mut self.random);
                if what == "late" {
                    self.contend(&batch);
                }
                self.log(|| format!("  its batch of {} is {what}", batch.writes().len()));
            }
            Effect::Delete(deletion) => {
                let deleted = self.random.random_bool(0.5);
                if deleted {
                    // Nobody hears whether they were.
                    let _ = self.storage_delete(&deletion.persistence_id, deletion.to);
                }
            }
            Effect::Save(_, snapshot) => {
                let saved = self.random.random_bool(0.5);
                if saved {
                    // Nobody hears whether it was.
                    let _ = self.storage.save(&snapshot);
                }
            }
            _ => {}
        }
    }

    fn shut_down(&mut self, at: usize) {
        let system = &mut self.systems[at];
        if system.stopping {
            return;
        }
        system.stopping = true;
        system.registry.close();
        let number = system.number;
        for seat in system.seats.iter_mut().flatten() {
            seat.inbox.push_back(Input::Shutdown);
        }
        for standing in &mut self.standings[number] {
            if *standing == Standing::Running {
                *standing = Standing::Stopping;
            }
        }
        self.ledger.report.shutdowns += 1;
        self.log(|| format!("s{number} is to stop"));
    }

    fn forget_ended_systems(&mut self) {
        let mut at = 0;
        while let Some(system) = self.systems.get(at) {
            if system.seats.iter().all(Option::is_none) {
                let system = self.systems.remove(at);
                self.log(|| format!("s{} has ended", system.number));
                self.ended.push(system.registry);
            } else {
                at += 1;
            }
        }
    }

    // Callers.

    /// Sends a command; gives whether it was sent.
    fn send(&mut self) -> bool {
        let at = self.random.random_range(0..self.systems.len());
        if self.systems[at].stopping && self.random.random_bool(0.8) {
            return false;
        }
        if self.random.random_ratio(1, 8)
            && let Some((entity, action)) = self.draw_repetition()
        {
            self.send_to(at, entity, action, false);
            return true;
        }
        let entity = self.random.random_range(0..self.ids.len());
        let action = self.draw_action(entity);
        let told = self.random.random_ratio(1, 12) && action.first_attempt().is_none();
        self.send_to(at, entity, action, told);
        true
    }

    fn send_to(&mut self, at: usize, entity: usize, action: Action, told: bool) -> usize {
        let target = self.target(at, entity);
        let number = self.systems[at].number;
        let id = self.ledger.next_command();
        let command = Command { id, action };
        let index = usize::try_from(id - 1).expect("a small number");
        let now = self.clock.elapsed();
        let persistence_id = &self.ids[entity];
        let line = format!("c{id} {action:?} to {persistence_id} of s{number}");
        self.trace.add(now, line);
        let asking = if told {
            target.tell(command);
            None
        } else {
            Some(target.ask(command))
        };
        self.ledger.sent(command, entity, number, now, asking);
        index
    }

    fn target(&mut self, at: usize, entity: usize) -> Target {
        let keep = self.random.random_bool(0.3);
        let system = &mut self.systems[at];
        let target = system.kept[entity].take();
        let target = target.unwrap_or_else(|| Target::of(&self.ids[entity], &system.registry));
        if keep {
            system.kept[entity] = Some(target.clone());
        }
        target
    }

    /// One of the latest commands with ids, to be sent again.
    fn draw_repetition(&mut self) -> Option<(usize, Action)> {
        const LATEST: usize = 6;
        let latest = self.ledger.latest_with_ids(LATEST);
        let at = self.random.random_range(0..LATEST);
        latest.get(at).copied()
    }

    fn draw_action(&mut self, entity: usize) -> Action {
        let id = &self.ids[entity];
        let keeps_state = keeps_state(id);
        let takes_ids = !keeps_state || self.profile.leaves_markers();
        // Two deletions of one state look the same to a writer that does not know the outcome of
        // its own, unless something goes with them that says whose they are.
        let may_delete = id.entity_type() == "Told" || keeps_state && !takes_ids;
        let first = self.ledger.next_command();
        let panics = self.profile.panics * 10;
        let panics = self.chance(panics);
        let random = &mut self.random;
        let count = random.random_range(1..=3);
        let delay = Duration::from_micros(random.random_range(0..20_000));
        if panics {
            return match random.random_range(0..9) {
                0 => Action::PanicInHandle,
                // A state is replaced by the engine's own code.
                1 if keeps_state => Action::PanicInReply(count),
                1 => Action::PanicInApply(count),
                2 => Action::PanicInReply(count),
                3 => Action::PanicInThenRun(count),
                4 => Action::PanicInContinuation,
                5 => Action::Unencodable(count),
                6 => Action::EncodePanics(count),
                7 => Action::Large(count),
                _ => Action::TooMany(EVENTS_PER_WRITE as u64 + 1),
            };
        }
        match random.random_range(0..100) {
            0..20 => Action::Read,
            20..25 if may_delete => Action::Delete,
            20..45 => Action::Append(count),
            45..55 if takes_ids => Action::Once {
                first,
                count,
                later: random.random_ratio(1, 4),
                deletes: keeps_state && random.random_ratio(1, 4),
            },
            45..55 => Action::Append(count),
            55..59 => Action::AppendSilently(count),
            59..64 => Action::AppendThenRun(count),
            64..67 => Action::AppendStop(count),
            67..71 => Action::AppendSlowly(count),
            71..73 => Action::ReadThenRun,
            73..75 => Action::ReadStop,
            75..78 => Action::Lock,
            78..82 => Action::Unlock,
            82..84 => Action::Later(count),
            84..86 => Action::LaterInterleaved(count),
            86..87 => Action::LaterBlocking(count),
            87..88 => Action::LaterTwice(count),
            88..96 => Action::UnhandledSometimes(random.next_u64()),
            96..98 => Action::StartTimer(delay),
            98 => Action::StartRepeatedTimer(delay + Duration::from_millis(2)),
            _ => Action::CancelTimers,
        }
    }

    // Workers.

    fn turn_any(&mut self) -> Checked {
        let at = self.random.random_range(0..self.systems.len());
        let worker = self.random.random_range(0..self.systems[at].seats.len());
        self.turn(at, worker)
    }

    fn turn(&mut self, at: usize, worker: usize) -> Checked {
        let commands = pick(&mut self.random, &[0, 1, 2, 8, 1000]);
        let commands = if self.calm { 1000 } else { commands };
        let system = &mut self.systems[at];
        let Some(seat) = &mut system.seats[worker] else {
            return Ok(());
        };
        for _ in 0..commands {
            match seat.channel.try_recv() {
                Ok(input) => seat.inbox.push_back(input),
                Err(_) => break,
            }
        }
        let returned = seat
            .inbox
            .iter()
            .filter(|input| matches!(input, Input::LaterDone(_)))
            .count();
        let inputs = seat.inbox.len();
        let moved = seat.worker.stats().moved.load(Ordering::Relaxed);
        let out = seat.worker.turn(seat.inbox.drain(..));
        let moved = seat.worker.stats().moved.load(Ordering::Relaxed) - moved;
        self.ledger.report.moved += moved;
        seat.most_laters = seat.laters + out.laters.len();
        seat.laters = seat.most_laters - returned;
        seat.wake_at = out.wake_at;
        seat.busy = out.busy;
        let done = seat.worker.is_done();
        let number = system.number;
        if inputs > 0 || !is_empty(&out) {
            self.log(|| format!("s{number}w{worker} turns: {inputs} in, out: {}", list(&out)));
        }
        let system = &mut self.systems[at];
        let effects = &mut system.effects;
        for batch in out.writes {
            #[cfg(feature = "defects")]
            let batch = super::sent(batch, self.options.defect);
            effects.push((worker, Effect::Write(batch)));
        }
        effects.extend(
            out.reads
                .into_iter()
                .map(|read| (worker, Effect::Read(read))),
        );
        for (key, snapshot) in out.snapshots {
            effects.push((worker, Effect::Save(key, snapshot)));
        }
        for deletion in out.deletions {
            effects.push((worker, Effect::Delete(deletion)));
        }
        for later in out.laters {
            effects.push((worker, Effect::Later(later)));
        }
        for cleanup in out.cleanups {
            self.storage.clean_up(cleanup);
        }
        for request in out.reminder_reads {
            let read = self.storage.read_reminders(request);
            if let Some(seat) = &mut system.seats[worker] {
                seat.inbox.push_back(Input::RemindersRead(Box::new(read)));
            }
        }
        if done {
            system.seats[worker] = None;
            system.effects.retain(|(of, _)| *of != worker);
            self.standings[number][worker] = Standing::Stopped;
            self.log(|| format!("s{number}w{worker} is done"));
            self.forget_ended_systems();
            Ok(())
        } else {
            self.check_bounds(at, worker)
        }
    }

    /// What a worker has under way stays within its bounds.
    fn check_bounds(&self, at: usize, worker: usize) -> Checked {
        let system = &self.systems[at];
        let settings = &self.profile.settings;
        let of_worker = || {
            let effects = system.effects.iter();
            effects
                .filter(move |(of, _)| *of == worker)
                .map(|(_, effect)| effect)
        };
        let broken = |detail: &str| {
            Err(Violation {
                rule: "what is under way stays within its bounds",
                detail: format!("s{}w{worker}: {detail}", system.number),
            })
        };
        // One that begins anew may have two reads under way.
        let recovering: BTreeSet<&PersistenceId> = of_worker()
            .filter_map(|effect| match effect {
                Effect::Read(request) if request.is_of_recovery() => Some(request.persistence_id()),
                Effect::ReadDone(done) if done.is_of_recovery() => Some(done.persistence_id()),
                _ => None,
            })
            .collect();
        // Of a recovery that has failed, was ended by a shutdown or began anew because its events
        // had vanished, a page may still be under way when the next one begins.
        let are_told_apart = !system.stopping
            && !self.profile.delete_events
            && !self.ledger.troubles.iter().any(|entity| entity.unreadable);
        if are_told_apart && recovering.len() > settings.recoveries {
            return broken("more entities recover than may");
        }
        let laters =
            of_worker().filter(|effect| matches!(effect, Effect::Later(_) | Effect::LaterDone(_)));
        if laters.count() > settings.laters {
            return broken("more futures run than may");
        }
        let batches: Vec<&WriteBatch> = of_worker()
            .filter_map(|effect| match effect {
                Effect::Write(batch) | Effect::Answered(batch, _) => Some(batch),
                _ => None,
            })
            .collect();
        let is_of_states = |batch: &&&WriteBatch| {
            let first = batch.writes().first();
            first.is_some_and(|write| keeps_state(write.persistence_id()))
        };
        let of_states = batches.iter().filter(is_of_states).count();
        if of_states.max(batches.len() - of_states) > settings.lanes {
            return broken("more batches are in flight than there are lanes");
        }
        for (index, batch) in batches.iter().enumerate() {
            let events = batch.writes().iter().map(|write| write.events().len());
            if batch.writes().len() > 1 && events.sum::<usize>() > settings.batch_events {
                return broken("a batch has more events than it may");
            }
            let elsewhere = |write: &AtomicWrite| {
                let mut others = batches[..index].iter().flat_map(|other| other.writes());
                others.any(|other| other.persistence_id() == write.persistence_id())
            };
            if batch.writes().iter().any(elsewhere) {
                return broken("an entity is in two batches at once");
            }
        }
        Ok(())
    }

    // The world outside of the workers.

    fn progress_any(&mut self) {
        let at = self.random.random_range(0..self.systems.len());
        let effects = self.systems[at].effects.len();
        if effects > 0 {
            let effect = self.random.random_range(0..effects);
            self.progress(at, effect);
        }
    }

    /// Something outside of a worker gets one step further.
    fn progress(&mut self, at: usize, effect: usize) {
        let (worker, effect) = self.systems[at].effects.remove(effect);
        let goes_wrong = !self.calm && self.chance(self.profile.faults * 10);
        let next = match effect {
            Effect::Write(batch) => {
                let answers = self.write(&batch, goes_wrong);
                Ok(Effect::Answered(batch, answers))
            }
            Effect::Answered(batch, answers) => Ok(Effect::Settled(batch.settle(answers))),
            Effect::Settled(settled) => Err(Input::Written(Box::new(settled))),
            Effect::Read(request) => Ok(Effect::ReadDone(Box::new(self.read(request, goes_wrong)))),
            Effect::ReadDone(done) => Err(Input::Read(done)),
            Effect::Save(key, snapshot) => {
                let result = self.save(&snapshot, goes_wrong);
                Ok(Effect::Saved(key, result))
            }
            Effect::Saved(key, result) => Err(Input::SnapshotSaved(key, Box::new(result))),
            Effect::Delete(deletion) => {
                let done = self.delete(deletion, goes_wrong);
                Ok(Effect::Deleted(done))
            }
            Effect::Deleted(done) => Err(Input::EventsDeleted(Box::new(done))),
            Effect::Later(request) => Ok(Effect::LaterDone(self.run_later(request, goes_wrong))),
            Effect::LaterDone(done) => Err(Input::LaterDone(Box::new(done))),
        };
        let system = &mut self.systems[at];
        match next {
            Ok(effect) => system.effects.push((worker, effect)),
            Err(input) => {
                let line = format!("s{}w{worker} gets {}", system.number, name(&input));
                if let Some(seat) = &mut system.seats[worker] {
                    seat.inbox.push_back(input);
                }
                self.log(|| line);
            }
        }
    }

    fn write(&mut self, batch: &WriteBatch, goes_wrong: bool) -> Vec<Result<Written, Error>> {
        let fate = if goes_wrong {
            pick(
                &mut self.random,
                &[
                    WriteFate::Rejected,
                    WriteFate::Overtaken,
                    WriteFate::Unavailable,
                    WriteFate::Unavailable,
                    WriteFate::RequestLost,
                    WriteFate::Imitated,
                    WriteFate::AnswerLost,
                    WriteFate::Late,
                    WriteFate::Mixed,
                    WriteFate::Truncated,
                ],
            )
        } else {
            WriteFate::Answered
        };
        let fate = match fate {
            // There is nobody else, and nothing comes late.
            WriteFate::Overtaken if !self.profile.leaves_markers() => WriteFate::Unavailable,
            WriteFate::Late | WriteFate::Imitated if !self.profile.leaves_markers() => {
                WriteFate::RequestLost
            }
            fate => fate,
        };
        match fate {
            WriteFate::Answered => {}
            WriteFate::Rejected => self.trouble(batch, |troubles| troubles.rejected = true),
            WriteFate::Overtaken => self.contend(batch),
            WriteFate::Late | WriteFate::Imitated => {
                self.contend(batch);
                self.trouble(batch, |troubles| troubles.unavailable = true);
            }
            _ => self.trouble(batch, |troubles| troubles.unavailable = true),
        }
        let answers = self.storage.send(batch.writes(), fate, &mut self.random);
        self.log(|| {
            let writes: Vec<String> = batch
                .writes()
                .iter()
                .map(|write| {
                    format!(
                        "{} {}..{}",
                        write.persistence_id(),
                        write.first(),
                        write.last()
                    )
                })
                .collect();
            let answers: Vec<&str> = answers.iter().map(summary).collect();
            format!(
                "written ({fate:?}): {} -> {}",
                writes.join(", "),
                answers.join(" ")
            )
        });
        self.ledger.report.batches += 1;
        let is_superseded =
            |answer: &&Result<_, Error>| matches!(answer, Err(Error::Superseded { .. }));
        let superseded = answers.iter().filter(is_superseded).count();
        self.ledger.report.superseded += superseded as u64;
        let is_stale =
            |answer: &&Result<_, Error>| matches!(answer, Err(Error::StaleRevision { .. }));
        self.ledger.report.stale += answers.iter().filter(is_stale).count() as u64;
        answers
    }

    fn trouble(&mut self, batch: &WriteBatch, change: impl Fn(&mut super::ledger::Troubles)) {
        for write in batch.writes() {
            let entity = self.ledger.index_of(write.persistence_id());
            change(&mut self.ledger.troubles[entity]);
        }
    }

    fn contend(&mut self, batch: &WriteBatch) {
        self.trouble(batch, |troubles| troubles.contended = true);
    }

    fn read(&mut self, request: ReadRequest, goes_wrong: bool) -> ReadDone {
        self.ledger.report.reads += 1;
        let fault = goes_wrong.then(|| {
            let fault = pick(&mut self.random, &[0, 0, 1, 2]);
            let fault = match fault {
                0 => ReadFault::Unavailable,
                1 => ReadFault::Corrupt,
                _ => ReadFault::Undecodable,
            };
            (fault, self.random.random_bool(0.5))
        });
        if let Some((fault, is_snapshot)) = &fault {
            let entity = self.ledger.index_of(request.persistence_id());
            let is_harmless = match fault {
                _ if !request.is_of_recovery() => true,
                ReadFault::Unavailable => true,
                // All events are replayed instead, unless they are gone.
                ReadFault::Undecodable => {
                    let has_snapshot = !keeps_state(request.persistence_id());
                    has_snapshot && *is_snapshot && !self.profile.delete_events
                }
                _ => false,
            };
            self.ledger.troubles[entity].unreadable |= !is_harmless;
            // Replies that are damaged come as a store that is not available.
            self.ledger.troubles[entity].unread |=
                matches!(fault, ReadFault::Unavailable) || !request.is_of_recovery();
        }
        let id = request.persistence_id().clone();
        let shown = fault
            .as_ref()
            .map(|(fault, snapshot)| (format!("{fault:?}"), *snapshot));
        let done = self.storage.read(request, fault);
        self.log(|| format!("read of {id} (fault: {shown:?})"));
        done
    }

    fn save(&mut self, snapshot: &Snapshot, goes_wrong: bool) -> Result<(), Error> {
        self.ledger.report.snapshots += 1;
        let is_stored = !goes_wrong || self.random.random_bool(0.5);
        let result = if is_stored {
            self.storage.save(snapshot)
        } else {
            Ok(())
        };
        self.log(|| {
            let id = &snapshot.persistence_id;
            format!(
                "snapshot of {id} at {}, lost: {goes_wrong}",
                snapshot.seq_nr
            )
        });
        if goes_wrong {
            Err(Error::outcome_unknown("the connection was lost", None))
        } else {
            result
        }
    }

    fn delete(&mut self, deletion: Deletion, goes_wrong: bool) -> DeletionDone {
        let is_done = !goes_wrong || self.random.random_bool(0.5);
        let result = if is_done {
            self.storage_delete(&deletion.persistence_id, deletion.to)
        } else {
            Ok(())
        };
        self.log(|| {
            let id = &deletion.persistence_id;
            format!(
                "events of {id} deleted to {}, lost: {goes_wrong}",
                deletion.to
            )
        });
        DeletionDone {
            key: deletion.key,
            token: deletion.token,
            result: if goes_wrong {
                Err(Error::outcome_unknown("the connection was lost", None))
            } else {
                result
            },
        }
    }

    fn storage_delete(&mut self, id: &PersistenceId, to: SequenceNr) -> Result<(), Error> {
        self.ledger.report.deletions += 1;
        // What was stored stays known here, and what is told is checked against it.
        let entity = self.ledger.index_of(id);
        if let Err(violation) = self.ledger.read_journal(entity) {
            self.found.get_or_insert(violation);
        }
        self.storage.delete(id, to)
    }

    fn run_later(&mut self, request: LaterRequest, goes_wrong: bool) -> LaterDone {
        self.ledger.report.futures += 1;
        let failure = goes_wrong.then(|| {
            let panicked = self.random.random_bool(0.5);
            if panicked {
                LaterFailure::Panicked
            } else {
                LaterFailure::TimedOut
            }
        });
        let runs = failure.is_none() || self.random.random_bool(0.5);
        let output = runs.then(|| match request.work {
            Work::Future(future) => run_at_once(future),
            Work::Blocking(work) => work(),
        });
        let output = match failure {
            Some(failure) => Err(failure),
            None => Ok(output.expect("it ran")),
        };
        self.log(|| format!("future {} ran: {runs}, {failure:?}", request.token));
        LaterDone {
            key: request.key,
            token: request.token,
            output,
        }
    }

    fn write_foreign(&mut self) -> Checked {
        let entity = self.random.random_range(0..self.ids.len());
        self.ledger.troubles[entity].contended = true;
        self.ledger.report.foreign += 1;
        let id = self.ids[entity].clone();
        self.storage.write_foreign_next(&id, &mut self.random);
        self.log(|| format!("a foreign program writes to {id}"));
        let has_snapshots = id.entity_type() == "Snapped";
        if has_snapshots && self.profile.delete_events && self.random.random_bool(0.5) {
            self.delete_foreign(entity)?;
        }
        Ok(())
    }

    /// The foreign program has retention too: it saves a snapshot, and deletes all events or keeps
    /// a few. Whoever does not know of its event may find the number free then.
    fn delete_foreign(&mut self, entity: usize) -> Checked {
        let state = self.ledger.stored(entity)?;
        let locked = self.ledger.is_locked(entity)?;
        let number = |number| SequenceNr::new(number).expect("a small number");
        let persistence_id = self.ids[entity].clone();
        let snapshot = Snapshot {
            persistence_id: persistence_id.clone(),
            seq_nr: number(state.count),
            write_timestamp: self.clock.now(),
            payload: state_payload(state, locked),
            metadata: None,
        };
        let kept = self.random.random_range(0..3);
        let to = number(state.count.saturating_sub(kept));
        let done = self.storage.save(&snapshot);
        let done = done.and_then(|()| self.storage_delete(&persistence_id, to));
        self.log(|| format!("it saves a snapshot and deletes the events up to {to}"));
        done.map_err(|error| Violation {
            rule: "the store in memory is open",
            detail: error.to_string(),
        })
    }

    fn arrive_late(&mut self) {
        let ids = self.storage.arrive_late(&mut self.random);
        if !ids.is_empty() {
            self.ledger.report.late += 1;
            self.log(|| format!("a late batch arrives: {}", join(&ids)));
        }
    }

    fn let_time_pass(&mut self) {
        let micros = match self.random.random_range(0..10) {
            0..5 => self.random.random_range(0..1_000),
            5..9 => self.random.random_range(0..20_000),
            _ => self.random.random_range(0..200_000),
        };
        self.clock.advance(Duration::from_micros(micros));
    }

    fn step_wall_clock_back(&mut self) {
        let back = Duration::from_micros(self.random.random_range(0..50_000));
        let now: Timestamp = self.clock.now();
        self.clock.set(now - back);
        self.log(|| format!("the wall clock steps back by {back:?}"));
    }

    // The end.

    /// Everything goes well from now on, until every caller has an answer and every system has
    /// stopped.
    fn come_to_rest(&mut self) -> Checked {
        self.calm = true;
        self.log(|| "calm".to_owned());
        while self.storage.late() > 0 {
            self.arrive_late();
        }
        // Sometimes at once, so that systems stop in the middle of everything.
        if self.random.random_bool(0.7) {
            self.answer_everybody()?;
        }
        while !self.systems.is_empty() {
            for at in 0..self.systems.len() {
                self.shut_down(at);
            }
            self.drive_until("a system that is told to stop stops", |world| {
                world.systems.is_empty()
            })?;
        }
        Ok(())
    }

    /// Unlocks what is locked until nobody waits any more.
    fn answer_everybody(&mut self) -> Checked {
        const ROUNDS: usize = 20;
        for _ in 0..ROUNDS {
            if self.ledger.open().is_empty() {
                return Ok(());
            }
            self.drive_for(Duration::from_secs(5))?;
            let waiting: Vec<(usize, usize)> = self
                .ledger
                .open()
                .iter()
                .map(|&index| self.ledger.command(index))
                .map(|sent| (sent.system, sent.entity))
                .collect();
            for (system, entity) in waiting {
                self.unlock(system, entity)?;
            }
        }
        if self.ledger.open().is_empty() {
            return Ok(());
        }
        let waiting: Vec<u64> = self
            .ledger
            .open()
            .iter()
            .map(|&index| self.ledger.command(index).command.id)
            .collect();
        Err(Violation {
            rule: "every caller is answered in the end",
            detail: format!("commands {waiting:?} are not"),
        })
    }

    /// Unlocks an entity through one system. Another one may be faster once, and then once more
    /// with the event of a timer; time stands still between attempts, so that it comes to an end.
    fn unlock(&mut self, system: usize, entity: usize) -> Checked {
        const ATTEMPTS: usize = 5;
        for _ in 0..ATTEMPTS {
            let mut running = self.systems.iter();
            let Some(at) = running.position(|running| running.number == system) else {
                return Ok(());
            };
            let index = self.send_to(at, entity, Action::Unlock, false);
            self.drive_until("every caller is answered in the end", |world| {
                !matches!(world.ledger.command(index).fate, Fate::Open(_))
            })?;
            if self.ledger.is_answered(index) {
                return Ok(());
            }
            // The store is back, but nobody has asked it yet.
            if let Some(after) = self.ledger.may_come_back_after(index) {
                self.clock.advance(after);
            }
        }
        Ok(())
    }

    /// Lets everything go on until nobody waits, or there is nothing to do before `time` has
    /// passed.
    fn drive_for(&mut self, time: Duration) -> Checked {
        let end = self.clock.elapsed() + time;
        self.drive_until("the world comes to rest", |world| {
            world.ledger.open().is_empty()
                || world.clock.elapsed() > end
                || !world.has_work() && world.next_wake().is_none_or(|at| at > end)
        })
    }

    fn has_work(&self) -> bool {
        let now = self.clock.elapsed();
        self.systems.iter().any(|system| {
            !system.effects.is_empty()
                || system.seats.iter().flatten().any(|seat| seat.has_work(now))
        })
    }

    fn next_wake(&self) -> Option<Duration> {
        let seats = self.systems.iter().flat_map(|system| system.seats.iter());
        seats.flatten().filter_map(|seat| seat.wake_at).min()
    }

    fn drive_until(&mut self, rule: &'static str, done: impl Fn(&Self) -> bool) -> Checked {
        // In all; a run of a hundred commands needs a few thousand.
        let most = 20_000 + 400 * self.options.commands;
        while self.steps < most {
            if done(self) {
                return Ok(());
            }
            self.steps += 1;
            let now = self.clock.elapsed();
            let mut choices = Vec::new();
            for (at, system) in self.systems.iter().enumerate() {
                for (worker, seat) in system.seats.iter().enumerate() {
                    if seat.as_ref().is_some_and(|seat| seat.has_work(now)) {
                        choices.push((at, Choice::Turn(worker)));
                    }
                }
                for effect in 0..system.effects.len() {
                    choices.push((at, Choice::Progress(effect)));
                }
            }
            if choices.is_empty() {
                match self.next_wake() {
                    Some(at) => self.clock.advance(at.saturating_sub(now)),
                    None => break,
                }
            } else {
                match choices[self.random.random_range(0..choices.len())] {
                    (at, Choice::Turn(worker)) => self.turn(at, worker)?,
                    (at, Choice::Progress(effect)) => self.progress(at, effect),
                }
            }
            self.check()?;
        }
        if done(self) {
            return Ok(());
        }
        Err(Violation {
            rule,
            detail: "it does not, however long one waits".to_owned(),
        })
    }

    /// A new system brings back what is stored, and can go on from there.
    fn look_back(&mut self) -> Checked {
        // Its steps would come between those that are counted here.
        self.profile.last_command = None;
        self.start_system();
        for entity in 0..self.ids.len() {
            let stored = self.ledger.length(entity)?;
            self.expect_answer(entity, Action::Read)?;
            let unlocked = if self.ledger.is_locked(entity)? {
                Action::Unlock
            } else {
                Action::AppendSlowly(1)
            };
            self.expect_answer(entity, unlocked)?;
            let after = self.ledger.length(entity)?;
            if after != stored + 1 {
                return Err(Violation {
                    rule: "a new system goes on where the old ones ended",
                    detail: format!("{stored} steps, then {after}"),
                });
            }
        }
        self.shut_down(0);
        self.drive_until("a system that is told to stop stops", |world| {
            world.systems.is_empty()
        })?;
        self.check()?;
        self.ledger.check_journal()
    }

    fn expect_answer(&mut self, entity: usize, action: Action) -> Checked {
        let (stored, index) = (
            self.ledger.stored(entity)?,
            self.send_to(0, entity, action, false),
        );
        self.drive_until("every caller is answered in the end", |world| {
            !matches!(world.ledger.command(index).fate, Fate::Open(_))
        })?;
        if !self.ledger.is_answered(index) {
            return Err(Violation {
                rule: "a new system brings every entity back",
                detail: format!("{} with {stored:?}", self.ids[entity]),
            });
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Choice {
    Turn(usize),
    Progress(usize),
}

impl Seat {
    fn has_work(&self, now: Duration) -> bool {
        self.busy
            || !self.inbox.is_empty()
            || !self.channel.is_empty()
            || self.wake_at.is_some_and(|at| at <= now)
    }
}

fn configure<E: Handle<Tick>>(entity: Entity<E>, profile: &Profile) -> Entity<E> {
    let (limit, replacement) = profile.entity_limit;
    let entity = match profile.last_command {
        None => entity,
        Some(timeout) => entity.on_passivate(Tick::at_the_end).stop_timeout(timeout),
    };
    entity
        .entity_limit(limit, replacement)
        .mailbox(profile.mailbox)
        .stash(profile.stash)
        .pipeline(profile.pipeline)
        .passivate_after(profile.passivate_after)
        .restart_backoff(profile.restart.0, profile.restart.1)
}

/// The worker of an entity, as a registry with so many workers decides.
fn worker_of(id: &PersistenceId, workers: usize) -> usize {
    usize::from(id.slice().value()) * workers / usize::from(NUMBER_OF_SLICES)
}

fn is_empty(out: &Outbox) -> bool {
    out.writes.is_empty()
        && out.reads.is_empty()
        && out.snapshots.is_empty()
        && out.deletions.is_empty()
        && out.laters.is_empty()
}

fn list(out: &Outbox) -> String {
    let Outbox {
        writes,
        reads,
        snapshots,
        deletions,
        laters,
        ..
    } = out;
    format!(
        "{} batches, {} reads, {} snapshots, {} deletions, {} futures",
        writes.len(),
        reads.len(),
        snapshots.len(),
        deletions.len(),
        laters.len()
    )
}

fn name(input: &Input) -> String {
    match input {
        Input::Read(_) => "a page of history".to_owned(),
        Input::SnapshotSaved(_, result) => format!("a snapshot saved: {}", result.is_ok()),
        other => format!("{other:?}"),
    }
}

fn summary(answer: &Result<Written, Error>) -> &'static str {
    match answer {
        Ok(_) => "stored",
        Err(Error::Conflict { .. }) => "conflict",
        Err(Error::StaleRevision { .. }) => "stale",
        Err(Error::CommandTaken { .. }) => "taken",
        Err(Error::Superseded { .. }) => "superseded",
        Err(Error::Rejected { .. }) => "rejected",
        Err(error) if error.is_outcome_unknown() => "unknown",
        Err(_) => "unavailable",
    }
}

fn join(ids: &[PersistenceId]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    ids.join(", ")
}
