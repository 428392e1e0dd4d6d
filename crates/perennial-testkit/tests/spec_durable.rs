//! `Spec` for entities of which only the latest state is kept.

use std::time::Duration;

use perennial_core::{AskError, Cx, Durable, DurableState, Effect, Entity, Handle, StateChange};
use perennial_persistence::MessagePack;
use perennial_testkit::{ReadFault, Spec, WriteFault};
use serde::{Deserialize, Serialize};

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
struct Thermostat {
    target: f64,
    /// Never stored, which `check_replay` is to notice.
    #[serde(skip)]
    forgotten: u32,
}

impl DurableState for Thermostat {
    const TYPE: &'static str = "Thermostat";
    type Services = ();
}

#[derive(Debug)]
struct Aim(f64);

impl Handle<Aim> for Durable<Thermostat> {
    type Reply = Result<f64, &'static str>;

    fn handle(&self, command: Aim, cx: &Cx<'_, Self>) -> Effect<Self, Self::Reply> {
        if !(5.0..=30.0).contains(&command.0) {
            return cx.reply(Err("out of range"));
        }
        let before = self.target;
        cx.put(Thermostat {
            target: command.0,
            forgotten: 0,
        })
        .reply(move |after| Ok(after.target - before))
    }
}

#[derive(Debug)]
struct Remove;

impl Handle<Remove> for Durable<Thermostat> {
    type Reply = ();

    fn handle(&self, _: Remove, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        cx.delete().reply(|_| ())
    }
}

#[derive(Debug)]
struct Forget;

impl Handle<Forget> for Durable<Thermostat> {
    type Reply = ();

    fn handle(&self, _: Forget, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        cx.put(Thermostat {
            target: 1.0,
            forgotten: 7,
        })
        .reply(|_| ())
    }
}

fn at(target: f64) -> Thermostat {
    Thermostat {
        target,
        forgotten: 0,
    }
}

fn spec() -> Spec<Durable<Thermostat>> {
    Spec::durable(()).always_check_replay()
}

#[test]
fn a_change_is_stored_answered_and_comes_back() {
    let mut t = spec().given_state(at(18.0));
    assert_eq!(
        t.when(Aim(21.0)),
        (vec![StateChange::put(at(21.0))], Ok(3.0))
    );
    assert_eq!(t.when(Aim(99.0)), (vec![], Err("out of range")));
    assert_eq!(t.state().target, 21.0);
    t.restart();
    assert_eq!(t.when(Aim(20.0)).reply(), &Ok(-1.0));
}

#[test]
fn a_deletion_is_a_change_and_leaves_the_default_state() {
    let mut t = spec().given_state(at(18.0));
    assert_eq!(t.when(Remove), (vec![StateChange::delete()], ()));
    assert!(!t.state().is_there());
    t.restart();
    assert!(!t.state().is_there());
    assert_eq!(t.when(Aim(6.0)).reply(), &Ok(6.0));
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Told {
    Aimed { from: f64, to: f64 },
    Removed,
}

#[test]
fn change_events_are_seen_as_they_are_stored() {
    let entity = Entity::<Durable<Thermostat>>::durable(()).change_events(|changed| {
        let target = |thermostat: &Thermostat| thermostat.target;
        match changed.after().map(target) {
            Some(to) => Told::Aimed {
                from: changed.before().map_or(0.0, target),
                to,
            },
            None => Told::Removed,
        }
    });
    let mut t = Spec::of(entity).always_check_replay();
    assert_eq!(
        t.when(Aim(21.0)),
        (vec![StateChange::put(at(21.0))], Ok(21.0))
    );
    assert_eq!(t.when(Aim(99.0)), (vec![], Err("out of range")));
    t.restart();
    t.when(Remove);
    let expected = [
        Told::Aimed {
            from: 0.0,
            to: 21.0,
        },
        Told::Removed,
    ];
    assert_eq!(t.change_events::<Told>(), expected);
    let other = MessagePack::<u64>::new("Other");
    let undecodable = || drop(t.change_events_by(&other));
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(undecodable));
    let message = failed.expect_err("they are no numbers");
    let message = message.downcast_ref::<String>().expect("a text");
    assert!(
        message.contains("change event 1 of Thermostat|spec"),
        "{message}"
    );
}

#[test]
fn a_state_that_does_not_come_back_is_noticed() {
    let mut t = Spec::<Durable<Thermostat>>::durable(());
    t.when(Forget);
    let noticed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| t.check_replay()));
    let message = noticed.expect_err("7 is not stored");
    let message = message.downcast_ref::<String>().expect("a text");
    for part in ["its stored state", "forgotten: 7", "forgotten: 0"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn faults_of_the_state_store_are_planned_by_number() {
    let mut t = spec();
    t.faults().state_writes.next(WriteFault::LostAnswer);
    assert_eq!(
        t.when(Aim(10.0)),
        (vec![StateChange::put(at(10.0))], Ok(10.0))
    );
    t.faults().state_writes.next(WriteFault::Rejected);
    let refused = t.when(Aim(11.0));
    assert!(matches!(refused.error(), Some(AskError::PersistFailed(_))));
    assert!(refused.events().is_empty());
    t.slow_next_write(Duration::from_secs(3));
    let slow = t.when(Aim(12.0));
    assert!(slow.is_open());
    t.advance(Duration::from_secs(3));
    assert_eq!(slow.reply(), &Ok(2.0));
    t.crash();
    t.faults().state_loads.next(ReadFault::Unavailable);
    assert_eq!(t.when(Aim(13.0)).reply(), &Ok(1.0));
}

#[test]
fn another_writer_makes_the_entity_load_again() {
    let mut t = spec();
    assert_eq!(t.when(Aim(10.0)).reply(), &Ok(10.0));
    t.another_writer_stores([StateChange::put(at(20.0))]);
    assert!(matches!(
        t.when(Aim(11.0)).error(),
        Some(AskError::PersistFailed(_))
    ));
    assert_eq!(t.when(Aim(22.0)).reply(), &Ok(2.0));
}
