//! Workers and the registry without threads: what cannot be seen from outside of a system.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use perennial_core::engine::{Assembled, Assembly, Frame, Input, Registry, Settings, Worker};
use perennial_core::{EntityRef, Handle};
use perennial_persistence::Store;
use perennial_testkit::{ManualClock, MemoryStore};

use crate::fixture::{Ledger, Read, ledger, run};

/// One worker that is turned by hand.
struct Hand {
    registry: Arc<Registry>,
    worker: Worker,
    inbox: tokio::sync::mpsc::UnboundedReceiver<Input>,
    store: MemoryStore,
    clock: ManualClock,
}

impl Hand {
    fn new(entity: perennial_core::Entity<Ledger>) -> Self {
        let clock = ManualClock::new();
        let frame = Frame {
            workers: 1,
            settings: Settings::default(),
            inbox: 100,
            ask_timeout: Duration::from_secs(5),
            deadlines: None,
            clock: Arc::new(clock.clone()),
        };
        let Assembled { registry, workers } =
            Assembly::new().entity(entity).build(frame, || [7; 32]);
        let (worker, inbox) = workers.into_iter().next().expect("one worker");
        Self {
            registry,
            worker,
            inbox,
            store: MemoryStore::default(),
            clock,
        }
    }

    /// Turns the worker until nothing is left to do now; gives when it wants to be woken.
    async fn turn(&mut self) -> Option<Duration> {
        let mut inputs = VecDeque::new();
        loop {
            while let Ok(input) = self.inbox.try_recv() {
                inputs.push_back(input);
            }
            let out = self.worker.turn(inputs.drain(..));
            for read in out.reads {
                inputs.push_back(Input::Read(Box::new(read.read(&self.store).await)));
            }
            for batch in out.writes {
                let results = self.store.journal().write_events(batch.writes()).await;
                inputs.push_back(Input::Written(Box::new(batch.settle(results))));
            }
            if inputs.is_empty() && !out.busy {
                return out.wake_at;
            }
        }
    }

    async fn ask<C: Send + 'static>(
        &mut self,
        entity: &EntityRef<Ledger>,
        command: C,
    ) -> (<Ledger as Handle<C>>::Reply, Option<Duration>)
    where
        Ledger: Handle<C>,
    {
        let mut asking = entity.ask(command).into_future();
        let wake_at = self.turn().await;
        let answer = asking.try_take().expect("the worker has answered");
        (answer.expect("a reply"), wake_at)
    }
}

#[tokio::test]
async fn timers_that_were_taken_back_wake_nobody() {
    let mut hand = Hand::new(ledger().passivate_after(None));
    let entity = hand.registry.entity::<Ledger>("a");
    let start = |seconds: u64| {
        run(move |_, cx| {
            let delay = Duration::from_secs(seconds);
            cx.timers().start_single("key", delay, Read);
            cx.reply(())
        })
    };
    for seconds in [10, 100, 1000] {
        let ((), wake_at) = hand.ask(&entity, start(seconds)).await;
        assert_eq!(wake_at, Some(Duration::from_secs(seconds)));
    }
    let cancel = run(|_, cx| {
        cx.timers().cancel("key");
        cx.reply(())
    });
    let ((), wake_at) = hand.ask(&entity, cancel).await;
    assert_eq!(wake_at, None);

    // Those of an entity that has stopped are gone with it.
    let ((), wake_at) = hand.ask(&entity, start(10)).await;
    assert_eq!(wake_at, Some(Duration::from_secs(10)));
    let stop = run(|_, cx| cx.stop().reply(|_| ()));
    let ((), wake_at) = hand.ask(&entity, stop).await;
    assert_eq!(wake_at, None);
}

#[tokio::test]
async fn timers_of_a_passivated_entity_are_gone() {
    let mut hand = Hand::new(ledger().passivate_after(Some(Duration::from_secs(60))));
    let entity = hand.registry.entity::<Ledger>("a");
    let start = run(|_, cx| {
        let delay = Duration::from_secs(1000);
        cx.timers().start_single("key", delay, Read);
        cx.reply(())
    });
    let ((), wake_at) = hand.ask(&entity, start).await;
    assert_eq!(wake_at, Some(Duration::from_secs(60)));
    hand.clock.advance(Duration::from_secs(60));
    assert_eq!(hand.turn().await, None);
}

/// How many addresses the registry holds; its `Debug` says so.
fn addresses(registry: &Registry) -> usize {
    let text = format!("{registry:?}");
    let (_, rest) = text.split_once("addresses: ").expect("it is shown");
    let (number, _) = rest.split_once(',').expect("more follows");
    number.parse().expect("a number")
}

#[tokio::test]
async fn the_registry_forgets_ids_that_nobody_holds() {
    let mut hand = Hand::new(ledger().passivate_after(Some(Duration::from_secs(60))));
    let refs: Vec<_> = (0..100)
        .map(|number| hand.registry.entity::<Ledger>(&format!("e{number}")))
        .collect();
    assert_eq!(addresses(&hand.registry), 100);
    for entity in &refs[..10] {
        hand.ask(entity, Read).await;
    }
    drop(refs);
    // The entities in memory hold theirs.
    assert_eq!(addresses(&hand.registry), 10);
    let again = hand.registry.entity::<Ledger>("e3");
    assert_eq!(addresses(&hand.registry), 10);
    drop(again);
    hand.clock.advance(Duration::from_secs(60));
    hand.turn().await;
    assert_eq!(addresses(&hand.registry), 0);
}
