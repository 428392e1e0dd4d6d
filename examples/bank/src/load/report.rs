//! What came of driving a bank.

use std::io::Write;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use flight_table::output::{Error, OutputFile};
use hdrhistogram::Histogram;
use serde::Serialize;

use super::Outcome;
use crate::cli::Load;

/// A longer time counts as this: a minute, longer than a client waits.
const MOST_MICROS: u64 = 60_000_000;

/// What clients count.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    pub(super) requests: u64,
    /// Those that were sent again: the bank was busy, away, or did not know.
    pub(super) sent_again: u64,
    pub(super) deposits: u64,
    pub(super) deposited: u64,
    pub(super) withdrawals: u64,
    pub(super) withdrawn: u64,
    /// Deposits and withdrawals.
    pub(super) refusals: u64,
    pub(super) completed: u64,
    pub(super) refused: u64,
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
    /// Requests of which it did not become known what came of them.
    pub(super) unknown: u64,
    /// Microseconds until an answer, up to [`MOST_MICROS`].
    times: Histogram<u64>,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            requests: 0,
            sent_again: 0,
            deposits: 0,
            deposited: 0,
            withdrawals: 0,
            withdrawn: 0,
            refusals: 0,
            completed: 0,
            refused: 0,
            errors: 0,
            first_error: None,
            unknown: 0,
            times: Histogram::new_with_max(MOST_MICROS, 3).expect("three digits are possible"),
        }
    }
}

impl Counts {
    pub(super) fn time(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.times.saturating_record(micros.max(1));
    }

    pub(super) fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.sent_again += other.sent_again;
        self.deposits += other.deposits;
        self.deposited += other.deposited;
        self.withdrawals += other.withdrawals;
        self.withdrawn += other.withdrawn;
        self.refusals += other.refusals;
        self.completed += other.completed;
        self.refused += other.refused;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
        self.unknown += other.unknown;
        self.times
            .add(other.times)
            .expect("both have the same range");
    }
}

/// The money, in cents.
#[derive(Debug, Clone, Copy)]
pub(super) struct Books {
    pub(super) deposited: u64,
    pub(super) withdrawn: u64,
    /// All of them together; `None` if they are not known.
    pub(super) balances: Option<u64>,
}

/// What is printed, and written by `--report`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Report {
    accounts: u32,
    clients: u32,
    seconds: f64,
    requests: u64,
    requests_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    sent_again: u64,
    deposits: u64,
    withdrawals: u64,
    refusals: u64,
    transfers_completed: u64,
    transfers_refused: u64,
    errors: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_error: Option<String>,
    unknown: u64,
    deposited: u64,
    withdrawn: u64,
    balances: Option<u64>,
    /// `None` if it is not known.
    conserved: Option<bool>,
}

impl Report {
    pub(super) fn new(args: &Load, elapsed: Duration, counts: &Counts, books: &Books) -> Self {
        let expected = books.deposited.checked_sub(books.withdrawn);
        let is_known = counts.unknown == 0 && counts.errors == 0;
        let conserved = books
            .balances
            .filter(|_| is_known)
            .map(|balances| Some(balances) == expected);
        let ms = |quantile| {
            let micros = counts.times.value_at_quantile(quantile);
            Duration::from_micros(micros).as_secs_f64() * 1e3
        };
        #[expect(clippy::cast_precision_loss, reason = "nobody counts to 2^53")]
        let requests = counts.requests as f64;
        let seconds = elapsed.as_secs_f64();
        Self {
            accounts: args.accounts,
            clients: args.clients,
            seconds: rounded(seconds),
            requests: counts.requests,
            requests_per_s: rounded(requests / seconds.max(1e-6)),
            p50_ms: rounded(ms(0.5)),
            p99_ms: rounded(ms(0.99)),
            sent_again: counts.sent_again,
            deposits: counts.deposits,
            withdrawals: counts.withdrawals,
            refusals: counts.refusals,
            transfers_completed: counts.completed,
            transfers_refused: counts.refused,
            errors: counts.errors,
            first_error: counts.first_error.clone(),
            unknown: counts.unknown,
            deposited: books.deposited,
            withdrawn: books.withdrawn,
            balances: books.balances,
            conserved,
        }
    }

    pub(super) fn outcome(&self) -> Outcome {
        match self.conserved {
            Some(true) => Outcome::Conserved,
            Some(false) => Outcome::NotConserved,
            None => Outcome::NotKnown,
        }
    }

    pub(super) fn write(&self, mut file: OutputFile) -> Result<(), Error> {
        let written = serde_json::to_writer_pretty(&mut file, self).map_err(Into::into);
        let written = written.and_then(|()| file.write_all(b"\n"));
        match written {
            Ok(()) => file.finish(),
            Err(error) => Err(file.error(error)),
        }
    }

    pub(super) fn table(&self) -> String {
        let cents = |cents: u64| format!("{}.{:02}", cents / 100, cents % 100);
        let balances = self.balances.map_or_else(|| "unknown".to_owned(), cents);
        let conserved = match self.conserved {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "unknown",
        };
        let lines = [
            ("requests", self.requests.to_string()),
            ("requests/s", format!("{:.0}", self.requests_per_s)),
            ("  half of them within", format!("{} ms", self.p50_ms)),
            ("  99 % within", format!("{} ms", self.p99_ms)),
            ("  sent again", self.sent_again.to_string()),
            ("deposits", self.deposits.to_string()),
            ("withdrawals", self.withdrawals.to_string()),
            ("  refused", self.refusals.to_string()),
            ("transfers completed", self.transfers_completed.to_string()),
            ("  refused", self.transfers_refused.to_string()),
            ("errors", self.errors.to_string()),
            ("not known", self.unknown.to_string()),
            ("paid in", cents(self.deposited)),
            ("paid out", cents(self.withdrawn)),
            ("in the accounts", balances),
            ("money is conserved", conserved.to_owned()),
        ];
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        for (name, value) in lines {
            table.add_row([name.to_owned(), value]);
        }
        if let Some(values) = table.column_mut(1) {
            values.set_cell_alignment(CellAlignment::Right);
        }
        let mut text = table.to_string();
        if let Some(error) = &self.first_error {
            text += &format!("\nthe first error: {error}");
        }
        text
    }
}

/// To three digits after the point.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> Load {
        Load {
            url: "http://localhost".into(),
            accounts: 2,
            clients: 1,
            seconds: 1,
            report: None,
        }
    }

    #[test]
    fn money_is_conserved_if_the_balances_say_so_and_everything_is_known() {
        let outcome = |balances, unknown, errors| {
            let counts = Counts {
                unknown,
                errors,
                ..Counts::default()
            };
            let books = Books {
                deposited: 300,
                withdrawn: 100,
                balances,
            };
            Report::new(&args(), Duration::from_secs(1), &counts, &books).outcome()
        };
        assert_eq!(outcome(Some(200), 0, 0), Outcome::Conserved);
        assert_eq!(outcome(Some(201), 0, 0), Outcome::NotConserved);
        assert_eq!(outcome(Some(199), 0, 0), Outcome::NotConserved);
        assert_eq!(outcome(Some(200), 1, 0), Outcome::NotKnown);
        assert_eq!(outcome(Some(200), 0, 1), Outcome::NotKnown);
        assert_eq!(outcome(None, 0, 0), Outcome::NotKnown);
    }

    #[test]
    fn counts_of_clients_add_up() {
        let mut sum = Counts::default();
        for time in [1, 2, 3] {
            let mut counts = Counts {
                requests: 1,
                first_error: Some(time.to_string()),
                ..Counts::default()
            };
            counts.time(Duration::from_millis(time));
            sum.add(counts);
        }
        assert_eq!(sum.requests, 3);
        assert_eq!(sum.first_error.as_deref(), Some("1"));
        let books = Books {
            deposited: 0,
            withdrawn: 0,
            balances: Some(0),
        };
        let report = Report::new(&args(), Duration::from_secs(2), &sum, &books);
        assert_eq!(report.requests_per_s, 1.5);
        assert!((2.0..2.01).contains(&report.p50_ms), "{}", report.p50_ms);
        assert!(report.table().contains("the first error: 1"));
    }
}
