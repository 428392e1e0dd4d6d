//! Entities of one worker take turns.

use std::time::Duration;

use perennial_core::config::ConfigSource;
use perennial_core::{Actor, ActorCx, ActorSystem, Receive, Received};
use perennial_testkit::{Gate, ReadFault};

use crate::fixture::{
    Bed, Latch, Ledger, LogLine, Read, Record, id, lock, log, log_of, mark, run, send, settle,
    until,
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

/// Keeps its worker until the test says so.
struct Blocker;

impl Actor for Blocker {}

struct Block(std::sync::mpsc::Receiver<()>);

impl Receive<Block> for Blocker {
    type Reply = ();

    fn receive(&mut self, until: Block, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        until.0.recv()?;
        cx.reply(())
    }
}

/// What was logged of a worker because of an actor.
fn stuck_lines(field: &str, path: &str) -> Vec<LogLine> {
    let lines = lock(log()).clone();
    lines
        .into_iter()
        .filter(|line| line.fields.get(field).is_some_and(|named| named == path))
        .collect()
}

#[tokio::test]
async fn a_worker_that_is_stuck_is_named_with_what_keeps_it() {
    log();
    let system = ActorSystem::in_memory(ConfigSource::empty())
        .set("system.workers", 1)
        .and_then(|system| system.set("system.stuck-after", "20ms"))
        .expect("settings")
        .start()
        .await
        .expect("it starts");
    let blocker = system.spawn("stuck-one", || Blocker).expect("a name");
    let (go_on, blocked) = std::sync::mpsc::channel();
    blocker.tell(Block(blocked)).expect("there is room");
    let path = "/stuck-one";
    until("it is told", || !stuck_lines("running", path).is_empty()).await;
    let stuck = &stuck_lines("running", path)[0];
    assert_eq!(stuck.level, tracing::Level::ERROR);
    assert!(stuck.message.contains("stuck"), "{stuck:?}");
    let workers = system.workers();
    assert_eq!(workers[0].running.as_deref(), Some(path));
    assert!(workers[0].running_for >= Some(Duration::from_millis(20)));
    go_on.send(()).expect("it waits");
    until("it is told", || {
        !stuck_lines("was_running", path).is_empty()
    })
    .await;
    assert_eq!(stuck_lines("running", path).len(), 1, "it is told once");
    until("nothing runs", || system.workers()[0].running.is_none()).await;
    system.shutdown().await.expect("in time");
}
