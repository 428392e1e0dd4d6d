//! The contract suites, run against SQLite files.

use std::path::PathBuf;
use std::sync::Arc;

use perennial_persistence::{BoxFuture, DurableStateDelete, PersistenceId, SequenceNr, Store};
use perennial_sqlite::{Config, Sqlite};
use perennial_testkit::ManualClock;
use perennial_testkit::contract::StoreFixture;
use rusqlite::Connection;
use tempfile::TempDir;

struct SqliteFixture {
    directory: TempDir,
    clock: ManualClock,
    durable_state_delete: DurableStateDelete,
    store: Arc<Sqlite>,
}

impl SqliteFixture {
    async fn new() -> Self {
        Self::deleting(DurableStateDelete::default()).await
    }

    async fn deleting(durable_state_delete: DurableStateDelete) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        // Time stands still, so that nothing in the suites can lean on its going on.
        let clock = ManualClock::new();
        let store = open(path(&directory), clock.clone(), durable_state_delete).await;
        Self {
            directory,
            clock,
            durable_state_delete,
            store,
        }
    }

    /// The file, as another program sees it.
    fn connection(&self) -> Connection {
        Connection::open(path(&self.directory)).expect("a database")
    }
}

fn path(directory: &TempDir) -> PathBuf {
    directory.path().join("contract.sqlite")
}

async fn open(path: PathBuf, clock: ManualClock, delete: DurableStateDelete) -> Arc<Sqlite> {
    let config = Config::default()
        .with_path(path)
        .with_durable_state_delete(delete);
    let store = Sqlite::open_with_clock(config, Arc::new(clock)).await;
    Arc::new(store.expect("a file that can be opened"))
}

impl StoreFixture for SqliteFixture {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    fn open_again(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        let (path, clock) = (path(&self.directory), self.clock.clone());
        let store = open(path, clock, self.durable_state_delete);
        Box::pin(async { store.await as Arc<dyn Store> })
    }

    fn refuse_serializer(&self, serializer_id: i32) -> BoxFuture<'_, ()> {
        let trigger = |table: &str, column: &str, when: &str| {
            format!(
                "CREATE TRIGGER refuse_{when}_in_{table} BEFORE {when} ON {table}
                 WHEN NEW.{column} = {serializer_id}
                 BEGIN SELECT RAISE(ABORT, 'refused'); END;"
            )
        };
        let sql = trigger("event_journal", "event_ser_id", "INSERT")
            + &trigger("snapshot", "ser_id", "INSERT")
            + &trigger("perennial_command_reply", "reply_ser_id", "INSERT")
            + &trigger("perennial_reminder", "reminder_ser_id", "INSERT")
            + &trigger("durable_state", "state_ser_id", "INSERT")
            + &trigger("durable_state", "state_ser_id", "UPDATE");
        self.connection()
            .execute_batch(&sql)
            .expect("the tables are there");
        Box::pin(async {})
    }

    fn tags<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        seq_nr: SequenceNr,
    ) -> BoxFuture<'a, Option<Vec<String>>> {
        let text: Option<String> = self
            .connection()
            .query_row(
                "SELECT tags FROM event_journal WHERE persistence_id = ?1 AND seq_nr = ?2",
                (persistence_id.as_str(), seq_nr.to_i64()),
                |row| row.get(0),
            )
            .expect("a stored event");
        Box::pin(async move { text.map(|text| serde_json::from_str(&text).expect("a JSON array")) })
    }

    fn damage_state<'a>(&'a self, persistence_id: &'a PersistenceId) -> BoxFuture<'a, ()> {
        let damaged = self.connection().execute(
            "UPDATE durable_state SET state_ser_id = 0 WHERE persistence_id = ?1",
            [persistence_id.as_str()],
        );
        assert_eq!(damaged.expect("a table"), 1, "a stored state");
        Box::pin(async {})
    }

    fn durable_state_delete(&self) -> DurableStateDelete {
        self.durable_state_delete
    }

    fn commit_order_is_time_order(&self) -> bool {
        true
    }
}

perennial_testkit::journal_contract!(SqliteFixture::new());
perennial_testkit::snapshot_store_contract!(SqliteFixture::new());
perennial_testkit::durable_state_store_contract!(SqliteFixture::new());
perennial_testkit::command_reply_store_contract!(SqliteFixture::new());
perennial_testkit::reminder_store_contract!(SqliteFixture::new());
perennial_testkit::state_companions_contract!(SqliteFixture::new());

mod removing_rows {
    use super::*;

    fn removing() -> impl Future<Output = SqliteFixture> {
        SqliteFixture::deleting(DurableStateDelete::Row)
    }

    perennial_testkit::durable_state_store_contract!(removing());
}
