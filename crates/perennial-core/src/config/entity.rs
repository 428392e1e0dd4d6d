//! The sections `[entity.<Type>]`.

use std::time::Duration;

use serde::Deserialize;

use super::error::ConfigError;
use super::source::ConfigSource;
use super::tree::Path;
use super::value::{self, DAY, MILLISECOND, Violation, in_order, within};

/// The settings of one entity type, made in code and overridden by `[entity.<Type>]`.
///
/// ```
/// use std::time::Duration;
/// use perennial_core::config::EntityConfig;
///
/// let config = EntityConfig::default()
///     .with_passivate_after(Some(Duration::from_secs(600)))
///     .with_snapshot_every(500);
/// assert!(config.check("Account").is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EntityConfig {
    /// The plugin whose store keeps the entities of this type. `None`, the default, is the system's
    /// own, `persistence.plugin`. Events that another store has are not moved.
    pub plugin: Option<String>,
    /// How long an entity stays in memory at least without a command; it leaves before twice that
    /// time. 2 min by default, from 1 ms to 30 days; `None`, in a file "never", keeps it for as
    /// long as the system runs. One with something open stays: a write, a stashed command, a
    /// future, a snapshot being saved. A passivated entity recovers at its next command.
    pub passivate_after: Option<Duration>,
    /// How many entities of this type may be in memory in the whole system. 0, the default, sets no
    /// limit; at most 100,000,000. Each worker has an even share, rounded up and at least 1, whatever
    /// the slices of its entities are. When another one comes, one that has nothing to do leaves, as
    /// `replacement` says. Those that have something open cannot leave, as for `passivate_after`,
    /// nor can those that are still being brought back: while they alone are too many, the limit is
    /// exceeded, and whoever of them is done first leaves at once. [`ActorSystem::entities`] tells by
    /// how many.
    ///
    /// [`ActorSystem::entities`]: crate::ActorSystem::entities
    pub entity_limit: usize,
    /// Who leaves when `entity_limit` is reached. [`Replacement::Segmented`] by default.
    pub replacement: Replacement,
    /// How much of the limit, in percent, may be taken by entities that were used again while they
    /// were in memory, before those of them that were not used for longest count as the others do.
    /// 80 by default; from 0 to 99. Of no effect on [`Replacement::LeastRecentlyUsed`].
    pub protected_percent: u32,
    /// How long an entity may take for the end that it was given by
    /// [`Entity::on_passivate`](crate::Entity::on_passivate). 10 s by default; from 1 ms to a day.
    /// Then it is ended all the same; a write that is under way is still awaited.
    pub stop_timeout: Duration,
    /// A snapshot is taken when the number of events passes a multiple of this, and after a
    /// recovery that replayed as many. 0, the default, takes none, as replaying a short history is
    /// cheap; at most 1,000,000,000. One that is due while another is being saved is passed over.
    pub snapshot_every: u64,
    /// How many intervals of `snapshot_every` events stay behind a snapshot when events are deleted.
    /// 1 by default; from 0, which leaves none that the snapshot covers, to 1,000,000.
    pub keep_snapshots: u64,
    /// Whether the events up to `keep_snapshots` intervals before a snapshot are deleted once it is
    /// saved. Off by default; projections miss what they had not read by then.
    pub delete_events: bool,
    /// How long a recovery waits for an answer of the store. 30 s by default; from 1 ms to a day.
    /// Then the recovery has failed, its commands are refused, and it begins anew after
    /// `restart_min` or more. A store that says that it is unavailable is asked again without that.
    pub recovery_timeout: Duration,
    /// How many commands may wait at one entity. 4,096 by default; from 1 to 1,048,576. Beyond it
    /// commands are refused as busy.
    pub mailbox: usize,
    /// How many commands one entity may put aside. 1,024 by default; from 0 to 1,048,576. A
    /// command that would be stashed beyond it is refused as busy.
    pub stash: usize,
    /// How many commands with an id are known together with their replies, the latest of each
    /// entity. 1,000 by default; from 1 to 100,000. One that is sent again after that is a new one.
    /// They are read at once by an entity's first command with an id, and stay in memory with it.
    pub command_window: usize,
    /// How long a command with an id is known. 24 h by default; from 1 ms to 30 days.
    pub command_window_age: Duration,
    /// How many commands may be handled ahead of their writes. 1,024 by default, so that a hot
    /// entity fills whole batches; from 1 to 65,536. 1 turns it off: each command then waits for
    /// the write of the one before. Further commands wait in the mailbox.
    pub pipeline: usize,
    /// The wait before an entity that panicked or could not recover starts again. 200 ms by
    /// default; from 1 ms to a day, and not above `restart_max`. Each further failure in a row
    /// doubles it, and chance takes up to a half off. Commands wait meanwhile; those of an entity
    /// that could not recover are refused.
    pub restart_min: Duration,
    /// The longest wait before an entity that keeps failing starts again. 30 s by default; from
    /// 1 ms to a day. One that has run for as long begins anew with `restart_min`.
    pub restart_max: Duration,
}

/// Which entity leaves memory when there are more of its type than may be. Only those that have
/// nothing to do can, and none loses anything by it: its next command brings it back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Replacement {
    /// The one that has been idle for longest. Commands to very many entities, one to each, push
    /// out everything else.
    LeastRecentlyUsed,
    /// The one that has been idle for longest of those that were not used again since they came, and
    /// of the others only when they are more than `protected-percent` says. Those that come for one
    /// command push out nobody that is used again and again.
    #[default]
    Segmented,
    /// As segmented, and in addition whoever comes stays only if it was used more often lately than
    /// the one that would have to leave for it, in memory or not. How often is estimated, with about
    /// eight bytes per entity of the limit. One percent of the limit, at least 1, is a window in which
    /// whoever comes has time to be used again. The best one where a few entities have most of the
    /// commands; what is new has a harder time than with the others.
    Frequency,
}

/// What `[entity.<Type>]` says: each setting of [`EntityConfig`] that it overrides.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
#[non_exhaustive]
pub struct EntityOverrides {
    /// Overrides [`EntityConfig::plugin`].
    pub plugin: Option<String>,
    /// Overrides [`EntityConfig::passivate_after`]; `Some(None)` is "never".
    #[serde(deserialize_with = "value::some_duration_or_never")]
    pub passivate_after: Option<Option<Duration>>,
    /// Overrides [`EntityConfig::entity_limit`].
    pub entity_limit: Option<usize>,
    /// Overrides [`EntityConfig::replacement`].
    pub replacement: Option<Replacement>,
    /// Overrides [`EntityConfig::protected_percent`].
    pub protected_percent: Option<u32>,
    /// Overrides [`EntityConfig::stop_timeout`].
    #[serde(deserialize_with = "value::some_duration")]
    pub stop_timeout: Option<Duration>,
    /// Overrides [`EntityConfig::snapshot_every`].
    pub snapshot_every: Option<u64>,
    /// Overrides [`EntityConfig::keep_snapshots`].
    pub keep_snapshots: Option<u64>,
    /// Overrides [`EntityConfig::delete_events`].
    pub delete_events: Option<bool>,
    /// Overrides [`EntityConfig::recovery_timeout`].
    #[serde(deserialize_with = "value::some_duration")]
    pub recovery_timeout: Option<Duration>,
    /// Overrides [`EntityConfig::mailbox`].
    pub mailbox: Option<usize>,
    /// Overrides [`EntityConfig::stash`].
    pub stash: Option<usize>,
    /// Overrides [`EntityConfig::command_window`].
    pub command_window: Option<usize>,
    /// Overrides [`EntityConfig::command_window_age`].
    #[serde(deserialize_with = "value::some_duration")]
    pub command_window_age: Option<Duration>,
    /// Overrides [`EntityConfig::pipeline`].
    pub pipeline: Option<usize>,
    /// Overrides [`EntityConfig::restart_min`].
    #[serde(deserialize_with = "value::some_duration")]
    pub restart_min: Option<Duration>,
    /// Overrides [`EntityConfig::restart_max`].
    #[serde(deserialize_with = "value::some_duration")]
    pub restart_max: Option<Duration>,
}

impl Default for EntityConfig {
    fn default() -> Self {
        Self {
            plugin: None,
            passivate_after: Some(Duration::from_secs(120)),
            entity_limit: 0,
            replacement: Replacement::Segmented,
            protected_percent: 80,
            stop_timeout: Duration::from_secs(10),
            snapshot_every: 0,
            keep_snapshots: 1,
            delete_events: false,
            recovery_timeout: Duration::from_secs(30),
            mailbox: 4096,
            stash: 1024,
            command_window: 1000,
            command_window_age: DAY,
            pipeline: 1024,
            restart_min: Duration::from_millis(200),
            restart_max: Duration::from_secs(30),
        }
    }
}

impl EntityConfig {
    /// Reads the section of an entity type and applies it on top of what was set in code.
    ///
    /// # Errors
    /// [`ConfigError`] for an unknown key, a wrong type, or a value out of its range in the file
    /// or in `in_code`.
    pub fn read(
        source: &ConfigSource,
        entity_type: &str,
        in_code: Self,
    ) -> Result<Self, ConfigError> {
        let section = section(entity_type);
        let overrides: EntityOverrides = source.section_at(&section)?;
        let config = overrides.apply_to(in_code);
        match config.violation() {
            Ok(()) => Ok(config),
            Err(violation) => Err(source.violated(&section, &violation)),
        }
    }

    /// Checks the ranges, for settings made in code.
    ///
    /// # Errors
    /// [`ConfigError`] for the first value out of its range.
    pub fn check(&self, entity_type: &str) -> Result<(), ConfigError> {
        self.violation()
            .map_err(|violation| ConfigSource::empty().violated(&section(entity_type), &violation))
    }

    fn violation(&self) -> Result<(), Violation> {
        if let Some(passivate_after) = self.passivate_after {
            let longest = 30 * DAY;
            within("passivate-after", passivate_after, MILLISECOND..=longest).map_err(
                |violation| Violation {
                    message: format!("{}, or \"never\"", violation.message),
                    ..violation
                },
            )?;
        }
        within("entity-limit", self.entity_limit, 0..=100_000_000)?;
        within("protected-percent", self.protected_percent, 0..=99)?;
        within("stop-timeout", self.stop_timeout, MILLISECOND..=DAY)?;
        within("snapshot-every", self.snapshot_every, 0..=1_000_000_000)?;
        within("keep-snapshots", self.keep_snapshots, 0..=1_000_000)?;
        within("recovery-timeout", self.recovery_timeout, MILLISECOND..=DAY)?;
        within("mailbox", self.mailbox, 1..=1_048_576)?;
        within("stash", self.stash, 0..=1_048_576)?;
        within("command-window", self.command_window, 1..=100_000)?;
        within(
            "command-window-age",
            self.command_window_age,
            MILLISECOND..=30 * DAY,
        )?;
        within("pipeline", self.pipeline, 1..=65_536)?;
        within("restart-min", self.restart_min, MILLISECOND..=DAY)?;
        within("restart-max", self.restart_max, MILLISECOND..=DAY)?;
        in_order(
            ("restart-min", self.restart_min),
            ("restart-max", self.restart_max),
        )
    }

    with_methods! {
        with_plugin => plugin: Option<String>,
        with_passivate_after => passivate_after: Option<Duration>,
        with_entity_limit => entity_limit: usize,
        with_replacement => replacement: Replacement,
        with_protected_percent => protected_percent: u32,
        with_stop_timeout => stop_timeout: Duration,
        with_snapshot_every => snapshot_every: u64,
        with_keep_snapshots => keep_snapshots: u64,
        with_delete_events => delete_events: bool,
        with_recovery_timeout => recovery_timeout: Duration,
        with_mailbox => mailbox: usize,
        with_stash => stash: usize,
        with_command_window => command_window: usize,
        with_command_window_age => command_window_age: Duration,
        with_pipeline => pipeline: usize,
        with_restart_min => restart_min: Duration,
        with_restart_max => restart_max: Duration,
    }
}

impl EntityOverrides {
    /// The settings with those overridden that the file names. Ranges are not checked.
    #[must_use]
    pub fn apply_to(&self, config: EntityConfig) -> EntityConfig {
        EntityConfig {
            plugin: self.plugin.clone().or(config.plugin),
            passivate_after: self.passivate_after.unwrap_or(config.passivate_after),
            entity_limit: self.entity_limit.unwrap_or(config.entity_limit),
            replacement: self.replacement.unwrap_or(config.replacement),
            protected_percent: self.protected_percent.unwrap_or(config.protected_percent),
            stop_timeout: self.stop_timeout.unwrap_or(config.stop_timeout),
            snapshot_every: self.snapshot_every.unwrap_or(config.snapshot_every),
            keep_snapshots: self.keep_snapshots.unwrap_or(config.keep_snapshots),
            delete_events: self.delete_events.unwrap_or(config.delete_events),
            recovery_timeout: self.recovery_timeout.unwrap_or(config.recovery_timeout),
            mailbox: self.mailbox.unwrap_or(config.mailbox),
            stash: self.stash.unwrap_or(config.stash),
            command_window: self.command_window.unwrap_or(config.command_window),
            command_window_age: self.command_window_age.unwrap_or(config.command_window_age),
            pipeline: self.pipeline.unwrap_or(config.pipeline),
            restart_min: self.restart_min.unwrap_or(config.restart_min),
            restart_max: self.restart_max.unwrap_or(config.restart_max),
        }
    }
}

fn section(entity_type: &str) -> Path {
    Path::of_keys(["entity", entity_type])
}
