//! The end of a system.

use std::sync::Arc;
use std::time::{Duration, Instant};

use perennial_core::config::{ConfigError, ConfigSource};
use perennial_core::{ActorSystem, AskError, OpenStore, ShutdownError, StartError, StorePlugin};
use perennial_persistence::Store;
use perennial_testkit::{Gate, ReadFault, WriteFault};
use tokio::sync::oneshot;

use crate::fixture::{
    Bed, Latch, Ledger, Note, Panic, Read, Record, hold_writes, in_time, ledger, mark, mark_later,
    noted, run, send, settle, until,
};

fn timed_out(millis: u64) -> ShutdownError {
    ShutdownError::TimedOut {
        timeout: Duration::from_millis(millis),
    }
}

#[tokio::test]
async fn commands_that_wait_are_handled_and_flushed() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let gate = hold_writes(&bed.faults);
    let asks: Vec<_> = (0..100).map(|number| send(&entity, Note(number))).collect();
    let other = send(&system.entity::<Ledger>("other"), Note(7));
    gate.wait_for_arrivals(1).await;
    let ending = tokio::spawn({
        let system = system.clone();
        async move { system.shutdown().await }
    });
    until("new commands are refused", || {
        entity.tell(Read) == Err(AskError::Stopped)
    })
    .await;
    assert_eq!(entity.ask(Read).await, Err(AskError::Stopped));
    assert!(!ending.is_finished());
    gate.open();
    assert_eq!(in_time("the end", ending).await.expect("no panic"), Ok(()));
    for (ask, last) in asks.into_iter().zip(0..) {
        assert_eq!(ask.answer().await, Ok((0..=last).collect()));
    }
    assert_eq!(other.answer().await, Ok(vec![7]));
    assert_eq!(bed.stored("a"), noted(0..100));
    assert_eq!(system.stats().resident, 0);
}

#[tokio::test]
async fn a_stopped_system_refuses_every_command() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    entity.ask(Note(1)).await.expect("stored");
    assert_eq!(system.shutdown().await, Ok(()));
    for entity in [entity, system.entity::<Ledger>("never seen")] {
        assert_eq!(entity.ask(Note(2)).await, Err(AskError::Stopped));
        assert_eq!(entity.tell(Note(2)), Err(AskError::Stopped));
    }
    assert!(AskError::Stopped.is_not_handled());
    assert_eq!(bed.stored("a"), noted([1]));
}

#[tokio::test]
async fn a_second_shutdown_says_what_the_first_said() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let gate = hold_writes(&bed.faults);
    let ask = send(&system.entity::<Ledger>("a"), Note(1));
    gate.wait_for_arrivals(1).await;
    let endings = [0, 1].map(|_| {
        let system = system.clone();
        tokio::spawn(async move { system.shutdown().await })
    });
    until("new commands are refused", || {
        system.entity::<Ledger>("a").tell(Read) == Err(AskError::Stopped)
    })
    .await;
    assert!(endings.iter().all(|ending| !ending.is_finished()));
    gate.open();
    for ending in endings {
        assert_eq!(in_time("the end", ending).await.expect("no panic"), Ok(()));
    }
    assert_eq!(ask.answer().await, Ok(vec![1]));
    assert_eq!(system.shutdown().await, Ok(()));
}

#[tokio::test]
async fn a_shutdown_waits_for_futures_and_their_continuations() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let (done, wait) = oneshot::channel::<()>();
    let later = send(
        &entity,
        run(move |_, cx| {
            cx.later(wait, |_, _, cx| {
                cx.persist(noted([1]))
                    .then_run(|_, _| ())
                    .reply(|ledger| ledger.notes.clone())
            })
        }),
    );
    settle(&system).await;
    let ending = tokio::spawn({
        let system = system.clone();
        async move { system.shutdown().await }
    });
    until("new commands are refused", || {
        entity.tell(Read) == Err(AskError::Stopped)
    })
    .await;
    done.send(()).expect("the future waits");
    assert_eq!(later.answer().await, Ok(vec![1]));
    assert_eq!(in_time("the end", ending).await.expect("no panic"), Ok(()));
    assert_eq!(bed.stored("a"), noted([1]));
}

#[tokio::test]
async fn what_would_wait_for_ever_is_refused_as_stopped() {
    let bed = Bed::new();
    let entity_type = ledger().restart_backoff(Duration::from_secs(600), Duration::from_secs(600));
    let system = bed.start_with(entity_type, &[]).await;
    let record = Record::default();
    let stashed = send(
        &system.entity::<Ledger>("stash"),
        mark_later("stashed", &record),
    );
    let failing = system.entity::<Ledger>("failing");
    assert!(failing.ask(Panic).await.is_err());
    let behind = send(&failing, mark("behind a long backoff", &record));
    settle(&system).await;
    assert!(stashed.is_open() && behind.is_open());
    let ending = in_time("the end", system.shutdown()).await;
    assert_eq!(ending, Ok(()));
    assert_eq!(stashed.answer().await, Err(AskError::Stopped));
    assert_eq!(behind.answer().await, Err(AskError::Stopped));
    assert_eq!(record.lines(), [] as [&str; 0]);
}

#[tokio::test]
async fn timers_do_not_keep_a_system_running() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let start = run(|_, cx| {
        cx.timers()
            .start_repeated("key", Duration::from_millis(1), Read);
        cx.timers()
            .start_single("once", Duration::from_secs(600), Read);
        cx.reply(())
    });
    assert_eq!(system.entity::<Ledger>("a").ask(start).await, Ok(()));
    assert_eq!(in_time("the end", system.shutdown()).await, Ok(()));
}

#[tokio::test]
async fn a_shutdown_that_takes_too_long_gives_up() {
    let bed = Bed::new();
    let system = bed.start(&[("system.shutdown-timeout", "50ms")]).await;
    let gate = Gate::new();
    let held = gate.clone();
    bed.faults.reads.decide(move |call| {
        (call.persistence_id.entity_id() == "recovers").then(|| ReadFault::Held(held.clone()))
    });
    let waits = send(&system.entity::<Ledger>("recovers"), Note(1));
    let writes = hold_writes(&bed.faults);
    let begun = send(&system.entity::<Ledger>("a"), Note(1));
    writes.wait_for_arrivals(1).await;
    gate.wait_for_arrivals(1).await;
    let ending = in_time("the end", system.shutdown()).await;
    assert_eq!(ending, Err(timed_out(50)));
    let text = timed_out(50).to_string();
    assert!(text.contains("`system.shutdown-timeout`"), "{text}");
    // What was never begun can be sent again, what was begun is unknown.
    assert_eq!(waits.answer().await, Err(AskError::Stopped));
    let begun = begun.answer().await;
    assert!(matches!(begun, Err(AskError::Unknown { .. })), "{begun:?}");
    assert_eq!(system.shutdown().await, Err(timed_out(50)));
}

#[tokio::test]
async fn a_future_without_end_does_not_keep_a_system_from_ending() {
    let bed = Bed::new();
    let system = bed.start(&[("system.shutdown-timeout", "50ms")]).await;
    let entity = system.entity::<Ledger>("a");
    let later = send(
        &entity,
        run(|_, cx| cx.later(std::future::pending::<()>(), |(), _, cx| cx.reply(()))),
    );
    let latch = Latch::default();
    let blocked = latch.clone();
    let blocking = send(
        &system.entity::<Ledger>("b"),
        run(move |_, cx| cx.blocking(move || blocked.wait(), |(), _, cx| cx.reply(()))),
    );
    settle(&system).await;
    assert_eq!(
        in_time("the end", system.shutdown()).await,
        Err(timed_out(50))
    );
    for ask in [later, blocking] {
        let answer = ask.answer().await;
        assert!(
            matches!(answer, Err(AskError::Unknown { .. })),
            "{answer:?}"
        );
    }
    latch.open();
}

#[tokio::test]
async fn a_handler_that_does_not_return_does_not_keep_a_shutdown_waiting() {
    let bed = Bed::new();
    let settings = [
        ("system.shutdown-timeout", "50ms"),
        ("system.ask-timeout", "1s"),
    ];
    let system = bed.start(&settings).await;
    let latch = Latch::default();
    let blocked = latch.clone();
    let entered = Record::default();
    let enters = entered.clone();
    let stuck = send(
        &system.entity::<Ledger>("a"),
        run(move |_, cx| {
            enters.add("entered");
            blocked.wait();
            cx.reply(())
        }),
    );
    until("the handler runs", || !entered.lines().is_empty()).await;
    let behind = send(&system.entity::<Ledger>("b"), Read);
    let start = Instant::now();
    assert_eq!(
        in_time("the end", system.shutdown()).await,
        Err(timed_out(50))
    );
    assert!(start.elapsed() < Duration::from_secs(20));
    // Their deadlines go on, as nobody answers them.
    let stuck = stuck.answer().await;
    assert!(matches!(stuck, Err(AskError::Unknown { .. })), "{stuck:?}");
    assert_eq!(behind.answer().await, Err(AskError::Expired));
    latch.open();
}

#[tokio::test]
async fn a_shutdown_that_is_not_awaited_to_its_end_goes_on() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let gate = hold_writes(&bed.faults);
    let ask = send(&entity, Note(1));
    gate.wait_for_arrivals(1).await;
    let cut_short = tokio::time::timeout(Duration::from_millis(20), system.shutdown());
    assert!(cut_short.await.is_err());
    gate.open();
    assert_eq!(ask.answer().await, Ok(vec![1]));
    assert_eq!(in_time("the end", system.shutdown()).await, Ok(()));
    assert_eq!(bed.stored("a"), noted([1]));
}

#[tokio::test]
async fn a_dropped_system_flushes_in_the_background() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let gate = hold_writes(&bed.faults);
    let asks: Vec<_> = (0..10).map(|number| send(&entity, Note(number))).collect();
    gate.wait_for_arrivals(1).await;
    drop(system.clone());
    assert_eq!(entity.tell(Note(10)), Ok(()), "a clone is left");
    drop(system);
    assert_eq!(entity.ask(Read).await, Err(AskError::Stopped));
    gate.open();
    for (ask, last) in asks.into_iter().zip(0..) {
        assert_eq!(ask.answer().await, Ok((0..=last).collect()));
    }
    until("all is stored", || bed.stored("a") == noted(0..=10)).await;
}

#[tokio::test]
async fn the_store_is_closed_last() {
    let bed = Bed::new();
    let (store, _) = bed.open();
    let system = ActorSystem::with_store(ConfigSource::empty(), Arc::clone(&store))
        .entity(ledger())
        .start()
        .await
        .expect("starts");
    let asks: Vec<_> = (0..100)
        .map(|number| {
            let entity = system.entity::<Ledger>(format!("e{number}"));
            send(&entity, Note(1))
        })
        .collect();
    assert_eq!(system.shutdown().await, Ok(()));
    for ask in asks {
        assert_eq!(ask.answer().await, Ok(vec![1]));
    }
    let id = crate::fixture::id("e1");
    let journal = store.journal();
    let read = journal.highest_sequence_nr(&id, perennial_persistence::SequenceNr::ZERO);
    assert!(read.await.is_err_and(|error| error.is_retryable()));
}

#[tokio::test]
async fn an_outage_without_waiting_callers_does_not_hold_up_the_end() {
    let bed = Bed::new();
    let settings = [("persistence.outcome-timeout", "20ms")];
    let system = bed.start(&settings).await;
    bed.faults.writes.decide(|_| Some(WriteFault::Unavailable));
    bed.faults.reads.decide(|call| {
        (call.persistence_id.entity_id() == "a" && call.number > 1)
            .then_some(ReadFault::Unavailable)
    });
    let entity = system.entity::<Ledger>("a");
    assert!(entity.ask(Note(1)).await.is_err());
    // It recovers in vain, but for nobody.
    assert_eq!(in_time("the end", system.shutdown()).await, Ok(()));
}

/// A store that is never opened.
#[derive(Debug)]
struct Closed;

impl StorePlugin for Closed {
    fn name(&self) -> &'static str {
        "closed"
    }

    fn configure(&self, _: &ConfigSource) -> Result<OpenStore, ConfigError> {
        Ok(Box::new(|| Box::pin(std::future::pending())))
    }
}

#[tokio::test]
async fn a_start_that_is_not_awaited_to_its_end_leaves_nothing_behind() {
    let config = ConfigSource::empty()
        .set("persistence.plugin", "closed")
        .expect("a known key");
    let start = ActorSystem::with_plugins(config, vec![Box::new(Closed)]).start();
    let cut_short = tokio::time::timeout(Duration::from_millis(20), start);
    assert!(cut_short.await.is_err());
}

/// A store whose opening panics.
#[derive(Debug)]
struct Broken;

impl StorePlugin for Broken {
    fn name(&self) -> &'static str {
        "broken"
    }

    fn configure(&self, _: &ConfigSource) -> Result<OpenStore, ConfigError> {
        Ok(Box::new(|| Box::pin(async { panic!("while opening") })))
    }
}

#[tokio::test]
async fn a_store_that_cannot_be_opened_is_an_error_at_the_start() {
    let config = ConfigSource::empty()
        .set("persistence.plugin", "broken")
        .expect("a known key");
    let start = ActorSystem::with_plugins(config, vec![Box::new(Broken)]).start();
    let error = start.await.expect_err("the plugin panics");
    assert!(matches!(&error, StartError::Store { section, .. }
        if section == "persistence.broken"));
    assert!(error.to_string().contains("panicked"), "{error}");
}

#[tokio::test]
async fn a_store_whose_end_hangs_does_not_keep_a_shutdown_waiting() {
    #[derive(Debug)]
    struct Hanging(Arc<dyn Store>);
    impl Store for Hanging {
        fn name(&self) -> &'static str {
            "hanging"
        }
        fn journal(&self) -> Arc<dyn perennial_persistence::Journal> {
            self.0.journal()
        }
        fn snapshot_store(&self) -> Arc<dyn perennial_persistence::SnapshotStore> {
            self.0.snapshot_store()
        }
        fn durable_state_store(&self) -> Arc<dyn perennial_persistence::DurableStateStore> {
            self.0.durable_state_store()
        }
        fn command_replies(&self) -> Arc<dyn perennial_persistence::CommandReplyStore> {
            self.0.command_replies()
        }
        fn reminders(&self) -> Arc<dyn perennial_persistence::ReminderStore> {
            self.0.reminders()
        }
        fn warnings(&self) -> Vec<String> {
            vec!["it hangs".to_owned()]
        }
        fn close(&self) -> perennial_persistence::BoxFuture<'_, ()> {
            Box::pin(std::future::pending())
        }
    }
    let bed = Bed::new();
    let config = ConfigSource::empty()
        .set("system.shutdown-timeout", "50ms")
        .expect("a known key");
    let system = ActorSystem::with_store(config, Arc::new(Hanging(bed.open().0)))
        .entity(ledger())
        .start()
        .await
        .expect("starts");
    assert_eq!(system.store_warnings(), ["it hangs"]);
    let ask = system.entity::<Ledger>("a").ask(Note(1)).await;
    assert_eq!(ask, Ok(vec![1]));
    assert_eq!(
        in_time("the end", system.shutdown()).await,
        Err(timed_out(50))
    );
}

#[tokio::test]
async fn commands_of_an_entity_that_recovers_are_handled_too() {
    let bed = Bed::new();
    bed.write_foreign("a", 1, noted([1])).await;
    let system = bed.start(&[]).await;
    let gate = Gate::new();
    bed.faults.reads.next(ReadFault::Held(gate.clone()));
    let entity = system.entity::<Ledger>("a");
    let ask = send(&entity, Note(2));
    gate.wait_for_arrivals(1).await;
    let ending = tokio::spawn({
        let system = system.clone();
        async move { system.shutdown().await }
    });
    until("new commands are refused", || {
        entity.tell(Read) == Err(AskError::Stopped)
    })
    .await;
    gate.open();
    assert_eq!(ask.answer().await, Ok(vec![1, 2]));
    assert_eq!(in_time("the end", ending).await.expect("no panic"), Ok(()));
}
