//! One row of the flight table, and what can be said about it before its aircraft is asked.

use std::sync::Arc;

use flight_table::row::NOT_RECORDED;
pub use flight_table::row::{COLUMNS, Flight};
use perennial_persistence::PersistenceId;
use serde::{Deserialize, Serialize};

use crate::aircraft::ENTITY_TYPE;
use crate::input::Line;

/// What the table offers as a key: year, month, day, carrier, flight, origin and sched_dep_time.
///
/// Kept as one short text, the JSON array of these seven, because an aircraft remembers the keys
/// of all its flights: exact, unambiguous whatever the texts contain, and half the memory of seven
/// fields.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NaturalKey(Box<str>);

impl NaturalKey {
    /// That of a flight, which tells it from all others of its aircraft.
    pub fn of(flight: &Flight) -> Self {
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
        let content = departure(&line).map(Arc::new);
        Self {
            line: line.number,
            text: line.text,
            content,
        }
    }
}

/// Reads a row, and decides what can be decided without its aircraft.
///
/// # Errors
/// [`Reason::Malformed`] and [`Reason::NoTailNumber`], tried in this order.
fn departure(line: &Line) -> Result<Flight, Reason> {
    let flight = Flight::of_line(line).map_err(|_| Reason::Malformed)?;
    // Without a tail number there is nothing that would have to be an id.
    if flight.tailnum.is_empty() || flight.tailnum == NOT_RECORDED {
        return Err(Reason::NoTailNumber);
    }
    if PersistenceId::new(ENTITY_TYPE, &flight.tailnum).is_err() {
        return Err(Reason::Malformed);
    }
    Ok(flight)
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

    fn parse(text: &str) -> Result<Flight, Reason> {
        departure(&Line {
            number: 2,
            text: text.into(),
            is_truncated: false,
        })
    }

    fn check(column: &str, value: &str) -> Result<Flight, Reason> {
        parse(&with(column, value))
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
        assert_eq!(parse(&text), Err(Reason::Malformed));
    }

    #[test]
    fn the_natural_key_is_its_seven_columns_and_no_other() {
        let base = NaturalKey::of(&parse(ROW).expect("a good row"));
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
            let key = NaturalKey::of(&check(column, value).expect("a good row"));
            assert_eq!(key != base, part_of_it, "{column}");
        }
        // The texts cannot run into each other.
        let a = Flight {
            carrier: "A\",1,\"B".into(),
            ..parse(ROW).expect("a good row")
        };
        let b = Flight {
            carrier: "A".into(),
            ..a.clone()
        };
        assert_ne!(NaturalKey::of(&a), NaturalKey::of(&b));
    }
}
