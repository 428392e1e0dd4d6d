//! The flights example while its server goes down in every phase.

use perennial_it::{Example, until};
use perennial_testkit::postgres::PrivateServer;

use crate::FLIGHTS;

#[test]
fn a_server_that_is_down_for_a_while_in_any_phase_only_delays_the_run() {
    let rows = 4000;
    let undisturbed = Example::new("flights", FLIGHTS)
        .with_rows(rows)
        .with(&["--report", "report.json"]);
    let ended = undisturbed.run(&[]);
    assert_eq!(ended.code, Some(0), "{}", ended.said);

    // The machine does not crash, only the server: what it wrote is there without a flush.
    let server = PrivateServer::start_with(&["fsync = off"]);
    let database = server.new_database();
    let flights = Example::new("flights", FLIGHTS)
        .with_rows(rows)
        .with(&["--report", "report.json"])
        .on_postgres(database.url());
    server.stop();
    let mut run = flights.start(&["--in-flight", "32"]);
    assert!(run.wait_for("does not answer"), "{}", run.said());
    server.start_again();
    let outage = || {
        server.stop();
        server.start_again();
    };
    assert!(run.wait_for("Recording "), "{}", run.said());
    for condition in [
        "SELECT to_regclass('event_journal') IS NOT NULL",
        "SELECT count(*) > 200 FROM event_journal",
    ] {
        until(condition, || {
            database.query(condition)[0][0].as_deref() == Some("t")
        });
    }
    outage();
    for phase in ["All rows are answered", "Bringing "] {
        assert!(run.wait_for(phase), "no {phase:?} in:\n{}", run.said());
        outage();
    }
    let ended = run.end();
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    let (found, expected) = (flights.report(), undisturbed.report());
    assert_eq!(found["aircraft"], expected["aircraft"]);
    assert_eq!(found["accepted"], expected["accepted"]);
    assert_eq!(found["refused"], expected["refused"]);
}
