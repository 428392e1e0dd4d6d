//! Requests of actix-web to those of the service, and answers back.

use std::sync::Arc;

use actix_web::middleware::from_fn;
use actix_web::web::{self, Data, Json, JsonConfig, Path, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use tokio::sync::Semaphore;
use web_common::actix::{Failed, bounds, key, nothing_here, show_metrics};
use web_common::api::Api;
use web_common::concert::{Offer, PutOnSale, Reserve};
use web_common::popular::Bookings;
use web_common::service::{BODY_BYTES, Metrics};

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
        .route("/metrics", web::get().to(show_metrics))
        .default_service(web::to(nothing_here));
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
