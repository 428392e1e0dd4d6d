//! A `Spec` runs what ships, and says clearly what is not as expected.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use perennial_core::{
    AskError, Cx, Effect, Entity, EventSourced, Handle, PersistFailure, Recovery, Retention, Signal,
};
use perennial_persistence::{
    Clock, Codec, CodecError, MESSAGE_PACK_ID, MessagePack, NewEvent, SerializedPayload,
};
use perennial_testkit::{ChangeFault, ManualClock, ReadFault, Spec, WriteFault};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use AccountEvent::{Closed, Deposited, Opened};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Account {
    balance: i64,
    open: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum AccountEvent {
    Opened,
    Deposited(i64),
    Closed,
}

/// What the account asks of others; it notes what it was told.
#[derive(Default)]
struct Bank {
    told: Mutex<Vec<String>>,
    /// What a deposit waits for that has to be approved.
    approval: Mutex<Option<oneshot::Receiver<bool>>>,
}

impl EventSourced for Account {
    const TYPE: &'static str = "Account";
    type Event = AccountEvent;
    type Services = Arc<Bank>;

    fn apply(&mut self, event: &AccountEvent) {
        match event {
            Opened => self.open = true,
            Deposited(cents) => self.balance += cents,
            Closed => self.open = false,
        }
    }
}

#[derive(Debug, PartialEq)]
struct NotOpen;

struct Open;
struct Deposit(i64);
/// Waits until the account is open.
struct DepositWhenOpen(i64);
struct DepositTwice(i64);
struct DepositQuietly(i64);
struct DepositOnceApproved(i64);
struct DepositBlocking(i64);
struct DepositSlowly(i64);
struct DepositIn(Duration, i64);
struct DepositEvery(Duration, i64);
struct DepositAndTell(i64);
struct Close;
struct Look;
struct Panic;

fn deposit(account: &Account, cents: i64, cx: &Cx<'_, Account>) -> Effect<Account, i64> {
    if !account.open {
        return cx.unhandled();
    }
    cx.persist([Deposited(cents)])
        .reply(|account| account.balance)
}

impl Handle<Open> for Account {
    type Reply = ();
    fn handle(&self, _: Open, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        cx.persist([Opened]).then_unstash_all().reply(|_| ())
    }
}

impl Handle<Deposit> for Account {
    type Reply = Result<i64, NotOpen>;
    fn handle(&self, command: Deposit, cx: &Cx<'_, Self>) -> Effect<Self, Self::Reply> {
        if !self.open {
            return cx.reply(Err(NotOpen));
        }
        cx.persist([Deposited(command.0)])
            .reply(|account| Ok(account.balance))
    }
}

impl Handle<DepositWhenOpen> for Account {
    type Reply = i64;
    fn handle(&self, command: DepositWhenOpen, cx: &Cx<'_, Self>) -> Effect<Self, i64> {
        if self.open {
            deposit(self, command.0, cx)
        } else {
            cx.stash(command)
        }
    }
}

impl Handle<DepositTwice> for Account {
    type Reply = i64;
    fn handle(&self, command: DepositTwice, cx: &Cx<'_, Self>) -> Effect<Self, i64> {
        cx.persist([Deposited(command.0), Deposited(command.0)])
            .reply(|account| account.balance)
    }
}

impl Handle<DepositQuietly> for Account {
    type Reply = ();
    fn handle(&self, command: DepositQuietly, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        cx.persist([Deposited(command.0)]).no_reply()
    }
}

impl Handle<DepositOnceApproved> for Account {
    type Reply = i64;
    fn handle(&self, command: DepositOnceApproved, cx: &Cx<'_, Self>) -> Effect<Self, i64> {
        let approval = cx.services().approval.lock().expect("no panic").take();
        let cents = command.0;
        cx.later(
            async move {
                match approval {
                    Some(approval) => approval.await.expect("the test answers"),
                    None => true,
                }
            },
            move |approved, account: &Self, cx| {
                let cents = if approved { cents } else { 0 };
                deposit(account, cents, cx)
            },
        )
        .timeout(5 * SECOND)
    }
}

impl Handle<DepositBlocking> for Account {
    type Reply = i64;
    fn handle(&self, command: DepositBlocking, cx: &Cx<'_, Self>) -> Effect<Self, i64> {
        let cents = command.0;
        cx.blocking(
            move || cents * 2,
            |cents, account: &Self, cx| deposit(account, cents, cx),
        )
    }
}

/// Needs a tokio runtime.
impl Handle<DepositSlowly> for Account {
    type Reply = i64;
    fn handle(&self, command: DepositSlowly, cx: &Cx<'_, Self>) -> Effect<Self, i64> {
        let cents = command.0;
        cx.later(
            async { tokio::time::sleep(Duration::from_millis(1)).await },
            move |(), account: &Self, cx| deposit(account, cents, cx),
        )
    }
}

impl Handle<DepositIn> for Account {
    type Reply = ();
    fn handle(&self, command: DepositIn, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        cx.timers()
            .start_single("deposit", command.0, DepositQuietly(command.1));
        cx.reply(())
    }
}

impl Clone for DepositQuietly {
    fn clone(&self) -> Self {
        Self(self.0)
    }
}

impl Handle<DepositEvery> for Account {
    type Reply = ();
    fn handle(&self, command: DepositEvery, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        cx.timers()
            .start_repeated("deposits", command.0, DepositQuietly(command.1));
        cx.reply(())
    }
}

impl Handle<DepositAndTell> for Account {
    type Reply = i64;
    fn handle(&self, command: DepositAndTell, cx: &Cx<'_, Self>) -> Effect<Self, i64> {
        cx.persist([Deposited(command.0)])
            .then_run(|account, cx| {
                let mut told = cx.services().told.lock().expect("no panic");
                told.push(format!("{} has {}", cx.persistence_id(), account.balance));
            })
            .reply(|account| account.balance)
    }
}

impl Handle<Close> for Account {
    type Reply = ();
    fn handle(&self, _: Close, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        cx.persist([Closed]).then_stop().reply(|_| ())
    }
}

impl Handle<Look> for Account {
    type Reply = (i64, u64);
    fn handle(&self, _: Look, cx: &Cx<'_, Self>) -> Effect<Self, Self::Reply> {
        if self.open {
            cx.reply((self.balance, cx.sequence_nr().value()))
        } else {
            cx.unhandled()
        }
    }
}

impl Handle<Panic> for Account {
    type Reply = ();
    fn handle(&self, _: Panic, _: &Cx<'_, Self>) -> Effect<Self, ()> {
        panic!("this one always does")
    }
}

fn account() -> Spec<Account> {
    Spec::new(Arc::default())
}

/// An account that was opened, with every check there is.
fn open_account() -> Spec<Account> {
    account().given([Opened]).always_check_replay()
}

fn with_snapshots(every: u64) -> Entity<Account> {
    Entity::new(Arc::default()).snapshot_every(every)
}

/// The message with which `test` panics; it has to contain every part.
#[track_caller]
fn fails(parts: &[&str], test: impl FnOnce()) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(test)) else {
        panic!("it should have failed with {parts:?}");
    };
    let text = panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
        .expect("a panic has a text");
    for part in parts {
        assert!(text.contains(part), "\"{part}\" is not in: {text}");
    }
}

// Expectations.

#[test]
fn given_events_when_a_command_comes_then_events_reply_and_state() {
    let mut t = account().given([Opened, Deposited(5)]);
    let outcome = t.when(Deposit(10));
    assert_eq!(outcome, (vec![Deposited(10)], Ok(15)));
    assert_eq!(outcome, ([Deposited(10)], Ok(15)));
    assert_eq!(outcome.events(), [Deposited(10)]);
    assert_eq!(outcome.reply(), &Ok(15));
    assert_eq!(outcome.state().balance, 15);
    assert_eq!(t.state().balance, 15);
    assert_eq!(t.stored_events(), [Opened, Deposited(5), Deposited(10)]);
    t.check_replay();
}

#[test]
fn a_command_without_events_equals_an_empty_list() {
    assert_eq!(account().when(Deposit(10)), (vec![], Err(NotOpen)));
    assert_eq!(open_account().when(Look), ([], (0, 1)));
}

#[test]
fn several_events_are_one_outcome_and_one_write() {
    let mut t = open_account();
    assert_eq!(t.when(DepositTwice(3)), ([Deposited(3), Deposited(3)], 6));
    assert_eq!(t.faults().writes.count(), 1);
}

#[test]
fn an_outcome_keeps_what_it_says_while_the_spec_goes_on() {
    let mut t = open_account();
    let first = t.when(Deposit(1));
    let second = t.when(Deposit(2));
    assert_eq!((first.state().balance, second.state().balance), (1, 3));
    assert_eq!((first.reply(), second.reply()), (&Ok(1), &Ok(3)));
}

#[test]
fn wrong_expectations_fail_and_show_both_sides() {
    fails(
        &["([Deposited(10)], Ok(10))", "([Deposited(11)], Ok(10))"],
        || {
            assert_eq!(open_account().when(Deposit(10)), ([Deposited(11)], Ok(10)));
        },
    );
    fails(
        &["([Deposited(10)], Ok(10))", "([Deposited(10)], Ok(11))"],
        || {
            assert_eq!(
                open_account().when(Deposit(10)),
                (vec![Deposited(10)], Ok(11))
            );
        },
    );
    fails(&["([Deposited(10)], Ok(10))", "([], Ok(10))"], || {
        assert_eq!(open_account().when(Deposit(10)), (vec![], Ok(10)));
    });
}

#[test]
fn a_comparison_with_a_reply_that_does_not_come_says_why() {
    fails(
        &[
            "DepositWhenOpen has no reply",
            "events stored: 0",
            "stashed",
        ],
        || {
            assert_eq!(account().when(DepositWhenOpen(10)), ([], 10));
        },
    );
    fails(
        &[
            "DepositQuietly has no reply",
            "events stored: 1",
            "does not reply",
        ],
        || {
            assert_eq!(
                open_account().when(DepositQuietly(10)),
                ([Deposited(10)], ())
            );
        },
    );
    fails(&["Look has no reply", "not handled by the entity"], || {
        account().when(Look).reply();
    });
    fails(
        &[
            "Panic has no reply",
            "Account|spec panicked in handle: this one always does",
        ],
        || {
            account().when(Panic).reply();
        },
    );
}

/// The line of this file at which `test` panics.
fn failing_line(test: impl FnOnce()) -> u32 {
    thread_local! {
        static PLACE: Cell<Option<u32>> = const { Cell::new(None) };
    }
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let place = info.location().expect("a panic has a place");
            PLACE.set(
                place
                    .file()
                    .ends_with("tests/spec.rs")
                    .then(|| place.line()),
            );
            hook(info);
        }));
    });
    assert!(catch_unwind(AssertUnwindSafe(test)).is_err());
    PLACE.take().expect("it panicked in this file")
}

#[test]
#[rustfmt::skip]
fn a_failed_expectation_points_to_the_line_of_the_test() {
    let mut t = account();
    let outcome = t.when(Look);
    assert_eq!(failing_line(|| { outcome.reply(); }), line!());
    assert_eq!(failing_line(|| assert_eq!(outcome, ([], (0, 1)))), line!());
    assert_eq!(failing_line(|| assert_eq!(outcome, (vec![], (0, 1)))), line!());
    t.slow_next_write(SECOND);
    t.when(Open);
    assert_eq!(failing_line(|| t.check_replay()), line!());
    assert_eq!(failing_line(|| t.check_replay_by(|account| account.open)), line!());

    let mut t = Spec::<Forgetful>::new(()).always_check_replay();
    assert_eq!(failing_line(|| { t.when(Note(|| Noted::Forgotten(7))); }), line!());
    assert_eq!(failing_line(|| { t.advance(SECOND); }), line!());
    assert_eq!(failing_line(|| { t.run_futures(); }), line!());
    assert_eq!(failing_line(|| { let _ = t.given([]); }), line!());

    let entity = Entity::<Account>::new(Arc::default()).event_codec(OneWay);
    let mut t = Spec::of(entity).given([Opened]);
    assert_eq!(failing_line(|| { t.state(); }), line!());
    assert_eq!(failing_line(|| { t.when(Look).state(); }), line!());
    assert_eq!(failing_line(|| { t.stored_events(); }), line!());
    assert_eq!(failing_line(|| t.restart()), line!());
}

/// Neither events nor state can be shown or compared.
#[derive(Default)]
struct Opaque(u64);

#[derive(Serialize, Deserialize)]
struct Counted;

struct Count;

struct Total(u64);

impl EventSourced for Opaque {
    const TYPE: &'static str = "Opaque";
    type Event = Counted;
    type Services = ();
    fn apply(&mut self, _: &Counted) {
        self.0 += 1;
    }
}

impl Handle<Count> for Opaque {
    type Reply = Total;
    fn handle(&self, _: Count, cx: &Cx<'_, Self>) -> Effect<Self, Total> {
        cx.persist([Counted]).reply(|opaque| Total(opaque.0))
    }
}

#[test]
fn nothing_has_to_be_shown_or_compared() {
    let mut t = Spec::<Opaque>::new(()).given([Counted]);
    let outcome = t.when(Count);
    assert_eq!(outcome.events().len(), 1);
    assert_eq!(outcome.reply().0, 2);
    t.check_replay_by(|opaque| opaque.0);
}

// What becomes of a command.

#[test]
fn a_stashed_command_gets_its_reply_when_it_is_unstashed() {
    let mut t = account().always_check_replay();
    let waiting = t.when(DepositWhenOpen(7));
    assert!(waiting.is_stashed() && !waiting.is_open());
    assert!(waiting.result().is_none());
    // Nobody holds this one, and it is handled all the same.
    assert!(t.when(DepositWhenOpen(1)).is_stashed());
    let opened = t.when(Open);
    assert_eq!(opened, ([Opened, Deposited(7), Deposited(1)], ()));
    assert_eq!(waiting.reply(), &7);
    assert!(!waiting.is_stashed());
}

#[test]
fn a_caller_may_give_up() {
    let mut t = account();
    let impatient = t.when(DepositWhenOpen(1));
    let patient = t.when(DepositWhenOpen(2));
    assert_eq!(impatient.give_up(), &Err(AskError::Expired));
    assert_eq!(t.when(Open), ([Opened, Deposited(2)], ()));
    assert_eq!(impatient.error(), Some(&AskError::Expired));
    assert_eq!(patient.give_up(), &Ok(2), "the answer was there");

    t.slow_next_write(SECOND);
    let begun = t.when(Deposit(3));
    assert!(matches!(begun.give_up(), Err(AskError::Unknown { .. })));
    assert_eq!(t.advance(SECOND), [Deposited(3)]);
}

#[test]
fn a_full_stash_is_an_error() {
    let mut t = Spec::of(Entity::<Account>::new(Arc::default()).stash(1));
    assert!(t.when(DepositWhenOpen(1)).is_stashed());
    let refused = t.when(DepositWhenOpen(2));
    assert!(matches!(refused.error(), Some(AskError::Busy { .. })));
}

#[test]
fn unhandled_no_reply_and_stop_are_told_apart() {
    let unhandled = account().when(Look);
    assert!(unhandled.is_unhandled() && !unhandled.has_no_reply() && !unhandled.is_stopped());
    let quiet = open_account().when(DepositQuietly(1));
    assert!(quiet.has_no_reply() && !quiet.is_unhandled());
    assert_eq!(quiet.events(), [Deposited(1)]);

    let mut t = open_account();
    let closed = t.when(Close);
    assert_eq!(closed, ([Closed], ()));
    assert!(closed.is_stopped() && !t.is_in_memory());
    assert_eq!(t.state(), &Account::default());
    // The next command brings it back.
    assert!(t.when(Look).is_unhandled());
    assert!(t.is_in_memory());
}

#[test]
fn side_effects_happen_and_never_in_recovery() {
    let bank = Arc::new(Bank::default());
    let mut t = Spec::<Account>::new(Arc::clone(&bank)).with_id("4711");
    assert_eq!(t.when(DepositAndTell(4)), ([Deposited(4)], 4));
    t.restart();
    t.check_replay();
    assert_eq!(*bank.told.lock().expect("no panic"), ["Account|4711 has 4"]);
}

#[test]
fn an_entity_that_panics_is_started_again_by_the_next_command() {
    let mut t = open_account();
    t.when(Deposit(1)).reply().as_ref().expect("it is open");
    assert!(matches!(
        t.when(Panic).error(),
        Some(AskError::Panicked { .. })
    ));
    assert_eq!(t.when(Deposit(2)), ([Deposited(2)], Ok(3)));
}

// Futures and time.

#[test]
fn a_future_that_needs_nobody_is_done_at_once() {
    let mut t = open_account();
    assert_eq!(t.when(DepositOnceApproved(5)), ([Deposited(5)], 5));
    assert_eq!(t.when(DepositBlocking(5)), ([Deposited(10)], 15));
}

#[test]
fn a_future_goes_on_when_the_test_has_done_what_it_waits_for() {
    let bank = Arc::new(Bank::default());
    let (approve, approval) = oneshot::channel();
    *bank.approval.lock().expect("no panic") = Some(approval);
    let mut t = Spec::<Account>::new(bank).given([Opened]);
    let waiting = t.when(DepositOnceApproved(5));
    assert!(waiting.is_open() && !waiting.is_stashed());
    fails(&["DepositOnceApproved has no reply", "run_futures"], || {
        waiting.reply();
    });
    assert_eq!(t.run_futures(), []);
    approve.send(true).expect("the entity waits");
    assert_eq!(t.run_futures(), [Deposited(5)]);
    assert_eq!(waiting.reply(), &5);
}

#[test]
fn a_future_that_takes_too_long_is_ended_by_time() {
    let bank = Arc::new(Bank::default());
    let (_approve, approval) = oneshot::channel();
    *bank.approval.lock().expect("no panic") = Some(approval);
    let mut t = Spec::<Account>::new(bank).given([Opened]);
    let waiting = t.when(DepositOnceApproved(5));
    t.advance(5 * SECOND - Duration::from_nanos(1));
    assert!(waiting.is_open());
    assert_eq!(t.advance(Duration::from_nanos(1)), []);
    assert!(waiting.error().is_some_and(AskError::is_outcome_unknown));
}

#[tokio::test]
async fn a_future_that_needs_a_runtime_finds_that_of_the_test() {
    let mut t = open_account();
    let waiting = t.when(DepositSlowly(5));
    assert!(waiting.is_open());
    assert_eq!(t.wait_for_futures().await, [Deposited(5)]);
    assert_eq!(waiting.reply(), &5);
}

#[test]
fn a_future_that_needs_a_runtime_where_there_is_none_is_an_error() {
    let failed = open_account().when(DepositSlowly(5));
    assert!(failed.error().is_some_and(AskError::is_outcome_unknown));
}

#[test]
fn timers_fire_in_virtual_time_each_at_its_own() {
    let mut t = open_account();
    t.when(DepositIn(10 * SECOND, 1)).reply();
    t.when(DepositEvery(4 * SECOND, 2)).reply();
    assert_eq!(t.advance(4 * SECOND - Duration::from_nanos(1)), []);
    assert_eq!(t.advance(Duration::from_nanos(1)), [Deposited(2)]);
    let rest = t.advance(7 * SECOND);
    assert_eq!(rest, [Deposited(2), Deposited(1)]);
    assert_eq!(rest.state().balance, 5);
    let rows = t.store().rows(t.persistence_id());
    let fired_at = rows[2].timestamp;
    assert_eq!(fired_at, ManualClock::new().now() + 8 * SECOND);
    // Timers end with the incarnation.
    t.restart();
    assert_eq!(t.advance(100 * SECOND), []);
}

#[test]
fn an_entity_that_is_idle_for_long_leaves_memory() {
    let mut t = open_account();
    t.when(Look).reply();
    assert!(t.advance(119 * SECOND).is_in_memory());
    assert!(!t.advance(121 * SECOND).is_in_memory());
    assert_eq!(t.when(Look).reply(), &(0, 1));
}

#[test]
fn the_clock_may_be_that_of_the_services() {
    let clock = ManualClock::new();
    let mut t = account().with_clock(clock.clone()).given([Opened]);
    t.advance(SECOND);
    assert_eq!(clock.elapsed(), SECOND);
    t.when(Deposit(1)).reply().as_ref().expect("it is open");
    let rows = t.store().rows(t.persistence_id());
    assert_eq!(rows[1].timestamp, clock.now());
}

// Replay.

#[test]
fn a_restart_brings_back_what_is_stored_and_a_crash_loses_the_rest() {
    let mut t = open_account();
    t.when(Deposit(1)).reply().as_ref().expect("it is open");
    t.restart();
    assert_eq!(t.when(Look).reply(), &(1, 2));

    t.slow_next_write(SECOND);
    let lost = t.when(Deposit(100));
    assert!(lost.is_open());
    t.crash();
    assert!(lost.error().is_some_and(AskError::is_outcome_unknown));
    assert_eq!(t.advance(10 * SECOND), []);
    assert_eq!(t.when(Look).reply(), &(1, 2));
}

/// Has something that its events do not say, something its codec forgets, or nothing of the kind.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Forgetful {
    total: u64,
    #[serde(skip)]
    skipped: u64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Noted {
    Good(u64),
    Forgotten(#[serde(skip)] u64),
    NotInSnapshots(u64),
}

struct Note(fn() -> Noted);

impl EventSourced for Forgetful {
    const TYPE: &'static str = "Forgetful";
    type Event = Noted;
    type Services = ();
    fn apply(&mut self, event: &Noted) {
        match event {
            Noted::Good(count) | Noted::Forgotten(count) => self.total += count,
            Noted::NotInSnapshots(count) => self.skipped += count,
        }
    }
}

impl Handle<Note> for Forgetful {
    type Reply = ();
    fn handle(&self, note: Note, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        cx.persist([(note.0)()]).reply(|_| ())
    }
}

#[test]
fn an_event_that_loses_something_on_its_way_is_found() {
    let mut t = Spec::<Forgetful>::new(());
    t.when(Note(|| Noted::Good(1))).reply();
    t.check_replay();
    let outcome = t.when(Note(|| Noted::Forgotten(7)));
    // What a restart brings back differs from what is in memory.
    assert_eq!((outcome.state().total, t.state().total), (1, 8));
    let expected = [
        "Forgetful|spec comes back from all 2 events with another state than the one in memory",
        "expected: Forgetful { total: 8, skipped: 0 }",
        "comes back: Forgetful { total: 1, skipped: 0 }",
    ];
    fails(&expected, || t.check_replay());
    fails(&["expected: 8", "comes back: 1"], || {
        t.check_replay_by(|forgetful| forgetful.total);
    });
    t.check_replay_by(|forgetful| forgetful.skipped);
    fails(&expected, || {
        let mut t = Spec::<Forgetful>::new(()).always_check_replay();
        t.when(Note(|| Noted::Good(1))).reply();
        t.when(Note(|| Noted::Forgotten(7)));
    });
}

#[test]
fn a_snapshot_that_loses_something_is_found_before_one_is_due() {
    let entity = Entity::<Forgetful>::new(());
    let mut t = Spec::of(entity.clone());
    t.when(Note(|| Noted::NotInSnapshots(7))).reply();
    t.check_replay();

    let mut t = Spec::of(entity.snapshot_every(2));
    t.when(Note(|| Noted::NotInSnapshots(7))).reply();
    fails(
        &["comes back from a snapshot of it at 1 with another state"],
        || t.check_replay(),
    );
    t.when(Note(|| Noted::Good(1))).reply();
    assert!(t.stored_snapshot().is_some());
    fails(
        &["comes back from its snapshot at 2 and the events after it"],
        || t.check_replay(),
    );
}

#[test]
fn an_event_that_does_not_say_everything_is_found_if_it_comes_back_alone() {
    let entity = Entity::<Forgetful>::new(()).recovery(Recovery::LastEvent);
    let mut t = Spec::of(entity);
    t.when(Note(|| Noted::Good(1))).reply();
    t.check_replay();
    t.when(Note(|| Noted::Good(2))).reply();
    fails(
        &[
            "Forgetful|spec comes back from its last event with another state than the one in \
             memory",
            "expected: Forgetful { total: 3, skipped: 0 }",
            "comes back: Forgetful { total: 2, skipped: 0 }",
        ],
        || t.check_replay(),
    );
}

#[test]
fn replay_is_checked_with_and_without_snapshots() {
    let mut t = Spec::of(with_snapshots(2))
        .given([Opened])
        .always_check_replay();
    for cents in 1..=5 {
        t.when(Deposit(cents)).reply().as_ref().expect("it is open");
    }
    let expected = Account {
        balance: 15,
        open: true,
    };
    assert_eq!(t.stored_snapshot(), Some(expected));
    t.crash();
    t.check_replay();
    t.restart();
    assert_eq!(t.state().balance, 15);
}

#[test]
fn a_snapshot_may_be_given_with_the_events_after_it() {
    let state = Account {
        balance: 40,
        open: true,
    };
    let mut t = Spec::of(with_snapshots(0))
        .given_snapshot(7, &state)
        .given([Deposited(2)])
        .always_check_replay();
    assert_eq!(t.state().balance, 42);
    assert_eq!(t.when(Look).reply(), &(42, 8));
    assert_eq!(t.when(Deposit(1)), ([Deposited(1)], Ok(43)));
    fails(&["Account has no codec for snapshots"], || {
        let _ = account().given_snapshot(7, &state);
    });
    fails(&["0 is no event's number"], || {
        let _ = Spec::of(with_snapshots(0)).given_snapshot(0, &state);
    });
}

#[test]
fn replay_is_checked_after_events_were_deleted() {
    let retention = Retention::every(2).keep(1).delete_events();
    let mut t = Spec::of(with_snapshots(2).retention(retention))
        .given([Opened])
        .always_check_replay();
    // The first deletion fails; the next one covers it.
    t.faults().deletes.next(ChangeFault::Unavailable);
    for (cents, left) in (1..).zip([2, 3, 4, 5, 2, 3]) {
        // The events of an outcome are told although others were deleted meanwhile.
        assert_eq!(t.when(Deposit(cents)).events(), [Deposited(cents)]);
        assert_eq!(t.stored_events().len(), left);
    }
    t.restart();
    assert_eq!(t.when(Look).reply(), &(21, 7));
}

#[test]
fn tags_and_metadata_are_seen_as_they_are_stored() {
    let tagged = Entity::<Account>::new(Arc::default())
        .tags(|account, _| vec![format!("balance:{}", account.balance)]);
    let metadata = SerializedPayload::new(77, "Origin", &b"elsewhere"[..]);
    let mut given = NewEvent::new(
        MessagePack::<AccountEvent>::new("Account.Event")
            .encode(&Opened)
            .expect("a plain enum"),
    );
    given.metadata = Some(metadata.clone());
    let mut t = Spec::of(tagged).given_stored([given]);
    let outcome = t.when(DepositTwice(4));
    let tags: Vec<_> = outcome.stored().iter().map(|event| &event.tags).collect();
    assert_eq!(tags, [&["balance:4".to_owned()], &["balance:8".to_owned()]]);
    let rows = t.store().rows(t.persistence_id());
    let (_, first) = rows[0].event.as_ref().expect("no marker");
    assert_eq!(first.metadata, Some(metadata));
}

#[test]
fn signals_are_told_once_however_often_the_test_looks() {
    let bank = Arc::new(Bank::default());
    let entity = Entity::<Account>::new(Arc::clone(&bank))
        .snapshot_every(2)
        .on_signal(|_, signal, cx| {
            let mut told = cx.services().told.lock().expect("no panic");
            told.push(match signal {
                Signal::RecoveryCompleted { replayed, .. } => format!("recovered {replayed}"),
                Signal::SnapshotCompleted { seq_nr } => format!("snapshot {seq_nr}"),
                other => format!("{other:?}"),
            });
        });
    let mut t = Spec::of(entity).given([Opened]).always_check_replay();
    assert!(t.state().open);
    assert_eq!(t.when(Deposit(1)).state().balance, 1);
    t.check_replay();
    t.restart();
    let told = ["recovered 1", "snapshot 2", "recovered 0"];
    assert_eq!(*bank.told.lock().expect("no panic"), told);
}

/// Writes something that it cannot read again.
#[derive(Debug)]
struct OneWay;

impl Codec<AccountEvent> for OneWay {
    fn encode(&self, _: &AccountEvent) -> Result<SerializedPayload, CodecError> {
        Ok(SerializedPayload::new(77, "OneWay", &b"x"[..]))
    }

    fn decode(&self, _: &SerializedPayload) -> Result<AccountEvent, CodecError> {
        Err(CodecError::undecodable("it is gone"))
    }
}

#[test]
fn an_event_that_cannot_be_read_again_fails_the_test_at_once() {
    let entity = Entity::<Account>::new(Arc::default()).event_codec(OneWay);
    fails(
        &[
            "event 1 of Account|spec is stored but cannot be decoded",
            "it is gone",
        ],
        || {
            Spec::of(entity.clone()).when(Open);
        },
    );
    let mut t = Spec::of(entity).given([Opened]);
    let refused = t.when(Look);
    assert!(matches!(refused.error(), Some(AskError::RecoveryFailed(_))));
    fails(
        &["Account|spec cannot be recovered (at sequence number 1)"],
        || {
            t.state();
        },
    );
    fails(&["Account|spec cannot be recovered"], || t.restart());
}

#[test]
fn events_of_older_programs_are_given_as_they_are_stored() {
    let codec = MessagePack::<AccountEvent>::new("Account.Event");
    let old = codec.encode(&Opened).expect("a plain enum");
    let mut t = account().given_stored([NewEvent::new(old)]);
    assert_eq!(t.when(Deposit(1)), ([Deposited(1)], Ok(1)));

    let unknown = SerializedPayload::new(MESSAGE_PACK_ID, "Account.Event#2", &b"\xc0"[..]);
    let refused = account()
        .given_stored([NewEvent::new(unknown)])
        .when(Deposit(1));
    let error = refused.error().expect("it cannot be recovered").to_string();
    assert!(error.contains("Account.Event#2"), "{error}");
}

// Faults.

#[test]
fn a_refused_write_is_an_error_and_leaves_nothing() {
    let mut t = open_account();
    t.faults().writes.at(2, WriteFault::Rejected);
    assert_eq!(t.when(Deposit(1)), ([Deposited(1)], Ok(1)));
    let refused = t.when(DepositAndTell(2));
    assert_eq!(refused.events(), []);
    let Some(AskError::PersistFailed(failed)) = refused.error() else {
        panic!("{refused:?}");
    };
    assert_eq!(failed.kind, PersistFailure::Rejected);
    assert_eq!(t.when(Deposit(3)), ([Deposited(3)], Ok(4)));
}

#[test]
fn a_lost_write_is_sent_again_and_stored_once() {
    let mut t = open_account();
    t.faults().writes.next(WriteFault::LostRequest);
    assert_eq!(t.when(Deposit(1)), ([Deposited(1)], Ok(1)));
    assert_eq!(t.faults().writes.count(), 2);
    t.faults().writes.next(WriteFault::Unavailable);
    assert_eq!(t.when(Deposit(2)), ([Deposited(2)], Ok(3)));
    assert!(t.clock().elapsed() < SECOND);
}

#[test]
fn a_write_that_is_lost_again_and_again_ends_as_unknown() {
    let mut t = open_account();
    t.faults().writes.decide(|_| Some(WriteFault::LostRequest));
    let lost = t.when(Deposit(1));
    assert!(lost.error().is_some_and(AskError::is_outcome_unknown));
    assert_eq!(lost.events(), []);
    t.faults().clear();
    assert_eq!(t.when(Look).reply(), &(0, 1));

    t.faults().writes.decide(|_| Some(WriteFault::Unavailable));
    let failed = t.when(Deposit(1));
    let is_unavailable = |error: &AskError| matches!(error, AskError::PersistFailed(failed) if failed.kind == PersistFailure::Unavailable);
    assert!(failed.error().is_some_and(is_unavailable));
}

#[test]
fn a_write_that_was_stored_but_not_acknowledged_is_found_out() {
    let mut t = open_account();
    t.faults().writes.next(WriteFault::LostAnswer);
    assert_eq!(t.when(Deposit(1)), ([Deposited(1)], Ok(1)));
    assert_eq!(t.stored_events(), [Opened, Deposited(1)]);
}

#[test]
fn a_late_write_of_a_dead_incarnation_is_an_event_all_the_same() {
    let mut t = open_account();
    t.faults().writes.next(WriteFault::StoredLate);
    t.faults().writes.decide(|_| Some(WriteFault::LostRequest));
    let unknown = t.when(Deposit(1));
    assert!(unknown.error().is_some_and(AskError::is_outcome_unknown));
    t.crash();
    t.faults().clear();
    assert_eq!(t.deliver_late_writes(), [Deposited(1)]);
    assert_eq!(t.when(Look).reply(), &(1, 2));
}

#[test]
fn a_slow_write_is_answered_in_its_time() {
    let mut t = open_account();
    t.slow_next_write(3 * SECOND);
    let slow = t.when(Deposit(1));
    assert!(slow.is_open());
    assert_eq!(slow.events(), []);
    assert_eq!(t.state().balance, 1, "the state in memory is ahead");
    fails(&["a write of Account|spec is still open"], || {
        t.check_replay()
    });
    fails(&["Deposit has no reply", "`advance` the time"], || {
        slow.reply().as_ref().expect("unreachable");
    });
    let read = t.when(Look);
    assert!(read.is_open(), "it saw what is not stored yet");
    assert_eq!(t.advance(3 * SECOND - Duration::from_nanos(1)), []);
    assert_eq!(t.advance(Duration::from_nanos(1)), [Deposited(1)]);
    assert_eq!((slow.reply(), read.reply()), (&Ok(1), &(1, 2)));
}

#[test]
fn another_writer_refuses_the_next_write_and_is_seen_by_the_one_after() {
    let mut t = open_account();
    assert_eq!(t.when(Deposit(1)), ([Deposited(1)], Ok(1)));
    t.another_writer_stores([Deposited(100), Deposited(200)]);
    assert_eq!(t.when(Look).reply(), &(1, 2), "nobody told it");
    fails(
        &["another writer has stored events that Account|spec has not seen"],
        || {
            t.check_replay();
        },
    );
    let refused = t.when(Deposit(2));
    let is_conflict = |error: &AskError| matches!(error, AskError::PersistFailed(failed) if failed.kind == PersistFailure::Conflict);
    assert!(refused.error().is_some_and(is_conflict));
    assert_eq!(refused.events(), []);
    assert_eq!(t.when(Deposit(2)), ([Deposited(2)], Ok(303)));
}

#[test]
fn reads_fail_on_demand() {
    let mut t = open_account();
    t.faults().reads.next(ReadFault::Unavailable);
    assert_eq!(t.when(Look).reply(), &(0, 1), "the store was asked again");

    t.crash();
    t.faults().reads.next(ReadFault::Corrupt);
    let refused = t.when(Look);
    assert!(matches!(refused.error(), Some(AskError::RecoveryFailed(_))));
    t.advance(SECOND);
    assert_eq!(t.when(Look).reply(), &(0, 1));

    t.crash();
    t.faults().reads.decide(|_| Some(ReadFault::Unavailable));
    let waiting = t.when(Look);
    assert!(
        waiting.is_open(),
        "the store is away for longer than a test waits"
    );
    t.faults().clear();
    t.advance(2 * SECOND);
    assert_eq!(waiting.reply(), &(0, 1));
}

#[test]
fn snapshots_fail_on_demand() {
    let mut t = Spec::of(with_snapshots(2))
        .given([Opened])
        .always_check_replay();
    t.faults().snapshot_saves.next(ChangeFault::Unavailable);
    assert_eq!(t.when(Deposit(1)), ([Deposited(1)], Ok(1)));
    assert_eq!(t.stored_snapshot(), None);
    t.when(Deposit(1)).reply().as_ref().expect("it is open");
    t.when(Deposit(1)).reply().as_ref().expect("it is open");
    assert_eq!(t.stored_snapshot().map(|account| account.balance), Some(3));

    t.crash();
    t.faults().snapshot_loads.next(ReadFault::Undecodable);
    assert_eq!(t.when(Look).reply(), &(3, 4), "the events are there");
}

#[test]
fn whatever_fails_the_events_of_all_outcomes_are_those_that_are_stored() {
    for seed in 0..200 {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut t = Spec::of(with_snapshots(random.random_range(0..4)))
            .given([Opened])
            .always_check_replay();
        let mut told = vec![Opened];
        for cents in 1..40 {
            match random.random_range(0..12) {
                0 => t.faults().writes.next(WriteFault::LostAnswer),
                1 => t.faults().writes.next(WriteFault::LostRequest),
                2 => t.faults().writes.next(WriteFault::Unavailable),
                3 => t.faults().writes.next(WriteFault::Rejected),
                4 => t.faults().reads.next(ReadFault::Unavailable),
                5 => t.faults().snapshot_saves.next(ChangeFault::LostAnswer),
                6 => t.slow_next_write(SECOND),
                7 => t.crash(),
                8 => t.restart(),
                9 => assert!(t.when(Panic).result().is_none_or(Result::is_err)),
                _ => {}
            }
            let outcome = t.when(Deposit(cents));
            let later = t.advance(random.random_range(0..2) * 5 * SECOND);
            let events = outcome.events().iter().chain(later.events()).cloned();
            let before = told.len();
            told.extend(events);
            if let Some(Ok(reply)) = outcome.result() {
                assert_eq!(
                    told[before..].last(),
                    Some(&Deposited(cents)),
                    "seed {seed}"
                );
                assert_eq!(reply, &Ok(later.state().balance), "seed {seed}");
            }
        }
        told.extend(t.advance(100 * SECOND).events().iter().cloned());
        assert_eq!(t.stored_events(), told, "seed {seed}");
        let sum: i64 = told
            .iter()
            .map(|event| {
                if let Deposited(cents) = event {
                    *cents
                } else {
                    0
                }
            })
            .sum();
        assert_eq!(t.state().balance, sum, "seed {seed}");
    }
}

// Mistakes in a test.

#[test]
fn a_history_is_closed_by_the_first_command() {
    let mut t = open_account();
    t.when(Look).reply();
    fails(&["`given` comes before the first command"], || {
        let _ = t.given([Opened]);
    });
    fails(&["`with_id` comes before everything that is given"], || {
        let _ = open_account().with_id("4711");
    });
    fails(&["47|11", "separates entity type and entity id"], || {
        let _ = account().with_id("47|11");
    });
    fails(&["Account is to take snapshots and has no codec"], || {
        Spec::of(Entity::<Account>::new(Arc::default()).snapshot_when(|_, _, _| true));
    });
    fails(&["pipeline"], || {
        Spec::of(Entity::<Account>::new(Arc::default()).pipeline(0));
    });
}

/// Sends itself a command for ever.
#[derive(Default)]
struct Restless;

#[derive(Clone)]
struct Again;

impl EventSourced for Restless {
    const TYPE: &'static str = "Restless";
    type Event = ();
    type Services = ();
    fn apply(&mut self, (): &()) {}
}

impl Handle<Again> for Restless {
    type Reply = ();
    fn handle(&self, _: Again, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        cx.none()
            .then_run(|_, cx| {
                let _ = cx.myself().tell(Again);
            })
            .reply(|_| ())
    }
}

#[test]
fn an_entity_that_never_comes_to_rest_does_not_hang_the_test() {
    fails(&["does not come to rest"], || {
        Spec::<Restless>::new(()).when(Again);
    });
}

#[test]
fn every_incarnation_writes_under_an_id_of_its_own() {
    let mut t = open_account();
    t.when(Deposit(1)).reply().as_ref().expect("it is open");
    t.restart();
    t.when(Deposit(1)).reply().as_ref().expect("it is open");
    t.another_writer_stores([Deposited(1)]);
    let rows = t.store().rows(t.persistence_id());
    let writers: BTreeSet<String> = rows
        .iter()
        .filter_map(|row| row.event.as_ref())
        .map(|(writer, _)| writer.to_string())
        .collect();
    assert_eq!(writers.len(), 4);
}
