//! The durable state store: the latest state of each entity, and nothing of what came before it.

use std::fmt::Debug;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::BoxFuture;
use crate::command_reply::{NewReply, StoredReply};
use crate::error::Error;
use crate::id::PersistenceId;
use crate::journal::{
    InvalidWrite, NewEvent, WriterId, Written, check_event, check_payload, check_tags,
};
use crate::payload::SerializedPayload;
use crate::sequence::SequenceNr;

/// What a write makes of an entity's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateChange {
    /// The state is this from now on.
    Put {
        /// The encoded state.
        payload: SerializedPayload,
        /// Tags in place of those that were there; the column is NULL when there are none.
        ///
        /// The APIs of Akka and Pekko know at most one; any number can be stored.
        tags: Vec<String>,
    },
    /// There is no state from now on.
    Delete,
}

/// A change of one entity's state on its way into the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateWrite {
    persistence_id: PersistenceId,
    expected: SequenceNr,
    revision: SequenceNr,
    change: StateChange,
    told: Option<Box<ChangeEvents>>,
    reply: Option<Box<NewReply>>,
    /// Whether an earlier attempt at this write may have stored it: one that ended with an unknown
    /// outcome, or whose future was dropped. `false` at first; the writer sets it before it sends
    /// the write again. No part of the write's identity.
    pub maybe_stored: bool,
}

impl StateWrite {
    /// A change that makes `revision` of `expected`, which is [`SequenceNr::ZERO`] where there is
    /// no row.
    ///
    /// Normally `revision` is the next number. It is further on if the write stands for several
    /// updates in a row of which only the last one is still of interest.
    ///
    /// # Errors
    /// [`InvalidWrite`] for what no table can hold: a revision that is not above the expected one,
    /// serializer id 0, a manifest of more than 255 characters, U+0000 in a manifest or tag.
    pub fn new(
        persistence_id: PersistenceId,
        expected: SequenceNr,
        revision: SequenceNr,
        change: StateChange,
    ) -> Result<Self, InvalidWrite> {
        if revision <= expected {
            return Err(InvalidWrite::Revision {
                expected: expected.value(),
                revision: revision.value(),
            });
        }
        if let StateChange::Put { payload, tags } = &change {
            check_payload(payload)?;
            check_tags(tags)?;
        }
        Ok(Self {
            persistence_id,
            expected,
            revision,
            change,
            told: None,
            reply: None,
            maybe_stored: false,
        })
    }

    /// Has events stored in the journal that tell of the change, in the transaction of the state.
    /// The last one gets the state's revision as its number, those before it the numbers before.
    ///
    /// # Errors
    /// [`InvalidWrite::Empty`]; [`InvalidWrite::Numbers`] for more events than the write makes
    /// revisions; what [`AtomicWrite::new`] refuses in an event.
    ///
    /// [`AtomicWrite::new`]: crate::AtomicWrite::new
    pub fn set_change_events(
        &mut self,
        writer: WriterId,
        events: Vec<NewEvent>,
    ) -> Result<(), InvalidWrite> {
        let made = self.revision.value() - self.expected.value();
        let count = events.len() as u64;
        if count == 0 {
            return Err(InvalidWrite::Empty);
        }
        if count > made {
            return Err(InvalidWrite::Numbers {
                first: self.expected.value() + 1,
                count: events.len(),
            });
        }
        for event in &events {
            check_event(event)?;
        }
        let first = SequenceNr::new(self.revision.value() - count + 1).unwrap_or_default();
        self.told = Some(Box::new(ChangeEvents {
            writer,
            first,
            events,
        }));
        Ok(())
    }

    /// The events that are stored with the state, if it has any.
    pub fn change_events(&self) -> Option<&ChangeEvents> {
        self.told.as_deref()
    }

    /// Has a reply stored with the state, under its revision.
    pub fn set_reply(&mut self, reply: NewReply) {
        self.reply = Some(Box::new(reply));
    }

    /// The reply that is stored with the state, if its command has an id.
    pub fn reply(&self) -> Option<&NewReply> {
        self.reply.as_deref()
    }

    /// Whether anything is stored with the state, in other tables.
    pub fn has_company(&self) -> bool {
        self.told.is_some() || self.reply.is_some()
    }

    /// Whose state it is.
    pub fn persistence_id(&self) -> &PersistenceId {
        &self.persistence_id
    }

    /// The revision that the row must have; [`SequenceNr::ZERO`] if there must be none.
    pub fn expected(&self) -> SequenceNr {
        self.expected
    }

    /// The revision that the row gets.
    pub fn revision(&self) -> SequenceNr {
        self.revision
    }

    /// What happens to the state.
    pub fn change(&self) -> &StateChange {
        &self.change
    }

    /// The refusal of a store with this effect of a deletion, if it takes nothing of what is to be
    /// stored with the state.
    pub fn refused_company(&self, deletion: DurableStateDelete) -> Option<Error> {
        let is_refused = deletion == DurableStateDelete::Row && self.has_company();
        is_refused.then(|| Error::Rejected {
            persistence_id: self.persistence_id.clone(),
            reason: "the store removes the rows of deleted states, after which revisions begin \
                     again, so neither events nor replies can be stored under them; set \
                     `durable-state-delete = \"marker\"`"
                .to_owned(),
            source: None,
        })
    }

    /// Whether `row` is what this write leaves, whoever has written it.
    fn is_what_stands_in(&self, row: &StoredState) -> bool {
        if row.revision != self.revision {
            return false;
        }
        match (&self.change, &row.payload) {
            (StateChange::Put { payload, tags }, Some(stored)) => {
                // A table may keep tags in any order.
                let as_set = |tags: &[String]| {
                    let mut tags = tags.to_vec();
                    tags.sort_unstable();
                    tags
                };
                payload == stored && as_set(tags) == as_set(&row.tags)
            }
            // A marker keeps the tags of the state before it.
            (StateChange::Delete, None) => true,
            _ => false,
        }
    }
}

/// Events that tell of a state's changes, on their way into the journal together with the state.
///
/// Source: Akka's change events of durable states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeEvents {
    writer: WriterId,
    first: SequenceNr,
    events: Vec<NewEvent>,
}

impl ChangeEvents {
    /// The incarnation that writes.
    pub fn writer(&self) -> WriterId {
        self.writer
    }

    /// The events, at least one.
    pub fn events(&self) -> &[NewEvent] {
        &self.events
    }

    /// The events with their numbers.
    pub fn numbered(&self) -> impl Iterator<Item = (SequenceNr, &NewEvent)> {
        let numbers = (0_u64..).map(|index| self.first.plus(index));
        numbers.zip(&self.events)
    }
}

/// The state of an entity as it stands in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredState {
    /// How often it was changed; 1 after the first time.
    pub revision: SequenceNr,
    /// The database's time of the last change.
    pub timestamp: Timestamp,
    /// The encoded state; `None` if it was deleted and the row is a marker.
    pub payload: Option<SerializedPayload>,
    /// Its tags, in any order. A marker has those of the state that was deleted.
    pub tags: Vec<String>,
}

/// What deleting a state leaves in the table; a setting of the store for the sake of its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum DurableStateDelete {
    /// A marker row with the next revision, serializer id 0 and no bytes, as Akka and Pekko from
    /// 2.0 on write and read it. A writer that does not know of the deletion is refused, for ever.
    #[default]
    Marker,
    /// Nothing: the row is removed, as Pekko 1.x does, which would read a marker as a null.
    ///
    /// An id without row then fits every expected revision, so that a writer that has deleted its
    /// state can go on with its own numbers, as Pekko 1.x does. What is given up for that: the
    /// numbers begin again with 1 for a writer that loads the id, a stale writer's put brings a
    /// deleted state back, and so can a write that arrives late. Nothing can be stored with a
    /// state under its revision: neither change events nor the replies to commands with ids.
    /// Choose it only while programs with Pekko 1.x use the same ids.
    ///
    /// Source: Pekko 1.2 `DurableStateDao.upsertState` and `deleteState`.
    Row,
}

/// Stores the latest state of each entity.
///
/// Every store is run against one suite of contract tests, once for each [`DurableStateDelete`].
pub trait DurableStateStore: Debug + Send + Sync + 'static {
    /// What deleting a state leaves in the table.
    fn deletion_leaves(&self) -> DurableStateDelete;

    /// The row of an id. Without a row the entity has no state and revision
    /// [`SequenceNr::ZERO`].
    ///
    /// # Errors
    /// [`Error::Unavailable`], and [`Error::Corrupt`] for a row that is no state: one with
    /// serializer id 0, which means "no payload", and bytes nevertheless; or several rows for the
    /// one id, which a program without a guard against it has left.
    ///
    /// # Cancel safety
    /// Cancel safe.
    fn load<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
    ) -> BoxFuture<'a, Result<Option<StoredState>, Error>>;

    /// Changes the states of any number of entities and answers each write separately, in the
    /// order of the batch.
    ///
    /// A write's fate does not depend on other entities': a stale or bad one fails alone. Several
    /// writes of one entity stand in the batch in ascending order, each expecting the revision that
    /// the one before makes. Only the last of them needs to reach the table, which then never sees
    /// the others and cannot refuse them; all are answered with its time. When one fails, the later
    /// ones of that entity fail with it, with an error of the same kind, and the earlier ones are
    /// stored.
    ///
    /// The time of a write is the transaction's start plus its position in the batch in
    /// microseconds, and at least a microsecond later than the row's before.
    ///
    /// The [events](StateWrite::change_events) and the [reply](StateWrite::reply) of a write are
    /// stored in the transaction of its state, so they are there if and only if it was stored, also
    /// when only a later write of the batch reaches the table of states. The events of a write have
    /// one time; it grows by a microsecond from write to write of an entity, up to that of the row.
    /// Replies have the time of the transaction or of the row. A store that removes the rows of
    /// deleted states takes neither, as their numbers would begin again.
    ///
    /// There is never a second row for an id: the first is inserted only if there is none, whatever
    /// its revision.
    ///
    /// *Idempotent*: a write with [`StateWrite::maybe_stored`] whose revision, payload and tags (or
    /// marker) stand in the row is answered as written, so the batch may be sent again after an
    /// unknown outcome, whole or with more writes behind it. The rows name no writer, so the row may
    /// be another writer's that made the same of the same revision while this one's request was
    /// lost. Then each of the two was told that its state is stored, and it is, but for what an
    /// earlier write of the same batch had put and this one replaced. A change that must
    /// count twice when it is made twice needs something of its own in the state, such as the
    /// command's id. With a change event or a reply there is no such doubt, as it has to stand in
    /// its place too. A first attempt is not treated so: whatever stands in its place is another's.
    ///
    /// # Errors
    /// One per write: [`Error::StaleRevision`] (the row has another revision, or another writer
    /// has made the same of the same one), [`Error::Conflict`] (the number of one of its events is
    /// taken), [`Error::CommandTaken`] (another writer has stored a reply to the same command),
    /// [`Error::Superseded`] (the row is as the write would leave it, but what would tell whose it
    /// is has been deleted), [`Error::Rejected`] (this data cannot be stored), [`Error::Corrupt`]
    /// (see [`DurableStateStore::load`]), [`Error::Unavailable`] (try the identical write again,
    /// with [`StateWrite::maybe_stored`] if `outcome_unknown`).
    ///
    /// # Cancel safety
    /// Not cancel safe: once polled, dropping the future leaves the outcome unknown.
    ///
    /// Source: Pekko `DurableStateDao.upsertState`, for many ids at once.
    fn write_states<'a>(
        &'a self,
        batch: &'a [StateWrite],
    ) -> BoxFuture<'a, Vec<Result<Written, Error>>>;

    /// Removes everything of an id, whatever its revision, and succeeds if there is nothing.
    ///
    /// Meant for cleaning up while nobody uses the id. A writer that still does is refused with
    /// its next write, or brings the id back, as [`DurableStateDelete`] says; one that loads it
    /// begins with revision 1.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; asking again is safe. [`Error::Rejected`] if the database has a rule
    /// against it.
    ///
    /// # Cancel safety
    /// Not cancel safe: dropping the future leaves open whether the row is gone.
    ///
    /// Source: Pekko `DurableStateDao.deleteState` with revision 0.
    fn remove<'a>(&'a self, persistence_id: &'a PersistenceId) -> BoxFuture<'a, Result<(), Error>>;
}

/// A batch of state writes as the table sees it: sorted by id, the writes of one id folded into
/// one change of its row. For those who implement a store.
///
/// ```
/// use perennial_persistence::{
///     FoldedBatch, FoldedOutcome, PersistenceId, SequenceNr, StateChange, StateWrite, Timestamp,
///     Written,
/// };
///
/// let id = PersistenceId::new("Cart", "a")?;
/// let delete = |expected: u64| {
///     let expected = SequenceNr::new(expected).expect("small");
///     StateWrite::new(id.clone(), expected, expected.next(), StateChange::Delete)
/// };
/// let batch = [delete(5)?, delete(6)?];
/// let folded = FoldedBatch::new(&batch, |_| None);
/// let only = folded.get(0);
/// assert_eq!((only.expected().value(), only.revision().value()), (5, 7));
///
/// let written = Written { timestamp: Timestamp::UNIX_EPOCH };
/// let answers = folded.answers([FoldedOutcome::from(Ok(written))]);
/// assert!(answers.iter().all(Result::is_ok));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FoldedBatch<'a> {
    /// With their places in the batch; equal ids in its order.
    sorted: Vec<(usize, &'a StateWrite)>,
    ids: Vec<OfOneId>,
}

/// Where the writes of one id stand in [`FoldedBatch::sorted`].
#[derive(Debug)]
struct OfOneId {
    start: usize,
    /// After the last one that may be sent.
    sendable: usize,
    end: usize,
    /// Why the one at `sendable` may not be sent.
    obstacle: Option<Error>,
}

impl<'a> FoldedBatch<'a> {
    /// Folds a batch. `refuse` names the writes that the store takes from nobody; they and the
    /// later ones of their ids are not sent. Nor are those that do not expect the revision which
    /// the one before makes.
    pub fn new(batch: &'a [StateWrite], refuse: impl Fn(&StateWrite) -> Option<Error>) -> Self {
        let mut sorted: Vec<(usize, &StateWrite)> = batch.iter().enumerate().collect();
        // By bytes, as everybody who locks several rows does.
        sorted.sort_by(|(_, a), (_, b)| a.persistence_id.cmp(&b.persistence_id));
        let mut ids = Vec::new();
        let mut start = 0;
        while let Some((_, first)) = sorted.get(start) {
            let of_id = sorted[start..]
                .iter()
                .take_while(|(_, write)| write.persistence_id == first.persistence_id);
            let mut end = start;
            let mut sendable = start;
            let mut obstacle = None;
            let mut before = first.expected;
            for (_, write) in of_id {
                if obstacle.is_none() {
                    obstacle = if write.expected == before {
                        refuse(write)
                    } else {
                        Some(write.stale(before))
                    };
                    sendable += usize::from(obstacle.is_none());
                }
                before = write.revision;
                end += 1;
            }
            ids.push(OfOneId {
                start,
                sendable,
                end,
                obstacle,
            });
            start = end;
        }
        Self { sorted, ids }
    }

    /// How many ids there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// How many writes the batch has, those that are not sent included.
    pub fn writes(&self) -> usize {
        self.sorted.len()
    }

    /// What is to be sent for the id with this index. Ids are sorted by their bytes; one may have
    /// nothing to be sent.
    ///
    /// # Panics
    /// If there is no such index.
    pub fn get(&self, index: usize) -> FoldedWrite<'a, '_> {
        let id = &self.ids[index];
        FoldedWrite {
            persistence_id: &self.sorted[id.start].1.persistence_id,
            writes: &self.sorted[id.start..id.sendable],
        }
    }

    /// The answers to the batch, in its order, from the outcomes of all ids, in their order.
    ///
    /// # Panics
    /// If there are fewer outcomes than ids.
    pub fn answers(
        &self,
        outcomes: impl IntoIterator<Item = FoldedOutcome>,
    ) -> Vec<Result<Written, Error>> {
        let mut answers: Vec<Option<Result<Written, Error>>> = vec![None; self.sorted.len()];
        let mut outcomes = outcomes.into_iter();
        for id in &self.ids {
            let outcome = outcomes.next().expect("every id has an outcome");
            let first = self.sorted[id.start..id.sendable].iter();
            for (n, &(index, _)) in first.enumerate() {
                answers[index] = Some(match outcome.stored {
                    Some((count, written)) if n < count => Ok(written),
                    _ => outcome.rest.clone(),
                });
            }
            // What failed takes the later ones with it; otherwise it is the obstacle that does.
            let failure = match (&outcome.rest, &id.obstacle) {
                (Err(error), _) if id.sendable > id.start => error,
                (_, Some(obstacle)) => obstacle,
                (_, None) => continue,
            };
            for &(index, _) in &self.sorted[id.sendable..id.end] {
                answers[index] = Some(Err(failure.clone()));
            }
        }
        answers
            .into_iter()
            .map(|answer| answer.expect("every write belongs to an id"))
            .collect()
    }
}

impl StateWrite {
    fn stale(&self, found: SequenceNr) -> Error {
        Error::StaleRevision {
            persistence_id: self.persistence_id.clone(),
            expected: self.expected,
            found,
        }
    }
}

/// The writes of one id in a batch, as the one change of its row that they amount to.
#[derive(Debug, Clone, Copy)]
pub struct FoldedWrite<'a, 'b> {
    persistence_id: &'a PersistenceId,
    writes: &'b [(usize, &'a StateWrite)],
}

impl<'a> FoldedWrite<'a, '_> {
    /// Whose state it is.
    pub fn persistence_id(&self) -> &'a PersistenceId {
        self.persistence_id
    }

    /// How many writes it stands for.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Only the writes from `skip` on, and only `count` of them.
    #[must_use]
    pub fn part(self, skip: usize, count: usize) -> Self {
        let end = skip.saturating_add(count).min(self.writes.len());
        Self {
            writes: &self.writes[skip.min(end)..end],
            ..self
        }
    }

    /// The revision that the row must have; [`SequenceNr::ZERO`] if there must be none.
    pub fn expected(&self) -> SequenceNr {
        let first = self.writes.first();
        first.map_or(SequenceNr::ZERO, |(_, write)| write.expected)
    }

    /// The revision that the row gets.
    pub fn revision(&self) -> SequenceNr {
        let last = self.writes.last();
        last.map_or(SequenceNr::ZERO, |(_, write)| write.revision)
    }

    /// The place in the batch of the write that reaches the table.
    pub fn position(&self) -> usize {
        self.writes.last().map_or(0, |&(index, _)| index)
    }

    /// The state that the row gets; `None` if it is deleted.
    pub fn payload(&self) -> Option<&'a SerializedPayload> {
        match self.writes.last().map(|(_, write)| &write.change) {
            Some(StateChange::Put { payload, .. }) => Some(payload),
            Some(StateChange::Delete) | None => None,
        }
    }

    /// The tags that the row gets; `None` if it keeps its own, as a marker does.
    pub fn tags(&self) -> Option<&'a [String]> {
        let mut latest_first = self.writes.iter().rev();
        latest_first.find_map(|(_, write)| match &write.change {
            StateChange::Put { tags, .. } => Some(&tags[..]),
            StateChange::Delete => None,
        })
    }

    /// Whether an earlier attempt may have stored some of it.
    pub fn maybe_stored(&self) -> bool {
        self.writes.iter().any(|(_, write)| write.maybe_stored)
    }

    /// What is stored with the row in other tables, write by write, each with the index of its
    /// write. The changes that no row shows have theirs too.
    pub fn companions(self) -> impl Iterator<Item = (usize, Companion<'a>)> {
        let writes = self.writes.iter().map(|&(_, write)| write);
        writes
            .enumerate()
            .flat_map(|(index, write)| write.companions().map(move |one| (index, one)))
    }

    /// Whether anything is stored with the row in other tables.
    pub fn has_company(&self) -> bool {
        self.writes.iter().any(|(_, write)| write.has_company())
    }

    /// By how many microseconds the row's time is later than the one before at least. With events
    /// every write has a time of its own, up to that of the row, which is the last one's.
    pub fn time_steps(&self) -> usize {
        let has_events = self.writes.iter().any(|(_, write)| write.told.is_some());
        if has_events { self.writes.len() } else { 1 }
    }

    /// What tells that a row which looks like that of the first `count` writes is theirs and not
    /// another writer's that made the same of the same revision; `None` if nothing does. The row
    /// of [`count_stored`](Self::count_stored) is theirs if [`Companion::is_own`] says so.
    pub fn witness(&self, count: usize) -> Option<Companion<'a>> {
        let (_, write) = count
            .checked_sub(1)
            .and_then(|last| self.writes.get(last))?;
        // The events come first, and name their writer.
        let last_event = write
            .companions()
            .filter(|one| matches!(one, Companion::Event { .. }))
            .last();
        last_event.or_else(|| write.companions().last())
    }

    /// How many of the writes, from the first one on, an earlier attempt has stored, judged by the
    /// id's row. The row is then the one that the next write expects.
    ///
    /// # Errors
    /// [`Error::StaleRevision`] if the row is none that any of the writes expects or has made.
    pub fn count_stored(
        &self,
        row: Option<&StoredState>,
        delete: DurableStateDelete,
    ) -> Result<usize, Error> {
        let Some((_, first)) = self.writes.first() else {
            return Ok(0);
        };
        let Some(row) = row else {
            return match delete {
                _ if first.expected == SequenceNr::ZERO => Ok(0),
                DurableStateDelete::Row => Ok(0),
                DurableStateDelete::Marker => Err(first.stale(SequenceNr::ZERO)),
            };
        };
        if row.revision == first.expected {
            return Ok(0);
        }
        let stored = self
            .writes
            .iter()
            .position(|(_, write)| write.maybe_stored && write.is_what_stands_in(row));
        match stored {
            Some(last) => Ok(last + 1),
            None => Err(first.stale(row.revision)),
        }
    }
}

/// Something that is stored with a state in another table. It has a place of its own there: a number
/// in the journal, or the id of its command.
#[derive(Debug, Clone, Copy)]
pub enum Companion<'a> {
    /// An event that tells of the change.
    Event {
        /// Who writes it.
        writer: WriterId,
        /// Its number.
        seq_nr: SequenceNr,
        /// What it says.
        event: &'a NewEvent,
    },
    /// The reply to the command.
    Reply {
        /// The revision that the command made.
        seq_nr: SequenceNr,
        /// What was answered.
        reply: &'a NewReply,
    },
}

/// What stands in the place of a [`Companion`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Occupant {
    /// An event of the same writer.
    OwnEvent,
    /// An event of another writer.
    OtherEvent,
    /// The marker of deleted events.
    Marker,
    /// A reply to the same command.
    Reply(StoredReply),
}

impl StateWrite {
    /// What is stored with the state in other tables: the events, then the reply.
    pub fn companions(&self) -> impl Iterator<Item = Companion<'_>> {
        let told = self.told.as_deref().into_iter();
        let events = told.flat_map(|told| {
            let numbered = told.numbered();
            numbered.map(|(seq_nr, event)| Companion::Event {
                writer: told.writer,
                seq_nr,
                event,
            })
        });
        let seq_nr = self.revision;
        let reply = self.reply.as_deref().into_iter();
        events.chain(reply.map(move |reply| Companion::Reply { seq_nr, reply }))
    }
}

impl Companion<'_> {
    /// How many bytes there are to be stored, columns of fixed size not counted.
    pub fn bytes(&self) -> usize {
        let size = |payload: &SerializedPayload| payload.bytes.len();
        match self {
            Self::Event { event, .. } => {
                let tags: usize = event.tags.iter().map(String::len).sum();
                size(&event.payload) + event.metadata.as_ref().map_or(0, size) + tags
            }
            Self::Reply { reply, .. } => reply.payload().map_or(0, size),
        }
    }

    /// Why it cannot be stored beside what stands in its place.
    pub fn obstacle(&self, id: &PersistenceId, there: Option<&Occupant>) -> Option<Error> {
        let persistence_id = id.clone();
        match (self, there?) {
            (Self::Event { seq_nr, .. }, Occupant::Marker) => Some(superseded(id, *seq_nr)),
            (Self::Event { seq_nr, .. }, _) => Some(Error::Conflict {
                persistence_id,
                seq_nr: *seq_nr,
            }),
            (Self::Reply { reply, .. }, Occupant::Reply(there))
                if there.seq_nr > reply.replaces_to() =>
            {
                Some(Error::CommandTaken {
                    persistence_id,
                    command_id: reply.command_id().clone(),
                })
            }
            (Self::Reply { .. }, _) => None,
        }
    }

    /// Whether what stands in its place is this one and was stored by an earlier attempt.
    ///
    /// # Errors
    /// Whose it is instead. [`Error::Superseded`] if the place is free: what stood there may have
    /// been deleted, and nobody can say.
    pub fn is_own(&self, id: &PersistenceId, there: Option<&Occupant>) -> Result<(), Error> {
        match (self, there) {
            (Self::Event { .. }, Some(Occupant::OwnEvent)) => Ok(()),
            (Self::Event { seq_nr, .. }, Some(Occupant::OtherEvent)) => Err(Error::StaleRevision {
                persistence_id: id.clone(),
                expected: SequenceNr::new(seq_nr.value() - 1).unwrap_or_default(),
                found: *seq_nr,
            }),
            (Self::Reply { seq_nr, reply }, Some(Occupant::Reply(there)))
                if there.seq_nr == *seq_nr
                    && there.fingerprint == *reply.fingerprint()
                    && there.payload.as_ref() == reply.payload() =>
            {
                Ok(())
            }
            (Self::Event { seq_nr, .. }, _) => Err(superseded(id, *seq_nr)),
            (Self::Reply { seq_nr, .. }, _) => {
                let taken = self.obstacle(id, there);
                Err(taken.unwrap_or_else(|| superseded(id, *seq_nr)))
            }
        }
    }
}

fn superseded(id: &PersistenceId, seq_nr: SequenceNr) -> Error {
    Error::Superseded {
        persistence_id: id.clone(),
        seq_nr,
        highest: seq_nr,
    }
}

/// How the writes of one id ended.
#[derive(Debug, Clone)]
pub struct FoldedOutcome {
    stored: Option<(usize, Written)>,
    rest: Result<Written, Error>,
}

impl FoldedOutcome {
    /// The first `count` writes were stored by themselves, and the rest ended so.
    pub fn after(count: usize, written: Written, rest: Result<Written, Error>) -> Self {
        Self {
            stored: Some((count, written)),
            rest,
        }
    }
}

/// All writes ended alike.
impl From<Result<Written, Error>> for FoldedOutcome {
    fn from(rest: Result<Written, Error>) -> Self {
        Self { stored: None, rest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command_reply::{CommandId, Fingerprint};

    fn seq(number: u64) -> SequenceNr {
        SequenceNr::new(number).expect("small")
    }

    fn id(name: &str) -> PersistenceId {
        PersistenceId::new("Cart", name).expect("valid")
    }

    fn put(name: &str, expected: u64, text: &str) -> StateWrite {
        let change = StateChange::Put {
            payload: SerializedPayload::new(77, "", text.as_bytes().to_vec()),
            tags: vec![text.to_owned()],
        };
        StateWrite::new(id(name), seq(expected), seq(expected + 1), change).expect("valid")
    }

    fn delete(name: &str, expected: u64) -> StateWrite {
        let change = StateChange::Delete;
        StateWrite::new(id(name), seq(expected), seq(expected + 1), change).expect("valid")
    }

    fn written(second: i64) -> Written {
        let timestamp = Timestamp::from_second(second).expect("in range");
        Written { timestamp }
    }

    fn row(revision: u64, text: Option<&str>) -> StoredState {
        StoredState {
            revision: seq(revision),
            timestamp: Timestamp::UNIX_EPOCH,
            payload: text.map(|text| SerializedPayload::new(77, "", text.as_bytes().to_vec())),
            tags: text.into_iter().map(str::to_owned).collect(),
        }
    }

    #[test]
    fn what_no_table_can_hold_is_refused() {
        let check = |expected, revision, payload: SerializedPayload, tag: &str, error| {
            let change = StateChange::Put {
                payload,
                tags: vec![tag.to_owned()],
            };
            let write = StateWrite::new(id("a"), seq(expected), seq(revision), change);
            assert_eq!(write.err(), error);
        };
        let payload = |id: i32, manifest: &str| SerializedPayload::new(id, manifest, &b""[..]);
        check(0, 1, payload(1, ""), "", None);
        check(3, 9, payload(1, ""), "", None);
        for (expected, revision) in [(1, 1), (2, 1), (0, 0)] {
            let error = InvalidWrite::Revision { expected, revision };
            check(expected, revision, payload(1, ""), "", Some(error));
        }
        let reserved = InvalidWrite::ReservedSerializer;
        check(0, 1, payload(0, ""), "", Some(reserved));
        let nul = |what| Some(InvalidWrite::Nul { what });
        check(0, 1, payload(1, "\0"), "", nul("manifest"));
        check(0, 1, payload(1, ""), "\0", nul("tag"));
        let long = InvalidWrite::ManifestTooLong { chars: 256 };
        check(0, 1, payload(1, &"é".repeat(256)), "", Some(long));
    }

    #[test]
    fn the_last_change_of_an_id_is_the_one_that_counts() {
        let batch = [
            put("b", 0, "b1"),
            put("a", 4, "a5"),
            put("b", 1, "b2"),
            delete("a", 5),
            delete("c", 0),
        ];
        let folded = FoldedBatch::new(&batch, |_| None);
        assert_eq!(folded.len(), 3);
        let summary = |n| {
            let write: FoldedWrite<'_, '_> = folded.get(n);
            let numbers = (write.expected().value(), write.revision().value());
            let tags = write.tags().map(|tags| tags.concat());
            (numbers, write.payload().is_some(), tags, write.position())
        };
        // The marker of a put state has the tags of that.
        assert_eq!(summary(0), ((4, 6), false, Some("a5".to_owned()), 3));
        assert_eq!(summary(1), ((0, 2), true, Some("b2".to_owned()), 2));
        assert_eq!(summary(2), ((0, 1), false, None, 4));

        let outcomes = [Ok(written(1)), Ok(written(2)), Err(batch[4].stale(seq(9)))];
        let answers = folded.answers(outcomes.map(FoldedOutcome::from));
        let times: Vec<Option<Written>> = answers.into_iter().map(Result::ok).collect();
        let (a, b) = (Some(written(1)), Some(written(2)));
        assert_eq!(times, [b, a, b, a, None]);
    }

    #[test]
    fn a_gap_and_a_refusal_fail_what_follows_and_nothing_before() {
        let batch = [
            put("gap", 0, "1"),
            put("gap", 2, "3"),
            put("gap", 3, "4"),
            put("refused", 0, "1"),
            put("refused", 1, "bad"),
            put("refused", 2, "3"),
            put("first", 0, "bad"),
        ];
        let refuse = |write: &StateWrite| match &write.change {
            StateChange::Put { tags, .. } if tags[0] == "bad" => Some(Error::Rejected {
                persistence_id: write.persistence_id.clone(),
                reason: "bad".to_owned(),
                source: None,
            }),
            _ => None,
        };
        let folded = FoldedBatch::new(&batch, refuse);
        // "first", "gap", "refused"
        let lengths: Vec<usize> = (0..3).map(|n| folded.get(n).len()).collect();
        assert_eq!(lengths, [0, 1, 1]);
        let good = || FoldedOutcome::from(Ok(written(1)));
        let answers = folded.answers([good(), good(), good()]);
        for (n, answer) in answers.iter().enumerate() {
            match answer {
                Ok(_) => assert!([0, 3].contains(&n), "{n}"),
                Err(Error::StaleRevision { found, .. }) => {
                    assert!([1, 2].contains(&n) && *found == seq(1), "{n}");
                }
                Err(Error::Rejected { .. }) => assert!(n >= 4, "{n}"),
                other => panic!("{other:?}"),
            }
        }
        // A failure of what was sent comes before the reason for which the rest was not.
        let lost = || FoldedOutcome::from(Err(Error::unavailable("away", None)));
        let answers = folded.answers([good(), lost(), lost()]);
        for answer in &answers[..6] {
            assert!(matches!(answer, Err(Error::Unavailable { .. })));
        }
    }

    #[test]
    fn the_row_tells_what_an_earlier_attempt_has_stored() {
        let mut batch = [put("a", 3, "4"), put("a", 4, "5"), delete("a", 5)];
        let marker = DurableStateDelete::Marker;
        let check =
            |batch: &[StateWrite], row: Option<StoredState>, expected: Result<usize, u64>| {
                let folded = FoldedBatch::new(batch, |_| None);
                let found = folded.get(0).count_stored(row.as_ref(), marker);
                let found = found.map_err(|error| match error {
                    Error::StaleRevision { found, .. } => found.value(),
                    other => panic!("{other:?}"),
                });
                assert_eq!(found, expected, "{row:?}");
            };
        // At the first attempt nothing but the expected revision will do.
        check(&batch, Some(row(3, Some("x"))), Ok(0));
        check(&batch, Some(row(4, Some("4"))), Err(4));
        check(&batch, Some(row(6, None)), Err(6));
        check(&batch, None, Err(0));
        for write in &mut batch {
            write.maybe_stored = true;
        }
        check(&batch, Some(row(3, Some("x"))), Ok(0));
        check(&batch, Some(row(4, Some("4"))), Ok(1));
        check(&batch, Some(row(5, Some("5"))), Ok(2));
        check(&batch, Some(row(6, None)), Ok(3));
        for other in [
            row(4, Some("other")),
            row(5, None),
            row(6, Some("5")),
            row(7, None),
            row(2, Some("4")),
        ] {
            let found = other.revision.value();
            check(&batch, Some(other), Err(found));
        }
        let mut other_tags = row(4, Some("4"));
        other_tags.tags.push("more".to_owned());
        check(&batch, Some(other_tags), Err(4));
    }

    fn writer(number: u128) -> WriterId {
        WriterId::from_random_bits(number)
    }

    fn told(mut write: StateWrite, texts: &[&str]) -> StateWrite {
        let payload = |text: &&str| SerializedPayload::new(77, "", text.as_bytes().to_vec());
        let events = texts.iter().map(payload).map(NewEvent::new).collect();
        write.set_change_events(writer(1), events).expect("valid");
        write
    }

    fn new_reply(name: &str, text: &str, replaces_to: u64) -> NewReply {
        let id = CommandId::new(name).expect("valid");
        let payload = SerializedPayload::new(77, "", text.as_bytes().to_vec());
        let fingerprint = Fingerprint::new([1; 32]);
        NewReply::new(id, fingerprint, Some(payload), seq(replaces_to)).expect("valid")
    }

    fn stored_reply(seq_nr: u64, text: &str) -> Occupant {
        Occupant::Reply(StoredReply {
            command_id: CommandId::new("x").expect("valid"),
            fingerprint: Fingerprint::new([1; 32]),
            seq_nr: seq(seq_nr),
            timestamp: Timestamp::UNIX_EPOCH,
            payload: Some(SerializedPayload::new(77, "", text.as_bytes().to_vec())),
        })
    }

    #[test]
    fn change_events_have_the_last_numbers_that_a_write_makes() {
        let change = StateChange::Delete;
        let mut write = StateWrite::new(id("a"), seq(3), seq(6), change).expect("valid");
        let event = || NewEvent::new(SerializedPayload::new(77, "", &b"x"[..]));
        let mut numbers = |count: usize| {
            write.set_change_events(writer(1), (0..count).map(|_| event()).collect())?;
            let told = write.change_events().expect("just set");
            Ok(told.numbered().map(|(nr, _)| nr.value()).collect())
        };
        assert_eq!(numbers(3), Ok(vec![4, 5, 6]));
        assert_eq!(numbers(1), Ok(vec![6]));
        assert_eq!(numbers(0), Err(InvalidWrite::Empty));
        let too_many = InvalidWrite::Numbers { first: 4, count: 4 };
        assert_eq!(numbers(4), Err(too_many));
        let mut reserved = event();
        reserved.payload.serializer_id = 0;
        let refused = write.set_change_events(writer(1), vec![reserved]);
        assert_eq!(refused, Err(InvalidWrite::ReservedSerializer));
    }

    #[test]
    fn what_is_stored_with_folded_states_is_all_of_it() {
        let mut second = put("a", 4, "5");
        second.set_reply(new_reply("x", "r5", 0));
        let mut third = told(delete("a", 5), &["e6"]);
        third.set_reply(new_reply("y", "r6", 0));
        let batch = [told(put("a", 3, "4"), &["e4"]), second, third];
        let folded = FoldedBatch::new(&batch, |_| None);
        let all = folded.get(0);
        let shown: Vec<(usize, u64, bool)> = all
            .companions()
            .map(|(index, one)| match one {
                Companion::Event { seq_nr, .. } => (index, seq_nr.value(), true),
                Companion::Reply { seq_nr, .. } => (index, seq_nr.value(), false),
            })
            .collect();
        assert_eq!(
            shown,
            [(0, 4, true), (1, 5, false), (2, 6, true), (2, 6, false)]
        );
        assert!(all.has_company());
        assert_eq!((all.time_steps(), all.part(1, 1).time_steps()), (3, 1));
        let is_event = |count| {
            all.witness(count)
                .map(|one| matches!(one, Companion::Event { .. }))
        };
        let expected = [None, Some(true), Some(false), Some(true)];
        assert_eq!([0, 1, 2, 3].map(is_event), expected);
        let plain = [put("b", 0, "1")];
        let plain = FoldedBatch::new(&plain, |_| None);
        assert!(plain.get(0).witness(1).is_none());
    }

    /// The error as one word, with the number that is its reason.
    fn word(error: &Error) -> (&'static str, u64) {
        match error {
            Error::Conflict { seq_nr, .. } => ("conflict", seq_nr.value()),
            Error::Superseded { seq_nr, .. } => ("superseded", seq_nr.value()),
            Error::StaleRevision { found, .. } => ("stale", found.value()),
            Error::CommandTaken { .. } => ("taken", 0),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_event_tells_whose_a_state_is() {
        let event = NewEvent::new(SerializedPayload::new(77, "", &b"x"[..]));
        let one = Companion::Event {
            writer: writer(1),
            seq_nr: seq(5),
            event: &event,
        };
        for (there, own, obstacle) in [
            (None, Some(("superseded", 5)), None),
            (Some(Occupant::OwnEvent), None, Some(("conflict", 5))),
            (
                Some(Occupant::OtherEvent),
                Some(("stale", 5)),
                Some(("conflict", 5)),
            ),
            (
                Some(Occupant::Marker),
                Some(("superseded", 5)),
                Some(("superseded", 5)),
            ),
        ] {
            let found = one.is_own(&id("a"), there.as_ref()).err();
            assert_eq!(found.as_ref().map(word), own, "{there:?}");
            let found = one.obstacle(&id("a"), there.as_ref());
            assert_eq!(found.as_ref().map(word), obstacle, "{there:?}");
        }
    }

    #[test]
    fn a_reply_tells_whose_a_state_is() {
        let reply = new_reply("x", "r", 2);
        let one = Companion::Reply {
            seq_nr: seq(5),
            reply: &reply,
        };
        for (there, own, obstacle) in [
            (None, Some(("superseded", 5)), None),
            (Some(stored_reply(5, "r")), None, Some(("taken", 0))),
            (
                Some(stored_reply(5, "other")),
                Some(("taken", 0)),
                Some(("taken", 0)),
            ),
            (
                Some(stored_reply(3, "r")),
                Some(("taken", 0)),
                Some(("taken", 0)),
            ),
            // It has left the window and is replaced.
            (Some(stored_reply(2, "r")), Some(("superseded", 5)), None),
        ] {
            let found = one.is_own(&id("a"), there.as_ref()).err();
            assert_eq!(found.as_ref().map(word), own, "{there:?}");
            let found = one.obstacle(&id("a"), there.as_ref());
            assert_eq!(found.as_ref().map(word), obstacle, "{there:?}");
        }
    }

    #[test]
    fn nothing_is_stored_with_a_state_where_rows_are_removed() {
        let row = DurableStateDelete::Row;
        assert!(put("a", 0, "1").refused_company(row).is_none());
        let told = told(put("a", 0, "1"), &["e1"]);
        assert!(told.refused_company(DurableStateDelete::Marker).is_none());
        assert!(matches!(
            told.refused_company(row),
            Some(Error::Rejected { .. })
        ));
        let mut replied = put("a", 0, "1");
        replied.set_reply(new_reply("x", "r", 0));
        assert!(replied.refused_company(row).is_some());
    }

    #[test]
    fn no_row_fits_every_revision_only_where_rows_are_removed() {
        let check = |write: StateWrite, delete, fits: bool| {
            let batch = [write];
            let folded = FoldedBatch::new(&batch, |_| None);
            assert_eq!(folded.get(0).count_stored(None, delete).is_ok(), fits);
        };
        for mode in [DurableStateDelete::Marker, DurableStateDelete::Row] {
            check(put("a", 0, "1"), mode, true);
            check(delete("a", 0), mode, true);
        }
        check(put("a", 5, "6"), DurableStateDelete::Row, true);
        check(delete("a", 5), DurableStateDelete::Row, true);
        check(put("a", 5, "6"), DurableStateDelete::Marker, false);
        check(delete("a", 5), DurableStateDelete::Marker, false);
    }
}
