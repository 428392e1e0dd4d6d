//! The program around a run: command line, logs, ctrl-c, exit status.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use crate::args::Args;
use crate::engine::Engine;
use crate::progress::Console;
use crate::run::{self, run};

/// The exit status of a process that ctrl-c ends.
const INTERRUPTED: i32 = 130;

/// The whole program. The exit status is that of [`Args`]' description.
#[tokio::main(flavor = "current_thread")]
pub async fn main() -> ExitCode {
    let args = Args::parse();
    let console = Console::of_process();
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::WARN.into())
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer({
            let console = console.clone();
            move || console.writer()
        })
        .init();

    let url = std::env::var("DATABASE_URL").ok();
    let url = url.as_deref().filter(|url| !url.trim().is_empty());
    let engine = match Engine::configured(&args, std::env::vars_os(), url) {
        Ok(engine) => engine,
        Err(error) => return failed(&console, &error),
    };
    let stop = stop_on_ctrl_c(&console);
    match run(&args, &&engine, &console, &mut std::io::stdout(), &stop).await {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(error) => failed(&console, &error),
    }
}

fn failed(console: &Console, error: &dyn std::error::Error) -> ExitCode {
    console.say(format_args!("error: {}", run::explain(error)));
    ExitCode::FAILURE
}

/// Becomes true with the first ctrl-c. The second one ends the process at once, which loses
/// nothing either: what was answered is stored.
fn stop_on_ctrl_c(console: &Console) -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    let console = console.clone();
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() {
            if sender.send_replace(true) {
                std::process::exit(INTERRUPTED);
            }
            console.say("Stopping; press ctrl-c again to end at once.");
        }
    });
    receiver
}
