//! What a keeper is told when it is made.

use std::time::Duration;

use crate::allocation::Limits;
use crate::shard::ShardCount;

/// How shards are kept. [`Default`] is for a cluster in one data centre.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// Into how many shards the slices are divided, the same on all nodes. Default: 64.
    pub shards: ShardCount,
    /// How much is moved, the same on all nodes.
    pub limits: Limits,
    /// For how long a lease is asked for. A shard of a node that crashed is without an owner for up to
    /// that long. Default: 10 s.
    pub validity: Duration,
    /// How much earlier than that a keeper stops acting, on its own clock: at least by what its clock
    /// and that of the leases come apart within the validity. Default: 1 s, less than the validity.
    pub margin: Duration,
    /// How often a lease is renewed. Default: 2.5 s, at most a half of what is left of the validity
    /// without the margin, so that one renewal may be lost.
    pub renew_every: Duration,
    /// When an answer of the leases is waited for no longer, and the request is made again. Default:
    /// 1 s.
    pub request_timeout: Duration,
    /// How often it is read who owns what. Default: 1 s.
    pub refresh_every: Duration,
    /// When a shard that nobody owns is claimed by a node that is not to have it, because the one that
    /// is does not come: it may be known to some nodes only. One more time for each node that comes
    /// first in the order, which differs from shard to shard. Then that node gives nothing away for as
    /// long, unless it leaves. Default: 5 s.
    pub claim_after: Duration,
    /// How long entities may take to finish before a shard is given away without waiting for them; what
    /// they had not answered ends as unknown. Default: 10 s.
    pub drain_timeout: Duration,
    /// The most commands of this node that wait, for each shard, for an owner or its answer; one more
    /// is refused. Default: 1,000, at least 1.
    pub buffer: usize,
    /// The most of them that are with an owner at a time. A crash leaves the outcome of so many
    /// unknown. Default: 256, at least 1.
    pub window: usize,
    /// The most commands that a shard has taken, from all senders, and not answered; one more is
    /// refused. Default: 10,000, at least 1.
    pub taken: usize,
    /// The most nodes that a tenure lets send, by incarnation; one more waits for the next tenure.
    /// Default: 1,024, at least 1.
    pub senders: usize,
    /// How long an owner may have said nothing before nothing more is sent to it until it was asked
    /// whether it is there; so the first command after a rest takes a round trip more. What is sent to
    /// an owner within that time after it crashed ends as unknown. Default: 1 s.
    pub silence: Duration,
    /// How often an owner is looked for, or asked whether it is there. Default: 200 ms.
    pub open_every: Duration,
    /// For how long answers of an owner are waited for after another one has begun; what was not
    /// answered then ends as unknown. Default: 1 s.
    pub answer_grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            shards: ShardCount::default(),
            limits: Limits::default(),
            validity: Duration::from_secs(10),
            margin: Duration::from_secs(1),
            renew_every: Duration::from_millis(2500),
            request_timeout: Duration::from_secs(1),
            refresh_every: Duration::from_secs(1),
            claim_after: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(10),
            buffer: 1000,
            window: 256,
            taken: 10_000,
            senders: 1024,
            silence: Duration::from_secs(1),
            open_every: Duration::from_millis(200),
            answer_grace: Duration::from_secs(1),
        }
    }
}

impl Settings {
    /// Divides the slices into so many shards.
    #[must_use]
    pub fn with_shards(mut self, shards: ShardCount) -> Self {
        self.shards = shards;
        self
    }

    /// Moves so much.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Asks for leases of `validity`, and stops `margin` earlier; renews them three times as often as
    /// that.
    #[must_use]
    pub fn with_validity(mut self, validity: Duration, margin: Duration) -> Self {
        self.validity = validity;
        self.margin = margin;
        self.renew_every = validity.saturating_sub(margin) / 3;
        self
    }

    /// Finds contradictions.
    ///
    /// # Errors
    /// [`InvalidSettings`] with the first one.
    pub fn check(&self) -> Result<(), InvalidSettings> {
        let usable = self.validity.saturating_sub(self.margin);
        let problems = [
            (
                self.margin >= self.validity,
                "`margin` has to be less than `validity`",
            ),
            (
                self.renew_every > usable / 2,
                "`renew_every` has to be at most half of `validity` without `margin`",
            ),
            (
                [
                    self.renew_every,
                    self.request_timeout,
                    self.refresh_every,
                    self.silence,
                    self.open_every,
                ]
                .iter()
                .any(Duration::is_zero),
                "`renew_every`, `request_timeout`, `refresh_every`, `silence` and `open_every` have \
                 to be more than zero",
            ),
            (
                [self.buffer, self.window, self.taken, self.senders].contains(&0),
                "`buffer`, `window`, `taken` and `senders` have to be at least 1",
            ),
        ];
        let first = problems.iter().find(|(is_wrong, _)| *is_wrong);
        first.map_or(Ok(()), |(_, what)| Err(InvalidSettings { what }))
    }
}

/// Settings contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the settings of shards contradict each other: {what}")]
pub struct InvalidSettings {
    /// What is wrong.
    pub what: &'static str,
}
