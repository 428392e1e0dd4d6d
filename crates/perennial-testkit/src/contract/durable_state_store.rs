//! What every [`DurableStateStore`] must do.
//!
//! Each function is one behaviour;
//! [`durable_state_store_contract!`](crate::durable_state_store_contract) turns all of them into
//! tests. They panic where the store does something else. Where deleting a state makes a
//! difference, they expect what [`StoreFixture::durable_state_delete`] says.

use std::collections::BTreeSet;
use std::sync::Arc;

use perennial_persistence::{
    CommandId, DurableStateDelete, DurableStateStore, Error, Fingerprint, NewReply, PersistenceId,
    SequenceNr, SerializedPayload, StateChange, StateWrite, StoredState, Timestamp, Written,
};

use super::{
    REFUSED_SERIALIZER, SERIALIZER, StoreFixture, check_closed, check_rejected, event, events,
    give_up_after, id, payload, scatter, seq, winner_and_loser, writer,
};

/// Makes a module `durable_state_store_contract` with a test for every behaviour of a
/// [`DurableStateStore`](perennial_persistence::DurableStateStore).
///
/// The argument is an expression for a future of a
/// [`StoreFixture`](crate::contract::StoreFixture); it is evaluated for every test. A store is to
/// be tested with each [`DurableStateDelete`](perennial_persistence::DurableStateDelete).
#[macro_export]
macro_rules! durable_state_store_contract {
    ($fixture:expr) => {
        $crate::__contract_tests!(
            durable_state_store_contract,
            durable_state_store,
            $fixture,
            [
                a_state_comes_back,
                payloads_and_tags_come_back,
                a_state_of_mebibytes_comes_back,
                an_unknown_id_has_no_state,
                states_of_several_ids_are_kept_apart,
                the_largest_revision_is_usable,
                a_row_that_is_no_state_is_corrupt,
                an_empty_batch_of_states_is_answered_with_nothing,
                a_batch_of_states_is_answered_in_its_order,
                a_lone_state_and_a_batch_store_the_same,
                the_states_of_one_batch_have_timestamps_of_their_own,
                timestamps_increase_from_revision_to_revision,
                commit_order_of_states_is_time_order_where_promised,
                a_stale_state_is_refused,
                a_first_state_beside_a_later_revision_is_refused,
                a_state_whose_row_is_gone,
                a_revision_may_be_passed_over,
                several_states_of_an_entity_leave_the_last,
                states_out_of_order_are_refused,
                a_stale_state_among_a_thousand_fails_alone,
                a_refused_state_among_a_thousand_fails_alone,
                bad_states_of_every_kind_among_a_thousand_fail_alone,
                a_batch_of_nothing_but_bad_states_fails_one_by_one,
                a_refused_state_leaves_the_older,
                later_states_of_an_entity_fail_with_its_refused_one,
                later_states_of_an_entity_fail_with_its_stale_one,
                a_state_that_may_be_stored_is_recognised,
                a_batch_that_may_be_stored_is_recognised,
                a_state_that_may_be_stored_is_recognised_before_a_new_one,
                an_identical_state_is_another_writers_at_the_first_attempt,
                another_state_is_not_taken_for_ones_own,
                a_state_that_may_be_stored_is_recognised_through_another_store,
                a_state_that_was_given_up_can_be_sent_again,
                a_load_that_was_given_up_leaves_the_store_usable,
                two_stores_racing_for_a_revision_have_one_winner,
                two_stores_racing_with_states_have_one_winner_per_entity,
                states_at_the_same_time_are_all_stored,
                a_deleted_state_is_gone,
                a_deleted_state_can_be_put_again,
                deleting_a_state_that_never_was,
                deleting_a_state_twice,
                a_stale_delete_is_refused,
                a_delete_that_may_be_done_is_recognised,
                puts_and_deletes_in_one_batch_are_one_change,
                however_changes_are_batched_they_leave_the_same_rows,
                removing_takes_everything_of_one_id,
                a_removed_state_begins_anew,
                nothing_goes_with_a_state_where_rows_are_removed,
                another_store_sees_the_state,
                a_closed_durable_state_store_is_unavailable,
                states_are_there_after_opening_again,
            ]
        );
    };
}

const MAX: u64 = i64::MAX.unsigned_abs();

fn state_of(
    id: &PersistenceId,
    expected: u64,
    payload: SerializedPayload,
    tags: &[&str],
) -> StateWrite {
    let tags = tags.iter().map(|&tag| tag.to_owned()).collect();
    change(id, expected, StateChange::Put { payload, tags })
}

/// A state whose payload is `text`, without tags.
fn state(id: &PersistenceId, expected: u64, text: &str) -> StateWrite {
    state_of(id, expected, payload(text), &[])
}

fn refused_state(id: &PersistenceId, expected: u64) -> StateWrite {
    let refused = SerializedPayload::new(REFUSED_SERIALIZER, "State", &b"refused"[..]);
    state_of(id, expected, refused, &[])
}

fn delete(id: &PersistenceId, expected: u64) -> StateWrite {
    change(id, expected, StateChange::Delete)
}

fn change(id: &PersistenceId, expected: u64, change: StateChange) -> StateWrite {
    StateWrite::new(id.clone(), seq(expected), seq(expected + 1), change).expect("a valid write")
}

/// The same write once more, after nobody has learnt what became of it.
fn again(write: &StateWrite) -> StateWrite {
    let mut write = write.clone();
    write.maybe_stored = true;
    write
}

/// Writes one batch and checks that there is an answer for each write.
async fn write_batch(
    store: &dyn DurableStateStore,
    batch: &[StateWrite],
) -> Vec<Result<Written, Error>> {
    let answers = store.write_states(batch).await;
    assert_eq!(answers.len(), batch.len(), "one answer per write");
    answers
}

async fn write_one(store: &dyn DurableStateStore, write: &StateWrite) -> Result<Written, Error> {
    write_batch(store, std::slice::from_ref(write))
        .await
        .remove(0)
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

/// The revision and the payload as text, none of a marker; revision 0 without a row.
async fn found(store: &dyn DurableStateStore, id: &PersistenceId) -> (u64, Option<String>) {
    match load(store, id).await {
        None => (0, None),
        Some(row) => {
            let text =
                |payload: SerializedPayload| String::from_utf8_lossy(&payload.bytes).into_owned();
            (row.revision.value(), row.payload.map(text))
        }
    }
}

async fn check_state(
    store: &dyn DurableStateStore,
    id: &PersistenceId,
    revision: u64,
    text: Option<&str>,
) {
    let expected = (revision, text.map(str::to_owned));
    assert_eq!(found(store, id).await, expected, "{id}");
}

/// What is there after a deletion that made `revision`.
async fn check_deleted(
    fixture: &dyn StoreFixture,
    store: &dyn DurableStateStore,
    id: &PersistenceId,
    revision: u64,
) {
    match fixture.durable_state_delete() {
        DurableStateDelete::Row => check_state(store, id, 0, None).await,
        _ => check_state(store, id, revision, None).await,
    }
}

fn check_stale(answer: &Result<Written, Error>, id: &PersistenceId, expected: u64, there: u64) {
    match answer {
        Err(
            error @ Error::StaleRevision {
                persistence_id,
                expected: wanted,
                found,
            },
        ) => {
            assert_eq!(persistence_id, id);
            assert_eq!(wanted.value(), expected, "the revision that was expected");
            assert_eq!(found.value(), there, "the revision that is there");
            assert!(!error.is_retryable() && !error.is_outcome_unknown());
        }
        other => panic!("expected that {id} has revision {there}, got {other:?}"),
    }
}

async fn refuse(fixture: &dyn StoreFixture) {
    fixture.refuse_serializer(REFUSED_SERIALIZER).await;
}

// ---- what is written comes back ----

/// A state comes back with its revision and the time of the answer, the first one and those that
/// take its place.
pub async fn a_state_comes_back(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let cart = id("a");
    for expected in 0..3 {
        let text = format!("state {expected}");
        let written = store_one(&*store, &state(&cart, expected, &text)).await;
        let row = StoredState {
            revision: seq(expected + 1),
            timestamp: written.timestamp,
            payload: Some(payload(text)),
            tags: Vec::new(),
        };
        assert_eq!(load(&*store, &cart).await, Some(row));
    }
}

/// Serializer id, manifest, bytes and tags come back unchanged, also the odd ones, and every write
/// replaces all of them: lone and in a batch, inserted and updated.
pub async fn payloads_and_tags_come_back(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    let odd: [(SerializedPayload, &[&str]); 5] = [
        (SerializedPayload::new(SERIALIZER, "", Vec::new()), &[]),
        (
            SerializedPayload::new(i32::MAX, "😀".repeat(255), every_byte),
            &["red"],
        ),
        (
            SerializedPayload::new(i32::MIN, "it's \"{a,b}\" \\ %_;--", vec![0xff; 3]),
            &["", "a,b", "{c}", "\"d\"", "e\\f", "NULL", "'", "주문", "😀"],
        ),
        (
            SerializedPayload::new(-1, " 가나다 ", b"NULL".to_vec()),
            &[],
        ),
        (
            SerializedPayload::new(SERIALIZER, "State#2", vec![0]),
            &["red", "blue"],
        ),
    ];
    let check = async |id: &PersistenceId, (payload, tags): &(SerializedPayload, &[&str])| {
        let row = load(&*store, id).await.expect("a row");
        assert_eq!(row.payload.as_ref(), Some(payload), "{id}");
        let stored: BTreeSet<&str> = row.tags.iter().map(String::as_str).collect();
        assert_eq!(stored, tags.iter().copied().collect(), "{id}");
        assert_eq!(row.tags.len(), tags.len(), "{id}");
    };
    let lone = id("lone");
    for (expected, one) in (0..).zip(&odd) {
        store_one(&*store, &state_of(&lone, expected, one.0.clone(), one.1)).await;
        check(&lone, one).await;
    }
    // Every state on every id, inserted first and updated then.
    for round in 0..odd.len() {
        let of = |n: usize| &odd[(n + round) % odd.len()];
        let ids: Vec<PersistenceId> = (0..odd.len()).map(|n| id(&format!("{n}"))).collect();
        let batch: Vec<StateWrite> = ids
            .iter()
            .enumerate()
            .map(|(n, id)| {
                let expected = u64::try_from(round).expect("small");
                state_of(id, expected, of(n).0.clone(), of(n).1)
            })
            .collect();
        store_all(&*store, &batch).await;
        for (n, id) in ids.iter().enumerate() {
            check(id, of(n)).await;
        }
    }
}

/// A state of 4 MiB comes back, in a batch with small ones.
pub async fn a_state_of_mebibytes_comes_back(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let bytes: Vec<u8> = (0..=250_u8).cycle().take(4 << 20).collect();
    let (small, large) = (id("small"), id("large"));
    for expected in 0..2 {
        let batch = [
            state(&small, expected, "small"),
            state_of(&large, expected, payload(&bytes), &[]),
        ];
        store_all(&*store, &batch).await;
        let row = load(&*store, &large).await.expect("a row");
        let stored = row.payload.expect("a state");
        assert!(stored.bytes == bytes, "4 MiB come back");
        check_state(&*store, &small, expected + 1, Some("small")).await;
    }
}

/// An id that was never written has no state.
pub async fn an_unknown_id_has_no_state(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    store_one(&*store, &state(&id("a"), 0, "state")).await;
    assert_eq!(load(&*store, &id("b")).await, None);
}

/// Every id has its own state: ids of 255 characters, without entity type, alike but for case,
/// accents or spaces.
pub async fn states_of_several_ids_are_kept_apart(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let ids = [
        format!("계좌|{}", "가".repeat(252)),
        format!("User|{}", "😀".repeat(250)),
        "Cart|a".to_owned(),
        "cart|a".to_owned(),
        "Cart|a ".to_owned(),
        "Cart|".to_owned(),
        "|a".to_owned(),
        "a".to_owned(),
        "Device|\u{e9}".to_owned(),
        "Device|e\u{301}".to_owned(),
        "Account|alice|DC-A".to_owned(),
        "Cart|it's \"x\"; -- %_\\ $1 ?1".to_owned(),
        "Cart|{a,b}".to_owned(),
        "Cart|NULL".to_owned(),
    ]
    .map(|text| PersistenceId::of_unique_id(&text).expect("a valid id"));
    for expected in 0..2 {
        let batch: Vec<StateWrite> = ids
            .iter()
            .map(|id| state(id, expected, &format!("{expected} {id}")))
            .collect();
        store_all(&*store, &batch).await;
        for id in &ids {
            let text = format!("{expected} {id}");
            check_state(&*store, id, expected + 1, Some(&text)).await;
        }
    }
    for id in &ids {
        store_one(&*store, &state(id, 2, id.as_str())).await;
    }
    for id in &ids {
        check_state(&*store, id, 3, Some(id.as_str())).await;
    }
}

/// The revision `i64::MAX` is stored, read and expected.
pub async fn the_largest_revision_is_usable(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let cart = id("a");
    let put = |expected, revision, text: &str| {
        let (payload, tags) = (payload(text), Vec::new());
        let put = StateChange::Put { payload, tags };
        StateWrite::new(cart.clone(), seq(expected), seq(revision), put).expect("a valid write")
    };
    store_one(&*store, &put(0, MAX - 1, "last but one")).await;
    store_one(&*store, &put(MAX - 1, MAX, "last")).await;
    check_state(&*store, &cart, MAX, Some("last")).await;
    let stale = write_one(&*store, &put(MAX - 1, MAX, "stale")).await;
    check_stale(&stale, &cart, MAX - 1, MAX);
}

/// A row with serializer id 0 and bytes is damaged: it is no state, and no marker.
pub async fn a_row_that_is_no_state_is_corrupt(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let (a, b) = (id("a"), id("b"));
    store_all(&*store, &[state(&a, 0, "one"), state(&b, 0, "one")]).await;
    store_one(&*store, &state(&a, 1, "two")).await;
    fixture.damage_state(&a).await;
    match store.load(&a).await {
        Err(error @ Error::Corrupt { .. }) => {
            let text = error.to_string();
            assert!(text.contains("Cart|a") && text.contains("row 2"), "{text}");
            assert!(!error.is_retryable());
        }
        other => panic!("expected a damaged row, got {other:?}"),
    }
    check_state(&*store, &b, 1, Some("one")).await;
}

// ---- batches and timestamps ----

/// A batch without writes has no answers.
pub async fn an_empty_batch_of_states_is_answered_with_nothing(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    assert!(store.write_states(&[]).await.is_empty());
}

/// The answers stand in the order of the batch, whatever the order of its ids and whether their
/// rows are new.
pub async fn a_batch_of_states_is_answered_in_its_order(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    // 89 and 500 have no common divisor, so this visits all numbers below 500 in a wild order.
    let ids: Vec<PersistenceId> = (0..500).map(|n| id(&format!("{}", n * 89 % 500))).collect();
    let old: Vec<StateWrite> = ids
        .iter()
        .step_by(3)
        .map(|id| state(id, 0, "old"))
        .collect();
    store_all(&*store, &old).await;
    let batch: Vec<StateWrite> = ids
        .iter()
        .enumerate()
        .map(|(n, id)| state(id, u64::from(n % 3 == 0), id.as_str()))
        .collect();
    let answers = store_all(&*store, &batch).await;
    for (write, written) in batch.iter().zip(answers) {
        let id = write.persistence_id();
        let row = load(&*store, id).await.expect("a row");
        assert_eq!(row.timestamp, written.timestamp, "{id}");
        assert_eq!(row.revision, write.revision(), "{id}");
        assert_eq!(row.payload, Some(payload(id.as_str())), "{id}");
    }
}

/// The way of a single write and the way of a batch lead to the same rows: inserted, updated and
/// deleted.
pub async fn a_lone_state_and_a_batch_store_the_same(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let (lone, batched) = (id("lone"), id("batched"));
    let full = SerializedPayload::new(SERIALIZER, "M", &b"e"[..]);
    let changes = |id: &PersistenceId| {
        [
            state_of(id, 0, full.clone(), &["red"]),
            state_of(id, 1, full.clone(), &["red", "blue"]),
            delete(id, 2),
        ]
    };
    for (n, (one, two)) in (1..).zip(changes(&lone).into_iter().zip(changes(&batched))) {
        store_one(&*store, &one).await;
        let other = id(&format!("other-{n}"));
        store_all(&*store, &[state(&other, 0, "other"), two]).await;
        let mut rows = Vec::new();
        for id in [&lone, &batched] {
            let row = load(&*store, id).await;
            let without_time = |row: StoredState| StoredState {
                timestamp: Timestamp::UNIX_EPOCH,
                ..row
            };
            rows.push(row.map(without_time));
        }
        assert_eq!(rows[0], rows[1], "after {n} writes");
    }
}

/// Every write of a batch has a timestamp of its own, so that no reader meets thousands of rows
/// with one.
pub async fn the_states_of_one_batch_have_timestamps_of_their_own(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    for expected in 0..2 {
        let batch: Vec<StateWrite> = (0..100)
            .map(|n| state(&id(&format!("{n}")), expected, "state"))
            .collect();
        let answers = store_all(&*store, &batch).await;
        let times: BTreeSet<Timestamp> = answers.iter().map(|written| written.timestamp).collect();
        assert_eq!(times.len(), batch.len());
    }
}

/// A later revision has a later timestamp, however fast it follows: alone, in batches and as a
/// marker.
pub async fn timestamps_increase_from_revision_to_revision(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let (a, b) = (id("a"), id("b"));
    let mut latest = [Timestamp::UNIX_EPOCH; 2];
    let mut check = |n: usize, written: Written| {
        assert!(written.timestamp > latest[n], "{}", latest[n]);
        latest[n] = written.timestamp;
    };
    for expected in 0..10 {
        if expected % 2 == 0 {
            let batch = [state(&b, expected, "b"), state(&a, expected, "a")];
            let answers = store_all(&*store, &batch).await;
            check(1, answers[0]);
            check(0, answers[1]);
        } else {
            check(0, store_one(&*store, &state(&a, expected, "a")).await);
            check(1, store_one(&*store, &state(&b, expected, "b")).await);
        }
    }
    check(0, store_one(&*store, &delete(&a, 10)).await);
}

/// Where the store promises it, a state that is committed later is later in time, whatever the
/// entities.
pub async fn commit_order_of_states_is_time_order_where_promised(fixture: &dyn StoreFixture) {
    if !fixture.commit_order_is_time_order() {
        return;
    }
    let store = fixture.store().durable_state_store();
    let other = fixture.open_again().await.durable_state_store();
    let mut latest = Timestamp::UNIX_EPOCH;
    for n in 0..20 {
        let store = if n % 2 == 0 { &other } else { &store };
        let batch = [
            state(&id(&format!("{}", n % 3)), n / 3, "state"),
            state(&id(&format!("{n}-new")), 0, "state"),
        ];
        for written in store_all(&**store, &batch).await {
            assert!(written.timestamp > latest);
            latest = written.timestamp;
        }
    }
}

// ---- revisions ----

/// A write that expects another revision than the row's is refused with the row's revision, alone
/// and in a batch, and the row stays.
pub async fn a_stale_state_is_refused(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let (cart, good) = (id("a"), id("good"));
    for expected in 0..3 {
        store_one(&*store, &state(&cart, expected, "theirs")).await;
    }
    for (n, expected) in [0, 1, 2, 4, 5].into_iter().enumerate() {
        let ours = state(&cart, expected, "ours");
        check_stale(&write_one(&*store, &ours).await, &cart, expected, 3);
        let batch = [ours, state(&good, u64::try_from(n).expect("small"), "good")];
        let answers = write_batch(&*store, &batch).await;
        check_stale(&answers[0], &cart, expected, 3);
        assert!(answers[1].is_ok(), "{answers:?}");
        check_state(&*store, &cart, 3, Some("theirs")).await;
    }
    store_one(&*store, &state(&cart, 3, "next")).await;
}

/// A first write beside a later revision is refused and leaves no second row, also when it makes a
/// revision that no row has.
pub async fn a_first_state_beside_a_later_revision_is_refused(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let cart = id("a");
    store_one(&*store, &state(&cart, 0, "one")).await;
    store_one(&*store, &state(&cart, 1, "two")).await;
    for revision in [1, 2, 3, 7] {
        let (payload, tags) = (payload("stale"), Vec::new());
        let put = StateChange::Put { payload, tags };
        let stale = StateWrite::new(cart.clone(), SequenceNr::ZERO, seq(revision), put)
            .expect("a valid write");
        check_stale(&write_one(&*store, &stale).await, &cart, 0, 2);
        let batch = [stale, state(&id(&format!("new-{revision}")), 0, "new")];
        check_stale(&write_batch(&*store, &batch).await[0], &cart, 0, 2);
        check_state(&*store, &cart, 2, Some("two")).await;
    }
    store_one(&*store, &state(&cart, 2, "three")).await;
    check_state(&*store, &cart, 3, Some("three")).await;
}

/// A write that expects a revision of an id without row is refused where deleting leaves a marker,
/// and makes the row where deleting removes it.
pub async fn a_state_whose_row_is_gone(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let (lone, batched) = (id("lone"), id("batched"));
    let one = write_one(&*store, &state(&lone, 4, "five")).await;
    let batch = [state(&id("new"), 0, "new"), state(&batched, 4, "five")];
    let two = write_batch(&*store, &batch).await.remove(1);
    for (id, answer) in [(&lone, one), (&batched, two)] {
        match fixture.durable_state_delete() {
            DurableStateDelete::Row => {
                let timestamp = answer.expect("the row is made").timestamp;
                check_state(&*store, id, 5, Some("five")).await;
                let row = load(&*store, id).await.expect("a row");
                assert_eq!(row.timestamp, timestamp);
            }
            _ => {
                check_stale(&answer, id, 4, 0);
                check_state(&*store, id, 0, None).await;
            }
        }
    }
    check_state(&*store, &id("new"), 1, Some("new")).await;
}

/// A write that stands for several updates makes a revision further on.
pub async fn a_revision_may_be_passed_over(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let (a, b) = (id("a"), id("b"));
    let put = |id: &PersistenceId, expected, revision| {
        let (payload, tags) = (payload(format!("{revision}")), Vec::new());
        let put = StateChange::Put { payload, tags };
        StateWrite::new(id.clone(), seq(expected), seq(revision), put).expect("a valid write")
    };
    store_one(&*store, &put(&a, 0, 3)).await;
    store_one(&*store, &put(&a, 3, 10)).await;
    store_all(&*store, &[put(&b, 0, 3), put(&a, 10, 12)]).await;
    store_all(&*store, &[put(&b, 3, 10), put(&a, 12, 13)]).await;
    check_state(&*store, &a, 13, Some("13")).await;
    check_state(&*store, &b, 10, Some("10")).await;
}

/// Several writes of an entity in one batch are all answered as written, and the last one's state
/// is there.
pub async fn several_states_of_an_entity_leave_the_last(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let (a, b, c) = (id("a"), id("b"), id("c"));
    store_one(&*store, &state(&b, 0, "b1")).await;
    let batch = [
        state(&b, 1, "b2"),
        state(&a, 0, "a1"),
        state(&b, 2, "b3"),
        state(&c, 0, "c1"),
        state(&a, 1, "a2"),
        state(&b, 3, "b4"),
    ];
    let answers = store_all(&*store, &batch).await;
    for (id, revision, text, last) in [(&a, 2, "a2", 4), (&b, 4, "b4", 5), (&c, 1, "c1", 3)] {
        check_state(&*store, id, revision, Some(text)).await;
        let row = load(&*store, id).await.expect("a row");
        assert_eq!(row.timestamp, answers[last].timestamp, "{id}");
    }
    store_one(&*store, &state(&a, 2, "a3")).await;
}

/// A write that does not expect what the one before it in the batch makes is refused, and the later
/// ones of that entity with it; the earlier ones are stored.
pub async fn states_out_of_order_are_refused(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let (a, b) = (id("a"), id("b"));
    let batch = [
        state(&a, 0, "a1"),
        state(&b, 0, "b1"),
        state(&a, 2, "a3"),
        state(&a, 3, "a4"),
        state(&b, 0, "again"),
    ];
    let answers = write_batch(&*store, &batch).await;
    assert!(answers[0].is_ok() && answers[1].is_ok(), "{answers:?}");
    check_stale(&answers[2], &a, 2, 1);
    assert!(matches!(answers[3], Err(Error::StaleRevision { .. })));
    check_stale(&answers[4], &b, 0, 1);
    check_state(&*store, &a, 1, Some("a1")).await;
    check_state(&*store, &b, 1, Some("b1")).await;
}

// ---- what fails, fails alone ----

/// Stores bad writes scattered among a thousand good ones, of which every other one has a row,
/// checks that all good ones are stored as answered, and returns the answers of the bad ones.
async fn among_a_thousand(
    store: &dyn DurableStateStore,
    bad: Vec<StateWrite>,
) -> Vec<Result<Written, Error>> {
    const GOOD: u64 = 1_000;
    let good = |n: u64| id(&format!("good-{n}"));
    let old: Vec<StateWrite> = (0..GOOD)
        .step_by(2)
        .map(|n| state(&good(n), 0, "old"))
        .collect();
    store_all(store, &old).await;
    let mut batch: Vec<StateWrite> = (0..GOOD)
        .map(|n| state(&good(n), u64::from(n % 2 == 0), "good"))
        .collect();
    let bad_ids: BTreeSet<PersistenceId> = bad.iter().map(|w| w.persistence_id().clone()).collect();
    scatter(bad, &mut batch);

    let mut bad_answers = Vec::new();
    for (write, answer) in batch.iter().zip(write_batch(store, &batch).await) {
        let id = write.persistence_id();
        if bad_ids.contains(id) {
            bad_answers.push(answer);
            continue;
        }
        let written = answer.unwrap_or_else(|error| panic!("{id} failed with others: {error}"));
        let row = load(store, id).await.expect("a row");
        assert_eq!(row.payload, Some(payload("good")), "{id}");
        assert_eq!(row.timestamp, written.timestamp, "{id}");
    }
    bad_answers
}

/// One stale write in a batch of a thousand good ones fails alone.
pub async fn a_stale_state_among_a_thousand_fails_alone(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let (inserted, updated) = (id("inserted"), id("updated"));
    store_one(&*store, &state(&inserted, 0, "theirs")).await;
    store_one(&*store, &state(&updated, 0, "theirs")).await;
    store_one(&*store, &state(&updated, 1, "theirs")).await;
    let bad = vec![state(&inserted, 0, "ours"), state(&updated, 1, "ours")];
    let answers = among_a_thousand(&*store, bad).await;
    check_stale(&answers[0], &inserted, 0, 1);
    check_stale(&answers[1], &updated, 1, 2);
    check_state(&*store, &inserted, 1, Some("theirs")).await;
    check_state(&*store, &updated, 2, Some("theirs")).await;
}

/// One refused row in a batch of a thousand good ones fails alone, inserted or updated.
pub async fn a_refused_state_among_a_thousand_fails_alone(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    refuse(fixture).await;
    let (inserted, updated) = (id("inserted"), id("updated"));
    store_one(&*store, &state(&updated, 0, "old")).await;
    let bad = vec![refused_state(&inserted, 0), refused_state(&updated, 1)];
    let answers = among_a_thousand(&*store, bad).await;
    check_rejected(&answers[0], &inserted);
    check_rejected(&answers[1], &updated);
    check_state(&*store, &inserted, 0, None).await;
    check_state(&*store, &updated, 1, Some("old")).await;
}

/// Stale writes, refused rows and rows that are gone, all in one batch of a thousand good writes:
/// each fails alone and with its own error.
pub async fn bad_states_of_every_kind_among_a_thousand_fail_alone(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    refuse(fixture).await;
    let ids = ["stale", "first", "refused", "refused-new", "ahead"].map(id);
    let [stale, first, refused, refused_new, ahead] = &ids;
    let old: Vec<StateWrite> = [stale, first, refused, ahead]
        .iter()
        .flat_map(|id| [state(id, 0, "old"), state(id, 1, "theirs")])
        .collect();
    store_all(&*store, &old).await;
    let bad = vec![
        state(stale, 1, "ours"),
        state(first, 0, "ours"),
        refused_state(refused, 2),
        refused_state(refused_new, 0),
        state(ahead, 3, "ours"),
    ];
    let answers = among_a_thousand(&*store, bad).await;
    check_stale(&answers[0], stale, 1, 2);
    check_stale(&answers[1], first, 0, 2);
    check_rejected(&answers[2], refused);
    check_rejected(&answers[3], refused_new);
    check_stale(&answers[4], ahead, 3, 2);
    for id in [stale, first, refused, ahead] {
        check_state(&*store, id, 2, Some("theirs")).await;
    }
    check_state(&*store, refused_new, 0, None).await;
}

/// A batch in which everything fails answers each write with its own error.
pub async fn a_batch_of_nothing_but_bad_states_fails_one_by_one(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    refuse(fixture).await;
    let names = ["a", "b", "c", "d", "e", "f"];
    for name in ["a", "c", "e"] {
        store_one(&*store, &state(&id(name), 0, "theirs")).await;
    }
    let batch = names.map(|name| refused_state(&id(name), 0));
    let answers = write_batch(&*store, &batch).await;
    for (name, answer) in names.into_iter().zip(answers) {
        // Whether a refused row that is stale as well is the one or the other is the database's
        // choice; nothing of it is stored either way.
        match answer {
            Err(Error::Rejected { persistence_id, .. }) => assert_eq!(persistence_id, id(name)),
            Err(Error::StaleRevision { persistence_id, .. }) if "ace".contains(name) => {
                assert_eq!(persistence_id, id(name));
            }
            other => panic!("expected that {name} fails, got {other:?}"),
        }
    }
    for name in ["b", "d", "f"] {
        check_state(&*store, &id(name), 0, None).await;
    }
}

/// A state that the database refuses is rejected, alone, and the one before stays.
pub async fn a_refused_state_leaves_the_older(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    refuse(fixture).await;
    let cart = id("a");
    check_rejected(&write_one(&*store, &refused_state(&cart, 0)).await, &cart);
    check_state(&*store, &cart, 0, None).await;
    store_one(&*store, &state(&cart, 0, "one")).await;
    let answer = write_one(&*store, &refused_state(&cart, 1)).await;
    check_rejected(&answer, &cart);
    let error = answer.expect_err("a rejection");
    assert!(!error.is_retryable() && !error.is_outcome_unknown());
    check_state(&*store, &cart, 1, Some("one")).await;
    store_one(&*store, &state(&cart, 1, "two")).await;
}

/// When a write of an entity is rejected, its later ones in the batch fail with an error of the
/// same kind; its earlier ones and other entities' are stored.
pub async fn later_states_of_an_entity_fail_with_its_refused_one(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    refuse(fixture).await;
    let (a, b, c) = (id("a"), id("b"), id("c"));
    store_one(&*store, &state(&c, 0, "c1")).await;
    let batch = [
        state(&a, 0, "a1"),
        state(&b, 0, "b1"),
        state(&a, 1, "a2"),
        refused_state(&a, 2),
        state(&b, 1, "b2"),
        refused_state(&c, 1),
        refused_state(&a, 3),
        refused_state(&c, 2),
    ];
    let answers = write_batch(&*store, &batch).await;
    for good in [0, 1, 2, 4] {
        assert!(answers[good].is_ok(), "{good}: {:?}", answers[good]);
    }
    for (bad, id) in [(3, &a), (5, &c), (6, &a), (7, &c)] {
        check_rejected(&answers[bad], id);
    }
    check_state(&*store, &a, 2, Some("a2")).await;
    check_state(&*store, &b, 2, Some("b2")).await;
    check_state(&*store, &c, 1, Some("c1")).await;
    let row = load(&*store, &a).await.expect("a row");
    let written = answers[2].as_ref().map(|written| written.timestamp);
    assert_eq!(written.ok(), Some(row.timestamp));

    // One that is passed over for a later one may be stored with that, or fail with it; then the
    // database has seen it.
    let batch = [refused_state(&c, 1), state(&c, 2, "c3")];
    let answers = write_batch(&*store, &batch).await;
    if answers[0].is_ok() {
        assert!(answers[1].is_ok(), "{answers:?}");
        check_state(&*store, &c, 3, Some("c3")).await;
    } else {
        check_rejected(&answers[0], &c);
        check_rejected(&answers[1], &c);
        check_state(&*store, &c, 1, Some("c1")).await;
    }
}

/// When a write of an entity is stale, its later ones in the batch are as well.
pub async fn later_states_of_an_entity_fail_with_its_stale_one(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let (a, b) = (id("a"), id("b"));
    store_all(&*store, &[state(&a, 0, "theirs"), state(&a, 1, "theirs")]).await;
    let batch = [
        state(&a, 0, "a1"),
        state(&b, 0, "b1"),
        state(&a, 1, "a2"),
        // It would fit by itself.
        state(&a, 2, "a3"),
    ];
    let answers = write_batch(&*store, &batch).await;
    check_stale(&answers[0], &a, 0, 2);
    assert!(answers[1].is_ok());
    for later in [2, 3] {
        match &answers[later] {
            Err(Error::StaleRevision { persistence_id, .. }) => assert_eq!(persistence_id, &a),
            other => panic!("expected a stale revision, got {other:?}"),
        }
    }
    check_state(&*store, &a, 2, Some("theirs")).await;
    check_state(&*store, &b, 1, Some("b1")).await;
}

// ---- the identical write ----

/// A write that is sent again because it may be stored, and is, is answered with its time and
/// changes nothing: the first one and later ones, with tags in any order.
pub async fn a_state_that_may_be_stored_is_recognised(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let cart = id("a");
    let tags = ["red", "blue", ""];
    for expected in 0..3 {
        let write = state_of(&cart, expected, payload("state"), &tags[..]);
        let written = store_one(&*store, &write).await;
        for _ in 0..2 {
            assert_eq!(store_one(&*store, &again(&write)).await, written);
            let batch = [again(&write), again(&state(&id("b"), 0, "b"))];
            assert_eq!(store_all(&*store, &batch).await[0], written);
        }
        let row = load(&*store, &cart).await.expect("a row");
        assert_eq!(row.timestamp, written.timestamp);
        assert_eq!(row.revision.value(), expected + 1);
    }
    // One that was not stored is stored now.
    store_one(&*store, &again(&state(&cart, 3, "four"))).await;
    check_state(&*store, &cart, 4, Some("four")).await;
}

/// A whole batch may be sent again.
pub async fn a_batch_that_may_be_stored_is_recognised(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let batch: Vec<StateWrite> = (0..300)
        .map(|n| state(&id(&format!("{}", n % 100)), n / 100, &format!("{n}")))
        .collect();
    let first = store_all(&*store, &batch).await;
    let same: Vec<StateWrite> = batch.iter().map(again).collect();
    assert_eq!(store_all(&*store, &same).await, first);
    for n in 0..100 {
        let text = format!("{}", n + 200);
        check_state(&*store, &id(&format!("{n}")), 3, Some(&text)).await;
    }
}

/// What is stored already is recognised in a batch with new writes of its own entity behind it, and
/// of others.
pub async fn a_state_that_may_be_stored_is_recognised_before_a_new_one(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let (a, b, c) = (id("a"), id("b"), id("c"));
    let stored = [state(&a, 0, "a1"), state(&a, 1, "a2"), state(&b, 0, "b1")];
    store_all(&*store, &stored).await;
    let batch = [
        state(&c, 0, "c1"),
        again(&stored[0]),
        again(&stored[1]),
        state(&a, 2, "a3"),
        again(&stored[2]),
        state(&c, 1, "c2"),
        state(&a, 3, "a4"),
        state(&b, 1, "b2"),
    ];
    store_all(&*store, &batch).await;
    check_state(&*store, &a, 4, Some("a4")).await;
    check_state(&*store, &b, 2, Some("b2")).await;
    check_state(&*store, &c, 2, Some("c2")).await;
    // Only the first of two was stored before.
    let half = state(&b, 2, "b3");
    store_one(&*store, &half).await;
    store_all(&*store, &[again(&half), again(&state(&b, 3, "b4"))]).await;
    check_state(&*store, &b, 4, Some("b4")).await;
}

/// At the first attempt whatever stands in the place of the write is another writer's, also if it
/// is the same: two that each add one to the same state are two, and one of them has to be told.
pub async fn an_identical_state_is_another_writers_at_the_first_attempt(
    fixture: &dyn StoreFixture,
) {
    let store = fixture.store().durable_state_store();
    let cart = id("a");
    for expected in 0..2 {
        let write = state(&cart, expected, "same");
        store_one(&*store, &write).await;
        let there = expected + 1;
        check_stale(&write_one(&*store, &write).await, &cart, expected, there);
        let batch = [write, state(&id("b"), expected, "b")];
        let answers = write_batch(&*store, &batch).await;
        check_stale(&answers[0], &cart, expected, there);
    }
    store_one(&*store, &delete(&cart, 2)).await;
    if fixture.durable_state_delete() == DurableStateDelete::Marker {
        let answer = write_one(&*store, &delete(&cart, 2)).await;
        check_stale(&answer, &cart, 2, 3);
    }
}

/// A row with other content is another writer's, whatever may be stored.
pub async fn another_state_is_not_taken_for_ones_own(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let cart = id("a");
    let theirs = SerializedPayload::new(SERIALIZER, "State", &b"theirs"[..]);
    store_one(&*store, &state(&cart, 0, "one")).await;
    store_one(&*store, &state_of(&cart, 1, theirs.clone(), &["red"])).await;
    let ours = [
        state_of(
            &cart,
            1,
            SerializedPayload::new(SERIALIZER, "State", &b"ours"[..]),
            &["red"],
        ),
        state_of(
            &cart,
            1,
            SerializedPayload::new(SERIALIZER + 1, "State", &b"theirs"[..]),
            &["red"],
        ),
        state_of(
            &cart,
            1,
            SerializedPayload::new(SERIALIZER, "State#2", &b"theirs"[..]),
            &["red"],
        ),
        state_of(&cart, 1, theirs.clone(), &[]),
        state_of(&cart, 1, theirs.clone(), &["red", "blue"]),
        delete(&cart, 1),
    ];
    for write in &ours {
        check_stale(&write_one(&*store, &again(write)).await, &cart, 1, 2);
    }
    // An older one of ours cannot be told from one that was never stored.
    let older = again(&state(&cart, 0, "one"));
    check_stale(&write_one(&*store, &older).await, &cart, 0, 2);
    check_state(&*store, &cart, 2, Some("theirs")).await;
}

/// Another store on the same data recognises the identical write.
pub async fn a_state_that_may_be_stored_is_recognised_through_another_store(
    fixture: &dyn StoreFixture,
) {
    let store = fixture.store().durable_state_store();
    let other = fixture.open_again().await.durable_state_store();
    let cart = id("a");
    for expected in 0..2 {
        let write = state(&cart, expected, "state");
        let written = store_one(&*store, &write).await;
        assert_eq!(store_one(&*other, &again(&write)).await, written);
    }
}

// ---- futures that were dropped ----

/// A write whose future was dropped at any moment may be sent again, identically, and the store
/// stays usable.
pub async fn a_state_that_was_given_up_can_be_sent_again(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    for polls in 0..30 {
        let (a, b) = (id(&format!("a-{polls}")), id(&format!("b-{polls}")));
        for expected in [0, 2] {
            let lone = [state(&a, expected, "lone")];
            let batch = [
                state(&a, expected + 1, "batch"),
                state(&b, expected, "batch"),
                state(&b, expected + 1, "batch"),
            ];
            for batch in [&lone[..], &batch[..]] {
                give_up_after(polls, store.write_states(batch)).await;
                let same: Vec<StateWrite> = batch.iter().map(again).collect();
                store_all(&*store, &same).await;
            }
        }
        for id in [&a, &b] {
            check_state(&*store, id, 4, Some("batch")).await;
        }
    }
}

/// Dropped loads take no connection or lock with them.
pub async fn a_load_that_was_given_up_leaves_the_store_usable(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let cart = id("a");
    store_one(&*store, &state(&cart, 0, "one")).await;
    for polls in 0..60 {
        give_up_after(polls, store.load(&cart)).await;
    }
    check_state(&*store, &cart, 1, Some("one")).await;
    store_one(&*store, &state(&cart, 1, "two")).await;
}

// ---- several at the same time ----

fn spawn_write(
    store: &Arc<dyn DurableStateStore>,
    batch: Vec<StateWrite>,
) -> tokio::task::JoinHandle<Vec<Result<Written, Error>>> {
    let store = Arc::clone(store);
    tokio::spawn(async move { write_batch(&*store, &batch).await })
}

/// Of two stores that make the same revision at the same time exactly one wins, the first one
/// included, and its state is the stored one.
pub async fn two_stores_racing_for_a_revision_have_one_winner(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let other = fixture.open_again().await.durable_state_store();
    for cart in (0..5).map(|n| id(&format!("{n}"))) {
        for expected in 0..10 {
            let one = spawn_write(&store, vec![state(&cart, expected, "one")]);
            let two = spawn_write(&other, vec![state(&cart, expected, "two")]);
            let one = one.await.expect("no panic").remove(0);
            let two = two.await.expect("no panic").remove(0);
            let (winner, loser) = winner_and_loser(&cart, &one, &two);
            check_stale(loser, &cart, expected, expected + 1);
            check_state(&*store, &cart, expected + 1, Some(winner)).await;
        }
    }
}

/// Two stores that write batches of the same entities at the same time, in opposite order, don't
/// block each other for ever, and each entity's revision has exactly one winner.
pub async fn two_stores_racing_with_states_have_one_winner_per_entity(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let other = fixture.open_again().await.durable_state_store();
    let ids: Vec<PersistenceId> = (0..60).map(|n| id(&format!("{n}"))).collect();
    for expected in 0..6 {
        let batch = |text: &str| -> Vec<StateWrite> {
            ids.iter().map(|id| state(id, expected, text)).collect()
        };
        let mut reversed = batch("two");
        reversed.reverse();
        let one = spawn_write(&store, batch("one"));
        let two = spawn_write(&other, reversed);
        let one = one.await.expect("no panic");
        let mut two = two.await.expect("no panic");
        two.reverse();
        for ((id, one), two) in ids.iter().zip(&one).zip(&two) {
            let (winner, loser) = winner_and_loser(id, one, two);
            check_stale(loser, id, expected, expected + 1);
            check_state(&*store, id, expected + 1, Some(winner)).await;
        }
    }
}

/// Lone writes and batches of different entities through one store at the same time are all
/// stored as answered.
pub async fn states_at_the_same_time_are_all_stored(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    for expected in 0..2 {
        let tasks: Vec<_> = (0..40)
            .map(|task| {
                let entities = if task % 3 == 0 { 1 } else { 5 };
                let batch: Vec<StateWrite> = (0..entities)
                    .map(|n| state(&id(&format!("{task}-{n}")), expected, "state"))
                    .collect();
                let sent = spawn_write(&store, batch.clone());
                (batch, sent)
            })
            .collect();
        for (batch, sent) in tasks {
            for (write, answer) in batch.iter().zip(sent.await.expect("no panic")) {
                let written = answer.expect("a good write");
                let row = load(&*store, write.persistence_id()).await.expect("a row");
                assert_eq!(row.timestamp, written.timestamp);
                assert_eq!(row.revision, write.revision());
            }
        }
    }
}

// ---- deleting ----

/// A deleted state has no value any more. A marker keeps the revision that the deletion made, and
/// the tags.
pub async fn a_deleted_state_is_gone(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let (lone, batched) = (id("lone"), id("batched"));
    for cart in [&lone, &batched] {
        store_one(&*store, &state_of(cart, 0, payload("one"), &["red"])).await;
        store_one(
            &*store,
            &state_of(cart, 1, payload("two"), &["red", "blue"]),
        )
        .await;
    }
    let one = store_one(&*store, &delete(&lone, 2)).await;
    let batch = [state(&id("other"), 0, "other"), delete(&batched, 2)];
    let two = store_all(&*store, &batch).await.remove(1);
    for (cart, written) in [(&lone, one), (&batched, two)] {
        check_deleted(fixture, &*store, cart, 3).await;
        if let Some(marker) = load(&*store, cart).await {
            assert_eq!(marker.timestamp, written.timestamp);
            let tags: BTreeSet<&str> = marker.tags.iter().map(String::as_str).collect();
            assert_eq!(tags, BTreeSet::from(["red", "blue"]));
        }
    }
}

/// A state can be put again by the writer that has deleted it, with its own numbers, and by one
/// that has loaded what is there.
pub async fn a_deleted_state_can_be_put_again(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let (live, loaded) = (id("live"), id("loaded"));
    for cart in [&live, &loaded] {
        store_one(&*store, &state_of(cart, 0, payload("one"), &["red"])).await;
        store_one(&*store, &delete(cart, 1)).await;
    }
    store_one(&*store, &state(&live, 2, "three")).await;
    check_state(&*store, &live, 3, Some("three")).await;
    let tags = load(&*store, &live).await.map(|row| row.tags);
    assert_eq!(tags, Some(Vec::new()), "those of the new state");

    let (revision, _) = found(&*store, &loaded).await;
    store_one(&*store, &state(&loaded, revision, "next")).await;
    check_state(&*store, &loaded, revision + 1, Some("next")).await;
}

/// Deleting a state that never was leaves a marker at revision 1, or nothing.
pub async fn deleting_a_state_that_never_was(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let (lone, batched) = (id("lone"), id("batched"));
    store_one(&*store, &delete(&lone, 0)).await;
    let batch = [state(&id("other"), 0, "other"), delete(&batched, 0)];
    store_all(&*store, &batch).await;
    for cart in [&lone, &batched] {
        check_deleted(fixture, &*store, cart, 1).await;
        let tags = load(&*store, cart).await.map_or(Vec::new(), |row| row.tags);
        assert!(tags.is_empty());
        store_one(&*store, &state(cart, 1, "two")).await;
        check_state(&*store, cart, 2, Some("two")).await;
    }
}

/// A deleted state can be deleted once more.
pub async fn deleting_a_state_twice(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let cart = id("a");
    store_one(&*store, &state(&cart, 0, "one")).await;
    store_one(&*store, &delete(&cart, 1)).await;
    store_one(&*store, &delete(&cart, 2)).await;
    check_deleted(fixture, &*store, &cart, 3).await;
    store_one(&*store, &state(&cart, 3, "four")).await;
    check_state(&*store, &cart, 4, Some("four")).await;
}

/// A deletion that expects another revision than the row's is refused, and the state stays.
pub async fn a_stale_delete_is_refused(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let cart = id("a");
    store_one(&*store, &state(&cart, 0, "one")).await;
    store_one(&*store, &state(&cart, 1, "two")).await;
    for expected in [0, 1, 3] {
        let stale = delete(&cart, expected);
        check_stale(&write_one(&*store, &stale).await, &cart, expected, 2);
        let answers = write_batch(&*store, &[state(&id("b"), 9, "b"), stale]).await;
        check_stale(&answers[1], &cart, expected, 2);
        check_state(&*store, &cart, 2, Some("two")).await;
    }
}

/// A deletion that is sent again because it may have taken effect, and has, succeeds and changes
/// nothing.
pub async fn a_delete_that_may_be_done_is_recognised(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let (a, never) = (id("a"), id("never"));
    store_one(&*store, &state(&a, 0, "one")).await;
    for (cart, expected) in [(&a, 1), (&never, 0)] {
        let write = delete(cart, expected);
        store_one(&*store, &write).await;
        let before = load(&*store, cart).await;
        store_one(&*store, &again(&write)).await;
        let other = state(&id(&format!("other-{expected}")), 0, "other");
        store_all(&*store, &[other, again(&write)]).await;
        assert_eq!(load(&*store, cart).await, before);
        check_deleted(fixture, &*store, cart, expected + 1).await;
    }
}

/// Puts and deletions of one entity in a batch leave what they would leave one after the other.
pub async fn puts_and_deletes_in_one_batch_are_one_change(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let (a, b, c) = (id("a"), id("b"), id("c"));
    store_one(&*store, &state_of(&b, 0, payload("b1"), &["old"])).await;
    store_one(&*store, &state_of(&c, 0, payload("c1"), &["old"])).await;
    let batch = [
        state_of(&a, 0, payload("a1"), &["red"]),
        delete(&a, 1),
        delete(&b, 1),
        state(&b, 2, "b3"),
        state_of(&c, 1, payload("c2"), &["red"]),
        delete(&c, 2),
        delete(&c, 3),
    ];
    store_all(&*store, &batch).await;
    check_deleted(fixture, &*store, &a, 2).await;
    check_state(&*store, &b, 3, Some("b3")).await;
    check_deleted(fixture, &*store, &c, 4).await;
    for cart in [&a, &c] {
        if let Some(marker) = load(&*store, cart).await {
            assert_eq!(marker.tags, ["red"], "{cart}");
        }
    }
    // And all of it once more, as nobody has heard the answer.
    let same: Vec<StateWrite> = batch.iter().map(again).collect();
    store_all(&*store, &same).await;
    check_deleted(fixture, &*store, &a, 2).await;
    check_state(&*store, &b, 3, Some("b3")).await;
    check_deleted(fixture, &*store, &c, 4).await;
}

/// Puts and deletions of a few entities, one by one or in batches of any size, leave the same rows
/// but for the times.
pub async fn however_changes_are_batched_they_leave_the_same_rows(fixture: &dyn StoreFixture) {
    const ENTITIES: usize = 3;
    let store = fixture.store().durable_state_store();
    // The minimal standard generator of Park and Miller, so that every run is the same.
    let mut seed = 4_711_u64;
    let mut random = |below: u64| {
        seed = seed * 48_271 % 2_147_483_647;
        seed % below
    };
    for round in 0..20 {
        let entity = |way: &str, n: usize| id(&format!("{round}-{way}-{n}"));
        let mut revisions = [0; ENTITIES];
        let mut one_by_one = Vec::new();
        let mut batched = Vec::new();
        for step in 0..30 {
            let n = usize::try_from(random(3)).expect("small");
            let text = format!("{step}");
            let tags: &[&str] =
                [&[][..], &["red"], &["red", "blue"]][usize::try_from(random(3)).expect("small")];
            let deletes = random(3) == 0;
            let write = |way: &str| {
                if deletes {
                    delete(&entity(way, n), revisions[n])
                } else {
                    state_of(&entity(way, n), revisions[n], payload(&text), tags)
                }
            };
            one_by_one.push(write("lone"));
            batched.push(write("batch"));
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
                let row = load(&*store, &entity(way, n)).await;
                rows.push(row.map(|row| {
                    let tags: BTreeSet<String> = row.tags.into_iter().collect();
                    (row.revision, row.payload, tags)
                }));
            }
            assert_eq!(rows[0], rows[1], "entity {n} of round {round}");
        }
    }
}

/// Removing takes a state and a marker, whatever the revision, concerns one id only, and succeeds
/// if there is nothing.
pub async fn removing_takes_everything_of_one_id(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let (a, aa, deleted) = (id("a"), id("aa"), id("deleted"));
    for cart in [&a, &aa, &deleted] {
        store_one(&*store, &state(cart, 0, "one")).await;
        store_one(&*store, &state(cart, 1, "two")).await;
    }
    store_one(&*store, &delete(&deleted, 2)).await;
    for cart in [&a, &deleted, &id("unknown")] {
        for _ in 0..2 {
            store.remove(cart).await.expect("a removal");
            assert_eq!(load(&*store, cart).await, None, "{cart}");
        }
    }
    check_state(&*store, &aa, 2, Some("two")).await;
}

/// After a removal the next state begins with revision 1. A writer that has not noticed is refused
/// where deleting leaves a marker, and goes on with its own numbers where it removes the row.
pub async fn a_removed_state_begins_anew(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let (a, b) = (id("a"), id("b"));
    for cart in [&a, &b] {
        store_one(&*store, &state(cart, 0, "one")).await;
        store_one(&*store, &state(cart, 1, "two")).await;
        store.remove(cart).await.expect("a removal");
    }
    store_one(&*store, &state(&a, 0, "new")).await;
    check_state(&*store, &a, 1, Some("new")).await;
    let answer = write_one(&*store, &state(&a, 2, "three")).await;
    check_stale(&answer, &a, 2, 1);

    let answer = write_one(&*store, &state(&b, 2, "three")).await;
    match fixture.durable_state_delete() {
        DurableStateDelete::Row => {
            answer.expect("as if it had deleted the state itself");
            check_state(&*store, &b, 3, Some("three")).await;
        }
        _ => {
            check_stale(&answer, &b, 2, 0);
            check_state(&*store, &b, 0, None).await;
        }
    }
}

/// Events and replies go with a state where deleting leaves a marker. Where it removes the row they
/// are refused, and so is the state: their numbers would begin again.
pub async fn nothing_goes_with_a_state_where_rows_are_removed(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let deletion = fixture.durable_state_delete();
    assert_eq!(store.deletion_leaves(), deletion);
    let (a, b) = (id("a"), id("b"));
    let mut told = state(&a, 0, "told");
    told.set_change_events(writer(1), vec![event("told")])
        .expect("valid events");
    let mut answered = state(&b, 0, "answered");
    let command = CommandId::new("pay").expect("a valid command id");
    let fingerprint = Fingerprint::new([7; Fingerprint::BYTES]);
    let reply = NewReply::new(command, fingerprint, None, SequenceNr::ZERO);
    answered.set_reply(reply.expect("a valid reply"));
    let answers = write_batch(&*store, &[told, state(&id("c"), 0, "c"), answered]).await;
    assert!(answers[1].is_ok());
    let removes = deletion == DurableStateDelete::Row;
    for (id, answer) in [(&a, &answers[0]), (&b, &answers[2])] {
        if removes {
            check_rejected(answer, id);
            check_state(&*store, id, 0, None).await;
        } else {
            assert!(answer.is_ok(), "{answer:?}");
        }
    }
    let journal = fixture.store().journal();
    assert_eq!(events(&*journal, &a).await.is_empty(), removes);
    let replies = fixture.store().command_replies().load(&b, 1).await;
    assert_eq!(replies.expect("readable replies").is_empty(), removes);
}

// ---- other stores on the same data, closing, opening again ----

/// Another store on the same data sees what was answered as written, deleted or removed.
pub async fn another_store_sees_the_state(fixture: &dyn StoreFixture) {
    let store = fixture.store().durable_state_store();
    let other = fixture.open_again().await.durable_state_store();
    let cart = id("a");
    for expected in 0..10 {
        let (one, two) = if expected % 2 == 0 {
            (&store, &other)
        } else {
            (&other, &store)
        };
        let written = store_one(&**one, &state(&cart, expected, "state")).await;
        let seen = load(&**two, &cart).await.expect("a row");
        assert_eq!(seen.revision.value(), expected + 1);
        assert_eq!(seen.timestamp, written.timestamp);
    }
    store_one(&*other, &delete(&cart, 10)).await;
    check_deleted(fixture, &*store, &cart, 11).await;
    store.remove(&cart).await.expect("a removal");
    check_state(&*other, &cart, 0, None).await;
}

/// After closing every call fails as unavailable with nothing changed.
pub async fn a_closed_durable_state_store_is_unavailable(fixture: &dyn StoreFixture) {
    let store = fixture.store();
    let states = store.durable_state_store();
    let cart = id("a");
    store_one(&*states, &state(&cart, 0, "one")).await;
    store.close().await;
    for states in [states, store.durable_state_store()] {
        let batch = [state(&cart, 1, "two"), state(&id("b"), 0, "one")];
        for answer in write_batch(&*states, &batch).await {
            check_closed(&answer);
        }
        check_closed(&write_one(&*states, &batch[0]).await);
        check_closed(&states.load(&cart).await);
        check_closed(&states.remove(&cart).await);
    }
    let again = fixture.open_again().await.durable_state_store();
    check_state(&*again, &cart, 1, Some("one")).await;
}

/// What was answered as written is there after the store was closed and opened again.
pub async fn states_are_there_after_opening_again(fixture: &dyn StoreFixture) {
    let store = fixture.store();
    let states = store.durable_state_store();
    let (a, b) = (id("a"), id("b"));
    store_one(&*states, &state(&a, 0, "one")).await;
    let second = state_of(&a, 1, payload("two"), &["red"]);
    let written = store_one(&*states, &second).await;
    store_one(&*states, &state(&b, 0, "one")).await;
    store_one(&*states, &delete(&b, 1)).await;
    store.close().await;

    let states = fixture.open_again().await.durable_state_store();
    let row = load(&*states, &a).await.expect("a row");
    assert_eq!(row.timestamp, written.timestamp);
    assert_eq!(row.tags, ["red"]);
    check_state(&*states, &a, 2, Some("two")).await;
    check_deleted(fixture, &*states, &b, 2).await;
    assert_eq!(store_one(&*states, &again(&second)).await, written);
    let stale = write_one(&*states, &state(&a, 1, "stale")).await;
    check_stale(&stale, &a, 1, 2);
    store_one(&*states, &state(&a, 2, "three")).await;
}
