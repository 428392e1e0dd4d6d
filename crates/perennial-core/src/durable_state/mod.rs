//! Entities of which only the latest state is kept.
//!
//! Where nobody asks what happened, a row with the state is enough: each change replaces it. Such
//! an entity has the same commands, effects, timers and guarantees as an event-sourced one, as it
//! is one to the engine: its only event is "the state is this from now on", and its sequence number
//! is the row's revision. What is different is where it is kept (`store`).

mod change_event;
mod store;

use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use perennial_persistence::{Codec, CodecError, MessagePack, SerializedPayload};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::event_sourced::{Cx, Entity, EventSourced, Then};
use store::DELETED;

pub use change_event::Changed;
pub(crate) use store::StateAsEvents;
pub use store::deletion;

/// An entity of which only the latest state is kept. `Self` is the state; the default value is the
/// state before the first change and after a deletion.
///
/// Commands are handled by [`Durable`], which is what the engine runs and derefs to the state:
///
/// ```
/// use perennial_core::{Cx, Durable, DurableState, Effect, Handle};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Default, Serialize, Deserialize)]
/// struct Motto {
///     text: String,
/// }
///
/// impl DurableState for Motto {
///     const TYPE: &'static str = "Motto";
///     type Services = ();
/// }
///
/// struct Change(String);
///
/// impl Handle<Change> for Durable<Motto> {
///     type Reply = usize;
///
///     fn handle(&self, command: Change, cx: &Cx<'_, Self>) -> Effect<Self, usize> {
///         cx.put(Motto { text: command.0 })
///             .reply(|motto| motto.text.len())
///     }
/// }
///
/// struct Forget;
///
/// impl Handle<Forget> for Durable<Motto> {
///     type Reply = ();
///
///     fn handle(&self, _: Forget, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
///         cx.delete().reply(|_| ())
///     }
/// }
/// ```
///
/// The system gets `Entity::<Durable<Motto>>::durable(())`, and callers
/// `system.entity::<Durable<Motto>>("id")`.
pub trait DurableState: Default + Send + Sync + Sized + 'static {
    /// The entity type: the first part of every persistence id, so never to be changed once
    /// states are stored. Without `|`.
    const TYPE: &'static str;

    /// What handlers need from outside: shared, never stored. `()` for nothing.
    type Services: Send + Sync + 'static;
}

/// The entity around a [`DurableState`]. It derefs to the state.
///
/// [`Cx::sequence_nr`] is the state's revision: how often it was changed, 0 before the first time.
pub struct Durable<S> {
    state: Arc<S>,
    is_there: bool,
}

impl<S> Durable<S> {
    /// Whether there is a state: it was put and not deleted since.
    pub fn is_there(&self) -> bool {
        self.is_there
    }
}

impl<S: Default> Default for Durable<S> {
    fn default() -> Self {
        Self {
            state: Arc::default(),
            is_there: false,
        }
    }
}

impl<S> Deref for Durable<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.state
    }
}

/// Two are equal if both have the same state, or none.
impl<S: PartialEq> PartialEq for Durable<S> {
    fn eq(&self, other: &Self) -> bool {
        self.is_there == other.is_there && self.state == other.state
    }
}

impl<S: fmt::Debug> fmt::Debug for Durable<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.state.fmt(f)
    }
}

/// What happens to a state. Handlers use [`Cx::put`] and [`Cx::delete`].
///
/// Two are equal if they make the same of a state, whatever their causes.
pub struct StateChange<S> {
    change: Change<S>,
    cause: Option<Arc<dyn Any + Send + Sync>>,
}

enum Change<S> {
    Put(Arc<S>),
    Delete,
}

impl<S> StateChange<S> {
    /// The state is this from now on.
    pub fn put(state: S) -> Self {
        Self::of(Change::Put(Arc::new(state)))
    }

    /// There is no state from now on.
    pub fn delete() -> Self {
        Self::of(Change::Delete)
    }

    fn of(change: Change<S>) -> Self {
        Self {
            change,
            cause: None,
        }
    }

    /// The change with its cause, normally the command, for the handler of change events, which
    /// gets it from [`Changed::cause`]. It is not stored.
    #[must_use]
    pub fn because(mut self, cause: impl Any + Send + Sync) -> Self {
        self.cause = Some(Arc::new(cause));
        self
    }

    /// Its cause, if it has one and that is a `C`.
    pub fn cause<C: 'static>(&self) -> Option<&C> {
        self.cause.as_ref()?.downcast_ref()
    }

    /// The state that is put; `None` if it is deleted.
    pub fn state(&self) -> Option<&S> {
        match &self.change {
            Change::Put(state) => Some(state),
            Change::Delete => None,
        }
    }
}

impl<S> Clone for StateChange<S> {
    fn clone(&self) -> Self {
        Self {
            change: match &self.change {
                Change::Put(state) => Change::Put(Arc::clone(state)),
                Change::Delete => Change::Delete,
            },
            cause: self.cause.clone(),
        }
    }
}

impl<S: PartialEq> PartialEq for StateChange<S> {
    fn eq(&self, other: &Self) -> bool {
        self.state() == other.state()
    }
}

impl<S: fmt::Debug> fmt::Debug for StateChange<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.state() {
            Some(state) => f.debug_tuple("Put").field(state).finish(),
            None => f.write_str("Delete"),
        }
    }
}

impl<S: DurableState> EventSourced for Durable<S> {
    const TYPE: &'static str = S::TYPE;
    type Event = StateChange<S>;
    type Services = S::Services;

    fn apply(&mut self, change: &StateChange<S>) {
        match &change.change {
            Change::Put(state) => {
                self.state = Arc::clone(state);
                self.is_there = true;
            }
            Change::Delete => *self = Self::default(),
        }
    }
}

impl<S: DurableState> Cx<'_, Durable<S>> {
    /// Replaces the state. The state changes at once, the reply leaves when it is stored; what is
    /// said of events in [`Cx::persist`] holds here too.
    pub fn put(&self, state: S) -> Then<Durable<S>> {
        self.persist([StateChange::put(state)])
    }

    /// Deletes the state, which is the default one from then on. What it leaves in the table is a
    /// setting of the store (`durable-state-delete`). Deleting what is not there leaves a marker
    /// as well.
    pub fn delete(&self) -> Then<Durable<S>> {
        self.persist([StateChange::delete()])
    }

    /// As [`Cx::put`], with the cause of the change, normally the command, for the handler of
    /// [change events](Entity::change_events).
    pub fn put_because(&self, state: S, cause: impl Any + Send + Sync) -> Then<Durable<S>> {
        self.persist([StateChange::put(state).because(cause)])
    }

    /// As [`Cx::delete`], with the cause of the change.
    pub fn delete_because(&self, cause: impl Any + Send + Sync) -> Then<Durable<S>> {
        self.persist([StateChange::delete().because(cause)])
    }
}

impl<S: DurableState> Entity<Durable<S>> {
    /// An entity type of which only the latest state is kept, as MessagePack with the manifest
    /// `<TYPE>.State`.
    ///
    /// Retention, snapshots and the deletion of events mean nothing here: the former are an error
    /// when the system starts, the latter fails with a signal. Nor is there a place for metadata:
    /// [`Cx::persist_with_metadata`] is refused.
    pub fn durable(services: S::Services) -> Self
    where
        S: Serialize + DeserializeOwned,
    {
        Self::durable_with_codec(services, MessagePack::new(format!("{}.State", S::TYPE)))
    }

    /// As [`Entity::durable`], with a codec of your own.
    pub fn durable_with_codec(services: S::Services, codec: impl Codec<S>) -> Self {
        Self::with_event_codec(services, ChangeCodec(Arc::new(codec))).keeping_state()
    }
}

/// Encodes what happens to a state as that state.
struct ChangeCodec<S>(Arc<dyn Codec<S>>);

impl<S> fmt::Debug for ChangeCodec<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<S: Send + Sync + 'static> Codec<StateChange<S>> for ChangeCodec<S> {
    fn encode(&self, change: &StateChange<S>) -> Result<SerializedPayload, CodecError> {
        match change.state() {
            Some(state) => self.0.encode(state),
            None => Ok(deletion()),
        }
    }

    fn decode(&self, payload: &SerializedPayload) -> Result<StateChange<S>, CodecError> {
        if payload.serializer_id == DELETED {
            return Ok(StateChange::delete());
        }
        Ok(StateChange::put(self.0.decode(payload)?))
    }
}
