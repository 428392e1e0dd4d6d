//! Event-sourced entities: what a user writes.
//!
//! An entity's state changes only through its events. A command handler looks at the state and
//! returns an [`Effect`]; the engine stores the events, applies them, and lets the reply out once
//! they are durable. After a crash the entity is rebuilt from its latest snapshot and the events
//! after it.

mod commands;
mod context;
mod effect;
mod entity;
mod recovery;
mod reminders;
mod retention;
mod signal;
mod timers;

pub use commands::{AnswerFuture, CommandError, InvalidCommands};
pub(crate) use commands::{AnyCommands, MakeDelivery};
pub use context::Cx;
pub(crate) use effect::{
    Action, Body, Continuation, LaterWork, MakeReply, Outcome, Output, Restore,
};
pub use effect::{Effect, Then, Work};
pub use entity::Entity;
pub(crate) use entity::{EntityDef, Kept};
use perennial_persistence::SerializedPayload;
pub use recovery::Recovery;
pub use reminders::Due;
pub(crate) use reminders::ReminderOp;
pub use retention::Retention;
pub use signal::Signal;
pub use timers::Timers;
pub(crate) use timers::{MakeCommand, TimerOp};

use crate::fsm::MachineHooks;

/// An entity whose state is the sum of its events. `Self` is the state; the default value is the
/// state before the first event.
///
/// ```
/// use perennial_core::{Cx, Effect, EventSourced, Handle};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Default)]
/// struct Account {
///     balance: i64,
/// }
///
/// #[derive(Serialize, Deserialize)]
/// enum AccountEvent {
///     Deposited(i64),
/// }
///
/// impl EventSourced for Account {
///     const TYPE: &'static str = "Account";
///     type Event = AccountEvent;
///     type Services = ();
///
///     fn apply(&mut self, event: &AccountEvent) {
///         match event {
///             AccountEvent::Deposited(cents) => self.balance += cents,
///         }
///     }
/// }
///
/// struct Deposit(i64);
///
/// impl Handle<Deposit> for Account {
///     type Reply = i64;
///
///     fn handle(&self, command: Deposit, cx: &Cx<'_, Self>) -> Effect<Self, i64> {
///         cx.persist([AccountEvent::Deposited(command.0)])
///             .reply(|account| account.balance)
///     }
/// }
/// ```
///
/// A command without a `Handle` impl does not compile:
///
/// ```compile_fail
/// # use perennial_core::{EntityRef, EventSourced};
/// # #[derive(Default)] struct Account;
/// # impl EventSourced for Account {
/// #     const TYPE: &'static str = "Account";
/// #     type Event = ();
/// #     type Services = ();
/// #     fn apply(&mut self, _: &()) {}
/// # }
/// struct Unknown;
/// fn send(account: EntityRef<Account>) {
///     let _ = account.ask(Unknown);
/// }
/// ```
///
/// and neither does a handler that forgets its reply:
///
/// ```compile_fail
/// # use perennial_core::{Cx, Effect, EventSourced, Handle};
/// # #[derive(Default)] struct Account;
/// # impl EventSourced for Account {
/// #     const TYPE: &'static str = "Account";
/// #     type Event = ();
/// #     type Services = ();
/// #     fn apply(&mut self, _: &()) {}
/// # }
/// struct Deposit;
/// impl Handle<Deposit> for Account {
///     type Reply = i64;
///     fn handle(&self, _: Deposit, cx: &Cx<'_, Self>) -> Effect<Self, i64> {
///         cx.persist([()])
///     }
/// }
/// ```
pub trait EventSourced: Default + Send + Sized + 'static {
    /// The entity type: the first part of every persistence id, so never to be changed once
    /// events are stored. Without `|`.
    const TYPE: &'static str;

    /// What happens to the entity. Stored for ever, by serde as [`MessagePack`] unless the entity
    /// type is given a codec of its own.
    ///
    /// [`MessagePack`]: perennial_persistence::MessagePack
    type Event: Send + 'static;

    /// What handlers need from outside: shared, never stored. `()` for nothing.
    type Services: Send + Sync + 'static;

    /// Changes the state by one event. The only place where state changes.
    ///
    /// Runs for new events before they are stored and for stored ones in recovery, so it must be
    /// total and depend on nothing but the state and the event. A panic refuses the command; the
    /// event is not stored.
    fn apply(&mut self, event: &Self::Event);

    /// Changes the state by one event that was stored with metadata, or without. By default
    /// [`EventSourced::apply`]; what is said there holds here too.
    fn apply_with_metadata(&mut self, event: &Self::Event, metadata: Option<&SerializedPayload>) {
        let _ = metadata;
        self.apply(event);
    }

    /// What the engine has to do for a [`PersistentStateMachine`](crate::PersistentStateMachine),
    /// which brings it along.
    #[doc(hidden)]
    fn machine() -> Option<MachineHooks<Self>> {
        None
    }
}

/// One kind of command that an entity understands, with its reply.
pub trait Handle<C: Send + 'static>: EventSourced {
    /// What the caller gets.
    type Reply: Send + 'static;

    /// Decides what a command does. Looks at the state, changes nothing, never blocks: all entities
    /// of its worker wait for it, and one that takes longer than `slow-handler` is named in the log.
    ///
    /// The state may be ahead of the store. What the effect says leaves the entity only once the
    /// state is durable, and is taken back if a write before it fails, so do nothing here that
    /// reaches others; use [`Effect::then_run`] or [`Cx::later`].
    ///
    /// A panic restarts the entity from the store; the command has no effect.
    fn handle(&self, command: C, cx: &Cx<'_, Self>) -> Effect<Self, Self::Reply>;
}
