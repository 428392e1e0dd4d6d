//! A value without a type: what an upcast works on.

use std::error::Error as StdError;
use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, Serializer};

/// The name by which our own serializers know a [`Decimal`].
pub(crate) const DECIMAL: &str = "$perennial::Decimal";

/// A payload's content, whatever format it came in.
///
/// An upcast changes it in place, before the current Rust type is made of it:
///
/// ```
/// use perennial_persistence::Tree;
///
/// let mut event = Tree::map([("amount", Tree::from(100))]);
/// event.rename("amount", "cents")?;
/// event.set("channel", "legacy")?;
/// assert_eq!(event.get("cents").and_then(Tree::as_i64), Some(100));
/// # Ok::<(), perennial_persistence::TreeError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Tree {
    /// No value.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Integer(i128),
    /// A binary floating-point number.
    Float(f64),
    /// A decimal number with the digits that were written.
    Decimal(Decimal),
    /// Text.
    Text(String),
    /// Bytes. JSON has none: there they are Base64 [text](Tree::Text).
    Bytes(Vec<u8>),
    /// Values in their order.
    List(Vec<Tree>),
    /// Keys with their values in the order in which they were written. The keys of a struct are
    /// [text](Tree::Text); those of a map may be whole numbers in CBOR and MessagePack.
    Map(Vec<(Tree, Tree)>),
}

impl Tree {
    /// A map with these keys.
    pub fn map<K: Into<String>>(entries: impl IntoIterator<Item = (K, Tree)>) -> Self {
        let entries = entries.into_iter();
        Self::Map(
            entries
                .map(|(key, value)| (Self::Text(key.into()), value))
                .collect(),
        )
    }

    /// The value of a key; none if there is no such key or this is no map.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Map(entries) = self else {
            return None;
        };
        let found = entries.iter().find(|(name, _)| name.as_str() == Some(key));
        found.map(|(_, value)| value)
    }

    /// The value of a key, to be changed.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        let Self::Map(entries) = self else {
            return None;
        };
        let found = entries
            .iter_mut()
            .find(|(name, _)| name.as_str() == Some(key));
        found.map(|(_, value)| value)
    }

    /// Gives a key a value, in place of the one it had or after all others.
    ///
    /// # Errors
    /// If this is no map.
    pub fn set(&mut self, key: &str, value: impl Into<Self>) -> Result<(), TreeError> {
        let value = value.into();
        if let Some(old) = self.get_mut(key) {
            *old = value;
            return Ok(());
        }
        self.entries("set", key)?.push((Self::from(key), value));
        Ok(())
    }

    /// Gives a key another name, in its place.
    ///
    /// # Errors
    /// If this is no map, if `from` is not there, or if `to` is.
    pub fn rename(&mut self, from: &str, to: &str) -> Result<(), TreeError> {
        if from != to && self.get(to).is_some() {
            return Err(TreeError::new(format!(
                "cannot rename `{from}`: `{to}` is there already"
            )));
        }
        let entries = self.entries("rename", from)?;
        let found = entries
            .iter_mut()
            .find(|(name, _)| name.as_str() == Some(from));
        let Some((name, _)) = found else {
            return Err(TreeError::new(format!(
                "cannot rename `{from}`: there is no such key"
            )));
        };
        *name = Self::from(to);
        Ok(())
    }

    /// Takes a key and its value out; none if there is no such key or this is no map.
    pub fn remove(&mut self, key: &str) -> Option<Self> {
        let Self::Map(entries) = self else {
            return None;
        };
        let at = entries
            .iter()
            .position(|(name, _)| name.as_str() == Some(key))?;
        Some(entries.remove(at).1)
    }

    /// The text, if this is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The truth value, if this is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The number, if this is a whole one of 64 bits, also when it is written as `5.0`.
    pub fn as_i64(&self) -> Option<i64> {
        self.as_integer()
            .and_then(|value| i64::try_from(value).ok())
    }

    /// The number as binary floating point, if this is one.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Integer(value) => value.to_string().parse().ok(),
            Self::Float(value) => Some(*value),
            Self::Decimal(value) => Some(value.to_f64()),
            _ => None,
        }
    }

    /// The whole number that this is, in whatever form.
    pub(crate) fn as_integer(&self) -> Option<i128> {
        match self {
            Self::Integer(value) => Some(*value),
            // Through text, which is exact; the way of odd peers, not the usual one.
            Self::Float(value) if value.fract() == 0.0 => format!("{value:.0}").parse().ok(),
            Self::Decimal(value) => value.to_integer(),
            _ => None,
        }
    }

    /// What it is, without its content.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a truth value",
            Self::Integer(_) => "a whole number",
            Self::Float(_) | Self::Decimal(_) => "a number",
            Self::Text(_) => "text",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }

    fn entries(&mut self, what: &str, key: &str) -> Result<&mut Vec<(Self, Self)>, TreeError> {
        match self {
            Self::Map(entries) => Ok(entries),
            other => Err(TreeError::new(format!(
                "cannot {what} `{key}`: the value is {}, not a map",
                other.kind()
            ))),
        }
    }
}

impl From<&str> for Tree {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Tree {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for Tree {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i32> for Tree {
    fn from(value: i32) -> Self {
        Self::Integer(value.into())
    }
}

impl From<i64> for Tree {
    fn from(value: i64) -> Self {
        Self::Integer(value.into())
    }
}

impl From<u64> for Tree {
    fn from(value: u64) -> Self {
        Self::Integer(value.into())
    }
}

impl From<f64> for Tree {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<Decimal> for Tree {
    fn from(value: Decimal) -> Self {
        Self::Decimal(value)
    }
}

impl From<Vec<Tree>> for Tree {
    fn from(values: Vec<Tree>) -> Self {
        Self::List(values)
    }
}

impl<T: Into<Tree>> From<Option<T>> for Tree {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// Why a [`Tree`] is not what it was taken for. Says what is where, never the content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeError {
    /// From the outermost field inwards.
    path: Vec<String>,
    problem: String,
}

impl TreeError {
    /// An error of an upcast of your own; `problem` names keys and kinds, not values.
    pub fn new(problem: impl Into<String>) -> Self {
        Self {
            path: Vec::new(),
            problem: problem.into(),
        }
    }

    /// The same, seen from one level further out.
    pub(crate) fn inside(mut self, place: impl Into<String>) -> Self {
        self.path.insert(0, place.into());
        self
    }
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "in `{}`: ", self.path.join("."))?;
        }
        f.write_str(&self.problem)
    }
}

impl StdError for TreeError {}

/// A decimal number with exactly the digits that were written: `0.840` is not `0.84`.
///
/// Money and rates of JVM services (`BigDecimal`) are numbers in their JSON. Read as `f64` they
/// would lose digits; as a `Decimal` they are written as they were read. In MessagePack it is text.
///
/// ```
/// use perennial_persistence::Decimal;
///
/// let rate: Decimal = "0.840".parse()?;
/// assert_eq!(rate.as_str(), "0.840");
/// assert_eq!(rate.to_f64(), 0.84);
/// # Ok::<(), perennial_persistence::TreeError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Decimal(String);

impl Decimal {
    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The nearest binary floating-point number.
    pub fn to_f64(&self) -> f64 {
        self.0.parse().unwrap_or(f64::NAN)
    }

    /// The value, if it is whole and fits.
    pub(crate) fn to_integer(&self) -> Option<i128> {
        let (digits, exponent) = self.unscaled()?;
        match u32::try_from(exponent) {
            Ok(exponent) => digits.checked_mul(10_i128.checked_pow(exponent)?),
            Err(_) => {
                let divisor = 10_i128.checked_pow(u32::try_from(exponent.checked_neg()?).ok()?)?;
                (digits % divisor == 0).then(|| digits / divisor)
            }
        }
    }

    /// The digits as one whole number, and the power of ten it is to be multiplied with.
    pub(crate) fn unscaled(&self) -> Option<(i128, i64)> {
        let (number, exponent) = match self.0.split_once(['e', 'E']) {
            Some((number, exponent)) => (number, exponent.parse::<i64>().ok()?),
            None => (self.0.as_str(), 0),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = format!("{whole}{fraction}").parse().ok()?;
        let exponent = exponent.checked_sub(i64::try_from(fraction.len()).ok()?)?;
        Some((digits, exponent))
    }

    /// Takes the text of a number that a parser has accepted.
    pub(crate) fn of_valid(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl FromStr for Decimal {
    type Err = TreeError;

    /// Accepts a number as JSON writes it: digits, perhaps a sign, a fraction and an exponent.
    fn from_str(text: &str) -> Result<Self, TreeError> {
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let (number, exponent) = match text.split_once(['e', 'E']) {
            Some((number, exponent)) => (number, Some(exponent)),
            None => (text, None),
        };
        let (whole, fraction) = match number.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (number, None),
        };
        let whole = whole.strip_prefix('-').unwrap_or(whole);
        let valid = digits(whole)
            && (whole == "0" || !whole.starts_with('0'))
            && fraction.is_none_or(digits)
            && exponent.is_none_or(|text| digits(text.strip_prefix(['+', '-']).unwrap_or(text)));
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(TreeError::new("the text is no decimal number"))
        }
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_newtype_struct(DECIMAL, &self.0)
    }
}

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Digits;

        impl<'de> Visitor<'de> for Digits {
            type Value = Decimal;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a decimal number")
            }

            fn visit_newtype_struct<D>(self, deserializer: D) -> Result<Decimal, D::Error>
            where
                D: Deserializer<'de>,
            {
                deserializer.deserialize_any(self)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Decimal, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Decimal, E> {
                Ok(Decimal(value.to_string()))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Decimal, E> {
                Ok(Decimal(value.to_string()))
            }

            fn visit_i128<E: de::Error>(self, value: i128) -> Result<Decimal, E> {
                Ok(Decimal(value.to_string()))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Decimal, E> {
                value.to_string().parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_newtype_struct(DECIMAL, Digits)
    }
}

/// A [`Tree`] out of any self-describing format that serde reads; the format bounds the nesting.
pub(crate) struct AnyTree(pub(crate) Tree);

impl<'de> Deserialize<'de> for AnyTree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyVisitor).map(Self)
    }
}

struct AnyVisitor;

impl<'de> Visitor<'de> for AnyVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Integer(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Integer(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Float(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::from(value))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Tree, E> {
        Ok(Tree::Text(value))
    }

    fn visit_bytes<E: de::Error>(self, value: &[u8]) -> Result<Tree, E> {
        Ok(Tree::Bytes(value.to_owned()))
    }

    fn visit_byte_buf<E: de::Error>(self, value: Vec<u8>) -> Result<Tree, E> {
        Ok(Tree::Bytes(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Tree, A::Error> {
        // The announced length is not trusted: nothing is reserved.
        let mut list = Vec::new();
        while let Some(AnyTree(element)) = elements.next_element()? {
            list.push(element);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
        let mut map = Vec::new();
        while let Some((AnyTree(key), AnyTree(value))) = entries.next_entry()? {
            map.push((key, value));
        }
        Ok(Tree::Map(map))
    }
}
