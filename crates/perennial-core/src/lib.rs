//! The actor engine of perennial: persistent entities that come back.
//!
//! An entity is a value with an id. Commands are sent to it by id; it decides what happened, the
//! engine stores that, applies it, and lets the reply out once it is durable. An entity that is
//! not in memory is brought back from its latest snapshot and the events after it, after a pause
//! as after a crash.
//!
//! ```
//! use std::sync::Arc;
//!
//! use perennial_core::config::ConfigSource;
//! use perennial_core::{ActorSystem, Cx, Effect, Entity, EventSourced, Handle};
//! use perennial_testkit::MemoryStore;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Default)]
//! struct Account {
//!     balance: u64,
//! }
//!
//! #[derive(Serialize, Deserialize)]
//! enum AccountEvent {
//!     Deposited(u64),
//!     Withdrawn(u64),
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
//!             AccountEvent::Withdrawn(cents) => self.balance -= cents,
//!         }
//!     }
//! }
//!
//! struct Deposit(u64);
//!
//! impl Handle<Deposit> for Account {
//!     type Reply = u64;
//!
//!     fn handle(&self, command: Deposit, cx: &Cx<'_, Self>) -> Effect<Self, u64> {
//!         cx.persist([AccountEvent::Deposited(command.0)])
//!             .reply(|account| account.balance)
//!     }
//! }
//!
//! struct Withdraw(u64);
//!
//! #[derive(Debug, PartialEq)]
//! struct TooMuch;
//!
//! impl Handle<Withdraw> for Account {
//!     type Reply = Result<u64, TooMuch>;
//!
//!     fn handle(&self, command: Withdraw, cx: &Cx<'_, Self>) -> Effect<Self, Self::Reply> {
//!         if command.0 > self.balance {
//!             return cx.reply(Err(TooMuch));
//!         }
//!         cx.persist([AccountEvent::Withdrawn(command.0)])
//!             .reply(|account| Ok(account.balance))
//!     }
//! }
//!
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! // The crate `perennial` opens the store that a configuration file names.
//! let database = MemoryStore::default();
//! for (expected, left) in [(100, 70), (170, 140)] {
//!     let store = Arc::new(database.open_again());
//!     let system = ActorSystem::with_store(ConfigSource::empty(), store)
//!         .entity(Entity::<Account>::new(()))
//!         .start()
//!         .await?;
//!     let account = system.entity::<Account>("4711");
//!     assert_eq!(account.ask(Deposit(100)).await?, expected);
//!     assert_eq!(account.ask(Withdraw(30)).await?, Ok(left));
//!     assert_eq!(account.ask(Withdraw(1000)).await?, Err(TooMuch));
//!     // The next round finds what this one stored.
//!     system.shutdown().await?;
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Concepts
//!
//! - **Entity**: a type that is [`EventSourced`]; the value is its state, which changes in
//!   [`EventSourced::apply`] and nowhere else. Of a [`DurableState`] only the latest state is kept,
//!   which its commands replace; they are handled by [`Durable`]. [`Entity`] registers either with
//!   its services, codecs and settings.
//! - **Command**: any type with a [`Handle`] impl, which names the type of its reply. The handler
//!   looks at the state and returns an [`Effect`], made by the context [`Cx`]: what to store, what
//!   to reply, what to run after that. An unknown command, a wrong reply and a forgotten one do not
//!   compile.
//! - **State machine**: an actor or entity that behaves by states, with time-outs and observers; see
//!   [`StateMachine`] and [`PersistentStateMachine`].
//! - **Reference**: an [`EntityRef`] reaches an entity by its id, in memory or not, and stays valid
//!   for as long as the system. [`EntityRef::ask`] waits for the reply, [`EntityRef::tell`] does
//!   not. [`AskError`] says whether a command without a reply may have taken effect.
//! - **System**: an [`ActorSystem`] has workers, which own the entities, and a store. It starts
//!   from tokio, from actix and from a plain thread alike, and has threads of its own for all that
//!   it does.
//! - **Incarnation**: an entity from one recovery to its end, by a stop, a failure or passivation.
//!   Stash, timers and futures live with an incarnation, the stash also across failures.
//! - **Plain actor**: an [`Actor`] lives in memory. Work is spread over several by the routers of a
//!   [`Pool`] or [`Group`], or pulled by them from a [`WorkQueue`]; a [`Topic`] or the [`EventStream`]
//!   tells them what happens, and the [`Receptionist`] has them find each other.
//!
//! # Guarantees
//!
//! `docs/semantics.md` has them line by line, each with the test that shows it. In short:
//!
//! - A reply leaves when everything that its handler saw or stored is durable. So does what was
//!   given to `then_run`, and no future of [`Cx::later`] starts before.
//! - Callers of one entity see its commands handled one after another, although the entity does not
//!   wait for its writes: it goes on with state that is *tentative*, holds what it says, and takes
//!   it back when a write fails.
//! - The events of one command are stored together or not at all, numbered without a gap, and
//!   nobody else's take a number that is in use.
//! - No write ends unnoticed: if the store cannot say what became of it, exactly the same rows are
//!   sent again until it can. A caller is told that a command failed only if it is certain.
//! - Commands of one sender to one entity are handled in the order in which they were sent, at most
//!   once. None is sent again by the engine; what the caller may do is said by
//!   [`AskError::is_not_handled`]. One with an id ([`Ask::command_id`]) that persists events takes
//!   effect once, however often it is sent while its entity knows the id, and every attempt gets the
//!   first answer.
//! - A panic of user code restarts its entity, after a wait that doubles, and concerns no other.
//! - Every queue has a bound, which is a setting with a documented effect. A full one refuses a
//!   command before it is queued, as [`AskError::Busy`].
//! - While a store is slow or down, what needs it is refused at once as [`AskError::Busy`], and goes
//!   on by itself when it is back. [`ActorSystem::status`] tells of it.
//!
//! # Features
//!
//! - `actix-interop`: actors of actix and ours talk to each other, by the module `actix_interop`.
//! - `defects`: lets tests break the engine on purpose, to see that they notice. Never in a program.
//!
//! # What it does not do
//!
//! - It opens no database: stores implement the contracts of `perennial-persistence`; the crate
//!   `perennial` has them by name. It brings no event to readers; that is the part of projections.
//! - It runs on one node. Two systems on one database are safe, as the store refuses a stale writer,
//!   but every such refusal costs the loser a recovery.
//! - It does not interrupt a handler. One that blocks holds up all entities of its worker, and is
//!   named in the log; use [`Cx::blocking`] for such work.
//! - It sends no command again, deletes no event unless it is told to, and stores nothing from inside
//!   a future.

#[cfg(feature = "actix-interop")]
pub mod actix_interop;
mod actor;
mod call;
pub mod cleanup;
mod command;
pub mod config;
mod daemon;
mod dead_letters;
mod deadline;
mod durable_state;
pub mod engine;
mod entity_ref;
mod entity_status;
mod error;
mod event_sourced;
mod fsm;
mod metrics;
mod pubsub;
mod receptionist;
mod reply;
mod router;
mod runtime;
mod shutdown;
mod system;
mod work;

pub use actor::{
    Actor, ActorCx, ActorPath, ActorRef, ActorTimers, Answer, AskActor, ChildFailed, Directive,
    Failure, Outside, PendingReply, Placement, Props, Receive, Received, Recipient, SpawnError,
    StopReason, Supervision, Terminated, WeakActorRef,
};
pub use command::Repeatable;
pub use daemon::{Daemon, DaemonProps, Daemons};
pub use dead_letters::{DeadLetter, DeadLetterReason};
pub use durable_state::{Changed, Durable, DurableState, StateChange};
pub use engine::BreakerState;
pub use entity_ref::{Ask, AskOnce, Asking, EntityRef, Start};
pub use entity_status::{
    EntitiesOfWorker, EntityPhase, EntityStatus, EntityTypeStatus, StatusError, WaitsFor,
};
pub use error::{AskError, PersistFailed, PersistFailure, RecoveryFailed};
pub use event_sourced::{
    AnswerFuture, CommandError, Cx, Due, Effect, Entity, EventSourced, Handle, InvalidCommands,
    Recovery, Retention, Signal, Then, Timers, Work,
};
#[doc(hidden)]
pub use fsm::MachineHooks;
pub use fsm::{
    Fsm, MachineName, Observe, PersistentFsm, PersistentStateMachine, StateMachine, StateTimeout,
    Transition, Unobserve,
};
pub use pubsub::{
    Backlog, EventStream, Overflow, Published, SubscriberStatus, Subscription, SubscriptionEnd,
    Topic, TopicStatus, UnhandledCommand,
};
pub use receptionist::{Group, Listing, Receptionist, ServiceKey};
pub use router::{
    AskRouter, Broadcast, ConsistentHash, LeastLoaded, Pool, PoolProps, RoundRobin, Router,
    Routing, RoutingKey,
};
pub use shutdown::{
    AddTaskError, CoordinatedShutdown, PhaseReport, ShutdownPhase, ShutdownReason, ShutdownReport,
    ShutdownTask, TaskError, TaskOutcome, TaskRegistration, UnfinishedEntity,
};
pub use system::{
    ActorSystem, OpenStore, ShutdownError, StartError, StorePlugin, StoreStatus, SystemBuilder,
    SystemStats, WorkerStatus,
};
pub use work::{
    AskWork, Assignment, DiscardReason, Discarded, NotAccepted, PullingWorker, WorkQueue,
    WorkQueueProps, WorkQueueStatus,
};
