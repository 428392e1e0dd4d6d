//! What an entity is brought back from.

use perennial_persistence::{SequenceNr, SnapshotCriteria};

/// What an entity is brought back from when it starts.
///
/// Whatever is chosen, numbering goes on after the last event that the journal knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Recovery {
    /// From the snapshot, if snapshots are on and there is one, and the events after it.
    #[default]
    Latest,
    /// From the snapshot if it fits these criteria, and the events after it; otherwise from the
    /// first event that is left. Where events were deleted up to a snapshot that does not fit, the
    /// state lacks them.
    FromSnapshot(SnapshotCriteria),
    /// From the first event that is left, whatever snapshots there are. Where events were deleted,
    /// the state lacks them.
    WithoutSnapshot,
    /// From the event with this number; earlier ones are not applied. No snapshots are taken, as
    /// they would lack the earlier events.
    FromSequenceNr(SequenceNr),
    /// From the event with the highest number alone, for entities whose every event says the whole
    /// state: an entity with a million events starts as fast as one with ten. Earlier events and
    /// snapshots are not read, and no snapshots are taken. The state is the default one if that
    /// event was deleted, or filtered out on its way here.
    ///
    /// Source: Akka `Recovery.replayOnlyLast`.
    LastEvent,
    /// Nothing is applied: the entity starts with its default state. No snapshots are taken.
    Disabled,
}

impl Recovery {
    pub(crate) fn reads_snapshots(self) -> bool {
        matches!(self, Self::Latest | Self::FromSnapshot(_))
    }

    /// Whether the state is whole, so that a snapshot of it may stand for the events.
    pub(crate) fn is_whole(self) -> bool {
        !matches!(
            self,
            Self::FromSequenceNr(_) | Self::LastEvent | Self::Disabled
        )
    }
}
