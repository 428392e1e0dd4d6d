//! The actors of one worker.

use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use slab::Slab;

use crate::actor::{Actor, Placement, Props, SpawnError, StopReason};
use crate::engine::actor::cell::{ActorCell, AnyCell};
use crate::engine::actor::{
    ActorAddress, ActorInput, ActorPeek, ActorTimer, NewAddress, Order, Parcel, Stand, let_go,
};
use crate::engine::cell::Whereabouts;
use crate::engine::core::Core;
use crate::engine::{Input, LaterDone, Registry};
use crate::error::AskError;
use crate::shutdown::CutOff;

/// The actors of one worker.
#[derive(Default)]
pub(crate) struct ActorHost {
    cells: Slab<Box<dyn AnyCell>>,
    /// What has come for actors that have not, by their numbers: a reference may go round while the
    /// spawn still waits in the inbox.
    early: BTreeMap<u64, Vec<Early>>,
}

enum Early {
    Parcel(Box<dyn Parcel>),
    Order(ActorInput),
}

impl Early {
    fn refuse(self, reason: StopReason) {
        match self {
            Self::Parcel(parcel) => parcel.refuse(AskError::Stopped),
            Self::Order(input) => input.refuse(reason),
        }
    }
}

/// An actor on its way to its worker. Dropped there, it has ended.
pub struct Newcomer {
    address: Arc<ActorAddress>,
    actor: Option<Box<dyn AnyNewActor>>,
}

impl Newcomer {
    pub(crate) fn address(&self) -> &Arc<ActorAddress> {
        &self.address
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        let Some(actor) = self.actor.take() else {
            return;
        };
        let_go(&self.address, actor);
        self.address.end();
        if let Some(parent) = self.address.parent() {
            parent.order(Order::ChildEnded(Arc::clone(&self.address)));
        }
        // For those who were early.
        self.address.order(Order::NeverCame);
    }
}

impl std::fmt::Debug for Newcomer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Newcomer").field(self.address()).finish()
    }
}

/// A [`NewActor`] whose type is forgotten.
trait AnyNewActor: Send {
    /// Makes its cell, which has a place by then.
    fn cell(self: Box<Self>, index: usize) -> Box<dyn AnyCell>;
}

pub(crate) struct NewActor<A: Actor> {
    address: Arc<ActorAddress>,
    props: Props<A>,
    /// Actors that were sent before it and are its children from the start.
    children: Vec<NewChild>,
}

/// A child that is there before its parent.
#[derive(Clone)]
pub(crate) struct NewChild {
    pub(crate) address: Arc<ActorAddress>,
    /// Whether it shares the fate of its siblings.
    pub(crate) is_in_group: bool,
}

impl<A: Actor> NewActor<A> {
    /// An actor with an address, which nobody has got yet. Send it to its worker before anybody
    /// gets it.
    ///
    /// # Errors
    /// [`SpawnError`] if it cannot have its name.
    pub(crate) fn new(
        registry: &Arc<Registry>,
        name: Option<&str>,
        parent: Option<&Arc<ActorAddress>>,
        props: Props<A>,
    ) -> Result<Self, SpawnError> {
        if let Some(name) = name
            && !is_name(name)
        {
            return Err(SpawnError::InvalidName {
                name: name.to_owned(),
            });
        }
        let worker = match (props.options.placement, parent) {
            (Placement::Near, Some(parent)) => parent.worker(),
            (Placement::Near | Placement::Spread, _) => registry.next_worker(),
            (Placement::Worker(worker), _) => worker % registry.workers(),
        };
        let address = Arc::new(ActorAddress::new(
            registry,
            NewAddress {
                name: name.map(Box::from),
                parent: parent.cloned(),
                worker,
                mailbox: props.options.mailbox,
                stops_unreferenced: props.options.stop_unreferenced,
            },
        ));
        if name.is_some() {
            registry.name_actor(&address, TypeId::of::<A>())?;
        }
        Ok(Self {
            address,
            props,
            children: Vec::new(),
        })
    }

    /// Gives it children that were sent before it, so that it never ends without them.
    pub(crate) fn with_children(mut self, children: Vec<NewChild>) -> Self {
        self.children = children;
        self
    }

    /// Sends it to its worker. Gives where it is reached.
    ///
    /// # Errors
    /// [`SpawnError::Stopped`] if the worker has ended.
    pub(crate) fn send(self) -> Result<Arc<ActorAddress>, SpawnError> {
        let address = Arc::clone(&self.address);
        let registry = address.registry();
        let worker = address.worker();
        registry.add_actor();
        let newcomer = Newcomer {
            address: Arc::clone(&address),
            actor: Some(Box::new(self)),
        };
        // At once, so that nobody's message is there before it.
        if registry.send_spawn(worker, Input::Spawn(newcomer)) {
            Ok(address)
        } else {
            Err(SpawnError::Stopped)
        }
    }

    pub(crate) fn address(&self) -> &Arc<ActorAddress> {
        &self.address
    }

    /// It is not sent after all; its name is free again.
    pub(crate) fn give_up(self) {
        self.address.registry().add_actor();
        self.address.end();
    }

    pub(crate) fn is_in_group(&self) -> bool {
        let supervision = self.props.options.supervision.as_ref();
        supervision.is_some_and(|supervision| supervision.is_group())
    }
}

impl<A: Actor> AnyNewActor for NewActor<A> {
    fn cell(self: Box<Self>, index: usize) -> Box<dyn AnyCell> {
        Box::new(ActorCell::new(
            index,
            self.address,
            self.props,
            self.children,
        ))
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.chars().count() <= 255
        && !name.starts_with('$')
        && !name.contains(|c: char| c == '/' || c.is_control())
}

impl ActorHost {
    pub(crate) fn spawn(&mut self, core: &mut Core, mut newcomer: Newcomer) {
        let Some(actor) = newcomer.actor.take() else {
            return;
        };
        let entry = self.cells.vacant_entry();
        let index = entry.key();
        newcomer.address.set_cell(index);
        entry.insert(actor.cell(index));
        core.stats.actors.fetch_add(1, Ordering::Relaxed);
        if core.actors_end {
            self.cells[index].order(core, Order::Stop(StopReason::SystemStopped));
        }
        self.place(core, index);
        for early in self
            .early
            .remove(&newcomer.address.uid())
            .unwrap_or_default()
        {
            // It may have ended by what came before.
            match early {
                Early::Parcel(parcel) => self.receive(core, parcel),
                Early::Order(input) => self.order(core, input),
            }
        }
    }

    pub(crate) fn receive(&mut self, core: &mut Core, parcel: Box<dyn Parcel>) {
        match parcel.to().stand() {
            Stand::Here(index) => {
                self.cells[index].receive(core, parcel);
                self.place(core, index);
            }
            Stand::OnItsWay => {
                let early = self.early.entry(parcel.to().uid()).or_default();
                early.push(Early::Parcel(parcel));
            }
            Stand::Ended => {
                self.refuse_early(parcel.to().uid());
                parcel.refuse(AskError::Stopped);
            }
        }
    }

    pub(crate) fn order(&mut self, core: &mut Core, input: ActorInput) {
        match input.to.stand() {
            Stand::Here(index) => {
                self.cells[index].order(core, input.order);
                self.place(core, index);
            }
            Stand::OnItsWay => {
                let early = self.early.entry(input.to.uid()).or_default();
                early.push(Early::Order(input));
            }
            Stand::Ended => {
                self.refuse_early(input.to.uid());
                input.refuse(StopReason::NotFound);
            }
        }
    }

    /// An actor has ended, whether it ever came here or not.
    fn refuse_early(&mut self, uid: u64) {
        for early in self.early.remove(&uid).unwrap_or_default() {
            early.refuse(StopReason::NotFound);
        }
    }

    /// Runs a cell's share of a turn.
    pub(crate) fn run(&mut self, core: &mut Core, index: usize, uid: u64) {
        self.with(core, index, uid, |cell, core| cell.run(core));
    }

    pub(crate) fn timer(&mut self, core: &mut Core, index: usize, uid: u64, timer: ActorTimer) {
        self.with(core, index, uid, |cell, core| cell.timer(core, timer));
    }

    pub(crate) fn later_done(&mut self, core: &mut Core, done: LaterDone) {
        let (index, uid) = (done.key.index, done.key.incarnation);
        self.with(core, index, uid, |cell, core| cell.later_done(core, done));
    }

    /// What an actor is like, if it has not ended.
    pub(crate) fn peek<A: Actor>(&self, address: &ActorAddress) -> Option<ActorPeek<'_, A>> {
        let Stand::Here(index) = address.stand() else {
            return None;
        };
        let cell: &dyn Any = &**self.cells.get(index)?;
        cell.downcast_ref().map(ActorCell::peek)
    }

    fn with(
        &mut self,
        core: &mut Core,
        index: usize,
        uid: u64,
        action: impl FnOnce(&mut dyn AnyCell, &mut Core),
    ) {
        if let Some(cell) = self.cells.get_mut(index)
            && cell.base().key().incarnation == uid
        {
            action(&mut **cell, core);
            self.place(core, index);
        }
    }

    fn place(&mut self, core: &mut Core, index: usize) {
        let cell = &mut self.cells[index];
        match cell.whereabouts() {
            Whereabouts::Runnable => {
                if cell.base_mut().schedule() {
                    core.schedule(cell.base().key());
                }
            }
            Whereabouts::Waiting | Whereabouts::Idle => {}
            Whereabouts::Gone | Whereabouts::Left => {
                let cell = self.cells.remove(index);
                let address = Arc::clone(cell.base().address());
                let_go(&address, cell);
                core.stats.actors.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Has every actor end: those without a parent once they have handled what waits for them, their
    /// children with them. Those that wait before they begin anew end at once.
    pub(crate) fn drain(&mut self, core: &mut Core) {
        core.actors_end = true;
        let cells: Vec<usize> = self.cells.iter().map(|(index, _)| index).collect();
        for index in cells {
            let Some(cell) = self.cells.get_mut(index) else {
                continue;
            };
            cell.stop_waiting(core);
            if cell.base().address().parent().is_none() {
                cell.order(core, Order::StopAfter(StopReason::SystemStopped));
            }
            self.place(core, index);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }
}

impl Drop for ActorHost {
    fn drop(&mut self) {
        // Whoever waits or watches is told, and what is not handled any more is counted.
        for early in std::mem::take(&mut self.early).into_values().flatten() {
            early.refuse(StopReason::SystemStopped);
        }
        for mut cell in self.cells.drain() {
            let address = cell.base().address();
            let note = |cut_off: &mut CutOff| cut_off.add_actor(address);
            address.registry().note_cut_off(note);
            cell.abandon();
            let address = Arc::clone(cell.base().address());
            let_go(&address, cell);
        }
    }
}
