//! What the stores keep of entities is deleted, while nobody can get in the way.

use std::sync::{Arc, Mutex};

use perennial_core::cleanup::{Cleanup, CleanupError, CleanupStep, CleanupTask};
use perennial_core::{ActorSystem, AskError, Retention};
use perennial_persistence::{
    NewEvent, PersistenceId, SequenceNr, SerializedPayload, Snapshot, SnapshotCriteria,
    StateChange, StateWrite, Store, Timestamp, WriterId,
};
use perennial_testkit::{ChangeFault, Gate};

use crate::fixture::{
    Bed, Ledger, Note, Read, id, in_time, ledger, lock, noted, run, settle, until,
};

fn seq(number: u64) -> SequenceNr {
    SequenceNr::new(number).expect("in range")
}

/// The numbers of an entity's rows, markers in brackets.
fn rows(bed: &Bed, entity_id: &str) -> String {
    let show = |row: perennial_testkit::JournalRow| match row.event {
        Some(_) => row.seq_nr.to_string(),
        None => format!("[{}]", row.seq_nr),
    };
    let rows: Vec<String> = bed.rows(entity_id).into_iter().map(show).collect();
    rows.join(" ")
}

/// An entity with `events` events that is not in memory.
async fn write(bed: &Bed, entity_id: &str, events: u64) {
    bed.write_foreign(entity_id, 1, noted(1..=events)).await;
}

async fn save_snapshot(bed: &Bed, entity_id: &str, seq_nr: u64) {
    let state = Ledger {
        notes: (1..=seq_nr).collect(),
    };
    let codec = perennial_persistence::MessagePack::<Ledger>::new("Ledger.State");
    let payload = perennial_persistence::Codec::encode(&codec, &state).expect("encodable");
    let snapshot = Snapshot {
        persistence_id: id(entity_id),
        seq_nr: seq(seq_nr),
        write_timestamp: Timestamp::UNIX_EPOCH,
        payload,
        metadata: None,
    };
    let store = bed.memory.open_again();
    store.snapshot_store().save(&snapshot).await.expect("saved");
}

async fn snapshot(bed: &Bed, entity_id: &str) -> Option<u64> {
    let store = bed.memory.open_again().snapshot_store();
    let loaded = store.load(&id(entity_id), SnapshotCriteria::ANY).await;
    loaded
        .expect("a snapshot or none")
        .map(|found| found.seq_nr.value())
}

/// Stops an entity and waits until it has left.
async fn leave(system: &ActorSystem, entity_id: &str) {
    let before = system.stats().resident;
    let entity = system.entity::<Ledger>(entity_id);
    let stopped = entity.ask(run(|_, cx| cx.reply(()).then_stop())).await;
    stopped.expect("it stops");
    until("it has left", || system.stats().resident < before).await;
}

fn on(bed: &Bed) -> Cleanup {
    Cleanup::of_store(bed.open().0)
}

#[tokio::test]
async fn events_are_deleted_in_batches_and_numbering_goes_on() {
    for (events, to, left, deletions) in [
        // Three at a time, until the last one is reached.
        (7, 7, "[7]", 3),
        (7, 4, "[4] 5 6 7", 2),
        (7, 5, "[5] 6 7", 2),
        (7, 1000, "[7]", 3),
        (1, 1, "[1]", 1),
        (3, 0, "1 2 3", 0),
        (0, 5, "", 0),
    ] {
        let bed = Bed::new();
        if events > 0 {
            write(&bed, "a", events).await;
        }
        let task = CleanupTask::EventsUpTo(seq(to));
        let cleanup = on(&bed).batch(3);
        let done = cleanup.run(task, [id("a")]).await.expect("done");
        assert_eq!(rows(&bed, "a"), left, "{events} up to {to}");
        assert_eq!((done.ids, done.rows), (1, to.min(events)));
        assert_eq!(bed.faults.deletes.count(), deletions, "{events} up to {to}");
        let again = cleanup.run(task, [id("a")]).await.expect("done");
        assert_eq!(again.rows, 0, "there is nothing left to do");
        assert_eq!(rows(&bed, "a"), left);
    }
    let bed = Bed::new();
    write(&bed, "a", 3).await;
    let system = bed.start(&[]).await;
    let all = CleanupTask::EventsUpTo(SequenceNr::MAX);
    system.cleanup().run(all, [id("a")]).await.expect("done");
    assert_eq!(system.entity::<Ledger>("a").ask(Note(9)).await, Ok(vec![9]));
    assert_eq!(rows(&bed, "a"), "[3] 4");
}

#[tokio::test]
async fn events_before_the_snapshot_are_those_that_it_stands_for() {
    let bed = Bed::new();
    write(&bed, "a", 5).await;
    write(&bed, "without", 2).await;
    save_snapshot(&bed, "a", 3).await;
    let done = on(&bed)
        .run(
            CleanupTask::EventsBeforeSnapshot,
            [id("a"), id("without"), id("nobody")],
        )
        .await
        .expect("done");
    assert_eq!((done.ids, done.rows), (3, 3));
    assert_eq!(rows(&bed, "a"), "[3] 4 5");
    assert_eq!(snapshot(&bed, "a").await, Some(3));
    assert_eq!(rows(&bed, "without"), "1 2");
    assert_eq!(rows(&bed, "nobody"), "");
    let entity_type = ledger().retention(Retention::every(0)).snapshot_every(0);
    let system = bed.start_with(entity_type, &[]).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Read).await, Ok(vec![1, 2, 3, 4, 5]));
}

#[tokio::test]
async fn a_snapshot_is_deleted_unless_its_events_are_gone() {
    let bed = Bed::new();
    write(&bed, "a", 3).await;
    save_snapshot(&bed, "a", 2).await;
    let cleanup = on(&bed);
    let snapshots = CleanupTask::Snapshot;
    let done = cleanup.run(snapshots, [id("a")]).await.expect("done");
    assert_eq!((done.rows, snapshot(&bed, "a").await), (1, None));
    assert_eq!(rows(&bed, "a"), "1 2 3");

    save_snapshot(&bed, "a", 2).await;
    let up_to = CleanupTask::EventsUpTo(seq(1));
    cleanup.run(up_to, [id("a")]).await.expect("done");
    let stopped = cleanup.run(snapshots, [id("a")]).await;
    let error = stopped.expect_err("its first event is gone").error;
    assert!(
        matches!(&error, CleanupError::SnapshotNeeded { seq_nr, .. } if *seq_nr == seq(2)),
        "{error}"
    );
    assert_eq!(snapshot(&bed, "a").await, Some(2));
}

#[tokio::test]
async fn everything_goes_with_a_marker_and_a_reset_leaves_nothing() {
    for (task, left, next) in [
        (CleanupTask::Everything, "[5]", "[5] 6"),
        (CleanupTask::Reset, "", "1"),
    ] {
        let bed = Bed::new();
        for entity_id in ["a", "other"] {
            write(&bed, entity_id, 5).await;
            save_snapshot(&bed, entity_id, 3).await;
        }
        let system = bed.start_with(ledger().snapshot_every(0), &[]).await;
        let cleanup = system.cleanup().batch(2);
        let done = cleanup.run(task, [id("a")]).await.expect("done");
        assert_eq!((done.ids, done.rows), (1, 6));
        assert_eq!(rows(&bed, "a"), left);
        assert_eq!(snapshot(&bed, "a").await, None);
        let has_rows = bed.memory.persistence_ids().contains(&id("a"));
        assert_eq!(has_rows, !left.is_empty());
        assert_eq!(rows(&bed, "other"), "1 2 3 4 5");
        assert_eq!(snapshot(&bed, "other").await, Some(3));
        assert_eq!(system.entity::<Ledger>("a").ask(Note(1)).await, Ok(vec![1]));
        assert_eq!(rows(&bed, "a"), next);
    }
}

#[tokio::test]
async fn a_durable_state_is_deleted_with_or_without_a_marker() {
    let bed = Bed::new();
    let store = bed.open().0;
    let states = store.durable_state_store();
    let put = StateChange::Put {
        payload: SerializedPayload::new(77, "", &b"x"[..]),
        tags: Vec::new(),
    };
    let write = StateWrite::new(id("a"), SequenceNr::ZERO, seq(1), put).expect("valid");
    for answer in states.write_states(&[write]).await {
        answer.expect("stored");
    }
    let cleanup = Cleanup::of_store(Arc::clone(&store));
    let ids = || [id("a"), id("nobody")];
    let done = cleanup.run(CleanupTask::State, ids()).await.expect("done");
    assert_eq!((done.ids, done.rows), (2, 1));
    let marker = states.load(&id("a")).await.expect("a row").expect("a row");
    assert_eq!((marker.payload, marker.revision), (None, seq(2)));
    let again = cleanup.run(CleanupTask::State, ids()).await.expect("done");
    assert_eq!(again.rows, 0, "a marker is not replaced by another");
    let reset = cleanup.run(CleanupTask::ResetState, ids()).await;
    assert_eq!(reset.expect("done").rows, 1);
    assert_eq!(states.load(&id("a")).await.expect("no error"), None);
}

/// A state that begins with revision 1 again needs the numbers of its change events; an id that has
/// no state keeps its events whatever it is.
#[tokio::test]
async fn a_state_is_reset_with_its_change_events() {
    let bed = Bed::new();
    let store = bed.open().0;
    let states = store.durable_state_store();
    let told = |expected: u64| {
        let put = StateChange::Put {
            payload: SerializedPayload::new(77, "", &b"x"[..]),
            tags: Vec::new(),
        };
        let mut write =
            StateWrite::new(id("a"), seq(expected), seq(expected + 1), put).expect("valid");
        let event = NewEvent::new(SerializedPayload::new(77, "", &b"told"[..]));
        let set = write.set_change_events(WriterId::from_random_bits(1), vec![event]);
        set.expect("valid");
        write
    };
    for expected in 0..3 {
        let answers = states.write_states(&[told(expected)]).await;
        assert!(answers[0].is_ok());
    }
    write(&bed, "events", 2).await;
    let cleanup = Cleanup::of_store(Arc::clone(&store)).batch(2);
    let ids = || [id("a"), id("events")];
    let planned = cleanup.clone().dry_run();
    let planned = planned.run(CleanupTask::ResetState, ids()).await;
    assert_eq!(planned.expect("planned").rows, 4);
    assert_eq!(rows(&bed, "a"), "1 2 3");
    let reset = cleanup.run(CleanupTask::ResetState, ids()).await;
    assert_eq!(reset.expect("done").rows, 4);
    assert_eq!(rows(&bed, "a"), "");
    assert_eq!(rows(&bed, "events"), "1 2");
    let answers = states.write_states(&[told(0)]).await;
    assert!(answers[0].is_ok(), "{answers:?}");
    assert_eq!(rows(&bed, "a"), "1");
    // Without a reset the events stay, and their numbers go on.
    let deleted = cleanup.run(CleanupTask::State, ids()).await;
    assert_eq!(deleted.expect("done").rows, 1);
    assert_eq!(rows(&bed, "a"), "1");
    let answers = states.write_states(&[told(2)]).await;
    assert!(answers[0].is_ok(), "{answers:?}");
    assert_eq!(rows(&bed, "a"), "1 3");
}

#[tokio::test]
async fn a_dry_run_says_what_would_go_and_deletes_nothing() {
    let bed = Bed::new();
    write(&bed, "a", 5).await;
    save_snapshot(&bed, "a", 3).await;
    let steps = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&steps);
    let cleanup = on(&bed)
        .batch(2)
        .on_progress(move |step| lock(&told).push(step));
    let everything = CleanupTask::Everything;
    let planned = cleanup.clone().dry_run().run(everything, [id("a")]).await;
    assert_eq!(planned.expect("planned").rows, 6);
    assert_eq!(rows(&bed, "a"), "1 2 3 4 5");
    assert_eq!(snapshot(&bed, "a").await, Some(3));
    assert_eq!(lock(&steps).drain(..).count(), 3, "events, snapshot, end");

    let done = cleanup.run(everything, [id("a")]).await.expect("done");
    assert_eq!(done.rows, 6);
    let batches: Vec<u64> = lock(&steps)
        .iter()
        .filter_map(|step| match step {
            CleanupStep::Deleted { rows, .. } => Some(*rows),
            _ => None,
        })
        .collect();
    assert_eq!(
        batches,
        [2, 2, 1, 1],
        "events in batches, then the snapshot"
    );
    assert!(matches!(
        lock(&steps).last(),
        Some(CleanupStep::Done { rows: 6, .. })
    ));
}

#[tokio::test]
async fn an_entity_in_memory_is_refused_until_it_has_left() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    entity.ask(Note(1)).await.expect("stored");
    let reset = CleanupTask::Reset;
    let stopped = system.cleanup().run(reset, [id("a")]).await;
    let error = stopped.expect_err("it is in memory").error;
    assert!(matches!(error, CleanupError::Resident { .. }), "{error}");
    assert_eq!(error.persistence_id(), &id("a"));
    assert_eq!(rows(&bed, "a"), "1");
    assert_eq!(entity.ask(Note(2)).await, Ok(vec![1, 2]));

    leave(&system, "a").await;
    system.cleanup().run(reset, [id("a")]).await.expect("done");
    assert_eq!(entity.ask(Note(3)).await, Ok(vec![3]));
}

#[tokio::test]
async fn commands_that_come_meanwhile_are_busy() {
    let bed = Bed::new();
    write(&bed, "a", 3).await;
    let system = bed.start(&[]).await;
    settle(&system).await;
    let gate = Gate::new();
    bed.faults.deletes.next(ChangeFault::Held(gate.clone()));
    let cleanup = system.cleanup();
    let going_on = {
        let cleanup = cleanup.clone();
        tokio::spawn(async move { cleanup.run(CleanupTask::Reset, [id("a")]).await })
    };
    gate.wait_for_arrivals(1).await;
    let entity = system.entity::<Ledger>("a");
    let busy = entity.ask(Read).await.expect_err("it is kept out");
    assert!(matches!(busy, AskError::Busy { .. }), "{busy}");
    assert!(
        busy.is_not_handled() && busy.to_string().contains("clean-up"),
        "{busy}"
    );
    let second = cleanup.run(CleanupTask::Reset, [id("a")]).await;
    let error = second.expect_err("somebody is at work").error;
    assert!(matches!(error, CleanupError::InUse { .. }), "{error}");
    let other = system.entity::<Ledger>("other");
    assert_eq!(
        other.ask(Note(1)).await,
        Ok(vec![1]),
        "no other is concerned"
    );

    // Nobody waits for it any more; it goes on to its end all the same.
    going_on.abort();
    gate.open();
    in_time("the entity comes back", async {
        while let Err(error) = entity.ask(Read).await {
            assert!(matches!(error, AskError::Busy { .. }), "{error}");
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(rows(&bed, "a"), "");
    assert_eq!(entity.ask(Note(7)).await, Ok(vec![7]));
}

/// Commands and clean-ups of the same entities at the same time: nothing is left half-way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_race_between_commands_and_clean_ups_has_no_third_outcome() {
    const ROUNDS: u64 = 300;
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let callers: Vec<_> = (0..2)
        .map(|_| {
            let system = system.clone();
            tokio::spawn(async move {
                let entity = system.entity::<Ledger>("a");
                let mut answered = 0;
                for number in 0..ROUNDS {
                    let note = run(move |_: &Ledger, cx| {
                        cx.persist(noted([number]))
                            .then_stop()
                            .reply(|ledger: &Ledger| ledger.notes.len())
                    });
                    match entity.ask(note).await {
                        Ok(_) => answered += 1,
                        Err(AskError::Busy { .. }) => tokio::task::yield_now().await,
                        Err(error) => panic!("no write fails: {error}"),
                    }
                }
                answered
            })
        })
        .collect();
    let mut cleaned = 0;
    for _ in 0..ROUNDS {
        match system.cleanup().run(CleanupTask::Reset, [id("a")]).await {
            Ok(report) => cleaned += report.rows,
            Err(stopped) => {
                assert!(
                    matches!(stopped.error, CleanupError::Resident { .. }),
                    "{stopped}"
                );
            }
        }
    }
    let mut answered = 0;
    for caller in callers {
        answered += caller.await.expect("a caller had no unexpected error");
    }
    let left = bed.rows("a");
    assert_eq!(
        cleaned + left.len() as u64,
        answered,
        "every event is there or was removed"
    );
    let numbers: Vec<u64> = left.iter().map(|row| row.seq_nr.value()).collect();
    assert_eq!(numbers, (1..=left.len() as u64).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_failure_names_its_id_and_the_rest_stops_or_goes_on() {
    let bed = Bed::new();
    let ids: Vec<PersistenceId> = ["a", "b", "c"].map(id).into();
    for entity_id in ["a", "b", "c"] {
        write(&bed, entity_id, 2).await;
    }
    bed.faults
        .deletes
        .decide(|call| (call.persistence_id == &id("b")).then_some(ChangeFault::Unavailable));
    let cleanup = on(&bed);
    let stopped = cleanup.run(CleanupTask::Reset, ids.clone()).await;
    let stopped = stopped.expect_err("b fails");
    assert_eq!(stopped.error.persistence_id(), &id("b"));
    assert!(matches!(stopped.error, CleanupError::Store { .. }));
    assert_eq!((stopped.report.ids, stopped.report.failed), (1, 1));
    assert_eq!(
        (rows(&bed, "a"), rows(&bed, "c")),
        (String::new(), "1 2".into())
    );

    let patient = cleanup.go_on_after_failures();
    let done = patient.run(CleanupTask::Reset, ids).await;
    let done = done.expect("it goes on");
    assert_eq!((done.ids, done.failed, done.rows), (2, 1, 2));
    assert_eq!(done.errors, [stopped.error]);
    assert_eq!(rows(&bed, "c"), "");
}

#[tokio::test]
async fn a_clean_up_that_broke_off_has_left_a_marker_and_is_finished_by_the_next() {
    let bed = Bed::new();
    write(&bed, "a", 5).await;
    let cleanup = on(&bed).batch(2);
    let all = CleanupTask::EventsUpTo(SequenceNr::MAX);
    // What is gone has a marker at any time, or a stale writer could store events in its place.
    for (at, left) in [(1, "1 2 3 4 5"), (3, "[2] 3 4 5"), (5, "[3] 4 5")] {
        bed.faults.deletes.at(at, ChangeFault::Unavailable);
        let broken = cleanup.run(all, [id("a")]).await;
        broken.expect_err("the store is away");
        assert_eq!(rows(&bed, "a"), left);
    }
    cleanup.run(all, [id("a")]).await.expect("done");
    assert_eq!(rows(&bed, "a"), "[5]");
}

#[tokio::test]
async fn a_stopped_system_cleans_nothing_up() {
    let bed = Bed::new();
    write(&bed, "a", 2).await;
    let system = bed.start(&[]).await;
    let cleanup = system.cleanup();
    in_time("the end", system.shutdown()).await.expect("ends");
    let stopped = cleanup.run(CleanupTask::Reset, [id("a")]).await;
    let error = stopped.expect_err("it has stopped").error;
    assert!(matches!(error, CleanupError::Stopped { .. }), "{error}");
    assert_eq!(rows(&bed, "a"), "1 2");
}
