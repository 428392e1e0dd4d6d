//! Two systems that write the same entities: the store decides, nobody is told anything wrong.

use std::collections::HashMap;
use std::sync::Arc;

use perennial::Retention;
use perennial::prelude::*;
use perennial_it::{Load, Notebook, Outcome, Read, TestStore, check_notes, on_every_store, until};

const BOOKS: u64 = 2;
/// Callers of each system.
const CALLERS: u64 = 4;
/// Notes that each system has to get acknowledged after the other one was there.
const NOTES: u64 = 100;
const KEEPING: Retention = Retention::every(20);
const DELETING: Retention = Retention::every(5).keep(0).delete_events();

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_number_is_given_twice_and_the_loser_goes_on() {
    on_every_store(async |store| both_write(store, KEEPING).await).await;
}

/// The events that a loser does not know of may be deleted when it writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_comes_back_although_both_delete_events() {
    on_every_store(async |store| both_write(store, DELETING).await).await;
}

async fn both_write(store: &TestStore, retention: Retention) {
    let systems = [start(store, retention).await, start(store, retention).await];
    let load = Arc::new(Load::on(BOOKS));
    let progress: [Arc<Load>; 2] = std::array::from_fn(|_| Arc::clone(&load));
    let callers: Vec<_> = systems
        .iter()
        .zip(progress)
        .flat_map(|(system, load)| {
            (0..CALLERS).map(move |_| {
                let (load, system) = (Arc::clone(&load), system.clone());
                tokio::spawn(async move { load.call(&system).await })
            })
        })
        .collect();
    tokio::task::block_in_place(|| {
        until("both systems have written often", || {
            systems
                .iter()
                .all(|system| system.stats().stored_events >= NOTES)
        });
    });
    load.stop();
    let mut conflicts = 0;
    for caller in callers {
        conflicts += caller.await.expect("a caller had no unexpected error").1;
    }
    assert!(conflicts > 0, "the systems were never in each other's way");
    if retention == KEEPING {
        check_notes(store, &load).await;
    }
    let reader = start(store, retention).await;
    check_states(&reader, &load).await;
    reader.shutdown().await.expect("idle");

    // Each of them still works, whoever wrote last.
    for system in &systems {
        for book in 0..BOOKS {
            let book = system.entity::<Notebook>(book.to_string());
            let mut last = book.ask(perennial_it::Note(u64::MAX)).await;
            while let Err(AskError::PersistFailed(_)) = last {
                last = book.ask(perennial_it::Note(u64::MAX)).await;
            }
            let place = last.expect("the loser recovers and goes on");
            let all = book.ask(Read).await.expect("in memory");
            assert_eq!(all.len(), place);
            for (note, (of, outcome)) in load.outcomes() {
                if let Outcome::Noted(place) = outcome
                    && book
                        .persistence_id()
                        .is_ok_and(|id| id.entity_id() == of.to_string())
                {
                    assert_eq!(all[place - 1], note);
                }
            }
        }
        system.shutdown().await.expect("idle");
    }
}

/// Compares what callers were told with what a system brings back.
async fn check_states(system: &ActorSystem, load: &Load) {
    let mut found = HashMap::new();
    for book in 0..BOOKS {
        let all = system.entity::<Notebook>(book.to_string()).ask(Read).await;
        for (place, note) in (1..).zip(all.expect("it comes back")) {
            let twice = found.insert(note, (book, place));
            assert_eq!(twice, None, "note {note} is there twice");
        }
    }
    for (note, (book, outcome)) in load.outcomes() {
        match outcome {
            Outcome::Noted(place) => {
                assert_eq!(found.get(&note), Some(&(book, place)), "note {note}");
            }
            Outcome::Failed => assert_eq!(found.get(&note), None, "note {note} had failed"),
            Outcome::Unknown => {}
        }
    }
}

async fn start(store: &TestStore, retention: Retention) -> ActorSystem {
    store
        .system()
        .entity(
            Entity::<Notebook>::new(())
                .snapshot_every(20)
                .retention(retention),
        )
        .start()
        .await
        .expect("a usable store")
}
