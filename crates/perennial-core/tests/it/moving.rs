//! Slices that go from one worker to another while their entities are in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use perennial_core::cleanup::CleanupTask;
use perennial_core::{ActorSystem, AskError, Backlog, Cx, EntityRef, Overflow};
use perennial_persistence::Slice;
use perennial_testkit::{ChangeFault, Gate, WriteFault};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::oneshot;

use crate::fixture::{
    Bed, DEADLINE, Entry, Ledger, Note, Panic, Read, Record, ask_with_room, id, ledger, mark,
    mark_later, noted, run, send, settle, until,
};

const TWO: (&str, &str) = ("system.workers", "2");

fn slice(entity_id: &str) -> Slice {
    id(entity_id).slice()
}

/// The other worker than the one that owns the entity's slice.
fn elsewhere(system: &ActorSystem, entity_id: &str) -> usize {
    1 - system.owner(slice(entity_id))
}

/// Has an entity's slice go to the other worker, and waits until that is known.
async fn move_away(system: &ActorSystem, entity_id: &str) {
    let to = elsewhere(system, entity_id);
    system.move_slices([slice(entity_id)], to);
    until("the slice has gone", || {
        system.owner(slice(entity_id)) == to
    })
    .await;
}

/// Has an entity told many numbers by one sender, in order.
async fn tell_all(entities: Vec<EntityRef<Ledger>>, sender: u64, numbers: u64) {
    for number in 0..numbers {
        for entity in &entities {
            let note = Note(sender * 1_000_000 + number);
            entity.send(note).await.expect("the system runs");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn nothing_is_lost_repeated_or_overtaken_while_slices_move() {
    const SENDERS: u64 = 4;
    const NUMBERS: u64 = 150;
    let bed = Bed::new();
    let settings = [TWO, ("system.inbox", "64")];
    // Small bounds, so that senders wait and give up places now and then.
    let system = bed.start_with(ledger().mailbox(4), &settings).await;
    let ids: Vec<String> = (0..12).map(|number| format!("entity-{number}")).collect();
    let entities: Vec<_> = ids.iter().map(|id| system.entity::<Ledger>(id)).collect();

    let is_over = Arc::new(AtomicBool::new(false));
    let mover = tokio::spawn({
        let (system, ids, is_over) = (system.clone(), ids.clone(), Arc::clone(&is_over));
        async move {
            let mut random = StdRng::seed_from_u64(7);
            while !is_over.load(Ordering::Relaxed) {
                let slice = slice(&ids[random.random_range(0..ids.len())]);
                system.move_slices([slice], random.random_range(0..2));
                tokio::task::yield_now().await;
            }
        }
    });
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| tokio::spawn(tell_all(entities.clone(), sender, NUMBERS)))
        .collect();
    for sender in senders {
        tokio::time::timeout(DEADLINE, sender)
            .await
            .expect("in time")
            .expect("no panic");
    }
    is_over.store(true, Ordering::Relaxed);
    mover.await.expect("no panic");

    for (entity, name) in entities.iter().zip(&ids) {
        let notes = ask_with_room(entity, || Read).await.expect("it is there");
        assert_eq!(bed.stored(name), noted(notes.iter().copied()));
        for sender in 0..SENDERS {
            let mut of_sender = notes.iter().filter(|note| **note / 1_000_000 == sender);
            for number in 0..NUMBERS {
                assert_eq!(of_sender.next(), Some(&(sender * 1_000_000 + number)));
            }
            assert_eq!(of_sender.next(), None);
        }
    }
    assert!(system.stats().moved_entities > 20);
    assert_eq!(system.shutdown().await, Ok(()));
}

#[tokio::test]
async fn an_entity_moves_with_its_next_command_and_comes_back_from_the_store() {
    let bed = Bed::new();
    let system = bed.start_with(ledger(), &[TWO]).await;
    let (resident, absent) = (system.entity::<Ledger>("a"), system.entity::<Ledger>("b"));
    assert_eq!(resident.ask(Note(1)).await, Ok(vec![1]));
    for name in ["a", "b"] {
        move_away(&system, name).await;
    }
    assert_eq!(resident.ask(Note(2)).await, Ok(vec![1, 2]));
    assert_eq!(absent.ask(Note(1)).await, Ok(vec![1]));
    until("both have gone", || system.stats().moved_entities == 2).await;
    assert_eq!(resident.ask(Note(3)).await, Ok(vec![1, 2, 3]));
    // And back again.
    move_away(&system, "a").await;
    assert_eq!(resident.ask(Note(4)).await, Ok(vec![1, 2, 3, 4]));
    assert_eq!(resident.ask(Note(5)).await, Ok(vec![1, 2, 3, 4, 5]));
    assert_eq!(bed.stored("a"), noted(1..=5));
}

#[tokio::test]
async fn commands_that_come_while_a_write_is_in_flight_wait_for_the_other_worker() {
    let bed = Bed::new();
    let system = bed.start_with(ledger(), &[TWO]).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));
    let gate = Gate::new();
    bed.faults.writes.next(WriteFault::Held(gate.clone()));
    let in_flight = send(&entity, Note(2));
    gate.wait_for_arrivals(1).await;
    move_away(&system, "a").await;
    let first = send(&entity, Note(3));
    let second = send(&entity, Read);
    settle(&system).await;
    assert_eq!(system.stats().moved_entities, 0);
    gate.open();
    assert_eq!(in_flight.answer().await, Ok(vec![1, 2]));
    assert_eq!(first.answer().await, Ok(vec![1, 2, 3]));
    assert_eq!(second.answer().await, Ok(vec![1, 2, 3]));
    assert_eq!(system.stats().moved_entities, 1);
}

#[tokio::test]
async fn a_write_that_fails_while_its_entity_leaves_takes_the_later_ones_with_it() {
    let bed = Bed::new();
    let system = bed.start_with(ledger(), &[TWO]).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));
    let gate = Gate::new();
    bed.faults.writes.next(WriteFault::Held(gate.clone()));
    let (conflicts, built_on_it) = (send(&entity, Note(2)), send(&entity, Note(3)));
    gate.wait_for_arrivals(1).await;
    bed.write_foreign("a", 2, vec![Entry::Noted(20)]).await;
    move_away(&system, "a").await;
    let after = send(&entity, Note(4));
    settle(&system).await;
    gate.open();
    for lost in [conflicts, built_on_it] {
        let answer = lost.answer().await;
        assert!(
            matches!(answer, Err(AskError::PersistFailed(_))),
            "{answer:?}"
        );
    }
    assert_eq!(after.answer().await, Ok(vec![1, 20, 4]));
    assert_eq!(bed.stored("a"), noted([1, 20, 4]));
    assert_eq!(system.stats().moved_entities, 1);
}

#[tokio::test]
async fn an_entity_with_timers_or_open_futures_stays_until_they_have_ended() {
    let bed = Bed::new();
    let system = bed.start_with(ledger(), &[TWO]).await;
    let record = Record::default();
    let (timed, waits) = (system.entity::<Ledger>("a"), system.entity::<Ledger>("b"));
    let tick = mark("tick", &record);
    let start = run(move |_, cx| {
        cx.timers()
            .start_repeated("key", Duration::from_millis(1), tick);
        cx.reply(())
    });
    assert_eq!(timed.ask(start).await, Ok(()));
    let (done, wait) = oneshot::channel::<()>();
    let later = send(
        &waits,
        run(move |_, cx| cx.later(wait, |_, _, cx| cx.reply(()))),
    );
    settle(&system).await;
    for name in ["a", "b"] {
        move_away(&system, name).await;
    }
    assert_eq!(timed.ask(Note(1)).await, Ok(vec![1]));
    let ticks = record.lines().len();
    until("it goes on ticking", || record.lines().len() > ticks).await;
    assert_eq!(system.stats().moved_entities, 0);

    done.send(()).expect("the future waits");
    assert_eq!(later.answer().await, Ok(()));
    until("it has gone", || system.stats().moved_entities == 1).await;
    let cancel = run(|_, cx| {
        cx.timers().cancel("key");
        cx.reply(())
    });
    assert_eq!(timed.ask(cancel).await, Ok(()));
    until("the other one too", || system.stats().moved_entities == 2).await;
    assert_eq!(timed.ask(Note(2)).await, Ok(vec![1, 2]));
}

#[tokio::test]
async fn what_an_entity_has_stashed_goes_with_it_before_what_came_later() {
    let bed = Bed::new();
    let system = bed.start_with(ledger(), &[TWO]).await;
    let entity = system.entity::<Ledger>("a");
    let record = Record::default();
    let stashed: Vec<_> = ["first", "second"]
        .map(|line| send(&entity, mark_later(line, &record)))
        .into_iter()
        .collect();
    settle(&system).await;
    move_away(&system, "a").await;
    // The next command has it leave. What was stashed is looked at anew, and put aside again.
    assert_eq!(entity.ask(Read).await, Ok(vec![]));
    until("it has gone", || system.stats().moved_entities == 1).await;
    let note = run(|_: &Ledger, cx: &Cx<'_, Ledger>| {
        cx.persist([Entry::Noted(1)])
            .reply(|_| ())
            .then_unstash_all()
    });
    assert_eq!(entity.ask(note).await, Ok(()));
    for answer in stashed {
        assert!(answer.answer().await.is_ok());
    }
    assert_eq!(record.lines(), ["first", "second"]);
}

#[tokio::test]
async fn the_mailbox_takes_exactly_as_many_commands_after_a_move() {
    const MAILBOX: usize = 3;
    let bed = Bed::new();
    let entity = ledger().mailbox(MAILBOX);
    let system = bed.start_with(entity, &[TWO]).await;
    let entity = system.entity::<Ledger>("a");
    for _ in 0..5 {
        move_away(&system, "a").await;
        assert!(entity.ask(Read).await.is_ok());
        let (done, wait) = oneshot::channel::<()>();
        let (begin, begun) = oneshot::channel::<()>();
        let later = send(
            &entity,
            run(move |_, cx| {
                let _ = begin.send(());
                cx.later(wait, |_, _, cx| cx.reply(()))
            }),
        );
        begun.await.expect("it is handled");
        let mut taken = 0;
        until("its own place is free again", || {
            taken += usize::from(entity.tell(Read).is_ok());
            taken == MAILBOX
        })
        .await;
        assert!(matches!(entity.tell(Read), Err(AskError::Busy { .. })));
        done.send(()).expect("the future waits");
        assert_eq!(later.answer().await, Ok(()));
        assert!(entity.send(Read).await.is_ok());
        settle(&system).await;
    }
}

/// The thread on which an entity is handled.
async fn thread(entity: &EntityRef<Ledger>) -> String {
    let name = run(|_, cx| cx.reply(std::thread::current().name().map(str::to_owned)));
    let name = entity.ask(name).await.expect("it is there");
    name.expect("threads of workers have names")
}

#[tokio::test]
async fn an_entity_lives_on_the_worker_that_owns_its_slice() {
    let bed = Bed::new();
    let system = bed.start_with(ledger(), &[TWO]).await;
    let entity = system.entity::<Ledger>("a");
    let before = thread(&entity).await;
    move_away(&system, "a").await;
    assert!(entity.ask(Read).await.is_ok());
    until("it has gone", || system.stats().moved_entities == 1).await;
    assert_ne!(thread(&entity).await, before);
    // A fresh value after a panic lives there too.
    assert!(entity.ask(Panic).await.is_err());
    assert_ne!(thread(&entity).await, before);
    move_away(&system, "a").await;
    assert!(entity.ask(Read).await.is_ok());
    until("it is back", || system.stats().moved_entities == 2).await;
    assert_eq!(thread(&entity).await, before);
}

#[tokio::test]
async fn a_sender_that_waits_for_room_follows_an_entity_that_moves() {
    let bed = Bed::new();
    let system = bed
        .start_with(ledger(), &[TWO, ("system.inbox", "1")])
        .await;
    let owner = system.owner(slice("a"));
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));
    // Another entity keeps the only place of the worker.
    let other = (0..)
        .map(|number| format!("other-{number}"))
        .find(|name| system.owner(slice(name)) == owner)
        .expect("there are enough");
    let other = system.entity::<Ledger>(&other);
    let (done, wait) = oneshot::channel::<()>();
    let busy = send(
        &other,
        run(move |_, cx| cx.later(wait, |_, _, cx| cx.reply(()))),
    );
    until("its place is kept", || other.tell(Read).is_ok()).await;
    assert!(matches!(entity.tell(Read), Err(AskError::Busy { .. })));
    let waits = tokio::spawn({
        let entity = entity.clone();
        async move { entity.send(Note(2)).await }
    });
    until("it waits", || !waits.is_finished()).await;
    move_away(&system, "a").await;
    // It moves when its worker looks at it, which a message that needs no place has it do.
    let topic = system.topic::<Read>("wake");
    topic
        .subscribe(
            entity.recipient::<Read>(),
            Backlog::new(1, Overflow::DropNew),
        )
        .expect("the system runs");
    topic.publish(Read).expect("there is room");
    let sent = tokio::time::timeout(DEADLINE, waits)
        .await
        .expect("in time");
    assert_eq!(sent.expect("no panic"), Ok(()));
    assert_eq!(system.stats().moved_entities, 1);
    done.send(()).expect("the future waits");
    assert_eq!(busy.answer().await, Ok(()));
    until("it is handled", || bed.stored("a") == noted([1, 2])).await;
}

#[tokio::test]
async fn a_slice_stays_while_something_of_it_is_cleaned_up() {
    let bed = Bed::new();
    let system = bed.start_with(ledger(), &[TWO]).await;
    bed.write_foreign("a", 1, noted(1..=3)).await;
    // What is on its way to its worker is cleaned up there.
    let owner = elsewhere(&system, "a");
    move_away(&system, "a").await;
    let gate = Gate::new();
    bed.faults.deletes.next(ChangeFault::Held(gate.clone()));
    let cleanup = system.cleanup();
    let run = tokio::spawn(async move { cleanup.run(CleanupTask::Reset, [id("a")]).await });
    gate.wait_for_arrivals(1).await;
    system.move_slices([slice("a")], 1 - owner);
    settle(&system).await;
    assert_eq!(system.owner(slice("a")), owner);
    let entity = system.entity::<Ledger>("a");
    assert!(matches!(entity.ask(Read).await, Err(AskError::Busy { .. })));
    gate.open();
    assert!(run.await.expect("no panic").is_ok());
    until("it may come back", || {
        system.move_slices([slice("a")], 1 - owner);
        system.owner(slice("a")) != owner
    })
    .await;
    assert_eq!(entity.ask(Note(7)).await, Ok(vec![7]));
}

#[tokio::test]
async fn slices_and_workers_that_there_are_not_change_nothing() {
    let bed = Bed::new();
    let system = bed.start_with(ledger(), &[TWO]).await;
    let owner = system.owner(slice("a"));
    system.move_slices([], 1);
    system.move_slices([slice("a")], owner);
    system.move_slices([slice("a")], 2);
    assert_eq!(system.entity::<Ledger>("a").ask(Note(1)).await, Ok(vec![1]));
    assert_eq!(system.owner(slice("a")), owner);
    assert_eq!(system.stats().moved_entities, 0);
    assert_eq!(system.shutdown().await, Ok(()));
    system.move_slices([slice("a")], 1 - owner);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_worker_gives_slices_away_by_itself() {
    let bed = Bed::new();
    let settings = [TWO, ("system.rebalance-interval", "50ms")];
    let system = bed.start_with(ledger(), &settings).await;
    // All of them live on the first worker, and none is busier than the others.
    let names: Vec<String> = (0..1000)
        .map(|number| format!("entity-{number}"))
        .filter(|name| system.owner(slice(name)) == 0)
        .take(20)
        .collect();
    let is_over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = names
        .iter()
        .map(|name| {
            let (entity, is_over) = (system.entity::<Ledger>(name), Arc::clone(&is_over));
            tokio::spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    let work = run(|_, cx| {
                        std::thread::sleep(Duration::from_millis(5));
                        cx.reply(())
                    });
                    assert_eq!(entity.ask(work).await, Ok(()));
                }
            })
        })
        .collect();
    let elsewhere = || names.iter().filter(|name| system.owner(slice(name)) == 1);
    until("it has given slices away", || elsewhere().count() >= 4).await;
    until("their entities have gone", || {
        system.stats().moved_entities >= 4
    })
    .await;
    is_over.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.expect("no caller was told anything else");
    }
    let workers = system.workers();
    assert_eq!(
        workers.iter().map(|worker| worker.slices).sum::<usize>(),
        1024
    );
    assert!(workers[0].slices < 512);
}

#[tokio::test]
async fn a_system_stops_while_entities_move() {
    for round in 0..10 {
        let bed = Bed::new();
        let system = bed.start_with(ledger(), &[TWO]).await;
        let names: Vec<String> = (0..20).map(|number| format!("{round}-{number}")).collect();
        let asked: Vec<_> = names
            .iter()
            .map(|name| {
                let entity = system.entity::<Ledger>(name);
                let asked = send(&entity, Note(1));
                system.move_slices([slice(name)], elsewhere(&system, name));
                let again = send(&entity, Note(2));
                (asked, again)
            })
            .collect();
        assert_eq!(system.shutdown().await, Ok(()));
        for ((asked, again), name) in asked.into_iter().zip(&names) {
            // They were accepted before the shutdown, so they are handled, wherever that is.
            let answers = [asked.answer().await, again.answer().await];
            assert_eq!(answers, [Ok(vec![1]), Ok(vec![1, 2])]);
            assert_eq!(bed.stored(name), noted([1, 2]));
        }
    }
}
