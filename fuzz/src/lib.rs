//! What the targets share: types of every kind, and reading bytes as each of them.

use std::collections::BTreeMap;
use std::fmt::Debug;

use perennial_persistence::{Codec, Decimal, Format, Schema, SerializedPayload, Versions};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// Nested in every way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Node {
    Leaf,
    Number(i64),
    Pair(u8, Option<Box<Node>>),
    List(Vec<Node>),
    Map(BTreeMap<i32, Node>),
    Fields { text: String, raw: ByteBuf },
    Next(Box<Node>),
}

/// Every kind of field, each of which may be missing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fields {
    a: Option<u64>,
    b: Option<i64>,
    c: Option<f64>,
    d: Option<f32>,
    e: Option<char>,
    f: Option<String>,
    g: Option<ByteBuf>,
    h: Option<Decimal>,
    i: Option<bool>,
    j: Vec<Node>,
    k: BTreeMap<String, u8>,
}

/// Reads bytes as every type, straight and by way of an upcast; what can be read can be written,
/// and is the same when it is read again.
pub fn read(format: Format, bytes: &[u8]) {
    read_as::<Node>(format, bytes);
    read_as::<Fields>(format, bytes);
    read_as::<Vec<i32>>(format, bytes);
    read_as::<String>(format, bytes);
    read_as::<f64>(format, bytes);
    read_as::<Decimal>(format, bytes);
    read_as::<ByteBuf>(format, bytes);
    read_as::<()>(format, bytes);
}

/// Reads bytes as one type.
pub fn read_as<T>(format: Format, bytes: &[u8])
where
    T: Debug + PartialEq + Serialize + DeserializeOwned + 'static,
{
    let versions = Versions::new("T").version(2).upcast(1, |tree| {
        // Not every tree is a map.
        let _ = tree.rename("A", "a");
        Ok(())
    });
    // Any format reads any other.
    let schema = Schema::<T>::of(versions)
        .primitives_as("T", 2)
        .max_expanded(1 << 20)
        .format(if format.is_primitive() {
            Format::MessagePack
        } else {
            format
        })
        .build()
        .expect("a schema");
    for manifest in ["T", "T#2"] {
        let payload = SerializedPayload::new(format.serializer_id(), manifest, bytes.to_vec());
        let Ok(value) = schema.decode(&payload) else {
            continue;
        };
        let write_and_read = |value: &T| {
            let written = schema.encode(value).expect("what was read can be written");
            schema
                .decode(&written)
                .expect("what was written can be read")
        };
        let again = write_and_read(&value);
        // Text, because NaN is not equal to itself. And not the first value: CBOR gives a decimal
        // its one form.
        assert_eq!(
            format!("{:?}", write_and_read(&again)),
            format!("{again:?}")
        );
        if format != Format::JacksonCbor {
            assert_eq!(format!("{value:?}"), format!("{again:?}"));
        }
    }
}
