//! No more entities of a type are in memory than may be, unless they have something open.

use perennial_core::config::Replacement;
use perennial_core::{ActorSystem, Entity, EntityPhase, EntityTypeStatus};
use perennial_persistence::SliceRange;

use crate::fixture::{
    Bed, DEADLINE, Ledger, Note, Read, Record, hold_writes, id, ledger, mark_later, run, send,
    settle, until,
};

fn limited(entities: usize, replacement: Replacement) -> Entity<Ledger> {
    ledger()
        .passivate_after(None)
        .entity_limit(entities, replacement)
}

fn entities(system: &ActorSystem) -> EntityTypeStatus {
    let [ledgers] = <[_; 1]>::try_from(system.entities()).expect("one type");
    ledgers
}

/// Whether an entity is in memory.
async fn is_there(system: &ActorSystem, entity_id: &str) -> bool {
    let status = system.entity::<Ledger>(entity_id).status(DEADLINE).await;
    status.expect("the worker answers").phase != EntityPhase::NotInMemory
}

const POLICIES: [Replacement; 3] = [
    Replacement::LeastRecentlyUsed,
    Replacement::Segmented,
    Replacement::Frequency,
];

#[tokio::test]
async fn no_more_stay_than_may_and_none_loses_anything() {
    for policy in POLICIES {
        for limit in [1, 10, 100] {
            let bed = Bed::new();
            let system = bed.start_with(limited(limit, policy), &[]).await;
            for number in 0..120 {
                let entity = system.entity::<Ledger>(format!("e{number}"));
                entity.ask(Note(number)).await.expect("stored");
            }
            until("the others have left", || system.stats().resident == limit).await;
            for number in 0..120 {
                let entity = system.entity::<Ledger>(format!("e{number}"));
                assert_eq!(entity.ask(Read).await, Ok(vec![number]), "{policy:?}");
            }
            let [worker] = entities(&system).workers[..] else {
                panic!("there is one worker");
            };
            assert_eq!(worker.limit, Some(limit));
            assert_eq!(worker.passivated_idle, 0);
            let left = usize::try_from(worker.passivated_limit).expect("few");
            let recovered = usize::try_from(worker.recovered).expect("few");
            assert_eq!(recovered - left, worker.resident, "{policy:?} {limit}");
        }
    }
}

#[tokio::test]
async fn the_least_recently_used_one_leaves() {
    let bed = Bed::new();
    let entity = limited(2, Replacement::LeastRecentlyUsed);
    let system = bed.start_with(entity, &[]).await;
    for entity_id in ["a", "b", "a", "c"] {
        let answer = system.entity::<Ledger>(entity_id).ask(Read).await;
        assert_eq!(answer, Ok(vec![]));
    }
    assert!(is_there(&system, "a").await);
    assert!(!is_there(&system, "b").await);
    assert!(is_there(&system, "c").await);
}

#[tokio::test]
async fn whoever_is_used_again_stays_when_many_come_once() {
    for policy in [Replacement::Segmented, Replacement::Frequency] {
        let bed = Bed::new();
        let system = bed.start_with(limited(10, policy), &[]).await;
        for _ in 0..3 {
            for number in 0..5 {
                let entity = system.entity::<Ledger>(format!("hot{number}"));
                assert_eq!(entity.ask(Read).await, Ok(vec![]));
            }
        }
        for number in 0..100 {
            let entity = system.entity::<Ledger>(format!("once{number}"));
            assert_eq!(entity.ask(Read).await, Ok(vec![]));
        }
        for number in 0..5 {
            assert!(
                is_there(&system, &format!("hot{number}")).await,
                "{policy:?}"
            );
        }
    }
}

#[tokio::test]
async fn those_with_something_open_exceed_the_limit_until_they_are_done() {
    let bed = Bed::new();
    let entity = limited(2, Replacement::Segmented);
    let system = bed.start_with(entity, &[]).await;
    let record = Record::default();
    let stashed = send(
        &system.entity::<Ledger>("s"),
        mark_later("stashed", &record),
    );
    settle(&system).await;
    let gate = hold_writes(&bed.faults);
    let notes: Vec<_> = (0..5)
        .map(|number| send(&system.entity::<Ledger>(format!("e{number}")), Note(number)))
        .collect();
    until("all are there", || entities(&system).resident() >= 6).await;
    // The bystander had to go for them.
    until("only they are there", || entities(&system).resident() == 6).await;
    assert_eq!(entities(&system).over_limit(), 4);
    gate.open();
    for (note, number) in notes.into_iter().zip(0..) {
        assert_eq!(note.answer().await, Ok(vec![number]));
    }
    until("some have left", || entities(&system).over_limit() == 0).await;
    assert!(stashed.is_open() && is_there(&system, "s").await);
    let status = system.entity::<Ledger>("s").status(DEADLINE).await;
    assert_eq!(status.expect("it answers").stashed, 1);
}

#[tokio::test]
async fn an_entity_with_an_open_future_stays() {
    let bed = Bed::new();
    let entity = limited(1, Replacement::LeastRecentlyUsed);
    let system = bed.start_with(entity, &[]).await;
    let (done, wait) = tokio::sync::oneshot::channel::<()>();
    let later = send(
        &system.entity::<Ledger>("a"),
        run(move |_, cx| cx.later(wait, |_, _, cx| cx.reply("done"))),
    );
    settle(&system).await;
    for number in 0..10 {
        let entity = system.entity::<Ledger>(format!("e{number}"));
        assert_eq!(entity.ask(Read).await, Ok(vec![]));
    }
    assert!(is_there(&system, "a").await);
    done.send(()).expect("the future waits");
    assert_eq!(later.answer().await, Ok("done"));
}

#[tokio::test]
async fn every_worker_has_an_even_share_rounded_up() {
    for (limit, workers, share) in [(3, 2, 2), (4, 2, 2), (1, 3, 1), (0, 2, 0)] {
        let bed = Bed::new();
        let settings = [
            ("entity.Ledger.entity-limit", &*format!("{limit}")),
            ("entity.Ledger.replacement", "frequency"),
            ("system.workers", &*format!("{workers}")),
        ];
        // The file wins over the program.
        let entity = limited(1000, Replacement::Segmented);
        let system = bed.start_with(entity, &settings).await;
        for number in 0..300 {
            let entity = system.entity::<Ledger>(format!("e{number}"));
            assert_eq!(entity.ask(Read).await, Ok(vec![]));
        }
        until("the others have left", || {
            entities(&system).over_limit() == 0
        })
        .await;
        let share = (share > 0).then_some(share);
        for worker in entities(&system).workers {
            assert_eq!(worker.limit, share);
            assert!(
                share.is_none_or(|share| worker.resident == share),
                "{worker:?}"
            );
        }
    }
}

#[tokio::test]
async fn entities_are_counted_by_worker_and_by_slice() {
    let bed = Bed::new();
    let system = bed.start_with(ledger(), &[("system.workers", "2")]).await;
    let mut of_slice = [0; 1024];
    for number in 0..200 {
        let entity_id = format!("e{number}");
        of_slice[usize::from(id(&entity_id).slice().value())] += 1;
        let answer = system.entity::<Ledger>(&entity_id).ask(Read).await;
        assert_eq!(answer, Ok(vec![]));
    }
    let all = entities(&system);
    assert_eq!(all.entity_type, "Ledger");
    assert_eq!((all.resident(), all.workers.len()), (200, 2));
    let halves = SliceRange::partition(2).expect("a power of two");
    for (half, worker) in halves.into_iter().zip(&all.workers) {
        assert_eq!(all.resident_in(half), worker.resident);
    }
    let slices = SliceRange::partition(1024).expect("a power of two");
    let counted: Vec<usize> = slices.iter().map(|slice| all.resident_in(*slice)).collect();
    assert_eq!(counted, of_slice);
    assert_eq!(all.resident_in(SliceRange::ALL), 200);

    let stop = run(|_, cx| cx.stop().reply(|_| ()));
    assert_eq!(system.entity::<Ledger>("e0").ask(stop).await, Ok(()));
    until("it has left", || {
        entities(&system).resident_in(SliceRange::ALL) == 199
    })
    .await;
}
