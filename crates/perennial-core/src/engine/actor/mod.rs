//! Plain actors on a worker.
//!
//! - `address`: where an actor is reached
//! - `letter`: a message from its sender to its handler and its reply
//! - `cell`: one actor's life
//! - `host`: the actors of a worker
//!
//! Whatever an actor learns of others comes as an [`Order`] to its cell, also if both are on one
//! worker: that its child has failed, that one whom it watches has ended. Orders are never refused
//! and need no room; there are as many of them as there are actors to tell of.

mod address;
mod cell;
mod host;
mod letter;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::actor::{ChildFailed, StopReason};
use crate::engine::panic_message;
pub(crate) use address::{ActorAddress, NewAddress, Stand};
pub use cell::ActorPeek;
pub(crate) use cell::{ActorTimer, Base};
pub use host::Newcomer;
pub(crate) use host::{ActorHost, NewActor, NewChild};
pub use letter::Parcel;
pub(crate) use letter::{Draw, Letter, Post, Step, Told, put_aside};

/// The host of actors, beside those of entity types, in a [`CellKey`](crate::engine::CellKey).
pub(crate) const ACTORS: usize = usize::MAX;

/// Something for the cell of an actor.
pub struct ActorInput {
    pub(crate) to: Arc<ActorAddress>,
    pub(crate) order: Order,
}

impl ActorInput {
    /// Nobody is there to follow the order, which is news to whoever wants to watch.
    pub(crate) fn refuse(self, reason: StopReason) {
        match self.order {
            Order::Watch(Watcher::Actor(watcher)) => {
                watcher.order(Order::Terminated(self.to, reason));
            }
            Order::Watch(Watcher::Outside(sender)) => {
                let _ = sender.send(reason);
            }
            Order::Watch(Watcher::Listener(_, listener)) => listener.life(&self.to, Life::Ended),
            _ => {}
        }
    }
}

/// Drops what users have made. A panic in a destructor of theirs concerns nobody else.
pub(crate) fn let_go<T>(of: &ActorAddress, what: T) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(what))) {
        let error = panic_message(&*panic);
        tracing::warn!(actor = %of, %error, "a destructor panicked");
    }
}

/// What a cell is told or has to do.
pub(crate) enum Order {
    /// Stop, after the message that is being handled.
    Stop(StopReason),
    /// Stop, after the messages that came before.
    StopAfter(StopReason),
    /// Begin anew, as a sibling has failed; nothing for one that is not running.
    RestartWith(ChildFailed),
    /// Tell somebody of the end.
    Watch(Watcher),
    /// Tell it no more; by its number.
    Unwatch(u64),
    /// One that is watched has ended.
    Terminated(Arc<ActorAddress>, StopReason),
    /// A child has ended.
    ChildEnded(Arc<ActorAddress>),
    /// A child has failed, and whether that concerns its siblings or its parent too.
    ChildFailed(ChildFailed, Concerns),
    /// The answer to a question is there.
    Answered(u64),
    /// It has ended on the way to its worker.
    NeverCame,
}

/// Whom a failure concerns besides the one that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Concerns {
    Nobody,
    /// Siblings that share their fate.
    Siblings,
    /// The parent, to which it was escalated.
    Parent,
}

/// Who is told of an actor's end.
pub(crate) enum Watcher {
    Actor(Arc<ActorAddress>),
    Outside(oneshot::Sender<StopReason>),
    /// Part of the system, by the number under which it can be taken back.
    Listener(u64, Arc<dyn Listener>),
}

/// A part of the system that follows the lives of actors. It is told on the actor's worker, so it
/// must be quick.
pub(crate) trait Listener: Send + Sync {
    fn life(self: Arc<Self>, actor: &Arc<ActorAddress>, life: Life);
}

/// What has become of an actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// It handles messages, from its start or a restart on, or from before it was listened to.
    Running,
    /// It has failed and begins anew: the value is gone, what waits in its mailbox is not.
    Restarting,
    Ended,
}

impl std::fmt::Debug for ActorInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let order = match &self.order {
            Order::Stop(_) => "Stop",
            Order::StopAfter(_) => "StopAfter",
            Order::RestartWith(_) => "RestartWith",
            Order::Watch(_) => "Watch",
            Order::Unwatch(_) => "Unwatch",
            Order::Terminated(..) => "Terminated",
            Order::ChildEnded(_) => "ChildEnded",
            Order::ChildFailed(..) => "ChildFailed",
            Order::Answered(_) => "Answered",
            Order::NeverCame => "NeverCame",
        };
        write!(f, "{order} to {}", self.to)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use perennial_testkit::ManualClock;
    use tokio::sync::mpsc::UnboundedReceiver;

    use super::*;
    use crate::actor::{
        Actor, ActorCx, ActorRef, Failure, Placement, Props, Receive, Received, Terminated,
    };
    use crate::dead_letters::DeadLetterReason;
    use crate::engine::{Assembled, Assembly, Frame, Input, Settings, Worker};

    /// Watches whom it is told to, and counts how many of them have ended.
    struct Watching(Arc<AtomicU32>);

    impl Actor for Watching {
        fn terminated(
            &mut self,
            terminated: &Terminated,
            _: &mut ActorCx<'_, Self>,
        ) -> Result<(), Failure> {
            assert!(matches!(
                terminated.reason,
                StopReason::SystemStopped | StopReason::NotFound
            ));
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }

    struct Watch(ActorRef<Watching>);

    impl Receive<Watch> for Watching {
        type Reply = ();

        fn receive(&mut self, watch: Watch, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
            cx.watch(&watch.0);
            cx.reply(())
        }
    }

    type Seat = (Worker, UnboundedReceiver<Input>);

    fn two_workers() -> (Arc<crate::engine::Registry>, Seat, Seat) {
        let frame = Frame {
            workers: 2,
            settings: Settings::default(),
            inbox: 10,
            ask_timeout: Duration::from_secs(1),
            deadlines: None,
            clock: Arc::new(ManualClock::new()),
        };
        let Assembled { registry, workers } = Assembly::new().build(frame, || [0; 32]);
        let [first, second] = <[_; 2]>::try_from(workers).expect("two workers");
        (registry, first, second)
    }

    fn turn((worker, inbox): &mut Seat) {
        while let Ok(input) = inbox.try_recv() {
            worker.turn([input]);
        }
    }

    fn watching(worker: usize, count: &Arc<AtomicU32>) -> Props<Watching> {
        let count = Arc::clone(count);
        Props::new(move || Watching(Arc::clone(&count))).placement(Placement::Worker(worker))
    }

    #[test]
    fn who_watches_an_actor_of_a_worker_that_is_gone_is_told() {
        let (registry, mut first, second) = two_workers();
        let count = Arc::default();
        let watcher = registry.spawn(None, watching(0, &count)).expect("no name");
        let watched = registry.spawn(None, watching(1, &count)).expect("no name");
        drop(second);
        for told in 1..=2 {
            watcher.tell(Watch(watched.clone())).expect("room");
            turn(&mut first);
            assert_eq!(count.load(Ordering::Relaxed), told);
        }
    }

    /// Tells another one to watch it, and asks nobody who that is.
    struct Pass(ActorRef<Watching>);

    impl Receive<Pass> for Watching {
        type Reply = ();

        fn receive(&mut self, pass: Pass, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
            cx.watch(&pass.0);
            for _ in 0..2 {
                pass.0.tell(Watch(cx.myself()))?;
            }
            cx.reply(())
        }
    }

    #[test]
    fn what_comes_to_an_actor_before_its_spawn_does_waits_for_it() {
        let (registry, mut first, _second) = two_workers();
        let count = Arc::default();
        let early = registry.spawn(None, watching(0, &count)).expect("no name");
        turn(&mut first);
        for spawned in [true, false] {
            // Its worker has not looked for it yet when somebody there has its reference already,
            // from a place that both know.
            let actor = registry.spawn(None, watching(0, &count)).expect("no name");
            let spawn = first.1.try_recv().expect("it was sent");
            early.tell(Pass(actor.clone())).expect("room");
            turn(&mut first);
            assert_eq!((count.load(Ordering::Relaxed), actor.queue_depth()), (0, 2));
            if spawned {
                first.0.turn([spawn]);
                assert_eq!((count.load(Ordering::Relaxed), actor.queue_depth()), (0, 0));
                assert_eq!(registry.dead_letter_counts()[0].1, 0);
            } else {
                // It never comes there, and whoever was early is told.
                drop(spawn);
                turn(&mut first);
                assert_eq!((count.load(Ordering::Relaxed), actor.queue_depth()), (1, 0));
                assert_eq!(registry.dead_letter_counts()[0].1, 2);
            }
        }
    }

    /// Stops another one and watches it.
    struct Outlive(ActorRef<Watching>);

    impl Receive<Outlive> for Watching {
        type Reply = ();

        fn receive(&mut self, other: Outlive, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
            other.0.stop_now();
            cx.watch(&other.0);
            other.0.tell(Watch(cx.myself()))?;
            cx.reply(())
        }
    }

    #[test]
    fn an_actor_may_be_ended_by_what_came_before_its_spawn() {
        let (registry, mut first, _second) = two_workers();
        let count = Arc::default();
        let early = registry.spawn(None, watching(0, &count)).expect("no name");
        turn(&mut first);
        let actor = registry.spawn(None, watching(0, &count)).expect("no name");
        let spawn = first.1.try_recv().expect("it was sent");
        early.tell(Outlive(actor.clone())).expect("room");
        turn(&mut first);
        first.0.turn([spawn]);
        assert_eq!((count.load(Ordering::Relaxed), actor.queue_depth()), (1, 0));
        assert_eq!(registry.dead_letter_counts()[0].1, 1);
        assert_eq!(registry.live_actors(), 1);
    }

    #[test]
    fn messages_that_are_lost_with_their_worker_are_dead_letters() {
        let (registry, mut first, second) = two_workers();
        let count = Arc::default();
        let actors = [0, 1].map(|worker| {
            let props = watching(worker, &count);
            registry.spawn(None, props).expect("no name")
        });
        turn(&mut first);
        for actor in &actors {
            actor.tell(Watch(actor.clone())).expect("room");
        }
        drop((first, second));
        for actor in &actors {
            // Whether the actor had started or not.
            assert_eq!(actor.queue_depth(), 0);
        }
        assert_eq!((registry.waiting(), registry.live_actors()), (0, 0));
        let counts = registry.dead_letter_counts();
        assert!(
            counts.contains(&(DeadLetterReason::Stopped, 2)),
            "{counts:?}"
        );
        // What comes later is refused as a dead letter too, or at once.
        let late = actors[0].tell(Watch(actors[0].clone()));
        assert!(late.is_err() || registry.dead_letter_counts()[0].1 == 3);
    }

    #[test]
    fn whoever_waits_for_an_end_no_more_is_forgotten() {
        let (registry, mut first, _second) = two_workers();
        let actor = registry
            .spawn(None, watching(0, &Arc::default()))
            .expect("no name");
        turn(&mut first);
        let mut kept = Vec::new();
        for number in 0..10_000 {
            let (sender, receiver) = oneshot::channel();
            actor
                .address()
                .order(Order::Watch(Watcher::Outside(sender)));
            if number % 1000 == 0 {
                kept.push(receiver);
            }
            turn(&mut first);
        }
        let watchers = first.0.peek_actor(&actor).expect("it runs").watchers;
        assert!((10..100).contains(&watchers), "{watchers} are kept");
        actor.stop();
        turn(&mut first);
        assert!(kept.iter_mut().all(|receiver| receiver.try_recv().is_ok()));
    }
}
