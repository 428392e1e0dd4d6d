//! The cluster, its network and its services, and what goes wrong with them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
#[cfg(feature = "defects")]
use perennial_persistence::SequenceNr;
use perennial_persistence::{AtomicWrite, Error, PersistenceId, Store};
use perennial_testkit::{ManualClock, MemoryStore};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::engine::{CallEnd, Chain, Done, Engine, Event as Stored};
use super::history::{Checked, History, Violation, broken};
use super::{Options, Report};
use crate::allocation::Limits;
use crate::keeper::{CallId, Input, Keeper, Output, Settings, ShardPhase};
use crate::lease::{LeaseTable, Token};
use crate::node::{Member, MemberState, MemberView, NodeId};
use crate::shard::{ShardCount, ShardId};
use crate::transport::{Answer, Destination, Frame, RemoteCommand};

/// For how long things go wrong.
const FAULTS: Duration = Duration::from_secs(4);
/// For how long a member is known after it was heard of.
const KNOWN_FOR: Duration = Duration::from_millis(400);
const HEARTBEAT: Duration = Duration::from_millis(100);
/// When an engine no longer waits for the journal.
const CALL_TIMEOUT: Duration = Duration::from_millis(300);
/// By when all is at its place once nothing goes wrong any more: leases have run out, and one shard
/// after the other has been drained, if need be by force.
const SETTLED: Duration = Duration::from_secs(5);
/// How long it takes until everybody has heard of the end of an owner, by its silence.
const REST: Duration = Duration::from_millis(300);
/// The entities, of slices 31, 3, 150, 269, 524, 450 and 970: some of them share a shard of eight.
const NAMES: [&str; 7] = ["low", "first", "first-one", "one", "ab", "e0", "entity"];
/// The most steps of a run, some fifty times what one takes.
const STEPS: u64 = 400_000;
/// Callers on each node; the one of the last check comes after them.
const CALLERS: u64 = 3;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn micros(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

/// What happens at some time.
#[derive(Debug)]
enum Event {
    /// A node takes a turn, if this is the one that it was last to take.
    Turn(usize),
    /// Something comes in for a node's keeper.
    Input(usize, Input),
    /// A frame gets where it goes.
    Frame(usize, Destination, Frame),
    /// A request gets to the leases.
    Lease(usize, Request),
    /// A node's engine handles commands.
    Step(usize),
    /// A call gets to the journal; the node may have given it up.
    Journal(usize, u64, PersistenceId, Box<JournalCall>),
    /// The engine is told of the end of a call.
    CallEnd(usize, u64, PersistenceId, CallEnd),
    /// A node is heard of, and hears of the others.
    Heartbeat(usize),
    /// Somebody on a node sends commands.
    Ask,
    /// The shards have other loads.
    Loads,
    /// Something goes wrong.
    Fault,
    /// A node comes back.
    Restart(usize),
    /// Somebody can be reached again.
    Heal(usize, Peer),
    /// A stretch of bad weather is over.
    Calm,
    /// Nothing goes wrong any more.
    Settle,
}

#[derive(Debug, Clone)]
enum Request {
    Acquire(crate::keeper::RequestId, ShardId, Duration),
    Renew(crate::keeper::RequestId, ShardId, Token, Duration),
    Release(crate::keeper::RequestId, ShardId, Token),
    Read,
}

#[derive(Debug)]
enum JournalCall {
    Read,
    Write(AtomicWrite),
}

/// From whom a node can be cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Peer {
    Node(usize),
    /// All other nodes.
    Nodes,
    Leases,
    Members,
    Journal,
}

/// One incarnation of a node.
struct Node {
    id: NodeId,
    name: usize,
    state: Standing,
    offset: Duration,
    rate: f64,
    keeper: Keeper,
    engine: Engine,
    inbox: Vec<Input>,
    /// When its next turn is.
    turn_at: Option<Duration>,
    step_due: bool,
    listens: BTreeSet<ShardId>,
    announced: MemberState,
    /// The members that it was told of last.
    told: Vec<Member>,
    /// How many views that were.
    views: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Runs,
    /// It stands still until then.
    Paused(Duration),
    /// It is no more.
    Gone,
}

impl Node {
    fn is_there(&self) -> bool {
        self.state != Standing::Gone
    }

    fn local(&self, now: Duration) -> Duration {
        self.offset + now.mul_f64(self.rate)
    }

    /// When its clock shows `local`, or right after.
    fn global(&self, local: Duration) -> Duration {
        local.saturating_sub(self.offset).div_f64(self.rate) + micros(1)
    }
}

pub(super) struct World {
    random: SmallRng,
    options: Options,
    settings: Settings,
    now: Duration,
    steps: u64,
    events: BTreeMap<(Duration, u64), Event>,
    last_event: u64,
    nodes: Vec<Node>,
    /// By name: how often a node of it was started.
    incarnations: Vec<u64>,
    leases: LeaseTable,
    lease_rate: f64,
    members: BTreeMap<String, (Member, Duration)>,
    clock: ManualClock,
    store: MemoryStore,
    ids: Vec<PersistenceId>,
    history: History,
    last_call: u64,
    cuts: BTreeSet<(usize, Peer)>,
    weather: Weather,
    /// When the last frame on a way arrives.
    ways: BTreeMap<(usize, Destination), Duration>,
    /// By shard: to which node it was granted last.
    granted: BTreeMap<ShardId, (Token, usize)>,
    /// How often commands were sent: more than once if an owner did not take them.
    sends: BTreeMap<u64, u64>,
    asks_left: u64,
    /// The most milliseconds between two times that somebody sends commands.
    slowest_ask: u64,
    settles_at: Option<Duration>,
    report: Report,
    trace: Vec<String>,
}

/// How well things get where they go.
#[derive(Debug, Clone, Copy)]
struct Weather {
    /// The longest that a frame or request usually takes.
    slowest: Duration,
    lost: f64,
    doubled: f64,
    overtaken: f64,
    /// How many take much longer.
    late: f64,
    /// How many steps of an engine take long.
    slow_steps: f64,
}

impl Weather {
    fn fair(slowest: Duration) -> Self {
        Self {
            slowest,
            lost: 0.0,
            doubled: 0.0,
            overtaken: 0.0,
            late: 0.0,
            slow_steps: 0.0,
        }
    }

    fn foul(random: &mut SmallRng) -> Self {
        Self {
            slowest: ms(random.random_range(2..60)),
            lost: random.random_range(0.0..0.15),
            doubled: random.random_range(0.0..0.1),
            overtaken: random.random_range(0.0..0.1),
            late: random.random_range(0.0..0.05),
            slow_steps: random.random_range(0.0..0.3),
        }
    }
}

macro_rules! trace {
    ($world:expr, $($what:tt)*) => {
        if $world.options.trace {
            let line = format!($($what)*);
            $world.note(&line);
        }
    };
}

impl World {
    pub(super) fn new(seed: u64, options: &Options) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let settings = draw_settings(&mut random);
        let clock = ManualClock::new();
        let store = MemoryStore::new(Arc::new(clock.clone()));
        let skipped = random.random_range(0..NAMES.len() - 1);
        let ids: Vec<PersistenceId> = NAMES[skipped..]
            .iter()
            .map(|name| PersistenceId::new("Model", name).expect("it is short"))
            .collect();
        let history = History::new(store.clone(), ids.clone());
        let fair = Weather::fair(ms(random.random_range(1..6)));
        let lease_rate = random.random_range(0.97..1.03);
        let mut world = Self {
            random,
            options: options.clone(),
            settings,
            now: Duration::ZERO,
            steps: 0,
            events: BTreeMap::new(),
            last_event: 0,
            nodes: Vec::new(),
            incarnations: Vec::new(),
            leases: LeaseTable::default(),
            lease_rate,
            members: BTreeMap::new(),
            clock,
            store,
            ids,
            history,
            last_call: 0,
            cuts: BTreeSet::new(),
            weather: fair,
            ways: BTreeMap::new(),
            granted: BTreeMap::new(),
            sends: BTreeMap::new(),
            asks_left: 0,
            slowest_ask: 0,
            settles_at: None,
            report: Report::default(),
            trace: Vec::new(),
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for _ in 0..self.random.random_range(1..=4) {
            self.start(self.incarnations.len());
        }
        self.asks_left = self.random.random_range(20..150);
        self.slowest_ask = self.random.random_range(20..250);
        if self.random.random_bool(0.3) {
            self.weather = Weather::foul(&mut self.random);
        }
        if self.random.random_bool(0.5) {
            self.schedule(ms(400), Event::Loads);
        }
        let faults = self.random.random_range(0..10);
        for _ in 0..faults {
            let at = ms(self.random.random_range(300..3900));
            self.schedule(at, Event::Fault);
        }
        let first = ms(self.random.random_range(0..600));
        self.schedule(first, Event::Ask);
        self.schedule(FAULTS, Event::Settle);
    }

    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    pub(super) fn take_trace(&mut self) -> Vec<String> {
        std::mem::take(&mut self.trace)
    }

    fn note(&mut self, line: &str) {
        let at = self.now.as_secs_f64() * 1000.0;
        self.trace.push(format!("{at:>10.3} ms  {line}"));
    }

    fn schedule(&mut self, at: Duration, event: Event) {
        self.last_event += 1;
        self.events
            .insert((at.max(self.now), self.last_event), event);
    }

    pub(super) fn run(&mut self) -> Result<Report, Violation> {
        let mut settled_at = None;
        // How many entities have answered the last question.
        let mut answered = None;
        while let Some(((at, _), event)) = self.events.pop_first() {
            self.steps += 1;
            if self.steps > STEPS {
                return broken("a run comes to an end", format!("after {STEPS} steps"));
            }
            self.clock.advance(at - self.now);
            self.now = at;
            self.happen(event)?;
            // What is to be true again is looked at now and then.
            let Some(since) = self.settles_at else {
                continue;
            };
            if !self.steps.is_multiple_of(32) {
                continue;
            }
            // Until then somebody may not have heard of what went wrong last.
            if self.now < since + REST {
                continue;
            }
            self.check_deadlines()?;
            if settled_at.is_none() {
                match self.unsettled() {
                    Some(what) if self.now > since + SETTLED => {
                        let here = self.nodes.iter().filter(|node| node.is_there());
                        let keepers: Vec<&Keeper> = here.map(|node| &node.keeper).collect();
                        let detail = format!("{what}: {keepers:#?}");
                        return broken("all shards find an owner within a bound", detail);
                    }
                    Some(_) => continue,
                    None => settled_at = Some(self.now - since),
                }
            }
            if self.asks_left > 0 || !self.history.is_settled() {
                continue;
            }
            // Something that has been on its way all the time may still get into the way of one.
            let next = match (answered, self.history.failed_probe()) {
                (None, _) => 0,
                (Some(count), None) => count + 1,
                (Some(_), Some(detail)) if self.now > since + SETTLED => {
                    return broken("every entity answers again within a bound", detail);
                }
                (Some(count), Some(_)) => count,
            };
            answered = Some(next);
            if next == self.ids.len() {
                break;
            }
            self.probe(next)?;
        }
        let after = settled_at.map_or(0, |after| after.as_millis());
        self.report.settled_after_ms = u64::try_from(after).unwrap_or(u64::MAX);
        self.history.check_end(&mut self.report)?;
        self.report.sent_again = self.sends.values().filter(|&&sends| sends > 1).count() as u64;
        self.report.steps = self.steps;
        Ok(self.report.clone())
    }

    fn happen(&mut self, event: Event) -> Checked {
        match event {
            Event::Turn(node) => self.turn(node)?,
            Event::Input(node, input) => self.input(node, input),
            Event::Frame(from, to, frame) => self.arrive(from, &to, &frame),
            Event::Lease(node, request) => self.lease(node, request),
            Event::Step(node) => self.step(node),
            Event::Journal(node, call, id, what) => self.journal(node, call, id, *what),
            Event::CallEnd(node, call, id, end) => self.call_end(node, call, id, end),
            Event::Heartbeat(node) => self.heartbeat(node),
            Event::Ask => self.ask()?,
            Event::Loads => self.loads(),
            Event::Fault => self.fault(),
            Event::Restart(name) => {
                if self.settles_at.is_none() {
                    self.start(name);
                }
            }
            Event::Heal(node, peer) => {
                self.cuts.remove(&(node, peer));
            }
            Event::Calm => self.weather = Weather::fair(ms(3)),
            Event::Settle => self.settle(),
        }
        Ok(())
    }

    // ---- nodes

    /// Starts a node of this name.
    fn start(&mut self, name: usize) {
        if self.incarnations.len() <= name {
            self.incarnations.resize(name + 1, 0);
        }
        let is_running = |node: &Node| node.name == name && node.is_there();
        if self.nodes.iter().any(is_running) {
            return;
        }
        self.incarnations[name] += 1;
        let id = NodeId::new(format!("n{name}"), self.incarnations[name]);
        let seed = self.random.random_range(0..u64::MAX);
        let keeper = Keeper::new(id.clone(), self.settings.clone(), seed);
        #[cfg_attr(not(feature = "defects"), expect(unused_mut))]
        let mut keeper = keeper.expect("the settings were drawn to be sound");
        #[cfg(feature = "defects")]
        if let Some(super::Defect::Keeper(defect)) = self.options.defect {
            keeper.set_defect(Some(defect));
        }
        let node = self.nodes.len();
        trace!(self, "{id} starts");
        self.report.nodes += 1;
        self.nodes.push(Node {
            id,
            name,
            state: Standing::Runs,
            offset: ms(self.random.random_range(0..100_000)),
            rate: self.random.random_range(0.97..1.03),
            keeper,
            engine: Engine::default(),
            inbox: Vec::new(),
            turn_at: None,
            step_due: false,
            listens: BTreeSet::new(),
            announced: MemberState::Joining,
            told: Vec::new(),
            views: 0,
        });
        self.turn_soon(node);
        self.schedule(self.now + ms(1), Event::Heartbeat(node));
    }

    fn is_paused(&self, node: usize) -> Option<Duration> {
        match self.nodes[node].state {
            Standing::Paused(until) if until > self.now => Some(until),
            _ => None,
        }
    }

    fn turn_soon(&mut self, node: usize) {
        let at = self.now + micros(self.random.random_range(0..1500));
        self.turn_at(node, at);
    }

    /// Has a node take a turn at `at`, unless it takes one before.
    fn turn_at(&mut self, node: usize, at: Duration) {
        let at = at.max(self.now);
        let is_sooner = self.nodes[node].turn_at.is_some_and(|own| own <= at);
        if !is_sooner {
            self.nodes[node].turn_at = Some(at);
            self.schedule(at, Event::Turn(node));
        }
    }

    fn input(&mut self, node: usize, input: Input) {
        if self.nodes[node].is_there() {
            self.nodes[node].inbox.push(input);
            self.turn_soon(node);
        }
    }

    fn turn(&mut self, node: usize) -> Checked {
        if !self.nodes[node].is_there() || self.nodes[node].turn_at.is_none_or(|at| at > self.now) {
            return Ok(());
        }
        if let Some(until) = self.is_paused(node) {
            let again = until + micros(self.random.random_range(0..8000));
            self.nodes[node].turn_at = Some(again);
            self.schedule(again, Event::Turn(node));
            return Ok(());
        }
        let now = self.now;
        let own = &mut self.nodes[node];
        own.turn_at = None;
        let local = own.local(now);
        let inputs = std::mem::take(&mut own.inbox);
        let outbox = own.keeper.turn(local, inputs);
        for output in outbox.outputs {
            self.output(node, output)?;
        }
        if let Some(at) = outbox.wake_at
            && self.nodes[node].is_there()
        {
            // A keeper that was broken may want a turn for a time that has passed.
            let at = self.nodes[node].global(at).max(self.now + micros(200));
            self.turn_at(node, at);
        }
        Ok(())
    }

    fn output(&mut self, node: usize, output: Output) -> Checked {
        if self.options.trace
            && !matches!(
                output,
                Output::ReadTenures | Output::Renew(..) | Output::Extend { .. }
            )
        {
            let line = format!("{} {output:?}", self.nodes[node].id);
            self.note(&line);
        }
        match output {
            Output::Announce(state) => self.nodes[node].announced = state,
            Output::ReadTenures => self.request(node, Request::Read),
            Output::Acquire(request, shard, validity) => {
                self.request(node, Request::Acquire(request, shard, validity));
            }
            Output::Renew(request, shard, token, validity) => {
                self.request(node, Request::Renew(request, shard, token, validity));
            }
            Output::Release(request, shard, token) => {
                self.report.released += 1;
                self.request(node, Request::Release(request, shard, token));
            }
            Output::Listen(shard) => {
                self.nodes[node].listens.insert(shard);
            }
            Output::Silence(shard) => {
                self.nodes[node].listens.remove(&shard);
            }
            Output::Frame(to, frame) => self.send(node, to, frame)?,
            Output::Start {
                shard,
                token,
                until,
            } => {
                self.report.tenures += 1;
                let until = self.as_told(until);
                self.nodes[node].engine.start(shard, token, until);
            }
            Output::Extend { shard, until, .. } => {
                let until = self.as_told(until);
                self.nodes[node].engine.extend(shard, until);
            }
            Output::Deliver {
                ticket,
                shard,
                command,
                ..
            } => {
                self.last_call += 1;
                let call = self.last_call;
                let engine = &mut self.nodes[node].engine;
                engine.deliver(call, ticket, shard, &command);
                self.look_at_engine(node);
            }
            Output::Drain(shard, _) => {
                self.nodes[node].engine.drain(shard);
                self.look_at_engine(node);
            }
            Output::Abandon(shard, token) => {
                let status = self.nodes[node].keeper.status();
                let phase = status[usize::from(shard.value())].phase;
                let is_forced = phase == ShardPhase::Forced;
                self.report.forced += u64::from(is_forced);
                self.report.fenced += u64::from(!is_forced);
                self.nodes[node].engine.abandon(shard, token);
                self.look_at_engine(node);
            }
            Output::Settled(CallId(id), answer) => self.history.settle(id, &answer)?,
            Output::Left => {
                self.report.left += 1;
                self.members.remove(self.nodes[node].id.name());
                self.history.crash(node);
                self.nodes[node].state = Standing::Gone;
                self.keep_somebody();
            }
        }
        Ok(())
    }

    /// Until when an engine handles commands that may handle them until `until`.
    fn as_told(&self, until: Duration) -> Duration {
        #[cfg(feature = "defects")]
        if matches!(
            self.options.defect,
            Some(
                super::Defect::Keeper(crate::Defect::IgnoresValidity)
                    | super::Defect::HandlesTooLate
            )
        ) {
            return Duration::MAX;
        }
        until
    }

    // ---- the network

    fn delay(&mut self) -> Duration {
        let weather = self.weather;
        if self.random.random_bool(weather.late) {
            return ms(self.random.random_range(100..2500));
        }
        let slowest = u64::try_from(weather.slowest.as_micros()).expect("it is short");
        micros(self.random.random_range(50..slowest))
    }

    fn is_cut(&self, node: usize, peer: Peer) -> bool {
        if self.cuts.contains(&(node, peer)) {
            return true;
        }
        match peer {
            Peer::Node(other) => {
                self.cuts.contains(&(node, Peer::Nodes))
                    || self.cuts.contains(&(other, Peer::Nodes))
                    || self.cuts.contains(&(other, Peer::Node(node)))
            }
            _ => false,
        }
    }

    fn send(&mut self, node: usize, to: Destination, frame: Frame) -> Checked {
        self.report.frames += 1;
        self.check_acknowledgement(node, &frame)?;
        if let Frame::Command { command, .. } = &frame {
            let id = super::engine::Command::of_remote(command).id;
            *self.sends.entry(id).or_insert(0) += 1;
        }
        let weather = self.weather;
        if self.random.random_bool(weather.lost) {
            self.report.lost += 1;
            trace!(self, "lost: {frame:?}");
            return Ok(());
        }
        let mut at = self.now + self.delay();
        let last = self.ways.entry((node, to.clone())).or_default();
        if self.random.random_bool(weather.overtaken) {
            self.report.overtaken += u64::from(at < *last);
        } else {
            // One after the other, however long the first one takes.
            at = at.max(*last + micros(1));
            *last = at;
        }
        if self.random.random_bool(weather.doubled) {
            self.report.doubled += 1;
            let again = at + self.delay() + self.delay();
            self.schedule(again, Event::Frame(node, to.clone(), frame.clone()));
        }
        self.schedule(at, Event::Frame(node, to, frame));
        Ok(())
    }

    /// No acknowledgement leaves from an owner once the shard has been granted to another.
    fn check_acknowledgement(&self, node: usize, frame: &Frame) -> Checked {
        let Frame::Answer {
            shard,
            token,
            answer: Answer::Reply(_) | Answer::Taken,
            ..
        } = frame
        else {
            return Ok(());
        };
        self.check_tenure(node, *shard, *token)
    }

    fn check_tenure(&self, node: usize, shard: ShardId, token: Token) -> Checked {
        match self.granted.get(&shard) {
            Some(&(later, other)) if later > token && other != node => broken(
                "an owner acknowledges nothing once another may have begun",
                format!(
                    "{} acts for tenure {token} of shard {shard}, but {} has tenure {later}",
                    self.nodes[node].id, self.nodes[other].id
                ),
            ),
            _ => Ok(()),
        }
    }

    fn arrive(&mut self, from: usize, to: &Destination, frame: &Frame) {
        let receivers: Vec<usize> = (0..self.nodes.len())
            .filter(|&other| {
                let node = &self.nodes[other];
                let is_meant = match to {
                    Destination::Shard(shard) => other != from && node.listens.contains(shard),
                    Destination::Node(id) => node.id == *id,
                };
                is_meant && node.is_there() && !self.is_cut(from, Peer::Node(other))
            })
            .collect();
        if receivers.is_empty() {
            trace!(self, "nobody gets {frame:?}");
        }
        for receiver in receivers {
            self.input(receiver, Input::Frame(frame.clone()));
        }
    }

    // ---- the leases and the members

    fn request(&mut self, node: usize, request: Request) {
        let weather = self.weather;
        if self.random.random_bool(weather.lost) {
            return;
        }
        if self.random.random_bool(weather.doubled / 4.0) {
            self.report.doubled += 1;
            let at = self.now + self.delay() + self.delay();
            self.schedule(at, Event::Lease(node, request.clone()));
        }
        let at = self.now + self.delay();
        self.schedule(at, Event::Lease(node, request));
    }

    fn lease(&mut self, node: usize, request: Request) {
        if self.is_cut(node, Peer::Leases) {
            return;
        }
        let now = self.now.mul_f64(self.lease_rate);
        let holder = self.nodes[node].id.clone();
        let input = match request {
            Request::Acquire(request, shard, validity) => {
                let asked = now + self.early(validity);
                let result = self.leases.acquire(asked, shard, &holder, validity);
                if let Ok(token) = result {
                    self.granted.insert(shard, (token, node));
                }
                trace!(self, "shard {shard} for {holder}: {result:?}");
                Input::Acquired(request, shard, result)
            }
            Request::Renew(request, shard, token, validity) => {
                let result = self.leases.renew(now, shard, token, validity);
                Input::Renewed(request, shard, result)
            }
            Request::Release(request, shard, token) => {
                let result = self.leases.release(now, shard, token);
                Input::Released(request, shard, result)
            }
            Request::Read => Input::Tenures(self.leases.tenures(now)),
        };
        if self.random.random_bool(self.weather.lost) {
            return;
        }
        let at = self.now + self.delay();
        self.schedule(at, Event::Input(node, input));
    }

    /// By how much the leases are ahead of their time when they give one out.
    fn early(&self, _validity: Duration) -> Duration {
        #[cfg(feature = "defects")]
        if self.options.defect == Some(super::Defect::GrantsTooEarly) {
            return _validity / 2;
        }
        Duration::ZERO
    }

    fn heartbeat(&mut self, node: usize) {
        if !self.nodes[node].is_there() {
            return;
        }
        if let Some(until) = self.is_paused(node) {
            return self.schedule(until, Event::Heartbeat(node));
        }
        self.schedule(self.now + HEARTBEAT, Event::Heartbeat(node));
        let is_lost = self.random.random_bool(self.weather.lost);
        if is_lost || self.is_cut(node, Peer::Members) {
            return;
        }
        let own = &self.nodes[node];
        let member = Member::new(own.id.clone(), own.announced);
        let name = own.id.name().to_owned();
        let until = self.now + KNOWN_FOR;
        // A later incarnation of the name has taken its place.
        let is_stale = self
            .members
            .get(&name)
            .is_some_and(|(known, _)| known.node > member.node);
        if !is_stale {
            self.members.insert(name, (member, until));
        }
        let now = self.now;
        self.members.retain(|_, (_, until)| *until > now);
        let members: Vec<Member> = self
            .members
            .values()
            .map(|(member, _)| member.clone())
            .collect();
        if self.nodes[node].told != members {
            self.nodes[node].told.clone_from(&members);
            self.nodes[node].views += 1;
            let version = self.nodes[node].views;
            let view = MemberView { version, members };
            let at = self.now + self.delay();
            self.schedule(at, Event::Input(node, Input::Members(view)));
        }
    }

    // ---- the engines and the journal

    fn step(&mut self, node: usize) {
        if !self.nodes[node].is_there() {
            return;
        }
        if let Some(until) = self.is_paused(node) {
            let at = until + micros(self.random.random_range(0..2000));
            return self.schedule(at, Event::Step(node));
        }
        self.nodes[node].step_due = false;
        let last_call = &mut self.last_call;
        let local = self.nodes[node].local(self.now);
        self.nodes[node].engine.step(local, &mut || {
            *last_call += 1;
            *last_call
        });
        self.look_at_engine(node);
    }

    /// Takes what an engine wants done, and has it go on.
    fn look_at_engine(&mut self, node: usize) {
        for done in std::mem::take(&mut self.nodes[node].engine.done) {
            let soon = self.now + micros(self.random.random_range(0..2000));
            match done {
                Done::Read(call, id) => self.call(node, call, id, JournalCall::Read),
                Done::Write(call, write) => {
                    let id = write.persistence_id().clone();
                    #[cfg(feature = "defects")]
                    if self.options.defect == Some(super::Defect::AnswersTooEarly) {
                        let end = Event::CallEnd(node, call, id.clone(), CallEnd::Written);
                        self.schedule(self.now, end);
                    }
                    self.call(node, call, id, JournalCall::Write(*write));
                }
                Done::Answered(ticket, answer) => {
                    let input = Input::Answered(ticket, answer);
                    self.schedule(soon, Event::Input(node, input));
                }
                // After the answers, as an engine tells it.
                Done::Drained(shard, token) => {
                    let input = Input::Drained(shard, token);
                    self.schedule(self.now + ms(2), Event::Input(node, input));
                }
                Done::Ended(shard, token) => {
                    self.schedule(soon, Event::Input(node, Input::Ended(shard, token)));
                }
            }
        }
        if self.nodes[node].engine.can_go_on() && !self.nodes[node].step_due {
            self.nodes[node].step_due = true;
            let mut at = self.now + micros(self.random.random_range(0..3000));
            if self.random.random_bool(self.weather.slow_steps) {
                at += ms(self.random.random_range(50..700));
            }
            self.schedule(at, Event::Step(node));
        }
    }

    fn call(&mut self, node: usize, call: u64, id: PersistenceId, what: JournalCall) {
        let weather = self.weather;
        let given_up_at = self.now + CALL_TIMEOUT;
        let lost = Event::CallEnd(node, call, id.clone(), CallEnd::Lost);
        self.schedule(given_up_at, lost);
        if self.random.random_bool(weather.lost) {
            return;
        }
        let at = self.now + self.delay();
        self.schedule(at, Event::Journal(node, call, id, Box::new(what)));
    }

    fn journal(&mut self, node: usize, call: u64, id: PersistenceId, what: JournalCall) {
        if self.is_cut(node, Peer::Journal) {
            return;
        }
        let end = match what {
            JournalCall::Read => CallEnd::Read(self.stored(&id)),
            JournalCall::Write(write) => {
                trace!(
                    self,
                    "the journal gets {} of {id} from {} as {}",
                    Stored::of(&write.events()[0].payload).command,
                    self.nodes[node].id,
                    write.first()
                );
                match self.write(write) {
                    Ok(()) => CallEnd::Written,
                    Err(error) => {
                        self.report.refused_writes += 1;
                        trace!(self, "refused: {error}");
                        CallEnd::Refused
                    }
                }
            }
        };
        if self.random.random_bool(self.weather.lost) {
            return;
        }
        let at = self.now + self.delay();
        self.schedule(at, Event::CallEnd(node, call, id, end));
    }

    fn stored(&self, id: &PersistenceId) -> Chain {
        let rows = self.store.rows(id).into_iter();
        let events = rows.filter_map(|row| row.event);
        events.fold(Chain::default(), |chain, (_, event)| {
            chain.and(Stored::of(&event.payload).command)
        })
    }

    fn write(&self, write: AtomicWrite) -> Result<(), Error> {
        let store: &dyn Store = &self.store;
        let journal = store.journal();
        let batch = [write];
        let results = journal.write_events(&batch).now_or_never();
        let result = results.expect("it is in memory").remove(0).map(|_| ());
        #[cfg(feature = "defects")]
        if let Err(Error::Conflict { .. }) = &result
            && self.options.defect == Some(super::Defect::NoFence)
        {
            let [write] = batch;
            let next = self.stored(write.persistence_id()).count + 1;
            let events = write.events().to_vec();
            let write = AtomicWrite::new(
                write.persistence_id().clone(),
                write.writer(),
                SequenceNr::new(next).expect("a small number"),
                events,
            );
            return self.write(write.expect("it was one before"));
        }
        result
    }

    fn call_end(&mut self, node: usize, call: u64, id: PersistenceId, end: CallEnd) {
        if !self.nodes[node].is_there() {
            return;
        }
        if let Some(until) = self.is_paused(node) {
            let at = until + micros(self.random.random_range(0..2000));
            return self.schedule(at, Event::CallEnd(node, call, id, end));
        }
        let last_call = &mut self.last_call;
        let mut next_call = || {
            *last_call += 1;
            *last_call
        };
        let engine = &mut self.nodes[node].engine;
        engine.ended(call, &id, end, &mut next_call);
        self.look_at_engine(node);
    }

    // ---- the callers

    fn ask(&mut self) -> Checked {
        let running: Vec<usize> = (0..self.nodes.len())
            .filter(|&node| self.nodes[node].is_there() && self.is_paused(node).is_none())
            .collect();
        if let Some(node) = self.pick(&running) {
            let burst = self.random.random_range(1..=4).min(self.asks_left);
            self.asks_left -= burst;
            let caller = self.random.random_range(0..CALLERS);
            let entity = self.random.random_range(0..self.ids.len());
            for _ in 0..burst {
                let timeout = ms(self.random.random_range(100..3000));
                let appends = self.random.random_bool(0.6);
                let one_way = self.random.random_bool(0.1);
                self.send_command(node, caller, entity, appends, one_way, timeout);
            }
            self.turn_now(node)?;
        }
        if self.asks_left > 0 {
            let at = self.now + ms(self.random.random_range(2..self.slowest_ask));
            self.schedule(at, Event::Ask);
        }
        Ok(())
    }

    fn turn_now(&mut self, node: usize) -> Checked {
        self.nodes[node].turn_at = Some(self.now);
        self.turn(node)
    }

    fn send_command(
        &mut self,
        node: usize,
        caller: u64,
        entity: usize,
        appends: bool,
        one_way: bool,
        timeout: Duration,
    ) {
        let deadline = self.nodes[node].local(self.now) + timeout;
        let command = self.history.send((node, caller), entity, appends, deadline);
        trace!(
            self,
            "c{} from {} to {}: {command:?}", command.id, self.nodes[node].id, self.ids[entity]
        );
        let id = &self.ids[entity];
        let remote =
            RemoteCommand::ask(id.entity_type(), id.entity_id(), command.payload(), timeout);
        let remote = if one_way { remote.one_way() } else { remote };
        let input = Input::Send(CallId(command.id), Box::new(remote));
        self.nodes[node].inbox.push(input);
    }

    fn pick(&mut self, of: &[usize]) -> Option<usize> {
        let place = (!of.is_empty()).then(|| self.random.random_range(0..of.len()))?;
        Some(of[place])
    }

    // ---- what goes wrong

    /// Everybody hears of other loads, so that shards move. In the end there are none, and each shard
    /// counts as much as any other.
    fn loads(&mut self) {
        let settles = self.settles_at.is_some();
        let mut loads = BTreeMap::new();
        if !settles {
            for shard in self.settings.shards.iter() {
                loads.insert(shard, self.random.random_range(0..100));
            }
            let at = self.now + ms(self.random.random_range(200..1500));
            self.schedule(at.min(FAULTS + ms(1)), Event::Loads);
        }
        for node in 0..self.nodes.len() {
            let at = self.now + self.delay();
            let input = Input::Loads(self.last_event, loads.clone());
            self.schedule(at, Event::Input(node, input));
        }
    }

    fn fault(&mut self) {
        let running: Vec<usize> = (0..self.nodes.len())
            .filter(|&node| self.nodes[node].is_there())
            .collect();
        let Some(node) = self.pick(&running) else {
            return;
        };
        let until = self.now + ms(self.random.random_range(50..2500));
        let kind = self.random.random_range(0..12);
        trace!(
            self,
            "fault {kind} at {} until {until:?}", self.nodes[node].id
        );
        match kind {
            0..=2 => {
                self.report.pauses += 1;
                let until = self
                    .is_paused(node)
                    .map_or(until, |before| before.max(until));
                self.nodes[node].state = Standing::Paused(until);
            }
            3 | 4 => {
                self.report.crashes += 1;
                self.nodes[node].state = Standing::Gone;
                self.history.crash(node);
                let name = self.nodes[node].name;
                self.schedule(until, Event::Restart(name));
            }
            5 => self.cut(node, Peer::Leases, until),
            6 => self.cut(node, Peer::Journal, until),
            7 => {
                for peer in [Peer::Nodes, Peer::Leases, Peer::Members] {
                    self.cut(node, peer, until);
                }
            }
            8 => {
                if let Some(other) = self.pick(&running) {
                    self.cut(node, Peer::Node(other), until);
                }
                self.cut(node, Peer::Members, until);
            }
            9 => self.start(self.incarnations.len()),
            10 => {
                if running.len() > 1 {
                    self.nodes[node].inbox.push(Input::Leave);
                    self.turn_soon(node);
                }
            }
            _ => {
                self.weather = Weather::foul(&mut self.random);
                self.schedule(until, Event::Calm);
            }
        }
    }

    fn cut(&mut self, node: usize, peer: Peer, until: Duration) {
        self.report.cuts += 1;
        self.cuts.insert((node, peer));
        self.schedule(until, Event::Heal(node, peer));
    }

    /// From now on nothing goes wrong.
    fn settle(&mut self) {
        trace!(self, "nothing goes wrong any more");
        self.settles_at = Some(self.now);
        self.cuts.clear();
        self.weather = Weather::fair(ms(3));
        for node in 0..self.nodes.len() {
            if self.nodes[node].is_there() {
                self.nodes[node].state = Standing::Runs;
                self.turn_soon(node);
            }
        }
        self.keep_somebody();
    }

    /// Somebody is there in the end, as without anybody nothing finds its place.
    fn keep_somebody(&mut self) {
        let stays = |node: &Node| node.is_there() && node.announced == MemberState::Up;
        if self.settles_at.is_some() && !self.nodes.iter().any(stays) {
            self.start(self.incarnations.len());
        }
    }

    // ---- what must be true once nothing goes wrong any more

    /// What is not at its place, if something is not.
    fn unsettled(&self) -> Option<String> {
        let here: Vec<&Node> = self.nodes.iter().filter(|node| node.is_there()).collect();
        let leaving = here
            .iter()
            .find(|node| node.announced == MemberState::Leaving);
        if let Some(node) = leaving {
            return Some(format!("{} has not left", node.id));
        }
        let mut owned: BTreeMap<ShardId, u64> = BTreeMap::new();
        let mut counts = Vec::new();
        for node in &here {
            let status = node.keeper.status();
            let serving = status
                .iter()
                .filter(|status| status.phase == ShardPhase::Serving);
            let mut count = 0_u64;
            for status in serving {
                *owned.entry(status.shard).or_insert(0) += 1;
                count += 1;
            }
            counts.push(count);
            let between = status.iter().find(|status| {
                !matches!(status.phase, ShardPhase::Serving | ShardPhase::Elsewhere)
            });
            if let Some(status) = between {
                return Some(format!("{} at {}", describe(status.phase), node.id));
            }
        }
        let owners = |shard| owned.get(&shard).copied().unwrap_or(0);
        let wrong = self
            .settings
            .shards
            .iter()
            .find(|&shard| owners(shard) != 1);
        if let Some(shard) = wrong {
            return Some(format!("shard {shard} has {} owners", owners(shard)));
        }
        let (least, most) = (counts.iter().min()?, counts.iter().max()?);
        (most - least > 1).then(|| format!("the nodes have {counts:?} shards"))
    }

    fn check_deadlines(&self) -> Checked {
        // A turn may be a little late.
        let slack = ms(10);
        self.history.check_deadlines(|node| {
            let node = &self.nodes[node];
            let runs = node.state != Standing::Gone;
            runs.then(|| node.local(self.now).saturating_sub(slack))
        })
    }

    /// An entity is asked once more.
    fn probe(&mut self, entity: usize) -> Checked {
        trace!(self, "the last calls of {}", self.ids[entity]);
        let here: Vec<usize> = (0..self.nodes.len())
            .filter(|&node| self.nodes[node].is_there())
            .collect();
        let node = self.pick(&here).expect("somebody is there");
        self.history.begin_probe();
        for appends in [true, false] {
            self.send_command(node, CALLERS, entity, appends, false, ms(2000));
        }
        self.turn_now(node)
    }
}

fn describe(phase: ShardPhase) -> String {
    format!("a shard is {phase:?}")
}

fn draw_settings(random: &mut SmallRng) -> Settings {
    let mut settings = Settings::default()
        .with_shards(ShardCount::new(1 << random.random_range(1..4)).expect("a power of two"))
        .with_limits(Limits::default().with_moves(random.random_range(1..5)))
        .with_validity(ms(1000), ms(100));
    settings.request_timeout = ms(150);
    settings.refresh_every = ms(200);
    settings.claim_after = ms(600);
    settings.drain_timeout = ms(random.random_range(50..500));
    settings.buffer = random.random_range(4..40);
    settings.window = random.random_range(1..16);
    settings.taken = random.random_range(3..40);
    settings.silence = ms(150);
    settings.open_every = ms(40);
    settings.answer_grace = ms(200);
    settings
}
