//! Whether a worker still turns, seen from other threads.
//!
//! A handler cannot be interrupted, so one that never returns stops all actors and entities of its
//! worker, and nothing of that worker can tell. A worker therefore leaves behind since when its
//! present turn goes on and whose code runs; the thread that holds the actix system looks at that
//! now and then.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::engine::CellKey;

/// What a worker leaves behind while it turns.
#[derive(Debug, Default)]
pub struct Pulse {
    /// Nanoseconds of the worker's clock at the beginning of the run of a cell, plus one; 0 while none
    /// runs.
    since: AtomicU64,
    host: AtomicUsize,
    index: AtomicUsize,
    incarnation: AtomicU64,
}

/// A worker's code that runs at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Beat {
    /// Since when, by the worker's clock.
    pub(crate) since: Duration,
    pub(crate) key: CellKey,
}

impl Pulse {
    /// A cell begins to run.
    pub(super) fn begin(&self, key: CellKey, now: Duration) {
        self.host.store(key.host, Ordering::Relaxed);
        self.index.store(key.index, Ordering::Relaxed);
        self.incarnation.store(key.incarnation, Ordering::Relaxed);
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.since.store(now.saturating_add(1), Ordering::Release);
    }

    /// No cell runs.
    pub(super) fn end(&self) {
        self.since.store(0, Ordering::Release);
    }

    /// Whether a cell runs now, by the index of its host and its own.
    pub(super) fn is_in(&self, host: usize, index: usize) -> bool {
        self.since.load(Ordering::Acquire) > 0
            && self.host.load(Ordering::Relaxed) == host
            && self.index.load(Ordering::Relaxed) == index
    }

    /// What runs now. The key may be that of the next one already, if it has just changed.
    pub(crate) fn beat(&self) -> Option<Beat> {
        let since = self.since.load(Ordering::Acquire).checked_sub(1)?;
        Some(Beat {
            since: Duration::from_nanos(since),
            key: CellKey {
                host: self.host.load(Ordering::Relaxed),
                index: self.index.load(Ordering::Relaxed),
                incarnation: self.incarnation.load(Ordering::Relaxed),
            },
        })
    }
}

/// Looks for workers whose thread is stuck, and tells of each once.
#[derive(Debug)]
pub(super) struct Watchdog {
    /// The beat at which a worker was found stuck.
    stuck: Vec<Option<Beat>>,
}

/// What has become of a worker.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Its code has run for so long.
    Stuck(Beat, Duration),
    /// It goes on.
    GoesOn(Beat),
}

impl Watchdog {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            stuck: vec![None; workers],
        }
    }

    /// Looks at one worker.
    pub(super) fn look(
        &mut self,
        worker: usize,
        pulse: &Pulse,
        now: Duration,
        after: Duration,
    ) -> Option<News> {
        let known = &mut self.stuck[worker];
        let beat = pulse.beat();
        match *known {
            Some(before) if beat != Some(before) => {
                *known = None;
                Some(News::GoesOn(before))
            }
            Some(_) => None,
            None => {
                let beat = beat?;
                let elapsed = now.saturating_sub(beat.since);
                (elapsed >= after).then(|| {
                    *known = Some(beat);
                    News::Stuck(beat, elapsed)
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_is_stuck_is_told_of_once_and_so_is_its_end() {
        let (pulse, mut watchdog) = (Pulse::default(), Watchdog::new(1));
        let second = Duration::from_secs(1);
        let mut look = |pulse: &Pulse, now: u32| watchdog.look(0, pulse, second * now, second * 5);
        let key = CellKey {
            host: 1,
            index: 2,
            incarnation: 3,
        };
        assert_eq!(look(&pulse, 100), None, "nothing runs");
        pulse.begin(key, second * 100);
        let beat = pulse.beat().expect("something runs");
        assert_eq!((beat.since, beat.key), (second * 100, key));
        assert_eq!(look(&pulse, 104), None);
        assert_eq!(look(&pulse, 105), Some(News::Stuck(beat, second * 5)));
        assert_eq!(look(&pulse, 110), None, "it was told");
        pulse.end();
        assert_eq!(look(&pulse, 111), Some(News::GoesOn(beat)));
        assert_eq!(look(&pulse, 112), None);
        pulse.begin(key, second * 112);
        assert_eq!(look(&pulse, 113), None, "a run of its own");
    }
}
