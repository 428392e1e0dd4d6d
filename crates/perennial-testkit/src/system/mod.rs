//! Tests of actors: a whole system on the thread of the test, in virtual time.
//!
//! ```
//! use std::time::Duration;
//!
//! use perennial_core::{Actor, ActorCx, Receive, Received, Recipient};
//! use perennial_testkit::TestSystem;
//!
//! /// Says so when nobody has knocked for a while.
//! struct Door {
//!     knocks: u32,
//!     quiet: Recipient<Quiet>,
//! }
//!
//! #[derive(Debug, Clone, PartialEq)]
//! struct Quiet {
//!     after: u32,
//! }
//!
//! impl Actor for Door {}
//!
//! struct Knock;
//!
//! impl Receive<Knock> for Door {
//!     type Reply = u32;
//!
//!     fn receive(&mut self, _: Knock, cx: &mut ActorCx<'_, Self>) -> Received<Self, u32> {
//!         self.knocks += 1;
//!         cx.timers().start_single("quiet", Duration::from_secs(60), BeQuiet);
//!         cx.reply(self.knocks)
//!     }
//! }
//!
//! struct BeQuiet;
//!
//! impl Receive<BeQuiet> for Door {
//!     type Reply = ();
//!
//!     fn receive(&mut self, _: BeQuiet, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
//!         self.quiet.tell(Quiet { after: self.knocks })?;
//!         cx.reply(())
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let t = TestSystem::new();
//! let probe = t.probe::<Quiet>();
//! let quiet = probe.recipient();
//! let door = t.spawn("door", move || Door { knocks: 0, quiet: quiet.clone() })?;
//!
//! assert_eq!(t.ask(&door, Knock), Ok(1));
//! t.advance(Duration::from_secs(59));
//! assert_eq!(t.ask(&door, Knock), Ok(2));
//! probe.expect_none(Duration::from_secs(59));
//! assert_eq!(probe.expect(), Quiet { after: 2 });
//! assert_eq!(t.state(&door, |door| door.knocks), 2);
//! # Ok(())
//! # }
//! ```

mod builder;
mod probe;
mod target;
mod task;

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use perennial_core::engine::Registry;
use perennial_core::{
    Actor, ActorRef, AskError, DeadLetterReason, EntityRef, EventSourced, Props, SpawnError,
    Terminated,
};
use perennial_persistence::{Clock, PersistenceId, Timestamp};

pub use builder::TestSystemBuilder;
pub use probe::{Probe, Recorder};
pub use target::{Inside, Target};
use task::Pollable;
pub use task::TestTask;

use crate::driver::{Driver, Wakes};
use crate::{Faults, ManualClock, MemoryStore};

/// Turns in a row after which a system counts as one that never comes to rest.
const TURNS: usize = 250_000;

/// Times to which the clock is set in a row while nothing that is waited for comes.
const MOMENTS: usize = 100_000;

/// A whole system under test, on the thread of the test: plain actors and entities, several workers,
/// no runtime, no database and no sleeping. Cheap to clone; all clones are the same system.
///
/// What runs is the code that ships: the engine's workers, mailboxes with their bounds, supervision,
/// and for entities their own codecs in front of a store in memory. Only what drives the workers is
/// another: nothing goes on unless the test calls.
///
/// - *Order*: which worker is next, and how much of what waits for it its turn takes, is drawn from a
///   seed, [`TestSystemBuilder::seed`]. The same test with the same seed takes the same course, line
///   by line; with another one it takes another course that may happen as well.
/// - *Time* is virtual, for all workers at once, and stands still until [`TestSystem::advance`], or
///   until something is waited for that only time brings, as by [`TestSystem::ask`]. Everything that
///   is due happens at its own time.
/// - *Futures* of `later` are polled on the test's thread; work of `blocking` runs there. See
///   [`TestSystem::wait_for_futures`] for those that need a runtime.
///
/// Its methods first let everything happen that can without more time, unless they say otherwise. A
/// system that goes on and on, such as two actors that answer each other for ever, makes the test
/// panic after 250,000 turns.
#[derive(Clone)]
pub struct TestSystem {
    inner: Rc<Inner>,
}

struct Inner {
    driver: RefCell<Driver>,
    registry: Arc<Registry>,
    clock: ManualClock,
    memory: MemoryStore,
    faults: Faults,
    shutdown_timeout: Duration,
    /// Futures of the test.
    tasks: RefCell<Vec<Weak<dyn Pollable>>>,
    wakes: Arc<Wakes>,
}

impl TestSystem {
    /// A system with two workers, default settings and no entity types.
    #[expect(
        clippy::new_without_default,
        reason = "a system is started, not a value"
    )]
    pub fn new() -> Self {
        Self::builder().start()
    }

    /// A system with entity types, settings, or a seed of its own.
    pub fn builder() -> TestSystemBuilder {
        TestSystemBuilder::new()
    }

    /// Spawns an actor without a parent, as [`ActorSystem::spawn`] does. It starts when the system
    /// is let run.
    ///
    /// [`ActorSystem::spawn`]: perennial_core::ActorSystem::spawn
    ///
    /// # Errors
    /// [`SpawnError`] for a name that another one has or that cannot be one, and after a shutdown.
    pub fn spawn<A: Actor>(
        &self,
        name: impl AsRef<str>,
        props: impl Into<Props<A>>,
    ) -> Result<ActorRef<A>, SpawnError> {
        let registry = &self.inner.registry;
        registry.spawn(Some(name.as_ref()), props.into())
    }

    /// As [`TestSystem::spawn`], called by a number.
    ///
    /// # Errors
    /// [`SpawnError::Stopped`] after a shutdown.
    pub fn spawn_anonymous<A: Actor>(
        &self,
        props: impl Into<Props<A>>,
    ) -> Result<ActorRef<A>, SpawnError> {
        self.inner.registry.spawn(None, props.into())
    }

    /// The actor with a path such as `/orders/worker-1`, if there is one and it is an `A`.
    pub fn actor<A: Actor>(&self, path: impl AsRef<str>) -> Option<ActorRef<A>> {
        self.run();
        self.inner.registry.actor(path.as_ref())
    }

    /// The entity of type `E` with this id, which need not exist yet.
    pub fn entity<E: EventSourced>(&self, entity_id: impl AsRef<str>) -> EntityRef<E> {
        self.inner.registry.entity(entity_id.as_ref())
    }

    /// The entity of type `E` with a whole id, which need not begin with its type.
    pub fn entity_with_id<E: EventSourced>(&self, id: PersistenceId) -> EntityRef<E> {
        self.inner.registry.entity_with_id(id)
    }

    /// An actor that keeps what it gets, for the test to look at.
    pub fn probe<M: Send + 'static>(&self) -> Probe<M> {
        Probe::new(self)
    }

    /// Sends a message to an actor or a command to an entity, and lets everything happen that comes
    /// of it without more time.
    ///
    /// # Errors
    /// As [`ActorRef::tell`]: it was not sent.
    ///
    /// # Panics
    /// As [`TestSystem::run`].
    #[track_caller]
    pub fn tell<T: Target<M>, M>(&self, target: &T, message: M) -> Result<(), AskError> {
        let sent = target.telling(message);
        self.run();
        sent
    }

    /// Asks an actor or an entity, and lets time pass until the answer is there: at the latest when
    /// the system's `ask-timeout` is over, 5 s of virtual time by default.
    ///
    /// For a question with another timeout, `t.block_on(actor.ask(…).timeout(…))`; for one whose
    /// answer the test does not wait for yet, `t.task(actor.ask(…))`.
    ///
    /// # Errors
    /// As [`ActorRef::ask`].
    ///
    /// # Panics
    /// As [`TestSystem::run`].
    #[track_caller]
    pub fn ask<T: Target<M>, M>(&self, target: &T, message: M) -> Result<T::Reply, AskError> {
        self.block_on(target.asking(message))
    }

    /// Begins a future that goes on whenever the system does, such as an ask whose answer the test
    /// looks at later: `t.task(actor.ask(…))`. It is begun before this returns, and nothing else
    /// happens yet. Dropping the task drops the future.
    pub fn task<F: IntoFuture>(&self, future: F) -> TestTask<F::Output>
    where
        F::IntoFuture: 'static,
        F::Output: 'static,
    {
        let task = TestTask::new(self, future.into_future());
        let mut tasks = self.inner.tasks.borrow_mut();
        tasks.retain(|task| task.strong_count() > 0);
        tasks.push(task.pollable());
        drop(tasks);
        self.inner.wakes.look_again();
        self.poll_tasks();
        task
    }

    /// Runs a future to its end, and lets time pass while it waits for the system.
    ///
    /// # Panics
    /// If nothing in the system can bring what it waits for, and as [`TestSystem::run`].
    #[track_caller]
    pub fn block_on<F: IntoFuture>(&self, future: F) -> F::Output {
        let mut future = pin!(future.into_future());
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let mut context = Context::from_waker(&waker);
        for _ in 0..MOMENTS {
            loop {
                self.run();
                if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                    self.run();
                    return output;
                }
                self.run();
                if !wakes.take() {
                    break;
                }
            }
            let Some(at) = self.next_time() else {
                panic!(
                    "the future waits for something that nothing in the system will bring: {}",
                    self.describe()
                );
            };
            self.set_clock(at);
        }
        panic!(
            "the future has not ended after {MOMENTS} moments of virtual time: {}",
            self.describe()
        );
    }

    /// Lets everything happen that can without more time.
    ///
    /// # Panics
    /// If the system does not come to rest within 250,000 turns.
    #[track_caller]
    pub fn run(&self) {
        loop {
            if let Ok(mut driver) = self.inner.driver.try_borrow_mut() {
                assert!(
                    driver.drive(TURNS, || {}),
                    "the system does not come to rest: it has something to do after {TURNS} turns"
                );
            }
            if !self.poll_tasks() {
                return;
            }
        }
    }

    /// Lets one worker have one turn, and no more; for tests of what may happen in between. Which one
    /// it is, and how much of what waits for it the turn takes, is drawn from the seed. Gives whether
    /// anything has happened; if not, nothing can without more time or messages.
    pub fn step(&self) -> bool {
        let went_on = self.inner.driver.borrow_mut().step(&mut || {});
        self.poll_tasks() || went_on
    }

    /// Lets time pass: timers fire, questions expire, actors restart after their waits, each at its
    /// own time.
    ///
    /// # Panics
    /// As [`TestSystem::run`].
    #[track_caller]
    pub fn advance(&self, by: Duration) {
        let end = self.elapsed().saturating_add(by);
        loop {
            self.run();
            if self.elapsed() >= end {
                return;
            }
            let next = self.next_time().filter(|at| *at <= end).unwrap_or(end);
            self.set_clock(next);
        }
    }

    /// Lets time pass until nothing waits for it any more. Gives how long that took.
    ///
    /// # Panics
    /// After a hundred thousand moments at which something was due: a repeated timer or a receive
    /// time-out always has more to come, and so has an entity type with commands that may be
    /// reminders, which are looked for now and then. As [`TestSystem::run`].
    #[track_caller]
    pub fn advance_until_idle(&self) -> Duration {
        let start = self.elapsed();
        for _ in 0..MOMENTS {
            self.run();
            let Some(at) = self.next_time() else {
                return self.elapsed().saturating_sub(start);
            };
            self.set_clock(at);
        }
        panic!(
            "something still waits for time after {MOMENTS} moments at which something was due, \
             such as a repeated timer: {}",
            self.describe()
        );
    }

    /// Waits until no future of `later` is open, on the runtime of whoever awaits this. For futures
    /// that need one: in a test with `#[tokio::test]` they find tokio in every other call too.
    ///
    /// # Panics
    /// As [`TestSystem::run`].
    pub async fn wait_for_futures(&self) {
        poll_fn(|context| {
            self.inner.driver.borrow().register(context.waker());
            self.run();
            if self.inner.driver.borrow().open_futures() == 0 {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// What `look` sees of an actor's value or an entity's state, which may be ahead of the store.
    /// Nothing of the system is to be called from inside.
    ///
    /// # Panics
    /// If there is none, as the actor has ended or waits to begin anew, or the entity is not in
    /// memory. As [`TestSystem::run`].
    #[track_caller]
    pub fn state<T: Inside, V>(&self, target: &T, look: impl FnOnce(&T::State) -> V) -> V {
        self.run();
        let driver = self.inner.driver.borrow();
        let worker = target
            .worker(&self.inner.registry)
            .and_then(|number| driver.worker(number));
        match worker.and_then(|worker| target.inside(worker)) {
            Some(state) => look(state),
            None => panic!("{target:?} has no state at the moment: it is not running"),
        }
    }

    /// Whether an actor is running: it has started and has neither ended nor waits to begin anew.
    /// Of an entity, whether it is in memory with its state.
    ///
    /// # Panics
    /// As [`TestSystem::run`].
    #[track_caller]
    pub fn is_running<T: Inside>(&self, target: &T) -> bool {
        self.run();
        let driver = self.inner.driver.borrow();
        target
            .worker(&self.inner.registry)
            .and_then(|number| driver.worker(number))
            .is_some_and(|worker| target.inside(worker).is_some())
    }

    /// The number of the worker on which an actor or entity lives.
    ///
    /// # Panics
    /// For an entity with an id that cannot be one.
    #[track_caller]
    pub fn worker_of<T: Inside>(&self, target: &T) -> usize {
        match target.worker(&self.inner.registry) {
            Some(number) => number,
            None => panic!("{target:?} lives nowhere"),
        }
    }

    /// Waits for the end of an actor without keeping it from it: the task has ended when it has.
    pub fn watch<A: Actor>(&self, actor: &ActorRef<A>) -> TestTask<Terminated> {
        let actor = actor.downgrade();
        self.task(async move { actor.terminated().await })
    }

    /// How many messages were accepted and are not handled, for this reason.
    ///
    /// # Panics
    /// As [`TestSystem::run`].
    #[track_caller]
    pub fn dead_letters(&self, reason: DeadLetterReason) -> u64 {
        self.run();
        let counts = self.inner.registry.dead_letter_counts();
        counts
            .into_iter()
            .find_map(|(of, count)| (of == reason).then_some(count))
            .unwrap_or(0)
    }

    /// How many messages and commands are between their senders and their handlers, at all workers.
    ///
    /// # Panics
    /// As [`TestSystem::run`].
    #[track_caller]
    pub fn waiting(&self) -> usize {
        self.run();
        self.inner.registry.waiting()
    }

    /// How many actors have not ended, probes included.
    ///
    /// # Panics
    /// As [`TestSystem::run`].
    #[track_caller]
    pub fn actors(&self) -> usize {
        self.run();
        self.inner.registry.live_actors()
    }

    /// Ends the system as [`ActorSystem::shutdown`] does, in virtual time: actors handle what waits
    /// for them, children end before their parents, entities flush. Gives whether that was done
    /// within `shutdown-timeout`; what is left then is dropped.
    ///
    /// [`ActorSystem::shutdown`]: perennial_core::ActorSystem::shutdown
    ///
    /// # Panics
    /// As [`TestSystem::run`].
    #[track_caller]
    pub fn shutdown(&self) -> bool {
        let Inner {
            registry, driver, ..
        } = &*self.inner;
        let begin = self.elapsed();
        registry.stop_actors();
        let of_actors = begin.saturating_add(self.inner.shutdown_timeout / 2);
        let actors_ended = self.run_until(of_actors, || registry.live_actors() == 0);
        registry.close();
        driver.borrow_mut().shut_down();
        let deadline = begin.saturating_add(self.inner.shutdown_timeout);
        let in_time = self.run_until(deadline, || driver.borrow().has_ended());
        driver.borrow_mut().end();
        self.run();
        in_time && actors_ended
    }

    /// Ends every worker at once, as a crash does: nothing is handled or flushed any more. Entities
    /// come back in another system on the same [store](TestSystemBuilder::store).
    pub fn crash(&self) {
        self.inner.registry.stop_actors();
        self.inner.registry.close();
        self.inner.driver.borrow_mut().end();
    }

    /// The time by the system's clock.
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// How much virtual time has passed.
    pub fn elapsed(&self) -> Duration {
        self.inner.clock.elapsed()
    }

    /// The clock that the system sees. Moving it fires no timer before the system runs again;
    /// [`TestSystem::advance`] does.
    pub fn clock(&self) -> &ManualClock {
        &self.inner.clock
    }

    /// The store behind the entities, for looking at rows.
    pub fn store(&self) -> &MemoryStore {
        &self.inner.memory
    }

    /// What goes wrong at the store; see [`Spec::faults`](crate::Spec::faults).
    pub fn faults(&self) -> &Faults {
        &self.inner.faults
    }

    #[cfg(feature = "simulation")]
    pub(crate) fn dead_letter_counts(&self) -> Vec<(DeadLetterReason, u64)> {
        self.inner.registry.dead_letter_counts()
    }

    /// Lets time pass up to `end` until `is_done`. Gives whether it is.
    #[track_caller]
    fn run_until(&self, end: Duration, is_done: impl Fn() -> bool) -> bool {
        loop {
            self.run();
            if is_done() {
                return true;
            }
            match self.next_time().filter(|at| *at <= end) {
                Some(at) => self.set_clock(at),
                None => {
                    self.set_clock(end);
                    self.run();
                    return is_done();
                }
            }
        }
    }

    /// Polls the futures of the test that can go on. Gives whether there was any.
    fn poll_tasks(&self) -> bool {
        let Inner { tasks, wakes, .. } = &*self.inner;
        if !wakes.take() {
            return false;
        }
        let waker = Waker::from(Arc::clone(wakes));
        let mut context = Context::from_waker(&waker);
        let open: Vec<Rc<dyn Pollable>> = tasks.borrow().iter().filter_map(Weak::upgrade).collect();
        for task in open {
            task.poll(&mut context);
        }
        true
    }

    fn next_time(&self) -> Option<Duration> {
        self.inner.driver.borrow().next_time()
    }

    /// Sets the clock to a time that is not before the present one.
    fn set_clock(&self, at: Duration) {
        let clock = &self.inner.clock;
        clock.advance(at.saturating_sub(clock.elapsed()));
    }

    /// How it stands, for those who wait in vain.
    fn describe(&self) -> String {
        let driver = self.inner.driver.borrow();
        format!(
            "{:?} have passed, {} actors have not ended, {} messages wait, {} futures and {} calls \
             of the store are open",
            self.elapsed(),
            self.inner.registry.live_actors(),
            self.inner.registry.waiting(),
            driver.open_futures(),
            driver.open_calls(),
        )
    }
}

impl fmt::Debug for TestSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestSystem")
            .field("elapsed", &self.elapsed())
            .field("actors", &self.inner.registry.live_actors())
            .finish_non_exhaustive()
    }
}
