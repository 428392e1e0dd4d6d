//! How a router chooses.

use std::fmt;
use std::hash::{Hash, Hasher};

use siphasher::sip::SipHasher13;

use crate::router::Routee;

/// Says which of its routees a router sends a message to. Implemented by [`RoundRobin`],
/// [`LeastLoaded`] and, for messages with a [`RoutingKey`], by [`ConsistentHash`].
pub trait Routing<M>: Clone + fmt::Debug + Send + Sync + Sealed + 'static {
    /// The order in which routees are tried. `turn` grows by one from message to message.
    #[doc(hidden)]
    fn choice(&self, message: &M, routees: &[Routee], turn: usize) -> Choice;
}

/// Strategies are those of this crate.
pub trait Sealed {}

/// One after the other. If the one whose turn it is has no room, the next one is tried.
#[derive(Debug, Clone, Copy, Default)]
pub struct RoundRobin;

/// The one for which the fewest messages wait ([`ActorRef::queue_depth`](crate::ActorRef::queue_depth));
/// of several the one whose turn it is. If it has no room, the one with the next fewest is tried.
/// Looks at all routees for every message.
#[derive(Debug, Clone, Copy, Default)]
pub struct LeastLoaded;

/// The one that the message's [`RoutingKey`] belongs to, and no other: if it has no room, the message
/// is refused.
///
/// A key belongs to the same routee for as long as the routees stay the same. When one comes, it
/// takes its share of the keys from all others, and no other key moves; when one goes, its keys alone
/// are spread over the others (rendezvous hashing). A pool replaces a routee in its place, so keys
/// come back to it. In a group a routee's place is its path.
///
/// Looks at all routees for every message, at a cost of a few nanoseconds each.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConsistentHash;

impl Sealed for RoundRobin {}
impl Sealed for LeastLoaded {}
impl Sealed for ConsistentHash {}

/// A message that says what it belongs to, for [`ConsistentHash`].
///
/// ```
/// use std::hash::Hash;
///
/// use perennial_core::RoutingKey;
///
/// struct Reading {
///     sensor: String,
///     value: f64,
/// }
///
/// impl RoutingKey for Reading {
///     fn routing_key(&self) -> impl Hash {
///         &self.sensor
///     }
/// }
/// ```
pub trait RoutingKey {
    /// Messages with equal keys go to the same routee, also from different programs of the same
    /// build.
    fn routing_key(&self) -> impl Hash;
}

/// A message without a key of its own, to be sent by this one.
impl<K: Hash, M> RoutingKey for (K, M) {
    fn routing_key(&self) -> impl Hash {
        &self.0
    }
}

impl<M> Routing<M> for RoundRobin {
    fn choice(&self, _: &M, routees: &[Routee], turn: usize) -> Choice {
        Choice::turns(routees.len(), turn)
    }
}

impl<M> Routing<M> for LeastLoaded {
    fn choice(&self, _: &M, routees: &[Routee], turn: usize) -> Choice {
        Choice::by_load(routees, turn)
    }
}

impl<M: RoutingKey> Routing<M> for ConsistentHash {
    fn choice(&self, message: &M, _: &[Routee], _: usize) -> Choice {
        Choice::by_key(hash(&message.routing_key()))
    }
}

/// The order in which the routees of a list are tried.
#[derive(Debug)]
pub struct Choice(Order);

#[derive(Debug)]
enum Order {
    Turns {
        next: usize,
        left: usize,
    },
    /// The least loaded first; the rest is put in order only when it has no room.
    Load {
        first: Option<usize>,
        turn: usize,
        rest: Option<Vec<usize>>,
    },
    Key {
        key: u64,
        /// Score and number of the one that was tried last.
        last: Option<(u64, usize)>,
    },
}

impl Choice {
    fn turns(routees: usize, turn: usize) -> Self {
        Self(Order::Turns {
            next: turn.checked_rem(routees).unwrap_or(0),
            left: routees,
        })
    }

    fn by_load(routees: &[Routee], turn: usize) -> Self {
        let first = numbers(routees.len(), turn).min_by_key(|&number| load(&routees[number]));
        Self(Order::Load {
            first,
            turn,
            rest: None,
        })
    }

    fn by_key(key: u64) -> Self {
        Self(Order::Key { key, last: None })
    }

    /// Whether the message belongs to the first one that is there, and to no other.
    pub(crate) fn is_bound(&self) -> bool {
        matches!(self.0, Order::Key { .. })
    }

    /// The next one of `routees`, which is the same list every time.
    pub(crate) fn next<'a>(&mut self, routees: &'a [Routee]) -> Option<&'a Routee> {
        let number = match &mut self.0 {
            Order::Turns { left: 0, .. } => return None,
            Order::Turns { next, left } => {
                let number = *next;
                *left -= 1;
                *next = (number + 1) % routees.len();
                number
            }
            Order::Load { first, turn, rest } => match rest {
                None => {
                    let number = (*first)?;
                    *rest = Some(Vec::new());
                    number
                }
                Some(numbers_left) => {
                    if let Some(tried) = first.take() {
                        let others = numbers(routees.len(), *turn).filter(|&other| other != tried);
                        let mut others: Vec<usize> = others.collect();
                        others.sort_by_key(|&number| load(&routees[number]));
                        others.reverse();
                        *numbers_left = others;
                    }
                    numbers_left.pop()?
                }
            },
            Order::Key { key, last } => {
                let scores = routees
                    .iter()
                    .enumerate()
                    .map(|(number, routee)| (score(*key, routee.place), number));
                let next = scores
                    .filter(|score| last.is_none_or(|last| *score < last))
                    .max()?;
                *last = Some(next);
                next.1
            }
        };
        routees.get(number)
    }
}

fn load(routee: &Routee) -> usize {
    routee.address.waiting()
}

/// All numbers below `count`, from that of the turn on.
fn numbers(count: usize, turn: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |number| (turn % count + number) % count)
}

/// How strongly a key is drawn to a place: the steps that finish SplitMix64, which have every bit of
/// either decide about every bit of the score.
fn score(key: u64, place: u64) -> u64 {
    let mut mixed = key ^ place;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A hash that is the same in every process: SipHash 1-3 without a key.
pub(crate) fn hash(key: &impl Hash) -> u64 {
    let mut hasher = SipHasher13::new();
    key.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Which of `places` each of 10,000 keys belongs to.
    fn owners(places: &[u64]) -> Vec<u64> {
        (0..10_000)
            .map(|key: u32| {
                let key = hash(&format!("key {key}"));
                let best = places.iter().max_by_key(|place| score(key, **place));
                *best.expect("there are places")
            })
            .collect()
    }

    fn places(count: u64) -> Vec<u64> {
        (0..count).map(|number| hash(&number)).collect()
    }

    #[test]
    fn keys_are_spread_evenly() {
        let mut counts = BTreeMap::new();
        for owner in owners(&places(8)) {
            *counts.entry(owner).or_insert(0_u32) += 1;
        }
        assert_eq!(counts.len(), 8);
        for (place, count) in counts {
            // 1,250 each, with a standard deviation of 33.
            assert!((1100..1400).contains(&count), "{count} at {place}");
        }
    }

    #[test]
    fn only_the_keys_of_what_comes_or_goes_move() {
        let few = places(8);
        let many = places(9);
        let (before, after) = (owners(&few), owners(&many));
        let moved: Vec<_> = before.iter().zip(&after).filter(|(a, b)| a != b).collect();
        assert!(moved.iter().all(|(_, to)| **to == many[8]));
        // A ninth is 1,111.
        assert!((1000..1230).contains(&moved.len()), "{} moved", moved.len());
    }

    #[test]
    fn the_hash_is_the_same_in_every_process() {
        // SipHash 1-3 with a key of zeros, over the bytes of the text and 0xff.
        assert_eq!(hash(&"perennial"), 15_245_396_363_366_416_811);
    }
}
