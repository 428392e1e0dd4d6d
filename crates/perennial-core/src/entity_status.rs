//! Where an entity is and what it waits for; how many there are.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use perennial_persistence::{PersistenceId, SequenceNr, SliceRange};

use crate::engine::Address;
use crate::error::{AskError, RecoveryFailed};

/// How it stands with an entity: where it is, in which phase, and what it waits for. It is what its
/// worker saw in between two turns; its `Display` is one line for people.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct EntityStatus {
    /// Which entity.
    pub persistence_id: PersistenceId,
    /// The number of the worker on which it lives, or would, from 0.
    pub worker: usize,
    /// What it is doing.
    pub phase: EntityPhase,
    /// For how long it has; `None` if it is not in memory.
    pub phase_for: Option<Duration>,
    /// How long ago it did something last, or was sent something; `None` if it is not in memory.
    pub idle_for: Option<Duration>,
    /// The number of the last event in its state, ahead of the store by what is not settled.
    pub sequence_nr: SequenceNr,
    /// Commands that have come to it and wait.
    pub queued: usize,
    /// Commands that it has put aside.
    pub stashed: usize,
    /// Writes that the store has not answered.
    pub writes: usize,
    /// Futures of `later` that are open.
    pub futures: usize,
    /// Timers that are set.
    pub timers: usize,
    /// Failures in a row.
    pub failures: u32,
    /// Whether a snapshot is being saved, or events are being deleted, which hinders no command but
    /// keeps it in memory.
    pub is_saving: bool,
    /// Why it could not be brought back, while it waits for the next attempt.
    pub failure: Option<RecoveryFailed>,
    /// What has to happen before it goes on; nothing if it waits for commands only.
    pub waits_for: Vec<WaitsFor>,
}

/// What an entity is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EntityPhase {
    /// It is not in memory; the next command brings it back.
    NotInMemory,
    /// It is to be brought back, and waits for a permit.
    Waiting,
    /// It is being brought back.
    Recovering,
    /// It handles commands.
    Ready,
    /// It ends, once what is under way is done.
    Stopping,
    /// It has failed, and begins anew once what is under way is done.
    Restarting,
    /// It has failed, and waits before it begins anew. Commands wait.
    BackingOff,
    /// It could not be brought back, and is tried again after a while. Commands are refused.
    Unrecoverable,
    /// It has failed; the next command brings it back.
    Down,
    /// It is on its way to this worker from another one, which waits for its writes. Commands wait.
    Moving,
}

impl fmt::Display for EntityPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotInMemory => "not in memory",
            Self::Waiting => "waiting to recover",
            Self::Recovering => "recovering",
            Self::Ready => "ready",
            Self::Stopping => "stopping",
            Self::Restarting => "restarting",
            Self::BackingOff => "backing off after a failure",
            Self::Unrecoverable => "not recoverable",
            Self::Down => "down after a failure",
            Self::Moving => "on its way from another worker",
        })
    }
}

/// Something that has to happen before an entity goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitsFor {
    /// A permit to recover (`persistence.recoveries`), behind others of its worker.
    Permit {
        /// How many are before it.
        ahead: usize,
    },
    /// The next part of its history, from the store.
    History {
        /// How often the store has failed to give it, in a row.
        failures: u32,
    },
    /// The stored answers to commands with ids.
    Replies,
    /// The store's answer to writes. Commands are handled meanwhile, up to `pipeline`.
    Writes {
        /// How many.
        number: usize,
        /// For how long the oldest one has been under way.
        oldest: Duration,
    },
    /// The store, which is slow or down, for what stands before this.
    Store,
    /// A future of `later`.
    Future {
        /// The type of its command.
        command: &'static str,
        /// For how long it has been open.
        running_for: Duration,
        /// Whether other commands are handled meanwhile.
        is_interleaved: bool,
    },
    /// The end of the wait after a failure.
    Backoff {
        /// How much of it is left.
        left: Duration,
    },
    /// Its own `unstash_all`, as everything that came was put aside.
    Unstash,
    /// Its turn, which comes as soon as its worker gets to it.
    Turn,
    /// The end of a clean-up, which keeps it out of memory.
    CleanUp,
}

impl fmt::Display for WaitsFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Permit { ahead } => {
                write!(
                    f,
                    "a permit to recover, behind {ahead} others (`recoveries`)"
                )
            }
            Self::History { failures: 0 } => f.write_str("its history from the store"),
            Self::History { failures } => {
                write!(
                    f,
                    "its history from the store, which failed {failures} times"
                )
            }
            Self::Replies => f.write_str("the stored replies to its commands with ids"),
            Self::Writes { number, oldest } => {
                write!(f, "{number} writes, the oldest for {oldest:.1?}")
            }
            Self::Store => f.write_str("the store, which is slow or down"),
            Self::Future {
                command,
                running_for,
                is_interleaved,
            } => {
                let others = if *is_interleaved {
                    ""
                } else {
                    ", and commands for that"
                };
                write!(
                    f,
                    "the future of a `{command}`, for {running_for:.1?}{others}"
                )
            }
            Self::Backoff { left } => write!(f, "its next start in {left:.1?}"),
            Self::Unstash => f.write_str("its own `unstash_all`"),
            Self::Turn => f.write_str("its turn"),
            Self::CleanUp => f.write_str("the end of its clean-up"),
        }
    }
}

impl EntityStatus {
    /// One that is not in memory, as a clean-up may want it.
    pub(crate) fn not_in_memory(address: &Address, is_held: bool) -> Self {
        Self {
            persistence_id: address.persistence_id().clone(),
            worker: address.worker(),
            phase: EntityPhase::NotInMemory,
            phase_for: None,
            idle_for: None,
            sequence_nr: SequenceNr::ZERO,
            queued: 0,
            stashed: 0,
            writes: 0,
            futures: 0,
            timers: 0,
            failures: 0,
            is_saving: false,
            failure: None,
            waits_for: is_held.then_some(WaitsFor::CleanUp).into_iter().collect(),
        }
    }

    /// One that comes from another worker, with what waits for it here.
    pub(crate) fn moving(address: &Address, queued: usize) -> Self {
        Self {
            phase: EntityPhase::Moving,
            queued,
            ..Self::not_in_memory(address, false)
        }
    }
}

impl fmt::Display for EntityStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            persistence_id,
            worker,
            phase,
            ..
        } = self;
        write!(f, "{persistence_id} on worker {worker}: {phase}")?;
        if let Some(phase_for) = self.phase_for {
            write!(f, " for {phase_for:.1?}")?;
        }
        if let Some(failure) = &self.failure {
            write!(f, " ({})", failure.reason)?;
        }
        let mut lead = ", waits for ";
        for waits in &self.waits_for {
            write!(f, "{lead}{waits}")?;
            lead = "; ";
        }
        if self.phase_for.is_some() {
            let Self {
                sequence_nr,
                queued,
                stashed,
                ..
            } = self;
            write!(
                f,
                " [last event {sequence_nr}, {queued} commands wait, {stashed} are stashed]"
            )?;
        }
        Ok(())
    }
}

/// It cannot be told how it stands with an entity.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StatusError {
    /// Its worker has not answered in time.
    #[error("worker {worker} has not answered within {timeout:?}{}", whose(running.as_ref()))]
    NoAnswer {
        /// The number of the worker.
        worker: usize,
        /// The time that was given.
        timeout: Duration,
        /// Whose code has been running there and for how long: an actor's path or an entity's id.
        /// Nothing else of the worker goes on until that returns. `None` if it was between two of
        /// them.
        running: Option<(String, Duration)>,
    },
    /// The id or the type is not one, too many such questions are open, or the system has stopped.
    #[error(transparent)]
    Refused(#[from] AskError),
}

fn whose(running: Option<&(String, Duration)>) -> String {
    match running {
        Some((name, elapsed)) => {
            format!(": it has not turned for {elapsed:.1?}, since the code of {name} began to run")
        }
        None => String::new(),
    }
}

/// The entities of one type, as far as they are in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EntityTypeStatus {
    /// The type's name.
    pub entity_type: &'static str,
    /// By the number of the worker.
    pub workers: Vec<EntitiesOfWorker>,
    /// By the slice.
    pub(crate) slices: Arc<[usize]>,
}

/// The entities of one type on one worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EntitiesOfWorker {
    /// In memory now, recovering ones included.
    pub resident: usize,
    /// How many may be, of the type's `entity-limit`; `None` without one.
    pub limit: Option<usize>,
    /// How many are more than that, because they have something open.
    pub over_limit: usize,
    /// Those that were brought back since the start.
    pub recovered: u64,
    /// Those that left because they were idle for long (`passivate-after`).
    pub passivated_idle: u64,
    /// Those that left because others came (`entity-limit`).
    pub passivated_limit: u64,
    /// Those that were not done with their last command in time (`stop-timeout`).
    pub forced_ends: u64,
    /// Failures: panics, writes and recoveries that failed.
    pub failures: u64,
}

impl EntityTypeStatus {
    /// How many are in memory in the whole system.
    pub fn resident(&self) -> usize {
        self.workers.iter().map(|worker| worker.resident).sum()
    }

    /// How many are more than may be, in the whole system.
    pub fn over_limit(&self) -> usize {
        self.workers.iter().map(|worker| worker.over_limit).sum()
    }

    /// How many of a range of slices are in memory.
    pub fn resident_in(&self, range: SliceRange) -> usize {
        let (min, max) = (range.min().value(), range.max().value());
        let range = usize::from(min)..=usize::from(max);
        self.slices.get(range).unwrap_or_default().iter().sum()
    }
}

impl fmt::Display for EntityTypeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} in memory", self.entity_type, self.resident())?;
        for (number, worker) in self.workers.iter().enumerate() {
            write!(f, ", worker {number} has {}", worker.resident)?;
            if let Some(limit) = worker.limit {
                write!(f, " of {limit}")?;
            }
        }
        Ok(())
    }
}
