//! The times of events: commit order is time order.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use perennial_persistence::{Clock, SchemaCheck, Store, SystemClock};

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);
const MICROSECOND: Duration = Duration::from_micros(1);

/// The year 2100.
const FUTURE_MICROS: i64 = 4_102_444_800_000_000;

fn future_time() -> Timestamp {
    Timestamp::from_microsecond(FUTURE_MICROS).expect("in range")
}

#[tokio::test]
async fn an_event_has_the_time_of_the_clock() {
    let (file, clock) = (File::new(), ManualClock::new());
    let journal = file.open_with_clock(&clock).await.journal();
    assert_eq!(store(&*journal, &id("a"), 1).await, clock.now());
    clock.advance(HOUR);
    assert_eq!(store(&*journal, &id("b"), 1).await, clock.now());
}

#[tokio::test]
async fn a_clock_that_steps_back_takes_no_event_with_it() {
    let (file, clock) = (File::new(), ManualClock::new());
    let opened = file.open_with_clock(&clock).await;
    let first = store(&*opened.journal(), &id("a"), 1).await;
    clock.set(first - HOUR);
    let second = store(&*opened.journal(), &id("b"), 1).await;
    assert_eq!(second, first + MICROSECOND);
    opened.close().await;

    let again = file.open_with_clock(&clock).await;
    let third = store(&*again.journal(), &id("c"), 1).await;
    assert_eq!(third, second + MICROSECOND);
}

#[tokio::test]
async fn two_stores_with_different_clocks_commit_in_time_order() {
    let file = File::new();
    let clocks = [ManualClock::new(), ManualClock::new()];
    clocks[0].advance(HOUR);
    let stores = [
        file.open_with_clock(&clocks[0]).await,
        file.open_with_clock(&clocks[1]).await,
    ];
    let mut last = Timestamp::UNIX_EPOCH;
    // Each store follows the other one and itself.
    for (number, which) in (1..).zip([0, 1, 1, 0, 0, 1, 0, 1]) {
        let journal = stores[which].journal();
        let time = store(&*journal, &id(&format!("{which}-{number}")), 1).await;
        assert!(time > last, "write {number}: {time} after {last}");
        last = time;
        clocks[which].advance(MICROSECOND);
    }
}

#[tokio::test]
async fn two_stores_that_write_at_once_commit_in_time_order() {
    const WRITES: u64 = 100;
    let file = File::new();
    let stores = [file.open().await, file.open().await];
    let writers = stores.iter().zip(["a", "b"]).map(|(store, name)| {
        let journal = store.journal();
        tokio::spawn(async move {
            for number in 1..=WRITES {
                super::store(&*journal, &id(name), number).await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("no panic");
    }
    // Rows are appended, so their ids tell the order of the commits.
    let connection = file.connection();
    let mut statement = connection
        .prepare("SELECT db_timestamp FROM event_journal ORDER BY rowid")
        .expect("valid SQL");
    let times: Vec<i64> = statement
        .query_map([], |row| row.get(0))
        .expect("a query")
        .collect::<Result<_, _>>()
        .expect("numbers");
    assert_eq!(times.len(), 2 * usize::try_from(WRITES).expect("small"));
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
}

#[tokio::test]
async fn a_row_in_the_future_that_another_program_adds_is_noticed() {
    let file = File::new();
    let journal = file.open().await.journal();
    assert!(store(&*journal, &id("a"), 1).await < future_time());
    insert_row(&file.connection(), &id("b"), 1, FUTURE_MICROS);
    let next = store(&*journal, &id("a"), 2).await;
    assert_eq!(next, future_time() + MICROSECOND);
    // A row is no longer the last one when another took its place.
    file.connection()
        .execute(
            "DELETE FROM event_journal WHERE persistence_id = 'Cart|a'",
            [],
        )
        .expect("a table");
    insert_row(&file.connection(), &id("c"), 1, 2 * FUTURE_MICROS);
    let next = store(&*journal, &id("a"), 3).await;
    assert_eq!(next.as_microsecond(), 2 * FUTURE_MICROS + 1);
}

#[tokio::test]
async fn the_latest_row_is_found_wherever_it_stands() {
    // The row is neither the last one nor in the last slice, nor of the last entity type.
    let ids: Vec<PersistenceId> = (0..300)
        .map(|n| PersistenceId::new(&format!("Type{}", n % 3), &format!("{n}")).expect("valid"))
        .collect();
    for latest in [0, 1, 150, 299] {
        for has_index in [true, false] {
            let file = File::new();
            file.open().await.close().await;
            let connection = file.connection();
            for (n, id) in ids.iter().enumerate() {
                let micros = if n == latest {
                    FUTURE_MICROS
                } else {
                    1_000_000
                };
                insert_row(&connection, id, 1, micros);
            }
            // Text where a number belongs sorts above all numbers.
            connection
                .execute(
                    "UPDATE event_journal SET db_timestamp = 'soon' WHERE rowid % 100 = 50",
                    [],
                )
                .expect("a table");
            if !has_index {
                connection
                    .execute_batch("DROP INDEX event_journal_slice_idx")
                    .expect("an index");
            }
            let store = open(file.config().with_schema_check(SchemaCheck::Off)).await;
            let next = super::store(&*store.journal(), &id("a"), 1).await;
            assert_eq!(next, future_time() + MICROSECOND, "{latest} {has_index}");
        }
    }
}

#[tokio::test]
async fn a_table_whose_time_is_at_the_end_takes_no_more_events() {
    let file = File::new();
    let journal = file.open().await.journal();
    insert_row(&file.connection(), &id("a"), 1, i64::MAX);
    let written = write_one(&*journal, &write(&id("b"), 1)).await;
    let deleted = journal.delete_events(&id("b"), seq(1)).await;
    for result in [written.map(drop), deleted] {
        match result {
            Err(Error::Rejected { reason, .. }) => {
                assert!(reason.contains("correct that row"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
    file.connection()
        .execute("DELETE FROM event_journal", [])
        .expect("a table");
}

/// A clock that counts how often it is read.
#[derive(Debug, Default)]
struct CountingClock {
    clock: SystemClock,
    readings: AtomicUsize,
}

impl Clock for CountingClock {
    fn now(&self) -> Timestamp {
        self.readings.fetch_add(1, Ordering::Relaxed);
        self.clock.now()
    }

    fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }
}

#[tokio::test]
async fn callers_that_wait_share_a_transaction() {
    // Few enough for the runtime to poll them all at once.
    const CALLERS: usize = 50;
    let file = File::new();
    let clock = Arc::new(CountingClock::default());
    let opened = Sqlite::open_with_clock(file.config(), Arc::clone(&clock) as Arc<dyn Clock>);
    let opened = opened.await.expect("a new file");
    let journal = opened.journal();
    let connection = file.connection();
    connection
        .execute_batch("BEGIN IMMEDIATE")
        .expect("nobody else writes");

    let writes: Vec<AtomicWrite> = (0..CALLERS)
        .map(|n| write(&id(&format!("{n}")), 1))
        .collect();
    let mut answers = pin!(join_all(
        writes.iter().map(|write| write_one(&*journal, write))
    ));
    // Polled once, each has handed over its write; the first ones wait for the lock.
    begin(answers.as_mut()).await;
    connection.execute_batch("COMMIT").expect("a transaction");

    let mut times: Vec<Timestamp> = Vec::new();
    for answer in answers.await {
        times.push(answer.expect("a good write").timestamp);
    }
    times.sort();
    assert!(times.is_sorted_by(|a, b| a < b), "each has its own time");
    // The clock is read once in a transaction: one for what the thread took before it waited for
    // the lock, one for the rest.
    let transactions = clock.readings.load(Ordering::Relaxed);
    assert!((1..=2).contains(&transactions), "{transactions}");
}
