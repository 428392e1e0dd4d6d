//! Plain actors on a worker.
//!
//! - `address`: where an actor is reached
//! - `letter`: a message from its sender to its handler and its reply
//! - `cell`: one actor's life
//! - `host`: the actors of a worker
//!
//! Whatever an actor learns of others comes as an [`Order`] to its cell, also if both are on one
//! worker: that its child has failed, that one whom it watches has ended. Orders are never refused
//! and need no room; there are as many of them as there are actors to tell of.

mod address;
mod cell;
mod host;
mod letter;

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::actor::{ChildFailed, StopReason};
pub(crate) use address::{ActorAddress, NewAddress};
pub(crate) use cell::{ActorTimer, Base};
pub use host::Newcomer;
pub(crate) use host::{ActorHost, NewActor, NewChild};
pub use letter::Parcel;
pub(crate) use letter::{Draw, Letter, Post, Step, put_aside};

/// The host of actors, beside those of entity types, in a [`CellKey`](crate::engine::CellKey).
pub(crate) const ACTORS: usize = usize::MAX;

/// Something for the cell of an actor.
pub struct ActorInput {
    pub(crate) to: Arc<ActorAddress>,
    pub(crate) order: Order,
}

/// What a cell is told or has to do.
pub(crate) enum Order {
    /// Stop, after the message that is being handled.
    Stop(StopReason),
    /// Stop, after the messages that came before.
    StopAfter(StopReason),
    /// Begin anew, as a sibling has failed; nothing for one that is not running.
    RestartWith(ChildFailed),
    /// Tell somebody of the end.
    Watch(Watcher),
    /// Tell it no more; by its number.
    Unwatch(u64),
    /// One that is watched has ended.
    Terminated(Arc<ActorAddress>, StopReason),
    /// A child has ended.
    ChildEnded(Arc<ActorAddress>),
    /// A child has failed, and whether that concerns its siblings or its parent too.
    ChildFailed(ChildFailed, Concerns),
    /// The answer to a question is there.
    Answered(u64),
}

/// Whom a failure concerns besides the one that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Concerns {
    Nobody,
    /// Siblings that share their fate.
    Siblings,
    /// The parent, to which it was escalated.
    Parent,
}

/// Who is told of an actor's end.
pub(crate) enum Watcher {
    Actor(Arc<ActorAddress>),
    Outside(oneshot::Sender<StopReason>),
    /// Part of the system, by the number under which it can be taken back.
    Listener(u64, Arc<dyn Listener>),
}

/// A part of the system that follows the lives of actors. It is told on the actor's worker, so it
/// must be quick.
pub(crate) trait Listener: Send + Sync {
    fn life(self: Arc<Self>, actor: &Arc<ActorAddress>, life: Life);
}

/// What has become of an actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// It handles messages, from its start or a restart on, or from before it was listened to.
    Running,
    /// It has failed and begins anew: the value is gone, what waits in its mailbox is not.
    Restarting,
    Ended,
}

impl std::fmt::Debug for ActorInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let order = match &self.order {
            Order::Stop(_) => "Stop",
            Order::StopAfter(_) => "StopAfter",
            Order::RestartWith(_) => "RestartWith",
            Order::Watch(_) => "Watch",
            Order::Unwatch(_) => "Unwatch",
            Order::Terminated(..) => "Terminated",
            Order::ChildEnded(_) => "ChildEnded",
            Order::ChildFailed(..) => "ChildFailed",
            Order::Answered(_) => "Answered",
        };
        write!(f, "{order} to {}", self.to)
    }
}
