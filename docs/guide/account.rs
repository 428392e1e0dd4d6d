use std::sync::{Arc, Mutex};
use std::time::Duration;

use perennial::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Account {
    pub balance: i64,
    pub open: bool,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum AccountEvent {
    Opened,
    Deposited(i64),
    Withdrawn(i64),
    FeeTaken(i64),
}

/// Sends letters.
pub trait Post: Send + Sync {
    fn send(&self, letter: String);
}

impl EventSourced for Account {
    const TYPE: &'static str = "Account";
    type Event = AccountEvent;
    type Services = Arc<dyn Post>;

    fn apply(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Opened => self.open = true,
            AccountEvent::Deposited(cents) => self.balance += cents,
            AccountEvent::Withdrawn(cents) | AccountEvent::FeeTaken(cents) => self.balance -= cents,
        }
    }
}

/// Opens the account; it costs a fee every thirty days.
pub struct Open;

impl Handle<Open> for Account {
    type Reply = ();

    fn handle(&self, _: Open, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        let month = Duration::from_secs(30 * 24 * 60 * 60);
        cx.timers().start_repeated("fee", month, TakeFee);
        cx.persist([AccountEvent::Opened])
            .then_unstash_all()
            .reply(|_| ())
    }
}

#[derive(Clone)]
pub struct TakeFee;

impl Handle<TakeFee> for Account {
    type Reply = ();

    fn handle(&self, _: TakeFee, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        cx.persist([AccountEvent::FeeTaken(1)]).no_reply()
    }
}

/// Waits until the account is open.
pub struct Deposit(pub i64);

impl Handle<Deposit> for Account {
    type Reply = i64;

    fn handle(&self, command: Deposit, cx: &Cx<'_, Self>) -> Effect<Self, i64> {
        if !self.open {
            return cx.stash(command);
        }
        cx.persist([AccountEvent::Deposited(command.0)])
            .reply(|account| account.balance)
    }
}

pub struct Withdraw(pub i64);

#[derive(Debug, PartialEq)]
pub struct TooMuch;

impl Handle<Withdraw> for Account {
    type Reply = Result<i64, TooMuch>;

    fn handle(&self, command: Withdraw, cx: &Cx<'_, Self>) -> Effect<Self, Self::Reply> {
        if command.0 > self.balance {
            return cx.reply(Err(TooMuch));
        }
        cx.persist([AccountEvent::Withdrawn(command.0)])
            .then_run(|account, cx| {
                if account.balance == 0 {
                    cx.services().send(format!("{} is empty", cx.entity_id()));
                }
            })
            .reply(|account| Ok(account.balance))
    }
}

/// A post for tests: it keeps the letters.
#[derive(Default)]
pub struct Letters(pub Mutex<Vec<String>>);

impl Post for Letters {
    fn send(&self, letter: String) {
        self.0.lock().expect("nobody panics with it").push(letter);
    }
}
