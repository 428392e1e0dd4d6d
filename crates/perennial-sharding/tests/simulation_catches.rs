//! The simulation notices when the cluster is broken.

use perennial_sharding::Defect as Keeper;
use perennial_sharding::simulation::{self, Defect, Options};

/// The first seed that shows a defect has to be among so many.
const SEEDS: u64 = 500;

const ONE_OWNER: &str = "an owner acknowledges nothing once another may have begun";
const NOT_OLDER: &str = "a reply is not older than what was seen before it was asked for";

/// Finds the first seed with which the broken cluster is caught, by one of these rules.
fn check(defect: Defect, rules: &[&str]) {
    check_from(0, defect, rules);
}

/// As [`check`], for what is rare: begins with this seed.
fn check_from(first: u64, defect: Defect, rules: &[&str]) {
    let options = Options::default().with_defect(defect);
    let failure = (first..first + SEEDS).find_map(|seed| simulation::run(seed, &options).err());
    let failure = failure.unwrap_or_else(|| panic!("{defect:?} is not caught by {SEEDS} seeds"));
    println!(
        "{defect:?} is caught by seed {}: {}",
        failure.seed, failure.rule
    );
    assert!(rules.contains(&failure.rule), "{failure}");

    // With the same seed the sound cluster passes, and the broken one fails in the same step.
    if let Err(failure) = simulation::run(failure.seed, &Options::default()) {
        panic!("{failure}");
    }
    let again = simulation::run(failure.seed, &options).expect_err("a seed replays exactly");
    assert_eq!(again.trace, failure.trace);
    assert_eq!(again.steps, failure.steps);
}

#[test]
fn an_acknowledgement_after_the_lease_is_over_is_caught() {
    check(
        Defect::Keeper(Keeper::IgnoresValidity),
        &[ONE_OWNER, NOT_OLDER],
    );
}

#[test]
fn a_lease_that_is_released_before_its_shard_is_drained_is_caught() {
    check(Defect::Keeper(Keeper::ReleasesBeforeDrained), &[ONE_OWNER]);
}

#[test]
fn an_owner_that_begins_before_the_old_validity_is_over_is_caught() {
    check(Defect::GrantsTooEarly, &[ONE_OWNER, NOT_OLDER]);
}

#[test]
fn waiting_commands_that_are_sent_out_of_order_are_caught() {
    check(
        Defect::Keeper(Keeper::SendsOutOfOrder),
        &[
            "commands of one caller are stored in their order",
            "replies of one caller see the order of its commands",
        ],
    );
}

#[test]
fn a_command_that_is_taken_twice_is_caught() {
    check(
        Defect::Keeper(Keeper::TakesNumbersTwice),
        &[
            "a command is stored once",
            "commands of one caller are stored in their order",
            "replies of one caller see the order of its commands",
        ],
    );
}

#[test]
fn a_journal_without_a_fence_is_caught() {
    check(
        Defect::NoFence,
        &["an event is made from the state that the one before it left"],
    );
}

#[test]
fn an_answer_before_its_event_is_stored_is_caught() {
    check(
        Defect::AnswersTooEarly,
        &["what is told is stored", "what is acknowledged is stored"],
    );
}

#[test]
fn an_engine_that_handles_commands_after_the_lease_is_caught() {
    // A node has to stand still while an entity is read, and to go on when another has written to it.
    check_from(
        1300,
        Defect::HandlesTooLate,
        &["commands of one caller are stored in their order"],
    );
}
