//! Keepers keep their promises under every order of things.
//!
//! `PERENNIAL_SIMULATION_SEEDS` says how many seeds are tried, `PERENNIAL_SIMULATION_FIRST` with which
//! one that begins, and `PERENNIAL_SIMULATION_SEED` replays one alone and prints its trace.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use perennial_sharding::simulation::{self, Failure, Options, Report};

/// How many seeds are tried unless the environment says otherwise.
const SEEDS: u64 = 1000;

fn from_environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    let number = value.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is \"{value}\", which is not a whole number")))
}

/// Runs all seeds, on all processors.
fn run_all(seeds: std::ops::Range<u64>) -> (Sum, Vec<Failure>) {
    let next = AtomicU64::new(seeds.start);
    let results = Mutex::new((Sum::default(), Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let result = simulation::run(seed, &Options::default());
                    let mut results = results.lock().expect("no panic inside");
                    match result {
                        Ok(report) => results.0.add(&report),
                        Err(failure) => results.1.push(failure),
                    }
                }
            });
        }
    });
    let (sum, mut failures) = results.into_inner().expect("no panic inside");
    failures.sort_by_key(|failure| failure.seed);
    (sum, failures)
}

#[test]
fn every_promise_is_kept() {
    if let Some(seed) = from_environment("PERENNIAL_SIMULATION_SEED") {
        match simulation::run(seed, &Options::default().with_trace()) {
            Ok(report) => println!("{}\n{report:#?}", report.trace.join("\n")),
            Err(failure) => panic!("{failure}"),
        }
        return;
    }
    let first = from_environment("PERENNIAL_SIMULATION_FIRST").unwrap_or(0);
    let count = from_environment("PERENNIAL_SIMULATION_SEEDS").unwrap_or(SEEDS);
    let (sum, failures) = run_all(first..first + count);
    if let Some(failure) = failures.first() {
        let mut rules: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for failure in &failures {
            rules.entry(failure.rule).or_default().push(failure.seed);
        }
        panic!(
            "{failure}\n\n{} of {count} seeds fail: {rules:?}\nreplay one with \
             PERENNIAL_SIMULATION_SEED=<seed>",
            failures.len()
        );
    }
    println!("{count} seeds: {sum:?}");
    sum.check();
}

/// What all runs together have seen.
#[derive(Debug, Default)]
struct Sum {
    counts: BTreeMap<&'static str, u64>,
    slowest_ms: u64,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        let counts = [
            ("steps", report.steps),
            ("calls", report.calls),
            ("replied", report.replied),
            ("taken", report.taken),
            ("not handled", report.not_handled),
            ("without effect", report.without_effect),
            ("unknown", report.unknown),
            ("crashed calls", report.crashed_calls),
            ("events", report.events),
            ("stored, but unknown", report.stored_unknown),
            ("refused writes", report.refused_writes),
            ("nodes", report.nodes),
            ("crashes", report.crashes),
            ("pauses", report.pauses),
            ("cuts", report.cuts),
            ("left", report.left),
            ("frames", report.frames),
            ("lost", report.lost),
            ("doubled", report.doubled),
            ("overtaken", report.overtaken),
            ("tenures", report.tenures),
            ("released", report.released),
            ("forced", report.forced),
            ("fenced", report.fenced),
            ("sent again", report.sent_again),
        ];
        for (name, count) in counts {
            *self.counts.entry(name).or_insert(0) += count;
        }
        self.slowest_ms = self.slowest_ms.max(report.settled_after_ms);
    }

    /// A simulation in which something never happens says nothing about it.
    fn check(&self) {
        let never: Vec<_> = self.counts.iter().filter(|(_, sum)| **sum == 0).collect();
        assert!(never.is_empty(), "these never happened: {never:?}");
    }
}

#[test]
fn a_seed_makes_the_same_run_every_time() {
    let options = Options::default().with_trace();
    for seed in 0..10 {
        let trace = || match simulation::run(seed, &options) {
            Ok(report) => report.trace,
            Err(failure) => panic!("{failure}"),
        };
        let (first, second) = (trace(), trace());
        assert!(first.len() > 100, "a run of seed {seed} does something");
        assert_eq!(first, second, "seed {seed}");
    }
}
