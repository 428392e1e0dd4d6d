//! The contract suites, run against the store in memory.

use std::sync::Arc;

use perennial_persistence::{BoxFuture, PersistenceId, SequenceNr, Store};
use perennial_testkit::contract::StoreFixture;
use perennial_testkit::{ManualClock, MemoryStore};

struct MemoryFixture {
    store: MemoryStore,
}

impl MemoryFixture {
    async fn new() -> Self {
        // Time stands still, so that nothing in the suites can lean on its going on.
        let store = MemoryStore::new(Arc::new(ManualClock::new()));
        Self { store }
    }
}

impl StoreFixture for MemoryFixture {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    fn open_again(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        let again: Arc<dyn Store> = Arc::new(self.store.open_again());
        Box::pin(async { again })
    }

    fn refuse_serializer(&self, serializer_id: i32) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.store.refuse_serializer(serializer_id) })
    }

    fn tags<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        seq_nr: SequenceNr,
    ) -> BoxFuture<'a, Option<Vec<String>>> {
        Box::pin(async move {
            let rows = self.store.rows(persistence_id);
            let row = rows.into_iter().find(|row| row.seq_nr == seq_nr);
            let (_, event) = row.and_then(|row| row.event).expect("a stored event");
            (!event.tags.is_empty()).then_some(event.tags)
        })
    }
}

perennial_testkit::journal_contract!(MemoryFixture::new());
perennial_testkit::snapshot_store_contract!(MemoryFixture::new());
