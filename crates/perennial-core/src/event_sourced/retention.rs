//! When snapshots are taken, and which events they replace.

/// When snapshots are taken, and which events are deleted once a snapshot is saved.
///
/// ```
/// use perennial_core::Retention;
///
/// // A snapshot every 500 events; the events of the last 1,000 before it stay.
/// let retention = Retention::every(500).keep(2).delete_events();
/// # let _ = retention;
/// ```
///
/// A store keeps one snapshot per entity, so `keep` is about events: it says how many intervals of
/// them stay behind the latest snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    pub(crate) every: u64,
    pub(crate) keep: u64,
    pub(crate) delete_events: bool,
}

impl Retention {
    /// A snapshot whenever the number of events passes a multiple of `every`; 0 takes none. All
    /// events stay.
    #[must_use]
    pub const fn every(every: u64) -> Self {
        Self {
            every,
            keep: 1,
            delete_events: false,
        }
    }

    /// How many intervals of events stay when events are deleted; 1 unless said otherwise. With 0
    /// every event that is part of the snapshot goes.
    #[must_use]
    pub const fn keep(mut self, intervals: u64) -> Self {
        self.keep = intervals;
        self
    }

    /// Deletes events after a snapshot was saved: after one at number s, those up to
    /// s - keep * every. What was deleted is gone for projections too.
    #[must_use]
    pub const fn delete_events(mut self) -> Self {
        self.delete_events = true;
        self
    }
}
