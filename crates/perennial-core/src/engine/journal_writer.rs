//! Group commit: the writes of many entities go out together.
//!
//! A worker has a few *lanes*. A lane has one batch in flight at the most; what its entities write
//! meanwhile gathers for the next one. An entity belongs to one lane, so its events cannot become
//! durable out of order. No timer delays a lone write: an idle lane sends what it has at the end
//! of the turn.
//!
//! The outcome of a write is never left open. When the journal cannot say what became of some
//! writes, the lane sends exactly these again, with the same writer, numbers and bytes, until the
//! journal can or the time for it is up.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use perennial_persistence::{AtomicWrite, Error, NewReply, ReminderChange, SequenceNr, Written};

use crate::engine::CellKey;
use crate::engine::breaker::Call;
use crate::engine::envelope::Held;

/// Writes of many entities on their way to the journal, with the replies that wait for them.
pub struct WriteBatch {
    pub(crate) lane: usize,
    pub(crate) items: Vec<WriteItem>,
    writes: Vec<AtomicWrite>,
    /// The call's name at the breaker of its store.
    call: Call,
}

pub(crate) struct WriteItem {
    pub(crate) key: CellKey,
    /// Which of its cell's writes it is.
    pub(crate) write: u64,
    /// The number of the write's last event.
    pub(crate) last: SequenceNr,
    /// How many events.
    pub(crate) events: u64,
    /// The command's reply; gone once it was let out.
    pub(crate) held: Option<Box<dyn Held>>,
    /// Whether an earlier attempt may have stored the write.
    pub(crate) maybe_stored: bool,
}

impl WriteBatch {
    /// The writes, in the order in which they are to be answered.
    pub fn writes(&self) -> &[AtomicWrite] {
        &self.writes
    }

    /// The index of the entity type of all its writes that are kept in one store.
    pub fn host(&self) -> usize {
        self.items.first().map_or(0, |item| item.key.host)
    }

    /// Lets out the replies of what the journal has stored. The rest is the worker's to decide;
    /// hand it the result as [`Input::Written`].
    ///
    /// A journal that gives fewer results than there are writes leaves the rest unknown.
    ///
    /// [`Input::Written`]: crate::engine::Input::Written
    pub fn settle(mut self, mut results: Vec<Result<Written, Error>>) -> SettledBatch {
        results.truncate(self.writes.len());
        while results.len() < self.writes.len() {
            results.push(Err(Error::outcome_unknown(
                "the journal did not answer every write",
                None,
            )));
        }
        for (item, result) in self.items.iter_mut().zip(&results) {
            if result.is_ok()
                && let Some(held) = item.held.take()
            {
                held.release();
            }
        }
        SettledBatch {
            batch: self,
            results,
        }
    }

    /// Lets out the replies before anything is stored: a defect, to see that tests notice.
    #[cfg(feature = "defects")]
    pub fn release_before_commit(&mut self) {
        for item in &mut self.items {
            if let Some(held) = item.held.take() {
                held.release();
            }
        }
    }
}

impl fmt::Debug for WriteBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteBatch")
            .field("lane", &self.lane)
            .field("writes", &self.writes.len())
            .finish_non_exhaustive()
    }
}

/// A batch that the journal has answered.
pub struct SettledBatch {
    batch: WriteBatch,
    results: Vec<Result<Written, Error>>,
}

impl SettledBatch {
    pub(crate) fn lane(&self) -> usize {
        self.batch.lane
    }

    pub(crate) fn call(&self) -> Call {
        self.batch.call
    }

    /// What was wrong with the store: it knew of no write what became of it. One that it cannot
    /// take, or not now, says nothing of the others.
    pub(crate) fn store_failed(&self) -> Option<&Error> {
        let errors = || self.results.iter().map(|result| result.as_ref().err());
        let failed = errors().all(|error| error.is_some_and(Error::is_retryable));
        failed.then(|| errors().flatten().next()).flatten()
    }
}

impl fmt::Debug for SettledBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed = self.results.iter().filter(|result| result.is_err()).count();
        f.debug_struct("SettledBatch")
            .field("batch", &self.batch)
            .field("failed", &failed)
            .finish()
    }
}

/// What became of one write for good.
pub(crate) enum Settled {
    Stored(Written),
    /// Not stored by the last attempt. `maybe_stored` if an earlier one may have, and what it
    /// stored is gone since.
    Refused {
        error: Error,
        maybe_stored: bool,
    },
    /// The time is up. `maybe_stored` if it may have been stored all the same.
    GivenUp {
        error: Error,
        maybe_stored: bool,
    },
}

/// A write that waits for its lane.
pub(crate) struct Gathered {
    pub(crate) key: CellKey,
    /// Which of its cell's writes it is; they are counted, as one without events has no number of
    /// its own.
    pub(crate) number: u64,
    pub(crate) write: AtomicWrite,
    pub(crate) held: Option<Box<dyn Held>>,
}

impl Gathered {
    /// The write, and what its cell knows it by.
    pub(crate) fn split(self) -> (WriteItem, AtomicWrite) {
        let item = WriteItem {
            key: self.key,
            write: self.number,
            last: self.write.last(),
            events: self.write.events().len() as u64,
            held: self.held,
            maybe_stored: false,
        };
        (item, self.write)
    }
}

/// How a lane tries again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RetrySettings {
    pub(crate) min: Duration,
    pub(crate) max: Duration,
    /// How long an open outcome is pursued.
    pub(crate) outcome_timeout: Duration,
}

pub(crate) struct Lane {
    index: usize,
    phase: Phase,
    gathered: VecDeque<Gathered>,
    /// Since when something is gathered.
    gathering_since: Duration,
    /// How many writes the latest batch had.
    latest: usize,
    /// Since when what is gathered would have gone out, but for the breaker.
    held_since: Option<Duration>,
}

enum Phase {
    Idle,
    InFlight(Attempt),
    /// The journal was not available; the same writes go out again later. The error is what it
    /// said.
    Waiting(Attempt, WriteBatch, Error),
}

#[derive(Debug, Clone, Copy)]
struct Attempt {
    /// From 0.
    number: u32,
    /// When the first attempt went out.
    since: Duration,
}

impl Lane {
    pub(crate) fn new(index: usize) -> Self {
        Self {
            index,
            phase: Phase::Idle,
            gathered: VecDeque::new(),
            gathering_since: Duration::ZERO,
            latest: 0,
            held_since: None,
        }
    }

    /// Whether nothing is gathered, in flight or waiting.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.phase, Phase::Idle) && self.gathered.is_empty()
    }

    pub(crate) fn gather(&mut self, write: Gathered, now: Duration) {
        if self.gathered.is_empty() {
            self.gathering_since = now;
            // What was held back before has gone, or was given up.
            self.held_since = None;
        }
        self.gathered.push_back(write);
    }

    /// Until when a batch that could go out now had better wait, as more writes are on their way:
    /// while it is less than half of the latest one, for a few milliseconds at the most. Whoever
    /// waited for the latest batch writes again a moment after it, and a commit costs as much for
    /// few writes as for many.
    pub(crate) fn worth_waiting_until(&self, now: Duration) -> Option<Duration> {
        const LONGEST: Duration = Duration::from_millis(10);
        let until = self.gathering_since.saturating_add(LONGEST);
        (self.gathered.len() * 2 < self.latest && now < until).then_some(until)
    }

    /// Whether a batch could go out now.
    pub(crate) fn is_due(&self) -> bool {
        matches!(self.phase, Phase::Idle) && !self.gathered.is_empty()
    }

    /// Whether a batch is with the journal.
    pub(crate) fn is_in_flight(&self) -> bool {
        matches!(self.phase, Phase::InFlight(_))
    }

    /// Takes the next gathered write while the batch is below its bounds; a first one always.
    pub(crate) fn next_gathered(
        &mut self,
        batch: &BatchBuilder,
        limits: BatchLimits,
    ) -> Option<Gathered> {
        let next = self.gathered.front()?;
        let fits = batch.writes.is_empty()
            || (batch.events + rows(&next.write) <= limits.events
                && batch.bytes + bytes(&next.write) <= limits.bytes);
        fits.then(|| self.gathered.pop_front()).flatten()
    }

    /// Since when what is gathered is held back by the breaker.
    pub(crate) fn held_back(&mut self, now: Duration) -> Duration {
        *self.held_since.get_or_insert(now)
    }

    /// Takes out the gathered writes of which that is wanted.
    pub(crate) fn take_gathered(&mut self, wanted: impl Fn(CellKey) -> bool) -> Vec<Gathered> {
        let mut taken = Vec::new();
        for gathered in std::mem::take(&mut self.gathered) {
            if wanted(gathered.key) {
                taken.push(gathered);
            } else {
                self.gathered.push_back(gathered);
            }
        }
        taken
    }

    /// The lane's batch goes out.
    pub(crate) fn send(&mut self, batch: BatchBuilder, call: Call, now: Duration) -> WriteBatch {
        self.held_since = None;
        self.phase = Phase::InFlight(Attempt {
            number: 0,
            since: now,
        });
        self.gathering_since = now;
        self.latest = batch.writes.len();
        WriteBatch {
            lane: self.index,
            items: batch.items,
            writes: batch.writes,
            call,
        }
    }

    /// The lane's batch has been answered. Gives what is settled for good, in the batch's order,
    /// and when to send the rest again, if there is a rest.
    pub(crate) fn answered(
        &mut self,
        settled: SettledBatch,
        now: Duration,
        retry: RetrySettings,
        jitter: f64,
    ) -> (Vec<(WriteItem, Settled)>, Option<Duration>) {
        let SettledBatch { batch, results } = settled;
        let call = batch.call;
        let attempt = match self.phase {
            Phase::InFlight(attempt) => attempt,
            Phase::Idle | Phase::Waiting(..) => Attempt {
                number: 0,
                since: now,
            },
        };
        let give_up = now.saturating_sub(attempt.since) >= retry.outcome_timeout;
        let mut done = Vec::with_capacity(results.len());
        let mut again = WriteBatch {
            lane: self.index,
            items: Vec::new(),
            writes: Vec::new(),
            call,
        };
        let mut again_because = None;
        // Cells of which a write has failed for good.
        let mut failed: Vec<CellKey> = Vec::new();
        // Those of them whose refused write may have been stored before; so may the later ones.
        let mut left_open: Vec<CellKey> = Vec::new();
        for ((mut item, mut write), result) in
            batch.items.into_iter().zip(batch.writes).zip(results)
        {
            match result {
                Ok(written) => done.push((item, Settled::Stored(written))),
                Err(error) if !error.is_retryable() => {
                    failed.push(item.key);
                    // One without events has no rows of its own whose absence would tell.
                    let is_open = item.events == 0 || leaves_open(&error, item.last);
                    if item.maybe_stored && is_open {
                        left_open.push(item.key);
                    }
                    let maybe_stored = item.maybe_stored && left_open.contains(&item.key);
                    done.push((
                        item,
                        Settled::Refused {
                            error,
                            maybe_stored,
                        },
                    ));
                }
                Err(error) => {
                    item.maybe_stored |= error.is_outcome_unknown();
                    // A later write must not survive an earlier one's failure, even if the journal
                    // has more hope for it.
                    if give_up || failed.contains(&item.key) {
                        let maybe_stored = item.maybe_stored;
                        done.push((
                            item,
                            Settled::GivenUp {
                                error,
                                maybe_stored,
                            },
                        ));
                    } else {
                        write.maybe_stored = item.maybe_stored;
                        again_because.get_or_insert(error);
                        again.items.push(item);
                        again.writes.push(write);
                    }
                }
            }
        }
        let Some(error) = again_because else {
            self.phase = Phase::Idle;
            return (done, None);
        };
        let delay = backoff(attempt.number, retry.min, retry.max, jitter);
        if attempt.number == 0 {
            tracing::warn!(
                writes = again.writes.len(),
                "the journal is not available, the same writes will be sent again"
            );
        }
        self.phase = Phase::Waiting(
            Attempt {
                number: attempt.number + 1,
                since: attempt.since,
            },
            again,
            error,
        );
        (done, Some(now + delay))
    }

    /// Since when the outcome of the writes is pursued that are to be sent again, if there are any.
    pub(crate) fn waits_since(&self) -> Option<Duration> {
        match &self.phase {
            Phase::Waiting(attempt, ..) => Some(attempt.since),
            _ => None,
        }
    }

    /// The writes that were to be sent again are given up.
    pub(crate) fn give_up(&mut self) -> Vec<(WriteItem, Settled)> {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Waiting(_, batch, error) => {
                let given_up = |item: WriteItem| {
                    let settled = Settled::GivenUp {
                        error: error.clone(),
                        maybe_stored: item.maybe_stored,
                    };
                    (item, settled)
                };
                batch.items.into_iter().map(given_up).collect()
            }
            other => {
                self.phase = other;
                Vec::new()
            }
        }
    }

    /// The time to send the rest again has come.
    pub(crate) fn retry(&mut self, call: Call) -> Option<WriteBatch> {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Waiting(attempt, mut batch, _) => {
                self.phase = Phase::InFlight(attempt);
                batch.call = call;
                Some(batch)
            }
            other => {
                self.phase = other;
                None
            }
        }
    }
}

/// Whether a refusal says nothing of what an earlier attempt at the write, which ends with `last`,
/// has done: another writer was there since, and may have replaced or deleted it.
fn leaves_open(error: &Error, last: SequenceNr) -> bool {
    match error {
        Error::Superseded { .. } => true,
        // A row of a lower revision than was expected is a new one: the old one was removed.
        Error::StaleRevision {
            expected, found, ..
        } => *found > last || found < expected,
        _ => false,
    }
}

/// The most that goes out in one batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchLimits {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

/// A batch being filled.
#[derive(Default)]
pub(crate) struct BatchBuilder {
    items: Vec<WriteItem>,
    writes: Vec<AtomicWrite>,
    events: usize,
    bytes: usize,
}

impl BatchBuilder {
    pub(crate) fn push(&mut self, gathered: Gathered) {
        self.events += rows(&gathered.write);
        self.bytes += bytes(&gathered.write);
        let (item, write) = gathered.split();
        self.items.push(item);
        self.writes.push(write);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }
}

/// How much of the bound of events a write takes.
fn rows(write: &AtomicWrite) -> usize {
    write.events().len() + write.reminders().len()
}

fn bytes(write: &AtomicWrite) -> usize {
    let events = write.events().iter();
    let reply = write.reply().and_then(NewReply::payload);
    let of_events = events.flat_map(|event| std::iter::once(&event.payload).chain(&event.metadata));
    let payloads = of_events.chain(reply);
    let reminders = write.reminders().iter().map(ReminderChange::bytes);
    payloads
        .map(|payload| payload.bytes.len())
        .chain(reminders)
        .sum()
}

/// The time before attempt `number + 1`: it doubles from `min` to `max`, and `jitter` (0 to 1)
/// spreads it over the upper half, so that many who failed together do not come back together.
pub(crate) fn backoff(number: u32, min: Duration, max: Duration, jitter: f64) -> Duration {
    let doubled = min.saturating_mul(2_u32.saturating_pow(number.min(31)));
    doubled.min(max).mul_f64(0.5 + jitter / 2.0)
}

#[cfg(test)]
mod tests {
    use perennial_persistence::{NewEvent, PersistenceId, SerializedPayload, WriterId};

    use super::*;

    fn write(number: u64) -> Gathered {
        let id = PersistenceId::new("Lamp", &number.to_string()).expect("a valid id");
        let event = NewEvent::new(SerializedPayload::new(77, "", &b"x"[..]));
        let writer = WriterId::from_random_bits(u128::from(number));
        Gathered {
            key: CellKey {
                host: 0,
                index: 0,
                incarnation: number,
            },
            number,
            write: AtomicWrite::new(id, writer, SequenceNr::FIRST, vec![event]).expect("valid"),
            held: None,
        }
    }

    /// Sends what is gathered and has it answered.
    fn send(lane: &mut Lane, now: Duration) {
        let limits = BatchLimits {
            events: 100,
            bytes: 100,
        };
        let mut batch = BatchBuilder::default();
        while let Some(gathered) = lane.next_gathered(&batch, limits) {
            batch.push(gathered);
        }
        let batch = lane.send(batch, 0, now);
        let retry = RetrySettings {
            min: Duration::ZERO,
            max: Duration::ZERO,
            outcome_timeout: Duration::ZERO,
        };
        lane.answered(batch.settle(Vec::new()), now, retry, 0.0);
    }

    #[test]
    fn less_than_half_of_the_latest_batch_waits_for_more_but_a_lone_write_never() {
        let ms = Duration::from_millis;
        let mut lane = Lane::new(0);
        lane.gather(write(1), ms(0));
        assert_eq!(lane.worth_waiting_until(ms(0)), None, "the first one");
        send(&mut lane, ms(0));
        lane.gather(write(2), ms(1));
        assert_eq!(lane.worth_waiting_until(ms(1)), None, "after a lone one");

        for number in 3..=6 {
            lane.gather(write(number), ms(2));
        }
        send(&mut lane, ms(3));
        lane.gather(write(7), ms(5));
        lane.gather(write(8), ms(6));
        assert_eq!(lane.worth_waiting_until(ms(6)), Some(ms(15)), "2 of 5");
        assert_eq!(lane.worth_waiting_until(ms(15)), None, "for long enough");
        lane.gather(write(9), ms(7));
        assert_eq!(lane.worth_waiting_until(ms(7)), None, "3 of 5");
    }

    #[test]
    fn writes_are_held_back_since_the_first_of_them_came() {
        let ms = Duration::from_millis;
        let mut lane = Lane::new(0);
        lane.gather(write(1), ms(0));
        assert_eq!(lane.held_back(ms(1)), ms(1));
        lane.gather(write(2), ms(2));
        assert_eq!(lane.held_back(ms(3)), ms(1));
        assert_eq!(lane.take_gathered(|_| true).len(), 2);
        lane.gather(write(3), ms(50));
        assert_eq!(lane.held_back(ms(50)), ms(50), "not since those before");
    }

    #[test]
    fn backoff_doubles_up_to_its_maximum() {
        let min = Duration::from_millis(100);
        let max = Duration::from_secs(1);
        let delays: Vec<u128> = (0..6)
            .map(|number| backoff(number, min, max, 1.0).as_millis())
            .collect();
        assert_eq!(delays, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff(0, min, max, 0.0), Duration::from_millis(50));
        assert_eq!(backoff(u32::MAX, min, max, 1.0), max);
    }
}
