//! A store that is slow or down: who is refused, who waits, and how it goes on.

use std::sync::Arc;
use std::time::Duration;

use perennial_core::config::{ConfigError, ConfigSource};
use perennial_core::{
    ActorSystem, AskError, BreakerState, Entity, EntityRef, OpenStore, PersistFailure, StorePlugin,
    StoreStatus,
};
use perennial_persistence::Store;
use perennial_testkit::{Gate, ManualClock, ReadFault, WriteFault};

use crate::fixture::{
    Bed, Ledger, Note, Read, hold_writes, ids_of_lane, in_time, ledger, log, log_of, noted,
    persist_failure, run, send, settle, until,
};
use crate::starting::{Count, Named};

const HOUR: Duration = Duration::from_secs(3600);

/// An entity type of which everything stays in memory and waits, however the clock is moved.
fn staying() -> Entity<Ledger> {
    ledger().passivate_after(None).recovery_timeout(HOUR * 24)
}

fn status(system: &ActorSystem) -> StoreStatus {
    system.status().remove(0)
}

/// An entity that is in memory, so that it needs the store for writing only.
async fn resident(system: &ActorSystem, entity_id: &str) -> EntityRef<Ledger> {
    let entity = system.entity::<Ledger>(entity_id);
    entity.ask(Note(0)).await.expect("the store is up");
    entity
}

/// Opens the breaker by a write of another entity, which stays under way.
async fn open(bed: &Bed, system: &ActorSystem) -> crate::fixture::Pending<Vec<u64>> {
    settle(system).await;
    let entity = resident(system, "opener").await;
    bed.faults.writes.decide(|_| Some(WriteFault::Unavailable));
    bed.faults.reads.decide(|_| Some(ReadFault::Unavailable));
    let pending = send(&entity, Note(1));
    until("the breaker is open", || {
        status(system).breaker == BreakerState::Open
    })
    .await;
    pending
}

/// The time until the next probe.
#[track_caller]
fn retry_after<R: std::fmt::Debug>(answer: Result<R, AskError>) -> Duration {
    match answer {
        Err(AskError::Busy {
            what: "the store",
            retry_after,
        }) => retry_after,
        other => panic!("expected the store to be busy, not {other:?}"),
    }
}

#[tokio::test]
async fn what_needs_the_store_is_refused_at_once_and_nothing_else_is() {
    let bed = Bed::new();
    let settings = [
        ("persistence.breaker-failures", "3"),
        ("persistence.breaker-reset", "1h"),
    ];
    let system = bed.start(&settings).await;
    let here = resident(&system, "here").await;
    let before = status(&system);
    assert_eq!(
        (before.breaker, before.since, before.opened, before.workers),
        (BreakerState::Closed, None, 0, 0)
    );
    let pending = open(&bed, &system).await;
    let writes = bed.faults.writes.count();
    let reads = bed.faults.reads.count();

    for _ in 0..10 {
        let left = retry_after(here.ask(Note(1)).await);
        assert!(left <= HOUR && left > HOUR - crate::fixture::DEADLINE);
        let away = system.entity::<Ledger>("away");
        retry_after(away.ask(Read).await);
        assert_eq!(here.ask(Read).await, Ok(vec![0]), "its state is in memory");
    }
    assert_eq!(bed.faults.writes.count(), writes, "the store has peace");
    assert_eq!(bed.faults.reads.count(), reads);
    assert_eq!(system.stats().resident, 3, "none is made to be refused");
    assert!(pending.is_open(), "what was accepted is not given up");

    let told = status(&system);
    assert_eq!((told.breaker, told.workers), (BreakerState::Open, 1));
    assert_eq!((told.failures, told.opened, told.refused), (3, 1, 20));
    assert!(told.since.is_some());
    let error = told.last_error.expect("the store said something");
    assert!(error.contains("unavailable"), "{error}");
    let stats = system.stats();
    assert_eq!((stats.refused_for_store, stats.breakers_opened), (20, 1));
    let busy = here.ask(Note(1)).await.expect_err("refused").to_string();
    assert!(
        busy.starts_with("the store is slow or down; try again in"),
        "{busy}"
    );
}

#[tokio::test]
async fn it_opens_at_its_number_of_failures_and_not_before() {
    let bed = Bed::new();
    let settings = [
        ("persistence.breaker-failures", "3"),
        ("persistence.breaker-reset", "1ms"),
    ];
    let system = bed.start(&settings).await;
    let entity = resident(&system, "a").await;
    for (failures, opened) in [(2, 0), (3, 1)] {
        for _ in 0..failures {
            bed.faults.writes.next(WriteFault::Unavailable);
        }
        entity.ask(Note(failures)).await.expect("it is pursued");
        until("the worker knows", || {
            status(&system).breaker == BreakerState::Closed && status(&system).failures == 0
        })
        .await;
        assert_eq!(status(&system).opened, opened, "after {failures}");
    }
    assert_eq!(bed.stored("a"), noted([0, 2, 3]));
}

#[tokio::test]
async fn a_refused_write_leaves_its_entity_as_it_was() {
    let bed = Bed::new();
    let settings = [
        ("persistence.breaker-failures", "1"),
        ("persistence.breaker-reset", "1ms"),
    ];
    let clock = ManualClock::new();
    let system = bed
        .start_on(Arc::new(clock.clone()), staying(), &settings)
        .await;
    let entity = resident(&system, "a").await;
    let pending = open(&bed, &system).await;
    let ran = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let then_ran = Arc::clone(&ran);
    let command = run(move |_: &Ledger, cx| {
        cx.persist(noted([7]))
            .then_run(move |_, _| then_ran.store(true, std::sync::atomic::Ordering::SeqCst))
            .reply(|ledger: &Ledger| ledger.notes.clone())
    });
    retry_after(entity.ask(command).await);
    assert_eq!(entity.ask(Read).await, Ok(vec![0]));
    assert!(!ran.load(std::sync::atomic::Ordering::SeqCst));

    bed.faults.clear();
    clock.advance(Duration::from_secs(1));
    settle(&system).await;
    assert_eq!(pending.answer().await, Ok(vec![0, 1]));
    until("it is closed", || {
        status(&system).breaker == BreakerState::Closed
    })
    .await;
    assert_eq!(entity.ask(Note(8)).await, Ok(vec![0, 8]));
    assert_eq!(bed.stored("a"), noted([0, 8]), "no number is left out");
    assert_eq!(
        system.stats().recovered,
        3,
        "nothing had to be brought back"
    );
}

#[tokio::test]
async fn the_time_to_come_back_is_that_of_the_probe() {
    let bed = Bed::new();
    let clock = ManualClock::new();
    let settings = [
        ("persistence.breaker-failures", "1"),
        ("persistence.breaker-reset", "1h"),
        ("persistence.outcome-timeout", "1day"),
    ];
    let system = bed
        .start_on(Arc::new(clock.clone()), staying(), &settings)
        .await;
    let entity = resident(&system, "a").await;
    let pending = open(&bed, &system).await;
    assert_eq!(retry_after(entity.ask(Note(1)).await), HOUR);
    clock.advance(HOUR / 4);
    assert_eq!(retry_after(entity.ask(Note(1)).await), HOUR * 3 / 4);
    let writes = bed.faults.writes.count();
    clock.advance(HOUR * 3 / 4 - Duration::from_nanos(1));
    settle(&system).await;
    assert_eq!(bed.faults.writes.count(), writes, "a moment before");

    // The first probe fails, and the next one succeeds.
    clock.advance(Duration::from_nanos(1));
    settle(&system).await;
    until("the probe has failed", || {
        bed.faults.writes.count() == writes + 1 && status(&system).breaker == BreakerState::Open
    })
    .await;
    assert_eq!(retry_after(entity.ask(Note(1)).await), HOUR);
    let since = status(&system).since;
    bed.faults.clear();
    clock.advance(HOUR);
    settle(&system).await;
    assert_eq!(pending.answer().await, Ok(vec![0, 1]));
    until("it is closed", || {
        status(&system).breaker == BreakerState::Closed
    })
    .await;
    assert_eq!(entity.ask(Note(1)).await, Ok(vec![0, 1]));
    let told = status(&system);
    assert_eq!(told.opened, 1, "it was one outage");
    assert_ne!(told.since, since, "it ended");
}

#[tokio::test]
async fn one_probe_at_a_time_goes_out_and_brings_everything_back() {
    let bed = Bed::new();
    let clock = ManualClock::new();
    let settings = [
        ("persistence.breaker-failures", "10"),
        ("persistence.breaker-reset", "1m"),
        ("persistence.breaker-slow-call", "1day"),
        ("persistence.outcome-timeout", "1day"),
    ];
    let system = bed
        .start_on(Arc::new(clock.clone()), staying(), &settings)
        .await;
    settle(&system).await;
    let lanes = [
        resident(&system, &ids_of_lane(0, 1)[0]).await,
        resident(&system, &ids_of_lane(1, 1)[0]).await,
    ];
    bed.faults.writes.decide(|_| Some(WriteFault::Unavailable));
    // Two writes and twenty recoveries are accepted before it opens.
    let gate = Gate::new();
    let held = gate.clone();
    bed.faults
        .reads
        .decide(move |_| Some(ReadFault::Held(held.clone())));
    let recoveries: Vec<_> = (0..20)
        .map(|number| send(&system.entity::<Ledger>(format!("e{number}")), Read))
        .collect();
    gate.wait_for_arrivals(20).await;
    let writes: Vec<_> = lanes.iter().map(|entity| send(entity, Note(1))).collect();
    in_time("the breaker opens", async {
        while status(&system).breaker == BreakerState::Closed {
            clock.advance(Duration::from_millis(5));
            settle(&system).await;
        }
    })
    .await;
    // Those of before fail now, if they did not yet.
    let probes = Gate::new();
    let held = probes.clone();
    bed.faults
        .reads
        .decide(move |_| Some(ReadFault::Held(held.clone())));
    let held = probes.clone();
    bed.faults
        .writes
        .decide(move |_| Some(WriteFault::Held(held.clone())));
    for minute in 0..3 {
        clock.advance(Duration::from_secs(60));
        settle(&system).await;
        if minute == 0 {
            probes.wait_for_arrivals(1).await;
        }
    }
    assert_eq!(probes.arrived(), 1, "the others wait for it");
    bed.faults.clear();
    gate.open();
    probes.open();
    for write in writes {
        assert_eq!(write.answer().await, Ok(vec![0, 1]));
    }
    for recovery in recoveries {
        assert_eq!(recovery.answer().await, Ok(vec![]));
    }
}

#[tokio::test]
async fn recoveries_of_before_go_on_by_themselves() {
    let bed = Bed::new();
    let settings = [
        ("persistence.breaker-failures", "5"),
        ("persistence.breaker-reset", "20ms"),
    ];
    let system = bed.start(&settings).await;
    bed.faults.reads.decide(|_| Some(ReadFault::Unavailable));
    let asks: Vec<_> = (0..50)
        .map(|number| send(&system.entity::<Ledger>(format!("e{number}")), Read))
        .collect();
    until("the breaker is open", || {
        status(&system).breaker == BreakerState::Open
    })
    .await;
    let reads = bed.faults.reads.count();
    until("probes go out", || bed.faults.reads.count() >= reads + 3).await;
    bed.faults.clear();
    for ask in asks {
        match ask.answer().await {
            Ok(notes) => assert_eq!(notes, Vec::<u64>::new()),
            // It came to the worker after that had found the store down.
            refused => assert!(retry_after(refused) <= Duration::from_millis(20)),
        }
    }
    until("it is closed", || {
        status(&system).breaker == BreakerState::Closed
    })
    .await;
    let system = system.entity::<Ledger>("new");
    assert_eq!(system.ask(Note(1)).await, Ok(vec![1]));
}

#[tokio::test]
async fn what_was_accepted_is_given_up_in_its_time() {
    let bed = Bed::new();
    let settings = [
        ("persistence.breaker-failures", "1"),
        ("persistence.breaker-reset", "1h"),
        ("persistence.outcome-timeout", "50ms"),
        ("persistence.writers", "1"),
    ];
    let system = bed.start(&settings).await;
    let (first, second) = (resident(&system, "a").await, resident(&system, "b").await);
    settle(&system).await;
    // The second one gathers behind the first.
    let gate = hold_writes(&bed.faults);
    let lost = send(&first, Note(1));
    gate.wait_for_arrivals(1).await;
    let gathered = send(&second, Note(1));
    settle(&system).await;
    bed.faults.writes.decide(|_| Some(WriteFault::Unavailable));
    // What was held is stored, and what follows it finds the store down.
    gate.open();
    assert_eq!(lost.answer().await, Ok(vec![0, 1]));
    assert_eq!(
        persist_failure(gathered.answer().await),
        PersistFailure::Unavailable
    );
    assert_eq!(status(&system).breaker, BreakerState::Open);
    let writes = bed.faults.writes.count();
    retry_after(first.ask(Note(2)).await);
    assert_eq!(bed.faults.writes.count(), writes);
    assert_eq!(bed.stored("b"), noted([0]));
}

#[tokio::test]
async fn a_store_that_hangs_counts_as_down_while_it_does() {
    let bed = Bed::new();
    let settings = [
        ("persistence.breaker-failures", "3"),
        ("persistence.breaker-slow-call", "5ms"),
        ("persistence.breaker-reset", "1h"),
    ];
    let system = bed.start(&settings).await;
    let entity = resident(&system, "a").await;
    let gate = hold_writes(&bed.faults);
    let hanging = send(&entity, Note(1));
    until("the breaker is open", || {
        status(&system).breaker == BreakerState::Open
    })
    .await;
    let error = status(&system).last_error.expect("there is a reason");
    assert!(error.contains("breaker-slow-call"), "{error}");
    retry_after(entity.ask(Note(2)).await);
    gate.open();
    assert_eq!(hanging.answer().await, Ok(vec![0, 1]), "it was stored");
}

#[tokio::test]
async fn with_zero_failures_nobody_is_ever_refused() {
    let bed = Bed::new();
    let system = bed.start(&[("persistence.breaker-failures", "0")]).await;
    let entity = resident(&system, "a").await;
    bed.faults.writes.decide(|_| Some(WriteFault::Unavailable));
    let first = send(&entity, Note(1));
    until("it has failed often", || bed.faults.writes.count() > 50).await;
    let second = send(&entity, Note(2));
    bed.faults.clear();
    assert_eq!(first.answer().await, Ok(vec![0, 1]));
    assert_eq!(second.answer().await, Ok(vec![0, 1, 2]));
    assert_eq!(status(&system).opened, 0);
}

#[tokio::test]
async fn what_nobody_waits_for_is_refused_without_a_word() {
    log();
    let bed = Bed::new();
    let settings = [
        ("persistence.breaker-failures", "1"),
        ("persistence.breaker-reset", "1h"),
    ];
    let system = bed.start(&settings).await;
    let entity = resident(&system, "breaker-told").await;
    let pending = open(&bed, &system).await;
    for number in 0..1000 {
        entity.tell(Note(number)).expect("it is queued");
    }
    // It stands behind them.
    assert_eq!(entity.ask(Read).await, Ok(vec![0]));
    assert_eq!(status(&system).refused, 1000);
    let lines = log_of("breaker-told");
    assert!(lines.is_empty(), "{lines:?}");
    drop(pending);
}

/// A plugin for a store that is open already.
#[derive(Debug)]
struct Opened(&'static str, Arc<dyn Store>);

impl StorePlugin for Opened {
    fn name(&self) -> &'static str {
        self.0
    }

    fn configure(&self, _: &ConfigSource) -> Result<OpenStore, ConfigError> {
        let store = Arc::clone(&self.1);
        Ok(Box::new(move || Box::pin(async move { Ok(store) })))
    }
}

#[tokio::test]
async fn one_store_that_is_down_concerns_no_other() {
    let (good, bad) = (Bed::new(), Bed::new());
    let config = "persistence.plugin = \"good\"\nentity.Ledger.plugin = \"bad\"\n\
                  system.workers = 1\npersistence.breaker-reset = \"1h\"\n\
                  persistence.retry-max = \"50ms\"\n";
    let source = ConfigSource::from_toml("test.toml", config).expect("it is TOML");
    let plugins: Vec<Box<dyn StorePlugin>> = vec![
        Box::new(Opened("good", good.open().0)),
        Box::new(Opened("bad", bad.open().0)),
    ];
    let system = ActorSystem::with_plugins(source, plugins)
        .entity(ledger())
        .entity(Entity::<Named<0>>::new(()))
        .start()
        .await
        .expect("both open");
    let here = resident(&system, "here").await;
    bad.faults.writes.decide(|_| Some(WriteFault::Unavailable));
    let pending = send(&here, Note(1));
    until("the breaker is open", || {
        system.status()[1].breaker == BreakerState::Open
    })
    .await;
    retry_after(here.ask(Note(2)).await);
    let other: EntityRef<Named<0>> = system.entity("a");
    assert_eq!(other.ask(Count).await, Ok(1));
    assert_eq!(system.status()[0].breaker, BreakerState::Closed);
    assert_eq!(system.status()[0].failures, 0);
    drop(pending);
}
