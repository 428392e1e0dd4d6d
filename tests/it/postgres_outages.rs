//! PostgreSQL loses its connections and crashes while callers take notes.
//!
//! `PERENNIAL_TEST_OUTAGES` is the number of each kind, 2 by default.

use std::sync::Arc;

use perennial::config::ConfigSource;
use perennial::prelude::*;
use perennial_it::{Load, Notebook, Outcome, TestStore, check_notes, number_from, until};
use perennial_testkit::postgres::PrivateServer;

const BOOKS: u64 = 20;
const CALLERS: u64 = 40;
/// Notes that have to be acknowledged between two outages.
const BETWEEN: u64 = 300;
/// Longer than a restart takes, so that most writes survive one, and short enough to be outlasted.
const OUTCOME_TIMEOUT: &str = "2s";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_and_nothing_is_stored_twice() {
    // The machine does not crash, only the server: what it wrote is there without a flush.
    let server = PrivateServer::start_with(&["fsync = off"]);
    let database = server.new_database();
    let store = TestStore::Postgres(database);
    let system = start(store.source()).await;
    let load = Arc::new(Load::on(BOOKS));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (load, system) = (Arc::clone(&load), system.clone());
            tokio::spawn(async move { load.call(&system).await })
        })
        .collect();

    let outages = {
        let load = Arc::clone(&load);
        let TestStore::Postgres(database) = &store else {
            unreachable!("made above");
        };
        let terminate = || {
            // Those that were just opened anew as well.
            (0..5)
                .map(|_| database.terminate_connections())
                .sum::<usize>()
        };
        tokio::task::block_in_place(|| {
            let progress = || {
                let before = load.noted();
                until("notes are taken again", || load.noted() >= before + BETWEEN);
            };
            let mut terminated = 0;
            for _ in 0..number_from("PERENNIAL_TEST_OUTAGES", 2) {
                progress();
                terminated += terminate();
                progress();
                server.restart_immediate();
                progress();
                // Down for longer than the outcome of a write is pursued.
                let before = load.troubled();
                server.stop();
                until("notes fail", || load.troubled() > before);
                server.start_again();
            }
            progress();
            terminated
        })
    };
    assert!(outages > 0, "there were no connections to terminate");
    load.stop();
    for caller in callers {
        caller.await.expect("a caller had no unexpected error");
    }
    system.shutdown().await.expect("nothing is left to do");

    let stored = check_notes(&store, &load).await;
    let count = |wanted: fn(&Outcome) -> bool| {
        let outcomes = load.outcomes();
        outcomes
            .values()
            .filter(|(_, outcome)| wanted(outcome))
            .count()
    };
    let noted = count(|outcome| matches!(outcome, Outcome::Noted(_)));
    let unknown = count(|outcome| *outcome == Outcome::Unknown);
    assert!((noted..=noted + unknown).contains(&stored));
    // Another system finds it all.
    let again = start(store.source()).await;
    for book in 0..BOOKS {
        let told = again
            .entity::<Notebook>(book.to_string())
            .ask(perennial_it::Read)
            .await
            .expect("it comes back");
        let acknowledged = load
            .outcomes()
            .into_iter()
            .filter(|(_, (of, outcome))| *of == book && matches!(outcome, Outcome::Noted(_)));
        for (note, (_, outcome)) in acknowledged {
            let place = told.iter().position(|found| *found == note);
            assert_eq!(place.map(|place| Outcome::Noted(place + 1)), Some(outcome));
        }
    }
    again.shutdown().await.expect("idle");
}

async fn start(source: ConfigSource) -> ActorSystem {
    let source = source
        .set("persistence.outcome-timeout", OUTCOME_TIMEOUT)
        .expect("a key");
    ActorSystem::from_source(source)
        .entity(Entity::<Notebook>::new(()).snapshot_every(50))
        .start()
        .await
        .expect("the server is up")
}

use perennial::FromConfig;
