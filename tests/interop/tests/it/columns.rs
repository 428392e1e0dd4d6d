//! For the same commands, perennial's rows are those of Pekko, cell by cell.
//!
//! What Pekko wrote is taken apart into the commands that it was given: its events, in their atomic
//! writes. perennial gets the same commands in an empty database. Then every cell is compared but
//! times and writer ids, which differ between any two runs.

use std::collections::{BTreeMap, BTreeSet};

use interop::cells::{Cells, differing, rows};
use interop::{command, json, recover};
use perennial_testkit::postgres::TestPostgres;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::golden::{DDL, EXPECTED, engine, golden};

/// A line of `expected.jsonl`, with events and states as the very text that stands there.
#[derive(Deserialize)]
struct Entity {
    kind: String,
    persistence_id: String,
    highest_seq_nr: Option<i64>,
    deleted_to: Option<i64>,
    revision: Option<i64>,
    #[serde(default)]
    events: Vec<Event>,
    row: Option<State>,
}

#[derive(Deserialize)]
struct Event {
    seq_nr: i64,
    event: Box<RawValue>,
}

#[derive(Deserialize)]
struct State {
    state: Box<RawValue>,
}

fn entities() -> Vec<Entity> {
    let lines = EXPECTED.lines();
    let entities = lines.map(|line| serde_json::from_str(line).expect("an entity"));
    entities
        .filter(|entity: &Entity| entity.kind != "Votes")
        .collect()
}

/// The last event of each atomic write: those of one write have one time and one writer.
fn ends_of_writes(database: &TestPostgres) -> BTreeSet<(String, i64)> {
    let rows = database.query(
        "SELECT persistence_id, max(seq_nr) FROM event_journal WHERE NOT deleted \
         GROUP BY persistence_id, db_timestamp, writer",
    );
    let ends = rows.into_iter().map(|row| {
        let mut row = row.into_iter().flatten();
        let id = row.next().expect("an id");
        (
            id,
            row.next().and_then(|nr| nr.parse().ok()).expect("a number"),
        )
    });
    ends.collect()
}

/// Why a cell may be another one: Pekko wrote the row with other settings than the rest.
fn written_otherwise(theirs: &Cells, manifest: &str, payload: &str) -> Option<&'static str> {
    let (manifest, payload) = (&theirs[manifest], &theirs[payload]);
    let class = manifest
        .rsplit_once('$')
        .map_or(manifest.as_str(), |(_, class)| class);
    if matches!(
        class,
        "Deposited" | "Debited" | "perennial.golden.AccountState"
    ) {
        Some("schema 1")
    } else if payload.starts_with("\\x87d96df6") {
        Some("LZ4")
    } else if payload.starts_with("\\x1f8b") && manifest.contains("Sensor") {
        Some("gzip in CBOR")
    } else {
        None
    }
}

/// The text of a payload of JSON.
fn json_of(cells: &Cells) -> Option<String> {
    let hex = cells["event_payload"].strip_prefix("\\x")?;
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).ok();
    let bytes: Option<Vec<u8>> = (0..hex.len()).step_by(2).map(byte).collect();
    String::from_utf8(bytes?).ok()
}

/// The first event that Pekko still has, and the marker before it, if events are gone.
fn gap_before(entity: &Entity) -> Option<i64> {
    let first = entity.events.first().map_or(0, |event| event.seq_nr);
    (first > 1).then_some(first - 1)
}

fn line(fields: &[(&str, String)]) -> String {
    let fields: Vec<_> = fields
        .iter()
        .map(|(key, value)| format!("\"{key}\":{value}"))
        .collect();
    format!("{{{}}}", fields.join(","))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn for_the_same_commands_our_rows_equal_those_of_pekko_cell_by_cell() {
    let theirs = golden();
    let ours = TestPostgres::new();
    ours.execute(DDL);
    let (ends, pekkos) = (
        ends_of_writes(&theirs),
        rows(&theirs, "event_journal", "seq_nr"),
    );
    let mut without_beginning = BTreeSet::new();
    let mut engine = engine(&ours).await;
    let mut ask = async |text: String| {
        let answer = command(&mut engine, &text).await.text();
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert!(answer.get("error").is_none(), "{text}: {answer}");
    };

    for entity in entities() {
        let quoted = |text: &str| Value::from(text).to_string();
        let (kind, id) = (quoted(&entity.kind), quoted(&entity.persistence_id));
        let to_it = |key, value| line(&[("kind", kind.clone()), ("id", id.clone()), (key, value)]);
        if let Some(gone) = gap_before(&entity) {
            // What stood there before is gone: the numbers go on after the marker that is left.
            without_beginning.insert(entity.persistence_id.clone());
            ours.execute(&format!(
                "INSERT INTO event_journal (slice, entity_type, persistence_id, seq_nr, \
                 db_timestamp, event_ser_id, event_ser_manifest, event_payload, deleted, writer, \
                 adapter_manifest) VALUES ({}, '{}', '{}', {gone}, now(), 0, '', '', true, '', '')",
                slice_of(&entity.persistence_id),
                entity.kind,
                entity.persistence_id
            ));
        }
        let mut write = Vec::new();
        for event in &entity.events {
            let key = (entity.persistence_id.clone(), event.seq_nr);
            // `expected.jsonl` has decimal numbers without their last zeros; the row has them.
            let opened =
                Some(&pekkos[&key]).filter(|row| row["event_ser_manifest"].ends_with("$Opened"));
            let text = opened.and_then(json_of);
            write.push(text.unwrap_or_else(|| event.event.get().to_owned()));
            if ends.contains(&key) {
                ask(to_it("persist", format!("[{}]", write.join(",")))).await;
                write.clear();
            }
        }
        assert!(write.is_empty(), "{id}: a write without an end");
        if entity.events.is_empty() && entity.deleted_to.is_some() {
            // All events are gone; any will do.
            for _ in 0..entity.highest_seq_nr.unwrap_or(0) {
                let any = if entity.kind == "CounterInt" {
                    "[1]"
                } else {
                    "[\"x\"]"
                };
                ask(to_it("persist", any.to_owned())).await;
            }
            ask(to_it("deleteEvents", i64::MAX.to_string())).await;
        }
        if let Some(row) = &entity.row {
            for _ in 0..entity.revision.unwrap_or(0) {
                ask(to_it("put", row.state.get().to_owned())).await;
            }
        }
    }

    // Cells of events, markers and durable states.
    let mut found = Vec::new();
    let mut compared = BTreeMap::new();
    for (table, number, manifest, payload) in [
        (
            "event_journal",
            "seq_nr",
            "event_ser_manifest",
            "event_payload",
        ),
        ("snapshot", "seq_nr", "ser_manifest", "snapshot"),
        (
            "durable_state",
            "revision",
            "state_ser_manifest",
            "state_payload",
        ),
    ] {
        let (ours, mut theirs) = (rows(&ours, table, number), rows(&theirs, table, number));
        theirs.retain(|(id, _), _| !id.starts_with("Votes|"));
        let keys: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        for key in keys {
            let what = format!("{table} {} {}", key.0, key.1);
            match (ours.get(key), theirs.get(key)) {
                (Some(ours), Some(theirs)) => {
                    let otherwise = written_otherwise(theirs, manifest, payload);
                    // A snapshot of events that are gone: its bytes are those of another sum. That
                    // such bytes are written as Pekko does is shown where they are read.
                    let other_sum = table == "snapshot" && without_beginning.contains(&key.0);
                    let except: &[&str] = match otherwise {
                        Some("schema 1") => &[manifest, payload],
                        Some(_) => &[payload],
                        None if other_sum => &[payload],
                        None => &[],
                    };
                    let otherwise = otherwise.or(other_sum.then_some("of events that are gone"));
                    found.extend(differing(&what, ours, theirs, except));
                    *compared.entry((table, otherwise)).or_insert(0) += 1;
                }
                (None, _) => found.push(format!("{what}: missing")),
                (_, None) => found.push(format!("{what}: too many")),
            }
        }
    }
    assert!(found.is_empty(), "ours | Pekko's:\n{}", found.join("\n"));
    let equal =
        ["event_journal", "snapshot", "durable_state"].map(|table| compared[&(table, None)]);
    assert_eq!(equal, [469, 18, 15], "{compared:#?}");

    // What Pekko wrote with other settings says the same once it is decoded.
    for text in EXPECTED.lines() {
        let expected: Value = serde_json::from_str(text).expect("JSON");
        if expected["kind"] == "Votes" {
            continue;
        }
        let answer = recover(&mut engine, text, true).await.text();
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        let events = |line: &Value| -> Value {
            let events = line["events"].as_array().into_iter().flatten();
            events.map(|event| event["event"].clone()).collect()
        };
        let differences = json::differences(&events(&answer), &events(&expected));
        assert_eq!(
            differences,
            Vec::<String>::new(),
            "{}",
            expected["persistence_id"]
        );
    }
    engine.shutdown().await.expect("an end in time");
}

fn slice_of(id: &str) -> u16 {
    let id = perennial_persistence::PersistenceId::of_unique_id(id).expect("a valid id");
    id.slice().value()
}
