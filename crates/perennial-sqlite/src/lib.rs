//! The embedded store of perennial: journal, snapshots, durable states, replies of commands and
//! reminders in one SQLite file.
//!
//! ```
//! use perennial_persistence::{AtomicWrite, NewEvent, PersistenceId, SequenceNr};
//! use perennial_persistence::{SerializedPayload, Store, WriterId};
//! use perennial_sqlite::{Config, Sqlite};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("bank.sqlite");
//! let store = Sqlite::open(Config::default().with_path(path)).await?;
//!
//! let id = PersistenceId::new("Account", "4711")?;
//! let deposited = NewEvent::new(SerializedPayload::new(77, "Deposited", &b"100"[..]));
//! let writer = WriterId::from_random_bits(4);
//! let write = AtomicWrite::new(id.clone(), writer, SequenceNr::FIRST, vec![deposited])?;
//! for result in store.journal().write_events(&[write]).await {
//!     println!("stored at {}", result?.timestamp);
//! }
//!
//! let highest = store.journal().highest_sequence_nr(&id, SequenceNr::ZERO).await?;
//! assert_eq!(highest, SequenceNr::FIRST);
//! store.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # How it works
//!
//! One thread owns the connection that writes, a few threads own connections that read; the
//! callers wait for answers without blocking, on whatever runtime they have. What waits for the
//! writer goes into one transaction: many callers share one flush of the disk, and a lone one
//! does not wait for others.
//!
//! # Guarantees
//!
//! - What was answered as written survives the end of the process at any moment, and a power
//!   failure too as long as `synchronous` is `full` (the default) or `extra` and the disk keeps
//!   what it says it has flushed.
//! - A later commit has later timestamps (`db_timestamp`), of events and states alike, also when the
//!   clock steps back, and with several processes on one file.
//! - Another program may read and write the file at the same time; a lock that it holds for
//!   longer than `busy-timeout` makes calls fail as unavailable, with nothing stored.
//!
//! # What it does not do
//!
//! It keeps no database in memory, and does not work on a network file system: SQLite's
//! write-ahead log needs memory that all its processes share.

mod command_replies;
mod companions;
mod config;
mod durable_state_store;
mod error;
mod executor;
mod journal;
mod migrate;
mod reminders;
mod row;
mod snapshot_store;

use std::path::Path;
use std::sync::Arc;

use perennial_persistence::{
    BoxFuture, Clock, CommandReplyStore, DurableStateDelete, DurableStateStore, Journal, OpenError,
    ReminderStore, SnapshotStore, Store, SystemClock,
};

pub use config::{Config, Synchronous};

use crate::command_replies::SqliteCommandReplies;
use crate::durable_state_store::SqliteDurableStateStore;
use crate::executor::Executor;
use crate::journal::SqliteJournal;
use crate::reminders::SqliteReminders;
use crate::snapshot_store::SqliteSnapshotStore;

/// An open SQLite file with its journal, snapshots and durable states.
///
/// Its threads end with [`Store::close`], or when the store and everything it handed out are
/// dropped.
#[derive(Debug)]
pub struct Sqlite {
    executor: Arc<Executor>,
    durable_state_delete: DurableStateDelete,
    warnings: Vec<String>,
}

impl Sqlite {
    /// Opens the file of `config`, makes it if it is missing and `schema-check` is `create`, and
    /// does with its tables what `schema-check` says.
    ///
    /// All work is done on the store's own threads, so this may be called on any runtime.
    ///
    /// # Errors
    /// [`OpenError::Config`] for a setting out of its range, [`OpenError::Unreachable`] if the
    /// file cannot be opened for reading and writing, [`OpenError::Schema`] if its tables are not
    /// those of this version.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the store closed; tables may have been made.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        Self::open_with_clock(config, Arc::new(SystemClock::new())).await
    }

    /// As [`Sqlite::open`], with the clock that the timestamps of events come from.
    ///
    /// # Errors
    /// Those of [`Sqlite::open`].
    pub async fn open_with_clock(config: Config, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let durable_state_delete = config.durable_state_delete;
        let (executor, warnings) = Executor::start(config, clock).await?;
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        Ok(Self {
            executor: Arc::new(executor),
            durable_state_delete,
            warnings,
        })
    }

    /// Where the file is, as an absolute path.
    pub fn path(&self) -> &Path {
        self.executor.path()
    }
}

impl Store for Sqlite {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn journal(&self) -> Arc<dyn Journal> {
        Arc::new(SqliteJournal::new(Arc::clone(&self.executor)))
    }

    fn snapshot_store(&self) -> Arc<dyn SnapshotStore> {
        Arc::new(SqliteSnapshotStore::new(Arc::clone(&self.executor)))
    }

    fn durable_state_store(&self) -> Arc<dyn DurableStateStore> {
        let executor = Arc::clone(&self.executor);
        let delete = self.durable_state_delete;
        Arc::new(SqliteDurableStateStore::new(executor, delete))
    }

    fn command_replies(&self) -> Arc<dyn CommandReplyStore> {
        Arc::new(SqliteCommandReplies::new(Arc::clone(&self.executor)))
    }

    fn reminders(&self) -> Arc<dyn ReminderStore> {
        Arc::new(SqliteReminders::new(Arc::clone(&self.executor)))
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    /// Answers what was asked before, moves the write-ahead log into the file, and joins the
    /// threads.
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.executor.close())
    }
}
