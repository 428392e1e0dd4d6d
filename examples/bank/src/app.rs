//! Requests of actix-web to those of the service, and answers back.

use std::sync::Arc;

use actix_web::http::header;
use actix_web::middleware::from_fn;
use actix_web::web::{self, Bytes, Data, PayloadConfig, Query, ServiceConfig};
use actix_web::{Error, HttpRequest, HttpResponse};
use perennial::CommandId;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::Semaphore;
use web_common::actix::{Failed, bounds, key, nothing_here, show_metrics};
use web_common::problem::Problem;
use web_common::service::{BODY_BYTES, Metrics};

use crate::api::{Api, no_transfer};
use crate::money::{AccountId, Cents};
use crate::transfer::Terms;

/// The description of the service, as it is answered at `/openapi.json`.
pub const OPENAPI: &str = include_str!("../openapi.json");

/// All routes, with their bounds. `room` is there for the requests of all workers.
pub fn configure(config: &mut ServiceConfig, api: Api, metrics: Metrics, room: Arc<Semaphore>) {
    config
        .app_data(PayloadConfig::new(BODY_BYTES))
        .app_data(Data::new(api))
        .app_data(Data::new(metrics))
        .app_data(Data::from(room))
        .service(
            web::resource("/accounts/{id:[^/]*}")
                .wrap(from_fn(bounds))
                .route(web::put().to(open))
                .route(web::get().to(account)),
        )
        .service(
            web::resource("/accounts/{id:[^/]*}/deposits")
                .wrap(from_fn(bounds))
                .route(web::post().to(deposit)),
        )
        .service(
            web::resource("/accounts/{id:[^/]*}/withdrawals")
                .wrap(from_fn(bounds))
                .route(web::post().to(withdraw)),
        )
        .service(
            web::resource("/accounts/{id:[^/]*}/events")
                .wrap(from_fn(bounds))
                .route(web::get().to(events)),
        )
        .service(
            web::resource("/transfers")
                .wrap(from_fn(bounds))
                .route(web::post().to(transfer)),
        )
        .service(
            web::resource("/transfers/{id:[^/]*}")
                .wrap(from_fn(bounds))
                .route(web::get().to(transfer_state)),
        )
        // These also while the service is overloaded.
        .route("/healthz", web::get().to(healthy))
        .route("/readyz", web::get().to(ready))
        .route("/metrics", web::get().to(show_metrics))
        .route("/openapi.json", web::get().to(openapi))
        .default_service(web::to(nothing_here));
}

/// What a deposit or withdrawal needs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Amount {
    amount: Cents,
}

/// What a transfer needs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    from: AccountId,
    to: AccountId,
    amount: Cents,
}

/// Which events are wanted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Paging {
    #[serde(default)]
    after: u64,
    #[serde(default = "usual_limit")]
    limit: usize,
}

fn usual_limit() -> usize {
    Api::EVENTS
}

/// A body, unless it cannot be read.
type Body = Result<Bytes, Error>;

/// A body is not looked at: there is nothing to say about a new account.
async fn open(api: Data<Api>, request: HttpRequest) -> Result<HttpResponse, Failed> {
    let (is_new, account) = api.open(account_id(&request)?).await?;
    Ok(if is_new {
        HttpResponse::Created().json(account)
    } else {
        HttpResponse::Ok().json(account)
    })
}

async fn account(api: Data<Api>, request: HttpRequest) -> Result<HttpResponse, Failed> {
    let account = api.account_of(account_id(&request)?).await?;
    Ok(HttpResponse::Ok().json(account))
}

async fn deposit(api: Data<Api>, request: HttpRequest, body: Body) -> Result<HttpResponse, Failed> {
    let (id, key) = (account_id(&request)?, command_id(&request)?);
    let Amount { amount } = read(body)?;
    let account = api.deposit(id, amount, key).await?;
    Ok(HttpResponse::Ok().json(account))
}

async fn withdraw(
    api: Data<Api>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Failed> {
    let (id, key) = (account_id(&request)?, command_id(&request)?);
    let Amount { amount } = read(body)?;
    let account = api.withdraw(id, amount, key).await?;
    Ok(HttpResponse::Ok().json(account))
}

async fn events(api: Data<Api>, request: HttpRequest) -> Result<HttpResponse, Failed> {
    let id = account_id(&request)?;
    let Paging { after, limit } = paging(request.query_string())?;
    let page = api.events(id, after, limit).await?;
    let mut response = HttpResponse::Ok();
    if let Some(after) = page.next {
        let path = request.uri().path();
        let next = format!("<{path}?after={after}&limit={limit}>; rel=\"next\"");
        response.insert_header((header::LINK, next));
    }
    Ok(response.json(page.events))
}

async fn transfer(
    api: Data<Api>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Failed> {
    let key = command_id(&request)?;
    let Order { from, to, amount } = read(body)?;
    let accepted = api.transfer(Terms { from, to, amount }, key).await?;
    let place = (header::LOCATION, format!("/transfers/{}", accepted.id));
    Ok(HttpResponse::Accepted().insert_header(place).json(accepted))
}

async fn transfer_state(api: Data<Api>, request: HttpRequest) -> Result<HttpResponse, Failed> {
    let id = segment(&request).parse().map_err(|_| no_transfer())?;
    Ok(HttpResponse::Ok().json(api.transfer_of(id).await?))
}

async fn healthy() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "ok" }))
}

async fn ready(api: Data<Api>) -> Result<HttpResponse, Failed> {
    api.ready().await?;
    Ok(HttpResponse::Ok().json(json!({ "status": "ready" })))
}

async fn openapi() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/json")
        .body(OPENAPI)
}

/// The part of the path after the first one, as it was sent: what the router matches is decoded.
fn segment(request: &HttpRequest) -> &str {
    request.uri().path().split('/').nth(2).unwrap_or_default()
}

fn account_id(request: &HttpRequest) -> Result<AccountId, Problem> {
    AccountId::of_path(segment(request)).map_err(|error| Problem::unreadable(400, error))
}

fn command_id(request: &HttpRequest) -> Result<Option<CommandId>, Problem> {
    let Some(key) = key(request) else {
        return Ok(None);
    };
    if request.headers().get_all("idempotency-key").count() > 1 {
        let detail = "there is more than one Idempotency-Key";
        return Err(Problem::unreadable(400, detail));
    }
    let text = std::str::from_utf8(key)
        .map_err(|_| Problem::unreadable(400, "Idempotency-Key: it is not UTF-8"))?;
    Ok(Some(CommandId::new(text)?))
}

fn paging(query: &str) -> Result<Paging, Problem> {
    let most = Api::MOST_EVENTS;
    let wrong = |reason: &dyn std::fmt::Display| {
        let detail = format!(
            "the query has `after`, a number, and `limit`, a number from 1 to {most}: {reason}"
        );
        Problem::unreadable(400, detail)
    };
    let paging = Query::<Paging>::from_query(query).map_err(|error| wrong(&error))?;
    if !(1..=most).contains(&paging.limit) {
        return Err(wrong(&format_args!("`limit` is {}", paging.limit)));
    }
    Ok(paging.into_inner())
}

/// Reads a JSON object, whatever its `Content-Type`.
fn read<T: DeserializeOwned>(body: Body) -> Result<T, Problem> {
    let body = body.map_err(|error| {
        let status = error.as_response_error().status_code().as_u16();
        Problem::unreadable(status, format_args!("the body: {error}"))
    })?;
    // Serde takes the fields of an object from an array, too.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Problem::unreadable(400, "the body is not a JSON object"));
    }
    serde_json::from_slice(&body)
        .map_err(|error| Problem::unreadable(400, format_args!("the body: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(text: &str) -> Body {
        Ok(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn a_body_says_what_is_wrong_and_where() {
        let amount: Amount = read(body(" {\"amount\": 100}\n")).expect("it is right");
        assert_eq!(amount.amount.value(), 100);
        for (text, reason) in [
            ("", "is not a JSON object"),
            ("[100]", "is not a JSON object"),
            ("\"a\"", "is not a JSON object"),
            ("{}", "missing field `amount` at line 1 column 2"),
            ("{\"amount\": 1", "at line 1 column 12"),
            (
                "{\"amount\": 1} x",
                "trailing characters at line 1 column 15",
            ),
            ("{\"amount\": 1, \"a\": 2}", "unknown field `a`"),
            ("{\"amount\": 1, \"amount\": 1}", "duplicate field `amount`"),
            (
                "{\"amount\": 1.5}",
                "floating point `1.5`, expected a whole",
            ),
            (
                "{\"amount\": \"1\"}",
                "string \"1\", expected a whole number",
            ),
            ("{\n\"amount\": -5}", "integer `-5`, expected a whole"),
        ] {
            let problem = read::<Amount>(body(text)).expect_err(text);
            assert_eq!(problem.status, 400, "{text}");
            assert!(
                problem.detail.contains(reason),
                "{text}: {}",
                problem.detail
            );
        }
        let order = read::<Order>(body("{\"from\": \"a|b\", \"to\": \"c\", \"amount\": 1}"));
        let detail = order.expect_err("no id").detail;
        assert!(
            detail.contains("does not contain `|` at line 1 column 14"),
            "{detail}"
        );
    }

    #[test]
    fn pages_are_bounded() {
        let read = |query| paging(query).map(|paging| (paging.after, paging.limit));
        assert_eq!(read(""), Ok((0, 100)));
        assert_eq!(read("after=7&limit=1000"), Ok((7, 1_000)));
        assert_eq!(read("limit=1"), Ok((0, 1)));
        for wrong in ["limit=0", "limit=1001", "limit=x", "after=-1", "before=1"] {
            let problem = read(wrong).expect_err(wrong);
            assert!(
                problem.detail.contains("from 1 to 1000: "),
                "{}",
                problem.detail
            );
        }
    }
}
