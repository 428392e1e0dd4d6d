//! A whole run: record every row, stop, start again, ask every aircraft, compare.
//!
//! The actor system is behind [`Base`] and [`Fleet`], so that a run can be tested with aircraft
//! that are plain values.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flight_table::program::{INTERRUPTED, SameFile, stopping};
use futures_util::stream::{self, StreamExt};
use indicatif::HumanCount;
use tokio::sync::watch;

use crate::aircraft::{Logbook, Totals};
use crate::args::Args;
use crate::dispatch::{self, Answer, Dispatch, Dispatched, End, Sink, dispatch, read_ahead};
use crate::fold::{Check, Fold, Start};
use crate::input::{self, Input};
use crate::output::{self, OutputFile};
use crate::patience::{AskFailure, GaveUp, Patience};
use crate::progress::{Console, Progress};
use crate::report::{Counts, Figures, Latencies, Rejects, Report};
use crate::row::{Flight, Reason, Row};

/// What to do with aircraft of earlier runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// There must not be any, except in a file that the example may make anew.
    Anew,
    /// Continue on them.
    Keep,
    /// Delete them.
    Reset,
}

impl Begin {
    /// What the command line says.
    pub fn of(args: &Args) -> Self {
        if args.keep {
            Self::Keep
        } else if args.reset {
            Self::Reset
        } else {
            Self::Anew
        }
    }
}

/// Where aircraft are stored, and how to bring them to life.
///
/// Each question may be asked again when it fails with anything but [`AskFailure::Fatal`].
pub trait Base {
    /// A started actor system.
    type Fleet: Fleet;

    /// Where the store is, for people.
    fn place(&self) -> String;

    /// Makes the store ready, and says whether aircraft are in it.
    fn prepare(&self, begin: Begin) -> impl Future<Output = Result<Start, AskFailure>>;

    /// Starts an actor system on the store.
    fn start(&self) -> impl Future<Output = Result<Self::Fleet, AskFailure>>;
}

/// A started actor system.
pub trait Fleet {
    /// Sends a flight to its aircraft.
    fn record(&self, flight: Arc<Flight>) -> impl Future<Output = Answer>;

    /// Asks an aircraft for all it knows.
    fn logbook(&self, tail: &str) -> impl Future<Output = Result<Logbook, AskFailure>>;

    /// The tail numbers of all stored aircraft.
    fn tail_numbers(&self) -> impl Future<Output = Result<Vec<String>, AskFailure>>;

    /// Stops the actor system; everything that was answered is stored already.
    fn shutdown(self) -> impl Future<Output = Result<(), AskFailure>>;
}

/// How a run ended that could do its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All totals are right.
    Right,
    /// A total or count is wrong; the differences were printed.
    Wrong,
    /// Somebody stopped it.
    Stopped,
}

impl Exit {
    /// The exit status.
    pub fn code(self) -> u8 {
        match self {
            Self::Right => 0,
            Self::Wrong => 1,
            Self::Stopped => INTERRUPTED,
        }
    }
}

/// Why a run could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line contradicts itself.
    #[error(transparent)]
    Args(#[from] SameFile),
    /// The table cannot be read.
    #[error(transparent)]
    Input(#[from] input::Error),
    /// A file cannot be written.
    #[error(transparent)]
    Output(#[from] output::Error),
    /// The rows cannot all be sent to their aircraft.
    #[error(transparent)]
    Dispatch(#[from] dispatch::Error),
    /// A question to the actor system or its store has no answer.
    #[error("{doing}")]
    GaveUp {
        /// What was to be done.
        doing: String,
        /// Why it was not.
        source: GaveUp,
    },
}

/// Runs from the command line to the table at the end, which goes to `out`. Ends early when `stop`
/// becomes true.
///
/// # Errors
/// Why the work could not be done. What was recorded until then stays recorded.
pub async fn run<B: Base>(
    args: &Args,
    base: &B,
    console: &Console,
    out: &mut dyn Write,
    stop: &watch::Receiver<bool>,
) -> Result<Exit, Error> {
    // Everything that can be wrong about files shows before the store is touched.
    args.check()?;
    let input = match &args.input {
        Some(path) => Input::open(path)?,
        None => Input::bundled()?,
    };
    let report_file = args.report.as_deref().map(OutputFile::create).transpose()?;
    let rejects = args.rejects.as_deref().map(Rejects::create).transpose()?;
    let patience = Patience::new(args.patience, {
        let console = console.clone();
        move |text| console.say(text)
    });
    let run = Run {
        in_flight: usize::try_from(args.in_flight).expect("at most 65,536"),
        base,
        console,
        patience: &patience,
        stop,
    };

    let begin = Begin::of(args);
    let prepare = run.ask("prepare the store", async || base.prepare(begin).await);
    let Some(start) = run.unless_stopped(prepare).await.transpose()? else {
        return Ok(run.stopped(&Counts::default()));
    };
    let place = base.place();
    match start {
        Start::Fresh => console.say(format_args!("Recording {} in {place}.", input.name())),
        Start::Continued => console.say(format_args!(
            "Recording {} in {place}, on what is there already.",
            input.name()
        )),
    }
    let Some(recorded) = run.record(input, start, rejects).await? else {
        return Ok(Exit::Stopped);
    };
    let Some(recovered) = run.recover(&recorded, start).await? else {
        return Ok(run.stopped(&recorded.counts));
    };

    let report = Report {
        counts: recorded.counts,
        aircraft: recovered.aircraft,
    };
    if let Some(file) = report_file {
        report.write(file)?;
    }
    let table = Figures {
        report: &report,
        recording: recorded.elapsed,
        latencies: &recorded.latencies,
        recovering: recovered.elapsed,
    }
    .table();
    // A reader that has gone away changes nothing about the result.
    let _ = writeln!(out, "{table}");
    Ok(run.verdict(&recovered.differences))
}

struct Run<'a, B> {
    in_flight: usize,
    base: &'a B,
    console: &'a Console,
    patience: &'a Patience,
    stop: &'a watch::Receiver<bool>,
}

struct Recorded {
    counts: Counts,
    latencies: Latencies,
    overflowed: HashSet<Box<str>>,
    fold: Fold,
    elapsed: Duration,
}

struct Recovered {
    aircraft: BTreeMap<String, Totals>,
    differences: Vec<String>,
    elapsed: Duration,
}

impl<B: Base> Run<'_, B> {
    /// Sends all rows. `None` if it was stopped.
    async fn record(
        &self,
        input: Input,
        start: Start,
        rejects: Option<Rejects>,
    ) -> Result<Option<Recorded>, Error> {
        let Some(fleet) = self.unless_stopped(self.start()).await.transpose()? else {
            self.stopped(&Counts::default());
            return Ok(None);
        };
        let position = input.position();
        let mut ledger = Ledger {
            progress: self.console.of_input("recording", "rows", position),
            rejects,
        };
        let begun = Instant::now();
        let (rows, reader) = read_ahead(input);
        let options = Dispatch {
            in_flight: self.in_flight,
            start,
            patience: self.patience,
        };
        let ask = |flight| fleet.record(flight);
        let dispatched = dispatch(options, rows, ask, &mut ledger, self.stopping()).await;
        let elapsed = begun.elapsed();
        let Ledger { progress, rejects } = ledger;
        drop(progress);
        if matches!(dispatched.end, End::Complete) {
            self.console
                .say("All rows are answered; stopping the actor system.");
        }
        self.shutdown(fleet).await;
        // However it ended: the rows in it are refused for good.
        let finished = rejects.map_or(Ok(()), Rejects::finish);
        let Dispatched {
            counts,
            latencies,
            overflowed,
            end,
            ..
        } = dispatched;
        match end {
            End::Complete => {}
            End::Stopped => {
                self.stopped(&counts);
                return finished.map(|()| None).map_err(Error::from);
            }
            End::Failed(error) => {
                self.say_counts("Before it failed,", &counts);
                return Err(error.into());
            }
        }
        finished?;
        let fold = match reader.join() {
            Ok(fold) => fold,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        Ok(Some(Recorded {
            counts,
            latencies,
            overflowed,
            fold,
            elapsed,
        }))
    }

    /// Brings every stored aircraft back in a new actor system and compares what it says. `None`
    /// if it was stopped.
    async fn recover(&self, recorded: &Recorded, start: Start) -> Result<Option<Recovered>, Error> {
        let Some(fleet) = self.unless_stopped(self.start()).await.transpose()? else {
            return Ok(None);
        };
        let work = self.ask_all(&fleet, recorded, start);
        let recovered = self.unless_stopped(work).await.transpose();
        self.shutdown(fleet).await;
        recovered
    }

    async fn ask_all(
        &self,
        fleet: &B::Fleet,
        recorded: &Recorded,
        start: Start,
    ) -> Result<Recovered, Error> {
        let list = async || fleet.tail_numbers().await;
        let tails = self.ask("list the stored aircraft", list).await?;
        self.console.say(format_args!(
            "Bringing {} aircraft back in a new actor system.",
            HumanCount(u64::try_from(tails.len()).unwrap_or(u64::MAX))
        ));
        let mut check = Check::new(&recorded.fold, start, recorded.overflowed.clone());
        check.counts(&recorded.counts);
        let mut aircraft = BTreeMap::new();
        let total = u64::try_from(tails.len()).unwrap_or(u64::MAX);
        let mut progress = self.console.of_count("recovering", "aircraft", total);
        let begun = Instant::now();
        let mut logbooks = stream::iter(tails)
            .map(|tail| async move {
                let doing = format!("ask aircraft {tail:?} for its totals");
                let ask = async || fleet.logbook(&tail).await;
                let logbook = self.ask(&doing, ask).await;
                (tail, logbook)
            })
            .buffer_unordered(self.in_flight);
        while let Some((tail, logbook)) = logbooks.next().await {
            let logbook = logbook?;
            progress.add_one();
            // An id without an event is no stored aircraft, even if the store lists it.
            if logbook != Logbook::default() {
                check.aircraft(&tail, &logbook);
                aircraft.insert(tail, logbook.totals);
            }
        }
        let elapsed = begun.elapsed();
        Ok(Recovered {
            aircraft,
            differences: check.finish(),
            elapsed,
        })
    }

    async fn start(&self) -> Result<B::Fleet, Error> {
        let start = async || self.base.start().await;
        self.ask("start the actor system", start).await
    }

    /// What was answered is stored; an actor system that cannot stop in order changes nothing.
    async fn shutdown(&self, fleet: B::Fleet) {
        if let Err(error) = fleet.shutdown().await {
            self.console.say(format_args!(
                "The actor system did not stop in order: {error}."
            ));
        }
    }

    async fn ask<T>(
        &self,
        doing: &str,
        ask: impl AsyncFnMut() -> Result<T, AskFailure>,
    ) -> Result<T, Error> {
        let answer = self.patience.insist(ask, |_| ()).await;
        answer.map_err(|source| Error::GaveUp {
            doing: format!("cannot {doing}"),
            source,
        })
    }

    async fn stopping(&self) {
        stopping(self.stop).await;
    }

    /// What `work` comes to, or `None` if the run was stopped before.
    async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.stopping() => None,
            result = work => Some(result),
        }
    }

    fn stopped(&self, counts: &Counts) -> Exit {
        self.say_counts("Stopped:", counts);
        self.console.say("Run again with --keep to continue.");
        Exit::Stopped
    }

    fn say_counts(&self, before: &str, counts: &Counts) {
        let Counts {
            rows,
            accepted,
            refused,
        } = counts;
        self.console.say(format_args!(
            "{before} {} rows were answered, {} accepted and {} refused.",
            HumanCount(*rows),
            HumanCount(*accepted),
            HumanCount(refused.total()),
        ));
    }

    fn verdict(&self, differences: &[String]) -> Exit {
        const SHOWN: usize = 20;
        if differences.is_empty() {
            self.console
                .say("All aircraft came back with the totals of the table.");
            return Exit::Right;
        }
        self.console.say(format_args!(
            "The stored aircraft differ from the table, {} times:",
            differences.len()
        ));
        for difference in differences.iter().take(SHOWN) {
            self.console.say(format_args!("  {difference}"));
        }
        if let Some(more) = differences
            .len()
            .checked_sub(SHOWN)
            .filter(|more| *more > 0)
        {
            self.console.say(format_args!("  and {more} more"));
        }
        Exit::Wrong
    }
}

/// Where settled rows leave their traces.
struct Ledger {
    progress: Progress,
    rejects: Option<Rejects>,
}

impl Sink for Ledger {
    fn settle(&mut self, row: &Row, verdict: Result<(), Reason>) -> Result<(), output::Error> {
        self.progress.add_one();
        match (&mut self.rejects, verdict) {
            (Some(rejects), Err(reason)) => rejects.add(row.line, reason, &row.text),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
