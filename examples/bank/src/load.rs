//! A program that drives a bank and counts the money.
//!
//! It opens accounts that nobody else knows, and clients that each send one request after the other:
//! deposits, withdrawals, and transfers between the accounts. Each has a key of its own and is sent
//! again with it until there is an answer, so that at the end it is known what took effect.

mod client;
mod report;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use flight_table::output::OutputFile;
use perennial::TaskError;
use rand::RngExt;

use crate::cli::Load;
use client::{Client, Unanswered};
use report::{Books, Counts, Report};

/// What became of the money.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is all there.
    Conserved,
    /// There is too little or too much.
    NotConserved,
    /// A request was not answered for too long.
    NotKnown,
}

/// How many transfers of a client may be under way before it waits for the first of them.
const TRANSFERS_UNDER_WAY: usize = 32;

/// Accounts are opened, and looked at in the end, by so many clients.
const HANDS: u32 = 16;

/// Drives a bank, prints what came of it, and writes the report.
///
/// # Errors
/// When the bank is not there from the beginning, or the report cannot be written.
pub fn run(args: &Load) -> Result<Outcome, TaskError> {
    let file = args.report.as_deref().map(OutputFile::create).transpose()?;
    let report = drive(args)?;
    println!("{}", report.table());
    if let Some(file) = file {
        report.write(file)?;
    }
    Ok(report.outcome())
}

fn drive(args: &Load) -> Result<Report, TaskError> {
    let run: u64 = rand::rng().random();
    let accounts: Vec<String> = (0..args.accounts)
        .map(|number| format!("load-{run:016x}-{number}"))
        .collect();
    Client::new(&args.url).must_be_ready()?;
    shared(&accounts, |client, account| client.open(account), &args.url)?;

    let start = Instant::now();
    let end = start + args.time();
    let mut counts = Counts::default();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..args.clients)
            .map(|number| {
                let accounts = &accounts;
                scope.spawn(move || {
                    let name = format!("{run:016x}-{number}");
                    drive_one(Client::new(&args.url), &name, accounts, end)
                })
            })
            .collect();
        for client in clients {
            counts.add(client.join().expect("a client does not panic"));
        }
    });
    let elapsed = start.elapsed();

    let balances = shared(
        &accounts,
        |client, account| client.balance(account),
        &args.url,
    );
    if let Err(error) = &balances {
        counts.unknown += 1;
        let text = || error.to_string();
        counts.first_error.get_or_insert_with(text);
    }
    let books = Books {
        deposited: counts.deposited,
        withdrawn: counts.withdrawn,
        balances: balances.ok().map(|balances| balances.iter().sum()),
    };
    Ok(Report::new(args, elapsed, &counts, &books))
}

/// Does something with every account, several at a time.
fn shared<T: Send>(
    accounts: &[String],
    work: impl Fn(&mut Client, &str) -> Result<T, Unanswered> + Sync,
    url: &str,
) -> Result<Vec<T>, Unanswered> {
    let next = AtomicU64::new(0);
    let work = || {
        let mut client = Client::new(url);
        let mut done = Vec::new();
        loop {
            let index = usize::try_from(next.fetch_add(1, Ordering::Relaxed));
            let Some(account) = index.ok().and_then(|index| accounts.get(index)) else {
                return Ok(done);
            };
            done.push(work(&mut client, account)?);
        }
    };
    thread::scope(|scope| {
        let hands: Vec<_> = (0..HANDS).map(|_| scope.spawn(work)).collect();
        let mut all = Vec::new();
        for hand in hands {
            all.extend(hand.join().expect("a client does not panic")?);
        }
        Ok(all)
    })
}

/// One client: half of its requests are transfers, the others deposits and withdrawals.
fn drive_one(mut client: Client, name: &str, accounts: &[String], end: Instant) -> Counts {
    let mut random = rand::rng();
    let mut number = 0_u64;
    let mut transfers = VecDeque::new();
    while Instant::now() < end {
        number += 1;
        let key = format!("{name}-{number}");
        let amount = random.random_range(1..=1_000);
        let from = &accounts[random.random_range(0..accounts.len())];
        let done = match random.random_range(0..10) {
            // More comes than goes, so that there is something to move.
            0..4 => client.deposit(from, amount, &key),
            4..5 => client.withdraw(from, amount, &key),
            _ => {
                let to = &accounts[random.random_range(0..accounts.len())];
                if to == from {
                    continue;
                }
                let begun = client.transfer(from, to, amount, &key);
                begun.map(|id| transfers.extend(id))
            }
        };
        if done.is_err() {
            break;
        }
        if transfers.len() > TRANSFERS_UNDER_WAY
            && let Some(id) = transfers.pop_front()
            && client.wait_for(&id).is_err()
        {
            break;
        }
    }
    for id in transfers {
        if client.wait_for(&id).is_err() {
            break;
        }
    }
    client.counts()
}
