//! Compressed payloads of the Jackson formats, as Pekko writes and recognises them.

use std::borrow::Cow;
use std::io::{self, Read, Write as _};

use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

use crate::codec::tree::TreeError;

/// The first bytes of gzip.
const GZIP: [u8; 2] = [0x1F, 0x8B];

/// The first bytes of Pekko's LZ4; after them the length, and one raw block.
const LZ4: [u8; 4] = [0x87, 0xD9, 0x6D, 0xF6];

/// LZ4 cannot make more than this of a byte.
const LZ4_RATIO: usize = 255;

/// When and how payloads of [`Format::JacksonJson`](crate::Format::JacksonJson) and
/// [`Format::JacksonCbor`](crate::Format::JacksonCbor) are compressed.
///
/// What is compressed is recognised on every read, whatever is set here. Reading expands at most
/// as many bytes as the schema allows ([`SchemaBuilder::max_expanded`](crate::SchemaBuilder)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// Never.
    Off,
    /// With gzip, if a payload is larger than this many bytes (not if it is just as large).
    GzipAbove(usize),
    /// With LZ4, if a payload is larger than this many bytes (not if it is just as large).
    Lz4Above(usize),
}

impl Compression {
    /// What Pekko does with JSON by default: gzip above 32 KiB.
    pub const JSON: Self = Self::GzipAbove(32 << 10);

    /// The payload as it is stored.
    pub(crate) fn apply(self, plain: &[u8]) -> Result<Cow<'_, [u8]>, TreeError> {
        match self {
            Self::GzipAbove(bytes) if plain.len() > bytes => {
                let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::new(6));
                let stored = gzip.write_all(plain).and_then(|()| gzip.finish());
                let stored = stored.map_err(|error| TreeError::new(error.to_string()))?;
                Ok(Cow::Owned(stored))
            }
            Self::Lz4Above(bytes) if plain.len() > bytes => {
                let length = u32::try_from(plain.len());
                let length = length.map_err(|_| TreeError::new("too large for LZ4"))?;
                let mut stored = LZ4.to_vec();
                stored.extend_from_slice(&length.to_be_bytes());
                stored.extend_from_slice(&lz4_flex::block::compress(plain));
                Ok(Cow::Owned(stored))
            }
            _ => Ok(Cow::Borrowed(plain)),
        }
    }
}

/// The payload as it was before it was compressed, if it was; at most `max` bytes.
pub(crate) fn expand(stored: &[u8], max: usize) -> Result<Cow<'_, [u8]>, TreeError> {
    if stored.starts_with(&GZIP) {
        return expand_gzip(stored, max).map(Cow::Owned);
    }
    if let Some(rest) = stored.strip_prefix(&LZ4) {
        return expand_lz4(rest, max).map(Cow::Owned);
    }
    Ok(Cow::Borrowed(stored))
}

fn too_large(max: usize) -> TreeError {
    TreeError::new(format!(
        "the payload expands to more than {max} bytes; if that is no damage, raise `max_expanded` \
         of its schema"
    ))
}

fn expand_gzip(stored: &[u8], max: usize) -> Result<Vec<u8>, TreeError> {
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    let mut plain = Vec::new();
    let read = MultiGzDecoder::new(stored)
        .take(limit)
        .read_to_end(&mut plain);
    read.map_err(|error: io::Error| TreeError::new(format!("no gzip: {error}")))?;
    if plain.len() > max {
        return Err(too_large(max));
    }
    Ok(plain)
}

fn expand_lz4(rest: &[u8], max: usize) -> Result<Vec<u8>, TreeError> {
    let Some((length, block)) = rest.split_first_chunk() else {
        return Err(TreeError::new("no LZ4: the length is missing"));
    };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if length > max {
        return Err(too_large(max));
    }
    // Before the buffer is made: the length is only a claim.
    if length > block.len().saturating_mul(LZ4_RATIO) {
        return Err(TreeError::new("no LZ4: the block cannot have its length"));
    }
    let plain = lz4_flex::block::decompress(block, length);
    let plain = plain.map_err(|error| TreeError::new(format!("no LZ4: {error}")))?;
    if plain.len() != length {
        return Err(TreeError::new("no LZ4: the block has another length"));
    }
    Ok(plain)
}
