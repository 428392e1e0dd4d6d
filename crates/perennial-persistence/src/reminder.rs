//! Reminders: commands that an entity is to get at a time, stored with its events.

use std::fmt;
use std::fmt::Debug;
use std::sync::Arc;

use jiff::Timestamp;

use crate::BoxFuture;
use crate::error::Error;
use crate::id::PersistenceId;
use crate::journal::{InvalidWrite, check_payload};
use crate::payload::SerializedPayload;
use crate::slice::SliceRange;

/// The most characters a reminder's key may have: the column is `VARCHAR(255)`.
pub const MAX_REMINDER_KEY_CHARS: usize = 255;

/// Names one reminder of one entity.
///
/// 1 to 255 characters (Unicode scalar values, as PostgreSQL counts them), without U+0000. Ordered
/// by its UTF-8 bytes. Cheap to clone.
///
/// ```
/// use perennial_persistence::ReminderKey;
///
/// assert_eq!(ReminderKey::new("expire")?.as_str(), "expire");
/// assert!(ReminderKey::new("").is_err());
/// # Ok::<(), perennial_persistence::InvalidReminderKey>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReminderKey(Arc<str>);

impl ReminderKey {
    /// The key with this text.
    ///
    /// # Errors
    /// [`InvalidReminderKey`] for what no table can hold.
    pub fn new(text: &str) -> Result<Self, InvalidReminderKey> {
        if text.is_empty() {
            return Err(InvalidReminderKey::Empty);
        }
        if text.contains('\0') {
            return Err(InvalidReminderKey::Nul);
        }
        let chars = text.chars().count();
        if chars > MAX_REMINDER_KEY_CHARS {
            return Err(InvalidReminderKey::TooLong { chars });
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ReminderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Debug for ReminderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReminderKey({:?})", self.0)
    }
}

/// Why a text is no key of a reminder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidReminderKey {
    /// No character.
    #[error("the key of a reminder needs at least one character")]
    Empty,
    /// More than the column holds.
    #[error(
        "the key of a reminder has {chars} characters, at most {MAX_REMINDER_KEY_CHARS} can be \
         stored; hash what is longer"
    )]
    TooLong {
        /// Its length.
        chars: usize,
    },
    /// PostgreSQL text cannot hold U+0000.
    #[error("the key of a reminder contains U+0000, which cannot be stored")]
    Nul,
}

/// What a write does to the reminders of its entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReminderChange {
    /// There is this one, instead of any with its key.
    Set(NewReminder),
    /// There is none with this key. With a time, only if it is due then: another one has taken its
    /// place otherwise, and stays.
    Forget {
        /// Its key.
        key: ReminderKey,
        /// When the one is due that is meant, in microseconds; `None` for whichever there is.
        due: Option<Timestamp>,
    },
}

impl ReminderChange {
    /// The key of the reminder.
    pub fn key(&self) -> &ReminderKey {
        match self {
            Self::Set(new) => &new.key,
            Self::Forget { key, .. } => key,
        }
    }

    /// How many bytes there are to be stored, columns of fixed size not counted.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Set(new) => new.payload.bytes.len() + new.key.0.len(),
            Self::Forget { key, .. } => key.0.len(),
        }
    }
}

/// A reminder on its way into the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewReminder {
    entity_type: Arc<str>,
    key: ReminderKey,
    due: Timestamp,
    payload: SerializedPayload,
}

impl NewReminder {
    /// A reminder for an entity of the type that is registered under `entity_type`; ids need not
    /// begin with it. `due` is cut to microseconds, and brought between the beginning of 1970 and
    /// the last second of all times, as not every table has those beyond.
    ///
    /// # Errors
    /// [`InvalidWrite`] for a payload or a name that no table can hold.
    pub fn new(
        entity_type: impl Into<Arc<str>>,
        key: ReminderKey,
        due: Timestamp,
        payload: SerializedPayload,
    ) -> Result<Self, InvalidWrite> {
        let entity_type = entity_type.into();
        check_payload(&payload)?;
        if entity_type.contains('\0') {
            return Err(InvalidWrite::Nul {
                what: "entity type",
            });
        }
        Ok(Self {
            entity_type,
            key,
            due: as_stored(due),
            payload,
        })
    }

    /// The name of the entity's type.
    pub fn entity_type(&self) -> &Arc<str> {
        &self.entity_type
    }

    /// Its key.
    pub fn key(&self) -> &ReminderKey {
        &self.key
    }

    /// When it is due, in microseconds.
    pub fn due(&self) -> Timestamp {
        self.due
    }

    /// The encoded command.
    pub fn payload(&self) -> &SerializedPayload {
        &self.payload
    }
}

/// A time as the tables hold it.
fn as_stored(time: Timestamp) -> Timestamp {
    let last = Timestamp::from_second(Timestamp::MAX.as_second()).expect("that of a timestamp");
    let time = time.clamp(Timestamp::UNIX_EPOCH, last);
    Timestamp::from_microsecond(time.as_microsecond())
        .expect("it was a timestamp before it was cut")
}

/// A reminder as it stands in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredReminder {
    /// Whose it is.
    pub persistence_id: PersistenceId,
    /// The name of the entity's type.
    pub entity_type: Arc<str>,
    /// Its key.
    pub key: ReminderKey,
    /// When it is due, in microseconds.
    pub due: Timestamp,
    /// The encoded command.
    pub payload: SerializedPayload,
}

/// Which reminders are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueReminders {
    /// Those of entities in these slices.
    pub slices: SliceRange,
    /// Those of entities of one of these types.
    pub entity_types: Vec<Arc<str>>,
    /// Those that are due then or later.
    pub from: Timestamp,
    /// Of those that are due exactly at `from`, only the ones after this in the order of ids and
    /// keys.
    pub after: Option<(PersistenceId, ReminderKey)>,
    /// Those that are due then or earlier.
    pub until: Timestamp,
    /// The most that are wanted; at least 1.
    pub limit: usize,
}

/// Gives back reminders, and deletes those of an entity that is to be forgotten. They are written
/// by [`Journal::write_events`](crate::Journal::write_events).
///
/// Every store is run against one suite of contract tests.
pub trait ReminderStore: Debug + Send + Sync + 'static {
    /// The first of the wanted reminders in the order of their times, ids and keys; ids and keys
    /// are ordered by their UTF-8 bytes.
    ///
    /// # Errors
    /// [`Error::Unavailable`], and [`Error::Corrupt`] for a row that is no reminder.
    ///
    /// # Cancel safety
    /// Cancel safe.
    fn due<'a>(
        &'a self,
        wanted: &'a DueReminders,
    ) -> BoxFuture<'a, Result<Vec<StoredReminder>, Error>>;

    /// Deletes reminders of an id, at most `limit` of them, and says how many. Fewer than `limit`
    /// means that none is left.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; asking again is safe. [`Error::Rejected`] if the database has a rule
    /// against it.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether they are gone.
    fn remove<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        limit: usize,
    ) -> BoxFuture<'a, Result<usize, Error>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_text_that_every_table_holds() {
        assert!(ReminderKey::new("a").is_ok());
        assert!(ReminderKey::new(&"ü".repeat(255)).is_ok());
        assert_eq!(ReminderKey::new(""), Err(InvalidReminderKey::Empty));
        assert_eq!(ReminderKey::new("a\0"), Err(InvalidReminderKey::Nul));
        let long = ReminderKey::new(&"ü".repeat(256));
        assert_eq!(long, Err(InvalidReminderKey::TooLong { chars: 256 }));
    }

    #[test]
    fn a_reminder_is_one_that_every_table_holds() {
        let key = || ReminderKey::new("k").expect("valid");
        let payload = |id| SerializedPayload::new(id, "m", &b"x"[..]);
        let due = Timestamp::new(1, 1_999).expect("in range");
        let new = NewReminder::new("Cart", key(), due, payload(77)).expect("valid");
        assert_eq!(new.due(), Timestamp::new(1, 1_000).expect("in range"));
        let past = NewReminder::new("Cart", key(), Timestamp::MIN, payload(77)).expect("valid");
        assert_eq!(past.due(), Timestamp::UNIX_EPOCH);
        let end = NewReminder::new("Cart", key(), Timestamp::MAX, payload(77)).expect("valid");
        assert_eq!(end.due().as_second(), Timestamp::MAX.as_second());
        let again = Timestamp::from_microsecond(end.due().as_microsecond());
        assert_eq!(again.ok(), Some(end.due()), "every store gives it back");
        let reserved = NewReminder::new("Cart", key(), due, payload(0));
        assert_eq!(reserved, Err(InvalidWrite::ReservedSerializer));
        let nul = NewReminder::new("Ca\0rt", key(), due, payload(77));
        let what = "entity type";
        assert_eq!(nul, Err(InvalidWrite::Nul { what }));
    }
}
