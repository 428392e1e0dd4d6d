//! What a program with a recorder of the crate `metrics` and a subscriber of `tracing` is told. In a
//! process of its own, as there is one recorder and one subscriber in each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use metrics_util::MetricKind;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use perennial_core::config::ConfigSource;
use perennial_core::{
    Actor, ActorCx, ActorSystem, AskError, Backlog, Cx, Effect, Entity, EventSourced, Failure,
    Handle, Overflow, Props, Receive, Received, Supervision, WorkQueue, WorkQueueProps,
};
use perennial_persistence::telemetry::metric::{self, Kind};
use perennial_persistence::telemetry::{MESSAGE_TARGET, label, span};
use perennial_testkit::{Faults, FaultyStore, MemoryStore, ReadFault, WriteFault};
use tracing_subscriber::layer::{Context, SubscriberExt};

const DEADLINE: Duration = Duration::from_secs(30);

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

// ---- an entity and an actor ----

#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct Tally(u64);

impl EventSourced for Tally {
    const TYPE: &'static str = "Tally";
    type Event = u64;
    type Services = ();

    fn apply(&mut self, event: &u64) {
        self.0 += event;
    }
}

#[derive(Debug)]
enum Order {
    Add(u64),
    Leave,
    Panic,
}

impl Handle<Order> for Tally {
    type Reply = u64;

    fn handle(&self, order: Order, cx: &Cx<'_, Self>) -> Effect<Self, u64> {
        match order {
            Order::Add(count) => cx.persist([count]).reply(|tally| tally.0),
            Order::Leave => {
                let total = self.0;
                cx.stop().reply(move |_| total)
            }
            Order::Panic => panic!("as it was told to"),
        }
    }
}

struct Clerk;

impl Actor for Clerk {}

#[derive(Debug)]
enum Job {
    Note,
    Refuse,
    Fail,
    /// Never ends, and nothing else is handled meanwhile.
    Hang,
}

impl Receive<Job> for Clerk {
    type Reply = ();

    fn receive(&mut self, job: Job, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        match job {
            Job::Note => {
                tracing::info!(target: MESSAGE_TARGET, "noted");
                cx.reply(())
            }
            Job::Refuse => cx.unhandled(),
            Job::Fail => Err(Failure::new("as it was told to")),
            Job::Hang => {
                let never = std::future::pending::<()>();
                cx.exclusive().later(never, |(), _, cx| cx.reply(()))
            }
        }
    }
}

// ---- metrics ----

/// A series: its name and labels.
type Series = (String, BTreeMap<String, String>);

/// The recorder of the process.
fn snapshotter() -> &'static Snapshotter {
    static SNAPSHOTTER: OnceLock<Snapshotter> = OnceLock::new();
    SNAPSHOTTER.get_or_init(|| {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        recorder.install().expect("the only recorder");
        snapshotter
    })
}

/// Everything that was ever recorded, with the highest value of each series, and its kind.
#[derive(Default)]
struct Seen(BTreeMap<Series, (Kind, f64)>);

impl Seen {
    fn look(&mut self) -> &mut Self {
        for (key, _, _, value) in snapshotter().snapshot().into_vec() {
            let kind = match key.kind() {
                MetricKind::Counter => Kind::Counter,
                MetricKind::Gauge => Kind::Gauge,
                MetricKind::Histogram => Kind::Histogram,
            };
            let value = match value {
                DebugValue::Counter(count) => count as f64,
                DebugValue::Gauge(value) => value.into_inner(),
                DebugValue::Histogram(values) => values.len() as f64,
            };
            let labels = key.key().labels();
            let labels = labels.map(|label| (label.key().to_owned(), label.value().to_owned()));
            let series = (key.key().name().to_owned(), labels.collect());
            let seen = self.0.entry(series).or_insert((kind, 0.0));
            seen.1 = seen.1.max(value);
        }
        self
    }

    /// The sum of all series of a metric with a label.
    fn sum(&self, name: &str, label: (&str, &str)) -> f64 {
        let series = self.0.iter().filter(|((named, labels), _)| {
            named == name && labels.get(label.0).is_some_and(|value| value == label.1)
        });
        series.map(|(_, (_, value))| value).sum()
    }
}

async fn start(name: &str, level: &str, faults: &Faults) -> ActorSystem {
    let source = ConfigSource::from_toml(
        "test.toml",
        &format!(
            r#"
            [system]
            name = "{name}"
            workers = 1
            metrics = "{level}"
            metrics-interval = "100ms"
            metrics-sample = 1
            slow-handler = "1us"
            [persistence]
            breaker-failures = 1
            breaker-reset = "1h"
            "#
        ),
    );
    let store = FaultyStore::with_faults(Arc::new(MemoryStore::default()), faults.clone());
    let tally = Entity::<Tally>::new(())
        .snapshot_every(2)
        .restart_backoff(Duration::from_millis(1), Duration::from_millis(1));
    ActorSystem::with_store(source.expect("valid TOML"), Arc::new(store))
        .entity(tally)
        .start()
        .await
        .expect("starts")
}

/// Has something happen of everything that is told.
async fn everything_happens(system: &ActorSystem, faults: &Faults) {
    let tally = system.entity::<Tally>("a");
    for count in 1..=3 {
        assert_eq!(tally.ask(Order::Add(1)).await, Ok(count));
    }
    // A save whose entity has gone or begun anew by its end is not counted.
    until("it is saved", || system.stats().saved_snapshots == 1).await;
    assert_eq!(tally.ask(Order::Leave).await, Ok(3));
    assert_eq!(tally.ask(Order::Add(1)).await, Ok(4));
    until("it is saved", || system.stats().saved_snapshots == 2).await;
    assert!(tally.ask(Order::Panic).await.is_err());
    assert_eq!(tally.ask(Order::Add(1)).await, Ok(5));

    let quick = Supervision::default().backoff(Duration::from_millis(1), Duration::from_millis(1));
    let clerk = Props::new(|| Clerk).mailbox(1).supervision(quick);
    let clerk = system.spawn("clerk", clerk).expect("a free name");
    assert_eq!(clerk.ask(Job::Note).await, Ok(()));
    assert_eq!(clerk.ask(Job::Refuse).await, Err(AskError::Unhandled));
    assert!(clerk.ask(Job::Fail).await.is_err());
    until("it has begun anew", || system.stats().actor_restarts > 0).await;
    clerk.tell(Job::Hang).expect("there is room");
    until("it hangs", || clerk.queue_depth() == 0).await;
    let waits = clerk.ask(Job::Note).timeout(Duration::from_millis(20));
    let waits = waits.into_future();
    assert!(matches!(
        clerk.tell(Job::Note),
        Err(AskError::Busy {
            what: "the actor's mailbox",
            ..
        })
    ));
    assert_eq!(waits.await, Err(AskError::Expired));

    faults.writes.decide(|_| Some(WriteFault::Unavailable));
    faults.reads.decide(|_| Some(ReadFault::Unavailable));
    tally.tell(Order::Add(1)).expect("there is room");
    until("the store counts as down", || {
        system.stats().breakers_opened > 0
    })
    .await;
    let refused = tally.ask(Order::Add(1)).await;
    assert!(matches!(refused, Err(AskError::Busy { .. })), "{refused:?}");
}

#[tokio::test]
async fn every_metric_of_the_list_is_told_and_no_other() {
    snapshotter();
    let faults = Faults::default();
    let silent = start("silent", "off", &faults).await;
    let counted = start("counted", "counts", &faults).await;
    assert_eq!(silent.entity::<Tally>("a").ask(Order::Add(1)).await, Ok(1));
    assert_eq!(counted.entity::<Tally>("a").ask(Order::Add(1)).await, Ok(1));
    // One message more than a subscriber has room for, and work that nobody has done at the end.
    let topic = counted.topic::<u32>("numbers");
    let numbers = topic.stream(Backlog::new(1, Overflow::DropNew));
    for number in 1..=2 {
        topic.publish(number).expect("it runs");
    }
    drop(numbers);
    let jobs: WorkQueue<u32, ()> = counted.work_queue("jobs", WorkQueueProps::default());
    jobs.try_submit(1).expect("there is room");
    silent.shutdown().await.expect("in time");
    counted.shutdown().await.expect("in time");
    let system = start("told", "timings", &faults).await;
    everything_happens(&system, &faults).await;

    let mut seen = Seen::default();
    let told = (label::SYSTEM, "told");
    // All of them are told at once.
    until("all of it is told", || {
        let seen = seen.look();
        seen.sum(metric::BUSY, (label::BOUND, "store")) == 1.0
            && seen.sum(metric::EXPIRED, told) == 1.0
    })
    .await;
    for (name, count) in [
        (metric::ACTORS, 1.0),
        (metric::ACTOR_FAILURES, 1.0),
        (metric::ACTOR_RESTARTS, 1.0),
        (metric::RESIDENT_ENTITIES, 1.0),
        (metric::ENTITY_FAILURES, 1.0),
        (metric::RECOVERIES, 3.0),
        // One behind the snapshot at 2, and none behind that at 4.
        (metric::REPLAYED_EVENTS, 1.0),
        (metric::STORED_EVENTS, 5.0),
        (metric::SAVED_SNAPSHOTS, 2.0),
    ] {
        assert_eq!(seen.sum(name, told), count, "{name}");
    }
    assert!(seen.sum(metric::QUEUE_DEPTH, told) <= 2.0);
    assert!(seen.sum(metric::SLOW_HANDLERS, told) > 0.0);
    assert_eq!(seen.sum(metric::BUSY, (label::BOUND, "mailbox")), 1.0);
    let unhandled = (label::REASON, "unhandled");
    assert_eq!(seen.sum(metric::DEAD_LETTERS, unhandled), 1.0);
    for name in [
        metric::ENTITY_QUEUE_TIME,
        metric::ENTITY_HANDLE_TIME,
        metric::ACTOR_QUEUE_TIME,
        metric::ACTOR_HANDLE_TIME,
    ] {
        assert!(seen.sum(name, told) >= 3.0, "{name}");
        assert_eq!(seen.sum(name, (label::SYSTEM, "counted")), 0.0, "{name}");
    }
    assert_eq!(
        seen.sum(metric::STORED_EVENTS, (label::SYSTEM, "counted")),
        1.0
    );

    let names: BTreeSet<&str> = seen.0.keys().map(|(name, _)| name.as_str()).collect();
    let listed: BTreeSet<&str> = metric::ALL.iter().map(|metric| metric.name).collect();
    assert_eq!(names, listed);
    for ((name, labels), (kind, _)) in &seen.0 {
        let metric = metric::ALL.iter().find(|metric| metric.name == name);
        let metric = metric.expect("it is listed");
        let labelled: BTreeSet<&str> = labels.keys().map(String::as_str).collect();
        let expected: BTreeSet<&str> = metric.labels.iter().copied().collect();
        assert_eq!(labelled, expected, "labels of {name}");
        assert_eq!(*kind, metric.kind, "{name}");
        assert_ne!(
            labels.get(label::SYSTEM).map(String::as_str),
            Some("silent")
        );
    }
}

/// The page for those who run it has the list.
#[test]
fn the_page_has_every_metric_with_its_kind_and_labels() {
    const PAGE: &str = include_str!("../../../docs/operations.md");
    let (_, rest) = PAGE.split_once("## Metrics").expect("the section");
    let section = rest.split("\n## ").next().unwrap_or_default();
    let rows: Vec<&str> = section
        .lines()
        .filter(|line| line.starts_with("| `perennial_"))
        .collect();
    let expected: Vec<String> = metric::ALL
        .iter()
        .map(|metric| {
            let kind = match metric.kind {
                Kind::Gauge => "gauge",
                Kind::Counter => "counter",
                Kind::Histogram => "histogram",
            };
            let labels: Vec<String> = metric
                .labels
                .iter()
                .map(|name| format!("`{name}`"))
                .collect();
            let help = metric.help.split_whitespace().collect::<Vec<_>>().join(" ");
            format!(
                "| `{}` | {kind} | {} | {help} |",
                metric.name,
                labels.join(", ")
            )
        })
        .collect();
    assert_eq!(rows, expected);
}

// ---- spans ----

/// A span as it was made.
#[derive(Debug, Clone, PartialEq)]
struct Made {
    name: &'static str,
    is_root: bool,
    follows: Option<&'static str>,
}

/// Collects the spans of messages while it is on.
#[derive(Default, Clone)]
struct Spans {
    is_on: Arc<AtomicBool>,
    made: Arc<Mutex<Vec<(tracing::Id, Made)>>>,
    /// The spans around each log line.
    around: Arc<Mutex<Vec<Option<&'static str>>>>,
}

impl<S> tracing_subscriber::Layer<S> for Spans
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    fn register_callsite(
        &self,
        _: &'static tracing::Metadata<'static>,
    ) -> tracing::subscriber::Interest {
        tracing::subscriber::Interest::sometimes()
    }

    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        self.is_on.load(Ordering::SeqCst) && metadata.target() == MESSAGE_TARGET
    }

    fn on_new_span(
        &self,
        attributes: &tracing::span::Attributes<'_>,
        id: &tracing::Id,
        _: Context<'_, S>,
    ) {
        let made = Made {
            name: attributes.metadata().name(),
            is_root: attributes.is_root(),
            follows: None,
        };
        let mut all = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        all.push((id.clone(), made));
    }

    fn on_follows_from(&self, id: &tracing::Id, follows: &tracing::Id, cx: Context<'_, S>) {
        let name = cx.span(follows).map(|span| span.name());
        let mut all = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, made)) = all.iter_mut().rev().find(|(made, _)| made == id) {
            made.follows = name;
        }
    }

    fn on_event(&self, event: &tracing::Event<'_>, cx: Context<'_, S>) {
        let around = cx.event_span(event).map(|span| span.name());
        let mut all = self.around.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(around);
    }
}

#[tokio::test]
async fn a_message_is_a_root_span_that_follows_from_its_actors_if_it_is_wanted() {
    let spans = Spans::default();
    let subscriber = tracing_subscriber::registry().with(spans.clone());
    tracing::subscriber::set_global_default(subscriber).expect("the only one");
    let system = start("spans", "off", &Faults::default()).await;
    let clerk = system.spawn("clerk", || Clerk).expect("a free name");
    let tally = system.entity::<Tally>("a");
    let work = async || {
        assert_eq!(clerk.ask(Job::Note).await, Ok(()));
        assert!(tally.ask(Order::Add(1)).await.is_ok());
    };
    work().await;
    let made = || {
        let all = spans.made.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(_, made)| made.clone()).collect::<Vec<_>>()
    };
    assert_eq!(made(), []);
    spans.is_on.store(true, Ordering::SeqCst);
    work().await;
    work().await;
    // The other test makes some too.
    spans.is_on.store(false, Ordering::SeqCst);
    let made = made();
    for (message, life) in [(span::RECEIVE, span::ACTOR), (span::HANDLE, span::ENTITY)] {
        let follows = Some(life);
        let expected = Made {
            name: message,
            is_root: true,
            follows,
        };
        let messages = made.iter().filter(|made| made.name == message);
        let messages: Vec<&Made> = messages.collect();
        assert!(messages.len() >= 2, "{made:?}");
        assert!(messages.iter().all(|made| **made == expected), "{made:?}");
        assert!(made.iter().any(|made| made.name == life && made.is_root));
    }
    {
        let around = spans.around.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(around.contains(&Some(span::RECEIVE)), "{around:?}");
    }
    system.shutdown().await.expect("in time");
}
