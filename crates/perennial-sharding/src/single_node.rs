//! One process that owns everything.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use perennial_persistence::BoxFuture;

use crate::lease::{LeaseError, LeaseTable, Leases, Tenure, Token};
use crate::node::{Member, MemberState, MemberView, Membership, MembershipUnavailable, NodeId};
use crate::shard::ShardId;
use crate::transport::{Destination, Frame, Transport, TransportError};

/// The contracts for a cluster of one node: it is always there, every lease is its own, and nothing
/// ever has to leave it.
///
/// A lease never ends but by its release, as there is nobody else to give it to; so nothing has to be
/// renewed in time. A program on one node needs no [`Keeper`](crate::Keeper): everything is local, and
/// its commands go to its workers directly.
///
/// ```
/// use std::time::Duration;
/// use perennial_sharding::{Leases, Membership, NodeId, ShardCount, SingleNode};
///
/// # futures_executor::block_on(async {
/// let node = NodeId::new("here", 1);
/// let single = SingleNode::new(node.clone());
/// assert_eq!(single.changed(0).await?.members[0].node, node);
///
/// let shard = ShardCount::default().shard(7).expect("there are 64");
/// let token = single.acquire(shard, &node, Duration::from_secs(10)).await?;
/// single.renew(shard, token, Duration::from_secs(10)).await?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct SingleNode {
    node: NodeId,
    leases: Arc<Mutex<LeaseTable>>,
}

/// Longer than any process lives.
const FOR_EVER: Duration = Duration::from_secs(1 << 40);

impl SingleNode {
    /// The cluster of this node alone.
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            leases: Arc::default(),
        }
    }

    fn leases(&self) -> std::sync::MutexGuard<'_, LeaseTable> {
        // Nothing panics while it is held.
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Membership for SingleNode {
    fn announce(&self, _: MemberState) -> BoxFuture<'_, Result<(), MembershipUnavailable>> {
        Box::pin(async { Ok(()) })
    }

    fn leave(&self) -> BoxFuture<'_, Result<(), MembershipUnavailable>> {
        Box::pin(async { Ok(()) })
    }

    fn changed(&self, seen: u64) -> BoxFuture<'_, Result<MemberView, MembershipUnavailable>> {
        Box::pin(async move {
            if seen > 0 {
                // Nobody comes and nobody goes.
                std::future::pending::<()>().await;
            }
            let member = Member::new(self.node.clone(), MemberState::Up);
            Ok(MemberView {
                version: 1,
                members: vec![member],
            })
        })
    }
}

impl Leases for SingleNode {
    fn acquire<'a>(
        &'a self,
        shard: ShardId,
        holder: &'a NodeId,
        _: Duration,
    ) -> BoxFuture<'a, Result<Token, LeaseError>> {
        Box::pin(async move {
            self.leases()
                .acquire(Duration::ZERO, shard, holder, FOR_EVER)
        })
    }

    fn renew(
        &self,
        shard: ShardId,
        token: Token,
        _: Duration,
    ) -> BoxFuture<'_, Result<(), LeaseError>> {
        Box::pin(async move { self.leases().renew(Duration::ZERO, shard, token, FOR_EVER) })
    }

    fn release(&self, shard: ShardId, token: Token) -> BoxFuture<'_, Result<(), LeaseError>> {
        Box::pin(async move { self.leases().release(Duration::ZERO, shard, token) })
    }

    fn tenures(&self) -> BoxFuture<'_, Result<Vec<Tenure>, LeaseError>> {
        Box::pin(async move { Ok(self.leases().tenures(Duration::ZERO)) })
    }
}

impl Transport for SingleNode {
    fn send(&self, _: Destination, _: Frame) -> BoxFuture<'_, Result<(), TransportError>> {
        Box::pin(async {
            Err(TransportError::Unavailable {
                reason: "there is no other node".into(),
            })
        })
    }

    fn listen(&self, _: ShardId) -> BoxFuture<'_, Result<(), TransportError>> {
        Box::pin(async { Ok(()) })
    }

    fn silence(&self, _: ShardId) -> BoxFuture<'_, Result<(), TransportError>> {
        Box::pin(async { Ok(()) })
    }

    fn receive(&self) -> BoxFuture<'_, Result<Frame, TransportError>> {
        Box::pin(std::future::pending())
    }
}
