//! SIGTERM and ctrl-c.
//!
//! The first signal is for whoever waits for it. From then on ctrl-c ends the process as it would
//! without a handler, whatever hangs: that is done in the signal's handler itself. It does so too,
//! as SIGTERM does, when nobody waits any more, so that a process whose system has ended is not one
//! that cannot be ended.

use std::io;

use tokio::runtime::Handle;

use crate::shutdown::ShutdownReason;

pub(crate) use listening::Signals;

#[cfg(unix)]
mod listening {
    use std::pin::pin;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

    use futures_util::future::{Either, select};
    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::flag;
    use tokio::signal::unix::{Signal, SignalKind, signal};

    use super::*;

    /// What the process does on a signal; there from the first one on who waits.
    static PROCESS: Mutex<Option<Process>> = Mutex::new(None);

    struct Process {
        waiting: usize,
        /// Whether ctrl-c does what it does without a handler.
        interrupt_ends: Arc<AtomicBool>,
        /// Likewise for SIGTERM.
        terminate_ends: Arc<AtomicBool>,
    }

    impl Process {
        fn register() -> io::Result<Self> {
            let process = Self {
                waiting: 0,
                interrupt_ends: Arc::default(),
                terminate_ends: Arc::default(),
            };
            let interrupt_ends = || Arc::clone(&process.interrupt_ends);
            // They run in this order: a first ctrl-c finds that it is the first.
            flag::register_conditional_default(SIGINT, interrupt_ends())?;
            flag::register(SIGINT, interrupt_ends())?;
            flag::register(SIGTERM, interrupt_ends())?;
            flag::register_conditional_default(SIGTERM, Arc::clone(&process.terminate_ends))?;
            Ok(process)
        }

        fn set_ends(&self, ends: bool) {
            self.interrupt_ends.store(ends, Ordering::SeqCst);
            self.terminate_ends.store(ends, Ordering::SeqCst);
        }
    }

    fn process() -> MutexGuard<'static, Option<Process>> {
        PROCESS.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for signals while it is there.
    pub(crate) struct Signals {
        interrupt: Signal,
        terminate: Signal,
    }

    impl Signals {
        /// Begins to wait. `runtime` drives it.
        ///
        /// # Errors
        /// When the operating system refuses.
        pub(crate) fn wait_on(runtime: &Handle) -> io::Result<Self> {
            let _inside = runtime.enter();
            let signals = Self {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
            };
            let mut process = process();
            let process = match &mut *process {
                Some(process) => process,
                none => none.insert(Process::register()?),
            };
            process.waiting += 1;
            process.set_ends(false);
            Ok(signals)
        }

        /// The first signal.
        pub(crate) async fn first(&mut self) -> ShutdownReason {
            let interrupt = pin!(self.interrupt.recv());
            let terminate = pin!(self.terminate.recv());
            match select(interrupt, terminate).await {
                Either::Left(_) => ShutdownReason::Interrupt,
                Either::Right(_) => ShutdownReason::Terminate,
            }
        }
    }

    impl Drop for Signals {
        fn drop(&mut self) {
            if let Some(process) = &mut *process() {
                process.waiting -= 1;
                if process.waiting == 0 {
                    process.set_ends(true);
                }
            }
        }
    }
}

#[cfg(not(unix))]
mod listening {
    use super::*;

    /// Waits for ctrl-c while it is there.
    pub(crate) struct Signals {
        runtime: Handle,
    }

    impl Signals {
        pub(crate) fn wait_on(runtime: &Handle) -> io::Result<Self> {
            Ok(Self {
                runtime: runtime.clone(),
            })
        }

        pub(crate) async fn first(&mut self) -> ShutdownReason {
            let first = self.runtime.spawn(tokio::signal::ctrl_c());
            let _ = first.await;
            self.runtime.spawn(async {
                if tokio::signal::ctrl_c().await.is_ok() {
                    std::process::exit(130);
                }
            });
            ShutdownReason::Interrupt
        }
    }
}
