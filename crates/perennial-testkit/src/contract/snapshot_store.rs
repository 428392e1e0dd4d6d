//! What every [`SnapshotStore`] must do.
//!
//! Each function is one behaviour; [`snapshot_store_contract!`](crate::snapshot_store_contract)
//! turns all of them into tests. They panic where the store does something else.

use std::sync::Arc;

use perennial_persistence::{
    PersistenceId, SequenceNr, SerializedPayload, Snapshot, SnapshotCriteria, SnapshotStore,
    Timestamp,
};

use super::{
    REFUSED_SERIALIZER, SERIALIZER, StoreFixture, check_closed, check_rejected, id, payload, seq,
};

/// Makes a module `snapshot_store_contract` with a test for every behaviour of a
/// [`SnapshotStore`](perennial_persistence::SnapshotStore).
///
/// The argument is an expression for a future of a
/// [`StoreFixture`](crate::contract::StoreFixture); it is evaluated for every test.
#[macro_export]
macro_rules! snapshot_store_contract {
    ($fixture:expr) => {
        $crate::__contract_tests!(
            snapshot_store_contract,
            snapshot_store,
            $fixture,
            [
                a_saved_snapshot_comes_back,
                payload_and_metadata_come_back,
                a_snapshot_of_mebibytes_comes_back,
                an_unknown_id_has_no_snapshot,
                snapshots_of_several_ids_are_kept_apart,
                a_newer_snapshot_replaces_the_older,
                a_snapshot_with_the_same_number_replaces,
                an_older_snapshot_never_replaces_a_newer,
                the_time_is_stored_in_whole_milliseconds,
                criteria_of_numbers_include_their_bounds,
                criteria_of_times_include_their_bounds,
                criteria_are_all_to_be_met,
                deleting_needs_the_criteria_met,
                deleting_what_is_not_there_succeeds,
                an_older_snapshot_is_saved_after_deleting,
                a_refused_snapshot_leaves_the_older,
                savers_at_the_same_time_leave_the_newest,
                another_store_sees_the_snapshot,
                a_closed_snapshot_store_is_unavailable,
                the_snapshot_is_there_after_opening_again,
            ]
        );
    };
}

fn snapshot(id: &PersistenceId, number: u64, text: &str) -> Snapshot {
    Snapshot {
        persistence_id: id.clone(),
        seq_nr: seq(number),
        write_timestamp: millis(1_700_000_000_000),
        payload: payload(text),
        metadata: None,
    }
}

fn millis(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).expect("in range")
}

fn micros(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).expect("in range")
}

fn numbers(min: u64, max: u64) -> SnapshotCriteria {
    SnapshotCriteria {
        min_seq_nr: seq(min),
        max_seq_nr: seq(max),
        ..SnapshotCriteria::ANY
    }
}

async fn save(store: &dyn SnapshotStore, snapshot: &Snapshot) {
    store.save(snapshot).await.expect("a saved snapshot");
}

async fn load(
    store: &dyn SnapshotStore,
    id: &PersistenceId,
    criteria: SnapshotCriteria,
) -> Option<Snapshot> {
    let loaded = store.load(id, criteria).await;
    loaded.expect("a readable snapshot")
}

async fn load_any(store: &dyn SnapshotStore, id: &PersistenceId) -> Option<Snapshot> {
    load(store, id, SnapshotCriteria::ANY).await
}

/// A snapshot comes back as it was saved.
pub async fn a_saved_snapshot_comes_back(fixture: &dyn StoreFixture) {
    let store = fixture.store().snapshot_store();
    let saved = snapshot(&id("a"), 7, "state");
    save(&*store, &saved).await;
    assert_eq!(load_any(&*store, &id("a")).await, Some(saved));
}

/// Serializer ids, manifests, bytes and metadata come back unchanged; a save replaces all of them.
pub async fn payload_and_metadata_come_back(fixture: &dyn StoreFixture) {
    let store = fixture.store().snapshot_store();
    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    let metadata = || Some(SerializedPayload::new(40, "RS", &b"replica"[..]));
    let odd = [
        (SerializedPayload::new(SERIALIZER, "", Vec::new()), None),
        (
            SerializedPayload::new(i32::MAX, "😀".repeat(255), every_byte),
            metadata(),
        ),
        (SerializedPayload::new(i32::MIN, "it's", vec![0]), None),
        (
            SerializedPayload::new(-1, " 가 ", vec![1]),
            Some(SerializedPayload::new(41, "", Vec::new())),
        ),
    ];
    for (number, (payload, metadata)) in (1..).zip(odd) {
        let saved = Snapshot {
            payload,
            metadata,
            ..snapshot(&id("a"), number, "")
        };
        save(&*store, &saved).await;
        assert_eq!(load_any(&*store, &id("a")).await, Some(saved));
    }
}

/// A snapshot of 4 MiB comes back.
pub async fn a_snapshot_of_mebibytes_comes_back(fixture: &dyn StoreFixture) {
    let store = fixture.store().snapshot_store();
    let bytes: Vec<u8> = (0..=250_u8).cycle().take(4 << 20).collect();
    let saved = Snapshot {
        payload: payload(&bytes),
        ..snapshot(&id("a"), 1, "")
    };
    save(&*store, &saved).await;
    assert!(load_any(&*store, &id("a")).await == Some(saved));
}

/// An id without snapshot has none.
pub async fn an_unknown_id_has_no_snapshot(fixture: &dyn StoreFixture) {
    let store = fixture.store().snapshot_store();
    save(&*store, &snapshot(&id("a"), 1, "state")).await;
    assert_eq!(load_any(&*store, &id("b")).await, None);
}

/// Every id has its own snapshot: ids of 255 characters, ids that are alike but for case or
/// spaces.
pub async fn snapshots_of_several_ids_are_kept_apart(fixture: &dyn StoreFixture) {
    let store = fixture.store().snapshot_store();
    let ids = [
        format!("계좌|{}", "가".repeat(252)),
        format!("User|{}", "😀".repeat(250)),
        "Cart|a".to_owned(),
        "cart|a".to_owned(),
        "Cart|a ".to_owned(),
        "Cart|".to_owned(),
        "a".to_owned(),
        "Cart|it's \"x\"; --".to_owned(),
    ]
    .map(|text| PersistenceId::of_unique_id(&text).expect("a valid id"));
    for id in &ids {
        save(&*store, &snapshot(id, 1, id.as_str())).await;
    }
    for id in &ids {
        let expected = snapshot(id, 1, id.as_str());
        assert_eq!(load_any(&*store, id).await, Some(expected));
    }
}

/// A snapshot with a higher number takes the place of the one before.
pub async fn a_newer_snapshot_replaces_the_older(fixture: &dyn StoreFixture) {
    let store = fixture.store().snapshot_store();
    let cart = id("a");
    save(&*store, &snapshot(&cart, 5, "five")).await;
    // Also when the clock stepped back.
    let newer = Snapshot {
        write_timestamp: millis(1_600_000_000_000),
        ..snapshot(&cart, 6, "six")
    };
    save(&*store, &newer).await;
    assert_eq!(load_any(&*store, &cart).await, Some(newer));
    assert_eq!(load(&*store, &cart, numbers(0, 5)).await, None);
}

/// A snapshot with the same number takes the place of the one before.
pub async fn a_snapshot_with_the_same_number_replaces(fixture: &dyn StoreFixture) {
    let store = fixture.store().snapshot_store();
    let cart = id("a");
    save(&*store, &snapshot(&cart, 5, "first")).await;
    let second = snapshot(&cart, 5, "second");
    save(&*store, &second).await;
    assert_eq!(load_any(&*store, &cart).await, Some(second));
}

/// An older snapshot that arrives late succeeds and changes nothing.
pub async fn an_older_snapshot_never_replaces_a_newer(fixture: &dyn StoreFixture) {
    let store = fixture.store().snapshot_store();
    let cart = id("a");
    let newer = snapshot(&cart, 6, "six");
    save(&*store, &newer).await;
    let older = Snapshot {
        write_timestamp: millis(1_800_000_000_000),
        metadata: Some(payload("metadata")),
        ..snapshot(&cart, 5, "five")
    };
    save(&*store, &older).await;
    assert_eq!(load_any(&*store, &cart).await, Some(newer));
}

/// The time of a snapshot is cut to whole milliseconds, not rounded.
pub async fn the_time_is_stored_in_whole_milliseconds(fixture: &dyn StoreFixture) {
    let store = fixture.store().snapshot_store();
    let cart = id("a");
    let saved = Snapshot {
        write_timestamp: Timestamp::from_nanosecond(1_700_000_000_123_999_999).expect("in range"),
        ..snapshot(&cart, 1, "state")
    };
    save(&*store, &saved).await;
    let loaded = load_any(&*store, &cart).await.expect("a snapshot");
    assert_eq!(loaded.write_timestamp, millis(1_700_000_000_123));
}

/// A snapshot whose number is a bound of the criteria is meant.
pub async fn criteria_of_numbers_include_their_bounds(fixture: &dyn StoreFixture) {
    let store = fixture.store().snapshot_store();
    let cart = id("a");
    save(&*store, &snapshot(&cart, 5, "five")).await;
    let max = SequenceNr::MAX.value();
    for (criteria, meant) in [
        (numbers(5, 5), true),
        (numbers(0, 5), true),
        (numbers(5, max), true),
        (numbers(0, 4), false),
        (numbers(6, max), false),
        (numbers(0, 0), false),
        (numbers(6, 4), false),
    ] {
        let found = load(&*store, &cart, criteria).await.is_some();
        assert_eq!(found, meant, "{criteria:?}");
    }
    // The largest number is a number like any other.
    save(&*store, &snapshot(&cart, max, "last")).await;
    assert!(load_any(&*store, &cart).await.is_some());
    assert_eq!(load(&*store, &cart, numbers(0, max - 1)).await, None);
}

/// A snapshot whose millisecond is a bound of the criteria is meant, whatever their microseconds.
pub async fn criteria_of_times_include_their_bounds(fixture: &dyn StoreFixture) {
    let store = fixture.store().snapshot_store();
    let cart = id("a");
    let saved = Snapshot {
        write_timestamp: micros(1_700_000_000_123_500),
        ..snapshot(&cart, 5, "five")
    };
    save(&*store, &saved).await;
    let from = |min| SnapshotCriteria {
        min_timestamp: Some(micros(min)),
        ..SnapshotCriteria::ANY
    };
    let until = |max| SnapshotCriteria {
        max_timestamp: Some(micros(max)),
        ..SnapshotCriteria::ANY
    };
    for (criteria, meant) in [
        (from(1_700_000_000_123_000), true),
        (from(1_700_000_000_123_999), true),
        (from(1_700_000_000_124_000), false),
        (until(1_700_000_000_123_000), true),
        (until(1_700_000_000_123_999), true),
        (until(1_700_000_000_122_999), false),
    ] {
        let found = load(&*store, &cart, criteria).await.is_some();
        assert_eq!(found, meant, "{criteria:?}");
    }
}

/// Number and time are both to be met.
pub async fn criteria_are_all_to_be_met(fixture: &dyn StoreFixture) {
    let store = fixture.store().snapshot_store();
    let cart = id("a");
    let saved = snapshot(&cart, 5, "five");
    save(&*store, &saved).await;
    let time = saved.write_timestamp;
    let exact = SnapshotCriteria {
        min_timestamp: Some(time),
        max_timestamp: Some(time),
        ..numbers(5, 5)
    };
    assert_eq!(load(&*store, &cart, exact).await, Some(saved));
    let wrong_time = SnapshotCriteria {
        min_timestamp: Some(millis(time.as_millisecond() + 1)),
        max_timestamp: None,
        ..exact
    };
    let wrong_number = SnapshotCriteria {
        max_seq_nr: seq(4),
        min_seq_nr: SequenceNr::ZERO,
        ..exact
    };
    for criteria in [wrong_time, wrong_number] {
        assert_eq!(load(&*store, &cart, criteria).await, None, "{criteria:?}");
    }
}

/// A snapshot is deleted if the criteria mean it, and only that id's.
pub async fn deleting_needs_the_criteria_met(fixture: &dyn StoreFixture) {
    let store = fixture.store().snapshot_store();
    let (a, b) = (id("a"), id("b"));
    let saved = snapshot(&a, 5, "five");
    let other = snapshot(&b, 5, "other");
    save(&*store, &saved).await;
    save(&*store, &other).await;
    let before = SnapshotCriteria {
        max_timestamp: Some(millis(saved.write_timestamp.as_millisecond() - 1)),
        ..SnapshotCriteria::ANY
    };
    for criteria in [numbers(0, 4), numbers(6, SequenceNr::MAX.value()), before] {
        delete(&*store, &a, criteria).await;
        assert_eq!(load_any(&*store, &a).await.as_ref(), Some(&saved));
    }
    let exact = SnapshotCriteria {
        min_timestamp: Some(saved.write_timestamp),
        max_timestamp: Some(saved.write_timestamp),
        ..numbers(5, 5)
    };
    delete(&*store, &a, exact).await;
    assert_eq!(load_any(&*store, &a).await, None);
    assert_eq!(load_any(&*store, &b).await, Some(other));
}

async fn delete(store: &dyn SnapshotStore, id: &PersistenceId, criteria: SnapshotCriteria) {
    store.delete(id, criteria).await.expect("a deletion");
}

/// Deleting an unknown id's snapshot, or one that is gone, succeeds.
pub async fn deleting_what_is_not_there_succeeds(fixture: &dyn StoreFixture) {
    let store = fixture.store().snapshot_store();
    let cart = id("a");
    delete(&*store, &cart, SnapshotCriteria::ANY).await;
    save(&*store, &snapshot(&cart, 1, "state")).await;
    delete(&*store, &cart, SnapshotCriteria::ANY).await;
    delete(&*store, &cart, SnapshotCriteria::ANY).await;
    assert_eq!(load_any(&*store, &cart).await, None);
}

/// After deleting, a snapshot with any number may be saved.
pub async fn an_older_snapshot_is_saved_after_deleting(fixture: &dyn StoreFixture) {
    let store = fixture.store().snapshot_store();
    let cart = id("a");
    save(&*store, &snapshot(&cart, 5, "five")).await;
    delete(&*store, &cart, SnapshotCriteria::ANY).await;
    let older = snapshot(&cart, 3, "three");
    save(&*store, &older).await;
    assert_eq!(load_any(&*store, &cart).await, Some(older));
}

/// A snapshot that the database refuses is rejected, and the older one stays.
pub async fn a_refused_snapshot_leaves_the_older(fixture: &dyn StoreFixture) {
    let store = fixture.store().snapshot_store();
    fixture.refuse_serializer(REFUSED_SERIALIZER).await;
    let cart = id("a");
    let older = snapshot(&cart, 5, "five");
    save(&*store, &older).await;
    let refused = Snapshot {
        payload: SerializedPayload::new(REFUSED_SERIALIZER, "", &b"refused"[..]),
        ..snapshot(&cart, 6, "")
    };
    check_rejected(&store.save(&refused).await, &cart);
    assert_eq!(load_any(&*store, &cart).await, Some(older));
}

/// Of snapshots saved at the same time through two stores the one with the highest number stays.
pub async fn savers_at_the_same_time_leave_the_newest(fixture: &dyn StoreFixture) {
    let store = fixture.store().snapshot_store();
    let other = fixture.open_again().await.snapshot_store();
    let cart = id("a");
    let tasks: Vec<_> = (0..40)
        .map(|n| {
            // 17 and 40 have no common divisor, so this visits 1 to 40 in a wild order.
            let number = n * 17 % 40 + 1;
            let store = Arc::clone(if n % 2 == 0 { &store } else { &other });
            let snapshot = snapshot(&cart, number, &number.to_string());
            tokio::spawn(async move { save(&*store, &snapshot).await })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    let newest = snapshot(&cart, 40, "40");
    assert_eq!(load_any(&*store, &cart).await, Some(newest));
}

/// Another store on the same data sees what was saved and deleted.
pub async fn another_store_sees_the_snapshot(fixture: &dyn StoreFixture) {
    let store = fixture.store().snapshot_store();
    let other = fixture.open_again().await.snapshot_store();
    let cart = id("a");
    let saved = snapshot(&cart, 5, "five");
    save(&*store, &saved).await;
    assert_eq!(load_any(&*other, &cart).await, Some(saved));
    delete(&*other, &cart, SnapshotCriteria::ANY).await;
    assert_eq!(load_any(&*store, &cart).await, None);
}

/// After closing every call fails as unavailable with nothing changed.
pub async fn a_closed_snapshot_store_is_unavailable(fixture: &dyn StoreFixture) {
    let store = fixture.store();
    let snapshots = store.snapshot_store();
    let cart = id("a");
    let saved = snapshot(&cart, 5, "five");
    save(&*snapshots, &saved).await;
    store.close().await;

    for snapshots in [snapshots, store.snapshot_store()] {
        let any = SnapshotCriteria::ANY;
        check_closed(&snapshots.load(&cart, any).await);
        check_closed(&snapshots.save(&snapshot(&cart, 6, "six")).await);
        check_closed(&snapshots.delete(&cart, any).await);
    }
    let again = fixture.open_again().await.snapshot_store();
    assert_eq!(load_any(&*again, &cart).await, Some(saved));
}

/// A saved snapshot is there after the store was closed and opened again.
pub async fn the_snapshot_is_there_after_opening_again(fixture: &dyn StoreFixture) {
    let store = fixture.store();
    let saved = Snapshot {
        metadata: Some(payload("metadata")),
        ..snapshot(&id("a"), 5, "five")
    };
    save(&*store.snapshot_store(), &saved).await;
    store.close().await;
    let again = fixture.open_again().await.snapshot_store();
    assert_eq!(load_any(&*again, &id("a")).await, Some(saved));
}
