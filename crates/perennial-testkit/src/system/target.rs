//! Whom a test asks and looks into: actors and entities alike.

use std::fmt;

use perennial_core::engine::{Registry, Worker};
use perennial_core::{Actor, ActorRef, AskError, Asking, EntityRef, EventSourced, Handle, Receive};

/// Whom [`TestSystem::ask`](crate::TestSystem::ask) asks: an actor or an entity. Not to be implemented
/// elsewhere.
pub trait Target<M>: sealed::Sealed {
    /// What it replies.
    type Reply;

    /// Asks it.
    #[doc(hidden)]
    fn asking(&self, message: M) -> Asking<Self::Reply>;

    /// Sends it a message.
    #[doc(hidden)]
    fn telling(&self, message: M) -> Result<(), AskError>;
}

/// Whom [`TestSystem::state`](crate::TestSystem::state) looks into: an actor or an entity. Not to be
/// implemented elsewhere.
pub trait Inside: sealed::Sealed + fmt::Debug {
    /// What is there to be seen.
    type State;

    /// On which worker it lives.
    #[doc(hidden)]
    fn worker(&self, registry: &Registry) -> Option<usize>;

    /// Looks into it.
    #[doc(hidden)]
    fn inside<'a>(&self, worker: &'a Worker) -> Option<&'a Self::State>;
}

mod sealed {
    pub trait Sealed {}

    impl<A> Sealed for super::ActorRef<A> {}
    impl<E> Sealed for super::EntityRef<E> {}
}

impl<A: Receive<M>, M: Send + 'static> Target<M> for ActorRef<A> {
    type Reply = A::Reply;

    fn asking(&self, message: M) -> Asking<A::Reply> {
        self.ask(message).into_future()
    }

    fn telling(&self, message: M) -> Result<(), AskError> {
        self.tell(message)
    }
}

impl<E: Handle<C>, C: Send + 'static> Target<C> for EntityRef<E> {
    type Reply = E::Reply;

    fn asking(&self, command: C) -> Asking<E::Reply> {
        self.ask(command).into_future()
    }

    fn telling(&self, command: C) -> Result<(), AskError> {
        self.tell(command)
    }
}

impl<A: Actor> Inside for ActorRef<A> {
    type State = A;

    fn worker(&self, registry: &Registry) -> Option<usize> {
        Some(registry.worker_of_actor(self))
    }

    fn inside<'a>(&self, worker: &'a Worker) -> Option<&'a A> {
        worker.peek_actor(self)?.actor
    }
}

impl<E: EventSourced> Inside for EntityRef<E> {
    type State = E;

    fn worker(&self, registry: &Registry) -> Option<usize> {
        registry.worker_of_entity(self)
    }

    fn inside<'a>(&self, worker: &'a Worker) -> Option<&'a E> {
        worker.peek(self)?.state
    }
}
