//! What every store must do with the replies to commands that carry an id: those of
//! [`Journal::write_events`](perennial_persistence::Journal::write_events) and every
//! [`CommandReplyStore`].
//!
//! Each function is one behaviour;
//! [`command_reply_store_contract!`](crate::command_reply_store_contract) turns all of them into
//! tests. They panic where the store does something else.

use std::sync::Arc;

use perennial_persistence::{
    AtomicWrite, CommandId, CommandReplyStore, Error, Fingerprint, NewReply, PersistenceId,
    SequenceNr, SerializedPayload, StoredReply, Timestamp, WriterId,
};

use super::{
    REFUSED_SERIALIZER, SERIALIZER, StoreFixture, check_closed, check_rejected, event, events, id,
    seq, store_one, texts, write, write_batch, write_of, write_one, writer,
};

/// Makes a module `command_reply_store_contract` with a test for every behaviour of a
/// [`CommandReplyStore`](perennial_persistence::CommandReplyStore).
///
/// The argument is an expression for a future of a
/// [`StoreFixture`](crate::contract::StoreFixture); it is evaluated for every test.
#[macro_export]
macro_rules! command_reply_store_contract {
    ($fixture:expr) => {
        $crate::__contract_tests!(
            command_reply_store_contract,
            command_reply_store,
            $fixture,
            [
                a_closed_store_is_unavailable,
                a_command_of_another_entity_is_another_command,
                a_command_that_another_writer_has_stored_is_refused,
                a_lone_write_has_its_reply_stored,
                a_refused_reply_leaves_no_event,
                a_refused_write_leaves_no_reply,
                a_reply_may_have_no_payload,
                a_taken_command_fails_its_own_entity_only,
                an_expired_reply_is_replaced,
                an_identical_write_has_its_reply_stored_once,
                another_opening_sees_them,
                old_replies_of_a_type_are_deleted,
                only_the_latest_are_loaded,
                replies_are_deleted_up_to_a_number,
                several_commands_of_one_entity_share_a_batch,
                texts_of_all_kinds_come_back,
            ]
        );
    };
}

fn command(name: &str) -> CommandId {
    CommandId::new(name).expect("a valid command id")
}

fn fingerprint(name: &str) -> Fingerprint {
    let mut bytes = [0x80; Fingerprint::BYTES];
    for (to, from) in bytes.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    Fingerprint::new(bytes)
}

fn reply(name: &str, replaces_to: u64) -> NewReply {
    let payload = SerializedPayload::new(SERIALIZER, "Reply", name.as_bytes().to_vec());
    NewReply::new(
        command(name),
        fingerprint(name),
        Some(payload),
        seq(replaces_to),
    )
    .expect("a valid reply")
}

/// A write of one event whose text is the command's name, with a reply that says the same.
fn named(id: &PersistenceId, writer: WriterId, number: u64, name: &str) -> AtomicWrite {
    let mut write = write(id, writer, number, &[name]);
    write.set_reply(reply(name, 0));
    write
}

fn replies(fixture: &dyn StoreFixture) -> Arc<dyn CommandReplyStore> {
    fixture.store().command_replies()
}

async fn load(fixture: &dyn StoreFixture, id: &PersistenceId) -> Vec<StoredReply> {
    load_latest(fixture, id, 1000).await
}

async fn load_latest(
    fixture: &dyn StoreFixture,
    id: &PersistenceId,
    limit: usize,
) -> Vec<StoredReply> {
    let replies = replies(fixture);
    replies.load(id, limit).await.expect("readable replies")
}

/// Names and numbers, the latest first.
fn seen(replies: &[StoredReply]) -> Vec<(&str, u64)> {
    replies
        .iter()
        .map(|reply| (reply.command_id.as_str(), reply.seq_nr.value()))
        .collect()
}

fn check_taken<T: std::fmt::Debug>(answer: &Result<T, Error>, of: &PersistenceId, name: &str) {
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

/// A reply comes back as it was stored, with the number of its last event and a time.
pub async fn a_lone_write_has_its_reply_stored(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let a = id("a");
    assert_eq!(load(fixture, &a).await, []);
    let mut write = write(&a, writer(1), 1, &["1", "2", "3"]);
    write.set_reply(reply("pay", 0));
    let written = store_one(&*journal, &write).await;
    let found = load(fixture, &a).await;
    assert_eq!(seen(&found), [("pay", 3)], "the number of the last event");
    assert_eq!(found[0].fingerprint, fingerprint("pay"));
    assert_eq!(
        found[0].payload.as_ref(),
        Some(&SerializedPayload::new(SERIALIZER, "Reply", &b"pay"[..]))
    );
    let apart = written.timestamp.duration_since(found[0].timestamp).abs();
    assert!(apart.as_secs() < 60, "about the time of the write");
    assert_eq!(texts(&events(&*journal, &a).await), ["1", "2", "3"]);
}

/// Writes with and without replies stand in one batch; the latest reply is loaded first.
pub async fn several_commands_of_one_entity_share_a_batch(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let (a, b) = (id("a"), id("b"));
    let batch = [
        named(&a, writer(1), 1, "one"),
        write(&a, writer(1), 2, &["without"]),
        named(&b, writer(2), 1, "other"),
        named(&a, writer(1), 3, "three"),
    ];
    for answer in write_batch(&*journal, &batch).await {
        answer.expect("nothing stands in the way");
    }
    assert_eq!(seen(&load(fixture, &a).await), [("three", 3), ("one", 1)]);
    assert_eq!(seen(&load(fixture, &b).await), [("other", 1)]);
}

/// A command that is answered without a reply has a row too.
pub async fn a_reply_may_have_no_payload(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let a = id("a");
    let mut write = write(&a, writer(1), 1, &["1"]);
    let reply = NewReply::new(command("x"), fingerprint("x"), None, SequenceNr::ZERO);
    write.set_reply(reply.expect("a valid reply"));
    store_one(&*journal, &write).await;
    assert_eq!(load(fixture, &a).await[0].payload, None);
}

/// Ids are texts of any characters, and differ in case.
pub async fn texts_of_all_kinds_come_back(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let a = id("a'\"\\;--ü🦀");
    let names = ["'; --", "\"\\", "ü🦀", " ", "A", "a"];
    for (name, number) in names.iter().zip(1..) {
        store_one(&*journal, &named(&a, writer(1), number, name)).await;
    }
    let found = load(fixture, &a).await;
    let mut expected: Vec<(&str, u64)> = names.into_iter().zip(1..).collect();
    expected.reverse();
    assert_eq!(seen(&found), expected);
}

/// A write that is sent again is answered as written, with its reply there once.
pub async fn an_identical_write_has_its_reply_stored_once(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let a = id("a");
    let first = named(&a, writer(1), 1, "pay");
    let written = store_one(&*journal, &first).await;
    let mut again = first.clone();
    again.maybe_stored = true;
    let batch = [again, named(&a, writer(1), 2, "more")];
    let answers = write_batch(&*journal, &batch).await;
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.ok()).collect();
    assert_eq!(answers[0], Some(written));
    assert!(answers[1].is_some());
    assert_eq!(seen(&load(fixture, &a).await), [("more", 2), ("pay", 1)]);
    assert_eq!(events(&*journal, &a).await.len(), 2);
}

/// A second writer cannot handle a command that has a reply.
pub async fn a_command_that_another_writer_has_stored_is_refused(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let a = id("a");
    store_one(&*journal, &named(&a, writer(1), 1, "pay")).await;
    let answer = write_one(&*journal, &named(&a, writer(2), 2, "pay")).await;
    check_taken(&answer, &a, "pay");
    assert_eq!(texts(&events(&*journal, &a).await), ["pay"]);
    assert_eq!(seen(&load(fixture, &a).await), [("pay", 1)]);
}

/// A command id is one of its entity.
pub async fn a_command_of_another_entity_is_another_command(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let (a, b) = (id("a"), id("b"));
    store_one(&*journal, &named(&a, writer(1), 1, "pay")).await;
    store_one(&*journal, &named(&b, writer(2), 1, "pay")).await;
    assert_eq!(seen(&load(fixture, &b).await), [("pay", 1)]);
}

/// A taken command fails its write and the later ones of its entity, and nothing else.
pub async fn a_taken_command_fails_its_own_entity_only(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let (a, b, c) = (id("a"), id("b"), id("c"));
    store_one(&*journal, &named(&b, writer(2), 1, "pay")).await;
    let batch = [
        named(&a, writer(1), 1, "pay"),
        named(&b, writer(3), 2, "first"),
        named(&b, writer(3), 3, "pay"),
        write(&b, writer(3), 4, &["after"]),
        named(&c, writer(4), 1, "pay"),
    ];
    let answers = write_batch(&*journal, &batch).await;
    assert!(answers[0].is_ok() && answers[1].is_ok() && answers[4].is_ok());
    check_taken(&answers[2], &b, "pay");
    check_taken(&answers[3], &b, "pay");
    assert_eq!(texts(&events(&*journal, &b).await), ["pay", "first"]);
    assert_eq!(seen(&load(fixture, &b).await), [("first", 2), ("pay", 1)]);
    assert_eq!(seen(&load(fixture, &c).await), [("pay", 1)]);
}

/// Without its events no reply is stored.
pub async fn a_refused_write_leaves_no_reply(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let (a, b) = (id("a"), id("b"));
    store_one(&*journal, &write(&a, writer(1), 1, &["1"])).await;
    let batch = [
        named(&a, writer(2), 1, "stale"),
        named(&b, writer(3), 1, "fine"),
    ];
    let answers = write_batch(&*journal, &batch).await;
    assert!(matches!(answers[0], Err(Error::Conflict { .. })));
    assert!(answers[1].is_ok());
    assert_eq!(load(fixture, &a).await, []);
    assert_eq!(seen(&load(fixture, &b).await), [("fine", 1)]);
}

/// Without its reply no event is stored.
pub async fn a_refused_reply_leaves_no_event(fixture: &dyn StoreFixture) {
    fixture.refuse_serializer(REFUSED_SERIALIZER).await;
    let journal = fixture.store().journal();
    let (a, b) = (id("a"), id("b"));
    let mut refused = write_of(&a, writer(1), 1, vec![event("1"), event("2")]);
    let payload = SerializedPayload::new(REFUSED_SERIALIZER, "Reply", &b"x"[..]);
    let reply = NewReply::new(
        command("x"),
        fingerprint("x"),
        Some(payload),
        SequenceNr::ZERO,
    );
    refused.set_reply(reply.expect("a valid reply"));
    let batch = [refused, named(&b, writer(2), 1, "fine")];
    let answers = write_batch(&*journal, &batch).await;
    check_rejected(&answers[0], &a);
    assert!(answers[1].is_ok());
    assert!(events(&*journal, &a).await.is_empty());
    assert_eq!(load(fixture, &a).await, []);
    assert_eq!(seen(&load(fixture, &b).await), [("fine", 1)]);
}

/// A command whose reply has left the window is a new one.
pub async fn an_expired_reply_is_replaced(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let a = id("a");
    let batch = [
        named(&a, writer(1), 1, "pay"),
        named(&a, writer(1), 2, "other"),
    ];
    for answer in write_batch(&*journal, &batch).await {
        answer.expect("nothing stands in the way");
    }
    let mut again = write(&a, writer(1), 3, &["again"]);
    again.set_reply(reply("pay", 1));
    store_one(&*journal, &again).await;
    assert_eq!(seen(&load(fixture, &a).await), [("pay", 3), ("other", 2)]);
    let mut too_early = write(&a, writer(1), 4, &["too early"]);
    too_early.set_reply(reply("other", 1));
    let answer = write_one(&*journal, &too_early).await;
    check_taken(&answer, &a, "other");
}

/// The limit counts from the highest number down.
pub async fn only_the_latest_are_loaded(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let a = id("a");
    for (name, number) in ["d", "a", "c", "b"].into_iter().zip(1..) {
        store_one(&*journal, &named(&a, writer(1), number, name)).await;
    }
    let found = load_latest(fixture, &a, 2).await;
    assert_eq!(seen(&found), [("b", 4), ("c", 3)]);
}

/// Replies of one entity are deleted up to a number, in bounded steps; events stay.
pub async fn replies_are_deleted_up_to_a_number(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let (a, b) = (id("a"), id("b"));
    for (name, number) in ["1", "2", "3", "4", "5"].into_iter().zip(1..) {
        store_one(&*journal, &named(&a, writer(1), number, name)).await;
    }
    store_one(&*journal, &named(&b, writer(2), 1, "1")).await;
    let replies = replies(fixture);
    let delete = async |to, limit| {
        let deleted = replies.delete_up_to(&a, seq(to), limit).await;
        deleted.expect("it can be deleted")
    };
    assert_eq!(delete(4, 3).await, 3, "as many as one call may delete");
    assert_eq!(delete(4, 3).await, 1);
    assert_eq!(delete(4, 3).await, 0);
    assert_eq!(seen(&load(fixture, &a).await), [("5", 5)]);
    assert_eq!(seen(&load(fixture, &b).await), [("1", 1)]);
    assert_eq!(events(&*journal, &a).await.len(), 5, "no event is deleted");
}

/// Replies of one entity type are deleted by age, in bounded steps.
pub async fn old_replies_of_a_type_are_deleted(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let a = id("a");
    let other = PersistenceId::new("Other", "a").expect("a valid id");
    for (name, number) in ["1", "2"].into_iter().zip(1..) {
        store_one(&*journal, &named(&a, writer(1), number, name)).await;
    }
    store_one(&*journal, &named(&other, writer(2), 1, "1")).await;
    let replies = replies(fixture);
    let times: Vec<Timestamp> = load(fixture, &a)
        .await
        .iter()
        .map(|reply| reply.timestamp)
        .collect();
    let (first, last) = (times[0].min(times[1]), times[0].max(times[1]));
    let delete = async |before: Timestamp, limit| {
        let deleted = replies.delete_older("Cart", before, limit).await;
        deleted.expect("it can be deleted")
    };
    assert_eq!(delete(first, 10).await, 0, "none is older than the first");
    let after = last + std::time::Duration::from_micros(1);
    assert_eq!(delete(after, 1).await, 1);
    assert_eq!(delete(after, 10).await, 1);
    assert_eq!(load(fixture, &a).await, []);
    assert_eq!(seen(&load(fixture, &other).await), [("1", 1)]);
}

/// Another process finds the replies, and is refused like another writer.
pub async fn another_opening_sees_them(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let a = id("a");
    store_one(&*journal, &named(&a, writer(1), 1, "pay")).await;
    let second = fixture.open_again().await;
    let found = second.command_replies().load(&a, 10).await;
    let found = found.expect("readable replies");
    assert_eq!(found, load(fixture, &a).await);
    let answer = write_one(&*second.journal(), &named(&a, writer(2), 2, "pay")).await;
    check_taken(&answer, &a, "pay");
}

/// After the end nothing is changed, and the store says so.
pub async fn a_closed_store_is_unavailable(fixture: &dyn StoreFixture) {
    let a = id("a");
    let replies = replies(fixture);
    fixture.store().close().await;
    check_closed(&replies.load(&a, 1).await);
    check_closed(&replies.delete_up_to(&a, seq(1), 1).await);
    check_closed(&replies.delete_older("Cart", Timestamp::MAX, 1).await);
}
