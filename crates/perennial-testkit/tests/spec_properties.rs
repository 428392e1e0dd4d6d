//! Whatever happens in whatever order, an entity is what an undisturbed one would be.

use std::time::Duration;

use perennial_core::{
    AskError, Cx, Durable, DurableState, Effect, Entity, EventSourced, Handle, Recovery, Retention,
};
use perennial_persistence::{MessagePack, SequenceNr};
use perennial_testkit::{ChangeFault, ReadFault, Spec, WriteFault};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

/// Everything that was added, in order.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
struct Chain(Vec<u16>);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Added(u16);

impl EventSourced for Chain {
    const TYPE: &'static str = "Chain";
    type Event = Added;
    type Services = ();

    fn apply(&mut self, event: &Added) {
        self.0.push(event.0);
    }
}

impl DurableState for Chain {
    const TYPE: &'static str = "Chain";
    type Services = ();
}

/// Adds some numbers in one write; the reply is all of them.
#[derive(Debug)]
struct Add(Vec<u16>);

impl Handle<Add> for Chain {
    type Reply = Vec<u16>;

    fn handle(&self, command: Add, cx: &Cx<'_, Self>) -> Effect<Self, Vec<u16>> {
        cx.persist(command.0.into_iter().map(Added))
            .reply(|chain| chain.0.clone())
    }
}

impl Handle<Add> for Durable<Chain> {
    type Reply = Vec<u16>;

    fn handle(&self, command: Add, cx: &Cx<'_, Self>) -> Effect<Self, Vec<u16>> {
        let mut numbers = self.0.clone();
        numbers.extend(command.0);
        cx.put(Chain(numbers)).reply(|chain| chain.0.clone())
    }
}

/// Deletes the events that a snapshot at this number stands for.
#[derive(Debug)]
struct DeleteTo(SequenceNr);

impl Handle<DeleteTo> for Chain {
    type Reply = ();

    fn handle(&self, command: DeleteTo, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        cx.none().then_delete_events(command.0).reply(|_| ())
    }
}

/// What happens to the entity.
#[derive(Debug, Clone)]
enum Step {
    Add(Vec<u16>),
    /// Deletes the events that the stored snapshot stands for.
    Delete,
    Crash,
    /// Longer than it stays in memory when idle.
    Wait,
    Write(WriteTrouble),
    SnapshotIsLost,
    DeletionIsLost,
    StoreIsAway,
}

#[derive(Debug, Clone, Copy)]
enum WriteTrouble {
    Rejected,
    Unavailable,
    LostRequest,
    LostAnswer,
}

impl WriteTrouble {
    fn fault(self) -> WriteFault {
        match self {
            Self::Rejected => WriteFault::Rejected,
            Self::Unavailable => WriteFault::Unavailable,
            Self::LostRequest => WriteFault::LostRequest,
            Self::LostAnswer => WriteFault::LostAnswer,
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let trouble = prop_oneof![
        Just(WriteTrouble::Rejected),
        Just(WriteTrouble::Unavailable),
        Just(WriteTrouble::LostRequest),
        Just(WriteTrouble::LostAnswer),
    ];
    let step = prop_oneof![
        6 => prop::collection::vec(any::<u16>(), 1..5).prop_map(Step::Add),
        2 => Just(Step::Delete),
        2 => Just(Step::Crash),
        1 => Just(Step::Wait),
        2 => trouble.prop_map(Step::Write),
        1 => Just(Step::SnapshotIsLost),
        1 => Just(Step::DeletionIsLost),
        1 => Just(Step::StoreIsAway),
    ];
    prop::collection::vec(step, 1..40)
}

const IDLE: Duration = Duration::from_secs(10);

proptest! {

    #[test]
    fn any_interleaving_recovers_the_state_of_an_undisturbed_run(
        steps in steps(),
        every in 0_u64..6,
        keep in 0_u64..3,
        deletes in any::<bool>(),
    ) {
        let mut retention = Retention::every(every).keep(keep);
        if deletes {
            retention = retention.delete_events();
        }
        let entity = Entity::<Chain>::new(())
            .state_codec(MessagePack::new("Chain.State"))
            .retention(retention)
            .recovery(Recovery::Latest)
            .passivate_after(Some(IDLE));
        let mut t = Spec::of(entity).always_check_replay();
        let mut undisturbed: Vec<u16> = Vec::new();
        for step in steps {
            match step {
                Step::Add(numbers) => {
                    let outcome = t.when(Add(numbers.clone()));
                    match outcome.result() {
                        Some(Ok(reply)) => {
                            undisturbed.extend(numbers);
                            prop_assert_eq!(reply, &undisturbed);
                        }
                        // The store has refused it, so nothing of it is there.
                        Some(Err(AskError::PersistFailed(_))) => {}
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
                Step::Delete => {
                    if let Some(snapshot) = t.store().snapshot(t.persistence_id()) {
                        t.when(DeleteTo(snapshot.seq_nr));
                    }
                }
                Step::Crash => t.crash(),
                Step::Wait => {
                    t.advance(IDLE * 3);
                }
                Step::Write(trouble) => t.faults().writes.next(trouble.fault()),
                Step::SnapshotIsLost => t.faults().snapshot_saves.next(ChangeFault::LostRequest),
                Step::DeletionIsLost => t.faults().deletes.next(ChangeFault::LostRequest),
                Step::StoreIsAway => t.faults().reads.next(ReadFault::Unavailable),
            }
            prop_assert_eq!(&t.state().0, &undisturbed);
        }
        t.faults().clear();
        t.restart();
        prop_assert_eq!(&t.state().0, &undisturbed);
        undisturbed.push(7);
        let after = t.when(Add(vec![7]));
        prop_assert_eq!(after.reply(), &undisturbed);
    }

    #[test]
    fn a_state_comes_back_from_any_interleaving_too(steps in steps()) {
        let entity = Entity::<Durable<Chain>>::durable(()).passivate_after(Some(IDLE));
        let mut t = Spec::of(entity).always_check_replay();
        let mut undisturbed: Vec<u16> = Vec::new();
        for step in steps {
            match step {
                Step::Add(numbers) => {
                    let outcome = t.when(Add(numbers.clone()));
                    match outcome.result() {
                        Some(Ok(reply)) => {
                            undisturbed.extend(numbers);
                            prop_assert_eq!(reply, &undisturbed);
                        }
                        // The store has refused it, so nothing of it is there.
                        Some(Err(AskError::PersistFailed(_))) => {}
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
                Step::Crash => t.crash(),
                Step::Wait => {
                    t.advance(IDLE * 3);
                }
                Step::Write(trouble) => t.faults().state_writes.next(trouble.fault()),
                Step::StoreIsAway => t.faults().state_loads.next(ReadFault::Unavailable),
                Step::Delete | Step::SnapshotIsLost | Step::DeletionIsLost => {}
            }
            prop_assert_eq!(&t.state().0, &undisturbed);
        }
        t.faults().clear();
        t.restart();
        prop_assert_eq!(&t.state().0, &undisturbed);
        undisturbed.push(7);
        let after = t.when(Add(vec![7]));
        prop_assert_eq!(after.reply(), &undisturbed);
    }
}
