//! Tokio runtimes of a system.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

/// A runtime that may be dropped anywhere, also inside of another one; what still runs on it is
/// dropped in the background then.
#[derive(Debug)]
pub(crate) struct Background {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl Background {
    /// Starts a runtime whose threads are called `name`; one per core unless a number is given. At
    /// most `blocking` more threads run what blocks.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(crate) fn start(name: String, threads: Option<usize>, blocking: usize) -> io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        builder
            .enable_all()
            .max_blocking_threads(blocking)
            .thread_name(name);
        if let Some(threads) = threads {
            builder.worker_threads(threads);
        }
        let runtime = builder.build()?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Ends the runtime and waits until everything on it is dropped. Blocks its thread, which must
    /// not be one of a runtime.
    pub(crate) fn finish(mut self) {
        drop(self.runtime.take());
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
