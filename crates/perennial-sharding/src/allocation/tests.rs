//! Properties of the allocation, over any history of joins, leaves, crashes and loads.

use proptest::prelude::*;

use super::*;

/// A situation: members in states, owners among them and others, loads.
#[derive(Debug, Clone)]
struct Given {
    shards: ShardCount,
    members: Vec<Member>,
    owners: BTreeMap<ShardId, NodeId>,
    loads: BTreeMap<ShardId, u64>,
}

fn node(number: usize) -> NodeId {
    NodeId::new(format!("node-{number}"), 1)
}

fn states() -> impl Strategy<Value = Option<MemberState>> {
    prop_oneof![
        4 => Just(Some(MemberState::Up)),
        1 => Just(Some(MemberState::Leaving)),
        1 => Just(Some(MemberState::Joining)),
        1 => Just(None),
    ]
}

fn given(with_loads: bool) -> impl Strategy<Value = Given> {
    (0_u32..=6, 1_usize..=7).prop_flat_map(move |(power, nodes)| {
        let shards = ShardCount::new(1 << power).expect("a power of two");
        let count = usize::from(shards.value());
        let states = prop::collection::vec(states(), nodes);
        // One number more than there are nodes: nobody's.
        let owners = prop::collection::vec(0..=nodes, count);
        let load = if with_loads { 0..1000_u64 } else { 0..1 };
        let loads = prop::collection::vec(load, count);
        (states, owners, loads).prop_map(move |(states, owners, loads)| Given {
            shards,
            members: states
                .into_iter()
                .enumerate()
                .filter_map(|(number, state)| Some(Member::new(node(number), state?)))
                .collect(),
            owners: shards
                .iter()
                .zip(owners)
                .filter(|&(_, owner)| owner < nodes)
                .map(|(shard, owner)| (shard, node(owner)))
                .collect(),
            loads: shards.iter().zip(loads).collect(),
        })
    })
}

impl Given {
    fn up(&self) -> BTreeSet<NodeId> {
        nodes_in(&self.members, MemberState::Up).cloned().collect()
    }

    fn moves(&self, limits: &Limits) -> Vec<Move> {
        allocate(
            self.shards,
            &self.members,
            &self.owners,
            &self.loads,
            limits,
        )
    }

    fn apply(&mut self, moves: &[Move]) {
        for one in moves {
            self.owners.insert(one.shard, one.to.clone());
        }
    }

    /// Round after round until nothing moves.
    fn settle(&mut self, limits: &Limits) -> usize {
        let mut rounds = 0;
        loop {
            let moves = self.moves(limits);
            if moves.is_empty() {
                return rounds;
            }
            self.apply(&moves);
            rounds += 1;
            assert!(rounds < 10_000, "it never comes to an end");
        }
    }

    fn sums(&self, weight: impl Fn(ShardId) -> u64) -> Vec<u64> {
        let of = |node: &NodeId| {
            let own = self.owners.iter().filter(|(_, owner)| *owner == node);
            own.map(|(&shard, _)| weight(shard)).sum()
        };
        self.up().iter().map(of).collect()
    }
}

fn spread(sums: &[u64]) -> u64 {
    let (least, most) = (sums.iter().min(), sums.iter().max());
    most.zip(least).map_or(0, |(most, least)| most - least)
}

proptest! {
    #[test]
    fn every_shard_finds_a_member_and_counts_differ_by_one_at_most(mut given in given(false)) {
        given.settle(&Limits::default());
        let up = given.up();
        if !up.is_empty() {
            prop_assert_eq!(given.owners.len(), usize::from(given.shards.value()));
            prop_assert!(given.owners.values().all(|owner| up.contains(owner)));
            prop_assert!(spread(&given.sums(|_| 1)) <= 1);
        }
    }

    #[test]
    fn loads_differ_by_one_shard_or_the_hysteresis_at_most(mut given in given(true)) {
        let limits = Limits::default();
        given.settle(&limits);
        let loads = given.loads.clone();
        let weighs = loads.values().any(|&load| load > 0);
        let weight = |shard| if weighs { loads[&shard] + 1 } else { 1 };
        let sums = given.sums(weight);
        if !sums.is_empty() {
            let mean = sums.iter().sum::<u64>() / sums.len() as u64;
            let heaviest = given.shards.iter().map(weight).max().unwrap_or(0);
            let allowed = heaviest.max(mean * u64::from(limits.hysteresis_percent) / 100 + 1);
            prop_assert!(spread(&sums) <= allowed, "{:?}, {} allowed", sums, allowed);
        }
    }

    #[test]
    fn no_more_moves_than_needed(given in given(false)) {
        let moves = given.moves(&Limits::default().with_moves(usize::MAX));
        let up = given.up();
        let is_home = |shard: &ShardId| given.owners.get(shard).is_some_and(|o| up.contains(o));
        let homeless = given.shards.iter().filter(|shard| !is_home(shard)).count();
        // What anybody has beyond an even share has to go, whoever gets it: the larger shares for
        // those with the most.
        let mut counts = given.sums(|_| 1);
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let (all, nodes) = (u64::from(given.shards.value()), counts.len() as u64);
        let mut excess = 0;
        for (place, count) in counts.iter().enumerate() {
            let share = all / nodes + u64::from((place as u64) < all % nodes);
            excess += count.saturating_sub(share);
        }
        if !up.is_empty() {
            prop_assert_eq!(moves.len() as u64, homeless as u64 + excess);
        }
        let shards: BTreeSet<ShardId> = moves.iter().map(|one| one.shard).collect();
        prop_assert_eq!(shards.len(), moves.len(), "a shard moves once");
    }

    #[test]
    fn moves_are_from_owners_to_members_that_are_up(given in given(true), most in 0_usize..6) {
        let moves = given.moves(&Limits::default().with_moves(most));
        let up = given.up();
        let mut taken = 0;
        for one in &moves {
            prop_assert!(up.contains(&one.to));
            prop_assert_ne!(one.from.as_ref(), Some(&one.to));
            let owner = given.owners.get(&one.shard);
            let is_member = |node: &&NodeId| given.members.iter().any(|m| m.node == **node);
            prop_assert_eq!(one.from.as_ref(), owner.filter(is_member));
            taken += usize::from(one.from.is_some());
        }
        prop_assert!(taken <= most);
    }

    #[test]
    fn shards_without_an_owner_are_given_out_whatever_the_limit(given in given(true)) {
        let moves = given.moves(&Limits::default().with_moves(0));
        let is_member = |node: &NodeId| given.members.iter().any(|m| m.node == *node);
        let homeless = given
            .shards
            .iter()
            .filter(|shard| !given.owners.get(shard).is_some_and(is_member))
            .count();
        prop_assert_eq!(moves.len(), if given.up().is_empty() { 0 } else { homeless });
    }

    #[test]
    fn the_order_of_the_members_does_not_matter(given in given(true), turn in 0_usize..7) {
        let mut turned = given.clone();
        let turn = turn % turned.members.len().max(1);
        turned.members.rotate_left(turn);
        turned.members.reverse();
        prop_assert_eq!(given.moves(&Limits::default()), turned.moves(&Limits::default()));
    }

    #[test]
    fn what_is_at_its_place_stays_there_when_somebody_joins(mut given in given(false)) {
        given.settle(&Limits::default());
        if given.up().is_empty() {
            return Ok(());
        }
        let newcomer = NodeId::new("newcomer", 1);
        given.members.push(Member::new(newcomer.clone(), MemberState::Up));
        let before = given.owners.clone();
        given.settle(&Limits::default());
        // Only what the newcomer gets has moved.
        for (shard, owner) in &given.owners {
            prop_assert!(*owner == newcomer || before[shard] == *owner);
        }
    }

    #[test]
    fn a_hysteresis_keeps_shards_where_they_are(mut given in given(true), shift in 0_u64..5) {
        let limits = Limits::default();
        given.settle(&limits);
        let weights = |given: &Given| given.sums(|shard| given.loads[&shard] + 1);
        // One shard becomes busier by little.
        if let Some(load) = given.loads.values_mut().next() {
            *load += shift;
        }
        let sums = weights(&given);
        if let Some(total) = (!sums.is_empty()).then(|| sums.iter().sum::<u64>()) {
            let mean = total / sums.len() as u64;
            if spread(&sums) * 100 <= mean * u64::from(limits.hysteresis_percent) {
                prop_assert_eq!(given.moves(&limits), []);
            }
        }
    }
}

#[test]
fn a_hot_shard_gets_room_from_the_others() {
    let shards = ShardCount::new(8).expect("a power of two");
    let [ann, bob] = ["ann", "bob"].map(|name| NodeId::new(name, 1));
    let mut given = Given {
        shards,
        members: [&ann, &bob]
            .map(|node| Member::new(node.clone(), MemberState::Up))
            .to_vec(),
        owners: shards
            .iter()
            .map(|shard| (shard, if shard.value() < 4 { &ann } else { &bob }.clone()))
            .collect(),
        loads: shards.iter().map(|shard| (shard, 10)).collect(),
    };
    assert_eq!(given.moves(&Limits::default()), []);
    *given.loads.values_mut().next().expect("there are eight") = 100;
    given.settle(&Limits::default());
    // The hot one stays: as much moves as makes room for it.
    let of_ann: Vec<u16> = given
        .owners
        .iter()
        .filter(|(_, owner)| **owner == ann)
        .map(|(shard, _)| shard.value())
        .collect();
    assert_eq!(of_ann, [0]);
}
