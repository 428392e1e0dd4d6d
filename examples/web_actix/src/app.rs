//! Requests of actix-web to those of the service, and answers back.

use std::fmt;
use std::sync::Arc;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::JsonPayloadError;
use actix_web::http::{StatusCode, header};
use actix_web::middleware::{Next, from_fn};
use actix_web::web::{self, Data, Json, JsonConfig, Path, ServiceConfig};
use actix_web::{Error, HttpRequest, HttpResponse, ResponseError};
use tokio::sync::Semaphore;
use web_common::api::Api;
use web_common::concert::{Offer, PutOnSale, Reserve};
use web_common::popular::Bookings;
use web_common::problem::Problem;
use web_common::service::{BODY_BYTES, Metrics, REQUEST_TIMEOUT};

/// All routes, with their bounds. `room` is there for the requests of all workers.
pub(crate) fn configure(
    config: &mut ServiceConfig,
    api: Api,
    metrics: Metrics,
    room: Arc<Semaphore>,
) {
    let json = JsonConfig::default()
        .limit(BODY_BYTES)
        .error_handler(|error, _| Failed::from(error).into());
    let bounded = web::scope("/concerts")
        .wrap(from_fn(bounds))
        .route("/{id}", web::put().to(put_on_sale))
        .route("/{id}", web::get().to(look))
        .route("/{id}/reservations", web::post().to(reserve));
    config
        .app_data(json)
        .app_data(Data::new(api))
        .app_data(Data::new(metrics))
        .app_data(Data::from(room))
        .service(bounded)
        .service(
            web::resource("/popular")
                .wrap(from_fn(bounds))
                .route(web::get().to(popular)),
        )
        // Also while the service is overloaded.
        .route("/metrics", web::get().to(show))
        .default_service(web::to(async || {
            Err::<HttpResponse, _>(Failed(Problem::not_found()))
        }));
}

/// Answers so many requests at a time, each in its time.
async fn bounds(
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

async fn put_on_sale(
    api: Data<Api>,
    concert: Path<String>,
    request: HttpRequest,
    command: Json<PutOnSale>,
) -> Result<HttpResponse, Failed> {
    let offer = api
        .put_on_sale(&concert, command.into_inner(), key(&request))
        .await?;
    Ok(HttpResponse::Created().json(offer))
}

async fn reserve(
    api: Data<Api>,
    concert: Path<String>,
    request: HttpRequest,
    command: Json<Reserve>,
) -> Result<HttpResponse, Failed> {
    let ticket = api
        .reserve(&concert, command.into_inner(), key(&request))
        .await?;
    Ok(HttpResponse::Created().json(ticket))
}

async fn look(api: Data<Api>, concert: Path<String>) -> Result<Json<Offer>, Failed> {
    Ok(Json(api.look(&concert).await?))
}

async fn popular(api: Data<Api>) -> Result<Json<Vec<Bookings>>, Failed> {
    Ok(Json(api.popular().await?))
}

async fn show(metrics: Data<Metrics>) -> HttpResponse {
    HttpResponse::Ok()
        .content_type(Metrics::MEDIA_TYPE)
        .body(metrics.render())
}

fn key(request: &HttpRequest) -> Option<&[u8]> {
    let key = request.headers().get("idempotency-key")?;
    Some(key.as_bytes())
}

/// A problem as a response.
#[derive(Debug)]
struct Failed(Problem);

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<JsonPayloadError> for Failed {
    fn from(error: JsonPayloadError) -> Self {
        let status = error.status_code().as_u16();
        Self(Problem::unreadable(status, error))
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
