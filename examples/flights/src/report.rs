//! What a run tells: the JSON report, the refused rows, and the table at the end.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use hdrhistogram::Histogram;
use indicatif::HumanCount;
use serde::Serialize;

use crate::aircraft::Totals;
use crate::output::{self, OutputFile};
use crate::row::Reason;

/// How many rows became what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// All rows after the header.
    pub rows: u64,
    /// Recorded by their aircraft.
    pub accepted: u64,
    /// Not recorded.
    pub refused: Refused,
}

/// Refused rows by reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Refused {
    /// See [`Reason::Cancelled`].
    pub cancelled: u64,
    /// See [`Reason::NoTailNumber`].
    pub no_tail_number: u64,
    /// See [`Reason::Duplicate`].
    pub duplicate: u64,
    /// See [`Reason::Malformed`].
    pub malformed: u64,
}

impl Refused {
    /// Counts one more.
    pub fn add(&mut self, reason: Reason) {
        *match reason {
            Reason::Cancelled => &mut self.cancelled,
            Reason::NoTailNumber => &mut self.no_tail_number,
            Reason::Duplicate => &mut self.duplicate,
            Reason::Malformed => &mut self.malformed,
        } += 1;
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.cancelled + self.no_tail_number + self.duplicate + self.malformed
    }
}

/// The JSON report: the counts of this run, and every stored aircraft by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Of this run.
    #[serde(flatten)]
    pub counts: Counts,
    /// All aircraft with a recorded flight, as they answered after their recovery.
    pub aircraft: BTreeMap<String, Totals>,
}

impl Report {
    /// Writes the report and puts the file in its place.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, mut file: OutputFile) -> Result<(), output::Error> {
        serde_json::to_writer_pretty(&mut file, self).map_err(|source| file.error(source))?;
        writeln!(file).map_err(|source| file.error(source))?;
        file.finish()
    }

    /// The `count` aircraft with the most miles, by name where these are equal.
    pub fn most_miles(&self, count: usize) -> Vec<(&str, &Totals)> {
        let mut aircraft: Vec<_> = self
            .aircraft
            .iter()
            .map(|(tail, totals)| (tail.as_str(), totals))
            .collect();
        // Stable, and the map is sorted by name.
        aircraft.sort_by_key(|(_, totals)| std::cmp::Reverse(totals.miles));
        aircraft.truncate(count);
        aircraft
    }
}

/// The refused rows as CSV: line, reason, row; in the order of the table.
pub struct Rejects {
    csv: csv::Writer<OutputFile>,
    path: Box<Path>,
}

impl Rejects {
    /// Begins the file with its header.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(path: &Path) -> Result<Self, output::Error> {
        let mut rejects = Self {
            csv: csv::Writer::from_writer(OutputFile::create(path)?),
            path: path.into(),
        };
        rejects.write(["line", "reason", "row"])?;
        Ok(rejects)
    }

    /// Adds a row.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&mut self, line: u64, reason: Reason, row: &str) -> Result<(), output::Error> {
        self.write([&line.to_string(), reason.as_str(), row])
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(self) -> Result<(), output::Error> {
        let Self { csv, path } = self;
        csv.into_inner()
            .map_err(|error| output::Error::new(&path, error.into_error()))?
            .finish()
    }

    fn write(&mut self, record: [&str; 3]) -> Result<(), output::Error> {
        self.csv
            .write_record(record)
            .map_err(|error| output::Error::new(&self.path, error.into()))
    }
}

impl std::fmt::Debug for Rejects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rejects")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// How long asks took, from sending to the answer, repetitions counted each by itself. To the
/// microsecond, with three digits, and at most an hour.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    /// None yet.
    pub fn new() -> Self {
        const HOUR_MICROS: u64 = 3_600_000_000;
        Self(Histogram::new_with_bounds(1, HOUR_MICROS, 3).expect("the bounds are constants"))
    }

    /// Adds one.
    pub fn record(&mut self, elapsed: Duration) {
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(micros);
    }

    /// The time within which the given part of all asks was answered.
    pub fn quantile(&self, part: f64) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(part))
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

/// What the table at the end shows.
#[derive(Debug, Clone)]
pub struct Figures<'a> {
    /// Counts of the run and totals of all aircraft.
    pub report: &'a Report,
    /// How long it took to record the flights.
    pub recording: Duration,
    /// How long the asks among that took.
    pub latencies: &'a Latencies,
    /// How long it took to bring all aircraft back and ask them.
    pub recovering: Duration,
}

impl Figures<'_> {
    /// The table, several lines without a final line end.
    pub fn table(&self) -> String {
        const SHOWN: usize = 5;
        let Counts {
            rows,
            accepted,
            refused,
        } = &self.report.counts;
        let aircraft = u64::try_from(self.report.aircraft.len()).unwrap_or(u64::MAX);
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["", "this run"]);
        let count = |number: u64| HumanCount(number).to_string();
        let mut lines = vec![
            ("rows".to_owned(), count(*rows)),
            ("accepted".to_owned(), count(*accepted)),
            ("refused".to_owned(), count(refused.total())),
        ];
        for (reason, number) in [
            (Reason::Malformed, refused.malformed),
            (Reason::NoTailNumber, refused.no_tail_number),
            (Reason::Cancelled, refused.cancelled),
            (Reason::Duplicate, refused.duplicate),
        ] {
            lines.push((format!("  {reason}"), count(number)));
        }
        lines.extend([
            ("aircraft".to_owned(), count(aircraft)),
            ("events/s".to_owned(), rate(*accepted, self.recording)),
            ("ask p50".to_owned(), millis(self.latencies.quantile(0.50))),
            ("ask p99".to_owned(), millis(self.latencies.quantile(0.99))),
            ("recoveries/s".to_owned(), rate(aircraft, self.recovering)),
        ]);
        for (index, (tail, totals)) in (1..).zip(self.report.most_miles(SHOWN)) {
            let sign = if totals.miles < 0 { "-" } else { "" };
            let miles = count(totals.miles.unsigned_abs());
            // A tail number may hold anything, also what would move the cursor.
            let tail = tail.escape_debug();
            lines.push((
                format!("most miles, {index}."),
                format!("{tail} {sign}{miles}"),
            ));
        }
        for (name, value) in lines {
            table.add_row([name, value]);
        }
        if let Some(values) = table.column_mut(1) {
            values.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }
}

/// Whole things per second; none in no time.
fn rate(count: u64, elapsed: Duration) -> String {
    let per_second = u128::from(count) * 1_000_000 / elapsed.as_micros().max(1);
    HumanCount(u64::try_from(per_second).unwrap_or(u64::MAX)).to_string()
}

fn millis(elapsed: Duration) -> String {
    format!("{:.2} ms", elapsed.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let totals = |miles| Totals {
            flights: 2,
            miles,
            air_minutes: 3,
            departure_delay_minutes: -4,
            last_destination: "IAH".into(),
        };
        let miles = [5, -70_000, 9, 9, 1_234_567, 8, 0];
        Report {
            counts: Counts {
                rows: 27_004,
                accepted: 26_483,
                refused: Refused {
                    cancelled: 366,
                    no_tail_number: 155,
                    duplicate: 1,
                    malformed: 2,
                },
            },
            aircraft: (1..)
                .zip(miles)
                .map(|(index, miles)| (format!("N{index}"), totals(miles)))
                .collect(),
        }
    }

    #[test]
    fn the_report_has_its_shape_and_is_sorted() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("report.json");
        let mut report = report();
        report
            .aircraft
            .retain(|tail, _| tail == "N2" || tail == "N1");
        let file = OutputFile::create(&path).expect("a folder to write to");
        report.write(file).expect("room");
        let text = std::fs::read_to_string(&path).expect("there");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).expect("JSON"),
            serde_json::json!({
                "rows": 27004,
                "accepted": 26483,
                "refused": {"cancelled": 366, "no-tail-number": 155, "duplicate": 1, "malformed": 2},
                "aircraft": {
                    "N1": {"flights": 2, "miles": 5, "air_minutes": 3,
                           "departure_delay_minutes": -4, "last_destination": "IAH"},
                    "N2": {"flights": 2, "miles": -70000, "air_minutes": 3,
                           "departure_delay_minutes": -4, "last_destination": "IAH"},
                },
            })
        );
        assert!(text.find("\"N1\"") < text.find("\"N2\""));
        assert!(text.ends_with("}\n"));
    }

    #[test]
    fn rejected_rows_are_quoted_as_csv() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rejects.csv");
        let mut rejects = Rejects::create(&path).expect("a folder to write to");
        rejects.add(2, Reason::Malformed, "").expect("room");
        rejects
            .add(7, Reason::NoTailNumber, "a,\"b\"")
            .expect("room");
        assert!(!path.exists());
        rejects.finish().expect("room");
        assert_eq!(
            std::fs::read_to_string(&path).expect("there"),
            "line,reason,row\n2,malformed,\n7,no-tail-number,\"a,\"\"b\"\"\"\n"
        );
    }

    #[test]
    fn the_table_shows_every_figure() {
        let mut latencies = Latencies::new();
        for micros in 1..=100 {
            latencies.record(Duration::from_micros(micros * 100));
        }
        let report = report();
        let table = Figures {
            report: &report,
            recording: Duration::from_millis(500),
            latencies: &latencies,
            recovering: Duration::from_secs(7),
        }
        .table();
        for (name, value) in [
            ("rows", "27,004"),
            ("accepted", "26,483"),
            ("refused", "524"),
            ("malformed", "2"),
            ("no-tail-number", "155"),
            ("cancelled", "366"),
            ("duplicate", "1"),
            ("aircraft", "7"),
            ("events/s", "52,966"),
            ("ask p50", "5.00 ms"),
            ("ask p99", "9.90 ms"),
            ("recoveries/s", "1"),
            ("most miles, 1.", "N5 1,234,567"),
            ("most miles, 2.", "N3 9"),
            ("most miles, 3.", "N4 9"),
            ("most miles, 4.", "N6 8"),
            ("most miles, 5.", "N1 5"),
        ] {
            assert!(
                table.lines().any(|line| {
                    let cells: Vec<&str> = line
                        .split(['│', '┆'])
                        .map(str::trim)
                        .filter(|cell| !cell.is_empty())
                        .collect();
                    cells == [name, value]
                }),
                "{name} {value} in\n{table}"
            );
        }
    }

    #[test]
    fn an_empty_run_has_a_table_too() {
        let report = Report {
            counts: Counts::default(),
            aircraft: BTreeMap::new(),
        };
        let latencies = Latencies::new();
        let table = Figures {
            report: &report,
            recording: Duration::ZERO,
            latencies: &latencies,
            recovering: Duration::ZERO,
        }
        .table();
        assert!(table.contains("0.00 ms"), "{table}");
    }
}
