//! What became of a shutdown.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use perennial_persistence::PersistenceId;

use crate::shutdown::{ShutdownPhase, ShutdownReason};
use crate::system::ShutdownError;

/// What became of a shutdown: how each phase went, and what was cut off.
///
/// Its text is for people, with a line per fact; the first one says whether it is complete.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Why the system was shut down.
    pub reason: ShutdownReason,
    /// How long it took.
    pub elapsed: Duration,
    /// How each phase went, in their order.
    pub phases: Vec<PhaseReport>,
    /// The paths of actors that had not ended, up to [`Self::LISTED`].
    pub actors: Vec<String>,
    /// Further actors that had not ended. One without a name has no path to tell while a handler
    /// that does not return holds its worker.
    pub more_actors: usize,
    /// Entities with commands that were not done, up to [`Self::LISTED`].
    pub entities: Vec<UnfinishedEntity>,
    /// Further ones.
    pub more_entities: usize,
    /// Commands and messages that were refused as `Stopped` since actors and entities began to
    /// stop: those that came then, and those that waited for something that did not come any more.
    pub refused: u64,
    pub(crate) timeout: Duration,
}

impl ShutdownReport {
    /// How many actors and entities are listed at the most.
    pub const LISTED: usize = 1000;

    /// Whether everything was done: every task succeeded, every phase had the time that it needed,
    /// and nothing was cut off.
    pub fn is_complete(&self) -> bool {
        self.result().is_ok() && !self.is_cut_off()
    }

    /// What [`ActorSystem::shutdown`](crate::ActorSystem::shutdown) says of it.
    ///
    /// # Errors
    /// [`ShutdownError::TimedOut`] if the system's own part did not end in its time, otherwise
    /// [`ShutdownError::Tasks`] if one of the program's did not succeed.
    pub fn result(&self) -> Result<(), ShutdownError> {
        if self.phases.iter().any(|phase| phase.timed_out) {
            return Err(ShutdownError::TimedOut {
                timeout: self.timeout,
            });
        }
        let tasks: Vec<String> = self
            .not_done()
            .map(|(phase, task)| format!("{}/{}", phase.phase, task.name))
            .collect();
        if tasks.is_empty() {
            Ok(())
        } else {
            Err(ShutdownError::Tasks { tasks })
        }
    }

    /// The tasks that did not succeed, each with its phase.
    pub fn not_done(&self) -> impl Iterator<Item = (&PhaseReport, &ShutdownTask)> {
        self.phases.iter().flat_map(|phase| {
            let tasks = phase.tasks.iter();
            tasks
                .filter(|task| task.outcome != TaskOutcome::Done)
                .map(move |task| (phase, task))
        })
    }

    fn is_cut_off(&self) -> bool {
        !self.actors.is_empty()
            || self.more_actors > 0
            || !self.entities.is_empty()
            || self.more_entities > 0
    }
}

impl fmt::Display for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.is_complete() {
            "complete"
        } else {
            "incomplete"
        };
        let elapsed = humantime::format_duration(whole_millis(self.elapsed));
        write!(f, "shutdown ({}): {how} after {elapsed}", self.reason)?;
        for phase in self.phases.iter().filter(|phase| phase.timed_out) {
            write!(
                f,
                "\n  {}: the system's part had too little time",
                phase.phase
            )?;
        }
        for (phase, task) in self.not_done() {
            write!(
                f,
                "\n  {}: task \"{}\" {}",
                phase.phase, task.name, task.outcome
            )?;
        }
        for actor in &self.actors {
            write!(f, "\n  actor {actor} had not ended")?;
        }
        if self.more_actors > 0 {
            write!(f, "\n  {} more actors had not ended", self.more_actors)?;
        }
        for entity in &self.entities {
            write!(f, "\n  {entity}")?;
        }
        if self.more_entities > 0 {
            let more = self.more_entities;
            write!(
                f,
                "\n  {more} more entities had commands that were not done"
            )?;
        }
        if self.refused > 0 {
            write!(f, "\n  {} commands and messages were refused", self.refused)?;
        }
        Ok(())
    }
}

/// How a phase went.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PhaseReport {
    /// Which one.
    pub phase: ShutdownPhase,
    /// How long it took.
    pub elapsed: Duration,
    /// Whether the system's own part in it had too little time, and was cut off.
    pub timed_out: bool,
    /// The program's tasks, in the order in which they were registered.
    pub tasks: Vec<ShutdownTask>,
}

/// What became of a task.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ShutdownTask {
    /// The name under which it was registered.
    pub name: Cow<'static, str>,
    /// How long it ran.
    pub elapsed: Duration,
    /// How it ended.
    pub outcome: TaskOutcome,
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TaskOutcome {
    /// It has done its work.
    Done,
    /// It returned an error.
    Failed(Arc<str>),
    /// It panicked.
    Panicked(Arc<str>),
    /// It was not done when the time was up, and was dropped.
    CutOff,
}

impl fmt::Display for TaskOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("was done"),
            Self::Failed(error) => write!(f, "failed: {error}"),
            Self::Panicked(message) => write!(f, "panicked: {message}"),
            Self::CutOff => f.write_str("was cut off"),
        }
    }
}

/// An entity with commands that were not done when the system ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnfinishedEntity {
    /// Which one.
    pub persistence_id: PersistenceId,
    /// Commands that were not begun and never will be: their callers are told `Stopped`.
    pub waiting: usize,
    /// Commands that were being handled, or whose write or future was under way: their callers are
    /// told `Unknown` unless the answer came all the same.
    pub begun: usize,
}

impl fmt::Display for UnfinishedEntity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "entity {} had {} commands under way and {} waiting",
            self.persistence_id, self.begun, self.waiting
        )
    }
}

/// What had not ended when its worker did.
#[derive(Debug, Default)]
pub(crate) struct CutOff {
    pub(crate) actors: Vec<String>,
    pub(crate) more_actors: usize,
    pub(crate) entities: Vec<UnfinishedEntity>,
    pub(crate) more_entities: usize,
}

impl CutOff {
    pub(crate) fn add_actor(&mut self, path: &dyn fmt::Display) {
        if self.actors.len() < ShutdownReport::LISTED {
            self.actors.push(path.to_string());
        } else {
            self.more_actors += 1;
        }
    }

    pub(crate) fn add_entity(&mut self, id: &PersistenceId, waiting: usize, begun: usize) {
        if waiting + begun == 0 {
            return;
        }
        if self.entities.len() < ShutdownReport::LISTED {
            self.entities.push(UnfinishedEntity {
                persistence_id: id.clone(),
                waiting,
                begun,
            });
        } else {
            self.more_entities += 1;
        }
    }
}

/// Commands and messages that were refused because of the shutdown.
#[derive(Debug, Default)]
pub(crate) struct Refused(AtomicU64);

impl Refused {
    pub(crate) fn note(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

fn whole_millis(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}
