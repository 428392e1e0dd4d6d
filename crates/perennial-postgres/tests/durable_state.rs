//! Durable states when the network, the server or another program misbehaves.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{
    again, change, config, count, event, id, load_state, open, replay, seq, state, told, write_one,
    write_state, writer,
};
use perennial_persistence::{
    AtomicWrite, DurableStateDelete, DurableStateStore, Error, NewEvent, PersistenceId,
    SchemaCheck, SerializedPayload, StateChange, StateWrite, Store, Timestamp,
};
use perennial_postgres::Postgres;
use perennial_testkit::postgres::TestPostgres;
use tokio_postgres::{Client, NoTls};

/// Longer than anything here takes, so that only what hangs gets there.
const DEADLINE: Duration = Duration::from_secs(60);

/// Lets every statement that changes states wait for those who hold the lock; it is prepared
/// before it waits, as in normal times.
fn make_lock(database: &TestPostgres) {
    database.execute(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
           PERFORM pg_advisory_xact_lock_shared(4711); RETURN NULL; END $$; \
         CREATE TRIGGER wait BEFORE INSERT OR UPDATE OR DELETE ON durable_state \
             FOR EACH STATEMENT EXECUTE FUNCTION wait()",
    );
}

/// Holds the lock until the client is dropped.
async fn lock(database: &TestPostgres) -> Client {
    let (client, connection) = tokio_postgres::connect(database.url(), NoTls)
        .await
        .expect("a connection");
    tokio::spawn(connection);
    client
        .batch_execute("SELECT pg_advisory_lock(4711)")
        .await
        .expect("a lock");
    client
}

fn is_unknown<T>(answer: &Result<T, Error>) -> bool {
    matches!(answer, Err(error) if error.is_outcome_unknown())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_whose_answer_never_came_is_recognised() {
    let database = TestPostgres::new();
    let config = config(&database).with_call_timeout(Duration::from_millis(200));
    let impatient = Postgres::open(config).await.expect("a store");
    let states = impatient.durable_state_store();
    let (old, deleted) = (id("old"), id("deleted"));
    make_lock(&database);
    for cart in [&old, &deleted] {
        write_state(&*states, &state(cart, 0, "one"))
            .await
            .expect("a good write");
    }
    let batches = [
        vec![state(&id("new"), 0, "one")],
        vec![state(&old, 1, "two")],
        vec![change(&deleted, 1, StateChange::Delete)],
        vec![
            state(&id("batch-new"), 0, "one"),
            state(&id("batch-new"), 1, "two"),
            state(&old, 2, "three"),
            change(&deleted, 2, StateChange::Delete),
        ],
        vec![told(state(&id("told"), 0, "one"))],
        vec![
            told(state(&id("told"), 1, "two")),
            told(change(&id("told"), 2, StateChange::Delete)),
            state(&old, 3, "four"),
            told(state(&id("told"), 3, "four")),
        ],
    ];
    for batch in batches {
        let other = lock(&database).await;
        for answer in states.write_states(&batch).await {
            assert!(is_unknown(&answer), "{answer:?}");
        }
        // The server still has the statement, and runs it as soon as it can.
        drop(other);
        let patient = open(&database).await.durable_state_store();
        let last = batch.last().expect("a write");
        let started = Instant::now();
        loop {
            let row = patient.load(last.persistence_id()).await;
            let row = row.expect("a readable row");
            if row.is_some_and(|row| row.revision == last.revision()) {
                break;
            }
            assert!(started.elapsed() < DEADLINE, "the write was lost");
        }
        let rows = || {
            [
                "SELECT * FROM durable_state ORDER BY persistence_id",
                "SELECT * FROM event_journal ORDER BY persistence_id, seq_nr",
                "SELECT * FROM perennial_command_reply ORDER BY persistence_id, seq_nr",
            ]
            .map(|sql| database.query(sql))
        };
        let before = rows();
        let same: Vec<StateWrite> = batch.iter().map(again).collect();
        for answer in states.write_states(&same).await {
            answer.expect("stored already");
        }
        assert_eq!(rows(), before, "nothing was written twice");
    }
}

/// Entities that count, some alone and some in batches, and send what may be stored again.
async fn count_up(
    states: Arc<dyn DurableStateStore>,
    ids: Vec<PersistenceId>,
    tells: bool,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    unavailable: Arc<AtomicU64>,
) -> Vec<(PersistenceId, u64)> {
    let mut revision = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut waiting: Vec<StateWrite> = ids
            .iter()
            .map(|id| state(id, revision, &(revision + 1).to_string()))
            .map(|write| if tells { told(write) } else { write })
            .collect();
        revision += 1;
        while !waiting.is_empty() {
            let answers = states.write_states(&waiting).await;
            let mut left = Vec::new();
            for (mut write, answer) in waiting.into_iter().zip(answers) {
                match answer {
                    Ok(_) => {
                        acknowledged.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) if error.is_retryable() => {
                        write.maybe_stored |= error.is_outcome_unknown();
                        unavailable.fetch_add(1, Ordering::Relaxed);
                        left.push(write);
                    }
                    Err(error) => panic!("told failed: {error:?}"),
                }
            }
            waiting = left;
        }
    }
    ids.into_iter().map(|id| (id, revision)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terminated_connections_lose_no_state() {
    let database = TestPostgres::new();
    let store = open(&database).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (acknowledged, unavailable) = (Arc::default(), Arc::default());
    let crowds: Vec<_> = [(1, false), (1, true), (5, true), (5, false), (50, true)]
        .into_iter()
        .enumerate()
        .map(|(crowd, (size, tells))| {
            tokio::spawn(count_up(
                store.durable_state_store(),
                (0..size).map(|n| id(&format!("{crowd}-{n}"))).collect(),
                tells,
                Arc::clone(&stop),
                Arc::clone(&acknowledged),
                Arc::clone(&unavailable),
            ))
        })
        .collect();
    let started = Instant::now();
    let mut terminated = 0;
    // A round may find only connections that are just being opened, which nobody misses.
    while terminated < 60 || unavailable.load(Ordering::Relaxed) == 0 {
        assert!(started.elapsed() < DEADLINE, "nobody noticed");
        let goal = acknowledged.load(Ordering::Relaxed) + 50;
        while acknowledged.load(Ordering::Relaxed) < goal {
            assert!(started.elapsed() < DEADLINE, "the load stands still");
            tokio::task::yield_now().await;
        }
        terminated += database.terminate_connections();
    }
    stop.store(true, Ordering::Relaxed);
    let store = open(&database).await;
    let states = store.durable_state_store();
    let mut stored = 0;
    for (crowd, tells) in crowds.into_iter().zip([false, true, true, false, true]) {
        for (id, revision) in crowd.await.expect("nothing but unavailability") {
            let expected = (revision, Some(revision.to_string()));
            assert_eq!(load_state(&*states, &id).await, expected, "{id}");
            stored += revision;
            let told = replay(&*store.journal(), &id)
                .await
                .expect("readable events");
            let told: Vec<u64> = told
                .events
                .iter()
                .map(|event| event.seq_nr.value())
                .collect();
            let replies = store.command_replies().load(&id, 1_000_000).await;
            let replies = replies.expect("readable replies").into_iter().rev();
            let replies: Vec<u64> = replies.map(|reply| reply.seq_nr.value()).collect();
            let expected: Vec<u64> = if tells {
                (1..=revision).collect()
            } else {
                Vec::new()
            };
            assert_eq!((&told, &replies), (&expected, &expected), "{id}");
        }
    }
    assert_eq!(stored, acknowledged.load(Ordering::Relaxed));
}

/// Whoever reads the journal cannot tell it from an event of an entity that keeps events.
#[tokio::test]
async fn a_change_event_has_the_columns_of_any_event() {
    let database = TestPostgres::new();
    let store = open(&database).await;
    let (journal, states) = (store.journal(), store.durable_state_store());
    let tags = vec!["red".to_owned(), "a \"b\"".to_owned()];
    let metadata = Some(SerializedPayload::new(78, "Meta", &b"who"[..]));
    for (number, tags, metadata) in [(1, Vec::new(), None), (2, tags, metadata)] {
        let event = NewEvent {
            tags,
            metadata,
            ..event("told")
        };
        let events = vec![event.clone()];
        let write = AtomicWrite::new(id("event"), writer(1), seq(number), events);
        let stored = write_one(&*journal, &write.expect("a valid write")).await;
        stored.expect("a good write");
        let mut change = state(&id("state"), number - 1, "state");
        let set = change.set_change_events(writer(1), vec![event]);
        set.expect("a valid event");
        write_state(&*states, &change).await.expect("a good write");
        let columns = |name: &str| {
            database.query(&format!(
                "SELECT entity_type, seq_nr, event_ser_id, event_ser_manifest, event_payload, \
                        deleted, writer, adapter_manifest, tags, meta_ser_id, meta_ser_manifest, \
                        meta_payload \
                 FROM event_journal WHERE persistence_id = 'Cart|{name}' AND seq_nr = {number}"
            ))
        };
        assert_eq!(columns("state").len(), 1);
        assert_eq!(columns("state"), columns("event"));
    }
    let slice = count(
        &database,
        "SELECT slice FROM event_journal WHERE persistence_id = 'Cart|state' AND seq_nr = 1",
    );
    assert_eq!(slice, u64::from(id("state").slice().value()));
    let same_time = "SELECT count(*) FROM event_journal JOIN durable_state \
                     USING (persistence_id, db_timestamp) WHERE seq_nr = revision";
    assert_eq!(count(&database, same_time), 1);
}

#[tokio::test]
async fn a_state_in_the_future_is_followed_by_a_microsecond() {
    let database = TestPostgres::new();
    let store = open(&database).await;
    let states = store.durable_state_store();
    let future: Timestamp = "2100-01-01T00:00:00Z".parse().expect("a time");
    let (a, b, c) = (id("a"), id("b"), id("c"));
    for cart in [&a, &b] {
        let written = write_state(&*states, &state(cart, 0, "one")).await;
        assert!(written.expect("a good write").timestamp < future);
    }
    database.execute("UPDATE durable_state SET db_timestamp = '2100-01-01 00:00:00+00'");
    let micros = |n| future + Duration::from_micros(n);
    let lone = write_state(&*states, &state(&a, 1, "two")).await;
    assert_eq!(lone.expect("a good write").timestamp, micros(1));
    let batch = [
        state(&c, 0, "one"),
        change(&a, 2, StateChange::Delete),
        state(&b, 1, "two"),
    ];
    let answers = states.write_states(&batch).await;
    let time = |n: usize| answers[n].as_ref().expect("a good write").timestamp;
    assert!(time(0) < future, "another entity's time is its own");
    assert_eq!((time(1), time(2)), (micros(2), micros(1)));
    // With change events every write has a time of its own.
    let batch = [3, 4, 5].map(|expected| told(state(&a, expected, "told")));
    for answer in states.write_states(&batch).await {
        assert_eq!(answer.expect("a good write").timestamp, micros(5));
    }
    let page = replay(&*store.journal(), &a).await.expect("events");
    let times: Vec<Timestamp> = page.events.iter().map(|event| event.timestamp).collect();
    assert_eq!(times, [micros(3), micros(4), micros(5)]);
}

#[tokio::test]
async fn two_rows_of_one_id_are_no_state_and_get_no_third() {
    let database = TestPostgres::new();
    open(&database).await.close().await;
    database.execute(
        "DROP INDEX perennial_durable_state_id_idx; \
         INSERT INTO durable_state VALUES \
             (0, 'Cart', 'Cart|a', 1, now(), 77, 'State', '\\x01', NULL), \
             (0, 'Cart', 'Cart|a', 5, now(), 77, 'State', '\\x05', NULL)",
    );
    let verify = config(&database).with_schema_check(SchemaCheck::Verify);
    let store = Postgres::open(verify).await.expect("fitting tables");
    let states = store.durable_state_store();
    let a = id("a");
    let corrupt = |answer: Error| {
        let text = answer.to_string();
        assert!(text.contains("not the only row"), "{text}");
    };
    corrupt(states.load(&a).await.expect_err("two rows"));
    for expected in [0, 3] {
        let stale = state(&a, expected, "stale");
        corrupt(write_state(&*states, &stale).await.expect_err("two rows"));
        let batch = [state(&id(&format!("new-{expected}")), 0, "new"), stale];
        let mut answers = states.write_states(&batch).await;
        corrupt(answers.remove(1).expect_err("two rows"));
        answers.remove(0).expect("another id");
    }
    let rows = "SELECT count(*) FROM durable_state WHERE persistence_id = 'Cart|a'";
    assert_eq!(count(&database, rows), 2);

    // A new id gets one row only, without the index as well.
    let b = id("b");
    write_state(&*states, &state(&b, 0, "one"))
        .await
        .expect("the first");
    write_state(&*states, &state(&b, 1, "two"))
        .await
        .expect("the second");
    let stale = write_state(&*states, &state(&b, 0, "stale")).await;
    assert!(matches!(stale, Err(Error::StaleRevision { found, .. }) if found == seq(2)));
    states.remove(&a).await.expect("a removal");
    assert_eq!(count(&database, rows), 0);
    write_state(&*states, &state(&a, 0, "new"))
        .await
        .expect("a clean id");
}

#[tokio::test]
async fn states_that_the_table_leaves_out_are_rejected_alone() {
    let database = TestPostgres::new();
    let states = open(&database).await.durable_state_store();
    write_state(&*states, &state(&id("old-bad"), 0, "one"))
        .await
        .expect("no trigger yet");
    database.execute(
        "CREATE UNIQUE INDEX only_once ON durable_state (state_payload); \
         CREATE FUNCTION leave_out() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
           IF NEW.persistence_id LIKE '%bad' THEN RETURN NULL; END IF; RETURN NEW; END $$; \
         CREATE TRIGGER leave_out BEFORE INSERT OR UPDATE ON durable_state \
             FOR EACH ROW EXECUTE FUNCTION leave_out()",
    );
    let mut batch: Vec<StateWrite> = (0..40)
        .map(|n| {
            // One payload is there twice.
            let payload = if n == 30 { 7 } else { n };
            state(&id(&format!("{n:02}")), 0, &payload.to_string())
        })
        .collect();
    batch.insert(20, state(&id("bad"), 0, "bad"));
    batch.insert(10, state(&id("old-bad"), 1, "two"));
    let answers = states.write_states(&batch).await;
    let mut rejected = Vec::new();
    for (write, answer) in batch.iter().zip(answers) {
        let name = write.persistence_id().entity_id().to_owned();
        match answer {
            Ok(_) => {}
            Err(Error::Rejected { .. }) => rejected.push(name),
            other => panic!("{name}: {other:?}"),
        }
    }
    // Which of the two with one payload is refused is the database's choice.
    assert!(
        rejected[0] == "old-bad" || rejected[0] == "07",
        "{rejected:?}"
    );
    assert_eq!(rejected.len(), 3, "{rejected:?}");
    let lone = write_state(&*states, &state(&id("bad"), 0, "bad")).await;
    assert!(matches!(lone, Err(Error::Rejected { .. })), "{lone:?}");
    assert_eq!(count(&database, "SELECT count(*) FROM durable_state"), 40);
    assert_eq!(load_state(&*states, &id("old-bad")).await.0, 1);
}

#[tokio::test]
async fn a_batch_of_states_above_the_bounds_goes_in_several_statements() {
    let database = TestPostgres::new();
    let config = config(&database).with_max_statement_events(7);
    let store = Postgres::open(config).await.expect("a store");
    let states = store.durable_state_store();
    for expected in 0..2 {
        // Two writes of each entity, which stay together.
        let batch: Vec<StateWrite> = (0..100)
            .map(|n| {
                let revision = expected * 2 + n / 50;
                state(&id(&format!("{}", n % 50)), revision, &revision.to_string())
            })
            .collect();
        for answer in states.write_states(&batch).await {
            answer.expect("a good write");
        }
    }
    let times = "SELECT count(DISTINCT xmin::text) FROM durable_state";
    assert_eq!(count(&database, times), 50_u64.div_ceil(7), "transactions");
    for n in 0..50 {
        let expected = (4, Some("3".to_owned()));
        assert_eq!(load_state(&*states, &id(&format!("{n}"))).await, expected);
    }
}

#[tokio::test]
async fn damaged_states_are_named() {
    let database = TestPostgres::new();
    let states = open(&database).await.durable_state_store();
    let a = id("a");
    for (damage, part) in [
        ("state_ser_id = 0", "serializer id 0"),
        ("db_timestamp = 'infinity'", "db_timestamp is infinite"),
        ("revision = -3", "-3 is not a sequence number"),
    ] {
        states.remove(&a).await.expect("a removal");
        write_state(&*states, &state(&a, 0, "one"))
            .await
            .expect("a clean id");
        database.execute(&format!("UPDATE durable_state SET {damage}"));
        match states.load(&a).await {
            Err(error @ Error::Corrupt { .. }) => {
                let text = error.to_string();
                assert!(text.contains("Cart|a") && text.contains(part), "{text}");
            }
            other => panic!("{damage}: {other:?}"),
        }
    }
    // A write after it ends as well.
    database.execute("UPDATE durable_state SET revision = 1, db_timestamp = 'infinity'");
    let write = state(&a, 1, "two");
    assert!(is_unknown(&write_state(&*states, &write).await));
    let answer = write_state(&*states, &again(&write)).await;
    assert!(matches!(answer, Err(Error::Corrupt { .. })), "{answer:?}");
}

/// Pekko 1.2 has no marker: a state that was deleted by its actor is put again as a new row with
/// the next revision, and a new actor begins with revision 1.
#[tokio::test]
async fn rows_are_removed_and_made_again_as_pekko_1_does() {
    let database = TestPostgres::new();
    let config = config(&database).with_durable_state_delete(DurableStateDelete::Row);
    let store = Postgres::open(config).await.expect("a store");
    let states = store.durable_state_store();
    let a = id("a");
    let rows = "SELECT count(*) FROM durable_state";
    for write in [
        state(&a, 0, "one"),
        state(&a, 1, "two"),
        change(&a, 2, StateChange::Delete),
    ] {
        write_state(&*states, &write).await.expect("a good write");
    }
    assert_eq!(count(&database, rows), 0);
    write_state(&*states, &state(&a, 3, "four"))
        .await
        .expect("the same writer");
    let expected = (4, Some("four".to_owned()));
    assert_eq!(load_state(&*states, &a).await, expected);
    write_state(&*states, &change(&a, 4, StateChange::Delete))
        .await
        .expect("a good write");
    assert_eq!(load_state(&*states, &a).await, (0, None));
    write_state(&*states, &state(&a, 0, "new"))
        .await
        .expect("a new writer");
    assert_eq!(count(&database, rows), 1);
}
