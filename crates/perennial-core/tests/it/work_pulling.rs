//! Work queues: bounds, who gets what, and that nothing that was accepted is lost.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use perennial_core::{
    Actor, ActorCx, ActorRef, ActorSystem, AskError, Assignment, DiscardReason, Discarded, Failure,
    NotAccepted, PoolProps, Props, Receive, Received, Supervision, WorkQueue, WorkQueueProps,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::actors::system_of;
use crate::fixture::{DEADLINE, in_time, lock, until};

const MS: Duration = Duration::from_millis(1);

type Queue = WorkQueue<u32, String>;

/// Keeps what it gets, and says so, until the test lets it go on.
struct Worker {
    queue: Queue,
    capacity: usize,
    got: mpsc::Sender<(u32, u32)>,
    kept: Vec<Assignment<u32, String>>,
}

impl Actor for Worker {
    fn started(&mut self, cx: &mut ActorCx<'_, Self>) -> Result<(), Failure> {
        self.queue.join(&cx.myself(), self.capacity);
        Ok(())
    }
}

impl Receive<Assignment<u32, String>> for Worker {
    type Reply = ();

    fn receive(
        &mut self,
        work: Assignment<u32, String>,
        cx: &mut ActorCx<'_, Self>,
    ) -> Received<Self, ()> {
        self.got
            .send((*work, work.attempt()))
            .expect("the test listens");
        self.kept.push(work);
        cx.reply(())
    }
}

enum Go {
    /// The oldest is done.
    Done,
    /// The oldest is given up.
    Drop,
    Fail,
    /// Handles nothing else until the other end is dropped.
    Wait(mpsc::Receiver<()>),
    Stop,
}

impl Receive<Go> for Worker {
    type Reply = ();

    fn receive(&mut self, go: Go, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        match go {
            Go::Done => {
                let work = self.kept.remove(0);
                let reply = format!("{} is done", *work);
                work.done(reply);
            }
            Go::Drop => drop(self.kept.remove(0)),
            Go::Fail => return Err(Failure::new("broken")),
            Go::Wait(held) => {
                let _ = held.recv_timeout(DEADLINE);
            }
            Go::Stop => cx.stop(),
        }
        cx.reply(())
    }
}

struct Hands {
    actor: ActorRef<Worker>,
    got: mpsc::Receiver<(u32, u32)>,
}

impl Hands {
    /// The next piece of work, and which attempt it is.
    fn next(&self) -> (u32, u32) {
        self.got.recv_timeout(DEADLINE).expect("there is work")
    }

    /// Waits until it has joined and gets work.
    async fn is_up(&self, queue: &Queue) {
        until("the worker is up", || {
            let workers = queue.status().workers;
            let mine = workers
                .iter()
                .find(|worker| worker.path == self.actor.path());
            mine.is_some_and(|worker| worker.is_up)
        })
        .await;
    }

    async fn go(&self, go: Go) {
        let done = in_time("the worker", self.actor.ask(go).into_future()).await;
        assert!(
            matches!(done, Ok(()) | Err(AskError::Failed { .. })),
            "{done:?}"
        );
    }

    /// Has it take in everything that was sent to it by now, and nothing came.
    async fn is_idle(&self) {
        let (release, held) = mpsc::channel::<()>();
        drop(release);
        self.go(Go::Wait(held)).await;
        assert_eq!(self.got.try_recv().ok(), None);
    }
}

fn worker_with(system: &ActorSystem, queue: &Queue, capacity: usize, backoff: Duration) -> Hands {
    let (tell, got) = mpsc::channel();
    let queue = queue.clone();
    let props = Props::new(move || Worker {
        queue: queue.clone(),
        capacity,
        got: tell.clone(),
        kept: Vec::new(),
    })
    .supervision(Supervision::restart().backoff(backoff, backoff));
    let actor = system.spawn_anonymous(props).expect("the system runs");
    Hands { actor, got }
}

fn worker(system: &ActorSystem, queue: &Queue, capacity: usize) -> Hands {
    worker_with(system, queue, capacity, MS)
}

fn queue(system: &ActorSystem, capacity: usize) -> Queue {
    system.work_queue("jobs", WorkQueueProps::new(capacity))
}

fn submit(queue: &Queue, work: impl IntoIterator<Item = u32>) {
    for work in work {
        queue.try_submit(work).expect("there is room");
    }
}

#[tokio::test]
async fn a_queue_takes_exactly_as_much_as_its_bound_waiting_or_in_progress() {
    let system = system_of(2).await;
    let queue = queue(&system, 3);
    let hands = worker(&system, &queue, 1);
    submit(&queue, 1..=3);
    assert_eq!(hands.next(), (1, 1));
    let refused = queue.try_submit(4).expect_err("it is full");
    assert_eq!(refused.work, 4);
    assert!(matches!(refused.error, AskError::Busy { .. }));
    assert_eq!(
        refused.to_string(),
        "the work queue is full; try again in 10ms"
    );
    assert!(matches!(queue.ask(4).await, Err(AskError::Busy { .. })));
    let waiting = {
        let queue = queue.clone();
        tokio::spawn(async move { queue.submit(5).await })
    };
    let gives_up = {
        let queue = queue.clone();
        tokio::spawn(async move { queue.submit(6).await })
    };
    until("both wait", || queue.try_submit(7).is_err()).await;
    gives_up.abort();
    assert!(gives_up.await.is_err_and(|error| error.is_cancelled()));
    hands.go(Go::Done).await;
    in_time("its place", waiting)
        .await
        .expect("no panic")
        .expect("accepted");
    assert!(queue.try_submit(8).is_err());
    for expected in [2, 3, 5] {
        assert_eq!(hands.next(), (expected, 1));
        hands.go(Go::Done).await;
    }
    hands.is_idle().await;
    submit(&queue, 9..=11);
    assert!(queue.try_submit(12).is_err());
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn a_worker_has_no_more_than_it_wants_and_gets_the_next_when_it_is_done() {
    let system = system_of(2).await;
    let queue = queue(&system, 100);
    let hands = worker(&system, &queue, 3);
    submit(&queue, 1..=10);
    for work in 1..=3 {
        assert_eq!(hands.next(), (work, 1));
    }
    hands.is_idle().await;
    let status = queue.status();
    assert_eq!((status.waiting, status.in_progress), (7, 3));
    assert_eq!(status.workers.len(), 1);
    let of_worker = &status.workers[0];
    assert_eq!((of_worker.capacity, of_worker.in_progress), (3, 3));
    assert!(of_worker.is_up && of_worker.path == hands.actor.path());
    hands.go(Go::Done).await;
    assert_eq!(hands.next(), (4, 1));
    hands.is_idle().await;
    // Its mind may change.
    queue.join(&hands.actor, 4);
    assert_eq!(hands.next(), (5, 1));
    queue.join(&hands.actor, 0);
    for _ in 0..4 {
        hands.go(Go::Done).await;
    }
    hands.is_idle().await;
    assert_eq!(queue.status().waiting, 5);
    queue.join(&hands.actor, 1);
    assert_eq!(hands.next(), (6, 1));
    assert!(queue.leave(&hands.actor));
    assert!(!queue.leave(&hands.actor));
    // It may finish what it has.
    hands.go(Go::Done).await;
    hands.is_idle().await;
    let status = queue.status();
    assert_eq!((status.waiting, status.in_progress), (4, 0));
    assert_eq!((status.done, status.workers.len()), (6, 0));
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn what_a_worker_had_when_it_ended_goes_to_another_from_the_front() {
    let system = system_of(3).await;
    let queue = queue(&system, 100);
    let first = worker(&system, &queue, 4);
    submit(&queue, 1..=2);
    assert_eq!([first.next(), first.next()], [(1, 1), (2, 1)]);
    // Two more are in its mailbox.
    let (release, held) = mpsc::channel::<()>();
    first.actor.tell(Go::Wait(held)).expect("there is room");
    until("it is held up", || first.actor.queue_depth() == 0).await;
    submit(&queue, 3..=5);
    first.actor.stop_now();
    let second = worker(&system, &queue, 2);
    assert_eq!(second.next(), (5, 1));
    drop(release);
    assert_eq!(second.next(), (1, 2));
    for (done, next) in [(5, (2, 2)), (1, (3, 1)), (2, (4, 1))] {
        let status = queue.status();
        assert!(status.in_progress <= 2, "{done} {status:?}");
        second.go(Go::Done).await;
        assert_eq!(second.next(), next);
    }
    for _ in 0..2 {
        second.go(Go::Done).await;
    }
    let status = queue.status();
    assert_eq!(
        (status.done, status.returned, status.workers.len()),
        (5, 2, 1)
    );
    in_time("all to be done", queue.drained()).await;
    // None of it is a dead letter: the queue has it again.
    let dead: u64 = system.dead_letters().iter().map(|(_, count)| count).sum();
    assert_eq!(dead, 0);
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn what_a_worker_had_when_it_restarted_goes_to_another() {
    let system = system_of(2).await;
    let queue = queue(&system, 100);
    let hour = Duration::from_secs(3600);
    let first = worker_with(&system, &queue, 3, hour);
    submit(&queue, 1..=2);
    assert_eq!([first.next(), first.next()], [(1, 1), (2, 1)]);
    let (release, held) = mpsc::channel::<()>();
    first.actor.tell(Go::Wait(held)).expect("there is room");
    until("it is held up", || first.actor.queue_depth() == 0).await;
    // In its mailbox, behind the failure.
    first.actor.tell(Go::Fail).expect("there is room");
    submit(&queue, 3..=3);
    drop(release);
    let second = worker(&system, &queue, 9);
    let mut got = [second.next(), second.next(), second.next()];
    got.sort_unstable();
    assert_eq!(got, [(1, 2), (2, 2), (3, 1)]);
    let status = queue.status();
    let up: Vec<bool> = status.workers.iter().map(|worker| worker.is_up).collect();
    assert_eq!(up, [false, true]);
    assert_eq!(status.workers[0].in_progress, 0);
    first.actor.stop_now();
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn a_worker_that_has_restarted_gets_work_again_and_nothing_twice_from_its_mailbox() {
    let system = system_of(2).await;
    let queue = queue(&system, 100);
    let hands = worker(&system, &queue, 2);
    hands.is_up(&queue).await;
    let (release, held) = mpsc::channel::<()>();
    hands.actor.tell(Go::Wait(held)).expect("there is room");
    until("it is held up", || hands.actor.queue_depth() == 0).await;
    hands.actor.tell(Go::Fail).expect("there is room");
    submit(&queue, 1..=3);
    drop(release);
    // Their letters from before the restart are void.
    assert_eq!([hands.next(), hands.next()], [(1, 1), (2, 1)]);
    hands.is_idle().await;
    for _ in 0..2 {
        hands.go(Go::Done).await;
    }
    assert_eq!(hands.next(), (3, 1));
    hands.go(Go::Done).await;
    hands.is_idle().await;
    assert_eq!(queue.status().done, 3);
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn work_is_tried_exactly_as_often_as_its_limit_says_and_then_handed_to_the_hook() {
    let system = system_of(2).await;
    let discarded = Arc::<Mutex<Vec<(u32, u32, DiscardReason)>>>::default();
    let seen = Arc::clone(&discarded);
    let props = WorkQueueProps::new(10)
        .attempts(3)
        .on_discarded(move |work: Discarded<u32>| {
            lock(&seen).push((*work.work, work.attempts, work.reason));
            panic!("the queue lives with that");
        });
    let queue: Queue = system.work_queue("jobs", props);
    let hands = worker(&system, &queue, 1);
    let asked = queue.ask(7).into_future();
    for attempt in 1..=3 {
        assert_eq!(hands.next(), (7, attempt));
        assert!(lock(&discarded).is_empty());
        match attempt {
            1 => hands.go(Go::Drop).await,
            _ => hands.go(Go::Fail).await,
        }
    }
    let told = in_time("an answer", asked).await;
    assert!(matches!(told, Err(AskError::Unknown { .. })), "{told:?}");
    let expected = [(7, 3, DiscardReason::TooManyAttempts)];
    until("it is discarded", || *lock(&discarded) == expected).await;
    in_time("the queue to be empty", queue.drained()).await;
    submit(&queue, 8..=8);
    assert_eq!(hands.next(), (8, 1));
    hands.go(Go::Done).await;
    let status = queue.status();
    assert_eq!((status.done, status.discarded), (1, 1));
    system.shutdown().await.expect("in time");
    assert_eq!(lock(&discarded).len(), 1);
}

#[tokio::test]
async fn whoever_asks_gets_the_reply_of_the_worker_that_did_it() {
    let system = system_of(3).await;
    let queue = queue(&system, 2);
    // Nobody begins in time, and then nobody does.
    let late = queue.ask(1).timeout(MS).await;
    assert_eq!(late, Err(AskError::Expired));
    drop(queue.ask(2).into_future());
    // What was given up makes room when that is needed.
    submit(&queue, 3..=3);
    let asked = queue.ask(4).into_future();
    assert!(queue.try_submit(5).is_err());
    let first = worker(&system, &queue, 9);
    assert_eq!([first.next(), first.next()], [(3, 1), (4, 1)]);
    first.is_idle().await;
    // The first worker gives both up; the second one is to have them.
    let second = worker(&system, &queue, 9);
    second.is_idle().await;
    first.go(Go::Stop).await;
    let mut again = [second.next(), second.next()];
    again.sort_unstable();
    assert_eq!(again, [(3, 2), (4, 2)]);
    second.go(Go::Done).await;
    second.go(Go::Done).await;
    assert_eq!(
        in_time("the reply", asked).await,
        Ok("4 is done".to_owned())
    );
    // Somebody has begun: nobody knows what comes of it.
    let begun = tokio::spawn(queue.ask(6).timeout(50 * MS).into_future());
    assert_eq!(second.next(), (6, 1));
    let told = in_time("its time to be up", begun).await.expect("no panic");
    assert!(matches!(told, Err(AskError::Unknown { .. })), "{told:?}");
    second.go(Go::Done).await;
    in_time("all to be done", queue.drained()).await;
    assert_eq!(queue.status().done, 3);
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn work_is_pulled_by_code_outside_of_actors_too() {
    let system = system_of(2).await;
    let queue = queue(&system, 10);
    let pulls = |queue: &Queue| {
        let queue = queue.clone();
        tokio::spawn(async move { queue.pull().await })
    };
    let gives_up = pulls(&queue);
    let first = pulls(&queue);
    until("both wait", || queue.status().pulling == 2).await;
    gives_up.abort();
    assert!(gives_up.await.is_err());
    submit(&queue, 1..=2);
    let one = in_time("work", first).await.expect("no panic");
    let one = one.expect("there is work");
    assert_eq!((*one, one.attempt()), (1, 1));
    let two = in_time("work", queue.pull()).await.expect("there is work");
    assert_eq!(*two, 2);
    // One that is given up comes back to the front.
    submit(&queue, 3..=3);
    drop(one);
    let again = in_time("work", queue.pull()).await.expect("there is work");
    assert_eq!((*again, again.attempt()), (1, 2));
    queue.close();
    let closed = queue.try_submit(4).expect_err("it is closed");
    assert_eq!(closed.error, AskError::Stopped);
    assert!(queue.submit(4).await.is_err());
    assert_eq!(queue.ask(4).await, Err(AskError::Stopped));
    let three = in_time("work", queue.pull()).await.expect("there is work");
    assert_eq!(*three, 3);
    let none = pulls(&queue);
    until("it waits for what may come back", || {
        queue.status().pulling == 1
    })
    .await;
    for work in [two, again, three] {
        work.done(String::new());
    }
    assert!(in_time("the end", none).await.expect("no panic").is_none());
    assert!(queue.pull().await.is_none());
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn whoever_is_done_with_what_was_taken_from_it_is_listened_to() {
    let system = system_of(2).await;
    let queue = queue(&system, 10);
    /// Gives its work to the test, and restarts when it is told anything else.
    struct Lender(mpsc::Sender<Assignment<u32, String>>);
    impl Actor for Lender {}
    impl Receive<Assignment<u32, String>> for Lender {
        type Reply = ();
        fn receive(
            &mut self,
            work: Assignment<u32, String>,
            cx: &mut ActorCx<'_, Self>,
        ) -> Received<Self, ()> {
            self.0.send(work).expect("the test listens");
            cx.reply(())
        }
    }
    impl Receive<()> for Lender {
        type Reply = ();
        fn receive(&mut self, (): (), _: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
            Err(Failure::new("broken"))
        }
    }
    let (lend, lent) = mpsc::channel();
    let lender = system
        .spawn("lender", move || Lender(lend.clone()))
        .expect("it runs");
    queue.join(&lender, 1);
    let asked = queue.ask(7).into_future();
    let elsewhere = lent.recv_timeout(DEADLINE).expect("there is work");
    lender.tell(()).expect("there is room");
    let again = in_time("work", queue.pull()).await.expect("there is work");
    assert_eq!(again.attempt(), 2);
    elsewhere.done("first".to_owned());
    assert_eq!(in_time("the reply", asked).await, Ok("first".to_owned()));
    in_time("all to be done", queue.drained()).await;
    again.done("second".to_owned());
    assert_eq!(queue.status().done, 1);
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn a_system_that_stops_says_what_nobody_will_do() {
    let system = system_of(2).await;
    let discarded = Arc::<Mutex<Vec<(u32, u32, DiscardReason)>>>::default();
    let seen = Arc::clone(&discarded);
    let props = WorkQueueProps::new(3).on_discarded(move |work: Discarded<u32>| {
        lock(&seen).push((*work.work, work.attempts, work.reason));
    });
    let queue: Queue = system.work_queue("jobs", props);
    let hands = worker(&system, &queue, 1);
    let begun = queue.ask(1).into_future();
    assert_eq!(hands.next(), (1, 1));
    let not_begun = queue.ask(2).into_future();
    submit(&queue, 3..=3);
    let waiting = {
        let queue = queue.clone();
        tokio::spawn(async move { queue.submit(4).await })
    };
    until("it waits", || queue.try_submit(5).is_err()).await;
    system.shutdown().await.expect("in time");
    let refused = in_time("its end", waiting).await.expect("no panic");
    let refused: NotAccepted<u32> = refused.expect_err("the system has stopped");
    assert_eq!((refused.work, refused.error), (4, AskError::Stopped));
    let told = in_time("an answer", begun).await;
    assert!(matches!(told, Err(AskError::Unknown { .. })), "{told:?}");
    assert_eq!(
        in_time("an answer", not_begun).await,
        Err(AskError::Stopped)
    );
    let mut discarded = std::mem::take(&mut *lock(&discarded));
    discarded.sort_by_key(|(work, ..)| *work);
    let stopped = DiscardReason::SystemStopped;
    assert_eq!(
        discarded,
        [(1, 1, stopped), (2, 0, stopped), (3, 0, stopped)]
    );
    assert!(queue.pull().await.is_none());
    in_time("nothing", queue.drained()).await;
    let late: Queue = system.work_queue("late", WorkQueueProps::default());
    assert!(late.try_submit(1).is_err());
    assert!(late.pull().await.is_none());
}

/// A worker that panics, gives up, ends, and loses its work in futures, at random.
struct Clumsy {
    queue: WorkQueue<u32, u32>,
    done: Arc<Vec<AtomicUsize>>,
    rng: SmallRng,
}

const CAPACITY: usize = 3;

/// Panics without a word in the log of the tests.
fn panic(message: &'static str) -> ! {
    std::panic::resume_unwind(Box::new(message))
}

impl Actor for Clumsy {
    fn started(&mut self, cx: &mut ActorCx<'_, Self>) -> Result<(), Failure> {
        if self.rng.random_range(0..10) == 0 {
            return Err(Failure::new("it does not even start"));
        }
        self.queue.join(&cx.myself(), CAPACITY);
        Ok(())
    }
}

impl Receive<Assignment<u32, u32>> for Clumsy {
    type Reply = ();

    fn receive(
        &mut self,
        work: Assignment<u32, u32>,
        cx: &mut ActorCx<'_, Self>,
    ) -> Received<Self, ()> {
        let done = Arc::clone(&self.done);
        let finish = move |work: Assignment<u32, u32>| {
            done[*work as usize].fetch_add(1, Ordering::Relaxed);
            let reply = *work * 2;
            work.done(reply);
        };
        match self.rng.random_range(0..12) {
            0 => panic("it drops everything"),
            1 => Err(Failure::new("it fails")),
            2 => {
                drop(work);
                cx.reply(())
            }
            3 => {
                cx.stop();
                cx.reply(())
            }
            4 => {
                finish(work);
                panic("it drops everything else")
            }
            5 => cx.later(
                async move {
                    let _lost = work;
                    panic("it is lost in a future")
                },
                |(), _, cx| cx.reply(()),
            ),
            6 | 7 => cx.later(tokio::task::yield_now(), move |(), _: &mut Clumsy, cx| {
                finish(work);
                cx.reply(())
            }),
            _ => {
                finish(work);
                cx.reply(())
            }
        }
    }
}

/// Workers fail in every way that there is, and are killed besides: whatever was accepted is done at
/// least once, and whoever asked gets the reply.
#[tokio::test]
async fn nothing_that_was_accepted_is_lost_whatever_happens_to_the_workers() {
    const WORK: u32 = 3000;
    let system = system_of(3).await;
    let queue: WorkQueue<u32, u32> = system.work_queue("jobs", WorkQueueProps::new(64));
    let done: Arc<Vec<AtomicUsize>> = Arc::new((0..WORK).map(|_| AtomicUsize::new(0)).collect());
    let (of_queue, of_done) = (queue.clone(), Arc::clone(&done));
    let seeds = AtomicUsize::new(0);
    let pool = PoolProps::with_props(5, move || {
        let (queue, done) = (of_queue.clone(), Arc::clone(&of_done));
        let mut rng = SmallRng::seed_from_u64(seeds.fetch_add(1, Ordering::Relaxed) as u64);
        Props::new(move || Clumsy {
            queue: queue.clone(),
            done: Arc::clone(&done),
            rng: SmallRng::from_rng(&mut rng),
        })
        .supervision(Supervision::restart().backoff(MS, 2 * MS))
    })
    .replace_after(MS, 2 * MS);
    let pool = system.spawn_pool("clumsy", pool).expect("it runs");

    let is_over = Arc::new(AtomicBool::new(false));
    let killer = {
        let (pool, is_over) = (pool.clone(), Arc::clone(&is_over));
        tokio::spawn(async move {
            let mut rng = SmallRng::seed_from_u64(7);
            while !is_over.load(Ordering::Relaxed) {
                let routees = pool.routees();
                if !routees.is_empty() {
                    let victim = &routees[rng.random_range(0..routees.len())];
                    match rng.random_range(0..2) {
                        0 => victim.stop_now(),
                        _ => victim.stop(),
                    }
                }
                tokio::time::sleep(MS).await;
            }
        })
    };
    let mut asked = Vec::new();
    let mut refused = BTreeMap::<&str, u32>::new();
    for work in 0..WORK {
        match work % 3 {
            0 => loop {
                match queue.try_submit(work) {
                    Ok(()) => break,
                    Err(NotAccepted { error, .. }) => {
                        assert!(matches!(error, AskError::Busy { .. }), "{error}");
                        *refused.entry("submit").or_default() += 1;
                        tokio::task::yield_now().await;
                    }
                }
            },
            1 => in_time("room", queue.submit(work))
                .await
                .expect("it is accepted"),
            _ => loop {
                let mut asking = queue.ask(work).timeout(DEADLINE).into_future();
                match asking.try_take() {
                    None => {
                        asked.push((work, asking));
                        break;
                    }
                    Some(Ok(reply)) => {
                        assert_eq!(reply, work * 2);
                        break;
                    }
                    Some(Err(error)) => {
                        assert!(matches!(error, AskError::Busy { .. }), "{error}");
                        *refused.entry("ask").or_default() += 1;
                        tokio::task::yield_now().await;
                    }
                }
            },
        }
        assert!(queue.status().waiting + queue.status().in_progress <= 2 * 64);
    }
    queue.close();
    in_time("all to be done", queue.drained()).await;
    is_over.store(true, Ordering::Relaxed);
    killer.await.expect("no panic");
    for (work, asking) in asked {
        assert_eq!(in_time("a reply", asking).await, Ok(work * 2));
    }
    let lost: Vec<usize> = (0..WORK as usize)
        .filter(|work| done[*work].load(Ordering::Relaxed) == 0)
        .collect();
    assert_eq!(lost, [0; 0]);
    let status = queue.status();
    assert_eq!((status.waiting, status.in_progress), (0, 0));
    assert_eq!((status.done, status.discarded), (u64::from(WORK), 0));
    // It was a rough ride.
    assert!(status.returned > 100, "{status:?}");
    assert!(!refused.is_empty());
    system.shutdown().await.expect("in time");
}
