//! The example as a library, so that tests can run it as a process.

mod app;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use actix_web::rt::System;
use actix_web::{App, HttpServer};
use perennial::{ShutdownPhase, TaskError};
use tokio::sync::Semaphore;
use web_common::service::{self, Args, CONNECTIONS, Service};

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
    let server = HttpServer::new(move || {
        App::new().configure(|config| {
            app::configure(config, api.clone(), metrics.clone(), Arc::clone(&room));
        })
    })
    .max_connections(CONNECTIONS)
    .client_request_timeout(Duration::from_secs(5))
    // The shutdown's phases have the say.
    .disable_signals()
    .shutdown_timeout(u64::from(u16::MAX))
    .listen(listener)?
    .run();
    let handle = server.handle();
    let server = actix_web::rt::spawn(server);

    let shutdown = system.coordinated_shutdown();
    shutdown.add_task(ShutdownPhase::ServiceUnbind, "http", async move {
        // It stops listening when it is told to; what this gives would wait for the requests.
        drop(handle.stop(true));
        Ok(())
    })?;
    shutdown.add_task(ShutdownPhase::ServiceRequestsDone, "http", async {
        server.await??;
        Ok(())
    })?;
    service::end(ending).await
}
