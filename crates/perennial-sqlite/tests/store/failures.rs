//! What goes wrong while the store is open, many callers, and the end.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use perennial_persistence::{SchemaCheck, Snapshot, SnapshotCriteria, Store};

use super::*;

fn snapshot(id: &PersistenceId) -> Snapshot {
    Snapshot {
        persistence_id: id.clone(),
        seq_nr: seq(1),
        write_timestamp: Timestamp::UNIX_EPOCH,
        payload: SerializedPayload::new(77, "State", &b"state"[..]),
        metadata: None,
    }
}

#[tokio::test]
async fn a_lock_that_is_held_too_long_stores_nothing() {
    let file = File::new();
    let config = file.config().with_busy_timeout(Duration::from_millis(50));
    let opened = open(config).await;
    let journal = opened.journal();
    store(&*journal, &id("a"), 1).await;
    let holder = file.connection();
    holder
        .execute_batch("BEGIN IMMEDIATE")
        .expect("nobody else writes");

    let write = write(&id("a"), 2);
    check_unavailable(&write_one(&*journal, &write).await, "busy-timeout");
    let saved = opened.snapshot_store().save(&snapshot(&id("a"))).await;
    check_unavailable(&saved, "busy-timeout");
    // Readers don't wait for a writer.
    assert_eq!(numbers(&*journal, &id("a")).await, [1]);

    holder.execute_batch("COMMIT").expect("a transaction");
    write_one(&*journal, &write)
        .await
        .expect("the lock is gone");
    assert_eq!(numbers(&*journal, &id("a")).await, [1, 2]);
}

#[tokio::test]
async fn a_table_that_vanishes_fails_its_calls_and_leaves_no_lock() {
    let file = File::new();
    let opened = file.open().await;
    let connection = file.connection();
    connection
        .execute_batch("DROP TABLE snapshot")
        .expect("a table");
    let snapshots = opened.snapshot_store();
    let saved = snapshots.save(&snapshot(&id("a"))).await;
    check_unavailable(&saved, "schema-check = \"verify\"");
    let loaded = snapshots.load(&id("a"), SnapshotCriteria::ANY).await;
    check_unavailable(&loaded, "schema-check = \"verify\"");

    connection
        .busy_timeout(Duration::ZERO)
        .expect("a setting of the connection");
    insert_row(&connection, &id("a"), 1, 1);
    store(&*opened.journal(), &id("a"), 2).await;
}

/// A trigger makes the store's transaction fail; once it is gone, the identical writes succeed.
async fn check_lost_transaction(trigger: &str, reason: &str) {
    let file = File::new();
    let opened = file.open().await;
    let (journal, snapshots) = (opened.journal(), opened.snapshot_store());
    let connection = file.connection();
    connection.execute_batch(trigger).expect("valid SQL");

    let batch = [write(&id("good"), 1), write(&id("bad"), 1)];
    for _ in 0..2 {
        for answer in journal.write_events(&batch).await {
            check_unavailable(&answer, reason);
        }
        assert_eq!(numbers(&*journal, &id("good")).await, [0; 0]);
    }
    snapshots
        .save(&snapshot(&id("good")))
        .await
        .expect("the next transaction is not concerned");

    connection
        .execute_batch("DROP TRIGGER fault")
        .expect("a trigger");
    for answer in journal.write_events(&batch).await {
        answer.expect("nothing stands in the way");
    }
}

#[tokio::test]
async fn a_row_that_ends_the_transaction_stores_nothing() {
    check_lost_transaction(
        "CREATE TRIGGER fault BEFORE INSERT ON event_journal
         WHEN NEW.persistence_id = 'Cart|bad'
         BEGIN SELECT RAISE(ROLLBACK, 'all of it'); END",
        "trigger",
    )
    .await;
}

#[tokio::test]
async fn a_commit_that_is_refused_stores_nothing() {
    check_lost_transaction(
        "CREATE TABLE shop (name TEXT PRIMARY KEY);
         CREATE TABLE visit (shop TEXT REFERENCES shop DEFERRABLE INITIALLY DEFERRED);
         CREATE TRIGGER fault AFTER INSERT ON event_journal
         WHEN NEW.persistence_id = 'Cart|bad'
         BEGIN INSERT INTO visit VALUES ('closed'); END",
        "constraint",
    )
    .await;
}

#[tokio::test]
async fn a_row_that_is_left_out_is_rejected_alone() {
    let file = File::new();
    let journal = file.open().await.journal();
    file.connection()
        .execute_batch(
            "CREATE TRIGGER fault BEFORE INSERT ON event_journal
             WHEN NEW.persistence_id = 'Cart|bad' AND NEW.seq_nr = 2
             BEGIN SELECT RAISE(IGNORE); END",
        )
        .expect("valid SQL");
    let two = [write(&id("bad"), 1), write(&id("bad"), 2)];
    let events = two.iter().flat_map(|write| write.events().to_vec());
    let writer = WriterId::from_random_bits(1);
    let together = AtomicWrite::new(id("bad"), writer, SequenceNr::FIRST, events.collect());
    let batch = [together.expect("valid"), write(&id("good"), 1)];

    let answers = journal.write_events(&batch).await;
    assert!(
        matches!(answers[0], Err(Error::Rejected { .. })),
        "{answers:?}"
    );
    assert!(answers[1].is_ok(), "{answers:?}");
    assert_eq!(numbers(&*journal, &id("bad")).await, [0; 0]);
    assert_eq!(numbers(&*journal, &id("good")).await, [1]);
}

#[tokio::test]
async fn a_write_whose_rows_are_there_in_part_is_not_taken_for_stored() {
    let file = File::new();
    let journal = file.open().await.journal();
    store(&*journal, &id("a"), 1).await;
    let events = vec![NewEvent::new(SerializedPayload::new(77, "Event", &b"x"[..])); 2];
    let writer = WriterId::from_random_bits(1);
    let more = AtomicWrite::new(id("a"), writer, SequenceNr::FIRST, events).expect("valid");
    match write_one(&*journal, &more).await {
        Err(Error::Superseded { seq_nr, .. }) => assert_eq!(seq_nr, seq(1)),
        other => panic!("{other:?}"),
    }
    assert_eq!(numbers(&*journal, &id("a")).await, [1]);
}

#[tokio::test]
async fn a_deletion_that_is_refused_deletes_nothing_and_stops_nobody() {
    let file = File::new();
    let journal = file.open().await.journal();
    for number in 1..=3 {
        store(&*journal, &id("kept"), number).await;
    }
    let connection = file.connection();
    connection
        .execute_batch(
            "CREATE TRIGGER fault BEFORE INSERT ON event_journal WHEN NEW.deleted
             BEGIN SELECT RAISE(ABORT, 'no markers'); END;
             BEGIN IMMEDIATE",
        )
        .expect("valid SQL");

    // Both wait for the lock, so that they share a transaction.
    let (kept, other) = (id("kept"), write(&id("other"), 1));
    let mut both = pin!(async {
        tokio::join!(
            journal.delete_events(&kept, seq(2)),
            write_one(&*journal, &other)
        )
    });
    begin(both.as_mut()).await;
    connection.execute_batch("COMMIT").expect("a transaction");
    let (deleted, written) = both.await;
    assert!(
        matches!(deleted, Err(Error::Rejected { .. })),
        "{deleted:?}"
    );
    written.expect("the deletion is another's");
    assert_eq!(numbers(&*journal, &kept).await, [1, 2, 3]);
}

#[tokio::test]
async fn damaged_events_are_named() {
    let file = File::new();
    let journal = file.open().await.journal();
    for number in 1..=3 {
        store(&*journal, &id("a"), number).await;
    }
    let connection = file.connection();
    let limit = PageLimit {
        rows: 10,
        bytes: 1_000,
    };
    for (damage, repair, part) in [
        (
            "db_timestamp = 'x'",
            "db_timestamp = 1",
            "db_timestamp is Text",
        ),
        ("event_ser_id = 1 << 40", "event_ser_id = 1", "event_ser_id"),
        (
            "event_payload = 7",
            "event_payload = x'07'",
            "event_payload is Integer",
        ),
        (
            "event_ser_manifest = x'00'",
            "event_ser_manifest = ''",
            "manifest is Blob",
        ),
        (
            "meta_payload = x'00'",
            "meta_payload = NULL",
            "meta_ser_manifest is Null",
        ),
        ("deleted = 'yes'", "deleted = 0", "deleted is Text"),
    ] {
        let update = |what| {
            let sql = format!("UPDATE event_journal SET {what} WHERE seq_nr = 2");
            assert_eq!(connection.execute(&sql, []), Ok(1));
        };
        update(damage);
        let page = journal.replay_events(&id("a"), seq(1), seq(3), limit).await;
        match page {
            Err(Error::Corrupt { seq_nr, reason, .. }) => {
                assert_eq!(seq_nr, seq(2), "{damage}");
                assert!(reason.contains(part), "{damage}: {reason}");
            }
            other => panic!("{damage}: {other:?}"),
        }
        update(repair);
    }
    assert_eq!(numbers(&*journal, &id("a")).await, [1, 2, 3]);
}

#[tokio::test]
async fn a_damaged_snapshot_is_named() {
    let file = File::new();
    let opened = file.open().await;
    let snapshots = opened.snapshot_store();
    snapshots
        .save(&snapshot(&id("a")))
        .await
        .expect("a new file");
    file.connection()
        .execute("UPDATE snapshot SET snapshot = 'text'", [])
        .expect("a table");
    let loaded = snapshots.load(&id("a"), SnapshotCriteria::ANY).await;
    match loaded {
        Err(Error::Corrupt { seq_nr, reason, .. }) => {
            assert_eq!(seq_nr, seq(1));
            assert_eq!(reason, "snapshot is Text, not a blob");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_at_once_are_all_answered() {
    const CALLERS: usize = 100;
    const WRITES: u64 = 10;
    let file = File::new();
    // So few may wait in the store that most have to wait outside.
    let opened = open(
        file.config()
            .with_waiting_calls(2)
            .with_transaction_events(7),
    )
    .await;
    let journal = opened.journal();
    let callers = (0..CALLERS).map(|caller| {
        let journal = Arc::clone(&journal);
        tokio::spawn(async move {
            let id = id(&format!("{caller}"));
            for number in 1..=WRITES {
                store(&*journal, &id, number).await;
                let found = journal.highest_sequence_nr(&id, SequenceNr::ZERO).await;
                assert_eq!(
                    found.expect("readable"),
                    seq(number),
                    "its own write is seen"
                );
            }
        })
    });
    for caller in join_all(callers).await {
        caller.expect("no panic");
    }
    for caller in 0..CALLERS {
        let numbers = numbers(&*journal, &id(&format!("{caller}"))).await;
        assert_eq!(numbers, (1..=WRITES).collect::<Vec<_>>());
    }
}

/// Wakes a thread that waits for a future.
struct Unpark(Thread, AtomicBool);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.1.store(true, Ordering::SeqCst);
        self.0.unpark();
    }
}

/// Runs a future without any runtime.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let woken = Arc::new(Unpark(std::thread::current(), AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut future = pin!(future);
    loop {
        if woken.1.swap(false, Ordering::SeqCst)
            && let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker))
        {
            return value;
        }
        std::thread::park();
    }
}

#[test]
fn no_runtime_is_needed() {
    let file = File::new();
    block_on(async {
        let opened = file.open().await;
        store(&*opened.journal(), &id("a"), 1).await;
        assert_eq!(numbers(&*opened.journal(), &id("a")).await, [1]);
        opened.close().await;
    });
}

#[tokio::test]
async fn closing_finishes_what_was_begun_and_refuses_the_rest() {
    let file = File::new();
    let opened = file.open().await;
    let (journal, snapshots) = (opened.journal(), opened.snapshot_store());
    let connection = file.connection();
    connection
        .execute_batch("BEGIN IMMEDIATE")
        .expect("nobody else writes");
    // Few enough for the runtime to poll them all at once.
    let writes: Vec<AtomicWrite> = (0..50).map(|n| write(&id(&format!("{n}")), 1)).collect();
    let mut begun = pin!(join_all(
        writes.iter().map(|write| write_one(&*journal, write))
    ));
    begin(begun.as_mut()).await;
    let mut closing = pin!(opened.close());
    begin(closing.as_mut()).await;
    connection.execute_batch("COMMIT").expect("a transaction");
    drop(connection);

    // Two at once are one.
    tokio::join!(closing, opened.close());
    for answer in begun.await {
        answer.expect("begun before the end");
    }
    assert!(!file.log().exists(), "everything stands in the file itself");

    let id = id("late");
    check_unavailable(&write_one(&*journal, &write(&id, 1)).await, "closed");
    check_unavailable(&journal.highest_sequence_nr(&id, seq(0)).await, "closed");
    check_unavailable(&journal.delete_events(&id, seq(1)).await, "closed");
    check_unavailable(&snapshots.save(&snapshot(&id)).await, "closed");
    let loaded = snapshots.load(&id, SnapshotCriteria::ANY).await;
    check_unavailable(&loaded, "closed");
    opened.close().await;

    let verifying = file.config().with_schema_check(SchemaCheck::Verify);
    let again = open(verifying).await;
    for write in &writes {
        assert_eq!(
            numbers(&*again.journal(), write.persistence_id()).await,
            [1]
        );
    }
}

#[tokio::test]
async fn closing_moves_everything_into_the_file_though_others_use_it() {
    let file = File::new();
    let _other = file.open().await;
    let opened = file.open().await;
    store(&*opened.journal(), &id("recognised"), 1).await;
    let is_in_file = || {
        let bytes = std::fs::read(file.path()).expect("a file");
        bytes.windows(10).any(|part| part == b"recognised")
    };
    assert!(!is_in_file());
    opened.close().await;
    assert!(is_in_file());
}

#[tokio::test]
async fn a_dropped_store_lets_go_of_its_file() {
    let file = File::new();
    let opened = file.open().await;
    let journal = opened.journal();
    drop(opened);
    // What it handed out still works.
    store(&*journal, &id("a"), 1).await;
    assert!(file.log().exists());

    drop(journal);
    let start = Instant::now();
    // The last connection takes the log with it.
    while file.log().exists() {
        assert!(start.elapsed() < Duration::from_secs(30), "still open");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
