//! A clock that tests move.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perennial_persistence::{Clock, Timestamp};

/// A [`Clock`] that stands still until it is moved. A clone is the same clock.
///
/// ```
/// use std::time::Duration;
/// use perennial_persistence::Clock;
/// use perennial_testkit::ManualClock;
///
/// let clock = ManualClock::new();
/// let before = clock.now();
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(clock.now(), before + Duration::from_secs(60));
/// assert_eq!(clock.elapsed(), Duration::from_secs(60));
/// ```
#[derive(Debug, Clone)]
pub struct ManualClock {
    time: Arc<Mutex<Time>>,
}

#[derive(Debug)]
struct Time {
    now: Timestamp,
    elapsed: Duration,
}

impl ManualClock {
    /// A clock that shows 2026-01-01T00:00:00Z and no time elapsed.
    pub fn new() -> Self {
        let start = Timestamp::from_second(1_767_225_600).expect("the year 2026 is in range");
        Self::at(start)
    }

    /// A clock that shows `now` and no time elapsed.
    pub fn at(now: Timestamp) -> Self {
        let elapsed = Duration::ZERO;
        Self {
            time: Arc::new(Mutex::new(Time { now, elapsed })),
        }
    }

    /// Lets time pass, on the wall clock as well as on the one that measures.
    ///
    /// # Panics
    /// At the end of all representable times.
    pub fn advance(&self, by: Duration) {
        let mut time = self.lock();
        time.now += by;
        time.elapsed += by;
    }

    /// Sets the wall clock, also backwards, as an administrator or a time server would; no time
    /// passes by that.
    pub fn set(&self, now: Timestamp) {
        self.lock().now = now;
    }

    fn lock(&self) -> MutexGuard<'_, Time> {
        // A panic in `advance` may have moved one of the two; both stay valid times.
        self.time.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.lock().now
    }

    fn elapsed(&self) -> Duration {
        self.lock().elapsed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stands_still_until_it_is_moved() {
        let clock = ManualClock::new();
        assert_eq!(clock.now(), clock.now());
        assert_eq!(clock.now().to_string(), "2026-01-01T00:00:00Z");
        assert_eq!(clock.elapsed(), Duration::ZERO);
    }

    #[test]
    fn advancing_moves_both_clocks_of_every_clone() {
        let clock = ManualClock::new();
        let seen_elsewhere: Arc<dyn Clock> = Arc::new(clock.clone());
        clock.advance(Duration::from_millis(1_500));
        clock.advance(Duration::from_nanos(1));
        let expected = Duration::new(1, 500_000_001);
        assert_eq!(seen_elsewhere.elapsed(), expected);
        assert_eq!(seen_elsewhere.now(), ManualClock::new().now() + expected);
    }

    #[test]
    fn a_wall_clock_that_steps_back_takes_no_elapsed_time_with_it() {
        let clock = ManualClock::new();
        clock.advance(Duration::from_secs(10));
        let start = ManualClock::new().now();
        clock.set(start);
        assert_eq!(clock.now(), start);
        assert_eq!(clock.elapsed(), Duration::from_secs(10));
    }
}
