//! The engine: workers that own entities.
//!
//! A [`Worker`] is a deterministic state machine: [`Worker::turn`] takes what came in, runs what
//! can run, and leaves in an [`Outbox`] what is to be done outside: batches to write, entities to
//! read, futures to run, when to wake it. It owns no socket, no thread, no clock and no source of
//! chance; the clock and the seed are handed in. Three drivers turn it: `actix_driver` in
//! production, an actor on an actix arbiter; the simulation of `perennial-testkit`, one thread
//! with virtual time and a seeded order of everything; and its `Spec`, for tests of one entity.
//! Applications use none of this directly.
//!
//! - `assembly`: putting workers together
//! - `mailbox`: addresses of entities, the way from a caller to its worker
//! - `bound`: bounded numbers of places, and who waits for one
//! - `local`: what workers send while they run
//! - `balance`: which slices a busy worker gives away
//! - `actor`: plain actors
//! - `pulse`: whether a worker still turns
//! - `envelope`: a command from its caller to its reply
//! - `worker`: the turn
//! - `core`: what all cells of a worker share: time, timers, run queue, permits, lanes
//! - `host`: the cells of one entity type
//! - `replacement`: which entity leaves when there are too many
//! - `cell`: one entity's life
//! - `start`: the command that only brings an entity back
//! - `status`: how it stands with an entity, asked from outside
//! - `command_window`: which of its commands with ids were answered, and how
//! - `recovery`: what brings it back
//! - `reminders`: which are due, and which are being handled
//! - `journal_writer`: group commit: which writes go out together, and what becomes of them
//! - `tally`: what is counted and timed for metrics
//! - `breaker`: what is refused and held back while a store is slow or down

pub(crate) mod actix_driver;
pub(crate) mod actor;
mod assembly;
pub(crate) mod balance;
mod bound;
mod breaker;
mod cell;
mod command_window;
mod core;
mod envelope;
mod host;
mod journal_writer;
mod local;
mod mailbox;
mod pulse;
mod recovery;
mod reminders;
mod replacement;
mod start;
mod status;
mod tally;
mod worker;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use perennial_persistence::{
    CommandReplyStore, Error, Journal, PersistenceId, SequenceNr, Slice, Snapshot, Timestamp,
};
use tokio::sync::oneshot;

pub(crate) use self::core::Core;
pub use self::core::DeadLetterLog;
#[cfg(feature = "defects")]
pub use self::core::Defects;
pub use self::core::{Settings, Stats};
use crate::actor::StopReason;
pub use crate::deadline::{Deadlines, DrivenDeadlines};
#[doc(hidden)]
pub use crate::durable_state::deletion;
use crate::error::AskError;
#[doc(hidden)]
pub use actor::{ActorInput, ActorPeek, Newcomer, Parcel};
pub use assembly::{Assembled, Assembly, Frame};
pub(crate) use bound::Bound;
pub use breaker::{BreakerReport, BreakerSettings, BreakerState, BreakerView};
#[doc(hidden)]
pub use cell::Peek;
pub(crate) use envelope::{Aside, Envelope, Queued};
pub use envelope::{Delivery, Held};
pub use journal_writer::{SettledBatch, WriteBatch};
pub(crate) use mailbox::{Address, Admitted, OnClose, busy};
pub use mailbox::{EntityType, Registry};
pub use recovery::{PageRead, ReadDone, ReadRequest};
pub(crate) use reminders::FiredReminder;
pub use reminders::{DueDone, DueRequest, ReminderFailed, ReminderSettings};
pub(crate) use start::Starter;
#[doc(hidden)]
pub use status::Look;
pub(crate) use tally::{Bounded, Stamp, Timing, Timings};
pub use worker::Worker;

/// Names one incarnation of one cell of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CellKey {
    /// The index of the entity type.
    pub(crate) host: usize,
    /// The place among the cells of the type.
    pub(crate) index: usize,
    /// Which incarnation on this worker; never used twice.
    pub(crate) incarnation: u64,
}

impl CellKey {
    /// The index of the entity type.
    pub fn host(self) -> usize {
        self.host
    }
}

/// What comes into a worker.
pub enum Input {
    /// A command.
    Command(Box<dyn Delivery>),
    /// A batch has been answered by the journal.
    Written(Box<SettledBatch>),
    /// A part of an entity's history.
    Read(Box<ReadDone>),
    /// Reminders were read or not.
    RemindersRead(Box<DueDone>),
    /// A reminder was sent, and failed.
    ReminderFailed(Box<ReminderFailed>),
    /// The future of a `later` has ended.
    LaterDone(Box<LaterDone>),
    /// A snapshot was stored or not.
    SnapshotSaved(CellKey, Box<Result<(), Error>>),
    /// Events were deleted or not.
    EventsDeleted(Box<DeletionDone>),
    /// Give slices to another worker.
    GiveSlices(Vec<Slice>, usize),
    /// A place for a command of an entity of a type, which has left meanwhile, was given back.
    Withdrawn(usize, PersistenceId),
    /// An entity comes from another worker.
    Arrived(Box<Arrival>),
    /// Keep an entity out of memory.
    Hold(Box<Hold>),
    /// It may come back.
    LetGo(PersistenceId),
    /// Say how it stands with an entity.
    Look(Box<Look>),
    /// A message for an actor.
    Parcel(Box<dyn Parcel>),
    /// Something that an actor's cell is told or has to do.
    Actor(Box<ActorInput>),
    /// A new actor.
    Spawn(Newcomer),
    /// What another worker has gathered.
    Many(Vec<Input>),
    /// End every actor.
    StopActors,
    /// Handle what waits, flush, and forget every entity.
    Shutdown,
}

impl Input {
    /// Its worker has ended.
    pub(crate) fn refuse(self) {
        match self {
            Self::Command(command) => command.refuse(AskError::Stopped),
            Self::Parcel(parcel) => parcel.refuse(AskError::Stopped),
            Self::Actor(input) => input.refuse(StopReason::SystemStopped),
            Self::Many(inputs) => inputs.into_iter().for_each(Self::refuse),
            Self::Arrived(arrival) => {
                arrival.address.arrive();
                arrival.baggage.refuse();
            }
            // Whoever waits for one of the others is told by its being dropped.
            _ => {}
        }
    }
}

/// An entity that comes from another worker.
pub struct Arrival {
    /// Where it is reached.
    pub(crate) address: Arc<Address>,
    /// What comes with it.
    pub(crate) baggage: Box<dyn Baggage>,
}

impl std::fmt::Debug for Arrival {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Arrival({})", self.address.persistence_id())
    }
}

/// What comes with an entity to its new worker, whose host knows its type.
pub(crate) trait Baggage: Any + Send {
    /// There is no such worker any more.
    fn refuse(self: Box<Self>);
}

/// An entity is to be kept out of memory, while what a store has of it is deleted.
#[derive(Debug)]
pub struct Hold {
    /// Which one.
    pub(crate) persistence_id: PersistenceId,
    /// Where it is found if it is in memory.
    pub(crate) registry: Arc<Registry>,
    /// Whether it is kept out now.
    pub(crate) answer: oneshot::Sender<Result<(), HoldRefused>>,
}

/// Why an entity is not kept out of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HoldRefused {
    /// It is in memory.
    Resident,
    /// Somebody else has it kept out.
    Held,
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Command(command) => write!(f, "Command({})", command.address().persistence_id()),
            Self::Written(batch) => batch.fmt(f),
            Self::GiveSlices(slices, to) => write!(f, "GiveSlices({}, {to})", slices.len()),
            Self::Withdrawn(_, id) => write!(f, "Withdrawn({id})"),
            Self::Arrived(arrival) => arrival.fmt(f),
            Self::Read(read) => read.fmt(f),
            Self::RemindersRead(done) => done.fmt(f),
            Self::ReminderFailed(failed) => failed.fmt(f),
            Self::LaterDone(done) => done.fmt(f),
            Self::SnapshotSaved(key, result) => write!(f, "SnapshotSaved({key:?}, {result:?})"),
            Self::EventsDeleted(done) => done.fmt(f),
            Self::Hold(hold) => write!(f, "Hold({})", hold.persistence_id),
            Self::LetGo(id) => write!(f, "LetGo({id})"),
            Self::Look(look) => look.fmt(f),
            Self::Parcel(parcel) => write!(f, "Parcel({})", parcel.to()),
            Self::Actor(input) => input.fmt(f),
            Self::Spawn(actor) => write!(f, "Spawn({})", actor.address()),
            Self::Many(inputs) => f.debug_tuple("Many").field(inputs).finish(),
            Self::StopActors => f.write_str("StopActors"),
            Self::Shutdown => f.write_str("Shutdown"),
        }
    }
}

/// What a worker wants done outside. The driver empties it after each turn.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Batches for the journal, at most one per lane at a time.
    pub writes: Vec<WriteBatch>,
    /// Histories to read.
    pub reads: Vec<ReadRequest>,
    /// Reminders to read, at most one request per store at a time.
    pub reminder_reads: Vec<DueRequest>,
    /// Snapshots to save.
    pub snapshots: Vec<(CellKey, Snapshot)>,
    /// Events to delete.
    pub deletions: Vec<Deletion>,
    /// Expired replies to delete. Nobody waits for it.
    pub cleanups: Vec<ReplyCleanup>,
    /// Futures to run.
    pub laters: Vec<LaterRequest>,
    /// When the worker wants a turn although nothing came in, as time since the clock's start.
    pub wake_at: Option<Duration>,
    /// Whether cells are left that can run right now.
    pub busy: bool,
}

/// Events of an entity that are to be deleted.
#[derive(Debug)]
pub struct Deletion {
    /// Whose they are.
    pub key: CellKey,
    /// Which of the cell's deletions.
    pub token: u64,
    /// Whose they are, by name.
    pub persistence_id: PersistenceId,
    /// Up to this number, included.
    pub to: SequenceNr,
}

impl Deletion {
    /// Deletes them.
    pub async fn run(self, journal: &dyn Journal) -> DeletionDone {
        let result = journal.delete_events(&self.persistence_id, self.to).await;
        DeletionDone {
            key: self.key,
            token: self.token,
            result,
        }
    }
}

/// The end of a [`Deletion`].
#[derive(Debug)]
pub struct DeletionDone {
    /// Whose it was.
    pub key: CellKey,
    /// Which of the cell's deletions.
    pub token: u64,
    /// Whether the events are gone.
    pub result: Result<(), Error>,
}

/// Replies that have left their window and are to be deleted.
#[derive(Debug)]
pub struct ReplyCleanup {
    /// The index of the entity type.
    pub(crate) host: usize,
    pub(crate) expired: Expired,
}

#[derive(Debug)]
pub(crate) enum Expired {
    /// Those of one entity up to this number.
    UpTo(PersistenceId, SequenceNr),
    /// Those of all entities of a type that were stored before.
    Before(&'static str, Timestamp),
}

impl ReplyCleanup {
    /// The index of the entity type.
    pub fn host(&self) -> usize {
        self.host
    }

    /// Deletes them in bounded steps. What is left then, the next clean-up finds.
    pub async fn run(self, replies: &dyn CommandReplyStore) {
        /// Rows of one transaction.
        const ROWS: usize = 1000;
        const STEPS: usize = 100;
        for _ in 0..STEPS {
            let deleted = match &self.expired {
                Expired::UpTo(id, to) => replies.delete_up_to(id, *to, ROWS).await,
                Expired::Before(entity_type, time) => {
                    replies.delete_older(entity_type, *time, ROWS).await
                }
            };
            match deleted {
                Ok(deleted) if deleted < ROWS => return,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(
                        error = %crate::error::chain(&error),
                        "expired replies were not deleted; the next clean-up covers them"
                    );
                    return;
                }
            }
        }
    }
}

/// A future of a `later` to be run on the task runtime.
#[derive(Debug)]
pub struct LaterRequest {
    /// Whose it is.
    pub key: CellKey,
    /// Which of the cell's futures.
    pub token: u64,
    /// The work.
    pub work: crate::event_sourced::Work,
    /// How long it may take.
    pub timeout: Duration,
}

/// The end of a `later`'s future.
pub struct LaterDone {
    /// Whose it is.
    pub key: CellKey,
    /// Which of the cell's futures.
    pub token: u64,
    /// Its output, or why there is none.
    pub output: Result<Box<dyn Any + Send>, LaterFailure>,
}

impl std::fmt::Debug for LaterDone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LaterDone")
            .field("key", &self.key)
            .field("token", &self.token)
            .field("failure", &self.output.as_ref().err())
            .finish()
    }
}

/// Why the future of a `later` has no output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaterFailure {
    /// It panicked.
    Panicked,
    /// It took too long and was dropped.
    TimedOut,
}

/// The text of a panic.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> Arc<str> {
    if let Some(text) = panic.downcast_ref::<&str>() {
        Arc::from(*text)
    } else if let Some(text) = panic.downcast_ref::<String>() {
        Arc::from(text.as_str())
    } else {
        Arc::from("a panic without a text")
    }
}
