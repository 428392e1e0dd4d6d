//! Addresses of entities and the bounded ways to their workers.
//!
//! There is one [`Address`] per persistence id in a system while anybody holds one: the entity's
//! references and its cell. It counts the commands that wait for the entity, so that a full queue
//! refuses a command on the sender's thread, before anything is queued.

use std::any::TypeId;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use dashmap::{DashMap, Entry};
use perennial_persistence::{NUMBER_OF_SLICES, PersistenceId};
use tokio::sync::{Notify, mpsc};

use crate::actor::SpawnError;
use crate::dead_letters::DeadLetters;
use crate::deadline::Deadlines;
use crate::engine::actor::ActorAddress;
use crate::engine::bound::Bound;
use crate::engine::envelope::Delivery;
use crate::engine::tally::{Bounded, BusyCounts, Sampling};
use crate::engine::{Input, Stats, local};
use crate::entity_ref::EntityRef;
use crate::error::AskError;
use crate::event_sourced::EventSourced;
use crate::shutdown::{CutOff, Refused};

/// What the registry has to know of an entity type.
#[derive(Debug, Clone)]
pub struct EntityType {
    /// Its name, the first part of every id.
    pub name: &'static str,
    /// The Rust type behind it.
    pub type_id: TypeId,
    /// How many commands may wait for one entity.
    pub mailbox: usize,
    /// Whether its commands may have ids.
    pub command_ids: bool,
}

/// All live addresses of a system, and the inboxes of its workers.
pub struct Registry {
    entity_types: Vec<EntityType>,
    addresses: DashMap<PersistenceId, Weak<Address>>,
    inboxes: Vec<Inbox>,
    closed: AtomicBool,
    /// Whether actors are to end.
    stopping: AtomicBool,
    /// Actors that have not ended.
    live: AtomicUsize,
    /// Woken when the last one has, while they are to.
    no_actor: Notify,
    /// How many actors were ever spawned.
    actors: AtomicU64,
    /// Where the next actor without a parent goes.
    next_worker: AtomicUsize,
    /// Actors with names, by their paths.
    names: DashMap<Box<str>, Named>,
    dead_letters: DeadLetters,
    /// What the system has refused since it began to stop.
    refused: Refused,
    /// What had not ended when its worker did.
    cut_off: Mutex<CutOff>,
    sampling: Sampling,
    ask_timeout: Duration,
    /// Ends the waiting of callers; none in a simulation.
    deadlines: Option<Arc<Deadlines>>,
}

impl Registry {
    /// A registry with one inbox per worker. `inbox` bounds the commands waiting at each.
    pub(crate) fn new(
        entity_types: Vec<EntityType>,
        workers: usize,
        inbox: usize,
        ask_timeout: Duration,
        deadlines: Option<Arc<Deadlines>>,
    ) -> (Arc<Self>, Vec<mpsc::UnboundedReceiver<Input>>) {
        let (inboxes, receivers) = (0..workers)
            .map(|_| {
                let (sender, receiver) = mpsc::unbounded_channel();
                let inbox = Inbox {
                    sender,
                    waiting: Bound::default(),
                    limit: inbox,
                    busy: BusyCounts::default(),
                };
                (inbox, receiver)
            })
            .unzip();
        let registry = Self {
            entity_types,
            addresses: DashMap::new(),
            inboxes,
            closed: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            live: AtomicUsize::new(0),
            no_actor: Notify::new(),
            actors: AtomicU64::new(1),
            next_worker: AtomicUsize::new(0),
            names: DashMap::new(),
            dead_letters: DeadLetters::new(),
            refused: Refused::default(),
            cut_off: Mutex::default(),
            sampling: Sampling::none(),
            ask_timeout,
            deadlines,
        };
        (Arc::new(registry), receivers)
    }

    /// The entity of type `E` with this id within its type.
    ///
    /// An id that cannot be stored, or a type that the system does not have, gives a reference
    /// whose asks say so.
    pub fn entity<E: EventSourced>(self: &Arc<Self>, entity_id: &str) -> EntityRef<E> {
        EntityRef::find(self, entity_id)
    }

    /// The entity of type `E` with a whole id, which need not begin with its type.
    ///
    /// A type that the system does not have, or an id that is in use as one of another type, gives
    /// a reference whose asks say so.
    pub fn entity_with_id<E: EventSourced>(self: &Arc<Self>, id: PersistenceId) -> EntityRef<E> {
        EntityRef::find_id(self, || Ok(id))
    }

    /// The name of the entity type with an index.
    pub(crate) fn entity_type_name(&self, host: usize) -> &'static str {
        self.entity_types[host].name
    }

    /// The index of an entity type among those of the system.
    pub(crate) fn entity_type(&self, type_id: TypeId) -> Option<usize> {
        self.entity_types
            .iter()
            .position(|entity| entity.type_id == type_id)
    }

    /// The one address of an id; made if nobody holds it.
    pub(crate) fn address(self: &Arc<Self>, host: usize, id: PersistenceId) -> Arc<Address> {
        if let Some(address) = self.addresses.get(&id).and_then(|weak| weak.upgrade()) {
            return address;
        }
        let worker = self.worker_of(&id);
        let new = |id| {
            Arc::new(Address {
                id,
                host,
                worker,
                waiting: Bound::default(),
                cell: AtomicUsize::new(Address::NO_CELL),
                registry: Arc::clone(self),
            })
        };
        match self.addresses.entry(id) {
            Entry::Occupied(mut entry) => entry.get().upgrade().unwrap_or_else(|| {
                let address = new(entry.key().clone());
                entry.insert(Arc::downgrade(&address));
                address
            }),
            Entry::Vacant(entry) => {
                let address = new(entry.key().clone());
                entry.insert(Arc::downgrade(&address));
                address
            }
        }
    }

    /// The worker that owns an id.
    pub(crate) fn worker_of(&self, id: &PersistenceId) -> usize {
        usize::from(id.slice().value()) * self.inboxes.len() / usize::from(NUMBER_OF_SLICES)
    }

    /// Whether an id has a cell. Only the id's own worker may rely on the answer.
    pub(crate) fn is_resident(&self, id: &PersistenceId) -> bool {
        let address = self.addresses.get(id).and_then(|weak| weak.upgrade());
        address.is_some_and(|address| address.cell().is_some())
    }

    /// How many commands are between their senders and their handlers, at all workers.
    pub fn waiting(&self) -> usize {
        self.inboxes.iter().map(|inbox| inbox.waiting.taken()).sum()
    }

    /// Spawns no actor any more, and has those end that are there, unless it was called before. Gives
    /// whether there are any.
    pub(crate) fn stop_actors(&self) -> bool {
        let is_first = !self.stopping.swap(true, Ordering::SeqCst);
        let are_there = self.live.load(Ordering::SeqCst) > 0;
        if are_there && is_first {
            for worker in 0..self.inboxes.len() {
                self.post(worker, Input::StopActors);
            }
        }
        are_there
    }

    /// Whether the system has begun to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// What the system has refused since it began to stop.
    pub(crate) fn refused(&self) -> &Refused {
        &self.refused
    }

    /// Something was refused as `Stopped`, which counts if the system stops.
    pub(crate) fn note_refused(&self) {
        if self.is_stopping() {
            self.refused.note();
        }
    }

    /// Notes what has not ended although its worker ends, if the system stops.
    pub(crate) fn note_cut_off(&self, note: impl FnOnce(&mut CutOff)) {
        if self.is_stopping() {
            note(&mut self.cut_off.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// What has not ended: what ended workers have noted, and what is to be seen from outside of
    /// those that are still inside of a handler. `stats` are the workers'.
    pub(crate) fn cut_off(&self, stats: &[Arc<Stats>]) -> CutOff {
        let mut cut_off =
            std::mem::take(&mut *self.cut_off.lock().unwrap_or_else(PoisonError::into_inner));
        let is_held = |worker: usize| !self.inboxes[worker].sender.is_closed();
        if !(0..self.inboxes.len()).any(is_held) {
            return cut_off;
        }
        let mut named = 0;
        for entry in &self.names {
            if let Some(actor) = entry.value().address.upgrade()
                && is_held(actor.worker())
                && !actor.has_ended()
            {
                named += 1;
                cut_off.add_actor(&actor);
            }
        }
        cut_off.more_actors += self.live.load(Ordering::SeqCst).saturating_sub(named);
        // An address takes itself out of the map when it is dropped, so none is while it is walked.
        let entities = self
            .addresses
            .iter()
            .filter_map(|entry| entry.value().upgrade());
        for entity in entities.collect::<Vec<_>>() {
            if is_held(entity.worker) {
                let is_inside = entity.cell().is_some_and(|cell| {
                    let stats = stats.get(entity.worker);
                    stats.is_some_and(|stats| stats.inside.is(entity.host, cell))
                });
                let waiting = entity.waiting.taken();
                cut_off.add_entity(&entity.id, waiting, usize::from(is_inside));
            }
        }
        cut_off
    }

    /// Waits until no actor is left, after [`Registry::stop_actors`].
    pub(crate) async fn actors_have_ended(&self) {
        let mut gone = std::pin::pin!(self.no_actor.notified());
        gone.as_mut().enable();
        if self.live.load(Ordering::SeqCst) > 0 {
            gone.await;
        }
    }

    /// Refuses every command from now on.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        for inbox in &self.inboxes {
            inbox.waiting.wake_all();
        }
    }

    /// Takes a place in a worker's inbox.
    pub(crate) fn enter(&self, worker: usize) -> bool {
        let inbox = &self.inboxes[worker];
        inbox.waiting.enter(inbox.limit)
    }

    /// A queue at a worker is full.
    pub(crate) fn busy(&self, worker: usize, what: &'static str, bound: Bounded) -> AskError {
        // A full queue empties at the speed of the store; a few commits later there is room.
        const RETRY_AFTER: Duration = Duration::from_millis(10);
        self.inboxes[worker].busy.note(bound);
        AskError::Busy {
            what,
            retry_after: RETRY_AFTER,
        }
    }

    /// What senders were refused as busy at a worker, by what refused them.
    pub(crate) fn busy_count(&self, worker: usize, bound: Bounded) -> u64 {
        self.inboxes[worker].busy.of(bound)
    }

    /// How many commands and messages are between their senders and their handlers at a worker.
    pub(crate) fn waiting_at(&self, worker: usize) -> usize {
        self.inboxes[worker].waiting.taken()
    }

    /// Which messages are timed.
    pub(crate) fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// The names of the entity types, in their order.
    pub(crate) fn entity_type_names(&self) -> impl Iterator<Item = &'static str> {
        self.entity_types.iter().map(|entity| entity.name)
    }

    /// As [`Registry::enter`], but waits for a place.
    pub(crate) async fn enter_in_time(&self, worker: usize) -> Result<(), AskError> {
        let inbox = &self.inboxes[worker];
        let place = || match self.is_closed() {
            true => Some(Err(AskError::Stopped)),
            false => self.enter(worker).then_some(Ok(())),
        };
        inbox.waiting.wait(place).await
    }

    /// Gives back places in a worker's inbox.
    pub(crate) fn leave(&self, worker: usize, places: usize) {
        self.inboxes[worker].waiting.leave(places);
    }

    /// Sends a new actor to its worker: at once, as nobody's message may be there before it. Within
    /// the worker's own turn it is in order anyway.
    pub(crate) fn send_spawn(&self, worker: usize, input: Input) -> bool {
        if self.is_stopping() {
            return false;
        }
        match local::send_own(self, worker, input) {
            Ok(()) => true,
            Err(input) => self.send_now(worker, input).is_ok(),
        }
    }

    /// Where the next actor goes that may be anywhere.
    pub(crate) fn next_worker(&self) -> usize {
        self.next_worker.fetch_add(1, Ordering::Relaxed) % self.inboxes.len()
    }

    /// Lets an actor be found by its path.
    ///
    /// # Errors
    /// [`SpawnError::NameTaken`] while another one has it.
    pub(crate) fn name_actor(
        &self,
        address: &Arc<ActorAddress>,
        type_id: TypeId,
    ) -> Result<(), SpawnError> {
        match self.names.entry(address.to_string().into()) {
            Entry::Occupied(entry) => Err(SpawnError::NameTaken {
                path: entry.key().to_string(),
            }),
            Entry::Vacant(entry) => {
                entry.insert(Named {
                    address: Arc::downgrade(address),
                    type_id,
                });
                Ok(())
            }
        }
    }

    /// There is one more actor.
    pub(crate) fn add_actor(&self) {
        self.live.fetch_add(1, Ordering::SeqCst);
    }

    /// An actor has ended; its name is free.
    pub(crate) fn forget_actor(&self, address: &ActorAddress) {
        if self.live.fetch_sub(1, Ordering::SeqCst) == 1 && self.is_stopping() {
            self.no_actor.notify_waiters();
        }
        if address.name().is_some() {
            let path = address.to_string();
            self.names.remove_if(path.as_str(), |_, named| {
                std::ptr::eq(named.address.as_ptr(), address)
            });
        }
    }

    /// The actor of a type with a path, if there is one.
    pub(crate) fn find_actor(&self, path: &str, type_id: TypeId) -> Option<Arc<ActorAddress>> {
        let named = self.names.get(path)?;
        (named.type_id == type_id)
            .then(|| named.address.upgrade())
            .flatten()
    }

    pub(crate) fn dead_letters(&self) -> &DeadLetters {
        &self.dead_letters
    }

    /// A number for a new actor.
    pub(crate) fn next_actor(&self) -> u64 {
        self.actors.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether commands are refused because the system stops.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Hands something other than a command to a worker; `false` if it has ended.
    pub(crate) fn post(&self, worker: usize, input: Input) -> bool {
        self.send(worker, input).is_ok()
    }

    /// Hands an input to a worker, within its own turn if that is where this is called. Gives it
    /// back if the worker has ended.
    pub(crate) fn send(&self, worker: usize, input: Input) -> Result<(), Input> {
        match local::send(self, worker, input) {
            Ok(()) => Ok(()),
            Err(input) => self.send_now(worker, input),
        }
    }

    /// Hands an input to a worker without waiting for the end of a turn.
    pub(crate) fn send_now(&self, worker: usize, input: Input) -> Result<(), Input> {
        let sent = self.inboxes[worker].sender.send(input);
        sent.map_err(|mpsc::error::SendError(input)| input)
    }

    /// Hands over what a turn has gathered for another worker.
    pub(super) fn hand_over(&self, worker: usize, inputs: Vec<Input>) {
        if let Err(input) = self.send_now(worker, Input::Many(inputs)) {
            input.refuse();
        }
    }

    /// How many workers there are.
    pub(crate) fn workers(&self) -> usize {
        self.inboxes.len()
    }

    /// Whether commands for entities of a type may have ids.
    pub(crate) fn takes_command_ids(&self, host: usize) -> bool {
        self.entity_types[host].command_ids
    }

    pub(crate) fn ask_timeout(&self) -> Duration {
        self.ask_timeout
    }

    pub(crate) fn deadlines(&self) -> Option<&Deadlines> {
        self.deadlines.as_deref()
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("entity_types", &self.entity_types)
            .field("addresses", &self.addresses.len())
            .field("workers", &self.inboxes.len())
            .finish_non_exhaustive()
    }
}

/// An actor with a name.
struct Named {
    address: Weak<ActorAddress>,
    type_id: TypeId,
}

struct Inbox {
    sender: mpsc::UnboundedSender<Input>,
    waiting: Bound,
    limit: usize,
    /// What was refused here.
    busy: BusyCounts,
}

/// Where an entity is reached in this system.
pub struct Address {
    id: PersistenceId,
    host: usize,
    worker: usize,
    /// Commands between the sender and the handler.
    waiting: Bound,
    /// The entity's cell on its worker, which alone writes this.
    cell: AtomicUsize,
    registry: Arc<Registry>,
}

impl Address {
    const NO_CELL: usize = usize::MAX;

    /// The entity's id.
    pub fn persistence_id(&self) -> &PersistenceId {
        &self.id
    }

    pub(crate) fn host(&self) -> usize {
        self.host
    }

    pub(crate) fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    pub(crate) fn cell(&self) -> Option<usize> {
        let cell = self.cell.load(Ordering::Relaxed);
        (cell != Self::NO_CELL).then_some(cell)
    }

    pub(crate) fn set_cell(&self, cell: Option<usize>) {
        self.cell
            .store(cell.unwrap_or(Self::NO_CELL), Ordering::Relaxed);
    }

    /// Takes a place in the entity's queue and in its worker's inbox.
    pub(crate) fn admit(&self) -> Result<(), AskError> {
        if self.registry.is_closed() {
            self.registry.note_refused();
            return Err(AskError::Stopped);
        }
        let mailbox = self.registry.entity_types[self.host].mailbox;
        if !self.waiting.enter(mailbox) {
            return Err(self.busy("the entity's mailbox", Bounded::Mailbox));
        }
        if !self.registry.enter(self.worker) {
            self.waiting.leave(1);
            return Err(self.busy("the worker's inbox", Bounded::Inbox));
        }
        Ok(())
    }

    fn busy(&self, what: &'static str, bound: Bounded) -> AskError {
        self.registry.busy(self.worker, what, bound)
    }

    /// Gives back what [`Address::admit`] took, `count` times.
    pub(crate) fn leave_queue(&self, count: usize) {
        if count > 0 {
            self.waiting.leave(count);
            self.registry.leave(self.worker, count);
        }
    }

    /// Puts an admitted command into the inbox of the entity's worker.
    pub(crate) fn send(&self, command: Box<dyn Delivery>) {
        if let Err(input) = self.registry.send(self.worker, Input::Command(command)) {
            input.refuse();
        }
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        // Another address may stand there by now: one that was asked for after the last holder of
        // this one had gone.
        self.registry
            .addresses
            .remove_if(&self.id, |_, weak| weak.strong_count() == 0);
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address")
            .field("id", &self.id)
            .field("worker", &self.worker)
            .field("waiting", &self.waiting)
            .finish_non_exhaustive()
    }
}
