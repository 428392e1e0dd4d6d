//! What `TestSystem` promises to those who test their actors with it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use perennial_core::{
    Actor, ActorCx, ActorRef, AskError, Cx, DeadLetterReason, Effect, Entity, EntityRef,
    EventSourced, Failure, Handle, PendingReply, Placement, Props, Receive, Received, Recipient,
    StopReason, Supervision,
};
use perennial_testkit::{Gate, MemoryStore, TestSystem, WriteFault};
use serde::{Deserialize, Serialize};

const SECOND: Duration = Duration::from_secs(1);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Counts, and tells whoever wants to know.
#[derive(Default)]
struct Counter {
    total: u32,
    kept: Vec<PendingReply<u32>>,
}

impl Actor for Counter {}

struct Add(u32);

impl Receive<Add> for Counter {
    type Reply = u32;

    fn receive(&mut self, add: Add, cx: &mut ActorCx<'_, Self>) -> Received<Self, u32> {
        self.total += add.0;
        cx.reply(self.total)
    }
}

/// Adds after a while.
struct AddIn(Duration, u32);

impl Receive<AddIn> for Counter {
    type Reply = ();

    fn receive(&mut self, add: AddIn, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        cx.timers().start_single("add", add.0, Add(add.1));
        cx.reply(())
    }
}

/// Adds again and again.
struct AddEvery(Duration);

impl Receive<AddEvery> for Counter {
    type Reply = ();

    fn receive(&mut self, add: AddEvery, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        cx.timers().start_repeated("every", add.0, Tick);
        cx.reply(())
    }
}

#[derive(Clone)]
struct Tick;

impl Receive<Tick> for Counter {
    type Reply = ();

    fn receive(&mut self, _: Tick, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        self.total += 1;
        cx.reply(())
    }
}

/// Is not answered.
struct Keep;

impl Receive<Keep> for Counter {
    type Reply = u32;

    fn receive(&mut self, _: Keep, cx: &mut ActorCx<'_, Self>) -> Received<Self, u32> {
        cx.keep_reply(|counter: &mut Self, reply| counter.kept.push(reply))
    }
}

struct Fail;

impl Receive<Fail> for Counter {
    type Reply = ();

    fn receive(&mut self, _: Fail, _: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        Err(Failure::new("it was asked to"))
    }
}

/// Adds what a future gives.
struct AddLater<F>(F);

impl<F: Future<Output = u32> + Send + 'static> Receive<AddLater<F>> for Counter {
    type Reply = u32;

    fn receive(&mut self, later: AddLater<F>, cx: &mut ActorCx<'_, Self>) -> Received<Self, u32> {
        cx.later(later.0, |number, counter: &mut Self, cx| {
            counter.total += number;
            cx.reply(counter.total)
        })
    }
}

/// Waits for what never comes, and handles nothing meanwhile.
struct Forever;

impl Receive<Forever> for Counter {
    type Reply = ();

    fn receive(&mut self, _: Forever, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        cx.exclusive()
            .timeout(Duration::MAX)
            .later(std::future::pending::<()>(), |(), _, cx| cx.reply(()))
    }
}

/// What a panic of `test` says.
#[track_caller]
fn fails(parts: &[&str], test: impl FnOnce()) {
    let panic = catch_unwind(AssertUnwindSafe(test)).expect_err("it fails");
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .expect("a text");
    for part in parts {
        assert!(text.contains(part), "\"{text}\" does not say \"{part}\"");
    }
}

fn on(worker: usize) -> Props<Counter> {
    Props::new(Counter::default).placement(Placement::Worker(worker))
}

#[test]
fn time_stands_still_until_it_is_moved_and_moves_for_every_worker() {
    let t = TestSystem::builder().workers(3).start();
    let counters: Vec<_> = (0..3)
        .map(|worker| t.spawn_anonymous(on(worker)).expect("it runs"))
        .collect();
    let start = t.now();
    for (counter, wait) in counters.iter().zip([ms(30), ms(10), ms(20)]) {
        t.tell(counter, AddIn(wait, 1)).expect("there is room");
    }
    let totals = || -> Vec<u32> {
        let total = |counter| t.state(counter, |counter: &Counter| counter.total);
        counters.iter().map(total).collect()
    };
    assert_eq!((totals(), t.elapsed()), (vec![0, 0, 0], ms(0)));
    t.advance(ms(10));
    assert_eq!(totals(), [0, 1, 0]);
    t.advance(ms(19));
    assert_eq!(totals(), [0, 1, 1]);
    t.advance(ms(1));
    assert_eq!(totals(), [1, 1, 1]);
    assert_eq!((t.elapsed(), t.now()), (ms(30), start + ms(30)));
}

#[test]
fn an_ask_lets_time_pass_as_far_as_its_answer_takes() {
    let t = TestSystem::new();
    let counter = t.spawn("counter", Counter::default).expect("it runs");
    assert_eq!(t.ask(&counter, Add(2)), Ok(2));
    assert_eq!(t.elapsed(), ms(0));
    // Restarts take their time, and the message waits for that.
    t.tell(&counter, Fail).expect("there is room");
    assert!(!t.is_running(&counter));
    assert_eq!(t.ask(&counter, Add(3)), Ok(3));
    assert!((ms(100)..=ms(120)).contains(&t.elapsed()));
    let before = t.elapsed();
    assert!(matches!(
        t.ask(&counter, Keep),
        Err(AskError::Unknown { .. })
    ));
    // Deadlines are exact to the millisecond, rounded up.
    let waited = t.elapsed() - before;
    assert!((5 * SECOND..5 * SECOND + ms(1)).contains(&waited));
    let quick = t.block_on(counter.ask(Keep).timeout(SECOND));
    assert!(matches!(quick, Err(AskError::Unknown { .. })));
    assert!(t.elapsed() - before - waited <= SECOND + ms(1));
}

#[test]
fn an_ask_may_stay_open_while_the_test_does_something_else() {
    let t = TestSystem::new();
    let counter = t.spawn("counter", Counter::default).expect("it runs");
    let asked = t.task(counter.ask(Keep));
    assert!(!asked.is_done());
    fails(&["has not ended", "1 actors have not ended"], || {
        let _ = t.task(counter.ask(Keep)).output();
    });
    t.advance(4 * SECOND);
    assert!(!asked.is_done());
    t.advance(SECOND);
    assert!(matches!(asked.output(), Err(AskError::Unknown { .. })));
}

#[test]
fn a_dropped_task_drops_its_future() {
    let t = TestSystem::new();
    let full = t
        .spawn(
            "full",
            Props::new(Counter::default)
                .mailbox(1)
                .supervision(Supervision::restart().backoff(SECOND, SECOND).jitter(0.0)),
        )
        .expect("it runs");
    t.tell(&full, Fail).expect("there is room");
    full.tell(Add(1)).expect("there is room for one");
    let sending = |number| {
        let full = full.clone();
        t.task(async move { full.send(Add(number)).await })
    };
    let (first, second) = (sending(10), sending(100));
    assert!(!first.is_done() && !second.is_done());
    drop(first);
    t.advance(SECOND);
    assert_eq!(second.output(), Ok(()));
    assert_eq!(t.state(&full, |full| full.total), 101);
}

#[test]
fn what_nothing_will_bring_is_not_waited_for() {
    let t = TestSystem::new();
    fails(&["nothing in the system will bring", "0 actors"], || {
        t.block_on(std::future::pending::<()>());
    });
}

#[test]
fn time_passes_until_nothing_waits_for_it() {
    let t = TestSystem::new();
    let counter = t.spawn("counter", Counter::default).expect("it runs");
    assert_eq!(t.advance_until_idle(), ms(0));
    t.tell(&counter, AddIn(3600 * SECOND, 1)).expect("room");
    t.tell(&counter, Fail).expect("room");
    let other = t.spawn("other", Counter::default).expect("it runs");
    t.tell(&other, AddIn(60 * SECOND, 1)).expect("room");
    // The first timer went with the failure.
    assert_eq!(t.advance_until_idle(), 60 * SECOND);
    assert_eq!(t.state(&other, |other| other.total), 1);
    t.tell(&other, AddEvery(ms(1))).expect("room");
    fails(&["still waits for time after 100000 moments"], || {
        t.advance_until_idle();
    });
}

/// Answers whoever talks to it.
struct Echo {
    other: Option<ActorRef<Echo>>,
}

impl Actor for Echo {}

struct Ping(ActorRef<Echo>);

impl Receive<Ping> for Echo {
    type Reply = ();

    fn receive(&mut self, ping: Ping, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        ping.0.tell(Ping(cx.myself()))?;
        self.other = Some(ping.0);
        cx.reply(())
    }
}

#[test]
fn actors_that_never_come_to_rest_do_not_hang_the_test() {
    for workers in [1, 2] {
        let t = TestSystem::builder().workers(workers).start();
        let echo = || t.spawn_anonymous(|| Echo { other: None });
        let (a, b) = (echo().expect("it runs"), echo().expect("it runs"));
        fails(&["does not come to rest", "250000 turns"], || {
            let _ = t.tell(&a, Ping(b));
        });
    }
}

/// Sends its name to the probe.
struct Caller {
    name: u32,
    probe: Recipient<u32>,
}

impl Actor for Caller {
    fn started(&mut self, _: &mut ActorCx<'_, Self>) -> Result<(), Failure> {
        self.probe.tell(self.name)?;
        Ok(())
    }
}

/// In which order six actors on three workers call.
fn course(seed: u64) -> Vec<u32> {
    let t = TestSystem::builder().workers(3).seed(seed).start();
    let probe = t.probe::<u32>();
    for name in 0..6 {
        let probe = probe.recipient();
        t.spawn_anonymous(move || Caller {
            name,
            probe: probe.clone(),
        })
        .expect("it runs");
    }
    t.run();
    probe.received()
}

#[test]
fn a_seed_takes_the_same_course_every_time_and_another_one_another() {
    let courses: Vec<_> = (0..20).map(course).collect();
    let again: Vec<_> = (0..20).map(course).collect();
    assert_eq!(courses, again);
    let mut different = courses.clone();
    different.sort();
    different.dedup();
    assert!(different.len() > 5, "only {} courses", different.len());
    for mut course in courses {
        course.sort_unstable();
        assert!(course.into_iter().eq(0..6), "all of them called");
    }
}

#[test]
fn one_turn_at_a_time_shows_what_is_in_between() {
    let t = TestSystem::new();
    let counter = t.spawn("counter", Counter::default).expect("it runs");
    counter.tell(Add(1)).expect("there is room");
    assert_eq!(counter.queue_depth(), 1);
    let mut steps = 0;
    while t.step() {
        steps += 1;
    }
    assert!(steps >= 1 && counter.queue_depth() == 0);
    assert!(!t.step());
}

#[test]
fn a_probe_keeps_what_it_gets_in_order() {
    let t = TestSystem::new();
    let probe = t.probe::<u32>();
    for number in 0..3 {
        probe.recipient().tell(number).expect("there is room");
    }
    assert_eq!(probe.expect(), 0);
    assert_eq!(probe.received(), [1, 2]);
    fails(&["no u32 has come within 3s"], || {
        probe.expect();
    });
    assert_eq!(t.elapsed(), 3 * SECOND);
    assert_eq!(t.ask(probe.actor(), 7), Ok(()));
    fails(&["expected nothing within 0ns, but 1 of u32 came"], || {
        probe.expect_none(ms(0));
    });
}

#[test]
fn a_probe_waits_no_longer_than_it_is_told() {
    let t = TestSystem::new();
    let probe = t.probe::<u32>();
    let actor = probe.recipient();
    let late = t.spawn_anonymous(Counter::default).expect("it runs");
    // Comes after two seconds.
    let timer = t.spawn_anonymous(Alarm::default).expect("it runs");
    t.tell(&timer, Ring(2 * SECOND, actor)).expect("room");
    probe.expect_none(SECOND);
    fails(&["no u32 has come within 999ms"], || {
        probe.expect_within(ms(999));
    });
    assert_eq!(probe.expect_within(ms(1)), 2);
    assert_eq!(t.elapsed(), 2 * SECOND);
    drop(late);
}

/// Tells a recipient after a while how many seconds that was.
#[derive(Default)]
struct Alarm;

impl Actor for Alarm {}

struct Ring(Duration, Recipient<u32>);

impl Receive<Ring> for Alarm {
    type Reply = ();

    fn receive(&mut self, ring: Ring, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        let seconds = u32::try_from(ring.0.as_secs())?;
        cx.timers()
            .start_single("ring", ring.0, Call(seconds, ring.1));
        cx.reply(())
    }
}

struct Call(u32, Recipient<u32>);

impl Receive<Call> for Alarm {
    type Reply = ();

    fn receive(&mut self, call: Call, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        call.1.tell(call.0)?;
        cx.reply(())
    }
}

#[test]
fn a_probe_watches_and_hears_what_was_sent_before_the_end() {
    for seed in 0..20 {
        let t = TestSystem::builder().workers(2).seed(seed).start();
        let probe = t.probe::<u32>();
        let recipient = probe.recipient();
        let caller = t
            .spawn_anonymous(move || Caller {
                name: 7,
                probe: recipient.clone(),
            })
            .expect("it runs");
        probe.watch(&caller);
        caller.stop();
        assert_eq!(probe.expect(), 7);
        assert!(matches!(
            probe.expect_terminated(&caller),
            StopReason::Stopped
        ));
    }
    let t = TestSystem::new();
    let probe = t.probe::<u32>();
    let counter = t.spawn("counter", Counter::default).expect("it runs");
    fails(&["ActorRef(/counter) has not ended within 3s"], || {
        probe.expect_terminated(&counter);
    });
    probe.watch(&counter);
    probe.unwatch(&counter);
    counter.stop();
    probe.expect_none(SECOND);
    probe.watch(&counter);
    fails(
        &["expected a u32, but /counter has ended: it had ended before"],
        || {
            probe.expect();
        },
    );
    let ended = t.watch(&counter);
    assert!(matches!(ended.output().reason, StopReason::NotFound));
}

#[test]
fn watching_does_not_keep_an_actor_from_its_end() {
    let t = TestSystem::new();
    let props = Props::new(Counter::default).stop_unreferenced();
    let counter = t.spawn("counter", props).expect("it runs");
    let watched = t.watch(&counter);
    t.advance(SECOND);
    assert!(!watched.is_done());
    drop(counter);
    assert!(matches!(watched.output().reason, StopReason::Unreferenced));
}

#[test]
fn looking_into_an_actor_that_is_not_running_says_so() {
    let t = TestSystem::new();
    let counter = t.spawn("counter", Counter::default).expect("it runs");
    assert_eq!(t.state(&counter, |counter| counter.total), 0);
    t.tell(&counter, Fail).expect("there is room");
    fails(&["ActorRef(/counter) has no state", "not running"], || {
        t.state(&counter, |_| ());
    });
    t.advance(SECOND);
    assert!(t.is_running(&counter));
    counter.stop();
    assert!(!t.is_running(&counter));
    assert!(t.actor::<Counter>("/counter").is_none());
}

#[test]
fn futures_go_on_on_the_thread_of_the_test() {
    let t = TestSystem::new();
    let counter = t.spawn("counter", Counter::default).expect("it runs");
    let (open, opened) = tokio::sync::oneshot::channel();
    let asked = t.task(counter.ask(AddLater(async { opened.await.unwrap_or(0) })));
    assert_eq!(t.ask(&counter, Add(1)), Ok(1));
    assert!(!asked.is_done());
    open.send(5).expect("it waits");
    assert_eq!(asked.output(), Ok(6));
    // One that takes too long is dropped, as `later-timeout` says.
    let forever = t.block_on(
        counter
            .ask(AddLater(std::future::pending()))
            .timeout(3600 * SECOND),
    );
    assert!(matches!(forever, Err(AskError::Unknown { .. })));
    assert_eq!(t.elapsed(), 60 * SECOND);
}

#[tokio::test]
async fn futures_that_need_a_runtime_find_that_of_the_test() {
    let t = TestSystem::new();
    let counter = t.spawn("counter", Counter::default).expect("it runs");
    let asked = t.task(counter.ask(AddLater(async {
        tokio::task::yield_now().await;
        tokio::spawn(async { 5 }).await.unwrap_or(0)
    })));
    t.wait_for_futures().await;
    assert_eq!(asked.output(), Ok(5));
}

// ---- entities ----

/// Greets whoever it meets, and remembers how many there were.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Guest {
    met: u32,
}

#[derive(Debug, Serialize, Deserialize)]
enum GuestEvent {
    Met,
}

impl EventSourced for Guest {
    const TYPE: &'static str = "Guest";
    type Event = GuestEvent;
    type Services = ();

    fn apply(&mut self, _: &GuestEvent) {
        self.met += 1;
    }
}

/// Asks the host how many guests there were.
struct Meet(ActorRef<Host>);

impl Handle<Meet> for Guest {
    type Reply = u32;

    fn handle(&self, meet: Meet, cx: &Cx<'_, Self>) -> Effect<Self, u32> {
        let host = meet.0;
        cx.later(async move { host.ask(HowMany).await }, |guests, _, cx| {
            let guests = guests.unwrap_or(0);
            cx.persist([GuestEvent::Met]).reply(move |_| guests)
        })
    }
}

/// Brings guests to meet it.
struct Host {
    guests: u32,
}

impl Actor for Host {}

struct Welcome(EntityRef<Guest>);

impl Receive<Welcome> for Host {
    type Reply = Result<u32, AskError>;

    fn receive(
        &mut self,
        welcome: Welcome,
        cx: &mut ActorCx<'_, Self>,
    ) -> Received<Self, Result<u32, AskError>> {
        self.guests += 1;
        let (guest, me) = (welcome.0, cx.myself());
        cx.later(async move { guest.ask(Meet(me)).await }, |met, _, cx| {
            cx.reply(met)
        })
    }
}

struct HowMany;

impl Receive<HowMany> for Host {
    type Reply = u32;

    fn receive(&mut self, _: HowMany, cx: &mut ActorCx<'_, Self>) -> Received<Self, u32> {
        cx.reply(self.guests)
    }
}

#[test]
fn an_actor_and_an_entity_hold_each_others_references() {
    let memory = MemoryStore::default();
    for round in 1..=2 {
        let t = TestSystem::builder()
            .entity(Entity::<Guest>::new(()))
            .store(memory.open_again())
            .start();
        let host = t.spawn("host", || Host { guests: 0 }).expect("it runs");
        let guest = t.entity::<Guest>("ann");
        assert_eq!(t.ask(&host, Welcome(guest.clone())), Ok(Ok(1)));
        // The next system finds what this one stored.
        assert_eq!(t.state(&guest, |guest| guest.met), round);
        assert!(t.shutdown());
    }
}

#[test]
fn the_store_of_entities_fails_on_demand() {
    let t = TestSystem::builder()
        .entity(Entity::<Guest>::new(()))
        .start();
    let host = t.spawn("host", || Host { guests: 0 }).expect("it runs");
    let guest = t.entity::<Guest>("ann");
    let gate = Gate::new();
    t.faults().writes.next(WriteFault::Held(gate.clone()));
    let asked = t.task(guest.ask(Meet(host)));
    t.advance(SECOND);
    assert!(!asked.is_done());
    gate.open();
    assert_eq!(asked.output(), Ok(0));
    assert_eq!(
        t.store().rows(guest.persistence_id().expect("an id")).len(),
        1
    );
}

// ---- settings and the end ----

#[test]
fn settings_are_those_of_the_program() {
    let t = TestSystem::builder()
        .set("system.ask-timeout", "70ms")
        .set("system.inbox", 2)
        .entity(Entity::<Guest>::new(()))
        .workers(1)
        .start();
    let counter = t.spawn("counter", Counter::default).expect("it runs");
    assert!(matches!(
        t.ask(&counter, Keep),
        Err(AskError::Unknown { .. })
    ));
    assert_eq!(t.elapsed(), ms(70));
    let guest = t.entity::<Guest>("ann");
    let host = t.spawn("host", || Host { guests: 0 }).expect("it runs");
    for _ in 0..2 {
        guest
            .tell(Meet(host.clone()))
            .expect("there is room for two");
    }
    let third = guest.tell(Meet(host));
    assert!(matches!(third, Err(AskError::Busy { .. })));
    fails(&["system.inbox", "0"], || {
        TestSystem::builder().set("system.inbox", 0).start();
    });
    fails(&["inbx"], || {
        TestSystem::builder().set("system.inbx", 1).start();
    });
}

#[test]
fn a_shutdown_handles_what_waits_and_takes_no_longer_than_it_may() {
    let t = TestSystem::new();
    let probe = t.probe::<u32>();
    let recipient = probe.recipient();
    let counter = t.spawn("counter", Counter::default).expect("it runs");
    counter.tell(Add(1)).expect("there is room");
    let ended = t.watch(&counter);
    drop(recipient);
    assert!(t.shutdown());
    assert!(ended.is_done());
    assert_eq!((t.actors(), t.waiting(), t.elapsed()), (0, 0, ms(0)));
    assert!(t.spawn("late", Counter::default).is_err());
    assert_eq!(t.ask(&counter, Add(1)), Err(AskError::Stopped));
    assert_eq!(t.dead_letters(DeadLetterReason::Stopped), 0);

    // One that handles nothing until something comes that never does is not waited for.
    let t = TestSystem::new();
    let counter = t.spawn("counter", Counter::default).expect("it runs");
    t.tell(&counter, Forever).expect("there is room");
    counter.tell(Add(1)).expect("there is room");
    assert!(!t.shutdown());
    assert_eq!(t.elapsed(), 30 * SECOND);
    assert_eq!((t.actors(), t.waiting()), (0, 0));
    assert_eq!(t.dead_letters(DeadLetterReason::Stopped), 1);
}

#[test]
fn chance_in_the_system_comes_from_the_seed() {
    let wait = |seed| {
        let t = TestSystem::builder().seed(seed).start();
        let props = Props::new(Counter::default)
            .supervision(Supervision::restart().backoff(SECOND, SECOND).jitter(1.0));
        let counter = t.spawn("counter", props).expect("it runs");
        t.tell(&counter, Fail).expect("there is room");
        t.advance_until_idle()
    };
    let waits: Vec<_> = (0..10).map(wait).collect();
    let again: Vec<_> = (0..10).map(wait).collect();
    assert_eq!(waits, again);
    assert!(
        waits
            .iter()
            .all(|wait| (SECOND..=2 * SECOND).contains(wait))
    );
    assert!(waits.windows(2).any(|pair| pair[0] != pair[1]));
}

/// Counts what its owner does outside.
struct Blocking(Arc<AtomicU32>);

impl Actor for Blocking {}

struct Work;

impl Receive<Work> for Blocking {
    type Reply = u32;

    fn receive(&mut self, _: Work, cx: &mut ActorCx<'_, Self>) -> Received<Self, u32> {
        let done = Arc::clone(&self.0);
        cx.blocking(
            move || done.fetch_add(1, Ordering::Relaxed) + 1,
            |done, _, cx| cx.reply(done),
        )
    }
}

#[test]
fn blocking_work_runs_on_the_thread_of_the_test() {
    let t = TestSystem::new();
    let done = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&done);
    let worker = t
        .spawn("worker", move || Blocking(Arc::clone(&count)))
        .expect("it runs");
    assert_eq!(t.ask(&worker, Work), Ok(1));
    assert_eq!(t.ask(&worker, Work), Ok(2));
    assert_eq!((done.load(Ordering::Relaxed), t.elapsed()), (2, ms(0)));
}
