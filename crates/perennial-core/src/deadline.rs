//! The deadlines of callers.
//!
//! Most asks are answered long before their deadline, so a deadline must cost next to nothing. An
//! ask leaves an entry behind; a thread of the system looks at all entries once per tick and drops
//! those that are answered by then. Only what is left joins the queue of real deadlines. No timer
//! is started or cancelled, and callers need no runtime of their own.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::call::Until;

/// How exact deadlines are: they come up to three ticks late, and never early.
const TICK: Duration = Duration::from_millis(5);

/// Where entries are left; callers of different asks seldom meet.
const SHARDS: usize = 8;

/// What has a deadline.
pub(crate) trait Expires: Send + Sync {
    /// Whether nobody waits any more.
    fn is_over(&self) -> bool;

    /// The deadline has come. Gives whether that decided that nothing is handled any more.
    fn expire(&self) -> bool;
}

/// All deadlines of a system, and the thread that looks after them.
pub struct Deadlines {
    start: Instant,
    /// Milliseconds since the start at the thread's last look.
    now: AtomicU64,
    /// Entries since the last look.
    fresh: [Mutex<Vec<Entry>>; SHARDS],
    /// Whether the thread sleeps until there is an entry.
    asleep: AtomicBool,
    stopped: AtomicBool,
    /// Asks that were not begun in time.
    expired: AtomicU64,
    thread: Mutex<Option<Thread>>,
}

/// Deadlines whose thread runs. When it is dropped, whoever still waits is told so at once: nobody
/// is left who could answer.
pub(crate) struct Running(Arc<Deadlines>);

impl Running {
    pub(crate) fn deadlines(&self) -> &Arc<Deadlines> {
        &self.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.stopped.store(true, Ordering::SeqCst);
        self.0.wake();
    }
}

struct Entry {
    /// Milliseconds since the start.
    at: u64,
    ask: Arc<dyn Expires>,
}

impl Deadlines {
    /// Starts the thread, which ends when the returned value is dropped.
    ///
    /// # Errors
    /// When the operating system gives none.
    pub(crate) fn start(system: &str) -> std::io::Result<Running> {
        let deadlines = Arc::new(Self {
            start: Instant::now(),
            now: AtomicU64::new(0),
            fresh: std::array::from_fn(|_| Mutex::new(Vec::new())),
            asleep: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            expired: AtomicU64::new(0),
            thread: Mutex::new(None),
        });
        let on_thread = Arc::clone(&deadlines);
        let thread = std::thread::Builder::new()
            .name(format!("{system}-deadlines"))
            .spawn(move || on_thread.look_after())?;
        *deadlines
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(thread.thread().clone());
        Ok(Running(deadlines))
    }

    /// The time `timeout` from now.
    pub(crate) fn until(&self, timeout: Duration) -> Until {
        let asleep = self.asleep.load(Ordering::Acquire);
        let now = if asleep {
            self.elapsed()
        } else {
            // The last look is less than a tick ago, if the thread is on time.
            self.now.load(Ordering::Relaxed) + millis(TICK)
        };
        Until(NonZeroU64::MIN.saturating_add(now.saturating_add(millis(timeout))))
    }

    /// Expires `ask` in `timeout`, unless it is over by then.
    #[cfg(test)]
    fn add(&self, timeout: Duration, ask: Arc<dyn Expires>) {
        self.add_at(self.until(timeout), ask);
    }

    /// Expires `ask` at a time, unless it is over by then.
    pub(crate) fn add_at(&self, until: Until, ask: Arc<dyn Expires>) {
        let entry = Entry {
            at: until.0.get() - 1,
            ask,
        };
        // Asks lie at different places, at least 64 bytes apart.
        let place = Arc::as_ptr(&entry.ask).cast::<()>().addr() / 64;
        self.fresh[place % SHARDS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(entry);
        // The thread says that it sleeps before it looks at the shards for a last time, so either
        // it sees the entry or this sees that it sleeps.
        if self.asleep.load(Ordering::Acquire) && self.asleep.swap(false, Ordering::AcqRel) {
            self.wake();
        }
        if self.stopped.load(Ordering::SeqCst) {
            self.expire_fresh();
        }
    }

    /// How many asks were not begun in time.
    pub(crate) fn expired(&self) -> u64 {
        self.expired.load(Ordering::Relaxed)
    }

    fn expire(&self, ask: &dyn Expires) {
        if ask.expire() {
            self.expired.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn expire_fresh(&self) {
        for shard in &self.fresh {
            let entries =
                std::mem::take(&mut *shard.lock().unwrap_or_else(PoisonError::into_inner));
            for entry in entries {
                self.expire(&*entry.ask);
            }
        }
    }

    fn wake(&self) {
        if let Some(thread) = &*self.thread.lock().unwrap_or_else(PoisonError::into_inner) {
            thread.unpark();
        }
    }

    fn elapsed(&self) -> u64 {
        millis(self.start.elapsed())
    }

    fn look_after(&self) {
        let mut waiting = BinaryHeap::new();
        let mut spare = Vec::new();
        // The size at which entries that are over are thrown out of the queue.
        let mut crowded = 1024;
        while !self.stopped.load(Ordering::Acquire) {
            let now = self.elapsed();
            self.now.store(now, Ordering::Relaxed);
            let mut found = false;
            for shard in &self.fresh {
                std::mem::swap(
                    &mut *shard.lock().unwrap_or_else(PoisonError::into_inner),
                    &mut spare,
                );
                found |= !spare.is_empty();
                for entry in spare.drain(..) {
                    if !entry.ask.is_over() {
                        waiting.push(Reverse(entry));
                    }
                }
            }
            while let Some(Reverse(entry)) = waiting.peek()
                && entry.at <= now
            {
                if let Some(Reverse(entry)) = waiting.pop() {
                    self.expire(&*entry.ask);
                }
            }
            if waiting.len() > crowded {
                waiting.retain(|Reverse(entry)| !entry.ask.is_over());
                crowded = (waiting.len() * 2).max(1024);
            }
            if found || !waiting.is_empty() {
                self.asleep.store(false, Ordering::Release);
                std::thread::park_timeout(TICK);
            } else if self.asleep.swap(true, Ordering::AcqRel) {
                // Nothing has come since it said that it would sleep.
                std::thread::park();
            }
        }
        for Reverse(entry) in waiting {
            self.expire(&*entry.ask);
        }
        self.expire_fresh();
    }
}

impl fmt::Debug for Deadlines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deadlines").finish_non_exhaustive()
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

/// Whole milliseconds, rounded up.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    struct Ask {
        over: AtomicBool,
        expired: mpsc::Sender<Duration>,
        start: Instant,
    }

    impl Expires for Ask {
        fn is_over(&self) -> bool {
            self.over.load(Ordering::Relaxed)
        }

        fn expire(&self) -> bool {
            self.expired.send(self.start.elapsed()).is_ok()
        }
    }

    fn ask(expired: &mpsc::Sender<Duration>) -> Arc<Ask> {
        Arc::new(Ask {
            over: AtomicBool::new(false),
            expired: expired.clone(),
            start: Instant::now(),
        })
    }

    #[test]
    fn deadlines_come_in_order_never_early_also_after_the_thread_slept() {
        let running = Deadlines::start("test").expect("a thread");
        let deadlines = running.deadlines();
        let (sender, receiver) = mpsc::channel();
        for _ in 0..3 {
            let times = [40, 1, 20].map(Duration::from_millis);
            for time in times {
                deadlines.add(time, ask(&sender));
            }
            let over = ask(&sender);
            over.over.store(true, Ordering::Relaxed);
            deadlines.add(Duration::from_millis(1), over);
            for least in [1, 20, 40] {
                let came = receiver
                    .recv_timeout(Duration::from_secs(30))
                    .expect("every deadline comes");
                assert!(
                    came >= Duration::from_millis(least),
                    "{came:?} < {least} ms"
                );
            }
            // The thread falls asleep once nothing is left; the next round has to wake it.
            let deadline = Instant::now() + Duration::from_secs(30);
            while !deadlines.asleep.load(Ordering::Acquire) && Instant::now() < deadline {
                std::thread::yield_now();
            }
            assert!(deadlines.asleep.load(Ordering::Acquire));
        }
        assert!(receiver.try_recv().is_err(), "what was over did not expire");
    }

    #[test]
    fn whoever_still_waits_at_the_end_waits_no_longer() {
        let hour = Duration::from_secs(3600);
        let running = Deadlines::start("test").expect("a thread");
        let deadlines = Arc::clone(running.deadlines());
        let (sender, receiver) = mpsc::channel();
        deadlines.add(hour, ask(&sender));
        drop(running);
        let waited = receiver.recv_timeout(Duration::from_secs(30));
        assert!(waited.is_ok_and(|waited| waited < hour));
        // Nor does one who comes late.
        deadlines.add(hour, ask(&sender));
        assert!(receiver.recv_timeout(Duration::from_secs(30)).is_ok());
    }
}
