//! A message on its way: from its sender to the actor's handler, and back with the reply.
//!
//! One allocation carries it. The traits are the faces that it shows: a [`Parcel`] in the worker's
//! inbox, which knows no types; a [`Letter`] in the actor's mailbox, which knows the actor's type.

use std::any::{Any, type_name};
use std::marker::PhantomData;
use std::sync::Arc;

use crate::actor::{
    Actor, ActorCx, Answer, Asked, Continuation, Failure, Kind, LaterOptions, LaterWork,
    PendingReply, Receive, Received, Restore,
};
use crate::call::{Behalf, Call, Party};
use crate::dead_letters::DeadLetterReason;
use crate::engine::Stamp;
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
    fn claim(&mut self) -> bool;

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

    /// When it was sent, if its times are taken; once.
    fn take_stamp(&mut self) -> Option<Stamp>;

    /// What the actor does for this message from now on.
    fn call(&self, is_exclusive: bool) -> Arc<Call>;
}

/// A message that is kept elsewhere until its handler runs. One that is dropped before was not
/// delivered, which is its keeper's to know: it is no dead letter.
pub(crate) trait Draw<M>: Send {
    /// The message, unless there is none for this any more.
    fn draw(self: Box<Self>) -> Option<M>;
}

/// What is left to do after a handler. With a letter, that one goes on in the place of the one that
/// was handled.
pub(crate) enum Step<A: Actor> {
    /// Nothing.
    Done,
    Unhandled,
    Stash(Option<Box<dyn Letter<A>>>),
    Later(LaterWork, Option<Box<dyn Letter<A>>>),
    Ask(Box<dyn Asked<A>>, LaterOptions, Option<Box<dyn Letter<A>>>),
}

/// A message that nobody waits for, which is most of them: as small as can be. It becomes a
/// [`Post`] when more is to be kept of it.
pub(crate) struct Told<A: Receive<M>, M: Send + 'static> {
    to: Arc<ActorAddress>,
    /// Whether it holds a place in the mailbox.
    admitted: bool,
    /// When it was sent, if it belongs to the sample that is timed.
    stamp: Option<Stamp>,
    message: Option<M>,
    actor: PhantomData<fn(A)>,
}

impl<A: Receive<M>, M: Send + 'static> Told<A, M> {
    /// A message that has been admitted to the mailbox of `to`.
    pub(crate) fn admitted(to: Arc<ActorAddress>, message: M) -> Self {
        Self {
            stamp: to.registry().sampling().stamp(),
            to,
            admitted: true,
            message: Some(message),
            actor: PhantomData,
        }
    }

    /// A message that the actor sends itself.
    pub(crate) fn own(to: Arc<ActorAddress>, message: M) -> Self {
        let mut told = Self::admitted(to, message);
        told.admitted = false;
        told
    }

    fn suspended(&self, then: Continuation<A, A::Reply>) -> Option<Box<dyn Letter<A>>> {
        Some(Box::new(Post::<A, M> {
            to: Arc::clone(&self.to),
            admitted: false,
            future_ran: false,
            is_counted: false,
            stamp: None,
            stage: Stage::Suspended(then),
            reply: ReplyTo::nobody(),
            behalf: Behalf::default(),
        }))
    }
}

impl<A: Receive<M>, M: Send + 'static> Parcel for Told<A, M> {
    fn to(&self) -> &Arc<ActorAddress> {
        &self.to
    }

    fn land(self: Box<Self>, landing: &mut dyn Any) {
        put_into::<A>(landing, self);
    }

    fn refuse(self: Box<Self>, error: AskError) {
        self.reject(DeadLetterReason::Stopped, error);
    }
}

impl<A: Receive<M>, M: Send + 'static> Letter<A> for Told<A, M> {
    fn take_place(&mut self) -> bool {
        std::mem::take(&mut self.admitted)
    }

    fn take_stamp(&mut self) -> Option<Stamp> {
        self.stamp.take()
    }

    fn claim(&mut self) -> bool {
        true
    }

    fn is_abandoned(&self) -> bool {
        false
    }

    fn handle(&mut self, actor: &mut A, cx: &mut ActorCx<'_, A>) -> Result<Step<A>, Failure> {
        let Some(message) = self.message.take() else {
            return Ok(Step::Done);
        };
        Ok(match actor.receive(message, cx)?.kind {
            Kind::Reply(_) | Kind::NoReply => Step::Done,
            Kind::Unhandled => Step::Unhandled,
            Kind::Stash(message) => {
                let (to, behalf) = (Arc::clone(&self.to), Behalf::default());
                Step::Stash(Some(message.restore(to, ReplyTo::nobody(), behalf, false)))
            }
            Kind::Kept(keep) => {
                let reply = ReplyTo::nobody();
                keep(actor, PendingReply { reply });
                Step::Done
            }
            Kind::Later(work, then) => Step::Later(work, self.suspended(then)),
            Kind::Ask(asked, options, then) => Step::Ask(asked, options, self.suspended(then)),
        })
    }

    fn arrive(&mut self, _: Output) {}

    fn put_aside(self: Box<Self>) -> Box<dyn Letter<A>> {
        self
    }

    fn fail(mut self: Box<Self>, _: AskError) {
        if self.take_place() {
            self.to.leave(1);
        }
        let to = Arc::clone(&self.to);
        let_go(&to, self);
    }

    fn reject(mut self: Box<Self>, reason: DeadLetterReason, error: AskError) {
        note_dead::<M>(&self.to, reason);
        // It is counted.
        let_go(&self.to, self.message.take());
        self.fail(error);
    }

    fn message_name(&self) -> &'static str {
        type_name::<M>()
    }

    fn call(&self, is_exclusive: bool) -> Arc<Call> {
        let party = Party::Actor(Arc::clone(&self.to));
        Behalf::default().begin(party, is_exclusive)
    }
}

impl<A: Receive<M>, M: Send + 'static> Drop for Told<A, M> {
    fn drop(&mut self) {
        if self.admitted {
            self.to.leave(1);
        }
        // Its worker has ended, and what stood in its queues is gone with it.
        if self.message.is_some() {
            note_dead::<M>(&self.to, DeadLetterReason::Stopped);
        }
    }
}

fn note_dead<M: Send + 'static>(to: &Arc<ActorAddress>, reason: DeadLetterReason) {
    let dead_letters = to.registry().dead_letters();
    dead_letters.note::<M>(to, reason);
}

/// Puts a letter where the actor's cell wants it.
fn put_into<A: Actor>(landing: &mut dyn Any, letter: Box<dyn Letter<A>>) {
    let landing = landing
        .downcast_mut::<Option<Box<dyn Letter<A>>>>()
        .expect("an address leads to an actor of its own type");
    *landing = Some(letter);
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
    /// When it was sent, if it is one whose times are taken.
    stamp: Option<Stamp>,
}

enum Stage<A: Receive<M>, M: Send + 'static> {
    /// Not handled yet.
    Message(M),
    /// Not handled yet, and kept elsewhere until then.
    Kept(Box<dyn Draw<M>>),
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
        stamp: None,
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
        let stamp = to.registry().sampling().stamp();
        Self {
            to,
            stamp,
            admitted: true,
            future_ran: false,
            is_counted: false,
            stage: Stage::Message(message),
            reply,
            behalf,
        }
    }

    /// Counts the message as a dead letter; once.
    fn count_as_dead(&mut self, reason: DeadLetterReason) {
        let is_counted = std::mem::replace(&mut self.is_counted, true);
        // Whoever asked and has gone knows that it was not handled, and so does whoever keeps it.
        if !is_counted && !self.reply.is_abandoned() && !matches!(self.stage, Stage::Kept(_)) {
            note_dead::<M>(&self.to, reason);
        }
    }

    /// A message that is kept elsewhere, where its place is counted.
    pub(crate) fn kept(to: Arc<ActorAddress>, message: Box<dyn Draw<M>>) -> Self {
        Self {
            to,
            admitted: false,
            future_ran: false,
            is_counted: false,
            stamp: None,
            stage: Stage::Kept(message),
            reply: ReplyTo::nobody(),
            behalf: Behalf::default(),
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
                Step::Stash(None)
            }
            Kind::Kept(keep) => {
                let reply = std::mem::replace(&mut self.reply, ReplyTo::nobody());
                keep(actor, PendingReply { reply });
                Step::Done
            }
            Kind::Later(work, then) => {
                self.stage = Stage::Suspended(then);
                Step::Later(work, None)
            }
            Kind::Ask(asked, options, then) => {
                self.stage = Stage::Suspended(then);
                Step::Ask(asked, options, None)
            }
        })
    }
}

impl<A: Receive<M>, M: Send + 'static> Parcel for Post<A, M> {
    fn to(&self) -> &Arc<ActorAddress> {
        &self.to
    }

    fn land(self: Box<Self>, landing: &mut dyn Any) {
        put_into::<A>(landing, self);
    }

    fn refuse(self: Box<Self>, error: AskError) {
        self.reject(DeadLetterReason::Stopped, error);
    }
}

impl<A: Receive<M>, M: Send + 'static> Letter<A> for Post<A, M> {
    fn take_place(&mut self) -> bool {
        std::mem::take(&mut self.admitted)
    }

    fn claim(&mut self) -> bool {
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
            Stage::Kept(message) => match message.draw() {
                Some(message) => actor.receive(message, cx),
                None => return Ok(Step::Done),
            },
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
        if error == AskError::Stopped && !self.reply.is_abandoned() {
            self.to.registry().note_refused();
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

    fn take_stamp(&mut self) -> Option<Stamp> {
        self.stamp.take()
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
