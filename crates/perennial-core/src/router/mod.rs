//! Routers: one reference in front of many actors of a type.
//!
//! A router is a handle on a list of routees, which a pool spawns itself and a group finds at the
//! receptionist. It is no actor: whoever sends chooses the routee on its own thread and sends to it
//! directly, so no mailbox stands in the way of all messages.
//!
//! Whoever sends holds the list while it chooses and takes a place in a mailbox. So once a routee is
//! off the list, everything that was sent to it through a router is counted among what waits for it,
//! and a pool lets it go when that is handled.

mod pool;
mod strategy;

use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use futures_util::future::select_all;

use crate::actor::{Actor, ActorRef, Receive, Recipient, Takes};
use crate::call::{Call, Party};
use crate::engine::actor::{ActorAddress, Draw};
use crate::engine::busy;
use crate::entity_ref::Asking;
use crate::error::{AskError, NO_ROUTEE};

pub use pool::{Pool, PoolProps};
pub(crate) use strategy::hash;
pub use strategy::{ConsistentHash, LeastLoaded, RoundRobin, Routing, RoutingKey};

/// Sends each message to one of several actors. Cheap to clone, may be sent to any thread. Made by a
/// [`Pool`] or a [`Group`](crate::Group); `S` says how the actor is chosen: [`RoundRobin`],
/// [`LeastLoaded`] or [`ConsistentHash`].
///
/// When the mailbox of the chosen one is full, the next one is tried, and the message is refused as
/// [`AskError::Busy`] if all are full. With [`ConsistentHash`] the message is refused at once, as it
/// belongs to that one. Actors that have ended are passed over.
///
/// Messages of one sender that go to the same actor are handled in their order; between different
/// actors there is none.
pub struct Router<A, S> {
    source: Arc<dyn Source>,
    strategy: S,
    actor: PhantomData<fn(A)>,
}

impl<A: Actor, S> Router<A, S> {
    pub(crate) fn new(source: Arc<dyn Source>, strategy: S) -> Self {
        Self {
            source,
            strategy,
            actor: PhantomData,
        }
    }

    /// As [`ActorRef::tell`], to one of the routees.
    ///
    /// # Errors
    /// [`AskError::Busy`] when there is no room, or nobody to send to at the moment;
    /// [`AskError::Stopped`] when the pool or the system has ended. The message was not sent then.
    pub fn tell<M: Send + 'static>(&self, message: M) -> Result<(), AskError>
    where
        A: Receive<M>,
        S: Routing<M>,
    {
        let routee = self.admitted(&message, ActorAddress::admit)?;
        self.actor(routee).tell_admitted(message);
        Ok(())
    }

    /// As [`Router::tell`], but waits while there is no room: with [`ConsistentHash`] at the chosen
    /// routee, otherwise until one of them has room.
    ///
    /// # Errors
    /// As [`Router::tell`]; [`AskError::Busy`] only if there is nobody to send to.
    ///
    /// # Cancel safety
    /// Cancel safe: a message whose future is dropped before it is ready was not sent.
    pub async fn send<M: Send + 'static>(&self, message: M) -> Result<(), AskError>
    where
        A: Receive<M>,
        S: Routing<M>,
    {
        let routee = loop {
            let full = match self.admitted(&message, ActorAddress::admit) {
                Ok(routee) => break routee,
                Err(AskError::Busy { what, .. }) if what != NO_ROUTEE => self.wanted(&message),
                Err(error) => return Err(error),
            };
            if full.is_empty() {
                continue;
            }
            let waits = full.into_iter().map(|address| {
                Box::pin(async move {
                    address.admit_in_time().await?;
                    Ok::<_, AskError>(address)
                })
            });
            // One that has ended is not among the next ones.
            if let (Ok(address), ..) = select_all(waits).await {
                if self.source.routees().has(&address) {
                    break address;
                }
                address.leave(1);
            }
        };
        self.actor(routee).tell_admitted(message);
        Ok(())
    }

    /// As [`ActorRef::ask`], to one of the routees.
    ///
    /// # Errors
    /// As [`ActorRef::ask`], and as [`Router::tell`].
    ///
    /// # Cancel safety
    /// As [`ActorRef::ask`].
    pub fn ask<M: Send + 'static>(&self, message: M) -> AskRouter<A, S, M>
    where
        A: Receive<M>,
        S: Routing<M>,
    {
        AskRouter {
            router: self.clone(),
            message,
            timeout: None,
        }
    }

    /// The routee that a message would go to now, whether it has room or not; for
    /// [`ActorCx::ask`](crate::ActorCx::ask).
    ///
    /// # Errors
    /// As [`Router::tell`], except that nothing is said of room.
    pub fn choose<M: Send + 'static>(&self, message: &M) -> Result<ActorRef<A>, AskError>
    where
        A: Receive<M>,
        S: Routing<M>,
    {
        let is_there = |address: &ActorAddress| match address.has_ended() {
            true => Err(AskError::Stopped),
            false => Ok(()),
        };
        Ok(self.actor(self.admitted(message, is_there)?))
    }

    /// The actors that messages may go to at this moment.
    pub fn routees(&self) -> Vec<ActorRef<A>> {
        self.source.routees().actors()
    }

    /// Where messages of one type can be sent. As a subscriber of a [`Topic`](crate::Topic) it has the
    /// mailboxes of its routees as its backlog: when there is no room, the message is lost to it.
    pub fn recipient<M: Send + 'static>(&self) -> Recipient<M>
    where
        A: Receive<M>,
        S: Routing<M>,
    {
        Recipient::of(self.clone())
    }

    /// The first routee in the strategy's order that `admit` accepts.
    fn admitted<M>(
        &self,
        message: &M,
        mut admit: impl FnMut(&ActorAddress) -> Result<(), AskError>,
    ) -> Result<Arc<ActorAddress>, AskError>
    where
        S: Routing<M>,
    {
        let routees = self.source.routees();
        let list = routees.list();
        let mut refused = None;
        let mut choice = self.strategy.choice(message, &list, routees.turn());
        while let Some(routee) = choice.next(&list) {
            match admit(&routee.address) {
                Ok(()) => return Ok(Arc::clone(&routee.address)),
                // One that has ended is as good as not there.
                Err(AskError::Stopped) => {}
                Err(error) => {
                    refused.get_or_insert(error);
                    if choice.is_bound() {
                        break;
                    }
                }
            }
        }
        Err(refused.unwrap_or_else(|| self.source.nobody()))
    }

    /// Those that have no room and that a message may wait for.
    fn wanted<M>(&self, message: &M) -> Vec<Arc<ActorAddress>>
    where
        S: Routing<M>,
    {
        let routees = self.source.routees();
        let list = routees.list();
        let mut choice = self.strategy.choice(message, &list, routees.turn());
        let mut wanted = Vec::new();
        while let Some(routee) = choice.next(&list) {
            if routee.address.has_ended() {
                continue;
            }
            wanted.push(Arc::clone(&routee.address));
            if choice.is_bound() {
                break;
            }
        }
        wanted
    }

    fn actor(&self, address: Arc<ActorAddress>) -> ActorRef<A> {
        ActorRef::new(address)
    }
}

impl<A, S: Clone> Clone for Router<A, S> {
    fn clone(&self) -> Self {
        Self {
            source: Arc::clone(&self.source),
            strategy: self.strategy.clone(),
            actor: PhantomData,
        }
    }
}

impl<A, S: fmt::Debug> fmt::Debug for Router<A, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router")
            .field("strategy", &self.strategy)
            .field("routees", &self.source.routees().list().len())
            .finish_non_exhaustive()
    }
}

impl<A: Receive<M>, S: Routing<M>, M: Send + 'static> Takes<M> for Router<A, S> {
    fn take(&self, message: M) -> Result<(), AskError> {
        self.tell(message)
    }

    fn take_kept(&self, message: Box<dyn Draw<M>>) -> Result<(), AskError> {
        // Which routee it is for may stand in the message.
        match message.draw() {
            Some(message) => self.tell(message),
            None => Ok(()),
        }
    }

    fn party(&self) -> Result<Option<Party>, AskError> {
        Ok(None)
    }

    fn describe(&self) -> String {
        self.source.describe()
    }

    fn has_ended(&self) -> bool {
        // Its routees may, and others take their place.
        false
    }

    fn place(&self) -> Option<usize> {
        None
    }
}

/// A question to a router about to be asked; await it.
#[must_use = "an ask is sent when it is awaited"]
pub struct AskRouter<A, S, M> {
    router: Router<A, S>,
    message: M,
    timeout: Option<Duration>,
}

impl<A, S, M> AskRouter<A, S, M> {
    /// As [`AskActor::timeout`](crate::AskActor::timeout).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl<A: Receive<M>, S: Routing<M>, M: Send + 'static> IntoFuture for AskRouter<A, S, M> {
    type Output = Result<A::Reply, AskError>;
    type IntoFuture = Asking<A::Reply>;

    fn into_future(self) -> Asking<A::Reply> {
        let call = Call::current();
        let admit = |address: &ActorAddress| {
            if let Some(call) = &call {
                call.may_ask_actor(address)?;
            }
            address.admit()
        };
        match self.router.admitted(&self.message, admit) {
            Ok(routee) => {
                let routee = self.router.actor(routee);
                routee.ask_admitted(self.message, self.timeout, call)
            }
            Err(error) => Asking::refused(error),
        }
    }
}

impl<A, S: fmt::Debug, M> fmt::Debug for AskRouter<A, S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AskRouter")
            .field("router", &self.router)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Sends each message to all of several actors. Cheap to clone, may be sent to any thread. Made by a
/// [`Pool`] or a [`Group`](crate::Group).
///
/// A message reaches all routees, or none if one of them has no room. Actors that have ended are
/// passed over.
pub struct Broadcast<A> {
    source: Arc<dyn Source>,
    actor: PhantomData<fn(A)>,
}

impl<A: Actor> Broadcast<A> {
    pub(crate) fn new(source: Arc<dyn Source>) -> Self {
        Self {
            source,
            actor: PhantomData,
        }
    }

    /// As [`ActorRef::tell`], to all routees.
    ///
    /// # Errors
    /// [`AskError::Busy`] when one of them has no room, or there is nobody at the moment;
    /// [`AskError::Stopped`] when the pool or the system has ended. The message was sent to nobody
    /// then.
    pub fn tell<M: Clone + Send + 'static>(&self, message: M) -> Result<(), AskError>
    where
        A: Receive<M>,
    {
        let mut admitted = Admitted::default();
        {
            let list = self.source.routees().list();
            for routee in list.iter() {
                match routee.address.admit() {
                    Ok(()) => admitted.0.push(Arc::clone(&routee.address)),
                    Err(AskError::Stopped) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        self.tell_all(admitted, message)
    }

    /// As [`Broadcast::tell`], but waits while one of the routees has no room.
    ///
    /// # Errors
    /// As [`Broadcast::tell`]; [`AskError::Busy`] only if there is nobody to send to.
    ///
    /// # Cancel safety
    /// Cancel safe: a message whose future is dropped before it is ready reaches nobody.
    pub async fn send<M: Clone + Send + 'static>(&self, message: M) -> Result<(), AskError>
    where
        A: Receive<M>,
    {
        let addresses: Vec<_> = {
            let list = self.source.routees().list();
            list.iter()
                .map(|routee| Arc::clone(&routee.address))
                .collect()
        };
        let mut admitted = Admitted::default();
        for address in addresses {
            if address.admit_in_time().await.is_ok() {
                admitted.0.push(address);
            }
        }
        // Those that were taken off meanwhile have been told to end.
        let routees = self.source.routees();
        let (there, gone) = std::mem::take(&mut admitted.0)
            .into_iter()
            .partition(|address| routees.has(address));
        drop(Admitted(gone));
        self.tell_all(Admitted(there), message)
    }

    /// The actors that messages go to at this moment.
    pub fn routees(&self) -> Vec<ActorRef<A>> {
        self.source.routees().actors()
    }

    fn tell_all<M: Clone + Send + 'static>(
        &self,
        mut admitted: Admitted,
        message: M,
    ) -> Result<(), AskError>
    where
        A: Receive<M>,
    {
        let Some(last) = admitted.0.pop() else {
            return Err(self.source.nobody());
        };
        // Places are kept until their message has them: a clone may panic.
        let mut last = Admitted(vec![last]);
        while !admitted.0.is_empty() {
            let message = message.clone();
            if let Some(address) = admitted.0.pop() {
                ActorRef::<A>::new(address).tell_admitted(message);
            }
        }
        if let Some(address) = last.0.pop() {
            ActorRef::<A>::new(address).tell_admitted(message);
        }
        Ok(())
    }
}

impl<A> Clone for Broadcast<A> {
    fn clone(&self) -> Self {
        Self {
            source: Arc::clone(&self.source),
            actor: PhantomData,
        }
    }
}

impl<A> fmt::Debug for Broadcast<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broadcast")
            .field("routees", &self.source.routees().list().len())
            .finish_non_exhaustive()
    }
}

/// Places that were taken at actors, given back unless messages get them.
#[derive(Default)]
struct Admitted(Vec<Arc<ActorAddress>>);

impl Drop for Admitted {
    fn drop(&mut self) {
        for address in &self.0 {
            address.leave(1);
        }
    }
}

/// Where a router has its routees from.
pub(crate) trait Source: Send + Sync {
    fn routees(&self) -> &Routees;

    /// What a sender is told when there is none.
    fn nobody(&self) -> AskError;

    fn describe(&self) -> String;
}

/// What a sender is told while there is nobody to send to.
pub(crate) fn nobody() -> AskError {
    busy(NO_ROUTEE)
}

/// The actors that a router sends to.
#[derive(Default)]
pub(crate) struct Routees {
    list: RwLock<Box<[Routee]>>,
    /// Whose turn it is.
    turn: AtomicUsize,
}

/// An actor that a router may send to.
#[derive(Debug, Clone)]
pub struct Routee {
    pub(crate) address: Arc<ActorAddress>,
    /// What it is known by to a consistent hash, whichever actor it is.
    pub(crate) place: u64,
}

impl Routees {
    fn list(&self) -> RwLockReadGuard<'_, Box<[Routee]>> {
        // Nothing can panic while the lock is held for writing.
        self.list.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on nobody takes a place through a router at those that are left out.
    pub(crate) fn set(&self, routees: Box<[Routee]>) {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *list, routees);
        drop(list);
        drop(before);
    }

    fn turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    fn has(&self, address: &Arc<ActorAddress>) -> bool {
        let list = self.list();
        list.iter()
            .any(|routee| Arc::ptr_eq(&routee.address, address))
    }

    fn actors<A: Actor>(&self) -> Vec<ActorRef<A>> {
        let list = self.list();
        let actors = list
            .iter()
            .filter_map(|routee| ActorRef::again(Arc::clone(&routee.address)));
        actors.collect()
    }
}
