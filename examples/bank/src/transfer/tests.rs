use std::time::Instant;

use perennial::ConfigSource;
use perennial::testkit::MemoryStore;

use super::*;
use crate::account::{Deposit, Look, Open, codec};
use crate::history::History;
use crate::open_transfers::{self, List, wake};

/// A bank in memory.
struct Running {
    system: ActorSystem,
}

impl Running {
    async fn on(store: &MemoryStore) -> Self {
        let store: Arc<dyn perennial::persistence::Store> = Arc::new(store.open_again());
        let (history, bank) = (History::default(), Bank::default());
        history.is(Arc::clone(&store));
        let system = ActorSystem::with_store(ConfigSource::empty(), store)
            .entity(Entity::<Account>::with_event_codec(history, codec()))
            .entity(entity(bank.clone()))
            .entity(open_transfers::entity())
            .start()
            .await
            .expect("it starts");
        bank.is(system.clone());
        Self { system }
    }

    fn account(&self, id: &str) -> EntityRef<Account> {
        self.system.entity(id)
    }

    fn transfer(&self, id: TransferId) -> EntityRef<Transfer> {
        self.system.entity(id.to_string())
    }

    async fn open(&self, id: &str, cents: u64) {
        self.account(id).ask(Open).await.expect("an answer");
        if let Some(amount) = Cents::new(cents) {
            let has_key = false;
            let deposit = self.account(id).ask(Deposit { amount, has_key });
            deposit.await.expect("an answer").expect("not refused");
        }
    }

    async fn balance(&self, id: &str) -> Option<u64> {
        let standing = self.account(id).ask(Look).await.expect("an answer");
        standing.map(|standing| standing.balance)
    }

    async fn end_of(&self, id: TransferId) -> TransferState {
        let start = Instant::now();
        loop {
            let state = self.transfer(id).ask(LookAt).await.expect("an answer");
            match state {
                Some(TransferState::Pending) | None => {
                    assert!(start.elapsed() < Duration::from_secs(60), "{state:?}");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Some(end) => return end,
            }
        }
    }

    /// Whether the transfer is in its list.
    async fn is_listed(&self, id: TransferId) -> bool {
        let list = list_of(&self.system, id).ask(List).await;
        list.expect("an answer").contains(&id)
    }

    async fn until_it_left(&self, id: TransferId) {
        let start = Instant::now();
        while self.is_listed(id).await {
            assert!(start.elapsed() < Duration::from_secs(60), "it stays");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn terms(from: &str, to: &str, cents: u64) -> Terms {
    Terms {
        from: AccountId::new(from).expect("an id"),
        to: AccountId::new(to).expect("an id"),
        amount: Cents::new(cents).expect("an amount"),
    }
}

#[tokio::test]
async fn a_transfer_ends_in_one_of_two_ways_and_leaves_its_list() {
    let bank = Running::on(&MemoryStore::default()).await;
    bank.open("ann", 100).await;
    bank.open("bob", 0).await;
    let not_open = Refused::NotOpen;
    let (balance, amount) = (70, 71);
    let too_little = Refused::InsufficientFunds { balance, amount };
    for (terms, end) in [
        (terms("ann", "bob", 30), TransferState::Completed),
        (
            terms("ann", "bob", 71),
            TransferState::Refused(Reason::From(too_little)),
        ),
        (
            terms("eve", "bob", 1),
            TransferState::Refused(Reason::From(not_open.clone())),
        ),
        (
            terms("ann", "eve", 70),
            TransferState::Refused(Reason::To(not_open)),
        ),
    ] {
        let id = TransferId::random();
        let begun = bank.transfer(id).ask(Begin(terms.clone())).await;
        assert_eq!(begun, Ok(Ok(())));
        assert_eq!(bank.end_of(id).await, end);
        assert_eq!(bank.balance("ann").await, Some(70));
        assert_eq!(bank.balance("bob").await, Some(30));
        bank.until_it_left(id).await;
        // The same one again is no other one, and another one is refused.
        let again = bank.transfer(id).ask(Begin(terms)).await;
        assert_eq!(again, Ok(Ok(())));
        let other = bank.transfer(id).ask(Begin(self::terms("ann", "bob", 2)));
        assert_eq!(other.await, Ok(Err(NotBegun::Other)));
        assert!(!bank.is_listed(id).await);
    }
    assert_eq!(bank.balance("eve").await, None);
    bank.system.shutdown().await.expect("it ends in order");
}

/// Every place in a transfer's life, as the journal has it when the process is killed there.
#[tokio::test]
async fn whatever_is_stored_when_it_is_killed_it_goes_on_when_it_is_woken() {
    let id: TransferId = format!("{:032x}", 77).parse().expect("an id");
    let begun = Begun {
        terms: terms("ann", "bob", 30),
        from_since: 2,
        to_since: 1,
    };
    let reason = Reason::To(Refused::NotOpen);
    let refused = TransferState::Refused(reason.clone());
    let completed = || Some(TransferState::Completed);
    let taken = vec![TransferEvent::Begun(begun.clone()), TransferEvent::Taken];
    let not_brought = [taken.clone(), vec![TransferEvent::NotBrought(reason)]].concat();
    for (events, steps, end, balances) in [
        // In its list, and not begun.
        (vec![], "", None, (100, 0)),
        (taken[..1].to_vec(), "", completed(), (70, 30)),
        (taken[..1].to_vec(), "take", completed(), (70, 30)),
        (taken.clone(), "take", completed(), (70, 30)),
        (taken.clone(), "take bring", completed(), (70, 30)),
        (
            [taken, vec![TransferEvent::Brought]].concat(),
            "take bring",
            completed(),
            (70, 30),
        ),
        (not_brought.clone(), "take", Some(refused.clone()), (100, 0)),
        (
            not_brought.clone(),
            "take give-back",
            Some(refused.clone()),
            (100, 0),
        ),
        (
            [not_brought, vec![TransferEvent::GivenBack]].concat(),
            "take give-back",
            Some(refused),
            (100, 0),
        ),
    ] {
        let store = MemoryStore::default();
        let case = format!("{events:?}, {steps}");
        let bank = Running::on(&store).await;
        bank.open("ann", 100).await;
        bank.open("bob", 0).await;
        let entered = list_of(&bank.system, id).ask(Enter(id)).await;
        assert_eq!(entered, Ok(Ok(())));
        for step in steps.split_terminator(' ') {
            let Terms { from, to, amount } = begun.terms.clone();
            let (account, part) = match step {
                "take" => ("ann", Part::Take { amount, to }),
                "bring" => ("bob", Part::Bring { amount, from }),
                _ => ("ann", Part::GiveBack),
            };
            let since = if account == "ann" { 2 } else { 1 };
            let transfer = id;
            let step = Step {
                transfer,
                part,
                since,
            };
            let answer = bank.account(account).ask(step).await;
            assert!(matches!(answer, Ok(Ok(_))), "{case}: {answer:?}");
        }
        bank.system.shutdown().await.expect("it ends in order");
        store_events(&store, id, &events).await;

        let bank = Running::on(&store).await;
        let waking = tokio::spawn(wake(bank.system.clone()));
        bank.until_it_left(id).await;
        let state = bank.transfer(id).ask(LookAt).await.expect("an answer");
        assert_eq!(state, end, "{case}");
        let found = (bank.balance("ann").await, bank.balance("bob").await);
        assert_eq!(found, (Some(balances.0), Some(balances.1)), "{case}");
        bank.system.shutdown().await.expect("it ends in order");
        waking.abort();
    }
}

/// Stores events of the transfer, as if it had been there.
async fn store_events(store: &MemoryStore, id: TransferId, events: &[TransferEvent]) {
    use perennial::persistence::{
        AtomicWrite, Codec, MessagePack, NewEvent, PersistenceId, SequenceNr, Store, WriterId,
    };
    if events.is_empty() {
        return;
    }
    let codec = MessagePack::new("Transfer.Event");
    let encoded = events
        .iter()
        .map(|event| NewEvent::new(codec.encode(event).expect("it can be encoded")));
    let id = PersistenceId::new(Transfer::TYPE, &id.to_string()).expect("a valid id");
    let writer = WriterId::from_random_bits(1);
    let write = AtomicWrite::new(id, writer, SequenceNr::FIRST, encoded.collect());
    let batch = [write.expect("a valid write")];
    let store = store.open_again();
    for written in store.journal().write_events(&batch).await {
        written.expect("it is stored");
    }
}

#[tokio::test]
async fn no_more_transfers_than_there_is_room_for_are_under_way() {
    use crate::open_transfers::MOST_LISTED;

    let bank = Running::on(&MemoryStore::default()).await;
    bank.open("ann", 100).await;
    bank.open("bob", 0).await;
    // All in one list.
    let id = |number: usize| -> TransferId {
        let id = format!("{:032x}", number * 16);
        id.parse().expect("an id")
    };
    let list = list_of(&bank.system, id(0));
    for number in 1..=MOST_LISTED {
        let entered = list.ask(Enter(id(number))).await;
        assert_eq!(entered, Ok(Ok(())));
    }
    let begin = || bank.transfer(id(0)).ask(Begin(terms("ann", "bob", 1)));
    assert_eq!(begin().await, Ok(Err(NotBegun::Full)));
    assert_eq!(bank.transfer(id(0)).ask(LookAt).await, Ok(None));
    // One that is in the list is no further one.
    assert_eq!(list.ask(Enter(id(1))).await, Ok(Ok(())));
    list.ask(Leave(id(1))).await.expect("an answer");
    assert_eq!(begin().await, Ok(Ok(())));
    assert_eq!(bank.end_of(id(0)).await, TransferState::Completed);
    bank.system.shutdown().await.expect("it ends in order");
}
