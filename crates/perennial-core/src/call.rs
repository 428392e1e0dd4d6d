//! On whose behalf an ask is made.
//!
//! An actor or entity that asks another one does so for a message of its own, whose sender may wait
//! as well. The chain of them is known wherever their work runs: to fail at once when it comes back
//! to one that waits for its end, which would wait for ever; and to wait no longer than the first of
//! them does.

use std::cell::RefCell;
use std::fmt;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use perennial_persistence::BoxFuture;

use crate::engine::actor::ActorAddress;
use crate::engine::{Address, Deadlines};
use crate::error::AskError;
use crate::event_sourced::{Output, Work};

thread_local! {
    static CURRENT: RefCell<Option<Arc<Call>>> = const { RefCell::new(None) };
}

/// Work of an actor or entity for one message.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) party: Party,
    /// Whether the party handles nothing else until the work has ended.
    pub(crate) is_exclusive: bool,
    /// Until when the message's sender waits.
    pub(crate) until: Option<Until>,
    /// On whose behalf the message was sent.
    pub(crate) parent: Option<Arc<Call>>,
}

/// On whose behalf a message was sent, and until when its sender waits.
#[derive(Debug, Clone, Default)]
pub(crate) struct Behalf {
    pub(crate) call: Option<Arc<Call>>,
    pub(crate) until: Option<Until>,
}

impl Behalf {
    /// What `party` does for the message from now on.
    pub(crate) fn begin(&self, party: Party, is_exclusive: bool) -> Arc<Call> {
        Arc::new(Call {
            party,
            is_exclusive,
            until: self.until,
            parent: self.call.clone(),
        })
    }
}

/// A time of the system's deadlines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Until(NonZeroU64);

impl Until {
    /// `timeout` from now, or the time up to which `call` may take if that is sooner.
    pub(crate) fn of(
        deadlines: Option<&Deadlines>,
        timeout: Duration,
        call: Option<&Call>,
    ) -> Option<Self> {
        let own = deadlines?.until(timeout);
        let outer = call.and_then(|call| call.until);
        Some(outer.map_or(own, |outer| outer.min(own)))
    }

    /// So many milliseconds since the start of the deadlines.
    pub(crate) fn at(millis: u64) -> Self {
        Self(NonZeroU64::MIN.saturating_add(millis))
    }

    pub(crate) fn millis(self) -> u64 {
        self.0.get() - 1
    }
}

/// Who takes part in a call.
#[derive(Clone)]
pub(crate) enum Party {
    Actor(Arc<ActorAddress>),
    Entity(Arc<Address>),
}

impl PartialEq for Party {
    fn eq(&self, other: &Self) -> bool {
        match other {
            Self::Actor(address) => self.is_actor(address),
            Self::Entity(address) => self.is_entity(address),
        }
    }
}

impl Party {
    fn is_actor(&self, address: &ActorAddress) -> bool {
        matches!(self, Self::Actor(own) if std::ptr::eq(&**own, address))
    }

    fn is_entity(&self, address: &Address) -> bool {
        matches!(self, Self::Entity(own) if std::ptr::eq(&**own, address))
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Actor(address) => address.fmt(f),
            Self::Entity(address) => address.persistence_id().fmt(f),
        }
    }
}

impl fmt::Debug for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Call {
    /// The call whose work runs on this thread.
    pub(crate) fn current() -> Option<Arc<Self>> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Makes `work` that of the call.
    pub(crate) fn of_work(self: Arc<Self>, work: Work) -> Work {
        match work {
            Work::Future(future) => Work::Future(Box::pin(InCall { call: self, future })),
            Work::Blocking(work) => Work::Blocking(Box::new(move || {
                let _inside = Inside::begin(self);
                work()
            })),
        }
    }

    /// Whether an actor may be asked on behalf of this call.
    ///
    /// # Errors
    /// [`AskError::Cycle`] if it waits for the end of the call.
    pub(crate) fn may_ask_actor(&self, target: &ActorAddress) -> Result<(), AskError> {
        self.may_ask(|party| party.is_actor(target), target)
    }

    /// As [`Call::may_ask_actor`], for an entity.
    pub(crate) fn may_ask_entity(&self, target: &Address) -> Result<(), AskError> {
        self.may_ask(|party| party.is_entity(target), target.persistence_id())
    }

    fn may_ask(
        &self,
        is_target: impl Fn(&Party) -> bool,
        target: &dyn fmt::Display,
    ) -> Result<(), AskError> {
        let mut call = Some(self);
        while let Some(link) = call {
            if link.is_exclusive && is_target(&link.party) {
                return Err(AskError::Cycle {
                    path: self.path(target).into(),
                });
            }
            call = link.parent.as_deref();
        }
        Ok(())
    }

    /// All parties in their order, `target` last.
    fn path(&self, target: &dyn fmt::Display) -> String {
        let mut path = match &self.parent {
            Some(parent) => parent.path(&self.party),
            None => self.party.to_string(),
        };
        path.push_str(" -> ");
        path.push_str(&target.to_string());
        path
    }
}

/// A future that is the work of a call.
struct InCall {
    call: Arc<Call>,
    future: BoxFuture<'static, Output>,
}

impl Future for InCall {
    type Output = Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Output> {
        let _inside = Inside::begin(Arc::clone(&self.call));
        self.future.as_mut().poll(cx)
    }
}

/// While it is there, a call is this thread's.
struct Inside(Option<Arc<Call>>);

impl Inside {
    fn begin(call: Arc<Call>) -> Self {
        Self(CURRENT.replace(Some(call)))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}
