//! Entities of which only the latest state is kept.

use std::sync::{Arc, Mutex};

use perennial_core::{
    ActorSystem, AskError, Cx, Durable, DurableState, Effect, Entity, EntityRef, Handle,
    PersistFailure,
};
use perennial_persistence::{
    Codec, MessagePack, PersistenceId, SequenceNr, SerializedPayload, StateChange, StateWrite,
    Store, StoredState,
};
use perennial_testkit::{Gate, ReadFault, WriteFault};
use serde::{Deserialize, Serialize};

use crate::fixture::{Bed, Ledger, Note, ledger, persist_failure, until};

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Motto {
    text: String,
}

impl DurableState for Motto {
    const TYPE: &'static str = "Motto";
    type Services = ();
}

/// Replaces the text; the reply is the one before and the new one.
struct Change(&'static str);

impl Handle<Change> for Durable<Motto> {
    type Reply = (String, String);

    fn handle(&self, command: Change, cx: &Cx<'_, Self>) -> Effect<Self, (String, String)> {
        let before = self.text.clone();
        let text = command.0.to_owned();
        cx.put(Motto { text })
            .reply(|motto| (before, motto.text.clone()))
    }
}

struct Forget;

impl Handle<Forget> for Durable<Motto> {
    type Reply = bool;

    fn handle(&self, _: Forget, cx: &Cx<'_, Self>) -> Effect<Self, bool> {
        let was_there = self.is_there();
        cx.delete().reply(move |_| was_there)
    }
}

/// The text, the revision, and whether there is a state.
struct Look;

impl Handle<Look> for Durable<Motto> {
    type Reply = (String, u64, bool);

    fn handle(&self, _: Look, cx: &Cx<'_, Self>) -> Effect<Self, (String, u64, bool)> {
        let revision = cx.sequence_nr().value();
        cx.reply((self.text.clone(), revision, self.is_there()))
    }
}

struct DeleteEvents;

impl Handle<DeleteEvents> for Durable<Motto> {
    type Reply = ();

    fn handle(&self, _: DeleteEvents, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        cx.none()
            .then_delete_events(SequenceNr::FIRST)
            .reply(|_| ())
    }
}

type MottoRef = EntityRef<Durable<Motto>>;

fn mottos() -> Entity<Durable<Motto>> {
    Entity::durable(())
}

fn id() -> PersistenceId {
    PersistenceId::new("Motto", "a").expect("a valid id")
}

async fn start(bed: &Bed, entity: Entity<Durable<Motto>>) -> (ActorSystem, MottoRef) {
    let builder = bed.builder(&[]).entity(entity).entity(ledger());
    let system = builder.start().await.expect("it starts");
    let motto = system.entity("a");
    (system, motto)
}

async fn row(bed: &Bed) -> Option<StoredState> {
    let states = bed.memory.durable_state_store();
    states.load(&id()).await.expect("memory is open")
}

/// Puts a state as another program would.
async fn write_foreign(bed: &Bed, expected: u64, text: &str) {
    let codec = MessagePack::<Motto>::new("Motto.State");
    let text = text.to_owned();
    let payload = codec.encode(&Motto { text }).expect("encodable");
    let expected = SequenceNr::new(expected).expect("small");
    let change = StateChange::Put {
        payload,
        tags: Vec::new(),
    };
    let write = StateWrite::new(id(), expected, expected.next(), change).expect("valid");
    let states = bed.memory.durable_state_store();
    for answer in states.write_states(&[write]).await {
        answer.expect("the revision fits");
    }
}

fn pair(before: &str, after: &str) -> Result<(String, String), AskError> {
    Ok((before.to_owned(), after.to_owned()))
}

fn look(text: &str, revision: u64, is_there: bool) -> Result<(String, u64, bool), AskError> {
    Ok((text.to_owned(), revision, is_there))
}

#[tokio::test]
async fn a_state_is_replaced_and_comes_back() {
    let bed = Bed::new();
    let (system, motto) = start(&bed, mottos()).await;
    assert_eq!(motto.ask(Look).await, look("", 0, false));
    assert_eq!(motto.ask(Change("one")).await, pair("", "one"));
    assert_eq!(motto.ask(Change("two")).await, pair("one", "two"));
    let stored = row(&bed).await.expect("it is there");
    assert_eq!(stored.revision.value(), 2);
    let payload = stored.payload.expect("a state");
    assert_eq!(&*payload.manifest, "Motto.State");
    assert_eq!(system.shutdown().await, Ok(()));
    assert!(bed.memory.rows(&id()).is_empty(), "it has no events");

    let (_system, motto) = start(&bed, mottos()).await;
    assert_eq!(motto.ask(Look).await, look("two", 2, true));
    assert_eq!(motto.ask(Change("three")).await, pair("two", "three"));
    assert_eq!(motto.ask(Look).await, look("three", 3, true));
}

#[tokio::test]
async fn a_deleted_state_is_the_default_one_and_its_revision_goes_on() {
    let bed = Bed::new();
    let (system, motto) = start(&bed, mottos()).await;
    assert_eq!(motto.ask(Forget).await, Ok(false));
    assert_eq!(motto.ask(Change("one")).await, pair("", "one"));
    assert_eq!(motto.ask(Forget).await, Ok(true));
    assert_eq!(motto.ask(Look).await, look("", 3, false));
    let stored = row(&bed).await.expect("a marker");
    assert_eq!((stored.revision.value(), stored.payload), (3, None));
    assert_eq!(system.shutdown().await, Ok(()));

    let (_system, motto) = start(&bed, mottos()).await;
    assert_eq!(motto.ask(Look).await, look("", 3, false));
    assert_eq!(motto.ask(Change("two")).await, pair("", "two"));
    assert_eq!(motto.ask(Look).await, look("two", 4, true));
}

#[tokio::test]
async fn events_and_states_live_side_by_side() {
    let bed = Bed::new();
    let (system, motto) = start(&bed, mottos()).await;
    let ledger = system.entity::<Ledger>("a");
    assert_eq!(motto.ask(Change("one")).await, pair("", "one"));
    assert_eq!(ledger.ask(Note(1)).await, Ok(vec![1]));
    assert_eq!(motto.ask(Look).await, look("one", 1, true));
}

#[tokio::test]
async fn many_changes_at_once_are_one_row_and_every_caller_is_answered() {
    let bed = Bed::new();
    let (_system, motto) = start(&bed, mottos()).await;
    motto.ask(Look).await.expect("recovered");
    let asks: Vec<_> = (0..500)
        .map(|number| motto.ask(Change(if number % 2 == 0 { "even" } else { "odd" })))
        .map(|ask| tokio::spawn(ask.into_future()))
        .collect();
    for (number, ask) in asks.into_iter().enumerate() {
        let (before, after) = ask.await.expect("no panic").expect("stored");
        let expected = match number {
            0 => ("", "even"),
            odd if odd % 2 == 1 => ("even", "odd"),
            _ => ("odd", "even"),
        };
        assert_eq!((before.as_str(), after.as_str()), expected);
    }
    assert_eq!(row(&bed).await.map(|row| row.revision.value()), Some(500));
}

#[tokio::test]
async fn a_stale_writer_is_refused_and_goes_on_from_what_is_there() {
    let bed = Bed::new();
    let (_system, motto) = start(&bed, mottos()).await;
    assert_eq!(motto.ask(Change("ours")).await, pair("", "ours"));
    write_foreign(&bed, 1, "theirs").await;
    let refused = motto.ask(Change("lost")).await;
    assert!(
        refused
            .as_ref()
            .is_err_and(|error| error.to_string().contains("revision 2 is there")),
        "{refused:?}"
    );
    assert_eq!(persist_failure(refused), PersistFailure::Conflict);
    assert_eq!(motto.ask(Change("next")).await, pair("theirs", "next"));
    assert_eq!(motto.ask(Look).await, look("next", 3, true));
}

/// The first attempt was stored, and only the store knows.
#[tokio::test]
async fn a_change_whose_answer_was_lost_is_not_made_twice() {
    let bed = Bed::new();
    let (_system, motto) = start(&bed, mottos()).await;
    motto.ask(Look).await.expect("recovered");
    for (fault, text) in [
        (WriteFault::LostAnswer, "stored"),
        (WriteFault::LostRequest, "not stored"),
        (WriteFault::Unavailable, "unavailable"),
    ] {
        bed.faults.state_writes.next(fault);
        let (_, after) = motto.ask(Change(text)).await.expect("stored in the end");
        assert_eq!(after, text);
    }
    assert_eq!(motto.ask(Look).await, look("unavailable", 3, true));
    assert_eq!(row(&bed).await.map(|row| row.revision.value()), Some(3));
}

#[tokio::test]
async fn a_change_that_was_replaced_before_it_was_known_is_unknown() {
    let bed = Bed::new();
    let (_system, motto) = start(&bed, mottos()).await;
    motto.ask(Look).await.expect("recovered");
    let gate = Gate::new();
    bed.faults.state_writes.next(WriteFault::LostAnswer);
    bed.faults.state_writes.next(WriteFault::Held(gate.clone()));
    let change = motto.ask(Change("stored")).into_future();
    let change = tokio::spawn(change);
    until("it is sent again", || gate.arrived() == 1).await;
    write_foreign(&bed, 1, "theirs").await;
    gate.open();
    let answer = change.await.expect("no panic");
    assert!(
        matches!(answer, Err(AskError::Unknown { .. })),
        "{answer:?}"
    );
    assert_eq!(motto.ask(Change("next")).await, pair("theirs", "next"));
}

#[tokio::test]
async fn a_refused_change_takes_the_later_ones_with_it() {
    let bed = Bed::new();
    let (_system, motto) = start(&bed, mottos()).await;
    assert_eq!(motto.ask(Change("one")).await, pair("", "one"));
    bed.faults.state_writes.next(WriteFault::Rejected);
    let refused = motto.ask(Change("two")).await;
    assert_eq!(persist_failure(refused), PersistFailure::Rejected);
    assert_eq!(motto.ask(Look).await, look("one", 1, true));
    assert_eq!(motto.ask(Change("three")).await, pair("one", "three"));
}

#[tokio::test]
async fn a_state_that_cannot_be_decoded_concerns_its_entity_only() {
    let bed = Bed::new();
    let payload = SerializedPayload::new(77, "Strange", &b"x"[..]);
    let change = StateChange::Put {
        payload,
        tags: Vec::new(),
    };
    let write = StateWrite::new(id(), SequenceNr::ZERO, SequenceNr::FIRST, change);
    let states = bed.memory.durable_state_store();
    let answers = states.write_states(&[write.expect("valid")]).await;
    assert!(answers.iter().all(Result::is_ok));
    let entity = mottos().restart_backoff(
        std::time::Duration::from_secs(3600),
        std::time::Duration::from_secs(3600),
    );
    let (system, motto) = start(&bed, entity).await;
    let failed = motto.ask(Look).await.expect_err("it cannot be decoded");
    let text = failed.to_string();
    for part in ["Motto|a", "1", "serializer id 77"] {
        assert!(text.contains(part), "{text}");
    }
    let other: MottoRef = system.entity("b");
    assert_eq!(other.ask(Change("fine")).await, pair("", "fine"));
}

#[tokio::test]
async fn tags_follow_the_state_and_signals_come() {
    let bed = Bed::new();
    let told = Arc::new(Mutex::new(Vec::new()));
    let lines = Arc::clone(&told);
    let entity = mottos()
        .tags(|motto, change| {
            assert_eq!(change.state(), motto.is_there().then_some(&**motto));
            vec![motto.text.clone()]
        })
        .on_signal(move |_, signal, _| {
            lines
                .lock()
                .expect("nothing panics with it")
                .push(format!("{signal:?}"));
        });
    let (_system, motto) = start(&bed, entity).await;
    assert_eq!(motto.ask(Change("one")).await, pair("", "one"));
    assert_eq!(row(&bed).await.expect("there").tags, ["one"]);
    motto.ask(DeleteEvents).await.expect("told");
    let lines = || told.lock().expect("nothing panics with it").clone();
    until("the failure is told", || lines().len() == 2).await;
    assert!(lines()[0].starts_with("RecoveryCompleted"), "{:?}", lines());
    assert!(lines()[1].contains("Cx::delete"), "{:?}", lines());
}

#[tokio::test]
async fn snapshots_of_a_state_are_refused_at_the_start() {
    let bed = Bed::new();
    let settings = [("entity.Motto.snapshot-every", "10")];
    let refused = bed.builder(&settings).entity(mottos()).start().await;
    let text = refused.expect_err("no snapshots").to_string();
    assert!(text.contains("entity.Motto.snapshot-every"), "{text}");
}

#[tokio::test]
async fn a_store_that_is_away_is_asked_again() {
    let bed = Bed::new();
    write_foreign(&bed, 0, "there").await;
    let (_system, motto) = start(&bed, mottos()).await;
    bed.faults.state_loads.next(ReadFault::Unavailable);
    assert_eq!(motto.ask(Look).await, look("there", 1, true));
    assert_eq!(bed.faults.state_loads.count(), 2);
}
