//! A store in memory: every contract, for tests.

mod command_replies;
mod durable_state_store;
mod journal;
mod reminders;
mod snapshot_store;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perennial_persistence::{
    BoxFuture, Clock, CommandId, CommandReplyStore, DurableStateDelete, DurableStateStore, Error,
    Journal, NO_PAYLOAD_ID, NewEvent, PersistenceId, ReminderKey, ReminderStore, SequenceNr,
    SerializedPayload, Snapshot, SnapshotStore, Store, StoredReminder, StoredReply, StoredState,
    SystemClock, Timestamp, WriterId,
};

const MICROSECOND: Duration = Duration::from_micros(1);

/// A store whose database lives in memory, as long as any opening of it.
///
/// It behaves like the stores on disk and passes the same contract suites. A clone is the same
/// opened store. [`MemoryStore::open_again`] opens the same data a second time, as another process
/// would: closing one leaves the other open, and what a closed or dropped one has stored stays.
/// So a test can let a system crash, drop its store, and start the next one on the data.
///
/// Calls take effect when their future is polled first, all at once, in the order in which they
/// are polled: nothing in here depends on threads, chance or the machine's time unless the clock
/// does.
///
/// It is stricter than its contract in one point: a writer that uses a number again for other
/// content is rejected, since that is always a mistake of the writer.
///
/// ```
/// use std::sync::Arc;
/// use perennial_persistence::{
///     AtomicWrite, NewEvent, PersistenceId, SequenceNr, SerializedPayload, Store, WriterId,
/// };
/// use perennial_testkit::{ManualClock, MemoryStore};
///
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let store = MemoryStore::new(Arc::new(ManualClock::new()));
/// let id = PersistenceId::new("Cart", "a")?;
/// let event = NewEvent::new(SerializedPayload::new(77, "Added", &b"apple"[..]));
/// let writer = WriterId::from_random_bits(1);
/// let write = AtomicWrite::new(id.clone(), writer, SequenceNr::FIRST, vec![event])?;
/// store.journal().write_events(&[write]).await.remove(0)?;
///
/// let second = store.open_again();
/// drop(store);
/// assert_eq!(second.rows(&id).len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct MemoryStore {
    handle: Arc<Handle>,
}

/// A row of the journal as it stands in memory, for tests that look behind the contracts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalRow {
    /// Its number.
    pub seq_nr: SequenceNr,
    /// When it was stored.
    pub timestamp: Timestamp,
    /// The event and who wrote it; `None` for a delete marker.
    pub event: Option<(WriterId, NewEvent)>,
}

impl MemoryStore {
    /// Opens an empty database that takes its time from `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let database = Database {
            clock,
            tables: Mutex::default(),
        };
        Self::open(Arc::new(database), DurableStateDelete::default())
    }

    /// Opens the same data once more.
    #[must_use]
    pub fn open_again(&self) -> Self {
        let database = Arc::clone(&self.handle.database);
        Self::open(database, self.handle.durable_state_delete)
    }

    /// Opens the same data once more, with this effect of deleting a state.
    #[must_use]
    pub fn with_durable_state_delete(&self, durable_state_delete: DurableStateDelete) -> Self {
        Self::open(Arc::clone(&self.handle.database), durable_state_delete)
    }

    /// A database of its own that begins with what is stored here now.
    #[must_use]
    pub fn copy(&self) -> Self {
        let database = Arc::new(Database {
            clock: Arc::clone(&self.handle.database.clock),
            tables: Mutex::new(self.tables().clone()),
        });
        Self::open(database, self.handle.durable_state_delete)
    }

    fn open(database: Arc<Database>, durable_state_delete: DurableStateDelete) -> Self {
        Self {
            handle: Arc::new(Handle {
                database,
                durable_state_delete,
                closed: AtomicBool::new(false),
            }),
        }
    }

    /// From now on the database refuses events, snapshots, states, replies and reminders with this
    /// serializer id, as another program's constraint would.
    pub fn refuse_serializer(&self, serializer_id: i32) {
        self.tables().refused_serializers.insert(serializer_id);
    }

    /// Lets writers have numbers of deleted events: a defect, to see that tests notice.
    #[cfg(feature = "defects")]
    pub(crate) fn take_fence_away(&self) {
        self.tables().has_no_fence = true;
    }

    /// Breaks what is done with states: a defect, to see that tests notice.
    #[cfg(feature = "defects")]
    pub(crate) fn break_states(&self, defect: StateDefect) {
        self.tables().state_defect = Some(defect);
    }

    /// The ids that have rows in the journal, sorted. Also answered when the store is closed.
    pub fn persistence_ids(&self) -> Vec<PersistenceId> {
        self.tables().journal.keys().cloned().collect()
    }

    /// The rows of an id in the journal, markers included. Also answered when the store is closed.
    pub fn rows(&self, persistence_id: &PersistenceId) -> Vec<JournalRow> {
        let tables = self.tables();
        let rows = tables.journal.get(persistence_id).into_iter().flatten();
        rows.map(|(seq_nr, row)| JournalRow {
            seq_nr: *seq_nr,
            timestamp: row.timestamp,
            event: row.event.clone(),
        })
        .collect()
    }

    /// The snapshot of an id. Also answered when the store is closed.
    pub fn snapshot(&self, persistence_id: &PersistenceId) -> Option<Snapshot> {
        self.tables().snapshots.get(persistence_id).cloned()
    }

    /// The row of an id in the durable states, a marker included. Also answered when the store is
    /// closed.
    pub fn state(&self, persistence_id: &PersistenceId) -> Option<StoredState> {
        self.tables().states.get(persistence_id).cloned()
    }

    /// The stored replies of an id, by their numbers. Also answered when the store is closed.
    pub fn replies(&self, persistence_id: &PersistenceId) -> Vec<StoredReply> {
        let tables = self.tables();
        let replies = tables.replies.get(persistence_id).into_iter().flatten();
        let mut replies: Vec<StoredReply> = replies.map(|(_, reply)| reply.clone()).collect();
        replies.sort_by_key(|reply| reply.seq_nr);
        replies
    }

    /// The reminders of an id, by their keys. Also answered when the store is closed.
    pub fn reminders_of(&self, persistence_id: &PersistenceId) -> Vec<StoredReminder> {
        let tables = self.tables();
        let rows = tables.reminders.values();
        rows.filter(|row| row.persistence_id == *persistence_id)
            .cloned()
            .collect()
    }

    /// Gives the state of an id serializer id 0 and leaves its bytes, as no writer does.
    ///
    /// # Panics
    /// If the id has no state.
    pub fn damage_state(&self, persistence_id: &PersistenceId) {
        let mut tables = self.tables();
        let row = tables.states.get_mut(persistence_id);
        let payload = row.and_then(|row| row.payload.as_mut());
        let payload = payload.expect("only a state that is there can be damaged");
        *payload = SerializedPayload {
            serializer_id: NO_PAYLOAD_ID,
            ..payload.clone()
        };
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.handle.database.lock()
    }
}

/// An empty database on the machine's clock.
impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(Arc::new(SystemClock::new()))
    }
}

/// Shows how much there is, not what.
impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.handle.fmt(f)
    }
}

impl Store for MemoryStore {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn journal(&self) -> Arc<dyn Journal> {
        self.handle.clone()
    }

    fn snapshot_store(&self) -> Arc<dyn SnapshotStore> {
        self.handle.clone()
    }

    fn durable_state_store(&self) -> Arc<dyn DurableStateStore> {
        self.handle.clone()
    }

    fn command_replies(&self) -> Arc<dyn CommandReplyStore> {
        self.handle.clone()
    }

    fn reminders(&self) -> Arc<dyn ReminderStore> {
        self.handle.clone()
    }

    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.handle.closed.store(true, Ordering::SeqCst) })
    }
}

/// One opening of a database; the contracts are implemented for it.
struct Handle {
    database: Arc<Database>,
    durable_state_delete: DurableStateDelete,
    closed: AtomicBool,
}

impl Handle {
    /// The tables, unless this opening was closed.
    fn tables(&self) -> Result<MutexGuard<'_, Tables>, Error> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(Error::unavailable("the store was closed", None));
        }
        Ok(self.database.lock())
    }

    /// The time of a transaction that starts now, in microseconds as in the tables.
    fn now(&self) -> Timestamp {
        let micros = self.database.clock.now().as_microsecond();
        Timestamp::from_microsecond(micros).expect("it was a timestamp before it was cut")
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tables = self.database.lock();
        f.debug_struct("MemoryStore")
            .field("entities", &tables.journal.len())
            .field("snapshots", &tables.snapshots.len())
            .field("states", &tables.states.len())
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

/// What all openings share.
struct Database {
    clock: Arc<dyn Clock>,
    tables: Mutex<Tables>,
}

impl Database {
    fn lock(&self) -> MutexGuard<'_, Tables> {
        // Every change is complete before anything can panic, so a poisoned lock guards good data.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sorted maps, so that nothing ever depends on a random order.
#[derive(Default, Clone)]
struct Tables {
    journal: BTreeMap<PersistenceId, BTreeMap<SequenceNr, Row>>,
    snapshots: BTreeMap<PersistenceId, Snapshot>,
    states: BTreeMap<PersistenceId, StoredState>,
    replies: BTreeMap<PersistenceId, BTreeMap<CommandId, StoredReply>>,
    reminders: BTreeMap<(PersistenceId, ReminderKey), StoredReminder>,
    refused_serializers: BTreeSet<i32>,
    /// A defect: a number is free if it has no row, even below a delete marker.
    #[cfg(feature = "defects")]
    has_no_fence: bool,
    #[cfg(feature = "defects")]
    state_defect: Option<StateDefect>,
}

/// What is broken on purpose about states.
#[cfg(feature = "defects")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StateDefect {
    /// Whatever revision a writer expects, its state is stored.
    TakesAnyRevision,
    /// A deletion leaves nothing although it should leave a marker.
    LosesMarkers,
    /// Of several writes in a batch only the last one's events and replies are stored.
    LosesCompanions,
    /// A row that looks like that of a write is the write's own, whatever goes with it.
    TrustsRows,
}

impl Tables {
    fn check_serializer(
        &self,
        persistence_id: &PersistenceId,
        serializer_id: i32,
    ) -> Result<(), Error> {
        if !self.refused_serializers.contains(&serializer_id) {
            return Ok(());
        }
        Err(Error::Rejected {
            persistence_id: persistence_id.clone(),
            reason: format!("a constraint refuses serializer id {serializer_id}"),
            source: None,
        })
    }
}

#[derive(Clone)]
struct Row {
    timestamp: Timestamp,
    /// `None` for a delete marker.
    event: Option<(WriterId, NewEvent)>,
}

/// The next microsecond; the end of time stays where it is.
fn after(timestamp: Timestamp) -> Timestamp {
    timestamp.checked_add(MICROSECOND).unwrap_or(Timestamp::MAX)
}
