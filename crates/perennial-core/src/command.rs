//! Commands that may be sent again: their ids, and what tells one request from another.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use perennial_persistence::{
    Codec, CodecError, CommandId, Fingerprint, MessagePack, SerializedPayload,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::engine::panic_message;
use crate::error::chain;

/// A command that may be asked with a [`CommandId`], see [`Ask::command_id`].
///
/// An id stands for one request. To notice one that is used for another, a fingerprint is stored
/// with it: the SHA-256 of [`NAME`](Self::NAME), its length before it as eight bytes, and of the
/// command as MessagePack with field names, as serde writes it.
///
/// So the same command must always be written with the same bytes: a `HashMap` in it is not, a
/// `BTreeMap` is. A field that is added gives all its commands new fingerprints, and a command that
/// is sent again after that is an error, unless serde leaves the field out
/// (`skip_serializing_if`).
///
/// ```
/// use perennial_core::Repeatable;
/// use serde::Serialize;
///
/// #[derive(Serialize)]
/// struct Deposit {
///     cents: i64,
/// }
///
/// impl Repeatable for Deposit {
///     const NAME: &'static str = "Deposit";
/// }
/// ```
///
/// [`Ask::command_id`]: crate::Ask::command_id
pub trait Repeatable: Serialize {
    /// What kind of request it is. A part of stored fingerprints, so to be kept when the type is
    /// renamed, and different for commands that mean different things.
    const NAME: &'static str;
}

/// The id and the fingerprint of a command.
#[derive(Debug, Clone)]
pub(crate) struct CommandKey {
    pub(crate) id: CommandId,
    pub(crate) fingerprint: Fingerprint,
}

/// What a command with an id carries besides; `R` is its reply.
pub(crate) struct Identity<R> {
    pub(crate) key: CommandKey,
    encode: fn(&R) -> Result<SerializedPayload, CodecError>,
    decode: fn(&SerializedPayload) -> Result<R, CodecError>,
}

impl<R: Serialize + DeserializeOwned + Send + 'static> Identity<R> {
    /// The identity of a command.
    ///
    /// # Errors
    /// Why the command cannot be encoded.
    pub(crate) fn new<C: Repeatable>(id: CommandId, command: &C) -> Result<Self, Arc<str>> {
        Ok(Self {
            key: CommandKey {
                id,
                fingerprint: fingerprint(command)?,
            },
            encode: |reply| codec::<R>().encode(reply),
            decode: |payload| codec::<R>().decode(payload),
        })
    }
}

impl<R> Identity<R> {
    /// The reply as it is stored.
    ///
    /// # Errors
    /// Why it cannot be encoded.
    pub(crate) fn encode(&self, reply: &R) -> Result<SerializedPayload, Arc<str>> {
        guarded(|| (self.encode)(reply))
    }

    /// The reply that was stored.
    ///
    /// # Errors
    /// Why it cannot be decoded.
    pub(crate) fn decode(&self, payload: &SerializedPayload) -> Result<R, Arc<str>> {
        guarded(|| (self.decode)(payload))
    }
}

fn codec<R>() -> MessagePack<R> {
    MessagePack::new("")
}

fn fingerprint<C: Repeatable>(command: &C) -> Result<Fingerprint, Arc<str>> {
    let encoded = guarded(|| rmp_serde::to_vec_named(command).map_err(CodecError::unencodable))?;
    let mut hash = Sha256::new();
    hash.update((C::NAME.len() as u64).to_be_bytes());
    hash.update(C::NAME.as_bytes());
    hash.update(&encoded);
    Ok(Fingerprint::new(hash.finalize().into()))
}

/// Runs serde's code for a user's type.
fn guarded<T>(code: impl FnOnce() -> Result<T, CodecError>) -> Result<T, Arc<str>> {
    catch_unwind(AssertUnwindSafe(code))
        .map_err(|panic| panic_message(&*panic))?
        .map_err(|error| chain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Deposit {
        cents: i64,
    }

    impl Repeatable for Deposit {
        const NAME: &'static str = "Deposit";
    }

    #[derive(Serialize)]
    struct Withdraw {
        cents: i64,
    }

    impl Repeatable for Withdraw {
        const NAME: &'static str = "Withdraw";
    }

    #[test]
    fn a_fingerprint_is_a_format() {
        let print = fingerprint(&Deposit { cents: 100 }).expect("it can be encoded");
        // printf '\0\0\0\0\0\0\0\7Deposit\x81\xa5cents\x64' | sha256sum
        assert_eq!(
            format!("{print:?}"),
            "Fingerprint(4cc7a06c17551c9d3d0ab40703a05662d58defe71d60a7530a93effc1b2be78b)"
        );
    }

    #[test]
    fn other_content_and_other_names_have_other_fingerprints() {
        let of = |cents| fingerprint(&Deposit { cents }).expect("it can be encoded");
        let other = fingerprint(&Withdraw { cents: 100 }).expect("it can be encoded");
        assert_eq!(of(100), of(100));
        assert_ne!(of(100), of(101));
        assert_ne!(of(100), other);
    }
}
