//! Tables: made, found, verified, and those of other programs.

use std::fs;

use perennial_persistence::{SchemaCheck, SnapshotCriteria, Store};

use super::*;

/// Every table of the R2DBC plugin and our own, with its columns in order.
const TABLES: [(&str, &str); 8] = [
    (
        "event_journal",
        "slice INTEGER, entity_type TEXT, persistence_id TEXT, seq_nr INTEGER, \
         db_timestamp INTEGER, event_ser_id INTEGER, event_ser_manifest TEXT, \
         event_payload BLOB, deleted INTEGER, writer TEXT, adapter_manifest TEXT, tags TEXT, \
         meta_ser_id INTEGER, meta_ser_manifest TEXT, meta_payload BLOB",
    ),
    (
        "snapshot",
        "slice INTEGER, entity_type TEXT, persistence_id TEXT, seq_nr INTEGER, \
         write_timestamp INTEGER, ser_id INTEGER, ser_manifest TEXT, snapshot BLOB, \
         meta_ser_id INTEGER, meta_ser_manifest TEXT, meta_payload BLOB",
    ),
    (
        "durable_state",
        "slice INTEGER, entity_type TEXT, persistence_id TEXT, revision INTEGER, \
         db_timestamp INTEGER, state_ser_id INTEGER, state_ser_manifest TEXT, \
         state_payload BLOB, tags TEXT",
    ),
    (
        "projection_offset_store",
        "projection_name TEXT, projection_key TEXT, current_offset TEXT, manifest TEXT, \
         mergeable INTEGER, last_updated INTEGER",
    ),
    (
        "projection_timestamp_offset_store",
        "projection_name TEXT, projection_key TEXT, slice INTEGER, persistence_id TEXT, \
         seq_nr INTEGER, timestamp_offset INTEGER, timestamp_consumed INTEGER",
    ),
    (
        "projection_management",
        "projection_name TEXT, projection_key TEXT, paused INTEGER, last_updated INTEGER",
    ),
    (
        "perennial_command_reply",
        "slice INTEGER, entity_type TEXT, persistence_id TEXT, command_id TEXT, \
         fingerprint BLOB, seq_nr INTEGER, db_timestamp INTEGER, reply_ser_id INTEGER, \
         reply_ser_manifest TEXT, reply_payload BLOB",
    ),
    (
        "perennial_reminder",
        "slice INTEGER, entity_type TEXT, persistence_id TEXT, reminder_key TEXT, due INTEGER, \
         reminder_ser_id INTEGER, reminder_ser_manifest TEXT, reminder_payload BLOB",
    ),
];

const GUARD: &str = "durable_state_persistence_id_idx";

fn columns(connection: &Connection, table: &str) -> String {
    let mut statement = connection
        .prepare("SELECT name || ' ' || type FROM pragma_table_info(?1)")
        .expect("valid SQL");
    let columns: Vec<String> = statement
        .query_map([table], |row| row.get(0))
        .expect("a query")
        .collect::<Result<_, _>>()
        .expect("texts");
    columns.join(", ")
}

/// The columns of an index, "" if there is none.
fn index(connection: &Connection, name: &str) -> String {
    let mut statement = connection
        .prepare("SELECT name FROM pragma_index_info(?1)")
        .expect("valid SQL");
    let columns: Vec<String> = statement
        .query_map([name], |row| row.get(0))
        .expect("a query")
        .collect::<Result<_, _>>()
        .expect("texts");
    columns.join(", ")
}

fn insert_state(connection: &Connection, id: &str, revision: i64) {
    connection
        .execute(
            "INSERT INTO durable_state VALUES (1, 'Cart', ?1, ?2, 1, 77, '', x'01', NULL)",
            (id, revision),
        )
        .expect("the table is there");
}

async fn check_problems(config: Config, expected: &[&str]) {
    match refused(config).await {
        OpenError::Schema { problems, .. } => assert_eq!(problems, expected),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_new_file_has_every_table_column_and_index() {
    let file = File::new();
    let store = file.open().await;
    let connection = file.connection();
    for (table, expected) in TABLES {
        assert_eq!(columns(&connection, table), expected, "{table}");
    }
    for (name, expected) in [
        (
            "event_journal_slice_idx",
            "slice, entity_type, db_timestamp, seq_nr",
        ),
        (
            "durable_state_slice_idx",
            "slice, entity_type, db_timestamp, revision",
        ),
        (GUARD, "persistence_id"),
        (
            "perennial_command_reply_age_idx",
            "entity_type, db_timestamp",
        ),
        (
            "perennial_reminder_due_idx",
            "due, persistence_id, reminder_key",
        ),
    ] {
        assert_eq!(index(&connection, name), expected, "{name}");
    }
    assert_eq!(store.warnings(), [""; 0]);
    store.close().await;

    let verifying = file.config().with_schema_check(SchemaCheck::Verify);
    assert_eq!(open(verifying).await.warnings(), [""; 0]);
}

#[tokio::test]
async fn tables_and_rows_of_another_program_are_kept_and_completed() {
    let file = File::new();
    let connection = file.connection();
    let journal = "CREATE TABLE Event_Journal (
        note TEXT, slice integer NOT NULL, entity_type TEXT NOT NULL, persistence_id TEXT NOT NULL,
        seq_nr INTEGER NOT NULL, db_timestamp INTEGER NOT NULL, event_ser_id INTEGER NOT NULL,
        event_ser_manifest TEXT NOT NULL, event_payload BLOB NOT NULL,
        deleted INTEGER NOT NULL DEFAULT 0, writer TEXT NOT NULL, adapter_manifest TEXT, tags TEXT,
        meta_ser_id INTEGER, meta_ser_manifest TEXT, meta_payload BLOB,
        PRIMARY KEY (persistence_id, seq_nr)) WITHOUT ROWID";
    connection.execute_batch(journal).expect("valid SQL");
    insert_row(&connection, &id("a"), 1, 1_000_000);
    insert_row(&connection, &id("a"), 2, 2_000_000);

    let store = file.open().await;
    assert_eq!(numbers(&*store.journal(), &id("a")).await, [1, 2]);
    store_all_kinds(&store, &id("a"), 3).await;
    assert_eq!(numbers(&*store.journal(), &id("a")).await, [1, 2, 3]);
    for (table, expected) in &TABLES[1..] {
        assert_eq!(&columns(&connection, table), expected, "{table}");
    }
    assert_ne!(index(&connection, "event_journal_slice_idx"), "");
    let still: String = connection
        .query_row(
            "SELECT sql FROM sqlite_master WHERE name = 'Event_Journal'",
            [],
            |row| row.get(0),
        )
        .expect("still there");
    assert_eq!(still, journal);
}

/// Uses both of the store's tables.
async fn store_all_kinds(store: &Sqlite, id: &PersistenceId, number: u64) {
    super::store(&*store.journal(), id, number).await;
    let none = store.snapshot_store().load(id, SnapshotCriteria::ANY).await;
    assert_eq!(none.expect("a table"), None);
}

#[tokio::test]
async fn a_table_that_was_dropped_is_made_again() {
    let file = File::new();
    file.open().await.close().await;
    file.connection()
        .execute_batch("DROP TABLE snapshot")
        .expect("a table");
    store_all_kinds(&file.open().await, &id("a"), 1).await;
}

/// Tables that differ in every way that is noticed, and what is said about them.
const DIFFERENT: &str = "
    CREATE TABLE event_journal (
        slice INTEGER NOT NULL, entity_type TEXT NOT NULL, persistence_id TEXT NOT NULL,
        seq_nr BIGINT NOT NULL, db_timestamp NOT NULL, event_ser_id INTEGER NOT NULL,
        event_ser_manifest TEXT NOT NULL, event_payload BLOB NOT NULL, deleted INTEGER,
        writer TEXT NOT NULL, adapter_manifest TEXT,
        meta_ser_id INTEGER, meta_ser_manifest TEXT, meta_payload BLOB,
        shop TEXT NOT NULL, note TEXT, stars INTEGER NOT NULL DEFAULT 5,
        PRIMARY KEY (persistence_id, seq_nr, writer))";
const DIFFERENCES: [&str; 5] = [
    "column `event_journal.seq_nr` is declared BIGINT, not INTEGER",
    "column `event_journal.db_timestamp` is declared without a type, not INTEGER",
    "column `event_journal.tags` is missing",
    "column `event_journal.shop` is unknown here and has no default, so no row could be stored",
    "the primary key of `event_journal` is (persistence_id, seq_nr, writer), not (persistence_id, \
     seq_nr)",
];

#[tokio::test]
async fn create_changes_nothing_when_tables_do_not_fit() {
    let file = File::new();
    file.connection()
        .execute_batch(DIFFERENT)
        .expect("valid SQL");
    let before = fs::read(file.path()).expect("a file");
    check_problems(file.config(), &DIFFERENCES).await;
    assert_eq!(fs::read(file.path()).expect("a file"), before);
}

#[tokio::test]
async fn verify_names_every_difference_and_changes_nothing() {
    let file = File::new();
    file.connection()
        .execute_batch(DIFFERENT)
        .expect("valid SQL");
    let before = fs::read(file.path()).expect("a file");
    let missing: Vec<String> = TABLES[1..]
        .iter()
        .map(|(table, _)| {
            format!(
                "table `{table}` is missing (opening with `schema-check = \"create\"` makes it)"
            )
        })
        .collect();
    let expected: Vec<&str> = missing
        .iter()
        .map(String::as_str)
        .chain(DIFFERENCES)
        .collect();
    let verifying = file.config().with_schema_check(SchemaCheck::Verify);
    check_problems(verifying, &expected).await;
    assert_eq!(fs::read(file.path()).expect("a file"), before);
}

#[tokio::test]
async fn verify_warns_of_missing_indexes() {
    let file = File::new();
    file.open().await.close().await;
    let connection = file.connection();
    connection
        .execute_batch(&format!("DROP INDEX {GUARD}"))
        .expect("an index");
    insert_state(&connection, "Cart|a", 1);
    insert_state(&connection, "Cart|a", 2);
    let store = open(file.config().with_schema_check(SchemaCheck::Verify)).await;
    let warnings = store.warnings();
    assert!(warnings[0].contains(GUARD), "{warnings:?}");
    assert!(warnings[1].contains("(\"Cart|a\")"), "{warnings:?}");
    assert_eq!(warnings.len(), 2);
}

#[tokio::test]
async fn off_looks_at_nothing() {
    let file = File::new();
    file.connection()
        .execute_batch(DIFFERENT)
        .expect("valid SQL");
    let store = open(file.config().with_schema_check(SchemaCheck::Off)).await;
    let loaded = store
        .snapshot_store()
        .load(&id("a"), SnapshotCriteria::ANY)
        .await;
    check_unavailable(&loaded, "schema-check = \"verify\"");
    let written = write_one(&*store.journal(), &write(&id("a"), 1)).await;
    check_unavailable(&written, "schema-check = \"verify\"");
}

#[tokio::test]
async fn two_states_of_one_id_are_reported_until_they_are_gone() {
    let file = File::new();
    file.open().await.close().await;
    let connection = file.connection();
    connection
        .execute_batch(&format!("DROP INDEX {GUARD}"))
        .expect("an index");
    for number in 0..22 {
        insert_state(&connection, &format!("Cart|{number:02}"), 5);
        insert_state(&connection, &format!("Cart|{number:02}"), 1);
    }
    insert_state(&connection, "Cart|single", 3);

    for _ in 0..2 {
        let store = file.open().await;
        let [warning] = &store.warnings()[..] else {
            panic!("{:?}", store.warnings());
        };
        assert!(warning.contains("\"Cart|00\", \"Cart|01\""), "{warning}");
        assert!(warning.contains("\"Cart|19\" and 2 more"), "{warning}");
        assert!(!warning.contains("single"), "{warning}");
        assert_eq!(index(&connection, GUARD), "");
        store_all_kinds(&store, &id("unconcerned"), 1).await;
        store
            .journal()
            .delete_events(&id("unconcerned"), SequenceNr::MAX)
            .await
            .expect("a usable journal");
        connection
            .execute("DELETE FROM event_journal", [])
            .expect("a table");
        store.close().await;
    }

    connection
        .execute("DELETE FROM durable_state WHERE revision = 1", [])
        .expect("a table");
    assert_eq!(file.open().await.warnings(), [""; 0]);
    assert_eq!(index(&connection, GUARD), "persistence_id");
    let stale = connection.execute(
        "INSERT INTO durable_state VALUES (1, 'Cart', 'Cart|00', 1, 1, 77, '', x'01', NULL)",
        [],
    );
    stale.expect_err("a second row of the id");
}
