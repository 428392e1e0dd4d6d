//! The one list of span, field and metric names, so that all crates say the same.

/// The target of the spans of messages and of those who handle them: `perennial::message=trace` in a
/// filter turns them on.
pub const MESSAGE_TARGET: &str = "perennial::message";

/// Names of spans: `area.verb`.
pub mod span {
    /// One command of an entity. A root span, which follows from that of the entity.
    pub const HANDLE: &str = "persistence.handle";
    /// One message of a plain actor. A root span, which follows from that of the actor.
    pub const RECEIVE: &str = "actor.receive";
    /// An entity while it is in memory.
    pub const ENTITY: &str = "persistence.entity";
    /// A plain actor.
    pub const ACTOR: &str = "actor.life";
    /// Storing a batch.
    pub const WRITE_EVENTS: &str = "journal.write_events";
}

/// Names of metrics, given to the recorder of the crate `metrics` if the program has one. None has a
/// label per actor or entity. `docs/operations.md` has them for people.
pub mod metric {
    use super::label::{BOUND, ENTITY_TYPE, OVERFLOW, REASON, STORE, SYSTEM, WORKER};

    /// A metric of the list.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    #[non_exhaustive]
    pub struct Metric {
        /// Its name.
        pub name: &'static str,
        /// What it is.
        pub kind: Kind,
        /// The names of its labels.
        pub labels: &'static [&'static str],
        /// What it says, for people.
        pub help: &'static str,
    }

    /// What a metric is.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Kind {
        /// A number that goes up and down.
        Gauge,
        /// A number that only grows.
        Counter,
        /// Times, in seconds.
        Histogram,
    }

    macro_rules! metrics {
        ($($(#[doc = $help:literal])+ $name:ident: $kind:ident = $text:literal, [$($label:ident),*];)+) => {
            $($(#[doc = $help])+ pub const $name: &str = $text;)+

            /// All of them.
            pub const ALL: &[Metric] = &[
                $(Metric {
                    name: $text,
                    kind: Kind::$kind,
                    labels: &[$($label),*],
                    help: concat!($($help),+).trim_ascii(),
                },)+
            ];
        };
    }

    metrics! {
        /// Commands and messages between their senders and their handlers.
        QUEUE_DEPTH: Gauge = "perennial_queue_depth", [SYSTEM, WORKER];
        /// Plain actors that have not ended.
        ACTORS: Gauge = "perennial_actors", [SYSTEM, WORKER];
        /// Failures of plain actors.
        ACTOR_FAILURES: Counter = "perennial_actor_failures_total", [SYSTEM, WORKER];
        /// Restarts of plain actors.
        ACTOR_RESTARTS: Counter = "perennial_actor_restarts_total", [SYSTEM, WORKER];
        /// Entities in memory, recovering ones included.
        RESIDENT_ENTITIES: Gauge = "perennial_resident_entities", [SYSTEM, WORKER, ENTITY_TYPE];
        /// Failures of entities: panics, writes and recoveries that failed. Each begins the entity
        /// anew.
        ENTITY_FAILURES: Counter = "perennial_entity_failures_total", [SYSTEM, WORKER, ENTITY_TYPE];
        /// Entities that are in memory beyond the limit of their type, because they have something
        /// open.
        ENTITIES_OVER_LIMIT: Gauge = "perennial_entities_over_limit", [SYSTEM, WORKER, ENTITY_TYPE];
        /// Entities that left memory because they were idle for long or too many.
        PASSIVATED_ENTITIES: Counter = "perennial_passivated_entities_total", [SYSTEM, WORKER, ENTITY_TYPE, REASON];
        /// Entities that were not done with their last command in time and were ended all the same.
        FORCED_ENDS: Counter = "perennial_forced_ends_total", [SYSTEM, WORKER, ENTITY_TYPE];
        /// Entities that were brought back.
        RECOVERIES: Counter = "perennial_recoveries_total", [SYSTEM, WORKER, ENTITY_TYPE];
        /// Events that were replayed for that.
        REPLAYED_EVENTS: Counter = "perennial_replayed_events_total", [SYSTEM, WORKER, ENTITY_TYPE];
        /// Events, or states, that were stored.
        STORED_EVENTS: Counter = "perennial_stored_events_total", [SYSTEM, WORKER, ENTITY_TYPE];
        /// Snapshots that were saved.
        SAVED_SNAPSHOTS: Counter = "perennial_saved_snapshots_total", [SYSTEM, WORKER, ENTITY_TYPE];
        /// Handlers that took longer than `slow-handler`.
        SLOW_HANDLERS: Counter = "perennial_slow_handlers_total", [SYSTEM, WORKER];
        /// Entities that have gone to another worker, with their slices.
        MOVED_ENTITIES: Counter = "perennial_moved_entities_total", [SYSTEM, WORKER];
        /// Slices that a worker owns.
        SLICES: Gauge = "perennial_slices", [SYSTEM, WORKER];
        /// Messages that were accepted and are not handled.
        DEAD_LETTERS: Counter = "perennial_dead_letters_total", [SYSTEM, REASON];
        /// Commands and messages that were refused as `Busy`.
        BUSY: Counter = "perennial_busy_total", [SYSTEM, BOUND];
        /// Asks whose time ran out before they were handled.
        EXPIRED: Counter = "perennial_expired_total", [SYSTEM];
        /// The time between a message's sender and its handler, of a sample. With
        /// `metrics = "timings"`.
        ACTOR_QUEUE_TIME: Histogram = "perennial_actor_queue_seconds", [SYSTEM, WORKER];
        /// How long an actor handled a message, of a sample. With `metrics = "timings"`.
        ACTOR_HANDLE_TIME: Histogram = "perennial_actor_handle_seconds", [SYSTEM, WORKER];
        /// The time between a command's sender and its handler, of a sample. With
        /// `metrics = "timings"`.
        ENTITY_QUEUE_TIME: Histogram = "perennial_entity_queue_seconds", [SYSTEM, WORKER, ENTITY_TYPE];
        /// How long an entity handled a command, without the store, of a sample. With
        /// `metrics = "timings"`.
        ENTITY_HANDLE_TIME: Histogram = "perennial_entity_handle_seconds", [SYSTEM, WORKER, ENTITY_TYPE];
        /// Pieces of work of work queues that nobody will do.
        WORK_DISCARDED: Counter = "perennial_work_discarded_total", [REASON];
        /// Messages that a subscriber of a topic did not get because its backlog was full, by what the
        /// subscriber has chosen for it.
        TOPIC_LOST: Counter = "perennial_topic_lost_total", [OVERFLOW];
        /// 0 while the store answers, 1 while one call finds out whether it is back, 2 while it counts
        /// as down.
        STORE_BREAKER_STATE: Gauge = "perennial_store_breaker_state", [STORE, WORKER];
        /// How often the store was found slow or down.
        STORE_BREAKER_OPENED: Counter = "perennial_store_breaker_opened_total", [STORE, WORKER];
        /// Commands that were refused meanwhile.
        STORE_BREAKER_REFUSED: Counter = "perennial_store_breaker_refused_total", [STORE, WORKER];
    }
}

/// Names of the labels of metrics.
pub mod label {
    /// The name of a store's plugin.
    pub const STORE: &str = "store";
    /// The number of a worker, from 0.
    pub const WORKER: &str = "worker";
    /// The name of a system, `system.name`.
    pub const SYSTEM: &str = "system";
    /// The name of an entity type.
    pub const ENTITY_TYPE: &str = "entity_type";
    /// Why something happened.
    pub const REASON: &str = "reason";
    /// What was full, or slow or down.
    pub const BOUND: &str = "bound";
    /// What happens to a message that there is no room for.
    pub const OVERFLOW: &str = "overflow";
}

/// Names of fields.
pub mod field {
    /// The whole persistence id.
    pub const PERSISTENCE_ID: &str = "persistence_id";
    /// The entity type.
    pub const ENTITY_TYPE: &str = "entity_type";
    /// The slice, 0 to 1,023.
    pub const SLICE: &str = "slice";
    /// A sequence number.
    pub const SEQ_NR: &str = "seq_nr";
    /// A number of events.
    pub const EVENTS: &str = "events";
    /// Which attempt, from 1.
    pub const ATTEMPT: &str = "attempt";
    /// Milliseconds.
    pub const ELAPSED_MS: &str = "elapsed_ms";
    /// What went wrong.
    pub const ERROR: &str = "error";
}
