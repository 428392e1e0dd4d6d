//! Far more entities are asked than may be in memory: they leave and come back all the time, and
//! nothing that was acknowledged is lost, nothing is there twice, and memory stays as it is.
//!
//! `PERENNIAL_FIRE_SECONDS` says for how long; then it also looks at the memory of the process, which
//! must be doing nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use perennial::config::Replacement;
use perennial::prelude::*;
use perennial::{ConfigSource, SystemBuilder};
use perennial_it::TestStore;
use perennial_testkit::MemoryStore;
use rand::RngExt;
use serde::{Deserialize, Serialize};

const ENTITIES: usize = 10_000;
const LIMIT: usize = 1_000;
const CALLERS: usize = 64;
/// How often the memory is looked at.
const PARTS: u32 = 6;

#[derive(Default)]
struct Counter(u64);

#[derive(Serialize, Deserialize)]
struct Counted(u64);

impl EventSourced for Counter {
    const TYPE: &'static str = "Counter";
    type Event = Counted;
    type Services = ();

    fn apply(&mut self, event: &Counted) {
        self.0 += event.0;
    }
}

/// Counts so many; the reply is the sum.
struct Count(u64);

impl Handle<Count> for Counter {
    type Reply = u64;

    fn handle(&self, command: Count, cx: &Cx<'_, Self>) -> Effect<Self, u64> {
        cx.persist([Counted(command.0)]).reply(|counter| counter.0)
    }
}

struct Sum;

impl Handle<Sum> for Counter {
    type Reply = u64;

    fn handle(&self, _: Sum, cx: &Cx<'_, Self>) -> Effect<Self, u64> {
        cx.reply(self.0)
    }
}

fn counters() -> Entity<Counter> {
    Entity::new(()).entity_limit(LIMIT, Replacement::Frequency)
}

/// What callers were told.
struct Book {
    /// By entity: asked to be counted, and acknowledged.
    sent: Vec<AtomicU64>,
    acknowledged: Vec<AtomicU64>,
    asks: AtomicUsize,
    is_over: AtomicBool,
}

impl Book {
    fn new() -> Self {
        let zeros = || (0..ENTITIES).map(|_| AtomicU64::new(0)).collect();
        Self {
            sent: zeros(),
            acknowledged: zeros(),
            asks: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
        }
    }

    /// Asks at random. Every answer is one that may be given.
    async fn call(&self, system: &ActorSystem) {
        while !self.is_over.load(Ordering::SeqCst) {
            let number = rand::random_range(0..ENTITIES);
            let counter = system.entity::<Counter>(number.to_string());
            let (sent, acknowledged) = (&self.sent[number], &self.acknowledged[number]);
            let least = acknowledged.load(Ordering::SeqCst);
            let sum = if rand::rng().random_bool(0.5) {
                sent.fetch_add(1, Ordering::SeqCst);
                let sum = counter.ask(Count(1)).await.expect("there is room");
                acknowledged.fetch_add(1, Ordering::SeqCst);
                assert!(sum > least, "it counts its own too");
                sum
            } else {
                counter.ask(Sum).await.expect("there is room")
            };
            let most = sent.load(Ordering::SeqCst);
            assert!((least..=most).contains(&sum), "{sum} of {least} to {most}");
            self.asks.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether exactly what was acknowledged is there.
    async fn check(self: &Arc<Self>, system: &ActorSystem) {
        let readers: Vec<_> = (0..CALLERS)
            .map(|first| {
                let (book, system) = (Arc::clone(self), system.clone());
                tokio::spawn(async move {
                    for number in (first..ENTITIES).step_by(CALLERS) {
                        let counter = system.entity::<Counter>(number.to_string());
                        let sum = counter.ask(Sum).await.expect("it comes back");
                        let acknowledged = book.acknowledged[number].load(Ordering::SeqCst);
                        assert_eq!(sum, acknowledged, "of entity {number}");
                    }
                })
            })
            .collect();
        for reader in readers {
            reader.await.expect("all is there");
        }
    }
}

/// For how long, and whether that was chosen.
fn duration() -> (Duration, bool) {
    match std::env::var("PERENNIAL_FIRE_SECONDS") {
        Ok(seconds) => (
            Duration::from_secs(seconds.parse().expect("a number of seconds")),
            true,
        ),
        Err(_) => (Duration::from_secs(2), false),
    }
}

/// MiB of memory that the process has, where that can be seen.
fn memory() -> Option<usize> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: usize = pages.split(' ').nth(1)?.parse().ok()?;
    // Of 4 KiB each.
    Some(pages / 256)
}

async fn under_fire(
    what: &str,
    counters: impl Fn() -> Entity<Counter>,
    open: impl Fn() -> SystemBuilder,
    is_flat: bool,
) {
    let start = async || {
        let system = open().set("system.ask-timeout", "60s").expect("a key");
        let system = system.set("system.workers", 2).expect("a key");
        system.entity(counters()).start().await.expect("it starts")
    };
    let system = start().await;
    let book = Arc::new(Book::new());
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (book, system) = (Arc::clone(&book), system.clone());
            tokio::spawn(async move { book.call(&system).await })
        })
        .collect();

    let (duration, is_chosen) = duration();
    let (begin, mut most, mut memories) = (Instant::now(), 0, Vec::new());
    for part in 1..=PARTS {
        while begin.elapsed() < duration * part / PARTS {
            tokio::time::sleep(Duration::from_millis(5)).await;
            most = most.max(system.stats().resident);
        }
        memories.extend(memory());
    }
    // A slow machine gets more time for it.
    let has_left = || {
        system.entities()[0]
            .workers
            .iter()
            .any(|worker| worker.passivated_limit > 0)
    };
    while !has_left() && begin.elapsed() < duration + Duration::from_secs(60) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    book.is_over.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.expect("every answer is a good one");
    }
    let [ref counters] = system.entities()[..] else {
        panic!("there is one type");
    };
    let passivated: u64 = counters
        .workers
        .iter()
        .map(|worker| worker.passivated_limit)
        .sum();
    let asks = book.asks.load(Ordering::Relaxed);
    println!(
        "{what}: {asks} asks in {:.1?}, {passivated} times one left, {most} in memory at the most, \
         {memories:?} MiB in the course of it",
        begin.elapsed()
    );
    // What a caller has just been told of may be under way for a moment longer.
    assert!(most <= LIMIT + 4 * CALLERS, "{most} are too many");
    assert!(passivated > 0, "they had to leave");
    // The store fills its caches at first.
    if let (true, true, [.., half, _, _, end]) = (is_flat, is_chosen, &memories[..]) {
        assert!(*end < half + half / 8 + 4, "memory has grown: {memories:?}");
    }
    system.shutdown().await.expect("in time");

    let system = start().await;
    book.check(&system).await;
    system.shutdown().await.expect("in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_in_memory() {
    let memory = MemoryStore::default();
    let open = || {
        let store = Arc::new(memory.open_again());
        ActorSystem::with_store(ConfigSource::empty(), store)
    };
    under_fire("memory", counters, open, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_of_entities_that_handle_a_last_command() {
    let memory = MemoryStore::default();
    let open = || {
        let store = Arc::new(memory.open_again());
        ActorSystem::with_store(ConfigSource::empty(), store)
    };
    let counters = || counters().on_passivate(|| Count(0));
    under_fire("memory, with a last command", counters, open, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_on_sqlite() {
    let store = TestStore::sqlite();
    under_fire("sqlite", counters, || store.system(), true).await;
}
