//! A model of a node's engine: entities that handle one command at a time, and answer when its event
//! is stored.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use perennial_persistence::{
    AtomicWrite, NewEvent, PersistenceId, SequenceNr, SerializedPayload, WriterId,
};

use crate::keeper::Ticket;
use crate::lease::Token;
use crate::shard::ShardId;
use crate::transport::{Answer, Failure, FailureEffect, RemoteCommand};

/// How many events an entity has, and a hash over all of them in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Chain {
    pub(super) count: u64,
    pub(super) hash: u64,
}

impl Chain {
    /// The chain with the event of one more command.
    pub(super) fn and(self, command: u64) -> Self {
        let mut hash = self.hash ^ command.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Self {
            count: self.count + 1,
            hash: hash ^ (hash >> 27),
        }
    }
}

/// What a command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) id: u64,
    pub(super) appends: bool,
}

impl Command {
    pub(super) fn payload(self) -> SerializedPayload {
        let manifest = if self.appends { "Append" } else { "Read" };
        SerializedPayload::new(77, manifest, self.id.to_be_bytes().to_vec())
    }

    pub(super) fn of_remote(command: &RemoteCommand) -> Self {
        Self::of(&command.payload)
    }

    fn of(payload: &SerializedPayload) -> Self {
        let [id] = numbers(payload);
        Self {
            id,
            appends: &*payload.manifest == "Append",
        }
    }
}

/// What a reply says: which chain it saw, and for an event, who wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) command: u64,
    pub(super) saw: Chain,
    pub(super) writer: u64,
}

impl Reply {
    fn payload(self) -> SerializedPayload {
        let numbers = [self.command, self.saw.count, self.saw.hash, self.writer];
        SerializedPayload::new(77, "Reply", bytes(&numbers))
    }

    pub(super) fn of(payload: &SerializedPayload) -> Self {
        let [command, count, hash, writer] = numbers(payload);
        let saw = Chain { count, hash };
        Self {
            command,
            saw,
            writer,
        }
    }
}

/// What is stored: the command, and the hash of the chain that its event was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) command: u64,
    pub(super) base: u64,
}

impl Event {
    pub(super) fn payload(self) -> SerializedPayload {
        SerializedPayload::new(77, "Event", bytes(&[self.command, self.base]))
    }

    pub(super) fn of(payload: &SerializedPayload) -> Self {
        let [command, base] = numbers(payload);
        Self { command, base }
    }
}

fn bytes(numbers: &[u64]) -> Vec<u8> {
    let bytes = numbers.iter().flat_map(|number| number.to_be_bytes());
    bytes.collect()
}

fn numbers<const N: usize>(payload: &SerializedPayload) -> [u64; N] {
    let mut numbers = [0; N];
    let chunks = payload.bytes.chunks_exact(8);
    for (number, chunk) in numbers.iter_mut().zip(chunks) {
        *number = u64::from_be_bytes(chunk.try_into().expect("eight bytes"));
    }
    numbers
}

/// The id of a writer by its number.
pub(super) fn writer_id(number: u64) -> WriterId {
    WriterId::from_random_bits(u128::from(number))
}

/// The engine of one node.
#[derive(Debug, Default)]
pub(super) struct Engine {
    shards: BTreeMap<ShardId, Run>,
    entities: BTreeMap<PersistenceId, Live>,
    /// What it did since it was looked at.
    pub(super) done: Vec<Done>,
}

/// A shard that commands come for.
#[derive(Debug)]
struct Run {
    token: Token,
    /// Until when its commands may be handled.
    until: Duration,
    is_draining: bool,
}

#[derive(Debug)]
struct Live {
    shard: ShardId,
    phase: Phase,
    chain: Chain,
    writer: u64,
    queue: VecDeque<(Ticket, Command)>,
}

#[derive(Debug)]
enum Phase {
    /// Reads its events, which is call number so much.
    Recovering(u64),
    Ready,
    /// Its event is being written, which is call number so much.
    Writing(u64, Ticket, Command),
}

/// What an engine wants done, or tells.
#[derive(Debug)]
pub(super) enum Done {
    Read(u64, PersistenceId),
    Write(u64, Box<AtomicWrite>),
    Answered(Ticket, Answer),
    Drained(ShardId, Token),
    Ended(ShardId, Token),
}

/// What became of a call of the journal.
#[derive(Debug)]
pub(super) enum CallEnd {
    Read(Chain),
    Written,
    Refused,
    /// Nobody says.
    Lost,
}

impl Engine {
    pub(super) fn start(&mut self, shard: ShardId, token: Token, until: Duration) {
        self.forget(shard);
        let run = Run {
            token,
            until,
            is_draining: false,
        };
        self.shards.insert(shard, run);
    }

    pub(super) fn extend(&mut self, shard: ShardId, until: Duration) {
        if let Some(run) = self.shards.get_mut(&shard) {
            run.until = until;
        }
    }

    pub(super) fn drain(&mut self, shard: ShardId) {
        if let Some(run) = self.shards.get_mut(&shard) {
            run.is_draining = true;
        }
        self.end_drained();
    }

    pub(super) fn abandon(&mut self, shard: ShardId, token: Token) {
        self.forget(shard);
        self.done.push(Done::Ended(shard, token));
    }

    fn forget(&mut self, shard: ShardId) {
        self.shards.remove(&shard);
        self.entities.retain(|_, live| live.shard != shard);
    }

    /// Takes a command. `call` names the read that it may begin with, and the writer that comes of it.
    pub(super) fn deliver(
        &mut self,
        call: u64,
        ticket: Ticket,
        shard: ShardId,
        command: &RemoteCommand,
    ) {
        let id = PersistenceId::new(&command.entity_type, &command.entity_id);
        let id = id.expect("the keeper has checked it");
        let live = self.entities.entry(id.clone()).or_insert_with(|| {
            self.done.push(Done::Read(call, id));
            Live {
                shard,
                phase: Phase::Recovering(call),
                chain: Chain::default(),
                writer: call,
                queue: VecDeque::new(),
            }
        });
        live.queue
            .push_back((ticket, Command::of(&command.payload)));
    }

    /// Every entity that can, and still may, handles a command. `next_call` gives numbers of calls.
    pub(super) fn step(&mut self, now: Duration, next_call: &mut impl FnMut() -> u64) {
        let Self {
            shards,
            entities,
            done,
        } = self;
        for (id, live) in entities {
            let Phase::Ready = live.phase else { continue };
            if shards.get(&live.shard).is_none_or(|run| run.until <= now) {
                continue;
            }
            let Some((ticket, command)) = live.queue.pop_front() else {
                continue;
            };
            if !command.appends {
                let reply = Reply {
                    command: command.id,
                    saw: live.chain,
                    writer: live.writer,
                };
                let answer = Answer::Reply(reply.payload());
                done.push(Done::Answered(ticket, answer));
                continue;
            }
            let event = Event {
                command: command.id,
                base: live.chain.hash,
            };
            let first = SequenceNr::new(live.chain.count + 1).expect("a small number");
            let events = vec![NewEvent::new(event.payload())];
            let write = AtomicWrite::new(id.clone(), writer_id(live.writer), first, events);
            let write = Box::new(write.expect("one small event"));
            let call = next_call();
            live.phase = Phase::Writing(call, ticket, command);
            done.push(Done::Write(call, write));
        }
        self.end_drained();
    }

    /// Whether some entity has a command that it can handle.
    pub(super) fn can_go_on(&self) -> bool {
        let can = |live: &Live| matches!(live.phase, Phase::Ready) && !live.queue.is_empty();
        self.entities.values().any(can)
    }

    /// A call of the journal has ended. One that belongs to an entity that is not there any more, or
    /// has begun anew, is of no interest.
    pub(super) fn ended(
        &mut self,
        call: u64,
        id: &PersistenceId,
        end: CallEnd,
        next_call: &mut impl FnMut() -> u64,
    ) {
        let Some(live) = self.entities.get_mut(id) else {
            return;
        };
        match live.phase {
            Phase::Recovering(own) if own == call => {
                if let CallEnd::Read(chain) = end {
                    live.chain = chain;
                    live.phase = Phase::Ready;
                } else {
                    let call = next_call();
                    live.phase = Phase::Recovering(call);
                    self.done.push(Done::Read(call, id.clone()));
                }
            }
            Phase::Writing(own, ticket, command) if own == call => {
                if let CallEnd::Written = end {
                    live.chain = live.chain.and(command.id);
                    live.phase = Phase::Ready;
                    let reply = Reply {
                        command: command.id,
                        saw: live.chain,
                        writer: live.writer,
                    };
                    let answer = Answer::Reply(reply.payload());
                    self.done.push(Done::Answered(ticket, answer));
                } else {
                    let failure = match end {
                        CallEnd::Refused => {
                            Failure::new(FailureEffect::None, "another writer was there")
                        }
                        _ => Failure::new(FailureEffect::Unknown, "the journal did not answer"),
                    };
                    let answer = Answer::Failed(failure);
                    self.done.push(Done::Answered(ticket, answer));
                    let call = next_call();
                    live.phase = Phase::Recovering(call);
                    live.writer = call;
                    self.done.push(Done::Read(call, id.clone()));
                }
            }
            _ => {}
        }
        self.end_drained();
    }

    /// Tells of shards whose entities have nothing left to do.
    fn end_drained(&mut self) {
        let is_busy = |shard: ShardId| {
            self.entities.values().any(|live| {
                let is_writing = matches!(live.phase, Phase::Writing(..));
                live.shard == shard && (is_writing || !live.queue.is_empty())
            })
        };
        let drained: Vec<(ShardId, Token)> = self
            .shards
            .iter()
            .filter(|&(&shard, run)| run.is_draining && !is_busy(shard))
            .map(|(&shard, run)| (shard, run.token))
            .collect();
        for (shard, token) in drained {
            self.forget(shard);
            self.done.push(Done::Drained(shard, token));
        }
    }
}
