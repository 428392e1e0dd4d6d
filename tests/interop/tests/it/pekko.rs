//! What a real Pekko service did in odd cases, and what perennial does there: the table of
//! `docs/pekko.md`, one test per line of it.

use interop::{Engine, command};
use perennial_testkit::postgres::TestPostgres;
use serde_json::{Value, json};

use crate::golden::{DDL, engine};

/// An empty database and a system on it.
async fn empty() -> (TestPostgres, Engine) {
    let database = TestPostgres::new();
    database.execute(DDL);
    let engine = engine(&database).await;
    (database, engine)
}

async fn ask(engine: &mut Engine, question: Value) -> Value {
    let answer = command(engine, &question.to_string()).await;
    serde_json::from_str(&answer.text()).expect("JSON")
}

async fn get(engine: &mut Engine, kind: &str, id: &str) -> Value {
    ask(engine, json!({"kind": kind, "id": id, "get": true})).await
}

async fn persist(engine: &mut Engine, kind: &str, id: &str, events: Value) -> Value {
    ask(engine, json!({"kind": kind, "id": id, "persist": events})).await
}

/// The number and the state of a journaled entity.
fn seen(answer: &Value) -> (u64, &Value) {
    let number = answer["highest_seq_nr"].as_u64();
    (
        number.unwrap_or_else(|| panic!("{answer}")),
        &answer["state"],
    )
}

/// The error of an answer, which names everything in `parts`.
fn error(answer: &Value, parts: &[&str]) {
    let error = answer["error"]
        .as_str()
        .unwrap_or_else(|| panic!("{answer}"));
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}

/// A row of `event_journal` of another program's.
struct Row<'a> {
    id: &'a str,
    seq_nr: i64,
    ser_id: i32,
    manifest: &'a str,
    payload: &'a [u8],
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn insert(database: &TestPostgres, row: &Row<'_>) {
    insert_with(
        database,
        row,
        "deleted, writer, adapter_manifest",
        "false, 'them', ''",
    );
}

fn insert_with(database: &TestPostgres, row: &Row<'_>, columns: &str, values: &str) {
    let id = perennial_persistence::PersistenceId::of_unique_id(row.id).expect("a valid id");
    database.execute(&format!(
        "INSERT INTO event_journal (slice, entity_type, persistence_id, seq_nr, db_timestamp, \
         event_ser_id, event_ser_manifest, event_payload, {columns}) \
         VALUES ({}, '{}', '{}', {}, now(), {}, '{}', '\\x{}', {values})",
        id.slice().value(),
        id.entity_type(),
        row.id,
        row.seq_nr,
        row.ser_id,
        row.manifest,
        hex(row.payload)
    ));
}

fn text<'a>(id: &'a str, seq_nr: i64, text: &'a str) -> Row<'a> {
    Row {
        id,
        seq_nr,
        ser_id: 20,
        manifest: "",
        payload: text.as_bytes(),
    }
}

fn insert_snapshot(
    database: &TestPostgres,
    id: &str,
    seq_nr: i64,
    ser_id: i32,
    manifest: &str,
    bytes: &[u8],
) {
    let parsed = perennial_persistence::PersistenceId::of_unique_id(id).expect("a valid id");
    database.execute(&format!(
        "INSERT INTO snapshot (slice, entity_type, persistence_id, seq_nr, write_timestamp, \
         ser_id, ser_manifest, snapshot) VALUES ({}, '{}', '{id}', {seq_nr}, 1, {ser_id}, \
         '{manifest}', '\\x{}')",
        parsed.slice().value(),
        parsed.entity_type(),
        hex(bytes)
    ));
}

fn count(database: &TestPostgres, table: &str) -> String {
    database.query(&format!("SELECT count(*) FROM {table}"))[0][0]
        .clone()
        .expect("a number")
}

type Rows = Vec<Vec<Option<String>>>;

fn numbers(database: &TestPostgres) -> Rows {
    database.query("SELECT seq_nr, deleted FROM event_journal ORDER BY persistence_id, seq_nr")
}

fn row(cells: &[&str]) -> Vec<Option<String>> {
    cells.iter().map(|&cell| Some(cell.to_owned())).collect()
}

/// Pekko 1.2 and Akka 2.7 read it, and refuse it at the write; later versions of Akka take it as type
/// `a`, and so does perennial's store. The program keeps to what it shares the tables with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_with_an_empty_replica_is_read_and_not_written() {
    let (database, mut engine) = empty().await;
    insert(&database, &text("a|b|", 1, "x"));
    let types = database.query("SELECT entity_type, slice FROM event_journal");
    assert_eq!(types, [row(&["a", "469"])]);
    assert_eq!(
        seen(&get(&mut engine, "Note", "a|b|").await),
        (1, &json!(["x"]))
    );
    error(
        &persist(&mut engine, "Note", "a|b|", json!(["y"])).await,
        &["a|b|", "replica"],
    );
    assert_eq!(count(&database, "event_journal"), "1");
}

/// The JVM stores them, and its slice queries stall on them: they have one time, and are more than a
/// page.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_events_at_one_time_than_a_query_can_pass_are_refused() {
    let (database, mut engine) = empty().await;
    let answer = persist(&mut engine, "Note", "Note|a", json!(vec!["x"; 1_500])).await;
    error(&answer, &["Note|a", "1500"]);
    assert_eq!(count(&database, "event_journal"), "0");
}

/// The classes of version 1 are still there on the JVM, and so are commands with them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn classes_that_are_no_longer_written_are_taken_from_a_command() {
    let (database, mut engine) = empty().await;
    let events = json!([
        {"type": "deposited", "amount": 7, "memo": null, "labels": []},
        {"type": "debited", "amount": 5, "at": "2026-01-01T00:00:00Z"},
    ]);
    let answer = persist(&mut engine, "Account", "Account|a", events.clone()).await;
    assert_eq!(seen(&answer).1["balanceCents"], 2);
    let question = json!({"kind": "Account", "id": "Account|a", "full": true});
    let answer = ask(&mut engine, question).await;
    for (row, event) in answer["events"]
        .as_array()
        .expect("events")
        .iter()
        .zip(events.as_array().expect("events"))
    {
        assert_eq!(&row["event"], event);
    }
    let manifests = database.query("SELECT event_ser_manifest FROM event_journal ORDER BY seq_nr");
    let manifest = |class| row(&[&format!("perennial.golden.AccountEvent${class}#2")]);
    assert_eq!(manifests, [manifest("Deposited"), manifest("Debited")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_are_bounded_as_the_columns_are_and_refused_before_anything_is_read() {
    let (database, mut engine) = empty().await;
    for (id, part) in [
        (String::new(), "above U+0020"),
        (" ".to_owned(), "above U+0020"),
        ("Note|a\0b".to_owned(), "U+0000"),
        (format!("Note|{}", "가".repeat(251)), "256 characters"),
    ] {
        // Pekko recovers the last two, and fails at the first write.
        error(&get(&mut engine, "Note", &id).await, &[part]);
        error(
            &persist(&mut engine, "Note", &id, json!(["x"])).await,
            &[part],
        );
    }
    for id in ["\u{A0}".to_owned(), format!("Note|{}", "가".repeat(250))] {
        assert_eq!(
            seen(&persist(&mut engine, "Note", &id, json!(["x"])).await).0,
            1
        );
    }
    let types = database.query("SELECT entity_type FROM event_journal ORDER BY 1");
    assert_eq!(types, [row(&[""]), row(&["Note"])]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_events_are_no_row_and_answered_all_the_same() {
    let (database, mut engine) = empty().await;
    let answer = persist(&mut engine, "Note", "Note|a", json!([])).await;
    assert_eq!(seen(&answer), (0, &json!([])));
    assert_eq!(count(&database, "event_journal"), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_all_events_of_an_unknown_id_leaves_a_marker_at_0() {
    let (database, mut engine) = empty().await;
    let all = json!({"kind": "Note", "id": "Note|a", "deleteEvents": i64::MAX});
    let answer = ask(&mut engine, all).await;
    assert_eq!(answer["outcome"], "deleted to 9223372036854775807");
    assert_eq!(numbers(&database), [row(&["0", "t"])]);
    assert_eq!(
        seen(&persist(&mut engine, "Note", "Note|a", json!(["x"])).await).0,
        1
    );
    assert_eq!(numbers(&database), [row(&["0", "t"]), row(&["1", "f"])]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_beyond_the_last_one_cannot_be_deleted() {
    let (database, mut engine) = empty().await;
    persist(&mut engine, "Note", "Note|a", json!(["x", "y"])).await;
    let beyond = json!({"kind": "Note", "id": "Note|a", "deleteEvents": 3});
    let outcome = ask(&mut engine, beyond).await["outcome"].clone();
    assert_eq!(
        outcome,
        "failed to 3: java.lang.RuntimeException: toSequenceNr [3] must be less than or equal to \
         lastSequenceNr [2]"
    );
    assert_eq!(numbers(&database), [row(&["1", "f"]), row(&["2", "f"])]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_of_two_writers_is_refused_and_goes_on_after_the_first() {
    let (database, mut first) = empty().await;
    let mut second = engine(&database).await;
    persist(&mut first, "Note", "Note|a", json!(["one"])).await;
    assert_eq!(seen(&get(&mut second, "Note", "Note|a").await).0, 1);
    persist(&mut first, "Note", "Note|a", json!(["two"])).await;
    let refused = persist(&mut second, "Note", "Note|a", json!(["lost"])).await;
    error(&refused, &["Note|a", "2", "another writer"]);
    let answer = persist(&mut second, "Note", "Note|a", json!(["three"])).await;
    assert_eq!(seen(&answer), (3, &json!(["one", "two", "three"])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_in_the_numbers_is_recovered_without_complaint() {
    let (database, mut engine) = empty().await;
    for (kind, state) in [("Note", json!(["x", "y"])), ("Memo", json!("x\ny"))] {
        let id = format!("{kind}|a");
        insert(&database, &text(&id, 1, "x"));
        insert(&database, &text(&id, 3, "y"));
        assert_eq!(seen(&get(&mut engine, kind, &id).await), (3, &state));
        assert_eq!(
            seen(&persist(&mut engine, kind, &id, json!(["z"])).await).0,
            4
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_cells_that_recovery_does_not_need_do_not_disturb_it() {
    let (database, mut engine) = empty().await;
    insert_with(
        &database,
        &text("Note|a", 1, "x"),
        "deleted, writer, adapter_manifest, tags",
        "false, '', NULL, '{}'",
    );
    database.execute("UPDATE event_journal SET slice = (slice + 1) % 1024");
    let marker = Row {
        ser_id: 0,
        ..text("Note|b", 4, "")
    };
    insert_with(
        &database,
        &marker,
        "deleted, writer, adapter_manifest",
        "true, 'them', ''",
    );
    assert_eq!(
        seen(&get(&mut engine, "Note", "Note|a").await),
        (1, &json!(["x"]))
    );
    assert_eq!(
        seen(&get(&mut engine, "Note", "Note|b").await),
        (4, &json!([]))
    );
    for (id, next) in [("Note|a", 2), ("Note|b", 5)] {
        assert_eq!(
            seen(&persist(&mut engine, "Note", id, json!(["y"])).await).0,
            next
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_without_any_event_is_enough() {
    let (database, mut engine) = empty().await;
    insert_snapshot(&database, "Memo|a", 5, 20, "", b"sum");
    assert_eq!(
        seen(&get(&mut engine, "Memo", "Memo|a").await),
        (5, &json!("sum"))
    );
    assert_eq!(
        seen(&persist(&mut engine, "Memo", "Memo|a", json!(["x"])).await).0,
        6
    );
}

/// Pekko's recovery fails as well, but its slice queries over the entity type fail with it. Here
/// only the entity is down, and again up when the row is repaired.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_nobody_knows_fails_its_entity_only_and_is_named() {
    let (database, mut engine) = empty().await;
    let class = "perennial.golden.AccountEvent$Closed";
    for (id, ser_id, manifest, parts) in [
        ("Account|unknown-id", 4711, "", ["serializer id 4711", "1"]),
        (
            "Account|unknown-class",
            31,
            "perennial.golden.AccountEvent$Gone",
            ["Gone", "1"],
        ),
        (
            "Account|not-allowed",
            31,
            "java.lang.Runtime",
            ["java.lang.Runtime", "1"],
        ),
        ("Account|newer", 31, &format!("{class}#3"), ["newer", "3"]),
        ("Account|null", 0, "", ["serializer id 0", "1"]),
    ] {
        insert(
            &database,
            &Row {
                id,
                seq_nr: 1,
                ser_id,
                manifest,
                payload: b"{}",
            },
        );
        let answer = get(&mut engine, "Account", id).await;
        error(&answer, &[id, parts[0], parts[1]]);
    }
    insert(
        &database,
        &Row {
            payload: &[7; 7],
            ser_id: 18,
            ..text("CounterLong|short", 1, "")
        },
    );
    let answer = get(&mut engine, "CounterLong", "CounterLong|short").await;
    error(&answer, &["CounterLong|short", "7 bytes, expected 8"]);
    // Others of the same type go on, and so does the entity once its row is repaired.
    let closed = json!([{"type": "closed"}]);
    assert_eq!(
        seen(&persist(&mut engine, "Account", "Account|good", closed).await).0,
        1
    );
    database.execute(&format!(
        "UPDATE event_journal SET event_ser_id = 31, event_ser_manifest = '{class}', \
         event_payload = '{{\"type\":\"closed\"}}' WHERE persistence_id = 'Account|unknown-id'"
    ));
    let mut again = crate::golden::engine(&database).await;
    assert_eq!(
        seen(&get(&mut again, "Account", "Account|unknown-id").await).0,
        1
    );
}

/// Pekko 1.2 and Akka 2.8 do not know serializer 34; what later versions of Akka write with it is an
/// event that was taken out on its way from another service, and is passed over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_was_filtered_is_passed_over() {
    let (database, mut engine) = empty().await;
    insert(&database, &text("Note|a", 1, "x"));
    insert(
        &database,
        &Row {
            ser_id: 34,
            ..text("Note|a", 2, "")
        },
    );
    assert_eq!(
        seen(&get(&mut engine, "Note", "Note|a").await),
        (2, &json!(["x"]))
    );
    assert_eq!(
        seen(&persist(&mut engine, "Note", "Note|a", json!(["y"])).await).0,
        3
    );
}

/// Where Pekko does not recover the entity.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_nobody_knows_is_replaced_by_its_events_if_they_are_there() {
    let (database, mut engine) = empty().await;
    for (nr, line) in ["a", "b", "c"].into_iter().enumerate() {
        let nr = i64::try_from(nr).expect("small") + 1;
        insert(&database, &text("Memo|whole", nr, line));
    }
    insert_snapshot(&database, "Memo|whole", 2, 4711, "", b"?");
    let answer = get(&mut engine, "Memo", "Memo|whole").await;
    assert_eq!(seen(&answer), (3, &json!("a\nb\nc")));
    // But never a state that lacks something.
    insert(&database, &text("Memo|lost", 3, "c"));
    let marker = Row {
        ser_id: 0,
        ..text("Memo|lost", 2, "")
    };
    insert_with(
        &database,
        &marker,
        "deleted, writer, adapter_manifest",
        "true, '', ''",
    );
    insert_snapshot(&database, "Memo|lost", 2, 4711, "", b"?");
    error(
        &get(&mut engine, "Memo", "Memo|lost").await,
        &["Memo|lost", "4711"],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payloads_are_read_as_leniently_as_pekko_reads_them() {
    let (database, mut engine) = empty().await;
    let deposited = "perennial.golden.AccountEvent$Deposited#2";
    let withdrawn = "perennial.golden.AccountEvent$Withdrawn";
    let events: [(&str, i32, &str, &[u8]); 7] = [
        ("Note|no-utf-8", 20, "", b"a\xFFb"),
        ("Note|manifest", 20, "S", b"x"),
        (
            "Account|id-32",
            32,
            deposited,
            br#"{"type":"deposited","cents":5,"memo":null,"labels":[]}"#,
        ),
        (
            "Account|order",
            31,
            deposited,
            b" { \"labels\" : [ ] , \"memo\":null,\n\"cents\":5, \"type\":\"deposited\"} ",
        ),
        (
            "Account|unknown-field",
            31,
            deposited,
            br#"{"type":"deposited","new":{"a":[1]},"cents":5,"memo":null,"labels":[]}"#,
        ),
        (
            "Account|bom",
            31,
            deposited,
            b"\xEF\xBB\xBF{\"type\":\"deposited\",\"cents\":5.0,\"memo\":null,\"labels\":[]}",
        ),
        (
            "Account|version-1",
            31,
            &format!("{withdrawn}#1"),
            br#"{"type":"withdrawn","cents":5,"reason":null,"at":"2026-01-01T00:00:00Z"}"#,
        ),
    ];
    for (id, ser_id, manifest, payload) in events {
        insert(
            &database,
            &Row {
                id,
                seq_nr: 1,
                ser_id,
                manifest,
                payload,
            },
        );
        let answer = get(&mut engine, id.split_once('|').expect("a type").0, id).await;
        let (number, state) = seen(&answer);
        assert_eq!(number, 1);
        match id {
            "Note|no-utf-8" => assert_eq!(state, &json!(["a\u{FFFD}b"])),
            "Note|manifest" => assert_eq!(state, &json!(["x"])),
            "Account|version-1" => assert_eq!(state["balanceCents"], -5),
            _ => assert_eq!(state["balanceCents"], 5, "{id}"),
        }
    }
    // JSON under the id of CBOR is damage on both sides.
    insert(
        &database,
        &Row {
            id: "Sensor|json",
            seq_nr: 1,
            ser_id: 33,
            manifest: "perennial.golden.SensorEvent$Calibrated",
            payload: br#"{"offset":1.0,"table":{}}"#,
        },
    );
    error(
        &get(&mut engine, "Sensor", "Sensor|json").await,
        &["Sensor|json"],
    );
}

/// Pekko fails where the type property is missing, although the manifest names the class. It is
/// always written here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_type_property_is_written_but_not_needed() {
    let (database, mut engine) = empty().await;
    insert(
        &database,
        &Row {
            id: "Account|a",
            seq_nr: 1,
            ser_id: 31,
            manifest: "perennial.golden.AccountEvent$Deposited#2",
            payload: br#"{"cents":5,"memo":null,"labels":[]}"#,
        },
    );
    let answer = get(&mut engine, "Account", "Account|a").await;
    assert_eq!(seen(&answer).1["balanceCents"], 5);
    persist(
        &mut engine,
        "Account",
        "Account|a",
        json!([{"type": "closed"}]),
    )
    .await;
    let written = database.query("SELECT event_payload FROM event_journal WHERE seq_nr = 2");
    assert_eq!(
        written,
        [row(&[&format!("\\x{}", hex(br#"{"type":"closed"}"#))])]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cbor_with_lengths_and_half_numbers_is_read() {
    let (database, mut engine) = empty().await;
    // {"offset": 1.5 as half precision, "table": {"a": -0.0 as half precision}}, of known lengths.
    let payload = b"\xA2\x66offset\xF9\x3E\x00\x65table\xA1\x61a\xF9\x80\x00";
    insert(
        &database,
        &Row {
            id: "Sensor|a",
            seq_nr: 1,
            ser_id: 33,
            manifest: "perennial.golden.SensorEvent$Calibrated",
            payload,
        },
    );
    let question = json!({"kind": "Sensor", "id": "Sensor|a", "full": true});
    let answer = ask(&mut engine, question).await;
    assert_eq!(seen(&answer).1["offset"], 1.5);
    assert_eq!(
        answer["events"][0]["event"]["table"]["a"].to_string(),
        "-0.0"
    );
    // Written as Pekko does: maps without a length, numbers in full.
    let event = json!([{"class": "Calibrated", "offset": 1.5, "table": {"a": -0.0}}]);
    persist(&mut engine, "Sensor", "Sensor|a", event).await;
    let written = database.query("SELECT event_payload FROM event_journal WHERE seq_nr = 2");
    let expected =
        b"\xBF\x66offset\xFB\x3F\xF8\0\0\0\0\0\0\x65table\xBF\x61a\xFB\x80\0\0\0\0\0\0\0\xFF\xFF";
    assert_eq!(written, [row(&[&format!("\\x{}", hex(expected))])]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_recovery_saves_a_snapshot_and_deletes_nothing() {
    let (database, mut engine) = empty().await;
    for nr in 1..=9 {
        insert(&database, &text("Memo|a", nr, "x"));
        insert(
            &database,
            &Row {
                id: "Tally|a",
                seq_nr: nr,
                ser_id: 31,
                manifest: "perennial.golden.TallyEvent$Reset",
                payload: b"{}",
            },
        );
    }
    for id in ["Memo|a", "Tally|a"] {
        let (kind, _) = id.split_once('|').expect("a type");
        assert_eq!(seen(&get(&mut engine, kind, id).await).0, 9);
    }
    let snapshots = database.query("SELECT persistence_id, seq_nr FROM snapshot ORDER BY 1");
    assert_eq!(snapshots, [row(&["Memo|a", "9"]), row(&["Tally|a", "9"])]);
    assert_eq!(count(&database, "event_journal"), "18");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_deletes_what_pekkos_does() {
    let (database, mut engine) = empty().await;
    let tally = json!({"class": "Reset"});
    let sensor = json!({"class": "Calibrated", "offset": 0.5, "table": {}});
    for (kind, events, event) in [("Tally", 12, tally), ("Sensor", 18, sensor)] {
        for _ in 0..events {
            let answer = persist(&mut engine, kind, &format!("{kind}|a"), json!([event])).await;
            assert!(answer.get("error").is_none(), "{answer}");
        }
    }
    let snapshots = database.query("SELECT persistence_id, seq_nr FROM snapshot ORDER BY 1");
    assert_eq!(
        snapshots,
        [row(&["Sensor|a", "18"]), row(&["Tally|a", "10"])]
    );
    let markers = database.query(
        "SELECT persistence_id, seq_nr, (SELECT min(seq_nr) FROM event_journal AS event \
         WHERE event.persistence_id = marker.persistence_id AND NOT deleted) \
         FROM event_journal AS marker WHERE deleted ORDER BY 1",
    );
    assert_eq!(
        markers,
        [row(&["Sensor|a", "6", "7"]), row(&["Tally|a", "5", "6"])]
    );
}

/// Pekko 1.2 removes the row, does not wait for it, and tells nobody when that failed; as Akka,
/// perennial leaves a marker, and waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_a_durable_state_is_awaited_and_leaves_a_marker() {
    let (database, mut engine) = empty().await;
    let put = |text: &str| json!({"kind": "Motto", "id": "Motto|a", "put": text});
    let delete = json!({"kind": "Motto", "id": "Motto|a", "delete": true});
    ask(&mut engine, put("one")).await;
    let deleted = ask(&mut engine, delete.clone()).await;
    assert_eq!(
        (&deleted["revision"], &deleted["state"]),
        (&json!(2), &json!(""))
    );
    let rows = database.query("SELECT revision, state_ser_id, state_payload FROM durable_state");
    assert_eq!(rows, [row(&["2", "0", "\\x"])]);
    assert_eq!(ask(&mut engine, put("two")).await["revision"], 3);

    // A stale deletion and a stale put change nothing and say so.
    let mut stale = crate::golden::engine(&database).await;
    assert_eq!(get(&mut stale, "Motto", "Motto|a").await["revision"], 3);
    ask(&mut engine, put("three")).await;
    error(&ask(&mut stale, delete).await, &["Motto|a", "revision 4"]);
    assert_eq!(get(&mut stale, "Motto", "Motto|a").await["revision"], 4);
    ask(&mut engine, put("four")).await;
    error(
        &ask(&mut stale, put("lost")).await,
        &["Motto|a", "revision 5"],
    );
    assert_eq!(ask(&mut stale, put("five")).await["revision"], 6);
    assert_eq!(count(&database, "durable_state"), "1");
}

/// Pekko 1.2 ends with two rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_first_put_beside_a_later_revision_is_refused() {
    let (database, mut engine) = empty().await;
    let mut stale = crate::golden::engine(&database).await;
    let put = |text: &str| json!({"kind": "Motto", "id": "Motto|a", "put": text});
    assert_eq!(get(&mut stale, "Motto", "Motto|a").await["revision"], 0);
    for text in ["one", "two"] {
        ask(&mut engine, put(text)).await;
    }
    error(
        &ask(&mut stale, put("first")).await,
        &["Motto|a", "revision 2"],
    );
    assert_eq!(count(&database, "durable_state"), "1");
}

/// Pekko 1.2 hands null to the behaviour.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_marker_is_the_empty_state_with_its_revision() {
    let (database, mut engine) = empty().await;
    let id = perennial_persistence::PersistenceId::of_unique_id("Profile|vip").expect("an id");
    database.execute(&format!(
        "INSERT INTO durable_state (slice, entity_type, persistence_id, revision, db_timestamp, \
         state_ser_id, state_ser_manifest, state_payload, tags) \
         VALUES ({}, 'Profile', 'Profile|vip', 7, now(), 0, '', '', '{{vip}}')",
        id.slice().value()
    ));
    let full = json!({"kind": "Profile", "id": "Profile|vip", "full": true});
    let answer = ask(&mut engine, full).await;
    assert_eq!(answer["revision"], 7);
    assert_eq!(answer["state"]["updatedAt"], "1970-01-01T00:00:00Z");
    let marker =
        json!({"revision": 7, "ser_id": 0, "manifest": "", "tags": ["vip"], "state": null});
    assert_eq!(answer["row"], marker);
    let state = answer["state"].clone();
    let put = json!({"kind": "Profile", "id": "Profile|vip", "put": state});
    assert_eq!(ask(&mut engine, put).await["revision"], 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payloads_are_compressed_above_the_threshold_and_not_at_it() {
    let (database, mut engine) = empty().await;
    let empty = r#"{"title":"","body":"","footnotes":[]}"#.len();
    for (id, bytes, beginning) in [
        ("Doc|at", 32_768, "7b22"),
        ("Doc|above", 32_769, "1f8b0800"),
    ] {
        let body = "x".repeat(bytes - empty);
        let event = json!([{"class": "Revised", "title": "", "body": body, "footnotes": []}]);
        persist(&mut engine, "Doc", id, event).await;
        let stored = database.query(&format!(
            "SELECT left(encode(event_payload, 'hex'), {}) FROM event_journal \
             WHERE persistence_id = '{id}'",
            beginning.len()
        ));
        assert_eq!(stored, [row(&[beginning])], "{id}");
    }
}

/// perennial writes no replication metadata; what is there stays as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicated_entities_are_read_and_not_written() {
    let database = crate::golden::golden();
    let mut engine = engine(&database).await;
    let votes =
        "SELECT row.*::text FROM event_journal AS row WHERE entity_type = 'Votes' ORDER BY 1";
    let before = database.query(votes);
    let ids = database
        .query("SELECT DISTINCT persistence_id FROM event_journal WHERE entity_type = 'Votes'");
    assert!(!ids.is_empty());
    for id in ids.into_iter().flatten().flatten() {
        let full = json!({"kind": "Votes", "id": id, "full": true});
        let answer = ask(&mut engine, full).await;
        for event in answer["events"].as_array().expect("events") {
            assert_eq!(
                (&event["meta_ser_id"], &event["meta_manifest"]),
                (&json!(40), &json!("RE"))
            );
        }
        error(
            &persist(&mut engine, "Votes", &id, json!(["no"])).await,
            &["replicated"],
        );
    }
    assert_eq!(database.query(votes), before);
}
