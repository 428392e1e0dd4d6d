//! What a caller is told when a command has no reply.

use std::sync::Arc;
use std::time::Duration;

use perennial_persistence::{CommandId, InvalidId, PersistenceId, SequenceNr};

/// What is busy while a store is slow or down.
pub(crate) const STORE_AWAY: &str = "the store";

/// What is busy while a router has no routee.
pub(crate) const NO_ROUTEE: &str = "the router";

/// What is busy while what a store has of an entity is deleted.
pub(crate) const CLEANED_UP: &str = "the entity's clean-up";

/// Why an ask has no reply.
///
/// [`AskError::is_not_handled`] and [`AskError::is_outcome_unknown`] tell what may have happened
/// to the command. Everything else means that it was handled and changed nothing, except
/// [`AskError::NoReply`] and [`AskError::ReplyUnreadable`], where it did what it was to do.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// A bound is reached. The command had no effect: it is safe to send it again.
    ///
    /// The bounds are `mailbox` and `inbox`, at which the command was never queued, and `stash` and
    /// `later-limit`, at which its handler could not do what it wanted. It is also what a command
    /// is told that needs the store while that is slow or down (`breaker-failures`): to bring its
    /// entity back, or to store the events that its handler wanted to persist. And it is what an
    /// entity's commands are told while it is cleaned up (see [`cleanup`](crate::cleanup)).
    #[error("{what} {}; try again in {retry_after:?}", how_busy(what))]
    Busy {
        /// Which bound was reached, or what else stands in the way.
        what: &'static str,
        /// A time after which it makes sense to try again. For the store it is when the next call
        /// may find out whether it is back.
        retry_after: Duration,
    },
    /// The time ran out while the command was waiting, in a queue or stashed. It certainly was not
    /// handled and will not be.
    #[error("the time ran out before the command was handled")]
    Expired,
    /// The command was handled, but its outcome did not become known in time or got lost. It may
    /// have taken effect, or may still do.
    ///
    /// The time of the caller ran out first; the store could not say for the whole
    /// `outcome-timeout` whether the events are stored, or another writer deleted or replaced them
    /// before it could; the future of the command panicked, took
    /// too long or lost its entity to a restart or stop; or the system ended first.
    #[error("the outcome of the command is unknown: {reason}")]
    Unknown {
        /// What happened.
        reason: &'static str,
    },
    /// The system is stopping or has stopped, or the worker of the entity has panicked. The command
    /// was not handled.
    #[error("the actor system has stopped")]
    Stopped,
    /// The events could not be stored. Nothing of the command took effect.
    #[error(transparent)]
    PersistFailed(#[from] PersistFailed),
    /// The entity could not be brought back, so it cannot handle anything. The command was not
    /// handled. The entity is tried again after a wait, by the next command that comes then.
    #[error(transparent)]
    RecoveryFailed(#[from] RecoveryFailed),
    /// The entity has no use for the command in its present state.
    #[error("the command was not handled by the entity in its present state")]
    Unhandled,
    /// The handler finished without a reply, on purpose.
    #[error("the handler does not reply to this command")]
    NoReply,
    /// The entity's code panicked. Nothing of the command was stored.
    #[error("{persistence_id} panicked in {place}: {message}")]
    Panicked {
        /// Whose code it was.
        persistence_id: PersistenceId,
        /// Which of its functions.
        place: &'static str,
        /// The panic's message.
        message: Arc<str>,
    },
    /// The actor failed while it handled the message: its code panicked or returned a
    /// [`Failure`](crate::Failure).
    #[error("{actor} failed: {failure}")]
    Failed {
        /// Which actor.
        actor: Arc<str>,
        /// What happened.
        failure: Arc<str>,
    },
    /// The one that is asked waits for the end of something on whose behalf it is asked, so neither
    /// would ever end. It was not sent.
    #[error("an ask that waits for itself: {path}")]
    Cycle {
        /// Who asks whom.
        path: Arc<str>,
    },
    /// The command's id stands for another request to this entity. The command was not handled.
    #[error("command id {command_id} of {persistence_id} was used for another request")]
    CommandIdReused {
        /// Whose command it was.
        persistence_id: PersistenceId,
        /// The id.
        command_id: CommandId,
    },
    /// The command cannot have an id here, or what its id stands for cannot be told. It was not
    /// handled.
    #[error("the command cannot be handled with its id: {reason}")]
    CommandIdRefused {
        /// What is wrong.
        reason: Arc<str>,
    },
    /// The command took effect when it came first. Its reply is stored, but is no reply of the
    /// present type.
    #[error("the reply to command {command_id} of {persistence_id} cannot be read: {reason}")]
    ReplyUnreadable {
        /// Whose command it was.
        persistence_id: PersistenceId,
        /// The command.
        command_id: CommandId,
        /// Why not.
        reason: Arc<str>,
    },
    /// The id cannot be stored.
    #[error(transparent)]
    InvalidId(#[from] InvalidId),
    /// The entity type was not given to the system when it was started.
    #[error(
        "entity type \"{entity_type}\" is not registered; pass it to `entity(…)` before `start()`"
    )]
    NotRegistered {
        /// The type's name.
        entity_type: &'static str,
    },
    /// The id is in use as one of another entity type, which is possible only with
    /// [`ActorSystem::entity_with_id`](crate::ActorSystem::entity_with_id). The command was not sent.
    #[error("{persistence_id} is in use as an entity of type \"{entity_type}\"")]
    OtherType {
        /// The id.
        persistence_id: PersistenceId,
        /// The type that it is in use as.
        entity_type: &'static str,
    },
}

impl AskError {
    /// Whether the command certainly was not handled and will not be, so that sending it again
    /// cannot do anything twice.
    pub fn is_not_handled(&self) -> bool {
        matches!(
            self,
            Self::Busy { .. }
                | Self::Expired
                | Self::Stopped
                | Self::RecoveryFailed(_)
                | Self::CommandIdReused { .. }
                | Self::CommandIdRefused { .. }
                | Self::InvalidId(_)
                | Self::NotRegistered { .. }
                | Self::OtherType { .. }
                | Self::Cycle { .. }
        )
    }

    /// Whether the command may have taken effect.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }
}

/// The events of a command could not be stored; the entity goes on without them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("events of {persistence_id} were not stored: {reason}")]
pub struct PersistFailed {
    /// Whose events they were.
    pub persistence_id: PersistenceId,
    /// What kind of failure it was.
    pub kind: PersistFailure,
    /// What happened, for people.
    pub reason: Arc<str>,
}

/// Kinds of [`PersistFailed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PersistFailure {
    /// Another writer has written in the meantime. The entity recovers and sees it; the command may
    /// be sent again.
    Conflict,
    /// The events cannot be stored, now or later: the store refuses them, they cannot be encoded,
    /// or are more or larger than allowed.
    Rejected,
    /// The store could not be reached for the whole `outcome-timeout`; nothing was stored. The
    /// command may be sent again.
    Unavailable,
    /// An earlier command's events, which this command's state was built on, were not stored. The
    /// command itself was not judged; it may be sent again.
    Earlier,
}

/// An entity could not be brought back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{persistence_id} cannot be recovered{}: {reason}", at(*seq_nr))]
pub struct RecoveryFailed {
    /// Which entity.
    pub persistence_id: PersistenceId,
    /// The event or snapshot at which it failed, if it was one.
    pub seq_nr: Option<SequenceNr>,
    /// What happened, for people.
    pub reason: Arc<str>,
}

fn how_busy(what: &str) -> &'static str {
    match what {
        STORE_AWAY => "is slow or down",
        CLEANED_UP => "has not ended",
        NO_ROUTEE => "has nobody to send to",
        _ => "is full",
    }
}

fn at(seq_nr: Option<SequenceNr>) -> String {
    seq_nr.map_or_else(String::new, |nr| format!(" (at sequence number {nr})"))
}

/// The error and its sources in one line, for messages that leave the process's types behind.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> Arc<str> {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let part = error.to_string();
        // Some libraries repeat their source in their own text.
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        source = error.source();
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_may_have_happened() {
        let busy = AskError::Busy {
            what: "the mailbox",
            retry_after: Duration::from_millis(10),
        };
        let unknown = AskError::Unknown { reason: "time" };
        assert!(busy.is_not_handled() && !busy.is_outcome_unknown());
        assert!(!unknown.is_not_handled() && unknown.is_outcome_unknown());
        assert!(!AskError::Unhandled.is_not_handled() && !AskError::Unhandled.is_outcome_unknown());
    }
}
