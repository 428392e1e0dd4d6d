//! A system starts, is asked and ends wherever its users are.

use std::time::Duration;

use perennial_core::{ActorSystem, AskError};

use crate::fixture::{Bed, Ledger, Note, Read, noted};

/// What every kind of caller does.
async fn use_a_system() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));
    let gate = crate::fixture::hold_writes(&bed.faults);
    let late = entity.ask(Note(2)).timeout(Duration::from_millis(20)).await;
    assert!(matches!(late, Err(AskError::Unknown { .. })), "{late:?}");
    gate.open();
    assert_eq!(entity.ask(Read).await, Ok(vec![1, 2]));
    assert_eq!(system.shutdown().await, Ok(()));
    assert_eq!(entity.ask(Read).await, Err(AskError::Stopped));
    assert_eq!(bed.stored("a"), noted([1, 2]));
}

/// A system that is dropped where it was used.
async fn drop_a_system() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));
    drop(system);
    assert_eq!(entity.ask(Read).await, Err(AskError::Stopped));
}

#[test]
fn in_a_plain_thread() {
    futures_executor::block_on(use_a_system());
    futures_executor::block_on(drop_a_system());
}

#[test]
fn in_a_tokio_runtime_of_one_thread() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime.block_on(use_a_system());
    runtime.block_on(drop_a_system());
}

#[test]
fn in_a_tokio_runtime_of_several_threads() {
    // Without timers: those of a system are its own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .expect("a runtime");
    runtime.block_on(use_a_system());
    runtime.block_on(drop_a_system());
    let on_a_worker = runtime.spawn(async {
        use_a_system().await;
        drop_a_system().await;
    });
    runtime.block_on(on_a_worker).expect("no panic");
}

#[test]
fn in_an_actix_system() {
    actix::System::new().block_on(async {
        use_a_system().await;
        drop_a_system().await;
        // And beside it on an arbiter of its own.
        let (done, wait) = tokio::sync::oneshot::channel();
        let arbiter = actix::Arbiter::new();
        arbiter.spawn(async {
            use_a_system().await;
            drop_a_system().await;
            let _ = done.send(());
        });
        wait.await.expect("no panic");
        arbiter.stop();
    });
}

#[test]
fn a_system_outlives_the_runtime_that_started_it() {
    let bed = Bed::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let system = runtime.block_on(bed.start(&[]));
    drop(runtime);
    let asking = |system: &ActorSystem, number| {
        let ask = system.entity::<Ledger>("a").ask(Note(number));
        futures_executor::block_on(ask.into_future())
    };
    assert_eq!(asking(&system, 1), Ok(vec![1]));
    // From several threads at once.
    let threads: Vec<_> = (0..4)
        .map(|number| {
            let system = system.clone();
            std::thread::spawn(move || asking(&system, 10 + number).map(|notes| notes.len()))
        })
        .collect();
    let mut lengths: Vec<usize> = threads
        .into_iter()
        .map(|thread| thread.join().expect("no panic").expect("stored"))
        .collect();
    lengths.sort_unstable();
    assert_eq!(lengths, [2, 3, 4, 5]);
    assert_eq!(futures_executor::block_on(system.shutdown()), Ok(()));
}

#[test]
fn two_systems_live_in_one_process() {
    let beds = [Bed::new(), Bed::new()];
    futures_executor::block_on(async {
        let first = beds[0].start(&[("system.name", "first")]).await;
        let second = beds[1].start(&[("system.name", "second")]).await;
        assert_eq!((first.name(), second.name()), ("first", "second"));
        let ask = first.entity::<Ledger>("a").ask(Note(1)).await;
        assert_eq!(ask, Ok(vec![1]));
        assert_eq!(first.shutdown().await, Ok(()));
        let ask = second.entity::<Ledger>("a").ask(Note(2)).await;
        assert_eq!(ask, Ok(vec![2]));
        assert_eq!(second.shutdown().await, Ok(()));
    });
}

#[test]
fn many_workers_share_the_entities() {
    const ENTITIES: u64 = 200;
    let bed = Bed::new();
    futures_executor::block_on(async {
        let system = bed.start(&[("system.workers", "4")]).await;
        for round in 1..=3 {
            for number in 0..ENTITIES {
                let entity = system.entity::<Ledger>(format!("e{number}"));
                let notes = entity.ask(Note(round)).await.expect("stored");
                assert_eq!(notes, (1..=round).collect::<Vec<_>>());
            }
        }
        assert_eq!(system.stats().recovered, ENTITIES);
        assert_eq!(system.shutdown().await, Ok(()));
        assert_eq!(system.stats().resident, 0);
    });
}
