//! What a run tells: the JSON report, and the table at the end.

use std::io::Write;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use flight_table::output::{self, OutputFile};
use indicatif::HumanCount;
use serde::Serialize;

use crate::sink::Tally;
use crate::table::{Held, Singles};

/// The JSON report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Data rows of the table.
    pub items: u64,
    /// How many of them are in `bulk_item` at the end, by this run or an earlier one.
    pub stored: u64,
    /// How many are in `bulk_rejected`.
    pub set_aside: u64,
    /// How many batches this run has written.
    pub flushes: Flushes,
    /// Items of this run by its time.
    pub rows_per_s: f64,
    /// One insert per row, of a sample.
    pub single_rows_per_s: f64,
}

/// Batches by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Flushes {
    /// See [`Reason::Full`](crate::sink::Reason::Full).
    pub full: u64,
    /// See [`Reason::Linger`](crate::sink::Reason::Linger).
    pub linger: u64,
    /// See [`Reason::Asked`](crate::sink::Reason::Asked).
    pub asked: u64,
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
}

/// What a run has measured.
#[derive(Debug)]
pub struct Figures<'a> {
    /// Items that were read.
    pub items: u64,
    /// How long it took from the first to the last that was written.
    pub elapsed: Duration,
    /// Whether it could have been faster.
    pub is_held_back: bool,
    /// What was written.
    pub tally: &'a Tally,
    /// What is there of the items.
    pub held: &'a Held,
    /// One insert per row.
    pub singles: Singles,
}

impl Figures<'_> {
    /// As the report has them.
    pub fn report(&self) -> Report {
        let Tally {
            full,
            linger,
            asked,
            ..
        } = *self.tally;
        Report {
            items: self.items,
            stored: self.held.stored,
            set_aside: self.held.set_aside,
            flushes: Flushes {
                full,
                linger,
                asked,
            },
            rows_per_s: rate(self.items, self.elapsed),
            single_rows_per_s: rate(self.singles.rows, self.singles.elapsed),
        }
    }

    fn speed_name(&self) -> &'static str {
        if self.is_held_back {
            "rows/s, held back by --rate"
        } else {
            "rows/s"
        }
    }

    /// The table, several lines without a final line end, and what is set aside below it.
    pub fn table(&self) -> String {
        let Report {
            items,
            stored,
            set_aside,
            flushes,
            rows_per_s,
            single_rows_per_s,
        } = self.report();
        let count = |number: u64| HumanCount(number).to_string();
        let size = |part| {
            let size = self.tally.sizes.quantile(part);
            count(u64::try_from(size).unwrap_or(u64::MAX))
        };
        let mut lines = vec![
            ("rows", count(items)),
            ("stored", count(stored)),
            ("set aside", count(set_aside)),
        ];
        // Rows that were there before make the difference.
        if self.tally.stored != stored || self.tally.set_aside != set_aside {
            lines.push(("  stored by this run", count(self.tally.stored)));
            lines.push(("  set aside by this run", count(self.tally.set_aside)));
        }
        lines.extend([
            ("flushes", count(self.tally.flushes())),
            ("  full", count(flushes.full)),
            ("  linger", count(flushes.linger)),
            ("  asked", count(flushes.asked)),
            ("rows per flush, least", size(0.0)),
            ("  half of them up to", size(0.5)),
            ("  most", size(1.0)),
            (self.speed_name(), whole(rows_per_s)),
            ("  one insert per row", whole(single_rows_per_s)),
        ]);
        if single_rows_per_s > 0.0 {
            let times = rows_per_s / single_rows_per_s;
            lines.push(("  times as fast", format!("{times:.1}")));
        }
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["", "this run"]);
        for (name, value) in lines {
            table.add_row([name.to_owned(), value]);
        }
        if let Some(values) = table.column_mut(1) {
            values.set_cell_alignment(CellAlignment::Right);
        }
        let mut text = table.to_string();
        for (line, reason) in &self.held.examples {
            text += &format!("\nrow {line} is set aside: {}", printable(reason));
        }
        let shown = u64::try_from(self.held.examples.len()).unwrap_or(u64::MAX);
        if set_aside > shown {
            text += &format!("\nand {} more, see bulk_rejected", count(set_aside - shown));
        }
        text
    }
}

/// A text without what would move the cursor.
fn printable(text: &str) -> String {
    let escape = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    text.chars().map(escape).collect()
}

/// Things per second, to a tenth; none in no time.
fn rate(count: u64, elapsed: Duration) -> f64 {
    if count == 0 {
        return 0.0;
    }
    #[expect(clippy::cast_precision_loss, reason = "nobody counts to 2^53")]
    let rate = count as f64 / elapsed.as_secs_f64().max(1e-6);
    (rate * 10.0).round() / 10.0
}

fn whole(rate: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is positive and far below 2^53"
    )]
    let whole = rate.round() as u64;
    HumanCount(whole).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn held(stored: u64, set_aside: u64) -> Held {
        Held {
            stored,
            set_aside,
            examples: vec![(
                7,
                "CHECK constraint \"a\" failed\u{1b}: distance > 0".into(),
            )],
        }
    }

    fn tally(stored: u64, set_aside: u64) -> Tally {
        Tally {
            full: 54,
            linger: 2,
            asked: 1,
            stored,
            set_aside,
            ..Tally::default()
        }
    }

    #[test]
    fn the_report_has_its_shape() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("report.json");
        let figures = Figures {
            items: 27_004,
            elapsed: Duration::from_millis(1500),
            is_held_back: false,
            tally: &tally(27_000, 4),
            held: &held(27_000, 4),
            singles: Singles {
                rows: 2_000,
                elapsed: Duration::from_secs(4),
            },
        };
        let file = OutputFile::create(&path).expect("a folder to write to");
        figures.report().write(file).expect("room");
        let text = std::fs::read_to_string(&path).expect("there");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).expect("JSON"),
            json!({"items": 27_004, "stored": 27_000, "set_aside": 4,
                   "flushes": {"full": 54, "linger": 2, "asked": 1},
                   "rows_per_s": 18_002.7, "single_rows_per_s": 500.0})
        );
        let table = figures.table();
        for part in [
            "27,004",
            "57",
            "18,003",
            "36.0",
            "and 3 more, see bulk_rejected",
        ] {
            assert!(table.contains(part), "{part}: {table}");
        }
        assert!(
            table.contains(r#"row 7 is set aside: CHECK constraint "a" failed\u{1b}: distance"#)
        );
        assert!(!table.contains("by this run"), "{table}");
    }

    #[test]
    fn what_was_there_before_is_told_apart() {
        let mut figures = Figures {
            items: 10,
            elapsed: Duration::from_secs(1),
            is_held_back: true,
            tally: &tally(0, 0),
            held: &held(9, 1),
            singles: Singles::default(),
        };
        let table = figures.table();
        assert!(table.contains("stored by this run"), "{table}");
        assert!(table.contains("held back by --rate"), "{table}");
        assert!(!table.contains("times as fast"), "{table}");
        figures.items = 0;
        figures.elapsed = Duration::ZERO;
        assert_eq!(figures.report().rows_per_s, 0.0);
    }
}
