//! The example as a library, so that tests can run it as a process.

mod app;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use actix_web::rt::System;
use perennial::TaskError;
use tokio::sync::Semaphore;
use web_common::actix::serve;
use web_common::service::{self, Args, Service};

/// Longer than the phase of the shutdown, which has the say.
const GRACE: Duration = Duration::from_secs(u16::MAX as u64);

/// The program.
pub fn main() -> ExitCode {
    let args = service::args();
    match System::new().block_on(run(&args)) {
        Ok(code) => code,
        Err(error) => service::failed(&error),
    }
}

async fn run(args: &Args) -> Result<ExitCode, TaskError> {
    let service = Service::start(args).await?;
    let ending = service.system.run_until_signal();
    service.announce()?;
    let Service {
        system,
        api,
        metrics,
        listener,
    } = service;
    let room = Arc::new(Semaphore::new(args.requests));
    serve(&system, listener, GRACE, move |config| {
        app::configure(config, api.clone(), metrics.clone(), Arc::clone(&room));
    })?;
    service::end(ending).await
}
