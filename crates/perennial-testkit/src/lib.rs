//! Test tools of perennial: contract suites that every store must pass.
//!
//! Nothing in this crate is meant for production.

#[cfg(all(feature = "postgres", unix))]
pub mod postgres;
