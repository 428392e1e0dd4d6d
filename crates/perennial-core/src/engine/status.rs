//! How it stands with an entity, asked from outside and answered by its worker.

use std::fmt;
use std::sync::Arc;

use crate::engine::Input;
use crate::engine::mailbox::Address;
use crate::entity_status::EntityStatus;
use crate::reply::ReplyTo;

/// A question for how it stands with an entity. It holds one of the places for such questions.
pub struct Look {
    address: Arc<Address>,
    reply: ReplyTo<EntityStatus>,
}

impl Look {
    /// One whose place has been taken.
    pub(crate) fn new(address: Arc<Address>, reply: ReplyTo<EntityStatus>) -> Self {
        Self { address, reply }
    }

    /// The question, if its entity is at this worker or on its way here; otherwise it is passed on.
    pub(super) fn of_worker(self: Box<Self>, worker: usize) -> Option<Box<Self>> {
        let home = self.address.worker();
        if home == worker {
            return Some(self);
        }
        let registry = Arc::clone(self.address.registry());
        registry.post(home, Input::Look(self));
        None
    }

    /// Answers it, unless nobody waits any more.
    pub(super) fn answer(mut self, status: impl FnOnce(&Arc<Address>) -> EntityStatus) {
        if self.reply.claim() {
            let status = status(&self.address);
            self.reply.complete(Ok(status));
        }
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        self.address.registry().looks().leave(1);
    }
}

impl fmt::Debug for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Look({})", self.address.persistence_id())
    }
}
