//! What a handler of an actor sees besides its state and the message.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use perennial_persistence::{Timestamp, telemetry};

use crate::actor::{Actor, ActorPath, ActorRef, Props, Receive, SpawnError};
use crate::engine::Core;
use crate::engine::actor::{Base, Letter, NewActor, Told};
use crate::router::{Pool, PoolProps};

/// The context of one call of an actor's code: who the actor is, its children, timers and stash, and
/// the makers of answers.
pub struct ActorCx<'a, A: Actor> {
    pub(crate) base: &'a mut Base<A>,
    pub(crate) core: &'a mut Core,
}

impl<A: Actor> ActorCx<'_, A> {
    /// A reference to the actor itself, for others.
    pub fn myself(&self) -> ActorRef<A> {
        ActorRef::new(Arc::clone(self.base.address()))
    }

    /// Where the actor stands.
    pub fn path(&self) -> ActorPath {
        ActorPath(Arc::clone(self.base.address()))
    }

    /// The time, by the system's clock.
    pub fn now(&self) -> Timestamp {
        self.core.wall
    }

    /// Stops the actor after this message, also if it fails then. Its children stop first; what waits
    /// in its mailbox or is stashed becomes dead letters.
    pub fn stop(&mut self) {
        self.base.ask_to_stop();
    }

    /// Puts what is stashed so far in front of what waits, in the order in which it came, when this
    /// message is done.
    pub fn unstash_all(&mut self) {
        self.base.ask_to_unstash();
    }

    /// How many messages are stashed.
    pub fn stashed(&self) -> usize {
        self.base.stashed()
    }

    /// Spawns a child. It ends before this actor does, also when this one restarts, and its failures
    /// are told to [`Actor::child_failed`].
    ///
    /// # Errors
    /// [`SpawnError`] for a name that another child has or that cannot be one, and while this actor
    /// stops or restarts.
    pub fn spawn<B: Actor>(
        &mut self,
        name: impl AsRef<str>,
        props: impl Into<Props<B>>,
    ) -> Result<ActorRef<B>, SpawnError> {
        self.spawn_child(Some(name.as_ref()), props.into())
    }

    /// As [`ActorCx::spawn`], called by a number.
    ///
    /// # Errors
    /// [`SpawnError::Stopped`] while this actor stops or restarts.
    pub fn spawn_anonymous<B: Actor>(
        &mut self,
        props: impl Into<Props<B>>,
    ) -> Result<ActorRef<B>, SpawnError> {
        self.spawn_child(None, props.into())
    }

    fn spawn_child<B: Actor>(
        &mut self,
        name: Option<&str>,
        props: Props<B>,
    ) -> Result<ActorRef<B>, SpawnError> {
        if self.base.is_stopping() {
            return Err(SpawnError::Stopped);
        }
        let parent = self.base.address();
        let child = NewActor::new(parent.registry(), name, Some(parent), props)?;
        let is_in_group = child.is_in_group();
        let address = child.send()?;
        self.base.add_child(Arc::clone(&address), is_in_group);
        Ok(ActorRef::new(address))
    }

    /// Spawns a pool of actors, which routers send to, as a child.
    ///
    /// # Errors
    /// As [`ActorCx::spawn`].
    pub fn spawn_pool<B: Actor>(
        &mut self,
        name: impl AsRef<str>,
        props: PoolProps<B>,
    ) -> Result<Pool<B>, SpawnError> {
        if self.base.is_stopping() {
            return Err(SpawnError::Stopped);
        }
        let parent = self.base.address();
        let (pool, address) = Pool::spawn(parent.registry(), name.as_ref(), Some(parent), props)?;
        self.base.add_child(address, false);
        Ok(pool)
    }

    /// The children that have not ended, in the order in which they were spawned.
    pub fn children(&self) -> Vec<ActorPath> {
        let children = self.base.children();
        children.map(|child| ActorPath(Arc::clone(child))).collect()
    }

    /// Has [`Actor::terminated`] called, once, when another actor has ended, be it a child or not;
    /// also if it has ended already. What it sent to this one before comes first. Ends with a restart
    /// of this actor.
    pub fn watch<B: Actor>(&mut self, other: &ActorRef<B>) {
        self.base.watch(other.address());
    }

    /// Has nothing called about the end of another actor that has not been told yet.
    pub fn unwatch<B: Actor>(&mut self, other: &ActorRef<B>) {
        self.base.unwatch(other.address());
    }

    /// Has [`Actor::receive_timeout`] called whenever no message was handled for `after`, unless
    /// something [exclusive](ActorCx::exclusive) is waited for. Held to 1 ms at least. Ends with a
    /// restart.
    pub fn set_receive_timeout(&mut self, after: Duration) {
        self.base.set_receive_timeout(self.core, Some(after));
    }

    /// Takes [`ActorCx::set_receive_timeout`] back.
    pub fn cancel_receive_timeout(&mut self) {
        self.base.set_receive_timeout(self.core, None);
    }

    /// The actor's timers.
    pub fn timers(&mut self) -> ActorTimers<'_, A> {
        ActorTimers {
            base: self.base,
            core: self.core,
        }
    }

    /// Sends the actor itself a message, which waits behind those that are there. It needs no place
    /// in the mailbox, as the actor cannot wait for one.
    pub fn tell_myself<M: Send + 'static>(&mut self, message: M)
    where
        A: Receive<M>,
    {
        let to = Arc::clone(self.base.address());
        let told = Told::<A, M>::own(Arc::clone(&to), message);
        to.send(Box::new(told));
    }

    /// A span that names the actor, for logs of the handler.
    pub fn span(&self) -> tracing::Span {
        tracing::info_span!(telemetry::span::RECEIVE, actor = %self.base.address())
    }
}

impl<A: Actor> fmt::Debug for ActorCx<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActorCx")
            .field("path", &format_args!("{}", self.base.address()))
            .finish_non_exhaustive()
    }
}

/// Starts and cancels timers of the actor whose code runs.
///
/// A timer sends a message to its own actor. Timers end when the actor stops or restarts. A timer
/// with the key of a running one replaces it. What a timer has sent and the actor has not handled
/// goes with the timer: once it is cancelled or replaced, nothing of it is handled.
pub struct ActorTimers<'a, A: Actor> {
    base: &'a mut Base<A>,
    core: &'a mut Core,
}

impl<A: Actor> ActorTimers<'_, A> {
    /// Sends `message` once, after `delay`.
    pub fn start_single<M: Send + 'static>(
        &mut self,
        key: impl Into<Cow<'static, str>>,
        delay: Duration,
        message: M,
    ) where
        A: Receive<M>,
    {
        let mut message = Some(message);
        let make = move |to: &Arc<_>| {
            message.take().map(|message| -> Box<dyn Letter<A>> {
                Box::new(Told::<A, M>::own(Arc::clone(to), message))
            })
        };
        self.base
            .start_timer(self.core, key.into(), delay, None, Box::new(make));
    }

    /// Sends `message` every `period`, the first time after one period. A period below a millisecond
    /// counts as one. A time at which the one before still waits to be handled is passed over.
    pub fn start_repeated<M: Clone + Send + 'static>(
        &mut self,
        key: impl Into<Cow<'static, str>>,
        period: Duration,
        message: M,
    ) where
        A: Receive<M>,
    {
        let period = period.max(Duration::from_millis(1));
        let make = move |to: &Arc<_>| -> Option<Box<dyn Letter<A>>> {
            Some(Box::new(Told::<A, M>::own(Arc::clone(to), message.clone())))
        };
        self.base
            .start_timer(self.core, key.into(), period, Some(period), Box::new(make));
    }

    /// Cancels the timer with this key, if there is one.
    pub fn cancel(&mut self, key: impl AsRef<str>) {
        self.base.cancel_timer(self.core, key.as_ref());
    }

    /// Cancels all timers, but not the time-out of a state machine's state.
    pub fn cancel_all(&mut self) {
        self.base.cancel_own_timers(self.core);
    }

    /// Whether there is a timer with this key that has more to send, or sent what is not handled yet.
    pub fn is_active(&self, key: impl AsRef<str>) -> bool {
        self.base.is_timer_active(key.as_ref())
    }
}

impl<A: Actor> fmt::Debug for ActorTimers<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActorTimers").finish_non_exhaustive()
    }
}
