//! What SQLite's codes mean for the caller.

use std::sync::Arc;

use perennial_persistence::{Error, PersistenceId};
use rusqlite::ffi;

/// What a failure is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A row with this key is there already.
    Taken,
    /// This data is not accepted, whenever it comes.
    Refused,
    /// The file cannot be used now, whatever the data.
    Unavailable,
}

/// The meaning of an error, with a sentence for people that holds no data.
///
/// Codes that SQLite adds later count as unavailable: nothing is then said about the data.
pub(crate) fn classify(error: &rusqlite::Error) -> (Kind, &'static str) {
    let Some(code) = error.sqlite_error().map(|e| e.extended_code) else {
        return (Kind::Unavailable, "the SQLite driver failed");
    };
    match code {
        ffi::SQLITE_CONSTRAINT_PRIMARYKEY
        | ffi::SQLITE_CONSTRAINT_UNIQUE
        | ffi::SQLITE_CONSTRAINT_ROWID => {
            return (Kind::Taken, "a unique index has the key already");
        }
        _ => {}
    }
    // The lowest byte is the primary code; what stands above it only tells details.
    match code & 0xff {
        ffi::SQLITE_CONSTRAINT => (
            Kind::Refused,
            "a constraint or trigger of the table refused the row",
        ),
        ffi::SQLITE_MISMATCH => (Kind::Refused, "a value does not fit the type of its column"),
        ffi::SQLITE_TOOBIG => (Kind::Refused, "the row is larger than SQLite can store"),
        ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED => (
            Kind::Unavailable,
            "another process holds a lock on the database for longer than `busy-timeout`",
        ),
        ffi::SQLITE_FULL => (Kind::Unavailable, "the disk is full; make room"),
        ffi::SQLITE_IOERR => (
            Kind::Unavailable,
            "reading or writing the file failed; check the disk",
        ),
        ffi::SQLITE_NOMEM => (Kind::Unavailable, "there is not enough memory"),
        ffi::SQLITE_CANTOPEN => (
            Kind::Unavailable,
            "the file, or those that SQLite keeps beside it, cannot be opened; check that this \
             user may write in its directory",
        ),
        ffi::SQLITE_READONLY | ffi::SQLITE_PERM => (
            Kind::Unavailable,
            "it can only be read; give this user the right to write the file and its directory",
        ),
        ffi::SQLITE_AUTH => (Kind::Unavailable, "access was denied"),
        ffi::SQLITE_CORRUPT => (
            Kind::Unavailable,
            "the file is damaged; restore it from a backup",
        ),
        ffi::SQLITE_NOTADB => (
            Kind::Unavailable,
            "the file is not an SQLite database; check the path",
        ),
        ffi::SQLITE_PROTOCOL => (
            Kind::Unavailable,
            "other processes kept the locks of the file busy; try again",
        ),
        ffi::SQLITE_ERROR | ffi::SQLITE_SCHEMA => (
            Kind::Unavailable,
            "SQLite refused a statement; open with `schema-check = \"verify\"` to see whether \
             the tables are those of this version",
        ),
        _ => (Kind::Unavailable, "SQLite failed"),
    }
}

/// Nothing was changed, because of `error`.
pub(crate) fn unavailable(error: rusqlite::Error) -> Error {
    let (_, reason) = classify(&error);
    Error::unavailable(reason, Some(Arc::new(error)))
}

/// What was asked may have been done, because `error` came after the point of no return.
pub(crate) fn outcome_unknown(error: rusqlite::Error) -> Error {
    let (_, reason) = classify(&error);
    Error::outcome_unknown(reason, Some(Arc::new(error)))
}

/// What was to be stored for an id is not accepted.
pub(crate) fn rejected(id: &PersistenceId, reason: &str, error: Option<rusqlite::Error>) -> Error {
    Error::Rejected {
        persistence_id: id.clone(),
        reason: reason.to_owned(),
        source: error.map(|error| Arc::new(error) as _),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: i32) -> rusqlite::Error {
        rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)
    }

    #[test]
    fn each_code_has_its_meaning() {
        use Kind::{Refused, Taken, Unavailable};
        for (code, kind, part) in [
            (ffi::SQLITE_CONSTRAINT_PRIMARYKEY, Taken, "unique index"),
            (ffi::SQLITE_CONSTRAINT_UNIQUE, Taken, "unique index"),
            (ffi::SQLITE_CONSTRAINT_ROWID, Taken, "unique index"),
            (ffi::SQLITE_CONSTRAINT, Refused, "constraint"),
            (ffi::SQLITE_CONSTRAINT_CHECK, Refused, "constraint"),
            (ffi::SQLITE_CONSTRAINT_NOTNULL, Refused, "constraint"),
            (ffi::SQLITE_CONSTRAINT_TRIGGER, Refused, "trigger"),
            (ffi::SQLITE_CONSTRAINT_FOREIGNKEY, Refused, "constraint"),
            (ffi::SQLITE_CONSTRAINT_DATATYPE, Refused, "constraint"),
            (ffi::SQLITE_MISMATCH, Refused, "type of its column"),
            (ffi::SQLITE_TOOBIG, Refused, "larger"),
            (ffi::SQLITE_BUSY, Unavailable, "busy-timeout"),
            (ffi::SQLITE_BUSY_RECOVERY, Unavailable, "busy-timeout"),
            (ffi::SQLITE_BUSY_SNAPSHOT, Unavailable, "busy-timeout"),
            (ffi::SQLITE_LOCKED, Unavailable, "busy-timeout"),
            (ffi::SQLITE_FULL, Unavailable, "disk is full"),
            (ffi::SQLITE_IOERR, Unavailable, "check the disk"),
            (ffi::SQLITE_IOERR_FSYNC, Unavailable, "check the disk"),
            (ffi::SQLITE_IOERR_WRITE, Unavailable, "check the disk"),
            (ffi::SQLITE_NOMEM, Unavailable, "memory"),
            (ffi::SQLITE_CANTOPEN, Unavailable, "directory"),
            (ffi::SQLITE_READONLY, Unavailable, "only be read"),
            (ffi::SQLITE_READONLY_DBMOVED, Unavailable, "only be read"),
            (ffi::SQLITE_PERM, Unavailable, "only be read"),
            (ffi::SQLITE_AUTH, Unavailable, "denied"),
            (ffi::SQLITE_CORRUPT, Unavailable, "backup"),
            (ffi::SQLITE_NOTADB, Unavailable, "not an SQLite database"),
            (ffi::SQLITE_PROTOCOL, Unavailable, "locks"),
            (ffi::SQLITE_ERROR, Unavailable, "schema-check"),
            (ffi::SQLITE_SCHEMA, Unavailable, "schema-check"),
            (ffi::SQLITE_INTERRUPT, Unavailable, "SQLite failed"),
            (ffi::SQLITE_MISUSE, Unavailable, "SQLite failed"),
        ] {
            let (found, reason) = classify(&failure(code));
            assert_eq!(found, kind, "code {code}");
            assert!(reason.contains(part), "code {code}: {reason}");
        }
    }

    #[test]
    fn errors_without_a_code_say_nothing_about_the_data() {
        let (kind, _) = classify(&rusqlite::Error::QueryReturnedNoRows);
        assert_eq!(kind, Kind::Unavailable);
    }

    #[test]
    fn the_source_is_kept_and_the_outcome_told_apart() {
        let known = unavailable(failure(ffi::SQLITE_FULL));
        let unknown = outcome_unknown(failure(ffi::SQLITE_IOERR_FSYNC));
        assert!(!known.is_outcome_unknown() && unknown.is_outcome_unknown());
        for error in [known, unknown] {
            assert!(matches!(
                error,
                Error::Unavailable {
                    source: Some(_),
                    ..
                }
            ));
        }
    }
}
