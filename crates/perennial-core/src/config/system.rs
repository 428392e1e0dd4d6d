//! The section `[system]`.

use std::time::Duration;

use serde::Deserialize;

use super::error::ConfigError;
use super::source::ConfigSource;
use super::tree::Path;
use super::value::{self, DAY, HOUR, MILLISECOND, Violation, within};

/// The actor system as a whole: the section `[system]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
#[non_exhaustive]
pub struct SystemConfig {
    /// What the system is called in logs and in the names of its threads. 1 to 64 ASCII letters, digits, `-` and `_`;
    /// "perennial" by default.
    pub name: String,
    /// How many workers run entities, each on a thread of its own. 0, the default, means one per
    /// core; at most 1,024, the number of slices, as a worker without slices would be idle.
    pub workers: usize,
    /// How long `ask` waits unless the call says otherwise. 5 s by default, which is longer than
    /// any healthy write; from 1 ms to a day. It may be some 15 ms more. A command not yet begun
    /// then expires unhandled; of one begun the caller is told that its outcome is unknown.
    #[serde(deserialize_with = "value::duration")]
    pub ask_timeout: Duration,
    /// How many commands may wait at one worker, those in its entities' mailboxes included. 65,536
    /// by default, some ten milliseconds' work; from 1 to 16,777,216. Beyond it commands are refused as busy before they are
    /// queued, so they can be sent again safely.
    pub inbox: usize,
    /// How many commands one entity handles before others of its worker run. 64 by default: enough
    /// to amortise the change, few enough to be fair; from 1 to 65,536. The rest waits for the
    /// entity's next turn.
    pub messages_per_turn: usize,
    /// How long one entity may handle commands before others run. 500 µs by default, so that a
    /// thousand busy entities wait half a second at most; from 1 µs to 1 s. It is checked between
    /// commands: a single handler is never interrupted.
    #[serde(deserialize_with = "value::duration")]
    pub turn_budget: Duration,
    /// How long a worker that has nothing to do looks for something new before its thread sleeps,
    /// which spares whoever sends next the time that a thread takes to wake up. 0, the default, lets
    /// it sleep at once; up to 1 ms. It costs a processor for as long after every pause, which others
    /// may need more, and has no effect on a machine with one processor. `docs/benchmarks.md` tells
    /// what it gives and takes.
    #[serde(deserialize_with = "value::duration")]
    pub spin_before_park: Duration,
    /// How long a task that waits for an answer looks for it before it yields its thread. 0, the
    /// default, yields at once; up to 1 ms. Other tasks of that thread wait meanwhile. It has no
    /// effect on a machine with one processor.
    #[serde(deserialize_with = "value::duration")]
    pub spin_before_yield: Duration,
    /// From when on a handler is named in a warning, as it holds up all entities of its worker.
    /// 50 ms by default; from 1 µs to an hour. Nothing but the warning happens.
    #[serde(deserialize_with = "value::duration")]
    pub slow_handler: Duration,
    /// After how long a handler that has not returned counts as stuck: its worker is named in an error
    /// with the actor or entity whose code runs, as nothing else of that worker goes on, and once
    /// more when it does. 5 s by default; from 10 ms to a day. It is noticed up to a quarter of this
    /// time later. 0 turns it off.
    #[serde(deserialize_with = "value::duration")]
    pub stuck_after: Duration,
    /// How often it is looked whether a busy worker is to give slices to another one. 1 s by default;
    /// from 10 ms to an hour. A worker gives slices away that was busy for seven tenths of three such
    /// intervals in a row, and for a fifth more of them than another one. 0 turns it off.
    #[serde(deserialize_with = "value::duration")]
    pub rebalance_interval: Duration,
    /// How many slices a worker gives away at once. 32 by default; from 1 to 1,024.
    pub rebalance_slices: usize,
    /// How many threads run the work of `blocking`. 64 by default; from 1 to 4,096. What would need one
    /// more waits until one is free, and `later-limit` bounds how much may wait. A thread that was
    /// idle for ten seconds ends.
    pub blocking_threads: usize,
    /// How many futures of `later` may be open at once in the system; each worker has an even share
    /// of them, rounded up. 1,024 by default; from 1 to 1,048,576. A command that would open one
    /// more is refused as busy.
    pub later_limit: usize,
    /// How long a future of `later` may take unless it says so itself. 60 s by default; from 1 ms
    /// to a day. It is then dropped, and the caller is told that the outcome is unknown; work on a
    /// blocking thread goes on to its end.
    #[serde(deserialize_with = "value::duration")]
    pub later_timeout: Duration,
    /// How many dead letters of plain actors, which are messages that were accepted and are not
    /// handled, are named in the log in each interval. 10 by default; from 0, which names none, to
    /// 1,000,000. The rest is counted, and its number stands in the next line.
    pub dead_letter_log_lines: u64,
    /// How long an interval for the log of dead letters is. 10 s by default; from 1 ms to a day.
    #[serde(deserialize_with = "value::duration")]
    pub dead_letter_log_interval: Duration,
    /// How long an orderly shutdown waits for commands and writes under way, and then for the store
    /// to close. 30 s by default; from 1 ms to a day. What is not done by then is abandoned, and its callers are told so; nothing
    /// acknowledged is lost.
    #[serde(deserialize_with = "value::duration")]
    pub shutdown_timeout: Duration,
    /// What the recorder of the crate `metrics` is told, if the program has installed one before the
    /// system starts. `Counts` by default, which costs no message anything.
    pub metrics: MetricsLevel,
    /// How often what is counted is told. 1 s by default; from 100 ms to an hour. Gauges show what
    /// was then.
    #[serde(deserialize_with = "value::duration")]
    pub metrics_interval: Duration,
    /// With `Timings`, one of so many messages is timed. 64 by default, so that the clock costs next
    /// to nothing; from 1 to 1,000,000. Which ones is left to chance.
    pub metrics_sample: u32,
}

/// What is told in metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum MetricsLevel {
    /// Nothing but what circuit breakers tell.
    Off,
    /// What is counted anyway: queues, actors, entities, failures, refusals.
    #[default]
    Counts,
    /// Besides, how long messages wait and how long they are handled, of a sample.
    Timings,
}

impl Default for SystemConfig {
    fn default() -> Self {
        Self {
            name: "perennial".to_owned(),
            workers: 0,
            ask_timeout: Duration::from_secs(5),
            inbox: 65_536,
            messages_per_turn: 64,
            turn_budget: Duration::from_micros(500),
            spin_before_park: Duration::ZERO,
            spin_before_yield: Duration::ZERO,
            slow_handler: Duration::from_millis(50),
            stuck_after: Duration::from_secs(5),
            rebalance_interval: Duration::from_secs(1),
            rebalance_slices: 32,
            blocking_threads: 64,
            later_limit: 1024,
            later_timeout: Duration::from_secs(60),
            dead_letter_log_lines: 10,
            dead_letter_log_interval: Duration::from_secs(10),
            shutdown_timeout: Duration::from_secs(30),
            metrics: MetricsLevel::Counts,
            metrics_interval: Duration::from_secs(1),
            metrics_sample: 64,
        }
    }
}

impl SystemConfig {
    /// Reads the section `[system]`.
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
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if !(1..=64).contains(&self.name.len()) || !self.name.chars().all(is_allowed) {
            return Err(Violation {
                key: "name",
                other: None,
                value: format!("{:?}", self.name),
                message: "must be 1 to 64 ASCII letters, digits, `-` and `_`".to_owned(),
            });
        }
        let microsecond = Duration::from_micros(1);
        within("workers", self.workers, 0..=1024)?;
        within("ask-timeout", self.ask_timeout, MILLISECOND..=DAY)?;
        within("inbox", self.inbox, 1..=16_777_216)?;
        within("messages-per-turn", self.messages_per_turn, 1..=65_536)?;
        within(
            "turn-budget",
            self.turn_budget,
            microsecond..=Duration::from_secs(1),
        )?;
        for (key, spin) in [
            ("spin-before-park", self.spin_before_park),
            ("spin-before-yield", self.spin_before_yield),
        ] {
            within(key, spin, Duration::ZERO..=MILLISECOND)?;
        }
        within("slow-handler", self.slow_handler, microsecond..=HOUR)?;
        if !self.stuck_after.is_zero() {
            let shortest = Duration::from_millis(10);
            within("stuck-after", self.stuck_after, shortest..=DAY)?;
        }
        if !self.rebalance_interval.is_zero() {
            let shortest = Duration::from_millis(10);
            within(
                "rebalance-interval",
                self.rebalance_interval,
                shortest..=HOUR,
            )?;
        }
        within("rebalance-slices", self.rebalance_slices, 1..=1024)?;
        within("blocking-threads", self.blocking_threads, 1..=4096)?;
        within("later-limit", self.later_limit, 1..=1_048_576)?;
        within("later-timeout", self.later_timeout, MILLISECOND..=DAY)?;
        within(
            "dead-letter-log-lines",
            self.dead_letter_log_lines,
            0..=1_000_000,
        )?;
        within(
            "dead-letter-log-interval",
            self.dead_letter_log_interval,
            MILLISECOND..=DAY,
        )?;
        within("shutdown-timeout", self.shutdown_timeout, MILLISECOND..=DAY)?;
        within(
            "metrics-interval",
            self.metrics_interval,
            Duration::from_millis(100)..=HOUR,
        )?;
        within("metrics-sample", self.metrics_sample, 1..=1_000_000)
    }

    with_methods! {
        with_name => name: String,
        with_workers => workers: usize,
        with_ask_timeout => ask_timeout: Duration,
        with_inbox => inbox: usize,
        with_messages_per_turn => messages_per_turn: usize,
        with_turn_budget => turn_budget: Duration,
        with_spin_before_park => spin_before_park: Duration,
        with_spin_before_yield => spin_before_yield: Duration,
        with_slow_handler => slow_handler: Duration,
        with_stuck_after => stuck_after: Duration,
        with_rebalance_interval => rebalance_interval: Duration,
        with_rebalance_slices => rebalance_slices: usize,
        with_blocking_threads => blocking_threads: usize,
        with_later_limit => later_limit: usize,
        with_later_timeout => later_timeout: Duration,
        with_dead_letter_log_lines => dead_letter_log_lines: u64,
        with_dead_letter_log_interval => dead_letter_log_interval: Duration,
        with_shutdown_timeout => shutdown_timeout: Duration,
        with_metrics => metrics: MetricsLevel,
        with_metrics_interval => metrics_interval: Duration,
        with_metrics_sample => metrics_sample: u32,
    }
}

fn section() -> Path {
    Path::of_keys(["system"])
}
