//! The end of an entity that leaves memory although it did not ask for it.
//!
//! Its type may have a command for that. The entity handles it as any other, with events, futures and
//! all, and stops after it; what comes meanwhile is the next incarnation's. It has a bounded time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use crate::engine::cell::{Barrier, Cell, Next};
use crate::engine::core::{CellTimer, Core};
use crate::engine::panic_message;
use crate::event_sourced::{EntityDef, EventSourced};

impl<E: EventSourced> Cell<E> {
    /// Gives an idle entity the command for its end, if its type has one; it goes when that is done.
    /// `false` if it can go right now.
    pub(crate) fn begin_to_leave(&mut self, entity: &EntityDef<E>, core: &mut Core) -> bool {
        let Some(last) = &entity.last_command else {
            return false;
        };
        if !self.is_ready() || self.leaving.is_some() {
            return false;
        }
        match catch_unwind(AssertUnwindSafe(|| last(&self.address))) {
            Ok(command) => {
                let after = entity.config.stop_timeout;
                self.leaving = Some(core.start_cell_timer(after, self.key, CellTimer::Leave));
                self.queue.push_back(command);
                true
            }
            Err(panic) => {
                tracing::error!(
                    persistence_id = %self.address.persistence_id(),
                    place = "on_passivate",
                    error = %panic_message(&*panic),
                    "the entity panicked, it leaves without its last command"
                );
                false
            }
        }
    }

    /// The command for the end was handled, or put aside by its handler.
    pub(super) fn last_handled(&mut self, entity: &EntityDef<E>, core: &mut Core) {
        if !self.is_ready() {
            return;
        }
        if let Some(barrier) = &mut self.barrier {
            // Otherwise a future runs first, and what it comes back with is handled as the last.
            barrier.stop |= barrier.later.is_none();
            return;
        }
        let futures = self.laters.iter().map(|later| &later.command);
        let is_to_come = futures.chain(&self.stash).any(|command| command.is_last());
        if !is_to_come {
            let barrier = Barrier {
                actions: Vec::new(),
                stop: true,
                later: None,
            };
            self.set_barrier(entity, core, barrier);
        }
    }

    /// The time for its end is over.
    pub(super) fn force_end(&mut self, entity: &EntityDef<E>, core: &mut Core) {
        if self.leaving.is_none() {
            return;
        }
        let forced = &core.stats.types[self.key.host].forced_ends;
        forced.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(
            persistence_id = %self.address.persistence_id(),
            "the entity was not done with its last command within {:?} (`stop-timeout`), it is \
             ended all the same",
            entity.config.stop_timeout
        );
        self.give_up(core, Next::Stop);
    }

    /// It has ended, or goes on. Gives whether it was to leave.
    pub(crate) fn end_leaving(&mut self, core: &mut Core) -> bool {
        let Some(timer) = self.leaving.take() else {
            return false;
        };
        core.cancel_timer(timer);
        // It may not have come to its last command, or have put that aside.
        self.queue.retain(|command| !command.is_last());
        true
    }
}
