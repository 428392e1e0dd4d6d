//! What callers are told, and when.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use perennial_core::config::ConfigSource;
use perennial_core::{ActorSystem, AskError, Cx, Effect, Entity, EventSourced, Handle};
use perennial_persistence::{InvalidId, PersistenceId};
use perennial_testkit::{Gate, MemoryStore, ReadFault};

use crate::fixture::{
    Bed, Ledger, Note, Read, Record, ask_with_room, hold_writes, ledger, mark, noted, send,
    send_ask, settle, until,
};

const SHORT: Duration = Duration::from_millis(50);

/// Keeps an entity from recovering, so that its commands wait.
fn hold_recovery(bed: &Bed, entity_id: &'static str) -> Gate {
    let gate = Gate::new();
    let held = gate.clone();
    bed.faults.reads.decide(move |call| {
        (call.persistence_id.entity_id() == entity_id).then(|| ReadFault::Held(held.clone()))
    });
    gate
}

fn is_busy<R>(answer: &Result<R, AskError>, expected: &str) -> bool {
    matches!(answer, Err(error @ AskError::Busy { what, retry_after })
        if *what == expected && error.is_not_handled() && !retry_after.is_zero())
}

#[tokio::test]
async fn a_command_that_was_not_begun_in_time_expires_and_is_not_handled() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let gate = hold_recovery(&bed, "a");
    let record = Record::default();
    let ask = entity.ask(mark("expired", &record)).timeout(SHORT);
    assert_eq!(ask.await, Err(AskError::Expired));
    gate.open();
    assert_eq!(entity.ask(mark("after", &record)).await, Ok("after"));
    assert_eq!(record.lines(), ["after"]);
}

#[tokio::test]
async fn a_command_that_was_begun_but_not_done_in_time_is_unknown() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let gate = hold_writes(&bed.faults);
    let ask = entity.ask(Note(1)).timeout(SHORT);
    let answer = ask.await;
    assert!(
        matches!(&answer, Err(error) if error.is_outcome_unknown()),
        "{answer:?}"
    );
    gate.open();
    assert_eq!(entity.ask(Read).await, Ok(vec![1]));
}

#[tokio::test]
async fn the_configured_time_holds_unless_an_ask_has_its_own() {
    let bed = Bed::new();
    let system = bed.start(&[("system.ask-timeout", "50ms")]).await;
    let entity = system.entity::<Ledger>("a");
    let gate = hold_recovery(&bed, "a");
    let patient = send_ask(entity.ask(Read).timeout(Duration::from_secs(60)));
    assert_eq!(entity.ask(Read).await, Err(AskError::Expired));
    assert_eq!(
        entity.ask(Read).timeout(Duration::ZERO).await,
        Err(AskError::Expired)
    );
    assert!(patient.is_open());
    gate.open();
    assert_eq!(patient.answer().await, Ok(vec![]));
}

#[tokio::test]
async fn a_time_without_end_is_allowed() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let ask = entity.ask(Note(1)).timeout(Duration::MAX);
    assert_eq!(ask.await, Ok(vec![1]));
}

#[tokio::test]
async fn an_ask_that_is_never_awaited_sends_nothing() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let record = Record::default();
    drop(entity.ask(mark("never", &record)));
    settle(&system).await;
    assert_eq!(entity.ask(Read).await, Ok(vec![]));
    assert_eq!(record.lines(), [] as [&str; 0]);
}

#[tokio::test]
async fn a_dropped_ask_is_not_handled_unless_it_was_begun() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let record = Record::default();
    let gate = hold_recovery(&bed, "a");
    let mut dropped = Box::pin(entity.ask(mark("dropped", &record)).into_future());
    poll_fn(|cx| {
        assert!(dropped.as_mut().poll(cx).is_pending());
        Poll::Ready(())
    })
    .await;
    drop(dropped);
    gate.open();
    assert_eq!(entity.ask(mark("kept", &record)).await, Ok("kept"));
    assert_eq!(record.lines(), ["kept"]);

    let gate = hold_writes(&bed.faults);
    let mut begun = Box::pin(entity.ask(Note(1)).into_future());
    {
        let mut arrival = pin!(gate.wait_for_arrivals(1));
        poll_fn(|cx| {
            assert!(begun.as_mut().poll(cx).is_pending());
            arrival.as_mut().poll(cx)
        })
        .await;
    }
    drop(begun);
    gate.open();
    assert_eq!(entity.ask(Read).await, Ok(vec![1]));
    assert_eq!(bed.stored("a"), noted([1]));
}

#[tokio::test]
async fn the_mailbox_takes_exactly_as_many_commands_as_its_bound() {
    const MAILBOX: usize = 3;
    let bed = Bed::new();
    let system = bed.start_with(ledger().mailbox(MAILBOX), &[]).await;
    let entity = system.entity::<Ledger>("a");
    let gate = hold_recovery(&bed, "a");
    let waiting: Vec<_> = (0..MAILBOX).map(|_| send(&entity, Read)).collect();
    for _ in 0..3 {
        let answer = entity.ask(Read).await;
        assert!(is_busy(&answer, "the entity's mailbox"), "{answer:?}");
    }
    let told = entity.tell(Read);
    assert!(is_busy(&told, "the entity's mailbox"), "{told:?}");
    // Others are not concerned.
    let other = system.entity::<Ledger>("other");
    assert_eq!(other.ask(Read).await, Ok(vec![]));
    gate.open();
    for ask in waiting {
        assert_eq!(ask.answer().await, Ok(vec![]));
    }
    assert_eq!(entity.ask(Read).await, Ok(vec![]));
}

#[tokio::test]
async fn the_inbox_takes_exactly_as_many_commands_as_its_bound() {
    const INBOX: usize = 4;
    let bed = Bed::new();
    let system = bed.start(&[("system.inbox", "4")]).await;
    let gate = hold_recovery(&bed, "a");
    let entity = system.entity::<Ledger>("a");
    let waiting: Vec<_> = (0..INBOX).map(|_| send(&entity, Read)).collect();
    let other = system.entity::<Ledger>("other");
    for _ in 0..3 {
        let answer = other.ask(Read).await;
        assert!(is_busy(&answer, "the worker's inbox"), "{answer:?}");
    }
    gate.open();
    for ask in waiting {
        assert_eq!(ask.answer().await, Ok(vec![]));
    }
    // Every place was given back, those of refused commands too.
    let all = (0..INBOX).map(|_| send(&other, Read));
    for ask in all.collect::<Vec<_>>() {
        assert_eq!(ask.answer().await, Ok(vec![]));
    }
}

#[tokio::test]
async fn a_caller_who_waits_for_each_answer_always_finds_a_place() {
    let bed = Bed::new();
    let bad = perennial_persistence::SerializedPayload::new(33, "", &b"x"[..]);
    bed.write_payloads("damaged", 1, vec![bad]).await;
    let system = bed.start_with(ledger().mailbox(1), &[]).await;
    let entity = system.entity::<Ledger>("a");
    let damaged = system.entity::<Ledger>("damaged");
    for number in 0..300 {
        let noted = entity.ask(Note(number)).await;
        assert_eq!(noted.map(|notes| notes.len() as u64), Ok(number + 1));
        let read = entity.ask(Read).await;
        assert_eq!(read.map(|notes| notes.len() as u64), Ok(number + 1));
        let failed = damaged.ask(Read).await;
        assert!(
            matches!(failed, Err(AskError::RecoveryFailed(_))),
            "{failed:?}"
        );
    }
}

#[tokio::test]
async fn places_of_expired_commands_are_given_back() {
    let bed = Bed::new();
    let system = bed.start_with(ledger().mailbox(2), &[]).await;
    let entity = system.entity::<Ledger>("a");
    let gate = hold_recovery(&bed, "a");
    for _ in 0..2 {
        assert_eq!(
            entity.ask(Read).timeout(SHORT).await,
            Err(AskError::Expired)
        );
    }
    // They still take their places until the entity comes past them.
    assert!(is_busy(&entity.ask(Read).await, "the entity's mailbox"));
    gate.open();
    until("there is room", || entity.tell(Read).is_ok()).await;
    assert_eq!(entity.ask(Read).await, Ok(vec![]));
}

#[tokio::test]
async fn a_told_command_is_handled() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.tell(Note(1)), Ok(()));
    assert_eq!(entity.tell(Note(2)), Ok(()));
    assert_eq!(entity.ask(Read).await, Ok(vec![1, 2]));
}

#[tokio::test]
async fn commands_of_one_sender_keep_their_order() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    for number in 0..500 {
        entity.tell(Note(number)).expect("there is room");
    }
    assert_eq!(entity.ask(Read).await, Ok((0..500).collect()));
}

#[tokio::test]
async fn ids_that_cannot_be_stored_are_told_to_every_sender() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    // "Ledger|" has seven characters.
    let longest = "x".repeat(248);
    let entity = system.entity::<Ledger>(&longest);
    assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));

    for (entity_id, text) in [
        ("x".repeat(249), "has 256 characters, at most 255"),
        ("a\0b".to_owned(), "contains U+0000"),
        ("a|b".to_owned(), "contains `|`"),
    ] {
        let entity = system.entity::<Ledger>(&entity_id);
        let answer = entity.ask(Note(1)).await;
        let Err(AskError::InvalidId(error)) = &answer else {
            panic!("{entity_id:?}: {answer:?}");
        };
        assert!(error.to_string().contains(text), "{error}");
        assert!(answer.as_ref().is_err_and(AskError::is_not_handled));
        assert_eq!(entity.tell(Note(1)), Err(error.clone().into()));
        assert_eq!(entity.persistence_id().cloned(), Err(error.clone().into()));
    }
    assert!(matches!(
        system.entity::<Ledger>("a|b").persistence_id(),
        Err(AskError::InvalidId(InvalidId::Separator { .. }))
    ));
    // An empty id within the type is allowed, as in Pekko.
    assert_eq!(system.entity::<Ledger>("").ask(Note(1)).await, Ok(vec![1]));
}

#[tokio::test]
async fn a_type_that_the_system_does_not_have_is_told_to_every_sender() {
    #[derive(Default)]
    struct Stranger;
    impl EventSourced for Stranger {
        const TYPE: &'static str = "Stranger";
        type Event = ();
        type Services = ();
        fn apply(&mut self, _: &()) {}
    }
    struct Hello;
    impl Handle<Hello> for Stranger {
        type Reply = ();
        fn handle(&self, _: Hello, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
            cx.reply(())
        }
    }

    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let stranger = system.entity::<Stranger>("a");
    let answer = stranger.ask(Hello).await;
    let expected = AskError::NotRegistered {
        entity_type: "Stranger",
    };
    assert_eq!(answer, Err(expected.clone()));
    assert!(expected.is_not_handled());
    assert!(expected.to_string().contains("`entity(…)`"), "{expected}");
    assert_eq!(stranger.tell(Hello), Err(expected));
}

#[tokio::test]
async fn an_entity_is_reached_by_its_whole_id_whatever_stands_in_front() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    for text in ["Other|a", "without-type", "|leading", "Ledger|b|c"] {
        let id = PersistenceId::of_unique_id(text).expect("a valid id");
        let entity = system.entity_with_id::<Ledger>(id.clone());
        assert_eq!(entity.persistence_id(), Ok(&id));
        assert_eq!(entity.ask(Note(7)).await, Ok(vec![7]), "{text}");
    }
    // The same entity, however it is addressed.
    let id = PersistenceId::new(Ledger::TYPE, "d").expect("a valid id");
    let by_whole_id = system.entity_with_id::<Ledger>(id);
    assert_eq!(by_whole_id.ask(Note(1)).await, Ok(vec![1]));
    assert_eq!(
        system.entity::<Ledger>("d").ask(Note(2)).await,
        Ok(vec![1, 2])
    );
}

#[tokio::test]
async fn an_id_belongs_to_one_type_at_a_time() {
    #[derive(Default)]
    struct Guest;
    impl EventSourced for Guest {
        const TYPE: &'static str = "Guest";
        type Event = u8;
        type Services = ();
        fn apply(&mut self, _: &u8) {}
    }
    struct Hello;
    impl Handle<Hello> for Guest {
        type Reply = ();
        fn handle(&self, _: Hello, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
            cx.stop().reply(|_| ())
        }
    }

    let store = Arc::new(MemoryStore::default());
    let system = ActorSystem::with_store(ConfigSource::empty(), store)
        .entity(ledger())
        .entity(Entity::<Guest>::new(()))
        .start()
        .await
        .expect("a system");
    let id = PersistenceId::new(Ledger::TYPE, "a").expect("a valid id");
    let guest = system.entity_with_id::<Guest>(id.clone());
    assert_eq!(guest.ask(Hello).await, Ok(()));
    let ledger = system.entity::<Ledger>("a");
    let expected = AskError::OtherType {
        persistence_id: id,
        entity_type: "Guest",
    };
    assert_eq!(ledger.ask(Note(1)).await, Err(expected.clone()));
    assert_eq!(ledger.tell(Note(1)), Err(expected.clone()));
    assert!(expected.is_not_handled());
    // Once nobody uses it as the other type, it is free.
    drop(guest);
    until("the id is free", || {
        system.entity::<Ledger>("a").tell(Note(1)).is_ok()
    })
    .await;
    assert_eq!(
        system.entity::<Ledger>("a").ask(Note(2)).await,
        Ok(vec![1, 2])
    );
    system.shutdown().await.expect("an end in time");
}

#[tokio::test]
async fn a_reference_stays_valid_while_its_entity_stops_and_comes_back() {
    let bed = Bed::new();
    let entity_type = ledger().passivate_after(Some(Duration::from_millis(1)));
    let system = bed.start_with(entity_type, &[]).await;
    let entity = system.entity::<Ledger>("a");
    for number in 1..=5 {
        assert_eq!(entity.ask(Note(number)).await, Ok((1..=number).collect()));
        until("the entity has left", || system.stats().resident == 0).await;
    }
    assert_eq!(system.stats().recovered, 5);
}

#[tokio::test]
async fn a_reference_says_whom_it_reaches() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(format!("{entity:?}"), "EntityRef(Ledger|a)");
    let invalid = system.entity::<Ledger>("a|b");
    assert!(format!("{invalid:?}").starts_with("EntityRef(invalid: "));
}

/// Whether a future is not ready when it is polled once.
async fn is_pending<F: Future>(mut future: std::pin::Pin<&mut F>) -> bool {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await
}

#[tokio::test]
async fn a_command_may_wait_for_room_and_is_not_sent_if_nobody_waits() {
    let bed = Bed::new();
    let system = bed.start_with(ledger().mailbox(2), &[]).await;
    let entity = system.entity::<Ledger>("a");
    let gate = hold_recovery(&bed, "a");
    entity.tell(Note(1)).expect("a first place");
    entity.tell(Note(2)).expect("a second place");
    assert!(is_busy(&entity.tell(Note(9)), "the entity's mailbox"));
    let mut gives_up = Box::pin(entity.send(Note(8)));
    let mut waits = Box::pin(entity.send(Note(3)));
    assert!(is_pending(gives_up.as_mut()).await);
    assert!(is_pending(waits.as_mut()).await);
    drop(gives_up);
    gate.open();
    assert_eq!(waits.await, Ok(()));
    assert_eq!(ask_with_room(&entity, || Read).await, Ok(vec![1, 2, 3]));

    // Whoever waits when the system ends is told.
    let gate = hold_recovery(&bed, "b");
    let other = system.entity::<Ledger>("b");
    other.tell(Note(1)).expect("a first place");
    other.tell(Note(2)).expect("a second place");
    let mut waits = Box::pin(other.send(Note(3)));
    assert!(is_pending(waits.as_mut()).await);
    let mut end = Box::pin(system.shutdown());
    assert!(is_pending(end.as_mut()).await);
    assert_eq!(waits.await, Err(AskError::Stopped));
    gate.open();
    end.await.expect("in time");
    assert_eq!(entity.send(Note(4)).await, Err(AskError::Stopped));
}

#[tokio::test]
async fn a_command_may_wait_for_room_at_its_worker() {
    let bed = Bed::new();
    let system = bed.start(&[("system.inbox", "2")]).await;
    let gate = hold_recovery(&bed, "a");
    let (entity, other) = (
        system.entity::<Ledger>("a"),
        system.entity::<Ledger>("other"),
    );
    entity.tell(Note(1)).expect("a first place");
    entity.tell(Note(2)).expect("a second place");
    let mut waits = Box::pin(other.send(Note(3)));
    assert!(is_pending(waits.as_mut()).await);
    gate.open();
    assert_eq!(waits.await, Ok(()));
    assert_eq!(other.ask(Read).await, Ok(vec![3]));
}
