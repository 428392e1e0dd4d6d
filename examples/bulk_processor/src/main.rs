//! Rows on their way into a table, gathered by an actor and written together.
//!
//! ```text
//! cargo run --release -p bulk_processor
//! ```
//!
//! reads the 27,004 departures of New York's airports in January 2013 and hands them, one by one, to
//! an actor that is a state machine: idle, or active with what has gathered. It writes them to the
//! table `bulk_item` in `bulk.sqlite` by inserts of many rows, when there are enough, when the first
//! one has waited for long enough, or when it is asked to. It ends with a table of counts and speeds,
//! beside that of one insert per row, and status 0. It takes a few seconds.
//!
//! `--spoil 7` makes seven rows that the table refuses: they are set aside in `bulk_rejected`, the
//! rest is stored. `--durable` keeps what has gathered in a persistent entity: kill it at any moment
//! and run it again with `--durable --keep`. `--help` shows the other options, `README.md` a tour.

use std::process::ExitCode;

fn main() -> ExitCode {
    bulk_processor::cli::main()
}
