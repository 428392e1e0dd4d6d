//! What the tests of this crate share.

#![allow(dead_code, reason = "no test program uses all of it")]

use perennial_persistence::{
    AtomicWrite, CommandId, DurableStateStore, Error, Fingerprint, Journal, NewEvent, NewReply,
    PageLimit, PersistenceId, Previous, ReplayPage, SequenceNr, SerializedPayload, StateChange,
    StateWrite, WriterId, Written,
};
use perennial_postgres::{Config, Postgres};
use perennial_testkit::postgres::TestPostgres;

pub(crate) fn config(database: &TestPostgres) -> Config {
    Config::default().with_url(database.url())
}

pub(crate) async fn open(database: &TestPostgres) -> Postgres {
    Postgres::open(config(database))
        .await
        .expect("a usable database")
}

pub(crate) fn id(name: &str) -> PersistenceId {
    PersistenceId::new("Cart", name).expect("a valid id")
}

pub(crate) fn seq(number: u64) -> SequenceNr {
    SequenceNr::new(number).expect("in range")
}

pub(crate) fn writer(number: u128) -> WriterId {
    WriterId::from_random_bits(number)
}

pub(crate) fn event(payload: &str) -> NewEvent {
    NewEvent::new(SerializedPayload::new(
        77,
        "Event",
        payload.as_bytes().to_vec(),
    ))
}

/// A write whose writer does not look at the event before.
pub(crate) fn write(id: &PersistenceId, first: u64, payloads: &[&str]) -> AtomicWrite {
    let events = payloads.iter().map(|payload| event(payload)).collect();
    let mut write =
        AtomicWrite::new(id.clone(), writer(1), seq(first), events).expect("a valid write");
    write.previous = Previous::None;
    write
}

pub(crate) async fn write_one(
    journal: &dyn Journal,
    write: &AtomicWrite,
) -> Result<Written, Error> {
    let mut answers = journal.write_events(std::slice::from_ref(write)).await;
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

pub(crate) async fn replay(journal: &dyn Journal, id: &PersistenceId) -> Result<ReplayPage, Error> {
    let limit = PageLimit {
        rows: 100_000,
        bytes: 1 << 30,
    };
    journal
        .replay_events(id, SequenceNr::ZERO, SequenceNr::MAX, limit)
        .await
}

pub(crate) async fn payloads(journal: &dyn Journal, id: &PersistenceId) -> Vec<String> {
    let page = replay(journal, id).await.expect("a readable journal");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    page.events
        .iter()
        .map(|event| text(&event.payload.bytes))
        .collect()
}

/// A state without tags.
pub(crate) fn state(id: &PersistenceId, expected: u64, payload: &str) -> StateWrite {
    let payload = SerializedPayload::new(77, "State", payload.as_bytes().to_vec());
    let tags = Vec::new();
    change(id, expected, StateChange::Put { payload, tags })
}

/// The write with a change event and a reply that say its revision, written by `writer(1)`.
pub(crate) fn told(mut write: StateWrite) -> StateWrite {
    let revision = write.revision().to_string();
    let event = event(&revision);
    let set = write.set_change_events(writer(1), vec![event]);
    set.expect("a valid event");
    let command = CommandId::new(&revision).expect("a valid command id");
    let payload = SerializedPayload::new(77, "Reply", revision.into_bytes());
    let fingerprint = Fingerprint::new([7; Fingerprint::BYTES]);
    let reply = NewReply::new(command, fingerprint, Some(payload), SequenceNr::ZERO);
    write.set_reply(reply.expect("a valid reply"));
    write
}

pub(crate) fn change(id: &PersistenceId, expected: u64, change: StateChange) -> StateWrite {
    let revision = seq(expected + 1);
    StateWrite::new(id.clone(), seq(expected), revision, change).expect("a valid write")
}

/// The same write, sent again after an unknown outcome.
pub(crate) fn again(write: &StateWrite) -> StateWrite {
    let mut write = write.clone();
    write.maybe_stored = true;
    write
}

pub(crate) async fn write_state(
    states: &dyn DurableStateStore,
    write: &StateWrite,
) -> Result<Written, Error> {
    let mut answers = states.write_states(std::slice::from_ref(write)).await;
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

/// Revision and text of a state, none of a marker; revision 0 without a row.
pub(crate) async fn load_state(
    states: &dyn DurableStateStore,
    id: &PersistenceId,
) -> (u64, Option<String>) {
    let Some(row) = states.load(id).await.expect("a readable row") else {
        return (0, None);
    };
    let text = |payload: SerializedPayload| String::from_utf8_lossy(&payload.bytes).into_owned();
    (row.revision.value(), row.payload.map(text))
}

/// The number that a query answers.
pub(crate) fn count(database: &TestPostgres, sql: &str) -> u64 {
    database.query(sql)[0][0]
        .as_deref()
        .and_then(|text| text.parse().ok())
        .expect("a number")
}
