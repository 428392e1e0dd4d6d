//! What is counted and timed besides what the engine needs itself, for metrics.
//!
//! Counting is an addition by the worker itself. Timing looks at a clock and is done for a sample of
//! the messages only, which the sender draws; without sampling nothing of it happens.

use std::cell::Cell;
use std::num::NonZeroU64;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use metrics::Histogram;
use perennial_persistence::{NUMBER_OF_SLICES, Slice};

/// What a worker has and has done of one entity type.
#[derive(Debug, Default)]
pub(crate) struct TypeStats {
    pub(crate) resident: AtomicUsize,
    pub(crate) recovered: AtomicU64,
    pub(crate) replayed: AtomicU64,
    pub(crate) stored: AtomicU64,
    pub(crate) snapshots: AtomicU64,
    pub(crate) failures: AtomicU64,
    /// How many may be in memory on this worker; 0 for any number.
    pub(crate) limit: usize,
    /// Entities that left memory because they were idle for long.
    pub(crate) passivated_idle: AtomicU64,
    /// Entities that left memory because of the limit.
    pub(crate) passivated_limit: AtomicU64,
    /// Entities that did not end in time and were ended all the same.
    pub(crate) forced_ends: AtomicU64,
    /// Entities in memory by their slices; there from the first one on.
    by_slice: OnceLock<Box<[AtomicU32]>>,
}

impl TypeStats {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// One more is in memory.
    pub(super) fn add_resident(&self, slice: Slice) {
        self.resident.fetch_add(1, Ordering::Relaxed);
        let by_slice = self.by_slice.get_or_init(|| {
            let slices = 0..NUMBER_OF_SLICES;
            slices.map(|_| AtomicU32::new(0)).collect()
        });
        by_slice[usize::from(slice.value())].fetch_add(1, Ordering::Relaxed);
    }

    /// One of them is not any more.
    pub(super) fn remove_resident(&self, slice: Slice) {
        self.resident.fetch_sub(1, Ordering::Relaxed);
        if let Some(by_slice) = self.by_slice.get() {
            by_slice[usize::from(slice.value())].fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// How many of so many are more than may be.
    pub(crate) fn over_limit(&self, resident: usize) -> usize {
        match self.limit {
            0 => 0,
            limit => resident.saturating_sub(limit),
        }
    }

    /// How many are in memory, by their slices; nothing if none ever was.
    pub(crate) fn residents_by_slice(&self) -> impl Iterator<Item = usize> {
        let by_slice = self.by_slice.get().into_iter().flatten();
        by_slice.map(|count| count.load(Ordering::Relaxed) as usize)
    }
}

/// What refuses something as busy, besides stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bounded {
    Mailbox,
    Inbox,
    Stash,
    LaterLimit,
    CleanUp,
}

impl Bounded {
    pub(crate) const ALL: [Self; 5] = [
        Self::Mailbox,
        Self::Inbox,
        Self::Stash,
        Self::LaterLimit,
        Self::CleanUp,
    ];

    /// What it is called in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Mailbox => "mailbox",
            Self::Inbox => "inbox",
            Self::Stash => "stash",
            Self::LaterLimit => "later-limit",
            Self::CleanUp => "clean-up",
        }
    }
}

/// How much was refused as busy, by what refused it.
#[derive(Debug, Default)]
pub(crate) struct BusyCounts([AtomicU64; Bounded::ALL.len()]);

impl BusyCounts {
    pub(crate) fn note(&self, bound: Bounded) {
        self.0[bound as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn of(&self, bound: Bounded) -> u64 {
        self.0[bound as usize].load(Ordering::Relaxed)
    }
}

/// When a message of the sample was sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp(NonZeroU64);

/// Draws the sample.
#[derive(Debug)]
pub(crate) struct Sampling {
    /// One of so many is timed; 0 for none.
    one_of: AtomicU32,
    start: Instant,
}

thread_local! {
    /// Messages that this thread sends before the next one of the sample.
    static PASSED_OVER: Cell<u32> = const { Cell::new(0) };
}

impl Sampling {
    pub(super) fn none() -> Self {
        Self {
            one_of: AtomicU32::new(0),
            start: Instant::now(),
        }
    }

    /// Times one of `one_of` messages from now on.
    pub(crate) fn begin(&self, one_of: u32) {
        self.one_of.store(one_of, Ordering::Relaxed);
    }

    /// The time, if the message that is sent here and now belongs to the sample.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        let one_of = self.one_of.load(Ordering::Relaxed);
        if one_of == 0 || !is_drawn(one_of) {
            return None;
        }
        let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Some(Stamp(NonZeroU64::MIN.saturating_add(now)))
    }

    /// How long ago that was.
    pub(super) fn since(&self, stamp: Stamp) -> Duration {
        let sent = Duration::from_nanos(stamp.0.get() - 1);
        self.start.elapsed().saturating_sub(sent)
    }
}

/// Chance decides how many are passed over, so that messages that come in a regular order are all
/// drawn now and then.
fn is_drawn(one_of: u32) -> bool {
    PASSED_OVER.with(|passed_over| {
        let left = passed_over.get();
        if left > 0 {
            passed_over.set(left - 1);
            return false;
        }
        let longest = one_of.saturating_mul(2) - 1;
        passed_over.set(rand::random_range(0..longest));
        true
    })
}

/// Where the times of a worker's sample go.
#[derive(Debug)]
pub(crate) struct Timings {
    pub(crate) actors: Timing,
    /// By the index of the entity type.
    pub(crate) types: Vec<Timing>,
}

/// The times of one kind of message.
pub(crate) struct Timing {
    pub(crate) queue: Histogram,
    pub(crate) handle: Histogram,
}

impl Timing {
    pub(crate) fn record(&self, queued: Duration, handled: Duration) {
        self.queue.record(queued);
        self.handle.record(handled);
    }
}

impl std::fmt::Debug for Timing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Timing").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_so_many_is_drawn_and_without_sampling_none() {
        let sampling = Sampling::none();
        assert!((0..1000).all(|_| sampling.stamp().is_none()));
        sampling.begin(1);
        assert!((0..1000).all(|_| sampling.stamp().is_some()));
        sampling.begin(10);
        let drawn = (0..100_000).filter(|_| sampling.stamp().is_some()).count();
        // Nine standard deviations.
        assert!((9_200..10_800).contains(&drawn), "{drawn}");
    }

    #[test]
    fn a_regular_order_hides_nothing_from_the_sample() {
        let sampling = Sampling::none();
        sampling.begin(16);
        let mut drawn = [0; 2];
        for number in 0..100_000 {
            drawn[number % 2] += usize::from(sampling.stamp().is_some());
        }
        assert!(drawn.iter().all(|drawn| *drawn > 1_000), "{drawn:?}");
    }
}
