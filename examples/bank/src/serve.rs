//! The service as a program: from its configuration to its end.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use actix_web::rt::System;
use flight_table::database::Place;
use flight_table::program::{database_url, explain};
use perennial::prelude::*;
use perennial::{ConfigError, ConfigSource, TaskError, plugins};
use tokio::sync::Semaphore;
use web_common::service::{Metrics, announce, end, listen, log};

use crate::account::{Account, codec};
use crate::api::{Api, Probe};
use crate::app;
use crate::cli::Serve;
use crate::history::History;
use crate::open_transfers::{self, wake};
use crate::transfer::{self, Bank};

/// The file without a configuration.
const SQLITE_FILE: &str = "bank.sqlite";

/// Requests that are answered at a time; further ones get 503.
const REQUESTS: usize = 1_024;

/// How long requests under way have when the service ends.
const GRACE: Duration = Duration::from_secs(3);

/// What is said here and not by the configuration. A service ends within ten seconds: the requests
/// under way have three of them, entities and the store three each at the most.
const DEFAULTS: [(&str, &str); 3] = [
    ("system.shutdown.service-requests-done", "4s"),
    ("system.shutdown-timeout", "3s"),
    ("system.shutdown.deadline", "9s"),
];

/// Serves until a signal comes.
///
/// # Errors
/// When the port is taken, a setting is wrong or the database cannot be opened.
pub fn run(args: &Serve) -> Result<ExitCode, TaskError> {
    System::new().block_on(serve(args))
}

async fn serve(args: &Serve) -> Result<ExitCode, TaskError> {
    log();
    let listener = listen(args.listen)?;
    let source = configured(args).map_err(|error| explain(&error))?;
    // Before the system, which hands its numbers over from its start on.
    let metrics = Metrics::install()?;
    let system = start(source).await?;
    let ending = system.run_until_signal();
    announce(&listener)?;
    let waking = actix_web::rt::spawn(wake(system.clone()));
    let room = Arc::new(Semaphore::new(REQUESTS));
    let api = Api::new(system.clone());
    web_common::actix::serve(&system, listener, GRACE, move |config| {
        app::configure(config, api.clone(), metrics.clone(), Arc::clone(&room));
    })?;
    let ended = end(ending).await;
    waking.abort();
    ended
}

fn configured(args: &Serve) -> Result<ConfigSource, ConfigError> {
    let source = match &args.config {
        Some(file) => ConfigSource::from_file(file)?,
        None => ConfigSource::empty(),
    };
    let source = source.with_environment(std::env::vars_os())?;
    let (mut source, _) = Place::configured(source, SQLITE_FILE, database_url().as_deref())?;
    for (key, value) in DEFAULTS {
        if !source.contains(key)? {
            source = source.set(key, value)?;
        }
    }
    Ok(source)
}

/// Starts the actor system with all entities of the bank.
///
/// # Errors
/// Why it cannot be started, with all that is behind it.
async fn start(source: ConfigSource) -> Result<ActorSystem, TaskError> {
    let (history, bank) = (History::default(), Bank::default());
    let account = Entity::<Account>::with_event_codec(history.clone(), codec())
        .snapshot_every(500)
        // Keys are known for at least a day, as far as they are among the last so many.
        .command_window(10_000, Duration::from_secs(25 * 60 * 60));
    let system = ActorSystem::with_plugins(source, history.watching(plugins()))
        .entity(account)
        .entity(transfer::entity(bank.clone()))
        .entity(open_transfers::entity())
        .entity(Entity::<Probe>::new(()))
        .start()
        .await
        .map_err(|error| explain(&error))?;
    bank.is(system.clone());
    Ok(system)
}
