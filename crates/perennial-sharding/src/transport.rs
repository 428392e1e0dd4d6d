//! What nodes say to each other, and the contract by which it gets there.
//!
//! A sender addresses a shard, and whoever owns it listens there: a sender knows no routes. What a
//! message of a session is accepted by, and in which order, is decided by its token and number, not
//! by the transport, of which little is asked.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use perennial_core::AskError;
use perennial_persistence::{BoxFuture, CommandId, SerializedPayload};

use crate::lease::Token;
use crate::node::NodeId;
use crate::shard::ShardId;

/// The most links that the chain of an ask may have when it leaves its node; one with more is refused.
pub const MAX_CHAIN: usize = 64;

/// A command on its way to an entity, wherever that is.
///
/// `Debug` shows no payload.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemoteCommand {
    /// The name of the entity type, at most 255 characters with the id.
    pub entity_type: Arc<str>,
    /// The id of the entity, without its type.
    pub entity_id: Arc<str>,
    /// The command, encoded under its stable name.
    pub payload: SerializedPayload,
    /// Whether its sender waits for the reply, or only wants it to be taken.
    pub wants: Wants,
    /// How long its sender still waits, when the command is sent. Set again whenever it is.
    pub time_left: Duration,
    /// Its id, if it has one and may be sent again.
    pub command_id: Option<CommandId>,
    /// On whose behalf it is sent: names of actors and persistence ids, the first asker first. At
    /// most [`MAX_CHAIN`]. By it an ask that would wait for itself is recognised on another node.
    pub chain: Vec<Arc<str>>,
    /// The trace that it belongs to, as the text of a W3C `traceparent`.
    pub trace: Option<Arc<str>>,
}

impl RemoteCommand {
    /// A command whose sender waits for its reply, for `time_left`.
    pub fn ask(
        entity_type: impl Into<Arc<str>>,
        entity_id: impl Into<Arc<str>>,
        payload: SerializedPayload,
        time_left: Duration,
    ) -> Self {
        Self {
            entity_type: entity_type.into(),
            entity_id: entity_id.into(),
            payload,
            wants: Wants::Reply,
            time_left,
            command_id: None,
            chain: Vec::new(),
            trace: None,
        }
    }

    /// Has the sender wait only until the owner of the shard has taken the command.
    #[must_use]
    pub fn one_way(mut self) -> Self {
        self.wants = Wants::Taken;
        self
    }

    /// Gives it an id.
    #[must_use]
    pub fn with_command_id(mut self, command_id: CommandId) -> Self {
        self.command_id = Some(command_id);
        self
    }

    /// Says on whose behalf it is sent.
    #[must_use]
    pub fn with_chain(mut self, chain: Vec<Arc<str>>) -> Self {
        self.chain = chain;
        self
    }

    /// Makes it a part of a trace.
    #[must_use]
    pub fn with_trace(mut self, trace: impl Into<Arc<str>>) -> Self {
        self.trace = Some(trace.into());
        self
    }
}

/// What the sender of a command waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// The reply of the entity.
    Reply,
    /// That the owner of the shard has taken it. What becomes of it then is not told.
    Taken,
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The entity's reply.
    Reply(SerializedPayload),
    /// The owner of the shard has taken it, which is all that was asked for.
    Taken,
    /// There is no reply.
    Failed(Failure),
}

/// Why there is no reply, in a form that crosses nodes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Failure {
    /// What it did.
    pub effect: FailureEffect,
    /// What happened, for people.
    pub reason: Arc<str>,
    /// A time after which it makes sense to try again, if it does.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure with this effect.
    pub fn new(effect: FailureEffect, reason: impl Into<Arc<str>>) -> Self {
        Self {
            effect,
            reason: reason.into(),
            retry_after: None,
        }
    }

    /// A failure that passes.
    #[must_use]
    pub fn with_retry_after(mut self, retry_after: Duration) -> Self {
        self.retry_after = Some(retry_after);
        self
    }
}

/// What a command without a reply did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureEffect {
    /// It certainly was not handled and will not be: it may be sent again.
    NotHandled,
    /// It was handled and changed nothing.
    None,
    /// It did what it was to do; only its reply is missing.
    Done,
    /// It may have taken effect, or may still do.
    Unknown,
}

impl From<&AskError> for Failure {
    fn from(error: &AskError) -> Self {
        let effect = if error.is_not_handled() {
            FailureEffect::NotHandled
        } else if error.is_outcome_unknown() {
            FailureEffect::Unknown
        } else if matches!(error, AskError::NoReply | AskError::ReplyUnreadable { .. }) {
            FailureEffect::Done
        } else {
            FailureEffect::None
        };
        let retry_after = match error {
            AskError::Busy { retry_after, .. } => Some(*retry_after),
            _ => None,
        };
        Self {
            effect,
            reason: error.to_string().into(),
            retry_after,
        }
    }
}

/// What one node says to another. Its form on the wire is the transport's.
///
/// A session is what one sender says to one tenure of a shard. It begins with [`Open`](Self::Open),
/// has commands numbered from 0, and is over with [`Closed`](Self::Closed) or a later tenure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// To a shard: who owns it, and may I send?
    Open {
        /// Which shard.
        shard: ShardId,
        /// Who asks.
        from: NodeId,
    },
    /// To a sender: this tenure takes commands. Also the answer to a command for an earlier one.
    Opened {
        /// Which shard.
        shard: ShardId,
        /// Which tenure.
        token: Token,
    },
    /// To a shard: a command. Taken only by the tenure with its token, and only if its number is
    /// higher than all that the tenure had of the sender before: at most once, in order.
    Command {
        /// Which shard.
        shard: ShardId,
        /// Whose session.
        from: NodeId,
        /// With which tenure.
        token: Token,
        /// Its number in the session.
        number: u64,
        /// What is to be handled.
        command: Box<RemoteCommand>,
    },
    /// To a sender: what became of a command.
    Answer {
        /// Which shard.
        shard: ShardId,
        /// Which tenure.
        token: Token,
        /// The number of the command.
        number: u64,
        /// What became of it.
        answer: Answer,
    },
    /// To a sender: this tenure takes nothing more. Of the session's commands it has taken none from
    /// number `below` on, and never will: they may go to the next owner.
    Closed {
        /// Which shard.
        shard: ShardId,
        /// Which tenure.
        token: Token,
        /// The first number that it certainly did not take.
        below: u64,
    },
}

impl Frame {
    /// The shard that it is about.
    pub fn shard(&self) -> ShardId {
        match self {
            Self::Open { shard, .. }
            | Self::Opened { shard, .. }
            | Self::Command { shard, .. }
            | Self::Answer { shard, .. }
            | Self::Closed { shard, .. } => *shard,
        }
    }
}

/// Where a frame goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destination {
    /// To whoever listens to a shard, which is its owner, and for a moment may be two or nobody.
    Shard(ShardId),
    /// To a node.
    Node(NodeId),
}

/// Carries frames.
///
/// It may lose them, be late without a bound, and deliver one twice. Frames of one node to one
/// listener should arrive in the order in which they were sent: one that is overtaken by a later
/// command of its session is not taken, and its sender learns no more than that its outcome is
/// unknown. Frames of one incarnation must not be taken for those of another.
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// Sends a frame. It is on its way when the future ends, and may still be lost.
    ///
    /// # Errors
    /// [`TransportError`] if it certainly was not sent. A frame that may have been is `Ok`.
    ///
    /// # Cancel safety
    /// Dropped, the frame may have been sent or not.
    fn send(&self, to: Destination, frame: Frame) -> BoxFuture<'_, Result<(), TransportError>>;

    /// Has frames that go to a shard come to this node, beside those to the node itself, until
    /// [`silence`](Self::silence).
    ///
    /// # Errors
    /// [`TransportError`] if they do not come; it may be tried again.
    ///
    /// # Cancel safety
    /// Dropped, they may come or not. The call may be repeated.
    fn listen(&self, shard: ShardId) -> BoxFuture<'_, Result<(), TransportError>>;

    /// Has frames to a shard come no more. Some may still.
    ///
    /// # Errors
    /// [`TransportError`] if they may still come. They do no harm; it may be tried again.
    ///
    /// # Cancel safety
    /// Dropped, they may still come. The call may be repeated.
    fn silence(&self, shard: ShardId) -> BoxFuture<'_, Result<(), TransportError>>;

    /// The next frame for this node or for a shard that it listens to. One task calls it at a time.
    ///
    /// # Errors
    /// [`TransportError`] while the transport is away; it may be tried again.
    ///
    /// # Cancel safety
    /// Cancel safe: a frame is given to a call that ends, or to the next one.
    fn receive(&self) -> BoxFuture<'_, Result<Frame, TransportError>>;
}

/// The transport cannot do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// It is out of reach for now.
    #[error("the transport is away: {reason}")]
    Unavailable {
        /// What happened, for people.
        reason: Arc<str>,
    },
    /// The frame is larger than what it carries.
    #[error("a frame of {bytes} bytes is too large for the transport, which carries {most}")]
    TooLarge {
        /// The frame's size.
        bytes: usize,
        /// What it carries.
        most: usize,
    },
    /// It was closed, for good.
    #[error("the transport was closed")]
    Closed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_on_another_node_what_the_command_did() {
        let busy = AskError::Busy {
            what: "the entity's mailbox",
            retry_after: Duration::from_millis(10),
        };
        let failure = Failure::from(&busy);
        assert_eq!(failure.effect, FailureEffect::NotHandled);
        assert_eq!(failure.retry_after, Some(Duration::from_millis(10)));
        assert_eq!(
            failure.to_string(),
            "the entity's mailbox is full; try again in 10ms"
        );
        let unknown = AskError::Unknown { reason: "time" };
        assert_eq!(Failure::from(&unknown).effect, FailureEffect::Unknown);
        assert_eq!(
            Failure::from(&AskError::Unhandled).effect,
            FailureEffect::None
        );
        assert_eq!(
            Failure::from(&AskError::NoReply).effect,
            FailureEffect::Done
        );
    }
}
