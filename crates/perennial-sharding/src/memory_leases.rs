//! Leases in memory.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use perennial_persistence::{BoxFuture, Clock};

use crate::lease::{LeaseError, LeaseTable, Leases, Tenure, Token};
use crate::node::NodeId;
use crate::shard::ShardId;

/// A [`LeaseTable`] behind the contract, for tests with several nodes in one process. A clone is the
/// same service.
#[derive(Clone)]
pub struct MemoryLeases {
    clock: Arc<dyn Clock>,
    table: Arc<Mutex<LeaseTable>>,
}

impl MemoryLeases {
    /// A service that has given out nothing yet, and counts by this clock.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            table: Arc::default(),
        }
    }

    fn with_table<R>(&self, change: impl FnOnce(&mut LeaseTable, Duration) -> R) -> R {
        // Nothing panics while it is held. The time is read inside, so that it does not go backwards
        // from one request to the next.
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut table, self.clock.elapsed())
    }
}

impl fmt::Debug for MemoryLeases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLeases")
            .field("tenures", &self.with_table(|table, now| table.tenures(now)))
            .finish_non_exhaustive()
    }
}

impl Leases for MemoryLeases {
    fn acquire<'a>(
        &'a self,
        shard: ShardId,
        holder: &'a NodeId,
        validity: Duration,
    ) -> BoxFuture<'a, Result<Token, LeaseError>> {
        Box::pin(async move {
            self.with_table(|table, now| table.acquire(now, shard, holder, validity))
        })
    }

    fn renew(
        &self,
        shard: ShardId,
        token: Token,
        validity: Duration,
    ) -> BoxFuture<'_, Result<(), LeaseError>> {
        Box::pin(
            async move { self.with_table(|table, now| table.renew(now, shard, token, validity)) },
        )
    }

    fn release(&self, shard: ShardId, token: Token) -> BoxFuture<'_, Result<(), LeaseError>> {
        Box::pin(async move { self.with_table(|table, now| table.release(now, shard, token)) })
    }

    fn tenures(&self) -> BoxFuture<'_, Result<Vec<Tenure>, LeaseError>> {
        Box::pin(async move { Ok(self.with_table(|table, now| table.tenures(now))) })
    }
}
