//! What can go wrong in a store, named after what the caller can do about it.

use std::error::Error as StdError;
use std::sync::Arc;

use crate::command_reply::CommandId;
use crate::id::PersistenceId;
use crate::sequence::SequenceNr;

/// A foreign error behind one of ours. Shared, because one lost connection fails many writes.
pub type Source = Arc<dyn StdError + Send + Sync>;

/// Why a store did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A row of another writer has the number: this writer is stale. Nothing of the write was
    /// stored. Never try it again; recover first.
    #[error(
        "sequence number {seq_nr} of {persistence_id} already exists, written by another writer"
    )]
    Conflict {
        /// Whose write it was.
        persistence_id: PersistenceId,
        /// The lowest number that is taken.
        seq_nr: SequenceNr,
    },
    /// There are rows at or above the write's first number, but no event of another writer has one
    /// of its numbers: this writer is stale, and what stood there was deleted. This attempt stored
    /// nothing. An earlier attempt at the write may have stored it, and nobody can say any more; if
    /// there was none, it is as certain as a [`Conflict`](Self::Conflict). Never try it again;
    /// recover first.
    #[error(
        "sequence number {seq_nr} of {persistence_id} is no longer to be had: the numbers go up to \
         {highest}, and the event that stood there was deleted"
    )]
    Superseded {
        /// Whose write it was.
        persistence_id: PersistenceId,
        /// The write's first number.
        seq_nr: SequenceNr,
        /// The highest number of the id, that of an event or of a delete marker.
        highest: SequenceNr,
    },
    /// The state's row has another revision: this writer is stale. This attempt stored nothing;
    /// what an earlier one may have stored has been replaced, if `found` is above the write's
    /// revision, or removed, if it is below `expected`. Never try it again; load the state first.
    #[error(
        "revision {expected} of {persistence_id} was expected, but {}", what_is_there(*found)
    )]
    StaleRevision {
        /// Whose write it was.
        persistence_id: PersistenceId,
        /// The revision that the row was to have; 0 if there was to be none.
        expected: SequenceNr,
        /// The revision that it has; 0 if there is no row.
        found: SequenceNr,
    },
    /// The command of a write was handled before, by another writer: this writer is stale. Nothing
    /// of the write was stored. Never try it again; recover first, and find the reply.
    #[error("command {command_id} of {persistence_id} was handled before, by another writer")]
    CommandTaken {
        /// Whose write it was.
        persistence_id: PersistenceId,
        /// The command.
        command_id: CommandId,
    },
    /// The store will not take this data, whoever sends it and whenever. Nothing of it was stored.
    #[error("{persistence_id} cannot be stored: {reason}")]
    Rejected {
        /// Whose data it was.
        persistence_id: PersistenceId,
        /// Why, without the data.
        reason: String,
        /// The store's own error.
        source: Option<Source>,
    },
    /// The store cannot be reached, is overloaded or lost the connection.
    ///
    /// With `outcome_unknown` the data may have been stored all the same: only the identical write
    /// may be tried again. Without it nothing was stored.
    #[error("the store is unavailable: {reason}")]
    Unavailable {
        /// What happened, without credentials.
        reason: String,
        /// Whether the request may nevertheless have taken effect.
        outcome_unknown: bool,
        /// The store's own error.
        source: Option<Source>,
    },
    /// A stored row is not what it must be.
    #[error("row {seq_nr} of {persistence_id} is damaged: {reason}")]
    Corrupt {
        /// Whose row it is.
        persistence_id: PersistenceId,
        /// Its sequence number or revision.
        seq_nr: SequenceNr,
        /// What is wrong with it, without its content.
        reason: String,
        /// The decoder's own error.
        source: Option<Source>,
    },
}

impl Error {
    /// Not reached, and nothing was changed.
    pub fn unavailable(reason: impl Into<String>, source: Option<Source>) -> Self {
        Self::Unavailable {
            reason: reason.into(),
            outcome_unknown: false,
            source,
        }
    }

    /// Lost on the way: the request may have taken effect.
    pub fn outcome_unknown(reason: impl Into<String>, source: Option<Source>) -> Self {
        Self::Unavailable {
            reason: reason.into(),
            outcome_unknown: true,
            source,
        }
    }

    /// Whether the same request may succeed later. A write must then be tried again *identically*.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// Whether the request may have taken effect although it failed.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(
            self,
            Self::Unavailable {
                outcome_unknown: true,
                ..
            }
        )
    }
}

fn what_is_there(revision: SequenceNr) -> String {
    if revision == SequenceNr::ZERO {
        "there is no state".to_owned()
    } else {
        format!("revision {revision} is there, written by another writer")
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A setting makes no sense.
    #[error("`{key}` {reason}")]
    Config {
        /// The key within the store's own section, such as `url`.
        key: &'static str,
        /// What is wrong and what to write instead.
        reason: String,
    },
    /// Nothing answers there, or it refuses us.
    #[error("cannot open {target}: {reason}")]
    Unreachable {
        /// A path, or a URL without password.
        target: String,
        /// What happened and what to check.
        reason: String,
        /// The driver's own error.
        source: Option<Source>,
    },
    /// The tables are not those of this version.
    #[error("the tables in {target} do not fit: {}", problems.join("; "))]
    Schema {
        /// A path, or a URL without password.
        target: String,
        /// Every difference, one sentence each.
        problems: Vec<String>,
    },
    /// An acknowledged event could be lost with the server's settings, and `require-durable` is on.
    #[error(
        "{target} may lose acknowledged events: {}; change the server's settings, or set \
         `require-durable = false` to accept that",
        settings.join(", ")
    )]
    NotDurable {
        /// A URL without password.
        target: String,
        /// The settings, as `name = value`.
        settings: Vec<String>,
    },
}
