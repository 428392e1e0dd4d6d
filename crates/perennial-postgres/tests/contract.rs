//! The contract suites on PostgreSQL.

use std::sync::Arc;

use perennial_persistence::{BoxFuture, PersistenceId, SequenceNr, Store};
use perennial_postgres::{Config, Postgres};
use perennial_testkit::contract::StoreFixture;
use perennial_testkit::postgres::TestPostgres;

struct Fixture {
    store: Arc<Postgres>,
    database: TestPostgres,
}

impl StoreFixture for Fixture {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    fn open_again(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        Box::pin(async { Arc::new(open(&self.database).await) as Arc<dyn Store> })
    }

    fn refuse_serializer(&self, serializer_id: i32) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.database.execute(&format!(
                "ALTER TABLE event_journal ADD CHECK (event_ser_id <> {serializer_id}); \
                 ALTER TABLE snapshot ADD CHECK (ser_id <> {serializer_id})"
            ));
        })
    }

    fn tags<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        seq_nr: SequenceNr,
    ) -> BoxFuture<'a, Option<Vec<String>>> {
        Box::pin(async move {
            let sql = format!(
                "SELECT to_json(tags) FROM event_journal \
                 WHERE persistence_id = '{persistence_id}' AND seq_nr = {seq_nr}"
            );
            let rows = self.database.query(&sql);
            let tags = rows.first().expect("a stored row")[0].as_ref();
            tags.map(|json| serde_json::from_str(json).expect("a list of texts"))
        })
    }
}

async fn open(database: &TestPostgres) -> Postgres {
    let config = Config::default().with_url(database.url());
    Postgres::open(config).await.expect("a usable database")
}

async fn empty_database() -> Fixture {
    let database = TestPostgres::new();
    Fixture {
        store: Arc::new(open(&database).await),
        database,
    }
}

perennial_testkit::journal_contract!(empty_database());
perennial_testkit::snapshot_store_contract!(empty_database());
