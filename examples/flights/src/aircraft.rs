//! An aircraft: what it remembers, what it accepts, and what it answers.
//!
//! Everything here is a plain function of values. The actor around it persists what
//! [`Aircraft::decide`] returns, and changes its state only in [`Aircraft::apply`].

use std::sync::Arc;

use indexmap::IndexSet;
use serde::{Deserialize, Serialize};

use crate::row::{Flight, NaturalKey, Reason};

/// The entity type: an aircraft's persistence id is `Aircraft|<tail number>`.
pub const ENTITY_TYPE: &str = "Aircraft";

/// An aircraft that left New York, named by its tail number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aircraft {
    totals: Totals,
    /// The keys of all recorded flights, in the order in which they were recorded.
    recorded: IndexSet<NaturalKey>,
}

impl Aircraft {
    /// What becomes of a flight. Says nothing about the aircraft, changes nothing.
    ///
    /// # Errors
    /// Why the flight is not recorded, tried in the order of [`Refusal`].
    pub fn decide(&self, flight: &Flight) -> Result<FlightRecorded, Refusal> {
        if flight.dep_time.is_none() {
            return Err(Refusal::Cancelled);
        }
        if let Some(index) = self.recorded.get_index_of(&NaturalKey::of(flight)) {
            return Err(Refusal::Duplicate {
                nth: u64::try_from(index).map_or(u64::MAX, |index| index + 1),
            });
        }
        if self.totals.plus(flight).is_none() {
            return Err(Refusal::SumTooLarge);
        }
        Ok(FlightRecorded(flight.clone()))
    }

    /// The state after a flight that [`Aircraft::decide`] accepted.
    pub fn apply(&mut self, FlightRecorded(flight): &FlightRecorded) {
        // Only events that were decided on exist, so the sums fit. Should one be there that was
        // not, it is left out of sums and keys alike, which the check of a run then reports.
        if let Some(totals) = self.totals.plus(flight) {
            self.totals = totals;
            self.recorded.insert(NaturalKey::of(flight));
        }
    }

    /// What is known about all its flights together.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The totals, and which flights they are made of.
    pub fn logbook(&self) -> Logbook {
        Logbook {
            totals: self.totals.clone(),
            flights: self.recorded.iter().cloned().collect(),
        }
    }
}

/// Command: a row of the table. Answered with the totals after it, or why it is refused.
///
/// The flight is shared, because a command whose answer was lost is sent again.
#[derive(Debug, Clone)]
pub struct Record(pub Arc<Flight>);

/// Command: tell everything you know. Answered with a [`Logbook`].
#[derive(Debug, Clone, Copy)]
pub struct ReadLogbook;

/// Event: the aircraft departed. Carries all columns of the row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FlightRecorded(pub Flight);

/// The sums over all recorded flights of an aircraft. What was not recorded adds nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// How many.
    pub flights: u64,
    /// How far.
    pub miles: i64,
    /// How long in the air.
    pub air_minutes: i64,
    /// How late at departure, early ones subtracted.
    pub departure_delay_minutes: i64,
    /// Where the flight recorded last went; empty before the first.
    pub last_destination: String,
}

impl Totals {
    /// The totals with one more flight, or `None` if a sum would not fit.
    fn plus(&self, flight: &Flight) -> Option<Self> {
        Some(Self {
            flights: self.flights.checked_add(1)?,
            miles: self.miles.checked_add(flight.distance)?,
            air_minutes: self.air_minutes.checked_add(flight.air_time.unwrap_or(0))?,
            departure_delay_minutes: self
                .departure_delay_minutes
                .checked_add(flight.dep_delay.unwrap_or(0))?,
            last_destination: flight.dest.clone(),
        })
    }
}

/// Everything an aircraft knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Logbook {
    /// The sums.
    pub totals: Totals,
    /// The flights they are made of, in the order in which they were recorded.
    pub flights: Vec<NaturalKey>,
}

/// Why an aircraft did not record a flight, in the order in which it looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It has no departure time.
    Cancelled,
    /// Its natural key is there already, as that of the aircraft's `nth` flight, from 1.
    ///
    /// The number tells a caller whose first answer was lost whether it was that first attempt
    /// that recorded the flight.
    Duplicate {
        /// Which flight of the aircraft it is.
        nth: u64,
    },
    /// One of the sums would leave the range of 64 bits.
    SumTooLarge,
}

impl Refusal {
    /// The word for it in reports, which know four. A row with a number so absurd that no sum can
    /// hold it counts as malformed.
    pub fn reason(self) -> Reason {
        match self {
            Self::Cancelled => Reason::Cancelled,
            Self::Duplicate { .. } => Reason::Duplicate,
            Self::SumTooLarge => Reason::Malformed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(number: i64) -> Flight {
        Flight {
            flight: number,
            ..Flight::parse(
                "2013,1,1,517,515,2,830,819,11,UA,1,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z",
            )
            .expect("a good row")
        }
    }

    fn record(aircraft: &mut Aircraft, flight: &Flight) -> Result<(), Refusal> {
        let event = aircraft.decide(flight)?;
        aircraft.apply(&event);
        Ok(())
    }

    #[test]
    fn totals_are_the_sums_of_what_was_recorded() {
        let mut aircraft = Aircraft::default();
        record(&mut aircraft, &flight(1)).expect("new");
        let diverted = Flight {
            air_time: None,
            dep_delay: Some(-5),
            dest: "PDX".into(),
            ..flight(2)
        };
        record(&mut aircraft, &diverted).expect("new");
        let unknown_delay = Flight {
            dep_delay: None,
            ..flight(3)
        };
        record(&mut aircraft, &unknown_delay).expect("new");
        assert_eq!(
            *aircraft.totals(),
            Totals {
                flights: 3,
                miles: 4200,
                air_minutes: 454,
                departure_delay_minutes: -3,
                last_destination: "IAH".into(),
            }
        );
        assert_eq!(
            aircraft.logbook().flights,
            [1, 2, 3].map(|number| NaturalKey::of(&flight(number)))
        );
    }

    #[test]
    fn a_flight_is_recorded_once_and_names_its_place() {
        let mut aircraft = Aircraft::default();
        record(&mut aircraft, &flight(1)).expect("new");
        record(&mut aircraft, &flight(2)).expect("new");
        let before = aircraft.clone();
        // The key decides, not the rest of the row.
        let again = Flight {
            distance: 9,
            dest: "PDX".into(),
            ..flight(1)
        };
        assert_eq!(
            record(&mut aircraft, &again),
            Err(Refusal::Duplicate { nth: 1 })
        );
        assert_eq!(
            record(&mut aircraft, &flight(2)),
            Err(Refusal::Duplicate { nth: 2 })
        );
        assert_eq!(aircraft, before);
    }

    #[test]
    fn cancelled_comes_before_duplicate_and_duplicate_before_the_sums() {
        let mut aircraft = Aircraft::default();
        let huge = Flight {
            distance: i64::MAX,
            ..flight(1)
        };
        record(&mut aircraft, &huge).expect("fits");
        assert_eq!(
            aircraft.decide(&huge),
            Err(Refusal::Duplicate { nth: 1 }),
            "not refused for its size"
        );
        let cancelled = Flight {
            dep_time: None,
            ..huge
        };
        assert_eq!(aircraft.decide(&cancelled), Err(Refusal::Cancelled));
    }

    #[test]
    fn a_sum_that_does_not_fit_is_refused_and_never_wraps() {
        type Change = fn(&mut Flight, i64);
        let columns: [Change; 3] = [
            |flight, value| flight.distance = value,
            |flight, value| flight.air_time = Some(value),
            |flight, value| flight.dep_delay = Some(value),
        ];
        for change in columns {
            for (limit, step) in [(i64::MAX, 1), (i64::MIN, -1)] {
                let mut aircraft = Aircraft::default();
                let mut first = flight(1);
                change(&mut first, limit);
                record(&mut aircraft, &first).expect("fits exactly");
                let before = aircraft.clone();
                let mut second = flight(2);
                change(&mut second, step);
                assert_eq!(
                    record(&mut aircraft, &second),
                    Err(Refusal::SumTooLarge),
                    "{limit}"
                );
                assert_eq!(aircraft, before);
                // What leads back into the range is welcome, the refused flight included.
                let mut third = flight(3);
                change(&mut third, -step);
                record(&mut aircraft, &third).expect("fits");
                record(&mut aircraft, &second).expect("fits now");
            }
        }
        assert_eq!(Refusal::SumTooLarge.reason(), Reason::Malformed);
    }

    #[test]
    fn the_state_survives_its_encoding_with_the_order_of_flights() {
        let mut aircraft = Aircraft::default();
        for number in [5, 3, 9, 1] {
            record(&mut aircraft, &flight(number)).expect("new");
        }
        let bytes = rmp_serde::to_vec_named(&aircraft).expect("encodes");
        let decoded: Aircraft = rmp_serde::from_slice(&bytes).expect("decodes");
        assert_eq!(decoded.logbook(), aircraft.logbook());
        assert_eq!(
            decoded.decide(&flight(9)),
            Err(Refusal::Duplicate { nth: 3 })
        );
    }

    #[test]
    fn an_event_carries_all_columns_by_name() {
        let event = FlightRecorded(Flight {
            air_time: None,
            ..flight(1)
        });
        let bytes = rmp_serde::to_vec_named(&event).expect("encodes");
        assert_eq!(
            rmp_serde::from_slice::<FlightRecorded>(&bytes).expect("decodes"),
            event
        );
        let json = serde_json::to_value(&event).expect("encodes");
        let names: Vec<&str> = json
            .as_object()
            .expect("a map")
            .keys()
            .map(String::as_str)
            .collect();
        let mut columns = crate::row::COLUMNS;
        columns.sort_unstable();
        assert_eq!(names, columns);
        assert_eq!(json["air_time"], serde_json::Value::Null);
    }
}
