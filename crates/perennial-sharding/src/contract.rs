//! What every service of leases must do, as tests.
//!
//! Its crate makes it testable by a [`LeasesFixture`] and names it in `tests/contract.rs`; each
//! behaviour becomes an ordinary test:
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//! use perennial_persistence::BoxFuture;
//! use perennial_sharding::contract::LeasesFixture;
//! use perennial_sharding::{Leases, MemoryLeases};
//! use perennial_testkit::ManualClock;
//!
//! struct Fixture {
//!     clock: ManualClock,
//!     leases: MemoryLeases,
//! }
//!
//! impl LeasesFixture for Fixture {
//!     fn leases(&self) -> Arc<dyn Leases> {
//!         Arc::new(self.leases.clone())
//!     }
//!
//!     fn validity(&self) -> Duration {
//!         Duration::from_secs(10)
//!     }
//!
//!     fn wait(&self, time: Duration) -> BoxFuture<'_, ()> {
//!         Box::pin(async move { self.clock.advance(time) })
//!     }
//! }
//!
//! async fn nothing_given_out() -> Fixture {
//!     let clock = ManualClock::new();
//!     let leases = MemoryLeases::new(Arc::new(clock.clone()));
//!     Fixture { clock, leases }
//! }
//!
//! perennial_sharding::leases_contract!(nothing_given_out());
//! # fn main() {}
//! ```
//!
//! The expression is evaluated anew for every test: a future of a fixture whose service has given out
//! nothing yet.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use perennial_persistence::BoxFuture;
#[doc(hidden)]
pub use perennial_testkit::contract::run;

use crate::lease::{LeaseError, Leases, Token};
use crate::node::NodeId;
use crate::shard::{ShardCount, ShardId};

/// A service of leases that can be tested.
pub trait LeasesFixture: Send + Sync {
    /// The service, as one more node sees it.
    fn leases(&self) -> Arc<dyn Leases>;

    /// A validity that is long against a request: within a tenth of it the service has answered many.
    fn validity(&self) -> Duration;

    /// Lets so much time pass for the service, or a little more.
    fn wait(&self, time: Duration) -> BoxFuture<'_, ()>;
}

/// Makes a module `leases_contract` with a test for every behaviour of [`Leases`](crate::Leases).
///
/// The argument is an expression for a future of a
/// [`LeasesFixture`](crate::contract::LeasesFixture); it is evaluated for every test.
#[macro_export]
macro_rules! leases_contract {
    ($fixture:expr) => {
        $crate::__leases_contract_tests!(
            $fixture,
            [
                a_free_shard_is_granted_and_a_held_one_refused,
                a_lease_is_another_ones_when_its_validity_is_over,
                a_renewed_lease_goes_on,
                what_is_over_cannot_be_renewed_or_released,
                a_released_lease_is_free_at_once,
                a_spent_token_does_nothing_to_a_later_tenure,
                to_acquire_again_is_a_new_tenure,
                another_incarnation_is_another_holder,
                a_shorter_renewal_shortens_nothing,
                tokens_grow_and_are_never_given_twice,
                shards_are_kept_apart,
                tenures_tell_who_owns_what,
                of_many_that_ask_at_once_one_gets_the_shard,
            ]
        );
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __leases_contract_tests {
    ($fixture:expr, [$($behaviour:ident),+ $(,)?]) => {
        mod leases_contract {
            #[allow(unused_imports)]
            use super::*;

            $(
                #[test]
                fn $behaviour() {
                    $crate::contract::run(async {
                        let fixture = $fixture.await;
                        $crate::contract::$behaviour(&fixture).await;
                    });
                }
            )+
        }
    };
}

fn shard(number: u16) -> ShardId {
    let shards = ShardCount::default();
    shards.shard(number).expect("there are 64")
}

fn node(name: &str) -> NodeId {
    NodeId::new(name, 1)
}

/// A shard that is free now.
async fn granted(fixture: &dyn LeasesFixture, shard: ShardId, name: &str) -> Token {
    let leases = fixture.leases();
    let granted = leases.acquire(shard, &node(name), fixture.validity()).await;
    granted.unwrap_or_else(|error| panic!("the shard is free for {name}: {error}"))
}

async fn check_held(fixture: &dyn LeasesFixture, shard: ShardId, by: &str, for_whom: &str) {
    let (leases, validity) = (fixture.leases(), fixture.validity());
    match leases.acquire(shard, &node(for_whom), validity).await {
        Err(LeaseError::Held {
            shard: held,
            holder,
            left,
        }) => {
            assert_eq!((held, holder), (shard, node(by)));
            assert!(left <= validity, "{left:?} are left of {validity:?}");
        }
        other => panic!("the shard is held by {by}: {other:?}"),
    }
}

fn lost(shard: ShardId, token: Token) -> Result<(), LeaseError> {
    Err(LeaseError::Lost { shard, token })
}

#[doc(hidden)]
pub async fn a_free_shard_is_granted_and_a_held_one_refused(fixture: &dyn LeasesFixture) {
    granted(fixture, shard(0), "a").await;
    check_held(fixture, shard(0), "a", "b").await;
}

#[doc(hidden)]
pub async fn a_lease_is_another_ones_when_its_validity_is_over(fixture: &dyn LeasesFixture) {
    let first = granted(fixture, shard(0), "a").await;
    fixture.wait(fixture.validity() / 2).await;
    check_held(fixture, shard(0), "a", "b").await;
    fixture.wait(fixture.validity()).await;
    assert!(granted(fixture, shard(0), "b").await > first);
}

#[doc(hidden)]
pub async fn a_renewed_lease_goes_on(fixture: &dyn LeasesFixture) {
    let token = granted(fixture, shard(0), "a").await;
    for _ in 0..4 {
        fixture.wait(fixture.validity() / 2).await;
        let leases = fixture.leases();
        let renewed = leases.renew(shard(0), token, fixture.validity()).await;
        assert_eq!(renewed, Ok(()));
    }
    check_held(fixture, shard(0), "a", "b").await;
}

#[doc(hidden)]
pub async fn what_is_over_cannot_be_renewed_or_released(fixture: &dyn LeasesFixture) {
    let (leases, validity) = (fixture.leases(), fixture.validity());
    let token = granted(fixture, shard(0), "a").await;
    fixture.wait(validity).await;
    let renewed = leases.renew(shard(0), token, validity).await;
    assert_eq!(renewed, lost(shard(0), token));
    let released = leases.release(shard(0), token).await;
    assert_eq!(released, lost(shard(0), token));
}

#[doc(hidden)]
pub async fn a_released_lease_is_free_at_once(fixture: &dyn LeasesFixture) {
    let first = granted(fixture, shard(0), "a").await;
    assert_eq!(fixture.leases().release(shard(0), first).await, Ok(()));
    assert!(granted(fixture, shard(0), "b").await > first);
}

#[doc(hidden)]
pub async fn a_spent_token_does_nothing_to_a_later_tenure(fixture: &dyn LeasesFixture) {
    let (leases, validity) = (fixture.leases(), fixture.validity());
    let first = granted(fixture, shard(0), "a").await;
    assert_eq!(leases.release(shard(0), first).await, Ok(()));
    granted(fixture, shard(0), "b").await;
    let released = leases.release(shard(0), first).await;
    assert_eq!(released, lost(shard(0), first));
    let renewed = leases.renew(shard(0), first, validity).await;
    assert_eq!(renewed, lost(shard(0), first));
    check_held(fixture, shard(0), "b", "a").await;
}

#[doc(hidden)]
pub async fn to_acquire_again_is_a_new_tenure(fixture: &dyn LeasesFixture) {
    let first = granted(fixture, shard(0), "a").await;
    let second = granted(fixture, shard(0), "a").await;
    assert!(second > first);
    let leases = fixture.leases();
    let renewed = leases.renew(shard(0), first, fixture.validity()).await;
    assert_eq!(renewed, lost(shard(0), first));
    // What the first one wants no more does not set the shard free.
    let released = leases.release(shard(0), first).await;
    assert_eq!(released, lost(shard(0), first));
    check_held(fixture, shard(0), "a", "b").await;
}

#[doc(hidden)]
pub async fn another_incarnation_is_another_holder(fixture: &dyn LeasesFixture) {
    granted(fixture, shard(0), "a").await;
    let leases = fixture.leases();
    let restarted = NodeId::new("a", 2);
    let result = leases
        .acquire(shard(0), &restarted, fixture.validity())
        .await;
    assert!(matches!(result, Err(LeaseError::Held { .. })), "{result:?}");
}

#[doc(hidden)]
pub async fn a_shorter_renewal_shortens_nothing(fixture: &dyn LeasesFixture) {
    let (leases, validity) = (fixture.leases(), fixture.validity());
    let token = leases.acquire(shard(0), &node("a"), validity * 2).await;
    let token = token.expect("it is free");
    let renewed = leases.renew(shard(0), token, validity / 2).await;
    assert_eq!(renewed, Ok(()));
    fixture.wait(validity).await;
    let result = leases.acquire(shard(0), &node("b"), validity).await;
    assert!(matches!(result, Err(LeaseError::Held { .. })), "{result:?}");
}

#[doc(hidden)]
pub async fn tokens_grow_and_are_never_given_twice(fixture: &dyn LeasesFixture) {
    let leases = fixture.leases();
    let mut last = None;
    for round in 0..6 {
        let token = granted(fixture, shard(0), if round % 2 == 0 { "a" } else { "b" }).await;
        assert!(
            last.is_none_or(|last| token > last),
            "{token} after {last:?}"
        );
        last = Some(token);
        if round % 3 == 0 {
            fixture.wait(fixture.validity()).await;
        } else {
            assert_eq!(leases.release(shard(0), token).await, Ok(()));
        }
    }
}

#[doc(hidden)]
pub async fn shards_are_kept_apart(fixture: &dyn LeasesFixture) {
    let first = granted(fixture, shard(0), "a").await;
    granted(fixture, shard(63), "b").await;
    assert_eq!(fixture.leases().release(shard(0), first).await, Ok(()));
    check_held(fixture, shard(63), "b", "a").await;
}

#[doc(hidden)]
pub async fn tenures_tell_who_owns_what(fixture: &dyn LeasesFixture) {
    let leases = fixture.leases();
    let released = granted(fixture, shard(1), "a").await;
    assert_eq!(leases.release(shard(1), released).await, Ok(()));
    let first = granted(fixture, shard(0), "a").await;
    let second = granted(fixture, shard(2), "b").await;
    let tenures = leases.tenures().await.expect("they can be read");
    let rows = tenures
        .into_iter()
        .map(|row| (row.shard, row.holder, row.token));
    let expected = [(shard(0), node("a"), first), (shard(2), node("b"), second)];
    assert_eq!(rows.collect::<BTreeSet<_>>(), BTreeSet::from(expected));
    fixture.wait(fixture.validity()).await;
    assert_eq!(leases.tenures().await, Ok(Vec::new()));
}

#[doc(hidden)]
pub async fn of_many_that_ask_at_once_one_gets_the_shard(fixture: &dyn LeasesFixture) {
    let validity = fixture.validity();
    let nodes: Vec<NodeId> = (0..16).map(|number| NodeId::new("a", number)).collect();
    let asks = nodes.iter().map(|node| {
        let leases = fixture.leases();
        async move { leases.acquire(shard(0), node, validity).await }
    });
    let results = join_all(asks).await;
    let granted = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(granted, 1, "{results:?}");
}
