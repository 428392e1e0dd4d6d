//! The bulk processor: a plain actor that is a state machine.
//!
//! It is idle until the first item comes, and active with what has gathered until that is written:
//! when it is full, when the first item has lingered for long enough, or when somebody asks. While a
//! batch is being written it takes nothing, and what comes waits in its mailbox, which has a bound.

use std::time::Duration;

use perennial::prelude::*;
use perennial::{Failure, Fsm, StateMachine, StateTimeout};

use crate::item::Item;
use crate::sink::{Reason, Sink};

/// How long a batch may take on its way. The sink has a patience of its own, and ends the run when
/// that is over.
pub(crate) const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Gathers items and has them written together.
#[derive(Debug)]
pub struct BulkProcessor {
    fsm: Fsm<State>,
    batch: usize,
    linger: Duration,
    sink: Sink,
}

/// Where it stands.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// Nothing has gathered.
    Idle,
    /// Something has.
    Active {
        /// At least one, in the order in which they came.
        items: Vec<Item>,
    },
}

impl BulkProcessor {
    /// An idle one that writes `batch` items together, or what there is after `linger`.
    pub fn new(batch: usize, linger: Duration, sink: Sink) -> Self {
        Self {
            fsm: Fsm::new(State::Idle),
            batch,
            linger,
            sink,
        }
    }

    /// Becomes idle and has written what has gathered. Nothing else is handled until it is.
    fn flush(&mut self, reason: Reason, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        let State::Active { items } = cx.goto(self, State::Idle)? else {
            return cx.reply(());
        };
        let written = self.sink.write(reason, items);
        cx.exclusive()
            .timeout(NEVER)
            .later(written, |written, _: &mut Self, cx| {
                written?;
                cx.reply(())
            })
    }
}

impl Actor for BulkProcessor {
    fn started(&mut self, cx: &mut ActorCx<'_, Self>) -> Result<(), Failure> {
        cx.begin(self)
    }
}

impl StateMachine for BulkProcessor {
    type State = State;

    fn fsm(&mut self) -> &mut Fsm<State> {
        &mut self.fsm
    }

    fn state_timeout(&self) -> Option<StateTimeout> {
        match self.fsm.state() {
            State::Idle => None,
            State::Active { .. } => Some(StateTimeout::after(self.linger)),
        }
    }

    fn timed_out(&mut self, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        self.flush(Reason::Linger, cx)
    }
}

/// Message: one more item.
#[derive(Debug, Clone)]
pub struct Add(pub Item);

impl Receive<Add> for BulkProcessor {
    type Reply = ();

    fn receive(&mut self, Add(item): Add, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        let gathered = match self.fsm.state_mut() {
            State::Idle => {
                cx.goto(self, State::Active { items: vec![item] })?;
                1
            }
            State::Active { items } => {
                items.push(item);
                items.len()
            }
        };
        if gathered < self.batch {
            return cx.reply(());
        }
        self.flush(Reason::Full, cx)
    }
}

/// Message: write what has gathered. Answered when everything that was added before is written.
#[derive(Debug, Clone, Copy)]
pub struct Flush;

impl Receive<Flush> for BulkProcessor {
    type Reply = ();

    fn receive(&mut self, _: Flush, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        match self.fsm.state() {
            State::Idle => cx.reply(()),
            State::Active { .. } => self.flush(Reason::Asked, cx),
        }
    }
}

#[cfg(test)]
mod tests;
