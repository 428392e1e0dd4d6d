//! The two ends of an ask: what the caller waits on and what the worker answers.
//!
//! Both share one state word. The worker claims a command right before it handles it, the deadline
//! claims it when it expires; whoever is first decides. A claimed command that runs out of time is
//! `Unknown`, one that was never claimed is `Expired`.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::error::AskError;

/// Sent, and not handled yet.
const WAITING: u8 = 0;
/// A worker handles it or has handled it.
const CLAIMED: u8 = 1;
/// The caller has given up; it will not be handled.
const EXPIRED: u8 = 2;

struct Slot<R> {
    state: AtomicU8,
    answer: Mutex<Answer<R>>,
}

struct Answer<R> {
    result: Option<Result<R, AskError>>,
    waker: Option<Waker>,
}

impl<R> Slot<R> {
    fn answer(&self) -> MutexGuard<'_, Answer<R>> {
        // Nothing can panic while the lock is held but a waker's own code, and the answer is
        // complete before that runs.
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the two ends of one ask.
pub(crate) fn ask<R>() -> (ReplyTo<R>, Receiver<R>) {
    let slot = Arc::new(Slot {
        state: AtomicU8::new(WAITING),
        answer: Mutex::new(Answer {
            result: None,
            waker: None,
        }),
    });
    (
        ReplyTo {
            slot: Some(Arc::clone(&slot)),
        },
        Receiver { slot },
    )
}

/// The worker's end. Dropping it without an answer tells the caller what is known then.
pub(crate) struct ReplyTo<R> {
    /// `None` for a tell, and once answered.
    slot: Option<Arc<Slot<R>>>,
}

impl<R> ReplyTo<R> {
    /// The end of a tell: nobody waits.
    pub(crate) fn nobody() -> Self {
        Self { slot: None }
    }

    /// Claims the command for handling; `false` if its caller has given up.
    pub(crate) fn claim(&self) -> bool {
        self.slot.as_ref().is_none_or(|slot| {
            slot.state
                .compare_exchange(WAITING, CLAIMED, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
        })
    }

    /// Takes the claim back: the command was put aside and had no effect.
    pub(crate) fn unclaim(&self) {
        if let Some(slot) = &self.slot {
            slot.state.store(WAITING, Ordering::Release);
        }
    }

    /// Answers the caller.
    pub(crate) fn complete(&mut self, result: Result<R, AskError>) {
        if let Some(slot) = self.slot.take() {
            let waker = {
                let mut answer = slot.answer();
                answer.result = Some(result);
                answer.waker.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl<R> Drop for ReplyTo<R> {
    fn drop(&mut self) {
        if let Some(slot) = &self.slot {
            let error = if slot.state.load(Ordering::Acquire) == CLAIMED {
                AskError::Unknown {
                    reason: "the worker ended before the command was done",
                }
            } else {
                AskError::Stopped
            };
            self.complete(Err(error));
        }
    }
}

impl<R> fmt::Debug for ReplyTo<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplyTo").finish_non_exhaustive()
    }
}

/// The caller's end: a future of the answer. Dropping it expires a command that still waits.
pub(crate) struct Receiver<R> {
    slot: Arc<Slot<R>>,
}

impl<R> Receiver<R> {
    /// The deadline has come: what the caller is to be told, unless the answer is there already.
    pub(crate) fn expire(&mut self) -> Result<R, AskError> {
        let expired = self
            .slot
            .state
            .compare_exchange(WAITING, EXPIRED, Ordering::AcqRel, Ordering::Acquire)
            .is_ok();
        if let Some(result) = self.slot.answer().result.take() {
            return result;
        }
        Err(if expired {
            AskError::Expired
        } else {
            AskError::Unknown {
                reason: "the time ran out while the command was being handled",
            }
        })
    }

    /// The answer, if it is there.
    pub(crate) fn try_take(&mut self) -> Option<Result<R, AskError>> {
        self.slot.answer().result.take()
    }
}

impl<R> Future for Receiver<R> {
    type Output = Result<R, AskError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut answer = self.slot.answer();
        if let Some(result) = answer.result.take() {
            return Poll::Ready(result);
        }
        match &mut answer.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl<R> Drop for Receiver<R> {
    fn drop(&mut self) {
        // A claimed or answered command is past expiring; the exchange leaves it alone.
        let _ =
            self.slot
                .state
                .compare_exchange(WAITING, EXPIRED, Ordering::AcqRel, Ordering::Acquire);
    }
}

impl<R> fmt::Debug for Receiver<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_the_worker_or_the_deadline_gets_the_command() {
        let (reply, mut receiver) = ask::<u8>();
        assert!(reply.claim());
        assert!(matches!(receiver.expire(), Err(AskError::Unknown { .. })));

        let (reply, mut receiver) = ask::<u8>();
        assert_eq!(receiver.expire(), Err(AskError::Expired));
        assert!(!reply.claim());
    }

    #[test]
    fn an_answer_that_is_there_wins_over_the_deadline() {
        let (mut reply, mut receiver) = ask::<u8>();
        assert!(reply.claim());
        reply.complete(Ok(7));
        assert_eq!(receiver.expire(), Ok(7));
    }

    #[test]
    fn a_dropped_ask_is_not_handled() {
        let (reply, receiver) = ask::<u8>();
        drop(receiver);
        assert!(!reply.claim());
    }

    #[test]
    fn a_dropped_reply_tells_what_is_known() {
        let (reply, mut receiver) = ask::<u8>();
        drop(reply);
        assert_eq!(receiver.try_take(), Some(Err(AskError::Stopped)));

        let (reply, mut receiver) = ask::<u8>();
        assert!(reply.claim());
        drop(reply);
        assert!(matches!(
            receiver.try_take(),
            Some(Err(AskError::Unknown { .. }))
        ));
    }

    #[test]
    fn a_command_put_aside_can_expire() {
        let (reply, mut receiver) = ask::<u8>();
        assert!(reply.claim());
        reply.unclaim();
        assert_eq!(receiver.expire(), Err(AskError::Expired));
        assert!(!reply.claim());
    }
}
