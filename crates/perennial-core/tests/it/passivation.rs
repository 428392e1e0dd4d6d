//! Idle entities leave memory. Time is a clock that the tests move.

use std::sync::Arc;
use std::time::Duration;

use perennial_core::ActorSystem;
use perennial_testkit::{ChangeFault, Gate, ManualClock, ReadFault};

use crate::fixture::{
    Bed, Ledger, Note, Panic, Read, Record, hold_writes, ledger, mark_later, run, send, settle,
    until,
};

const MINUTE: Duration = Duration::from_secs(60);

/// A system whose entities leave after a minute.
async fn start(bed: &Bed, clock: &ManualClock) -> ActorSystem {
    let entity_type = ledger()
        .recovery_timeout(Duration::from_secs(86_400))
        .passivate_after(Some(MINUTE))
        .restart_backoff(MINUTE * 10, MINUTE * 10)
        .snapshot_every(2);
    bed.start_on(Arc::new(clock.clone()), entity_type, &[])
        .await
}

/// Lets time pass, in steps in which the bystander, by which the worker sees it, stays.
async fn pass(system: &ActorSystem, clock: &ManualClock, minutes: u32) {
    for _ in 0..minutes * 2 {
        clock.advance(MINUTE / 2);
        settle(system).await;
    }
}

#[tokio::test]
async fn idle_entities_leave_and_come_back() {
    let bed = Bed::new();
    let clock = ManualClock::new();
    let system = start(&bed, &clock).await;
    for number in 0..100 {
        let entity = system.entity::<Ledger>(format!("e{number}"));
        entity.ask(Note(number)).await.expect("stored");
    }
    assert_eq!(system.stats().resident, 100);
    clock.advance(MINUTE / 2);
    settle(&system).await;
    assert_eq!(system.stats().resident, 101, "not before their time");
    pass(&system, &clock, 2).await;
    assert_eq!(system.stats().resident, 1, "only the bystander is left");
    for number in 0..100 {
        let entity = system.entity::<Ledger>(format!("e{number}"));
        assert_eq!(entity.ask(Read).await, Ok(vec![number]));
    }
    assert_eq!(system.stats().recovered, 201);
}

#[tokio::test]
async fn an_entity_in_use_stays() {
    let bed = Bed::new();
    let clock = ManualClock::new();
    let system = start(&bed, &clock).await;
    let entity = system.entity::<Ledger>("a");
    for _ in 0..10 {
        clock.advance(MINUTE - Duration::from_secs(1));
        assert_eq!(entity.ask(Read).await, Ok(vec![]));
    }
    assert_eq!(system.stats().recovered, 1);
}

#[tokio::test]
async fn without_a_time_entities_stay_for_ever() {
    let bed = Bed::new();
    let clock = ManualClock::new();
    let entity_type = ledger().passivate_after(None);
    let system = bed
        .start_on(Arc::new(clock.clone()), entity_type, &[])
        .await;
    system.entity::<Ledger>("a").ask(Note(1)).await.expect("ok");
    pass(&system, &clock, 60).await;
    assert_eq!(system.stats().resident, 2);
}

#[tokio::test]
async fn the_configuration_says_never_too() {
    let bed = Bed::new();
    let clock = ManualClock::new();
    let entity_type = ledger().passivate_after(Some(MINUTE));
    let settings = [("entity.Ledger.passivate-after", "never")];
    let system = bed
        .start_on(Arc::new(clock.clone()), entity_type, &settings)
        .await;
    system.entity::<Ledger>("a").ask(Note(1)).await.expect("ok");
    pass(&system, &clock, 60).await;
    assert_eq!(system.stats().resident, 2);
}

#[tokio::test]
async fn an_entity_with_a_write_in_flight_stays() {
    let bed = Bed::new();
    let clock = ManualClock::new();
    let system = start(&bed, &clock).await;
    settle(&system).await;
    let gate = hold_writes(&bed.faults);
    let note = send(&system.entity::<Ledger>("a"), Note(1));
    gate.wait_for_arrivals(1).await;
    pass(&system, &clock, 10).await;
    assert_eq!(system.stats().resident, 2);
    gate.open();
    assert_eq!(note.answer().await, Ok(vec![1]));
    // The reply is out before the worker hears of the commit, which counts as activity.
    pass(&system, &clock, 30).await;
    assert_eq!(system.stats().resident, 1);
}

#[tokio::test]
async fn an_entity_with_stashed_commands_stays() {
    let bed = Bed::new();
    let clock = ManualClock::new();
    let system = start(&bed, &clock).await;
    let entity = system.entity::<Ledger>("a");
    let record = Record::default();
    let stashed = send(&entity, mark_later("stashed", &record));
    pass(&system, &clock, 10).await;
    assert_eq!(system.stats().resident, 2);
    assert!(stashed.is_open());
    entity.ask(Note(1)).await.expect("stored");
    let unstash = run(|_, cx| cx.unstash_all().reply(|_| ()));
    assert_eq!(entity.ask(unstash).await, Ok(()));
    assert_eq!(stashed.answer().await, Ok("stashed"));
    pass(&system, &clock, 3).await;
    assert_eq!(system.stats().resident, 1);
}

#[tokio::test]
async fn an_entity_whose_snapshot_is_being_saved_stays() {
    let bed = Bed::new();
    let clock = ManualClock::new();
    let system = start(&bed, &clock).await;
    let entity = system.entity::<Ledger>("a");
    let gate = Gate::new();
    bed.faults
        .snapshot_saves
        .next(ChangeFault::Held(gate.clone()));
    entity.ask(Note(1)).await.expect("stored");
    entity.ask(Note(2)).await.expect("stored");
    gate.wait_for_arrivals(1).await;
    pass(&system, &clock, 10).await;
    assert_eq!(system.stats().resident, 2);
    gate.open();
    until("the snapshot is saved", || {
        system.stats().saved_snapshots == 1
    })
    .await;
    pass(&system, &clock, 3).await;
    assert_eq!(system.stats().resident, 1);
}

#[tokio::test]
async fn an_entity_that_recovers_or_waits_after_a_failure_stays() {
    let bed = Bed::new();
    let clock = ManualClock::new();
    let system = start(&bed, &clock).await;
    settle(&system).await;
    let gate = Gate::new();
    bed.faults.reads.next(ReadFault::Held(gate.clone()));
    let recovers = send(&system.entity::<Ledger>("recovers"), Read);
    gate.wait_for_arrivals(1).await;
    let failing = system.entity::<Ledger>("failing");
    assert!(failing.ask(Panic).await.is_err());
    pass(&system, &clock, 4).await;
    assert_eq!(system.stats().resident, 3);
    gate.open();
    assert_eq!(recovers.answer().await, Ok(vec![]));
    // Both are done with what kept them, and leave.
    pass(&system, &clock, 20).await;
    assert_eq!(system.stats().resident, 1);
}
