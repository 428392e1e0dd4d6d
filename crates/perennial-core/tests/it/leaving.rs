//! An entity has a command for its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use perennial_core::config::Replacement;
use perennial_core::{ActorSystem, Cx, Entity, EntityPhase};
use perennial_testkit::{ManualClock, WriteFault};
use tokio::sync::oneshot;

use crate::fixture::{
    Bed, DEADLINE, Ledger, Mark, Note, Read, Record, hold_writes, in_time, ledger, mark,
    mark_later, noted, run, send, settle, until,
};

const MINUTE: Duration = Duration::from_secs(60);

/// What the last command notes.
const END: u64 = 99;

async fn start(bed: &Bed, clock: &ManualClock, entity: Entity<Ledger>) -> ActorSystem {
    let entity = entity.passivate_after(Some(MINUTE));
    bed.start_on(Arc::new(clock.clone()), entity, &[]).await
}

/// Lets enough time pass for whoever is idle to leave.
async fn pass(system: &ActorSystem, clock: &ManualClock) {
    for _ in 0..5 {
        clock.advance(MINUTE / 2);
        settle(system).await;
    }
}

async fn phase(system: &ActorSystem, entity_id: &str) -> EntityPhase {
    let status = system.entity::<Ledger>(entity_id).status(DEADLINE).await;
    status.expect("the worker answers").phase
}

/// Lets time pass, a second at a time, until an entity is in a phase.
async fn until_it_is(wanted: EntityPhase, system: &ActorSystem, clock: &ManualClock) {
    let start = std::time::Instant::now();
    loop {
        let status = system.entity::<Ledger>("a").status(DEADLINE).await;
        let status = status.expect("the worker answers");
        if status.phase == wanted {
            return;
        }
        assert!(start.elapsed() < DEADLINE, "waited in vain: {status}");
        clock.advance(Duration::from_secs(1));
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn one_that_was_idle_for_long_handles_its_last_command_first() {
    let bed = Bed::new();
    let clock = ManualClock::new();
    let system = start(&bed, &clock, ledger().on_passivate(|| Note(END))).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));
    pass(&system, &clock).await;
    until_it_is(EntityPhase::NotInMemory, &system, &clock).await;
    assert_eq!(bed.stored("a"), noted([1, END]));
    assert_eq!(entity.ask(Read).await, Ok(vec![1, END]));
}

#[tokio::test]
async fn one_that_has_to_go_for_another_handles_it_too() {
    for policy in [Replacement::LeastRecentlyUsed, Replacement::Frequency] {
        let bed = Bed::new();
        let entity = ledger().entity_limit(3, policy).on_passivate(|| Note(END));
        let system = bed.start_with(entity, &[]).await;
        for number in 0..20 {
            let entity = system.entity::<Ledger>(format!("e{number}"));
            assert_eq!(entity.ask(Note(number)).await, Ok(vec![number]));
        }
        until("all but three have left", || system.stats().resident == 3).await;
        let ends = |number: &u64| bed.stored(&format!("e{number}")) == noted([*number, END]);
        assert_eq!((0..20).filter(ends).count(), 17);
    }
}

#[tokio::test]
async fn all_handle_it_when_the_system_ends() {
    let bed = Bed::new();
    let system = bed
        .start_with(ledger().on_passivate(|| Note(END)), &[])
        .await;
    for number in 0..20 {
        let entity = system.entity::<Ledger>(format!("e{number}"));
        assert_eq!(entity.ask(Note(number)).await, Ok(vec![number]));
    }
    let gate = hold_writes(&bed.faults);
    let waiting = send(&system.entity::<Ledger>("e0"), Note(100));
    let ending = tokio::spawn({
        let system = system.clone();
        async move { system.shutdown().await }
    });
    gate.wait_for_arrivals(1).await;
    gate.open();
    assert_eq!(waiting.answer().await, Ok(vec![0, 100]));
    assert_eq!(in_time("the end", ending).await.expect("no panic"), Ok(()));
    // After what was there before.
    assert_eq!(bed.stored("e0"), noted([0, 100, END]));
    for number in 1..20 {
        assert_eq!(bed.stored(&format!("e{number}")), noted([number, END]));
    }
}

#[tokio::test]
async fn one_that_stops_itself_or_fails_does_not_get_it() {
    let bed = Bed::new();
    let system = bed
        .start_with(ledger().on_passivate(|| Note(END)), &[])
        .await;
    let entity = system.entity::<Ledger>("a");
    let stop = run(|_, cx| cx.persist(noted([1])).then_stop().reply(|_| ()));
    assert_eq!(entity.ask(stop).await, Ok(()));
    until("it has left", || system.stats().resident == 0).await;
    assert!(entity.ask(crate::fixture::Panic).await.is_err());
    assert_eq!(entity.ask(Read).await, Ok(vec![1]));
}

#[tokio::test]
async fn what_comes_while_it_ends_is_the_next_incarnations() {
    let bed = Bed::new();
    let clock = ManualClock::new();
    let system = start(&bed, &clock, ledger().on_passivate(|| Note(END))).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));
    let gate = hold_writes(&bed.faults);
    pass(&system, &clock).await;
    gate.wait_for_arrivals(1).await;
    assert_eq!(phase(&system, "a").await, EntityPhase::Stopping);
    let behind: Vec<_> = (2..20).map(|number| send(&entity, Note(number))).collect();
    settle(&system).await;
    assert!(behind.iter().all(|behind| behind.is_open()));
    gate.open();
    let mut all = vec![1, END];
    for (behind, number) in behind.into_iter().zip(2..) {
        all.push(number);
        assert_eq!(behind.answer().await, Ok(all.clone()));
    }
    assert_eq!(bed.stored("a"), noted(all));
    let writers: std::collections::HashSet<_> = bed
        .rows("a")
        .into_iter()
        .filter_map(|row| row.event.map(|(writer, _)| writer))
        .collect();
    assert_eq!(writers.len(), 2, "each incarnation writes under its own id");
}

#[tokio::test]
async fn a_last_command_may_take_a_future() {
    let bed = Bed::new();
    let clock = ManualClock::new();
    let (sender, receiver) = oneshot::channel::<()>();
    let wait = std::sync::Mutex::new(Some(receiver));
    let last = move || {
        let wait = crate::fixture::lock(&wait).take();
        run(move |_: &Ledger, cx: &Cx<'_, Ledger>| {
            cx.later(
                async move {
                    if let Some(wait) = wait {
                        let _ = wait.await;
                    }
                },
                |(), _, cx| cx.persist(noted([END])).reply(|_| ()),
            )
        })
    };
    let system = start(&bed, &clock, ledger().on_passivate(last)).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));
    until_it_is(EntityPhase::Stopping, &system, &clock).await;
    let behind = send(&entity, Note(2));
    settle(&system).await;
    assert!(behind.is_open());
    sender.send(()).expect("the future waits");
    assert_eq!(behind.answer().await, Ok(vec![1, END, 2]));
}

#[tokio::test]
async fn one_that_takes_too_long_is_ended_all_the_same() {
    let bed = Bed::new();
    let clock = ManualClock::new();
    let last = || {
        run(|_: &Ledger, cx: &Cx<'_, Ledger>| {
            cx.later(std::future::pending::<()>(), |(), _, cx| cx.reply(()))
        })
    };
    let entity = ledger()
        .on_passivate(last)
        .stop_timeout(Duration::from_secs(20));
    let system = start(&bed, &clock, entity).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));
    until_it_is(EntityPhase::Stopping, &system, &clock).await;
    clock.advance(Duration::from_secs(18));
    settle(&system).await;
    assert_eq!(phase(&system, "a").await, EntityPhase::Stopping);
    let behind = send(&entity, Note(2));
    clock.advance(Duration::from_secs(2));
    settle(&system).await;
    assert_eq!(behind.answer().await, Ok(vec![1, 2]));
    assert_eq!(system.entities()[0].workers[0].forced_ends, 1);
}

#[tokio::test]
async fn a_write_of_its_end_is_awaited_although_the_time_is_over() {
    let bed = Bed::new();
    let clock = ManualClock::new();
    let entity = ledger()
        .on_passivate(|| Note(END))
        .stop_timeout(Duration::from_secs(1));
    let system = start(&bed, &clock, entity).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));
    let gate = hold_writes(&bed.faults);
    pass(&system, &clock).await;
    gate.wait_for_arrivals(1).await;
    let behind = send(&entity, Read);
    clock.advance(Duration::from_secs(2));
    settle(&system).await;
    assert_eq!(phase(&system, "a").await, EntityPhase::Stopping);
    assert!(behind.is_open());
    gate.open();
    assert_eq!(behind.answer().await, Ok(vec![1, END]));
}

#[tokio::test]
async fn one_whose_end_fails_leaves_all_the_same() {
    let bed = Bed::new();
    let clock = ManualClock::new();
    let ends = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&ends);
    let last = move || {
        let number = counter.fetch_add(1, Ordering::SeqCst);
        run(move |_: &Ledger, cx: &Cx<'_, Ledger>| {
            assert_ne!(number, 0, "the first end panics");
            cx.persist(noted([END])).reply(|_| ())
        })
    };
    let system = start(&bed, &clock, ledger().on_passivate(last)).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));
    until_it_is(EntityPhase::NotInMemory, &system, &clock).await;
    assert_eq!(entity.ask(Note(2)).await, Ok(vec![1, 2]));
    bed.faults.writes.next(WriteFault::Rejected);
    until_it_is(EntityPhase::NotInMemory, &system, &clock).await;
    assert_eq!(ends.load(Ordering::SeqCst), 2, "neither is tried again");
    assert_eq!(entity.ask(Note(3)).await, Ok(vec![1, 2, 3]));
    until_it_is(EntityPhase::NotInMemory, &system, &clock).await;
    assert_eq!(bed.stored("a"), noted([1, 2, 3, END]));
}

#[tokio::test]
async fn a_last_command_may_be_put_aside_for_a_while() {
    let bed = Bed::new();
    let clock = ManualClock::new();
    let record = Record::default();
    let of_end = record.clone();
    let last = move || -> Mark { mark_later("end", &of_end) };
    let system = start(&bed, &clock, ledger().on_passivate(last)).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Read).await, Ok(vec![]));
    until_it_is(EntityPhase::Stopping, &system, &clock).await;
    assert_eq!(record.lines(), [""; 0]);
    // It goes on until then.
    let incarnations = system.stats().recovered;
    assert_eq!(entity.ask(mark("work", &record)).await, Ok("work"));
    let note = run(|_, cx| {
        let noted = cx.persist(noted([1])).then_unstash_all();
        noted.reply(|_| ())
    });
    assert_eq!(entity.ask(note).await, Ok(()));
    // No time passes: that for its end would be over before the worker knows what is stored.
    until("it has left", || system.stats().resident == 0).await;
    assert_eq!(record.lines(), ["work", "end"]);
    assert_eq!(system.stats().recovered, incarnations);
}
