//! The bank example.

use std::process::ExitCode;

fn main() -> ExitCode {
    bank::cli::main()
}
