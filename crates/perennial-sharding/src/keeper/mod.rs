//! The keeper: which shards a node owns, and how commands get to those who own the others.
//!
//! One [`Keeper`] for each node, a deterministic state machine as the engine's worker is: it has no
//! clock, thread, socket or chance of its own. [`Keeper::turn`] takes what came in and gives what is
//! to be done: requests to the [`Leases`](crate::Leases), frames for the
//! [`Transport`](crate::Transport), orders to the node's engine.
//!
//! - `tenure`: a shard's life on this node, from the request for its lease to its release
//! - `inbound`: what the tenure takes from the senders, and what they are answered
//! - `outbound`: what this node sends to a shard's owner, in order
//!
//! # How a shard changes its owner
//!
//! ```text
//! sender                     old owner                          new owner
//!   │── command 4, 5 ───────────>│ takes them
//!   │                            │ is to give the shard away: takes nothing more
//!   │<── closed, below 6 ────────│ entities finish what was taken
//!   │── command 6 ──────────────>│
//!   │<── closed, below 6 ────────│ drained, or given up after `drain_timeout`
//!   │ keeps 6 and what follows   │── release ──> leases <── acquire ──│
//!   │── open ───────────────────────────────────────────────────────>│ starts
//!   │<── opened, token + 1 ──────────────────────────────────────────│
//!   │── command 0 (was 6), 1, 2 … ──────────────────────────────────>│
//! ```
//!
//! What waits is kept by its sender, not by the old owner: it is not lost with that one's crash,
//! crosses the network once, and stays in order, as there is one place where it waits. The number in
//! `closed` is final, so the sender knows of every command whether it was taken: what was not goes to
//! the new owner in the old order, what was is answered by the old one, or ends as unknown.
//!
//! # What is bounded
//!
//! Commands that wait for an owner or its answer: [`Settings::buffer`] for each shard, then
//! [`FailureEffect::NotHandled`](crate::FailureEffect) at once. Commands that a shard has taken and not
//! answered: [`Settings::taken`], then the same, from the owner. Senders of a tenure:
//! [`Settings::senders`]; one more is not let in. Shards that are given away at a time:
//! [`Limits::moves`](crate::Limits).

mod inbound;
mod outbound;
mod settings;
mod tenure;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::lease::{LeaseError, Tenure, Token};
use crate::node::{MemberState, MemberView, NodeId};
use crate::shard::ShardId;
use crate::transport::{Answer, Destination, Frame, RemoteCommand};

use inbound::Inbound;
use outbound::Channel;
use tenure::Seat;

pub use settings::{InvalidSettings, Settings};

/// The shards of one node.
pub struct Keeper {
    node: NodeId,
    settings: Settings,
    random: SmallRng,
    now: Duration,
    members: MemberView,
    tenures: BTreeMap<ShardId, NodeId>,
    loads: BTreeMap<ShardId, u64>,
    loads_version: u64,
    /// Since when nobody is known to own a shard.
    free_since: BTreeMap<ShardId, Duration>,
    /// Until when no shard is given to a node that has more room, as it may not take it.
    gives_nothing_until: Duration,
    seats: Vec<Seat>,
    inbound: Inbound,
    channels: BTreeMap<ShardId, Channel>,
    last_request: u64,
    /// Whether something has changed that decides who is to own what.
    replan: bool,
    /// When the tenures are to be read again.
    read_at: Duration,
    leaving: bool,
    has_left: bool,
    #[cfg(feature = "defects")]
    defect: Option<Defect>,
    out: Vec<Output>,
    /// Frames to itself.
    own: Vec<Frame>,
}

/// Names a request to the leases. Never used twice by one keeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(u64);

/// Names a command that the engine of this node was given. Never used twice by one keeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Names a call of somebody on this node, who chooses it and does not use it twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// What comes into a keeper.
#[derive(Debug)]
pub enum Input {
    /// The members, whenever they change; this node among them once it was announced. A view that is
    /// older than one before it is passed over.
    Members(MemberView),
    /// Who owns what, as an answer to [`Output::ReadTenures`] or whenever that is learned.
    Tenures(Vec<Tenure>),
    /// What the shards are loaded with, in any unit; none means none. The same for all nodes, or they
    /// disagree about who is to have what. Numbered by whoever measures; what is older than something
    /// before it is passed over.
    Loads(u64, BTreeMap<ShardId, u64>),
    /// What became of an [`Output::Acquire`].
    Acquired(RequestId, ShardId, Result<Token, LeaseError>),
    /// What became of an [`Output::Renew`].
    Renewed(RequestId, ShardId, Result<(), LeaseError>),
    /// What became of an [`Output::Release`].
    Released(RequestId, ShardId, Result<(), LeaseError>),
    /// A frame for this node, or for a shard that it listens to.
    Frame(Frame),
    /// Somebody on this node has a command for an entity, wherever it is.
    Send(CallId, Box<RemoteCommand>),
    /// The engine is done with an [`Output::Deliver`]. Not told of what was abandoned.
    Answered(Ticket, Answer),
    /// The engine has done everything that [`Output::Drain`] was told to wait for. Everything that was
    /// delivered has been answered before.
    Drained(ShardId, Token),
    /// The engine has forgotten the shard after [`Output::Abandon`]: it sends no more writes for it.
    Ended(ShardId, Token),
    /// This node is to give everything away, and to leave. [`Output::Left`] says when it has.
    Leave,
}

/// What a keeper wants done outside, in this order. A driver that passes over one of these breaks a
/// promise, so a new one is to be a compile error.
#[derive(Debug)]
pub enum Output {
    /// Make this node known in this state.
    Announce(MemberState),
    /// Read who owns what. Not repeated until [`Settings::refresh_every`] later, answered or not.
    ReadTenures,
    /// Acquire a shard for this node.
    Acquire(RequestId, ShardId, Duration),
    /// Renew a tenure.
    Renew(RequestId, ShardId, Token, Duration),
    /// End a tenure.
    Release(RequestId, ShardId, Token),
    /// Have frames to a shard come to this node.
    Listen(ShardId),
    /// Have them come no more.
    Silence(ShardId),
    /// Send a frame.
    Frame(Destination, Frame),
    /// Commands of a shard may come from now on, and may be handled as long as the time that the keeper
    /// is told is before `until`. An engine looks at that time *after* it has read an entity's state and
    /// before it handles a command; one that is later is not handled, and its keeper will abandon it.
    /// What the engine remembers of an earlier tenure is not to be relied on: everything is brought back
    /// from the store.
    Start {
        /// Which shard.
        shard: ShardId,
        /// Under which tenure.
        token: Token,
        /// Until when its commands may be handled.
        until: Duration,
    },
    /// The tenure was renewed: its commands may be handled for longer.
    Extend {
        /// Which shard.
        shard: ShardId,
        /// Under which tenure.
        token: Token,
        /// Until when its commands may be handled.
        until: Duration,
    },
    /// Have an entity handle a command, in the order of these for each entity. The engine answers with
    /// [`Input::Answered`] once what it answers is durable.
    Deliver {
        /// By which the answer is told.
        ticket: Ticket,
        /// Which shard.
        shard: ShardId,
        /// Under which tenure.
        token: Token,
        /// What is to be handled.
        command: Box<RemoteCommand>,
    },
    /// Finish what was delivered, stop the shard's entities, then tell [`Input::Drained`].
    Drain(ShardId, Token),
    /// Forget the shard's entities at once, then tell [`Input::Ended`]. What is on its way to the store
    /// may still get there.
    Abandon(ShardId, Token),
    /// What became of a call.
    Settled(CallId, Answer),
    /// Everything is given away, after [`Input::Leave`].
    Left,
}

/// What is to be done after a turn.
#[derive(Debug)]
pub struct Outbox {
    /// In their order.
    pub outputs: Vec<Output>,
    /// When the next turn is to be at the latest, in the time that the keeper is told; `None` if
    /// nothing waits for time. Never in the past.
    pub wake_at: Option<Duration>,
}

/// What a shard is to this node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardStatus {
    /// Which shard.
    pub shard: ShardId,
    /// In which phase of its life here it is.
    pub phase: ShardPhase,
    /// Since when, in the time that the keeper is told.
    pub since: Duration,
    /// The tenure that it is in, if it is in one here.
    pub token: Option<Token>,
    /// Commands that were taken here and are not answered.
    pub taken: usize,
    /// Commands of this node that wait for an owner.
    pub waiting: usize,
    /// Commands of this node that are with an owner, here or elsewhere.
    pub sent: usize,
}

/// The phases of a shard's life on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ShardPhase {
    /// It is another node's, or nobody's.
    Elsewhere,
    /// Its lease has been asked for.
    Acquiring,
    /// It is this node's, and takes commands.
    Serving,
    /// It takes nothing more, and finishes what it has.
    Draining,
    /// It has taken too long for that, and is given up.
    Forced,
    /// Nothing acts for it any more, and its lease is being given back.
    Releasing,
    /// Its lease is over, or may be: nothing is acknowledged any more, and its entities are forgotten.
    Fenced,
}

/// Something that can be broken on purpose, to see that the simulation notices.
#[cfg(feature = "defects")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Defect {
    /// A keeper goes on although its lease is over.
    IgnoresValidity,
    /// A lease is given back before the shard is drained.
    ReleasesBeforeDrained,
    /// What waits for a new owner is sent in another order.
    SendsOutOfOrder,
    /// A tenure takes numbers that it has had.
    TakesNumbersTwice,
}

impl Keeper {
    /// The keeper of a node, which begins with nothing. `seed` decides by how much its waits differ
    /// from those of others.
    ///
    /// # Errors
    /// [`InvalidSettings`] for settings that contradict each other.
    pub fn new(node: NodeId, settings: Settings, seed: u64) -> Result<Self, InvalidSettings> {
        settings.check()?;
        let seats = settings.shards.iter().map(|_| Seat::default()).collect();
        Ok(Self {
            node,
            settings,
            random: SmallRng::seed_from_u64(seed),
            now: Duration::ZERO,
            members: MemberView {
                version: 0,
                members: Vec::new(),
            },
            tenures: BTreeMap::new(),
            loads: BTreeMap::new(),
            loads_version: 0,
            free_since: BTreeMap::new(),
            gives_nothing_until: Duration::ZERO,
            seats,
            inbound: Inbound::default(),
            channels: BTreeMap::new(),
            last_request: 0,
            replan: true,
            read_at: Duration::ZERO,
            leaving: false,
            has_left: false,
            #[cfg(feature = "defects")]
            defect: None,
            out: vec![Output::Announce(MemberState::Up)],
            own: Vec::new(),
        })
    }

    /// Breaks it on purpose.
    #[cfg(feature = "defects")]
    pub fn set_defect(&mut self, defect: Option<Defect>) {
        self.defect = defect;
    }

    /// Takes what came in, and gives what is to be done.
    ///
    /// `now` is the node's monotonic time since any fixed point, and is to be read *after* `inputs` were
    /// collected. Then a process may stand still at any point: everything that is acknowledged in this
    /// turn came in before `now`, and at `now` the lease was valid. A keeper whose lease is over by `now`
    /// gives up the shard before it looks at any input.
    pub fn turn(&mut self, now: Duration, inputs: impl IntoIterator<Item = Input>) -> Outbox {
        self.now = self.now.max(now);
        self.fence();
        for input in inputs {
            self.receive(input);
            self.receive_own();
        }
        self.receive_own();
        self.look_at_seats();
        if std::mem::take(&mut self.replan) {
            self.plan();
        }
        self.look_at_channels();
        self.receive_own();
        if self.read_at <= self.now {
            self.read_at = self.now + self.settings.refresh_every;
            self.out.push(Output::ReadTenures);
        }
        if self.leaving && !self.has_left && self.seats.iter().all(Seat::is_empty) {
            self.has_left = true;
            self.out.push(Output::Left);
        }
        Outbox {
            outputs: std::mem::take(&mut self.out),
            wake_at: self.wake_at(),
        }
    }

    /// Which node it is.
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// What every shard is to this node, in order.
    pub fn status(&self) -> Vec<ShardStatus> {
        let shards = self.settings.shards.iter();
        let status = |(shard, seat): (ShardId, &Seat)| {
            let (waiting, sent) = self.channels.get(&shard).map_or((0, 0), Channel::counts);
            ShardStatus {
                shard,
                phase: seat.phase(),
                since: seat.since(),
                token: seat.token(),
                taken: self.inbound.taken(shard),
                waiting,
                sent,
            }
        };
        shards.zip(&self.seats).map(status).collect()
    }

    fn receive(&mut self, input: Input) {
        match input {
            Input::Members(view) => {
                if view.version > self.members.version {
                    self.members = view;
                    self.replan = true;
                }
            }
            Input::Tenures(tenures) => {
                let rows = tenures.into_iter();
                self.tenures = rows.map(|row| (row.shard, row.holder)).collect();
                self.note_free();
                self.replan = true;
            }
            Input::Loads(version, loads) => {
                if version > self.loads_version {
                    self.loads_version = version;
                    self.loads = loads;
                    self.replan = true;
                }
            }
            Input::Acquired(request, shard, result) => self.acquired(request, shard, result),
            Input::Renewed(request, shard, result) => self.renewed(request, shard, result),
            Input::Released(request, shard, result) => self.released(request, shard, result),
            Input::Frame(frame) => self.frame(frame),
            Input::Send(call, command) => self.send(call, command),
            Input::Answered(ticket, answer) => self.answered(ticket, answer),
            Input::Drained(shard, token) => self.drained(shard, token),
            Input::Ended(shard, token) => self.ended(shard, token),
            Input::Leave => {
                if !std::mem::replace(&mut self.leaving, true) {
                    self.out.push(Output::Announce(MemberState::Leaving));
                    self.replan = true;
                }
            }
        }
    }

    fn frame(&mut self, frame: Frame) {
        if frame.shard().value() >= self.settings.shards.value() {
            // Of a node that divides otherwise. Nobody is served, rather than somebody wrongly.
            return;
        }
        match frame {
            Frame::Open { shard, from } => self.open(shard, from),
            Frame::Command {
                shard,
                from,
                token,
                number,
                command,
            } => self.command(shard, from, token, number, command),
            Frame::Opened { shard, token } => self.opened(shard, token),
            Frame::Closed {
                shard,
                token,
                below,
            } => self.closed(shard, token, below),
            Frame::Answer {
                shard,
                token,
                number,
                answer,
            } => self.settled(shard, token, number, answer),
        }
    }

    /// Takes what this node has said to itself.
    fn receive_own(&mut self) {
        while !self.own.is_empty() {
            for frame in std::mem::take(&mut self.own) {
                self.frame(frame);
            }
        }
    }

    /// Sends a frame, also to this node.
    fn post(&mut self, to: Destination, frame: Frame) {
        let is_own = match &to {
            Destination::Node(node) => *node == self.node,
            Destination::Shard(shard) => self.seat(*shard).is_serving(),
        };
        if is_own {
            self.own.push(frame);
        } else {
            self.out.push(Output::Frame(to, frame));
        }
    }

    fn seat(&self, shard: ShardId) -> &Seat {
        &self.seats[usize::from(shard.value())]
    }

    fn seat_mut(&mut self, shard: ShardId) -> &mut Seat {
        &mut self.seats[usize::from(shard.value())]
    }

    fn request(&mut self) -> RequestId {
        self.last_request += 1;
        RequestId(self.last_request)
    }

    /// A wait that differs from node to node: up to a half more.
    fn about(&mut self, wait: Duration) -> Duration {
        wait + wait.mul_f64(self.random.random_range(0.0..0.5))
    }

    fn wake_at(&self) -> Option<Duration> {
        let timeout = self.settings.request_timeout;
        let seats = self.seats.iter().filter_map(|seat| seat.wake_at(timeout));
        let channels = self.channels.values();
        let channels = channels.filter_map(|channel| channel.wake_at(&self.settings));
        let times = seats.chain(channels).chain([self.read_at]);
        times.min().map(|at| at.max(self.now))
    }

    #[cfg(feature = "defects")]
    fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper")
            .field("node", &self.node)
            .field("members", &self.members)
            .field("tenures", &self.tenures)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
