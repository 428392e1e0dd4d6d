//! The simulation of plain actors notices when the engine is broken.

use std::sync::Once;

use perennial_testkit::actor_simulation::{self, Defect, Options, PLANNED};

/// Actors of the simulation panic as they are told to; a line for each would hide everything else.
fn hide_planned_panics() {
    static HIDDEN: Once = Once::new();
    HIDDEN.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let text = info.payload().downcast_ref::<String>();
            if !text.is_some_and(|text| text.starts_with(PLANNED)) {
                hook(info);
            }
        }));
    });
}

/// The first seed that shows a defect has to be among so many.
const SEEDS: u64 = 100;

/// Finds the first seed with which the broken engine is caught by one of these rules.
fn check(defect: Defect, rules: &[&str]) {
    hide_planned_panics();
    let options = Options::default().with_defect(defect);
    let failure = (0..SEEDS).find_map(|seed| actor_simulation::run(seed, &options).err());
    let failure = failure.unwrap_or_else(|| panic!("{defect:?} is not caught by {SEEDS} seeds"));
    println!(
        "{defect:?} is caught by seed {}: {}",
        failure.seed, failure.rule
    );
    assert!(rules.contains(&failure.rule), "{failure}");

    // With the same seed the sound engine passes, and the broken one fails in the same step.
    if let Err(failure) = actor_simulation::run(failure.seed, &Options::default()) {
        panic!("{failure}");
    }
    let again = actor_simulation::run(failure.seed, &options).expect_err("a seed replays exactly");
    assert_eq!(again.trace, failure.trace);
    assert_eq!(again.steps, failure.steps);
}

#[test]
fn a_message_that_is_lost_at_the_end_is_caught() {
    check(
        Defect::LostAtTheEnd,
        &[
            "no message disappears",
            "every question is answered in time",
            "when all is quiet, every actor runs or has ended, and no place is taken",
            "every system comes to its end",
        ],
    );
}

#[test]
fn news_of_an_end_that_is_told_twice_is_caught() {
    check(
        Defect::ToldAgain,
        &["who watches is told once, and nobody else"],
    );
}

#[test]
fn a_timer_that_fires_after_it_was_cancelled_is_caught() {
    check(
        Defect::FiredAfterCancel,
        &["a timer fires at its time, unless it was cancelled or its value is gone"],
    );
}

#[test]
fn a_message_that_is_handled_after_it_expired_is_caught() {
    check(
        Defect::HandledAfterExpiry,
        &["what is said not to be handled is not"],
    );
}

#[test]
fn a_stash_that_comes_back_in_the_wrong_order_is_caught() {
    check(
        Defect::UnstashedBackwards,
        &["what is stashed comes back in order"],
    );
}

#[test]
fn a_message_that_overtakes_another_is_caught() {
    check(
        Defect::Overtaken,
        &["messages of one sender to one actor keep their order"],
    );
}

#[test]
fn a_place_that_is_not_given_back_is_caught() {
    check(
        Defect::LostPlace,
        &[
            "when all is quiet, every actor runs or has ended, and no place is taken",
            "every system comes to its end",
        ],
    );
}
