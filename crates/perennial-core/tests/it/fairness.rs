//! Entities of one worker take turns.

use std::time::Duration;

use perennial_testkit::{Gate, ReadFault};

use crate::fixture::{
    Bed, Latch, Ledger, Read, Record, id, log, log_of, mark, run, send, settle, until,
};

#[tokio::test]
async fn a_long_queue_does_not_keep_others_from_their_turn() {
    const LONG: usize = 400;
    const TURN: usize = 10;
    let bed = Bed::new();
    let settings = [("system.messages-per-turn", "10")];
    let system = bed.start(&settings).await;
    let record = Record::default();
    // Everything waits until the worker is free again.
    let latch = Latch::default();
    let blocked = latch.clone();
    let entered = Record::default();
    let enters = entered.clone();
    for entity_id in ["long", "short"] {
        let entity = system.entity::<Ledger>(entity_id);
        entity.ask(Read).await.expect("recovered");
    }
    let blocker = send(
        &system.entity::<Ledger>("blocker"),
        run(move |_, cx| {
            enters.add("entered");
            blocked.wait();
            cx.reply(())
        }),
    );
    until("the worker is blocked", || !entered.lines().is_empty()).await;
    let long = system.entity::<Ledger>("long");
    let short = system.entity::<Ledger>("short");
    let mut asks: Vec<_> = (0..LONG)
        .map(|_| send(&long, mark("long", &record)))
        .collect();
    asks.extend((0..3 * TURN).map(|_| send(&short, mark("short", &record))));
    latch.open();
    blocker.answer().await.expect("a reply");
    for ask in asks {
        ask.answer().await.expect("a reply");
    }

    let lines = record.lines();
    let mut longest_run = 0;
    let mut run = 0;
    let last_short = lines.iter().rposition(|line| *line == "short");
    for line in &lines[..last_short.expect("they were handled")] {
        run = if *line == "long" { run + 1 } else { 0 };
        longest_run = longest_run.max(run);
    }
    assert!(
        longest_run <= TURN,
        "{longest_run} commands of one entity in a row while another waited"
    );
    assert!(last_short < Some(6 * TURN + 1), "{last_short:?}");
    assert_eq!(lines.len(), LONG + 3 * TURN);
}

#[tokio::test]
async fn an_entity_that_recovers_does_not_hold_up_others() {
    let bed = Bed::new();
    bed.write_foreign("long", 1, crate::fixture::noted(0..50_000))
        .await;
    let settings = [("persistence.replay-rows", "100")];
    let system = bed.start(&settings).await;
    settle(&system).await;
    let gate = Gate::new();
    let held = gate.clone();
    let long = id("long");
    bed.faults.reads.decide(move |call| {
        (*call.persistence_id == long && call.number > 20).then(|| ReadFault::Held(held.clone()))
    });
    let recovers = send(&system.entity::<Ledger>("long"), Read);
    gate.wait_for_arrivals(1).await;
    // In the middle of its history, others are served.
    settle(&system).await;
    assert!(recovers.is_open());
    gate.open();
    let notes = recovers.answer().await.expect("recovered");
    assert_eq!(notes.len(), 50_000);
}

#[tokio::test]
async fn a_slow_handler_is_named_in_the_log() {
    log();
    let bed = Bed::new();
    let settings = [("system.slow-handler", "20ms")];
    let system = bed.start(&settings).await;
    let entity = system.entity::<Ledger>("slow");
    entity.ask(Read).await.expect("a fast one");
    let slow = run(|_, cx| {
        // Time is what this is about.
        std::thread::sleep(Duration::from_millis(40));
        cx.reply(())
    });
    assert_eq!(entity.ask(slow).await, Ok(()));
    until("the warning is there", || !log_of("slow").is_empty()).await;
    assert!(system.stats().slow_handlers >= 1, "{:?}", system.stats());
    let warnings = log_of("slow");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(warnings[0].level, tracing::Level::WARN);
    assert!(warnings[0].message.contains("took long"), "{warnings:?}");
    assert!(
        warnings[0].fields["command"].contains("Run"),
        "{warnings:?}"
    );
    let elapsed: u64 = warnings[0].fields["elapsed_ms"].parse().expect("a number");
    assert!(elapsed >= 40, "{warnings:?}");
}
