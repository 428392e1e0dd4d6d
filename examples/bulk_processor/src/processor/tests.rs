use std::sync::Arc;

use perennial::testkit::ManualClock;
use perennial::{AskError, ConfigSource, Observe, Props, Supervision, Transition};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::item::Row;
use crate::sink::Batch;

use super::*;

const DEADLINE: Duration = Duration::from_secs(30);
const LINGER: Duration = Duration::from_secs(10);
const BATCH: usize = 3;

struct Test {
    clock: ManualClock,
    system: ActorSystem,
    processor: ActorRef<BulkProcessor>,
    batches: mpsc::Receiver<Batch>,
}

fn item(line: i64) -> Item {
    Item {
        line,
        content: Ok(Row {
            tailnum: None,
            origin: "EWR".into(),
            dest: "IAH".into(),
            distance: 1,
        }),
    }
}

impl Test {
    async fn start() -> Self {
        let clock = ManualClock::new();
        let system = ActorSystem::in_memory(ConfigSource::empty())
            .set("system.workers", 1)
            .expect("a key")
            .clock(Arc::new(clock.clone()))
            .start()
            .await
            .expect("a system without a store starts");
        let (sink, batches) = Sink::new();
        let props = Props::new(move || BulkProcessor::new(BATCH, LINGER, sink.clone()))
            .mailbox(5)
            .supervision(Supervision::stop());
        let processor = system.spawn("bulk-processor", props);
        Self {
            clock,
            system,
            processor: processor.expect("the name is free"),
            batches,
        }
    }

    async fn add(&self, line: i64) {
        let added = self.processor.ask(Add(item(line)));
        assert_eq!(added.timeout(DEADLINE).await, Ok(()));
    }

    async fn next(&mut self) -> (Reason, Vec<i64>, Batch) {
        let next = timeout(DEADLINE, self.batches.recv()).await;
        let batch = next.expect("in time").expect("the sink is open");
        let lines = batch.items.iter().map(|item| item.line).collect();
        (batch.reason, lines, batch)
    }

    /// Lets the worker look at its clock.
    async fn settle(&self) {
        struct Bystander;
        impl Actor for Bystander {}
        impl Receive<()> for Bystander {
            type Reply = ();
            fn receive(&mut self, (): (), cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
                cx.reply(())
            }
        }
        let bystander = self.system.spawn_anonymous(|| Bystander).expect("runs");
        for _ in 0..2 {
            bystander.ask(()).await.expect("it answers");
        }
    }
}

fn done(batch: Batch) {
    batch.written.send(()).expect("the processor waits");
}

#[tokio::test]
async fn a_batch_is_written_when_it_is_full() {
    let mut t = Test::start().await;
    for line in 1..=5 {
        t.processor.tell(Add(item(line))).expect("there is room");
    }
    let (reason, lines, batch) = t.next().await;
    assert_eq!((reason, &lines[..]), (Reason::Full, &[1, 2, 3][..]));
    done(batch);
    t.processor.tell(Add(item(6))).expect("there is room");
    let (reason, lines, batch) = t.next().await;
    assert_eq!((reason, &lines[..]), (Reason::Full, &[4, 5, 6][..]));
    done(batch);
}

#[tokio::test]
async fn a_batch_is_written_when_its_first_item_has_lingered() {
    let mut t = Test::start().await;
    t.add(1).await;
    t.clock.advance(LINGER - Duration::from_secs(1));
    // A further item does not prolong it.
    t.add(2).await;
    t.settle().await;
    assert!(t.batches.try_recv().is_err());
    t.clock.advance(Duration::from_secs(1));
    t.settle().await;
    let (reason, lines, batch) = t.next().await;
    assert_eq!((reason, &lines[..]), (Reason::Linger, &[1, 2][..]));
    done(batch);
    // Idle again, it has nothing to write, and the next round has a time of its own.
    t.clock.advance(LINGER);
    t.add(3).await;
    t.clock.advance(LINGER - Duration::from_secs(1));
    t.settle().await;
    assert!(t.batches.try_recv().is_err());
    t.clock.advance(Duration::from_secs(1));
    t.settle().await;
    assert_eq!(t.next().await.0, Reason::Linger);
}

#[tokio::test]
async fn whoever_asks_is_answered_when_everything_is_written() {
    let mut t = Test::start().await;
    assert_eq!(t.processor.ask(Flush).await, Ok(()), "nothing is there");
    t.add(1).await;
    let asked = tokio::spawn(t.processor.ask(Flush).timeout(DEADLINE).into_future());
    let (reason, lines, batch) = t.next().await;
    assert_eq!((reason, &lines[..]), (Reason::Asked, &[1][..]));
    t.settle().await;
    assert!(!asked.is_finished());
    done(batch);
    assert_eq!(asked.await.expect("no panic"), Ok(()));
}

#[tokio::test]
async fn nothing_is_taken_while_a_batch_is_being_written() {
    let mut t = Test::start().await;
    for line in 1..=3 {
        t.processor.tell(Add(item(line))).expect("there is room");
    }
    let (_, _, batch) = t.next().await;
    // Its mailbox has five places, and whoever sends one more has to wait.
    for line in 4..=8 {
        t.processor.tell(Add(item(line))).expect("there is room");
    }
    let refused = t.processor.tell(Add(item(9)));
    assert!(matches!(refused, Err(AskError::Busy { .. })), "{refused:?}");
    let processor = t.processor.clone();
    let sent = tokio::spawn(async move { processor.send(Add(item(9))).await });
    t.settle().await;
    assert!(!sent.is_finished());
    assert!(t.batches.try_recv().is_err(), "one batch at a time");
    done(batch);
    for expected in [[4, 5, 6], [7, 8, 9]] {
        let (_, lines, batch) = t.next().await;
        assert_eq!(lines, expected);
        done(batch);
    }
    assert_eq!(sent.await.expect("no panic"), Ok(()));
}

#[tokio::test]
async fn it_stops_when_nothing_is_written_any_more() {
    let Test {
        processor,
        batches,
        system,
        ..
    } = Test::start().await;
    drop(batches);
    let added = processor.ask(Add(item(1))).await;
    assert_eq!(added, Ok(()));
    let asked = processor.ask(Flush).timeout(DEADLINE).await;
    assert!(matches!(asked, Err(AskError::Failed { .. })), "{asked:?}");
    timeout(DEADLINE, processor.terminated())
        .await
        .expect("its end");
    system.shutdown().await.expect("idle");
}

#[tokio::test]
async fn it_goes_from_idle_to_active_and_back() {
    struct Observer(mpsc::UnboundedSender<(usize, usize)>);
    impl Actor for Observer {}
    impl Receive<Transition<State>> for Observer {
        type Reply = ();
        fn receive(
            &mut self,
            told: Transition<State>,
            cx: &mut ActorCx<'_, Self>,
        ) -> Received<Self, ()> {
            let gathered = |state: &State| match state {
                State::Idle => 0,
                State::Active { items } => items.len(),
            };
            self.0.send((gathered(&told.from), gathered(&told.to)))?;
            cx.no_reply()
        }
    }
    let mut t = Test::start().await;
    let (sender, mut told) = mpsc::unbounded_channel();
    let observer = t.system.spawn("observer", move || Observer(sender.clone()));
    let observer = observer.expect("the name is free").recipient();
    assert_eq!(
        t.processor.ask(Observe::new(observer)).await,
        Ok(State::Idle)
    );
    for line in 1..=3 {
        t.processor.tell(Add(item(line))).expect("there is room");
    }
    let (_, _, batch) = t.next().await;
    done(batch);
    for expected in [(0, 1), (3, 0)] {
        let next = timeout(DEADLINE, told.recv()).await.expect("in time");
        assert_eq!(next, Some(expected));
    }
}
