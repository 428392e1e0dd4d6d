//! Daemon processes: numbered actors that are always there, and share a job by their numbers.
//!
//! A projection that follows the journal in four slice ranges is four actors, each with a number from
//! 0 to 3 and the knowledge that there are four. They run as long as the system does, spread over its
//! workers; one that ends is begun again. [`Daemons::rescale`] changes how many there are while the
//! system runs: first all of the old ones end, then the new ones begin, so that no two of them ever
//! think that one part of the job is theirs.
//!
//! A set with one daemon is a singleton: an actor of which there is one, and always one.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::actor::{
    Actor, ActorCx, ActorRef, Failure, PendingReply, Placement, Props, Receive, Received, Restarts,
    SpawnError, StopReason, Supervision, Terminated, WeakActorRef,
};
use crate::engine::Registry;
use crate::error::AskError;

/// The most daemons of one set.
const MOST: u32 = 1024;

/// Which daemon of its set an actor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Daemon {
    number: u32,
    count: u32,
    revision: u64,
}

impl Daemon {
    /// Its number, from 0 to below [`Daemon::count`].
    pub fn number(self) -> u32 {
        self.number
    }

    /// How many there are in the set.
    pub fn count(self) -> u32 {
        self.count
    }

    /// How often the set was rescaled before this daemon began. Of two daemons that claim one part of
    /// the job, as on two nodes that cannot see each other, the one with the lower number is stale.
    pub fn revision(self) -> u64 {
        self.revision
    }
}

/// How the daemons of a set are made, and how many there are.
///
/// ```
/// use perennial_core::config::ConfigSource;
/// use perennial_core::{Actor, ActorCx, ActorSystem, DaemonProps, Props, Receive, Received};
///
/// /// Follows its share of 1,024 slices.
/// struct Follower {
///     first: u32,
///     last: u32,
/// }
/// impl Actor for Follower {}
///
/// struct Range;
/// impl Receive<Range> for Follower {
///     type Reply = (u32, u32);
///     fn receive(&mut self, _: Range, cx: &mut ActorCx<'_, Self>) -> Received<Self, (u32, u32)> {
///         cx.reply((self.first, self.last))
///     }
/// }
///
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let system = ActorSystem::in_memory(ConfigSource::empty()).start().await?;
/// let followers = DaemonProps::new(4, |daemon| {
///     let share = 1024 / daemon.count();
///     let first = share * daemon.number();
///     Props::new(move || Follower { first, last: first + share - 1 })
/// });
/// let followers = system.spawn_daemons("balances", followers)?;
/// followers.started().await?;
/// let third = followers.daemon(2).expect("there are four");
/// assert_eq!(third.ask(Range).await?, (512, 767));
///
/// followers.rescale(8).await?;
/// let third = followers.daemon(2).expect("there are eight");
/// assert_eq!(third.ask(Range).await?, (256, 383));
/// # system.shutdown().await?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct DaemonProps<A> {
    count: u32,
    make: MakeDaemon<A>,
    again: Supervision,
}

type MakeDaemon<A> = Arc<dyn Fn(Daemon) -> Props<A> + Send + Sync>;

impl<A: Actor> DaemonProps<A> {
    /// `count` daemons, from 1 to 1,024; what is beyond is taken as the nearest of these. `make` gives
    /// the [`Props`] of each, and is called again whenever one begins.
    pub fn new(count: u32, make: impl Fn(Daemon) -> Props<A> + Send + Sync + 'static) -> Self {
        Self {
            count: count.clamp(1, MOST),
            make: Arc::new(make),
            again: Supervision::restart()
                .backoff(Duration::from_millis(200), Duration::from_secs(30)),
        }
    }

    /// How long it is waited before a daemon that has ended begins again: `min` for the first time,
    /// then twice as long each time up to `max`. 200 ms and 30 s by default. What the supervision of
    /// its own [`Props`] does comes before.
    #[must_use]
    pub fn backoff(mut self, min: Duration, max: Duration) -> Self {
        self.again = self.again.backoff(min, max);
        self
    }
}

impl<A> fmt::Debug for DaemonProps<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DaemonProps")
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

/// A set of daemons that runs. Cheap to clone; the set goes on without any handle.
pub struct Daemons<A: Actor> {
    keeper: ActorRef<Keeper<A>>,
    shared: Arc<Shared<A>>,
}

impl<A: Actor> Daemons<A> {
    /// Spawns a set.
    pub(crate) fn spawn(
        registry: &Arc<Registry>,
        name: &str,
        props: DaemonProps<A>,
    ) -> Result<Self, SpawnError> {
        let DaemonProps { count, make, again } = props;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                revision: 0,
                daemons: (0..count).map(|_| None).collect(),
            }),
        });
        let kept = Arc::clone(&shared);
        let factory = move || Keeper {
            shared: Arc::clone(&kept),
            make: Arc::clone(&make),
            again: again.clone(),
            places: Vec::new(),
            change: None,
            waiting: Vec::new(),
        };
        let keeper = registry.spawn(Some(name), Props::new(factory))?;
        Ok(Self { keeper, shared })
    }

    /// How many daemons there are. While a set is being rescaled it is the number from before.
    pub fn count(&self) -> u32 {
        u32::try_from(self.shared.lock().daemons.len()).unwrap_or(MOST)
    }

    /// How often the set was rescaled.
    pub fn revision(&self) -> u64 {
        self.shared.lock().revision
    }

    /// Waits until the daemons have been begun, and until a change that is under way is done.
    ///
    /// # Errors
    /// [`AskError::Stopped`] if the set or the system has ended; [`AskError::Unknown`] if it takes
    /// longer than `ask-timeout`.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is changed by it.
    pub async fn started(&self) -> Result<(), AskError> {
        self.keeper.ask(Started).await
    }

    /// The daemon with a number, if it runs at this moment: one that has ended has not begun again,
    /// or the set is being rescaled.
    pub fn daemon(&self, number: u32) -> Option<ActorRef<A>> {
        let number = usize::try_from(number).ok()?;
        self.shared.lock().daemons.get(number)?.as_ref()?.upgrade()
    }

    /// Changes how many daemons there are, from 1 to 1,024; what is beyond is taken as the nearest of
    /// these. All of them end, in order, and when the last one has, the new ones begin. A change to
    /// the present number is one as well. One that comes while another is under way takes its place.
    ///
    /// # Errors
    /// [`AskError::Stopped`] if the set or the system has ended; [`AskError::Unknown`] if the old
    /// daemons take longer than `ask-timeout` for their end: the change goes on.
    ///
    /// # Cancel safety
    /// Dropping the future once it was polled changes nothing about the change.
    pub async fn rescale(&self, count: u32) -> Result<(), AskError> {
        self.keeper.ask(Rescale(count.clamp(1, MOST))).await
    }

    /// Ends the set: all daemons end in order, and are not begun again.
    pub fn stop(&self) {
        self.keeper.stop();
    }
}

impl<A: Actor> Clone for Daemons<A> {
    fn clone(&self) -> Self {
        Self {
            keeper: self.keeper.clone(),
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<A: Actor> fmt::Debug for Daemons<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Daemons")
            .field("path", &self.keeper.path())
            .field("count", &self.count())
            .field("revision", &self.revision())
            .finish()
    }
}

/// What handles see of a set.
struct Shared<A> {
    state: Mutex<State<A>>,
}

struct State<A> {
    revision: u64,
    daemons: Vec<Option<WeakActorRef<A>>>,
}

impl<A> Shared<A> {
    fn lock(&self) -> MutexGuard<'_, State<A>> {
        // Nothing can panic while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Spawns the daemons of a set and begins them again.
struct Keeper<A: Actor> {
    shared: Arc<Shared<A>>,
    make: MakeDaemon<A>,
    again: Supervision,
    places: Vec<Place<A>>,
    /// A change that waits for the end of the present daemons.
    change: Option<u32>,
    /// Who waits for its end.
    waiting: Vec<PendingReply<()>>,
}

struct Place<A> {
    actor: Option<ActorRef<A>>,
    beginnings: Restarts,
}

struct Rescale(u32);

/// Is answered when the daemons have been begun.
struct Started;

/// A daemon is to begin again.
struct Begin(usize);

impl<A: Actor> Keeper<A> {
    fn begin_all(&mut self, count: u32, cx: &mut ActorCx<'_, Self>) {
        let places = (0..count).map(|_| Place {
            actor: None,
            beginnings: Restarts::default(),
        });
        self.places = places.collect();
        self.shared.lock().daemons = self.places.iter().map(|_| None).collect();
        for number in 0..self.places.len() {
            self.begin(number, cx);
        }
    }

    fn begin(&mut self, number: usize, cx: &mut ActorCx<'_, Self>) {
        let daemon = Daemon {
            number: u32::try_from(number).unwrap_or(MOST),
            count: u32::try_from(self.places.len()).unwrap_or(MOST),
            revision: self.shared.lock().revision,
        };
        let props = (self.make)(daemon).placement(Placement::Worker(number));
        // It fails only when the set ends or the system does.
        if let Ok(actor) = cx.spawn(daemon.number.to_string(), props) {
            cx.watch(&actor);
            self.shared.lock().daemons[number] = Some(actor.downgrade());
            self.places[number].actor = Some(actor);
        }
    }

    /// Goes on with a change when the last of the old daemons has ended.
    fn go_on(&mut self, cx: &mut ActorCx<'_, Self>) {
        if self.places.iter().any(|place| place.actor.is_some()) {
            return;
        }
        if let Some(count) = self.change.take() {
            self.shared.lock().revision += 1;
            self.begin_all(count, cx);
            for waiting in self.waiting.drain(..) {
                waiting.reply(());
            }
        }
    }
}

impl<A: Actor> Actor for Keeper<A> {
    fn started(&mut self, cx: &mut ActorCx<'_, Self>) -> Result<(), Failure> {
        // After a failure, those from before have ended.
        let count = u32::try_from(self.shared.lock().daemons.len()).unwrap_or(MOST);
        self.begin_all(count, cx);
        Ok(())
    }

    fn stopped(&mut self, _: &StopReason, _: &mut ActorCx<'_, Self>) {
        self.shared.lock().daemons.fill_with(|| None);
    }

    fn terminated(
        &mut self,
        terminated: &Terminated,
        cx: &mut ActorCx<'_, Self>,
    ) -> Result<(), Failure> {
        let is_it = |place: &Place<A>| {
            let actor = place.actor.as_ref();
            actor.is_some_and(|actor| terminated.is(actor))
        };
        let Some(number) = self.places.iter().position(is_it) else {
            return Ok(());
        };
        let place = &mut self.places[number];
        place.actor = None;
        self.shared.lock().daemons[number] = None;
        if self.change.is_some() {
            self.go_on(cx);
            return Ok(());
        }
        let jitter = cx.core.jitter();
        let wait = place.beginnings.next(&self.again, cx.core.now, jitter);
        // There is no limit, so there is always a next one.
        let wait = wait.unwrap_or_default();
        tracing::warn!(
            actor = %terminated.path,
            reason = %terminated.reason,
            wait_ms = wait.as_millis(),
            "a daemon has ended, it will begin again"
        );
        cx.timers()
            .start_single(format!("begin {number}"), wait, Begin(number));
        Ok(())
    }
}

impl<A: Actor> Receive<Begin> for Keeper<A> {
    type Reply = ();

    fn receive(&mut self, begin: Begin, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        let place = self.places.get(begin.0);
        if self.change.is_none() && place.is_some_and(|place| place.actor.is_none()) {
            self.begin(begin.0, cx);
        }
        cx.reply(())
    }
}

impl<A: Actor> Receive<Started> for Keeper<A> {
    type Reply = ();

    fn receive(&mut self, _: Started, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        if self.change.is_none() {
            return cx.reply(());
        }
        cx.keep_reply(|keeper: &mut Self, reply| keeper.waiting.push(reply))
    }
}

impl<A: Actor> Receive<Rescale> for Keeper<A> {
    type Reply = ();

    fn receive(&mut self, rescale: Rescale, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        cx.timers().cancel_all();
        for place in &self.places {
            if let Some(actor) = &place.actor {
                actor.stop();
            }
        }
        self.change = Some(rescale.0);
        self.go_on(cx);
        if self.change.is_none() {
            return cx.reply(());
        }
        cx.keep_reply(|keeper: &mut Self, reply| keeper.waiting.push(reply))
    }
}
