//! An entity that goes on by reminders alone, and notes each of them.

use std::time::Duration;

use perennial::{Cx, Effect, Entity, EventSourced, Handle};
use serde::{Deserialize, Serialize};

/// Takes one step for each reminder, and has the next one come.
#[derive(Debug, Default)]
pub struct Relay {
    steps: Vec<u64>,
}

impl Relay {
    /// The entity type, with the name of its reminder.
    pub fn entity() -> Entity<Self> {
        Entity::<Self>::new(()).command::<Step>("relay.Step")
    }
}

impl EventSourced for Relay {
    const TYPE: &'static str = "Relay";
    type Event = u64;
    type Services = ();

    fn apply(&mut self, step: &u64) {
        self.steps.push(*step);
    }
}

/// The reminder of one step.
#[derive(Debug, Serialize, Deserialize)]
pub struct Step {
    number: u64,
    last: u64,
}

impl Handle<Step> for Relay {
    type Reply = ();

    fn handle(&self, step: Step, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        let then = cx.persist([step.number]);
        if step.number == step.last {
            return then.reply(|_| ());
        }
        let next = Step {
            number: step.number + 1,
            ..step
        };
        then.remind("step", Duration::from_millis(1), next)
            .reply(|_| ())
    }
}

/// Begins with the first of so many steps, unless it has begun.
#[derive(Debug)]
pub struct Begin(pub u64);

impl Handle<Begin> for Relay {
    type Reply = ();

    fn handle(&self, begin: Begin, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        if !self.steps.is_empty() {
            return cx.reply(());
        }
        let step = Step {
            number: 1,
            last: begin.0,
        };
        cx.persist([0])
            .remind("step", Duration::from_millis(1), step)
            .reply(|_| ())
    }
}

/// The steps that it has taken, 0 for its beginning.
#[derive(Debug)]
pub struct Steps;

impl Handle<Steps> for Relay {
    type Reply = Vec<u64>;

    fn handle(&self, _: Steps, cx: &Cx<'_, Self>) -> Effect<Self, Vec<u64>> {
        cx.reply(self.steps.clone())
    }
}
