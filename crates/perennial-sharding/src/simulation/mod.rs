//! A cluster under a seeded order of everything.
//!
//! One thread, virtual time, and a seed that decides everything: how many nodes there are, how their
//! clocks run, when a frame arrives, is lost, overtaken or doubled, who is cut off from whom, who stands
//! still and goes on as if nothing had happened, who crashes, comes back, joins and leaves. The keepers
//! are those of production, [`Keeper`](crate::Keeper); leases are given out by a
//! [`LeaseTable`](crate::LeaseTable) whose clock runs as it likes; what is stored is stored in the
//! journal in memory, with the fence that every store has. The entities and the engine that runs them
//! are small models: one command at a time for each entity, and an answer when its event is stored.
//!
//! A run is checked while it goes on and at its end. An entity's state is the chain of its events, and
//! every reply says which part of the chain it saw:
//!
//! - No acknowledgement leaves from an owner once the shard has been granted to another.
//! - What is acknowledged is stored, at the number that the reply says, by the incarnation that says so.
//! - A reply is not older than any that anybody had before it was asked for.
//! - Commands of one caller to one entity are stored in the order of the caller, and its replies see
//!   that order, also when the entity's owner has changed in between.
//! - A command is stored once at most; one that failed for certain is not stored.
//! - Every event was made from the state that the one before it left.
//! - Every call ends, once, and no later than its time plus what the node stood still.
//! - Once nothing goes wrong any more, every shard has one owner within a bound, shards are spread
//!   evenly, whoever wanted to leave has left, and every entity answers.
//!
//! ```
//! use perennial_sharding::simulation::{self, Options};
//!
//! match simulation::run(4711, &Options::default()) {
//!     Ok(report) => assert!(report.calls > 0),
//!     // Says the seed, the promise that was not kept, and the last lines of the trace.
//!     Err(failure) => panic!("{failure}"),
//! }
//! ```
//!
//! The same seed, options and version of the code make the same run, line by line. What it does not
//! show: a real network and lease service, threads, and perennial's own engine behind the keepers.

mod engine;
mod history;
mod world;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use history::Violation;
use world::World;

/// How a run is made.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Options {
    /// Whether the trace is kept.
    pub trace: bool,
    /// What is broken on purpose.
    #[cfg(feature = "defects")]
    pub defect: Option<Defect>,
}

impl Options {
    /// Keeps the trace.
    #[must_use]
    pub fn with_trace(mut self) -> Self {
        self.trace = true;
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

/// Something that can be broken on purpose, to see that the simulation notices.
#[cfg(feature = "defects")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Defect {
    /// A keeper is broken.
    Keeper(crate::Defect),
    /// The leases give a shard to another node when half of its validity is over.
    GrantsTooEarly,
    /// The journal gives the event of a stale writer the next number that is free.
    NoFence,
    /// An engine answers before its event is stored.
    AnswersTooEarly,
    /// An engine handles commands although the lease is over; its keeper still withholds the answers.
    HandlesTooLate,
}

/// What happened in a run, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Steps of the simulation.
    pub steps: u64,
    /// Commands that were sent.
    pub calls: u64,
    /// Those of them that had a reply.
    pub replied: u64,
    /// Those that were sent one way, and taken.
    pub taken: u64,
    /// Those that were certainly not handled.
    pub not_handled: u64,
    /// Those that were handled and changed nothing.
    pub without_effect: u64,
    /// Those whose outcome is unknown.
    pub unknown: u64,
    /// Those whose callers crashed with their node.
    pub crashed_calls: u64,
    /// Events that are stored in the end.
    pub events: u64,
    /// Those of them whose callers were told that the outcome is unknown.
    pub stored_unknown: u64,
    /// Writes that the journal refused.
    pub refused_writes: u64,
    /// Nodes started.
    pub nodes: u64,
    /// Nodes that crashed.
    pub crashes: u64,
    /// Times that a node stood still.
    pub pauses: u64,
    /// Times that somebody was cut off.
    pub cuts: u64,
    /// Nodes that left in an orderly way.
    pub left: u64,
    /// Frames that were sent.
    pub frames: u64,
    /// Frames that were lost.
    pub lost: u64,
    /// Frames and requests that were doubled.
    pub doubled: u64,
    /// Frames that were overtaken.
    pub overtaken: u64,
    /// Tenures that began.
    pub tenures: u64,
    /// Tenures that ended in an orderly way.
    pub released: u64,
    /// Shards that were given away without waiting for their entities any longer.
    pub forced: u64,
    /// Tenures that were given up because their lease was over, or might be.
    pub fenced: u64,
    /// Calls that were refused by one owner and sent to the next.
    pub sent_again: u64,
    /// The longest time that it took, after nothing went wrong any more, until all was at its place, in
    /// milliseconds.
    pub settled_after_ms: u64,
    /// The trace, if it was to be kept.
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

/// How many lines of its trace a failure shows, unless the trace was to be kept.
const TAIL: usize = 80;

/// Makes the run of a seed.
///
/// # Errors
/// [`Failure`] for the first promise that is not kept. A panic is one too.
pub fn run(seed: u64, options: &Options) -> Result<Report, Failure> {
    let first = attempt(seed, options);
    if first.is_ok() || options.trace {
        return first;
    }
    // Traces cost more than runs, so one is made only where somebody will read it.
    let traced = options.clone().with_trace();
    let Err(mut failure) = attempt(seed, &traced) else {
        return first;
    };
    let lines = failure.trace.len();
    failure.trace.drain(..lines.saturating_sub(TAIL));
    Err(failure)
}

fn attempt(seed: u64, options: &Options) -> Result<Report, Failure> {
    let mut world = World::new(seed, options);
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    let violation = match result {
        Ok(Ok(mut report)) => {
            report.trace = world.take_trace();
            return Ok(report);
        }
        Ok(Err(violation)) => violation,
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(ToString::to_string);
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            Violation {
                rule: "nothing panics",
                detail: text.unwrap_or_else(|| "a panic without a text".to_owned()),
            }
        }
    };
    Err(Failure {
        seed,
        steps: world.steps(),
        rule: violation.rule,
        detail: violation.detail,
        trace: world.take_trace(),
    })
}
