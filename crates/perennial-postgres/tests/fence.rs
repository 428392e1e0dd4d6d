//! What keeps stale writers out of the place of deleted events, and how the statements find their
//! rows.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{
    config, count, id, open, payloads, replay, seq, state, write, write_one, write_state, writer,
};
use perennial_persistence::{
    AtomicWrite, Error, Previous, SchemaCheck, SequenceNr, StateWrite, Store,
};
use perennial_postgres::Postgres;
use perennial_testkit::postgres::TestPostgres;
use tokio_postgres::{Client, NoTls};

/// Longer than anything here takes, so that only what hangs gets there.
const DEADLINE: Duration = Duration::from_secs(60);

/// Enough for a statement of a large batch.
const LARGE: usize = 100;

async fn connect(database: &TestPostgres) -> Client {
    let (client, connection) = tokio_postgres::connect(database.url(), NoTls)
        .await
        .expect("a connection");
    tokio::spawn(connection);
    client
}

/// Waits until a query gives a number.
async fn until_count(database: &TestPostgres, sql: &str, expected: u64) {
    let started = Instant::now();
    while count(database, sql) != expected {
        assert!(started.elapsed() < DEADLINE, "{sql} is not {expected}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Of another incarnation than `common::write`.
fn theirs(name: &str, first: u64, payloads: &[&str]) -> AtomicWrite {
    let events = payloads.iter().map(|one| common::event(one)).collect();
    let mut write =
        AtomicWrite::new(id(name), writer(2), seq(first), events).expect("a valid write");
    write.previous = Previous::None;
    write
}

async fn deleted_while_it_runs(stored_meanwhile: bool, tags: &[&str]) {
    let database = TestPostgres::new();
    let (stale, other) = (open(&database).await, open(&database).await);
    let (stale, other) = (stale.journal(), other.journal());
    write_one(&*stale, &write(&id("z"), 1, &["1"]))
        .await
        .expect("a good write");
    let newer = theirs("z", 2, &["2", "3", "4"]);
    if !stored_meanwhile {
        write_one(&*other, &newer).await.expect("a good write");
    }
    // The key of the batch's first row is taken by somebody who does not commit yet.
    let blocker = connect(&database).await;
    blocker
        .batch_execute(
            "BEGIN; INSERT INTO event_journal VALUES \
             (0, 'Cart', 'Cart|a', 1, now(), 77, '', 'x', false, 'w', '')",
        )
        .await
        .expect("a row");
    let mut batch: Vec<AtomicWrite> = (0..LARGE)
        .map(|n| write(&id(&format!("b{n:03}")), 1, &["beside"]))
        .collect();
    let mut first = write(&id("a"), 1, &["first"]);
    let tags = tags.iter().map(|&tag| tag.to_owned()).collect();
    first.set_tags(0, tags).expect("good tags");
    batch.insert(0, first);
    batch.push(write(&id("z"), 2, &["stale"]));
    let running = tokio::spawn({
        let (stale, batch) = (Arc::clone(&stale), batch.clone());
        async move { stale.write_events(&batch).await }
    });
    let waiting = "SELECT count(*) FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    until_count(&database, waiting, 1).await;

    if stored_meanwhile {
        write_one(&*other, &newer).await.expect("a good write");
    }
    other
        .delete_events(&id("z"), seq(3))
        .await
        .expect("a deletion");
    blocker.batch_execute("ROLLBACK").await.expect("an end");
    let answers = running.await.expect("no panic");
    let (last, good) = answers.split_last().expect("as many answers as writes");
    assert!(good.iter().all(Result::is_ok), "{good:?}");
    match last {
        Err(Error::Superseded {
            seq_nr, highest, ..
        }) => {
            assert_eq!((seq_nr.value(), highest.value()), (2, 4));
        }
        answer => panic!("a stale write is superseded, got {answer:?}"),
    }
    assert_eq!(payloads(&*stale, &id("z")).await, ["4"]);
    assert_eq!(payloads(&*stale, &id("a")).await, ["first"]);
}

/// When the statement began there was no marker, and when it stores its row the number is free.
#[tokio::test]
async fn a_large_batch_sees_what_is_deleted_while_it_runs() {
    deleted_while_it_runs(false, &[]).await;
    deleted_while_it_runs(false, &["red"]).await;
}

/// When the statement began there were not even the events that were deleted since.
#[tokio::test]
async fn a_large_batch_sees_what_is_stored_and_deleted_while_it_runs() {
    deleted_while_it_runs(true, &[]).await;
    deleted_while_it_runs(true, &["red"]).await;
}

/// The plans of a new database's first statements stay right when its tables have grown.
#[tokio::test]
async fn no_statement_reads_through_a_table() {
    let database = TestPostgres::new();
    open(&database).await.close().await;
    let others = "SELECT count(*) FROM pg_stat_activity \
                  WHERE datname = current_database() AND pid <> pg_backend_pid()";
    until_count(&database, others, 0).await;
    database.execute("SELECT pg_stat_reset()");
    let unchecked = config(&database).with_schema_check(SchemaCheck::Off);
    let store = Postgres::open(unchecked).await.expect("a store");

    let (journal, states) = (store.journal(), store.durable_state_store());
    for size in [2, LARGE] {
        let name = |n: usize| id(&format!("{size}-{n}"));
        for number in 1..=3 {
            let mut batch: Vec<AtomicWrite> =
                (0..size).map(|n| write(&name(n), number, &["e"])).collect();
            for write in &mut batch {
                write.previous = match number {
                    1 => Previous::None,
                    _ => Previous::Unknown,
                };
            }
            // The second time they are recognised.
            for _ in 0..2 {
                for answer in journal.write_events(&batch).await {
                    answer.expect("written");
                }
            }
            let batch: Vec<StateWrite> = (0..size)
                .map(|n| state(&name(n), number - 1, "s"))
                .collect();
            for answer in states.write_states(&batch).await {
                answer.expect("written");
            }
            let stale = states.write_states(&batch).await;
            assert!(stale.iter().all(Result::is_err), "{stale:?}");
        }
        let cart = name(0);
        write_one(&*journal, &write(&cart, 4, &["e"]))
            .await
            .expect("written");
        write_state(&*states, &state(&cart, 3, "s"))
            .await
            .expect("written");
        replay(&*journal, &cart).await.expect("a page");
        let highest = journal.highest_sequence_nr(&cart, SequenceNr::ZERO).await;
        assert_eq!(highest.expect("a readable journal"), seq(4));
        states.load(&cart).await.expect("a state");
        journal.delete_events(&cart, seq(2)).await.expect("deleted");
        journal
            .remove_events(&cart, seq(9), 9)
            .await
            .expect("removed");
    }
    store.close().await;
    until_count(&database, others, 0).await;

    // A server process tells what it has counted when it ends.
    for table in ["event_journal", "durable_state"] {
        let used = format!(
            "SELECT sign(idx_scan)::int FROM pg_stat_user_tables WHERE relname = '{table}'"
        );
        until_count(&database, &used, 1).await;
        let read = format!("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = '{table}'");
        assert_eq!(count(&database, &read), 0, "{table} is read through");
    }
    let used = "SELECT sign(idx_scan)::int FROM pg_stat_user_indexes \
                WHERE indexrelname = 'perennial_event_journal_marker_idx'";
    until_count(&database, used, 1).await;
}
