//! Reminders: when they come, what keeps them, and what takes them back.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use perennial_core::cleanup::CleanupTask;
use perennial_core::config::ConfigSource;
use perennial_core::{
    ActorSystem, AskError, Cx, Due, Durable, DurableState, Effect, Entity, EntityRef, EventSourced,
    Handle, PersistFailure,
};
use perennial_persistence::{Clock, PersistenceId, Timestamp};
use perennial_testkit::{
    Gate, ManualClock, MemoryStore, ReadFault, TestSystem, TestSystemBuilder, WriteFault,
};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

const SECOND: Duration = Duration::from_secs(1);

/// Remembers what was noted.
#[derive(Default)]
struct Log {
    notes: Vec<String>,
}

/// What a reminder does, and what was seen of it besides.
#[derive(Clone)]
struct Services {
    ring: Arc<OnRing>,
    seen: Arc<Mutex<Vec<String>>>,
}

type OnRing = dyn Fn(Ring, &Log, &Cx<'_, Log>) -> Effect<Log, ()> + Send + Sync;

impl Services {
    fn new(
        ring: impl Fn(Ring, &Log, &Cx<'_, Log>) -> Effect<Log, ()> + Send + Sync + 'static,
    ) -> Self {
        Self {
            ring: Arc::new(ring),
            seen: Arc::default(),
        }
    }

    fn see(&self, line: &str) -> usize {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.push(line.to_owned());
        seen.len()
    }

    fn seen(&self) -> Vec<String> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl EventSourced for Log {
    const TYPE: &'static str = "Log";
    type Event = String;
    type Services = Services;

    fn apply(&mut self, note: &String) {
        self.notes.push(note.clone());
    }
}

/// Whatever the test wants.
struct Do(Box<Work>);

type Work = dyn FnOnce(&Log, &Cx<'_, Log>) -> Effect<Log, ()> + Send;

fn run(work: impl FnOnce(&Log, &Cx<'_, Log>) -> Effect<Log, ()> + Send + 'static) -> Do {
    Do(Box::new(work))
}

impl Handle<Do> for Log {
    type Reply = ();

    fn handle(&self, work: Do, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        (work.0)(self, cx)
    }
}

#[derive(Serialize, Deserialize)]
struct Ring(String);

impl Handle<Ring> for Log {
    type Reply = ();

    fn handle(&self, ring: Ring, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        cx.services().see(&ring.0);
        (cx.services().ring)(ring, self, cx)
    }
}

/// Notes what it says.
fn note(ring: Ring, _: &Log, cx: &Cx<'_, Log>) -> Effect<Log, ()> {
    cx.persist([ring.0]).reply(|_| ())
}

fn remind(key: &'static str, seconds: u64, text: &str) -> Do {
    let (text, ring) = (format!("set {text}"), Ring(text.to_owned()));
    run(move |_, cx| {
        cx.persist([text])
            .remind(key, SECOND * u32::try_from(seconds).expect("small"), ring)
            .reply(|_| ())
    })
}

fn entity(services: Services) -> Entity<Log> {
    Entity::<Log>::new(services).command::<Ring>("log.Ring")
}

struct Bed {
    t: TestSystem,
    services: Services,
    log: EntityRef<Log>,
}

impl Bed {
    fn new() -> Self {
        Self::with(note, |builder, entity| builder.entity(entity))
    }

    fn with(
        ring: impl Fn(Ring, &Log, &Cx<'_, Log>) -> Effect<Log, ()> + Send + Sync + 'static,
        build: impl FnOnce(TestSystemBuilder, Entity<Log>) -> TestSystemBuilder,
    ) -> Self {
        let services = Services::new(ring);
        let t = build(TestSystem::builder(), entity(services.clone())).start();
        Self::of(t, services)
    }

    fn of(t: TestSystem, services: Services) -> Self {
        let log = t.entity::<Log>("a");
        Self { t, services, log }
    }

    /// A system on the same data and clock, as after a crash.
    fn after_crash(self) -> Self {
        self.t.crash();
        let (clock, store) = (self.t.clock().clone(), self.t.store().open_again());
        self.again(clock, store)
    }

    fn again(self, clock: ManualClock, store: MemoryStore) -> Self {
        let t = TestSystem::builder()
            .entity(entity(self.services.clone()))
            .clock(clock)
            .store(store)
            .start();
        Self::of(t, self.services)
    }

    fn ask(&self, work: Do) {
        assert_eq!(self.t.ask(&self.log, work), Ok(()));
    }

    fn pass(&self, seconds: u32) {
        self.t.advance(SECOND * seconds);
    }

    fn notes(&self) -> Vec<String> {
        let id = PersistenceId::new("Log", "a").expect("valid");
        let rows = self.t.store().rows(&id);
        let payloads = rows.into_iter().filter_map(|row| row.event);
        payloads
            .map(|(_, event)| {
                // A text as MessagePack, after its head.
                String::from_utf8_lossy(&event.payload.bytes[1..]).into_owned()
            })
            .collect()
    }

    fn stored(&self) -> Vec<String> {
        let id = PersistenceId::new("Log", "a").expect("valid");
        let reminders = self.t.store().reminders_of(&id).into_iter();
        reminders.map(|reminder| reminder.key.to_string()).collect()
    }

    #[track_caller]
    fn check(&self, notes: &[&str], stored: &[&str]) {
        assert_eq!(self.notes(), notes);
        assert_eq!(self.stored(), stored);
    }
}

#[test]
fn a_reminder_comes_once_at_its_time() {
    let bed = Bed::new();
    bed.ask(remind("k", 10, "x"));
    bed.check(&["set x"], &["k"]);
    bed.t.advance(SECOND * 10 - Duration::from_micros(1));
    bed.check(&["set x"], &["k"]);
    bed.t.advance(Duration::from_micros(1));
    bed.check(&["set x", "x"], &[]);
    bed.pass(1000);
    bed.check(&["set x", "x"], &[]);
}

#[test]
fn a_reminder_may_name_a_time_that_is_past() {
    let bed = Bed::new();
    bed.ask(run(|_, cx| {
        cx.persist(["set".to_owned()])
            .remind("past", Due::At(Timestamp::MIN), Ring("past".to_owned()))
            .remind("now", cx.now(), Ring("now".to_owned()))
            .reply(|_| ())
    }));
    bed.check(&["set", "past", "now"], &[]);
}

#[test]
fn a_reminder_brings_its_entity_back() {
    let bed = Bed::with(note, |builder, entity| {
        builder.entity(entity.passivate_after(Some(SECOND)))
    });
    bed.ask(remind("k", 1000, "x"));
    bed.pass(10);
    assert!(!bed.t.is_running(&bed.log));
    bed.pass(989);
    assert!(!bed.t.is_running(&bed.log));
    bed.pass(1);
    bed.check(&["set x", "x"], &[]);
}

#[test]
fn a_reminder_survives_a_crash_and_comes_at_its_time() {
    let bed = Bed::new();
    bed.ask(remind("k", 30, "x"));
    let bed = bed.after_crash();
    bed.pass(29);
    bed.check(&["set x"], &["k"]);
    bed.pass(1);
    bed.check(&["set x", "x"], &[]);
}

#[test]
fn an_overdue_reminder_comes_once_after_a_long_pause() {
    let bed = Bed::new();
    bed.ask(remind("k", 30, "x"));
    bed.t.crash();
    bed.t.clock().advance(SECOND * 1_000_000);
    let bed = bed.after_crash();
    bed.t.run();
    bed.check(&["set x", "x"], &[]);
    bed.pass(1000);
    bed.check(&["set x", "x"], &[]);
}

#[test]
fn a_reminder_replaces_the_one_with_its_key() {
    let bed = Bed::new();
    bed.ask(remind("k", 10, "first"));
    bed.ask(remind("k", 20, "second"));
    bed.ask(remind("other", 15, "other"));
    bed.pass(10);
    bed.check(&["set first", "set second", "set other"], &["k", "other"]);
    bed.pass(10);
    let all = ["set first", "set second", "set other", "other", "second"];
    bed.check(&all, &[]);
}

#[test]
fn a_forgotten_reminder_does_not_come() {
    let bed = Bed::new();
    bed.ask(remind("k", 10, "x"));
    bed.ask(remind("l", 10, "y"));
    bed.ask(run(|_, cx| {
        cx.persist(["gone".to_owned()])
            .forget("k")
            .forget("never")
            .reply(|_| ())
    }));
    bed.check(&["set x", "set y", "gone"], &["l"]);
    bed.pass(100);
    bed.check(&["set x", "set y", "gone", "y"], &[]);
}

#[test]
fn the_last_change_of_a_key_in_one_effect_counts() {
    let bed = Bed::new();
    bed.ask(run(|_, cx| {
        let ring = |text: &str| Ring(text.to_owned());
        cx.remind("a", SECOND, ring("a"))
            .forget("a")
            .forget("b")
            .remind("b", SECOND, ring("b"))
            .remind("c", SECOND, ring("lost"))
            .remind("c", SECOND, ring("c"))
            .reply(|_| ())
    }));
    bed.check(&[], &["b", "c"]);
    bed.pass(1);
    bed.check(&["b", "c"], &[]);
}

#[test]
fn reminders_alone_are_durable_before_the_reply_leaves() {
    let bed = Bed::new();
    let gate = Gate::new();
    bed.t.faults().writes.next(WriteFault::Held(gate.clone()));
    let alone = run(|_, cx| cx.remind("k", SECOND, Ring("x".to_owned())).reply(|_| ()));
    let asked = bed.t.task(bed.log.ask(alone));
    // A look at the state waits as well: it may be of one that was told of the reminder.
    let looked = bed.t.task(bed.log.ask(run(|_, cx| cx.reply(()))));
    bed.t.run();
    assert!(!asked.is_done() && !looked.is_done());
    bed.check(&[], &[]);
    gate.open();
    bed.t.run();
    assert_eq!(asked.output(), Ok(()));
    assert_eq!(looked.output(), Ok(()));
    bed.check(&[], &["k"]);
    bed.pass(1);
    bed.check(&["x"], &[]);
}

#[test]
fn without_its_events_no_reminder_is_set() {
    let bed = Bed::new();
    for fault in [WriteFault::Rejected, WriteFault::Conflict] {
        bed.t.faults().writes.next(fault);
        let answer = bed.t.ask(&bed.log, remind("k", 1, "x"));
        assert!(
            matches!(answer, Err(AskError::PersistFailed(_))),
            "{answer:?}"
        );
    }
    bed.pass(100);
    bed.check(&[], &[]);
    assert_eq!(bed.services.seen(), [] as [&str; 0]);
}

#[test]
fn what_takes_a_reminder_back_and_is_not_stored_leaves_it() {
    let bed = Bed::new();
    bed.ask(remind("k", 10, "x"));
    bed.t.faults().writes.next(WriteFault::Rejected);
    let forget = run(|_, cx| cx.forget("k").reply(|_| ()));
    assert!(bed.t.ask(&bed.log, forget).is_err());
    bed.pass(10);
    bed.check(&["set x", "x"], &[]);
}

#[test]
fn a_reminder_that_is_due_is_not_handled_once_it_is_taken_back() {
    // What takes it back waits for the store while it becomes due.
    for is_stored in [true, false] {
        let bed = Bed::new();
        bed.ask(remind("k", 10, "x"));
        let gate = Gate::new();
        bed.t.faults().writes.next(WriteFault::Held(gate.clone()));
        if !is_stored {
            bed.t.faults().writes.next(WriteFault::Rejected);
        }
        let first = bed.t.task(bed.log.ask(remind("other", 1000, "y")));
        bed.t.run();
        let forget = run(|_, cx| cx.forget("k").reply(|_| ()));
        let forget = bed.t.task(bed.log.ask(forget));
        bed.t.run();
        bed.t.advance(SECOND * 2);
        bed.t.clock().advance(SECOND * 8);
        bed.t.run();
        assert_eq!(bed.services.seen(), [] as [&str; 0], "{is_stored}");
        gate.open();
        bed.t.run();
        drop((first, forget));
        bed.pass(20);
        let expected: &[&str] = if is_stored { &[] } else { &["x"] };
        assert_eq!(bed.services.seen(), expected);
        assert_eq!(bed.stored(), ["other"]);
    }
}

#[test]
fn a_reminder_whose_answer_is_lost_is_handled_once() {
    let bed = Bed::new();
    bed.ask(remind("k", 10, "x"));
    bed.t.faults().writes.next(WriteFault::LostAnswer);
    bed.pass(100);
    bed.check(&["set x", "x"], &[]);
    assert_eq!(bed.services.seen(), ["x"]);
}

#[test]
fn a_reminder_is_handled_once_although_the_store_never_says_what_became_of_it() {
    for fault in [WriteFault::LostAnswer, WriteFault::LostRequest] {
        let bed = Bed::new();
        bed.ask(remind("k", 10, "x"));
        bed.pass(9);
        let mut left = Some(fault);
        let give_up = bed.t.elapsed() + SECOND * 40;
        let clock = bed.t.clock().clone();
        // Whatever is tried again for longer than `outcome-timeout` fails.
        bed.t.faults().writes.decide(move |_| {
            let is_over = clock.elapsed() > give_up;
            left.take()
                .or((!is_over).then_some(WriteFault::Unavailable))
        });
        bed.pass(1000);
        bed.check(&["set x", "x"], &[]);
    }
}

#[test]
fn a_reminder_that_panics_comes_again_after_a_wait() {
    let bed = Bed::with(
        |ring, log, cx| match cx.services().seen().len() {
            1 | 2 => panic!("not yet"),
            _ => note(ring, log, cx),
        },
        |builder, entity| builder.entity(entity.restart_backoff(SECOND, SECOND * 60)),
    );
    bed.ask(remind("k", 10, "x"));
    bed.pass(10);
    bed.check(&["set x"], &["k"]);
    assert_eq!(bed.services.seen(), ["x"]);
    bed.pass(60);
    bed.check(&["set x", "x"], &[]);
    assert_eq!(bed.services.seen(), ["x", "x", "x"]);
}

#[test]
fn a_reminder_waits_while_its_entity_cannot_be_brought_back() {
    let bed = Bed::new();
    bed.ask(remind("k", 100, "x"));
    let bed = bed.after_crash();
    bed.t.faults().reads.next(ReadFault::Corrupt);
    bed.pass(100);
    bed.pass(60);
    bed.check(&["set x", "x"], &[]);
}

#[test]
fn a_reminder_that_persists_nothing_is_over_when_it_was_handled() {
    let bed = Bed::with(
        |_, _, cx| cx.reply(()),
        |builder, entity| builder.entity(entity),
    );
    bed.ask(remind("k", 10, "x"));
    bed.pass(10);
    bed.check(&["set x"], &[]);
    let bed = bed.after_crash();
    bed.pass(100);
    assert_eq!(bed.services.seen(), ["x"]);
}

#[test]
fn a_reminder_without_use_is_over() {
    let bed = Bed::with(
        |_, _, cx| cx.unhandled(),
        |builder, entity| builder.entity(entity),
    );
    bed.ask(remind("k", 10, "x"));
    bed.pass(100);
    bed.check(&["set x"], &[]);
    assert_eq!(bed.services.seen(), ["x"]);
}

#[test]
fn a_reminder_that_sets_itself_comes_again_and_again() {
    let bed = Bed::with(
        |ring, log, cx| {
            let note = format!("{}{}", ring.0, log.notes.len());
            cx.persist([note])
                .remind("k", SECOND * 10, ring)
                .reply(|_| ())
        },
        |builder, entity| builder.entity(entity),
    );
    bed.ask(remind("k", 10, "x"));
    bed.pass(35);
    bed.check(&["set x", "x1", "x2", "x3"], &["k"]);
    let bed = bed.after_crash();
    bed.pass(5);
    bed.check(&["set x", "x1", "x2", "x3", "x4"], &["k"]);
}

#[test]
fn a_stashed_reminder_is_handled_later() {
    let bed = Bed::with(
        |ring, log, cx| match log.notes.iter().any(|note| note == "open") {
            true => note(ring, log, cx),
            false => cx.stash(ring),
        },
        |builder, entity| builder.entity(entity),
    );
    bed.ask(remind("k", 10, "x"));
    bed.ask(remind("l", 10, "y"));
    bed.pass(20);
    bed.check(&["set x", "set y"], &["k", "l"]);
    // One of them is taken back meanwhile.
    bed.ask(run(|_, cx| {
        cx.persist(["open".to_owned()])
            .forget("l")
            .then_unstash_all()
            .reply(|_| ())
    }));
    bed.pass(20);
    bed.check(&["set x", "set y", "open", "x"], &[]);
}

#[test]
fn a_reminder_is_over_with_what_its_future_lets_it_persist() {
    let (release, mut wait) = (Mutex::new(Vec::new()), Vec::new());
    for _ in 0..2 {
        let (sender, receiver) = oneshot::channel::<bool>();
        release.lock().expect("free").push(receiver);
        wait.insert(0, sender);
    }
    let bed = Bed::with(
        move |ring, _, cx| {
            let receiver = release.lock().expect("free").pop().expect("one is left");
            cx.later(
                async move { receiver.await == Ok(true) },
                move |is_good, _, cx| match is_good {
                    true => cx.persist([ring.0]).reply(|_| ()),
                    false => panic!("not this time"),
                },
            )
        },
        |builder, entity| builder.entity(entity),
    );
    bed.ask(remind("k", 10, "x"));
    bed.pass(10);
    bed.check(&["set x"], &["k"]);
    wait.remove(0).send(false).expect("it waits");
    bed.pass(30);
    bed.check(&["set x"], &["k"]);
    wait.remove(0).send(true).expect("it waits");
    bed.pass(30);
    bed.check(&["set x", "x"], &[]);
}

#[test]
fn more_reminders_than_are_kept_ready_come_in_their_order() {
    for ahead in [1, 3, 7, 100] {
        let bed = Bed::with(note, |builder, entity| {
            builder
                .workers(1)
                .set("persistence.reminders-ahead", ahead)
                .set("persistence.reminder-window", "10s")
                .entity(entity)
        });
        // From the last to the first, some at one time.
        bed.ask(run(|_, cx| {
            let mut effect = cx.persist(["set".to_owned()]);
            for n in (0..30_u32).rev() {
                let ring = Ring(format!("{n:02}"));
                effect = effect.remind(format!("{n:02}"), SECOND * (n / 2), ring);
            }
            effect.reply(|_| ())
        }));
        for n in 0..15 {
            bed.t.run();
            assert_eq!(
                bed.notes().len(),
                1 + 2 * (n + 1),
                "{ahead} ahead, second {n}"
            );
            bed.pass(1);
        }
        let expected: Vec<String> = (0..30).map(|n| format!("{n:02}")).collect();
        assert_eq!(bed.notes()[1..], expected, "{ahead} ahead");
        assert!(bed.stored().is_empty());
    }
}

#[test]
fn more_reminders_than_may_be_at_once_wait() {
    let gate = Arc::new(Mutex::new(Vec::new()));
    let waits = Arc::clone(&gate);
    let bed = Bed::with(
        move |ring, _, cx| {
            let (sender, receiver) = oneshot::channel::<()>();
            waits.lock().expect("free").push(sender);
            cx.later(receiver, |_, _, cx| cx.persist([ring.0]).reply(|_| ()))
                .interleaved()
        },
        |builder, entity| {
            builder
                .workers(1)
                .set("persistence.reminders-at-once", 2)
                .entity(entity)
        },
    );
    for (key, text) in [("a", "a"), ("b", "b"), ("c", "c"), ("d", "d"), ("e", "e")] {
        bed.ask(remind(key, 10, text));
    }
    let mut all = 0;
    bed.pass(10);
    while all < 5 {
        let open = std::mem::take(&mut *gate.lock().expect("free"));
        assert!(
            !open.is_empty() && open.len() <= 2,
            "{} at once",
            open.len()
        );
        all += open.len();
        drop(open);
        bed.t.run();
    }
    bed.pass(1);
    assert_eq!(bed.services.seen().len(), 5);
    assert!(bed.stored().is_empty());
}

#[test]
fn what_another_program_has_set_or_taken_back_is_noticed() {
    let bed = Bed::with(note, |builder, entity| {
        builder
            .set("persistence.reminder-window", "60s")
            .entity(entity)
    });
    // The other one has entities of its own, in the same database.
    let other = TestSystem::builder()
        .entity(entity(bed.services.clone()))
        .clock(bed.t.clock().clone())
        .store(bed.t.store().open_again())
        .start();
    let log = other.entity::<Log>("b");
    assert_eq!(other.ask(&log, remind("k", 200, "mine")), Ok(()));
    assert_eq!(other.ask(&log, remind("gone", 200, "gone")), Ok(()));
    bed.pass(100);
    other.run();
    let forget = run(|_, cx| cx.forget("gone").reply(|_| ()));
    assert_eq!(other.ask(&log, forget), Ok(()));
    other.crash();
    bed.pass(100);
    let id = PersistenceId::new("Log", "b").expect("valid");
    assert_eq!(bed.t.store().rows(&id).len(), 3);
    assert_eq!(bed.services.seen(), ["mine"]);
}

#[test]
fn reading_goes_on_when_the_store_is_back() {
    let bed = Bed::new();
    bed.ask(remind("k", 100, "x"));
    let bed = bed.after_crash();
    for _ in 0..5 {
        bed.t.faults().reminder_reads.next(ReadFault::Unavailable);
    }
    bed.pass(99);
    bed.check(&["set x"], &["k"]);
    bed.pass(1);
    bed.check(&["set x", "x"], &[]);
}

#[test]
fn a_command_without_a_name_is_no_reminder() {
    let services = Services::new(note);
    let t = TestSystem::builder()
        .entity(Entity::<Log>::new(services.clone()))
        .start();
    let bed = Bed::of(t, services);
    let Err(AskError::PersistFailed(failed)) = bed.t.ask(&bed.log, remind("k", 1, "x")) else {
        panic!("it should have been refused");
    };
    assert_eq!(failed.kind, PersistFailure::Rejected);
    let text = failed.to_string();
    assert!(
        text.contains("Ring") && text.contains("Entity::command"),
        "{text}"
    );
    bed.check(&[], &[]);
}

#[test]
fn what_cannot_be_stored_is_refused_and_nothing_of_it_happens() {
    let bed = Bed::with(note, |builder, entity| {
        builder
            .set("persistence.max-events-per-write", 2)
            .set("persistence.max-event-bytes", "1KiB")
            .entity(entity)
    });
    let ring = || Ring("x".to_owned());
    let refused = |work: Do, part: &str| {
        let Err(AskError::PersistFailed(failed)) = bed.t.ask(&bed.log, work) else {
            panic!("it should have been refused: {part}");
        };
        let text = failed.to_string();
        assert!(text.contains(part), "{text}");
    };
    let set = move |key: String| {
        run(move |_, cx| {
            let effect = cx.persist(["set".to_owned()]);
            effect.remind(key, SECOND, ring()).reply(|_| ())
        })
    };
    refused(set(String::new()), "at least one character");
    refused(set("k".repeat(256)), "256 characters");
    refused(set("k\0".to_owned()), "U+0000");
    let many = run(move |_, cx| {
        cx.remind("a", SECOND, ring())
            .remind("b", SECOND, ring())
            .forget("c")
            .reply(|_| ())
    });
    refused(many, "max-events-per-write");
    let large = run(|_, cx| cx.remind("a", SECOND, Ring("x".repeat(2000))).reply(|_| ()));
    refused(large, "max-event-bytes");
    bed.check(&[], &[]);

    bed.ask(set("k".repeat(255)));
    bed.ask(run(move |_, cx| {
        cx.remind("a", SECOND, ring())
            .remind("b", SECOND, ring())
            .reply(|_| ())
    }));
    bed.pass(1);
    assert_eq!(bed.notes(), ["set", "x", "x", "x"]);
}

#[test]
fn a_reminder_that_this_release_does_not_know_waits_for_one_that_does() {
    let bed = Bed::new();
    bed.ask(remind("k", 10, "x"));
    bed.t.crash();
    let (clock, store) = (bed.t.clock().clone(), bed.t.store().open_again());
    let other = Entity::<Log>::new(bed.services.clone()).command::<Ring>("log.Another");
    let t = TestSystem::builder()
        .entity(other)
        .clock(clock.clone())
        .store(store.open_again())
        .start();
    t.advance(SECOND * 1000);
    t.crash();
    assert_eq!(bed.services.seen(), [] as [&str; 0]);
    let bed = bed.again(clock, store);
    bed.t.run();
    bed.check(&["set x", "x"], &[]);
}

/// A durable state.
#[derive(Default, Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Word(String);

impl DurableState for Word {
    const TYPE: &'static str = "Word";
    type Services = ();
}

#[derive(Serialize, Deserialize)]
struct Say(String);

impl Handle<Say> for Durable<Word> {
    type Reply = ();

    fn handle(&self, say: Say, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        cx.put(Word(say.0.clone()))
            .remind("k", SECOND, say)
            .reply(|_| ())
    }
}

#[test]
fn a_durable_state_has_no_reminders() {
    let entity = Entity::<Durable<Word>>::durable(()).command::<Say>("word.Say");
    let t = TestSystem::builder().entity(entity).start();
    let word = t.entity::<Durable<Word>>("a");
    let Err(AskError::PersistFailed(failed)) = t.ask(&word, Say("x".to_owned())) else {
        panic!("it should have been refused");
    };
    let text = failed.to_string();
    assert!(text.contains("only its state is kept"), "{text}");
    assert!(!t.state(&word, |word| word.is_there()));
}

#[tokio::test]
async fn a_clean_up_takes_the_reminders_of_its_ids() {
    for task in [CleanupTask::Everything, CleanupTask::Reset] {
        let (clock, services) = (ManualClock::new(), Services::new(note));
        let store = MemoryStore::new(Arc::new(clock.clone()));
        let config = ConfigSource::empty().set("system.workers", 1);
        let config = config.expect("a known key");
        let system = ActorSystem::with_store(config, Arc::new(store.clone()))
            .entity(entity(services.clone()))
            .clock(Arc::new(clock.clone()))
            .start()
            .await
            .expect("starts");
        let log = system.entity::<Log>("a");
        assert_eq!(log.ask(remind("k", 10, "x")).await, Ok(()));
        // It leaves with the answer to its stop, at the latest when another one is asked.
        let stop = run(|_, cx| cx.reply(()).then_stop());
        assert_eq!(log.ask(stop).await, Ok(()));
        let other = system.entity::<Log>("other");
        assert_eq!(other.ask(run(|_, cx| cx.reply(()))).await, Ok(()));

        let id = PersistenceId::new("Log", "a").expect("valid");
        let dry = system.cleanup().dry_run();
        dry.run(task, [id.clone()]).await.expect("done");
        assert_eq!(store.reminders_of(&id).len(), 1);
        let cleanup = system.cleanup();
        cleanup.run(task, [id.clone()]).await.expect("done");
        assert_eq!(store.reminders_of(&id), []);
        clock.advance(SECOND * 1000);
        for _ in 0..10 {
            let look = run(|_, cx| cx.persist(["look".to_owned()]).reply(|_| ()));
            assert_eq!(other.ask(look).await, Ok(()));
        }
        assert_eq!(services.seen(), [] as [&str; 0]);
        system.shutdown().await.expect("in time");
    }
}
