//! Sends the flights to their aircraft.
//!
//! A row's way: read → in the window → ready → under way → answered → settled.
//!
//! - At most one command per aircraft is under way, and the next one is sent only after a definite
//!   answer. So the rows of one aircraft are recorded in the order of the table, whatever fails.
//! - At most `in_flight` commands are under way in total. Rows are started in the order of the
//!   table, except that those of a busy aircraft wait for it while others overtake them.
//! - The window is what lies between the oldest unanswered row and the youngest read one. It is
//!   bounded in rows and bytes; when it is full, nothing is read. A table of one aircraft is thus
//!   read as slowly as that aircraft works.
//! - Rows are *settled* in the order of the table: counted and handed to the sink.
//! - What failed without a definite answer is asked again, see [`Patience`]. If the answer may have
//!   been lost, the flight may be recorded, and the repetition is refused as a duplicate of itself.
//!   That counts as accepted. It is told from a true duplicate by the number that the refusal
//!   carries: flights that the aircraft already had before this row are no doing of it. Only when
//!   a run continues on stored data and the lost answer is an aircraft's first is that number
//!   unknown; then the duplicate counts as accepted.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep};

use flight_table::ahead;

use crate::aircraft::{Refusal, Totals};
use crate::fold::{Fold, Start};
use crate::input;
use crate::output;
use crate::patience::{AskFailure, GaveUp, Patience};
use crate::report::{Counts, Latencies};
use crate::row::{Flight, Reason, Row};

/// Rows in the window for each command that may be under way.
const WINDOW_PER_COMMAND: usize = 16;
/// The most bytes of text in the window, give or take one batch.
const WINDOW_BYTES: usize = 64 << 20;
/// How long commands under way are waited for after a stop.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// An aircraft's answer to [`Record`](crate::aircraft::Record), or why there is none.
pub type Answer = Result<Result<Totals, Refusal>, AskFailure>;

/// Where settled rows go.
pub trait Sink {
    /// Takes a row that is accepted or refused. Called once per answered row, in the order of the
    /// table.
    ///
    /// # Errors
    /// The row cannot be written; the run ends.
    fn settle(&mut self, row: &Row, verdict: Result<(), Reason>) -> Result<(), output::Error>;
}

/// What a dispatch did, however it ended.
#[derive(Debug)]
pub struct Dispatched {
    /// The answered rows. After [`End::Complete`] these are all rows.
    pub counts: Counts,
    /// How long each answered ask took.
    pub latencies: Latencies,
    /// How many asks were repetitions.
    pub repetitions: u64,
    /// The aircraft that refused a row because a sum would not have fitted.
    pub overflowed: HashSet<Box<str>>,
    /// Why it ended.
    pub end: End,
}

/// How a dispatch ended.
#[derive(Debug)]
pub enum End {
    /// All rows are settled.
    Complete,
    /// It was stopped; commands under way were still waited for.
    Stopped,
    /// It cannot go on.
    Failed(Error),
}

/// Why a dispatch cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The table cannot be read. All rows before are settled.
    #[error(transparent)]
    Input(#[from] input::Error),
    /// A refused row cannot be written.
    #[error(transparent)]
    Output(#[from] output::Error),
    /// An aircraft does not answer.
    #[error("aircraft {aircraft:?} does not answer for line {line}")]
    Unanswered {
        /// The tail number.
        aircraft: String,
        /// The line of the row.
        line: u64,
        /// Why asking came to an end.
        source: GaveUp,
    },
}

/// Rows in batches, read ahead by a thread of their own.
pub type Rows = ahead::Batches<Row>;

/// Reads `input` on a thread of its own, a few batches ahead of who takes them.
///
/// The thread folds what it reads and returns the fold at the end, so that a table that can be
/// read only once, such as a pipe, can still be checked.
pub fn read_ahead(input: input::Input) -> (Rows, JoinHandle<Fold>) {
    ahead::read_ahead(input, Fold::default(), |fold, line| {
        let row = Row::new(line);
        fold.add(&row);
        row
    })
}

/// How [`dispatch`] goes about it.
#[derive(Debug)]
pub struct Dispatch<'a> {
    /// The most commands under way at once, at least 1.
    pub in_flight: usize,
    /// Whether aircraft may have flights of earlier runs.
    pub start: Start,
    /// How long to ask again.
    pub patience: &'a Patience,
}

/// Sends each row to its aircraft with `ask` until all are settled or `stop` is ready.
///
/// # Cancel safety
/// Not cancel safe: what was under way is then unknown. Let `stop` become ready instead.
pub async fn dispatch<F>(
    options: Dispatch<'_>,
    mut rows: Rows,
    ask: impl Fn(Arc<Flight>) -> F,
    sink: &mut impl Sink,
    stop: impl Future<Output = ()>,
) -> Dispatched
where
    F: Future<Output = Answer>,
{
    let patience = options.patience;
    let in_flight = options.in_flight.max(1);
    let mut window = Window::new(in_flight.saturating_mul(WINDOW_PER_COMMAND));
    let mut lanes = Lanes::new(options.start);
    let mut settled = Settled::default();
    let statistics = RefCell::new(Statistics::default());
    let mut under_way = FuturesUnordered::new();
    let mut stop = pin!(stop);
    let mut stopped_at = None;
    let mut is_at_end = false;
    let mut failure = None;

    let end = loop {
        if let Err(error) = window.settle(sink, &mut settled) {
            break End::Failed(error.into());
        }
        while stopped_at.is_none()
            && under_way.len() < in_flight
            && let Some(index) = lanes.ready.pop_front()
        {
            let flight = Arc::clone(window.flight(index));
            let (ask, statistics) = (&ask, &statistics);
            under_way.push(async move {
                let result = insist(patience, ask, &flight, statistics).await;
                (index, flight, result)
            });
        }
        if under_way.is_empty() {
            if stopped_at.is_some() {
                break End::Stopped;
            }
            if is_at_end && window.slots.is_empty() {
                break failure.map_or(End::Complete, End::Failed);
            }
        }

        tokio::select! {
            () = &mut stop, if stopped_at.is_none() => {
                stopped_at = Some(Instant::now());
                patience.stop();
            }
            Some((index, flight, result)) = under_way.next() => match result {
                Ok(told) => {
                    let verdict = lanes.answered(&flight, &told);
                    if told.answer == Err(Refusal::SumTooLarge) {
                        settled.overflowed.insert(flight.tailnum.as_str().into());
                    }
                    window.answer(index, verdict);
                }
                // Unanswered, and so not settled.
                Err(GaveUp::Stopped) => {}
                Err(source) => {
                    break End::Failed(Error::Unanswered {
                        aircraft: flight.tailnum.clone(),
                        line: window.line(index),
                        source,
                    });
                }
            },
            batch = rows.recv(), if !is_at_end && stopped_at.is_none() && window.has_room() => {
                match batch {
                    Some(Ok(batch)) => {
                        for row in batch {
                            let flight = row.content.clone();
                            let index = window.push(row);
                            if let Ok(flight) = flight {
                                lanes.add(&flight, index);
                            }
                        }
                    }
                    Some(Err(error)) => {
                        is_at_end = true;
                        failure = Some(error.into());
                    }
                    None => is_at_end = true,
                }
            }
            () = wait_until(stopped_at.map(|at| at + STOP_WITHIN)), if stopped_at.is_some() => {
                break End::Stopped;
            }
        }
    };
    drop(under_way);
    let end = match (window.settle_rest(sink, &mut settled), end) {
        (Err(error), End::Complete | End::Stopped) => End::Failed(error.into()),
        (_, end) => end,
    };
    let statistics = statistics.into_inner();
    Dispatched {
        counts: settled.counts,
        latencies: statistics.latencies,
        repetitions: statistics.repetitions,
        overflowed: settled.overflowed,
        end,
    }
}

/// What asking until there was an answer told.
struct Told {
    answer: Result<Totals, Refusal>,
    /// Whether an earlier attempt may have been handled without our hearing of it.
    was_lost: bool,
}

async fn insist<F>(
    patience: &Patience,
    ask: impl Fn(Arc<Flight>) -> F,
    flight: &Arc<Flight>,
    statistics: &RefCell<Statistics>,
) -> Result<Told, GaveUp>
where
    F: Future<Output = Answer>,
{
    let mut was_lost = false;
    let mut is_repetition = false;
    let answer = patience
        .insist(
            async || {
                if std::mem::replace(&mut is_repetition, true) {
                    statistics.borrow_mut().repetitions += 1;
                }
                let sent = Instant::now();
                let answer = ask(Arc::clone(flight)).await?;
                statistics.borrow_mut().latencies.record(sent.elapsed());
                Ok(answer)
            },
            |failure| was_lost |= failure.is_outcome_unknown(),
        )
        .await?;
    Ok(Told { answer, was_lost })
}

#[derive(Default)]
struct Statistics {
    latencies: Latencies,
    repetitions: u64,
}

#[derive(Default)]
struct Settled {
    counts: Counts,
    overflowed: HashSet<Box<str>>,
}

/// The rows from the oldest that is not settled to the youngest that was read.
struct Window {
    slots: VecDeque<Slot>,
    /// The index of the first slot; rows are counted from 0 for the whole run.
    first: u64,
    bytes: usize,
    most_rows: usize,
}

struct Slot {
    row: Row,
    verdict: Option<Result<(), Reason>>,
}

impl Window {
    fn new(most_rows: usize) -> Self {
        Self {
            slots: VecDeque::new(),
            first: 0,
            bytes: 0,
            most_rows,
        }
    }

    fn has_room(&self) -> bool {
        self.slots.len() < self.most_rows && self.bytes < WINDOW_BYTES
    }

    fn push(&mut self, row: Row) -> u64 {
        let index = self.first + u64::try_from(self.slots.len()).expect("a length fits");
        self.bytes += row.text.len();
        let verdict = row.content.as_ref().err().map(|reason| Err(*reason));
        self.slots.push_back(Slot { row, verdict });
        index
    }

    fn flight(&self, index: u64) -> &Arc<Flight> {
        let row = &self.slots[self.place(index)].row;
        row.content.as_ref().expect("only flights are asked for")
    }

    fn line(&self, index: u64) -> u64 {
        self.slots[self.place(index)].row.line
    }

    fn answer(&mut self, index: u64, verdict: Result<(), Reason>) {
        let place = self.place(index);
        self.slots[place].verdict = Some(verdict);
    }

    /// Settles what has its verdict, up to the first row that has none.
    fn settle(&mut self, sink: &mut impl Sink, settled: &mut Settled) -> Result<(), output::Error> {
        while let Some(Slot {
            verdict: Some(_), ..
        }) = self.slots.front()
        {
            let slot = self.slots.pop_front().expect("just seen");
            self.first += 1;
            self.bytes -= slot.row.text.len();
            settled.settle(&slot, sink)?;
        }
        Ok(())
    }

    /// Settles everything that has its verdict when no more is to come.
    fn settle_rest(self, sink: &mut impl Sink, settled: &mut Settled) -> Result<(), output::Error> {
        for slot in self.slots.iter().filter(|slot| slot.verdict.is_some()) {
            settled.settle(slot, sink)?;
        }
        Ok(())
    }

    fn place(&self, index: u64) -> usize {
        usize::try_from(index - self.first).expect("an unanswered row is in the window")
    }
}

impl Settled {
    fn settle(&mut self, slot: &Slot, sink: &mut impl Sink) -> Result<(), output::Error> {
        let Some(verdict) = slot.verdict else {
            return Ok(());
        };
        self.counts.rows += 1;
        match verdict {
            Ok(()) => self.counts.accepted += 1,
            Err(reason) => self.counts.refused.add(reason),
        }
        sink.settle(&slot.row, verdict)
    }
}

/// The aircraft of this run, each with a lane of its own.
struct Lanes {
    start: Start,
    lanes: HashMap<Box<str>, Lane>,
    /// Rows whose aircraft is free for them.
    ready: VecDeque<u64>,
}

/// One aircraft.
struct Lane {
    /// Whether one of its rows is ready or under way.
    is_busy: bool,
    /// The rows after that one.
    waiting: VecDeque<u64>,
    /// How many flights it has recorded, as far as that is known.
    recorded: Option<u64>,
}

impl Lanes {
    fn new(start: Start) -> Self {
        Self {
            start,
            lanes: HashMap::new(),
            ready: VecDeque::new(),
        }
    }

    fn add(&mut self, flight: &Flight, index: u64) {
        let tail = flight.tailnum.as_str();
        // Asked for first, so that a known aircraft costs no copy of its name.
        if !self.lanes.contains_key(tail) {
            let lane = Lane {
                is_busy: false,
                waiting: VecDeque::new(),
                recorded: (self.start == Start::Fresh).then_some(0),
            };
            self.lanes.insert(tail.into(), lane);
        }
        let lane = self.lanes.get_mut(tail).expect("just made sure");
        if std::mem::replace(&mut lane.is_busy, true) {
            lane.waiting.push_back(index);
        } else {
            self.ready.push_back(index);
        }
    }

    /// Frees the aircraft for its next row, and says what became of this one.
    fn answered(&mut self, flight: &Flight, told: &Told) -> Result<(), Reason> {
        let lane = self
            .lanes
            .get_mut(flight.tailnum.as_str())
            .expect("an aircraft that was asked has a lane");
        match lane.waiting.pop_front() {
            Some(next) => self.ready.push_back(next),
            None => lane.is_busy = false,
        }
        match &told.answer {
            Ok(totals) => {
                lane.recorded = Some(totals.flights);
                Ok(())
            }
            Err(Refusal::Duplicate { nth }) => {
                let is_own_doing = told.was_lost && lane.recorded.is_none_or(|known| *nth > known);
                lane.recorded = lane.recorded.map(|known| known.max(*nth));
                if is_own_doing {
                    lane.recorded = Some(*nth);
                    Ok(())
                } else {
                    Err(Reason::Duplicate)
                }
            }
            Err(refusal) => Err(refusal.reason()),
        }
    }
}

async fn wait_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep(deadline.saturating_duration_since(Instant::now())).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
