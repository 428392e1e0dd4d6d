//! Actors below others: names, places, and who ends first.

use std::sync::{Arc, Mutex};

use perennial_core::{
    Actor, ActorCx, ActorRef, DeadLetterReason, Placement, Props, Receive, Received, SpawnError,
    StopReason, Supervision,
};
use perennial_testkit::TestSystem;

use crate::actor_fixture::{
    SECOND, SayOpen, Teller, child, fail, for_seeds, ms, one, quickly, run, say, scripted, teller,
    told,
};

/// In which order actors end.
type Ends = Arc<Mutex<Vec<String>>>;

/// Has children of its own, and notes its end.
struct Node {
    ends: Ends,
    depth: u32,
}

impl Node {
    fn props(ends: &Ends, depth: u32) -> Props<Self> {
        let ends = Arc::clone(ends);
        Props::new(move || Self {
            ends: Arc::clone(&ends),
            depth,
        })
        .placement(Placement::Spread)
        .supervision(quickly())
    }
}

impl Actor for Node {
    fn started(&mut self, cx: &mut ActorCx<'_, Self>) -> Result<(), perennial_core::Failure> {
        if self.depth > 0 {
            for name in ["a", "b"] {
                cx.spawn(name, Self::props(&self.ends, self.depth - 1))?;
            }
        }
        Ok(())
    }

    fn stopped(&mut self, _: &StopReason, cx: &mut ActorCx<'_, Self>) {
        let path = cx.path().to_string();
        assert!(cx.children().is_empty(), "{path} ends before its children");
        self.ends.lock().expect("no panic").push(path);
    }
}

struct Break;

impl Receive<Break> for Node {
    type Reply = ();

    fn receive(&mut self, _: Break, _: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        Err(perennial_core::Failure::new("broken"))
    }
}

/// Every path comes before that of its parent.
fn check_order(ends: &Ends, count: usize) {
    let ends = std::mem::take(&mut *ends.lock().expect("no panic"));
    assert_eq!(ends.len(), count, "{ends:?}");
    for (at, path) in ends.iter().enumerate() {
        let (parent, _) = path.rsplit_once('/').expect("a path");
        assert!(
            !ends[..at].iter().any(|end| end == parent),
            "{path} ended after its parent: {ends:?}"
        );
    }
}

#[test]
fn children_end_before_their_parents_however_deep() {
    for_seeds(|t| {
        let ends = Ends::default();
        let spawn = || {
            let root = t
                .spawn("root", Node::props(&ends, 3))
                .expect("the names of all are free");
            t.run();
            assert_eq!(t.actors(), 15);
            root
        };
        let stops: [fn(&ActorRef<Node>); 2] = [ActorRef::stop, ActorRef::stop_now];
        for stop in stops {
            let root = spawn();
            stop(&root);
            t.run();
            check_order(&ends, 15);
            assert_eq!(t.actors(), 0);
        }
        let root = spawn();
        t.tell(&root, Break).expect("room");
        // All but the root, which begins anew with fresh ones.
        check_order(&ends, 14);
        t.advance(ms(1));
        assert_eq!(t.actors(), 15);
        assert!(t.shutdown());
        check_order(&ends, 15);
    });
}

#[test]
fn a_name_is_free_again_when_its_actor_has_ended() {
    for_seeds(|t| {
        let (props, lines) = scripted(|hook, teller, cx| {
            // Whoever is told of an end can have the name at once.
            if hook == "terminated" && teller.incarnation == 1 {
                let (props, _) = teller_below();
                cx.spawn("child", props)?;
                teller.log("again");
            }
            Ok(())
        });
        let parent = t
            .spawn("one", props.placement(Placement::Worker(0)))
            .expect("a free name");
        let (props, _) = teller_below();
        let child = child(t, &parent, "child", props);
        let watched = child.clone();
        let watch = run(move |_, cx| {
            cx.watch(&watched);
            let (props, _) = teller_below();
            let taken = cx.spawn("child", props);
            assert_eq!(
                taken.err(),
                Some(SpawnError::NameTaken {
                    path: "/one/child".into()
                })
            );
            cx.reply(())
        });
        t.ask(&parent, watch).expect("it answers");
        told(&lines);
        child.stop();
        t.run();
        assert_eq!(
            told(&lines),
            ["terminated /one/child: it was stopped", "again"]
        );
        // The new one is another actor of that name.
        let found = t.actor::<Teller>("/one/child").expect("it is there");
        assert!(found != child && found.path() != child.path());
        assert_eq!(found.path().to_string(), child.path().to_string());
    });
}

fn teller_below() -> (Props<Teller>, crate::actor_fixture::Lines) {
    let (props, lines) = teller();
    (props.placement(Placement::Spread), lines)
}

#[test]
fn a_fresh_value_finds_the_names_of_its_children_free() {
    for_seeds(|t| {
        let (props, lines) = scripted(|hook, _, cx| {
            if hook == "started" {
                for name in ["a", "b", "c"] {
                    let (props, _) = teller_below();
                    cx.spawn(name, props)?;
                }
            }
            Ok(())
        });
        let parent = t.spawn("one", props).expect("a free name");
        for _ in 0..5 {
            t.tell(&parent, fail()).expect("room");
            t.advance(ms(1));
            let lines = told(&lines);
            assert_eq!(
                lines.last().map(String::as_str),
                Some("started"),
                "{lines:?}"
            );
        }
        assert_eq!(t.actors(), 4);
    });
}

#[test]
fn a_restart_waits_for_the_end_of_the_children_before_its_own_wait() {
    for_seeds(|t| {
        let (parent, lines) = one(
            t,
            Supervision::restart().backoff(SECOND, SECOND).jitter(0.0),
        );
        let (props, of_child) = teller_below();
        child(t, &parent, "child", props);
        t.tell(&parent, fail()).expect("room");
        assert_eq!(
            told(&of_child),
            ["started", "stopped: its parent stopped or restarted"]
        );
        assert_eq!(told(&lines), ["restarting: broken"]);
        t.advance(SECOND);
        assert_eq!(told(&lines), ["started"]);
    });
}

#[test]
fn a_parent_that_stops_in_order_lets_its_children_handle_what_waits() {
    for_seeds(|t| {
        let (parent, _) = one(t, quickly());
        let (props, lines) = teller_below();
        let child = child(t, &parent, "child", props);
        for number in 0..3 {
            child.tell(say(number.to_string())).expect("room");
        }
        parent.stop();
        t.run();
        assert_eq!(
            told(&lines),
            [
                "started",
                "0",
                "1",
                "2",
                "stopped: its parent stopped or restarted"
            ]
        );
    });
}

#[test]
fn a_parent_that_stops_at_once_does_not_wait_for_what_its_children_have_to_do() {
    for_seeds(|t| {
        let (parent, _) = one(t, quickly());
        let (props, lines) = teller_below();
        let props = props.supervision(Supervision::restart().backoff(SECOND, SECOND));
        let child = child(t, &parent, "child", props);
        t.tell(&child, fail()).expect("room");
        child.tell(say("never")).expect("room");
        // In order it waits for its child, which has something to do.
        parent.stop();
        t.run();
        assert!(!parent.has_ended());
        parent.stop_now();
        t.run();
        assert!(parent.has_ended() && child.has_ended());
        assert_eq!(t.dead_letters(DeadLetterReason::Stopped), 1);
        assert_eq!(told(&lines), ["started", "restarting: broken"]);
        assert_eq!(t.elapsed(), ms(0));
    });
}

#[test]
fn names_that_cannot_be_one_are_refused() {
    let t = TestSystem::new();
    let long = "n".repeat(256);
    for name in ["", "a/b", "$1", "a\nb", &long] {
        let (props, _) = teller();
        let refused = t.spawn(name, props).err();
        assert_eq!(
            refused,
            Some(SpawnError::InvalidName {
                name: name.to_owned()
            })
        );
    }
    for name in ["a", "ä $ b", "..", &"n".repeat(255)] {
        let (props, _) = teller();
        t.spawn(name, props).expect("a name");
    }
    let (props, _) = teller();
    let taken = t.spawn("a", props).expect_err("it is taken");
    assert_eq!(
        taken.to_string(),
        "an actor /a is there already; a name is free again when its actor has ended"
    );
    assert_eq!(t.actors(), 4);
}

#[test]
fn actors_without_a_name_are_called_by_numbers() {
    for_seeds(|t| {
        let (parent, _) = one(t, quickly());
        let paths = t
            .ask(
                &parent,
                run(|_, cx| {
                    let mut paths = Vec::new();
                    for _ in 0..3 {
                        let (props, _) = teller();
                        paths.push(cx.spawn_anonymous(props)?.path());
                    }
                    assert_eq!(cx.children(), paths);
                    cx.reply(paths)
                }),
            )
            .expect("it answers");
        for path in &paths {
            let path = path.to_string();
            assert!(path.starts_with("/one/$"), "{path}");
            assert!(t.actor::<Teller>(&path).is_none(), "it has no name");
        }
        assert!(paths[0] != paths[1] && paths[1] != paths[2]);
    });
}

#[test]
fn an_actor_is_found_by_its_path_and_type() {
    let t = TestSystem::new();
    let (parent, _) = one(&t, quickly());
    let (props, _) = teller();
    let child = child(&t, &parent, "child", props);
    assert_eq!(t.actor::<Teller>("/one/child"), Some(child));
    assert_eq!(t.actor::<Teller>("/one"), Some(parent));
    assert!(t.actor::<Node>("/one").is_none());
    assert!(t.actor::<Teller>("one").is_none());
    assert!(t.actor::<Teller>("/one/other").is_none());
}

#[test]
fn children_live_beside_their_parent_unless_they_are_placed_elsewhere() {
    let t = TestSystem::builder().workers(3).start();
    let (props, _) = teller();
    let parent = t
        .spawn("one", props.placement(Placement::Worker(4)))
        .expect("a free name");
    let worker = |name: &'static str, placement| {
        let (props, _) = teller();
        let child = child(&t, &parent, name, props.placement(placement));
        t.worker_of(&child)
    };
    assert_eq!(t.worker_of(&parent), 1);
    assert_eq!(worker("near", Placement::Near), 1);
    assert_eq!(worker("placed", Placement::Worker(2)), 2);
    let spread: std::collections::BTreeSet<_> = ["a", "b", "c"]
        .map(|name| worker(name, Placement::Spread))
        .into();
    assert_eq!(spread.len(), 3);
}

#[test]
fn the_children_that_have_not_ended_are_known_in_their_order() {
    for_seeds(|t| {
        let (parent, _) = one(t, quickly());
        let names = ["c", "a", "b"];
        let children: Vec<_> = names
            .iter()
            .map(|name| child(t, &parent, name, teller_below().0))
            .collect();
        let of_parent = || {
            let paths = t.ask(
                &parent,
                run(|_, cx| {
                    let children = cx.children();
                    cx.reply(children)
                }),
            );
            let paths = paths.expect("it answers").into_iter();
            paths.map(|path| path.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(of_parent(), ["/one/c", "/one/a", "/one/b"]);
        children[1].stop();
        t.run();
        assert_eq!(of_parent(), ["/one/c", "/one/b"]);
        // Nor does one that has ended keep what was sent to it.
        t.tell(&children[0], SayOpen("stashed".into()))
            .expect("room");
        children[0].stop_now();
        t.run();
        assert_eq!(of_parent(), ["/one/b"]);
        assert_eq!(t.dead_letters(DeadLetterReason::Stopped), 1);
    });
}
