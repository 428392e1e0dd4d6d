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
use std::time::{Duration, Instant};

use crate::deadline::Expires;
use crate::error::AskError;

/// Sent, and not handled yet.
const WAITING: u8 = 0;
/// A worker handles it or has handled it.
const CLAIMED: u8 = 1;
/// The caller has given up; it will not be handled.
const EXPIRED: u8 = 2;
/// The caller has its answer.
const ANSWERED: u8 = 3;
/// Sent by a timer, and not handled yet; nobody waits for an answer.
const FIRED: u8 = 4;

struct Slot<R> {
    state: AtomicU8,
    answer: Mutex<Answer<R>>,
}

struct Answer<R> {
    result: Option<Result<R, AskError>>,
    waker: Option<Waker>,
}

impl<R> Slot<R> {
    fn put(&self, result: Result<R, AskError>) {
        let waker = {
            let mut answer = self.answer();
            answer.result = Some(result);
            answer.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits for a moment until the answer is there.
    fn look_for_answer(&self, longest: Duration) {
        /// Looks between two looks at the clock.
        const LOOKS: usize = 32;
        let start = Instant::now();
        while start.elapsed() < longest {
            for _ in 0..LOOKS {
                std::hint::spin_loop();
                if self.state.load(Ordering::Acquire) == ANSWERED {
                    return;
                }
            }
        }
    }

    /// Whether the deadline, and not a worker, gets the command.
    fn claim_for_deadline(&self) -> bool {
        self.state
            .compare_exchange(WAITING, EXPIRED, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    fn is_abandoned(&self) -> bool {
        matches!(self.state.load(Ordering::Acquire), EXPIRED | ANSWERED)
    }

    fn answer(&self) -> MutexGuard<'_, Answer<R>> {
        // Nothing can panic while the lock is held but a waker's own code, and the answer is
        // complete before that runs.
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R: Send> Expires for Slot<R> {
    fn is_over(&self) -> bool {
        self.is_abandoned()
    }

    fn expire(&self) -> bool {
        let is_first = self.claim_for_deadline();
        if is_first {
            self.put(Err(AskError::Expired));
        } else if self
            .state
            .compare_exchange(CLAIMED, ANSWERED, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
        {
            self.put(Err(OUT_OF_TIME));
        }
        is_first
    }
}

/// What a timer has sent, as the timer sees it.
pub(crate) trait Fired: Send + Sync {
    /// Whether it is still to be handled.
    fn is_waiting(&self) -> bool;

    /// Sees to it that it is not handled any more. Gives whether it would have been.
    fn cancel(&self) -> bool;
}

impl<R: Send> Fired for Slot<R> {
    fn is_waiting(&self) -> bool {
        self.state.load(Ordering::Acquire) == FIRED
    }

    fn cancel(&self) -> bool {
        self.state
            .compare_exchange(FIRED, EXPIRED, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

/// What a caller is told whose command was being handled when the time ran out.
const OUT_OF_TIME: AskError = AskError::Unknown {
    reason: "the time ran out while the command was being handled",
};

/// Makes the two ends of one ask. Whoever waits looks for the answer for `spin` before it yields.
pub(crate) fn ask<R>(spin: Duration) -> (ReplyTo<R>, Receiver<R>) {
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
        Receiver { slot, spin },
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

    /// The end of what a timer sends, and the timer's own.
    pub(crate) fn timer() -> (Self, Arc<dyn Fired>)
    where
        R: Send + 'static,
    {
        let slot = Arc::new(Slot {
            state: AtomicU8::new(FIRED),
            answer: Mutex::new(Answer {
                result: None,
                waker: None,
            }),
        });
        let fired = Arc::clone(&slot);
        (Self { slot: Some(slot) }, fired)
    }

    /// Claims the command for handling; `false` if its caller, or its timer, has given up.
    pub(crate) fn claim(&mut self) -> bool {
        let Some(slot) = &self.slot else { return true };
        let claimed =
            slot.state
                .compare_exchange(WAITING, CLAIMED, Ordering::AcqRel, Ordering::Acquire);
        match claimed {
            Ok(_) => true,
            Err(FIRED) => {
                let answered = slot.state.compare_exchange(
                    FIRED,
                    ANSWERED,
                    Ordering::AcqRel,
                    Ordering::Acquire,
                );
                // From here on it is a command like any other that nobody waits for.
                self.slot = None;
                answered.is_ok()
            }
            Err(_) => false,
        }
    }

    /// Whether its caller has given up, so that it will not be handled.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.slot.as_ref().is_some_and(|slot| slot.is_abandoned())
    }

    /// Takes the claim back: the command was put aside and had no effect.
    pub(crate) fn unclaim(&self) {
        if let Some(slot) = &self.slot {
            // Not if the deadline has answered in the meantime.
            let _ =
                slot.state
                    .compare_exchange(CLAIMED, WAITING, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// Answers the caller, unless the deadline has.
    pub(crate) fn complete(&mut self, result: Result<R, AskError>) {
        if let Some(slot) = self.slot.take()
            && !matches!(
                slot.state.swap(ANSWERED, Ordering::AcqRel),
                EXPIRED | ANSWERED
            )
        {
            slot.put(result);
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
    /// How long to look for the answer before the task yields; once.
    spin: Duration,
}

impl<R: Send + 'static> Receiver<R> {
    /// What the deadlines of the system look at.
    pub(crate) fn expires(&self) -> Arc<dyn Expires> {
        Arc::clone(&self.slot) as Arc<dyn Expires>
    }
}

impl<R> Receiver<R> {
    /// The deadline has come: what the caller is to be told, unless the answer is there already.
    pub(crate) fn expire(&mut self) -> Result<R, AskError> {
        let expired = self.slot.claim_for_deadline();
        if let Some(result) = self.slot.answer().result.take() {
            return result;
        }
        Err(if expired {
            AskError::Expired
        } else {
            OUT_OF_TIME
        })
    }

    /// Has `waker` woken when the answer is there; `true` if it is there already.
    pub(crate) fn wake_by(&mut self, waker: &Waker) -> bool {
        let mut answer = self.slot.answer();
        let is_there = answer.result.is_some();
        if !is_there {
            answer.waker = Some(waker.clone());
        }
        is_there
    }

    /// The answer, if it is there.
    pub(crate) fn try_take(&mut self) -> Option<Result<R, AskError>> {
        self.slot.answer().result.take()
    }
}

impl<R> Future for Receiver<R> {
    type Output = Result<R, AskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let spin = std::mem::take(&mut self.spin);
        if !spin.is_zero() {
            self.slot.look_for_answer(spin);
        }
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
        // A command that is claimed or answered is past expiring, and is left alone.
        self.slot.claim_for_deadline();
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
        let (mut reply, mut receiver) = ask::<u8>(Duration::ZERO);
        assert!(reply.claim());
        assert!(matches!(receiver.expire(), Err(AskError::Unknown { .. })));

        let (mut reply, mut receiver) = ask::<u8>(Duration::ZERO);
        assert_eq!(receiver.expire(), Err(AskError::Expired));
        assert!(!reply.claim());
    }

    #[test]
    fn an_answer_that_is_there_wins_over_the_deadline() {
        let (mut reply, mut receiver) = ask::<u8>(Duration::ZERO);
        assert!(reply.claim());
        reply.complete(Ok(7));
        assert_eq!(receiver.expire(), Ok(7));
    }

    #[test]
    fn a_dropped_ask_is_not_handled() {
        let (mut reply, receiver) = ask::<u8>(Duration::ZERO);
        drop(receiver);
        assert!(!reply.claim());
    }

    #[test]
    fn a_dropped_reply_tells_what_is_known() {
        let (reply, mut receiver) = ask::<u8>(Duration::ZERO);
        drop(reply);
        assert_eq!(receiver.try_take(), Some(Err(AskError::Stopped)));

        let (mut reply, mut receiver) = ask::<u8>(Duration::ZERO);
        assert!(reply.claim());
        drop(reply);
        assert!(matches!(
            receiver.try_take(),
            Some(Err(AskError::Unknown { .. }))
        ));
    }

    #[test]
    fn a_deadline_answers_once_whatever_the_worker_does_then() {
        let (mut reply, mut receiver) = ask::<u8>(Duration::ZERO);
        assert!(reply.claim());
        receiver.expires().expire();
        assert_eq!(receiver.try_take(), Some(Err(OUT_OF_TIME)));
        reply.complete(Ok(7));
        assert_eq!(receiver.try_take(), None);

        let (mut reply, mut receiver) = ask::<u8>(Duration::ZERO);
        receiver.expires().expire();
        assert!(!reply.claim());
        assert_eq!(receiver.try_take(), Some(Err(AskError::Expired)));
        assert!(receiver.expires().is_over());
    }

    #[test]
    fn a_command_put_aside_can_expire() {
        let (mut reply, mut receiver) = ask::<u8>(Duration::ZERO);
        assert!(reply.claim());
        reply.unclaim();
        assert_eq!(receiver.expire(), Err(AskError::Expired));
        assert!(!reply.claim());
    }
}
