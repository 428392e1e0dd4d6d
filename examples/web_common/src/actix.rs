//! Services on actix-web: their bounds, their end, and problems as responses.

use std::fmt;
use std::net::TcpListener;
use std::time::Duration;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::JsonPayloadError;
use actix_web::http::{StatusCode, header};
use actix_web::middleware::Next;
use actix_web::web::{Data, ServiceConfig};
use actix_web::{App, Error, HttpRequest, HttpResponse, HttpServer, ResponseError};
use perennial::{ActorSystem, ShutdownPhase, TaskError};
use tokio::sync::Semaphore;

use crate::problem::Problem;
use crate::service::{CONNECTIONS, Metrics, REQUEST_TIMEOUT};

/// Serves on `listener` until the system is shut down. Then it stops listening, and what is under
/// way is answered first, for `grace` at the most, after which it is cut off; the phase
/// `service-requests-done` may have less time than that.
///
/// # Errors
/// When the server cannot be started, or the system is being shut down already.
pub fn serve(
    system: &ActorSystem,
    listener: TcpListener,
    grace: Duration,
    configure: impl Fn(&mut ServiceConfig) + Clone + Send + 'static,
) -> Result<(), TaskError> {
    let server = HttpServer::new(move || App::new().configure(configure.clone()))
        .max_connections(CONNECTIONS)
        .client_request_timeout(Duration::from_secs(5))
        // The shutdown's phases have the say.
        .disable_signals()
        .shutdown_timeout(grace.as_secs())
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
    Ok(())
}

/// Answers so many requests at a time as there is room for, each in its time.
///
/// # Errors
/// A [`Problem`].
pub async fn bounds(
    room: Data<Semaphore>,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let Ok(_permit) = room.try_acquire() else {
        return Err(Failed(Problem::overloaded()).into());
    };
    let answer = actix_web::rt::time::timeout(REQUEST_TIMEOUT, next.call(request));
    match answer.await {
        Ok(response) => response.map(ServiceResponse::map_into_boxed_body),
        Err(_) => Err(Failed(Problem::timed_out()).into()),
    }
}

/// What is answered at `/metrics`.
pub async fn show_metrics(metrics: Data<Metrics>) -> HttpResponse {
    HttpResponse::Ok()
        .content_type(Metrics::MEDIA_TYPE)
        .body(metrics.render())
}

/// What is answered where there is nothing.
///
/// # Errors
/// Always.
pub async fn nothing_here() -> Result<HttpResponse, Failed> {
    Err(Failed(Problem::not_found()))
}

/// The header `Idempotency-Key`.
pub fn key(request: &HttpRequest) -> Option<&[u8]> {
    let key = request.headers().get("idempotency-key")?;
    Some(key.as_bytes())
}

/// A problem as a response.
#[derive(Debug)]
pub struct Failed(pub Problem);

impl<P: Into<Problem>> From<P> for Failed {
    fn from(problem: P) -> Self {
        Self(problem.into())
    }
}

impl From<JsonPayloadError> for Problem {
    fn from(error: JsonPayloadError) -> Self {
        let status = error.status_code().as_u16();
        Self::unreadable(status, error)
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.detail)
    }
}

impl ResponseError for Failed {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        if let Some(seconds) = self.0.retry_after_seconds() {
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        response.insert_header((header::CONTENT_TYPE, Problem::MEDIA_TYPE));
        response.json(&self.0)
    }
}
