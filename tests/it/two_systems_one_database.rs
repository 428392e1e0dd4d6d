//! Two systems that write the same entities: the store decides, nobody is told anything wrong.

use std::sync::Arc;

use perennial::prelude::*;
use perennial_it::{Load, Notebook, Outcome, Read, TestStore, check_notes, on_every_store, until};

const BOOKS: u64 = 2;
/// Callers of each system.
const CALLERS: u64 = 4;
/// Notes that each system has to get acknowledged after the other one was there.
const NOTES: u64 = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_number_is_given_twice_and_the_loser_goes_on() {
    on_every_store(both_write).await;
}

async fn both_write(store: &TestStore) {
    let systems = [start(store).await, start(store).await];
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
    check_notes(store, &load).await;

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

async fn start(store: &TestStore) -> ActorSystem {
    store
        .system()
        .entity(Entity::<Notebook>::new(()).snapshot_every(20))
        .start()
        .await
        .expect("a usable store")
}
