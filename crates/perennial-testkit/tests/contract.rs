//! The contract suites, run against the store in memory, bare and behind a store of faults that has
//! none to make.

use std::sync::Arc;

use perennial_persistence::{BoxFuture, DurableStateDelete, PersistenceId, SequenceNr, Store};
use perennial_testkit::contract::StoreFixture;
use perennial_testkit::{FaultyStore, ManualClock, MemoryStore};

struct MemoryFixture {
    memory: MemoryStore,
    durable_state_delete: DurableStateDelete,
    wrap: fn(MemoryStore) -> Arc<dyn Store>,
}

impl MemoryFixture {
    async fn new(wrap: fn(MemoryStore) -> Arc<dyn Store>) -> Self {
        // Time stands still, so that nothing in the suites can lean on its going on.
        let memory = MemoryStore::new(Arc::new(ManualClock::new()));
        Self {
            memory,
            durable_state_delete: DurableStateDelete::default(),
            wrap,
        }
    }

    /// A fixture whose stores remove the rows of deleted states.
    async fn removing(wrap: fn(MemoryStore) -> Arc<dyn Store>) -> Self {
        let durable_state_delete = DurableStateDelete::Row;
        let fixture = Self::new(wrap).await;
        Self {
            memory: fixture
                .memory
                .with_durable_state_delete(durable_state_delete),
            durable_state_delete,
            wrap,
        }
    }
}

impl StoreFixture for MemoryFixture {
    fn store(&self) -> Arc<dyn Store> {
        (self.wrap)(self.memory.clone())
    }

    fn open_again(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        let again = (self.wrap)(self.memory.open_again());
        Box::pin(async { again })
    }

    fn refuse_serializer(&self, serializer_id: i32) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.memory.refuse_serializer(serializer_id) })
    }

    fn tags<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        seq_nr: SequenceNr,
    ) -> BoxFuture<'a, Option<Vec<String>>> {
        Box::pin(async move {
            let rows = self.memory.rows(persistence_id);
            let row = rows.into_iter().find(|row| row.seq_nr == seq_nr);
            let (_, event) = row.and_then(|row| row.event).expect("a stored event");
            (!event.tags.is_empty()).then_some(event.tags)
        })
    }

    fn damage_state<'a>(&'a self, persistence_id: &'a PersistenceId) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.memory.damage_state(persistence_id) })
    }

    fn durable_state_delete(&self) -> DurableStateDelete {
        self.durable_state_delete
    }
}

mod memory {
    use super::*;

    fn memory() -> impl Future<Output = MemoryFixture> {
        MemoryFixture::new(|store| Arc::new(store))
    }

    perennial_testkit::journal_contract!(memory());
    perennial_testkit::snapshot_store_contract!(memory());
    perennial_testkit::durable_state_store_contract!(memory());
    perennial_testkit::command_reply_store_contract!(memory());
    perennial_testkit::reminder_store_contract!(memory());
    perennial_testkit::state_companions_contract!(memory());

    mod removing_rows {
        use super::*;

        fn memory() -> impl Future<Output = MemoryFixture> {
            MemoryFixture::removing(|store| Arc::new(store))
        }

        perennial_testkit::durable_state_store_contract!(memory());
    }
}

mod faulty_without_faults {
    use super::*;

    fn faulty() -> impl Future<Output = MemoryFixture> {
        MemoryFixture::new(|store| Arc::new(FaultyStore::new(Arc::new(store))))
    }

    perennial_testkit::journal_contract!(faulty());
    perennial_testkit::snapshot_store_contract!(faulty());
    perennial_testkit::durable_state_store_contract!(faulty());
    perennial_testkit::command_reply_store_contract!(faulty());
    perennial_testkit::reminder_store_contract!(faulty());
    perennial_testkit::state_companions_contract!(faulty());
}
