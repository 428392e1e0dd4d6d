//! Plain actors under a seeded order of everything.
//!
//! A seed decides what is sent to whom, what actors do with it, when they are stopped, when time
//! passes, and in which order the workers of a [`TestSystem`](crate::TestSystem) have their turns.
//! Actors tell and ask each other, spawn children, fail, panic, watch, keep timers, put messages aside
//! and wait for work outside. Every message has a number, and says when it is dropped; so a model can
//! follow each of them, and finds out if one of these promises is not kept:
//!
//! - No message that was accepted disappears: it is handled, or whoever asked is told that it was not,
//!   or it is counted as a dead letter with the reason. The counts are exact.
//! - Nothing is handled twice, and nothing whose asker was told that it was not handled.
//! - Every question is answered, in time, and with what has become of it.
//! - Messages of one sender to one actor are handled in the order in which they were sent; what is
//!   stashed comes back in order.
//! - Who watches is told of an end once, and of none that it does not watch; not before what the other
//!   one had sent. Nobody is forgotten.
//! - A timer fires at its time and not before, and never once it was cancelled or replaced, or its
//!   value is gone.
//! - An actor has one value at a time. Children end before their parents, and before these begin
//!   anew. A name is free when its actor has ended.
//! - When all is quiet, every actor runs or has ended, and no place in a queue is taken.
//!
//! ```
//! use perennial_testkit::actor_simulation::{self, Options};
//!
//! match actor_simulation::run(4711, &Options::default()) {
//!     Ok(report) => assert!(report.handled > 0),
//!     // Says the seed, the promise that was not kept, and the last lines of the trace.
//!     Err(failure) => panic!("{failure}"),
//! }
//! ```
//!
//! The same seed, options and version of the code make the same run, line by line. What it does not
//! show: real threads, and the actix driver itself.

mod model;
mod player;
mod world;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use model::Violation;
pub use player::PLANNED;
use world::World;

/// How a run is made.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// How many things the test does before the run comes to its end.
    pub steps: u64,
    /// Whether all lines of the trace are kept, or the last ones.
    pub whole_trace: bool,
    /// What is broken on purpose.
    #[cfg(feature = "defects")]
    pub defect: Option<Defect>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            steps: 400,
            whole_trace: false,
            #[cfg(feature = "defects")]
            defect: None,
        }
    }
}

impl Options {
    /// Does so many things.
    #[must_use]
    pub fn with_steps(mut self, steps: u64) -> Self {
        self.steps = steps;
        self
    }

    /// Keeps all lines of the trace.
    #[must_use]
    pub fn with_whole_trace(mut self) -> Self {
        self.whole_trace = true;
        self
    }

    /// Breaks something on purpose.
    #[cfg(feature = "defects")]
    #[must_use]
    pub fn with_defect(mut self, defect: Defect) -> Self {
        self.defect = Some(defect);
        self
    }
}

/// Something of the engine that can be broken on purpose, to see that the simulation notices.
#[cfg(feature = "defects")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Defect {
    /// What waits for an actor that ends is lost.
    LostAtTheEnd,
    /// The news of an end is told twice, and whether anybody still watches or not.
    ToldAgain,
    /// A timer that is cancelled fires all the same.
    FiredAfterCancel,
    /// A message is handled although its asker was told that it would not be.
    HandledAfterExpiry,
    /// What is stashed comes back in the wrong order.
    UnstashedBackwards,
    /// A message takes the place before the one that came before it.
    Overtaken,
    /// A place in a mailbox is not given back.
    LostPlace,
}

#[cfg(feature = "defects")]
fn defects(defect: Option<Defect>) -> perennial_core::engine::Defects {
    let mut defects = perennial_core::engine::Defects::default();
    defects.lose_at_end = defect == Some(Defect::LostAtTheEnd);
    defects.tell_twice = defect == Some(Defect::ToldAgain);
    defects.keep_cancelled_timers = defect == Some(Defect::FiredAfterCancel);
    defects.handle_expired = defect == Some(Defect::HandledAfterExpiry);
    defects.unstash_backwards = defect == Some(Defect::UnstashedBackwards);
    defects.overtake = defect == Some(Defect::Overtaken);
    defects.keep_places = defect == Some(Defect::LostPlace);
    defects
}

/// What happened in a run, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Messages that were accepted, of all senders.
    pub accepted: u64,
    /// Those that were refused, as a queue was full.
    pub busy: u64,
    /// Those that were refused, as the actor or the system had ended.
    pub refused: u64,
    /// Messages that were handled.
    pub handled: u64,
    /// Messages that were put aside, as often as they were.
    pub stashed: u64,
    /// Messages whose handler failed or panicked.
    pub failed: u64,
    /// Dead letters because of an end.
    pub dead_stopped: u64,
    /// Dead letters that meant nothing to their actor.
    pub dead_unhandled: u64,
    /// Dead letters because of a full stash.
    pub dead_stash: u64,
    /// Dead letters because of too many futures.
    pub dead_futures: u64,
    /// Questions that got a reply.
    pub answered: u64,
    /// Questions that expired.
    pub expired: u64,
    /// Questions whose outcome is unknown.
    pub unknown: u64,
    /// Questions that were told of an end.
    pub stopped: u64,
    /// Questions that were told of a failure.
    pub told_failed: u64,
    /// Questions that would have waited for themselves.
    pub cycles: u64,
    /// Questions whose askers gave up.
    pub given_up: u64,
    /// Senders that waited for room.
    pub waited: u64,
    /// Works outside that came back.
    pub continued: u64,
    /// Actors that were spawned.
    pub spawned: u64,
    /// Values that began.
    pub started: u64,
    /// Starts that failed.
    pub failed_starts: u64,
    /// Values that were given up for a fresh one.
    pub restarted: u64,
    /// Actors that ended.
    pub ended: u64,
    /// News of ends.
    pub terminated: u64,
    /// News of children's failures.
    pub child_failed: u64,
    /// Messages of timers.
    pub ticks: u64,
    /// Timers that were cancelled, replaced or ended with their value before they were done.
    pub cancelled: u64,
    /// Receive time-outs.
    pub timeouts: u64,
    /// Names that were taken.
    pub names_taken: u64,
    /// Runs that ended with a crash.
    pub crashes: u64,
    /// Runs that ended with an orderly shutdown.
    pub shutdowns: u64,
    /// A hash over all lines of the trace.
    pub trace_hash: u64,
    /// The trace, if it was to be kept whole.
    pub trace: Vec<String>,
}

/// A promise was not kept.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Failure {
    /// With which seed.
    pub seed: u64,
    /// After how many steps.
    pub steps: u64,
    /// Which promise.
    pub rule: &'static str,
    /// What happened instead.
    pub detail: String,
    /// The trace, or its last lines.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seed, steps, rule, ..
        } = self;
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "seed {seed}, step {steps}: broken: {rule}")?;
        write!(f, "  {}", self.detail)
    }
}

impl std::error::Error for Failure {}

/// Makes the run of a seed.
///
/// # Errors
/// [`Failure`] for the first promise that is not kept. A panic of the engine is one too.
pub fn run(seed: u64, options: &Options) -> Result<Report, Failure> {
    let mut world = World::new(seed, options);
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    let violation = match result {
        Ok(Ok(mut report)) => {
            report.trace_hash = world.trace().hash();
            if options.whole_trace {
                report.trace = world.trace().lines();
            }
            return Ok(report);
        }
        Ok(Err(violation)) => violation,
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(ToString::to_string);
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            Violation {
                rule: "the engine does not panic",
                detail: text.unwrap_or_else(|| "a panic without a text".to_owned()),
            }
        }
    };
    Err(Failure {
        seed,
        steps: world.steps(),
        rule: violation.rule,
        detail: violation.detail,
        trace: world.trace().lines(),
    })
}
