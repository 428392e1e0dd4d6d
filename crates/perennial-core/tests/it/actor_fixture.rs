//! What the tests of plain actors share: an actor whose handlers are written in the test, that tells
//! the test what happens to it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use perennial_core::{
    Actor, ActorCx, ActorRef, ChildFailed, Failure, PendingReply, Placement, Props, Receive,
    Received, StopReason, Supervision, Terminated,
};
use perennial_testkit::TestSystem;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Tells the test what happens.
pub(crate) struct Teller {
    log: mpsc::Sender<String>,
    /// What the hooks do besides.
    script: Script,
    pub(crate) count: u32,
    pub(crate) kept: Vec<PendingReply<u32>>,
    /// Which of the values of its actor it is, from 1 on.
    pub(crate) incarnation: u32,
}

type Script = Arc<
    dyn Fn(&'static str, &mut Teller, &mut ActorCx<'_, Teller>) -> Result<(), Failure>
        + Send
        + Sync,
>;

impl Teller {
    pub(crate) fn log(&self, text: impl Into<String>) {
        // The test may be over.
        let _ = self.log.send(text.into());
    }

    fn play(&mut self, hook: &'static str, cx: &mut ActorCx<'_, Self>) -> Result<(), Failure> {
        let script = Arc::clone(&self.script);
        script(hook, self, cx)
    }
}

impl Actor for Teller {
    fn started(&mut self, cx: &mut ActorCx<'_, Self>) -> Result<(), Failure> {
        self.log("started");
        self.play("started", cx)
    }

    fn restarting(&mut self, failure: &Failure, cx: &mut ActorCx<'_, Self>) {
        self.log(format!("restarting: {failure}"));
        let _ = self.play("restarting", cx);
    }

    fn stopped(&mut self, reason: &StopReason, cx: &mut ActorCx<'_, Self>) {
        self.log(format!("stopped: {reason}"));
        let _ = self.play("stopped", cx);
    }

    fn terminated(
        &mut self,
        terminated: &Terminated,
        cx: &mut ActorCx<'_, Self>,
    ) -> Result<(), Failure> {
        self.log(format!(
            "terminated {}: {}",
            terminated.path, terminated.reason
        ));
        self.play("terminated", cx)
    }

    fn child_failed(
        &mut self,
        failed: &ChildFailed,
        cx: &mut ActorCx<'_, Self>,
    ) -> Result<(), Failure> {
        self.log(format!(
            "{} {:?}: {}",
            failed.path, failed.directive, failed.failure
        ));
        self.play("child_failed", cx)
    }

    fn receive_timeout(&mut self, cx: &mut ActorCx<'_, Self>) -> Result<(), Failure> {
        self.log("receive time-out");
        self.play("receive_timeout", cx)
    }
}

/// Runs what the test wants.
pub(crate) struct Do<R>(Code<R>);

type Code<R> = Box<dyn FnOnce(&mut Teller, &mut ActorCx<'_, Teller>) -> Received<Teller, R> + Send>;

impl<R: Send + 'static> Receive<Do<R>> for Teller {
    type Reply = R;

    fn receive(&mut self, code: Do<R>, cx: &mut ActorCx<'_, Self>) -> Received<Self, R> {
        (code.0)(self, cx)
    }
}

pub(crate) fn run<R>(
    code: impl FnOnce(&mut Teller, &mut ActorCx<'_, Teller>) -> Received<Teller, R> + Send + 'static,
) -> Do<R> {
    Do(Box::new(code))
}

/// Counts; the reply is how often it has.
pub(crate) fn count() -> Do<u32> {
    run(|teller, cx| {
        teller.count += 1;
        cx.reply(teller.count)
    })
}

/// A line in the log.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Say(pub(crate) String);

impl Receive<Say> for Teller {
    type Reply = ();

    fn receive(&mut self, say: Say, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        self.log(say.0);
        cx.reply(())
    }
}

pub(crate) fn say(text: impl Into<String>) -> Say {
    Say(text.into())
}

/// Fails.
pub(crate) fn fail() -> Do<()> {
    run(|_, _| Err(Failure::new("broken")))
}

/// Stashed until the actor is [opened](open).
pub(crate) struct SayOpen(pub(crate) String);

impl Receive<SayOpen> for Teller {
    type Reply = ();

    fn receive(&mut self, say: SayOpen, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        if self.count == 0 {
            return cx.stash(say);
        }
        self.log(say.0);
        cx.reply(())
    }
}

/// Lets what is stashed come back.
pub(crate) fn open() -> Do<()> {
    run(|teller, cx| {
        teller.count = 1;
        cx.unstash_all();
        cx.reply(())
    })
}

/// What a test hears of an actor.
pub(crate) type Lines = mpsc::Receiver<String>;

/// What has been told since the last look.
pub(crate) fn told(lines: &Lines) -> Vec<String> {
    lines.try_iter().collect()
}

pub(crate) fn teller() -> (Props<Teller>, Lines) {
    scripted(|_, _, _| Ok(()))
}

/// One whose hooks do something besides.
pub(crate) fn scripted(
    script: impl Fn(&'static str, &mut Teller, &mut ActorCx<'_, Teller>) -> Result<(), Failure>
    + Send
    + Sync
    + 'static,
) -> (Props<Teller>, Lines) {
    let (log, lines) = mpsc::channel();
    (props_of(log, Arc::new(script)), lines)
}

fn props_of(log: mpsc::Sender<String>, script: Script) -> Props<Teller> {
    let incarnations = AtomicU32::new(0);
    Props::new(move || Teller {
        log: log.clone(),
        script: Arc::clone(&script),
        count: 0,
        kept: Vec::new(),
        incarnation: incarnations.fetch_add(1, Ordering::Relaxed) + 1,
    })
    .supervision(quickly())
}

/// Restarts after a millisecond.
pub(crate) fn quickly() -> Supervision {
    Supervision::restart().backoff(ms(1), ms(1)).jitter(0.0)
}

/// A system of two workers for each of some seeds.
pub(crate) fn for_seeds(test: impl Fn(&TestSystem)) {
    for seed in 0..25 {
        let t = TestSystem::builder().workers(2).seed(seed).start();
        test(&t);
    }
}

/// An actor that has started, on the first worker.
pub(crate) fn one(t: &TestSystem, supervision: Supervision) -> (ActorRef<Teller>, Lines) {
    let (props, lines) = teller();
    let props = props
        .supervision(supervision)
        .placement(Placement::Worker(0));
    let actor = t.spawn("one", props).expect("the name is free");
    t.run();
    assert_eq!(told(&lines), ["started"]);
    (actor, lines)
}

/// A child of `parent` with this name, which has started.
pub(crate) fn child(
    t: &TestSystem,
    parent: &ActorRef<Teller>,
    name: &'static str,
    props: Props<Teller>,
) -> ActorRef<Teller> {
    let spawn = run(move |_, cx| {
        let child = cx.spawn(name, props)?;
        cx.reply(child)
    });
    let child = t.ask(parent, spawn).expect("it answers");
    t.run();
    child
}
