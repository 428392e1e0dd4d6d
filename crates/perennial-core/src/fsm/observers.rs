//! Who is told of a machine's transitions.

use std::fmt;

use perennial_persistence::PersistenceId;

use crate::actor::{ActorPath, Recipient};
use crate::error::AskError;

/// A machine has come from one state to another, or to the same one anew. What an observer is told;
/// see [`Observe`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Transition<S> {
    /// Which machine, for whoever observes several.
    pub machine: MachineName,
    /// The state that was left, with its data as they were then.
    pub from: S,
    /// The state that was entered, with its data as they were then.
    pub to: S,
    /// How many transitions right before this one the observer was not told of, because there was no
    /// room for them in its mailbox.
    pub missed: u64,
}

/// Who a machine is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MachineName {
    /// A plain actor.
    Actor(ActorPath),
    /// An entity.
    Entity(PersistenceId),
}

impl fmt::Display for MachineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Actor(path) => path.fmt(f),
            Self::Entity(id) => id.fmt(f),
        }
    }
}

/// Tells a machine to report its transitions from now on. Every machine whose states are `Clone`
/// takes this message; the reply is the state in which it is now, so nothing is missed between that
/// and the first [`Transition`].
///
/// One that observes already is not added again. It observes until it has ended, or until
/// [`Unobserve`]; also while a plain machine restarts, which is told as a transition to the state
/// with which it begins, and while a persistent one is not in memory. An observer without room in its
/// mailbox is not waited for: the next one that it gets says how many it missed. A machine holds a
/// reference to each of its observers.
///
/// Of a persistent machine observers see only what is durable. Should it come back in another state
/// than the one that was told last, as one whose write had an unknown outcome, that is told as a
/// transition too.
pub struct Observe<S> {
    pub(crate) observer: Recipient<Transition<S>>,
}

impl<S> Observe<S> {
    /// Has `observer` told.
    pub fn new(observer: Recipient<Transition<S>>) -> Self {
        Self { observer }
    }
}

impl<S> fmt::Debug for Observe<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Observe").field(&self.observer).finish()
    }
}

/// Takes an [`Observe`] back, if there was one. When the reply is there, nothing more is told.
pub struct Unobserve<S> {
    pub(crate) observer: Recipient<Transition<S>>,
}

impl<S> Unobserve<S> {
    /// Has `observer` told no more.
    pub fn new(observer: Recipient<Transition<S>>) -> Self {
        Self { observer }
    }
}

impl<S> fmt::Debug for Unobserve<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Unobserve").field(&self.observer).finish()
    }
}

/// The observers of one machine. There is no bound of their number but that of those who are there:
/// each is told of once, and one that has ended is forgotten at the next transition or message about
/// observers.
pub(crate) struct Observers<S> {
    /// That of a state, which need not be `Clone` unless it is observed.
    clone: fn(&S) -> S,
    /// The state that was told last.
    told: S,
    list: Vec<Observer<S>>,
}

struct Observer<S> {
    recipient: Recipient<Transition<S>>,
    missed: u64,
}

impl<S: Clone> Observers<S> {
    /// Adds `observer` to those who are there by now, which may be none.
    pub(crate) fn add(observers: &mut Option<Self>, observer: Recipient<Transition<S>>, now: &S) {
        let observers = observers.get_or_insert_with(|| Self {
            clone: S::clone,
            told: now.clone(),
            list: Vec::new(),
        });
        observers.forget_ended();
        let known = observers.list.iter();
        if !known.into_iter().any(|known| known.recipient == observer) {
            observers.list.push(Observer {
                recipient: observer,
                missed: 0,
            });
        }
    }
}

impl<S> Observers<S> {
    /// Removes `observer`, if it is there.
    pub(crate) fn remove(observers: &mut Option<Self>, observer: &Recipient<Transition<S>>) {
        if let Some(there) = observers {
            there.list.retain(|known| known.recipient != *observer);
        }
        Self::is_observed(observers);
    }

    /// Whether anybody is told.
    pub(crate) fn is_observed(observers: &mut Option<Self>) -> bool {
        if let Some(there) = observers {
            there.forget_ended();
            if there.list.is_empty() {
                *observers = None;
            }
        }
        observers.is_some()
    }

    pub(crate) fn clone_of(&self, state: &S) -> S {
        (self.clone)(state)
    }

    /// The state that was told last.
    pub(crate) fn told(&self) -> &S {
        &self.told
    }

    /// Tells of a transition.
    pub(crate) fn tell(&mut self, machine: &MachineName, from: &S, to: &S)
    where
        S: Send + 'static,
    {
        let clone = self.clone;
        self.list.retain_mut(|observer| {
            if observer.recipient.has_ended() {
                return false;
            }
            let told = observer.recipient.tell(Transition {
                machine: machine.clone(),
                from: clone(from),
                to: clone(to),
                missed: observer.missed,
            });
            match told {
                Ok(()) => observer.missed = 0,
                Err(AskError::Busy { .. }) => observer.missed += 1,
                // It has ended, or can never be reached.
                Err(_) => return false,
            }
            true
        });
        self.told = clone(to);
    }

    /// Tells that the machine is in another state than the last one that was told.
    pub(crate) fn tell_of_jump(&mut self, machine: &MachineName, to: &S)
    where
        S: Send + 'static,
    {
        let from = self.clone_of(&self.told);
        self.tell(machine, &from, to);
    }

    fn forget_ended(&mut self) {
        self.list.retain(|observer| !observer.recipient.has_ended());
    }
}
