//! Futures of the test that go on while the system does.

use std::cell::RefCell;
use std::fmt;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use super::TestSystem;

/// A future that goes on whenever the system does. Made by [`TestSystem::task`]; dropping it drops the
/// future.
#[must_use = "dropping a task drops its future"]
pub struct TestTask<T> {
    slot: Rc<Slot<T>>,
    system: TestSystem,
}

struct Slot<T> {
    future: RefCell<Option<Pin<Box<dyn Future<Output = T>>>>>,
    output: RefCell<Option<T>>,
}

/// A future whose output is of no matter.
pub(super) trait Pollable {
    fn poll(&self, context: &mut Context<'_>);
}

impl<T: 'static> TestTask<T> {
    pub(super) fn new(system: &TestSystem, future: impl Future<Output = T> + 'static) -> Self {
        Self {
            slot: Rc::new(Slot {
                future: RefCell::new(Some(Box::pin(future))),
                output: RefCell::default(),
            }),
            system: system.clone(),
        }
    }

    pub(super) fn pollable(&self) -> Weak<dyn Pollable> {
        let slot: Rc<dyn Pollable> = self.slot.clone();
        Rc::downgrade(&slot)
    }

    /// Whether it has ended.
    ///
    /// # Panics
    /// As [`TestSystem::run`].
    #[track_caller]
    pub fn is_done(&self) -> bool {
        self.system.run();
        self.slot.output.borrow().is_some()
    }

    /// Its output.
    ///
    /// # Panics
    /// If it has not ended, and as [`TestSystem::run`].
    #[track_caller]
    pub fn output(self) -> T {
        self.system.run();
        match self.slot.output.take() {
            Some(output) => output,
            None => panic!(
                "the task has not ended by now: {}; `advance` the time, or do what it waits for",
                self.system.describe()
            ),
        }
    }
}

impl<T> Pollable for Slot<T> {
    fn poll(&self, context: &mut Context<'_>) {
        // One that drives the system from inside of itself is not polled again by that.
        let Ok(mut future) = self.future.try_borrow_mut() else {
            return;
        };
        if let Some(running) = &mut *future
            && let Poll::Ready(output) = running.as_mut().poll(context)
        {
            *future = None;
            self.output.replace(Some(output));
        }
    }
}

impl<T> fmt::Debug for TestTask<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestTask")
            .field("is_done", &self.slot.output.borrow().is_some())
            .finish_non_exhaustive()
    }
}
