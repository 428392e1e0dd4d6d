//! What recovery asks of the stores, and how a driver answers it.

use perennial_persistence::{
    Error, PageLimit, PersistenceId, ReplayPage, SequenceNr, Snapshot, SnapshotCriteria, Store,
};

use crate::engine::CellKey;

/// A part of an entity's history that a cell wants.
#[derive(Debug, Clone)]
pub struct ReadRequest {
    pub(crate) key: CellKey,
    pub(crate) persistence_id: PersistenceId,
    pub(crate) part: Part,
    pub(crate) limit: PageLimit,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    /// The snapshot, if snapshots are of use to the entity, and the first page of events after it.
    Start { snapshot: bool },
    /// A page of events.
    Page { from: SequenceNr },
}

/// What was read.
#[derive(Debug)]
pub struct PageRead {
    /// The snapshot, if it was asked for and is there.
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) page: ReplayPage,
}

/// The answer to a [`ReadRequest`].
#[derive(Debug)]
pub struct ReadDone {
    pub(crate) request: ReadRequest,
    pub(crate) result: Result<PageRead, Error>,
}

impl ReadRequest {
    /// Whose history it is.
    pub fn persistence_id(&self) -> &PersistenceId {
        &self.persistence_id
    }

    /// Reads it.
    pub async fn read(self, store: &dyn Store) -> ReadDone {
        let result = self.try_read(store).await;
        ReadDone {
            request: self,
            result,
        }
    }

    /// The answer when reading failed before it reached the store.
    pub fn failed(self, error: Error) -> ReadDone {
        ReadDone {
            request: self,
            result: Err(error),
        }
    }

    async fn try_read(&self, store: &dyn Store) -> Result<PageRead, Error> {
        let snapshot = match self.part {
            Part::Start { snapshot: true } => {
                store
                    .snapshot_store()
                    .load(&self.persistence_id, SnapshotCriteria::ANY)
                    .await?
            }
            Part::Start { snapshot: false } | Part::Page { .. } => None,
        };
        let from = match (self.part, &snapshot) {
            (Part::Page { from }, _) => from,
            (Part::Start { .. }, Some(snapshot)) => snapshot.seq_nr.next(),
            (Part::Start { .. }, None) => SequenceNr::ZERO,
        };
        let page = store
            .journal()
            .replay_events(&self.persistence_id, from, SequenceNr::MAX, self.limit)
            .await?;
        Ok(PageRead { snapshot, page })
    }
}
