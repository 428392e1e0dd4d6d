//! A write whose outcome is open: it is found out, or its caller is told that it is unknown.

use std::collections::BTreeMap;
use std::time::Duration;

use perennial_core::{AskError, PersistFailure};
use perennial_persistence::{SequenceNr, Store};
use perennial_testkit::{Gate, WriteFault};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::fixture::{
    Bed, Entry, Ledger, Note, Read, id, in_time, noted, persist_failure, run, send, settle, until,
};

/// Here only what becomes of writes counts.
const NO_BREAKER: (&str, &str) = ("persistence.breaker-failures", "0");

#[tokio::test]
async fn a_lost_answer_is_resolved_as_stored() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    bed.faults.writes.next(WriteFault::LostAnswer);
    assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));
    assert_eq!(entity.ask(Note(2)).await, Ok(vec![1, 2]));
    assert_eq!(bed.stored("a"), noted([1, 2]));
    assert_eq!(system.stats().recovered, 1, "nothing was wrong with it");
}

#[tokio::test]
async fn a_lost_request_is_sent_again_and_stored_once() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    for fault in [
        WriteFault::LostRequest,
        WriteFault::Unavailable,
        WriteFault::LostRequest,
    ] {
        bed.faults.writes.next(fault);
    }
    assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));
    assert_eq!(bed.stored("a"), noted([1]));
    assert_eq!(bed.faults.writes.count(), 4);
    // The worker counts it after its caller has been answered.
    until("the event is counted", || system.stats().stored_events == 1).await;
}

#[tokio::test]
async fn a_request_that_arrives_late_is_stored_once() {
    let bed = Bed::new();
    let (store, faulty) = bed.open();
    let system = perennial_core::ActorSystem::with_store(
        perennial_core::config::ConfigSource::empty(),
        store,
    )
    .entity(crate::fixture::ledger())
    .start()
    .await
    .expect("starts");
    let entity = system.entity::<Ledger>("a");
    bed.faults.writes.next(WriteFault::StoredLate);
    assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));
    // The server still had the first attempt; the second one was stored meanwhile.
    faulty.deliver_late_writes().await;
    assert_eq!(entity.ask(Note(2)).await, Ok(vec![1, 2]));
    assert_eq!(bed.stored("a"), noted([1, 2]));
}

#[tokio::test]
async fn later_commands_wait_for_the_outcome_and_keep_their_order() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    for _ in 0..5 {
        bed.faults.writes.next(WriteFault::LostAnswer);
    }
    let asks: Vec<_> = (1..=50).map(|number| send(&entity, Note(number))).collect();
    for (ask, last) in asks.into_iter().zip(1..) {
        assert_eq!(ask.answer().await, Ok((1..=last).collect()));
    }
    assert_eq!(bed.stored("a"), noted(1..=50));
}

#[tokio::test]
async fn a_store_that_stays_away_ends_in_unavailable() {
    let bed = Bed::new();
    let settings = [("persistence.outcome-timeout", "50ms"), NO_BREAKER];
    let system = bed.start(&settings).await;
    let entity = system.entity::<Ledger>("a");
    bed.faults.writes.decide(|_| Some(WriteFault::Unavailable));
    let note = send(&entity, Note(1));
    let later = send(&entity, Note(2));
    let read = send(&entity, Read);
    assert_eq!(
        persist_failure(note.answer().await),
        PersistFailure::Unavailable
    );
    // In the same batch or in the next: it was not stored either way.
    let later = persist_failure(later.answer().await);
    assert!(
        matches!(later, PersistFailure::Earlier | PersistFailure::Unavailable),
        "{later:?}"
    );
    persist_failure(read.answer().await);
    bed.faults.clear();
    assert_eq!(entity.ask(Note(3)).await, Ok(vec![3]));
    assert_eq!(bed.stored("a"), noted([3]));
}

#[tokio::test]
async fn an_outcome_that_cannot_be_found_out_is_unknown() {
    let bed = Bed::new();
    let settings = [("persistence.outcome-timeout", "50ms"), NO_BREAKER];
    let system = bed.start(&settings).await;
    let entity = system.entity::<Ledger>("a");
    // The first attempt was stored, but its answer got lost, and the store stays away from then on.
    bed.faults.writes.decide(|call| {
        Some(if call.number == 1 {
            WriteFault::LostAnswer
        } else {
            WriteFault::Unavailable
        })
    });
    let answer = entity.ask(Note(1)).await;
    assert!(
        matches!(&answer, Err(error) if error.is_outcome_unknown() && !error.is_not_handled()),
        "{answer:?}"
    );
    bed.faults.clear();
    // The entity recovers under a new writer, and sees what was stored.
    assert_eq!(entity.ask(Note(2)).await, Ok(vec![1, 2]));
    let writers: std::collections::HashSet<_> = bed
        .rows("a")
        .into_iter()
        .filter_map(|row| row.event.map(|(writer, _)| writer))
        .collect();
    assert_eq!(writers.len(), 2);
}

#[tokio::test]
async fn a_write_given_up_and_stored_late_is_not_overwritten() {
    let bed = Bed::new();
    let (store, faulty) = bed.open();
    let config = perennial_core::config::ConfigSource::empty()
        .set("persistence.outcome-timeout", "50ms")
        .and_then(|config| config.set("persistence.breaker-failures", 0))
        .and_then(|config| config.set("persistence.retry-min", "1ms"))
        .and_then(|config| config.set("persistence.retry-max", "5ms"))
        .expect("known keys");
    let system = perennial_core::ActorSystem::with_store(config, store)
        .entity(crate::fixture::ledger())
        .start()
        .await
        .expect("starts");
    let entity = system.entity::<Ledger>("a");
    bed.faults.writes.decide(|call| {
        Some(if call.number == 1 {
            WriteFault::StoredLate
        } else {
            WriteFault::LostRequest
        })
    });
    let answer = entity.ask(Note(1)).await;
    assert!(
        matches!(answer, Err(AskError::Unknown { .. })),
        "{answer:?}"
    );
    bed.faults.clear();
    assert_eq!(entity.ask(Read).await, Ok(vec![]));
    // It becomes durable only now, after the entity has recovered without it.
    faulty.deliver_late_writes().await;
    assert_eq!(bed.stored("a"), noted([1]));
    assert_eq!(
        persist_failure(entity.ask(Note(2)).await),
        PersistFailure::Conflict
    );
    assert_eq!(entity.ask(Note(3)).await, Ok(vec![1, 3]));
    assert_eq!(bed.stored("a"), noted([1, 3]));
}

/// Another system writes the next event, and deletes all before it.
async fn go_on_and_delete(bed: &Bed, highest: u64) {
    bed.write_foreign("a", highest + 1, vec![Entry::Noted(99)])
        .await;
    let journal = bed.memory.open_again().journal();
    let to = SequenceNr::new(highest).expect("a small number");
    let deleted = journal.delete_events(&id("a"), to).await;
    deleted.expect("the store in memory");
}

#[tokio::test]
async fn what_was_stored_and_deleted_before_it_was_known_is_unknown() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let (first, again) = (Gate::new(), Gate::new());
    // The second and third event go out together, are stored, and their answer is lost.
    bed.faults.writes.at(1, WriteFault::Held(first.clone()));
    bed.faults.writes.at(2, WriteFault::LostAnswer);
    bed.faults.writes.at(4, WriteFault::Held(again.clone()));
    let one = send(&entity, Note(1));
    until("the first one is on its way", || first.arrived() == 1).await;
    let others = [send(&entity, Note(2)), send(&entity, Note(3))];
    let read = send(&entity, Read);
    settle(&system).await;
    first.open();
    assert_eq!(one.answer().await, Ok(vec![1]));
    until("they are sent again", || again.arrived() == 1).await;
    assert_eq!(bed.stored("a"), noted([1, 2, 3]));
    go_on_and_delete(&bed, 3).await;
    again.open();
    // They were stored, so nobody may be told that they were not.
    for other in others {
        let answer = other.answer().await;
        assert!(
            matches!(answer, Err(AskError::Unknown { .. })),
            "{answer:?}"
        );
    }
    assert_eq!(
        persist_failure(read.answer().await),
        PersistFailure::Earlier
    );
    assert_eq!(entity.ask(Note(4)).await, Ok(vec![99, 4]));
}

#[tokio::test]
async fn a_stale_system_stores_nothing_where_events_were_deleted() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));
    // The number that the entity writes next is free again.
    bed.write_foreign("a", 2, noted([2, 3])).await;
    go_on_and_delete(&bed, 3).await;
    assert_eq!(
        persist_failure(entity.ask(Note(4)).await),
        PersistFailure::Conflict
    );
    assert_eq!(bed.stored("a"), noted([99]));
    assert_eq!(entity.ask(Note(5)).await, Ok(vec![99, 5]));
}

#[tokio::test]
async fn a_store_that_panics_leaves_nothing_open() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let mut calls = 0;
    bed.faults.writes.decide(move |_| {
        calls += 1;
        assert!(calls > 1, "the store panics at its first write");
        None
    });
    assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));
    assert_eq!(bed.stored("a"), noted([1]));
}

/// Callers of several entities under faults of every kind: what they are told is true.
#[tokio::test]
async fn nobody_is_told_failed_for_what_is_stored() {
    const ENTITIES: u64 = 8;
    const COMMANDS: u64 = 60;
    for seed in 0..10 {
        let bed = Bed::new();
        let settings = [
            ("persistence.outcome-timeout", "10ms"),
            ("persistence.batch-events", "7"),
            NO_BREAKER,
        ];
        let system = bed.start(&settings).await;
        let mut random = SmallRng::seed_from_u64(seed);
        bed.faults.writes.decide(move |_| {
            if !random.random_ratio(1, 3) {
                return None;
            }
            Some(match random.random_range(0..5) {
                0 => WriteFault::Rejected,
                1 => WriteFault::Conflict,
                2 => WriteFault::Unavailable,
                3 => WriteFault::LostRequest,
                _ => WriteFault::LostAnswer,
            })
        });
        let mut asks = Vec::new();
        for number in 0..COMMANDS {
            for entity in 0..ENTITIES {
                let command = run(move |_, cx| cx.persist(noted([number])).reply(move |_| ()));
                let entity_ref = system.entity::<Ledger>(format!("e{entity}"));
                asks.push((entity, number, send(&entity_ref, command)));
            }
        }
        let mut told = BTreeMap::new();
        for (entity, number, ask) in asks {
            told.insert((entity, number), ask.answer().await);
        }
        bed.faults.clear();
        for entity in 0..ENTITIES {
            let entity_id = format!("e{entity}");
            let stored = bed.stored(&entity_id);
            for number in 0..COMMANDS {
                let times = stored
                    .iter()
                    .filter(|event| **event == Entry::Noted(number))
                    .count();
                let answer = &told[&(entity, number)];
                let fits = match answer {
                    Ok(()) => times == 1,
                    Err(AskError::PersistFailed(_)) => times == 0,
                    Err(AskError::Unknown { .. }) => times <= 1,
                    Err(_) => false,
                };
                assert!(
                    fits,
                    "seed {seed}, {entity_id}, {number}: {answer:?}, {times}"
                );
            }
            let numbers: Vec<u64> = bed
                .rows(&entity_id)
                .iter()
                .map(|row| row.seq_nr.value())
                .collect();
            assert_eq!(numbers, (1..=stored.len() as u64).collect::<Vec<_>>());
            let state = system.entity::<Ledger>(&entity_id).ask(Read).await;
            assert_eq!(state.map(noted), Ok(stored));
        }
        in_time("the end", system.shutdown()).await.expect("ends");
    }
}

#[tokio::test]
async fn an_outage_longer_than_an_ask_is_unknown_to_its_caller() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    bed.faults.writes.decide(|_| Some(WriteFault::Unavailable));
    let ask = entity.ask(Note(1)).timeout(Duration::from_millis(50));
    let answer = ask.await;
    assert!(
        matches!(answer, Err(AskError::Unknown { .. })),
        "{answer:?}"
    );
    // Its caller is gone, but the command goes on.
    bed.faults.clear();
    until("the write is stored", || bed.stored("a") == noted([1])).await;
}
