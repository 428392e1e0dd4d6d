//! Aircraft in a PostgreSQL database.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::time::Duration;

use indicatif::HumanCount;
use perennial::postgres::Config;
use perennial::{ConfigError, ConfigSource};
use tokio::time::timeout;
use tokio_postgres::config::Host;
use tokio_postgres::{Client, NoTls};

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
    connect: tokio_postgres::Config,
}

impl Postgres {
    /// Reads the section `[persistence.postgres]`, whose `url` must be set by now.
    pub(super) fn configured(source: &ConfigSource) -> Result<Self, ConfigError> {
        let config: Config = source.section("persistence.postgres")?;
        let mut connect: tokio_postgres::Config =
            config.url.parse().map_err(|error: tokio_postgres::Error| {
                // The cause names a part of the URL, never its value.
                let cause = error
                    .source()
                    .map_or(String::new(), |cause| cause.to_string());
                let reason = format!(
                    "is no PostgreSQL URL ({cause}); write DATABASE_URL as \
                     postgres://user:password@host:port/database, with %40, %3A and %2F for @, : \
                     and / in the password"
                );
                source.invalid("persistence.postgres.url", &reason)
            })?;
        if connect.get_connect_timeout().is_none() {
            connect.connect_timeout(config.connect_timeout);
        }
        Ok(Self { config, connect })
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
    async fn prepare_now(&self, begin: Begin) -> Result<i64, tokio_postgres::Error> {
        let mut client = self.connected().await?;
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
        row.try_get(0)
    }

    pub(super) async fn persistence_ids(&self) -> Result<Vec<String>, AskFailure> {
        let list = async {
            let client = self.connected().await?;
            if !has_table(&client, "event_journal").await? {
                return Ok(Vec::new());
            }
            let sql = "SELECT DISTINCT persistence_id FROM event_journal WHERE entity_type = $1";
            let rows = client.query(sql, &[&ENTITY_TYPE]).await?;
            rows.iter().map(|row| row.try_get(0)).collect()
        };
        self.within(self.config.call_timeout, list).await
    }

    async fn connected(&self) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = self.connect.connect(NoTls).await?;
        // It ends with the client, and what goes wrong with it is told to the client as well.
        tokio::spawn(connection);
        if let Some(schema) = &self.config.schema {
            let sql = "SELECT set_config('search_path', quote_ident($1), false)";
            client.query(sql, &[schema]).await?;
        }
        Ok(client)
    }

    async fn within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, AskFailure> {
        match timeout(limit, work).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(error)) => Err(self.failed(&error)),
            Err(_) => Err(AskFailure::Unavailable(format!(
                "{self} did not answer within {limit:?}"
            ))),
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
        let connect = &self.connect;
        f.write_str("postgres://")?;
        if let Some(user) = connect.get_user() {
            write!(f, "{user}@")?;
        }
        match connect.get_hosts().first() {
            Some(Host::Tcp(host)) => f.write_str(host)?,
            #[cfg(unix)]
            Some(Host::Unix(folder)) => write!(f, "{}", folder.display())?,
            None => {}
        }
        if let Some(port) = connect.get_ports().first() {
            write!(f, ":{port}")?;
        }
        match connect.get_dbname() {
            Some(name) => write!(f, "/{name}"),
            None => Ok(()),
        }
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
