//! Sells tickets for concerts over HTTP, each concert a persistent entity on SQLite.
//!
//! ```text
//! cargo run --release -p web_actix
//! ```
//!
//! listens on port 8080 and keeps what was answered in `concerts.sqlite`. ctrl-c or SIGTERM ends it
//! in order, and it says how that went. `README.md` shows the requests; `--help` the options.

use std::process::ExitCode;

fn main() -> ExitCode {
    web_actix::main()
}
