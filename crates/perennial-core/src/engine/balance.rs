//! Which slices a busy worker gives away.
//!
//! Once per interval somebody looks at how long each worker has run user code and for which slices,
//! and [`Balancer::decide`] says what is to move. It decides the same for the same numbers; whoever
//! carries it out is [`run`].
//!
//! A worker is relieved when it has been busy for most of several intervals in a row and another one
//! has had much less to do; then as many slices go to that one as make up for at most half of the
//! difference, the busiest first. So two workers do not throw slices at each other, one slice that is
//! busier than all others together stays where it is, and what comes and goes moves nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use perennial_persistence::{NUMBER_OF_SLICES, Slice};

use crate::engine::{Registry, Stats};

/// From which share of an interval on a worker counts as busy.
const BUSY: f64 = 0.7;

/// By which share of an interval it has to be busier than another one.
const DIFFERENCE: f64 = 0.2;

/// For how many intervals in a row that has to be so.
const PATIENCE: u32 = 3;

/// What the workers have done in one interval.
#[derive(Debug, Clone)]
pub(crate) struct Loads {
    /// How long the interval was.
    pub(crate) interval: Duration,
    /// How long each worker has worked.
    pub(crate) workers: Vec<Duration>,
    /// The owner of each slice, and how long that has worked for it.
    pub(crate) slices: Vec<(usize, Duration)>,
}

/// What is to move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moves {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) slices: Vec<usize>,
}

/// Decides about moves.
#[derive(Debug)]
pub(crate) struct Balancer {
    /// The most slices of one decision.
    most: usize,
    /// The busiest worker, and for how many intervals it was.
    hot: Option<(usize, u32)>,
}

impl Balancer {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, hot: None }
    }

    /// What is to move after an interval.
    pub(crate) fn decide(&mut self, loads: &Loads) -> Option<Moves> {
        let share = |worker: usize| {
            loads.workers[worker].as_secs_f64()
                / loads.interval.as_secs_f64().max(f64::MIN_POSITIVE)
        };
        let workers = 0..loads.workers.len();
        let from = workers
            .clone()
            .max_by_key(|worker| loads.workers[*worker])?;
        let to = workers.min_by_key(|worker| loads.workers[*worker])?;
        let difference = share(from) - share(to);
        if share(from) < BUSY || difference < DIFFERENCE {
            self.hot = None;
            return None;
        }
        let intervals = match self.hot {
            Some((worker, intervals)) if worker == from => intervals + 1,
            _ => 1,
        };
        self.hot = Some((from, intervals));
        if intervals < PATIENCE {
            return None;
        }
        // What is decided now shows in the intervals to come.
        self.hot = None;
        let mut left = (loads.workers[from] - loads.workers[to]) / 2;
        let mut own: Vec<(Duration, usize)> = loads
            .slices
            .iter()
            .enumerate()
            .filter(|(_, (owner, load))| *owner == from && !load.is_zero())
            .map(|(slice, (_, load))| (*load, slice))
            .collect();
        own.sort_unstable_by_key(|(load, slice)| (std::cmp::Reverse(*load), *slice));
        let mut slices = Vec::new();
        for (load, slice) in own {
            if slices.len() == self.most {
                break;
            }
            if load <= left {
                left -= load;
                slices.push(slice);
            }
        }
        (!slices.is_empty()).then_some(Moves { from, to, slices })
    }
}

/// Looks again and again, and has slices moved, until its runtime ends.
pub(crate) async fn run(
    registry: Arc<Registry>,
    stats: Vec<Arc<Stats>>,
    interval: Duration,
    most: usize,
) {
    let mut balancer = Balancer::new(most);
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut before = Sums::of(&stats);
    loop {
        ticks.tick().await;
        let now = Sums::of(&stats);
        let loads = now.since(&before, &registry);
        before = now;
        if let Some(Moves { from, to, slices }) = balancer.decide(&loads) {
            tracing::info!(
                from,
                to,
                slices = slices.len(),
                "a busy worker gives slices away"
            );
            registry.move_slices(slices.into_iter().filter_map(slice), to);
        }
    }
}

fn slice(number: usize) -> Option<Slice> {
    u16::try_from(number).ok().and_then(Slice::new)
}

/// What the workers have done since their start.
struct Sums {
    at: Instant,
    /// Of each worker, all of it and that for each slice.
    workers: Vec<(u64, Vec<u64>)>,
}

impl Sums {
    fn of(stats: &[Arc<Stats>]) -> Self {
        let of_worker = |stats: &Arc<Stats>| {
            let slices = stats.slices.iter();
            (
                stats.busy_nanos.load(Ordering::Relaxed),
                slices.map(|slice| slice.load(Ordering::Relaxed)).collect(),
            )
        };
        Self {
            at: Instant::now(),
            workers: stats.iter().map(of_worker).collect(),
        }
    }

    fn since(&self, before: &Self, registry: &Registry) -> Loads {
        let nanos = |now: u64, before: u64| Duration::from_nanos(now.saturating_sub(before));
        let pairs = self.workers.iter().zip(&before.workers);
        let workers = pairs.map(|(now, before)| nanos(now.0, before.0)).collect();
        let of_slice = |number: usize| {
            let owner = slice(number).map_or(0, |slice| registry.owner(slice));
            let (now, before) = (&self.workers[owner].1, &before.workers[owner].1);
            (owner, nanos(now[number], before[number]))
        };
        Loads {
            interval: self.at.saturating_duration_since(before.at),
            workers,
            slices: (0..usize::from(NUMBER_OF_SLICES)).map(of_slice).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(1);

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// Workers that do nothing but what their slices ask for.
    fn loads(workers: usize, slices: &[(usize, u64)]) -> Loads {
        let slices: Vec<_> = slices
            .iter()
            .map(|(owner, load)| (*owner, ms(*load)))
            .collect();
        let of_worker = |worker| {
            let own = slices.iter().filter(|(owner, _)| *owner == worker);
            own.map(|(_, load)| *load).sum()
        };
        Loads {
            interval: INTERVAL,
            workers: (0..workers).map(of_worker).collect(),
            slices,
        }
    }

    /// What is decided about the same loads after a while.
    fn decided(loads: &Loads) -> Option<Moves> {
        let mut balancer = Balancer::new(32);
        for _ in 1..PATIENCE {
            assert_eq!(balancer.decide(loads), None);
        }
        balancer.decide(loads)
    }

    #[test]
    fn a_busy_worker_gives_half_of_the_difference_to_the_idlest_one() {
        let loads = loads(
            3,
            &[(0, 300), (0, 250), (0, 150), (0, 100), (1, 300), (2, 100)],
        );
        // 800 and 100 ms: 350 of it may go.
        let moves = decided(&loads).expect("it is busy");
        assert_eq!((moves.from, moves.to, &*moves.slices), (0, 2, &[0][..]));
    }

    #[test]
    fn nothing_moves_below_the_bounds() {
        // Not busy, although nobody else has anything to do.
        assert_eq!(decided(&loads(2, &[(0, 350), (0, 349)])), None);
        assert!(decided(&loads(2, &[(0, 350), (0, 350)])).is_some());
        // Busy, but the others are as well.
        assert_eq!(decided(&loads(2, &[(0, 450), (0, 450), (1, 701)])), None);
        assert!(decided(&loads(2, &[(0, 90), (0, 810), (1, 700)])).is_some());
        // One slice alone makes its worker busy.
        assert_eq!(decided(&loads(2, &[(0, 900)])), None);
        assert_eq!(decided(&loads(1, &[(0, 900)])), None);
    }

    #[test]
    fn what_lasts_for_a_moment_moves_nothing() {
        let (busy, calm) = (
            loads(2, &[(0, 450), (0, 450)]),
            loads(2, &[(0, 100), (1, 100)]),
        );
        let mut balancer = Balancer::new(32);
        for _ in 0..10 {
            for _ in 1..PATIENCE {
                assert_eq!(balancer.decide(&busy), None);
            }
            assert_eq!(balancer.decide(&calm), None);
        }
        // And after a decision it waits until that has shown.
        for _ in 1..PATIENCE {
            assert_eq!(balancer.decide(&busy), None);
        }
        assert!(balancer.decide(&busy).is_some());
        assert_eq!(balancer.decide(&busy), None);
    }

    #[test]
    fn no_more_slices_move_at_once_than_the_bound_says() {
        let many: Vec<(usize, u64)> = (0..100).map(|_| (0, 9)).collect();
        let moves = decided(&loads(2, &many)).expect("it is busy");
        assert_eq!(moves.slices.len(), 32);
    }

    #[test]
    fn any_loads_come_to_rest_and_the_busiest_worker_never_gets_busier() {
        for seed in 0..300 {
            let mut random = StdRng::seed_from_u64(seed);
            let workers = random.random_range(2..=6);
            let mut slices: Vec<(usize, u64)> = (0..64)
                .map(|_| {
                    let load = random.random_range(0..10_u64).pow(2);
                    (random.random_range(0..workers), load)
                })
                .collect();
            let mut balancer = Balancer::new(random.random_range(1..=32));
            let mut last_move = 0;
            for interval in 0..500 {
                let loads = loads(workers, &slices);
                let Some(moves) = balancer.decide(&loads) else {
                    continue;
                };
                last_move = interval;
                let busiest = loads.workers.iter().max().copied();
                for slice in moves.slices {
                    assert_eq!(slices[slice].0, moves.from, "seed {seed}");
                    slices[slice].0 = moves.to;
                }
                let after = self::loads(workers, &slices);
                assert!(
                    after.workers.iter().max().copied() <= busiest,
                    "seed {seed}"
                );
            }
            assert!(last_move < 400, "seed {seed}");
        }
    }
}
