//! An actor runtime whose actors come back.
//!
//! Each persistent entity is named by an id, writes what happened to a journal before it answers,
//! and is rebuilt from its latest snapshot and the events after it when it is needed again, after
//! a crash as after a pause.
//!
//! ```
//! use perennial::prelude::*;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Default)]
//! struct Account {
//!     balance: i64,
//! }
//!
//! #[derive(Serialize, Deserialize)]
//! enum AccountEvent {
//!     Deposited(i64),
//! }
//!
//! impl EventSourced for Account {
//!     const TYPE: &'static str = "Account";
//!     type Event = AccountEvent;
//!     type Services = ();
//!
//!     fn apply(&mut self, event: &AccountEvent) {
//!         match event {
//!             AccountEvent::Deposited(cents) => self.balance += cents,
//!         }
//!     }
//! }
//!
//! struct Deposit(i64);
//!
//! impl Handle<Deposit> for Account {
//!     type Reply = i64;
//!
//!     fn handle(&self, command: Deposit, cx: &Cx<'_, Self>) -> Effect<Self, i64> {
//!         cx.persist([AccountEvent::Deposited(command.0)])
//!             .reply(|account| account.balance)
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("bank.sqlite");
//! # let file = dir.path().join("bank.toml");
//! # std::fs::write(&file, format!("[persistence.sqlite]\npath = {path:?}\n"))?;
//! perennial::block_on(async {
//!     for expected in [100, 200] {
//!         let system = ActorSystem::from_config(&file)?
//!             .entity(Entity::<Account>::new(()))
//!             .start()
//!             .await?;
//!         let account = system.entity::<Account>("4711");
//!         assert_eq!(account.ask(Deposit(100)).await?, expected);
//!         system.shutdown().await?; // the second round finds what the first one stored
//!     }
//!     Ok(())
//! })
//! # }
//! ```
//!
//! # Concepts
//!
//! - An *entity* is a type that implements [`EventSourced`]: its value is the state, and its
//!   events are the only thing that changes it. One [`Handle`] impl per command says what the
//!   command does. Of a [`DurableState`] only the latest state is kept, and no events.
//! - An *effect* is what a handler returns: what to store, a reply, what to run afterwards.
//! - An [`Actor`] lives in memory alone. It handles typed messages too ([`Receive`]), has children,
//!   supervision, timers, and watches others.
//! - A *store* keeps events, snapshots and states. It is chosen by name in the configuration and linked
//!   in by a cargo feature.
//!
//! # Guarantees
//!
//! A reply leaves once everything that it says is durable. What was acknowledged comes back after
//! a crash. Commands of one entity are handled one after the other. Two writers never share a
//! sequence number. The full list is in `docs/semantics.md` of the repository.
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | `sqlite` (default) | the embedded store: one file, no server |
//! | `postgres` | the PostgreSQL store, on the tables of Pekko's R2DBC plugin |
//! | `postgres-tls` | the same with TLS, as `sslmode` says; without it only plain connections |
//! | `actix-interop` | `actix_interop`: actors of actix and ours talk to each other |
//! | `testkit` | for tests: `testkit::Spec` for one entity, `testkit::TestSystem` for a whole system, and the store in memory |
//!
//! # What it does not do yet
//!
//! Many nodes, projections. See `docs/roadmap.md` of the repository.

mod plugins;

use std::path::Path;

pub use futures_executor::block_on;
#[cfg(feature = "actix-interop")]
pub use perennial_core::actix_interop;
pub use perennial_core::cleanup;
pub use perennial_core::config::{self, ConfigError, ConfigSource};
pub use perennial_core::{
    Actor, ActorCx, ActorPath, ActorRef, ActorSystem, ActorTimers, Answer, Ask, AskActor, AskError,
    AskOnce, Asking, BreakerState, Changed, ChildFailed, Cx, DeadLetter, DeadLetterReason,
    Directive, Due, Durable, DurableState, Effect, Entity, EntityRef, EventSourced, Failure,
    Handle, InvalidCommands, OpenStore, Outside, PendingReply, PersistFailed, PersistFailure,
    Placement, Props, Receive, Received, Recipient, Recovery, RecoveryFailed, Repeatable,
    Retention, ShutdownError, Signal, SpawnError, Start, StartError, StateChange, StopReason,
    StorePlugin, StoreStatus, Supervision, SystemBuilder, SystemStats, Terminated, Then, Timers,
    WeakActorRef, WorkerStatus, engine,
};
// Where entities are, and what they wait for.
pub use perennial_core::{
    EntitiesOfWorker, EntityPhase, EntityStatus, EntityTypeStatus, StatusError, WaitsFor,
};
// What spreads work over them, and tells them of things.
pub use perennial_core::{
    AskRouter, AskWork, Assignment, Backlog, Broadcast, ConsistentHash, Daemon, DaemonProps,
    Daemons, DiscardReason, Discarded, EventStream, Group, LeastLoaded, Listing, NotAccepted,
    Overflow, Pool, PoolProps, Published, PullingWorker, Receptionist, RoundRobin, Router, Routing,
    RoutingKey, ServiceKey, SubscriberStatus, Subscription, SubscriptionEnd, Topic, TopicStatus,
    UnhandledCommand, WorkQueue, WorkQueueProps, WorkQueueStatus,
};
// What ends a system in good order.
pub use perennial_core::{
    AddTaskError, CoordinatedShutdown, PhaseReport, ShutdownPhase, ShutdownReason, ShutdownReport,
    ShutdownTask, TaskError, TaskOutcome, TaskRegistration, UnfinishedEntity,
};
// State machines.
pub use perennial_core::{
    Fsm, MachineName, Observe, PersistentFsm, PersistentStateMachine, StateMachine, StateTimeout,
    Transition, Unobserve,
};
pub use perennial_persistence as persistence;
pub use perennial_persistence::{
    Adapted, Codec, CommandId, Compression, Decimal, Format, MessagePack, PersistenceId, Registry,
    Schema, SchemaLock, SequenceNr, Timestamp, Tree, TreeError, Versions,
};
#[cfg(feature = "postgres")]
pub use perennial_postgres as postgres;
#[cfg(feature = "sqlite")]
pub use perennial_sqlite as sqlite;
#[cfg(feature = "testkit")]
pub use perennial_testkit as testkit;
pub use plugins::plugins;

/// The pages of the guide, whose code is compiled and run with that of the documentation. Features
/// stand where a page needs them.
#[cfg(doctest)]
mod guide {
    #[cfg(feature = "testkit")]
    #[doc = include_str!("../../../docs/guide/test-an-entity.md")]
    mod test_an_entity {}

    #[cfg(feature = "testkit")]
    #[doc = include_str!("../../../docs/guide/test-an-actor.md")]
    mod test_an_actor {}

    #[doc = include_str!("../../../docs/guide/change-an-events-format.md")]
    mod change_an_events_format {}

    #[doc = include_str!("../../../docs/guide/share-a-database-with-pekko.md")]
    mod share_a_database_with_pekko {}

    #[cfg(feature = "testkit")]
    #[doc = include_str!("../../../docs/guide/keep-only-state.md")]
    mod keep_only_state {}

    #[cfg(feature = "testkit")]
    #[doc = include_str!("../../../docs/guide/remind-an-entity.md")]
    mod remind_an_entity {}

    #[cfg(feature = "sqlite")]
    #[doc = include_str!("../../../docs/guide/distribute-work.md")]
    mod distribute_work {}

    #[cfg(feature = "testkit")]
    #[doc = include_str!("../../../docs/guide/state-machines.md")]
    mod state_machines {}
}

/// What most programs need.
pub mod prelude {
    pub use crate::{
        Actor, ActorCx, ActorRef, ActorSystem, AskError, Cx, Durable, DurableState, Effect, Entity,
        EntityRef, EventSourced, FromConfig, Handle, Props, Receive, Received,
    };
}

/// Starting a system from a configuration, with the stores that are linked in.
pub trait FromConfig {
    /// A system with the settings of a TOML file, and of the environment: a variable such as
    /// `PERENNIAL__PERSISTENCE__POSTGRES__URL` wins over the file.
    ///
    /// # Errors
    /// [`ConfigError`] if the file cannot be read or is no TOML. What is wrong with single
    /// settings is said by [`SystemBuilder::start`].
    fn from_config(file: impl AsRef<Path>) -> Result<SystemBuilder, ConfigError>;

    /// A system with the settings of a source that was put together in code.
    fn from_source(source: ConfigSource) -> SystemBuilder;
}

impl FromConfig for ActorSystem {
    fn from_config(file: impl AsRef<Path>) -> Result<SystemBuilder, ConfigError> {
        let source = ConfigSource::from_file(file)?.with_environment(std::env::vars_os())?;
        Ok(Self::from_source(source))
    }

    fn from_source(source: ConfigSource) -> SystemBuilder {
        ActorSystem::with_plugins(source, plugins())
    }
}
