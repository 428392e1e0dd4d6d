//! What every store must do with reminders: those of
//! [`Journal::write_events`](perennial_persistence::Journal::write_events) and every
//! [`ReminderStore`].
//!
//! Each function is one behaviour; [`reminder_store_contract!`](crate::reminder_store_contract)
//! turns all of them into tests. They panic where the store does something else.

use std::sync::Arc;

use perennial_persistence::{
    AtomicWrite, CommandId, DueReminders, Fingerprint, NewReminder, NewReply, PersistenceId,
    ReminderChange, ReminderKey, ReminderStore, SequenceNr, SerializedPayload, Slice, SliceRange,
    StoredReminder, Timestamp, WriterId,
};

use super::{
    REFUSED_SERIALIZER, SERIALIZER, StoreFixture, check_closed, check_conflict, check_rejected,
    check_superseded, events, id, seq, store_one, texts, write, write_batch, write_one, writer,
};

/// Makes a module `reminder_store_contract` with a test for every behaviour of a
/// [`ReminderStore`](perennial_persistence::ReminderStore).
///
/// The argument is an expression for a future of a
/// [`StoreFixture`](crate::contract::StoreFixture); it is evaluated for every test.
#[macro_export]
macro_rules! reminder_store_contract {
    ($fixture:expr) => {
        $crate::__contract_tests!(
            reminder_store_contract,
            reminder_store,
            $fixture,
            [
                a_closed_store_is_unavailable,
                a_forgotten_reminder_is_gone,
                a_key_is_one_of_its_entity,
                a_refused_reminder_leaves_no_event,
                a_refused_write_changes_no_reminder,
                a_reminder_comes_back_as_it_was_set,
                a_reply_and_reminders_go_with_the_same_events,
                a_stale_write_without_events_is_refused,
                a_time_says_which_one_is_forgotten,
                a_write_without_events_after_a_deletion_is_refused,
                a_write_without_events_leaves_none,
                an_identical_write_changes_nothing_more,
                another_opening_sees_them,
                many_reminders_are_read_in_pages,
                of_one_instant_they_come_in_the_order_of_ids_and_keys,
                one_with_the_same_key_replaces,
                only_wanted_slices_and_types_are_read,
                reminders_of_an_entity_are_removed,
                several_writes_of_one_entity_share_a_batch,
                texts_of_all_kinds_come_back,
                the_bounds_of_time_are_included,
                times_at_both_ends_come_back,
                times_go_on_over_a_write_without_events,
            ]
        );
    };
}

fn key(name: &str) -> ReminderKey {
    ReminderKey::new(name).expect("a valid key")
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time within all years")
}

fn command(text: &str) -> SerializedPayload {
    SerializedPayload::new(SERIALIZER, "Command", text.as_bytes().to_vec())
}

/// A reminder whose payload is its key.
fn set(name: &str, second: i64) -> ReminderChange {
    set_of("Cart", name, second)
}

fn set_of(entity_type: &str, name: &str, second: i64) -> ReminderChange {
    let new = NewReminder::new(entity_type, key(name), at(second), command(name));
    ReminderChange::Set(new.expect("a valid reminder"))
}

fn forget(name: &str) -> ReminderChange {
    ReminderChange::Forget {
        key: key(name),
        due: None,
    }
}

fn forget_at(name: &str, second: i64) -> ReminderChange {
    ReminderChange::Forget {
        key: key(name),
        due: Some(at(second)),
    }
}

/// A write of reminders alone, before the event with the number `next`.
fn alone(
    id: &PersistenceId,
    writer: WriterId,
    next: u64,
    changes: Vec<ReminderChange>,
) -> AtomicWrite {
    AtomicWrite::of_reminders(id.clone(), writer, seq(next), changes).expect("a valid write")
}

/// A write of events with reminders.
fn with(mut write: AtomicWrite, changes: Vec<ReminderChange>) -> AtomicWrite {
    write.set_reminders(changes).expect("one of each key");
    write
}

fn reminders(fixture: &dyn StoreFixture) -> Arc<dyn ReminderStore> {
    fixture.store().reminders()
}

fn all() -> DueReminders {
    DueReminders {
        slices: SliceRange::ALL,
        entity_types: vec!["Cart".into()],
        from: Timestamp::MIN,
        after: None,
        until: Timestamp::MAX,
        limit: 1000,
    }
}

async fn due(fixture: &dyn StoreFixture, wanted: DueReminders) -> Vec<StoredReminder> {
    let reminders = reminders(fixture);
    reminders.due(&wanted).await.expect("readable reminders")
}

/// The names of entities and of keys, and the seconds.
fn seen(found: &[StoredReminder]) -> Vec<(&str, &str, i64)> {
    found
        .iter()
        .map(|one| {
            let (id, second) = (one.persistence_id.entity_id(), one.due.as_second());
            (id, one.key.as_str(), second)
        })
        .collect()
}

async fn check_all(fixture: &dyn StoreFixture, expected: &[(&str, &str, i64)]) {
    let found = due(fixture, all()).await;
    assert_eq!(seen(&found), expected);
}

/// A reminder has everything that it was set with, in microseconds.
pub async fn a_reminder_comes_back_as_it_was_set(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let a = id("a");
    check_all(fixture, &[]).await;
    let time = Timestamp::new(1_700_000_000, 123_456_789).expect("in range");
    let new = NewReminder::new("Cart", key("k"), time, command("x")).expect("valid");
    let changes = vec![ReminderChange::Set(new)];
    store_one(&*journal, &with(write(&a, writer(1), 1, &["1"]), changes)).await;
    let expected = StoredReminder {
        persistence_id: a.clone(),
        entity_type: "Cart".into(),
        key: key("k"),
        due: Timestamp::new(1_700_000_000, 123_456_000).expect("in range"),
        payload: command("x"),
    };
    assert_eq!(due(fixture, all()).await, [expected]);
    assert_eq!(texts(&events(&*journal, &a).await), ["1"]);
}

/// There is one for a key: the latest, with all that is its.
pub async fn one_with_the_same_key_replaces(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let a = id("a");
    let changes = vec![set("k", 10), set("other", 11)];
    store_one(&*journal, &with(write(&a, writer(1), 1, &["1"]), changes)).await;
    let new = NewReminder::new("Another", key("k"), at(5), command("new")).expect("valid");
    let changes = vec![ReminderChange::Set(new)];
    store_one(&*journal, &with(write(&a, writer(1), 2, &["2"]), changes)).await;
    check_all(fixture, &[("a", "other", 11)]).await;
    let mut wanted = all();
    wanted.entity_types = vec!["Another".into(), "Cart".into()];
    let found = due(fixture, wanted).await;
    assert_eq!(seen(&found), [("a", "k", 5), ("a", "other", 11)]);
    assert_eq!(found[0].payload, command("new"));
}

/// One that is forgotten is not there, and one that was not there can be forgotten.
pub async fn a_forgotten_reminder_is_gone(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let a = id("a");
    let changes = vec![set("j", 1), set("k", 2)];
    store_one(&*journal, &with(write(&a, writer(1), 1, &["1"]), changes)).await;
    let changes = vec![forget("k"), forget("never")];
    store_one(&*journal, &with(write(&a, writer(1), 2, &["2"]), changes)).await;
    check_all(fixture, &[("a", "j", 1)]).await;
}

/// With a time, only the one that is due then is forgotten.
pub async fn a_time_says_which_one_is_forgotten(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let a = id("a");
    let changes = vec![set("j", 1), set("k", 2)];
    store_one(&*journal, &with(write(&a, writer(1), 1, &["1"]), changes)).await;
    let changes = vec![forget_at("j", 1), forget_at("k", 1)];
    store_one(&*journal, &with(write(&a, writer(1), 2, &["2"]), changes)).await;
    check_all(fixture, &[("a", "k", 2)]).await;
}

/// The same key is another reminder for another entity.
pub async fn a_key_is_one_of_its_entity(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let (a, b) = (id("a"), id("b"));
    for (id, second) in [(&a, 1), (&b, 2)] {
        let changes = vec![set("k", second)];
        store_one(&*journal, &with(write(id, writer(1), 1, &["1"]), changes)).await;
    }
    let changes = vec![forget("k")];
    store_one(&*journal, &with(write(&a, writer(1), 2, &["2"]), changes)).await;
    check_all(fixture, &[("b", "k", 2)]).await;
}

/// Ids and keys are texts of any characters, and differ in case.
pub async fn texts_of_all_kinds_come_back(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let a = id("a'\"\\;--ü🦀");
    let names = ["'; --", "\"\\", "ü🦀", " ", "A", "a", "{}[],NULL"];
    let changes = names
        .iter()
        .zip(1..)
        .map(|(name, n)| set(name, n))
        .collect();
    store_one(&*journal, &with(write(&a, writer(1), 1, &["1"]), changes)).await;
    let found = due(fixture, all()).await;
    let keys: Vec<&str> = found.iter().map(|one| one.key.as_str()).collect();
    assert_eq!(keys, names);
    assert!(found.iter().all(|one| one.persistence_id == a));
    let mut wanted = all();
    wanted.entity_types = vec!["a\"b\\{}'".into()];
    assert_eq!(due(fixture, wanted).await, []);
}

/// The first and the last time that a reminder may have come back.
pub async fn times_at_both_ends_come_back(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let a = id("a");
    let new = |name, due| {
        let new = NewReminder::new("Cart", key(name), due, command("x"));
        new.expect("a valid reminder")
    };
    let all_times = [new("first", Timestamp::MIN), new("last", Timestamp::MAX)];
    let changes = all_times.iter().cloned().map(ReminderChange::Set).collect();
    store_one(&*journal, &with(write(&a, writer(1), 1, &["1"]), changes)).await;
    let found = due(fixture, all()).await;
    let times: Vec<Timestamp> = found.iter().map(|one| one.due).collect();
    assert_eq!(times, all_times.map(|new| new.due()));
}

/// Both ends of the wanted time are part of it.
pub async fn the_bounds_of_time_are_included(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let a = id("a");
    let changes = ["j", "k", "l", "m"]
        .iter()
        .zip(1..)
        .map(|(name, n)| set(name, n));
    let write = with(write(&a, writer(1), 1, &["1"]), changes.collect());
    store_one(&*journal, &write).await;
    let mut wanted = all();
    (wanted.from, wanted.until) = (at(2), at(3));
    let found = due(fixture, wanted).await;
    assert_eq!(seen(&found), [("a", "k", 2), ("a", "l", 3)]);
}

/// Those of one instant are ordered by the bytes of their ids, then of their keys.
pub async fn of_one_instant_they_come_in_the_order_of_ids_and_keys(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    // Where languages differ from bytes: case, accents, punctuation.
    let mut names = ["b", "B", "a", "Z", "é", "a-b", "ab", "_", "~"];
    for name in names {
        let changes = names.iter().map(|key| set(key, 7)).collect();
        store_one(
            &*journal,
            &with(write(&id(name), writer(1), 1, &["1"]), changes),
        )
        .await;
    }
    names.sort_unstable();
    let pairs = names
        .iter()
        .flat_map(|id| names.iter().map(move |key| (*id, *key, 7)));
    check_all(fixture, &pairs.collect::<Vec<_>>()).await;
}

/// Pages go on where the one before has ended, also in the midst of one instant.
pub async fn many_reminders_are_read_in_pages(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let batch: Vec<AtomicWrite> = (0..20)
        .map(|n| {
            let changes = vec![set("j", 7), set("k", n / 4)];
            with(write(&id(&format!("{n}")), writer(1), 1, &["1"]), changes)
        })
        .collect();
    for answer in write_batch(&*journal, &batch).await {
        answer.expect("nothing stands in the way");
    }
    let (mut found, mut wanted) = (Vec::new(), all());
    wanted.limit = 3;
    loop {
        let page = due(fixture, wanted.clone()).await;
        assert!(page.len() <= 3);
        let Some(last) = page.last() else {
            break;
        };
        wanted.from = last.due;
        wanted.after = Some((last.persistence_id.clone(), last.key.clone()));
        found.extend(page);
    }
    assert_eq!(found.len(), 40);
    assert_eq!(found, due(fixture, all()).await);
}

/// What others own is not read.
pub async fn only_wanted_slices_and_types_are_read(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let (a, b) = (id("a"), id("b"));
    assert!(a.slice() < b.slice());
    let changes = vec![set("k", 1), set_of("Other", "l", 1)];
    store_one(&*journal, &with(write(&a, writer(1), 1, &["1"]), changes)).await;
    store_one(&*journal, &alone(&b, writer(1), 1, vec![set("k", 2)])).await;
    let of = |min: Slice, max: Slice, types: &[&str]| {
        let mut wanted = all();
        wanted.slices = SliceRange::new(min, max).expect("in order");
        wanted.entity_types = types.iter().map(|&name| name.into()).collect();
        wanted
    };
    let found = due(fixture, of(a.slice(), a.slice(), &["Cart"])).await;
    assert_eq!(seen(&found), [("a", "k", 1)]);
    let found = due(fixture, of(b.slice(), b.slice(), &["Cart"])).await;
    assert_eq!(seen(&found), [("b", "k", 2)]);
    let found = due(fixture, of(a.slice(), b.slice(), &["Other", "None"])).await;
    assert_eq!(seen(&found), [("a", "l", 1)]);
    assert_eq!(due(fixture, of(a.slice(), b.slice(), &[])).await, []);
}

/// Writes with and without events take effect one after another.
pub async fn several_writes_of_one_entity_share_a_batch(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let (a, b) = (id("a"), id("b"));
    let batch = [
        alone(
            &a,
            writer(1),
            1,
            vec![set("i", 1), set("j", 1), set("k", 1)],
        ),
        with(
            write(&a, writer(1), 1, &["1"]),
            vec![set("j", 2), forget("k")],
        ),
        write(&b, writer(2), 1, &["b1"]),
        alone(&a, writer(1), 2, vec![forget_at("i", 1), forget_at("j", 1)]),
        write(&a, writer(1), 2, &["2", "3"]),
        alone(&a, writer(1), 4, vec![set("k", 3), set("l", 4)]),
        with(write(&a, writer(1), 4, &["4"]), vec![forget("l")]),
        alone(&b, writer(2), 2, vec![set("k", 9)]),
    ];
    for answer in write_batch(&*journal, &batch).await {
        answer.expect("nothing stands in the way");
    }
    check_all(fixture, &[("a", "j", 2), ("a", "k", 3), ("b", "k", 9)]).await;
    assert_eq!(texts(&events(&*journal, &a).await), ["1", "2", "3", "4"]);
    assert_eq!(texts(&events(&*journal, &b).await), ["b1"]);
}

/// Reminders can be stored without any event, and leave none.
pub async fn a_write_without_events_leaves_none(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let a = id("a");
    store_one(&*journal, &alone(&a, writer(1), 1, vec![set("k", 1)])).await;
    check_all(fixture, &[("a", "k", 1)]).await;
    assert_eq!(events(&*journal, &a).await, []);
    let none = journal.highest_sequence_nr(&a, SequenceNr::ZERO).await;
    assert_eq!(none.expect("readable"), SequenceNr::ZERO);
    store_one(&*journal, &write(&a, writer(1), 1, &["1"])).await;
    store_one(&*journal, &alone(&a, writer(1), 2, vec![set("k", 2)])).await;
    check_all(fixture, &[("a", "k", 2)]).await;
    assert_eq!(texts(&events(&*journal, &a).await), ["1"]);
}

/// An event after one that was stored without is later than the event before both.
pub async fn times_go_on_over_a_write_without_events(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let a = id("a");
    let first = store_one(&*journal, &write(&a, writer(1), 1, &["1"])).await;
    let batch = [
        alone(&a, writer(1), 2, vec![set("k", 1)]),
        write(&a, writer(1), 2, &["2"]),
        alone(&a, writer(1), 3, vec![set("k", 2)]),
        write(&a, writer(1), 3, &["3"]),
    ];
    for answer in write_batch(&*journal, &batch).await {
        answer.expect("nothing stands in the way");
    }
    let found = events(&*journal, &a).await;
    assert_eq!(found[0].timestamp, first.timestamp);
    assert!(
        found
            .windows(2)
            .all(|pair| pair[0].timestamp < pair[1].timestamp)
    );
}

/// Sent again, alone or with more behind it, a write does what it did, and undoes nothing that came
/// after it.
pub async fn an_identical_write_changes_nothing_more(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let a = id("a");
    let mut before = alone(&a, writer(1), 1, vec![set("j", 1), set("k", 1)]);
    let mut first = with(write(&a, writer(1), 1, &["1"]), vec![forget("j")]);
    store_one(&*journal, &before).await;
    before.maybe_stored = true;
    store_one(&*journal, &before).await;
    check_all(fixture, &[("a", "j", 1), ("a", "k", 1)]).await;
    let written = store_one(&*journal, &first).await;
    first.maybe_stored = true;
    let batch = [before, first, alone(&a, writer(1), 2, vec![set("k", 2)])];
    let answers = write_batch(&*journal, &batch).await;
    assert!(answers[0].is_ok() && answers[2].is_ok(), "{answers:?}");
    assert_eq!(answers[1].as_ref().ok(), Some(&written));
    check_all(fixture, &[("a", "k", 2)]).await;
    assert_eq!(texts(&events(&*journal, &a).await), ["1"]);
}

/// A write without events is refused if another writer has stored the next event, and takes the
/// later ones of its entity with it.
pub async fn a_stale_write_without_events_is_refused(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let (a, b) = (id("a"), id("b"));
    let changes = vec![set("k", 1)];
    store_one(&*journal, &with(write(&a, writer(1), 1, &["1"]), changes)).await;
    let stale = alone(&a, writer(2), 1, vec![set("k", 2)]);
    check_conflict(&write_one(&*journal, &stale).await, &a, 1);
    let batch = [
        stale,
        write(&a, writer(2), 1, &["stale"]),
        alone(&b, writer(2), 1, vec![set("k", 3)]),
    ];
    let answers = write_batch(&*journal, &batch).await;
    check_conflict(&answers[0], &a, 1);
    check_conflict(&answers[1], &a, 1);
    assert!(answers[2].is_ok());
    check_all(fixture, &[("a", "k", 1), ("b", "k", 3)]).await;
    assert_eq!(texts(&events(&*journal, &a).await), ["1"]);
}

/// The marker of deleted events keeps a stale writer out as well.
pub async fn a_write_without_events_after_a_deletion_is_refused(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let a = id("a");
    store_one(&*journal, &write(&a, writer(1), 1, &["1", "2"])).await;
    let deleted = journal.delete_events(&a, seq(2)).await;
    deleted.expect("nothing stands in the way");
    let stale = alone(&a, writer(2), 2, vec![set("k", 2)]);
    check_superseded(&write_one(&*journal, &stale).await, &a, 2, 2);
    check_all(fixture, &[]).await;
    store_one(&*journal, &alone(&a, writer(1), 3, vec![set("k", 3)])).await;
    check_all(fixture, &[("a", "k", 3)]).await;
}

/// Without its events nothing is changed.
pub async fn a_refused_write_changes_no_reminder(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let (a, b) = (id("a"), id("b"));
    let changes = vec![set("j", 1), set("k", 1)];
    store_one(&*journal, &with(write(&a, writer(1), 1, &["1"]), changes)).await;
    let changes = vec![set("j", 2), forget("k"), set("l", 2)];
    let batch = [
        with(write(&a, writer(2), 1, &["stale"]), changes),
        with(write(&b, writer(3), 1, &["fine"]), vec![set("k", 3)]),
    ];
    let answers = write_batch(&*journal, &batch).await;
    check_conflict(&answers[0], &a, 1);
    assert!(answers[1].is_ok());
    check_all(fixture, &[("a", "j", 1), ("a", "k", 1), ("b", "k", 3)]).await;
}

/// Without its reminders no event is stored, and no reply.
pub async fn a_refused_reminder_leaves_no_event(fixture: &dyn StoreFixture) {
    fixture.refuse_serializer(REFUSED_SERIALIZER).await;
    let journal = fixture.store().journal();
    let (a, b) = (id("a"), id("b"));
    let payload = SerializedPayload::new(REFUSED_SERIALIZER, "Command", &b"x"[..]);
    let refused = NewReminder::new("Cart", key("k"), at(1), payload).expect("valid");
    let changes = vec![set("j", 1), ReminderChange::Set(refused)];
    let mut bad = with(write(&a, writer(1), 1, &["1", "2"]), changes.clone());
    bad.set_reply(reply());
    let batch = [
        bad,
        with(write(&b, writer(2), 1, &["fine"]), vec![set("k", 2)]),
    ];
    let answers = write_batch(&*journal, &batch).await;
    check_rejected(&answers[0], &a);
    assert!(answers[1].is_ok());
    let bad = alone(&a, writer(1), 1, changes);
    check_rejected(&write_one(&*journal, &bad).await, &a);
    assert_eq!(events(&*journal, &a).await, []);
    let replies = fixture.store().command_replies().load(&a, 10).await;
    assert_eq!(replies.expect("readable"), []);
    check_all(fixture, &[("b", "k", 2)]).await;
}

fn reply() -> NewReply {
    let command_id = CommandId::new("pay").expect("valid");
    let fingerprint = Fingerprint::new([7; Fingerprint::BYTES]);
    NewReply::new(command_id, fingerprint, None, SequenceNr::ZERO).expect("valid")
}

/// Both are there with the events.
pub async fn a_reply_and_reminders_go_with_the_same_events(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let a = id("a");
    let mut both = with(write(&a, writer(1), 1, &["1"]), vec![set("k", 1)]);
    both.set_reply(reply());
    let batch = [alone(&a, writer(1), 1, vec![set("j", 1)]), both];
    for answer in write_batch(&*journal, &batch).await {
        answer.expect("nothing stands in the way");
    }
    check_all(fixture, &[("a", "j", 1), ("a", "k", 1)]).await;
    let replies = fixture.store().command_replies().load(&a, 10).await;
    let replies = replies.expect("readable");
    assert_eq!(replies.len(), 1);
    assert_eq!(replies[0].seq_nr, seq(1));
}

/// Those of one entity are removed in bounded steps.
pub async fn reminders_of_an_entity_are_removed(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let (a, b) = (id("a"), id("b"));
    let changes = ["i", "j", "k"].iter().map(|name| set(name, 1)).collect();
    store_one(&*journal, &with(write(&a, writer(1), 1, &["1"]), changes)).await;
    store_one(&*journal, &alone(&b, writer(1), 1, vec![set("k", 2)])).await;
    let reminders = reminders(fixture);
    let remove = async |limit| {
        reminders
            .remove(&a, limit)
            .await
            .expect("they can be removed")
    };
    assert_eq!(remove(2).await, 2, "as many as one call may remove");
    assert_eq!(remove(2).await, 1);
    assert_eq!(remove(2).await, 0);
    check_all(fixture, &[("b", "k", 2)]).await;
    assert_eq!(events(&*journal, &a).await.len(), 1, "no event is deleted");
}

/// Another process finds them.
pub async fn another_opening_sees_them(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let a = id("a");
    store_one(&*journal, &alone(&a, writer(1), 1, vec![set("k", 2)])).await;
    let second = fixture.open_again().await;
    let found = second.reminders().due(&all()).await;
    assert_eq!(found.expect("readable"), due(fixture, all()).await);
}

/// After the end nothing is changed, and the store says so.
pub async fn a_closed_store_is_unavailable(fixture: &dyn StoreFixture) {
    let reminders = reminders(fixture);
    fixture.store().close().await;
    check_closed(&reminders.due(&all()).await);
    check_closed(&reminders.remove(&id("a"), 1).await);
}
