//! Commands with ids to entities of which only the state is kept: each takes effect once, and
//! whoever asks again gets the first answer, as of any entity.

use std::sync::Arc;
use std::time::Duration;

use perennial_core::cleanup::CleanupTask;
use perennial_core::config::ConfigSource;
use perennial_core::{
    ActorSystem, AskError, AskOnce, Cx, Durable, DurableState, Effect, Entity, EntityRef, Handle,
    PersistFailure, Repeatable,
};
use perennial_persistence::{
    CommandId, DurableStateDelete, PersistenceId, SequenceNr, Store, StoredReply, StoredState,
};
use perennial_testkit::{ChangeFault, Gate, ManualClock, ReadFault, WriteFault};
use serde::{Deserialize, Serialize};

use crate::fixture::{Bed, Pending, in_time, persist_failure, until};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What was paid.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Till {
    paid: Vec<u64>,
}

impl DurableState for Till {
    const TYPE: &'static str = "Till";
    type Services = ();
}

/// Adds an amount; the reply is everything paid by then. 0 is refused while nothing is paid.
#[derive(Debug, Clone, Serialize)]
struct Pay(u64);

impl Repeatable for Pay {
    const NAME: &'static str = "Pay";
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Receipt {
    Paid(Vec<u64>),
    Refused,
    Emptied(u64),
}

impl Handle<Pay> for Durable<Till> {
    type Reply = Receipt;

    fn handle(&self, command: Pay, cx: &Cx<'_, Self>) -> Effect<Self, Receipt> {
        if command.0 == 0 && self.paid.is_empty() {
            return cx.reply(Receipt::Refused);
        }
        let mut paid = self.paid.clone();
        paid.push(command.0);
        cx.put(Till { paid })
            .reply(|till| Receipt::Paid(till.paid.clone()))
    }
}

/// Deletes the state; the reply is the sum of what was there.
#[derive(Debug, Clone, Serialize)]
struct Empty;

impl Repeatable for Empty {
    const NAME: &'static str = "Empty";
}

impl Handle<Empty> for Durable<Till> {
    type Reply = Receipt;

    fn handle(&self, _: Empty, cx: &Cx<'_, Self>) -> Effect<Self, Receipt> {
        let sum = self.paid.iter().sum();
        cx.delete().reply(move |_| Receipt::Emptied(sum))
    }
}

/// Sets what was paid, so that several commands make the same state.
#[derive(Debug, Clone, Serialize)]
struct Set(u64);

impl Repeatable for Set {
    const NAME: &'static str = "Set";
}

impl Handle<Set> for Durable<Till> {
    type Reply = ();

    fn handle(&self, command: Set, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        let paid = vec![command.0];
        cx.put(Till { paid }).reply(|_| ())
    }
}

struct Read;

impl Handle<Read> for Durable<Till> {
    type Reply = (Vec<u64>, u64);

    fn handle(&self, _: Read, cx: &Cx<'_, Self>) -> Effect<Self, (Vec<u64>, u64)> {
        cx.reply((self.paid.clone(), cx.sequence_nr().value()))
    }
}

type TillRef = EntityRef<Durable<Till>>;

fn tills() -> Entity<Durable<Till>> {
    Entity::<Durable<Till>>::durable(())
        .restart_backoff(Duration::from_millis(1), Duration::from_millis(5))
}

async fn start(bed: &Bed) -> (ActorSystem, TillRef) {
    start_with(bed, tills(), &[]).await
}

async fn start_with(
    bed: &Bed,
    entity: Entity<Durable<Till>>,
    settings: &[(&str, &str)],
) -> (ActorSystem, TillRef) {
    let builder = bed.builder(settings).entity(entity);
    let system = builder.start().await.expect("it starts");
    let till = system.entity("a");
    (system, till)
}

/// Lets the only worker take in everything that was sent to it before.
async fn settle(system: &ActorSystem) {
    let bystander: TillRef = system.entity("bystander");
    for _ in 0..2 {
        bystander.ask(Read).await.expect("the worker answers");
    }
}

fn id() -> PersistenceId {
    PersistenceId::new("Till", "a").expect("a valid id")
}

fn command(name: &str) -> CommandId {
    CommandId::new(name).expect("a valid command id")
}

fn pay(till: &TillRef, name: &str, amount: u64) -> AskOnce<Durable<Till>, Pay> {
    till.ask(Pay(amount)).command_id(command(name))
}

fn empty(till: &TillRef, name: &str) -> AskOnce<Durable<Till>, Empty> {
    till.ask(Empty).command_id(command(name))
}

fn paid(amounts: impl IntoIterator<Item = u64>) -> Result<Receipt, AskError> {
    Ok(Receipt::Paid(amounts.into_iter().collect()))
}

fn replies(bed: &Bed) -> Vec<StoredReply> {
    bed.memory.replies(&id())
}

fn names(bed: &Bed) -> Vec<(u64, String)> {
    let of = |reply: StoredReply| (reply.seq_nr.value(), reply.command_id.to_string());
    replies(bed).into_iter().map(of).collect()
}

async fn row(bed: &Bed) -> Option<StoredState> {
    let states = bed.memory.durable_state_store();
    states.load(&id()).await.expect("memory is open")
}

#[tokio::test]
async fn a_command_that_is_sent_again_gets_the_first_answer() {
    let bed = Bed::new();
    let (system, till) = start(&bed).await;
    assert_eq!(pay(&till, "x", 1).await, paid([1]));
    assert_eq!(pay(&till, "y", 1).await, paid([1, 1]));
    assert_eq!(pay(&till, "x", 1).await, paid([1]), "as it was then");
    assert_eq!(pay(&till, "y", 1).await, paid([1, 1]));
    assert_eq!(till.ask(Read).await, Ok((vec![1, 1], 2)));
    assert_eq!(row(&bed).await.map(|row| row.revision.value()), Some(2));

    let other: TillRef = system.entity("b");
    assert_eq!(pay(&other, "x", 7).await, paid([7]), "of another entity");
    let reused = pay(&till, "x", 2).await;
    assert!(
        matches!(&reused, Err(AskError::CommandIdReused { command_id, .. })
            if *command_id == command("x")),
        "{reused:?}"
    );
    let reused = empty(&till, "x").await;
    assert!(matches!(reused, Err(AskError::CommandIdReused { .. })));
    assert_eq!(till.ask(Read).await, Ok((vec![1, 1], 2)));
}

/// The answer that comes back is the stored one, byte for byte, also across a deletion.
#[tokio::test]
async fn the_first_answer_outlives_the_system_and_the_state() {
    let bed = Bed::new();
    let (system, till) = start(&bed).await;
    assert_eq!(pay(&till, "x", 1).await, paid([1]));
    assert_eq!(till.ask(Set(5)).await, Ok(()));
    assert_eq!(empty(&till, "y").await, Ok(Receipt::Emptied(5)));
    assert_eq!(pay(&till, "z", 3).await, paid([3]));
    assert_eq!(empty(&till, "y").await, Ok(Receipt::Emptied(5)));
    let stored = replies(&bed);
    assert_eq!(names(&bed).len(), 3);
    system.shutdown().await.expect("it stops");

    let (_system, till) = start(&bed).await;
    assert_eq!(empty(&till, "y").await, Ok(Receipt::Emptied(5)));
    assert_eq!(pay(&till, "x", 1).await, paid([1]));
    assert_eq!(pay(&till, "z", 3).await, paid([3]));
    assert_eq!(till.ask(Read).await, Ok((vec![3], 4)), "none took effect");
    assert_eq!(replies(&bed), stored, "nor changed what is stored");
    assert_eq!(pay(&till, "w", 4).await, paid([3, 4]));
}

#[tokio::test]
async fn commands_of_one_turn_are_told_apart_by_their_ids() {
    let bed = Bed::new();
    let (_system, till) = start(&bed).await;
    let asks: Vec<_> = ["x", "y", "x", "y", "x"]
        .into_iter()
        .map(|name| Pending::of(pay(&till, name, 1)))
        .collect();
    let mut answers = Vec::new();
    for ask in asks {
        answers.push(ask.answer().await);
    }
    let (x, y) = (paid([1]), paid([1, 1]));
    assert_eq!(answers, [x.clone(), y.clone(), x.clone(), y, x]);
    assert_eq!(till.ask(Read).await, Ok((vec![1, 1], 2)));
}

/// Many changes are one row, but each has its reply.
#[tokio::test]
async fn many_commands_at_once_each_have_their_reply() {
    const MANY: u64 = 300;
    let bed = Bed::new();
    let (system, till) = start(&bed).await;
    till.ask(Read).await.expect("recovered");
    let send = |till: &TillRef| -> Vec<Pending<Receipt>> {
        (1..=MANY)
            .map(|number| Pending::of(pay(till, &number.to_string(), number)))
            .collect()
    };
    for (number, ask) in (1..).zip(send(&till)) {
        assert_eq!(ask.answer().await, paid(1..=number));
    }
    let expected: Vec<(u64, String)> = (1..=MANY).map(|n| (n, n.to_string())).collect();
    assert_eq!(names(&bed), expected);
    system.shutdown().await.expect("it stops");
    let (_system, till) = start(&bed).await;
    for (number, ask) in (1..).zip(send(&till)) {
        assert_eq!(ask.answer().await, paid(1..=number));
    }
    assert_eq!(row(&bed).await.map(|row| row.revision.value()), Some(MANY));
}

#[tokio::test]
async fn a_repetition_waits_for_the_write_of_the_first_attempt() {
    let bed = Bed::new();
    let (system, till) = start(&bed).await;
    let gate = Gate::new();
    bed.faults.state_writes.next(WriteFault::Held(gate.clone()));
    let first = Pending::of(pay(&till, "x", 1));
    in_time("the write", gate.wait_for_arrivals(1)).await;
    let second = Pending::of(pay(&till, "x", 1));
    let another = Pending::of(pay(&till, "x", 2));
    settle(&system).await;
    assert!(first.is_open() && second.is_open() && another.is_open());
    gate.open();
    assert_eq!(first.answer().await, paid([1]));
    assert_eq!(second.answer().await, paid([1]));
    let reused = another.answer().await;
    assert!(matches!(reused, Err(AskError::CommandIdReused { .. })));
    assert_eq!(till.ask(Read).await, Ok((vec![1], 1)));
}

#[tokio::test]
async fn a_crash_between_commit_and_answer_leaves_the_answer() {
    let bed = Bed::new();
    let (_system, till) = start(&bed).await;
    let gate = Gate::new();
    let held = WriteFault::AnswerHeld(gate.clone());
    bed.faults.state_writes.next(held);
    let lost = Pending::of(pay(&till, "x", 1));
    in_time("the write", gate.wait_for_arrivals(1)).await;
    assert!(lost.is_open());
    // The first system never hears of its write.
    let (_next, till) = start(&bed).await;
    assert_eq!(pay(&till, "x", 1).await, paid([1]));
    assert_eq!(till.ask(Read).await, Ok((vec![1], 1)));
}

#[tokio::test]
async fn an_answer_that_got_lost_is_not_waited_for_twice() {
    let bed = Bed::new();
    let (_system, till) = start(&bed).await;
    for (fault, name) in [
        (WriteFault::LostAnswer, "x"),
        (WriteFault::LostRequest, "y"),
        (WriteFault::Unavailable, "z"),
    ] {
        bed.faults.state_writes.next(fault);
        let first = pay(&till, name, 1).await;
        assert!(first.is_ok(), "{first:?}");
        assert_eq!(pay(&till, name, 1).await, first);
    }
    assert_eq!(till.ask(Read).await, Ok((vec![1, 1, 1], 3)));
    let numbered = ["x", "y", "z"].map(str::to_owned);
    let expected: Vec<(u64, String)> = (1..).zip(numbered).collect();
    assert_eq!(names(&bed), expected);
}

#[tokio::test]
async fn an_unknown_outcome_is_found_by_asking_again() {
    let bed = Bed::new();
    let settings = [
        ("persistence.outcome-timeout", "50ms"),
        // So often is the store asked meanwhile, and it is to be asked once more.
        ("persistence.breaker-failures", "0"),
    ];
    let (_system, till) = start_with(&bed, tills(), &settings).await;
    till.ask(Read).await.expect("recovered");
    bed.faults.state_writes.decide(|call| {
        Some(if call.number == 1 {
            WriteFault::LostAnswer
        } else {
            WriteFault::Unavailable
        })
    });
    let answer = pay(&till, "x", 1).await;
    assert!(
        matches!(answer, Err(AskError::Unknown { .. })),
        "{answer:?}"
    );
    bed.faults.clear();
    assert_eq!(pay(&till, "x", 1).await, paid([1]));
    assert_eq!(till.ask(Read).await, Ok((vec![1], 1)));
}

/// The request was lost, and another system made the same of the same state. What stands in the row
/// looks as if it had been stored, but the reply is not there.
#[tokio::test]
async fn an_identical_change_of_another_system_is_not_taken_for_the_commands_own() {
    let bed = Bed::new();
    let (_system, till) = start(&bed).await;
    till.ask(Read).await.expect("recovered");
    for (name, number) in [("without", 1), ("with", 4)] {
        let gate = Gate::new();
        let next = bed.faults.state_writes.count() + 1;
        bed.faults.state_writes.at(next, WriteFault::LostRequest);
        let held = WriteFault::Held(gate.clone());
        bed.faults.state_writes.at(next + 1, held);
        let set = || till.ask(Set(7)).command_id(command(name));
        let ours = Pending::of(set());
        in_time("the second attempt", gate.wait_for_arrivals(1)).await;
        let other = Bed {
            memory: bed.memory.clone(),
            ..Bed::new()
        };
        let (other_system, other) = start(&other).await;
        if name == "with" {
            let theirs = other.ask(Set(7)).command_id(command("theirs"));
            assert_eq!(theirs.await, Ok(()));
        } else {
            assert_eq!(other.ask(Set(7)).await, Ok(()));
        }
        other_system.shutdown().await.expect("it stops");
        assert_eq!(
            row(&bed).await.map(|row| row.revision.value()),
            Some(number)
        );
        gate.open();
        let answer = ours.answer().await;
        assert!(
            matches!(answer, Err(AskError::Unknown { .. })),
            "{answer:?}"
        );
        // It had no effect, and now it has one, once.
        assert_eq!(set().await, Ok(()));
        assert_eq!(set().await, Ok(()));
        assert_eq!(till.ask(Read).await, Ok((vec![7], number + 1)));
        assert_eq!(till.ask(Set(0)).await, Ok(()), "for the next round");
    }
}

#[tokio::test]
async fn a_write_that_fails_takes_its_command_with_it() {
    let bed = Bed::new();
    let (system, till) = start(&bed).await;
    // From here on it knows the ids that it has handled.
    assert_eq!(pay(&till, "w", 0).await, Ok(Receipt::Refused));
    let gate = Gate::new();
    bed.faults.state_writes.next(WriteFault::Held(gate.clone()));
    let before = Pending::of(till.ask(Pay(1)));
    in_time("the write", gate.wait_for_arrivals(1)).await;
    bed.faults.state_writes.next(WriteFault::Rejected);
    let first = Pending::of(pay(&till, "x", 2));
    let second = Pending::of(pay(&till, "x", 2));
    settle(&system).await;
    gate.open();
    assert_eq!(before.answer().await, paid([1]));
    assert_eq!(
        persist_failure(first.answer().await),
        PersistFailure::Rejected
    );
    assert_eq!(
        persist_failure(second.answer().await),
        PersistFailure::Earlier
    );
    assert_eq!(names(&bed), []);
    assert_eq!(pay(&till, "x", 2).await, paid([1, 2]), "handled anew");
    assert_eq!(till.ask(Read).await, Ok((vec![1, 2], 2)));
}

#[tokio::test]
async fn a_refusal_stores_nothing_and_is_decided_anew() {
    let bed = Bed::new();
    let (_system, till) = start(&bed).await;
    assert_eq!(pay(&till, "x", 0).await, Ok(Receipt::Refused));
    assert_eq!(replies(&bed), []);
    assert_eq!(till.ask(Pay(7)).await, paid([7]));
    assert_eq!(pay(&till, "x", 0).await, paid([7, 0]));
    assert_eq!(pay(&till, "x", 0).await, paid([7, 0]));
}

#[tokio::test]
async fn a_command_leaves_the_window_by_number_and_by_age() {
    let clock = ManualClock::new();
    let bed = Bed::on(Arc::new(clock.clone()));
    let entity = tills().command_window(2, DAY);
    let builder = bed
        .builder(&[])
        .entity(entity)
        .clock(Arc::new(clock.clone()));
    let system = builder.start().await.expect("it starts");
    let till: TillRef = system.entity("a");
    assert_eq!(pay(&till, "x", 1).await, paid([1]));
    assert_eq!(pay(&till, "y", 2).await, paid([1, 2]));
    assert_eq!(pay(&till, "x", 1).await, paid([1]), "still known");
    assert_eq!(pay(&till, "z", 3).await, paid([1, 2, 3]));
    assert_eq!(pay(&till, "x", 1).await, paid([1, 2, 3, 1]), "a new one");
    assert_eq!(pay(&till, "x", 1).await, paid([1, 2, 3, 1]));
    clock.advance(DAY - Duration::from_secs(1));
    assert_eq!(pay(&till, "z", 3).await, paid([1, 2, 3]));
    clock.advance(Duration::from_secs(1));
    assert_eq!(pay(&till, "z", 3).await, paid([1, 2, 3, 1, 3]), "a new one");
    assert_eq!(pay(&till, "z", 3).await, paid([1, 2, 3, 1, 3]));
}

#[tokio::test]
async fn expired_rows_are_deleted() {
    let bed = Bed::new();
    let entity = tills().command_window(2, DAY);
    let (_system, till) = start_with(&bed, entity, &[]).await;
    bed.faults.reply_deletes.next(ChangeFault::Unavailable);
    for number in 1..=300 {
        let answer = pay(&till, &number.to_string(), number).await;
        assert!(answer.is_ok(), "{answer:?}");
    }
    until("most rows are deleted", || replies(&bed).len() < 100).await;
    assert_eq!(pay(&till, "300", 300).await, paid(1..=300));
    assert_eq!(pay(&till, "299", 299).await, paid(1..=299));
}

#[tokio::test]
async fn a_command_that_another_system_has_handled_is_refused_and_then_found() {
    let bed = Bed::new();
    let ((_one, first), (_two, second)) = (start(&bed).await, start(&bed).await);
    assert_eq!(pay(&first, "w", 1).await, paid([1]));
    assert_eq!(pay(&second, "x", 2).await, paid([1, 2]));
    // The first one does not know of it, and its state is stale.
    assert_eq!(
        persist_failure(pay(&first, "x", 2).await),
        PersistFailure::Conflict
    );
    assert_eq!(pay(&first, "x", 2).await, paid([1, 2]));
    assert_eq!(first.ask(Read).await, Ok((vec![1, 2], 2)));
}

#[tokio::test]
async fn whoever_got_the_answer_of_another_system_sees_its_state() {
    let bed = Bed::new();
    let ((_one, first), (_two, second)) = (start(&bed).await, start(&bed).await);
    assert_eq!(first.ask(Read).await, Ok((vec![], 0)));
    assert_eq!(pay(&second, "x", 1).await, paid([1]));
    assert_eq!(empty(&second, "y").await, Ok(Receipt::Emptied(1)));
    // Its state is older than the answer.
    assert_eq!(empty(&first, "y").await, Ok(Receipt::Emptied(1)));
    assert_eq!(first.ask(Read).await, Ok((vec![], 2)));
    assert_eq!(pay(&first, "z", 2).await, paid([2]));
}

#[tokio::test]
async fn commands_without_ids_ask_for_no_replies() {
    let bed = Bed::new();
    let (_system, till) = start(&bed).await;
    for number in 1..=10 {
        till.ask(Pay(number)).await.expect("it is stored");
    }
    assert_eq!(bed.faults.reply_loads.count(), 0);
    assert_eq!(replies(&bed), []);
    pay(&till, "x", 1).await.expect("it is stored");
    pay(&till, "y", 1).await.expect("it is stored");
    assert_eq!(bed.faults.reply_loads.count(), 1, "once");
}

#[tokio::test]
async fn replies_that_cannot_be_read_are_an_error_of_their_commands() {
    let bed = Bed::new();
    let (system, till) = start(&bed).await;
    assert_eq!(pay(&till, "x", 1).await, paid([1]));
    system.shutdown().await.expect("it stops");
    let (_system, till) = start(&bed).await;
    bed.faults.reply_loads.next(ReadFault::Corrupt);
    let answer = pay(&till, "x", 1).await;
    assert!(
        matches!(answer, Err(AskError::CommandIdRefused { .. })),
        "{answer:?}"
    );
    assert_eq!(till.ask(Read).await, Ok((vec![1], 1)), "others are handled");
    assert_eq!(pay(&till, "x", 1).await, paid([1]));
}

#[tokio::test]
async fn ids_need_markers_of_deleted_states() {
    let bed = Bed::new();
    let store = bed
        .memory
        .with_durable_state_delete(DurableStateDelete::Row);
    let system = ActorSystem::with_store(ConfigSource::empty(), Arc::new(store))
        .entity(tills())
        .start()
        .await
        .expect("it starts");
    let till: TillRef = system.entity("a");
    let error = pay(&till, "x", 1).await.expect_err("no place for a reply");
    assert!(error.is_not_handled(), "{error}");
    let text = error.to_string();
    assert!(
        matches!(error, AskError::CommandIdRefused { .. }) && text.contains("durable-state-delete"),
        "{text}"
    );
    assert_eq!(till.ask(Pay(1)).await, paid([1]));
}

/// Whoever deletes a state deletes what was answered, so that a command is one that was never seen.
#[tokio::test]
async fn a_clean_up_of_a_state_takes_its_replies() {
    for (task, revision) in [(CleanupTask::State, 3), (CleanupTask::ResetState, 1)] {
        let bed = Bed::new();
        let (system, till) = start(&bed).await;
        assert_eq!(pay(&till, "x", 1).await, paid([1]));
        system.shutdown().await.expect("it stops");
        let (system, till) = start(&bed).await;
        // It breaks off once, and is finished by the next one.
        bed.faults.reply_deletes.next(ChangeFault::Unavailable);
        assert!(system.cleanup().run(task, [id()]).await.is_err());
        assert_eq!(replies(&bed).len(), 1);
        let done = system.cleanup().run(task, [id()]).await.expect("done");
        assert_eq!((done.ids, done.failed), (1, 0));
        assert_eq!(replies(&bed), []);
        assert_eq!(pay(&till, "x", 1).await, paid([1]), "a new one");
        let row = row(&bed).await.expect("a state");
        assert_eq!(row.revision, SequenceNr::new(revision).expect("small"));
    }
}
