//! The contract suites on PostgreSQL.

use std::sync::Arc;

use perennial_persistence::{
    BoxFuture, DurableStateDelete, PersistenceId, SchemaCheck, SequenceNr, Store,
};
use perennial_postgres::{Config, Postgres};
use perennial_testkit::contract::StoreFixture;
use perennial_testkit::postgres::TestPostgres;

struct Fixture {
    store: Arc<Postgres>,
    database: TestPostgres,
    schema_check: SchemaCheck,
    durable_state_delete: DurableStateDelete,
}

impl StoreFixture for Fixture {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    fn open_again(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        Box::pin(async { Arc::new(self.open().await) as Arc<dyn Store> })
    }

    fn refuse_serializer(&self, serializer_id: i32) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.database.execute(&format!(
                "ALTER TABLE event_journal ADD CHECK (event_ser_id <> {serializer_id}); \
                 ALTER TABLE snapshot ADD CHECK (ser_id <> {serializer_id}); \
                 ALTER TABLE durable_state ADD CHECK (state_ser_id <> {serializer_id}); \
                 ALTER TABLE perennial_command_reply ADD CHECK (reply_ser_id <> {serializer_id}); \
                 ALTER TABLE perennial_reminder ADD CHECK (reminder_ser_id <> {serializer_id})"
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
    fn damage_state<'a>(&'a self, persistence_id: &'a PersistenceId) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let damaged = self.database.query(&format!(
                "UPDATE durable_state SET state_ser_id = 0 \
                 WHERE persistence_id = '{persistence_id}' RETURNING revision"
            ));
            assert_eq!(damaged.len(), 1, "a stored state");
        })
    }

    fn durable_state_delete(&self) -> DurableStateDelete {
        self.durable_state_delete
    }
}

impl Fixture {
    async fn new(
        database: TestPostgres,
        schema_check: SchemaCheck,
        durable_state_delete: DurableStateDelete,
    ) -> Self {
        let store = open(&database, schema_check, durable_state_delete).await;
        Self {
            store: Arc::new(store),
            database,
            schema_check,
            durable_state_delete,
        }
    }

    async fn open(&self) -> Postgres {
        open(&self.database, self.schema_check, self.durable_state_delete).await
    }
}

async fn open(
    database: &TestPostgres,
    schema_check: SchemaCheck,
    durable_state_delete: DurableStateDelete,
) -> Postgres {
    let config = Config::default()
        .with_url(database.url())
        .with_schema_check(schema_check)
        .with_durable_state_delete(durable_state_delete);
    Postgres::open(config).await.expect("a usable database")
}

fn empty_database() -> impl Future<Output = Fixture> {
    let database = TestPostgres::new();
    Fixture::new(database, SchemaCheck::Create, DurableStateDelete::default())
}

perennial_testkit::journal_contract!(empty_database());
perennial_testkit::snapshot_store_contract!(empty_database());
perennial_testkit::durable_state_store_contract!(empty_database());
perennial_testkit::command_reply_store_contract!(empty_database());
perennial_testkit::reminder_store_contract!(empty_database());
perennial_testkit::state_companions_contract!(empty_database());

mod removing_rows {
    use super::*;

    fn empty_database() -> impl Future<Output = Fixture> {
        let database = TestPostgres::new();
        Fixture::new(database, SchemaCheck::Create, DurableStateDelete::Row)
    }

    perennial_testkit::durable_state_store_contract!(empty_database());
}

/// On tables that have neither the function nor the index for large batches.
mod without_the_fence_of_large_batches {
    use super::*;

    fn empty_database() -> impl Future<Output = Fixture> {
        let database = TestPostgres::new();
        database.execute(include_str!("../migrations/0001_create_tables.sql"));
        database.execute(include_str!("../migrations/0003_create_command_reply.sql"));
        database.execute(include_str!("../migrations/0006_create_reminder.sql"));
        Fixture::new(database, SchemaCheck::Verify, DurableStateDelete::default())
    }

    perennial_testkit::journal_contract!(empty_database());
}
