use std::sync::Arc;

use perennial::testkit::Spec;

use super::*;
use crate::money::MOST_CENTS;

fn cents(cents: u64) -> Cents {
    Cents::new(cents).expect("an amount")
}

fn transfer(number: u64) -> TransferId {
    format!("{number:032x}").parse().expect("an id")
}

fn other() -> AccountId {
    AccountId::new("other").expect("an id")
}

/// An account that can read its journal.
fn account() -> Spec<Account> {
    let history = History::default();
    let entity = Entity::with_event_codec(history.clone(), codec()).snapshot_every(300);
    let spec = Spec::of(entity);
    history.is(Arc::new(spec.store().open_again()));
    spec
}

fn open_with(balance: u64) -> Spec<Account> {
    let mut account = account();
    account.when(Open);
    if balance > 0 {
        let amount = cents(balance);
        let has_key = false;
        account.when(Deposit { amount, has_key });
    }
    account
}

fn take(number: u64, amount: u64, since: u64) -> Step {
    let (amount, to) = (cents(amount), other());
    Step {
        transfer: transfer(number),
        part: Part::Take { amount, to },
        since,
    }
}

fn bring(number: u64, amount: u64, since: u64) -> Step {
    let (amount, from) = (cents(amount), other());
    Step {
        transfer: transfer(number),
        part: Part::Bring { amount, from },
        since,
    }
}

fn give_back(number: u64, since: u64) -> Step {
    Step {
        transfer: transfer(number),
        part: Part::GiveBack,
        since,
    }
}

fn decision(account: &mut Spec<Account>, step: Step) -> Decision {
    let outcome = account.when(step);
    outcome.reply().clone().expect("the journal is readable")
}

fn balance(account: &mut Spec<Account>) -> u64 {
    account.state().balance
}

#[test]
fn a_step_is_taken_once_however_often_it_is_asked_for() {
    let mut account = open_with(100);
    for _ in 0..3 {
        let taken = Decision::Taken { amount: 30 };
        assert_eq!(decision(&mut account, take(1, 30, 2)), taken);
        assert_eq!(balance(&mut account), 70);
    }
    for _ in 0..3 {
        assert_eq!(decision(&mut account, bring(2, 5, 2)), Decision::Brought);
        assert_eq!(balance(&mut account), 75);
    }
    for _ in 0..3 {
        let given_back = decision(&mut account, give_back(1, 2));
        assert_eq!(given_back, Decision::GivenBack);
        assert_eq!(balance(&mut account), 105);
        // One that was under way for long comes too late.
        let late = decision(&mut account, take(1, 30, 2));
        assert_eq!(late, Decision::GivenBack);
        account.crash();
    }
    assert_eq!(account.stored_events().len(), 5);
}

#[test]
fn what_was_declined_once_is_declined_for_ever() {
    let mut account = account();
    let not_open = Decision::Declined(Refused::NotOpen);
    assert_eq!(decision(&mut account, take(1, 30, 0)), not_open);
    assert_eq!(decision(&mut account, bring(2, 30, 0)), not_open);
    assert!(!account.state().is_open);
    account.when(Open);
    account.when(Deposit {
        amount: cents(100),
        has_key: false,
    });
    // By now it could be done, but the transfer may have ended as refused.
    assert_eq!(decision(&mut account, take(1, 30, 0)), not_open);
    assert_eq!(decision(&mut account, bring(2, 30, 0)), not_open);
    let (balance, amount) = (100, 101);
    let too_little = Decision::Declined(Refused::InsufficientFunds { balance, amount });
    assert_eq!(decision(&mut account, take(3, 101, 4)), too_little);
    assert_eq!(account.state().balance, 100);
    let unhandled = account.when(give_back(9, 4));
    assert!(unhandled.is_unhandled());
}

#[test]
fn a_decision_that_it_does_not_know_by_heart_is_found_in_the_journal() {
    let mut account = open_with(MOST_CENTS);
    let since = 2;
    let most = u64::try_from(DECISIONS).expect("a small number");
    decision(&mut account, take(1, 7, since));
    decision(&mut account, take(2, 9, since));
    for number in 3..=most {
        decision(&mut account, take(number, 1, since));
    }
    // It knows all of them, and that the others are none.
    assert_eq!(account.state().forgotten, 0);
    assert_eq!(account.state().decisions.len(), DECISIONS);
    let known = account.state().recall(transfer(1), since);
    assert_eq!(known, Known::Decided(Decision::Taken { amount: 7 }));
    assert_eq!(account.state().recall(transfer(0), since), Known::Undecided);

    decision(&mut account, take(most + 1, 1, since));
    assert_eq!(account.state().decisions.len(), DECISIONS);
    // The number of the event that decided about transfer 1.
    assert_eq!(account.state().forgotten, 3);
    let recall = |account: &mut Spec<Account>, since| account.state().recall(transfer(1), since);
    assert_eq!(recall(&mut account, since), Known::Forgotten(3));
    // A transfer that began after that number cannot be the one that was forgotten.
    assert_eq!(recall(&mut account, 3), Known::Undecided);

    let before = balance(&mut account);
    let again = decision(&mut account, take(1, 7, since));
    assert_eq!(again, Decision::Taken { amount: 7 });
    assert_eq!(balance(&mut account), before);
    // One that began as long ago and was not decided about is decided now.
    let new = decision(&mut account, take(0, 5, since));
    assert_eq!(new, Decision::Taken { amount: 5 });
    assert_eq!(balance(&mut account), before - 5);
    // What is found is also given back, once.
    for _ in 0..2 {
        let back = decision(&mut account, give_back(1, since));
        assert_eq!(back, Decision::GivenBack);
        assert_eq!(balance(&mut account), before - 5 + 7);
    }
    // Long after that too.
    for number in 0..most {
        decision(&mut account, bring(1_000_000 + number, 1, 900));
    }
    account.crash();
    let before = balance(&mut account);
    let late = decision(&mut account, take(1, 7, since));
    assert_eq!(late, Decision::GivenBack);
    let late = decision(&mut account, take(2, 9, since));
    assert_eq!(late, Decision::Taken { amount: 9 });
    assert_eq!(balance(&mut account), before);
}

#[test]
fn a_journal_that_cannot_be_read_decides_nothing() {
    let entity = Entity::with_event_codec(History::default(), codec());
    let mut account = Spec::of(entity);
    account.when(Open);
    for number in 0..=u64::try_from(DECISIONS).expect("a small number") {
        decision(&mut account, bring(number, 1, 1));
    }
    let before = balance(&mut account);
    let outcome = account.when(bring(0, 1, 1));
    let unreadable = outcome.reply().clone().expect_err("there is no store");
    assert!(unreadable.to_string().ends_with("the store is not open"));
    assert_eq!(balance(&mut account), before);
}

#[test]
fn a_balance_has_two_ends() {
    let mut account = open_with(MOST_CENTS);
    let withdraw = |cents_: u64| Withdraw {
        amount: cents(cents_),
        has_key: false,
    };
    let deposit = |cents_: u64| Deposit {
        amount: cents(cents_),
        has_key: false,
    };
    for _ in 1..MOST_BALANCE / MOST_CENTS {
        let standing = account.when(deposit(MOST_CENTS)).reply().clone();
        assert!(standing.is_ok());
    }
    assert_eq!(balance(&mut account), MOST_BALANCE);
    let (balance, amount) = (MOST_BALANCE, 1);
    let full = Refused::BalanceLimit { balance, amount };
    assert_eq!(account.when(deposit(1)).reply(), &Err(full.clone()));
    let declined = decision(&mut account, bring(1, 1, 0));
    assert_eq!(declined, Decision::Declined(full));
    // What comes back is taken all the same.
    decision(&mut account, take(2, MOST_CENTS, 0));
    let standing = account.when(deposit(MOST_CENTS)).reply().clone();
    assert_eq!(standing.map(|standing| standing.balance), Ok(MOST_BALANCE));
    decision(&mut account, give_back(2, 0));
    assert_eq!(account.state().balance, MOST_BALANCE + MOST_CENTS);

    let mut account = open_with(5);
    let (balance, amount) = (5, 6);
    let too_little = Refused::InsufficientFunds { balance, amount };
    assert_eq!(account.when(withdraw(6)).reply(), &Err(too_little));
    assert!(account.when(withdraw(5)).reply().is_ok());
    assert_eq!(account.state().balance, 0);
}

#[test]
fn a_refusal_is_stored_if_it_has_a_key_and_shown_in_no_balance() {
    let mut account = open_with(5);
    let withdraw = |has_key| Withdraw {
        amount: cents(6),
        has_key,
    };
    assert!(account.when(withdraw(false)).stored().is_empty());
    let refused = account.when(withdraw(true));
    assert_eq!(refused.stored().len(), 1);
    let standing = *account.when(Look).reply();
    let (balance, sequence_nr) = (5, 2);
    let expected = Standing {
        balance,
        sequence_nr,
    };
    assert_eq!(standing, Some(expected));
    // An account that is not there keeps nothing.
    let mut nobody = self::account();
    assert!(nobody.when(withdraw(true)).stored().is_empty());
    assert_eq!(nobody.when(Look).reply(), &None);
}

#[test]
fn events_are_read_in_pages() {
    let mut account = open_with(5);
    for number in 0..600 {
        decision(&mut account, bring(number, 1, 2));
    }
    let page = |account: &mut Spec<Account>, after, limit| {
        let page = account.when(Events { after, limit }).reply().clone();
        let page = page.expect("readable").expect("open");
        let numbers: Vec<_> = page.events.iter().map(|event| event.sequence_nr).collect();
        (numbers, page.more)
    };
    assert_eq!(page(&mut account, 0, 2), (vec![1, 2], true));
    assert_eq!(page(&mut account, 600, 2), (vec![601, 602], false));
    assert_eq!(page(&mut account, 602, 2), (vec![], false));
    assert_eq!(page(&mut account, u64::MAX, 2), (vec![], false));
    // More than the journal gives at once.
    assert_eq!(page(&mut account, 0, 601), ((1..=601).collect(), true));
    assert_eq!(page(&mut account, 1, 1_000), ((2..=602).collect(), false));
}
