//! Sequence numbers of events.

use std::fmt;

/// The number of an event among those of its persistence id: 1, 2, 3 … without gaps.
///
/// [`SequenceNr::ZERO`] is no event's number; it stands for "nothing stored yet" and for the
/// marker that deleting everything of an unknown id leaves. The largest number is `i64::MAX`,
/// as the column is a `BIGINT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SequenceNr(u64);

impl SequenceNr {
    /// Before the first event.
    pub const ZERO: Self = Self(0);
    /// The number of the first event.
    pub const FIRST: Self = Self(1);
    /// The largest number that the tables can hold.
    pub const MAX: Self = Self(i64::MAX.unsigned_abs());

    /// A sequence number, or `None` above [`SequenceNr::MAX`].
    pub fn new(value: u64) -> Option<Self> {
        (value <= Self::MAX.0).then_some(Self(value))
    }

    /// The plain number.
    pub fn value(self) -> u64 {
        self.0
    }

    /// The number as the tables hold it.
    pub fn to_i64(self) -> i64 {
        i64::try_from(self.0).expect("the constructor bounds the number by i64::MAX")
    }

    /// The number after this one; stays at [`SequenceNr::MAX`].
    #[must_use]
    pub fn next(self) -> Self {
        self.plus(1)
    }

    /// The number `count` further on; stays at [`SequenceNr::MAX`].
    #[must_use]
    pub fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count).min(Self::MAX.0))
    }
}

impl fmt::Display for SequenceNr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A stored number was negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a sequence number: it is negative")]
pub struct NegativeSequenceNr(i64);

impl TryFrom<i64> for SequenceNr {
    type Error = NegativeSequenceNr;

    fn try_from(value: i64) -> Result<Self, Self::Error> {
        u64::try_from(value)
            .map(Self)
            .map_err(|_| NegativeSequenceNr(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_checked_at_both_bounds() {
        assert_eq!(SequenceNr::try_from(-1), Err(NegativeSequenceNr(-1)));
        assert_eq!(SequenceNr::try_from(0), Ok(SequenceNr::ZERO));
        assert_eq!(SequenceNr::try_from(i64::MAX), Ok(SequenceNr::MAX));
        assert_eq!(SequenceNr::new(i64::MAX.unsigned_abs() + 1), None);
        assert_eq!(SequenceNr::MAX.next(), SequenceNr::MAX);
        assert_eq!(SequenceNr::MAX.to_i64(), i64::MAX);
    }
}
