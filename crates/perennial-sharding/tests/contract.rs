//! The contract of leases, run against the ones in memory.

use std::sync::Arc;
use std::time::Duration;

use perennial_persistence::BoxFuture;
use perennial_sharding::contract::LeasesFixture;
use perennial_sharding::{Leases, MemoryLeases};
use perennial_testkit::ManualClock;

struct Fixture {
    clock: ManualClock,
    leases: MemoryLeases,
}

impl LeasesFixture for Fixture {
    fn leases(&self) -> Arc<dyn Leases> {
        Arc::new(self.leases.clone())
    }

    fn validity(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn wait(&self, time: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.clock.advance(time) })
    }
}

async fn nothing_given_out() -> Fixture {
    let clock = ManualClock::new();
    let leases = MemoryLeases::new(Arc::new(clock.clone()));
    Fixture { clock, leases }
}

perennial_sharding::leases_contract!(nothing_given_out());
