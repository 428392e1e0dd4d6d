//! Durable states: columns, times, and rows that are not as they must be.

use perennial_persistence::{
    DurableStateStore, SchemaCheck, StateChange, StateWrite, Store, StoredState,
};

use super::*;

/// The year 2100.
const FUTURE_MICROS: i64 = 4_102_444_800_000_000;

fn put(name: &str, expected: u64, text: &str, tags: &[&str]) -> StateWrite {
    let payload = SerializedPayload::new(77, "State", text.as_bytes().to_vec());
    let tags = tags.iter().map(|&tag| tag.to_owned()).collect();
    change(name, expected, StateChange::Put { payload, tags })
}

fn change(name: &str, expected: u64, change: StateChange) -> StateWrite {
    StateWrite::new(id(name), seq(expected), seq(expected + 1), change).expect("a valid write")
}

async fn write_state(states: &dyn DurableStateStore, write: &StateWrite) -> Result<Written, Error> {
    let mut answers = states.write_states(std::slice::from_ref(write)).await;
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

async fn load(states: &dyn DurableStateStore, name: &str) -> StoredState {
    let row = states.load(&id(name)).await.expect("a readable row");
    row.expect("a row")
}

/// All columns but the time, as SQL literals.
fn columns(connection: &Connection, name: &str) -> String {
    connection
        .query_row(
            "SELECT concat_ws(' ', slice, quote(entity_type), revision, state_ser_id,
                              quote(state_ser_manifest), quote(state_payload), quote(tags))
             FROM durable_state WHERE persistence_id = ?1",
            [id(name).as_str()],
            |row| row.get(0),
        )
        .expect("one row")
}

#[tokio::test]
async fn rows_have_the_columns_of_pekko() {
    let file = File::new();
    let states = file.open().await.durable_state_store();
    let connection = file.connection();
    let slice = id("a").slice();
    for (write, expected) in [
        (
            put("a", 0, "one", &[]),
            format!("{slice} 'Cart' 1 77 'State' X'6F6E65' NULL"),
        ),
        (
            put("a", 1, "two", &["red", "a \"b\""]),
            format!("{slice} 'Cart' 2 77 'State' X'74776F' '[\"red\",\"a \\\"b\\\"\"]'"),
        ),
        (
            change("a", 2, StateChange::Delete),
            format!("{slice} 'Cart' 3 0 '' X'' '[\"red\",\"a \\\"b\\\"\"]'"),
        ),
        (
            put("a", 3, "four", &[]),
            format!("{slice} 'Cart' 4 77 'State' X'666F7572' NULL"),
        ),
        (
            change("b", 0, StateChange::Delete),
            format!("{} 'Cart' 1 0 '' X'' NULL", id("b").slice()),
        ),
    ] {
        write_state(&*states, &write).await.expect("a good write");
        let name = write.persistence_id().entity_id();
        assert_eq!(columns(&connection, name), expected);
    }
}

/// Whoever reads the journal cannot tell it from an event of an entity that keeps events.
#[tokio::test]
async fn a_change_event_has_the_columns_of_any_event() {
    let file = File::new();
    let opened = file.open().await;
    let (journal, states) = (opened.journal(), opened.durable_state_store());
    let connection = file.connection();
    let columns = |name: &str| -> String {
        connection
            .query_row(
                "SELECT concat_ws(' ', quote(entity_type), seq_nr, event_ser_id,
                                  quote(event_ser_manifest), quote(event_payload), deleted,
                                  writer, quote(adapter_manifest), quote(tags),
                                  quote(meta_ser_id), quote(meta_ser_manifest),
                                  quote(meta_payload))
                 FROM event_journal WHERE persistence_id = ?1 ORDER BY seq_nr DESC LIMIT 1",
                [id(name).as_str()],
                |row| row.get(0),
            )
            .expect("one row")
    };
    let metadata = Some(SerializedPayload::new(78, "Meta", &b"who"[..]));
    let tags = vec!["red".to_owned(), "a \"b\"".to_owned()];
    for (number, tags, metadata) in [(1, Vec::new(), None), (2, tags, metadata)] {
        let event = NewEvent {
            tags,
            metadata,
            ..NewEvent::new(SerializedPayload::new(77, "Event", &b"told"[..]))
        };
        let writer = WriterId::from_random_bits(1);
        let write = AtomicWrite::new(id("event"), writer, seq(number), vec![event.clone()]);
        let stored = write_one(&*journal, &write.expect("a valid write")).await;
        stored.expect("a good write");
        let mut change = put("state", number - 1, "state", &[]);
        let set = change.set_change_events(writer, vec![event]);
        set.expect("a valid event");
        let written = write_state(&*states, &change).await.expect("a good write");
        assert_eq!(columns("state"), columns("event"));
        let (slice, time): (u16, i64) = connection
            .query_row(
                "SELECT slice, db_timestamp FROM event_journal
                 WHERE persistence_id = ?1 AND seq_nr = ?2",
                (id("state").as_str(), seq(number).to_i64()),
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .expect("one row");
        assert_eq!(slice, id("state").slice().value());
        assert_eq!(time, written.timestamp.as_microsecond());
    }
}

#[tokio::test]
async fn states_and_events_share_one_sequence_of_times() {
    let (file, clock) = (File::new(), ManualClock::new());
    let opened = file.open_with_clock(&clock).await;
    let (journal, states) = (opened.journal(), opened.durable_state_store());
    let mut latest = Timestamp::UNIX_EPOCH;
    for number in 1..10 {
        let event = store(&*journal, &id("event"), number).await;
        let written = write_state(&*states, &put("state", number - 1, "s", &[])).await;
        let state = written.expect("a good write").timestamp;
        assert!(latest < event && event < state, "{latest} {event} {state}");
        latest = state;
    }
}

#[tokio::test]
async fn a_state_in_the_future_that_another_program_leaves_is_noticed() {
    for has_index in [true, false] {
        let file = File::new();
        let opened = file.open().await;
        let (journal, states) = (opened.journal(), opened.durable_state_store());
        for name in ["a", "b"] {
            let written = write_state(&*states, &put(name, 0, "one", &[])).await;
            written.expect("a good write");
        }
        let connection = file.connection();
        if !has_index {
            connection
                .execute_batch("DROP INDEX durable_state_slice_idx")
                .expect("an index");
        }
        connection
            .execute(
                "UPDATE durable_state SET db_timestamp = ?1 WHERE persistence_id = 'Cart|a'",
                [FUTURE_MICROS],
            )
            .expect("a table");
        let written = write_state(&*states, &put("b", 1, "two", &[])).await;
        let time = written.expect("a good write").timestamp.as_microsecond();
        assert_eq!(time, FUTURE_MICROS + 1, "index: {has_index}");
        let event = store(&*journal, &id("event"), 1).await;
        assert_eq!(event.as_microsecond(), FUTURE_MICROS + 2);
    }
}

#[tokio::test]
async fn two_rows_of_one_id_are_no_state_and_get_no_third() {
    let file = File::new();
    file.open().await.close().await;
    let connection = file.connection();
    connection
        .execute_batch(
            "DROP INDEX durable_state_persistence_id_idx;
             INSERT INTO durable_state VALUES (0, 'Cart', 'Cart|a', 1, 1, 77, 'State', x'01', NULL);
             INSERT INTO durable_state VALUES (0, 'Cart', 'Cart|a', 5, 1, 77, 'State', x'05', NULL)",
        )
        .expect("valid SQL");
    let opened = open(file.config().with_schema_check(SchemaCheck::Verify)).await;
    let states = opened.durable_state_store();
    let count = || -> i64 {
        let sql = "SELECT count(*) FROM durable_state WHERE persistence_id = 'Cart|a'";
        let count = connection.query_row(sql, [], |row| row.get(0));
        count.expect("a number")
    };
    let corrupt = |answer: Error| {
        let text = answer.to_string();
        assert!(text.contains("not the only row"), "{text}");
    };
    corrupt(states.load(&id("a")).await.expect_err("two rows"));
    for expected in [0, 3] {
        let answer = write_state(&*states, &put("a", expected, "stale", &[])).await;
        corrupt(answer.expect_err("two rows"));
    }
    assert_eq!(count(), 2);

    // A new id gets one row only, without the index as well.
    for (name, good) in [("b", true), ("b", false)] {
        let answer = write_state(&*states, &put(name, 0, "one", &[])).await;
        assert_eq!(answer.is_ok(), good, "{answer:?}");
    }
    states.remove(&id("a")).await.expect("a removal");
    assert_eq!(count(), 0);
    let answer = write_state(&*states, &put("a", 0, "new", &[])).await;
    answer.expect("a clean id");
}

#[tokio::test]
async fn a_state_that_is_left_out_is_rejected_alone() {
    let file = File::new();
    let states = file.open().await.durable_state_store();
    let trigger = |when: &str| {
        format!(
            "CREATE TRIGGER leave_out_{when} BEFORE {when} ON durable_state
             WHEN NEW.persistence_id LIKE '%bad'
             BEGIN SELECT RAISE(IGNORE); END;"
        )
    };
    let old = write_state(&*states, &put("old-bad", 0, "one", &[])).await;
    old.expect("no trigger yet");
    file.connection()
        .execute_batch(&(trigger("INSERT") + &trigger("UPDATE")))
        .expect("valid SQL");
    let batch = [
        put("a", 0, "one", &[]),
        put("bad", 0, "one", &[]),
        put("old-bad", 1, "two", &[]),
        put("old-bad", 2, "three", &[]),
        put("b", 0, "one", &[]),
    ];
    let answers = states.write_states(&batch).await;
    for (n, answer) in answers.iter().enumerate() {
        match answer {
            Ok(_) => assert!([0, 4].contains(&n)),
            Err(Error::Rejected { reason, .. }) => {
                assert!([1, 2, 3].contains(&n) && reason.contains("left the row out"));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(load(&*states, "old-bad").await.revision, seq(1));
}

#[tokio::test]
async fn damaged_states_are_named() {
    let file = File::new();
    let states = file.open().await.durable_state_store();
    let connection = file.connection();
    for (change, part) in [
        ("state_ser_id = 0", "serializer id 0"),
        ("state_ser_id = 'x'", "state_ser_id is Text"),
        ("db_timestamp = 'soon'", "db_timestamp is Text"),
        ("tags = '{red}'", "tags is no JSON array"),
        ("state_payload = 'text'", "state_payload is Text"),
        ("revision = -3", "-3 is not a sequence number"),
    ] {
        states.remove(&id("a")).await.expect("a removal");
        let written = write_state(&*states, &put("a", 0, "one", &[])).await;
        written.expect("a clean id");
        connection
            .execute_batch(&format!("UPDATE durable_state SET {change}"))
            .expect("valid SQL");
        match states.load(&id("a")).await {
            Err(error @ Error::Corrupt { .. }) => {
                let text = error.to_string();
                assert!(text.contains("Cart|a") && text.contains(part), "{text}");
            }
            other => panic!("{change}: {other:?}"),
        }
    }
    // A manifest may be NULL, which is the empty one.
    states.remove(&id("a")).await.expect("a removal");
    let written = write_state(&*states, &put("a", 0, "one", &[])).await;
    written.expect("a clean id");
    connection
        .execute_batch("UPDATE durable_state SET state_ser_manifest = NULL")
        .expect("valid SQL");
    let payload = load(&*states, "a").await.payload.expect("a state");
    assert_eq!(&*payload.manifest, "");
}
