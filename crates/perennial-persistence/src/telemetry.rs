//! The one list of span, field and metric names, so that all crates say the same.

/// Names of spans: `area.verb`.
pub mod span {
    /// One handler call.
    pub const HANDLE: &str = "persistence.handle";
    /// One message of a plain actor.
    pub const RECEIVE: &str = "actor.receive";
    /// Storing a batch.
    pub const WRITE_EVENTS: &str = "journal.write_events";
}

/// Names of metrics, given to the recorder of the crate `metrics` if the program has one. Labels are
/// [`label`]s.
pub mod metric {
    /// A gauge per store and worker: 0 while the store answers, 1 while one call finds out whether
    /// it is back, 2 while it counts as down.
    pub const STORE_BREAKER_STATE: &str = "perennial_store_breaker_state";
    /// A counter per store and worker: how often the store was found slow or down.
    pub const STORE_BREAKER_OPENED: &str = "perennial_store_breaker_opened_total";
    /// A counter per store and worker: commands that were refused meanwhile.
    pub const STORE_BREAKER_REFUSED: &str = "perennial_store_breaker_refused_total";
    /// A counter by reason: messages to plain actors that were accepted and are not handled.
    pub const DEAD_LETTERS: &str = "perennial_dead_letters_total";
    /// A counter by reason: pieces of work of work queues that nobody will do.
    pub const WORK_DISCARDED: &str = "perennial_work_discarded_total";
    /// A counter by what the subscriber has chosen for it: messages that a subscriber of a topic did
    /// not get because its backlog was full.
    pub const TOPIC_LOST: &str = "perennial_topic_lost_total";
}

/// Names of the labels of metrics.
pub mod label {
    /// The name of a store's plugin.
    pub const STORE: &str = "store";
    /// The number of a worker, from 0.
    pub const WORKER: &str = "worker";
    /// Why something happened.
    pub const REASON: &str = "reason";
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
