//! Actors of actix and ours, talking to each other.
//!
//! ```
//! use perennial_core::actix_interop::actix;
//! use actix::prelude::*;
//! use perennial_core::config::ConfigSource;
//! use perennial_core::{ActorCx, ActorSystem, AskError, Receive, Received};
//!
//! /// One of ours, which counts.
//! #[derive(Default)]
//! struct Counter(u64);
//!
//! impl perennial_core::Actor for Counter {}
//!
//! /// To actix the result of a message for ours is what an ask of it gives.
//! struct Add(u64);
//!
//! impl Message for Add {
//!     type Result = Result<u64, AskError>;
//! }
//!
//! impl Receive<Add> for Counter {
//!     type Reply = u64;
//!
//!     fn receive(&mut self, add: Add, cx: &mut ActorCx<'_, Self>) -> Received<Self, u64> {
//!         self.0 += add.0;
//!         cx.reply(self.0)
//!     }
//! }
//!
//! /// One of actix', which has work counted.
//! struct Clerk(Recipient<Add>);
//!
//! impl Actor for Clerk {
//!     type Context = Context<Self>;
//! }
//!
//! #[derive(Message)]
//! #[rtype(result = "u64")]
//! struct Work(u64);
//!
//! impl Handler<Work> for Clerk {
//!     type Result = ResponseFuture<u64>;
//!
//!     fn handle(&mut self, work: Work, _: &mut Context<Self>) -> Self::Result {
//!         let counted = self.0.send(Add(work.0));
//!         Box::pin(async move {
//!             match counted.await {
//!                 Ok(Ok(total)) => total,
//!                 other => panic!("{other:?}"),
//!             }
//!         })
//!     }
//! }
//!
//! # actix::System::new().block_on(async {
//! let system = ActorSystem::in_memory(ConfigSource::empty()).start().await?;
//! let counter = system.spawn("counter", Counter::default)?;
//! let clerk = Clerk(counter.actix_recipient()?).start();
//! assert_eq!(clerk.send(Work(2)).await?, 2);
//! // And from our side:
//! let clerk = system.actix(clerk.recipient::<Work>());
//! assert_eq!(clerk.ask(Work(3)).await?, 5);
//! system.shutdown().await?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use actix;
use actix::dev::SendError;
use actix::{Context, Handler, MailboxError, ResponseFuture};
use tokio::runtime::Handle as Runtime;

use crate::actor::{Actor, ActorRef, Receive, Recipient, Takes};
use crate::call::{Call, Party};
use crate::engine::actor::Draw;
use crate::engine::{Bound, Registry, busy};
use crate::entity_ref::{Asking, EntityRef};
use crate::error::AskError;
use crate::event_sourced::{EventSourced, Handle as Handles};
use crate::reply;
use crate::system::ActorSystem;

// ---- ours, as actix sees them ----

impl<A: Actor> ActorRef<A> {
    /// The actor as actix sees it. `send` asks it, with the system's `ask-timeout`; `try_send` and
    /// `do_send` ask it as well, and drop the answer, so a message that is not begun in that time
    /// is not handled. Messages of one sender keep their order.
    ///
    /// An actix actor stands in between, on the arbiter of this thread. It ends with the last clone of
    /// the recipient, and hands on what it gets at once, so only our bounds hold up messages: what
    /// they refuse is [`AskError::Busy`].
    ///
    /// # Errors
    /// [`NoArbiter`] outside of an actix system.
    pub fn actix_recipient<M>(&self) -> Result<actix::Recipient<M>, NoArbiter>
    where
        A: Receive<M>,
        M: actix::Message<Result = Result<<A as Receive<M>>::Reply, AskError>> + Send + 'static,
    {
        bridge(Asks(self.clone()))
    }

    /// As [`ActorRef::actix_recipient`], for messages that are only told: the result says whether
    /// they were sent, and they do not expire.
    ///
    /// # Errors
    /// [`NoArbiter`] outside of an actix system.
    pub fn actix_tell_recipient<M>(&self) -> Result<actix::Recipient<M>, NoArbiter>
    where
        A: Receive<M>,
        M: actix::Message<Result = Result<(), AskError>> + Send + 'static,
    {
        bridge(Tells(self.clone()))
    }
}

impl<E: EventSourced> EntityRef<E> {
    /// The entity as actix sees it; as [`ActorRef::actix_recipient`].
    ///
    /// # Errors
    /// [`NoArbiter`] outside of an actix system.
    pub fn actix_recipient<C>(&self) -> Result<actix::Recipient<C>, NoArbiter>
    where
        E: Handles<C>,
        C: actix::Message<Result = Result<<E as Handles<C>>::Reply, AskError>> + Send + 'static,
    {
        bridge(Asks(self.clone()))
    }

    /// As [`ActorRef::actix_tell_recipient`].
    ///
    /// # Errors
    /// [`NoArbiter`] outside of an actix system.
    pub fn actix_tell_recipient<C>(&self) -> Result<actix::Recipient<C>, NoArbiter>
    where
        E: Handles<C>,
        C: actix::Message<Result = Result<(), AskError>> + Send + 'static,
    {
        bridge(Tells(self.clone()))
    }
}

/// There is no actix system to stand on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this thread has no actix arbiter; call it inside of an actix system")]
#[non_exhaustive]
pub struct NoArbiter;

/// Starts what hands messages on to one of ours.
fn bridge<T, M>(bridge: T) -> Result<actix::Recipient<M>, NoArbiter>
where
    T: actix::Actor<Context = Context<T>> + Handler<M> + Send,
    M: actix::Message + Send + 'static,
    M::Result: Send,
{
    let arbiter = actix::Arbiter::try_current().ok_or(NoArbiter)?;
    Ok(T::start_in_arbiter(&arbiter, |_| bridge).recipient())
}

/// Hands messages on as asks.
struct Asks<T>(T);

impl<T: Unpin + 'static> actix::Actor for Asks<T> {
    type Context = Context<Self>;
}

impl<A, M> Handler<M> for Asks<ActorRef<A>>
where
    A: Receive<M>,
    M: actix::Message<Result = Result<<A as Receive<M>>::Reply, AskError>> + Send + 'static,
{
    type Result = ResponseFuture<M::Result>;

    fn handle(&mut self, message: M, _: &mut Self::Context) -> Self::Result {
        // It is sent here, so messages keep their order.
        Box::pin(self.0.ask(message).into_future())
    }
}

impl<E, C> Handler<C> for Asks<EntityRef<E>>
where
    E: Handles<C>,
    C: actix::Message<Result = Result<<E as Handles<C>>::Reply, AskError>> + Send + 'static,
{
    type Result = ResponseFuture<C::Result>;

    fn handle(&mut self, command: C, _: &mut Self::Context) -> Self::Result {
        Box::pin(self.0.ask(command).into_future())
    }
}

/// Hands messages on as tells.
struct Tells<T>(T);

impl<T: Unpin + 'static> actix::Actor for Tells<T> {
    type Context = Context<Self>;
}

impl<T, M> Handler<M> for Tells<T>
where
    T: Takes<M> + Unpin + 'static,
    M: actix::Message<Result = Result<(), AskError>> + Send + 'static,
{
    type Result = Result<(), AskError>;

    fn handle(&mut self, message: M, _: &mut Self::Context) -> Self::Result {
        self.0.take(message)
    }
}

// ---- actix', as ours see them ----

impl ActorSystem {
    /// An actix actor, as the system's actors and entities see it. Give it an `actix::Recipient`, or
    /// an `actix::Addr` as `addr.recipient::<M>()`.
    pub fn actix<M>(&self, recipient: actix::Recipient<M>) -> ActixRef<M>
    where
        M: actix::Message + Send + 'static,
        M::Result: Send,
    {
        ActixRef {
            recipient,
            registry: Arc::clone(self.registry()),
            runtime: self.task_runtime().clone(),
            asks: Arc::default(),
            most: ActixRef::<M>::MOST_ASKS,
        }
    }
}

/// What an actix actor has to do is full.
const MAILBOX: &str = "the actix actor's mailbox";
/// Too much is asked of it.
const OPEN_ASKS: &str = "the number of open asks of the actix actor";

/// Reaches an actix actor from ours, with our errors and deadlines. Cheap to clone, and may be sent to
/// any thread. Made by [`ActorSystem::actix`].
pub struct ActixRef<M>
where
    M: actix::Message + Send,
    M::Result: Send,
{
    recipient: actix::Recipient<M>,
    registry: Arc<Registry>,
    /// Where answers are waited for.
    runtime: Runtime,
    /// Asks that have no answer yet, of all clones.
    asks: Arc<Bound>,
    most: usize,
}

impl<M> ActixRef<M>
where
    M: actix::Message + Send + 'static,
    M::Result: Send + 'static,
{
    /// How many asks may be open at once, unless [`ActixRef::most_asks`] says otherwise.
    pub const MOST_ASKS: usize = 1024;

    /// Lets so many asks of this reference and its clones be open at once; one more is refused as
    /// [`AskError::Busy`]. Actix itself has no bound on what waits for room in a mailbox.
    #[must_use]
    pub fn most_asks(mut self, asks: usize) -> Self {
        self.most = asks;
        self
    }

    /// Sends a message without waiting for a reply.
    ///
    /// # Errors
    /// [`AskError::Busy`] when the actor's mailbox is full, [`AskError::Stopped`] when it has ended.
    pub fn tell(&self, message: M) -> Result<(), AskError> {
        self.recipient.take(message)
    }

    /// Sends a message and waits for its result, up to the system's `ask-timeout` or
    /// [`AskActix::timeout`]. While the mailbox is full it waits for room, for as long. It is sent
    /// when the returned value is awaited.
    ///
    /// # Errors
    /// [`AskError::Stopped`] when the actor or the system has ended before; [`AskError::Busy`] when there are too
    /// many asks; [`AskError::Unknown`] when the time ran out, or the actor ended first: actix does
    /// not tell whether it was handled. Once the time has run out it is not handled any more if it
    /// was not begun.
    ///
    /// # Cancel safety
    /// Dropping the future is safe: the message goes on.
    pub fn ask(&self, message: M) -> AskActix<M> {
        AskActix {
            target: self.clone(),
            message,
            timeout: None,
        }
    }

    /// Where messages of this type can be sent, whatever takes them.
    pub fn recipient(&self) -> Recipient<M> {
        Recipient::from(self.recipient.clone())
    }

    /// Whether the actor has not ended.
    pub fn is_connected(&self) -> bool {
        self.recipient.connected()
    }
}

impl<M> Clone for ActixRef<M>
where
    M: actix::Message + Send,
    M::Result: Send,
{
    fn clone(&self) -> Self {
        Self {
            recipient: self.recipient.clone(),
            registry: Arc::clone(&self.registry),
            runtime: self.runtime.clone(),
            asks: Arc::clone(&self.asks),
            most: self.most,
        }
    }
}

impl<M> fmt::Debug for ActixRef<M>
where
    M: actix::Message + Send,
    M::Result: Send,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActixRef")
            .field("message", &std::any::type_name::<M>())
            .field("asks", &self.asks)
            .finish_non_exhaustive()
    }
}

/// An ask of an actix actor that is about to be asked; await it.
#[must_use = "an ask is sent when it is awaited"]
pub struct AskActix<M>
where
    M: actix::Message + Send,
    M::Result: Send,
{
    target: ActixRef<M>,
    message: M,
    timeout: Option<Duration>,
}

impl<M> AskActix<M>
where
    M: actix::Message + Send,
    M::Result: Send,
{
    /// Waits this long at the most, instead of the system's `ask-timeout`.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl<M> IntoFuture for AskActix<M>
where
    M: actix::Message + Send + 'static,
    M::Result: Send + 'static,
{
    type Output = Result<M::Result, AskError>;
    type IntoFuture = Asking<M::Result>;

    fn into_future(self) -> Asking<M::Result> {
        let ActixRef {
            recipient,
            registry,
            runtime,
            asks,
            most,
        } = self.target;
        if !recipient.connected() || registry.is_closed() {
            return Asking::refused(AskError::Stopped);
        }
        if !asks.enter(most) {
            return Asking::refused(busy(OPEN_ASKS));
        }
        let place = Place(asks);
        let timeout = self.timeout.unwrap_or(registry.ask_timeout());
        let (mut reply, receiver) = reply::ask(registry.spin_before_yield());
        // Whether actix has begun with it nobody can tell.
        reply.claim();
        if let Some(deadlines) = registry.deadlines() {
            deadlines.add(timeout, Call::current().as_deref(), receiver.expires());
        }
        // It is sent here, so messages keep their order.
        let request = recipient.send(self.message);
        runtime.spawn(async move {
            // When the time is up, one that actix has not begun is withdrawn.
            let result = tokio::time::timeout(timeout, request).await;
            // Whoever gets the answer may come back at once.
            drop(place);
            reply.complete(match result {
                Ok(Ok(result)) => Ok(result),
                Ok(Err(MailboxError::Closed)) => Err(AskError::Unknown {
                    reason: "the actix actor ended before it answered",
                }),
                Ok(Err(MailboxError::Timeout)) | Err(_) => Err(AskError::Unknown {
                    reason: "the time ran out before the actix actor answered",
                }),
            });
        });
        Asking::sent(receiver)
    }
}

/// One of the asks that may be open.
struct Place(Arc<Bound>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.leave(1);
    }
}

impl<M> fmt::Debug for AskActix<M>
where
    M: actix::Message + Send,
    M::Result: Send,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AskActix")
            .field("target", &self.target)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl<M> From<actix::Recipient<M>> for Recipient<M>
where
    M: actix::Message + Send + 'static,
    M::Result: Send,
{
    fn from(recipient: actix::Recipient<M>) -> Self {
        Self::of(recipient)
    }
}

impl<A, M> From<actix::Addr<A>> for Recipient<M>
where
    A: actix::Actor<Context = Context<A>> + Handler<M>,
    M: actix::Message + Send + 'static,
    M::Result: Send,
{
    fn from(address: actix::Addr<A>) -> Self {
        Self::of(address.recipient())
    }
}

impl<M> Takes<M> for actix::Recipient<M>
where
    M: actix::Message + Send + 'static,
    M::Result: Send,
{
    fn take(&self, message: M) -> Result<(), AskError> {
        self.try_send(message).map_err(|error| match error {
            SendError::Full(_) => busy(MAILBOX),
            SendError::Closed(_) => AskError::Stopped,
        })
    }

    fn take_kept(&self, message: Box<dyn Draw<M>>) -> Result<(), AskError> {
        // actix takes messages only; one that is full drops what was drawn for it.
        match message.draw() {
            Some(message) => self.take(message),
            None => Ok(()),
        }
    }

    fn party(&self) -> Result<Option<Party>, AskError> {
        Ok(None)
    }

    fn describe(&self) -> String {
        format!("an actix actor that takes {}", std::any::type_name::<M>())
    }

    fn has_ended(&self) -> bool {
        !self.connected()
    }

    fn place(&self) -> Option<usize> {
        // actix does not tell of two whether they are the same.
        None
    }
}
