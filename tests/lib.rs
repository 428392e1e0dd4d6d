//! Fixtures of the tests that go across crates.

mod bulk;
mod example_process;
mod notebook;
mod process;
mod relay;
mod stores;
mod wait;

pub use bulk::{Bulk, Rows};
pub use example_process::Example;
pub use notebook::{Load, Note, Notebook, Outcome, Read, check_notes};
pub use process::{Ended, Running};
pub use relay::{Begin, Relay, Step, Steps};
pub use stores::{TestStore, on_every_store};
pub use wait::{number_from, until};
