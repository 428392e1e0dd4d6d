//! What this node sends to a shard's owner, in the order of its callers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use perennial_persistence::PersistenceId;

use crate::keeper::{CallId, Keeper, Output, Settings};
use crate::lease::Token;
use crate::shard::ShardId;
use crate::transport::{
    Answer, Destination, Failure, FailureEffect, Frame, MAX_CHAIN, RemoteCommand,
};

/// The calls to one shard that are not settled.
#[derive(Debug)]
pub(super) struct Channel {
    link: Link,
    /// By their place in the order of all calls, which they keep.
    calls: BTreeMap<u64, Call>,
    last_place: u64,
    /// The places of those that are with nobody.
    waiting: BTreeSet<u64>,
    /// The places of those that are with an owner, by their numbers there.
    sent: BTreeMap<(Token, u64), u64>,
    /// When which of them is waited for no longer.
    ends: BTreeSet<(Duration, u64)>,
}

#[derive(Debug)]
struct Call {
    id: CallId,
    command: Box<RemoteCommand>,
    /// Until when it is waited for: its own deadline, or sooner.
    until: Duration,
    deadline: Duration,
    sent_as: Option<(Token, u64)>,
}

/// What is known of the shard's owner.
#[derive(Debug)]
enum Link {
    /// Nothing, but that it is not this tenure nor an earlier one.
    Closed {
        after: Option<Token>,
        open_at: Duration,
    },
    Open {
        token: Token,
        next: u64,
        /// When it was heard of last.
        heard_at: Duration,
        /// When it is to be asked again whether it is there, if it does not seem to be.
        probe_at: Option<Duration>,
    },
}

impl Channel {
    fn new(now: Duration) -> Self {
        Self {
            link: Link::Closed {
                after: None,
                open_at: now,
            },
            calls: BTreeMap::new(),
            last_place: 0,
            waiting: BTreeSet::new(),
            sent: BTreeMap::new(),
            ends: BTreeSet::new(),
        }
    }

    /// How many calls wait, and how many are with an owner.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.waiting.len(), self.sent.len())
    }

    pub(super) fn wake_at(&self, settings: &Settings) -> Option<Duration> {
        let ends = self.ends.first().map(|&(at, _)| at);
        let link = match &self.link {
            Link::Closed { open_at, .. } => (!self.waiting.is_empty()).then_some(*open_at),
            Link::Open {
                token,
                heard_at,
                probe_at,
                ..
            } => {
                let has_some = !self.waiting.is_empty() || self.has_sent(*token);
                let silent_at = || *heard_at + settings.silence;
                has_some.then(|| probe_at.unwrap_or_else(silent_at))
            }
        };
        ends.into_iter().chain(link).min()
    }

    /// Whether something is with the owner of this tenure.
    fn has_sent(&self, token: Token) -> bool {
        self.sent_in(token, 0).next().is_some()
    }

    fn sent_in(&self, token: Token, from: u64) -> impl Iterator<Item = ((Token, u64), u64)> {
        let numbers = self.sent.range((token, from)..=(token, u64::MAX));
        numbers.map(|(&key, &place)| (key, place))
    }

    fn heard(&mut self, of: Token, now: Duration) {
        if let Link::Open {
            token,
            heard_at,
            probe_at,
            ..
        } = &mut self.link
            && *token == of
        {
            (*heard_at, *probe_at) = (now, None);
        }
    }

    /// The call at this place is over.
    fn remove(&mut self, place: u64) -> Option<Call> {
        let call = self.calls.remove(&place)?;
        self.waiting.remove(&place);
        self.ends.remove(&(call.until, place));
        if let Some(key) = &call.sent_as {
            self.sent.remove(key);
        }
        Some(call)
    }

    /// Waits for the call at this place no longer than until `until`.
    fn shorten(&mut self, place: u64, until: Duration) {
        if let Some(call) = self.calls.get_mut(&place)
            && until < call.until
        {
            self.ends.remove(&(call.until, place));
            call.until = until;
            self.ends.insert((until, place));
        }
    }
}

impl Keeper {
    /// Takes a call of this node.
    pub(super) fn send(&mut self, id: CallId, command: Box<RemoteCommand>) {
        let refuse = |reason: String| {
            let failure = Failure::new(FailureEffect::NotHandled, reason);
            Output::Settled(id, Answer::Failed(failure))
        };
        if command.chain.len() > MAX_CHAIN {
            let reason = format!("the chain of the ask has more than {MAX_CHAIN} links");
            return self.out.push(refuse(reason));
        }
        let shard = match PersistenceId::new(&command.entity_type, &command.entity_id) {
            Ok(persistence_id) => self.settings.shards.shard_of(persistence_id.slice()),
            Err(error) => return self.out.push(refuse(error.to_string())),
        };
        let (now, buffer) = (self.now, self.settings.buffer);
        let channel = self.channels.entry(shard);
        let channel = channel.or_insert_with(|| Channel::new(now));
        if channel.calls.len() >= buffer {
            let failure = Failure::new(FailureEffect::NotHandled, "the way to the shard is full")
                .with_retry_after(self.settings.open_every);
            return self.out.push(Output::Settled(id, Answer::Failed(failure)));
        }
        channel.last_place += 1;
        let place = channel.last_place;
        let deadline = now.saturating_add(command.time_left);
        let call = Call {
            id,
            command,
            until: deadline,
            deadline,
            sent_as: None,
        };
        channel.calls.insert(place, call);
        channel.waiting.insert(place);
        channel.ends.insert((deadline, place));
    }

    /// What time alone brings, and what can be sent.
    pub(super) fn look_at_channels(&mut self) {
        let shards: Vec<ShardId> = self.channels.keys().copied().collect();
        for shard in shards {
            self.end_calls(shard);
            self.pump(shard);
        }
    }

    /// Settles what is waited for no longer.
    fn end_calls(&mut self, shard: ShardId) {
        let now = self.now;
        let Some(channel) = self.channels.get_mut(&shard) else {
            return;
        };
        while let Some(&(until, place)) = channel.ends.first()
            && until <= now
        {
            let Some(call) = channel.remove(place) else {
                channel.ends.pop_first();
                continue;
            };
            let failure = if call.sent_as.is_none() {
                let reason = "the time ran out before the shard had an owner to take the command";
                Failure::new(FailureEffect::NotHandled, reason)
            } else if call.until < call.deadline {
                let reason = "the shard has another owner, and the earlier one did not answer";
                Failure::new(FailureEffect::Unknown, reason)
            } else {
                let reason = "the time ran out before the shard's owner answered";
                Failure::new(FailureEffect::Unknown, reason)
            };
            self.out
                .push(Output::Settled(call.id, Answer::Failed(failure)));
        }
    }

    /// Sends what can be sent, or looks for somebody to send it to.
    fn pump(&mut self, shard: ShardId) {
        let now = self.now;
        let again_at = now + self.about(self.settings.open_every);
        let (window, silence) = (self.settings.window, self.settings.silence);
        let node = self.node.clone();
        #[cfg(feature = "defects")]
        let is_backwards = self.has(super::Defect::SendsOutOfOrder);
        #[cfg(not(feature = "defects"))]
        let is_backwards = false;
        let Some(channel) = self.channels.get_mut(&shard) else {
            return;
        };
        let mut frames = Vec::new();
        let open = Frame::Open {
            shard,
            from: node.clone(),
        };
        let Channel {
            link,
            calls,
            waiting,
            sent,
            ..
        } = channel;
        match link {
            Link::Closed { open_at, .. } => {
                if !waiting.is_empty() && *open_at <= now {
                    *open_at = again_at;
                    frames.push(open);
                }
            }
            Link::Open {
                token,
                next,
                heard_at,
                probe_at,
            } => {
                let token = *token;
                let mut with_owner = sent.range((token, 0)..=(token, u64::MAX)).count();
                if with_owner == 0 && waiting.is_empty() {
                    // Nothing is wanted of it.
                } else if *heard_at + silence <= now {
                    // It may have much to do, or be gone for long. It is asked first, as nobody could
                    // say what became of a command that is given to an owner that is no more.
                    if probe_at.is_none_or(|at| at <= now) {
                        *probe_at = Some(again_at);
                        frames.push(open);
                    }
                } else {
                    while with_owner < window {
                        let place = if is_backwards {
                            waiting.pop_last()
                        } else {
                            waiting.pop_first()
                        };
                        let Some(place) = place else { break };
                        let call = calls.get_mut(&place).expect("it waits");
                        let number = *next;
                        *next += 1;
                        with_owner += 1;
                        call.sent_as = Some((token, number));
                        sent.insert((token, number), place);
                        let mut command = call.command.clone();
                        command.time_left = call.deadline.saturating_sub(now);
                        frames.push(Frame::Command {
                            shard,
                            from: node.clone(),
                            token,
                            number,
                            command,
                        });
                    }
                }
            }
        }
        for frame in frames {
            self.post(Destination::Shard(shard), frame);
        }
    }

    /// A tenure takes commands.
    pub(super) fn opened(&mut self, shard: ShardId, token: Token) {
        let now = self.now;
        let grace = now + self.settings.answer_grace;
        let Some(channel) = self.channels.get_mut(&shard) else {
            return;
        };
        let is_later = match &channel.link {
            Link::Closed { after, .. } => after.is_none_or(|after| token > after),
            Link::Open { token: own, .. } => token > *own,
        };
        if is_later {
            channel.link = Link::Open {
                token,
                next: 0,
                heard_at: now,
                probe_at: None,
            };
            // What the earlier owners have not answered by now is on its way, or never will be.
            let places: Vec<u64> = channel.sent.values().copied().collect();
            for place in places {
                channel.shorten(place, grace);
            }
        } else {
            channel.heard(token, now);
        }
        self.pump(shard);
    }

    /// A tenure takes nothing more, and has taken nothing from number `below` on.
    pub(super) fn closed(&mut self, shard: ShardId, token: Token, below: u64) {
        let now = self.now;
        let open_at = now + self.about(self.settings.open_every);
        let Some(channel) = self.channels.get_mut(&shard) else {
            return;
        };
        let is_present = matches!(&channel.link, Link::Open { token: own, .. } if *own == token);
        let refused: Vec<((Token, u64), u64)> = channel.sent_in(token, below).collect();
        if is_present {
            for (key, place) in refused {
                channel.sent.remove(&key);
                channel.waiting.insert(place);
                let call = channel.calls.get_mut(&place).expect("it was sent");
                call.sent_as = None;
            }
            let after = Some(token);
            channel.link = Link::Closed { after, open_at };
            return;
        }
        // Later calls may be with a later owner: to send these now would be another order.
        for (_, place) in refused {
            if let Some(call) = channel.remove(place) {
                let reason = "the shard went to another owner before it took the command";
                let failure = Failure::new(FailureEffect::NotHandled, reason);
                self.out
                    .push(Output::Settled(call.id, Answer::Failed(failure)));
            }
        }
    }

    /// An owner has answered.
    pub(super) fn settled(&mut self, shard: ShardId, token: Token, number: u64, answer: Answer) {
        let now = self.now;
        let Some(channel) = self.channels.get_mut(&shard) else {
            return;
        };
        channel.heard(token, now);
        let place = channel.sent.get(&(token, number)).copied();
        if let Some(call) = place.and_then(|place| channel.remove(place)) {
            self.out.push(Output::Settled(call.id, answer));
        }
    }
}
