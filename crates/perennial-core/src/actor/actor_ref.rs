//! References to actors: how messages are sent.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::actor::{Actor, Receive, StopReason, Terminated};
use crate::call::{Behalf, Call, Party, Until};
use crate::engine::Envelope;
use crate::engine::actor::{ActorAddress, Draw, Order, Post, Told, Watcher};
use crate::entity_ref::{Asking, EntityRef};
use crate::error::AskError;
use crate::event_sourced::Handle;
use crate::reply::{self, Receiver, ReplyTo};

/// Reaches one actor. Cheap to clone, may be sent to any thread, and stays valid through restarts
/// of the actor; once it has ended, what is sent is refused as [`AskError::Stopped`].
///
/// An actor does not end with its last reference, unless it was spawned with
/// [`Props::stop_unreferenced`](crate::Props::stop_unreferenced).
pub struct ActorRef<A> {
    address: Arc<ActorAddress>,
    actor: PhantomData<fn(A)>,
}

impl<A: Actor> ActorRef<A> {
    pub(crate) fn new(address: Arc<ActorAddress>) -> Self {
        address.refer();
        Self {
            address,
            actor: PhantomData,
        }
    }

    /// A reference to one that may be about to stop, as nobody else has one.
    pub(crate) fn again(address: Arc<ActorAddress>) -> Option<Self> {
        address.refer_again().then(|| Self {
            address,
            actor: PhantomData,
        })
    }

    pub(crate) fn address(&self) -> &Arc<ActorAddress> {
        &self.address
    }

    /// Where the actor stands: its name behind those of its parents.
    pub fn path(&self) -> ActorPath {
        ActorPath(Arc::clone(&self.address))
    }

    /// Sends a message without waiting for a reply. Nobody is told what becomes of it; one that was
    /// accepted and is not handled, as the actor ends, is a dead letter.
    ///
    /// # Errors
    /// [`AskError::Busy`] when the mailbox or the worker's inbox is full, [`AskError::Stopped`] when
    /// the actor or the system has ended. The message was not sent then.
    pub fn tell<M: Send + 'static>(&self, message: M) -> Result<(), AskError>
    where
        A: Receive<M>,
    {
        self.address.admit()?;
        self.tell_admitted(message);
        Ok(())
    }

    /// As [`ActorRef::tell`], but waits while there is no room.
    ///
    /// # Errors
    /// [`AskError::Stopped`] when the actor or the system has ended.
    ///
    /// # Cancel safety
    /// Cancel safe: a message whose future is dropped before it is ready was not sent.
    pub async fn send<M: Send + 'static>(&self, message: M) -> Result<(), AskError>
    where
        A: Receive<M>,
    {
        self.address.admit_in_time().await?;
        self.tell_admitted(message);
        Ok(())
    }

    /// Sends a message and waits for its reply, up to the system's `ask-timeout` or
    /// [`AskActor::timeout`]. It is sent when the returned value is awaited.
    ///
    /// # Errors
    /// [`AskError`] says whether the message may have been handled.
    ///
    /// # Cancel safety
    /// Dropping the future is safe: a message that is not being handled yet will not be. Dropping
    /// the [`AskActor`] itself sends nothing.
    pub fn ask<M: Send + 'static>(&self, message: M) -> AskActor<A, M>
    where
        A: Receive<M>,
    {
        AskActor {
            target: self.clone(),
            message,
            timeout: None,
        }
    }

    /// Stops the actor once it has handled what was sent to it before, or when it fails to start. Its
    /// children stop with it.
    pub fn stop(&self) {
        self.address.order(Order::StopAfter(StopReason::Stopped));
    }

    /// Stops the actor as soon as it has handled the present message. What waits becomes dead
    /// letters, and whoever asked is told [`AskError::Stopped`].
    pub fn stop_now(&self) {
        self.address.order(Order::Stop(StopReason::Stopped));
    }

    /// Waits until the actor has ended; at once if it has.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn terminated(&self) -> Terminated {
        terminated(&self.address).await
    }

    /// Whether the actor has ended, as far as is known by now.
    pub fn has_ended(&self) -> bool {
        self.address.has_ended()
    }

    /// How many messages wait for it at this moment.
    pub fn queue_depth(&self) -> usize {
        self.address.waiting()
    }

    /// A reference that does not keep an actor from ending that was spawned with
    /// [`Props::stop_unreferenced`](crate::Props::stop_unreferenced).
    pub fn downgrade(&self) -> WeakActorRef<A> {
        WeakActorRef {
            address: Arc::clone(&self.address),
            actor: PhantomData,
        }
    }

    /// Where messages of one type can be sent, whatever the actor is.
    pub fn recipient<M: Send + 'static>(&self) -> Recipient<M>
    where
        A: Receive<M>,
    {
        Recipient::of(self.clone())
    }

    /// Sends a question on behalf of `call`, whose answer is waited for until then.
    pub(crate) fn question<M: Send + 'static>(
        &self,
        message: M,
        call: Arc<Call>,
        until: Option<Until>,
    ) -> Result<Receiver<A::Reply>, AskError>
    where
        A: Receive<M>,
    {
        call.may_ask_actor(&self.address)?;
        self.address.admit()?;
        let (reply, receiver) = reply::ask(Duration::ZERO);
        let call = Some(call);
        self.dispatch(message, reply, Behalf { call, until });
        Ok(receiver)
    }

    /// Sends a message that has a place.
    pub(crate) fn tell_admitted<M: Send + 'static>(&self, message: M)
    where
        A: Receive<M>,
    {
        let told = Told::<A, M>::admitted(Arc::clone(&self.address), message);
        self.address.send(Box::new(told));
    }

    /// Asks a question that has a place, on behalf of `call`.
    pub(crate) fn ask_admitted<M: Send + 'static>(
        &self,
        message: M,
        timeout: Option<Duration>,
        call: Option<Arc<Call>>,
    ) -> Asking<A::Reply>
    where
        A: Receive<M>,
    {
        let registry = self.address.registry();
        let (reply, receiver) = reply::ask(registry.spin_before_yield());
        let timeout = timeout.unwrap_or(registry.ask_timeout());
        let until = registry
            .deadlines()
            .map(|deadlines| deadlines.add(timeout, call.as_deref(), receiver.expires()));
        self.dispatch(message, reply, Behalf { call, until });
        Asking::sent(receiver)
    }

    fn dispatch<M: Send + 'static>(&self, message: M, reply: ReplyTo<A::Reply>, behalf: Behalf)
    where
        A: Receive<M>,
    {
        let to = Arc::clone(&self.address);
        let post = Post::<A, M>::admitted(to, message, reply, behalf);
        self.address.send(Box::new(post));
    }
}

impl<A> Clone for ActorRef<A> {
    fn clone(&self) -> Self {
        self.address.refer();
        Self {
            address: Arc::clone(&self.address),
            actor: PhantomData,
        }
    }
}

impl<A> Drop for ActorRef<A> {
    fn drop(&mut self) {
        self.address.forget();
    }
}

impl<A> PartialEq for ActorRef<A> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.address, &other.address)
    }
}

impl<A> Eq for ActorRef<A> {}

impl<A> fmt::Debug for ActorRef<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ActorRef({})", self.address)
    }
}

/// Refers to an actor without keeping it from ending; see [`ActorRef::downgrade`].
pub struct WeakActorRef<A> {
    address: Arc<ActorAddress>,
    actor: PhantomData<fn(A)>,
}

impl<A: Actor> WeakActorRef<A> {
    /// The reference, unless the actor has ended or is about to, as nobody else has one.
    pub fn upgrade(&self) -> Option<ActorRef<A>> {
        ActorRef::again(Arc::clone(&self.address))
    }

    /// Where the actor stands or stood.
    pub fn path(&self) -> ActorPath {
        ActorPath(Arc::clone(&self.address))
    }

    /// As [`ActorRef::terminated`], without keeping the actor from it.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn terminated(&self) -> Terminated {
        terminated(&self.address).await
    }
}

async fn terminated(address: &Arc<ActorAddress>) -> Terminated {
    let (sender, receiver) = oneshot::channel();
    address.order(Order::Watch(Watcher::Outside(sender)));
    let reason = receiver.await.unwrap_or(StopReason::SystemStopped);
    Terminated {
        path: ActorPath(Arc::clone(address)),
        reason,
    }
}

impl<A> Clone for WeakActorRef<A> {
    fn clone(&self) -> Self {
        Self {
            address: Arc::clone(&self.address),
            actor: PhantomData,
        }
    }
}

impl<A> fmt::Debug for WeakActorRef<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WeakActorRef({})", self.address)
    }
}

/// Where an actor stands, such as `/orders/worker-1`. One without a name is called by a number, such
/// as `/orders/$17`. Two paths are equal if they are of the same actor, and not if another one has
/// its name by now.
#[derive(Clone)]
pub struct ActorPath(pub(crate) Arc<ActorAddress>);

impl PartialEq for ActorPath {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for ActorPath {}

impl std::hash::Hash for ActorPath {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.uid().hash(state);
    }
}

impl fmt::Display for ActorPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ActorPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ActorPath({})", self.0)
    }
}

/// A question about to be asked; await it.
#[must_use = "an ask is sent when it is awaited"]
pub struct AskActor<A, M> {
    target: ActorRef<A>,
    message: M,
    timeout: Option<Duration>,
}

impl<A, M> AskActor<A, M> {
    /// Waits this long at the most, instead of the system's `ask-timeout`. An ask inside of a
    /// [`later`](crate::ActorCx::later) waits no longer than whoever asked first.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl<A: Receive<M>, M: Send + 'static> IntoFuture for AskActor<A, M> {
    type Output = Result<A::Reply, AskError>;
    type IntoFuture = Asking<A::Reply>;

    fn into_future(self) -> Asking<A::Reply> {
        let call = Call::current();
        let address = &self.target.address;
        if let Some(call) = &call
            && let Err(error) = call.may_ask_actor(address)
        {
            return Asking::refused(error);
        }
        if let Err(error) = address.admit() {
            return Asking::refused(error);
        }
        self.target.ask_admitted(self.message, self.timeout, call)
    }
}

impl<A, M> fmt::Debug for AskActor<A, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AskActor")
            .field("target", &self.target)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Where messages of one type can be sent, whether an actor or an entity takes
/// them.
pub struct Recipient<M> {
    target: Arc<dyn Takes<M>>,
}

/// Whatever messages of a type can be told to.
pub(crate) trait Takes<M>: Send + Sync {
    fn take(&self, message: M) -> Result<(), AskError>;

    /// Takes a message that is kept elsewhere until it is handled. It needs no place in a mailbox,
    /// and is dropped if it cannot be delivered.
    ///
    /// # Errors
    /// When there is no room: of one who cannot leave the message where it is.
    fn take_kept(&self, message: Box<dyn Draw<M>>) -> Result<(), AskError>;

    /// Which actor or entity it is, if it is a single one.
    ///
    /// # Errors
    /// That of a reference whose every message is refused.
    fn party(&self) -> Result<Option<Party>, AskError>;

    fn describe(&self) -> String;

    /// Whether it is known to have ended.
    fn has_ended(&self) -> bool;

    /// Where it is, as a number that two have in common if they are the same; none if it is nowhere.
    fn place(&self) -> Option<usize>;
}

impl<M> Recipient<M> {
    pub(crate) fn of(target: impl Takes<M> + 'static) -> Self {
        Self {
            target: Arc::new(target),
        }
    }

    /// As [`ActorRef::tell`].
    ///
    /// # Errors
    /// As [`ActorRef::tell`].
    pub fn tell(&self, message: M) -> Result<(), AskError> {
        self.target.take(message)
    }

    /// Sends a message that is kept elsewhere until it is handled.
    ///
    /// # Errors
    /// As [`Takes::take_kept`].
    pub(crate) fn tell_kept(&self, message: Box<dyn Draw<M>>) -> Result<(), AskError> {
        self.target.take_kept(message)
    }

    /// As [`Takes::party`].
    pub(crate) fn party(&self) -> Result<Option<Party>, AskError> {
        self.target.party()
    }

    pub(crate) fn describe(&self) -> String {
        self.target.describe()
    }
}

impl<A: Receive<M>, M: Send + 'static> From<ActorRef<A>> for Recipient<M> {
    fn from(actor: ActorRef<A>) -> Self {
        Self::of(actor)
    }
}

impl<A: Receive<M>, M: Send + 'static> From<&ActorRef<A>> for Recipient<M> {
    fn from(actor: &ActorRef<A>) -> Self {
        Self::of(actor.clone())
    }
}

impl<E: Handle<C>, C: Send + 'static> From<EntityRef<E>> for Recipient<C> {
    fn from(entity: EntityRef<E>) -> Self {
        Self::of(entity)
    }
}

impl<E: Handle<C>, C: Send + 'static> From<&EntityRef<E>> for Recipient<C> {
    fn from(entity: &EntityRef<E>) -> Self {
        Self::of(entity.clone())
    }
}

impl<M> Recipient<M> {
    /// Whether the actor behind it has ended, as far as is known by now. An entity never does.
    pub fn has_ended(&self) -> bool {
        self.target.has_ended()
    }
}

/// Two are equal if they reach the same actor or entity.
impl<M> PartialEq for Recipient<M> {
    fn eq(&self, other: &Self) -> bool {
        let place = self.target.place();
        place.is_some() && place == other.target.place()
    }
}

impl<M> Clone for Recipient<M> {
    fn clone(&self) -> Self {
        Self {
            target: Arc::clone(&self.target),
        }
    }
}

impl<M> fmt::Debug for Recipient<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({})", self.target.describe())
    }
}

impl<A: Receive<M>, M: Send + 'static> Takes<M> for ActorRef<A> {
    fn take(&self, message: M) -> Result<(), AskError> {
        self.tell(message)
    }

    fn take_kept(&self, message: Box<dyn Draw<M>>) -> Result<(), AskError> {
        let to = Arc::clone(&self.address);
        self.address.send(Box::new(Post::<A, M>::kept(to, message)));
        Ok(())
    }

    fn party(&self) -> Result<Option<Party>, AskError> {
        Ok(Some(Party::Actor(Arc::clone(&self.address))))
    }

    fn describe(&self) -> String {
        self.address.to_string()
    }

    fn has_ended(&self) -> bool {
        self.address.has_ended()
    }

    fn place(&self) -> Option<usize> {
        Some(Arc::as_ptr(&self.address).addr())
    }
}

impl<E: Handle<C>, C: Send + 'static> Takes<C> for EntityRef<E> {
    fn take(&self, command: C) -> Result<(), AskError> {
        self.tell(command)
    }

    fn take_kept(&self, command: Box<dyn Draw<C>>) -> Result<(), AskError> {
        let address = self.entity_address()?;
        let to = Arc::clone(address);
        address.send_uncounted(Box::new(Envelope::<E, C>::kept(to, command)));
        Ok(())
    }

    fn party(&self) -> Result<Option<Party>, AskError> {
        self.entity_address()
            .map(|address| Some(Party::Entity(Arc::clone(address))))
    }

    fn describe(&self) -> String {
        format!("{self:?}")
    }

    fn has_ended(&self) -> bool {
        false
    }

    fn place(&self) -> Option<usize> {
        self.address().map(|address| Arc::as_ptr(address).addr())
    }
}
