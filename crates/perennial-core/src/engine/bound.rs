//! A bounded number of places, such as those in a mailbox, and who waits for one.

use std::fmt;
use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Counts the places that are taken. Whoever sends takes one before anything is queued, whoever
/// handles gives it back.
#[derive(Default)]
pub(crate) struct Bound {
    /// Places that are taken in the lower half, senders that wait for one in the upper half.
    count: AtomicU64,
    /// Woken when a place becomes free; there from the first sender on that waits.
    room: OnceLock<Box<Notify>>,
}

const SENDER: u64 = 1 << 32;

fn taken(count: u64) -> u64 {
    count & (SENDER - 1)
}

fn senders(count: u64) -> u64 {
    count >> 32
}

/// The largest limit that a [`Bound`] can have.
const LARGEST: u64 = SENDER / 2;

impl Bound {
    /// Takes a place if fewer than `limit` are taken.
    pub(crate) fn enter(&self, limit: usize) -> bool {
        let limit = (limit as u64).min(LARGEST);
        if taken(self.count.load(Ordering::Relaxed)) >= limit {
            return false;
        }
        if taken(self.count.fetch_add(1, Ordering::Relaxed)) < limit {
            return true;
        }
        // Others were faster.
        self.leave(1);
        false
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
        let waiting = senders(before);
        if waiting > 0
            && let Some(room) = self.room.get()
        {
            for _ in 0..waiting.min(places as u64) {
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
            if let Some(done) = attempt() {
                return done;
            }
            freed.await;
        }
    }

    /// Has everybody who waits try again, as there is something new to know.
    pub(crate) fn wake_all(&self) {
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
            .finish()
    }
}

/// A place in a [`Bound`].
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
    use std::task::Poll;

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
}
