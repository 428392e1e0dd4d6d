//! An item: one data row of the flight table on its way into a table.

use flight_table::input::{self, Input, Line};
use flight_table::row::{Flight, NOT_RECORDED};
use serde::{Deserialize, Serialize};

/// One data row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Which data row it is, from 1. The key of the table.
    pub line: i64,
    /// What goes into the table, or why there is nothing that could.
    pub content: Result<Row, String>,
}

/// What goes into the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The aircraft; none was recorded for some flights.
    pub tailnum: Option<String>,
    /// From where.
    pub origin: String,
    /// To where.
    pub dest: String,
    /// In miles. The table takes only what is positive.
    pub distance: i64,
}

impl Item {
    fn of_line(line: &Line) -> Self {
        // The header is the first line.
        let number = line.number.saturating_sub(1);
        let content = match Flight::of_line(line) {
            Ok(flight) => Ok(Row {
                tailnum: (flight.tailnum != NOT_RECORDED).then_some(flight.tailnum),
                origin: flight.origin,
                dest: flight.dest,
                distance: flight.distance,
            }),
            Err(malformed) => Err(format!("malformed: {malformed}")),
        };
        Self {
            line: i64::try_from(number).unwrap_or(i64::MAX),
            content,
        }
    }

    /// Whether the table takes it, as far as can be seen here.
    pub fn is_good(&self) -> bool {
        self.content.as_ref().is_ok_and(|row| row.distance > 0)
    }

    fn spoil(&mut self) {
        if let Ok(row) = &mut self.content {
            row.distance = -row.distance;
        }
    }
}

/// Makes items of the lines of one table, in their order, and spoils some of those that are good.
#[derive(Debug)]
pub struct Items {
    spoil: Spoil,
    /// How many good ones there were.
    good: u64,
}

impl Items {
    /// From the first line on.
    pub fn new(spoil: Spoil) -> Self {
        Self { spoil, good: 0 }
    }

    /// The item of the next line.
    pub fn next(&mut self, line: &Line) -> Item {
        let mut item = Item::of_line(line);
        if item.is_good() {
            self.good += 1;
            if self.spoil.hits(self.good) {
                item.spoil();
            }
        }
        item
    }

    /// Checks, after the last line, that as many were spoiled as were to be.
    ///
    /// # Errors
    /// There were fewer good rows.
    pub fn check(&self, name: &str) -> Result<(), Error> {
        self.spoil.check(self.good, name)
    }
}

/// Which good rows are spoiled. For one table always the same, so that a run that goes on where
/// another one was killed spoils what that one would have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoil {
    /// None.
    Nothing,
    /// So many of so many, spread evenly.
    Spread {
        /// How many.
        wanted: u64,
        /// Of how many.
        good: u64,
    },
    /// The first so many, where nobody can know how many there are.
    First {
        /// How many.
        wanted: u64,
    },
}

impl Spoil {
    /// Spoils `wanted` rows of a table that can be read again, and so be counted.
    ///
    /// # Errors
    /// The table has fewer good rows, or cannot be read.
    pub fn of_table(
        wanted: u64,
        open: impl FnOnce() -> Result<Input, input::Error>,
    ) -> Result<Self, Error> {
        if wanted == 0 {
            return Ok(Self::Nothing);
        }
        let table = open()?;
        let name = table.name().to_owned();
        // A table that is cut off has the rows before that.
        let lines = table.map_while(Result::ok);
        let good = lines.filter(|line| Item::of_line(line).is_good()).count();
        let good = u64::try_from(good).unwrap_or(u64::MAX);
        let spoil = Self::Spread { wanted, good };
        spoil.check(good, &name)?;
        Ok(spoil)
    }

    /// Spoils `wanted` rows of a table that can be read only once, such as a pipe.
    pub fn of_pipe(wanted: u64) -> Self {
        if wanted == 0 {
            Self::Nothing
        } else {
            Self::First { wanted }
        }
    }

    /// Whether a good row is spoiled; they are counted from 1.
    fn hits(self, row: u64) -> bool {
        match self {
            Self::Nothing => false,
            Self::Spread { wanted, good } => {
                // How many of the first rows are spoiled grows by one at each that is.
                let spoiled = |row| u128::from(row) * u128::from(wanted) / u128::from(good.max(1));
                (1..=good).contains(&row) && spoiled(row) > spoiled(row - 1)
            }
            Self::First { wanted } => (1..=wanted).contains(&row),
        }
    }

    fn check(self, good: u64, name: &str) -> Result<(), Error> {
        match self {
            Self::Spread { wanted, .. } | Self::First { wanted } if wanted > good => {
                Err(Error::TooFew {
                    wanted,
                    good,
                    name: name.to_owned(),
                })
            }
            _ => Ok(()),
        }
    }
}

/// Why rows cannot be spoiled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There are not as many.
    #[error(
        "only {good} rows of {name} are good, so {wanted} cannot be spoiled; give --spoil a smaller \
         number"
    )]
    TooFew {
        /// How many were to be.
        wanted: u64,
        /// How many there are.
        good: u64,
        /// Where.
        name: String,
    },
    /// The table cannot be read.
    #[error(transparent)]
    Input(#[from] input::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: &str =
        "2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z";

    fn line(number: u64, text: &str) -> Line {
        Line {
            number,
            text: text.into(),
            is_truncated: false,
        }
    }

    fn item(text: &str) -> Item {
        Item::of_line(&line(2, text))
    }

    #[test]
    fn every_data_row_is_an_item() {
        let good = item(ROW);
        let row = Row {
            tailnum: Some("N14228".into()),
            origin: "EWR".into(),
            dest: "IAH".into(),
            distance: 1400,
        };
        assert_eq!((good.line, good.content), (1, Ok(row.clone())));
        let nameless = item(&ROW.replace("N14228", "NA"));
        let expected = Row {
            tailnum: None,
            ..row.clone()
        };
        assert_eq!(nameless.content, Ok(expected));
        assert_eq!(item(&ROW.replace(",517,", ",NA,")).content, Ok(row));
        let reason = "malformed: 2 instead of 19 columns".to_owned();
        assert_eq!(item("a,b").content, Err(reason));
    }

    #[test]
    fn only_good_rows_are_spoiled_and_no_table_takes_them_then() {
        let mut items = Items::new(Spoil::of_pipe(2));
        let texts = [
            "a,b".to_owned(),
            ROW.replace(",1400,", ",0,"),
            ROW.to_owned(),
            ROW.replace(",1400,", ",9223372036854775807,"),
            ROW.to_owned(),
        ];
        let made: Vec<Item> = (2..)
            .zip(&texts)
            .map(|(number, text)| items.next(&line(number, text)))
            .collect();
        let lines: Vec<i64> = made.iter().map(|item| item.line).collect();
        assert_eq!(lines, [1, 2, 3, 4, 5]);
        let distances: Vec<Option<i64>> = made
            .iter()
            .map(|item| item.content.as_ref().ok().map(|row| row.distance))
            .collect();
        let spoiled = [None, Some(0), Some(-1400), Some(-i64::MAX), Some(1400)];
        assert_eq!(distances, spoiled);
        assert!(items.check("t").is_ok());
        let mut items = Items::new(Spoil::of_pipe(2));
        items.next(&line(2, ROW));
        assert!(items.check("a pipe").is_err());
    }

    #[test]
    fn exactly_as_many_rows_are_spoiled_as_were_wanted() {
        for good in [1, 2, 3, 7, 100, 27_004] {
            for wanted in [1, 2, 3, 7, 50, 99, 100, 27_003, 27_004] {
                let spoil = Spoil::Spread { wanted, good };
                let hit = (0..=good + 1).filter(|row| spoil.hits(*row)).count();
                if wanted <= good {
                    assert_eq!(
                        hit,
                        usize::try_from(wanted).expect("small"),
                        "{wanted} of {good}"
                    );
                    assert!(spoil.check(good, "t").is_ok());
                } else {
                    assert!(spoil.check(good, "t").is_err());
                }
            }
        }
    }

    #[test]
    fn a_table_is_counted_before_it_is_spoiled() {
        let spoil = Spoil::of_table(7, Input::bundled).expect("there are enough");
        let good = 27_004;
        assert_eq!(spoil, Spoil::Spread { wanted: 7, good });
        let error = Spoil::of_table(27_005, Input::bundled).expect_err("too many");
        assert_eq!(
            error.to_string(),
            "only 27004 rows of the bundled flights of January 2013 are good, so 27005 cannot be \
             spoiled; give --spoil a smaller number"
        );
        let unread = || panic!("nothing is read for nothing");
        assert_eq!(Spoil::of_table(0, unread).expect("nothing"), Spoil::Nothing);
    }
}
