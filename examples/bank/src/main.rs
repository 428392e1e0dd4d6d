//! A bank over HTTP: accounts and the transfers between them, each a persistent entity.
//!
//! ```text
//! cargo run --release -p bank -- serve
//! ```
//!
//! listens on port 8080 and keeps everything in `bank.sqlite`. Kill it at any moment and start it
//! again: what was answered is there, and a transfer that was under way goes on by itself. In another
//! terminal,
//!
//! ```text
//! cargo run --release -p bank -- load --url http://127.0.0.1:8080
//! ```
//!
//! drives it for ten seconds, prints a table of speeds, and ends with status 0 if no money was made
//! or lost. `README.md` shows the requests; `--help` the options.

use std::process::ExitCode;

fn main() -> ExitCode {
    bank::cli::main()
}
