//! Payloads that Pekko wrote are read as Pekko reads them, and written as Pekko wrote them.

use std::collections::{BTreeMap, HashMap};

use indexmap::IndexMap;
use perennial_persistence::{
    Codec, Compression, Decimal, Format, Schema, SchemaBuilder, SerializedPayload, Versions,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use serde_json::Value;

const ROWS: &str = include_str!("../../../test-data/pekko-1.2/rows.sql");
const EXPECTED: &str = include_str!("../../../test-data/pekko-1.2/expected.jsonl");

#[derive(Serialize, Deserialize)]
enum Tier {
    #[serde(rename = "BASIC")]
    Basic,
    #[serde(rename = "GOLD")]
    Gold,
}

#[derive(Serialize, Deserialize)]
struct Limit {
    name: String,
    cents: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Opened {
    account_id: String,
    owner: String,
    tier: Tier,
    opened_at: String,
    birthday: Option<String>,
    grace: String,
    rate: Decimal,
    limits: Vec<Limit>,
    attributes: IndexMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct Deposited {
    cents: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    channel: Option<String>,
    memo: Option<String>,
    labels: Vec<Vec<String>>,
}

#[derive(Serialize, Deserialize)]
struct Withdrawn {
    cents: i64,
    reason: Option<String>,
    at: String,
}

enum AccountEvent {
    Opened(Opened),
    Deposited(Deposited),
    Withdrawn(Withdrawn),
    Closed,
}

/// A variant of an event, taken out.
macro_rules! variant {
    ($event:ident::$variant:ident) => {
        |event| match event {
            $event::$variant(content) => Some(content),
            #[allow(unreachable_patterns)]
            _ => None,
        }
    };
}

fn account_events() -> SchemaBuilder<AccountEvent> {
    let name = |class: &str| Versions::new(format!("perennial.golden.AccountEvent${class}"));
    Schema::variants()
        .format(Format::JacksonJson)
        .type_property("type")
        .variant(
            name("Opened").tagged("opened"),
            AccountEvent::Opened,
            variant!(AccountEvent::Opened),
        )
        .variant(
            name("Deposited")
                .tagged("deposited")
                .version(2)
                .upcast(1, |event| {
                    event.rename("amount", "cents")?;
                    event.set("channel", "legacy")
                }),
            AccountEvent::Deposited,
            variant!(AccountEvent::Deposited),
        )
        .variant(
            name("Withdrawn").tagged("withdrawn"),
            AccountEvent::Withdrawn,
            variant!(AccountEvent::Withdrawn),
        )
        .unit_variant(
            name("Closed").tagged("closed"),
            || AccountEvent::Closed,
            |event| matches!(event, AccountEvent::Closed),
        )
        .renamed(
            name("Debited"),
            "perennial.golden.AccountEvent$Withdrawn",
            1,
            |event| {
                event.rename("amount", "cents")?;
                event.set("reason", None::<&str>)
            },
        )
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AccountState {
    open: bool,
    owner: Option<String>,
    balance_cents: i64,
    deposits: i64,
    withdrawals: i64,
    limits: Vec<Limit>,
    last_memo: Option<String>,
    opened_at: Option<String>,
}

fn account_state() -> SchemaBuilder<AccountState> {
    let state = Versions::new("perennial.golden.AccountState")
        .version(2)
        .upcast(1, |state| state.rename("balance", "balanceCents"));
    Schema::of(state).format(Format::JacksonJson)
}

#[derive(Serialize, Deserialize)]
struct Added {
    name: String,
    delta: i64,
}

#[derive(Serialize, Deserialize)]
struct Renamed {
    from: String,
    to: String,
}

enum TallyEvent {
    Added(Added),
    Renamed(Renamed),
    Reset,
}

fn tally_events() -> SchemaBuilder<TallyEvent> {
    let name = |class: &str| Versions::new(format!("perennial.golden.TallyEvent${class}"));
    Schema::variants()
        .format(Format::JacksonJson)
        .variant(
            name("Added"),
            TallyEvent::Added,
            variant!(TallyEvent::Added),
        )
        .variant(
            name("Renamed"),
            TallyEvent::Renamed,
            variant!(TallyEvent::Renamed),
        )
        .unit_variant(
            name("Reset"),
            || TallyEvent::Reset,
            |event| matches!(event, TallyEvent::Reset),
        )
}

#[derive(Serialize, Deserialize)]
struct TallyState {
    counts: IndexMap<String, i64>,
    resets: i64,
}

#[derive(Serialize, Deserialize)]
struct Revised {
    title: String,
    body: String,
    footnotes: Vec<Option<String>>,
}

#[derive(Serialize, Deserialize)]
struct DocState {
    title: String,
    body: String,
    revisions: i32,
    footnotes: Vec<Option<String>>,
}

#[derive(Serialize, Deserialize)]
struct Measured {
    unit: String,
    value: f64,
    precision: f32,
    status: i32,
    serial: i64,
    samples: Vec<f64>,
    codes: Vec<i32>,
    raw: ByteBuf,
    minimum: Option<f64>,
    valid: bool,
    at: String,
}

#[derive(Serialize, Deserialize)]
struct Calibrated {
    offset: f64,
    table: IndexMap<String, f64>,
}

enum SensorEvent {
    Measured(Measured),
    Calibrated(Calibrated),
}

fn sensor_events() -> SchemaBuilder<SensorEvent> {
    let name = |class: &str| Versions::new(format!("perennial.golden.SensorEvent${class}"));
    Schema::variants()
        .format(Format::JacksonCbor)
        .variant(
            name("Measured"),
            SensorEvent::Measured,
            variant!(SensorEvent::Measured),
        )
        .variant(
            name("Calibrated"),
            SensorEvent::Calibrated,
            variant!(SensorEvent::Calibrated),
        )
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SensorState {
    count: i64,
    sum: f64,
    last: f64,
    offset: f64,
    per_status: IndexMap<String, i64>,
    last_codes: Vec<i32>,
}

#[derive(Serialize, Deserialize)]
struct VotesState {
    votes: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Contact {
    Phone { number: String },
    Mail { address: String, verified: bool },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    name: String,
    email: Option<String>,
    age: i32,
    contacts: Vec<Contact>,
    updated_at: String,
}

#[derive(Serialize, Deserialize)]
struct Gauge {
    level: f64,
    history: Vec<i32>,
}

/// Decodes a payload, and shows it as JSON and as the same program writes it again.
type Check = Box<dyn Fn(&SerializedPayload) -> (Value, SerializedPayload)>;

fn check<T: 'static>(builder: impl Fn() -> SchemaBuilder<T> + 'static) -> Check {
    let codec = builder().build().expect("a schema");
    // The sixth system of the recording compressed CBOR above 512 bytes.
    let gzip = builder()
        .compression(Compression::GzipAbove(512))
        .build()
        .ok();
    let shown = builder().format(Format::JacksonJson);
    let shown = shown
        .compression(Compression::Off)
        .build()
        .expect("a schema");
    Box::new(move |payload| {
        let value = codec.decode(payload).unwrap_or_else(|error| {
            panic!(
                "{payload:?}: {error}: {:?}",
                std::error::Error::source(&error)
            )
        });
        let json = shown.encode(&value).expect("JSON").bytes;
        let again = match &gzip {
            Some(gzip) if payload.serializer_id == 33 && payload.bytes.starts_with(b"\x1F\x8B") => {
                gzip.encode(&value)
            }
            _ => codec.encode(&value),
        };
        (
            serde_json::from_slice(&json).expect("JSON"),
            again.expect("what was read can be written"),
        )
    })
}

fn of<T: Serialize + serde::de::DeserializeOwned + 'static>(
    format: Format,
    class: &'static str,
) -> Check {
    check(move || {
        Schema::<T>::of(Versions::new(format!("perennial.golden.{class}"))).format(format)
    })
}

/// By kind: events, and snapshots or durable states.
fn kinds() -> HashMap<&'static str, (Check, Option<Check>)> {
    let text = || check(|| Schema::<String>::primitive(Format::Text));
    let json = Format::JacksonJson;
    HashMap::from([
        ("Note", (text(), None)),
        ("Memo", (text(), Some(text()))),
        (
            "CounterInt",
            (check(|| Schema::<i32>::primitive(Format::Int)), None),
        ),
        (
            "CounterLong",
            (
                check(|| Schema::<i64>::primitive(Format::Long)),
                Some(check(|| Schema::<i64>::primitive(Format::Long))),
            ),
        ),
        (
            "Flag",
            (check(|| Schema::<bool>::primitive(Format::Boolean)), None),
        ),
        (
            "Blob",
            (check(|| Schema::<ByteBuf>::primitive(Format::Bytes)), None),
        ),
        (
            "Frame",
            (
                check(|| Schema::<ByteBuf>::primitive(Format::ByteString)),
                None,
            ),
        ),
        (
            "Account",
            (check(account_events), Some(check(account_state))),
        ),
        (
            "Tally",
            (
                check(tally_events),
                Some(of::<TallyState>(json, "TallyState")),
            ),
        ),
        (
            "Doc",
            (
                of::<Revised>(json, "DocEvent$Revised"),
                Some(of::<DocState>(json, "DocState")),
            ),
        ),
        (
            "Sensor",
            (
                check(sensor_events),
                Some(of::<SensorState>(Format::JacksonCbor, "SensorState")),
            ),
        ),
        (
            "Votes",
            (text(), Some(of::<VotesState>(json, "VotesState"))),
        ),
        ("Profile", (text(), Some(of::<Profile>(json, "Profile")))),
        ("Motto", (text(), Some(text()))),
        (
            "Gauge",
            (text(), Some(of::<Gauge>(Format::JacksonCbor, "Gauge"))),
        ),
    ])
}

/// The values of one row by column; NULL is left out.
type Row = BTreeMap<String, String>;

/// The rows of a table in a dump of `INSERT` statements.
fn rows(table: &str) -> Vec<Row> {
    let start = format!("INSERT INTO public.{table} (");
    let statements = ROWS.split(&start).skip(1);
    let rows = statements.map(|statement| {
        let (columns, rest) = statement.split_once(") VALUES (").expect("columns");
        let mut chars = rest.chars().peekable();
        let mut row = Row::new();
        for column in columns.split(", ") {
            let mut value = String::new();
            let quoted = chars.next_if_eq(&'\'').is_some();
            loop {
                match chars.next().expect("the statement goes on") {
                    '\'' if quoted && chars.next_if_eq(&'\'').is_none() => break,
                    ',' | ')' if !quoted => break,
                    c => value.push(c),
                }
            }
            if quoted {
                chars.next().expect("a comma or a bracket");
            }
            chars.next_if_eq(&' ');
            if quoted || value != "NULL" {
                row.insert(column.to_owned(), value);
            }
        }
        row
    });
    rows.collect()
}

fn payload(row: &Row, prefix: &str, bytes: &str) -> SerializedPayload {
    let hex = row[bytes].strip_prefix("\\x").expect("bytea");
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
    let id = row[&format!("{prefix}ser_id")].parse().expect("a number");
    let manifest = row[&format!("{prefix}ser_manifest")].as_str();
    SerializedPayload::new(id, manifest, bytes)
}

/// Equal as JSON values, numbers by value, without what only the recording added.
fn assert_same(found: &Value, expected: &Value, what: &str) {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            let keys = |map: &serde_json::Map<String, Value>| {
                let mut keys: Vec<_> = map.keys().filter(|key| *key != "class").cloned().collect();
                keys.sort_unstable();
                keys
            };
            assert_eq!(keys(found), keys(expected), "{what}");
            for (key, value) in found {
                assert_same(value, &expected[key], &format!("{what} {key}"));
            }
        }
        (Value::String(text), Value::Object(base64)) => {
            assert_eq!(Some(text.as_str()), base64["base64"].as_str(), "{what}");
        }
        (Value::Array(found), Value::Array(expected)) => {
            assert_eq!(found.len(), expected.len(), "{what}");
            for (found, expected) in found.iter().zip(expected) {
                assert_same(found, expected, what);
            }
        }
        (Value::Number(found), Value::Number(expected)) => {
            let same = match (found.as_i64(), expected.as_i64()) {
                (Some(found), Some(expected)) => found == expected,
                _ => found.as_f64().map(f64::to_bits) == expected.as_f64().map(f64::to_bits),
            };
            assert!(same, "{what}: {found} is not {expected}");
        }
        _ => assert_eq!(found, expected, "{what}"),
    }
}

#[derive(Default)]
struct Counts {
    read: usize,
    written_equal: usize,
    upcast: usize,
    lz4: usize,
}

impl Counts {
    fn check(&mut self, check: &Check, payload: &SerializedPayload, expected: &Value, what: &str) {
        let (value, again) = check(payload);
        assert_same(&value, expected, what);
        self.read += 1;
        if again.manifest != payload.manifest {
            self.upcast += 1;
        } else if payload.bytes.starts_with(b"\x87\xD9\x6D\xF6") {
            // The JVM's LZ4 finds other matches than ours.
            self.lz4 += 1;
        } else {
            assert_eq!(again.serializer_id, payload.serializer_id, "{what}");
            assert!(again.bytes == payload.bytes, "{what}: other bytes");
            self.written_equal += 1;
        }
    }
}

#[test]
fn every_payload_of_pekko_is_read_and_written_as_pekko_does() {
    let kinds = kinds();
    let expected: HashMap<String, Value> = EXPECTED
        .lines()
        .map(|line| {
            let entity: Value = serde_json::from_str(line).expect("JSON");
            let id = entity["persistence_id"].as_str().expect("an id");
            (id.to_owned(), entity)
        })
        .collect();
    let kind = |entity: &Value| &kinds[entity["kind"].as_str().expect("a kind")];

    let mut events = Counts::default();
    for row in rows("event_journal") {
        if row["deleted"] == "true" {
            continue;
        }
        let what = format!("{} {}", row["persistence_id"], row["seq_nr"]);
        let entity = &expected[&row["persistence_id"]];
        let found = entity["events"].as_array().expect("events");
        let number = row["seq_nr"].parse::<u64>().ok();
        let found = found
            .iter()
            .find(|event| event["seq_nr"].as_u64() == number);
        let event = &found.unwrap_or_else(|| panic!("{what} is unexpected"))["event"];
        let payload = payload(&row, "event_", "event_payload");
        events.check(&kind(entity).0, &payload, event, &what);
    }
    let mut states = Counts::default();
    for row in rows("snapshot") {
        let id = &row["persistence_id"];
        let entity = &expected[id];
        let check = kind(entity).1.as_ref().expect("a kind with snapshots");
        let payload = payload(&row, "", "snapshot");
        states.check(check, &payload, &entity["snapshot"]["state"], id);
    }
    for row in rows("durable_state") {
        let id = &row["persistence_id"];
        let entity = &expected[id];
        let check = kind(entity).1.as_ref().expect("a kind with states");
        let payload = payload(&row, "state_", "state_payload");
        states.check(check, &payload, &entity["row"]["state"], id);
    }
    assert_eq!(events.read, 556, "570 rows of which 14 are delete markers");
    assert_eq!(states.read, 36 + 15);
    let counts = |counts: &Counts| (counts.written_equal, counts.upcast, counts.lz4);
    assert_eq!(counts(&events), (482, 69, 5));
    assert_eq!(counts(&states), (45, 5, 1));
}
