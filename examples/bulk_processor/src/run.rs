//! A whole run: every row to the actor, what it gathers into the table, and a look at what is there.

use std::cell::RefCell;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flight_table::ahead::read_ahead;
use flight_table::input::{self, Input};
use flight_table::output::{self, OutputFile};
use flight_table::patience::{AskFailure, GaveUp, Patience};
use flight_table::program::{INTERRUPTED, SameFile, stopping};
use flight_table::progress::Console;
use indicatif::HumanCount;
use tokio::sync::watch;

use crate::args::Args;
use crate::engine::{Engine, Intake};
use crate::feed::{self, End, Feed, feed};
use crate::item::{self, Items, Row, Spoil};
use crate::report::Figures;
use crate::sink::{Sink, Tally, write_all};
use crate::table::{Begin, Held, SAMPLE_ROWS, Singles, Table};

/// How long nothing may be answered before the run gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a run that was stopped waits for what has gathered to be written.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// How many of the rows that are set aside are shown.
const EXAMPLES: usize = 10;

/// How a run ended that could do its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Every row is stored or set aside.
    Right,
    /// One is not.
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
    /// Rows cannot be spoiled as wanted.
    #[error(transparent)]
    Spoil(#[from] item::Error),
    /// A file cannot be written.
    #[error(transparent)]
    Output(#[from] output::Error),
    /// The rows cannot all be handed over.
    #[error(transparent)]
    Feed(#[from] feed::Error),
    /// A question to the database or the actor system has no answer.
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
/// Why the work could not be done. What was stored until then stays stored.
pub async fn run(
    args: &Args,
    engine: &Engine,
    console: &Console,
    out: &mut dyn Write,
    stop: &watch::Receiver<bool>,
) -> Result<Exit, Error> {
    // Everything that can be wrong about files shows before a database is touched.
    args.check()?;
    let open = || match &args.input {
        Some(path) => Input::open(path),
        None => Input::bundled(),
    };
    let input = open()?;
    let spoil = if args.input.as_deref().is_some_and(is_read_once) {
        Spoil::of_pipe(args.spoil)
    } else {
        Spoil::of_table(args.spoil, open)?
    };
    let report = args.report.as_deref().map(OutputFile::create).transpose()?;
    let patience = Patience::new(PATIENCE, {
        let console = console.clone();
        move |text| console.say(text)
    });
    let run = Run {
        args,
        engine,
        console,
        patience: &patience,
        stop,
        tally: RefCell::default(),
    };

    let begin = if args.keep { Begin::Keep } else { Begin::Anew };
    let prepare = async || Table::prepare(engine.place(), begin).await;
    let prepare = run.ask("prepare the tables", prepare);
    let Some(table) = run.unless_stopped(prepare).await.transpose()? else {
        return Ok(run.stopped());
    };
    console.say(format_args!(
        "Storing {} in {}{}.",
        input.name(),
        engine.place(),
        if args.keep {
            ", on what is there already"
        } else {
            ""
        }
    ));
    let name = input.name().to_owned();
    let Some((table, fed)) = run.store(input, spoil, table).await? else {
        return Ok(run.stopped());
    };
    fed.spoiled.check(&name)?;
    let look = run.look(table, fed.items, fed.sample.into());
    let Some((held, singles)) = run.unless_stopped(look).await.transpose()? else {
        return Ok(run.stopped());
    };

    let tally = run.tally.borrow();
    let figures = Figures {
        items: fed.items,
        elapsed: fed.elapsed,
        is_held_back: args.rate.is_some(),
        tally: &tally,
        held: &held,
        singles,
    };
    if let Some(file) = report {
        figures.report().write(file)?;
    }
    // A reader that has gone away changes nothing about the result.
    let _ = writeln!(out, "{}", figures.table());
    Ok(run.verdict(fed.items, &held))
}

/// Whether what is read from a path is gone then, as from a pipe.
fn is_read_once(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| !found.is_file())
}

fn gave_up(doing: &str, source: GaveUp) -> Error {
    Error::GaveUp {
        doing: format!("cannot {doing}"),
        source,
    }
}

/// All rows, written.
struct Everything {
    items: u64,
    sample: Vec<(i64, Row)>,
    spoiled: Items,
    /// From the first one to the last.
    elapsed: Duration,
}

struct Run<'a> {
    args: &'a Args,
    engine: &'a Engine,
    console: &'a Console,
    patience: &'a Patience,
    stop: &'a watch::Receiver<bool>,
    tally: RefCell<Tally>,
}

impl Run<'_> {
    /// Brings all rows into the table, which is given back. `None` if it was stopped.
    async fn store(
        &self,
        input: Input,
        spoil: Spoil,
        table: Table,
    ) -> Result<Option<(Table, Everything)>, Error> {
        let (sink, batches) = Sink::new();
        let start = async || self.engine.start(sink.clone()).await;
        let start = self.ask("start the actor system", start);
        let Some(intake) = self.unless_stopped(start).await.transpose()? else {
            return Ok(None);
        };
        // What is left of it is in the actor, so that the writing ends with the actor system.
        drop(sink);
        let mut progress = self.console.of_input("storing", "rows", input.position());
        let writing = write_all(table, batches, self.patience, &self.tally, &mut progress);
        let feeding = async { Ok(self.feed(input, spoil, intake).await) };
        // The writing ends with the actor system, which the feeding stops, or as it cannot go on: the
        // actor system stops in the background then.
        let (table, fed) = match tokio::try_join!(writing, feeding) {
            Ok(done) => done,
            Err(GaveUp::Stopped) => return Ok(None),
            Err(source) => {
                self.say_tally("Before it failed,");
                return Err(gave_up("store rows", source));
            }
        };
        match fed {
            Ok(None) => Ok(None),
            Ok(Some(everything)) => Ok(Some((table, everything))),
            Err(error) => {
                self.say_tally("Before it failed,");
                Err(error)
            }
        }
    }

    /// Hands over all rows, waits until they are written, and stops the actor system. `None` if it
    /// was stopped.
    async fn feed(
        &self,
        input: Input,
        spoil: Spoil,
        intake: Intake,
    ) -> Result<Option<Everything>, Error> {
        let begun = Instant::now();
        let items = Items::new(spoil);
        let (batches, reader) = read_ahead(input, items, |items, line| items.next(&line));
        let options = Feed {
            under_way: intake.under_way(),
            rate: self.args.rate,
            sample: SAMPLE_ROWS,
            patience: self.patience,
        };
        let take = |item| intake.take(item);
        let fed = feed(options, batches, take, stopping(self.stop)).await;
        // Also what was taken before a failure.
        let flush = async || intake.flush().await;
        let flush = self.patience.insist(flush, |_| ());
        let flushed = match fed.end {
            End::Complete => self.unless_stopped(flush).await,
            End::Stopped | End::Failed(_) => tokio::time::timeout(STOP_WITHIN, flush).await.ok(),
        };
        let elapsed = begun.elapsed();
        if let Err(error) = intake.shutdown().await {
            self.console.say(format_args!(
                "The actor system did not stop in order: {error}."
            ));
        }
        match (fed.end, flushed) {
            (End::Failed(error), _) => Err(error.into()),
            (End::Stopped, _) | (End::Complete, None | Some(Err(GaveUp::Stopped))) => Ok(None),
            (End::Complete, Some(Err(source))) => Err(gave_up("write what has gathered", source)),
            (End::Complete, Some(Ok(()))) => {
                let spoiled = match reader.join() {
                    Ok(items) => items,
                    Err(panic) => std::panic::resume_unwind(panic),
                };
                Ok(Some(Everything {
                    items: fed.items,
                    sample: fed.sample,
                    spoiled,
                    elapsed,
                }))
            }
        }
    }

    /// Looks at what is there of the rows, and measures what single inserts would take.
    async fn look(
        &self,
        mut table: Table,
        items: u64,
        sample: Arc<[(i64, Row)]>,
    ) -> Result<(Held, Singles), Error> {
        let held = async || table.held(items, EXAMPLES).await;
        let held = self.ask("count what is stored", held).await?;
        self.console.say(format_args!(
            "Inserting {} rows one by one, for 5 s at the most, to compare.",
            HumanCount(u64::try_from(sample.len()).unwrap_or(u64::MAX))
        ));
        let singles = async || table.insert_one_by_one(Arc::clone(&sample)).await;
        let singles = self.ask("insert rows one by one", singles).await?;
        Ok((held, singles))
    }

    async fn ask<T>(
        &self,
        doing: &str,
        ask: impl AsyncFnMut() -> Result<T, AskFailure>,
    ) -> Result<T, Error> {
        let answer = self.patience.insist(ask, |_| ()).await;
        answer.map_err(|source| gave_up(doing, source))
    }

    /// What `work` comes to, or `None` if the run was stopped before.
    async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = stopping(self.stop) => None,
            result = work => Some(result),
        }
    }

    fn stopped(&self) -> Exit {
        self.say_tally("Stopped:");
        self.console.say("Run again with --keep to continue.");
        Exit::Stopped
    }

    fn say_tally(&self, before: &str) {
        let tally = self.tally.borrow();
        self.console.say(format_args!(
            "{before} {} rows were stored and {} set aside.",
            HumanCount(tally.stored),
            HumanCount(tally.set_aside),
        ));
    }

    fn verdict(&self, items: u64, held: &Held) -> Exit {
        let there = held.stored + held.set_aside;
        if there == items {
            self.console.say("Every row is stored or set aside.");
            return Exit::Right;
        }
        self.console.say(format_args!(
            "Of {} rows {} are stored or set aside.",
            HumanCount(items),
            HumanCount(there)
        ));
        Exit::Wrong
    }
}
