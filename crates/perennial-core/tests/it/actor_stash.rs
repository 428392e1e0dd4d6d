//! Messages that an actor puts aside.

use perennial_core::{AskError, DeadLetterReason, Supervision};
use perennial_testkit::TestSystem;
use tokio::sync::oneshot;

use crate::actor_fixture::{
    SECOND, SayOpen, Teller, count, fail, for_seeds, ms, one, open, quickly, run, say, scripted,
    teller, told,
};

fn later(text: impl Into<String>) -> SayOpen {
    SayOpen(text.into())
}

#[test]
fn stashed_messages_come_back_in_order_before_those_that_wait() {
    for_seeds(|t| {
        let (actor, lines) = one(t, quickly());
        let asked = t.task(actor.ask(later("asked")));
        for number in 0..3 {
            t.tell(&actor, later(number.to_string())).expect("room");
        }
        assert!(!asked.is_done());
        actor.tell(open()).expect("room");
        actor.tell(say("waited")).expect("room");
        t.run();
        assert_eq!(told(&lines), ["asked", "0", "1", "2", "waited"]);
        assert_eq!(asked.output(), Ok(()));
    });
}

#[test]
fn a_stash_takes_exactly_as_many_messages_as_its_bound() {
    for_seeds(|t| {
        let (props, lines) = teller();
        let actor = t.spawn("one", props.stash(2)).expect("a free name");
        for number in 0..2 {
            t.tell(&actor, later(number.to_string())).expect("room");
        }
        t.tell(&actor, later("too many")).expect("room");
        assert_eq!(t.dead_letters(DeadLetterReason::StashFull), 1);
        let busy = t.ask(&actor, later("too many"));
        assert!(matches!(
            busy,
            Err(AskError::Busy {
                what: "the actor's stash",
                ..
            })
        ));
        assert_eq!(t.dead_letters(DeadLetterReason::StashFull), 2);
        t.tell(&actor, open()).expect("room");
        assert_eq!(told(&lines), ["started", "0", "1"]);
        // None at all.
        let (props, _) = teller();
        let actor = t.spawn("none", props.stash(0)).expect("a free name");
        assert!(matches!(
            t.ask(&actor, later("one")),
            Err(AskError::Busy { .. })
        ));
    });
}

#[test]
fn those_who_do_not_wait_any_more_make_room_in_a_full_stash() {
    for_seeds(|t| {
        let (props, lines) = teller();
        let actor = t.spawn("one", props.stash(2)).expect("a free name");
        let gave_up = t.task(actor.ask(later("gave up")));
        let expired = t.task(actor.ask(later("expired")).timeout(ms(10)));
        drop(gave_up);
        t.advance(ms(10));
        assert_eq!(expired.output(), Err(AskError::Expired));
        for number in 0..2 {
            t.tell(&actor, later(number.to_string())).expect("room");
        }
        assert_eq!(t.dead_letters(DeadLetterReason::StashFull), 0);
        t.tell(&actor, open()).expect("room");
        assert_eq!(told(&lines), ["started", "0", "1"]);
        // Whoever asked knows that it was not handled, so it is no dead letter.
        assert_eq!(t.dead_letters(DeadLetterReason::Stopped), 0);
    });
}

#[test]
fn a_question_that_expires_in_the_stash_is_not_handled() {
    for_seeds(|t| {
        let (actor, lines) = one(t, quickly());
        let asked = t.task(actor.ask(later("never")).timeout(SECOND));
        t.advance(SECOND);
        assert_eq!(asked.output(), Err(AskError::Expired));
        t.tell(&actor, open()).expect("room");
        assert_eq!(told(&lines), [""; 0]);
    });
}

#[test]
fn the_stash_survives_a_failure_and_stands_before_what_waits() {
    for_seeds(|t| {
        let (props, lines) = scripted(|hook, teller, _| {
            // The fresh value takes what the first one has put aside.
            if hook == "started" && teller.incarnation > 1 {
                teller.count = 1;
            }
            Ok(())
        });
        let actor = t.spawn("one", props).expect("a free name");
        for number in 0..3 {
            t.tell(&actor, later(number.to_string())).expect("room");
        }
        actor.tell(fail()).expect("room");
        actor.tell(say("waited")).expect("room");
        t.advance(ms(1));
        assert_eq!(
            told(&lines),
            [
                "started",
                "restarting: broken",
                "started",
                "0",
                "1",
                "2",
                "waited"
            ]
        );
    });
}

#[test]
fn what_is_stashed_at_the_end_is_answered_and_counted() {
    for_seeds(|t| {
        let (actor, _) = one(t, Supervision::stop());
        let asked = t.task(actor.ask(later("asked")));
        t.tell(&actor, later("told")).expect("room");
        actor.stop();
        assert_eq!(asked.output(), Err(AskError::Stopped));
        assert_eq!(t.dead_letters(DeadLetterReason::Stopped), 2);
        assert_eq!(t.waiting(), 0);
    });
}

#[test]
fn a_stashed_message_holds_no_place_in_the_mailbox() {
    for_seeds(|t| {
        let (props, lines) = teller();
        let actor = t.spawn("one", props.mailbox(1)).expect("a free name");
        for number in 0..5 {
            t.tell(&actor, later(number.to_string()))
                .expect("the one before is stashed");
        }
        assert_eq!((actor.queue_depth(), t.waiting()), (0, 0));
        t.tell(&actor, open()).expect("room");
        assert_eq!(told(&lines).len(), 6);
    });
}

#[test]
fn only_what_is_stashed_by_then_comes_back() {
    for_seeds(|t| {
        let (actor, lines) = one(t, quickly());
        t.tell(&actor, later("first")).expect("room");
        // Puts itself aside and takes out what was there before.
        let both = run(|teller: &mut Teller, cx| {
            teller.log("both");
            cx.unstash_all();
            assert_eq!(cx.stashed(), 1);
            cx.stash(again())
        });
        t.tell(&actor, both).expect("room");
        assert_eq!(told(&lines), ["both"]);
        // The first one came back, and was put aside behind the other.
        t.tell(&actor, open()).expect("room");
        assert_eq!(told(&lines), ["again", "first"]);
    });
}

/// Says so when it comes back.
fn again() -> crate::actor_fixture::Do<()> {
    run(|teller: &mut Teller, cx| {
        teller.log("again");
        cx.reply(())
    })
}

#[test]
fn what_was_stashed_comes_behind_what_has_come_back_from_outside() {
    for_seeds(|t| {
        let (actor, lines) = one(t, quickly());
        t.tell(&actor, later("stashed")).expect("room");
        let mut opens = Vec::new();
        for number in 0..2 {
            let (open, opened) = oneshot::channel::<()>();
            opens.push(open);
            let outside = run(move |_, cx| {
                cx.later(opened, move |_, teller: &mut Teller, cx| {
                    teller.log(format!("outside {number}"));
                    teller.count = 1;
                    cx.unstash_all();
                    cx.reply(())
                })
            });
            t.tell(&actor, outside).expect("room");
        }
        // Both come back before the actor comes to the first, which takes out what is stashed.
        let (open, opened) = oneshot::channel::<()>();
        let hold = run(move |_, cx| {
            cx.exclusive()
                .later(opened, |_, _: &mut Teller, cx| cx.reply(()))
        });
        t.tell(&actor, hold).expect("room");
        drop(opens);
        t.run();
        drop(open);
        t.run();
        let mut lines = told(&lines);
        assert_eq!(lines.pop().as_deref(), Some("stashed"));
        lines.sort();
        assert_eq!(lines, ["outside 0", "outside 1"]);
    });
}

#[test]
fn a_message_may_be_stashed_after_its_future_and_is_never_called_unhandled_then() {
    for_seeds(|t| {
        let (actor, _) = one(t, quickly());
        let outside = || {
            run::<u32>(|_, cx| {
                cx.later(std::future::ready(()), |(), _: &mut Teller, cx| {
                    cx.stash(count())
                })
            })
        };
        let answered = t.task(actor.ask(outside()));
        assert!(!answered.is_done());
        let open = run(|_, cx| {
            cx.unstash_all();
            cx.reply(())
        });
        t.tell(&actor, open).expect("room");
        assert_eq!(answered.output(), Ok(1));
        // The future has run, so it may have had effects.
        let expired = t.block_on(actor.ask(outside()).timeout(ms(10)));
        assert!(matches!(expired, Err(AskError::Unknown { .. })));
        let stopped = t.task(actor.ask(outside()));
        actor.stop();
        assert!(matches!(stopped.output(), Err(AskError::Unknown { .. })));
    });
}

#[test]
fn a_start_may_take_what_waits_in_the_stash() {
    let t = TestSystem::new();
    let (props, lines) = scripted(|hook, teller, cx| {
        if hook == "receive_timeout" {
            teller.count = 1;
            cx.unstash_all();
            cx.cancel_receive_timeout();
        } else if hook == "started" {
            cx.set_receive_timeout(ms(10));
        }
        Ok(())
    });
    let actor = t.spawn("one", props).expect("a free name");
    t.tell(&actor, later("stashed")).expect("room");
    t.advance(ms(10));
    assert_eq!(told(&lines), ["started", "receive time-out", "stashed"]);
}

#[test]
fn what_came_back_first_stays_before_what_is_stashed_later() {
    for_seeds(|t| {
        let (actor, lines) = one(t, quickly());
        t.tell(&actor, later("first")).expect("room");
        // Takes out the first one and puts itself aside; the next one takes that out too.
        let (open_aside, opened) = oneshot::channel::<()>();
        let aside = run(move |_, cx| {
            cx.later(opened, |_, _: &mut Teller, cx| {
                cx.unstash_all();
                cx.stash(again())
            })
        });
        let (open_next, opened) = oneshot::channel::<()>();
        let next = run(move |_, cx| {
            cx.later(opened, |_, teller: &mut Teller, cx| {
                teller.count = 1;
                cx.unstash_all();
                cx.reply(())
            })
        });
        let (open, opened) = oneshot::channel::<()>();
        let hold = run(move |_, cx| {
            cx.exclusive()
                .later(opened, |_, _: &mut Teller, cx| cx.reply(()))
        });
        for message in [aside, next, hold] {
            t.tell(&actor, message).expect("room");
        }
        // Both have come back when the actor may go on.
        for open in [open_aside, open_next, open] {
            drop(open);
            t.run();
        }
        assert_eq!(told(&lines), ["first", "again"]);
    });
}
