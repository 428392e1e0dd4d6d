//! Formats of payloads, by serializer id.

pub(crate) mod cbor;
pub(crate) mod compression;
pub(crate) mod de;
pub(crate) mod json;
pub(crate) mod message_pack;
pub(crate) mod primitive;
mod registry;
pub(crate) mod ser;
pub(crate) mod tree;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::Serialize;

pub use compression::Compression;
pub use registry::{InvalidRegistry, Registry};
pub use tree::{Decimal, Tree, TreeError};

use crate::codec::cbor::CborSink;
use crate::codec::de::Origin;
use crate::codec::json::JsonSink;
use crate::codec::primitive::PrimitiveSink;
use crate::codec::ser::TypeProperty;
use crate::payload::{self, CodecError, MESSAGE_PACK_ID};

/// How deep lists and maps may be nested in each other, in every format, written and read.
///
/// It bounds the stack that a payload can cost. What is deeper is refused when it is written.
pub const MAX_NESTING: usize = 128;

/// The id under which old versions of Akka wrote plain JSON. It is read, never written.
pub(crate) const OLD_JSON_ID: i32 = 32;

/// The lowest id of a codec of your own; those below are the framework's on the JVM.
pub const FIRST_OWN_ID: i32 = 41;

/// How values are written: the formats that are built in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// MessagePack with named fields, id [`MESSAGE_PACK_ID`]. The default: small and fast, but the
    /// JVM knows it only with a serializer of your own there.
    MessagePack,
    /// JSON as Pekko's Jackson serializer writes it, id 31.
    JacksonJson,
    /// CBOR as Pekko's Jackson serializer writes it, id 33.
    JacksonCbor,
    /// Nothing but bytes (`Array[Byte]`), id 4.
    Bytes,
    /// Nothing but bytes (`ByteString`), id 21.
    ByteString,
    /// A whole number of 64 bits, little-endian, id 18.
    Long,
    /// A whole number of 32 bits, little-endian, id 19.
    Int,
    /// UTF-8, id 20. What is no UTF-8 is read as U+FFFD.
    Text,
    /// One byte, 0 or 1, id 35.
    Boolean,
}

impl Format {
    const ALL: [Self; 9] = [
        Self::MessagePack,
        Self::JacksonJson,
        Self::JacksonCbor,
        Self::Bytes,
        Self::ByteString,
        Self::Long,
        Self::Int,
        Self::Text,
        Self::Boolean,
    ];

    /// The number in the column `event_ser_id`; the same as in Akka and Pekko.
    pub const fn serializer_id(self) -> i32 {
        match self {
            Self::MessagePack => MESSAGE_PACK_ID,
            Self::JacksonJson => 31,
            Self::JacksonCbor => 33,
            Self::Bytes => 4,
            Self::ByteString => 21,
            Self::Long => 18,
            Self::Int => 19,
            Self::Text => 20,
            Self::Boolean => 35,
        }
    }

    /// Whether payloads are one value without a manifest.
    pub const fn is_primitive(self) -> bool {
        !matches!(
            self,
            Self::MessagePack | Self::JacksonJson | Self::JacksonCbor
        )
    }

    pub(crate) fn is_jackson(self) -> bool {
        matches!(self, Self::JacksonJson | Self::JacksonCbor)
    }

    /// The format of an id, also of ids that are only read.
    pub(crate) fn of_serializer_id(id: i32) -> Option<Self> {
        if id == OLD_JSON_ID {
            return Some(Self::JacksonJson);
        }
        let mut all = Self::ALL.into_iter();
        all.find(|format| format.serializer_id() == id)
    }

    pub(crate) fn origin(self) -> Origin {
        match self {
            Self::MessagePack => Origin::MessagePack,
            Self::JacksonJson => Origin::Json,
            Self::JacksonCbor => Origin::Cbor,
            _ => Origin::Primitive,
        }
    }

    /// Every id that can be read here, for errors.
    pub(crate) fn known_ids() -> String {
        let mut ids: Vec<_> = Self::ALL.map(Self::serializer_id).to_vec();
        ids.push(OLD_JSON_ID);
        ids.sort_unstable();
        let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
        ids.join(", ")
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MessagePack => "MessagePack",
            Self::JacksonJson => "Jackson JSON",
            Self::JacksonCbor => "Jackson CBOR",
            Self::Bytes => "bytes",
            Self::ByteString => "a byte string",
            Self::Long => "a 64-bit number",
            Self::Int => "a 32-bit number",
            Self::Text => "text",
            Self::Boolean => "a truth value",
        })
    }
}

/// How payloads of a schema are written.
#[derive(Debug, Clone)]
pub(crate) struct Writing {
    pub(crate) format: Format,
    pub(crate) compression: Compression,
    /// The most bytes before compression: what is written must be readable.
    pub(crate) max_expanded: usize,
}

impl Writing {
    /// The bytes of a value.
    pub(crate) fn write<T: Serialize + ?Sized>(
        &self,
        value: &T,
        type_property: Option<TypeProperty<'_>>,
    ) -> Result<Bytes, CodecError> {
        if self.format == Format::MessagePack {
            return payload::encode(value);
        }
        payload::with_buffer(|buffer| {
            let written = match self.format {
                Format::JacksonJson => ser::serialize(value, type_property, &mut JsonSink(buffer)),
                Format::JacksonCbor => {
                    ser::serialize(value, type_property, &mut CborSink::new(buffer))
                }
                format => ser::serialize(value, None, &mut PrimitiveSink::new(format, buffer)),
            };
            written.map_err(CodecError::unencodable)?;
            if !self.format.is_jackson() {
                return Ok(Bytes::copy_from_slice(buffer));
            }
            let stored = self.compression.apply(buffer);
            match stored.map_err(CodecError::unencodable)? {
                Cow::Borrowed(plain) => Ok(Bytes::copy_from_slice(plain)),
                // Only what is compressed is bounded when it is read.
                Cow::Owned(_) if buffer.len() > self.max_expanded => {
                    Err(CodecError::unencodable(format!(
                        "{} bytes before compression; the schema allows {} (`max_expanded`)",
                        buffer.len(),
                        self.max_expanded
                    )))
                }
                Cow::Owned(compressed) => Ok(compressed.into()),
            }
        })
    }
}

/// Reads a payload of a format without a type.
pub(crate) fn read_tree(
    format: Format,
    bytes: &[u8],
    max_expanded: usize,
) -> Result<Tree, CodecError> {
    let tree = match format {
        Format::MessagePack => return message_pack::read_tree(bytes),
        Format::JacksonJson => {
            compression::expand(bytes, max_expanded).and_then(|plain| json::read(&plain))
        }
        Format::JacksonCbor => {
            compression::expand(bytes, max_expanded).and_then(|plain| cbor::read(&plain))
        }
        format => primitive::read(format, bytes),
    };
    tree.map_err(CodecError::undecodable)
}
