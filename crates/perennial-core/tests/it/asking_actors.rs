//! Questions to actors and of actors: work outside, replies that come later, deadlines, cycles.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use perennial_core::{
    ActorRef, AskError, Cx, DeadLetterReason, Effect, Entity, EntityRef, EventSourced, Failure,
    Handle, Outside, Placement, Supervision,
};
use perennial_testkit::TestSystem;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::actor_fixture::{
    Do, SECOND, Teller, count, fail, for_seeds, ms, one, quickly, run, say, scripted, teller, told,
};

/// Keeps an actor from its messages until the sender is dropped.
fn hold(t: &TestSystem, actor: &ActorRef<Teller>) -> oneshot::Sender<()> {
    let (open, opened) = oneshot::channel();
    let hold = run(move |_, cx| {
        cx.timeout(3600 * SECOND)
            .exclusive()
            .later(opened, |_, _: &mut Teller, cx| cx.reply(()))
    });
    t.tell(actor, hold).expect("room");
    open
}

/// Another actor, on the other worker.
fn other(t: &TestSystem, name: &str) -> ActorRef<Teller> {
    let (props, _) = teller();
    t.spawn(name, props.placement(Placement::Worker(1)))
        .expect("a free name")
}

/// Is answered when the actor wants to, which it never does.
fn keep() -> Do<u32> {
    run(|_, cx| cx.keep_reply(|teller: &mut Teller, reply| teller.kept.push(reply)))
}

/// Asks another one to do something, and replies with the answer.
fn through<R: Send + 'static>(
    outside: Outside,
    target: &ActorRef<Teller>,
    message: Do<R>,
) -> Do<Result<R, AskError>> {
    let target = target.clone();
    run(move |_, _| {
        outside.ask(&target, message, |answer, teller: &mut Teller, cx| {
            teller.log("answered");
            cx.reply(answer)
        })
    })
}

fn is_unknown<R>(answer: &Result<R, AskError>) -> bool {
    matches!(answer, Err(AskError::Unknown { .. }))
}

// ---- work outside ----

#[test]
fn other_messages_are_handled_while_work_runs_outside() {
    for_seeds(|t| {
        let (actor, lines) = one(t, quickly());
        let (open, opened) = oneshot::channel::<u32>();
        let later = t.task(actor.ask(run(|_, cx| {
            cx.later(opened, |number, teller: &mut Teller, cx| {
                // It sees what has happened meanwhile.
                teller.count += number?;
                cx.reply(teller.count)
            })
        })));
        assert_eq!(t.ask(&actor, count()), Ok(1));
        t.tell(&actor, say("meanwhile")).expect("room");
        assert!(!later.is_done());
        open.send(10).expect("it waits");
        assert_eq!(later.output(), Ok(11));
        let blocking =
            run(|_, cx| cx.blocking(|| 6 * 7, |number, _: &mut Teller, cx| cx.reply(number)));
        assert_eq!(t.ask(&actor, blocking), Ok(42));
        assert_eq!(told(&lines), ["meanwhile"]);
    });
}

#[test]
fn other_messages_wait_for_work_that_is_exclusive() {
    for_seeds(|t| {
        let (actor, lines) = one(t, quickly());
        let open = hold(t, &actor);
        t.tell(&actor, say("waits")).expect("room");
        let asked = t.task(actor.ask(count()));
        // News of others wait as well, and so do timers.
        let (props, _) = teller();
        drop(props);
        t.advance(ms(100));
        assert_eq!((told(&lines).len(), actor.queue_depth()), (0, 2));
        drop(open);
        assert_eq!(asked.output(), Ok(1));
        assert_eq!(told(&lines), ["waits"]);
        // It may go on from one exclusive work to the next without being re-entered.
        let twice = run(|_, cx| {
            cx.exclusive().later(
                std::future::ready(1),
                |one: u32, teller: &mut Teller, cx| {
                    teller.log("first");
                    cx.exclusive().later(
                        std::future::ready(one + 1),
                        |two, teller: &mut Teller, cx| {
                            teller.log("second");
                            cx.reply(two)
                        },
                    )
                },
            )
        });
        let twice = actor.ask(twice).into_future();
        actor.tell(say("behind")).expect("room");
        assert_eq!(t.block_on(twice), Ok(2));
        assert_eq!(told(&lines), ["first", "second", "behind"]);
    });
}

#[test]
fn work_that_takes_too_long_or_panics_leaves_its_outcome_unknown() {
    for_seeds(|t| {
        let (actor, lines) = one(t, quickly());
        let never = |outside: Option<Outside>| {
            run(move |_, cx| {
                let then =
                    |(): (), teller: &mut Teller, cx: &mut perennial_core::ActorCx<'_, Teller>| {
                        teller.log("never");
                        cx.reply(1_u32)
                    };
                match outside {
                    Some(outside) => outside.later(std::future::pending(), then),
                    None => cx.later(std::future::pending(), then),
                }
            })
        };
        let before = t.elapsed();
        let long = 3600 * SECOND;
        assert!(is_unknown(
            &t.block_on(actor.ask(never(None)).timeout(long))
        ));
        assert_eq!(t.elapsed() - before, 60 * SECOND);
        let timeout = Outside::default().timeout(SECOND);
        assert!(is_unknown(&t.ask(&actor, never(Some(timeout)))));
        assert_eq!(t.elapsed() - before, 61 * SECOND);
        let panics = run::<u32>(|_, cx| {
            cx.later(
                async { panic!("outside") },
                |(), teller: &mut Teller, cx| {
                    teller.log("never");
                    cx.reply(1)
                },
            )
        });
        assert!(is_unknown(&t.ask(&actor, panics)));
        let panics = run::<u32>(|_, cx| {
            cx.blocking(
                || panic!("outside"),
                |(), teller: &mut Teller, cx| {
                    teller.log("never");
                    cx.reply(1)
                },
            )
        });
        assert!(is_unknown(&t.ask(&actor, panics)));
        // The actor is none the worse for it.
        assert_eq!(told(&lines), [""; 0]);
        assert_eq!(t.ask(&actor, count()), Ok(1));
    });
}

#[test]
fn exactly_as_many_futures_are_open_as_the_limit_says() {
    let t = TestSystem::builder()
        .workers(1)
        .set("system.later-limit", 2)
        .start();
    let (a, _) = one(&t, quickly());
    let b = other(&t, "b");
    let later = || {
        let (open, opened) = oneshot::channel::<()>();
        let later = run(move |_, cx| cx.later(opened, |_, _: &mut Teller, cx| cx.reply(())));
        (open, later)
    };
    let (first, of_first) = later();
    let (_second, of_second) = later();
    let done = t.task(a.ask(of_first));
    let _open = t.task(b.ask(of_second));
    for actor in [&a, &b] {
        let refused = t.ask(actor, later().1);
        assert!(matches!(
            refused,
            Err(AskError::Busy {
                what: "the number of open futures",
                ..
            })
        ));
    }
    assert_eq!(t.dead_letters(DeadLetterReason::TooManyFutures), 2);
    // Questions of actors need none of them.
    assert_eq!(
        t.ask(&a, through(Outside::default(), &b, count())),
        Ok(Ok(1))
    );
    drop(first);
    assert!(done.is_done());
    let again = t.task(a.ask(later().1));
    assert_eq!(again.output(), Ok(()));
}

#[test]
fn a_future_of_an_actor_that_has_ended_counts_until_it_ends() {
    let t = TestSystem::builder()
        .workers(1)
        .set("system.later-limit", 1)
        .start();
    let (a, _) = one(&t, quickly());
    let (open, opened) = oneshot::channel::<()>();
    let later = run(move |_, cx| cx.later(opened, |_, _: &mut Teller, cx| cx.reply(())));
    let asked = t.task(a.ask(later));
    a.stop();
    assert!(is_unknown(&asked.output()));
    let b = other(&t, "b");
    let later = || {
        run(|_, cx| {
            cx.later(std::future::ready(()), |(), _: &mut Teller, cx| {
                cx.reply(())
            })
        })
    };
    assert!(matches!(t.ask(&b, later()), Err(AskError::Busy { .. })));
    drop(open);
    t.run();
    assert_eq!(t.ask(&b, later()), Ok(()));
}

#[test]
fn what_is_open_ends_with_its_value() {
    for_seeds(|t| {
        for stop in [false, true] {
            let (actor, lines) = one(t, quickly());
            let b = other(t, "b");
            let in_later = run::<u32>(|_, cx| {
                cx.later(
                    std::future::pending::<()>(),
                    |(), teller: &mut Teller, cx| {
                        teller.log("never");
                        cx.reply(1)
                    },
                )
            });
            let in_ask = run::<u32>({
                let b = b.clone();
                move |_, cx| {
                    cx.ask(&b, keep(), |_, teller: &mut Teller, cx| {
                        teller.log("never");
                        cx.reply(1)
                    })
                }
            });
            let open = [
                t.task(actor.ask(in_later)),
                t.task(actor.ask(in_ask)),
                t.task(actor.ask(keep())),
            ];
            if stop {
                actor.stop();
            } else {
                t.tell(&actor, fail()).expect("room");
            }
            for open in open {
                assert!(is_unknown(&open.output()));
            }
            t.advance(100 * SECOND);
            assert!(!told(&lines).contains(&"never".to_owned()));
            actor.stop();
            b.stop();
            t.run();
        }
    });
}

#[test]
fn what_comes_back_for_a_value_that_is_gone_is_not_handled() {
    for_seeds(|t| {
        let (actor, lines) = one(t, quickly());
        let mut opens = Vec::new();
        let asked: Vec<_> = (0..2)
            .map(|_| {
                let (open, opened) = oneshot::channel::<()>();
                opens.push(open);
                t.task(actor.ask(run::<()>(move |_, cx| {
                    cx.later(opened, |_, _: &mut Teller, _| Err(Failure::new("broken")))
                })))
            })
            .collect();
        t.run();
        // Both come back at once; the first one that is handled costs the value.
        drop(opens);
        t.advance(ms(5));
        let mut answers: Vec<_> = asked.into_iter().map(|asked| asked.output()).collect();
        answers.sort_by_key(|answer| matches!(answer, Err(AskError::Unknown { .. })));
        assert!(matches!(
            answers[..],
            [Err(AskError::Failed { .. }), Err(AskError::Unknown { .. })]
        ));
        assert_eq!(told(&lines), ["restarting: broken", "started"]);
    });
}

// ---- answers ----

#[test]
fn whoever_asks_is_told_what_became_of_it() {
    for_seeds(|t| {
        let (actor, _) = one(t, Supervision::resume());
        assert_eq!(t.ask(&actor, count()), Ok(1));
        let no_reply = run::<u32>(|_, cx| cx.no_reply());
        assert_eq!(t.ask(&actor, no_reply), Err(AskError::NoReply));
        let unhandled = || run::<u32>(|_, cx| cx.unhandled());
        assert_eq!(t.ask(&actor, unhandled()), Err(AskError::Unhandled));
        t.tell(&actor, unhandled()).expect("room");
        assert_eq!(t.dead_letters(DeadLetterReason::Unhandled), 2);
        assert!(matches!(
            t.ask(&actor, fail()),
            Err(AskError::Failed { actor, failure }) if &*actor == "/one" && &*failure == "broken"
        ));
        let by_error = run::<u32>(|_, _| Ok("x".parse::<u32>().map(|_| unreachable!())?));
        assert!(matches!(
            t.ask(&actor, by_error),
            Err(AskError::Failed { failure, .. }) if &*failure == "invalid digit found in string"
        ));
        // Continuations are told apart in the same way.
        let later = |then: fn() -> Result<u32, Failure>| {
            run::<u32>(move |_, cx| {
                cx.later(std::future::ready(()), move |(), _: &mut Teller, cx| {
                    cx.reply(then()?)
                })
            })
        };
        assert_eq!(t.ask(&actor, later(|| Ok(7))), Ok(7));
        assert!(matches!(
            t.ask(&actor, later(|| Err(Failure::new("behind")))),
            Err(AskError::Failed { failure, .. }) if &*failure == "behind"
        ));
        assert!(matches!(
            t.ask(&actor, later(|| panic!("behind"))),
            Err(AskError::Failed { failure, .. }) if &*failure == "panicked: behind"
        ));
        actor.stop();
        t.run();
        assert_eq!(t.ask(&actor, count()), Err(AskError::Stopped));
    });
}

#[test]
fn an_actor_that_asks_gets_the_answer_or_the_error() {
    for_seeds(|t| {
        let (actor, _) = one(t, quickly());
        let b = other(t, "b");
        let ask = |message: Do<u32>| t.ask(&actor, through(Outside::default(), &b, message));
        assert_eq!(ask(count()), Ok(Ok(1)));
        assert_eq!(ask(run(|_, cx| cx.no_reply())), Ok(Err(AskError::NoReply)));
        assert_eq!(
            ask(run(|_, cx| cx.unhandled())),
            Ok(Err(AskError::Unhandled))
        );
        let failed = ask(run(|_, _| Err(Failure::new("broken"))));
        assert!(matches!(failed, Ok(Err(AskError::Failed { .. }))));
        t.advance(ms(1));
        b.stop();
        t.run();
        assert_eq!(ask(count()), Ok(Err(AskError::Stopped)));
    });
}

// ---- deadlines ----

#[test]
fn a_question_that_was_not_begun_in_time_expires_and_is_not_handled() {
    for_seeds(|t| {
        let (actor, lines) = one(t, quickly());
        let open = hold(t, &actor);
        let asked = t.task(actor.ask(say("never")).timeout(SECOND));
        t.advance(SECOND - ms(1));
        assert!(!asked.is_done());
        t.advance(ms(1));
        assert_eq!(asked.output(), Err(AskError::Expired));
        // The place is free once the actor has come to it.
        assert_eq!(actor.queue_depth(), 1);
        drop(open);
        t.run();
        assert_eq!(told(&lines), [""; 0]);
        assert_eq!(actor.queue_depth(), 0);
    });
}

#[test]
fn a_question_that_was_begun_but_not_done_in_time_is_unknown() {
    for_seeds(|t| {
        let (actor, lines) = one(t, quickly());
        let (open, opened) = oneshot::channel::<()>();
        let asked = t.task(
            actor
                .ask(run::<()>(move |_, cx| {
                    cx.later(opened, |_, teller: &mut Teller, cx| {
                        teller.log("done");
                        cx.reply(())
                    })
                }))
                .timeout(SECOND),
        );
        t.advance(SECOND);
        assert!(is_unknown(&asked.output()));
        // It goes on all the same.
        drop(open);
        t.run();
        assert_eq!(told(&lines), ["done"]);
    });
}

#[test]
fn a_question_whose_asker_has_gone_is_not_handled_unless_it_was_begun() {
    for_seeds(|t| {
        let (actor, lines) = one(t, quickly());
        let open = hold(t, &actor);
        let asked = t.task(actor.ask(say("never")));
        drop(asked);
        // Never awaited, never sent.
        drop(actor.ask(say("not sent")));
        drop(open);
        t.run();
        assert_eq!(told(&lines), [""; 0]);
    });
}

#[test]
fn an_actor_waits_for_an_answer_as_long_as_it_says() {
    for_seeds(|t| {
        let (actor, lines) = one(t, quickly());
        let b = other(t, "b");
        let start = t.elapsed();
        let at = || (t.elapsed() - start, told(&lines));
        // Begun, and not answered.
        let timeout = Outside::default().timeout(SECOND);
        let answer = t.ask(&actor, through(timeout, &b, keep()));
        assert!(is_unknown(&answer.expect("the actor answers")));
        assert_eq!(at(), (SECOND, vec!["answered".to_owned()]));
        // Not begun.
        let open = hold(t, &b);
        let answer = t.ask(&actor, through(timeout, &b, keep()));
        assert_eq!(answer, Ok(Err(AskError::Expired)));
        assert_eq!(at(), (2 * SECOND, vec!["answered".to_owned()]));
        // As long as the system's questions unless it says so.
        t.tell(&actor, through(Outside::default(), &b, keep()))
            .expect("room");
        t.advance(5 * SECOND - ms(1));
        assert_eq!(told(&lines), [""; 0]);
        t.advance(ms(1));
        assert_eq!(told(&lines), ["answered"]);
        drop(open);
        t.run();
        assert_eq!(t.state(&b, |b| b.kept.len()), 1);
    });
}

#[test]
fn an_actor_waits_no_longer_than_whoever_asked_it() {
    for_seeds(|t| {
        for outside in [Outside::default(), Outside::default().exclusive()] {
            let (actor, lines) = one(t, quickly());
            let b = other(t, "b");
            let asked = t.task(actor.ask(through(outside, &b, keep())).timeout(SECOND));
            t.advance(SECOND - ms(1));
            assert_eq!(told(&lines), [""; 0]);
            t.advance(ms(1));
            assert!(is_unknown(&asked.output()));
            // Nobody waits any more, so it does not either, and is free for others.
            assert_eq!(told(&lines), ["answered"]);
            assert_eq!(t.ask(&actor, count()), Ok(1));
            actor.stop();
            b.stop();
            t.run();
        }
    });
}

#[test]
fn the_deadline_travels_with_the_question() {
    for_seeds(|t| {
        let (actor, _) = one(t, quickly());
        let (b, c) = (other(t, "b"), other(t, "c"));
        let (props, of_c) = teller();
        let last = t.spawn("last", props).expect("a free name");
        t.run();
        told(&of_c);
        let open = hold(t, &last);
        // Over a question of an actor, a future of the next, and a question of the last but one.
        let to_last = last.clone();
        let from_c = run(move |_, cx| {
            cx.ask(
                &to_last,
                run::<u32>(|teller, cx| {
                    teller.log("never");
                    cx.reply(1)
                }),
                |answer, _: &mut Teller, cx| cx.reply(answer),
            )
        });
        let from_b = run(move |_, cx| {
            let asks = async move { c.ask(from_c).await };
            cx.later(asks, |answer, _: &mut Teller, cx| {
                cx.reply(answer.and_then(|answer| answer))
            })
        });
        let timeout = Outside::default().timeout(SECOND);
        let answer = t.ask(&actor, through(timeout, &b, from_b));
        // All of them stop waiting at the same instant; the first one may hear of the last.
        let answer = answer.and_then(|answer| answer).and_then(|answer| answer);
        assert!(
            matches!(answer, Err(AskError::Unknown { .. } | AskError::Expired)),
            "{answer:?}"
        );
        assert_eq!(t.elapsed(), SECOND);
        // The last one has not come to it, and does not handle what nobody waits for.
        t.advance(ms(1));
        drop(open);
        t.run();
        assert_eq!(told(&of_c), [""; 0]);
    });
}

#[test]
fn a_question_that_takes_too_long_may_be_given_a_longer_time_only_by_whoever_asked_first() {
    let t = TestSystem::new();
    let (actor, _) = one(&t, quickly());
    let b = other(&t, "b");
    let hour = Outside::default().timeout(3600 * SECOND);
    let asked = t.task(actor.ask(through(hour, &b, keep())));
    t.advance(5 * SECOND);
    assert!(is_unknown(&asked.output()));
    let asked = t.task(
        actor
            .ask(through(hour, &b, keep()))
            .timeout(2 * 3600 * SECOND),
    );
    t.advance(3600 * SECOND);
    assert!(matches!(asked.output(), Ok(Err(AskError::Unknown { .. }))));
}

// ---- cycles ----

/// An entity that asks an actor, on whose answer its commands wait.
#[derive(Default, Serialize, Deserialize)]
struct Asker;

impl EventSourced for Asker {
    const TYPE: &'static str = "Asker";
    type Event = ();
    type Services = ();

    fn apply(&mut self, (): &()) {}
}

struct AskActor(ActorRef<Teller>, Do<Result<u32, AskError>>);

impl Handle<AskActor> for Asker {
    type Reply = Result<u32, AskError>;

    fn handle(&self, command: AskActor, cx: &Cx<'_, Self>) -> Effect<Self, Self::Reply> {
        let AskActor(actor, message) = command;
        cx.later(async move { actor.ask(message).await }, |answer, _, cx| {
            cx.reply(answer.and_then(|answer| answer))
        })
    }
}

struct Look;

impl Handle<Look> for Asker {
    type Reply = u32;

    fn handle(&self, _: Look, cx: &Cx<'_, Self>) -> Effect<Self, u32> {
        cx.reply(1)
    }
}

/// Asks an entity in a future.
fn look(entity: EntityRef<Asker>) -> Do<Result<u32, AskError>> {
    run(move |_, cx| {
        cx.later(
            async move { entity.ask(Look).await },
            |answer, _: &mut Teller, cx| cx.reply(answer),
        )
    })
}

fn cycle(path: &str) -> AskError {
    AskError::Cycle { path: path.into() }
}

#[test]
fn an_actor_that_asks_itself_exclusively_is_told_so_at_once() {
    for_seeds(|t| {
        let (actor, _) = one(t, quickly());
        let exclusive = Outside::default().exclusive();
        let answer = t.ask(&actor, through(exclusive, &actor, count()));
        assert_eq!(answer, Ok(Err(cycle("/one -> /one"))));
        // In a future, and on a blocking thread, as well.
        for blocking in [false, true] {
            let me = actor.clone();
            let asks = run(move |_, cx| {
                let ask = async move { me.ask(count()).await };
                let then =
                    |answer, _: &mut Teller, cx: &mut perennial_core::ActorCx<'_, Teller>| {
                        cx.reply(answer)
                    };
                if blocking {
                    let work = || futures_executor::block_on(ask);
                    cx.exclusive().blocking(work, then)
                } else {
                    cx.exclusive().later(ask, then)
                }
            });
            assert_eq!(t.ask(&actor, asks), Ok(Err(cycle("/one -> /one"))));
        }
        assert_eq!(t.elapsed(), ms(0));
        // One that is not exclusive may ask itself.
        let answer = t.ask(&actor, through(Outside::default(), &actor, count()));
        assert_eq!(answer, Ok(Ok(1)));
    });
}

#[test]
fn a_cycle_over_several_actors_is_told_with_its_path() {
    for_seeds(|t| {
        let (a, _) = one(t, quickly());
        let (b, c) = (other(t, "b"), other(t, "c"));
        let exclusive = Outside::default().exclusive();
        // Only the first one waits for its answer; that it is waited for over others is enough.
        let answer = t.ask(
            &a,
            through(
                exclusive,
                &b,
                through(
                    Outside::default(),
                    &c,
                    through(Outside::default(), &a, count()),
                ),
            ),
        );
        let expected = cycle("/one -> /b -> /c -> /one");
        assert_eq!(answer, Ok(Ok(Ok(Err(expected)))));
        // Where nobody is exclusive, the way may come by again.
        let answer = t.ask(
            &a,
            through(
                Outside::default(),
                &b,
                through(exclusive, &c, through(Outside::default(), &a, count())),
            ),
        );
        assert_eq!(answer, Ok(Ok(Ok(Ok(1)))));
        assert_eq!(t.elapsed(), ms(0));
    });
}

#[test]
fn a_cycle_over_an_entity_is_told_with_its_path() {
    for seed in 0..25 {
        let t = TestSystem::builder()
            .seed(seed)
            .entity(Entity::<Asker>::new(()))
            .start();
        let (actor, _) = one(&t, quickly());
        let entity = t.entity::<Asker>("x");
        // The entity waits for the actor, which asks the entity.
        let answer = t.ask(&entity, AskActor(actor.clone(), look(entity.clone())));
        assert_eq!(answer, Ok(Err(cycle("Asker|x -> /one -> Asker|x"))));
        // The actor waits for the entity, which asks the actor.
        let (asked, back) = (entity.clone(), actor.clone());
        let exclusive = run(move |_, cx| {
            let ask = AskActor(back.clone(), through(Outside::default(), &back, count()));
            cx.exclusive().later(
                async move { asked.ask(ask).await },
                |answer, _: &mut Teller, cx| cx.reply(answer),
            )
        });
        assert_eq!(
            t.ask(&actor, exclusive),
            Ok(Ok(Err(cycle("/one -> Asker|x -> /one"))))
        );
        assert_eq!(t.elapsed(), ms(0));
        assert_eq!(t.ask(&entity, Look), Ok(1));
    }
}

#[test]
fn two_that_wait_for_each_other_by_chance_wait_no_longer_than_they_may() {
    for_seeds(|t| {
        let (a, _) = one(t, quickly());
        let b = other(t, "b");
        t.run();
        let exclusive = Outside::default().exclusive().timeout(SECOND);
        // Neither asks on behalf of the other, so nobody can know.
        let asked = [
            a.ask(through(exclusive, &b, count())).into_future(),
            b.ask(through(exclusive, &a, count())).into_future(),
        ];
        let [of_a, of_b] = asked.map(|asked| t.task(asked));
        t.advance(SECOND);
        let answers = [of_a, of_b].map(|answer| answer.output().expect("they answer"));
        let expired = answers
            .iter()
            .filter(|answer| **answer == Err(AskError::Expired));
        let handled = answers.iter().filter(|answer| answer.is_ok());
        // Either they met, or one was faster than the other.
        let (expired, handled) = (expired.count(), handled.count());
        assert!(expired + handled == 2, "{answers:?}");
        assert_eq!((t.waiting(), t.ask(&a, say("free"))), (0, Ok(())));
    });
}

// ---- several askers ----

#[test]
fn every_asker_gets_its_own_answer() {
    for_seeds(|t| {
        let answered = Arc::new(AtomicU32::new(0));
        let (props, _) = scripted(|_, _, _| Ok(()));
        let server = t.spawn("server", props).expect("a free name");
        let asked: Vec<_> = (0..50_u32)
            .map(|number| {
                let answered = Arc::clone(&answered);
                let ask = server.ask(run(move |_, cx| {
                    if number % 3 == 0 {
                        return cx
                            .later(std::future::ready(number), |number, _: &mut Teller, cx| {
                                cx.reply(number)
                            });
                    }
                    cx.reply(number)
                }));
                t.task(async move {
                    let answer = ask.await;
                    answered.fetch_add(1, Ordering::Relaxed);
                    answer
                })
            })
            .collect();
        for (number, asked) in (0..).zip(asked) {
            assert_eq!(asked.output(), Ok(number));
        }
        assert_eq!(answered.load(Ordering::Relaxed), 50);
    });
}

#[test]
fn a_wait_is_no_sum_of_the_waits_of_others() {
    let t = TestSystem::new();
    let (actor, _) = one(&t, quickly());
    let open = hold(&t, &actor);
    let asked: Vec<_> = [3, 1, 2]
        .map(|seconds| t.task(actor.ask(count()).timeout(seconds * SECOND)))
        .into();
    t.advance(Duration::from_millis(2500));
    let done: Vec<_> = asked.iter().map(|asked| asked.is_done()).collect();
    assert_eq!(done, [false, true, true]);
    drop(open);
    t.run();
    assert_eq!(t.ask(&actor, count()), Ok(2));
}

#[test]
fn a_reply_that_was_kept_comes_from_anywhere_or_its_outcome_is_unknown() {
    for_seeds(|t| {
        let (actor, _) = one(t, quickly());
        let asked = [(); 3].map(|()| t.task(actor.ask(keep())));
        let take = run(|teller: &mut Teller, cx| {
            let kept = std::mem::take(&mut teller.kept);
            cx.reply(kept)
        });
        let mut kept = t.ask(&actor, take).expect("it answers").into_iter();
        let [first, second, third] = asked;
        let mut next = || kept.next().expect("three were kept");
        let reply = next();
        assert!(!reply.is_abandoned());
        std::thread::spawn(move || reply.reply(7))
            .join()
            .expect("no panic");
        assert_eq!(first.output(), Ok(7));
        drop(next());
        assert_eq!(
            second.output(),
            Err(AskError::Unknown {
                reason: "the actor kept the reply and dropped it"
            })
        );
        // One whose asker has gone knows it.
        drop(third);
        t.advance(10 * SECOND);
        let reply = next();
        assert!(reply.is_abandoned());
        reply.reply(7);
    });
}
