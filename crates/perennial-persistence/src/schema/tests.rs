//! Names, versions, and what becomes of old payloads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::*;
use crate::{Compression, MESSAGE_PACK_ID, TreeError};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Deposited {
    cents: i64,
    channel: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Withdrawn {
    cents: i64,
}

#[derive(Debug, Clone, PartialEq)]
enum Event {
    Deposited(Deposited),
    Withdrawn(Withdrawn),
    Closed,
}

fn deposited(cents: i64, channel: &str) -> Event {
    Event::Deposited(Deposited {
        cents,
        channel: channel.to_owned(),
    })
}

fn withdrawn(cents: i64) -> Event {
    Event::Withdrawn(Withdrawn { cents })
}

/// `Deposited` is at its third version; `Debited` had two before it became `Withdrawn`, which has
/// two now.
fn events() -> SchemaBuilder<Event> {
    Schema::variants()
        .format(Format::JacksonJson)
        .variant(
            Versions::new("Deposited")
                .version(3)
                .upcast(1, |event| event.rename("amount", "cents"))
                .upcast(2, |event| event.set("channel", "legacy"))
                .newer(4, |event| event.rename("way", "channel"))
                .newer(5, |event| {
                    event.remove("later");
                    Ok(())
                }),
            Event::Deposited,
            |event| match event {
                Event::Deposited(content) => Some(content),
                _ => None,
            },
        )
        .variant(
            Versions::new("Withdrawn")
                .version(2)
                .upcast(1, |event| event.rename("amount", "cents")),
            Event::Withdrawn,
            |event| match event {
                Event::Withdrawn(content) => Some(content),
                _ => None,
            },
        )
        .unit_variant(
            Versions::new("Closed"),
            || Event::Closed,
            |event| matches!(event, Event::Closed),
        )
        .renamed(
            Versions::new("Debited")
                .version(2)
                .upcast(1, |event| event.rename("sum", "total")),
            "Withdrawn",
            1,
            |event| event.rename("total", "amount"),
        )
        .read_only(Versions::new("Fee"), |cents: i64| withdrawn(cents))
        .read_each(Versions::new("Batch"), |all: Vec<i64>| {
            all.into_iter().map(withdrawn)
        })
        .ignored(Versions::new("Heartbeat"))
}

fn schema() -> Schema<Event> {
    events().build().expect("a schema")
}

fn all(
    codec: &impl Codec<Event>,
    id: i32,
    manifest: &str,
    bytes: &[u8],
) -> Result<Vec<Event>, CodecError> {
    let mut events = Vec::new();
    let payload = SerializedPayload::new(id, manifest, bytes.to_vec());
    codec.decode_each(&payload, &mut |event| events.push(event))?;
    Ok(events)
}

fn check(manifest: &str, text: &str, expected: &[Event]) {
    let found = all(&schema(), 31, manifest, text.as_bytes());
    assert_eq!(found.expect(manifest), expected, "{manifest}");
}

fn check_error(manifest: &str, text: &str, part: &str) {
    let error = all(&schema(), 31, manifest, text.as_bytes()).expect_err(manifest);
    let text = error.to_string();
    assert!(text.contains(part), "{text}");
}

#[test]
fn every_version_becomes_the_current_one() {
    check("Deposited", r#"{"amount":5}"#, &[deposited(5, "legacy")]);
    check("Deposited#1", r#"{"amount":5}"#, &[deposited(5, "legacy")]);
    check("Deposited#2", r#"{"cents":5}"#, &[deposited(5, "legacy")]);
    check(
        "Deposited#3",
        r#"{"cents":5,"channel":"web"}"#,
        &[deposited(5, "web")],
    );
    check(
        "Deposited#03",
        r#"{"cents":5,"channel":"web"}"#,
        &[deposited(5, "web")],
    );
}

#[test]
fn a_newer_version_is_read_only_if_that_is_allowed() {
    check(
        "Deposited#4",
        r#"{"cents":5,"way":"web"}"#,
        &[deposited(5, "web")],
    );
    check(
        "Deposited#5",
        r#"{"cents":5,"way":"web","later":1}"#,
        &[deposited(5, "web")],
    );
    check_error(
        "Deposited#6",
        "{}",
        "version 6 of \"Deposited\" is newer than version 5",
    );
    check_error(
        "Withdrawn#3",
        "{}",
        "version 3 of \"Withdrawn\" is newer than version 2",
    );
    check_error("Closed#2", "{}", "newer than version 1");
}

#[test]
fn a_renamed_payload_goes_through_the_versions_of_both_names() {
    check("Debited", r#"{"sum":5}"#, &[withdrawn(5)]);
    check("Debited#2", r#"{"total":5}"#, &[withdrawn(5)]);
    check("Withdrawn", r#"{"amount":5}"#, &[withdrawn(5)]);
    check("Withdrawn#2", r#"{"cents":5}"#, &[withdrawn(5)]);
}

#[test]
fn a_payload_stands_for_as_many_values_as_its_name_says() {
    check("Closed", "{}", &[Event::Closed]);
    check("Fee", "5", &[withdrawn(5)]);
    check(
        "Batch",
        "[1,2,3]",
        &[withdrawn(1), withdrawn(2), withdrawn(3)],
    );
    check("Batch", "[]", &[]);
    check("Heartbeat", "{}", &[]);
    check("Heartbeat", "no JSON", &[]);
    check("Closed", "no JSON", &[Event::Closed]);
    let decode = |manifest: &str, text: &'static str| {
        let payload = SerializedPayload::new(31, manifest, text.as_bytes());
        schema().decode(&payload)
    };
    assert_eq!(decode("Batch", "[7]").ok(), Some(withdrawn(7)));
    for (text, expected) in [("[1,2]", 2), ("[]", 0)] {
        let error = decode("Batch", text).expect_err("not one");
        assert!(matches!(error, CodecError::NotOne { count } if count == expected));
    }
}

#[test]
fn what_is_unknown_is_named_beside_what_is_known() {
    check_error("Opened", "{}", "\"Opened\" (serializer id 31)");
    check_error("Opened", "{}", "\"Batch\", \"Closed\", \"Debited\"");
    check_error("Deposited#", "{}", "\"Deposited#\"");
    check_error("Deposited#x", "{}", "\"Deposited#x\"");
    check_error("deposited", "{}", "\"deposited\"");
    let error = all(&schema(), 77, "Closed", b"")
        .expect_err("unknown")
        .to_string();
    assert!(
        error.contains("serializer id 77 (manifest \"Closed\")"),
        "{error}"
    );
    assert!(error.contains("18, 19, 20, 21, 31, 32, 33, 35"), "{error}");
    let error = all(&schema(), 0, "", b"")
        .expect_err("no payload")
        .to_string();
    assert!(error.contains("serializer id 0"), "{error}");
    let error = all(&schema(), 20, "", b"text")
        .expect_err("no primitive")
        .to_string();
    assert!(error.contains("primitives_as"), "{error}");
}

#[test]
fn a_step_that_fails_names_its_version() {
    check_error(
        "Deposited",
        r#"{"cents":5}"#,
        "version 1 of \"Deposited\" cannot be brought up",
    );
    check_error("Deposited#2", "[]", "version 2 of \"Deposited\"");
    check_error("Debited#2", "{}", "version 2 of \"Debited\"");
    let schema = Schema::<i64>::of(
        Versions::new("N")
            .version(2)
            .upcast(1, |_| Err(TreeError::new("no such thing"))),
    );
    let schema = schema.build().expect("a schema");
    let old = SerializedPayload::new(31, "N", &b"1"[..]);
    let error = schema.decode(&old).expect_err("refused");
    let source = std::error::Error::source(&error).expect("what the step said");
    assert_eq!(source.to_string(), "no such thing");
}

#[test]
fn new_payloads_have_the_current_name_and_version() {
    let written = |event: Event| {
        let payload = schema().encode(&event).expect("a written variant");
        let text = String::from_utf8(payload.bytes.to_vec()).expect("JSON");
        (payload.serializer_id, payload.manifest.to_string(), text)
    };
    let expected = |manifest: &str, text: &str| (31, manifest.to_owned(), text.to_owned());
    assert_eq!(
        written(deposited(5, "web")),
        expected("Deposited#3", r#"{"cents":5,"channel":"web"}"#)
    );
    assert_eq!(
        written(withdrawn(5)),
        expected("Withdrawn#2", r#"{"cents":5}"#)
    );
    assert_eq!(written(Event::Closed), expected("Closed", "{}"));
    assert_eq!(
        schema().manifests().collect::<Vec<_>>(),
        ["Deposited#3", "Withdrawn#2", "Closed"]
    );
}

#[test]
fn a_variant_without_a_name_is_not_written() {
    let schema = Schema::<Event>::variants()
        .read_only(Versions::new("Fee"), |cents: i64| withdrawn(cents))
        .build()
        .expect("a schema");
    let error = schema.encode(&withdrawn(1)).expect_err("only read");
    assert!(matches!(error, CodecError::Unencodable(_)));
}

#[test]
fn every_format_is_read_whatever_is_written() {
    let events = [deposited(5, "web"), withdrawn(6), Event::Closed];
    let formats = [
        Format::MessagePack,
        Format::JacksonJson,
        Format::JacksonCbor,
    ];
    for written in formats {
        let writer = super::tests::events()
            .format(written)
            .build()
            .expect("a schema");
        for read in formats {
            let reader = super::tests::events()
                .format(read)
                .build()
                .expect("a schema");
            for event in &events {
                let payload = writer.encode(event).expect("a written variant");
                assert_eq!(payload.serializer_id, written.serializer_id());
                assert_eq!(reader.decode(&payload).ok().as_ref(), Some(event));
            }
        }
    }
    // Old versions too: {"amount": 5}.
    let old = all(
        &schema(),
        MESSAGE_PACK_ID,
        "Deposited",
        b"\x81\xA6amount\x05",
    );
    assert_eq!(old.expect("MessagePack"), [deposited(5, "legacy")]);
    let old = all(&schema(), 33, "Deposited", b"\xBF\x66amount\x05\xFF");
    assert_eq!(old.expect("CBOR"), [deposited(5, "legacy")]);
    let old = all(&schema(), 32, "Deposited", br#"{"amount":5}"#);
    assert_eq!(old.expect("JSON"), [deposited(5, "legacy")]);
}

#[test]
fn a_primitive_can_become_a_named_type() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Note {
        text: String,
    }
    let schema = Schema::<Note>::of(Versions::new("Note").version(2).upcast(1, |note| {
        *note = Tree::map([("text", std::mem::replace(note, Tree::Null))]);
        Ok(())
    }))
    .primitives_as("Note", 1)
    .build()
    .expect("a schema");
    // A manifest of a primitive is ignored, as the JVM does.
    for manifest in ["", "whatever"] {
        let old = SerializedPayload::new(20, manifest, &b"buy milk"[..]);
        let text = "buy milk".to_owned();
        assert_eq!(schema.decode(&old).ok(), Some(Note { text }));
    }
}

#[test]
fn a_type_without_a_name_in_its_manifest() {
    let state = Versions::new("").version(2).upcast(1, |_| Ok(()));
    let schema = Schema::<i64>::of(state).format(Format::JacksonJson);
    let schema = schema.build().expect("a schema");
    assert_eq!(&*schema.encode(&5).expect("a number").manifest, "#2");
    for manifest in ["", "#1", "#2"] {
        let payload = SerializedPayload::new(31, manifest, &b"5"[..]);
        assert_eq!(schema.decode(&payload).ok(), Some(5), "{manifest}");
    }
}

#[test]
fn a_type_property_comes_first_and_may_be_missing() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Empty {}

    fn tagged<T: Serialize + DeserializeOwned + 'static>(format: Format) -> Schema<T> {
        Schema::<T>::of(Versions::new("T").tagged("t"))
            .format(format)
            .type_property("type")
            .build()
            .expect("a schema")
    }
    let bytes = |payload: SerializedPayload| payload.bytes;
    let json = tagged::<Withdrawn>(Format::JacksonJson);
    let payload = json.encode(&Withdrawn { cents: 5 }).expect("a struct");
    assert_eq!(&payload.bytes[..], br#"{"type":"t","cents":5}"#);
    assert_eq!(json.decode(&payload).ok(), Some(Withdrawn { cents: 5 }));
    let without = SerializedPayload::new(31, "T", &br#"{"cents":5}"#[..]);
    assert_eq!(json.decode(&without).ok(), Some(Withdrawn { cents: 5 }));

    let cbor = tagged::<Withdrawn>(Format::JacksonCbor);
    let payload = cbor.encode(&Withdrawn { cents: 5 }).expect("a struct");
    assert_eq!(&payload.bytes[..], b"\xBF\x64type\x61t\x65cents\x05\xFF");

    let empty = tagged::<Empty>(Format::JacksonJson).encode(&Empty {});
    assert_eq!(
        empty.map(bytes).ok().as_deref(),
        Some(&br#"{"type":"t"}"#[..])
    );
    let unit = tagged::<()>(Format::JacksonJson).encode(&());
    assert_eq!(
        unit.map(bytes).ok().as_deref(),
        Some(&br#"{"type":"t"}"#[..])
    );
    // A field of that name could not be told from it.
    let taken = BTreeMap::from([("type".to_owned(), 1)]);
    assert!(tagged(Format::JacksonJson).encode(&taken).is_err());
    assert!(
        tagged(Format::JacksonJson)
            .encode(&BTreeMap::from([("a".to_owned(), taken)]))
            .is_ok()
    );
    // There is no place for it in a list, and none in MessagePack.
    assert!(
        tagged::<Vec<i32>>(Format::JacksonJson)
            .encode(&vec![1])
            .is_err()
    );
    let plain = tagged::<Vec<i32>>(Format::MessagePack).encode(&vec![1]);
    assert_eq!(plain.map(bytes).ok().as_deref(), Some(&b"\x91\x01"[..]));
}

fn problems<T: 'static>(builder: SchemaBuilder<T>, parts: &[&str]) {
    let InvalidSchema { problems } = builder.build().expect_err("no schema");
    assert_eq!(problems.len(), parts.len(), "{problems:?}");
    for part in parts {
        assert!(
            problems.iter().any(|text| text.contains(part)),
            "{part}: {problems:?}"
        );
    }
}

#[test]
fn a_schema_that_makes_no_sense_is_not_built() {
    let of = |versions: Versions| Schema::<i64>::of(versions);
    let named = || Versions::new("N");
    problems(Schema::<i64>::variants(), &["no name"]);
    problems(of(named().version(0)), &["version 0"]);
    problems(
        of(named().version(3).upcast(1, |_| Ok(()))),
        &["no upcast from version 2"],
    );
    problems(of(named().version(2)), &["no upcast from version 1"]);
    problems(
        of(named().upcast(1, |_| Ok(()))),
        &["upcast from version 1"],
    );
    let twice = named()
        .version(2)
        .upcast(1, |_| Ok(()))
        .upcast(1, |_| Ok(()));
    problems(of(twice), &["two upcasts"]);
    problems(of(named().newer(1, |_| Ok(()))), &["is not newer"]);
    problems(of(named().newer(3, |_| Ok(()))), &["leads to version 2"]);
    problems(of(Versions::new("a#b")), &["contains `#`"]);
    problems(of(Versions::new("x".repeat(256))), &["256 characters"]);
    problems(
        of(Versions::new("x".repeat(255)).version(2).oldest(2)),
        &["257 characters"],
    );
    problems(of(named()).ignored(named()), &["given twice"]);
    problems(
        of(named()).renamed(Versions::new("O"), "N", 2, |_| Ok(())),
        &["leads to version 2"],
    );
    problems(
        of(named()).renamed(Versions::new("O"), "O", 1, |_| Ok(())),
        &["leads back to itself"],
    );
    problems(of(named().tagged("n")), &["the schema has none"]);
    problems(
        of(named()).type_property("type"),
        &["no value for the type property"],
    );
    problems(
        of(named()).compression(Compression::GzipAbove(1)),
        &["never compressed"],
    );
    problems(of(named()).primitives_as("N", 2), &["which is unknown"]);
    let two = |name: &str| Versions::new(name).version(2).oldest(2);
    problems(of(two("N")).format(Format::Long), &["could tell version 2"]);
    let both = Schema::<i64>::variants()
        .format(Format::Long)
        .variant(named(), |n| n, |n| Some(n))
        .variant(Versions::new("M"), |n| n, |n| Some(n));
    problems(both, &["tell 2 names apart"]);
    assert!(of(Versions::new("x".repeat(255))).build().is_ok());
    assert!(of(two("N")).build().is_ok());
}

#[test]
fn an_adapter_stands_between_the_program_and_the_journal() {
    let codec = Adapted::new(
        schema(),
        |cents: &i64| withdrawn(*cents),
        |event| match event {
            Event::Withdrawn(Withdrawn { cents }) => vec![cents],
            Event::Deposited(Deposited { cents, .. }) => vec![-cents, 0],
            Event::Closed => vec![],
        },
    );
    let payload = codec.encode(&5).expect("an event");
    assert_eq!(&*payload.manifest, "Withdrawn#2");
    assert_eq!(codec.decode(&payload).ok(), Some(5));
    let each = |manifest: &str, text: &'static str| {
        let payload = SerializedPayload::new(31, manifest, text.as_bytes());
        let mut all = Vec::new();
        codec
            .decode_each(&payload, &mut |value| all.push(value))
            .expect("an event");
        all
    };
    assert_eq!(each("Deposited", r#"{"amount":5}"#), [-5, 0]);
    assert_eq!(each("Closed", "{}"), [0; 0]);
    assert_eq!(each("Batch", "[1,2]"), [1, 2]);
}
