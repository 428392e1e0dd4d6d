//! What happens when the server, the network or another program misbehaves.

mod common;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{config, count, event, id, open, payloads, replay, seq, write, write_one, writer};
use perennial_persistence::{
    AtomicWrite, Error, Journal, NewEvent, PersistenceId, Previous, SerializedPayload,
    SnapshotCriteria, Store, Timestamp,
};
use perennial_postgres::{Config, Postgres};
use perennial_testkit::postgres::{PrivateServer, TestPostgres};
use tokio_postgres::{Client, NoTls};

/// Longer than anything here takes, so that only what hangs gets there.
const DEADLINE: Duration = Duration::from_secs(60);

/// A connection of another program.
async fn connect(database: &TestPostgres) -> Client {
    let (client, connection) = tokio_postgres::connect(database.url(), NoTls)
        .await
        .expect("a connection");
    tokio::spawn(connection);
    client
}

/// Keeps everybody from the journal until the client is dropped or rolls back.
async fn lock_journal(client: &Client) {
    client
        .batch_execute("BEGIN; LOCK TABLE event_journal IN ACCESS EXCLUSIVE MODE")
        .await
        .expect("a lock");
}

/// Waits until so many other sessions wait for a lock.
fn wait_for_waiting_sessions(database: &TestPostgres, sessions: u64) {
    let sql = "SELECT count(*) FROM pg_stat_activity \
               WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let started = Instant::now();
    while count(database, sql) != sessions {
        assert!(started.elapsed() < DEADLINE, "nobody waits for the lock");
    }
}

fn check_unavailable<T: std::fmt::Debug>(answer: Result<T, Error>, unknown: bool, part: &str) {
    let error = answer.expect_err("must fail");
    assert!(error.is_retryable(), "{error:?}");
    assert_eq!(error.is_outcome_unknown(), unknown, "{error:?}");
    assert!(error.to_string().contains(part), "{error}");
}

// ---- lost connections and servers ----

/// A crowd of entities that write until they are told to stop, some alone and some in batches,
/// and send identical writes again as long as the store is unavailable.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    unavailable: Arc<AtomicU64>,
    entities: Vec<tokio::task::JoinHandle<Vec<(PersistenceId, u64)>>>,
}

impl Load {
    fn start(journal: &Arc<dyn Journal>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let unavailable = Arc::new(AtomicU64::new(0));
        let entities = [1, 1, 1, 5, 50]
            .into_iter()
            .enumerate()
            .map(|(crowd, size)| {
                let (journal, stop) = (Arc::clone(journal), Arc::clone(&stop));
                let (acknowledged, unavailable) =
                    (Arc::clone(&acknowledged), Arc::clone(&unavailable));
                let ids: Vec<PersistenceId> =
                    (0..size).map(|n| id(&format!("{crowd}-{n}"))).collect();
                tokio::spawn(async move {
                    let mut number = 0;
                    while !stop.load(Ordering::Relaxed) {
                        number += 1;
                        let mut waiting: Vec<AtomicWrite> = ids
                            .iter()
                            .map(|id| write(id, number, &[&number.to_string()]))
                            .collect();
                        let mut unknown = HashSet::new();
                        while !waiting.is_empty() {
                            let answers = journal.write_events(&waiting).await;
                            let mut again = Vec::new();
                            for (write, answer) in waiting.into_iter().zip(answers) {
                                match answer {
                                    Ok(_) => {
                                        acknowledged.fetch_add(1, Ordering::Relaxed);
                                    }
                                    Err(error) if error.is_retryable() => {
                                        let id = write.persistence_id();
                                        if error.is_outcome_unknown() {
                                            unknown.insert(id.clone());
                                        } else if !unknown.contains(id) {
                                            check_not_stored(&*journal, &write).await;
                                        }
                                        again.push(write);
                                    }
                                    Err(error) => panic!("told failed: {error:?}"),
                                }
                            }
                            waiting = again;
                            if !waiting.is_empty() {
                                unavailable.fetch_add(1, Ordering::Relaxed);
                                // The engine waits between attempts, too.
                                tokio::time::sleep(Duration::from_millis(5)).await;
                            }
                        }
                    }
                    ids.into_iter().map(|id| (id, number)).collect()
                })
            })
            .collect();
        Self {
            stop,
            acknowledged,
            unavailable,
            entities,
        }
    }

    /// Waits until so many more writes were acknowledged.
    async fn progress(&self, more: u64) {
        let goal = self.acknowledged.load(Ordering::Relaxed) + more;
        let started = Instant::now();
        while self.acknowledged.load(Ordering::Relaxed) < goal {
            assert!(started.elapsed() < DEADLINE, "the load stands still");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Ends the load and checks that every entity has all of its events, once and in order.
    async fn finish(self, database: &TestPostgres) {
        self.stop.store(true, Ordering::Relaxed);
        let mut stored = 0;
        let store = open(database).await;
        let journal = store.journal();
        for crowd in self.entities {
            for (id, last) in crowd.await.expect("nothing but unavailability") {
                let page = replay(&*journal, &id).await.expect("readable rows");
                let numbers: Vec<u64> = page.events.iter().map(|e| e.seq_nr.value()).collect();
                assert_eq!(numbers, (1..=last).collect::<Vec<_>>(), "{id}");
                for event in &page.events {
                    let text = event.seq_nr.value().to_string();
                    assert_eq!(event.payload.bytes, text.as_bytes(), "{id}");
                }
                stored += last;
            }
        }
        assert_eq!(stored, self.acknowledged.load(Ordering::Relaxed));
    }
}

/// What was said to be certainly not stored is not there.
async fn check_not_stored(journal: &dyn Journal, write: &AtomicWrite) {
    let started = Instant::now();
    let highest = loop {
        match replay(journal, write.persistence_id()).await {
            Ok(page) => break page.highest,
            Err(error) => assert!(started.elapsed() < DEADLINE, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(highest < write.first(), "told not stored: {write:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terminated_connections_lose_nothing() {
    let database = TestPostgres::new();
    let store = open(&database).await;
    let load = Load::start(&store.journal());
    let started = Instant::now();
    let mut terminated = 0;
    // A round may find only connections that are just being opened, which nobody misses.
    while terminated < 60 || load.unavailable.load(Ordering::Relaxed) == 0 {
        assert!(started.elapsed() < DEADLINE, "nobody noticed");
        load.progress(50).await;
        terminated += database.terminate_connections();
    }
    load.progress(50).await;
    load.finish(&database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crashing_server_loses_nothing() {
    let server = PrivateServer::start_with(&["fsync = on"]);
    let database = server.new_database();
    let store = open(&database).await;
    let load = Load::start(&store.journal());
    for _ in 0..3 {
        load.progress(50).await;
        server.restart_immediate();
    }
    load.progress(50).await;
    assert!(
        load.unavailable.load(Ordering::Relaxed) > 0,
        "nobody noticed"
    );
    load.finish(&database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_no_call_meets_a_dead_connection() {
    let server = PrivateServer::start();
    let database = server.new_database();
    let store = open(&database).await;
    let journal = store.journal();
    let burst = async |number: u64| {
        let writes: Vec<_> = (0..8)
            .map(|n| {
                let journal = Arc::clone(&journal);
                let write = write(&id(&format!("{n}")), number, &["e"]);
                tokio::spawn(async move {
                    let written = write_one(&*journal, &write).await.map(drop);
                    written.and(replay(&*journal, write.persistence_id()).await.map(drop))
                })
            })
            .collect();
        let mut answers = Vec::new();
        for write in writes {
            answers.push(write.await.expect("no panic"));
        }
        answers
    };
    for answer in burst(1).await {
        answer.expect("a good write");
    }
    server.stop();
    for answer in burst(2).await {
        check_unavailable(answer, false, "start the server");
    }
    server.start_again();
    for answer in burst(2).await {
        answer.expect("a new connection");
    }
}

// ---- time-outs ----

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_gave_up_is_known_to_be_not_stored() {
    let database = TestPostgres::new();
    let open_with = async |config: Config| Postgres::open(config).await.expect("a store");
    let short = Duration::from_millis(100);
    let by_lock = open_with(config(&database).with_lock_timeout(short)).await;
    let by_statement = open_with(config(&database).with_statement_timeout(short)).await;
    let other = connect(&database).await;
    // Opens the connections, which is not what is tested.
    for (store, name) in [(&by_lock, "a"), (&by_statement, "b")] {
        write_one(&*store.journal(), &write(&id(name), 1, &["one"]))
            .await
            .expect("a good write");
    }
    lock_journal(&other).await;
    let batch = [write(&id("a"), 2, &["two"]), write(&id("c"), 1, &["one"])];
    for answer in by_lock.journal().write_events(&batch).await {
        check_unavailable(answer, false, "55P03");
    }
    let lone = write(&id("b"), 2, &["two"]);
    let answer = write_one(&*by_statement.journal(), &lone).await;
    check_unavailable(answer, false, "57014");
    other.batch_execute("ROLLBACK").await.expect("an end");

    assert_eq!(payloads(&*by_lock.journal(), &id("a")).await, ["one"]);
    assert_eq!(payloads(&*by_lock.journal(), &id("b")).await, ["one"]);
    assert!(payloads(&*by_lock.journal(), &id("c")).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_never_came_leaves_the_outcome_unknown() {
    let database = TestPostgres::new();
    let config = config(&database).with_call_timeout(Duration::from_millis(200));
    let store = Postgres::open(config).await.expect("a store");
    let journal = store.journal();
    let other = connect(&database).await;
    write_one(&*journal, &write(&id("a"), 1, &["one"]))
        .await
        .expect("a good write");
    lock_journal(&other).await;
    let two = write(&id("a"), 2, &["two"]);
    let answer = write_one(&*journal, &two).await;
    check_unavailable(answer, true, "got no answer within 200ms");

    // The server still has the statement, and runs it as soon as it can: nobody told it to stop.
    wait_for_waiting_sessions(&database, 1);
    other.batch_execute("ROLLBACK").await.expect("an end");
    let patient = open(&database).await;
    let started = Instant::now();
    while payloads(&*patient.journal(), &id("a")).await.len() < 2 {
        assert!(started.elapsed() < DEADLINE, "the write was lost");
    }
    // Sent again it is recognised.
    write_one(&*journal, &two).await.expect("stored already");
    assert_eq!(payloads(&*journal, &id("a")).await, ["one", "two"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_without_a_connection_is_known_to_be_not_sent() {
    let database = TestPostgres::new();
    let config = config(&database)
        .with_max_connections(2)
        .with_recovery_connections(1)
        .with_acquire_timeout(Duration::from_millis(100));
    let store = Postgres::open(config).await.expect("a store");
    let journal = store.journal();
    let other = connect(&database).await;
    lock_journal(&other).await;
    let first = {
        let journal = Arc::clone(&journal);
        tokio::spawn(async move { write_one(&*journal, &write(&id("a"), 1, &["one"])).await })
    };
    wait_for_waiting_sessions(&database, 1);
    let answer = write_one(&*journal, &write(&id("b"), 1, &["one"])).await;
    check_unavailable(answer, false, "were busy for 100ms");
    other.batch_execute("ROLLBACK").await.expect("an end");
    first.await.expect("no panic").expect("a good write");
    assert!(payloads(&*journal, &id("b")).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_connections_are_opened_than_allowed() {
    let database = TestPostgres::new();
    let config = config(&database)
        .with_max_connections(5)
        .with_recovery_connections(2)
        .with_application_name("counted");
    let store = Postgres::open(config).await.expect("a store");
    let journal = store.journal();
    let calls: Vec<_> = (0..100)
        .map(|n| {
            let journal = Arc::clone(&journal);
            tokio::spawn(async move {
                let id = id(&format!("{n}"));
                let written = write_one(&*journal, &write(&id, 1, &["one"])).await;
                written.expect("a good write");
                replay(&*journal, &id).await.expect("a page");
            })
        })
        .collect();
    for call in calls {
        call.await.expect("no panic");
    }
    let connections = count(
        &database,
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'counted' \
         AND datname = current_database()",
    );
    assert_eq!(connections, 5);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_waits_for_calls_under_way() {
    let database = TestPostgres::new();
    let store = Arc::new(open(&database).await);
    let journal = store.journal();
    let other = connect(&database).await;
    lock_journal(&other).await;
    let write = {
        let journal = Arc::clone(&journal);
        tokio::spawn(async move { write_one(&*journal, &write(&id("a"), 1, &["one"])).await })
    };
    wait_for_waiting_sessions(&database, 1);
    let closing = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.close().await })
    };
    other.batch_execute("ROLLBACK").await.expect("an end");
    write.await.expect("no panic").expect("a good write");
    closing.await.expect("no panic");
    check_unavailable(replay(&*journal, &id("a")).await, false, "closed");
}

#[test]
fn connections_live_on_the_runtime_of_the_opening() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
    };
    let database = TestPostgres::new();
    let home = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let store = home.block_on(open(&database));
    let journal = store.journal();
    for number in 1..=3 {
        // A runtime that ends takes nothing of the store with it.
        runtime().block_on(async {
            write_one(&*journal, &write(&id("a"), number, &["e"]))
                .await
                .expect("a good write");
            assert_eq!(payloads(&*journal, &id("a")).await.len() as u64, number);
        });
    }
}

// ---- other programs ----

#[tokio::test]
async fn another_unique_index_refuses_like_any_constraint() {
    let database = TestPostgres::new();
    let store = open(&database).await;
    let journal = store.journal();
    database.execute("CREATE UNIQUE INDEX only_once ON event_journal (event_payload)");
    let batch: Vec<AtomicWrite> = (0..40)
        .map(|n| {
            let payload = if n == 30 { 7 } else { n };
            write(&id(&format!("{n:02}")), 1, &[&payload.to_string()])
        })
        .collect();
    for (n, answer) in journal.write_events(&batch).await.into_iter().enumerate() {
        if n == 30 {
            let error = answer.expect_err("the payload is there already");
            assert!(matches!(error, Error::Rejected { .. }), "{error:?}");
            assert!(error.to_string().contains("only_once"), "{error}");
        } else {
            answer.expect("a good write");
        }
    }
    let lone = write(&id("lone"), 1, &["7"]);
    let error = write_one(&*journal, &lone)
        .await
        .expect_err("there already");
    assert!(matches!(error, Error::Rejected { .. }), "{error:?}");
}

#[tokio::test]
async fn errors_show_no_payload() {
    let database = TestPostgres::new();
    let store = open(&database).await;
    database.execute(
        "ALTER TABLE event_journal ADD CHECK (event_ser_id <> 77); \
         ALTER TABLE snapshot ADD CHECK (ser_id <> 77)",
    );
    let secret = "secret-payload";
    let hexadecimal: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let check = |error: Error| {
        assert!(matches!(error, Error::Rejected { .. }), "{error:?}");
        let mut text = format!("{error} {error:?}");
        let mut source = std::error::Error::source(&error);
        while let Some(inner) = source {
            text = format!("{text} {inner} {inner:?}");
            source = inner.source();
        }
        assert!(!text.contains(secret), "{text}");
        assert!(!text.contains(&hexadecimal), "{text}");
    };
    let journal = store.journal();
    let lone = write(&id("a"), 1, &[secret]);
    check(write_one(&*journal, &lone).await.expect_err("a constraint"));
    let batch = [lone, write(&id("b"), 1, &[secret])];
    for answer in journal.write_events(&batch).await {
        check(answer.expect_err("a constraint"));
    }
    let snapshot = perennial_persistence::Snapshot {
        persistence_id: id("a"),
        seq_nr: seq(1),
        write_timestamp: Timestamp::UNIX_EPOCH,
        payload: event(secret).payload,
        metadata: None,
    };
    let saved = store.snapshot_store().save(&snapshot).await;
    check(saved.expect_err("a constraint"));
}

#[tokio::test]
async fn what_is_missing_in_the_database_is_nobodys_data() {
    let database = TestPostgres::new();
    let store = open(&database).await;
    let journal = store.journal();
    let batch = [write(&id("a"), 1, &["one"]), write(&id("b"), 1, &["one"])];
    database.execute("ALTER TABLE event_journal RENAME TO hidden");
    for answer in journal.write_events(&batch).await {
        check_unavailable(answer, false, "42P01");
    }
    check_unavailable(write_one(&*journal, &batch[0]).await, false, "42P01");
    check_unavailable(replay(&*journal, &id("a")).await, false, "42P01");
    database.execute("ALTER TABLE hidden RENAME TO event_journal");
    for answer in journal.write_events(&batch).await {
        answer.expect("the table is back");
    }

    // A server that only reads, as after a fail-over to a standby.
    database.execute(&format!(
        "ALTER DATABASE {} SET default_transaction_read_only = on",
        database.name()
    ));
    let reading = Postgres::open(config(&database)).await.expect("a store");
    let answer = write_one(&*reading.journal(), &write(&id("a"), 2, &["two"])).await;
    check_unavailable(answer, false, "25006");
    assert_eq!(payloads(&*reading.journal(), &id("a")).await, ["one"]);
}

#[tokio::test]
async fn statements_that_no_longer_fit_are_prepared_anew() {
    let database = TestPostgres::new();
    let store = open(&database).await;
    let (journal, snapshots) = (store.journal(), store.snapshot_store());
    for number in 1..=4 {
        write_one(&*journal, &write(&id("a"), number, &["e"]))
            .await
            .expect("a good write");
        assert_eq!(payloads(&*journal, &id("a")).await.len() as u64, number);
        snapshots
            .load(&id("a"), SnapshotCriteria::ANY)
            .await
            .expect("no snapshot");
        // The result of a prepared query changes its type, which the server refuses.
        let length = 255 + number;
        database.execute(&format!(
            "ALTER TABLE event_journal ALTER event_ser_manifest TYPE varchar({length}), \
             ADD COLUMN more_{number} int; \
             ALTER TABLE snapshot ALTER ser_manifest TYPE varchar({length})"
        ));
    }
    database.execute("ALTER TABLE event_journal ALTER event_ser_manifest TYPE text");
    assert_eq!(payloads(&*journal, &id("a")).await.len(), 4);
}

#[tokio::test]
async fn damaged_rows_are_named() {
    let database = TestPostgres::new();
    let store = open(&database).await;
    let journal = store.journal();
    let row = |name: &str, number: i64, time: &str, serializer: i32| {
        database.execute(&format!(
            "INSERT INTO event_journal (slice, entity_type, persistence_id, seq_nr, db_timestamp, \
             event_ser_id, event_ser_manifest, event_payload, writer) \
             VALUES (0, 'Cart', 'Cart|{name}', {number}, '{time}', {serializer}, '', 'x', '')"
        ));
    };
    row("no-payload", 3, "2024-01-01", 0);
    row("infinite", 3, "infinity", 20);
    row("far", 3, "20000-01-01", 20);
    for (name, part) in [
        ("no-payload", "serializer id 0"),
        ("infinite", "db_timestamp"),
        ("far", "db_timestamp"),
    ] {
        match replay(&*journal, &id(name)).await {
            Err(Error::Corrupt {
                persistence_id,
                seq_nr,
                reason,
                ..
            }) => {
                assert_eq!(persistence_id, id(name));
                assert_eq!(seq_nr.value(), 3);
                assert!(reason.contains(part), "{reason}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    // What recovery does not look at does not matter: wrong slice, empty writer, tags {}.
    row("odd", 1, "2024-01-01", 20);
    database.execute("UPDATE event_journal SET tags = '{}', slice = 5000 WHERE seq_nr = 1");
    assert_eq!(payloads(&*journal, &id("odd")).await, ["x"]);

    database.execute(
        "INSERT INTO snapshot VALUES (0, 'Cart', 'Cart|old', 2, 9223372036854775807, 20, '', 'x')",
    );
    let loaded = store
        .snapshot_store()
        .load(&id("old"), SnapshotCriteria::ANY)
        .await;
    assert!(matches!(loaded, Err(Error::Corrupt { .. })), "{loaded:?}");
}

// ---- large batches ----

#[tokio::test]
async fn a_batch_above_the_bounds_goes_in_several_statements() {
    let database = TestPostgres::new();
    let by_events = config(&database).with_max_statement_events(7);
    let by_bytes = config(&database).with_max_statement_bytes(20);
    for (name, config) in [("events", by_events), ("bytes", by_bytes)] {
        let store = Postgres::open(config).await.expect("a store");
        let journal = store.journal();
        // Each entity's second write lies in another statement than its first for some of them,
        // and the future keeps their times apart.
        let future: Timestamp = "2100-01-01T00:00:00Z".parse().expect("a time");
        let mut batch = Vec::new();
        for first in [1, 3, 4] {
            for n in 0..20 {
                let texts: &[&str] = if first == 1 {
                    &["0123456789", "b"]
                } else {
                    &["c"]
                };
                let mut write = write(&id(&format!("{name}-{n:02}")), first, texts);
                write.previous = if first == 1 {
                    Previous::At(future)
                } else {
                    Previous::Unknown
                };
                batch.push(write);
            }
        }
        let answers = journal.write_events(&batch).await;
        for (write, answer) in batch.iter().zip(&answers) {
            let expected = match write.first().value() {
                1 => 1,
                3 => 2,
                _ => 3,
            };
            let written = answer.as_ref().expect("a good write");
            assert_eq!(
                written.timestamp.as_microsecond() - future.as_microsecond(),
                expected
            );
        }
        for n in 0..20 {
            let page = replay(&*journal, &id(&format!("{name}-{n:02}")))
                .await
                .expect("a page");
            assert_eq!(page.events.len(), 4);
            assert_eq!(page.highest, seq(4));
        }
        let transactions = format!(
            "SELECT count(DISTINCT xmin::text) FROM event_journal \
             WHERE persistence_id LIKE 'Cart|{name}-%'"
        );
        assert!(count(&database, &transactions) >= 12);
    }
}

#[tokio::test]
async fn a_write_beyond_all_bounds_is_rejected_with_its_followers() {
    let database = TestPostgres::new();
    let store = open(&database).await;
    let journal = store.journal();
    let huge = SerializedPayload::new(77, "", vec![0; (512 << 20) + 1]);
    let huge = AtomicWrite::new(id("a"), writer(1), seq(1), vec![NewEvent::new(huge)])
        .expect("a valid write");
    let answer = write_one(&*journal, &huge).await;
    assert!(matches!(answer, Err(Error::Rejected { .. })), "{answer:?}");
    let batch = [
        huge,
        write(&id("b"), 1, &["one"]),
        write(&id("a"), 2, &["two"]),
    ];
    let answers = journal.write_events(&batch).await;
    assert!(matches!(answers[0], Err(Error::Rejected { .. })));
    assert!(answers[1].is_ok());
    assert!(matches!(answers[2], Err(Error::Rejected { .. })));
    assert!(payloads(&*journal, &id("a")).await.is_empty());
}

// ---- what is logged ----

#[tokio::test]
async fn slow_calls_are_logged_with_their_file() {
    #[derive(Clone, Default)]
    struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    let database = TestPostgres::new();
    let slow = config(&database).with_slow_call(Duration::ZERO);
    let store = Postgres::open(slow).await.expect("a store");
    let log = Log::default();
    let written = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_ansi(false)
        .with_writer(move || log.clone())
        .finish();
    let journal = store.journal();
    {
        let _guard = tracing::subscriber::set_default(subscriber);
        write_one(&*journal, &write(&id("a"), 1, &["secret"]))
            .await
            .expect("a good write");
        replay(&*journal, &id("a")).await.expect("a page");
    }
    let log = String::from_utf8(written.0.lock().expect("no panic").clone()).expect("text");
    for file in ["journal/write_one.sql", "journal/replay.sql"] {
        let line = log.lines().find(|line| line.contains(file));
        let line = line.unwrap_or_else(|| panic!("{file} is not in {log}"));
        assert!(
            line.contains("WARN") && line.contains("elapsed_ms"),
            "{line}"
        );
    }
    assert!(!log.contains("secret"), "{log}");
}

/// As a trigger of another program may make it.
#[tokio::test]
async fn events_that_the_table_leaves_out_are_rejected_alone() {
    for (round, size) in [1, 5, 150].into_iter().enumerate() {
        let database = TestPostgres::new();
        let journal = open(&database).await.journal();
        database.execute(
            "CREATE FUNCTION leave_out() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
               IF NEW.persistence_id LIKE '%bad' THEN RETURN NULL; END IF; RETURN NEW; END $$; \
             CREATE TRIGGER leave_out BEFORE INSERT ON event_journal \
                 FOR EACH ROW EXECUTE FUNCTION leave_out()",
        );
        let mut batch: Vec<AtomicWrite> = (1..size)
            .map(|n| write(&id(&format!("{n:03}")), 1, &["good"]))
            .collect();
        batch.insert(batch.len() / 2, write(&id("1-bad"), 1, &["bad"]));
        if round % 2 == 1 {
            let mut tagged = event("good");
            tagged.tags.push("red".to_owned());
            let tagged = AtomicWrite::new(id("tagged"), writer(1), seq(1), vec![tagged]);
            batch.push(tagged.expect("a valid write"));
        }
        let answers = journal.write_events(&batch).await;
        for (write, answer) in batch.iter().zip(answers) {
            let name = write.persistence_id();
            match answer {
                Ok(_) => assert_eq!(payloads(&*journal, name).await, ["good"], "{name}"),
                Err(Error::Rejected { reason, .. }) => {
                    assert!(name.as_str().ends_with("bad"), "{name}: {reason}");
                    assert!(reason.contains("left the row out"), "{reason}");
                }
                other => panic!("{name}: {other:?}"),
            }
        }
        let stored = count(&database, "SELECT count(*) FROM event_journal");
        assert_eq!(stored, batch.len() as u64 - 1);
    }
}
