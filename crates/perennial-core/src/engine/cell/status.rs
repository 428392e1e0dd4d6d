//! How it stands with a cell, and what it waits for.

use crate::engine::cell::{Cell, Next, Phase, Upkeep};
use crate::engine::core::Core;
use crate::entity_status::{EntityPhase, EntityStatus, WaitsFor};
use crate::event_sourced::{EntityDef, EventSourced};

impl<E: EventSourced> Cell<E> {
    /// How it stands with the entity right now.
    pub(crate) fn status(&self, entity: &EntityDef<E>, core: &Core) -> EntityStatus {
        let phase = match &self.phase {
            Phase::Waiting => EntityPhase::Waiting,
            Phase::Recovering(_) => EntityPhase::Recovering,
            Phase::Ready if self.leaving.is_some() => EntityPhase::Stopping,
            Phase::Ready => EntityPhase::Ready,
            Phase::Draining(Next::Stop) | Phase::Stopped => EntityPhase::Stopping,
            Phase::Draining(Next::Restart { .. }) => EntityPhase::Restarting,
            Phase::Draining(Next::Move { .. }) | Phase::Left => EntityPhase::Moving,
            Phase::Backoff { failure: None, .. } => EntityPhase::BackingOff,
            Phase::Backoff {
                failure: Some(_), ..
            } => EntityPhase::Unrecoverable,
            Phase::Down => EntityPhase::Down,
        };
        EntityStatus {
            persistence_id: self.address.persistence_id().clone(),
            worker: self.address.worker(),
            phase,
            phase_for: Some(core.now.saturating_sub(self.phase_since)),
            idle_for: Some(core.now.saturating_sub(self.last_active)),
            sequence_nr: self.seq_nr,
            queued: self.queue.len(),
            stashed: self.stash.len(),
            writes: self.in_flight.len(),
            futures: self.laters.len(),
            timers: self.timers.iter().filter(|timer| !timer.is_over()).count(),
            failures: self.failures,
            is_saving: !matches!(self.upkeep, Upkeep::None) || !self.deletions.is_empty(),
            failure: match &self.phase {
                Phase::Backoff { failure, .. } => failure.as_deref().cloned(),
                _ => None,
            },
            waits_for: self.waits_for(entity, core),
        }
    }

    fn waits_for(&self, entity: &EntityDef<E>, core: &Core) -> Vec<WaitsFor> {
        let mut all = Vec::new();
        let since = |at| core.now.saturating_sub(at);
        match &self.phase {
            Phase::Waiting => match core.ahead_of(self.key) {
                Some(ahead) => all.push(WaitsFor::Permit { ahead }),
                None => all.push(WaitsFor::Turn),
            },
            Phase::Recovering(recovering) if recovering.has_work() => all.push(WaitsFor::Turn),
            Phase::Recovering(recovering) => all.push(WaitsFor::History {
                failures: recovering.failures,
            }),
            Phase::Backoff { until, .. } => all.push(WaitsFor::Backoff {
                left: until.saturating_sub(core.now),
            }),
            _ => {}
        }
        if let Some(oldest) = self.in_flight.front() {
            all.push(WaitsFor::Writes {
                number: self.in_flight.len(),
                oldest: since(oldest.since),
            });
        }
        if self
            .commands
            .as_ref()
            .is_some_and(|known| known.is_reading())
        {
            all.push(WaitsFor::Replies);
        }
        let of_store = |waits: &WaitsFor| {
            matches!(
                waits,
                WaitsFor::History { .. } | WaitsFor::Writes { .. } | WaitsFor::Replies
            )
        };
        if all.iter().any(of_store) && core.is_away(entity.store) {
            all.push(WaitsFor::Store);
        }
        all.extend(self.laters.iter().map(|later| WaitsFor::Future {
            command: later.command.command_name(),
            running_for: since(later.since),
            is_interleaved: later.interleaved,
        }));
        if self.is_ready() {
            if self.can_handle(entity) {
                all.push(WaitsFor::Turn);
            } else if self.queue.is_empty() && !self.stash.is_empty() {
                all.push(WaitsFor::Unstash);
            }
        }
        all
    }
}
