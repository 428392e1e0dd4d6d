//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

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
        let files = [
            ("--input", &self.input),
            ("--config", &self.config),
            ("--rejects", &self.rejects),
            ("--report", &self.report),
        ];
        let files: Vec<_> = files
            .into_iter()
            .filter_map(|(option, path)| {
                let path = path.as_ref()?;
                // Devices and pipes may well be used twice.
                let is_special = std::fs::metadata(path).is_ok_and(|found| !found.is_file());
                let place = path.canonicalize().or_else(|_| std::path::absolute(path));
                (!is_special).then(|| (option, place.unwrap_or_else(|_| path.clone())))
            })
            .collect();
        for (index, (first, place)) in files.iter().enumerate() {
            if let Some((second, _)) = files[index + 1..].iter().find(|(_, other)| other == place) {
                return Err(SameFile {
                    first,
                    second,
                    path: place.clone(),
                });
            }
        }
        Ok(())
    }
}

/// Two options name one file.
#[derive(Debug, thiserror::Error)]
#[error("{first} and {second} are both {}; give them different files", path.display())]
pub struct SameFile {
    first: &'static str,
    second: &'static str,
    path: PathBuf,
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
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("flights.csv");
        std::fs::write(&file, "").expect("a file");
        let detour = folder.path().join(".").join("flights.csv");
        let other = folder.path().join("new.csv");
        let check = |first: &str, a: &PathBuf, second: &str, b: &PathBuf| {
            let text = |path: &PathBuf| path.display().to_string();
            parse(&[first, &text(a), second, &text(b)])
                .expect("a good command line")
                .check()
        };
        let error = check("--input", &file, "--rejects", &detour).expect_err("the same file");
        assert!(
            error
                .to_string()
                .starts_with("--input and --rejects are both ")
        );
        assert!(check("--report", &other, "--rejects", &other).is_err());
        assert!(check("--input", &file, "--rejects", &other).is_ok());
        let null = PathBuf::from("/dev/null");
        assert!(check("--report", &null, "--rejects", &null).is_ok());
    }
}
