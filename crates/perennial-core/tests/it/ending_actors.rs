//! How actors end: when they are told to, when nobody refers to them, when the system stops.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use perennial_core::{
    ActorRef, AskError, DeadLetterReason, Placement, SpawnError, StopReason, Supervision,
};
use perennial_testkit::{MemoryStore, TestSystem};

use crate::actor_fixture::{
    Lines, SECOND, SayOpen, Teller, child, count, fail, for_seeds, ms, one, quickly, run, say,
    scripted, teller, told,
};
use crate::fixture::{Ledger, Note, ledger};

#[test]
fn an_actor_that_is_stopped_handles_first_what_was_sent_before() {
    for_seeds(|t| {
        let (actor, lines) = one(t, quickly());
        actor.tell(say("before")).expect("room");
        // Also what waits for a restart.
        actor.tell(fail()).expect("room");
        let asked = t.task(actor.ask(count()));
        actor.stop();
        actor.stop();
        actor.tell(say("behind")).expect("it has not ended");
        let behind = t.task(actor.ask(count()));
        t.advance(SECOND);
        assert_eq!(
            told(&lines),
            [
                "before",
                "restarting: broken",
                "started",
                "stopped: it was stopped"
            ]
        );
        assert_eq!(asked.output(), Ok(1));
        assert_eq!(behind.output(), Err(AskError::Stopped));
        assert_eq!(t.dead_letters(DeadLetterReason::Stopped), 2);
        assert_eq!(actor.tell(say("late")), Err(AskError::Stopped));
        assert_eq!((t.actors(), t.waiting()), (0, 0));
    });
}

#[test]
fn an_actor_that_is_stopped_at_once_leaves_what_waits() {
    for_seeds(|t| {
        let (actor, lines) = one(t, quickly());
        t.tell(&actor, SayOpen("stashed".into())).expect("room");
        let stashed = t.task(actor.ask(SayOpen("stashed".into())));
        t.tell(&actor, fail()).expect("room");
        // It waits to begin anew, and ends from there too.
        actor.tell(say("never")).expect("room");
        let asked = t.task(actor.ask(count()));
        actor.stop_now();
        assert_eq!(asked.output(), Err(AskError::Stopped));
        assert_eq!(stashed.output(), Err(AskError::Stopped));
        // There is no value any more that could be told.
        assert_eq!(told(&lines), ["restarting: broken"]);
        assert_eq!(t.dead_letters(DeadLetterReason::Stopped), 4);
        assert_eq!((t.actors(), t.waiting(), t.elapsed()), (0, 0, ms(0)));
    });
}

#[test]
fn an_actor_that_is_stopped_right_after_its_spawn_has_started() {
    for_seeds(|t| {
        let (props, lines) = teller();
        let actor = t.spawn("one", props).expect("a free name");
        actor.stop();
        t.run();
        assert_eq!(told(&lines), ["started", "stopped: it was stopped"]);
    });
}

#[test]
fn an_actor_that_waits_to_begin_anew_ends_without_doing_so() {
    for_seeds(|t| {
        let (actor, lines) = one(t, Supervision::restart().backoff(SECOND, SECOND));
        t.tell(&actor, fail()).expect("room");
        actor.stop();
        let ended = t.watch(&actor);
        assert!(ended.is_done() && t.elapsed().is_zero());
        assert_eq!(told(&lines), ["restarting: broken"]);
    });
}

#[test]
fn an_actor_that_stops_itself_ends_after_its_message() {
    for_seeds(|t| {
        let (actor, lines) = one(t, quickly());
        let stop = run(|teller: &mut Teller, cx| {
            cx.stop();
            teller.log("still here");
            cx.reply(7)
        });
        let asked = actor.ask(stop).into_future();
        actor.tell(say("never")).expect("it has not ended");
        assert_eq!(t.block_on(asked), Ok(7));
        assert_eq!(told(&lines), ["still here", "stopped: it was stopped"]);
        assert_eq!(t.dead_letters(DeadLetterReason::Stopped), 1);
    });
}

#[test]
fn what_an_ending_actor_sends_itself_is_a_dead_letter() {
    let t = TestSystem::new();
    let (props, lines) = scripted(|hook, _, cx| {
        if hook == "stopped" {
            cx.tell_myself(say("never"));
        }
        Ok(())
    });
    let actor = t.spawn("one", props).expect("a free name");
    actor.stop();
    assert_eq!(t.dead_letters(DeadLetterReason::Stopped), 1);
    assert_eq!(told(&lines), ["started", "stopped: it was stopped"]);
}

// ---- references ----

fn unreferenced(t: &TestSystem, supervision: Supervision) -> (ActorRef<Teller>, Lines) {
    let (props, lines) = teller();
    let props = props.stop_unreferenced().supervision(supervision);
    let actor = t.spawn("one", props).expect("a free name");
    t.run();
    told(&lines);
    (actor, lines)
}

#[test]
fn an_actor_ends_with_its_last_reference_if_it_was_spawned_so() {
    for_seeds(|t| {
        let (actor, lines) = unreferenced(t, quickly());
        let weak = actor.downgrade();
        let clone = actor.clone();
        drop(actor);
        t.run();
        assert_eq!(told(&lines), [""; 0]);
        clone.tell(say("before")).expect("room");
        drop(clone);
        assert!(weak.upgrade().is_none(), "it is about to end");
        t.run();
        assert_eq!(
            told(&lines),
            ["before", "stopped: nobody refers to it any more"]
        );
        // Others do not.
        let (props, lines) = teller();
        drop(t.spawn("other", props).expect("a free name"));
        t.advance(SECOND);
        assert_eq!(told(&lines), ["started"]);
    });
}

#[test]
fn an_actor_that_gives_out_a_reference_to_itself_lives_on() {
    for_seeds(|t| {
        let (actor, lines) = unreferenced(t, quickly());
        let place: Arc<Mutex<Option<ActorRef<Teller>>>> = Arc::default();
        let put = Arc::clone(&place);
        let give = run(move |_, cx| {
            *put.lock().expect("no panic") = Some(cx.myself());
            cx.reply(())
        });
        actor.tell(give).expect("room");
        drop(actor);
        t.run();
        assert_eq!(told(&lines), [""; 0]);
        let again = place.lock().expect("no panic").take().expect("it gave one");
        assert_eq!(t.ask(&again, count()), Ok(1));
        drop(again);
        t.run();
        assert_eq!(told(&lines), ["stopped: nobody refers to it any more"]);
    });
}

#[test]
fn a_reference_that_was_given_out_before_a_restart_counts_as_any_other() {
    for_seeds(|t| {
        let place: Arc<Mutex<Option<ActorRef<Teller>>>> = Arc::default();
        let put = Arc::clone(&place);
        let (props, lines) = scripted(move |hook, _, cx| {
            if hook == "restarting" {
                *put.lock().expect("no panic") = Some(cx.myself());
            }
            Ok(())
        });
        let props = props.stop_unreferenced();
        let actor = t.spawn("one", props).expect("a free name");
        actor.tell(fail()).expect("room");
        // The news that nobody refers to it comes while it waits to begin anew, or before.
        drop(actor);
        t.advance(SECOND);
        assert_eq!(told(&lines), ["started", "restarting: broken", "started"]);
        drop(place.lock().expect("no panic").take());
        t.run();
        assert_eq!(told(&lines), ["stopped: nobody refers to it any more"]);
    });
}

#[test]
fn one_that_nobody_refers_to_does_not_begin_anew() {
    for_seeds(|t| {
        let (actor, lines) = unreferenced(t, Supervision::restart().backoff(SECOND, SECOND));
        t.tell(&actor, fail()).expect("room");
        drop(actor);
        t.run();
        assert_eq!((t.actors(), t.elapsed()), (0, ms(0)));
        assert_eq!(told(&lines), ["restarting: broken"]);
    });
}

// ---- the end of the system ----

#[test]
fn a_shutdown_handles_what_waits_and_ends_children_before_their_parents() {
    for_seeds(|t| {
        let (parent, lines) = one(t, quickly());
        let (props, of_child) = teller();
        let child = child(t, &parent, "child", props.placement(Placement::Spread));
        let watched = t.watch(&child);
        for number in 0..3 {
            parent.tell(say(number.to_string())).expect("room");
            child.tell(say(number.to_string())).expect("room");
        }
        assert!(t.shutdown());
        assert_eq!(told(&lines), ["0", "1", "2", "stopped: the system stops"]);
        assert_eq!(
            told(&of_child),
            [
                "started",
                "0",
                "1",
                "2",
                "stopped: its parent stopped or restarted"
            ]
        );
        assert!(matches!(watched.output().reason, StopReason::Parent));
        assert_eq!((t.actors(), t.waiting()), (0, 0));
        assert_eq!(t.dead_letters(DeadLetterReason::Stopped), 0);
        assert_eq!(t.ask(&parent, count()), Err(AskError::Stopped));
        assert_eq!(parent.tell(say("late")), Err(AskError::Stopped));
        let (props, _) = teller();
        assert!(matches!(t.spawn("late", props), Err(SpawnError::Stopped)));
        assert_eq!(t.block_on(parent.send(say("late"))), Err(AskError::Stopped));
    });
}

#[test]
fn what_actors_send_while_the_system_stops_is_handled_or_a_dead_letter() {
    for_seeds(|t| {
        let (a, of_a) = one(t, quickly());
        let (props, of_b) = teller();
        let b = t
            .spawn("b", props.placement(Placement::Worker(1)))
            .expect("a free name");
        t.run();
        told(&of_b);
        let to = b.clone();
        let pass_on = run(move |_, cx| {
            // Refused if it has ended already.
            let passed_on = to.tell(say("passed on"));
            cx.reply(passed_on)
        });
        let passed_on = t.task(a.ask(pass_on));
        assert!(t.shutdown());
        let accepted = match passed_on.output() {
            Ok(accepted) => accepted.is_ok(),
            Err(error) => panic!("it was sent before: {error}"),
        };
        let handled = told(&of_b).contains(&"passed on".to_owned());
        let dead = t.dead_letters(DeadLetterReason::Stopped);
        assert_eq!(u64::from(accepted), u64::from(handled) + dead);
        assert_eq!(told(&of_a), ["stopped: the system stops"]);
    });
}

#[test]
fn what_waits_outside_when_the_system_stops_is_unknown() {
    for_seeds(|t| {
        let (actor, _) = one(t, quickly());
        let later = t.task(actor.ask(run(|_, cx| {
            cx.later(
                std::future::pending::<u32>(),
                |number, _: &mut Teller, cx| cx.reply(number),
            )
        })));
        let kept = t.task(actor.ask(run(|_, cx| {
            cx.keep_reply(|teller: &mut Teller, reply| teller.kept.push(reply))
        })));
        assert!(t.shutdown());
        assert!(matches!(later.output(), Err(AskError::Unknown { .. })));
        assert!(matches!(kept.output(), Err(AskError::Unknown { .. })));
    });
}

#[test]
fn actors_reach_entities_until_they_have_ended() {
    for seed in 0..25 {
        let memory = MemoryStore::default();
        let t = TestSystem::builder()
            .seed(seed)
            .entity(ledger())
            .store(memory.clone())
            .start();
        let (actor, lines) = one(&t, quickly());
        let entity = t.entity::<Ledger>("a");
        let note = run(move |_, cx| {
            cx.exclusive().later(
                async move { entity.ask(Note(7)).await },
                |noted, teller: &mut Teller, cx| {
                    teller.log(format!("{noted:?}"));
                    cx.reply(())
                },
            )
        });
        actor.tell(note).expect("room");
        assert!(t.shutdown());
        assert_eq!(told(&lines), ["Ok([7])", "stopped: the system stops"]);
    }
}

#[test]
fn an_actor_that_takes_too_long_is_dropped_at_the_end_of_its_system() {
    for_seeds(|t| {
        let (props, lines) = scripted(|_, _, _| Ok(()));
        let actor = t.spawn("one", props).expect("a free name");
        // It waits for something that never comes, and handles nothing meanwhile.
        let never = run(|_, cx| {
            let exclusive = cx.exclusive().timeout(Duration::MAX);
            exclusive.later(std::future::pending::<()>(), |(), _, cx| cx.reply(()))
        });
        t.tell(&actor, never).expect("room");
        let asked = t.task(actor.ask(count()));
        let watched = t.watch(&actor);
        let before = t.elapsed();
        let asked_in_time = !t.shutdown();
        assert!(asked_in_time && t.elapsed() - before == 30 * SECOND);
        assert!(matches!(
            asked.output(),
            Err(AskError::Stopped | AskError::Expired)
        ));
        assert!(matches!(watched.output().reason, StopReason::SystemStopped));
        assert_eq!(told(&lines), ["started"]);
        assert_eq!((t.actors(), t.waiting()), (0, 0));
    });
}

#[test]
fn a_weak_reference_reaches_its_actor_while_it_has_not_ended() {
    for_seeds(|t| {
        for props in [teller().0, teller().0.stop_unreferenced()] {
            let actor = t.spawn("one", props).expect("a free name");
            let weak = actor.downgrade();
            assert_eq!(weak.upgrade().as_ref(), Some(&actor));
            assert_eq!(weak.path(), actor.path());
            actor.stop();
            t.run();
            assert!(weak.upgrade().is_none());
        }
    });
}
