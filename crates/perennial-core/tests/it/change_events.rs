//! Events that tell of the changes of durable states.

use std::sync::Arc;
use std::time::Duration;

use perennial_core::config::ConfigSource;
use perennial_core::{
    ActorSystem, AskError, Changed, Cx, Durable, DurableState, Effect, Entity, EntityRef, Handle,
    PersistFailure, StartError, StateChange,
};
use perennial_persistence::{
    AtomicWrite, Codec, DurableStateDelete, MessagePack, NewEvent, PersistenceId, SequenceNr,
    SerializedPayload, Store, StoredState, WriterId,
};
use perennial_testkit::{Gate, JournalRow, WriteFault};
use serde::{Deserialize, Serialize, Serializer};

use crate::fixture::{Bed, Pending, in_time, persist_failure};

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Profile {
    name: String,
}

impl DurableState for Profile {
    const TYPE: &'static str = "Profile";
    type Services = ();
}

/// What is told of a profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Told {
    Renamed {
        from: Option<String>,
        to: String,
        by: Option<String>,
    },
    Forgotten {
        from: Option<String>,
        by: Option<String>,
    },
    /// Many bytes.
    Padded(String),
    #[serde(serialize_with = "refuse", skip_deserializing)]
    Unencodable,
}

fn refuse<S: Serializer>(_: S) -> Result<S::Ok, S::Error> {
    Err(serde::ser::Error::custom("this one has no representation"))
}

fn tell(changed: &Changed<'_, Profile>) -> Told {
    let name = |profile: &Profile| profile.name.clone();
    let from = changed.before().map(name);
    let renamed = changed.cause::<Rename>().map(|rename| rename.by.to_owned());
    match changed.after().map(name) {
        Some(to) if to == "panic" => panic!("on purpose"),
        Some(to) if to == "unencodable" => Told::Unencodable,
        Some(to) if to.starts_with("padded") => Told::Padded(to),
        Some(to) => Told::Renamed {
            from,
            to,
            by: renamed,
        },
        None => {
            let by = changed.cause::<Forget>().map(|forget| forget.0.to_owned());
            Told::Forgotten { from, by }
        }
    }
}

#[derive(Debug, Clone)]
struct Rename {
    to: String,
    by: &'static str,
}

impl Handle<Rename> for Durable<Profile> {
    type Reply = u64;

    fn handle(&self, command: Rename, cx: &Cx<'_, Self>) -> Effect<Self, u64> {
        let changes = cx.sequence_nr().value() + 1;
        let name = command.to.clone();
        cx.put_because(Profile { name }, command)
            .reply(move |_| changes)
    }
}

#[derive(Debug, Clone)]
struct Forget(&'static str);

impl Handle<Forget> for Durable<Profile> {
    type Reply = bool;

    fn handle(&self, command: Forget, cx: &Cx<'_, Self>) -> Effect<Self, bool> {
        let was_there = self.is_there();
        cx.delete_because(command).reply(move |_| was_there)
    }
}

/// Several changes at once; no name is a deletion.
struct Swap(Vec<Option<&'static str>>);

impl Handle<Swap> for Durable<Profile> {
    type Reply = String;

    fn handle(&self, command: Swap, cx: &Cx<'_, Self>) -> Effect<Self, String> {
        let change = |name: Option<&str>| match name {
            Some(name) => StateChange::put(Profile {
                name: name.to_owned(),
            }),
            None => StateChange::delete(),
        };
        cx.persist(command.0.into_iter().map(change))
            .reply(|profile| profile.name.clone())
    }
}

struct WithMetadata;

impl Handle<WithMetadata> for Durable<Profile> {
    type Reply = ();

    fn handle(&self, _: WithMetadata, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        let metadata = SerializedPayload::new(77, "Meta", &b"x"[..]);
        cx.persist_with_metadata([(StateChange::put(Profile::default()), Some(metadata))])
            .reply(|_| ())
    }
}

struct Look;

impl Handle<Look> for Durable<Profile> {
    type Reply = (String, u64);

    fn handle(&self, _: Look, cx: &Cx<'_, Self>) -> Effect<Self, (String, u64)> {
        cx.reply((self.name.clone(), cx.sequence_nr().value()))
    }
}

type ProfileRef = EntityRef<Durable<Profile>>;

fn silent() -> Entity<Durable<Profile>> {
    Entity::<Durable<Profile>>::durable(())
        .restart_backoff(Duration::from_millis(1), Duration::from_millis(5))
}

fn telling() -> Entity<Durable<Profile>> {
    silent().change_events(tell)
}

async fn start(bed: &Bed, entity: Entity<Durable<Profile>>) -> (ActorSystem, ProfileRef) {
    start_with(bed, entity, &[]).await
}

async fn start_with(
    bed: &Bed,
    entity: Entity<Durable<Profile>>,
    settings: &[(&str, &str)],
) -> (ActorSystem, ProfileRef) {
    let builder = bed.builder(settings).entity(entity);
    let system = builder.start().await.expect("it starts");
    let profile = system.entity("a");
    (system, profile)
}

fn id() -> PersistenceId {
    PersistenceId::new("Profile", "a").expect("a valid id")
}

fn rename(to: &str) -> Rename {
    let to = to.to_owned();
    Rename { to, by: "ann" }
}

fn renamed(from: Option<&str>, to: &str) -> Told {
    Told::Renamed {
        from: from.map(str::to_owned),
        to: to.to_owned(),
        by: Some("ann".to_owned()),
    }
}

fn rows(bed: &Bed) -> Vec<JournalRow> {
    bed.memory.rows(&id())
}

fn codec() -> MessagePack<Told> {
    MessagePack::new("Profile.Event")
}

/// The change events that are stored, with their numbers.
fn told(bed: &Bed) -> Vec<(u64, Told)> {
    let decode = |row: JournalRow| {
        let (_, event) = row.event.expect("no marker");
        let told = codec().decode(&event.payload).expect("written here");
        (row.seq_nr.value(), told)
    };
    rows(bed).into_iter().map(decode).collect()
}

async fn state(bed: &Bed) -> Option<StoredState> {
    let states = bed.memory.durable_state_store();
    states.load(&id()).await.expect("memory is open")
}

#[tokio::test]
async fn every_change_is_told_with_its_cause() {
    let bed = Bed::new();
    let tagged = || telling().tags(|profile, _| vec![format!("is {}", profile.name)]);
    let (system, profile) = start(&bed, tagged()).await;
    assert_eq!(profile.ask(rename("one")).await, Ok(1));
    assert_eq!(profile.ask(rename("two")).await, Ok(2));
    assert_eq!(profile.ask(Forget("bob")).await, Ok(true));
    assert_eq!(system.shutdown().await, Ok(()));
    let (_system, profile) = start(&bed, tagged()).await;
    assert_eq!(profile.ask(Look).await, Ok((String::new(), 3)));
    assert_eq!(profile.ask(rename("three")).await, Ok(4));
    let forgotten = Told::Forgotten {
        from: Some("two".to_owned()),
        by: Some("bob".to_owned()),
    };
    let expected = [
        (1, renamed(None, "one")),
        (2, renamed(Some("one"), "two")),
        (3, forgotten),
        (4, renamed(None, "three")),
    ];
    assert_eq!(told(&bed), expected);

    let rows = rows(&bed);
    let events: Vec<_> = rows.iter().filter_map(|row| row.event.as_ref()).collect();
    let tags: Vec<&str> = events.iter().map(|(_, event)| &*event.tags[0]).collect();
    assert_eq!(tags, ["is one", "is two", "is ", "is three"]);
    assert_eq!(&*events[0].1.payload.manifest, "Profile.Event");
    assert!(events.iter().all(|(_, event)| event.metadata.is_none()));
    let writers: Vec<WriterId> = events.iter().map(|(writer, _)| *writer).collect();
    assert!(writers[0] == writers[1] && writers[2] != writers[3]);
    assert!(rows.is_sorted_by(|row, next| row.timestamp < next.timestamp));
    let row = state(&bed).await.expect("a state");
    assert_eq!(row.tags, ["is three"]);
    assert_eq!(Some(row.timestamp), rows.last().map(|row| row.timestamp));
}

#[tokio::test]
async fn many_changes_at_once_are_all_told() {
    let bed = Bed::new();
    let (_system, profile) = start(&bed, telling()).await;
    profile.ask(Look).await.expect("recovered");
    let asks: Vec<_> = (1..=500)
        .map(|number: u64| Pending::of(profile.ask(rename(&number.to_string()))))
        .collect();
    for (number, ask) in (1..).zip(asks) {
        assert_eq!(ask.answer().await, Ok(number));
    }
    let before = |number: u64| (number > 1).then(|| (number - 1).to_string());
    let expected: Vec<(u64, Told)> = (1..=500)
        .map(|number| {
            let to = number.to_string();
            (number, renamed(before(number).as_deref(), &to))
        })
        .collect();
    assert_eq!(told(&bed), expected);
    let rows = rows(&bed);
    assert!(rows.is_sorted_by(|row, next| row.timestamp < next.timestamp));
}

#[tokio::test]
async fn several_changes_of_one_command_are_told_each() {
    let bed = Bed::new();
    let (_system, profile) = start(&bed, telling()).await;
    assert_eq!(profile.ask(rename("one")).await, Ok(1));
    let swap = Swap(vec![Some("two"), None, Some("four")]);
    assert_eq!(profile.ask(swap).await, Ok("four".to_owned()));
    let without_cause = |from: Option<&str>, to: &str| Told::Renamed {
        from: from.map(str::to_owned),
        to: to.to_owned(),
        by: None,
    };
    let forgotten = Told::Forgotten {
        from: Some("two".to_owned()),
        by: None,
    };
    let expected = [
        (1, renamed(None, "one")),
        (2, without_cause(Some("one"), "two")),
        (3, forgotten),
        (4, without_cause(None, "four")),
    ];
    assert_eq!(told(&bed), expected);
    let times: Vec<_> = rows(&bed).iter().map(|row| row.timestamp).collect();
    assert_eq!((times[1], times[2]), (times[2], times[3]), "one write");
    assert_eq!(state(&bed).await.map(|row| row.revision.value()), Some(4));
}

#[tokio::test]
async fn a_change_event_that_cannot_be_made_refuses_its_command_only() {
    let bed = Bed::new();
    let settings = [("persistence.max-event-bytes", "1KiB")];
    let (_system, profile) = start_with(&bed, telling(), &settings).await;
    assert_eq!(profile.ask(rename("one")).await, Ok(1));
    let codec = codec();
    let size = |text: &str| {
        let payload = codec.encode(&Told::Padded(text.to_owned()));
        payload.expect("encodable").bytes.len()
    };
    let padded = |bytes: usize| format!("padded{}", "x".repeat(bytes));
    let longest = padded(300 + 1024 - size(&padded(300)));
    assert_eq!(size(&longest), 1024);
    let too_long = format!("{longest}x");
    for (name, part) in [
        ("panic", "on purpose"),
        ("unencodable", "no representation"),
        (
            &*too_long,
            "a change event of 1025 bytes is larger than 1024",
        ),
    ] {
        let refused = profile.ask(rename(name)).await;
        let text = refused.as_ref().expect_err("refused").to_string();
        assert!(text.contains(part), "{text}");
        assert_eq!(persist_failure(refused), PersistFailure::Rejected);
        assert_eq!(profile.ask(Look).await, Ok(("one".to_owned(), 1)));
    }
    assert_eq!(profile.ask(rename(&longest)).await, Ok(2));
    let expected = [(1, renamed(None, "one")), (2, Told::Padded(longest))];
    assert_eq!(told(&bed), expected);
}

#[tokio::test]
async fn a_change_that_is_not_stored_is_not_told() {
    let bed = Bed::new();
    let (_system, profile) = start(&bed, telling()).await;
    assert_eq!(profile.ask(rename("one")).await, Ok(1));
    bed.faults.state_writes.next(WriteFault::Rejected);
    let refused = profile.ask(rename("two")).await;
    assert_eq!(persist_failure(refused), PersistFailure::Rejected);
    // Another system is faster.
    let (_other, other) = start(&bed, telling()).await;
    assert_eq!(other.ask(rename("theirs")).await, Ok(2));
    let stale = profile.ask(rename("three")).await;
    assert_eq!(persist_failure(stale), PersistFailure::Conflict);
    assert_eq!(profile.ask(rename("four")).await, Ok(3));
    let expected = [
        (1, renamed(None, "one")),
        (2, renamed(Some("one"), "theirs")),
        (3, renamed(Some("theirs"), "four")),
    ];
    assert_eq!(told(&bed), expected);
}

#[tokio::test]
async fn a_change_whose_answer_was_lost_is_told_once() {
    let bed = Bed::new();
    let (_system, profile) = start(&bed, telling()).await;
    profile.ask(Look).await.expect("recovered");
    for (fault, number) in [
        (WriteFault::LostAnswer, 1),
        (WriteFault::LostRequest, 2),
        (WriteFault::Unavailable, 3),
    ] {
        bed.faults.state_writes.next(fault);
        assert_eq!(profile.ask(rename("same")).await, Ok(number));
    }
    bed.faults.state_writes.next(WriteFault::LostAnswer);
    assert_eq!(profile.ask(Forget("bob")).await, Ok(true));
    let numbers: Vec<u64> = told(&bed).into_iter().map(|(number, _)| number).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
}

/// The request was lost, and another system made the same of the same state, for another reason.
/// What stands in the row looks as if it had been stored.
#[tokio::test]
async fn an_identical_change_of_another_system_is_not_taken_for_ones_own() {
    let bed = Bed::new();
    let (_system, profile) = start(&bed, telling()).await;
    profile.ask(Look).await.expect("recovered");
    let gate = Gate::new();
    bed.faults.state_writes.next(WriteFault::LostRequest);
    bed.faults.state_writes.next(WriteFault::Held(gate.clone()));
    let ours = Pending::of(profile.ask(rename("same")));
    in_time("the second attempt", gate.wait_for_arrivals(1)).await;
    let other = Bed {
        memory: bed.memory.clone(),
        ..Bed::new()
    };
    let (_other, other) = start(&other, telling()).await;
    let theirs = Rename {
        to: "same".to_owned(),
        by: "bob",
    };
    assert_eq!(other.ask(theirs).await, Ok(1));
    gate.open();
    let refused = ours.answer().await;
    assert_eq!(persist_failure(refused), PersistFailure::Conflict);
    let theirs = Told::Renamed {
        from: None,
        to: "same".to_owned(),
        by: Some("bob".to_owned()),
    };
    assert_eq!(told(&bed), [(1, theirs)]);
    assert_eq!(profile.ask(rename("next")).await, Ok(2));
}

#[tokio::test]
async fn a_crash_between_commit_and_answer_leaves_state_and_event() {
    let bed = Bed::new();
    let (_system, profile) = start(&bed, telling()).await;
    let gate = Gate::new();
    let held = WriteFault::AnswerHeld(gate.clone());
    bed.faults.state_writes.next(held);
    let lost = Pending::of(profile.ask(rename("one")));
    in_time("the write", gate.wait_for_arrivals(1)).await;
    assert!(lost.is_open());
    // The first system never hears of its write.
    let (_next, profile) = start(&bed, telling()).await;
    assert_eq!(profile.ask(Look).await, Ok(("one".to_owned(), 1)));
    assert_eq!(profile.ask(rename("two")).await, Ok(2));
    let expected = [(1, renamed(None, "one")), (2, renamed(Some("one"), "two"))];
    assert_eq!(told(&bed), expected);
}

#[tokio::test]
async fn a_number_that_is_taken_refuses_the_change() {
    let bed = Bed::new();
    let (_system, profile) = start(&bed, telling()).await;
    assert_eq!(profile.ask(rename("one")).await, Ok(1));
    let payload = SerializedPayload::new(77, "Strange", &b"x"[..]);
    let second = SequenceNr::FIRST.next();
    let writer = WriterId::from_random_bits(7);
    let foreign = AtomicWrite::new(id(), writer, second, vec![NewEvent::new(payload)]);
    let journal = bed.memory.journal();
    let answers = journal.write_events(&[foreign.expect("valid")]).await;
    assert!(answers[0].is_ok());
    let refused = profile.ask(rename("two")).await;
    let text = refused.as_ref().expect_err("refused").to_string();
    assert!(text.contains("sequence number 2 of Profile|a"), "{text}");
    assert_eq!(persist_failure(refused), PersistFailure::Conflict);
    assert_eq!(profile.ask(Look).await, Ok(("one".to_owned(), 1)));
}

#[tokio::test]
async fn a_handler_that_comes_later_begins_with_the_next_revision() {
    let bed = Bed::new();
    let (system, profile) = start(&bed, silent()).await;
    assert_eq!(profile.ask(rename("one")).await, Ok(1));
    assert_eq!(profile.ask(rename("two")).await, Ok(2));
    assert_eq!(system.shutdown().await, Ok(()));
    assert_eq!(rows(&bed), []);
    let (_system, profile) = start(&bed, telling()).await;
    assert_eq!(profile.ask(rename("three")).await, Ok(3));
    assert_eq!(told(&bed), [(3, renamed(Some("two"), "three"))]);
}

#[tokio::test]
async fn change_events_need_markers_of_deleted_states() {
    let bed = Bed::new();
    let store = bed
        .memory
        .with_durable_state_delete(DurableStateDelete::Row);
    let builder = |entity| {
        let store = Arc::new(store.open_again());
        ActorSystem::with_store(ConfigSource::empty(), store).entity(entity)
    };
    let refused = builder(telling()).start().await.expect_err("no markers");
    assert!(matches!(
        refused,
        StartError::ChangeEventsNeedMarkers { .. }
    ));
    let text = refused.to_string();
    for part in [
        "\"Profile\"",
        "durable-state-delete",
        "[persistence.memory]",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let system = builder(silent()).start().await.expect("it starts");
    let profile: ProfileRef = system.entity("a");
    assert_eq!(profile.ask(rename("one")).await, Ok(1));
}

#[tokio::test]
async fn metadata_beside_a_state_is_refused() {
    let bed = Bed::new();
    for entity in [silent(), telling()] {
        let (system, profile) = start(&bed, entity).await;
        let refused = profile.ask(WithMetadata).await;
        let text = refused.as_ref().expect_err("refused").to_string();
        assert!(text.contains("no place for metadata"), "{text}");
        assert!(matches!(refused, Err(AskError::PersistFailed(_))));
        assert_eq!(profile.ask(Look).await, Ok((String::new(), 0)));
        assert_eq!(system.shutdown().await, Ok(()));
    }
    assert_eq!(rows(&bed), []);
}
