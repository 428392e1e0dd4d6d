//! The journal: every event of every entity, in the order in which it happened.

use std::fmt::Debug;

use jiff::Timestamp;
use uuid::Uuid;

use crate::BoxFuture;
use crate::command_reply::NewReply;
use crate::error::Error;
use crate::id::PersistenceId;
use crate::payload::{MAX_MANIFEST_CHARS, NO_PAYLOAD_ID, SerializedPayload};
use crate::reminder::{ReminderChange, ReminderKey};
use crate::sequence::SequenceNr;

/// Names one incarnation of an entity; new at every start, so that a stale one is recognised.
///
/// Stored as a hyphenated lower-case UUID. A (writer, sequence number) pair stands for one content
/// and is never used for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WriterId(Uuid);

impl WriterId {
    /// A writer id from 128 random bits, of which six become the UUID's version and variant.
    pub fn from_random_bits(bits: u128) -> Self {
        Self(uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid())
    }

    /// The UUID.
    pub fn as_uuid(&self) -> &Uuid {
        &self.0
    }
}

impl std::fmt::Display for WriterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0.hyphenated(), f)
    }
}

/// An event on its way into the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// The encoded event.
    pub payload: SerializedPayload,
    /// Tags, stored as NULL when there are none.
    pub tags: Vec<String>,
    /// Metadata beside the event, such as that of replication.
    pub metadata: Option<SerializedPayload>,
}

impl NewEvent {
    /// An event without tags and metadata.
    pub fn new(payload: SerializedPayload) -> Self {
        Self {
            payload,
            tags: Vec::new(),
            metadata: None,
        }
    }
}

/// What the writer knows of the `db_timestamp` of the event before its write.
///
/// A write's own timestamp is later than that by at least a microsecond, even when the clock
/// stepped back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Previous {
    /// There is no event before: the write begins with number 1.
    None,
    /// The event before was stored at this time.
    At(Timestamp),
    /// Not known here: the journal looks it up.
    Unknown,
}

/// Events of one entity and changes of its reminders that are stored together or not at all; one of
/// them at least.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtomicWrite {
    persistence_id: PersistenceId,
    writer: WriterId,
    first: SequenceNr,
    events: Vec<NewEvent>,
    reply: Option<Box<NewReply>>,
    reminders: Option<Box<[ReminderChange]>>,
    /// Set by the writer right before the write is sent; no part of the write's identity.
    pub previous: Previous,
    /// Whether an earlier attempt at this write may have stored it. Set by the writer before it
    /// sends the write again; no part of the write's identity.
    pub maybe_stored: bool,
}

impl AtomicWrite {
    /// A write of `events`, numbered `first`, `first + 1` and so on.
    ///
    /// # Errors
    /// [`InvalidWrite`] for what no table can hold: no event at all, numbers outside
    /// `1..=i64::MAX`, serializer id 0, a manifest of more than 255 characters, U+0000 in a
    /// manifest or tag.
    pub fn new(
        persistence_id: PersistenceId,
        writer: WriterId,
        first: SequenceNr,
        events: Vec<NewEvent>,
    ) -> Result<Self, InvalidWrite> {
        let Some(more) = events.len().checked_sub(1) else {
            return Err(InvalidWrite::Empty);
        };
        let last = first.value().checked_add(more as u64);
        if first == SequenceNr::ZERO || last.and_then(SequenceNr::new).is_none() {
            return Err(InvalidWrite::Numbers {
                first: first.value(),
                count: events.len(),
            });
        }
        for event in &events {
            check_event(event)?;
        }
        Ok(Self {
            persistence_id,
            writer,
            first,
            events,
            reply: None,
            reminders: None,
            previous: if first == SequenceNr::FIRST {
                Previous::None
            } else {
                Previous::Unknown
            },
            maybe_stored: false,
        })
    }

    /// A write that changes reminders and stores no event. `next` is the number that the next event
    /// of this writer will have: the write is refused if one of another writer has it, or if it was
    /// deleted.
    ///
    /// # Errors
    /// [`InvalidWrite`]: no change at all, and what [`AtomicWrite::set_reminders`] says; `next` is 0.
    pub fn of_reminders(
        persistence_id: PersistenceId,
        writer: WriterId,
        next: SequenceNr,
        changes: Vec<ReminderChange>,
    ) -> Result<Self, InvalidWrite> {
        if changes.is_empty() {
            return Err(InvalidWrite::Empty);
        }
        if next == SequenceNr::ZERO {
            let (first, count) = (0, 0);
            return Err(InvalidWrite::Numbers { first, count });
        }
        let mut write = Self {
            persistence_id,
            writer,
            first: next,
            events: Vec::new(),
            reply: None,
            reminders: None,
            previous: Previous::Unknown,
            maybe_stored: false,
        };
        write.set_reminders(changes)?;
        Ok(write)
    }

    /// Whose events they are.
    pub fn persistence_id(&self) -> &PersistenceId {
        &self.persistence_id
    }

    /// The incarnation that writes.
    pub fn writer(&self) -> WriterId {
        self.writer
    }

    /// The first event's number; without events, that of the next one.
    pub fn first(&self) -> SequenceNr {
        self.first
    }

    /// The last event's number; without events, that of the one before the write, or 0.
    pub fn last(&self) -> SequenceNr {
        match (self.events.len() as u64).checked_sub(1) {
            Some(more) => self.first.plus(more),
            None => SequenceNr::new(self.first.value() - 1).unwrap_or_default(),
        }
    }

    /// How many rows of this writer, and from `first` on up to which number, are there if the write
    /// has been stored and was sent again: those of its events. Without events that is the writer's
    /// next event, which is stored only after it.
    pub fn witnesses(&self) -> (usize, SequenceNr) {
        match self.events.len() {
            0 => (1, self.first),
            events => (events, self.last()),
        }
    }

    /// The events; there may be none if it changes reminders.
    pub fn events(&self) -> &[NewEvent] {
        &self.events
    }

    /// The reply that is stored with the events, if their command has an id.
    pub fn reply(&self) -> Option<&NewReply> {
        self.reply.as_deref()
    }

    /// Has a reply stored with the events.
    pub fn set_reply(&mut self, reply: NewReply) {
        self.reply = Some(Box::new(reply));
    }

    /// How it changes the reminders of its entity, each key once at the most.
    pub fn reminders(&self) -> &[ReminderChange] {
        self.reminders.as_deref().unwrap_or_default()
    }

    /// Has reminders changed in the transaction of the events.
    ///
    /// # Errors
    /// [`InvalidWrite::ReminderTwice`] if two changes are of one key; nothing is set then.
    pub fn set_reminders(&mut self, changes: Vec<ReminderChange>) -> Result<(), InvalidWrite> {
        let mut keys: Vec<&ReminderKey> = changes.iter().map(ReminderChange::key).collect();
        keys.sort_unstable();
        if let Some(pair) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
            let key = pair[0].to_string();
            return Err(InvalidWrite::ReminderTwice { key });
        }
        self.reminders = (!changes.is_empty()).then(|| changes.into_boxed_slice());
        Ok(())
    }

    /// Tags the event at `index`, counted from 0.
    ///
    /// # Errors
    /// [`InvalidWrite::Nul`] for a tag with U+0000; the event keeps the tags that it had.
    ///
    /// # Panics
    /// If there is no event at `index`.
    pub fn set_tags(&mut self, index: usize, tags: Vec<String>) -> Result<(), InvalidWrite> {
        check_tags(&tags)?;
        self.events[index].tags = tags;
        Ok(())
    }

    /// The events with their numbers.
    pub fn numbered(&self) -> impl Iterator<Item = (SequenceNr, &NewEvent)> {
        self.events
            .iter()
            .zip(0_u64..)
            .map(|(event, index)| (self.first.plus(index), event))
    }
}

pub(crate) fn check_event(event: &NewEvent) -> Result<(), InvalidWrite> {
    check_payload(&event.payload)?;
    if let Some(metadata) = &event.metadata {
        check_payload(metadata)?;
    }
    check_tags(&event.tags)
}

pub(crate) fn check_payload(payload: &SerializedPayload) -> Result<(), InvalidWrite> {
    if payload.serializer_id == NO_PAYLOAD_ID {
        return Err(InvalidWrite::ReservedSerializer);
    }
    let chars = payload.manifest.chars().count();
    if chars > MAX_MANIFEST_CHARS {
        return Err(InvalidWrite::ManifestTooLong { chars });
    }
    if payload.manifest.contains('\0') {
        return Err(InvalidWrite::Nul { what: "manifest" });
    }
    Ok(())
}

pub(crate) fn check_tags(tags: &[String]) -> Result<(), InvalidWrite> {
    if tags.iter().any(|tag| tag.contains('\0')) {
        return Err(InvalidWrite::Nul { what: "tag" });
    }
    Ok(())
}

/// Why a write cannot be stored in any table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidWrite {
    /// No event, and no change of a reminder.
    #[error("a write needs at least one event or one change of a reminder")]
    Empty,
    /// Two changes of one reminder.
    #[error("the reminder \"{key}\" is changed twice by one write")]
    ReminderTwice {
        /// Its key.
        key: String,
    },
    /// Numbers that do not exist.
    #[error("{count} events from sequence number {first} on leave 1 to 9223372036854775807")]
    Numbers {
        /// The first number.
        first: u64,
        /// How many events.
        count: usize,
    },
    /// A revision that does not come after the one before.
    #[error("revision {revision} cannot follow revision {expected}")]
    Revision {
        /// The revision that the row must have.
        expected: u64,
        /// The one that it was to get.
        revision: u64,
    },
    /// Serializer id 0.
    #[error("serializer id 0 is reserved for \"no payload\"")]
    ReservedSerializer,
    /// More than the column holds.
    #[error("a manifest has {chars} characters, at most {MAX_MANIFEST_CHARS} can be stored")]
    ManifestTooLong {
        /// Its length.
        chars: usize,
    },
    /// PostgreSQL text cannot hold U+0000.
    #[error("a {what} contains U+0000, which cannot be stored")]
    Nul {
        /// Where.
        what: &'static str,
    },
}

/// What a journal or durable state store says of a stored write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The `db_timestamp` of all its events or of the state, in microseconds.
    pub timestamp: Timestamp,
}

/// An event as it stands in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its number.
    pub seq_nr: SequenceNr,
    /// The database's time of its write.
    pub timestamp: Timestamp,
    /// The encoded event.
    pub payload: SerializedPayload,
    /// Metadata beside the event.
    pub metadata: Option<SerializedPayload>,
}

/// How much one page of a replay may hold at the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimit {
    /// Rows, delete markers included; at least 1.
    pub rows: usize,
    /// Payload bytes after which the page ends: the row with which it reaches them is its last, so
    /// that even 0 lets one row through.
    pub bytes: usize,
}

/// A page of a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayPage {
    /// Events in ascending order, without those that were deleted.
    pub events: Vec<StoredEvent>,
    /// The highest number among the page's rows, delete markers included;
    /// [`SequenceNr::ZERO`] if there were none.
    pub highest: SequenceNr,
    /// The time of the row with the highest number, marker or event.
    pub highest_timestamp: Option<Timestamp>,
    /// Whether rows may follow; the next page starts after `highest`.
    pub more: bool,
}

/// Stores events and gives them back.
///
/// Every store is run against one suite of contract tests.
pub trait Journal: Debug + Send + Sync + 'static {
    /// Stores a batch of atomic writes of any number of entities and answers each one separately,
    /// in the order of the batch.
    ///
    /// Each write is stored whole or not at all, and its fate does not depend on the others': a
    /// conflict or a bad row fails its own write only. Several writes of one entity stand in the
    /// batch in ascending, contiguous order; when one fails, the later ones of that entity fail
    /// with it, with an error of the same kind. All events of a write get one `db_timestamp`:
    /// the transaction's start plus the write's position in the batch in microseconds, and at
    /// least a microsecond later than the entity's previous one.
    ///
    /// *Idempotent*: a write whose rows are all there already with its own writer id is answered
    /// as written, so an identical batch may be sent again after an unknown outcome.
    ///
    /// *Fenced*: any other write is refused if one of its numbers is taken by an event, or if its id
    /// has a delete marker at or above the write's first number. So a stale writer is noticed
    /// although the events that it does not know of were deleted since. What the fence rests on is
    /// that every deletion but [`Journal::remove_events`] leaves its marker in the same transaction.
    /// The later writes of an id in the same batch are not in the way of its earlier ones.
    ///
    /// Free numbers below an event that no deletion has freed, such as those that another program
    /// skipped, may be given or refused as superseded, which a store decides as it is cheaper. No
    /// writer asks for one that has recovered what is there.
    ///
    /// The [reply](AtomicWrite::reply) of a write is stored in the transaction of its events, so it
    /// is there if and only if they are. So are the changes of its
    /// [reminders](AtomicWrite::reminders). A write without events is fenced as if it had the
    /// writer's next one; it may be stored twice with the same effect, but not after a later write of
    /// its writer.
    ///
    /// # Errors
    /// One per write: [`Error::Conflict`] (an event of another writer has one of the numbers, and
    /// the write never was stored), [`Error::Superseded`] (no event has, but the numbers go beyond
    /// it; whether an earlier attempt stored it nobody can say), [`Error::CommandTaken`] (another
    /// writer has stored a reply to the same command), [`Error::Rejected`] (this data cannot be
    /// stored), [`Error::Unavailable`] (try the identical write again; it may have been stored if
    /// `outcome_unknown`).
    ///
    /// # Cancel safety
    /// Not cancel safe: once polled, dropping the future leaves the outcome unknown.
    ///
    /// Source: Pekko `JournalDao.writeEvents`, for many ids at once.
    fn write_events<'a>(
        &'a self,
        batch: &'a [AtomicWrite],
    ) -> BoxFuture<'a, Vec<Result<Written, Error>>>;

    /// Reads one page of the events of an id with numbers from `from` to `to`, both included.
    ///
    /// # Errors
    /// [`Error::Unavailable`], and [`Error::Corrupt`] for a row that is no event.
    ///
    /// # Cancel safety
    /// Cancel safe.
    fn replay_events<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        from: SequenceNr,
        to: SequenceNr,
        limit: PageLimit,
    ) -> BoxFuture<'a, Result<ReplayPage, Error>>;

    /// The highest number among the rows of an id from `from` on, delete markers included;
    /// [`SequenceNr::ZERO`] if there are none.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    fn highest_sequence_nr<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        from: SequenceNr,
    ) -> BoxFuture<'a, Result<SequenceNr, Error>>;

    /// Deletes the events of an id up to `to`, included, and leaves a marker row in the same
    /// transaction, so that numbering goes on after it.
    ///
    /// [`SequenceNr::MAX`] stands for the highest number there is (0 if there are no rows, which
    /// leaves a marker at 0). Any other number becomes the marker's, even above the highest. The
    /// marker is not earlier than the events that it stands for.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; asking again is safe. [`Error::Rejected`] if the database has a rule
    /// against it, such as a trigger of another program.
    ///
    /// # Cancel safety
    /// Not cancel safe: dropping the future leaves open whether the events are gone.
    ///
    /// Source: Pekko `JournalDao.deleteEventsTo`.
    fn delete_events<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        to: SequenceNr,
    ) -> BoxFuture<'a, Result<(), Error>>;

    /// Removes the `limit` lowest rows of an id up to `to`, included, events and markers alike, in
    /// one transaction, and leaves nothing in their place. Gives how many rows that were; fewer than
    /// `limit`, which is at least 1, once none is left.
    ///
    /// Meant for forgetting an id that nobody uses: nothing keeps a stale writer from the numbers
    /// that become free. When every row is gone, nobody knows any more which were used, and the next
    /// writer begins with 1.
    ///
    /// # Errors
    /// As [`Journal::delete_events`].
    ///
    /// # Cancel safety
    /// Not cancel safe: dropping the future leaves open whether the rows are gone.
    ///
    /// Source: Pekko `JournalDao.deleteEventsTo` with `resetSequenceNumber`.
    fn remove_events<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        to: SequenceNr,
        limit: usize,
    ) -> BoxFuture<'a, Result<usize, Error>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> PersistenceId {
        PersistenceId::new("Cart", "a").expect("a valid id")
    }

    fn event(manifest: &str) -> NewEvent {
        NewEvent::new(SerializedPayload::new(77, manifest, &b"x"[..]))
    }

    fn check(first: u64, events: Vec<NewEvent>) -> Result<AtomicWrite, InvalidWrite> {
        let first = SequenceNr::new(first).expect("in range");
        AtomicWrite::new(id(), WriterId::from_random_bits(1), first, events)
    }

    #[test]
    fn numbers_are_contiguous_and_bounded() {
        let write = check(7, vec![event(""), event(""), event("")]).expect("valid");
        let numbers: Vec<u64> = write.numbered().map(|(nr, _)| nr.value()).collect();
        assert_eq!(numbers, [7, 8, 9]);
        assert_eq!(write.last().value(), 9);

        let max = SequenceNr::MAX.value();
        assert!(check(max, vec![event("")]).is_ok());
        assert!(matches!(
            check(max, vec![event(""), event("")]),
            Err(InvalidWrite::Numbers { .. })
        ));
        assert!(matches!(
            check(0, vec![event("")]),
            Err(InvalidWrite::Numbers { .. })
        ));
        assert_eq!(check(1, vec![]), Err(InvalidWrite::Empty));
    }

    #[test]
    fn a_write_of_reminders_stands_between_two_events() {
        let forget = |key: &str| ReminderChange::Forget {
            key: ReminderKey::new(key).expect("valid"),
            due: None,
        };
        let of = |next: u64, changes| {
            let next = SequenceNr::new(next).expect("in range");
            AtomicWrite::of_reminders(id(), WriterId::from_random_bits(1), next, changes)
        };
        let write = of(7, vec![forget("a"), forget("b")]).expect("valid");
        assert_eq!((write.first().value(), write.last().value()), (7, 6));
        assert_eq!(write.witnesses(), (1, write.first()));
        assert_eq!(write.numbered().count(), 0);
        assert_eq!(of(1, vec![forget("a")]).expect("valid").last().value(), 0);
        assert_eq!(of(1, vec![]), Err(InvalidWrite::Empty));
        let zero = of(0, vec![forget("a")]);
        assert!(matches!(zero, Err(InvalidWrite::Numbers { .. })));
        let twice = of(7, vec![forget("b"), forget("a"), forget("b")]);
        let key = "b".to_owned();
        assert_eq!(twice, Err(InvalidWrite::ReminderTwice { key }));

        let mut events = check(7, vec![event(""), event("")]).expect("valid");
        assert_eq!(events.witnesses(), (2, events.last()));
        events
            .set_reminders(vec![forget("a")])
            .expect("one of a key");
        assert_eq!(events.reminders(), [forget("a")]);
        events.set_reminders(vec![]).expect("none");
        assert!(events.reminders().is_empty());
    }

    #[test]
    fn what_no_table_holds_is_refused_before_it_joins_a_batch() {
        assert!(check(1, vec![event(&"m".repeat(255))]).is_ok());
        assert_eq!(
            check(1, vec![event(&"m".repeat(256))]),
            Err(InvalidWrite::ManifestTooLong { chars: 256 })
        );
        assert_eq!(
            check(1, vec![event("m\0")]),
            Err(InvalidWrite::Nul { what: "manifest" })
        );
        let mut tagged = event("");
        tagged.tags.push("a\0".to_owned());
        assert_eq!(
            check(1, vec![tagged]),
            Err(InvalidWrite::Nul { what: "tag" })
        );
        let mut reserved = event("");
        reserved.payload.serializer_id = 0;
        assert_eq!(
            check(1, vec![reserved]),
            Err(InvalidWrite::ReservedSerializer)
        );
    }

    #[test]
    fn a_writer_id_is_a_random_uuid() {
        assert_eq!(
            WriterId::from_random_bits(u128::MAX).to_string(),
            "ffffffff-ffff-4fff-bfff-ffffffffffff"
        );
    }
}
