//! Test tools of perennial: contract suites that every store must pass, and a store in memory.
//!
//! Nothing in this crate is meant for production.

pub mod contract;

mod clock;
mod faults;
mod memory;

pub use clock::ManualClock;
pub use faults::{Call, ChangeFault, Faults, FaultyStore, Gate, Plan, ReadFault, WriteFault};
pub use memory::{JournalRow, MemoryStore};
