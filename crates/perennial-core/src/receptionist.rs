//! The receptionist: actors that are found by a key.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::actor::{Actor, ActorRef, Recipient};
use crate::engine::Registry;
use crate::engine::actor::{ActorAddress, Life, Listener, Order, Watcher};
use crate::error::AskError;
use crate::pubsub::{Backlog, Shelved, Subscription, Topic};
use crate::router::{
    Broadcast, ConsistentHash, LeastLoaded, RoundRobin, Routee, Routees, Router, Source, hash,
    nobody,
};

/// What actors are registered under: a name, and the type of the actors. Two keys with the same name
/// and different types have nothing to do with each other.
pub struct ServiceKey<A> {
    name: Arc<str>,
    actor: PhantomData<fn(A)>,
}

impl<A> ServiceKey<A> {
    /// A key.
    pub fn new(name: impl AsRef<str>) -> Self {
        Self {
            name: name.as_ref().into(),
            actor: PhantomData,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl<A> Clone for ServiceKey<A> {
    fn clone(&self) -> Self {
        Self {
            name: Arc::clone(&self.name),
            actor: PhantomData,
        }
    }
}

impl<A> PartialEq for ServiceKey<A> {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl<A> Eq for ServiceKey<A> {}

impl<A> fmt::Debug for ServiceKey<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceKey({})", self.name)
    }
}

/// Where actors are registered, to be found by others. Cheap to clone. Got by
/// [`ActorSystem::receptionist`](crate::ActorSystem::receptionist).
///
/// ```
/// use perennial_core::config::ConfigSource;
/// use perennial_core::{Actor, ActorCx, ActorSystem, Failure, ServiceKey};
///
/// struct Printer {
///     system: ActorSystem,
/// }
///
/// impl Actor for Printer {
///     fn started(&mut self, cx: &mut ActorCx<'_, Self>) -> Result<(), Failure> {
///         let key = ServiceKey::new("printers");
///         self.system.receptionist().register(&key, &cx.myself());
///         Ok(())
///     }
/// }
///
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let system = ActorSystem::in_memory(ConfigSource::empty()).start().await?;
/// let mut changes = system.receptionist().changes(&ServiceKey::<Printer>::new("printers"));
/// assert!(changes.recv().await.is_some_and(|none| none.is_empty()));
/// let printer = {
///     let system = system.clone();
///     system.clone().spawn("printer", move || Printer { system: system.clone() })?
/// };
/// let listing = changes.recv().await.expect("the system runs");
/// assert_eq!(listing.actors(), [printer.clone()]);
/// printer.stop();
/// assert!(changes.recv().await.is_some_and(|none| none.is_empty()));
/// # system.shutdown().await?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Receptionist {
    registry: Arc<Registry>,
}

impl Receptionist {
    pub(crate) fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }

    /// Has an actor found under a key. It is taken off when it ends, and stays through restarts;
    /// registering it again changes nothing. An actor may be registered under several keys.
    ///
    /// The receptionist's reference does not count for
    /// [`Props::stop_unreferenced`](crate::Props::stop_unreferenced).
    pub fn register<A: Actor>(&self, key: &ServiceKey<A>, actor: &ActorRef<A>) {
        let service = self.service(key);
        let address = actor.address();
        if !service.add(address) {
            return;
        }
        let listener = Watcher::Listener(service.number, Arc::clone(&service) as _);
        if !address.order(Order::Watch(listener)) {
            service.remove(address);
        }
    }

    /// Takes an actor off; `false` if it was not registered under this key.
    pub fn deregister<A: Actor>(&self, key: &ServiceKey<A>, actor: &ActorRef<A>) -> bool {
        self.service(key).remove(actor.address())
    }

    /// The actors that are registered under a key at this moment.
    pub fn find<A: Actor>(&self, key: &ServiceKey<A>) -> Listing<A> {
        let service = self.service(key);
        let members = service.members();
        service.listing(&members)
    }

    /// Sends an actor or entity the present listing of a key, and a new one at every change, as a
    /// [`Topic`](crate::Topic) does: it is taken off when it ends. Whoever subscribes again gets the
    /// present listing again.
    ///
    /// Up to 1,024 listings wait for it; then the oldest are dropped, so that the latest one comes
    /// in any case.
    ///
    /// # Errors
    /// As [`Topic::subscribe`](crate::Topic::subscribe).
    pub fn subscribe<A: Actor>(
        &self,
        key: &ServiceKey<A>,
        subscriber: impl Into<Recipient<Listing<A>>>,
    ) -> Result<(), AskError> {
        let service = self.service(key);
        let members = service.members();
        let first = Some(service.listing(&members));
        service
            .changes
            .subscribe_from(subscriber.into(), Backlog::default(), first)
    }

    /// Ends what [`Receptionist::subscribe`] began; `false` if it had not.
    pub fn unsubscribe<A: Actor>(
        &self,
        key: &ServiceKey<A>,
        subscriber: impl Into<Recipient<Listing<A>>>,
    ) -> bool {
        self.service(key).changes.unsubscribe(subscriber)
    }

    /// As [`Receptionist::subscribe`], for code outside of actors.
    pub fn changes<A: Actor>(&self, key: &ServiceKey<A>) -> Subscription<Listing<A>> {
        let service = self.service(key);
        let members = service.members();
        let first = Some(service.listing(&members));
        service.changes.stream_from(Backlog::default(), first)
    }

    /// All actors of a key together, for routers: those that are registered at the time of a
    /// message.
    pub fn group<A: Actor>(&self, key: &ServiceKey<A>) -> Group<A> {
        Group {
            service: self.service(key),
        }
    }

    fn service<A: Actor>(&self, key: &ServiceKey<A>) -> Arc<Service<A>> {
        let new = || Service {
            key: key.clone(),
            number: self.registry.next_actor(),
            registry: Arc::clone(&self.registry),
            members: Mutex::default(),
            routees: Routees::default(),
            changes: self.registry.topics().unnamed(key.name()),
        };
        self.registry.services().get(key.name(), new)
    }
}

impl fmt::Debug for Receptionist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receptionist").finish_non_exhaustive()
    }
}

/// The actors that are registered under a key, at one moment.
pub struct Listing<A> {
    key: ServiceKey<A>,
    members: Arc<[Arc<ActorAddress>]>,
}

impl<A: Actor> Listing<A> {
    /// Which key.
    pub fn key(&self) -> &ServiceKey<A> {
        &self.key
    }

    /// The actors, in the order in which they were registered, without those that have ended since.
    pub fn actors(&self) -> Vec<ActorRef<A>> {
        let members = self.members.iter();
        members
            .filter_map(|address| ActorRef::again(Arc::clone(address)))
            .collect()
    }

    /// How many they were.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there was none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

impl<A> Clone for Listing<A> {
    fn clone(&self) -> Self {
        Self {
            key: self.key.clone(),
            members: Arc::clone(&self.members),
        }
    }
}

impl<A> fmt::Debug for Listing<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths = self.members.iter().map(ToString::to_string);
        f.debug_struct("Listing")
            .field("key", &self.key.name)
            .field("actors", &paths.collect::<Vec<_>>())
            .finish()
    }
}

/// The actors that are registered under a key, for routers. Cheap to clone. While there is none,
/// messages are refused as [`AskError::Busy`].
pub struct Group<A: Actor> {
    service: Arc<Service<A>>,
}

impl<A: Actor> Group<A> {
    /// A router to one actor after the other.
    pub fn round_robin(&self) -> Router<A, RoundRobin> {
        Router::new(self.source(), RoundRobin)
    }

    /// A router to the actor for which the fewest messages wait.
    pub fn least_loaded(&self) -> Router<A, LeastLoaded> {
        Router::new(self.source(), LeastLoaded)
    }

    /// A router to the actor that a message belongs to by its key.
    pub fn consistent_hash(&self) -> Router<A, ConsistentHash> {
        Router::new(self.source(), ConsistentHash)
    }

    /// A router to all actors.
    pub fn broadcast(&self) -> Broadcast<A> {
        Broadcast::new(self.source())
    }

    fn source(&self) -> Arc<dyn Source> {
        Arc::clone(&self.service) as _
    }
}

impl<A: Actor> Clone for Group<A> {
    fn clone(&self) -> Self {
        Self {
            service: Arc::clone(&self.service),
        }
    }
}

impl<A: Actor> fmt::Debug for Group<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("key", &self.service.key)
            .finish_non_exhaustive()
    }
}

/// What is registered under one key.
struct Service<A> {
    key: ServiceKey<A>,
    /// By which actors know it as their listener.
    number: u64,
    registry: Arc<Registry>,
    /// In the order in which they came. Listings are published while it is locked, so that they come
    /// in the order of the changes.
    members: Mutex<Vec<Arc<ActorAddress>>>,
    routees: Routees,
    changes: Topic<Listing<A>>,
}

impl<A: Actor> Service<A> {
    fn members(&self) -> MutexGuard<'_, Vec<Arc<ActorAddress>>> {
        // Nothing can panic while the lock is held.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listing(&self, members: &[Arc<ActorAddress>]) -> Listing<A> {
        Listing {
            key: self.key.clone(),
            members: members.into(),
        }
    }

    /// Whether it is new.
    fn add(&self, address: &Arc<ActorAddress>) -> bool {
        let mut members = self.members();
        let is_new = !members.iter().any(|member| Arc::ptr_eq(member, address));
        if is_new {
            members.push(Arc::clone(address));
            self.show(&members);
        }
        is_new
    }

    /// Whether it was there.
    fn remove(&self, address: &Arc<ActorAddress>) -> bool {
        let mut members = self.members();
        let before = members.len();
        members.retain(|member| !Arc::ptr_eq(member, address));
        let was_there = members.len() < before;
        if was_there {
            self.show(&members);
        }
        was_there
    }

    fn show(&self, members: &[Arc<ActorAddress>]) {
        let routees = members.iter().map(|address| Routee {
            address: Arc::clone(address),
            place: hash(&address.to_string()),
        });
        self.routees.set(routees.collect());
        if self.changes.has_subscribers() {
            self.changes.publish_regardless(self.listing(members));
        }
    }
}

impl<A: Actor> Listener for Service<A> {
    fn life(self: Arc<Self>, actor: &Arc<ActorAddress>, life: Life) {
        if life == Life::Ended {
            self.remove(actor);
        }
    }
}

impl<A: Actor> Source for Service<A> {
    fn routees(&self) -> &Routees {
        &self.routees
    }

    fn nobody(&self) -> AskError {
        match self.registry.is_closed() {
            true => AskError::Stopped,
            false => nobody(),
        }
    }

    fn describe(&self) -> String {
        format!("the group {}", self.key.name)
    }
}

impl<A: Actor> Shelved for Service<A> {
    fn is_idle(&self) -> bool {
        self.members().is_empty() && !self.changes.has_subscribers()
    }

    fn end(&self) {
        self.changes.end_if_over();
    }
}
