//! Which node a shard belongs to: a pure function, so that every node comes to the same answer.

use std::collections::{BTreeMap, BTreeSet};

use crate::node::{Member, MemberState, NodeId};
use crate::shard::{ShardCount, ShardId};

/// A shard that is to change its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// Which shard.
    pub shard: ShardId,
    /// Who has to give it away; `None` if nobody owns it that is still there.
    pub from: Option<NodeId>,
    /// Who is to have it, a member that is up.
    pub to: NodeId,
}

/// How much is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The most shards that are taken from their owners at a time. Default: 4. With 0, none is.
    /// Shards that nobody owns are given out all at once, as nobody loses anything by that.
    pub moves: usize,
    /// By how much the loads of two nodes have to differ before a shard moves, in percent of the
    /// mean load of a node. Default: 20. Not used without loads.
    pub hysteresis_percent: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            moves: 4,
            hysteresis_percent: 20,
        }
    }
}

impl Limits {
    /// Takes at most so many shards from their owners at a time.
    #[must_use]
    pub fn with_moves(mut self, moves: usize) -> Self {
        self.moves = moves;
        self
    }

    /// Moves none for a difference of so many percent of the mean.
    #[must_use]
    pub fn with_hysteresis_percent(mut self, hysteresis_percent: u32) -> Self {
        self.hysteresis_percent = hysteresis_percent;
        self
    }
}

/// The moves that bring the shards to where they should be, the urgent ones first.
///
/// First, every shard without an owner goes to the member with the least. A shard whose owner is
/// leaving is taken from it, and so is one whose owner is not there any more, which nobody has to
/// give away. Then shards go from the member with the most to the one with the least, as long as
/// that brings the two closer together:
///
/// - Without loads (none is above 0) each shard counts as one, and in the end no member has two
///   more than another.
/// - With `loads`, in any unit that is the same for all shards, a shard weighs its load and one
///   more, so that idle ones are spread as well. Nothing moves as long as the heaviest member is
///   no further from the lightest than [`Limits::hysteresis_percent`] of the mean; in the end two
///   members differ by no more than that or the weight of one shard.
///
/// Only members that are [`Up`](MemberState::Up) get shards; without one there are no moves. What
/// is at its place stays there, and if nothing changes, the moves of round after round come to an
/// end. The result depends on the values only, not on the order in which they are given, and is
/// the same on every node and in every version that says so in its changelog.
///
/// ```
/// use std::collections::BTreeMap;
/// use perennial_sharding::{Limits, Member, MemberState, NodeId, ShardCount, allocate};
///
/// let shards = ShardCount::new(4)?;
/// let [ann, bob] = ["ann", "bob"].map(|name| NodeId::new(name, 1));
/// let up = |node: &NodeId| Member::new(node.clone(), MemberState::Up);
/// let owners: BTreeMap<_, _> = shards.iter().map(|shard| (shard, ann.clone())).collect();
///
/// let moves = allocate(shards, &[up(&ann), up(&bob)], &owners, &BTreeMap::new(), &Limits::default());
/// assert_eq!(moves.len(), 2);
/// assert!(moves.iter().all(|one| one.from == Some(ann.clone()) && one.to == bob));
/// # Ok::<(), perennial_sharding::InvalidShardCount>(())
/// ```
pub fn allocate(
    shards: ShardCount,
    members: &[Member],
    owners: &BTreeMap<ShardId, NodeId>,
    loads: &BTreeMap<ShardId, u64>,
    limits: &Limits,
) -> Vec<Move> {
    let mut plan = Plan::new(shards, members, owners, loads);
    if plan.held.is_empty() {
        return Vec::new();
    }
    let leaving: BTreeSet<&NodeId> = nodes_in(members, MemberState::Leaving).collect();
    let joining: BTreeSet<&NodeId> = nodes_in(members, MemberState::Joining).collect();
    let mut moves = Vec::new();
    let mut left = limits.moves;

    // The heaviest first, as the lighter ones fill the gaps then.
    let mut homeless: Vec<ShardId> = shards
        .iter()
        .filter(|shard| {
            owners
                .get(shard)
                .is_none_or(|owner| !plan.held.contains_key(owner))
        })
        .collect();
    homeless.sort_by_key(|&shard| (std::cmp::Reverse(plan.weight(shard)), shard));
    for shard in homeless {
        let owner = owners.get(&shard);
        let from = owner.filter(|owner| leaving.contains(owner) || joining.contains(owner));
        if from.is_some() {
            if left == 0 {
                continue;
            }
            left -= 1;
        }
        let to = plan.lightest();
        plan.give(shard, &to);
        let from = from.cloned();
        moves.push(Move { shard, from, to });
    }

    let mut moved = BTreeSet::new();
    while left > 0
        && let Some((shard, from, to)) = plan.improvement(limits, &moved)
    {
        plan.take(shard, &from);
        plan.give(shard, &to);
        left -= 1;
        // One that nobody owns yet has been given out above and stays there.
        moved.insert(shard);
        let from = Some(from);
        moves.push(Move { shard, from, to });
    }
    moves
}

fn nodes_in(members: &[Member], state: MemberState) -> impl Iterator<Item = &NodeId> {
    let members = members.iter().filter(move |member| member.state == state);
    members.map(|member| &member.node)
}

/// What each member has, while the moves are thought out.
struct Plan {
    weights: BTreeMap<ShardId, u64>,
    /// Whether weights are loads.
    weighs: bool,
    /// By member that is up: its shards, and what they weigh.
    held: BTreeMap<NodeId, (BTreeSet<ShardId>, u64)>,
    total: u64,
    /// Shards that come from their owners and not from the air.
    movable: BTreeSet<ShardId>,
}

impl Plan {
    fn new(
        shards: ShardCount,
        members: &[Member],
        owners: &BTreeMap<ShardId, NodeId>,
        loads: &BTreeMap<ShardId, u64>,
    ) -> Self {
        let load = |shard| loads.get(&shard).copied().unwrap_or(0);
        let weighs = shards.iter().any(|shard| load(shard) > 0);
        // A bound that no sum of 1,024 loads can take beyond the type.
        let most = u64::MAX >> 20;
        let weights: BTreeMap<ShardId, u64> = shards
            .iter()
            .map(|shard| (shard, load(shard).min(most) + 1))
            .collect();
        let total = weights.values().sum();
        let mut plan = Self {
            weights,
            weighs,
            held: nodes_in(members, MemberState::Up)
                .map(|node| (node.clone(), Default::default()))
                .collect(),
            total,
            movable: BTreeSet::new(),
        };
        for (&shard, owner) in owners {
            if shard.value() < shards.value() && plan.held.contains_key(owner) {
                plan.give(shard, owner);
                plan.movable.insert(shard);
            }
        }
        plan
    }

    fn weight(&self, shard: ShardId) -> u64 {
        self.weights[&shard]
    }

    fn give(&mut self, shard: ShardId, to: &NodeId) {
        let weight = self.weight(shard);
        let (shards, sum) = self.held.get_mut(to).expect("it is up");
        shards.insert(shard);
        *sum += weight;
    }

    fn take(&mut self, shard: ShardId, from: &NodeId) {
        let weight = self.weight(shard);
        let (shards, sum) = self.held.get_mut(from).expect("it is up");
        shards.remove(&shard);
        *sum -= weight;
    }

    /// The member with the least; of several the first by name.
    fn lightest(&self) -> NodeId {
        let members = self.held.iter();
        let (node, _) = members
            .min_by_key(|(_, (shards, sum))| (*sum, shards.len()))
            .expect("someone is up");
        node.clone()
    }

    /// The move that helps most: from the heaviest member to the lightest.
    fn improvement(
        &self,
        limits: &Limits,
        moved: &BTreeSet<ShardId>,
    ) -> Option<(ShardId, NodeId, NodeId)> {
        let to = self.lightest();
        let members = self.held.iter().rev();
        let (from, (shards, most)) = members.max_by_key(|(_, (_, sum))| *sum)?;
        let difference = most - self.held[&to].1;
        if self.weighs {
            let count = self.held.len() as u64;
            let allowed = u128::from(self.total / count) * u128::from(limits.hysteresis_percent);
            if u128::from(difference) * 100 <= allowed {
                return None;
            }
        }
        let candidates = shards.iter().copied().filter(|shard| {
            let helps = self.weight(*shard) < difference;
            helps && self.movable.contains(shard) && !moved.contains(shard)
        });
        // Half of the difference would make the two equal.
        let shard =
            candidates.min_by_key(|&shard| (difference.abs_diff(2 * self.weight(shard)), shard))?;
        Some((shard, from.clone(), to))
    }
}

#[cfg(test)]
mod tests;
