//! The flights example.

use std::process::ExitCode;

fn main() -> ExitCode {
    flights::cli::main()
}
