//! The database beside the actor system: which one it is, and which aircraft are in it.
//!
//! Listing and deleting aircraft takes SQL of the example's own, on connections of its own, because
//! perennial cannot list its entities yet. It knows the two tables that hold them and nothing else.

mod postgres;
mod sqlite;

use std::fmt;

use perennial::config::PersistenceConfig;
use perennial::persistence::OpenError;
use perennial::{ConfigError, ConfigSource, plugins};

use crate::aircraft::ENTITY_TYPE;
use crate::fold::Start;
use crate::patience::AskFailure;
use crate::run::Begin;

use self::postgres::Postgres;
use self::sqlite::Sqlite;

/// The file without a configuration.
const SQLITE_FILE: &str = "flights.sqlite";

/// The stores in which the example can list its aircraft.
const STORES: [&str; 2] = ["sqlite", "postgres"];

/// Where the aircraft are stored.
#[derive(Debug)]
pub enum Database {
    /// In a file.
    Sqlite(Sqlite),
    /// On a server.
    Postgres(Box<Postgres>),
}

impl Database {
    /// The database that the configuration names, and the configuration with the example's own
    /// defaults in it: the file, and `database_url` for PostgreSQL. What the configuration says
    /// itself wins.
    ///
    /// # Errors
    /// A setting of the store that is unknown, missing or makes no sense.
    pub fn configured(
        source: ConfigSource,
        database_url: Option<&str>,
    ) -> Result<(ConfigSource, Self), ConfigError> {
        let check = |name: &str, source: &ConfigSource| {
            let plugins = plugins();
            let chosen = plugins.iter().find(|plugin| plugin.name() == name);
            chosen.map_or(Ok(()), |plugin| plugin.configure(source).map(drop))
        };
        let persistence = PersistenceConfig::read(&source)?;
        persistence.check_plugin(&source, &STORES)?;
        // The other one's settings may stand in the file for another day.
        for other in STORES.iter().filter(|name| **name != persistence.plugin) {
            source.ignore_section(&format!("persistence.{other}"))?;
        }
        if persistence.plugin == "postgres" {
            let url = "persistence.postgres.url";
            let source = match database_url {
                _ if source.contains(url)? => source,
                Some(database_url) => source.set(url, database_url)?,
                None => {
                    let reason = "is not set; set the environment variable DATABASE_URL, such as \
                                  postgres://user:password@localhost/flights";
                    return Err(source.invalid(url, reason));
                }
            };
            check(&persistence.plugin, &source)?;
            let postgres = Postgres::configured(&source)?;
            return Ok((source, Self::Postgres(Box::new(postgres))));
        }
        let path = "persistence.sqlite.path";
        let source = if source.contains(path)? {
            source
        } else {
            source.set(path, SQLITE_FILE)?
        };
        check(&persistence.plugin, &source)?;
        let sqlite = Sqlite::new(source.section("persistence.sqlite")?);
        Ok((source, Self::Sqlite(sqlite)))
    }

    /// Makes the database ready for a run, and says whether aircraft are in it.
    ///
    /// # Errors
    /// Why it cannot be made ready, now or ever.
    pub async fn prepare(&self, begin: Begin) -> Result<Start, AskFailure> {
        match self {
            Self::Sqlite(sqlite) => sqlite.prepare(begin).await,
            Self::Postgres(postgres) => postgres.prepare(begin).await,
        }
    }

    /// What it means that the store could not be opened: whether that may pass.
    pub async fn unreachable(&self, error: &OpenError) -> AskFailure {
        match self {
            Self::Sqlite(_) if sqlite::is_used_by_others(error) => {
                AskFailure::Unavailable(error.to_string())
            }
            Self::Sqlite(_) => AskFailure::Fatal(error.to_string()),
            Self::Postgres(postgres) => match postgres.persistence_ids().await {
                Ok(_) => AskFailure::Unavailable(error.to_string()),
                Err(failure) => failure,
            },
        }
    }

    /// The tail numbers of all stored aircraft.
    ///
    /// # Errors
    /// Why they cannot be listed, now or ever.
    pub async fn tail_numbers(&self) -> Result<Vec<String>, AskFailure> {
        let ids = match self {
            Self::Sqlite(sqlite) => sqlite.persistence_ids().await?,
            Self::Postgres(postgres) => postgres.persistence_ids().await?,
        };
        let tails = ids.iter().filter_map(|id| {
            let tail = id.strip_prefix(ENTITY_TYPE)?.strip_prefix('|')?;
            Some(tail.to_owned())
        });
        Ok(tails.collect())
    }
}

/// Where it is, for people.
impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(sqlite) => sqlite.fmt(f),
            Self::Postgres(postgres) => postgres.fmt(f),
        }
    }
}
