//! `interop`: perennial's side of a database that is shared with the JVM. The verbs, lines and
//! variables are those of the JVM's program, `jvm/README.md`.
//!
//! Standard output is JSON Lines; logs go to standard error.

use std::error::Error;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use interop::{Database, Engine, command, recover};
use tracing_subscriber::EnvFilter;

/// Recovers and commands the entities of test-data/pekko-1.2 in a database that the JVM uses too.
///
/// The database: INTEROP_DB_HOST, _PORT, _NAME, _USER, _PASSWORD. INTEROP_LOG: the log level on
/// standard error, WARN by default.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Recover the entities of a JSON Lines file (kind, persistence_id).
    Recover {
        /// The file, or - for standard input.
        file: PathBuf,
        /// Add what the tables hold.
        #[arg(long)]
        full: bool,
    },
    /// Run commands, one JSON object per line.
    Command {
        /// The file, or - for standard input.
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env("INTEROP_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(io::stderr)
        .init();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("interop: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Box<dyn Error + Send + Sync>> {
    let database = Database::from_environment()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let mut engine = runtime.block_on(Engine::start(&database))?;
    let file = match &arguments.verb {
        Verb::Recover { file, .. } | Verb::Command { file } => file,
    };
    let input: Box<dyn BufRead> = if file.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        let opened = File::open(file).map_err(|error| format!("{}: {error}", file.display()))?;
        Box::new(BufReader::new(opened))
    };
    for line in input.lines() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let answer = match arguments.verb {
            Verb::Recover { full, .. } => runtime.block_on(recover(&mut engine, &line, full)),
            Verb::Command { .. } => runtime.block_on(command(&mut engine, &line)),
        };
        println!("{}", answer.text());
    }
    runtime.block_on(engine.shutdown())
}
