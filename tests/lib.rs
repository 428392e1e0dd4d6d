//! Fixtures of the tests that go across crates.

mod flights_process;
mod notebook;
mod stores;
mod wait;

pub use flights_process::{Ended, Flights, Running};
pub use notebook::{Load, Note, Notebook, Outcome, Read, check_notes};
pub use stores::{TestStore, on_every_store};
pub use wait::{number_from, until};
