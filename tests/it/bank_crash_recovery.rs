//! The bank, killed at random moments, neither makes nor loses money, and every transfer ends.
//!
//! `PERENNIAL_TEST_KILLS` is the number of rounds on each database, 3 by default. In a round clients
//! send deposits, withdrawals and transfers, each again with its key until it is answered, while the
//! bank is killed and started again four times, the last time when they have just stopped. Then the
//! rows of the journal are read and compared with what the clients were told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use perennial_it::{number_from, until};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::bank_service::{Answer, Service};

const ACCOUNTS: [&str; 5] = ["ann", "bob", "cem", "dan", "eve"];
/// An account that is never opened.
const NOBODY: &str = "nobody";
const CLIENTS: u64 = 8;
const KILLS: u64 = 4;

#[test]
fn killed_on_sqlite_it_keeps_all_money() {
    check("sqlite", Service::on_sqlite);
}

#[test]
fn killed_on_postgres_it_keeps_all_money() {
    check("postgres", Service::on_postgres);
}

/// What a client was told.
#[derive(Debug, Default)]
struct Told {
    /// Cents by account: what was paid in less what was paid out.
    paid: BTreeMap<&'static str, i64>,
    /// Transfers that were accepted.
    transfers: Vec<Transfer>,
    refusals: u64,
}

#[derive(Debug, Clone)]
struct Transfer {
    id: String,
    from: &'static str,
    to: &'static str,
    amount: i64,
}

fn check(database: &str, place: impl Fn() -> Service) {
    let mut ends = BTreeMap::new();
    let mut open_at_kills = 0;
    for seed in 0..number_from("PERENNIAL_TEST_KILLS", 3) {
        let round = format!("{database}, seed {seed}");
        let bank = place();
        bank.start();
        for account in ACCOUNTS {
            bank.put(&format!("/accounts/{account}")).ok(201);
        }
        let mut random = StdRng::seed_from_u64(seed);
        let stop = AtomicBool::new(false);
        let answered = AtomicU64::new(0);
        let told: Vec<Told> = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|client| {
                    let (bank, stop, answered) = (&bank, &stop, &answered);
                    scope.spawn(move || drive(bank, seed, client, stop, answered))
                })
                .collect();
            for kill in 1..=KILLS {
                // Any moment after there was something to lose.
                let before = answered.load(Ordering::Relaxed);
                until("requests are answered", || {
                    answered.load(Ordering::Relaxed) >= before + 2 * CLIENTS
                });
                std::thread::sleep(Duration::from_millis(300).mul_f64(random.random()));
                if kill == KILLS {
                    stop.store(true, Ordering::Relaxed);
                }
                bank.kill();
                bank.start();
            }
            let told = clients.into_iter().map(|client| client.join());
            told.map(|told| told.expect("no panic")).collect()
        });
        // Once more, with nobody there to ask for anything, and transfers under way.
        bank.kill();
        open_at_kills += open(&bank);
        bank.start();
        until("all transfers end by themselves", || open(&bank) == 0);
        let transfers: Vec<_> = told.iter().flat_map(|told| &told.transfers).collect();
        for transfer in &transfers {
            let end = bank.get(&format!("/transfers/{}", transfer.id)).ok(200);
            let state = end["state"].as_str().expect("a state").to_owned();
            assert!(
                ["completed", "refused"].contains(&&*state),
                "{round}: {transfer:?} is {end}"
            );
            *ends.entry(state).or_insert(0) += 1;
        }
        compare(&bank, &told, &round);
        let ended = bank.terminate();
        assert_eq!(ended.code, Some(0), "{round}: {}{}", ended.out, ended.said);
    }
    println!("{database}: {ends:?}, {open_at_kills} under way at the last kill");
    assert!(
        ends.contains_key("completed") && ends.contains_key("refused"),
        "{ends:?}"
    );
}

/// One client: sends one request after the other, each until it is answered.
fn drive(bank: &Service, seed: u64, client: u64, stop: &AtomicBool, answered: &AtomicU64) -> Told {
    let mut random = StdRng::seed_from_u64(seed << 32 | client);
    let mut told = Told::default();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("{client}-{number}");
        let amount = random.random_range(1..=100);
        let account = ACCOUNTS[random.random_range(0..ACCOUNTS.len())];
        match random.random_range(0..10) {
            0..3 => {
                let path = format!("/accounts/{account}/deposits");
                let answer = insist(bank, &path, &key, &json!({ "amount": amount }));
                answer.ok(200);
                *told.paid.entry(account).or_default() += amount;
            }
            3..5 => {
                let path = format!("/accounts/{account}/withdrawals");
                let answer = insist(bank, &path, &key, &json!({ "amount": amount }));
                if answer.status == 409 {
                    told.refusals += 1;
                } else {
                    answer.ok(200);
                    *told.paid.entry(account).or_default() -= amount;
                }
            }
            kind => {
                let other = ACCOUNTS[random.random_range(0..ACCOUNTS.len())];
                let (from, to) = match kind {
                    5 => (account, NOBODY),
                    6 => (NOBODY, account),
                    _ if other == account => continue,
                    _ => (account, other),
                };
                let order = json!({ "from": from, "to": to, "amount": amount });
                let answer = insist(bank, "/transfers", &key, &order).ok(202);
                told.transfers.push(Transfer {
                    id: answer["id"].as_str().expect("an id").to_owned(),
                    from,
                    to,
                    amount,
                });
            }
        }
        answered.fetch_add(1, Ordering::Relaxed);
    }
    told
}

/// Sends a request again and again with its key, whatever happens to the bank meanwhile.
fn insist(bank: &Service, path: &str, key: &str, body: &Value) -> Answer {
    let start = Instant::now();
    loop {
        match bank.try_send("POST", path, Some(key), &body.to_string()) {
            Ok(answer) if !matches!(answer.status, 503 | 504) => return answer,
            answer => assert!(
                start.elapsed() < Duration::from_secs(60),
                "{path} with {key} is not answered: {answer:?}"
            ),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The events of all entities of a type, in order, by the id within the type.
fn events(bank: &Service, entity_type: &str) -> BTreeMap<String, Vec<Value>> {
    let payload = bank.hex("event_payload");
    let rows = bank.rows(&format!(
        "SELECT persistence_id, {payload} FROM event_journal \
         WHERE persistence_id LIKE '{entity_type}|%' ORDER BY persistence_id, seq_nr"
    ));
    let mut events: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for row in rows {
        let (_, id) = row[0].split_once('|').expect("type and id");
        events
            .entry(id.to_owned())
            .or_default()
            .push(decoded(&row[1]));
    }
    events
}

/// MessagePack in hexadecimal digits. A variant without fields is its name, one with fields an object.
fn decoded(hex: &str) -> Value {
    let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("digits");
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(digits).collect();
    rmp_serde::from_slice(&bytes).expect("MessagePack")
}

/// How many transfers have begun and not left their list.
fn open(bank: &Service) -> usize {
    let lists = events(bank, "OpenTransfers");
    let events = lists.values().flatten();
    let mut open = std::collections::BTreeSet::new();
    for event in events {
        if let Some(transfer) = event["Entered"].as_str() {
            open.insert(transfer);
        }
        if let Some(transfer) = event["Left"].as_str() {
            open.remove(transfer);
        }
    }
    open.len()
}

/// What the journal says about a transfer at an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Taken,
    Brought,
    GivenBack,
    Declined,
}

/// Compares the journal's rows with what the clients were told.
fn compare(bank: &Service, told: &[Told], round: &str) {
    let mut steps: BTreeMap<(String, String), Vec<(Step, i64)>> = BTreeMap::new();
    let (mut sum, mut refusals) = (0, 0);
    for (account, events) in events(bank, "Account") {
        let (mut balance, mut paid) = (0_i64, 0_i64);
        for event in &events {
            let Some((name, fields)) = event.as_object().and_then(|event| event.iter().next())
            else {
                assert_eq!(event, "Opened", "{round}");
                continue;
            };
            let amount = fields["amount"].as_i64().unwrap_or(0);
            let (change, step) = match &**name {
                "Deposited" => (amount, None),
                "Withdrawn" => (-amount, None),
                "Refused" => {
                    refusals += 1;
                    (0, None)
                }
                "TransferTaken" => (-amount, Some(Step::Taken)),
                "TransferBrought" => (amount, Some(Step::Brought)),
                "TransferGivenBack" => (amount, Some(Step::GivenBack)),
                "TransferDeclined" => (0, Some(Step::Declined)),
                other => panic!("{round}: {other}"),
            };
            balance += change;
            assert!(balance >= 0, "{round}: {account} after {event}");
            match step {
                None => paid += change,
                Some(step) => {
                    let transfer = fields["transfer"].as_str().expect("an id").to_owned();
                    let steps = steps.entry((transfer, account.clone())).or_default();
                    steps.push((step, amount));
                }
            }
        }
        let expected: i64 = told
            .iter()
            .filter_map(|told| told.paid.get(&*account))
            .sum();
        assert_eq!(paid, expected, "{round}: paid into {account}");
        sum += balance;
        if account != NOBODY {
            let shown = bank.get(&format!("/accounts/{account}")).ok(200);
            assert_eq!(shown["balance"], balance, "{round}: {account}");
        }
    }
    let paid: i64 = told.iter().flat_map(|told| told.paid.values()).sum();
    assert_eq!(sum, paid, "{round}: money was made or lost");
    let expected: u64 = told.iter().map(|told| told.refusals).sum();
    assert_eq!(refusals, expected, "{round}: refusals");

    let mut accepted = 0;
    for transfer in told.iter().flat_map(|told| &told.transfers) {
        let state = bank.get(&format!("/transfers/{}", transfer.id)).json()["state"].clone();
        let mut at = |account: &str| {
            let key = (transfer.id.clone(), account.to_owned());
            steps.remove(&key).unwrap_or_default()
        };
        let found = (at(transfer.from), at(transfer.to));
        let amount = transfer.amount;
        let is_right = match (&found.0[..], &found.1[..]) {
            ([(Step::Taken, taken)], [(Step::Brought, brought)]) => {
                state == "completed" && (*taken, *brought) == (amount, amount)
            }
            ([(Step::Declined, _)], []) => state == "refused",
            ([(Step::Taken, taken), (Step::GivenBack, back)], [(Step::Declined, _)]) => {
                state == "refused" && (*taken, *back) == (amount, amount)
            }
            _ => false,
        };
        assert!(is_right, "{round}: {transfer:?} is {state}: {found:?}");
        accepted += 1;
    }
    assert!(steps.is_empty(), "{round}: nobody was told of {steps:?}");
    assert!(accepted > 0, "{round}: no transfer");
}
