//! The book against a naive one, and what the policies are good for.

use std::collections::HashMap;

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;

const POLICIES: [Replacement; 3] = [
    Replacement::LeastRecentlyUsed,
    Replacement::Segmented,
    Replacement::Frequency,
];

/// The same book, with every list searched from its end, and of the sketch a copy.
struct Naive {
    /// Everybody: where, and whether idle.
    who: HashMap<usize, (Segment, bool)>,
    /// Those that became idle last in front.
    idle: Vec<usize>,
    limit: usize,
    window: usize,
    protected: usize,
    sketch: Option<Sketch>,
}

impl Naive {
    fn of(book: &Residents) -> Self {
        Self {
            who: HashMap::new(),
            idle: Vec::new(),
            limit: book.limit,
            window: book.window,
            protected: book.protected,
            sketch: book.sketch.as_ref().map(|_| Sketch::new()),
        }
    }

    fn count(&self, of: Segment) -> usize {
        let segments = self.who.values().filter(|(segment, _)| *segment == of);
        segments.count()
    }

    fn last(&self, of: Segment) -> Option<usize> {
        let mut idle = self.idle.iter().rev().copied();
        idle.find(|index| self.who[index].0 == of)
    }

    fn put(&mut self, index: usize, segment: Segment) {
        self.idle.retain(|other| *other != index);
        self.idle.insert(0, index);
        self.who.insert(index, (segment, true));
    }

    fn used(&mut self, index: usize) {
        let there = self.who.get(&index).copied();
        if there.is_none() {
            let first = if self.window > 0 {
                Segment::Window
            } else {
                Segment::Probation
            };
            self.who.insert(index, (first, false));
        }
        let len = self.who.len().min(self.limit);
        if let Some(sketch) = &mut self.sketch {
            sketch.fit(len);
            sketch.add(hash(index));
        }
        if let Some((Segment::Probation, _)) = there
            && self.protected > 0
        {
            self.who.insert(index, (Segment::Protected, false));
            self.idle.retain(|other| *other != index);
            self.settle();
        }
    }

    fn busy(&mut self, index: usize) {
        if let Some((_, idle)) = self.who.get_mut(&index) {
            *idle = false;
            self.idle.retain(|other| *other != index);
        }
    }

    fn idle(&mut self, index: usize) {
        if let Some((segment, false)) = self.who.get(&index).copied() {
            self.put(index, segment);
            self.settle();
            self.let_in();
        }
    }

    fn settle(&mut self) {
        while self.count(Segment::Protected) > self.protected
            && let Some(index) = self.last(Segment::Protected)
        {
            self.put(index, Segment::Probation);
        }
    }

    fn let_in(&mut self) {
        while self.count(Segment::Window) > self.window
            && self.count(Segment::Probation) + self.count(Segment::Protected)
                < self.limit - self.window
            && let Some(index) = self.last(Segment::Window)
        {
            self.put(index, Segment::Probation);
        }
    }

    fn remove(&mut self, index: usize) {
        self.who.remove(&index);
        self.idle.retain(|other| *other != index);
    }

    fn victim(&mut self) -> Option<usize> {
        if self.who.len() <= self.limit {
            return None;
        }
        self.let_in();
        let of_main = self
            .last(Segment::Probation)
            .or_else(|| self.last(Segment::Protected));
        let of_window = self.last(Segment::Window);
        let victim = match (of_window, of_main) {
            (Some(candidate), Some(of_main)) if self.count(Segment::Window) > self.window => {
                let sketch = self.sketch.as_ref().expect("there is a window");
                if sketch.estimate(hash(candidate)) > sketch.estimate(hash(of_main)) {
                    self.put(candidate, Segment::Probation);
                    of_main
                } else {
                    candidate
                }
            }
            (_, Some(of_main)) => of_main,
            (of_window, None) => of_window?,
        };
        self.remove(victim);
        Some(victim)
    }
}

/// A hash of an id, as different ids have them.
fn hash(id: usize) -> u32 {
    u32::try_from(id)
        .expect("small")
        .wrapping_mul(0x9e37_79b9)
        .rotate_left(13)
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// A command comes.
    Use(usize),
    /// Everything is done.
    Rest(usize),
    /// It stops by itself.
    Leave(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..40_usize).prop_map(Step::Use),
        5 => (0..40_usize).prop_map(Step::Rest),
        1 => (0..40_usize).prop_map(Step::Leave),
    ]
}

proptest! {
    #[test]
    fn the_book_names_whom_a_naive_one_names(
        limit in 1..30_usize,
        policy in 0..3_usize,
        percent in prop_oneof![Just(0), Just(80), Just(99)],
        steps in proptest::collection::vec(step(), 0..400),
    ) {
        let mut book = Residents::new(limit, POLICIES[policy], percent);
        let mut naive = Naive::of(&book);
        for step in steps {
            match step {
                Step::Use(index) => {
                    if naive.who.contains_key(&index) {
                        book.used(index);
                    } else {
                        book.insert(index, hash(index));
                    }
                    naive.used(index);
                    book.busy(index);
                    naive.busy(index);
                }
                Step::Rest(index) => {
                    book.idle(index);
                    naive.idle(index);
                }
                Step::Leave(index) => {
                    book.remove(index);
                    naive.remove(index);
                }
            }
            loop {
                let victim = book.victim();
                prop_assert_eq!(victim, naive.victim());
                if victim.is_none() {
                    break;
                }
            }
            prop_assert_eq!(book.len(), naive.who.len());
            // Too many are there only while nobody can leave.
            prop_assert!(book.len() <= limit || naive.idle.is_empty());
        }
    }

    #[test]
    fn an_estimate_is_never_below_the_truth_before_it_ages(
        uses in proptest::collection::vec(0..50_usize, 0..600),
    ) {
        let mut sketch = Sketch::new();
        let mut truth = HashMap::new();
        for id in uses {
            sketch.add(hash(id));
            *truth.entry(id).or_insert(0_u8) += 1;
        }
        for (id, uses) in truth {
            prop_assert!(sketch.estimate(hash(id)) >= uses.min(15));
        }
    }
}

#[test]
fn estimates_stay_when_the_sketch_grows_and_are_halved_when_it_ages() {
    let mut sketch = Sketch::new();
    for (id, uses) in [(1, 1), (2, 6), (3, 40)] {
        for _ in 0..uses {
            sketch.add(hash(id));
        }
    }
    let estimates = |sketch: &Sketch| [1, 2, 3, 4].map(|id| sketch.estimate(hash(id)));
    assert_eq!(estimates(&sketch), [1, 6, 15, 0]);
    sketch.fit(1000);
    assert_eq!(sketch.words.len(), 1024);
    assert_eq!(estimates(&sketch), [1, 6, 15, 0]);

    let before = sketch.added;
    for _ in before..1024 * Sketch::SAMPLE {
        // All of them at one place.
        sketch.add(hash(5));
    }
    assert_eq!(estimates(&sketch), [1, 6, 15, 0], "none is halved yet");
    for _ in 0..1024 / Sketch::STEP {
        sketch.add(hash(5));
    }
    assert_eq!(estimates(&sketch), [0, 3, 7, 0]);
}

#[test]
fn whoever_was_named_stays_if_it_is_used_before_it_has_gone() {
    let mut book = Residents::new(2, Replacement::LeastRecentlyUsed, 0);
    for index in 0..3 {
        book.insert(index, hash(index));
        book.idle(index);
    }
    assert_eq!(book.victim(), Some(0));
    assert_eq!(book.victim(), None);
    book.used(0);
    book.idle(0);
    assert_eq!(book.victim(), Some(1), "again there are three");
    book.remove(1);
    assert_eq!((book.len(), book.victim()), (2, None));
}

#[test]
fn nobody_is_named_while_all_have_something_to_do() {
    for policy in POLICIES {
        let mut book = Residents::new(10, policy, 80);
        for index in 0..100 {
            book.insert(index, hash(index));
            assert_eq!(book.victim(), None);
        }
        for index in 0..100 {
            book.idle(index);
            let is_to_go = index < 90;
            assert_eq!(book.victim().is_some(), is_to_go, "{policy:?} at {index}");
            assert_eq!(book.victim(), None);
        }
        assert_eq!(book.len(), 10);
    }
}

/// Runs a trace of ids through a memory of so many. Gives the share that was there.
fn hit_rate(policy: Replacement, limit: usize, trace: impl Iterator<Item = usize>) -> f64 {
    let mut book = Residents::new(limit, policy, 80);
    let (mut cell_of, mut id_of) = (HashMap::new(), Vec::new());
    let mut free: Vec<usize> = Vec::new();
    let (mut hits, mut all) = (0_u32, 0_u32);
    for id in trace {
        all += 1;
        let cell = match cell_of.get(&id) {
            Some(&cell) => {
                hits += 1;
                book.used(cell);
                cell
            }
            None => {
                let cell = free.pop().unwrap_or(id_of.len());
                if cell == id_of.len() {
                    id_of.push(id);
                }
                id_of[cell] = id;
                cell_of.insert(id, cell);
                book.insert(cell, hash(id));
                cell
            }
        };
        book.busy(cell);
        book.idle(cell);
        while let Some(victim) = book.victim() {
            cell_of.remove(&id_of[victim]);
            free.push(victim);
        }
        assert!(cell_of.len() <= limit);
    }
    f64::from(hits) / f64::from(all)
}

/// Ids of which the `n`th is asked for in proportion to 1/n.
fn skewed(ids: usize, length: usize, seed: u64) -> impl Iterator<Item = usize> {
    let mut sums: Vec<f64> = Vec::with_capacity(ids);
    let mut sum = 0.0;
    for rank in 1..=u32::try_from(ids).expect("small") {
        sum += 1.0 / f64::from(rank);
        sums.push(sum);
    }
    let mut random = SmallRng::seed_from_u64(seed);
    (0..length).map(move |_| {
        let drawn = random.random::<f64>() * sum;
        sums.partition_point(|below| *below < drawn)
    })
}

/// The hit rates of least recently used, segmented, and by frequency, in percent.
fn rates<I: Iterator<Item = usize>>(limit: usize, trace: impl Fn() -> I) -> [f64; 3] {
    let rates = POLICIES.map(|policy| 100.0 * hit_rate(policy, limit, trace()));
    println!("{rates:.1?}");
    rates
}

const LIMIT: usize = 1000;

#[test]
fn of_a_skewed_load_those_that_are_used_most_stay() {
    let [recent, segmented, frequent] = rates(LIMIT, || skewed(50_000, 300_000, 1));
    assert!(
        segmented > recent + 2.0 && frequent > segmented,
        "frequency pays"
    );
}

#[test]
fn whoever_looks_at_everything_once_pushes_nobody_out() {
    // Every other command is one of a scan over ids that never come again.
    let trace = || {
        let scan = (0..).map(|number| 1_000_000 + number);
        let skewed = skewed(10_000, 150_000, 2);
        skewed.zip(scan).flat_map(|(one, other)| [one, other])
    };
    let [recent, segmented, frequent] = rates(LIMIT, trace);
    assert!(segmented > recent + 2.0 && frequent > segmented);
}

#[test]
fn of_a_loop_that_does_not_fit_a_part_stays() {
    let [recent, segmented, frequent] = rates(LIMIT, || (0..200_000).map(|number| number % 1500));
    assert_eq!((recent, segmented), (0.0, 0.0), "each one has just left");
    assert!(frequent > 50.0, "two thirds would be the best");
}

#[test]
fn those_that_were_used_long_ago_give_way() {
    // The ids change over and over.
    let trace = || {
        let skewed = skewed(20_000, 600_000, 3).enumerate();
        skewed.map(|(number, id)| id + number / 100_000 * 1_000_000)
    };
    let [recent, segmented, frequent] = rates(LIMIT, trace);
    assert!(frequent > recent && frequent > segmented - 1.0);
}
