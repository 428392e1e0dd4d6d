//! What the web services have in common: everything but the web framework, and with the feature
//! `actix` what there is to say about actix-web.
//!
//! A [`Concert`](concert::Concert) is a persistent entity, [`Popular`](popular::Popular) a plain
//! actor; [`Api`](api::Api) asks them, and [`Problem`](problem::Problem) makes a status code of what
//! comes instead of an answer.

#[cfg(feature = "actix")]
pub mod actix;
pub mod api;
pub mod concert;
pub mod popular;
pub mod problem;
pub mod service;
