//! The program around a run: command line, logs, ctrl-c, exit status.

use std::process::ExitCode;

use clap::Parser;
use flight_table::program::{database_url, failed, log_to, stop_on_ctrl_c};
use flight_table::progress::Console;

use crate::args::Args;
use crate::engine::Engine;
use crate::run::run;

/// The whole program. The exit status is that of [`Args`]' description.
#[tokio::main(flavor = "current_thread")]
pub async fn main() -> ExitCode {
    let args = Args::parse();
    let console = Console::of_process();
    log_to(&console);
    let url = database_url();
    let engine = match Engine::configured(&args, std::env::vars_os(), url.as_deref()) {
        Ok(engine) => engine,
        Err(error) => return failed(&console, &error),
    };
    let stop = stop_on_ctrl_c(&console);
    match run(&args, &engine, &console, &mut std::io::stdout(), &stop).await {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(error) => failed(&console, &error),
    }
}
