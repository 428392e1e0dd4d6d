//! The example `web_axum`.

use std::process::ExitCode;

fn main() -> ExitCode {
    web_axum::main()
}
