//! From the command line to a running system, and to its end.

use std::io::IsTerminal;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use perennial::prelude::*;
use perennial::{ConfigSource, Entity, ShutdownReport, TaskError};

use crate::api::Api;
use crate::concert::Concert;
use crate::popular::Popular;

/// Sells tickets over HTTP. Settings of the actor system come from variables such as
/// PERENNIAL__SYSTEM__ASK_TIMEOUT; ctrl-c or SIGTERM ends it in order.
#[derive(Debug, Parser)]
pub struct Args {
    /// Where to listen; port 0 takes one that is free
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub bind: SocketAddr,
    /// The SQLite file
    #[arg(long, default_value = "concerts.sqlite")]
    pub data: PathBuf,
    /// Requests that are answered at a time; further ones get 503
    #[arg(long, default_value_t = 512, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=65_536))]
    pub requests: usize,
}

/// Connections that are open at a time; further ones wait to be accepted.
pub const CONNECTIONS: usize = 1024;
/// Bytes of a request's body; a longer one gets 413.
pub const BODY_BYTES: usize = 16 << 10;
/// How long a request may take; it gets 504 then. Longer than the system's `ask-timeout`, whose
/// answer says more.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A service that is about to listen.
#[derive(Debug)]
pub struct Service {
    /// The actor system.
    pub system: ActorSystem,
    /// What it does.
    pub api: Api,
    /// What it counts.
    pub metrics: Metrics,
    /// Where clients come.
    pub listener: TcpListener,
}

impl Service {
    /// Binds the port, then starts the system. To be called inside of a tokio runtime, also that of
    /// actix.
    ///
    /// # Errors
    /// When the port is taken, a setting is wrong or the file cannot be opened.
    pub async fn start(args: &Args) -> Result<Self, TaskError> {
        log();
        let listener = listen(args.bind)?;
        // Before the system, which hands its numbers over from its start on.
        let metrics = Metrics::install()?;
        let source = ConfigSource::empty()
            .with_environment(std::env::vars_os())?
            .set("persistence.sqlite.path", args.data.display().to_string())?;
        let system = ActorSystem::from_source(source)
            .entity(Entity::<Concert>::new(()).snapshot_every(100))
            .start()
            .await?;
        let popular = system.spawn("popular", Popular::default)?;
        Ok(Self {
            api: Api::new(system.clone(), popular),
            system,
            metrics,
            listener,
        })
    }

    /// Says where it listens; port 0 has become one that was free.
    ///
    /// # Errors
    /// When the operating system cannot say.
    pub fn announce(&self) -> std::io::Result<()> {
        announce(&self.listener)
    }
}

/// Sends logs to standard error: warnings and errors, or what `RUST_LOG` says.
pub fn log() {
    let filter =
        tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    // In a test it may be there already.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .try_init();
}

/// Binds a port.
///
/// # Errors
/// When it is taken, or may not be used.
pub fn listen(address: SocketAddr) -> Result<TcpListener, TaskError> {
    let listener = TcpListener::bind(address)
        .map_err(|error| format!("cannot listen on {address}: {error}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Says where a service listens; port 0 has become one that was free.
///
/// # Errors
/// When the operating system cannot say.
pub fn announce(listener: &TcpListener) -> std::io::Result<()> {
    println!("listening on http://{}", listener.local_addr()?);
    Ok(())
}

/// What stands on the command line.
pub fn args() -> Args {
    Args::parse()
}

/// Waits for `ending`, [`ActorSystem::run_until_signal`], and says how it went.
///
/// # Errors
/// When the operating system gives no signals, or the end failed.
pub async fn end(
    ending: impl Future<Output = std::io::Result<Arc<ShutdownReport>>>,
) -> Result<ExitCode, TaskError> {
    let report = ending.await?;
    println!("{report}");
    Ok(if report.is_complete() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Says why the program did not run.
pub fn failed(error: &TaskError) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

/// The numbers of the process, as Prometheus reads them.
#[derive(Debug, Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl Metrics {
    /// The media type of [`Metrics::render`].
    pub const MEDIA_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// Has the numbers of the process gathered from now on. To be called inside of a tokio runtime,
    /// once per process, before an actor system is started.
    ///
    /// # Errors
    /// When another recorder is there already.
    pub fn install() -> Result<Self, TaskError> {
        const SECONDS: [f64; 9] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 5.0, 10.0];
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
            .install_recorder()?;
        let upkeep = handle.clone();
        // Without this, times would gather for as long as nobody looks at them.
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(5));
            loop {
                ticks.tick().await;
                upkeep.run_upkeep();
            }
        });
        Ok(Self { handle })
    }

    /// All of them.
    pub fn render(&self) -> String {
        self.handle.render()
    }
}
