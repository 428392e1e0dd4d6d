//! Shards: equal ranges of slices, each of which is owned by one node at a time.

use std::fmt;

use perennial_persistence::{NUMBER_OF_SLICES, Slice, SliceRange};

/// Into how many shards the slices are divided: a power of two from 1 to 1,024.
///
/// All nodes of a cluster have the same number, for as long as the cluster is up: it decides who
/// owns an entity. What is stored does not depend on it.
///
/// ```
/// use perennial_persistence::Slice;
/// use perennial_sharding::ShardCount;
///
/// let shards = ShardCount::new(4)?;
/// let shard = shards.shard_of(Slice::of("ShoppingCart|cart-1"));
/// assert_eq!(shard.to_string(), "1");
/// assert_eq!(shards.slices_of(shard).to_string(), "256-511");
/// # Ok::<(), perennial_sharding::InvalidShardCount>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShardCount(u16);

impl ShardCount {
    /// So many shards.
    ///
    /// # Errors
    /// [`InvalidShardCount`] for what is no power of two from 1 to 1,024.
    pub fn new(count: u16) -> Result<Self, InvalidShardCount> {
        if !count.is_power_of_two() || count > NUMBER_OF_SLICES {
            return Err(InvalidShardCount { count });
        }
        Ok(Self(count))
    }

    /// The number, 1 to 1,024.
    pub fn value(self) -> u16 {
        self.0
    }

    /// The shard that a slice belongs to.
    pub fn shard_of(self, slice: Slice) -> ShardId {
        ShardId(slice.value() / self.slices_per_shard())
    }

    /// The slices of a shard.
    ///
    /// # Panics
    /// If there is no such shard: its number is not below the number of shards.
    pub fn slices_of(self, shard: ShardId) -> SliceRange {
        let first = shard.0 * self.slices_per_shard();
        let last = first + self.slices_per_shard() - 1;
        let range = Slice::new(first).zip(Slice::new(last));
        range
            .and_then(|(first, last)| SliceRange::new(first, last))
            .unwrap_or_else(|| panic!("there is no shard {shard} among {self}"))
    }

    /// The shard with this number, if there is one.
    pub fn shard(self, number: u16) -> Option<ShardId> {
        (number < self.0).then_some(ShardId(number))
    }

    /// All shards, in order.
    pub fn iter(self) -> impl Iterator<Item = ShardId> {
        (0..self.0).map(ShardId)
    }

    fn slices_per_shard(self) -> u16 {
        NUMBER_OF_SLICES / self.0
    }
}

impl Default for ShardCount {
    /// 64 shards of 16 slices: enough for some ten nodes to be within a tenth of each other, and
    /// few enough to renew the lease of each every few seconds.
    fn default() -> Self {
        Self(64)
    }
}

impl fmt::Display for ShardCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One of the shards, by its number from 0 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(u16);

impl ShardId {
    /// The number.
    pub fn value(self) -> u16 {
        self.0
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A number of shards that does not divide the slices evenly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{count} shards are not possible: take a power of two from 1 to {NUMBER_OF_SLICES}")]
pub struct InvalidShardCount {
    /// What was asked for.
    pub count: u16,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts() -> impl Strategy<Value = ShardCount> {
        (0_u32..=10).prop_map(|power| ShardCount::new(1 << power).expect("a power of two"))
    }

    #[test]
    fn only_powers_of_two_up_to_1024_are_possible() {
        for count in 0..=2048 {
            let is_possible = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024].contains(&count);
            assert_eq!(ShardCount::new(count).is_ok(), is_possible, "{count}");
        }
        let error = ShardCount::new(2048).expect_err("too many");
        assert_eq!(
            error.to_string(),
            "2048 shards are not possible: take a power of two from 1 to 1024"
        );
    }

    #[test]
    fn a_shard_number_is_checked_at_the_bound() {
        let shards = ShardCount::new(8).expect("a power of two");
        assert_eq!(shards.shard(7).map(ShardId::value), Some(7));
        assert_eq!(shards.shard(8), None);
    }

    proptest! {
        #[test]
        fn the_shards_partition_the_slices(shards in counts()) {
            let slices: Vec<u16> = shards
                .iter()
                .map(|shard| shards.slices_of(shard))
                .flat_map(|range| range.min().value()..=range.max().value())
                .collect();
            prop_assert_eq!(slices, (0..NUMBER_OF_SLICES).collect::<Vec<_>>());
        }

        #[test]
        fn a_slice_lies_in_the_range_of_its_shard(shards in counts(), slice in 0..NUMBER_OF_SLICES) {
            let slice = Slice::new(slice).expect("below the number of slices");
            let shard = shards.shard_of(slice);
            prop_assert!(shards.slices_of(shard).contains(slice));
            prop_assert_eq!(shards.shard(shard.value()), Some(shard));
        }

        #[test]
        fn twice_as_many_shards_are_halves(shards in counts(), slice in 0..NUMBER_OF_SLICES) {
            let slice = Slice::new(slice).expect("below the number of slices");
            if let Ok(twice) = ShardCount::new(shards.value() * 2) {
                let (whole, half) = (shards.shard_of(slice), twice.shard_of(slice));
                prop_assert_eq!(half.value() / 2, whole.value());
            }
        }
    }
}
