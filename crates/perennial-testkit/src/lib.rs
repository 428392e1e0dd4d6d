//! Test tools of perennial: contract suites that every store must pass, a store in memory, faults
//! around any store, a clock that tests move, and throw-away PostgreSQL.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use perennial_persistence::{
//!     AtomicWrite, NewEvent, PersistenceId, SequenceNr, SerializedPayload, Store, WriterId,
//! };
//! use perennial_testkit::{FaultyStore, ManualClock, MemoryStore, WriteFault};
//!
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! let clock = ManualClock::new();
//! let memory = MemoryStore::new(Arc::new(clock.clone()));
//! let store = FaultyStore::new(Arc::new(memory.clone()));
//!
//! // The second write finds the store out of reach.
//! store.faults().writes.at(2, WriteFault::Unavailable);
//! let id = PersistenceId::new("Cart", "a")?;
//! let writer = WriterId::from_random_bits(4711);
//! let write = |number: u64| {
//!     let event = NewEvent::new(SerializedPayload::new(77, "Added", &b"apple"[..]));
//!     let first = SequenceNr::FIRST.plus(number - 1);
//!     AtomicWrite::new(id.clone(), writer, first, vec![event])
//! };
//! let journal = store.journal();
//! let first = journal.write_events(&[write(1)?]).await.remove(0)?;
//! clock.advance(Duration::from_secs(1));
//! let failed = journal.write_events(&[write(2)?]).await.remove(0);
//! assert!(failed.is_err_and(|error| error.is_retryable()));
//! let second = journal.write_events(&[write(2)?]).await.remove(0)?;
//! assert_eq!(second.timestamp, first.timestamp + Duration::from_secs(1));
//!
//! // What was stored outlives the store that stored it.
//! store.close().await;
//! assert_eq!(memory.open_again().rows(&id).len(), 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! - [`contract`]: what a store must do, test by test; [`journal_contract!`],
//!   [`snapshot_store_contract!`], [`durable_state_store_contract!`],
//!   [`command_reply_store_contract!`] and [`reminder_store_contract!`] run the suites against a
//!   store of yours.
//! - [`MemoryStore`]: a store that passes them, for tests that need no disk. A second system opens
//!   the same data, and the data outlives a system that crashed.
//! - [`FaultyStore`]: stands in front of any store and fails on demand: by the number of a call,
//!   or as a seeded function decides. A [`Gate`] holds a call until the test has seen enough, so
//!   that no test needs to sleep.
//! - [`ManualClock`]: time that goes on when a test says so.
//! - `spec`, with the feature of that name: tests of one entity, given events, when a command comes,
//!   then events, state and reply; no database, no runtime, no sleeping.
//! - `system`, with the feature `spec`: tests of actors and of what they do together, on a whole system
//!   in virtual time.
//! - `simulation`, with the feature of that name: the engine under a seeded order of everything;
//!   `actor_simulation` for plain actors.
//! - `postgres`, with the feature of that name: throw-away PostgreSQL databases and servers.
//!
//! It is a dev-dependency. Nothing in it is meant for production: the store in memory loses
//! everything with the process and copies what it reads. Nor does it replace tests against the
//! database that will be used: that one has connections to lose and rows that others wrote.

#[cfg(feature = "simulation")]
pub mod actor_simulation;
pub mod contract;
#[cfg(all(feature = "postgres", unix))]
pub mod postgres;
#[cfg(feature = "simulation")]
pub mod simulation;
#[cfg(feature = "spec")]
pub mod spec;
#[cfg(feature = "spec")]
pub mod system;

mod clock;
#[cfg(feature = "spec")]
mod driver;
mod faults;
mod memory;

pub use clock::ManualClock;
pub use faults::{Call, ChangeFault, Faults, FaultyStore, Gate, Plan, ReadFault, WriteFault};
pub use memory::{JournalRow, MemoryStore};
#[cfg(feature = "spec")]
pub use spec::{Happened, Outcome, Spec};
#[cfg(feature = "spec")]
pub use system::{Probe, TestSystem, TestSystemBuilder, TestTask};
