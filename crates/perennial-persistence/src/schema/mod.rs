//! What stands in payloads of one Rust type, in every version that was ever stored.

mod adapted;
mod builder;
mod lock;
mod versions;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;

pub use adapted::Adapted;
pub use builder::{InvalidSchema, SchemaBuilder};
pub use lock::{LockError, Locked, SchemaLock, UPDATE_LOCK_VARIABLE};
pub use versions::Versions;

use crate::codec::de::{Origin, from_tree};
use crate::codec::ser::TypeProperty;
use crate::codec::{Format, Tree, Writing, message_pack, read_tree};
use crate::payload::{Codec, CodecError, MessagePack, SerializedPayload};
use crate::schema::versions::{Step, manifest, parse};

/// The most bytes that a compressed payload may have when it is expanded, unless a schema says
/// otherwise: 32 MiB.
pub const DEFAULT_MAX_EXPANDED: usize = 32 << 20;

/// A codec whose names and versions the user has chosen, and that reads all that were ever stored.
///
/// It writes one [`Format`] and reads any: which format a payload has is said by its serializer id.
/// Its manifest says its name and version; older versions are brought up to date by the steps of
/// [`Versions`], on a [`Tree`], before the Rust type is made. Events and snapshots go the same way.
///
/// One name for a whole type:
///
/// ```
/// use perennial_persistence::{Codec, MESSAGE_PACK_ID, Schema, SerializedPayload, Versions};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// struct Deposited {
///     cents: i64,
/// }
///
/// let schema = Schema::<Deposited>::of(
///     Versions::new("bank.Deposited")
///         .version(2)
///         .upcast(1, |event| event.rename("amount", "cents")),
/// )
/// .build()?;
/// assert_eq!(&*schema.encode(&Deposited { cents: 5 })?.manifest, "bank.Deposited#2");
///
/// // {"amount": 5}, written before there was a version 2.
/// let old = SerializedPayload::new(MESSAGE_PACK_ID, "bank.Deposited", &b"\x81\xA6amount\x05"[..]);
/// assert_eq!(schema.decode(&old)?, Deposited { cents: 5 });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A name for each variant of an enum, as JVM classes are named; see
/// [`SchemaBuilder::variant`].
///
/// # Limits
///
/// Payloads nested deeper than [`MAX_NESTING`](crate::MAX_NESTING) are refused, on both ways;
/// compressed ones must expand to at most [`SchemaBuilder::max_expanded`] bytes. Reading one takes
/// at most about 128 bytes of memory per byte of it, expanded.
pub struct Schema<T> {
    writing: Writing,
    type_property: Option<String>,
    writers: Vec<Writer<T>>,
    readers: Vec<Reader<T>>,
    routes: Vec<Route>,
    /// The route of each manifest.
    manifests: HashMap<String, usize>,
    /// The route of payloads that have no manifest.
    primitives: Option<usize>,
}

/// Writes a value if it is the writer's variant.
type Encode<T> = Box<
    dyn Fn(&T, &Writing, Option<TypeProperty<'_>>) -> Option<Result<Bytes, CodecError>>
        + Send
        + Sync,
>;

/// Makes values of a payload that is up to date.
type Decode<T> =
    Box<dyn Fn(Content<'_>, &mut dyn FnMut(T)) -> Result<(), CodecError> + Send + Sync>;

/// What a current name becomes.
enum Reader<T> {
    Content(Decode<T>),
    /// The payload is not looked at.
    Constant(Give<T>),
}

/// Gives values without looking at a payload.
type Give<T> = Box<dyn Fn(&mut dyn FnMut(T)) + Send + Sync>;

struct Writer<T> {
    manifest: Arc<str>,
    type_value: Option<String>,
    encode: Encode<T>,
}

/// What happens to payloads of one name and version.
struct Route {
    /// The name and version before the step, and the step.
    steps: Vec<(String, u32, Step)>,
    reader: usize,
}

/// A payload on its way to a Rust type.
enum Content<'a> {
    /// That needs no change.
    MessagePack(&'a [u8]),
    Tree(Tree, Origin),
}

impl Content<'_> {
    fn read<V: DeserializeOwned>(self) -> Result<V, CodecError> {
        match self {
            Self::MessagePack(bytes) => message_pack::read(bytes),
            Self::Tree(tree, origin) => from_tree(tree, origin).map_err(CodecError::undecodable),
        }
    }
}

impl<T: 'static> Schema<T> {
    /// What new payloads have as their manifest, one per name.
    pub fn manifests(&self) -> impl Iterator<Item = &str> {
        self.writers.iter().map(|writer| &*writer.manifest)
    }

    fn route(&self, format: Format, payload: &SerializedPayload) -> Result<&Route, CodecError> {
        let found = if format.is_primitive() {
            self.primitives
        } else {
            let text = &*payload.manifest;
            let found = self.manifests.get(text).copied();
            // Not as we would write it, but perhaps the same: `Name#1`.
            found.or_else(|| {
                let (name, version) = parse(text)?;
                self.manifests.get(&manifest(name, version)).copied()
            })
        };
        match found {
            Some(route) => Ok(&self.routes[route]),
            None => Err(self.unknown(format, payload)),
        }
    }

    fn unknown(&self, format: Format, payload: &SerializedPayload) -> CodecError {
        if !format.is_primitive()
            && let Some((name, version)) = parse(&payload.manifest)
            && let Some(known) = self.newest(name)
            && known < version
        {
            return CodecError::NewerVersion {
                name: name.to_owned(),
                version,
                known,
            };
        }
        let mut known: Vec<_> = self
            .manifests
            .keys()
            .map(|text| format!("\"{text}\""))
            .collect();
        known.sort_unstable();
        if format.is_primitive() {
            known.push("no primitive (see `SchemaBuilder::primitives_as`)".to_owned());
        }
        CodecError::UnknownName {
            serializer_id: payload.serializer_id,
            manifest: payload.manifest.to_string(),
            known: known.join(", "),
        }
    }

    /// The newest version of a name that can be read.
    fn newest(&self, name: &str) -> Option<u32> {
        let known = self.manifests.keys().filter_map(|text| parse(text));
        known
            .filter_map(|(known, version)| (known == name).then_some(version))
            .max()
    }

    fn content<'a>(
        &self,
        format: Format,
        route: &Route,
        bytes: &'a [u8],
    ) -> Result<Content<'a>, CodecError> {
        if format == Format::MessagePack && route.steps.is_empty() {
            return Ok(Content::MessagePack(bytes));
        }
        let mut tree = read_tree(format, bytes, self.writing.max_expanded)?;
        for (name, version, step) in &route.steps {
            step(&mut tree).map_err(|error| CodecError::Upcast {
                name: name.clone(),
                version: *version,
                source: error.into(),
            })?;
        }
        Ok(Content::Tree(tree, format.origin()))
    }
}

impl<T: 'static> Codec<T> for Schema<T> {
    fn encode(&self, value: &T) -> Result<SerializedPayload, CodecError> {
        for writer in &self.writers {
            let type_property = match (&self.type_property, &writer.type_value) {
                (Some(key), Some(value)) => Some(TypeProperty { key, value }),
                _ => None,
            };
            if let Some(bytes) = (writer.encode)(value, &self.writing, type_property) {
                return Ok(SerializedPayload {
                    serializer_id: self.writing.format.serializer_id(),
                    manifest: Arc::clone(&writer.manifest),
                    bytes: bytes?,
                });
            }
        }
        Err(CodecError::unencodable(
            "the value is of a variant that has no name in this schema, or one that is only read",
        ))
    }

    fn decode(&self, payload: &SerializedPayload) -> Result<T, CodecError> {
        decode_one(self, payload)
    }

    fn decode_each(
        &self,
        payload: &SerializedPayload,
        each: &mut dyn FnMut(T),
    ) -> Result<(), CodecError> {
        let Some(format) = Format::of_serializer_id(payload.serializer_id) else {
            return Err(CodecError::UnknownFormat {
                serializer_id: payload.serializer_id,
                manifest: payload.manifest.to_string(),
                known: Format::known_ids(),
            });
        };
        let route = self.route(format, payload)?;
        match &self.readers[route.reader] {
            Reader::Content(decode) => decode(self.content(format, route, &payload.bytes)?, each),
            Reader::Constant(give) => {
                give(each);
                Ok(())
            }
        }
    }
}

impl<T> fmt::Debug for Schema<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut manifests: Vec<_> = self.manifests.keys().collect();
        manifests.sort_unstable();
        f.debug_struct("Schema")
            .field("writing", &self.writing)
            .field("manifests", &manifests)
            .finish_non_exhaustive()
    }
}

/// A codec that knows what its new payloads are called, so that a [`SchemaLock`] sees what is
/// missing.
pub trait Named<T>: Codec<T> {
    /// The manifests of new payloads; none if the codec cannot tell.
    fn written(&self) -> Vec<String>;
}

impl<T: 'static> Named<T> for Schema<T> {
    fn written(&self) -> Vec<String> {
        self.manifests().map(ToOwned::to_owned).collect()
    }
}

impl<T: serde::Serialize + DeserializeOwned + 'static> Named<T> for MessagePack<T> {
    fn written(&self) -> Vec<String> {
        vec![self.manifest().to_owned()]
    }
}

/// The one value that a payload stands for.
fn decode_one<T, C: Codec<T> + ?Sized>(
    codec: &C,
    payload: &SerializedPayload,
) -> Result<T, CodecError> {
    let (mut only, mut count) = (None, 0);
    codec.decode_each(payload, &mut |value| {
        only = Some(value);
        count += 1;
    })?;
    match (only, count) {
        (Some(value), 1) => Ok(value),
        _ => Err(CodecError::NotOne { count }),
    }
}
