//! The section `[system.shutdown]`.

use std::time::Duration;

use serde::Deserialize;

use super::error::ConfigError;
use super::source::ConfigSource;
use super::tree::Path;
use super::value::{self, DAY, MILLISECOND, Violation, within};
use crate::shutdown::ShutdownPhase;

/// How long the tasks of a shutdown may take: the section `[system.shutdown]`. How long the system's
/// own part may take says [`SystemConfig::shutdown_timeout`](super::SystemConfig::shutdown_timeout).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
#[non_exhaustive]
pub struct ShutdownConfig {
    /// How long the whole shutdown may take. 90 s by default, which is more than all phases
    /// together with their defaults; from 1 ms to a day. Then what is left of each phase gets no
    /// time any more but the half second that the workers have to leave their threads and the store
    /// to close, and is reported as cut off.
    #[serde(deserialize_with = "value::duration")]
    pub deadline: Duration,
    /// How long the program's tasks of one phase may take, unless the phase has a setting of its
    /// own. 5 s by default, as in Akka; from 1 ms to a day. A task that is not done then is dropped,
    /// named in the log and the report, and the shutdown goes on.
    #[serde(deserialize_with = "value::duration")]
    pub phase_timeout: Duration,
    /// `phase_timeout` for the phase of this name.
    #[serde(deserialize_with = "value::some_duration")]
    pub before_service_unbind: Option<Duration>,
    /// `phase_timeout` for the phase of this name.
    #[serde(deserialize_with = "value::some_duration")]
    pub service_unbind: Option<Duration>,
    /// `phase_timeout` for the phase of this name.
    #[serde(deserialize_with = "value::some_duration")]
    pub service_requests_done: Option<Duration>,
    /// `phase_timeout` for the phase of this name.
    #[serde(deserialize_with = "value::some_duration")]
    pub stop_actors: Option<Duration>,
    /// `phase_timeout` for the phase of this name.
    #[serde(deserialize_with = "value::some_duration")]
    pub drain_entities: Option<Duration>,
    /// `phase_timeout` for the phase of this name.
    #[serde(deserialize_with = "value::some_duration")]
    pub flush: Option<Duration>,
    /// `phase_timeout` for the phase of this name.
    #[serde(deserialize_with = "value::some_duration")]
    pub close_store: Option<Duration>,
    /// `phase_timeout` for the phase of this name.
    #[serde(deserialize_with = "value::some_duration")]
    pub after: Option<Duration>,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(90),
            phase_timeout: Duration::from_secs(5),
            before_service_unbind: None,
            service_unbind: None,
            service_requests_done: None,
            stop_actors: None,
            drain_entities: None,
            flush: None,
            close_store: None,
            after: None,
        }
    }
}

impl ShutdownConfig {
    /// Reads the section `[system.shutdown]`.
    ///
    /// # Errors
    /// [`ConfigError`] for an unknown key, a wrong type or a value out of its range.
    pub fn read(source: &ConfigSource) -> Result<Self, ConfigError> {
        let config: Self = source.section_at(&section())?;
        match config.violation() {
            Ok(()) => Ok(config),
            Err(violation) => Err(source.violated(&section(), &violation)),
        }
    }

    /// Checks the ranges, for settings made in code.
    ///
    /// # Errors
    /// [`ConfigError`] for the first value out of its range.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.violation()
            .map_err(|violation| ConfigSource::empty().violated(&section(), &violation))
    }

    fn violation(&self) -> Result<(), Violation> {
        within("deadline", self.deadline, MILLISECOND..=DAY)?;
        within("phase-timeout", self.phase_timeout, MILLISECOND..=DAY)?;
        for phase in ShutdownPhase::ALL {
            if let Some(timeout) = self.of_phase(phase) {
                within(phase.as_str(), timeout, MILLISECOND..=DAY)?;
            }
        }
        Ok(())
    }

    /// How long the program's tasks of a phase may take.
    pub(crate) fn timeout(&self, phase: ShutdownPhase) -> Duration {
        self.of_phase(phase).unwrap_or(self.phase_timeout)
    }

    fn of_phase(&self, phase: ShutdownPhase) -> Option<Duration> {
        match phase {
            ShutdownPhase::BeforeServiceUnbind => self.before_service_unbind,
            ShutdownPhase::ServiceUnbind => self.service_unbind,
            ShutdownPhase::ServiceRequestsDone => self.service_requests_done,
            ShutdownPhase::StopActors => self.stop_actors,
            ShutdownPhase::DrainEntities => self.drain_entities,
            ShutdownPhase::Flush => self.flush,
            ShutdownPhase::CloseStore => self.close_store,
            ShutdownPhase::After => self.after,
        }
    }

    with_methods! {
        with_deadline => deadline: Duration,
        with_phase_timeout => phase_timeout: Duration,
        with_before_service_unbind => before_service_unbind: Option<Duration>,
        with_service_unbind => service_unbind: Option<Duration>,
        with_service_requests_done => service_requests_done: Option<Duration>,
        with_stop_actors => stop_actors: Option<Duration>,
        with_drain_entities => drain_entities: Option<Duration>,
        with_flush => flush: Option<Duration>,
        with_close_store => close_store: Option<Duration>,
        with_after => after: Option<Duration>,
    }
}

fn section() -> Path {
    Path::of_keys(["system", "shutdown"])
}
