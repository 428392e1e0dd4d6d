//! What a handler sees besides the state and the command.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use perennial_persistence::{PersistenceId, SequenceNr, Timestamp, telemetry};

use crate::engine::Address;
use crate::entity_ref::EntityRef;
use crate::event_sourced::EventSourced;
use crate::event_sourced::timers::{TimerOp, Timers};

/// The context of one handler call: who the entity is, and the makers of effects.
pub struct Cx<'a, E: EventSourced> {
    pub(crate) address: &'a Arc<Address>,
    pub(crate) seq_nr: SequenceNr,
    pub(crate) services: &'a E::Services,
    pub(crate) now: Timestamp,
    /// Which entry into a state is the latest, for a state machine.
    pub(crate) entry: u64,
    pub(crate) timer_ops: &'a RefCell<Vec<TimerOp<E>>>,
}

impl<'a, E: EventSourced> Cx<'a, E> {
    /// The entity's whole id.
    pub fn persistence_id(&self) -> &'a PersistenceId {
        self.address.persistence_id()
    }

    /// The entity's id within its type.
    pub fn entity_id(&self) -> &'a str {
        self.address.persistence_id().entity_id()
    }

    /// The number of the last event in the state, [`SequenceNr::ZERO`] before the first.
    pub fn sequence_nr(&self) -> SequenceNr {
        self.seq_nr
    }

    /// What was given to the entity type when the system was started.
    pub fn services(&self) -> &'a E::Services {
        self.services
    }

    /// The time, by the system's clock.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// A reference to the entity itself, for others or for `then_run`.
    pub fn myself(&self) -> EntityRef<E> {
        EntityRef::new(Arc::clone(self.address))
    }

    /// The entity's timers.
    pub fn timers(&self) -> Timers<'_, E> {
        Timers {
            ops: self.timer_ops,
        }
    }

    /// A span that names the entity, for logs of the handler.
    pub fn span(&self) -> tracing::Span {
        tracing::info_span!(
            telemetry::span::HANDLE,
            persistence_id = %self.address.persistence_id(),
            seq_nr = self.seq_nr.value(),
        )
    }
}

impl<E: EventSourced> fmt::Debug for Cx<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cx")
            .field("persistence_id", self.address.persistence_id())
            .field("seq_nr", &self.seq_nr)
            .finish_non_exhaustive()
    }
}
