//! The actor engine of perennial.

pub mod config;
mod deadline;
pub mod engine;
mod entity_ref;
mod error;
mod event_sourced;
mod reply;
mod runtime;
mod system;

pub use entity_ref::{Ask, Asking, EntityRef};
pub use error::{AskError, PersistFailed, PersistFailure, RecoveryFailed};
pub use event_sourced::{Cx, Effect, Entity, EventSourced, Handle, Then, Timers, Work};
pub use system::{
    ActorSystem, OpenStore, ShutdownError, StartError, StorePlugin, SystemBuilder, SystemStats,
};
