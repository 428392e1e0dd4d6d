//! Rows that Pekko wrote are read as Pekko reads them.

mod common;

use common::{open, replay, seq};
use perennial_persistence::{
    NewEvent, PageLimit, PersistenceId, Previous, SequenceNr, SerializedPayload, SnapshotCriteria,
    StateChange, StateWrite, Store,
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
    let all = all_entities().into_iter();
    all.filter(|(_, entity)| entity.get("highest_seq_nr").is_some())
        .collect()
}

/// The entities with durable state.
fn durable_entities() -> Vec<(PersistenceId, Value)> {
    let all = all_entities().into_iter();
    all.filter(|(_, entity)| entity.get("revision").is_some())
        .collect()
}

fn all_entities() -> Vec<(PersistenceId, Value)> {
    let lines = EXPECTED.lines().map(|line| {
        let entity: Value = serde_json::from_str(line).expect("JSON");
        let id = entity["persistence_id"].as_str().expect("an id");
        (PersistenceId::of_unique_id(id).expect("a valid id"), entity)
    });
    lines.collect()
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

#[tokio::test]
async fn every_entity_has_the_durable_state_that_pekko_recovered() {
    let database = golden();
    let store = open(&database).await;
    let states = store.durable_state_store();
    let entities = durable_entities();
    assert_eq!(entities.len(), 16);
    let mut found = 0;
    for (id, expected) in &entities {
        let row = states.load(id).await.expect("a readable row");
        let expected_row = &expected["row"];
        let Some(row) = row else {
            assert!(expected_row.is_null(), "{id}");
            assert_eq!(number(&expected["revision"]), 0, "{id}");
            continue;
        };
        assert_eq!(
            row.revision.value(),
            number(&expected_row["revision"]),
            "{id}"
        );
        let payload = row.payload.expect("Pekko 1.2 leaves no markers");
        check_payload(&payload, expected_row, id.as_str());
        let state = match payload.serializer_id {
            31 => serde_json::from_slice(&payload.bytes).expect("JSON"),
            20 => Value::from(std::str::from_utf8(&payload.bytes).expect("UTF-8")),
            // CBOR: a map of indefinite length, as Jackson writes it.
            33 => {
                assert_eq!(
                    (payload.bytes[0], payload.bytes.last()),
                    (0xbf, Some(&0xff))
                );
                expected["state"].clone()
            }
            other => panic!("{id} has serializer id {other}"),
        };
        assert_eq!(state, expected["state"], "{id}");
        let tags: Vec<&str> = expected_row["tags"].as_array().map_or(Vec::new(), |tags| {
            tags.iter().filter_map(Value::as_str).collect()
        });
        assert_eq!(row.tags, tags, "{id}");
        found += 1;
    }
    assert_eq!(found, 15);
}

/// The columns of all durable states but their times, which are the clock's.
fn state_columns(database: &TestPostgres) -> Vec<Vec<Option<String>>> {
    database.query(
        "SELECT slice, entity_type, persistence_id, revision, state_ser_id, state_ser_manifest, \
         state_payload, tags FROM durable_state ORDER BY persistence_id COLLATE \"C\"",
    )
}

#[tokio::test]
async fn our_durable_states_have_the_columns_that_pekko_writes() {
    let theirs = golden();
    let ours = TestPostgres::new();
    let (read, written) = (open(&theirs).await, open(&ours).await);
    let (read, written) = (read.durable_state_store(), written.durable_state_store());
    let mut count = 0;
    for (id, _) in durable_entities() {
        let Some(row) = read.load(&id).await.expect("a readable row") else {
            continue;
        };
        let put = StateChange::Put {
            payload: row.payload.expect("Pekko 1.2 leaves no markers"),
            tags: row.tags,
        };
        // Lone writes and batches in turn, up to the revision that Pekko has reached.
        let mut batch = Vec::new();
        for expected in 0..row.revision.value() {
            let put = put.clone();
            let write = StateWrite::new(id.clone(), seq(expected), seq(expected + 1), put);
            batch.push(write.expect("a valid write"));
            if expected % 3 != 0 {
                for answer in written.write_states(&std::mem::take(&mut batch)).await {
                    answer.expect("a good write");
                }
            }
        }
        for answer in written.write_states(&batch).await {
            answer.expect("a good write");
        }
        count += 1;
    }
    assert_eq!(count, 15);
    assert_eq!(state_columns(&ours), state_columns(&theirs));
}

/// Every row of Pekko's goes on under our hands, is deleted as Akka and Pekko 2 do it, and put
/// again.
#[tokio::test]
async fn durable_states_of_pekko_go_on() {
    let database = golden();
    let store = open(&database).await;
    let states = store.durable_state_store();
    for (id, _) in durable_entities() {
        let before = states.load(&id).await.expect("a readable row");
        let revision = before.as_ref().map_or(SequenceNr::ZERO, |row| row.revision);
        let delete = StateWrite::new(id.clone(), revision, revision.next(), StateChange::Delete);
        let answer = states.write_states(&[delete.expect("a valid write")]).await;
        let written = *answer[0].as_ref().expect("a good write");
        let marker = states.load(&id).await.expect("a readable row");
        let marker = marker.expect("a marker");
        assert_eq!(marker.revision, revision.next(), "{id}");
        assert_eq!(marker.payload, None, "{id}");
        assert_eq!(marker.timestamp, written.timestamp, "{id}");
        if let Some(before) = before {
            assert!(before.timestamp < marker.timestamp, "{id}");
            assert_eq!(marker.tags, before.tags, "{id}");
        }
    }
    let text = |text: &str| Some(text.to_owned());
    let columns = database.query(
        "SELECT DISTINCT state_ser_id, state_ser_manifest, state_payload, tags \
         FROM durable_state ORDER BY tags NULLS FIRST",
    );
    let marker = |tags| vec![text("0"), text(""), text("\\x"), tags];
    assert_eq!(
        columns,
        [marker(None), marker(text("{gauge}")), marker(text("{vip}"))]
    );
}
