//! The course of a shutdown, phase by phase.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join, join_all};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

use crate::config::ShutdownConfig;
use crate::engine::panic_message;
use crate::error::chain;
use crate::shutdown::tasks::Task;
use crate::shutdown::{
    CutOff, PhaseReport, ShutdownPhase, ShutdownReport, ShutdownTask, TaskOutcome, Tasks,
};

/// A shutdown that has begun.
pub(crate) struct Course {
    tasks: Arc<Tasks>,
    config: ShutdownConfig,
    /// Where tasks run.
    runtime: Handle,
    began: Instant,
    phases: Vec<PhaseReport>,
}

impl Course {
    pub(crate) fn begin(tasks: Arc<Tasks>, config: ShutdownConfig, runtime: Handle) -> Self {
        Self {
            tasks,
            config,
            runtime,
            began: Instant::now(),
            phases: Vec::new(),
        }
    }

    /// The phases before anything of the system stops.
    pub(crate) async fn services(&mut self) {
        for phase in [
            ShutdownPhase::BeforeServiceUnbind,
            ShutdownPhase::ServiceUnbind,
            ShutdownPhase::ServiceRequestsDone,
        ] {
            self.tasks_of(phase).await;
        }
    }

    /// A phase in which the system has no part.
    pub(crate) async fn tasks_of(&mut self, phase: ShutdownPhase) {
        self.phase(phase, self.in_time(Duration::ZERO), ready(()))
            .await;
    }

    /// The time in `timeout`, or that of the whole shutdown's deadline if that is sooner.
    pub(crate) fn in_time(&self, timeout: Duration) -> Instant {
        (Instant::now() + timeout).min(self.began + self.config.deadline)
    }

    /// A phase, with the system's own part in it, which may take up to `until`. Gives what came of
    /// it.
    pub(crate) async fn phase<T>(
        &mut self,
        phase: ShutdownPhase,
        until: Instant,
        own: impl Future<Output = T>,
    ) -> Option<T> {
        let began = Instant::now();
        let tasks_until = self.in_time(self.config.timeout(phase));
        // All of them run before the first one is waited for.
        let tasks: Vec<_> = self
            .tasks
            .take(phase)
            .into_iter()
            .map(|task| self.start(phase, task, tasks_until))
            .collect();
        let (own, tasks) = join(timeout_at(until, own), join_all(tasks)).await;
        let timed_out = own.is_err();
        let elapsed = began.elapsed();
        if timed_out {
            tracing::warn!(
                %phase,
                elapsed_ms = elapsed.as_millis(),
                "a phase of the shutdown had too little time"
            );
        } else {
            tracing::debug!(%phase, elapsed_ms = elapsed.as_millis(), "a phase of the shutdown ended");
        }
        self.phases.push(PhaseReport {
            phase,
            elapsed,
            timed_out,
            tasks,
        });
        own.ok()
    }

    fn start(
        &self,
        phase: ShutdownPhase,
        task: Task,
        until: Instant,
    ) -> impl Future<Output = ShutdownTask> + use<> {
        let Task { name, work, .. } = task;
        let began = Instant::now();
        let mut running = self.runtime.spawn(work);
        async move {
            let outcome = match timeout_at(until, &mut running).await {
                Ok(Ok(Ok(()))) => TaskOutcome::Done,
                Ok(Ok(Err(error))) => TaskOutcome::Failed(chain(&*error)),
                Ok(Err(error)) => match error.try_into_panic() {
                    Ok(panic) => TaskOutcome::Panicked(panic_message(&*panic)),
                    Err(_) => TaskOutcome::CutOff,
                },
                Err(_) => {
                    running.abort();
                    TaskOutcome::CutOff
                }
            };
            let elapsed = began.elapsed();
            if outcome != TaskOutcome::Done {
                tracing::warn!(
                    %phase,
                    task = &*name,
                    elapsed_ms = elapsed.as_millis(),
                    "a task of the shutdown {outcome}"
                );
            }
            ShutdownTask {
                name,
                elapsed,
                outcome,
            }
        }
    }

    /// The end. `timeout` is the time that the system's own part had.
    pub(crate) fn report(self, cut_off: CutOff, refused: u64, timeout: Duration) -> ShutdownReport {
        let report = ShutdownReport {
            // There is one since the beginning.
            reason: self
                .tasks
                .reason()
                .unwrap_or(super::ShutdownReason::Program),
            elapsed: self.began.elapsed(),
            phases: self.phases,
            actors: cut_off.actors,
            more_actors: cut_off.more_actors,
            entities: cut_off.entities,
            more_entities: cut_off.more_entities,
            refused,
            timeout,
        };
        if report.is_complete() {
            tracing::info!(
                reason = %report.reason,
                elapsed_ms = report.elapsed.as_millis(),
                refused,
                "stopped"
            );
        } else {
            tracing::warn!(
                reason = %report.reason,
                elapsed_ms = report.elapsed.as_millis(),
                actors = report.actors.len() + report.more_actors,
                entities = report.entities.len() + report.more_entities,
                refused,
                "stopped, and cut something off"
            );
        }
        report
    }
}
