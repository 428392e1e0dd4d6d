//! Test tools of perennial: contract suites that every store must pass, and a store in memory.
//!
//! Nothing in this crate is meant for production.

pub mod contract;

mod clock;
mod memory;

pub use clock::ManualClock;
pub use memory::{JournalRow, MemoryStore};
