//! The store of a simulation: the one in memory, behind a network that loses, delays and repeats.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use futures_util::FutureExt;
use perennial_core::engine::{DueDone, DueRequest, ReadDone, ReadRequest, ReplyCleanup, deletion};
use perennial_core::{Durable, Entity};
use perennial_persistence::{
    AtomicWrite, BoxFuture, Codec, DurableStateDelete, Error, NewEvent, PersistenceId, Previous,
    SequenceNr, SerializedPayload, Snapshot, Store, Timestamp, WriterId, Written,
};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};

use super::entity::{FOREIGN_TOKENS, Link, LinkCodec, Shared, Step, StepCodec, StepKind, links};
use crate::{FaultyStore, MemoryStore, ReadFault};

/// What becomes of a batch at the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteFate {
    /// It is stored and answered.
    Answered,
    /// One write is refused, and the later ones of its entity with it.
    Rejected,
    /// Another writer is faster with the number of one write.
    Overtaken,
    /// Nothing is stored, and the sender knows.
    Unavailable,
    /// Nothing is stored, and nobody knows.
    RequestLost,
    /// As that, and another program does the same, as far as it can, to the entity of one write.
    Imitated,
    /// Everything is stored, and nobody knows.
    AnswerLost,
    /// Nobody knows, and the store goes on with it at some later time.
    Late,
    /// The entities of the batch have different luck.
    Mixed,
    /// Fewer answers come back than writes went out.
    Truncated,
}

/// A change of a state that was stored, with what its writer made of the state. The table keeps the
/// last one only.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    pub(crate) step: Step,
    pub(crate) revision: u64,
    /// The hash of the state; `None` if it is deleted.
    pub(crate) hash: Option<u64>,
    pub(crate) writer: WriterId,
    pub(crate) timestamp: Timestamp,
}

/// All changes of states, in the order in which they were stored.
pub(crate) type History = Rc<RefCell<BTreeMap<PersistenceId, Vec<Change>>>>;

/// Whether only the state of an entity is kept.
pub(crate) fn keeps_state(id: &PersistenceId) -> bool {
    matches!(id.entity_type(), "Told" | "Kept")
}

/// The journal's data, and what is still under way to it although its sender has given up.
pub(crate) struct Storage {
    memory: MemoryStore,
    /// Shows states as the engine wants them.
    kept: Entity<Durable<Link<false>>>,
    history: History,
    /// Writes of states that stand in the history.
    noted: BTreeSet<(WriterIdBits, SequenceNr)>,
    late: Vec<Vec<AtomicWrite>>,
    /// Writes that an attempt without an answer may have stored; only the truth may be said of
    /// them from then on.
    uncertain: BTreeSet<(WriterIdBits, SequenceNr)>,
    foreign_tokens: u64,
    /// A defect: rows of the same writer are taken for another's.
    pub(crate) forgets_writers: bool,
}

type WriterIdBits = u128;

fn name(write: &AtomicWrite) -> (WriterIdBits, SequenceNr) {
    (write.writer().as_uuid().as_u128(), write.first())
}

impl Storage {
    pub(crate) fn new(shared: &Arc<Shared>, delete: DurableStateDelete) -> Self {
        let memory = MemoryStore::new(Arc::new(shared.clock.clone()));
        Self {
            memory: memory.with_durable_state_delete(delete),
            kept: links(shared),
            history: History::default(),
            noted: BTreeSet::new(),
            late: Vec::new(),
            uncertain: BTreeSet::new(),
            foreign_tokens: FOREIGN_TOKENS,
            forgets_writers: false,
        }
    }

    pub(crate) fn memory(&self) -> &MemoryStore {
        &self.memory
    }

    pub(crate) fn history(&self) -> History {
        Rc::clone(&self.history)
    }

    /// How many batches are still under way without their senders.
    pub(crate) fn late(&self) -> usize {
        self.late.len()
    }

    /// Sends a batch to the store and gives what comes back.
    pub(crate) fn send(
        &mut self,
        writes: &[AtomicWrite],
        fate: WriteFate,
        random: &mut SmallRng,
    ) -> Vec<Result<Written, Error>> {
        let unavailable = || Err(Error::unavailable("the server is down", None));
        let unknown = || Err(Error::outcome_unknown("the connection was lost", None));
        match fate {
            WriteFate::Answered => self.write(writes),
            WriteFate::Rejected => self.reject_one(writes, random),
            WriteFate::Overtaken => {
                if let Some(write) = writes.choose(random) {
                    let deletes = random.random_ratio(1, 4);
                    self.write_foreign(write.persistence_id(), write.first(), deletes);
                }
                self.write(writes)
            }
            WriteFate::Imitated => {
                self.be_uncertain(writes);
                if let Some(write) = writes.choose(random) {
                    let deletes = matches!(write.events(), [one] if one.payload == deletion());
                    self.write_foreign(write.persistence_id(), write.first(), deletes);
                }
                writes.iter().map(|_| unknown()).collect()
            }
            WriteFate::Unavailable => writes.iter().map(|_| unavailable()).collect(),
            WriteFate::RequestLost => {
                self.be_uncertain(writes);
                writes.iter().map(|_| unknown()).collect()
            }
            WriteFate::AnswerLost => {
                self.be_uncertain(writes);
                self.write(writes);
                writes.iter().map(|_| unknown()).collect()
            }
            WriteFate::Late => {
                self.be_uncertain(writes);
                self.late.push(writes.to_vec());
                writes.iter().map(|_| unknown()).collect()
            }
            WriteFate::Mixed => {
                // The luck is an entity's: a later write of it never does better than an earlier.
                let luck = random.next_u64();
                let luck = |write: &AtomicWrite| {
                    (luck >> (u64::from(write.persistence_id().slice().value()) % 31 * 2)) & 3
                };
                let (stored, lost): (Vec<_>, Vec<_>) =
                    writes.iter().cloned().partition(|write| luck(write) < 3);
                let mut answers = self.write(&stored).into_iter();
                self.be_uncertain(&lost);
                let answers: Vec<_> = writes
                    .iter()
                    .map(|write| match luck(write) {
                        0 | 1 => answers.next().expect("one answer per write"),
                        2 => {
                            self.uncertain.insert(name(write));
                            answers.next().expect("one answer per write").and(unknown())
                        }
                        _ => unknown(),
                    })
                    .collect();
                answers
            }
            WriteFate::Truncated => {
                let mut answers = self.write(writes);
                let kept = random.random_range(0..=answers.len());
                self.be_uncertain(&writes[kept..]);
                answers.truncate(kept);
                answers
            }
        }
    }

    /// The sender is gone: nobody hears what becomes of the batch, which may be late.
    pub(crate) fn orphan(
        &mut self,
        writes: &[AtomicWrite],
        may_be_late: bool,
        random: &mut SmallRng,
    ) -> &'static str {
        match random.random_range(0..3) {
            0 => {
                self.write(writes);
                "stored"
            }
            1 if may_be_late => {
                self.late.push(writes.to_vec());
                "late"
            }
            _ => "lost",
        }
    }

    /// One of the batches whose senders have given up reaches the store.
    pub(crate) fn arrive_late(&mut self, random: &mut SmallRng) -> Vec<PersistenceId> {
        if self.late.is_empty() {
            return Vec::new();
        }
        let at = random.random_range(0..self.late.len());
        let writes = self.late.remove(at);
        self.write(&writes);
        writes
            .iter()
            .map(|write| write.persistence_id().clone())
            .collect()
    }

    /// What the engine uses for the entity.
    fn store_of(&self, id: &PersistenceId, store: Arc<dyn Store>) -> Arc<dyn Store> {
        if keeps_state(id) {
            self.kept.store(store)
        } else {
            store
        }
    }

    fn highest(&self, id: &PersistenceId) -> SequenceNr {
        let store = self.store_of(id, Arc::new(self.memory.clone()));
        let highest = at_once(store.journal().highest_sequence_nr(id, SequenceNr::ZERO));
        highest.expect("the store in memory is open")
    }

    /// Another program writes one event, at the entity's next number, or changes the state once.
    pub(crate) fn write_foreign_next(&mut self, id: &PersistenceId, random: &mut SmallRng) {
        let highest = self.highest(id);
        self.write_foreign(id, highest.next(), random.random_ratio(1, 4));
    }

    /// Another program writes one event with this number, or changes or deletes a state, if it is
    /// free and the next one.
    fn write_foreign(&mut self, id: &PersistenceId, at: SequenceNr, deletes: bool) {
        if self.highest(id).next() != at {
            return;
        }
        self.foreign_tokens += 1;
        let step = Step {
            token: self.foreign_tokens,
            kind: if deletes && keeps_state(id) {
                StepKind::Delete
            } else {
                StepKind::Add
            },
        };
        let payload = StepCodec.encode(&step).expect("an ordinary step");
        let writer = WriterId::from_random_bits(u128::from(self.foreign_tokens));
        let event = if keeps_state(id) {
            self.foreign_change(id, step, payload)
        } else {
            NewEvent::new(payload)
        };
        let mut write = AtomicWrite::new(id.clone(), writer, at, vec![event])
            .expect("one event with a good payload");
        write.previous = Previous::Unknown;
        self.write(&[write]);
    }

    /// What another program makes of the state that is there, as the engine would send it.
    fn foreign_change(&self, id: &PersistenceId, step: Step, told: SerializedPayload) -> NewEvent {
        let there = self.memory.state(id).and_then(|row| row.payload);
        let there: Link<false> = there
            .map(|payload| LinkCodec.decode(&payload).expect("a link"))
            .unwrap_or_default();
        let payload = if step.kind == StepKind::Delete {
            deletion()
        } else {
            LinkCodec
                .encode(&there.and(step))
                .expect("an ordinary step")
        };
        NewEvent {
            tags: vec![step.as_tag()],
            metadata: (id.entity_type() == "Told").then_some(told),
            ..NewEvent::new(payload)
        }
    }

    /// Reads a part of an entity's history.
    pub(crate) fn read(&self, request: ReadRequest, fault: Option<(ReadFault, bool)>) -> ReadDone {
        let store = FaultyStore::new(Arc::new(self.memory.clone()));
        if let Some((fault, snapshot)) = fault {
            if keeps_state(request.persistence_id()) && request.is_of_recovery() {
                store.faults().state_loads.next(fault);
            } else if !request.is_of_recovery() {
                if !matches!(fault, ReadFault::Undecodable) {
                    store.faults().reply_loads.next(ReadFault::Unavailable);
                }
            } else if snapshot {
                store.faults().snapshot_loads.next(fault);
            } else {
                store.faults().reads.next(fault);
            }
        }
        let store = self.store_of(request.persistence_id(), Arc::new(store));
        at_once(request.read(&*store))
    }

    pub(crate) fn save(&self, snapshot: &Snapshot) -> Result<(), Error> {
        at_once(self.memory.snapshot_store().save(snapshot))
    }

    pub(crate) fn delete(&self, id: &PersistenceId, to: SequenceNr) -> Result<(), Error> {
        at_once(self.memory.journal().delete_events(id, to))
    }

    pub(crate) fn clean_up(&self, cleanup: ReplyCleanup) {
        at_once(cleanup.run(&*self.memory.command_replies()));
    }

    pub(crate) fn read_reminders(&self, request: DueRequest) -> DueDone {
        at_once(request.read(&self.memory))
    }

    fn be_uncertain(&mut self, writes: &[AtomicWrite]) {
        self.uncertain.extend(writes.iter().map(name));
    }

    fn reject_one(
        &mut self,
        writes: &[AtomicWrite],
        random: &mut SmallRng,
    ) -> Vec<Result<Written, Error>> {
        let from = random.random_range(0..writes.len());
        let id = writes[from].persistence_id();
        let is_rejected =
            |at: usize, write: &AtomicWrite| at >= from && write.persistence_id() == id;
        let may_be_stored = writes
            .iter()
            .any(|write| write.persistence_id() == id && self.uncertain.contains(&name(write)));
        if may_be_stored {
            return self.write(writes);
        }
        let stored: Vec<AtomicWrite> = writes
            .iter()
            .enumerate()
            .filter(|&(at, write)| !is_rejected(at, write))
            .map(|(_, write)| write.clone())
            .collect();
        let mut answers = self.write(&stored).into_iter();
        writes
            .iter()
            .enumerate()
            .map(|(at, write)| {
                if is_rejected(at, write) {
                    Err(Error::Rejected {
                        persistence_id: id.clone(),
                        reason: "a constraint of the table".to_owned(),
                        source: None,
                    })
                } else {
                    answers.next().expect("one answer per write")
                }
            })
            .collect()
    }

    fn write(&mut self, writes: &[AtomicWrite]) -> Vec<Result<Written, Error>> {
        // Events and states go in batches of their own.
        if writes
            .first()
            .is_some_and(|write| keeps_state(write.persistence_id()))
        {
            return self.write_states(writes);
        }
        if !self.forgets_writers {
            return at_once(self.memory.journal().write_events(writes));
        }
        let mut failed: Vec<(&PersistenceId, Error)> = Vec::new();
        writes
            .iter()
            .map(|write| {
                let id = write.persistence_id();
                if let Some((_, error)) = failed.iter().find(|(failed, _)| *failed == id) {
                    return Err(error.clone());
                }
                let rows = self.memory.rows(id);
                let answer = if rows.iter().any(|row| row.seq_nr == write.first()) {
                    Err(Error::Conflict {
                        persistence_id: id.clone(),
                        seq_nr: write.first(),
                    })
                } else {
                    let journal = self.memory.journal();
                    at_once(journal.write_events(std::slice::from_ref(write))).remove(0)
                };
                if let Err(error) = &answer {
                    failed.push((id, error.clone()));
                }
                answer
            })
            .collect()
    }
}

impl Storage {
    fn write_states(&mut self, writes: &[AtomicWrite]) -> Vec<Result<Written, Error>> {
        let mut sent = writes.to_vec();
        for write in &mut sent {
            write.maybe_stored &= !self.forgets_writers;
        }
        let store = self.kept.store(Arc::new(self.memory.clone()));
        let answers = at_once(store.journal().write_events(&sent));
        for (write, answer) in writes.iter().zip(&answers) {
            if let Ok(written) = answer
                && self.noted.insert(name(write))
            {
                self.note_changes(write, *written);
            }
        }
        answers
    }

    /// Notes what a write has changed when it was stored.
    fn note_changes(&self, write: &AtomicWrite, written: Written) {
        let changes: Vec<Change> = write
            .numbered()
            .map(|(revision, change)| {
                let link: Option<Link<false>> = LinkCodec.decode(&change.payload).ok();
                Change {
                    step: Step::from_tags(&change.tags).expect("every change has a step"),
                    revision: revision.value(),
                    hash: link.map(|link| link.hash),
                    writer: write.writer(),
                    timestamp: written.timestamp,
                }
            })
            .collect();
        let mut history = self.history.borrow_mut();
        let of_id = history.entry(write.persistence_id().clone()).or_default();
        // Two incarnations may have tried the same command, and the one's late write is the other's
        // as well: state and reply are the same, and nothing says whose they are.
        let is_same = |(one, other): (&Change, &Change)| {
            (one.step, one.revision, one.hash) == (other.step, other.revision, other.hash)
        };
        let from = of_id.len().saturating_sub(changes.len());
        let tail = &of_id[from..];
        if tail.len() == changes.len() && tail.iter().zip(&changes).all(is_same) {
            return;
        }
        of_id.extend(changes);
    }
}

/// The output of a future of the store in memory, which never waits.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    future
        .now_or_never()
        .expect("the store in memory answers at once")
}

/// The output of a future of the simulation's entities, which never waits.
pub(crate) fn run_at_once<T>(future: BoxFuture<'static, T>) -> T {
    at_once(future)
}
