//! State machines that are plain actors.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::actor::{Actor, ActorCx, Failure, Receive, Received};
use crate::fsm::{
    MachineName, Observe, Observers, STATE_TIMEOUT, StateTimedOut, StateTimeout, Unobserve,
};

/// An actor that behaves by states. Its messages are handled by [`Receive`] as those of every actor.
///
/// ```
/// use std::time::Duration;
///
/// use perennial_core::config::ConfigSource;
/// use perennial_core::{
///     Actor, ActorCx, ActorSystem, Failure, Fsm, Receive, Received, StateMachine, StateTimeout,
/// };
///
/// /// Gathers lines and gives them away together.
/// struct Gatherer {
///     fsm: Fsm<State>,
///     full: usize,
///     given_away: Vec<Vec<String>>,
/// }
///
/// enum State {
///     Idle,
///     Active { lines: Vec<String> },
/// }
///
/// impl Actor for Gatherer {
///     fn started(&mut self, cx: &mut ActorCx<'_, Self>) -> Result<(), Failure> {
///         cx.begin(self)
///     }
/// }
///
/// impl StateMachine for Gatherer {
///     type State = State;
///
///     fn fsm(&mut self) -> &mut Fsm<State> {
///         &mut self.fsm
///     }
///
///     fn state_timeout(&self) -> Option<StateTimeout> {
///         match self.fsm.state() {
///             State::Idle => None,
///             State::Active { .. } => Some(StateTimeout::after(Duration::from_secs(1))),
///         }
///     }
///
///     fn timed_out(&mut self, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
///         self.give_away(cx)?;
///         cx.no_reply()
///     }
/// }
///
/// impl Gatherer {
///     fn give_away(&mut self, cx: &mut ActorCx<'_, Self>) -> Result<(), Failure> {
///         // What was left is given back, and with it the lines.
///         if let State::Active { lines } = cx.goto(self, State::Idle)? {
///             self.given_away.push(lines);
///         }
///         Ok(())
///     }
/// }
///
/// struct Line(&'static str);
///
/// impl Receive<Line> for Gatherer {
///     type Reply = usize;
///
///     fn receive(&mut self, line: Line, cx: &mut ActorCx<'_, Self>) -> Received<Self, usize> {
///         let line = line.0.to_owned();
///         match self.fsm.state_mut() {
///             State::Idle => {
///                 cx.goto(self, State::Active { lines: vec![line] })?;
///             }
///             State::Active { lines } => {
///                 lines.push(line);
///                 if lines.len() == self.full {
///                     self.give_away(cx)?;
///                 }
///             }
///         }
///         cx.reply(self.given_away.len())
///     }
/// }
///
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let system = ActorSystem::in_memory(ConfigSource::empty()).start().await?;
/// let gatherer = system.spawn("gatherer", || Gatherer {
///     fsm: Fsm::new(State::Idle),
///     full: 2,
///     given_away: Vec::new(),
/// })?;
/// assert_eq!(gatherer.ask(Line("one")).await?, 0);
/// assert_eq!(gatherer.ask(Line("two")).await?, 1);
/// system.shutdown().await?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait StateMachine: Actor {
    /// Its states, an enum with data in its variants. `Clone` if it is to be observed.
    type State: Send + 'static;

    /// Where it keeps its state: a field of it.
    fn fsm(&mut self) -> &mut Fsm<Self::State>;

    /// How long it may be in its present state. Looked at whenever a state is entered.
    fn state_timeout(&self) -> Option<StateTimeout> {
        None
    }

    /// The state has lasted for as long as [`StateMachine::state_timeout`] said. Unless it goes to a
    /// state, the machine stays in this one and is told no more.
    ///
    /// # Errors
    /// A [`Failure`], about which the supervision decides. Unless it is overridden, a time-out is one
    /// itself.
    fn timed_out(&mut self, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        let _ = cx;
        Err(Failure::new(
            "a state has timed out, which `timed_out` is not overridden for",
        ))
    }

    /// It has come into a state, `from` another or the same one; from none when it begins. It cannot
    /// go on to another state from here: have it told something by [`ActorCx::tell_myself`].
    ///
    /// # Errors
    /// A [`Failure`], which [`ActorCx::goto`] passes on.
    fn entered(
        &mut self,
        from: Option<&Self::State>,
        cx: &mut ActorCx<'_, Self>,
    ) -> Result<(), Failure> {
        let _ = (from, cx);
        Ok(())
    }
}

/// The state of a [`StateMachine`].
#[derive(Debug, Default)]
pub struct Fsm<S> {
    state: S,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    /// It has not begun.
    #[default]
    New,
    /// What belongs to the entry into a state runs.
    Entering,
    Running,
}

impl<S> Fsm<S> {
    /// A machine that begins in this state.
    pub const fn new(state: S) -> Self {
        Self {
            state,
            phase: Phase::New,
        }
    }

    /// The state.
    pub const fn state(&self) -> &S {
        &self.state
    }

    /// The state, to change its data. Another state put in its place by this would be no transition:
    /// use [`ActorCx::goto`].
    pub const fn state_mut(&mut self) -> &mut S {
        &mut self.state
    }
}

impl<A: StateMachine> ActorCx<'_, A> {
    /// Begins in the state that the machine is in; for [`Actor::started`], so before the first message
    /// and after every restart. Its time-out begins, observers of a machine that restarts are told,
    /// and [`StateMachine::entered`] runs.
    ///
    /// # Errors
    /// A [`Failure`] of [`StateMachine::entered`], and for a machine that has begun.
    pub fn begin(&mut self, machine: &mut A) -> Result<(), Failure> {
        if machine.fsm().phase != Phase::New {
            return Err(Failure::new("the state machine has begun already"));
        }
        self.enter(machine, None)
    }

    /// Brings the machine into a state, which may be the one that it is in. Gives back the state that
    /// was left.
    ///
    /// It takes effect at once. The time-out of the state that was left ends, that of the new one
    /// begins, observers are told, and [`StateMachine::entered`] runs. What is stashed comes back when
    /// this message is done.
    ///
    /// # Errors
    /// A [`Failure`] of [`StateMachine::entered`]; the machine is in the new state then, should its
    /// supervision let it go on. Another one where no transition can be made: within
    /// [`StateMachine::entered`], and before [`ActorCx::begin`].
    pub fn goto(&mut self, machine: &mut A, next: A::State) -> Result<A::State, Failure> {
        let fsm = machine.fsm();
        let reason = match fsm.phase {
            Phase::Running => None,
            Phase::New => Some(
                "a transition of a state machine that has not begun; call `cx.begin(self)` in \
                 `started`",
            ),
            Phase::Entering => Some(
                "a transition within `entered`; go on by a message to yourself (`tell_myself`)",
            ),
        };
        if let Some(reason) = reason {
            return Err(Failure::new(reason));
        }
        let left = std::mem::replace(&mut fsm.state, next);
        self.unstash_all();
        self.enter(machine, Some(&left))?;
        Ok(left)
    }

    /// Begins the time-out of the present state from the start.
    pub fn restart_state_timeout(&mut self, machine: &A) {
        let delay = machine.state_timeout().map(|due| due.delay(self.now()));
        let mut timers = self.timers();
        match delay {
            Some(delay) => {
                timers.start_single(STATE_TIMEOUT, delay, StateTimedOut { entry: 0 });
            }
            None => timers.cancel(STATE_TIMEOUT),
        }
    }

    fn enter(&mut self, machine: &mut A, from: Option<&A::State>) -> Result<(), Failure> {
        machine.fsm().phase = Phase::Entering;
        let entered = catch_unwind(AssertUnwindSafe(|| {
            self.restart_state_timeout(machine);
            self.tell_observers(machine.fsm().state(), from);
            machine.entered(from, self)
        }));
        // Also for a machine whose supervision lets it go on after this.
        machine.fsm().phase = Phase::Running;
        entered.unwrap_or_else(|panic| resume_unwind(panic))
    }

    fn tell_observers(&mut self, now: &A::State, from: Option<&A::State>) {
        if !self.base.is_observed() {
            return;
        }
        let name = MachineName::Actor(self.path());
        if let Some(observers) = observers_of::<A::State>(self.base.observers()) {
            match from {
                Some(from) => observers.tell(&name, from, now),
                None => observers.tell_of_jump(&name, now),
            }
        }
    }
}

fn observers_of<S: Send + 'static>(
    observers: &mut Option<Box<dyn Any + Send>>,
) -> &mut Option<Observers<S>> {
    observers
        .get_or_insert_with(|| Box::new(None::<Observers<S>>))
        .downcast_mut()
        .expect("an actor has states of one type")
}

impl<A: StateMachine> Receive<StateTimedOut> for A {
    type Reply = ();

    fn receive(&mut self, _: StateTimedOut, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        self.timed_out(cx)
    }
}

impl<A: StateMachine<State: Clone>> Receive<Observe<A::State>> for A {
    type Reply = A::State;

    fn receive(
        &mut self,
        message: Observe<A::State>,
        cx: &mut ActorCx<'_, Self>,
    ) -> Received<Self, A::State> {
        let now = self.fsm().state();
        Observers::add(observers_of(cx.base.observers()), message.observer, now);
        cx.reply(now.clone())
    }
}

impl<A: StateMachine> Receive<Unobserve<A::State>> for A {
    type Reply = ();

    fn receive(
        &mut self,
        message: Unobserve<A::State>,
        cx: &mut ActorCx<'_, Self>,
    ) -> Received<Self, ()> {
        Observers::remove(observers_of(cx.base.observers()), &message.observer);
        cx.reply(())
    }
}
