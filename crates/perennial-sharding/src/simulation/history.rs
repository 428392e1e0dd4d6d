//! Everything that was asked, answered and stored, and what must be true of it.

use std::collections::BTreeMap;
use std::time::Duration;

use perennial_persistence::{PersistenceId, WriterId};
use perennial_testkit::MemoryStore;

use super::Report;
use super::engine::{Chain, Command, Event, Reply, writer_id};
use crate::transport::{Answer, FailureEffect};

/// A promise that was not kept.
#[derive(Debug)]
pub(super) struct Violation {
    pub(super) rule: &'static str,
    pub(super) detail: String,
}

pub(super) type Checked = Result<(), Violation>;

pub(super) fn broken<T>(rule: &'static str, detail: String) -> Result<T, Violation> {
    Err(Violation { rule, detail })
}

/// A command and what became of it.
#[derive(Debug)]
struct Call {
    /// Who sent it: an incarnation of a node, and a caller on it.
    caller: (usize, u64),
    entity: usize,
    appends: bool,
    /// Until when it is waited for, in the caller's own time.
    deadline: Duration,
    /// How many events anybody had seen of the entity when it was sent.
    floor: u64,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Open,
    Replied(Reply),
    Taken,
    Failed(FailureEffect),
    /// Its caller is gone.
    Crashed,
}

pub(super) struct History {
    store: MemoryStore,
    ids: Vec<PersistenceId>,
    calls: Vec<Call>,
    /// The first call of the last question.
    probe_from: usize,
    /// By entity: the most events that anybody has seen.
    seen: Vec<u64>,
    /// By entity: the chain after each of the events that are known to be stored.
    chains: Vec<Vec<Chain>>,
    /// By entity: who wrote each of them.
    rows: Vec<Vec<Row>>,
}

#[derive(Debug, Clone)]
struct Row {
    event: Event,
    writer: WriterId,
}

impl History {
    pub(super) fn new(store: MemoryStore, ids: Vec<PersistenceId>) -> Self {
        let count = ids.len();
        Self {
            store,
            ids,
            calls: Vec::new(),
            probe_from: usize::MAX,
            seen: vec![0; count],
            chains: vec![Vec::new(); count],
            rows: vec![Vec::new(); count],
        }
    }

    /// A caller sends a command; gives what it is.
    pub(super) fn send(
        &mut self,
        caller: (usize, u64),
        entity: usize,
        appends: bool,
        deadline: Duration,
    ) -> Command {
        let id = self.calls.len() as u64;
        self.calls.push(Call {
            caller,
            entity,
            appends,
            deadline,
            floor: self.seen[entity],
            fate: Fate::Open,
        });
        Command { id, appends }
    }

    pub(super) fn calls(&self) -> u64 {
        self.calls.len() as u64
    }

    fn call(&mut self, id: u64) -> &mut Call {
        let index = usize::try_from(id).expect("a small number");
        &mut self.calls[index]
    }

    /// The caller is told what became of its command.
    pub(super) fn settle(&mut self, id: u64, answer: &Answer) -> Checked {
        let call = self.call(id);
        if call.fate != Fate::Open {
            return broken(
                "a call ends once",
                format!("c{id} was {:?}, and is told {answer:?}", call.fate),
            );
        }
        match answer {
            Answer::Reply(payload) => {
                let reply = Reply::of(payload);
                call.fate = Fate::Replied(reply);
                self.check_reply(id, reply)
            }
            Answer::Taken => {
                call.fate = Fate::Taken;
                Ok(())
            }
            Answer::Failed(failure) => {
                call.fate = Fate::Failed(failure.effect);
                Ok(())
            }
        }
    }

    /// The callers of a node are gone.
    pub(super) fn crash(&mut self, node: usize) {
        let own = |call: &&mut Call| call.caller.0 == node && call.fate == Fate::Open;
        for call in self.calls.iter_mut().filter(own) {
            call.fate = Fate::Crashed;
        }
    }

    /// Takes over what was stored since the last look.
    fn read(&mut self, entity: usize) -> Checked {
        let rows = self.store.rows(&self.ids[entity]);
        let known = self.rows[entity].len();
        for row in rows.into_iter().skip(known) {
            let (writer, event) = row.event.expect("nothing is deleted");
            let event = Event::of(&event.payload);
            let (chains, own) = (&mut self.chains[entity], &mut self.rows[entity]);
            let before = chains.last().copied().unwrap_or_default();
            let number = row.seq_nr.value();
            if number != before.count + 1 {
                return broken(
                    "numbers have no gaps",
                    format!("{} has {number} after {}", self.ids[entity], before.count),
                );
            }
            if event.base != before.hash {
                return broken(
                    "an event is made from the state that the one before it left",
                    format!("{} at {number}: c{}", self.ids[entity], event.command),
                );
            }
            chains.push(before.and(event.command));
            own.push(Row { event, writer });
        }
        Ok(())
    }

    fn check_reply(&mut self, id: u64, reply: Reply) -> Checked {
        let index = usize::try_from(id).expect("a small number");
        let (entity, appends, floor) = {
            let call = &self.calls[index];
            (call.entity, call.appends, call.floor)
        };
        self.read(entity)?;
        let who = || format!("c{id} of {} was told {reply:?}", self.ids[entity]);
        if reply.command != id {
            return broken("a reply is that of its command", who());
        }
        let place = usize::try_from(reply.saw.count).expect("a small number");
        let last = place.checked_sub(1);
        let stored = last.map(|last| self.chains[entity].get(last).copied());
        if stored.unwrap_or(Some(Chain::default())) != Some(reply.saw) {
            return broken("what is told is stored", who());
        }
        if appends {
            let row = last.and_then(|last| self.rows[entity].get(last));
            if row.is_none_or(|row| row.event.command != id) {
                return broken("what is acknowledged is stored", who());
            }
            if row.is_none_or(|row| row.writer != writer_id(reply.writer)) {
                return broken("one incarnation acknowledges a number", who());
            }
        }
        let least = floor + u64::from(appends);
        if reply.saw.count < least {
            return broken(
                "a reply is not older than what was seen before it was asked for",
                format!("{}, but {floor} events had been seen", who()),
            );
        }
        let seen = &mut self.seen[entity];
        *seen = reply.saw.count.max(*seen);
        Ok(())
    }

    /// What is sent from now on is the last question.
    pub(super) fn begin_probe(&mut self) {
        self.probe_from = self.calls.len();
    }

    /// Whether something of the last question had no reply.
    pub(super) fn failed_probe(&self) -> Option<String> {
        let probe = self.calls.iter().enumerate().skip(self.probe_from);
        let mut failed = probe.filter(|(_, call)| !matches!(call.fate, Fate::Replied(_)));
        failed
            .next()
            .map(|(id, call)| format!("c{id}: {:?}", call.fate))
    }

    /// Whether everything has ended.
    pub(super) fn is_settled(&self) -> bool {
        self.calls.iter().all(|call| call.fate != Fate::Open)
    }

    /// Nothing is waited for that should have ended: `now` gives a node's own time, as long as it runs.
    pub(super) fn check_deadlines(&self, now: impl Fn(usize) -> Option<Duration>) -> Checked {
        for (id, call) in self.calls.iter().enumerate() {
            if call.fate == Fate::Open
                && let Some(now) = now(call.caller.0)
                && now > call.deadline
            {
                return broken(
                    "every call ends in its time",
                    format!("c{id} still waits at {now:?}, after {:?}", call.deadline),
                );
            }
        }
        Ok(())
    }

    /// What must be true in the end.
    pub(super) fn check_end(&mut self, report: &mut Report) -> Checked {
        for entity in 0..self.ids.len() {
            self.read(entity)?;
            self.check_journal(entity, report)?;
        }
        self.check_order()?;
        report.calls = self.calls();
        for call in &self.calls {
            let count = match call.fate {
                Fate::Replied(_) => &mut report.replied,
                Fate::Taken => &mut report.taken,
                Fate::Failed(FailureEffect::NotHandled) => &mut report.not_handled,
                Fate::Failed(FailureEffect::Unknown) => &mut report.unknown,
                Fate::Failed(_) => &mut report.without_effect,
                Fate::Crashed => &mut report.crashed_calls,
                Fate::Open => return broken("every call ends", format!("{call:?}")),
            };
            *count += 1;
        }
        Ok(())
    }

    fn check_journal(&self, entity: usize, report: &mut Report) -> Checked {
        let mut latest: BTreeMap<(usize, u64), u64> = BTreeMap::new();
        let mut stored: BTreeMap<u64, usize> = BTreeMap::new();
        for (place, row) in self.rows[entity].iter().enumerate() {
            let command = row.event.command;
            let who = || format!("c{command} of {} at {}", self.ids[entity], place + 1);
            if stored.insert(command, place).is_some() {
                return broken("a command is stored once", who());
            }
            let call = &self.calls[usize::try_from(command).expect("a small number")];
            let is_certain =
                |effect| matches!(effect, FailureEffect::NotHandled | FailureEffect::None);
            if let Fate::Failed(effect) = call.fate {
                if is_certain(effect) {
                    return broken("what certainly failed is not stored", who());
                }
                report.stored_unknown += 1;
            }
            // Commands have their ids in the order in which they were sent.
            let before = latest.insert(call.caller, command);
            if before.is_some_and(|before| before > command) {
                return broken(
                    "commands of one caller are stored in their order",
                    format!("{} after c{}", who(), before.unwrap_or_default()),
                );
            }
        }
        for (id, call) in self.calls.iter().enumerate() {
            if let Fate::Replied(reply) = call.fate
                && call.appends
                && call.entity == entity
            {
                let place = stored.get(&(id as u64)).map(|&place| place as u64 + 1);
                if place != Some(reply.saw.count) {
                    return broken(
                        "what is acknowledged stays stored",
                        format!("c{id} of {} was told {reply:?}", self.ids[entity]),
                    );
                }
            }
        }
        report.events += self.rows[entity].len() as u64;
        Ok(())
    }

    /// Replies of one caller and entity see each other in their order.
    fn check_order(&self) -> Checked {
        let mut latest: BTreeMap<((usize, u64), usize), (u64, usize)> = BTreeMap::new();
        for (id, call) in self.calls.iter().enumerate() {
            let Fate::Replied(reply) = call.fate else {
                continue;
            };
            let saw = (reply.saw.count, id);
            let before = latest.insert((call.caller, call.entity), saw);
            if let Some((count, earlier)) = before
                && reply.saw.count < count + u64::from(call.appends)
            {
                return broken(
                    "replies of one caller see the order of its commands",
                    format!(
                        "c{id} saw {}, c{earlier} before it {count}",
                        reply.saw.count
                    ),
                );
            }
        }
        Ok(())
    }
}
