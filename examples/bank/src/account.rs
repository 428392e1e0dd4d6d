//! An account: a persistent entity.
//!
//! # Transfers at an account
//!
//! A step of a transfer (take, bring, give back) may be asked for again and again: after an unknown
//! outcome, after a crash, by an incarnation of the transfer that is gone. The account decides about
//! it once, also when it declines, in an event that names the transfer; whoever asks again is told
//! that decision.
//!
//! Command ids would not do: they are known for a window of time and number, and a transfer may wait
//! for longer than that while the bank is down. The account itself knows its latest [`DECISIONS`]
//! only, so that its state stays small, and yet holds to its word for ever: every step says how many
//! events the account had when the transfer began (`since`), and any decision about the transfer has
//! a higher number than that. If the account has forgotten none with a higher number, what it does
//! not know it has not decided. Otherwise it looks into its journal from there on, before it handles
//! anything else. Events of accounts are never deleted.

use std::collections::VecDeque;

use perennial::persistence::MessagePack;
use perennial::prelude::*;
use perennial::{Codec, Repeatable};
use serde::{Deserialize, Serialize};

use crate::history::{History, StoredAccountEvent, Unreadable};
use crate::money::{AccountId, Cents, MOST_BALANCE, TransferId};

/// How many decisions about transfers an account knows without looking into its journal.
pub const DECISIONS: usize = 1_000;

/// An account. Its id is the entity's.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Account {
    is_open: bool,
    /// In cents.
    balance: u64,
    /// How many events there are: the number of the last one.
    events: u64,
    /// The number of the last one that opened it or changed the balance.
    changed: u64,
    /// What was decided about transfers, the latest last.
    decisions: VecDeque<Decided>,
    /// The highest number of a decision that is not among them any more.
    forgotten: u64,
}

/// What happened to an account. Amounts are in cents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccountEvent {
    /// It can be used.
    Opened,
    /// Money was paid in.
    Deposited {
        /// How much.
        amount: u64,
    },
    /// Money was paid out.
    Withdrawn {
        /// How much.
        amount: u64,
    },
    /// A deposit or withdrawal with a key was refused. It is stored so that the answer is.
    Refused {
        /// Why.
        reason: Refused,
    },
    /// Money went to a transfer.
    TransferTaken {
        /// Which one.
        transfer: TransferId,
        /// How much.
        amount: u64,
        /// Where it is to go.
        to: String,
    },
    /// Money came from a transfer.
    TransferBrought {
        /// Which one.
        transfer: TransferId,
        /// How much.
        amount: u64,
        /// Where it was taken.
        from: String,
    },
    /// Money that was taken for a transfer came back.
    TransferGivenBack {
        /// Which one.
        transfer: TransferId,
        /// How much.
        amount: u64,
    },
    /// A transfer got nothing, or brought nothing.
    TransferDeclined {
        /// Which one.
        transfer: TransferId,
        /// Why.
        reason: Refused,
    },
}

/// The codec of an account's events.
pub fn codec() -> impl Codec<AccountEvent> {
    MessagePack::new("Account.Event")
}

/// Why an account refuses something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refused {
    /// There is no such account, or not yet.
    #[error("the account is not open")]
    NotOpen,
    /// There is too little.
    #[error("the balance is {balance} cents, less than {amount}")]
    InsufficientFunds {
        /// So much is there.
        balance: u64,
        /// So much was wanted.
        amount: u64,
    },
    /// There would be too much.
    #[error("the balance is {balance} cents, and would be above {MOST_BALANCE} with {amount} more")]
    BalanceLimit {
        /// So much is there.
        balance: u64,
        /// So much was brought.
        amount: u64,
    },
}

/// How it stands with an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// In cents.
    pub balance: u64,
    /// The number of the event that made it so.
    pub sequence_nr: u64,
}

/// What an account has decided about a transfer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decision {
    /// The money was taken.
    Taken {
        /// How much.
        amount: u64,
    },
    /// The money was brought.
    Brought,
    /// The money that was taken was given back.
    GivenBack,
    /// Nothing was taken or brought, and never will be.
    Declined(Refused),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Decided {
    transfer: TransferId,
    decision: Decision,
    /// The number of its event.
    nr: u64,
}

/// What an account knows about a transfer by heart.
#[derive(Debug, PartialEq, Eq)]
enum Known {
    Decided(Decision),
    /// It certainly has not decided.
    Undecided,
    /// Only the journal can tell, up to this number.
    Forgotten(u64),
}

impl AccountEvent {
    /// What the event decides about which transfer.
    pub fn decision(&self) -> Option<(TransferId, Decision)> {
        match self {
            Self::TransferTaken {
                transfer, amount, ..
            } => Some((*transfer, Decision::Taken { amount: *amount })),
            Self::TransferBrought { transfer, .. } => Some((*transfer, Decision::Brought)),
            Self::TransferGivenBack { transfer, .. } => Some((*transfer, Decision::GivenBack)),
            Self::TransferDeclined { transfer, reason } => {
                Some((*transfer, Decision::Declined(reason.clone())))
            }
            Self::Opened
            | Self::Deposited { .. }
            | Self::Withdrawn { .. }
            | Self::Refused { .. } => None,
        }
    }
}

impl EventSourced for Account {
    const TYPE: &'static str = "Account";
    type Event = AccountEvent;
    type Services = History;

    fn apply(&mut self, event: &AccountEvent) {
        self.events += 1;
        match event {
            AccountEvent::Opened => self.is_open = true,
            AccountEvent::Deposited { amount }
            | AccountEvent::TransferBrought { amount, .. }
            | AccountEvent::TransferGivenBack { amount, .. } => self.balance += amount,
            AccountEvent::Withdrawn { amount } | AccountEvent::TransferTaken { amount, .. } => {
                self.balance -= amount;
            }
            AccountEvent::Refused { .. } | AccountEvent::TransferDeclined { .. } => {}
        }
        if !matches!(
            event,
            AccountEvent::Refused { .. } | AccountEvent::TransferDeclined { .. }
        ) {
            self.changed = self.events;
        }
        if let Some((transfer, decision)) = event.decision() {
            self.remember(transfer, decision);
        }
    }
}

impl Account {
    fn remember(&mut self, transfer: TransferId, decision: Decision) {
        // What was taken and is given back is decided anew.
        self.decisions.retain(|known| known.transfer != transfer);
        self.decisions.push_back(Decided {
            transfer,
            decision,
            nr: self.events,
        });
        if self.decisions.len() > DECISIONS
            && let Some(oldest) = self.decisions.pop_front()
        {
            self.forgotten = oldest.nr;
        }
    }

    fn recall(&self, transfer: TransferId, since: u64) -> Known {
        let mut latest_first = self.decisions.iter().rev();
        match latest_first.find(|known| known.transfer == transfer) {
            Some(known) => Known::Decided(known.decision.clone()),
            None if self.forgotten > since => Known::Forgotten(self.forgotten),
            None => Known::Undecided,
        }
    }

    fn standing(&self) -> Standing {
        Standing {
            balance: self.balance,
            sequence_nr: self.changed,
        }
    }

    fn may_take(&self, amount: u64) -> Result<(), Refused> {
        self.must_be_open()?;
        let balance = self.balance;
        if amount > balance {
            return Err(Refused::InsufficientFunds { balance, amount });
        }
        Ok(())
    }

    fn may_bring(&self, amount: u64) -> Result<(), Refused> {
        self.must_be_open()?;
        let balance = self.balance;
        if balance + amount > MOST_BALANCE {
            return Err(Refused::BalanceLimit { balance, amount });
        }
        Ok(())
    }

    fn must_be_open(&self) -> Result<(), Refused> {
        if self.is_open {
            Ok(())
        } else {
            Err(Refused::NotOpen)
        }
    }
}

/// Opens the account, if it is not.
#[derive(Debug)]
pub struct Open;

/// An account that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Whether it was not before.
    pub is_new: bool,
    /// How it stands.
    pub standing: Standing,
}

impl Handle<Open> for Account {
    type Reply = Opened;

    fn handle(&self, _: Open, cx: &Cx<'_, Self>) -> Effect<Self, Opened> {
        if self.is_open {
            return cx.reply(Opened {
                is_new: false,
                standing: self.standing(),
            });
        }
        cx.persist([AccountEvent::Opened]).reply(|account| Opened {
            is_new: true,
            standing: account.standing(),
        })
    }
}

/// Tells how it stands, if the account is open.
#[derive(Debug)]
pub struct Look;

impl Handle<Look> for Account {
    type Reply = Option<Standing>;

    fn handle(&self, _: Look, cx: &Cx<'_, Self>) -> Effect<Self, Self::Reply> {
        cx.reply(self.is_open.then(|| self.standing()))
    }
}

/// Pays money in.
#[derive(Debug, Clone, Serialize)]
pub struct Deposit {
    /// How much.
    pub amount: Cents,
    /// Whether it is asked with an id, under which a refusal has to be found as well.
    #[serde(skip)]
    pub has_key: bool,
}

/// Pays money out.
#[derive(Debug, Clone, Serialize)]
pub struct Withdraw {
    /// How much.
    pub amount: Cents,
    /// As [`Deposit::has_key`].
    #[serde(skip)]
    pub has_key: bool,
}

// Stored with each request that has a key, so not to be changed.
impl Repeatable for Deposit {
    const NAME: &'static str = "Deposit";
}

impl Repeatable for Withdraw {
    const NAME: &'static str = "Withdraw";
}

impl Handle<Deposit> for Account {
    type Reply = Result<Standing, Refused>;

    fn handle(&self, command: Deposit, cx: &Cx<'_, Self>) -> Effect<Self, Self::Reply> {
        let amount = command.amount.value();
        match self.may_bring(amount) {
            Ok(()) => changed(AccountEvent::Deposited { amount }, cx),
            Err(refused) => not_changed(refused, command.has_key, cx),
        }
    }
}

impl Handle<Withdraw> for Account {
    type Reply = Result<Standing, Refused>;

    fn handle(&self, command: Withdraw, cx: &Cx<'_, Self>) -> Effect<Self, Self::Reply> {
        let amount = command.amount.value();
        match self.may_take(amount) {
            Ok(()) => changed(AccountEvent::Withdrawn { amount }, cx),
            Err(refused) => not_changed(refused, command.has_key, cx),
        }
    }
}

type Change = Effect<Account, Result<Standing, Refused>>;

fn changed(event: AccountEvent, cx: &Cx<'_, Account>) -> Change {
    cx.persist([event]).reply(|account| Ok(account.standing()))
}

/// An account that is not there has nothing to keep an answer with.
fn not_changed(refused: Refused, has_key: bool, cx: &Cx<'_, Account>) -> Change {
    if !has_key || refused == Refused::NotOpen {
        return cx.reply(Err(refused));
    }
    let reason = refused.clone();
    cx.persist([AccountEvent::Refused { reason }])
        .reply(|_| Err(refused))
}

/// Tells the number of the last event: a transfer that begins then is decided about later.
#[derive(Debug)]
pub struct LastNumber;

impl Handle<LastNumber> for Account {
    type Reply = u64;

    fn handle(&self, _: LastNumber, cx: &Cx<'_, Self>) -> Effect<Self, u64> {
        cx.reply(self.events)
    }
}

/// A step of a transfer at an account, see [the module](self).
#[derive(Debug, Clone)]
pub struct Step {
    /// Whose.
    pub transfer: TransferId,
    /// What is to be done.
    pub part: Part,
    /// What [`LastNumber`] told before the transfer began.
    pub since: u64,
}

/// What a transfer has to do at an account.
#[derive(Debug, Clone)]
pub enum Part {
    /// Take money.
    Take {
        /// How much.
        amount: Cents,
        /// Where it is to go.
        to: AccountId,
    },
    /// Bring money.
    Bring {
        /// How much.
        amount: Cents,
        /// Where it was taken.
        from: AccountId,
    },
    /// Give back what was taken.
    GiveBack,
}

impl Handle<Step> for Account {
    type Reply = Result<Decision, Unreadable>;

    fn handle(&self, step: Step, cx: &Cx<'_, Self>) -> Effect<Self, Self::Reply> {
        match self.recall(step.transfer, step.since) {
            Known::Decided(decision) => self.decide(step, Some(decision), cx),
            Known::Undecided => self.decide(step, None, cx),
            Known::Forgotten(to) => {
                let id = cx.persistence_id().clone();
                let history = cx.services().clone();
                let (transfer, since) = (step.transfer, step.since);
                let found = async move { history.decision(&id, transfer, since, to).await };
                // Nothing else is handled meanwhile, so what is found is what there is.
                cx.later(found, move |found, account: &Self, cx| match found {
                    Ok(decision) => account.decide(step, decision, cx),
                    Err(unreadable) => cx.reply(Err(unreadable)),
                })
            }
        }
    }
}

impl Account {
    /// `before` is what was decided already.
    fn decide(
        &self,
        step: Step,
        before: Option<Decision>,
        cx: &Cx<'_, Self>,
    ) -> Effect<Self, Result<Decision, Unreadable>> {
        let transfer = step.transfer;
        let event = match (step.part, before) {
            // Taken, it may be given back, once.
            (Part::GiveBack, Some(Decision::Taken { amount })) => {
                AccountEvent::TransferGivenBack { transfer, amount }
            }
            (_, Some(decision)) => return cx.reply(Ok(decision)),
            (Part::Take { amount, to }, None) => match self.may_take(amount.value()) {
                Ok(()) => AccountEvent::TransferTaken {
                    transfer,
                    amount: amount.value(),
                    to: to.as_str().to_owned(),
                },
                Err(reason) => AccountEvent::TransferDeclined { transfer, reason },
            },
            (Part::Bring { amount, from }, None) => match self.may_bring(amount.value()) {
                Ok(()) => AccountEvent::TransferBrought {
                    transfer,
                    amount: amount.value(),
                    from: from.as_str().to_owned(),
                },
                Err(reason) => AccountEvent::TransferDeclined { transfer, reason },
            },
            // Nothing was taken, which a transfer that gives back knows better.
            (Part::GiveBack, None) => return cx.unhandled(),
        };
        let decision = event.decision().map(|(_, decision)| decision);
        let decision = decision.expect("each of these events decides about a transfer");
        cx.persist([event]).reply(|_| Ok(decision))
    }
}

/// Gives events of the account, if it is open.
#[derive(Debug)]
pub struct Events {
    /// After this number.
    pub after: u64,
    /// So many at the most.
    pub limit: usize,
}

/// A page of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// In order.
    pub events: Vec<StoredAccountEvent>,
    /// Whether there are more.
    pub more: bool,
}

impl Handle<Events> for Account {
    type Reply = Result<Option<Page>, Unreadable>;

    fn handle(&self, command: Events, cx: &Cx<'_, Self>) -> Effect<Self, Self::Reply> {
        if !self.is_open {
            return cx.reply(Ok(None));
        }
        let id = cx.persistence_id().clone();
        let history = cx.services().clone();
        let page = async move { history.page(&id, command.after, command.limit).await };
        cx.later(page, |page, _: &Self, cx| cx.reply(page.map(Some)))
            .interleaved()
    }
}

#[cfg(test)]
mod tests;
