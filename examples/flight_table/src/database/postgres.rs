//! A PostgreSQL database.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::time::Duration;

use perennial::persistence::OpenError;
use perennial::postgres::{Config, ConnectError, connect};
use perennial::{ConfigError, ConfigSource};
use tokio::time::timeout;
use tokio_postgres::Client;

use crate::patience::AskFailure;

/// A PostgreSQL database that a program may connect to.
#[derive(Debug, Clone)]
pub struct Server {
    config: Config,
}

/// Why a statement has no result.
#[derive(Debug)]
pub enum Failed {
    /// There is no connection.
    Connecting(ConnectError),
    /// The server says no, or the connection is lost.
    Asking(tokio_postgres::Error),
}

impl From<ConnectError> for Failed {
    fn from(error: ConnectError) -> Self {
        Self::Connecting(error)
    }
}

impl From<tokio_postgres::Error> for Failed {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Asking(error)
    }
}

impl Server {
    /// Reads the section `[persistence.postgres]`, whose `url` must be set by now.
    pub(super) fn configured(source: &ConfigSource) -> Result<Self, ConfigError> {
        let config: Config = source.section("persistence.postgres")?;
        match config.check() {
            Ok(()) => Ok(Self { config }),
            Err(OpenError::Config { key, reason }) => {
                Err(source.invalid(&format!("persistence.postgres.{key}"), &reason))
            }
            Err(other) => Err(source.invalid("persistence.postgres", &other.to_string())),
        }
    }

    /// How long a call may take by the configuration.
    pub fn call_timeout(&self) -> Duration {
        self.config.call_timeout
    }

    /// A connection whose statements may take so long.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn connected(&self, limit: Duration) -> Result<Client, ConnectError> {
        connect(&self.config.clone().with_statement_timeout(limit)).await
    }

    /// What `work` comes to, if that takes no longer than `limit`.
    ///
    /// # Errors
    /// Why it came to nothing, now or ever.
    pub async fn within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, Failed>>,
    ) -> Result<T, AskFailure> {
        match timeout(limit, work).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(Failed::Connecting(error))) => Err(self.not_connected(error)),
            Ok(Err(Failed::Asking(error))) => Err(self.failed(&error)),
            Err(_) => Err(AskFailure::Unavailable(format!(
                "{self} did not answer within {limit:?}"
            ))),
        }
    }

    /// Whether there is such a table.
    ///
    /// # Errors
    /// What the server says.
    pub async fn has_table(client: &Client, table: &str) -> Result<bool, tokio_postgres::Error> {
        let row = client
            .query_one("SELECT to_regclass($1) IS NOT NULL", &[&table])
            .await?;
        row.try_get(0)
    }

    fn not_connected(&self, error: ConnectError) -> AskFailure {
        let passes = error.is_retryable();
        let reason = match OpenError::from(error) {
            OpenError::Unreachable { reason, .. } => reason,
            other => other.to_string(),
        };
        if passes {
            AskFailure::Unavailable(format!("{self} does not answer: {reason}"))
        } else {
            AskFailure::Fatal(format!("{self} cannot be used: {reason}"))
        }
    }

    fn failed(&self, error: &tokio_postgres::Error) -> AskFailure {
        let reason = match (error.as_db_error(), error.source()) {
            (Some(server), _) => format!("{} ({})", server.message(), server.code().code()),
            (None, Some(source)) => source.to_string(),
            (None, None) => error.to_string(),
        };
        if passes(error) {
            AskFailure::Unavailable(format!("{self} does not answer: {reason}"))
        } else {
            AskFailure::Fatal(format!("{self} cannot be used: {reason}"))
        }
    }
}

/// The URL without its password and parameters.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.config.place())
    }
}

/// Whether an outage is the reason, and not what the URL says or what the database is.
fn passes(error: &tokio_postgres::Error) -> bool {
    if let Some(server) = error.as_db_error() {
        // Connections, transactions rolled back, resources, an administrator, the system, and
        // locks.
        let code = server.code().code();
        return ["08", "40", "53", "57", "58"]
            .iter()
            .any(|class| code.starts_with(class))
            || code == "55P03";
    }
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.is::<io::Error>() {
            return true;
        }
        cause = error.source();
    }
    error.is_closed()
}
