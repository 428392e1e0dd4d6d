//! What the system tells the recorder of the crate `metrics`.
//!
//! The workers count for themselves, and so do their queues. A task of the system looks at these
//! numbers once in a while and hands them over, so that no message pays for it; only times are
//! recorded where they arise, of a sample.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ::metrics::{Label, Unit, counter, gauge, histogram};
use perennial_persistence::telemetry::label;
use perennial_persistence::telemetry::metric::{self, Kind};

use crate::engine::{Bounded, Registry, Stats, Timing, Timings};

/// Says what every metric is.
pub(crate) fn describe() {
    for metric in metric::ALL {
        match metric.kind {
            Kind::Gauge => ::metrics::describe_gauge!(metric.name, metric.help),
            Kind::Counter => ::metrics::describe_counter!(metric.name, metric.help),
            Kind::Histogram => {
                ::metrics::describe_histogram!(metric.name, Unit::Seconds, metric.help);
            }
        }
    }
}

/// Where the times of a worker's messages go.
pub(crate) fn timings(system: &str, registry: &Registry, worker: usize) -> Timings {
    let labels = Labels::of(system);
    let of_worker = labels.and(label::WORKER, worker.to_string());
    let timing = |queue: &'static str, handle: &'static str, labels: &Labels| Timing {
        queue: histogram!(queue, labels.all()),
        handle: histogram!(handle, labels.all()),
    };
    let of_type = |entity_type| {
        let labels = of_worker.and(label::ENTITY_TYPE, entity_type);
        let (queue, handle) = (metric::ENTITY_QUEUE_TIME, metric::ENTITY_HANDLE_TIME);
        timing(queue, handle, &labels)
    };
    Timings {
        actors: timing(
            metric::ACTOR_QUEUE_TIME,
            metric::ACTOR_HANDLE_TIME,
            &of_worker,
        ),
        types: registry.entity_type_names().map(of_type).collect(),
    }
}

/// Hands over what is counted.
pub(crate) struct Publisher {
    system: String,
    registry: Arc<Registry>,
    stats: Vec<Arc<Stats>>,
}

impl Publisher {
    pub(crate) fn new(system: String, registry: Arc<Registry>, stats: Vec<Arc<Stats>>) -> Self {
        Self {
            system,
            registry,
            stats,
        }
    }

    /// Hands it over again and again, until its runtime ends.
    pub(crate) async fn run(self: Arc<Self>, interval: Duration) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.publish();
        }
    }

    pub(crate) fn publish(&self) {
        let labels = Labels::of(&self.system);
        for (worker, stats) in self.stats.iter().enumerate() {
            self.publish_worker(worker, stats, &labels);
        }
        let dead_letters = self.registry.dead_letters().counts();
        for (reason, count) in dead_letters {
            let labels = labels.and(label::REASON, reason.as_str());
            counter!(metric::DEAD_LETTERS, labels.all()).absolute(count);
        }
        for (bound, count) in self.busy() {
            let labels = labels.and(label::BOUND, bound);
            counter!(metric::BUSY, labels.all()).absolute(count);
        }
        let expired = self.registry.deadlines().map_or(0, |all| all.expired());
        counter!(metric::EXPIRED, labels.all()).absolute(expired);
    }

    fn publish_worker(&self, worker: usize, stats: &Stats, labels: &Labels) {
        let labels = labels.and(label::WORKER, worker.to_string());
        let actors = stats.actors.load(Ordering::Relaxed);
        gauge!(metric::ACTORS, labels.all()).set(number(actors));
        let waiting = self.registry.waiting_at(worker);
        gauge!(metric::QUEUE_DEPTH, labels.all()).set(number(waiting));
        let slices = self.registry.slices_of(worker);
        gauge!(metric::SLICES, labels.all()).set(number(slices));
        for (name, count) in [
            (metric::ACTOR_FAILURES, &stats.actor_failures),
            (metric::ACTOR_RESTARTS, &stats.actor_restarts),
            (metric::SLOW_HANDLERS, &stats.slow_handlers),
            (metric::MOVED_ENTITIES, &stats.moved),
        ] {
            counter!(name, labels.all()).absolute(count.load(Ordering::Relaxed));
        }
        for (entity_type, stats) in self.registry.entity_type_names().zip(&stats.types) {
            let labels = labels.and(label::ENTITY_TYPE, entity_type);
            let resident = stats.resident.load(Ordering::Relaxed);
            gauge!(metric::RESIDENT_ENTITIES, labels.all()).set(number(resident));
            let over_limit = stats.over_limit(resident);
            gauge!(metric::ENTITIES_OVER_LIMIT, labels.all()).set(number(over_limit));
            for (reason, count) in [
                ("idle", &stats.passivated_idle),
                ("limit", &stats.passivated_limit),
            ] {
                let labels = labels.and(label::REASON, reason);
                let count = count.load(Ordering::Relaxed);
                counter!(metric::PASSIVATED_ENTITIES, labels.all()).absolute(count);
            }
            for (name, count) in [
                (metric::FORCED_ENDS, &stats.forced_ends),
                (metric::ENTITY_FAILURES, &stats.failures),
                (metric::RECOVERIES, &stats.recovered),
                (metric::REPLAYED_EVENTS, &stats.replayed),
                (metric::STORED_EVENTS, &stats.stored),
                (metric::SAVED_SNAPSHOTS, &stats.snapshots),
            ] {
                counter!(name, labels.all()).absolute(count.load(Ordering::Relaxed));
            }
        }
    }

    /// How much was refused as busy, by what refused it.
    fn busy(&self) -> Vec<(&'static str, u64)> {
        let mut busy: Vec<_> = Bounded::ALL
            .into_iter()
            .map(|bound| {
                let of_worker = |(worker, stats): (usize, &Arc<Stats>)| {
                    self.registry.busy_count(worker, bound) + stats.busy.of(bound)
                };
                let count = self.stats.iter().enumerate().map(of_worker).sum();
                (bound.as_str(), count)
            })
            .collect();
        let breakers = self.stats.iter().flat_map(|stats| &stats.breakers);
        let refused = breakers.map(|breaker| breaker.report().refused).sum();
        busy.push(("store", refused));
        busy
    }
}

/// Labels of a metric.
struct Labels(Vec<Label>);

impl Labels {
    fn of(system: &str) -> Self {
        Self(vec![Label::new(label::SYSTEM, system.to_owned())])
    }

    fn and(&self, name: &'static str, value: impl Into<::metrics::SharedString>) -> Self {
        let mut labels = self.0.clone();
        labels.push(Label::new(name, value));
        Self(labels)
    }

    fn all(&self) -> Vec<Label> {
        self.0.clone()
    }
}

/// As a gauge has it; exact up to 2^53.
#[allow(clippy::cast_precision_loss)]
fn number(count: usize) -> f64 {
    count as f64
}
