//! The bulk processor example.

use std::process::ExitCode;

fn main() -> ExitCode {
    bulk_processor::cli::main()
}
