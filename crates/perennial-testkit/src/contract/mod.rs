//! What every store must do, as tests: one suite per contract.
//!
//! A store's crate makes its store testable by a [`StoreFixture`] and names it in
//! `tests/contract.rs`. Each macro becomes a module of ordinary tests, one per behaviour:
//!
//! ```
//! use std::sync::Arc;
//! use perennial_persistence::{BoxFuture, PersistenceId, SequenceNr, Store};
//! use perennial_testkit::{MemoryStore, contract::StoreFixture};
//!
//! struct Fixture(MemoryStore);
//!
//! impl StoreFixture for Fixture {
//!     fn store(&self) -> Arc<dyn Store> {
//!         Arc::new(self.0.clone())
//!     }
//!
//!     fn open_again(&self) -> BoxFuture<'_, Arc<dyn Store>> {
//!         Box::pin(async { Arc::new(self.0.open_again()) as Arc<dyn Store> })
//!     }
//!
//!     fn refuse_serializer(&self, serializer_id: i32) -> BoxFuture<'_, ()> {
//!         Box::pin(async move { self.0.refuse_serializer(serializer_id) })
//!     }
//!
//!     fn tags<'a>(
//!         &'a self,
//!         persistence_id: &'a PersistenceId,
//!         seq_nr: SequenceNr,
//!     ) -> BoxFuture<'a, Option<Vec<String>>> {
//!         Box::pin(async move {
//!             let mut rows = self.0.rows(persistence_id).into_iter();
//!             let row = rows.find(|row| row.seq_nr == seq_nr).expect("a stored row");
//!             let tags = row.event.map(|(_, event)| event.tags);
//!             tags.filter(|tags| !tags.is_empty())
//!         })
//!     }
//!
//!     fn damage_state<'a>(&'a self, persistence_id: &'a PersistenceId) -> BoxFuture<'a, ()> {
//!         Box::pin(async move { self.0.damage_state(persistence_id) })
//!     }
//! }
//!
//! async fn empty_database() -> Fixture {
//!     Fixture(MemoryStore::default())
//! }
//!
//! perennial_testkit::journal_contract!(empty_database());
//! perennial_testkit::snapshot_store_contract!(empty_database());
//! perennial_testkit::durable_state_store_contract!(empty_database());
//! perennial_testkit::command_reply_store_contract!(empty_database());
//! perennial_testkit::reminder_store_contract!(empty_database());
//! perennial_testkit::state_companions_contract!(empty_database());
//! # fn main() {}
//! ```
//!
//! The expression is evaluated anew for every test. It is a future of a fixture whose database is
//! empty and nobody else's. The suites never assume that time goes on between two calls, so a
//! store may run on a clock that stands still.
//!
//! The suites stand in `tests/` and not in unit tests, because those see another copy of the types
//! of their own crate.

pub mod command_reply_store;
pub mod durable_state_store;
pub mod journal;
pub mod reminder_store;
pub mod snapshot_store;
pub mod state_companions;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use perennial_persistence::{
    AtomicWrite, BoxFuture, DurableStateDelete, Error, Journal, NewEvent, PageLimit, PersistenceId,
    ReplayPage, SequenceNr, SerializedPayload, Store, StoredEvent, WriterId, Written,
};

/// A database of one test, and what the test does to it from outside of the contracts.
pub trait StoreFixture: Send + Sync + 'static {
    /// The opened store; the same one at every call.
    fn store(&self) -> Arc<dyn Store>;

    /// Opens the same database once more, as another process would: nothing is shared with
    /// [`StoreFixture::store`] but the data. Also called when the first store is closed.
    fn open_again(&self) -> BoxFuture<'_, Arc<dyn Store>>;

    /// Lets the database itself refuse events, snapshots, states, replies and reminders with this
    /// serializer id, as another program's constraint would: a `CHECK` on
    /// `event_journal.event_ser_id`, `snapshot.ser_id`, `durable_state.state_ser_id`,
    /// `perennial_command_reply.reply_ser_id` and `perennial_reminder.reminder_ser_id`, or a trigger.
    fn refuse_serializer(&self, serializer_id: i32) -> BoxFuture<'_, ()>;

    /// The tags that stand in an event's row; `None` if the column is NULL.
    ///
    /// Panics if there is no such row.
    fn tags<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        seq_nr: SequenceNr,
    ) -> BoxFuture<'a, Option<Vec<String>>>;

    /// Gives the state of an id serializer id 0 and leaves its bytes, as no writer of states does.
    ///
    /// Panics if there is no such row.
    fn damage_state<'a>(&'a self, persistence_id: &'a PersistenceId) -> BoxFuture<'a, ()>;

    /// What deleting a state leaves in this store's table.
    fn durable_state_delete(&self) -> DurableStateDelete {
        DurableStateDelete::default()
    }

    /// Whether no event's timestamp lies below one that was committed before, whatever their
    /// entities. A store with a single writer can promise that: an event in the future then takes
    /// all later ones with it. `false` by default.
    fn commit_order_is_time_order(&self) -> bool {
        false
    }

    /// An event that this store refuses by its own rules, such as one above its size bound;
    /// `None`, the default, if there is none.
    fn unstorable_event(&self) -> Option<NewEvent> {
        None
    }
}

/// How long one behaviour may take. Far more than any needs, so that only a hanging store gets
/// there, even on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// Runs one behaviour on a runtime of its own, and fails if it hangs.
#[doc(hidden)]
pub fn run(behaviour: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("the machine has threads left");
    let ended = runtime.block_on(async { tokio::time::timeout(DEADLINE, behaviour).await });
    // What still runs belongs to the store, and a hanging one must not keep the test from failing.
    runtime.shutdown_background();
    assert!(ended.is_ok(), "still not done after {DEADLINE:?}");
}

/// One module of tests for a suite.
#[doc(hidden)]
#[macro_export]
macro_rules! __contract_tests {
    ($module:ident, $suite:ident, $fixture:expr, [$($behaviour:ident),+ $(,)?]) => {
        mod $module {
            #[allow(unused_imports)]
            use super::*;

            $(
                #[test]
                fn $behaviour() {
                    $crate::contract::run(async {
                        let fixture = $fixture.await;
                        $crate::contract::$suite::$behaviour(&fixture).await;
                    });
                }
            )+
        }
    };
}

/// A serializer id that no fixture refuses.
const SERIALIZER: i32 = 77;

/// A serializer id that the tests have refused by the database.
const REFUSED_SERIALIZER: i32 = 666;

fn id(name: &str) -> PersistenceId {
    PersistenceId::new("Cart", name).expect("a valid id")
}

fn seq(number: u64) -> SequenceNr {
    SequenceNr::new(number).expect("below the largest number")
}

fn writer(number: u32) -> WriterId {
    WriterId::from_random_bits(u128::from(number))
}

fn payload(bytes: impl AsRef<[u8]>) -> SerializedPayload {
    SerializedPayload::new(SERIALIZER, "Event", bytes.as_ref().to_vec())
}

fn event(text: &str) -> NewEvent {
    NewEvent::new(payload(text))
}

fn refused_event() -> NewEvent {
    NewEvent::new(SerializedPayload::new(
        REFUSED_SERIALIZER,
        "Event",
        &b"refused"[..],
    ))
}

/// A write of events whose payloads are `texts`.
fn write(id: &PersistenceId, writer: WriterId, first: u64, texts: &[&str]) -> AtomicWrite {
    write_of(
        id,
        writer,
        first,
        texts.iter().map(|text| event(text)).collect(),
    )
}

fn write_of(
    id: &PersistenceId,
    writer: WriterId,
    first: u64,
    events: Vec<NewEvent>,
) -> AtomicWrite {
    AtomicWrite::new(id.clone(), writer, seq(first), events).expect("a valid write")
}

/// Writes one batch and checks that there is an answer for each write.
async fn write_batch(journal: &dyn Journal, batch: &[AtomicWrite]) -> Vec<Result<Written, Error>> {
    let answers = journal.write_events(batch).await;
    assert_eq!(answers.len(), batch.len(), "one answer per write");
    answers
}

async fn write_one(journal: &dyn Journal, write: &AtomicWrite) -> Result<Written, Error> {
    write_batch(journal, std::slice::from_ref(write))
        .await
        .remove(0)
}

/// Writes what must succeed.
async fn store_one(journal: &dyn Journal, write: &AtomicWrite) -> Written {
    write_one(journal, write)
        .await
        .expect("nothing stands in the way of the write")
}

/// A limit that no page of these tests reaches.
const UNLIMITED: PageLimit = PageLimit {
    rows: 1_000_000,
    bytes: 1 << 30,
};

async fn page(
    journal: &dyn Journal,
    id: &PersistenceId,
    from: u64,
    to: u64,
    limit: PageLimit,
) -> ReplayPage {
    journal
        .replay_events(id, seq(from), seq(to), limit)
        .await
        .expect("a readable page")
}

/// All events of an id, read in one page.
async fn events(journal: &dyn Journal, id: &PersistenceId) -> Vec<StoredEvent> {
    let page = page(journal, id, 1, SequenceNr::MAX.value(), UNLIMITED).await;
    assert!(!page.more, "the limit was not reached");
    page.events
}

/// The payloads of events as text.
fn texts(events: &[StoredEvent]) -> Vec<String> {
    events
        .iter()
        .map(|event| String::from_utf8_lossy(&event.payload.bytes).into_owned())
        .collect()
}

fn numbers(events: &[StoredEvent]) -> Vec<u64> {
    events.iter().map(|event| event.seq_nr.value()).collect()
}

async fn highest(journal: &dyn Journal, id: &PersistenceId) -> u64 {
    journal
        .highest_sequence_nr(id, SequenceNr::ZERO)
        .await
        .expect("a readable journal")
        .value()
}

/// Puts bad writes among good ones, at the same distance from each other.
fn scatter<W>(bad: Vec<W>, batch: &mut Vec<W>) {
    let distance = batch.len() / (bad.len() + 1);
    for (n, write) in bad.into_iter().enumerate() {
        batch.insert((n + 1) * distance, write);
    }
}

/// Which of two writes that raced, "one" or "two", was stored, and what the other was told.
fn winner_and_loser<'a>(
    id: &PersistenceId,
    one: &'a Result<Written, Error>,
    two: &'a Result<Written, Error>,
) -> (&'static str, &'a Result<Written, Error>) {
    match (one, two) {
        (Ok(_), loser) => ("one", loser),
        (loser, Ok(_)) => ("two", loser),
        both => panic!("nobody has written {id}: {both:?}"),
    }
}

/// Polls a future so many times, unless it is ready sooner, and drops it.
async fn give_up_after<T>(polls: usize, mut future: BoxFuture<'_, T>) {
    for _ in 0..polls {
        let ready = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready())).await;
        if ready {
            return;
        }
        tokio::task::yield_now().await;
    }
}

fn check_conflict(answer: &Result<Written, Error>, id: &PersistenceId, number: u64) {
    match answer {
        Err(Error::Conflict {
            persistence_id,
            seq_nr,
        }) => {
            assert_eq!(persistence_id, id);
            assert_eq!(seq_nr.value(), number, "the lowest number that is taken");
        }
        other => panic!("expected a conflict at {number} of {id}, got {other:?}"),
    }
}

fn check_superseded(
    answer: &Result<Written, Error>,
    id: &PersistenceId,
    first: u64,
    highest_there: u64,
) {
    match answer {
        Err(Error::Superseded {
            persistence_id,
            seq_nr,
            highest,
        }) => {
            assert_eq!(persistence_id, id);
            assert_eq!(seq_nr.value(), first, "the write's first number");
            assert_eq!(
                highest.value(),
                highest_there,
                "the highest number there is"
            );
        }
        other => panic!("expected that {first} of {id} is superseded, got {other:?}"),
    }
}

fn check_rejected<T: std::fmt::Debug>(answer: &Result<T, Error>, id: &PersistenceId) {
    match answer {
        Err(Error::Rejected { persistence_id, .. }) => assert_eq!(persistence_id, id),
        other => panic!("expected that the data of {id} is rejected, got {other:?}"),
    }
}

fn check_closed<T: std::fmt::Debug>(answer: &Result<T, Error>) {
    match answer {
        Err(Error::Unavailable {
            outcome_unknown: false,
            ..
        }) => {}
        other => panic!("expected that a closed store is unavailable, got {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    /// A behaviour that is missing in its macro would never run.
    #[test]
    fn every_behaviour_is_listed() {
        for (suite, behaviours) in [
            (include_str!("command_reply_store.rs"), 14),
            (include_str!("durable_state_store.rs"), 40),
            (include_str!("journal.rs"), 40),
            (include_str!("reminder_store.rs"), 20),
            (include_str!("snapshot_store.rs"), 12),
            (include_str!("state_companions.rs"), 25),
        ] {
            let names: Vec<&str> = suite
                .lines()
                .filter_map(|line| line.strip_prefix("pub async fn "))
                .map(|rest| rest.split('(').next().unwrap_or(rest))
                .collect();
            assert!(names.len() >= behaviours, "{} behaviours", names.len());
            for name in names {
                let listed = format!("{name},");
                assert!(
                    suite.lines().any(|line| line.trim() == listed),
                    "{name} is not listed"
                );
            }
        }
    }
}
