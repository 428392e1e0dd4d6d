//! Messages that were accepted and are not handled.

use std::any::{TypeId, type_name};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::actor::ActorPath;
use crate::engine::DeadLetterLog;
use crate::engine::actor::ActorAddress;
use crate::pubsub::Topic;

/// Why a message is a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DeadLetterReason {
    /// Its actor had ended, or ended with the message in its mailbox or stash.
    Stopped,
    /// Its actor had no use for it in its state.
    Unhandled,
    /// Its actor wanted to stash it, and the stash was full.
    StashFull,
    /// Its actor wanted to wait for something outside, and `later-limit` did not allow it.
    TooManyFutures,
}

impl DeadLetterReason {
    const ALL: [Self; 4] = [
        Self::Stopped,
        Self::Unhandled,
        Self::StashFull,
        Self::TooManyFutures,
    ];

    /// What it is called in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Unhandled => "unhandled",
            Self::StashFull => "stash-full",
            Self::TooManyFutures => "too-many-futures",
        }
    }
}

impl fmt::Display for DeadLetterReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A message that was accepted and is not handled. The message itself is gone.
///
/// Published on the [`EventStream`](crate::EventStream), except for messages that are such news
/// themselves. What a topic's subscriber did not get because it ended, or had no room, is none.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeadLetter {
    /// To whom it was sent.
    pub to: ActorPath,
    /// Its Rust type.
    pub message: &'static str,
    /// Why it is not handled.
    pub reason: DeadLetterReason,
}

/// The dead letters of a system: counted, published, and logged a few at a time.
pub(crate) struct DeadLetters {
    counts: [AtomicU64; DeadLetterReason::ALL.len()],
    topic: Topic<DeadLetter>,
    limit: DeadLetterLog,
    log: Mutex<Log>,
}

/// Lines of the log in the present interval.
#[derive(Debug, Default)]
struct Log {
    since: Option<Instant>,
    lines: u64,
    /// Not logged since.
    passed_over: u64,
}

impl DeadLetters {
    pub(crate) fn new(limit: DeadLetterLog, topic: Topic<DeadLetter>) -> Self {
        Self {
            counts: Default::default(),
            topic,
            limit,
            log: Mutex::default(),
        }
    }

    /// A message of type `M` is not handled.
    pub(crate) fn note<M: 'static>(&self, to: &Arc<ActorAddress>, reason: DeadLetterReason) {
        let message = type_name::<M>();
        self.counts[reason as usize].fetch_add(1, Ordering::Relaxed);
        let passed_over = self
            .log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .line(self.limit, Instant::now());
        if let Some(passed_over) = passed_over {
            tracing::info!(actor = %to, message, %reason, passed_over, "a message is not handled");
        }
        // A subscriber that does not handle this news would get news of that, for ever.
        if TypeId::of::<M>() != TypeId::of::<DeadLetter>() && self.topic.has_subscribers() {
            self.topic.publish_regardless(DeadLetter {
                to: ActorPath(Arc::clone(to)),
                message,
                reason,
            });
        }
    }

    /// How many there were for each reason.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (DeadLetterReason, u64)> {
        let count = |reason: DeadLetterReason| self.counts[reason as usize].load(Ordering::Relaxed);
        DeadLetterReason::ALL
            .into_iter()
            .map(move |reason| (reason, count(reason)))
    }
}

impl Log {
    /// One more dead letter. Gives how many were passed over before it, if it is to be logged.
    fn line(&mut self, limit: DeadLetterLog, now: Instant) -> Option<u64> {
        let is_over = |since| now.duration_since(since) >= limit.interval;
        if self.since.is_none_or(is_over) {
            self.since = Some(now);
            self.lines = 0;
        }
        if self.lines >= limit.lines {
            self.passed_over += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.passed_over))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn exactly_as_many_lines_are_logged_in_an_interval_as_the_limit_says() {
        let limit = DeadLetterLog {
            lines: 2,
            interval: Duration::from_secs(10),
        };
        let start = Instant::now();
        let mut log = Log::default();
        let mut line = |seconds| log.line(limit, start + Duration::from_secs(seconds));
        assert_eq!([line(0), line(1)], [Some(0), Some(0)]);
        assert_eq!([line(2), line(9)], [None, None]);
        assert_eq!([line(10), line(11), line(19)], [Some(2), Some(0), None]);
        assert_eq!(line(20), Some(1));
    }

    #[test]
    fn a_limit_of_0_logs_nothing() {
        let limit = DeadLetterLog {
            lines: 0,
            interval: Duration::from_millis(1),
        };
        let mut log = Log::default();
        let now = Instant::now();
        assert_eq!(log.line(limit, now), None);
        assert_eq!(log.line(limit, now + Duration::from_secs(1)), None);
    }
}
