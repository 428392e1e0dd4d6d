//! A shard's life on this node: from the request for its lease to its release.
//!
//! ```text
//! Elsewhere ── planned ──> Acquiring ── granted ──> Serving ── planned away ──> Draining
//!     ^  ^                    │                        │                          │ drained, or
//!     │  └────── refused ─────┘                        │ validity is over         │ given up
//!     │                                                v                          v
//!     ├───────────── the engine has ended ──────── Fenced <── validity ──     Releasing
//!     └──────────────────────────────── released, or validity is over ────────────┘
//! ```

use std::time::Duration;

use crate::allocation::allocate;
use crate::keeper::{Keeper, Output, RequestId, ShardPhase};
use crate::lease::{LeaseError, Token};
use crate::node::{Member, MemberState, NodeId};
use crate::shard::ShardId;

/// What a shard is to this node, and since when.
#[derive(Debug, Default)]
pub(super) struct Seat {
    phase: Phase,
    since: Duration,
    /// The latest token that this node was granted; what was granted before is over.
    latest: Option<Token>,
}

#[derive(Debug)]
enum Phase {
    Elsewhere {
        /// When it is to be asked for again, if it is wanted and was not to be had.
        retry_at: Option<Duration>,
    },
    Acquiring {
        request: RequestId,
        asked_at: Duration,
    },
    Serving {
        lease: Lease,
    },
    Draining {
        lease: Lease,
        /// When it is forced, or, if it is, when its lease is no longer renewed.
        until: Duration,
        forced: bool,
    },
    Releasing {
        token: Token,
        request: RequestId,
        asked_at: Duration,
        valid_until: Duration,
    },
    Fenced {
        token: Token,
    },
}

impl Default for Phase {
    fn default() -> Self {
        Self::Elsewhere { retry_at: None }
    }
}

/// A lease that this node holds.
#[derive(Debug, Clone)]
struct Lease {
    token: Token,
    /// Until when this node may act.
    valid_until: Duration,
    renew_at: Duration,
    /// Renewals that were not answered yet and would still be of use, with the times at which they
    /// were asked for.
    renewals: Vec<(RequestId, Duration)>,
}

impl Seat {
    pub(super) fn phase(&self) -> ShardPhase {
        match &self.phase {
            Phase::Elsewhere { .. } => ShardPhase::Elsewhere,
            Phase::Acquiring { .. } => ShardPhase::Acquiring,
            Phase::Serving { .. } => ShardPhase::Serving,
            Phase::Draining { forced: false, .. } => ShardPhase::Draining,
            Phase::Draining { forced: true, .. } => ShardPhase::Forced,
            Phase::Releasing { .. } => ShardPhase::Releasing,
            Phase::Fenced { .. } => ShardPhase::Fenced,
        }
    }

    pub(super) fn since(&self) -> Duration {
        self.since
    }

    pub(super) fn token(&self) -> Option<Token> {
        match &self.phase {
            Phase::Elsewhere { .. } | Phase::Acquiring { .. } => None,
            Phase::Serving { lease } | Phase::Draining { lease, .. } => Some(lease.token),
            Phase::Releasing { token, .. } | Phase::Fenced { token } => Some(*token),
        }
    }

    pub(super) fn is_serving(&self) -> bool {
        matches!(self.phase, Phase::Serving { .. })
    }

    /// Whether nothing of the shard is left on this node.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self.phase, Phase::Elsewhere { .. })
    }

    /// Whether it is being given away.
    fn is_going(&self) -> bool {
        matches!(self.phase, Phase::Draining { .. } | Phase::Releasing { .. })
    }

    fn lease(&self) -> Option<&Lease> {
        match &self.phase {
            Phase::Serving { lease } | Phase::Draining { lease, .. } => Some(lease),
            _ => None,
        }
    }

    fn lease_mut(&mut self) -> Option<&mut Lease> {
        match &mut self.phase {
            Phase::Serving { lease } | Phase::Draining { lease, .. } => Some(lease),
            _ => None,
        }
    }

    fn has_ended(&self, now: Duration) -> bool {
        match &self.phase {
            Phase::Serving { lease } | Phase::Draining { lease, .. } => lease.valid_until <= now,
            Phase::Releasing { valid_until, .. } => *valid_until <= now,
            _ => false,
        }
    }

    pub(super) fn wake_at(&self, request_timeout: Duration) -> Option<Duration> {
        match &self.phase {
            Phase::Elsewhere { retry_at } => *retry_at,
            Phase::Acquiring { asked_at, .. } => Some(*asked_at + request_timeout),
            Phase::Serving { lease } => Some(lease.valid_until.min(lease.renew_at)),
            Phase::Draining {
                lease,
                until,
                forced,
            } => {
                let forced_at = if *forced { lease.renew_at } else { *until };
                Some(lease.valid_until.min(lease.renew_at).min(forced_at))
            }
            Phase::Releasing {
                asked_at,
                valid_until,
                ..
            } => Some((*asked_at + request_timeout).min(*valid_until)),
            Phase::Fenced { .. } => None,
        }
    }
}

impl Keeper {
    /// Gives up everything whose lease is over, or may be. Before anything else in a turn.
    pub(super) fn fence(&mut self) {
        #[cfg(feature = "defects")]
        if self.has(super::Defect::IgnoresValidity) {
            return;
        }
        for shard in self.settings.shards.iter() {
            if self.seat(shard).has_ended(self.now) {
                self.give_up(shard);
            }
        }
    }

    /// Nothing is acknowledged for the shard any more.
    fn give_up(&mut self, shard: ShardId) {
        self.tenures.remove(&shard);
        let (token, forced) = match &self.seat(shard).phase {
            Phase::Serving { lease } => (lease.token, false),
            Phase::Draining { lease, forced, .. } => (lease.token, *forced),
            // Nothing has acted for it since it was to be released.
            Phase::Releasing { .. } => {
                return self.become_elsewhere(shard, None);
            }
            _ => return,
        };
        self.out.push(Output::Silence(shard));
        if !forced {
            self.out.push(Output::Abandon(shard, token));
        }
        self.close_sessions(shard);
        self.forget_taken(shard, "the lease of its shard is over");
        self.set_phase(shard, Phase::Fenced { token });
    }

    /// What time alone brings.
    pub(super) fn look_at_seats(&mut self) {
        let now = self.now;
        let timeout = self.settings.request_timeout;
        for shard in self.settings.shards.iter() {
            match &self.seat(shard).phase {
                Phase::Elsewhere {
                    retry_at: Some(retry_at),
                } if *retry_at <= now => self.become_elsewhere(shard, None),
                Phase::Acquiring { asked_at, .. } if *asked_at + timeout <= now => {
                    self.become_elsewhere(shard, None);
                }
                Phase::Draining {
                    until,
                    forced: false,
                    ..
                } if *until <= now => self.force(shard),
                Phase::Releasing {
                    token,
                    asked_at,
                    valid_until,
                    ..
                } if *asked_at + timeout <= now => {
                    let (token, valid_until) = (*token, *valid_until);
                    self.release(shard, token, valid_until);
                }
                _ => {}
            }
            self.renew_if_due(shard);
        }
    }

    fn renew_if_due(&mut self, shard: ShardId) {
        let now = self.now;
        let usable = self.settings.validity - self.settings.margin;
        let wait = self.settings.renew_every.min(self.settings.request_timeout);
        let is_stuck = matches!(
            self.seat(shard).phase,
            Phase::Draining { forced: true, until, .. } if until <= now
        );
        let Some(lease) = self.seat_mut(shard).lease_mut() else {
            return;
        };
        if lease.renew_at > now {
            return;
        }
        if is_stuck {
            // The engine does not let go. The lease runs out, and the journal has the last word.
            lease.renew_at = lease.valid_until;
            return;
        }
        lease.renew_at = now + wait;
        lease
            .renewals
            .retain(|&(_, asked_at)| asked_at + usable > now);
        let token = lease.token;
        let request = self.request();
        let lease = self.seat_mut(shard).lease_mut().expect("it was there");
        lease.renewals.push((request, now));
        let validity = self.settings.validity;
        self.out
            .push(Output::Renew(request, shard, token, validity));
    }

    /// Decides what this node is to have and what it has to give away, and begins with both.
    pub(super) fn plan(&mut self) {
        let mut owners = self.tenures.clone();
        let mut going = 0;
        for shard in self.settings.shards.iter() {
            let seat = self.seat(shard);
            going += usize::from(seat.is_going());
            if seat.is_serving() || seat.is_going() {
                owners.insert(shard, self.node.clone());
            } else if owners.get(&shard) == Some(&self.node) {
                owners.remove(&shard);
            }
        }
        let mut members = self.members.members.clone();
        if self.leaving {
            members.retain(|member| member.node != self.node);
            let own = Member::new(self.node.clone(), MemberState::Leaving);
            members.push(own);
        }
        let limits = self.settings.limits;
        let moves = allocate(
            self.settings.shards,
            &members,
            &owners,
            &self.loads,
            &limits,
        );
        for one in &moves {
            let is_free = one.from.is_none() && one.to == self.node;
            let seat = self.seat(one.shard);
            if is_free && matches!(seat.phase, Phase::Elsewhere { retry_at: None }) {
                self.acquire(one.shard);
            }
        }
        self.claim();
        let given: Vec<ShardId> = if self.leaving {
            // Whether somebody is there to take it or not.
            self.settings.shards.iter().collect()
        } else {
            let own = moves
                .iter()
                .filter(|one| one.from.as_ref() == Some(&self.node))
                .filter(|_| self.gives_nothing_until <= self.now);
            own.map(|one| one.shard).collect()
        };
        let most = limits.moves.max(usize::from(self.leaving));
        let serving = given
            .into_iter()
            .filter(|&shard| self.seat(shard).is_serving());
        let begun: Vec<ShardId> = serving.take(most.saturating_sub(going)).collect();
        for shard in begun {
            self.drain(shard);
        }
    }

    /// Remembers since when nobody is known to own which shard.
    pub(super) fn note_free(&mut self) {
        for shard in self.settings.shards.iter() {
            if self.tenures.contains_key(&shard) {
                self.free_since.remove(&shard);
            } else {
                self.free_since.entry(shard).or_insert(self.now);
            }
        }
    }

    /// Asks for shards that nobody has taken for long, whoever was to.
    fn claim(&mut self) {
        let members = self.members.members.iter();
        let up = members.filter(|member| member.state == MemberState::Up);
        let mut up: Vec<&NodeId> = up.map(|member| &member.node).collect();
        up.sort_unstable();
        let Some(place) = up.iter().position(|node| **node == self.node) else {
            return;
        };
        if self.leaving {
            return;
        }
        let count = up.len();
        let wait = self.settings.claim_after;
        let due: Vec<ShardId> = self
            .free_since
            .iter()
            .filter(|&(&shard, &since)| {
                let first = usize::from(shard.value()) % count;
                let before = (place + count - first) % count;
                let waits = u32::try_from(before + 1).unwrap_or(u32::MAX);
                let is_due = since.saturating_add(wait.saturating_mul(waits)) <= self.now;
                let phase = &self.seat(shard).phase;
                is_due && matches!(phase, Phase::Elsewhere { retry_at: None })
            })
            .map(|(&shard, _)| shard)
            .collect();
        if !due.is_empty() {
            // Or the one that does not come would be waited for again at once.
            self.gives_nothing_until = self.now + wait;
        }
        for shard in due {
            self.acquire(shard);
        }
    }

    fn acquire(&mut self, shard: ShardId) {
        let request = self.request();
        let validity = self.settings.validity;
        self.out.push(Output::Acquire(request, shard, validity));
        let asked_at = self.now;
        self.set_phase(shard, Phase::Acquiring { request, asked_at });
    }

    pub(super) fn acquired(
        &mut self,
        request: RequestId,
        shard: ShardId,
        result: Result<Token, LeaseError>,
    ) {
        let asked_at = match self.seat(shard).phase {
            Phase::Acquiring {
                request: own,
                asked_at,
            } if own == request => asked_at,
            _ => {
                if let Ok(token) = result {
                    self.granted_besides(shard, token);
                }
                return;
            }
        };
        match result {
            // Requests have overtaken each other, and a later grant has ended this one.
            Ok(token) if self.seat(shard).latest > Some(token) => {
                self.retry(shard, self.settings.open_every);
            }
            Ok(token) => {
                self.seat_mut(shard).latest = Some(token);
                let valid_until = asked_at + self.settings.validity - self.settings.margin;
                if valid_until <= self.now || self.leaving {
                    return self.release(shard, token, valid_until);
                }
                let lease = Lease {
                    token,
                    valid_until,
                    renew_at: asked_at + self.settings.renew_every,
                    renewals: Vec::new(),
                };
                self.set_phase(shard, Phase::Serving { lease });
                self.begin_sessions(shard, token);
                let until = valid_until;
                self.out.push(Output::Start {
                    shard,
                    token,
                    until,
                });
                self.out.push(Output::Listen(shard));
                // What waits on this node need not look for an owner.
                self.open(shard, self.node.clone());
            }
            Err(LeaseError::Held { holder, left, .. }) => {
                if holder != self.node {
                    self.tenures.insert(shard, holder);
                }
                let wait = left.min(self.settings.refresh_every);
                self.retry(shard, wait);
            }
            Err(_) => self.retry(shard, self.settings.open_every),
        }
    }

    /// A request was answered that nobody waits for any more, or that arrived twice.
    fn granted_besides(&mut self, shard: ShardId, token: Token) {
        let seat = self.seat_mut(shard);
        seat.latest = seat.latest.max(Some(token));
        let own = seat.lease().map(|lease| lease.token);
        match own {
            // The tenure that this node is in has ended with this one. To give this one back would let
            // another node begin before this one has stopped, so it is left to run out.
            Some(own) if own < token => self.give_up(shard),
            Some(own) if own == token => {}
            // Given back, rather than left to run out.
            _ => {
                let request = self.request();
                self.out.push(Output::Release(request, shard, token));
            }
        }
    }

    fn retry(&mut self, shard: ShardId, wait: Duration) {
        let retry_at = self.now + self.about(wait);
        self.become_elsewhere(shard, Some(retry_at));
    }

    pub(super) fn renewed(
        &mut self,
        request: RequestId,
        shard: ShardId,
        result: Result<(), LeaseError>,
    ) {
        let (now, renew_every) = (self.now, self.settings.renew_every);
        let usable = self.settings.validity - self.settings.margin;
        let Some(lease) = self.seat_mut(shard).lease_mut() else {
            return;
        };
        let asked = lease.renewals.iter().find(|(own, _)| *own == request);
        let Some(&(_, asked_at)) = asked else {
            return;
        };
        match result {
            Ok(()) => {
                lease.renewals.retain(|&(_, other)| other > asked_at);
                lease.valid_until = lease.valid_until.max(asked_at + usable);
                lease.renew_at = lease.renew_at.max(asked_at + renew_every).max(now);
                let (token, until) = (lease.token, lease.valid_until);
                self.out.push(Output::Extend {
                    shard,
                    token,
                    until,
                });
            }
            Err(LeaseError::Lost { .. }) => self.give_up(shard),
            // It was answered, so it need not be waited for.
            Err(_) => lease.renewals.retain(|(own, _)| *own != request),
        }
    }

    /// Begins to give the shard away.
    fn drain(&mut self, shard: ShardId) {
        let Phase::Serving { lease } = &self.seat(shard).phase else {
            return;
        };
        let lease = lease.clone();
        let token = lease.token;
        self.close_sessions(shard);
        self.out.push(Output::Drain(shard, token));
        #[cfg(feature = "defects")]
        if self.has(super::Defect::ReleasesBeforeDrained) {
            let request = self.request();
            self.out.push(Output::Release(request, shard, token));
        }
        let until = self.now + self.settings.drain_timeout;
        let forced = false;
        self.set_phase(
            shard,
            Phase::Draining {
                lease,
                until,
                forced,
            },
        );
    }

    /// The entities have taken too long.
    fn force(&mut self, shard: ShardId) {
        let patience = self.now + self.settings.drain_timeout;
        let since = self.now;
        let seat = self.seat_mut(shard);
        let Phase::Draining {
            lease,
            until,
            forced,
        } = &mut seat.phase
        else {
            return;
        };
        (*forced, *until) = (true, patience);
        let token = lease.token;
        seat.since = since;
        self.out.push(Output::Abandon(shard, token));
        self.forget_taken(shard, "its shard was given away before it was done");
    }

    pub(super) fn drained(&mut self, shard: ShardId, token: Token) {
        if let Phase::Draining {
            lease,
            forced: false,
            ..
        } = &self.seat(shard).phase
            && lease.token == token
        {
            let valid_until = lease.valid_until;
            self.forget_taken(shard, "it was not answered before its shard was given away");
            self.release(shard, token, valid_until);
        }
    }

    pub(super) fn ended(&mut self, shard: ShardId, token: Token) {
        match &self.seat(shard).phase {
            Phase::Draining {
                lease,
                forced: true,
                ..
            } if lease.token == token => {
                let valid_until = lease.valid_until;
                self.release(shard, token, valid_until);
            }
            Phase::Fenced { token: own } if *own == token => self.become_elsewhere(shard, None),
            _ => {}
        }
    }

    /// Gives the lease back; nothing acts for it any more. Also again, if there was no answer.
    fn release(&mut self, shard: ShardId, token: Token, valid_until: Duration) {
        if self.seat(shard).is_going() || self.seat(shard).is_serving() {
            self.out.push(Output::Silence(shard));
        }
        let request = self.request();
        self.out.push(Output::Release(request, shard, token));
        let asked_at = self.now;
        self.set_phase(
            shard,
            Phase::Releasing {
                token,
                request,
                asked_at,
                valid_until,
            },
        );
    }

    pub(super) fn released(
        &mut self,
        request: RequestId,
        shard: ShardId,
        result: Result<(), LeaseError>,
    ) {
        let Phase::Releasing { request: own, .. } = &self.seat(shard).phase else {
            return;
        };
        let is_over = matches!(result, Ok(()) | Err(LeaseError::Lost { .. }));
        if *own == request && is_over {
            self.tenures.remove(&shard);
            self.become_elsewhere(shard, None);
        }
    }

    fn become_elsewhere(&mut self, shard: ShardId, retry_at: Option<Duration>) {
        self.set_phase(shard, Phase::Elsewhere { retry_at });
    }

    fn set_phase(&mut self, shard: ShardId, phase: Phase) {
        let now = self.now;
        let seat = self.seat_mut(shard);
        let before = seat.phase();
        seat.phase = phase;
        if seat.phase() != before {
            seat.since = now;
        }
        self.replan = true;
    }
}
