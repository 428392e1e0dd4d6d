//! Bounds of mailboxes and inboxes, and senders that wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use perennial_core::config::ConfigSource;
use perennial_core::{
    Actor, ActorCx, ActorRef, ActorSystem, AskError, DeadLetterReason, Placement, Props, Receive,
    Received, Recipient,
};
use perennial_testkit::{TestSystem, TestTask};
use tokio::sync::oneshot;

use crate::actor_fixture::{
    SECOND, Say, Teller, count, fail, for_seeds, ms, quickly, run, say, teller, told,
};
use crate::fixture::{in_time, until};

/// An actor on the first worker with a mailbox of this size, that has started.
fn bounded(
    t: &TestSystem,
    name: &str,
    mailbox: usize,
) -> (ActorRef<Teller>, crate::actor_fixture::Lines) {
    let (props, lines) = teller();
    let props = props
        .mailbox(mailbox)
        .placement(Placement::Worker(0))
        .supervision(quickly());
    let actor = t.spawn(name, props).expect("a free name");
    t.run();
    told(&lines);
    (actor, lines)
}

/// Keeps an actor from its messages until the sender is dropped.
fn hold(t: &TestSystem, actor: &ActorRef<Teller>) -> oneshot::Sender<()> {
    let (open, opened) = oneshot::channel();
    let hold = run(move |_, cx| {
        cx.exclusive()
            .later(opened, |_, _: &mut Teller, cx| cx.reply(()))
    });
    t.tell(actor, hold).expect("room");
    open
}

fn is_busy(refused: &Result<(), AskError>, where_: &str) -> bool {
    matches!(refused, Err(AskError::Busy { what, .. }) if *what == where_)
}

#[test]
fn a_mailbox_takes_exactly_as_many_messages_as_its_bound() {
    for_seeds(|t| {
        for mailbox in [1, 2, 7] {
            let (actor, lines) = bounded(t, &format!("m{mailbox}"), mailbox);
            let open = hold(t, &actor);
            for number in 0..mailbox {
                actor.tell(say(number.to_string())).expect("room");
                t.run();
            }
            assert!(is_busy(&actor.tell(say("one more")), "the actor's mailbox"));
            assert!(is_busy(
                &t.ask(&actor, say("one more")),
                "the actor's mailbox"
            ));
            assert_eq!(actor.queue_depth(), mailbox);
            drop(open);
            t.run();
            assert_eq!(told(&lines).len(), mailbox);
            assert_eq!((actor.queue_depth(), t.waiting()), (0, 0));
            // What was refused is no dead letter: its sender knows.
            assert_eq!(t.dead_letters(DeadLetterReason::Stopped), 0);
        }
    });
}

#[test]
fn the_settings_of_a_mailbox_are_held_within_their_range() {
    let t = TestSystem::new();
    let (props, _) = teller();
    let least = t.spawn("least", props.mailbox(0)).expect("a free name");
    least.tell(say("one")).expect("one at least");
    assert!(least.tell(say("two")).is_err());
    t.run();
    assert_eq!(t.ask(&least, count()), Ok(1));
    let (props, _) = teller();
    let debug = format!("{:?}", props.mailbox(usize::MAX).stash(usize::MAX));
    assert!(debug.contains("mailbox: 1048576"), "{debug}");
    assert!(debug.contains("stash: 1048576"), "{debug}");
}

#[test]
fn the_bound_of_an_inbox_is_that_of_entities() {
    let t = TestSystem::builder().set("system.inbox", 1).start();
    let (a, _) = bounded(&t, "a", 4);
    let open = hold(&t, &a);
    for _ in 0..4 {
        a.tell(say("waits")).expect("room in the mailbox");
    }
    assert!(is_busy(&a.tell(say("one more")), "the actor's mailbox"));
    drop(open);
    t.run();
    assert_eq!(t.ask(&a, count()), Ok(1));
}

#[test]
fn every_place_is_given_back_whatever_becomes_of_its_message() {
    for_seeds(|t| {
        let (actor, _) = bounded(t, "one", 4);
        let messages: [fn() -> crate::actor_fixture::Do<()>; 7] = [
            || run(|_, cx| cx.reply(())),
            || run(|_, cx| cx.no_reply()),
            || run(|_, cx| cx.unhandled()),
            fail,
            || run(|_, _| panic!("a place is held")),
            || {
                run(|_, cx| {
                    cx.later(std::future::ready(()), |(), _: &mut Teller, cx| {
                        cx.reply(())
                    })
                })
            },
            || {
                run(|_, cx| {
                    let again = run(|_, cx| cx.reply(()));
                    cx.stash(again)
                })
            },
        ];
        for message in messages {
            for _ in 0..3 {
                // Asked, told, and asked by one who does not wait.
                let _ = t.ask(&actor, message());
                t.tell(&actor, message()).expect("room");
                drop(actor.ask(message()).into_future());
                t.advance(10 * SECOND);
                assert_eq!((actor.queue_depth(), t.waiting()), (0, 0));
            }
        }
        for _ in 0..4 {
            actor.tell(say("not handled")).expect("room");
        }
        actor.stop_now();
        t.run();
        assert_eq!((actor.queue_depth(), t.waiting()), (0, 0));
    });
}

#[test]
fn what_an_actor_sends_itself_needs_no_place() {
    for_seeds(|t| {
        let (actor, lines) = bounded(t, "one", 1);
        let to_itself = run(|_, cx| {
            for number in 0..10 {
                cx.tell_myself(say(number.to_string()));
            }
            cx.reply(())
        });
        let asked = actor.ask(to_itself).into_future();
        assert_eq!(t.block_on(asked), Ok(()));
        let expected: Vec<_> = (0..10).map(|number| number.to_string()).collect();
        assert_eq!(told(&lines), expected);
    });
}

// ---- senders that wait ----

fn sending(t: &TestSystem, actor: &ActorRef<Teller>, text: &str) -> TestTask<Result<(), AskError>> {
    let (actor, message) = (actor.clone(), say(text));
    t.task(async move { actor.send(message).await })
}

#[test]
fn a_sender_waits_until_there_is_room() {
    for_seeds(|t| {
        let (actor, lines) = bounded(t, "one", 2);
        let open = hold(t, &actor);
        let senders: Vec<_> = (0..10)
            .map(|number| sending(t, &actor, &number.to_string()))
            .collect();
        let sent = senders.iter().filter(|sender| sender.is_done()).count();
        assert_eq!(sent, 2);
        t.advance(SECOND);
        assert!(!senders[2].is_done());
        drop(open);
        for sender in senders {
            assert_eq!(sender.output(), Ok(()));
        }
        let mut lines = told(&lines);
        assert_eq!(lines.len(), 10);
        // They wait in line.
        lines.sort();
        assert!(
            lines
                .into_iter()
                .eq((0..10).map(|number| number.to_string()))
        );
        assert_eq!((actor.queue_depth(), t.waiting()), (0, 0));
    });
}

#[test]
fn a_message_whose_sender_gives_up_was_not_sent_and_holds_no_place() {
    for_seeds(|t| {
        let (actor, lines) = bounded(t, "one", 1);
        let open = hold(t, &actor);
        actor.tell(say("first")).expect("room");
        let given_up = sending(t, &actor, "never");
        let waits = sending(t, &actor, "second");
        assert!(!given_up.is_done());
        drop(given_up);
        drop(open);
        assert_eq!(waits.output(), Ok(()));
        assert_eq!(told(&lines), ["first", "second"]);
        assert_eq!((actor.queue_depth(), t.waiting()), (0, 0));
    });
}

#[test]
fn a_sender_waits_no_longer_when_the_actor_or_the_system_ends() {
    for_seeds(|t| {
        let (actor, _) = bounded(t, "one", 1);
        let _open = hold(t, &actor);
        actor.tell(say("first")).expect("room");
        let waits = sending(t, &actor, "never");
        assert!(!waits.is_done());
        actor.stop_now();
        assert_eq!(waits.output(), Err(AskError::Stopped));

        let (actor, lines) = bounded(t, "two", 1);
        let _open = hold(t, &actor);
        actor.tell(say("first")).expect("room");
        let waits = sending(t, &actor, "never");
        assert!(!waits.is_done());
        t.shutdown();
        // It may come in before the actor ends, and is a dead letter then.
        let sent = waits.output().is_ok();
        let handled = told(&lines).contains(&"never".to_owned());
        let dead = t.dead_letters(DeadLetterReason::Stopped);
        assert!(!sent || handled || dead >= 1);
        assert_eq!(t.waiting(), 0);
    });
}

/// Counts what it gets, slowly: it lets others go first with every message.
struct Slow {
    handled: Arc<AtomicU32>,
    most: Arc<AtomicU32>,
}

impl Actor for Slow {}

impl Receive<u32> for Slow {
    type Reply = ();

    fn receive(&mut self, _: u32, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        self.handled.fetch_add(1, Ordering::Relaxed);
        let depth = u32::try_from(cx.myself().queue_depth())?;
        self.most.fetch_max(depth, Ordering::Relaxed);
        std::thread::yield_now();
        cx.reply(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_send_no_more_than_there_is_room_and_all_of_it_arrives() {
    const SENDERS: u32 = 16;
    const EACH: u32 = 300;
    let system = ActorSystem::in_memory(ConfigSource::empty())
        .set("system.workers", 2)
        .and_then(|system| system.set("system.inbox", 6))
        .expect("keys")
        .start()
        .await
        .expect("it starts");
    let (handled, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let actors: Vec<_> = (0..3)
        .map(|_| {
            let (handled, most) = (Arc::clone(&handled), Arc::clone(&most));
            let props = Props::new(move || Slow {
                handled: Arc::clone(&handled),
                most: Arc::clone(&most),
            });
            system.spawn_anonymous(props.mailbox(3)).expect("it runs")
        })
        .collect();
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let actors = actors.clone();
            tokio::spawn(async move {
                let mut sent = 0;
                for number in 0..EACH {
                    let actor = &actors[(sender + number) as usize % actors.len()];
                    // Some give up, and know that they have sent nothing.
                    if number % 7 == 0 {
                        let sending = actor.send(number);
                        if let Ok(done) = tokio::time::timeout(ms(0), sending).await {
                            sent += u32::from(done.is_ok());
                        }
                    } else {
                        actor.send(number).await.expect("it has not ended");
                        sent += 1;
                    }
                }
                sent
            })
        })
        .collect();
    let mut sent = 0;
    for sender in senders {
        sent += in_time("a sender", sender).await.expect("no panic");
    }
    until("all is handled", || handled.load(Ordering::Relaxed) == sent).await;
    let is_empty = || actors.iter().all(|actor| actor.queue_depth() == 0);
    until("every place is given back", is_empty).await;
    assert!(most.load(Ordering::Relaxed) <= 3);
    system.shutdown().await.expect("in time");
    assert_eq!(handled.load(Ordering::Relaxed), sent);
}

#[test]
fn a_recipient_refuses_as_its_actor_does() {
    for_seeds(|t| {
        let (actor, lines) = bounded(t, "one", 1);
        let recipient: Recipient<Say> = actor.recipient();
        let open = hold(t, &actor);
        recipient.tell(say("first")).expect("room");
        assert!(is_busy(&recipient.tell(say("more")), "the actor's mailbox"));
        drop(open);
        t.run();
        assert_eq!(told(&lines), ["first"]);
        actor.stop();
        t.run();
        assert_eq!(recipient.tell(say("late")), Err(AskError::Stopped));
        assert_eq!(format!("{recipient:?}"), "Recipient(/one)");
    });
}
