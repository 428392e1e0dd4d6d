//! The section `[persistence]`, and the choice of a plugin.

use std::time::Duration;

use serde::Deserialize;

use super::error::ConfigError;
use super::source::ConfigSource;
use super::suggest;
use super::tree::{Path, shown_text};
use super::value::{
    self, Bytes, DAY, HOUR, KIB, MIB, MILLISECOND, SECOND, Violation, in_order, within,
};

/// A store that the project provides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plugin {
    /// Its name in the configuration.
    pub name: &'static str,
    /// The cargo feature of the crate `perennial` that links it in.
    pub feature: &'static str,
}

/// Every store that the project provides, linked in or not.
pub const PLUGINS: [Plugin; 3] = [
    Plugin {
        name: "sqlite",
        feature: "sqlite",
    },
    Plugin {
        name: "postgres",
        feature: "postgres",
    },
    Plugin {
        name: "memory",
        feature: "testkit",
    },
];

/// What holds for every store: the section `[persistence]`.
///
/// A store's own settings stand in a section below it, such as `[persistence.postgres]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
#[non_exhaustive]
pub struct PersistenceConfig {
    /// Which store is used. "sqlite" by default, as it needs no server; the names are those of
    /// [`PLUGINS`] and of plugins that the program brings itself.
    pub plugin: String,
    /// How many threads drive the store's connections. 1 by default, as they mostly wait; from 1
    /// to 256.
    pub threads: usize,
    /// How many entities may be recovering at once in the system; each worker has an even share of
    /// them, rounded up. 256 by default, enough to keep the connections busy; from 1 to 65,536. The
    /// others wait for a permit, those with waiting
    /// callers first.
    pub recoveries: usize,
    /// How many events are read at once while an entity recovers. 500 by default; from 1 to
    /// 100,000. Longer histories come in several such pages.
    pub replay_rows: usize,
    /// How many bytes of events are read at once while an entity recovers. 1 MiB by default; from
    /// 1 KiB to 256 MiB. The event that reaches this is the last of its page, so a page can be
    /// larger by one event; the next page is read while one is applied.
    #[serde(deserialize_with = "value::byte_size")]
    pub replay_bytes: usize,
    /// How many events one batch of writes may hold. 5,000 by default, where a bigger statement
    /// gains nothing; from 1 to 100,000. Further writes go into the next batch; a single write
    /// with more events is a batch of its own.
    pub batch_events: usize,
    /// How many bytes one batch of writes may hold. 8 MiB by default; from 1 KiB to 256 MiB.
    /// Further writes go into the next batch; a single larger write is a batch of its own.
    #[serde(deserialize_with = "value::byte_size")]
    pub batch_bytes: usize,
    /// How many batches each worker may have in flight, each on a connection. 2 by default: while
    /// one batch is answered and the next one gathers, the other keeps the database busy; from 1 to
    /// 64. Further writes gather in the meantime. More of them pay off when a commit takes long, as
    /// over a network, and cost where the processors are busy: the batches become smaller.
    pub writers: usize,
    /// How long a write is tried again that the store could not take or whose outcome is open, such
    /// as after a lost connection. 30 s by default; from 1 ms to a day. Then its callers are told
    /// that it failed if it certainly was not stored, and that the outcome is unknown otherwise;
    /// the entity recovers.
    #[serde(deserialize_with = "value::duration")]
    pub outcome_timeout: Duration,
    /// The wait before the first new attempt of a failed call. 50 ms by default; from 1 ms to an
    /// hour, and not above `retry-max`. Each further wait is twice as long, and chance takes up to a half off.
    #[serde(deserialize_with = "value::duration")]
    pub retry_min: Duration,
    /// The longest wait between two attempts. 2 s by default, so that a server that is back is
    /// found soon; from 1 ms to an hour.
    #[serde(deserialize_with = "value::duration")]
    pub retry_max: Duration,
    /// How many calls of the store in a row may fail before it counts as down; 10 by default, a
    /// second or two of an outage; from 0 to 1,000,000, and 0 never. Then commands that need it are
    /// refused as busy until one call, made every `breaker-reset`, has succeeded. Each worker counts
    /// for itself.
    pub breaker_failures: u64,
    /// A call of the store that takes longer counts as failed, once for each time that this passes.
    /// 10 s by default; from 1 ms to a day.
    #[serde(deserialize_with = "value::duration")]
    pub breaker_slow_call: Duration,
    /// How long nothing is sent to a store that counts as down before one call finds out whether it
    /// is back. 2 s by default, so that this is found soon; from 1 ms to a day.
    #[serde(deserialize_with = "value::duration")]
    pub breaker_reset: Duration,
    /// How many events one command may persist. 999 by default: a Pekko reader pages by 1,000
    /// rows and stalls at that many with one timestamp; from 1 to 100,000. A command that persists
    /// more is refused, and nothing of it is stored.
    pub max_events_per_write: usize,
    /// How large one encoded event may be. 16 MiB by default; from 1 KiB to 256 MiB. A command
    /// that persists a larger one is refused, and nothing of it is stored.
    #[serde(deserialize_with = "value::byte_size")]
    pub max_event_bytes: usize,
    /// How far ahead of their time reminders are read. 1 min by default; from 1 s to a day. Reading
    /// goes on when half of it is over, so a reminder that another program has written, or taken
    /// back, is noticed by then.
    #[serde(deserialize_with = "value::duration")]
    pub reminder_window: Duration,
    /// How many reminders are kept ready in memory by the system; each worker has an even share of
    /// them, rounded up. 10,000 by default; from 1 to 10,000,000. Further ones are read when half of
    /// them are over. Those that fail keep their place until they succeed.
    pub reminders_ahead: usize,
    /// How many reminders of the system are being handled at once; each worker has an even share of
    /// them, rounded up. 256 by default; from 1 to 65,536. Further ones that are due wait.
    pub reminders_at_once: usize,
}

impl Default for PersistenceConfig {
    fn default() -> Self {
        Self {
            plugin: "sqlite".to_owned(),
            threads: 1,
            recoveries: 256,
            replay_rows: 500,
            replay_bytes: MIB,
            batch_events: 5000,
            batch_bytes: 8 * MIB,
            writers: 2,
            outcome_timeout: Duration::from_secs(30),
            retry_min: Duration::from_millis(50),
            retry_max: Duration::from_secs(2),
            breaker_failures: 10,
            breaker_slow_call: Duration::from_secs(10),
            breaker_reset: Duration::from_secs(2),
            max_events_per_write: 999,
            max_event_bytes: 16 * MIB,
            reminder_window: Duration::from_secs(60),
            reminders_ahead: 10_000,
            reminders_at_once: 256,
        }
    }
}

impl PersistenceConfig {
    /// Reads the section `[persistence]`, without those of the stores.
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

    /// Checks that the chosen plugin is one of those `linked` into the program.
    ///
    /// It also lets the sections of the other plugins stand in the file unread, so that one file
    /// can hold the settings of several.
    ///
    /// # Errors
    /// [`ConfigError`] with the nearest name if there is no such plugin, or with the cargo feature
    /// to enable if there is.
    pub fn check_plugin(&self, source: &ConfigSource, linked: &[&str]) -> Result<(), ConfigError> {
        self.check_plugins(source, linked, &[])
    }

    /// As [`PersistenceConfig::check_plugin`], with the plugins that entity types name for
    /// themselves, each with the entity type's name. The sections of plugins that nobody names may
    /// stand there for another day.
    pub(crate) fn check_plugins(
        &self,
        source: &ConfigSource,
        linked: &[&str],
        of_entities: &[(&str, &str)],
    ) -> Result<(), ConfigError> {
        let known = linked
            .iter()
            .copied()
            .chain(PLUGINS.map(|plugin| plugin.name));
        let is_used = |name: &str| {
            name == self.plugin || of_entities.iter().any(|&(_, plugin)| plugin == name)
        };
        for name in known.filter(|name| !is_used(name)) {
            source.ignore_section_at(section().key(name));
        }
        check_linked(source, &section().key("plugin"), &self.plugin, linked)?;
        for (entity_type, plugin) in of_entities {
            let key = Path::of_keys(["entity", entity_type, "plugin"]);
            check_linked(source, &key, plugin, linked)?;
        }
        Ok(())
    }

    fn violation(&self) -> Result<(), Violation> {
        let sizes = Bytes(KIB)..=Bytes(256 * MIB);
        within("threads", self.threads, 1..=256)?;
        within("recoveries", self.recoveries, 1..=65_536)?;
        within("replay-rows", self.replay_rows, 1..=100_000)?;
        within("replay-bytes", Bytes(self.replay_bytes), sizes.clone())?;
        within("batch-events", self.batch_events, 1..=100_000)?;
        within("batch-bytes", Bytes(self.batch_bytes), sizes.clone())?;
        within("writers", self.writers, 1..=64)?;
        within("outcome-timeout", self.outcome_timeout, MILLISECOND..=DAY)?;
        within("retry-min", self.retry_min, MILLISECOND..=HOUR)?;
        within("retry-max", self.retry_max, MILLISECOND..=HOUR)?;
        in_order(("retry-min", self.retry_min), ("retry-max", self.retry_max))?;
        within("breaker-failures", self.breaker_failures, 0..=1_000_000)?;
        within(
            "breaker-slow-call",
            self.breaker_slow_call,
            MILLISECOND..=DAY,
        )?;
        within("breaker-reset", self.breaker_reset, MILLISECOND..=DAY)?;
        within(
            "max-events-per-write",
            self.max_events_per_write,
            1..=100_000,
        )?;
        within("max-event-bytes", Bytes(self.max_event_bytes), sizes)?;
        within("reminder-window", self.reminder_window, SECOND..=DAY)?;
        within("reminders-ahead", self.reminders_ahead, 1..=10_000_000)?;
        within("reminders-at-once", self.reminders_at_once, 1..=65_536)
    }

    with_methods! {
        with_plugin => plugin: String,
        with_threads => threads: usize,
        with_recoveries => recoveries: usize,
        with_replay_rows => replay_rows: usize,
        with_replay_bytes => replay_bytes: usize,
        with_batch_events => batch_events: usize,
        with_batch_bytes => batch_bytes: usize,
        with_writers => writers: usize,
        with_outcome_timeout => outcome_timeout: Duration,
        with_retry_min => retry_min: Duration,
        with_retry_max => retry_max: Duration,
        with_breaker_failures => breaker_failures: u64,
        with_breaker_slow_call => breaker_slow_call: Duration,
        with_breaker_reset => breaker_reset: Duration,
        with_max_events_per_write => max_events_per_write: usize,
        with_max_event_bytes => max_event_bytes: usize,
        with_reminder_window => reminder_window: Duration,
        with_reminders_ahead => reminders_ahead: usize,
        with_reminders_at_once => reminders_at_once: usize,
    }
}

fn section() -> Path {
    Path::of_keys(["persistence"])
}

/// Checks that the plugin which a key names is linked in.
fn check_linked(
    source: &ConfigSource,
    key: &Path,
    plugin: &str,
    linked: &[&str],
) -> Result<(), ConfigError> {
    if linked.contains(&plugin) {
        return Ok(());
    }
    let refused = |reason: &str| {
        let shown = shown_text(plugin);
        let in_effect = Some((shown.as_str(), source.unset()));
        source.invalid_at(key, in_effect, reason)
    };
    let known = linked
        .iter()
        .copied()
        .chain(PLUGINS.map(|plugin| plugin.name));
    let linked = match linked {
        [] => "No plugin is linked in".to_owned(),
        names => format!("Linked in: {}", names.join(", ")),
    };
    let provided = PLUGINS.iter().find(|provided| provided.name == plugin);
    if let Some(Plugin { feature, .. }) = provided {
        return Err(refused("this plugin is not linked in").with_hint(format!(
            "enable the cargo feature `{feature}` of the crate perennial. {linked}"
        )));
    }
    let error = refused("no such plugin");
    Err(match suggest::nearest(plugin, known) {
        Some(name) => error.with_hint(format!("did you mean {name:?}? {linked}")),
        None => error.with_hint(format!(
            "the plugins are {}. {linked}",
            PLUGINS
                .map(|plugin| format!("{:?}", plugin.name))
                .join(", ")
        )),
    })
}
