//! What a client is told when there is no answer: a status code and a problem (RFC 9457).

use std::time::Duration;

use perennial::persistence::InvalidCommandId;
use perennial::{AskError, PersistFailure};
use serde::Serialize;

use crate::concert::Refused;

/// Why a request has no answer, whatever the web framework.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The status code.
    pub status: u16,
    /// The kind of problem, for programs.
    pub title: &'static str,
    /// What happened, for people.
    pub detail: String,
    /// Why the request is refused, if it could have been taken in another state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the client may do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<&'static str>,
    /// When it may try again, as the header `Retry-After` says.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
}

const LATER: &str = "nothing of the request took effect; send it again";
const SAME_KEY: &str = "the request may have taken effect; send it again with the same \
                        Idempotency-Key, or look before you send it again without one";

impl Problem {
    /// The media type of its body.
    pub const MEDIA_TYPE: &'static str = "application/problem+json";

    /// A problem with its status code, its kind and what happened.
    pub fn new(status: u16, title: &'static str, detail: impl ToString) -> Self {
        Self {
            status,
            title,
            detail: detail.to_string(),
            reason: None,
            hint: None,
            retry_after: None,
        }
    }

    /// A request that is refused for a reason that may pass: 409.
    pub fn refused(title: &'static str, reason: impl ToString) -> Self {
        let mut problem = Self::new(409, title, reason);
        problem.reason = Some(problem.detail.clone());
        problem
    }

    /// Says what the client may do.
    #[must_use]
    pub fn hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }

    /// Says when the client may try again.
    #[must_use]
    pub fn after(mut self, time: Duration) -> Self {
        self.retry_after = Some(time);
        self
    }

    /// The service cannot do it now; nothing of the request took effect.
    pub fn busy(detail: impl ToString, after: Duration) -> Self {
        Self::new(503, "busy", detail).hint(LATER).after(after)
    }

    /// The service has more to do than it can.
    pub fn overloaded() -> Self {
        Self::busy("too many requests are under way", Duration::from_secs(1))
    }

    /// The service took too long.
    pub fn timed_out() -> Self {
        Self::new(504, "unknown", "the request took too long").hint(SAME_KEY)
    }

    /// The request cannot be read.
    pub fn unreadable(status: u16, detail: impl ToString) -> Self {
        Self::new(status, "invalid", detail)
    }

    /// There is nothing at the path.
    pub fn not_found() -> Self {
        Self::new(404, "not-found", "there is nothing at this path")
    }

    /// The value of the header `Retry-After`: whole seconds, at least 1.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        let up = |time: Duration| time.as_secs() + u64::from(time.subsec_nanos() > 0);
        self.retry_after.map(|time| up(time).max(1))
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NotOnSale => Self::new(404, "not-on-sale", refused),
            Refused::OnSaleAlready => Self::refused("on-sale-already", refused),
            Refused::TooFewLeft { .. } => Self::refused("too-few-left", refused),
            Refused::Invalid { .. } => Self::new(422, "invalid", refused),
        }
    }
}

impl From<InvalidCommandId> for Problem {
    fn from(error: InvalidCommandId) -> Self {
        Self::new(400, "invalid", format!("Idempotency-Key: {error}"))
    }
}

impl From<AskError> for Problem {
    fn from(error: AskError) -> Self {
        const SOON: Duration = Duration::from_secs(1);
        match &error {
            AskError::Busy { retry_after, .. } => {
                let time = *retry_after;
                Self::busy(error, time)
            }
            AskError::Stopped => Self::new(503, "stopped", error).hint(LATER).after(SOON),
            AskError::Expired => Self::new(504, "expired", error).hint(LATER),
            AskError::Unknown { .. } => Self::new(504, "unknown", error).hint(SAME_KEY),
            AskError::PersistFailed(failed) if failed.kind != PersistFailure::Rejected => {
                Self::new(503, "not-stored", error).hint(LATER).after(SOON)
            }
            AskError::InvalidId(_) => Self::new(400, "invalid", error),
            AskError::CommandIdReused { .. } => Self::new(422, "key-reused", error)
                .hint("the Idempotency-Key belongs to another request; take a new one"),
            AskError::ReplyUnreadable { .. } => Self::new(500, "reply-lost", error)
                .hint("the request took effect, and its answer cannot be read any more"),
            // The entity's data or the program is to be repaired.
            _ => Self::new(500, "failed", error),
        }
    }
}

#[cfg(test)]
mod tests {
    use perennial::persistence::{CommandId, PersistenceId};
    use perennial::{PersistFailed, RecoveryFailed};

    use super::*;

    fn id() -> PersistenceId {
        PersistenceId::new("Concert", "a").expect("a valid id")
    }

    fn persist_failed(kind: PersistFailure) -> AskError {
        AskError::PersistFailed(PersistFailed {
            persistence_id: id(),
            kind,
            reason: "a test".into(),
        })
    }

    #[test]
    fn every_error_of_an_ask_has_its_status_and_says_what_may_be_done() {
        let command_id = || CommandId::new("k").expect("a valid id");
        let busy = AskError::Busy {
            what: "the store",
            retry_after: Duration::from_millis(1200),
        };
        for (error, status, title, retry_after) in [
            (busy, 503, "busy", Some(2)),
            (AskError::Stopped, 503, "stopped", Some(1)),
            (AskError::Expired, 504, "expired", None),
            (AskError::Unknown { reason: "time" }, 504, "unknown", None),
            (
                persist_failed(PersistFailure::Conflict),
                503,
                "not-stored",
                Some(1),
            ),
            (
                persist_failed(PersistFailure::Earlier),
                503,
                "not-stored",
                Some(1),
            ),
            (
                persist_failed(PersistFailure::Unavailable),
                503,
                "not-stored",
                Some(1),
            ),
            (
                persist_failed(PersistFailure::Rejected),
                500,
                "failed",
                None,
            ),
            (
                AskError::RecoveryFailed(RecoveryFailed {
                    persistence_id: id(),
                    seq_nr: None,
                    reason: "a test".into(),
                }),
                500,
                "failed",
                None,
            ),
            (
                AskError::CommandIdReused {
                    persistence_id: id(),
                    command_id: command_id(),
                },
                422,
                "key-reused",
                None,
            ),
            (
                AskError::ReplyUnreadable {
                    persistence_id: id(),
                    command_id: command_id(),
                    reason: "a test".into(),
                },
                500,
                "reply-lost",
                None,
            ),
            (AskError::Unhandled, 500, "failed", None),
        ] {
            let problem = Problem::from(error.clone());
            assert_eq!((problem.status, problem.title), (status, title), "{error}");
            assert_eq!(problem.retry_after_seconds(), retry_after, "{error}");
            assert_eq!(problem.detail, error.to_string());
            // Whoever may simply send it again is told so, and nobody else.
            let is_safe = error.is_not_handled() && problem.status >= 503;
            let not_stored = problem.title == "not-stored";
            assert_eq!(
                problem.hint == Some(LATER),
                is_safe || not_stored,
                "{error}"
            );
        }
        let too_short = Duration::from_millis(10);
        let problem = Problem::overloaded().after(too_short);
        assert_eq!(problem.retry_after_seconds(), Some(1));
    }
}
