//! The inside of a work queue: what its handles share, and how work gets to workers and back.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use perennial_persistence::telemetry::{label, metric};
use tokio::sync::{Notify, oneshot};

use crate::actor::{ActorPath, Recipient};
use crate::engine::actor::{ActorAddress, Draw, Life, Listener};
use crate::engine::{Bound, OnClose, Registry, busy, panic_message};
use crate::error::AskError;
use crate::reply::ReplyTo;
use crate::work::book::{Begun, Book, Item, Returned, Ticket, WorkerId};
use crate::work::{Assignment, DiscardReason, Discarded, NotAccepted, OnDiscarded, WorkQueueProps};

/// Whom a worker tells what has become of its work.
pub(super) trait Keeper<R>: Send + Sync {
    fn done(self: Arc<Self>, ticket: Ticket, reply: R);

    fn give_back(self: Arc<Self>, ticket: Ticket);
}

pub(super) struct Shared<W, R> {
    pub(super) name: Box<str>,
    /// By which actors know it as their listener.
    pub(super) number: u64,
    pub(super) registry: Arc<Registry>,
    pub(super) capacity: usize,
    pub(super) discarded: Option<OnDiscarded<W>>,
    /// One for each piece of work that is not done.
    pub(super) places: Bound,
    pub(super) state: Mutex<State<W, R>>,
    /// Nothing is left.
    pub(super) emptied: Notify,
}

pub(super) struct State<W, R> {
    pub(super) book: Book<W, R, Target<W, R>>,
    /// Those who wait for work outside of actors.
    pub(super) pulls: VecDeque<oneshot::Sender<Letter<W, R>>>,
}

impl<W, R> State<W, R> {
    /// Whether no work will come any more.
    pub(super) fn is_at_its_end(&self) -> bool {
        self.book.is_over || (self.book.is_closed && self.book.is_empty())
    }
}

/// A worker that is an actor.
pub(super) struct Target<W, R> {
    pub(super) path: ActorPath,
    pub(super) recipient: Recipient<Assignment<W, R>>,
}

/// A ticket for a piece of work on its way to whoever is to do it.
pub(super) struct Letter<W, R> {
    ticket: Ticket,
    /// There until it has arrived.
    sender: Option<Arc<dyn Hands<W, R>>>,
}

/// Hands work over for a ticket.
trait Hands<W, R>: Send + Sync {
    /// The work, unless it is not to be done any more.
    fn begin(self: Arc<Self>, ticket: Ticket) -> Option<Assignment<W, R>>;

    /// Whoever was to get it does not handle any more.
    fn undelivered(self: Arc<Self>, ticket: Ticket);
}

impl<W, R> Draw<Assignment<W, R>> for Letter<W, R> {
    fn draw(mut self: Box<Self>) -> Option<Assignment<W, R>> {
        self.sender.take()?.begin(self.ticket)
    }
}

impl<W, R> Drop for Letter<W, R> {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take() {
            sender.undelivered(self.ticket);
        }
    }
}

/// Somebody who is to get a piece of work.
enum Taker<W, R> {
    Pull(oneshot::Sender<Letter<W, R>>),
    Actor(Recipient<Assignment<W, R>>),
}

impl<W: Send + Sync + 'static, R: Send + 'static> Shared<W, R> {
    pub(super) fn new(registry: &Arc<Registry>, name: &str, props: WorkQueueProps<W>) -> Self {
        Self {
            name: name.into(),
            number: registry.next_actor(),
            registry: Arc::clone(registry),
            capacity: props.capacity,
            discarded: props.discarded,
            places: Bound::default(),
            state: Mutex::new(State {
                book: Book::new(props.attempts),
                pulls: VecDeque::new(),
            }),
            emptied: Notify::new(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State<W, R>> {
        // Nothing can panic while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place.
    pub(super) fn enter(&self) -> Result<(), AskError> {
        if self.registry.is_stopping() || self.state().book.is_closed {
            return Err(AskError::Stopped);
        }
        if self.places.enter(self.capacity) {
            return Ok(());
        }
        let abandoned = self.state().book.sweep();
        if !abandoned.is_empty() {
            self.places.leave(abandoned.len());
            self.look_whether_empty();
            if self.places.enter(self.capacity) {
                return Ok(());
            }
        }
        Err(busy("the work queue"))
    }

    /// Adds work that has a place.
    pub(super) fn add(self: &Arc<Self>, work: W, reply: ReplyTo<R>) -> Result<(), NotAccepted<W>> {
        {
            let mut state = self.state();
            if !state.book.is_closed {
                state.book.add(Item::new(work, reply));
                drop(state);
                self.dispatch();
                return Ok(());
            }
        }
        self.places.leave(1);
        Err(NotAccepted {
            work,
            error: AskError::Stopped,
        })
    }

    /// Hands out work for as long as there is some, and somebody who wants it.
    pub(super) fn dispatch(self: &Arc<Self>) {
        while let Some((ticket, taker)) = self.next_to_hand_out() {
            let letter = Letter {
                ticket,
                sender: Some(Arc::clone(self) as _),
            };
            match taker {
                // One that is not taken goes back when it is dropped.
                Taker::Pull(pull) => drop(pull.send(letter)),
                Taker::Actor(recipient) => drop(recipient.tell_kept(Box::new(letter))),
            }
        }
    }

    fn next_to_hand_out(&self) -> Option<(Ticket, Taker<W, R>)> {
        let mut state = self.state();
        let State { book, pulls } = &mut *state;
        while pulls.front().is_some_and(oneshot::Sender::is_closed) {
            pulls.pop_front();
        }
        if !pulls.is_empty() {
            let ticket = book.hand_out()?;
            return Some((ticket, Taker::Pull(pulls.pop_front()?)));
        }
        let (ticket, worker) = book.assign()?;
        let target = book.target(worker)?;
        Some((ticket, Taker::Actor(target.recipient.clone())))
    }

    fn return_ticket(self: &Arc<Self>, ticket: Ticket) {
        let returned = self.state().book.give_back(ticket);
        self.after_return(returned);
        self.dispatch();
    }

    fn after_return(&self, returned: Returned<W, R>) {
        if let Returned::Discarded(item) = returned {
            let reason = match self.state().book.is_over {
                true => DiscardReason::SystemStopped,
                false => DiscardReason::TooManyAttempts,
            };
            self.discard(item, reason);
            self.look_whether_empty();
        }
    }

    fn discard(&self, mut item: Item<W, R>, reason: DiscardReason) {
        self.places.leave(1);
        let labels = [(label::REASON, reason.as_str())];
        metrics::counter!(metric::WORK_DISCARDED, &labels).increment(1);
        tracing::warn!(
            queue = &*self.name,
            attempt = item.attempts,
            reason = reason.as_str(),
            "work is discarded"
        );
        match reason {
            DiscardReason::TooManyAttempts => item.reply.complete(Err(AskError::Unknown {
                reason: "the work was begun, and given up as often as it may be",
            })),
            // Whoever asked is told by what is known of its work.
            DiscardReason::SystemStopped => {}
        }
        if let Some(discarded) = &self.discarded {
            let discarded = || {
                discarded(Discarded {
                    work: Arc::clone(&item.work),
                    attempts: item.attempts,
                    reason,
                });
            };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(discarded)) {
                let error = panic_message(&*panic);
                tracing::error!(queue = &*self.name, %error, "`on_discarded` panicked");
            }
        }
    }

    pub(super) fn close(&self) {
        self.state().book.is_closed = true;
        // Those who wait for room are told.
        self.places.wake_all();
        self.look_whether_empty();
    }

    /// Tells whoever waits for the end.
    fn look_whether_empty(&self) {
        let over = {
            let mut state = self.state();
            if !state.book.is_empty() && !state.book.is_over {
                return;
            }
            match state.is_at_its_end() {
                true => std::mem::take(&mut state.pulls),
                false => VecDeque::new(),
            }
        };
        drop(over);
        self.emptied.notify_waiters();
    }

    /// A worker has nothing any more of what it had.
    fn take_all_back(self: &Arc<Self>, worker: WorkerId) {
        let tickets = self.state().book.held_by(worker);
        for ticket in tickets {
            let returned = self.state().book.give_back(ticket);
            self.after_return(returned);
        }
    }
}

impl<W: Send + Sync + 'static, R: Send + 'static> Hands<W, R> for Shared<W, R> {
    fn begin(self: Arc<Self>, ticket: Ticket) -> Option<Assignment<W, R>> {
        let begun = self.state().book.begin(ticket);
        let work = match begun {
            Begun::Work(work, attempt) => {
                return Some(Assignment {
                    work,
                    attempt,
                    ticket,
                    keeper: Some(self),
                });
            }
            Begun::Abandoned(item) => Some(item),
            Begun::Void => None,
        };
        if work.is_some() {
            self.places.leave(1);
            drop(work);
            self.look_whether_empty();
        }
        // The worker has room for something else.
        self.dispatch();
        None
    }

    fn undelivered(self: Arc<Self>, ticket: Ticket) {
        {
            let book = &mut self.state().book;
            if let Some(worker) = book.holder(ticket) {
                book.leave(worker);
            }
        }
        self.return_ticket(ticket);
    }
}

impl<W: Send + Sync + 'static, R: Send + 'static> Keeper<R> for Shared<W, R> {
    fn done(self: Arc<Self>, ticket: Ticket, reply: R) {
        let finished = self.state().book.finish(ticket);
        if let Some(mut item) = finished {
            // Before the reply is out: whoever gets it may submit more at once.
            self.places.leave(1);
            item.reply.complete(Ok(reply));
            self.look_whether_empty();
        }
        self.dispatch();
    }

    fn give_back(self: Arc<Self>, ticket: Ticket) {
        self.return_ticket(ticket);
    }
}

/// Follows the lives of the actors that have joined.
impl<W: Send + Sync + 'static, R: Send + 'static> Listener for Shared<W, R> {
    fn life(self: Arc<Self>, actor: &Arc<ActorAddress>, life: Life) {
        let worker = actor.uid();
        match life {
            Life::Running => self.state().book.set_up(worker, true),
            Life::Restarting => {
                self.state().book.set_up(worker, false);
                self.take_all_back(worker);
            }
            Life::Ended => {
                self.state().book.leave(worker);
                self.take_all_back(worker);
            }
        }
        self.dispatch();
    }
}

impl<W: Send + Sync + 'static, R: Send + 'static> OnClose for Shared<W, R> {
    fn on_close(&self) {
        let waiting = {
            let mut state = self.state();
            state.book.is_closed = true;
            state.book.is_over = true;
            state.book.discard_waiting()
        };
        for item in waiting {
            self.discard(item, DiscardReason::SystemStopped);
        }
        self.places.wake_all();
        self.look_whether_empty();
    }
}
