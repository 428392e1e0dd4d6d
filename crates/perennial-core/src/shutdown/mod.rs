//! The coordinated shutdown: phases in order, the program's tasks in them, and what was cut off.
//!
//! As Akka's `CoordinatedShutdown`: in each phase the tasks that the program has registered run in
//! parallel, beside the system's own part in it; the next phase begins when all of them have ended
//! or their time is up. Nothing stops a shutdown that has begun: whatever fails or takes too long is
//! named, in the log and in the report, and the next phase comes.

mod course;
mod report;
mod signals;
mod tasks;

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, Weak};

pub(crate) use course::Course;
pub(crate) use report::{CutOff, Refused};
pub use report::{PhaseReport, ShutdownReport, ShutdownTask, TaskOutcome, UnfinishedEntity};
pub(crate) use signals::Signals;
pub(crate) use tasks::Tasks;

use crate::system::{ActorSystem, ShutdownError};

/// The error of a task of a shutdown, whatever it is.
pub type TaskError = Box<dyn std::error::Error + Send + Sync>;

/// A phase of a shutdown. They come in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ShutdownPhase {
    /// Before the program's services stop accepting: tell the load balancer, say that the program is
    /// not ready.
    BeforeServiceUnbind,
    /// Services stop accepting new connections and requests.
    ServiceUnbind,
    /// Requests under way are waited for. Up to its end actors and entities take everything.
    ServiceRequestsDone,
    /// Actors stop, once they have handled what waits for them. They may still ask entities.
    StopActors,
    /// New commands of entities are refused; those that wait are handled, futures waited for, writes
    /// flushed.
    DrainEntities,
    /// Every command has its answer, the workers' threads end. For what the program itself has to
    /// write out.
    Flush,
    /// The stores are closed.
    CloseStore,
    /// Nothing of the system is left but its report.
    After,
}

impl ShutdownPhase {
    /// All phases in their order.
    pub const ALL: [Self; 8] = [
        Self::BeforeServiceUnbind,
        Self::ServiceUnbind,
        Self::ServiceRequestsDone,
        Self::StopActors,
        Self::DrainEntities,
        Self::Flush,
        Self::CloseStore,
        Self::After,
    ];

    /// Its name in logs and settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BeforeServiceUnbind => "before-service-unbind",
            Self::ServiceUnbind => "service-unbind",
            Self::ServiceRequestsDone => "service-requests-done",
            Self::StopActors => "stop-actors",
            Self::DrainEntities => "drain-entities",
            Self::Flush => "flush",
            Self::CloseStore => "close-store",
            Self::After => "after",
        }
    }
}

impl fmt::Display for ShutdownPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a system was shut down.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ShutdownReason {
    /// The program called [`ActorSystem::shutdown`].
    Program,
    /// Somebody pressed ctrl-c, or sent SIGINT.
    Interrupt,
    /// Whoever runs the program sent SIGTERM.
    Terminate,
    /// The last handle of the system was dropped.
    Dropped,
    /// The program says so itself.
    Other(Cow<'static, str>),
}

impl fmt::Display for ShutdownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Program => "program",
            Self::Interrupt => "ctrl-c",
            Self::Terminate => "SIGTERM",
            Self::Dropped => "dropped",
            Self::Other(reason) => reason,
        })
    }
}

impl From<&'static str> for ShutdownReason {
    fn from(reason: &'static str) -> Self {
        Self::Other(Cow::Borrowed(reason))
    }
}

/// The shutdown of a system: its tasks, and its beginning. Made by
/// [`ActorSystem::coordinated_shutdown`].
///
/// ```
/// use perennial_core::config::ConfigSource;
/// use perennial_core::{ActorSystem, ShutdownPhase};
///
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let system = ActorSystem::in_memory(ConfigSource::empty()).start().await?;
/// let (closed, is_closed) = tokio::sync::oneshot::channel();
/// system.coordinated_shutdown().add_task(
///     ShutdownPhase::ServiceUnbind,
///     "listener",
///     async move {
///         closed.send(()).map_err(|()| "nobody listens any more")?;
///         Ok(())
///     },
/// )?;
/// let report = system.coordinated_shutdown().run("maintenance").await?;
/// assert!(report.is_complete(), "{report}");
/// is_closed.await?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct CoordinatedShutdown {
    system: ActorSystem,
}

impl CoordinatedShutdown {
    /// The most tasks that a system has at a time.
    pub const MAX_TASKS: usize = 4096;

    pub(crate) fn new(system: ActorSystem) -> Self {
        Self { system }
    }

    /// Has `task` run in a phase of the shutdown, beside the others of the phase, on the system's
    /// task runtime. It is dropped when its phase has no time left; how long that is says the section
    /// `[system.shutdown]`.
    ///
    /// A task that holds a handle of the system keeps it from ending by being dropped, which the
    /// registration does for as long as it is there.
    ///
    /// # Errors
    /// [`AddTaskError`] when the phase has begun, or when there are [`Self::MAX_TASKS`] already;
    /// `task` is dropped then.
    pub fn add_task(
        &self,
        phase: ShutdownPhase,
        name: impl Into<Cow<'static, str>>,
        task: impl Future<Output = Result<(), TaskError>> + Send + 'static,
    ) -> Result<TaskRegistration, AddTaskError> {
        let tasks = self.system.shutdown_tasks();
        let number = tasks.add(phase, name.into(), Box::pin(task))?;
        Ok(TaskRegistration {
            tasks: Arc::downgrade(tasks),
            number,
        })
    }

    /// Begins the shutdown, unless it has begun, and does not wait for its end. May be called
    /// anywhere, also by an actor or entity.
    pub fn begin(&self, reason: impl Into<ShutdownReason>) {
        self.system.begin_shutdown(reason.into());
    }

    /// Begins the shutdown, unless it has begun, and waits for its end. A further call, or one on
    /// another clone, waits for the same end.
    ///
    /// # Errors
    /// [`ShutdownError::Panicked`]. That something was cut off is not an error here: the report says
    /// it, and [`ShutdownReport::result`] makes an error of it.
    ///
    /// # Cancel safety
    /// Cancel safe: the system goes on to its end in the background.
    pub async fn run(
        &self,
        reason: impl Into<ShutdownReason>,
    ) -> Result<Arc<ShutdownReport>, ShutdownError> {
        self.begin(reason);
        self.ended().await
    }

    /// Waits for the end of the system without beginning it.
    ///
    /// # Errors
    /// [`ShutdownError::Panicked`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn ended(&self) -> Result<Arc<ShutdownReport>, ShutdownError> {
        self.system.wait_for_end().await
    }

    /// Why the system is shut down; `None` if it is not.
    pub fn reason(&self) -> Option<ShutdownReason> {
        self.system.shutdown_tasks().reason()
    }
}

/// A task of a shutdown that was registered. Dropping this changes nothing.
#[derive(Debug, Clone)]
pub struct TaskRegistration {
    tasks: Weak<Tasks>,
    number: u64,
}

impl TaskRegistration {
    /// Takes the task back; `false` if its phase has begun or it was taken back before.
    pub fn cancel(&self) -> bool {
        self.tasks
            .upgrade()
            .is_some_and(|tasks| tasks.remove(self.number))
    }
}

/// A task of a shutdown was not registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddTaskError {
    /// Its phase has begun, or the system has ended.
    #[error("task \"{name}\" comes too late: phase {phase} of the shutdown has begun")]
    TooLate {
        /// The phase.
        phase: ShutdownPhase,
        /// The task.
        name: Cow<'static, str>,
    },
    /// There are too many.
    #[error(
        "task \"{name}\" is one too many: a shutdown has at most {} tasks; cancel those that are \
         not needed any more",
        CoordinatedShutdown::MAX_TASKS
    )]
    TooMany {
        /// The task.
        name: Cow<'static, str>,
    },
}
