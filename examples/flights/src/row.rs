//! One row of the flight table, and what can be said about it before its aircraft is asked.

use std::sync::Arc;

use perennial_persistence::PersistenceId;
use serde::{Deserialize, Serialize};

use crate::aircraft::ENTITY_TYPE;
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
    /// What tells this flight from all others of its aircraft.
    pub fn natural_key(&self) -> NaturalKey {
        NaturalKey::of(self)
    }

    /// Reads a row, and decides what can be decided without its aircraft.
    ///
    /// # Errors
    /// [`Reason::Malformed`] and [`Reason::NoTailNumber`], tried in this order.
    pub fn parse(text: &str) -> Result<Self, Reason> {
        if text.contains('"') {
            let record = unquote(text).ok_or(Reason::Malformed)?;
            Self::from_fields(record.iter())
        } else {
            Self::from_fields(text.split(','))
        }
    }

    fn from_fields<'a>(fields: impl Iterator<Item = &'a str>) -> Result<Self, Reason> {
        let mut columns = [""; COLUMNS.len()];
        let mut count = 0;
        for field in fields {
            *columns.get_mut(count).ok_or(Reason::Malformed)? = field;
            count += 1;
        }
        if count != COLUMNS.len() {
            return Err(Reason::Malformed);
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

        let flight = Self {
            year: recorded(year)?,
            month: recorded(month)?,
            day: recorded(day)?,
            dep_time: number(dep_time)?,
            sched_dep_time: recorded(sched_dep_time)?,
            dep_delay: number(dep_delay)?,
            arr_time: number(arr_time)?,
            sched_arr_time: number(sched_arr_time)?,
            arr_delay: number(arr_delay)?,
            carrier: carrier.to_owned(),
            flight: recorded(flight)?,
            tailnum: tailnum.to_owned(),
            origin: origin.to_owned(),
            dest: dest.to_owned(),
            air_time: number(air_time)?,
            distance: recorded(distance)?,
            hour: number(hour)?,
            minute: number(minute)?,
            time_hour: time_hour.to_owned(),
        };
        // Without a tail number there is nothing that would have to be an id.
        if flight.tailnum.is_empty() || flight.tailnum == NOT_RECORDED {
            return Err(Reason::NoTailNumber);
        }
        if PersistenceId::new(ENTITY_TYPE, &flight.tailnum).is_err() {
            return Err(Reason::Malformed);
        }
        Ok(flight)
    }
}

/// What the table offers as a key: year, month, day, carrier, flight, origin and sched_dep_time.
///
/// Kept as one short text, the JSON array of these seven, because an aircraft remembers the keys
/// of all its flights: exact, unambiguous whatever the texts contain, and half the memory of seven
/// fields.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NaturalKey(Box<str>);

impl NaturalKey {
    fn of(flight: &Flight) -> Self {
        let key = (
            flight.year,
            flight.month,
            flight.day,
            &flight.carrier,
            flight.flight,
            &flight.origin,
            flight.sched_dep_time,
        );
        let json = serde_json::to_string(&key).expect("numbers and texts always have a JSON form");
        Self(json.into())
    }
}

impl std::fmt::Display for NaturalKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a row is no recorded flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Not a row of this table, or one with numbers whose sums would not fit into 64 bits.
    Malformed,
    /// Nobody knows which aircraft it was.
    NoTailNumber,
    /// It never departed.
    Cancelled,
    /// Its aircraft has recorded this flight already.
    Duplicate,
}

impl Reason {
    /// The word for it in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NoTailNumber => "no-tail-number",
            Self::Cancelled => "cancelled",
            Self::Duplicate => "duplicate",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A row on its way: where and how it stands in the file, and what it says.
#[derive(Debug, Clone)]
pub struct Row {
    /// The line of the file, as an editor counts: the header is line 1.
    pub line: u64,
    /// The line without its end, at most [`MAX_LINE_BYTES`](crate::input::MAX_LINE_BYTES) of it.
    pub text: Box<str>,
    /// The flight, or why there is none. Shared, since a command may have to be sent again.
    pub content: Result<Arc<Flight>, Reason>,
}

impl Row {
    /// Classifies a line as far as that is possible without its aircraft.
    pub fn new(line: Line) -> Self {
        let content = if line.is_truncated {
            Err(Reason::Malformed)
        } else {
            Flight::parse(&line.text).map(Arc::new)
        };
        Self {
            line: line.number,
            text: line.text,
            content,
        }
    }
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

fn recorded(field: &str) -> Result<i64, Reason> {
    number(field)?.ok_or(Reason::Malformed)
}

fn number(field: &str) -> Result<Option<i64>, Reason> {
    if field == NOT_RECORDED {
        return Ok(None);
    }
    // `i64` alone would also read "+5".
    let digits = field.strip_prefix('-').unwrap_or(field);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Reason::Malformed);
    }
    field.parse().map(Some).map_err(|_| Reason::Malformed)
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

    fn check(column: &str, value: &str) -> Result<Flight, Reason> {
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
            assert_eq!(check(column, "NA"), Err(Reason::Malformed), "{column}");
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
            assert_eq!(number(text), Ok(Some(value)), "{text}");
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
            assert_eq!(number(text), Err(Reason::Malformed), "{text:?}");
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
        for text in [
            String::new(),
            " ".into(),
            "2013".into(),
            ",".repeat(17),
            format!("{ROW},"),
            format!("{ROW},1"),
            format!(",{ROW}"),
            ROW.rsplit_once(',').expect("columns").0.to_owned(),
        ] {
            assert_eq!(Flight::parse(&text), Err(Reason::Malformed), "{text:?}");
        }
    }

    #[test]
    fn a_tail_number_must_be_there_and_be_an_id() {
        assert_eq!(check("tailnum", ""), Err(Reason::NoTailNumber));
        assert_eq!(check("tailnum", "NA"), Err(Reason::NoTailNumber));
        assert_eq!(check("tailnum", "N1|2"), Err(Reason::Malformed));
        assert_eq!(check("tailnum", "N1\0"), Err(Reason::Malformed));
        assert_eq!(check("tailnum", &"N".repeat(247)), Err(Reason::Malformed));
        let longest = "N".repeat(246);
        assert_eq!(check("tailnum", &longest).expect("fits").tailnum, longest);
        assert_eq!(
            check("tailnum", "N1\u{FFFD}").expect("text").tailnum,
            "N1\u{FFFD}"
        );
    }

    #[test]
    fn malformed_comes_before_no_tail_number() {
        let text = with("tailnum", "NA").replace("1400", "far");
        assert_eq!(Flight::parse(&text), Err(Reason::Malformed));
    }

    #[test]
    fn quoted_fields_keep_their_commas() {
        let quoted = ROW
            .replace("IAH", "\"Houston, \"\"IAH\"\"\"")
            .replace("517", "\"517\"");
        let flight = Flight::parse(&quoted).expect("a good row");
        assert_eq!(flight.dest, "Houston, \"IAH\"");
        assert_eq!(flight.dep_time, Some(517));
        assert_eq!(check("tailnum", "\"NA\""), Err(Reason::NoTailNumber));
        assert_eq!(check("tailnum", "\"\""), Err(Reason::NoTailNumber));
        assert_eq!(check("dest", "\"IAH"), Err(Reason::Malformed));
        assert_eq!(
            check("year", "\u{FEFF}\"2013\""),
            Err(Reason::Malformed),
            "no byte-order mark in the middle of a file"
        );
    }

    #[test]
    fn the_natural_key_is_its_seven_columns_and_no_other() {
        let base = Flight::parse(ROW).expect("a good row").natural_key();
        assert_eq!(base.to_string(), r#"[2013,1,1,"UA",1545,"EWR",515]"#);
        for column in COLUMNS {
            let value = match column {
                "carrier" | "tailnum" | "origin" | "dest" | "time_hour" => "ZZ",
                _ => "7",
            };
            let part_of_it = [
                "year",
                "month",
                "day",
                "carrier",
                "flight",
                "origin",
                "sched_dep_time",
            ]
            .contains(&column);
            let key = check(column, value).expect("a good row").natural_key();
            assert_eq!(key != base, part_of_it, "{column}");
        }
        // The texts cannot run into each other.
        let a = Flight {
            carrier: "A\",1,\"B".into(),
            ..Flight::parse(ROW).expect("a good row")
        };
        let b = Flight {
            carrier: "A".into(),
            ..a.clone()
        };
        assert_ne!(a.natural_key(), b.natural_key());
    }
}
