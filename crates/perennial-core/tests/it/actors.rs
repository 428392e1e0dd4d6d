//! Plain actors on a real system: messages, replies, failures, children, watching.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use perennial_core::config::ConfigSource;
use perennial_core::{
    Actor, ActorCx, ActorRef, ActorSystem, AskError, Failure, Receive, Received, StopReason,
    Supervision,
};
use perennial_testkit::ManualClock;

use crate::actor_fixture::{Lines, Teller, count, quickly, run, teller};
use crate::fixture::DEADLINE;

async fn system() -> ActorSystem {
    system_of(2).await
}

pub(crate) async fn system_of(workers: u32) -> ActorSystem {
    ActorSystem::in_memory(ConfigSource::empty())
        .set("system.workers", workers)
        .expect("a key")
        .start()
        .await
        .expect("a system without a store starts")
}

fn next(lines: &Lines) -> String {
    lines.recv_timeout(DEADLINE).expect("it happens")
}

async fn one(supervision: Supervision) -> (ActorSystem, ActorRef<Teller>, Lines) {
    let system = system().await;
    let (props, lines) = teller();
    let actor = system
        .spawn("one", props.supervision(supervision))
        .expect("the name is free");
    assert_eq!(next(&lines), "started");
    (system, actor, lines)
}

#[tokio::test]
async fn messages_of_one_sender_are_handled_in_their_order() {
    let (system, actor, _lines) = one(quickly()).await;
    for _ in 0..100 {
        actor.tell(count()).expect("there is room");
    }
    assert_eq!(actor.ask(count()).await, Ok(101));
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn a_failure_restarts_with_a_fresh_value_and_tells_whoever_asked() {
    let (system, actor, lines) = one(quickly()).await;
    assert_eq!(actor.ask(count()).await, Ok(1));
    let failed = actor
        .ask(run::<()>(|_, _| Err(Failure::new("broken"))))
        .await;
    let expected = AskError::Failed {
        actor: "/one".into(),
        failure: "broken".into(),
    };
    assert_eq!(failed, Err(expected));
    assert_eq!(next(&lines), "restarting: broken");
    assert_eq!(next(&lines), "started");
    let panicked = actor.ask(run::<()>(|_, _| panic!("oh"))).await;
    assert!(
        matches!(panicked, Err(AskError::Failed { failure, .. }) if &*failure == "panicked: oh")
    );
    assert_eq!(next(&lines), "restarting: panicked: oh");
    assert_eq!(actor.ask(count()).await, Ok(1));
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn an_actor_that_is_stopped_handles_what_came_before_and_refuses_the_rest() {
    let (system, actor, lines) = one(quickly()).await;
    for _ in 0..10 {
        actor.tell(count()).expect("there is room");
    }
    actor.stop();
    assert_eq!(next(&lines), "stopped: it was stopped");
    let end = actor.terminated().await;
    assert!(matches!(
        end.reason,
        StopReason::Stopped | StopReason::NotFound
    ));
    assert_eq!(actor.ask(count()).await, Err(AskError::Stopped));
    assert!(system.actor::<Teller>("/one").is_none());
    let (props, _lines) = teller();
    system.spawn("one", props).expect("the name is free again");
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn children_end_before_their_parent_and_watchers_are_told_once() {
    let (system, parent, lines) = one(quickly()).await;
    let (props, child_lines) = teller();
    let child = parent
        .ask(run(move |_, cx| {
            let child = cx.spawn("child", props)?;
            cx.watch(&child);
            cx.reply(child)
        }))
        .await
        .expect("it answers");
    assert_eq!(child.path().to_string(), "/one/child");
    assert_eq!(next(&child_lines), "started");
    child.stop();
    assert_eq!(next(&child_lines), "stopped: it was stopped");
    assert_eq!(next(&lines), "terminated /one/child: it was stopped");
    // Also of one that has ended before.
    let again = child.clone();
    parent
        .tell(run(move |_, cx| {
            cx.watch(&again);
            cx.reply(())
        }))
        .expect("there is room");
    assert_eq!(next(&lines), "terminated /one/child: it had ended before");
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn replies_come_later_while_other_messages_are_handled() {
    let (system, actor, _lines) = one(quickly()).await;
    let (open, opened) = tokio::sync::oneshot::channel::<u32>();
    let later = actor.ask(run(move |_, cx| {
        cx.later(opened, |output, teller: &mut Teller, cx| {
            teller.count += output?;
            cx.reply(teller.count)
        })
    }));
    let later = tokio::spawn(later.into_future());
    let asked = actor.clone();
    let through = actor.ask(run(move |_, cx| {
        // An actor may ask itself as long as it is not exclusive.
        cx.ask(&asked, count(), |count, _: &mut Teller, cx| cx.reply(count))
    }));
    assert_eq!(through.await, Ok(Ok(1)));
    let kept = actor.ask(run(|_, cx| {
        cx.keep_reply(|teller: &mut Teller, reply| teller.kept.push(reply))
    }));
    let kept = tokio::spawn(kept.into_future());
    assert_eq!(actor.ask(count()).await, Ok(2));
    open.send(10).expect("it waits");
    assert_eq!(later.await.expect("no panic"), Ok(12));
    let give = run(|teller: &mut Teller, cx| {
        for reply in teller.kept.drain(..) {
            reply.reply(7);
        }
        cx.reply(())
    });
    actor.ask(give).await.expect("it answers");
    assert_eq!(kept.await.expect("no panic"), Ok(7));
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn an_ask_that_waits_for_itself_fails_at_once_with_its_path() {
    let (system, a, _lines) = one(quickly()).await;
    let (props, _lines_of_b) = teller();
    let b = system.spawn("b", props).expect("the name is free");
    let (asked, back) = (b.clone(), a.clone());
    let answer = a
        .ask(run(move |_, cx| {
            let through = run(move |_, cx| {
                cx.ask(&back, count(), |answer, _: &mut Teller, cx| {
                    cx.reply(answer)
                })
            });
            cx.exclusive()
                .ask(&asked, through, |answer, _: &mut Teller, cx| {
                    cx.reply(answer)
                })
        }))
        .await;
    let cycle = AskError::Cycle {
        path: "/one -> /b -> /one".into(),
    };
    assert_eq!(answer, Ok(Ok(Err(cycle))));
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_an_actor_that_waits_before_it_begins_anew() {
    let hour = Duration::from_secs(3600);
    let (system, actor, lines) = one(Supervision::restart().backoff(hour, hour)).await;
    // A child of another one, whose failure comes while the system stops.
    let (props, _lines_of_parent) = teller();
    let parent = system.spawn("parent", props).expect("the name is free");
    let (props, _lines_of_child) = teller();
    let child = parent
        .ask(run(move |_, cx| {
            let props = props.supervision(Supervision::restart().backoff(hour, hour));
            let child = cx.spawn("child", props)?;
            cx.reply(child)
        }))
        .await
        .expect("it answers");
    let fail = || run::<()>(|_, _| Err(Failure::new("broken")));
    actor.tell(fail()).expect("there is room");
    assert_eq!(next(&lines), "restarting: broken");
    let waiting = actor.ask(count()).into_future();
    let (release, held) = mpsc::channel::<()>();
    child
        .tell(run(move |_, _| {
            let _ = held.recv_timeout(DEADLINE);
            Err::<perennial_core::Answer<_, ()>, _>(Failure::new("broken"))
        }))
        .expect("there is room");
    let late = child.ask(count()).into_future();
    let stopping = tokio::spawn({
        let system = system.clone();
        async move { system.shutdown().await }
    });
    let answer = tokio::time::timeout(DEADLINE, waiting).await;
    assert_eq!(answer, Ok(Err(AskError::Stopped)));
    drop(release);
    let answer = tokio::time::timeout(DEADLINE, late).await;
    assert_eq!(answer, Ok(Err(AskError::Stopped)));
    stopping.await.expect("no panic").expect("in time");
}

/// An exclusive future keeps everything out, and so also the receive time-out.
#[tokio::test]
async fn no_receive_timeout_comes_while_an_exclusive_future_is_open() {
    struct Waiting {
        log: mpsc::Sender<&'static str>,
    }
    impl Actor for Waiting {
        fn receive_timeout(&mut self, _: &mut ActorCx<'_, Self>) -> Result<(), Failure> {
            self.log.send("timed out")?;
            Ok(())
        }
    }
    struct WaitFor(tokio::sync::oneshot::Receiver<()>);
    impl Receive<WaitFor> for Waiting {
        type Reply = ();
        fn receive(&mut self, wait: WaitFor, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
            cx.set_receive_timeout(Duration::from_secs(1));
            let waited = cx.exclusive().timeout(Duration::MAX);
            waited.later(wait.0, |_, waiting: &mut Self, cx| {
                waiting.log.send("waited")?;
                cx.reply(())
            })
        }
    }
    let clock = ManualClock::new();
    let system = ActorSystem::in_memory(ConfigSource::empty())
        .set("system.workers", 1)
        .expect("a key")
        .clock(Arc::new(clock.clone()))
        .start()
        .await
        .expect("a system without a store starts");
    let (log, lines) = mpsc::channel();
    let waiting = system.spawn("waiting", move || Waiting { log: log.clone() });
    let waiting = waiting.expect("the name is free");
    let (props, _lines) = teller();
    let bystander = system.spawn("bystander", props).expect("the name is free");
    let pass = async || {
        clock.advance(Duration::from_secs(5));
        // The first answer has the worker look at its clock.
        for _ in 0..2 {
            bystander.ask(count()).await.expect("it answers");
        }
    };
    let (done, wait) = tokio::sync::oneshot::channel();
    waiting.tell(WaitFor(wait)).expect("there is room");
    for _ in 0..3 {
        pass().await;
    }
    assert!(lines.try_recv().is_err(), "it is not re-entered");
    done.send(()).expect("it waits");
    assert_eq!(lines.recv_timeout(DEADLINE), Ok("waited"));
    pass().await;
    assert_eq!(lines.recv_timeout(DEADLINE), Ok("timed out"));
    system.shutdown().await.expect("in time");
}
