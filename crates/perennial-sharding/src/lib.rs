//! Shards of perennial: which node of a cluster owns which entities, how they change their owner, and
//! how a stale owner is kept from doing harm.
//!
//! Ids are divided into 1,024 slices for ever, and slices into shards, equal ranges of them
//! ([`ShardCount`]). A shard is what nodes own: one node at a time, under a [`Token`] that grows from
//! owner to owner. There is no coordinator and no routing table:
//!
//! - **Who should own what** every node works out by itself, with one pure function, [`allocate`],
//!   from the same members, owners and loads. Views that differ for a while cost a detour.
//! - **Who owns it** is decided by a lease ([`Leases`]), with a validity that its holder counts from
//!   before it asked. An owner that cannot be sure any more stops before another one can begin.
//! - **What slips through** is refused by the journal: a stale owner's write has a number that is taken.
//! - **A sender addresses a shard** ([`Transport`]); whoever owns it listens. Token and number of each
//!   command make sure that it is taken at most once, by one owner, in the order of its sender.
//!
//! [`Keeper`] is all of that for one node, as a deterministic state machine without I/O, clock,
//! threads or chance. What drives it takes its outputs to the three contracts and to the node's
//! workers, and brings the answers back.
//!
//! ```
//! use std::time::Duration;
//! use perennial_persistence::SerializedPayload;
//! use perennial_sharding::{
//!     Answer, CallId, Input, Keeper, LeaseTable, Member, MemberState, MemberView, NodeId, Output,
//!     RemoteCommand, Settings, ShardCount,
//! };
//!
//! // A node that finds itself alone asks for all shards,
//! let node = NodeId::new("ann", 1);
//! let settings = Settings::default().with_shards(ShardCount::new(1)?);
//! let mut keeper = Keeper::new(node.clone(), settings, 4711)?;
//! let members = vec![Member::new(node.clone(), MemberState::Up)];
//! let view = MemberView { version: 1, members };
//! let now = Duration::ZERO;
//! let mut inputs = vec![Input::Members(view)];
//! let payload = SerializedPayload::new(77, "Add", &b"2"[..]);
//! let ask = RemoteCommand::ask("Counter", "a", payload, Duration::from_secs(5));
//! inputs.push(Input::Send(CallId(1), Box::new(ask)));
//!
//! // gets them from the leases, and gives its engine what waits for them.
//! let mut leases = LeaseTable::default();
//! let mut delivered = None;
//! while delivered.is_none() {
//!     let outbox = keeper.turn(now, inputs.drain(..));
//!     for output in outbox.outputs {
//!         match output {
//!             Output::Acquire(request, shard, validity) => {
//!                 let result = leases.acquire(now, shard, &node, validity);
//!                 inputs.push(Input::Acquired(request, shard, result));
//!             }
//!             Output::Deliver { ticket, .. } => delivered = Some(ticket),
//!             _ => {}
//!         }
//!     }
//! }
//!
//! // Once that has stored what it has to tell, the caller is answered.
//! let reply = Answer::Reply(SerializedPayload::new(77, "Sum", &b"2"[..]));
//! let answered = Input::Answered(delivered.expect("it was"), reply.clone());
//! let outbox = keeper.turn(now, [answered]);
//! let is_settled = |output: &Output| matches!(output, Output::Settled(CallId(1), own) if *own == reply);
//! assert!(outbox.outputs.iter().any(is_settled));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Guarantees
//!
//! `docs/semantics.md` has them one by one, under "Shards and nodes", with the tests. In short: no
//! acknowledgement leaves from an owner once another may have begun; commands of one sender to one
//! entity are handled in their order, whoever owns it meanwhile; every call ends in an answer, and one
//! that failed says whether the command may have been handled; and once nodes can reach each other and
//! the leases, all shards have an owner within a bound.
//!
//! # When there is one node
//!
//! [`SingleNode`] has the contracts for one process. It costs nothing: the local road to an entity does
//! not pass here.
//!
//! # Proof
//!
//! With the feature `testkit` there is `simulation`: a cluster in virtual time, with everything that
//! goes wrong drawn from a seed, and a checker over all that was asked, answered and stored. And there is
//! `contract`, the tests that every service of leases has to pass.
//!
//! # What it does not do
//!
//! It carries no byte itself: there is no network transport here, and no service for leases and
//! members. It sends no command twice on its own account, so what an owner took before it crashed ends
//! as unknown; a command with an id may be sent again by its caller.

#[cfg(feature = "testkit")]
pub mod contract;
#[cfg(feature = "testkit")]
pub mod simulation;

mod allocation;
mod keeper;
mod lease;
#[cfg(feature = "testkit")]
mod memory_leases;
mod node;
mod shard;
mod single_node;
mod transport;

pub use allocation::{Limits, Move, allocate};
#[cfg(feature = "defects")]
pub use keeper::Defect;
pub use keeper::{
    CallId, Input, InvalidSettings, Keeper, Outbox, Output, RequestId, Settings, ShardPhase,
    ShardStatus, Ticket,
};
pub use lease::{LeaseError, LeaseTable, Leases, Tenure, Token};
#[cfg(feature = "testkit")]
pub use memory_leases::MemoryLeases;
pub use node::{Member, MemberState, MemberView, Membership, MembershipUnavailable, NodeId};
pub use shard::{InvalidShardCount, ShardCount, ShardId};
pub use single_node::SingleNode;
pub use transport::{
    Answer, Destination, Failure, FailureEffect, Frame, MAX_CHAIN, RemoteCommand, Transport,
    TransportError, Wants,
};
