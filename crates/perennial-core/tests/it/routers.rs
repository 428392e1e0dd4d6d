//! Routers: who gets what, what happens when there is no room, and what becomes of a pool whose
//! actors fail, end, come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use perennial_core::{
    Actor, ActorCx, ActorPath, ActorRef, ActorSystem, AskError, Backlog, Directive, Failure,
    Overflow, Pool, PoolProps, Props, Receive, Received, RoutingKey, ServiceKey, SpawnError,
    Supervision,
};

use crate::actors::system_of;
use crate::fixture::{DEADLINE, in_time, lock, until};

const MS: Duration = Duration::from_millis(1);

/// What all routees of a test have done.
#[derive(Default)]
struct Seen {
    handled: AtomicU64,
    by: Mutex<BTreeMap<String, Vec<u32>>>,
}

struct Worker {
    seen: Arc<Seen>,
}

impl Actor for Worker {}

#[derive(Clone)]
struct Job(u32);

impl RoutingKey for Job {
    fn routing_key(&self) -> impl Hash {
        self.0
    }
}

impl Receive<Job> for Worker {
    type Reply = ActorPath;

    fn receive(&mut self, job: Job, cx: &mut ActorCx<'_, Self>) -> Received<Self, ActorPath> {
        let path = cx.path();
        lock(&self.seen.by)
            .entry(path.to_string())
            .or_default()
            .push(job.0);
        self.seen.handled.fetch_add(1, Ordering::Relaxed);
        cx.reply(path)
    }
}

/// Keeps the actor busy until its other end is dropped.
struct HoldUp(mpsc::Receiver<()>);

impl Receive<HoldUp> for Worker {
    type Reply = ();

    fn receive(&mut self, hold: HoldUp, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        let _ = hold.0.recv_timeout(DEADLINE);
        cx.reply(())
    }
}

/// Ends or fails, with this failure.
struct End(Option<Failure>);

impl Receive<End> for Worker {
    type Reply = ();

    fn receive(&mut self, end: End, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        match end.0 {
            Some(failure) => Err(failure),
            None => {
                cx.stop();
                cx.reply(())
            }
        }
    }
}

/// On which worker it lives.
struct Where;

impl Receive<Where> for Worker {
    type Reply = std::thread::ThreadId;

    fn receive(&mut self, _: Where, cx: &mut ActorCx<'_, Self>) -> Received<Self, Self::Reply> {
        cx.reply(std::thread::current().id())
    }
}

fn pool_of(
    system: &ActorSystem,
    size: usize,
    settings: impl Fn(Props<Worker>) -> Props<Worker> + Send + Sync + 'static,
) -> (Pool<Worker>, Arc<Seen>) {
    let seen = Arc::<Seen>::default();
    let of_worker = Arc::clone(&seen);
    let props = move || {
        let seen = Arc::clone(&of_worker);
        settings(Props::new(move || Worker {
            seen: Arc::clone(&seen),
        }))
    };
    let props = PoolProps::with_props(size, props).replace_after(MS, MS);
    let pool = system
        .spawn_pool("pool", props)
        .expect("the system has no such pool");
    (pool, seen)
}

fn as_it_is(props: Props<Worker>) -> Props<Worker> {
    props
}

/// Occupies an actor: a thread of the system is blocked until the sender is dropped.
async fn hold_up(actor: &ActorRef<Worker>) -> mpsc::Sender<()> {
    let (release, held) = mpsc::channel();
    actor.tell(HoldUp(held)).expect("there is room");
    until("it is held up", || actor.queue_depth() == 0).await;
    release
}

fn is_busy<T>(result: &Result<T, AskError>) -> bool {
    matches!(result, Err(AskError::Busy { .. }))
}

#[tokio::test]
async fn a_pool_is_there_at_once_spread_over_all_workers_and_takes_turns() {
    let system = system_of(3).await;
    let (pool, seen) = pool_of(&system, 6, as_it_is);
    let router = pool.round_robin();
    for number in 0..60 {
        router.tell(Job(number)).expect("they are there");
    }
    until("all is done", || seen.handled.load(Ordering::Relaxed) == 60).await;
    {
        let by = lock(&seen.by);
        assert_eq!(by.len(), 6);
        for jobs in by.values() {
            let first = jobs[0];
            assert!(jobs.iter().copied().eq((first..60).step_by(6)));
        }
    }
    let mut threads = BTreeMap::new();
    for _ in 0..6 {
        let thread = router.ask(Where).await.expect("it answers");
        *threads.entry(format!("{thread:?}")).or_insert(0) += 1;
    }
    assert!(threads.values().eq(&[2, 2, 2]), "{threads:?}");
    assert_eq!(pool.path().to_string(), "/pool");
    assert!(pool.routees()[0].path().to_string().starts_with("/pool/$"));
    let again = system.spawn_pool(
        "pool",
        PoolProps::new(1, || Worker {
            seen: Arc::default(),
        }),
    );
    assert!(matches!(again, Err(SpawnError::NameTaken { .. })));
    system.shutdown().await.expect("in time");
    assert_eq!(router.tell(Job(0)), Err(AskError::Stopped));
}

#[tokio::test]
async fn one_that_has_no_room_is_passed_over_and_exactly_at_the_bound_of_all_it_is_busy() {
    let system = system_of(3).await;
    let (pool, _) = pool_of(&system, 2, |props| props.mailbox(3));
    let routees = pool.routees();
    let first = hold_up(&routees[0]).await;
    let second = hold_up(&routees[1]).await;
    for router in 0..2 {
        let sent = match router {
            0 => (0..)
                .take_while(|_| pool.round_robin().tell(Job(0)).is_ok())
                .count(),
            _ => (0..)
                .take_while(|_| pool.least_loaded().tell(Job(0)).is_ok())
                .count(),
        };
        assert_eq!(sent, if router == 0 { 6 } else { 0 });
        assert_eq!(routees[0].queue_depth(), 3);
        assert_eq!(routees[1].queue_depth(), 3);
    }
    assert!(is_busy(&pool.round_robin().ask(Job(0)).await));
    let asked = pool.round_robin();
    // It waits for whoever has room first.
    let waiting = tokio::spawn(async move { asked.send(Job(7)).await });
    drop(second);
    in_time("its place", waiting)
        .await
        .expect("no panic")
        .expect("sent");
    assert_eq!(routees[0].queue_depth(), 3);
    for _ in 0..10 {
        // Turns of the one that is full go to the other one.
        let done = in_time("an answer", pool.round_robin().ask(Job(0)).into_future()).await;
        assert_eq!(done, Ok(routees[1].path()));
    }
    drop(first);
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn the_least_loaded_gets_the_message() {
    let system = system_of(4).await;
    let (pool, _) = pool_of(&system, 3, as_it_is);
    let routees = pool.routees();
    let mut held = Vec::new();
    for routee in &routees {
        held.push(hold_up(routee).await);
    }
    for (routee, jobs) in routees.iter().zip([5, 2, 4]) {
        for _ in 0..jobs {
            routee.tell(Job(0)).expect("there is room");
        }
    }
    let router = pool.least_loaded();
    let depths = || -> Vec<usize> { routees.iter().map(ActorRef::queue_depth).collect() };
    router.tell(Job(0)).expect("there is room");
    assert_eq!(depths(), [5, 3, 4]);
    router.tell(Job(0)).expect("there is room");
    assert_eq!(depths(), [5, 4, 4]);
    for _ in 0..4 {
        router.tell(Job(0)).expect("there is room");
    }
    let all = depths();
    assert_eq!(all.iter().sum::<usize>(), 17);
    assert!(all.iter().all(|depth| (5..=6).contains(depth)), "{all:?}");
    drop(held);
    system.shutdown().await.expect("in time");
}

async fn owners(pool: &Pool<Worker>, keys: u32) -> Vec<ActorPath> {
    let router = pool.consistent_hash();
    let mut owners = Vec::new();
    for key in 0..keys {
        owners.push(router.ask(Job(key)).await.expect("it answers"));
    }
    owners
}

#[tokio::test]
async fn a_key_stays_with_its_routee_and_few_keys_move_when_the_pool_changes() {
    let system = system_of(2).await;
    let (pool, _) = pool_of(&system, 4, as_it_is);
    let before = owners(&pool, 400).await;
    assert_eq!(owners(&pool, 400).await, before);
    let places: BTreeSet<String> = before.iter().map(ToString::to_string).collect();
    assert_eq!(places.len(), 4);
    pool.resize(5).await.expect("it answers");
    let routees = pool.routees();
    let grown = owners(&pool, 400).await;
    let moved = before.iter().zip(&grown).filter(|(a, b)| a != b);
    let moved: Vec<_> = moved.map(|(_, to)| to.clone()).collect();
    assert!(moved.iter().all(|to| *to == routees[4].path()));
    assert!((40..120).contains(&moved.len()), "{} moved", moved.len());
    pool.resize(4).await.expect("it answers");
    assert_eq!(owners(&pool, 400).await, before);
    // One that is replaced has its keys again, under another path.
    let gone = pool.routees()[2].clone();
    gone.tell(End(None)).expect("there is room");
    in_time("its end", gone.terminated()).await;
    until("it is replaced", || {
        let routees = pool.routees();
        routees.len() == 4 && !routees.contains(&gone)
    })
    .await;
    let new = pool.routees()[2].path();
    for (before, after) in before.iter().zip(owners(&pool, 400).await) {
        let expected = if *before == gone.path() { &new } else { before };
        assert_eq!(after, *expected);
    }
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn a_message_with_a_key_goes_to_its_routee_or_to_none() {
    let system = system_of(3).await;
    let (pool, _) = pool_of(&system, 2, |props| props.mailbox(2));
    let router = pool.consistent_hash();
    let owner = router.choose(&Job(1)).expect("they are there");
    let release = hold_up(&owner).await;
    let sent = (0..).take_while(|_| router.tell(Job(1)).is_ok()).count();
    assert_eq!(sent, 2);
    assert!(is_busy(&router.tell(Job(1))));
    let waiting = {
        let router = router.clone();
        tokio::spawn(async move { router.send(Job(1)).await })
    };
    let other = (2..)
        .find(|key| router.choose(&Job(*key)).expect("they are there") != owner)
        .expect("keys are spread");
    let by = in_time("an answer", router.ask(Job(other)).into_future()).await;
    assert_ne!(by, Ok(owner.path()));
    assert!(!waiting.is_finished());
    drop(release);
    in_time("its place", waiting)
        .await
        .expect("no panic")
        .expect("sent");
    assert_eq!(router.ask(Job(1)).await, Ok(owner.path()));
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn a_broadcast_reaches_all_or_nobody() {
    let system = system_of(4).await;
    let (pool, seen) = pool_of(&system, 3, |props| props.mailbox(2));
    let all = pool.broadcast();
    all.tell(Job(1)).expect("there is room");
    until("all have it", || seen.handled.load(Ordering::Relaxed) == 3).await;
    let routees = pool.routees();
    let release = hold_up(&routees[1]).await;
    for number in [2, 3] {
        all.tell(Job(number)).expect("there is room");
        until("the others have it", || {
            routees[0].queue_depth() == 0 && routees[2].queue_depth() == 0
        })
        .await;
    }
    assert!(is_busy(&all.tell(Job(4))));
    let waiting = {
        let all = all.clone();
        tokio::spawn(async move { all.send(Job(5)).await })
    };
    drop(release);
    in_time("its place", waiting)
        .await
        .expect("no panic")
        .expect("sent");
    until("all have it", || seen.handled.load(Ordering::Relaxed) == 12).await;
    for jobs in lock(&seen.by).values() {
        assert_eq!(*jobs, [1, 2, 3, 5]);
    }
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn one_that_fails_restarts_in_its_place_and_its_messages_wait() {
    let system = system_of(2).await;
    let (pool, seen) = pool_of(&system, 2, |props| {
        props.supervision(Supervision::restart().backoff(MS, MS))
    });
    let before = pool.routees();
    for number in 0..10 {
        before[0]
            .tell(End(Some(Failure::new("broken"))))
            .expect("there is room");
        before[0].tell(Job(number)).expect("there is room");
    }
    until("all is done", || seen.handled.load(Ordering::Relaxed) == 10).await;
    assert_eq!(pool.routees(), before);
    assert_eq!(system.stats().actor_restarts, 10);
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn one_that_ends_for_good_is_replaced_until_the_pool_is_stopped() {
    let system = system_of(2).await;
    let (pool, _) = pool_of(&system, 3, |props| props.supervision(Supervision::stop()));
    let router = pool.round_robin();
    for round in 0..5 {
        let before = pool.routees();
        for routee in &before {
            // By itself, or by a failure.
            let failure = (round % 2 == 0).then(|| Failure::new("broken"));
            routee.tell(End(failure)).expect("there is room");
        }
        until("all are replaced", || {
            let after = pool.routees();
            after.len() == 3 && !after.iter().any(|routee| before.contains(routee))
        })
        .await;
        assert!(router.ask(Job(0)).await.is_ok());
    }
    assert_eq!(pool.size(), 3);
    pool.stop();
    in_time("the end of the pool", pool.terminated()).await;
    assert_eq!(router.tell(Job(0)), Err(AskError::Stopped));
    assert_eq!(pool.resize(2).await, Err(AskError::Stopped));
    assert!(pool.routees().is_empty());
    until("nobody is left", || system.stats().actors == 0).await;
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn a_pool_that_is_stopped_before_it_has_started_leaves_nobody_behind() {
    let system = system_of(1).await;
    let (release, held) = mpsc::channel();
    let blocker = system.spawn("blocker", || Worker {
        seen: Arc::default(),
    });
    let blocker = blocker.expect("the system runs");
    blocker.tell(HoldUp(held)).expect("there is room");
    until("it is held up", || blocker.queue_depth() == 0).await;
    let (pool, seen) = pool_of(&system, 3, as_it_is);
    pool.round_robin().tell(Job(0)).expect("there is room");
    pool.stop();
    drop::<mpsc::Sender<()>>(release);
    in_time("the end of the pool", pool.terminated()).await;
    assert_eq!(seen.handled.load(Ordering::Relaxed), 1);
    until("only the blocker is left", || system.stats().actors == 1).await;
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn a_pool_without_anybody_says_so_and_comes_back() {
    let system = system_of(2).await;
    let seen = Arc::<Seen>::default();
    let of_worker = Arc::clone(&seen);
    let props = PoolProps::new(1, move || Worker {
        seen: Arc::clone(&of_worker),
    })
    .replace_after(Duration::from_secs(3600), Duration::from_secs(3600));
    let pool = system.spawn_pool("pool", props).expect("it runs");
    let only = pool.routees()[0].clone();
    only.tell(End(None)).expect("there is room");
    in_time("its end", only.terminated()).await;
    let refused = pool.round_robin().tell(Job(0));
    assert!(is_busy(&refused), "{refused:?}");
    until("it is taken off", || pool.routees().is_empty()).await;
    let error = pool.round_robin().send(Job(0)).await.expect_err("nobody");
    assert!(error.to_string().contains("nobody to send to"), "{error}");
    assert!(is_busy(&pool.broadcast().tell(Job(0))));
    // Another place does not wait for that one.
    pool.resize(2).await.expect("it answers");
    assert!(pool.consistent_hash().ask(Job(0)).await.is_ok());
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn a_failure_that_is_handed_on_begins_the_pool_anew() {
    let system = system_of(2).await;
    let (pool, _) = pool_of(&system, 3, |props| {
        props.supervision(Supervision::decide(|_| Directive::Escalate))
    });
    pool.resize(4).await.expect("it answers");
    let before = pool.routees();
    before[0]
        .tell(End(Some(Failure::new("broken"))))
        .expect("there is room");
    until("all are new", || {
        let after = pool.routees();
        after.len() == 4 && !after.iter().any(|routee| before.contains(routee))
    })
    .await;
    assert!(pool.round_robin().ask(Job(0)).await.is_ok());
    system.shutdown().await.expect("in time");
}

/// Whatever a pool's size does meanwhile, what was accepted is handled.
#[tokio::test]
async fn nothing_is_lost_while_a_pool_grows_and_shrinks() {
    let system = system_of(2).await;
    let (pool, seen) = pool_of(&system, 4, |props| props.mailbox(16));
    let is_over = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (0..2)
        .map(|sender| {
            let is_over = Arc::clone(&is_over);
            let (turns, loads) = (pool.round_robin(), pool.least_loaded());
            let (keys, all) = (pool.consistent_hash(), pool.broadcast());
            std::thread::spawn(move || {
                let mut sent = 0_u64;
                let mut number = 0;
                while !is_over.load(Ordering::Relaxed) {
                    number += 1;
                    let job = Job(number);
                    let told = match (number + sender) % 4 {
                        0 => turns.tell(job),
                        1 => loads.tell(job),
                        2 => keys.tell(job),
                        _ => {
                            // Of how many there are nobody can be sure.
                            drop(all.routees());
                            turns.tell(job)
                        }
                    };
                    match told {
                        Ok(()) => sent += 1,
                        Err(AskError::Busy { .. }) => std::thread::yield_now(),
                        Err(error) => panic!("{error}"),
                    }
                }
                sent
            })
        })
        .collect();
    let waiting = {
        let (is_over, router) = (Arc::clone(&is_over), pool.round_robin());
        tokio::spawn(async move {
            let mut sent = 0_u64;
            while !is_over.load(Ordering::Relaxed) {
                router.send(Job(0)).await.expect("it runs");
                sent += 1;
            }
            sent
        })
    };
    for size in (0..100).map(|round| [1, 7, 3, 2, 5][round % 5]) {
        pool.resize(size).await.expect("it answers");
    }
    is_over.store(true, Ordering::Relaxed);
    let mut sent = in_time("the sender", waiting).await.expect("no panic");
    for sender in senders {
        sent += sender.join().expect("no panic");
    }
    let handled = || seen.handled.load(Ordering::Relaxed);
    until("all is handled", || handled() == sent).await;
    let dead: u64 = system.dead_letters().iter().map(|(_, count)| count).sum();
    assert_eq!(dead, 0);
    until("those that are too many have gone", || {
        // Five and their parent.
        system.stats().actors == 6
    })
    .await;
    system.shutdown().await.expect("in time");
    assert_eq!(handled(), sent);
}

struct Parent {
    pool: Option<Pool<Worker>>,
}

impl Actor for Parent {
    fn started(&mut self, cx: &mut ActorCx<'_, Self>) -> Result<(), Failure> {
        let props = PoolProps::new(2, || Worker {
            seen: Arc::default(),
        });
        self.pool = Some(cx.spawn_pool("workers", props)?);
        Ok(())
    }
}

impl Receive<Job> for Parent {
    type Reply = Result<ActorPath, AskError>;

    fn receive(&mut self, job: Job, cx: &mut ActorCx<'_, Self>) -> Received<Self, Self::Reply> {
        let Some(pool) = &self.pool else {
            return cx.unhandled();
        };
        let routee = pool.consistent_hash().choose(&job)?;
        cx.ask(&routee, job, |path, _, cx| cx.reply(path))
    }
}

#[tokio::test]
async fn a_pool_of_an_actor_ends_with_it() {
    let system = system_of(2).await;
    let parent = system
        .spawn("parent", || Parent { pool: None })
        .expect("it runs");
    let path = parent.ask(Job(1)).await.expect("it answers");
    let path = path.expect("the routee answers").to_string();
    assert!(path.starts_with("/parent/workers/$"), "{path}");
    parent.stop();
    in_time("its end", parent.terminated()).await;
    until("nobody is left", || system.stats().actors == 0).await;
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn a_group_sends_to_whoever_is_registered() {
    let system = system_of(2).await;
    let key = ServiceKey::<Worker>::new("workers");
    let receptionist = system.receptionist();
    let group = receptionist.group(&key);
    let router = group.round_robin();
    assert!(is_busy(&router.tell(Job(0))));
    let seen = Arc::<Seen>::default();
    let spawn = |name: &str| {
        let seen = Arc::clone(&seen);
        let actor = system
            .spawn(name, move || Worker {
                seen: Arc::clone(&seen),
            })
            .expect("the name is free");
        receptionist.register(&key, &actor);
        actor
    };
    let actors = ["a", "b", "c"].map(spawn);
    let mut by = BTreeSet::new();
    for _ in 0..3 {
        by.insert(router.ask(Job(0)).await.expect("it answers").to_string());
    }
    assert!(by.iter().eq(["/a", "/b", "/c"]), "{by:?}");
    // A key belongs to a path, whoever has it.
    let keyed = group.consistent_hash();
    let owner = keyed.ask(Job(1)).await.expect("it answers");
    let owner = actors.iter().find(|actor| actor.path() == owner);
    let owner = owner.expect("it is one of them").clone();
    let name = owner.path().to_string();
    owner.stop();
    until("it is taken off", || router.routees().len() == 2).await;
    let other = keyed.ask(Job(1)).await.expect("it answers");
    assert_ne!(other.to_string(), name);
    spawn(&name[1..]);
    let again = keyed.ask(Job(1)).await.expect("it answers");
    assert_eq!(again.to_string(), name);
    for actor in router.routees() {
        assert!(receptionist.deregister(&key, &actor));
    }
    assert!(is_busy(&router.tell(Job(0))));
    system.shutdown().await.expect("in time");
    assert_eq!(router.tell(Job(0)), Err(AskError::Stopped));
}

#[tokio::test]
async fn a_router_may_subscribe() {
    let system = system_of(2).await;
    let (pool, seen) = pool_of(&system, 2, as_it_is);
    let topic = system.topic::<Job>("jobs");
    topic
        .subscribe(
            pool.round_robin().recipient(),
            Backlog::new(1, Overflow::DropNew),
        )
        .expect("it runs");
    for number in 0..10 {
        topic.publish(Job(number)).expect("it runs");
    }
    until("all is done", || seen.handled.load(Ordering::Relaxed) == 10).await;
    assert_eq!(lock(&seen.by).len(), 2);
    assert_eq!(topic.status().lost, 0);
    pool.stop();
    in_time("the end of the pool", pool.terminated()).await;
    topic.publish(Job(10)).expect("it runs");
    assert_eq!(topic.status().lost, 1);
    system.shutdown().await.expect("in time");
}
