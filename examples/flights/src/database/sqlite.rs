//! Aircraft in an SQLite file.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use perennial::persistence::OpenError;
use perennial::sqlite::Config;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};

use crate::aircraft::ENTITY_TYPE;
use crate::fold::Start;
use crate::patience::AskFailure;
use crate::run::Begin;

/// What an SQLite file begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// The files that SQLite keeps beside a database.
const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// An SQLite file that is there or will be.
#[derive(Debug, Clone)]
pub struct Sqlite {
    config: Config,
}

impl Sqlite {
    pub(super) fn new(config: Config) -> Self {
        Self { config }
    }

    pub(super) async fn prepare(&self, begin: Begin) -> Result<Start, AskFailure> {
        self.blocking(move |sqlite| sqlite.prepare_now(begin)).await
    }

    pub(super) async fn persistence_ids(&self) -> Result<Vec<String>, AskFailure> {
        self.blocking(|sqlite| {
            sqlite
                .persistence_ids_now()
                .map_err(|error| sqlite.failed(&error))
        })
        .await
    }

    /// Runs what blocks its thread on one that may be blocked.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, AskFailure> + Send + 'static,
    ) -> Result<T, AskFailure> {
        let sqlite = self.clone();
        match tokio::task::spawn_blocking(move || work(&sqlite)).await {
            Ok(result) => result,
            Err(stopped) => Err(AskFailure::Fatal(stopped.to_string())),
        }
    }

    fn path(&self) -> &Path {
        &self.config.path
    }

    fn prepare_now(&self, begin: Begin) -> Result<Start, AskFailure> {
        if begin == Begin::Anew {
            self.remove()?;
            return Ok(Start::Fresh);
        }
        let failed = |error| self.failed(&error);
        if begin == Begin::Reset {
            self.delete_aircraft().map_err(failed)?;
        }
        let ids = self.persistence_ids_now().map_err(failed)?;
        Ok(if ids.is_empty() {
            Start::Fresh
        } else {
            Start::Continued
        })
    }

    /// Removes the file, but only one that is a database with nothing but aircraft in it and that
    /// nobody uses.
    fn remove(&self) -> Result<(), AskFailure> {
        let path = self.path();
        match begins_with_magic(path) {
            Ok(None) => {}
            Ok(Some(true)) => self.check_that_it_is_ours()?,
            Ok(Some(false)) => {
                return Err(AskFailure::Fatal(format!(
                    "{} is no SQLite database and not to be overwritten; move it away, or name \
                     another file as `persistence.sqlite.path`",
                    path.display()
                )));
            }
            Err(error) => return Err(self.unusable("read", &error)),
        }
        // Also beside a file that is gone: a log without its database is worth nothing.
        let companions = COMPANIONS.iter().map(|ending| {
            let mut name = path.as_os_str().to_owned();
            name.push(ending);
            PathBuf::from(name)
        });
        for file in [path.to_owned()].into_iter().chain(companions) {
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(self.unusable("removed", &error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn check_that_it_is_ours(&self) -> Result<(), AskFailure> {
        let stranger = self.lock_and_find_stranger().or_else(|error| {
            if is_busy(&error) {
                return Err(AskFailure::Unavailable(format!(
                    "{} is used by another process",
                    self.path().display()
                )));
            }
            // A damaged database holds nothing to be kept.
            Ok(None)
        })?;
        match stranger {
            None => Ok(()),
            Some(stranger) => Err(AskFailure::Fatal(format!(
                "{} holds other entities than aircraft, such as {stranger:?}, and is not made \
                 anew; use --reset to delete its aircraft only, or --keep to continue on them",
                self.path().display()
            ))),
        }
    }

    /// The id of an entity that is no aircraft, if there is one. Fails as busy if anybody else has
    /// the file open.
    fn lock_and_find_stranger(&self) -> rusqlite::Result<Option<String>> {
        let Some(connection) = self.open()? else {
            return Ok(None);
        };
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.execute_batch("BEGIN EXCLUSIVE")?;
        for table in ["event_journal", "snapshot", "durable_state"] {
            if !has_table(&connection, table)? {
                continue;
            }
            let sql = format!("SELECT persistence_id FROM {table} WHERE entity_type <> ?1 LIMIT 1");
            let stranger = connection
                .query_row(&sql, [ENTITY_TYPE], |row| row.get(0))
                .optional()?;
            if stranger.is_some() {
                return Ok(stranger);
            }
        }
        Ok(None)
    }

    fn delete_aircraft(&self) -> rusqlite::Result<()> {
        let Some(mut connection) = self.open()? else {
            return Ok(());
        };
        let transaction =
            connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        for table in ["event_journal", "snapshot"] {
            if has_table(&transaction, table)? {
                let sql = format!("DELETE FROM {table} WHERE entity_type = ?1");
                transaction.execute(&sql, [ENTITY_TYPE])?;
            }
        }
        transaction.commit()
    }

    fn persistence_ids_now(&self) -> rusqlite::Result<Vec<String>> {
        let Some(connection) = self.open()? else {
            return Ok(Vec::new());
        };
        if !has_table(&connection, "event_journal")? {
            return Ok(Vec::new());
        }
        let sql = "SELECT DISTINCT persistence_id FROM event_journal WHERE entity_type = ?1";
        let mut statement = connection.prepare(sql)?;
        let ids = statement.query_map([ENTITY_TYPE], |row| row.get(0))?;
        ids.collect()
    }

    /// A connection, unless there is no file: it is the store that makes one.
    fn open(&self) -> rusqlite::Result<Option<Connection>> {
        if !self.path().exists() {
            return Ok(None);
        }
        // Writing, because a log that a killed process left behind is worked off by whoever opens
        // the file next.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(self.path(), flags)?;
        connection.busy_timeout(self.config.busy_timeout)?;
        Ok(Some(connection))
    }

    fn failed(&self, error: &rusqlite::Error) -> AskFailure {
        let text = format!("{}: {error}", self.path().display());
        if is_busy(error) {
            AskFailure::Unavailable(text)
        } else {
            AskFailure::Fatal(text)
        }
    }

    fn unusable(&self, verb: &str, error: &io::Error) -> AskFailure {
        let path = self.path().display();
        AskFailure::Fatal(format!("{path} cannot be {verb}: {error}"))
    }
}

impl fmt::Display for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path().display().fmt(f)
    }
}

/// Whether the store could not be opened because of another process's lock, which passes.
pub(super) fn is_used_by_others(error: &OpenError) -> bool {
    let OpenError::Unreachable {
        source: Some(source),
        ..
    } = error
    else {
        return false;
    };
    source.downcast_ref().is_some_and(is_busy)
}

/// Another process holds a lock, which passes.
fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

fn has_table(connection: &Connection, table: &str) -> rusqlite::Result<bool> {
    connection.table_exists(None, table)
}

/// Whether a file looks like a database; an empty one does, as SQLite begins with it. `None` if
/// there is no file.
fn begins_with_magic(path: &Path) -> io::Result<Option<bool>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut start = Vec::with_capacity(MAGIC.len());
    let most = u64::try_from(MAGIC.len()).expect("a short constant");
    file.take(most).read_to_end(&mut start)?;
    Ok(Some(start.is_empty() || start == MAGIC))
}
