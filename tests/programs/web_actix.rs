//! The example `web_actix`.

use std::process::ExitCode;

fn main() -> ExitCode {
    web_actix::main()
}
