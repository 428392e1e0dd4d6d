//! The entity of the cases: it counts, and each event is about as large as a small real one.

use perennial::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Debug, Default)]
pub(crate) struct Counter {
    sum: i64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Added {
    pub(crate) amount: i64,
    pub(crate) reason: String,
}

impl Added {
    pub(crate) fn new(amount: i64) -> Self {
        Self {
            amount,
            reason: "an order was paid at the counter".to_owned(),
        }
    }

    /// The event as the floors write it.
    pub(crate) fn encoded() -> Vec<u8> {
        rmp_serde::to_vec_named(&Self::new(1)).expect("a plain struct can be encoded")
    }
}

pub(crate) const MANIFEST: &str = "Counter.Event";

impl EventSourced for Counter {
    const TYPE: &'static str = "Counter";
    type Event = Added;
    type Services = ();

    fn apply(&mut self, event: &Added) {
        self.sum += event.amount;
    }
}

/// Stores an event.
pub(crate) struct Add(pub(crate) i64);

impl Handle<Add> for Counter {
    type Reply = i64;

    fn handle(&self, command: Add, cx: &Cx<'_, Self>) -> Effect<Self, i64> {
        cx.persist([Added::new(command.0)])
            .reply(|counter| counter.sum)
    }
}

/// Stores nothing.
pub(crate) struct Sum;

impl Handle<Sum> for Counter {
    type Reply = i64;

    fn handle(&self, _: Sum, cx: &Cx<'_, Self>) -> Effect<Self, i64> {
        cx.reply(self.sum)
    }
}
