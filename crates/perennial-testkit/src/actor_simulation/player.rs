//! The actors of the simulation: they do what their messages say, and say what happens to them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perennial_core::{
    Actor, ActorCx, ActorRef, Answer, AskError, ChildFailed, Failure, Outside, PendingReply,
    Placement, Props, Receive, Received, SpawnError, StopReason, Supervision, Terminated,
    WeakActorRef,
};
use perennial_persistence::Clock;
use tokio::sync::oneshot;

use crate::ManualClock;

/// A message.
pub(super) type MessageId = u64;

/// An actor; never used twice, unlike its path.
pub(super) type Number = usize;

/// Who has sent a message, as far as the order of messages is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Sender {
    /// The test.
    Test,
    /// The handlers of an actor.
    Actor(Number),
    /// Anything else, such as a future: no order is promised.
    Elsewhere,
}

/// What happens, in the order in which it does.
#[derive(Debug, Clone)]
#[expect(dead_code, reason = "all of it stands in the trace")]
pub(super) enum Event {
    /// A message was sent or refused.
    Sent {
        message: MessageId,
        from: Sender,
        to: Number,
        how: How,
        accepted: Accepted,
    },
    /// A message was given to its actor.
    Delivered {
        message: MessageId,
        to: Number,
        incarnation: u32,
    },
    /// What its handler, or what came after it, has made of it.
    Done {
        message: MessageId,
        end: Ended,
    },
    /// A kept reply was given.
    Replied {
        message: MessageId,
    },
    /// The future of a message has begun.
    Begun {
        message: MessageId,
    },
    /// What runs on the actor after work outside has begun.
    Continued {
        message: MessageId,
    },
    /// Nothing is left of a message.
    Gone {
        message: MessageId,
    },
    /// The answer to a question.
    Answered {
        message: MessageId,
        answer: Result<MessageId, AskError>,
    },
    /// Its asker has gone.
    GivenUp {
        message: MessageId,
    },
    /// An actor was spawned, or not.
    Spawned {
        number: Number,
        parent: Option<Number>,
        path: String,
    },
    NotSpawned {
        path: String,
        error: SpawnError,
        /// Whether the latest actor with this path has ended.
        ended: bool,
    },
    /// A factory has made a value.
    Made {
        number: Number,
        incarnation: u32,
    },
    Started {
        number: Number,
        incarnation: u32,
    },
    FailedStart {
        number: Number,
    },
    Restarting {
        number: Number,
        incarnation: u32,
    },
    Stopped {
        number: Number,
        reason: String,
        children: usize,
    },
    /// A value is gone.
    Dropped {
        number: Number,
        incarnation: u32,
    },
    Watches {
        watcher: Number,
        incarnation: u32,
        target: Number,
    },
    Unwatches {
        watcher: Number,
        incarnation: u32,
        target: Number,
    },
    Terminated {
        watcher: Number,
        incarnation: u32,
        target: Number,
        reason: String,
        /// Whether the target has ended, as far as its reference knows.
        ended: bool,
    },
    /// The test was told.
    ToldOutside {
        target: Number,
        reason: String,
        ended: bool,
    },
    ChildFailed {
        parent: Number,
    },
    TimerStarted {
        number: Number,
        incarnation: u32,
        timer: u64,
        key: u8,
        delay: Duration,
        repeated: bool,
    },
    /// All of them if there is no key.
    TimerCancelled {
        number: Number,
        key: Option<u8>,
    },
    Ticked {
        number: Number,
        incarnation: u32,
        timer: u64,
        key: u8,
    },
    TimedOut {
        number: Number,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Told,
    Asked,
    /// Asked by an actor, with a continuation.
    AskedByActor,
    ToItself,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Accepted {
    Yes,
    No(AskError),
    /// It turns out with the answer.
    Open,
}

/// How a handler or a continuation has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Replied,
    NoReply,
    Unhandled,
    Failed,
    Stashed,
    Kept,
    /// Work outside was asked for.
    Outside,
    /// Another actor was asked.
    Asks,
}

/// What a message has its actor do.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Tell(usize, Box<Plan>),
    TellMyself(Box<Plan>),
    Spawn(usize, Box<Role>),
    Watch(usize),
    Unwatch(usize),
    StartTimer { key: u8, delay: u8, repeated: bool },
    CancelTimer(u8),
    CancelAllTimers,
    Stop(usize),
    StopNow(usize),
    StopMyself,
    UnstashAll,
    ReceiveTimeout(Option<u8>),
    ReplyKept,
    DropKept,
}

/// What becomes of a message in the end.
#[derive(Debug, Clone)]
pub(super) enum End {
    Reply,
    NoReply,
    Unhandled,
    Fail,
    Panic,
    /// Put aside so often, and answered then.
    Stash(u8),
    Keep,
    Later {
        work: WorkPlan,
        exclusive: bool,
        timeout: Option<u8>,
        then: Then,
    },
    Ask {
        slot: usize,
        plan: Box<Plan>,
        exclusive: bool,
        timeout: Option<u8>,
        then: Then,
    },
}

#[derive(Debug, Clone)]
pub(super) enum WorkPlan {
    Ready,
    Never,
    /// Goes on when the test opens a gate.
    Gate,
    Panics,
    Blocking,
    Asks(usize, Box<Plan>),
}

/// What becomes of it after work outside.
#[derive(Debug, Clone, Copy)]
pub(super) enum Then {
    Reply,
    NoReply,
    Unhandled,
    Fail,
    Panic,
}

/// A message that is not made yet.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) ops: Vec<Op>,
    pub(super) end: End,
}

/// What kind of actor one is.
#[derive(Debug, Clone)]
pub(super) struct Role {
    /// One without stops when nobody refers to it, if it is to.
    pub(super) name: Option<u8>,
    pub(super) mailbox: usize,
    pub(super) stash: usize,
    pub(super) supervision: Supervision,
    pub(super) placement: Placement,
    pub(super) unreferenced: bool,
    /// How its starts go wrong, one after the other; well after that.
    pub(super) starts: Vec<Start>,
    pub(super) hooks_panic: bool,
    /// Children that it has from its start on.
    pub(super) children: Vec<(usize, Role)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    Well,
    NoValue,
    FactoryPanics,
    Fails,
    Panics,
}

/// What all actors of a run share with the test.
pub(super) struct Shared {
    clock: ManualClock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    events: Vec<(Duration, Event)>,
    messages: MessageId,
    timers: u64,
    /// Where actors find each other.
    slots: Vec<Option<(Number, ActorRef<Player>)>>,
    players: Number,
    /// All that there ever were, by their numbers.
    everybody: Vec<(Number, WeakActorRef<Player>)>,
    /// The latest actor with each path.
    paths: BTreeMap<String, WeakActorRef<Player>>,
    gates: Vec<oneshot::Sender<()>>,
}

impl Shared {
    pub(super) fn new(clock: ManualClock, slots: usize) -> Arc<Self> {
        let mut state = State::default();
        state.slots.resize_with(slots, || None);
        Arc::new(Self {
            clock,
            state: Mutex::new(state),
        })
    }

    pub(super) fn log(&self, event: Event) {
        let at = self.clock.elapsed();
        self.state().events.push((at, event));
    }

    pub(super) fn take_events(&self) -> Vec<(Duration, Event)> {
        std::mem::take(&mut self.state().events)
    }

    pub(super) fn slot(&self, slot: usize) -> Option<(Number, ActorRef<Player>)> {
        self.state().slots[slot].clone()
    }

    /// Gives what was there before, to be dropped without the lock.
    pub(super) fn set_slot(
        &self,
        slot: usize,
        player: Option<(Number, ActorRef<Player>)>,
    ) -> Option<(Number, ActorRef<Player>)> {
        std::mem::replace(&mut self.state().slots[slot], player)
    }

    pub(super) fn everybody(&self) -> Vec<(Number, WeakActorRef<Player>)> {
        self.state().everybody.clone()
    }

    pub(super) fn open_gate(&self) -> bool {
        let gate = self.state().gates.pop();
        gate.is_some_and(|gate| gate.send(()).is_ok())
    }

    pub(super) fn message(self: &Arc<Self>, plan: Plan) -> Message {
        let mut state = self.state();
        state.messages += 1;
        Message {
            id: state.messages,
            ops: plan.ops,
            end: plan.end,
            shared: Arc::clone(self),
        }
    }

    /// Spawns one with `spawn` and puts it into a slot.
    pub(super) fn spawn(
        self: &Arc<Self>,
        slot: usize,
        role: Role,
        parent: Option<(Number, String)>,
        spawn: impl FnOnce(Option<String>, Props<Player>) -> Result<ActorRef<Player>, SpawnError>,
    ) {
        let number = {
            let mut state = self.state();
            state.players += 1;
            state.players
        };
        let name = role.name.map(|name| format!("n{name}"));
        let (of_parent, above) = parent.unzip();
        let above = above.unwrap_or_default();
        match spawn(name.clone(), props(self, number, role)) {
            Ok(actor) => {
                let path = actor.path().to_string();
                self.log(Event::Spawned {
                    number,
                    parent: of_parent,
                    path: path.clone(),
                });
                self.state().everybody.push((number, actor.downgrade()));
                if name.is_some() {
                    self.state().paths.insert(path, actor.downgrade());
                }
                let before = self.set_slot(slot, Some((number, actor)));
                drop(before);
            }
            Err(error) => {
                let path = format!("{above}/{}", name.unwrap_or_default());
                let latest = self.state().paths.get(&path).cloned();
                let ended = latest.is_none_or(|latest| latest.upgrade().is_none());
                self.log(Event::NotSpawned { path, error, ended });
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Panics of actors happen without the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn props(shared: &Arc<Shared>, number: Number, role: Role) -> Props<Player> {
    let shared = Arc::clone(shared);
    let mut incarnation = 0;
    let Role {
        mailbox,
        stash,
        supervision,
        placement,
        unreferenced,
        ..
    } = role.clone();
    let role = Arc::new(role);
    let props = Props::try_new(move || {
        incarnation += 1;
        let start = role.starts.get(incarnation as usize - 1).copied();
        match start {
            Some(Start::NoValue) => {
                shared.log(Event::FailedStart { number });
                return Err(Failure::new("no value"));
            }
            Some(Start::FactoryPanics) => {
                shared.log(Event::FailedStart { number });
                panic!("{PLANNED}: no value");
            }
            _ => {}
        }
        shared.log(Event::Made {
            number,
            incarnation,
        });
        Ok(Player {
            number,
            incarnation,
            start: start.unwrap_or(Start::Well),
            role: Arc::clone(&role),
            shared: Arc::clone(&shared),
            kept: Vec::new(),
            targets: Vec::new(),
        })
    })
    .mailbox(mailbox)
    .stash(stash)
    .supervision(supervision)
    .placement(placement);
    if unreferenced {
        props.stop_unreferenced()
    } else {
        props
    }
}

/// How the texts of panics begin that are part of the plan, for those who want to hide them.
pub const PLANNED: &str = "as planned";

/// An actor of the simulation.
pub(super) struct Player {
    number: Number,
    incarnation: u32,
    start: Start,
    role: Arc<Role>,
    shared: Arc<Shared>,
    kept: Vec<(MessageId, PendingReply<MessageId>)>,
    /// Whom it has watched.
    targets: Vec<(Number, WeakActorRef<Player>)>,
}

impl Player {
    fn perform(&mut self, op: Op, cx: &mut ActorCx<'_, Self>) {
        match op {
            Op::Tell(slot, plan) => {
                if let Some((to, actor)) = self.shared.slot(slot) {
                    let message = self.shared.message(*plan);
                    let sent = message.sent(Sender::Actor(self.number), to, How::Told);
                    sent(actor.tell(message).err());
                }
            }
            Op::TellMyself(plan) => {
                let message = self.shared.message(*plan);
                let sent = message.sent(Sender::Actor(self.number), self.number, How::ToItself);
                sent(None);
                cx.tell_myself(message);
            }
            Op::Spawn(slot, role) => self.spawn_child(slot, *role, cx),
            Op::Watch(slot) => {
                if let Some((target, actor)) = self.shared.slot(slot) {
                    self.shared.log(Event::Watches {
                        watcher: self.number,
                        incarnation: self.incarnation,
                        target,
                    });
                    self.targets.push((target, actor.downgrade()));
                    cx.watch(&actor);
                }
            }
            Op::Unwatch(slot) => {
                if let Some((target, actor)) = self.shared.slot(slot) {
                    self.shared.log(Event::Unwatches {
                        watcher: self.number,
                        incarnation: self.incarnation,
                        target,
                    });
                    cx.unwatch(&actor);
                }
            }
            Op::StartTimer {
                key,
                delay,
                repeated,
            } => {
                let timer = {
                    let mut state = self.shared.state();
                    state.timers += 1;
                    state.timers
                };
                let delay = Duration::from_millis(delay.into());
                self.shared.log(Event::TimerStarted {
                    number: self.number,
                    incarnation: self.incarnation,
                    timer,
                    key,
                    delay,
                    repeated,
                });
                let tick = Tick { timer, key };
                let key = key.to_string();
                if repeated {
                    cx.timers().start_repeated(key, delay, tick);
                } else {
                    cx.timers().start_single(key, delay, tick);
                }
            }
            Op::CancelTimer(key) => {
                self.shared.log(Event::TimerCancelled {
                    number: self.number,
                    key: Some(key),
                });
                cx.timers().cancel(key.to_string());
            }
            Op::CancelAllTimers => {
                self.shared.log(Event::TimerCancelled {
                    number: self.number,
                    key: None,
                });
                cx.timers().cancel_all();
            }
            Op::Stop(slot) => {
                if let Some((_, actor)) = self.shared.slot(slot) {
                    actor.stop();
                }
            }
            Op::StopNow(slot) => {
                if let Some((_, actor)) = self.shared.slot(slot) {
                    actor.stop_now();
                }
            }
            Op::StopMyself => cx.stop(),
            Op::UnstashAll => cx.unstash_all(),
            Op::ReceiveTimeout(Some(after)) => {
                cx.set_receive_timeout(Duration::from_millis(after.into()));
            }
            Op::ReceiveTimeout(None) => cx.cancel_receive_timeout(),
            Op::ReplyKept => {
                for (message, reply) in self.kept.drain(..) {
                    self.shared.log(Event::Replied { message });
                    reply.reply(message);
                }
            }
            Op::DropKept => self.kept.clear(),
        }
    }

    fn spawn_child(&mut self, slot: usize, role: Role, cx: &mut ActorCx<'_, Self>) {
        let parent = (self.number, cx.path().to_string());
        let shared = Arc::clone(&self.shared);
        shared.spawn(slot, role, Some(parent), |name, props| match name {
            Some(name) => cx.spawn(name, props),
            None => cx.spawn_anonymous(props),
        });
    }

    fn done(&self, message: MessageId, end: Ended) {
        self.shared.log(Event::Done { message, end });
    }

    /// What comes after work outside.
    fn then(
        &mut self,
        message: MessageId,
        then: Then,
        cx: &mut ActorCx<'_, Self>,
    ) -> Received<Self, MessageId> {
        self.shared.log(Event::Continued { message });
        match then {
            Then::Reply => {
                self.done(message, Ended::Replied);
                cx.reply(message)
            }
            Then::NoReply => {
                self.done(message, Ended::NoReply);
                cx.no_reply()
            }
            Then::Unhandled => {
                self.done(message, Ended::Unhandled);
                cx.unhandled()
            }
            Then::Fail => {
                self.done(message, Ended::Failed);
                Err(Failure::new("a continuation failed"))
            }
            Then::Panic => {
                self.done(message, Ended::Failed);
                panic!("{PLANNED}: in a continuation");
            }
        }
    }

    /// A hook that panics at times.
    fn hook(&self) {
        assert!(
            !(self.role.hooks_panic && self.incarnation.is_multiple_of(2)),
            "{PLANNED}: in a hook"
        );
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.shared.log(Event::Dropped {
            number: self.number,
            incarnation: self.incarnation,
        });
    }
}

impl Actor for Player {
    fn started(&mut self, cx: &mut ActorCx<'_, Self>) -> Result<(), Failure> {
        let (number, incarnation) = (self.number, self.incarnation);
        self.shared.log(Event::Started {
            number,
            incarnation,
        });
        let role = Arc::clone(&self.role);
        for (slot, child) in &role.children {
            let mut child = child.clone();
            if incarnation > 1 {
                // Otherwise the two might go on for ever.
                child.starts.clear();
            }
            self.spawn_child(*slot, child, cx);
        }
        match self.start {
            Start::Fails => {
                self.shared.log(Event::FailedStart { number });
                Err(Failure::new("a start failed"))
            }
            Start::Panics => {
                self.shared.log(Event::FailedStart { number });
                panic!("{PLANNED}: at a start");
            }
            _ => Ok(()),
        }
    }

    fn restarting(&mut self, _: &Failure, _: &mut ActorCx<'_, Self>) {
        self.shared.log(Event::Restarting {
            number: self.number,
            incarnation: self.incarnation,
        });
        self.hook();
    }

    fn stopped(&mut self, reason: &StopReason, cx: &mut ActorCx<'_, Self>) {
        self.shared.log(Event::Stopped {
            number: self.number,
            reason: reason.to_string(),
            children: cx.children().len(),
        });
        self.hook();
    }

    fn terminated(
        &mut self,
        terminated: &Terminated,
        _: &mut ActorCx<'_, Self>,
    ) -> Result<(), Failure> {
        let target = self
            .targets
            .iter()
            .find(|(_, actor)| actor.path() == terminated.path);
        let (target, ended) = target.map_or((0, false), |(target, actor)| {
            (*target, actor.upgrade().is_none())
        });
        self.shared.log(Event::Terminated {
            watcher: self.number,
            incarnation: self.incarnation,
            target,
            reason: terminated.reason.to_string(),
            ended,
        });
        self.hook();
        Ok(())
    }

    fn child_failed(&mut self, _: &ChildFailed, _: &mut ActorCx<'_, Self>) -> Result<(), Failure> {
        self.shared.log(Event::ChildFailed {
            parent: self.number,
        });
        Ok(())
    }

    fn receive_timeout(&mut self, cx: &mut ActorCx<'_, Self>) -> Result<(), Failure> {
        self.shared.log(Event::TimedOut {
            number: self.number,
        });
        // Otherwise it would come again and again.
        cx.cancel_receive_timeout();
        Ok(())
    }
}

/// A message, which says what its actor does.
pub(super) struct Message {
    id: MessageId,
    ops: Vec<Op>,
    end: End,
    shared: Arc<Shared>,
}

impl Message {
    pub(super) fn id(&self) -> MessageId {
        self.id
    }

    /// Notes that it was sent, once it is known whether it was refused.
    pub(super) fn sent(
        &self,
        from: Sender,
        to: Number,
        how: How,
    ) -> impl FnOnce(Option<AskError>) + use<> {
        let (message, shared) = (self.id, Arc::clone(&self.shared));
        move |refused| {
            shared.log(Event::Sent {
                message,
                from,
                to,
                how,
                accepted: refused.map_or(Accepted::Yes, Accepted::No),
            });
        }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        self.shared.log(Event::Gone { message: self.id });
    }
}

impl Receive<Message> for Player {
    type Reply = MessageId;

    fn receive(
        &mut self,
        mut message: Message,
        cx: &mut ActorCx<'_, Self>,
    ) -> Received<Self, MessageId> {
        let id = message.id;
        self.shared.log(Event::Delivered {
            message: id,
            to: self.number,
            incarnation: self.incarnation,
        });
        // Those of a message that comes back from the stash have been done.
        for op in std::mem::take(&mut message.ops) {
            self.perform(op, cx);
        }
        let end = std::mem::replace(&mut message.end, End::Reply);
        match end {
            End::Reply => {
                self.done(id, Ended::Replied);
                cx.reply(id)
            }
            End::NoReply => {
                self.done(id, Ended::NoReply);
                cx.no_reply()
            }
            End::Unhandled => {
                self.done(id, Ended::Unhandled);
                cx.unhandled()
            }
            End::Fail => {
                self.done(id, Ended::Failed);
                Err(Failure::new("a message failed"))
            }
            End::Panic => {
                self.done(id, Ended::Failed);
                panic!("{PLANNED}: by a message");
            }
            End::Stash(times) => {
                self.done(id, Ended::Stashed);
                message.end = match times {
                    0 | 1 => End::Reply,
                    times => End::Stash(times - 1),
                };
                cx.stash(message)
            }
            End::Keep => {
                self.done(id, Ended::Kept);
                cx.keep_reply(move |player: &mut Self, reply| player.kept.push((id, reply)))
            }
            End::Later {
                work,
                exclusive,
                timeout,
                then,
            } => {
                self.done(id, Ended::Outside);
                self.later(id, work, outside(exclusive, timeout), then)
            }
            End::Ask {
                slot,
                plan,
                exclusive,
                timeout,
                then,
            } => {
                let Some((to, actor)) = self.shared.slot(slot) else {
                    self.done(id, Ended::NoReply);
                    return cx.no_reply();
                };
                self.done(id, Ended::Asks);
                let question = self.shared.message(*plan);
                let asked = question.id;
                self.shared.log(Event::Sent {
                    message: asked,
                    from: Sender::Actor(self.number),
                    to,
                    how: How::AskedByActor,
                    accepted: Accepted::Open,
                });
                outside(exclusive, timeout).ask(
                    &actor,
                    question,
                    move |answer, player: &mut Self, cx| {
                        player.shared.log(Event::Answered {
                            message: asked,
                            answer,
                        });
                        player.then(id, then, cx)
                    },
                )
            }
        }
    }
}

fn outside(exclusive: bool, timeout: Option<u8>) -> Outside {
    let mut outside = Outside::default();
    if exclusive {
        outside = outside.exclusive();
    }
    match timeout {
        Some(timeout) => outside.timeout(Duration::from_millis(timeout.into())),
        None => outside,
    }
}

impl Player {
    fn later(
        &self,
        id: MessageId,
        work: WorkPlan,
        outside: Outside,
        then: Then,
    ) -> Result<Answer<Self, MessageId>, Failure> {
        let shared = Arc::clone(&self.shared);
        let then =
            move |(), player: &mut Self, cx: &mut ActorCx<'_, Self>| player.then(id, then, cx);
        match work {
            WorkPlan::Ready => outside.later(
                async move { shared.log(Event::Begun { message: id }) },
                then,
            ),
            WorkPlan::Never => outside.later(
                async move {
                    shared.log(Event::Begun { message: id });
                    std::future::pending().await
                },
                then,
            ),
            WorkPlan::Panics => outside.later(
                async move {
                    shared.log(Event::Begun { message: id });
                    panic!("{PLANNED}: in a future");
                },
                then,
            ),
            WorkPlan::Blocking => {
                outside.blocking(move || shared.log(Event::Begun { message: id }), then)
            }
            WorkPlan::Gate => outside.later(
                async move {
                    shared.log(Event::Begun { message: id });
                    let (open, opened) = oneshot::channel();
                    shared.state().gates.push(open);
                    let _ = opened.await;
                },
                then,
            ),
            WorkPlan::Asks(slot, plan) => outside.later(
                async move {
                    shared.log(Event::Begun { message: id });
                    let Some((to, actor)) = shared.slot(slot) else {
                        return;
                    };
                    let question = shared.message(*plan);
                    let message = question.id;
                    let sent = question.sent(Sender::Elsewhere, to, How::Asked);
                    let mut asking = actor.ask(question).into_future();
                    let answer = match asking.try_take() {
                        Some(answer) => {
                            sent(answer.as_ref().err().cloned());
                            answer
                        }
                        None => {
                            sent(None);
                            let given_up = GivesUp::new(&shared, message);
                            let answer = asking.await;
                            given_up.has_waited();
                            answer
                        }
                    };
                    shared.log(Event::Answered { message, answer });
                },
                then,
            ),
        }
    }
}

/// Notes that an asker has gone, unless it has waited for its answer.
pub(super) struct GivesUp {
    shared: Option<Arc<Shared>>,
    message: MessageId,
}

impl GivesUp {
    pub(super) fn new(shared: &Arc<Shared>, message: MessageId) -> Self {
        Self {
            shared: Some(Arc::clone(shared)),
            message,
        }
    }

    pub(super) fn has_waited(mut self) {
        self.shared = None;
    }
}

impl Drop for GivesUp {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.log(Event::GivenUp {
                message: self.message,
            });
        }
    }
}

/// What a timer sends.
#[derive(Debug, Clone)]
pub(super) struct Tick {
    timer: u64,
    key: u8,
}

impl Receive<Tick> for Player {
    type Reply = ();

    fn receive(&mut self, tick: Tick, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        self.shared.log(Event::Ticked {
            number: self.number,
            incarnation: self.incarnation,
            timer: tick.timer,
            key: tick.key,
        });
        cx.reply(())
    }
}
