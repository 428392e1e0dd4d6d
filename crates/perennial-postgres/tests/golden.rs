//! Rows that Pekko wrote are read as Pekko reads them.

mod common;

use common::{open, replay, seq};
use perennial_persistence::{
    NewEvent, PageLimit, PersistenceId, Previous, SequenceNr, SerializedPayload, SnapshotCriteria,
    Store,
};
use perennial_testkit::postgres::TestPostgres;
use serde_json::Value;

const DDL: &str = include_str!("../../../test-data/pekko-1.2/ddl.sql");
const ROWS: &str = include_str!("../../../test-data/pekko-1.2/rows.sql");
const EXPECTED: &str = include_str!("../../../test-data/pekko-1.2/expected.jsonl");

fn golden() -> TestPostgres {
    let database = TestPostgres::new();
    database.execute(DDL);
    database.execute(ROWS);
    database
}

/// The journaled entities.
fn entities() -> Vec<(PersistenceId, Value)> {
    let lines = EXPECTED.lines().map(|line| {
        let entity: Value = serde_json::from_str(line).expect("JSON");
        let id = entity["persistence_id"].as_str().expect("an id");
        (PersistenceId::of_unique_id(id).expect("a valid id"), entity)
    });
    lines
        .filter(|(_, entity)| entity.get("highest_seq_nr").is_some())
        .collect()
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a whole number")
}

fn check_payload(payload: &SerializedPayload, expected: &Value, what: &str) {
    assert_eq!(
        i64::from(payload.serializer_id),
        expected["ser_id"].as_i64().expect("an id"),
        "{what}"
    );
    assert_eq!(
        Some(&*payload.manifest),
        expected["manifest"].as_str(),
        "{what}"
    );
    // Serializer 20 is plain text, in which odd bytes are read as U+FFFD.
    if payload.serializer_id == 20
        && let Some(text) = expected["event"].as_str()
    {
        assert_eq!(String::from_utf8_lossy(&payload.bytes), text, "{what}");
    }
}

fn check_metadata(metadata: Option<&SerializedPayload>, expected: &Value, what: &str) {
    let metadata = metadata.map(|metadata| (metadata.serializer_id, &*metadata.manifest));
    let expected = expected.get("meta_ser_id").map(|id| {
        let id = id.as_i64().and_then(|id| i32::try_from(id).ok());
        let manifest = expected["meta_manifest"].as_str();
        (id.expect("an id"), manifest.expect("a manifest"))
    });
    assert_eq!(metadata, expected, "{what}");
}

#[tokio::test]
async fn every_entity_has_the_events_that_pekko_recovered() {
    let database = golden();
    let store = open(&database).await;
    let journal = store.journal();
    let entities = entities();
    assert_eq!(entities.len(), 92);
    let mut events = 0;
    for (id, expected) in &entities {
        let page = replay(&*journal, id).await.expect("readable rows");
        let expected_events = expected["events"].as_array().expect("a list");
        assert_eq!(page.events.len(), expected_events.len(), "{id}");
        for (event, expected) in page.events.iter().zip(expected_events) {
            let what = format!("{id} {}", event.seq_nr);
            assert_eq!(event.seq_nr.value(), number(&expected["seq_nr"]), "{what}");
            check_payload(&event.payload, expected, &what);
            check_metadata(event.metadata.as_ref(), expected, &what);
            events += 1;
        }
        let highest = journal
            .highest_sequence_nr(id, SequenceNr::ZERO)
            .await
            .expect("a number");
        // A snapshot can be ahead of the rows that are left.
        let snapshot = expected["snapshot"]["seq_nr"].as_u64().unwrap_or(0);
        let recovered = number(&expected["highest_seq_nr"]);
        assert_eq!(highest.value().max(snapshot), recovered, "{id}");
        assert_eq!(page.highest, highest, "{id}");
        if let Some(marker) = expected.get("deleted_to") {
            assert!(highest.value() >= number(marker), "{id}");
        }
    }
    assert_eq!(events, 556, "570 rows of which 14 are delete markers");
}

#[tokio::test]
async fn every_entity_has_the_snapshot_that_pekko_recovered() {
    let database = golden();
    let store = open(&database).await;
    let snapshots = store.snapshot_store();
    let mut found = 0;
    for (id, expected) in entities() {
        let snapshot = snapshots
            .load(&id, SnapshotCriteria::ANY)
            .await
            .expect("a readable row");
        let expected_one = &expected["snapshot"];
        let Some(snapshot) = snapshot else {
            assert!(expected_one.is_null(), "{id}");
            continue;
        };
        assert_eq!(
            snapshot.seq_nr.value(),
            number(&expected_one["seq_nr"]),
            "{id}"
        );
        check_payload(&snapshot.payload, expected_one, id.as_str());
        check_metadata(snapshot.metadata.as_ref(), expected_one, id.as_str());
        found += 1;
    }
    assert_eq!(found, 36);
}

#[tokio::test]
async fn pages_of_every_size_give_the_same_events() {
    let database = golden();
    let store = open(&database).await;
    let journal = store.journal();
    for (id, _) in entities() {
        let whole = replay(&*journal, &id).await.expect("readable rows");
        for rows in [1, 3] {
            let limit = PageLimit {
                rows,
                bytes: 1 << 30,
            };
            let (mut from, mut events) = (SequenceNr::ZERO, Vec::new());
            loop {
                let page = journal
                    .replay_events(&id, from, SequenceNr::MAX, limit)
                    .await
                    .expect("a page");
                events.extend(page.events);
                if !page.more {
                    break;
                }
                from = page.highest.next();
            }
            assert_eq!(events, whole.events, "{id}");
        }
    }
}

#[tokio::test]
async fn our_rows_have_the_columns_that_pekko_writes() {
    let database = golden();
    let store = open(&database).await;
    let journal = store.journal();
    for (id, expected) in entities() {
        let next = seq(number(&expected["highest_seq_nr"]) + 1);
        let mut event = NewEvent::new(SerializedPayload::new(20, "", &b"more"[..]));
        let mut write = perennial_persistence::AtomicWrite::new(
            id.clone(),
            common::writer(7),
            next,
            vec![event.clone()],
        )
        .expect("a valid write");
        write.previous = Previous::Unknown;
        event.tags = vec!["입금".to_owned(), "a \"b\"".to_owned()];
        let tagged = perennial_persistence::AtomicWrite::new(
            id,
            common::writer(7),
            next.next(),
            vec![event],
        )
        .expect("a valid write");
        for answer in journal.write_events(&[write, tagged]).await {
            answer.expect("the next number is free");
        }
    }
    // Slices and entity types are those of Pekko's own rows of the same id, wherever it has any.
    let differences = database.query(
        "SELECT ours.persistence_id FROM event_journal ours JOIN event_journal theirs \
         ON theirs.persistence_id = ours.persistence_id AND theirs.writer <> ours.writer \
         WHERE ours.writer LIKE '00000000-0000-4000-8000-%7' \
         AND (ours.slice, ours.entity_type, ours.adapter_manifest) \
             IS DISTINCT FROM (theirs.slice, theirs.entity_type, theirs.adapter_manifest)",
    );
    assert_eq!(differences, Vec::<Vec<Option<String>>>::new());
    let columns = database.query(
        "SELECT DISTINCT deleted, adapter_manifest, tags, meta_ser_id, meta_ser_manifest, \
         meta_payload, writer FROM event_journal \
         WHERE writer LIKE '00000000-0000-4000-8000-%7' ORDER BY tags NULLS FIRST",
    );
    let text = |text: &str| Some(text.to_owned());
    let writer = text("00000000-0000-4000-8000-000000000007");
    assert_eq!(
        columns,
        [
            vec![text("f"), text(""), None, None, None, None, writer.clone()],
            vec![
                text("f"),
                text(""),
                text(r#"{입금,"a \"b\""}"#),
                None,
                None,
                None,
                writer
            ],
        ]
    );
}
