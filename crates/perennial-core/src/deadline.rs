//! The deadlines of callers.
//!
//! Most asks are answered long before their deadline, so a deadline must cost next to nothing. An
//! ask leaves an entry behind; a thread of the system looks at all entries once per tick and drops
//! those that are answered by then. Only what is left joins the queue of real deadlines. No timer
//! is started or cancelled, and callers need no runtime of their own.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use perennial_persistence::Clock;

use crate::call::{Call, Until};

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
    time: Time,
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

/// Whose time deadlines follow.
enum Time {
    /// The machine's, since then.
    Since(Instant),
    /// That of a driver, who also looks after them.
    Driven(Arc<dyn Clock>),
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

/// Deadlines without a thread, for a driver whose time somebody moves: exact to the millisecond,
/// rounded up. When it is dropped, whoever still waits is told so at once.
pub struct DrivenDeadlines {
    deadlines: Arc<Deadlines>,
    waiting: Waiting,
}

impl DrivenDeadlines {
    /// Deadlines in the time of `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            deadlines: Arc::new(Deadlines::new(Time::Driven(clock))),
            waiting: Waiting::default(),
        }
    }

    /// What a [`Frame`](crate::engine::Frame) takes.
    pub fn deadlines(&self) -> &Arc<Deadlines> {
        &self.deadlines
    }

    /// Expires everything whose time has come.
    pub fn look(&mut self) {
        self.waiting.look(&self.deadlines, self.deadlines.passed());
    }

    /// When the next one expires, as time since the clock's start, as far as was seen at the last
    /// look.
    pub fn next(&self) -> Option<Duration> {
        let Reverse((entry, _)) = self.waiting.queue.peek()?;
        Some(Duration::from_millis(entry.at))
    }
}

impl Drop for DrivenDeadlines {
    fn drop(&mut self) {
        self.deadlines.stopped.store(true, Ordering::SeqCst);
        self.waiting.expire_all(&self.deadlines);
    }
}

impl fmt::Debug for DrivenDeadlines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrivenDeadlines")
            .field("next", &self.next())
            .finish_non_exhaustive()
    }
}

struct Entry {
    /// Milliseconds: how long, until a look has taken it; then when, since the start.
    at: u64,
    /// When at the latest, in milliseconds since the start.
    latest: u64,
    ask: Arc<dyn Expires>,
}

impl Deadlines {
    /// Starts the thread, which ends when the returned value is dropped.
    ///
    /// # Errors
    /// When the operating system gives none.
    pub(crate) fn start(system: &str) -> std::io::Result<Running> {
        let deadlines = Arc::new(Self::new(Time::Since(Instant::now())));
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

    fn new(time: Time) -> Self {
        Self {
            time,
            now: AtomicU64::new(0),
            fresh: std::array::from_fn(|_| Mutex::new(Vec::new())),
            asleep: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            expired: AtomicU64::new(0),
            thread: Mutex::new(None),
        }
    }

    /// The time `timeout` from now.
    pub(crate) fn until(&self, timeout: Duration) -> Until {
        Until::at(self.now().saturating_add(millis(timeout)))
    }

    /// The time in milliseconds, never too early: without a look at the clock while the thread looks.
    fn now(&self) -> u64 {
        let is_driven = matches!(self.time, Time::Driven(_));
        if is_driven || self.asleep.load(Ordering::Acquire) {
            return millis(self.elapsed());
        }
        // The last look is less than a tick ago, if the thread is on time, and was rounded down.
        self.now.load(Ordering::Relaxed) + millis(TICK) + 1
    }

    /// How long it is until a time.
    pub(crate) fn left(&self, until: Until) -> Duration {
        Duration::from_millis(until.millis().saturating_sub(self.passed()))
    }

    /// Expires `ask` in `timeout`, or at the time up to which `call` may take if that is sooner,
    /// unless it is over by then. Gives when that is, more or less.
    ///
    /// The thread counts `timeout` from when it takes the entry: it may be late, and a deadline that
    /// was counted from its latest look would come early then. Without a thread it counts from now.
    pub(crate) fn add(
        &self,
        timeout: Duration,
        call: Option<&Call>,
        ask: Arc<dyn Expires>,
    ) -> Until {
        let is_driven = matches!(self.time, Time::Driven(_));
        let own = self.until(timeout);
        let outer = call.and_then(|call| call.until);
        let until = outer.map_or(own, |outer| outer.min(own));
        let entry = if is_driven {
            Entry {
                at: u64::MAX,
                latest: until.millis(),
                ask,
            }
        } else {
            Entry {
                at: millis(timeout),
                latest: outer.map_or(u64::MAX, Until::millis),
                ask,
            }
        };
        let place = match &self.time {
            // Asks lie at different places, at least 64 bytes apart.
            Time::Since(_) => Arc::as_ptr(&entry.ask).cast::<()>().addr() / 64,
            // Where an ask lies decides about nothing.
            Time::Driven(_) => 0,
        };
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
        until
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

    fn elapsed(&self) -> Duration {
        match &self.time {
            Time::Since(start) => start.elapsed(),
            Time::Driven(clock) => clock.elapsed(),
        }
    }

    /// Whole milliseconds since the start, rounded down so that nothing expires early.
    fn passed(&self) -> u64 {
        u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn look_after(&self) {
        let mut waiting = Waiting::default();
        while !self.stopped.load(Ordering::Acquire) {
            let now = self.passed();
            self.now.store(now, Ordering::Relaxed);
            let found = waiting.look(self, now);
            if found || !waiting.queue.is_empty() {
                self.asleep.store(false, Ordering::Release);
                std::thread::park_timeout(TICK);
            } else if self.asleep.swap(true, Ordering::AcqRel) {
                // Nothing has come since it said that it would sleep.
                std::thread::park();
            }
        }
        waiting.expire_all(self);
    }
}

/// The entries that a look has found and that have time left.
struct Waiting {
    queue: BinaryHeap<Reverse<(Entry, u64)>>,
    /// How many there were, so that those of one time expire in the order in which they came.
    count: u64,
    spare: Vec<Entry>,
    /// The size at which entries that are over are thrown out of the queue.
    crowded: usize,
}

impl Default for Waiting {
    fn default() -> Self {
        Self {
            queue: BinaryHeap::new(),
            count: 0,
            spare: Vec::new(),
            crowded: Self::CROWDED,
        }
    }
}

impl Waiting {
    const CROWDED: usize = 1024;

    /// Takes in what has come and expires what is due. Gives whether anything has come.
    fn look(&mut self, deadlines: &Deadlines, now: u64) -> bool {
        let mut found = false;
        for shard in &deadlines.fresh {
            std::mem::swap(
                &mut *shard.lock().unwrap_or_else(PoisonError::into_inner),
                &mut self.spare,
            );
            if self.spare.is_empty() {
                continue;
            }
            found = true;
            // They may have come after `now`, and the thread may have been away in between.
            let taken = millis(deadlines.elapsed());
            for mut entry in self.spare.drain(..) {
                if !entry.ask.is_over() {
                    entry.at = taken.saturating_add(entry.at).min(entry.latest);
                    self.count += 1;
                    self.queue.push(Reverse((entry, self.count)));
                }
            }
        }
        while let Some(Reverse((entry, _))) = self.queue.peek()
            && (entry.at <= now || entry.ask.is_over())
        {
            if let Some(Reverse((entry, _))) = self.queue.pop() {
                deadlines.expire(&*entry.ask);
            }
        }
        if self.queue.len() > self.crowded {
            self.queue
                .retain(|Reverse((entry, _))| !entry.ask.is_over());
            self.crowded = (self.queue.len() * 2).max(Self::CROWDED);
        }
        found
    }

    fn expire_all(&mut self, deadlines: &Deadlines) {
        for Reverse((entry, _)) in self.queue.drain() {
            deadlines.expire(&*entry.ask);
        }
        deadlines.expire_fresh();
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
                deadlines.add(time, None, ask(&sender));
            }
            let over = ask(&sender);
            over.over.store(true, Ordering::Relaxed);
            deadlines.add(Duration::from_millis(1), None, over);
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
    fn driven_deadlines_come_when_their_time_has_come_and_in_the_order_of_their_asks() {
        struct Numbered(u32, mpsc::Sender<u32>);
        impl Expires for Numbered {
            fn is_over(&self) -> bool {
                false
            }
            fn expire(&self) -> bool {
                self.1.send(self.0).expect("the test listens");
                true
            }
        }
        let clock = perennial_testkit::ManualClock::new();
        let mut driven = DrivenDeadlines::new(Arc::new(clock.clone()));
        let (sender, receiver) = mpsc::channel();
        let deadlines = Arc::clone(driven.deadlines());
        let add = |number, ms| {
            let ask = Arc::new(Numbered(number, sender.clone()));
            deadlines.add(Duration::from_millis(ms), None, ask);
        };
        (0..20).for_each(|number| add(number, 10));
        add(20, 5);
        clock.advance(Duration::from_micros(4_999));
        driven.look();
        assert_eq!(driven.next(), Some(Duration::from_millis(5)));
        assert!(receiver.try_recv().is_err());
        clock.advance(Duration::from_micros(1));
        driven.look();
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [20]);
        clock.advance(Duration::from_millis(5));
        driven.look();
        assert!(receiver.try_iter().eq(0..20));
        add(21, 3_600_000);
        drop(driven);
        assert_eq!(receiver.try_recv(), Ok(21));
    }

    #[test]
    fn whoever_still_waits_at_the_end_waits_no_longer() {
        let hour = Duration::from_secs(3600);
        let running = Deadlines::start("test").expect("a thread");
        let deadlines = Arc::clone(running.deadlines());
        let (sender, receiver) = mpsc::channel();
        deadlines.add(hour, None, ask(&sender));
        drop(running);
        let waited = receiver.recv_timeout(Duration::from_secs(30));
        assert!(waited.is_ok_and(|waited| waited < hour));
        // Nor does one who comes late.
        deadlines.add(hour, None, ask(&sender));
        assert!(receiver.recv_timeout(Duration::from_secs(30)).is_ok());
    }
}
