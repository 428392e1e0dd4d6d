//! An actor that keeps what it gets.

use std::any::type_name;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perennial_core::{
    Actor, ActorCx, ActorRef, Failure, Receive, Received, Recipient, StopReason, Terminated,
};

use super::TestSystem;

/// How long [`Probe::expect`] waits, in virtual time.
const PATIENCE: Duration = Duration::from_secs(3);

/// An actor that keeps what it gets, for the test to look at, in the order in which it came. Made by
/// [`TestSystem::probe`]; it goes on when the probe is dropped, and ends with the system.
///
/// An actor under test that sends to a [`Recipient`] takes [`Probe::recipient`].
pub struct Probe<M: Send + 'static> {
    system: TestSystem,
    actor: ActorRef<Recorder<M>>,
    got: Arc<Mutex<VecDeque<Got<M>>>>,
}

/// The actor of a [`Probe`].
pub struct Recorder<M> {
    got: Arc<Mutex<VecDeque<Got<M>>>>,
}

enum Got<M> {
    Message(M),
    Terminated(Terminated),
}

impl<M: Send + 'static> Probe<M> {
    pub(super) fn new(system: &TestSystem) -> Self {
        let got = Arc::default();
        let recorder = Arc::clone(&got);
        let actor = system.spawn_anonymous(move || Recorder {
            got: Arc::clone(&recorder),
        });
        Self {
            system: system.clone(),
            actor: actor.expect("a probe is made while the system runs"),
            got,
        }
    }

    /// The actor. It replies `()` to whoever asks.
    pub fn actor(&self) -> &ActorRef<Recorder<M>> {
        &self.actor
    }

    /// The actor, for those who send what it takes and know nothing else of it.
    pub fn recipient(&self) -> Recipient<M> {
        self.actor.recipient()
    }

    /// The next message, within 3 s of virtual time. Time passes only as far as it takes.
    ///
    /// # Panics
    /// If none comes, or the end of an actor that it watches comes first. As [`TestSystem::run`].
    #[track_caller]
    pub fn expect(&self) -> M {
        self.expect_within(PATIENCE)
    }

    /// As [`Probe::expect`], within another time.
    ///
    /// # Panics
    /// As [`Probe::expect`].
    #[track_caller]
    pub fn expect_within(&self, within: Duration) -> M {
        match self.next(within) {
            Some(Got::Message(message)) => message,
            Some(Got::Terminated(terminated)) => panic!(
                "expected a {}, but {} has ended: {}",
                type_name::<M>(),
                terminated.path,
                terminated.reason
            ),
            None => panic!(
                "no {} has come within {within:?}: {}",
                type_name::<M>(),
                self.system.describe()
            ),
        }
    }

    /// Lets this much time pass, in which nothing comes.
    ///
    /// # Panics
    /// If something has come, or does. As [`TestSystem::run`].
    #[track_caller]
    pub fn expect_none(&self, within: Duration) {
        self.system.advance(within);
        let got = self.got();
        match got.front() {
            None => {}
            Some(Got::Message(_)) => panic!(
                "expected nothing within {within:?}, but {} of {} came",
                got.len(),
                type_name::<M>()
            ),
            Some(Got::Terminated(terminated)) => panic!(
                "expected nothing within {within:?}, but {} has ended: {}",
                terminated.path, terminated.reason
            ),
        }
    }

    /// The messages that have come by now and were not looked at, without letting anything happen.
    /// Those behind the end of a watched actor stay, as does that.
    pub fn received(&self) -> Vec<M> {
        let mut got = self.got();
        let mut messages = Vec::new();
        while let Some(Got::Message(_)) = got.front() {
            if let Some(Got::Message(message)) = got.pop_front() {
                messages.push(message);
            }
        }
        messages
    }

    /// Watches an actor; see [`Probe::expect_terminated`].
    ///
    /// # Panics
    /// As [`TestSystem::run`].
    #[track_caller]
    pub fn watch<A: Actor>(&self, actor: &ActorRef<A>) {
        let actor = actor.clone();
        self.command(move |cx| cx.watch(&actor));
    }

    /// Watches it no more.
    ///
    /// # Panics
    /// As [`TestSystem::run`].
    #[track_caller]
    pub fn unwatch<A: Actor>(&self, actor: &ActorRef<A>) {
        let actor = actor.clone();
        self.command(move |cx| cx.unwatch(&actor));
    }

    /// Why an actor has ended that the probe watches, within 3 s of virtual time.
    ///
    /// # Panics
    /// If it does not end, or something else comes first. As [`TestSystem::run`].
    #[track_caller]
    pub fn expect_terminated<A: Actor>(&self, actor: &ActorRef<A>) -> StopReason {
        match self.next(PATIENCE) {
            Some(Got::Terminated(terminated)) if terminated.is(actor) => terminated.reason,
            Some(Got::Terminated(terminated)) => panic!(
                "expected the end of {actor:?}, but {} has ended: {}",
                terminated.path, terminated.reason
            ),
            Some(Got::Message(_)) => panic!(
                "expected the end of {actor:?}, but a {} came",
                type_name::<M>()
            ),
            None => panic!(
                "{actor:?} has not ended within {PATIENCE:?}: {}",
                self.system.describe()
            ),
        }
    }

    #[track_caller]
    fn command(&self, command: impl FnOnce(&mut ActorCx<'_, Recorder<M>>) + Send + 'static) {
        let command = Command(Box::new(command));
        let sent = self.system.tell(&self.actor, command);
        assert!(sent.is_ok(), "a probe watches while it has not ended");
    }

    #[track_caller]
    fn next(&self, within: Duration) -> Option<Got<M>> {
        let end = self.system.elapsed().saturating_add(within);
        self.system.run_until(end, || !self.got().is_empty());
        self.got().pop_front()
    }

    fn got(&self) -> MutexGuard<'_, VecDeque<Got<M>>> {
        lock(&self.got)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing can panic while it is held but a comparison of the test's own.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<M: Send + 'static> Actor for Recorder<M> {
    fn terminated(
        &mut self,
        terminated: &Terminated,
        _: &mut ActorCx<'_, Self>,
    ) -> Result<(), Failure> {
        lock(&self.got).push_back(Got::Terminated(terminated.clone()));
        Ok(())
    }
}

impl<M: Send + 'static> Receive<M> for Recorder<M> {
    type Reply = ();

    fn receive(&mut self, message: M, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        lock(&self.got).push_back(Got::Message(message));
        cx.reply(())
    }
}

/// What the probe's actor is to do. It cannot be what any probe keeps: its type holds that of the
/// probe.
struct Command<M: Send + 'static>(Code<M>);

type Code<M> = Box<dyn FnOnce(&mut ActorCx<'_, Recorder<M>>) + Send>;

impl<M: Send + 'static> Receive<Command<M>> for Recorder<M> {
    type Reply = ();

    fn receive(&mut self, command: Command<M>, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        (command.0)(cx);
        cx.reply(())
    }
}

impl<M: Send + 'static> fmt::Debug for Probe<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe")
            .field("actor", &self.actor)
            .field("got", &self.got().len())
            .finish_non_exhaustive()
    }
}

impl<M> fmt::Debug for Recorder<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder")
            .field("got", &lock(&self.got).len())
            .finish_non_exhaustive()
    }
}
