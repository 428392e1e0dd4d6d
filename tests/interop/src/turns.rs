//! The referee: two programs take turns on one database, and have to say the same of it.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::json::differences;
use crate::peer::Peer;

/// What a Pekko service wrote, decoded: the events and states that the programs are given.
const SAMPLES: &str = include_str!("../../../test-data/pekko-1.2/expected.jsonl");

/// How long a program may take until what it has begun is in the tables.
const PATIENCE: Duration = Duration::from_secs(15);

/// Kinds that are not written by perennial.
const READ_ONLY: &str = "Votes";

/// What was done and compared.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Entities.
    pub entities: usize,
    /// Events and states that were written.
    pub written: usize,
    /// Answers that were compared.
    pub compared: usize,
    /// Writes of the second of two writers, each refused.
    pub refused: usize,
    /// Deletions of events or states.
    pub deletions: usize,
}

/// Lets two programs take turns.
#[derive(Debug)]
pub struct Referee {
    sides: [Peer; 2],
    samples: Samples,
    counts: Counts,
    patience: Duration,
}

type Outcome = Result<(), String>;

impl Referee {
    /// A referee over two programs on one database.
    pub fn new(left: Peer, right: Peer) -> Self {
        Self {
            sides: [left, right],
            samples: Samples::read(),
            counts: Counts::default(),
            patience: PATIENCE,
        }
    }

    /// How long a program may take until what it has begun is in the tables; 15 s unless said
    /// otherwise.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Ends both programs.
    ///
    /// # Errors
    /// If one ends with an error.
    pub fn end(self) -> Outcome {
        self.sides.into_iter().try_for_each(Peer::end)
    }

    /// Every kind that both write: batches, snapshots, deletions, markers and two writers at once.
    ///
    /// # Errors
    /// What the two programs say differently.
    pub fn play(&mut self) -> Outcome {
        for kind in self.samples.kinds_with_events() {
            if kind == READ_ONLY {
                continue;
            }
            for (first, id) in ids(&kind).into_iter().enumerate() {
                self.journaled(&kind, &id, first % 2)?;
            }
        }
        for kind in self.samples.kinds_with_states() {
            for first in 0..2 {
                self.durable(&kind, &format!("{kind}|turns-vip-{first}"), first)?;
            }
        }
        Ok(())
    }

    /// Lets `writer` write something that only it can (an old version, a compressed payload) on
    /// these entities, and both sides go on after it.
    ///
    /// # Errors
    /// As [`Referee::play`].
    pub fn go_on_after(
        &mut self,
        writer: &mut Peer,
        kind: &str,
        ids: &[String],
        events: &[Value],
    ) -> Outcome {
        for (first, id) in ids.iter().enumerate() {
            self.counts.entities += 1;
            for batch in [1, 3, 2, 1, 2].iter().scan(0, |at, size| {
                let batch = events.get(*at..(*at + size).min(events.len()));
                *at += size;
                batch.filter(|batch| !batch.is_empty())
            }) {
                let answer = writer.ask(&json!({"kind": kind, "id": id, "persist": batch}))?;
                succeeded(writer, &answer)?;
                self.counts.written += batch.len();
            }
            stop(writer, kind, id)?;
            self.compare(kind, id)?;
            for round in 0..4 {
                let side = (first + round) % 2;
                self.persist(side, kind, id, 1 + round)?;
                self.hand_over(side, kind, id)?;
            }
        }
        Ok(())
    }

    /// A kind that is replicated on the JVM: the side `jvm` writes, the other one reads and refuses
    /// to write.
    ///
    /// # Errors
    /// As [`Referee::play`].
    pub fn replicated(&mut self, jvm: usize) -> Outcome {
        for replica in ["DC-A", "DC-B"] {
            let id = format!("{READ_ONLY}|turns|{replica}");
            self.counts.entities += 1;
            for size in [1, 2, 3, 1, 4] {
                self.persist(jvm, READ_ONLY, &id, size)?;
                self.hand_over(jvm, READ_ONLY, &id)?;
                let other = &mut self.sides[1 - jvm];
                let refused =
                    other.ask(&json!({"kind": READ_ONLY, "id": id, "persist": ["no"]}))?;
                if !refused["error"]
                    .as_str()
                    .is_some_and(|error| error.contains("replicated"))
                {
                    return Err(format!("{}: {refused}", other.name()));
                }
                stop(other, READ_ONLY, &id)?;
                self.counts.refused += 1;
            }
        }
        Ok(())
    }

    fn journaled(&mut self, kind: &str, id: &str, first: usize) -> Outcome {
        self.counts.entities += 1;
        // Nothing is there yet, and both say so.
        self.compare(kind, id)?;
        for (round, size) in [1, 3, 1, 2, 5, 1, 4, 2].into_iter().enumerate() {
            let side = (first + round) % 2;
            self.persist(side, kind, id, size)?;
            if round % 3 == 1 {
                self.persist(side, kind, id, 1)?;
            }
            self.hand_over(side, kind, id)?;
            match round {
                // What is beyond the last event is refused by both in the same words.
                2 => {
                    let beyond = self.highest(side, kind, id)? + 7;
                    let left = self.delete_events(0, kind, id, beyond)?;
                    let right = self.delete_events(1, kind, id, beyond)?;
                    if left != right || !left.starts_with("failed to") {
                        return Err(format!("deleting {id} to {beyond}: {left} | {right}"));
                    }
                }
                3 | 5 => {
                    let some = self.highest(side, kind, id)? - 2;
                    self.deleted(side, kind, id, some)?;
                }
                6 => self.deleted(side, kind, id, i64::MAX)?,
                _ => {}
            }
            self.compare(kind, id)?;
        }
        self.two_writers(kind, id)?;
        // Markers of an id that nobody has written.
        let empty = format!("{id}-empty");
        self.deleted(first, kind, &empty, i64::MAX)?;
        self.compare(kind, &empty)?;
        self.persist(1 - first, kind, &empty, 2)?;
        self.hand_over(1 - first, kind, &empty)
    }

    fn durable(&mut self, kind: &str, id: &str, first: usize) -> Outcome {
        self.counts.entities += 1;
        self.compare(kind, id)?;
        for round in 0..6 {
            let side = (first + round) % 2;
            self.put(side, kind, id)?;
            if round % 2 == 1 {
                self.put(side, kind, id)?;
            }
            if round == 2 || round == 3 {
                let deleted =
                    self.sides[side].ask(&json!({"kind": kind, "id": id, "delete": true}))?;
                succeeded(&self.sides[side], &deleted)?;
                self.counts.deletions += 1;
            }
            self.hand_over(side, kind, id)?;
        }
        self.two_writers(kind, id)
    }

    /// Both have the entity in memory; the first writes, the second is refused, recovers, and goes
    /// on after what the first has written. Then the other way round.
    fn two_writers(&mut self, kind: &str, id: &str) -> Outcome {
        for first in [0, 1] {
            let second = 1 - first;
            self.agree(kind, id, "get")?;
            self.write(first, kind, id)?;
            let stale = self.command_to_write(kind, id, 1);
            let refused = self.sides[second].ask(&stale)?;
            if refused.get("error").is_none() {
                return Err(format!(
                    "{} has written to {id} although {} was there first: {refused}",
                    self.sides[second].name(),
                    self.sides[first].name()
                ));
            }
            self.counts.refused += 1;
            self.agree(kind, id, "get")?;
            self.write(second, kind, id)?;
            self.hand_over(second, kind, id)?;
        }
        Ok(())
    }

    fn write(&mut self, side: usize, kind: &str, id: &str) -> Outcome {
        if self.samples.events.contains_key(kind) {
            self.persist(side, kind, id, 1)
        } else {
            self.put(side, kind, id)
        }
    }

    fn command_to_write(&mut self, kind: &str, id: &str, size: usize) -> Value {
        if self.samples.events.contains_key(kind) {
            let events = Samples::take(&mut self.samples.events, kind, size);
            json!({"kind": kind, "id": id, "persist": events})
        } else {
            let state = Samples::take(&mut self.samples.states, kind, 1).remove(0);
            json!({"kind": kind, "id": id, "put": state})
        }
    }

    fn persist(&mut self, side: usize, kind: &str, id: &str, size: usize) -> Outcome {
        let command = self.command_to_write(kind, id, size);
        let answer = self.sides[side].ask(&command)?;
        self.counts.written += size;
        succeeded(&self.sides[side], &answer)
    }

    fn put(&mut self, side: usize, kind: &str, id: &str) -> Outcome {
        let command = self.command_to_write(kind, id, 1);
        let answer = self.sides[side].ask(&command)?;
        self.counts.written += 1;
        succeeded(&self.sides[side], &answer)
    }

    fn highest(&mut self, side: usize, kind: &str, id: &str) -> Result<i64, String> {
        let answer = self.sides[side].ask(&json!({"kind": kind, "id": id, "get": true}))?;
        let number = answer["highest_seq_nr"].as_i64();
        number.ok_or_else(|| format!("{}: {answer}", self.sides[side].name()))
    }

    /// What a side says of a deletion. Nobody has the entity in memory by then: whoever writes next
    /// has to know what is left.
    fn delete_events(
        &mut self,
        side: usize,
        kind: &str,
        id: &str,
        to: i64,
    ) -> Result<String, String> {
        for peer in &mut self.sides {
            stop(peer, kind, id)?;
        }
        let command = json!({"kind": kind, "id": id, "deleteEvents": to});
        let answer = self.sides[side].ask(&command)?;
        self.counts.deletions += 1;
        let outcome = answer["outcome"].as_str().map(str::to_owned);
        outcome.ok_or_else(|| format!("{}: {answer}", self.sides[side].name()))
    }

    fn deleted(&mut self, side: usize, kind: &str, id: &str, to: i64) -> Outcome {
        let outcome = self.delete_events(side, kind, id, to)?;
        if outcome == format!("deleted to {to}") {
            Ok(())
        } else {
            Err(format!("{} on {id}: {outcome}", self.sides[side].name()))
        }
    }

    /// Compares what the writer has in memory with what the other one recovers, and then what the
    /// tables hold as both see it.
    fn hand_over(&mut self, writer: usize, kind: &str, id: &str) -> Outcome {
        let reader = 1 - writer;
        stop(&mut self.sides[reader], kind, id)?;
        self.agree(kind, id, "get")?;
        stop(&mut self.sides[writer], kind, id)?;
        self.compare(kind, id)
    }

    /// Both recover the entity and say what the tables hold; then it leaves their memories.
    fn compare(&mut self, kind: &str, id: &str) -> Outcome {
        for peer in &mut self.sides {
            stop(peer, kind, id)?;
        }
        self.agree(kind, id, "full")?;
        for peer in &mut self.sides {
            stop(peer, kind, id)?;
        }
        Ok(())
    }

    /// Asks both the same. A recovery of the JVM may go on to save a snapshot after its answer.
    fn agree(&mut self, kind: &str, id: &str, question: &str) -> Outcome {
        let command = json!({"kind": kind, "id": id, question: true});
        let deadline = Instant::now() + self.patience;
        loop {
            let [left, right] = &mut self.sides;
            let (said_left, said_right) = (left.ask(&command)?, right.ask(&command)?);
            succeeded(left, &said_left)?;
            succeeded(right, &said_right)?;
            let differences = differences(&said_left, &said_right);
            if differences.is_empty() {
                self.counts.compared += 1;
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!(
                    "{} and {} differ about {id} ({question}):\n  {}",
                    left.name(),
                    right.name(),
                    differences.join("\n  ")
                ));
            }
            thread::sleep(Duration::from_millis(50));
            // The replicas of the JVM write to each other's journals in their own time, and whoever
            // only reads does not notice it in memory.
            if kind == READ_ONLY {
                for peer in &mut self.sides {
                    stop(peer, kind, id)?;
                }
            }
        }
    }
}

fn stop(peer: &mut Peer, kind: &str, id: &str) -> Outcome {
    let answer = peer.ask(&json!({"kind": kind, "id": id, "stop": true}))?;
    succeeded(peer, &answer)
}

fn succeeded(peer: &Peer, answer: &Value) -> Outcome {
    match answer.get("error") {
        None => Ok(()),
        Some(_) => Err(format!("{}: {answer}", peer.name())),
    }
}

/// The ids of a kind; those of `Note` need not begin with it.
fn ids(kind: &str) -> Vec<String> {
    let mut ids = vec![format!("{kind}|turns-0"), format!("{kind}|turns-1")];
    if kind == "Note" {
        ids.extend(
            [
                "노트|서울 turns",
                "turns-without-type",
                "|turns-leading-bar",
            ]
            .map(String::from),
        );
    }
    ids
}

/// Events and states by kind, given out one after the other and again from the start.
#[derive(Debug)]
struct Samples {
    events: BTreeMap<String, Supply>,
    states: BTreeMap<String, Supply>,
}

#[derive(Debug, Default)]
struct Supply {
    values: Vec<Value>,
    next: usize,
}

impl Samples {
    fn read() -> Self {
        let (mut events, mut states) = (BTreeMap::new(), BTreeMap::new());
        for line in SAMPLES.lines() {
            let entity: Value = serde_json::from_str(line).expect("JSON");
            let kind = entity["kind"].as_str().expect("a kind").to_owned();
            if let Some(rows) = entity["events"].as_array() {
                let supply: &mut Supply = events.entry(kind).or_default();
                supply
                    .values
                    .extend(rows.iter().map(|row| row["event"].clone()));
            } else {
                let supply: &mut Supply = states.entry(kind).or_default();
                supply.values.push(entity["state"].clone());
            }
        }
        Self { events, states }
    }

    fn kinds_with_events(&self) -> Vec<String> {
        self.events.keys().cloned().collect()
    }

    fn kinds_with_states(&self) -> Vec<String> {
        self.states.keys().cloned().collect()
    }

    fn take(from: &mut BTreeMap<String, Supply>, kind: &str, size: usize) -> Vec<Value> {
        let supply = from.get_mut(kind).expect("a kind with samples");
        let values = supply.values.iter().cycle().skip(supply.next);
        let taken = values.take(size).cloned().collect();
        supply.next = (supply.next + size) % supply.values.len();
        taken
    }
}

/// Events of `Account` as they were before anything had changed, and as the JVM writes them under
/// `interop.schema = 1`.
pub fn account_events_of_schema_1() -> Vec<Value> {
    let mut samples = Samples::read();
    let count = samples.events["Account"].values.len();
    let events = Samples::take(&mut samples.events, "Account", count);
    let old = events.into_iter().map(|mut event| {
        let fields = event.as_object_mut().expect("an object");
        if let Some(cents) = fields.remove("cents") {
            fields.insert("amount".to_owned(), cents);
        }
        fields.remove("channel");
        if fields["type"] == "withdrawn" {
            fields.remove("reason");
            fields.insert("type".to_owned(), "debited".into());
        }
        event
    });
    old.collect()
}

/// The sample events of a kind.
pub fn events_of(kind: &str) -> Vec<Value> {
    let mut samples = Samples::read();
    samples
        .events
        .remove(kind)
        .map_or(Vec::new(), |supply| supply.values)
}

/// The sample states of a kind.
pub fn states_of(kind: &str) -> Vec<Value> {
    let mut samples = Samples::read();
    samples
        .states
        .remove(kind)
        .map_or(Vec::new(), |supply| supply.values)
}

/// The kinds with events that both programs write.
pub fn journaled_kinds() -> Vec<String> {
    let mut kinds = Samples::read().kinds_with_events();
    kinds.retain(|kind| kind != READ_ONLY);
    kinds
}

/// The kinds of which only the state is kept.
pub fn durable_kinds() -> Vec<String> {
    Samples::read().kinds_with_states()
}
