//! Requests that two systems get again and again, on real stores: each takes effect once, and
//! whoever asks gets the one answer.

use perennial::persistence::{Codec, MessagePack};
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

/// As [`Till`], but only the sum of its events is kept; each payment is told.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Purse {
    paid: Vec<u64>,
}

impl DurableState for Purse {
    const TYPE: &'static str = "Purse";
    type Services = ();
}

impl Handle<Pay> for Durable<Purse> {
    type Reply = usize;

    fn handle(&self, Pay(number): Pay, cx: &Cx<'_, Self>) -> Effect<Self, usize> {
        let mut paid = self.paid.clone();
        paid.push(number);
        cx.put_because(Purse { paid }, Pay(number))
            .reply(|purse| purse.paid.len())
    }
}

impl Handle<Read> for Durable<Purse> {
    type Reply = Vec<u64>;

    fn handle(&self, Read: Read, cx: &Cx<'_, Self>) -> Effect<Self, Vec<u64>> {
        cx.reply(self.paid.clone())
    }
}

/// Deletes the state; answered with how many payments there were.
#[derive(Debug, Serialize)]
struct Close;

impl Repeatable for Close {
    const NAME: &'static str = "Close";
}

impl Handle<Close> for Durable<Purse> {
    type Reply = usize;

    fn handle(&self, _: Close, cx: &Cx<'_, Self>) -> Effect<Self, usize> {
        let count = self.paid.len();
        cx.delete_because(Close).reply(move |_| count)
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Told {
    Paid(u64),
    Closed,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_to_a_state_takes_effect_once_and_is_told_once() {
    on_every_store(everybody_pays_into_a_state).await;
}

async fn everybody_pays_into_a_state(store: &TestStore) {
    let systems = [start(store).await, start(store).await];
    let callers: Vec<_> = systems
        .iter()
        .flat_map(|system| {
            (0..CALLERS).map(|_| tokio::spawn(send_all_to::<Durable<Purse>>(system.clone())))
        })
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
    let purse = system.entity::<Durable<Purse>>("a");
    let paid = purse.ask(Read).await.expect("it comes back");
    assert_eq!(paid.len() as u64, REQUESTS, "each once");
    for (number, place) in (0..).zip(&places) {
        assert_eq!(paid[place - 1], number);
    }
    let again = send_all_to::<Durable<Purse>>(system.clone()).await;
    assert_eq!(again, places, "after a restart");
    let close = || {
        let id = CommandId::new("close").expect("a valid id");
        purse.ask(Close).command_id(id)
    };
    assert_eq!(close().await, Ok(paid.len()));
    assert_eq!(close().await, Ok(paid.len()));
    let again = send_all_to::<Durable<Purse>>(system.clone()).await;
    assert_eq!(again, places, "after the deletion");
    assert_eq!(purse.ask(Read).await, Ok(Vec::new()), "none took effect");
    system.shutdown().await.expect("idle");

    let events = store.events_of("Purse", "a").await;
    let numbers: Vec<u64> = events.iter().map(|event| event.seq_nr.value()).collect();
    assert_eq!(numbers, (1..=REQUESTS + 1).collect::<Vec<u64>>());
    assert!(events.is_sorted_by(|event, next| event.timestamp < next.timestamp));
    let codec = MessagePack::<Told>::new("Purse.Event");
    let told: Vec<Told> = events
        .iter()
        .map(|event| codec.decode(&event.payload).expect("our own event"))
        .collect();
    let expected: Vec<Told> = paid
        .into_iter()
        .map(Told::Paid)
        .chain([Told::Closed])
        .collect();
    assert_eq!(told, expected, "in the order of the state");
}

/// Sends every request until it is answered.
async fn send_all(system: ActorSystem) -> Vec<usize> {
    send_all_to::<Till>(system).await
}

async fn send_all_to<E: Handle<Pay, Reply = usize>>(system: ActorSystem) -> Vec<usize> {
    let till = system.entity::<E>("a");
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
    let purses = Entity::<Durable<Purse>>::durable(()).change_events(|changed| {
        match (changed.after(), changed.cause::<Pay>()) {
            (None, _) => Told::Closed,
            (Some(_), cause) => Told::Paid(cause.expect("only payments put").0),
        }
    });
    store
        .system()
        .entity(Entity::<Till>::new(()))
        .entity(purses)
        .start()
        .await
        .expect("a usable store")
}
