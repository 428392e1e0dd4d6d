//! An entity on a store in memory, driven by the real engine.

use std::sync::Arc;
use std::time::Duration;

use perennial_core::config::ConfigSource;
use perennial_core::{ActorSystem, AskError, Cx, Effect, Entity, EventSourced, Handle};
use perennial_testkit::MemoryStore;
use serde::{Deserialize, Serialize};

use crate::fixture::until;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Account {
    balance: i64,
}

#[derive(Serialize, Deserialize)]
enum AccountEvent {
    Deposited(i64),
}

impl EventSourced for Account {
    const TYPE: &'static str = "Account";
    type Event = AccountEvent;
    type Services = ();

    fn apply(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Deposited(cents) => self.balance += cents,
        }
    }
}

struct Deposit(i64);

impl Handle<Deposit> for Account {
    type Reply = i64;

    fn handle(&self, command: Deposit, cx: &Cx<'_, Self>) -> Effect<Self, i64> {
        cx.persist([AccountEvent::Deposited(command.0)])
            .reply(|account| account.balance)
    }
}

struct Balance;

impl Handle<Balance> for Account {
    type Reply = i64;

    fn handle(&self, _: Balance, cx: &Cx<'_, Self>) -> Effect<Self, i64> {
        cx.reply(self.balance)
    }
}

async fn start(store: &MemoryStore) -> ActorSystem {
    ActorSystem::with_store(ConfigSource::empty(), Arc::new(store.open_again()))
        .entity(Entity::<Account>::new(()).snapshot_every(10))
        .start()
        .await
        .expect("a system on memory starts")
}

#[tokio::test]
async fn an_entity_comes_back() {
    let store = MemoryStore::default();
    let system = start(&store).await;
    let account = system.entity::<Account>("4711");
    for number in 1..=25 {
        assert_eq!(account.ask(Deposit(1)).await, Ok(number));
        if number % 10 == 0 {
            // One that is due while another is being saved is left out.
            let taken = u64::try_from(number / 10).expect("a count");
            until("the snapshot is saved", || {
                system.stats().saved_snapshots == taken
            })
            .await;
        }
    }
    system.shutdown().await.expect("an idle system stops");
    assert_eq!(account.ask(Balance).await, Err(AskError::Stopped));

    let system = start(&store).await;
    let account = system.entity::<Account>("4711");
    assert_eq!(account.ask(Balance).await, Ok(25));
    let stats = system.stats();
    assert_eq!(stats.recovered, 1);
    assert!(stats.replayed_events <= 5, "{stats:?}");
    system.shutdown().await.expect("an idle system stops");
}

#[tokio::test]
async fn callers_of_one_entity_see_serial_execution() {
    let store = MemoryStore::default();
    let system = start(&store).await;
    let account = system.entity::<Account>("hot");
    let asks: Vec<_> = (0..1000)
        .map(|_| {
            let account = account.clone();
            tokio::spawn(async move {
                account
                    .ask(Deposit(1))
                    .timeout(Duration::from_secs(30))
                    .await
            })
        })
        .collect();
    let mut replies = Vec::new();
    for ask in asks {
        replies.push(ask.await.expect("no panic").expect("stored"));
    }
    replies.sort_unstable();
    assert_eq!(replies, (1..=1000).collect::<Vec<i64>>());
    system.shutdown().await.expect("an idle system stops");
}
