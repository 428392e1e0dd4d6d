//! Commands with ids: each takes effect once, and whoever asks again gets the first answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use perennial_core::{
    AskError, AskOnce, Cx, Effect, EntityRef, Handle, PersistFailure, Repeatable,
};
use perennial_persistence::CommandId;
use perennial_testkit::{ChangeFault, Gate, ManualClock, ReadFault, WriteFault};
use serde::{Deserialize, Serialize};

use crate::fixture::{
    Bed, Entry, Ledger, Note, Pending, Read, Record, hold_writes, id, in_time, ledger, noted,
    persist_failure, run, send, settle, until,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Stores a number; the reply is everything noted by then. 0 is refused while nothing is noted.
#[derive(Debug, Clone, Serialize)]
struct Pay(u64);

impl Repeatable for Pay {
    const NAME: &'static str = "Pay";
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Receipt {
    Paid(Vec<u64>),
    Refused,
}

impl Handle<Pay> for Ledger {
    type Reply = Receipt;

    fn handle(&self, command: Pay, cx: &Cx<'_, Self>) -> Effect<Self, Receipt> {
        if command.0 == 0 && self.notes.is_empty() {
            return cx.reply(Receipt::Refused);
        }
        cx.persist([Entry::Noted(command.0)])
            .reply(|ledger| Receipt::Paid(ledger.notes.clone()))
    }
}

/// As [`Pay`] in its content, but another request.
#[derive(Debug, Clone, Serialize)]
struct Donate(u64);

impl Repeatable for Donate {
    const NAME: &'static str = "Donate";
}

impl Handle<Donate> for Ledger {
    type Reply = ();

    fn handle(&self, command: Donate, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        cx.persist([Entry::Noted(command.0)]).no_reply()
    }
}

/// Stores a number once a future is through its gate.
#[derive(Debug, Clone, Serialize)]
struct Fetch {
    number: u64,
    #[serde(skip)]
    gate: Gate,
    #[serde(skip)]
    runs: Arc<AtomicUsize>,
    #[serde(skip)]
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy, Default)]
enum Outcome {
    #[default]
    Stored,
    Refused,
    Panics,
}

impl Repeatable for Fetch {
    const NAME: &'static str = "Fetch";
}

impl Handle<Fetch> for Ledger {
    type Reply = Receipt;

    fn handle(&self, command: Fetch, cx: &Cx<'_, Self>) -> Effect<Self, Receipt> {
        let Fetch {
            number,
            gate,
            runs,
            outcome,
        } = command;
        cx.later(
            async move {
                runs.fetch_add(1, Ordering::SeqCst);
                gate.pass().await;
                assert!(!matches!(outcome, Outcome::Panics), "on purpose");
            },
            move |(), _, cx| match outcome {
                Outcome::Refused => cx.reply(Receipt::Refused),
                _ => cx
                    .persist([Entry::Noted(number)])
                    .reply(|ledger| Receipt::Paid(ledger.notes.clone())),
            },
        )
        .interleaved()
    }
}

fn command(name: &str) -> CommandId {
    CommandId::new(name).expect("a valid command id")
}

fn pay(entity: &EntityRef<Ledger>, name: &str, number: u64) -> AskOnce<Ledger, Pay> {
    entity.ask(Pay(number)).command_id(command(name))
}

fn paid(numbers: impl IntoIterator<Item = u64>) -> Result<Receipt, AskError> {
    Ok(Receipt::Paid(numbers.into_iter().collect()))
}

fn is_reused<R: std::fmt::Debug>(answer: Result<R, AskError>) -> bool {
    match answer {
        Err(AskError::CommandIdReused {
            persistence_id,
            command_id,
        }) => {
            assert_eq!(persistence_id, id("a"));
            assert_eq!(command_id, command("x"));
            true
        }
        _ => false,
    }
}

#[tokio::test]
async fn a_command_that_is_sent_again_gets_the_first_answer() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(pay(&entity, "x", 1).await, paid([1]));
    assert_eq!(pay(&entity, "y", 1).await, paid([1, 1]));
    assert_eq!(pay(&entity, "x", 1).await, paid([1]), "as it was then");
    assert_eq!(pay(&entity, "y", 1).await, paid([1, 1]));
    assert_eq!(bed.stored("a"), noted([1, 1]));

    let other = system.entity::<Ledger>("b");
    assert_eq!(pay(&other, "x", 7).await, paid([7]), "of another entity");
}

/// Stores a number and notes when that is done; put aside while nothing is noted.
#[derive(Debug, Clone, Serialize)]
struct Settle {
    number: u64,
    #[serde(skip)]
    record: Record,
}

impl Repeatable for Settle {
    const NAME: &'static str = "Settle";
}

impl Handle<Settle> for Ledger {
    type Reply = Receipt;

    fn handle(&self, command: Settle, cx: &Cx<'_, Self>) -> Effect<Self, Receipt> {
        if self.notes.is_empty() {
            return cx.stash(command);
        }
        let Settle { number, record } = command;
        cx.persist([Entry::Noted(number)])
            .then_run(move |_, _| record.add("settled"))
            .reply(|ledger| Receipt::Paid(ledger.notes.clone()))
    }
}

#[tokio::test]
async fn what_follows_a_command_does_not_follow_a_repetition() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));
    let record = Record::default();
    for _ in 0..3 {
        let command_of = Settle {
            number: 2,
            record: record.clone(),
        };
        let ask = entity.ask(command_of).command_id(command("x"));
        assert_eq!(ask.await, paid([1, 2]));
    }
    // Whatever follows a command has run before the next one is handled.
    assert_eq!(entity.ask(Read).await, Ok(vec![1, 2]));
    assert_eq!(record.lines(), ["settled"]);
}

#[tokio::test]
async fn a_command_that_is_put_aside_keeps_its_id() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let record = Record::default();
    let ask = || {
        let command_of = Settle {
            number: 2,
            record: record.clone(),
        };
        Pending::of(entity.ask(command_of).command_id(command("x")))
    };
    let (first, second) = (ask(), ask());
    settle(&system).await;
    assert!(first.is_open() && second.is_open());
    let unstash = run(|_: &Ledger, cx| {
        cx.persist(noted([1]))
            .then_unstash_all()
            .reply(|ledger| ledger.notes.len())
    });
    assert_eq!(entity.ask(unstash).await, Ok(1));
    assert_eq!(first.answer().await, paid([1, 2]));
    assert_eq!(second.answer().await, paid([1, 2]));
    assert_eq!(bed.stored("a"), noted([1, 2]));
    assert_eq!(record.lines(), ["settled"]);
}

#[tokio::test]
async fn a_repetition_waits_for_the_write_of_the_first_attempt() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let gate = hold_writes(&bed.faults);
    let first = Pending::of(pay(&entity, "x", 1));
    in_time("the write", gate.wait_for_arrivals(1)).await;
    let second = Pending::of(pay(&entity, "x", 1));
    let another = Pending::of(pay(&entity, "x", 2));
    settle(&system).await;
    assert!(first.is_open() && second.is_open() && another.is_open());
    gate.open();
    assert_eq!(first.answer().await, paid([1]));
    assert_eq!(second.answer().await, paid([1]));
    assert!(is_reused(another.answer().await));
    assert_eq!(bed.stored("a"), noted([1]));
}

#[tokio::test]
async fn commands_of_one_turn_are_told_apart_by_their_ids() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let asks: Vec<_> = ["x", "y", "x", "y", "x"]
        .into_iter()
        .map(|name| Pending::of(pay(&entity, name, 1)))
        .collect();
    let mut answers = Vec::new();
    for ask in asks {
        answers.push(ask.answer().await);
    }
    let (x, y) = (paid([1]), paid([1, 1]));
    assert_eq!(answers, [x.clone(), y.clone(), x.clone(), y, x]);
    assert_eq!(bed.stored("a"), noted([1, 1]));
}

#[tokio::test]
async fn the_first_answer_outlives_the_system() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(pay(&entity, "x", 1).await, paid([1]));
    assert_eq!(entity.ask(Note(2)).await, Ok(vec![1, 2]));
    system.shutdown().await.expect("it stops");

    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(pay(&entity, "x", 1).await, paid([1]));
    assert!(is_reused(pay(&entity, "x", 3).await));
    assert_eq!(pay(&entity, "y", 3).await, paid([1, 2, 3]));
    assert_eq!(bed.stored("a"), noted([1, 2, 3]));
}

#[tokio::test]
async fn a_crash_between_commit_and_answer_leaves_the_answer() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let gate = Gate::new();
    bed.faults.writes.next(WriteFault::AnswerHeld(gate.clone()));
    let entity = system.entity::<Ledger>("a");
    let lost = Pending::of(pay(&entity, "x", 1));
    in_time("the write", gate.wait_for_arrivals(1)).await;
    assert!(lost.is_open());

    // The first system never hears of its write.
    let next = bed.start(&[]).await;
    let entity = next.entity::<Ledger>("a");
    assert_eq!(pay(&entity, "x", 1).await, paid([1]));
    assert_eq!(entity.ask(Read).await, Ok(vec![1]));
    assert_eq!(bed.stored("a"), noted([1]));
}

#[tokio::test]
async fn an_unknown_outcome_is_found_by_asking_again() {
    let bed = Bed::new();
    let settings = [
        ("persistence.outcome-timeout", "50ms"),
        // So often is the store asked meanwhile, and it is to be asked once more.
        ("persistence.breaker-failures", "0"),
    ];
    let system = bed.start(&settings).await;
    let entity = system.entity::<Ledger>("a");
    bed.faults.writes.decide(|call| {
        Some(if call.number == 1 {
            WriteFault::LostAnswer
        } else {
            WriteFault::Unavailable
        })
    });
    let answer = pay(&entity, "x", 1).await;
    assert!(
        matches!(answer, Err(AskError::Unknown { .. })),
        "{answer:?}"
    );
    bed.faults.clear();
    assert_eq!(pay(&entity, "x", 1).await, paid([1]));
    assert_eq!(bed.stored("a"), noted([1]));
}

#[tokio::test]
async fn an_answer_that_got_lost_is_not_waited_for_twice() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    bed.faults.writes.next(WriteFault::LostAnswer);
    assert_eq!(pay(&entity, "x", 1).await, paid([1]));
    assert_eq!(pay(&entity, "x", 1).await, paid([1]));
    assert_eq!(bed.stored("a"), noted([1]));
    assert_eq!(bed.memory.replies(&id("a")).len(), 1);
}

#[tokio::test]
async fn an_id_stands_for_one_request() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(pay(&entity, "x", 1).await, paid([1]));
    assert!(is_reused(pay(&entity, "x", 2).await), "another content");
    let donate = entity.ask(Donate(1)).command_id(command("x"));
    assert!(is_reused(donate.await), "another kind of request");
    assert_eq!(bed.stored("a"), noted([1]));
    let error = pay(&entity, "x", 2).await.expect_err("as before");
    assert!(error.is_not_handled(), "{error}");
}

#[tokio::test]
async fn a_refusal_stores_nothing_and_is_decided_anew() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    assert_eq!(pay(&entity, "x", 0).await, Ok(Receipt::Refused));
    assert_eq!(bed.memory.replies(&id("a")), []);
    assert_eq!(entity.ask(Note(7)).await, Ok(vec![7]));
    assert_eq!(pay(&entity, "x", 0).await, paid([7, 0]));
    assert_eq!(pay(&entity, "x", 0).await, paid([7, 0]));
}

#[tokio::test]
async fn a_command_without_a_reply_is_stored_too() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    for _ in 0..2 {
        let donate = entity.ask(Donate(1)).command_id(command("x"));
        assert_eq!(donate.await, Err(AskError::NoReply));
    }
    assert_eq!(bed.stored("a"), noted([1]));
    system.shutdown().await.expect("it stops");
    let system = bed.start(&[]).await;
    let donate = system.entity::<Ledger>("a").ask(Donate(1));
    let donate = donate.command_id(command("x")).await;
    assert_eq!(donate, Err(AskError::NoReply));
    assert_eq!(bed.stored("a"), noted([1]));
}

#[tokio::test]
async fn a_write_that_fails_takes_its_command_with_it() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let gate = Gate::new();
    bed.faults.writes.next(WriteFault::Held(gate.clone()));
    let before = send(&entity, Note(1));
    in_time("the write", gate.wait_for_arrivals(1)).await;
    bed.faults.writes.next(WriteFault::Rejected);
    let first = Pending::of(pay(&entity, "x", 2));
    let second = Pending::of(pay(&entity, "x", 2));
    settle(&system).await;
    gate.open();
    assert_eq!(before.answer().await, Ok(vec![1]));
    assert_eq!(
        persist_failure(first.answer().await),
        PersistFailure::Rejected
    );
    assert_eq!(
        persist_failure(second.answer().await),
        PersistFailure::Earlier
    );
    assert_eq!(pay(&entity, "x", 2).await, paid([1, 2]), "handled anew");
    assert_eq!(bed.stored("a"), noted([1, 2]));
}

#[tokio::test]
async fn a_command_leaves_the_window_by_number() {
    let bed = Bed::new();
    let entity = ledger().command_window(2, DAY);
    let system = bed.start_with(entity.clone(), &[]).await;
    let a = system.entity::<Ledger>("a");
    assert_eq!(pay(&a, "x", 1).await, paid([1]));
    assert_eq!(pay(&a, "y", 2).await, paid([1, 2]));
    assert_eq!(pay(&a, "x", 1).await, paid([1]), "still known");
    assert_eq!(pay(&a, "z", 3).await, paid([1, 2, 3]));
    assert_eq!(pay(&a, "x", 1).await, paid([1, 2, 3, 1]), "a new one");
    assert_eq!(pay(&a, "x", 1).await, paid([1, 2, 3, 1]));
    system.shutdown().await.expect("it stops");

    let system = bed.start_with(entity, &[]).await;
    let a = system.entity::<Ledger>("a");
    assert_eq!(pay(&a, "z", 3).await, paid([1, 2, 3]));
    assert_eq!(pay(&a, "y", 2).await, paid([1, 2, 3, 1, 2]), "a new one");
    assert_eq!(bed.stored("a"), noted([1, 2, 3, 1, 2]));
}

#[tokio::test]
async fn a_command_leaves_the_window_by_age() {
    let clock = ManualClock::new();
    let bed = Bed::on(Arc::new(clock.clone()));
    let system = bed.start_on(Arc::new(clock.clone()), ledger(), &[]).await;
    let a = system.entity::<Ledger>("a");
    assert_eq!(pay(&a, "x", 1).await, paid([1]));
    clock.advance(DAY - Duration::from_secs(1));
    assert_eq!(pay(&a, "x", 1).await, paid([1]));
    clock.advance(Duration::from_secs(1));
    assert_eq!(pay(&a, "x", 1).await, paid([1, 1]), "a new one");
    assert_eq!(pay(&a, "x", 1).await, paid([1, 1]));
}

#[tokio::test]
async fn expired_rows_of_a_busy_entity_are_deleted() {
    let bed = Bed::new();
    let entity = ledger().command_window(2, DAY);
    let system = bed.start_with(entity, &[]).await;
    let a = system.entity::<Ledger>("a");
    bed.faults.reply_deletes.next(ChangeFault::Unavailable);
    for number in 1..=300 {
        let answer = pay(&a, &number.to_string(), number).await;
        assert!(answer.is_ok(), "{answer:?}");
    }
    until("most rows are deleted", || {
        bed.memory.replies(&id("a")).len() < 100
    })
    .await;
    assert_eq!(pay(&a, "300", 300).await, paid(1..=300));
    assert_eq!(pay(&a, "299", 299).await, paid(1..=299));
    assert_eq!(bed.stored("a").len(), 300, "no event is deleted");
}

#[tokio::test]
async fn expired_rows_of_an_entity_that_is_not_there_are_deleted() {
    let clock = ManualClock::new();
    let bed = Bed::on(Arc::new(clock.clone()));
    let system = bed.start_on(Arc::new(clock.clone()), ledger(), &[]).await;
    assert_eq!(pay(&system.entity("old"), "x", 1).await, paid([1]));
    clock.advance(DAY + Duration::from_secs(1));
    assert_eq!(pay(&system.entity("new"), "x", 1).await, paid([1]));
    until("the old row is deleted", || {
        bed.memory.replies(&id("old")).is_empty()
    })
    .await;
    assert_eq!(bed.memory.replies(&id("new")).len(), 1);
}

#[tokio::test]
async fn a_command_that_another_system_has_handled_is_refused_and_then_found() {
    let bed = Bed::new();
    let (one, two) = (bed.start(&[]).await, bed.start(&[]).await);
    let (first, second) = (one.entity::<Ledger>("a"), two.entity::<Ledger>("a"));
    assert_eq!(pay(&first, "w", 1).await, paid([1]));
    assert_eq!(pay(&second, "x", 2).await, paid([1, 2]));
    // The first one does not know of it, and its state is stale.
    assert_eq!(
        persist_failure(pay(&first, "x", 2).await),
        PersistFailure::Conflict
    );
    assert_eq!(pay(&first, "x", 2).await, paid([1, 2]));
    assert_eq!(bed.stored("a"), noted([1, 2]));
}

#[tokio::test]
async fn whoever_got_the_answer_of_another_system_sees_its_state() {
    let bed = Bed::new();
    let (one, two) = (bed.start(&[]).await, bed.start(&[]).await);
    let (first, second) = (one.entity::<Ledger>("a"), two.entity::<Ledger>("a"));
    assert_eq!(first.ask(Read).await, Ok(vec![]));
    assert_eq!(pay(&second, "x", 1).await, paid([1]));
    // Its state is older than the answer.
    assert_eq!(pay(&first, "x", 1).await, paid([1]));
    assert_eq!(first.ask(Read).await, Ok(vec![1]));
    assert_eq!(bed.stored("a"), noted([1]));
}

#[tokio::test]
async fn commands_without_ids_ask_for_no_replies() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let a = system.entity::<Ledger>("a");
    for number in 1..=10 {
        a.ask(Note(number)).await.expect("it is stored");
    }
    assert_eq!(bed.faults.reply_loads.count(), 0);
    assert_eq!(bed.memory.replies(&id("a")), []);
    pay(&a, "x", 1).await.expect("it is stored");
    pay(&a, "y", 1).await.expect("it is stored");
    assert_eq!(bed.faults.reply_loads.count(), 1, "once");
}

#[tokio::test]
async fn commands_wait_until_the_replies_are_read() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let a = system.entity::<Ledger>("a");
    let gate = Gate::new();
    bed.faults.reply_loads.next(ReadFault::Unavailable);
    bed.faults.reply_loads.next(ReadFault::Held(gate.clone()));
    let first = Pending::of(pay(&a, "x", 1));
    let second = send(&a, Note(2));
    in_time("the second attempt", gate.wait_for_arrivals(1)).await;
    settle(&system).await;
    assert!(first.is_open() && second.is_open());
    gate.open();
    assert_eq!(first.answer().await, paid([1]));
    assert_eq!(second.answer().await, Ok(vec![1, 2]), "in their order");
}

#[tokio::test]
async fn a_store_that_forgets_to_give_the_replies_is_asked_again() {
    let bed = Bed::new();
    let entity = ledger().recovery_timeout(Duration::from_millis(20));
    let system = bed.start_with(entity, &[]).await;
    let a = system.entity::<Ledger>("a");
    assert_eq!(a.ask(Read).await, Ok(vec![]));
    let gate = Gate::new();
    bed.faults.reply_loads.next(ReadFault::Held(gate.clone()));
    assert_eq!(pay(&a, "x", 1).await, paid([1]));
    // The late answer changes nothing.
    gate.open();
    assert_eq!(pay(&a, "x", 1).await, paid([1]));
    assert_eq!(bed.stored("a"), noted([1]));
}

#[tokio::test]
async fn replies_that_cannot_be_read_are_an_error_of_their_commands() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let a = system.entity::<Ledger>("a");
    assert_eq!(pay(&a, "x", 1).await, paid([1]));
    system.shutdown().await.expect("it stops");

    let system = bed.start(&[]).await;
    let a = system.entity::<Ledger>("a");
    bed.faults.reply_loads.next(ReadFault::Corrupt);
    let answer = pay(&a, "x", 1).await;
    assert!(
        matches!(answer, Err(AskError::CommandIdRefused { .. })),
        "{answer:?}"
    );
    assert_eq!(a.ask(Read).await, Ok(vec![1]), "others are handled");
    bed.faults.reply_loads.next(ReadFault::Undecodable);
    let answer = pay(&a, "x", 1).await;
    assert!(
        matches!(&answer, Err(AskError::ReplyUnreadable { command_id, .. })
            if *command_id == command("x")),
        "{answer:?}"
    );
    assert_eq!(bed.stored("a"), noted([1]));
}

#[tokio::test]
async fn a_repetition_waits_for_the_future_of_the_first_attempt() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let a = system.entity::<Ledger>("a");
    let fetch = Fetch {
        number: 1,
        gate: Gate::new(),
        runs: Arc::default(),
        outcome: Outcome::Stored,
    };
    let ask = || Pending::of(a.ask(fetch.clone()).command_id(command("x")));
    let (first, second) = (ask(), ask());
    in_time("the future", fetch.gate.wait_for_arrivals(1)).await;
    assert_eq!(a.ask(Note(7)).await, Ok(vec![7]), "others are handled");
    let third = ask();
    settle(&system).await;
    assert!(first.is_open() && second.is_open() && third.is_open());
    fetch.gate.open();
    assert_eq!(first.answer().await, paid([7, 1]));
    assert_eq!(second.answer().await, paid([7, 1]));
    assert_eq!(third.answer().await, paid([7, 1]));
    assert_eq!(fetch.runs.load(Ordering::SeqCst), 1);
    assert_eq!(bed.stored("a"), noted([7, 1]));
}

#[tokio::test]
async fn a_repetition_takes_over_when_the_future_comes_to_nothing() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let a = system.entity::<Ledger>("a");
    for (outcome, name) in [(Outcome::Refused, "x"), (Outcome::Panics, "y")] {
        let failing = Fetch {
            number: 1,
            gate: Gate::new(),
            runs: Arc::default(),
            outcome,
        };
        let first = Pending::of(a.ask(failing.clone()).command_id(command(name)));
        in_time("the future", failing.gate.wait_for_arrivals(1)).await;
        let again = Fetch {
            outcome: Outcome::Stored,
            ..failing.clone()
        };
        let second = Pending::of(a.ask(again).command_id(command(name)));
        settle(&system).await;
        failing.gate.open();
        match (outcome, first.answer().await) {
            (Outcome::Refused, Ok(Receipt::Refused)) => {}
            (Outcome::Panics, Err(AskError::Unknown { .. })) => {}
            (_, other) => panic!("{other:?}"),
        }
        assert!(matches!(second.answer().await, Ok(Receipt::Paid(_))));
        assert_eq!(failing.runs.load(Ordering::SeqCst), 2);
    }
    assert_eq!(bed.stored("a"), noted([1, 1]));
}
