//! Plain actors: what a user writes.
//!
//! A plain actor lives in memory, on one worker, and handles one message after another with
//! `&mut self`. It is spawned from a factory, so that its supervision can begin anew with a fresh
//! value; it may have children, watch others, be watched, and has timers, a stash and work outside
//! of its worker, whose end comes back as a continuation.

mod actor_ref;
mod answer;
mod context;
mod failure;
mod props;
mod supervision;

#[cfg(feature = "actix-interop")]
pub(crate) use actor_ref::Takes;
pub use actor_ref::{ActorPath, ActorRef, AskActor, Recipient, WeakActorRef};
pub use answer::{Answer, Outside, PendingReply, Received};
pub(crate) use answer::{Asked, Continuation, Kind, LaterOptions, LaterWork, Restore, Waiting};
pub use context::{ActorCx, ActorTimers};
pub use failure::{Failure, StopReason};
pub use props::{Placement, Props, SpawnError};
pub(crate) use supervision::Restarts;
pub use supervision::{Directive, Supervision};

/// An actor in memory. `Self` is its state.
///
/// ```
/// use perennial_core::config::ConfigSource;
/// use perennial_core::{Actor, ActorCx, ActorSystem, Receive, Received};
///
/// #[derive(Default)]
/// struct Counter {
///     total: u64,
/// }
///
/// impl Actor for Counter {}
///
/// struct Add(u64);
///
/// impl Receive<Add> for Counter {
///     type Reply = u64;
///
///     fn receive(&mut self, add: Add, cx: &mut ActorCx<'_, Self>) -> Received<Self, u64> {
///         self.total += add.0;
///         cx.reply(self.total)
///     }
/// }
///
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let system = ActorSystem::in_memory(ConfigSource::empty()).start().await?;
/// let counter = system.spawn("counter", Counter::default)?;
/// counter.tell(Add(1))?;
/// assert_eq!(counter.ask(Add(2)).await?, 3);
/// system.shutdown().await?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A message without a [`Receive`] impl does not compile:
///
/// ```compile_fail
/// # use perennial_core::{Actor, ActorRef};
/// # struct Counter;
/// # impl Actor for Counter {}
/// struct Unknown;
/// fn send(counter: ActorRef<Counter>) {
///     let _ = counter.tell(Unknown);
/// }
/// ```
///
/// A panic of any of these functions is a failure, as an error that they return is; see
/// [`Supervision`].
pub trait Actor: Sized + Send + 'static {
    /// Runs before the first message, and again after every restart, on the fresh value.
    ///
    /// # Errors
    /// A [`Failure`], about which the supervision decides.
    fn started(&mut self, cx: &mut ActorCx<'_, Self>) -> Result<(), Failure> {
        let _ = cx;
        Ok(())
    }

    /// Runs before the value is dropped because the actor restarts, on the value that failed. Its
    /// children have been told to stop by then.
    fn restarting(&mut self, failure: &Failure, cx: &mut ActorCx<'_, Self>) {
        let _ = (failure, cx);
    }

    /// Runs when the actor has ended and its children are gone, before whoever watches it is told.
    /// What it sends is sent; what it starts, such as timers, ends at once.
    fn stopped(&mut self, reason: &StopReason, cx: &mut ActorCx<'_, Self>) {
        let _ = (reason, cx);
    }

    /// One that this actor watches has ended.
    ///
    /// # Errors
    /// A [`Failure`]. Unless it is overridden, the end of a watched one is a failure itself: whoever
    /// does not say what to do about it cannot go on.
    fn terminated(
        &mut self,
        terminated: &Terminated,
        cx: &mut ActorCx<'_, Self>,
    ) -> Result<(), Failure> {
        let _ = cx;
        Err(Failure::new(format!(
            "{} has ended ({}), which `terminated` is not overridden for",
            terminated.path, terminated.reason
        )))
    }

    /// A child has failed; `failed` says what its supervision made of that. Nothing is expected of
    /// the parent.
    ///
    /// # Errors
    /// A [`Failure`] of this actor itself.
    fn child_failed(
        &mut self,
        failed: &ChildFailed,
        cx: &mut ActorCx<'_, Self>,
    ) -> Result<(), Failure> {
        let _ = (failed, cx);
        Ok(())
    }

    /// No message has come for as long as [`ActorCx::set_receive_timeout`] says. Comes again after
    /// as long once more.
    ///
    /// # Errors
    /// A [`Failure`], about which the supervision decides.
    fn receive_timeout(&mut self, cx: &mut ActorCx<'_, Self>) -> Result<(), Failure> {
        let _ = cx;
        Ok(())
    }
}

/// How an actor handles messages of one type.
pub trait Receive<M: Send + 'static>: Actor {
    /// What whoever asks gets; `()` for a message that is only told.
    type Reply: Send + 'static;

    /// Handles a message. It must not block its thread, which all actors of the worker share: what
    /// takes long goes into [`ActorCx::later`] or [`ActorCx::blocking`].
    ///
    /// # Errors
    /// A [`Failure`]: whoever asked gets [`AskError::Failed`](crate::AskError::Failed), and the
    /// supervision decides about the actor.
    fn receive(&mut self, message: M, cx: &mut ActorCx<'_, Self>) -> Received<Self, Self::Reply>;
}

/// An actor has ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Terminated {
    /// Which one.
    pub path: ActorPath,
    /// Why.
    pub reason: StopReason,
}

impl Terminated {
    /// Whether it is this one that has ended.
    pub fn is<A: Actor>(&self, actor: &ActorRef<A>) -> bool {
        self.path == actor.path()
    }
}

/// A child has failed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ChildFailed {
    /// Which one.
    pub path: ActorPath,
    /// What happened.
    pub failure: Failure,
    /// What became of it.
    pub directive: Directive,
}
