//! Every entity that a Pekko service wrote is recovered, and equals what Pekko recovered.

use interop::{Database, Engine, json, recover};
use perennial_testkit::postgres::TestPostgres;
use serde_json::Value;

pub(crate) const DDL: &str = include_str!("../../../../test-data/pekko-1.2/ddl.sql");
pub(crate) const ROWS: &str = include_str!("../../../../test-data/pekko-1.2/rows.sql");
pub(crate) const EXPECTED: &str = include_str!("../../../../test-data/pekko-1.2/expected.jsonl");

/// A database with what Pekko wrote.
pub(crate) fn golden() -> TestPostgres {
    let database = TestPostgres::new();
    database.execute(DDL);
    database.execute(ROWS);
    database
}

pub(crate) async fn engine(database: &TestPostgres) -> Engine {
    let database = Database::from_url(database.url()).expect("a URL of the test kit");
    Engine::start(&database).await.expect("a system")
}

pub(crate) fn expected() -> Vec<Value> {
    let lines = EXPECTED.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// All rows of all tables that Pekko knows, as text.
fn everything(database: &TestPostgres) -> Vec<Vec<Vec<Option<String>>>> {
    let tables = [
        "event_journal",
        "snapshot",
        "durable_state",
        "projection_offset_store",
        "projection_timestamp_offset_store",
        "projection_management",
    ];
    let rows = |table| {
        database.query(&format!(
            "SELECT row.*::text FROM {table} AS row ORDER BY row::text COLLATE \"C\""
        ))
    };
    tables.into_iter().map(rows).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_entity_of_pekko_is_recovered_as_pekko_recovers_it() {
    let database = golden();
    let before = everything(&database);
    let mut engine = engine(&database).await;
    let (mut entities, mut differences) = (0, Vec::new());
    for line in EXPECTED.lines() {
        let expected: Value = serde_json::from_str(line).expect("JSON");
        let answer = recover(&mut engine, line, true).await.text();
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        let found = json::differences(&answer, &expected);
        differences.extend(
            found
                .iter()
                .map(|text| format!("{} {text}", expected["persistence_id"])),
        );
        entities += 1;
    }
    engine.shutdown().await.expect("an end in time");
    assert!(differences.is_empty(), "{differences:#?}");
    assert_eq!(entities, 108);
    // Nothing was due: a recovery that replays few events saves no snapshot.
    assert!(everything(&database) == before, "recovering has written");
}

/// A line without `--full` has no key more than the JVM's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovered_entity_has_the_keys_that_the_jvm_prints() {
    let database = golden();
    let mut engine = engine(&database).await;
    for expected in expected() {
        let answer = recover(&mut engine, &expected.to_string(), false).await;
        let answer: Value = serde_json::from_str(&answer.text()).expect("JSON");
        let mut short = expected.clone();
        let fields = short.as_object_mut().expect("an object");
        let number = if fields.contains_key("revision") {
            "revision"
        } else {
            "highest_seq_nr"
        };
        fields.retain(|key, _| ["kind", "persistence_id", number, "state"].contains(&key.as_str()));
        assert_eq!(json::differences(&answer, &short), Vec::<String>::new());
    }
    engine.shutdown().await.expect("an end in time");
}
