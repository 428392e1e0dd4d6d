//! How an entity comes back.

use std::sync::Arc;
use std::time::Duration;

use perennial_core::{AskError, RecoveryFailed};
use perennial_persistence::{
    Codec, MESSAGE_PACK_ID, MessagePack, SequenceNr, SerializedPayload, Snapshot, Store, Timestamp,
};
use perennial_testkit::{ChangeFault, Gate, ManualClock, ReadFault};

use crate::fixture::{
    Bed, Entry, Ledger, Note, Read, Services, encode, hold_writes, id, in_time, ledger, log,
    log_of, noted, run, send, settle, until,
};

fn recovery_failure<R: std::fmt::Debug>(answer: Result<R, AskError>) -> RecoveryFailed {
    match answer {
        Err(AskError::RecoveryFailed(failed)) => failed,
        other => panic!("expected a failed recovery, not {other:?}"),
    }
}

fn nr(value: u64) -> SequenceNr {
    SequenceNr::new(value).expect("in range")
}

/// Puts a snapshot into the store as another program would.
async fn save(bed: &Bed, entity_id: &str, seq_nr: u64, payload: SerializedPayload) {
    let snapshot = Snapshot {
        persistence_id: id(entity_id),
        seq_nr: nr(seq_nr),
        write_timestamp: Timestamp::UNIX_EPOCH,
        payload,
        metadata: None,
    };
    let snapshots = bed.memory.open_again().snapshot_store();
    let saved = snapshots.save(&snapshot).await;
    saved.expect("memory takes every snapshot");
}

fn state(notes: impl IntoIterator<Item = u64>) -> SerializedPayload {
    let ledger = Ledger {
        notes: notes.into_iter().collect(),
    };
    MessagePack::new("Ledger.State")
        .encode(&ledger)
        .expect("encodable")
}

async fn delete(bed: &Bed, entity_id: &str, to: SequenceNr) {
    let journal = bed.memory.open_again().journal();
    let deleted = journal.delete_events(&id(entity_id), to).await;
    deleted.expect("memory deletes");
}

#[tokio::test]
async fn an_entity_comes_back_from_its_snapshot_and_the_events_after_it() {
    let bed = Bed::new();
    let system = bed.start_with(ledger().snapshot_every(10), &[]).await;
    let entity = system.entity::<Ledger>("a");
    for number in 1..=25 {
        entity.ask(Note(number)).await.expect("stored");
        // One at a time, so that none is passed over.
        let saved = number / 10;
        until("the snapshot is saved", || {
            system.stats().saved_snapshots == saved
        })
        .await;
    }
    let snapshot = bed.memory.snapshot(&id("a")).expect("it is saved");
    assert_eq!(snapshot.seq_nr, nr(20));
    assert_eq!(system.shutdown().await, Ok(()));

    let system = bed.start_with(ledger().snapshot_every(10), &[]).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Read).await, Ok((1..=25).collect()));
    let stats = system.stats();
    assert_eq!((stats.recovered, stats.replayed_events), (1, 5));
    assert_eq!(entity.ask(Note(26)).await, Ok((1..=26).collect()));
    assert_eq!(bed.rows("a").last().map(|row| row.seq_nr), Some(nr(26)));
}

#[tokio::test]
async fn a_write_that_passes_several_snapshots_takes_one() {
    let bed = Bed::new();
    let system = bed.start_with(ledger().snapshot_every(10), &[]).await;
    let entity = system.entity::<Ledger>("a");
    let many = run(|_, cx| cx.persist(noted(1..=35)).reply(|_| ()));
    assert_eq!(entity.ask(many).await, Ok(()));
    until("a snapshot is saved", || {
        system.stats().saved_snapshots == 1
    })
    .await;
    let snapshot = bed.memory.snapshot(&id("a")).expect("it is saved");
    assert_eq!(snapshot.seq_nr, nr(35));
    assert_eq!(snapshot.payload, state(1..=35));
}

#[tokio::test]
async fn without_snapshots_all_events_are_replayed() {
    let bed = Bed::new();
    bed.write_foreign("a", 1, noted(1..=30)).await;
    save(&bed, "a", 30, state([77])).await;
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Read).await, Ok((1..=30).collect()));
    assert_eq!(bed.calls.loading.total(), 0);
}

#[tokio::test]
async fn an_interval_of_zero_reads_snapshots_and_takes_none() {
    let bed = Bed::new();
    save(&bed, "a", 30, state([77])).await;
    bed.write_foreign("a", 31, noted(31..=40)).await;
    let system = bed.start_with(ledger().snapshot_every(0), &[]).await;
    let entity = system.entity::<Ledger>("a");
    let mut expected = vec![77];
    expected.extend(31..=40);
    assert_eq!(entity.ask(Read).await, Ok(expected));
    settle(&system).await;
    assert_eq!(system.stats().saved_snapshots, 0);
}

#[tokio::test]
async fn a_long_replay_ends_with_a_snapshot() {
    let bed = Bed::new();
    bed.write_foreign("long", 1, noted(1..=10)).await;
    bed.write_foreign("short", 1, noted(1..=9)).await;
    let system = bed.start_with(ledger().snapshot_every(10), &[]).await;
    for entity_id in ["long", "short"] {
        let entity = system.entity::<Ledger>(entity_id);
        entity.ask(Read).await.expect("recovered");
    }
    until("the snapshot is saved", || {
        system.stats().saved_snapshots == 1
    })
    .await;
    let saved = bed.memory.snapshot(&id("long")).map(|saved| saved.seq_nr);
    assert_eq!(saved, Some(nr(10)));
    assert_eq!(bed.memory.snapshot(&id("short")), None);
}

#[tokio::test]
async fn a_snapshot_that_is_not_saved_hurts_nobody() {
    let bed = Bed::new();
    let system = bed.start_with(ledger().snapshot_every(2), &[]).await;
    let entity = system.entity::<Ledger>("a");
    bed.faults.snapshot_saves.next(ChangeFault::Unavailable);
    for number in 1..=3 {
        entity.ask(Note(number)).await.expect("stored");
    }
    until("the save has failed", || {
        bed.faults.snapshot_saves.count() == 1
    })
    .await;
    settle(&system).await;
    // The next one that is due covers it.
    entity.ask(Note(4)).await.expect("stored");
    until("a snapshot is saved", || {
        bed.memory.snapshot(&id("a")).is_some()
    })
    .await;
    assert_eq!(
        bed.memory.snapshot(&id("a")).map(|saved| saved.payload),
        Some(state(1..=4))
    );
}

#[tokio::test]
async fn an_entity_goes_on_while_its_snapshot_is_being_saved() {
    let bed = Bed::new();
    let system = bed.start_with(ledger().snapshot_every(2), &[]).await;
    let entity = system.entity::<Ledger>("a");
    let gate = Gate::new();
    bed.faults
        .snapshot_saves
        .next(ChangeFault::Held(gate.clone()));
    for number in 1..=7 {
        entity.ask(Note(number)).await.expect("stored");
    }
    gate.wait_for_arrivals(1).await;
    assert_eq!(bed.faults.snapshot_saves.count(), 1, "one at a time");
    gate.open();
    until("the first is saved", || system.stats().saved_snapshots == 1).await;
    entity.ask(Note(8)).await.expect("stored");
    until("the next is saved", || system.stats().saved_snapshots == 2).await;
    assert_eq!(
        bed.memory.snapshot(&id("a")).map(|saved| saved.seq_nr),
        Some(nr(8))
    );
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_decoded_is_a_warning_and_a_replay() {
    log();
    let bed = Bed::new();
    bed.write_foreign("undecodable", 1, noted(1..=5)).await;
    let garbage = SerializedPayload::new(MESSAGE_PACK_ID, "Ledger.State", &b"\xc1garbage"[..]);
    save(&bed, "undecodable", 4, garbage).await;
    let system = bed.start_with(ledger().snapshot_every(100), &[]).await;
    let entity = system.entity::<Ledger>("undecodable");
    assert_eq!(entity.ask(Note(6)).await, Ok((1..=6).collect()));
    assert_eq!(system.stats().replayed_events, 5);
    let warnings = log_of("undecodable");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(warnings[0].level, tracing::Level::WARN);
    assert_eq!(warnings[0].fields["seq_nr"], "4");
    assert!(warnings[0].message.contains("snapshot"), "{warnings:?}");
    assert!(
        !warnings[0].fields["error"].contains("garbage"),
        "payloads are never logged: {warnings:?}"
    );
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_decoded_is_fatal_when_its_events_are_gone() {
    let garbage = || SerializedPayload::new(MESSAGE_PACK_ID, "Ledger.Other", &b"\x90"[..]);
    let bed = Bed::new();
    // All gone; the first ones gone; a hole; nothing there at all.
    bed.write_foreign("all", 1, noted(1..=5)).await;
    delete(&bed, "all", SequenceNr::MAX).await;
    save(&bed, "all", 5, garbage()).await;
    bed.write_foreign("first", 1, noted(1..=5)).await;
    delete(&bed, "first", nr(2)).await;
    save(&bed, "first", 4, garbage()).await;
    bed.write_foreign("after", 6, noted(6..=8)).await;
    save(&bed, "after", 5, garbage()).await;
    save(&bed, "nothing", 5, garbage()).await;
    let entity_type = || ledger().snapshot_every(100);
    let system = bed.start_with(entity_type(), &[]).await;
    // The marker of deleted events may be all that is on a page.
    let by_row = [("persistence.replay-rows", "1")];
    let by_row = bed.start_with(entity_type(), &by_row).await;
    let ids = [("all", 5), ("first", 4), ("after", 5), ("nothing", 5)];
    for (system, (entity_id, covered)) in [&system, &by_row]
        .into_iter()
        .flat_map(|system| ids.map(|case| (system, case)))
    {
        let answer = system.entity::<Ledger>(entity_id).ask(Read).await;
        let failed = recovery_failure(answer);
        assert_eq!(failed.persistence_id, id(entity_id));
        let text = failed.to_string();
        for part in [
            format!("the snapshot at {covered} cannot be decoded"),
            "manifest \"Ledger.Other\"".to_owned(),
            "are gone".to_owned(),
        ] {
            assert!(text.contains(&part), "{text}");
        }
    }
    // Events below the deleted ones' marker are not needed when the snapshot can be read.
    save(&bed, "first", 4, state([1, 2, 3, 4])).await;
    let entity = system.entity::<Ledger>("first");
    until_recovered(&entity).await;
    assert_eq!(entity.ask(Read).await, Ok((1..=5).collect()));
}

/// Asks until the entity's backoff is over and it recovers.
async fn until_recovered(entity: &perennial_core::EntityRef<Ledger>) {
    in_time("the recovery", async {
        loop {
            match entity.ask(Read).await {
                Err(AskError::RecoveryFailed(_)) => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                answer => return answer.expect("it recovers"),
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_row_that_cannot_be_read_names_itself_and_concerns_its_entity_only() {
    log();
    let good = encode(&Entry::Noted(1));
    let with_bytes = |bytes: &'static [u8]| {
        SerializedPayload::new(good.serializer_id, Arc::clone(&good.manifest), bytes)
    };
    for (entity_id, bad, part) in [
        ("garbage", with_bytes(b"\xc1garbage"), "cannot be decoded"),
        ("empty", with_bytes(b""), "cannot be decoded"),
        (
            "serializer",
            SerializedPayload::new(33, "Ledger.Event", good.bytes.clone()),
            "serializer id 33 is not known here",
        ),
        (
            "manifest",
            SerializedPayload::new(MESSAGE_PACK_ID, "Cart.Event#2", good.bytes.clone()),
            "manifest \"Cart.Event#2\" is not known here",
        ),
        (
            "poison",
            encode(&Entry::Poison),
            "this event cannot be applied",
        ),
    ] {
        let bed = Bed::new();
        let rows = vec![good.clone(), good.clone(), bad, good.clone()];
        bed.write_payloads(entity_id, 1, rows).await;
        let system = bed.start(&[]).await;
        let entity = system.entity::<Ledger>(entity_id);
        let answer = entity.ask(Note(1)).await;
        assert!(answer.as_ref().is_err_and(AskError::is_not_handled));
        let failed = recovery_failure(answer);
        assert_eq!(failed.persistence_id, id(entity_id));
        assert_eq!(failed.seq_nr, Some(nr(3)));
        assert!(failed.reason.contains(part), "{failed}");
        let text = failed.to_string();
        assert!(text.contains(&format!("Ledger|{entity_id}")), "{text}");
        assert!(text.contains("sequence number 3"), "{text}");
        let errors = log_of(entity_id);
        assert!(
            errors.iter().any(|line| line.level == tracing::Level::ERROR
                && line
                    .fields
                    .get("seq_nr")
                    .is_some_and(|nr| nr == "3" || nr == "Some(3)")),
            "{errors:?}"
        );

        // Others work.
        let other = system.entity::<Ledger>("other");
        assert_eq!(other.ask(Note(1)).await, Ok(vec![1]));
        // Once the row is repaired, the entity works without a new start of the system.
        delete(&bed, entity_id, SequenceNr::MAX).await;
        until_recovered(&entity).await;
        assert_eq!(entity.ask(Note(7)).await, Ok(vec![7]));
    }
}

#[tokio::test]
async fn an_entity_that_cannot_recover_refuses_at_once_and_tries_again_after_a_while() {
    let bed = Bed::new();
    let clock = ManualClock::new();
    let entity_type = ledger().restart_backoff(Duration::from_secs(8), Duration::from_secs(16));
    let system = bed
        .start_on(Arc::new(clock.clone()), entity_type, &[])
        .await;
    let entity = system.entity::<Ledger>("a");
    let bad = SerializedPayload::new(MESSAGE_PACK_ID, "Ledger.Event", &b"\xc1"[..]);
    bed.write_payloads("a", 1, vec![bad]).await;
    recovery_failure(entity.ask(Read).await);
    settle(&system).await;
    let reads = bed.calls.reading.total();
    // It is down for at least half of its backoff, and does not ask the store meanwhile.
    delete(&bed, "a", SequenceNr::MAX).await;
    clock.advance(Duration::from_millis(3_999));
    settle(&system).await;
    for _ in 0..10 {
        recovery_failure(entity.ask(Read).await);
    }
    assert_eq!(bed.calls.reading.total(), reads);
    clock.advance(Duration::from_secs(8));
    settle(&system).await;
    assert_eq!(bed.calls.reading.total(), reads, "nobody asks for it");
    assert_eq!(entity.ask(Read).await, Ok(vec![]));
}

#[tokio::test]
async fn all_who_wait_are_told_that_recovery_failed() {
    let bed = Bed::new();
    let gate = Gate::new();
    bed.faults.reads.next(ReadFault::Held(gate.clone()));
    let bad = SerializedPayload::new(MESSAGE_PACK_ID, "Ledger.Event", &b"\xc1"[..]);
    bed.write_payloads("a", 1, vec![bad]).await;
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let asks: Vec<_> = (0..10).map(|_| send(&entity, Read)).collect();
    gate.wait_for_arrivals(1).await;
    gate.open();
    for ask in asks {
        recovery_failure(ask.answer().await);
    }
}

#[tokio::test]
async fn a_store_that_is_away_for_a_while_delays_recovery() {
    let bed = Bed::new();
    bed.write_foreign("a", 1, noted(1..=20)).await;
    let settings = [("persistence.replay-rows", "5")];
    let system = bed
        .start_with(ledger().snapshot_every(100), &settings)
        .await;
    // The snapshot, the first page, and one in the middle.
    for _ in 0..5 {
        bed.faults.snapshot_loads.next(ReadFault::Unavailable);
    }
    for number in [1, 2, 4, 5, 6, 8] {
        bed.faults.reads.at(number, ReadFault::Unavailable);
    }
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Read).await, Ok((1..=20).collect()));
    assert_eq!(system.stats().replayed_events, 20);
}

#[tokio::test]
async fn a_damaged_row_found_by_the_store_is_named() {
    let bed = Bed::new();
    bed.write_foreign("a", 1, noted(1..=20)).await;
    let settings = [("persistence.replay-rows", "5")];
    let system = bed.start(&settings).await;
    bed.faults.reads.at(3, ReadFault::Corrupt);
    let entity = system.entity::<Ledger>("a");
    let failed = recovery_failure(entity.ask(Read).await);
    assert_eq!(failed.seq_nr, Some(nr(11)));
    until_recovered(&entity).await;
    assert_eq!(entity.ask(Read).await, Ok((1..=20).collect()));
}

#[tokio::test]
async fn permits_bound_the_recoveries_at_once() {
    const ENTITIES: u64 = 60;
    for (recoveries, bound) in [("1", 1), ("3", 3)] {
        let bed = Bed::new();
        for number in 0..ENTITIES {
            let entity_id = format!("e{number}");
            bed.write_foreign(&entity_id, 1, noted(0..10)).await;
        }
        let settings = [
            ("persistence.recoveries", recoveries),
            ("persistence.replay-rows", "3"),
        ];
        let system = bed.start(&settings).await;
        let asks: Vec<_> = (0..ENTITIES)
            .map(|number| send(&system.entity::<Ledger>(format!("e{number}")), Read))
            .collect();
        for ask in asks {
            assert_eq!(ask.answer().await, Ok((0..10).collect()));
        }
        let highest = bed.calls.reading.highest();
        assert!(highest <= bound, "{highest} with {recoveries} permits");
        assert_eq!(system.stats().recovered, ENTITIES);
    }
}

#[tokio::test]
async fn a_recovery_that_waits_for_its_store_keeps_its_permit() {
    let bed = Bed::new();
    let settings = [("persistence.recoveries", "1")];
    let system = bed.start(&settings).await;
    let gate = Gate::new();
    bed.faults.reads.next(ReadFault::Held(gate.clone()));
    let first = send(&system.entity::<Ledger>("first"), Read);
    gate.wait_for_arrivals(1).await;
    let second = send(&system.entity::<Ledger>("second"), Read);
    until("the second is in memory", || system.stats().resident == 2).await;
    assert_eq!(bed.calls.reading.total(), 1);
    gate.open();
    assert_eq!(first.answer().await, Ok(vec![]));
    assert_eq!(second.answer().await, Ok(vec![]));
}

#[tokio::test]
async fn permits_of_failed_recoveries_are_given_back() {
    let bed = Bed::new();
    let settings = [("persistence.recoveries", "1")];
    let system = bed.start(&settings).await;
    for number in 0..5 {
        let entity_id = format!("bad{number}");
        let bad = SerializedPayload::new(MESSAGE_PACK_ID, "Ledger.Event", &b"\xc1"[..]);
        bed.write_payloads(&entity_id, 1, vec![bad]).await;
        recovery_failure(system.entity::<Ledger>(&entity_id).ask(Read).await);
    }
    let entity = system.entity::<Ledger>("good");
    assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));
}

#[tokio::test]
async fn a_long_history_comes_in_pages() {
    let bed = Bed::new();
    bed.write_foreign("a", 1, noted(1..=100)).await;
    let settings = [("persistence.replay-rows", "7")];
    let system = bed.start(&settings).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Note(101)).await, Ok((1..=101).collect()));
    assert_eq!(bed.calls.reading.total(), 15);
    assert_eq!(system.stats().replayed_events, 100);
}

#[tokio::test]
async fn pages_are_bounded_in_bytes_too() {
    let bed = Bed::new();
    let large = (0..10).map(|_| Entry::Padded("x".repeat(2000))).collect();
    bed.write_foreign("a", 1, large).await;
    let settings = [("persistence.replay-bytes", "3KiB")];
    let system = bed.start(&settings).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));
    assert_eq!(bed.calls.reading.total(), 5);
}

#[tokio::test]
async fn deleted_events_leave_their_numbers_behind() {
    let bed = Bed::new();
    bed.write_foreign("some", 1, noted(1..=5)).await;
    delete(&bed, "some", nr(3)).await;
    bed.write_foreign("all", 1, noted(1..=5)).await;
    delete(&bed, "all", SequenceNr::MAX).await;
    delete(&bed, "never", SequenceNr::MAX).await;
    delete(&bed, "ahead", nr(10)).await;
    let system = bed.start(&[("persistence.replay-rows", "1")]).await;
    for (entity_id, left, next) in [
        ("some", vec![4, 5], 6),
        ("all", vec![], 6),
        ("never", vec![], 1),
        ("ahead", vec![], 11),
    ] {
        let entity = system.entity::<Ledger>(entity_id);
        assert_eq!(entity.ask(Read).await, Ok(left.clone()), "{entity_id}");
        let expected: Vec<u64> = left.into_iter().chain([77]).collect();
        assert_eq!(entity.ask(Note(77)).await, Ok(expected), "{entity_id}");
        let last = bed.rows(entity_id).last().map(|row| row.seq_nr);
        assert_eq!(last, Some(nr(next)), "{entity_id}");
    }
}

#[tokio::test]
async fn a_snapshot_without_any_event_is_enough() {
    let bed = Bed::new();
    save(&bed, "a", 30, state([1, 2])).await;
    let system = bed.start_with(ledger().snapshot_every(100), &[]).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Note(3)).await, Ok(vec![1, 2, 3]));
    assert_eq!(bed.rows("a").last().map(|row| row.seq_nr), Some(nr(31)));
}

#[tokio::test]
async fn events_of_other_writers_are_replayed() {
    let bed = Bed::new();
    bed.write_foreign("a", 1, noted([1])).await;
    bed.write_foreign("a", 2, noted([2, 3])).await;
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Note(4)).await, Ok((1..=4).collect()));
    let writers: std::collections::HashSet<_> = bed
        .rows("a")
        .into_iter()
        .filter_map(|row| row.event.map(|(writer, _)| writer))
        .collect();
    assert_eq!(writers.len(), 3);
}

#[tokio::test]
async fn two_systems_on_one_database_never_share_a_number() {
    const COMMANDS: u64 = 40;
    let bed = Bed::new();
    let systems = [bed.start(&[]).await, bed.start(&[]).await];
    let mut told = Vec::new();
    for (number, system) in (0..COMMANDS).zip(systems.iter().cycle()) {
        let answer = system.entity::<Ledger>("a").ask(Note(number)).await;
        told.push((number, answer));
    }
    let stored = bed.stored("a");
    for (number, answer) in told {
        let is_stored = stored.contains(&Entry::Noted(number));
        match answer {
            Ok(notes) => {
                assert!(is_stored);
                assert_eq!(noted(notes.clone()), stored[..notes.len()]);
            }
            Err(AskError::PersistFailed(_)) => assert!(!is_stored),
            other => panic!("{other:?}"),
        }
    }
    let numbers: Vec<u64> = bed.rows("a").iter().map(|row| row.seq_nr.value()).collect();
    assert_eq!(numbers, (1..=stored.len() as u64).collect::<Vec<_>>());
    assert!(stored.len() as u64 >= COMMANDS / 2);
}

#[tokio::test]
async fn db_timestamps_grow_along_an_entity_although_the_clock_stands_still() {
    let clock = ManualClock::new();
    let bed = Bed {
        memory: perennial_testkit::MemoryStore::new(Arc::new(clock.clone())),
        ..Bed::new()
    };
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    for number in 0..3 {
        entity.ask(Note(number)).await.expect("stored");
    }
    assert_eq!(system.shutdown().await, Ok(()));
    clock.set(perennial_persistence::Clock::now(&clock) - Duration::from_secs(3600));
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let gate = hold_writes(&bed.faults);
    let asks: Vec<_> = (3..10).map(|number| send(&entity, Note(number))).collect();
    gate.open();
    for ask in asks {
        ask.answer().await.expect("stored");
    }
    let timestamps: Vec<Timestamp> = bed.rows("a").iter().map(|row| row.timestamp).collect();
    assert!(
        timestamps.is_sorted_by(|one, next| one < next),
        "{timestamps:?}"
    );
}

#[tokio::test]
async fn a_codec_of_ones_own_is_used_for_events() {
    /// One byte per event, under a serializer id of its own.
    #[derive(Debug)]
    struct Byte;
    impl Codec<Entry> for Byte {
        fn encode(
            &self,
            value: &Entry,
        ) -> Result<SerializedPayload, perennial_persistence::CodecError> {
            match value {
                Entry::Noted(number) => {
                    let byte = u8::try_from(*number)
                        .map_err(perennial_persistence::CodecError::unencodable)?;
                    Ok(SerializedPayload::new(99, "", vec![byte]))
                }
                _ => Err(perennial_persistence::CodecError::unencodable("no byte")),
            }
        }

        fn decode(
            &self,
            payload: &SerializedPayload,
        ) -> Result<Entry, perennial_persistence::CodecError> {
            Ok(Entry::Noted(payload.bytes[0].into()))
        }
    }

    let bed = Bed::new();
    let entity_type = perennial_core::Entity::<Ledger>::new(Services::default()).event_codec(Byte);
    let system = bed.start_with(entity_type, &[]).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Note(7)).await, Ok(vec![7]));
    let answer = entity.ask(Note(256)).await;
    let text = answer.expect_err("more than a byte").to_string();
    assert!(text.contains("cannot be encoded"), "{text}");
    let stop = run(|_, cx| cx.stop().reply(|_| ()));
    assert_eq!(entity.ask(stop).await, Ok(()));
    assert_eq!(entity.ask(Note(8)).await, Ok(vec![7, 8]));
    // A decoder that panics concerns its entity only.
    bed.write_payloads("b", 1, vec![SerializedPayload::new(99, "", Vec::new())])
        .await;
    let failed = recovery_failure(system.entity::<Ledger>("b").ask(Read).await);
    assert_eq!(failed.seq_nr, Some(nr(1)));
}
