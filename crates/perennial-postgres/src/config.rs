//! What can be set.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use perennial_persistence::{DurableStateDelete, OpenError, SchemaCheck};
use serde::{Deserialize, Serialize};

use crate::connect::{place, read_url};

/// The settings of a [`Postgres`](crate::Postgres) store, the section `[persistence.postgres]`.
///
/// Durations are text such as `"5s"` or `"1m 30s"`. `Debug` shows the URL without its password.
///
/// ```
/// use std::time::Duration;
/// use perennial_postgres::Config;
///
/// let config = Config::default()
///     .with_url("postgres://bank:secret@localhost/bank")
///     .with_call_timeout(Duration::from_secs(30));
/// assert!(!format!("{config:?}").contains("secret"));
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[non_exhaustive]
pub struct Config {
    /// Where the database is: `postgres://user:password@host:port/database`, or libpq's
    /// `host=… user=…` form. Parameters follow a `?`, as in `?sslmode=verify-full`.
    ///
    /// Without a password the variable `PGPASSWORD` is looked at, and then [`Config::passfile`].
    ///
    /// No default.
    pub url: String,

    /// The schema that holds the tables; created if it is missing and `schema-check` is `create`.
    ///
    /// Default none: the first schema of the server's `search_path`, normally `public`.
    pub schema: Option<String>,

    /// What to do about tables at the start.
    ///
    /// Default `create`, so that a new program starts without preparations.
    pub schema_check: SchemaCheck,

    /// What deleting a durable state leaves in its table: `marker`, a row with the next revision and
    /// no state, or `row`, nothing, for tables that are shared with Pekko 1.x.
    ///
    /// Default `marker`, so that a writer that does not know of the deletion is refused.
    pub durable_state_delete: DurableStateDelete,

    /// Whether to refuse a server whose settings can lose acknowledged events (`fsync`,
    /// `full_page_writes` or `synchronous_commit` off), instead of warning.
    ///
    /// Default `false`: a developer's server is often set for speed.
    pub require_durable: bool,

    /// The most connections of this store, those for recovery included.
    ///
    /// Default 10: two writers per worker keep a few processors busy, and PostgreSQL allows 100
    /// connections for all programs together by default.
    pub max_connections: usize,

    /// How many of the connections read for recovery; less than `max-connections`.
    ///
    /// Default 2: with pipelining two are enough to occupy two processors of the server, and
    /// recovery is not meant to take more than that from the writers.
    pub recovery_connections: usize,

    /// How many reads are sent ahead on one recovery connection before their answers came.
    ///
    /// Default 16: above that the server always has the next read at hand, and memory for pages on
    /// their way grows with it.
    pub pipeline_depth: usize,

    /// The most events or states in one statement; a larger batch is sent as several. One atomic write is
    /// never split.
    ///
    /// Default 5,000: more makes a batch no faster, only longer.
    pub max_statement_events: usize,

    /// The most bytes of payloads in one statement; a larger batch is sent as several. One atomic
    /// write is never split.
    ///
    /// Default 16 MiB: the server holds several copies of a statement while it runs.
    pub max_statement_bytes: usize,

    /// How long one connection may take to be opened.
    ///
    /// Default 10 s, which a busy server keeps and people wait.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,

    /// How long a call waits for a free connection.
    ///
    /// Default 10 s: a longer queue only makes its callers' answers late.
    #[serde(with = "humantime_serde")]
    pub acquire_timeout: Duration,

    /// After what time the server gives up a statement. 0 means never.
    ///
    /// Default 15 s: shorter than `call-timeout`, because the server's answer says for certain
    /// that nothing was stored.
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,

    /// How long a statement waits for a lock of another transaction. 0 means for ever.
    ///
    /// Default 5 s: a write that is sent again after a lost answer waits for its own first attempt,
    /// which needs no longer.
    #[serde(with = "humantime_serde")]
    pub lock_timeout: Duration,

    /// After what time the answer to a statement is no longer waited for: the connection is given
    /// up, and whether a write was stored is unknown.
    ///
    /// Default 20 s, as in Pekko (`close-calls-exceeding`).
    #[serde(with = "humantime_serde")]
    pub call_timeout: Duration,

    /// A call that takes longer is logged as a warning, with the name of its SQL file.
    ///
    /// Default 1 s.
    #[serde(with = "humantime_serde")]
    pub slow_call: Duration,

    /// The name of the connections in `pg_stat_activity`.
    ///
    /// Default `perennial`.
    pub application_name: String,

    /// How connections are protected. Also a parameter of `url`, where libpq's name is the same;
    /// the two may not contradict each other, as those below.
    ///
    /// Default [`SslMode::Prefer`], as in libpq.
    pub sslmode: Option<SslMode>,

    /// A PEM file with the certificates of the authorities that may certify the server, or the
    /// server's own; or `system` for the authorities of the operating system, which implies
    /// [`SslMode::VerifyFull`].
    ///
    /// Default `.postgresql/root.crt` in the home folder if it is there, as in libpq; otherwise
    /// `verify-full` trusts the authorities of the operating system, `require` verifies nothing,
    /// and `verify-ca` is an error.
    pub sslrootcert: Option<PathBuf>,

    /// A PEM file with the certificate that this program shows to the server, and those of its
    /// issuers. Needs `sslkey`.
    ///
    /// Default none.
    pub sslcert: Option<PathBuf>,

    /// A PEM file with the key of `sslcert`, without a passphrase, to which no other user has
    /// access.
    ///
    /// Default none.
    pub sslkey: Option<PathBuf>,

    /// A password file in the format of libpq, `host:port:database:user:password` per line, to
    /// which no other user has access; otherwise it is not read, with a warning. It is read once,
    /// when the store is opened.
    ///
    /// Default the variable `PGPASSFILE`, then `.pgpass` in the home folder.
    pub passfile: Option<PathBuf>,
}

/// How connections are protected by TLS, in libpq's words. Those from `require` on need the
/// feature `tls`; without it the ones before connect without protection.
///
/// Connections over Unix sockets are never protected, as in libpq.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SslMode {
    /// Never.
    Disable,
    /// Only if the server's `pg_hba.conf` refuses others.
    Allow,
    /// If the server offers it. Nothing is verified, so that whoever is in between can read along.
    Prefer,
    /// Always. The certificate is verified as with `verify-ca` if there is a root certificate
    /// file, otherwise not.
    Require,
    /// Always, and one of the authorities issued the server's certificate, for whatever host.
    VerifyCa,
    /// Always, and the server's certificate is for the host that we connect to.
    VerifyFull,
}

impl SslMode {
    /// Whether the server's certificate can matter.
    pub(crate) fn may_verify(self) -> bool {
        matches!(self, Self::Require | Self::VerifyCa | Self::VerifyFull)
    }

    /// The mode of that name.
    pub(crate) fn named(word: &str) -> Option<Self> {
        [
            Self::Disable,
            Self::Allow,
            Self::Prefer,
            Self::Require,
            Self::VerifyCa,
            Self::VerifyFull,
        ]
        .into_iter()
        .find(|mode| mode.to_string() == word)
    }
}

impl fmt::Display for SslMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        })
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: String::new(),
            schema: None,
            schema_check: SchemaCheck::Create,
            durable_state_delete: DurableStateDelete::Marker,
            require_durable: false,
            max_connections: 10,
            recovery_connections: 2,
            pipeline_depth: 16,
            max_statement_events: 5_000,
            max_statement_bytes: 16 << 20,
            connect_timeout: Duration::from_secs(10),
            acquire_timeout: Duration::from_secs(10),
            statement_timeout: Duration::from_secs(15),
            lock_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(20),
            slow_call: Duration::from_secs(1),
            application_name: "perennial".to_owned(),
            sslmode: None,
            sslrootcert: None,
            sslcert: None,
            sslkey: None,
            passfile: None,
        }
    }
}

impl Config {
    /// Sets [`Config::url`].
    #[must_use]
    pub fn with_url(mut self, url: impl Into<String>) -> Self {
        self.url = url.into();
        self
    }

    /// Sets [`Config::schema`].
    #[must_use]
    pub fn with_schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = Some(schema.into());
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

    /// Sets [`Config::require_durable`].
    #[must_use]
    pub fn with_require_durable(mut self, require_durable: bool) -> Self {
        self.require_durable = require_durable;
        self
    }

    /// Sets [`Config::max_connections`].
    #[must_use]
    pub fn with_max_connections(mut self, max_connections: usize) -> Self {
        self.max_connections = max_connections;
        self
    }

    /// Sets [`Config::recovery_connections`].
    #[must_use]
    pub fn with_recovery_connections(mut self, recovery_connections: usize) -> Self {
        self.recovery_connections = recovery_connections;
        self
    }

    /// Sets [`Config::pipeline_depth`].
    #[must_use]
    pub fn with_pipeline_depth(mut self, pipeline_depth: usize) -> Self {
        self.pipeline_depth = pipeline_depth;
        self
    }

    /// Sets [`Config::max_statement_events`].
    #[must_use]
    pub fn with_max_statement_events(mut self, max_statement_events: usize) -> Self {
        self.max_statement_events = max_statement_events;
        self
    }

    /// Sets [`Config::max_statement_bytes`].
    #[must_use]
    pub fn with_max_statement_bytes(mut self, max_statement_bytes: usize) -> Self {
        self.max_statement_bytes = max_statement_bytes;
        self
    }

    /// Sets [`Config::connect_timeout`].
    #[must_use]
    pub fn with_connect_timeout(mut self, connect_timeout: Duration) -> Self {
        self.connect_timeout = connect_timeout;
        self
    }

    /// Sets [`Config::acquire_timeout`].
    #[must_use]
    pub fn with_acquire_timeout(mut self, acquire_timeout: Duration) -> Self {
        self.acquire_timeout = acquire_timeout;
        self
    }

    /// Sets [`Config::statement_timeout`].
    #[must_use]
    pub fn with_statement_timeout(mut self, statement_timeout: Duration) -> Self {
        self.statement_timeout = statement_timeout;
        self
    }

    /// Sets [`Config::lock_timeout`].
    #[must_use]
    pub fn with_lock_timeout(mut self, lock_timeout: Duration) -> Self {
        self.lock_timeout = lock_timeout;
        self
    }

    /// Sets [`Config::call_timeout`].
    #[must_use]
    pub fn with_call_timeout(mut self, call_timeout: Duration) -> Self {
        self.call_timeout = call_timeout;
        self
    }

    /// Sets [`Config::slow_call`].
    #[must_use]
    pub fn with_slow_call(mut self, slow_call: Duration) -> Self {
        self.slow_call = slow_call;
        self
    }

    /// Sets [`Config::application_name`].
    #[must_use]
    pub fn with_application_name(mut self, application_name: impl Into<String>) -> Self {
        self.application_name = application_name.into();
        self
    }

    /// Sets [`Config::sslmode`].
    #[must_use]
    pub fn with_sslmode(mut self, sslmode: SslMode) -> Self {
        self.sslmode = Some(sslmode);
        self
    }

    /// Sets [`Config::sslrootcert`].
    #[must_use]
    pub fn with_sslrootcert(mut self, file: impl Into<PathBuf>) -> Self {
        self.sslrootcert = Some(file.into());
        self
    }

    /// Sets [`Config::sslcert`].
    #[must_use]
    pub fn with_sslcert(mut self, file: impl Into<PathBuf>) -> Self {
        self.sslcert = Some(file.into());
        self
    }

    /// Sets [`Config::sslkey`].
    #[must_use]
    pub fn with_sslkey(mut self, file: impl Into<PathBuf>) -> Self {
        self.sslkey = Some(file.into());
        self
    }

    /// Sets [`Config::passfile`].
    #[must_use]
    pub fn with_passfile(mut self, file: impl Into<PathBuf>) -> Self {
        self.passfile = Some(file.into());
        self
    }

    /// Where the database is, for messages: the URL without its password and parameters.
    pub fn place(&self) -> String {
        place(&self.url)
    }

    /// Checks what can be checked without opening the store, which does it as well. Files are
    /// looked at when the store is opened.
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
        if self.url.trim().is_empty() {
            return refuse(
                "url",
                "is not set; write postgres://user:password@host:port/database",
            );
        }
        read_url(&self.url)?;
        if self.schema.as_deref().is_some_and(str::is_empty) {
            return refuse("schema", "is empty; write a name or leave it out");
        }
        if self.recovery_connections == 0 {
            return refuse("recovery-connections", "is 0; write at least 1");
        }
        if self.max_connections <= self.recovery_connections {
            return refuse(
                "max-connections",
                "leaves no connection for writing; write more than `recovery-connections`",
            );
        }
        if self.pipeline_depth == 0 {
            return refuse("pipeline-depth", "is 0; write at least 1");
        }
        if self.max_statement_events == 0 {
            return refuse("max-statement-events", "is 0; write at least 1");
        }
        if self.max_statement_bytes == 0 {
            return refuse("max-statement-bytes", "is 0; write at least 1");
        }
        for (key, timeout) in [
            ("connect-timeout", self.connect_timeout),
            ("acquire-timeout", self.acquire_timeout),
            ("call-timeout", self.call_timeout),
        ] {
            if timeout.is_zero() {
                return refuse(
                    key,
                    "is 0, so that nothing would ever succeed; write a time",
                );
            }
        }
        for (key, timeout) in [
            ("statement-timeout", self.statement_timeout),
            ("lock-timeout", self.lock_timeout),
        ] {
            if timeout > LONGEST_SERVER_TIMEOUT {
                return refuse(key, "is longer than 24 days; write a shorter time");
            }
        }
        Ok(())
    }
}

/// The server counts the milliseconds in 31 bits.
const LONGEST_SERVER_TIMEOUT: Duration = Duration::from_secs(24 * 24 * 60 * 60);

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            url,
            schema,
            schema_check,
            durable_state_delete,
            require_durable,
            max_connections,
            recovery_connections,
            pipeline_depth,
            max_statement_events,
            max_statement_bytes,
            connect_timeout,
            acquire_timeout,
            statement_timeout,
            lock_timeout,
            call_timeout,
            slow_call,
            application_name,
            sslmode,
            sslrootcert,
            sslcert,
            sslkey,
            passfile,
        } = self;
        f.debug_struct("Config")
            .field("url", &without_password(url))
            .field("schema", schema)
            .field("schema_check", schema_check)
            .field("durable_state_delete", durable_state_delete)
            .field("require_durable", require_durable)
            .field("max_connections", max_connections)
            .field("recovery_connections", recovery_connections)
            .field("pipeline_depth", pipeline_depth)
            .field("max_statement_events", max_statement_events)
            .field("max_statement_bytes", max_statement_bytes)
            .field("connect_timeout", connect_timeout)
            .field("acquire_timeout", acquire_timeout)
            .field("statement_timeout", statement_timeout)
            .field("lock_timeout", lock_timeout)
            .field("call_timeout", call_timeout)
            .field("slow_call", slow_call)
            .field("application_name", application_name)
            .field("sslmode", sslmode)
            .field("sslrootcert", sslrootcert)
            .field("sslcert", sslcert)
            .field("sslkey", sslkey)
            .field("passfile", passfile)
            .finish()
    }
}

/// A URL for messages, with `***` in place of the password; also of a text that is no valid URL.
///
/// A password with unescaped `@` or `/` is the very thing that makes a URL invalid, so everything
/// up to the last `@` counts as the password.
pub(crate) fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return without_password_parameter(url);
    };
    let rest = match rest.rsplit_once('@') {
        Some((credentials, host)) => match credentials.split_once(':') {
            Some((user, _)) => format!("{user}:***@{host}"),
            None => format!("{credentials}@{host}"),
        },
        None => rest.to_owned(),
    };
    format!("{scheme}://{}", without_password_parameter(&rest))
}

/// Masks `password=…` and `sslpassword=…`, up to `&` in a URL, up to a space or through a quoted
/// value in the other form.
fn without_password_parameter(text: &str) -> String {
    const PARAMETER: &str = "password";
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.to_ascii_lowercase().find(PARAMETER) {
        let (before, after) = rest.split_at(at + PARAMETER.len());
        shown.push_str(before);
        rest = after;
        let value = after.trim_start();
        let Some(value) = value.strip_prefix('=').map(str::trim_start) else {
            continue;
        };
        shown.push_str("=***");
        rest = match value.strip_prefix('\'') {
            Some(quoted) => after_quoted(quoted),
            None => &value[value.find(['&', ' ']).unwrap_or(value.len())..],
        };
    }
    shown + rest
}

/// What follows the closing quote; a backslash takes the next character with it.
fn after_quoted(text: &str) -> &str {
    let mut escaped = false;
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\'' => return &text[at + 1..],
            _ => {}
        }
    }
    ""
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
            r#"{"url": "postgres://h/d", "schema": "s", "schema-check": "verify",
                "durable-state-delete": "row", "require-durable": true, "max-connections": 20, "recovery-connections": 3,
                "pipeline-depth": 4, "max-statement-events": 5, "max-statement-bytes": 6,
                "connect-timeout": "1s", "acquire-timeout": "2s", "statement-timeout": "3s",
                "lock-timeout": "4s", "call-timeout": "1m 30s", "slow-call": "20ms",
                "application-name": "bank", "sslmode": "verify-full", "sslrootcert": "ca.pem",
                "sslcert": "we.pem", "sslkey": "we.key", "passfile": "passwords"}"#,
        )
        .expect("all keys are known");
        assert_eq!(
            config,
            Config::default()
                .with_url("postgres://h/d")
                .with_schema("s")
                .with_schema_check(SchemaCheck::Verify)
                .with_durable_state_delete(DurableStateDelete::Row)
                .with_require_durable(true)
                .with_max_connections(20)
                .with_recovery_connections(3)
                .with_pipeline_depth(4)
                .with_max_statement_events(5)
                .with_max_statement_bytes(6)
                .with_connect_timeout(Duration::from_secs(1))
                .with_acquire_timeout(Duration::from_secs(2))
                .with_statement_timeout(Duration::from_secs(3))
                .with_lock_timeout(Duration::from_secs(4))
                .with_call_timeout(Duration::from_secs(90))
                .with_slow_call(Duration::from_millis(20))
                .with_application_name("bank")
                .with_sslmode(SslMode::VerifyFull)
                .with_sslrootcert("ca.pem")
                .with_sslcert("we.pem")
                .with_sslkey("we.key")
                .with_passfile("passwords")
        );
        assert_eq!(parse("{}").expect("defaults"), Config::default());
        let text = serde_json::to_string(&config).expect("plain values");
        assert_eq!(parse(&text).expect("its own text"), config);
    }

    #[test]
    fn the_configuration_page_has_every_key() {
        const PAGE: &str = include_str!("../../../docs/configuration.md");

        let (_, section) = PAGE
            .split_once("## `[persistence.postgres]`")
            .expect("the page has the section");
        let section = section.split("\n##").next().unwrap_or_default();
        let mut documented: Vec<&str> = section
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        documented.sort_unstable();
        let value = serde_json::to_value(Config::default()).expect("plain values");
        let mut keys: Vec<&String> = value.as_object().expect("a table").keys().collect();
        keys.sort_unstable();
        assert_eq!(documented, keys);
    }

    #[test]
    fn every_mode_has_libpqs_name() {
        for word in [
            "disable",
            "allow",
            "prefer",
            "require",
            "verify-ca",
            "verify-full",
        ] {
            let mode = SslMode::named(word).expect("known");
            assert_eq!(mode.to_string(), word);
            let json = serde_json::to_string(&mode).expect("plain");
            assert_eq!(json, format!("\"{word}\""));
        }
        assert_eq!(SslMode::named("verify"), None);
    }

    #[test]
    fn passwords_are_masked_in_every_form() {
        for (url, shown) in [
            ("postgres://u:p@h:1/d", "postgres://u:***@h:1/d"),
            ("postgres://u@h/d", "postgres://u@h/d"),
            ("postgres://h/d?a=b", "postgres://h/d?a=b"),
            ("postgres://u:p@ss/w:d@h/d", "postgres://u:***@h/d"),
            (
                "postgres://u@h/d?password=p&a=b",
                "postgres://u@h/d?password=***&a=b",
            ),
            ("postgres://h/d?PASSWORD=p", "postgres://h/d?PASSWORD=***"),
            ("host=h password=p user=u", "host=h password=*** user=u"),
            (
                "host=h password = 'p \\' q' user=u",
                "host=h password=*** user=u",
            ),
            ("host=h password='p", "host=h password=***"),
            ("", ""),
        ] {
            assert_eq!(without_password(url), shown, "{url}");
        }
        let config = Config::default().with_url("postgres://u:secret@h/d");
        assert!(!format!("{config:?}").contains("secret"));
    }

    #[test]
    fn settings_that_make_no_sense_are_refused_by_key() {
        let check = |config: Config, expected: &str| match config.check() {
            Err(OpenError::Config { key, .. }) => assert_eq!(key, expected),
            other => panic!("{expected}: {other:?}"),
        };
        let good = || Config::default().with_url("postgres://h/d");
        check(Config::default(), "url");
        check(good().with_schema(""), "schema");
        check(good().with_recovery_connections(0), "recovery-connections");
        check(good().with_max_connections(2), "max-connections");
        check(good().with_pipeline_depth(0), "pipeline-depth");
        check(good().with_max_statement_events(0), "max-statement-events");
        check(good().with_max_statement_bytes(0), "max-statement-bytes");
        check(
            good().with_connect_timeout(Duration::ZERO),
            "connect-timeout",
        );
        check(
            good().with_acquire_timeout(Duration::ZERO),
            "acquire-timeout",
        );
        check(good().with_call_timeout(Duration::ZERO), "call-timeout");
        check(
            good().with_statement_timeout(Duration::MAX),
            "statement-timeout",
        );
        check(good().with_lock_timeout(Duration::MAX), "lock-timeout");
        good().check().expect("the defaults make sense");
    }
}
