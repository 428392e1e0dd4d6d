//! A bounded number of places, such as those in a mailbox, and who waits for one.

use std::fmt;
use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use tokio::sync::Notify;

/// Counts the places that are taken. Whoever sends takes one before anything is queued, whoever
/// handles gives it back.
///
/// It carries a mark besides, of which everybody learns who takes a place: so it is certain which
/// mark belongs to a place, and how many places were taken when the mark was changed.
#[derive(Default)]
pub(crate) struct Bound {
    /// From below: places that are taken, senders that wait for one, the mark.
    count: AtomicU64,
    /// Woken when a place becomes free; there from the first sender on that waits.
    room: OnceLock<Box<Notify>>,
}

/// A sender that waits, and the lowest bit of the mark.
const SENDER: u64 = 1 << 26;
const MARK: u64 = 1 << 52;

fn taken(count: u64) -> u64 {
    count & (SENDER - 1)
}

fn senders(count: u64) -> u64 {
    (count & (MARK - 1)) / SENDER
}

fn mark(count: u64) -> Mark {
    Mark((count / MARK) as u16)
}

/// What a [`Bound`] carries besides its counts; of 12 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark(pub(crate) u16);

/// There was no room.
pub(crate) struct Full {
    /// If a place was taken for a moment: the marks under which it was taken and given back.
    pub(crate) withdrawn: Option<(Mark, Mark)>,
}

/// The largest limit that a [`Bound`] can have: 33,554,432.
const LARGEST: u64 = SENDER / 2;

impl Bound {
    /// One that nobody has entered, with a mark.
    pub(crate) fn marked(mark: Mark) -> Self {
        Self {
            count: AtomicU64::new(u64::from(mark.0) * MARK),
            room: OnceLock::new(),
        }
    }

    /// Takes a place if fewer than `limit` are taken.
    pub(crate) fn enter(&self, limit: usize) -> bool {
        self.enter_marked(limit).is_ok()
    }

    /// Takes a place if fewer than `limit` are taken, and gives the mark of that moment.
    ///
    /// # Errors
    /// [`Full`] if there is no room.
    pub(crate) fn enter_marked(&self, limit: usize) -> Result<Mark, Full> {
        let limit = (limit as u64).min(LARGEST);
        if taken(self.count.load(Ordering::Relaxed)) >= limit {
            return Err(Full { withdrawn: None });
        }
        let before = self.count.fetch_add(1, Ordering::Relaxed);
        if taken(before) < limit {
            return Ok(mark(before));
        }
        // Others were faster.
        Err(Full {
            withdrawn: Some((mark(before), self.withdraw())),
        })
    }

    /// Gives back a place that led to nothing. Gives the mark of that moment.
    pub(crate) fn withdraw(&self) -> Mark {
        mark(self.leave_one())
    }

    /// The mark.
    pub(crate) fn mark(&self) -> Mark {
        mark(self.count.load(Ordering::Acquire))
    }

    /// Changes the mark, and gives how many places were taken at that moment.
    pub(crate) fn set_mark(&self, new: Mark) -> usize {
        let set = |count| Some((count & (MARK - 1)) | (u64::from(new.0) * MARK));
        let before = self
            .count
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, set);
        let (Ok(before) | Err(before)) = before;
        usize::try_from(taken(before)).unwrap_or(usize::MAX)
    }

    /// Takes places whatever the limit is.
    pub(crate) fn add(&self, places: usize) {
        self.count.fetch_add(places as u64, Ordering::Relaxed);
    }

    fn leave_one(&self) -> u64 {
        let before = self.count.fetch_sub(1, Ordering::AcqRel);
        self.wake(before, 1);
        before
    }

    /// A place that was taken and is given back when it is dropped, unless it is [kept](Place::keep).
    pub(crate) fn place(&self) -> Place<'_> {
        Place(Some(self))
    }

    /// Gives back `places` places.
    pub(crate) fn leave(&self, places: usize) {
        if places == 0 {
            return;
        }
        // Acquires what a waiting sender has released: its place to wait at.
        let before = self.count.fetch_sub(places as u64, Ordering::AcqRel);
        self.wake(before, places as u64);
    }

    /// Wakes as many as there are places now, of those who waited before.
    fn wake(&self, before: u64, places: u64) {
        let waiting = senders(before);
        if waiting > 0
            && let Some(room) = self.room.get()
        {
            for _ in 0..waiting.min(places) {
                room.notify_one();
            }
        }
    }

    /// How many places are taken.
    pub(crate) fn taken(&self) -> usize {
        usize::try_from(taken(self.count.load(Ordering::Relaxed))).unwrap_or(usize::MAX)
    }

    /// Calls `attempt` again whenever a place may have become free, until it gives something.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is kept between attempts, and a wake-up that came for a dropped future
    /// goes to the next one.
    pub(crate) async fn wait<T>(&self, mut attempt: impl FnMut() -> Option<T>) -> T {
        if let Some(done) = attempt() {
            return done;
        }
        let room = self.room.get_or_init(Box::default);
        let _waiting = Waiting::begin(self);
        loop {
            let mut freed = pin!(room.notified());
            // From here on no wake-up is missed. A place that became free before is seen by the
            // attempt.
            freed.as_mut().enable();
            // Either the attempt sees what was said before a wake-up of all, or that wakes this.
            fence(Ordering::SeqCst);
            if let Some(done) = attempt() {
                return done;
            }
            freed.await;
        }
    }

    /// Has everybody who waits try again, as there is something new to know.
    pub(crate) fn wake_all(&self) {
        fence(Ordering::SeqCst);
        if let Some(room) = self.room.get() {
            room.notify_waiters();
        }
    }
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.count.load(Ordering::Relaxed);
        f.debug_struct("Bound")
            .field("taken", &taken(count))
            .field("senders", &senders(count))
            .field("mark", &mark(count).0)
            .finish()
    }
}

/// A place in a [`Bound`] without a mark.
pub(crate) struct Place<'a>(Option<&'a Bound>);

impl Place<'_> {
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(bound) = self.0 {
            bound.leave(1);
        }
    }
}

/// A sender that waits.
struct Waiting<'a>(&'a Bound);

impl<'a> Waiting<'a> {
    fn begin(bound: &'a Bound) -> Self {
        bound.count.fetch_add(SENDER, Ordering::AcqRel);
        Self(bound)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.count.fetch_sub(SENDER, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::Pin;
    use std::sync::atomic::{AtomicBool, AtomicUsize};
    use std::sync::{Arc, Barrier, mpsc};
    use std::task::Poll;
    use std::time::{Duration, Instant};

    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    /// What the future says when it is polled once.
    async fn poll<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
        poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
    }

    #[test]
    fn exactly_as_many_places_are_taken_as_the_limit_says() {
        let bound = Bound::default();
        assert!(bound.enter(2) && bound.enter(2) && !bound.enter(2));
        bound.leave(1);
        assert!(bound.enter(2) && !bound.enter(2));
        assert_eq!(bound.taken(), 2);
        assert!(!Bound::default().enter(0));
    }

    #[test]
    fn a_sender_waits_until_there_is_a_place() {
        futures_executor::block_on(async {
            let bound = Bound::default();
            let enter = || bound.enter(1).then_some(());
            assert!(bound.enter(1));
            let mut first = pin!(bound.wait(enter));
            let mut second = pin!(bound.wait(enter));
            assert!(poll(first.as_mut()).await.is_pending());
            assert!(poll(second.as_mut()).await.is_pending());
            bound.leave(1);
            assert_eq!(poll(first.as_mut()).await, Poll::Ready(()));
            assert!(poll(second.as_mut()).await.is_pending());
            bound.leave(1);
            assert_eq!(poll(second.as_mut()).await, Poll::Ready(()));
        });
    }

    #[test]
    fn a_wake_up_for_a_sender_that_gave_up_goes_to_the_next() {
        futures_executor::block_on(async {
            let bound = Bound::default();
            let enter = || bound.enter(1).then_some(());
            assert!(bound.enter(1));
            let mut first = Box::pin(bound.wait(enter));
            let mut second = pin!(bound.wait(enter));
            assert!(poll(first.as_mut()).await.is_pending());
            assert!(poll(second.as_mut()).await.is_pending());
            bound.leave(1);
            drop(first);
            assert_eq!(poll(second.as_mut()).await, Poll::Ready(()));
        });
    }
    #[test]
    fn it_is_exact_which_places_were_taken_before_a_mark_was_changed() {
        const THREADS: usize = 4;
        const ENTRIES: usize = 5_000;
        const MARKS: u16 = 40;
        let bound = Bound::marked(Mark(0));
        let start = Barrier::new(THREADS + 1);
        let (of_threads, at_changes) = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        let mut marks = vec![0; usize::from(MARKS) + 1];
                        for _ in 0..ENTRIES {
                            if let Ok(Mark(mark)) = bound.enter_marked(usize::MAX) {
                                marks[usize::from(mark)] += 1;
                            }
                        }
                        marks
                    })
                })
                .collect();
            start.wait();
            let at_changes: Vec<usize> = (1..=MARKS)
                .map(|mark| {
                    std::thread::yield_now();
                    bound.set_mark(Mark(mark))
                })
                .collect();
            let of_threads: Vec<Vec<usize>> = threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .collect();
            (of_threads, at_changes)
        });
        let mut taken = 0;
        for (mark, at_change) in at_changes.iter().enumerate() {
            taken += of_threads.iter().map(|marks| marks[mark]).sum::<usize>();
            assert_eq!(taken, *at_change, "before mark {}", mark + 1);
        }
        assert_eq!(bound.taken(), THREADS * ENTRIES);
        assert_eq!(bound.mark(), Mark(MARKS));
    }

    #[test]
    fn a_place_that_is_given_back_says_under_which_mark() {
        let bound = Bound::marked(Mark(4095));
        let Ok(entered) = bound.enter_marked(1) else {
            panic!("there is room");
        };
        assert_eq!(entered, Mark(4095));
        assert!(
            bound
                .enter_marked(1)
                .is_err_and(|full| full.withdrawn.is_none())
        );
        assert_eq!(bound.set_mark(Mark(7)), 1);
        assert_eq!(bound.withdraw(), Mark(7));
        assert_eq!((bound.taken(), bound.mark()), (0, Mark(7)));
        bound.add(3);
        assert_eq!((bound.taken(), bound.mark()), (3, Mark(7)));
    }

    /// What many threads do with one bound, and how many of them were inside at once.
    struct Crowd {
        bound: Bound,
        limit: usize,
        inside: AtomicUsize,
        /// The most that were inside at any time.
        most: AtomicUsize,
        /// Those who came in, and those who gave up or were refused.
        entered: AtomicUsize,
        refused: AtomicUsize,
    }

    impl Crowd {
        fn new(limit: usize) -> Self {
            Self {
                bound: Bound::default(),
                limit,
                inside: AtomicUsize::new(0),
                most: AtomicUsize::new(0),
                entered: AtomicUsize::new(0),
                refused: AtomicUsize::new(0),
            }
        }

        fn come_in(&self) -> bool {
            let came_in = self.bound.enter(self.limit);
            if came_in {
                let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
                self.most.fetch_max(inside, Ordering::SeqCst);
                self.entered.fetch_add(1, Ordering::SeqCst);
            }
            came_in
        }

        fn go_out(&self, places: usize) {
            self.inside.fetch_sub(places, Ordering::SeqCst);
            self.bound.leave(places);
        }

        /// What one thread does, by chance.
        fn run(&self, seed: u64, rounds: usize) {
            let mut random = SmallRng::seed_from_u64(seed);
            let mut held = 0;
            for _ in 0..rounds {
                match random.random_range(0..10) {
                    // Whoever has a place waits for no other: then nobody might ever leave.
                    0..4 if held == 0 => {
                        let enter = || self.come_in().then_some(());
                        futures_executor::block_on(self.bound.wait(enter));
                        held += 1;
                    }
                    4..6 if held == 0 => {
                        let polls = random.random_range(1..4);
                        let enter = || self.come_in().then_some(());
                        let waited = give_up(self.bound.wait(enter), polls);
                        let count = if waited { &mut held } else { &mut 0 };
                        *count += 1;
                        self.refused
                            .fetch_add(usize::from(!waited), Ordering::SeqCst);
                    }
                    6 => {
                        let came_in = self.come_in();
                        held += usize::from(came_in);
                        self.refused
                            .fetch_add(usize::from(!came_in), Ordering::SeqCst);
                    }
                    7 => self.bound.wake_all(),
                    _ => {
                        // All at once, as an actor gives back those of a run.
                        self.go_out(held);
                        held = 0;
                        std::thread::yield_now();
                    }
                }
            }
            self.go_out(held);
        }
    }

    /// Waits for so many polls only. Gives whether that was enough.
    fn give_up(future: impl Future<Output = ()>, polls: usize) -> bool {
        let mut future = pin!(future);
        futures_executor::block_on(async {
            for _ in 0..polls {
                if poll(future.as_mut()).await.is_ready() {
                    return true;
                }
                std::thread::yield_now();
            }
            false
        })
    }

    #[test]
    fn many_threads_take_no_more_places_than_there_are_and_none_waits_for_ever() {
        const THREADS: u64 = 8;
        const ROUNDS: usize = 2_000;
        for (limit, seed) in [(1, 0), (2, 100), (5, 200), (64, 300)] {
            let crowd = Arc::new(Crowd::new(limit));
            (0..limit).for_each(|_| assert!(crowd.come_in()));
            let together = Arc::new(Barrier::new(8));
            let (done, all_done) = mpsc::channel();
            for thread in 0..THREADS {
                let (crowd, done) = (Arc::clone(&crowd), done.clone());
                let together = Arc::clone(&together);
                std::thread::spawn(move || {
                    together.wait();
                    crowd.run(seed + thread, ROUNDS);
                    done.send(()).expect("the test waits");
                });
            }
            // Some wait or are refused before there is any room.
            let begin = Instant::now();
            while senders(crowd.bound.count.load(Ordering::SeqCst)) == 0
                && crowd.refused.load(Ordering::SeqCst) == 0
            {
                assert!(begin.elapsed() < Duration::from_secs(60), "nobody came");
                std::thread::yield_now();
            }
            crowd.go_out(limit);
            for thread in 0..THREADS {
                let ended = all_done.recv_timeout(Duration::from_secs(60));
                assert!(ended.is_ok(), "only {thread} have ended: {:?}", crowd.bound);
            }
            let most = crowd.most.load(Ordering::SeqCst);
            assert!(most <= limit, "{most} were inside, of {limit}");
            assert!(crowd.entered.load(Ordering::SeqCst) > 100);
            // Neither a place nor a waiting sender is left in the count.
            assert_eq!(crowd.bound.count.load(Ordering::SeqCst), 0);
            assert!(crowd.bound.enter(1), "there is room again");
        }
    }

    #[test]
    fn who_waits_for_the_end_is_woken_however_close_it_comes() {
        for round in 0..500 {
            let (bound, ended) = (Arc::new(Bound::default()), Arc::new(AtomicBool::new(false)));
            assert!(bound.enter(1));
            let (done, all_done) = mpsc::channel();
            for _ in 0..3 {
                let (bound, ended, done) = (Arc::clone(&bound), Arc::clone(&ended), done.clone());
                std::thread::spawn(move || {
                    let over = || ended.load(Ordering::Acquire).then_some(());
                    futures_executor::block_on(bound.wait(over));
                    done.send(()).expect("the test waits");
                });
            }
            if round % 2 == 0 {
                std::thread::yield_now();
            }
            ended.store(true, Ordering::Release);
            bound.wake_all();
            for _ in 0..3 {
                let woken = all_done.recv_timeout(Duration::from_secs(60));
                assert!(woken.is_ok(), "round {round}: {bound:?}");
            }
        }
    }
}
