//! The snapshot store: one state per entity, so that recovery need not start at the first event.

use std::fmt::Debug;

use jiff::Timestamp;

use crate::BoxFuture;
use crate::error::Error;
use crate::id::PersistenceId;
use crate::payload::SerializedPayload;
use crate::sequence::SequenceNr;

/// The state of an entity right after one of its events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Whose state it is.
    pub persistence_id: PersistenceId,
    /// The last event that is part of it.
    pub seq_nr: SequenceNr,
    /// When it was taken, by the application's clock; stored in whole milliseconds.
    pub write_timestamp: Timestamp,
    /// The encoded state.
    pub payload: SerializedPayload,
    /// Metadata beside the state, such as that of replication.
    pub metadata: Option<SerializedPayload>,
}

/// Which snapshot is meant; the default is any.
///
/// As only one is kept per id, a criterion that excludes it finds none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotCriteria {
    /// The lowest number.
    pub min_seq_nr: SequenceNr,
    /// The highest number.
    pub max_seq_nr: SequenceNr,
    /// Not taken before this time.
    pub min_timestamp: Option<Timestamp>,
    /// Not taken after this time.
    pub max_timestamp: Option<Timestamp>,
}

impl SnapshotCriteria {
    /// Any snapshot.
    pub const ANY: Self = Self {
        min_seq_nr: SequenceNr::ZERO,
        max_seq_nr: SequenceNr::MAX,
        min_timestamp: None,
        max_timestamp: None,
    };

    /// Whether a snapshot with this number and time, in whole milliseconds, is meant.
    pub fn matches(&self, seq_nr: SequenceNr, write_timestamp: Timestamp) -> bool {
        let millis = write_timestamp.as_millisecond();
        self.min_seq_nr <= seq_nr
            && seq_nr <= self.max_seq_nr
            && self
                .min_timestamp
                .is_none_or(|min| min.as_millisecond() <= millis)
            && self
                .max_timestamp
                .is_none_or(|max| millis <= max.as_millisecond())
    }
}

impl Default for SnapshotCriteria {
    fn default() -> Self {
        Self::ANY
    }
}

/// Stores the latest snapshot of each entity.
pub trait SnapshotStore: Debug + Send + Sync + 'static {
    /// The snapshot of an id, if there is one that `criteria` means.
    ///
    /// # Errors
    /// [`Error::Unavailable`], and [`Error::Corrupt`] for a row that is no snapshot.
    ///
    /// # Cancel safety
    /// Cancel safe.
    fn load<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        criteria: SnapshotCriteria,
    ) -> BoxFuture<'a, Result<Option<Snapshot>, Error>>;

    /// Stores a snapshot in place of the id's older one, or of one with the same number.
    ///
    /// A snapshot with a higher number that is there already stays, and the call succeeds: it
    /// says more than the one that was to be stored.
    ///
    /// # Errors
    /// [`Error::Rejected`] and [`Error::Unavailable`]; asking again is safe.
    ///
    /// # Cancel safety
    /// Not cancel safe: dropping the future leaves open whether the snapshot is stored.
    ///
    /// Source: Pekko `SnapshotDao.store`, which has no condition on the number.
    fn save<'a>(&'a self, snapshot: &'a Snapshot) -> BoxFuture<'a, Result<(), Error>>;

    /// Deletes the snapshot of an id if `criteria` means it.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; asking again is safe.
    ///
    /// # Cancel safety
    /// Not cancel safe: dropping the future leaves open whether the snapshot is gone.
    fn delete<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        criteria: SnapshotCriteria,
    ) -> BoxFuture<'a, Result<(), Error>>;
}
