//! State machines, as plain actors and as entities. Time is a clock that the tests move.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use perennial_core::config::ConfigSource;
use perennial_core::{
    Actor, ActorCx, ActorRef, ActorSystem, AskError, Cx, Directive, Effect, Entity, EventSourced,
    Failure, Fsm, Handle, Observe, PersistentFsm, PersistentStateMachine, Props, Receive, Received,
    Recipient, Signal, StateMachine, StateTimeout, Supervision, Transition, Unobserve,
};
use perennial_persistence::{Clock, PersistenceId, SliceRange, Timestamp};
use perennial_testkit::{Faults, Gate, ManualClock, MemoryStore, Spec, WriteFault};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::fixture::{Latch, in_time, until};

const SECOND: Duration = Duration::from_secs(1);

/// What happened, in order, told by several.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn add(&self, line: impl Into<String>) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push(line.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// Three states with what makes them different: how long they may last.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
enum State {
    /// For ever.
    #[default]
    Off,
    /// Ten seconds.
    On { by: u32 },
    /// Until a second of the clock.
    Until(i64),
    /// Copies of it are counted.
    #[serde(skip)]
    Counted(Counted),
}

use State::{Off, On, Until};

#[derive(Debug, Default)]
struct Counted(Arc<AtomicUsize>);

impl Clone for Counted {
    fn clone(&self) -> Self {
        self.0.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&self.0))
    }
}

impl PartialEq for Counted {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// A state that does not end by itself in any test.
fn far() -> State {
    Until(Timestamp::MAX.as_second())
}

fn timeout(state: &State) -> Option<StateTimeout> {
    match state {
        Off | State::Counted(_) => None,
        On { .. } => Some(StateTimeout::after(SECOND * 10)),
        Until(second) => {
            let time = Timestamp::from_second(*second).expect("in range");
            Some(StateTimeout::at(time))
        }
    }
}

// ---- plain machines ----

/// A plain machine whose handlers are written in the tests.
struct Lamp {
    fsm: Fsm<State>,
    log: Log,
    /// `entered` fails in this state, by a panic or not.
    broken: Option<(State, bool)>,
    /// `entered` makes a transition.
    hasty: bool,
}

impl Actor for Lamp {
    fn started(&mut self, cx: &mut ActorCx<'_, Self>) -> Result<(), Failure> {
        cx.begin(self)
    }
}

impl StateMachine for Lamp {
    type State = State;

    fn fsm(&mut self) -> &mut Fsm<State> {
        &mut self.fsm
    }

    fn state_timeout(&self) -> Option<StateTimeout> {
        timeout(self.fsm.state())
    }

    fn timed_out(&mut self, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        self.log.add(format!("{:?} timed out", self.fsm.state()));
        cx.no_reply()
    }

    fn entered(&mut self, from: Option<&State>, cx: &mut ActorCx<'_, Self>) -> Result<(), Failure> {
        let now = self.fsm.state().clone();
        self.log.add(match from {
            Some(from) => format!("{from:?} -> {now:?}"),
            None => format!("begins {now:?}"),
        });
        match &self.broken {
            Some((state, panics)) if *state == now => {
                assert!(!panics, "this state panics");
                return Err(Failure::new("this state is broken"));
            }
            _ => {}
        }
        if self.hasty && from.is_some() {
            cx.goto(self, Off)?;
        }
        Ok(())
    }
}

/// Runs what the test wants.
struct Do<R>(
    #[allow(clippy::type_complexity)]
    Box<dyn FnOnce(&mut Lamp, &mut ActorCx<'_, Lamp>) -> Received<Lamp, R> + Send>,
);

impl<R: Send + 'static> Receive<Do<R>> for Lamp {
    type Reply = R;

    fn receive(&mut self, code: Do<R>, cx: &mut ActorCx<'_, Self>) -> Received<Self, R> {
        (code.0)(self, cx)
    }
}

fn run<R>(
    code: impl FnOnce(&mut Lamp, &mut ActorCx<'_, Lamp>) -> Received<Lamp, R> + Send + 'static,
) -> Do<R> {
    Do(Box::new(code))
}

/// Goes to a state and replies with the one that was left.
fn goto(next: State) -> Do<State> {
    run(|lamp, cx| {
        let left = cx.goto(lamp, next)?;
        cx.reply(left)
    })
}

/// A message that is put aside unless the lamp is on.
struct Shine(u32);

impl Receive<Shine> for Lamp {
    type Reply = ();

    fn receive(&mut self, shine: Shine, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        match self.fsm.state() {
            On { .. } => {
                self.log.add(format!("shines {}", shine.0));
                cx.reply(())
            }
            _ => cx.stash(shine),
        }
    }
}

/// Writes down what it is told.
struct Watcher {
    name: &'static str,
    log: Log,
    latch: Option<Latch>,
}

impl Actor for Watcher {}

impl Receive<Transition<State>> for Watcher {
    type Reply = ();

    fn receive(
        &mut self,
        told: Transition<State>,
        cx: &mut ActorCx<'_, Self>,
    ) -> Received<Self, ()> {
        if let Some(latch) = &self.latch {
            self.log.add("it is being told");
            latch.wait();
        }
        let Transition {
            machine,
            from,
            to,
            missed,
            ..
        } = told;
        let missed = match missed {
            0 => String::new(),
            missed => format!(" ({missed} missed)"),
        };
        self.log.add(format!(
            "{} {machine}: {from:?} -> {to:?}{missed}",
            self.name
        ));
        cx.reply(())
    }
}

struct Nothing;

impl Receive<Nothing> for Watcher {
    type Reply = ();

    fn receive(&mut self, _: Nothing, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        cx.reply(())
    }
}

struct Plain {
    clock: ManualClock,
    system: ActorSystem,
    lamp: ActorRef<Lamp>,
    log: Log,
    watchers: Mutex<Vec<ActorRef<Watcher>>>,
}

/// One restarts at once.
fn quickly() -> Supervision {
    Supervision::restart().backoff(Duration::ZERO, Duration::ZERO)
}

impl Plain {
    async fn start() -> Self {
        Self::with(quickly(), |log| Lamp {
            fsm: Fsm::new(Off),
            log,
            broken: None,
            hasty: false,
        })
        .await
    }

    async fn with(
        supervision: Supervision,
        mut make: impl FnMut(Log) -> Lamp + Send + 'static,
    ) -> Self {
        let clock = ManualClock::new();
        let system = ActorSystem::in_memory(ConfigSource::empty())
            .set("system.workers", 1)
            .expect("a key")
            .clock(Arc::new(clock.clone()))
            .start()
            .await
            .expect("a system without a store starts");
        let log = Log::default();
        let of_lamp = log.clone();
        let props = Props::new(move || make(of_lamp.clone())).supervision(supervision);
        let lamp = system.spawn("lamp", props).expect("the name is free");
        Self {
            clock,
            system,
            lamp,
            log,
            watchers: Mutex::default(),
        }
    }

    async fn ask<R: Send + 'static>(
        &self,
        code: impl FnOnce(&mut Lamp, &mut ActorCx<'_, Lamp>) -> Received<Lamp, R> + Send + 'static,
    ) -> R {
        let asked = self.lamp.ask(run(code)).into_future();
        in_time("an answer", asked).await.expect("it answers")
    }

    async fn goto(&self, next: State) -> State {
        let asked = self.lamp.ask(goto(next)).into_future();
        in_time("an answer", asked).await.expect("it answers")
    }

    fn watcher(&self, name: &'static str) -> ActorRef<Watcher> {
        let log = self.log.clone();
        let make = move || Watcher {
            name,
            log: log.clone(),
            latch: None,
        };
        self.system.spawn(name, make).expect("the name is free")
    }

    async fn observe(&self, watcher: &ActorRef<Watcher>) -> State {
        let watchers = || self.watchers.lock().expect("nobody panics with it");
        watchers().push(watcher.clone());
        let observe = Observe::new(watcher.recipient());
        self.lamp.ask(observe).await.expect("it answers")
    }

    /// Lets time pass, and the only worker do what is due by then.
    async fn pass(&self, seconds: u32) {
        self.clock.advance(SECOND * seconds);
        self.settle().await;
    }

    async fn settle(&self) {
        // The first one has the worker look at its clock; what is due is done before the second.
        for _ in 0..2 {
            self.ask(|_, cx| cx.reply(())).await;
        }
        let watchers = self.watchers.lock().expect("nobody panics with it").clone();
        for watcher in watchers.into_iter().filter(|watcher| !watcher.has_ended()) {
            let asked = watcher.ask(Nothing).into_future();
            in_time("an answer", asked).await.expect("it answers");
        }
    }
}

#[tokio::test]
async fn a_transition_takes_effect_at_once_and_gives_back_what_was_left() {
    let t = Plain::start().await;
    let watcher = t.watcher("w");
    assert_eq!(t.observe(&watcher).await, Off);
    let log = t.log.clone();
    let left = t
        .ask(move |lamp, cx| {
            let first = cx.goto(lamp, On { by: 7 })?;
            log.add(format!("now {:?}", lamp.fsm.state()));
            let second = cx.goto(lamp, Off)?;
            cx.reply((first, second))
        })
        .await;
    assert_eq!(left, (Off, On { by: 7 }));
    t.settle().await;
    assert_eq!(
        t.log.take(),
        [
            "begins Off",
            "Off -> On { by: 7 }",
            "now On { by: 7 }",
            "On { by: 7 } -> Off",
            "w /lamp: Off -> On { by: 7 }",
            "w /lamp: On { by: 7 } -> Off",
        ]
    );
}

#[tokio::test]
async fn a_state_times_out_once_per_entry() {
    let t = Plain::start().await;
    t.goto(On { by: 1 }).await;
    t.log.take();
    t.pass(9).await;
    assert_eq!(t.log.take(), [] as [&str; 0]);
    t.pass(1).await;
    assert_eq!(t.log.take(), ["On { by: 1 } timed out"]);
    t.pass(100).await;
    assert_eq!(t.log.take(), [] as [&str; 0]);

    // At a time, and at one that has passed.
    let now = t.ask(|_, cx| cx.reply(cx.now().as_second())).await;
    t.goto(Until(now + 5)).await;
    t.pass(4).await;
    assert_eq!(t.log.take().len(), 1, "entered only");
    t.pass(1).await;
    assert_eq!(t.log.take().len(), 1, "timed out");
    t.goto(Until(now)).await;
    t.settle().await;
    assert_eq!(t.log.take().len(), 2, "entered and timed out");
}

#[tokio::test]
async fn a_timeout_ends_with_its_state_and_begins_with_every_entry() {
    let t = Plain::start().await;
    t.goto(On { by: 1 }).await;
    t.pass(9).await;
    t.goto(Off).await;
    t.pass(100).await;
    t.goto(On { by: 2 }).await;
    t.log.take();
    // From the start, although the first one had one second left.
    t.pass(9).await;
    // Anew by a transition to the same state, and not by a message or a change of data.
    t.goto(On { by: 3 }).await;
    t.ask(|lamp, cx| {
        *lamp.fsm.state_mut() = On { by: 4 };
        cx.reply(())
    })
    .await;
    t.pass(9).await;
    assert_eq!(t.log.take(), ["On { by: 2 } -> On { by: 3 }"]);
    t.pass(1).await;
    assert_eq!(t.log.take(), ["On { by: 4 } timed out"]);
    // As often as somebody wants.
    for _ in 0..2 {
        t.ask(|lamp, cx| {
            cx.restart_state_timeout(lamp);
            cx.reply(())
        })
        .await;
        t.pass(9).await;
        assert_eq!(t.log.take(), [] as [&str; 0]);
    }
    t.pass(1).await;
    assert_eq!(t.log.take(), ["On { by: 4 } timed out"]);
}

#[tokio::test]
async fn a_timeout_that_waits_behind_the_message_that_leaves_its_state_is_not_handled() {
    let t = Plain::start().await;
    t.goto(On { by: 1 }).await;
    let latch = Latch::default();
    let held = latch.clone();
    t.lamp
        .tell(run(move |_, cx| {
            held.wait();
            cx.reply(())
        }))
        .expect("there is room");
    // Both are there when the handler returns: the message first, then the time.
    t.lamp.tell(goto(Off)).expect("there is room");
    t.clock.advance(SECOND * 10);
    latch.open();
    t.settle().await;
    assert_eq!(
        t.log.take(),
        ["begins Off", "Off -> On { by: 1 }", "On { by: 1 } -> Off"]
    );
}

#[tokio::test]
async fn cancelling_all_timers_leaves_the_timeout_of_the_state() {
    let t = Plain::start().await;
    t.goto(On { by: 1 }).await;
    t.log.take();
    t.ask(|_, cx| {
        let tick = || {
            run(|lamp, cx| {
                lamp.log.add("tick");
                cx.reply(())
            })
        };
        cx.timers().start_single("tick", SECOND, tick());
        cx.timers().cancel_all();
        cx.timers().start_single("tock", SECOND, tick());
        cx.reply(())
    })
    .await;
    t.pass(10).await;
    assert_eq!(t.log.take(), ["tick", "On { by: 1 } timed out"]);
}

#[tokio::test]
async fn what_is_stashed_comes_back_with_every_transition_in_order() {
    let t = Plain::start().await;
    for number in 1..=3 {
        t.lamp.tell(Shine(number)).expect("there is room");
    }
    t.settle().await;
    assert_eq!(t.ask(|_, cx| cx.reply(cx.stashed())).await, 3);
    t.goto(Off).await;
    t.settle().await;
    // They came back, and were put aside again.
    assert_eq!(t.ask(|_, cx| cx.reply(cx.stashed())).await, 3);
    t.log.take();
    t.lamp.tell(goto(On { by: 1 })).expect("there is room");
    t.lamp.tell(Shine(4)).expect("there is room");
    t.settle().await;
    assert_eq!(
        t.log.take(),
        [
            "Off -> On { by: 1 }",
            "shines 1",
            "shines 2",
            "shines 3",
            "shines 4"
        ]
    );
}

#[tokio::test]
async fn a_transition_where_none_can_be_made_is_a_failure_that_says_what_to_do() {
    let t = Plain::with(quickly(), |log| Lamp {
        fsm: Fsm::new(Off),
        log,
        broken: None,
        hasty: true,
    })
    .await;
    let failure = |answer: Result<State, AskError>| match answer {
        Err(AskError::Failed { failure, .. }) => failure.to_string(),
        other => panic!("{other:?}"),
    };
    let within = failure(t.lamp.ask(goto(On { by: 1 })).await);
    assert!(within.contains("tell_myself"), "{within}");
    // Before it has begun, and after.
    struct Lazy(Fsm<State>);
    impl Actor for Lazy {}
    impl StateMachine for Lazy {
        type State = State;
        fn fsm(&mut self) -> &mut Fsm<State> {
            &mut self.0
        }
    }
    impl Receive<State> for Lazy {
        type Reply = State;
        fn receive(&mut self, next: State, cx: &mut ActorCx<'_, Self>) -> Received<Self, State> {
            let left = cx.goto(self, next)?;
            cx.reply(left)
        }
    }
    let lazy = t.system.spawn("lazy", || Lazy(Fsm::new(Off)));
    let lazy = lazy.expect("the name is free");
    let early = failure(lazy.ask(Off).await);
    assert!(early.contains("cx.begin(self)"), "{early}");
    let again = t.lamp.ask(run(|lamp, cx| {
        cx.begin(lamp)?;
        cx.reply(Off)
    }));
    assert!(failure(again.await).contains("begun already"));
}

#[tokio::test]
async fn a_state_that_times_out_unexpectedly_is_a_failure() {
    struct Unaware(Fsm<State>);
    impl Actor for Unaware {
        fn started(&mut self, cx: &mut ActorCx<'_, Self>) -> Result<(), Failure> {
            cx.begin(self)
        }
    }
    impl StateMachine for Unaware {
        type State = State;
        fn fsm(&mut self) -> &mut Fsm<State> {
            &mut self.0
        }
        fn state_timeout(&self) -> Option<StateTimeout> {
            timeout(self.0.state())
        }
    }
    let t = Plain::start().await;
    let props = Props::new(|| Unaware(Fsm::new(On { by: 1 }))).supervision(Supervision::stop());
    let unaware = t.system.spawn("unaware", props).expect("the name is free");
    t.settle().await;
    t.pass(10).await;
    let end = in_time("its end", unaware.terminated()).await;
    // Its end may be over before it is asked for.
    assert!(
        ["not overridden", "had ended"]
            .iter()
            .any(|part| end.reason.to_string().contains(part)),
        "{}",
        end.reason
    );
}

#[tokio::test]
async fn a_machine_that_goes_on_after_a_failed_entry_makes_transitions_again() {
    for panics in [false, true] {
        let resume = Supervision::decide(|_| Directive::Resume);
        let t = Plain::with(resume, move |log| Lamp {
            fsm: Fsm::new(Off),
            log,
            broken: Some((On { by: 1 }, panics)),
            hasty: false,
        })
        .await;
        // What was stashed comes back, as the state is another one.
        t.lamp.tell(Shine(1)).expect("there is room");
        assert!(t.lamp.ask(goto(On { by: 1 })).await.is_err());
        t.settle().await;
        assert_eq!(t.log.take().last().map(String::as_str), Some("shines 1"));
        assert_eq!(t.goto(Off).await, On { by: 1 });
        assert_eq!(t.goto(On { by: 2 }).await, Off);
    }
}

#[tokio::test]
async fn a_restart_begins_anew_and_observers_are_told_of_it() {
    let t = Plain::start().await;
    let watcher = t.watcher("w");
    t.observe(&watcher).await;
    t.goto(On { by: 1 }).await;
    t.pass(5).await;
    t.log.take();
    let failed = t.lamp.ask(run::<()>(|_, _| Err(Failure::new("broken"))));
    assert!(failed.await.is_err());
    t.settle().await;
    assert_eq!(t.log.take(), ["begins Off", "w /lamp: On { by: 1 } -> Off"]);
    // The time-out of the state that is gone is gone too.
    t.pass(100).await;
    assert_eq!(t.log.take(), [] as [&str; 0]);
    t.goto(On { by: 3 }).await;
    t.settle().await;
    assert_eq!(
        t.log.take(),
        ["Off -> On { by: 3 }", "w /lamp: Off -> On { by: 3 }"]
    );
}

#[tokio::test]
async fn an_observer_is_told_once_however_often_it_observes_and_no_more_afterwards() {
    let t = Plain::start().await;
    let (one, two) = (t.watcher("one"), t.watcher("two"));
    for watcher in [&one, &two, &one] {
        t.observe(watcher).await;
    }
    t.goto(On { by: 1 }).await;
    t.settle().await;
    let mut told = t.log.take();
    told.sort();
    assert_eq!(
        told[2..],
        [
            "one /lamp: Off -> On { by: 1 }",
            "two /lamp: Off -> On { by: 1 }"
        ]
    );
    let gone = Unobserve::new(one.recipient());
    assert_eq!(t.lamp.ask(gone).await, Ok(()));
    t.goto(Off).await;
    t.settle().await;
    assert_eq!(
        t.log.take(),
        ["On { by: 1 } -> Off", "two /lamp: On { by: 1 } -> Off"]
    );
}

#[tokio::test]
async fn an_observer_that_has_ended_is_forgotten() {
    let t = Plain::start().await;
    let copies = Arc::new(AtomicUsize::new(0));
    let (one, two) = (t.watcher("one"), t.watcher("two"));
    t.observe(&one).await;
    t.observe(&two).await;
    let transition = async |state: State| {
        t.goto(state).await;
        t.settle().await;
        copies.swap(0, Ordering::Relaxed)
    };
    let counted = || State::Counted(Counted(Arc::clone(&copies)));
    transition(counted()).await;
    let with_two = transition(counted()).await;
    one.stop();
    in_time("its end", one.terminated()).await;
    transition(counted()).await;
    let with_one = transition(counted()).await;
    two.stop();
    in_time("its end", two.terminated()).await;
    transition(counted()).await;
    let with_none = transition(counted()).await;
    assert!(
        with_two > with_one && with_one > with_none,
        "{with_two} {with_one} {with_none}"
    );
}

#[tokio::test]
async fn an_observer_without_room_is_not_waited_for_and_learns_how_much_it_missed() {
    let t = Plain::start().await;
    let (told, latch) = (Log::default(), Latch::default());
    let (log, held) = (told.clone(), latch.clone());
    let slow = Props::new(move || Watcher {
        name: "slow",
        log: log.clone(),
        latch: Some(held.clone()),
    });
    // In a system of its own, as its thread waits.
    let elsewhere = ActorSystem::in_memory(ConfigSource::empty())
        .start()
        .await
        .expect("a system without a store starts");
    let slow = elsewhere.spawn("slow", slow.mailbox(2)).expect("free");
    t.observe(&slow).await;
    t.goto(On { by: 1 }).await;
    until("it is being told", || told.len() == 1).await;
    // Two have room, three do not.
    for by in 2..=6 {
        t.goto(On { by }).await;
    }
    latch.open();
    until("it was told of three", || told.len() == 6).await;
    told.take();
    t.goto(Off).await;
    until("it is told", || told.len() == 2).await;
    assert_eq!(told.take()[1], "slow /lamp: On { by: 6 } -> Off (3 missed)");
}

/// What a machine does is compared with what a list of deadlines says, for any order of entering,
/// staying, failing and waiting.
#[tokio::test]
async fn no_timeout_of_a_state_that_was_left_is_ever_handled() {
    for seed in 0..20 {
        let mut random = StdRng::seed_from_u64(seed);
        let t = Plain::start().await;
        t.settle().await;
        t.log.take();
        let mut due: Option<u32> = None;
        let mut by = 0;
        for step in 0..60 {
            match random.random_range(0..6) {
                0 | 1 => {
                    by += 1;
                    t.goto(On { by }).await;
                    due = Some(10);
                }
                2 => {
                    t.goto(Off).await;
                    due = None;
                }
                3 if random.random_bool(0.3) => {
                    let failed = t.lamp.ask(run::<()>(|_, _| Err(Failure::new("broken"))));
                    assert!(failed.await.is_err());
                    due = None;
                }
                _ => {
                    let seconds = random.random_range(1..8);
                    t.settle().await;
                    t.log.take();
                    t.pass(seconds).await;
                    let fires = due.is_some_and(|left| left <= seconds);
                    let expected = fires.then(|| format!("On {{ by: {by} }} timed out"));
                    assert_eq!(
                        t.log.take(),
                        Vec::from_iter(expected),
                        "seed {seed}, {step}"
                    );
                    due = due.filter(|_| !fires).map(|left| left - seconds);
                }
            }
        }
    }
}

// ---- entities ----

/// An entity with the same states. What its transitions do is written to a log.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Beacon {
    fsm: PersistentFsm<State>,
    flashes: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Event {
    /// A transition.
    Came(State),
    /// None.
    Flashed,
    TimedOut,
    /// Cannot be applied.
    Poison,
}

impl PersistentStateMachine for Beacon {
    const TYPE: &'static str = "Beacon";
    type Event = Event;
    type Services = Log;
    type State = State;

    fn fsm(&self) -> &PersistentFsm<State> {
        &self.fsm
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Came(state) => self.fsm.goto(state.clone()),
            Event::Flashed => {
                self.flashes += 1;
                if let On { by } = self.fsm.state_mut() {
                    *by += 1;
                }
            }
            Event::TimedOut => {}
            Event::Poison => panic!("this event cannot be applied"),
        }
    }

    fn state_timeout(&self, _: &Cx<'_, Self>) -> Option<StateTimeout> {
        timeout(self.fsm.state())
    }

    fn timed_out(&self, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        cx.services()
            .add(format!("{:?} timed out", self.fsm.state()));
        cx.persist([Event::TimedOut]).no_reply()
    }

    fn entered(&self, from: &State, cx: &Cx<'_, Self>) {
        cx.services()
            .add(format!("{from:?} -> {:?}", self.fsm.state()));
    }
}

/// Stores events. The reply is the state after them.
struct Store(Vec<Event>);

impl Handle<Store> for Beacon {
    type Reply = State;

    fn handle(&self, command: Store, cx: &Cx<'_, Self>) -> Effect<Self, State> {
        cx.persist(command.0)
            .then_run(|_, cx| cx.services().add("then_run"))
            .reply(|beacon: &Self| beacon.fsm.state().clone())
    }
}

fn come(state: State) -> Store {
    Store(vec![Event::Came(state)])
}

/// Put aside unless the beacon is on.
struct Flash;

impl Handle<Flash> for Beacon {
    type Reply = u32;

    fn handle(&self, command: Flash, cx: &Cx<'_, Self>) -> Effect<Self, u32> {
        match self.fsm.state() {
            On { .. } => cx.persist([Event::Flashed]).reply(|beacon| beacon.flashes),
            _ => cx.stash(command),
        }
    }
}

/// Runs what the test wants with the context.
struct With(fn(&Beacon, &Cx<'_, Beacon>));

impl Handle<With> for Beacon {
    type Reply = ();

    fn handle(&self, command: With, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        (command.0)(self, cx);
        cx.reply(())
    }
}

fn spec() -> (Spec<Beacon>, Log) {
    let log = Log::default();
    let entity = Entity::<Beacon>::new(log.clone()).on_signal(|_, signal, cx| {
        if let Signal::RecoveryCompleted { .. } = signal {
            cx.services().add("recovered");
        }
    });
    (Spec::of(entity).always_check_replay(), log)
}

#[test]
fn transitions_of_entities_follow_from_events_and_count_once_they_are_stored() {
    let (mut t, log) = spec();
    assert_eq!(t.when(come(On { by: 1 })).reply(), &On { by: 1 });
    assert_eq!(log.take(), ["recovered", "Off -> On { by: 1 }", "then_run"]);
    // A change of data is none.
    assert_eq!(t.when(Flash), ([Event::Flashed], 1));
    assert_eq!(log.take(), [] as [&str; 0]);
    // Not before it is stored.
    t.slow_next_write(SECOND);
    let slow = t.when(come(Off));
    assert!(slow.is_open());
    assert_eq!(log.take(), [] as [&str; 0]);
    t.advance(SECOND);
    assert_eq!(slow.reply(), &Off);
    assert_eq!(log.take(), ["On { by: 2 } -> Off", "then_run"]);
    // And not at all if it is not.
    t.faults().writes.next(WriteFault::Rejected);
    assert!(t.when(come(On { by: 3 })).error().is_some());
    assert_eq!(log.take(), ["recovered"]);
    assert_eq!(t.state().fsm.state(), &Off);
    // Nothing of it in recovery.
    t.restart();
    assert_eq!(log.take(), ["recovered"]);
}

#[test]
fn an_event_that_cannot_be_applied_makes_no_transition() {
    let (mut t, log) = spec();
    let poisoned = Store(vec![Event::Came(On { by: 1 }), Event::Poison]);
    assert!(t.when(poisoned).error().is_some());
    t.when(Store(vec![Event::TimedOut]));
    assert!(!log.take().iter().any(|line| line.contains("->")));
    assert_eq!(t.state().fsm.state(), &Off);
}

#[test]
fn a_state_of_an_entity_times_out_once_per_entry_and_not_after_it_was_left() {
    let (mut t, log) = spec();
    let timed_out = || vec![Event::TimedOut];
    t.when(come(On { by: 1 }));
    assert_eq!(t.advance(SECOND * 9), []);
    t.when(come(Off));
    assert_eq!(t.advance(SECOND * 100), []);
    t.when(come(On { by: 1 }));
    assert_eq!(t.advance(SECOND * 9), []);
    // Staying keeps it, entering anew begins it.
    t.when(Flash);
    assert_eq!(t.advance(SECOND), timed_out());
    assert_eq!(t.advance(SECOND * 100), []);
    t.when(come(On { by: 5 }));
    t.advance(SECOND * 9);
    t.when(come(On { by: 6 }));
    assert_eq!(t.advance(SECOND * 9), []);
    assert_eq!(t.advance(SECOND), timed_out());
    t.when(With(|beacon, cx| {
        cx.restart_state_timeout(beacon);
        cx.timers().cancel_all();
    }));
    assert_eq!(t.advance(SECOND * 9), []);
    assert_eq!(t.advance(SECOND), timed_out());
    assert_eq!(
        log.take().last().map(String::as_str),
        Some("On { by: 6 } timed out")
    );
    // Passing through a state leaves nothing of it behind.
    t.when(Store(vec![Event::Came(On { by: 7 }), Event::Came(Off)]));
    assert_eq!(t.advance(SECOND * 100), []);
}

#[test]
fn the_timeout_begins_again_when_the_entity_comes_back() {
    let (mut t, log) = spec();
    t.when(come(On { by: 1 }));
    t.advance(SECOND * 9);
    t.crash();
    log.take();
    t.when(With(|_, _| ()));
    assert_eq!(log.take(), ["recovered"]);
    assert_eq!(t.advance(SECOND * 9), []);
    assert_eq!(t.advance(SECOND), vec![Event::TimedOut]);

    // A deadline is kept through it, and one that passed meanwhile is due at once.
    let start = t.clock().now().as_second();
    t.when(come(Until(start + 60)));
    t.advance(SECOND * 30);
    t.restart();
    assert_eq!(t.advance(SECOND * 29), []);
    t.crash();
    t.clock().advance(SECOND * 30);
    assert_eq!(t.when(With(|_, _| ())).events(), [Event::TimedOut]);

    // After a write that failed the state is the one before, whose time begins.
    t.when(come(On { by: 2 }));
    t.advance(SECOND * 9);
    t.faults().writes.next(WriteFault::Rejected);
    assert!(t.when(come(Off)).error().is_some());
    assert_eq!(t.state().fsm.state(), &On { by: 2 });
    t.when(With(|_, _| ()));
    assert_eq!(t.advance(SECOND * 9), []);
    assert_eq!(t.advance(SECOND), vec![Event::TimedOut]);
}

#[test]
fn a_snapshot_holds_the_state_alone() {
    let log = Log::default();
    let entity = Entity::<Beacon>::new(log.clone()).snapshot_every(1);
    let mut t = Spec::of(entity).always_check_replay();
    t.when(come(On { by: 1 }));
    #[derive(Serialize)]
    struct Alone {
        fsm: State,
        flashes: u32,
    }
    let alone = Alone {
        fsm: On { by: 1 },
        flashes: 0,
    };
    let stored = t.store().snapshot(t.persistence_id()).expect("one is due");
    let expected = rmp_serde::to_vec_named(&alone).expect("it has a form");
    assert_eq!(stored.payload.bytes.to_vec(), expected);
    t.crash();
    t.when(With(|_, _| ()));
    assert_eq!(t.advance(SECOND * 10), vec![Event::TimedOut]);
}

#[test]
fn what_an_entity_has_stashed_comes_back_with_a_transition() {
    let (mut t, _log) = spec();
    let (one, two) = (t.when(Flash), t.when(Flash));
    assert!(one.is_stashed() && two.is_stashed());
    let opened = t.when(come(On { by: 0 }));
    assert_eq!(
        opened.events(),
        [Event::Came(On { by: 0 }), Event::Flashed, Event::Flashed]
    );
    assert_eq!((one.reply(), two.reply()), (&1, &2));
}

#[test]
fn a_state_that_may_time_out_keeps_its_entity_in_memory() {
    let log = Log::default();
    let entity = Entity::<Beacon>::new(log.clone()).passivate_after(Some(SECOND));
    let mut t = Spec::of(entity);
    t.when(come(On { by: 1 }));
    assert!(t.advance(SECOND * 9).is_in_memory());
    assert_eq!(t.advance(SECOND), vec![Event::TimedOut]);
    assert!(!t.advance(SECOND * 5).is_in_memory());
    // One that comes back counts from then.
    t.when(With(|_, _| ()));
    assert!(t.advance(SECOND * 9).is_in_memory());
}

/// As for plain machines, with crashes and failing writes instead of failing handlers.
#[test]
fn no_timeout_of_a_state_that_an_entity_left_is_ever_handled() {
    for seed in 0..60 {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut t, _log) = spec();
        let (mut state, mut due): (State, Option<u32>) = (Off, None);
        for step in 0..80 {
            match random.random_range(0..7) {
                0 | 1 => {
                    state = if random.random() {
                        On { by: step }
                    } else {
                        Off
                    };
                    t.when(come(state.clone()));
                    due = matches!(state, On { .. }).then_some(10);
                }
                2 => {
                    t.faults().writes.next(WriteFault::Rejected);
                    assert!(t.when(come(On { by: 0 })).error().is_some());
                    t.when(With(|_, _| ()));
                    due = matches!(state, On { .. }).then_some(10);
                }
                3 if random.random_bool(0.3) => {
                    t.crash();
                    t.when(With(|_, _| ()));
                    due = matches!(state, On { .. }).then_some(10);
                }
                _ => {
                    let seconds = random.random_range(1..8);
                    let fires = due.is_some_and(|left| left <= seconds);
                    let expected = fires.then_some(Event::TimedOut);
                    let happened = t.advance(SECOND * seconds);
                    assert_eq!(happened, Vec::from_iter(expected), "seed {seed}, {step}");
                    due = due.filter(|_| !fires).map(|left| left - seconds);
                }
            }
            assert_eq!(t.state().fsm.state(), &state, "seed {seed}, {step}");
        }
    }
}

/// A system with one entity, a store that fails on demand, and a watcher beside it.
struct Stored {
    memory: MemoryStore,
    faults: Faults,
    clock: ManualClock,
    log: Log,
    system: ActorSystem,
}

impl Stored {
    async fn start(entity: impl FnOnce(Entity<Beacon>) -> Entity<Beacon>) -> Self {
        Self::start_on(1, entity).await
    }

    async fn start_on(
        workers: usize,
        entity: impl FnOnce(Entity<Beacon>) -> Entity<Beacon>,
    ) -> Self {
        let clock = ManualClock::new();
        let memory = MemoryStore::new(Arc::new(clock.clone()));
        let faults = Faults::default();
        let store = perennial_testkit::FaultyStore::with_faults(
            Arc::new(memory.open_again()),
            faults.clone(),
        );
        let log = Log::default();
        let quick = Duration::from_millis(1);
        let beacon = entity(Entity::new(log.clone())).restart_backoff(quick, quick);
        let system = ActorSystem::with_store(ConfigSource::empty(), Arc::new(store))
            .set("system.workers", workers)
            .expect("a key")
            .clock(Arc::new(clock.clone()))
            .entity(beacon)
            .start()
            .await
            .expect("a system on memory starts");
        Self {
            memory,
            faults,
            clock,
            log,
            system,
        }
    }

    fn watcher(&self, name: &'static str) -> (ActorRef<Watcher>, Log) {
        let told = Log::default();
        let log = told.clone();
        let make = move || Watcher {
            name,
            log: log.clone(),
            latch: None,
        };
        let watcher = self.system.spawn(name, make).expect("the name is free");
        (watcher, told)
    }

    async fn observe(&self, observer: Recipient<Transition<State>>) -> State {
        let beacon = self.system.entity::<Beacon>("a");
        beacon
            .ask(Observe::new(observer))
            .await
            .expect("it answers")
    }

    async fn come(&self, state: State) -> Result<State, AskError> {
        let asked = self.system.entity::<Beacon>("a").ask(come(state));
        in_time("an answer", asked.into_future()).await
    }

    /// Lets the only worker take in what was sent to it, and look at its clock.
    async fn settle(&self) {
        for _ in 0..2 {
            let other = self.system.entity::<Beacon>("other");
            other.ask(With(|_, _| ())).await.expect("it answers");
        }
    }
}

#[tokio::test]
async fn observers_of_an_entity_see_only_what_is_durable() {
    let t = Stored::start(|entity| entity).await;
    let (watcher, told) = t.watcher("w");
    assert_eq!(t.observe(watcher.recipient()).await, Off);
    let gate = Gate::new();
    t.faults.writes.next(WriteFault::Held(gate.clone()));
    let beacon = t.system.entity::<Beacon>("a");
    let asked = tokio::spawn(beacon.ask(come(On { by: 1 })).into_future());
    until("the write has arrived", || gate.arrived() == 1).await;
    t.settle().await;
    assert_eq!(told.take(), [] as [&str; 0]);
    gate.open();
    assert_eq!(asked.await.expect("no panic"), Ok(On { by: 1 }));
    until("it is told", || told.len() == 1).await;
    assert_eq!(told.take(), ["w Beacon|a: Off -> On { by: 1 }"]);

    // What is refused is never told, and every transition of a command is.
    t.faults.writes.next(WriteFault::Rejected);
    assert!(t.come(Off).await.is_err());
    let several = Store(vec![
        Event::Flashed,
        Event::Came(Off),
        Event::Came(On { by: 9 }),
    ]);
    assert_eq!(beacon.ask(several).await, Ok(On { by: 9 }));
    until("it is told", || told.len() == 2).await;
    assert_eq!(
        told.take(),
        [
            "w Beacon|a: On { by: 2 } -> Off",
            "w Beacon|a: Off -> On { by: 9 }"
        ]
    );
    let gone = Unobserve::new(watcher.recipient());
    assert_eq!(beacon.ask(gone).await, Ok(()));
    assert_eq!(t.come(Off).await, Ok(Off));
    t.settle().await;
    assert_eq!(told.take(), [] as [&str; 0]);
}

#[tokio::test]
async fn a_timeout_that_waits_behind_the_command_that_leaves_its_state_is_not_handled() {
    let t = Stored::start(|entity| entity).await;
    assert_eq!(t.come(On { by: 1 }).await, Ok(On { by: 1 }));
    // The reply is out before.
    until("the transition is made", || t.log.len() == 2).await;
    t.log.take();
    // The time is over while the write is under way that leaves the state.
    let gate = Gate::new();
    t.faults.writes.next(WriteFault::Held(gate.clone()));
    let beacon = t.system.entity::<Beacon>("a");
    let asked = tokio::spawn(beacon.ask(come(Off)).into_future());
    until("the write has arrived", || gate.arrived() == 1).await;
    t.clock.advance(SECOND * 10);
    t.settle().await;
    gate.open();
    assert_eq!(asked.await.expect("no panic"), Ok(Off));
    until("the transition is made", || t.log.len() >= 2).await;
    t.settle().await;
    assert_eq!(t.log.take(), ["On { by: 1 } -> Off", "then_run"]);
}

#[tokio::test]
async fn observers_stay_while_their_entity_fails_and_leaves_memory() {
    let t = Stored::start(|entity| entity.passivate_after(Some(SECOND))).await;
    let (watcher, told) = t.watcher("w");
    t.observe(watcher.recipient()).await;
    let beacon = t.system.entity::<Beacon>("a");
    assert!(beacon.ask(Store(vec![Event::Poison])).await.is_err());
    t.clock.advance(SECOND);
    t.settle().await;
    assert_eq!(t.come(far()).await, Ok(far()));
    assert_eq!(t.come(Off).await, Ok(Off));
    until("it has left memory", || {
        t.clock.advance(SECOND);
        let _ = t.system.entity::<Beacon>("other").tell(With(|_, _| ()));
        t.system.stats().resident <= 1
    })
    .await;
    assert_eq!(told.take().len(), 2);
    // Another program has changed it meanwhile, which is found out when it comes back.
    let elsewhere = ActorSystem::with_store(ConfigSource::empty(), Arc::new(t.memory.open_again()))
        .entity(Entity::<Beacon>::new(Log::default()))
        .start()
        .await
        .expect("a system on memory starts");
    let there = elsewhere.entity::<Beacon>("a");
    assert_eq!(there.ask(come(On { by: 5 })).await, Ok(On { by: 5 }));
    elsewhere.shutdown().await.expect("idle");
    assert_eq!(t.come(Off).await, Ok(Off));
    until("it is told", || told.len() == 2).await;
    assert_eq!(
        told.take(),
        [
            "w Beacon|a: Off -> On { by: 5 }",
            "w Beacon|a: On { by: 5 } -> Off"
        ]
    );
    t.system.shutdown().await.expect("nothing keeps it");
}

#[tokio::test]
async fn observers_go_with_an_entity_whose_slice_moves_while_it_is_not_in_memory() {
    let t = Stored::start_on(2, |entity| entity.passivate_after(Some(SECOND))).await;
    let slice = PersistenceId::new("Beacon", "a").expect("valid").slice();
    let (watcher, told) = t.watcher("w");
    t.observe(watcher.recipient()).await;
    assert_eq!(t.come(Off).await, Ok(Off));
    until("it is told", || told.len() == 1).await;
    told.take();
    let range = SliceRange::new(slice, slice).expect("one");
    until("it has left memory", || {
        t.clock.advance(SECOND);
        for number in 0..4 {
            let other = t.system.entity::<Beacon>(&format!("other-{number}"));
            let _ = other.tell(With(|_, _| ()));
        }
        t.system.entities()[0].resident_in(range) == 0
    })
    .await;
    let to = 1 - t.system.owner(slice);
    t.system.move_slices([slice], to);
    until("the slice has gone", || t.system.owner(slice) == to).await;
    // Nobody but those who observe it has referred to it meanwhile.
    assert_eq!(t.come(On { by: 5 }).await, Ok(On { by: 5 }));
    until("it is told", || told.len() == 1).await;
    assert_eq!(told.take(), ["w Beacon|a: Off -> On { by: 5 }"]);
    assert!(t.system.stats().moved_entities >= 1);
}

#[tokio::test]
async fn a_state_that_may_time_out_does_not_keep_a_system_from_ending() {
    let t = Stored::start(|entity| entity).await;
    assert_eq!(t.come(far()).await, Ok(far()));
    in_time("the end", t.system.shutdown()).await.expect("idle");
}

#[test]
fn a_machine_is_an_entity_of_its_type() {
    assert_eq!(<Beacon as EventSourced>::TYPE, "Beacon");
}
