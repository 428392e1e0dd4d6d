//! The example as a library, so that tests can run it as a process.

mod app;
mod limit;

use std::process::ExitCode;

use axum::serve::ListenerExt;
use perennial::{ShutdownPhase, TaskError};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use web_common::service::{self, Args, CONNECTIONS, Service};

use limit::Limited;

/// The program.
pub fn main() -> ExitCode {
    let args = service::args();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return service::failed(&error.into()),
    };
    match runtime.block_on(run(&args)) {
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

    let listener = TcpListener::from_std(listener)?.tap_io(|connection| {
        // Answers are small, and each of them is awaited.
        let _ = connection.set_nodelay(true);
    });
    let listener = Limited::new(listener, CONNECTIONS);
    let (unbind, unbound) = oneshot::channel::<()>();
    let server = axum::serve(listener, app::app(api, metrics, args.requests))
        .with_graceful_shutdown(async {
            let _ = unbound.await;
        });
    let server = tokio::spawn(server.into_future());

    let shutdown = system.coordinated_shutdown();
    shutdown.add_task(ShutdownPhase::ServiceUnbind, "http", async {
        // The server has ended by itself if nobody receives it.
        let _ = unbind.send(());
        Ok(())
    })?;
    shutdown.add_task(ShutdownPhase::ServiceRequestsDone, "http", async {
        server.await??;
        Ok(())
    })?;
    service::end(ending).await
}
