//! How long a state may last.

use std::time::Duration;

use perennial_persistence::Timestamp;

/// How long a state may last before the machine is told that it timed out.
///
/// It begins when the state is entered, also anew, and ends when the state is left: a time-out that
/// is on its way then is not handled. It comes once per entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateTimeout {
    due: Due,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    After(Duration),
    At(Timestamp),
}

impl StateTimeout {
    /// This long after the state was entered. A persistent machine that comes back counts from its
    /// recovery, as nothing tells it when that was.
    pub const fn after(duration: Duration) -> Self {
        Self {
            due: Due::After(duration),
        }
    }

    /// At this time by the system's clock; at once if it has passed. For a deadline that a persistent
    /// machine keeps in its state, so that it survives a restart.
    pub const fn at(time: Timestamp) -> Self {
        Self { due: Due::At(time) }
    }

    /// The time until then.
    pub(crate) fn delay(self, now: Timestamp) -> Duration {
        match self.due {
            Due::After(duration) => duration,
            Due::At(time) => Duration::try_from(time.duration_since(now)).unwrap_or(Duration::ZERO),
        }
    }
}

/// The timer of the state; handlers cannot take its name by accident, and `cancel_all` leaves it.
pub(crate) const STATE_TIMEOUT: &str = "$state-timeout";

/// A state has timed out.
pub(crate) struct StateTimedOut {
    /// Which entry began it; none is counted where nothing that was cancelled is handled.
    pub(crate) entry: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_that_has_passed_is_due_at_once() {
        let now = Timestamp::from_second(1_000).expect("in range");
        let second = Duration::from_secs(1);
        assert_eq!(StateTimeout::after(second).delay(now), second);
        assert_eq!(StateTimeout::at(now + second).delay(now), second);
        assert_eq!(StateTimeout::at(now).delay(now), Duration::ZERO);
        assert_eq!(StateTimeout::at(now - second).delay(now), Duration::ZERO);
        let never = StateTimeout::at(Timestamp::MAX).delay(Timestamp::MIN);
        assert!(never > Duration::from_secs(3600 * 24 * 365));
    }
}
