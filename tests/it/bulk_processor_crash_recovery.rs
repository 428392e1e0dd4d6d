//! The bulk processor, killed at random moments, ends where an undisturbed run does.
//!
//! `PERENNIAL_TEST_KILLS` is the number of rounds on each database, 3 by default. A round kills a run
//! and its successors up to four times and lets the last one end; every third one does without the
//! buffer.

use std::time::{Duration, Instant};

use perennial_it::{Bulk, Rows, number_from};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::BULK_PROCESSOR;

const ROWS: usize = 1500;
const MOST_KILLS: usize = 4;

#[test]
fn killed_on_sqlite_it_ends_with_the_same_tables() {
    check("sqlite", || Bulk::on_sqlite(BULK_PROCESSOR));
}

#[test]
fn killed_on_postgres_it_ends_with_the_same_tables() {
    check("postgres", || Bulk::on_postgres(BULK_PROCESSOR));
}

fn tables(bulk: &Bulk) -> [Rows; 2] {
    ["bulk_item", "bulk_rejected"]
        .map(|table| bulk.rows(&format!("SELECT * FROM {table} ORDER BY line")))
}

fn check(database: &str, place: impl Fn() -> Bulk) {
    let new = || {
        place().with_rows(ROWS).with(&[
            "--batch",
            "40",
            "--linger",
            "5",
            "--spoil",
            "9",
            "--report",
            "report.json",
        ])
    };
    let undisturbed = new();
    let mut run = undisturbed.start(&["--durable"]);
    assert!(run.wait_for("Storing "), "{}", run.said());
    let begun = Instant::now();
    assert!(run.wait_for("Inserting "), "{}", run.said());
    let usual = begun.elapsed();
    let ended = run.end();
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    let expected = tables(&undisturbed);
    let counts = |bulk: &Bulk| {
        let report = bulk.report();
        ["items", "stored", "set_aside"].map(|name| report[name].clone())
    };
    let expected_counts = counts(&undisturbed);
    assert_eq!(expected[1].len(), 9);

    let mut kills = 0;
    for seed in 0..number_from("PERENNIAL_TEST_KILLS", 3) {
        let bulk = new();
        let mut random = StdRng::seed_from_u64(seed);
        let mut moments: Vec<Duration> = Vec::new();
        let last = loop {
            let mut args = vec!["--keep"];
            if moments.is_empty() {
                // Killed before it made its tables, the first run leaves nothing to keep.
                args.clear();
            }
            if seed % 3 != 2 {
                args.push("--durable");
            }
            let mut run = bulk.start(&args);
            if moments.len() == MOST_KILLS {
                break run.end();
            }
            // Any moment from its start to the time at which all rows are stored.
            let moment = (usual + Duration::from_millis(50)).mul_f64(random.random());
            std::thread::sleep(moment);
            if run.has_ended() {
                break run.end();
            }
            run.kill();
            kills += 1;
            moments.push(moment);
        };
        let round = format!(
            "{database}, seed {seed}, killed after {moments:?}: {}",
            last.said
        );
        assert_eq!(last.code, Some(0), "{round}");
        let found = tables(&bulk);
        assert_eq!(found[1], expected[1], "{round}");
        assert!(found[0] == expected[0], "the rows differ: {round}");
        assert_eq!(counts(&bulk), expected_counts, "{round}");
    }
    assert!(kills > 0, "every run was faster than {usual:?}");
    assert!(
        usual > Duration::from_millis(50),
        "too short to be killed within"
    );
}
