//! The one list of span and field names, so that all crates say the same.

/// Names of spans: `area.verb`.
pub mod span {
    /// One handler call.
    pub const HANDLE: &str = "persistence.handle";
    /// Storing a batch.
    pub const WRITE_EVENTS: &str = "journal.write_events";
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
