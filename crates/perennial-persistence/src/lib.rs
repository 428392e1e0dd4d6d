//! Vocabulary and storage contracts of perennial: ids, slices, sequence numbers, payloads, and
//! the traits that a store implements. No runtime, no actors, no SQL.
//!
//! A store implements [`Journal`], [`SnapshotStore`], [`DurableStateStore`],
//! [`CommandReplyStore`] and [`ReminderStore`], and hands them out through [`Store`].
//! The contract suites in `perennial-testkit` say what is expected of it, test by test.
//!
//! Guarantees that a store gives: a write is answered once it is durable; it is stored whole or
//! not at all; two writers never share a sequence number, nor does a stale one replace a state; an
//! identical write may be sent again.
//! It does not decide what to try again and when: that is the engine's part.

mod clock;
mod codec;
mod command_reply;
mod durable_state_store;
mod error;
mod id;
mod journal;
mod payload;
mod reminder;
mod schema;
mod sequence;
mod slice;
mod snapshot_store;
mod store;
pub mod telemetry;

use std::pin::Pin;

pub use clock::{Clock, SystemClock};
pub use codec::{
    Compression, Decimal, FIRST_OWN_ID, Format, InvalidRegistry, MAX_NESTING, Registry, Tree,
    TreeError,
};
pub use command_reply::{
    CommandId, CommandReplyStore, Fingerprint, InvalidCommandId, MAX_COMMAND_ID_CHARS, NewReply,
    StoredReply,
};
pub use durable_state_store::{
    ChangeEvents, Companion, DurableStateDelete, DurableStateStore, FoldedBatch, FoldedOutcome,
    FoldedWrite, Occupant, StateChange, StateWrite, StoredState,
};
pub use error::{Error, OpenError, Source};
pub use id::{InvalidId, MAX_ID_CHARS, PersistenceId, SEPARATOR};
pub use jiff::Timestamp;
pub use journal::{
    AtomicWrite, InvalidWrite, Journal, NewEvent, PageLimit, Previous, ReplayPage, StoredEvent,
    WriterId, Written,
};
pub use payload::{
    Codec, CodecError, FILTERED_PAYLOAD_ID, MAX_MANIFEST_CHARS, MESSAGE_PACK_ID, MessagePack,
    NO_PAYLOAD_ID, SerializedPayload,
};
pub use reminder::{
    DueReminders, InvalidReminderKey, MAX_REMINDER_KEY_CHARS, NewReminder, ReminderChange,
    ReminderKey, ReminderStore, StoredReminder,
};
pub use schema::{
    Adapted, DEFAULT_MAX_EXPANDED, InvalidSchema, LockError, Locked, Named, Schema, SchemaBuilder,
    SchemaLock, UPDATE_LOCK_VARIABLE, Versions,
};
pub use sequence::{NegativeSequenceNr, SequenceNr};
pub use slice::{NUMBER_OF_SLICES, Slice, SliceRange};
pub use snapshot_store::{Snapshot, SnapshotCriteria, SnapshotStore};
pub use store::{SchemaCheck, Store};

/// A future that a contract returns: boxed, so that a store can be chosen at run time.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
