//! The engine keeps its promises under every order of things.
//!
//! `PERENNIAL_SIMULATION_SEEDS` says how many seeds are tried, half as many with states alone,
//! `PERENNIAL_SIMULATION_FIRST` with which one that begins, and `PERENNIAL_SIMULATION_SEED` replays
//! one alone and prints its trace.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use perennial_testkit::simulation::{self, Failure, Kept, Options, Report};

/// How many seeds are tried unless the environment says otherwise.
const SEEDS: u64 = 400;

fn from_environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    let number = value.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is \"{value}\", which is not a whole number")))
}

/// Runs all seeds, on all processors.
fn run_all(seeds: std::ops::Range<u64>, options: &Options) -> Vec<Result<Report, Failure>> {
    let next = AtomicU64::new(seeds.start);
    let results = Mutex::new(BTreeMap::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let result = simulation::run(seed, options);
                    results
                        .lock()
                        .expect("no panic inside")
                        .insert(seed, result);
                }
            });
        }
    });
    let results = results.into_inner().expect("no panic inside");
    results.into_values().collect()
}

#[test]
fn every_promise_is_kept() {
    let options = Options::default();
    if replay(&options) {
        return;
    }
    let count = from_environment("PERENNIAL_SIMULATION_SEEDS").unwrap_or(SEEDS);
    let sum = run_sound(count, &options);
    println!("{count} seeds: {sum:?}");
    sum.check(&[]);
}

/// Without entities that keep events, so that what is rare with states comes about more often.
#[test]
fn every_promise_is_kept_of_states_alone() {
    let options = Options::default().with_kept(Kept::States);
    if replay(&options) {
        return;
    }
    let count = from_environment("PERENNIAL_SIMULATION_SEEDS").unwrap_or(SEEDS) / 2;
    let sum = run_sound(count, &options);
    println!("{count} seeds, states alone: {sum:?}");
    // The last one is rare: what would tell whose a state is has to be gone.
    sum.check(&["events", "snapshots", "deletions", "superseded"]);
}

/// Replays one seed, if one is wanted, and prints its trace.
fn replay(options: &Options) -> bool {
    let Some(seed) = from_environment("PERENNIAL_SIMULATION_SEED") else {
        return false;
    };
    match simulation::run(seed, &options.clone().with_whole_trace()) {
        Ok(report) => println!("{}\n{report:#?}", report.trace.join("\n")),
        Err(failure) => panic!("{failure}"),
    }
    true
}

/// Runs so many seeds, none of which may fail.
fn run_sound(count: u64, options: &Options) -> Sum {
    let first = from_environment("PERENNIAL_SIMULATION_FIRST").unwrap_or(0);
    let (reports, failures): (Vec<_>, Vec<_>) = run_all(first..first + count, options)
        .into_iter()
        .partition(Result::is_ok);
    let failures: Vec<Failure> = failures.into_iter().filter_map(Result::err).collect();
    let reports: Vec<Report> = reports.into_iter().filter_map(Result::ok).collect();
    if let Some(failure) = failures.first() {
        let mut rules: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for failure in &failures {
            rules.entry(failure.rule).or_default().push(failure.seed);
        }
        panic!(
            "{failure}\n\n{} of {count} seeds fail: {rules:?}\nreplay one with \
             PERENNIAL_SIMULATION_SEED=<seed> and the name of this test",
            failures.len()
        );
    }
    Sum::of(&reports)
}

/// What all runs together have seen.
#[derive(Debug)]
struct Sum(BTreeMap<&'static str, u64>);

impl Sum {
    fn of(reports: &[Report]) -> Self {
        type Number = (&'static str, fn(&Report) -> u64);
        let numbers: [Number; 37] = [
            ("steps", |report| report.steps),
            ("commands", |report| report.commands),
            ("answered", |report| report.answered),
            ("repeated", |report| report.repeated),
            ("events", |report| report.events),
            ("changes of states", |report| report.changes),
            ("deleted states", |report| report.deleted_states),
            ("told changes", |report| report.told),
            ("stale changes", |report| report.stale),
            ("repeated, of states", |report| report.repeated_of_states),
            ("runs that remove rows", |report| report.removing_rows),
            ("ticks", |report| report.ticks),
            ("batches", |report| report.batches),
            ("reads", |report| report.reads),
            ("snapshots", |report| report.snapshots),
            ("deletions", |report| report.deletions),
            ("futures", |report| report.futures),
            ("side effects", |report| report.side_effects),
            ("systems", |report| report.systems),
            ("crashes", |report| report.crashes),
            ("moved entities", |report| report.moved),
            ("shutdowns", |report| report.shutdowns),
            ("foreign", |report| report.foreign),
            ("late", |report| report.late),
            ("busy", |report| report.busy),
            ("store busy", |report| report.store_busy),
            ("stopped", |report| report.stopped),
            ("unknown", |report| report.unknown),
            ("given up", |report| report.given_up),
            ("superseded", |report| report.superseded),
            ("superseded, unknown", |report| report.superseded_unknown),
            ("conflicts", |report| report.conflicts),
            ("taken back", |report| report.taken_back),
            ("recovery failed", |report| report.recovery_failed),
            ("unhandled", |report| report.unhandled),
            ("panicked", |report| report.panicked),
            ("expired", |report| report.expired + report.expired_unknown),
        ];
        let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum();
        Self(numbers.map(|(name, of)| (name, sum(of))).into())
    }

    /// A simulation in which something never happens says nothing about it, but for what cannot.
    fn check(&self, impossible: &[&str]) {
        let is_missing = |(name, sum): &(&&str, &u64)| **sum == 0 && !impossible.contains(*name);
        let never: Vec<_> = self.0.iter().filter(is_missing).collect();
        assert!(never.is_empty(), "these never happened: {never:?}");
    }
}

#[test]
fn a_seed_makes_the_same_run_every_time() {
    let options = Options::default().with_whole_trace();
    for seed in 0..20 {
        let trace = || match simulation::run(seed, &options) {
            Ok(report) => report.trace,
            Err(failure) => panic!("{failure}"),
        };
        let (first, second) = (trace(), trace());
        assert!(first.len() > 100, "a run of seed {seed} does something");
        assert_eq!(first, second, "seed {seed}");
    }
}
