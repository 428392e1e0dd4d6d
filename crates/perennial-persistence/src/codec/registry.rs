//! Several codecs of one type, by serializer id.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::codec::FIRST_OWN_ID;
use crate::payload::{Codec, CodecError, SerializedPayload};
use crate::schema::{Named, Schema};

/// Codecs of one type by serializer id: one writes, all read.
///
/// A codec of your own (protobuf, say) implements [`Codec`] and gets an id from [`FIRST_OWN_ID`]
/// on that no other program on the same tables uses for something else. What another codec wrote
/// before stays readable:
///
/// ```
/// use perennial_persistence::{
///     Codec, CodecError, Format, Registry, Schema, SerializedPayload, Versions,
/// };
///
/// /// One big-endian number.
/// #[derive(Debug)]
/// struct Network;
///
/// impl Codec<i64> for Network {
///     fn encode(&self, value: &i64) -> Result<SerializedPayload, CodecError> {
///         Ok(SerializedPayload::new(4100, "", value.to_be_bytes().to_vec()))
///     }
///
///     fn decode(&self, payload: &SerializedPayload) -> Result<i64, CodecError> {
///         let bytes = payload.bytes.as_ref().try_into();
///         Ok(i64::from_be_bytes(bytes.map_err(CodecError::undecodable)?))
///     }
/// }
///
/// let before = Schema::<i64>::primitive(Format::Long).build()?;
/// let old = before.encode(&7)?;
/// let codec = Registry::writing(4100, Network)?.reading_schema(before)?;
/// assert_eq!(codec.decode(&old)?, 7);
/// assert_eq!(codec.encode(&7)?.serializer_id, 4100);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Registry<T> {
    writer: Arc<dyn Codec<T>>,
    readers: BTreeMap<i32, Arc<dyn Codec<T>>>,
    /// Reads every format that is built in.
    schema: Option<Arc<Schema<T>>>,
    /// What the writer calls its payloads, if it can tell.
    written: Vec<String>,
}

impl<T: 'static> Registry<T> {
    /// A codec of your own that writes, and reads what has its id.
    ///
    /// # Errors
    /// If the id is below [`FIRST_OWN_ID`] or that of a built-in format.
    pub fn writing(serializer_id: i32, codec: impl Codec<T>) -> Result<Self, InvalidRegistry> {
        let writer: Arc<dyn Codec<T>> = Arc::new(codec);
        let registry = Self {
            writer: Arc::clone(&writer),
            readers: BTreeMap::new(),
            schema: None,
            written: Vec::new(),
        };
        registry.insert(serializer_id, writer)
    }

    /// A schema that writes, and reads every format that is built in.
    pub fn writing_schema(schema: Schema<T>) -> Self {
        let written = schema.written();
        let schema = Arc::new(schema);
        Self {
            written,
            writer: Arc::clone(&schema) as Arc<dyn Codec<T>>,
            readers: BTreeMap::new(),
            schema: Some(schema),
        }
    }

    /// Reads payloads of one more id.
    ///
    /// # Errors
    /// If the id is below [`FIRST_OWN_ID`], that of a built-in format, or taken.
    pub fn reading(
        self,
        serializer_id: i32,
        codec: impl Codec<T>,
    ) -> Result<Self, InvalidRegistry> {
        self.insert(serializer_id, Arc::new(codec))
    }

    /// Reads payloads of the built-in formats.
    ///
    /// # Errors
    /// If there is a schema already.
    pub fn reading_schema(mut self, schema: Schema<T>) -> Result<Self, InvalidRegistry> {
        if self.schema.is_some() {
            return Err(InvalidRegistry::TwoSchemas);
        }
        self.schema = Some(Arc::new(schema));
        Ok(self)
    }

    fn insert(
        mut self,
        serializer_id: i32,
        codec: Arc<dyn Codec<T>>,
    ) -> Result<Self, InvalidRegistry> {
        check_own_id(serializer_id)?;
        if self.readers.insert(serializer_id, codec).is_some() {
            return Err(InvalidRegistry::Taken { serializer_id });
        }
        Ok(self)
    }

    fn reader(&self, payload: &SerializedPayload) -> Result<&dyn Codec<T>, CodecError> {
        if let Some(codec) = self.readers.get(&payload.serializer_id) {
            return Ok(&**codec);
        }
        let built_in = super::Format::of_serializer_id(payload.serializer_id).is_some();
        match &self.schema {
            Some(schema) if built_in => Ok(&**schema),
            schema => {
                let mut known: Vec<_> = self.readers.keys().map(ToString::to_string).collect();
                if schema.is_some() {
                    known.push(super::Format::known_ids());
                }
                Err(CodecError::UnknownFormat {
                    serializer_id: payload.serializer_id,
                    manifest: payload.manifest.to_string(),
                    known: known.join(", "),
                })
            }
        }
    }
}

/// Whether an id may be that of a codec of a user's own.
fn check_own_id(serializer_id: i32) -> Result<(), InvalidRegistry> {
    if serializer_id < FIRST_OWN_ID || super::Format::of_serializer_id(serializer_id).is_some() {
        return Err(InvalidRegistry::Reserved { serializer_id });
    }
    Ok(())
}

impl<T: 'static> Codec<T> for Registry<T> {
    fn encode(&self, value: &T) -> Result<SerializedPayload, CodecError> {
        let payload = self.writer.encode(value)?;
        // What nobody could read again is not written.
        self.reader(&payload).map_err(|error| {
            CodecError::unencodable(format!("the codec's own payload is not readable: {error}"))
        })?;
        Ok(payload)
    }

    fn decode(&self, payload: &SerializedPayload) -> Result<T, CodecError> {
        self.reader(payload)?.decode(payload)
    }

    fn decode_each(
        &self,
        payload: &SerializedPayload,
        each: &mut dyn FnMut(T),
    ) -> Result<(), CodecError> {
        self.reader(payload)?.decode_each(payload, each)
    }
}

impl<T: 'static> Named<T> for Registry<T> {
    fn written(&self) -> Vec<String> {
        self.written.clone()
    }
}

impl<T> fmt::Debug for Registry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("writer", &self.writer)
            .field("readers", &self.readers)
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

/// Why codecs cannot stand together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRegistry {
    /// The id has a meaning already.
    #[error(
        "serializer id {serializer_id} has a meaning already; take one from {FIRST_OWN_ID} on that \
         no other program on these tables uses"
    )]
    Reserved {
        /// The id.
        serializer_id: i32,
    },
    /// Two codecs with one id.
    #[error("serializer id {serializer_id} is given to two codecs")]
    Taken {
        /// The id.
        serializer_id: i32,
    },
    /// Two schemas for the built-in formats.
    #[error("two schemas were given for the built-in formats; one reads them all")]
    TwoSchemas,
}
