//! The receptionist: who is found, and who is told of changes.

use std::sync::mpsc;
use std::time::Duration;

use perennial_core::{
    Actor, ActorCx, ActorRef, ActorSystem, Failure, Listing, Props, Receive, Received,
    Receptionist, ServiceKey, Subscription, Supervision,
};

use crate::actors::system_of;
use crate::fixture::{DEADLINE, in_time, until};

struct Printer;

impl Actor for Printer {}

struct Fail;

impl Receive<Fail> for Printer {
    type Reply = ();

    fn receive(&mut self, _: Fail, _: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        Err(Failure::new("broken"))
    }
}

fn printer(system: &ActorSystem) -> ActorRef<Printer> {
    let props = Props::new(|| Printer).supervision(Supervision::restart().backoff(MS, MS));
    system.spawn_anonymous(props).expect("the system runs")
}

const MS: Duration = Duration::from_millis(1);

fn key() -> ServiceKey<Printer> {
    ServiceKey::new("printers")
}

async fn next(changes: &mut Subscription<Listing<Printer>>) -> Vec<ActorRef<Printer>> {
    let listing = in_time("a listing", changes.recv()).await;
    listing.expect("the system runs").actors()
}

#[tokio::test]
async fn actors_are_found_by_name_and_type() {
    struct Other;
    impl Actor for Other {}

    let system = system_of(2).await;
    let receptionist = system.receptionist();
    let [a, b] = [printer(&system), printer(&system)];
    receptionist.register(&key(), &a);
    receptionist.register(&key(), &b);
    receptionist.register(&key(), &a);
    receptionist.register(&ServiceKey::new("others"), &b);
    assert_eq!(receptionist.find(&key()).actors(), [a.clone(), b.clone()]);
    let others = receptionist.find(&ServiceKey::<Printer>::new("others"));
    assert_eq!(others.actors(), std::slice::from_ref(&b));
    let of_other_type = receptionist.find(&ServiceKey::<Other>::new("printers"));
    assert!(of_other_type.is_empty());
    assert!(receptionist.deregister(&key(), &a));
    assert!(!receptionist.deregister(&key(), &a));
    assert_eq!(receptionist.find(&key()).actors(), [b]);
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn the_present_listing_comes_first_and_then_every_change() {
    let system = system_of(2).await;
    let receptionist = system.receptionist();
    let [a, b] = [printer(&system), printer(&system)];
    receptionist.register(&key(), &a);
    let mut changes = receptionist.changes(&key());
    receptionist.register(&key(), &b);
    receptionist.register(&key(), &b);
    receptionist.deregister(&key(), &a);
    receptionist.register(&key(), &a);
    assert_eq!(next(&mut changes).await, std::slice::from_ref(&a));
    assert_eq!(next(&mut changes).await, [a.clone(), b.clone()]);
    assert_eq!(next(&mut changes).await, std::slice::from_ref(&b));
    assert_eq!(next(&mut changes).await, [b.clone(), a.clone()]);
    assert!(changes.try_recv().is_none());
    // By itself when it ends; a restart is no change.
    b.tell(Fail).expect("there is room");
    until("it has restarted", || system.stats().actor_restarts == 1).await;
    b.stop();
    assert_eq!(next(&mut changes).await, std::slice::from_ref(&a));
    // Also one that had ended before.
    receptionist.register(&key(), &b);
    until("it is taken off again", || {
        receptionist.find(&key()).len() == 1
    })
    .await;
    system.shutdown().await.expect("in time");
}

/// Hands listings on, as numbers of actors.
struct Watcher {
    receptionist: Receptionist,
    sizes: mpsc::Sender<usize>,
}

impl Actor for Watcher {
    fn started(&mut self, cx: &mut ActorCx<'_, Self>) -> Result<(), Failure> {
        self.receptionist.subscribe(&key(), cx.myself())?;
        Ok(())
    }
}

impl Receive<Listing<Printer>> for Watcher {
    type Reply = ();

    fn receive(
        &mut self,
        listing: Listing<Printer>,
        cx: &mut ActorCx<'_, Self>,
    ) -> Received<Self, ()> {
        self.sizes.send(listing.len()).expect("the test listens");
        cx.reply(())
    }
}

impl Receive<Fail> for Watcher {
    type Reply = ();

    fn receive(&mut self, _: Fail, _: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        Err(Failure::new("broken"))
    }
}

#[tokio::test]
async fn an_actor_that_subscribes_is_told_and_after_a_restart_told_anew() {
    let system = system_of(2).await;
    let receptionist = system.receptionist();
    let (sizes, told) = mpsc::channel();
    let next = || told.recv_timeout(DEADLINE).expect("it is told");
    let of_watcher = receptionist.clone();
    let watcher = Props::new(move || Watcher {
        receptionist: of_watcher.clone(),
        sizes: sizes.clone(),
    });
    let watcher = watcher.supervision(Supervision::restart().backoff(MS, MS));
    let watcher = system.spawn("watcher", watcher).expect("it runs");
    assert_eq!(next(), 0);
    let a = printer(&system);
    receptionist.register(&key(), &a);
    assert_eq!(next(), 1);
    watcher.tell(Fail).expect("there is room");
    // The fresh value knows of none before.
    assert_eq!(next(), 1);
    receptionist.register(&key(), &printer(&system));
    assert_eq!(next(), 2);
    assert!(receptionist.unsubscribe(&key(), &watcher));
    a.stop();
    until("it is taken off", || receptionist.find(&key()).len() == 1).await;
    assert!(told.try_recv().is_err());
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn a_registration_keeps_nobody_from_ending() {
    let system = system_of(2).await;
    let receptionist = system.receptionist();
    let props = Props::new(|| Printer).stop_unreferenced();
    let printer = system.spawn("printer", props).expect("it runs");
    receptionist.register(&key(), &printer);
    let mut changes = receptionist.changes(&key());
    assert_eq!(next(&mut changes).await, std::slice::from_ref(&printer));
    drop(printer);
    assert!(next(&mut changes).await.is_empty());
    system.shutdown().await.expect("in time");
}

/// Actors come and go on several threads; the latest listing that is told is the one that is there.
#[tokio::test]
async fn the_latest_listing_that_is_told_is_what_is_there() {
    let system = system_of(2).await;
    let receptionist = system.receptionist();
    let mut changes = receptionist.changes(&key());
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let (system, receptionist) = (system.clone(), receptionist.clone());
            std::thread::spawn(move || {
                for round in 0..50 {
                    let printer = printer(&system);
                    receptionist.register(&key(), &printer);
                    match (thread + round) % 3 {
                        0 => printer.stop(),
                        1 => drop(receptionist.deregister(&key(), &printer)),
                        _ => {}
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    let there = |listing: &Listing<Printer>| listing.len();
    let expected = (0..4)
        .flat_map(|thread| (0..50).map(move |round| (thread + round) % 3))
        .filter(|kind| *kind == 2)
        .count();
    until("those that stop are taken off", || {
        there(&receptionist.find(&key())) == expected
    })
    .await;
    let mut latest = 0;
    while let Some(listing) = changes.try_recv() {
        latest = there(&listing);
    }
    assert_eq!(latest, expected);
    assert_eq!(changes.lost(), 0);
    system.shutdown().await.expect("in time");
}
