//! One actor's whole life on one worker.
//!
//! A cell is made by a spawn, makes its value, handles messages, and ends when it is stopped. After a
//! failure it begins anew with a fresh value, or ends, as its supervision says. It never ends before
//! its children, and whoever watches it is told once.

use std::any::Any;
use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Wake, Waker};
use std::time::Duration;

use perennial_persistence::telemetry;
use tokio::sync::oneshot;
use tracing::Span;

use crate::actor::{
    Actor, ActorCx, ActorPath, Asked, ChildFailed, Directive, Failure, LaterOptions, LaterWork,
    Props, Restarts, StopReason, Terminated, Waiting,
};
use crate::call::Until;
use crate::dead_letters::DeadLetterReason;
use crate::engine::actor::{
    ACTORS, ActorAddress, Concerns, Letter, Life, Listener, NewChild, Order, Parcel, Step, Watcher,
    let_go,
};
use crate::engine::cell::Whereabouts;
use crate::engine::core::{Core, TimerKey};
use crate::engine::{Bounded, CellKey, LaterDone, LaterFailure, LaterRequest, panic_message};
use crate::error::AskError;
use crate::event_sourced::Output;
use crate::fsm::STATE_TIMEOUT;

/// What whoever asked is told if the value does not come to the end of its message.
const VALUE_GONE: AskError = AskError::Unknown {
    reason: "the actor ended or began anew before the message was done",
};

/// A cell whose actor type is not known.
pub(crate) trait AnyCell: Any + Send {
    fn base(&self) -> &dyn AnyBase;
    fn base_mut(&mut self) -> &mut dyn AnyBase;
    /// A message has come.
    fn receive(&mut self, core: &mut Core, parcel: Box<dyn Parcel>);
    /// The cell's share of a turn.
    fn run(&mut self, core: &mut Core);
    /// What it is told or has to do.
    fn order(&mut self, core: &mut Core, order: Order);
    fn timer(&mut self, core: &mut Core, timer: ActorTimer);
    fn later_done(&mut self, core: &mut Core, done: LaterDone);
    /// What the cell wants to happen to it.
    fn whereabouts(&self) -> Whereabouts;
    /// Ends if it waits before it begins anew.
    fn stop_waiting(&mut self, core: &mut Core);
    /// Ends at once, without running its code any more: its worker ends.
    fn abandon(&mut self);
}

/// What is to be known of a cell of any type.
pub(crate) trait AnyBase {
    fn key(&self) -> CellKey;
    /// Notes that it stands in the run queue; `false` if it did already.
    fn schedule(&mut self) -> bool;
    fn address(&self) -> &Arc<ActorAddress>;
}

/// Why an actor's cell is woken.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ActorTimer {
    /// The wait before a restart is over.
    Backoff,
    /// A timer of the actor.
    User(u64),
    /// Nothing may have come for the receive time-out.
    Idle,
    /// The time of a question is up.
    Ask(u64),
}

/// What the test kit sees of an actor that has not ended.
#[derive(Debug)]
pub struct ActorPeek<'a, A> {
    /// Its value, while it is running.
    pub actor: Option<&'a A>,
    /// What waits for it, timers and news of others included.
    pub queued: usize,
    /// Messages that are put aside.
    pub stashed: usize,
    /// Messages whose work outside has not ended.
    pub open: usize,
    /// Those outside of actors who wait for its end.
    pub watchers: usize,
}

pub(crate) struct ActorCell<A: Actor> {
    /// There while it is running.
    actor: Option<A>,
    queue: VecDeque<Item<A>>,
    base: Base<A>,
}

/// What stands in the queue, in the order in which it came.
enum Item<A: Actor> {
    Letter(Box<dyn Letter<A>>),
    /// One whose work outside has ended; these stand at the front.
    Arrived(Box<dyn Letter<A>>),
    /// One that was stashed; these stand behind those.
    Unstashed(Box<dyn Letter<A>>),
    /// A timer, by its token; passed over if it was cancelled meanwhile.
    Timer(u64),
    Signal(Box<Signal>),
    /// Everything before is handled: stop.
    Stop(Box<StopReason>),
    /// Stop, unless somebody refers to it again.
    Unreferenced,
}

enum Signal {
    Terminated(Terminated),
    ChildFailed(ChildFailed),
}

/// An actor's cell without its value and queue: what its context works on.
pub(crate) struct Base<A: Actor> {
    key: CellKey,
    address: Arc<ActorAddress>,
    props: Props<A>,
    phase: Phase,
    scheduled: bool,
    /// The handler wants the actor to stop.
    stop: bool,
    /// The handler wants what is stashed.
    unstash: bool,
    rest: Option<Box<Rest<A>>>,
}

/// What most actors have nothing of.
struct Rest<A: Actor> {
    stash: VecDeque<Box<dyn Letter<A>>>,
    children: BTreeMap<u64, Child>,
    watchers: BTreeMap<u64, Arc<ActorAddress>>,
    watchers_outside: Vec<oneshot::Sender<StopReason>>,
    listeners: BTreeMap<u64, Arc<dyn Listener>>,
    /// Until the news of their end is handled.
    watching: BTreeMap<u64, Arc<ActorAddress>>,
    timers: Vec<UserTimer<A>>,
    open: Vec<Open<A>>,
    restarts: Restarts,
    idle: Option<Idle>,
    /// The actor's own span, from the first message on that has one.
    span: Option<Span>,
    /// Who observes a state machine; of a type that the machine knows.
    observers: Option<Box<dyn Any + Send>>,
}

impl<A: Actor> Default for Rest<A> {
    fn default() -> Self {
        Self {
            stash: VecDeque::new(),
            children: BTreeMap::new(),
            watchers: BTreeMap::new(),
            watchers_outside: Vec::new(),
            listeners: BTreeMap::new(),
            watching: BTreeMap::new(),
            timers: Vec::new(),
            open: Vec::new(),
            restarts: Restarts::default(),
            idle: None,
            span: None,
            observers: None,
        }
    }
}

struct Child {
    address: Arc<ActorAddress>,
    /// Whether it shares the fate of its siblings.
    group: bool,
}

/// The receive time-out.
struct Idle {
    after: Duration,
    /// When the last message was handled.
    since: Duration,
    timer: TimerKey,
}

/// A timer of an actor.
pub(crate) struct UserTimer<A: Actor> {
    key: Cow<'static, str>,
    token: u64,
    due: TimerKey,
    period: Option<Duration>,
    /// Whether it stands in the queue.
    is_queued: bool,
    make: MakeLetter<A>,
}

pub(crate) type MakeLetter<A> =
    Box<dyn FnMut(&Arc<ActorAddress>) -> Option<Box<dyn Letter<A>>> + Send>;

/// Work outside of the actor for one message.
struct Open<A: Actor> {
    token: u64,
    exclusive: bool,
    letter: Box<dyn Letter<A>>,
    /// A question that was asked; a future otherwise.
    question: Option<(Box<dyn Waiting>, TimerKey)>,
}

enum Phase {
    /// Its value is to be made.
    Starting,
    Running,
    /// Failed; waits for the end of its children, and then for this time.
    Restarting(Duration),
    /// Failed; waits before it begins anew.
    Backoff,
    /// Waits for the end of its children.
    Stopping(StopReason),
    Ended,
}

impl<A: Actor> Base<A> {
    pub(crate) fn address(&self) -> &Arc<ActorAddress> {
        &self.address
    }

    /// The span of a message, if somebody wants it. It is a root: in that of the actor, all messages
    /// of its life would be one trace.
    fn message_span(&mut self, message: &'static str) -> Span {
        let span = tracing::trace_span!(
            target: telemetry::MESSAGE_TARGET,
            parent: None,
            telemetry::span::RECEIVE,
            actor = %self.address,
            message,
        );
        if !span.is_disabled() {
            let address = Arc::clone(&self.address);
            let of_actor = self.rest().span.get_or_insert_with(|| {
                tracing::trace_span!(
                    target: telemetry::MESSAGE_TARGET,
                    parent: None,
                    telemetry::span::ACTOR,
                    actor = %address,
                )
            });
            span.follows_from(&*of_actor);
        }
        span
    }

    fn rest(&mut self) -> &mut Rest<A> {
        self.rest.get_or_insert_default()
    }

    pub(crate) fn ask_to_stop(&mut self) {
        self.stop = true;
    }

    pub(crate) fn ask_to_unstash(&mut self) {
        self.unstash = true;
    }

    pub(crate) fn stashed(&self) -> usize {
        self.rest.as_ref().map_or(0, |rest| rest.stash.len())
    }

    /// Makes room in the stash, as far as there are messages for which nobody waits.
    fn forget_abandoned(&mut self) {
        let stash = std::mem::take(&mut self.rest().stash);
        for letter in stash {
            if letter.is_abandoned() {
                let_go(&self.address, letter);
            } else {
                self.rest().stash.push_back(letter);
            }
        }
    }

    /// Whether it may have children.
    pub(crate) fn is_stopping(&self) -> bool {
        !matches!(self.phase, Phase::Running)
    }

    pub(crate) fn add_child(&mut self, address: Arc<ActorAddress>, group: bool) {
        let child = Child { address, group };
        self.rest().children.insert(child.address.uid(), child);
    }

    pub(crate) fn children(&self) -> impl Iterator<Item = &Arc<ActorAddress>> {
        let rest = self.rest.as_deref();
        rest.into_iter()
            .flat_map(|rest| rest.children.values().map(|child| &child.address))
    }

    pub(crate) fn watch(&mut self, target: &Arc<ActorAddress>) {
        let before = self
            .rest()
            .watching
            .insert(target.uid(), Arc::clone(target));
        if before.is_none() {
            let watcher = Watcher::Actor(Arc::clone(&self.address));
            if !target.order(Order::Watch(watcher)) {
                self.address.order(Order::Terminated(
                    Arc::clone(target),
                    StopReason::SystemStopped,
                ));
            }
        }
    }

    pub(crate) fn unwatch(&mut self, target: &ActorAddress) {
        if let Some(rest) = &mut self.rest
            && let Some(target) = rest.watching.remove(&target.uid())
        {
            target.order(Order::Unwatch(self.address.uid()));
        }
    }

    fn watches(&self, target: &ActorAddress) -> bool {
        let rest = self.rest.as_ref();
        rest.is_some_and(|rest| rest.watching.contains_key(&target.uid()))
    }

    /// The end of another actor is about to be told; `false` if it is not watched.
    fn is_told_of(&mut self, target: &ActorAddress) -> bool {
        let rest = self.rest.as_mut();
        rest.is_some_and(|rest| rest.watching.remove(&target.uid()).is_some())
    }

    pub(crate) fn set_receive_timeout(&mut self, core: &mut Core, after: Option<Duration>) {
        if let Some(rest) = &mut self.rest
            && let Some(idle) = rest.idle.take()
        {
            core.cancel_timer(idle.timer);
        }
        if let Some(after) = after {
            let after = after.max(Duration::from_millis(1));
            let timer = core.start_actor_timer(after, self.key, ActorTimer::Idle);
            self.rest().idle = Some(Idle {
                after,
                since: core.now,
                timer,
            });
        }
    }

    pub(crate) fn start_timer(
        &mut self,
        core: &mut Core,
        key: Cow<'static, str>,
        delay: Duration,
        period: Option<Duration>,
        make: MakeLetter<A>,
    ) {
        self.cancel_timer(core, &key);
        let token = core.next_later();
        let due = core.start_actor_timer(delay, self.key, ActorTimer::User(token));
        self.rest().timers.push(UserTimer {
            key,
            token,
            due,
            period,
            is_queued: false,
            make,
        });
    }

    pub(crate) fn cancel_timer(&mut self, core: &mut Core, key: &str) {
        #[cfg(feature = "defects")]
        if core.defects.keep_cancelled_timers {
            return;
        }
        if let Some(rest) = &mut self.rest
            && let Some(at) = rest.timers.iter().position(|timer| timer.key == key)
        {
            core.cancel_timer(rest.timers.swap_remove(at).due);
        }
    }

    pub(crate) fn is_timer_active(&self, key: &str) -> bool {
        let rest = self.rest.as_ref();
        rest.is_some_and(|rest| rest.timers.iter().any(|timer| timer.key == key))
    }

    /// Cancels the timers that the actor's code has started, but not that of a machine's state.
    pub(crate) fn cancel_own_timers(&mut self, core: &mut Core) {
        if let Some(rest) = &mut self.rest {
            let is_own = |timer: &mut UserTimer<A>| timer.key != STATE_TIMEOUT;
            for timer in rest.timers.extract_if(.., is_own) {
                core.cancel_timer(timer.due);
            }
        }
    }

    fn cancel_all_timers(&mut self, core: &mut Core) {
        if let Some(rest) = &mut self.rest {
            for timer in rest.timers.drain(..) {
                core.cancel_timer(timer.due);
                let_go(&self.address, timer.make);
            }
        }
    }

    /// Where a state machine keeps who observes it; outlives its value.
    pub(crate) fn observers(&mut self) -> &mut Option<Box<dyn Any + Send>> {
        &mut self.rest().observers
    }

    pub(crate) fn is_observed(&self) -> bool {
        let rest = self.rest.as_ref();
        rest.is_some_and(|rest| rest.observers.is_some())
    }

    /// Tells whoever waits for work outside that nothing comes of it.
    fn close_open(&mut self, core: &mut Core) {
        let Some(rest) = &mut self.rest else {
            return;
        };
        for open in rest.open.drain(..) {
            if let Some((waiting, timer)) = open.question {
                core.cancel_timer(timer);
                let_go(&self.address, waiting);
            }
            open.letter.fail(VALUE_GONE);
        }
    }

    fn tell_listeners(&self, life: Life) {
        for listener in self.rest.iter().flat_map(|rest| rest.listeners.values()) {
            Arc::clone(listener).life(&self.address, life);
        }
    }

    /// Whether something keeps messages waiting.
    fn is_held(&self) -> bool {
        let rest = self.rest.as_ref();
        rest.is_some_and(|rest| rest.open.iter().any(|open| open.exclusive))
    }
}

impl<A: Actor> AnyBase for Base<A> {
    fn key(&self) -> CellKey {
        self.key
    }

    fn schedule(&mut self) -> bool {
        !std::mem::replace(&mut self.scheduled, true)
    }

    fn address(&self) -> &Arc<ActorAddress> {
        &self.address
    }
}

impl<A: Actor> ActorCell<A> {
    pub(crate) fn new(
        index: usize,
        address: Arc<ActorAddress>,
        props: Props<A>,
        children: Vec<NewChild>,
    ) -> Self {
        let mut cell = Self {
            actor: None,
            queue: VecDeque::new(),
            base: Base {
                key: CellKey {
                    host: ACTORS,
                    index,
                    incarnation: address.uid(),
                },
                address,
                props,
                phase: Phase::Starting,
                scheduled: false,
                stop: false,
                unstash: false,
                rest: None,
            },
        };
        for child in children {
            // One that has ended has told nobody, as this cell was not there.
            if !child.address.has_ended() {
                cell.base.add_child(child.address, child.is_in_group);
            }
        }
        cell
    }

    pub(super) fn peek(&self) -> ActorPeek<'_, A> {
        let rest = self.base.rest.as_ref();
        ActorPeek {
            actor: self.actor.as_ref(),
            queued: self.queue.len(),
            stashed: self.base.stashed(),
            open: rest.map_or(0, |rest| rest.open.len()),
            watchers: rest.map_or(0, |rest| rest.watchers_outside.len()),
        }
    }

    fn is_running(&self) -> bool {
        matches!(self.base.phase, Phase::Running)
    }

    fn can_handle(&self) -> bool {
        !self.queue.is_empty() && !self.base.is_held()
    }

    fn is_ending(&self) -> bool {
        matches!(self.base.phase, Phase::Stopping(_) | Phase::Ended)
    }

    /// Makes the value and lets it start.
    fn start(&mut self, core: &mut Core) {
        let factory = &mut self.base.props.factory;
        let made = catch_unwind(AssertUnwindSafe(factory));
        let made = made.unwrap_or_else(|panic| Err(Failure::panic(panic_message(&*panic))));
        let started = made.and_then(|actor| {
            self.actor = Some(actor);
            self.base.phase = Phase::Running;
            let started = self.call(core, |actor, cx| actor.started(cx));
            started.unwrap_or(Ok(()))
        });
        match started {
            Ok(()) => {
                self.after(core);
                if self.is_running() {
                    self.base.tell_listeners(Life::Running);
                }
            }
            Err(failure) => {
                // One that cannot start does not come to the end that waits behind its messages.
                self.base.stop |= self.is_to_stop();
                self.failed(core, failure);
            }
        }
    }

    /// Whether its end waits in the queue.
    fn is_to_stop(&self) -> bool {
        self.queue.iter().any(|item| match item {
            Item::Stop(_) => true,
            Item::Unreferenced => self.base.address.is_unreferenced(),
            _ => false,
        })
    }

    /// Runs code of the actor that is not for a message.
    fn hook(
        &mut self,
        core: &mut Core,
        hook: impl FnOnce(&mut A, &mut ActorCx<'_, A>) -> Result<(), Failure>,
    ) {
        match self.call(core, hook) {
            Some(Ok(())) => self.after(core),
            Some(Err(failure)) => self.failed(core, failure),
            None => {}
        }
    }

    /// Runs code of the actor, if there is one.
    fn call<T>(
        &mut self,
        core: &mut Core,
        code: impl FnOnce(&mut A, &mut ActorCx<'_, A>) -> Result<T, Failure>,
    ) -> Option<Result<T, Failure>> {
        let actor = self.actor.as_mut()?;
        let mut cx = ActorCx {
            base: &mut self.base,
            core,
        };
        let result = catch_unwind(AssertUnwindSafe(|| code(actor, &mut cx)));
        Some(result.unwrap_or_else(|panic| Err(Failure::panic(panic_message(&*panic)))))
    }

    /// Carries out what the actor's code has asked of its cell.
    fn after(&mut self, core: &mut Core) {
        self.unstash_if_asked();
        if std::mem::take(&mut self.base.stop) {
            self.stop(core, StopReason::Stopped, false);
        }
    }

    fn unstash_if_asked(&mut self) {
        if std::mem::take(&mut self.base.unstash) {
            self.unstash();
        }
    }

    fn unstash(&mut self) {
        // Behind what has come back from outside, and what was unstashed and not handled yet.
        let at = self.front(|item| matches!(item, Item::Arrived(_) | Item::Unstashed(_)));
        if let Some(rest) = &mut self.base.rest {
            for letter in rest.stash.drain(..).rev() {
                self.queue.insert(at, Item::Unstashed(letter));
            }
        }
    }

    /// How many letters at the front have come back from outside.
    fn arrived(&self) -> usize {
        self.front(|item| matches!(item, Item::Arrived(_)))
    }

    /// How many at the front are of a kind.
    fn front(&self, is_of: impl Fn(&Item<A>) -> bool) -> usize {
        self.queue.iter().take_while(|item| is_of(item)).count()
    }

    fn handle(&mut self, core: &mut Core, mut letter: Box<dyn Letter<A>>) {
        if let Some(rest) = &mut self.base.rest
            && let Some(idle) = &mut rest.idle
        {
            idle.since = core.now;
        }
        let name = letter.message_name();
        let stamp = core.timings.as_ref().and_then(|_| letter.take_stamp());
        let Some(stamp) = stamp else {
            core.handled.push(name);
            let span = self.base.message_span(name);
            return span.in_scope(|| self.handle_letter(core, letter));
        };
        let queued = self.base.address.registry().sampling().since(stamp);
        // Whatever was handled since the last look is not this one's.
        self.look_at_clock(core);
        core.handled.push(name);
        let span = self.base.message_span(name);
        span.in_scope(|| self.handle_letter(core, letter));
        let elapsed = self.look_at_clock(core);
        if let Some(timings) = &core.timings {
            timings.actors.record(queued, elapsed);
        }
    }

    /// Looks how long the latest handlers took.
    fn look_at_clock(&self, core: &mut Core) -> Duration {
        let before = core.now;
        let elapsed = core.look_at_clock().saturating_sub(before);
        if elapsed >= core.settings.slow_handler {
            core.stats.slow_handlers.fetch_add(1, Ordering::Relaxed);
            let mut messages = std::mem::take(&mut core.handled);
            messages.dedup();
            tracing::warn!(
                actor = %self.base.address,
                message = messages.join(" or "),
                elapsed_ms = elapsed.as_millis(),
                "a handler took long; all actors of its worker waited"
            );
        }
        core.handled.clear();
        elapsed
    }

    fn handle_letter(&mut self, core: &mut Core, mut letter: Box<dyn Letter<A>>) {
        let Some(handled) = self.call(core, |actor, cx| letter.handle(actor, cx)) else {
            return;
        };
        match handled {
            Ok(Step::Done) => {}
            Ok(Step::Unhandled) => {
                letter.reject(DeadLetterReason::Unhandled, AskError::Unhandled);
            }
            Ok(Step::Stash(other)) => {
                // Only what was stashed before comes back.
                self.unstash_if_asked();
                self.stash(core, other.unwrap_or(letter));
            }
            Ok(Step::Later(work, other)) => {
                self.start_later(core, other.unwrap_or(letter), work);
            }
            Ok(Step::Ask(asked, options, other)) => {
                self.start_ask(core, other.unwrap_or(letter), asked, options);
            }
            Err(failure) => {
                letter.fail(AskError::Failed {
                    actor: self.base.address.to_string().into(),
                    failure: failure.to_string().into(),
                });
                return self.failed(core, failure);
            }
        }
        self.after(core);
    }

    fn stash(&mut self, core: &Core, letter: Box<dyn Letter<A>>) {
        let limit = self.base.props.options.stash as usize;
        if self.base.stashed() >= limit {
            self.base.forget_abandoned();
        }
        let stash = &mut self.base.rest().stash;
        if stash.len() < limit {
            stash.push_back(letter.put_aside());
            #[cfg(feature = "defects")]
            if core.defects.unstash_backwards {
                stash.rotate_right(1);
            }
        } else {
            letter.reject(
                DeadLetterReason::StashFull,
                core.busy("the actor's stash", Bounded::Stash),
            );
        }
    }

    fn start_later(&mut self, core: &mut Core, letter: Box<dyn Letter<A>>, work: LaterWork) {
        if core.open_laters >= core.settings.laters {
            let busy = core.busy("the number of open futures", Bounded::LaterLimit);
            return letter.reject(DeadLetterReason::TooManyFutures, busy);
        }
        core.open_laters += 1;
        let token = core.next_later();
        let LaterWork { work, options } = work;
        core.out.laters.push(LaterRequest {
            key: self.base.key,
            token,
            work: letter.call(options.exclusive).of_work(work),
            timeout: options.timeout.unwrap_or(core.settings.later_timeout),
        });
        self.base.rest().open.push(Open {
            token,
            exclusive: options.exclusive,
            letter,
            question: None,
        });
    }

    fn start_ask(
        &mut self,
        core: &mut Core,
        letter: Box<dyn Letter<A>>,
        asked: Box<dyn Asked<A>>,
        options: LaterOptions,
    ) {
        let token = core.next_later();
        let call = letter.call(options.exclusive);
        let registry = self.base.address.registry();
        let mut timeout = options.timeout.unwrap_or(registry.ask_timeout());
        let until = Until::of(registry.deadlines(), timeout, Some(&call));
        if let (Some(deadlines), Some(until)) = (registry.deadlines(), until) {
            // No longer than whoever asked this actor.
            timeout = timeout.min(deadlines.left(until));
        }
        let mut waiting = asked.send(call, until);
        let waker = Waker::from(Arc::new(AnswerWaker {
            to: Arc::clone(&self.base.address),
            token,
        }));
        if waiting.wake_by(&waker) {
            self.base.address.order(Order::Answered(token));
        }
        let timer = core.start_actor_timer(timeout, self.base.key, ActorTimer::Ask(token));
        self.base.rest().open.push(Open {
            token,
            exclusive: options.exclusive,
            letter,
            question: Some((waiting, timer)),
        });
    }

    fn take_open(&mut self, token: u64) -> Option<Open<A>> {
        let open = &mut self.base.rest.as_mut()?.open;
        let at = open.iter().position(|open| open.token == token)?;
        Some(open.swap_remove(at))
    }

    /// What ran outside for a letter has an output.
    fn arrive(&mut self, mut letter: Box<dyn Letter<A>>, exclusive: bool, output: Output) {
        letter.arrive(output);
        // Everything else has waited for an exclusive one.
        let at = if exclusive { 0 } else { self.arrived() };
        self.queue.insert(at, Item::Arrived(letter));
    }

    /// The answer to a question is there, or its time is up.
    fn answered(&mut self, core: &mut Core, token: u64) {
        let Some(open) = self.take_open(token) else {
            return;
        };
        if let Some((waiting, timer)) = open.question {
            core.cancel_timer(timer);
            self.arrive(open.letter, open.exclusive, waiting.take());
        }
    }

    /// The actor's code has failed.
    fn failed(&mut self, core: &mut Core, failure: Failure) {
        let is_to_stop = std::mem::take(&mut self.base.stop);
        let unstash = std::mem::take(&mut self.base.unstash);
        if self.is_ending() {
            tracing::warn!(actor = %self.base.address, error = %failure, "an actor failed while it ended");
            return;
        }
        let supervision = self
            .base
            .props
            .options
            .supervision
            .clone()
            .unwrap_or_default();
        let decided = catch_unwind(AssertUnwindSafe(|| supervision.decision(&failure)));
        let mut directive = decided.unwrap_or(Directive::Stop);
        let is_shared = supervision.is_group() && !is_to_stop;
        // It does not go on for itself, or there is no value to go on with.
        if is_to_stop && directive == Directive::Restart
            || directive == Directive::Resume && (is_to_stop || self.actor.is_none())
        {
            directive = Directive::Stop;
        }
        let mut wait = Duration::ZERO;
        if directive == Directive::Restart {
            let jitter = core.jitter();
            let next = self
                .base
                .rest()
                .restarts
                .next(&supervision, core.now, jitter);
            match next {
                Some(next) => wait = next,
                None => directive = Directive::Stop,
            }
        }
        core.stats.actor_failures.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(
            actor = %self.base.address,
            error = %failure,
            ?directive,
            wait_ms = wait.as_millis(),
            "an actor failed"
        );
        if let Some(parent) = self.base.address.parent() {
            let concerns = match directive {
                Directive::Escalate => Concerns::Parent,
                Directive::Restart | Directive::Stop if is_shared => Concerns::Siblings,
                _ => Concerns::Nobody,
            };
            let failed = ChildFailed {
                path: ActorPath(Arc::clone(&self.base.address)),
                failure: failure.clone(),
                directive,
            };
            parent.order(Order::ChildFailed(failed, concerns));
        }
        match directive {
            Directive::Resume => {
                // What made it want what is stashed stays as well.
                self.base.unstash = unstash;
                self.after(core);
            }
            Directive::Restart => self.restart(core, &failure, wait),
            Directive::Stop | Directive::Escalate => {
                self.stop(core, StopReason::Failed(failure), false);
            }
        }
    }

    /// Begins anew, once the children have ended and `wait` is over.
    fn restart(&mut self, core: &mut Core, failure: &Failure, wait: Duration) {
        core.stats.actor_restarts.fetch_add(1, Ordering::Relaxed);
        self.clear(core);
        self.stop_children(false);
        // Before the hook, which must not add a child that nobody stops.
        self.base.phase = Phase::Restarting(wait);
        let told = self.call(core, |actor, cx| {
            actor.restarting(failure, cx);
            Ok(())
        });
        if let Some(Err(failure)) = told {
            tracing::warn!(actor = %self.base.address, error = %failure, "`restarting` failed");
        }
        self.drop_actor();
        // Whatever the hook has started belongs to the value that is gone.
        self.clear(core);
        self.base.stop = false;
        self.base.unstash = false;
        // The fresh value does not know of it.
        self.unstash();
        self.base.tell_listeners(Life::Restarting);
        self.go_on_without_children(core);
    }

    /// Ends, once the children have ended. With `orderly` they handle first what waits for them.
    fn stop(&mut self, core: &mut Core, reason: StopReason, orderly: bool) {
        if self.is_ending() {
            // Nobody waits any more for what the children still have to do.
            if !orderly {
                self.stop_children(false);
            }
            return;
        }
        self.clear(core);
        self.stop_children(orderly);
        self.base.phase = Phase::Stopping(reason);
        self.go_on_without_children(core);
    }

    /// Ends what a value has started.
    fn clear(&mut self, core: &mut Core) {
        self.base.cancel_all_timers(core);
        self.base.set_receive_timeout(core, None);
        self.base.close_open(core);
        let me = self.base.address.uid();
        if let Some(rest) = &mut self.base.rest {
            for target in std::mem::take(&mut rest.watching).into_values() {
                target.order(Order::Unwatch(me));
            }
        }
        // What has come for the value and was not handled yet.
        for item in std::mem::take(&mut self.queue) {
            match item {
                Item::Arrived(letter) => letter.fail(VALUE_GONE),
                Item::Signal(_) | Item::Timer(_) => {}
                _ => self.queue.push_back(item),
            }
        }
    }

    fn stop_children(&mut self, orderly: bool) {
        for child in self.base.children() {
            child.order(if orderly {
                Order::StopAfter(StopReason::Parent)
            } else {
                Order::Stop(StopReason::Parent)
            });
        }
    }

    /// Goes on with what waits for the end of the children, if there is none left.
    fn go_on_without_children(&mut self, core: &mut Core) {
        if self.base.children().next().is_some() {
            return;
        }
        match &self.base.phase {
            Phase::Restarting(wait) if wait.is_zero() => self.base.phase = Phase::Starting,
            Phase::Restarting(_) if core.actors_end => self.end(core, StopReason::SystemStopped),
            &Phase::Restarting(wait) => {
                core.start_actor_timer(wait, self.base.key, ActorTimer::Backoff);
                self.base.phase = Phase::Backoff;
            }
            Phase::Stopping(reason) => {
                let reason = reason.clone();
                self.end(core, reason);
            }
            _ => {}
        }
    }

    fn end(&mut self, core: &mut Core, reason: StopReason) {
        let told = self.call(core, |actor, cx| {
            actor.stopped(&reason, cx);
            Ok(())
        });
        if let Some(Err(failure)) = told {
            tracing::warn!(actor = %self.base.address, error = %failure, "`stopped` failed");
        }
        // It cannot have children any more, but timers.
        self.clear(core);
        self.drop_actor();
        self.base.phase = Phase::Ended;
        #[cfg(feature = "defects")]
        if core.defects.lose_at_end {
            for item in std::mem::take(&mut self.queue) {
                if let Item::Letter(mut letter) = item {
                    self.base.address.leave(usize::from(letter.take_place()));
                    std::mem::forget(letter);
                }
            }
        }
        self.tell_the_end(&reason);
    }

    /// Nothing of the actor is left: whoever waits or watches is told.
    fn tell_the_end(&mut self, reason: &StopReason) {
        let address = Arc::clone(&self.base.address);
        address.end();
        let rest = self.base.rest.take().map(|rest| *rest).unwrap_or_default();
        let mut places = 0;
        let queued = std::mem::take(&mut self.queue)
            .into_iter()
            .filter_map(|item| match item {
                Item::Letter(letter) | Item::Unstashed(letter) => Some(letter),
                Item::Arrived(letter) => {
                    letter.fail(VALUE_GONE);
                    None
                }
                _ => None,
            });
        for mut letter in queued.chain(rest.stash) {
            places += usize::from(letter.take_place());
            letter.reject(DeadLetterReason::Stopped, AskError::Stopped);
        }
        address.leave(places);
        for open in rest.open {
            open.letter.fail(VALUE_GONE);
        }
        for watcher in rest.watchers.into_values() {
            watcher.order(Order::Terminated(Arc::clone(&address), reason.clone()));
        }
        for watcher in rest.watchers_outside {
            let _ = watcher.send(reason.clone());
        }
        for listener in rest.listeners.into_values() {
            listener.life(&address, Life::Ended);
        }
        if let Some(parent) = address.parent() {
            parent.order(Order::ChildEnded(Arc::clone(&address)));
        }
    }

    fn drop_actor(&mut self) {
        let_go(&self.base.address, self.actor.take());
    }

    /// Takes the next thing to handle from the queue and handles it. Adds to `places` what is to be
    /// given back.
    fn handle_next(&mut self, core: &mut Core, places: &mut usize) {
        let Some(item) = self.queue.pop_front() else {
            return;
        };
        match item {
            Item::Letter(mut letter) => {
                let has_place = letter.take_place();
                #[cfg(feature = "defects")]
                let has_place = has_place && !(core.defects.keep_places && letter.is_abandoned());
                *places += usize::from(has_place);
                if self.queue.is_empty() {
                    // Before the reply is out: whoever gets it may come back at once.
                    self.base.address.leave(std::mem::take(places));
                }
                self.handle_if_wanted(core, letter);
            }
            Item::Unstashed(letter) => self.handle_if_wanted(core, letter),
            Item::Arrived(letter) => self.handle(core, letter),
            Item::Timer(token) => self.handle_timer(core, token),
            Item::Signal(signal) => match *signal {
                Signal::Terminated(terminated) => {
                    // It may be watched no more, or was told of since.
                    let is_told = self.base.is_told_of(&terminated.path.0);
                    #[cfg(feature = "defects")]
                    let is_told = is_told || core.defects.tell_twice;
                    if is_told {
                        self.hook(core, |actor, cx| actor.terminated(&terminated, cx));
                    }
                }
                Signal::ChildFailed(failed) => {
                    self.hook(core, |actor, cx| actor.child_failed(&failed, cx));
                }
            },
            Item::Stop(reason) => self.stop(core, *reason, true),
            Item::Unreferenced => {
                if self.base.address.is_unreferenced() {
                    self.stop(core, StopReason::Unreferenced, true);
                }
            }
        }
    }

    /// Handles a message, unless whoever asked has gone.
    fn handle_if_wanted(&mut self, core: &mut Core, mut letter: Box<dyn Letter<A>>) {
        let is_claimed = letter.claim();
        #[cfg(feature = "defects")]
        let is_claimed = is_claimed || core.defects.handle_expired;
        if is_claimed {
            self.handle(core, letter);
        } else {
            let_go(&self.base.address, letter);
        }
    }

    fn handle_timer(&mut self, core: &mut Core, token: u64) {
        let Some(rest) = &mut self.base.rest else {
            return;
        };
        let Some(at) = rest.timers.iter().position(|timer| timer.token == token) else {
            return;
        };
        let timer = &mut rest.timers[at];
        timer.is_queued = false;
        let letter = (timer.make)(&self.base.address);
        if timer.period.is_none() {
            rest.timers.swap_remove(at);
        }
        if let Some(letter) = letter {
            self.handle(core, letter);
        }
    }

    fn terminated(&mut self, address: Arc<ActorAddress>, reason: StopReason) {
        if self.base.watches(&address) {
            let terminated = Terminated {
                path: ActorPath(address),
                reason,
            };
            let signal = Box::new(Signal::Terminated(terminated));
            self.queue.push_back(Item::Signal(signal));
        }
    }

    fn child_failed(&mut self, core: &mut Core, failed: ChildFailed, concerns: Concerns) {
        match concerns {
            Concerns::Nobody => {}
            Concerns::Siblings => {
                let others = self
                    .base
                    .rest
                    .iter()
                    .flat_map(|rest| rest.children.values());
                for child in others {
                    if !child.group || child.address.uid() == failed.path.0.uid() {
                        continue;
                    }
                    child.address.order(match failed.directive {
                        Directive::Restart => Order::RestartWith(failed.clone()),
                        _ => Order::Stop(StopReason::Failed(failed.failure.clone())),
                    });
                }
            }
            Concerns::Parent if self.is_running() => self.failed(core, failed.failure.clone()),
            Concerns::Parent => {}
        }
        if self.is_running() {
            let signal = Box::new(Signal::ChildFailed(failed));
            self.queue.push_back(Item::Signal(signal));
        }
    }
}

impl<A: Actor> AnyCell for ActorCell<A> {
    fn base(&self) -> &dyn AnyBase {
        &self.base
    }

    fn base_mut(&mut self) -> &mut dyn AnyBase {
        &mut self.base
    }

    fn receive(&mut self, core: &mut Core, parcel: Box<dyn Parcel>) {
        let mut landing: Option<Box<dyn Letter<A>>> = None;
        parcel.land(&mut landing);
        if let Some(letter) = landing {
            self.queue.push_back(Item::Letter(letter));
        }
        #[cfg(feature = "defects")]
        if core.defects.overtake {
            let last = self.queue.len() - 1;
            self.queue.swap(last.saturating_sub(1), last);
        }
        #[cfg(not(feature = "defects"))]
        let _ = core;
    }

    fn run(&mut self, core: &mut Core) {
        self.base.scheduled = false;
        if matches!(self.base.phase, Phase::Starting) {
            self.start(core);
        }
        let mut left = core.settings.messages_per_run;
        let mut places = 0;
        let end = core.now.saturating_add(core.settings.turn_budget);
        let mut pace = Pace::default();
        while left > 0 && core.now < end && self.is_running() && self.can_handle() {
            left -= 1;
            self.handle_next(core, &mut places);
            if pace.is_over() {
                let elapsed = self.look_at_clock(core);
                pace.next(elapsed);
            }
        }
        if pace.handled > 0 {
            self.look_at_clock(core);
        }
        self.base.address.leave(places);
        const KEPT: usize = 4;
        if self.queue.is_empty() && self.queue.capacity() > KEPT {
            self.queue.shrink_to(KEPT);
        }
    }

    fn order(&mut self, core: &mut Core, order: Order) {
        match order {
            Order::Stop(reason) => self.stop(core, reason, false),
            Order::StopAfter(reason) => {
                let waits = matches!(self.base.phase, Phase::Restarting(_) | Phase::Backoff);
                self.queue.push_back(match reason {
                    StopReason::Unreferenced => Item::Unreferenced,
                    reason => Item::Stop(Box::new(reason)),
                });
                // One that waits to begin anew does not do so for nothing.
                if waits && self.queue.len() == 1 {
                    let mut places = 0;
                    self.handle_next(core, &mut places);
                }
            }
            Order::RestartWith(failed) => {
                if self.is_running() {
                    self.restart(core, &failed.failure, Duration::ZERO);
                }
            }
            Order::Watch(watcher) => match watcher {
                Watcher::Actor(watcher) => {
                    self.base.rest().watchers.insert(watcher.uid(), watcher);
                }
                Watcher::Outside(sender) => {
                    let watchers = &mut self.base.rest().watchers_outside;
                    if watchers.len() == watchers.capacity() {
                        // Nobody says so who does not wait any more.
                        watchers.retain(|watcher| !watcher.is_closed());
                        watchers.reserve(watchers.len() + 1);
                    }
                    watchers.push(sender);
                }
                Watcher::Listener(number, listener) => {
                    if self.is_running() {
                        Arc::clone(&listener).life(&self.base.address, Life::Running);
                    }
                    self.base.rest().listeners.insert(number, listener);
                }
            },
            Order::Unwatch(uid) => {
                if let Some(rest) = &mut self.base.rest {
                    rest.watchers.remove(&uid);
                    rest.listeners.remove(&uid);
                }
            }
            Order::Terminated(address, reason) => {
                #[cfg(feature = "defects")]
                if core.defects.tell_twice {
                    self.terminated(Arc::clone(&address), reason.clone());
                }
                self.terminated(address, reason);
            }
            Order::ChildEnded(child) => {
                if let Some(rest) = &mut self.base.rest {
                    rest.children.remove(&child.uid());
                }
                self.go_on_without_children(core);
            }
            Order::ChildFailed(failed, concerns) => self.child_failed(core, failed, concerns),
            Order::Answered(token) => self.answered(core, token),
            Order::NeverCame => {}
        }
    }

    fn timer(&mut self, core: &mut Core, timer: ActorTimer) {
        match timer {
            ActorTimer::Backoff => {
                if matches!(self.base.phase, Phase::Backoff) {
                    self.base.phase = Phase::Starting;
                }
            }
            ActorTimer::Ask(token) => self.answered(core, token),
            ActorTimer::User(token) => {
                let Some(rest) = &mut self.base.rest else {
                    return;
                };
                let Some(timer) = rest.timers.iter_mut().find(|timer| timer.token == token) else {
                    return;
                };
                if let Some(period) = timer.period {
                    timer.due =
                        core.start_actor_timer(period, self.base.key, ActorTimer::User(token));
                }
                // A repeated one stands in the queue once at the most.
                if !std::mem::replace(&mut timer.is_queued, true) {
                    self.queue.push_back(Item::Timer(token));
                }
            }
            ActorTimer::Idle => {
                // While something exclusive is waited for, the actor is not idle.
                let is_held = self.base.is_held();
                let Some(idle) = self.base.rest.as_mut().and_then(|rest| rest.idle.as_mut()) else {
                    return;
                };
                let left = idle
                    .since
                    .saturating_add(idle.after)
                    .saturating_sub(core.now);
                let is_due = left.is_zero() && self.queue.is_empty() && !is_held;
                if is_due {
                    idle.since = core.now;
                }
                let wait = if left.is_zero() { idle.after } else { left };
                idle.timer = core.start_actor_timer(wait, self.base.key, ActorTimer::Idle);
                if is_due && matches!(self.base.phase, Phase::Running) {
                    self.hook(core, |actor, cx| actor.receive_timeout(cx));
                }
            }
        }
    }

    fn later_done(&mut self, _: &mut Core, done: LaterDone) {
        let Some(open) = self.take_open(done.token) else {
            return;
        };
        match done.output {
            Ok(output) => self.arrive(open.letter, open.exclusive, output),
            Err(failure) => open.letter.fail(AskError::Unknown {
                reason: match failure {
                    LaterFailure::Panicked => "the message's future panicked",
                    LaterFailure::TimedOut => "the message's future took too long",
                },
            }),
        }
    }

    fn whereabouts(&self) -> Whereabouts {
        match self.base.phase {
            Phase::Starting => Whereabouts::Runnable,
            Phase::Running if self.can_handle() => Whereabouts::Runnable,
            Phase::Ended => Whereabouts::Gone,
            _ => Whereabouts::Waiting,
        }
    }

    fn stop_waiting(&mut self, core: &mut Core) {
        if matches!(self.base.phase, Phase::Restarting(_) | Phase::Backoff) {
            self.stop(core, StopReason::SystemStopped, false);
        }
    }

    fn abandon(&mut self) {
        if !matches!(self.base.phase, Phase::Ended) {
            self.drop_actor();
            self.base.phase = Phase::Ended;
            self.tell_the_end(&StopReason::SystemStopped);
        }
    }
}

/// After how many messages the clock is looked at: a look costs as much as a short handler. It begins
/// with every one, and becomes rarer as long as handlers are short.
struct Pace {
    every: u32,
    handled: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            every: 1,
            handled: 0,
        }
    }
}

impl Pace {
    const RAREST: u32 = 16;
    /// A handler is short up to here.
    const SHORT: Duration = Duration::from_micros(2);

    /// Notes a message. Gives whether the clock is to be looked at.
    fn is_over(&mut self) -> bool {
        self.handled += 1;
        self.handled >= self.every
    }

    /// The messages since the last look took `elapsed`.
    fn next(&mut self, elapsed: Duration) {
        self.every = if elapsed <= Self::SHORT * self.handled {
            (self.every * 2).min(Self::RAREST)
        } else {
            1
        };
        self.handled = 0;
    }
}

/// Tells a cell that the answer to its question is there.
struct AnswerWaker {
    to: Arc<ActorAddress>,
    token: u64,
}

impl Wake for AnswerWaker {
    fn wake(self: Arc<Self>) {
        self.to.order(Order::Answered(self.token));
    }
}
