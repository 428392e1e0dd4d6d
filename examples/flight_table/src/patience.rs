//! Asking again: how long, how often, and when to give up.

use std::cell::Cell;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use perennial::{AskError, PersistFailure};
use tokio::time::{Instant, sleep};

use crate::program::explain;

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskFailure {
    /// A queue was full: never sent.
    #[error("the actor system is busy")]
    Busy,
    /// It waited too long in a queue: certainly not handled.
    #[error("the command expired in a queue")]
    Expired,
    /// It may have been handled.
    #[error("the answer was lost: {0}")]
    Unknown(String),
    /// It was not handled because the store, or what else it needs, does not answer now.
    #[error("{0}")]
    Unavailable(String),
    /// Asking again won't help.
    #[error("{0}")]
    Fatal(String),
}

impl AskFailure {
    fn is_retryable(&self) -> bool {
        !matches!(self, Self::Fatal(_))
    }

    /// Whether the command may have taken effect nevertheless.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }
}

/// What a failed ask means for who may ask again.
impl From<AskError> for AskFailure {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Busy { .. } => Self::Busy,
            AskError::Expired => Self::Expired,
            error if error.is_outcome_unknown() => Self::Unknown(error.to_string()),
            // Nothing was stored, and the entity has recovered, or will: from an outage, or from
            // another program that writes the same entity.
            AskError::PersistFailed(failed) if failed.kind != PersistFailure::Rejected => {
                Self::Unavailable(failed.to_string())
            }
            error => Self::Fatal(explain(&error)),
        }
    }
}

/// Why asking came to an end without an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GaveUp {
    /// Nothing was answered for all of the patience.
    #[error("nothing was answered for {}", humantime::format_duration(*.after))]
    Exhausted {
        /// The patience.
        after: Duration,
        /// The last failure.
        #[source]
        failure: AskFailure,
    },
    /// The failure is none that passes.
    #[error(transparent)]
    Fatal(AskFailure),
    /// [`Patience::stop`] was called.
    #[error("the run was stopped")]
    Stopped,
}

/// Asks again as long as anything moves, and for a while when nothing does.
///
/// One patience is shared by all questions under way: an answer to any of them is progress. A
/// question that fails for the first time gets the whole patience, however long nothing was asked.
pub struct Patience {
    limit: Duration,
    last_answer: Cell<Option<Instant>>,
    last_told: Cell<Option<Instant>>,
    is_stopped: Cell<bool>,
    tell: Box<dyn Fn(String)>,
}

impl Patience {
    /// Gives up when nothing was answered for `limit`. `tell` hears now and then that it waits.
    pub fn new(limit: Duration, tell: impl Fn(String) + 'static) -> Self {
        Self {
            limit,
            last_answer: Cell::new(None),
            last_told: Cell::new(None),
            is_stopped: Cell::new(false),
            tell: Box::new(tell),
        }
    }

    /// From now on nothing is asked again.
    pub fn stop(&self) {
        self.is_stopped.set(true);
    }

    /// Asks until there is an answer. `failed` hears of each failure before the next attempt.
    ///
    /// # Errors
    /// Why there is none.
    ///
    /// # Cancel safety
    /// As far as what `ask` returns is: dropping the future drops the attempt under way.
    pub async fn insist<T>(
        &self,
        mut ask: impl AsyncFnMut() -> Result<T, AskFailure>,
        mut failed: impl FnMut(&AskFailure),
    ) -> Result<T, GaveUp> {
        let mut delays = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(10))
            .with_max_delay(Duration::from_secs(1))
            .with_jitter()
            .without_max_times()
            .build();
        let mut first_failure = None;
        loop {
            let failure = match ask().await {
                Ok(answer) => {
                    self.last_answer.set(Some(Instant::now()));
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            if !failure.is_retryable() {
                return Err(GaveUp::Fatal(failure));
            }
            failed(&failure);
            if self.is_stopped.get() {
                return Err(GaveUp::Stopped);
            }
            let since = *first_failure.get_or_insert_with(Instant::now);
            let since = self.last_answer.get().map_or(since, |last| last.max(since));
            if since.elapsed() >= self.limit {
                return Err(GaveUp::Exhausted {
                    after: self.limit,
                    failure,
                });
            }
            self.tell_of(&failure, since);
            sleep(delays.next().unwrap_or(Duration::from_secs(1))).await;
        }
    }

    /// A full queue passes in no time; of everything else the user should know, but not of each.
    fn tell_of(&self, failure: &AskFailure, since: Instant) {
        const TELL_EVERY: Duration = Duration::from_secs(5);
        if *failure == AskFailure::Busy && since.elapsed() < TELL_EVERY {
            return;
        }
        if self
            .last_told
            .get()
            .is_none_or(|told| told.elapsed() >= TELL_EVERY)
        {
            self.last_told.set(Some(Instant::now()));
            let left = self.limit.saturating_sub(since.elapsed());
            let left = Duration::from_secs(left.as_secs());
            (self.tell)(format!(
                "{failure}; trying again for up to {}",
                humantime::format_duration(left)
            ));
        }
    }
}

impl std::fmt::Debug for Patience {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Patience")
            .field("limit", &self.limit)
            .field("last_answer", &self.last_answer)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn silent() -> Patience {
        Patience::new(MINUTE, |_| ())
    }

    fn down() -> AskFailure {
        AskFailure::Unavailable("the server is down".into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_is_asked_until_it_is_answered() {
        let failures = [
            AskFailure::Busy,
            AskFailure::Expired,
            AskFailure::Unknown("reset".into()),
            down(),
        ];
        let heard = RefCell::new(Vec::new());
        let mut left = failures.iter();
        let answer = silent()
            .insist(
                async || left.next().cloned().map_or(Ok(7), Err),
                |failure| heard.borrow_mut().push(failure.clone()),
            )
            .await;
        assert_eq!(answer, Ok(7));
        assert_eq!(heard.into_inner(), failures);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_shorter_than_the_patience_only_delays() {
        let start = Instant::now();
        let outage = Duration::from_secs(55);
        let ask = async || {
            if start.elapsed() < outage {
                Err(down())
            } else {
                Ok(())
            }
        };
        silent().insist(ask, |_| ()).await.expect("back in time");
        // The pauses are short enough that a server that is back is noticed at once.
        assert!(start.elapsed() < outage + Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_longer_than_the_patience_ends_it_with_the_last_failure() {
        let patience = silent();
        // However long ago the last answer was, the next outage gets the whole patience.
        patience
            .insist(async || Ok::<_, AskFailure>(()), |_| ())
            .await
            .expect("answered");
        sleep(10 * MINUTE).await;
        let start = Instant::now();
        let result = patience.insist(async || Err::<(), _>(down()), |_| ()).await;
        assert_eq!(
            result,
            Err(GaveUp::Exhausted {
                after: MINUTE,
                failure: down()
            })
        );
        assert!(start.elapsed() >= MINUTE && start.elapsed() < MINUTE + Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn answers_to_others_keep_the_patience() {
        let patience = silent();
        let start = Instant::now();
        let slow = patience.insist(
            async || {
                if start.elapsed() < 3 * MINUTE {
                    Err(down())
                } else {
                    Ok(())
                }
            },
            |_| (),
        );
        let others = async {
            for _ in 0..6 {
                sleep(MINUTE / 2).await;
                let answer = patience
                    .insist(async || Ok::<_, AskFailure>(()), |_| ())
                    .await;
                answer.expect("answered");
            }
        };
        let (slow, ()) = tokio::join!(slow, others);
        assert_eq!(slow, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_passes_is_not_asked_again_nor_after_a_stop() {
        let patience = silent();
        let fatal = AskFailure::Fatal("the row is damaged".into());
        let start = Instant::now();
        let result = patience
            .insist(async || Err::<(), _>(fatal.clone()), |_| ())
            .await;
        assert_eq!(result, Err(GaveUp::Fatal(fatal)));
        patience.stop();
        let result = patience.insist(async || Err::<(), _>(down()), |_| ()).await;
        assert_eq!(result, Err(GaveUp::Stopped));
        let answer = patience
            .insist(async || Ok::<_, AskFailure>(7), |_| ())
            .await;
        assert_eq!(answer, Ok(7), "an answer is an answer");
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_wait_is_told_now_and_then() {
        let told = Rc::new(RefCell::new(Vec::new()));
        let patience = Patience::new(MINUTE, {
            let told = Rc::clone(&told);
            move |text| told.borrow_mut().push(text)
        });
        let result = patience.insist(async || Err::<(), _>(down()), |_| ()).await;
        assert!(result.is_err());
        let told = told.borrow();
        assert_eq!(told[0], "the server is down; trying again for up to 1m");
        assert!((5..=12).contains(&told.len()), "{told:?}");
    }
}
