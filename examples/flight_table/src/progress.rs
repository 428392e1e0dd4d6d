//! How far a run is: a bar on a terminal, a line now and then elsewhere.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write, stderr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressStyle};

use crate::input::Position;

/// How often something that is no terminal is told.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Where a run talks to people: lines, with a bar below them on a terminal. Nothing of it can fail:
/// when nobody listens any more, nobody is told.
#[derive(Clone)]
pub struct Console {
    bars: Option<MultiProgress>,
    lines: Arc<Mutex<dyn Write + Send>>,
}

impl Console {
    /// This process's standard error.
    pub fn of_process() -> Self {
        let bars = stderr().is_terminal().then(MultiProgress::new);
        Self {
            bars,
            lines: Arc::new(Mutex::new(stderr())),
        }
    }

    /// Lines only.
    pub fn of_lines(lines: Arc<Mutex<dyn Write + Send>>) -> Self {
        Self { bars: None, lines }
    }

    /// Says something on a line of its own.
    pub fn say(&self, text: impl Display) {
        self.print(|lines| {
            let _ = writeln!(lines, "{text}");
        });
    }

    fn print(&self, print: impl FnOnce(&mut dyn Write)) {
        let print = || {
            let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            print(&mut *lines);
        };
        match &self.bars {
            Some(bars) => bars.suspend(print),
            None => print(),
        }
    }

    /// For logs: what is written in one call is said at once.
    pub fn writer(&self) -> impl Write + use<> {
        ConsoleWriter(self.clone())
    }

    /// The progress of a phase that ends with the input.
    pub fn of_input(
        &self,
        phase: &'static str,
        unit: &'static str,
        position: Position,
    ) -> Progress {
        let total = position.total();
        Progress::new(self, phase, unit, Done::Bytes(position), total)
    }

    /// The progress of a phase that ends when `total` things are done.
    pub fn of_count(&self, phase: &'static str, unit: &'static str, total: u64) -> Progress {
        Progress::new(self, phase, unit, Done::Count { total }, Some(total))
    }
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").finish_non_exhaustive()
    }
}

struct ConsoleWriter(Console);

impl Write for ConsoleWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.print(|lines| {
            let _ = lines.write_all(bytes);
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The progress of one phase. Dropped, it leaves no trace on a terminal.
#[derive(Debug)]
pub struct Progress {
    console: Console,
    phase: &'static str,
    /// What is counted, such as `rows`.
    unit: &'static str,
    count: u64,
    done: Done,
    shown: Shown,
}

#[derive(Debug)]
enum Done {
    /// Known only from how much of the input is read.
    Bytes(Position),
    /// A number of things.
    Count { total: u64 },
}

#[derive(Debug)]
enum Shown {
    Bar(ProgressBar),
    Lines { next: Instant },
}

impl Progress {
    fn new(
        console: &Console,
        phase: &'static str,
        unit: &'static str,
        done: Done,
        total: Option<u64>,
    ) -> Self {
        let shown = if let Some(bars) = &console.bars {
            let bar = bars.add(ProgressBar::new(total.unwrap_or(0)));
            let template = if total.is_some() {
                "{prefix} {bar:30} {percent:>3}% {msg}"
            } else {
                "{prefix} {spinner} {msg}"
            };
            bar.set_style(
                ProgressStyle::with_template(template).expect("the template is a constant"),
            );
            bar.set_prefix(phase);
            bar.enable_steady_tick(Duration::from_millis(200));
            Shown::Bar(bar)
        } else {
            Shown::Lines {
                next: Instant::now() + LINE_EVERY,
            }
        };
        Self {
            console: console.clone(),
            phase,
            unit,
            count: 0,
            done,
            shown,
        }
    }

    /// One more is done.
    pub fn add_one(&mut self) {
        self.add(1);
    }

    /// So many more are done.
    pub fn add(&mut self, count: u64) {
        /// Looking at the clock and redrawing for each row would cost more than the row.
        const LOOK_EVERY: u64 = 64;
        let before = self.count / LOOK_EVERY;
        self.count += count;
        if self.count / LOOK_EVERY > before {
            self.show();
        }
    }

    fn show(&mut self) {
        let (console, phase) = (&self.console, self.phase);
        let (count, unit) = (HumanCount(self.count), self.unit);
        match &mut self.shown {
            Shown::Bar(bar) => {
                bar.set_position(match &self.done {
                    Done::Bytes(position) => position.read_for(self.count),
                    Done::Count { .. } => self.count,
                });
                bar.set_message(format!("{count} {unit}"));
            }
            Shown::Lines { next } => {
                let now = Instant::now();
                if now >= *next {
                    *next = now + LINE_EVERY;
                    match self.done.percent(self.count) {
                        Some(percent) => {
                            console.say(format_args!("{phase}: {count} {unit}, {percent}%"))
                        }
                        None => console.say(format_args!("{phase}: {count} {unit}")),
                    }
                }
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

impl Done {
    fn percent(&self, count: u64) -> Option<u64> {
        let (done, total) = match self {
            Self::Bytes(position) => (position.read_for(count), position.total()?),
            Self::Count { total } => (count, *total),
        };
        let percent = u128::from(done) * 100 / u128::from(total.max(1));
        u64::try_from(percent.min(100)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_that_is_done_stays_within_bounds() {
        for (done, total, percent) in [(0, 0, 0), (0, 7, 0), (1, 3, 33), (3, 3, 100), (9, 3, 100)] {
            assert_eq!(Done::Count { total }.percent(done), Some(percent));
        }
        assert_eq!(Done::Count { total: u64::MAX }.percent(u64::MAX), Some(100));
    }
}
