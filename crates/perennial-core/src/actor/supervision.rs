//! What becomes of an actor that failed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::actor::Failure;

/// What is done about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Directive {
    /// Goes on with the value as the failure left it. Timers, children and stash stay.
    Resume,
    /// Begins anew with a fresh value from the factory, after a wait; see [`Supervision::backoff`].
    /// Timers and futures end, children are stopped first, what waits or is stashed stays.
    Restart,
    /// Stops the actor for good.
    Stop,
    /// Stops the actor and fails its parent with the same failure, whose own supervision decides
    /// then. An actor without a parent is just stopped.
    Escalate,
}

/// What is decided when an actor fails: by a panic of its code, an error that a handler returns, or
/// one at its start. Given to [`Props::supervision`](crate::Props::supervision).
///
/// By default an actor is restarted, after 100 ms that double up to 10 s and are spread by a fifth,
/// as often as it fails.
///
/// ```
/// use std::time::Duration;
///
/// use perennial_core::{Directive, Supervision};
///
/// let supervision = Supervision::decide(|failure| {
///     if failure.is_panic() { Directive::Restart } else { Directive::Stop }
/// })
/// .backoff(Duration::from_millis(10), Duration::from_secs(1))
/// .limit(5, Duration::from_secs(60))
/// .all_for_one();
/// # let _ = supervision;
/// ```
#[derive(Clone)]
pub struct Supervision {
    decider: Decider,
    min: Duration,
    max: Duration,
    jitter: f64,
    limit: Option<(u32, Duration)>,
    group: bool,
}

#[derive(Clone)]
enum Decider {
    Always(Directive),
    Decide(Arc<dyn Fn(&Failure) -> Directive + Send + Sync>),
}

impl Supervision {
    /// Resumes after every failure.
    pub fn resume() -> Self {
        Self::always(Directive::Resume)
    }

    /// Restarts after every failure.
    pub fn restart() -> Self {
        Self::always(Directive::Restart)
    }

    /// Stops at the first failure.
    pub fn stop() -> Self {
        Self::always(Directive::Stop)
    }

    /// Hands every failure on to the parent.
    pub fn escalate() -> Self {
        Self::always(Directive::Escalate)
    }

    /// Decides by the failure. Runs on the actor's worker; a panic of it stops the actor.
    pub fn decide(decider: impl Fn(&Failure) -> Directive + Send + Sync + 'static) -> Self {
        Self {
            decider: Decider::Decide(Arc::new(decider)),
            ..Self::restart()
        }
    }

    fn always(directive: Directive) -> Self {
        Self {
            decider: Decider::Always(directive),
            min: Duration::from_millis(100),
            max: Duration::from_secs(10),
            jitter: 0.2,
            limit: None,
            group: false,
        }
    }

    /// How long to wait before a restart: `min` after the first failure, twice as long after every
    /// further one, `max` at the most. The count begins anew once the actor has run for `max`
    /// without a failure. A `max` below `min` counts as `min`.
    pub fn backoff(mut self, min: Duration, max: Duration) -> Self {
        self.min = min;
        self.max = max.max(min);
        self
    }

    /// By which part of it a wait is lengthened at the most, by chance, so that actors that failed
    /// together do not come back together: 0.2 by default, held between 0 and 1.
    pub fn jitter(mut self, part: f64) -> Self {
        self.jitter = if part.is_nan() {
            0.0
        } else {
            part.clamp(0.0, 1.0)
        };
        self
    }

    /// Restarts `restarts` times within `within` at the most; one failure more stops the actor.
    /// Without a limit it restarts for ever.
    pub fn limit(mut self, restarts: u32, within: Duration) -> Self {
        self.limit = Some((restarts, within));
        self
    }

    /// What is decided about this actor holds for all children of its parent that have this setting
    /// too: they are restarted or stopped together. Resuming concerns the one alone, and so does
    /// anything about an actor without a parent.
    pub fn all_for_one(mut self) -> Self {
        self.group = true;
        self
    }

    /// What becomes of the one that fails is its own matter, as by default.
    pub fn one_for_one(mut self) -> Self {
        self.group = false;
        self
    }

    pub(crate) fn is_group(&self) -> bool {
        self.group
    }

    pub(crate) fn decision(&self, failure: &Failure) -> Directive {
        match &self.decider {
            Decider::Always(directive) => *directive,
            Decider::Decide(decide) => decide(failure),
        }
    }
}

impl Default for Supervision {
    fn default() -> Self {
        Self::restart()
    }
}

impl fmt::Debug for Supervision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervision")
            .field("min", &self.min)
            .field("max", &self.max)
            .field("jitter", &self.jitter)
            .field("limit", &self.limit)
            .field("all_for_one", &self.group)
            .finish_non_exhaustive()
    }
}

/// The restarts of one actor.
#[derive(Debug, Default)]
pub(crate) struct Restarts {
    /// In a row.
    failures: u32,
    /// When the latest one began.
    latest: Option<Duration>,
    /// When the restarts were that still count for the limit, oldest first.
    counted: Vec<Duration>,
}

impl Restarts {
    /// Notes a failure that asks for a restart. Gives how long to wait before it, or `None` if the
    /// limit does not allow another. `jitter` is a number from 0 to 1, drawn by chance.
    pub(crate) fn next(
        &mut self,
        supervision: &Supervision,
        now: Duration,
        jitter: f64,
    ) -> Option<Duration> {
        if let Some((restarts, within)) = supervision.limit {
            self.counted.retain(|&at| now.saturating_sub(at) < within);
            if self.counted.len() >= restarts as usize {
                return None;
            }
            self.counted.push(now);
        }
        let ran_long = self
            .latest
            .is_some_and(|latest| now.saturating_sub(latest) >= supervision.max);
        if ran_long {
            self.failures = 0;
        }
        let doubled = supervision
            .min
            .saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1);
        let wait = doubled.min(supervision.max);
        let spread = wait.as_secs_f64() * supervision.jitter * jitter;
        let wait =
            wait.saturating_add(Duration::try_from_secs_f64(spread).unwrap_or(Duration::MAX));
        self.latest = Some(now.saturating_add(wait));
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn at(ms: u32) -> Duration {
        MS * ms
    }

    #[test]
    fn the_wait_doubles_up_to_its_bound_and_is_spread_by_chance() {
        let supervision = Supervision::restart().backoff(at(10), at(50)).jitter(0.5);
        let mut restarts = Restarts::default();
        let mut waits = Vec::new();
        let mut now = at(0);
        for _ in 0..4 {
            let wait = restarts.next(&supervision, now, 0.0).expect("no limit");
            waits.push(wait);
            now += wait;
        }
        assert_eq!(waits, [at(10), at(20), at(40), at(50)]);
        assert_eq!(restarts.next(&supervision, now, 1.0), Some(at(75)));
    }

    #[test]
    fn the_wait_begins_anew_after_a_long_run() {
        let supervision = Supervision::restart().backoff(at(10), at(50)).jitter(0.0);
        let mut restarts = Restarts::default();
        assert_eq!(restarts.next(&supervision, at(0), 0.0), Some(at(10)));
        assert_eq!(restarts.next(&supervision, at(59), 0.0), Some(at(20)));
        // Restarted at 79, it ran for 50 ms.
        assert_eq!(restarts.next(&supervision, at(129), 0.0), Some(at(10)));
    }

    #[test]
    fn the_limit_counts_restarts_within_its_time() {
        let supervision = Supervision::restart()
            .backoff(MS, MS)
            .jitter(0.0)
            .limit(2, at(100));
        let mut restarts = Restarts::default();
        assert!(restarts.next(&supervision, at(0), 0.0).is_some());
        assert!(restarts.next(&supervision, at(50), 0.0).is_some());
        assert!(restarts.next(&supervision, at(99), 0.0).is_none());
        assert!(restarts.next(&supervision, at(100), 0.0).is_some());
        let never = Supervision::restart().limit(0, at(100));
        assert!(Restarts::default().next(&never, at(0), 0.0).is_none());
    }

    #[test]
    fn very_many_failures_do_not_overflow() {
        let supervision = Supervision::restart()
            .backoff(Duration::MAX / 2, Duration::MAX / 2)
            .jitter(0.0);
        let mut restarts = Restarts::default();
        for _ in 0..100 {
            assert!(restarts.next(&supervision, at(0), 0.0).is_some());
        }
    }

    /// A failure: how long after the restart before it, and the chance that is drawn for it.
    fn failures() -> impl Strategy<Value = Vec<(u32, f64)>> {
        prop::collection::vec((prop_oneof![0..200_u32, 0..20_000_u32], 0.0..=1.0), 1..60)
    }

    proptest! {
        #[test]
        fn every_wait_is_that_of_the_failures_in_a_row(
            min in 0..100_u32,
            max in 0..2000_u32,
            jitter in 0.0..=1.0,
            failures in failures(),
        ) {
            let supervision = Supervision::restart().backoff(at(min), at(max)).jitter(jitter);
            let max = at(max.max(min));
            let mut restarts = Restarts::default();
            let (mut restarted, mut in_a_row) = (None, 0_u32);
            for (gap, chance) in failures {
                let now = restarted.unwrap_or_default() + at(gap);
                // A run of `max` without a failure is as if there had been none.
                if restarted.is_some_and(|restarted| now - restarted >= max) {
                    in_a_row = 0;
                }
                let doubled = f64::from(min) * 2_f64.powf(f64::from(in_a_row.min(20)));
                let least = Duration::from_secs_f64(doubled / 1000.0).min(max);
                let wait = restarts
                    .next(&supervision, now, chance)
                    .expect("there is no limit");
                let most = least + Duration::from_secs_f64(least.as_secs_f64() * jitter);
                let rounded = Duration::from_nanos(1);
                prop_assert!(wait >= least, "{wait:?} is shorter than {least:?}");
                prop_assert!(wait <= most + rounded, "{wait:?} is longer than {most:?}");
                in_a_row += 1;
                restarted = Some(now + wait);
            }
        }

        #[test]
        fn no_more_restarts_than_the_limit_in_any_span_of_its_time(
            limit in 0..5_u32,
            within in 1..500_u32,
            failures in failures(),
        ) {
            let supervision = Supervision::restart()
                .backoff(MS, MS)
                .jitter(0.0)
                .limit(limit, at(within));
            let mut restarts = Restarts::default();
            let mut allowed: Vec<Duration> = Vec::new();
            let mut now = at(0);
            for (gap, chance) in failures {
                now += at(gap);
                let recent = allowed.iter().filter(|time| now - **time < at(within)).count();
                let next = restarts.next(&supervision, now, chance);
                // Exactly: one that is within the limit is not refused either.
                prop_assert_eq!(next.is_some(), recent < limit as usize);
                if next.is_some() {
                    allowed.push(now);
                }
                prop_assert!(restarts.counted.len() <= limit as usize);
            }
        }

        #[test]
        fn no_numbers_make_it_panic(
            min in any::<u64>(),
            max in any::<u64>(),
            jitter in any::<f64>(),
            limit in proptest::option::of((any::<u32>(), any::<u64>())),
            times in prop::collection::vec((any::<u64>(), 0.0..=1.0), 1..40),
        ) {
            let mut supervision = Supervision::restart()
                .backoff(Duration::from_nanos(min), Duration::from_secs(max))
                .jitter(jitter);
            if let Some((restarts, within)) = limit {
                supervision = supervision.limit(restarts, Duration::from_nanos(within));
            }
            let mut restarts = Restarts::default();
            for (now, chance) in times {
                // Also when the clock were to step back.
                restarts.next(&supervision, Duration::from_millis(now), chance);
            }
        }
    }
}
