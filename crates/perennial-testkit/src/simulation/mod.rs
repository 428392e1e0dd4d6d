//! The engine under a seeded order of everything.
//!
//! One thread, virtual time, the store in memory, and a seed that decides everything: which
//! commands come, which of the things under way gets a step further, what fails and how, when a
//! process crashes and when the next one starts. The workers are those of production,
//! [`perennial_core::engine::Worker`]; the simulation takes the place of the actix driver.
//!
//! A run is checked while it goes on and at its end. An entity's state is a digest of the chain of
//! events that it has applied, and every answer says which chains it saw; so the journal tells
//! whether an answer is that of serial execution:
//!
//! - What is told was durable when it was told, and is the fold of stored events. That goes for
//!   answers, for refusals that depend on the state, and for what a `then_run` sees.
//! - What is acknowledged is stored: whole, in order, side by side, and once.
//! - What certainly failed is never stored, and what is said not to have been handled was not.
//!   Only what is told to be unknown may go either way.
//! - An answer is not older than what callers of the same system had seen before it was asked for,
//!   or callers of any system before this one was started. (Two systems that run at the same time
//!   on the same entities may each serve reads that the other one has overtaken, until a write of
//!   their own is refused.)
//! - A command with an id takes effect once, however often it is sent and to which system, and all
//!   of its answers are that of the attempt that took effect.
//! - Sequence numbers have no gaps; the events of one write have one time and one writer, and a
//!   later write has a later time, also when the wall clock steps back.
//! - Every error has a reason: nobody is told of a conflict without a second writer, or that the
//!   system stops while it does not.
//! - Of entities that keep their latest state only, every change is built on the one before, the row
//!   is what the last change made, a marker keeps the revision of a deleted one, and every change
//!   has its event where the type tells of them. A log of all changes takes the place of the
//!   journal. Where deleting a state leaves nothing there is one writer only, as the store promises
//!   no more.
//! - Every caller is answered in the end, every system that is told to stop stops, every place in a
//!   queue is given back, and a new system brings back what is stored and goes on from there.
//!
//! ```
//! use perennial_testkit::simulation::{self, Options};
//!
//! match simulation::run(4711, &Options::default()) {
//!     Ok(report) => assert!(report.commands > 0),
//!     // Says the seed, the promise that was not kept, and the last lines of the trace.
//!     Err(failure) => panic!("{failure}"),
//! }
//! ```
//!
//! The same seed, options and version of the code make the same run, line by line. What it does
//! not show: real threads, real stores, and the actix driver itself.

mod entity;
mod ledger;
mod storage;
pub(crate) mod trace;
mod world;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use ledger::Violation;
use world::World;

/// How a run is made.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// How many commands are sent before the run comes to its end.
    pub commands: u64,
    /// Whether all lines of the trace are kept, or the last ones.
    pub whole_trace: bool,
    /// What is kept of the entities.
    pub kept: Kept,
    /// What is broken on purpose.
    #[cfg(feature = "defects")]
    pub defect: Option<Defect>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            commands: 120,
            whole_trace: false,
            kept: Kept::Both,
            #[cfg(feature = "defects")]
            defect: None,
        }
    }
}

impl Options {
    /// Sends so many commands.
    #[must_use]
    pub fn with_commands(mut self, commands: u64) -> Self {
        self.commands = commands;
        self
    }

    /// Keeps all lines of the trace.
    #[must_use]
    pub fn with_whole_trace(mut self) -> Self {
        self.whole_trace = true;
        self
    }

    /// Has entities of which this is kept.
    #[must_use]
    pub fn with_kept(mut self, kept: Kept) -> Self {
        self.kept = kept;
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

/// What is kept of the entities of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kept {
    /// Their events, or their events and states side by side; the seed decides.
    Both,
    /// Their events.
    Events,
    /// Their latest states, of some with events that tell of the changes.
    States,
}

/// Something that can be broken on purpose, to see that the simulation notices.
#[cfg(feature = "defects")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Defect {
    /// Replies go out before their events are stored.
    ReplyBeforeCommit,
    /// Replies without events go out although the state that they saw is not stored yet.
    TentativeRead,
    /// The journal takes the rows of a write that is sent again for another writer's.
    UnrecognisedRetry,
    /// Later writes of an entity go out although an earlier one failed.
    SurvivingLaterWrite,
    /// Commands that are sent again are handled again.
    HandledAgain,
    /// The journal lets a stale writer have the numbers of deleted events.
    MissingFence,
    /// The store takes a state whatever revision its writer expects.
    StaleRevision,
    /// Deleting a state leaves nothing where it should leave a marker.
    LostMarker,
    /// Of several changes of a state in one batch only the last one's event and reply are stored.
    LostCompanions,
    /// A state that looks like that of a write counts as its own, whatever goes with it.
    TrustedRow,
}

/// What the store breaks about states, if the defect is one of these.
#[cfg(feature = "defects")]
fn state_defect(defect: Option<Defect>) -> Option<crate::memory::StateDefect> {
    use crate::memory::StateDefect;
    match defect? {
        Defect::StaleRevision => Some(StateDefect::TakesAnyRevision),
        Defect::LostMarker => Some(StateDefect::LosesMarkers),
        Defect::LostCompanions => Some(StateDefect::LosesCompanions),
        Defect::TrustedRow => Some(StateDefect::TrustsRows),
        _ => None,
    }
}

/// A worker with the defect in it, if it is one of workers.
#[cfg(feature = "defects")]
fn broken(
    mut worker: perennial_core::engine::Worker,
    defect: Option<Defect>,
) -> perennial_core::engine::Worker {
    let mut defects = perennial_core::engine::Defects::default();
    defects.show_tentative_state = defect == Some(Defect::TentativeRead);
    defects.keep_later_writes = defect == Some(Defect::SurvivingLaterWrite);
    defects.handle_again = defect == Some(Defect::HandledAgain);
    worker.set_defects(defects);
    worker
}

/// A batch as it is sent, with the defect if it is one of sending.
#[cfg(feature = "defects")]
fn sent(
    mut batch: perennial_core::engine::WriteBatch,
    defect: Option<Defect>,
) -> perennial_core::engine::WriteBatch {
    if defect == Some(Defect::ReplyBeforeCommit) {
        batch.release_before_commit();
    }
    batch
}

/// What happened in a run, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Steps of the simulation.
    pub steps: u64,
    /// Commands sent.
    pub commands: u64,
    /// Commands that were answered, silently also.
    pub answered: u64,
    /// Those of them that were sent again under their id and got the answer of an earlier attempt.
    pub repeated: u64,
    /// Events that are stored in the end.
    pub events: u64,
    /// Changes of states of which nothing else is kept.
    pub changes: u64,
    /// Those of them that deleted the state.
    pub deleted_states: u64,
    /// Those of them that were told as events.
    pub told: u64,
    /// Writes of states that were refused because of another revision.
    pub stale: u64,
    /// Commands to states that were sent again under their id and got the answer of an earlier
    /// attempt.
    pub repeated_of_states: u64,
    /// Runs in which deleting a state leaves nothing.
    pub removing_rows: u64,
    /// Those of them that timers caused.
    pub ticks: u64,
    /// Batches that were sent to the journal, repetitions included.
    pub batches: u64,
    /// Pages of histories that were read.
    pub reads: u64,
    /// Snapshots that were to be saved.
    pub snapshots: u64,
    /// Deletions of events that were carried out.
    pub deletions: u64,
    /// Futures of `later`.
    pub futures: u64,
    /// Actions after a commit.
    pub side_effects: u64,
    /// Systems started.
    pub systems: u64,
    /// Systems that crashed.
    pub crashes: u64,
    /// Slices that were to go to another worker, or the same.
    pub moves: u64,
    /// Entities that went to another worker.
    pub moved: u64,
    /// Systems that were stopped in an orderly way.
    pub shutdowns: u64,
    /// Events that a foreign program wrote between two others.
    pub foreign: u64,
    /// Batches that reached the store after their senders had given up.
    pub late: u64,
    /// Callers told that a queue was full, or the store down.
    pub busy: u64,
    /// Those of them who were told of the store.
    pub store_busy: u64,
    /// Callers told that the system stops.
    pub stopped: u64,
    /// Callers told that the outcome is unknown.
    pub unknown: u64,
    /// Callers whose events the store could not take, or say whether it had, for too long.
    pub given_up: u64,
    /// Writes that were refused because of higher numbers, while no event had theirs.
    pub superseded: u64,
    /// Callers told that nobody can say whether such a write was stored before.
    pub superseded_unknown: u64,
    /// Callers told that events were not stored, for whatever reason.
    pub persist_failed: u64,
    /// Those of them who met another writer.
    pub conflicts: u64,
    /// Those of them whose state was built on events that were not stored.
    pub taken_back: u64,
    /// Callers told that an entity does not come back.
    pub recovery_failed: u64,
    /// Callers told that their command means nothing in the entity's state.
    pub unhandled: u64,
    /// Callers told of a panic.
    pub panicked: u64,
    /// Callers whose time ran out before their command was handled.
    pub expired: u64,
    /// Callers whose time ran out while it was.
    pub expired_unknown: u64,
    /// How long an open outcome was pursued in this run.
    pub outcome_timeout: Duration,
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
            if options.whole_trace {
                report.trace = world.trace.lines();
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
        trace: world.trace.lines(),
    })
}
