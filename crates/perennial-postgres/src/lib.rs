//! The PostgreSQL store of perennial, on the tables of Pekko persistence-r2dbc.
//!
//! ```no_run
//! use perennial_persistence::Store;
//! use perennial_postgres::{Config, Postgres};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), perennial_persistence::OpenError> {
//! let config = Config::default().with_url("postgres://bank:secret@localhost/bank");
//! let store = Postgres::open(config).await?;
//! for warning in store.warnings() {
//!     eprintln!("{warning}");
//! }
//! let journal = store.journal();
//! # drop(journal);
//! store.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//!
//! - A write is answered after the server committed it. With the server's default settings that
//!   means flushed to its disk; [`Postgres::open`] reads the settings and warns, or refuses, when
//!   they say otherwise.
//! - A batch is one statement. A conflict or a refused row fails its own write only; the others
//!   are sent again without it.
//! - A durable state is changed only over the revision that its writer expects, and there is never a
//!   second row for one id.
//! - An outcome is called unknown exactly when the statement was sent and the server did not say
//!   how it ended. An error answer of the server means that nothing was stored.
//! - Rows are those of Pekko persistence-r2dbc: a Pekko service and a perennial service can read
//!   each other's.
//!
//! # Connections
//!
//! Writes take a connection of a pool each. Reads for recovery share a few connections, on each of
//! which many are under way at once. All connection tasks run on the tokio runtime on which the
//! store was opened, whoever calls.
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | `tls` | protected connections, see [`SslMode`]; without it those from `require` on are refused |
//!
//! # TLS and passwords
//!
//! `sslmode`, `sslrootcert`, `sslcert`, `sslkey` and `passfile` are parameters of the URL or
//! settings, and mean what they mean for libpq; `docs/configuration.md` of the repository says
//! where the two differ.
//!
//! ```
//! use perennial_postgres::{Config, SslMode};
//!
//! let by_url = Config::default()
//!     .with_url("postgres://bank@db.example/bank?sslmode=verify-full&sslrootcert=/etc/bank/ca.pem");
//! let by_setting = Config::default()
//!     .with_url("postgres://bank@db.example/bank")
//!     .with_sslmode(SslMode::VerifyFull)
//!     .with_sslrootcert("/etc/bank/ca.pem")
//!     .with_passfile("/etc/bank/passwords");
//! # assert!(by_url.check().is_ok() && by_setting.check().is_ok());
//! ```
//!
//! # What it does not do
//!
//! It tries nothing again after an unknown outcome: that is the caller's part, with the identical
//! write. It keeps payloads in `bytea` columns only, not in the JSON variants of the tables.

mod batch;
mod command_replies;
mod companions;
mod config;
mod connect;
mod conninfo;
mod durable_state_store;
mod error;
mod event_batch;
mod executor;
mod journal;
mod migrate;
mod password;
mod reminders;
mod row;
mod snapshot_store;
mod state_batch;
mod store;
#[cfg(feature = "tls")]
mod tls;

pub use config::{Config, SslMode};
pub use connect::connect;
pub use error::ConnectError;
pub use store::Postgres;
