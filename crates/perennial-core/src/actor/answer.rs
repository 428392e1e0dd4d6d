//! What a handler of an actor returns.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::actor::{Actor, ActorCx, ActorRef, Failure, Receive};
use crate::call::{Behalf, Call, Until};
use crate::engine::actor::{ActorAddress, Letter};
use crate::error::AskError;
use crate::event_sourced::{Output, Work};
use crate::reply::{Receiver, ReplyTo};

/// What [`Receive::receive`] returns: an [`Answer`], made by the methods of [`ActorCx`], or a
/// [`Failure`], which `?` makes of any error.
pub type Received<A, R> = Result<Answer<A, R>, Failure>;

/// What becomes of a message: a reply, or the way to it. Made by the methods of [`ActorCx`].
#[must_use = "an answer does nothing unless the handler returns it"]
pub struct Answer<A: Actor, R> {
    pub(crate) kind: Kind<A, R>,
}

pub(crate) enum Kind<A: Actor, R> {
    Reply(R),
    NoReply,
    Unhandled,
    /// Put aside.
    Stash(Box<dyn Restore<A, R>>),
    /// The reply is kept by the actor.
    Kept(Keep<A, R>),
    Later(LaterWork, Continuation<A, R>),
    Ask(Box<dyn Asked<A>>, LaterOptions, Continuation<A, R>),
}

/// Puts the means to reply into the actor.
pub(crate) type Keep<A, R> = Box<dyn FnOnce(&mut A, PendingReply<R>) + Send>;

/// Runs on the actor when work outside of it has ended.
pub(crate) type Continuation<A, R> =
    Box<dyn FnOnce(Output, &mut A, &mut ActorCx<'_, A>) -> Received<A, R> + Send>;

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LaterOptions {
    pub(crate) exclusive: bool,
    pub(crate) timeout: Option<Duration>,
}

pub(crate) struct LaterWork {
    pub(crate) work: Work,
    pub(crate) options: LaterOptions,
}

/// A question to another actor or entity that is yet to be sent.
pub(crate) trait Asked<A: Actor>: Send {
    /// Sends it. `call` says on whose behalf, `until` how long its answer is waited for.
    fn send(self: Box<Self>, call: Arc<Call>, until: Option<Until>) -> Box<dyn Waiting>;
}

/// A question that has been sent.
pub(crate) trait Waiting: Send {
    /// Has `waker` woken when the answer is there; `true` if it is there already.
    fn wake_by(&mut self, waker: &std::task::Waker) -> bool;

    /// The answer, a `Result<R, AskError>`; an error if it is not there.
    fn take(self: Box<Self>) -> Output;
}

impl<R: Send + 'static> Waiting for Result<Receiver<R>, AskError> {
    fn wake_by(&mut self, waker: &std::task::Waker) -> bool {
        match self {
            Ok(receiver) => receiver.wake_by(waker),
            Err(_) => true,
        }
    }

    fn take(self: Box<Self>) -> Output {
        let answer = match *self {
            Ok(mut receiver) => receiver.expire(),
            Err(error) => Err(error),
        };
        Box::new(answer)
    }
}

/// A question to an actor.
pub(crate) struct ToActor<B: Receive<M>, M: Send + 'static> {
    pub(crate) target: ActorRef<B>,
    pub(crate) message: M,
}

impl<A: Actor, B: Receive<M>, M: Send + 'static> Asked<A> for ToActor<B, M> {
    fn send(self: Box<Self>, call: Arc<Call>, until: Option<Until>) -> Box<dyn Waiting> {
        Box::new(self.target.question(self.message, call, until))
    }
}

/// A reply that the actor has kept for later; see [`ActorCx::keep_reply`]. Whoever asked goes on
/// waiting, up to its deadline. Dropped without a reply, it tells them
/// [`AskError::Unknown`].
#[must_use = "whoever asked waits for it"]
pub struct PendingReply<R> {
    pub(crate) reply: ReplyTo<R>,
}

impl<R> PendingReply<R> {
    /// Replies, from any thread.
    pub fn reply(mut self, reply: R) {
        self.reply.complete(Ok(reply));
    }

    /// Whether nobody waits for it any more.
    pub fn is_abandoned(&self) -> bool {
        self.reply.is_abandoned()
    }
}

impl<R> Drop for PendingReply<R> {
    fn drop(&mut self) {
        self.reply.complete(Err(AskError::Unknown {
            reason: "the actor kept the reply and dropped it",
        }));
    }
}

impl<R> fmt::Debug for PendingReply<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingReply")
            .field("is_abandoned", &self.is_abandoned())
            .finish()
    }
}

/// A stashed message, which becomes a letter again together with whoever waits for its reply.
pub(crate) trait Restore<A: Actor, R>: Send {
    fn restore(
        self: Box<Self>,
        to: Arc<ActorAddress>,
        reply: ReplyTo<R>,
        behalf: Behalf,
        future_ran: bool,
    ) -> Box<dyn Letter<A>>;
}

impl<A: Actor> ActorCx<'_, A> {
    /// Replies. A reply that nobody asked for is dropped.
    ///
    /// # Errors
    /// None; it is a `Result` so that it can be returned as it is.
    pub fn reply<R>(&self, reply: R) -> Received<A, R> {
        Ok(Answer {
            kind: Kind::Reply(reply),
        })
    }

    /// Sends no reply: whoever asked gets [`AskError::NoReply`].
    ///
    /// # Errors
    /// None; it is a `Result` so that it can be returned as it is.
    pub fn no_reply<R>(&self) -> Received<A, R> {
        Ok(Answer {
            kind: Kind::NoReply,
        })
    }

    /// Says that the message means nothing to the actor in its present state: whoever asked gets
    /// [`AskError::Unhandled`], and one that was told is a dead letter.
    ///
    /// # Errors
    /// None; it is a `Result` so that it can be returned as it is.
    pub fn unhandled<R>(&self) -> Received<A, R> {
        Ok(Answer {
            kind: Kind::Unhandled,
        })
    }

    /// Puts the message aside until [`ActorCx::unstash_all`]; it keeps its place in the order. When
    /// the stash is full, whoever asked gets [`AskError::Busy`], and one that was told is a dead
    /// letter.
    ///
    /// # Errors
    /// None; it is a `Result` so that it can be returned as it is.
    pub fn stash<M: Send + 'static>(&self, message: M) -> Received<A, A::Reply>
    where
        A: Receive<M>,
    {
        Ok(Answer {
            kind: Kind::Stash(Box::new(Stashed(message))),
        })
    }

    /// Replies when the actor wants to: `keep` gets the means, to be put into the actor, and other
    /// messages are handled meanwhile.
    ///
    /// ```
    /// # use perennial_core::{Actor, ActorCx, PendingReply, Receive, Received};
    /// #[derive(Default)]
    /// struct Door {
    ///     waiting: Vec<PendingReply<()>>,
    /// }
    /// # impl Actor for Door {}
    ///
    /// struct Enter;
    ///
    /// impl Receive<Enter> for Door {
    ///     type Reply = ();
    ///
    ///     fn receive(&mut self, _: Enter, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
    ///         cx.keep_reply(|door: &mut Self, reply| door.waiting.push(reply))
    ///     }
    /// }
    ///
    /// struct Open;
    ///
    /// impl Receive<Open> for Door {
    ///     type Reply = ();
    ///
    ///     fn receive(&mut self, _: Open, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
    ///         for reply in self.waiting.drain(..) {
    ///             reply.reply(());
    ///         }
    ///         cx.reply(())
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// None; it is a `Result` so that it can be returned as it is.
    pub fn keep_reply<R>(
        &self,
        keep: impl FnOnce(&mut A, PendingReply<R>) + Send + 'static,
    ) -> Received<A, R> {
        Ok(Answer {
            kind: Kind::Kept(Box::new(keep)),
        })
    }

    /// Runs `future` on the system's task runtime, then `then` on the actor with its output; what
    /// `then` returns becomes of the message. Other messages are handled meanwhile, unless
    /// [`ActorCx::exclusive`] stands before it.
    ///
    /// At most `later-limit` of them are open in the system; one more is refused as
    /// [`AskError::Busy`]. When the future panics or takes longer than `later-timeout`, or the actor
    /// restarts or stops meanwhile, whoever asked gets [`AskError::Unknown`] and `then` does not
    /// run.
    ///
    /// # Errors
    /// None; it is a `Result` so that it can be returned as it is.
    pub fn later<F, R>(
        &self,
        future: F,
        then: impl FnOnce(F::Output, &mut A, &mut ActorCx<'_, A>) -> Received<A, R> + Send + 'static,
    ) -> Received<A, R>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
        R: 'static,
    {
        Outside::default().later(future, then)
    }

    /// As [`ActorCx::later`], for work that blocks its thread. It runs on a pool of
    /// `blocking-threads` threads; when it takes too long, whoever asked is told, but the work goes
    /// on to its end.
    ///
    /// # Errors
    /// None; it is a `Result` so that it can be returned as it is.
    pub fn blocking<T, R>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(T, &mut A, &mut ActorCx<'_, A>) -> Received<A, R> + Send + 'static,
    ) -> Received<A, R>
    where
        T: Send + 'static,
        R: 'static,
    {
        Outside::default().blocking(work, then)
    }

    /// Asks another actor, then runs `then` on this one with the answer; what `then` returns becomes
    /// of the message. Other messages are handled meanwhile, unless [`ActorCx::exclusive`] stands
    /// before it. It costs less than asking inside of [`ActorCx::later`], as no future runs.
    ///
    /// # Errors
    /// None; it is a `Result` so that it can be returned as it is.
    pub fn ask<B, M, R>(
        &self,
        target: &ActorRef<B>,
        message: M,
        then: impl FnOnce(Result<B::Reply, AskError>, &mut A, &mut ActorCx<'_, A>) -> Received<A, R>
        + Send
        + 'static,
    ) -> Received<A, R>
    where
        B: Receive<M>,
        M: Send + 'static,
        R: 'static,
    {
        Outside::default().ask(target, message, then)
    }

    /// What follows keeps other messages waiting until it has ended: the actor is not re-entered.
    pub fn exclusive(&self) -> Outside {
        Outside::default().exclusive()
    }

    /// What follows may take this long, instead of `later-timeout`, or `ask-timeout` for an ask. An
    /// ask waits no longer than whoever asked this actor.
    pub fn timeout(&self, timeout: Duration) -> Outside {
        Outside::default().timeout(timeout)
    }
}

/// How something outside of the actor is waited for. Made by [`ActorCx::exclusive`] and
/// [`ActorCx::timeout`].
#[derive(Debug, Clone, Copy, Default)]
#[must_use = "follow it with `later`, `blocking` or `ask`"]
pub struct Outside {
    options: LaterOptions,
}

impl Outside {
    /// As [`ActorCx::exclusive`].
    pub fn exclusive(mut self) -> Self {
        self.options.exclusive = true;
        self
    }

    /// As [`ActorCx::timeout`].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = Some(timeout);
        self
    }

    /// As [`ActorCx::later`].
    ///
    /// # Errors
    /// None; it is a `Result` so that it can be returned as it is.
    pub fn later<A, F, R>(
        self,
        future: F,
        then: impl FnOnce(F::Output, &mut A, &mut ActorCx<'_, A>) -> Received<A, R> + Send + 'static,
    ) -> Received<A, R>
    where
        A: Actor,
        F: Future + Send + 'static,
        F::Output: Send + 'static,
        R: 'static,
    {
        let work = Work::Future(Box::pin(async move {
            let output: Output = Box::new(future.await);
            output
        }));
        self.work(work, then)
    }

    /// As [`ActorCx::blocking`].
    ///
    /// # Errors
    /// None; it is a `Result` so that it can be returned as it is.
    pub fn blocking<A, T, R>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(T, &mut A, &mut ActorCx<'_, A>) -> Received<A, R> + Send + 'static,
    ) -> Received<A, R>
    where
        A: Actor,
        T: Send + 'static,
        R: 'static,
    {
        let work = Work::Blocking(Box::new(move || {
            let output: Output = Box::new(work());
            output
        }));
        self.work(work, then)
    }

    /// As [`ActorCx::ask`].
    ///
    /// # Errors
    /// None; it is a `Result` so that it can be returned as it is.
    pub fn ask<A, B, M, R>(
        self,
        target: &ActorRef<B>,
        message: M,
        then: impl FnOnce(Result<B::Reply, AskError>, &mut A, &mut ActorCx<'_, A>) -> Received<A, R>
        + Send
        + 'static,
    ) -> Received<A, R>
    where
        A: Actor,
        B: Receive<M>,
        M: Send + 'static,
        R: 'static,
    {
        let target = target.clone();
        let asked = Box::new(ToActor { target, message });
        Ok(Answer {
            kind: Kind::Ask(asked, self.options, continuation(then)),
        })
    }

    fn work<A, T, R>(
        self,
        work: Work,
        then: impl FnOnce(T, &mut A, &mut ActorCx<'_, A>) -> Received<A, R> + Send + 'static,
    ) -> Received<A, R>
    where
        A: Actor,
        T: Send + 'static,
        R: 'static,
    {
        let work = LaterWork {
            work,
            options: self.options,
        };
        Ok(Answer {
            kind: Kind::Later(work, continuation(then)),
        })
    }
}

fn continuation<A: Actor, T: Any + Send, R>(
    then: impl FnOnce(T, &mut A, &mut ActorCx<'_, A>) -> Received<A, R> + Send + 'static,
) -> Continuation<A, R> {
    Box::new(move |output: Output, actor, cx| {
        let output = output
            .downcast()
            .expect("the output is that of the work beside this continuation");
        then(*output, actor, cx)
    })
}

impl<A: Actor, R> fmt::Debug for Answer<A, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Reply(_) => "Answer::Reply",
            Kind::NoReply => "Answer::NoReply",
            Kind::Unhandled => "Answer::Unhandled",
            Kind::Stash(_) => "Answer::Stash",
            Kind::Kept(_) => "Answer::Kept",
            Kind::Later(..) => "Answer::Later",
            Kind::Ask(..) => "Answer::Ask",
        })
    }
}

struct Stashed<M>(M);

impl<A: Receive<M>, M: Send + 'static> Restore<A, A::Reply> for Stashed<M> {
    fn restore(
        self: Box<Self>,
        to: Arc<ActorAddress>,
        reply: ReplyTo<A::Reply>,
        behalf: Behalf,
        future_ran: bool,
    ) -> Box<dyn Letter<A>> {
        crate::engine::actor::put_aside(to, self.0, reply, behalf, future_ran)
    }
}
