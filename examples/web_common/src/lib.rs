//! What `web_axum` and `web_actix` have in common: everything but the web framework.
//!
//! A [`Concert`](concert::Concert) is a persistent entity, [`Popular`](popular::Popular) a plain
//! actor; [`Api`](api::Api) asks them, and [`Problem`](problem::Problem) makes a status code of what
//! comes instead of an answer.

pub mod api;
pub mod concert;
pub mod popular;
pub mod problem;
pub mod service;
