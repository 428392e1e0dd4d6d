//! An SQLite file.

use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use perennial::persistence::OpenError;
use perennial::sqlite::Config;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::patience::AskFailure;

/// What an SQLite file begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// The files that SQLite keeps beside a database.
const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// An SQLite file that is there or will be.
#[derive(Debug, Clone)]
pub struct File {
    config: Config,
}

impl File {
    pub(super) fn new(config: Config) -> Self {
        Self { config }
    }

    /// How the file is used.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.config.path
    }

    /// Runs what blocks its thread on one that may be blocked.
    ///
    /// # Errors
    /// What `work` fails with; a panic is fatal.
    pub async fn blocking<T: Send + 'static>(
        work: impl FnOnce() -> Result<T, AskFailure> + Send + 'static,
    ) -> Result<T, AskFailure> {
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(stopped) => Err(AskFailure::Fatal(stopped.to_string())),
        }
    }

    /// A connection, unless there is no file.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn open(&self) -> rusqlite::Result<Option<Connection>> {
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

    /// Removes the file, but only one that is a database, that nobody uses, and in which
    /// `find_stranger` finds nothing that is to be kept; what it finds is the reason that is given.
    ///
    /// # Errors
    /// Why it stays.
    pub fn remove(
        &self,
        find_stranger: impl FnOnce(&Connection) -> rusqlite::Result<Option<String>>,
    ) -> Result<(), AskFailure> {
        let path = self.path();
        match begins_with_magic(path) {
            Ok(None) => {}
            Ok(Some(true)) => self.check_that_it_is_ours(find_stranger)?,
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

    fn check_that_it_is_ours(
        &self,
        find_stranger: impl FnOnce(&Connection) -> rusqlite::Result<Option<String>>,
    ) -> Result<(), AskFailure> {
        let stranger = self.lock_and_find(find_stranger).or_else(|error| {
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
            Some(reason) => {
                let path = self.path().display();
                Err(AskFailure::Fatal(format!("{path} {reason}")))
            }
        }
    }

    /// Fails as busy if anybody else has the file open.
    fn lock_and_find(
        &self,
        find_stranger: impl FnOnce(&Connection) -> rusqlite::Result<Option<String>>,
    ) -> rusqlite::Result<Option<String>> {
        let Some(connection) = self.open()? else {
            return Ok(None);
        };
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.execute_batch("BEGIN EXCLUSIVE")?;
        find_stranger(&connection)
    }

    /// What it means that a statement has failed.
    pub fn failed(&self, error: &rusqlite::Error) -> AskFailure {
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

impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path().display().fmt(f)
    }
}

/// Whether the store could not be opened because of another process's lock, which passes.
pub fn is_used_by_others(error: &OpenError) -> bool {
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

/// Whether a file looks like a database; an empty one does, as SQLite begins with it. `None` if
/// there is no file.
fn begins_with_magic(path: &Path) -> io::Result<Option<bool>> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut start = Vec::with_capacity(MAGIC.len());
    let most = u64::try_from(MAGIC.len()).expect("a short constant");
    file.take(most).read_to_end(&mut start)?;
    Ok(Some(start.is_empty() || start == MAGIC))
}
