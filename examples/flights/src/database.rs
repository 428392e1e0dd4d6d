//! The database beside the actor system: which one it is, and which aircraft are in it.
//!
//! Listing and deleting aircraft takes SQL of the example's own, on connections of its own, because
//! perennial cannot list its entities yet. It knows the two tables that hold them and nothing else.

mod postgres;
mod sqlite;

use std::fmt;

use flight_table::database::{Place, is_used_by_others};
use perennial::persistence::OpenError;
use perennial::{ConfigError, ConfigSource};

use crate::aircraft::ENTITY_TYPE;
use crate::fold::Start;
use crate::patience::AskFailure;
use crate::run::Begin;

/// The file without a configuration.
const SQLITE_FILE: &str = "flights.sqlite";

/// Where the aircraft are stored.
#[derive(Debug)]
pub struct Database(Place);

impl Database {
    /// As [`Place::configured`].
    ///
    /// # Errors
    /// As [`Place::configured`].
    pub fn configured(
        source: ConfigSource,
        database_url: Option<&str>,
    ) -> Result<(ConfigSource, Self), ConfigError> {
        let (source, place) = Place::configured(source, SQLITE_FILE, database_url)?;
        Ok((source, Self(place)))
    }

    /// Makes the database ready for a run, and says whether aircraft are in it.
    ///
    /// # Errors
    /// Why it cannot be made ready, now or ever.
    pub async fn prepare(&self, begin: Begin) -> Result<Start, AskFailure> {
        match &self.0 {
            Place::File(file) => sqlite::prepare(file, begin).await,
            Place::Server(server) => postgres::prepare(server, begin).await,
        }
    }

    /// What it means that the store could not be opened: whether that may pass.
    pub async fn unreachable(&self, error: &OpenError) -> AskFailure {
        match &self.0 {
            Place::File(_) if is_used_by_others(error) => {
                AskFailure::Unavailable(error.to_string())
            }
            Place::File(_) => AskFailure::Fatal(error.to_string()),
            Place::Server(server) => match postgres::persistence_ids(server).await {
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
        let ids = match &self.0 {
            Place::File(file) => sqlite::persistence_ids(file).await?,
            Place::Server(server) => postgres::persistence_ids(server).await?,
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
        self.0.fmt(f)
    }
}
