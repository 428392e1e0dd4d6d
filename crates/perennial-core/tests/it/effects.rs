//! What handlers say, and what becomes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use perennial_core::AskError;
use perennial_persistence::SequenceNr;
use perennial_testkit::WriteFault;

use crate::fixture::{
    Bed, Entry, Ledger, Note, Panic, Read, Record, hold_writes, id, ledger, mark, mark_later,
    noted, persist_failure, run, send, send_ask, settle, until,
};

#[tokio::test]
async fn persist_stores_one_event_several_or_none() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");

    assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));
    let several = run(|_, cx| cx.persist(noted(2..=4)).reply(|ledger| ledger.notes.len()));
    assert_eq!(entity.ask(several).await, Ok(4));
    let none = run(|_, cx| cx.persist([]).reply(|ledger| ledger.notes.len()));
    assert_eq!(entity.ask(none).await, Ok(4));

    assert_eq!(bed.stored("a"), noted(1..=4));
    let numbers: Vec<u64> = bed.rows("a").iter().map(|row| row.seq_nr.value()).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    // Two writes: the empty one never reached the store.
    assert_eq!(bed.calls.batches().len(), 2);
}

#[tokio::test]
async fn several_events_of_one_command_are_one_atomic_write() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    bed.faults.writes.next(WriteFault::Rejected);
    let several = run(|_, cx| cx.persist(noted(1..=3)).reply(|_| ()));
    persist_failure(entity.ask(several).await);
    assert_eq!(bed.stored("a"), []);
    assert_eq!(entity.ask(Read).await, Ok(vec![]));
}

#[tokio::test]
async fn a_handler_sees_who_it_is() {
    let bed = Bed::new();
    let clock = perennial_testkit::ManualClock::new();
    let now = perennial_persistence::Clock::now(&clock);
    let system = bed.start_on(Arc::new(clock), ledger(), &[]).await;
    let entity = system.entity::<Ledger>("a");
    entity.ask(Note(1)).await.expect("stored");
    let seen = run(|_, cx| {
        cx.reply((
            cx.persistence_id().clone(),
            cx.entity_id().to_owned(),
            cx.sequence_nr(),
            cx.services().greeting,
            cx.now(),
            cx.myself().persistence_id().cloned(),
        ))
    });
    assert_eq!(
        entity.ask(seen).await,
        Ok((
            id("a"),
            "a".to_owned(),
            SequenceNr::FIRST,
            "hello",
            now,
            Ok(id("a"))
        ))
    );
}

#[tokio::test]
async fn no_reply_is_told_to_a_caller_who_asked() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let nothing = run(|_, cx| cx.no_reply::<()>());
    assert_eq!(entity.ask(nothing).await, Err(AskError::NoReply));
    let persisted = run(|_, cx| cx.persist(noted([1])).no_reply::<()>());
    assert_eq!(entity.ask(persisted).await, Err(AskError::NoReply));
    assert_eq!(bed.stored("a"), noted([1]));
}

#[tokio::test]
async fn unhandled_commands_change_nothing() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let unhandled = run(|_, cx| cx.unhandled::<()>());
    assert_eq!(entity.ask(unhandled).await, Err(AskError::Unhandled));
    assert_eq!(entity.ask(Read).await, Ok(vec![]));
    assert_eq!(bed.stored("a"), []);
}

#[tokio::test]
async fn stashed_commands_come_back_in_order_before_those_that_wait() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let record = Record::default();
    let stashed = [
        send(&entity, mark_later("first", &record)),
        send(&entity, mark_later("second", &record)),
    ];
    settle(&system).await;
    assert_eq!(record.lines(), [] as [&str; 0]);

    // While the write is held, another command waits behind the barrier of the unstash.
    let gate = hold_writes(&bed.faults);
    let unstash = send(
        &entity,
        run(|_, cx| {
            cx.persist(noted([1]))
                .then_unstash_all()
                .reply(|ledger| ledger.notes.len())
        }),
    );
    let waiting = send(&entity, mark("waiting", &record));
    gate.wait_for_arrivals(1).await;
    settle(&system).await;
    gate.open();
    assert_eq!(unstash.answer().await, Ok(1));
    for stashed in stashed {
        assert!(stashed.answer().await.is_ok());
    }
    assert_eq!(waiting.answer().await, Ok("waiting"));
    assert_eq!(record.lines(), ["first", "second", "waiting"]);
}

#[tokio::test]
async fn unstash_all_takes_only_what_is_stashed_by_then() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let record = Record::default();
    // The ledger stays empty, so the unstashed command is put aside once more, and stays there.
    let stashed = send(&entity, mark_later("stashed", &record));
    let unstash = run(|_, cx| cx.unstash_all().reply(|_| ()));
    assert_eq!(entity.ask(unstash).await, Ok(()));
    assert_eq!(entity.ask(mark("after", &record)).await, Ok("after"));
    assert!(stashed.is_open());

    entity.ask(Note(1)).await.expect("stored");
    let unstash = run(|_, cx| cx.unstash_all().reply(|_| ()));
    assert_eq!(entity.ask(unstash).await, Ok(()));
    assert_eq!(stashed.answer().await, Ok("stashed"));
    assert_eq!(record.lines(), ["after", "stashed"]);
}

#[tokio::test]
async fn a_full_stash_is_busy() {
    let bed = Bed::new();
    let system = bed.start_with(ledger().stash(2), &[]).await;
    let entity = system.entity::<Ledger>("a");
    let record = Record::default();
    let first = send(&entity, mark_later("first", &record));
    let second = send(&entity, mark_later("second", &record));
    let third = entity.ask(mark_later("third", &record)).await;
    assert!(
        matches!(&third, Err(error @ AskError::Busy { what, .. })
            if *what == "the entity's stash" && error.is_not_handled()),
        "{third:?}"
    );
    entity.ask(Note(1)).await.expect("stored");
    let unstash = run(|_, cx| cx.unstash_all().reply(|_| ()));
    assert_eq!(entity.ask(unstash).await, Ok(()));
    assert_eq!(first.answer().await, Ok("first"));
    assert_eq!(second.answer().await, Ok("second"));
    assert_eq!(record.lines(), ["first", "second"]);
}

#[tokio::test]
async fn a_stashed_ask_expires_and_is_not_handled() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let record = Record::default();
    let command = mark_later("expired", &record);
    let ask = send_ask(entity.ask(command).timeout(Duration::from_millis(100)));
    settle(&system).await;
    assert_eq!(ask.answer().await, Err(AskError::Expired));

    entity.ask(Note(1)).await.expect("stored");
    let unstash = run(|_, cx| cx.unstash_all().reply(|_| ()));
    assert_eq!(entity.ask(unstash).await, Ok(()));
    assert_eq!(entity.ask(mark("after", &record)).await, Ok("after"));
    assert_eq!(record.lines(), ["after"]);
}

#[tokio::test]
async fn stashed_commands_without_a_caller_make_room_for_others() {
    let bed = Bed::new();
    let system = bed.start_with(ledger().stash(2), &[]).await;
    let entity = system.entity::<Ledger>("a");
    let record = Record::default();
    let kept = send(&entity, mark_later("kept", &record));
    settle(&system).await;
    for _ in 0..5 {
        let ask = entity.ask(mark_later("expires", &record));
        assert_eq!(
            ask.timeout(Duration::from_millis(10)).await,
            Err(AskError::Expired)
        );
    }
    // Those who still wait are not pushed out.
    let last = send(&entity, mark_later("last", &record));
    settle(&system).await;
    let busy = entity.ask(mark_later("one too many", &record)).await;
    assert!(matches!(busy, Err(AskError::Busy { .. })), "{busy:?}");
    entity.ask(Note(1)).await.expect("stored");
    let unstash = run(|_, cx| cx.unstash_all().reply(|_| ()));
    assert_eq!(entity.ask(unstash).await, Ok(()));
    assert_eq!(kept.answer().await, Ok("kept"));
    assert_eq!(last.answer().await, Ok("last"));
    assert_eq!(record.lines(), ["kept", "last"]);
}

#[tokio::test]
async fn the_stash_survives_a_failed_write() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let record = Record::default();
    let stashed = send(&entity, mark_later("stashed", &record));
    settle(&system).await;
    bed.faults.writes.next(WriteFault::Rejected);
    persist_failure(entity.ask(Note(1)).await);

    entity.ask(Note(2)).await.expect("stored");
    let unstash = run(|_, cx| cx.unstash_all().reply(|_| ()));
    assert_eq!(entity.ask(unstash).await, Ok(()));
    assert_eq!(stashed.answer().await, Ok("stashed"));
}

#[tokio::test]
async fn the_stash_survives_a_panic() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let record = Record::default();
    let stashed = send(&entity, mark_later("stashed", &record));
    settle(&system).await;
    assert!(matches!(
        entity.ask(Panic).await,
        Err(AskError::Panicked { .. })
    ));
    entity.ask(Note(2)).await.expect("stored");
    let unstash = run(|_, cx| cx.unstash_all().reply(|_| ()));
    assert_eq!(entity.ask(unstash).await, Ok(()));
    assert_eq!(stashed.answer().await, Ok("stashed"));
}

#[tokio::test]
async fn a_stopped_entity_comes_back_with_its_next_command() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let stop = run(|_, cx| {
        cx.persist(noted([1]))
            .then_stop()
            .reply(|ledger| ledger.notes.len())
    });
    assert_eq!(entity.ask(stop).await, Ok(1));
    until("the entity has stopped", || system.stats().resident == 0).await;
    assert_eq!(system.stats().recovered, 1);

    assert_eq!(entity.ask(Read).await, Ok(vec![1]));
    assert_eq!(system.stats().recovered, 2);
    let stop = run(|_, cx| cx.stop().reply(|_| "bye"));
    assert_eq!(entity.ask(stop).await, Ok("bye"));
    until("the entity has stopped", || system.stats().resident == 0).await;
}

#[tokio::test]
async fn commands_behind_a_stop_are_handled_once_by_the_next_incarnation() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    entity.ask(Note(0)).await.expect("stored");
    let gate = hold_writes(&bed.faults);
    let stop = send(
        &entity,
        run(|_, cx| cx.persist(noted([1])).then_stop().reply(|_| ())),
    );
    gate.wait_for_arrivals(1).await;
    let behind: Vec<_> = (2..=20).map(|number| send(&entity, Note(number))).collect();
    settle(&system).await;
    gate.open();
    assert_eq!(stop.answer().await, Ok(()));
    for (behind, last) in behind.into_iter().zip(2..) {
        assert_eq!(behind.answer().await, Ok((0..=last).collect()));
    }
    assert_eq!(bed.stored("a"), noted(0..=20));
    let recovered = system.stats().recovered;
    // The entity itself twice, and the bystander.
    assert_eq!(recovered, 3);
    let writers: std::collections::HashSet<_> = bed
        .rows("a")
        .into_iter()
        .filter_map(|row| row.event.map(|(writer, _)| writer))
        .collect();
    assert_eq!(writers.len(), 2, "each incarnation writes under its own id");
}

#[tokio::test]
async fn commands_that_are_stashed_when_an_entity_stops_are_handled_by_the_next_incarnation() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let record = Record::default();
    let stashed = [
        send(&entity, mark_later("first", &record)),
        send(&entity, mark_later("second", &record)),
    ];
    let stop = run(|_, cx| cx.persist(noted([1])).then_stop().reply(|_| ()));
    assert_eq!(entity.ask(stop).await, Ok(()));
    for stashed in stashed {
        assert!(stashed.answer().await.is_ok());
    }
    assert_eq!(record.lines(), ["first", "second"]);
}

#[tokio::test]
async fn then_run_runs_after_the_commit_and_the_reply_in_order() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let record = Record::default();
    let gate = hold_writes(&bed.faults);
    let (first, second) = (record.clone(), record.clone());
    let memory = bed.memory.clone();
    let stored_when_run = Arc::new(AtomicUsize::new(usize::MAX));
    let seen = Arc::clone(&stored_when_run);
    let ask = send(
        &entity,
        run(move |_, cx| {
            cx.persist(noted([1]))
                .then_run(move |ledger, cx| {
                    assert_eq!((&*ledger.notes, cx.sequence_nr().value()), (&[1][..], 1));
                    seen.store(memory.rows(&id("a")).len(), Ordering::SeqCst);
                    first.add("first");
                })
                .then_run(move |_, _| second.add("second"))
                .reply(|ledger| ledger.notes.clone())
        }),
    );
    // Handled only when both actions have run, though it was sent long before.
    let behind = send(&entity, mark("behind", &record));
    gate.wait_for_arrivals(1).await;
    settle(&system).await;
    assert_eq!(record.lines(), [] as [&str; 0]);
    assert!(ask.is_open() && behind.is_open());
    gate.open();
    assert_eq!(ask.answer().await, Ok(vec![1]));
    assert_eq!(behind.answer().await, Ok("behind"));
    assert_eq!(record.lines(), ["first", "second", "behind"]);
    assert_eq!(stored_when_run.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_reply_is_out_before_then_run_runs() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    for persisted in [0, 1] {
        let latch = crate::fixture::Latch::default();
        let held = latch.clone();
        let ask = send(
            &entity,
            run(move |_, cx| {
                cx.persist(noted(0..persisted))
                    .then_run(move |_, _| held.wait())
                    .reply(|_| "out")
            }),
        );
        // The action is still blocked when the caller has the reply.
        assert_eq!(ask.answer().await, Ok("out"));
        latch.open();
    }
}

#[tokio::test]
async fn then_run_does_not_run_when_the_write_failed_nor_in_recovery() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let record = Record::default();
    let act = |line: &'static str| {
        let record = record.clone();
        run(move |_, cx| {
            cx.persist(noted([1]))
                .then_run(move |_, _| record.add(line))
                .reply(|_| ())
        })
    };
    assert_eq!(entity.ask(act("stored")).await, Ok(()));
    bed.faults.writes.next(WriteFault::Rejected);
    persist_failure(entity.ask(act("refused")).await);
    // The failed write has made the entity recover the stored event.
    assert_eq!(entity.ask(Read).await, Ok(vec![1]));
    assert_eq!(record.lines(), ["stored"]);
}

#[tokio::test]
async fn a_panic_in_then_run_takes_nothing_back() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let record = Record::default();
    let after = record.clone();
    let ask = run(move |_, cx| {
        cx.persist(noted([1]))
            .then_run(|_, _| panic!("after the reply"))
            .then_run(move |_, _| after.add("not reached"))
            .reply(|ledger| ledger.notes.clone())
    });
    assert_eq!(entity.ask(ask).await, Ok(vec![1]));
    assert_eq!(entity.ask(Note(2)).await, Ok(vec![1, 2]));
    assert_eq!(record.lines(), [] as [&str; 0]);
    assert_eq!(bed.stored("a"), noted([1, 2]));
    assert_eq!(system.stats().recovered, 2);
}

#[tokio::test]
async fn effects_without_events_run_their_actions_too() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let record = Record::default();
    for effect in ["reply", "no reply", "unhandled", "none"] {
        let record = record.clone();
        let ask = run(move |_, cx| {
            let effect = match effect {
                "reply" => cx.reply(()),
                "no reply" => cx.no_reply(),
                "unhandled" => cx.unhandled(),
                _ => cx.none().reply(|_| ()),
            };
            effect.then_run(move |_, _| record.add("ran"))
        });
        let _ = entity.ask(ask).await;
    }
    // The next command is handled after the last action.
    assert_eq!(entity.ask(Read).await, Ok(vec![]));
    assert_eq!(record.lines(), ["ran"; 4]);
}

#[tokio::test]
async fn an_entity_can_send_itself_commands() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let ask = run(|_, cx| {
        cx.persist(noted([1]))
            .then_run(|_, cx| cx.myself().tell(Note(2)).expect("there is room"))
            .reply(|_| ())
    });
    assert_eq!(entity.ask(ask).await, Ok(()));
    until("the second note is stored", || {
        bed.stored("a") == [Entry::Noted(1), Entry::Noted(2)]
    })
    .await;
}
