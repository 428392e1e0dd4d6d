//! One row of the flight table.

use serde::{Deserialize, Serialize};

use crate::input::Line;

/// The columns, in their order.
pub const COLUMNS: [&str; 19] = [
    "year",
    "month",
    "day",
    "dep_time",
    "sched_dep_time",
    "dep_delay",
    "arr_time",
    "sched_arr_time",
    "arr_delay",
    "carrier",
    "flight",
    "tailnum",
    "origin",
    "dest",
    "air_time",
    "distance",
    "hour",
    "minute",
    "time_hour",
];

/// How the table writes that something was not recorded.
pub const NOT_RECORDED: &str = "NA";

/// One departure: all columns of a row.
///
/// A numeric column that may be `NA` is an `Option`. Text columns are as they stand in the table,
/// `NA` included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "the columns are described beside the data, in data/README.md"
)]
pub struct Flight {
    pub year: i64,
    pub month: i64,
    pub day: i64,
    pub dep_time: Option<i64>,
    pub sched_dep_time: i64,
    pub dep_delay: Option<i64>,
    pub arr_time: Option<i64>,
    pub sched_arr_time: Option<i64>,
    pub arr_delay: Option<i64>,
    pub carrier: String,
    pub flight: i64,
    pub tailnum: String,
    pub origin: String,
    pub dest: String,
    pub air_time: Option<i64>,
    pub distance: i64,
    pub hour: Option<i64>,
    pub minute: Option<i64>,
    pub time_hour: String,
}

impl Flight {
    /// Reads a row.
    ///
    /// # Errors
    /// [`Malformed`] for what is no row of this table.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        if text.contains('"') {
            let record = unquote(text).ok_or(Malformed::Quotes)?;
            Self::from_fields(record.iter())
        } else {
            Self::from_fields(text.split(','))
        }
    }

    /// Reads a line of the table.
    ///
    /// # Errors
    /// As [`Flight::parse`], and for a line that is too long to be read as a whole.
    pub fn of_line(line: &Line) -> Result<Self, Malformed> {
        if line.is_truncated {
            return Err(Malformed::TooLong);
        }
        Self::parse(&line.text)
    }

    fn from_fields<'a>(fields: impl Iterator<Item = &'a str>) -> Result<Self, Malformed> {
        let mut columns = [""; COLUMNS.len()];
        let mut count = 0;
        for field in fields {
            if let Some(column) = columns.get_mut(count) {
                *column = field;
            }
            count += 1;
        }
        if count != COLUMNS.len() {
            return Err(Malformed::Columns(count));
        }
        let [
            year,
            month,
            day,
            dep_time,
            sched_dep_time,
            dep_delay,
            arr_time,
            sched_arr_time,
            arr_delay,
            carrier,
            flight,
            tailnum,
            origin,
            dest,
            air_time,
            distance,
            hour,
            minute,
            time_hour,
        ] = columns;

        Ok(Self {
            year: recorded("year", year)?,
            month: recorded("month", month)?,
            day: recorded("day", day)?,
            dep_time: number("dep_time", dep_time)?,
            sched_dep_time: recorded("sched_dep_time", sched_dep_time)?,
            dep_delay: number("dep_delay", dep_delay)?,
            arr_time: number("arr_time", arr_time)?,
            sched_arr_time: number("sched_arr_time", sched_arr_time)?,
            arr_delay: number("arr_delay", arr_delay)?,
            carrier: carrier.to_owned(),
            flight: recorded("flight", flight)?,
            tailnum: tailnum.to_owned(),
            origin: origin.to_owned(),
            dest: dest.to_owned(),
            air_time: number("air_time", air_time)?,
            distance: recorded("distance", distance)?,
            hour: number("hour", hour)?,
            minute: number("minute", minute)?,
            time_hour: time_hour.to_owned(),
        })
    }
}

/// Why a line is no row of the flight table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It has too few or too many columns.
    #[error("{0} instead of {all} columns", all = COLUMNS.len())]
    Columns(usize),
    /// Something else stands where a number must stand.
    #[error("`{column}` is no whole number of 64 bits")]
    NoNumber {
        /// The column.
        column: &'static str,
    },
    /// What must have been recorded was not.
    #[error("`{column}` is {NOT_RECORDED}")]
    NotRecorded {
        /// The column.
        column: &'static str,
    },
    /// Its quotes do not fit together.
    #[error("its quotes are not those of CSV")]
    Quotes,
    /// It is longer than [`MAX_LINE_BYTES`](crate::input::MAX_LINE_BYTES).
    #[error("longer than {} bytes", crate::input::MAX_LINE_BYTES)]
    TooLong,
}

/// The fields of a line that contains quotes, by the rules of the `csv` crate: a field that begins
/// with `"` ends at the next single `"`, commas inside belong to it, and `""` stands for one quote.
/// A quote that is never closed takes the rest of the line, not of the file.
fn unquote(text: &str) -> Option<csv::StringRecord> {
    // The reader would take it for a byte-order mark and drop it. No number begins with it.
    if text.starts_with('\u{FEFF}') {
        return None;
    }
    csv::ReaderBuilder::new()
        .has_headers(false)
        .buffer_capacity(text.len())
        .from_reader(text.as_bytes())
        .into_records()
        .next()?
        .ok()
}

/// The names in a header line, with or without quotes.
pub(crate) fn header(text: &str) -> Vec<String> {
    if text.contains('"') {
        unquote(text).map_or_else(Vec::new, |record| {
            record.iter().map(str::to_owned).collect()
        })
    } else {
        text.split(',').map(str::to_owned).collect()
    }
}

fn recorded(column: &'static str, field: &str) -> Result<i64, Malformed> {
    number(column, field)?.ok_or(Malformed::NotRecorded { column })
}

fn number(column: &'static str, field: &str) -> Result<Option<i64>, Malformed> {
    if field == NOT_RECORDED {
        return Ok(None);
    }
    // `i64` alone would also read "+5".
    let digits = field.strip_prefix('-').unwrap_or(field);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Malformed::NoNumber { column });
    }
    let number = field.parse().map_err(|_| Malformed::NoNumber { column })?;
    Ok(Some(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: &str =
        "2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z";

    fn with(column: &str, value: &str) -> String {
        let at = COLUMNS
            .iter()
            .position(|name| *name == column)
            .expect("a column");
        let mut fields: Vec<&str> = ROW.split(',').collect();
        fields[at] = value;
        fields.join(",")
    }

    fn check(column: &str, value: &str) -> Result<Flight, Malformed> {
        Flight::parse(&with(column, value))
    }

    #[test]
    fn a_row_is_read_with_all_its_columns() {
        let flight = Flight::parse(ROW).expect("a good row");
        assert_eq!(
            flight,
            Flight {
                year: 2013,
                month: 1,
                day: 1,
                dep_time: Some(517),
                sched_dep_time: 515,
                dep_delay: Some(2),
                arr_time: Some(830),
                sched_arr_time: Some(819),
                arr_delay: Some(11),
                carrier: "UA".into(),
                flight: 1545,
                tailnum: "N14228".into(),
                origin: "EWR".into(),
                dest: "IAH".into(),
                air_time: Some(227),
                distance: 1400,
                hour: Some(5),
                minute: Some(15),
                time_hour: "2013-01-01T10:00:00Z".into(),
            }
        );
    }

    #[test]
    fn what_was_not_recorded_is_refused_only_where_it_is_needed() {
        for column in [
            "year",
            "month",
            "day",
            "flight",
            "sched_dep_time",
            "distance",
        ] {
            let missing = Err(Malformed::NotRecorded { column });
            assert_eq!(check(column, "NA"), missing, "{column}");
        }
        for column in [
            "dep_time",
            "dep_delay",
            "arr_time",
            "sched_arr_time",
            "arr_delay",
            "air_time",
            "hour",
            "minute",
            "carrier",
            "origin",
            "dest",
            "tailnum",
            "time_hour",
        ] {
            assert!(check(column, "NA").is_ok(), "{column}");
        }
        assert_eq!(check("dest", "NA").expect("text").dest, "NA");
        assert_eq!(check("dep_time", "NA").expect("cancelled").dep_time, None);
    }

    #[test]
    fn a_number_is_a_minus_and_ascii_digits_of_64_bits() {
        let good = [
            ("0", 0),
            ("-0", 0),
            ("007", 7),
            ("-12", -12),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
            ("00000000000000000000000005", 5),
        ];
        for (text, value) in good {
            assert_eq!(number("hour", text), Ok(Some(value)), "{text}");
        }
        let bad = [
            "",
            "-",
            "+5",
            " 5",
            "5 ",
            "5.0",
            "1e3",
            "--5",
            "٣",
            "na",
            "N/A",
            "0x10",
            "5\0",
            "\u{FFFD}",
            "9223372036854775808",
            "-9223372036854775809",
        ];
        for text in bad {
            let bad = Err(Malformed::NoNumber { column: "hour" });
            assert_eq!(number("hour", text), bad, "{text:?}");
        }
    }

    #[test]
    fn every_numeric_column_is_checked_and_no_text_column() {
        let text = ["carrier", "tailnum", "origin", "dest", "time_hour"];
        for column in COLUMNS {
            let expected = text.contains(&column);
            assert_eq!(check(column, "x1").is_ok(), expected, "{column}");
        }
    }

    #[test]
    fn the_number_of_columns_is_checked() {
        for (text, count) in [
            (String::new(), 1),
            (" ".into(), 1),
            ("2013".into(), 1),
            (",".repeat(17), 18),
            (format!("{ROW},"), 20),
            (format!("{ROW},1,2"), 21),
            (format!(",{ROW}"), 20),
            (ROW.rsplit_once(',').expect("columns").0.to_owned(), 18),
        ] {
            let wrong = Err(Malformed::Columns(count));
            assert_eq!(Flight::parse(&text), wrong, "{text:?}");
        }
    }

    #[test]
    fn quoted_fields_keep_their_commas() {
        let quoted = ROW
            .replace("IAH", "\"Houston, \"\"IAH\"\"\"")
            .replace("517", "\"517\"");
        let flight = Flight::parse(&quoted).expect("a good row");
        assert_eq!(flight.dest, "Houston, \"IAH\"");
        assert_eq!(flight.dep_time, Some(517));
        assert_eq!(check("tailnum", "\"NA\"").expect("good").tailnum, "NA");
        assert_eq!(check("tailnum", "\"\"").expect("good").tailnum, "");
        assert_eq!(check("dest", "\"IAH"), Err(Malformed::Columns(14)));
        assert_eq!(
            check("year", "\u{FEFF}\"2013\""),
            Err(Malformed::Quotes),
            "no byte-order mark in the middle of a file"
        );
    }
}
