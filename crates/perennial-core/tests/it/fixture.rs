//! What the tests share: an entity whose handlers are written in the test, a store that is watched
//! and fails on demand, ways to wait for a condition, and the log.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use perennial_core::config::ConfigSource;
use perennial_core::{
    ActorSystem, Ask, AskError, Cx, Effect, Entity, EntityRef, EventSourced, Handle,
    PersistFailure, SystemBuilder,
};
use perennial_persistence::{
    AtomicWrite, BoxFuture, Clock, CommandReplyStore, DurableStateStore, Error, Journal,
    MessagePack, NewEvent, PageLimit, PersistenceId, ReminderStore, ReplayPage, SequenceNr,
    SerializedPayload, SnapshotStore, Store, WriterId, Written,
};
use perennial_testkit::{Faults, FaultyStore, Gate, JournalRow, MemoryStore};
use serde::{Deserialize, Serialize, Serializer};

/// How long anything may take before the test fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

// ---- the entity ----

/// Remembers the numbers that were noted, in order.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ledger {
    pub(crate) notes: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Entry {
    Noted(u64),
    /// Many bytes.
    Padded(String),
    /// `apply` panics on it.
    Poison,
    /// Cannot be encoded.
    #[serde(serialize_with = "refuse", skip_deserializing)]
    Unencodable,
}

fn refuse<S: Serializer>(_: S) -> Result<S::Ok, S::Error> {
    Err(serde::ser::Error::custom("this one has no representation"))
}

/// What the handlers may use from outside.
#[derive(Debug, Default)]
pub(crate) struct Services {
    pub(crate) greeting: &'static str,
}

impl EventSourced for Ledger {
    const TYPE: &'static str = "Ledger";
    type Event = Entry;
    type Services = Services;

    fn apply(&mut self, event: &Entry) {
        match event {
            Entry::Noted(number) => self.notes.push(*number),
            Entry::Padded(_) | Entry::Unencodable => {}
            Entry::Poison => panic!("this event cannot be applied"),
        }
    }
}

/// Stores a number; the reply is everything noted by then.
#[derive(Debug, Clone)]
pub(crate) struct Note(pub(crate) u64);

impl Handle<Note> for Ledger {
    type Reply = Vec<u64>;

    fn handle(&self, command: Note, cx: &Cx<'_, Self>) -> Effect<Self, Vec<u64>> {
        cx.persist([Entry::Noted(command.0)])
            .reply(|ledger| ledger.notes.clone())
    }
}

/// Everything noted so far.
#[derive(Debug, Clone)]
pub(crate) struct Read;

impl Handle<Read> for Ledger {
    type Reply = Vec<u64>;

    fn handle(&self, _: Read, cx: &Cx<'_, Self>) -> Effect<Self, Vec<u64>> {
        cx.reply(self.notes.clone())
    }
}

/// Panics.
#[derive(Debug, Clone)]
pub(crate) struct Panic;

impl Handle<Panic> for Ledger {
    type Reply = ();

    fn handle(&self, _: Panic, _: &Cx<'_, Self>) -> Effect<Self, ()> {
        panic!("this handler always panics")
    }
}

/// Adds a line to a record when it is handled; put aside while the ledger is empty if asked to.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    pub(crate) text: &'static str,
    pub(crate) record: Record,
    pub(crate) only_with_notes: bool,
}

impl Handle<Mark> for Ledger {
    type Reply = &'static str;

    fn handle(&self, command: Mark, cx: &Cx<'_, Self>) -> Effect<Self, &'static str> {
        if command.only_with_notes && self.notes.is_empty() {
            return cx.stash(command);
        }
        command.record.add(command.text);
        cx.reply(command.text)
    }
}

pub(crate) fn mark(text: &'static str, record: &Record) -> Mark {
    Mark {
        text,
        record: record.clone(),
        only_with_notes: false,
    }
}

/// As [`mark`], but stashed while nothing is noted.
pub(crate) fn mark_later(text: &'static str, record: &Record) -> Mark {
    Mark {
        only_with_notes: true,
        ..mark(text, record)
    }
}

/// A command whose handler is written where it is sent.
pub(crate) struct Run<F, R>(F, PhantomData<fn() -> R>);

impl<F, R> Handle<Run<F, R>> for Ledger
where
    F: FnOnce(&Ledger, &Cx<'_, Ledger>) -> Effect<Ledger, R> + Send + 'static,
    R: Send + 'static,
{
    type Reply = R;

    fn handle(&self, command: Run<F, R>, cx: &Cx<'_, Self>) -> Effect<Self, R> {
        (command.0)(self, cx)
    }
}

pub(crate) fn run<F, R>(handler: F) -> Run<F, R>
where
    F: FnOnce(&Ledger, &Cx<'_, Ledger>) -> Effect<Ledger, R> + Send + 'static,
    R: Send + 'static,
{
    Run(handler, PhantomData)
}

pub(crate) fn noted(numbers: impl IntoIterator<Item = u64>) -> Vec<Entry> {
    numbers.into_iter().map(Entry::Noted).collect()
}

/// The entity without snapshots, restarting fast.
pub(crate) fn ledger() -> Entity<Ledger> {
    Entity::new(Services { greeting: "hello" })
        .restart_backoff(Duration::from_millis(1), Duration::from_millis(5))
}

pub(crate) fn id(entity_id: &str) -> PersistenceId {
    PersistenceId::new(Ledger::TYPE, entity_id).expect("a valid id")
}

// ---- the system ----

/// A database that outlives its systems, with faults between them.
#[derive(Debug, Clone)]
pub(crate) struct Bed {
    pub(crate) memory: MemoryStore,
    pub(crate) faults: Faults,
    pub(crate) calls: Arc<Calls>,
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self::with(MemoryStore::default())
    }

    /// A database that takes its time from `clock`.
    pub(crate) fn on(clock: Arc<dyn Clock>) -> Self {
        Self::with(MemoryStore::new(clock))
    }

    fn with(memory: MemoryStore) -> Self {
        Self {
            memory,
            faults: Faults::default(),
            calls: Arc::default(),
        }
    }

    /// Another opening of the store.
    pub(crate) fn open(&self) -> (Arc<dyn Store>, FaultyStore) {
        let faulty =
            FaultyStore::with_faults(Arc::new(self.memory.open_again()), self.faults.clone());
        let watched = Watched {
            inner: Arc::new(faulty.clone()),
            calls: Arc::clone(&self.calls),
        };
        (Arc::new(watched), faulty)
    }

    /// A system with one worker, which tries again fast. `settings` are keys with their values.
    pub(crate) fn builder(&self, settings: &[(&str, &str)]) -> SystemBuilder {
        let (store, _) = self.open();
        ActorSystem::with_store(config(settings), store)
    }

    pub(crate) async fn start(&self, settings: &[(&str, &str)]) -> ActorSystem {
        self.start_with(ledger(), settings).await
    }

    pub(crate) async fn start_with(
        &self,
        entity: Entity<Ledger>,
        settings: &[(&str, &str)],
    ) -> ActorSystem {
        let builder = self.builder(settings).entity(entity);
        builder.start().await.expect("a system on memory starts")
    }

    pub(crate) async fn start_on(
        &self,
        clock: Arc<dyn Clock>,
        entity: Entity<Ledger>,
        settings: &[(&str, &str)],
    ) -> ActorSystem {
        let builder = self.builder(settings).entity(entity).clock(clock);
        builder.start().await.expect("a system on memory starts")
    }

    /// The events of an entity as they are stored.
    pub(crate) fn stored(&self, entity_id: &str) -> Vec<Entry> {
        let codec = codec();
        self.memory
            .rows(&id(entity_id))
            .into_iter()
            .filter_map(|row| row.event)
            .map(|(_, event)| {
                perennial_persistence::Codec::decode(&codec, &event.payload).expect("written here")
            })
            .collect()
    }

    /// The rows of an entity.
    pub(crate) fn rows(&self, entity_id: &str) -> Vec<JournalRow> {
        self.memory.rows(&id(entity_id))
    }

    /// Stores events as another program would.
    pub(crate) async fn write_foreign(&self, entity_id: &str, first: u64, events: Vec<Entry>) {
        let payloads = events.iter().map(encode).collect();
        self.write_payloads(entity_id, first, payloads).await;
    }

    /// Stores any payloads as another program would.
    pub(crate) async fn write_payloads(
        &self,
        entity_id: &str,
        first: u64,
        payloads: Vec<SerializedPayload>,
    ) {
        static WRITERS: AtomicUsize = AtomicUsize::new(1);
        let writer = WRITERS.fetch_add(1, Ordering::Relaxed) as u128;
        let write = AtomicWrite::new(
            id(entity_id),
            WriterId::from_random_bits(writer),
            SequenceNr::new(first).expect("in range"),
            payloads.into_iter().map(NewEvent::new).collect(),
        );
        let journal = self.memory.open_again().journal();
        let answers = journal.write_events(&[write.expect("a valid write")]).await;
        for answer in answers {
            answer.expect("the numbers are free");
        }
    }
}

pub(crate) fn config(settings: &[(&str, &str)]) -> ConfigSource {
    let mut all = BTreeMap::from([
        ("system.workers", "1"),
        ("system.ask-timeout", "30s"),
        ("persistence.retry-min", "1ms"),
        ("persistence.retry-max", "5ms"),
    ]);
    all.extend(settings.iter().copied());
    let mut text = String::new();
    for (key, value) in all {
        if value.parse::<i64>().is_ok() {
            text.push_str(&format!("{key} = {value}\n"));
        } else {
            text.push_str(&format!("{key} = {value:?}\n"));
        }
    }
    ConfigSource::from_toml("test.toml", &text).expect("the tests write valid TOML")
}

pub(crate) fn codec() -> MessagePack<Entry> {
    MessagePack::new("Ledger.Event")
}

pub(crate) fn encode(event: &Entry) -> SerializedPayload {
    perennial_persistence::Codec::encode(&codec(), event).expect("an encodable event")
}

/// Entities whose writes share a lane, or not, with that of "a": with two lanes the slice's parity
/// decides.
pub(crate) fn ids_of_lane(lane: u16, count: usize) -> Vec<String> {
    (0..)
        .map(|number| format!("lane{lane}-{number}"))
        .filter(|entity_id| id(entity_id).slice().value() % 2 == lane)
        .take(count)
        .collect()
}

// ---- asking ----

/// Sends a command right away and gives the task that waits for its reply.
pub(crate) fn send<C>(
    entity: &EntityRef<Ledger>,
    command: C,
) -> Pending<<Ledger as Handle<C>>::Reply>
where
    C: Send + 'static,
    Ledger: Handle<C>,
{
    send_ask(entity.ask(command))
}

/// Asks again while the mailbox is full: what was sent before may not have been handled yet.
pub(crate) async fn ask_with_room<C>(
    entity: &EntityRef<Ledger>,
    command: impl Fn() -> C,
) -> Result<<Ledger as Handle<C>>::Reply, AskError>
where
    C: Send + 'static,
    Ledger: Handle<C>,
{
    let start = Instant::now();
    loop {
        match entity.ask(command()).await {
            Err(AskError::Busy { retry_after, .. }) if start.elapsed() < DEADLINE => {
                tokio::time::sleep(retry_after).await;
            }
            answer => return answer,
        }
    }
}

/// As [`send`], with the ask's own options.
pub(crate) fn send_ask<C>(ask: Ask<Ledger, C>) -> Pending<<Ledger as Handle<C>>::Reply>
where
    C: Send + 'static,
    Ledger: Handle<C>,
{
    // The command is sent here; the task only waits.
    Pending {
        task: tokio::spawn(ask.into_future()),
    }
}

/// A command that was sent.
pub(crate) struct Pending<R> {
    task: tokio::task::JoinHandle<Result<R, AskError>>,
}

impl<R: Send + 'static> Pending<R> {
    /// Sends an ask with whatever options right away.
    pub(crate) fn of<A>(ask: A) -> Self
    where
        A: IntoFuture<Output = Result<R, AskError>, IntoFuture: Send + 'static>,
    {
        Self {
            task: tokio::spawn(ask.into_future()),
        }
    }
}

impl<R> Pending<R> {
    /// What the caller is told.
    pub(crate) async fn answer(self) -> Result<R, AskError> {
        let answer = tokio::time::timeout(DEADLINE, self.task).await;
        answer
            .expect("an answer within the deadline")
            .expect("asking does not panic")
    }

    /// Whether there is no answer yet.
    pub(crate) fn is_open(&self) -> bool {
        !self.task.is_finished()
    }
}

/// The kind of a failed persist.
pub(crate) fn persist_failure<R: fmt::Debug>(answer: Result<R, AskError>) -> PersistFailure {
    match answer {
        Err(AskError::PersistFailed(failed)) => failed.kind,
        other => panic!("expected a failed persist, not {other:?}"),
    }
}

// ---- waiting ----

/// Waits until a condition holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub(crate) async fn in_time<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

/// Lets the only worker take in everything that was sent to it before, look at its clock, and give
/// each of its entities a turn: another of its entities answers twice.
pub(crate) async fn settle(system: &ActorSystem) {
    for _ in 0..2 {
        let answer = send(&system.entity::<Ledger>("bystander"), Read).answer();
        answer.await.expect("the worker answers");
    }
}

/// As [`settle`], and lets recoveries end that the worker has begun by then: one that begins after
/// them has ended.
pub(crate) async fn settle_recoveries(system: &ActorSystem) {
    static FRESH: AtomicUsize = AtomicUsize::new(0);
    settle(system).await;
    let fresh = format!("fresh{}", FRESH.fetch_add(1, Ordering::Relaxed));
    let answer = send(&system.entity::<Ledger>(fresh), Read).answer().await;
    answer.expect("an entity without a history recovers");
    settle(system).await;
}

/// Lines in the order in which they came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record {
    lines: Arc<Mutex<Vec<&'static str>>>,
}

impl Record {
    pub(crate) fn add(&self, line: &'static str) {
        lock(&self.lines).push(line);
    }

    pub(crate) fn lines(&self) -> Vec<&'static str> {
        lock(&self.lines).clone()
    }
}

/// A place where blocked code waits for the test.
#[derive(Debug, Clone, Default)]
pub(crate) struct Latch {
    state: Arc<(Mutex<bool>, std::sync::Condvar)>,
}

impl Latch {
    pub(crate) fn open(&self) {
        *lock(&self.state.0) = true;
        self.state.1.notify_all();
    }

    /// Blocks the thread until the latch is open.
    pub(crate) fn wait(&self) {
        let open = lock(&self.state.0);
        let waited = self
            .state
            .1
            .wait_timeout_while(open, DEADLINE, |open| !*open);
        let timeout = waited.unwrap_or_else(PoisonError::into_inner).1;
        assert!(!timeout.timed_out(), "the test did not open the latch");
    }
}

// ---- the store that is watched ----

/// What the system asked of its store.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    /// The batches of writes: the ids of the writes in each, with their numbers of events.
    batches: Mutex<Vec<Vec<(PersistenceId, usize)>>>,
    /// Where each batch was begun and where it went on.
    places: Mutex<Vec<[Place; 2]>>,
    pub(crate) writing: Level,
    /// Pages read.
    pub(crate) reading: Level,
    /// Snapshots read.
    pub(crate) loading: Level,
}

impl Calls {
    pub(crate) fn batches(&self) -> Vec<Vec<(PersistenceId, usize)>> {
        lock(&self.batches).clone()
    }

    pub(crate) fn places(&self) -> Vec<[Place; 2]> {
        lock(&self.places).clone()
    }
}

/// Where code of a store runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) thread: std::thread::ThreadId,
    pub(crate) runtime: tokio::runtime::Id,
}

impl Place {
    fn here() -> Self {
        Self {
            thread: std::thread::current().id(),
            runtime: tokio::runtime::Handle::current().id(),
        }
    }
}

/// How many at once.
#[derive(Debug, Default)]
pub(crate) struct Level {
    now: AtomicUsize,
    highest: AtomicUsize,
    total: AtomicUsize,
}

impl Level {
    pub(crate) fn now(&self) -> usize {
        self.now.load(Ordering::SeqCst)
    }

    pub(crate) fn highest(&self) -> usize {
        self.highest.load(Ordering::SeqCst)
    }

    pub(crate) fn total(&self) -> usize {
        self.total.load(Ordering::SeqCst)
    }

    fn enter(&self) -> Entered<'_> {
        self.total.fetch_add(1, Ordering::SeqCst);
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.highest.fetch_max(now, Ordering::SeqCst);
        Entered(self)
    }
}

struct Entered<'a>(&'a Level);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Debug)]
struct Watched {
    inner: Arc<dyn Store>,
    calls: Arc<Calls>,
}

impl Store for Watched {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn journal(&self) -> Arc<dyn Journal> {
        Arc::new(WatchedJournal {
            inner: self.inner.journal(),
            calls: Arc::clone(&self.calls),
        })
    }

    fn snapshot_store(&self) -> Arc<dyn SnapshotStore> {
        Arc::new(WatchedSnapshots {
            inner: self.inner.snapshot_store(),
            calls: Arc::clone(&self.calls),
        })
    }

    fn durable_state_store(&self) -> Arc<dyn DurableStateStore> {
        self.inner.durable_state_store()
    }

    fn command_replies(&self) -> Arc<dyn CommandReplyStore> {
        self.inner.command_replies()
    }

    fn reminders(&self) -> Arc<dyn ReminderStore> {
        self.inner.reminders()
    }

    fn warnings(&self) -> Vec<String> {
        self.inner.warnings()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.inner.close()
    }
}

#[derive(Debug)]
struct WatchedJournal {
    inner: Arc<dyn Journal>,
    calls: Arc<Calls>,
}

impl Journal for WatchedJournal {
    fn write_events<'a>(
        &'a self,
        batch: &'a [AtomicWrite],
    ) -> BoxFuture<'a, Vec<Result<Written, Error>>> {
        Box::pin(async move {
            let _entered = self.calls.writing.enter();
            let begun = Place::here();
            tokio::task::yield_now().await;
            lock(&self.calls.places).push([begun, Place::here()]);
            lock(&self.calls.batches).push(
                batch
                    .iter()
                    .map(|write| (write.persistence_id().clone(), write.events().len()))
                    .collect(),
            );
            self.inner.write_events(batch).await
        })
    }

    fn replay_events<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        from: SequenceNr,
        to: SequenceNr,
        limit: PageLimit,
    ) -> BoxFuture<'a, Result<ReplayPage, Error>> {
        Box::pin(async move {
            let _entered = self.calls.reading.enter();
            // Others that read at the same time get the chance to be seen.
            tokio::task::yield_now().await;
            let read = self.inner.replay_events(persistence_id, from, to, limit);
            read.await
        })
    }

    fn highest_sequence_nr<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        from: SequenceNr,
    ) -> BoxFuture<'a, Result<SequenceNr, Error>> {
        self.inner.highest_sequence_nr(persistence_id, from)
    }

    fn delete_events<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        to: SequenceNr,
    ) -> BoxFuture<'a, Result<(), Error>> {
        self.inner.delete_events(persistence_id, to)
    }

    fn remove_events<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        to: SequenceNr,
        limit: usize,
    ) -> BoxFuture<'a, Result<usize, Error>> {
        self.inner.remove_events(persistence_id, to, limit)
    }
}

#[derive(Debug)]
struct WatchedSnapshots {
    inner: Arc<dyn SnapshotStore>,
    calls: Arc<Calls>,
}

impl SnapshotStore for WatchedSnapshots {
    fn load<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        criteria: perennial_persistence::SnapshotCriteria,
    ) -> BoxFuture<'a, Result<Option<perennial_persistence::Snapshot>, Error>> {
        Box::pin(async move {
            let _entered = self.calls.loading.enter();
            self.inner.load(persistence_id, criteria).await
        })
    }

    fn save<'a>(
        &'a self,
        snapshot: &'a perennial_persistence::Snapshot,
    ) -> BoxFuture<'a, Result<(), Error>> {
        self.inner.save(snapshot)
    }

    fn delete<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        criteria: perennial_persistence::SnapshotCriteria,
    ) -> BoxFuture<'a, Result<(), Error>> {
        self.inner.delete(persistence_id, criteria)
    }
}

/// Holds every write from now on, until the gate is opened.
pub(crate) fn hold_writes(faults: &Faults) -> Gate {
    let gate = Gate::new();
    let held = gate.clone();
    faults
        .writes
        .decide(move |_| Some(perennial_testkit::WriteFault::Held(held.clone())));
    gate
}

// ---- the log ----

/// A line of the log.
#[derive(Debug, Clone)]
pub(crate) struct LogLine {
    pub(crate) level: tracing::Level,
    pub(crate) message: String,
    pub(crate) fields: BTreeMap<&'static str, String>,
}

/// All that the tests of this process have logged about one entity.
pub(crate) fn log_of(entity_id: &str) -> Vec<LogLine> {
    log_where("persistence_id", &id(entity_id).to_string())
}

/// All that the tests of this process have logged with a field.
pub(crate) fn log_where(field: &str, value: &str) -> Vec<LogLine> {
    let lines = lock(log()).clone();
    lines
        .into_iter()
        .filter(|line| line.fields.get(field).is_some_and(|found| found == value))
        .collect()
}

/// Begins to collect the log of this process; workers log on threads of their own.
pub(crate) fn log() -> &'static Mutex<Vec<LogLine>> {
    use tracing_subscriber::layer::SubscriberExt;
    static LOG: OnceLock<Arc<Mutex<Vec<LogLine>>>> = OnceLock::new();
    LOG.get_or_init(|| {
        let lines = Arc::<Mutex<Vec<LogLine>>>::default();
        let collector = Collector {
            lines: Arc::clone(&lines),
        };
        let subscriber = tracing_subscriber::registry().with(collector);
        tracing::subscriber::set_global_default(subscriber).expect("nobody else collects the log");
        lines
    })
}

struct Collector {
    lines: Arc<Mutex<Vec<LogLine>>>,
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Collector {
    fn enabled(
        &self,
        metadata: &tracing::Metadata<'_>,
        _: tracing_subscriber::layer::Context<'_, S>,
    ) -> bool {
        metadata.target().starts_with("perennial") && *metadata.level() <= tracing::Level::INFO
    }

    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        let mut line = LogLine {
            level: *event.metadata().level(),
            message: String::new(),
            fields: BTreeMap::new(),
        };
        event.record(&mut Fields(&mut line));
        lock(&self.lines).push(line);
    }
}

struct Fields<'a>(&'a mut LogLine);

impl tracing::field::Visit for Fields<'_> {
    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        self.0.fields.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.0.message = text;
        } else {
            self.0.fields.insert(field.name(), text);
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
