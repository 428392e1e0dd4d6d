//! What the contract suites don't ask: files, tables, time, failures and killed processes.

mod crash;
mod failures;
mod opening;
mod schema;
mod states;
mod time;

use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use perennial_persistence::{
    AtomicWrite, Error, Journal, NewEvent, OpenError, PageLimit, PersistenceId, SequenceNr,
    SerializedPayload, StoredEvent, Timestamp, WriterId, Written,
};
use perennial_sqlite::{Config, Sqlite};
use perennial_testkit::ManualClock;
use rusqlite::Connection;
use tempfile::TempDir;

/// A directory with one database file, gone after the test.
struct File {
    directory: TempDir,
}

impl File {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self { directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("test.sqlite")
    }

    /// The write-ahead log, which is there as long as somebody has the file open.
    fn log(&self) -> PathBuf {
        self.directory.path().join("test.sqlite-wal")
    }

    fn config(&self) -> Config {
        Config::default().with_path(self.path())
    }

    async fn open(&self) -> Sqlite {
        open(self.config()).await
    }

    async fn open_with_clock(&self, clock: &ManualClock) -> Sqlite {
        Sqlite::open_with_clock(self.config(), Arc::new(clock.clone()))
            .await
            .expect("a file that can be opened")
    }

    /// The file as another program opens it.
    fn connection(&self) -> Connection {
        Connection::open(self.path()).expect("a database")
    }
}

async fn open(config: Config) -> Sqlite {
    Sqlite::open(config)
        .await
        .expect("a file that can be opened")
}

async fn refused(config: Config) -> OpenError {
    match Sqlite::open(config).await {
        Ok(_) => panic!("this cannot be opened"),
        Err(error) => error,
    }
}

/// Opening `path` fails for a reason that names it and contains `part`.
async fn check_unreachable(config: Config, path: &Path, part: &str) {
    match refused(config).await {
        OpenError::Unreachable { target, reason, .. } => {
            assert_eq!(target, path.display().to_string());
            assert!(reason.contains(part), "{reason}");
        }
        other => panic!("{part}: {other:?}"),
    }
}

fn id(name: &str) -> PersistenceId {
    PersistenceId::new("Cart", name).expect("a valid id")
}

fn seq(number: u64) -> SequenceNr {
    SequenceNr::new(number).expect("below the largest number")
}

/// A write of one event that is not tried by another writer.
fn write(id: &PersistenceId, number: u64) -> AtomicWrite {
    let event = NewEvent::new(SerializedPayload::new(77, "Event", number.to_string()));
    AtomicWrite::new(
        id.clone(),
        WriterId::from_random_bits(1),
        seq(number),
        vec![event],
    )
    .expect("a valid write")
}

async fn write_one(journal: &dyn Journal, write: &AtomicWrite) -> Result<Written, Error> {
    let mut answers = journal.write_events(std::slice::from_ref(write)).await;
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

/// Stores one event and returns its time.
async fn store(journal: &dyn Journal, id: &PersistenceId, number: u64) -> Timestamp {
    let written = write_one(journal, &write(id, number)).await;
    written.expect("nothing stands in its way").timestamp
}

async fn events(journal: &dyn Journal, id: &PersistenceId) -> Vec<StoredEvent> {
    let limit = PageLimit {
        rows: 1_000_000,
        bytes: 1 << 30,
    };
    let page = journal
        .replay_events(id, SequenceNr::FIRST, SequenceNr::MAX, limit)
        .await
        .expect("a readable journal");
    assert!(!page.more);
    page.events
}

async fn numbers(journal: &dyn Journal, id: &PersistenceId) -> Vec<u64> {
    let events = events(journal, id).await;
    events.iter().map(|event| event.seq_nr.value()).collect()
}

/// An event's row as another program writes it.
fn insert_row(connection: &Connection, id: &PersistenceId, number: i64, micros: i64) {
    connection
        .execute(
            "INSERT INTO event_journal (slice, entity_type, persistence_id, seq_nr, db_timestamp,
               event_ser_id, event_ser_manifest, event_payload, writer)
             VALUES (?1, ?2, ?3, ?4, ?5, 77, 'Event', x'01', 'another')",
            (
                id.slice().value(),
                id.entity_type(),
                id.as_str(),
                number,
                micros,
            ),
        )
        .expect("the table is there");
}

/// Lets a future begin what it does, and checks that it has to wait.
async fn begin<F: Future>(mut future: Pin<&mut F>) {
    let is_pending = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await;
    assert!(is_pending, "it cannot have been answered yet");
}

/// An error without a doubt about the outcome: nothing was stored.
fn check_unavailable<T: std::fmt::Debug>(result: &Result<T, Error>, part: &str) {
    match result {
        Err(Error::Unavailable {
            reason,
            outcome_unknown: false,
            ..
        }) => assert!(reason.contains(part), "{reason}"),
        other => panic!("{part}: {other:?}"),
    }
}
