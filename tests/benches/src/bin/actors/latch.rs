//! Counts down to the end of a round.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Ready once as many messages have arrived as were announced.
#[derive(Debug, Clone)]
pub(crate) struct Latch(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    left: AtomicUsize,
    done: Notify,
}

impl Latch {
    pub(crate) fn new(count: usize) -> Self {
        Self(Arc::new(Inner {
            left: AtomicUsize::new(count),
            done: Notify::new(),
        }))
    }

    pub(crate) fn reset(&self, count: usize) {
        self.0.left.store(count, Ordering::Release);
    }

    pub(crate) fn arrive(&self) {
        if self.0.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.done.notify_one();
        }
    }

    /// Waits for the last one.
    pub(crate) async fn wait(&self) {
        while self.0.left.load(Ordering::Acquire) > 0 {
            self.0.done.notified().await;
        }
    }
}
