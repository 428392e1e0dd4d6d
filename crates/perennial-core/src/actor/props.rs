//! How an actor is made and what it is allowed.

use std::fmt;
use std::sync::Arc;

use crate::actor::{Actor, Failure, Supervision};

/// How an actor is made, and its settings. A closure that gives the actor's value is one with the
/// default settings, so `spawn("counter", Counter::default)` is enough for many.
///
/// ```
/// use perennial_core::{Actor, Props, Supervision};
///
/// struct Worker {
///     number: u32,
/// }
/// impl Actor for Worker {}
///
/// let props = Props::new(|| Worker { number: 7 })
///     .mailbox(100)
///     .supervision(Supervision::stop());
/// # let _ = props;
/// ```
pub struct Props<A> {
    pub(crate) factory: Factory<A>,
    pub(crate) options: Options,
}

pub(crate) type Factory<A> = Box<dyn FnMut() -> Result<A, Failure> + Send>;

#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) mailbox: u32,
    pub(crate) stash: u32,
    /// The default one if there is none.
    pub(crate) supervision: Option<Arc<Supervision>>,
    pub(crate) placement: Placement,
    pub(crate) stop_unreferenced: bool,
}

/// On which worker an actor lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Placement {
    /// A child beside its parent, where messages between the two need no other thread; an actor
    /// without a parent on the next worker.
    #[default]
    Near,
    /// On the next worker, as of a pool whose members are to use all of them.
    Spread,
    /// On the worker with this number, counted round from the last to the first.
    Worker(usize),
}

impl<A: Actor> Props<A> {
    /// An actor whose values `factory` makes: the first one, and a fresh one at every restart. It
    /// runs on the actor's worker; a panic is a failure of the actor.
    pub fn new(mut factory: impl FnMut() -> A + Send + 'static) -> Self {
        Self::try_new(move || Ok(factory()))
    }

    /// As [`Props::new`], for a factory that may fail, about which the supervision decides.
    pub fn try_new(factory: impl FnMut() -> Result<A, Failure> + Send + 'static) -> Self {
        Self {
            factory: Box::new(factory),
            options: Options::default(),
        }
    }

    /// How many messages may wait for the actor: 1,024 by default, at least 1 and at most
    /// 1,048,576, within which other values are held. One more is refused as
    /// [`AskError::Busy`](crate::AskError::Busy) before it is queued. Places are given back in one
    /// go when the actor has had its turn (`messages-per-turn`) or has nothing left to handle.
    pub fn mailbox(mut self, messages: usize) -> Self {
        self.options.mailbox = bounded(messages, 1);
        self
    }

    /// How many messages may be stashed: 1,024 by default, at most 1,048,576, at which larger values
    /// are held. 0 allows none.
    pub fn stash(mut self, messages: usize) -> Self {
        self.options.stash = bounded(messages, 0);
        self
    }

    /// What is decided when the actor fails.
    pub fn supervision(mut self, supervision: Supervision) -> Self {
        self.options.supervision = Some(Arc::new(supervision));
        self
    }

    /// On which worker it lives.
    pub fn placement(mut self, placement: Placement) -> Self {
        self.options.placement = placement;
        self
    }

    /// Stops the actor when its last [`ActorRef`](crate::ActorRef) is dropped, once what was sent
    /// before is handled. Those of its parent, of who watches it, and of messages on their way do not
    /// count.
    pub fn stop_unreferenced(mut self) -> Self {
        self.options.stop_unreferenced = true;
        self
    }
}

fn bounded(messages: usize, least: u32) -> u32 {
    const MOST: u32 = 1 << 20;
    u32::try_from(messages).unwrap_or(MOST).clamp(least, MOST)
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mailbox: 1024,
            stash: 1024,
            supervision: None,
            placement: Placement::Near,
            stop_unreferenced: false,
        }
    }
}

impl<A: Actor, F: FnMut() -> A + Send + 'static> From<F> for Props<A> {
    fn from(factory: F) -> Self {
        Self::new(factory)
    }
}

impl<A> fmt::Debug for Props<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Props")
            .field("actor", &std::any::type_name::<A>())
            .field("mailbox", &self.options.mailbox)
            .field("stash", &self.options.stash)
            .field("supervision", &self.options.supervision)
            .field("placement", &self.options.placement)
            .field("stop_unreferenced", &self.options.stop_unreferenced)
            .finish_non_exhaustive()
    }
}

/// Why an actor was not spawned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// Another actor has this name.
    #[error("an actor {path} is there already; a name is free again when its actor has ended")]
    NameTaken {
        /// Where it stands.
        path: String,
    },
    /// The name cannot be one.
    #[error(
        "\"{name}\" cannot be an actor's name: 1 to 255 characters, without `/`, `$` in front and \
         control characters"
    )]
    InvalidName {
        /// The name.
        name: String,
    },
    /// The system stops or has stopped, or the one that spawns stops or restarts.
    #[error("the actor system, or the actor that spawns, is stopping")]
    Stopped,
}
