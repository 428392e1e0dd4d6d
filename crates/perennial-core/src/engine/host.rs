//! The cells of one entity type on one worker, and the faces they show to the worker.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use perennial_persistence::{Error, PersistenceId, Previous, SerializedPayload};
use slab::Slab;

use crate::engine::cell::{Cell, Peek, Whereabouts};
use crate::engine::core::{CellTimer, Core};
use crate::engine::envelope::{Delivery, Queued};
use crate::engine::journal_writer::{Gathered, Settled, WriteItem};
use crate::engine::{Address, CellKey, DeletionDone, LaterDone, ReadDone, panic_message};
use crate::error::{AskError, RecoveryFailed, chain};
use crate::event_sourced::{EntityDef, EventSourced, MakeDelivery};
use crate::fsm::MachineHooks;

/// A host whose entity type is not known.
pub(crate) trait AnyHost: Any + Send {
    /// A command for an entity of this type.
    fn receive(&mut self, core: &mut Core, command: Box<dyn Delivery>);
    /// The command of a reminder, on its way.
    ///
    /// # Errors
    /// Why it is none.
    fn remind(
        &self,
        payload: &SerializedPayload,
        address: &Arc<Address>,
    ) -> Result<MakeDelivery, Arc<str>>;
    /// Runs a cell's share of a turn.
    fn run(&mut self, core: &mut Core, key: CellKey);
    /// A part of a cell's history has come.
    fn read(&mut self, core: &mut Core, read: ReadDone);
    /// What the journal knows of the event before a cell's next one, right before a write of it is
    /// sent; `None` if the write must not be sent.
    /// A write without events takes it from none that follow.
    fn previous(&mut self, core: &Core, key: CellKey, has_events: bool) -> Option<Previous>;
    /// Whether a gathered write of a cell must not be sent, as an earlier one has failed.
    fn is_doomed(&self, key: CellKey) -> bool;
    /// A gathered write that must not be sent.
    fn overtaken(&mut self, core: &mut Core, gathered: Gathered);
    /// The fate of a write.
    fn settled(&mut self, core: &mut Core, item: WriteItem, outcome: Settled);
    /// The end of a future.
    fn later_done(&mut self, core: &mut Core, done: LaterDone);
    /// The end of a snapshot's way.
    fn snapshot_saved(&mut self, core: &mut Core, key: CellKey, result: Result<(), Error>);
    /// The end of a deletion.
    fn events_deleted(&mut self, core: &mut Core, done: DeletionDone);
    /// A cell's timer.
    fn timer(&mut self, core: &mut Core, key: CellKey, timer: CellTimer);
    /// Forgets cells that have been idle for long enough.
    fn passivate(&mut self, core: &mut Core);
    /// The system stops: forgets every cell as soon as it has nothing to do.
    fn drain(&mut self, core: &mut Core);
    /// Whether no cell is left.
    fn is_empty(&self) -> bool;
    /// How many entries stand among the idle ones.
    #[cfg(test)]
    fn idle_entries(&self) -> usize;
}

/// The cells of one entity type.
pub(crate) struct Host<E: EventSourced> {
    index: usize,
    entity: Arc<EntityDef<E>>,
    cells: Slab<Cell<E>>,
    /// Cells that had nothing to do, the one that is due first at the front. A cell stands here
    /// once at the most; whether it is still idle is seen when its time has come.
    idle: VecDeque<(Duration, CellKey)>,
    /// State machines that are observed while they are not in memory.
    observed: HashMap<PersistenceId, MachineHooks<E>>,
}

impl<E: EventSourced> Host<E> {
    pub(crate) fn new(index: usize, entity: Arc<EntityDef<E>>) -> Self {
        Self {
            index,
            entity,
            cells: Slab::new(),
            idle: VecDeque::new(),
            observed: HashMap::new(),
        }
    }

    /// Runs `action` on a cell, if that incarnation is still there, and then does with the cell
    /// what its new condition asks for.
    fn with(
        &mut self,
        core: &mut Core,
        key: CellKey,
        action: impl FnOnce(&mut Cell<E>, &EntityDef<E>, &mut Core),
    ) {
        if let Some(cell) = self.cells.get_mut(key.index)
            && cell.key().incarnation == key.incarnation
        {
            action(cell, &self.entity, core);
            self.place(core, key.index);
        }
    }

    /// Puts a cell where it belongs now: into the run queue, among the idle ones, or nowhere.
    fn place(&mut self, core: &mut Core, index: usize) {
        let Some(cell) = self.cells.get_mut(index) else {
            return;
        };
        match cell.whereabouts(&self.entity, core.draining) {
            Whereabouts::Runnable => cell.schedule(core),
            Whereabouts::Waiting => {}
            Whereabouts::Idle => {
                cell.shrink();
                if let Some(after) = self.entity.config.passivate_after
                    && cell.list_as_idle()
                {
                    let at = core.now.saturating_add(after);
                    if self.idle.is_empty() {
                        core.start_idle_timer(at, self.index);
                    }
                    self.idle.push_back((at, cell.key()));
                }
            }
            Whereabouts::Gone => self.remove(core, index),
        }
    }

    /// Adds a cell, which recovers when it gets its first command.
    fn add(&mut self, core: &mut Core, address: Arc<Address>) -> Result<usize, Arc<str>> {
        let entry = self.cells.vacant_entry();
        let index = entry.key();
        let key = CellKey {
            host: self.index,
            index,
            incarnation: core.next_incarnation(),
        };
        let mut cell = Cell::new(key, Arc::clone(&address), core)?;
        if let Some(machine) = self.observed.remove(address.persistence_id()) {
            cell.take_over(machine);
        }
        address.set_cell(Some(index));
        entry.insert(cell);
        core.stats.resident.fetch_add(1, Ordering::Relaxed);
        let of_type = &core.stats.types[self.index].resident;
        of_type.fetch_add(1, Ordering::Relaxed);
        Ok(index)
    }

    /// Brings an entity back without a command.
    pub(crate) fn wake(&mut self, core: &mut Core, address: &Arc<Address>) {
        if address.cell().is_none()
            && let Ok(index) = self.add(core, Arc::clone(address))
        {
            self.cells[index].wake(core);
            self.place(core, index);
        }
    }

    /// What is to be seen of a cell from outside.
    pub(crate) fn peek(&self, index: usize) -> Option<Peek<'_, E>> {
        self.cells.get(index).map(Cell::peek)
    }

    fn remove(&mut self, core: &mut Core, index: usize) {
        let mut cell = self.cells.remove(index);
        cell.cancel_timers(core);
        if let Some(machine) = cell.observed_machine() {
            let id = cell.address().persistence_id().clone();
            self.observed.insert(id, machine);
        }
        cell.address().set_cell(None);
        core.stats.resident.fetch_sub(1, Ordering::Relaxed);
        let of_type = &core.stats.types[self.index].resident;
        of_type.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<E: EventSourced> AnyHost for Host<E> {
    fn receive(&mut self, core: &mut Core, command: Box<dyn Delivery>) {
        let there = command.address().cell();
        let has_state = there
            .and_then(|index| self.cells.get(index))
            .is_some_and(Cell::needs_no_recovery);
        if there.is_none()
            && let Err(busy) = core.may_come(command.address().persistence_id())
        {
            return command.refuse(busy);
        }
        if !has_state && let Err(busy) = core.admit(self.entity.store) {
            return command.refuse(busy);
        }
        let index = match there {
            Some(index) => index,
            None => match self.add(core, Arc::clone(command.address())) {
                Ok(index) => index,
                Err(reason) => {
                    let persistence_id = command.address().persistence_id().clone();
                    tracing::error!(%persistence_id, error = %reason, "the entity panicked");
                    return command.refuse(AskError::RecoveryFailed(RecoveryFailed {
                        persistence_id,
                        seq_nr: None,
                        reason,
                    }));
                }
            },
        };
        let mut landing: Option<Box<dyn Queued<E>>> = None;
        command.land(&mut landing);
        let Some(command) = landing else {
            return;
        };
        if let Some(cell) = self.cells.get_mut(index) {
            cell.enqueue(core, command);
        }
        self.place(core, index);
    }

    fn remind(
        &self,
        payload: &SerializedPayload,
        address: &Arc<Address>,
    ) -> Result<MakeDelivery, Arc<str>> {
        let commands = &self.entity.commands;
        catch_unwind(AssertUnwindSafe(|| commands.remind(payload, address)))
            .map_err(|panic| panic_message(&*panic))?
            .map_err(|error| chain(&error))
    }

    fn run(&mut self, core: &mut Core, key: CellKey) {
        self.with(core, key, |cell, entity, core| cell.run(entity, core));
    }

    fn read(&mut self, core: &mut Core, read: ReadDone) {
        let key = read.request.key;
        self.with(core, key, |cell, entity, core| {
            cell.read_done(entity, core, read);
        });
    }

    fn previous(&mut self, core: &Core, key: CellKey, has_events: bool) -> Option<Previous> {
        self.cells
            .get_mut(key.index)
            .filter(|cell| cell.key().incarnation == key.incarnation)
            .and_then(|cell| cell.previous(core, has_events))
    }

    fn is_doomed(&self, key: CellKey) -> bool {
        self.cells
            .get(key.index)
            .is_none_or(|cell| cell.key().incarnation != key.incarnation || cell.is_doomed())
    }

    fn overtaken(&mut self, core: &mut Core, gathered: Gathered) {
        let key = gathered.key;
        self.with(core, key, |cell, _, core| cell.overtaken(core, gathered));
    }

    fn settled(&mut self, core: &mut Core, item: WriteItem, outcome: Settled) {
        let key = item.key;
        self.with(core, key, |cell, entity, core| {
            cell.settled(entity, core, item, outcome);
        });
    }

    fn later_done(&mut self, core: &mut Core, done: LaterDone) {
        let key = done.key;
        self.with(core, key, |cell, _, core| cell.later_done(core, done));
    }

    fn snapshot_saved(&mut self, core: &mut Core, key: CellKey, result: Result<(), Error>) {
        // The save outlives a restart, so the cell's present incarnation is told.
        let Some(cell) = self.cells.get_mut(key.index) else {
            return;
        };
        cell.snapshot_saved(&self.entity, core, key, result);
        self.place(core, key.index);
    }

    fn events_deleted(&mut self, core: &mut Core, done: DeletionDone) {
        // It outlives a restart too; the cell knows its tokens.
        let index = done.key.index;
        let Some(cell) = self.cells.get_mut(index) else {
            return;
        };
        cell.events_deleted(&self.entity, core, done);
        self.place(core, index);
    }

    fn timer(&mut self, core: &mut Core, key: CellKey, timer: CellTimer) {
        self.with(core, key, |cell, entity, core| {
            cell.timer(entity, core, timer);
        });
    }

    fn passivate(&mut self, core: &mut Core) {
        let Some(after) = self.entity.config.passivate_after else {
            return;
        };
        while let Some((at, key)) = self.idle.front().copied() {
            if at > core.now {
                core.start_idle_timer(at, self.index);
                break;
            }
            self.idle.pop_front();
            let Some(cell) = self.cells.get_mut(key.index) else {
                continue;
            };
            if !cell.unlist(key) {
                continue;
            }
            if matches!(
                cell.whereabouts(&self.entity, core.draining),
                Whereabouts::Idle
            ) {
                let due = cell.last_active().saturating_add(after);
                if due <= core.now {
                    self.remove(core, key.index);
                } else {
                    cell.list_as_idle();
                    self.idle.push_back((due, cell.key()));
                    if self.idle.len() == 1 {
                        core.start_idle_timer(due, self.index);
                        break;
                    }
                }
            }
        }
    }

    fn drain(&mut self, core: &mut Core) {
        let cells: Vec<usize> = self.cells.iter().map(|(index, _)| index).collect();
        for index in cells {
            if let Some(cell) = self.cells.get_mut(index) {
                cell.drain(core);
            }
            self.place(core, index);
        }
    }

    fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    #[cfg(test)]
    fn idle_entries(&self) -> usize {
        self.idle.len()
    }
}

impl<E: EventSourced> Drop for Host<E> {
    fn drop(&mut self) {
        for (_, cell) in &self.cells {
            let (waiting, begun) = cell.unfinished();
            if waiting + begun > 0 {
                let address = cell.address();
                address.registry().note_cut_off(|cut_off| {
                    cut_off.add_entity(address.persistence_id(), waiting, begun);
                });
            }
        }
    }
}
