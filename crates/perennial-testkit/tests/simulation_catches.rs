//! The simulation notices when the engine is broken.

use perennial_testkit::simulation::{self, Defect, Kept, Options};

/// The first seed that shows a defect has to be among so many.
const SEEDS: u64 = 100;

/// Finds the first seed with which the broken engine is caught by one of these rules, among
/// entities of which this is kept.
fn check(defect: Defect, kept: Kept, rules: &[&str]) {
    let sound = Options::default().with_kept(kept);
    let options = sound.clone().with_defect(defect);
    let failure = (0..SEEDS).find_map(|seed| simulation::run(seed, &options).err());
    let failure = failure.unwrap_or_else(|| panic!("{defect:?} is not caught by {SEEDS} seeds"));
    println!(
        "{defect:?} is caught by seed {}: {}",
        failure.seed, failure.rule
    );
    assert!(rules.contains(&failure.rule), "{failure}");

    // With the same seed the sound engine passes, and the broken one fails in the same step.
    if let Err(failure) = simulation::run(failure.seed, &sound) {
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
        Kept::Both,
        &["what is told is durable", "what is acknowledged is stored"],
    );
}

#[test]
fn a_read_of_tentative_state_is_caught() {
    check(
        Defect::TentativeRead,
        Kept::Both,
        &["what is told is durable"],
    );
}

#[test]
fn a_retry_that_is_not_recognised_is_caught() {
    check(
        Defect::UnrecognisedRetry,
        Kept::Both,
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
        Kept::Both,
        &[
            "sequence numbers have no gaps",
            "revisions have no gaps",
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
        Kept::Both,
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
        Kept::Events,
        &[
            "what is acknowledged is stored",
            "what is told is durable",
            "what is told is the fold of stored events",
        ],
    );
}

#[test]
fn a_stale_change_of_a_state_is_caught() {
    check(
        Defect::StaleRevision,
        Kept::States,
        &[
            "revisions have no gaps",
            "a change is built on the one before",
        ],
    );
}

#[test]
fn a_marker_that_is_lost_is_caught() {
    check(
        Defect::LostMarker,
        Kept::States,
        &["the row is what the last change made"],
    );
}

#[test]
fn an_event_of_a_change_that_is_lost_is_caught() {
    check(
        Defect::LostCompanions,
        Kept::States,
        &["every change is told"],
    );
}

#[test]
fn a_change_that_is_taken_for_ones_own_by_its_row_is_caught() {
    check(
        Defect::TrustedRow,
        Kept::States,
        &[
            "revisions have no gaps",
            "what is acknowledged is stored",
            "a command is handled once",
        ],
    );
}
