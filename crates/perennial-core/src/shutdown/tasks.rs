//! The program's tasks, until their phase comes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use perennial_persistence::BoxFuture;

use crate::shutdown::{
    AddTaskError, CoordinatedShutdown, ShutdownPhase, ShutdownReason, TaskError,
};

/// The tasks of a system that are still to run, and how far its shutdown has come.
#[derive(Default)]
pub(crate) struct Tasks {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By their number, so in the order in which they were registered.
    tasks: BTreeMap<u64, Task>,
    added: u64,
    reason: Option<ShutdownReason>,
    /// The latest phase that has begun.
    reached: Option<ShutdownPhase>,
}

pub(super) struct Task {
    phase: ShutdownPhase,
    pub(super) name: Cow<'static, str>,
    pub(super) work: BoxFuture<'static, Result<(), TaskError>>,
}

impl Tasks {
    pub(super) fn add(
        &self,
        phase: ShutdownPhase,
        name: Cow<'static, str>,
        work: BoxFuture<'static, Result<(), TaskError>>,
    ) -> Result<u64, AddTaskError> {
        let mut state = self.state();
        if state.reached >= Some(phase) {
            return Err(AddTaskError::TooLate { phase, name });
        }
        if state.tasks.len() >= CoordinatedShutdown::MAX_TASKS {
            return Err(AddTaskError::TooMany { name });
        }
        state.added += 1;
        let number = state.added;
        state.tasks.insert(number, Task { phase, name, work });
        Ok(number)
    }

    pub(super) fn remove(&self, number: u64) -> bool {
        // Dropped when the lock is free: its destructor may come back here.
        let removed = self.state().tasks.remove(&number);
        removed.is_some()
    }

    /// The shutdown begins. Gives whether something is to be done before actors and entities stop.
    pub(crate) fn begin(&self, reason: ShutdownReason) -> bool {
        let mut state = self.state();
        state.reason.get_or_insert(reason);
        let before = ShutdownPhase::StopActors;
        let waits = state.tasks.values().any(|task| task.phase < before);
        if !waits {
            state.reached = Some(ShutdownPhase::ServiceRequestsDone);
        }
        waits
    }

    pub(crate) fn reason(&self) -> Option<ShutdownReason> {
        self.state().reason.clone()
    }

    /// A phase begins: takes its tasks. Those of this and earlier phases are refused from now on.
    pub(super) fn take(&self, phase: ShutdownPhase) -> Vec<Task> {
        let mut state = self.state();
        state.reached = state.reached.max(Some(phase));
        let (due, later) = std::mem::take(&mut state.tasks)
            .into_iter()
            .partition(|(_, task)| task.phase == phase);
        state.tasks = later;
        let due: BTreeMap<_, _> = due;
        due.into_values().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Tasks")
            .field("tasks", &state.tasks.len())
            .field("reached", &state.reached)
            .finish_non_exhaustive()
    }
}
