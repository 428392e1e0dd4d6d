//! What a handler returns: events to store, what to run after that, and the reply.

use std::any::Any;
use std::fmt;
use std::time::Duration;

use perennial_persistence::{BoxFuture, SequenceNr, SerializedPayload};
use smallvec::SmallVec;

use crate::engine::{Aside, Envelope, Queued};
use crate::event_sourced::{Cx, EventSourced, Handle, ReminderOp};
use crate::fsm::{Machine, MachineAction};

/// What a command does. Made by the methods of [`Cx`]; owns everything that it carries.
///
/// What is chained to the effect of [`Cx::later`] follows after the effect of its continuation.
///
/// The order is always: events are stored, the reply goes out, then what was given to `then_run`
/// runs, in order, then stashed commands are put back, then the entity stops.
#[must_use = "an effect does nothing unless the handler returns it"]
pub struct Effect<E: EventSourced, R> {
    pub(crate) body: Body<E>,
    pub(crate) outcome: Outcome<E, R>,
}

impl<E: EventSourced, R> Effect<E, R> {
    /// Runs `action` after the events are durable and the reply is out; at most once, never in
    /// recovery. Later commands of this entity wait until it ran. A panic restarts the entity and
    /// takes nothing back.
    pub fn then_run(mut self, action: impl FnOnce(&E, &Cx<'_, E>) + Send + 'static) -> Self {
        self.body.actions.push(Action::Run(Box::new(action)));
        self
    }

    /// Puts the commands stashed so far before those that wait.
    pub fn then_unstash_all(mut self) -> Self {
        self.body.actions.push(Action::UnstashAll);
        self
    }

    /// Does something to the entity's machine, if it is one.
    pub(crate) fn then_machine(
        mut self,
        action: impl FnOnce(&mut dyn Machine<E>, &E, &Cx<'_, E>) + Send + 'static,
    ) -> Self {
        let action = Box::new(action);
        self.body.actions.push(Action::Machine(action));
        self
    }

    /// Deletes the events up to `to`, included, after the events of this command are durable. Whoever
    /// reads the journal misses them from then on, and so does the next recovery, unless a snapshot
    /// stands for them. The number of the last event stays known.
    ///
    /// Nothing waits for it; its end is a [`Signal`]. A number beyond the last event is not carried
    /// out, and said to have failed.
    ///
    /// [`Signal`]: crate::Signal
    pub fn then_delete_events(mut self, to: SequenceNr) -> Self {
        self.body.actions.push(Action::DeleteEvents(to));
        self
    }

    /// Stops the entity after everything else. The next command starts it again; commands that wait
    /// or are stashed are handled by that next incarnation. The caller of an interleaved future that
    /// is still open gets [`AskError::Unknown`].
    ///
    /// [`AskError::Unknown`]: crate::AskError::Unknown
    pub fn then_stop(mut self) -> Self {
        self.body.stop = true;
        self
    }

    /// Lets the entity handle other commands while the future of [`Cx::later`] runs. Without
    /// meaning for effects of other kinds.
    pub fn interleaved(mut self) -> Self {
        if let Outcome::Later(later, _) = &mut self.outcome {
            later.interleaved = true;
        }
        self
    }

    /// Bounds the time of the future of [`Cx::later`], instead of the configured `later-timeout`.
    /// Without meaning for effects of other kinds.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        if let Outcome::Later(later, _) = &mut self.outcome {
            later.timeout = Some(timeout);
        }
        self
    }
}

impl<E: EventSourced, R> fmt::Debug for Effect<E, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Effect")
            .field("events", &self.body.events.len())
            .finish_non_exhaustive()
    }
}

/// An effect that still lacks its reply.
#[must_use = "end it with `reply` or `no_reply` and return it from the handler"]
pub struct Then<E: EventSourced> {
    pub(crate) body: Body<E>,
}

impl<E: EventSourced> Then<E> {
    /// As [`Effect::then_run`].
    pub fn then_run(mut self, action: impl FnOnce(&E, &Cx<'_, E>) + Send + 'static) -> Self {
        self.body.actions.push(Action::Run(Box::new(action)));
        self
    }

    /// As [`Effect::then_unstash_all`].
    pub fn then_unstash_all(mut self) -> Self {
        self.body.actions.push(Action::UnstashAll);
        self
    }

    /// As [`Effect::then_delete_events`].
    pub fn then_delete_events(mut self, to: SequenceNr) -> Self {
        self.body.actions.push(Action::DeleteEvents(to));
        self
    }

    /// As [`Effect::then_stop`].
    pub fn then_stop(mut self) -> Self {
        self.body.stop = true;
        self
    }

    /// Replies with what `reply` makes of the state right after the events. The caller gets it
    /// once they are durable.
    pub fn reply<R>(self, reply: impl FnOnce(&E) -> R + Send + 'static) -> Effect<E, R> {
        Effect {
            body: self.body,
            outcome: Outcome::Compute(Box::new(reply)),
        }
    }

    /// Sends no reply. A caller who asked gets [`AskError::NoReply`] once the events are durable.
    ///
    /// [`AskError::NoReply`]: crate::AskError::NoReply
    pub fn no_reply<R>(self) -> Effect<E, R> {
        Effect {
            body: self.body,
            outcome: Outcome::NoReply,
        }
    }
}

impl<E: EventSourced> fmt::Debug for Then<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Then")
            .field("events", &self.body.events.len())
            .finish_non_exhaustive()
    }
}

impl<E: EventSourced> Cx<'_, E> {
    /// Stores one or more events as one atomic write, or none.
    ///
    /// They are applied at once. When there are more than `max-events-per-write`, or one cannot be
    /// encoded or is larger than `max-event-bytes`, the caller gets [`AskError::PersistFailed`] and
    /// nothing of the effect happens. When one cannot be applied, none is stored and the entity
    /// restarts.
    ///
    /// [`AskError::PersistFailed`]: crate::AskError::PersistFailed
    pub fn persist(&self, events: impl IntoIterator<Item = E::Event>) -> Then<E> {
        Then {
            body: Body {
                events: events.into_iter().collect(),
                ..Body::default()
            },
        }
    }

    /// As [`Cx::persist`], with metadata beside some of the events: what is stored in the columns
    /// `meta_*`, such as who caused the event. Encode it with a [`Codec`] of your own choice.
    ///
    /// The state sees it in [`EventSourced::apply_with_metadata`], now and in recovery.
    ///
    /// [`Codec`]: perennial_persistence::Codec
    pub fn persist_with_metadata(
        &self,
        events: impl IntoIterator<Item = (E::Event, Option<SerializedPayload>)>,
    ) -> Then<E> {
        let (events, metadata) = events.into_iter().unzip();
        Then {
            body: Body {
                events,
                metadata,
                ..Body::default()
            },
        }
    }

    /// Stores nothing.
    pub fn none(&self) -> Then<E> {
        Then {
            body: Body::default(),
        }
    }

    /// Stores nothing and replies. The caller gets the reply once everything that this state was
    /// built on is durable.
    pub fn reply<R>(&self, reply: R) -> Effect<E, R> {
        Effect {
            body: Body::default(),
            outcome: Outcome::Value(reply),
        }
    }

    /// Stores nothing and sends no reply. A caller who asked gets [`AskError::NoReply`].
    ///
    /// [`AskError::NoReply`]: crate::AskError::NoReply
    pub fn no_reply<R>(&self) -> Effect<E, R> {
        self.none().no_reply()
    }

    /// Puts the command aside until [`Cx::unstash_all`]. Its caller goes on waiting, and its
    /// deadline goes on as well. When the stash is full of commands that are still waited for, the
    /// caller gets [`AskError::Busy`].
    ///
    /// [`AskError::Busy`]: crate::AskError::Busy
    pub fn stash<C: Send + 'static>(&self, command: C) -> Effect<E, E::Reply>
    where
        E: Handle<C>,
    {
        Effect {
            body: Body::default(),
            outcome: Outcome::Stash(Box::new(Stashed(command))),
        }
    }

    /// Puts the commands stashed so far before those that wait.
    pub fn unstash_all(&self) -> Then<E> {
        self.none().then_unstash_all()
    }

    /// Says that the command means nothing in this state. The caller gets [`AskError::Unhandled`]
    /// once everything that this state was built on is durable.
    ///
    /// [`AskError::Unhandled`]: crate::AskError::Unhandled
    pub fn unhandled<R>(&self) -> Effect<E, R> {
        Effect {
            body: Body::default(),
            outcome: Outcome::Unhandled,
        }
    }

    /// Stops the entity, once what is under way is durable, as [`Effect::then_stop`].
    pub fn stop(&self) -> Then<E> {
        self.none().then_stop()
    }

    /// Runs `future` on the system's tokio runtime, then `then` on the entity with the output and
    /// the state as it is by then; the effect that `then` returns is the command's.
    ///
    /// The future starts once everything that this state was built on is durable, and owns what it
    /// needs: no state is borrowed and nothing can be persisted inside it. Other commands of this
    /// entity wait, unless [`Effect::interleaved`] is added, and the entity is not passivated.
    /// When the number of open futures is at its bound (`later-limit`), the caller gets
    /// [`AskError::Busy`] and the future does not start. When the future panics or takes too long,
    /// or the entity is restarted in the meantime, the caller gets [`AskError::Unknown`] and
    /// `then` does not run.
    ///
    /// [`AskError::Busy`]: crate::AskError::Busy
    /// [`AskError::Unknown`]: crate::AskError::Unknown
    pub fn later<F, R>(
        &self,
        future: F,
        then: impl FnOnce(F::Output, &E, &Cx<'_, E>) -> Effect<E, R> + Send + 'static,
    ) -> Effect<E, R>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
        R: 'static,
    {
        self.work(
            Work::Future(Box::pin(async move {
                let output: Output = Box::new(future.await);
                output
            })),
            then,
        )
    }

    /// As [`Cx::later`], for work that blocks its thread; it runs on the runtime's blocking pool.
    /// When it takes too long, its caller is told, but the work itself goes on to its end.
    pub fn blocking<T, R>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(T, &E, &Cx<'_, E>) -> Effect<E, R> + Send + 'static,
    ) -> Effect<E, R>
    where
        T: Send + 'static,
        R: 'static,
    {
        self.work(
            Work::Blocking(Box::new(move || {
                let output: Output = Box::new(work());
                output
            })),
            then,
        )
    }

    fn work<T: Send + 'static, R: 'static>(
        &self,
        work: Work,
        then: impl FnOnce(T, &E, &Cx<'_, E>) -> Effect<E, R> + Send + 'static,
    ) -> Effect<E, R> {
        Effect {
            body: Body::default(),
            outcome: Outcome::Later(
                LaterWork {
                    work,
                    interleaved: false,
                    timeout: None,
                },
                Box::new(move |output: Output, state: &E, cx: &Cx<'_, E>| {
                    let output = output
                        .downcast()
                        .expect("the output is that of the future beside this continuation");
                    then(*output, state, cx)
                }),
            ),
        }
    }
}

/// The part of an effect that does not depend on the reply's type.
pub(crate) struct Body<E: EventSourced> {
    pub(crate) events: SmallVec<[E::Event; 1]>,
    /// One per event, or none at all.
    pub(crate) metadata: Vec<Option<SerializedPayload>>,
    /// One of each key at the most.
    pub(crate) reminders: Vec<ReminderOp>,
    pub(crate) actions: Vec<Action<E>>,
    pub(crate) stop: bool,
}

impl<E: EventSourced> Body<E> {
    /// Whether something has to happen once everything before is durable.
    pub(crate) fn is_barrier(&self) -> bool {
        self.stop || !self.actions.is_empty()
    }
}

impl<E: EventSourced> Default for Body<E> {
    fn default() -> Self {
        Self {
            events: SmallVec::new(),
            metadata: Vec::new(),
            reminders: Vec::new(),
            actions: Vec::new(),
            stop: false,
        }
    }
}

pub(crate) type Run<E> = Box<dyn FnOnce(&E, &Cx<'_, E>) + Send>;

pub(crate) enum Action<E: EventSourced> {
    Run(Run<E>),
    UnstashAll,
    DeleteEvents(SequenceNr),
    Machine(MachineAction<E>),
}

/// Makes a reply from the state after the events.
pub(crate) type MakeReply<E, R> = Box<dyn FnOnce(&E) -> R + Send>;

pub(crate) type Output = Box<dyn Any + Send>;

pub(crate) type Continuation<E, R> = Box<dyn FnOnce(Output, &E, &Cx<'_, E>) -> Effect<E, R> + Send>;

/// What becomes of the caller.
pub(crate) enum Outcome<E: EventSourced, R> {
    Value(R),
    Compute(MakeReply<E, R>),
    NoReply,
    Unhandled,
    Stash(Box<dyn Restore<E, R>>),
    Later(LaterWork, Continuation<E, R>),
}

/// Work outside the worker.
pub(crate) struct LaterWork {
    pub(crate) work: Work,
    pub(crate) interleaved: bool,
    pub(crate) timeout: Option<Duration>,
}

/// A future or a blocking function.
pub enum Work {
    /// Runs on the task runtime.
    Future(BoxFuture<'static, Output>),
    /// Runs on the task runtime's blocking pool.
    Blocking(Box<dyn FnOnce() -> Output + Send>),
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Future(_) => "Future",
            Self::Blocking(_) => "Blocking",
        })
    }
}

/// A stashed command, which becomes a queued one again together with its caller.
pub(crate) trait Restore<E: EventSourced, R>: Send {
    fn restore(self: Box<Self>, aside: Aside<R>) -> Box<dyn Queued<E>>;
}

struct Stashed<C>(C);

impl<E: Handle<C>, C: Send + 'static> Restore<E, E::Reply> for Stashed<C> {
    fn restore(self: Box<Self>, aside: Aside<E::Reply>) -> Box<dyn Queued<E>> {
        Box::new(Envelope::put_aside(self.0, aside))
    }
}
