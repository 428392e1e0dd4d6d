//! A message on its way: from its sender to the actor's handler, and back with the reply.
//!
//! One allocation carries it. The traits are the faces that it shows: a [`Parcel`] in the worker's
//! inbox, which knows no types; a [`Letter`] in the actor's mailbox, which knows the actor's type.

use std::any::{Any, type_name};
use std::sync::Arc;

use crate::actor::{
    Actor, ActorCx, Answer, Asked, Continuation, Failure, Kind, LaterOptions, LaterWork,
    PendingReply, Receive, Received, Restore,
};
use crate::call::{Behalf, Call, Party};
use crate::dead_letters::DeadLetterReason;
use crate::engine::actor::{ActorAddress, let_go};
use crate::error::AskError;
use crate::event_sourced::Output;
use crate::reply::ReplyTo;

/// A message in a worker's inbox.
pub trait Parcel: Send {
    /// Where it goes.
    fn to(&self) -> &Arc<ActorAddress>;

    /// Puts itself into `landing`, an `Option<Box<dyn Letter<A>>>` of its own actor type.
    fn land(self: Box<Self>, landing: &mut dyn Any);

    /// It cannot be delivered.
    fn refuse(self: Box<Self>, error: AskError);
}

/// A message in the mailbox or in the hands of its actor.
pub(crate) trait Letter<A: Actor>: Send {
    /// Whether it held a place in the bounded queues, which is the caller's to give back now.
    fn take_place(&mut self) -> bool;

    /// Claims it for handling; `false` if nobody waits for it any more.
    fn claim(&self) -> bool;

    /// Whether nobody waits for it any more.
    fn is_abandoned(&self) -> bool;

    /// Runs the handler, or the continuation of what has come back. Lets the reply out.
    fn handle(&mut self, actor: &mut A, cx: &mut ActorCx<'_, A>) -> Result<Step<A>, Failure>;

    /// The output of what the handler asked for.
    fn arrive(&mut self, output: Output);

    /// The message that the handler put aside.
    fn put_aside(self: Box<Self>) -> Box<dyn Letter<A>>;

    /// Tells whoever waits that it failed.
    fn fail(self: Box<Self>, error: AskError);

    /// It will not be handled.
    fn reject(self: Box<Self>, reason: DeadLetterReason, error: AskError);

    /// The message's type, for logs.
    fn message_name(&self) -> &'static str;

    /// What the actor does for this message from now on.
    fn call(&self, is_exclusive: bool) -> Arc<Call>;
}

/// What is left to do after a handler.
pub(crate) enum Step<A: Actor> {
    /// Nothing.
    Done,
    Unhandled,
    Stash,
    Later(LaterWork),
    Ask(Box<dyn Asked<A>>, LaterOptions),
}

/// A message with its sender.
pub(crate) struct Post<A: Receive<M>, M: Send + 'static> {
    to: Arc<ActorAddress>,
    /// Whether it holds a place in the bounded queues.
    admitted: bool,
    /// Whether work outside of the actor has run for it.
    future_ran: bool,
    /// Whether it was counted as a dead letter.
    is_counted: bool,
    stage: Stage<A, M>,
    reply: ReplyTo<A::Reply>,
    behalf: Behalf,
}

enum Stage<A: Receive<M>, M: Send + 'static> {
    /// Not handled yet.
    Message(M),
    /// Waits for what runs outside.
    Suspended(Continuation<A, A::Reply>),
    /// That has come back.
    Arrived(Continuation<A, A::Reply>, Output),
    /// The handler put it aside.
    Stashed(Box<dyn Restore<A, A::Reply>>),
    /// Nothing is left.
    Empty,
}

/// A message for the stash. Its sender may give up again, and is then told that it was not handled,
/// unless work outside has run already.
pub(crate) fn put_aside<A: Receive<M>, M: Send + 'static>(
    to: Arc<ActorAddress>,
    message: M,
    reply: ReplyTo<A::Reply>,
    behalf: Behalf,
    future_ran: bool,
) -> Box<dyn Letter<A>> {
    if !future_ran {
        reply.unclaim();
    }
    Box::new(Post::<A, M> {
        to,
        admitted: false,
        future_ran,
        is_counted: false,
        stage: Stage::Message(message),
        reply,
        behalf,
    })
}

impl<A: Receive<M>, M: Send + 'static> Post<A, M> {
    /// A message that has been admitted to the queues of `to`.
    pub(crate) fn admitted(
        to: Arc<ActorAddress>,
        message: M,
        reply: ReplyTo<A::Reply>,
        behalf: Behalf,
    ) -> Self {
        Self {
            to,
            admitted: true,
            future_ran: false,
            is_counted: false,
            stage: Stage::Message(message),
            reply,
            behalf,
        }
    }

    /// A message that the actor sends itself.
    pub(crate) fn own(to: Arc<ActorAddress>, message: M) -> Self {
        let mut post = Self::admitted(to, message, ReplyTo::nobody(), Behalf::default());
        post.admitted = false;
        post
    }

    /// Counts the message as a dead letter; once.
    fn count_as_dead(&mut self, reason: DeadLetterReason) {
        let is_counted = std::mem::replace(&mut self.is_counted, true);
        // Whoever asked and has gone knows that it was not handled.
        if !is_counted && !self.reply.is_abandoned() {
            self.to
                .registry()
                .dead_letters()
                .note(&self.to, type_name::<M>(), reason);
        }
    }

    fn take_stage(&mut self) -> Stage<A, M> {
        std::mem::replace(&mut self.stage, Stage::Empty)
    }

    fn decide(
        &mut self,
        actor: &mut A,
        received: Received<A, A::Reply>,
    ) -> Result<Step<A>, Failure> {
        let Answer { kind } = received?;
        Ok(match kind {
            Kind::Reply(reply) => {
                self.reply.complete(Ok(reply));
                Step::Done
            }
            Kind::NoReply => {
                self.reply.complete(Err(AskError::NoReply));
                Step::Done
            }
            Kind::Unhandled => Step::Unhandled,
            Kind::Stash(message) => {
                self.stage = Stage::Stashed(message);
                Step::Stash
            }
            Kind::Kept(keep) => {
                let reply = std::mem::replace(&mut self.reply, ReplyTo::nobody());
                keep(actor, PendingReply { reply });
                Step::Done
            }
            Kind::Later(work, then) => {
                self.stage = Stage::Suspended(then);
                Step::Later(work)
            }
            Kind::Ask(asked, options, then) => {
                self.stage = Stage::Suspended(then);
                Step::Ask(asked, options)
            }
        })
    }
}

impl<A: Receive<M>, M: Send + 'static> Parcel for Post<A, M> {
    fn to(&self) -> &Arc<ActorAddress> {
        &self.to
    }

    fn land(self: Box<Self>, landing: &mut dyn Any) {
        let landing = landing
            .downcast_mut::<Option<Box<dyn Letter<A>>>>()
            .expect("an address leads to an actor of its own type");
        *landing = Some(self);
    }

    fn refuse(self: Box<Self>, error: AskError) {
        self.reject(DeadLetterReason::Stopped, error);
    }
}

impl<A: Receive<M>, M: Send + 'static> Letter<A> for Post<A, M> {
    fn take_place(&mut self) -> bool {
        std::mem::take(&mut self.admitted)
    }

    fn claim(&self) -> bool {
        match self.stage {
            // Claimed since work ran for it.
            Stage::Message(_) if self.future_ran => !self.reply.is_abandoned(),
            Stage::Message(_) => self.reply.claim(),
            _ => true,
        }
    }

    fn is_abandoned(&self) -> bool {
        self.reply.is_abandoned()
    }

    fn handle(&mut self, actor: &mut A, cx: &mut ActorCx<'_, A>) -> Result<Step<A>, Failure> {
        let received = match self.take_stage() {
            Stage::Message(message) => actor.receive(message, cx),
            Stage::Arrived(then, output) => then(output, actor, cx),
            // Only messages and what has come back stand in a mailbox.
            _ => cx.unhandled(),
        };
        self.decide(actor, received)
    }

    fn arrive(&mut self, output: Output) {
        self.future_ran = true;
        self.stage = match self.take_stage() {
            Stage::Suspended(then) => Stage::Arrived(then, output),
            other => other,
        };
    }

    fn put_aside(mut self: Box<Self>) -> Box<dyn Letter<A>> {
        match self.take_stage() {
            Stage::Stashed(message) => {
                let reply = std::mem::replace(&mut self.reply, ReplyTo::nobody());
                let behalf = std::mem::take(&mut self.behalf);
                message.restore(Arc::clone(&self.to), reply, behalf, self.future_ran)
            }
            stage => {
                self.stage = stage;
                self
            }
        }
    }

    fn fail(mut self: Box<Self>, error: AskError) {
        // The sender may come back at once, and then finds its place free.
        if self.take_place() {
            self.to.leave(1);
        }
        // Whoever is told that a message was not handled may send it again.
        let error = if self.future_ran && error.is_not_handled() {
            AskError::Unknown {
                reason: "the message's work ran, but the actor could not go on after it",
            }
        } else {
            error
        };
        self.reply.complete(Err(error));
        let to = Arc::clone(&self.to);
        let_go(&to, self);
    }

    fn reject(mut self: Box<Self>, reason: DeadLetterReason, error: AskError) {
        self.count_as_dead(reason);
        self.fail(error);
    }

    fn message_name(&self) -> &'static str {
        type_name::<M>()
    }

    fn call(&self, is_exclusive: bool) -> Arc<Call> {
        let party = Party::Actor(Arc::clone(&self.to));
        self.behalf.begin(party, is_exclusive)
    }
}

impl<A: Receive<M>, M: Send + 'static> Drop for Post<A, M> {
    fn drop(&mut self) {
        if self.admitted {
            self.to.leave(1);
        }
        // Its worker has ended, and what stood in its queues is gone with it.
        if matches!(self.stage, Stage::Message(_)) {
            self.count_as_dead(DeadLetterReason::Stopped);
        }
    }
}
