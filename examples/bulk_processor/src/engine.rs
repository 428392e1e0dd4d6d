//! The actor system under the processor, as the command line and the configuration want it.

use std::ffi::OsString;
use std::time::Duration;

use flight_table::database::{Place, is_used_by_others};
use flight_table::patience::AskFailure;
use flight_table::program::explain;
use perennial::config::{EntityConfig, SystemConfig};
use perennial::persistence::OpenError;
use perennial::prelude::*;
use perennial::{ConfigError, ConfigSource, Props, StartError, Supervision};

use crate::args::Args;
use crate::buffer::{self, Buffer, ENTITY_ID, ENTITY_TYPE};
use crate::item::Item;
use crate::processor::{self, BulkProcessor, NEVER};
use crate::sink::Sink;

/// The file without a configuration.
const SQLITE_FILE: &str = "bulk.sqlite";

/// How long taking one item may last before it is asked again.
const TAKE_WITHIN: Duration = Duration::from_secs(5);

/// How many items may be on their way into the buffer at once, so that many of them are stored
/// together. The processor takes one after the other, which costs it nothing.
const TAKES_UNDER_WAY: usize = 256;

/// What is started: a plain processor or a durable buffer.
#[derive(Debug)]
pub struct Engine {
    source: ConfigSource,
    place: Place,
    batch: usize,
    linger: Duration,
    durable: bool,
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
        let (source, place) = Place::configured(source, SQLITE_FILE, database_url)?;
        SystemConfig::read(&source)?;
        EntityConfig::read(&source, ENTITY_TYPE, EntityConfig::default())?;
        source.finish(&[ENTITY_TYPE])?;
        Ok(Self {
            source,
            place,
            batch: args.batch(),
            linger: args.linger(),
            durable: args.durable,
        })
    }

    /// The database.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Starts an actor system with the processor or the buffer in it, which writes to `sink`.
    ///
    /// # Errors
    /// Why it cannot be started, now or ever.
    pub async fn start(&self, sink: Sink) -> Result<Intake, AskFailure> {
        if self.durable {
            self.start_durable(sink).await
        } else {
            self.start_plain(sink).await
        }
    }

    async fn start_plain(&self, sink: Sink) -> Result<Intake, AskFailure> {
        let fatal = |error: &dyn std::error::Error| AskFailure::Fatal(explain(error));
        // There is no store in it, and no entity.
        for section in [
            "persistence.sqlite",
            "persistence.postgres",
            "entity.BulkBuffer",
        ] {
            let ignored = self.source.ignore_section(section);
            ignored.map_err(|error| fatal(&error))?;
        }
        let system = ActorSystem::in_memory(self.source.clone())
            .start()
            .await
            .map_err(|error| fatal(&error))?;
        let (batch, linger) = (self.batch, self.linger);
        let props = Props::new(move || BulkProcessor::new(batch, linger, sink.clone()))
            // It fails when nothing is written any more.
            .supervision(Supervision::stop());
        let processor = system.spawn("bulk-processor", props);
        let processor = processor.map_err(|error| fatal(&error))?;
        Ok(Intake {
            system,
            to: To::Processor(processor),
        })
    }

    async fn start_durable(&self, sink: Sink) -> Result<Intake, AskFailure> {
        let services = buffer::Services {
            batch: self.batch,
            linger: self.linger,
            sink,
        };
        let started = ActorSystem::from_source(self.source.clone())
            .entity(buffer::entity(services))
            .start()
            .await;
        let system = match started {
            Ok(system) => system,
            Err(StartError::Store { error, .. }) => {
                let is_outage = match &self.place {
                    Place::File(_) => is_used_by_others(&error),
                    // It was there a moment ago.
                    Place::Server(_) => matches!(error, OpenError::Unreachable { .. }),
                };
                let reason = explain(&error);
                return Err(if is_outage {
                    AskFailure::Unavailable(reason)
                } else {
                    AskFailure::Fatal(reason)
                });
            }
            Err(error) => return Err(AskFailure::Fatal(explain(&error))),
        };
        let to = To::Buffer(system.entity(ENTITY_ID));
        Ok(Intake { system, to })
    }
}

/// A started actor system that takes items.
#[derive(Debug)]
pub struct Intake {
    system: ActorSystem,
    to: To,
}

#[derive(Debug)]
enum To {
    Processor(ActorRef<BulkProcessor>),
    Buffer(EntityRef<Buffer>),
}

impl Intake {
    /// How many items may be on their way at once.
    pub fn under_way(&self) -> usize {
        match &self.to {
            To::Processor(_) => 1,
            To::Buffer(_) => TAKES_UNDER_WAY,
        }
    }

    /// Hands over an item, and waits while there is no room: until it stands in the processor's
    /// mailbox, or is durable in the buffer.
    ///
    /// # Errors
    /// Why it is not, or may not be.
    pub async fn take(&self, item: Item) -> Result<(), AskFailure> {
        let taken = match &self.to {
            To::Processor(processor) => processor.send(processor::Add(item)).await,
            To::Buffer(buffer) => {
                let ask = buffer.ask(buffer::Take(item));
                ask.timeout(TAKE_WITHIN).await
            }
        };
        taken.map_err(AskFailure::from)
    }

    /// Waits until everything that was taken is written.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn flush(&self) -> Result<(), AskFailure> {
        let flushed = match &self.to {
            To::Processor(processor) => processor.ask(processor::Flush).timeout(NEVER).await,
            To::Buffer(buffer) => buffer.ask(buffer::Flush).timeout(NEVER).await,
        };
        flushed.map_err(AskFailure::from)
    }

    /// Stops the actor system.
    ///
    /// # Errors
    /// It did not stop in order, which loses nothing.
    pub async fn shutdown(self) -> Result<(), AskFailure> {
        let stopped = self.system.shutdown().await;
        stopped.map_err(|error| AskFailure::Unavailable(error.to_string()))
    }
}
