//! State machines that are event-sourced entities.

use std::any::Any;
use std::fmt;
use std::mem::discriminant;

use perennial_persistence::SerializedPayload;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::event_sourced::{Cx, Effect, EventSourced, Handle};
use crate::fsm::{
    MachineName, Observe, Observers, STATE_TIMEOUT, StateTimedOut, StateTimeout, Unobserve,
};

/// An event-sourced entity that behaves by states. Implemented in the place of [`EventSourced`],
/// which comes with it; commands are handled by [`Handle`] as those of every entity.
///
/// ```
/// use std::time::Duration;
///
/// use perennial_core::{
///     Cx, Effect, Handle, PersistentFsm, PersistentStateMachine, StateTimeout,
/// };
/// use perennial_testkit::Spec;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
/// struct Door {
///     fsm: PersistentFsm<State>,
/// }
///
/// #[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
/// enum State {
///     #[default]
///     Closed,
///     Open { by: String },
/// }
///
/// #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// enum Event {
///     Opened { by: String },
///     Closed,
/// }
///
/// impl PersistentStateMachine for Door {
///     const TYPE: &'static str = "Door";
///     type Event = Event;
///     type Services = ();
///     type State = State;
///
///     fn fsm(&self) -> &PersistentFsm<State> {
///         &self.fsm
///     }
///
///     fn apply(&mut self, event: &Event) {
///         self.fsm.goto(match event {
///             Event::Opened { by } => State::Open { by: by.clone() },
///             Event::Closed => State::Closed,
///         });
///     }
///
///     fn state_timeout(&self, _: &Cx<'_, Self>) -> Option<StateTimeout> {
///         match self.fsm.state() {
///             State::Closed => None,
///             State::Open { .. } => Some(StateTimeout::after(Duration::from_secs(30))),
///         }
///     }
///
///     fn timed_out(&self, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
///         cx.persist([Event::Closed]).no_reply()
///     }
/// }
///
/// struct Open(&'static str);
///
/// impl Handle<Open> for Door {
///     type Reply = bool;
///
///     fn handle(&self, open: Open, cx: &Cx<'_, Self>) -> Effect<Self, bool> {
///         match self.fsm.state() {
///             State::Closed => {
///                 let by = open.0.to_owned();
///                 cx.persist([Event::Opened { by }]).reply(|_| true)
///             }
///             State::Open { .. } => cx.reply(false),
///         }
///     }
/// }
///
/// let mut t = Spec::<Door>::new(());
/// let by = "alice".to_owned();
/// assert_eq!(t.when(Open("alice")), ([Event::Opened { by }], true));
/// assert_eq!(t.when(Open("bob")), ([], false));
/// t.advance(Duration::from_secs(30));
/// assert_eq!(t.state().fsm.state(), &State::Closed);
/// ```
///
/// Transitions follow from events. What belongs to one happens when the events are stored, and the
/// next command waits for it, as for what is given to [`Effect::then_run`]; what was given there runs
/// after it. Nothing of it happens in recovery, but the time-out of the state in which the entity
/// comes back begins then, before it is told [`Signal::RecoveryCompleted`].
///
/// A time-out lives in memory as timers do. While one runs, its entity is not passivated. After a
/// restart of the system it runs again once the entity is brought back, by whatever command.
///
/// Its type is `<Door as EventSourced>::TYPE` where both traits are in scope.
///
/// [`Signal::RecoveryCompleted`]: crate::Signal::RecoveryCompleted
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no entity",
    label = "neither `EventSourced` nor `PersistentStateMachine` is implemented for it",
    note = "implement `EventSourced`, or `PersistentStateMachine` for one that behaves by states"
)]
pub trait PersistentStateMachine: Default + Send + Sized + 'static {
    /// As [`EventSourced::TYPE`].
    const TYPE: &'static str;

    /// As [`EventSourced::Event`].
    type Event: Send + 'static;

    /// As [`EventSourced::Services`].
    type Services: Send + Sync + 'static;

    /// Its states, an enum with data in its variants. `Clone` if it is to be observed.
    type State: Send + 'static;

    /// Where it keeps its state: a field of it.
    fn fsm(&self) -> &PersistentFsm<Self::State>;

    /// As [`EventSourced::apply`]. The state changes by [`PersistentFsm::goto`], once per event at
    /// the most.
    fn apply(&mut self, event: &Self::Event);

    /// As [`EventSourced::apply_with_metadata`].
    fn apply_with_metadata(&mut self, event: &Self::Event, metadata: Option<&SerializedPayload>) {
        let _ = metadata;
        self.apply(event);
    }

    /// How long it may be in its present state. Looked at when a state was entered, and after a
    /// recovery. A panic restarts the entity.
    fn state_timeout(&self, cx: &Cx<'_, Self>) -> Option<StateTimeout> {
        let _ = cx;
        None
    }

    /// The state has lasted for as long as [`PersistentStateMachine::state_timeout`] said. Unless
    /// events bring it to a state, the machine stays in this one and is told no more, until it is
    /// brought back. Unless it is overridden, nothing happens.
    fn timed_out(&self, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        cx.unhandled()
    }

    /// The machine has come into a state by events that are stored now; the latest transition, if a
    /// command made several. At most once, never in recovery. A panic restarts the entity and takes
    /// nothing back.
    fn entered(&self, from: &Self::State, cx: &Cx<'_, Self>) {
        let _ = (from, cx);
    }
}

/// The state of a [`PersistentStateMachine`]. In a snapshot it is the state alone, and two are equal
/// if their states are.
#[derive(Clone, Default)]
pub struct PersistentFsm<S> {
    state: S,
    /// The one before.
    left: Option<S>,
    /// How many states were entered since it was made.
    entries: u64,
}

impl<S> PersistentFsm<S> {
    /// A machine that is in this state before the first event.
    pub const fn new(state: S) -> Self {
        Self {
            state,
            left: None,
            entries: 0,
        }
    }

    /// The state.
    pub const fn state(&self) -> &S {
        &self.state
    }

    /// The state, to change its data in [`PersistentStateMachine::apply`]. Another state put in its
    /// place by this would be no transition: use [`PersistentFsm::goto`].
    pub const fn state_mut(&mut self) -> &mut S {
        &mut self.state
    }

    /// Brings the machine into a state, which may be the one that it is in; for
    /// [`PersistentStateMachine::apply`].
    pub fn goto(&mut self, next: S) {
        self.left = Some(std::mem::replace(&mut self.state, next));
        self.entries = self.entries.wrapping_add(1);
    }
}

impl<S: PartialEq> PartialEq for PersistentFsm<S> {
    fn eq(&self, other: &Self) -> bool {
        self.state == other.state
    }
}

impl<S: Eq> Eq for PersistentFsm<S> {}

impl<S: fmt::Debug> fmt::Debug for PersistentFsm<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.state.fmt(f)
    }
}

impl<S: Serialize> Serialize for PersistentFsm<S> {
    fn serialize<T: Serializer>(&self, serializer: T) -> Result<T::Ok, T::Error> {
        self.state.serialize(serializer)
    }
}

impl<'de, S: Deserialize<'de>> Deserialize<'de> for PersistentFsm<S> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        S::deserialize(deserializer).map(Self::new)
    }
}

impl<E: PersistentStateMachine> Cx<'_, E> {
    /// Begins the time-out of the present state from the start; `machine` is the state of the entity.
    pub fn restart_state_timeout(&self, machine: &E) {
        let timers = self.timers();
        match machine.state_timeout(self) {
            Some(due) => {
                let message = StateTimedOut { entry: self.entry };
                timers.start_single(STATE_TIMEOUT, due.delay(self.now()), message);
            }
            None => timers.cancel(STATE_TIMEOUT),
        }
    }
}

impl<E: PersistentStateMachine> EventSourced for E {
    const TYPE: &'static str = <E as PersistentStateMachine>::TYPE;
    type Event = <E as PersistentStateMachine>::Event;
    type Services = <E as PersistentStateMachine>::Services;

    fn apply(&mut self, event: &Self::Event) {
        PersistentStateMachine::apply(self, event);
    }

    fn apply_with_metadata(&mut self, event: &Self::Event, metadata: Option<&SerializedPayload>) {
        PersistentStateMachine::apply_with_metadata(self, event, metadata);
    }

    fn machine() -> Option<MachineHooks<Self>> {
        Some(MachineHooks(Box::new(Live {
            seen: 0,
            has_moved: false,
            untold: Vec::new(),
            observers: None,
        })))
    }
}

impl<E: PersistentStateMachine> Handle<StateTimedOut> for E {
    type Reply = ();

    fn handle(&self, message: StateTimedOut, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        if message.entry != cx.entry {
            // It was sent before that state was left.
            return cx.no_reply();
        }
        self.timed_out(cx)
    }
}

impl<E: PersistentStateMachine<State: Clone>> Handle<Observe<E::State>> for E {
    type Reply = E::State;

    fn handle(&self, command: Observe<E::State>, cx: &Cx<'_, Self>) -> Effect<Self, E::State> {
        let Observe { observer } = command;
        cx.reply(self.fsm().state().clone())
            .then_machine(move |machine, state, _| {
                if let Some(observers) = observers_of(machine.observers()) {
                    Observers::add(observers, observer, state.fsm().state());
                }
            })
    }
}

impl<E: PersistentStateMachine> Handle<Unobserve<E::State>> for E {
    type Reply = ();

    fn handle(&self, command: Unobserve<E::State>, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        let Unobserve { observer } = command;
        cx.reply(()).then_machine(move |machine, _, _| {
            if let Some(observers) = observers_of(machine.observers()) {
                Observers::remove(observers, &observer);
            }
        })
    }
}

/// What the engine has to do for an entity that is a machine. Made by the entity's type.
pub struct MachineHooks<E: EventSourced>(pub(crate) Box<dyn Machine<E>>);

impl<E: EventSourced> fmt::Debug for MachineHooks<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachineHooks").finish_non_exhaustive()
    }
}

/// The machine of one entity, as its cell sees it.
pub(crate) trait Machine<E: EventSourced>: Send {
    /// An event is about to be applied.
    fn before_event(&mut self, state: &E);

    /// It was applied.
    fn after_event(&mut self, state: &E);

    /// Whether the command whose events were applied has made transitions.
    fn has_moved(&self) -> bool;

    /// These are durable.
    fn transitioned(&mut self, state: &E, cx: &Cx<'_, E>);

    /// The entity is back; no command was handled yet.
    fn recovered(&mut self, state: &E, cx: &Cx<'_, E>);

    /// The state is forgotten with everything that was not durable.
    fn begin_again(&mut self);

    /// Whether somebody is to be told of transitions.
    fn is_observed(&mut self) -> bool;

    /// An `Option` of the observers, whose type knows that of the states.
    fn observers(&mut self) -> &mut dyn Any;
}

/// Something that is done to the machine of an entity once everything before is durable.
pub(crate) type MachineAction<E> = Box<dyn FnOnce(&mut dyn Machine<E>, &E, &Cx<'_, E>) + Send>;

struct Live<E: PersistentStateMachine> {
    /// How many states had been entered before the event that is applied.
    seen: u64,
    has_moved: bool,
    /// Transitions that are not durable yet.
    untold: Vec<(E::State, E::State)>,
    observers: Option<Observers<E::State>>,
}

impl<E: PersistentStateMachine> Machine<E> for Live<E> {
    fn before_event(&mut self, state: &E) {
        self.seen = state.fsm().entries;
    }

    fn after_event(&mut self, state: &E) {
        let fsm = state.fsm();
        if fsm.entries == self.seen {
            return;
        }
        self.has_moved = true;
        if let (Some(observers), Some(left)) = (&self.observers, &fsm.left) {
            let transition = (observers.clone_of(left), observers.clone_of(&fsm.state));
            self.untold.push(transition);
        }
    }

    fn has_moved(&self) -> bool {
        self.has_moved
    }

    fn transitioned(&mut self, state: &E, cx: &Cx<'_, E>) {
        self.has_moved = false;
        cx.restart_state_timeout(state);
        if let Some(observers) = &mut self.observers {
            let name = MachineName::Entity(cx.persistence_id().clone());
            for (from, to) in self.untold.drain(..) {
                observers.tell(&name, &from, &to);
            }
        }
        if let Some(left) = &state.fsm().left {
            state.entered(left, cx);
        }
    }

    fn recovered(&mut self, state: &E, cx: &Cx<'_, E>) {
        cx.restart_state_timeout(state);
        let now = state.fsm().state();
        if let Some(observers) = &mut self.observers
            && discriminant(observers.told()) != discriminant(now)
        {
            let name = MachineName::Entity(cx.persistence_id().clone());
            observers.tell_of_jump(&name, now);
        }
    }

    fn begin_again(&mut self) {
        self.has_moved = false;
        self.untold.clear();
    }

    fn is_observed(&mut self) -> bool {
        Observers::is_observed(&mut self.observers)
    }

    fn observers(&mut self) -> &mut dyn Any {
        &mut self.observers
    }
}

fn observers_of<S: Send + 'static>(observers: &mut dyn Any) -> Option<&mut Option<Observers<S>>> {
    observers.downcast_mut()
}
