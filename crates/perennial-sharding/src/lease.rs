//! The contract by which a shard has one owner, and the table that every implementation of it is to
//! be like.
//!
//! # Validity
//!
//! A lease is valid for a time, and no clock is shared. The service counts from when it handles a
//! request, on its clock. The holder counts from *before it sent* the request, on its own monotonic
//! clock, and stops a margin earlier:
//!
//! ```text
//! holder    sent ├──────────── validity − margin ───────────┤ acts no more
//! service          handled ├──────────────── validity ─────────────────┤ may be another's
//! ```
//!
//! So no delay of request or answer does harm, however long. What is left is how differently the two
//! clocks run: the margin has to be at least what they come apart within the validity. With ten
//! seconds and a margin of one they may differ by a tenth, some thousand times what clocks do.
//! Neither wall clocks nor their agreement play a part.
//!
//! A process that stood still does not know it. It reads its clock *after* it has taken what came in
//! and acts for that time only ([`Keeper::turn`](crate::Keeper::turn)): what it acknowledges then
//! was true when the lease was still valid, however late the acknowledgement leaves. What it has
//! written meanwhile meets the journal's own fence.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use perennial_persistence::BoxFuture;

use crate::node::NodeId;
use crate::shard::ShardId;

/// Tells one tenure of a shard from all others: it grows with every grant of that shard, and is
/// never given twice. The first is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(u64);

impl Token {
    /// The token with this number.
    pub fn new(value: u64) -> Self {
        Self(value)
    }

    /// The number.
    pub fn value(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Decides who owns a shard. [`LeaseTable`] says what the answers are, request by request.
///
/// Calls of one holder need not arrive in the order in which they were made, and one may arrive
/// twice: every answer is right whenever it comes.
pub trait Leases: fmt::Debug + Send + Sync + 'static {
    /// Makes `holder` the owner of a shard that has none, or whose owner's validity is over; or gives
    /// it a new token if it is the owner already, which ends its tenure under the old one.
    ///
    /// Granted for `validity` from when the service handles the request. The holder counts from
    /// before it called.
    ///
    /// # Errors
    /// [`LeaseError::Held`] if it is another's. [`LeaseError::Unavailable`] if nobody can say: the
    /// shard may have been granted, under a token that is not known. It may be tried again.
    ///
    /// # Cancel safety
    /// Dropped, the shard may have been granted, as with [`LeaseError::Unavailable`]. It falls back
    /// when its validity is over.
    fn acquire<'a>(
        &'a self,
        shard: ShardId,
        holder: &'a NodeId,
        validity: Duration,
    ) -> BoxFuture<'a, Result<Token, LeaseError>>;

    /// Has a tenure go on for `validity` from when the service handles the request, if that is later
    /// than what was granted before. The holder counts from before it called.
    ///
    /// # Errors
    /// [`LeaseError::Lost`] if the tenure is over, for ever. [`LeaseError::Unavailable`] if nobody can
    /// say: what was granted before is what is certain. It may be tried again.
    ///
    /// # Cancel safety
    /// Dropped, the tenure may go on for longer than the holder knows, which does no harm.
    fn renew(
        &self,
        shard: ShardId,
        token: Token,
        validity: Duration,
    ) -> BoxFuture<'_, Result<(), LeaseError>>;

    /// Ends a tenure, so that the shard can be granted at once. To be called when nothing acts for
    /// the tenure any more.
    ///
    /// # Errors
    /// [`LeaseError::Lost`] if it was over already. [`LeaseError::Unavailable`] if nobody can say; it
    /// may be tried again.
    ///
    /// # Cancel safety
    /// Dropped, the tenure may be over or not. It ends with its validity.
    fn release(&self, shard: ShardId, token: Token) -> BoxFuture<'_, Result<(), LeaseError>>;

    /// All tenures that are not over, in no particular order; may be late by some seconds. They
    /// serve to plan with, and never decide who acts.
    ///
    /// # Errors
    /// [`LeaseError::Unavailable`] if they cannot be read; it may be tried again.
    ///
    /// # Cancel safety
    /// Cancel safe: it changes nothing.
    fn tenures(&self) -> BoxFuture<'_, Result<Vec<Tenure>, LeaseError>>;
}

/// Who owns a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenure {
    /// Which shard.
    pub shard: ShardId,
    /// Whose it is.
    pub holder: NodeId,
    /// Under which token.
    pub token: Token,
}

/// Why a lease was not granted, renewed or released.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// Another node owns the shard.
    #[error("shard {shard} is held by {holder}, for {left:?} unless it renews")]
    Held {
        /// Which shard.
        shard: ShardId,
        /// Whose it is.
        holder: NodeId,
        /// After which time it may be free.
        left: Duration,
    },
    /// The tenure is over: its validity ended, it was released, or another one has begun.
    #[error("the tenure {token} of shard {shard} is over")]
    Lost {
        /// Which shard.
        shard: ShardId,
        /// Which tenure.
        token: Token,
    },
    /// The outcome is unknown.
    #[error("the leases are out of reach: {reason}; the outcome is unknown")]
    Unavailable {
        /// What happened, for people.
        reason: Arc<str>,
    },
}

/// What a lease service does, as plain values: the reference for every implementation, and the
/// service of simulations. It has no clock; `now` is the service's time since any fixed point and
/// must not go backwards.
///
/// ```
/// use std::time::Duration;
/// use perennial_sharding::{LeaseError, LeaseTable, NodeId, ShardCount};
///
/// let shard = ShardCount::default().shard(7).expect("there are 64");
/// let (ann, bob) = (NodeId::new("ann", 1), NodeId::new("bob", 1));
/// let second = Duration::from_secs(1);
/// let mut table = LeaseTable::default();
///
/// let first = table.acquire(0 * second, shard, &ann, 10 * second)?;
/// assert!(matches!(
///     table.acquire(9 * second, shard, &bob, 10 * second),
///     Err(LeaseError::Held { left, .. }) if left == second
/// ));
/// // Ann has not renewed.
/// let later = table.acquire(10 * second, shard, &bob, 10 * second)?;
/// assert!(later > first);
/// assert_eq!(
///     table.renew(11 * second, shard, first, 10 * second),
///     Err(LeaseError::Lost { shard, token: first })
/// );
/// # Ok::<(), LeaseError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct LeaseTable {
    rows: BTreeMap<ShardId, Row>,
}

#[derive(Debug, Clone)]
struct Row {
    /// The latest token, which is kept when the tenure is over.
    token: Token,
    holder: NodeId,
    /// When the validity is over, which has come when the tenure was released.
    until: Duration,
}

impl LeaseTable {
    /// See [`Leases::acquire`].
    ///
    /// # Errors
    /// [`LeaseError::Held`].
    pub fn acquire(
        &mut self,
        now: Duration,
        shard: ShardId,
        holder: &NodeId,
        validity: Duration,
    ) -> Result<Token, LeaseError> {
        let mut token = Token(1);
        if let Some(row) = self.rows.get(&shard) {
            if now < row.until && row.holder != *holder {
                return Err(LeaseError::Held {
                    shard,
                    holder: row.holder.clone(),
                    left: row.until - now,
                });
            }
            token = Token(row.token.0 + 1);
        }
        let row = Row {
            token,
            holder: holder.clone(),
            until: now + validity,
        };
        self.rows.insert(shard, row);
        Ok(token)
    }

    /// See [`Leases::renew`].
    ///
    /// # Errors
    /// [`LeaseError::Lost`].
    pub fn renew(
        &mut self,
        now: Duration,
        shard: ShardId,
        token: Token,
        validity: Duration,
    ) -> Result<(), LeaseError> {
        let row = self.present(now, shard, token)?;
        row.until = row.until.max(now + validity);
        Ok(())
    }

    /// See [`Leases::release`].
    ///
    /// # Errors
    /// [`LeaseError::Lost`].
    pub fn release(
        &mut self,
        now: Duration,
        shard: ShardId,
        token: Token,
    ) -> Result<(), LeaseError> {
        self.present(now, shard, token)?.until = now;
        Ok(())
    }

    /// See [`Leases::tenures`]; in the order of the shards.
    pub fn tenures(&self, now: Duration) -> Vec<Tenure> {
        let present = self.rows.iter().filter(|(_, row)| now < row.until);
        present
            .map(|(&shard, row)| Tenure {
                shard,
                holder: row.holder.clone(),
                token: row.token,
            })
            .collect()
    }

    /// The latest token that was given out for a shard.
    pub fn latest_token(&self, shard: ShardId) -> Option<Token> {
        self.rows.get(&shard).map(|row| row.token)
    }

    /// The row of a tenure that is not over.
    fn present(
        &mut self,
        now: Duration,
        shard: ShardId,
        token: Token,
    ) -> Result<&mut Row, LeaseError> {
        let row = self.rows.get_mut(&shard);
        row.filter(|row| row.token == token && now < row.until)
            .ok_or(LeaseError::Lost { shard, token })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::ShardCount;

    const VALIDITY: Duration = Duration::from_millis(100);

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn given() -> (LeaseTable, ShardId, [NodeId; 2]) {
        let shard = ShardCount::default().shard(0).expect("there are 64");
        let nodes = ["a", "b"].map(|name| NodeId::new(name, 1));
        (LeaseTable::default(), shard, nodes)
    }

    #[test]
    fn a_lease_is_another_ones_when_its_validity_is_over_and_no_sooner() {
        let (mut table, shard, [a, b]) = given();
        let first = table.acquire(at(0), shard, &a, VALIDITY).expect("free");
        assert!(table.acquire(at(99), shard, &b, VALIDITY).is_err());
        assert_eq!(table.renew(at(99), shard, first, VALIDITY), Ok(()));
        assert!(table.acquire(at(198), shard, &b, VALIDITY).is_err());
        let second = table.acquire(at(199), shard, &b, VALIDITY).expect("over");
        assert!(second > first);
    }

    #[test]
    fn what_is_over_cannot_be_renewed_even_if_nobody_else_came() {
        let (mut table, shard, [a, _]) = given();
        let token = table.acquire(at(0), shard, &a, VALIDITY).expect("free");
        let lost = Err(LeaseError::Lost { shard, token });
        assert_eq!(table.renew(at(100), shard, token, VALIDITY), lost);
        assert_eq!(table.tenures(at(100)), []);
    }

    #[test]
    fn a_released_lease_is_free_at_once_and_its_token_is_spent() {
        let (mut table, shard, [a, b]) = given();
        let first = table.acquire(at(0), shard, &a, VALIDITY).expect("free");
        assert_eq!(table.release(at(1), shard, first), Ok(()));
        assert!(table.release(at(1), shard, first).is_err());
        let second = table.acquire(at(1), shard, &b, VALIDITY).expect("free");
        assert!(second > first);
        // A request that arrives twice does not end the other's tenure.
        assert!(table.release(at(2), shard, first).is_err());
        assert_eq!(table.tenures(at(2)).len(), 1);
    }

    #[test]
    fn to_acquire_again_is_a_new_tenure() {
        let (mut table, shard, [a, _]) = given();
        let first = table.acquire(at(0), shard, &a, VALIDITY).expect("free");
        let second = table.acquire(at(1), shard, &a, VALIDITY).expect("its own");
        assert!(second > first);
        assert!(table.renew(at(2), shard, first, VALIDITY).is_err());
        // Another incarnation of the same name is somebody else.
        let restarted = NodeId::new("a", 2);
        assert!(table.acquire(at(3), shard, &restarted, VALIDITY).is_err());
    }

    #[test]
    fn a_renewal_that_arrives_late_shortens_nothing() {
        let (mut table, shard, [a, b]) = given();
        let token = table.acquire(at(0), shard, &a, at(1000)).expect("free");
        assert_eq!(table.renew(at(10), shard, token, VALIDITY), Ok(()));
        assert!(table.acquire(at(999), shard, &b, VALIDITY).is_err());
    }
}
