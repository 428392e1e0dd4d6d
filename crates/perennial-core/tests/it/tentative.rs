//! State that is ahead of the journal: what is built on it leaves the entity when it is durable.

use std::sync::Arc;

use perennial_core::{AskError, PersistFailure};
use perennial_testkit::{Gate, WriteFault};

use crate::fixture::{
    Bed, Ledger, Note, Read, Record, hold_writes, ledger, mark, noted, persist_failure, run, send,
    settle, until,
};

#[tokio::test]
async fn later_commands_are_handled_while_a_write_is_in_flight() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let gate = hold_writes(&bed.faults);
    let first = send(&entity, Note(1));
    gate.wait_for_arrivals(1).await;

    let record = Record::default();
    let handled = record.clone();
    let second = send(
        &entity,
        run(move |ledger, cx| {
            assert_eq!(ledger.notes, [1], "the state before is applied already");
            handled.add("second handled");
            cx.persist(noted([2])).reply(|ledger| ledger.notes.clone())
        }),
    );
    let read = send(&entity, Read);
    let marked = send(&entity, mark("read handled", &record));
    until("the later commands are handled", || {
        record.lines() == ["second handled", "read handled"]
    })
    .await;
    // Nothing is out, and nothing is stored.
    settle(&system).await;
    assert!(first.is_open() && second.is_open() && read.is_open() && marked.is_open());
    assert_eq!(bed.rows("a"), []);

    gate.open();
    assert_eq!(first.answer().await, Ok(vec![1]));
    assert_eq!(second.answer().await, Ok(vec![1, 2]));
    assert_eq!(read.answer().await, Ok(vec![1, 2]));
    assert_eq!(marked.answer().await, Ok("read handled"));
}

#[tokio::test]
async fn a_read_waits_for_the_writes_it_saw_and_for_no_later_ones() {
    let bed = Bed::new();
    let system = bed.start(&[("persistence.writers", "1")]).await;
    let entity = system.entity::<Ledger>("a");
    let (first_gate, second_gate) = (Gate::new(), Gate::new());
    bed.faults
        .writes
        .at(1, WriteFault::Held(first_gate.clone()));
    bed.faults
        .writes
        .at(2, WriteFault::Held(second_gate.clone()));
    let first = send(&entity, Note(1));
    first_gate.wait_for_arrivals(1).await;
    let early_read = send(&entity, Read);
    let second = send(&entity, Note(2));
    let late_read = send(&entity, Read);
    settle(&system).await;

    first_gate.open();
    assert_eq!(first.answer().await, Ok(vec![1]));
    assert_eq!(early_read.answer().await, Ok(vec![1]));
    second_gate.wait_for_arrivals(1).await;
    settle(&system).await;
    assert!(second.is_open() && late_read.is_open());
    second_gate.open();
    assert_eq!(second.answer().await, Ok(vec![1, 2]));
    assert_eq!(late_read.answer().await, Ok(vec![1, 2]));
}

#[tokio::test]
async fn a_failed_write_takes_the_later_ones_with_it() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    entity.ask(Note(0)).await.expect("stored");

    let gate = Gate::new();
    bed.faults.writes.decide({
        let gate = gate.clone();
        move |call| (call.number == 2).then(|| WriteFault::Held(gate.clone()))
    });
    // The held batch is refused once the gate opens: another writer has been faster.
    let first = send(&entity, Note(1));
    gate.wait_for_arrivals(1).await;
    let read = send(&entity, Read);
    let second = send(&entity, Note(2));
    let third = send(&entity, Note(3));
    let late_read = send(&entity, Read);
    settle(&system).await;
    bed.write_foreign("a", 2, noted([99])).await;
    gate.open();

    assert_eq!(
        persist_failure(first.answer().await),
        PersistFailure::Conflict
    );
    for answer in [
        read.answer().await,
        second.answer().await,
        third.answer().await,
        late_read.answer().await,
    ] {
        assert_eq!(persist_failure(answer), PersistFailure::Earlier);
    }
    // The entity sees what the other one wrote, and goes on after it.
    assert_eq!(entity.ask(Note(4)).await, Ok(vec![0, 99, 4]));
    assert_eq!(bed.stored("a"), noted([0, 99, 4]));
}

#[tokio::test]
async fn later_writes_in_the_same_batch_fail_as_built_on_the_earlier_one() {
    let bed = Bed::new();
    let system = bed.start(&[("persistence.writers", "1")]).await;
    // Another entity's write keeps the lane busy, so that three of "a" go out in one batch.
    let gate = Gate::new();
    bed.faults.writes.next(WriteFault::Held(gate.clone()));
    let other = send(&system.entity::<Ledger>("other"), Note(0));
    gate.wait_for_arrivals(1).await;
    let entity = system.entity::<Ledger>("a");
    let writes = [1, 2, 3].map(|number| send(&entity, Note(number)));
    let read = send(&entity, Read);
    settle(&system).await;
    bed.faults.writes.next(WriteFault::Rejected);
    gate.open();
    assert_eq!(other.answer().await, Ok(vec![0]));
    let mut kinds = Vec::new();
    for write in writes {
        kinds.push(persist_failure(write.answer().await));
    }
    assert_eq!(
        kinds,
        [
            PersistFailure::Rejected,
            PersistFailure::Earlier,
            PersistFailure::Earlier
        ]
    );
    assert_eq!(
        persist_failure(read.answer().await),
        PersistFailure::Earlier
    );
    assert_eq!(bed.calls.batches().len(), 2);
    assert_eq!(entity.ask(Note(4)).await, Ok(vec![4]));
}

#[tokio::test]
async fn what_was_stored_before_a_failed_write_stays_answered() {
    let bed = Bed::new();
    let system = bed.start(&[("persistence.writers", "1")]).await;
    let gate = Gate::new();
    bed.faults.writes.next(WriteFault::Held(gate.clone()));
    let other = send(&system.entity::<Ledger>("other"), Note(0));
    gate.wait_for_arrivals(1).await;
    let entity = system.entity::<Ledger>("a");
    let writes = [1, 2, 3].map(|number| send(&entity, Note(number)));
    settle(&system).await;
    bed.faults.writes.at(3, WriteFault::Rejected);
    gate.open();
    other.answer().await.expect("stored");
    let [first, second, third] = writes;
    assert_eq!(first.answer().await, Ok(vec![1]));
    assert_eq!(
        persist_failure(second.answer().await),
        PersistFailure::Rejected
    );
    assert_eq!(
        persist_failure(third.answer().await),
        PersistFailure::Earlier
    );
    assert_eq!(entity.ask(Read).await, Ok(vec![1]));
    assert_eq!(bed.stored("a"), noted([1]));
}

#[tokio::test]
async fn unhandled_is_held_as_any_answer_is() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let unless_noted = || {
        run(|ledger, cx| {
            if ledger.notes.is_empty() {
                cx.reply(())
            } else {
                cx.unhandled()
            }
        })
    };
    let gate = hold_writes(&bed.faults);
    let note = send(&entity, Note(1));
    gate.wait_for_arrivals(1).await;
    let unhandled = send(&entity, unless_noted());
    settle(&system).await;
    assert!(unhandled.is_open(), "it tells that something is noted");
    gate.open();
    assert_eq!(note.answer().await, Ok(vec![1]));
    assert_eq!(unhandled.answer().await, Err(AskError::Unhandled));

    // When the write fails, the state that did not want the command has never been.
    let system = Bed::start(&bed, &[]).await;
    let entity = system.entity::<Ledger>("b");
    bed.faults.clear();
    let gate = Gate::new();
    bed.faults.writes.next(WriteFault::Held(gate.clone()));
    let note = send(&entity, Note(1));
    gate.wait_for_arrivals(1).await;
    let unhandled = send(&entity, unless_noted());
    settle(&system).await;
    bed.write_foreign("b", 1, noted([99])).await;
    gate.open();
    assert_eq!(
        persist_failure(note.answer().await),
        PersistFailure::Conflict
    );
    assert_eq!(
        persist_failure(unhandled.answer().await),
        PersistFailure::Earlier
    );
}

#[tokio::test]
async fn a_barrier_behind_a_failed_write_never_passes() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let gate = Gate::new();
    bed.faults.writes.next(WriteFault::Held(gate.clone()));
    let note = send(&entity, Note(1));
    gate.wait_for_arrivals(1).await;
    let record = Record::default();
    let ran = record.clone();
    let action = send(
        &entity,
        run(move |_, cx| cx.reply(()).then_run(move |_, _| ran.add("ran"))),
    );
    settle(&system).await;
    bed.write_foreign("a", 1, noted([99])).await;
    gate.open();
    persist_failure(note.answer().await);
    assert_eq!(
        persist_failure(action.answer().await),
        PersistFailure::Earlier
    );
    assert_eq!(entity.ask(Read).await, Ok(vec![99]));
    assert_eq!(record.lines(), [] as [&str; 0]);
}

#[tokio::test]
async fn a_pipeline_of_one_handles_nothing_ahead_of_a_write() {
    let bed = Bed::new();
    let system = bed.start_with(ledger().pipeline(1), &[]).await;
    let entity = system.entity::<Ledger>("a");
    let gate = hold_writes(&bed.faults);
    let first = send(&entity, Note(1));
    gate.wait_for_arrivals(1).await;
    let record = Record::default();
    let second = send(&entity, mark("second", &record));
    settle(&system).await;
    assert_eq!(record.lines(), [] as [&str; 0]);
    gate.open();
    assert_eq!(first.answer().await, Ok(vec![1]));
    assert_eq!(second.answer().await, Ok("second"));
}

#[tokio::test]
async fn a_pipeline_bounds_the_commands_ahead_of_their_writes() {
    let bed = Bed::new();
    let system = bed.start_with(ledger().pipeline(3), &[]).await;
    let entity = system.entity::<Ledger>("a");
    let gate = hold_writes(&bed.faults);
    let record = Record::default();
    let note = |number| {
        let record = record.clone();
        run(move |_, cx| {
            record.add("handled");
            cx.persist(noted([number])).reply(|_| ())
        })
    };
    let asks: Vec<_> = (0..10).map(|number| send(&entity, note(number))).collect();
    settle(&system).await;
    assert_eq!(record.lines().len(), 3);
    gate.open();
    for ask in asks {
        assert_eq!(ask.answer().await, Ok(()));
    }
    assert_eq!(bed.stored("a"), noted(0..10));
}

#[tokio::test]
async fn a_hot_entity_is_served_by_few_commits() {
    const CALLERS: u64 = 1000;
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("hot");
    let gate = hold_writes(&bed.faults);
    let record = Record::default();
    let note = |number| {
        let record = record.clone();
        run(move |_, cx| {
            record.add("handled");
            cx.persist(noted([number]))
                .reply(|ledger| ledger.notes.clone())
        })
    };
    let asks: Vec<_> = (0..CALLERS)
        .map(|number| send(&entity, note(number)))
        .collect();
    gate.wait_for_arrivals(1).await;
    until("all are handled", || record.lines().len() == asks.len()).await;
    gate.open();
    for (ask, last) in asks.into_iter().zip(0..) {
        assert_eq!(ask.answer().await, Ok((0..=last).collect()));
    }
    let commits = bed.calls.batches().len();
    assert_eq!(commits, 2, "the first went out alone, and then all others");
    assert_eq!(bed.stored("hot"), noted(0..CALLERS));
}

#[tokio::test]
async fn a_panic_lets_the_writes_before_it_finish() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let gate = hold_writes(&bed.faults);
    let note = send(&entity, Note(1));
    gate.wait_for_arrivals(1).await;
    let gathered = send(&entity, Note(2));
    let panic = send(&entity, crate::fixture::Panic);
    let after = send(&entity, Note(3));
    assert!(matches!(
        panic.answer().await,
        Err(AskError::Panicked { .. })
    ));
    assert!(note.is_open() && gathered.is_open());
    gate.open();
    assert_eq!(note.answer().await, Ok(vec![1]));
    assert_eq!(gathered.answer().await, Ok(vec![1, 2]));
    assert_eq!(after.answer().await, Ok(vec![1, 2, 3]));
    assert_eq!(bed.stored("a"), noted([1, 2, 3]));
}

/// Snapshots are taken from tentative state, so they must wait for it as replies do.
#[tokio::test]
async fn no_snapshot_of_a_state_that_is_not_stored() {
    let bed = Bed::new();
    let system = bed.start_with(ledger().snapshot_every(2), &[]).await;
    let entity = system.entity::<Ledger>("a");
    entity.ask(Note(1)).await.expect("stored");
    bed.faults.writes.next(WriteFault::Rejected);
    persist_failure(entity.ask(Note(2)).await);
    assert_eq!(entity.ask(Note(3)).await, Ok(vec![1, 3]));
    until("a snapshot is there", || {
        bed.memory.snapshot(&crate::fixture::id("a")).is_some()
    })
    .await;
    let snapshot = bed.memory.snapshot(&crate::fixture::id("a"));
    let payload = Arc::new(snapshot.expect("it is there").payload);
    let state: Ledger = perennial_persistence::Codec::decode(
        &perennial_persistence::MessagePack::new("Ledger.State"),
        &payload,
    )
    .expect("a snapshot of the ledger");
    assert_eq!(state.notes, [1, 3]);
}
