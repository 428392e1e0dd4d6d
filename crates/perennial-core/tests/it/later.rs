//! Work outside the entity: futures and blocking functions with a continuation.

use std::time::Duration;

use perennial_core::{AskError, Cx, Effect, Handle, PersistFailure};
use perennial_testkit::{Gate, ManualClock, WriteFault};
use tokio::sync::oneshot;

use crate::fixture::{
    Bed, Latch, Ledger, Note, Panic, Read, Record, hold_writes, in_time, ledger, mark, noted,
    persist_failure, run, send, settle, until,
};

fn is_unknown<R>(answer: &Result<R, AskError>) -> bool {
    matches!(answer, Err(AskError::Unknown { .. }))
}

#[tokio::test]
async fn the_continuation_sees_the_output_and_may_persist() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let ask = run(|_, cx| {
        cx.later(async { 41 }, |number, ledger, cx| {
            assert!(ledger.notes.is_empty());
            cx.persist(noted([number + 1]))
                .reply(|ledger| ledger.notes.clone())
        })
    });
    assert_eq!(entity.ask(ask).await, Ok(vec![42]));
    assert_eq!(bed.stored("a"), noted([42]));
}

#[tokio::test]
async fn other_commands_wait_for_an_exclusive_future() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let record = Record::default();
    let (done, wait) = oneshot::channel::<()>();
    let line = record.clone();
    let later = send(
        &entity,
        run(move |_, cx| {
            cx.later(wait, move |_, _, cx| {
                line.add("continued");
                cx.reply(())
            })
        }),
    );
    let waiting = send(&entity, mark("waiting", &record));
    settle(&system).await;
    assert_eq!(record.lines(), [] as [&str; 0]);
    done.send(()).expect("the future waits");
    assert_eq!(later.answer().await, Ok(()));
    assert_eq!(waiting.answer().await, Ok("waiting"));
    assert_eq!(record.lines(), ["continued", "waiting"]);
}

#[tokio::test]
async fn other_commands_pass_an_interleaved_future_whose_continuation_sees_fresh_state() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let (done, wait) = oneshot::channel::<()>();
    let later = send(
        &entity,
        run(move |_, cx| {
            cx.later(wait, |_, ledger, cx| cx.reply(ledger.notes.clone()))
                .interleaved()
        }),
    );
    assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));
    assert!(later.is_open());
    done.send(()).expect("the future waits");
    assert_eq!(later.answer().await, Ok(vec![1]));
}

#[tokio::test]
async fn a_future_starts_when_the_state_it_was_built_on_is_durable() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let gate = hold_writes(&bed.faults);
    let note = send(&entity, Note(1));
    gate.wait_for_arrivals(1).await;
    let record = Record::default();
    let started = record.clone();
    let later = send(
        &entity,
        run(move |_, cx| {
            cx.later(async move { started.add("started") }, |(), _, cx| {
                cx.reply(())
            })
        }),
    );
    settle(&system).await;
    assert_eq!(record.lines(), [] as [&str; 0]);
    gate.open();
    assert_eq!(note.answer().await, Ok(vec![1]));
    assert_eq!(later.answer().await, Ok(()));
    assert_eq!(record.lines(), ["started"]);
}

#[tokio::test]
async fn a_future_behind_a_failed_write_never_starts() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let gate = Gate::new();
    bed.faults.writes.next(WriteFault::Held(gate.clone()));
    let note = send(&entity, Note(1));
    gate.wait_for_arrivals(1).await;
    let record = Record::default();
    let started = record.clone();
    let later = send(
        &entity,
        run(move |_, cx| {
            cx.later(async move { started.add("started") }, |(), _, cx| {
                cx.reply(())
            })
        }),
    );
    settle(&system).await;
    bed.write_foreign("a", 1, noted([99])).await;
    gate.open();
    persist_failure(note.answer().await);
    assert_eq!(
        persist_failure(later.answer().await),
        PersistFailure::Earlier
    );
    assert_eq!(entity.ask(Read).await, Ok(vec![99]));
    assert_eq!(record.lines(), [] as [&str; 0]);
}

#[tokio::test]
async fn a_future_that_takes_too_long_is_dropped_and_unknown() {
    let bed = Bed::new();
    let settings = [("system.later-timeout", "20ms")];
    let system = bed.start(&settings).await;
    let entity = system.entity::<Ledger>("a");
    let (alive, mut dropped) = oneshot::channel::<()>();
    let ask = run(move |_, cx| {
        cx.later(
            async move {
                let _alive = alive;
                std::future::pending::<()>().await;
            },
            |(), _, cx| cx.reply(()),
        )
    });
    assert!(is_unknown(&entity.ask(ask).await));
    until("the future is dropped", || {
        dropped.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    })
    .await;
    assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));
}

#[tokio::test]
async fn a_future_may_have_a_time_of_its_own() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let ask = run(|_, cx| {
        cx.later(std::future::pending::<()>(), |(), _, cx| cx.reply(()))
            .timeout(Duration::from_millis(20))
    });
    assert!(is_unknown(&entity.ask(ask).await));
}

#[tokio::test]
async fn a_future_that_panics_is_unknown() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let ask = run(|_, cx| {
        cx.later(async { panic!("inside the future") }, |(), _, cx| {
            cx.reply(())
        })
    });
    assert!(is_unknown(&entity.ask(ask).await));
    // Nothing is wrong with the entity itself.
    assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));
    assert_eq!(system.stats().recovered, 1);
}

#[tokio::test]
async fn a_continuation_that_panics_restarts_the_entity() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    entity.ask(Note(1)).await.expect("stored");
    let ask = run(|_, cx| {
        cx.later(async {}, |(), _, cx| {
            if cx.sequence_nr().value() > 0 {
                panic!("in the continuation");
            }
            cx.reply(())
        })
    });
    assert!(matches!(
        entity.ask(ask).await,
        Err(AskError::Panicked { .. })
    ));
    assert_eq!(entity.ask(Read).await, Ok(vec![1]));
    assert_eq!(system.stats().recovered, 2);
}

#[tokio::test]
async fn the_number_of_open_futures_is_bounded() {
    let bed = Bed::new();
    let settings = [("system.later-limit", "2")];
    let system = bed.start(&settings).await;
    let mut open = Vec::new();
    for entity_id in ["a", "b"] {
        let (done, wait) = oneshot::channel::<()>();
        let command = run(move |_, cx| cx.later(wait, |_, _, cx| cx.reply(())));
        open.push((done, send(&system.entity::<Ledger>(entity_id), command)));
    }
    settle(&system).await;
    let record = Record::default();
    let started = record.clone();
    let ask = run(move |_, cx| {
        cx.later(async move { started.add("started") }, |(), _, cx| {
            cx.reply(())
        })
    });
    let answer = system.entity::<Ledger>("c").ask(ask).await;
    assert!(
        matches!(&answer, Err(error @ AskError::Busy { .. }) if error.is_not_handled()),
        "{answer:?}"
    );
    assert_eq!(record.lines(), [] as [&str; 0]);

    for (done, ask) in open {
        done.send(()).expect("the future waits");
        assert_eq!(ask.answer().await, Ok(()));
    }
    let ask = run(|_, cx| cx.later(async {}, |(), _, cx| cx.reply(())));
    assert_eq!(system.entity::<Ledger>("c").ask(ask).await, Ok(()));
}

#[tokio::test]
async fn an_entity_with_an_open_future_is_not_passivated() {
    let bed = Bed::new();
    let clock = ManualClock::new();
    let entity = ledger().passivate_after(Some(Duration::from_secs(60)));
    let system = bed
        .start_on(std::sync::Arc::new(clock.clone()), entity, &[])
        .await;
    let entity = system.entity::<Ledger>("a");
    let (done, wait) = oneshot::channel::<()>();
    let later = send(
        &entity,
        run(move |_, cx| cx.later(wait, |_, _, cx| cx.reply("done")).interleaved()),
    );
    settle(&system).await;
    for _ in 0..10 {
        clock.advance(Duration::from_secs(100));
        settle(&system).await;
    }
    assert!(later.is_open());
    done.send(()).expect("the future waits");
    assert_eq!(later.answer().await, Ok("done"));
}

#[tokio::test]
async fn a_restart_makes_open_futures_unknown() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let record = Record::default();
    let (done, wait) = oneshot::channel::<()>();
    let continued = record.clone();
    let later = send(
        &entity,
        run(move |_, cx| {
            cx.later(wait, move |_, _, cx| {
                continued.add("continued");
                cx.reply(())
            })
            .interleaved()
        }),
    );
    settle(&system).await;
    assert!(entity.ask(Panic).await.is_err());
    assert!(is_unknown(&later.answer().await));
    assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));
    // Whether the future ends now or not, it reaches nobody.
    let _ = done.send(());
    settle(&system).await;
    assert_eq!(record.lines(), [] as [&str; 0]);
    assert_eq!(entity.ask(Note(2)).await, Ok(vec![1, 2]));
}

/// Waits until the worker has the output of the only future that may be open: another one may be.
async fn until_arrived(system: &perennial_core::ActorSystem) {
    let entity = system.entity::<Ledger>("probe");
    in_time("the future's output", async {
        loop {
            let probe = run(|_, cx| cx.later(async {}, |(), _, cx| cx.reply(())));
            match entity.ask(probe).await {
                Err(AskError::Busy { .. }) => tokio::time::sleep(Duration::from_millis(1)).await,
                answer => return answer.expect("the future runs"),
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_continuation_that_still_waits_ends_with_its_incarnation() {
    let bed = Bed::new();
    let settings = [("system.later-limit", "1")];
    let system = bed.start(&settings).await;
    let entity = system.entity::<Ledger>("a");
    let record = Record::default();
    let (done, wait) = oneshot::channel::<()>();
    let continued = record.clone();
    let later = send(
        &entity,
        run(move |_, cx| {
            cx.later(wait, move |_, _, cx| {
                continued.add("continued");
                cx.reply(())
            })
            .interleaved()
        }),
    );
    settle(&system).await;
    // The barrier of a stop keeps the continuation from being run.
    let gate = Gate::new();
    bed.faults.writes.next(WriteFault::Held(gate.clone()));
    let stop = send(
        &entity,
        run(|_, cx| cx.persist(noted([1])).then_stop().reply(|_| ())),
    );
    gate.wait_for_arrivals(1).await;
    done.send(()).expect("the future waits");
    until_arrived(&system).await;
    // The next incarnation cannot recover: what never began would be told so, but this did begin.
    bed.faults.reads.decide(|call| {
        (call.persistence_id.entity_id() == "a").then_some(perennial_testkit::ReadFault::Corrupt)
    });
    let behind = send(&entity, Read);
    settle(&system).await;
    gate.open();
    assert_eq!(stop.answer().await, Ok(()));
    let answer = later.answer().await;
    assert!(is_unknown(&answer), "{answer:?}");
    assert!(matches!(
        behind.answer().await,
        Err(AskError::RecoveryFailed(_))
    ));
    assert_eq!(record.lines(), [] as [&str; 0]);
}

#[tokio::test]
async fn chained_effects_follow_those_of_the_continuation() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let record = Record::default();
    let (chained, inner) = (record.clone(), record.clone());
    let ask = run(move |_, cx| {
        cx.later(async {}, move |(), _, cx| {
            cx.persist(noted([1]))
                .then_run(move |_, _| inner.add("of the continuation"))
                .reply(|ledger| ledger.notes.clone())
        })
        .then_run(move |ledger, _| {
            assert_eq!(ledger.notes, [1]);
            chained.add("chained");
        })
        .then_stop()
    });
    assert_eq!(entity.ask(ask).await, Ok(vec![1]));
    until("the entity has stopped", || system.stats().resident == 0).await;
    assert_eq!(record.lines(), ["of the continuation", "chained"]);
}

#[tokio::test]
async fn a_continuation_may_go_on_with_another_future() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let record = Record::default();
    let chained = record.clone();
    let ask = run(move |_, cx| {
        cx.later(async { 1 }, |first, _, cx| {
            cx.later(async move { first + 1 }, |second, _, cx| cx.reply(second))
        })
        .then_run(move |_, _| chained.add("once"))
    });
    assert_eq!(entity.ask(ask).await, Ok(2));
    assert_eq!(entity.ask(Read).await, Ok(vec![]));
    assert_eq!(record.lines(), ["once"]);
}

#[tokio::test]
async fn blocking_work_holds_up_no_other_entity() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let latch = Latch::default();
    let blocked = latch.clone();
    let ask = send(
        &entity,
        run(move |_, cx| {
            cx.blocking(
                move || {
                    blocked.wait();
                    7
                },
                |number, _, cx| {
                    cx.persist(noted([number]))
                        .reply(|ledger| ledger.notes.clone())
                },
            )
        }),
    );
    let other = system.entity::<Ledger>("other");
    assert_eq!(other.ask(Note(1)).await, Ok(vec![1]));
    assert!(ask.is_open());
    latch.open();
    assert_eq!(ask.answer().await, Ok(vec![7]));
}

#[tokio::test]
async fn blocking_work_that_panics_or_takes_too_long_is_unknown() {
    let bed = Bed::new();
    let settings = [("system.later-timeout", "20ms")];
    let system = bed.start(&settings).await;
    let entity = system.entity::<Ledger>("a");
    let panics = run(|_, cx| cx.blocking(|| panic!("blocking work"), |(), _, cx| cx.reply(())));
    assert!(is_unknown(&entity.ask(panics).await));
    let latch = Latch::default();
    let blocked = latch.clone();
    let slow = run(move |_, cx| cx.blocking(move || blocked.wait(), |(), _, cx| cx.reply(())));
    assert!(is_unknown(&entity.ask(slow).await));
    latch.open();
    assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));
}

#[tokio::test]
async fn options_of_a_future_mean_nothing_to_other_effects() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let ask = run(|_, cx| cx.reply(1).interleaved().timeout(Duration::ZERO));
    assert_eq!(entity.ask(ask).await, Ok(1));
}

/// Whose continuation puts the command aside again.
#[derive(Debug, Clone)]
struct RunAndStash;

impl Handle<RunAndStash> for Ledger {
    type Reply = &'static str;

    fn handle(&self, command: RunAndStash, cx: &Cx<'_, Self>) -> Effect<Self, &'static str> {
        if !self.notes.is_empty() {
            return cx.reply("handled again");
        }
        cx.later(async {}, move |(), _, cx| cx.stash(command))
    }
}

#[tokio::test]
async fn a_command_stashed_after_its_future_is_never_called_unhandled() {
    let bed = Bed::new();
    let system = bed.start_with(ledger().stash(1), &[]).await;
    let entity = system.entity::<Ledger>("a");
    // It ran out of time in the stash, but its future has run.
    let ask = entity.ask(RunAndStash).timeout(Duration::from_millis(50));
    let answer = ask.await;
    assert!(is_unknown(&answer), "{answer:?}");
    let stashed = send(&entity, RunAndStash);
    settle(&system).await;
    // The stash is full.
    let answer = entity.ask(RunAndStash).await;
    assert!(is_unknown(&answer), "{answer:?}");

    entity.ask(Note(1)).await.expect("stored");
    let unstash = run(|_, cx| cx.unstash_all().reply(|_| ()));
    assert_eq!(entity.ask(unstash).await, Ok(()));
    assert_eq!(stashed.answer().await, Ok("handled again"));

    // Nor at the end of the system.
    let other = system.entity::<Ledger>("other");
    let stashed = send(&other, RunAndStash);
    settle(&system).await;
    assert_eq!(system.shutdown().await, Ok(()));
    let answer = stashed.answer().await;
    assert!(is_unknown(&answer), "{answer:?}");
}
