//! How an entity is brought back: what is asked of the stores, how a driver answers it, and how
//! the events of a page are applied.

use std::sync::Arc;
use std::time::Duration;

use perennial_persistence::{
    Error, FILTERED_PAYLOAD_ID, Journal, PageLimit, PersistenceId, ReplayPage, SequenceNr,
    Snapshot, SnapshotCriteria, Store, StoredEvent, StoredReply, Timestamp,
};

use crate::engine::CellKey;
use crate::engine::breaker::Call;
use crate::engine::core::{CellTimer, Core, TimerKey};
use crate::error::chain;
use crate::event_sourced::{EntityDef, EventSourced};

/// A part of an entity's history that a cell wants.
#[derive(Debug, Clone)]
pub struct ReadRequest {
    pub(crate) key: CellKey,
    pub(crate) persistence_id: PersistenceId,
    pub(crate) part: Part,
    pub(crate) limit: PageLimit,
    /// The breaker that watches the call, and the call's name there.
    pub(crate) breaker: usize,
    pub(crate) call: Call,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    /// The snapshot that fits, if one is wanted, and the first page of events after it, or from
    /// `from` on.
    Start {
        snapshot: Option<SnapshotCriteria>,
        from: SequenceNr,
    },
    /// The last event and nothing else.
    Last,
    /// Only the number of the last event.
    Highest,
    /// A page of events.
    Page { from: SequenceNr },
    /// No events, but the latest replies to commands with ids.
    Replies { limit: usize },
}

/// What was read.
#[derive(Debug)]
pub struct PageRead {
    /// The snapshot, if it was asked for and is there.
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) page: ReplayPage,
    /// The replies, if they were asked for.
    pub(crate) replies: Vec<StoredReply>,
}

/// The answer to a [`ReadRequest`].
#[derive(Debug)]
pub struct ReadDone {
    pub(crate) request: ReadRequest,
    pub(crate) result: Result<PageRead, Error>,
}

impl ReadDone {
    /// Whether an entity recovers with it.
    pub fn is_of_recovery(&self) -> bool {
        self.request.is_of_recovery()
    }

    /// Whose history it is.
    pub fn persistence_id(&self) -> &PersistenceId {
        self.request.persistence_id()
    }
}

impl ReadRequest {
    /// The index of the entity type.
    pub fn host(&self) -> usize {
        self.key.host
    }

    /// Whether an entity recovers with it. One that has recovered may ask for the replies to
    /// commands with ids.
    pub fn is_of_recovery(&self) -> bool {
        !matches!(self.part, Part::Replies { .. })
    }

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
        let journal = store.journal();
        let id = &self.persistence_id;
        let (snapshot, from) = match self.part {
            Part::Last => {
                return Ok(PageRead {
                    snapshot: None,
                    page: self.last(&*journal).await?,
                    replies: Vec::new(),
                });
            }
            Part::Page { from } => (None, from),
            Part::Start {
                snapshot: None,
                from,
            } => (None, from),
            Part::Start {
                snapshot: Some(criteria),
                from,
            } => {
                let snapshot = store.snapshot_store().load(id, criteria).await?;
                let from = snapshot.as_ref().map_or(from, |found| found.seq_nr.next());
                (snapshot, from)
            }
            Part::Highest => {
                let page = ReplayPage {
                    events: Vec::new(),
                    highest: journal.highest_sequence_nr(id, SequenceNr::ZERO).await?,
                    highest_timestamp: None,
                    more: false,
                };
                return Ok(PageRead {
                    snapshot: None,
                    page,
                    replies: Vec::new(),
                });
            }
            Part::Replies { limit } => {
                return Ok(PageRead {
                    snapshot: None,
                    page: ReplayPage {
                        events: Vec::new(),
                        highest: SequenceNr::ZERO,
                        highest_timestamp: None,
                        more: false,
                    },
                    replies: store.command_replies().load(id, limit).await?,
                });
            }
        };
        let mut page = journal
            .replay_events(id, from, SequenceNr::MAX, self.limit)
            .await?;
        // Numbering goes on after events that were not asked for.
        let nothing_else_read = matches!(self.part, Part::Start { snapshot: None, .. });
        if nothing_else_read && from > SequenceNr::FIRST && page.highest == SequenceNr::ZERO {
            page.highest = journal.highest_sequence_nr(id, SequenceNr::ZERO).await?;
        }
        Ok(PageRead {
            snapshot,
            page,
            replies: Vec::new(),
        })
    }

    /// A page with the last event alone; without one if that was deleted.
    async fn last(&self, journal: &dyn Journal) -> Result<ReplayPage, Error> {
        let id = &self.persistence_id;
        let mut last = ReplayPage {
            events: Vec::new(),
            highest: journal.highest_sequence_nr(id, SequenceNr::ZERO).await?,
            highest_timestamp: None,
            more: false,
        };
        let mut from = last.highest;
        while from > SequenceNr::ZERO {
            let page = journal
                .replay_events(id, from, SequenceNr::MAX, self.limit)
                .await?;
            // Others may have stored events since, or deleted what was the last one.
            from = if page.more {
                page.highest.next()
            } else {
                SequenceNr::ZERO
            };
            if page.highest > SequenceNr::ZERO {
                last = page;
            }
        }
        last.events = last.events.pop().into_iter().collect();
        last.more = false;
        Ok(last)
    }
}

/// What is thought of numbers that are missing.
///
/// Events may be deleted while they are read, by what an earlier incarnation or another system has
/// begun; a snapshot that stands for them was saved before. So at the first gap everything is read
/// anew. If there is no other snapshot then, the gap was there before: other programs leave such.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Gaps {
    /// They are what they are.
    #[default]
    Accepted,
    /// At the first one the recovery begins anew.
    Suspected,
    /// As `Suspected`, unless the recovery begins with the same snapshot as the one before.
    SuspectedUnlessFrom(Option<SequenceNr>),
}

/// Why the events of a page were not all applied.
#[derive(Debug)]
pub(super) enum Stopped {
    /// Numbers are missing that may stand in a snapshot by now.
    Gap,
    /// An event cannot be decoded or applied, or is where it cannot be.
    Failed(Arc<str>),
}

impl From<String> for Stopped {
    fn from(reason: String) -> Self {
        Self::Failed(reason.into())
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
    /// The number of the snapshot that was there, whether it could be decoded or not.
    pub(super) found: Option<SequenceNr>,
    /// The number of the snapshot that it began with.
    pub(super) snapshot: Option<SequenceNr>,
    /// Whether numbers may be missing: nobody deletes events for a snapshot that is not there yet.
    pub(super) gaps: Gaps,
    /// The store to be asked.
    store: usize,
    /// How long the store may take to answer.
    patience: Duration,
    /// When it must have answered what it was asked last.
    timeout: Option<TimerKey>,
}

impl Recovering {
    /// A recovery from a store that waits `patience` for each of its answers.
    pub(super) fn new(store: usize, patience: Duration, gaps: Gaps) -> Self {
        Self {
            store,
            patience,
            gaps,
            ..Self::default()
        }
    }

    /// Asks the store for a part of the history, at once or when it is said to be back.
    pub(super) fn ask(&mut self, core: &mut Core, key: CellKey, id: &PersistenceId, part: Part) {
        if !core.read(self.store, key, id, part) {
            self.ask_again = Some(part);
            return;
        }
        self.timeout = Some(core.start_cell_timer(self.patience, key, CellTimer::RecoveryTimeout));
    }

    /// The store has answered, or its answer is not waited for any more.
    pub(super) fn wait_no_more(&mut self, core: &mut Core) {
        if let Some(timeout) = self.timeout.take() {
            core.cancel_timer(timeout);
        }
    }

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
            self.ask(core, key, id, Part::Page { from });
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
    ) -> Result<(), Stopped> {
        for stored in self.events.by_ref().take(count) {
            if stored.seq_nr <= *seq_nr {
                return Err(format!(
                    "sequence number {} follows {seq_nr}, the order of the journal is broken",
                    stored.seq_nr
                )
                .into());
            }
            if stored.seq_nr != seq_nr.next() {
                if let Some((covered, reason)) = &self.skipped
                    && *seq_nr < *covered
                {
                    return Err(Stopped::Failed(events_gone(*covered, reason)));
                }
                if self.gaps != Gaps::Accepted {
                    return Err(Stopped::Gap);
                }
            }
            // From here on it is this event that fails.
            *seq_nr = SequenceNr::new(stored.seq_nr.value() - 1).unwrap_or(*seq_nr);
            let metadata = stored.metadata.as_ref();
            if stored.payload.serializer_id == FILTERED_PAYLOAD_ID {
                *seq_nr = stored.seq_nr;
                continue;
            }
            entity
                .event_codec
                .decode_each(&stored.payload, &mut |event| {
                    state.apply_with_metadata(&event, metadata);
                })
                .map_err(|error| Stopped::Failed(chain(&error)))?;
            *seq_nr = stored.seq_nr;
            self.replayed += 1;
        }
        Ok(())
    }

    /// The page is applied; its highest row may be the marker of deleted events.
    pub(super) fn end_page(
        &mut self,
        seq_nr: &mut SequenceNr,
    ) -> Result<(), (SequenceNr, Stopped)> {
        let reached = (*seq_nr).max(self.highest);
        if let Some((covered, reason)) = &self.skipped {
            let gap = reached != *seq_nr && *seq_nr < *covered;
            let short = !self.more && *seq_nr < *covered;
            if gap || short {
                return Err((*covered, Stopped::Failed(events_gone(*covered, reason))));
            }
        }
        if reached != *seq_nr && self.gaps != Gaps::Accepted {
            return Err((reached, Stopped::Gap));
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
