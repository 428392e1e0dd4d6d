//! What a spec plays on: one worker of the engine, on the thread of the test, in virtual time.
//!
//! It is a third driver beside the one of production and the simulation. Nothing goes on unless the
//! test calls: a stage is driven until everything that can go on has, and then stands still.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::task::{AtomicWaker, noop_waker};
use perennial_core::engine::{
    Assembly, CellKey, Frame, Input, LaterDone, LaterFailure, LaterRequest, Outbox, Peek, Settings,
    Worker,
};
use perennial_core::{Entity, EntityRef, EventSourced, Work};
use perennial_persistence::{Clock, Store};
use tokio::sync::mpsc;

use crate::{ManualClock, MemoryStore};

/// Turns in a row after which an entity counts as one that never comes to rest.
const TURNS: usize = 100_000;

/// Polls in a row after which a future that wakes itself is left alone until the next call.
const POLLS: usize = 10_000;

/// A worker with one entity on it.
pub(super) struct Stage<E: EventSourced> {
    worker: Worker,
    inbox: mpsc::UnboundedReceiver<Input>,
    entity: EntityRef<E>,
    store: Arc<dyn Store>,
    clock: ManualClock,
    /// What the store was asked and has not answered, in the order of the calls.
    calls: Vec<Call>,
    futures: Vec<OpenFuture>,
    wakes: Arc<Wakes>,
    wake_at: Option<Duration>,
}

/// A call of the store, with what the worker is told of its end.
type Call = Pin<Box<dyn Future<Output = Option<Input>>>>;

/// The future of a `later`.
struct OpenFuture {
    key: CellKey,
    token: u64,
    work: Work,
    /// When it has taken too long.
    deadline: Duration,
}

impl<E: EventSourced> Stage<E> {
    /// A stage with nobody on it: the entity is brought back by its first command.
    ///
    /// `seed` decides about the ids of writers, so it is never used twice with the same store.
    pub(super) fn new(
        entity: Entity<E>,
        entity_id: &str,
        store: Arc<dyn Store>,
        clock: ManualClock,
        seed: u64,
    ) -> Self {
        let mut settings = Settings::default();
        // Faults concern the one entity; that others would be refused too is not its matter.
        settings.breaker.failures = 0;
        // Time stands still in a turn, so one would never end in which an entity keeps itself busy.
        settings.runs_per_turn = 1;
        let frame = Frame {
            workers: 1,
            settings,
            inbox: usize::MAX,
            ask_timeout: Duration::MAX,
            deadlines: None,
            clock: Arc::new(clock.clone()),
        };
        let mut seeds = [0; 32];
        seeds[..8].copy_from_slice(&seed.to_be_bytes());
        let store = entity.store(store);
        let mut assembled = Assembly::new().entity(entity).build(frame, || seeds);
        let (worker, inbox) = assembled.workers.remove(0);
        Self {
            worker,
            inbox,
            entity: assembled.registry.entity(entity_id),
            store,
            clock,
            calls: Vec::new(),
            futures: Vec::new(),
            wakes: Arc::new(Wakes::default()),
            wake_at: None,
        }
    }

    /// The entity of `memory` as it comes back from there, for looking at it only.
    pub(super) fn recovered(entity: Entity<E>, entity_id: &str, memory: MemoryStore) -> Self {
        let store = Arc::new(memory);
        let entity = entity.without_signals();
        let mut stage = Self::new(entity, entity_id, store, ManualClock::new(), 0);
        stage.worker.wake(&stage.entity);
        stage.drive(|| {});
        stage
    }

    pub(super) fn entity(&self) -> &EntityRef<E> {
        &self.entity
    }

    /// Brings the entity back without a command.
    pub(super) fn wake(&mut self) {
        self.worker.wake(&self.entity);
    }

    /// What the entity is like, if it is in memory.
    pub(super) fn peek(&self) -> Option<Peek<'_, E>> {
        self.worker.peek(&self.entity)
    }

    pub(super) fn stashed(&self) -> usize {
        self.peek().map_or(0, |peek| peek.stashed)
    }

    /// The state, or why there is none.
    pub(super) fn state(&self) -> Result<&E, String> {
        let Some(peek) = self.peek() else {
            return Err("the entity is not in memory".to_owned());
        };
        match (peek.state, peek.failure) {
            (Some(state), _) => Ok(state),
            (None, Some(failure)) => Err(failure.to_string()),
            (None, None) => Err("the entity has not been brought back yet".to_owned()),
        }
    }

    /// How many calls the store has not answered.
    pub(super) fn open_calls(&self) -> usize {
        self.calls.len()
    }

    /// How many futures of `later` are open.
    pub(super) fn open_futures(&self) -> usize {
        self.futures.len()
    }

    /// Whether the engine waits on its own account and for nobody: to ask the store again, or to
    /// start the entity again.
    pub(super) fn waits_for_time(&self) -> bool {
        self.calls.is_empty()
            && self.peek().is_some_and(|peek| {
                peek.unsettled > 0 || (peek.state.is_none() && peek.failure.is_none())
            })
    }

    /// When something happens next by time alone.
    pub(super) fn next_time(&self) -> Option<Duration> {
        let deadlines = self.futures.iter().map(|future| future.deadline);
        self.wake_at.into_iter().chain(deadlines).min()
    }

    /// Wakes `waker` instead of nobody when a future can go on.
    pub(super) fn register(&self, waker: &Waker) {
        self.wakes.task.register(waker);
    }

    /// Lets everything go on until nothing can without more time, more commands, or someone outside.
    /// `answered` is called whenever the store may have changed.
    #[track_caller]
    pub(super) fn drive(&mut self, mut answered: impl FnMut()) {
        let mut inputs = Vec::new();
        // The test may have done what a future waits for, with or without waking it.
        self.wakes.look_again();
        for _ in 0..TURNS {
            self.end_late_futures(&mut inputs);
            while let Ok(input) = self.inbox.try_recv() {
                inputs.push(input);
            }
            let out = self.worker.turn(inputs.drain(..));
            let busy = self.begin(out);
            self.poll_calls(&mut inputs);
            answered();
            self.poll_futures(&mut inputs);
            if inputs.is_empty() && self.inbox.is_empty() && !busy {
                return;
            }
        }
        panic!("the entity does not come to rest: it has something to do after {TURNS} turns");
    }

    /// Begins what the worker wants done. Gives whether it could go on right now.
    fn begin(&mut self, out: Outbox) -> bool {
        // By name, so that a new wish of the engine cannot be overlooked here.
        let Outbox {
            writes,
            reads,
            snapshots,
            deletions,
            cleanups,
            laters,
            wake_at,
            busy,
        } = out;
        self.wake_at = wake_at;
        for batch in writes {
            let journal = self.store.journal();
            self.calls.push(Box::pin(async move {
                let results = journal.write_events(batch.writes()).await;
                Some(Input::Written(Box::new(batch.settle(results))))
            }));
        }
        for request in reads {
            let store = Arc::clone(&self.store);
            self.calls.push(Box::pin(async move {
                Some(Input::Read(Box::new(request.read(&*store).await)))
            }));
        }
        for (key, snapshot) in snapshots {
            let store = self.store.snapshot_store();
            self.calls.push(Box::pin(async move {
                let result = store.save(&snapshot).await;
                Some(Input::SnapshotSaved(key, Box::new(result)))
            }));
        }
        for deletion in deletions {
            let journal = self.store.journal();
            self.calls.push(Box::pin(async move {
                Some(Input::EventsDeleted(Box::new(
                    deletion.run(&*journal).await,
                )))
            }));
        }
        for cleanup in cleanups {
            let replies = self.store.command_replies();
            self.calls.push(Box::pin(async move {
                cleanup.run(&*replies).await;
                None
            }));
        }
        for LaterRequest {
            key,
            token,
            work,
            timeout,
        } in laters
        {
            self.wakes.look_again();
            self.futures.push(OpenFuture {
                key,
                token,
                work,
                deadline: self.clock.elapsed().saturating_add(timeout),
            });
        }
        busy
    }

    fn poll_calls(&mut self, inputs: &mut Vec<Input>) {
        // The store in memory answers at once, and every gate is looked at again in every turn.
        let waker = noop_waker();
        let mut context = Context::from_waker(&waker);
        for mut call in std::mem::take(&mut self.calls) {
            match call.as_mut().poll(&mut context) {
                Poll::Pending => self.calls.push(call),
                Poll::Ready(input) => inputs.extend(input),
            }
        }
    }

    fn poll_futures(&mut self, inputs: &mut Vec<Input>) {
        let waker = Waker::from(Arc::clone(&self.wakes));
        let mut context = Context::from_waker(&waker);
        for _ in 0..POLLS {
            if self.futures.is_empty() || !self.wakes.take() {
                return;
            }
            for future in std::mem::take(&mut self.futures) {
                let OpenFuture {
                    key,
                    token,
                    work,
                    deadline,
                } = future;
                let polled = catch_unwind(AssertUnwindSafe(|| match work {
                    Work::Blocking(work) => Ok(work()),
                    Work::Future(mut future) => match future.as_mut().poll(&mut context) {
                        Poll::Ready(output) => Ok(output),
                        Poll::Pending => Err(future),
                    },
                }));
                let output = match polled {
                    Ok(Ok(output)) => Ok(output),
                    Ok(Err(future)) => {
                        self.futures.push(OpenFuture {
                            key,
                            token,
                            work: Work::Future(future),
                            deadline,
                        });
                        continue;
                    }
                    Err(_) => Err(LaterFailure::Panicked),
                };
                inputs.push(Input::LaterDone(Box::new(LaterDone { key, token, output })));
            }
        }
    }

    /// Drops futures that have taken too long.
    fn end_late_futures(&mut self, inputs: &mut Vec<Input>) {
        let now = self.clock.elapsed();
        self.futures.retain(|future| {
            let is_late = future.deadline <= now;
            if is_late {
                inputs.push(Input::LaterDone(Box::new(LaterDone {
                    key: future.key,
                    token: future.token,
                    output: Err(LaterFailure::TimedOut),
                })));
            }
            !is_late
        });
    }
}

impl<E: EventSourced> fmt::Debug for Stage<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage")
            .field("entity", &self.entity)
            .field("open_calls", &self.calls.len())
            .field("open_futures", &self.futures.len())
            .finish_non_exhaustive()
    }
}

/// Notes that a future can go on, for whoever drives the stage or waits to do so.
#[derive(Default)]
struct Wakes {
    woken: AtomicBool,
    task: AtomicWaker,
}

impl Wakes {
    /// Has every open future polled, and wakes nobody for it.
    fn look_again(&self) {
        self.woken.store(true, Ordering::Release);
    }

    fn take(&self) -> bool {
        self.woken.swap(false, Ordering::AcqRel)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.look_again();
        self.task.wake();
    }
}
