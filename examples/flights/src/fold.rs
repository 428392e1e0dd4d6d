//! What a run must come to: a plain fold over the table, and the comparison with what was stored.
//!
//! The fold uses nothing of [`crate::aircraft`]'s bookkeeping but the type of its answer, so that a
//! mistake there shows.

use std::collections::{HashMap, HashSet};

use indexmap::{IndexMap, IndexSet};

use crate::aircraft::Logbook;
use crate::report::Counts;
use crate::row::{Flight, NaturalKey, Reason, Row};

/// The expected counts and totals of a table. Keeps the natural keys in memory, nothing else of a
/// row.
#[derive(Debug, Default)]
pub struct Fold {
    counts: Counts,
    aircraft: HashMap<Box<str>, Expected>,
    destinations: IndexSet<Box<str>>,
}

/// What is expected of one aircraft.
#[derive(Debug, Default)]
struct Expected {
    miles: i128,
    air_minutes: i128,
    departure_delay_minutes: i128,
    /// The accepted flights in the order of the table, each with the number of its destination.
    flights: IndexMap<NaturalKey, usize>,
    /// Whether a row was left out because a sum would not have fitted.
    has_overflowed: bool,
}

impl Fold {
    /// Adds the next row.
    pub fn add(&mut self, row: &Row) {
        self.counts.rows += 1;
        let result = match &row.content {
            Ok(flight) => self.add_flight(flight),
            Err(reason) => Err(*reason),
        };
        match result {
            Ok(()) => self.counts.accepted += 1,
            Err(reason) => self.counts.refused.add(reason),
        }
    }

    /// Rows, accepted and refused, if nothing was stored before.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// How many aircraft have an accepted flight.
    pub fn aircraft(&self) -> usize {
        self.aircraft.len()
    }

    /// The tail numbers of the aircraft with an accepted flight, in no particular order.
    pub fn tail_numbers(&self) -> impl Iterator<Item = &str> {
        self.aircraft.keys().map(|tail| &**tail)
    }

    fn add_flight(&mut self, flight: &Flight) -> Result<(), Reason> {
        if flight.dep_time.is_none() {
            return Err(Reason::Cancelled);
        }
        let key = NaturalKey::of(flight);
        let known = self.aircraft.get(flight.tailnum.as_str());
        if known.is_some_and(|expected| expected.flights.contains_key(&key)) {
            return Err(Reason::Duplicate);
        }
        let expected = self
            .aircraft
            .entry(flight.tailnum.as_str().into())
            .or_default();
        let sums = [
            expected.miles + i128::from(flight.distance),
            expected.air_minutes + flight.air_time.map_or(0, i128::from),
            expected.departure_delay_minutes + flight.dep_delay.map_or(0, i128::from),
        ];
        if sums.iter().any(|sum| i64::try_from(*sum).is_err()) {
            // The aircraft is there already: a first flight always fits.
            expected.has_overflowed = true;
            return Err(Reason::Malformed);
        }
        [
            expected.miles,
            expected.air_minutes,
            expected.departure_delay_minutes,
        ] = sums;
        let destination = match self.destinations.get_index_of(flight.dest.as_str()) {
            Some(index) => index,
            None => self.destinations.insert_full(flight.dest.as_str().into()).0,
        };
        expected.flights.insert(key, destination);
        Ok(())
    }
}

/// What the store held when the run began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Nothing. Everything must be as in the table, the order of flights included.
    Fresh,
    /// Perhaps flights of earlier runs, on this table or another.
    Continued,
}

/// Compares what the recovered aircraft answer with the fold, one by one.
///
/// A flight is its natural key. Where every stored flight of an aircraft is in the table, its
/// totals must be those of the table; otherwise the table's flights must be among the stored ones.
/// One thing is no difference: an earlier run may have recorded an aircraft's flights in another
/// order, from a table sorted differently. Then the last destination is that of the flight
/// recorded last, as it stands in this table.
///
/// Where a sum would not have fitted, what is accepted depends on what was stored before. Of such
/// an aircraft only a fresh run can say exactly which flights it must have; a continued one skips
/// its flights and compares the number of them with the totals only.
#[derive(Debug)]
pub struct Check<'a> {
    fold: &'a Fold,
    start: Start,
    overflowed: HashSet<Box<str>>,
    missing: HashSet<&'a str>,
    differences: Vec<String>,
}

impl<'a> Check<'a> {
    /// A comparison with `fold`. `overflowed` are the aircraft that refused a row of this run
    /// because a sum would not have fitted.
    pub fn new(fold: &'a Fold, start: Start, overflowed: HashSet<Box<str>>) -> Self {
        Self {
            fold,
            start,
            overflowed,
            missing: fold.tail_numbers().collect(),
            differences: Vec::new(),
        }
    }

    /// Compares the counts of the run.
    ///
    /// After a start with stored flights, what the fold accepts may have been accepted by an
    /// earlier run, and is a duplicate in this one.
    pub fn counts(&mut self, run: &Counts) {
        let fold = &self.fold.counts;
        let is_fresh = self.start == Start::Fresh;
        let has_overflowed = !self.overflowed.is_empty()
            || self
                .fold
                .aircraft
                .values()
                .any(|expected| expected.has_overflowed);
        self.equal("rows", run.rows, fold.rows);
        let (run_refused, refused) = (&run.refused, &fold.refused);
        self.equal(
            "no-tail-number",
            run_refused.no_tail_number,
            refused.no_tail_number,
        );
        self.equal("cancelled", run_refused.cancelled, refused.cancelled);
        if is_fresh {
            self.equal("accepted", run.accepted, fold.accepted);
            self.equal("duplicate", run_refused.duplicate, refused.duplicate);
        }
        if is_fresh || !has_overflowed {
            self.equal("malformed", run_refused.malformed, refused.malformed);
            self.equal(
                "accepted and duplicate",
                run.accepted + run_refused.duplicate,
                fold.accepted + refused.duplicate,
            );
        }
    }

    /// Compares one aircraft, which must not have been compared before.
    pub fn aircraft(&mut self, tail: &str, logbook: &Logbook) {
        let totals = &logbook.totals;
        self.missing.remove(tail);
        let recorded = u64::try_from(logbook.flights.len()).ok();
        if recorded != Some(totals.flights) {
            self.differ(
                tail,
                format!(
                    "says {} flights but has recorded {}",
                    totals.flights,
                    logbook.flights.len()
                ),
            );
        }
        let Some(expected) = self.fold.aircraft.get(tail) else {
            if self.start == Start::Fresh {
                self.differ(tail, "is stored but has no flight in the table".to_owned());
            }
            return;
        };
        if self.start == Start::Continued
            && (expected.has_overflowed || self.overflowed.contains(tail))
        {
            return;
        }

        let stored: HashSet<&NaturalKey> = logbook.flights.iter().collect();
        for key in expected.flights.keys().filter(|key| !stored.contains(key)) {
            self.differ(tail, format!("lacks flight {key}"));
        }
        let strangers = stored
            .iter()
            .filter(|key| !expected.flights.contains_key(**key))
            .count();
        if strangers > 0 {
            if self.start == Start::Fresh {
                let all = format!("has {strangers} flights that are not in the table");
                self.differ(tail, all);
            }
            return;
        }

        let is_same_order = logbook.flights.iter().eq(expected.flights.keys());
        if self.start == Start::Fresh && !is_same_order {
            self.differ(tail, "has recorded its flights in another order".to_owned());
        }
        let last = match self.start {
            Start::Fresh => expected.flights.last().map(|(_, destination)| *destination),
            Start::Continued => logbook
                .flights
                .last()
                .and_then(|key| expected.flights.get(key).copied()),
        };
        let last = last
            .and_then(|index| self.fold.destinations.get_index(index))
            .map_or("", |destination| &**destination);
        let sums = [
            ("miles", totals.miles, expected.miles),
            ("air_minutes", totals.air_minutes, expected.air_minutes),
            (
                "departure_delay_minutes",
                totals.departure_delay_minutes,
                expected.departure_delay_minutes,
            ),
        ];
        for (name, found, wanted) in sums {
            if i128::from(found) != wanted {
                self.differ(tail, format!("says {name} {found} instead of {wanted}"));
            }
        }
        let wanted = expected.flights.len();
        if u64::try_from(wanted).ok() != Some(totals.flights) {
            let found = totals.flights;
            self.differ(tail, format!("says flights {found} instead of {wanted}"));
        }
        if totals.last_destination != last {
            let found = &totals.last_destination;
            self.differ(
                tail,
                format!("says last_destination {found:?} instead of {last:?}"),
            );
        }
    }

    /// All differences, one sentence each, those of the counts and of aircraft that never came
    /// included. Empty if everything is as it must be.
    pub fn finish(mut self) -> Vec<String> {
        let mut missing: Vec<&str> = self.missing.drain().collect();
        missing.sort_unstable();
        for tail in missing {
            let skipped = self.start == Start::Continued && self.overflowed.contains(tail);
            if !skipped {
                self.differ(tail, "is not stored at all".to_owned());
            }
        }
        self.differences
    }

    fn equal(&mut self, name: &str, run: u64, fold: u64) {
        if run != fold {
            self.differences
                .push(format!("the run counts {run} {name}, the table has {fold}"));
        }
    }

    fn differ(&mut self, tail: &str, difference: String) {
        self.differences.push(format!("{tail} {difference}"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::aircraft::Aircraft;
    use crate::input::{Input, Line};

    use super::*;

    fn row(line: u64, text: &str) -> Row {
        Row::new(Line {
            number: line,
            text: text.into(),
            is_truncated: false,
        })
    }

    fn departed(tail: &str, number: i64, distance: i64, dest: &str) -> Row {
        row(
            2,
            &format!(
                "2013,1,1,517,515,2,830,819,11,UA,{number},{tail},EWR,{dest},NA,{distance},5,15,2013-01-01T10:00:00Z"
            ),
        )
    }

    /// A store without a database: the aircraft, and what the runs on it counted.
    #[derive(Default)]
    struct Fleet {
        aircraft: HashMap<String, Aircraft>,
    }

    struct Run {
        counts: Counts,
        overflowed: HashSet<Box<str>>,
        fold: Fold,
    }

    impl Fleet {
        fn ingest(&mut self, rows: &[Row]) -> Run {
            let mut run = Run {
                counts: Counts::default(),
                overflowed: HashSet::new(),
                fold: Fold::default(),
            };
            for row in rows {
                run.fold.add(row);
                run.counts.rows += 1;
                let result = row.content.clone().and_then(|flight: Arc<Flight>| {
                    let aircraft = self.aircraft.entry(flight.tailnum.clone()).or_default();
                    match aircraft.decide(&flight) {
                        Ok(event) => {
                            aircraft.apply(&event);
                            Ok(())
                        }
                        Err(refusal) => {
                            if refusal == crate::aircraft::Refusal::SumTooLarge {
                                run.overflowed.insert(flight.tailnum.as_str().into());
                            }
                            Err(refusal.reason())
                        }
                    }
                });
                match result {
                    Ok(()) => run.counts.accepted += 1,
                    Err(reason) => run.counts.refused.add(reason),
                }
            }
            run
        }

        fn check(&self, run: &Run, start: Start) -> Vec<String> {
            let mut check = Check::new(&run.fold, start, run.overflowed.clone());
            check.counts(&run.counts);
            for (tail, aircraft) in &self.aircraft {
                if aircraft.totals().flights > 0 {
                    check.aircraft(tail, &aircraft.logbook());
                }
            }
            check.finish()
        }
    }

    #[test]
    fn the_bundled_month_has_the_counts_and_totals_computed_elsewhere() {
        // Computed by an independent program from the same file.
        const AIRCRAFT: usize = 3141;
        const SUMS: (i64, i64, i64) = (26_859_611, 4_070_239, 265_801);
        let expected = Counts {
            rows: 27_004,
            accepted: 26_483,
            refused: crate::report::Refused {
                cancelled: 366,
                no_tail_number: 155,
                duplicate: 0,
                malformed: 0,
            },
        };

        let rows: Vec<Row> = Input::bundled()
            .expect("part of the program")
            .map(|line| line.map(Row::new))
            .collect::<Result<_, _>>()
            .expect("readable to its end");
        let mut fleet = Fleet::default();
        let run = fleet.ingest(&rows);
        assert_eq!(run.fold.counts(), &expected);
        assert_eq!(run.fold.aircraft(), AIRCRAFT);
        assert_eq!(run.counts, expected);
        assert_eq!(fleet.check(&run, Start::Fresh), Vec::<String>::new());

        let logs = fleet.aircraft.values().map(Aircraft::totals);
        let sums = logs.fold((0, 0, 0), |sums, totals| {
            (
                sums.0 + totals.miles,
                sums.1 + totals.air_minutes,
                sums.2 + totals.departure_delay_minutes,
            )
        });
        assert_eq!(sums, SUMS);
        let one = fleet.aircraft["N14228"].totals();
        assert_eq!(
            (one.flights, one.miles, one.air_minutes),
            (15, 16_479, 2437)
        );
        assert_eq!(one.departure_delay_minutes, 144);
        assert_eq!(one.last_destination, "PDX");

        // The same table again: nothing new, and still right.
        let again = fleet.ingest(&rows);
        assert_eq!(again.counts.accepted, 0);
        assert_eq!(again.counts.refused.duplicate, 26_483);
        assert_eq!(fleet.check(&again, Start::Continued), Vec::<String>::new());
    }

    #[test]
    fn every_wrong_total_is_found() {
        let rows = [
            departed("N1", 1, 10, "IAH"),
            departed("N1", 2, 20, "PDX"),
            departed("N2", 3, 30, "IAH"),
        ];
        let mut fleet = Fleet::default();
        let run = fleet.ingest(&rows);
        let good = fleet.aircraft["N1"].logbook();
        type Damage = fn(&mut Logbook);
        let damages: [(Damage, &str); 7] = [
            (
                |log| log.totals.miles += 1,
                "N1 says miles 31 instead of 30",
            ),
            (
                |log| log.totals.air_minutes -= 1,
                "N1 says air_minutes -1 instead of 0",
            ),
            (
                |log| log.totals.departure_delay_minutes = 0,
                "N1 says departure_delay_minutes 0 instead of 4",
            ),
            (
                |log| log.totals.flights = 3,
                "N1 says 3 flights but has recorded 2",
            ),
            (
                |log| log.totals.last_destination = "IAH".into(),
                "N1 says last_destination \"IAH\" instead of \"PDX\"",
            ),
            (
                |log| {
                    log.flights.pop();
                },
                "N1 lacks flight [2013,1,1,\"UA\",2,\"EWR\",515]",
            ),
            (
                |log| log.flights.clear(),
                "N1 lacks flight [2013,1,1,\"UA\",1,\"EWR\",515]",
            ),
        ];
        for start in [Start::Fresh, Start::Continued] {
            for (damage, difference) in damages {
                let mut logbook = good.clone();
                damage(&mut logbook);
                let mut check = Check::new(&run.fold, start, HashSet::new());
                check.aircraft("N1", &logbook);
                check.aircraft("N2", &fleet.aircraft["N2"].logbook());
                let found = check.finish();
                assert!(found.iter().any(|text| text == difference), "{found:?}");
            }
            let mut check = Check::new(&run.fold, start, HashSet::new());
            check.aircraft("N1", &good);
            assert_eq!(check.finish(), ["N2 is not stored at all"]);
        }
    }

    #[test]
    fn a_fresh_run_must_also_keep_order_and_hold_nothing_else() {
        let rows = [departed("N1", 1, 10, "IAH"), departed("N1", 2, 20, "IAH")];
        let run = Fleet::default().ingest(&rows);
        let mut reversed = Fleet::default();
        reversed.ingest(&[rows[1].clone(), rows[0].clone()]);
        assert_eq!(
            reversed.check(&run, Start::Fresh),
            ["N1 has recorded its flights in another order"]
        );
        reversed.ingest(&[departed("N1", 3, 1, "IAH"), departed("N9", 4, 1, "IAH")]);
        let found = reversed.check(&run, Start::Fresh);
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn a_continued_run_may_find_flights_of_other_tables() {
        let first = [departed("N1", 1, 10, "IAH"), departed("N9", 1, 10, "IAH")];
        let second = [
            departed("N1", 1, 10, "IAH"),
            departed("N1", 2, 20, "PDX"),
            departed("N2", 3, 30, "IAH"),
        ];
        let mut fleet = Fleet::default();
        fleet.ingest(&first);
        let run = fleet.ingest(&second);
        assert_eq!((run.counts.accepted, run.counts.refused.duplicate), (2, 1));
        assert_eq!(fleet.check(&run, Start::Continued), Vec::<String>::new());

        // N1 now holds a flight that the first table lacks: its flights need only be among them.
        let run = fleet.ingest(&first);
        assert_eq!(fleet.check(&run, Start::Continued), Vec::<String>::new());
        let mut without = fleet.aircraft["N1"].logbook();
        without.flights.remove(0);
        without.totals.flights -= 1;
        let mut check = Check::new(&run.fold, Start::Continued, HashSet::new());
        check.aircraft("N1", &without);
        check.aircraft("N9", &fleet.aircraft["N9"].logbook());
        assert_eq!(
            check.finish(),
            ["N1 lacks flight [2013,1,1,\"UA\",1,\"EWR\",515]"]
        );
    }

    #[test]
    fn a_table_in_another_order_is_no_difference_when_continued() {
        let late_half_first = [departed("N1", 2, 20, "PDX")];
        let whole = [departed("N1", 1, 10, "IAH"), departed("N1", 2, 20, "PDX")];
        let mut fleet = Fleet::default();
        fleet.ingest(&late_half_first);
        let run = fleet.ingest(&whole);
        assert_eq!(fleet.aircraft["N1"].totals().last_destination, "IAH");
        assert_eq!(fleet.check(&run, Start::Continued), Vec::<String>::new());
    }

    #[test]
    fn sums_that_do_not_fit_are_left_out_alike() {
        let rows = [
            departed("N1", 1, i64::MAX, "IAH"),
            departed("N1", 2, 1, "PDX"),
            departed("N1", 3, -1, "LAX"),
        ];
        let mut fleet = Fleet::default();
        let run = fleet.ingest(&rows);
        assert_eq!(run.counts.refused.malformed, 1);
        assert_eq!(run.overflowed.len(), 1);
        assert_eq!(fleet.check(&run, Start::Fresh), Vec::<String>::new());

        // Again: the second row fits now, so this run accepts what the fold refuses.
        let run = fleet.ingest(&rows);
        assert_eq!(run.counts.accepted, 1);
        assert_eq!(fleet.check(&run, Start::Continued), Vec::<String>::new());
    }

    #[test]
    fn wrong_counts_are_found() {
        let rows = [departed("N1", 1, 10, "IAH"), row(3, "")];
        let mut fleet = Fleet::default();
        let mut run = fleet.ingest(&rows);
        run.counts.accepted += 1;
        assert_eq!(
            fleet.check(&run, Start::Fresh),
            [
                "the run counts 2 accepted, the table has 1",
                "the run counts 2 accepted and duplicate, the table has 1"
            ]
        );
        run.counts.accepted -= 1;
        run.counts.refused.malformed = 0;
        assert_eq!(
            fleet.check(&run, Start::Continued),
            ["the run counts 0 malformed, the table has 1"]
        );
    }
}
