//! Messages that were accepted and are not handled.

use std::fmt;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::actor::ActorPath;
use crate::engine::actor::ActorAddress;
use std::sync::Arc;

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

/// The dead letters of a system: counted, and logged a few at a time.
pub(crate) struct DeadLetters {
    counts: [AtomicU64; DeadLetterReason::ALL.len()],
    log: Mutex<Log>,
}

/// Lines of the log in the present interval.
struct Log {
    since: Option<Instant>,
    lines: u32,
    /// Not logged since.
    passed_over: u64,
}

/// At most so many lines of the log in so much time.
const LINES: u32 = 10;
const INTERVAL: Duration = Duration::from_secs(10);

impl DeadLetters {
    pub(crate) fn new() -> Self {
        Self {
            counts: Default::default(),
            log: Mutex::new(Log {
                since: None,
                lines: 0,
                passed_over: 0,
            }),
        }
    }

    pub(crate) fn note(
        &self,
        to: &Arc<ActorAddress>,
        message: &'static str,
        reason: DeadLetterReason,
    ) {
        self.counts[reason as usize].fetch_add(1, Ordering::Relaxed);
        self.log(to, message, reason);
    }

    /// How many there were for each reason.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (DeadLetterReason, u64)> {
        let count = |reason: DeadLetterReason| self.counts[reason as usize].load(Ordering::Relaxed);
        DeadLetterReason::ALL
            .into_iter()
            .map(move |reason| (reason, count(reason)))
    }

    fn log(&self, to: &Arc<ActorAddress>, message: &'static str, reason: DeadLetterReason) {
        let passed_over = {
            let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let is_over = log.since.is_none_or(|since| now - since >= INTERVAL);
            if is_over {
                log.since = Some(now);
                log.lines = 0;
            }
            if log.lines >= LINES {
                log.passed_over += 1;
                return;
            }
            log.lines += 1;
            std::mem::take(&mut log.passed_over)
        };
        tracing::info!(
            actor = %to,
            message,
            %reason,
            passed_over,
            "a message is not handled"
        );
    }
}
