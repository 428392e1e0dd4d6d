//! Payloads as they stand in the tables, and the codecs between them and values.

use std::cell::Cell;
use std::error::Error as StdError;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::message_pack;

/// The serializer id of [`MessagePack`]: `0x4D736750`, the ASCII letters "MsgP".
pub const MESSAGE_PACK_ID: i32 = 0x4D73_6750;

/// The serializer id that means "no payload"; delete markers carry it. Never a codec's id.
pub const NO_PAYLOAD_ID: i32 = 0;

/// The serializer id of an event that was filtered out on its way here, such as by replication over
/// gRPC: its number is taken, and there is nothing to apply.
pub const FILTERED_PAYLOAD_ID: i32 = 34;

/// The most characters a manifest may have: the columns are `VARCHAR(255)`.
pub const MAX_MANIFEST_CHARS: usize = 255;

/// A value as the tables hold it: who can read it, what it is, and its bytes.
///
/// `Debug` shows the number of bytes, never their content.
#[derive(Clone, PartialEq, Eq)]
pub struct SerializedPayload {
    /// Which codec wrote it; the same numbers as in Akka and Pekko.
    pub serializer_id: i32,
    /// What the codec needs besides the bytes: a stable type name, `#n` appended from version 2
    /// on. Empty when the codec needs nothing. At most 255 characters.
    pub manifest: Arc<str>,
    /// The encoded value.
    pub bytes: Bytes,
}

impl SerializedPayload {
    /// A payload from its parts.
    pub fn new(serializer_id: i32, manifest: impl Into<Arc<str>>, bytes: impl Into<Bytes>) -> Self {
        Self {
            serializer_id,
            manifest: manifest.into(),
            bytes: bytes.into(),
        }
    }
}

impl fmt::Debug for SerializedPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SerializedPayload")
            .field("serializer_id", &self.serializer_id)
            .field("manifest", &self.manifest)
            .field("bytes", &self.bytes.len())
            .finish()
    }
}

/// Turns values of `T` into payloads and back.
///
/// What a codec has written it must be able to read for ever: payloads are never rewritten.
pub trait Codec<T>: fmt::Debug + Send + Sync + 'static {
    /// Encodes one value.
    ///
    /// # Errors
    /// [`CodecError`] if the value has no representation; nothing is stored then.
    fn encode(&self, value: &T) -> Result<SerializedPayload, CodecError>;

    /// Decodes one value.
    ///
    /// # Errors
    /// [`CodecError`] if the payload is another codec's, of an unknown type, or damaged.
    fn decode(&self, payload: &SerializedPayload) -> Result<T, CodecError>;

    /// Decodes a payload that stands for any number of values today, and gives each to `each`, in
    /// order: an event that was split since, or one that means nothing any more. By default there
    /// is one.
    ///
    /// # Errors
    /// As [`Codec::decode`]. Values that were given before the error are not taken back.
    fn decode_each(
        &self,
        payload: &SerializedPayload,
        each: &mut dyn FnMut(T),
    ) -> Result<(), CodecError> {
        each(self.decode(payload)?);
        Ok(())
    }
}

/// MessagePack with named fields, serializer id [`MESSAGE_PACK_ID`].
///
/// Structs are maps with their field names, so fields can be added (with `#[serde(default)]`) and
/// reordered. The manifest is a stable name that the user chooses, not the Rust type's.
///
/// ```
/// use perennial_persistence::{Codec, MESSAGE_PACK_ID, MessagePack};
///
/// let codec = MessagePack::<(u8, String)>::new("Pair");
/// let payload = codec.encode(&(7, "seven".to_owned()))?;
/// assert_eq!(payload.serializer_id, MESSAGE_PACK_ID);
/// assert_eq!(codec.decode(&payload)?, (7, "seven".to_owned()));
/// # Ok::<(), perennial_persistence::CodecError>(())
/// ```
pub struct MessagePack<T> {
    manifest: Arc<str>,
    values: PhantomData<fn(T) -> T>,
}

impl<T> MessagePack<T> {
    /// A codec that writes and accepts `manifest`.
    pub fn new(manifest: impl Into<Arc<str>>) -> Self {
        Self {
            manifest: manifest.into(),
            values: PhantomData,
        }
    }

    pub(crate) fn manifest(&self) -> &str {
        &self.manifest
    }
}

impl<T> fmt::Debug for MessagePack<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessagePack")
            .field("manifest", &self.manifest)
            .finish()
    }
}

impl<T: Serialize + DeserializeOwned + 'static> Codec<T> for MessagePack<T> {
    fn encode(&self, value: &T) -> Result<SerializedPayload, CodecError> {
        Ok(SerializedPayload {
            serializer_id: MESSAGE_PACK_ID,
            manifest: Arc::clone(&self.manifest),
            bytes: encode(value)?,
        })
    }

    fn decode(&self, payload: &SerializedPayload) -> Result<T, CodecError> {
        if payload.serializer_id != MESSAGE_PACK_ID {
            return Err(CodecError::UnknownSerializer {
                serializer_id: payload.serializer_id,
                expected: MESSAGE_PACK_ID,
            });
        }
        if payload.manifest != self.manifest {
            return Err(CodecError::UnknownManifest {
                manifest: payload.manifest.to_string(),
                expected: self.manifest.to_string(),
            });
        }
        message_pack::read(&payload.bytes)
    }
}

/// Encodes as MessagePack with named fields.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Bytes, CodecError> {
    with_buffer(|buffer| {
        rmp_serde::encode::write_named(buffer, value).map_err(CodecError::unencodable)?;
        message_pack::check_nesting(buffer).map_err(CodecError::unencodable)?;
        Ok(Bytes::copy_from_slice(buffer))
    })
}

/// Gives `encode` an empty buffer that the thread keeps, so that a payload costs one allocation of
/// its own size however often the buffer grew.
pub(crate) fn with_buffer<R>(encode: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    /// A buffer that grew beyond this is not kept.
    const KEPT: usize = 64 << 10;
    thread_local! {
        static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    }
    // Taken out meanwhile: a value may encode another one while it is encoded.
    let mut buffer = BUFFER.take();
    buffer.clear();
    let encoded = encode(&mut buffer);
    if buffer.capacity() <= KEPT {
        BUFFER.set(buffer);
    }
    encoded
}

/// Why a value could not be encoded or a payload not decoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The payload was written by another codec.
    #[error("serializer id {serializer_id} is not known here (expected {expected})")]
    UnknownSerializer {
        /// The payload's.
        serializer_id: i32,
        /// The codec's own.
        expected: i32,
    },
    /// The payload is of another type.
    #[error("manifest \"{manifest}\" is not known here (expected \"{expected}\")")]
    UnknownManifest {
        /// The payload's.
        manifest: String,
        /// The codec's own.
        expected: String,
    },
    /// No format or codec for the payload's serializer id.
    #[error(
        "no codec for serializer id {serializer_id} (manifest \"{manifest}\"); known here: {known}"
    )]
    UnknownFormat {
        /// The payload's id.
        serializer_id: i32,
        /// The payload's manifest.
        manifest: String,
        /// The ids that can be read.
        known: String,
    },
    /// The schema has no such name.
    #[error(
        "nothing is known of the manifest \"{manifest}\" (serializer id {serializer_id}); known \
         here: {known}"
    )]
    UnknownName {
        /// The payload's id.
        serializer_id: i32,
        /// The payload's manifest.
        manifest: String,
        /// The names and versions that can be read.
        known: String,
    },
    /// The payload was written by a later release.
    #[error(
        "version {version} of \"{name}\" is newer than version {known}, the newest that is known \
         here; run a release that knows it"
    )]
    NewerVersion {
        /// The name in the manifest.
        name: String,
        /// The version in the manifest.
        version: u32,
        /// The newest that can be read.
        known: u32,
    },
    /// A step from one version to the next did not work.
    #[error("version {version} of \"{name}\" cannot be brought up to date")]
    Upcast {
        /// The name before the step.
        name: String,
        /// The version before the step.
        version: u32,
        /// What the step said.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// One value was asked for of a payload that stands for none or for several.
    #[error("the payload stands for {count} values, not for one")]
    NotOne {
        /// How many.
        count: usize,
    },
    /// More bytes than one value has.
    #[error("{count} bytes follow the value")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// The value has no representation in this format.
    #[error("the value cannot be encoded")]
    Unencodable(#[source] Box<dyn StdError + Send + Sync>),
    /// The bytes are no value of this type.
    #[error("the bytes cannot be decoded")]
    Undecodable(#[source] Box<dyn StdError + Send + Sync>),
}

impl CodecError {
    /// Wraps the error of an encoder.
    pub fn unencodable(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Unencodable(source.into())
    }

    /// Wraps the error of a decoder.
    pub fn undecodable(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Undecodable(source.into())
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Deposited {
        cents: i64,
        #[serde(default)]
        memo: Option<String>,
    }

    fn codec() -> MessagePack<Deposited> {
        MessagePack::new("Account.Event")
    }

    #[test]
    fn fields_are_named_so_that_more_can_be_added() {
        let payload = codec()
            .encode(&Deposited {
                cents: 100,
                memo: None,
            })
            .expect("a plain struct");
        // {"cents": 100, "memo": nil}
        assert_eq!(payload.bytes.as_ref(), b"\x82\xa5cents\x64\xa4memo\xc0");
        assert_eq!(payload.serializer_id, 1_299_408_720);

        let older =
            SerializedPayload::new(MESSAGE_PACK_ID, "Account.Event", &b"\x81\xa5cents\x64"[..]);
        assert_eq!(
            codec().decode(&older).expect("memo has a default").cents,
            100
        );
    }

    #[test]
    fn what_is_not_ours_is_an_error_that_says_so() {
        let good = codec()
            .encode(&Deposited {
                cents: 1,
                memo: None,
            })
            .expect("a plain struct");
        let check = |payload: SerializedPayload, part: &str| {
            let text = codec().decode(&payload).expect_err(part).to_string();
            assert!(text.contains(part), "{text}");
        };
        let mut other = good.clone();
        other.serializer_id = 33;
        check(other, "serializer id 33");
        let mut other = good.clone();
        other.manifest = "Account.Event#2".into();
        check(other, "Account.Event#2");
        let mut other = good.clone();
        other.bytes = Bytes::from([&good.bytes[..], b"\xc0"].concat());
        check(other, "1 bytes follow");
        let mut other = good.clone();
        other.bytes = good.bytes.slice(..good.bytes.len() - 1);
        check(other, "cannot be decoded");
        let mut other = good;
        other.bytes = Bytes::from_static(b"\xc1garbage");
        check(other, "cannot be decoded");
    }
}
