//! MessagePack: how deep it may be nested, and reading it without a type.

use rmp_serde::Deserializer;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::codec::MAX_NESTING;
use crate::codec::de::{Origin, from_tree};
use crate::codec::tree::{AnyTree, Tree};
use crate::payload::CodecError;

/// Decodes one value of a type.
pub(crate) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    check_nesting(bytes).map_err(CodecError::undecodable)?;
    let mut rest = bytes;
    match T::deserialize(&mut Deserializer::new(&mut rest)) {
        Ok(value) => ended(rest).map(|()| value),
        Err(_) => Err(explain::<T>(bytes)),
    }
}

/// Decodes one value of whatever kind.
pub(crate) fn read_tree(bytes: &[u8]) -> Result<Tree, CodecError> {
    check_nesting(bytes).map_err(CodecError::undecodable)?;
    let mut rest = bytes;
    let AnyTree(tree) =
        AnyTree::deserialize(&mut Deserializer::new(&mut rest)).map_err(CodecError::undecodable)?;
    ended(rest).map(|()| tree)
}

fn ended(rest: &[u8]) -> Result<(), CodecError> {
    match rest.len() {
        0 => Ok(()),
        count => Err(CodecError::TrailingBytes { count }),
    }
}

/// Why bytes are no value of a type. The decoder's own error may quote the payload; this one names
/// the field.
fn explain<T: DeserializeOwned>(bytes: &[u8]) -> CodecError {
    let tree = match read_tree(bytes) {
        Ok(tree) => tree,
        Err(error) => return error,
    };
    match from_tree::<T>(tree, Origin::MessagePack) {
        Ok(_) => CodecError::undecodable("the MessagePack has another form than the type"),
        Err(error) => CodecError::undecodable(error),
    }
}

/// Refuses what is nested deeper than [`MAX_NESTING`], without recursion.
///
/// The decoder bounds lists and maps, but not the variants of enums: a few thousand bytes could
/// exhaust the stack, which ends the process.
pub(crate) fn check_nesting(bytes: &[u8]) -> Result<(), String> {
    // A level costs at least a byte.
    if bytes.len() <= MAX_NESTING {
        return Ok(());
    }
    // How many values each open list or map still has.
    let mut open: Vec<u64> = Vec::new();
    let mut rest = bytes;
    loop {
        let Some((&marker, after)) = rest.split_first() else {
            return Ok(()); // cut off: the decoder says where
        };
        rest = after;
        let (skip, inside) = match marker {
            0x80..=0x8F => (0, 2 * u64::from(marker & 0x0F)),
            0x90..=0x9F => (0, u64::from(marker & 0x0F)),
            0xA0..=0xBF => (u64::from(marker & 0x1F), 0),
            0xC4 | 0xD9 => (take(&mut rest, 1), 0),
            0xC5 | 0xDA => (take(&mut rest, 2), 0),
            0xC6 | 0xDB => (take(&mut rest, 4), 0),
            0xC7 => (take(&mut rest, 1).saturating_add(1), 0),
            0xC8 => (take(&mut rest, 2).saturating_add(1), 0),
            0xC9 => (take(&mut rest, 4).saturating_add(1), 0),
            0xCC | 0xD0 => (1, 0),
            0xCD | 0xD1 | 0xD4 => (2, 0),
            0xD5 => (3, 0),
            0xCA | 0xCE | 0xD2 => (4, 0),
            0xD6 => (5, 0),
            0xCB | 0xCF | 0xD3 => (8, 0),
            0xD7 => (9, 0),
            0xD8 => (17, 0),
            0xDC => (0, take(&mut rest, 2)),
            0xDD => (0, take(&mut rest, 4)),
            0xDE => (0, take(&mut rest, 2).saturating_mul(2)),
            0xDF => (0, take(&mut rest, 4).saturating_mul(2)),
            _ => (0, 0),
        };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        rest = rest.get(skip..).unwrap_or_default();
        if inside > 0 {
            if open.len() == MAX_NESTING {
                return Err(format!(
                    "the MessagePack is nested deeper than {MAX_NESTING} levels"
                ));
            }
            open.push(inside);
            continue;
        }
        loop {
            match open.last_mut() {
                None => return Ok(()), // one value; what follows is refused by its count
                Some(1) => {
                    open.pop();
                }
                Some(left) => {
                    *left -= 1;
                    break;
                }
            }
        }
    }
}

/// A number of as many big-endian bytes; zero if they are cut off.
fn take(rest: &mut &[u8], bytes: usize) -> u64 {
    let Some((number, after)) = rest.split_at_checked(bytes) else {
        *rest = &[];
        return 0;
    };
    *rest = after;
    number
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}
