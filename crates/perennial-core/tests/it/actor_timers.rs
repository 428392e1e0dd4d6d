//! Timers of actors, and the receive time-out.

use perennial_core::{Actor, ActorCx, Placement, Receive, Received, Supervision};
use perennial_testkit::TestSystem;
use tokio::sync::oneshot;

use crate::actor_fixture::{
    Do, SECOND, Say, Teller, count, fail, for_seeds, ms, one, quickly, run, say, scripted, teller,
    told,
};

/// Starts a timer that says its key.
fn start(key: &'static str, delay: u64) -> Do<()> {
    run(move |_, cx| {
        cx.timers().start_single(key, ms(delay), say(key));
        cx.reply(())
    })
}

fn repeat(key: &'static str, period: u64) -> Do<()> {
    run(move |_, cx| {
        cx.timers().start_repeated(key, ms(period), say(key));
        cx.reply(())
    })
}

fn cancel(key: &'static str) -> Do<()> {
    run(move |_, cx| {
        cx.timers().cancel(key);
        cx.reply(())
    })
}

fn is_active(key: &'static str) -> Do<bool> {
    run(move |_, cx| {
        let is_active = cx.timers().is_active(key);
        cx.reply(is_active)
    })
}

/// Keeps an actor from its messages until the sender is dropped.
fn hold(opened: oneshot::Receiver<()>) -> Do<()> {
    run(move |_, cx| {
        cx.exclusive()
            .later(opened, |_, _: &mut Teller, cx| cx.reply(()))
    })
}

#[test]
fn a_timer_sends_its_message_once_at_its_time() {
    for_seeds(|t| {
        let (actor, lines) = one(t, quickly());
        t.tell(&actor, start("a", 20)).expect("room");
        assert_eq!(t.ask(&actor, is_active("a")), Ok(true));
        t.advance(ms(19));
        assert_eq!(told(&lines), [""; 0]);
        t.advance(ms(1));
        assert_eq!(told(&lines), ["a"]);
        assert_eq!(t.ask(&actor, is_active("a")), Ok(false));
        t.advance(SECOND);
        assert_eq!(told(&lines), [""; 0]);
        // At once, but never within the handler that starts it.
        let now = run(|teller: &mut Teller, cx| {
            cx.timers().start_single("now", ms(0), say("now"));
            teller.log("first");
            cx.reply(())
        });
        t.tell(&actor, now).expect("room");
        assert_eq!(told(&lines), ["first", "now"]);
    });
}

#[test]
fn timers_of_one_instant_come_in_the_order_in_which_they_were_started() {
    for_seeds(|t| {
        let (actor, lines) = one(t, quickly());
        for key in ["c", "a", "b"] {
            t.tell(&actor, start(key, 10)).expect("room");
        }
        t.tell(&actor, start("early", 9)).expect("room");
        t.advance(ms(10));
        assert_eq!(told(&lines), ["early", "c", "a", "b"]);
    });
}

#[test]
fn a_repeated_timer_goes_on_until_it_is_cancelled() {
    for_seeds(|t| {
        let (actor, lines) = one(t, quickly());
        t.tell(&actor, repeat("r", 10)).expect("room");
        t.advance(ms(9));
        assert_eq!(told(&lines), [""; 0]);
        t.advance(ms(26));
        assert_eq!(told(&lines), ["r", "r", "r"]);
        assert_eq!(t.ask(&actor, is_active("r")), Ok(true));
        t.tell(&actor, cancel("r")).expect("room");
        t.advance(SECOND);
        assert_eq!(told(&lines), [""; 0]);
        assert_eq!(t.ask(&actor, is_active("r")), Ok(false));
    });
}

#[test]
fn a_period_below_a_millisecond_counts_as_one() {
    let t = TestSystem::new();
    let (actor, lines) = one(&t, quickly());
    t.tell(&actor, repeat("r", 0)).expect("room");
    t.advance(ms(5));
    assert_eq!(told(&lines), ["r"; 5]);
}

#[test]
fn times_are_passed_over_at_which_the_one_before_still_waits() {
    for_seeds(|t| {
        let (actor, lines) = one(t, quickly());
        let (open, opened) = oneshot::channel();
        t.tell(&actor, repeat("r", 10)).expect("room");
        t.tell(&actor, hold(opened)).expect("room");
        t.advance(ms(55));
        assert_eq!(told(&lines), [""; 0]);
        drop(open);
        t.run();
        assert_eq!(told(&lines), ["r"]);
        // The rhythm stays.
        t.advance(ms(5));
        assert_eq!(told(&lines), ["r"]);
    });
}

#[test]
fn a_timer_replaces_the_one_with_its_key() {
    for_seeds(|t| {
        let (actor, lines) = one(t, quickly());
        t.tell(&actor, start("k", 10)).expect("room");
        t.tell(&actor, repeat("other", 7)).expect("room");
        let replace = run(|_, cx| {
            cx.timers().start_single("k", ms(30), say("replaced"));
            cx.timers().start_single("other", ms(40), say("once"));
            cx.reply(())
        });
        t.tell(&actor, replace).expect("room");
        t.advance(SECOND);
        assert_eq!(told(&lines), ["replaced", "once"]);
    });
}

#[test]
fn nothing_of_a_timer_is_handled_once_it_is_cancelled_or_replaced() {
    for_seeds(|t| {
        let (actor, lines) = one(t, quickly());
        for key in ["cancelled", "replaced", "among all", "kept"] {
            t.tell(&actor, start(key, 10)).expect("room");
        }
        t.tell(&actor, repeat("repeated", 10)).expect("room");
        let (open, opened) = oneshot::channel();
        t.tell(&actor, hold(opened)).expect("room");
        // These wait before the timers fire, whose messages wait behind them then.
        t.tell(&actor, cancel("cancelled")).expect("room");
        t.tell(&actor, cancel("repeated")).expect("room");
        let replace = run(|_, cx| {
            cx.timers().start_single("replaced", SECOND, say("another"));
            cx.reply(())
        });
        t.tell(&actor, replace).expect("room");
        t.advance(ms(10));
        drop(open);
        t.run();
        assert_eq!(told(&lines), ["among all", "kept"]);
        let all = run(|_, cx| {
            cx.timers().cancel_all();
            cx.reply(())
        });
        t.tell(&actor, all).expect("room");
        t.advance(2 * SECOND);
        assert_eq!(told(&lines), [""; 0]);
    });
}

#[test]
fn timers_end_with_the_value_that_started_them() {
    for_seeds(|t| {
        let (actor, lines) = one(t, quickly());
        t.tell(&actor, start("a", 10)).expect("room");
        t.tell(&actor, repeat("b", 10)).expect("room");
        let (open, opened) = oneshot::channel();
        t.tell(&actor, hold(opened)).expect("room");
        actor.tell(fail()).expect("room");
        // They have fired, and wait behind the failure.
        t.advance(ms(10));
        drop(open);
        t.advance(SECOND);
        assert_eq!(told(&lines), ["restarting: broken", "started"]);
        assert_eq!(t.ask(&actor, is_active("b")), Ok(false));

        t.tell(&actor, repeat("b", 10)).expect("room");
        actor.stop();
        t.advance(SECOND);
        assert_eq!(told(&lines), ["stopped: it was stopped"]);
        // Nothing of them is left.
        assert_eq!(t.advance_until_idle(), ms(0));
    });
}

#[test]
fn a_timer_that_is_started_in_started_belongs_to_every_value() {
    let t = TestSystem::new();
    let (props, lines) = scripted(|hook, _, cx| {
        if hook == "started" {
            cx.timers().start_single("a", ms(10), say("a"));
        }
        Ok(())
    });
    let actor = t.spawn("one", props).expect("a free name");
    t.advance(ms(5));
    t.tell(&actor, fail()).expect("room");
    t.advance(ms(10));
    assert_eq!(told(&lines), ["started", "restarting: broken", "started"]);
    t.advance(ms(1));
    assert_eq!(told(&lines), ["a"]);
}

#[test]
fn a_timer_whose_message_fails_is_a_failure_and_does_not_come_again() {
    let t = TestSystem::new();
    let (actor, lines) = one(&t, quickly());
    let start = run(|_, cx| {
        cx.timers().start_single("bad", ms(1), fail());
        cx.reply(())
    });
    t.tell(&actor, start).expect("room");
    t.advance(SECOND);
    assert_eq!(told(&lines), ["restarting: broken", "started"]);
}

#[test]
fn a_timer_needs_no_place_in_the_mailbox() {
    let t = TestSystem::new();
    let (props, lines) = teller();
    let actor = t.spawn("one", props.mailbox(1)).expect("a free name");
    let (open, opened) = oneshot::channel();
    t.tell(&actor, start("a", 1)).expect("room");
    t.tell(&actor, hold(opened)).expect("room");
    actor.tell(say("waits")).expect("room for one");
    t.advance(ms(1));
    assert_eq!(actor.queue_depth(), 1);
    drop(open);
    t.run();
    assert_eq!(told(&lines), ["started", "waits", "a"]);
}

#[test]
fn a_timer_beyond_all_time_never_comes() {
    let t = TestSystem::new();
    let (actor, lines) = one(&t, quickly());
    let start = run(|_, cx| {
        cx.timers()
            .start_single("never", std::time::Duration::MAX, say("never"));
        cx.set_receive_timeout(std::time::Duration::MAX);
        cx.reply(())
    });
    t.tell(&actor, start).expect("room");
    t.advance(100_000 * SECOND);
    assert_eq!(told(&lines), [""; 0]);
}

// ---- the receive time-out ----

fn set_receive_timeout(after: u64) -> Do<()> {
    run(move |_, cx| {
        cx.set_receive_timeout(ms(after));
        cx.reply(())
    })
}

#[test]
fn a_receive_timeout_comes_when_nothing_was_handled_and_again_after_as_long() {
    for_seeds(|t| {
        let (actor, lines) = one(t, quickly());
        t.tell(&actor, set_receive_timeout(10)).expect("room");
        t.advance(ms(9));
        t.tell(&actor, say("a")).expect("room");
        t.advance(ms(9));
        assert_eq!(told(&lines), ["a"]);
        t.advance(ms(1));
        assert_eq!(told(&lines), ["receive time-out"]);
        t.advance(ms(10));
        assert_eq!(told(&lines), ["receive time-out"]);
        // What a timer sends is a message as any other.
        t.tell(&actor, start("b", 8)).expect("room");
        t.advance(ms(17));
        assert_eq!(told(&lines), ["b"]);
        t.advance(ms(1));
        assert_eq!(told(&lines), ["receive time-out"]);
        let cancel = run(|_, cx| {
            cx.cancel_receive_timeout();
            cx.reply(())
        });
        t.tell(&actor, cancel).expect("room");
        t.advance(SECOND);
        assert_eq!(told(&lines), [""; 0]);
    });
}

#[test]
fn a_receive_timeout_is_set_anew_and_ends_with_its_value() {
    for_seeds(|t| {
        let (actor, lines) = one(t, quickly());
        t.tell(&actor, set_receive_timeout(10)).expect("room");
        t.tell(&actor, set_receive_timeout(30)).expect("room");
        t.advance(ms(29));
        assert_eq!(told(&lines), [""; 0]);
        t.advance(ms(1));
        assert_eq!(told(&lines), ["receive time-out"]);
        t.tell(&actor, fail()).expect("room");
        t.advance(SECOND);
        assert_eq!(told(&lines), ["restarting: broken", "started"]);
        // Below a millisecond it counts as one.
        t.tell(&actor, set_receive_timeout(0)).expect("room");
        t.advance(ms(3));
        assert_eq!(told(&lines), ["receive time-out"; 3]);
    });
}

#[test]
fn a_receive_timeout_comes_while_answers_are_waited_for_that_hold_up_nobody() {
    let t = TestSystem::new();
    let (actor, lines) = one(&t, quickly());
    let later = run(|_, cx| {
        cx.set_receive_timeout(ms(10));
        cx.later(std::future::pending::<()>(), |(), _: &mut Teller, cx| {
            cx.reply(())
        })
    });
    t.tell(&actor, later).expect("room");
    t.advance(ms(10));
    assert_eq!(told(&lines), ["receive time-out"]);
}

#[test]
fn a_receive_timeout_may_stop_its_actor() {
    let t = TestSystem::new();
    let (props, lines) = scripted(|hook, _, cx| {
        match hook {
            "started" => cx.set_receive_timeout(SECOND),
            "receive_timeout" => cx.stop(),
            _ => {}
        }
        Ok(())
    });
    let props = props
        .placement(Placement::Worker(1))
        .supervision(Supervision::stop());
    let actor = t.spawn("one", props).expect("a free name");
    assert_eq!(t.ask(&actor, count()), Ok(1));
    t.advance(SECOND);
    assert!(actor.has_ended());
    assert_eq!(
        told(&lines),
        ["started", "receive time-out", "stopped: it was stopped"]
    );
}

/// Starts its timer anew with every message, as one that waits for the last of many.
#[derive(Default)]
struct Debounced {
    last: u32,
    settled: Vec<u32>,
}

impl Actor for Debounced {}

impl Receive<u32> for Debounced {
    type Reply = ();

    fn receive(&mut self, number: u32, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        self.last = number;
        cx.timers()
            .start_single("settle", ms(10), Say(number.to_string()));
        cx.reply(())
    }
}

impl Receive<Say> for Debounced {
    type Reply = ();

    fn receive(&mut self, say: Say, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        self.settled.push(say.0.parse()?);
        cx.reply(())
    }
}

#[test]
fn a_timer_that_is_started_anew_again_and_again_comes_after_the_last() {
    for_seeds(|t| {
        let actor = t
            .spawn("debounced", Debounced::default)
            .expect("a free name");
        for number in 0..100 {
            t.tell(&actor, number).expect("room");
            t.advance(ms(9));
        }
        t.advance(ms(1));
        assert_eq!(t.state(&actor, |actor| actor.settled.clone()), [99]);
    });
}

#[test]
fn a_receive_timeout_does_not_come_between_an_exclusive_question_and_its_answer() {
    for_seeds(|t| {
        let (actor, lines) = one(t, quickly());
        let (open, opened) = oneshot::channel();
        t.tell(&actor, set_receive_timeout(10)).expect("room");
        t.tell(&actor, hold(opened)).expect("room");
        t.advance(ms(95));
        assert_eq!(told(&lines), [""; 0]);
        drop(open);
        t.advance(ms(9));
        assert_eq!(told(&lines), [""; 0]);
        t.advance(ms(1));
        assert_eq!(told(&lines), ["receive time-out"]);
    });
}
