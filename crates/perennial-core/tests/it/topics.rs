//! Topics and the event stream: who gets what, what happens when there is no room, and what the
//! system publishes itself.

use std::sync::mpsc;
use std::time::Duration;

use futures_util::StreamExt;
use perennial_core::{
    Actor, ActorCx, ActorRef, ActorSystem, AskError, Backlog, Cx, DeadLetter, DeadLetterReason,
    Durable, DurableState, Effect, Entity, Failure, Handle, Overflow, Props, Published, Receive,
    Received, StateChange, Subscription, SubscriptionEnd, Supervision, Topic, UnhandledCommand,
};
use serde::{Deserialize, Serialize};

use crate::actors::system_of;
use crate::fixture::{
    Bed, DEADLINE, Entry, Ledger, Note, Read, hold_writes, id, in_time, ledger, log, log_where,
    persist_failure, run, send, until,
};

/// With more workers than a test holds up at once.
async fn system() -> ActorSystem {
    system_of(4).await
}

/// Hands on what it gets, unless it is held up.
struct Listener {
    got: mpsc::Sender<u32>,
    topic: Topic<u32>,
    backlog: Backlog,
}

impl Actor for Listener {
    fn started(&mut self, cx: &mut ActorCx<'_, Self>) -> Result<(), Failure> {
        self.topic.subscribe(cx.myself(), self.backlog)?;
        Ok(())
    }
}

impl Receive<u32> for Listener {
    type Reply = ();

    fn receive(&mut self, number: u32, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        self.got.send(number).expect("the test listens");
        cx.reply(())
    }
}

/// Keeps the actor from everything else until its other end is dropped or told something.
struct HoldUp(mpsc::Receiver<Result<(), Failure>>);

impl Receive<HoldUp> for Listener {
    type Reply = ();

    fn receive(&mut self, hold: HoldUp, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        match hold.0.recv_timeout(DEADLINE) {
            Ok(Err(failure)) => Err(failure),
            _ => cx.reply(()),
        }
    }
}

struct Ping;

impl Receive<Ping> for Listener {
    type Reply = ();

    fn receive(&mut self, _: Ping, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        cx.reply(())
    }
}

fn listen(
    system: &ActorSystem,
    topic: &Topic<u32>,
    backlog: Backlog,
) -> (ActorRef<Listener>, mpsc::Receiver<u32>) {
    let (got, numbers) = mpsc::channel();
    let topic = topic.clone();
    let props = Props::new(move || Listener {
        got: got.clone(),
        topic: topic.clone(),
        backlog,
    })
    .supervision(Supervision::restart().backoff(MS, MS));
    let actor = system.spawn_anonymous(props).expect("the system runs");
    (actor, numbers)
}

const MS: Duration = Duration::from_millis(1);

/// Occupies the actor, which has subscribed by then.
async fn hold_up(actor: &ActorRef<Listener>) -> mpsc::Sender<Result<(), Failure>> {
    in_time("the actor", actor.ask(Ping).into_future())
        .await
        .expect("it answers");
    let (release, held) = mpsc::channel();
    actor.tell(HoldUp(held)).expect("there is room");
    until("it is held up", || actor.queue_depth() == 0).await;
    release
}

fn all(numbers: &mpsc::Receiver<u32>, count: usize) -> Vec<u32> {
    (0..count)
        .map(|_| numbers.recv_timeout(DEADLINE).expect("it comes"))
        .collect()
}

async fn next<M>(subscription: &mut Subscription<M>) -> Option<M> {
    in_time("a message", subscription.recv()).await
}

#[tokio::test]
async fn every_subscriber_gets_every_message_of_a_publisher_in_order() {
    let system = system().await;
    let topic = system.topic::<u32>("numbers");
    topic.publish(0).expect("nobody has to be there");
    let backlog = Backlog::new(10_000, Overflow::DropNew);
    let (actor, numbers) = listen(&system, &topic, backlog);
    actor.ask(Ping).await.expect("it has subscribed");
    let mut stream = topic.stream(backlog);
    let publishers: Vec<_> = (0..4_u32)
        .map(|publisher| {
            let topic = system.topic::<u32>("numbers");
            std::thread::spawn(move || {
                for number in 0..1000 {
                    topic.publish(publisher * 1000 + number).expect("it runs");
                }
            })
        })
        .collect();
    for publisher in publishers {
        publisher.join().expect("no panic");
    }
    let got = all(&numbers, 4000);
    let streamed: Vec<u32> = stream.by_ref().take(4000).collect().await;
    for seen in [&got, &streamed] {
        for publisher in 0..4 {
            let of_one = seen.iter().filter(|number| **number / 1000 == publisher);
            assert!(of_one.copied().eq(publisher * 1000..(publisher + 1) * 1000));
        }
    }
    let status = topic.status();
    assert_eq!((status.published, status.lost), (4000, 0));
    assert_eq!(status.subscribers.len(), 2);
    assert_eq!(stream.lost(), 0);
    assert!(numbers.try_recv().is_err() && stream.try_recv().is_none());
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn a_full_stream_loses_exactly_what_it_has_chosen() {
    let system = system().await;
    let topic = system.topic::<u32>("numbers");
    let stream = |overflow| topic.stream(Backlog::new(3, overflow));
    let mut new = stream(Overflow::DropNew);
    let mut old = stream(Overflow::DropOld);
    let mut end = stream(Overflow::End);
    for number in 1..=3 {
        topic.publish(number).expect("it runs");
    }
    assert_eq!((new.lost(), old.lost(), end.lost()), (0, 0, 0));
    assert_eq!(end.end(), None);
    for number in 4..=5 {
        topic.publish(number).expect("it runs");
    }
    assert_eq!((new.lost(), old.lost(), end.lost()), (2, 2, 1));
    assert_eq!(end.end(), Some(SubscriptionEnd::Overflow));
    assert_eq!(topic.status().lost, 5);
    assert_eq!(system.stats().lost_by_subscribers, 5);
    assert_eq!(topic.status().subscribers.len(), 2);
    for (stream, expected) in [(&mut new, 1..=3), (&mut old, 3..=5), (&mut end, 1..=3)] {
        for number in expected {
            assert_eq!(next(stream).await, Some(number));
        }
    }
    // One that has ended says so once nothing waits any more.
    assert_eq!(next(&mut end).await, None);
    topic.publish(6).expect("it runs");
    assert_eq!(next(&mut new).await, Some(6));
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn losses_are_counted_in_metrics() {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    let system = system().await;
    let topic = system.topic::<u32>("numbers");
    let new = topic.stream(Backlog::new(1, Overflow::DropNew));
    let old = topic.stream(Backlog::new(1, Overflow::DropOld));
    let recorder = DebuggingRecorder::new();
    metrics::with_local_recorder(&recorder, || {
        for number in 0..3 {
            topic.publish(number).expect("it runs");
        }
    });
    let mut seen: Vec<(String, u64)> = recorder
        .snapshotter()
        .snapshot()
        .into_vec()
        .into_iter()
        .map(|(key, _, _, value)| {
            let labels: Vec<&str> = key.key().labels().map(|label| label.value()).collect();
            let DebugValue::Counter(count) = value else {
                panic!("{value:?} is no counter");
            };
            (format!("{} {}", key.key().name(), labels.join(" ")), count)
        })
        .collect();
    seen.sort();
    let name = "perennial_topic_lost_total";
    let expected = [
        (format!("{name} drop-new"), 2),
        (format!("{name} drop-old"), 2),
    ];
    assert_eq!(seen, expected);
    drop((new, old));
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn a_full_actor_loses_exactly_what_it_has_chosen_and_its_mailbox_stays_free() {
    let system = system().await;
    let topic = system.topic::<u32>("numbers");
    let cases = [
        (Overflow::DropNew, vec![1, 2, 3]),
        (Overflow::DropOld, vec![3, 4, 5]),
        (Overflow::End, vec![1, 2, 3]),
    ];
    let mut held = Vec::new();
    for (overflow, expected) in cases {
        let (actor, numbers) = listen(&system, &topic, Backlog::new(3, overflow));
        let release = hold_up(&actor).await;
        held.push((actor, numbers, release, expected));
    }
    for number in 1..=5 {
        topic.publish(number).expect("it runs");
    }
    assert_eq!(topic.status().lost, 5);
    for (actor, numbers, release, expected) in held {
        assert_eq!(actor.queue_depth(), 0, "nothing waits in the mailbox");
        drop(release);
        actor.ask(Ping).await.expect("it answers");
        // What was asked last is handled last.
        assert_eq!(numbers.try_iter().collect::<Vec<_>>(), expected);
    }
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn a_publisher_waits_for_who_wants_it_and_nobody_gets_a_message_that_was_refused() {
    let system = system().await;
    let topic = system.topic::<u32>("numbers");
    let mut other = topic.stream(Backlog::new(100, Overflow::DropNew));
    let mut stream = topic.stream(Backlog::new(2, Overflow::Wait));
    let (actor, numbers) = listen(&system, &topic, Backlog::new(2, Overflow::Wait));
    let release = hold_up(&actor).await;
    topic.publish(1).expect("there is room");
    topic.publish(2).expect("there is room");
    let refused = topic.publish(3);
    assert!(matches!(refused, Err(AskError::Busy { .. })), "{refused:?}");
    let (sender, message) = (topic.clone(), 4);
    let sending = tokio::spawn(async move { sender.send(message).await });
    // One of two places is not enough.
    assert_eq!(next(&mut stream).await, Some(1));
    assert!(matches!(topic.publish(5), Err(AskError::Busy { .. })));
    assert!(!sending.is_finished());
    drop(release);
    in_time("the publisher", sending)
        .await
        .expect("no panic")
        .expect("it runs");
    assert_eq!(all(&numbers, 3), [1, 2, 4]);
    assert_eq!(next(&mut stream).await, Some(2));
    assert_eq!(next(&mut stream).await, Some(4));
    for number in [1, 2, 4] {
        assert_eq!(next(&mut other).await, Some(number));
    }
    assert!(other.try_recv().is_none());
    assert_eq!(topic.status().lost, 0);
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn a_publisher_does_not_wait_for_who_has_gone() {
    let system = system().await;
    let topic = system.topic::<u32>("numbers");
    let stream = topic.stream(Backlog::new(1, Overflow::Wait));
    topic.publish(1).expect("there is room");
    let sender = topic.clone();
    let sending = tokio::spawn(async move { sender.send(2).await });
    until("it waits", || topic.publish(3).is_err()).await;
    drop(stream);
    in_time("the publisher", sending)
        .await
        .expect("no panic")
        .expect("it runs");
    assert!(!topic.has_subscribers());
    // A publisher that gives up leaves no place taken.
    let mut stream = topic.stream(Backlog::new(1, Overflow::Wait));
    let full = topic.stream(Backlog::new(1, Overflow::Wait));
    topic.publish(4).expect("there is room");
    assert_eq!(next(&mut stream).await, Some(4));
    let gave_up = tokio::time::timeout(MS, topic.send(5)).await;
    assert!(gave_up.is_err(), "the other one is full");
    drop(full);
    topic.publish(6).expect("there is room");
    assert_eq!(next(&mut stream).await, Some(6));
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn a_subscription_outlives_restarts_of_its_actor_and_ends_with_it() {
    let system = system().await;
    let topic = system.topic::<u32>("numbers");
    let backlog = Backlog::new(10, Overflow::DropNew);
    let (actor, numbers) = listen(&system, &topic, backlog);
    let release = hold_up(&actor).await;
    topic.publish(1).expect("it runs");
    topic.publish(2).expect("it runs");
    release
        .send(Err(Failure::new("it restarts")))
        .expect("it is held up");
    // It subscribes again when it starts, and gets everything once all the same.
    assert_eq!(all(&numbers, 2), [1, 2]);
    topic.publish(3).expect("it runs");
    assert_eq!(all(&numbers, 1), [3]);
    assert_eq!(topic.status().subscribers.len(), 1);
    assert!(topic.is_subscribed(&actor));
    let release = hold_up(&actor).await;
    topic.publish(4).expect("it runs");
    actor.stop_now();
    drop(release);
    in_time("its end", actor.terminated()).await;
    until("it is taken off", || !topic.has_subscribers()).await;
    // What a subscriber did not live to handle is no dead letter.
    let dead: u64 = system.dead_letters().iter().map(|(_, count)| count).sum();
    assert_eq!(dead, 0);
    let again = topic.subscribe(&actor, backlog);
    assert_eq!(again, Ok(()));
    until("it is taken off again", || !topic.has_subscribers()).await;
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn whoever_subscribes_again_gets_every_message_once_under_the_newer_backlog() {
    let system = system().await;
    let topic = system.topic::<u32>("numbers");
    let (actor, numbers) = listen(&system, &topic, Backlog::new(1, Overflow::DropNew));
    let release = hold_up(&actor).await;
    topic.publish(1).expect("it runs");
    topic.publish(2).expect("it runs");
    topic
        .subscribe(&actor, Backlog::new(2, Overflow::DropNew))
        .expect("it runs");
    for number in 3..=5 {
        topic.publish(number).expect("it runs");
    }
    drop(release);
    actor.ask(Ping).await.expect("it answers");
    assert_eq!(numbers.try_iter().collect::<Vec<_>>(), [1, 3, 4]);
    assert!(topic.unsubscribe(&actor));
    assert!(!topic.unsubscribe(&actor));
    topic.publish(6).expect("it runs");
    actor.ask(Ping).await.expect("it answers");
    assert!(numbers.try_recv().is_err());
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn topics_have_a_name_and_a_type_and_the_event_stream_a_type_alone() {
    let system = system().await;
    let backlog = Backlog::default();
    let mut numbers = system.topic::<u32>("a").stream(backlog);
    let mut texts = system.topic::<String>("a").stream(backlog);
    let mut others = system.topic::<u32>("b").stream(backlog);
    let mut events = system.event_stream().stream::<u32>(backlog);
    system.topic("a").publish(1_u32).expect("it runs");
    system.topic("a").publish("text".to_owned()).expect("runs");
    system.topic("b").publish(2_u32).expect("it runs");
    system.event_stream().publish(3_u32).expect("it runs");
    system.event_stream().publish(4_u64).expect("it runs");
    assert_eq!(next(&mut numbers).await, Some(1));
    assert_eq!(next(&mut texts).await.as_deref(), Some("text"));
    assert_eq!(next(&mut others).await, Some(2));
    assert_eq!(next(&mut events).await, Some(3));
    system.shutdown().await.expect("in time");
    assert_eq!(next(&mut numbers).await, None);
    assert_eq!(numbers.end(), Some(SubscriptionEnd::SystemStopped));
    assert_eq!(next(&mut events).await, None);
    let topic = system.topic::<u32>("a");
    assert_eq!(topic.publish(5), Err(AskError::Stopped));
    assert_eq!(topic.send(5).await, Err(AskError::Stopped));
    let mut late = topic.stream(backlog);
    assert_eq!(next(&mut late).await, None);
}

#[tokio::test]
async fn dead_letters_are_published_and_unhandled_ones_with_them() {
    let system = system().await;
    let mut letters = system
        .event_stream()
        .stream::<DeadLetter>(Backlog::default());
    let topic = system.topic::<u32>("numbers");
    let (actor, _numbers) = listen(&system, &topic, Backlog::default());
    let release = hold_up(&actor).await;
    actor.tell(7_u32).expect("there is room");
    actor.stop_now();
    drop(release);
    let letter = next(&mut letters).await.expect("the system runs");
    assert_eq!(letter.to, actor.path());
    assert_eq!(letter.message, "u32");
    assert_eq!(letter.reason, DeadLetterReason::Stopped);

    // One that cannot handle this news either brings no further news.
    let deaf = system.spawn("deaf", || Deaf).expect("the system runs");
    system
        .event_stream()
        .subscribe::<DeadLetter>(&deaf, Backlog::default())
        .expect("it runs");
    deaf.tell(Shout).expect("there is room");
    let letter = next(&mut letters).await.expect("the system runs");
    assert_eq!(letter.reason, DeadLetterReason::Unhandled);
    let unhandled = || {
        let counts = system.dead_letters();
        let of_reason = |(reason, _): &&_| *reason == DeadLetterReason::Unhandled;
        counts.iter().find(of_reason).map(|(_, count)| *count)
    };
    until("the news is counted", || unhandled() == Some(2)).await;
    assert_eq!(deaf.ask(Shout).await, Err(AskError::Unhandled));
    until("nothing more comes", || unhandled() == Some(4)).await;
    system.shutdown().await.expect("in time");
}

/// Handles nothing.
struct Deaf;

impl Actor for Deaf {}

impl Receive<DeadLetter> for Deaf {
    type Reply = ();

    fn receive(&mut self, _: DeadLetter, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        cx.unhandled()
    }
}

struct Shout;

impl Receive<Shout> for Deaf {
    type Reply = ();

    fn receive(&mut self, _: Shout, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        cx.unhandled()
    }
}

#[tokio::test]
async fn as_many_dead_letters_are_logged_as_the_settings_say() {
    log();
    let system = Bed::new()
        .start(&[
            ("system.dead-letter-log-lines", "2"),
            ("system.dead-letter-log-interval", "1h"),
        ])
        .await;
    let deaf = system.spawn("deaf-to-the-log", || Deaf).expect("it runs");
    for _ in 0..5 {
        assert_eq!(deaf.ask(Shout).await, Err(AskError::Unhandled));
    }
    assert_eq!(log_where("actor", "/deaf-to-the-log").len(), 2);
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn unhandled_commands_of_entities_are_published() {
    let system = Bed::new().start(&[]).await;
    let mut unhandled = system
        .event_stream()
        .stream::<UnhandledCommand>(Backlog::default());
    let ledger = system.entity::<Ledger>("a");
    let answer = send(&ledger, run(|_, cx| cx.unhandled::<()>())).answer();
    assert_eq!(answer.await, Err(AskError::Unhandled));
    let told = next(&mut unhandled).await.expect("the system runs");
    assert_eq!(told.persistence_id, id("a"));
    assert!(told.command.contains("Run"), "{}", told.command);
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn an_entity_that_subscribes_gets_messages_as_commands() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let topic = system.topic::<Note1>("notes");
    let ledger = system.entity::<Ledger>("a");
    topic
        .subscribe(&ledger, Backlog::new(2, Overflow::DropNew))
        .expect("it runs");
    for number in [1, 2] {
        topic.publish(Note1(number)).expect("it runs");
    }
    until("both are stored", || bed.stored("a").len() == 2).await;
    assert_eq!(send(&ledger, Read).answer().await, Ok(vec![1, 2]));
    assert!(topic.unsubscribe(&ledger));
    let nowhere = system.entity::<Ledger>("no|id");
    let refused = topic.subscribe(&nowhere, Backlog::default());
    assert!(
        matches!(refused, Err(AskError::InvalidId(_))),
        "{refused:?}"
    );
    system.shutdown().await.expect("in time");
}

#[derive(Clone)]
struct Note1(u64);

impl Handle<Note1> for Ledger {
    type Reply = ();

    fn handle(&self, command: Note1, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        cx.persist([Entry::Noted(command.0)]).no_reply()
    }
}

fn entries(system: &ActorSystem) -> Subscription<Published<Entry>> {
    system.event_stream().stream(Backlog::default())
}

#[tokio::test]
async fn events_are_published_once_they_are_stored_in_the_order_of_their_entity() {
    let bed = Bed::new();
    let system = bed.start_with(ledger().publish_events(), &[]).await;
    let mut events = entries(&system);
    let mut twice = entries(&system);
    let release = hold_writes(&bed.faults);
    let ledger = system.entity::<Ledger>("a");
    let first = send(&ledger, Note(1));
    let several = send(
        &ledger,
        run(|_, cx| {
            cx.persist([Entry::Noted(2), Entry::Noted(3)])
                .reply(|ledger| ledger.notes.clone())
        }),
    );
    until("a write is under way", || bed.calls.writing.now() > 0).await;
    assert!(events.try_recv().is_none(), "nothing is stored yet");
    release.open();
    assert_eq!(first.answer().await, Ok(vec![1]));
    assert_eq!(several.answer().await, Ok(vec![1, 2, 3]));
    for events in [&mut events, &mut twice] {
        let rows = bed.rows("a");
        for (row, number) in rows.iter().zip(1..=3_u64) {
            let published = next(events).await.expect("the system runs");
            assert_eq!(published.persistence_id, id("a"));
            assert_eq!(published.seq_nr.value(), number);
            assert_eq!(*published.event, Entry::Noted(number));
            assert_eq!(published.seq_nr, row.seq_nr);
            assert_eq!(published.timestamp, row.timestamp);
        }
        assert_eq!(rows.len(), 3);
    }
    system.shutdown().await.expect("in time");
}

#[tokio::test]
async fn nothing_is_published_of_a_write_that_failed_or_of_a_recovery() {
    let bed = Bed::new();
    let system = bed.start_with(ledger().publish_events(), &[]).await;
    let mut events = entries(&system);
    let ledger = system.entity::<Ledger>("a");
    assert_eq!(send(&ledger, Note(1)).answer().await, Ok(vec![1]));
    // Another writer takes the next number, so that the write is refused.
    bed.write_foreign("a", 2, vec![Entry::Noted(20)]).await;
    persist_failure(send(&ledger, Note(2)).answer().await);
    assert_eq!(send(&ledger, Note(3)).answer().await, Ok(vec![1, 20, 3]));
    let mut seen = Vec::new();
    for _ in 0..2 {
        let event = next(&mut events).await.expect("the system runs");
        seen.push((event.seq_nr.value(), (*event.event).clone()));
    }
    assert_eq!(seen, [(1, Entry::Noted(1)), (3, Entry::Noted(3))]);
    system.shutdown().await.expect("in time");
    assert!(next(&mut events).await.is_none());
}

#[tokio::test]
async fn what_is_stored_while_the_system_stops_is_published_too() {
    let bed = Bed::new();
    let system = bed.start_with(ledger().publish_events(), &[]).await;
    let mut events = entries(&system);
    let release = hold_writes(&bed.faults);
    let ledger = system.entity::<Ledger>("a");
    let noted = send(&ledger, Note(1));
    until("a write is under way", || bed.calls.writing.now() > 0).await;
    let stopping = tokio::spawn(async move { system.shutdown().await });
    release.open();
    assert_eq!(noted.answer().await, Ok(vec![1]));
    in_time("the end", stopping)
        .await
        .expect("no panic")
        .expect("in time");
    let event = next(&mut events).await.expect("it was stored");
    assert_eq!(*event.event, Entry::Noted(1));
    assert!(next(&mut events).await.is_none());
}

#[tokio::test]
async fn types_that_do_not_ask_for_it_publish_nothing() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let mut events = entries(&system);
    let ledger = system.entity::<Ledger>("a");
    assert_eq!(send(&ledger, Note(1)).answer().await, Ok(vec![1]));
    system.shutdown().await.expect("in time");
    assert!(next(&mut events).await.is_none());
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Motto(String);

impl DurableState for Motto {
    const TYPE: &'static str = "Motto";
    type Services = ();
}

struct Change(&'static str);

impl Handle<Change> for Durable<Motto> {
    type Reply = ();

    fn handle(&self, command: Change, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        cx.put(Motto(command.0.to_owned())).reply(|_| ())
    }
}

#[tokio::test]
async fn changes_of_durable_states_are_published() {
    let bed = Bed::new();
    let system = bed
        .builder(&[])
        .entity(Entity::<Durable<Motto>>::durable(()).publish_events())
        .start()
        .await
        .expect("it starts");
    let mut changes = system
        .event_stream()
        .stream::<Published<StateChange<Motto>>>(Backlog::default());
    let motto = system.entity::<Durable<Motto>>("a");
    for text in ["one", "two"] {
        motto.ask(Change(text)).await.expect("it is stored");
    }
    for (number, text) in [(1, "one"), (2, "two")] {
        let change = next(&mut changes).await.expect("the system runs");
        assert_eq!(change.seq_nr.value(), number);
        assert_eq!(change.event.state(), Some(&Motto(text.to_owned())));
    }
    system.shutdown().await.expect("in time");
}
