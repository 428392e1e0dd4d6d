//! Feeds the real flight table to one persistent actor per aircraft, restarts, and checks.
//!
//! ```text
//! cargo run --release -p flights
//! ```
//!
//! records the 27,004 departures of New York's airports in January 2013 in `flights.sqlite`, stops
//! the actor system, starts a new one, brings all 3,141 aircraft back from their snapshots and
//! events, asks each for its totals, and compares these with a plain fold over the table. It ends
//! with a table of counts and speeds, and status 0 if everything is right. It takes a few seconds.
//!
//! Kill it at any moment and run it again with `--keep`: the totals come out the same. `--help`
//! shows the other options, `README.md` a tour.

use std::process::ExitCode;

fn main() -> ExitCode {
    flights::cli::main()
}
