//! How far a run is, on standard error: a bar on a terminal, a line now and then elsewhere.

use std::fmt::Display;
use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressStyle};

use crate::input::Position;

/// How often something that is no terminal is told.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The progress of one phase. Nothing of it can fail: a closed standard error is ignored.
#[derive(Debug)]
pub struct Progress {
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
    /// A phase that ends with the input.
    pub fn of_input(phase: &'static str, unit: &'static str, position: Position) -> Self {
        let total = position.total();
        Self::new(phase, unit, Done::Bytes(position), total)
    }

    /// A phase that ends when `total` things are done.
    pub fn of_count(phase: &'static str, unit: &'static str, total: u64) -> Self {
        Self::new(phase, unit, Done::Count { total }, Some(total))
    }

    fn new(phase: &'static str, unit: &'static str, done: Done, total: Option<u64>) -> Self {
        let shown = if stderr().is_terminal() {
            let bar = ProgressBar::new(total.unwrap_or(0));
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
            phase,
            unit,
            count: 0,
            done,
            shown,
        }
    }

    /// One more is done.
    pub fn add_one(&mut self) {
        /// Looking at the clock and redrawing for each row would cost more than the row.
        const LOOK_EVERY: u64 = 64;
        self.count += 1;
        if self.count.is_multiple_of(LOOK_EVERY) {
            self.show();
        }
    }

    /// Says something above the bar, or on a line of its own.
    pub fn say(&self, text: impl Display) {
        match &self.shown {
            Shown::Bar(bar) => bar.println(text.to_string()),
            Shown::Lines { .. } => say(text),
        }
    }

    /// Takes the bar away.
    pub fn finish(self) {
        if let Shown::Bar(bar) = self.shown {
            bar.finish_and_clear();
        }
    }

    fn show(&mut self) {
        let (count, unit) = (HumanCount(self.count), self.unit);
        match &mut self.shown {
            Shown::Bar(bar) => {
                bar.set_position(match &self.done {
                    Done::Bytes(position) => position.read(),
                    Done::Count { .. } => self.count,
                });
                bar.set_message(format!("{count} {unit}"));
            }
            Shown::Lines { next } => {
                let now = Instant::now();
                if now >= *next {
                    *next = now + LINE_EVERY;
                    let phase = self.phase;
                    match self.done.percent(self.count) {
                        Some(percent) => say(format_args!("{phase}: {count} {unit}, {percent}%")),
                        None => say(format_args!("{phase}: {count} {unit}")),
                    }
                }
            }
        }
    }
}

impl Done {
    fn percent(&self, count: u64) -> Option<u64> {
        let (done, total) = match self {
            Self::Bytes(position) => (position.read(), position.total()?),
            Self::Count { total } => (count, *total),
        };
        let percent = u128::from(done) * 100 / u128::from(total.max(1));
        u64::try_from(percent.min(100)).ok()
    }
}

/// A line on standard error, for those who listen.
pub fn say(text: impl Display) {
    // With standard error closed there is nobody left to tell.
    let _ = writeln!(stderr(), "{text}");
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
