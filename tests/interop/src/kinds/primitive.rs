//! Kinds whose events are one value of a primitive serializer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use perennial_persistence::{CodecError, Format, Schema, SchemaBuilder, SerializedPayload};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use serde_json::json;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::json::{Json, plain};
use crate::kind::{Kind, Snapshots};

/// Texts, one after the other.
#[derive(Default)]
pub(crate) struct Note(Vec<String>);

impl Kind for Note {
    const NAME: &'static str = "Note";
    type Event = String;

    fn events() -> SchemaBuilder<String> {
        Schema::primitive(Format::Text)
    }

    fn apply(&mut self, text: &String, _: Option<&SerializedPayload>) {
        self.0.push(text.clone());
    }

    fn tags(text: &String) -> Vec<String> {
        let tag = text.starts_with('#').then(|| "hash".to_owned());
        tag.into_iter().collect()
    }

    fn event_json(text: &String) -> Result<Json, CodecError> {
        plain(text)
    }

    fn state_json(&self) -> Result<Json, CodecError> {
        plain(&self.0)
    }
}

/// One text that grows by lines.
#[derive(Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Memo(String);

impl Kind for Memo {
    const NAME: &'static str = "Memo";
    const SNAPSHOTS: Option<Snapshots> = Some(Snapshots {
        every: 4,
        keep: 2,
        delete_events: false,
    });
    type Event = String;

    fn events() -> SchemaBuilder<String> {
        Schema::primitive(Format::Text)
    }

    fn states() -> Option<SchemaBuilder<Self>> {
        Some(Schema::primitive(Format::Text))
    }

    fn apply(&mut self, text: &String, _: Option<&SerializedPayload>) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.0.push_str(text);
    }

    fn event_json(text: &String) -> Result<Json, CodecError> {
        plain(text)
    }

    fn state_json(&self) -> Result<Json, CodecError> {
        plain(&self.0)
    }
}

/// A sum of small numbers.
#[derive(Default)]
pub(crate) struct CounterInt(i64);

impl Kind for CounterInt {
    const NAME: &'static str = "CounterInt";
    type Event = i32;

    fn events() -> SchemaBuilder<i32> {
        Schema::primitive(Format::Int)
    }

    fn apply(&mut self, number: &i32, _: Option<&SerializedPayload>) {
        self.0 = self.0.wrapping_add(i64::from(*number));
    }

    fn event_json(number: &i32) -> Result<Json, CodecError> {
        plain(number)
    }

    fn state_json(&self) -> Result<Json, CodecError> {
        plain(&self.0)
    }
}

/// A sum that wraps around.
#[derive(Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct CounterLong(i64);

impl Kind for CounterLong {
    const NAME: &'static str = "CounterLong";
    const SNAPSHOTS: Option<Snapshots> = Some(Snapshots {
        every: 10,
        keep: 1,
        delete_events: false,
    });
    type Event = i64;

    fn events() -> SchemaBuilder<i64> {
        Schema::primitive(Format::Long)
    }

    fn states() -> Option<SchemaBuilder<Self>> {
        Some(Schema::primitive(Format::Long))
    }

    fn apply(&mut self, number: &i64, _: Option<&SerializedPayload>) {
        self.0 = self.0.wrapping_add(*number);
    }

    fn event_json(number: &i64) -> Result<Json, CodecError> {
        plain(number)
    }

    fn state_json(&self) -> Result<Json, CodecError> {
        plain(&self.0)
    }
}

/// Truth values, one after the other.
#[derive(Default)]
pub(crate) struct Flag(Vec<bool>);

impl Kind for Flag {
    const NAME: &'static str = "Flag";
    type Event = bool;

    fn events() -> SchemaBuilder<bool> {
        Schema::primitive(Format::Boolean)
    }

    fn apply(&mut self, value: &bool, _: Option<&SerializedPayload>) {
        self.0.push(*value);
    }

    fn event_json(value: &bool) -> Result<Json, CodecError> {
        plain(value)
    }

    fn state_json(&self) -> Result<Json, CodecError> {
        plain(&self.0)
    }
}

/// All bytes that came, of which the lines show a digest.
#[derive(Default)]
struct Bytes {
    count: u64,
    all: Vec<u8>,
}

impl Bytes {
    fn append(&mut self, bytes: &[u8]) {
        self.count += 1;
        self.all.extend_from_slice(bytes);
    }

    fn json(&self) -> Result<Json, CodecError> {
        let digest = Sha256::digest(&self.all);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        plain(&json!({"count": self.count, "bytes": self.all.len(), "sha256": hex}))
    }
}

/// Bytes in the lines.
#[derive(Serialize, Deserialize)]
struct Base64 {
    base64: String,
}

fn bytes_payload(format: Format, json: &RawValue) -> Result<SerializedPayload, String> {
    let parsed: Result<Base64, _> = serde_json::from_str(json.get());
    let text = parsed.map_err(|error| format!("bytes are an object with `base64`: {error}"))?;
    let bytes = STANDARD.decode(text.base64);
    let bytes = bytes.map_err(|error| format!("`base64` is none: {error}"))?;
    Ok(SerializedPayload::new(format.serializer_id(), "", bytes))
}

fn bytes_json(bytes: &[u8]) -> Result<Json, CodecError> {
    let base64 = STANDARD.encode(bytes);
    plain(&Base64 { base64 })
}

/// Bytes as the JVM's `byte[]`.
#[derive(Default)]
pub(crate) struct Blob(Bytes);

/// Bytes as the JVM's `ByteString`.
#[derive(Default)]
pub(crate) struct Frame(Bytes);

macro_rules! kind_of_bytes {
    ($kind:ident, $format:expr) => {
        impl Kind for $kind {
            const NAME: &'static str = stringify!($kind);
            type Event = ByteBuf;

            fn events() -> SchemaBuilder<ByteBuf> {
                Schema::primitive($format)
            }

            fn apply(&mut self, bytes: &ByteBuf, _: Option<&SerializedPayload>) {
                self.0.append(bytes);
            }

            fn event_payload(json: &RawValue) -> Result<SerializedPayload, String> {
                bytes_payload($format, json)
            }

            fn event_json(bytes: &ByteBuf) -> Result<Json, CodecError> {
                bytes_json(bytes)
            }

            fn state_json(&self) -> Result<Json, CodecError> {
                self.0.json()
            }
        }
    };
}

kind_of_bytes!(Blob, Format::Bytes);
kind_of_bytes!(Frame, Format::ByteString);
