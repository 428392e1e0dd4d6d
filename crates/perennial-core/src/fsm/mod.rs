//! State machines: what a user writes for an actor or entity that behaves by states.
//!
//! A machine has one state at a time, a value of the user's own enum with whatever data belongs to
//! it. What a message does is decided as ever, in [`Receive`] and [`Handle`], by a `match` on the
//! state or by functions per state; a handler that changes to no other state stays in this one.
//! There is no second engine: a [`StateMachine`] is an [`Actor`], and a [`PersistentStateMachine`] is
//! [`EventSourced`].
//!
//! | | [`StateMachine`] | [`PersistentStateMachine`] |
//! |---|---|---|
//! | its state is kept in | [`Fsm`] | [`PersistentFsm`] |
//! | it changes by | [`ActorCx::goto`], at once | [`PersistentFsm::goto`] in `apply`, so by events |
//! | a transition counts | right there, before the reply | when its events are stored, after the reply |
//! | then, in this order | the time-out of the state that was left ends, that of the new one begins, observers are told, `entered` runs, stashed messages come back | the same |
//!
//! Three things are told apart that are easily confused:
//!
//! - *staying*: no transition; the time-out of the state goes on.
//! - *entering anew*: a transition to the state that is there already, by `goto` as well; everything
//!   in the table happens, and the time-out begins from the start.
//! - *changing data*: `state_mut`, which is no transition.
//!
//! # Where this comes from
//!
//! Akka's `FSM` and Erlang's `gen_statem`. A state time-out counts from the entry, as that of
//! `gen_statem` does; Akka's counts from the latest message, which is [`ActorCx::set_receive_timeout`],
//! or [`ActorCx::restart_state_timeout`] where a message is to start it again. What is stashed comes
//! back with every transition, as what `gen_statem` postpones. `goto` takes effect at once and gives
//! back the state that was left, so that data moves from one state into the next.
//!
//! [`Actor`]: crate::Actor
//! [`ActorCx::goto`]: crate::ActorCx::goto
//! [`ActorCx::restart_state_timeout`]: crate::ActorCx::restart_state_timeout
//! [`ActorCx::set_receive_timeout`]: crate::ActorCx::set_receive_timeout
//! [`EventSourced`]: crate::EventSourced
//! [`Handle`]: crate::Handle
//! [`Receive`]: crate::Receive

mod persistent;
mod plain;

mod observers;
mod timeout;

pub(crate) use observers::Observers;
pub use observers::{MachineName, Observe, Transition, Unobserve};
pub(crate) use persistent::{Machine, MachineAction};
pub use persistent::{MachineHooks, PersistentFsm, PersistentStateMachine};
pub use plain::{Fsm, StateMachine};
pub use timeout::StateTimeout;
pub(crate) use timeout::{STATE_TIMEOUT, StateTimedOut};
