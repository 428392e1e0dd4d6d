//! Nodes, and the contract that tells who is there.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use perennial_persistence::BoxFuture;

/// One incarnation of a node: a name that stays, and a number that grows with every start.
///
/// Leases and sessions belong to an incarnation, so that what a process held before its crash is
/// not taken for what it holds after it. Cheap to clone. Ordered by name, then incarnation.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    name: Arc<str>,
    incarnation: u64,
}

impl NodeId {
    /// The incarnation of the node `name` that was started as number `incarnation`. A number that
    /// grows may be counted in a file or table, or be the time of the start in microseconds.
    pub fn new(name: impl Into<Arc<str>>, incarnation: u64) -> Self {
        Self {
            name: name.into(),
            incarnation,
        }
    }

    /// The name, the same after every start.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which start of it.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.name, self.incarnation)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Which node.
    pub node: NodeId,
    /// What it can be counted on for.
    pub state: MemberState,
}

impl Member {
    /// A member in this state.
    pub fn new(node: NodeId, state: MemberState) -> Self {
        Self { node, state }
    }
}

/// What a member can be counted on for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberState {
    /// It is there and is not ready: it gets no shards yet.
    Joining,
    /// It gets shards.
    Up,
    /// It gets no more shards, and gives away what it has.
    Leaving,
}

/// Tells who is there. Every node has one, and the views of two nodes may differ for a while:
/// nothing relies on their agreement but that shards find their place; leases decide who owns one.
///
/// A member that is not heard of for a time is left out by the implementation, which says how long
/// that is. Of two incarnations of one name only the latest is a member.
pub trait Membership: fmt::Debug + Send + Sync + 'static {
    /// Makes this node known in `state`, and keeps it known until the next call or
    /// [`leave`](Self::leave).
    ///
    /// # Errors
    /// [`MembershipUnavailable`] if it may not be known to others; it may be tried again.
    ///
    /// # Cancel safety
    /// Dropped, the node may be known or not. The call may be repeated.
    fn announce(&self, state: MemberState) -> BoxFuture<'_, Result<(), MembershipUnavailable>>;

    /// Takes this node out of the members.
    ///
    /// # Errors
    /// [`MembershipUnavailable`] if others may still know it. They forget it after a while.
    ///
    /// # Cancel safety
    /// Dropped, the node may still be known. The call may be repeated.
    fn leave(&self) -> BoxFuture<'_, Result<(), MembershipUnavailable>>;

    /// Waits for a view other than the one with the version `seen`, and gives it. With 0 it gives
    /// the present view at once.
    ///
    /// # Errors
    /// [`MembershipUnavailable`] if the members cannot be read. The view that was given last is
    /// what is known; the call may be repeated.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is lost when it is dropped, as the version is the caller's.
    fn changed(&self, seen: u64) -> BoxFuture<'_, Result<MemberView, MembershipUnavailable>>;
}

/// Who is there, as one node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberView {
    /// Grows with every view that this node is given, from 1 on.
    pub version: u64,
    /// The members, in no particular order, one for each name.
    pub members: Vec<Member>,
}

/// The members cannot be read, or this node not be made known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the membership is out of reach: {reason}; try again in {retry_after:?}")]
pub struct MembershipUnavailable {
    /// What happened, for people.
    pub reason: Arc<str>,
    /// A time after which it makes sense to try again.
    pub retry_after: Duration,
}
