//! What can be set.

use std::path::PathBuf;
use std::time::Duration;

use perennial_persistence::{DurableStateDelete, OpenError, SchemaCheck};
use serde::{Deserialize, Serialize};

/// The settings of a [`Sqlite`](crate::Sqlite) store, the section `[persistence.sqlite]`.
///
/// ```
/// use std::time::Duration;
/// use perennial_sqlite::{Config, Synchronous};
///
/// let config = Config::default()
///     .with_path("bank.sqlite")
///     .with_busy_timeout(Duration::from_secs(10));
/// assert_eq!(config.synchronous, Synchronous::Full);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[non_exhaustive]
pub struct Config {
    /// The file, relative to the working directory. SQLite keeps two more beside it while it is
    /// open, with `-wal` and `-shm` appended; the three belong together.
    ///
    /// Default `perennial.sqlite`.
    pub path: PathBuf,

    /// What to do about tables at the start. With `verify` and `off` a missing file is an error.
    ///
    /// Default `create`, so that a new program starts without preparations.
    pub schema_check: SchemaCheck,

    /// What deleting a durable state leaves in its table: `marker`, a row with the next revision and
    /// no state, or `row`, nothing, for tables that are shared with Pekko 1.x.
    ///
    /// Default `marker`, so that a writer that does not know of the deletion is refused.
    pub durable_state_delete: DurableStateDelete,

    /// When the disk is told to flush.
    ///
    /// Default `full`, so that an acknowledged event survives a power failure.
    pub synchronous: Synchronous,

    /// How long to wait for a lock that another process holds, as text such as `"5s"`; then the
    /// call fails as unavailable. At most 24 days, the most that SQLite can count.
    ///
    /// Default 5 s: longer than any write of a well-behaved program, shorter than people wait.
    #[serde(with = "duration_text")]
    pub busy_timeout: Duration,

    /// How many threads read, each with a connection of its own, 1 to 64.
    ///
    /// Default 2: recovery is bound by the processor once the pages are in memory, and more
    /// threads would take it from the actors.
    pub readers: usize,

    /// How many calls may wait for the writing thread, and as many for the reading ones, from 1
    /// on. Further calls wait before they are queued, which costs their callers time and the store
    /// no memory.
    ///
    /// Default 1,024.
    pub waiting_calls: usize,

    /// How many events a transaction gathers from the calls that wait, from 1 on. A single call
    /// is never split, however many it has.
    ///
    /// Default 10,000: from there on a flush costs little beside the rows, and those who wait
    /// would only wait longer.
    pub transaction_events: usize,

    /// The most memory for pages of the file, in bytes for each connection, 65,536 to
    /// 1,099,511,627,776. It is taken as pages are read.
    ///
    /// Default 16 MiB: the inner pages of the indexes of some ten million events.
    pub cache_bytes: u64,

    /// A transaction or read that takes longer is logged as a warning, as text such as `"1s"`.
    ///
    /// Default 1 s.
    #[serde(with = "duration_text")]
    pub slow_call: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            path: PathBuf::from("perennial.sqlite"),
            schema_check: SchemaCheck::Create,
            durable_state_delete: DurableStateDelete::Marker,
            synchronous: Synchronous::Full,
            busy_timeout: Duration::from_secs(5),
            readers: 2,
            waiting_calls: 1_024,
            transaction_events: 10_000,
            cache_bytes: 16 << 20,
            slow_call: Duration::from_secs(1),
        }
    }
}

impl Config {
    /// Sets [`Config::path`].
    #[must_use]
    pub fn with_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.path = path.into();
        self
    }

    /// Sets [`Config::schema_check`].
    #[must_use]
    pub fn with_schema_check(mut self, schema_check: SchemaCheck) -> Self {
        self.schema_check = schema_check;
        self
    }

    /// Sets [`Config::durable_state_delete`].
    #[must_use]
    pub fn with_durable_state_delete(mut self, durable_state_delete: DurableStateDelete) -> Self {
        self.durable_state_delete = durable_state_delete;
        self
    }

    /// Sets [`Config::synchronous`].
    #[must_use]
    pub fn with_synchronous(mut self, synchronous: Synchronous) -> Self {
        self.synchronous = synchronous;
        self
    }

    /// Sets [`Config::busy_timeout`].
    #[must_use]
    pub fn with_busy_timeout(mut self, busy_timeout: Duration) -> Self {
        self.busy_timeout = busy_timeout;
        self
    }

    /// Sets [`Config::readers`].
    #[must_use]
    pub fn with_readers(mut self, readers: usize) -> Self {
        self.readers = readers;
        self
    }

    /// Sets [`Config::waiting_calls`].
    #[must_use]
    pub fn with_waiting_calls(mut self, waiting_calls: usize) -> Self {
        self.waiting_calls = waiting_calls;
        self
    }

    /// Sets [`Config::transaction_events`].
    #[must_use]
    pub fn with_transaction_events(mut self, transaction_events: usize) -> Self {
        self.transaction_events = transaction_events;
        self
    }

    /// Sets [`Config::cache_bytes`].
    #[must_use]
    pub fn with_cache_bytes(mut self, cache_bytes: u64) -> Self {
        self.cache_bytes = cache_bytes;
        self
    }

    /// Sets [`Config::slow_call`].
    #[must_use]
    pub fn with_slow_call(mut self, slow_call: Duration) -> Self {
        self.slow_call = slow_call;
        self
    }

    /// Checks what can be checked without opening the store, which does it as well.
    ///
    /// # Errors
    /// [`OpenError::Config`] for the first setting that makes no sense.
    pub fn check(&self) -> Result<(), OpenError> {
        let refuse = |key, reason: &str| {
            Err(OpenError::Config {
                key,
                reason: reason.to_owned(),
            })
        };
        if self.path.as_os_str().is_empty() {
            return refuse("path", "is empty; write the name of a file");
        }
        if self.path.as_os_str() == ":memory:" {
            return refuse(
                "path",
                "is `:memory:`, which each connection would see as a database of its own; write \
                 the name of a file, or choose the plugin `memory` in tests",
            );
        }
        if self.busy_timeout > MAX_BUSY_TIMEOUT {
            return refuse(
                "busy-timeout",
                "is longer than 24 days; write a shorter time",
            );
        }
        if !(1..=64).contains(&self.readers) {
            return refuse("readers", "is out of range; write a number from 1 to 64");
        }
        if !(1..=MAX_WAITING_CALLS).contains(&self.waiting_calls) {
            return refuse(
                "waiting-calls",
                "is out of range; write a number from 1 to 1000000",
            );
        }
        if self.transaction_events == 0 {
            return refuse("transaction-events", "is 0; write at least 1");
        }
        if !((64 << 10)..=(1 << 40)).contains(&self.cache_bytes) {
            return refuse(
                "cache-bytes",
                "is out of range; write a number from 65536 to 1099511627776",
            );
        }
        Ok(())
    }
}

/// SQLite counts the milliseconds in 31 bits.
const MAX_BUSY_TIMEOUT: Duration = Duration::from_secs(24 * 24 * 60 * 60);

/// Far above what is useful, far below what a channel can count.
const MAX_WAITING_CALLS: usize = 1_000_000;

/// When the disk is told to flush: SQLite's `PRAGMA synchronous` in WAL mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Synchronous {
    /// Now and then. The end of the process loses nothing; a power failure or a crash of the
    /// machine can lose events that were acknowledged. The file stays intact. The store warns.
    Normal,
    /// Before each answer: an acknowledged event survives a power failure.
    #[default]
    Full,
    /// The same as [`Synchronous::Full`] with a write-ahead log; for those whose rules ask for it
    /// by name.
    Extra,
}

/// Durations as people write them: "5s", "1m 30s".
mod duration_text {
    use std::time::Duration;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        duration: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*duration))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        humantime::parse_duration(&text)
            .map_err(|e| D::Error::custom(format!("\"{text}\" is no duration such as \"5s\": {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn keys_are_kebab_case_and_each_has_a_default() {
        let config = parse(
            r#"{"path": "a.sqlite", "schema-check": "verify", "durable-state-delete": "row",
                "synchronous": "normal",
                "busy-timeout": "1m 30s", "readers": 3, "waiting-calls": 4,
                "transaction-events": 5, "cache-bytes": 65536, "slow-call": "20ms"}"#,
        )
        .expect("all keys are known");
        assert_eq!(
            config,
            Config::default()
                .with_path("a.sqlite")
                .with_schema_check(SchemaCheck::Verify)
                .with_durable_state_delete(DurableStateDelete::Row)
                .with_synchronous(Synchronous::Normal)
                .with_busy_timeout(Duration::from_secs(90))
                .with_readers(3)
                .with_waiting_calls(4)
                .with_transaction_events(5)
                .with_cache_bytes(65_536)
                .with_slow_call(Duration::from_millis(20))
        );
        assert_eq!(parse("{}").expect("defaults"), Config::default());
        let text = serde_json::to_string(&config).expect("plain values");
        assert_eq!(parse(&text).expect("its own text"), config);
    }

    #[test]
    fn the_configuration_page_has_every_key() {
        const PAGE: &str = include_str!("../../../docs/configuration.md");

        let (_, section) = PAGE
            .split_once("## `[persistence.sqlite]`")
            .expect("the page has the section");
        let section = section.split("\n##").next().unwrap_or_default();
        // The first two cells of a row: key and default.
        let mut documented = serde_json::Map::new();
        for row in section.lines().filter(|line| line.starts_with("| `")) {
            let mut cells = row.split('`');
            let key = cells.nth(1).expect("a key");
            let default = cells.nth(1).expect("a default");
            let default = serde_json::from_str(default).expect("a text or a number");
            documented.insert(key.to_owned(), default);
        }
        let defaults = serde_json::to_value(Config::default()).expect("plain values");
        assert_eq!(serde_json::Value::Object(documented), defaults);
    }

    #[test]
    fn what_is_no_duration_is_named() {
        let error = parse(r#"{"busy-timeout": "soon"}"#).expect_err("no duration");
        assert!(
            error.to_string().contains("\"soon\" is no duration"),
            "{error}"
        );
        parse(r#"{"busy-timeout": 5}"#).expect_err("a number has no unit");
    }

    #[test]
    fn settings_out_of_range_are_refused_by_key() {
        let check = |config: Config, expected: &str| match config.check() {
            Err(OpenError::Config { key, .. }) => assert_eq!(key, expected),
            other => panic!("{expected}: {other:?}"),
        };
        let default = Config::default;
        check(default().with_path(""), "path");
        check(default().with_path(":memory:"), "path");
        check(
            default().with_busy_timeout(Duration::from_secs(u64::MAX)),
            "busy-timeout",
        );
        check(default().with_readers(0), "readers");
        check(default().with_readers(65), "readers");
        check(default().with_waiting_calls(0), "waiting-calls");
        check(default().with_waiting_calls(usize::MAX), "waiting-calls");
        check(default().with_transaction_events(0), "transaction-events");
        check(default().with_cache_bytes(0), "cache-bytes");
        check(default().with_cache_bytes(u64::MAX), "cache-bytes");
        default().check().expect("the defaults make sense");
    }
}
