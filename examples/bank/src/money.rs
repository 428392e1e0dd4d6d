//! Amounts and ids: what may stand in a request, and why not.

use std::fmt;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use perennial::CommandId;
use perennial::persistence::{MAX_ID_CHARS, PersistenceId};
use perennial::prelude::*;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::account::Account;
use crate::open_transfers::MOST_OPEN;

/// The largest amount of one request: ten billion, in cents.
pub const MOST_CENTS: u64 = 1_000_000_000_000;

/// The balance up to which an account is paid into, in cents. What it paid to a transfer that is then
/// refused comes back beyond that too.
pub const MOST_BALANCE: u64 = 1_000_000_000_000_000;

// So no balance overflows: beyond `MOST_BALANCE` there is at the most what open transfers give back.
const _: () = assert!(MOST_BALANCE + (MOST_OPEN as u64) * MOST_CENTS <= i64::MAX as u64);

/// An amount: whole cents, from 1 to [`MOST_CENTS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cents(u64);

impl Cents {
    /// An amount, if it may be one.
    pub fn new(cents: u64) -> Option<Self> {
        (1..=MOST_CENTS).contains(&cents).then_some(Self(cents))
    }

    /// How many cents.
    pub fn value(self) -> u64 {
        self.0
    }
}

impl Serialize for Cents {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Cents {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole;

        impl Visitor<'_> for Whole {
            type Value = Cents;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number of cents from 1 to {MOST_CENTS}")
            }

            fn visit_u64<E: de::Error>(self, cents: u64) -> Result<Cents, E> {
                let unexpected = de::Unexpected::Unsigned(cents);
                Cents::new(cents).ok_or_else(|| E::invalid_value(unexpected, &self))
            }

            fn visit_i64<E: de::Error>(self, cents: i64) -> Result<Cents, E> {
                let unexpected = de::Unexpected::Signed(cents);
                let cents = u64::try_from(cents).ok().and_then(Cents::new);
                cents.ok_or_else(|| E::invalid_value(unexpected, &self))
            }
        }

        deserializer.deserialize_u64(Whole)
    }
}

/// The id of an account: 1 to 247 characters, anything but `|` and U+0000.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct AccountId(String);

impl AccountId {
    /// The most characters (Unicode scalar values).
    pub const MOST_CHARS: usize = MAX_ID_CHARS - Account::TYPE.len() - 1;

    /// An id as it stands in JSON.
    ///
    /// # Errors
    /// Why it is none.
    pub fn new(text: &str) -> Result<Self, InvalidAccountId> {
        if text.is_empty() {
            return Err(InvalidAccountId::Empty);
        }
        if text.contains('|') {
            return Err(InvalidAccountId::Separator);
        }
        if text.contains('\0') {
            return Err(InvalidAccountId::Nul);
        }
        let chars = text.chars().count();
        if chars > Self::MOST_CHARS {
            return Err(InvalidAccountId::TooLong { chars });
        }
        debug_assert!(PersistenceId::new(Account::TYPE, text).is_ok());
        Ok(Self(text.to_owned()))
    }

    /// An id as it stands in a path: percent-decoded exactly once.
    ///
    /// # Errors
    /// Why it is none.
    pub fn of_path(segment: &str) -> Result<Self, InvalidAccountId> {
        let text = percent_decode_str(segment).decode_utf8();
        Self::new(&text.map_err(|_| InvalidAccountId::NotUtf8)?)
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for AccountId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// Why a text is no id of an account.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAccountId {
    /// Nothing.
    #[error("an account's id has at least one character")]
    Empty,
    /// It has the character that separates type and id in the journal.
    #[error("an account's id does not contain `|`")]
    Separator,
    /// PostgreSQL text cannot hold it.
    #[error("an account's id does not contain U+0000")]
    Nul,
    /// Longer than the journal's column.
    #[error(
        "an account's id has at most {} characters, and this one has {chars}",
        AccountId::MOST_CHARS
    )]
    TooLong {
        /// Its length.
        chars: usize,
    },
    /// Bytes that are no text.
    #[error("an account's id is percent-encoded UTF-8, and this one is not UTF-8")]
    NotUtf8,
}

/// The id of a transfer: 128 bits, written as 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransferId(u128);

impl TransferId {
    /// The one that a key stands for: the first half of the SHA-256 of `transfer|` and the key. A
    /// format, as keys are sent again after the program was replaced.
    pub fn of_key(key: &CommandId) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"transfer|");
        hash.update(key.as_str());
        let hash: [u8; 32] = hash.finalize().into();
        let (first, _) = hash.split_first_chunk().expect("32 bytes have a half");
        Self(u128::from_be_bytes(*first))
    }

    /// One that nobody has.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// A number below `parts`, the same one for the same id.
    pub fn part(self, parts: u8) -> u8 {
        let part = self.0 % u128::from(parts);
        u8::try_from(part).expect("below a number of eight bits")
    }
}

impl fmt::Display for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A text is no id of a transfer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a transfer's id is 32 digits 0-9 and a-f")]
pub struct InvalidTransferId;

impl FromStr for TransferId {
    type Err = InvalidTransferId;

    fn from_str(text: &str) -> Result<Self, InvalidTransferId> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 32 || !text.bytes().all(is_digit) {
            return Err(InvalidTransferId);
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| InvalidTransferId)?;
        Ok(Self(number))
    }
}

impl Serialize for TransferId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TransferId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cents(json: &str) -> Result<u64, String> {
        let cents = serde_json::from_str(json).map(Cents::value);
        cents.map_err(|error| error.to_string())
    }

    #[test]
    fn an_amount_is_whole_positive_and_bounded() {
        assert_eq!(cents("1"), Ok(1));
        assert_eq!(cents("1000000000000"), Ok(MOST_CENTS));
        for wrong in [
            "0",
            "-1",
            "1000000000001",
            "18446744073709551616",
            "1.0",
            "1e2",
            "\"1\"",
            "true",
            "null",
            "[]",
            "{}",
            "-0",
        ] {
            let error = cents(wrong).expect_err(wrong);
            let expected = "expected a whole number of cents from 1 to 1000000000000";
            assert!(error.contains(expected), "{wrong}: {error}");
        }
    }

    #[test]
    fn an_id_is_any_text_but_what_cannot_be_stored() {
        for id in ["a", " ", "ä", "a/b", "%2F", "..", "\u{1}", "👛"] {
            assert_eq!(AccountId::new(id).expect("an id").as_str(), id);
        }
        assert_eq!(AccountId::new(""), Err(InvalidAccountId::Empty));
        assert_eq!(AccountId::new("a|b"), Err(InvalidAccountId::Separator));
        assert_eq!(AccountId::new("a\0b"), Err(InvalidAccountId::Nul));
        assert_eq!(AccountId::MOST_CHARS, 247);
        for char in ["x", "ä", "👛"] {
            let longest = char.repeat(247);
            assert!(AccountId::new(&longest).is_ok());
            let chars = 248;
            let error = AccountId::new(&(longest + char));
            assert_eq!(error, Err(InvalidAccountId::TooLong { chars }));
        }
    }

    #[test]
    fn a_path_is_decoded_once() {
        let of = |segment| AccountId::of_path(segment).map(|id| id.0);
        assert_eq!(of("a%20b+c"), Ok("a b+c".to_owned()));
        assert_eq!(of("%2525"), Ok("%25".to_owned()));
        assert_eq!(of("a%2Fb"), Ok("a/b".to_owned()));
        assert_eq!(of("%C3%A4%"), Ok("ä%".to_owned()));
        assert_eq!(of("%FF"), Err(InvalidAccountId::NotUtf8));
        assert_eq!(of("%7C"), Err(InvalidAccountId::Separator));
        assert_eq!(of("%00"), Err(InvalidAccountId::Nul));
    }

    #[test]
    fn the_id_of_a_transfer_is_a_format() {
        let key = CommandId::new("key-1").expect("a valid id");
        let id = TransferId::of_key(&key);
        // printf 'transfer|key-1' | sha256sum | cut -c 1-32
        assert_eq!(id.to_string(), "211c8cbab8f9f465df237a24987ca21a");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(TransferId(7).to_string(), format!("{:0>32}", 7));
        for wrong in ["", "7", &"g".repeat(32), &"A".repeat(32), &"+".repeat(32)] {
            assert_eq!(wrong.parse::<TransferId>(), Err(InvalidTransferId));
        }
    }
}
