//! Drives the workers of a system on the thread of the test, in virtual time.
//!
//! It is a third driver beside the one of production and the simulation. Nothing goes on unless the
//! test calls: the workers are driven until everything that can go on has, and then stand still.
//! Which worker takes the next turn, and how much of what waits for it that turn takes, is decided by
//! a seed if there are several.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::task::{AtomicWaker, noop_waker};
use perennial_core::Work;
use perennial_core::engine::{
    Assembled, CellKey, DrivenDeadlines, Input, LaterDone, LaterFailure, LaterRequest, Outbox,
    Registry, Worker,
};
use perennial_persistence::{Clock, Store};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use tokio::sync::mpsc;

use crate::ManualClock;

/// Polls in a row after which a future that wakes itself is left alone until the next call.
const POLLS: usize = 10_000;

/// The workers of a system and all that is under way for them.
pub(crate) struct Driver {
    registry: Arc<Registry>,
    seats: Vec<Seat>,
    /// Where each entity type is kept.
    stores: Vec<Arc<dyn Store>>,
    clock: ManualClock,
    deadlines: Option<DrivenDeadlines>,
    /// What the stores were asked and have not answered, in the order of the calls.
    calls: Vec<(usize, Call)>,
    futures: Vec<OpenFuture>,
    wakes: Arc<Wakes>,
    /// Decides what is next; without it, everything is taken as it comes.
    order: Option<SmallRng>,
}

/// A worker and the way to it.
struct Seat {
    /// None once it has ended, with everything that came for it.
    worker: Option<Worker>,
    channel: mpsc::UnboundedReceiver<Input>,
    inputs: VecDeque<Input>,
    wake_at: Option<Duration>,
    /// Whether it can go on without anything new.
    busy: bool,
}

/// A call of a store, with what the worker is told of its end.
type Call = Pin<Box<dyn Future<Output = Option<Input>>>>;

/// The future of a `later`.
struct OpenFuture {
    seat: usize,
    key: CellKey,
    token: u64,
    work: Work,
    /// When it has taken too long.
    deadline: Duration,
}

impl Driver {
    /// Workers whose entity types are kept in `stores`, in the order of the types. Without a `seed`
    /// everything is taken as it comes.
    pub(crate) fn new(
        assembled: Assembled,
        stores: Vec<Arc<dyn Store>>,
        clock: ManualClock,
        deadlines: Option<DrivenDeadlines>,
        seed: Option<u64>,
    ) -> Self {
        let seats = assembled.workers.into_iter().map(|(worker, channel)| Seat {
            worker: Some(worker),
            channel,
            inputs: VecDeque::new(),
            wake_at: None,
            busy: true,
        });
        Self {
            registry: assembled.registry,
            seats: seats.collect(),
            stores,
            clock,
            deadlines,
            calls: Vec::new(),
            futures: Vec::new(),
            wakes: Arc::new(Wakes::default()),
            order: seed.map(SmallRng::seed_from_u64),
        }
    }

    pub(crate) fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// A worker, if it has not ended.
    pub(crate) fn worker(&self, number: usize) -> Option<&Worker> {
        self.seats[number].worker.as_ref()
    }

    /// The same, which has a turn then whether anything has come for it or not.
    pub(crate) fn worker_mut(&mut self, number: usize) -> Option<&mut Worker> {
        let seat = &mut self.seats[number];
        seat.busy = true;
        seat.worker.as_mut()
    }

    /// Has every worker end once it has nothing left to do.
    pub(crate) fn shut_down(&mut self) {
        for seat in &mut self.seats {
            seat.inputs.push_back(Input::Shutdown);
        }
    }

    /// Whether no worker is left.
    pub(crate) fn has_ended(&self) -> bool {
        self.seats.iter().all(|seat| seat.worker.is_none())
    }

    /// Ends every worker at once.
    pub(crate) fn end(&mut self) {
        self.seats.iter_mut().for_each(Seat::end);
        self.calls.clear();
        self.futures.clear();
    }

    /// How many calls the stores have not answered.
    pub(crate) fn open_calls(&self) -> usize {
        self.calls.len()
    }

    /// How many futures of `later` are open.
    pub(crate) fn open_futures(&self) -> usize {
        self.futures.len()
    }

    /// When something happens next by time alone.
    pub(crate) fn next_time(&self) -> Option<Duration> {
        let wakes = self.seats.iter().filter_map(|seat| seat.wake_at);
        let futures = self.futures.iter().map(|future| future.deadline);
        let asks = self.deadlines.as_ref().and_then(DrivenDeadlines::next);
        wakes.chain(futures).chain(asks).min()
    }

    /// Wakes `waker` instead of nobody when a future can go on.
    pub(crate) fn register(&self, waker: &Waker) {
        self.wakes.task.register(waker);
    }

    /// The test may have done what a future waits for, with or without waking it.
    pub(crate) fn look_again(&self) {
        self.wakes.look_again();
    }

    /// Lets everything go on until nothing can without more time, more messages, or someone outside.
    /// `answered` is called whenever a store may have changed. Gives `false` if something still can
    /// after so many `steps`.
    pub(crate) fn drive(&mut self, steps: usize, mut answered: impl FnMut()) -> bool {
        self.look_again();
        (0..steps).any(|_| !self.step(&mut answered))
    }

    /// One worker has a turn, and whatever is under way outside goes on. Gives `false` if nothing
    /// can without more time, more messages, or someone outside.
    pub(crate) fn step(&mut self, answered: &mut dyn FnMut()) -> bool {
        self.end_late_futures();
        if let Some(deadlines) = &mut self.deadlines {
            deadlines.look();
        }
        let went_on = self.turn();
        self.poll_calls();
        answered();
        self.poll_futures();
        went_on || self.seats.iter().any(Seat::has_input)
    }

    /// One of the workers that have something to do has a turn.
    fn turn(&mut self) -> bool {
        let now = self.clock.elapsed();
        let ready: Vec<usize> = self
            .seats
            .iter_mut()
            .enumerate()
            .filter_map(|(number, seat)| seat.is_ready(now).then_some(number))
            .collect();
        let Some(&first) = ready.first() else {
            return false;
        };
        let (number, taken) = match &mut self.order {
            None => (first, usize::MAX),
            Some(random) => {
                let number = ready[random.random_range(0..ready.len())];
                let Seat { inputs, busy, .. } = &self.seats[number];
                let (waiting, least) = (inputs.len(), usize::from(!busy));
                // All of it as often as not.
                let all = waiting == 0 || random.random_bool(0.5);
                let taken = if all {
                    waiting
                } else {
                    random.random_range(least..=waiting)
                };
                (number, taken)
            }
        };
        let seat = &mut self.seats[number];
        let taken = taken.min(seat.inputs.len());
        let Some(worker) = &mut seat.worker else {
            return false;
        };
        let out = worker.turn(seat.inputs.drain(..taken));
        let is_done = worker.is_done();
        self.begin(number, out);
        if is_done {
            self.seats[number].end();
        }
        true
    }

    /// Begins what a worker wants done.
    fn begin(&mut self, number: usize, out: Outbox) {
        // By name, so that a new wish of the engine cannot be overlooked here.
        let Outbox {
            writes,
            reads,
            reminder_reads,
            snapshots,
            deletions,
            cleanups,
            laters,
            wake_at,
            busy,
        } = out;
        let seat = &mut self.seats[number];
        seat.wake_at = wake_at;
        seat.busy = busy;
        let store = |host: usize| Arc::clone(&self.stores[host]);
        let calls = &mut self.calls;
        let mut call = |call: Call| calls.push((number, call));
        for batch in writes {
            let journal = store(batch.host()).journal();
            call(Box::pin(async move {
                let results = journal.write_events(batch.writes()).await;
                Some(Input::Written(Box::new(batch.settle(results))))
            }));
        }
        for request in reads {
            let store = store(request.host());
            call(Box::pin(async move {
                Some(Input::Read(Box::new(request.read(&*store).await)))
            }));
        }
        for request in reminder_reads {
            let store = store(request.host());
            call(Box::pin(async move {
                Some(Input::RemindersRead(Box::new(request.read(&*store).await)))
            }));
        }
        for (key, snapshot) in snapshots {
            let store = store(key.host()).snapshot_store();
            call(Box::pin(async move {
                let result = store.save(&snapshot).await;
                Some(Input::SnapshotSaved(key, Box::new(result)))
            }));
        }
        for deletion in deletions {
            let journal = store(deletion.key.host()).journal();
            call(Box::pin(async move {
                let done = deletion.run(&*journal).await;
                Some(Input::EventsDeleted(Box::new(done)))
            }));
        }
        for cleanup in cleanups {
            let replies = store(cleanup.host()).command_replies();
            call(Box::pin(async move {
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
                seat: number,
                key,
                token,
                work,
                deadline: self.clock.elapsed().saturating_add(timeout),
            });
        }
    }

    fn poll_calls(&mut self) {
        // The store in memory answers at once, and every gate is looked at again in every turn.
        let waker = noop_waker();
        let mut context = Context::from_waker(&waker);
        for (number, mut call) in std::mem::take(&mut self.calls) {
            match call.as_mut().poll(&mut context) {
                Poll::Pending => self.calls.push((number, call)),
                Poll::Ready(input) => self.seats[number].inputs.extend(input),
            }
        }
    }

    fn poll_futures(&mut self) {
        let waker = Waker::from(Arc::clone(&self.wakes));
        let mut context = Context::from_waker(&waker);
        for _ in 0..POLLS {
            if self.futures.is_empty() || !self.wakes.take() {
                return;
            }
            let mut futures = std::mem::take(&mut self.futures);
            if let Some(random) = &mut self.order {
                futures.shuffle(random);
            }
            for future in futures {
                self.poll_future(future, &mut context);
            }
        }
    }

    fn poll_future(&mut self, future: OpenFuture, context: &mut Context<'_>) {
        let OpenFuture {
            seat,
            key,
            token,
            work,
            deadline,
        } = future;
        let polled = catch_unwind(AssertUnwindSafe(|| match work {
            Work::Blocking(work) => Ok(work()),
            Work::Future(mut future) => match future.as_mut().poll(context) {
                Poll::Ready(output) => Ok(output),
                Poll::Pending => Err(future),
            },
        }));
        let output = match polled {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(future)) => {
                self.futures.push(OpenFuture {
                    seat,
                    key,
                    token,
                    work: Work::Future(future),
                    deadline,
                });
                return;
            }
            Err(_) => Err(LaterFailure::Panicked),
        };
        let done = LaterDone { key, token, output };
        let inputs = &mut self.seats[seat].inputs;
        inputs.push_back(Input::LaterDone(Box::new(done)));
    }

    /// Drops futures that have taken too long.
    fn end_late_futures(&mut self) {
        let now = self.clock.elapsed();
        let late = self.futures.extract_if(.., |future| future.deadline <= now);
        for future in late {
            let done = LaterDone {
                key: future.key,
                token: future.token,
                output: Err(LaterFailure::TimedOut),
            };
            let inputs = &mut self.seats[future.seat].inputs;
            inputs.push_back(Input::LaterDone(Box::new(done)));
        }
    }
}

impl Seat {
    /// Whether it has something to do, once it has got what was sent to it.
    fn is_ready(&mut self, now: Duration) -> bool {
        if self.worker.is_none() {
            return false;
        }
        while let Ok(input) = self.channel.try_recv() {
            self.inputs.push_back(input);
        }
        self.busy || !self.inputs.is_empty() || self.wake_at.is_some_and(|at| at <= now)
    }

    fn has_input(&self) -> bool {
        self.worker.is_some() && (!self.inputs.is_empty() || !self.channel.is_empty())
    }

    /// What comes from now on is refused, as if the worker's thread were gone.
    fn end(&mut self) {
        self.worker = None;
        self.channel.close();
        while self.channel.try_recv().is_ok() {}
        self.inputs.clear();
        self.wake_at = None;
        self.busy = false;
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("workers", &self.seats.len())
            .field("open_calls", &self.calls.len())
            .field("open_futures", &self.futures.len())
            .finish_non_exhaustive()
    }
}

/// Notes that something can go on, for whoever drives or waits to do so.
#[derive(Default)]
pub(crate) struct Wakes {
    woken: AtomicBool,
    task: AtomicWaker,
}

impl Wakes {
    /// Has everything polled that is open, and wakes nobody for it.
    pub(crate) fn look_again(&self) {
        self.woken.store(true, Ordering::Release);
    }

    pub(crate) fn take(&self) -> bool {
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
