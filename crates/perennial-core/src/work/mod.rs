//! Work pulling: a bounded queue of work, and workers who get more of it when they are ready.
//!
//! Where a router pushes a message to an actor that may have too much to do or end with it, a work
//! queue keeps each piece of work until a worker says that it is done. What a worker had when it
//! failed goes to another one. The idea is that of Akka's `WorkPullingProducerController`.
//!
//! The queue is shared memory. A worker's mailbox gets a letter with a ticket; the work is handed
//! over when the letter is handled, so that the queue can take back what a worker has not begun.

mod book;
mod exchange;

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::actor::{ActorPath, ActorRef, Receive};
use crate::call::Call;
use crate::engine::Registry;
use crate::engine::actor::{Draw, Order, Watcher};
use crate::entity_ref::Asking;
use crate::error::AskError;
use crate::reply::{self, ReplyTo};
use book::Ticket;
use exchange::{Keeper, Shared, Target};

/// The settings of a [`WorkQueue`].
pub struct WorkQueueProps<W> {
    capacity: usize,
    attempts: Option<u32>,
    discarded: Option<OnDiscarded<W>>,
}

type OnDiscarded<W> = Arc<dyn Fn(Discarded<W>) + Send + Sync>;

impl<W> WorkQueueProps<W> {
    /// A queue that holds `capacity` pieces of work that are not done, waiting or in progress; at
    /// least 1 and at most 16,777,216, within which other values are held.
    pub fn new(capacity: usize) -> Self {
        const MOST: usize = 1 << 24;
        Self {
            capacity: capacity.clamp(1, MOST),
            attempts: None,
            discarded: None,
        }
    }

    /// How often a piece of work may be begun, at least once. One that was given up as often is
    /// discarded. Without a limit it is tried until it is done.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = Some(attempts.max(1));
        self
    }

    /// Has `discarded` called with work that nobody will do: it was given up too often, or the system
    /// has stopped. It runs where that is found out, possibly on a worker, so it must be quick; a
    /// panic of it is logged. Without it such work is only counted and logged.
    pub fn on_discarded(
        mut self,
        discarded: impl Fn(Discarded<W>) + Send + Sync + 'static,
    ) -> Self {
        self.discarded = Some(Arc::new(discarded));
        self
    }
}

/// 1,024 pieces of work, tried until they are done.
impl<W> Default for WorkQueueProps<W> {
    fn default() -> Self {
        Self::new(1024)
    }
}

impl<W> fmt::Debug for WorkQueueProps<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkQueueProps")
            .field("capacity", &self.capacity)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

/// Work that nobody will do.
#[derive(Debug)]
#[non_exhaustive]
pub struct Discarded<W> {
    /// What it was.
    pub work: Arc<W>,
    /// How often it was begun.
    pub attempts: u32,
    /// Why nobody will do it.
    pub reason: DiscardReason,
}

/// Why nobody will do a piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiscardReason {
    /// It was given up as often as it may be.
    TooManyAttempts,
    /// The system has stopped.
    SystemStopped,
}

impl DiscardReason {
    /// What it is called in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooManyAttempts => "too-many-attempts",
            Self::SystemStopped => "system-stopped",
        }
    }
}

/// Work was not accepted. It comes back with the reason.
pub struct NotAccepted<W> {
    /// What was to be done.
    pub work: W,
    /// Why it was not accepted: [`AskError::Busy`] or [`AskError::Stopped`].
    pub error: AskError,
}

impl<W> fmt::Debug for NotAccepted<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NotAccepted({:?})", self.error)
    }
}

impl<W> fmt::Display for NotAccepted<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<W> std::error::Error for NotAccepted<W> {}

/// A bounded queue of work of type `W`, done by workers with a reply of type `R`. Cheap to clone; all
/// clones are the same queue. Made by [`ActorSystem::work_queue`](crate::ActorSystem::work_queue).
///
/// ```
/// use perennial_core::config::ConfigSource;
/// use perennial_core::{
///     Actor, ActorCx, ActorSystem, Assignment, Failure, Receive, Received, WorkQueue,
///     WorkQueueProps,
/// };
///
/// struct Resize(u32);
///
/// struct Resizer {
///     queue: WorkQueue<Resize, u32>,
/// }
///
/// impl Actor for Resizer {
///     fn started(&mut self, cx: &mut ActorCx<'_, Self>) -> Result<(), Failure> {
///         self.queue.join(&cx.myself(), 1); // one image at a time
///         Ok(())
///     }
/// }
///
/// impl Receive<Assignment<Resize, u32>> for Resizer {
///     type Reply = ();
///     fn receive(&mut self, work: Assignment<Resize, u32>, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
///         let half = work.0 / 2;
///         work.done(half); // without it the work goes to another worker
///         cx.reply(())
///     }
/// }
///
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let system = ActorSystem::in_memory(ConfigSource::empty()).start().await?;
/// let queue = system.work_queue("images", WorkQueueProps::new(100).attempts(5));
/// for _ in 0..2 {
///     let queue = queue.clone();
///     system.spawn_anonymous(move || Resizer { queue: queue.clone() })?;
/// }
/// queue.submit(Resize(400)).await?;
/// assert_eq!(queue.ask(Resize(300)).await?, 150);
/// queue.close();
/// queue.drained().await;
/// assert_eq!(queue.status().done, 2);
/// # system.shutdown().await?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Delivery
///
/// Work that was accepted is done at least once, while the system runs and has workers: it is done
/// when a worker calls [`Assignment::done`]. What is dropped without that, and everything that an
/// actor has when it restarts or ends, goes back to the front of the queue, and from there to another
/// worker if one has room, or else to whoever has room first. A worker that is done with what was
/// taken from it, as a future of its went on, is listened to all the same; whoever comes second is
/// not. So work may be done twice, and two may be at it at once.
///
/// The queue is in memory and ends with the system: [`WorkQueue::close`] and [`WorkQueue::drained`]
/// end it in order. What must outlive the process belongs to an entity, which may submit it anew.
pub struct WorkQueue<W, R = ()> {
    shared: Arc<Shared<W, R>>,
}

impl<W: Send + Sync + 'static, R: Send + 'static> WorkQueue<W, R> {
    pub(crate) fn new(registry: &Arc<Registry>, name: &str, props: WorkQueueProps<W>) -> Self {
        let shared = Arc::new(Shared::new(registry, name, props));
        let closes = Arc::downgrade(&shared);
        registry.on_close(closes);
        Self { shared }
    }

    /// Submits work, without waiting for room.
    ///
    /// # Errors
    /// [`NotAccepted`] with [`AskError::Busy`] when the queue is full, and with [`AskError::Stopped`]
    /// when it is closed or the system stops.
    pub fn try_submit(&self, work: W) -> Result<(), NotAccepted<W>> {
        match self.shared.enter() {
            Ok(()) => self.shared.add(work, ReplyTo::nobody()),
            Err(error) => Err(NotAccepted { work, error }),
        }
    }

    /// Submits work, once there is room.
    ///
    /// # Errors
    /// [`NotAccepted`] with [`AskError::Stopped`] when the queue is closed or the system stops.
    ///
    /// # Cancel safety
    /// Cancel safe: work whose future is dropped before it is ready was not accepted.
    pub async fn submit(&self, work: W) -> Result<(), NotAccepted<W>> {
        let shared = &self.shared;
        let attempt = || match shared.enter() {
            Err(AskError::Busy { .. }) => None,
            entered => Some(entered),
        };
        match shared.places.wait(attempt).await {
            Ok(()) => shared.add(work, ReplyTo::nobody()),
            Err(error) => Err(NotAccepted { work, error }),
        }
    }

    /// Submits work and waits for the reply of the worker that does it, up to the system's
    /// `ask-timeout` or [`AskWork::timeout`]. It is submitted when the returned value is awaited.
    ///
    /// # Errors
    /// [`AskError::Busy`] when the queue is full and [`AskError::Stopped`] when it is closed or the
    /// system stops; [`AskError::Expired`] when nobody has begun with it in time, and nobody will;
    /// [`AskError::Unknown`] when somebody has, and it goes on, or was given up too often.
    ///
    /// # Cancel safety
    /// Dropping the future is safe: work that nobody has begun with will not be done.
    pub fn ask(&self, work: W) -> AskWork<W, R> {
        AskWork {
            queue: self.clone(),
            work,
            timeout: None,
        }
    }

    /// Has an actor get work, up to `capacity` pieces at once, of which it has not said yet that they
    /// are done; at most 65,536, at which other values are held. With 0 it gets none. Joining again
    /// changes the capacity.
    ///
    /// It gets the next piece when it is done with one. Work needs no room in its mailbox. The actor
    /// leaves when it ends and stays through restarts; while it restarts, others get its work. The
    /// queue's reference counts for [`Props::stop_unreferenced`](crate::Props::stop_unreferenced).
    pub fn join<A>(&self, worker: &ActorRef<A>, capacity: usize)
    where
        A: Receive<Assignment<W, R>>,
    {
        const MOST: usize = 65_536;
        let address = worker.address();
        let capacity = capacity.min(MOST);
        let target = Target {
            path: worker.path(),
            recipient: worker.recipient(),
        };
        self.shared
            .state()
            .book
            .join(address.uid(), capacity, target);
        // It is told that the actor runs, as soon as it does.
        let listener = Watcher::Listener(self.shared.number, Arc::clone(&self.shared) as _);
        if !address.order(Order::Watch(listener)) {
            self.leave(worker);
        }
        self.shared.dispatch();
    }

    /// Gives an actor no more work. What it has it may finish. `false` if it had not joined.
    pub fn leave<A>(&self, worker: &ActorRef<A>) -> bool
    where
        A: Receive<Assignment<W, R>>,
    {
        let id = worker.address().uid();
        self.shared.state().book.leave(id)
    }

    /// Waits for a piece of work, for code outside of actors; `None` when the queue is closed and
    /// everything is done, or the system has stopped. Whoever pulls comes before actors.
    ///
    /// ```
    /// # use perennial_core::WorkQueue;
    /// # async fn resize(image: u32) -> u32 { image / 2 }
    /// async fn worker(queue: WorkQueue<u32, u32>) {
    ///     while let Some(work) = queue.pull().await {
    ///         let half = resize(*work).await;
    ///         work.done(half);
    ///     }
    /// }
    /// ```
    ///
    /// # Cancel safety
    /// Cancel safe: no work is taken by a future that is dropped before it is ready.
    pub async fn pull(&self) -> Option<Assignment<W, R>> {
        loop {
            let (give, given) = oneshot::channel();
            {
                let mut state = self.shared.state();
                if state.is_at_its_end() {
                    return None;
                }
                // Those who do not wait any more would pile up while there is no work.
                if state.pulls.len() == state.pulls.capacity() {
                    state.pulls.retain(|pull| !pull.is_closed());
                }
                state.pulls.push_back(give);
            }
            self.shared.dispatch();
            // What was asked for by somebody who has gone since is no work.
            if let Some(work) = Box::new(given.await.ok()?).draw() {
                return Some(work);
            }
        }
    }

    /// Accepts no work any more. What is there is still done.
    pub fn close(&self) {
        self.shared.close();
    }

    /// Waits until everything that was accepted is done or discarded; at once if there is nothing.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn drained(&self) {
        loop {
            let mut emptied = std::pin::pin!(self.shared.emptied.notified());
            emptied.as_mut().enable();
            if self.shared.state().book.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// What is in the queue, and who works on it.
    pub fn status(&self) -> WorkQueueStatus {
        let state = self.shared.state();
        let book = &state.book;
        WorkQueueStatus {
            waiting: book.waiting(),
            in_progress: book.in_progress(),
            workers: book
                .workers()
                .map(|worker| PullingWorker {
                    path: worker.target.path.clone(),
                    capacity: worker.capacity,
                    in_progress: worker.held,
                    is_up: worker.is_up,
                })
                .collect(),
            pulling: state.pulls.iter().filter(|pull| !pull.is_closed()).count(),
            done: book.done,
            returned: book.returned,
            discarded: book.discarded,
        }
    }
}

impl<W, R> Clone for WorkQueue<W, R> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<W, R> fmt::Debug for WorkQueue<W, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkQueue")
            .field("name", &self.shared.name)
            .field("capacity", &self.shared.capacity)
            .field("not_done", &self.shared.places.taken())
            .finish_non_exhaustive()
    }
}

/// How it stands with a [`WorkQueue`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WorkQueueStatus {
    /// Pieces of work that nobody has.
    pub waiting: usize,
    /// Pieces of work that somebody has, in a mailbox or in hand.
    pub in_progress: usize,
    /// The actors that have joined.
    pub workers: Vec<PullingWorker>,
    /// How many wait in [`WorkQueue::pull`].
    pub pulling: usize,
    /// Pieces of work that were done, since the start.
    pub done: u64,
    /// How often work came back that was begun.
    pub returned: u64,
    /// Pieces of work that nobody will do.
    pub discarded: u64,
}

/// How it stands with a worker of a [`WorkQueue`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PullingWorker {
    /// Which actor.
    pub path: ActorPath,
    /// How many pieces of work it may have at once.
    pub capacity: usize,
    /// How many it has.
    pub in_progress: usize,
    /// Whether it handles messages; one that has not started yet or restarts does not.
    pub is_up: bool,
}

/// A piece of work in the hands of a worker. It derefs to what is to be done.
///
/// Call [`Assignment::done`] when it is. Dropped without that, as by a handler that fails, it goes back to
/// the queue. It may be kept, or sent to other threads, and then counts for the capacity of its
/// worker until it is done.
#[must_use = "dropped without `done` it goes to another worker"]
pub struct Assignment<W, R = ()> {
    work: Arc<W>,
    attempt: u32,
    ticket: Ticket,
    /// There until it is done.
    keeper: Option<Arc<dyn Keeper<R>>>,
}

impl<W, R> Assignment<W, R> {
    /// It is done. Whoever asked gets the reply.
    pub fn done(mut self, reply: R) {
        if let Some(keeper) = self.keeper.take() {
            keeper.done(self.ticket, reply);
        }
    }

    /// Which attempt this is, from 1. It is higher when an earlier one was given up.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }
}

impl<W, R> Deref for Assignment<W, R> {
    type Target = W;

    fn deref(&self) -> &W {
        &self.work
    }
}

impl<W, R> Drop for Assignment<W, R> {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.take() {
            keeper.give_back(self.ticket);
        }
    }
}

impl<W: fmt::Debug, R> fmt::Debug for Assignment<W, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assignment")
            .field("work", &self.work)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

/// Work about to be asked for; await it.
#[must_use = "work is submitted when it is awaited"]
pub struct AskWork<W, R> {
    queue: WorkQueue<W, R>,
    work: W,
    timeout: Option<Duration>,
}

impl<W, R> AskWork<W, R> {
    /// Waits this long at the most, instead of the system's `ask-timeout`.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl<W: Send + Sync + 'static, R: Send + 'static> IntoFuture for AskWork<W, R> {
    type Output = Result<R, AskError>;
    type IntoFuture = Asking<R>;

    fn into_future(self) -> Asking<R> {
        let shared = &self.queue.shared;
        if let Err(error) = shared.enter() {
            return Asking::refused(error);
        }
        let (reply, receiver) = reply::ask(shared.registry.spin_before_yield());
        let timeout = self.timeout.unwrap_or(shared.registry.ask_timeout());
        if let Some(deadlines) = shared.registry.deadlines() {
            deadlines.add(timeout, Call::current().as_deref(), receiver.expires());
        }
        match shared.add(self.work, reply) {
            Ok(()) => Asking::sent(receiver),
            Err(refused) => Asking::refused(refused.error),
        }
    }
}

impl<W, R> fmt::Debug for AskWork<W, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AskWork")
            .field("queue", &self.queue)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
