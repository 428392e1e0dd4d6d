//! The database that a program works on, beside the actor system: which one it is, a connection to
//! it, and which of its failures pass.

mod postgres;
mod sqlite;

use std::fmt;

use perennial::config::PersistenceConfig;
use perennial::{ConfigError, ConfigSource, plugins};

pub use postgres::{Failed, Server};
pub use sqlite::{File, is_used_by_others};

/// The stores in which the examples find their way.
const STORES: [&str; 2] = ["sqlite", "postgres"];

/// Where the data are.
#[derive(Debug, Clone)]
pub enum Place {
    /// In an SQLite file.
    File(File),
    /// On a PostgreSQL server.
    Server(Box<Server>),
}

impl Place {
    /// The database that the configuration names, and the configuration with the program's own
    /// defaults in it: the file, and `database_url` for PostgreSQL. What the configuration says
    /// itself wins.
    ///
    /// # Errors
    /// A setting of the store that is unknown, missing or makes no sense.
    pub fn configured(
        source: ConfigSource,
        file: &str,
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
            let server = Server::configured(&source)?;
            return Ok((source, Self::Server(Box::new(server))));
        }
        let path = "persistence.sqlite.path";
        let source = if source.contains(path)? {
            source
        } else {
            source.set(path, file)?
        };
        check(&persistence.plugin, &source)?;
        let file = File::new(source.section("persistence.sqlite")?);
        Ok((source, Self::File(file)))
    }
}

/// Where it is, for people.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => file.fmt(f),
            Self::Server(server) => server.fmt(f),
        }
    }
}
