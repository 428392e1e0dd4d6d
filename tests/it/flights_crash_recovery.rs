//! The flights example, killed at random moments, ends where an undisturbed run does.
//!
//! `PERENNIAL_TEST_KILLS` is the number of rounds on each database, 3 by default. A round kills a
//! run and its successors up to four times and lets the last one end.

use std::time::Duration;

use perennial_it::{Example, TestStore, number_from};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::FLIGHTS;

const ROWS: usize = 5000;
const MOST_KILLS: u32 = 4;

#[test]
fn killed_on_sqlite_it_ends_with_the_same_totals() {
    check("sqlite", |flights| (flights, None));
}

#[test]
fn killed_on_postgres_it_ends_with_the_same_totals() {
    check("postgres", |flights| {
        let store = TestStore::postgres();
        let url = store.url().expect("a server").to_owned();
        (flights.on_postgres(&url), Some(store))
    });
}

fn check(database: &str, place: impl Fn(Example) -> (Example, Option<TestStore>)) {
    let new = || {
        place(
            Example::new("flights", FLIGHTS)
                .with_rows(ROWS)
                .with(&["--report", "report.json"]),
        )
    };
    let (undisturbed, _store) = new();
    let ended = undisturbed.run(&[]);
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    let expected = undisturbed.report();
    let usual = ended.elapsed;

    let mut kills = 0;
    for seed in 0..number_from("PERENNIAL_TEST_KILLS", 3) {
        let (flights, _store) = new();
        let mut random = StdRng::seed_from_u64(seed);
        let mut moments = Vec::new();
        let last = loop {
            // Killed before it made its file, the first run leaves nothing to keep.
            let args: &[&str] = if moments.is_empty() { &[] } else { &["--keep"] };
            let mut run = flights.start(args);
            if moments.len() == usize::try_from(MOST_KILLS).expect("small") {
                break run.end();
            }
            // The second actor system lives for a short time only, so it gets kills of its own.
            let in_second = random.random_bool(0.3) && run.wait_for("Bringing ");
            let longest = if in_second { usual / 8 } else { usual };
            let moment = longest.mul_f64(random.random());
            std::thread::sleep(moment);
            if run.has_ended() {
                break run.end();
            }
            run.kill();
            kills += 1;
            moments.push((in_second, moment));
        };
        let round = format!(
            "{database}, seed {seed}, killed at {moments:?}: {}",
            last.said
        );
        assert_eq!(last.code, Some(0), "{round}");
        let report = flights.report();
        assert_eq!(report["aircraft"], expected["aircraft"], "{round}");
        assert_eq!(report["rows"], expected["rows"], "{round}");
    }
    assert!(kills > 0, "every run was faster than {usual:?}");
    assert!(
        usual > Duration::from_millis(50),
        "too short to be killed within"
    );
}
