//! Where an actor is reached, and how many messages wait there.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::actor::StopReason;
use crate::engine::actor::{ActorInput, Order, Parcel};
use crate::engine::bound::Bound;
use crate::engine::mailbox::Registry;
use crate::engine::{Bounded, Input};
use crate::error::AskError;

/// Where an actor is reached. There is one per actor, from its spawn to the end of its last
/// reference; it outlives restarts and the actor itself.
pub struct ActorAddress {
    name: Option<Box<str>>,
    parent: Option<Arc<ActorAddress>>,
    /// Never used twice in a system.
    uid: u64,
    worker: u32,
    /// How many messages may wait.
    mailbox: u32,
    /// References, counted only if the actor stops when there is none.
    references: Option<AtomicUsize>,
    /// Messages between their senders and their handlers.
    waiting: Bound,
    /// The actor's cell on its worker, which alone writes this.
    cell: AtomicUsize,
    registry: Arc<Registry>,
}

/// Where an actor is, as its worker sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stand {
    /// Somebody has its reference before its worker has heard of it.
    OnItsWay,
    /// In this cell.
    Here(usize),
    Ended,
}

/// What an actor's address is made of.
pub(crate) struct NewAddress {
    /// An anonymous actor has none.
    pub(crate) name: Option<Box<str>>,
    pub(crate) parent: Option<Arc<ActorAddress>>,
    pub(crate) worker: usize,
    pub(crate) mailbox: u32,
    pub(crate) stops_unreferenced: bool,
}

impl ActorAddress {
    const NO_CELL: usize = usize::MAX;
    const ENDED: usize = usize::MAX - 1;

    pub(crate) fn new(registry: &Arc<Registry>, new: NewAddress) -> Self {
        Self {
            name: new.name,
            parent: new.parent,
            uid: registry.next_actor(),
            worker: u32::try_from(new.worker).unwrap_or(u32::MAX),
            mailbox: new.mailbox,
            references: new.stops_unreferenced.then(AtomicUsize::default),
            waiting: Bound::default(),
            cell: AtomicUsize::new(Self::NO_CELL),
            registry: Arc::clone(registry),
        }
    }

    pub(crate) fn uid(&self) -> u64 {
        self.uid
    }

    pub(crate) fn worker(&self) -> usize {
        self.worker as usize
    }

    pub(crate) fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    pub(crate) fn parent(&self) -> Option<&Arc<ActorAddress>> {
        self.parent.as_ref()
    }

    /// Its name, if it was given one.
    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Where it is on its worker. Only that worker may rely on the answer.
    pub(crate) fn stand(&self) -> Stand {
        match self.cell.load(Ordering::Acquire) {
            Self::NO_CELL => Stand::OnItsWay,
            Self::ENDED => Stand::Ended,
            cell => Stand::Here(cell),
        }
    }

    pub(crate) fn set_cell(&self, cell: usize) {
        self.cell.store(cell, Ordering::Relaxed);
    }

    /// The actor has ended. Its name is free, and who waits for a place is told.
    pub(crate) fn end(&self) {
        self.cell.store(Self::ENDED, Ordering::Release);
        self.registry.forget_actor(self);
        self.waiting.wake_all();
    }

    /// Whether the actor has ended, as far as is known here by now.
    pub(crate) fn has_ended(&self) -> bool {
        self.cell.load(Ordering::Acquire) == Self::ENDED
    }

    /// How many messages wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.taken()
    }

    /// Takes a place in the actor's mailbox. The bound of a worker's inbox is that of entities: it
    /// keeps what waits for a store within limits, while what waits for an actor is bounded by its
    /// own mailbox alone, and one count that all senders share would cost each of them.
    pub(crate) fn admit(&self) -> Result<(), AskError> {
        if self.has_ended() || self.registry.is_closed() {
            self.registry.note_refused();
            return Err(AskError::Stopped);
        }
        if !self.waiting.enter(self.mailbox as usize) {
            return Err(self.busy("the actor's mailbox", Bounded::Mailbox));
        }
        Ok(())
    }

    fn busy(&self, what: &'static str, bound: Bounded) -> AskError {
        self.registry.busy(self.worker(), what, bound)
    }

    /// As [`ActorAddress::admit`], but waits while there is no place.
    ///
    /// # Cancel safety
    /// Cancel safe: a place is taken when it is ready and not before.
    pub(crate) async fn admit_in_time(&self) -> Result<(), AskError> {
        let place = || {
            let over = self.has_ended() || self.registry.is_closed();
            (over || self.waiting.enter(self.mailbox as usize)).then_some(over)
        };
        match self.waiting.wait(place).await {
            true => {
                self.registry.note_refused();
                Err(AskError::Stopped)
            }
            false => Ok(()),
        }
    }

    /// Gives back what [`ActorAddress::admit`] took, `places` times.
    pub(crate) fn leave(&self, places: usize) {
        self.waiting.leave(places);
    }

    /// Sends an admitted message.
    pub(crate) fn send(&self, parcel: Box<dyn Parcel>) {
        if let Err(input) = self.registry.send(self.worker(), Input::Parcel(parcel)) {
            input.refuse();
        }
    }

    /// There is one more reference.
    pub(crate) fn refer(&self) {
        if let Some(references) = &self.references {
            references.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// There is one more reference, unless the actor stops because there was none.
    pub(crate) fn refer_again(&self) -> bool {
        if self.has_ended() {
            return false;
        }
        let one_more = |count| (count > 0).then_some(count + 1);
        self.references.as_ref().is_none_or(|references| {
            references
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
                .is_ok()
        })
    }

    /// There is one reference less.
    pub(crate) fn forget(self: &Arc<Self>) {
        if let Some(references) = &self.references
            && references.fetch_sub(1, Ordering::Release) == 1
        {
            self.order(Order::StopAfter(StopReason::Unreferenced));
        }
    }

    /// Whether the actor is to stop as nobody refers to it.
    pub(crate) fn is_unreferenced(&self) -> bool {
        let references = self.references.as_ref();
        references.is_some_and(|count| count.load(Ordering::Acquire) == 0)
    }

    /// Tells the actor's cell something; `false` if its worker has ended.
    pub(crate) fn order(self: &Arc<Self>, order: Order) -> bool {
        let input = ActorInput {
            to: Arc::clone(self),
            order,
        };
        self.registry
            .post(self.worker(), Input::Actor(Box::new(input)))
    }
}

impl fmt::Display for ActorAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = &self.parent {
            parent.fmt(f)?;
        }
        match &self.name {
            Some(name) => write!(f, "/{name}"),
            None => write!(f, "/${}", self.uid),
        }
    }
}

impl fmt::Debug for ActorAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActorAddress")
            .field("path", &format_args!("{self}"))
            .field("worker", &self.worker)
            .field("waiting", &self.waiting)
            .finish_non_exhaustive()
    }
}
