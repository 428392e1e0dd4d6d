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
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use actix::fut::ActorFuture;
use actix::{Actor, ActorContext, Arbiter, AsyncContext};
use futures_util::FutureExt;
use perennial_persistence::{Clock, Error, Store};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, Sleep};

use crate::deadline;
use crate::engine::pulse::{News, Watchdog};
use crate::engine::{
    DeletionDone, Input, LaterDone, LaterFailure, LaterRequest, Outbox, Registry, Stats, Worker,
    WriteBatch,
};
use crate::event_sourced::Work;
use crate::metrics::Publisher;
use crate::runtime::Background;
use crate::shutdown::{Course, ShutdownPhase, ShutdownReport};

/// What a worker's actor reaches outside of it.
#[derive(Clone)]
pub(crate) struct Outside {
    pub(crate) registry: Arc<Registry>,
    /// The store of each entity type.
    pub(crate) stores: Arc<[Arc<dyn Store>]>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Where database futures run.
    pub(crate) persistence: Handle,
    /// Where futures of `later` run.
    pub(crate) tasks: Handle,
}

impl Outside {
    /// The store that keeps the entities of a type.
    fn store_of(&self, host: usize) -> &dyn Store {
        &*self.stores[host]
    }
}

/// The thread that starts and ends the workers' threads. Dropping it ends them at once.
pub(crate) struct Engine {
    end: oneshot::Sender<End>,
}

/// How a system ends.
pub(crate) struct End {
    pub(crate) course: Course,
    pub(crate) registry: Arc<Registry>,
    pub(crate) stats: Vec<Arc<Stats>>,
    pub(crate) stores: Vec<Arc<dyn Store>>,
    pub(crate) persistence: Background,
    pub(crate) tasks: Background,
    pub(crate) deadlines: deadline::Running,
    /// Tells the metrics for a last time.
    pub(crate) publisher: Option<Arc<Publisher>>,
    /// How long the workers may take, and the store after them.
    pub(crate) timeout: Duration,
    /// Told what became of it.
    pub(crate) ended: watch::Sender<Option<Arc<ShutdownReport>>>,
}

impl Engine {
    /// Starts one arbiter per worker.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(crate) async fn start(
        name: &str,
        workers: Vec<(Worker, mpsc::UnboundedReceiver<Input>)>,
        outside: &Outside,
        stuck_after: Duration,
    ) -> std::io::Result<Self> {
        // Never used to send: it is closed once no worker holds its end any more.
        let (working, all_done) = mpsc::channel(1);
        let actors: Vec<WorkerActor> = workers
            .into_iter()
            .enumerate()
            .map(|(index, (worker, inbox))| WorkerActor {
                index,
                worker,
                inbox,
                received: Vec::new(),
                outside: outside.clone(),
                // Reminders are read at the start.
                wake_at: Some(Duration::ZERO),
                sleep: None,
                sleep_until: None,
                working: Some(working.clone()),
            })
            .collect();
        drop(working);
        let watched = Watched {
            registry: Arc::clone(&outside.registry),
            clock: Arc::clone(&outside.clock),
            stats: actors
                .iter()
                .map(|actor| Arc::clone(actor.worker.stats()))
                .collect(),
        };
        let watch = (watched, stuck_after);
        let (end, end_received) = oneshot::channel();
        let (started, start_received) = oneshot::channel();
        std::thread::Builder::new()
            .name(format!("{name}-actix"))
            .spawn(move || run_workers(actors, watch, started, end_received, all_done))?;
        // Actix panics when it cannot start a thread.
        start_received
            .await
            .map_err(|_| std::io::Error::other("the workers' threads could not be started"))?;
        Ok(Self { end })
    }

    /// Ends the threads, the store and the runtimes in the background; the workers have been told
    /// already.
    pub(crate) fn end(self, end: End) {
        // The thread is gone only if it panicked; then nothing is left to wait for.
        if let Err(end) = self.end.send(end) {
            drop(end);
        }
    }
}

/// The life of the thread that holds the actix system.
fn run_workers(
    actors: Vec<WorkerActor>,
    (watched, stuck_after): (Watched, Duration),
    started: oneshot::Sender<()>,
    end: oneshot::Receiver<End>,
    mut all_done: mpsc::Receiver<()>,
) {
    /// How long a worker may take to leave its thread once it has been stopped. One that does not
    /// is inside of a handler.
    const GRACE: Duration = Duration::from_millis(500);
    let left = actix::System::new().block_on(async move {
        let arbiters: Vec<Arbiter> = actors
            .into_iter()
            .map(|actor| {
                let arbiter = Arbiter::new();
                WorkerActor::start_in_arbiter(&arbiter.handle(), |_| actor);
                arbiter
            })
            .collect();
        let _ = started.send(());
        if !stuck_after.is_zero() {
            actix::spawn(watch(watched, stuck_after));
        }
        // An error means that nobody waited for the start; the workers end all the same.
        let Ok(end) = end.await else {
            stop(&arbiters);
            return None;
        };

        let mut course = end.course;
        course.services().await;
        let (began, deadline) = (Instant::now(), course.in_time(end.timeout));
        // Entities have at least half of the time, whatever actors do.
        let of_actors = began + deadline.saturating_duration_since(began) / 2;
        end.registry.stop_actors();
        let actors = end.registry.actors_have_ended();
        course
            .phase(ShutdownPhase::StopActors, of_actors, actors)
            .await;
        end.registry.close();
        for worker in 0..end.registry.workers() {
            end.registry.post(worker, Input::Shutdown);
        }
        course
            .phase(ShutdownPhase::DrainEntities, deadline, all_done.recv())
            .await;
        stop(&arbiters);
        // What they still held is answered when they are gone.
        let until = Instant::now() + GRACE;
        let gone = course
            .phase(ShutdownPhase::Flush, until, all_done.recv())
            .await;
        end.registry.end();
        let arbiters = match gone {
            Some(_) => join(arbiters),
            None => arbiters,
        };
        let cut_off = end.registry.cut_off(&end.stats);
        let stores = end.stores.clone();
        let closing = end.persistence.handle().spawn(async move {
            for store in stores {
                store.close().await;
            }
        });
        let until = course
            .in_time(end.timeout)
            .max(Instant::now() + GRACE.min(end.timeout));
        course
            .phase(ShutdownPhase::CloseStore, until, closing)
            .await;
        course.tasks_of(ShutdownPhase::After).await;
        let report = course.report(cut_off, end.registry.refused().count(), end.timeout);
        if let Some(publisher) = end.publisher {
            publisher.publish();
        }
        end.ended.send_replace(Some(Arc::new(report)));
        Some((arbiters, end.persistence, end.tasks, end.deadlines))
    });
    // Nobody waits for this thread any more, so it may wait for a handler that does not return.
    // Callers are answered or reach their deadlines, which are looked after until then.
    if let Some((arbiters, persistence, tasks, deadlines)) = left {
        join(arbiters);
        persistence.finish();
        tasks.finish();
        drop(deadlines);
    }
}

/// What is looked at to find workers that are stuck.
struct Watched {
    registry: Arc<Registry>,
    clock: Arc<dyn Clock>,
    stats: Vec<Arc<Stats>>,
}

/// Tells of workers whose code does not return.
async fn watch(watched: Watched, after: Duration) {
    let mut watchdog = Watchdog::new(watched.stats.len());
    loop {
        tokio::time::sleep(after / 4).await;
        let now = watched.clock.elapsed();
        for (worker, stats) in watched.stats.iter().enumerate() {
            match watchdog.look(worker, &stats.pulse, now, after) {
                Some(News::Stuck(beat, elapsed)) => tracing::error!(
                    worker,
                    running = watched.registry.name_of(worker, beat.key),
                    elapsed_ms = elapsed.as_millis(),
                    "a worker is stuck in a handler; nothing else of it goes on until that returns"
                ),
                Some(News::GoesOn(beat)) => tracing::info!(
                    worker,
                    was_running = watched.registry.name_of(worker, beat.key),
                    elapsed_ms = now.saturating_sub(beat.since).as_millis(),
                    "a worker that was stuck goes on"
                ),
                None => {}
            }
        }
    }
}

fn stop(arbiters: &[Arbiter]) {
    for arbiter in arbiters {
        arbiter.stop();
    }
}

/// Waits for the arbiters' threads; gives that none is left.
fn join(arbiters: Vec<Arbiter>) -> Vec<Arbiter> {
    for arbiter in arbiters {
        if arbiter.join().is_err() {
            tracing::error!("a worker's thread panicked");
        }
    }
    Vec::new()
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
    /// Held until the worker has forgotten its last entity.
    working: Option<mpsc::Sender<()>>,
}

impl Actor for WorkerActor {
    type Context = actix::Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.spawn(Drive);
    }
}

impl Drop for WorkerActor {
    fn drop(&mut self) {
        // User code runs guarded, except for the destructors of commands; and we may have erred.
        if std::thread::panicking() {
            tracing::error!(
                worker = self.index,
                "a worker has panicked; commands for its entities are refused until the next start"
            );
        }
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
            self.look_for_input();
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
                self.working = None;
                return Poll::Ready(());
            }
        }
        task.waker().wake_by_ref();
        Poll::Pending
    }

    /// Waits for a moment until there is something in the inbox. Nobody has to wake this thread
    /// meanwhile, not even by a call of the operating system.
    fn look_for_input(&self) {
        /// Looks between two looks at the clock.
        const LOOKS: usize = 32;
        let spin = self.worker.settings().spin_before_park;
        if spin.is_zero() || !self.inbox.is_empty() || self.wake_at == Some(Duration::ZERO) {
            return;
        }
        let start = std::time::Instant::now();
        while start.elapsed() < spin {
            for _ in 0..LOOKS {
                std::hint::spin_loop();
                if !self.inbox.is_empty() {
                    return;
                }
            }
        }
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
        let Some(at) = Instant::now().checked_add(left) else {
            // Beyond all time.
            return false;
        };
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
            self.send(batch);
        }
        for request in out.reads {
            let outside = self.outside.clone();
            let index = self.index;
            self.outside.persistence.spawn(async move {
                let failed = request.clone();
                let request_host = request.key.host;
                let read =
                    AssertUnwindSafe(request.read(outside.store_of(request_host))).catch_unwind();
                let done = read.await.unwrap_or_else(|_| {
                    failed.failed(Error::unavailable("the store panicked", None))
                });
                outside.registry.post(index, Input::Read(Box::new(done)));
            });
        }
        for request in out.reminder_reads {
            let outside = self.outside.clone();
            let index = self.index;
            self.outside.persistence.spawn(async move {
                let failed = request.failing();
                let host = request.host();
                let read = AssertUnwindSafe(request.read(outside.store_of(host))).catch_unwind();
                let done = read
                    .await
                    .unwrap_or_else(|_| failed(Error::unavailable("the store panicked", None)));
                outside
                    .registry
                    .post(index, Input::RemindersRead(Box::new(done)));
            });
        }
        for (key, snapshot) in out.snapshots {
            let outside = self.outside.clone();
            let index = self.index;
            self.outside.persistence.spawn(async move {
                let snapshots = outside.store_of(key.host).snapshot_store();
                let saved = AssertUnwindSafe(snapshots.save(&snapshot)).catch_unwind();
                let result = saved
                    .await
                    .unwrap_or_else(|_| Err(Error::unavailable("the store panicked", None)));
                outside
                    .registry
                    .post(index, Input::SnapshotSaved(key, Box::new(result)));
            });
        }
        for deletion in out.deletions {
            let outside = self.outside.clone();
            let index = self.index;
            self.outside.persistence.spawn(async move {
                let (key, token) = (deletion.key, deletion.token);
                let journal = outside.store_of(key.host).journal();
                let run = AssertUnwindSafe(deletion.run(&*journal)).catch_unwind();
                let done = run.await.unwrap_or_else(|_| DeletionDone {
                    key,
                    token,
                    result: Err(Error::outcome_unknown("the store panicked", None)),
                });
                outside
                    .registry
                    .post(index, Input::EventsDeleted(Box::new(done)));
            });
        }
        for cleanup in out.cleanups {
            let outside = self.outside.clone();
            self.outside.persistence.spawn(async move {
                let replies = outside.store_of(cleanup.host).command_replies();
                // A panic is logged by its hook, and the next clean-up covers it.
                let run = AssertUnwindSafe(cleanup.run(&*replies)).catch_unwind();
                let _ = run.await;
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

impl WorkerActor {
    /// Has a batch written.
    ///
    /// A lone write is begun here: a store that hands its work on to a thread of its own has it on
    /// its way before the persistence runtime's thread has woken up. Larger ones are left to that
    /// thread, as putting a statement together would keep this one from other entities. Whatever the
    /// store starts belongs to that runtime in any case.
    fn send(&self, batch: WriteBatch) {
        let persistence = &self.outside.persistence;
        let is_lone = batch.writes().len() == 1;
        let mut write = Box::pin(write(self.outside.clone(), self.index, batch));
        if is_lone {
            let _entered = persistence.enter();
            let mut nobody_waits = Context::from_waker(Waker::noop());
            if write.as_mut().poll(&mut nobody_waits).is_ready() {
                return;
            }
        }
        persistence.spawn(write);
    }
}

/// Writes a batch, lets out the replies of what is stored, and tells the worker.
async fn write(outside: Outside, index: usize, batch: WriteBatch) {
    let journal = outside.store_of(batch.host()).journal();
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
