//! Pools: actors of one kind that are spawned, supervised and replaced together.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::actor::{
    Actor, ActorCx, ActorPath, ActorRef, Failure, Placement, Props, Receive, Received, Restarts,
    SpawnError, StopReason, Supervision, Terminated,
};
use crate::engine::Registry;
use crate::engine::actor::{ActorAddress, NewActor, NewChild, Order};
use crate::error::AskError;
use crate::router::{
    Broadcast, ConsistentHash, LeastLoaded, RoundRobin, Routee, Routees, Router, Source, hash,
    nobody,
};

/// How the actors of a [`Pool`] are made, and how many there are.
///
/// ```
/// use perennial_core::config::ConfigSource;
/// use perennial_core::{Actor, ActorCx, ActorSystem, PoolProps, Receive, Received};
///
/// struct Resizer;
/// impl Actor for Resizer {}
///
/// struct Resize(u32);
/// impl Receive<Resize> for Resizer {
///     type Reply = u32;
///     fn receive(&mut self, image: Resize, cx: &mut ActorCx<'_, Self>) -> Received<Self, u32> {
///         cx.reply(image.0 / 2)
///     }
/// }
///
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let system = ActorSystem::in_memory(ConfigSource::empty()).start().await?;
/// let pool = system.spawn_pool("resizers", PoolProps::new(4, || Resizer))?;
/// let resizers = pool.least_loaded();
/// assert_eq!(resizers.ask(Resize(200)).await?, 100);
/// pool.resize(8).await?;
/// assert_eq!(resizers.routees().len(), 8);
/// # system.shutdown().await?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct PoolProps<A> {
    size: usize,
    make: MakeProps<A>,
    replacement: Supervision,
}

type MakeProps<A> = Arc<dyn Fn() -> Props<A> + Send + Sync>;

/// The most actors of one pool.
const LARGEST: usize = 65_536;

impl<A: Actor> PoolProps<A> {
    /// `size` actors whose values `factory` makes, each with the default settings of [`Props`]. At
    /// least 1 and at most 65,536, within which other sizes are held.
    pub fn new(size: usize, factory: impl Fn() -> A + Send + Sync + 'static) -> Self {
        let factory = Arc::new(factory);
        Self::with_props(size, move || {
            let factory = Arc::clone(&factory);
            Props::new(move || factory())
        })
    }

    /// As [`PoolProps::new`], with settings: `props` is called for each actor.
    ///
    /// Actors are spread over all workers, one after the other, unless the settings name one.
    pub fn with_props(size: usize, props: impl Fn() -> Props<A> + Send + Sync + 'static) -> Self {
        Self {
            size: size.clamp(1, LARGEST),
            make: Arc::new(props),
            replacement: Supervision::restart(),
        }
    }

    /// How long to wait before an actor is replaced that ended for good: `min` the first time, twice
    /// as long every further time, `max` at the most, for each place of the pool by itself. The count
    /// begins anew once the place has been filled for `max`. 100 ms and 10 s by default.
    pub fn replace_after(mut self, min: Duration, max: Duration) -> Self {
        self.replacement = self.replacement.backoff(min, max);
        self
    }
}

impl<A> fmt::Debug for PoolProps<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolProps")
            .field("actor", &std::any::type_name::<A>())
            .field("size", &self.size)
            .field("replacement", &self.replacement)
            .finish_non_exhaustive()
    }
}

/// Actors of one kind that share work. Cheap to clone. Messages go to them through a [`Router`] or
/// [`Broadcast`], of which there may be any number.
///
/// The actors are children of an actor with the pool's name. What becomes of one that fails is said
/// by its [`Supervision`]; while it restarts, messages wait in its mailbox. One that ends for good,
/// by its supervision or by itself, is taken off the routers and replaced after a while
/// ([`PoolProps::replace_after`]), until the pool is stopped. What waited for it is dead letters, as
/// of any actor that ends: what must not be lost is the business of a
/// [`WorkQueue`](crate::WorkQueue).
pub struct Pool<A: Actor> {
    keeper: ActorRef<Keeper<A>>,
    shared: Arc<Shared>,
}

impl<A: Actor> Pool<A> {
    /// Spawns a pool under `parent`, which is to adopt the address that is given.
    pub(crate) fn spawn(
        registry: &Arc<Registry>,
        name: &str,
        parent: Option<&Arc<ActorAddress>>,
        props: PoolProps<A>,
    ) -> Result<(Self, Arc<ActorAddress>), SpawnError> {
        let shared = Arc::new(Shared {
            routees: Routees::default(),
            size: AtomicUsize::new(props.size),
            is_over: AtomicBool::new(false),
            name: name.to_owned(),
        });
        let first = Arc::new(Mutex::new(Vec::new()));
        let keeper = {
            let (shared, first) = (Arc::clone(&shared), Arc::clone(&first));
            let make = Arc::clone(&props.make);
            let replacement = props.replacement.clone();
            Props::new(move || Keeper {
                shared: Arc::clone(&shared),
                make: Arc::clone(&make),
                replacement: replacement.clone(),
                first: std::mem::take(&mut *first.lock().unwrap_or_else(PoisonError::into_inner)),
                places: Vec::new(),
                leaving: Vec::new(),
            })
        };
        // Code of the user, which comes before anything is there.
        let first_props: Vec<Props<A>> = (0..props.size).map(|_| (props.make)()).collect();
        let keeper = NewActor::new(registry, Some(name), parent, keeper)?;
        // Routees are there before anybody can send to them, and so before their parent.
        let mut children = Vec::with_capacity(props.size);
        for (place, props) in first_props.into_iter().enumerate() {
            let props = placed(props, place);
            let routee = NewActor::new(registry, None, Some(keeper.address()), props);
            let sent = routee.and_then(|routee| {
                let is_in_group = routee.is_in_group();
                Ok((routee.send()?, is_in_group))
            });
            match sent {
                Ok((address, is_in_group)) => children.push(NewChild {
                    address,
                    is_in_group,
                }),
                Err(error) => {
                    stop_all(&children);
                    keeper.give_up();
                    return Err(error);
                }
            }
        }
        shared.show(children.iter().map(|child| Some(&child.address)));
        let actors = children.iter().map(|child| Arc::clone(&child.address));
        *first.lock().unwrap_or_else(PoisonError::into_inner) = actors.collect();
        match keeper.with_children(children.clone()).send() {
            Ok(address) => {
                let keeper = ActorRef::new(Arc::clone(&address));
                Ok((Self { keeper, shared }, address))
            }
            Err(error) => {
                stop_all(&children);
                Err(error)
            }
        }
    }

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

    /// Changes how many actors there are, within the bounds of [`PoolProps::new`]. Those that are too
    /// many get no message any more through a router, and stop once they have handled those that
    /// they got; then they are gone for good, later than this returns.
    ///
    /// # Errors
    /// [`AskError::Stopped`] when the pool has ended, and what an ask may fail with besides.
    pub async fn resize(&self, size: usize) -> Result<(), AskError> {
        self.keeper.ask(Resize(size)).await
    }

    /// How many actors there are to be. While one is replaced, there is one less.
    pub fn size(&self) -> usize {
        self.shared.size.load(Ordering::Relaxed)
    }

    /// The actors that messages may go to at this moment.
    pub fn routees(&self) -> Vec<ActorRef<A>> {
        self.shared.routees.actors()
    }

    /// Where the pool stands; its actors stand below.
    pub fn path(&self) -> ActorPath {
        self.keeper.path()
    }

    /// Stops the pool and its actors, once they have handled what was sent to them before.
    pub fn stop(&self) {
        self.keeper.stop();
    }

    /// Waits until the pool and its actors have ended.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn terminated(&self) -> Terminated {
        self.keeper.terminated().await
    }

    fn source(&self) -> Arc<dyn Source> {
        Arc::clone(&self.shared) as _
    }
}

impl<A: Actor> Clone for Pool<A> {
    fn clone(&self) -> Self {
        Self {
            keeper: self.keeper.clone(),
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<A: Actor> fmt::Debug for Pool<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("path", &self.path())
            .field("size", &self.size())
            .finish_non_exhaustive()
    }
}

fn stop_all(children: &[NewChild]) {
    for child in children {
        child.address.order(Order::Stop(StopReason::Parent));
    }
}

/// The place of a pool decides about the worker, so that every worker has its share.
fn placed<A: Actor>(props: Props<A>, place: usize) -> Props<A> {
    match props.options.placement {
        Placement::Near | Placement::Spread => props.placement(Placement::Worker(place)),
        Placement::Worker(_) => props,
    }
}

struct Shared {
    routees: Routees,
    size: AtomicUsize,
    is_over: AtomicBool,
    name: String,
}

impl Shared {
    /// Shows routers which actors there are, in the order of their places.
    fn show<'a>(&self, actors: impl Iterator<Item = Option<&'a Arc<ActorAddress>>>) {
        let routees = actors.enumerate().filter_map(|(place, address)| {
            Some(Routee {
                address: Arc::clone(address?),
                place: hash(&(place as u64)),
            })
        });
        self.routees.set(routees.collect());
    }
}

impl Source for Shared {
    fn routees(&self) -> &Routees {
        &self.routees
    }

    fn nobody(&self) -> AskError {
        match self.is_over.load(Ordering::Relaxed) {
            true => AskError::Stopped,
            false => nobody(),
        }
    }

    fn describe(&self) -> String {
        format!("the pool {}", self.name)
    }
}

/// The parent of a pool's actors.
struct Keeper<A: Actor> {
    shared: Arc<Shared>,
    make: MakeProps<A>,
    replacement: Supervision,
    /// Those that were spawned with the pool.
    first: Vec<Arc<ActorAddress>>,
    places: Vec<Place<A>>,
    /// Those that are too many and still have messages to handle.
    leaving: Vec<ActorRef<A>>,
}

struct Place<A> {
    actor: Option<ActorRef<A>>,
    replacements: Restarts,
}

impl<A> Default for Place<A> {
    fn default() -> Self {
        Self {
            actor: None,
            replacements: Restarts::default(),
        }
    }
}

struct Resize(usize);

/// A place is to be filled.
struct Fill(usize);

/// Whether those that leave have handled everything is to be looked at.
#[derive(Clone)]
struct LookAtLeaving;

const LEAVING: &str = "leaving";

impl<A: Actor> Actor for Keeper<A> {
    fn started(&mut self, cx: &mut ActorCx<'_, Self>) -> Result<(), Failure> {
        let size = self.shared.size.load(Ordering::Relaxed);
        let first = std::mem::take(&mut self.first);
        if first.is_empty() {
            // After a failure; those from before have ended.
            self.grow(size, cx);
        } else {
            for address in first {
                let actor = ActorRef::new(address);
                cx.watch(&actor);
                self.places.push(Place {
                    actor: Some(actor),
                    ..Place::default()
                });
            }
        }
        Ok(())
    }

    fn restarting(&mut self, _: &Failure, _: &mut ActorCx<'_, Self>) {
        self.shared.show(std::iter::empty());
    }

    fn stopped(&mut self, _: &StopReason, _: &mut ActorCx<'_, Self>) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.shared.show(std::iter::empty());
    }

    fn terminated(
        &mut self,
        terminated: &Terminated,
        cx: &mut ActorCx<'_, Self>,
    ) -> Result<(), Failure> {
        self.leaving.retain(|actor| !terminated.is(actor));
        let is_it = |place: &Place<A>| {
            let actor = place.actor.as_ref();
            actor.is_some_and(|actor| terminated.is(actor))
        };
        if let Some(number) = self.places.iter().position(is_it) {
            let place = &mut self.places[number];
            place.actor = None;
            let jitter = cx.core.jitter();
            let wait = place
                .replacements
                .next(&self.replacement, cx.core.now, jitter);
            // There is no limit, so there is always a next one.
            let wait = wait.unwrap_or_default();
            tracing::debug!(
                actor = %terminated.path,
                reason = %terminated.reason,
                wait_ms = wait.as_millis(),
                "an actor of a pool has ended, it will be replaced"
            );
            let key = format!("fill {number}");
            cx.timers().start_single(key, wait, Fill(number));
            self.show();
        }
        Ok(())
    }
}

impl<A: Actor> Keeper<A> {
    fn show(&self) {
        let actors = self.places.iter().map(|place| place.actor.as_ref());
        self.shared
            .show(actors.map(|actor| actor.map(ActorRef::address)));
    }

    fn grow(&mut self, size: usize, cx: &mut ActorCx<'_, Self>) {
        for number in self.places.len()..size {
            self.places.push(Place::default());
            self.fill(number, cx);
        }
        self.show();
    }

    fn fill(&mut self, number: usize, cx: &mut ActorCx<'_, Self>) {
        // It fails only when the pool stops or the system does.
        if let Ok(actor) = cx.spawn_anonymous(placed((self.make)(), number)) {
            cx.watch(&actor);
            self.places[number].actor = Some(actor);
        }
    }

    fn shrink(&mut self, size: usize, cx: &mut ActorCx<'_, Self>) {
        let gone = self.places.split_off(size);
        // First nobody may take a place at them, then it is looked at whether somebody has one.
        self.show();
        self.leaving
            .extend(gone.into_iter().filter_map(|place| place.actor));
        self.look_at_leaving(cx);
    }

    fn look_at_leaving(&mut self, cx: &mut ActorCx<'_, Self>) {
        const OFTEN: Duration = Duration::from_millis(5);
        self.leaving.retain(|actor| {
            let is_idle = actor.queue_depth() == 0;
            if is_idle {
                actor.stop();
            }
            !is_idle
        });
        if self.leaving.is_empty() {
            cx.timers().cancel(LEAVING);
        } else if !cx.timers().is_active(LEAVING) {
            cx.timers().start_repeated(LEAVING, OFTEN, LookAtLeaving);
        }
    }
}

impl<A: Actor> Receive<Resize> for Keeper<A> {
    type Reply = ();

    fn receive(&mut self, resize: Resize, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        let size = resize.0.clamp(1, LARGEST);
        self.shared.size.store(size, Ordering::Relaxed);
        if size < self.places.len() {
            self.shrink(size, cx);
        } else {
            self.grow(size, cx);
        }
        cx.reply(())
    }
}

impl<A: Actor> Receive<Fill> for Keeper<A> {
    type Reply = ();

    fn receive(&mut self, fill: Fill, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        // The pool may have shrunk, and grown again, in the meantime.
        let place = self.places.get(fill.0);
        if place.is_some_and(|place| place.actor.is_none()) {
            self.fill(fill.0, cx);
            self.show();
        }
        cx.reply(())
    }
}

impl<A: Actor> Receive<LookAtLeaving> for Keeper<A> {
    type Reply = ();

    fn receive(&mut self, _: LookAtLeaving, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        self.look_at_leaving(cx);
        cx.reply(())
    }
}
