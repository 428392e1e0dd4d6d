//! What every [`Journal`] must do.
//!
//! Each function is one behaviour; [`journal_contract!`](crate::journal_contract) turns all of
//! them into tests. They panic where the journal does something else.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use perennial_persistence::{
    AtomicWrite, Error, Journal, NewEvent, PageLimit, PersistenceId, Previous, SequenceNr,
    SerializedPayload, Timestamp, WriterId, Written,
};

use super::{
    SERIALIZER, StoreFixture, UNLIMITED, check_closed, check_conflict, check_rejected,
    check_superseded, event, events, give_up_after, highest, id, numbers, page, payload,
    refused_event, scatter, seq, store_one, texts, winner_and_loser, write, write_batch, write_of,
    write_one, writer,
};

/// Makes a module `journal_contract` with a test for every behaviour of a
/// [`Journal`](perennial_persistence::Journal).
///
/// The argument is an expression for a future of a
/// [`StoreFixture`](crate::contract::StoreFixture); it is evaluated for every test.
#[macro_export]
macro_rules! journal_contract {
    ($fixture:expr) => {
        $crate::__contract_tests!(
            journal_contract,
            journal,
            $fixture,
            [
                written_events_come_back_in_order,
                payloads_come_back_byte_for_byte,
                metadata_comes_back,
                tags_are_stored,
                a_payload_of_a_mebibyte_comes_back,
                ids_of_every_kind_are_kept_apart,
                a_write_of_thousands_of_events_is_stored_whole,
                the_largest_number_is_usable,
                an_empty_batch_is_answered_with_nothing,
                a_batch_is_answered_in_its_order,
                a_lone_write_and_a_batch_store_the_same,
                the_answer_names_the_stored_timestamp,
                the_events_of_one_write_share_a_timestamp,
                the_writes_of_one_batch_have_timestamps_of_their_own,
                timestamps_increase_within_a_batch,
                timestamps_stay_above_a_known_one_in_the_future,
                timestamps_stay_above_an_unknown_one_in_the_future,
                commit_order_is_time_order_where_promised,
                any_split_into_writes_gives_the_same_rows,
                a_marker_counts_as_the_previous_event,
                a_marker_is_not_earlier_than_what_was_deleted,
                a_taken_number_is_a_conflict,
                a_write_that_overlaps_another_writers_is_a_conflict,
                a_number_below_a_marker_is_taken,
                a_number_below_a_later_marker_is_taken,
                a_number_that_nobody_used_is_given_or_superseded,
                a_stale_writer_is_refused_after_a_deletion,
                a_stale_write_among_a_thousand_fails_alone,
                later_writes_of_an_entity_fail_with_its_superseded_one,
                an_identical_write_is_superseded_once_it_is_deleted,
                a_stale_writer_racing_a_deletion_stores_nothing,
                a_conflict_stores_nothing_of_its_write,
                a_refused_event_stores_nothing_of_its_write,
                an_event_that_cannot_be_stored_is_rejected,
                a_conflict_among_a_thousand_fails_alone,
                a_refused_row_among_a_thousand_fails_alone,
                bad_rows_of_every_kind_among_a_thousand_fail_alone,
                a_batch_of_nothing_but_bad_rows_fails_one_by_one,
                later_writes_of_an_entity_fail_with_its_refused_one,
                later_writes_of_an_entity_fail_with_its_conflict,
                an_identical_write_is_answered_as_written,
                an_identical_write_is_recognised_after_later_events,
                an_identical_batch_is_answered_as_written,
                an_identical_write_among_new_ones_is_recognised,
                an_identical_write_through_another_store_is_recognised,
                identical_writes_at_the_same_time_are_one,
                a_write_that_was_given_up_can_be_sent_again,
                a_replay_that_was_given_up_leaves_the_journal_usable,
                two_stores_racing_for_a_number_have_one_winner,
                two_stores_racing_with_batches_have_one_winner_per_entity,
                writes_at_the_same_time_are_all_stored,
                a_replay_has_both_its_bounds,
                a_page_ends_at_its_rows,
                a_page_ends_at_its_bytes,
                a_page_counts_markers,
                pages_give_every_event_once,
                an_unknown_id_has_no_events,
                the_highest_number_is_searched_from_a_number_on,
                deleted_events_are_gone_and_their_numbers_are_not,
                deleting_leaves_later_events,
                deleting_everything_keeps_the_highest_number,
                deleting_everything_of_an_unknown_id_leaves_a_marker_at_zero,
                deleting_beyond_the_highest_number_moves_it,
                deleting_twice_is_deleting_once,
                deleting_further_replaces_the_marker,
                deleting_less_than_before_changes_nothing,
                deleting_concerns_one_id_only,
                removed_events_leave_nothing_behind,
                removing_takes_the_lowest_rows_up_to_its_limit,
                removing_concerns_one_id_and_its_numbers_only,
                another_store_sees_everything,
                a_closed_store_is_unavailable,
                everything_is_there_after_opening_again,
            ]
        );
    };
}

const MICROSECOND: Duration = Duration::from_micros(1);
const MAX: u64 = i64::MAX.unsigned_abs();

fn future_time() -> Timestamp {
    Timestamp::from_second(4_102_444_800).expect("the year 2100 is in range")
}

// ---- what is written comes back ----

/// Events come back with the numbers and in the order in which they were written.
pub async fn written_events_come_back_in_order(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let cart = id("a");
    store_one(&*journal, &write(&cart, writer(1), 1, &["one"])).await;
    store_one(&*journal, &write(&cart, writer(1), 2, &["two", "three"])).await;
    // A new incarnation goes on under another writer.
    store_one(&*journal, &write(&cart, writer(2), 4, &["four"])).await;

    let stored = events(&*journal, &cart).await;
    assert_eq!(numbers(&stored), [1, 2, 3, 4]);
    assert_eq!(texts(&stored), ["one", "two", "three", "four"]);
}

/// Serializer id, manifest and bytes come back unchanged, also the odd ones.
pub async fn payloads_come_back_byte_for_byte(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let cart = id("a");
    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    let payloads = vec![
        SerializedPayload::new(SERIALIZER, "", Vec::new()),
        SerializedPayload::new(SERIALIZER, "Event#2", every_byte),
        SerializedPayload::new(i32::MAX, "😀".repeat(255), vec![0]),
        SerializedPayload::new(i32::MIN, "it's \"{a,b}\" \\ %_;--", vec![0xff; 3]),
        SerializedPayload::new(-1, " 가나다 ", b"NULL".to_vec()),
    ];
    let new = payloads.iter().cloned().map(NewEvent::new).collect();
    store_one(&*journal, &write_of(&cart, writer(1), 1, new)).await;

    let stored = events(&*journal, &cart).await;
    let back: Vec<SerializedPayload> = stored.iter().map(|e| e.payload.clone()).collect();
    assert_eq!(back, payloads);
}

/// Metadata comes back where there was some, and none where there was none.
pub async fn metadata_comes_back(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let metadata = [
        None,
        Some(SerializedPayload::new(40, "RE", &b"replica"[..])),
        Some(SerializedPayload::new(41, "", Vec::new())),
        None,
    ];
    let with_metadata = |metadata: &Option<SerializedPayload>| NewEvent {
        metadata: metadata.clone(),
        ..event("e")
    };
    let new = metadata.iter().map(with_metadata).collect();
    let one_write = id("one-write");
    store_one(&*journal, &write_of(&one_write, writer(1), 1, new)).await;
    let batch: Vec<AtomicWrite> = (1..)
        .zip(&metadata)
        .map(|(number, m)| write_of(&id("batch"), writer(1), number, vec![with_metadata(m)]))
        .collect();
    for answer in write_batch(&*journal, &batch).await {
        answer.expect("a good write");
    }

    for name in ["one-write", "batch"] {
        let stored = events(&*journal, &id(name)).await;
        let back: Vec<_> = stored.into_iter().map(|event| event.metadata).collect();
        assert_eq!(back, metadata, "{name}");
    }
}

/// Tags stand in the row, whatever they contain and however many the neighbours in the batch
/// have; without tags the column is NULL.
pub async fn tags_are_stored(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let tags: [&[&str]; 5] = [
        &["red"],
        &[],
        &["", "a,b", "{c}", "\"d\"", "e\\f", "NULL", "'", "주문", "😀"],
        &[],
        &["red", "blue"],
    ];
    let tagged = |tags: &[&str]| NewEvent {
        tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
        ..event("e")
    };
    let batch: Vec<AtomicWrite> = (0_u32..)
        .zip(tags)
        .map(|(n, tags)| write_of(&id(&format!("{n}")), writer(n), 1, vec![tagged(tags)]))
        .collect();
    for answer in write_batch(&*journal, &batch).await {
        answer.expect("a good write");
    }
    let one_write = id("one-write");
    let new = tags.iter().map(|tags| tagged(tags)).collect();
    store_one(&*journal, &write_of(&one_write, writer(9), 1, new)).await;
    let lone = id("lone");
    let new = vec![tagged(tags[2])];
    store_one(&*journal, &write_of(&lone, writer(9), 1, new)).await;

    let check = async |id: &PersistenceId, number, tags: &[&str]| {
        let stored = fixture.tags(id, seq(number)).await;
        let stored = stored.map(BTreeSet::from_iter);
        let expected: BTreeSet<String> = tags.iter().map(|&tag| tag.to_owned()).collect();
        let expected = (!expected.is_empty()).then_some(expected);
        assert_eq!(stored, expected, "{id} {number}");
    };
    for (n, tags) in (0_u64..).zip(tags) {
        check(&id(&format!("{n}")), 1, tags).await;
        check(&one_write, n + 1, tags).await;
    }
    check(&lone, 1, tags[2]).await;
}

/// A payload of 1 MiB comes back, in a batch with small ones.
pub async fn a_payload_of_a_mebibyte_comes_back(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let bytes: Vec<u8> = (0..=250_u8).cycle().take(1 << 20).collect();
    let large = NewEvent::new(payload(&bytes));
    let batch = [
        write(&id("small"), writer(1), 1, &["small"]),
        write_of(&id("large"), writer(1), 1, vec![large]),
        write(&id("small"), writer(1), 2, &["small"]),
    ];
    for answer in write_batch(&*journal, &batch).await {
        answer.expect("a good write");
    }

    let stored = events(&*journal, &id("large")).await;
    assert!(stored[0].payload.bytes == bytes, "1 MiB comes back");
    assert_eq!(texts(&events(&*journal, &id("small")).await).len(), 2);
}

/// Ids of every kind are ids of their own: 255 characters of several bytes each, without entity
/// type, without entity id, with signs that mean something to a database, alike but for case,
/// accents or trailing spaces.
pub async fn ids_of_every_kind_are_kept_apart(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let texts_of_ids = [
        format!("계좌|{}", "가".repeat(252)),
        format!("User|{}", "😀".repeat(250)),
        format!("Cart|{}", "a".repeat(250)),
        format!("Cart|{}", "a".repeat(249)),
        "Cart|a".to_owned(),
        "cart|a".to_owned(),
        "Cart|a ".to_owned(),
        " Cart|a".to_owned(),
        "Cart|".to_owned(),
        "|a".to_owned(),
        "a".to_owned(),
        "Device|\u{e9}".to_owned(),
        "Device|e\u{301}".to_owned(),
        "Account|alice|DC-A".to_owned(),
        "a|b|c|d".to_owned(),
        "Cart|it's \"x\"; -- %_\\ $1 ?1".to_owned(),
        "Cart|{a,b}".to_owned(),
        "Cart|NULL".to_owned(),
    ];
    let ids = texts_of_ids.map(|text| PersistenceId::of_unique_id(&text).expect("a valid id"));
    let batch: Vec<AtomicWrite> = ids
        .iter()
        .map(|id| write(id, writer(1), 1, &[id.as_str()]))
        .collect();
    for answer in write_batch(&*journal, &batch).await {
        answer.expect("a good write");
    }
    for id in &ids {
        store_one(&*journal, &write(id, writer(1), 2, &[id.as_str()])).await;
    }

    for id in &ids {
        let stored = events(&*journal, id).await;
        assert_eq!(texts(&stored), [id.as_str(), id.as_str()]);
        assert_eq!(highest(&*journal, id).await, 2, "{id}");
    }
}

/// A write may have thousands of events.
pub async fn a_write_of_thousands_of_events_is_stored_whole(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let cart = id("a");
    let new = (1..=5_000).map(|n| event(&n.to_string())).collect();
    store_one(&*journal, &write_of(&cart, writer(1), 1, new)).await;

    let stored = events(&*journal, &cart).await;
    assert_eq!(numbers(&stored), (1..=5_000).collect::<Vec<u64>>());
    assert_eq!(stored[4_999].payload.bytes, "5000");
}

/// The number `i64::MAX` is stored, read and counted. A journal does not look for gaps.
pub async fn the_largest_number_is_usable(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let cart = id("a");
    store_one(&*journal, &write(&cart, writer(1), MAX, &["last"])).await;

    assert_eq!(numbers(&events(&*journal, &cart).await), [MAX]);
    let last = page(&*journal, &cart, MAX, MAX, UNLIMITED).await;
    assert_eq!(texts(&last.events), ["last"]);
    assert_eq!(highest(&*journal, &cart).await, MAX);
}

// ---- batches and timestamps ----

/// A batch without writes has no answers.
pub async fn an_empty_batch_is_answered_with_nothing(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    assert!(journal.write_events(&[]).await.is_empty());
}

/// The answers stand in the order of the batch, whatever the order of its ids.
pub async fn a_batch_is_answered_in_its_order(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    // 89 and 500 have no common divisor, so this visits all numbers below 500 in a wild order.
    let ids: Vec<PersistenceId> = (0..500).map(|n| id(&format!("{}", n * 89 % 500))).collect();
    // Distinct times far in the future, so that each answer can be told from the others.
    let expected = |n: i64| future_time() + Duration::from_secs(n.unsigned_abs());
    let batch: Vec<AtomicWrite> = (0..)
        .zip(&ids)
        .map(|(n, id)| {
            let mut write = write(id, writer(1), 2, &[id.as_str()]);
            write.previous = Previous::At(expected(n));
            write
        })
        .collect();
    let answers = write_batch(&*journal, &batch).await;

    for ((n, id), answer) in (0..).zip(&ids).zip(answers) {
        let timestamp = answer.expect("a good write").timestamp;
        assert_eq!(timestamp, expected(n) + MICROSECOND);
        let stored = events(&*journal, id).await;
        assert_eq!(texts(&stored), [id.as_str()]);
        assert_eq!(stored[0].timestamp, timestamp);
    }
}

/// The way of a single write and the way of a batch lead to the same rows.
pub async fn a_lone_write_and_a_batch_store_the_same(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let full = || NewEvent {
        payload: SerializedPayload::new(SERIALIZER, "M", &b"e"[..]),
        tags: vec!["red".to_owned()],
        metadata: Some(SerializedPayload::new(40, "RE", &b"m"[..])),
    };
    let lone = write_of(&id("lone"), writer(1), 1, vec![full()]);
    store_one(&*journal, &lone).await;
    let batch = [
        write_of(&id("batch-1"), writer(1), 1, vec![full()]),
        write_of(&id("batch-2"), writer(1), 1, vec![full()]),
    ];
    for answer in write_batch(&*journal, &batch).await {
        answer.expect("a good write");
    }

    let expected = full();
    for name in ["lone", "batch-1", "batch-2"] {
        let stored = events(&*journal, &id(name)).await;
        assert_eq!(stored[0].payload, expected.payload);
        assert_eq!(stored[0].metadata, expected.metadata);
        let tags = fixture.tags(&id(name), seq(1)).await;
        assert_eq!(tags.as_deref(), Some(&expected.tags[..]));
    }
}

/// The answered timestamp is the stored one, in whole microseconds.
pub async fn the_answer_names_the_stored_timestamp(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let lone = write(&id("lone"), writer(1), 1, &["e"]);
    let several = write(&id("several"), writer(1), 1, &["e", "f"]);
    let batch = [
        write(&id("batch-1"), writer(1), 1, &["e"]),
        write(&id("batch-2"), writer(1), 1, &["e", "f"]),
        write(&id("batch-2"), writer(1), 3, &["g"]),
    ];
    let mut answers = vec![
        (&lone, store_one(&*journal, &lone).await),
        (&several, store_one(&*journal, &several).await),
    ];
    for (write, answer) in batch.iter().zip(write_batch(&*journal, &batch).await) {
        answers.push((write, answer.expect("a good write")));
    }

    for (write, written) in answers {
        assert_eq!(written.timestamp.as_nanosecond() % 1_000, 0);
        let (from, to) = (write.first().value(), write.last().value());
        let stored = page(&*journal, write.persistence_id(), from, to, UNLIMITED).await;
        assert_eq!(stored.events.len(), write.events().len());
        for event in stored.events {
            assert_eq!(event.timestamp, written.timestamp);
        }
    }
}

/// All events of an atomic write have one timestamp.
pub async fn the_events_of_one_write_share_a_timestamp(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let cart = id("a");
    store_one(&*journal, &write(&cart, writer(1), 1, &["1"])).await;
    store_one(&*journal, &write(&cart, writer(1), 2, &["2", "3", "4"])).await;

    let stored = events(&*journal, &cart).await;
    assert!(stored[0].timestamp < stored[1].timestamp);
    assert_eq!(stored[1].timestamp, stored[2].timestamp);
    assert_eq!(stored[1].timestamp, stored[3].timestamp);
}

/// No two writes of a batch share a timestamp, or a reader that pages by time would stall where
/// a page has room for fewer events than share one.
pub async fn the_writes_of_one_batch_have_timestamps_of_their_own(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let batch: Vec<AtomicWrite> = (0..300)
        .map(|n| write(&id(&format!("{n}")), writer(1), 1, &["e"]))
        .collect();
    let timestamps: BTreeSet<Timestamp> = write_batch(&*journal, &batch)
        .await
        .into_iter()
        .map(|answer| answer.expect("a good write").timestamp)
        .collect();
    assert_eq!(timestamps.len(), batch.len());
}

/// Several writes of one entity in a batch get increasing timestamps, although the later ones
/// cannot know the earlier ones' and another entity's stand between them.
pub async fn timestamps_increase_within_a_batch(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let (a, b) = (id("a"), id("b"));
    let mut batch = [
        write(&b, writer(1), 2, &["2"]),
        write(&a, writer(1), 1, &["1"]),
        write(&b, writer(1), 3, &["3", "4"]),
        write(&a, writer(1), 2, &["2"]),
        write(&b, writer(1), 5, &["5"]),
        write(&a, writer(1), 3, &["3"]),
    ];
    batch[0].previous = Previous::At(future_time());
    for answer in write_batch(&*journal, &batch).await {
        answer.expect("a good write");
    }

    let stored = events(&*journal, &a).await;
    assert_eq!(numbers(&stored), [1, 2, 3]);
    assert!(stored[0].timestamp < stored[1].timestamp);
    assert!(stored[1].timestamp < stored[2].timestamp);
    let stored = events(&*journal, &b).await;
    assert_eq!(numbers(&stored), [2, 3, 4, 5]);
    check_after(fixture, stored[0].timestamp, future_time());
    check_after(fixture, stored[1].timestamp, stored[0].timestamp);
    assert_eq!(stored[1].timestamp, stored[2].timestamp);
    check_after(fixture, stored[3].timestamp, stored[2].timestamp);
}

/// Checks a timestamp after one in the future: a microsecond later, or a little more where the
/// store's time was taken along into the future.
fn check_after(fixture: &dyn StoreFixture, timestamp: Timestamp, previous: Timestamp) {
    if fixture.commit_order_is_time_order() {
        assert!(timestamp > previous);
        assert!(timestamp < previous + Duration::from_millis(1));
    } else {
        assert_eq!(timestamp, previous + MICROSECOND);
    }
}

/// When the previous event lies in the future, the next is one microsecond later.
pub async fn timestamps_stay_above_a_known_one_in_the_future(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let cart = id("a");
    let future = into_the_future(fixture, &*journal, &cart).await;
    let mut next = write(&cart, writer(1), 3, &["three", "four"]);
    next.previous = Previous::At(future);
    let written = store_one(&*journal, &next).await;

    check_after(fixture, written.timestamp, future);
    let stored = events(&*journal, &cart).await;
    assert_eq!(stored[2].timestamp, written.timestamp);
    assert_eq!(stored[3].timestamp, written.timestamp);
}

/// The same when the writer does not know the previous event's time, for a lone write and in a
/// batch, through this store and through another.
pub async fn timestamps_stay_above_an_unknown_one_in_the_future(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let other = fixture.open_again().await.journal();
    for (name, journal) in [("a", &journal), ("b", &other)] {
        let lone = id(&format!("{name}-lone"));
        let in_batch = id(&format!("{name}-batch"));
        let future = into_the_future(fixture, &**journal, &lone).await;
        let next = write(&lone, writer(1), 3, &["three"]);
        assert_eq!(next.previous, Previous::Unknown);
        let written = store_one(&**journal, &next).await;
        check_after(fixture, written.timestamp, future);

        let future = into_the_future(fixture, &**journal, &in_batch).await;
        let batch = [
            write(&id(&format!("{name}-new")), writer(1), 1, &["one"]),
            write(&in_batch, writer(1), 3, &["three", "four"]),
            write(&in_batch, writer(1), 5, &["five"]),
        ];
        let answers = write_batch(&**journal, &batch).await;
        let timestamp = |n: usize| answers[n].as_ref().expect("a good write").timestamp;
        check_after(fixture, timestamp(1), future);
        check_after(fixture, timestamp(2), timestamp(1));
        if !fixture.commit_order_is_time_order() {
            assert!(timestamp(0) < future, "another entity's time is its own");
        }
    }
}

/// Stores two events of which the second lies in the future, and returns its time.
async fn into_the_future(
    fixture: &dyn StoreFixture,
    journal: &dyn Journal,
    id: &PersistenceId,
) -> Timestamp {
    store_one(journal, &write(id, writer(1), 1, &["one"])).await;
    let mut second = write(id, writer(1), 2, &["two"]);
    second.previous = Previous::At(future_time());
    let written = store_one(journal, &second).await;
    check_after(fixture, written.timestamp, future_time());
    written.timestamp
}

/// Where the store promises it, an event that is committed later is later in time, also when an
/// event of another entity lies in the future.
pub async fn commit_order_is_time_order_where_promised(fixture: &dyn StoreFixture) {
    if !fixture.commit_order_is_time_order() {
        return;
    }
    let journal = fixture.store().journal();
    let other = fixture.open_again().await.journal();
    let mut latest = into_the_future(fixture, &*journal, &id("a")).await;
    for n in 0..10 {
        let journal = if n % 2 == 0 { &other } else { &journal };
        let batch = [
            write(&id(&format!("{n}-1")), writer(1), 1, &["e"]),
            write(&id(&format!("{n}-2")), writer(1), 1, &["e"]),
        ];
        let batch = &batch[n % 2..];
        for answer in write_batch(&**journal, batch).await {
            let timestamp = answer.expect("a good write").timestamp;
            assert!(timestamp >= latest);
            latest = timestamp;
        }
    }
}

/// However events are divided among atomic writes, and those among batches, what stands in the
/// table is the same but for the times.
pub async fn any_split_into_writes_gives_the_same_rows(fixture: &dyn StoreFixture) {
    const EVENTS: usize = 5;
    let journal = fixture.store().journal();
    let event = |n: usize| {
        let payload = SerializedPayload::new(77, format!("Kind{}", n % 2), vec![b'x'; n]);
        let mut event = NewEvent::new(payload);
        if n.is_multiple_of(2) {
            event.tags = vec!["even".to_owned()];
        }
        if n.is_multiple_of(3) {
            event.metadata = Some(SerializedPayload::new(78, "Cause", vec![b'y'; n]));
        }
        event
    };
    let mut expected = None;
    // A bit per gap between events: whether another write begins there. The highest bit decides
    // whether the writes go out in one batch or one after the other.
    for split in 0..1_usize << EVENTS {
        let cart = id(&format!("split-{split}"));
        let mut writes: Vec<Vec<NewEvent>> = vec![Vec::new()];
        for n in 0..EVENTS {
            if n > 0 && split >> (n - 1) & 1 == 1 {
                writes.push(Vec::new());
            }
            writes.last_mut().expect("one was begun").push(event(n));
        }
        let mut first = SequenceNr::FIRST;
        let mut batch = Vec::new();
        for events in writes {
            let next = first.plus(events.len() as u64);
            let write = AtomicWrite::new(cart.clone(), writer(1), first, events);
            batch.push(write.expect("valid events"));
            first = next;
        }
        let together = split >> (EVENTS - 1) & 1 == 1;
        let size = if together { batch.len() } else { 1 };
        for batch in batch.chunks(size) {
            for answer in journal.write_events(batch).await {
                answer.expect("good writes");
            }
        }
        let rows: Vec<_> = events(&*journal, &cart)
            .await
            .into_iter()
            .map(|stored| (stored.seq_nr, stored.payload, stored.metadata))
            .collect();
        assert_eq!(rows.len(), EVENTS);
        assert_eq!(
            &rows,
            expected.get_or_insert_with(|| rows.clone()),
            "{split:b}"
        );
    }
}

/// An event after a delete marker is later than the marker.
pub async fn a_marker_counts_as_the_previous_event(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let cart = id("a");
    store_one(&*journal, &write(&cart, writer(1), 1, &["one"])).await;
    delete(&*journal, &cart, 1).await;
    let marker = page(&*journal, &cart, 1, MAX, UNLIMITED).await;
    let marker = marker.highest_timestamp.expect("a marker's time");
    let written = store_one(&*journal, &write(&cart, writer(1), 2, &["two"])).await;
    assert!(written.timestamp > marker);
}

/// A delete marker is not earlier than the events that it stands for, so that the next event is
/// later than them, even when the clock stepped back.
pub async fn a_marker_is_not_earlier_than_what_was_deleted(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let cart = id("a");
    store_one(&*journal, &write(&cart, writer(1), 1, &["one"])).await;
    let ahead = Timestamp::now() + Duration::from_secs(3600);
    let mut early = write(&cart, writer(1), 2, &["two"]);
    early.previous = Previous::At(ahead);
    let deleted = store_one(&*journal, &early).await;
    assert!(deleted.timestamp > ahead);
    delete(&*journal, &cart, 2).await;

    let marker = page(&*journal, &cart, 2, MAX, UNLIMITED).await;
    let marker = marker.highest_timestamp.expect("a marker's time");
    assert!(marker >= deleted.timestamp, "{marker} {deleted:?}");
    let written = store_one(&*journal, &write(&cart, writer(1), 3, &["three"])).await;
    assert!(written.timestamp > deleted.timestamp);
}

// ---- conflicts and refused data ----

/// A number that another writer has is a conflict, and his event stays.
pub async fn a_taken_number_is_a_conflict(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let cart = id("a");
    store_one(&*journal, &write(&cart, writer(1), 1, &["theirs"])).await;
    let answer = write_one(&*journal, &write(&cart, writer(2), 1, &["ours"])).await;

    check_conflict(&answer, &cart, 1);
    let error = answer.expect_err("a conflict");
    assert!(!error.is_retryable() && !error.is_outcome_unknown());
    assert_eq!(texts(&events(&*journal, &cart).await), ["theirs"]);
    // Even the same content is another writer's.
    let answer = write_one(&*journal, &write(&cart, writer(2), 1, &["theirs"])).await;
    check_conflict(&answer, &cart, 1);
}

/// A write of which some numbers are taken by another writer is a conflict that names the lowest
/// of them.
pub async fn a_write_that_overlaps_another_writers_is_a_conflict(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let cart = id("a");
    store_one(&*journal, &write(&cart, writer(1), 3, &["t3", "t4"])).await;

    let overlaps = [
        (write(&cart, writer(2), 2, &["o2", "o3"]), 3),
        (write(&cart, writer(2), 1, &["o1", "o2", "o3", "o4"]), 3),
        (write(&cart, writer(2), 4, &["o4", "o5"]), 4),
    ];
    for (write, number) in &overlaps {
        check_conflict(&write_one(&*journal, write).await, &cart, *number);
    }
    assert_eq!(texts(&events(&*journal, &cart).await), ["t3", "t4"]);
}

/// A delete marker is nobody's event: its number is superseded, also for the writer whose event
/// stood there.
pub async fn a_number_below_a_marker_is_taken(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let cart = id("a");
    let both = write(&cart, writer(1), 1, &["one", "two"]);
    store_one(&*journal, &both).await;
    delete(&*journal, &cart, 2).await;

    check_superseded(&write_one(&*journal, &both).await, &cart, 1, 2);
    let two = write(&cart, writer(2), 2, &["two"]);
    check_superseded(&write_one(&*journal, &two).await, &cart, 2, 2);
    // Beside a marker, an event of another writer is still a conflict.
    store_one(&*journal, &write(&cart, writer(1), 3, &["three"])).await;
    let overlapping = write(&cart, writer(2), 2, &["two", "three"]);
    check_conflict(&write_one(&*journal, &overlapping).await, &cart, 3);
    assert_eq!(texts(&events(&*journal, &cart).await), ["three"]);
}

/// No number below a marker is to be had, whoever asks for it and whatever is above: alone and in a
/// batch, for one event and for several, of a batch that is small and of one that is large.
pub async fn a_number_below_a_later_marker_is_taken(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let (a, b) = (id("a"), id("b"));
    let six = write(&a, writer(9), 1, &["1", "2", "3", "4", "5", "6"]);
    store_one(&*journal, &six).await;
    delete(&*journal, &a, 5).await;
    for (round, owner) in (0..).zip([writer(1), writer(2), writer(9)]) {
        for stale in [
            write(&a, owner, 5, &["five"]),
            write(&a, owner, 4, &["four"]),
            write(&a, owner, 1, &["one"]),
            write(&a, owner, 2, &["two", "three"]),
        ] {
            let first = stale.first().value();
            check_superseded(&write_one(&*journal, &stale).await, &a, first, 6);
            let mut batch = vec![stale.clone(), stale];
            let answers = write_batch(&*journal, &batch).await;
            for answer in &answers {
                check_superseded(answer, &a, first, 6);
            }
            batch.extend((0..150).map(|n| {
                let beside = id(&format!("{round} {first} {n}"));
                write(&beside, writer(1), 1, &["1"])
            }));
            let answers = write_batch(&*journal, &batch).await;
            for answer in &answers[..2] {
                check_superseded(answer, &a, first, 6);
            }
            assert!(answers[2..].iter().all(Result::is_ok), "{answers:?}");
        }
    }
    let mut known = write(&a, writer(2), 4, &["four"]);
    known.previous = Previous::At(future_time());
    check_superseded(&write_one(&*journal, &known).await, &a, 4, 6);
    // Of another id the number is free.
    store_one(&*journal, &write(&b, writer(2), 4, &["four"])).await;
    assert_eq!(numbers(&events(&*journal, &a).await), [6]);
}

/// A free number below an event that no deletion has freed may be given or refused, and the answer
/// is true.
pub async fn a_number_that_nobody_used_is_given_or_superseded(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    for beside in [0, 1, 150] {
        let cart = id(&format!("a {beside}"));
        store_one(&*journal, &write(&cart, writer(9), 5, &["five"])).await;
        let mut batch = vec![write(&cart, writer(1), 2, &["two", "three"])];
        batch.extend((0..beside).map(|n| {
            let beside = id(&format!("{beside} {n}"));
            write(&beside, writer(1), 1, &["1"])
        }));
        let answers = write_batch(&*journal, &batch).await;

        let expected: &[u64] = match &answers[0] {
            Ok(_) => &[2, 3, 5],
            refused => {
                check_superseded(refused, &cart, 2, 5);
                &[5]
            }
        };
        assert_eq!(numbers(&events(&*journal, &cart).await), expected);
        assert!(answers[1..].iter().all(Result::is_ok), "{answers:?}");
        // What goes on after the highest number is stored in any case.
        store_one(&*journal, &write(&cart, writer(9), 6, &["six"])).await;
    }
}

/// A writer that does not know of later events is refused, although they were deleted since: its
/// event would stand where no recovery looks for it.
pub async fn a_stale_writer_is_refused_after_a_deletion(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let cart = id("a");
    store_one(&*journal, &write(&cart, writer(1), 1, &["1", "2", "3"])).await;
    let other = fixture.open_again().await.journal();
    store_one(&*other, &write(&cart, writer(2), 4, &["4", "5", "6"])).await;
    delete(&*other, &cart, 5).await;

    let stale = write(&cart, writer(1), 4, &["stale"]);
    let answer = write_one(&*journal, &stale).await;
    check_superseded(&answer, &cart, 4, 6);
    let error = answer.expect_err("it is stale");
    assert!(!error.is_retryable() && !error.is_outcome_unknown());
    assert_eq!(texts(&events(&*journal, &cart).await), ["6"]);

    // With nothing but the marker left.
    delete(&*other, &cart, MAX).await;
    for stale in [stale, write(&cart, writer(1), 4, &["stale", "stale"])] {
        check_superseded(&write_one(&*journal, &stale).await, &cart, 4, 6);
    }
    assert!(events(&*journal, &cart).await.is_empty());
    store_one(&*journal, &write(&cart, writer(3), 7, &["7"])).await;
}

/// In a large batch, writes below what was deleted fail alone; all others are stored.
pub async fn a_stale_write_among_a_thousand_fails_alone(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let stale = [0, 1, 500, 999];
    for n in stale {
        let id = id(&format!("{n}"));
        store_one(&*journal, &write(&id, writer(9), 1, &["1", "2", "3"])).await;
        delete(&*journal, &id, 2).await;
    }
    let batch: Vec<AtomicWrite> = (0..1000)
        .map(|n| write(&id(&format!("{n}")), writer(1), 1, &["ours"]))
        .collect();
    let answers = write_batch(&*journal, &batch).await;

    for (n, (write, answer)) in batch.iter().zip(&answers).enumerate() {
        let stored = texts(&events(&*journal, write.persistence_id()).await);
        if stale.contains(&n) {
            check_superseded(answer, write.persistence_id(), 1, 3);
            assert_eq!(stored, ["3"]);
        } else {
            assert!(answer.is_ok(), "{n}: {answer:?}");
            assert_eq!(stored, ["ours"]);
        }
    }
}

/// When a write of an entity is superseded, its later ones in the batch are as well, although they
/// lie above what is there; other entities' are stored.
pub async fn later_writes_of_an_entity_fail_with_its_superseded_one(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let (a, b) = (id("a"), id("b"));
    store_one(&*journal, &write(&a, writer(9), 1, &["1", "2"])).await;
    delete(&*journal, &a, 2).await;
    let batch = [
        write(&b, writer(1), 1, &["b1"]),
        write(&a, writer(1), 2, &["a2"]),
        write(&a, writer(1), 3, &["a3"]),
        write(&b, writer(1), 2, &["b2"]),
        write(&a, writer(1), 4, &["a4"]),
    ];
    let answers = write_batch(&*journal, &batch).await;

    for good in [0, 3] {
        assert!(answers[good].is_ok(), "{good}: {:?}", answers[good]);
    }
    check_superseded(&answers[1], &a, 2, 2);
    for later in [2, 4] {
        match &answers[later] {
            Err(Error::Superseded { persistence_id, .. }) => assert_eq!(persistence_id, &a),
            other => panic!("expected that the write is superseded, got {other:?}"),
        }
    }
    assert!(events(&*journal, &a).await.is_empty());
    assert_eq!(texts(&events(&*journal, &b).await), ["b1", "b2"]);
}

/// The identical write whose rows were deleted, all or some, is not taken for a stranger's: the
/// journal does not say that it never was stored.
pub async fn an_identical_write_is_superseded_once_it_is_deleted(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let cart = id("a");
    let one = write(&cart, writer(1), 1, &["1"]);
    let more = write(&cart, writer(1), 2, &["2", "3", "4"]);
    store_one(&*journal, &one).await;
    store_one(&*journal, &more).await;
    delete(&*journal, &cart, 3).await;

    check_superseded(&write_one(&*journal, &one).await, &cart, 1, 4);
    check_superseded(&write_one(&*journal, &more).await, &cart, 2, 4);
    let answers = write_batch(&*journal, &[one, more]).await;
    for answer in &answers {
        assert!(
            matches!(answer, Err(Error::Superseded { .. })),
            "{answer:?}"
        );
    }
    assert_eq!(texts(&events(&*journal, &cart).await), ["4"]);
}

/// Whatever a stale writer, another one and a deletion do at the same time: the stale event is
/// either the first with its number, or it is not there.
pub async fn a_stale_writer_racing_a_deletion_stores_nothing(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let other = fixture.open_again().await.journal();
    for round in 0..60 {
        let cart = id(&format!("{round}"));
        store_one(&*journal, &write(&cart, writer(1), 1, &["1"])).await;
        store_one(&*other, &write(&cart, writer(2), 2, &["2", "3", "4"])).await;
        let mut stale = vec![write(&cart, writer(1), 2, &["stale"])];
        // Alone, in a small batch and in a large one.
        let beside = [0, 1, 150][round % 3];
        stale.extend((0..beside).map(|n| {
            let beside = id(&format!("{round} beside {n}"));
            write(&beside, writer(1), 1, &["1"])
        }));
        let stale = spawn_write(&journal, stale);
        // The stale number becomes free: the marker has the one after it.
        delete(&*other, &cart, 3).await;

        let answers = stale.await.expect("no panic");
        match &answers[0] {
            Err(Error::Conflict { .. } | Error::Superseded { .. }) => {}
            written => panic!("a stale write is refused, got {written:?}"),
        }
        assert!(answers[1..].iter().all(Result::is_ok), "{answers:?}");
        assert_eq!(texts(&events(&*journal, &cart).await), ["4"]);
    }
}

/// The events of a conflicting write whose numbers are free are not stored either, alone and in
/// a batch.
pub async fn a_conflict_stores_nothing_of_its_write(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let (a, b) = (id("a"), id("b"));
    store_one(&*journal, &write(&a, writer(1), 2, &["theirs"])).await;
    let stale = write(&a, writer(2), 1, &["o1", "o2", "o3"]);
    check_conflict(&write_one(&*journal, &stale).await, &a, 2);
    let batch = [stale, write(&b, writer(2), 1, &["good"])];
    let answers = write_batch(&*journal, &batch).await;

    check_conflict(&answers[0], &a, 2);
    assert!(answers[1].is_ok());
    assert_eq!(texts(&events(&*journal, &a).await), ["theirs"]);
    assert_eq!(texts(&events(&*journal, &b).await), ["good"]);
    assert_eq!(highest(&*journal, &a).await, 2);
}

/// A write with one event that the database refuses is rejected whole, alone and in a batch.
pub async fn a_refused_event_stores_nothing_of_its_write(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    refuse(fixture).await;
    let (a, b) = (id("a"), id("b"));
    let bad = write_of(
        &a,
        writer(1),
        1,
        vec![event("one"), refused_event(), event("three")],
    );
    let answer = write_one(&*journal, &bad).await;
    check_rejected(&answer, &a);
    let error = answer.expect_err("a rejection");
    assert!(!error.is_retryable() && !error.is_outcome_unknown());
    let batch = [bad, write(&b, writer(1), 1, &["good"])];
    let answers = write_batch(&*journal, &batch).await;

    check_rejected(&answers[0], &a);
    assert!(answers[1].is_ok());
    assert!(events(&*journal, &a).await.is_empty());
    assert_eq!(highest(&*journal, &a).await, 0);
    assert_eq!(texts(&events(&*journal, &b).await), ["good"]);
    // The number is still free.
    store_one(&*journal, &write(&a, writer(1), 1, &["one"])).await;
}

/// What the store itself cannot store is rejected and not unavailable, and the store stays
/// usable. Where there is no such event, a refused one stands for it.
pub async fn an_event_that_cannot_be_stored_is_rejected(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    refuse(fixture).await;
    let cart = id("a");
    let bad = fixture.unstorable_event().unwrap_or_else(refused_event);
    let bad = write_of(&cart, writer(1), 1, vec![bad]);
    check_rejected(&write_one(&*journal, &bad).await, &cart);
    store_one(&*journal, &write(&cart, writer(1), 1, &["good"])).await;
}

/// One conflict in a batch of a thousand good writes fails alone.
pub async fn a_conflict_among_a_thousand_fails_alone(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let taken = id("taken");
    store_one(&*journal, &write(&taken, writer(9), 1, &["theirs"])).await;

    let bad = vec![write(&taken, writer(1), 1, &["ours"])];
    let answers = among_a_thousand(&*journal, bad).await;
    check_conflict(&answers[0], &taken, 1);
    assert_eq!(texts(&events(&*journal, &taken).await), ["theirs"]);
}

/// One refused row in a batch of a thousand good writes fails alone.
pub async fn a_refused_row_among_a_thousand_fails_alone(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    refuse(fixture).await;
    let refused = id("refused");
    let bad = vec![write_of(&refused, writer(1), 1, vec![refused_event()])];
    let answers = among_a_thousand(&*journal, bad).await;
    check_rejected(&answers[0], &refused);
    assert!(events(&*journal, &refused).await.is_empty());
}

/// Conflicts, refused rows and what the store itself refuses, all in one batch of a thousand good
/// writes: each fails alone and with its own error.
pub async fn bad_rows_of_every_kind_among_a_thousand_fail_alone(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    refuse(fixture).await;
    let (taken, overlap) = (id("taken"), id("overlap"));
    let (refused, partly) = (id("refused"), id("partly"));
    let unstorable = id("unstorable");
    store_one(&*journal, &write(&taken, writer(9), 1, &["theirs"])).await;
    store_one(&*journal, &write(&overlap, writer(9), 2, &["theirs"])).await;

    let bad = vec![
        write(&taken, writer(1), 1, &["ours"]),
        write_of(&refused, writer(1), 1, vec![refused_event()]),
        write(&overlap, writer(1), 1, &["ours", "ours"]),
        write_of(&partly, writer(1), 1, vec![event("good"), refused_event()]),
        write_of(
            &unstorable,
            writer(1),
            1,
            vec![fixture.unstorable_event().unwrap_or_else(refused_event)],
        ),
    ];
    let answers = among_a_thousand(&*journal, bad).await;
    check_conflict(&answers[0], &taken, 1);
    check_rejected(&answers[1], &refused);
    check_conflict(&answers[2], &overlap, 2);
    check_rejected(&answers[3], &partly);
    check_rejected(&answers[4], &unstorable);
    for id in [&refused, &partly, &unstorable] {
        assert!(events(&*journal, id).await.is_empty(), "{id}");
    }
    for id in [&taken, &overlap] {
        assert_eq!(texts(&events(&*journal, id).await), ["theirs"], "{id}");
    }
}

/// Stores bad writes scattered among a thousand good ones, checks that all good ones are stored
/// as answered, and returns the answers of the bad ones.
async fn among_a_thousand(
    journal: &dyn Journal,
    bad: Vec<AtomicWrite>,
) -> Vec<Result<Written, Error>> {
    const GOOD: usize = 1_000;
    let mut batch: Vec<AtomicWrite> = (0..GOOD)
        .map(|n| write(&id(&format!("good-{n}")), writer(1), 1, &["good"]))
        .collect();
    let bad_ids: BTreeSet<PersistenceId> = bad.iter().map(|w| w.persistence_id().clone()).collect();
    scatter(bad, &mut batch);

    let mut bad_answers = Vec::new();
    for (write, answer) in batch.iter().zip(write_batch(journal, &batch).await) {
        let id = write.persistence_id();
        if bad_ids.contains(id) {
            bad_answers.push(answer);
            continue;
        }
        let written = answer.unwrap_or_else(|error| panic!("{id} failed with others: {error}"));
        let stored = events(journal, id).await;
        assert_eq!(texts(&stored), ["good"], "{id}");
        assert_eq!(stored[0].timestamp, written.timestamp, "{id}");
    }
    bad_answers
}

/// A batch in which everything fails answers each write with its own error.
pub async fn a_batch_of_nothing_but_bad_rows_fails_one_by_one(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    refuse(fixture).await;
    let names = ["a", "b", "c", "d", "e", "f"];
    for name in ["a", "c", "e"] {
        store_one(&*journal, &write(&id(name), writer(9), 1, &["theirs"])).await;
    }
    let batch = names.map(|name| write_of(&id(name), writer(1), 1, vec![refused_event()]));
    let answers = write_batch(&*journal, &batch).await;
    for (name, answer) in names.into_iter().zip(answers) {
        // Whether a refused row whose number is taken is first of all refused or a conflict is
        // the database's choice; nothing of it is stored either way.
        match answer {
            Err(Error::Rejected { persistence_id, .. }) => assert_eq!(persistence_id, id(name)),
            Err(Error::Conflict { persistence_id, .. }) if "ace".contains(name) => {
                assert_eq!(persistence_id, id(name));
            }
            other => panic!("expected that {name} fails, got {other:?}"),
        }
    }
    for name in ["b", "d", "f"] {
        assert!(events(&*journal, &id(name)).await.is_empty());
    }
}

/// When a write of an entity is rejected, its later ones in the batch fail with an error of the
/// same kind; its earlier ones and other entities' are stored.
pub async fn later_writes_of_an_entity_fail_with_its_refused_one(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    refuse(fixture).await;
    let (a, b) = (id("a"), id("b"));
    let batch = [
        write(&a, writer(1), 1, &["a1"]),
        write(&b, writer(1), 1, &["b1"]),
        write_of(&a, writer(1), 2, vec![refused_event()]),
        write(&a, writer(1), 3, &["a3"]),
        write(&b, writer(1), 2, &["b2"]),
        write(&a, writer(1), 4, &["a4", "a5"]),
    ];
    let answers = write_batch(&*journal, &batch).await;

    for good in [0, 1, 4] {
        assert!(answers[good].is_ok(), "{good}: {:?}", answers[good]);
    }
    for bad in [2, 3, 5] {
        check_rejected(&answers[bad], &a);
    }
    assert_eq!(texts(&events(&*journal, &a).await), ["a1"]);
    assert_eq!(texts(&events(&*journal, &b).await), ["b1", "b2"]);
    assert_eq!(highest(&*journal, &a).await, 1);
}

/// When a write of an entity is a conflict, its later ones in the batch are conflicts as well,
/// although their own numbers are free; its earlier ones stay stored.
pub async fn later_writes_of_an_entity_fail_with_its_conflict(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let (a, b) = (id("a"), id("b"));
    let first = write(&a, writer(1), 1, &["a1"]);
    let written = store_one(&*journal, &first).await;
    store_one(&*journal, &write(&a, writer(9), 2, &["theirs"])).await;
    let batch = [
        // Sent again after an unknown outcome, with more that had gathered behind it.
        first,
        write(&a, writer(1), 2, &["a2"]),
        write(&b, writer(1), 1, &["b1"]),
        write(&a, writer(1), 3, &["a3"]),
        write(&a, writer(1), 4, &["a4"]),
    ];
    let answers = write_batch(&*journal, &batch).await;

    assert_eq!(answers[0].as_ref().ok(), Some(&written));
    check_conflict(&answers[1], &a, 2);
    assert!(answers[2].is_ok());
    for later in [3, 4] {
        match &answers[later] {
            Err(Error::Conflict { persistence_id, .. }) => assert_eq!(persistence_id, &a),
            other => panic!("expected a conflict, got {other:?}"),
        }
    }
    assert_eq!(texts(&events(&*journal, &a).await), ["a1", "theirs"]);
    assert_eq!(texts(&events(&*journal, &b).await), ["b1"]);
}

// ---- the identical write ----

/// The identical write is answered with its timestamp and stores nothing twice, whatever the
/// writer says of the event before.
pub async fn an_identical_write_is_answered_as_written(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let cart = id("a");
    let one = write(&cart, writer(1), 1, &["one"]);
    let mut more = write(&cart, writer(1), 2, &["two", "three"]);
    let first = store_one(&*journal, &one).await;
    let second = store_one(&*journal, &more).await;

    for previous in [
        Previous::Unknown,
        Previous::At(first.timestamp),
        Previous::At(future_time()),
    ] {
        more.previous = previous;
        assert_eq!(store_one(&*journal, &one).await, first);
        assert_eq!(store_one(&*journal, &more).await, second);
    }
    let stored = events(&*journal, &cart).await;
    assert_eq!(texts(&stored), ["one", "two", "three"]);
    assert_eq!(stored[2].timestamp, second.timestamp);
}

/// The identical write is recognised when later events are there already, its own writer's or
/// another's.
pub async fn an_identical_write_is_recognised_after_later_events(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let cart = id("a");
    let one = write(&cart, writer(1), 1, &["one"]);
    let two = write(&cart, writer(1), 2, &["two"]);
    let first = store_one(&*journal, &one).await;
    let second = store_one(&*journal, &two).await;
    store_one(&*journal, &write(&cart, writer(2), 3, &["three"])).await;

    assert_eq!(store_one(&*journal, &one).await, first);
    assert_eq!(store_one(&*journal, &two).await, second);
    let stored = events(&*journal, &cart).await;
    assert_eq!(texts(&stored), ["one", "two", "three"]);
}

/// A whole batch may be sent again.
pub async fn an_identical_batch_is_answered_as_written(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let batch: Vec<AtomicWrite> = (0..300)
        .map(|n| write(&id(&format!("{}", n % 100)), writer(1), n / 100 + 1, &["e"]))
        .collect();
    let timestamps = |answers: Vec<Result<Written, Error>>| -> Vec<Written> {
        let written = answers.into_iter().map(|a| a.expect("a good write"));
        written.collect()
    };
    let first = timestamps(write_batch(&*journal, &batch).await);
    let again = timestamps(write_batch(&*journal, &batch).await);

    assert_eq!(first, again);
    for n in 0..100 {
        let stored = events(&*journal, &id(&format!("{n}"))).await;
        assert_eq!(numbers(&stored), [1, 2, 3]);
    }
}

/// Identical writes are recognised in a batch with new ones, of other entities and of their own.
pub async fn an_identical_write_among_new_ones_is_recognised(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let (a, b, c) = (id("a"), id("b"), id("c"));
    let old_a = write(&a, writer(1), 1, &["a1", "a2"]);
    let old_b = write(&b, writer(1), 1, &["b1"]);
    let first_a = store_one(&*journal, &old_a).await;
    let first_b = store_one(&*journal, &old_b).await;
    let batch = [
        write(&c, writer(1), 1, &["c1"]),
        old_a,
        write(&a, writer(1), 3, &["a3"]),
        old_b,
        write(&c, writer(1), 2, &["c2"]),
        write(&a, writer(1), 4, &["a4"]),
    ];
    let answers = write_batch(&*journal, &batch).await;

    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(answers[1].as_ref().ok(), Some(&first_a));
    assert_eq!(answers[3].as_ref().ok(), Some(&first_b));
    let stored = events(&*journal, &a).await;
    assert_eq!(texts(&stored), ["a1", "a2", "a3", "a4"]);
    assert!(stored[1].timestamp < stored[2].timestamp);
    assert!(stored[2].timestamp < stored[3].timestamp);
    assert_eq!(texts(&events(&*journal, &b).await), ["b1"]);
    assert_eq!(texts(&events(&*journal, &c).await), ["c1", "c2"]);
}

/// Another store on the same data recognises the identical write.
pub async fn an_identical_write_through_another_store_is_recognised(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let other = fixture.open_again().await.journal();
    let cart = id("a");
    let both = write(&cart, writer(1), 1, &["one", "two"]);
    let written = store_one(&*journal, &both).await;
    assert_eq!(store_one(&*other, &both).await, written);
    assert_eq!(texts(&events(&*journal, &cart).await), ["one", "two"]);
}

/// The identical write sent through two stores at the same time is stored once, and both are
/// told so.
pub async fn identical_writes_at_the_same_time_are_one(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let other = fixture.open_again().await.journal();
    let cart = id("a");
    for number in (1..40).step_by(2) {
        let both = write(&cart, writer(1), number, &["e", "e"]);
        let one = spawn_write(&journal, vec![both.clone()]);
        let two = spawn_write(&other, vec![both]);
        let one = one.await.expect("no panic").remove(0).expect("written");
        let two = two.await.expect("no panic").remove(0).expect("written");
        assert_eq!(one, two);
    }
    let stored = numbers(&events(&*journal, &cart).await);
    assert_eq!(stored, (1..=40).collect::<Vec<u64>>());
}

// ---- futures that were dropped ----

/// A write whose future was dropped at any moment may be sent again, identically; it is stored
/// once, and the journal stays usable.
pub async fn a_write_that_was_given_up_can_be_sent_again(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    for polls in 0..30 {
        let (a, b) = (id(&format!("a-{polls}")), id(&format!("b-{polls}")));
        let lone = [write(&a, writer(1), 1, &["one", "two"])];
        let batch = [
            write(&b, writer(1), 1, &["one"]),
            write(&b, writer(1), 2, &["two"]),
        ];
        for batch in [&lone[..], &batch[..]] {
            give_up_after(polls, journal.write_events(batch)).await;
            for answer in write_batch(&*journal, batch).await {
                answer.expect("the identical write may be sent again");
            }
        }
        for id in [&a, &b] {
            let stored = events(&*journal, id).await;
            assert_eq!(texts(&stored), ["one", "two"], "after {polls} polls");
        }
    }
}

/// Dropped replays take no connection, lock or page with them.
pub async fn a_replay_that_was_given_up_leaves_the_journal_usable(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let cart = id("a");
    let new = (0..500).map(|n| event(&n.to_string())).collect();
    store_one(&*journal, &write_of(&cart, writer(1), 1, new)).await;
    for polls in 0..60 {
        let replay = journal.replay_events(&cart, seq(1), seq(MAX), UNLIMITED);
        give_up_after(polls, replay).await;
        let search = journal.highest_sequence_nr(&cart, seq(1));
        give_up_after(polls, search).await;
    }
    assert_eq!(events(&*journal, &cart).await.len(), 500);
    store_one(&*journal, &write(&cart, writer(1), 501, &["next"])).await;
}

// ---- several at the same time ----

/// Of two stores that write the same number at the same time exactly one wins, and its event is
/// the stored one.
pub async fn two_stores_racing_for_a_number_have_one_winner(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let other = fixture.open_again().await.journal();
    let cart = id("a");
    let mut expected = Vec::new();
    for number in 1..=50 {
        let one = spawn_write(&journal, vec![write(&cart, writer(1), number, &["one"])]);
        let two = spawn_write(&other, vec![write(&cart, writer(2), number, &["two"])]);
        let one = one.await.expect("no panic").remove(0);
        let two = two.await.expect("no panic").remove(0);
        let (winner, loser) = winner_and_loser(&cart, &one, &two);
        check_conflict(loser, &cart, number);
        expected.push(winner);
    }
    assert_eq!(texts(&events(&*journal, &cart).await), expected);
    assert_eq!(texts(&events(&*other, &cart).await), expected);
}

/// Two stores that write batches of the same entities at the same time, in opposite order, don't
/// block each other for ever, and each entity's number has exactly one winner.
pub async fn two_stores_racing_with_batches_have_one_winner_per_entity(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let other = fixture.open_again().await.journal();
    for round in 1..=5 {
        let ids: Vec<PersistenceId> = (0..60).map(|n| id(&format!("{round}-{n}"))).collect();
        let batch = |writer: WriterId, text: &str| -> Vec<AtomicWrite> {
            let writes = ids.iter().map(|id| write(id, writer, 1, &[text, text]));
            writes.collect()
        };
        let mut reversed = batch(writer(2), "two");
        reversed.reverse();
        let one = spawn_write(&journal, batch(writer(1), "one"));
        let two = spawn_write(&other, reversed);
        let one = one.await.expect("no panic");
        let mut two = two.await.expect("no panic");
        two.reverse();

        for ((id, one), two) in ids.iter().zip(&one).zip(&two) {
            let (winner, loser) = winner_and_loser(id, one, two);
            check_conflict(loser, id, 1);
            assert_eq!(texts(&events(&*journal, id).await), [winner, winner]);
        }
    }
}

/// Lone writes and batches of different entities through one store at the same time are all
/// stored as answered.
pub async fn writes_at_the_same_time_are_all_stored(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let tasks: Vec<_> = (0..60)
        .map(|task| {
            let entities = if task % 3 == 0 { 1 } else { 5 };
            let batch: Vec<AtomicWrite> = (0..entities)
                .map(|n| write(&id(&format!("{task}-{n}")), writer(1), 1, &["e"]))
                .collect();
            let sent = spawn_write(&journal, batch.clone());
            (batch, sent)
        })
        .collect();
    for (batch, sent) in tasks {
        for (write, answer) in batch.iter().zip(sent.await.expect("no panic")) {
            let written = answer.expect("a good write");
            let stored = events(&*journal, write.persistence_id()).await;
            assert_eq!(stored.len(), 1);
            assert_eq!(stored[0].timestamp, written.timestamp);
        }
    }
}

fn spawn_write(
    journal: &Arc<dyn Journal>,
    batch: Vec<AtomicWrite>,
) -> tokio::task::JoinHandle<Vec<Result<Written, Error>>> {
    let journal = Arc::clone(journal);
    tokio::spawn(async move { write_batch(&*journal, &batch).await })
}

// ---- replay ----

/// A replay holds the events at both its bounds and none outside of them.
pub async fn a_replay_has_both_its_bounds(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let cart = id("a");
    let five = write(&cart, writer(1), 1, &["1", "2", "3", "4", "5"]);
    store_one(&*journal, &five).await;

    let check = async |from, to, expected: &[u64]| {
        let page = page(&*journal, &cart, from, to, UNLIMITED).await;
        assert_eq!(numbers(&page.events), expected, "{from} to {to}");
        let highest = expected.last().copied().unwrap_or(0);
        assert_eq!(page.highest.value(), highest, "{from} to {to}");
        let last = page.events.last().map(|event| event.timestamp);
        assert_eq!(page.highest_timestamp, last, "{from} to {to}");
        assert!(!page.more, "{from} to {to}");
    };
    check(2, 4, &[2, 3, 4]).await;
    check(3, 3, &[3]).await;
    check(0, 1, &[1]).await;
    check(5, MAX, &[5]).await;
    check(1, 5, &[1, 2, 3, 4, 5]).await;
    check(6, MAX, &[]).await;
    check(4, 3, &[]).await;
    check(0, 0, &[]).await;
}

/// A page holds no more rows than its limit, says whether more may follow, and names the last
/// row it holds.
pub async fn a_page_ends_at_its_rows(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let cart = id("a");
    store_one(&*journal, &write(&cart, writer(1), 1, &["1", "2", "3"])).await;
    store_one(&*journal, &write(&cart, writer(1), 4, &["4"])).await;
    let rows = |rows| PageLimit { rows, ..UNLIMITED };

    for limit in 1..=3 {
        let page = page(&*journal, &cart, 1, MAX, rows(limit)).await;
        assert_eq!(page.events.len(), limit);
        assert_eq!(page.highest, page.events[limit - 1].seq_nr);
        let last = page.events[limit - 1].timestamp;
        assert_eq!(page.highest_timestamp, Some(last));
        assert!(page.more, "{limit} of 4 rows");
    }
    // Whether a page that is full to the last row says that more may follow is the store's choice.
    let full = page(&*journal, &cart, 1, MAX, rows(4)).await;
    assert_eq!(numbers(&full.events), [1, 2, 3, 4]);
    let roomy = page(&*journal, &cart, 1, MAX, rows(5)).await;
    assert_eq!(numbers(&roomy.events), [1, 2, 3, 4]);
    assert!(!roomy.more);
    // The upper bound of the range ends the replay, not only the page.
    let bounded = page(&*journal, &cart, 1, 2, rows(3)).await;
    assert_eq!(numbers(&bounded.events), [1, 2]);
    assert!(!bounded.more);
}

/// A page ends with the row with which its payload bytes reach the limit.
pub async fn a_page_ends_at_its_bytes(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let cart = id("a");
    let ten_bytes = ["0123456789"; 5];
    store_one(&*journal, &write(&cart, writer(1), 1, &ten_bytes)).await;

    for (bytes, rows) in [(0, 1), (1, 1), (10, 1), (11, 2), (20, 2), (21, 3), (40, 4)] {
        let limit = PageLimit { bytes, ..UNLIMITED };
        let page = page(&*journal, &cart, 1, MAX, limit).await;
        assert_eq!(page.events.len(), rows, "{bytes} bytes");
        assert_eq!(page.highest, page.events[rows - 1].seq_nr, "{bytes} bytes");
        assert!(page.more, "{bytes} bytes");
    }
    let limit = PageLimit {
        bytes: 51,
        ..UNLIMITED
    };
    let roomy = page(&*journal, &cart, 1, MAX, limit).await;
    assert_eq!(roomy.events.len(), 5);
    assert!(!roomy.more);
}

/// A delete marker is a row of its page, though no event.
pub async fn a_page_counts_markers(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let cart = id("a");
    let four = write(&cart, writer(1), 1, &["1", "2", "3", "4"]);
    let written = store_one(&*journal, &four).await;
    delete(&*journal, &cart, 2).await;
    let rows = |rows| PageLimit { rows, ..UNLIMITED };

    let marker = page(&*journal, &cart, 1, MAX, rows(1)).await;
    assert!(marker.events.is_empty());
    assert_eq!(marker.highest.value(), 2);
    assert!(marker.highest_timestamp.is_some());
    assert!(marker.more);
    let two = page(&*journal, &cart, 1, MAX, rows(2)).await;
    assert_eq!(numbers(&two.events), [3]);
    assert_eq!(two.highest.value(), 3);
    assert_eq!(two.highest_timestamp, Some(written.timestamp));
    assert!(two.more);
    let only_marker = page(&*journal, &cart, 1, 2, UNLIMITED).await;
    assert!(only_marker.events.is_empty() && !only_marker.more);
    assert_eq!(only_marker.highest.value(), 2);
}

/// Pages of any size, each begun after the one before, give every event once and end.
pub async fn pages_give_every_event_once(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let cart = id("a");
    let new = (0..25).map(|n| event(&n.to_string())).collect();
    store_one(&*journal, &write_of(&cart, writer(1), 1, new)).await;
    delete(&*journal, &cart, 4).await;

    for limit in [
        PageLimit {
            rows: 1,
            ..UNLIMITED
        },
        PageLimit {
            rows: 7,
            ..UNLIMITED
        },
        PageLimit {
            rows: 11,
            ..UNLIMITED
        },
        PageLimit {
            bytes: 5,
            ..UNLIMITED
        },
        UNLIMITED,
    ] {
        let mut read = Vec::new();
        let mut from = 1;
        loop {
            let page = page(&*journal, &cart, from, MAX, limit).await;
            read.extend(numbers(&page.events));
            if !page.more {
                break;
            }
            assert!(page.highest.value() >= from, "{limit:?} goes on");
            from = page.highest.value() + 1;
        }
        assert_eq!(read, (5..=25).collect::<Vec<u64>>(), "{limit:?}");
    }
}

/// An id that was never written has an empty page and no highest number.
pub async fn an_unknown_id_has_no_events(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    store_one(&*journal, &write(&id("a"), writer(1), 1, &["one"])).await;
    let page = page(&*journal, &id("b"), 0, MAX, UNLIMITED).await;
    assert!(page.events.is_empty() && !page.more);
    assert_eq!(page.highest, SequenceNr::ZERO);
    assert_eq!(page.highest_timestamp, None);
    assert_eq!(highest(&*journal, &id("b")).await, 0);
}

/// The highest number is looked for from a number on, that one included.
pub async fn the_highest_number_is_searched_from_a_number_on(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let cart = id("a");
    store_one(&*journal, &write(&cart, writer(1), 1, &["1", "2", "3"])).await;
    for (from, expected) in [(0, 3), (1, 3), (3, 3), (4, 0), (MAX, 0)] {
        let highest = journal.highest_sequence_nr(&cart, seq(from)).await;
        let highest = highest.expect("a readable journal").value();
        assert_eq!(highest, expected, "from {from}");
    }
}

// ---- deleting ----

async fn delete(journal: &dyn Journal, id: &PersistenceId, to: u64) {
    journal
        .delete_events(id, seq(to))
        .await
        .expect("a deletion");
}

/// Deleted events are not read any more, their numbers stay taken, and the next event gets the
/// number after them.
pub async fn deleted_events_are_gone_and_their_numbers_are_not(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let cart = id("a");
    store_one(&*journal, &write(&cart, writer(1), 1, &["1", "2", "3"])).await;
    delete(&*journal, &cart, 3).await;

    let page = page(&*journal, &cart, 0, MAX, UNLIMITED).await;
    assert!(page.events.is_empty() && !page.more);
    assert_eq!(page.highest.value(), 3);
    assert!(page.highest_timestamp.is_some());
    assert_eq!(highest(&*journal, &cart).await, 3);
    store_one(&*journal, &write(&cart, writer(2), 4, &["4"])).await;
    assert_eq!(numbers(&events(&*journal, &cart).await), [4]);
}

/// Events after the deleted ones stay, and so does the highest number.
pub async fn deleting_leaves_later_events(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let cart = id("a");
    store_one(&*journal, &write(&cart, writer(1), 1, &["1", "2", "3"])).await;
    delete(&*journal, &cart, 2).await;
    assert_eq!(texts(&events(&*journal, &cart).await), ["3"]);
    assert_eq!(highest(&*journal, &cart).await, 3);
    // Nothing lies at or below 0.
    delete(&*journal, &cart, 0).await;
    assert_eq!(texts(&events(&*journal, &cart).await), ["3"]);
    assert_eq!(highest(&*journal, &cart).await, 3);
}

/// Deleting up to [`SequenceNr::MAX`] deletes everything and moves no number.
pub async fn deleting_everything_keeps_the_highest_number(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let cart = id("a");
    store_one(&*journal, &write(&cart, writer(1), 1, &["1", "2", "3"])).await;
    for _ in 0..2 {
        delete(&*journal, &cart, MAX).await;
        assert!(events(&*journal, &cart).await.is_empty());
        assert_eq!(highest(&*journal, &cart).await, 3);
    }
    store_one(&*journal, &write(&cart, writer(1), 4, &["4"])).await;
}

/// Deleting everything of an id without rows leaves a marker at 0, and its first event is 1.
pub async fn deleting_everything_of_an_unknown_id_leaves_a_marker_at_zero(
    fixture: &dyn StoreFixture,
) {
    let journal = fixture.store().journal();
    let cart = id("a");
    for _ in 0..2 {
        delete(&*journal, &cart, MAX).await;
        let page = page(&*journal, &cart, 0, MAX, UNLIMITED).await;
        assert!(page.events.is_empty() && !page.more);
        assert_eq!(page.highest, SequenceNr::ZERO);
        assert!(page.highest_timestamp.is_some(), "the marker's time");
        assert_eq!(highest(&*journal, &cart).await, 0);
    }
    store_one(&*journal, &write(&cart, writer(1), 1, &["1"])).await;
    assert_eq!(numbers(&events(&*journal, &cart).await), [1]);
}

/// Deleting beyond the highest number moves it, for a known and for an unknown id.
pub async fn deleting_beyond_the_highest_number_moves_it(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let cart = id("a");
    store_one(&*journal, &write(&cart, writer(1), 1, &["1", "2", "3"])).await;
    for id in [&cart, &id("unknown")] {
        delete(&*journal, id, 10).await;
        assert!(events(&*journal, id).await.is_empty());
        assert_eq!(highest(&*journal, id).await, 10);
        store_one(&*journal, &write(id, writer(1), 11, &["11"])).await;
        assert_eq!(numbers(&events(&*journal, id).await), [11]);
    }
}

/// The same deletion may be asked for again.
pub async fn deleting_twice_is_deleting_once(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let cart = id("a");
    store_one(&*journal, &write(&cart, writer(1), 1, &["1", "2", "3"])).await;
    for _ in 0..2 {
        delete(&*journal, &cart, 2).await;
        assert_eq!(texts(&events(&*journal, &cart).await), ["3"]);
        assert_eq!(highest(&*journal, &cart).await, 3);
    }
}

/// A deletion further on takes the older marker with it.
pub async fn deleting_further_replaces_the_marker(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let cart = id("a");
    let five = write(&cart, writer(1), 1, &["1", "2", "3", "4", "5"]);
    store_one(&*journal, &five).await;
    delete(&*journal, &cart, 2).await;
    delete(&*journal, &cart, 4).await;

    let limit = PageLimit {
        rows: 1,
        ..UNLIMITED
    };
    let first_row = page(&*journal, &cart, 0, MAX, limit).await;
    assert!(first_row.events.is_empty());
    assert_eq!(first_row.highest.value(), 4, "the only marker");
    assert_eq!(texts(&events(&*journal, &cart).await), ["5"]);
}

/// A deletion of less than was deleted before brings nothing back and moves no number.
pub async fn deleting_less_than_before_changes_nothing(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let cart = id("a");
    let five = write(&cart, writer(1), 1, &["1", "2", "3", "4", "5"]);
    store_one(&*journal, &five).await;
    delete(&*journal, &cart, 4).await;
    delete(&*journal, &cart, 2).await;
    assert_eq!(texts(&events(&*journal, &cart).await), ["5"]);
    delete(&*journal, &cart, 5).await;
    delete(&*journal, &cart, 3).await;
    assert!(events(&*journal, &cart).await.is_empty());
    assert_eq!(highest(&*journal, &cart).await, 5);
}

/// The events of other ids stay, also of ids that begin alike.
pub async fn deleting_concerns_one_id_only(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    for name in ["a", "aa", "b"] {
        store_one(&*journal, &write(&id(name), writer(1), 1, &["1", "2"])).await;
    }
    delete(&*journal, &id("a"), MAX).await;
    for name in ["aa", "b"] {
        assert_eq!(texts(&events(&*journal, &id(name)).await), ["1", "2"]);
    }
}

// ---- other stores on the same data, closing, opening again ----

async fn remove(journal: &dyn Journal, id: &PersistenceId, to: u64, limit: usize) -> usize {
    let removed = journal.remove_events(id, seq(to), limit).await;
    removed.expect("a removal")
}

/// When every row is removed, the numbers begin again with 1.
pub async fn removed_events_leave_nothing_behind(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let cart = id("a");
    store_one(&*journal, &write(&cart, writer(1), 1, &["1", "2", "3"])).await;
    delete(&*journal, &cart, 2).await;
    assert_eq!(
        remove(&*journal, &cart, MAX, 10).await,
        2,
        "marker and event"
    );
    assert_eq!(highest(&*journal, &cart).await, 0);
    let page = page(&*journal, &cart, 0, MAX, UNLIMITED).await;
    assert_eq!((page.highest.value(), page.events.len()), (0, 0));
    assert_eq!(
        remove(&*journal, &cart, MAX, 10).await,
        0,
        "there is nothing"
    );
    store_one(&*journal, &write(&cart, writer(2), 1, &["again"])).await;
    assert_eq!(texts(&events(&*journal, &cart).await), ["again"]);
}

/// One call removes no more rows than it may, from the lowest on.
pub async fn removing_takes_the_lowest_rows_up_to_its_limit(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let cart = id("a");
    store_one(
        &*journal,
        &write(&cart, writer(1), 1, &["1", "2", "3", "4", "5"]),
    )
    .await;
    assert_eq!(remove(&*journal, &cart, 4, 3).await, 3);
    assert_eq!(numbers(&events(&*journal, &cart).await), [4, 5]);
    assert_eq!(remove(&*journal, &cart, 4, 3).await, 1);
    assert_eq!(numbers(&events(&*journal, &cart).await), [5]);
    assert_eq!(remove(&*journal, &cart, 4, 3).await, 0);
    assert_eq!(highest(&*journal, &cart).await, 5);
}

/// Rows of other ids stay, and so do higher numbers.
pub async fn removing_concerns_one_id_and_its_numbers_only(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let (a, b) = (id("a"), id("b"));
    store_one(&*journal, &write(&a, writer(1), 1, &["1", "2", "3"])).await;
    store_one(&*journal, &write(&b, writer(2), 1, &["1", "2"])).await;
    assert_eq!(remove(&*journal, &a, 2, 100).await, 2);
    assert_eq!(numbers(&events(&*journal, &a).await), [3]);
    assert_eq!(numbers(&events(&*journal, &b).await), [1, 2]);
}

/// Another store on the same data sees what was answered as written or deleted.
pub async fn another_store_sees_everything(fixture: &dyn StoreFixture) {
    let journal = fixture.store().journal();
    let other = fixture.open_again().await.journal();
    let cart = id("a");
    for number in 1..=20 {
        let (one, two) = if number % 2 == 0 {
            (&journal, &other)
        } else {
            (&other, &journal)
        };
        let written = store_one(&**one, &write(&cart, writer(1), number, &["e"])).await;
        let seen = page(&**two, &cart, number, MAX, UNLIMITED).await;
        assert_eq!(numbers(&seen.events), [number]);
        assert_eq!(seen.events[0].timestamp, written.timestamp);
        assert_eq!(highest(&**two, &cart).await, number);
    }
    delete(&*other, &cart, 15).await;
    assert_eq!(events(&*journal, &cart).await.len(), 5);
}

/// After closing every call fails as unavailable with nothing changed, and closing again is fine.
pub async fn a_closed_store_is_unavailable(fixture: &dyn StoreFixture) {
    let store = fixture.store();
    let journal = store.journal();
    let cart = id("a");
    store_one(&*journal, &write(&cart, writer(1), 1, &["one"])).await;
    store.close().await;
    store.close().await;

    for journal in [journal, store.journal()] {
        let batch = [
            write(&cart, writer(1), 2, &["two"]),
            write(&id("b"), writer(1), 1, &["one"]),
        ];
        for answer in write_batch(&*journal, &batch).await {
            check_closed(&answer);
        }
        check_closed(&write_one(&*journal, &batch[0]).await);
        let replay = journal.replay_events(&cart, seq(1), seq(MAX), UNLIMITED);
        check_closed(&replay.await);
        check_closed(&journal.highest_sequence_nr(&cart, seq(1)).await);
        check_closed(&journal.delete_events(&cart, seq(1)).await);
    }
    let again = fixture.open_again().await.journal();
    assert_eq!(texts(&events(&*again, &cart).await), ["one"]);
}

/// What was answered as written is there after the store was closed and opened again.
pub async fn everything_is_there_after_opening_again(fixture: &dyn StoreFixture) {
    let store = fixture.store();
    let journal = store.journal();
    let (a, b) = (id("a"), id("b"));
    let first = write(&a, writer(1), 1, &["one", "two"]);
    let written = store_one(&*journal, &first).await;
    store_one(&*journal, &write(&b, writer(1), 1, &["one", "two"])).await;
    delete(&*journal, &b, 2).await;
    store.close().await;

    let journal = fixture.open_again().await.journal();
    let stored = events(&*journal, &a).await;
    assert_eq!(texts(&stored), ["one", "two"]);
    assert_eq!(stored[1].timestamp, written.timestamp);
    assert_eq!(highest(&*journal, &b).await, 2);
    assert_eq!(store_one(&*journal, &first).await, written);
    let taken = write(&a, writer(2), 2, &["theirs"]);
    check_conflict(&write_one(&*journal, &taken).await, &a, 2);
    store_one(&*journal, &write(&a, writer(2), 3, &["three"])).await;
}

async fn refuse(fixture: &dyn StoreFixture) {
    fixture.refuse_serializer(super::REFUSED_SERIALIZER).await;
}
