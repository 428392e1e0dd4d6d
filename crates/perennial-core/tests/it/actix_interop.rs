//! Actors of actix and ours, talking to each other.

use std::time::Duration;

use actix::prelude::*;
use perennial_core::{
    ActorCx, ActorRef, ActorSystem, AskError, Cx, Effect, EntityRef, Receive, Received, Recipient,
};
use tokio::sync::oneshot;

use crate::fixture::{Bed, DEADLINE, Entry, Latch, Ledger, config, in_time, until};

async fn system() -> ActorSystem {
    ActorSystem::in_memory(config(&[]))
        .start()
        .await
        .expect("starts")
}

/// Runs a test inside of an actix system.
fn on_actix(test: impl Future<Output = ()>) {
    System::new().block_on(test);
}

// ---- one of ours ----

#[derive(Default)]
struct Counter {
    seen: Vec<u64>,
}

impl perennial_core::Actor for Counter {}

/// Counts; the answer is everything so far.
struct Count(u64);

impl Message for Count {
    type Result = Result<Vec<u64>, AskError>;
}

impl Receive<Count> for Counter {
    type Reply = Vec<u64>;

    fn receive(&mut self, count: Count, cx: &mut ActorCx<'_, Self>) -> Received<Self, Vec<u64>> {
        self.seen.push(count.0);
        cx.reply(self.seen.clone())
    }
}

/// Counts without an answer.
struct Note(u64);

impl Message for Note {
    type Result = Result<(), AskError>;
}

impl Receive<Note> for Counter {
    type Reply = ();

    fn receive(&mut self, note: Note, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        self.seen.push(note.0);
        cx.reply(())
    }
}

/// Holds the counter up.
struct Hold(oneshot::Receiver<()>);

impl Receive<Hold> for Counter {
    type Reply = ();

    fn receive(&mut self, hold: Hold, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        cx.exclusive().later(hold.0, |_, _, cx| cx.reply(()))
    }
}

/// Asks the clerk, on behalf of whoever asks this one.
struct AskClerk(perennial_core::actix_interop::ActixRef<Work>, u64);

impl Receive<AskClerk> for Counter {
    type Reply = u64;

    fn receive(&mut self, ask: AskClerk, cx: &mut ActorCx<'_, Self>) -> Received<Self, u64> {
        let AskClerk(clerk, count) = ask;
        let answer = async move { clerk.ask(Work(count)).await };
        cx.later(answer, |answer, counter: &mut Counter, cx| {
            let total = answer?;
            counter.seen.push(total);
            cx.reply(total)
        })
    }
}

impl perennial_core::Handle<Count> for Ledger {
    type Reply = Vec<u64>;

    fn handle(&self, count: Count, cx: &Cx<'_, Self>) -> Effect<Self, Vec<u64>> {
        cx.persist([Entry::Noted(count.0)])
            .reply(|ledger| ledger.notes.clone())
    }
}

impl perennial_core::Handle<Note> for Ledger {
    type Reply = ();

    fn handle(&self, note: Note, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        cx.persist([Entry::Noted(note.0)]).reply(|_| ())
    }
}

// ---- one of actix' ----

/// Has its work counted by one of ours.
struct Clerk {
    counter: actix::Recipient<Count>,
    total: u64,
}

impl Actor for Clerk {
    type Context = Context<Self>;
}

/// The answer is how much was counted.
#[derive(Message)]
#[rtype(result = "u64")]
struct Work(u64);

impl Handler<Work> for Clerk {
    type Result = ResponseActFuture<Self, u64>;

    fn handle(&mut self, work: Work, _: &mut Context<Self>) -> Self::Result {
        let counted = self.counter.send(Count(work.0)).into_actor(self);
        Box::pin(counted.map(|answer, clerk, _| {
            let seen = answer.expect("the bridge is there").expect("counted");
            clerk.total += seen.len() as u64;
            clerk.total
        }))
    }
}

/// Blocks its arbiter.
#[derive(Message)]
#[rtype(result = "()")]
struct Block(Latch);

impl Handler<Block> for Clerk {
    type Result = ();

    fn handle(&mut self, block: Block, _: &mut Context<Self>) {
        block.0.wait();
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Quit;

impl Handler<Quit> for Clerk {
    type Result = ();

    fn handle(&mut self, _: Quit, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}

fn clerk(counter: &ActorRef<Counter>) -> Addr<Clerk> {
    let counter = counter.actix_recipient().expect("inside of actix");
    Clerk { counter, total: 0 }.start()
}

/// Waits until an actor has seen so much, and gives it.
async fn seen(counter: &ActorRef<Counter>, count: usize) -> Vec<u64> {
    let mut seen = Vec::new();
    // An ask adds 0 to what it looks at.
    while seen.len() < count {
        let ask = counter.ask(Count(0)).timeout(DEADLINE);
        match ask.await {
            Ok(all) => seen = all,
            // What has expired keeps its place until it would be handled.
            Err(AskError::Busy { retry_after, .. }) => tokio::time::sleep(retry_after).await,
            Err(error) => panic!("{error}"),
        }
        seen.retain(|number| *number > 0);
    }
    seen
}

#[test]
fn an_actix_actor_and_one_of_ours_ask_each_other() {
    on_actix(async {
        let system = system().await;
        let counter = system
            .spawn("counter", Counter::default)
            .expect("a free name");
        let clerk = clerk(&counter);
        assert_eq!(clerk.send(Work(7)).await, Ok(1));
        let clerk = system.actix(clerk.recipient());
        assert_eq!(clerk.ask(Work(8)).await, Ok(3));
        // From one of ours, whose own answer waits for it.
        assert_eq!(counter.ask(AskClerk(clerk, 9)).await, Ok(6));
        assert_eq!(counter.ask(Count(0)).await, Ok(vec![7, 8, 9, 6, 0]));
        system.shutdown().await.expect("in time");
    });
}

#[test]
fn an_actix_actor_asks_and_tells_an_entity() {
    let bed = Bed::new();
    on_actix(async {
        let system = bed.start(&[]).await;
        let entity: EntityRef<Ledger> = system.entity("a");
        let counter = entity.actix_recipient::<Count>().expect("inside of actix");
        let clerk = Clerk { counter, total: 0 }.start();
        assert_eq!(clerk.send(Work(1)).await, Ok(1));
        assert_eq!(clerk.send(Work(2)).await, Ok(3));
        let notes = entity
            .actix_tell_recipient::<Note>()
            .expect("inside of actix");
        assert_eq!(notes.send(Note(3)).await, Ok(Ok(())));
        system.shutdown().await.expect("in time");
        assert_eq!(notes.send(Note(4)).await, Ok(Err(AskError::Stopped)));
    });
    let noted: Vec<_> = (1..=3).map(Entry::Noted).collect();
    assert_eq!(bed.stored("a"), noted);
}

#[test]
fn messages_of_one_sender_keep_their_order_however_they_are_sent() {
    on_actix(async {
        let system = system().await;
        let counter = system
            .spawn("counter", Counter::default)
            .expect("a free name");
        let asks = counter.actix_recipient::<Count>().expect("inside of actix");
        for number in 1..=100 {
            match number % 2 {
                0 => asks.do_send(Count(number)),
                _ => drop(asks.send(Count(number))),
            }
        }
        // What was dropped before it was begun is withdrawn.
        let even: Vec<u64> = (1..=50).map(|half| half * 2).collect();
        let seen = in_time("the messages", seen(&counter, even.len())).await;
        assert_eq!(seen, even);
        let tells = counter
            .actix_tell_recipient::<Note>()
            .expect("inside of actix");
        for number in 101..=200 {
            tells.do_send(Note(number));
        }
        let seen = in_time("the messages", self::seen(&counter, 150)).await;
        assert_eq!(seen[50..], Vec::from_iter(101..=200));
        system.shutdown().await.expect("in time");
    });
}

#[test]
fn bounds_of_ours_are_busy_to_actix_and_what_is_told_does_not_expire() {
    on_actix(async {
        let settings = [("system.ask-timeout", "20ms")];
        let system = ActorSystem::in_memory(config(&settings)).start().await;
        let system = system.expect("starts");
        let props = perennial_core::Props::new(Counter::default).mailbox(2);
        let counter = system.spawn("counter", props).expect("a free name");
        let asks = counter.actix_recipient::<Count>().expect("inside of actix");
        let tells = counter
            .actix_tell_recipient::<Note>()
            .expect("inside of actix");
        let (go, wait) = oneshot::channel();
        counter.tell(Hold(wait)).expect("there is room");
        until("it is held up", || counter.queue_depth() == 0).await;
        assert_eq!(tells.send(Note(1)).await, Ok(Ok(())));
        assert_eq!(asks.send(Count(2)).await, Ok(Err(AskError::Expired)));
        let busy = tells.send(Note(3)).await.expect("the bridge is there");
        assert!(
            matches!(
                busy,
                Err(AskError::Busy {
                    what: "the actor's mailbox",
                    ..
                })
            ),
            "{busy:?}"
        );
        go.send(()).expect("it waits");
        let seen = in_time("the message", seen(&counter, 1)).await;
        assert_eq!(seen, [1]);
        system.shutdown().await.expect("in time");
    });
}

#[test]
fn an_actix_actor_is_a_recipient_like_any_other() {
    on_actix(async {
        let system = system().await;
        let counter = system
            .spawn("counter", Counter::default)
            .expect("a free name");
        let address = clerk(&counter);
        let recipients: [Recipient<Work>; 3] = [
            Recipient::from(address.clone()),
            Recipient::from(address.clone().recipient()),
            system.actix(address.clone().recipient()).recipient(),
        ];
        for (recipient, number) in recipients.iter().zip(1..) {
            assert_eq!(recipient.tell(Work(number)), Ok(()));
        }
        let seen = in_time("the messages", seen(&counter, 3)).await;
        assert_eq!(seen, [1, 2, 3]);
        assert!(format!("{recipients:?}").contains("Work"));
        assert_eq!(address.send(Quit).await, Ok(()));
        until("it has ended", || !address.connected()).await;
        for recipient in recipients {
            assert_eq!(recipient.tell(Work(4)), Err(AskError::Stopped));
        }
        let ended = system.actix::<Work>(address.recipient());
        assert_eq!(ended.ask(Work(4)).await, Err(AskError::Stopped));
        system.shutdown().await.expect("in time");
    });
}

#[test]
fn an_ask_of_an_actix_actor_has_a_deadline_and_a_bound() {
    on_actix(async {
        let system = system().await;
        let counter = system
            .spawn("counter", Counter::default)
            .expect("a free name");
        let recipient = counter.actix_recipient().expect("inside of actix");
        // Its own thread, as it will be blocked.
        let arbiter = Arbiter::new();
        let address = Clerk::start_in_arbiter(&arbiter.handle(), |_| Clerk {
            counter: recipient,
            total: 0,
        });
        let latch = Latch::default();
        address.do_send(Block(latch.clone()));
        let clerk = system.actix::<Work>(address.recipient()).most_asks(2);
        let ask = |timeout| clerk.ask(Work(1)).timeout(Duration::from_millis(timeout));
        let first = ask(30_000).into_future();
        let second = ask(20).into_future();
        // What waits for room in the mailbox is not told over it.
        let mut told = 0;
        let full = loop {
            match clerk.tell(Work(1)) {
                Ok(()) => told += 1,
                Err(error) => break error,
            }
            assert!(told < 100, "a mailbox of actix has 16 places");
        };
        assert!(
            matches!(
                full,
                AskError::Busy {
                    what: "the actix actor's mailbox",
                    ..
                }
            ),
            "{full:?}"
        );
        let refused = ask(30_000).await;
        assert!(
            matches!(
                refused,
                Err(AskError::Busy {
                    what: "the number of open asks of the actix actor",
                    ..
                })
            ),
            "{refused:?}"
        );
        let late = second.await;
        assert!(matches!(late, Err(AskError::Unknown { .. })), "{late:?}");
        // Its place is free once actix is told that nobody waits.
        let mut third = None;
        until("there is room again", || {
            let mut asking = ask(30_000).into_future();
            let is_refused = matches!(asking.try_take(), Some(Err(AskError::Busy { .. })));
            third = Some(asking);
            !is_refused
        })
        .await;
        latch.open();
        assert!(first.await.is_ok());
        assert!(third.expect("sent").await.is_ok());
        // The second one was withdrawn, as it was not begun in time; the others are all counted.
        let seen = in_time("the work", seen(&counter, told + 2)).await;
        assert_eq!(seen.len(), told + 2);
        arbiter.stop();
        system.shutdown().await.expect("in time");
    });
}

#[tokio::test]
async fn outside_of_actix_there_is_nothing_to_stand_on() {
    let system = system().await;
    let counter = system
        .spawn("counter", Counter::default)
        .expect("a free name");
    let error = counter.actix_recipient::<Count>().expect_err("no arbiter");
    assert!(error.to_string().contains("no actix arbiter"), "{error}");
    system.shutdown().await.expect("in time");
}
