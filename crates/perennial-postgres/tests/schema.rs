//! Opening a database: its tables, its settings, and what is said when it cannot be opened.

mod common;

use std::time::Duration;

use common::{config, count, id, open, payloads, seq, write, write_one, writer};
use perennial_persistence::{AtomicWrite, OpenError, SchemaCheck, Store};
use perennial_postgres::{Config, Postgres};
use perennial_testkit::postgres::{PrivateServer, TestPostgres};

const DDL: &str = include_str!("../../../test-data/pekko-1.2/ddl.sql");
const ROWS: &str = include_str!("../../../test-data/pekko-1.2/rows.sql");

/// Fails to open and gives back the message, which must not show the password.
async fn refused(config: Config, password: &str) -> (OpenError, String) {
    let error = Postgres::open(config).await.expect_err("must not open");
    let mut text = format!("{error:?} {error}");
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        text = format!("{text} {inner}");
        source = inner.source();
    }
    assert!(!text.contains(password), "{text}");
    let message = error.to_string();
    (error, message)
}

fn problems(error: OpenError) -> Vec<String> {
    match error {
        OpenError::Schema { problems, .. } => problems,
        other => panic!("expected a problem with the tables, got {other:?}"),
    }
}

/// Every row of a table as text, in order.
fn rows(database: &TestPostgres, table: &str) -> Vec<Vec<Option<String>>> {
    database.query(&format!("SELECT * FROM {table} ORDER BY {table}::text"))
}

/// The tables that only we know.
const OURS: [&str; 2] = [
    include_str!("../migrations/0003_create_command_reply.sql"),
    include_str!("../migrations/0006_create_reminder.sql"),
];

const TABLES: [&str; 8] = [
    "event_journal",
    "snapshot",
    "durable_state",
    "projection_offset_store",
    "projection_timestamp_offset_store",
    "projection_management",
    "perennial_command_reply",
    "perennial_reminder",
];

#[test]
fn our_tables_are_pekkos_statement_for_statement() {
    let ours = include_str!("../migrations/0001_create_tables.sql");
    let statements = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with("--"));
        let text = lines.collect::<Vec<_>>().join(" ");
        let statements = text.split(';').map(|one| one.trim().to_owned());
        statements.filter(|one| !one.is_empty()).collect()
    };
    assert_eq!(statements(ours), statements(DDL));
    assert_eq!(statements(ours).len(), 8);
}

#[tokio::test]
async fn an_empty_database_gets_its_tables_once() {
    let database = TestPostgres::new();
    for _ in 0..3 {
        let store = open(&database).await;
        store.close().await;
    }
    for table in TABLES {
        assert_eq!(
            count(&database, &format!("SELECT count(*) FROM {table}")),
            0
        );
    }
    assert_eq!(
        count(&database, "SELECT count(*) FROM perennial_migration"),
        6
    );
    let verify = config(&database).with_schema_check(SchemaCheck::Verify);
    let store = Postgres::open(verify).await.expect("what create has made");
    // The guard is there, so that nothing is to be warned of but the server's settings.
    assert!(
        !store
            .warnings()
            .iter()
            .any(|warning| warning.contains("durable_state"))
    );
}

/// The function and the index of large batches: `(is there, is valid)`.
fn fence(database: &TestPostgres) -> (bool, Option<bool>) {
    let rows = database.query(
        "SELECT to_regprocedure('perennial_journal_fence(text[], bigint[], bigint)') IS NOT NULL, \
                (SELECT indisvalid FROM pg_index \
                 WHERE indexrelid = to_regclass('perennial_event_journal_marker_idx'))",
    );
    let is_true = |text: &String| text == "t" || text == "true";
    let [function, index] = &rows[0][..] else {
        panic!("two columns");
    };
    (
        function.as_ref().is_some_and(is_true),
        index.as_ref().map(is_true),
    )
}

#[tokio::test]
async fn what_large_batches_need_is_made_by_the_next_start() {
    let database = TestPostgres::new();
    open(&database).await.close().await;
    assert_eq!(fence(&database), (true, Some(true)));
    for missing in [
        "DROP FUNCTION perennial_journal_fence",
        "DROP INDEX perennial_event_journal_marker_idx",
        // As the making of one leaves it that broke off.
        "UPDATE pg_index SET indisvalid = false \
         WHERE indexrelid = 'perennial_event_journal_marker_idx'::regclass",
    ] {
        database.execute(missing);
        assert_ne!(fence(&database), (true, Some(true)), "{missing}");
        let store = open(&database).await;
        let warnings = store.warnings().join("\n");
        assert!(!warnings.contains("large batches"), "{warnings}");
        assert_eq!(fence(&database), (true, Some(true)), "{missing}");
    }
}

#[tokio::test]
async fn who_may_not_make_what_large_batches_need_is_told_and_goes_without() {
    let server = PrivateServer::start();
    let database = server.new_database();
    open(&database).await.close().await;
    database.execute(
        "DROP INDEX perennial_event_journal_marker_idx; \
         CREATE ROLE clerk LOGIN PASSWORD 'clerk-secret'; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO clerk",
    );
    let (_, host) = database.url().rsplit_once('@').expect("a password");
    let clerk = Config::default().with_url(format!("postgres://clerk:clerk-secret@{host}"));
    for check in [SchemaCheck::Create, SchemaCheck::Verify] {
        let store = Postgres::open(clerk.clone().with_schema_check(check)).await;
        let store = store.expect("a usable database");
        let warnings = store.warnings().join("\n");
        assert!(warnings.contains("large batches"), "{warnings}");
        assert!(warnings.contains("migrations/postgres"), "{warnings}");
        let batch: Vec<AtomicWrite> = (0..100)
            .map(|n| write(&id(&format!("{check:?} {n}")), 1, &["one"]))
            .collect();
        for answer in store.journal().write_events(&batch).await {
            answer.expect("a good write");
        }
    }
    assert_eq!(fence(&database), (true, None));
}

#[tokio::test]
async fn nodes_that_start_at_the_same_time_make_the_tables_together() {
    let database = TestPostgres::new();
    let starting: Vec<_> = (0..8)
        .map(|_| {
            let config = config(&database);
            tokio::spawn(async move { Postgres::open(config).await })
        })
        .collect();
    for node in starting {
        let store = node.await.expect("no panic").expect("a usable database");
        store.close().await;
    }
}

#[tokio::test]
async fn another_programs_tables_and_rows_stay_as_they_are() {
    let database = TestPostgres::new();
    database.execute(DDL);
    database.execute(ROWS);
    let (shared, ours) = TABLES.split_at(6);
    let all = || -> Vec<_> { shared.iter().map(|table| rows(&database, table)).collect() };
    let before = all();
    let store = open(&database).await;
    assert_eq!(all(), before);
    for table in ours {
        assert!(rows(&database, table).is_empty());
    }
    write_one(&*store.journal(), &write(&id("a"), 1, &["one"]))
        .await
        .expect("the tables are usable");
    assert!(
        !database
            .query("SELECT 1 FROM pg_indexes WHERE indexname = 'perennial_durable_state_id_idx'")
            .is_empty()
    );
}

#[tokio::test]
async fn tables_of_akka_2_8_and_later_are_accepted() {
    let database = TestPostgres::new();
    let akka = DDL
        .replace(
            "PRIMARY KEY(persistence_id, revision)",
            "PRIMARY KEY(persistence_id)",
        )
        .replace(
            "ser_manifest VARCHAR(255) NOT NULL,\nsnapshot BYTEA",
            "ser_manifest VARCHAR(255) NOT NULL,\ndb_timestamp timestamp with time zone,\n\
             tags TEXT ARRAY,\nsnapshot BYTEA",
        );
    assert!(akka.contains("tags TEXT ARRAY,\nsnapshot"));
    database.execute(&akka);
    let store = open(&database).await;
    write_one(&*store.journal(), &write(&id("a"), 1, &["one"]))
        .await
        .expect("the tables are usable");
    // Their key is the guard already.
    assert!(
        database
            .query("SELECT 1 FROM pg_indexes WHERE indexname = 'perennial_durable_state_id_idx'")
            .is_empty()
    );
    let verify = config(&database).with_schema_check(SchemaCheck::Verify);
    Postgres::open(verify).await.expect("fitting tables");
}

#[tokio::test]
async fn two_rows_for_one_id_are_reported_until_they_are_gone() {
    let database = TestPostgres::new();
    database.execute(DDL);
    for (id, revision) in [("a", 1), ("a", 5), ("b", 1)] {
        database.execute(&format!(
            "INSERT INTO durable_state VALUES \
             (0, 'Cart', 'Cart|{id}', {revision}, now(), 20, '', 'x', NULL)"
        ));
    }
    let second_row = "INSERT INTO durable_state VALUES \
                      (0, 'Cart', 'Cart|b', 2, now(), 20, '', 'x', NULL)";
    for _ in 0..2 {
        let store = open(&database).await;
        let warnings = store.warnings().join("\n");
        assert!(warnings.contains("more than one row"), "{warnings}");
        assert!(warnings.contains("Cart|a"), "{warnings}");
        assert!(!warnings.contains("Cart|b"), "{warnings}");
        // The journal works all the same.
        let journal = store.journal();
        let highest = journal
            .highest_sequence_nr(&id("a"), seq(0))
            .await
            .expect("a readable journal");
        write_one(&*journal, &write(&id("a"), highest.value() + 1, &["e"]))
            .await
            .expect("a good write");
    }
    database.execute(second_row);
    database.execute("DELETE FROM durable_state WHERE revision IN (2, 5)");
    let store = open(&database).await;
    assert!(!store.warnings().join("\n").contains("durable_state"));
    let refused = std::panic::catch_unwind(|| database.execute(second_row));
    assert!(refused.is_err(), "the index refuses a second row");
}

#[tokio::test]
async fn verify_names_every_missing_table_and_creates_nothing() {
    let database = TestPostgres::new();
    let verify = || config(&database).with_schema_check(SchemaCheck::Verify);
    let (error, message) = refused(verify(), "secret").await;
    let mut problems = problems(error);
    let remedy = problems.pop().expect("a remedy");
    assert!(remedy.contains("`schema-check = \"create\"`"), "{remedy}");
    assert!(message.ends_with(&remedy), "{message}");
    assert_eq!(
        problems,
        TABLES.map(|table| format!("table {table} is missing"))
    );
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(count(&database, tables), 0);

    database.execute(DDL);
    OURS.iter().for_each(|table| database.execute(table));
    let store = Postgres::open(verify()).await.expect("fitting tables");
    assert!(
        store.warnings().join("\n").contains("no unique index"),
        "nobody guards durable_state"
    );
    assert_eq!(count(&database, tables), 8);
}

#[tokio::test]
async fn tables_that_do_not_fit_are_refused_by_both_checks() {
    let database = TestPostgres::new();
    database.execute(DDL);
    OURS.iter().for_each(|table| database.execute(table));
    database.execute(
        "ALTER TABLE event_journal ALTER COLUMN event_payload TYPE jsonb USING '{}'; \
         ALTER TABLE event_journal DROP COLUMN writer; \
         ALTER TABLE snapshot ADD COLUMN tenant int NOT NULL; \
         ALTER TABLE snapshot DROP CONSTRAINT snapshot_pkey",
    );
    for check in [SchemaCheck::Verify, SchemaCheck::Create] {
        let (error, message) = refused(config(&database).with_schema_check(check), "secret").await;
        assert!(message.contains("do not fit"), "{message}");
        assert_eq!(
            problems(error),
            [
                "column event_journal.event_payload is jsonb and must be bytea",
                "column event_journal.writer is missing",
                "column snapshot.tenant is not known here and NOT NULL without a default, so that \
                 no row could be written",
                "table snapshot has no unique index on (persistence_id), which keeps two writers \
                 apart",
            ]
        );
    }
    let off = config(&database).with_schema_check(SchemaCheck::Off);
    Postgres::open(off).await.expect("nobody looks");
}

#[tokio::test]
async fn a_schema_of_its_own_is_made_and_used() {
    let database = TestPostgres::new();
    let config = config(&database).with_schema("my \"bank\"");
    let store = Postgres::open(config.clone()).await.expect("a schema");
    write_one(&*store.journal(), &write(&id("a"), 1, &["one"]))
        .await
        .expect("a good write");
    store.close().await;
    let in_schema = r#"SELECT count(*) FROM "my ""bank""".event_journal"#;
    assert_eq!(count(&database, in_schema), 1);
    let again = Postgres::open(config).await.expect("the same schema");
    assert_eq!(payloads(&*again.journal(), &id("a")).await, ["one"]);
    assert_eq!(
        database.query("SELECT to_regclass('public.event_journal')::text"),
        [[None::<String>]]
    );
}

#[tokio::test]
async fn a_user_without_rights_is_told_what_to_do() {
    let server = PrivateServer::start();
    let database = server.new_database();
    database.execute(
        "CREATE ROLE clerk LOGIN PASSWORD 'clerk-secret'; \
         REVOKE CREATE ON SCHEMA public FROM PUBLIC",
    );
    let (_, host) = database.url().rsplit_once('@').expect("a password");
    let clerk = Config::default().with_url(format!("postgres://clerk:clerk-secret@{host}"));
    let (error, _) = refused(clerk.clone(), "clerk-secret").await;
    let problems = problems(error);
    assert!(problems[0].contains("may not create"), "{problems:?}");
    assert!(problems[0].contains("schema-check"), "{problems:?}");

    // With the tables made by another, rights on the rows are enough.
    open(&database).await.close().await;
    database
        .execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO clerk");
    let store = Postgres::open(clerk).await.expect("nothing to create");
    write_one(&*store.journal(), &write(&id("a"), 1, &["one"]))
        .await
        .expect("a good write");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_without_the_password() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let config = Config::default()
        .with_url(format!("postgres://bank:hidden@127.0.0.1:{port}/bank"))
        .with_connect_timeout(Duration::from_millis(200));

    // The port answers, but not as a server.
    let (error, message) = refused(config.clone(), "hidden").await;
    assert!(matches!(error, OpenError::Unreachable { .. }), "{error:?}");
    assert!(message.contains("nothing answered within"), "{message}");
    drop(listener);
    let (error, message) = refused(config, "hidden").await;
    assert!(matches!(error, OpenError::Unreachable { .. }), "{error:?}");
    assert!(
        message.contains(&format!("postgres://bank:***@127.0.0.1:{port}/bank")),
        "{message}"
    );
    assert!(message.contains("start the server"), "{message}");
}

#[tokio::test]
async fn a_wrong_password_and_a_missing_database_are_told_apart() {
    let server = PrivateServer::start();
    let (before, after) = server.url().rsplit_once('@').expect("a password");
    let (user, password) = before.rsplit_once(':').expect("a password");
    let wrong = Config::default().with_url(format!("{user}:wrong-secret@{after}"));
    let (_, message) = refused(wrong, "wrong-secret").await;
    assert!(
        message.contains("password authentication failed"),
        "{message}"
    );
    assert!(
        message.contains("correct user and password of `url`"),
        "{message}"
    );

    let none = Config::default().with_url(format!("{user}@{after}"));
    let (_, message) = refused(none, password).await;
    assert!(message.contains("asks for a password"), "{message}");

    let missing = server.url().replace("/postgres", "/no_such_bank");
    let (_, message) = refused(Config::default().with_url(missing), password).await;
    assert!(
        message.contains("\"no_such_bank\" does not exist"),
        "{message}"
    );
    assert!(message.contains("createdb"), "{message}");
}

#[tokio::test]
async fn settings_that_lose_events_are_warned_of_or_refused() {
    let server = PrivateServer::start_with(&["fsync = off", "full_page_writes = off"]);
    let database = server.new_database();
    database.execute(&format!(
        "ALTER DATABASE {} SET synchronous_commit = off",
        database.name()
    ));
    let store = open(&database).await;
    let warnings = store.warnings().join("\n");
    for setting in [
        "fsync = off",
        "full_page_writes = off",
        "synchronous_commit = off",
    ] {
        assert!(warnings.contains(setting), "{warnings}");
    }
    let (error, message) = refused(config(&database).with_require_durable(true), "secret").await;
    assert!(matches!(error, OpenError::NotDurable { .. }), "{error:?}");
    assert!(message.contains("fsync = off"), "{message}");

    let durable = PrivateServer::start_with(&["fsync = on"]);
    let database = durable.new_database();
    let store = Postgres::open(config(&database).with_require_durable(true))
        .await
        .expect("a durable server");
    assert_eq!(store.warnings(), Vec::<String>::new());
}

#[tokio::test]
async fn settings_reach_every_connection() {
    let database = TestPostgres::new();
    let config = config(&database)
        .with_application_name("bank")
        .with_lock_timeout(Duration::from_millis(1_234));
    let store = Postgres::open(config).await.expect("a usable database");
    // A function in the place of a default tells what the connection's settings are.
    database.execute(
        "CREATE TABLE seen (name text, lock_timeout text); \
         CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
           INSERT INTO seen VALUES (current_setting('application_name'), \
                                    current_setting('lock_timeout')); \
           RETURN NEW; END $$; \
         CREATE TRIGGER see BEFORE INSERT ON event_journal FOR EACH ROW EXECUTE FUNCTION see()",
    );
    let journal = store.journal();
    let batch: Vec<AtomicWrite> = ["a", "b"]
        .map(|name| write(&id(name), 1, &["one"]))
        .to_vec();
    assert_eq!(batch[0].writer(), writer(1));
    for answer in journal.write_events(&batch).await {
        answer.expect("a good write");
    }
    assert_eq!(
        database.query("SELECT DISTINCT name, lock_timeout FROM seen"),
        [[Some("bank".to_owned()), Some("1234ms".to_owned())]]
    );
}
