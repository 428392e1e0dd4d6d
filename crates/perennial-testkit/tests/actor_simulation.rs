//! Plain actors keep their promises under every order of things.
//!
//! `PERENNIAL_SIMULATION_SEEDS` says how many seeds are tried, `PERENNIAL_SIMULATION_FIRST` with
//! which one that begins, and `PERENNIAL_SIMULATION_SEED` replays one alone and prints its trace.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once};

use perennial_testkit::actor_simulation::{self, Failure, Options, PLANNED, Report};

/// How many seeds are tried unless the environment says otherwise.
const SEEDS: u64 = 300;

fn from_environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    let number = value.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is \"{value}\", which is not a whole number")))
}

/// Actors of the simulation panic as they are told to; a line for each would hide everything else.
fn hide_planned_panics() {
    static HIDDEN: Once = Once::new();
    HIDDEN.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let text = info.payload().downcast_ref::<String>();
            if !text.is_some_and(|text| text.starts_with(PLANNED)) {
                hook(info);
            }
        }));
    });
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
                    let result = actor_simulation::run(seed, options);
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
    hide_planned_panics();
    if let Some(seed) = from_environment("PERENNIAL_SIMULATION_SEED") {
        match actor_simulation::run(seed, &Options::default().with_whole_trace()) {
            Ok(report) => println!("{}\n{report:#?}", report.trace.join("\n")),
            Err(failure) => panic!("{failure}"),
        }
        return;
    }
    let first = from_environment("PERENNIAL_SIMULATION_FIRST").unwrap_or(0);
    let count = from_environment("PERENNIAL_SIMULATION_SEEDS").unwrap_or(SEEDS);
    let (reports, failures): (Vec<_>, Vec<_>) = run_all(first..first + count, &Options::default())
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
             PERENNIAL_SIMULATION_SEED=<seed>",
            failures.len()
        );
    }
    println!("{count} seeds from {first} on: {:?}", Sum::of(&reports));
    Sum::of(&reports).check();
}

/// What all runs together have seen.
#[derive(Debug)]
struct Sum(BTreeMap<&'static str, u64>);

impl Sum {
    fn of(reports: &[Report]) -> Self {
        type Number = (&'static str, fn(&Report) -> u64);
        let numbers: [Number; 31] = [
            ("accepted", |report| report.accepted),
            ("busy", |report| report.busy),
            ("refused", |report| report.refused),
            ("handled", |report| report.handled),
            ("stashed", |report| report.stashed),
            ("failed", |report| report.failed),
            ("dead: stopped", |report| report.dead_stopped),
            ("dead: unhandled", |report| report.dead_unhandled),
            ("dead: stash", |report| report.dead_stash),
            ("dead: futures", |report| report.dead_futures),
            ("answered", |report| report.answered),
            ("expired", |report| report.expired),
            ("unknown", |report| report.unknown),
            ("stopped", |report| report.stopped),
            ("told failed", |report| report.told_failed),
            ("cycles", |report| report.cycles),
            ("given up", |report| report.given_up),
            ("waited", |report| report.waited),
            ("continued", |report| report.continued),
            ("spawned", |report| report.spawned),
            ("failed starts", |report| report.failed_starts),
            ("restarted", |report| report.restarted),
            ("ended", |report| report.ended),
            ("terminated", |report| report.terminated),
            ("child failed", |report| report.child_failed),
            ("ticks", |report| report.ticks),
            ("timers cancelled", |report| report.cancelled),
            ("receive time-outs", |report| report.timeouts),
            ("names taken", |report| report.names_taken),
            ("crashes", |report| report.crashes),
            ("shutdowns", |report| report.shutdowns),
        ];
        let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum();
        Self(numbers.map(|(name, of)| (name, sum(of))).into())
    }

    /// A simulation in which something never happens says nothing about it.
    fn check(&self) {
        let never: Vec<_> = self.0.iter().filter(|(_, sum)| **sum == 0).collect();
        assert!(never.is_empty(), "these never happened: {never:?}");
    }
}

#[test]
fn a_seed_makes_the_same_run_every_time() {
    hide_planned_panics();
    let options = Options::default().with_whole_trace();
    for seed in 0..20 {
        let trace = || match actor_simulation::run(seed, &options) {
            Ok(report) => report.trace,
            Err(failure) => panic!("{failure}"),
        };
        let (first, second) = (trace(), trace());
        assert!(first.len() > 100, "a run of seed {seed} does something");
        assert_eq!(first, second, "seed {seed}");
    }
}
