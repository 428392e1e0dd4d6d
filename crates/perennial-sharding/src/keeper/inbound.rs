//! What a tenure takes from the senders, and what they are answered.

use std::collections::BTreeMap;

use crate::keeper::{Keeper, Output, Ticket};
use crate::lease::Token;
use crate::node::NodeId;
use crate::shard::ShardId;
use crate::transport::{Answer, Destination, Failure, FailureEffect, Frame, RemoteCommand, Wants};

/// The sessions of all shards that this node has, or had last.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    /// The latest tenure of each shard. What it took is kept after its end, for those who still send.
    sessions: BTreeMap<ShardId, Sessions>,
    taken: BTreeMap<Ticket, Taken>,
    last_ticket: u64,
}

#[derive(Debug)]
struct Sessions {
    token: Token,
    /// Whether it still takes commands. Once it does not, it never does again.
    is_open: bool,
    /// By sender: the lowest number that it may still have.
    next: BTreeMap<NodeId, u64>,
    /// Commands that were taken and not answered.
    taken: usize,
}

/// A command that the engine has.
#[derive(Debug)]
struct Taken {
    shard: ShardId,
    from: NodeId,
    token: Token,
    number: u64,
    wants: Wants,
}

impl Inbound {
    /// How many commands of a shard were taken and not answered.
    pub(super) fn taken(&self, shard: ShardId) -> usize {
        self.sessions
            .get(&shard)
            .map_or(0, |sessions| sessions.taken)
    }
}

impl Keeper {
    /// A tenure begins, with no sender.
    pub(super) fn begin_sessions(&mut self, shard: ShardId, token: Token) {
        let sessions = Sessions {
            token,
            is_open: true,
            next: BTreeMap::new(),
            taken: 0,
        };
        self.inbound.sessions.insert(shard, sessions);
    }

    /// The tenure takes nothing more, and tells everyone so.
    pub(super) fn close_sessions(&mut self, shard: ShardId) {
        let Some(sessions) = self.inbound.sessions.get_mut(&shard) else {
            return;
        };
        if !std::mem::replace(&mut sessions.is_open, false) {
            return;
        }
        let token = sessions.token;
        let senders: Vec<(NodeId, u64)> = sessions
            .next
            .iter()
            .map(|(node, &below)| (node.clone(), below))
            .collect();
        for (node, below) in senders {
            let frame = Frame::Closed {
                shard,
                token,
                below,
            };
            self.post(Destination::Node(node), frame);
        }
    }

    /// What the engine still has is not waited for, and nobody knows what becomes of it.
    pub(super) fn forget_taken(&mut self, shard: ShardId, reason: &'static str) {
        let of_shard = |(_, taken): &(&Ticket, &Taken)| taken.shard == shard;
        let tickets: Vec<Ticket> = self
            .inbound
            .taken
            .iter()
            .filter(of_shard)
            .map(|(&ticket, _)| ticket)
            .collect();
        for ticket in tickets {
            let failure = Failure::new(FailureEffect::Unknown, reason);
            self.answered(ticket, Answer::Failed(failure));
        }
    }

    pub(super) fn open(&mut self, shard: ShardId, from: NodeId) {
        let senders = self.settings.senders;
        let Some(sessions) = self.inbound.sessions.get_mut(&shard) else {
            return;
        };
        let known = sessions.next.get(&from).copied();
        if !sessions.is_open {
            // Whoever has not heard of the end of the session hears of it again.
            if let Some(below) = known {
                let token = sessions.token;
                let frame = Frame::Closed {
                    shard,
                    token,
                    below,
                };
                self.post(Destination::Node(from), frame);
            }
            return;
        }
        if known.is_none() && sessions.next.len() >= senders {
            return;
        }
        let token = sessions.token;
        // A session that is opened again goes on where it was.
        sessions.next.entry(from.clone()).or_insert(0);
        self.post(Destination::Node(from), Frame::Opened { shard, token });
    }

    pub(super) fn command(
        &mut self,
        shard: ShardId,
        from: NodeId,
        token: Token,
        number: u64,
        command: Box<RemoteCommand>,
    ) {
        let most = self.settings.taken;
        #[cfg(feature = "defects")]
        let takes_twice = self.has(super::Defect::TakesNumbersTwice);
        #[cfg(not(feature = "defects"))]
        let takes_twice = false;
        let Some(sessions) = self.inbound.sessions.get_mut(&shard) else {
            return;
        };
        if sessions.token != token {
            // For an earlier tenure: its sender is told that this one has begun. Of a later one this
            // node has nothing to say.
            if token < sessions.token {
                self.open(shard, from);
            }
            return;
        }
        let next = sessions.next.get(&from).copied();
        if !sessions.is_open {
            let below = next.unwrap_or(0);
            let frame = Frame::Closed {
                shard,
                token,
                below,
            };
            return self.post(Destination::Node(from), frame);
        }
        // Without a session there is nothing that says what it may have had.
        let Some(next) = next else { return };
        if number < next && !takes_twice {
            return;
        }
        sessions.next.insert(from.clone(), number + 1);
        let is_full = sessions.taken >= most;
        let answer = if is_full {
            let failure = Failure::new(FailureEffect::NotHandled, "the shard is full")
                .with_retry_after(self.settings.open_every);
            Some(Answer::Failed(failure))
        } else {
            (command.wants == Wants::Taken).then_some(Answer::Taken)
        };
        if !is_full {
            sessions.taken += 1;
            self.inbound.last_ticket += 1;
            let ticket = Ticket(self.inbound.last_ticket);
            let taken = Taken {
                shard,
                from: from.clone(),
                token,
                number,
                wants: command.wants,
            };
            self.inbound.taken.insert(ticket, taken);
            self.out.push(Output::Deliver {
                ticket,
                shard,
                token,
                command,
            });
        }
        if let Some(answer) = answer {
            let frame = Frame::Answer {
                shard,
                token,
                number,
                answer,
            };
            self.post(Destination::Node(from), frame);
        }
    }

    /// The engine's answer goes to whoever asked, unless the tenure is over.
    pub(super) fn answered(&mut self, ticket: Ticket, answer: Answer) {
        let Some(taken) = self.inbound.taken.remove(&ticket) else {
            return;
        };
        let Taken {
            shard,
            from,
            token,
            number,
            wants,
        } = taken;
        if let Some(sessions) = self.inbound.sessions.get_mut(&shard) {
            sessions.taken -= 1;
        }
        if wants == Wants::Reply {
            let frame = Frame::Answer {
                shard,
                token,
                number,
                answer,
            };
            self.post(Destination::Node(from), frame);
        }
    }
}
