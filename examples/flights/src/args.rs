//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use flight_table::program::{SameFile, check_files};

/// Feeds the flight table to one persistent actor per aircraft, restarts, and checks every total.
///
/// Without options the bundled month goes into flights.sqlite in the current directory, which is
/// made anew. Exit status: 0 when all totals are right, 1 when one is wrong or the run failed, 2
/// for a wrong command line, 130 when stopped with ctrl-c.
#[derive(Debug, Clone, Parser)]
#[command(name = "flights", version, max_term_width = 100)]
pub struct Args {
    /// Flight table to read instead of the bundled month: .csv or .csv.gz of the same columns, of
    /// any size.
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,

    /// Configuration of the actor system: its store, its workers.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Continue on the data that is there, also when it is missing, empty or half made.
    #[arg(long)]
    pub keep: bool,

    /// Delete all aircraft in the store and start anew.
    #[arg(long, conflicts_with = "keep")]
    pub reset: bool,

    /// Commands that may be under way at once, each to another aircraft.
    #[arg(long, value_name = "N", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub in_flight: u32,

    /// Write every refused row to this CSV file: line, reason, row. The line is that of the file
    /// as an editor counts, so the header is line 1.
    #[arg(long, value_name = "FILE")]
    pub rejects: Option<PathBuf>,

    /// Write the counts of this run and the totals of all stored aircraft to this JSON file.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,

    /// How long to wait for a store that does not answer before giving up, such as 90s or 2m.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    pub patience: Duration,
}

impl Args {
    /// What the options say together and no single one of them.
    ///
    /// # Errors
    /// Two files are the same one, so that writing one would destroy the other.
    pub fn check(&self) -> Result<(), SameFile> {
        check_files(&[
            ("--input", self.input.as_deref()),
            ("--config", self.config.as_deref()),
            ("--rejects", self.rejects.as_deref()),
            ("--report", self.report.as_deref()),
        ])
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(args: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from([&["flights"], args].concat())
    }

    fn kind(args: &[&str]) -> ErrorKind {
        parse(args).expect_err("refused").kind()
    }

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn nothing_is_needed() {
        let args = parse(&[]).expect("no options are fine");
        assert_eq!(args.in_flight, 256);
        assert_eq!(args.patience, Duration::from_secs(60));
        assert!(!args.keep && !args.reset);
    }

    #[test]
    fn contradictions_and_wild_numbers_are_refused() {
        assert_eq!(kind(&["--keep", "--reset"]), ErrorKind::ArgumentConflict);
        for number in ["0", "65537", "-1", "many"] {
            let kind = kind(&[&format!("--in-flight={number}")]);
            assert_eq!(kind, ErrorKind::ValueValidation, "{number}");
        }
        assert_eq!(
            parse(&["--in-flight", "65536"]).expect("fits").in_flight,
            65_536
        );
        assert_eq!(kind(&["--patience", "soon"]), ErrorKind::ValueValidation);
        assert_eq!(kind(&["file.csv"]), ErrorKind::UnknownArgument);
    }

    #[test]
    fn no_file_is_read_and_written() {
        for options in [["--input", "--rejects"], ["--config", "--report"]] {
            let [first, second] = options;
            let args = parse(&[first, "new", second, "./new"]).expect("a good command line");
            let error = args.check().expect_err("the same file").to_string();
            assert!(error.starts_with(&format!("{first} and {second} are both ")));
        }
        let args = parse(&["--input", "a", "--config", "b", "--rejects", "c"]);
        assert!(args.expect("a good command line").check().is_ok());
    }
}
