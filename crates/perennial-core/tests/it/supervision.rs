//! User code that fails: what its callers are told, and how its entity goes on.

use std::sync::Arc;
use std::time::Duration;

use perennial_core::{AskError, PersistFailure};
use perennial_testkit::ManualClock;

use crate::fixture::{
    Bed, Entry, Ledger, Note, Panic, Read, encode, id, ledger, log, log_of, noted, persist_failure,
    run, send, settle, settle_recoveries,
};

const SECOND: Duration = Duration::from_secs(1);

fn panicked<R: std::fmt::Debug>(answer: Result<R, AskError>) -> (&'static str, Arc<str>) {
    match answer {
        Err(AskError::Panicked {
            persistence_id,
            place,
            message,
        }) => {
            assert_eq!(persistence_id.entity_type(), "Ledger");
            (place, message)
        }
        other => panic!("expected a panic, not {other:?}"),
    }
}

#[tokio::test]
async fn every_caller_of_a_handler_that_panics_is_told_so() {
    log();
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("panics");
    let other = system.entity::<Ledger>("other");
    entity.ask(Note(1)).await.expect("stored");
    for number in 2..=6 {
        let (place, message) = panicked(entity.ask(Panic).await);
        assert_eq!(&*message, "this handler always panics");
        assert_eq!(place, "handle");
        // Others are not affected, and it comes back with what is stored.
        assert!(other.ask(Note(number)).await.is_ok());
        assert_eq!(entity.ask(Note(number)).await, Ok((1..=number).collect()));
    }
    let errors = log_of("panics");
    assert_eq!(errors.len(), 5, "one per panic: {errors:?}");
    for error in errors {
        assert_eq!(error.level, tracing::Level::ERROR);
        assert_eq!(error.fields["error"], "this handler always panics");
    }
}

#[tokio::test]
async fn a_panic_that_carries_no_text_is_told_too() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let formatted = run(|ledger, cx| {
        if ledger.notes.is_empty() {
            panic!("{} notes", ledger.notes.len());
        }
        cx.reply(())
    });
    assert_eq!(&*panicked(entity.ask(formatted).await).1, "0 notes");
    let silent = run(|ledger, cx| {
        if ledger.notes.is_empty() {
            std::panic::panic_any(7);
        }
        cx.reply(())
    });
    assert_eq!(
        &*panicked(entity.ask(silent).await).1,
        "a panic without a text"
    );
}

#[tokio::test]
async fn the_wait_before_a_restart_grows_and_is_bounded() {
    let bed = Bed::new();
    let clock = ManualClock::new();
    let entity_type = ledger().restart_backoff(SECOND * 8, SECOND * 32);
    let system = bed
        .start_on(Arc::new(clock.clone()), entity_type, &[])
        .await;
    let entity = system.entity::<Ledger>("a");
    // It doubles, and chance takes up to a half off.
    for most in [8, 16, 32, 32, 32] {
        panicked(entity.ask(Panic).await);
        let waiting = send(&entity, Read);
        clock.advance(SECOND * most / 2 - Duration::from_millis(1));
        settle_recoveries(&system).await;
        assert!(waiting.is_open(), "it waits for at least {}", most / 2);
        clock.advance(SECOND * most / 2 + Duration::from_millis(1));
        settle_recoveries(&system).await;
        assert_eq!(waiting.answer().await, Ok(vec![]));
    }
    // Once it has run for as long as the longest wait, a failure is the first again.
    clock.advance(SECOND * 32);
    panicked(entity.ask(Panic).await);
    let waiting = send(&entity, Read);
    clock.advance(SECOND * 8);
    settle_recoveries(&system).await;
    assert_eq!(waiting.answer().await, Ok(vec![]));
}

#[tokio::test]
async fn commands_wait_while_an_entity_is_down() {
    let bed = Bed::new();
    let clock = ManualClock::new();
    let entity_type = ledger().restart_backoff(SECOND, SECOND);
    let system = bed
        .start_on(Arc::new(clock.clone()), entity_type, &[])
        .await;
    let entity = system.entity::<Ledger>("a");
    panicked(entity.ask(Panic).await);
    let waiting: Vec<_> = (1..=5).map(|number| send(&entity, Note(number))).collect();
    settle(&system).await;
    assert!(waiting.iter().all(crate::fixture::Pending::is_open));
    clock.advance(SECOND);
    settle(&system).await;
    for (ask, last) in waiting.into_iter().zip(1..) {
        assert_eq!(ask.answer().await, Ok((1..=last).collect()));
    }
}

#[tokio::test]
async fn an_event_that_cannot_be_applied_is_never_stored() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    entity.ask(Note(1)).await.expect("stored");
    // The events before it in the same command have been applied already.
    let poison = run(|_, cx| {
        cx.persist([Entry::Noted(2), Entry::Poison, Entry::Noted(3)])
            .reply(|_| ())
    });
    let (place, message) = panicked(entity.ask(poison).await);
    assert_eq!(
        (place, &*message),
        ("apply", "this event cannot be applied")
    );
    assert_eq!(entity.ask(Note(4)).await, Ok(vec![1, 4]));
    assert_eq!(bed.stored("a"), noted([1, 4]));
}

#[tokio::test]
async fn a_reply_that_cannot_be_made_takes_its_events_with_it() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let with_events = run(|_, cx| {
        cx.persist(noted([1])).reply(|ledger| {
            assert!(ledger.notes.is_empty(), "the reply panics");
        })
    });
    assert_eq!(panicked(entity.ask(with_events).await).0, "reply");
    let without_events = run(|_, cx| {
        cx.none().reply(|ledger| {
            assert!(!ledger.notes.is_empty(), "the reply panics");
        })
    });
    assert_eq!(panicked(entity.ask(without_events).await).0, "reply");
    assert_eq!(entity.ask(Note(2)).await, Ok(vec![2]));
    assert_eq!(bed.stored("a"), noted([2]));
}

#[tokio::test]
async fn an_event_that_cannot_be_encoded_refuses_its_command_only() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    entity.ask(Note(1)).await.expect("stored");
    let refused = run(|_, cx| {
        cx.persist([Entry::Noted(2), Entry::Unencodable])
            .reply(|_| ())
    });
    let answer = entity.ask(refused).await;
    let text = format!("{answer:?}");
    assert!(text.contains("this one has no representation"), "{text}");
    assert_eq!(persist_failure(answer), PersistFailure::Rejected);
    assert_eq!(entity.ask(Note(3)).await, Ok(vec![1, 3]));
    assert_eq!(bed.stored("a"), noted([1, 3]));
    assert_eq!(system.stats().recovered, 1, "it did not have to restart");
}

#[tokio::test]
async fn the_events_of_one_command_are_bounded_exactly() {
    let bed = Bed::new();
    let settings = [("persistence.max-events-per-write", "5")];
    let system = bed.start(&settings).await;
    let entity = system.entity::<Ledger>("a");
    let several = |count: u64| {
        run(move |_, cx| {
            cx.persist(noted(0..count))
                .reply(|ledger| ledger.notes.len())
        })
    };
    assert_eq!(entity.ask(several(5)).await, Ok(5));
    let answer = entity.ask(several(6)).await;
    let text = format!("{answer:?}");
    assert!(text.contains("6 events are more than the 5"), "{text}");
    assert!(text.contains("`persistence.max-events-per-write`"));
    assert_eq!(persist_failure(answer), PersistFailure::Rejected);
    assert_eq!(entity.ask(several(5)).await, Ok(10));
    assert_eq!(bed.stored("a").len(), 10);
}

#[tokio::test]
async fn the_size_of_one_event_is_bounded_exactly() {
    let bed = Bed::new();
    let settings = [("persistence.max-event-bytes", "1KiB")];
    let system = bed.start(&settings).await;
    let entity = system.entity::<Ledger>("a");
    let padded = |chars: usize| Entry::Padded("x".repeat(chars));
    let overhead = encode(&padded(900)).bytes.len() - 900;
    let most = 1024 - overhead;
    let large = |chars: usize| {
        run(move |_, cx| cx.persist([Entry::Padded("x".repeat(chars))]).reply(|_| ()))
    };
    assert_eq!(entity.ask(large(most)).await, Ok(()));
    let answer = entity.ask(large(most + 1)).await;
    let text = format!("{answer:?}");
    assert!(text.contains("an event of 1025 bytes"), "{text}");
    assert!(text.contains("`persistence.max-event-bytes`"));
    assert_eq!(persist_failure(answer), PersistFailure::Rejected);
    assert_eq!(bed.stored("a"), [padded(most)]);
}

#[tokio::test]
async fn a_panic_does_not_reach_an_entity_of_the_same_batch() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let asks: Vec<_> = (0..50)
        .map(|number| {
            let entity = system.entity::<Ledger>(format!("e{number}"));
            let command = run(
                move |ledger: &Ledger, cx: &perennial_core::Cx<'_, Ledger>| {
                    assert!(
                        number % 2 == 0 || !ledger.notes.is_empty(),
                        "odd ones panic"
                    );
                    cx.persist(noted([number])).reply(|_| ())
                },
            );
            send(&entity, command)
        })
        .collect();
    for (ask, number) in asks.into_iter().zip(0..50) {
        let answer = ask.answer().await;
        assert_eq!(answer.is_ok(), number % 2 == 0, "{number}: {answer:?}");
    }
}

/// A panic's caller is told at once, although the commands before it are still being stored.
#[tokio::test]
async fn the_id_of_a_panicking_entity_is_told() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let answer = system.entity::<Ledger>("a").ask(Panic).await;
    let Err(error @ AskError::Panicked { .. }) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(
        error.to_string(),
        "Ledger|a panicked in handle: this handler always panics"
    );
    assert!(!error.is_not_handled() && !error.is_outcome_unknown());
    assert!(matches!(&error, AskError::Panicked { persistence_id, .. }
        if *persistence_id == id("a")));
}
