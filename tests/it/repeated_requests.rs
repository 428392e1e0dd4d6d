//! Requests that two systems get again and again, on real stores: each takes effect once, and
//! whoever asks gets the one answer.

use perennial::prelude::*;
use perennial::{CommandId, Repeatable};
use perennial_it::{TestStore, on_every_store};
use serde::{Deserialize, Serialize};

const REQUESTS: u64 = 40;
/// Callers of each system, who all send all requests.
const CALLERS: u64 = 3;

#[derive(Debug, Default)]
struct Till {
    paid: Vec<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Paid(u64);

impl EventSourced for Till {
    const TYPE: &'static str = "Till";
    type Event = Paid;
    type Services = ();

    fn apply(&mut self, Paid(number): &Paid) {
        self.paid.push(*number);
    }
}

/// Answered with its place, from 1.
#[derive(Debug, Serialize)]
struct Pay(u64);

impl Repeatable for Pay {
    const NAME: &'static str = "Pay";
}

impl Handle<Pay> for Till {
    type Reply = usize;

    fn handle(&self, Pay(number): Pay, cx: &Cx<'_, Self>) -> Effect<Self, usize> {
        cx.persist([Paid(number)]).reply(|till| till.paid.len())
    }
}

/// Answered with everything paid.
#[derive(Debug)]
struct Read;

impl Handle<Read> for Till {
    type Reply = Vec<u64>;

    fn handle(&self, Read: Read, cx: &Cx<'_, Self>) -> Effect<Self, Vec<u64>> {
        cx.reply(self.paid.clone())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_takes_effect_once_whoever_sends_it_how_often() {
    on_every_store(everybody_sends_everything).await;
}

async fn everybody_sends_everything(store: &TestStore) {
    let systems = [start(store).await, start(store).await];
    let callers: Vec<_> = systems
        .iter()
        .flat_map(|system| (0..CALLERS).map(|_| tokio::spawn(send_all(system.clone()))))
        .collect();
    let mut answers = Vec::new();
    for caller in callers {
        answers.push(caller.await.expect("a caller had no unexpected error"));
    }
    let places = answers.pop().expect("there are callers");
    for others in answers {
        assert_eq!(others, places, "one answer for all");
    }
    for system in &systems {
        system.shutdown().await.expect("idle");
    }

    let system = start(store).await;
    let till = system.entity::<Till>("a");
    let paid = till.ask(Read).await.expect("it recovers");
    assert_eq!(paid.len() as u64, REQUESTS, "each once");
    for (number, place) in (0..).zip(&places) {
        assert_eq!(paid[place - 1], number);
    }
    assert_eq!(send_all(system.clone()).await, places, "after a restart");
    assert_eq!(till.ask(Read).await, Ok(paid));
    let command_id = CommandId::new("payment-0").expect("a valid id");
    let other = till.ask(Pay(1)).command_id(command_id).await;
    assert!(
        matches!(other, Err(AskError::CommandIdReused { .. })),
        "{other:?}"
    );
    system.shutdown().await.expect("idle");
}

/// Sends every request until it is answered.
async fn send_all(system: ActorSystem) -> Vec<usize> {
    let till = system.entity::<Till>("a");
    let mut places = Vec::new();
    for number in 0..REQUESTS {
        let command_id = CommandId::new(&format!("payment-{number}")).expect("a valid id");
        places.push(loop {
            match till.ask(Pay(number)).command_id(command_id.clone()).await {
                Ok(place) => break place,
                // The other system was faster.
                Err(AskError::PersistFailed(_)) => {}
                Err(error) => panic!("request {number}: {error}"),
            }
        });
    }
    places
}

async fn start(store: &TestStore) -> ActorSystem {
    store
        .system()
        .entity(Entity::<Till>::new(()))
        .start()
        .await
        .expect("a usable store")
}
