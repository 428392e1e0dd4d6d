//! Timers of an entity: commands that it sends to itself.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::{Address, Envelope, Queued};
use crate::event_sourced::{EventSourced, Handle};
use crate::reply::Fired;

/// Starts and cancels timers of the entity whose handler runs.
///
/// A timer sends a command to its own entity. Timers live in memory with the incarnation that
/// started them: they end when it stops, restarts or is passivated. A timer that waits does not
/// keep it from being passivated; a command that a timer has sent counts as activity like any
/// other. A timer with the key of a running one replaces it. Nothing of a timer that was cancelled
/// or replaced, or has ended, is handled, also if it had been sent already.
#[derive(Clone, Copy)]
pub struct Timers<'a, E: EventSourced> {
    pub(crate) ops: &'a RefCell<Vec<TimerOp<E>>>,
}

impl<E: EventSourced> Timers<'_, E> {
    /// Sends `command` once, after `delay`.
    pub fn start_single<C: Send + 'static>(
        &self,
        key: impl Into<Cow<'static, str>>,
        delay: Duration,
        command: C,
    ) where
        E: Handle<C>,
    {
        let mut command = Some(command);
        self.push(TimerOp::Start {
            key: key.into(),
            delay,
            period: None,
            make: Box::new(move |address| command.take().map(|command| sent(address, command))),
        });
    }

    /// Sends `command` every `period`, the first time after one period. A period below a
    /// millisecond counts as one. A time at which the command of the one before is still to be
    /// handled is passed over.
    pub fn start_repeated<C: Clone + Send + 'static>(
        &self,
        key: impl Into<Cow<'static, str>>,
        period: Duration,
        command: C,
    ) where
        E: Handle<C>,
    {
        let period = period.max(Duration::from_millis(1));
        self.push(TimerOp::Start {
            key: key.into(),
            delay: period,
            period: Some(period),
            make: Box::new(move |address| Some(sent(address, command.clone()))),
        });
    }

    /// Cancels the timer with this key, if there is one.
    pub fn cancel(&self, key: impl Into<Cow<'static, str>>) {
        self.push(TimerOp::Cancel(key.into()));
    }

    /// Cancels all timers, but not the time-out of a state machine's state.
    pub fn cancel_all(&self) {
        self.push(TimerOp::CancelAll);
    }

    fn push(&self, op: TimerOp<E>) {
        self.ops.borrow_mut().push(op);
    }
}

impl<E: EventSourced> fmt::Debug for Timers<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timers").finish_non_exhaustive()
    }
}

/// A command that a timer has sent, and the timer's hold on it.
pub(crate) type Sent<E> = (Box<dyn Queued<E>>, Arc<dyn Fired>);

pub(crate) type MakeCommand<E> = Box<dyn FnMut(&Arc<Address>) -> Option<Sent<E>> + Send>;

fn sent<E: Handle<C>, C: Send + 'static>(address: &Arc<Address>, command: C) -> Sent<E> {
    let (envelope, fired) = Envelope::from_timer(Arc::clone(address), command);
    (Box::new(envelope), fired)
}

/// What a handler asked of its timers; carried out when it has returned.
pub(crate) enum TimerOp<E: EventSourced> {
    Start {
        key: Cow<'static, str>,
        delay: Duration,
        period: Option<Duration>,
        make: MakeCommand<E>,
    },
    Cancel(Cow<'static, str>),
    CancelAll,
}
