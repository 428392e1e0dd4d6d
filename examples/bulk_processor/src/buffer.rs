//! The bulk processor as an event-sourced entity: what it was given outlives the process.
//!
//! It is the machine of [`processor`](crate::processor) once more, but an item that was taken is an
//! event, and so is that a batch is written. When it comes back with something that has gathered, that
//! is written once more: perhaps it was already, which the table finds out.

use std::time::Duration;

use perennial::prelude::*;
use perennial::{PersistentFsm, PersistentStateMachine, Retention, StateTimeout};
use serde::{Deserialize, Serialize};

use crate::item::Item;
use crate::processor::NEVER;
use crate::sink::{Reason, Sink};

/// The entity type.
pub const ENTITY_TYPE: &str = "BulkBuffer";

/// The only one: its persistence id is `BulkBuffer|flights`.
pub const ENTITY_ID: &str = "flights";

/// A snapshot stands for the events before, which are deleted.
const SNAPSHOT_EVERY: u64 = 5_000;

/// Gathers items and has them written together, through crashes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Buffer {
    fsm: PersistentFsm<State>,
}

/// Where it stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub enum State {
    /// Nothing has gathered.
    #[default]
    Idle,
    /// Something has.
    Active {
        /// At least one, in the order in which they came.
        items: Vec<Item>,
    },
}

/// What happens to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// An item was taken.
    Taken(Item),
    /// All that had gathered is written.
    Written,
}

/// What it needs from outside.
#[derive(Debug, Clone)]
pub struct Services {
    /// How many items are written together.
    pub batch: usize,
    /// How long the first one waits for that.
    pub linger: Duration,
    /// Where they go.
    pub sink: Sink,
}

/// The entity as it is given to the system.
pub fn entity(services: Services) -> Entity<Buffer> {
    Entity::new(services)
        .snapshot_every(SNAPSHOT_EVERY)
        .retention(Retention::every(SNAPSHOT_EVERY).keep(0).delete_events())
}

impl Buffer {
    fn gathered(&self) -> &[Item] {
        match self.fsm.state() {
            State::Idle => &[],
            State::Active { items } => items,
        }
    }

    fn is_full(&self, cx: &Cx<'_, Self>) -> bool {
        self.gathered().len() >= cx.services().batch
    }

    /// Has written what has gathered; nothing else is handled until it is.
    fn flush(&self, reason: Reason, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        let items = self.gathered().to_vec();
        let written = cx.services().sink.write(reason, items);
        cx.later(written, |written, _, cx| match written {
            Ok(()) => cx.persist([Event::Written]).reply(|_| ()),
            // The run ends. What has gathered is there for the next one.
            Err(_) => cx.no_reply(),
        })
        .timeout(NEVER)
    }
}

impl PersistentStateMachine for Buffer {
    const TYPE: &'static str = ENTITY_TYPE;
    type Event = Event;
    type Services = Services;
    type State = State;

    fn fsm(&self) -> &PersistentFsm<State> {
        &self.fsm
    }

    fn apply(&mut self, event: &Event) {
        match (event, self.fsm.state_mut()) {
            (Event::Taken(item), State::Active { items }) => items.push(item.clone()),
            (Event::Taken(item), State::Idle) => self.fsm.goto(State::Active {
                items: vec![item.clone()],
            }),
            (Event::Written, _) => self.fsm.goto(State::Idle),
        }
    }

    fn state_timeout(&self, cx: &Cx<'_, Self>) -> Option<StateTimeout> {
        match self.fsm.state() {
            State::Idle => None,
            // It comes back full when it was killed while it wrote.
            State::Active { .. } if self.is_full(cx) => Some(StateTimeout::after(Duration::ZERO)),
            State::Active { .. } => Some(StateTimeout::after(cx.services().linger)),
        }
    }

    fn timed_out(&self, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        let reason = if self.is_full(cx) {
            Reason::Full
        } else {
            Reason::Linger
        };
        self.flush(reason, cx)
    }
}

/// Command: take an item. Answered when it is durable.
#[derive(Debug, Clone)]
pub struct Take(pub Item);

impl Handle<Take> for Buffer {
    type Reply = ();

    fn handle(&self, take: Take, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        if self.is_full(cx) {
            // It comes back when the machine is idle again.
            return cx.stash(take);
        }
        if self.gathered().len() + 1 >= cx.services().batch {
            cx.timers().start_single("full", Duration::ZERO, Full);
        }
        cx.persist([Event::Taken(take.0)]).reply(|_| ())
    }
}

/// Command to itself: a batch is full.
struct Full;

impl Handle<Full> for Buffer {
    type Reply = ();

    fn handle(&self, _: Full, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        // Unless it was written meanwhile, as its time was over.
        if self.is_full(cx) {
            self.flush(Reason::Full, cx)
        } else {
            cx.no_reply()
        }
    }
}

/// Command: write what has gathered. Answered when everything that was taken before is written.
#[derive(Debug, Clone, Copy)]
pub struct Flush;

impl Handle<Flush> for Buffer {
    type Reply = ();

    fn handle(&self, _: Flush, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        match self.fsm.state() {
            State::Idle => cx.reply(()),
            State::Active { .. } => self.flush(Reason::Asked, cx),
        }
    }
}

#[cfg(test)]
mod tests;
