//! The production driver: each worker is an actix actor on an arbiter of its own.
//!
//! Arbiters need an actix `System`, which belongs to one thread; it gets a thread of its own, so
//! that perennial starts from any runtime or none. The actor runs one future that turns the
//! worker whenever something came in or its time has come. Everything that must outlive it runs
//! elsewhere: what speaks to the store on the persistence runtime, futures of `later` on the task
//! runtime.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix::fut::ActorFuture;
use actix::{Actor, ActorContext, Arbiter, AsyncContext};
use futures_util::FutureExt;
use perennial_persistence::{Clock, Error, Store};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Sleep};

use crate::engine::{
    Input, LaterDone, LaterFailure, LaterRequest, Outbox, Registry, Worker, WriteBatch,
};
use crate::event_sourced::Work;

/// What a worker's actor reaches outside of it.
#[derive(Clone)]
pub(crate) struct Outside {
    pub(crate) registry: Arc<Registry>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Where database futures run.
    pub(crate) persistence: Handle,
    /// Where futures of `later` run.
    pub(crate) tasks: Handle,
}

/// The threads that run the workers.
pub(crate) struct Engine {
    /// Told when a worker has forgotten its last entity, one each.
    pub(crate) done: Vec<oneshot::Receiver<()>>,
    /// Ends the threads when it is used or dropped.
    stop: oneshot::Sender<()>,
    /// Told when they have ended.
    stopped: oneshot::Receiver<()>,
}

impl Engine {
    /// Starts one arbiter per worker.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(crate) fn start(
        name: &str,
        workers: Vec<(Worker, mpsc::UnboundedReceiver<Input>)>,
        outside: &Outside,
    ) -> std::io::Result<Self> {
        let (done_senders, done) = workers.iter().map(|_| oneshot::channel::<()>()).unzip();
        let (stop, stop_received) = oneshot::channel();
        let (stopped_sender, stopped) = oneshot::channel();
        let actors: Vec<WorkerActor> = workers
            .into_iter()
            .zip::<Vec<oneshot::Sender<()>>>(done_senders)
            .enumerate()
            .map(|(index, ((worker, inbox), done))| WorkerActor {
                index,
                worker,
                inbox,
                received: Vec::new(),
                outside: outside.clone(),
                wake_at: None,
                sleep: None,
                sleep_until: None,
                done: Some(done),
            })
            .collect();
        std::thread::Builder::new()
            .name(format!("{name}-actix"))
            .spawn(move || {
                actix::System::new().block_on(async move {
                    let arbiters: Vec<Arbiter> = actors
                        .into_iter()
                        .map(|actor| {
                            let arbiter = Arbiter::new();
                            WorkerActor::start_in_arbiter(&arbiter.handle(), |_| actor);
                            arbiter
                        })
                        .collect();
                    // An error means that the system was dropped; the arbiters end all the same.
                    let _ = stop_received.await;
                    for arbiter in arbiters {
                        arbiter.stop();
                        if arbiter.join().is_err() {
                            tracing::error!("a worker's thread panicked");
                        }
                    }
                });
                let _ = stopped_sender.send(());
            })?;
        Ok(Self {
            done,
            stop,
            stopped,
        })
    }

    /// Ends the threads and waits for that.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.stopped.await;
    }
}

/// The actix actor that owns a worker.
struct WorkerActor {
    index: usize,
    worker: Worker,
    inbox: mpsc::UnboundedReceiver<Input>,
    received: Vec<Input>,
    outside: Outside,
    wake_at: Option<Duration>,
    sleep: Option<Pin<Box<Sleep>>>,
    /// The worker's time for which the sleep is set.
    sleep_until: Option<Duration>,
    done: Option<oneshot::Sender<()>>,
}

impl Actor for WorkerActor {
    type Context = actix::Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.spawn(Drive);
    }
}

/// Turns the worker for as long as there is something to do.
struct Drive;

impl ActorFuture<WorkerActor> for Drive {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        actor: &mut WorkerActor,
        ctx: &mut actix::Context<WorkerActor>,
        task: &mut Context<'_>,
    ) -> Poll<()> {
        ready!(actor.drive(task));
        ctx.stop();
        Poll::Ready(())
    }
}

impl WorkerActor {
    /// Turns the worker until nothing can be done at once; ready when it has ended.
    fn drive(&mut self, task: &mut Context<'_>) -> Poll<()> {
        /// Inputs taken in one turn.
        const INPUTS: usize = 4096;
        /// Turns before the thread's reactor gets its share.
        const TURNS: usize = 16;
        for _ in 0..TURNS {
            let idle = self
                .inbox
                .poll_recv_many(task, &mut self.received, INPUTS)
                .is_pending();
            if idle && !self.is_due(task) {
                return Poll::Pending;
            }
            let out = self.worker.turn(self.received.drain(..));
            self.wake_at = if out.busy {
                Some(Duration::ZERO)
            } else {
                out.wake_at
            };
            self.dispatch(out);
            if self.worker.is_done() {
                if let Some(done) = self.done.take() {
                    let _ = done.send(());
                }
                return Poll::Ready(());
            }
        }
        task.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether the worker wants a turn now; otherwise the task will be woken when it does.
    fn is_due(&mut self, task: &mut Context<'_>) -> bool {
        let Some(wake_at) = self.wake_at else {
            return false;
        };
        let left = wake_at.saturating_sub(self.outside.clock.elapsed());
        if left.is_zero() {
            self.sleep_until = None;
            return true;
        }
        // A timer that is set for this time wakes the task without being looked at again.
        if self.sleep_until == Some(wake_at) {
            return false;
        }
        let at = Instant::now() + left;
        let sleep = match &mut self.sleep {
            Some(sleep) => {
                sleep.as_mut().reset(at);
                sleep
            }
            none => none.insert(Box::pin(tokio::time::sleep_until(at))),
        };
        self.sleep_until = Some(wake_at);
        if sleep.as_mut().poll(task).is_ready() {
            self.sleep_until = None;
            return true;
        }
        false
    }

    fn dispatch(&self, out: Outbox) {
        for batch in out.writes {
            self.outside
                .persistence
                .spawn(write(self.outside.clone(), self.index, batch));
        }
        for request in out.reads {
            let outside = self.outside.clone();
            let index = self.index;
            self.outside.persistence.spawn(async move {
                let failed = request.clone();
                let read = AssertUnwindSafe(request.read(&*outside.store)).catch_unwind();
                let done = read.await.unwrap_or_else(|_| {
                    failed.failed(Error::unavailable("the store panicked", None))
                });
                outside.registry.post(index, Input::Read(Box::new(done)));
            });
        }
        for (key, snapshot) in out.snapshots {
            let outside = self.outside.clone();
            let index = self.index;
            self.outside.persistence.spawn(async move {
                let snapshots = outside.store.snapshot_store();
                let saved = AssertUnwindSafe(snapshots.save(&snapshot)).catch_unwind();
                let result = saved
                    .await
                    .unwrap_or_else(|_| Err(Error::unavailable("the store panicked", None)));
                outside
                    .registry
                    .post(index, Input::SnapshotSaved(key, Box::new(result)));
            });
        }
        for request in out.laters {
            let outside = self.outside.clone();
            let index = self.index;
            self.outside.tasks.spawn(async move {
                let done = run_later(request).await;
                outside
                    .registry
                    .post(index, Input::LaterDone(Box::new(done)));
            });
        }
    }
}

/// Writes a batch, lets out the replies of what is stored, and tells the worker.
async fn write(outside: Outside, index: usize, batch: WriteBatch) {
    let journal = outside.store.journal();
    let written = AssertUnwindSafe(journal.write_events(batch.writes())).catch_unwind();
    // After a panic nothing is known of any write, which is what no results mean.
    let results = written.await.unwrap_or_default();
    let settled = batch.settle(results);
    outside
        .registry
        .post(index, Input::Written(Box::new(settled)));
}

async fn run_later(request: LaterRequest) -> LaterDone {
    let task = match request.work {
        Work::Future(future) => tokio::spawn(future),
        Work::Blocking(work) => tokio::task::spawn_blocking(work),
    };
    let abort = task.abort_handle();
    let output = match tokio::time::timeout(request.timeout, task).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(_)) => Err(LaterFailure::Panicked),
        Err(_) => {
            abort.abort();
            Err(LaterFailure::TimedOut)
        }
    };
    LaterDone {
        key: request.key,
        token: request.token,
        output,
    }
}
