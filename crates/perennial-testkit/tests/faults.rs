//! Every fault, seen from the caller and from the store behind.

use std::sync::Arc;
use std::time::Duration;

use perennial_persistence::{
    AtomicWrite, CommandId, DurableStateStore, Error, Fingerprint, Journal, NewEvent, NewReply,
    PageLimit, PersistenceId, ReplayPage, SequenceNr, SerializedPayload, Snapshot,
    SnapshotCriteria, SnapshotStore, StateChange, StateWrite, Store, Timestamp, WriterId, Written,
};
use perennial_testkit::{
    ChangeFault, FaultyStore, Gate, ManualClock, MemoryStore, ReadFault, WriteFault,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// A faulty store, and the store in memory behind it.
struct Stores {
    memory: MemoryStore,
    faulty: FaultyStore,
}

impl Stores {
    fn new() -> Self {
        let memory = MemoryStore::new(Arc::new(ManualClock::new()));
        let faulty = FaultyStore::new(Arc::new(memory.clone()));
        Self { memory, faulty }
    }

    fn journal(&self) -> Arc<dyn Journal> {
        self.faulty.journal()
    }

    fn snapshots(&self) -> Arc<dyn SnapshotStore> {
        self.faulty.snapshot_store()
    }

    fn states(&self) -> Arc<dyn DurableStateStore> {
        self.faulty.durable_state_store()
    }

    /// The revision that stands in the store behind.
    fn revision(&self, name: &str) -> u64 {
        let row = self.memory.state(&id(name));
        row.map_or(0, |row| row.revision.value())
    }

    async fn write_state(&self, write: &StateWrite) -> Result<Written, Error> {
        let batch = std::slice::from_ref(write);
        self.states().write_states(batch).await.remove(0)
    }

    fn writes(&self, fault: WriteFault) {
        self.faulty.faults().writes.next(fault);
    }

    async fn write(&self, batch: &[AtomicWrite]) -> Vec<Result<Written, Error>> {
        self.journal().write_events(batch).await
    }

    async fn write_one(&self, write: &AtomicWrite) -> Result<Written, Error> {
        self.write(std::slice::from_ref(write)).await.remove(0)
    }

    async fn replay(&self, name: &str) -> Result<ReplayPage, Error> {
        let limit = PageLimit {
            rows: 1_000,
            bytes: 1_000_000,
        };
        let journal = self.journal();
        let id = id(name);
        let replay = journal.replay_events(&id, SequenceNr::FIRST, SequenceNr::MAX, limit);
        replay.await
    }

    /// How many rows stand in the store behind.
    fn rows(&self, name: &str) -> usize {
        self.memory.rows(&id(name)).len()
    }
}

fn id(name: &str) -> PersistenceId {
    PersistenceId::new("Cart", name).expect("a valid id")
}

fn write(name: &str, first: u64) -> AtomicWrite {
    let event = NewEvent::new(SerializedPayload::new(77, "Event", &b"event"[..]));
    let first = SequenceNr::new(first).expect("a small number");
    let writer = WriterId::from_random_bits(1);
    AtomicWrite::new(id(name), writer, first, vec![event]).expect("a valid write")
}

fn snapshot(name: &str) -> Snapshot {
    Snapshot {
        persistence_id: id(name),
        seq_nr: SequenceNr::FIRST,
        write_timestamp: Timestamp::UNIX_EPOCH,
        payload: SerializedPayload::new(77, "State", &b"state"[..]),
        metadata: None,
    }
}

fn state(name: &str, expected: u64) -> StateWrite {
    let expected = SequenceNr::new(expected).expect("a small number");
    let put = StateChange::Put {
        payload: SerializedPayload::new(77, "State", &b"state"[..]),
        tags: Vec::new(),
    };
    StateWrite::new(id(name), expected, expected.next(), put).expect("a valid write")
}

/// The same write, sent again after an unknown outcome.
fn again(mut write: StateWrite) -> StateWrite {
    write.maybe_stored = true;
    write
}

fn is_unavailable<T>(answer: &Result<T, Error>, unknown: bool) -> bool {
    matches!(answer, Err(Error::Unavailable { outcome_unknown, .. }) if *outcome_unknown == unknown)
}

/// Fails the test instead of letting it hang.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(60);
    let ended = tokio::time::timeout(limit, future).await;
    ended.expect("it ends within a minute")
}

#[tokio::test]
async fn a_rejected_write_fails_with_its_entitys_later_ones_only() {
    let stores = Stores::new();
    stores.faulty.faults().writes.at(2, WriteFault::Rejected);
    let batch = [
        write("a", 1),
        write("b", 1),
        write("c", 1),
        write("b", 2),
        write("a", 2),
    ];
    let answers = stores.write(&batch).await;
    for (index, answer) in answers.iter().enumerate() {
        match answer {
            Err(Error::Rejected { persistence_id, .. }) if [1, 3].contains(&index) => {
                assert_eq!(*persistence_id, id("b"));
            }
            other => assert!(![1, 3].contains(&index) && other.is_ok(), "{other:?}"),
        }
    }
    let rows = ["a", "b", "c"].map(|name| stores.rows(name));
    assert_eq!(rows, [2, 0, 1]);
}

#[tokio::test]
async fn a_conflict_names_the_number_and_stores_nothing() {
    let stores = Stores::new();
    stores.writes(WriteFault::Conflict);
    let answers = stores.write(&[write("a", 7), write("b", 1)]).await;
    assert!(matches!(
        &answers[0],
        Err(Error::Conflict { persistence_id, seq_nr })
            if *persistence_id == id("a") && seq_nr.value() == 7
    ));
    assert!(answers[1].is_ok());
    assert_eq!(stores.rows("a"), 0);
}

#[tokio::test]
async fn an_unavailable_store_has_stored_nothing_and_says_so() {
    let stores = Stores::new();
    stores.writes(WriteFault::Unavailable);
    let batch = [write("a", 1), write("b", 1)];
    let answers = stores.write(&batch).await;
    assert!(answers.iter().all(|answer| is_unavailable(answer, false)));
    assert_eq!(stores.rows("a") + stores.rows("b"), 0);
    assert!(stores.write(&batch).await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_lost_request_is_unknown_and_not_stored() {
    let stores = Stores::new();
    stores.writes(WriteFault::LostRequest);
    let batch = [write("a", 1), write("b", 1)];
    let answers = stores.write(&batch).await;
    assert!(answers.iter().all(|answer| is_unavailable(answer, true)));
    assert_eq!(stores.rows("a") + stores.rows("b"), 0);
    assert!(stores.write(&batch).await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_lost_answer_is_unknown_and_stored() {
    let stores = Stores::new();
    stores.writes(WriteFault::LostAnswer);
    let batch = [write("a", 1), write("b", 1)];
    let answers = stores.write(&batch).await;
    assert!(answers.iter().all(|answer| is_unavailable(answer, true)));
    assert_eq!((stores.rows("a"), stores.rows("b")), (1, 1));
    assert!(stores.write(&batch).await.iter().all(Result::is_ok));
    assert_eq!((stores.rows("a"), stores.rows("b")), (1, 1));
}

#[tokio::test]
async fn a_late_write_is_stored_when_it_is_delivered() {
    let stores = Stores::new();
    stores.writes(WriteFault::StoredLate);
    stores.writes(WriteFault::StoredLate);
    for first in [1, 2] {
        let answer = stores.write_one(&write("a", first)).await;
        assert!(is_unavailable(&answer, true));
    }
    assert_eq!(stores.rows("a"), 0);
    // One of them is sent again before its first attempt arrives.
    assert!(stores.write_one(&write("a", 1)).await.is_ok());
    stores.faulty.deliver_late_writes().await;
    assert_eq!(stores.rows("a"), 2);
    stores.faulty.deliver_late_writes().await;
    assert_eq!(stores.rows("a"), 2);
}

#[tokio::test]
async fn what_may_be_stored_is_not_refused_when_it_is_sent_again() {
    let stores = Stores::new();
    for refusal in [WriteFault::Rejected, WriteFault::Conflict] {
        let name = format!("{refusal:?}");
        stores.writes(WriteFault::LostAnswer);
        stores.writes(WriteFault::Unavailable);
        stores.writes(refusal.clone());
        let write = write(&name, 1);
        assert!(is_unavailable(&stores.write_one(&write).await, true));
        assert!(is_unavailable(&stores.write_one(&write).await, false));
        assert!(stores.write_one(&write).await.is_ok());
    }
    // What was lost before it was stored may be refused.
    stores.writes(WriteFault::LostRequest);
    stores.writes(WriteFault::Conflict);
    assert!(is_unavailable(
        &stores.write_one(&write("c", 1)).await,
        true
    ));
    let refused = stores.write_one(&write("c", 1)).await;
    assert!(matches!(refused, Err(Error::Conflict { .. })));
}

#[tokio::test]
async fn a_held_write_is_stored_when_its_gate_opens() {
    let stores = Stores::new();
    let gate = Gate::new();
    stores.writes(WriteFault::Held(gate.clone()));
    let journal = stores.journal();
    let batch = [write("a", 1)];
    let sent = tokio::spawn(async move { journal.write_events(&batch).await });
    soon(gate.wait_for_arrivals(1)).await;
    assert_eq!(stores.rows("a"), 0);
    // Others go on meanwhile.
    assert!(stores.write_one(&write("b", 1)).await.is_ok());
    assert!(!sent.is_finished());

    gate.open();
    let answers = soon(sent).await.expect("no panic");
    assert!(answers[0].is_ok());
    assert_eq!(stores.rows("a"), 1);
}

#[tokio::test]
async fn a_held_answer_comes_when_its_gate_opens_and_the_write_is_stored_before() {
    let stores = Stores::new();
    let gate = Gate::new();
    stores.writes(WriteFault::AnswerHeld(gate.clone()));
    let journal = stores.journal();
    let batch = [write("a", 1)];
    let sent = tokio::spawn(async move { journal.write_events(&batch).await });
    soon(gate.wait_for_arrivals(1)).await;
    assert_eq!(stores.rows("a"), 1);
    assert!(!sent.is_finished());
    gate.open();
    assert!(soon(sent).await.expect("no panic")[0].is_ok());
    assert_eq!(gate.arrived(), 1);
}

#[tokio::test]
async fn a_write_that_was_dropped_at_a_held_answer_is_not_refused_later() {
    let stores = Stores::new();
    let gate = Gate::new();
    stores.writes(WriteFault::AnswerHeld(gate.clone()));
    stores.writes(WriteFault::Conflict);
    let journal = stores.journal();
    let batch = [write("a", 1)];
    let given_up = tokio::select! {
        biased;
        _ = journal.write_events(&batch) => false,
        () = gate.wait_for_arrivals(1) => true,
    };
    assert!(given_up);
    assert!(stores.write_one(&batch[0]).await.is_ok());
}

#[tokio::test]
async fn reads_fail_are_damaged_or_wait() {
    let stores = Stores::new();
    stores.write_one(&write("a", 1)).await.expect("stored");
    let reads = &stores.faulty.faults().reads;

    reads.next(ReadFault::Unavailable);
    assert!(is_unavailable(&stores.replay("a").await, false));
    reads.next(ReadFault::Corrupt);
    let corrupt = stores.replay("a").await;
    assert!(matches!(corrupt, Err(Error::Corrupt { seq_nr, .. }) if seq_nr == SequenceNr::FIRST));
    reads.next(ReadFault::Undecodable);
    let damaged = stores.replay("a").await.expect("a page");
    let payload = &damaged.events[0].payload;
    assert_eq!((payload.serializer_id, &*payload.manifest), (77, "Event"));
    assert_eq!(payload.bytes[0], 0xc1, "no value in MessagePack");

    let gate = Gate::new();
    reads.next(ReadFault::Held(gate.clone()));
    let (page, ()) = soon(async {
        tokio::join!(stores.replay("a"), async {
            gate.wait_for_arrivals(1).await;
            gate.open();
        })
    })
    .await;
    assert_eq!(page.expect("a page").events[0].payload.bytes, "event");

    let journal = stores.journal();
    for (fault, fails) in [
        (ReadFault::Unavailable, true),
        (ReadFault::Corrupt, true),
        (ReadFault::Undecodable, false),
    ] {
        reads.next(fault);
        let highest = journal
            .highest_sequence_nr(&id("a"), SequenceNr::ZERO)
            .await;
        assert_eq!(is_unavailable(&highest, false), fails);
    }
}

#[tokio::test]
async fn deletions_fail_before_or_after_they_took_effect() {
    let stores = Stores::new();
    stores.write_one(&write("a", 1)).await.expect("stored");
    let deletes = &stores.faulty.faults().deletes;
    let journal = stores.journal();
    let delete = async || journal.delete_events(&id("a"), SequenceNr::FIRST).await;
    let is_deleted = || stores.memory.rows(&id("a"))[0].event.is_none();

    deletes.next(ChangeFault::Unavailable);
    assert!(is_unavailable(&delete().await, false) && !is_deleted());
    deletes.next(ChangeFault::LostRequest);
    assert!(is_unavailable(&delete().await, true) && !is_deleted());
    deletes.next(ChangeFault::LostAnswer);
    assert!(is_unavailable(&delete().await, true) && is_deleted());
    assert!(delete().await.is_ok());
}

#[tokio::test]
async fn snapshot_saves_fail_before_or_after_they_took_effect() {
    let stores = Stores::new();
    let saves = &stores.faulty.faults().snapshot_saves;
    let snapshots = stores.snapshots();
    let saved = snapshot("a");
    let is_saved = || stores.memory.snapshot(&id("a")).is_some();

    saves.next(ChangeFault::Unavailable);
    assert!(is_unavailable(&snapshots.save(&saved).await, false) && !is_saved());
    saves.next(ChangeFault::LostRequest);
    assert!(is_unavailable(&snapshots.save(&saved).await, true) && !is_saved());
    saves.next(ChangeFault::LostAnswer);
    assert!(is_unavailable(&snapshots.save(&saved).await, true) && is_saved());

    let gate = Gate::new();
    saves.next(ChangeFault::Held(gate.clone()));
    let newer = Snapshot {
        seq_nr: SequenceNr::FIRST.next(),
        ..saved.clone()
    };
    let (answer, ()) = soon(async {
        tokio::join!(snapshots.save(&newer), async {
            gate.wait_for_arrivals(1).await;
            assert_eq!(stores.memory.snapshot(&id("a")), Some(saved));
            gate.open();
        })
    })
    .await;
    answer.expect("saved in the end");
    assert_eq!(stores.memory.snapshot(&id("a")), Some(newer));
}

#[tokio::test]
async fn snapshot_deletions_fail_and_their_answers_wait() {
    let stores = Stores::new();
    let deletes = &stores.faulty.faults().snapshot_deletes;
    let snapshots = stores.snapshots();
    snapshots.save(&snapshot("a")).await.expect("saved");
    let a = id("a");
    let delete = || snapshots.delete(&a, SnapshotCriteria::ANY);

    deletes.next(ChangeFault::LostRequest);
    assert!(is_unavailable(&delete().await, true));
    assert!(stores.memory.snapshot(&a).is_some());
    let gate = Gate::new();
    deletes.next(ChangeFault::AnswerHeld(gate.clone()));
    let (answer, ()) = soon(async {
        tokio::join!(delete(), async {
            gate.wait_for_arrivals(1).await;
            assert_eq!(stores.memory.snapshot(&a), None);
            gate.open();
        })
    })
    .await;
    answer.expect("deleted in the end");
}

#[tokio::test]
async fn snapshots_cannot_be_loaded_or_decoded() {
    let stores = Stores::new();
    let loads = &stores.faulty.faults().snapshot_loads;
    let snapshots = stores.snapshots();
    let saved = snapshot("a");
    snapshots.save(&saved).await.expect("saved");
    let a = id("a");
    let load = || snapshots.load(&a, SnapshotCriteria::ANY);

    loads.next(ReadFault::Unavailable);
    assert!(is_unavailable(&load().await, false));
    loads.next(ReadFault::Corrupt);
    assert!(matches!(load().await, Err(Error::Corrupt { .. })));
    loads.next(ReadFault::Undecodable);
    let damaged = load().await.expect("readable").expect("a snapshot");
    assert_eq!(damaged.payload.manifest, saved.payload.manifest);
    assert_eq!(damaged.payload.bytes[0], 0xc1, "no value in MessagePack");
    assert_eq!(load().await.expect("readable"), Some(saved));
}

#[tokio::test]
async fn refused_states_fail_with_their_entitys_later_ones_only() {
    let stores = Stores::new();
    let writes = &stores.faulty.faults().state_writes;
    writes.at(2, WriteFault::Rejected);
    writes.at(4, WriteFault::Conflict);
    let batch = [
        state("a", 0),
        state("b", 0),
        state("b", 1),
        state("c", 0),
        state("a", 1),
    ];
    let answers = stores.states().write_states(&batch).await;
    assert!(answers[0].is_ok() && answers[4].is_ok());
    for refused in [1, 2] {
        assert!(matches!(&answers[refused], Err(Error::Rejected { .. })));
    }
    assert!(matches!(
        &answers[3],
        Err(Error::StaleRevision { persistence_id, expected, found })
            if *persistence_id == id("c") && expected.value() == 0 && found.value() == 1
    ));
    let revisions = ["a", "b", "c"].map(|name| stores.revision(name));
    assert_eq!(revisions, [2, 0, 0]);
    assert_eq!(writes.count(), 5);
    assert_eq!(stores.faulty.faults().writes.count(), 0, "another plan");
}

#[tokio::test]
async fn lost_states_are_unknown_and_recognised_when_they_were_stored() {
    let stores = Stores::new();
    let writes = &stores.faulty.faults().state_writes;
    for (fault, unknown, stored) in [
        (WriteFault::Unavailable, false, false),
        (WriteFault::LostRequest, true, false),
        (WriteFault::LostAnswer, true, true),
        (WriteFault::StoredLate, true, false),
    ] {
        let name = format!("{fault:?}");
        writes.next(fault);
        let answer = stores.write_state(&state(&name, 0)).await;
        assert!(is_unavailable(&answer, unknown), "{name}");
        assert_eq!(stores.revision(&name), u64::from(stored), "{name}");
        // What may be stored is not refused when it is sent again.
        if stored {
            writes.next(WriteFault::Conflict);
        }
        let answer = stores.write_state(&again(state(&name, 0))).await;
        answer.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(stores.revision(&name), 1, "{name}");
    }
    // What arrives late finds that it is there, or that it is too late.
    stores
        .write_state(&state("StoredLate", 1))
        .await
        .expect("the next");
    stores.faulty.deliver_late_writes().await;
    assert_eq!(stores.revision("StoredLate"), 2);
    writes.next(WriteFault::StoredLate);
    assert!(stores.write_state(&state("late", 0)).await.is_err());
    stores.faulty.deliver_late_writes().await;
    assert_eq!(stores.revision("late"), 1);
}

#[tokio::test]
async fn held_states_and_answers_come_when_their_gates_open() {
    let stores = Stores::new();
    let writes = &stores.faulty.faults().state_writes;
    let (before, after) = (Gate::new(), Gate::new());
    writes.next(WriteFault::Held(before.clone()));
    writes.next(WriteFault::AnswerHeld(after.clone()));
    for (gate, expected) in [(before, 0), (after, 1)] {
        let states = stores.states();
        let batch = [state("a", expected)];
        let sent = tokio::spawn(async move { states.write_states(&batch).await });
        soon(gate.wait_for_arrivals(1)).await;
        // The second one is stored, and only its answer waits.
        assert_eq!(stores.revision("a"), expected * 2);
        gate.open();
        assert!(soon(sent).await.expect("no panic")[0].is_ok());
    }
    assert_eq!(stores.revision("a"), 2);
}

#[tokio::test]
async fn states_cannot_be_loaded_decoded_or_removed() {
    let stores = Stores::new();
    stores.write_state(&state("a", 0)).await.expect("stored");
    let (a, states) = (id("a"), stores.states());
    let loads = &stores.faulty.faults().state_loads;
    loads.next(ReadFault::Unavailable);
    assert!(is_unavailable(&states.load(&a).await, false));
    loads.next(ReadFault::Corrupt);
    let corrupt = states.load(&a).await;
    assert!(matches!(corrupt, Err(Error::Corrupt { seq_nr, .. }) if seq_nr == SequenceNr::FIRST));
    loads.next(ReadFault::Undecodable);
    let damaged = states.load(&a).await.expect("readable").expect("a row");
    let payload = damaged.payload.expect("a state");
    assert_eq!((payload.serializer_id, &*payload.manifest), (77, "State"));
    assert_eq!(payload.bytes[0], 0xc1, "no value in MessagePack");
    let row = states.load(&a).await.expect("readable").expect("a row");
    assert_eq!(row.payload.expect("a state").bytes, "state");

    let removals = &stores.faulty.faults().state_removals;
    removals.next(ChangeFault::LostRequest);
    assert!(is_unavailable(&states.remove(&a).await, true));
    assert_eq!(stores.revision("a"), 1);
    removals.next(ChangeFault::LostAnswer);
    assert!(is_unavailable(&states.remove(&a).await, true));
    assert_eq!(stores.revision("a"), 0);
    states.remove(&a).await.expect("nothing is there");
}

#[tokio::test]
async fn replies_cannot_be_loaded_decoded_or_deleted() {
    let stores = Stores::new();
    let (a, replies) = (id("a"), stores.faulty.command_replies());
    let payload = SerializedPayload::new(77, "Reply", &b"reply"[..]);
    let command_id = CommandId::new("pay").expect("a valid command id");
    let fingerprint = Fingerprint::new([0x80; Fingerprint::BYTES]);
    let reply = NewReply::new(command_id, fingerprint, Some(payload), SequenceNr::ZERO);
    let mut write = write("a", 1);
    write.set_reply(reply.expect("a valid reply"));
    stores.write_one(&write).await.expect("stored");

    let loads = &stores.faulty.faults().reply_loads;
    loads.next(ReadFault::Unavailable);
    assert!(is_unavailable(&replies.load(&a, 9).await, false));
    loads.next(ReadFault::Corrupt);
    let corrupt = replies.load(&a, 9).await;
    assert!(matches!(corrupt, Err(Error::Corrupt { persistence_id, .. }) if persistence_id == a));
    loads.next(ReadFault::Undecodable);
    let damaged = replies.load(&a, 9).await.expect("readable").remove(0);
    let payload = damaged.payload.expect("a reply");
    assert_eq!((payload.serializer_id, &*payload.manifest), (77, "Reply"));
    assert_eq!(payload.bytes[0], 0xc1, "no value in MessagePack");
    let sound = replies.load(&a, 9).await.expect("readable").remove(0);
    assert_eq!(sound.payload.expect("a reply").bytes, "reply");
    assert_eq!(loads.count(), 4);

    let deletes = &stores.faulty.faults().reply_deletes;
    for (fault, left) in [(ChangeFault::LostRequest, 1), (ChangeFault::LostAnswer, 0)] {
        deletes.next(fault);
        let deleted = replies.delete_up_to(&a, SequenceNr::MAX, 9).await;
        assert!(is_unavailable(&deleted, true));
        assert_eq!(stores.memory.replies(&a).len(), left);
    }
    assert_eq!(stores.rows("a"), 1, "the event stays");
}

#[tokio::test]
async fn faults_planned_by_number_hit_that_call_and_no_other() {
    let stores = Stores::new();
    let writes = &stores.faulty.faults().writes;
    writes.at(3, WriteFault::Rejected);
    writes.next(WriteFault::Unavailable);
    writes.next(WriteFault::LostRequest);
    // 3 is planned already, so this is for the fourth.
    writes.next(WriteFault::Conflict);
    let mut answers = Vec::new();
    for _ in 0..5 {
        answers.push(stores.write_one(&write("a", 1)).await);
    }
    assert!(is_unavailable(&answers[0], false));
    assert!(is_unavailable(&answers[1], true));
    assert!(matches!(answers[2], Err(Error::Rejected { .. })));
    assert!(matches!(answers[3], Err(Error::Conflict { .. })));
    assert!(answers[4].is_ok());
    assert_eq!(writes.count(), 5);
}

#[tokio::test]
async fn cleared_plans_do_nothing() {
    let stores = Stores::new();
    let faults = stores.faulty.faults();
    stores.writes(WriteFault::Rejected);
    faults.writes.decide(|_| Some(WriteFault::Unavailable));
    faults.reads.decide(|_| Some(ReadFault::Unavailable));
    faults.clear();
    assert!(stores.write_one(&write("a", 1)).await.is_ok());
    assert!(stores.replay("a").await.is_ok());
}

#[tokio::test]
async fn plans_go_on_behind_a_store_that_is_opened_again() {
    let stores = Stores::new();
    stores.writes(WriteFault::LostAnswer);
    stores.writes(WriteFault::Conflict);
    let lost = stores.write_one(&write("a", 1)).await;
    assert!(is_unavailable(&lost, true));
    let again = Arc::new(stores.memory.open_again());
    let again = FaultyStore::with_faults(again, stores.faulty.faults().clone());
    let batch = [write("a", 1)];
    assert!(again.journal().write_events(&batch).await[0].is_ok());
    assert_eq!(again.faults().writes.count(), 2);
}

/// What one seed decides is decided again by the same seed, and under all faults together an
/// entity that tries again until it is answered ends with every event once.
#[tokio::test]
async fn a_seed_repeats_its_faults_and_no_fault_loses_or_doubles_an_event() {
    async fn run(seed: u64) -> (Vec<String>, usize) {
        let stores = Stores::new();
        let mut random = SmallRng::seed_from_u64(seed);
        stores.faulty.faults().writes.decide(move |_| {
            let fault = match random.random_range(0..10) {
                0 => WriteFault::Rejected,
                1 => WriteFault::Conflict,
                2 => WriteFault::Unavailable,
                3 => WriteFault::LostRequest,
                4 => WriteFault::LostAnswer,
                5 => WriteFault::StoredLate,
                _ => return None,
            };
            Some(fault)
        });
        let mut answers = Vec::new();
        for number in 1..=50 {
            // A refused write is free to be sent again in this test, as nothing else is written.
            loop {
                let answer = stores.write_one(&write("a", number)).await;
                answers.push(format!("{answer:?}"));
                if answer.is_ok() {
                    break;
                }
            }
            assert_eq!(stores.rows("a"), usize::try_from(number).expect("small"));
        }
        stores.faulty.deliver_late_writes().await;
        (answers, stores.rows("a"))
    }

    let (first, rows) = run(4711).await;
    assert_eq!(rows, 50);
    assert!(first.len() > 60, "faults happened");
    assert_eq!(run(4711).await.0, first);
    assert_ne!(run(4712).await.0, first);
}
