//! References to entities: how commands are sent.

use std::any::TypeId;
use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use perennial_persistence::{CommandId, PersistenceId};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::actor::Recipient;
use crate::call::{Behalf, Call};
use crate::command::{Identity, Repeatable};
use crate::engine::{Address, Admitted, Bounded, Envelope, Input, Look, Registry, Starter};
use crate::entity_status::{EntityStatus, StatusError};
use crate::error::AskError;
use crate::event_sourced::{EventSourced, Handle};
use crate::reply::{self, Receiver, ReplyTo};

/// Reaches one entity, whether it is in memory or not: a command brings it back. Cheap to clone,
/// may be sent to any thread, and stays valid while the entity stops and comes back.
pub struct EntityRef<E> {
    target: Result<Arc<Address>, AskError>,
    entity: PhantomData<fn(E)>,
}

impl<E: EventSourced> EntityRef<E> {
    pub(crate) fn new(address: Arc<Address>) -> Self {
        Self {
            target: Ok(address),
            entity: PhantomData,
        }
    }

    /// The entity with an id within its type. An id that cannot be stored, or a type that the
    /// registry does not know, gives a reference whose asks say so.
    pub(crate) fn find(registry: &Arc<Registry>, entity_id: &str) -> Self {
        Self::find_id(registry, || Ok(PersistenceId::new(E::TYPE, entity_id)?))
    }

    /// The entity with a whole id, which need not begin with its type.
    pub(crate) fn find_id(
        registry: &Arc<Registry>,
        id: impl FnOnce() -> Result<PersistenceId, AskError>,
    ) -> Self {
        let target = registry
            .entity_type(TypeId::of::<E>())
            .ok_or(AskError::NotRegistered {
                entity_type: E::TYPE,
            })
            .and_then(|host| {
                let address = registry.address(host, id()?);
                if address.host() == host {
                    return Ok(address);
                }
                Err(AskError::OtherType {
                    persistence_id: address.persistence_id().clone(),
                    entity_type: registry.entity_type_name(address.host()),
                })
            });
        Self {
            target,
            entity: PhantomData,
        }
    }

    pub(crate) fn address(&self) -> Option<&Arc<Address>> {
        self.target.as_ref().ok()
    }

    /// Its address, or what every ask fails with.
    pub(crate) fn entity_address(&self) -> Result<&Arc<Address>, AskError> {
        self.target.as_ref().map_err(Clone::clone)
    }

    /// The entity's whole id, unless it cannot be stored.
    ///
    /// # Errors
    /// [`AskError::InvalidId`] or [`AskError::NotRegistered`]; every ask fails with the same.
    pub fn persistence_id(&self) -> Result<&PersistenceId, AskError> {
        Ok(self.entity_address()?.persistence_id())
    }

    /// Sends a command and waits for its reply, up to the system's `ask-timeout` or
    /// [`Ask::timeout`]. It is sent when the returned value is awaited.
    ///
    /// # Errors
    /// [`AskError`] says whether the command may have taken effect.
    ///
    /// # Cancel safety
    /// Dropping the future is safe: a command that is not being handled yet will not be; one that
    /// is takes its effect. Dropping the [`Ask`] itself sends nothing.
    pub fn ask<C: Send + 'static>(&self, command: C) -> Ask<E, C>
    where
        E: Handle<C>,
    {
        Ask {
            target: self.target.clone(),
            command,
            timeout: None,
            entity: PhantomData,
        }
    }

    /// Where commands of one type can be sent, whatever takes them.
    pub fn recipient<C: Send + 'static>(&self) -> Recipient<C>
    where
        E: Handle<C>,
    {
        Recipient::of(self.clone())
    }

    /// Sends a command without waiting for a reply. It has no deadline, and nobody is told what
    /// becomes of it.
    ///
    /// # Errors
    /// [`AskError`] if it could not be sent: a full queue, a stopped system, an invalid id.
    pub fn tell<C: Send + 'static>(&self, command: C) -> Result<(), AskError>
    where
        E: Handle<C>,
    {
        let address = match &self.target {
            Ok(address) => address,
            Err(error) => return Err(error.clone()),
        };
        let admitted = address.admit()?;
        Self::dispatch(address, admitted, command);
        Ok(())
    }

    /// As [`EntityRef::tell`], but waits while there is no room.
    ///
    /// # Errors
    /// [`AskError`] if it could not be sent: a stopped system, an invalid id.
    ///
    /// # Cancel safety
    /// Cancel safe: a command whose future is dropped before it is ready was not sent.
    pub async fn send<C: Send + 'static>(&self, command: C) -> Result<(), AskError>
    where
        E: Handle<C>,
    {
        let address = match &self.target {
            Ok(address) => address,
            Err(error) => return Err(error.clone()),
        };
        let admitted = address.admit_in_time().await?;
        Self::dispatch(address, admitted, command);
        Ok(())
    }

    /// Brings the entity back without a command, and waits until it is there. Nothing is handled for
    /// it, and one that is there already answers at once, also while it is busy. It is sent when the
    /// returned value is awaited, waits up to the system's `ask-timeout` or [`Start::timeout`], takes
    /// a place in the entity's mailbox, and counts as use of the entity as a command does.
    ///
    /// ```
    /// # use perennial_core::{ActorSystem, AskError, EventSourced};
    /// # async fn example<Account: EventSourced>(system: &ActorSystem) -> Result<(), AskError> {
    /// // Its next command need not wait for the store.
    /// system.entity::<Account>("4711").start().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`AskError`] says why it is not there: [`AskError::RecoveryFailed`] if it cannot be brought
    /// back, [`AskError::Expired`] if it was not in time.
    ///
    /// # Cancel safety
    /// Dropping the future is safe; the entity may come back all the same.
    pub fn start(&self) -> Start<E> {
        Start {
            target: self.target.clone(),
            timeout: None,
            entity: PhantomData,
        }
    }

    /// How it stands with the entity: on which worker it is, in which phase and since when, how many
    /// commands wait, and what it waits for itself. It is not brought back for this, and it does not
    /// count as use. Its worker is asked in between two turns, and is waited for up to `timeout`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use perennial_core::{ActorSystem, EventSourced};
    /// # async fn example<Account: EventSourced>(system: &ActorSystem) {
    /// // Why is it stuck?
    /// let account = system.entity::<Account>("4711");
    /// match account.status(Duration::from_secs(3)).await {
    ///     Ok(status) => println!("{status}"),
    ///     Err(error) => println!("{error}"),
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StatusError::NoAnswer`] when the worker does not answer in time, with what runs there
    /// instead. [`StatusError::Refused`] for an invalid id, a stopped system, and as busy while
    /// 1,024 such questions are open in the system.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is changed by it.
    pub async fn status(&self, timeout: Duration) -> Result<EntityStatus, StatusError> {
        /// Questions that may be open at once in a system.
        const OPEN: usize = 1024;
        let address = self.entity_address()?;
        let registry = address.registry();
        if !registry.looks().enter(OPEN) {
            let what = "the number of open status questions";
            return Err(registry.busy(address.worker(), what, Bounded::Inbox).into());
        }
        let (reply, receiver) = reply::ask(Duration::ZERO);
        let look = Look::new(Arc::clone(address), reply);
        registry.post(address.worker(), Input::Look(Box::new(look)));
        // Only then: deadlines end with the system, after its workers, and a worker that has ended
        // has refused by now.
        if let Some(deadlines) = registry.deadlines() {
            deadlines.add(timeout, None, receiver.expires());
        }
        match receiver.await {
            Ok(status) => Ok(status),
            Err(AskError::Expired) => Err(StatusError::NoAnswer {
                worker: address.worker(),
                timeout,
                running: registry.running_on(address.worker()),
            }),
            Err(error) => Err(error.into()),
        }
    }

    fn dispatch<C: Send + 'static>(address: &Arc<Address>, admitted: Admitted, command: C)
    where
        E: Handle<C>,
    {
        let to = Arc::clone(address);
        let behalf = Behalf::default();
        let worker = admitted.worker();
        let nobody = ReplyTo::nobody();
        let envelope = Envelope::<E, C>::admitted(to, admitted, command, nobody, None, behalf);
        address.send(worker, Box::new(envelope));
    }
}

impl<E> Clone for EntityRef<E> {
    fn clone(&self) -> Self {
        Self {
            target: self.target.clone(),
            entity: PhantomData,
        }
    }
}

impl<E> fmt::Debug for EntityRef<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Ok(address) => write!(f, "EntityRef({})", address.persistence_id()),
            Err(error) => write!(f, "EntityRef(invalid: {error})"),
        }
    }
}

/// A command about to be asked; await it.
#[must_use = "an ask is sent when it is awaited"]
pub struct Ask<E, C> {
    target: Result<Arc<Address>, AskError>,
    command: C,
    timeout: Option<Duration>,
    entity: PhantomData<fn(E)>,
}

impl<E, C> Ask<E, C> {
    /// Waits this long at the most, instead of the system's `ask-timeout`.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl<E, C> Ask<E, C> {
    /// Gives the command an id, under which it takes effect once however often it is asked: whoever
    /// did not get the answer asks again with the same id and command.
    ///
    /// A command that persists events, or changes a durable state, stores its reply with it. The
    /// same id gets that reply from then on, without another event or change, also after a restart
    /// of the entity, on another node, and after a crash between the commit and the answer; what was
    /// to follow the first time ([`Effect::then_run`]) does not follow again. While the first attempt
    /// is under way, the second one waits for its outcome. A command that persists nothing, such as
    /// one that is refused, stores nothing and is decided anew. The id with another command is an
    /// error ([`AskError::CommandIdReused`]).
    ///
    /// An entity knows its latest ids only: as many as `command-window` says, not older than
    /// `command-window-age` (see [`EntityConfig`]). Entities of which only the state is kept
    /// ([`Durable`]) take no ids where the rows of deleted states are removed
    /// (`durable-state-delete = "row"`, [`AskError::CommandIdRefused`]).
    ///
    /// ```
    /// # use perennial_core::{AskError, Cx, Effect, EntityRef, EventSourced, Handle, Repeatable};
    /// # use perennial_persistence::{CommandId, InvalidCommandId};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Default)] struct Account;
    /// # #[derive(Serialize, Deserialize)] struct Deposited(i64);
    /// # impl EventSourced for Account {
    /// #     const TYPE: &'static str = "Account";
    /// #     type Event = Deposited;
    /// #     type Services = ();
    /// #     fn apply(&mut self, _: &Deposited) {}
    /// # }
    /// #[derive(Serialize)]
    /// struct Deposit(i64);
    ///
    /// impl Repeatable for Deposit {
    ///     const NAME: &'static str = "Deposit";
    /// }
    /// # impl Handle<Deposit> for Account {
    /// #     type Reply = i64;
    /// #     fn handle(&self, command: Deposit, cx: &Cx<'_, Self>) -> Effect<Self, i64> {
    /// #         cx.persist([Deposited(command.0)]).reply(|_| 0)
    /// #     }
    /// # }
    ///
    /// async fn pay(account: &EntityRef<Account>, id: &CommandId) -> Result<i64, AskError> {
    ///     loop {
    ///         match account.ask(Deposit(100)).command_id(id.clone()).await {
    ///             Err(AskError::Unknown { .. }) => {}
    ///             answer => return answer,
    ///         }
    ///     }
    /// }
    /// ```
    ///
    /// [`Effect::then_run`]: crate::Effect::then_run
    /// [`EntityConfig`]: crate::config::EntityConfig
    /// [`Durable`]: crate::Durable
    pub fn command_id(self, command_id: CommandId) -> AskOnce<E, C>
    where
        E: Handle<C, Reply: Serialize + DeserializeOwned>,
        C: Repeatable + Send + 'static,
    {
        AskOnce {
            ask: self,
            command_id,
        }
    }
}

impl<E: Handle<C>, C: Send + 'static> Ask<E, C> {
    /// Sends the command, with what `identify` makes of it.
    fn send(
        self,
        identify: impl FnOnce(&Address, &C) -> Result<Option<Box<Identity<E::Reply>>>, AskError>,
    ) -> Asking<E::Reply> {
        let address = match self.target {
            Ok(address) => address,
            Err(error) => return Asking::refused(error),
        };
        let identity = match identify(&address, &self.command) {
            Ok(identity) => identity,
            Err(error) => return Asking::refused(error),
        };
        let (admitted, behalf, reply, receiver) = match admit(&address, self.timeout) {
            Ok(admitted) => admitted,
            Err(error) => return Asking::refused(error),
        };
        let to = Arc::clone(&address);
        let worker = admitted.worker();
        let command = self.command;
        let envelope = Envelope::<E, C>::admitted(to, admitted, command, reply, identity, behalf);
        address.send(worker, Box::new(envelope));
        Asking::sent(receiver)
    }
}

impl<E: Handle<C>, C: Send + 'static> IntoFuture for Ask<E, C> {
    type Output = Result<E::Reply, AskError>;
    type IntoFuture = Asking<E::Reply>;

    fn into_future(self) -> Asking<E::Reply> {
        self.send(|_, _| Ok(None))
    }
}

impl<E, C> fmt::Debug for Ask<E, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ask")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// An entity about to be brought back; await it. Made by [`EntityRef::start`].
#[must_use = "an entity is started when this is awaited"]
pub struct Start<E> {
    target: Result<Arc<Address>, AskError>,
    timeout: Option<Duration>,
    entity: PhantomData<fn(E)>,
}

impl<E> Start<E> {
    /// Waits this long at the most, instead of the system's `ask-timeout`.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl<E: EventSourced> IntoFuture for Start<E> {
    type Output = Result<(), AskError>;
    type IntoFuture = Asking<()>;

    fn into_future(self) -> Asking<()> {
        let address = match self.target {
            Ok(address) => address,
            Err(error) => return Asking::refused(error),
        };
        let (admitted, behalf, reply, receiver) = match admit(&address, self.timeout) {
            Ok(admitted) => admitted,
            Err(error) => return Asking::refused(error),
        };
        let worker = admitted.worker();
        let starter = Starter::<E>::admitted(Arc::clone(&address), admitted, reply, behalf);
        address.send(worker, Box::new(starter));
        Asking::sent(receiver)
    }
}

impl<E> fmt::Debug for Start<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Start")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Takes a place for an ask, and makes its two ends.
fn admit<R: Send + 'static>(
    address: &Address,
    timeout: Option<Duration>,
) -> Result<(Admitted, Behalf, ReplyTo<R>, Receiver<R>), AskError> {
    let call = Call::current();
    if let Some(call) = &call {
        call.may_ask_entity(address)?;
    }
    let admitted = address.admit()?;
    let registry = address.registry();
    let (reply, receiver) = reply::ask(registry.spin_before_yield());
    let timeout = timeout.unwrap_or(registry.ask_timeout());
    let until = registry
        .deadlines()
        .map(|deadlines| deadlines.add(timeout, call.as_deref(), receiver.expires()));
    Ok((admitted, Behalf { call, until }, reply, receiver))
}

/// A command with an id about to be asked; await it. Made by [`Ask::command_id`].
#[must_use = "an ask is sent when it is awaited"]
pub struct AskOnce<E, C> {
    ask: Ask<E, C>,
    command_id: CommandId,
}

impl<E, C> AskOnce<E, C> {
    /// Waits this long at the most, instead of the system's `ask-timeout`.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.ask = self.ask.timeout(timeout);
        self
    }
}

impl<E, C> IntoFuture for AskOnce<E, C>
where
    E: Handle<C, Reply: Serialize + DeserializeOwned>,
    C: Repeatable + Send + 'static,
{
    type Output = Result<E::Reply, AskError>;
    type IntoFuture = Asking<E::Reply>;

    fn into_future(self) -> Asking<E::Reply> {
        let command_id = self.command_id;
        self.ask.send(|address, command| {
            let refused = |reason: Arc<str>| AskError::CommandIdRefused { reason };
            if !address.registry().takes_command_ids(address.host()) {
                let reason = "the store removes the rows of deleted states, after which their \
                              revisions begin again, so no replies are kept under them; set \
                              `durable-state-delete = \"marker\"`";
                return Err(refused(reason.into()));
            }
            let identity = Identity::new(command_id, command).map_err(refused)?;
            Ok(Some(Box::new(identity)))
        })
    }
}

impl<E, C> fmt::Debug for AskOnce<E, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AskOnce")
            .field("command_id", &self.command_id)
            .field("timeout", &self.ask.timeout)
            .finish_non_exhaustive()
    }
}

/// The future of a reply.
#[must_use = "futures do nothing unless awaited"]
pub struct Asking<R> {
    state: Result<Receiver<R>, Option<AskError>>,
}

impl<R> Asking<R> {
    pub(crate) fn refused(error: AskError) -> Self {
        Self {
            state: Err(Some(error)),
        }
    }

    pub(crate) fn sent(receiver: Receiver<R>) -> Self {
        Self {
            state: Ok(receiver),
        }
    }

    /// The answer, if it is there; for drivers that poll.
    pub fn try_take(&mut self) -> Option<Result<R, AskError>> {
        match &mut self.state {
            Ok(receiver) => receiver.try_take(),
            Err(error) => error.take().map(Err),
        }
    }

    /// Ends the waiting as the deadline does.
    ///
    /// # Errors
    /// [`AskError::Expired`] or [`AskError::Unknown`], unless the answer is there.
    pub fn expire(&mut self) -> Result<R, AskError> {
        match &mut self.state {
            Ok(receiver) => receiver.expire(),
            Err(error) => Err(error.take().unwrap_or(AskError::Stopped)),
        }
    }
}

impl<R> Future for Asking<R> {
    type Output = Result<R, AskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.state {
            Ok(receiver) => Pin::new(receiver).poll(cx),
            Err(error) => {
                let error = error.take().expect("a finished future is not polled again");
                Poll::Ready(Err(error))
            }
        }
    }
}

impl<R> fmt::Debug for Asking<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asking").finish_non_exhaustive()
    }
}
