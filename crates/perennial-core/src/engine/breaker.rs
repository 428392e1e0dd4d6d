//! Circuit breakers: one per store and worker.
//!
//! While a store answers, its breaker is *closed* and counts the calls in a row that fail or take
//! too long. At the configured number it *opens*: what needs the store is refused at once, and what
//! was accepted before is held back. After a while it is *half-open*: one call goes out, a probe.
//! What is held back comes first; without that, the next command that needs the store does. A probe
//! that succeeds closes the breaker, and everything that was held back goes on. One that fails, or
//! takes too long, opens it again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use perennial_persistence::telemetry::{label, metric};
use perennial_persistence::{Error, Timestamp};

use crate::engine::CellKey;
use crate::engine::core::{Stats, TimerKey};
use crate::error::chain;

/// How a breaker decides.
#[derive(Debug, Clone, Copy)]
pub struct BreakerSettings {
    /// Calls in a row that fail before it opens; 0 never opens it.
    pub failures: u64,
    /// A call that takes longer counts as failed, once for each time that this passes.
    pub slow_call: Duration,
    /// How long it is open before a probe goes out.
    pub reset: Duration,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            failures: 10,
            slow_call: Duration::from_secs(10),
            reset: Duration::from_secs(2),
        }
    }
}

/// What a store's circuit breaker lets through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum BreakerState {
    /// Everything: the store answers.
    #[default]
    Closed,
    /// One call, to see whether the store answers again.
    HalfOpen,
    /// Nothing: the store has failed too often.
    Open,
}

impl BreakerState {
    /// Its name in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half-open",
            Self::Open => "open",
        }
    }
}

/// What a breaker shows outside of its worker.
#[derive(Debug, Default)]
pub struct BreakerView {
    /// The store's name.
    store: &'static str,
    worker: usize,
    shown: Mutex<BreakerReport>,
    /// Commands that were refused.
    refused: AtomicU64,
}

/// How it stands with a breaker.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct BreakerReport {
    /// What it lets through.
    pub state: BreakerState,
    /// When it opened or closed last; `None` if it never did.
    pub since: Option<Timestamp>,
    /// Calls in a row that failed.
    pub failures: u64,
    /// What the store said last when it failed.
    pub last_error: Option<Arc<str>>,
    /// How often it has opened.
    pub opened: u64,
    /// Commands that it has refused.
    pub refused: u64,
}

impl BreakerView {
    pub(super) fn new(store: &'static str, worker: usize) -> Self {
        Self {
            store,
            worker,
            ..Self::default()
        }
    }

    /// How it stands now.
    pub fn report(&self) -> BreakerReport {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        BreakerReport {
            refused: self.refused.load(Ordering::Relaxed),
            ..shown.clone()
        }
    }

    fn change(&self, change: impl FnOnce(&mut BreakerReport)) {
        change(&mut self.shown.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn set_state(&self, state: BreakerState) {
        self.change(|shown| shown.state = state);
        let value = match state {
            BreakerState::Closed => 0.0,
            BreakerState::HalfOpen => 1.0,
            BreakerState::Open => 2.0,
        };
        metrics::gauge!(metric::STORE_BREAKER_STATE, self.labels()).set(value);
    }

    fn labels(&self) -> Vec<metrics::Label> {
        vec![
            metrics::Label::new(label::STORE, self.store),
            metrics::Label::new(label::WORKER, self.worker.to_string()),
        ]
    }

    /// Counts something that happens only while the store is away.
    fn count(&self, name: &'static str) {
        metrics::counter!(name, self.labels()).increment(1);
    }
}

/// Names a call of the store while it is under way.
pub(crate) type Call = u64;

/// Something accepted that is held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeldBack {
    Lane(usize),
    /// A cell that is to ask for a part of its history.
    Read(CellKey),
}

/// What the end of a call, or the time, has done to a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// It is open until this time.
    Opened(Duration),
    /// What is held back may go.
    Closed,
}

pub(super) struct Breaker {
    settings: BreakerSettings,
    state: State,
    /// Calls in a row that failed.
    failures: u64,
    calls: u64,
    /// The calls that are under way, oldest first.
    under_way: BTreeMap<Call, UnderWay>,
    /// When the oldest call counts as slow.
    pub(super) slow_timer: Option<TimerKey>,
    held: VecDeque<HeldBack>,
    /// The error of the call that failed last.
    last_error: Option<Error>,
    /// Which store it is, and where it shows how it stands.
    store: usize,
    stats: Arc<Stats>,
}

enum State {
    Closed,
    Open {
        probe_at: Duration,
    },
    /// The probe is on its way, or was promised to somebody who is to call until that time.
    HalfOpen {
        probe: Option<Call>,
        until: Duration,
    },
}

struct UnderWay {
    /// When it counts as slow, or does so again.
    slow_at: Duration,
    is_slow: bool,
}

impl Breaker {
    pub(super) fn new(settings: BreakerSettings, store: usize, stats: Arc<Stats>) -> Self {
        Self {
            settings,
            state: State::Closed,
            failures: 0,
            calls: 0,
            under_way: BTreeMap::new(),
            slow_timer: None,
            held: VecDeque::new(),
            last_error: None,
            store,
            stats,
        }
    }

    fn view(&self) -> &BreakerView {
        &self.stats.breakers[self.store]
    }

    /// Whether a command that needs the store may go on; otherwise when it may come back.
    pub(super) fn admit(&mut self, now: Duration) -> Result<(), Duration> {
        let until = match self.state {
            State::Closed => return Ok(()),
            State::Open { probe_at } => probe_at,
            State::HalfOpen { until, .. } => until,
        };
        let is_probing = matches!(self.state, State::HalfOpen { probe: Some(_), .. });
        if until <= now && self.held.is_empty() && !is_probing {
            // Whoever comes after it waits for what becomes of it.
            self.half_open(None, now);
            return Ok(());
        }
        self.view().refused.fetch_add(1, Ordering::Relaxed);
        self.view().count(metric::STORE_BREAKER_REFUSED);
        Err(until.saturating_sub(now))
    }

    /// Whether a call may go out now.
    pub(super) fn is_passable(&self, now: Duration) -> bool {
        match self.state {
            State::Closed => true,
            State::Open { probe_at } => probe_at <= now,
            State::HalfOpen { probe, .. } => probe.is_none(),
        }
    }

    /// A call goes out, unless it must not.
    pub(super) fn begin(&mut self, now: Duration) -> Option<Call> {
        if !self.is_passable(now) {
            return None;
        }
        self.calls += 1;
        let call = self.calls;
        self.under_way.insert(
            call,
            UnderWay {
                slow_at: now.saturating_add(self.settings.slow_call),
                is_slow: false,
            },
        );
        if !matches!(self.state, State::Closed) {
            self.half_open(Some(call), now);
        }
        Some(call)
    }

    fn half_open(&mut self, probe: Option<Call>, now: Duration) {
        let until = now.saturating_add(self.settings.reset);
        self.state = State::HalfOpen { probe, until };
        self.view().set_state(BreakerState::HalfOpen);
    }

    /// A call has ended; with an error if the store did not do its part.
    pub(super) fn end(
        &mut self,
        call: Call,
        now: Duration,
        wall: Timestamp,
        error: Option<&Error>,
    ) -> Change {
        let Some(ended) = self.under_way.remove(&call) else {
            return Change::None;
        };
        let is_probe =
            matches!(self.state, State::HalfOpen { probe: Some(probe), .. } if probe == call);
        match error {
            // It was counted when it became slow.
            _ if ended.is_slow && !is_probe => Change::None,
            Some(error) => self.failed(now, wall, error.clone(), is_probe),
            None if ended.is_slow || ended.slow_at <= now => {
                let error = too_slow(self.settings.slow_call);
                self.failed(now, wall, error, is_probe)
            }
            None => self.succeeded(wall),
        }
    }

    /// Whether calls are under way.
    pub(super) fn has_calls(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// When the first call will have taken too long.
    pub(super) fn slow_at(&self) -> Option<Duration> {
        self.under_way.values().map(|call| call.slow_at).min()
    }

    /// Counts the calls that have taken too long by now.
    pub(super) fn look_for_slow_calls(&mut self, now: Duration, wall: Timestamp) -> Change {
        let mut slow = 0;
        let mut probe_is_slow = false;
        for (call, under_way) in &mut self.under_way {
            if under_way.slow_at <= now {
                under_way.slow_at = now.saturating_add(self.settings.slow_call);
                under_way.is_slow = true;
                slow += 1;
                probe_is_slow |= matches!(self.state, State::HalfOpen { probe: Some(probe), .. } if probe == *call);
            }
        }
        let mut change = Change::None;
        for _ in 0..slow {
            let error = too_slow(self.settings.slow_call);
            let failed = self.failed(now, wall, error, std::mem::take(&mut probe_is_slow));
            if failed != Change::None {
                change = failed;
            }
        }
        change
    }

    fn succeeded(&mut self, wall: Timestamp) -> Change {
        if self.failures == 0 {
            return Change::None;
        }
        self.failures = 0;
        let was_closed = matches!(self.state, State::Closed);
        self.state = State::Closed;
        self.view().change(|shown| {
            shown.failures = 0;
            if !was_closed {
                shown.since = Some(wall);
            }
        });
        if was_closed {
            return Change::None;
        }
        self.view().set_state(BreakerState::Closed);
        tracing::info!(
            store = self.view().store,
            worker = self.view().worker,
            "the store answers again, its circuit breaker is closed"
        );
        Change::Closed
    }

    fn failed(&mut self, now: Duration, wall: Timestamp, error: Error, is_probe: bool) -> Change {
        self.failures = self.failures.saturating_add(1);
        let text = chain(&error);
        self.last_error = Some(error);
        let failures = self.failures;
        self.view().change(|shown| {
            shown.failures = failures;
            shown.last_error = Some(Arc::clone(&text));
        });
        let was_closed = matches!(self.state, State::Closed);
        let is_enough = self.settings.failures > 0 && failures >= self.settings.failures;
        if !(is_probe || was_closed && is_enough) {
            return Change::None;
        }
        let probe_at = now.saturating_add(self.settings.reset);
        self.state = State::Open { probe_at };
        self.view().set_state(BreakerState::Open);
        if was_closed {
            self.view().change(|shown| {
                shown.opened += 1;
                shown.since = Some(wall);
            });
            self.view().count(metric::STORE_BREAKER_OPENED);
            tracing::warn!(
                store = self.view().store,
                worker = self.view().worker,
                error = %text,
                failures,
                probe_ms = self.settings.reset.as_millis(),
                "the store has failed too often, its circuit breaker is open: what needs the store \
                 is refused as busy until it answers again"
            );
        }
        Change::Opened(probe_at)
    }

    /// Holds something back until a probe is due or has succeeded.
    pub(super) fn hold_back(&mut self, held: HeldBack) {
        if !self.held.contains(&held) {
            self.held.push_back(held);
        }
    }

    /// What was held back longest and may go now.
    pub(super) fn next_held(&mut self, now: Duration) -> Option<HeldBack> {
        if self.is_passable(now) {
            self.held.pop_front()
        } else {
            None
        }
    }

    /// What the store said last when it failed.
    pub(super) fn last_error(&self) -> Error {
        let unknown = || Error::unavailable("it has failed too often", None);
        match &self.last_error {
            // The one who is told has not sent anything.
            Some(Error::Unavailable { reason, source, .. }) => {
                Error::unavailable(reason.clone(), source.clone())
            }
            _ => unknown(),
        }
    }
}

fn too_slow(slow_call: Duration) -> Error {
    Error::unavailable(
        format!("it gave no answer within {slow_call:?} (`persistence.breaker-slow-call`)"),
        None,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESET: Duration = Duration::from_secs(5);
    const SLOW: Duration = Duration::from_secs(1);

    fn breaker(failures: u64) -> Breaker {
        let settings = BreakerSettings {
            failures,
            slow_call: SLOW,
            reset: RESET,
        };
        Breaker::new(settings, 0, Arc::new(Stats::new(&["memory"], &[], 3)))
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn down() -> Error {
        Error::unavailable("it is down", None)
    }

    /// A call that is answered at once.
    fn call(breaker: &mut Breaker, now: Duration, error: Option<&Error>) -> Change {
        let call = breaker.begin(now).expect("it may go out");
        breaker.end(call, now, Timestamp::UNIX_EPOCH, error)
    }

    fn open(failures: u64) -> Breaker {
        let mut breaker = breaker(failures);
        for _ in 1..failures {
            assert_eq!(call(&mut breaker, secs(0), Some(&down())), Change::None);
        }
        let opened = call(&mut breaker, secs(0), Some(&down()));
        assert_eq!(opened, Change::Opened(RESET));
        breaker
    }

    #[test]
    fn it_opens_at_the_number_of_failures_in_a_row_and_not_before() {
        let mut breaker = open(3);
        assert_eq!(breaker.view().report().state, BreakerState::Open);
        assert_eq!(breaker.begin(secs(1)), None);
        assert_eq!(breaker.admit(secs(1)), Err(secs(4)));
        assert_eq!(breaker.view().report().refused, 1);

        let mut interrupted = self::breaker(3);
        for _ in 0..10 {
            call(&mut interrupted, secs(0), Some(&down()));
            call(&mut interrupted, secs(0), Some(&down()));
            assert_eq!(call(&mut interrupted, secs(0), None), Change::None);
        }
        assert_eq!(interrupted.admit(secs(0)), Ok(()));
    }

    #[test]
    fn with_zero_it_never_opens() {
        let mut breaker = breaker(0);
        for _ in 0..1000 {
            assert_eq!(call(&mut breaker, secs(0), Some(&down())), Change::None);
        }
        assert_eq!(breaker.view().report().failures, 1000);
    }

    #[test]
    fn one_probe_goes_out_at_a_time() {
        let mut breaker = open(1);
        assert_eq!(breaker.admit(secs(5)), Ok(()), "the one that probes");
        assert_eq!(breaker.admit(secs(5)), Err(RESET), "the next one");
        let probe = breaker.begin(secs(6)).expect("the promised call");
        assert_eq!(breaker.begin(secs(6)), None);
        assert_eq!(breaker.view().report().state, BreakerState::HalfOpen);
        let epoch = Timestamp::UNIX_EPOCH;
        let again = breaker.end(probe, secs(6), epoch, Some(&down()));
        assert_eq!(again, Change::Opened(secs(11)));
        assert_eq!(breaker.begin(secs(10)), None);
        assert_eq!(call(&mut breaker, secs(11), None), Change::Closed);
        assert_eq!(breaker.view().report().opened, 1, "it was one outage");
        assert_eq!(breaker.admit(secs(11)), Ok(()));
    }

    #[test]
    fn a_promised_probe_that_never_comes_is_promised_again() {
        let mut breaker = open(1);
        assert_eq!(breaker.admit(secs(5)), Ok(()));
        assert_eq!(breaker.admit(secs(9)), Err(secs(1)));
        assert_eq!(breaker.admit(secs(10)), Ok(()));
    }

    #[test]
    fn what_is_held_back_probes_before_a_new_command() {
        let mut breaker = open(1);
        breaker.hold_back(HeldBack::Lane(1));
        breaker.hold_back(HeldBack::Lane(1));
        assert_eq!(breaker.next_held(secs(4)), None);
        assert_eq!(breaker.admit(secs(5)), Err(Duration::ZERO));
        assert_eq!(breaker.next_held(secs(5)), Some(HeldBack::Lane(1)));
        assert_eq!(breaker.next_held(secs(5)), None, "it is held once");
    }

    #[test]
    fn slow_calls_are_failures_also_while_they_last() {
        let mut breaker = breaker(3);
        let epoch = Timestamp::UNIX_EPOCH;
        let slow = breaker.begin(secs(0)).expect("closed");
        assert_eq!(breaker.slow_at(), Some(SLOW));
        let late = breaker.end(slow, SLOW, epoch, None);
        assert_eq!((late, breaker.failures), (Change::None, 1), "exactly at it");

        let hung = breaker.begin(secs(2)).expect("closed");
        let almost = SLOW - Duration::from_nanos(1);
        breaker.look_for_slow_calls(secs(2) + almost, epoch);
        assert_eq!(breaker.failures, 1);
        breaker.look_for_slow_calls(secs(3), epoch);
        assert_eq!(breaker.failures, 2);
        let opened = breaker.look_for_slow_calls(secs(4), epoch);
        assert_eq!(opened, Change::Opened(secs(9)));
        // Its late answer says nothing new.
        assert_eq!(breaker.end(hung, secs(5), epoch, None), Change::None);
        assert_eq!(breaker.begin(secs(5)), None);
    }

    #[test]
    fn a_probe_that_hangs_has_failed() {
        let mut breaker = open(1);
        let epoch = Timestamp::UNIX_EPOCH;
        breaker.begin(secs(5)).expect("the probe");
        let opened = breaker.look_for_slow_calls(secs(6), epoch);
        assert_eq!(opened, Change::Opened(secs(11)));
        assert!(breaker.begin(secs(11)).is_some());
    }

    #[test]
    fn metrics_tell_of_an_outage() {
        use metrics_util::debugging::{DebugValue, DebuggingRecorder};

        let recorder = DebuggingRecorder::new();
        let seen = || {
            let metrics = recorder.snapshotter().snapshot().into_vec();
            let mut seen: Vec<String> = metrics
                .into_iter()
                .map(|(key, _, _, value)| {
                    let key = key.key();
                    let labels: Vec<&str> = key.labels().map(|label| label.value()).collect();
                    let value = match value {
                        DebugValue::Counter(count) => count.to_string(),
                        DebugValue::Gauge(value) => value.to_string(),
                        DebugValue::Histogram(_) => "a histogram".to_owned(),
                    };
                    format!("{} {} {value}", key.name(), labels.join(" "))
                })
                .collect();
            seen.sort();
            seen
        };
        metrics::with_local_recorder(&recorder, || {
            let mut breaker = open(1);
            breaker.admit(secs(1)).expect_err("it is open");
            breaker.admit(secs(1)).expect_err("it is open");
            assert_eq!(
                seen(),
                [
                    "perennial_store_breaker_opened_total memory 3 1",
                    "perennial_store_breaker_refused_total memory 3 2",
                    "perennial_store_breaker_state memory 3 2",
                ]
            );
            let probe = breaker.begin(secs(5)).expect("the probe");
            assert!(seen().contains(&"perennial_store_breaker_state memory 3 1".to_owned()));
            breaker.end(probe, secs(5), Timestamp::UNIX_EPOCH, None);
            assert!(seen().contains(&"perennial_store_breaker_state memory 3 0".to_owned()));
        });
    }

    #[test]
    fn what_failed_last_is_told_as_something_that_was_not_sent() {
        let mut breaker = breaker(1);
        let lost = Error::outcome_unknown("the connection was lost", None);
        call(&mut breaker, secs(0), Some(&lost));
        assert!(!breaker.last_error().is_outcome_unknown());
        let shown = breaker.view().report().last_error.expect("an error");
        assert!(shown.contains("the connection was lost"), "{shown}");
    }
}
