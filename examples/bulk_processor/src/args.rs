//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use flight_table::program::{SameFile, check_files};

/// The most rows of one insert, so that it has no more parameters than SQLite takes.
pub const MOST_ROWS: u32 = 5_000;

/// Gathers the rows of the flight table and writes them together to the table bulk_item.
///
/// Without options the bundled month goes into bulk.sqlite in the current directory, which is made
/// anew. Rows that the table refuses are set aside in bulk_rejected. Exit status: 0 when every row is
/// stored or set aside, 1 when one is not or the run failed, 2 for a wrong command line, 130 when
/// stopped with ctrl-c.
#[derive(Debug, Clone, Parser)]
#[command(name = "bulk_processor", version, max_term_width = 100)]
pub struct Args {
    /// Flight table to read instead of the bundled month: .csv or .csv.gz of the same columns, of
    /// any size.
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,

    /// Write when so many rows have gathered.
    #[arg(long, value_name = "N", default_value_t = 500,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_ROWS)))]
    pub batch: u32,

    /// Write when the first row that has gathered has waited for so many milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 200,
          value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    pub linger: u64,

    /// Read no more than so many rows per second, such as 100 or 0.5.
    #[arg(long, value_name = "ITEMS_PER_S", value_parser = rate)]
    pub rate: Option<f64>,

    /// Spoil exactly so many different rows, so that the table refuses them: the same ones whenever
    /// the same table is read.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub spoil: u64,

    /// Take rows through a persistent buffer: one that was taken is stored, whatever happens.
    #[arg(long)]
    pub durable: bool,

    /// Configuration of the actor system and of the database.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Write counts and speeds to this JSON file.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,

    /// Continue on what is there, also when it is missing, empty or half made.
    #[arg(long)]
    pub keep: bool,
}

impl Args {
    /// How long the first row waits.
    pub fn linger(&self) -> Duration {
        Duration::from_millis(self.linger)
    }

    /// How many rows make a full batch.
    pub fn batch(&self) -> usize {
        usize::try_from(self.batch).expect("a small number")
    }

    /// What the options say together and no single one of them.
    ///
    /// # Errors
    /// Two files are the same one, so that writing one would destroy the other.
    pub fn check(&self) -> Result<(), SameFile> {
        check_files(&[
            ("--input", self.input.as_deref()),
            ("--config", self.config.as_deref()),
            ("--report", self.report.as_deref()),
        ])
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.001..=1e9).contains(&rate) => Ok(rate),
        _ => Err("a number of rows per second from 0.001 to 1000000000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(args: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from([&["bulk_processor"], args].concat())
    }

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn nothing_is_needed() {
        let args = parse(&[]).expect("no options are fine");
        assert_eq!(
            (args.batch(), args.linger()),
            (500, Duration::from_millis(200))
        );
        assert_eq!((args.rate, args.spoil), (None, 0));
        assert!(!args.keep && !args.durable);
    }

    #[test]
    fn wild_numbers_are_refused() {
        for option in [
            "--batch=0",
            "--batch=5001",
            "--batch=-1",
            "--linger=0",
            "--linger=86400001",
            "--linger=1s",
            "--rate=0",
            "--rate=-1",
            "--rate=nan",
            "--rate=inf",
            "--rate=1e10",
            "--rate=fast",
            "--spoil=-1",
            "--spoil=some",
        ] {
            let kind = parse(&[option]).expect_err("refused").kind();
            assert_eq!(kind, ErrorKind::ValueValidation, "{option}");
        }
        for option in [
            "--batch=5000",
            "--linger=86400000",
            "--rate=0.5",
            "--rate=1e9",
        ] {
            assert!(parse(&[option]).is_ok(), "{option}");
        }
        let kind = parse(&["file.csv"]).expect_err("refused").kind();
        assert_eq!(kind, ErrorKind::UnknownArgument);
    }

    #[test]
    fn no_file_is_read_and_written() {
        let args = parse(&["--input", "new", "--report", "./new"]).expect("a good command line");
        let error = args.check().expect_err("the same file").to_string();
        assert!(
            error.starts_with("--input and --report are both "),
            "{error}"
        );
    }
}
