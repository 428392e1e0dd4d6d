//! What the service does, whatever the way to it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use perennial::CommandId;
use perennial::persistence::{PersistenceId, SliceRange};
use perennial::prelude::*;
use serde::Serialize;
use web_common::problem::Problem;

use crate::account::{
    Account, AccountEvent, Deposit, Events, Look, Open, Opened, Refused, Standing, Withdraw,
};
use crate::history::{StoredAccountEvent, Unreadable};
use crate::money::{AccountId, Cents, TransferId};
use crate::transfer::{Begin, LookAt, NotBegun, Terms, Transfer, TransferState};

/// The requests that the service answers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Api {
    system: ActorSystem,
    /// Ids of [`Probe`]s.
    probes: Arc<[String]>,
}

/// An account, as it is shown. Amounts are in cents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShownAccount {
    /// Which one.
    pub id: AccountId,
    /// What is in it.
    pub balance: u64,
    /// The number of the event that made it so, from 1.
    pub sequence_nr: u64,
}

/// A transfer that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Accepted {
    /// Its id.
    pub id: TransferId,
}

/// How it stands with a transfer, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShownTransfer {
    /// `pending`, `completed` or `refused`.
    pub state: &'static str,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// An event of an account, as it is shown. Amounts are in cents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShownEvent {
    /// Its number, from 1 without a gap.
    pub sequence_nr: u64,
    /// When it was stored: UTC, as in RFC 3339.
    pub time: String,
    /// What kind it is.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// How much.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount: Option<u64>,
    /// Of which transfer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transfer: Option<TransferId>,
    /// From which account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// To which account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Events of an account, as they are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownEvents {
    /// In order.
    pub events: Vec<ShownEvent>,
    /// After which number there are more.
    pub next: Option<u64>,
}

impl Api {
    /// The most events that are shown at once.
    pub const MOST_EVENTS: usize = 1_000;
    /// How many are shown if nothing is said.
    pub const EVENTS: usize = 100;
    /// How long it may take to find out whether asks are served.
    const READY_WITHIN: Duration = Duration::from_secs(1);

    /// On a system that has started.
    pub fn new(system: ActorSystem) -> Self {
        let probes = Probe::one_in_each_part().into();
        Self { system, probes }
    }

    fn account(&self, id: &AccountId) -> EntityRef<Account> {
        self.system.entity(id.as_str())
    }

    /// Opens an account, and says whether it was not open before.
    ///
    /// # Errors
    /// A [`Problem`].
    pub async fn open(&self, id: AccountId) -> Result<(bool, ShownAccount), Problem> {
        let Opened { is_new, standing } = self.account(&id).ask(Open).await?;
        Ok((is_new, shown(id, standing)))
    }

    /// Tells how it stands with an account.
    ///
    /// # Errors
    /// A [`Problem`].
    pub async fn account_of(&self, id: AccountId) -> Result<ShownAccount, Problem> {
        let standing = self.account(&id).ask(Look).await?;
        Ok(shown(id, standing.ok_or(Refused::NotOpen)?))
    }

    /// Pays in.
    ///
    /// # Errors
    /// A [`Problem`].
    pub async fn deposit(
        &self,
        id: AccountId,
        amount: Cents,
        key: Option<CommandId>,
    ) -> Result<ShownAccount, Problem> {
        let has_key = key.is_some();
        let ask = self.account(&id).ask(Deposit { amount, has_key });
        let standing = match key {
            Some(key) => ask.command_id(key).await,
            None => ask.await,
        };
        Ok(shown(id, standing??))
    }

    /// Pays out.
    ///
    /// # Errors
    /// A [`Problem`].
    pub async fn withdraw(
        &self,
        id: AccountId,
        amount: Cents,
        key: Option<CommandId>,
    ) -> Result<ShownAccount, Problem> {
        let has_key = key.is_some();
        let ask = self.account(&id).ask(Withdraw { amount, has_key });
        let standing = match key {
            Some(key) => ask.command_id(key).await,
            None => ask.await,
        };
        Ok(shown(id, standing??))
    }

    /// Up to `limit` events of an account after number `after`.
    ///
    /// # Errors
    /// A [`Problem`].
    pub async fn events(
        &self,
        id: AccountId,
        after: u64,
        limit: usize,
    ) -> Result<ShownEvents, Problem> {
        let page = self.account(&id).ask(Events { after, limit }).await??;
        let page = page.ok_or(Refused::NotOpen)?;
        let last = page.events.last().map(|event| event.sequence_nr);
        Ok(ShownEvents {
            events: page.events.into_iter().map(ShownEvent::from).collect(),
            next: last.filter(|_| page.more),
        })
    }

    /// Begins a transfer. The id is that of the key, or a new one.
    ///
    /// # Errors
    /// A [`Problem`].
    pub async fn transfer(
        &self,
        terms: Terms,
        key: Option<CommandId>,
    ) -> Result<Accepted, Problem> {
        if terms.from == terms.to {
            let detail = "`from` and `to` are the same account";
            return Err(Problem::unreadable(400, detail));
        }
        let id = key.map_or_else(TransferId::random, |key| TransferId::of_key(&key));
        let transfer = self.system.entity::<Transfer>(id.to_string());
        transfer.ask(Begin(terms)).await??;
        Ok(Accepted { id })
    }

    /// Tells how it stands with a transfer.
    ///
    /// # Errors
    /// A [`Problem`].
    pub async fn transfer_of(&self, id: TransferId) -> Result<ShownTransfer, Problem> {
        let transfer = self.system.entity::<Transfer>(id.to_string());
        let (state, reason) = match transfer.ask(LookAt).await? {
            None => return Err(no_transfer()),
            Some(TransferState::Pending) => ("pending", None),
            Some(TransferState::Completed) => ("completed", None),
            Some(TransferState::Refused(reason)) => ("refused", Some(reason.to_string())),
        };
        Ok(ShownTransfer { state, reason })
    }

    /// Whether asks are served: entities that are not in memory, one in each part of the slices so that
    /// all workers have some, are brought back and answer within a second.
    ///
    /// # Errors
    /// A [`Problem`] that says why not.
    pub async fn ready(&self) -> Result<(), Problem> {
        let answers = self.probes.iter().map(|id| {
            let probe = self.system.entity::<Probe>(id);
            async move { probe.ask(Answer).timeout(Self::READY_WITHIN).await }
        });
        match try_join_all(answers).await {
            Ok(_) => Ok(()),
            Err(error) => Err(Problem::new(503, "not-ready", error)),
        }
    }
}

fn shown(id: AccountId, standing: Standing) -> ShownAccount {
    ShownAccount {
        id,
        balance: standing.balance,
        sequence_nr: standing.sequence_nr,
    }
}

/// There is no transfer with the id.
pub fn no_transfer() -> Problem {
    Problem::new(404, "no-transfer", "there is no transfer with this id")
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NotOpen => Self::new(404, "not-open", refused),
            Refused::InsufficientFunds { .. } => Self::refused("insufficient-funds", refused),
            Refused::BalanceLimit { .. } => Self::refused("balance-limit", refused),
        }
    }
}

impl From<Unreadable> for Problem {
    fn from(error: Unreadable) -> Self {
        Self::busy(error, Duration::from_secs(1))
    }
}

impl From<NotBegun> for Problem {
    fn from(error: NotBegun) -> Self {
        match error {
            NotBegun::Other => Self::new(422, "key-reused", error)
                .hint("the Idempotency-Key belongs to another request; take a new one"),
            NotBegun::Full => Self::busy(error, Duration::from_secs(1)),
            NotBegun::Ask(error) => error.into(),
        }
    }
}

impl From<StoredAccountEvent> for ShownEvent {
    fn from(stored: StoredAccountEvent) -> Self {
        let mut shown = Self {
            sequence_nr: stored.sequence_nr,
            time: stored.time.to_string(),
            kind: "opened",
            amount: None,
            transfer: None,
            from: None,
            to: None,
            reason: None,
        };
        match stored.event {
            AccountEvent::Opened => {}
            AccountEvent::Deposited { amount } => {
                shown.kind = "deposited";
                shown.amount = Some(amount);
            }
            AccountEvent::Withdrawn { amount } => {
                shown.kind = "withdrawn";
                shown.amount = Some(amount);
            }
            AccountEvent::Refused { reason } => {
                shown.kind = "refused";
                shown.reason = Some(reason.to_string());
            }
            AccountEvent::TransferTaken {
                transfer,
                amount,
                to,
            } => {
                shown.kind = "transfer-taken";
                shown.transfer = Some(transfer);
                shown.amount = Some(amount);
                shown.to = Some(to);
            }
            AccountEvent::TransferBrought {
                transfer,
                amount,
                from,
            } => {
                shown.kind = "transfer-brought";
                shown.transfer = Some(transfer);
                shown.amount = Some(amount);
                shown.from = Some(from);
            }
            AccountEvent::TransferGivenBack { transfer, amount } => {
                shown.kind = "transfer-given-back";
                shown.transfer = Some(transfer);
                shown.amount = Some(amount);
            }
            AccountEvent::TransferDeclined { transfer, reason } => {
                shown.kind = "transfer-declined";
                shown.transfer = Some(transfer);
                shown.reason = Some(reason.to_string());
            }
        }
        shown
    }
}

/// An entity that is never in memory for long, so that each answer of it needs the store.
#[derive(Debug, Default)]
pub struct Probe;

impl EventSourced for Probe {
    const TYPE: &'static str = "Probe";
    type Event = ();
    type Services = ();

    fn apply(&mut self, (): &()) {}
}

impl Probe {
    /// In so many parts all slices are looked at.
    const PARTS: u16 = 16;

    fn one_in_each_part() -> Vec<String> {
        let parts = SliceRange::partition(Self::PARTS).expect("a power of two");
        let in_part = |part: SliceRange| {
            let mut ids = (0_u32..).map(|number| number.to_string());
            ids.find(|id| {
                let id = PersistenceId::new(Self::TYPE, id).expect("a valid id");
                part.contains(id.slice())
            })
        };
        parts.into_iter().filter_map(in_part).collect()
    }
}

/// Answers.
#[derive(Debug)]
pub struct Answer;

impl Handle<Answer> for Probe {
    type Reply = ();

    fn handle(&self, _: Answer, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        cx.stop().reply(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_probe_in_each_part() {
        let probes = Probe::one_in_each_part();
        assert_eq!(probes.len(), usize::from(Probe::PARTS));
    }
}
