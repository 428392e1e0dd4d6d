//! Addresses of entities and the bounded ways to their workers.
//!
//! There is one [`Address`] per persistence id in a system while anybody holds one: the entity's
//! references and its cell. It counts the commands that wait for the entity, so that a full queue
//! refuses a command on the sender's thread, before anything is queued.

use std::any::TypeId;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use dashmap::{DashMap, Entry};
use perennial_persistence::{Clock, NUMBER_OF_SLICES, PersistenceId, SerializedPayload, Slice};
use tokio::sync::{Notify, mpsc};

use crate::actor::{Actor, ActorRef, Props, SpawnError};
use crate::dead_letters::{DeadLetterReason, DeadLetters};
use crate::deadline::Deadlines;
use crate::engine::actor::{ACTORS, ActorAddress, NewActor};
use crate::engine::bound::{Bound, Mark};
use crate::engine::envelope::Delivery;
use crate::engine::tally::{Bounded, BusyCounts, Sampling};
use crate::engine::{CellKey, DeadLetterLog, Input, Stats, local};
use crate::entity_ref::EntityRef;
use crate::error::AskError;
use crate::event_sourced::{AnswerFuture, AnyCommands, CommandError, EventSourced, Handle};
use crate::pubsub::{Shelf, Topics};
use crate::shutdown::{CutOff, Refused};

/// What the registry has to know of an entity type.
#[derive(Clone)]
pub struct EntityType {
    /// Its name, the first part of every id.
    pub name: &'static str,
    /// The Rust type behind it.
    pub type_id: TypeId,
    /// How many commands may wait for one entity.
    pub mailbox: usize,
    /// Whether its commands may have ids.
    pub command_ids: bool,
    /// Whether its entities stay on the worker that owned their slices at first.
    pub stays: bool,
    /// Its commands with names.
    pub(crate) commands: Arc<dyn AnyCommands>,
}

impl fmt::Debug for EntityType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EntityType")
            .field("name", &self.name)
            .field("mailbox", &self.mailbox)
            .field("command_ids", &self.command_ids)
            .finish_non_exhaustive()
    }
}

/// A part of a system that has to do something when nothing is accepted any more. It may be told
/// twice.
pub(crate) trait OnClose: Send + Sync {
    fn on_close(&self);
}

/// All live addresses of a system, and the inboxes of its workers.
pub struct Registry {
    entity_types: Vec<EntityType>,
    addresses: DashMap<PersistenceId, Weak<Address>>,
    inboxes: Vec<Inbox>,
    /// The worker of each slice.
    owners: Box<[AtomicU16]>,
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
    topics: Arc<Topics>,
    /// What is told when the system is closed.
    concerned: Mutex<Vec<Weak<dyn OnClose>>>,
    /// What is registered at the receptionist.
    services: Shelf,
    /// What the system has refused since it began to stop.
    refused: Refused,
    /// What had not ended when its worker did.
    cut_off: Mutex<CutOff>,
    sampling: Sampling,
    waits: Waits,
    /// Questions for how it stands with entities, between those who ask and the workers.
    looks: Bound,
    watched: OnceLock<Watched>,
}

/// What is seen of the workers from outside.
struct Watched {
    stats: Box<[Arc<Stats>]>,
    /// By which their times are.
    clock: Arc<dyn Clock>,
}

/// How callers wait.
pub(crate) struct Waits {
    pub(super) ask_timeout: Duration,
    /// How long they look for their answer before they yield.
    pub(super) spin_before_yield: Duration,
    /// Ends their waiting; none in a simulation.
    pub(super) deadlines: Option<Arc<Deadlines>>,
}

impl Registry {
    /// A registry with one inbox per worker. `inbox` bounds the commands waiting at each.
    pub(crate) fn new(
        entity_types: Vec<EntityType>,
        workers: usize,
        inbox: usize,
        waits: Waits,
        dead_letter_log: DeadLetterLog,
    ) -> (Arc<Self>, Vec<mpsc::UnboundedReceiver<Input>>) {
        let (inboxes, receivers) = (0..workers)
            .map(|_| {
                let (sender, receiver) = mpsc::unbounded_channel();
                let inbox = Inbox {
                    sender,
                    waiting: Bound::default(),
                    limit: inbox,
                    busy: BusyCounts::default(),
                    coming: AtomicUsize::new(0),
                };
                (inbox, receiver)
            })
            .unzip();
        let topics = Arc::<Topics>::default();
        let owners = (0..NUMBER_OF_SLICES)
            .map(|slice| AtomicU16::new(index(first_owner(slice, workers))))
            .collect();
        let registry = Self {
            entity_types,
            addresses: DashMap::new(),
            inboxes,
            owners,
            closed: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            live: AtomicUsize::new(0),
            no_actor: Notify::new(),
            actors: AtomicU64::new(1),
            next_worker: AtomicUsize::new(0),
            names: DashMap::new(),
            dead_letters: DeadLetters::new(dead_letter_log, topics.of_type()),
            topics,
            concerned: Mutex::default(),
            services: Shelf::default(),
            refused: Refused::default(),
            cut_off: Mutex::default(),
            sampling: Sampling::none(),
            waits,
            looks: Bound::default(),
            watched: OnceLock::new(),
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

    /// Spawns an actor without a parent; without a name it is called by a number.
    ///
    /// # Errors
    /// [`SpawnError`] if it cannot have its name, and when the system has stopped.
    pub fn spawn<A: Actor>(
        self: &Arc<Self>,
        name: Option<&str>,
        props: Props<A>,
    ) -> Result<ActorRef<A>, SpawnError> {
        let actor = NewActor::new(self, name, None, props)?;
        Ok(ActorRef::new(actor.send()?))
    }

    /// The actor with a path, if there is one and it is an `A`.
    pub fn actor<A: Actor>(&self, path: &str) -> Option<ActorRef<A>> {
        let named = self.names.get(path)?;
        if named.type_id != TypeId::of::<A>() {
            return None;
        }
        // One that stops when it is unreferenced may be about to.
        ActorRef::again(named.address.upgrade()?)
    }

    /// Encodes a command that has a [name](crate::Entity::command), for an entity on another node.
    ///
    /// # Errors
    /// [`CommandError`] if it has none, its type is not registered here, or its codec fails.
    pub fn encode_command<E, C>(&self, command: &C) -> Result<SerializedPayload, CommandError>
    where
        E: Handle<C>,
        C: Send + 'static,
    {
        self.commands(E::TYPE)?.encode::<E, C>(command)
    }

    /// Decodes the reply of another node to a command that has a name.
    ///
    /// # Errors
    /// As [`Registry::encode_command`].
    pub fn decode_reply<E, C>(&self, payload: &SerializedPayload) -> Result<E::Reply, CommandError>
    where
        E: Handle<C>,
        C: Send + 'static,
    {
        self.commands(E::TYPE)?.decode_reply::<E, C>(payload)
    }

    /// Asks an entity of this system with a command from another node. The future is of its encoded
    /// reply; the command is on its way when this returns. `timeout` is the system's without one.
    ///
    /// # Errors
    /// [`CommandError`] if there is no such entity type or command, or it cannot be decoded; it was
    /// not sent then. The future fails as any ask does.
    ///
    /// # Cancel safety
    /// As for [`EntityRef::ask`].
    pub fn ask_encoded(
        self: &Arc<Self>,
        entity_type: &str,
        id: PersistenceId,
        command: &SerializedPayload,
        timeout: Option<Duration>,
    ) -> Result<AnswerFuture, CommandError> {
        let commands = self.commands(entity_type)?;
        let mut types = self.entity_types.iter();
        let host = types.position(|of| of.name == entity_type);
        let host = host.expect("its commands were found");
        let address = self.address(host, id);
        if address.host() != host {
            let error = AskError::OtherType {
                persistence_id: address.persistence_id().clone(),
                entity_type: self.entity_type_name(address.host()),
            };
            return Ok(Box::pin(async { Err(error) }));
        }
        commands.ask(address, command, timeout)
    }

    fn commands(&self, entity_type: &str) -> Result<&dyn AnyCommands, CommandError> {
        let mut types = self.entity_types.iter();
        let found = types.find(|of| of.name == entity_type);
        let found = found.ok_or_else(|| CommandError::UnknownEntityType {
            entity_type: entity_type.to_owned(),
        })?;
        Ok(&*found.commands)
    }

    /// On which worker an actor lives.
    #[doc(hidden)]
    pub fn worker_of_actor<A: Actor>(&self, actor: &ActorRef<A>) -> usize {
        actor.address().worker()
    }

    /// On which worker an entity lives, if it has a valid id.
    #[doc(hidden)]
    pub fn worker_of_entity<E: EventSourced>(&self, entity: &EntityRef<E>) -> Option<usize> {
        Some(entity.address()?.worker())
    }

    /// How many messages were accepted and are not handled, by reason.
    pub fn dead_letter_counts(&self) -> Vec<(DeadLetterReason, u64)> {
        self.dead_letters.counts().collect()
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
        let new = |id: PersistenceId| {
            let worker = match self.entity_types[host].stays {
                true => first_owner(id.slice().value(), self.inboxes.len()),
                false => self.owner(id.slice()),
            };
            Arc::new(Address {
                id,
                host,
                waiting: Bound::marked(Home::new(worker).mark()),
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

    /// The worker that owns a slice.
    pub fn owner(&self, slice: Slice) -> usize {
        let owner = &self.owners[usize::from(slice.value())];
        usize::from(owner.load(Ordering::Acquire))
    }

    /// How many slices a worker owns.
    pub(crate) fn slices_of(&self, worker: usize) -> usize {
        let owners = self.owners.iter();
        owners
            .filter(|owner| usize::from(owner.load(Ordering::Relaxed)) == worker)
            .count()
    }

    /// Gives a slice to another worker. Only the present one may do so.
    pub(crate) fn give_slice(&self, slice: Slice, to: usize) {
        self.owners[usize::from(slice.value())].store(index(to), Ordering::Release);
    }

    /// Where an id is reached, if it has an address.
    pub(crate) fn home_of(&self, id: &PersistenceId) -> Option<Home> {
        let address = self.addresses.get(id).and_then(|weak| weak.upgrade());
        address.map(|address| address.home())
    }

    /// All workers where an id may be in memory, or be brought there as one of some type.
    pub(crate) fn homes_of(&self, id: &PersistenceId) -> BTreeSet<usize> {
        let slice = id.slice();
        let home = self.home_of(id).map(Home::worker);
        [
            self.owner(slice),
            first_owner(slice.value(), self.inboxes.len()),
        ]
        .into_iter()
        .chain(home)
        .collect()
    }

    /// Whether entities of a type stay on the worker that owned their slices at first.
    pub(crate) fn stays(&self, host: usize) -> bool {
        self.entity_types[host].stays
    }

    /// Whether entities are on their way to a worker, which has to be there for them.
    pub(crate) fn is_expecting(&self, worker: usize) -> bool {
        self.inboxes[worker].coming.load(Ordering::Acquire) > 0
    }

    /// Has the workers that own slices give them to another one.
    ///
    /// Each entity of them moves when it has nothing under way but writes, which it waits for; its
    /// commands wait meanwhile and keep their order. What is not in memory moves with its next
    /// command.
    pub fn move_slices(&self, slices: impl IntoIterator<Item = Slice>, to: usize) {
        let mut of_workers = vec![Vec::new(); self.inboxes.len()];
        for slice in slices {
            of_workers[self.owner(slice)].push(slice);
        }
        for (from, slices) in of_workers.into_iter().enumerate() {
            if from != to && to < self.inboxes.len() && !slices.is_empty() {
                self.post(from, Input::GiveSlices(slices, to));
            }
        }
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
    pub fn stop_actors(&self) -> bool {
        let is_first = !self.stopping.swap(true, Ordering::SeqCst);
        let are_there = self.live.load(Ordering::SeqCst) > 0;
        if are_there && is_first {
            for worker in 0..self.inboxes.len() {
                self.post(worker, Input::StopActors);
            }
        }
        are_there
    }

    /// How many actors have not ended.
    pub fn live_actors(&self) -> usize {
        self.live.load(Ordering::SeqCst)
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
            let worker = entity.worker();
            if is_held(worker) {
                let is_inside = entity.cell().is_some_and(|cell| {
                    let stats = stats.get(worker);
                    stats.is_some_and(|stats| stats.pulse.is_in(entity.host, cell))
                });
                let waiting = entity.waiting.taken();
                cut_off.add_entity(&entity.id, waiting, usize::from(is_inside));
            }
        }
        cut_off
    }

    /// Lets be seen whether workers turn.
    pub(super) fn watch(&self, stats: Box<[Arc<Stats>]>, clock: Arc<dyn Clock>) {
        let _ = self.watched.set(Watched { stats, clock });
    }

    /// Whose code runs on a worker at this moment, and for how long it has.
    pub(crate) fn running_on(&self, worker: usize) -> Option<(String, Duration)> {
        let watched = self.watched.get()?;
        let beat = watched.stats.get(worker)?.pulse.beat()?;
        let elapsed = watched.clock.elapsed().saturating_sub(beat.since);
        Some((self.name_of(worker, beat.key), elapsed))
    }

    /// The places for questions for how it stands with entities.
    pub(crate) fn looks(&self) -> &Bound {
        &self.looks
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
        for address in &self.addresses {
            if let Some(address) = address.upgrade() {
                address.waiting.wake_all();
            }
        }
        let concerned = std::mem::take(&mut *self.concerned());
        for part in concerned.iter().filter_map(Weak::upgrade) {
            part.on_close();
        }
    }

    /// Has something told when the system is closed; at once if it is.
    pub(crate) fn on_close(&self, part: Weak<dyn OnClose>) {
        {
            let mut concerned = self.concerned();
            // From time to time those are left out that have gone.
            if concerned.len() == concerned.capacity() {
                concerned.retain(|part| part.strong_count() > 0);
            }
            concerned.push(Weak::clone(&part));
        }
        if self.is_closed()
            && let Some(part) = part.upgrade()
        {
            part.on_close();
        }
    }

    fn concerned(&self) -> MutexGuard<'_, Vec<Weak<dyn OnClose>>> {
        // Nothing can panic while the lock is held.
        self.concerned
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The system has ended: nothing happens any more that anybody could be told of.
    pub(crate) fn end(&self) {
        self.topics.end();
        self.services.end();
    }

    /// Takes a place in a worker's inbox.
    pub(crate) fn enter(&self, worker: usize) -> bool {
        let inbox = &self.inboxes[worker];
        inbox.waiting.enter(inbox.limit)
    }

    /// A queue at a worker is full.
    pub(crate) fn busy(&self, worker: usize, what: &'static str, bound: Bounded) -> AskError {
        self.inboxes[worker].busy.note(bound);
        busy(what)
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

    /// What a cell of a worker is called, as far as it is in memory or has a name.
    pub(crate) fn name_of(&self, worker: usize, key: CellKey) -> String {
        if key.host == ACTORS {
            let named = self.names.iter().find_map(|entry| {
                let address = entry.value().address.upgrade()?;
                (address.uid() == key.incarnation).then(|| address.to_string())
            });
            return named.unwrap_or_else(|| format!("…/${}", key.incarnation));
        }
        let entity = self.addresses.iter().find_map(|entry| {
            let address = entry.value().upgrade()?;
            let place = (address.worker(), address.host, address.cell());
            (place == (worker, key.host, Some(key.index))).then(|| entry.key().to_string())
        });
        entity.unwrap_or_else(|| format!("{}|…", self.entity_type_name(key.host)))
    }

    pub(crate) fn dead_letters(&self) -> &DeadLetters {
        &self.dead_letters
    }

    pub(crate) fn services(&self) -> &Shelf {
        &self.services
    }

    pub(crate) fn topics(&self) -> &Arc<Topics> {
        &self.topics
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
        self.waits.ask_timeout
    }

    pub(crate) fn spin_before_yield(&self) -> Duration {
        self.waits.spin_before_yield
    }

    pub(crate) fn deadlines(&self) -> Option<&Deadlines> {
        self.waits.deadlines.as_deref()
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

/// A queue is full.
pub(crate) fn busy(what: &'static str) -> AskError {
    // A full queue empties at the speed of the store; a few commits later there is room.
    const RETRY_AFTER: Duration = Duration::from_millis(10);
    AskError::Busy {
        what,
        retry_after: RETRY_AFTER,
    }
}

struct Inbox {
    sender: mpsc::UnboundedSender<Input>,
    waiting: Bound,
    limit: usize,
    /// What was refused here.
    busy: BusyCounts,
    /// Entities that are on their way here.
    coming: AtomicUsize,
}

/// Where an entity is reached in this system.
pub struct Address {
    id: PersistenceId,
    host: usize,
    /// Commands between the sender and the handler, marked with the entity's [`Home`].
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

    /// Where the entity is.
    pub(crate) fn home(&self) -> Home {
        Home::of(self.waiting.mark())
    }

    /// The worker that the entity is at, or on its way to.
    pub(crate) fn worker(&self) -> usize {
        self.home().worker()
    }

    /// Sends the entity to another worker; what is admitted from now on goes there. Gives how many
    /// commands were admitted before. Only its present worker may do so.
    pub(crate) fn depart(&self, to: usize) -> usize {
        let home = self.home();
        self.registry.inboxes[to]
            .coming
            .fetch_add(1, Ordering::AcqRel);
        let sent = self.waiting.set_mark(home.departed(to).mark());
        // Whoever waits for a place at the old worker looks for one at the new one.
        self.registry.inboxes[home.worker()].waiting.wake_all();
        sent
    }

    /// The entity has arrived at its new worker, with all that was admitted before, or has not and
    /// will not as that one has ended.
    pub(crate) fn arrive(&self) {
        let inbox = &self.registry.inboxes[self.worker()];
        inbox.coming.fetch_sub(1, Ordering::AcqRel);
        self.waiting.set_mark(self.home().arrived().mark());
    }

    /// Takes a place in the entity's queue and in its worker's inbox. Gives the worker that the
    /// command is to be sent to.
    pub(crate) fn admit(&self) -> Result<Admitted, AskError> {
        if self.registry.is_closed() {
            self.registry.note_refused();
            return Err(AskError::Stopped);
        }
        let home = self.enter().map_err(|()| self.mailbox_is_full())?;
        if !self.registry.enter(home.worker()) {
            self.withdraw(home);
            return Err(self.busy("the worker's inbox", Bounded::Inbox));
        }
        Ok(Admitted::to(home))
    }

    fn mailbox_is_full(&self) -> AskError {
        self.busy("the entity's mailbox", Bounded::Mailbox)
    }

    fn busy(&self, what: &'static str, bound: Bounded) -> AskError {
        self.registry.busy(self.worker(), what, bound)
    }

    /// Takes a place in the entity's queue.
    fn enter(&self) -> Result<Home, ()> {
        let mailbox = self.registry.entity_types[self.host].mailbox;
        self.waiting
            .enter_marked(mailbox)
            .map(Home::of)
            .map_err(|full| {
                if let Some((entered, left)) = full.withdrawn {
                    self.withdrew(Home::of(entered), Home::of(left));
                }
            })
    }

    /// Gives back a place in the entity's queue that leads to nothing.
    fn withdraw(&self, entered: Home) {
        self.withdrew(entered, Home::of(self.waiting.withdraw()));
    }

    /// A place led to nothing. If the entity has left its worker since, that one waits for as many
    /// commands as there were places.
    fn withdrew(&self, entered: Home, left: Home) {
        if entered.has_departed(left) {
            let (id, host) = (self.id.clone(), self.host);
            self.registry
                .post(entered.worker(), Input::Withdrawn(host, id));
        }
    }

    /// As [`Address::admit`], but waits while there is no room.
    ///
    /// # Cancel safety
    /// Cancel safe: what was taken by then is given back.
    pub(crate) async fn admit_in_time(&self) -> Result<Admitted, AskError> {
        let registry = &self.registry;
        // One who was told of the end of the system has taken nothing.
        let unless_closed = |attempt: &dyn Fn() -> Option<Home>| match registry.is_closed() {
            true => Some(None),
            false => attempt().map(Some),
        };
        let stopped = || {
            registry.note_refused();
            AskError::Stopped
        };
        loop {
            let enter = || self.enter().ok();
            let entered = self.waiting.wait(|| unless_closed(&enter)).await;
            let home = entered.ok_or_else(stopped)?;
            if registry.enter(home.worker()) {
                return Ok(Admitted::to(home));
            }
            // Nothing of the entity's is kept while the worker is waited for: the entity might move.
            self.withdraw(home);
            let inbox = &registry.inboxes[home.worker()].waiting;
            // One who waits here for an entity that has moved waits in the wrong place.
            let enter = || match registry.enter(home.worker()) {
                true => Some(home),
                false => Some(self.home()).filter(|now| now.worker() != home.worker()),
            };
            let entered = inbox.wait(|| unless_closed(&enter)).await;
            if entered.ok_or_else(stopped)?.worker() != home.worker() {
                continue;
            }
            let place = inbox.place();
            if let Ok(again) = self.enter() {
                if again.worker() == home.worker() {
                    place.keep();
                    return Ok(Admitted::to(home));
                }
                self.withdraw(again);
            }
        }
    }

    /// Gives back what [`Address::admit`] took, `count` times.
    pub(crate) fn leave_queue(&self, count: usize) {
        if count > 0 {
            self.waiting.leave(count);
            self.registry.leave(self.worker(), count);
        }
    }

    /// Gives back what one command holds.
    pub(crate) fn leave(&self, admitted: Admitted) {
        self.waiting.leave(1);
        self.registry.leave(admitted.worker(), 1);
    }

    /// Puts an admitted command into the inbox of the worker that it was admitted to.
    pub(crate) fn send(&self, worker: usize, command: Box<dyn Delivery>) {
        if let Err(input) = self.registry.send(worker, Input::Command(command)) {
            input.refuse();
        }
    }

    /// Puts a command that needs no place into the inbox of the entity's worker, which passes it on
    /// if the entity has left by then.
    pub(crate) fn send_uncounted(&self, command: Box<dyn Delivery>) {
        self.send(self.worker(), command);
    }
}

/// Places were taken for a command, in its entity's queue and in the inbox of a worker.
#[must_use = "the places are taken until the command is handled"]
pub(crate) struct Admitted(u16);

impl Admitted {
    fn to(home: Home) -> Self {
        Self(index(home.worker()))
    }

    /// Where the command is to be sent.
    pub(crate) fn worker(&self) -> usize {
        usize::from(self.0)
    }

    /// The command is on its way to another worker.
    pub(crate) fn move_to(&mut self, registry: &Registry, to: usize) {
        registry.inboxes[self.worker()].waiting.leave(1);
        registry.inboxes[to].waiting.add(1);
        self.0 = index(to);
    }
}

/// The worker that owns a slice when a system starts.
fn first_owner(slice: u16, workers: usize) -> usize {
    usize::from(slice) * workers / usize::from(NUMBER_OF_SLICES)
}

/// Where an entity is: at a worker, or on its way there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Home(u16);

impl Home {
    /// Changes with every move, so that whoever took a place knows whether there was one since. Two
    /// there cannot be: the first one ends when all places are accounted for.
    const TURN: u16 = 1 << 10;
    const ON_ITS_WAY: u16 = 1 << 11;

    fn new(worker: usize) -> Self {
        Self(index(worker))
    }

    fn of(mark: Mark) -> Self {
        Self(mark.0)
    }

    fn mark(self) -> Mark {
        Mark(self.0)
    }

    pub(crate) fn worker(self) -> usize {
        usize::from(self.0 & (Self::TURN - 1))
    }

    /// Whether the worker it comes from still has something of it.
    pub(crate) fn is_on_its_way(self) -> bool {
        self.0 & Self::ON_ITS_WAY != 0
    }

    /// Whether there was a move between this and `later`. That it has arrived is none.
    fn has_departed(self, later: Self) -> bool {
        (self.0 ^ later.0) & Self::TURN != 0
    }

    fn departed(self, to: usize) -> Self {
        Self(index(to) | (!self.0 & Self::TURN) | Self::ON_ITS_WAY)
    }

    fn arrived(self) -> Self {
        Self(self.0 & !Self::ON_ITS_WAY)
    }
}

/// A worker's index, which the configuration keeps below 1,024.
fn index(worker: usize) -> u16 {
    u16::try_from(worker).unwrap_or(u16::MAX) % Home::TURN
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
            .field("home", &self.home())
            .field("waiting", &self.waiting)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_says_where_whether_it_has_arrived_and_whether_there_was_a_move() {
        for worker in [0, 1, 1023] {
            let home = Home::new(worker);
            assert_eq!((home.worker(), home.is_on_its_way()), (worker, false));
            let departed = home.departed(7);
            assert_eq!((departed.worker(), departed.is_on_its_way()), (7, true));
            let arrived = departed.arrived();
            assert_eq!((arrived.worker(), arrived.is_on_its_way()), (7, false));
            assert!(home.has_departed(departed) && home.has_departed(arrived));
            // To arrive is no move: whoever took a place on the way was not counted.
            assert!(!departed.has_departed(arrived));
            let back = arrived.departed(worker);
            assert!(arrived.has_departed(back) && departed.has_departed(back));
            assert_eq!(Home::of(back.mark()), back);
        }
    }
}
