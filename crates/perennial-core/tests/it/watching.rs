//! Who is told of an actor's end, and how often.

use perennial_core::{
    Actor, ActorCx, ActorRef, Failure, Placement, Props, StopReason, Supervision,
};
use perennial_testkit::TestSystem;
use tokio::sync::oneshot;

use crate::actor_fixture::{
    Do, Lines, SECOND, Teller, child, fail, for_seeds, one, quickly, run, say, scripted, teller,
    told,
};

/// Watches it.
fn watch<A: Actor>(other: &ActorRef<A>) -> Do<()> {
    let other = other.clone();
    run(move |_, cx| {
        cx.watch(&other);
        cx.reply(())
    })
}

fn unwatch<A: Actor>(other: &ActorRef<A>) -> Do<()> {
    let other = other.clone();
    run(move |_, cx| {
        cx.unwatch(&other);
        cx.reply(())
    })
}

/// Keeps an actor from its messages until the sender is used or dropped.
fn hold(t: &TestSystem, actor: &ActorRef<Teller>) -> oneshot::Sender<()> {
    let (open, opened) = oneshot::channel();
    let hold = run(move |_, cx| {
        cx.exclusive()
            .later(opened, |_, _: &mut Teller, cx| cx.reply(()))
    });
    t.tell(actor, hold).expect("room");
    open
}

/// An actor on the other worker, which has started.
fn other(
    t: &TestSystem,
    props: impl FnOnce(Props<Teller>) -> Props<Teller>,
) -> (ActorRef<Teller>, Lines) {
    let (base, lines) = teller();
    let props = props(base).placement(Placement::Worker(1));
    let actor = t.spawn("other", props).expect("the name is free");
    t.run();
    told(&lines);
    (actor, lines)
}

#[test]
fn to_watch_twice_is_to_be_told_once() {
    for_seeds(|t| {
        let (watcher, lines) = one(t, quickly());
        let (actor, _) = other(t, |props| props);
        t.tell(&watcher, watch(&actor)).expect("room");
        t.tell(&watcher, watch(&actor)).expect("room");
        actor.stop();
        t.run();
        assert_eq!(told(&lines).len(), 1);
    });
}

#[test]
fn one_that_is_watched_no_more_is_not_told_of() {
    for_seeds(|t| {
        let (watcher, lines) = one(t, quickly());
        let (actor, _) = other(t, |props| props);
        t.tell(&watcher, watch(&actor)).expect("room");
        t.tell(&watcher, unwatch(&actor)).expect("room");
        actor.stop();
        t.advance(SECOND);
        assert_eq!(told(&lines), [""; 0]);
    });
}

#[test]
fn news_that_waits_is_not_told_once_it_is_not_wanted_any_more() {
    for_seeds(|t| {
        let (watcher, lines) = one(t, quickly());
        let (actor, _) = other(t, |props| props);
        t.tell(&watcher, watch(&actor)).expect("room");
        let open = hold(t, &watcher);
        watcher.tell(unwatch(&actor)).expect("room");
        t.run();
        // The news comes while the watcher has not come to its message.
        actor.stop();
        t.run();
        drop(open);
        t.advance(SECOND);
        assert_eq!(told(&lines), [""; 0]);
    });
}

#[test]
fn one_that_is_watched_again_is_told_of_once() {
    for_seeds(|t| {
        let (watcher, lines) = one(t, quickly());
        let (actor, _) = other(t, |props| props);
        t.tell(&watcher, watch(&actor)).expect("room");
        let open = hold(t, &watcher);
        watcher.tell(watch(&actor)).expect("room");
        watcher.tell(unwatch(&actor)).expect("room");
        watcher.tell(watch(&actor)).expect("room");
        watcher.tell(watch(&actor)).expect("room");
        t.run();
        actor.stop();
        t.run();
        drop(open);
        t.advance(SECOND);
        let lines = told(&lines);
        assert!(
            lines == ["terminated /other: it was stopped"]
                || lines == ["terminated /other: it had ended before"],
            "{lines:?}"
        );
    });
}

#[test]
fn what_was_sent_before_the_end_comes_before_its_news() {
    for_seeds(|t| {
        let (watcher, lines) = one(t, quickly());
        let (actor, _) = other(t, |props| props);
        t.tell(&watcher, watch(&actor)).expect("room");
        let to = watcher.clone();
        let last_words = run(move |_, cx| {
            for number in 0..200 {
                to.tell(say(number.to_string()))?;
            }
            cx.stop();
            cx.reply(())
        });
        t.tell(&actor, last_words).expect("room");
        let mut expected: Vec<_> = (0..200).map(|number: u32| number.to_string()).collect();
        expected.push("terminated /other: it was stopped".to_owned());
        assert_eq!(told(&lines), expected);
    });
}

#[test]
fn watching_ends_with_the_value_that_watches() {
    for_seeds(|t| {
        let (watcher, lines) = one(t, quickly());
        let (actor, _) = other(t, |props| props);
        t.tell(&watcher, watch(&actor)).expect("room");
        let open = hold(t, &watcher);
        watcher.tell(fail()).expect("room");
        actor.stop();
        t.run();
        // The news waits behind the failure.
        drop(open);
        t.advance(SECOND);
        assert_eq!(told(&lines), ["restarting: broken", "started"]);

        let (actor, _) = other(t, |props| props);
        t.tell(&watcher, watch(&actor)).expect("room");
        t.tell(&watcher, fail()).expect("room");
        actor.stop();
        t.advance(SECOND);
        assert_eq!(told(&lines), ["restarting: broken", "started"]);
    });
}

#[test]
fn a_fresh_value_that_watches_again_is_told_once() {
    for_seeds(|t| {
        let (actor, _) = other(t, |props| props);
        let watched = actor.clone();
        let (props, lines) = scripted(move |hook, _, cx| {
            if hook == "started" {
                cx.watch(&watched);
            }
            Ok(())
        });
        let watcher = t
            .spawn("one", props.placement(Placement::Worker(0)))
            .expect("a free name");
        watcher.tell(fail()).expect("room");
        t.run();
        told(&lines);
        actor.stop();
        t.advance(SECOND);
        let lines = told(&lines);
        let news = lines.iter().filter(|line| line.starts_with("terminated"));
        assert_eq!(news.count(), 1, "{lines:?}");
    });
}

#[test]
fn an_actor_that_cannot_live_without_another_fails_with_its_end() {
    /// Does not say what to do about the end of one that it watches.
    struct Dependent(ActorRef<Teller>);

    impl Actor for Dependent {
        fn started(&mut self, cx: &mut ActorCx<'_, Self>) -> Result<(), Failure> {
            cx.watch(&self.0);
            Ok(())
        }
    }

    let t = TestSystem::new();
    let (actor, _) = other(&t, |props| props);
    let watched = actor.clone();
    let props = Props::new(move || Dependent(watched.clone())).supervision(Supervision::stop());
    let dependent = t.spawn("dependent", props).expect("a free name");
    let ended = t.watch(&dependent);
    assert!(!ended.is_done());
    actor.stop();
    let StopReason::Failed(failure) = ended.output().reason else {
        panic!("it failed");
    };
    assert_eq!(
        failure.to_string(),
        "/other has ended (it was stopped), which `terminated` is not overridden for"
    );
}

#[test]
fn actors_that_watch_each_other_and_themselves_all_end() {
    for_seeds(|t| {
        let (a, of_a) = one(t, quickly());
        let (b, of_b) = other(t, |props| props);
        t.tell(&a, watch(&b)).expect("room");
        t.tell(&a, watch(&a)).expect("room");
        t.tell(&b, watch(&a)).expect("room");
        a.stop();
        t.run();
        assert_eq!(told(&of_a), ["stopped: it was stopped"]);
        assert_eq!(told(&of_b), ["terminated /one: it was stopped"]);
        b.stop();
        t.run();
        assert_eq!(t.actors(), 0);
    });
}

#[test]
fn everybody_who_waits_for_an_end_is_told() {
    for_seeds(|t| {
        let (actor, _) = other(t, |props| props);
        let watchers: Vec<_> = (0..10)
            .map(|_| {
                let (props, lines) = teller();
                let watcher = t
                    .spawn_anonymous(props.placement(Placement::Spread))
                    .expect("it runs");
                t.tell(&watcher, watch(&actor)).expect("room");
                lines
            })
            .collect();
        let tasks: Vec<_> = (0..10).map(|_| t.watch(&actor)).collect();
        actor.stop();
        for task in tasks {
            assert!(matches!(task.output().reason, StopReason::Stopped));
        }
        for lines in watchers {
            assert_eq!(
                told(&lines),
                ["started", "terminated /other: it was stopped"]
            );
        }
    });
}

#[test]
fn a_watcher_is_told_once_and_why() {
    for_seeds(|t| {
        let (watcher, lines) = one(t, quickly());
        let expect = |line: &str| {
            t.advance(SECOND);
            assert_eq!(told(&lines), [line]);
        };
        let (actor, _) = other(t, |props| props);
        t.tell(&watcher, watch(&actor)).expect("room");
        actor.stop();
        expect("terminated /other: it was stopped");

        let (actor, _) = other(t, |props| props);
        t.tell(&watcher, watch(&actor)).expect("room");
        actor.stop_now();
        expect("terminated /other: it was stopped");

        let (actor, _) = other(t, |props| props.supervision(Supervision::stop()));
        t.tell(&watcher, watch(&actor)).expect("room");
        t.tell(&actor, fail()).expect("room");
        expect("terminated /other: it failed: broken");

        let (actor, _) = other(t, Props::stop_unreferenced);
        t.tell(&watcher, watch(&actor)).expect("room");
        drop(actor);
        expect("terminated /other: nobody refers to it any more");

        let (parent, _) = other(t, |props| props);
        let (props, _) = teller();
        let actor = child(t, &parent, "child", props);
        t.tell(&watcher, watch(&actor)).expect("room");
        parent.stop();
        expect("terminated /other/child: its parent stopped or restarted");

        // Also of one that ended long ago.
        t.tell(&watcher, watch(&actor)).expect("room");
        expect("terminated /other/child: it had ended before");
        t.tell(&watcher, watch(&actor)).expect("room");
        expect("terminated /other/child: it had ended before");

        let (actor, _) = other(t, |props| props);
        t.tell(&watcher, watch(&actor)).expect("room");
        let watched = t.watch(&actor);
        assert!(t.shutdown());
        assert!(matches!(watched.output().reason, StopReason::SystemStopped));
    });
}
