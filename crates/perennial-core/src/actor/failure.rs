//! Why an actor failed, and why it ended.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::error::chain;

/// What a handler of an actor returns when it cannot go on: its supervision decides what becomes of
/// the actor. Any error turns into one with `?`; a panic of its code counts as one.
///
/// An error that the sender is to see and the actor lives with is a reply, such as a `Result`.
///
/// ```
/// use perennial_core::Failure;
///
/// fn parse(text: &str) -> Result<u32, Failure> {
///     Ok(text.parse::<u32>()?)
/// }
/// assert_eq!(parse("7").ok(), Some(7));
/// let failure = parse("x").expect_err("no number");
/// assert!(failure.downcast_ref::<std::num::ParseIntError>().is_some());
/// assert_eq!(failure.to_string(), "invalid digit found in string");
/// ```
#[derive(Clone)]
pub struct Failure {
    cause: Cause,
}

#[derive(Clone)]
enum Cause {
    Error(Arc<dyn Error + Send + Sync>),
    Message(Arc<str>),
    Panic(Arc<str>),
}

impl Failure {
    /// A failure that is told by a text alone.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            cause: Cause::Message(message.into().into()),
        }
    }

    pub(crate) fn panic(message: Arc<str>) -> Self {
        Self {
            cause: Cause::Panic(message),
        }
    }

    /// Whether the code panicked instead of returning.
    pub fn is_panic(&self) -> bool {
        matches!(self.cause, Cause::Panic(_))
    }

    /// The error that it was made of, if it was of type `E`; for deciders.
    pub fn downcast_ref<E: Error + 'static>(&self) -> Option<&E> {
        match &self.cause {
            Cause::Error(error) => error.downcast_ref(),
            Cause::Message(_) | Cause::Panic(_) => None,
        }
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self {
            cause: Cause::Error(Arc::new(error)),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Error(error) => f.write_str(&chain(&**error)),
            Cause::Message(message) => f.write_str(message),
            Cause::Panic(message) => write!(f, "panicked: {message}"),
        }
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Failure({self})")
    }
}

/// Why an actor ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum StopReason {
    /// It was asked to: by itself, its parent, or whoever holds a reference.
    Stopped,
    /// It failed, and its supervision stopped it or ran out of restarts.
    Failed(Failure),
    /// It stopped because its parent did, or restarted.
    Parent,
    /// The last reference to it is gone, and it was spawned to stop then.
    Unreferenced,
    /// The system stops.
    SystemStopped,
    /// It had ended before it was watched; why is not known any more.
    NotFound,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("it was stopped"),
            Self::Failed(failure) => write!(f, "it failed: {failure}"),
            Self::Parent => f.write_str("its parent stopped or restarted"),
            Self::Unreferenced => f.write_str("nobody refers to it any more"),
            Self::SystemStopped => f.write_str("the system stops"),
            Self::NotFound => f.write_str("it had ended before"),
        }
    }
}
