//! Sets of numbered actors that are always there.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use perennial_core::{
    Actor, ActorCx, ActorSystem, AskError, Daemon, DaemonProps, Daemons, Failure, Props, Receive,
    Received, SpawnError, StopReason,
};
use tokio::sync::oneshot;

use crate::actors::system_of;
use crate::fixture::{in_time, lock, until};

/// Which daemons run at this moment, and whether two of different revisions ever did.
#[derive(Default)]
struct Roll {
    running: BTreeSet<(u64, u32)>,
    begun: usize,
    overlapped: bool,
}

type Shared = Arc<Mutex<Roll>>;

struct Worker {
    daemon: Daemon,
    roll: Shared,
}

impl Actor for Worker {
    fn started(&mut self, _: &mut ActorCx<'_, Self>) -> Result<(), Failure> {
        let mut roll = lock(&self.roll);
        let (revision, number) = (self.daemon.revision(), self.daemon.number());
        roll.overlapped |= roll.running.iter().any(|(other, _)| *other != revision);
        assert!(roll.running.insert((revision, number)), "twice at once");
        roll.begun += 1;
        Ok(())
    }

    fn stopped(&mut self, _: &StopReason, _: &mut ActorCx<'_, Self>) {
        let place = (self.daemon.revision(), self.daemon.number());
        lock(&self.roll).running.remove(&place);
    }
}

/// Who it is, and on which thread.
struct Who;

impl Receive<Who> for Worker {
    type Reply = (Daemon, String);

    fn receive(&mut self, _: Who, cx: &mut ActorCx<'_, Self>) -> Received<Self, Self::Reply> {
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        cx.reply((self.daemon, thread))
    }
}

/// Ends itself.
struct Leave;

impl Receive<Leave> for Worker {
    type Reply = ();

    fn receive(&mut self, _: Leave, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        cx.stop();
        cx.reply(())
    }
}

/// Handles nothing else until it is let go on.
struct Hold(oneshot::Receiver<()>);

impl Receive<Hold> for Worker {
    type Reply = ();

    fn receive(&mut self, hold: Hold, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        cx.exclusive().later(hold.0, |_, _, cx| cx.reply(()))
    }
}

fn workers(system: &ActorSystem, count: u32) -> (Daemons<Worker>, Shared) {
    let roll = Shared::default();
    let of_all = Arc::clone(&roll);
    let props = DaemonProps::new(count, move |daemon| {
        let roll = Arc::clone(&of_all);
        Props::new(move || Worker {
            daemon,
            roll: Arc::clone(&roll),
        })
    });
    let props = props.backoff(Duration::from_millis(1), Duration::from_millis(5));
    let daemons = system.spawn_daemons("workers", props).expect("a free name");
    (daemons, roll)
}

/// Waits until exactly the daemons of a revision run.
async fn all_run(roll: &Shared, revision: u64, count: u32) {
    let expected: BTreeSet<_> = (0..count).map(|number| (revision, number)).collect();
    until("exactly these run", || lock(roll).running == expected).await;
}

#[tokio::test]
async fn every_number_runs_once_spread_over_all_workers() {
    let system = system_of(2).await;
    let (daemons, roll) = workers(&system, 5);
    assert_eq!(daemons.started().await, Ok(()));
    assert!((0..5).all(|number| daemons.daemon(number).is_some()));
    all_run(&roll, 0, 5).await;
    assert_eq!((daemons.count(), daemons.revision()), (5, 0));
    let mut threads = BTreeSet::new();
    for number in 0..5 {
        let daemon = daemons.daemon(number).expect("it runs");
        assert_eq!(daemon.path().to_string(), format!("/workers/{number}"));
        let (who, thread) = daemon.ask(Who).await.expect("it runs");
        assert_eq!((who.number(), who.count(), who.revision()), (number, 5, 0));
        threads.insert(thread);
    }
    assert_eq!(threads.len(), 2);
    assert!(daemons.daemon(5).is_none());
    let again = system.spawn_daemons("workers", DaemonProps::<Worker>::new(1, |_| unreachable!()));
    assert!(matches!(again, Err(SpawnError::NameTaken { .. })));
    assert_eq!(system.shutdown().await, Ok(()));
    assert!(lock(&roll).running.is_empty());
}

#[tokio::test]
async fn one_that_ends_begins_again_and_the_others_go_on() {
    let system = system_of(2).await;
    let (daemons, roll) = workers(&system, 3);
    all_run(&roll, 0, 3).await;
    for round in 1..=4 {
        let second = daemons.daemon(1).expect("it runs");
        assert_eq!(second.ask(Leave).await, Ok(()));
        until("it has begun again", || lock(&roll).begun == 3 + round).await;
        all_run(&roll, 0, 3).await;
        until("it is found", || daemons.daemon(1).is_some()).await;
        assert_ne!(daemons.daemon(1), Some(second));
    }
}

#[tokio::test]
async fn a_set_is_rescaled_without_two_revisions_at_once() {
    let system = system_of(2).await;
    let (daemons, roll) = workers(&system, 4);
    all_run(&roll, 0, 4).await;
    for (revision, count) in [(1, 7), (2, 1), (3, 1), (4, 64)] {
        assert_eq!(daemons.rescale(count).await, Ok(()));
        assert_eq!((daemons.count(), daemons.revision()), (count, revision));
        all_run(&roll, revision, count).await;
    }
    assert!(!lock(&roll).overlapped);
}

#[tokio::test]
async fn the_new_ones_wait_for_the_last_of_the_old_ones() {
    let system = system_of(2).await;
    let (daemons, roll) = workers(&system, 2);
    all_run(&roll, 0, 2).await;
    let (go_on, held) = oneshot::channel();
    let first = daemons.daemon(0).expect("it runs");
    first.tell(Hold(held)).expect("room");
    let one = tokio::spawn({
        let daemons = daemons.clone();
        async move { daemons.rescale(5).await }
    });
    until("the other one has ended", || lock(&roll).running.len() == 1).await;
    // A change that comes meanwhile takes its place.
    let other = tokio::spawn({
        let daemons = daemons.clone();
        async move { daemons.rescale(3).await }
    });
    until("both wait", || daemons.daemon(1).is_none()).await;
    assert_eq!((daemons.count(), daemons.revision()), (2, 0));
    go_on.send(()).expect("it waits");
    for change in [one, other] {
        let done = in_time("the change", change).await;
        assert_eq!(done.expect("no panic"), Ok(()));
    }
    let revision = daemons.revision();
    all_run(&roll, revision, daemons.count()).await;
    assert!(!lock(&roll).overlapped);
}

#[tokio::test]
async fn the_number_of_daemons_is_bounded() {
    let system = system_of(1).await;
    let (daemons, roll) = workers(&system, 0);
    all_run(&roll, 0, 1).await;
    assert_eq!(daemons.rescale(1025).await, Ok(()));
    assert_eq!(daemons.count(), 1024);
    assert_eq!(daemons.rescale(0).await, Ok(()));
    assert_eq!(daemons.count(), 1);
}

#[tokio::test]
async fn a_set_that_is_stopped_is_not_begun_again() {
    let system = system_of(2).await;
    let (daemons, roll) = workers(&system, 3);
    all_run(&roll, 0, 3).await;
    daemons.stop();
    until("all have ended", || lock(&roll).running.is_empty()).await;
    until("none is found", || {
        (0..3).all(|number| daemons.daemon(number).is_none())
    })
    .await;
    until("its name is free", || {
        system.actor::<Worker>("/workers/0").is_none()
    })
    .await;
    assert_eq!(daemons.rescale(2).await, Err(AskError::Stopped));
    assert_eq!(lock(&roll).begun, 3);
}
