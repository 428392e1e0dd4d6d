//! The cells of one entity type on one worker, and the faces they show to the worker.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::hash::Hasher;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use perennial_persistence::{Error, PersistenceId, Previous, SerializedPayload};
use siphasher::sip::SipHasher13;
use slab::Slab;

use crate::engine::cell::{Cell, Peek, Whereabouts};
use crate::engine::core::{CellTimer, Core};
use crate::engine::envelope::{Delivery, Queued};
use crate::engine::journal_writer::{Gathered, Settled, WriteItem};
use crate::engine::replacement::Residents;
use crate::engine::{
    Address, Arrival, Baggage, CellKey, DeletionDone, Input, LaterDone, ReadDone, panic_message,
};
use crate::entity_status::EntityStatus;
use crate::error::{AskError, RecoveryFailed, chain};
use crate::event_sourced::{EntityDef, EventSourced, MakeDelivery, Signal};
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
    /// A place for a command, which was taken before its entity left, was given back.
    fn withdrawn(&mut self, core: &mut Core, id: &PersistenceId);
    /// An entity has come from another worker.
    fn arrived(&mut self, core: &mut Core, arrival: Arrival);
    /// A cell's timer.
    fn timer(&mut self, core: &mut Core, key: CellKey, timer: CellTimer);
    /// Forgets cells that have been idle for long enough.
    fn passivate(&mut self, core: &mut Core);
    /// The system stops: forgets every cell as soon as it has nothing to do.
    fn drain(&mut self, core: &mut Core);
    /// How it stands with an entity.
    fn status(&self, core: &Core, address: &Arc<Address>) -> EntityStatus;
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
    /// Whether a timer is set for them.
    is_watching: bool,
    /// Says who leaves; there if the number of entities has a limit.
    residents: Option<Residents>,
    /// State machines that are observed while they are not in memory.
    observed: HashMap<PersistenceId, Observed<E>>,
    /// Entities that go to another worker.
    moving: HashMap<PersistenceId, Moving<E>>,
    /// What has come for entities that are still on their way from another worker.
    arriving: HashMap<PersistenceId, Commands<E>>,
}

/// A state machine that is observed while it is not in memory. It keeps its address, so that its
/// entity comes here, or comes by here on its way to another worker.
struct Observed<E: EventSourced> {
    machine: MachineHooks<E>,
    _kept: Arc<Address>,
}

type Commands<E> = VecDeque<Box<dyn Queued<E>>>;

/// An entity that goes to another worker, as soon as all commands have come that were sent to it
/// here.
struct Moving<E: EventSourced> {
    address: Arc<Address>,
    to: usize,
    /// How many are still to come.
    pending: usize,
    /// Its cell, if it is in memory.
    cell: Option<usize>,
    /// What has come, if it is not.
    commands: Commands<E>,
}

/// What goes with it.
struct Luggage<E: EventSourced> {
    commands: Commands<E>,
    /// Its machine, if that is observed.
    machine: Option<MachineHooks<E>>,
    /// What it is still to be told.
    signals: VecDeque<Signal>,
}

impl<E: EventSourced> Baggage for Luggage<E> {
    fn refuse(self: Box<Self>) {
        for command in self.commands {
            command.fail(AskError::Stopped);
        }
    }
}

impl<E: EventSourced> Host<E> {
    /// The host of a worker that may have `limit` of the entities in memory, or any number if that
    /// is 0.
    pub(crate) fn new(index: usize, entity: Arc<EntityDef<E>>, limit: usize) -> Self {
        let config = &entity.config;
        let residents = || Residents::new(limit, config.replacement, config.protected_percent);
        Self {
            index,
            residents: (limit > 0).then(residents),
            entity,
            cells: Slab::new(),
            idle: VecDeque::new(),
            is_watching: false,
            observed: HashMap::new(),
            moving: HashMap::new(),
            arriving: HashMap::new(),
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
        let elsewhere = core
            .belongs_elsewhere(self.index, cell.address().persistence_id())
            .filter(|_| cell.may_move());
        let has_last = self.entity.last_command.is_some() && cell.is_ready();
        if let Some(to) = elsewhere
            && !has_last
        {
            return self.send_away(core, index, to);
        }
        let whereabouts = cell.whereabouts(&self.entity, core.draining);
        if let Some(residents) = &mut self.residents {
            match whereabouts {
                Whereabouts::Idle => residents.idle(index),
                _ => residents.busy(index),
            }
        }
        match whereabouts {
            Whereabouts::Left => {
                let id = cell.address().persistence_id().clone();
                self.depart(core, &id);
            }
            Whereabouts::Runnable => cell.schedule(core),
            Whereabouts::Waiting => {}
            // It handles the command for its end, and moves with the next one.
            Whereabouts::Idle if elsewhere.is_some() => self.leave(core, index),
            Whereabouts::Idle => {
                cell.shrink();
                if let Some(after) = self.entity.config.passivate_after
                    && cell.list_as_idle()
                {
                    let at = core.now.saturating_add(after);
                    self.idle.push_back((at, cell.key()));
                    self.watch_idle(core, at);
                    self.forget_trails();
                }
                self.make_room(core);
            }
            Whereabouts::Gone => {
                let id = cell.address().persistence_id().clone();
                if self.moving.contains_key(&id) {
                    self.remove(core, index);
                    if let Some(moving) = self.moving.get_mut(&id) {
                        moving.cell = None;
                    }
                    self.depart(core, &id);
                } else {
                    self.leave(core, index);
                }
            }
        }
    }

    /// Has a timer while cells stand among the idle ones.
    fn watch_idle(&mut self, core: &mut Core, at: Duration) {
        if !std::mem::replace(&mut self.is_watching, true) {
            core.start_idle_timer(at, self.index);
        }
    }

    /// Takes out what removed cells have left among the idle ones, when that is most of it.
    fn forget_trails(&mut self) {
        const FEW: usize = 64;
        if self.idle.len() > 2 * self.cells.len() + FEW {
            let cells = &self.cells;
            self.idle.retain(|(_, key)| {
                let cell = cells.get(key.index);
                cell.is_some_and(|cell| cell.is_listed_as(*key))
            });
        }
    }

    /// Has entities leave while there are more than may be and one of them can.
    fn make_room(&mut self, core: &mut Core) {
        while let Some(victim) = self.residents.as_mut().and_then(Residents::victim) {
            let of_type = &core.stats.types[self.index].passivated_limit;
            of_type.fetch_add(1, Ordering::Relaxed);
            self.leave(core, victim);
        }
    }

    /// Has an entity leave that has nothing to do: at once, or when it has handled the command that
    /// its type has for that.
    fn leave(&mut self, core: &mut Core, index: usize) {
        let Some(cell) = self.cells.get_mut(index) else {
            return;
        };
        if cell.begin_to_leave(&self.entity, core) {
            self.place(core, index);
        } else {
            self.remove(core, index);
        }
    }

    /// An entity in memory goes to another worker.
    fn send_away(&mut self, core: &mut Core, index: usize, to: usize) {
        let Some(cell) = self.cells.get_mut(index) else {
            return;
        };
        let address = Arc::clone(cell.address());
        let sent = address.depart(to);
        let here = cell.leave_for_another_worker(core);
        let id = address.persistence_id().clone();
        let moving = Moving {
            address,
            to,
            pending: sent.saturating_sub(here),
            cell: Some(index),
            commands: Commands::new(),
        };
        self.moving.insert(id.clone(), moving);
        self.place(core, index);
    }

    /// Sends an entity to its new worker, if there is nothing more to wait for.
    fn depart(&mut self, core: &mut Core, id: &PersistenceId) {
        let Some(moving) = self.moving.get(id) else {
            return;
        };
        let has_left = moving.cell.is_none_or(|cell| {
            let cell = self.cells.get(cell);
            cell.is_some_and(|cell| {
                matches!(
                    cell.whereabouts(&self.entity, core.draining),
                    Whereabouts::Left
                )
            })
        });
        if moving.pending > 0 || !has_left {
            return;
        }
        let Some(mut moving) = self.moving.remove(id) else {
            return;
        };
        let mut signals = VecDeque::new();
        if let Some(index) = moving.cell {
            signals = self.cells[index].take_signals();
            let mut commands = self.cells[index].take_queue();
            commands.append(&mut moving.commands);
            moving.commands = commands;
            self.remove(core, index);
        }
        for command in &mut moving.commands {
            command.move_place(moving.to);
        }
        let luggage = Luggage {
            commands: moving.commands,
            machine: self.observed.remove(id).map(|observed| observed.machine),
            signals,
        };
        core.stats.moved.fetch_add(1, Ordering::Relaxed);
        let registry = Arc::clone(moving.address.registry());
        let arrival = Input::Arrived(Box::new(Arrival {
            address: moving.address,
            baggage: Box::new(luggage),
        }));
        if let Err(input) = registry.send(moving.to, arrival) {
            input.refuse();
        }
    }

    /// A command has come whose entity is not here, or will not be for long.
    fn redirect(&mut self, core: &mut Core, command: Box<dyn Delivery>) {
        let address = Arc::clone(command.address());
        let id = address.persistence_id();
        let home = address.home();
        if home.worker() == core.worker() {
            if home.is_on_its_way() {
                let commands = self.arriving.entry(id.clone()).or_default();
                commands.extend(landed(command));
                return;
            }
            // It is not in memory, so it moves with this command.
            let to = core
                .belongs_elsewhere(self.index, id)
                .unwrap_or(core.worker());
            let moving = Moving {
                to,
                pending: address.depart(to),
                address: Arc::clone(&address),
                cell: None,
                commands: Commands::new(),
            };
            self.moving.insert(id.clone(), moving);
        }
        let Some(moving) = self.moving.get_mut(id) else {
            // One that needs no place, and came after all that do.
            address.send(home.worker(), command);
            return;
        };
        if let Some(command) = landed::<E>(command) {
            moving.pending = moving
                .pending
                .saturating_sub(usize::from(command.has_place()));
            match moving.cell.and_then(|cell| self.cells.get_mut(cell)) {
                Some(cell) => cell.arrived_late(command),
                None => moving.commands.push_back(command),
            }
        }
        self.depart(core, id);
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
        if let Some(observed) = self.observed.remove(address.persistence_id()) {
            cell.take_over(observed.machine);
        }
        address.set_cell(Some(index));
        entry.insert(cell);
        core.stats.resident.fetch_add(1, Ordering::Relaxed);
        let of_type = &core.stats.types[self.index];
        of_type.add_resident(address.persistence_id().slice());
        if let Some(residents) = &mut self.residents {
            residents.insert(index, hash_of(address.persistence_id()));
            self.make_room(core);
        }
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
        cell.end_leaving(core);
        if let Some(residents) = &mut self.residents {
            residents.remove(index);
        }
        if let Some(machine) = cell.observed_machine() {
            let address = Arc::clone(cell.address());
            let id = address.persistence_id().clone();
            let observed = Observed {
                machine,
                _kept: address,
            };
            self.observed.insert(id, observed);
        }
        cell.address().set_cell(None);
        core.stats.resident.fetch_sub(1, Ordering::Relaxed);
        let slice = cell.address().persistence_id().slice();
        core.stats.types[self.index].remove_resident(slice);
    }
}

/// An entity cannot be brought into memory, as its state's `Default` has panicked.
fn cannot_begin(id: &PersistenceId, reason: Arc<str>) -> RecoveryFailed {
    tracing::error!(persistence_id = %id, error = %reason, "the entity panicked");
    RecoveryFailed {
        persistence_id: id.clone(),
        seq_nr: None,
        reason,
    }
}

/// A command, as the host of its type sees it.
fn landed<E: EventSourced>(command: Box<dyn Delivery>) -> Option<Box<dyn Queued<E>>> {
    let mut landing: Option<Box<dyn Queued<E>>> = None;
    command.land(&mut landing);
    landing
}

/// A hash of an id, by which it is remembered how often the entity is used. It goes nowhere else, and
/// is the same in every run, as whatever a worker decides by.
fn hash_of(id: &PersistenceId) -> u32 {
    let mut hasher = SipHasher13::new();
    hasher.write(id.as_str().as_bytes());
    let [first, second, third, fourth, ..] = hasher.finish().to_le_bytes();
    u32::from_le_bytes([first, second, third, fourth])
}

impl<E: EventSourced> AnyHost for Host<E> {
    fn receive(&mut self, core: &mut Core, command: Box<dyn Delivery>) {
        let address = command.address();
        let home = address.home();
        if home.worker() != core.worker()
            || home.is_on_its_way()
            || core
                .belongs_elsewhere(self.index, address.persistence_id())
                .is_some_and(|_| address.cell().is_none())
        {
            return self.redirect(core, command);
        }
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
            Some(index) => {
                if let Some(residents) = &mut self.residents {
                    residents.used(index);
                }
                index
            }
            None => match self.add(core, Arc::clone(command.address())) {
                Ok(index) => index,
                Err(reason) => {
                    let failure = cannot_begin(command.address().persistence_id(), reason);
                    return command.refuse(AskError::RecoveryFailed(failure));
                }
            },
        };
        if let Some(cell) = self.cells.get_mut(index)
            && let Some(command) = landed(command)
        {
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

    fn withdrawn(&mut self, core: &mut Core, id: &PersistenceId) {
        if let Some(moving) = self.moving.get_mut(id) {
            moving.pending = moving.pending.saturating_sub(1);
            self.depart(core, id);
        }
    }

    fn arrived(&mut self, core: &mut Core, arrival: Arrival) {
        let Arrival { address, baggage } = arrival;
        let baggage: Box<dyn Any> = baggage;
        let Ok(luggage) = baggage.downcast::<Luggage<E>>() else {
            return;
        };
        let Luggage {
            mut commands,
            machine,
            signals,
        } = *luggage;
        let id = address.persistence_id();
        address.arrive();
        commands.extend(self.arriving.remove(id).into_iter().flatten());
        if let Some(machine) = machine {
            let observed = Observed {
                machine,
                _kept: Arc::clone(&address),
            };
            self.observed.insert(id.clone(), observed);
        }
        if commands.is_empty() {
            return;
        }
        if let Err(busy) = core.may_come(id) {
            for command in commands {
                command.fail(busy.clone());
            }
            return;
        }
        match self.add(core, Arc::clone(&address)) {
            Ok(index) => {
                self.cells[index].add_signals(signals);
                for command in commands {
                    self.cells[index].enqueue(core, command);
                }
                self.place(core, index);
            }
            Err(reason) => {
                let failure = cannot_begin(id, reason);
                for command in commands {
                    command.fail(AskError::RecoveryFailed(failure.clone()));
                }
            }
        }
    }

    fn timer(&mut self, core: &mut Core, key: CellKey, timer: CellTimer) {
        self.with(core, key, |cell, entity, core| {
            cell.timer(entity, core, timer);
        });
    }

    fn passivate(&mut self, core: &mut Core) {
        self.is_watching = false;
        let Some(after) = self.entity.config.passivate_after else {
            return;
        };
        while let Some((at, key)) = self.idle.front().copied()
            && at <= core.now
        {
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
                    let of_type = &core.stats.types[self.index].passivated_idle;
                    of_type.fetch_add(1, Ordering::Relaxed);
                    self.leave(core, key.index);
                } else {
                    cell.list_as_idle();
                    self.idle.push_back((due, cell.key()));
                }
            }
        }
        if let Some((at, _)) = self.idle.front().copied() {
            self.watch_idle(core, at);
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

    fn status(&self, core: &Core, address: &Arc<Address>) -> EntityStatus {
        if address.home().is_on_its_way() {
            let commands = self.arriving.get(address.persistence_id());
            return EntityStatus::moving(address, commands.map_or(0, VecDeque::len));
        }
        let cell = address.cell().and_then(|index| self.cells.get(index));
        match cell {
            Some(cell) => cell.status(&self.entity, core),
            None => {
                let is_held = core.is_held(address.persistence_id());
                EntityStatus::not_in_memory(address, is_held)
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.cells.is_empty() && self.moving.is_empty() && self.arriving.is_empty()
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
        for (
            id,
            Moving {
                commands, address, ..
            },
        ) in &self.moving
        {
            if !commands.is_empty() {
                let registry = address.registry();
                registry.note_cut_off(|cut_off| cut_off.add_entity(id, commands.len(), 0));
            }
        }
    }
}
