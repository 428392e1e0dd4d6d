//! Time as a dependency that is handed in.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// Where time comes from. Production uses [`SystemClock`], tests advance one of their own.
pub trait Clock: Debug + Send + Sync + 'static {
    /// The wall clock, for what people and tables read.
    fn now(&self) -> Timestamp;

    /// Time since some fixed point in the past that never goes backwards, for waiting and measuring.
    fn elapsed(&self) -> Duration;
}

/// The machine's clocks.
#[derive(Debug, Clone)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose [`Clock::elapsed`] begins at zero now.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}
