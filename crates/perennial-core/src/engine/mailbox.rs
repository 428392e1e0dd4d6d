//! Addresses of entities and the bounded ways to their workers.
//!
//! There is one [`Address`] per persistence id in a system while anybody holds one: the entity's
//! references and its cell. It counts the commands that wait for the entity, so that a full queue
//! refuses a command on the sender's thread, before anything is queued.

use std::any::TypeId;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use dashmap::{DashMap, Entry};
use perennial_persistence::{NUMBER_OF_SLICES, PersistenceId};
use tokio::sync::mpsc;

use crate::deadline::Deadlines;
use crate::engine::Input;
use crate::engine::envelope::Delivery;
use crate::entity_ref::EntityRef;
use crate::error::AskError;
use crate::event_sourced::EventSourced;

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
                    waiting: AtomicUsize::new(0),
                    limit: inbox,
                };
                (inbox, receiver)
            })
            .unzip();
        let registry = Self {
            entity_types,
            addresses: DashMap::new(),
            inboxes,
            closed: AtomicBool::new(false),
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
                waiting: AtomicUsize::new(0),
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
        self.inboxes
            .iter()
            .map(|inbox| inbox.waiting.load(Ordering::Relaxed))
            .sum()
    }

    /// Refuses every command from now on.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Whether commands are refused because the system stops.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Hands something other than a command to a worker; `false` if it has ended.
    pub(crate) fn post(&self, worker: usize, input: Input) -> bool {
        self.inboxes[worker].sender.send(input).is_ok()
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

struct Inbox {
    sender: mpsc::UnboundedSender<Input>,
    waiting: AtomicUsize,
    limit: usize,
}

/// Where an entity is reached in this system.
pub struct Address {
    id: PersistenceId,
    host: usize,
    worker: usize,
    /// Commands between the sender and the handler.
    waiting: AtomicUsize,
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
        // A full queue empties at the speed of the store; a few commits later there is room.
        const RETRY_AFTER: Duration = Duration::from_millis(10);
        let busy = |what| AskError::Busy {
            what,
            retry_after: RETRY_AFTER,
        };
        if self.registry.is_closed() {
            return Err(AskError::Stopped);
        }
        let mailbox = self.registry.entity_types[self.host].mailbox;
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= mailbox {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(busy("the entity's mailbox"));
        }
        let inbox = &self.registry.inboxes[self.worker];
        if inbox.waiting.fetch_add(1, Ordering::Relaxed) >= inbox.limit {
            self.leave_queue(1);
            return Err(busy("the worker's inbox"));
        }
        Ok(())
    }

    /// Gives back what [`Address::admit`] took, `count` times.
    pub(crate) fn leave_queue(&self, count: usize) {
        if count > 0 {
            self.waiting.fetch_sub(count, Ordering::Relaxed);
            self.registry.inboxes[self.worker]
                .waiting
                .fetch_sub(count, Ordering::Relaxed);
        }
    }

    /// Puts an admitted command into the inbox of the entity's worker.
    pub(crate) fn send(&self, command: Box<dyn Delivery>) {
        let inbox = &self.registry.inboxes[self.worker];
        if let Err(mpsc::error::SendError(Input::Command(command))) =
            inbox.sender.send(Input::Command(command))
        {
            command.refuse(AskError::Stopped);
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
            .field("waiting", &self.waiting.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}
