//! What becomes of an actor that fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use perennial_core::{
    Actor, ActorCx, AskError, DeadLetterReason, Directive, Failure, Placement, Props, Receive,
    Received, StopReason, Supervision,
};
use perennial_testkit::TestSystem;

use crate::actor_fixture::{
    SECOND, SayOpen, Teller, child, count, fail, for_seeds, ms, one, open, quickly, run, say,
    scripted, teller, told,
};

fn failed(failure: &str) -> AskError {
    AskError::Failed {
        actor: "/one".into(),
        failure: failure.into(),
    }
}

#[test]
fn an_actor_that_is_resumed_goes_on_with_everything() {
    for_seeds(|t| {
        let (actor, lines) = one(t, Supervision::resume());
        let (props, child_lines) = teller();
        child(t, &actor, "child", props);
        t.tell(&actor, SayOpen("stashed".into())).expect("room");
        let timer = run(|teller: &mut Teller, cx| {
            teller.count = 0;
            cx.timers().start_single("timer", SECOND, say("timer"));
            cx.reply(())
        });
        t.ask(&actor, timer).expect("it answers");
        assert_eq!(t.ask(&actor, fail()), Err(failed("broken")));
        t.advance(SECOND);
        t.ask(&actor, open()).expect("it answers");
        assert_eq!(told(&lines), ["timer", "stashed"]);
        assert_eq!(told(&child_lines), ["started"]);
        assert_eq!(t.state(&actor, |teller| teller.incarnation), 1);
    });
}

#[test]
fn an_actor_that_restarts_begins_with_a_fresh_value_and_keeps_what_waits() {
    for_seeds(|t| {
        let (actor, lines) = one(t, quickly());
        t.ask(&actor, count()).expect("it answers");
        actor.tell(fail()).expect("room");
        for number in 0..3 {
            actor.tell(say(format!("waited {number}"))).expect("room");
        }
        t.run();
        assert_eq!(told(&lines), ["restarting: broken"]);
        assert_eq!(actor.queue_depth(), 3);
        t.advance(ms(1));
        assert_eq!(
            told(&lines),
            ["started", "waited 0", "waited 1", "waited 2"]
        );
        assert_eq!(t.ask(&actor, count()), Ok(1));
        assert_eq!(t.state(&actor, |teller| teller.incarnation), 2);
    });
}

#[test]
fn an_actor_that_is_stopped_by_its_failure_ends_for_good() {
    for_seeds(|t| {
        let (actor, lines) = one(t, Supervision::stop());
        let ended = t.watch(&actor);
        actor.tell(fail()).expect("room");
        actor.tell(say("never")).expect("room");
        let asked = t.task(actor.ask(count()));
        assert_eq!(asked.output(), Err(AskError::Stopped));
        assert_eq!(told(&lines), ["stopped: it failed: broken"]);
        assert!(matches!(
            ended.output().reason,
            StopReason::Failed(failure) if failure.to_string() == "broken"
        ));
        assert_eq!(t.dead_letters(DeadLetterReason::Stopped), 2);
    });
}

/// An error that a decider looks for.
#[derive(Debug, thiserror::Error)]
#[error("number {0}")]
struct Numbered(u32);

#[test]
fn the_decision_may_depend_on_the_failure() {
    let decide = || {
        Supervision::decide(|failure| match failure.downcast_ref::<Numbered>() {
            Some(Numbered(1)) => Directive::Resume,
            Some(Numbered(_)) => Directive::Restart,
            None if failure.is_panic() => Directive::Stop,
            None => Directive::Resume,
        })
        .backoff(ms(1), ms(1))
    };
    let t = TestSystem::new();
    let (actor, lines) = one(&t, decide());
    let number = |number| run::<()>(move |_, _| Err(Numbered(number).into()));
    t.tell(&actor, number(1)).expect("room");
    t.tell(&actor, fail()).expect("room");
    assert_eq!(told(&lines), [""; 0]);
    t.tell(&actor, number(2)).expect("room");
    t.advance(ms(2));
    assert_eq!(told(&lines), ["restarting: number 2", "started"]);
    t.tell(&actor, run::<()>(|_, _| panic!("oh")))
        .expect("room");
    assert_eq!(told(&lines), ["stopped: it failed: panicked: oh"]);
}

#[test]
fn an_escalation_without_a_parent_stops() {
    let t = TestSystem::new();
    let (actor, lines) = one(&t, Supervision::escalate());
    t.tell(&actor, fail()).expect("room");
    assert_eq!(told(&lines), ["stopped: it failed: broken"]);
}

#[test]
fn a_parent_is_told_once_of_every_failure_of_a_child() {
    for_seeds(|t| {
        let (parent, lines) = one(t, quickly());
        for (name, supervision) in [
            ("resumed", Supervision::resume()),
            ("restarted", quickly()),
            ("stopped", Supervision::stop()),
        ] {
            let (props, _) = teller();
            let props = props.supervision(supervision).placement(Placement::Spread);
            let child = child(t, &parent, name, props);
            t.tell(&child, fail()).expect("room");
            t.advance(ms(2));
        }
        assert_eq!(
            told(&lines),
            [
                "/one/resumed Resume: broken",
                "/one/restarted Restart: broken",
                "/one/stopped Stop: broken",
            ]
        );
    });
}

// ---- the wait and the limit ----

#[test]
fn the_wait_before_a_restart_doubles_up_to_its_bound() {
    let supervision = Supervision::restart().backoff(ms(10), ms(70)).jitter(0.0);
    let t = TestSystem::new();
    let (props, lines) = scripted(|hook, _, _| match hook {
        "started" => Err(Failure::new("broken")),
        _ => Ok(()),
    });
    t.spawn("one", props.supervision(supervision))
        .expect("the name is free");
    t.run();
    for wait in [10, 20, 40, 70, 70] {
        told(&lines);
        t.advance(ms(wait) - Duration::from_nanos(1));
        assert_eq!(told(&lines), [""; 0], "not before {wait} ms");
        t.advance(Duration::from_nanos(1));
        assert_eq!(told(&lines), ["started", "restarting: broken"]);
    }
}

#[test]
fn the_wait_is_lengthened_by_chance_and_never_shortened() {
    let supervision = || Supervision::restart().backoff(ms(100), ms(400)).jitter(0.5);
    let mut seen = Vec::new();
    for seed in 0..20 {
        let t = TestSystem::builder().seed(seed).start();
        let (actor, _) = one(&t, supervision());
        t.tell(&actor, fail()).expect("room");
        let wait = t.advance_until_idle();
        assert!((ms(100)..=ms(150)).contains(&wait), "{wait:?}");
        seen.push(wait);
    }
    seen.sort();
    seen.dedup();
    assert!(seen.len() > 15, "{seen:?}");
    assert!(
        seen[0] < ms(110) && seen[seen.len() - 1] > ms(140),
        "{seen:?}"
    );
}

#[test]
fn the_wait_begins_anew_after_a_long_run_without_a_failure() {
    let t = TestSystem::new();
    let (actor, _) = one(
        &t,
        Supervision::restart().backoff(ms(10), ms(50)).jitter(0.0),
    );
    let wait = || {
        t.tell(&actor, fail()).expect("room");
        t.advance_until_idle()
    };
    assert_eq!((wait(), wait(), wait()), (ms(10), ms(20), ms(40)));
    t.advance(ms(49));
    assert_eq!(wait(), ms(50));
    t.advance(ms(50));
    assert_eq!(wait(), ms(10));
}

#[test]
fn an_actor_that_failed_too_often_stops() {
    let t = TestSystem::new();
    let (actor, lines) = one(&t, quickly().limit(2, SECOND));
    let ended = t.watch(&actor);
    for _ in 0..2 {
        t.tell(&actor, fail()).expect("room");
        t.advance(ms(1));
    }
    assert_eq!(told(&lines), ["restarting: broken", "started"].repeat(2));
    // Those that are long ago do not count.
    t.advance(SECOND);
    for _ in 0..2 {
        t.tell(&actor, fail()).expect("room");
        t.advance(ms(1));
    }
    assert!(!ended.is_done());
    told(&lines);
    t.tell(&actor, fail()).expect("room");
    assert_eq!(told(&lines), ["stopped: it failed: broken"]);
    assert!(matches!(ended.output().reason, StopReason::Failed(_)));
}

// ---- siblings ----

#[test]
fn all_for_one_restarts_those_with_the_same_setting() {
    for_seeds(|t| {
        let (parent, _) = one(t, quickly());
        let spawn = |name, supervision| {
            let (props, lines) = teller();
            let props = props.supervision(supervision).placement(Placement::Spread);
            (child(t, &parent, name, props), lines)
        };
        let (a, of_a) = spawn("a", quickly().all_for_one());
        let (b, of_b) = spawn("b", quickly().all_for_one());
        let (c, of_c) = spawn("c", quickly());
        t.ask(&b, count()).expect("it answers");
        t.tell(&a, fail()).expect("room");
        t.advance(ms(5));
        let restarted = ["started", "restarting: broken", "started"];
        assert_eq!(told(&of_a), restarted);
        assert_eq!(told(&of_b), restarted);
        assert_eq!(told(&of_c), ["started"]);
        assert_eq!(t.ask(&b, count()), Ok(1));
        // One that restarts for itself concerns nobody.
        t.tell(&c, fail()).expect("room");
        t.advance(ms(5));
        assert_eq!(told(&of_c), ["restarting: broken", "started"]);
        assert_eq!((told(&of_a).len(), told(&of_b).len()), (0, 0));
    });
}

#[test]
fn all_for_one_stops_and_resumes_as_decided() {
    for_seeds(|t| {
        let (parent, lines) = one(t, quickly());
        let supervision = || {
            Supervision::decide(|failure| match failure.to_string().as_str() {
                "stop" => Directive::Stop,
                _ => Directive::Resume,
            })
            .all_for_one()
        };
        let spawn = |name| {
            let (props, lines) = teller();
            (
                child(t, &parent, name, props.supervision(supervision())),
                lines,
            )
        };
        let (a, of_a) = spawn("a");
        let (b, of_b) = spawn("b");
        t.tell(&a, fail()).expect("room");
        assert_eq!((told(&of_a), told(&of_b)), (started(), started()));
        t.tell(&a, run::<()>(|_, _| Err(Failure::new("stop"))))
            .expect("room");
        assert_eq!(told(&of_a), ["stopped: it failed: stop"]);
        assert_eq!(told(&of_b), ["stopped: it failed: stop"]);
        assert!(a.has_ended() && b.has_ended());
        assert_eq!(told(&lines), ["/one/a Resume: broken", "/one/a Stop: stop"]);
    });
}

fn started() -> Vec<String> {
    vec!["started".to_owned()]
}

#[test]
fn one_that_has_failed_too_often_takes_its_group_with_it() {
    let t = TestSystem::new();
    let (parent, _) = one(&t, quickly());
    let spawn = |name| {
        let (props, lines) = teller();
        let props = props.supervision(quickly().limit(1, SECOND).all_for_one());
        (child(&t, &parent, name, props), lines)
    };
    let (a, _of_a) = spawn("a");
    let (b, of_b) = spawn("b");
    t.tell(&a, fail()).expect("room");
    t.advance(ms(5));
    t.tell(&a, fail()).expect("room");
    assert!(a.has_ended() && b.has_ended());
    assert_eq!(
        told(&of_b),
        [
            "started",
            "restarting: broken",
            "started",
            "stopped: it failed: broken"
        ]
    );
}

// ---- the start ----

#[test]
fn an_actor_whose_start_fails_is_tried_again_while_messages_wait() {
    for_seeds(|t| {
        let attempts = Arc::new(AtomicU32::new(0));
        let tried = Arc::clone(&attempts);
        let (props, lines) = scripted(move |hook, _, _| {
            if hook == "started" {
                match tried.fetch_add(1, Ordering::Relaxed) {
                    0 => return Err(Failure::new("not yet")),
                    1 => panic!("nor now"),
                    _ => {}
                }
            }
            Ok(())
        });
        let actor = t.spawn("one", props).expect("the name is free");
        let asked = t.task(actor.ask(count()));
        assert!(!asked.is_done());
        t.advance(ms(2));
        assert_eq!(asked.output(), Ok(1));
        assert_eq!(
            told(&lines),
            [
                "started",
                "restarting: not yet",
                "started",
                "restarting: panicked: nor now",
                "started"
            ]
        );
        assert_eq!(attempts.load(Ordering::Relaxed), 3);
    });
}

/// Made by a factory that fails at first.
struct Late;

impl Actor for Late {}

struct Hello;

impl Receive<Hello> for Late {
    type Reply = u32;

    fn receive(&mut self, _: Hello, cx: &mut ActorCx<'_, Self>) -> Received<Self, u32> {
        cx.reply(7)
    }
}

fn late(failures: u32) -> Props<Late> {
    let mut made = 0;
    Props::try_new(move || {
        made += 1;
        match made {
            made if made > failures => Ok(Late),
            1 => Err(Failure::new("no value yet")),
            _ => panic!("no value either"),
        }
    })
}

#[test]
fn a_factory_that_fails_is_called_again() {
    for_seeds(|t| {
        let actor = t
            .spawn("late", late(2).supervision(quickly()))
            .expect("the name is free");
        assert!(!t.is_running(&actor));
        assert_eq!(t.ask(&actor, Hello), Ok(7));
        assert_eq!(t.elapsed(), ms(2));
        for supervision in [Supervision::stop(), Supervision::resume()] {
            // Without a value there is nothing to resume.
            let actor = t
                .spawn("stopped", late(1).supervision(supervision))
                .expect("the name is free");
            let ended = t.watch(&actor);
            assert!(matches!(
                ended.output().reason,
                StopReason::NotFound | StopReason::Failed(_)
            ));
        }
    });
}

#[test]
fn a_start_that_fails_is_resumed_with_its_value() {
    let t = TestSystem::new();
    let (props, lines) = scripted(|hook, teller, _| {
        teller.count = 40;
        match hook {
            "started" => Err(Failure::new("half done")),
            _ => Ok(()),
        }
    });
    let actor = t
        .spawn("one", props.supervision(Supervision::resume()))
        .expect("the name is free");
    assert_eq!(t.ask(&actor, count()), Ok(41));
    assert_eq!(told(&lines), ["started"]);
}

// ---- panics ----

#[test]
fn a_panic_of_any_hook_concerns_its_actor_alone() {
    for hook in [
        "started",
        "restarting",
        "stopped",
        "terminated",
        "child_failed",
        "receive_timeout",
    ] {
        let t = TestSystem::builder().workers(1).start();
        let (bystander, of_bystander) = {
            let (props, lines) = teller();
            (t.spawn("bystander", props).expect("a free name"), lines)
        };
        let has_panicked = Arc::new(AtomicBool::new(false));
        let panics = Arc::clone(&has_panicked);
        let (props, lines) = scripted(move |at, _, _| {
            if at == hook && !panics.swap(true, Ordering::Relaxed) {
                panic!("in {hook}");
            }
            Ok(())
        });
        let actor = t.spawn("one", props).expect("the name is free");
        let ended = t.watch(&actor);
        t.advance(ms(2));
        let (props, _) = teller();
        let watched = t.spawn("watched", props).expect("the name is free");
        let other = watched.clone();
        let prepare = run(move |_, cx| {
            cx.watch(&other);
            cx.set_receive_timeout(SECOND);
            let (props, _) = teller();
            let child = cx.spawn("child", props.supervision(Supervision::resume()))?;
            cx.reply(child)
        });
        let child = t.ask(&actor, prepare).expect("it answers");
        if hook == "child_failed" {
            t.tell(&child, fail()).expect("room");
        }
        if hook == "terminated" {
            watched.stop();
        }
        t.advance(SECOND);
        t.tell(&actor, fail()).expect("room");
        t.advance(ms(2));
        assert_eq!(t.ask(&actor, count()), Ok(1), "{hook}");
        actor.stop();
        assert!(ended.is_done(), "{hook}");
        assert!(
            has_panicked.load(Ordering::Relaxed),
            "{hook}: {:?}",
            told(&lines)
        );
        assert_eq!(t.ask(&bystander, count()), Ok(1), "{hook}");
        assert_eq!(told(&of_bystander), ["started"], "{hook}");
        assert_eq!(
            (t.actors(), t.waiting()),
            (2 - usize::from(hook == "terminated"), 0)
        );
    }
}

/// Panics when its value is dropped, and when its factory and its messages are.
struct Brittle {
    _inside: Bomb,
}

impl Actor for Brittle {}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "dropped");
    }
}

impl Receive<Bomb> for Brittle {
    type Reply = ();

    fn receive(&mut self, bomb: Bomb, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        std::mem::forget(bomb);
        cx.reply(())
    }
}

struct Break;

impl Receive<Break> for Brittle {
    type Reply = ();

    fn receive(&mut self, _: Break, _: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        Err(Failure::new("broken"))
    }
}

#[test]
fn a_panic_in_a_destructor_does_not_reach_the_worker() {
    let t = TestSystem::builder().workers(1).start();
    let (bystander, _lines) = one(&t, quickly());
    let in_factory = Bomb;
    let props = Props::new(move || {
        let _captured = &in_factory;
        Brittle { _inside: Bomb }
    });
    let brittle = t
        .spawn("brittle", props.supervision(quickly()))
        .expect("the name is free");
    t.tell(&brittle, Break).expect("room");
    t.advance(ms(2));
    assert!(t.is_running(&brittle));
    let ended = t.watch(&brittle);
    brittle.tell(Break).expect("room");
    t.run();
    // Waits while the actor is down, and is dropped with it.
    brittle.tell(Bomb).expect("room");
    brittle.stop_now();
    assert!(ended.is_done());
    assert_eq!(t.dead_letters(DeadLetterReason::Stopped), 1);
    assert_eq!((t.actors(), t.waiting()), (1, 0));
    assert_eq!(t.ask(&bystander, count()), Ok(1));
}

#[test]
fn a_decider_that_panics_stops_its_actor() {
    let t = TestSystem::new();
    let (actor, lines) = one(&t, Supervision::decide(|_| panic!("undecided")));
    t.tell(&actor, fail()).expect("room");
    assert_eq!(told(&lines), ["stopped: it failed: broken"]);
}

#[test]
fn a_panic_while_a_reply_is_kept_is_a_failure() {
    let t = TestSystem::new();
    let (actor, lines) = one(&t, quickly());
    let answer = t.ask(
        &actor,
        run::<u32>(|_, cx| cx.keep_reply(|_: &mut Teller, _| panic!("in keep"))),
    );
    assert!(
        matches!(answer, Err(AskError::Unknown { .. })),
        "{answer:?}"
    );
    t.advance(ms(1));
    assert_eq!(told(&lines), ["restarting: panicked: in keep", "started"]);
}

#[test]
fn a_failure_that_is_escalated_is_that_of_the_parent() {
    for_seeds(|t| {
        let (actor, lines) = one(
            t,
            Supervision::decide(|failure| {
                // The parent sees what the child has seen.
                match failure.downcast_ref::<Numbered>() {
                    Some(Numbered(7)) => Directive::Restart,
                    _ => Directive::Stop,
                }
            })
            .backoff(ms(1), ms(1)),
        );
        let (props, child_lines) = teller();
        let props = props
            .supervision(Supervision::escalate())
            .placement(Placement::Spread);
        let child = child(t, &actor, "child", props);
        let answer = t.block_on(child.ask(run::<()>(|_, _| Err(Numbered(7).into()))));
        assert!(matches!(answer, Err(AskError::Failed { .. })));
        t.advance(ms(2));
        assert_eq!(
            told(&child_lines),
            ["started", "stopped: it failed: number 7"]
        );
        assert_eq!(told(&lines), ["restarting: number 7", "started"]);
        assert!(child.has_ended());
    });
}

#[test]
fn a_parent_that_is_resumed_after_an_escalation_is_told_of_it() {
    for_seeds(|t| {
        let (actor, lines) = one(t, Supervision::resume());
        let (props, _) = teller();
        let child = child(
            t,
            &actor,
            "child",
            props.supervision(Supervision::escalate()),
        );
        t.tell(&child, fail()).expect("room");
        assert_eq!(told(&lines), ["/one/child Escalate: broken"]);
        assert!(child.has_ended() && t.is_running(&actor));
    });
}

// ---- what an actor asks of its cell before it fails or ends ----

#[test]
fn a_value_that_is_given_up_has_no_more_children_timers_or_watched_ones() {
    for_seeds(|t| {
        let refused = Arc::new(AtomicU32::new(0));
        let count_refused = Arc::clone(&refused);
        let (other, _lines) = {
            let (props, lines) = teller();
            (t.spawn("other", props).expect("a free name"), lines)
        };
        let watched = other.clone();
        let (props, lines) = scripted(move |hook, _, cx| {
            if hook == "restarting" || hook == "stopped" {
                let (props, _) = teller();
                if cx.spawn("child", props).is_err() {
                    count_refused.fetch_add(1, Ordering::Relaxed);
                }
                cx.timers().start_single("timer", ms(1), say("timer"));
                cx.set_receive_timeout(ms(1));
                cx.watch(&watched);
                cx.stop();
            }
            Ok(())
        });
        let actor = t.spawn("one", props).expect("the name is free");
        t.tell(&actor, fail()).expect("room");
        t.advance(SECOND);
        assert_eq!(told(&lines), ["started", "restarting: broken", "started"]);
        let ended = t.watch(&actor);
        actor.stop();
        assert!(ended.is_done());
        other.stop();
        t.advance(SECOND);
        assert_eq!(told(&lines), ["stopped: it was stopped"]);
        assert_eq!(refused.load(Ordering::Relaxed), 2);
        assert_eq!((t.actors(), t.waiting()), (0, 0));
    });
}

#[test]
fn an_actor_that_stops_itself_stops_also_when_it_fails_then() {
    for supervision in [Supervision::resume(), quickly()] {
        let t = TestSystem::new();
        let (actor, lines) = one(&t, supervision);
        let stop = run::<()>(|_, cx| {
            cx.stop();
            Err(Failure::new("broken"))
        });
        t.tell(&actor, stop).expect("room");
        t.advance(SECOND);
        assert_eq!(told(&lines), ["stopped: it failed: broken"]);
        assert!(actor.has_ended());
    }
}

#[test]
fn an_actor_that_cannot_start_and_is_to_stop_is_not_tried_for_ever() {
    for_seeds(|t| {
        let (props, _lines) = scripted(|hook, _, _| match hook {
            "started" => Err(Failure::new("never")),
            _ => Ok(()),
        });
        let actor = t.spawn("one", props).expect("the name is free");
        let ended = t.watch(&actor);
        actor.tell(say("never")).expect("room");
        t.advance(ms(10));
        actor.stop();
        t.advance(ms(1));
        assert!(ended.is_done(), "it ends at the next failure");
        assert_eq!(t.dead_letters(DeadLetterReason::Stopped), 1);
        // Nor does it keep the system from its end.
        let (props, _lines) = scripted(|hook, _, _| match hook {
            "started" => Err(Failure::new("never")),
            _ => Ok(()),
        });
        let actor = t.spawn("one", props).expect("the name is free");
        actor.tell(say("never")).expect("room");
        let before = t.elapsed();
        assert!(t.shutdown());
        assert!(t.elapsed() - before <= ms(1));
    });
}

#[test]
fn the_news_of_a_failure_goes_with_the_value_that_had_the_child() {
    for_seeds(|t| {
        let (parent, lines) = one(t, quickly());
        let (props, _) = teller();
        let child = child(
            t,
            &parent,
            "child",
            props.supervision(Supervision::resume()),
        );
        let (open, opened) = tokio::sync::oneshot::channel::<()>();
        let hold = run(move |_, cx| {
            cx.exclusive()
                .later(opened, |_, _: &mut Teller, cx| cx.reply(()))
        });
        t.tell(&parent, hold).expect("room");
        // The news waits behind the failure of the parent itself.
        t.tell(&parent, fail()).expect("room");
        t.tell(&child, fail()).expect("room");
        open.send(()).expect("it waits");
        t.advance(ms(2));
        assert_eq!(told(&lines), ["restarting: broken", "started"]);
    });
}
