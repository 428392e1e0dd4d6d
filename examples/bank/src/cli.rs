//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use web_common::service;

use crate::load::{self, Outcome};
use crate::serve;

/// A bank over HTTP, and a program that drives it.
#[derive(Debug, Parser)]
#[command(name = "bank", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve accounts and transfers until ctrl-c or SIGTERM.
    ///
    /// Without a configuration everything is kept in bank.sqlite in the current directory. Exit
    /// status: 0 when it ended in order, 1 when something was cut off or it could not start, 2 for a
    /// wrong command line.
    Serve(Serve),
    /// Drive a bank with deposits, withdrawals and transfers, and check that no money is made or lost.
    ///
    /// It opens accounts of its own. Exit status: 0 when the balances are what was paid in less what
    /// was paid out, 1 when they are not, or that could not be found out, 2 for a wrong command line.
    Load(Load),
}

/// Options of `serve`.
#[derive(Debug, Clone, Args)]
pub struct Serve {
    /// Configuration of the actor system and of the database.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Where to listen; port 0 takes one that is free.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
}

/// Options of `load`.
#[derive(Debug, Clone, Args)]
pub struct Load {
    /// Where the bank is, such as http://127.0.0.1:8080.
    #[arg(long, value_name = "URL", value_parser = url)]
    pub url: String,

    /// How many accounts to open.
    #[arg(long, value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(2..=100_000))]
    pub accounts: u32,

    /// How many clients send requests, each one after the other.
    #[arg(long, value_name = "N", default_value_t = 16,
          value_parser = clap::value_parser!(u32).range(1..=512))]
    pub clients: u32,

    /// For how many seconds.
    #[arg(long, value_name = "N", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub seconds: u32,

    /// Write what is printed to this JSON file too.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

impl Load {
    /// How long requests are sent.
    pub fn time(&self) -> Duration {
        Duration::from_secs(u64::from(self.seconds))
    }
}

fn url(text: &str) -> Result<String, String> {
    let text = text.trim_end_matches('/');
    let host = text
        .strip_prefix("http://")
        .ok_or("begins with http://, such as http://127.0.0.1:8080")?;
    if host.is_empty() || host.contains(['/', '?', '#', ' ']) {
        return Err("is http://HOST:PORT, without a path".to_owned());
    }
    Ok(text.to_owned())
}

/// The whole program. The exit status is that of the subcommand's description.
pub fn main() -> ExitCode {
    let ended = match Cli::parse().command {
        Command::Serve(args) => serve::run(&args),
        Command::Load(args) => load::run(&args).map(|outcome| match outcome {
            Outcome::Conserved => ExitCode::SUCCESS,
            Outcome::NotConserved | Outcome::NotKnown => ExitCode::FAILURE,
        }),
    };
    ended.unwrap_or_else(|error| service::failed(&error))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    fn refused(args: &[&str]) -> ErrorKind {
        let args = [&["bank"], args].concat();
        Cli::try_parse_from(args).expect_err("refused").kind()
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert_eq!(
            refused(&[]),
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        );
        assert_eq!(refused(&["load"]), ErrorKind::MissingRequiredArgument);
        for option in ["--listen=8080", "--listen=localhost"] {
            assert_eq!(refused(&["serve", option]), ErrorKind::ValueValidation);
        }
        for option in [
            "--accounts=1",
            "--accounts=100001",
            "--clients=0",
            "--clients=513",
            "--seconds=0",
            "--seconds=86401",
            "--seconds=1s",
        ] {
            let args = ["load", "--url=http://localhost", option];
            assert_eq!(refused(&args), ErrorKind::ValueValidation, "{option}");
        }
        for url in [
            "",
            "localhost",
            "https://localhost",
            "http://",
            "http://a/b",
        ] {
            let url = format!("--url={url}");
            assert_eq!(
                refused(&["load", &url]),
                ErrorKind::ValueValidation,
                "{url}"
            );
        }
    }

    #[test]
    fn a_url_may_end_with_a_slash() {
        assert_eq!(
            url("http://localhost:80/"),
            Ok("http://localhost:80".to_owned())
        );
    }
}
