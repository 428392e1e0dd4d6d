//! Entities are started without a command, and tell where they are and what they wait for.

use std::sync::Arc;
use std::time::Duration;

use perennial_core::{
    AskError, EntityPhase, EntityRef, EntityStatus, EventSourced, StatusError, WaitsFor,
};
use perennial_testkit::{Gate, ManualClock, ReadFault};
use tokio::sync::oneshot;

use crate::fixture::{
    Bed, DEADLINE, Entry, Latch, Ledger, Note, Panic, Pending, Read, Record, hold_writes, id,
    ledger, mark_later, run, send, settle, until,
};

async fn status(entity: &EntityRef<Ledger>) -> EntityStatus {
    entity.status(DEADLINE).await.expect("the worker answers")
}

#[tokio::test]
async fn an_entity_is_brought_back_without_a_command() {
    let bed = Bed::new();
    bed.write_foreign("a", 1, vec![Entry::Noted(1)]).await;
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(status(&entity).await.phase, EntityPhase::NotInMemory);
    assert_eq!(entity.start().await, Ok(()));
    let there = status(&entity).await;
    assert_eq!(there.phase, EntityPhase::Ready);
    assert_eq!(there.sequence_nr.value(), 1);
    assert_eq!(system.stats().recovered, 1);
    let reads = bed.calls.reading.total();
    // It is there already.
    assert_eq!(entity.start().await, Ok(()));
    assert_eq!(entity.ask(Read).await, Ok(vec![1]));
    assert_eq!(bed.calls.reading.total(), reads);
}

#[tokio::test]
async fn one_that_is_busy_answers_a_start_at_once() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let (done, wait) = oneshot::channel::<()>();
    let later = send(
        &entity,
        run(move |_, cx| cx.later(wait, |_, _, cx| cx.reply("done"))),
    );
    let waiting = send(&entity, Read);
    settle(&system).await;
    assert_eq!(entity.start().await, Ok(()));
    assert!(later.is_open() && waiting.is_open());
    done.send(()).expect("the future waits");
    assert_eq!(later.answer().await, Ok("done"));
    assert_eq!(waiting.answer().await, Ok(vec![]));
}

#[tokio::test]
async fn a_start_comes_before_the_commands_that_wait_and_none_is_lost() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let gate = Gate::new();
    bed.faults.reads.next(ReadFault::Held(gate.clone()));
    let never = run(|_, cx| cx.later(std::future::pending::<()>(), |(), _, cx| cx.reply(())));
    let later = send(&entity, never);
    gate.wait_for_arrivals(1).await;
    let starts = [0, 1].map(|_| Pending::of(entity.start()));
    let note = send(&entity, Note(1));
    settle(&system).await;
    assert_eq!(status(&entity).await.queued, 4);
    gate.open();
    for start in starts {
        assert_eq!(start.answer().await, Ok(()));
    }
    assert!(later.is_open() && note.is_open());
}

#[tokio::test]
async fn a_start_says_why_the_entity_is_not_there() {
    let bed = Bed::new();
    bed.write_foreign("bad", 1, vec![Entry::Poison]).await;
    let slow = Duration::from_secs(600);
    let system = bed
        .start_with(ledger().restart_backoff(slow, slow), &[])
        .await;
    let bad = system.entity::<Ledger>("bad");
    for _ in 0..2 {
        match bad.start().await {
            Err(AskError::RecoveryFailed(failed)) => assert_eq!(failed.persistence_id, id("bad")),
            other => panic!("it cannot be brought back, but {other:?}"),
        }
    }
    let failed = status(&bad).await;
    assert_eq!(failed.phase, EntityPhase::Unrecoverable);
    assert!(failed.failure.is_some() && failed.failures == 1);
    assert!(matches!(failed.waits_for[..], [WaitsFor::Backoff { left }] if left > slow / 3));

    let gate = Gate::new();
    bed.faults.reads.next(ReadFault::Held(gate.clone()));
    let late = system.entity::<Ledger>("late");
    let start = late.start().timeout(Duration::from_millis(20)).await;
    assert_eq!(start, Err(AskError::Expired));
    gate.open();
    assert_eq!(late.start().await, Ok(()));

    system.shutdown().await.expect("in time");
    assert_eq!(late.start().await, Err(AskError::Stopped));
}

#[tokio::test]
async fn an_entity_tells_what_it_waits_for() {
    let bed = Bed::new();
    let clock = ManualClock::new();
    let second = Duration::from_secs(1);
    let entity_type = ledger()
        .restart_backoff(second * 100, second * 100)
        .recovery_timeout(second * 1000);
    let settings = [("persistence.recoveries", "1")];
    let system = bed
        .start_on(Arc::new(clock.clone()), entity_type, &settings)
        .await;
    settle(&system).await;

    let gate = Gate::new();
    bed.faults.reads.next(ReadFault::Held(gate.clone()));
    let first = system.entity::<Ledger>("first");
    let [second_one, third] = ["second", "third"].map(|name| system.entity::<Ledger>(name));
    let mut answers = vec![send(&first, Read)];
    gate.wait_for_arrivals(1).await;
    answers.push(send(&second_one, Read));
    answers.push(send(&third, Read));
    clock.advance(second * 3);
    settle(&system).await;
    let of_first = status(&first).await;
    assert_eq!(of_first.phase, EntityPhase::Recovering);
    assert_eq!(of_first.phase_for, Some(second * 3));
    assert_eq!(of_first.waits_for, [WaitsFor::History { failures: 0 }]);
    assert_eq!((of_first.worker, of_first.queued), (0, 1));
    assert_eq!(
        of_first.to_string(),
        "Ledger|first on worker 0: recovering for 3.0s, waits for its history from the store \
         [last event 0, 1 commands wait, 0 are stashed]"
    );
    for (entity, ahead) in [(&second_one, 0), (&third, 1)] {
        let waiting = status(entity).await;
        assert_eq!(waiting.phase, EntityPhase::Waiting);
        assert_eq!(waiting.waits_for, [WaitsFor::Permit { ahead }]);
    }
    gate.open();
    for answer in answers {
        assert_eq!(answer.answer().await, Ok(vec![]));
    }
    let of_first = status(&first).await;
    assert_eq!(of_first.phase, EntityPhase::Ready);
    assert_eq!(of_first.waits_for, []);

    let gate = hold_writes(&bed.faults);
    let note = send(&first, Note(1));
    gate.wait_for_arrivals(1).await;
    clock.advance(second);
    settle(&system).await;
    let writes = status(&first).await;
    assert_eq!((writes.writes, writes.sequence_nr.value()), (1, 1));
    let (number, oldest) = (1, second);
    assert_eq!(writes.waits_for, [WaitsFor::Writes { number, oldest }]);
    gate.open();
    assert_eq!(note.answer().await, Ok(vec![1]));

    let record = Record::default();
    let stashed = send(&third, mark_later("stashed", &record));
    settle(&system).await;
    let aside = status(&third).await;
    assert_eq!(aside.stashed, 1);
    assert_eq!(aside.waits_for, [WaitsFor::Unstash]);
    assert!(stashed.is_open());

    assert!(second_one.ask(Panic).await.is_err());
    let down = status(&second_one).await;
    assert_eq!((down.phase, down.failures), (EntityPhase::BackingOff, 1));
    assert!(
        matches!(down.waits_for[..], [WaitsFor::Backoff { left }] if left <= second * 100),
        "{down}"
    );
}

#[tokio::test]
async fn an_entity_tells_of_its_futures() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let (done, wait) = oneshot::channel::<()>();
    let later = send(
        &entity,
        run(move |_, cx| cx.later(wait, |_, _, cx| cx.reply("done"))),
    );
    let waiting = send(&entity, Read);
    settle(&system).await;
    let there = status(&entity).await;
    assert_eq!((there.futures, there.queued), (1, 1));
    match &there.waits_for[..] {
        [
            WaitsFor::Future {
                command,
                is_interleaved,
                ..
            },
        ] => {
            assert!(command.contains("Run<"), "{command}");
            assert!(!is_interleaved);
        }
        other => panic!("it waits for its future, not {other:?}"),
    }
    done.send(()).expect("the future waits");
    assert_eq!(later.answer().await, Ok("done"));
    assert_eq!(waiting.answer().await, Ok(vec![]));
}

#[tokio::test]
async fn a_worker_that_is_stuck_is_told_with_what_keeps_it() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let latch = Latch::default();
    let blocked = latch.clone();
    let stuck = system.entity::<Ledger>("stuck");
    let block = send(
        &stuck,
        run(move |_, cx| {
            blocked.wait();
            cx.reply(())
        }),
    );
    until("it is in its handler", || {
        system.workers()[0].running.as_deref() == Some("Ledger|stuck")
    })
    .await;
    let timeout = Duration::from_millis(30);
    let other = system.entity::<Ledger>("other");
    let error = other.status(timeout).await.expect_err("nobody answers");
    match &error {
        StatusError::NoAnswer {
            worker: 0,
            running: Some((name, elapsed)),
            ..
        } => {
            assert_eq!(name, "Ledger|stuck");
            assert!(*elapsed >= timeout / 2);
        }
        other => panic!("the worker cannot answer, but {other:?}"),
    }
    let text = error.to_string();
    assert!(
        text.contains("worker 0 has not answered within 30ms"),
        "{text}"
    );
    assert!(text.contains("the code of Ledger|stuck"), "{text}");

    // There is a bound, also while nobody takes the questions.
    let mut asked: Vec<_> = (1..=1024)
        .map(|_| Box::pin(other.status(DEADLINE)))
        .collect();
    for (asked, number) in asked.iter_mut().zip(1..) {
        match futures_util::FutureExt::now_or_never(asked) {
            None => assert!(number < 1024, "the first one has its place still"),
            Some(refused) => {
                assert!(
                    matches!(refused, Err(StatusError::Refused(AskError::Busy { .. }))),
                    "{refused:?}"
                );
                assert_eq!(number, 1024);
            }
        }
    }
    latch.open();
    assert_eq!(block.answer().await, Ok(()));
    asked.truncate(1023);
    for asked in asked {
        assert!(asked.await.is_ok());
    }
    assert_eq!(status(&other).await.phase, EntityPhase::NotInMemory);
}

#[tokio::test]
async fn nobody_is_told_of_what_is_not_there() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let invalid = system.entity::<Ledger>("a\0b").status(DEADLINE).await;
    assert!(matches!(
        invalid,
        Err(StatusError::Refused(AskError::InvalidId(_)))
    ));
    let entity = system.entity::<Ledger>("a");
    system.shutdown().await.expect("in time");
    assert_eq!(
        entity.status(DEADLINE).await,
        Err(StatusError::Refused(AskError::Stopped))
    );
    assert_eq!(Ledger::TYPE, "Ledger");
}
