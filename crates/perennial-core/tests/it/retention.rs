//! Snapshots that replace events, and events that are deleted on demand.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use perennial_core::config::ConfigSource;
use perennial_core::{ActorSystem, AskError, Cx, Entity, Recovery, Retention, Signal};
use perennial_persistence::{
    MessagePack, SequenceNr, SerializedPayload, SnapshotCriteria, Timestamp,
};
use perennial_testkit::{ChangeFault, Gate, JournalRow, ManualClock, ReadFault, WriteFault};

use crate::fixture::{
    Bed, Entry, Ledger, Note, Read, encode, id, in_time, ledger, noted, run, send, settle, until,
};

fn nr(value: u64) -> SequenceNr {
    SequenceNr::new(value).expect("in range")
}

fn keeping(retention: Retention) -> Entity<Ledger> {
    ledger()
        .state_codec(MessagePack::new("Ledger.State"))
        .retention(retention)
}

/// The numbers of the rows that are events, and that of the marker.
fn left(bed: &Bed, entity_id: &str) -> (Vec<u64>, Option<u64>) {
    let rows = bed.rows(entity_id);
    let number = |row: &JournalRow| row.seq_nr.value();
    let events = rows.iter().filter(|row| row.event.is_some());
    let marker = rows.iter().find(|row| row.event.is_none());
    (events.map(number).collect(), marker.map(number))
}

/// Signals in the order in which they came, as short texts.
#[derive(Debug, Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    fn listen(&self, entity: Entity<Ledger>) -> Entity<Ledger> {
        let lines = Arc::clone(&self.0);
        entity.on_signal(move |ledger, signal, cx: &Cx<'_, Ledger>| {
            if cx.entity_id() != "a" {
                return;
            }
            let line = match signal {
                Signal::RecoveryCompleted { snapshot, replayed } => {
                    let from = snapshot.map_or(0, SequenceNr::value);
                    format!("recovered from {from} and {replayed}")
                }
                Signal::RecoveryFailed(failed) => format!("not recovered: {}", failed.reason),
                Signal::SnapshotCompleted { seq_nr } => format!("snapshot {seq_nr}"),
                Signal::SnapshotFailed { seq_nr, .. } => format!("no snapshot {seq_nr}"),
                Signal::EventsDeleted { to } => format!("deleted {to}"),
                Signal::EventsDeletionFailed { to, reason } => format!("kept {to}: {reason}"),
                Signal::PersistFailed(failed) => format!("failed: {:?}", failed.kind),
                Signal::PersistRejected(failed) => format!("rejected: {:?}", failed.kind),
                other => format!("{other:?}"),
            };
            let (notes, seq_nr) = (ledger.notes.len(), cx.sequence_nr());
            let mut lines = lines.lock().expect("no test panics with it");
            lines.push(format!("{line} at {notes}/{seq_nr}"));
        })
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().expect("no test panics with it").clone()
    }

    async fn wait_for(&self, line: &str) {
        until(line, || self.lines().iter().any(|told| told == line)).await;
    }
}

#[tokio::test]
async fn events_are_deleted_up_to_the_kept_intervals_once_a_snapshot_is_saved() {
    for (keep, expected) in [(0, (vec![], Some(10))), (1, ((6..=10).collect(), Some(5)))] {
        let bed = Bed::new();
        let told = Told::default();
        let retention = Retention::every(5).keep(keep).delete_events();
        let entity = told.listen(keeping(retention));
        let system = bed.start_with(entity, &[]).await;
        let entity = system.entity::<Ledger>("a");
        for number in 1..=10 {
            entity.ask(Note(number)).await.expect("stored");
            if number % 5 == 0 {
                told.wait_for(&format!("snapshot {number} at {number}/{number}"))
                    .await;
            }
        }
        let to = 10 - 5 * keep;
        told.wait_for(&format!("deleted {to} at 10/10")).await;
        assert_eq!(left(&bed, "a"), expected);
        assert_eq!(system.shutdown().await, Ok(()));

        let system = bed.start_with(keeping(retention), &[]).await;
        let entity = system.entity::<Ledger>("a");
        assert_eq!(entity.ask(Read).await, Ok((1..=10).collect()));
        assert_eq!(entity.ask(Note(11)).await, Ok((1..=11).collect()));
        assert_eq!(bed.rows("a").last().map(|row| row.seq_nr), Some(nr(11)));
    }
}

/// Pekko deletes older snapshots with the events and tells of it; there are none, as its store keeps
/// one per id too.
#[tokio::test]
async fn no_snapshot_is_deleted_as_the_next_one_replaces_it() {
    let bed = Bed::new();
    let told = Told::default();
    let retention = Retention::every(2).keep(1).delete_events();
    let entity = told
        .listen(keeping(retention))
        .snapshot_when(|_, event, _| {
            // Besides those of the retention.
            *event == Entry::Noted(5)
        });
    let system = bed.start_with(entity, &[]).await;
    let entity = system.entity::<Ledger>("a");
    for number in 1..=6 {
        entity.ask(Note(number)).await.expect("stored");
        if number == 5 || number % 2 == 0 {
            told.wait_for(&format!("snapshot {number} at {number}/{number}"))
                .await;
            let snapshot = bed.memory.snapshot(&id("a")).expect("the only one");
            assert_eq!(snapshot.seq_nr, nr(number));
        }
        if number > 2 && number % 2 == 0 {
            let to = number - 2;
            told.wait_for(&format!("deleted {to} at {number}/{number}"))
                .await;
        }
    }
    let expected = [
        "recovered from 0 and 0 at 0/0",
        "snapshot 2 at 2/2",
        "snapshot 4 at 4/4",
        "deleted 2 at 4/4",
        "snapshot 5 at 5/5",
        "snapshot 6 at 6/6",
        "deleted 4 at 6/6",
    ];
    assert_eq!(told.lines(), expected, "and nothing else");
    assert_eq!(bed.faults.snapshot_saves.count(), 4);
    assert_eq!(bed.faults.snapshot_deletes.count(), 0);
    // A clean-up may delete it, of an entity that is not there to be told.
    assert_eq!(system.shutdown().await, Ok(()));
    let system = bed.start_with(told.listen(keeping(retention)), &[]).await;
    let everything = perennial_core::cleanup::CleanupTask::Everything;
    let cleanup = system.cleanup().run(everything, [id("a")]).await;
    assert_eq!(cleanup.expect("done").failed, 0);
    assert_eq!(bed.memory.snapshot(&id("a")), None);
    assert_eq!(bed.faults.snapshot_deletes.count(), 1);
    assert_eq!(told.lines(), expected, "nobody was there");
}

#[tokio::test]
async fn nothing_is_deleted_before_the_snapshot_is_saved() {
    let bed = Bed::new();
    let gate = Gate::new();
    bed.faults
        .snapshot_saves
        .next(ChangeFault::Held(gate.clone()));
    let retention = Retention::every(5).keep(0).delete_events();
    let system = bed.start_with(keeping(retention), &[]).await;
    let entity = system.entity::<Ledger>("a");
    for number in 1..=9 {
        entity.ask(Note(number)).await.expect("stored");
    }
    settle(&system).await;
    assert_eq!(left(&bed, "a"), ((1..=9).collect(), None));
    gate.open();
    until("the events are deleted", || left(&bed, "a").1.is_some()).await;
    assert_eq!(left(&bed, "a"), ((6..=9).collect(), Some(5)));
}

#[tokio::test]
async fn a_snapshot_that_was_not_saved_deletes_nothing() {
    let bed = Bed::new();
    let told = Told::default();
    bed.faults.snapshot_saves.next(ChangeFault::LostAnswer);
    let retention = Retention::every(5).keep(0).delete_events();
    let system = bed.start_with(told.listen(keeping(retention)), &[]).await;
    let entity = system.entity::<Ledger>("a");
    for number in 1..=5 {
        entity.ask(Note(number)).await.expect("stored");
    }
    told.wait_for("no snapshot 5 at 5/5").await;
    settle(&system).await;
    assert_eq!(left(&bed, "a"), ((1..=5).collect(), None));
}

#[tokio::test]
async fn a_deletion_that_fails_is_told_and_the_next_one_covers_it() {
    let bed = Bed::new();
    let told = Told::default();
    bed.faults.deletes.next(ChangeFault::Unavailable);
    let retention = Retention::every(2).keep(0).delete_events();
    let system = bed.start_with(told.listen(keeping(retention)), &[]).await;
    let entity = system.entity::<Ledger>("a");
    for number in 1..=2 {
        entity.ask(Note(number)).await.expect("stored");
    }
    until("the failure is told", || {
        told.lines().iter().any(|line| line.starts_with("kept 2"))
    })
    .await;
    assert_eq!(left(&bed, "a"), (vec![1, 2], None));
    for number in 3..=4 {
        entity.ask(Note(number)).await.expect("stored");
    }
    told.wait_for("deleted 4 at 4/4").await;
    assert_eq!(left(&bed, "a"), (vec![], Some(4)));
}

/// As in Pekko: the snapshot after a long recovery is no part of the retention.
#[tokio::test]
async fn the_snapshot_after_a_long_recovery_deletes_nothing() {
    let bed = Bed::new();
    let told = Told::default();
    bed.write_foreign("a", 1, noted(1..=9)).await;
    let retention = Retention::every(4).keep(0).delete_events();
    let system = bed.start_with(told.listen(keeping(retention)), &[]).await;
    let entity = system.entity::<Ledger>("a");
    entity.ask(Read).await.expect("recovered");
    told.wait_for("snapshot 9 at 9/9").await;
    settle(&system).await;
    assert_eq!(left(&bed, "a"), ((1..=9).collect(), None));
}

#[tokio::test]
async fn a_predicate_takes_snapshots_that_delete_nothing() {
    let bed = Bed::new();
    let told = Told::default();
    let entity = keeping(Retention::every(100).keep(0).delete_events()).snapshot_when(
        |ledger, event, seq_nr| {
            assert_eq!(ledger.notes.len() as u64, seq_nr.value());
            *event == Entry::Noted(7)
        },
    );
    let system = bed.start_with(told.listen(entity), &[]).await;
    let entity = system.entity::<Ledger>("a");
    let several = run(|_, cx| cx.persist(noted([6, 7, 8])).reply(|_| ()));
    assert_eq!(entity.ask(several).await, Ok(()));
    // After the whole write, not in the middle of it.
    told.wait_for("snapshot 3 at 3/3").await;
    settle(&system).await;
    assert_eq!(left(&bed, "a"), (vec![1, 2, 3], None));
}

#[tokio::test]
async fn a_command_deletes_events_once_its_own_are_stored() {
    let bed = Bed::new();
    let told = Told::default();
    let system = bed.start_with(told.listen(ledger()), &[]).await;
    let entity = system.entity::<Ledger>("a");
    let delete = |to: u64| {
        run(move |_, cx| {
            cx.persist(noted([to]))
                .then_delete_events(nr(to))
                .reply(|_| ())
        })
    };
    for number in 1..=3 {
        entity.ask(Note(number)).await.expect("stored");
    }
    assert_eq!(entity.ask(delete(3)).await, Ok(()));
    told.wait_for("deleted 3 at 4/4").await;
    assert_eq!(left(&bed, "a"), (vec![4], Some(3)));
    // A number that no event has would move the numbering.
    assert_eq!(entity.ask(delete(6)).await, Ok(()));
    let refusal = "kept 6: the last event is 5, so there is none with number 6 at 5/5";
    told.wait_for(refusal).await;
    assert_eq!(left(&bed, "a"), (vec![4, 5], Some(3)));
    assert_eq!(system.shutdown().await, Ok(()));

    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Read).await, Ok(vec![3, 6]));
    assert_eq!(entity.ask(Note(9)).await, Ok(vec![3, 6, 9]));
    assert_eq!(bed.rows("a").last().map(|row| row.seq_nr), Some(nr(6)));
}

#[tokio::test]
async fn an_entity_stays_in_memory_and_a_system_up_until_its_deletion_has_ended() {
    let bed = Bed::new();
    let gate = Gate::new();
    bed.faults.deletes.next(ChangeFault::Held(gate.clone()));
    let clock = ManualClock::new();
    let told = Told::default();
    let entity = told.listen(ledger().passivate_after(Some(Duration::from_secs(1))));
    let system = bed.start_on(Arc::new(clock.clone()), entity, &[]).await;
    let entity = system.entity::<Ledger>("a");
    entity.ask(Note(1)).await.expect("stored");
    let delete = run(|_, cx| {
        cx.none()
            .then_delete_events(SequenceNr::FIRST)
            .reply(|_| ())
    });
    assert_eq!(entity.ask(delete).await, Ok(()));
    gate.wait_for_arrivals(1).await;
    clock.advance(Duration::from_secs(2));
    settle(&system).await;
    assert_eq!(system.stats().resident, 2, "and the bystander");
    let stopping = tokio::spawn({
        let system = system.clone();
        async move { system.shutdown().await }
    });
    until("new commands are refused", || {
        entity.tell(Read) == Err(AskError::Stopped)
    })
    .await;
    assert!(!stopping.is_finished());
    gate.open();
    assert_eq!(stopping.await.expect("no panic"), Ok(()));
    assert_eq!(left(&bed, "a"), (vec![], Some(1)));
    assert_eq!(
        told.lines().last().map(String::as_str),
        Some("deleted 1 at 1/1")
    );
}

/// A deletion that another incarnation began may overtake a recovery that has read an older
/// snapshot. It was saved before the events were deleted, so it is looked for.
#[tokio::test]
async fn events_that_vanish_during_a_recovery_are_found_in_the_newer_snapshot() {
    let bed = Bed::new();
    let first = keeping(Retention::every(4));
    let system = bed.start_with(first, &[]).await;
    let entity = system.entity::<Ledger>("a");
    for number in 1..=9 {
        entity.ask(Note(number)).await.expect("stored");
        settle(&system).await;
    }
    until("two snapshots", || system.stats().saved_snapshots == 2).await;
    assert_eq!(system.shutdown().await, Ok(()));

    // Another system: it reads the snapshot at 8, and before it reads on, a third one goes further.
    let gate = Gate::new();
    bed.faults.reads.next(ReadFault::Held(gate.clone()));
    let reading = bed.start_with(keeping(Retention::every(4)), &[]).await;
    let answer = send(&reading.entity::<Ledger>("a"), Read);
    gate.wait_for_arrivals(1).await;
    let other = Arc::new(bed.memory.open_again());
    let further = ActorSystem::with_store(ConfigSource::empty(), other)
        .entity(keeping(Retention::every(4).keep(0).delete_events()))
        .start()
        .await
        .expect("it starts");
    let entity = further.entity::<Ledger>("a");
    for number in 10..=12 {
        entity.ask(Note(number)).await.expect("stored");
    }
    until("the events are deleted", || left(&bed, "a").1 == Some(12)).await;
    gate.open();
    let answer = answer.answer().await.expect("it recovers");
    assert_eq!(answer, (1..=12).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_gap_that_others_left_is_no_reason_to_fail() {
    let bed = Bed::new();
    bed.write_foreign("a", 1, noted([1])).await;
    bed.write_foreign("a", 3, noted([3])).await;
    for entity in [ledger(), keeping(Retention::every(100))] {
        let system = bed.start_with(entity, &[]).await;
        let entity = system.entity::<Ledger>("a");
        assert_eq!(entity.ask(Read).await, Ok(vec![1, 3]));
        assert_eq!(system.shutdown().await, Ok(()));
    }
}

#[tokio::test]
async fn an_entity_comes_back_as_its_recovery_says() {
    let bed = Bed::new();
    let system = bed.start_with(keeping(Retention::every(4)), &[]).await;
    let entity = system.entity::<Ledger>("a");
    for number in 1..=6 {
        entity.ask(Note(number)).await.expect("stored");
    }
    until("a snapshot", || system.stats().saved_snapshots == 1).await;
    assert_eq!(system.shutdown().await, Ok(()));
    // What stands in the snapshot differs from the events, to see which were used.
    let mut snapshot = bed.memory.snapshot(&id("a")).expect("it is saved");
    snapshot.payload = perennial_persistence::Codec::encode(
        &MessagePack::<Ledger>::new("Ledger.State"),
        &Ledger { notes: vec![77] },
    )
    .expect("encodable");
    let store = perennial_persistence::Store::snapshot_store(&bed.memory);
    store
        .delete(&id("a"), SnapshotCriteria::ANY)
        .await
        .expect("deleted");
    store.save(&snapshot).await.expect("saved");

    let mut early = SnapshotCriteria::ANY;
    early.max_seq_nr = nr(3);
    let mut old = SnapshotCriteria::ANY;
    old.max_timestamp = Some(Timestamp::UNIX_EPOCH);
    for (recovery, expected) in [
        (Recovery::Latest, vec![77, 5, 6]),
        (
            Recovery::FromSnapshot(SnapshotCriteria::ANY),
            vec![77, 5, 6],
        ),
        (Recovery::FromSnapshot(early), vec![1, 2, 3, 4, 5, 6]),
        (Recovery::FromSnapshot(old), vec![1, 2, 3, 4, 5, 6]),
        (Recovery::WithoutSnapshot, vec![1, 2, 3, 4, 5, 6]),
        (Recovery::FromSequenceNr(nr(5)), vec![5, 6]),
        (Recovery::FromSequenceNr(nr(7)), vec![]),
        (
            Recovery::FromSequenceNr(SequenceNr::ZERO),
            vec![1, 2, 3, 4, 5, 6],
        ),
        (Recovery::LastEvent, vec![6]),
        (Recovery::Disabled, vec![]),
    ] {
        let entity = keeping(Retention::every(1000)).recovery(recovery);
        let system = bed.start_with(entity, &[]).await;
        let entity = system.entity::<Ledger>("a");
        assert_eq!(entity.ask(Read).await, Ok(expected), "{recovery:?}");
        let number = run(|_, cx| {
            let number = cx.sequence_nr();
            cx.reply(number)
        });
        assert_eq!(entity.ask(number).await, Ok(nr(6)), "{recovery:?}");
        assert_eq!(system.shutdown().await, Ok(()));
    }
    // Numbering goes on after what was not read.
    let system = bed
        .start_with(ledger().recovery(Recovery::Disabled), &[])
        .await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Note(8)).await, Ok(vec![8]));
    assert_eq!(bed.rows("a").last().map(|row| row.seq_nr), Some(nr(7)));
}

#[tokio::test]
async fn the_last_event_alone_brings_an_entity_back() {
    let bed = Bed::new();
    let told = Told::default();
    let last = || told.listen(ledger().recovery(Recovery::LastEvent));
    // Nothing is there.
    let system = bed.start_with(last(), &[]).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));
    assert_eq!(system.shutdown().await, Ok(()));

    // One event of many, and only that one is read.
    bed.write_foreign("a", 2, noted(2..=900)).await;
    let read = bed.calls.reading.total();
    let system = bed.start_with(last(), &[]).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Note(901)).await, Ok(vec![900, 901]));
    assert_eq!(bed.calls.reading.total(), read + 1, "one page");
    told.wait_for("recovered from 0 and 1 at 1/900").await;
    let delete = run(|_, cx| {
        cx.persist(noted([902]))
            .then_delete_events(nr(901))
            .reply(|_| ())
    });
    assert_eq!(entity.ask(delete).await, Ok(()));
    told.wait_for("deleted 901 at 3/902").await;
    assert_eq!(system.shutdown().await, Ok(()));

    // What was deleted before it makes no difference.
    let system = bed.start_with(last(), &[]).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Read).await, Ok(vec![902]));
    let delete = run(|_, cx| cx.none().then_delete_events(nr(902)).reply(|_| ()));
    assert_eq!(entity.ask(delete).await, Ok(()));
    told.wait_for("deleted 902 at 1/902").await;
    assert_eq!(system.shutdown().await, Ok(()));

    // Without it the state is the default one, and numbering goes on.
    let system = bed.start_with(last(), &[]).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Note(903)).await, Ok(vec![903]));
    assert_eq!(left(&bed, "a"), (vec![903], Some(902)));
}

/// Between the look for the number and that for the event others may write, and delete.
#[tokio::test]
async fn the_last_event_is_the_last_one_when_it_is_read() {
    let bed = Bed::new();
    bed.write_foreign("a", 1, noted(1..=3)).await;
    let settings = [("persistence.replay-rows", "2")];
    let entity = || ledger().recovery(Recovery::LastEvent);
    let start = async |gate: &Gate| {
        // The first read is that of the number.
        let next = bed.faults.reads.count() + 2;
        bed.faults.reads.at(next, ReadFault::Held(gate.clone()));
        let system = bed.start_with(entity(), &settings).await;
        let answer = send(&system.entity::<Ledger>("a"), Note(9));
        gate.wait_for_arrivals(1).await;
        (system, answer)
    };
    let gate = Gate::new();
    let (system, answer) = start(&gate).await;
    // Three pages of two, counted from the third event on.
    bed.write_foreign("a", 4, noted(4..=8)).await;
    gate.open();
    assert_eq!(answer.answer().await, Ok(vec![8, 9]));
    assert_eq!(system.shutdown().await, Ok(()));

    let gate = Gate::new();
    let (_system, answer) = start(&gate).await;
    let journal = perennial_persistence::Store::journal(&bed.memory);
    let deleted = journal.delete_events(&id("a"), nr(9)).await;
    assert!(deleted.is_ok(), "{deleted:?}");
    gate.open();
    assert_eq!(answer.answer().await, Ok(vec![9]));
    assert_eq!(bed.rows("a").last().map(|row| row.seq_nr), Some(nr(10)));
}

#[tokio::test]
async fn a_state_that_lacks_events_is_never_saved() {
    let bed = Bed::new();
    bed.write_foreign("a", 1, noted(1..=9)).await;
    for recovery in [
        Recovery::Disabled,
        Recovery::FromSequenceNr(nr(9)),
        Recovery::LastEvent,
    ] {
        let entity = keeping(Retention::every(2)).recovery(recovery);
        let system = bed.start_with(entity, &[]).await;
        let entity = system.entity::<Ledger>("a");
        entity.ask(Note(1)).await.expect("stored");
        entity.ask(Note(2)).await.expect("stored");
        assert_eq!(system.shutdown().await, Ok(()));
        assert_eq!(bed.memory.snapshot(&id("a")), None);
    }
}

#[tokio::test]
async fn a_store_that_does_not_answer_fails_the_recovery() {
    let bed = Bed::new();
    let told = Told::default();
    let gate = Gate::new();
    bed.write_foreign("a", 1, noted([1])).await;
    bed.faults.reads.next(ReadFault::Held(gate.clone()));
    let entity = told.listen(ledger().recovery_timeout(Duration::from_millis(20)));
    let system = bed.start_with(entity, &[]).await;
    let entity = system.entity::<Ledger>("a");
    let error = entity.ask(Read).await.expect_err("no answer");
    let text = error.to_string();
    assert!(
        text.contains("no answer within 20ms (`recovery-timeout`)"),
        "{text}"
    );
    until("the failure is told", || {
        told.lines()
            .iter()
            .any(|line| line.starts_with("not recovered"))
    })
    .await;
    gate.open();
    // On a busy machine another attempt may take too long as well.
    let notes = in_time("it recovers", async {
        loop {
            if let Ok(notes) = entity.ask(Read).await {
                break notes;
            }
        }
    });
    assert_eq!(notes.await, [1]);
}

#[tokio::test]
async fn signals_tell_what_happens_besides_commands() {
    let bed = Bed::new();
    let told = Told::default();
    bed.write_foreign("a", 1, noted([1, 2])).await;
    let system = bed.start_with(told.listen(ledger()), &[]).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Read).await, Ok(vec![1, 2]));
    assert_eq!(told.lines(), ["recovered from 0 and 2 at 2/2"]);

    // Another writer is faster.
    bed.write_foreign("a", 3, noted([3])).await;
    entity.ask(Note(4)).await.expect_err("a conflict");
    assert_eq!(entity.ask(Note(5)).await, Ok(vec![1, 2, 3, 5]));
    assert_eq!(
        told.lines()[1..],
        ["failed: Conflict at 3/3", "recovered from 0 and 3 at 3/3"]
    );

    // The store refuses a row.
    bed.faults.writes.next(WriteFault::Rejected);
    entity.ask(Note(6)).await.expect_err("refused");
    assert_eq!(entity.ask(Read).await, Ok(vec![1, 2, 3, 5]));
    assert_eq!(
        told.lines()[3..],
        ["rejected: Rejected at 4/4", "recovered from 0 and 4 at 4/4"]
    );
}

/// What a signal handler does reaches others, so it must not see what may still be taken back.
#[tokio::test]
async fn signals_see_only_what_is_stored() {
    let bed = Bed::new();
    let told = Told::default();
    let save = Gate::new();
    bed.faults
        .snapshot_saves
        .next(ChangeFault::Held(save.clone()));
    let system = bed
        .start_with(told.listen(keeping(Retention::every(2))), &[])
        .await;
    let entity = system.entity::<Ledger>("a");
    for number in 1..=2 {
        entity.ask(Note(number)).await.expect("stored");
    }
    save.wait_for_arrivals(1).await;
    let write = Gate::new();
    bed.faults.writes.next(WriteFault::Held(write.clone()));
    let third = send(&entity, Note(3));
    write.wait_for_arrivals(1).await;
    save.open();
    until("the snapshot is saved", || {
        system.stats().saved_snapshots == 1
    })
    .await;
    let fourth = send(&entity, Note(4));
    settle(&system).await;
    assert_eq!(told.lines(), ["recovered from 0 and 0 at 0/0"]);
    write.open();
    assert_eq!(third.answer().await, Ok(vec![1, 2, 3]));
    assert_eq!(fourth.answer().await, Ok(vec![1, 2, 3, 4]));
    // That of the fourth may be saved by now.
    assert_eq!(told.lines()[1], "snapshot 2 at 3/3");
}

#[tokio::test]
async fn a_signal_handler_that_panics_restarts_the_entity() {
    let bed = Bed::new();
    let panics = Arc::new(Mutex::new(0));
    let count = Arc::clone(&panics);
    let entity = keeping(Retention::every(1)).on_signal(move |ledger, signal, _| {
        if matches!(signal, Signal::SnapshotCompleted { .. }) && ledger.notes.len() == 1 {
            *count.lock().expect("it panics without it") += 1;
            panic!("a signal handler panics");
        }
    });
    let system = bed.start_with(entity, &[]).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));
    until("it panics", || {
        *panics.lock().expect("it panics without it") == 1
    })
    .await;
    assert_eq!(entity.ask(Note(2)).await, Ok(vec![1, 2]));
    assert_eq!(system.stats().recovered, 2);
}

#[tokio::test]
async fn tags_and_metadata_go_into_the_rows_and_come_back() {
    let bed = Bed::new();
    let entity = ledger().tags(|ledger, event| match event {
        Entry::Noted(number) if number % 2 == 0 => {
            vec!["even".to_owned(), format!("of-{}", ledger.notes.len())]
        }
        _ => Vec::new(),
    });
    let system = bed.start_with(entity, &[]).await;
    let entity = system.entity::<Ledger>("a");
    let metadata = SerializedPayload::new(77, "Cause", &b"by hand"[..]);
    let with = metadata.clone();
    let three = run(move |_, cx| {
        cx.persist_with_metadata([
            (Entry::Noted(1), None),
            (Entry::Noted(2), Some(with)),
            (Entry::Noted(4), None),
        ])
        .reply(|_| ())
    });
    assert_eq!(entity.ask(three).await, Ok(()));
    let stored: Vec<_> = bed
        .rows("a")
        .into_iter()
        .filter_map(|row| row.event)
        .map(|(_, event)| (event.tags, event.metadata))
        .collect();
    let tags = |tags: &[&str]| tags.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        stored,
        [
            (tags(&[]), None),
            (tags(&["even", "of-2"]), Some(metadata)),
            (tags(&["even", "of-3"]), None),
        ]
    );
}

#[tokio::test]
async fn a_tag_that_cannot_be_stored_refuses_its_command_only() {
    let bed = Bed::new();
    let entity = ledger().tags(|_, event| match event {
        Entry::Noted(2) => vec!["a\0b".to_owned()],
        Entry::Noted(3) => panic!("no tag for this one"),
        _ => Vec::new(),
    });
    let system = bed.start_with(entity, &[]).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));
    let refused = entity.ask(Note(2)).await.expect_err("U+0000");
    assert!(refused.to_string().contains("U+0000"), "{refused}");
    let panicked = entity.ask(Note(3)).await.expect_err("a panic");
    assert!(panicked.to_string().contains("no tag"), "{panicked}");
    assert_eq!(entity.ask(Note(4)).await, Ok(vec![1, 4]));
}

/// Serializer id 34: the number is taken, and there is nothing to apply.
#[tokio::test]
async fn an_event_that_was_filtered_out_on_its_way_is_passed_over() {
    let bed = Bed::new();
    let filtered =
        SerializedPayload::new(perennial_persistence::FILTERED_PAYLOAD_ID, "F", &b""[..]);
    let payloads = vec![encode(&Entry::Noted(1)), filtered, encode(&Entry::Noted(3))];
    bed.write_payloads("a", 1, payloads).await;
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Note(4)).await, Ok(vec![1, 3, 4]));
    assert_eq!(bed.rows("a").last().map(|row| row.seq_nr), Some(nr(4)));
}
