//! PostgreSQL loses its connections and crashes while callers take notes.
//!
//! `PERENNIAL_TEST_OUTAGES` is the number of each kind, 2 by default.

use std::sync::Arc;
use std::time::{Duration, Instant};

use perennial::BreakerState;
use perennial::config::ConfigSource;
use perennial::prelude::*;
use perennial_it::{Load, Note, Notebook, Outcome, TestStore, check_notes, number_from, until};
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
    let system = start(store.source(), OUTCOME_TIMEOUT).await;
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
    let again = start(store.source(), OUTCOME_TIMEOUT).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_down_is_busy_at_once_and_needs_no_restart_afterwards() {
    let server = PrivateServer::start_with(&["fsync = off"]);
    let store = TestStore::Postgres(server.new_database());
    let source = store
        .source()
        .set("system.workers", 1)
        .and_then(|source| source.set("persistence.breaker-failures", 3))
        .and_then(|source| source.set("persistence.breaker-reset", "200ms"))
        .expect("keys");
    let system = start(source, "1m").await;
    let (first, second) = (
        system.entity::<Notebook>("1"),
        system.entity::<Notebook>("2"),
    );
    first.ask(Note(1)).await.expect("the server is up");
    second.ask(Note(2)).await.expect("the server is up");

    tokio::task::block_in_place(|| server.stop());
    // It is accepted, and probes whether the server is back from then on.
    let accepted = first.ask(Note(3)).timeout(Duration::from_secs(60));
    let accepted = tokio::spawn(accepted.into_future());
    tokio::task::block_in_place(|| {
        until("the breaker is open", || {
            system.status()[0].breaker != BreakerState::Closed
        });
    });
    for note in 4..50 {
        let asked = Instant::now();
        let answer = second.ask(Note(note)).await;
        let Err(AskError::Busy { retry_after, .. }) = answer else {
            panic!("the server is down, but it is told {answer:?}");
        };
        assert!(retry_after <= Duration::from_millis(200));
        assert!(asked.elapsed() < Duration::from_secs(1), "at once");
    }
    let told = second.ask(perennial_it::Read).await;
    assert_eq!(told, Ok(vec![2]), "it is in memory");
    let status = system.status().remove(0);
    let error = status.last_error.expect("the server said something");
    assert!(!error.contains("password"), "{error}");
    assert!(status.refused >= 46 && status.opened == 1);

    tokio::task::block_in_place(|| server.start_again());
    let accepted = accepted.await.expect("asking does not panic");
    assert_eq!(accepted, Ok(2), "what was accepted is stored");
    let deadline = Instant::now() + Duration::from_secs(60);
    for entity in [&first, &second] {
        while let Err(error) = entity.ask(Note(100)).await {
            assert!(Instant::now() < deadline, "it does not go on: {error}");
            if let AskError::Busy { retry_after, .. } = error {
                tokio::time::sleep(retry_after).await;
            }
        }
    }
    assert_eq!(system.status()[0].breaker, BreakerState::Closed);
    system.shutdown().await.expect("nothing is left to do");
}

async fn start(source: ConfigSource, outcome_timeout: &str) -> ActorSystem {
    let source = source
        .set("persistence.outcome-timeout", outcome_timeout)
        .expect("a key");
    ActorSystem::from_source(source)
        .entity(Entity::<Notebook>::new(()).snapshot_every(50))
        .start()
        .await
        .expect("the server is up")
}

use perennial::FromConfig;
