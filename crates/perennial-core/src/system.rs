//! The actor system: its runtimes, workers and store, from the configuration to the shutdown.

use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{Either, select};
use perennial_persistence::{
    BoxFuture, Clock, DurableStateDelete, NUMBER_OF_SLICES, OpenError, PersistenceId, SEPARATOR,
    Slice, Store, SystemClock, Timestamp,
};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::actor::{Actor, ActorRef, Props, SpawnError};
use crate::cleanup::{Cleanup, SystemPlace};
use crate::config::{
    ConfigError, ConfigSource, EntityConfig, MetricsLevel, PersistenceConfig, ShutdownConfig,
    SystemConfig,
};
use crate::daemon::{DaemonProps, Daemons};
use crate::dead_letters::DeadLetterReason;
use crate::deadline;
use crate::engine::actix_driver::{End, Engine, Outside};
use crate::engine::{
    Assembly, BreakerReport, BreakerState, Deadlines, Frame, Registry, Settings, Stats, balance,
};
use crate::entity_ref::EntityRef;
use crate::entity_status::{EntitiesOfWorker, EntityTypeStatus};
use crate::event_sourced::{Entity, EventSourced, InvalidCommands, Kept};
use crate::metrics::{self, Publisher};
use crate::pubsub::{EventStream, Topic};
use crate::receptionist::Receptionist;
use crate::router::{Pool, PoolProps};
use crate::runtime::Background;
use crate::shutdown::{
    CoordinatedShutdown, Course, ShutdownReason, ShutdownReport, Signals, Tasks,
};
use crate::work::{WorkQueue, WorkQueueProps};

/// Opens a store; called on the persistence runtime, on which the store may spawn its tasks.
pub type OpenStore =
    Box<dyn FnOnce() -> BoxFuture<'static, Result<Arc<dyn Store>, OpenError>> + Send>;

/// A store that can be chosen in the configuration by its name.
pub trait StorePlugin: fmt::Debug + Send + Sync {
    /// The name for `persistence.plugin`; its settings stand in `[persistence.<name>]`.
    fn name(&self) -> &'static str;

    /// Reads the settings and gives what opens the store.
    ///
    /// # Errors
    /// [`ConfigError`] for settings that are unknown or make no sense.
    fn configure(&self, source: &ConfigSource) -> Result<OpenStore, ConfigError>;
}

/// A running actor system. Cheap to clone; all clones are the same system.
///
/// End it with [`ActorSystem::shutdown`], or let it run until a signal comes
/// ([`ActorSystem::run_until_signal`]). When the last clone is dropped without that, the system
/// flushes and ends in the background.
#[derive(Clone)]
pub struct ActorSystem {
    inner: Arc<Inner>,
}

impl ActorSystem {
    /// A system with the settings of `source` and the store that it names among `plugins`.
    pub fn with_plugins(source: ConfigSource, plugins: Vec<Box<dyn StorePlugin>>) -> SystemBuilder {
        SystemBuilder::new(source, StoreChoice::Plugins(plugins))
    }

    /// A system with the settings of `source` on a store that is open already. It is closed with
    /// the system.
    pub fn with_store(source: ConfigSource, store: Arc<dyn Store>) -> SystemBuilder {
        SystemBuilder::new(source, StoreChoice::Open(store))
    }

    /// A system with the settings of `source` and no store: for plain actors alone, without entities.
    pub fn in_memory(source: ConfigSource) -> SystemBuilder {
        SystemBuilder::new(source, StoreChoice::None)
    }

    /// Spawns an actor without a parent: a factory, such as a closure, or [`Props`]. Works on any
    /// thread; the actor starts on a worker of its own accord.
    ///
    /// # Errors
    /// [`SpawnError`] for a name that another one has or that cannot be one, and when the system has
    /// stopped.
    pub fn spawn<A: Actor>(
        &self,
        name: impl AsRef<str>,
        props: impl Into<Props<A>>,
    ) -> Result<ActorRef<A>, SpawnError> {
        let registry = &self.inner.registry;
        registry.spawn(Some(name.as_ref()), props.into())
    }

    /// As [`ActorSystem::spawn`], called by a number.
    ///
    /// # Errors
    /// [`SpawnError::Stopped`] when the system has stopped.
    pub fn spawn_anonymous<A: Actor>(
        &self,
        props: impl Into<Props<A>>,
    ) -> Result<ActorRef<A>, SpawnError> {
        self.inner.registry.spawn(None, props.into())
    }

    /// Spawns a pool of actors without a parent, which routers send to.
    ///
    /// # Errors
    /// As [`ActorSystem::spawn`].
    pub fn spawn_pool<A: Actor>(
        &self,
        name: impl AsRef<str>,
        props: PoolProps<A>,
    ) -> Result<Pool<A>, SpawnError> {
        Pool::spawn(&self.inner.registry, name.as_ref(), None, props).map(|(pool, _)| pool)
    }

    /// Spawns a set of daemons: numbered actors that are always there. With one of them it is a
    /// singleton.
    ///
    /// # Errors
    /// [`SpawnError`] if the name is taken or cannot be one, and when the system has stopped.
    pub fn spawn_daemons<A: Actor>(
        &self,
        name: impl AsRef<str>,
        props: DaemonProps<A>,
    ) -> Result<Daemons<A>, SpawnError> {
        Daemons::spawn(&self.inner.registry, name.as_ref(), props)
    }

    /// A queue of work, called `name` in logs. Clones of it are the same queue; another one with the
    /// same name is another queue.
    pub fn work_queue<W, R>(
        &self,
        name: impl AsRef<str>,
        props: WorkQueueProps<W>,
    ) -> WorkQueue<W, R>
    where
        W: Send + Sync + 'static,
        R: Send + 'static,
    {
        WorkQueue::new(&self.inner.registry, name.as_ref(), props)
    }

    /// Where actors are registered under keys, and found.
    pub fn receptionist(&self) -> Receptionist {
        Receptionist::new(Arc::clone(&self.inner.registry))
    }

    /// The actor with a path such as `/orders/worker-1`, if there is one and it is an `A`. Actors
    /// without a name are not found.
    pub fn actor<A: Actor>(&self, path: impl AsRef<str>) -> Option<ActorRef<A>> {
        self.inner.registry.actor(path.as_ref())
    }

    /// The topic of messages of type `M` with a name, which need not have been there before. Topics
    /// of different types may have the same name. One that nobody holds and that has no subscriber
    /// is forgotten, its counts with it.
    pub fn topic<M: Clone + Send + 'static>(&self, name: impl AsRef<str>) -> Topic<M> {
        self.inner.registry.topics().named(name.as_ref())
    }

    /// Publish and subscribe by the type of the message; dead letters and events of entities are
    /// published there.
    pub fn event_stream(&self) -> EventStream {
        EventStream::new(Arc::clone(self.inner.registry.topics()))
    }

    /// How many messages were accepted and are not handled, by reason. Some of them are logged at
    /// level `info`, as `dead-letter-log-lines` says.
    pub fn dead_letters(&self) -> Vec<(DeadLetterReason, u64)> {
        self.inner.registry.dead_letter_counts()
    }

    /// The system's name, as configured.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The entity of type `E` with this id, which need not exist yet.
    ///
    /// An id that cannot be stored, or a type that was not given to the system, gives a reference
    /// whose asks say so.
    pub fn entity<E: EventSourced>(&self, entity_id: impl AsRef<str>) -> EntityRef<E> {
        self.inner.registry.entity(entity_id.as_ref())
    }

    /// The entity of type `E` with a whole id, as it stands in the tables, whoever gave it: its first
    /// part need not be `E::TYPE`, and there may be no `|` in it at all.
    ///
    /// ```
    /// # use perennial_core::{ActorSystem, EventSourced};
    /// # use perennial_persistence::{InvalidId, PersistenceId};
    /// # fn example<Account: EventSourced>(system: &ActorSystem) -> Result<(), InvalidId> {
    /// let id = PersistenceId::of_unique_id("savings-4711")?;
    /// let account = system.entity_with_id::<Account>(id);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// An id belongs to one type at a time: while it is in use as one of another type, the asks of
    /// the reference fail as [`AskError::OtherType`](crate::AskError::OtherType).
    pub fn entity_with_id<E: EventSourced>(&self, id: PersistenceId) -> EntityRef<E> {
        self.inner.registry.entity_with_id(id)
    }

    /// What all workers together have and have done. Counted by the workers, so what a caller has
    /// just been told may be missing for a moment.
    pub fn stats(&self) -> SystemStats {
        let mut sum = SystemStats::default();
        for stats in &self.inner.stats {
            sum.resident += stats.resident.load(Ordering::Relaxed);
            sum.recovered += stats.recovered.load(Ordering::Relaxed);
            sum.replayed_events += stats.replayed.load(Ordering::Relaxed);
            sum.stored_events += stats.stored.load(Ordering::Relaxed);
            sum.saved_snapshots += stats.snapshots.load(Ordering::Relaxed);
            sum.actors += stats.actors.load(Ordering::Relaxed);
            sum.actor_failures += stats.actor_failures.load(Ordering::Relaxed);
            sum.actor_restarts += stats.actor_restarts.load(Ordering::Relaxed);
            sum.slow_handlers += stats.slow_handlers.load(Ordering::Relaxed);
            sum.moved_entities += stats.moved.load(Ordering::Relaxed);
            for breaker in &stats.breakers {
                let report = breaker.report();
                sum.refused_for_store += report.refused;
                sum.breakers_opened += report.opened;
            }
        }
        sum.lost_by_subscribers = self.inner.registry.topics().life().lost();
        sum
    }

    /// How it stands with each store: whether it answers, and since when it does not. The system's
    /// own store comes first, then those that entity types have chosen.
    pub fn status(&self) -> Vec<StoreStatus> {
        let of_store = |(number, store): (usize, &Arc<dyn Store>)| {
            let mut status = StoreStatus {
                store: store.name(),
                breaker: BreakerState::Closed,
                since: None,
                workers: 0,
                failures: 0,
                last_error: None,
                opened: 0,
                refused: 0,
            };
            for stats in &self.inner.stats {
                status.add(stats.breakers[number].report());
            }
            status
        };
        self.inner.stores.iter().enumerate().map(of_store).collect()
    }

    /// How it stands with each worker: whether a handler keeps its thread.
    pub fn workers(&self) -> Vec<WorkerStatus> {
        let now = self.inner.clock.elapsed();
        let of_worker = |(worker, stats): (usize, &Arc<Stats>)| {
            let beat = stats.pulse.beat();
            WorkerStatus {
                worker,
                running: beat.map(|beat| self.inner.registry.name_of(worker, beat.key)),
                running_for: beat.map(|beat| now.saturating_sub(beat.since)),
                slices: self.inner.registry.slices_of(worker),
            }
        };
        self.inner.stats.iter().enumerate().map(of_worker).collect()
    }

    /// Gives slices to a worker, by its index; nothing happens if there is none with that.
    ///
    /// Workers that are busy give slices away by themselves (`rebalance-interval`); this is for whoever
    /// knows more of what is to come. Each entity of the slices moves by itself: it handles nothing
    /// more, waits for its writes, and is brought back by the other worker with its next command, as
    /// after a passivation; commands that come meanwhile wait and keep their order. One that has
    /// timers, open futures, or a snapshot or deletion under way stays until these have ended, one
    /// with a command for its end until it is idle, and one that is not in memory moves with its next
    /// command. Entities of types with named commands ([`Entity::command`]) do not move.
    pub fn move_slices(&self, slices: impl IntoIterator<Item = Slice>, worker: usize) {
        self.inner.registry.move_slices(slices, worker);
    }

    /// The index of the worker that owns a slice.
    pub fn owner(&self, slice: Slice) -> usize {
        self.inner.registry.owner(slice)
    }

    /// How many entities of each type are in memory, by worker and by slice, and what became of
    /// others, in the order in which the types were given to the system. Counted by the workers;
    /// none of them is asked, so one that is stuck does not hinder it. It looks at 1,024 numbers per
    /// type and worker.
    ///
    /// How it stands with a single one, [`EntityRef::status`] tells.
    pub fn entities(&self) -> Vec<EntityTypeStatus> {
        let of_type = |(index, entity_type): (usize, &'static str)| {
            let mut slices = vec![0; usize::from(NUMBER_OF_SLICES)];
            let of_worker = |stats: &Arc<Stats>| {
                let stats = &stats.types[index];
                for (slice, count) in slices.iter_mut().zip(stats.residents_by_slice()) {
                    *slice += count;
                }
                let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
                let resident = stats.resident.load(Ordering::Relaxed);
                EntitiesOfWorker {
                    resident,
                    limit: (stats.limit > 0).then_some(stats.limit),
                    over_limit: stats.over_limit(resident),
                    recovered: count(&stats.recovered),
                    passivated_idle: count(&stats.passivated_idle),
                    passivated_limit: count(&stats.passivated_limit),
                    forced_ends: count(&stats.forced_ends),
                    failures: count(&stats.failures),
                }
            };
            let workers = self.inner.stats.iter().map(of_worker).collect();
            EntityTypeStatus {
                entity_type,
                workers,
                slices: slices.into(),
            }
        };
        let names = self.inner.registry.entity_type_names();
        names.enumerate().map(of_type).collect()
    }

    /// Deletes what the stores keep of entities that are not in memory.
    pub fn cleanup(&self) -> Cleanup {
        Cleanup::of_system(SystemPlace {
            registry: Arc::clone(&self.inner.registry),
            stores: self.inner.stores.clone(),
            kept_in: self.inner.kept_in.clone(),
            persistence: self.inner.persistence.clone(),
        })
    }

    /// What the store found at its start that someone should look at.
    pub fn store_warnings(&self) -> Vec<String> {
        let stores = self.inner.stores.iter();
        stores.flat_map(|store| store.warnings()).collect()
    }

    /// The shutdown of the system: tasks of the program in its phases, its reason, and a report of
    /// what was cut off.
    pub fn coordinated_shutdown(&self) -> CoordinatedShutdown {
        CoordinatedShutdown::new(self.clone())
    }

    /// Runs until SIGTERM or ctrl-c comes, then shuts the system down in a coordinated way and gives
    /// the report. When the system is shut down for another reason, that is the end as well.
    ///
    /// Signals are waited for from this call on. Another ctrl-c while the system ends, ends the
    /// process at once, whatever hangs; another SIGTERM does nothing. Once nobody waits here any
    /// more, both do what they do without perennial. Works on any executor. Without Unix there is
    /// ctrl-c only.
    ///
    /// # Errors
    /// When the operating system gives no signals, with the system as it was; [`ShutdownError`] as
    /// the inner error otherwise, as [`CoordinatedShutdown::run`].
    ///
    /// # Cancel safety
    /// Cancel safe: signals are not waited for any more then, and a shutdown that has begun goes on.
    pub fn run_until_signal(
        &self,
    ) -> impl Future<Output = std::io::Result<Arc<ShutdownReport>>> + Send + use<> {
        let signals = Signals::wait_on(&self.inner.tasks);
        let system = self.clone();
        async move {
            let mut signals = signals?;
            let reason = {
                let ended = pin!(system.wait_for_end());
                match select(pin!(signals.first()), ended).await {
                    Either::Left((reason, _)) => reason,
                    Either::Right((report, _)) => return report.map_err(std::io::Error::other),
                }
            };
            tracing::info!(system = system.inner.name, %reason, "a signal has come");
            let report = system.coordinated_shutdown().run(reason).await;
            report.map_err(std::io::Error::other)
        }
    }

    /// Ends the system, as a [coordinated shutdown](Self::coordinated_shutdown) with the reason
    /// "program": runs the program's tasks, refuses new commands as `Stopped`, handles those that
    /// wait, flushes every write, ends the workers, and closes the store last.
    ///
    /// Stashed commands, and those of entities that wait after a failure, are answered `Stopped`.
    /// A second call, or one on another clone, waits for the same end and says the same of it.
    ///
    /// # Errors
    /// [`ShutdownError::TimedOut`] when that took longer than `shutdown-timeout`, or the store as
    /// long once more to close; the system is ended all the same. Commands that were waiting are
    /// answered `Stopped`, those that were being handled `Unknown`. A handler that does not return
    /// keeps its thread; its callers, and those who wait behind it, reach their own deadlines.
    /// [`ShutdownError::Tasks`] when a task of the program did not succeed.
    ///
    /// # Cancel safety
    /// Cancel safe: the system goes on to its end in the background.
    pub async fn shutdown(&self) -> Result<(), ShutdownError> {
        self.begin_shutdown(ShutdownReason::Program);
        self.wait_for_end().await?.result()
    }

    /// Where entities are found; for those who connect systems with each other.
    #[doc(hidden)]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.inner.registry
    }

    #[cfg(feature = "actix-interop")]
    pub(crate) fn task_runtime(&self) -> &Handle {
        &self.inner.tasks
    }

    pub(crate) fn begin_shutdown(&self, reason: ShutdownReason) {
        self.inner.end(reason);
    }

    pub(crate) fn shutdown_tasks(&self) -> &Arc<Tasks> {
        &self.inner.shutdown
    }

    pub(crate) async fn wait_for_end(&self) -> Result<Arc<ShutdownReport>, ShutdownError> {
        let mut ended = self.inner.ended.clone();
        match ended.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(report)) => Ok(Arc::clone(report)),
            _ => Err(ShutdownError::Panicked),
        }
    }
}

impl fmt::Debug for ActorSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActorSystem")
            .field("name", &self.inner.name)
            .field("workers", &self.inner.stats.len())
            .field(
                "store",
                &self.inner.stores.first().map(|store| store.name()),
            )
            .finish_non_exhaustive()
    }
}

/// What a system has and has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SystemStats {
    /// Entities in memory now, recovering ones included.
    pub resident: usize,
    /// Entities that were brought back since the start.
    pub recovered: u64,
    /// Events that were replayed for that.
    pub replayed_events: u64,
    /// Events that were stored.
    pub stored_events: u64,
    /// Snapshots that were saved.
    pub saved_snapshots: u64,
    /// Plain actors that have not ended.
    pub actors: usize,
    /// Failures of plain actors since the start.
    pub actor_failures: u64,
    /// Restarts of plain actors.
    pub actor_restarts: u64,
    /// Commands that took longer than `system.slow-handler`; each is named in the log.
    pub slow_handlers: u64,
    /// Entities that have gone from one worker to another.
    pub moved_entities: u64,
    /// Commands that were refused as `Busy` because they needed a store that was slow or down.
    pub refused_for_store: u64,
    /// How often a worker found a store slow or down.
    pub breakers_opened: u64,
    /// Messages that subscribers of topics and of the event stream did not get as their backlogs were
    /// full, once for each subscriber.
    pub lost_by_subscribers: u64,
}

/// How it stands with a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerStatus {
    /// Its number, from 0.
    pub worker: usize,
    /// Whose code runs at this moment, if any: an actor's path or an entity's id.
    pub running: Option<String>,
    /// For how long it has been running. Beyond `system.stuck-after` the worker counts as stuck.
    pub running_for: Option<Duration>,
    /// How many slices it owns.
    pub slices: usize,
}

/// How it stands with a store. Each worker sees for itself whether the store answers it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStatus {
    /// The store's name.
    pub store: &'static str,
    /// What the workers let through; that of the worker for which it is worst.
    pub breaker: BreakerState,
    /// When that began; `None` if the store has answered from the start on.
    pub since: Option<Timestamp>,
    /// The workers that refuse commands because of it.
    pub workers: usize,
    /// The most calls in a row that failed at one worker, up to now.
    pub failures: u64,
    /// What the store said when it failed last, without credentials. It stays when the store is
    /// back.
    pub last_error: Option<Arc<str>>,
    /// How often a worker found it slow or down.
    pub opened: u64,
    /// Commands that were refused meanwhile.
    pub refused: u64,
}

impl StoreStatus {
    /// Adds what another worker sees.
    fn add(&mut self, report: BreakerReport) {
        self.opened += report.opened;
        self.refused += report.refused;
        self.failures = self.failures.max(report.failures);
        self.workers += usize::from(report.state != BreakerState::Closed);
        let is_worse = report.state > self.breaker;
        // An outage is told from its beginning, its end by when the last one saw it.
        let is_as_bad = report.state == self.breaker
            && if report.state == BreakerState::Closed {
                report.since > self.since
            } else {
                report.since < self.since
            };
        if is_worse || is_as_bad {
            self.since = report.since;
            self.last_error = report.last_error.or(self.last_error.take());
        } else if self.last_error.is_none() {
            self.last_error = report.last_error;
        }
        self.breaker = self.breaker.max(report.state);
    }
}

struct Inner {
    name: String,
    registry: Arc<Registry>,
    /// The system's own, and after it those that entity types have chosen.
    stores: Vec<Arc<dyn Store>>,
    /// Which of them keeps each entity type.
    kept_in: Vec<(&'static str, usize)>,
    /// Where database futures run.
    persistence: Handle,
    stats: Vec<Arc<Stats>>,
    clock: Arc<dyn Clock>,
    /// Where futures of `later` and tasks of the shutdown run.
    tasks: Handle,
    shutdown: Arc<Tasks>,
    shutdown_timeout: Duration,
    shutdown_config: ShutdownConfig,
    running: Mutex<Option<Running>>,
    /// What became of it, once it has ended.
    ended: watch::Receiver<Option<Arc<ShutdownReport>>>,
}

/// What ends with the system.
struct Running {
    engine: Engine,
    deadlines: deadline::Running,
    persistence: Background,
    tasks: Background,
    publisher: Option<Arc<Publisher>>,
    ended: watch::Sender<Option<Arc<ShutdownReport>>>,
}

impl Inner {
    /// Begins the end, unless it has begun.
    fn end(&self, reason: ShutdownReason) {
        let running = self
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(running) = running else {
            return;
        };
        tracing::info!(system = self.name, %reason, "stopping");
        // Whoever comes after this call is refused, unless services are to end first. Actors may
        // still ask entities while they end.
        if !self.shutdown.begin(reason) && !self.registry.stop_actors() {
            self.registry.close();
        }
        let tasks = Arc::clone(&self.shutdown);
        running.engine.end(End {
            course: Course::begin(tasks, self.shutdown_config.clone(), self.tasks.clone()),
            registry: Arc::clone(&self.registry),
            stats: self.stats.clone(),
            stores: self.stores.clone(),
            persistence: running.persistence,
            tasks: running.tasks,
            deadlines: running.deadlines,
            publisher: running.publisher,
            timeout: self.shutdown_timeout,
            ended: running.ended,
        });
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.end(ShutdownReason::Dropped);
    }
}

/// A system was not ended in an orderly way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShutdownError {
    /// Workers were still busy.
    #[error(
        "the system did not stop within {timeout:?} (`system.shutdown-timeout`); commands that \
         waited were refused, those being handled have an unknown outcome"
    )]
    TimedOut {
        /// The time that was given.
        timeout: Duration,
    },
    /// Tasks of the program did not succeed; the system itself ended in an orderly way.
    #[error("tasks of the shutdown failed or were cut off: {}", tasks.join(", "))]
    Tasks {
        /// Their names, each behind its phase.
        tasks: Vec<String>,
    },
    /// The thread that ends the others panicked.
    #[error("the thread that ends the system panicked; its threads may be left")]
    Panicked,
}

/// A system that is about to start.
#[must_use = "a system runs once it is started"]
pub struct SystemBuilder {
    source: ConfigSource,
    store: StoreChoice,
    entities: Vec<Box<dyn AnyEntity>>,
    clock: Arc<dyn Clock>,
}

enum StoreChoice {
    /// Without entities.
    None,
    Plugins(Vec<Box<dyn StorePlugin>>),
    Open(Arc<dyn Store>),
}

impl SystemBuilder {
    fn new(source: ConfigSource, store: StoreChoice) -> Self {
        Self {
            source,
            store,
            entities: Vec::new(),
            clock: Arc::new(SystemClock::new()),
        }
    }

    /// Adds an entity type.
    pub fn entity<E: EventSourced>(mut self, entity: Entity<E>) -> Self {
        self.entities.push(Box::new(entity));
        self
    }

    /// Overrides a setting, such as `persistence.postgres.url`.
    ///
    /// # Errors
    /// [`ConfigError`] if `key` is not written as one.
    pub fn set(
        mut self,
        key: &str,
        value: impl Into<crate::config::ConfigValue>,
    ) -> Result<Self, ConfigError> {
        self.source = self.source.set(key, value)?;
        Ok(self)
    }

    /// Takes time from `clock` instead of the machine's. Deadlines of callers and pauses between
    /// retries still follow the machine's.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Checks the configuration, opens the store and starts the workers. Runs on any executor.
    ///
    /// # Errors
    /// [`StartError`] says which setting, file or server it was; nothing is left running.
    ///
    /// # Cancel safety
    /// Cancel safe: a dropped start ends in the background what it has begun. A store that was
    /// open already is not closed then.
    pub async fn start(self) -> Result<ActorSystem, StartError> {
        let system = SystemConfig::read(&self.source)?;
        let shutdown_config = ShutdownConfig::read(&self.source)?;
        let persistence = PersistenceConfig::read(&self.source)?;
        let configs = self.entity_configs()?;
        let opens = self.choose_stores(&persistence, &configs)?;
        let names: Vec<&str> = self.entities.iter().map(|entity| entity.name()).collect();
        self.source.finish(&names)?;

        let runtime = |what, threads| {
            let name = format!("{}-{what}", system.name);
            Background::start(name, threads, system.blocking_threads).map_err(StartError::Thread)
        };
        let tasks = runtime("tasks", None)?;
        let persistence_runtime = runtime("store", Some(persistence.threads))?;
        let mut stores: Vec<Arc<dyn Store>> = Vec::new();
        let mut plugins: Vec<String> = Vec::new();
        for (plugin, open) in opens {
            match self.open(&persistence_runtime, &plugin, open).await {
                Ok(store) => stores.push(store),
                Err(error) => {
                    close_all(&stores).await;
                    return Err(error);
                }
            }
            plugins.push(plugin);
        }

        let mut assembly =
            Assembly::new().on_stores(stores.iter().map(|store| store.name()).collect());
        let mut stores_of_types = Vec::new();
        let mut kept_in = Vec::new();
        for (entity, config) in self.entities.iter().zip(configs) {
            // Without a choice of its own, or with the same, it is the system's.
            let chosen = config.plugin.as_ref();
            let at = chosen
                .and_then(|chosen| plugins.iter().position(|plugin| plugin == chosen))
                .unwrap_or(0);
            let store = &stores[at];
            if entity.tells() && !leaves_markers(&**store) {
                let (name, store) = (entity.name(), store.name());
                close_all(&stores).await;
                return Err(StartError::ChangeEventsNeedMarkers { name, store });
            }
            stores_of_types.push(entity.store(Arc::clone(store)));
            kept_in.push((entity.name(), at));
            // Events and states go out in batches of their own.
            let (number, command_ids) = match entity.kept() {
                Kept::Events => (at, true),
                Kept::State => (stores.len() + at, leaves_markers(&*stores[at])),
            };
            assembly = entity.add_to(assembly, config, number, command_ids);
        }

        let workers = match system.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        };
        let deadlines = Deadlines::start(&system.name).map_err(StartError::Thread)?;
        let frame = Frame {
            workers,
            settings: Settings::of(&system, &persistence, workers),
            inbox: system.inbox,
            ask_timeout: system.ask_timeout,
            deadlines: Some(Arc::clone(deadlines.deadlines())),
            clock: Arc::clone(&self.clock),
        };
        let mut assembled = assembly.build(frame, rand::random);
        let registry = assembled.registry;
        if system.metrics == MetricsLevel::Timings {
            registry.sampling().begin(system.metrics_sample);
            for (number, (worker, _)) in assembled.workers.iter_mut().enumerate() {
                worker.set_timings(metrics::timings(&system.name, &registry, number));
            }
        }
        let stats: Vec<_> = assembled
            .workers
            .iter()
            .map(|(worker, _)| Arc::clone(worker.stats()))
            .collect();
        let outside = Outside {
            registry: Arc::clone(&registry),
            stores: stores_of_types.into(),
            clock: Arc::clone(&self.clock),
            persistence: persistence_runtime.handle().clone(),
            tasks: tasks.handle().clone(),
        };
        let engine = Engine::start(
            &system.name,
            assembled.workers,
            &outside,
            system.stuck_after,
        )
        .await
        .map_err(StartError::Thread)?;
        let publisher = (system.metrics != MetricsLevel::Off).then(|| {
            metrics::describe();
            let (registry, stats) = (Arc::clone(&registry), stats.clone());
            Arc::new(Publisher::new(system.name.clone(), registry, stats))
        });
        if let Some(publisher) = &publisher {
            let publish = Arc::clone(publisher).run(system.metrics_interval);
            tasks.handle().spawn(publish);
        }
        if !system.rebalance_interval.is_zero() && workers > 1 {
            let (registry, stats) = (Arc::clone(&registry), stats.clone());
            let (interval, most) = (system.rebalance_interval, system.rebalance_slices);
            let balance = balance::run(registry, stats, interval, most);
            tasks.handle().spawn(balance);
        }
        tracing::info!(
            system = system.name,
            workers,
            store = stores.first().map_or("none", |store| store.name()),
            "started"
        );
        let (ended_sender, ended) = watch::channel(None);
        Ok(ActorSystem {
            inner: Arc::new(Inner {
                name: system.name,
                registry,
                stores,
                kept_in,
                persistence: persistence_runtime.handle().clone(),
                stats,
                clock: self.clock,
                tasks: tasks.handle().clone(),
                shutdown: Arc::default(),
                shutdown_timeout: system.shutdown_timeout,
                shutdown_config,
                running: Mutex::new(Some(Running {
                    engine,
                    deadlines,
                    persistence: persistence_runtime,
                    tasks,
                    publisher,
                    ended: ended_sender,
                })),
                ended,
            }),
        })
    }

    /// The final settings of each entity type.
    fn entity_configs(&self) -> Result<Vec<EntityConfig>, StartError> {
        let mut configs = Vec::with_capacity(self.entities.len());
        for (at, entity) in self.entities.iter().enumerate() {
            let name = entity.name();
            if name.is_empty() || name.contains([SEPARATOR, '\0']) {
                return Err(StartError::EntityType { name });
            }
            if self.entities[..at].iter().any(|other| other.name() == name) {
                return Err(StartError::DuplicateEntityType { name });
            }
            entity
                .check_commands()
                .map_err(|error| StartError::Commands { name, error })?;
            let config = EntityConfig::read(&self.source, name, entity.config().clone())?;
            if entity.wants_snapshots() && !entity.has_snapshots() {
                return Err(StartError::NoStateCodec { name });
            }
            if config.snapshot_every > 0 && !entity.has_snapshots() {
                return Err(self
                    .source
                    .invalid(
                        &format!("entity.{name}.snapshot-every"),
                        "has no effect, because this entity type was registered without \
                         snapshots; register it with `Entity::snapshot_every` or \
                         `Entity::state_codec`, or set 0",
                    )
                    .into());
            }
            configs.push(config);
        }
        Ok(configs)
    }

    /// What opens each store that is needed, by its plugin's name; the system's own comes first.
    fn choose_stores(
        &self,
        persistence: &PersistenceConfig,
        entities: &[EntityConfig],
    ) -> Result<Vec<(String, OpenStore)>, StartError> {
        let of_entities: Vec<(&str, &str)> = self
            .entities
            .iter()
            .zip(entities)
            .filter_map(|(entity, config)| Some((entity.name(), config.plugin.as_deref()?)))
            .collect();
        let plugins = match &self.store {
            StoreChoice::None => match self.entities.first() {
                None => return Ok(Vec::new()),
                Some(entity) => {
                    return Err(StartError::NoStore {
                        name: entity.name(),
                    });
                }
            },
            StoreChoice::Open(store) => {
                let other = of_entities.iter().find(|(_, name)| *name != store.name());
                if let Some((entity_type, _)) = other {
                    let key = format!("entity.{entity_type}.plugin");
                    let reason = format!(
                        "names another store than \"{}\", on which the program starts the system",
                        store.name()
                    );
                    return Err(self.source.invalid(&key, &reason).into());
                }
                let store = Arc::clone(store);
                let name = store.name().to_owned();
                let open: OpenStore = Box::new(move || Box::pin(async move { Ok(store) }));
                return Ok(vec![(name, open)]);
            }
            StoreChoice::Plugins(plugins) => plugins,
        };
        let linked: Vec<&str> = plugins.iter().map(|plugin| plugin.name()).collect();
        persistence.check_plugins(&self.source, &linked, &of_entities)?;
        let mut names = vec![persistence.plugin.as_str()];
        for (_, name) in of_entities {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let mut chosen = Vec::new();
        for name in names {
            for plugin in plugins.iter().filter(|plugin| plugin.name() == name) {
                chosen.push((name.to_owned(), plugin.configure(&self.source)?));
            }
        }
        Ok(chosen)
    }

    async fn open(
        &self,
        runtime: &Background,
        plugin: &str,
        open: OpenStore,
    ) -> Result<Arc<dyn Store>, StartError> {
        let opened = match runtime.handle().spawn(async move { open().await }).await {
            Ok(opened) => opened,
            Err(_) => Err(OpenError::Unreachable {
                target: plugin.to_owned(),
                reason: "the plugin panicked while it was opening the store".to_owned(),
                source: None,
            }),
        };
        opened.map_err(|error| {
            let section = format!("persistence.{plugin}");
            match error {
                OpenError::Config { key, reason } => self
                    .source
                    .invalid(&format!("{section}.{key}"), &reason)
                    .into(),
                error => StartError::Store { section, error },
            }
        })
    }
}

impl fmt::Debug for SystemBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entities: Vec<&str> = self.entities.iter().map(|entity| entity.name()).collect();
        f.debug_struct("SystemBuilder")
            .field("source", &self.source)
            .field("entities", &entities)
            .finish_non_exhaustive()
    }
}

/// Why a system did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store could not be opened.
    #[error("{error} (configured in `[{section}]`)")]
    Store {
        /// The section with the store's settings.
        section: String,
        /// What the store says.
        #[source]
        error: OpenError,
    },
    /// An entity type's name cannot be part of an id.
    #[error("entity type \"{name}\" is empty or contains `|` or U+0000; change its `TYPE`")]
    EntityType {
        /// The name.
        name: &'static str,
    },
    /// There is an entity type, and no store to keep it in.
    #[error(
        "entity type \"{name}\" needs a store, and the system was made by `in_memory`; use \
         `from_config` or `with_store`"
    )]
    NoStore {
        /// The name of the first one.
        name: &'static str,
    },
    /// Two entity types have one name.
    #[error("entity type \"{name}\" is given twice; every type needs a `TYPE` of its own")]
    DuplicateEntityType {
        /// The name.
        name: &'static str,
    },
    /// Snapshots are wanted of a state that nothing can encode.
    #[error(
        "entity type \"{name}\" has `snapshot_when`, but no codec for its state; add \
         `Entity::state_codec` or `Entity::snapshot_every`"
    )]
    NoStateCodec {
        /// The name.
        name: &'static str,
    },
    /// The names of its commands cannot be.
    #[error("the commands of entity type \"{name}\" cannot be told apart")]
    Commands {
        /// The name of the type.
        name: &'static str,
        /// What is wrong with them.
        #[source]
        error: InvalidCommands,
    },
    /// Change events are wanted where the rows of deleted states are removed.
    #[error(
        "entity type \"{name}\" has change events, but its store removes the rows of deleted \
         states, after which their numbers would begin again; set `durable-state-delete = \
         \"marker\"` in `[persistence.{store}]`"
    )]
    ChangeEventsNeedMarkers {
        /// The name.
        name: &'static str,
        /// The store's name.
        store: &'static str,
    },
    /// The operating system gave no thread or runtime.
    #[error("a thread of the system could not be started")]
    Thread(#[source] std::io::Error),
}

/// Whether a deleted state keeps its revision there.
fn leaves_markers(store: &dyn Store) -> bool {
    store.durable_state_store().deletion_leaves() == DurableStateDelete::Marker
}

async fn close_all(stores: &[Arc<dyn Store>]) {
    for store in stores {
        store.close().await;
    }
}

/// An entity type whose Rust type is forgotten.
trait AnyEntity: Send + Sync {
    fn name(&self) -> &'static str;
    fn config(&self) -> &EntityConfig;
    fn has_snapshots(&self) -> bool;
    fn wants_snapshots(&self) -> bool;
    fn check_commands(&self) -> Result<(), InvalidCommands>;
    fn kept(&self) -> Kept;
    fn tells(&self) -> bool;
    fn store(&self, store: Arc<dyn Store>) -> Arc<dyn Store>;
    fn add_to(
        &self,
        assembly: Assembly,
        config: EntityConfig,
        store: usize,
        command_ids: bool,
    ) -> Assembly;
}

impl<E: EventSourced> AnyEntity for Entity<E> {
    fn name(&self) -> &'static str {
        E::TYPE
    }

    fn config(&self) -> &EntityConfig {
        Entity::config(self)
    }

    fn has_snapshots(&self) -> bool {
        Entity::has_snapshots(self)
    }

    fn wants_snapshots(&self) -> bool {
        Entity::wants_snapshots(self)
    }

    fn check_commands(&self) -> Result<(), InvalidCommands> {
        Entity::check_commands(self)
    }

    fn kept(&self) -> Kept {
        Entity::kept(self)
    }

    fn tells(&self) -> bool {
        Entity::tells(self)
    }

    fn store(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        Entity::store(self, store)
    }

    fn add_to(
        &self,
        assembly: Assembly,
        config: EntityConfig,
        store: usize,
        command_ids: bool,
    ) -> Assembly {
        assembly.configured(self, config, store, command_ids)
    }
}
