//! What an entity is told besides commands.

use perennial_persistence::SequenceNr;

use crate::error::{PersistFailed, RecoveryFailed};

/// What an entity is told besides commands, if its type was given [`Entity::on_signal`]. One that
/// stops or leaves memory is not told what ends after that.
///
/// Nothing tells of deleted snapshots, as there is one per entity, which the next one replaces.
///
/// [`Entity::on_signal`]: crate::Entity::on_signal
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Signal {
    /// The entity is back; no command was handled yet.
    RecoveryCompleted {
        /// The number of the snapshot that it began with.
        snapshot: Option<SequenceNr>,
        /// How many events were replayed after that.
        replayed: u64,
    },
    /// The entity could not be brought back. It will be tried again later; the state is the default
    /// one.
    RecoveryFailed(RecoveryFailed),
    /// The state after this event was saved.
    SnapshotCompleted {
        /// The event's number.
        seq_nr: SequenceNr,
    },
    /// The state after this event was not saved; the next snapshot that is due covers it.
    SnapshotFailed {
        /// The event's number.
        seq_nr: SequenceNr,
        /// What the store or the codec says.
        reason: String,
    },
    /// Events were deleted.
    EventsDeleted {
        /// Up to this number, included.
        to: SequenceNr,
    },
    /// Events were not deleted, or the store could not say so.
    EventsDeletionFailed {
        /// Up to this number, included.
        to: SequenceNr,
        /// What the store says.
        reason: String,
    },
    /// Events of a command were not stored, because another writer was there or the store was not
    /// available for too long; or it could not be found out for these reasons. Told after the entity has recovered from what is stored.
    PersistFailed(PersistFailed),
    /// The store refused events of a command. Told after the entity has recovered from what is
    /// stored; a refusal before the events were sent is only told to the caller.
    PersistRejected(PersistFailed),
}
