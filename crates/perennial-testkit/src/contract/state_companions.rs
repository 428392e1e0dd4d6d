//! What every store must do with what is stored with a durable state in other tables: events that
//! tell of its changes, and the replies to commands that carry an id.
//!
//! Each function is one behaviour;
//! [`state_companions_contract!`](crate::state_companions_contract) turns all of them into tests.
//! They panic where the store does something else. They expect that deleting a state leaves a
//! marker; a store that removes rows takes no companions, as
//! [`durable_state_store`](super::durable_state_store) checks.

use std::collections::BTreeSet;
use std::sync::Arc;

use perennial_persistence::{
    CommandId, DurableStateStore, Error, Fingerprint, Journal, NewEvent, NewReply, PersistenceId,
    SerializedPayload, StateChange, StateWrite, StoredEvent, StoredState, Timestamp, WriterId,
    Written,
};

use super::{
    REFUSED_SERIALIZER, SERIALIZER, StoreFixture, UNLIMITED, check_conflict, check_rejected, event,
    events, highest, id, numbers, page, payload, refused_event, scatter, seq, texts, write, writer,
};

/// Makes a module `state_companions_contract` with a test for every behaviour of a
/// [`DurableStateStore`](perennial_persistence::DurableStateStore) that stores change events and
/// replies with its states.
///
/// The argument is an expression for a future of a
/// [`StoreFixture`](crate::contract::StoreFixture) whose deletions leave markers; it is evaluated
/// for every test.
#[macro_export]
macro_rules! state_companions_contract {
    ($fixture:expr) => {
        $crate::__contract_tests!(
            state_companions_contract,
            state_companions,
            $fixture,
            [
                a_change_event_is_stored_with_its_state,
                tags_and_metadata_of_change_events_are_stored,
                change_events_of_folded_states_are_all_stored,
                the_change_events_of_one_write_share_a_time,
                times_of_change_events_grow_and_end_with_that_of_the_row,
                states_with_and_without_companions_share_a_batch,
                a_stale_state_leaves_no_companions,
                a_refused_change_event_leaves_no_state,
                a_taken_number_leaves_no_state,
                a_deleted_number_leaves_no_state,
                bad_companions_among_a_thousand_fail_alone,
                a_change_event_that_may_be_stored_is_recognised,
                a_batch_with_companions_that_may_be_stored_is_recognised,
                an_identical_state_with_another_change_event_is_another_writers,
                an_identical_state_without_a_change_event_is_nobodys,
                a_state_whose_change_event_was_deleted_is_nobodys,
                a_reply_is_stored_with_its_state,
                replies_of_folded_states_are_all_stored,
                a_taken_command_leaves_no_state,
                a_command_twice_in_one_batch_is_taken,
                an_expired_reply_makes_room,
                a_refused_reply_leaves_no_state,
                a_reply_that_may_be_stored_is_recognised,
                an_identical_state_without_a_reply_is_nobodys,
                an_identical_state_with_another_reply_is_another_writers,
                two_stores_racing_with_companions_have_one_winner,
                however_companions_are_batched_they_leave_the_same_rows,
                another_store_sees_the_companions,
            ]
        );
    };
}

fn states(fixture: &dyn StoreFixture) -> Arc<dyn DurableStateStore> {
    fixture.store().durable_state_store()
}

fn journal(fixture: &dyn StoreFixture) -> Arc<dyn Journal> {
    fixture.store().journal()
}

fn put(id: &PersistenceId, expected: u64, text: &str) -> StateWrite {
    let change = StateChange::Put {
        payload: payload(text),
        tags: Vec::new(),
    };
    change_of(id, expected, expected + 1, change)
}

fn delete(id: &PersistenceId, expected: u64) -> StateWrite {
    change_of(id, expected, expected + 1, StateChange::Delete)
}

fn change_of(id: &PersistenceId, expected: u64, revision: u64, change: StateChange) -> StateWrite {
    StateWrite::new(id.clone(), seq(expected), seq(revision), change).expect("a valid write")
}

/// The write with change events.
fn telling(mut write: StateWrite, writer: WriterId, texts: &[&str]) -> StateWrite {
    let events = texts.iter().map(|text| event(text)).collect();
    let set = write.set_change_events(writer, events);
    set.expect("valid events");
    write
}

/// A put whose event says the same as the state.
fn told(id: &PersistenceId, writer: WriterId, expected: u64, text: &str) -> StateWrite {
    telling(put(id, expected, text), writer, &[text])
}

fn command(name: &str) -> CommandId {
    CommandId::new(name).expect("a valid command id")
}

fn new_reply(name: &str, answer: SerializedPayload, replaces_to: u64) -> NewReply {
    let fingerprint = Fingerprint::new([7; Fingerprint::BYTES]);
    let reply = NewReply::new(command(name), fingerprint, Some(answer), seq(replaces_to));
    reply.expect("a valid reply")
}

/// The write with a reply that says the command's name.
fn answering(mut write: StateWrite, name: &str) -> StateWrite {
    write.set_reply(new_reply(name, payload(name), 0));
    write
}

/// The same write once more, after nobody has learnt what became of it.
fn again(write: &StateWrite) -> StateWrite {
    let mut write = write.clone();
    write.maybe_stored = true;
    write
}

async fn write_batch(
    store: &dyn DurableStateStore,
    batch: &[StateWrite],
) -> Vec<Result<Written, Error>> {
    let answers = store.write_states(batch).await;
    assert_eq!(answers.len(), batch.len(), "one answer per write");
    answers
}

async fn write_one(store: &dyn DurableStateStore, write: &StateWrite) -> Result<Written, Error> {
    let batch = std::slice::from_ref(write);
    write_batch(store, batch).await.remove(0)
}

/// Writes what must succeed.
async fn store_one(store: &dyn DurableStateStore, write: &StateWrite) -> Written {
    let written = write_one(store, write).await;
    written.expect("nothing stands in the way of the write")
}

/// Writes a batch that must succeed.
async fn store_all(store: &dyn DurableStateStore, batch: &[StateWrite]) -> Vec<Written> {
    let answers = write_batch(store, batch).await.into_iter();
    answers
        .map(|answer| answer.expect("nothing stands in the way of the write"))
        .collect()
}

async fn load(store: &dyn DurableStateStore, id: &PersistenceId) -> Option<StoredState> {
    store.load(id).await.expect("a readable row")
}

/// The revision and the payload as text; revision 0 without a row.
async fn check_state(
    store: &dyn DurableStateStore,
    id: &PersistenceId,
    revision: u64,
    text: Option<&str>,
) {
    let found = load(store, id).await.map_or((0, None), |row| {
        let text =
            |payload: SerializedPayload| String::from_utf8_lossy(&payload.bytes).into_owned();
        (row.revision.value(), row.payload.map(text))
    });
    assert_eq!(found, (revision, text.map(str::to_owned)), "{id}");
}

/// The events of an id as numbers with texts.
async fn told_of(fixture: &dyn StoreFixture, id: &PersistenceId) -> Vec<(u64, String)> {
    let found = events(&*journal(fixture), id).await;
    numbers(&found).into_iter().zip(texts(&found)).collect()
}

async fn check_told(fixture: &dyn StoreFixture, id: &PersistenceId, expected: &[(u64, &str)]) {
    let expected: Vec<(u64, String)> = expected
        .iter()
        .map(|&(number, text)| (number, text.to_owned()))
        .collect();
    assert_eq!(told_of(fixture, id).await, expected, "{id}");
}

/// The replies of an id as numbers with names and texts, the first one first.
async fn replied(fixture: &dyn StoreFixture, id: &PersistenceId) -> Vec<(u64, String, String)> {
    let replies = fixture.store().command_replies();
    let mut found = replies.load(id, 1000).await.expect("readable replies");
    found.reverse();
    found
        .into_iter()
        .map(|reply| {
            let payload = reply.payload.expect("these replies have one");
            let text = String::from_utf8_lossy(&payload.bytes).into_owned();
            (reply.seq_nr.value(), reply.command_id.to_string(), text)
        })
        .collect()
}

async fn check_replied(fixture: &dyn StoreFixture, id: &PersistenceId, expected: &[(u64, &str)]) {
    let expected: Vec<(u64, String, String)> = expected
        .iter()
        .map(|&(number, name)| (number, name.to_owned(), name.to_owned()))
        .collect();
    assert_eq!(replied(fixture, id).await, expected, "{id}");
}

fn check_stale(answer: &Result<Written, Error>, of: &PersistenceId, there: u64) {
    match answer {
        Err(Error::StaleRevision {
            persistence_id,
            found,
            ..
        }) => {
            assert_eq!(persistence_id, of);
            assert_eq!(found.value(), there, "the revision that is there");
        }
        other => panic!("expected that {of} has revision {there}, got {other:?}"),
    }
}

fn check_superseded(answer: &Result<Written, Error>, of: &PersistenceId, number: u64) {
    match answer {
        Err(Error::Superseded {
            persistence_id,
            seq_nr,
            ..
        }) => {
            assert_eq!(persistence_id, of);
            assert_eq!(seq_nr.value(), number);
        }
        other => panic!("expected that nobody can say whose {of} is, got {other:?}"),
    }
}

fn check_taken(answer: &Result<Written, Error>, of: &PersistenceId, name: &str) {
    match answer {
        Err(Error::CommandTaken {
            persistence_id,
            command_id,
        }) => {
            assert_eq!(persistence_id, of);
            assert_eq!(command_id.as_str(), name);
        }
        other => panic!("expected that command {name} of {of} is taken, got {other:?}"),
    }
}

/// Has an event of another writer stored.
async fn write_foreign(fixture: &dyn StoreFixture, id: &PersistenceId, number: u64, text: &str) {
    let foreign = write(id, writer(99), number, &[text]);
    super::store_one(&*journal(fixture), &foreign).await;
}

// ---- change events ----

/// A change event stands in the journal under the state's revision, with the row's time: of a first
/// state, of a later one, and of a deletion.
pub async fn a_change_event_is_stored_with_its_state(fixture: &dyn StoreFixture) {
    let store = states(fixture);
    let a = id("a");
    let mut times = Vec::new();
    let deletion = telling(delete(&a, 2), writer(1), &["gone"]);
    for write in [
        told(&a, writer(1), 0, "one"),
        told(&a, writer(1), 1, "two"),
        deletion,
    ] {
        let written = store_one(&*store, &write).await;
        let row = load(&*store, &a).await.expect("a row");
        assert_eq!(row.timestamp, written.timestamp);
        times.push(written.timestamp);
    }
    check_state(&*store, &a, 3, None).await;
    check_told(fixture, &a, &[(1, "one"), (2, "two"), (3, "gone")]).await;
    let stored = events(&*journal(fixture), &a).await;
    let of_events: Vec<Timestamp> = stored.iter().map(|event| event.timestamp).collect();
    assert_eq!(of_events, times);
    assert_eq!(stored[0].payload, payload("one"));
    assert_eq!(highest(&*journal(fixture), &a).await, 3);
    check_replied(fixture, &a, &[]).await;
}

/// Tags and metadata of change events are stored as those of events; NULL without tags.
pub async fn tags_and_metadata_of_change_events_are_stored(fixture: &dyn StoreFixture) {
    let store = states(fixture);
    let (a, b) = (id("a"), id("b"));
    let with = NewEvent {
        tags: vec!["red".to_owned(), "\"{b},'".to_owned()],
        metadata: Some(SerializedPayload::new(SERIALIZER, "Meta", &b"who"[..])),
        ..event("1")
    };
    let mut batch = [put(&a, 0, "a"), put(&b, 0, "b"), put(&a, 1, "a2")];
    for (write, event) in batch
        .iter_mut()
        .zip([with.clone(), event("b"), event("a2")])
    {
        write
            .set_change_events(writer(1), vec![event])
            .expect("valid events");
    }
    store_all(&*store, &batch).await;
    let tags = fixture.tags(&a, seq(1)).await.expect("tags");
    let tags: BTreeSet<String> = tags.into_iter().collect();
    assert_eq!(tags, with.tags.iter().cloned().collect());
    assert_eq!(fixture.tags(&a, seq(2)).await, None);
    assert_eq!(fixture.tags(&b, seq(1)).await, None);
    let stored = events(&*journal(fixture), &a).await;
    assert_eq!(stored[0].metadata, with.metadata);
    assert_eq!(stored[1].metadata, None);
}

/// Of several states of one entity in a batch only the last one reaches the table, but the events
/// of all do.
pub async fn change_events_of_folded_states_are_all_stored(fixture: &dyn StoreFixture) {
    let store = states(fixture);
    let (a, b) = (id("a"), id("b"));
    let batch = [
        told(&a, writer(1), 0, "a1"),
        told(&b, writer(2), 0, "b1"),
        told(&a, writer(1), 1, "a2"),
        telling(delete(&b, 1), writer(2), &["b2"]),
        telling(delete(&a, 2), writer(1), &["a3"]),
        told(&a, writer(1), 3, "a4"),
    ];
    store_all(&*store, &batch).await;
    check_state(&*store, &a, 4, Some("a4")).await;
    check_state(&*store, &b, 2, None).await;
    check_told(fixture, &a, &[(1, "a1"), (2, "a2"), (3, "a3"), (4, "a4")]).await;
    check_told(fixture, &b, &[(1, "b1"), (2, "b2")]).await;
}

/// A write may make several revisions, each with an event; these have one time, as the events of any
/// write. The last numbers are theirs if there are fewer.
pub async fn the_change_events_of_one_write_share_a_time(fixture: &dyn StoreFixture) {
    let store = states(fixture);
    let a = id("a");
    let change = |text: &str| StateChange::Put {
        payload: payload(text),
        tags: Vec::new(),
    };
    let first = telling(
        change_of(&a, 0, 3, change("3")),
        writer(1),
        &["1", "2", "3"],
    );
    let second = telling(change_of(&a, 3, 5, change("5")), writer(1), &["5"]);
    store_all(&*store, &[first, second]).await;
    check_state(&*store, &a, 5, Some("5")).await;
    check_told(fixture, &a, &[(1, "1"), (2, "2"), (3, "3"), (5, "5")]).await;
    let times: Vec<Timestamp> = events(&*journal(fixture), &a)
        .await
        .iter()
        .map(|event| event.timestamp)
        .collect();
    assert_eq!((times[0], times[1]), (times[1], times[2]));
    assert!(times[2] < times[3]);
}

/// From write to write the times of change events grow, in a batch and from batch to batch, and the
/// last one is that of the row.
pub async fn times_of_change_events_grow_and_end_with_that_of_the_row(fixture: &dyn StoreFixture) {
    let store = states(fixture);
    let a = id("a");
    let mut expected = 0;
    for size in [1, 3, 1, 20, 2] {
        let batch: Vec<StateWrite> = (expected..expected + size)
            .map(|expected| told(&a, writer(1), expected, "state"))
            .collect();
        let written = store_all(&*store, &batch).await;
        expected += size;
        let row = load(&*store, &a).await.expect("a row");
        assert!(
            written
                .iter()
                .all(|written| written.timestamp == row.timestamp)
        );
        let stored = events(&*journal(fixture), &a).await;
        assert_eq!(stored.len() as u64, expected);
        assert!(stored.is_sorted_by(|one, next| one.timestamp < next.timestamp));
        assert_eq!(
            stored.last().map(|last| last.timestamp),
            Some(row.timestamp)
        );
    }
}

/// Writes with events, with replies, with both and with neither stand in one batch.
pub async fn states_with_and_without_companions_share_a_batch(fixture: &dyn StoreFixture) {
    let store = states(fixture);
    let ids = ["a", "b", "c", "d"].map(id);
    let [a, b, c, d] = &ids;
    store_all(&*store, &[put(c, 0, "c1"), put(d, 0, "d1")]).await;
    let batch = [
        answering(told(a, writer(1), 0, "a1"), "pay"),
        answering(put(b, 0, "b1"), "pay"),
        told(c, writer(3), 1, "c2"),
        put(d, 1, "d2"),
        put(a, 1, "a2"),
    ];
    store_all(&*store, &batch).await;
    for (id, revision, text) in [(a, 2, "a2"), (b, 1, "b1"), (c, 2, "c2"), (d, 2, "d2")] {
        check_state(&*store, id, revision, Some(text)).await;
    }
    check_told(fixture, a, &[(1, "a1")]).await;
    check_told(fixture, b, &[]).await;
    check_told(fixture, c, &[(2, "c2")]).await;
    check_told(fixture, d, &[]).await;
    check_replied(fixture, a, &[(1, "pay")]).await;
    check_replied(fixture, b, &[(1, "pay")]).await;
    check_replied(fixture, c, &[]).await;
}

/// A state that is refused as stale leaves neither events nor replies, alone and among others.
pub async fn a_stale_state_leaves_no_companions(fixture: &dyn StoreFixture) {
    let store = states(fixture);
    let (a, b, first) = (id("a"), id("b"), id("first"));
    store_all(
        &*store,
        &[put(&a, 0, "1"), put(&a, 1, "2"), put(&first, 0, "1")],
    )
    .await;
    let stale = answering(told(&a, writer(1), 1, "stale"), "pay");
    check_stale(&write_one(&*store, &stale).await, &a, 2);
    let batch = [
        told(&b, writer(2), 0, "b1"),
        stale.clone(),
        answering(told(&a, writer(1), 2, "later"), "more"),
        told(&first, writer(1), 0, "stale"),
        told(&b, writer(2), 1, "b2"),
    ];
    let answers = write_batch(&*store, &batch).await;
    check_stale(&answers[1], &a, 2);
    check_stale(&answers[2], &a, 2);
    check_stale(&answers[3], &first, 1);
    assert!(answers[0].is_ok() && answers[4].is_ok(), "{answers:?}");
    check_state(&*store, &a, 2, Some("2")).await;
    check_told(fixture, &a, &[]).await;
    check_replied(fixture, &a, &[]).await;
    check_told(fixture, &first, &[]).await;
    check_told(fixture, &b, &[(1, "b1"), (2, "b2")]).await;
}

/// An event that the database refuses leaves nothing of its write; the earlier ones of its entity
/// are stored, the later ones fail with it.
pub async fn a_refused_change_event_leaves_no_state(fixture: &dyn StoreFixture) {
    let store = states(fixture);
    fixture.refuse_serializer(REFUSED_SERIALIZER).await;
    let (a, b) = (id("a"), id("b"));
    let refused = |expected: u64| {
        let mut write = answering(put(&a, expected, "refused"), "pay");
        let set = write.set_change_events(writer(1), vec![refused_event()]);
        set.expect("valid, but for the database");
        write
    };
    check_rejected(&write_one(&*store, &refused(0)).await, &a);
    check_state(&*store, &a, 0, None).await;
    let batch = [
        told(&a, writer(1), 0, "a1"),
        told(&b, writer(2), 0, "b1"),
        refused(1),
        told(&a, writer(1), 2, "a3"),
    ];
    let answers = write_batch(&*store, &batch).await;
    assert!(answers[0].is_ok() && answers[1].is_ok(), "{answers:?}");
    check_rejected(&answers[2], &a);
    check_rejected(&answers[3], &a);
    check_state(&*store, &a, 1, Some("a1")).await;
    check_told(fixture, &a, &[(1, "a1")]).await;
    check_replied(fixture, &a, &[]).await;
    check_state(&*store, &b, 1, Some("b1")).await;
}

/// A number that another writer's event has is a conflict, and the state stays as it was; the
/// earlier writes of its entity are stored, the later ones fail with it.
pub async fn a_taken_number_leaves_no_state(fixture: &dyn StoreFixture) {
    let store = states(fixture);
    let (a, b) = (id("a"), id("b"));
    write_foreign(fixture, &a, 3, "theirs").await;
    write_foreign(fixture, &b, 1, "theirs").await;
    let batch = [
        told(&a, writer(1), 0, "a1"),
        told(&b, writer(2), 0, "b1"),
        told(&a, writer(1), 1, "a2"),
        answering(told(&a, writer(1), 2, "a3"), "pay"),
        told(&a, writer(1), 3, "a4"),
    ];
    let answers = write_batch(&*store, &batch).await;
    assert!(answers[0].is_ok() && answers[2].is_ok(), "{answers:?}");
    check_conflict(&answers[1], &b, 1);
    check_conflict(&answers[3], &a, 3);
    check_conflict(&answers[4], &a, 3);
    check_state(&*store, &a, 2, Some("a2")).await;
    check_state(&*store, &b, 0, None).await;
    check_replied(fixture, &a, &[]).await;
    check_told(fixture, &a, &[(1, "a1"), (2, "a2"), (3, "theirs")]).await;
    check_conflict(
        &write_one(&*store, &told(&a, writer(1), 2, "a3")).await,
        &a,
        3,
    );
    check_state(&*store, &a, 2, Some("a2")).await;
    // Without an event the number is no matter.
    store_one(&*store, &put(&a, 2, "a3")).await;
    store_one(&*store, &told(&a, writer(1), 3, "a4")).await;
    check_state(&*store, &a, 4, Some("a4")).await;
}

/// A number at which a marker of deleted events stands is not to be had.
pub async fn a_deleted_number_leaves_no_state(fixture: &dyn StoreFixture) {
    let store = states(fixture);
    let a = id("a");
    store_one(&*store, &told(&a, writer(1), 0, "a1")).await;
    let deleted = journal(fixture).delete_events(&a, seq(2)).await;
    deleted.expect("a deletion");
    let answer = write_one(&*store, &told(&a, writer(1), 1, "a2")).await;
    check_superseded(&answer, &a, 2);
    check_state(&*store, &a, 1, Some("a1")).await;
    // A marker below is not in the way.
    let b = id("b");
    store_one(&*store, &told(&b, writer(1), 0, "b1")).await;
    let deleted = journal(fixture).delete_events(&b, seq(1)).await;
    deleted.expect("a deletion");
    store_one(&*store, &told(&b, writer(1), 1, "b2")).await;
    check_told(fixture, &b, &[(2, "b2")]).await;
}

/// Bad companions of every kind, scattered among a thousand good states, fail alone.
pub async fn bad_companions_among_a_thousand_fail_alone(fixture: &dyn StoreFixture) {
    const GOOD: usize = 1_000;
    let store = states(fixture);
    fixture.refuse_serializer(REFUSED_SERIALIZER).await;
    let ids = ["conflict", "taken", "refused", "stale"].map(id);
    let [conflict, taken, refused, stale] = &ids;
    write_foreign(fixture, conflict, 2, "theirs").await;
    store_all(&*store, &ids.each_ref().map(|id| put(id, 0, "old"))).await;
    store_one(&*store, &answering(put(taken, 1, "older"), "pay")).await;
    let mut bad_event = put(refused, 1, "bad");
    bad_event
        .set_change_events(writer(1), vec![refused_event()])
        .expect("valid, but for the database");
    let bad = vec![
        told(conflict, writer(1), 1, "bad"),
        answering(told(taken, writer(1), 2, "bad"), "pay"),
        bad_event,
        answering(told(stale, writer(1), 5, "bad"), "pay"),
    ];
    let good = |n: usize| id(&format!("good-{n}"));
    let mut batch: Vec<StateWrite> = (0..GOOD)
        .map(|n| {
            let write = put(&good(n), 0, "good");
            match n % 3 {
                0 => write,
                1 => telling(write, writer(1), &["good"]),
                _ => answering(telling(write, writer(1), &["good"]), "pay"),
            }
        })
        .collect();
    scatter(bad, &mut batch);
    let mut bad_answers = Vec::new();
    for (write, answer) in batch.iter().zip(write_batch(&*store, &batch).await) {
        let id = write.persistence_id();
        if ids.contains(id) {
            bad_answers.push(answer);
        } else {
            answer.unwrap_or_else(|error| panic!("{id} failed with others: {error}"));
        }
    }
    check_conflict(&bad_answers[0], conflict, 2);
    check_taken(&bad_answers[1], taken, "pay");
    check_rejected(&bad_answers[2], refused);
    check_stale(&bad_answers[3], stale, 1);
    check_state(&*store, conflict, 1, Some("old")).await;
    check_state(&*store, taken, 2, Some("older")).await;
    check_state(&*store, refused, 1, Some("old")).await;
    check_told(fixture, taken, &[]).await;
    for n in (0..GOOD).step_by(97) {
        let cart = good(n);
        check_state(&*store, &cart, 1, Some("good")).await;
        let told: &[(u64, &str)] = if n % 3 == 0 { &[] } else { &[(1, "good")] };
        check_told(fixture, &cart, told).await;
        let replied: &[(u64, &str)] = if n % 3 == 2 { &[(1, "pay")] } else { &[] };
        check_replied(fixture, &cart, replied).await;
    }
}

// ---- what may be stored is recognised, and nothing else ----

/// A write that is sent again because it may be stored, and is, succeeds; its event is there once.
pub async fn a_change_event_that_may_be_stored_is_recognised(fixture: &dyn StoreFixture) {
    let store = states(fixture);
    let a = id("a");
    let deletion = telling(delete(&a, 2), writer(1), &["gone"]);
    for write in [
        told(&a, writer(1), 0, "one"),
        told(&a, writer(1), 1, "two"),
        deletion,
    ] {
        let written = store_one(&*store, &write).await;
        assert_eq!(store_one(&*store, &again(&write)).await, written);
        let other = told(
            &id(&format!("other-{}", write.revision())),
            writer(2),
            0,
            "o",
        );
        let answers = store_all(&*store, &[other, again(&write)]).await;
        assert_eq!(answers[1], written);
    }
    check_told(fixture, &a, &[(1, "one"), (2, "two"), (3, "gone")]).await;
    // One that was not stored is.
    let lost = again(&told(&a, writer(1), 3, "four"));
    store_one(&*store, &lost).await;
    check_told(
        fixture,
        &a,
        &[(1, "one"), (2, "two"), (3, "gone"), (4, "four")],
    )
    .await;
}

/// A batch that is sent again, whole or with more behind it, stores what is missing and nothing
/// twice.
pub async fn a_batch_with_companions_that_may_be_stored_is_recognised(fixture: &dyn StoreFixture) {
    let store = states(fixture);
    let (a, b) = (id("a"), id("b"));
    let batch = [
        answering(told(&a, writer(1), 0, "a1"), "one"),
        answering(put(&b, 0, "b1"), "one"),
        answering(told(&a, writer(1), 1, "a2"), "two"),
        told(&a, writer(1), 2, "a3"),
    ];
    // The first two of one entity, and all of the other.
    store_all(&*store, &batch[..3]).await;
    let more: Vec<StateWrite> = batch.iter().map(again).collect();
    store_all(&*store, &more).await;
    store_all(&*store, &more).await;
    check_state(&*store, &a, 3, Some("a3")).await;
    check_state(&*store, &b, 1, Some("b1")).await;
    check_told(fixture, &a, &[(1, "a1"), (2, "a2"), (3, "a3")]).await;
    check_told(fixture, &b, &[]).await;
    check_replied(fixture, &a, &[(1, "one"), (2, "two")]).await;
    check_replied(fixture, &b, &[(1, "one")]).await;
}

/// Another writer that made the same of the same revision has its own event there: the write is not
/// taken for stored.
pub async fn an_identical_state_with_another_change_event_is_another_writers(
    fixture: &dyn StoreFixture,
) {
    let store = states(fixture);
    let a = id("a");
    store_one(&*store, &put(&a, 0, "old")).await;
    store_one(&*store, &told(&a, writer(2), 1, "same")).await;
    let ours = again(&told(&a, writer(1), 1, "same"));
    check_stale(&write_one(&*store, &ours).await, &a, 2);
    let batch = [
        put(&id("b"), 0, "b"),
        ours,
        again(&told(&a, writer(1), 2, "more")),
    ];
    let answers = write_batch(&*store, &batch).await;
    check_stale(&answers[1], &a, 2);
    check_stale(&answers[2], &a, 2);
    check_state(&*store, &a, 2, Some("same")).await;
    check_told(fixture, &a, &[(2, "same")]).await;
}

/// Nor is it taken for stored if no event is there at all.
pub async fn an_identical_state_without_a_change_event_is_nobodys(fixture: &dyn StoreFixture) {
    let store = states(fixture);
    let a = id("a");
    store_one(&*store, &put(&a, 0, "same")).await;
    let answer = write_one(&*store, &again(&told(&a, writer(1), 0, "same"))).await;
    check_superseded(&answer, &a, 1);
    check_told(fixture, &a, &[]).await;
}

/// Once the event is deleted nobody can say whose the state is.
pub async fn a_state_whose_change_event_was_deleted_is_nobodys(fixture: &dyn StoreFixture) {
    let store = states(fixture);
    let a = id("a");
    let ours = told(&a, writer(1), 0, "ours");
    store_one(&*store, &ours).await;
    let deleted = journal(fixture).delete_events(&a, seq(1)).await;
    deleted.expect("a deletion");
    check_superseded(&write_one(&*store, &again(&ours)).await, &a, 1);
    check_state(&*store, &a, 1, Some("ours")).await;
}

// ---- replies ----

/// A reply is stored with the revision of its state, of a put and of a deletion.
pub async fn a_reply_is_stored_with_its_state(fixture: &dyn StoreFixture) {
    let store = states(fixture);
    let a = id("a");
    store_one(&*store, &answering(put(&a, 0, "one"), "first")).await;
    store_one(&*store, &put(&a, 1, "two")).await;
    store_one(&*store, &answering(delete(&a, 2), "third")).await;
    check_state(&*store, &a, 3, None).await;
    check_replied(fixture, &a, &[(1, "first"), (3, "third")]).await;
    check_told(fixture, &a, &[]).await;
    let replies = fixture.store().command_replies();
    let found = replies.load(&a, 1).await.expect("readable replies");
    assert_eq!(found[0].fingerprint, Fingerprint::new([7; 32]));
    let row = load(&*store, &a).await.expect("a marker");
    let apart = row.timestamp.duration_since(found[0].timestamp).abs();
    assert!(apart.as_secs() < 60, "about the time of the write");
    let none = NewReply::new(command("none"), Fingerprint::new([7; 32]), None, seq(0));
    let mut write = put(&a, 3, "four");
    write.set_reply(none.expect("a valid reply"));
    store_one(&*store, &write).await;
    let found = replies.load(&a, 1).await.expect("readable replies");
    assert_eq!(found[0].payload, None);
}

/// The replies of all states of an entity in a batch are stored, each with the revision that its
/// command made.
pub async fn replies_of_folded_states_are_all_stored(fixture: &dyn StoreFixture) {
    let store = states(fixture);
    let a = id("a");
    let batch = [
        answering(put(&a, 0, "1"), "one"),
        put(&a, 1, "2"),
        answering(delete(&a, 2), "three"),
        answering(put(&a, 3, "4"), "four"),
    ];
    store_all(&*store, &batch).await;
    check_state(&*store, &a, 4, Some("4")).await;
    check_replied(fixture, &a, &[(1, "one"), (3, "three"), (4, "four")]).await;
}

/// A command to which another writer has stored a reply changes nothing, also where the revision
/// fits; the earlier writes of its entity are stored, the later ones fail with it.
pub async fn a_taken_command_leaves_no_state(fixture: &dyn StoreFixture) {
    let store = states(fixture);
    let (a, b) = (id("a"), id("b"));
    store_one(&*store, &answering(put(&a, 0, "1"), "pay")).await;
    let repeated = answering(told(&a, writer(1), 1, "2"), "pay");
    check_taken(&write_one(&*store, &repeated).await, &a, "pay");
    let batch = [
        answering(put(&b, 0, "b1"), "pay"),
        answering(put(&a, 1, "2"), "more"),
        answering(told(&a, writer(1), 2, "3"), "pay"),
        put(&a, 3, "4"),
    ];
    let answers = write_batch(&*store, &batch).await;
    assert!(answers[0].is_ok() && answers[1].is_ok(), "{answers:?}");
    check_taken(&answers[2], &a, "pay");
    check_taken(&answers[3], &a, "pay");
    check_state(&*store, &a, 2, Some("2")).await;
    check_told(fixture, &a, &[]).await;
    check_replied(fixture, &a, &[(1, "pay"), (2, "more")]).await;
    check_replied(fixture, &b, &[(1, "pay")]).await;
}

/// The same command twice in one batch is stored once.
pub async fn a_command_twice_in_one_batch_is_taken(fixture: &dyn StoreFixture) {
    let store = states(fixture);
    let a = id("a");
    let batch = [
        answering(put(&a, 0, "1"), "pay"),
        answering(put(&a, 1, "2"), "pay"),
    ];
    let answers = write_batch(&*store, &batch).await;
    assert!(answers[0].is_ok(), "{answers:?}");
    check_taken(&answers[1], &a, "pay");
    check_state(&*store, &a, 1, Some("1")).await;
    check_replied(fixture, &a, &[(1, "pay")]).await;
}

/// A reply that has left the window makes room for the command, which is a new one.
pub async fn an_expired_reply_makes_room(fixture: &dyn StoreFixture) {
    let store = states(fixture);
    let a = id("a");
    store_one(&*store, &answering(put(&a, 0, "1"), "pay")).await;
    store_one(&*store, &answering(put(&a, 1, "2"), "more")).await;
    let replacing = |expected: u64, name: &str, to: u64| {
        let mut write = put(&a, expected, "new");
        write.set_reply(new_reply(name, payload(name), to));
        write
    };
    check_taken(
        &write_one(&*store, &replacing(2, "more", 1)).await,
        &a,
        "more",
    );
    store_one(&*store, &replacing(2, "pay", 1)).await;
    check_replied(fixture, &a, &[(2, "more"), (3, "pay")]).await;
    check_state(&*store, &a, 3, Some("new")).await;
}

/// A reply that the database refuses leaves nothing of its write.
pub async fn a_refused_reply_leaves_no_state(fixture: &dyn StoreFixture) {
    let store = states(fixture);
    fixture.refuse_serializer(REFUSED_SERIALIZER).await;
    let (a, b) = (id("a"), id("b"));
    let answer = SerializedPayload::new(REFUSED_SERIALIZER, "Reply", &b"refused"[..]);
    let mut refused = told(&a, writer(1), 1, "2");
    refused.set_reply(new_reply("pay", answer, 0));
    let batch = [
        told(&a, writer(1), 0, "1"),
        refused,
        told(&b, writer(2), 0, "1"),
    ];
    let answers = write_batch(&*store, &batch).await;
    assert!(answers[0].is_ok() && answers[2].is_ok(), "{answers:?}");
    check_rejected(&answers[1], &a);
    check_state(&*store, &a, 1, Some("1")).await;
    check_told(fixture, &a, &[(1, "1")]).await;
    check_replied(fixture, &a, &[]).await;
}

/// A write with a reply that is sent again because it may be stored, and is, succeeds; the reply is
/// there once.
pub async fn a_reply_that_may_be_stored_is_recognised(fixture: &dyn StoreFixture) {
    let store = states(fixture);
    let a = id("a");
    let first = answering(put(&a, 0, "1"), "pay");
    let written = store_one(&*store, &first).await;
    assert_eq!(store_one(&*store, &again(&first)).await, written);
    let second = answering(put(&a, 1, "2"), "more");
    store_all(&*store, &[again(&first), again(&second)]).await;
    check_replied(fixture, &a, &[(1, "pay"), (2, "more")]).await;
    check_state(&*store, &a, 2, Some("2")).await;
}

/// The same state without the reply may be another writer's: nobody can say.
pub async fn an_identical_state_without_a_reply_is_nobodys(fixture: &dyn StoreFixture) {
    let store = states(fixture);
    let (a, b) = (id("a"), id("b"));
    store_one(&*store, &put(&a, 0, "same")).await;
    store_one(&*store, &answering(put(&b, 0, "same"), "other")).await;
    for cart in [&a, &b] {
        let ours = again(&answering(put(cart, 0, "same"), "pay"));
        check_superseded(&write_one(&*store, &ours).await, cart, 1);
        check_state(&*store, cart, 1, Some("same")).await;
    }
    check_replied(fixture, &a, &[]).await;
}

/// The same command with another answer is another writer's.
pub async fn an_identical_state_with_another_reply_is_another_writers(fixture: &dyn StoreFixture) {
    let store = states(fixture);
    let a = id("a");
    store_one(&*store, &answering(put(&a, 0, "same"), "pay")).await;
    let mut ours = put(&a, 0, "same");
    ours.set_reply(new_reply("pay", payload("another answer"), 0));
    check_taken(&write_one(&*store, &again(&ours)).await, &a, "pay");
    check_replied(fixture, &a, &[(1, "pay")]).await;
}

// ---- other stores, other ways ----

/// Two stores that race for a revision have one winner, whose companions alone are there.
pub async fn two_stores_racing_with_companions_have_one_winner(fixture: &dyn StoreFixture) {
    let one = states(fixture);
    let two = fixture.open_again().await.durable_state_store();
    for round in 0..10 {
        let a = id(&format!("race-{round}"));
        let of = |number: u32, name: &str| answering(told(&a, writer(number), 0, name), name);
        let spawn = |store: &Arc<dyn DurableStateStore>, write: StateWrite| {
            let store = Arc::clone(store);
            tokio::spawn(async move { write_one(&*store, &write).await })
        };
        let (first, second) = (spawn(&one, of(1, "one")), spawn(&two, of(2, "two")));
        let first = first.await.expect("no panic");
        let second = second.await.expect("no panic");
        let (winner, loser) = super::winner_and_loser(&a, &first, &second);
        check_stale(loser, &a, 1);
        check_state(&*one, &a, 1, Some(winner)).await;
        check_told(fixture, &a, &[(1, winner)]).await;
        check_replied(fixture, &a, &[(1, winner)]).await;
    }
}

/// Changes of a few entities with and without companions, one by one or in batches of any size,
/// leave the same rows in all tables but for the times.
pub async fn however_companions_are_batched_they_leave_the_same_rows(fixture: &dyn StoreFixture) {
    const ENTITIES: usize = 3;
    let store = states(fixture);
    // The minimal standard generator of Park and Miller, so that every run is the same.
    let mut seed = 1_147_u64;
    let mut random = |below: u64| {
        seed = seed * 48_271 % 2_147_483_647;
        seed % below
    };
    for round in 0..10 {
        let entity = |way: &str, n: usize| id(&format!("{round}-{way}-{n}"));
        let mut revisions = [0; ENTITIES];
        let (mut one_by_one, mut batched) = (Vec::new(), Vec::new());
        for step in 0..30 {
            let n = usize::try_from(random(3)).expect("small");
            let text = format!("{step}");
            let (deletes, tells, answers) = (random(4) == 0, random(3) > 0, random(3) == 0);
            let of = |way: &str| {
                let id = entity(way, n);
                let mut write = if deletes {
                    delete(&id, revisions[n])
                } else {
                    put(&id, revisions[n], &text)
                };
                if tells {
                    write = telling(write, writer(1), &[&text]);
                }
                if answers {
                    write = answering(write, &text);
                }
                write
            };
            one_by_one.push(of("lone"));
            batched.push(of("batch"));
            revisions[n] += 1;
        }
        for write in &one_by_one {
            store_one(&*store, write).await;
        }
        let mut rest = &batched[..];
        while !rest.is_empty() {
            let size = usize::try_from(random(12) + 1).expect("small");
            let (batch, after) = rest.split_at(size.min(rest.len()));
            store_all(&*store, batch).await;
            rest = after;
        }
        for n in 0..ENTITIES {
            let mut rows = Vec::new();
            for way in ["lone", "batch"] {
                let id = entity(way, n);
                let row = load(&*store, &id).await;
                rows.push((
                    row.map(|row| (row.revision, row.payload)),
                    told_of(fixture, &id).await,
                    replied(fixture, &id).await,
                ));
                let stored: Vec<StoredEvent> = events(&*journal(fixture), &id).await;
                assert!(stored.is_sorted_by(|one, next| one.timestamp < next.timestamp));
            }
            assert_eq!(rows[0], rows[1], "entity {n} of round {round}");
        }
    }
}

/// Another store on the same data sees what was stored, and is refused as another writer.
pub async fn another_store_sees_the_companions(fixture: &dyn StoreFixture) {
    let store = states(fixture);
    let a = id("a");
    let first = answering(told(&a, writer(1), 0, "1"), "pay");
    let written = store_one(&*store, &first).await;
    let other = fixture.open_again().await;
    let found = page(&*other.journal(), &a, 1, u64::from(u32::MAX), UNLIMITED).await;
    assert_eq!(texts(&found.events), ["1"]);
    let replies = other.command_replies().load(&a, 10).await;
    assert_eq!(replies.expect("readable replies").len(), 1);
    let other = other.durable_state_store();
    assert_eq!(store_one(&*other, &again(&first)).await, written);
    let repeated = answering(put(&a, 1, "2"), "pay");
    check_taken(&write_one(&*other, &repeated).await, &a, "pay");
    store_one(&*other, &told(&a, writer(2), 1, "2")).await;
    check_told(fixture, &a, &[(1, "1"), (2, "2")]).await;
}
