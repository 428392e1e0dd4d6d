//! The simulation notices when the engine is broken.

use perennial_testkit::simulation::{self, Defect, Options};

/// The first seed that shows a defect has to be among so many.
const SEEDS: u64 = 100;

/// Finds the first seed with which the broken engine is caught by one of these rules.
fn check(defect: Defect, rules: &[&str]) {
    let options = Options::default().with_defect(defect);
    let failure = (0..SEEDS).find_map(|seed| simulation::run(seed, &options).err());
    let failure = failure.unwrap_or_else(|| panic!("{defect:?} is not caught by {SEEDS} seeds"));
    println!(
        "{defect:?} is caught by seed {}: {}",
        failure.seed, failure.rule
    );
    assert!(rules.contains(&failure.rule), "{failure}");

    // With the same seed the sound engine passes, and the broken one fails in the same step.
    if let Err(failure) = simulation::run(failure.seed, &Options::default()) {
        panic!("{failure}");
    }
    let again = simulation::run(failure.seed, &options).expect_err("a seed replays exactly");
    assert_eq!(again.trace, failure.trace);
    assert_eq!(again.steps, failure.steps);
}

#[test]
fn a_reply_before_its_commit_is_caught() {
    check(
        Defect::ReplyBeforeCommit,
        &["what is told is durable", "what is acknowledged is stored"],
    );
}

#[test]
fn a_read_of_tentative_state_is_caught() {
    check(Defect::TentativeRead, &["what is told is durable"]);
}

#[test]
fn a_retry_that_is_not_recognised_is_caught() {
    check(
        Defect::UnrecognisedRetry,
        &[
            "what certainly failed is not stored",
            "an error has its reason",
        ],
    );
}

#[test]
fn a_later_write_that_survives_an_earlier_failure_is_caught() {
    check(
        Defect::SurvivingLaterWrite,
        &[
            "sequence numbers have no gaps",
            "what is told is the fold of stored events",
            "what is told is durable",
            "what certainly failed is not stored",
        ],
    );
}

#[test]
fn a_command_that_is_handled_again_is_caught() {
    check(
        Defect::HandledAgain,
        &[
            "an error has its reason",
            "a command's events are stored whole, in order and side by side",
            "no event is stored twice",
        ],
    );
}

#[test]
fn a_stale_writer_in_the_place_of_deleted_events_is_caught() {
    check(
        Defect::MissingFence,
        &[
            "what is acknowledged is stored",
            "what is told is durable",
            "what is told is the fold of stored events",
        ],
    );
}
