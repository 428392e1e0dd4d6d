//! Slices: the fixed 1,024 parts of the id space by which entities are owned and events are read.

use std::fmt;

/// The number of slices. Fixed for ever: it is stored in every row.
pub const NUMBER_OF_SLICES: u16 = 1024;

/// One of the [`NUMBER_OF_SLICES`] parts of the id space, `0..1024`.
///
/// A slice is computed from the *whole* persistence id as Pekko does:
/// `abs(String.hashCode % 1024)`, where `hashCode` runs over UTF-16 code units in wrapping 32-bit
/// arithmetic and `%` truncates towards zero. It is a format, not an implementation detail: it
/// stands in every row and decides who owns an entity.
///
/// ```
/// use perennial_persistence::Slice;
///
/// assert_eq!(Slice::of("ShoppingCart|cart-1").value(), 392);
/// ```
///
/// Source: Pekko `Persistence.sliceForPersistenceId`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slice(u16);

impl Slice {
    /// The slice of a persistence id.
    pub fn of(persistence_id: &str) -> Self {
        let hash = persistence_id.encode_utf16().fold(0_i32, |hash, unit| {
            hash.wrapping_mul(31).wrapping_add(i32::from(unit))
        });
        // The remainder lies in -1023..=1023, so its absolute value always fits.
        let slice = (hash % i32::from(NUMBER_OF_SLICES)).unsigned_abs();
        Self(u16::try_from(slice).expect("a remainder of 1024 is below 1024"))
    }

    /// A slice by its number, or `None` from 1,024 on.
    pub fn new(value: u16) -> Option<Self> {
        (value < NUMBER_OF_SLICES).then_some(Self(value))
    }

    /// The number, `0..1024`.
    pub fn value(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Slice> for i32 {
    fn from(slice: Slice) -> Self {
        i32::from(slice.0)
    }
}

/// A range of slices, inclusive at both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SliceRange {
    min: Slice,
    max: Slice,
}

impl SliceRange {
    /// All slices, 0 to 1,023.
    pub const ALL: Self = Self {
        min: Slice(0),
        max: Slice(NUMBER_OF_SLICES - 1),
    };

    /// The range from `min` to `max`, both included; `None` if `min` is above `max`.
    pub fn new(min: Slice, max: Slice) -> Option<Self> {
        (min <= max).then_some(Self { min, max })
    }

    /// Splits all slices into `parts` ranges of equal size, in order.
    ///
    /// `parts` must divide 1,024, so it is a power of two from 1 to 1,024; otherwise `None`.
    ///
    /// Source: Pekko `Persistence.sliceRanges`.
    pub fn partition(parts: u16) -> Option<Vec<Self>> {
        if parts == 0 || !NUMBER_OF_SLICES.is_multiple_of(parts) {
            return None;
        }
        let size = NUMBER_OF_SLICES / parts;
        let range = |part| Self {
            min: Slice(part * size),
            max: Slice(part * size + size - 1),
        };
        Some((0..parts).map(range).collect())
    }

    /// The first slice of the range.
    pub fn min(self) -> Slice {
        self.min
    }

    /// The last slice of the range, included.
    pub fn max(self) -> Slice {
        self.max
    }

    /// Whether `slice` lies in the range.
    pub fn contains(self, slice: Slice) -> bool {
        self.min <= slice && slice <= self.max
    }
}

impl fmt::Display for SliceRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.min, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_partition_all_slices() {
        for parts in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024] {
            let ranges = SliceRange::partition(parts).expect("a power of two");
            let slices: Vec<u16> = ranges
                .iter()
                .flat_map(|range| range.min().value()..=range.max().value())
                .collect();
            assert_eq!(slices, (0..NUMBER_OF_SLICES).collect::<Vec<_>>());
        }
        let quarters = SliceRange::partition(4).expect("a power of two");
        assert_eq!(
            quarters.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["0-255", "256-511", "512-767", "768-1023"]
        );
    }

    #[test]
    fn other_numbers_of_ranges_are_refused() {
        for parts in [0, 3, 5, 1000, 2048] {
            assert_eq!(SliceRange::partition(parts), None, "{parts}");
        }
    }

    #[test]
    fn a_slice_number_is_checked_at_the_bound() {
        assert_eq!(Slice::new(1023).map(Slice::value), Some(1023));
        assert_eq!(Slice::new(1024), None);
    }
}
