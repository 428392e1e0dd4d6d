//! Replies to commands that carry an id, so that a command that is sent again is answered again
//! and not handled again.

use std::fmt;
use std::fmt::Debug;
use std::sync::Arc;

use jiff::Timestamp;

use crate::BoxFuture;
use crate::error::Error;
use crate::id::PersistenceId;
use crate::journal::{InvalidWrite, check_payload};
use crate::payload::SerializedPayload;
use crate::sequence::SequenceNr;

/// The most characters a command id may have: the column is `VARCHAR(255)`.
pub const MAX_COMMAND_ID_CHARS: usize = 255;

/// Names one request to one entity, whoever sends it and however often.
///
/// 1 to 255 characters (Unicode scalar values, as PostgreSQL counts them), without U+0000. The
/// caller makes it before the first attempt and keeps it for all further ones. Cheap to clone.
///
/// ```
/// use perennial_persistence::CommandId;
///
/// let id = CommandId::new("payment-4711")?;
/// assert_eq!(id.as_str(), "payment-4711");
/// assert!(CommandId::new("").is_err());
/// # Ok::<(), perennial_persistence::InvalidCommandId>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(Arc<str>);

impl CommandId {
    /// The id with this text.
    ///
    /// # Errors
    /// [`InvalidCommandId`] for what no table can hold.
    pub fn new(text: &str) -> Result<Self, InvalidCommandId> {
        if text.is_empty() {
            return Err(InvalidCommandId::Empty);
        }
        if text.contains('\0') {
            return Err(InvalidCommandId::Nul);
        }
        let chars = text.chars().count();
        if chars > MAX_COMMAND_ID_CHARS {
            return Err(InvalidCommandId::TooLong { chars });
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Debug for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CommandId({:?})", self.0)
    }
}

/// Why a text is no command id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidCommandId {
    /// No character.
    #[error("a command id needs at least one character")]
    Empty,
    /// More than the column holds.
    #[error(
        "a command id has {chars} characters, at most {MAX_COMMAND_ID_CHARS} can be stored; \
         hash what is longer"
    )]
    TooLong {
        /// Its length.
        chars: usize,
    },
    /// PostgreSQL text cannot hold U+0000.
    #[error("a command id contains U+0000, which cannot be stored")]
    Nul,
}

/// 32 bytes that tell one request from another. Who makes it says how.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; Self::BYTES]);

impl Fingerprint {
    /// How long it is.
    pub const BYTES: usize = 32;

    /// The fingerprint with these bytes.
    pub fn new(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(")?;
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        f.write_str(")")
    }
}

/// The reply of a command on its way into the store, with the command's events or state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewReply {
    command_id: CommandId,
    fingerprint: Fingerprint,
    payload: Option<SerializedPayload>,
    replaces_to: SequenceNr,
}

impl NewReply {
    /// The reply to a command; `payload` is `None` if it is answered without one.
    ///
    /// A row of the same command whose number is at most `replaces_to` has left the window and is
    /// replaced; any other one means that the command was handled by another writer.
    ///
    /// # Errors
    /// [`InvalidWrite`] for a payload that no table can hold.
    pub fn new(
        command_id: CommandId,
        fingerprint: Fingerprint,
        payload: Option<SerializedPayload>,
        replaces_to: SequenceNr,
    ) -> Result<Self, InvalidWrite> {
        if let Some(payload) = &payload {
            check_payload(payload)?;
        }
        Ok(Self {
            command_id,
            fingerprint,
            payload,
            replaces_to,
        })
    }

    /// The command's id.
    pub fn command_id(&self) -> &CommandId {
        &self.command_id
    }

    /// What the command was.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// The encoded reply.
    pub fn payload(&self) -> Option<&SerializedPayload> {
        self.payload.as_ref()
    }

    /// Up to which number an older row of the command is replaced.
    pub fn replaces_to(&self) -> SequenceNr {
        self.replaces_to
    }
}

/// A reply as it stands in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredReply {
    /// The command's id.
    pub command_id: CommandId,
    /// What the command was.
    pub fingerprint: Fingerprint,
    /// The number of the command's last event, or the state's revision.
    pub seq_nr: SequenceNr,
    /// The database's time of its write.
    pub timestamp: Timestamp,
    /// The encoded reply; `None` if the command was answered without one.
    pub payload: Option<SerializedPayload>,
}

/// Gives back the replies that were stored with events or states, and deletes those that are not
/// needed any more. They are written by [`Journal::write_events`] and
/// [`DurableStateStore::write_states`].
///
/// Every store is run against one suite of contract tests.
///
/// [`Journal::write_events`]: crate::Journal::write_events
/// [`DurableStateStore::write_states`]: crate::DurableStateStore::write_states
pub trait CommandReplyStore: Debug + Send + Sync + 'static {
    /// The latest replies of an id by their numbers, the latest first, at most `limit`.
    ///
    /// # Errors
    /// [`Error::Unavailable`], and [`Error::Corrupt`] for a row that is no reply.
    ///
    /// # Cancel safety
    /// Cancel safe.
    fn load<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<StoredReply>, Error>>;

    /// Deletes replies of an id with numbers up to `to`, included, at most `limit` of them, and
    /// says how many. Fewer than `limit` means that none is left.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; asking again is safe. [`Error::Rejected`] if the database has a rule
    /// against it.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether they are gone.
    fn delete_up_to<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        to: SequenceNr,
        limit: usize,
    ) -> BoxFuture<'a, Result<usize, Error>>;

    /// Deletes replies of all entities of a type that were stored before `before`, at most `limit`
    /// of them, and says how many. Fewer than `limit` means that none is left.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; asking again is safe, also when the database has a rule against it.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether they are gone.
    fn delete_older<'a>(
        &'a self,
        entity_type: &'a str,
        before: Timestamp,
        limit: usize,
    ) -> BoxFuture<'a, Result<usize, Error>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_id_is_a_text_that_every_table_holds() {
        assert!(CommandId::new("a").is_ok());
        assert!(CommandId::new(&"ü".repeat(255)).is_ok());
        assert_eq!(CommandId::new(""), Err(InvalidCommandId::Empty));
        assert_eq!(CommandId::new("a\0"), Err(InvalidCommandId::Nul));
        let long = CommandId::new(&"ü".repeat(256));
        assert_eq!(long, Err(InvalidCommandId::TooLong { chars: 256 }));
    }

    #[test]
    fn a_reply_that_no_table_holds_is_refused() {
        let check = |payload| {
            let id = CommandId::new("a").expect("valid");
            NewReply::new(id, Fingerprint::new([0; 32]), payload, SequenceNr::ZERO)
        };
        assert!(check(None).is_ok());
        let payload = SerializedPayload::new(77, "m", &b"x"[..]);
        assert!(check(Some(payload)).is_ok());
        let reserved = SerializedPayload::new(0, "", &b""[..]);
        assert_eq!(check(Some(reserved)), Err(InvalidWrite::ReservedSerializer));
    }
}
