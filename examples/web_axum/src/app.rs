//! Requests of axum to those of the service, and answers back.

use axum::error_handling::HandleErrorLayer;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{BoxError, Json, Router};
use tower::ServiceBuilder;
use tower::limit::GlobalConcurrencyLimitLayer;
use web_common::api::Api;
use web_common::concert::{Offer, PutOnSale, Reserve, Ticket};
use web_common::popular::Bookings;
use web_common::problem::Problem;
use web_common::service::{BODY_BYTES, Metrics, REQUEST_TIMEOUT};

/// All routes, with their bounds: so many `requests` at a time.
pub(crate) fn app(api: Api, metrics: Metrics, requests: usize) -> Router {
    let bounds = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(async |error: BoxError| {
            if error.is::<tower::timeout::error::Elapsed>() {
                Failed(Problem::timed_out())
            } else {
                Failed(Problem::overloaded())
            }
        }))
        .load_shed()
        .layer(GlobalConcurrencyLimitLayer::new(requests))
        .timeout(REQUEST_TIMEOUT);
    Router::new()
        .route("/concerts/{id}", put(put_on_sale).get(look))
        .route("/concerts/{id}/reservations", post(reserve))
        .route("/popular", get(popular))
        .layer(bounds)
        // Also while the service is overloaded.
        .route("/metrics", get(async move || show(&metrics)))
        .fallback(async || Failed(Problem::not_found()))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .with_state(api)
}

async fn put_on_sale(
    State(api): State<Api>,
    Path(concert): Path<String>,
    headers: HeaderMap,
    body: Result<Json<PutOnSale>, JsonRejection>,
) -> Result<(StatusCode, Json<Offer>), Failed> {
    let Json(command) = body?;
    let offer = api.put_on_sale(&concert, command, key(&headers)).await?;
    Ok((StatusCode::CREATED, Json(offer)))
}

async fn reserve(
    State(api): State<Api>,
    Path(concert): Path<String>,
    headers: HeaderMap,
    body: Result<Json<Reserve>, JsonRejection>,
) -> Result<(StatusCode, Json<Ticket>), Failed> {
    let Json(command) = body?;
    let ticket = api.reserve(&concert, command, key(&headers)).await?;
    Ok((StatusCode::CREATED, Json(ticket)))
}

async fn look(State(api): State<Api>, Path(concert): Path<String>) -> Result<Json<Offer>, Failed> {
    Ok(Json(api.look(&concert).await?))
}

async fn popular(State(api): State<Api>) -> Result<Json<Vec<Bookings>>, Failed> {
    Ok(Json(api.popular().await?))
}

fn show(metrics: &Metrics) -> impl IntoResponse + use<> {
    (
        [(header::CONTENT_TYPE, Metrics::MEDIA_TYPE)],
        metrics.render(),
    )
}

fn key(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get("idempotency-key").map(HeaderValue::as_bytes)
}

/// A problem as a response.
struct Failed(Problem);

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<JsonRejection> for Failed {
    fn from(rejection: JsonRejection) -> Self {
        let status = rejection.status().as_u16();
        Self(Problem::unreadable(status, rejection.body_text()))
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let Self(problem) = self;
        let status =
            StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(&problem)).into_response();
        let headers = response.headers_mut();
        let media_type = HeaderValue::from_static(Problem::MEDIA_TYPE);
        headers.insert(header::CONTENT_TYPE, media_type);
        if let Some(seconds) = problem.retry_after_seconds() {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
