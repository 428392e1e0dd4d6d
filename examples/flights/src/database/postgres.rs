//! Aircraft in a PostgreSQL database.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::time::Duration;

use indicatif::HumanCount;
use perennial::persistence::OpenError;
use perennial::postgres::{Config, ConnectError, connect};
use perennial::{ConfigError, ConfigSource};
use tokio::time::timeout;
use tokio_postgres::Client;

use crate::aircraft::ENTITY_TYPE;
use crate::fold::Start;
use crate::patience::AskFailure;
use crate::run::Begin;

/// Counting or deleting millions of rows takes its time.
const PREPARE_WITHIN: Duration = Duration::from_secs(600);

/// A PostgreSQL database that the example may connect to.
#[derive(Debug, Clone)]
pub struct Postgres {
    config: Config,
}

/// Why a statement has no result.
enum Failed {
    Connecting(ConnectError),
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

impl Postgres {
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

    pub(super) async fn prepare(&self, begin: Begin) -> Result<Start, AskFailure> {
        let aircraft = self.within(PREPARE_WITHIN, self.prepare_now(begin)).await?;
        match begin {
            _ if aircraft == 0 => Ok(Start::Fresh),
            Begin::Keep => Ok(Start::Continued),
            Begin::Anew | Begin::Reset => Err(AskFailure::Fatal(format!(
                "{self} holds {} aircraft already; use --keep to continue on them, or --reset to \
                 delete them and start anew",
                HumanCount(u64::try_from(aircraft).unwrap_or(0))
            ))),
        }
    }

    /// Deletes the aircraft if that is wanted, and counts them.
    async fn prepare_now(&self, begin: Begin) -> Result<i64, Failed> {
        let mut client = self.connected(PREPARE_WITHIN).await?;
        let transaction = client.transaction().await?;
        if !has_table(transaction.client(), "event_journal").await? {
            return Ok(0);
        }
        // What a run that was killed has sent may still be under way in the server; the lock waits
        // for its end.
        transaction
            .batch_execute(
                "SET LOCAL lock_timeout = '10s';
                 LOCK TABLE event_journal IN SHARE ROW EXCLUSIVE MODE",
            )
            .await?;
        if begin == Begin::Reset {
            for table in ["event_journal", "snapshot"] {
                if has_table(transaction.client(), table).await? {
                    let sql = format!("DELETE FROM {table} WHERE entity_type = $1");
                    transaction.execute(&sql, &[&ENTITY_TYPE]).await?;
                }
            }
        }
        let sql = "SELECT count(DISTINCT persistence_id) FROM event_journal WHERE entity_type = $1";
        let row = transaction.query_one(sql, &[&ENTITY_TYPE]).await?;
        transaction.commit().await?;
        Ok(row.try_get(0)?)
    }

    pub(super) async fn persistence_ids(&self) -> Result<Vec<String>, AskFailure> {
        let list = async {
            let client = self.connected(self.config.call_timeout).await?;
            if !has_table(&client, "event_journal").await? {
                return Ok(Vec::new());
            }
            let sql = "SELECT DISTINCT persistence_id FROM event_journal WHERE entity_type = $1";
            let rows = client.query(sql, &[&ENTITY_TYPE]).await?;
            let ids = rows.iter().map(|row| row.try_get(0));
            Ok(ids.collect::<Result<_, _>>()?)
        };
        self.within(self.config.call_timeout, list).await
    }

    /// A connection whose statements may take so long.
    async fn connected(&self, limit: Duration) -> Result<Client, ConnectError> {
        connect(&self.config.clone().with_statement_timeout(limit)).await
    }

    async fn within<T>(
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
impl fmt::Display for Postgres {
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

async fn has_table(client: &Client, table: &str) -> Result<bool, tokio_postgres::Error> {
    let row = client
        .query_one("SELECT to_regclass($1) IS NOT NULL", &[&table])
        .await?;
    row.try_get(0)
}
