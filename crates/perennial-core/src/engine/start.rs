//! The command that wants nothing but its entity to be there.

use std::any::Any;
use std::marker::PhantomData;
use std::sync::Arc;

use perennial_persistence::SerializedPayload;

use crate::call::{Behalf, Call, Party};
use crate::command::CommandKey;
use crate::engine::Stamp;
use crate::engine::envelope::{Delivery, Handled, Held, Queued};
use crate::engine::mailbox::{Address, Admitted};
use crate::engine::reminders::FiredReminder;
use crate::error::AskError;
use crate::event_sourced::{Body, Cx, EventSourced, Output};
use crate::reply::ReplyTo;

/// Brings its entity back and is answered then. No handler sees it.
pub(crate) struct Starter<E> {
    address: Arc<Address>,
    /// Whether it holds a place in the bounded queues, and at which worker.
    admitted: Option<Admitted>,
    reply: ReplyTo<()>,
    behalf: Behalf,
    /// What it is answered with instead.
    error: Option<AskError>,
    entity: PhantomData<fn(E)>,
}

impl<E: EventSourced> Starter<E> {
    /// One that has been admitted to the queues of `address`.
    pub(crate) fn admitted(
        address: Arc<Address>,
        admitted: Admitted,
        reply: ReplyTo<()>,
        behalf: Behalf,
    ) -> Self {
        Self {
            address,
            admitted: Some(admitted),
            reply,
            behalf,
            error: None,
            entity: PhantomData,
        }
    }
}

impl<E: EventSourced> Delivery for Starter<E> {
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

impl<E: EventSourced> Held for Starter<E> {
    fn release(mut self: Box<Self>) {
        let result = self.error.take().map_or(Ok(()), Err);
        self.reply.complete(result);
    }

    fn fail(mut self: Box<Self>, error: AskError) {
        if let Some(admitted) = self.admitted.take() {
            self.address.leave(admitted);
        }
        if error == AskError::Stopped && !self.reply.is_abandoned() {
            self.address.registry().note_refused();
        }
        self.reply.complete(Err(error));
    }
}

impl<E: EventSourced> Queued<E> for Starter<E> {
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
        false
    }

    fn claim(&mut self) -> bool {
        self.reply.claim()
    }

    fn is_abandoned(&self) -> bool {
        self.reply.is_abandoned()
    }

    fn handle(&mut self, _: &E, _: &Cx<'_, E>) -> Handled<E> {
        Handled::Effect(Body::default())
    }

    fn compute(&mut self, _: &E) {}

    fn arrive(&mut self, _: Output) {}

    fn has_arrived(&self) -> bool {
        false
    }

    fn put_aside(self: Box<Self>) -> Box<dyn Queued<E>> {
        self
    }

    fn is_last(&self) -> bool {
        false
    }

    fn reminder(&self) -> Option<&FiredReminder> {
        None
    }

    fn only_starts(&self) -> bool {
        true
    }

    fn command_name(&self) -> &'static str {
        "start"
    }

    fn take_stamp(&mut self) -> Option<Stamp> {
        None
    }

    fn call(&self, is_exclusive: bool) -> Arc<Call> {
        let party = Party::Entity(Arc::clone(&self.address));
        self.behalf.begin(party, is_exclusive)
    }

    fn command_key(&self) -> Option<&CommandKey> {
        None
    }

    fn encode_reply(&self) -> Result<Option<SerializedPayload>, Arc<str>> {
        Ok(None)
    }

    fn repeat(&mut self, _: Option<&SerializedPayload>) {}

    fn answer_with(&mut self, error: AskError) {
        self.error = Some(error);
    }
}

impl<E> Drop for Starter<E> {
    fn drop(&mut self) {
        if let Some(admitted) = self.admitted.take() {
            self.address.leave(admitted);
        }
    }
}
