//! A transfer: a saga, and a persistent entity.
//!
//! It takes the money at one account and brings it to the other, or gives it back if that one does
//! not want it. What comes next follows from its events alone:
//!
//! ```text
//! begun ── taken ── brought: completed
//!   │        └───── not brought ── given back: refused
//!   └── declined: refused
//! ```
//!
//! Each of these events follows the answer of an account, which leaves the account once what it says
//! is durable. So whoever sees the end of a transfer sees it in both balances. A step that was not
//! answered is asked again, with the same content, for as long as it takes: the account decides about
//! it once (see [`account`](crate::account)).

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use perennial::prelude::*;
use serde::{Deserialize, Serialize};

use crate::account::{Account, Decision, LastNumber, Part, Refused, Step};
use crate::money::{AccountId, Cents, TransferId};
use crate::open_transfers::{Enter, Full, Leave, list_of};

/// How long until a step without an answer is asked again.
const AGAIN: Duration = Duration::from_secs(2);

/// The timer of that.
const AGAIN_KEY: &str = "again";

/// A transfer. Its id is the entity's.
#[derive(Debug, Default)]
pub struct Transfer {
    /// `None` until it has begun.
    begun: Option<Begun>,
    stage: Stage,
}

/// What a transfer is about, and what the accounts were like when it began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    terms: Terms,
    /// The number of the last event of the account that pays.
    from_since: u64,
    /// That of the one that is paid.
    to_since: u64,
}

/// From where to where, and how much.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// The account that pays.
    pub from: AccountId,
    /// The account that is paid.
    pub to: AccountId,
    /// How much, in cents.
    pub amount: Cents,
}

/// What a transfer that has begun does next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Taking,
    Bringing,
    GivingBack(Reason),
    Completed,
    Refused(Reason),
}

/// Which account did not want it, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Reason {
    /// The one that pays.
    #[error("from: {0}")]
    From(Refused),
    /// The one that is paid.
    #[error("to: {0}")]
    To(Refused),
}

/// What happened to a transfer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TransferEvent {
    /// It is to be made.
    Begun(Begun),
    /// The money is taken.
    Taken,
    /// There was none to take. The end.
    Declined(Reason),
    /// The money is at the other account. The end.
    Brought,
    /// The other account did not want it.
    NotBrought(Reason),
    /// The money is back. The end.
    GivenBack,
}

/// How it stands with a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransferState {
    /// It goes on.
    Pending,
    /// The money has moved.
    Completed,
    /// The money is where it was.
    Refused(Reason),
}

/// The system, for entities that ask others; there once it has started.
#[derive(Debug, Clone, Default)]
pub struct Bank(Arc<OnceLock<ActorSystem>>);

impl Bank {
    /// Says which system it is.
    pub fn is(&self, system: ActorSystem) {
        // It is said once.
        let _ = self.0.set(system);
    }

    fn system(&self) -> Result<&ActorSystem, AskError> {
        self.0.get().ok_or(AskError::Stopped)
    }

    /// Enters the transfer where it is found after a crash, then tells how many events both accounts
    /// have.
    async fn prepare(&self, id: TransferId, terms: Terms) -> Result<Begun, NotBegun> {
        let system = self.system()?;
        list_of(system, id).ask(Enter(id)).await??;
        let last = async |account: &AccountId| {
            let account = system.entity::<Account>(account.as_str());
            account.ask(LastNumber).await
        };
        Ok(Begun {
            from_since: last(&terms.from).await?,
            to_since: last(&terms.to).await?,
            terms,
        })
    }

    async fn leave(&self, id: TransferId) -> Result<(), AskError> {
        list_of(self.system()?, id).ask(Leave(id)).await
    }

    async fn step(&self, account: AccountId, step: Step) -> Result<Decision, Unanswered> {
        let account = self.system()?.entity::<Account>(account.as_str());
        Ok(account.ask(step).await??)
    }
}

/// Why a step has to be asked again.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error(transparent)]
    Unreadable(#[from] crate::history::Unreadable),
}

impl EventSourced for Transfer {
    const TYPE: &'static str = "Transfer";
    type Event = TransferEvent;
    type Services = Bank;

    fn apply(&mut self, event: &TransferEvent) {
        self.stage = match event {
            TransferEvent::Begun(begun) => {
                self.begun = Some(begun.clone());
                Stage::Taking
            }
            TransferEvent::Taken => Stage::Bringing,
            TransferEvent::Declined(reason) => Stage::Refused(reason.clone()),
            TransferEvent::Brought => Stage::Completed,
            TransferEvent::NotBrought(reason) => Stage::GivingBack(reason.clone()),
            TransferEvent::GivenBack => match std::mem::take(&mut self.stage) {
                Stage::GivingBack(reason) => Stage::Refused(reason),
                other => other,
            },
        };
    }
}

/// The entity type, to be given to the system. One that has ended leaves memory soon.
pub fn entity(bank: Bank) -> Entity<Transfer> {
    Entity::new(bank).passivate_after(Some(Duration::from_secs(10)))
}

/// Begins the transfer. Asked again, it is the same one, for ever.
#[derive(Debug)]
pub struct Begin(pub Terms);

/// Why a transfer has not begun.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum NotBegun {
    /// Its id stands for another one.
    #[error("the Idempotency-Key was used for another transfer")]
    Other,
    /// Too many are under way.
    #[error("too many transfers are under way")]
    Full,
    /// What it needs to know was not answered.
    #[error(transparent)]
    Ask(#[from] AskError),
}

impl From<Full> for NotBegun {
    fn from(_: Full) -> Self {
        Self::Full
    }
}

impl Handle<Begin> for Transfer {
    type Reply = Result<(), NotBegun>;

    fn handle(&self, command: Begin, cx: &Cx<'_, Self>) -> Effect<Self, Self::Reply> {
        if let Some(begun) = &self.begun {
            return cx.reply(if begun.terms == command.0 {
                Ok(())
            } else {
                Err(NotBegun::Other)
            });
        }
        let (bank, id) = (cx.services().clone(), id_of(cx));
        // No other command is handled until it has begun.
        cx.later(
            async move { bank.prepare(id, command.0).await },
            |prepared, _: &Self, cx| match prepared {
                Ok(begun) => cx
                    .persist([TransferEvent::Begun(begun)])
                    .then_run(|_, cx| go_on(cx))
                    .reply(|_| Ok(())),
                Err(error) => cx.reply(Err(error)),
            },
        )
    }
}

/// Tells how it stands, if the transfer has begun.
#[derive(Debug)]
pub struct LookAt;

impl Handle<LookAt> for Transfer {
    type Reply = Option<TransferState>;

    fn handle(&self, _: LookAt, cx: &Cx<'_, Self>) -> Effect<Self, Self::Reply> {
        let state = match &self.stage {
            Stage::Taking | Stage::Bringing | Stage::GivingBack(_) => TransferState::Pending,
            Stage::Completed => TransferState::Completed,
            Stage::Refused(reason) => TransferState::Refused(reason.clone()),
        };
        cx.reply(self.begun.is_some().then_some(state))
    }
}

/// Does what comes next. To be told at any time, as often as one likes.
#[derive(Debug, Clone, Copy)]
pub struct GoOn;

impl Handle<GoOn> for Transfer {
    type Reply = ();

    fn handle(&self, _: GoOn, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        let (bank, transfer) = (cx.services().clone(), id_of(cx));
        let Some(begun) = &self.begun else {
            // Whoever begins it meanwhile waits, and enters it again.
            return leave(bank, transfer, cx);
        };
        let Begun {
            terms: Terms { from, to, amount },
            from_since,
            to_since,
        } = begun.clone();
        let (account, part, since) = match &self.stage {
            Stage::Taking => (from, Part::Take { amount, to }, from_since),
            Stage::Bringing => (to, Part::Bring { amount, from }, to_since),
            Stage::GivingBack(_) => (from, Part::GiveBack, from_since),
            Stage::Completed | Stage::Refused(_) => return leave(bank, transfer, cx),
        };
        // Also if there is no room for the step now.
        cx.timers().start_single(AGAIN_KEY, AGAIN, GoOn);
        let step = Step {
            transfer,
            part,
            since,
        };
        cx.later(
            async move { bank.step(account, step).await },
            |answer, state: &Self, cx| match answer {
                Ok(decision) => state.learn(&decision, cx),
                Err(error) => {
                    let id = cx.entity_id();
                    tracing::info!(transfer = id, %error, "a step is to be asked again");
                    cx.reply(())
                }
            },
        )
        .interleaved()
    }
}

impl Transfer {
    /// What follows from an account's answer. One that was asked for at an earlier stage says nothing
    /// new.
    fn learn(&self, decision: &Decision, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        let event = match (&self.stage, decision) {
            (Stage::Taking, Decision::Taken { .. }) => TransferEvent::Taken,
            (Stage::Taking, Decision::Declined(refused)) => {
                TransferEvent::Declined(Reason::From(refused.clone()))
            }
            (Stage::Bringing, Decision::Brought) => TransferEvent::Brought,
            (Stage::Bringing, Decision::Declined(refused)) => {
                TransferEvent::NotBrought(Reason::To(refused.clone()))
            }
            (Stage::GivingBack(_), Decision::GivenBack) => TransferEvent::GivenBack,
            _ => return cx.reply(()),
        };
        cx.persist([event])
            .then_run(|_, cx| go_on(cx))
            .reply(|_| ())
    }
}

/// What does not reach it now, its timer or the next round makes up for.
fn go_on(cx: &Cx<'_, Transfer>) {
    let _ = cx.myself().tell(GoOn);
}

fn leave(bank: Bank, id: TransferId, cx: &Cx<'_, Transfer>) -> Effect<Transfer, ()> {
    cx.timers().cancel(AGAIN_KEY);
    cx.later(
        async move { bank.leave(id).await },
        // If it did not leave, it is told to go on again.
        |_, _: &Transfer, cx| cx.reply(()),
    )
}

fn id_of(cx: &Cx<'_, Transfer>) -> TransferId {
    let id = cx.entity_id().parse();
    id.expect("transfers are asked for by ids of this form only")
}

#[cfg(test)]
mod tests;
