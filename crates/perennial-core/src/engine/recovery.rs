//! How an entity is brought back: what is asked of the stores, how a driver answers it, and how
//! the events of a page are applied.

use std::sync::Arc;

use perennial_persistence::{
    Error, PageLimit, PersistenceId, ReplayPage, SequenceNr, Snapshot, SnapshotCriteria, Store,
    StoredEvent, Timestamp,
};

use crate::engine::CellKey;
use crate::engine::core::Core;
use crate::error::chain;
use crate::event_sourced::{EntityDef, EventSourced};

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

/// How far recovery has come.
#[derive(Default)]
pub(super) struct Recovering {
    /// Whether a page is being applied.
    pub(super) applying: bool,
    /// What is left of the page.
    pub(super) events: std::vec::IntoIter<StoredEvent>,
    /// The highest row of the page, and its time.
    pub(super) highest: SequenceNr,
    pub(super) highest_timestamp: Option<Timestamp>,
    /// Whether more pages follow; the next one is being read then, or has been.
    pub(super) more: bool,
    /// The page after the present one, if it has come already.
    pub(super) next: Option<ReplayPage>,
    pub(super) replayed: u64,
    /// A snapshot that could not be decoded, and why: the events it covers have to be there.
    pub(super) skipped: Option<(SequenceNr, Arc<str>)>,
    /// Failures to read in a row.
    pub(super) failures: u32,
    /// What to ask for again.
    pub(super) ask_again: Option<Part>,
}

impl Recovering {
    /// Whether events can be applied right now.
    pub(super) fn has_work(&self) -> bool {
        self.applying || self.next.is_some()
    }

    /// A page has come: it is applied at once, or after the present one.
    pub(super) fn take_page(
        &mut self,
        core: &mut Core,
        key: CellKey,
        id: &PersistenceId,
        page: ReplayPage,
    ) {
        self.next = Some(page);
        if !self.applying {
            self.begin_next_page(core, key, id);
        }
    }

    /// Begins with the page that has come, and asks for the one after it; `false` if none has.
    pub(super) fn begin_next_page(
        &mut self,
        core: &mut Core,
        key: CellKey,
        id: &PersistenceId,
    ) -> bool {
        let Some(page) = self.next.take() else {
            return false;
        };
        self.applying = true;
        self.highest = page.highest;
        self.highest_timestamp = page.highest_timestamp;
        self.more = page.more;
        self.events = page.events.into_iter();
        if self.more {
            let from = self.highest.next();
            core.read(key, id, Part::Page { from });
        }
        true
    }

    /// Applies up to `count` events.
    pub(super) fn apply<E: EventSourced>(
        &mut self,
        count: usize,
        entity: &EntityDef<E>,
        state: &mut E,
        seq_nr: &mut SequenceNr,
    ) -> Result<(), Arc<str>> {
        for stored in self.events.by_ref().take(count) {
            if stored.seq_nr <= *seq_nr {
                return Err(format!(
                    "sequence number {} follows {seq_nr}, the order of the journal is broken",
                    stored.seq_nr
                )
                .into());
            }
            if let Some((covered, reason)) = &self.skipped
                && *seq_nr < *covered
                && stored.seq_nr != seq_nr.next()
            {
                return Err(events_gone(*covered, reason));
            }
            // From here on it is this event that fails.
            *seq_nr = SequenceNr::new(stored.seq_nr.value() - 1).unwrap_or(*seq_nr);
            entity
                .event_codec
                .decode_each(&stored.payload, &mut |event| state.apply(&event))
                .map_err(|error| chain(&error))?;
            *seq_nr = stored.seq_nr;
            self.replayed += 1;
        }
        Ok(())
    }

    /// The page is applied; its highest row may be the marker of deleted events.
    pub(super) fn end_page(
        &mut self,
        seq_nr: &mut SequenceNr,
    ) -> Result<(), (SequenceNr, Arc<str>)> {
        let reached = (*seq_nr).max(self.highest);
        if let Some((covered, reason)) = &self.skipped {
            let gap = reached != *seq_nr && *seq_nr < *covered;
            let short = !self.more && *seq_nr < *covered;
            if gap || short {
                return Err((*covered, events_gone(*covered, reason)));
            }
        }
        *seq_nr = reached;
        Ok(())
    }
}

fn events_gone(covered: SequenceNr, reason: &str) -> Arc<str> {
    format!(
        "the snapshot at {covered} cannot be decoded ({reason}), and events that it covers are gone"
    )
    .into()
}
