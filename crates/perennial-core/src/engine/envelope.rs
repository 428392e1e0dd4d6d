//! A command on its way: from the caller's thread to its cell, and back with its reply.
//!
//! One allocation carries a command from the sender to the released reply. The traits are the
//! faces that it shows on the way: a [`Delivery`] in the worker's inbox, which knows no types; a
//! [`Queued`] in its cell, which knows the entity's type; a [`Held`] while its write is in flight.

use std::any::{Any, TypeId, type_name};
use std::sync::Arc;

use perennial_persistence::SerializedPayload;

use crate::call::{Behalf, Call, Party};
use crate::command::{CommandKey, Identity};
use crate::engine::Stamp;
use crate::engine::actor::Draw;
use crate::engine::mailbox::{Address, Admitted};
use crate::engine::reminders::FiredReminder;
use crate::error::AskError;
use crate::event_sourced::{
    Body, Continuation, Cx, Effect, EventSourced, Handle, LaterWork, MakeReply, Outcome, Output,
    Restore,
};
use crate::pubsub::UnhandledCommand;
use crate::reply::{Fired, ReplyTo};

/// A command in a worker's inbox.
pub trait Delivery: Send {
    /// Where it goes.
    fn address(&self) -> &Arc<Address>;

    /// Puts itself into `landing`, an `Option<Box<dyn Queued<E>>>` of its own entity type.
    fn land(self: Box<Self>, landing: &mut dyn Any);

    /// Answers the caller with an error.
    fn refuse(self: Box<Self>, error: AskError);
}

/// A reply that is held until what it says is durable.
pub trait Held: Send {
    /// Lets the reply out.
    fn release(self: Box<Self>);

    /// Lets an error out instead.
    fn fail(self: Box<Self>, error: AskError);
}

/// A command in the queue or in the hands of its cell.
pub(crate) trait Queued<E: EventSourced>: Held {
    /// Whether the command held a place in the bounded queues, which is the caller's to give back
    /// now: the command is on its way out of them.
    fn take_place(&mut self) -> bool;

    /// Whether it holds such a place.
    fn has_place(&self) -> bool;

    /// It is on its way to another worker, and its place is there from now on.
    fn move_place(&mut self, to: usize);

    /// Whether the reply is still to be made from the state.
    fn needs_state(&self) -> bool;

    /// Claims the command for handling; `false` if its caller, or its timer, has given up.
    fn claim(&mut self) -> bool;

    /// Whether it need not be handled any more, as its caller has given up.
    fn is_abandoned(&self) -> bool;

    /// Runs the handler, or the continuation of a `later` that has come back.
    fn handle(&mut self, state: &E, cx: &Cx<'_, E>) -> Handled<E>;

    /// Makes the reply from the state right after the command's events.
    fn compute(&mut self, state: &E);

    /// The output of the `later` that the handler asked for.
    fn arrive(&mut self, output: Output);

    /// Whether it is a `later` that has come back, so that its future has run already.
    fn has_arrived(&self) -> bool;

    /// The command that the handler put aside, with its caller, for the stash.
    fn put_aside(self: Box<Self>) -> Box<dyn Queued<E>>;

    /// Whether the entity is to end after it.
    fn is_last(&self) -> bool;

    /// Whether it wants nothing but the entity to be there.
    fn only_starts(&self) -> bool {
        false
    }

    /// The command's type, for logs.
    fn command_name(&self) -> &'static str;

    /// When it was sent, if its times are taken; once.
    fn take_stamp(&mut self) -> Option<Stamp>;

    /// What the entity does for this command from now on.
    fn call(&self, is_exclusive: bool) -> Arc<Call>;

    /// The command's id and fingerprint, if it has one.
    fn command_key(&self) -> Option<&CommandKey>;

    /// The reply as it is stored for a command with an id; `None` if there is to be none.
    ///
    /// # Errors
    /// Why it cannot be encoded.
    fn encode_reply(&self) -> Result<Option<SerializedPayload>, Arc<str>>;

    /// Takes the answer to the same command before as its own, which leaves as that.
    fn repeat(&mut self, payload: Option<&SerializedPayload>);

    /// The reminder that has sent it, if one has.
    fn reminder(&self) -> Option<&FiredReminder>;

    /// Takes an error as its answer, which leaves as a reply does.
    fn answer_with(&mut self, error: AskError);
}

/// What a handler wants, without the reply.
pub(crate) enum Handled<E: EventSourced> {
    Effect(Body<E>),
    Unhandled(Body<E>),
    Stash(Body<E>),
    Later(LaterWork),
}

/// A command with its caller.
pub(crate) struct Envelope<E: Handle<C>, C: Send + 'static> {
    address: Arc<Address>,
    /// Whether it holds a place in the bounded queues, and at which worker.
    admitted: Option<Admitted>,
    /// Whether the future of a `later` has run for it.
    future_ran: bool,
    /// Whether the entity is to end after it.
    is_last: bool,
    stage: Stage<E, C>,
    reply: ReplyTo<E::Reply>,
    /// Of a command with an id.
    identity: Option<Box<Identity<E::Reply>>>,
    behalf: Behalf,
    /// When it was sent, if it is one whose times are taken.
    stamp: Option<Stamp>,
    /// What has sent it, if it is no caller.
    reminder: Option<Box<FiredReminder>>,
}

/// What stays of a command that is put aside, besides the command.
pub(crate) struct Aside<R> {
    pub(crate) address: Arc<Address>,
    pub(crate) reply: ReplyTo<R>,
    pub(crate) identity: Option<Box<Identity<R>>>,
    pub(crate) behalf: Behalf,
    /// Whether the future of a `later` has run for it.
    pub(crate) future_ran: bool,
    /// Whether the entity is to end after it.
    pub(crate) is_last: bool,
    pub(crate) reminder: Option<Box<FiredReminder>>,
}

enum Stage<E: Handle<C>, C: Send + 'static> {
    /// Not handled yet.
    Command(C),
    /// Not handled yet, and kept elsewhere until then.
    Kept(Box<dyn Draw<C>>),
    /// Waits for its `later`; the body holds what was chained to it.
    Suspended(Continuation<E, E::Reply>, Body<E>),
    /// The `later` has come back.
    Arrived(Continuation<E, E::Reply>, Body<E>, Output),
    /// The handler put the command aside.
    Stashed(Box<dyn Restore<E, E::Reply>>),
    /// The reply will be made from the state after the events.
    Computed(MakeReply<E, E::Reply>),
    /// The reply is ready to be let out.
    Ready(E::Reply),
    /// The command means nothing in the state that it met.
    Unhandled,
    /// The error is ready to be let out.
    Refused(AskError),
    /// Nothing is left, or there is to be no reply.
    Empty,
}

impl<E: Handle<C>, C: Send + 'static> Envelope<E, C> {
    /// A command that has been admitted to the queues of `address`.
    pub(crate) fn admitted(
        address: Arc<Address>,
        admitted: Admitted,
        command: C,
        reply: ReplyTo<E::Reply>,
        identity: Option<Box<Identity<E::Reply>>>,
        behalf: Behalf,
    ) -> Self {
        let stamp = address.registry().sampling().stamp();
        Self {
            address,
            stamp,
            admitted: Some(admitted),
            future_ran: false,
            is_last: false,
            stage: Stage::Command(command),
            reply,
            identity,
            behalf,
            reminder: None,
        }
    }

    /// The command after which an entity ends.
    pub(crate) fn last(address: Arc<Address>, command: C) -> Self {
        let aside = Aside {
            address,
            reply: ReplyTo::nobody(),
            identity: None,
            behalf: Behalf::default(),
            future_ran: false,
            is_last: true,
            reminder: None,
        };
        Self::put_aside(command, aside)
    }

    /// A command that a timer sends, and the timer's hold on it.
    pub(crate) fn from_timer(address: Arc<Address>, command: C) -> (Self, Arc<dyn Fired>) {
        let (reply, fired) = ReplyTo::timer();
        let aside = Aside {
            address,
            reply,
            identity: None,
            behalf: Behalf::default(),
            future_ran: false,
            is_last: false,
            reminder: None,
        };
        (Self::put_aside(command, aside), fired)
    }

    /// A command that a reminder sends.
    pub(crate) fn reminder(address: Arc<Address>, command: C, fired: FiredReminder) -> Self {
        let aside = Aside {
            address,
            reply: ReplyTo::nobody(),
            identity: None,
            behalf: Behalf::default(),
            future_ran: false,
            is_last: false,
            reminder: Some(Box::new(fired)),
        };
        Self::put_aside(command, aside)
    }

    /// A command that is kept elsewhere, where its place is counted.
    pub(crate) fn kept(address: Arc<Address>, command: Box<dyn Draw<C>>) -> Self {
        Self {
            address,
            stamp: None,
            admitted: None,
            future_ran: false,
            is_last: false,
            stage: Stage::Kept(command),
            reply: ReplyTo::nobody(),
            identity: None,
            behalf: Behalf::default(),
            reminder: None,
        }
    }

    /// A command for the stash. Its caller may give up again and is then told that it was not
    /// handled, unless its future has run already.
    pub(crate) fn put_aside(command: C, aside: Aside<E::Reply>) -> Self {
        if !aside.future_ran {
            aside.reply.unclaim();
        }
        Self {
            address: aside.address,
            stamp: None,
            admitted: None,
            future_ran: aside.future_ran,
            is_last: aside.is_last,
            stage: Stage::Command(command),
            reply: aside.reply,
            identity: aside.identity,
            behalf: aside.behalf,
            reminder: aside.reminder,
        }
    }

    fn decide(&mut self, effect: Effect<E, E::Reply>) -> Handled<E> {
        let Effect { body, outcome } = effect;
        let (stage, handled) = match outcome {
            Outcome::Value(reply) => (Stage::Ready(reply), Handled::Effect(body)),
            Outcome::Compute(reply) => (Stage::Computed(reply), Handled::Effect(body)),
            Outcome::NoReply => (Stage::Empty, Handled::Effect(body)),
            Outcome::Unhandled => (Stage::Unhandled, Handled::Unhandled(body)),
            Outcome::Stash(command) => (Stage::Stashed(command), Handled::Stash(body)),
            Outcome::Later(work, then) => (Stage::Suspended(then, body), Handled::Later(work)),
        };
        self.stage = stage;
        handled
    }

    fn take_stage(&mut self) -> Stage<E, C> {
        std::mem::replace(&mut self.stage, Stage::Empty)
    }

    fn tell_unhandled(&self) {
        // Of this news there is none, or it would go on for ever.
        if TypeId::of::<C>() == TypeId::of::<UnhandledCommand>() {
            return;
        }
        let topic = self.address.registry().topics().of_type();
        topic.publish_regardless(UnhandledCommand {
            persistence_id: self.address.persistence_id().clone(),
            command: type_name::<C>(),
        });
    }
}

impl<E: Handle<C>, C: Send + 'static> Delivery for Envelope<E, C> {
    fn address(&self) -> &Arc<Address> {
        &self.address
    }

    fn land(self: Box<Self>, landing: &mut dyn Any) {
        let landing = landing
            .downcast_mut::<Option<Box<dyn Queued<E>>>>()
            .expect("an address leads to the host of its own entity type");
        *landing = Some(self);
    }

    fn refuse(self: Box<Self>, error: AskError) {
        self.fail(error);
    }
}

impl<E: Handle<C>, C: Send + 'static> Held for Envelope<E, C> {
    fn release(mut self: Box<Self>) {
        let result = match self.take_stage() {
            Stage::Ready(reply) => Ok(reply),
            Stage::Unhandled => {
                self.tell_unhandled();
                Err(AskError::Unhandled)
            }
            Stage::Refused(error) => Err(error),
            _ => Err(AskError::NoReply),
        };
        if let Some(reminder) = self.reminder.take() {
            reminder.end(result.as_ref().err());
        }
        self.reply.complete(result);
    }

    fn fail(mut self: Box<Self>, error: AskError) {
        // The caller may come back at once, and then finds its place free.
        if let Some(admitted) = self.admitted.take() {
            self.address.leave(admitted);
        }
        if error == AskError::Stopped && !self.reply.is_abandoned() {
            self.address.registry().note_refused();
        }
        // Whoever is told that a command was not handled may send it again, and its future would
        // run twice.
        let error = if self.future_ran && error.is_not_handled() {
            AskError::Unknown {
                reason: "the command's future ran, but the entity could not go on after it",
            }
        } else {
            error
        };
        if let Some(reminder) = self.reminder.take() {
            reminder.end(Some(&error));
        }
        self.reply.complete(Err(error));
    }
}

impl<E: Handle<C>, C: Send + 'static> Queued<E> for Envelope<E, C> {
    fn take_place(&mut self) -> bool {
        self.admitted.take().is_some()
    }

    fn has_place(&self) -> bool {
        self.admitted.is_some()
    }

    fn move_place(&mut self, to: usize) {
        if let Some(admitted) = &mut self.admitted {
            admitted.move_to(self.address.registry(), to);
        }
    }

    fn needs_state(&self) -> bool {
        matches!(self.stage, Stage::Computed(_))
    }

    fn claim(&mut self) -> bool {
        match self.stage {
            // Claimed since its future ran.
            Stage::Command(_) if self.future_ran => !self.reply.is_abandoned(),
            Stage::Command(_) => self.reply.claim(),
            _ => true,
        }
    }

    fn is_abandoned(&self) -> bool {
        self.reply.is_abandoned()
    }

    fn handle(&mut self, state: &E, cx: &Cx<'_, E>) -> Handled<E> {
        let effect = match self.take_stage() {
            Stage::Command(command) => state.handle(command, cx),
            Stage::Kept(command) => match command.draw() {
                Some(command) => state.handle(command, cx),
                None => cx.no_reply(),
            },
            Stage::Arrived(then, chained, output) => {
                let mut effect = then(output, state, cx);
                effect.body.actions.extend(chained.actions);
                effect.body.stop |= chained.stop;
                effect
            }
            // Only commands and returned futures stand in a queue.
            _ => cx.unhandled(),
        };
        self.decide(effect)
    }

    fn compute(&mut self, state: &E) {
        self.stage = match self.take_stage() {
            Stage::Computed(reply) => Stage::Ready(reply(state)),
            other => other,
        };
    }

    fn arrive(&mut self, output: Output) {
        self.future_ran = true;
        self.stage = match self.take_stage() {
            Stage::Suspended(then, chained) => Stage::Arrived(then, chained, output),
            other => other,
        };
    }

    fn has_arrived(&self) -> bool {
        matches!(self.stage, Stage::Arrived(..))
    }

    fn put_aside(mut self: Box<Self>) -> Box<dyn Queued<E>> {
        match self.take_stage() {
            Stage::Stashed(command) => command.restore(Aside {
                address: Arc::clone(&self.address),
                reply: std::mem::replace(&mut self.reply, ReplyTo::nobody()),
                identity: self.identity.take(),
                behalf: std::mem::take(&mut self.behalf),
                future_ran: self.future_ran,
                is_last: self.is_last,
                reminder: self.reminder.take(),
            }),
            stage => {
                self.stage = stage;
                self
            }
        }
    }

    fn is_last(&self) -> bool {
        self.is_last
    }

    fn command_name(&self) -> &'static str {
        type_name::<C>()
    }

    fn take_stamp(&mut self) -> Option<Stamp> {
        self.stamp.take()
    }

    fn call(&self, is_exclusive: bool) -> Arc<Call> {
        let party = Party::Entity(Arc::clone(&self.address));
        self.behalf.begin(party, is_exclusive)
    }

    fn command_key(&self) -> Option<&CommandKey> {
        self.identity.as_deref().map(|identity| &identity.key)
    }

    fn encode_reply(&self) -> Result<Option<SerializedPayload>, Arc<str>> {
        match (&self.identity, &self.stage) {
            (Some(identity), Stage::Ready(reply)) => identity.encode(reply).map(Some),
            _ => Ok(None),
        }
    }

    fn repeat(&mut self, payload: Option<&SerializedPayload>) {
        let Some(identity) = &self.identity else {
            return;
        };
        self.stage = match payload.map(|payload| identity.decode(payload)) {
            Some(Ok(reply)) => Stage::Ready(reply),
            Some(Err(reason)) => Stage::Refused(AskError::ReplyUnreadable {
                persistence_id: self.address.persistence_id().clone(),
                command_id: identity.key.id.clone(),
                reason,
            }),
            None => Stage::Empty,
        };
    }

    fn reminder(&self) -> Option<&FiredReminder> {
        self.reminder.as_deref()
    }

    fn answer_with(&mut self, error: AskError) {
        self.stage = Stage::Refused(error);
    }
}

impl<E: Handle<C>, C: Send + 'static> Drop for Envelope<E, C> {
    fn drop(&mut self) {
        if let Some(admitted) = self.admitted.take() {
            self.address.leave(admitted);
        }
    }
}
