//! The aircraft as a persistent actor, and the actor system that brings it to life.
//!
//! This is all that the example needs of perennial.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use flight_table::program::explain;
use perennial::config::{EntityConfig, SystemConfig};
use perennial::persistence::OpenError;
use perennial::prelude::*;
use perennial::{ConfigError, ConfigSource, StartError};

use crate::aircraft::{
    self, Aircraft, FlightRecorded, Logbook, ReadLogbook, Record, Refusal, Totals,
};
use crate::args::Args;
use crate::database::Database;
use crate::dispatch::Answer;
use crate::fold::Start;
use crate::patience::AskFailure;
use crate::row::Flight;
use crate::run::{Base, Begin, Fleet};

/// A busy aircraft has some 80 flights a month, so that most come back from events alone and the
/// busy ones from a snapshot and the events after it.
const SNAPSHOT_EVERY: u64 = 20;

/// The shortest and the longest time that a single ask may take. Within these it is a quarter of
/// the patience, so that there is time to ask again.
const ASK_TIMEOUT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

impl EventSourced for Aircraft {
    const TYPE: &'static str = aircraft::ENTITY_TYPE;
    type Event = FlightRecorded;
    type Services = ();

    fn apply(&mut self, event: &FlightRecorded) {
        Self::apply(self, event);
    }
}

impl Handle<Record> for Aircraft {
    type Reply = Result<Totals, Refusal>;

    fn handle(&self, Record(flight): Record, cx: &Cx<'_, Self>) -> Effect<Self, Self::Reply> {
        match self.decide(&flight) {
            Ok(event) => cx
                .persist([event])
                .reply(|aircraft| Ok(aircraft.totals().clone())),
            Err(refusal) => cx.reply(Err(refusal)),
        }
    }
}

impl Handle<ReadLogbook> for Aircraft {
    type Reply = Logbook;

    fn handle(&self, ReadLogbook: ReadLogbook, cx: &Cx<'_, Self>) -> Effect<Self, Logbook> {
        cx.reply(self.logbook())
    }
}

/// The actor system and its database, as the command line and the configuration want them.
#[derive(Debug)]
pub struct Engine {
    source: ConfigSource,
    database: Database,
    ask_timeout: Duration,
}

impl Engine {
    /// Reads the configuration: that of `args` if there is one, then the environment's variables.
    /// `database_url` is for PostgreSQL, unless the configuration names a server itself.
    ///
    /// The whole configuration is checked here, before a database is touched.
    ///
    /// # Errors
    /// A setting that is unknown, missing or makes no sense, by key, file and line.
    pub fn configured(
        args: &Args,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        database_url: Option<&str>,
    ) -> Result<Self, ConfigError> {
        let source = match &args.config {
            Some(file) => ConfigSource::from_file(file)?,
            None => ConfigSource::empty(),
        };
        let source = source.with_environment(environment)?;
        let (source, database) = Database::configured(source, database_url)?;
        SystemConfig::read(&source)?;
        EntityConfig::read(&source, Aircraft::TYPE, EntityConfig::default())?;
        source.finish(&[Aircraft::TYPE])?;
        let (shortest, longest) = ASK_TIMEOUT;
        Ok(Self {
            source,
            database,
            ask_timeout: (args.patience / 4).clamp(shortest, longest),
        })
    }
}

impl<'a> Base for &'a Engine {
    type Fleet = Flying<'a>;

    fn place(&self) -> String {
        self.database.to_string()
    }

    async fn prepare(&self, begin: Begin) -> Result<Start, AskFailure> {
        self.database.prepare(begin).await
    }

    async fn start(&self) -> Result<Flying<'a>, AskFailure> {
        let started = ActorSystem::from_source(self.source.clone())
            .entity(Entity::<Aircraft>::new(()).snapshot_every(SNAPSHOT_EVERY))
            .start()
            .await;
        match started {
            Ok(system) => Ok(Flying {
                system,
                engine: self,
            }),
            Err(StartError::Store { error, .. })
                if matches!(error, OpenError::Unreachable { .. }) =>
            {
                Err(self.database.unreachable(&error).await)
            }
            Err(error) => Err(AskFailure::Fatal(explain(&error))),
        }
    }
}

/// A started actor system.
#[derive(Debug)]
pub struct Flying<'a> {
    system: ActorSystem,
    engine: &'a Engine,
}

impl Fleet for Flying<'_> {
    async fn record(&self, flight: Arc<Flight>) -> Answer {
        let aircraft = self.system.entity::<Aircraft>(&flight.tailnum);
        let answer = aircraft
            .ask(Record(flight))
            .timeout(self.engine.ask_timeout)
            .await;
        answer.map_err(AskFailure::from)
    }

    async fn logbook(&self, tail: &str) -> Result<Logbook, AskFailure> {
        let aircraft = self.system.entity::<Aircraft>(tail);
        let answer = aircraft
            .ask(ReadLogbook)
            .timeout(self.engine.ask_timeout)
            .await;
        answer.map_err(AskFailure::from)
    }

    async fn tail_numbers(&self) -> Result<Vec<String>, AskFailure> {
        self.engine.database.tail_numbers().await
    }

    async fn shutdown(self) -> Result<(), AskFailure> {
        let stopped = self.system.shutdown().await;
        stopped.map_err(|error| AskFailure::Unavailable(error.to_string()))
    }
}
