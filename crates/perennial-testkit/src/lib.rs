//! Test tools of perennial: contract suites that every store must pass, a store in memory, and
//! throw-away PostgreSQL.
//!
//! Nothing in this crate is meant for production.

pub mod contract;
#[cfg(all(feature = "postgres", unix))]
pub mod postgres;

mod clock;
mod memory;

pub use clock::ManualClock;
pub use memory::{JournalRow, MemoryStore};
