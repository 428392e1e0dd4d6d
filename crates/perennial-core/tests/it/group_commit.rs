//! The writes of many entities go out together, and fail alone.

use perennial_core::{AskError, PersistFailure};
use perennial_testkit::{Gate, WriteFault};

use crate::fixture::{
    Bed, Entry, Ledger, Note, Read, hold_writes, id, ids_of_lane, noted, persist_failure, run,
    send, settle,
};

/// One lane, so that a held write keeps everything else waiting.
const ONE_LANE: (&str, &str) = ("persistence.writers", "1");

#[tokio::test]
async fn writes_that_come_during_a_commit_go_out_together() {
    const ENTITIES: usize = 500;
    let bed = Bed::new();
    let system = bed.start(&[ONE_LANE]).await;
    let gate = Gate::new();
    bed.faults.writes.next(WriteFault::Held(gate.clone()));
    let first = send(&system.entity::<Ledger>("first"), Note(0));
    gate.wait_for_arrivals(1).await;
    let asks: Vec<_> = (0..ENTITIES)
        .map(|number| send(&system.entity::<Ledger>(format!("e{number}")), Note(1)))
        .collect();
    crate::fixture::until("all have recovered", || {
        system.stats().recovered > ENTITIES as u64
    })
    .await;
    settle(&system).await;
    gate.open();
    first.answer().await.expect("stored");
    for ask in asks {
        assert_eq!(ask.answer().await, Ok(vec![1]));
    }
    let sizes: Vec<usize> = bed.calls.batches().iter().map(Vec::len).collect();
    assert_eq!(sizes, [1, ENTITIES]);
}

#[tokio::test]
async fn a_lone_write_goes_out_at_once() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    for number in 0..10 {
        let entity = system.entity::<Ledger>(format!("e{number}"));
        assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));
    }
    let sizes: Vec<usize> = bed.calls.batches().iter().map(Vec::len).collect();
    assert_eq!(sizes, [1; 10]);
}

/// What a store starts while a write is begun must not end with the worker's thread.
#[tokio::test]
async fn a_lone_write_is_begun_by_its_worker_as_if_on_the_persistence_runtime() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));
    let [begun, went_on] = bed.calls.places()[0];
    assert_ne!(begun.thread, went_on.thread);
    assert_eq!(begun.runtime, went_on.runtime);
}

#[tokio::test]
async fn every_lane_has_one_batch_in_flight() {
    let bed = Bed::new();
    let system = bed.start(&[("persistence.writers", "2")]).await;
    let gate = hold_writes(&bed.faults);
    let mut asks = Vec::new();
    for lane in [0, 1] {
        for entity_id in ids_of_lane(lane, 20) {
            asks.push(send(&system.entity::<Ledger>(&entity_id), Note(1)));
        }
    }
    gate.wait_for_arrivals(2).await;
    settle(&system).await;
    assert_eq!(bed.calls.writing.now(), 2);
    gate.open();
    for ask in asks {
        assert_eq!(ask.answer().await, Ok(vec![1]));
    }
    assert_eq!(bed.calls.writing.highest(), 2);
    // An entity stays in its lane, so its events become durable in their order.
    for batch in bed.calls.batches() {
        let lanes: std::collections::HashSet<u16> =
            batch.iter().map(|(id, _)| id.slice().value() % 2).collect();
        assert_eq!(lanes.len(), 1);
    }
}

#[tokio::test]
async fn a_batch_is_bounded_in_events() {
    let bed = Bed::new();
    let settings = [ONE_LANE, ("persistence.batch-events", "10")];
    let system = bed.start(&settings).await;
    let gate = Gate::new();
    bed.faults.writes.next(WriteFault::Held(gate.clone()));
    let first = send(&system.entity::<Ledger>("first"), Note(0));
    gate.wait_for_arrivals(1).await;
    let entity = system.entity::<Ledger>("a");
    let several = |count: u64| run(move |_, cx| cx.persist(noted(0..count)).reply(|_| ()));
    let asks = [4, 4, 2, 1, 10, 25, 3].map(|count| send(&entity, several(count)));
    settle(&system).await;
    gate.open();
    first.answer().await.expect("stored");
    for ask in asks {
        assert_eq!(ask.answer().await, Ok(()));
    }
    let batches: Vec<Vec<usize>> = bed
        .calls
        .batches()
        .iter()
        .map(|batch| batch.iter().map(|(_, events)| *events).collect())
        .collect();
    // A write is never split: the one that is larger than a batch goes alone.
    assert_eq!(
        batches,
        [vec![1], vec![4, 4, 2], vec![1], vec![10], vec![25], vec![3]]
    );
}

#[tokio::test]
async fn a_batch_is_bounded_in_bytes() {
    let bed = Bed::new();
    let settings = [ONE_LANE, ("persistence.batch-bytes", "10KiB")];
    let system = bed.start(&settings).await;
    let gate = Gate::new();
    bed.faults.writes.next(WriteFault::Held(gate.clone()));
    let first = send(&system.entity::<Ledger>("first"), Note(0));
    gate.wait_for_arrivals(1).await;
    let entity = system.entity::<Ledger>("a");
    let large = |bytes: usize| {
        run(move |_, cx| cx.persist([Entry::Padded("x".repeat(bytes))]).reply(|_| ()))
    };
    let asks = [4000, 4000, 4000, 20_000, 10].map(|bytes| send(&entity, large(bytes)));
    settle(&system).await;
    gate.open();
    first.answer().await.expect("stored");
    for ask in asks {
        assert_eq!(ask.answer().await, Ok(()));
    }
    let sizes: Vec<usize> = bed.calls.batches().iter().map(Vec::len).collect();
    assert_eq!(sizes, [1, 2, 1, 1, 1]);
}

#[tokio::test]
async fn one_bad_write_of_each_kind_fails_alone_among_a_thousand() {
    const GOOD: usize = 1000;
    let bed = Bed::new();
    let system = bed.start(&[ONE_LANE]).await;
    let stale = system.entity::<Ledger>("stale");
    assert_eq!(stale.ask(Read).await, Ok(vec![]));
    // Another program writes the number that the recovered entity will use.
    bed.write_foreign("stale", 1, noted([99])).await;

    let gate = Gate::new();
    bed.faults.writes.next(WriteFault::Held(gate.clone()));
    let first = send(&system.entity::<Ledger>("first"), Note(0));
    gate.wait_for_arrivals(1).await;
    let good: Vec<_> = (0..GOOD)
        .map(|number| send(&system.entity::<Ledger>(format!("good{number}")), Note(1)))
        .collect();
    let rejected = send(&system.entity::<Ledger>("rejected"), Note(1));
    let conflict = send(&stale, Note(1));
    crate::fixture::until("all have recovered", || {
        system.stats().recovered == GOOD as u64 + 3
    })
    .await;
    settle(&system).await;
    let bad = id("rejected");
    bed.faults.writes.decide(move |call| {
        (call.persistence_id == &bad && call.number < 2000).then_some(WriteFault::Rejected)
    });
    gate.open();

    first.answer().await.expect("stored");
    for ask in good {
        assert_eq!(ask.answer().await, Ok(vec![1]));
    }
    assert_eq!(
        persist_failure(rejected.answer().await),
        PersistFailure::Rejected
    );
    assert_eq!(
        persist_failure(conflict.answer().await),
        PersistFailure::Conflict
    );
    assert_eq!(bed.calls.batches().len(), 2, "all went out together");
    assert_eq!(bed.stored("rejected"), []);
    assert_eq!(bed.stored("stale"), noted([99]));
    for number in 0..GOOD {
        assert_eq!(bed.stored(&format!("good{number}")), noted([1]));
    }
    // Both go on, each with what is stored.
    bed.faults.clear();
    assert_eq!(stale.ask(Note(2)).await, Ok(vec![99, 2]));
    let rejected = system.entity::<Ledger>("rejected");
    assert_eq!(rejected.ask(Note(2)).await, Ok(vec![2]));
}

#[tokio::test]
async fn a_message_names_what_was_refused_and_why() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    bed.faults.writes.next(WriteFault::Rejected);
    let answer = system.entity::<Ledger>("a").ask(Note(1)).await;
    let Err(AskError::PersistFailed(failed)) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(failed.persistence_id, id("a"));
    assert_eq!(
        failed.to_string(),
        "events of Ledger|a were not stored: Ledger|a cannot be stored: a planned fault refuses it"
    );
}
