//! Cleaning up: deleting what a store keeps of entities that are not in memory.
//!
//! ```
//! use std::sync::Arc;
//!
//! use perennial_core::cleanup::{Cleanup, CleanupTask};
//! use perennial_persistence::PersistenceId;
//! use perennial_testkit::MemoryStore;
//!
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! // A running system gives one that looks after its own entities: `system.cleanup()`.
//! let cleanup = Cleanup::of_store(Arc::new(MemoryStore::default()));
//! let ids = ["1", "2", "3"].map(|id| PersistenceId::new("Cart", id).expect("short ids"));
//!
//! let planned = cleanup.clone().dry_run().run(CleanupTask::Everything, ids.clone()).await?;
//! assert_eq!(planned.ids, 3);
//! let done = cleanup
//!     .on_progress(|step| println!("{step:?}"))
//!     .run(CleanupTask::Everything, ids)
//!     .await?;
//! assert_eq!(done.rows, 0, "there was nothing");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use perennial_persistence::{
    Error, InvalidWrite, Journal, PageLimit, PersistenceId, SequenceNr, SnapshotCriteria,
    StateChange, StateWrite, Store,
};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::engine::{Hold, HoldRefused, Input, Registry};

/// What is to be deleted of each id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CleanupTask {
    /// The events up to a number, included, or up to the last one if that is lower. Numbering goes
    /// on after it. What no snapshot has of these events is lost to the entity.
    EventsUpTo(SequenceNr),
    /// The events that the snapshot stands for: up to and including its number. An id without a
    /// snapshot is left as it is.
    EventsBeforeSnapshot,
    /// The snapshot. Refused if events are gone that it stands for.
    Snapshot,
    /// All events, the snapshot and the reminders. A marker keeps the number, so that readers of the
    /// journal are not confused by an entity that begins anew.
    Everything,
    /// All events, the snapshot and the reminders, without a marker: an entity of this id begins with number 1
    /// again. Projections that have read its events will not take the new ones. Only for ids that
    /// are not used again, or that nobody has read.
    Reset,
    /// The durable state, and the replies to commands with ids. A marker keeps the revision; a store
    /// with `durable-state-delete = "row"` keeps none. Its change events stay, if it has any, and
    /// none tells of this deletion: readers of the journal wait for the number that is missing if
    /// the id is used again. Delete such a state by a command.
    State,
    /// The durable state's row, the events of its id and the replies to commands with ids: an entity
    /// of this id begins with revision 1 again. Projections that have read its change events will
    /// not take the new ones.
    ResetState,
}

/// What is told of a clean-up while it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CleanupStep {
    /// Rows are gone, or would be: a batch of them.
    Deleted {
        /// Whose they were.
        persistence_id: PersistenceId,
        /// What was deleted.
        what: Kept,
        /// Up to this sequence number or revision.
        to: SequenceNr,
        /// How many rows. In a dry run the most that there can be.
        rows: u64,
    },
    /// Everything that was to be done about an id is done.
    Done {
        /// Which id.
        persistence_id: PersistenceId,
        /// How many rows are gone.
        rows: u64,
    },
    /// Something could not be done about an id.
    Failed(CleanupError),
}

/// What a store keeps of an entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kept {
    /// Events and the markers of deleted ones.
    Events,
    /// The snapshot.
    Snapshot,
    /// The durable state.
    State,
}

/// What was done in all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CleanupReport {
    /// Ids that are done.
    pub ids: u64,
    /// Rows that are gone; where a marker is left, with the row that it replaces. In a dry run the
    /// most that there can be.
    pub rows: u64,
    /// Ids that failed.
    pub failed: u64,
    /// The first hundred of these failures; all are told as [`CleanupStep::Failed`].
    pub errors: Vec<CleanupError>,
}

/// Why an id was not cleaned up. What was deleted before stays deleted; asking again is safe.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CleanupError {
    /// The entity is in memory of this system.
    #[error(
        "{persistence_id} is in memory, so nothing of it was deleted; stop it or wait until it has \
         left, and try again"
    )]
    Resident {
        /// Which id.
        persistence_id: PersistenceId,
    },
    /// Another clean-up of this system is at work on it.
    #[error("{persistence_id} is being cleaned up already; try again when that has ended")]
    InUse {
        /// Which id.
        persistence_id: PersistenceId,
    },
    /// The snapshot stands for events that are gone.
    #[error(
        "the snapshot of {persistence_id} at {seq_nr} was not deleted, because events that it \
         stands for are gone; delete everything of the id, or nothing"
    )]
    SnapshotNeeded {
        /// Which id.
        persistence_id: PersistenceId,
        /// The snapshot's number.
        seq_nr: SequenceNr,
    },
    /// The store did not do it.
    #[error("{persistence_id} was not cleaned up to its end: {error}")]
    Store {
        /// Which id.
        persistence_id: PersistenceId,
        /// What the store says.
        #[source]
        error: Error,
    },
    /// The system has stopped.
    #[error("{persistence_id} was not cleaned up, because the actor system has stopped")]
    Stopped {
        /// Which id.
        persistence_id: PersistenceId,
    },
}

impl CleanupError {
    /// Which id it was.
    pub fn persistence_id(&self) -> &PersistenceId {
        match self {
            Self::Resident { persistence_id }
            | Self::InUse { persistence_id }
            | Self::SnapshotNeeded { persistence_id, .. }
            | Self::Store { persistence_id, .. }
            | Self::Stopped { persistence_id } => persistence_id,
        }
    }
}

/// Two failures are equal if they say the same.
impl PartialEq for CleanupError {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for CleanupError {}

/// A run ended at its first failure.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{error} ({} ids were done before)", report.ids)]
pub struct CleanupStopped {
    /// The failure.
    #[source]
    pub error: CleanupError,
    /// What was done before.
    pub report: CleanupReport,
}

/// Deletes what a store keeps of entities, in batches of rows, each in a transaction of its own.
///
/// Nobody may use an id while it is cleaned up. One of a running system sees to that for its own
/// entities: it refuses ids that are in memory, and keeps those that it works on from coming back;
/// commands for them are refused as `Busy`. Other processes on the same database are not seen.
#[derive(Clone)]
#[must_use = "nothing is deleted before `run`"]
pub struct Cleanup {
    place: Place,
    batch: usize,
    dry_run: bool,
    goes_on: bool,
    progress: Option<Progress>,
}

type Progress = Arc<dyn Fn(CleanupStep) + Send + Sync>;

#[derive(Clone)]
enum Place {
    Store(Arc<dyn Store>),
    System(Arc<SystemPlace>),
}

/// What a clean-up reaches of a running system.
pub(crate) struct SystemPlace {
    pub(crate) registry: Arc<Registry>,
    /// The system's own store first.
    pub(crate) stores: Vec<Arc<dyn Store>>,
    /// Which of them keeps each entity type.
    pub(crate) kept_in: Vec<(&'static str, usize)>,
    /// Where database futures run.
    pub(crate) persistence: Handle,
}

impl Cleanup {
    /// Works on a store that is open, while no system uses the ids.
    pub fn of_store(store: Arc<dyn Store>) -> Self {
        Self::at(Place::Store(store))
    }

    pub(crate) fn of_system(place: SystemPlace) -> Self {
        Self::at(Place::System(Arc::new(place)))
    }

    fn at(place: Place) -> Self {
        Self {
            place,
            batch: 1000,
            dry_run: false,
            goes_on: false,
            progress: None,
        }
    }

    /// Deletes this many rows in one transaction; 1,000 by default, at least 1.
    pub fn batch(mut self, rows: usize) -> Self {
        self.batch = rows.max(1);
        self
    }

    /// Looks what would be deleted, and deletes nothing.
    pub fn dry_run(mut self) -> Self {
        self.dry_run = true;
        self
    }

    /// Goes on with the next id after a failure, instead of stopping there.
    pub fn go_on_after_failures(mut self) -> Self {
        self.goes_on = true;
        self
    }

    /// Tells `progress` of each batch and each id. It must not block.
    pub fn on_progress(mut self, progress: impl Fn(CleanupStep) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(progress));
        self
    }

    /// Cleans up `ids`, one after another. They are drawn from the iterator as they are needed, so
    /// there may be any number of them.
    ///
    /// # Errors
    /// [`CleanupStopped`] at the first failure, unless it is to go on after failures; the report
    /// tells of them then.
    ///
    /// # Cancel safety
    /// Dropping the future is safe: on a running system the id that is being worked on is finished
    /// in the background. On a bare store it may be left in the middle; asking again is safe.
    pub async fn run(
        &self,
        task: CleanupTask,
        ids: impl IntoIterator<Item = PersistenceId>,
    ) -> Result<CleanupReport, CleanupStopped> {
        let mut report = CleanupReport::default();
        for id in ids {
            match self.one(task, id.clone()).await {
                Ok(rows) => {
                    report.ids += 1;
                    report.rows += rows;
                    let persistence_id = id;
                    self.tell(CleanupStep::Done {
                        persistence_id,
                        rows,
                    });
                }
                Err(error) => {
                    const KEPT: usize = 100;
                    report.failed += 1;
                    self.tell(CleanupStep::Failed(error.clone()));
                    if !self.goes_on {
                        return Err(CleanupStopped { error, report });
                    }
                    if report.errors.len() < KEPT {
                        report.errors.push(error);
                    }
                }
            }
        }
        Ok(report)
    }

    /// Cleans up one id, and gives how many rows are gone.
    async fn one(&self, task: CleanupTask, id: PersistenceId) -> Result<u64, CleanupError> {
        let place = match &self.place {
            Place::Store(store) => return self.clean(&**store, task, &id).await,
            Place::System(place) => Arc::clone(place),
        };
        let stopped = CleanupError::Stopped {
            persistence_id: id.clone(),
        };
        let store = Arc::clone(place.store_of(&id));
        let this = self.clone();
        // A task of its own, so that the id is held until the store has answered.
        let work = place.persistence.clone().spawn(async move {
            let _held = Held::take(&place.registry, &id).await?;
            this.clean(&*store, task, &id).await
        });
        work.await.unwrap_or(Err(stopped))
    }

    async fn clean(
        &self,
        store: &dyn Store,
        task: CleanupTask,
        id: &PersistenceId,
    ) -> Result<u64, CleanupError> {
        let done = match task {
            CleanupTask::EventsUpTo(to) => self.events(store, id, to, false).await,
            CleanupTask::EventsBeforeSnapshot => match self.snapshot_of(store, id).await {
                Ok(Some(to)) => self.events(store, id, to, false).await,
                Ok(None) => Ok(0),
                Err(error) => Err(error),
            },
            CleanupTask::Snapshot => return self.snapshot_alone(store, id).await,
            // The snapshot goes last: with it an entity that is met half-way is still whole.
            CleanupTask::Everything => self.all(store, id, false).await,
            CleanupTask::Reset => self.all(store, id, true).await,
            CleanupTask::State => self.state(store, id, false).await,
            CleanupTask::ResetState => self.state(store, id, true).await,
        };
        done.map_err(|error| failed(id, error))
    }

    async fn all(&self, store: &dyn Store, id: &PersistenceId, reset: bool) -> Result<u64, Error> {
        let events = self.events(store, id, SequenceNr::MAX, reset).await?;
        let snapshots = self.snapshot(store, id).await?;
        self.replies(store, id).await?;
        self.reminders(store, id).await?;
        Ok(events + snapshots)
    }

    /// Deletes the reminders of an id: one of them would bring it back.
    async fn reminders(&self, store: &dyn Store, id: &PersistenceId) -> Result<(), Error> {
        let reminders = store.reminders();
        while !self.dry_run && reminders.remove(id, self.batch).await? > 0 {}
        Ok(())
    }

    /// Deletes the replies to commands with ids: a command that is sent again after everything else
    /// is gone is one that was never seen.
    async fn replies(&self, store: &dyn Store, id: &PersistenceId) -> Result<(), Error> {
        let replies = store.command_replies();
        let all = SequenceNr::MAX;
        while !self.dry_run && replies.delete_up_to(id, all, self.batch).await? > 0 {}
        Ok(())
    }

    /// Deletes events up to a number, with a marker unless nothing is to be left.
    async fn events(
        &self,
        store: &dyn Store,
        id: &PersistenceId,
        to: SequenceNr,
        reset: bool,
    ) -> Result<u64, Error> {
        let journal = store.journal();
        let highest = journal.highest_sequence_nr(id, SequenceNr::ZERO).await?;
        let (lowest, is_marker) = self.lowest(store, id, SequenceNr::ZERO).await?;
        // No number is skipped, however high the one that was asked for.
        let to = to.min(highest);
        let Some(lowest) = lowest.filter(|&lowest| lowest <= to) else {
            return Ok(0);
        };
        if !reset && is_marker && lowest == to {
            // It was done before.
            return Ok(0);
        }
        if self.dry_run {
            let rows = to.value() - lowest.value() + 1;
            self.deleted(id, Kept::Events, to, rows);
            return Ok(rows);
        }
        if reset {
            return self.remove(&*journal, id, to).await;
        }
        // Each batch leaves a marker: without one a stale writer could store events in the place of
        // those that are gone, and the highest number would be forgotten if this ends half-way.
        let batch = u64::try_from(self.batch).unwrap_or(u64::MAX);
        let (mut from, mut rows) = (lowest, 0);
        loop {
            let end = from.value().saturating_add(batch - 1).min(to.value());
            let end = SequenceNr::new(end).unwrap_or(to);
            journal.delete_events(id, end).await?;
            let deleted = end.value() - from.value() + 1;
            rows += deleted;
            self.deleted(id, Kept::Events, end, deleted);
            if end == to {
                return Ok(rows);
            }
            // Numbers that nobody has are passed over, however many they are.
            from = match self.lowest(store, id, end.next()).await?.0 {
                Some(next) => next.min(to),
                None => to,
            };
        }
    }

    /// Deletes events up to a number and leaves nothing.
    async fn remove(
        &self,
        journal: &dyn Journal,
        id: &PersistenceId,
        to: SequenceNr,
    ) -> Result<u64, Error> {
        let mut rows = 0;
        loop {
            let removed = journal.remove_events(id, to, self.batch).await?;
            if removed > 0 {
                rows += removed as u64;
                self.deleted(id, Kept::Events, to, removed as u64);
            }
            if removed < self.batch {
                return Ok(rows);
            }
        }
    }

    /// The number of an id's first row from a number on, and whether it is a marker.
    async fn lowest(
        &self,
        store: &dyn Store,
        id: &PersistenceId,
        from: SequenceNr,
    ) -> Result<(Option<SequenceNr>, bool), Error> {
        let first = PageLimit { rows: 1, bytes: 0 };
        let journal = store.journal();
        let page = journal
            .replay_events(id, from, SequenceNr::MAX, first)
            .await?;
        let is_there = page.highest_timestamp.is_some();
        Ok((is_there.then_some(page.highest), page.events.is_empty()))
    }

    async fn snapshot_of(
        &self,
        store: &dyn Store,
        id: &PersistenceId,
    ) -> Result<Option<SequenceNr>, Error> {
        let snapshots = store.snapshot_store();
        let snapshot = snapshots.load(id, SnapshotCriteria::ANY).await?;
        Ok(snapshot.map(|snapshot| snapshot.seq_nr))
    }

    async fn snapshot_alone(
        &self,
        store: &dyn Store,
        id: &PersistenceId,
    ) -> Result<u64, CleanupError> {
        let failed = |error| failed(id, error);
        let Some(seq_nr) = self.snapshot_of(store, id).await.map_err(failed)? else {
            return Ok(0);
        };
        let (lowest, is_marker) = self
            .lowest(store, id, SequenceNr::ZERO)
            .await
            .map_err(failed)?;
        if is_marker || lowest != Some(SequenceNr::FIRST) {
            return Err(CleanupError::SnapshotNeeded {
                persistence_id: id.clone(),
                seq_nr,
            });
        }
        self.snapshot(store, id).await.map_err(failed)
    }

    async fn snapshot(&self, store: &dyn Store, id: &PersistenceId) -> Result<u64, Error> {
        let Some(seq_nr) = self.snapshot_of(store, id).await? else {
            return Ok(0);
        };
        if !self.dry_run {
            let snapshots = store.snapshot_store();
            snapshots.delete(id, SnapshotCriteria::ANY).await?;
        }
        self.deleted(id, Kept::Snapshot, seq_nr, 1);
        Ok(1)
    }

    async fn state(
        &self,
        store: &dyn Store,
        id: &PersistenceId,
        reset: bool,
    ) -> Result<u64, Error> {
        let states = store.durable_state_store();
        // An id without a row may be that of an entity which keeps events.
        let Some(row) = states.load(id).await? else {
            return Ok(0);
        };
        if row.payload.is_none() && !reset {
            // It was done before, but for the replies perhaps.
            self.replies(store, id).await?;
            return Ok(0);
        }
        let events = if reset {
            // The numbers of its change events begin anew with the revisions.
            self.events(store, id, SequenceNr::MAX, true).await?
        } else {
            0
        };
        if !self.dry_run {
            if reset {
                // The row goes last, as by it the rest is found again if this breaks off.
                self.replies(store, id).await?;
                states.remove(id).await?;
            } else {
                let revision = row.revision;
                let delete = StateChange::Delete;
                let write = StateWrite::new(id.clone(), revision, revision.next(), delete);
                let write = write.map_err(|error| no_revision_left(id, &error))?;
                for answer in states.write_states(&[write]).await {
                    answer?;
                }
                self.replies(store, id).await?;
            }
        }
        self.deleted(id, Kept::State, row.revision, 1);
        Ok(events + 1)
    }

    fn deleted(&self, id: &PersistenceId, what: Kept, to: SequenceNr, rows: u64) {
        let persistence_id = id.clone();
        self.tell(CleanupStep::Deleted {
            persistence_id,
            what,
            to,
            rows,
        });
    }

    fn tell(&self, step: CleanupStep) {
        if let Some(progress) = &self.progress {
            progress(step);
        }
    }
}

fn failed(id: &PersistenceId, error: Error) -> CleanupError {
    CleanupError::Store {
        persistence_id: id.clone(),
        error,
    }
}

fn no_revision_left(id: &PersistenceId, error: &InvalidWrite) -> Error {
    Error::Rejected {
        persistence_id: id.clone(),
        reason: error.to_string(),
        source: None,
    }
}

impl fmt::Debug for Cleanup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cleanup")
            .field("batch", &self.batch)
            .field("dry_run", &self.dry_run)
            .field("goes_on", &self.goes_on)
            .finish_non_exhaustive()
    }
}

impl SystemPlace {
    fn store_of(&self, id: &PersistenceId) -> &Arc<dyn Store> {
        let kept = self.kept_in.iter();
        let at = kept
            .filter(|(name, _)| *name == id.entity_type())
            .map(|(_, at)| *at)
            .next();
        &self.stores[at.unwrap_or(0)]
    }
}

/// An id that is kept out of memory by every worker where it might come in.
struct Held {
    registry: Arc<Registry>,
    id: PersistenceId,
    workers: BTreeSet<usize>,
}

impl Held {
    async fn take(registry: &Arc<Registry>, id: &PersistenceId) -> Result<Self, CleanupError> {
        let mut held = Self {
            registry: Arc::clone(registry),
            id: id.clone(),
            workers: BTreeSet::new(),
        };
        // A slice may go to another worker meanwhile, but not from one that keeps the id out.
        while let Some(worker) = held.next_worker() {
            held.take_at(worker).await?;
        }
        Ok(held)
    }

    /// A worker where it might still come in.
    fn next_worker(&self) -> Option<usize> {
        let mut homes = self.registry.homes_of(&self.id).into_iter();
        homes.find(|worker| !self.workers.contains(worker))
    }

    async fn take_at(&mut self, worker: usize) -> Result<(), CleanupError> {
        let persistence_id = self.id.clone();
        let (answer, answered) = oneshot::channel();
        let hold = Input::Hold(Box::new(Hold {
            persistence_id: self.id.clone(),
            registry: Arc::clone(&self.registry),
            answer,
        }));
        let sent = self.registry.post(worker, hold);
        match answered.await {
            Ok(Ok(())) => {
                self.workers.insert(worker);
                Ok(())
            }
            Ok(Err(HoldRefused::Resident)) => Err(CleanupError::Resident { persistence_id }),
            Ok(Err(HoldRefused::Held)) => Err(CleanupError::InUse { persistence_id }),
            Err(_) => {
                tracing::debug!(%persistence_id, sent, "its worker has ended");
                Err(CleanupError::Stopped { persistence_id })
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // A worker that has ended holds nothing.
        for worker in &self.workers {
            let let_go = Input::LetGo(self.id.clone());
            self.registry.post(*worker, let_go);
        }
    }
}
