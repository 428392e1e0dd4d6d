//! Reading plain serde structs from the tree, with errors that name key, place and remedy.
//!
//! serde tells the field names of a struct before it reads one, so unknown keys are found here,
//! for every struct of every crate, and each has its list of known keys to suggest from.

use std::cell::Cell;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, Expected, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::error::{ConfigError, Origin};
use super::secret;
use super::suggest;
use super::tree::{Entry, Node, Path, Table, Value};

/// The keys that a type reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fields {
    /// These.
    Known(&'static [&'static str]),
    /// Whatever is there, as a map does.
    Any,
}

/// Reads a `T` from a section, and says which keys `T` has.
///
/// A table in the section that is no field of `T` is left alone: it may be a section of its own.
pub(super) fn read_section<'de, T: de::Deserialize<'de>>(
    path: &Path,
    value: &Value,
) -> Result<(T, Fields), ConfigError> {
    let fields = Cell::new(Fields::Any);
    let reader = Reader {
        path: path.clone(),
        value,
        section: Some(&fields),
    };
    match T::deserialize(reader) {
        Ok(read) => Ok((read, fields.get())),
        Err(fault) => Err(fault.place(path, value)),
    }
}

/// The keys of a struct that serde reads, in the order of its fields; empty for other types.
///
/// For whoever documents or checks settings, such as a test that a page names every key.
pub fn known_keys<'de, T: de::Deserialize<'de>>() -> &'static [&'static str] {
    let keys = Cell::new(&[][..]);
    // The probe never has a value to give, so this always fails, after the names were noted.
    let _ = T::deserialize(Probe { keys: &keys });
    keys.get()
}

/// What went wrong while reading, on its way up to where the place is known.
#[derive(Debug)]
enum Fault {
    Unplaced {
        message: String,
        hint: Option<String>,
    },
    /// The reading type's own words, which may repeat the value.
    Theirs(String),
    MissingField(&'static str),
    Placed(ConfigError),
}

impl Fault {
    fn must_be(what: &str) -> Self {
        Self::Unplaced {
            message: format!("must be {what}"),
            hint: None,
        }
    }

    fn place(self, path: &Path, value: &Value) -> ConfigError {
        let origin = value.origin.clone();
        match self {
            Self::Placed(error) => error,
            Self::MissingField(field) => ConfigError::invalid(
                path.key(field).to_string(),
                None,
                origin,
                "is missing, and there is no default",
            ),
            Self::Unplaced { message, hint } => {
                let shown = value.shown(path);
                let error =
                    ConfigError::invalid(path.to_string(), shown.as_deref(), origin, message);
                match hint {
                    Some(hint) => error.with_hint(hint),
                    None => error,
                }
            }
            Self::Theirs(message) => {
                let shown = value.shown(path);
                let secrets = value.secrets(path);
                let message = if secrets.iter().any(|secret| message.contains(secret)) {
                    "is not accepted (the reason is not shown, as it contains a secret)".to_owned()
                } else {
                    secret::mask(&message)
                };
                ConfigError::invalid(path.to_string(), shown.as_deref(), origin, message)
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unplaced { message, .. } | Self::Theirs(message) => f.write_str(message),
            Self::MissingField(field) => write!(f, "`{field}` is missing"),
            Self::Placed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Theirs(message.to_string())
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::must_be(&expected.to_string())
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::must_be(&expected.to_string())
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let quoted: Vec<_> = expected.iter().map(|name| format!("{name:?}")).collect();
        Self::Unplaced {
            message: match &quoted[..] {
                [only] => format!("must be {only}"),
                _ => format!("must be one of {}", quoted.join(", ")),
            },
            hint: suggest::nearest(variant, expected.iter().copied())
                .map(|nearest| format!("did you mean {nearest:?}?")),
        }
    }

    fn missing_field(field: &'static str) -> Self {
        Self::MissingField(field)
    }
}

/// Reads one value of the tree.
struct Reader<'a> {
    path: Path,
    value: &'a Value,
    /// Set at the top of a section: where to note the keys that the type has.
    section: Option<&'a Cell<Fields>>,
}

impl<'a> Reader<'a> {
    fn at(path: Path, value: &'a Value) -> Self {
        Self {
            path,
            value,
            section: None,
        }
    }

    /// The whole number that stands here; a variable's text counts if it is one.
    fn integer(&self) -> Option<i128> {
        match &self.value.node {
            Node::Integer(number) => Some(*number),
            Node::Variable(_) => match self.value.parse_variable()?.node {
                Node::Integer(number) => Some(number),
                _ => None,
            },
            _ => None,
        }
    }

    fn whole_number<T: TryFrom<i128>>(&self, what: &str) -> Result<T, Fault> {
        self.integer()
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| Fault::must_be(what))
    }

    fn table(&self) -> Result<&'a Table, Fault> {
        match &self.value.node {
            Node::Table(table) => Ok(table),
            Node::Variable(_) => Err(Fault::Unplaced {
                message: "must be a table".to_owned(),
                hint: Some(keys_one_by_one(&self.value.origin)),
            }),
            _ => Err(Fault::must_be("a table")),
        }
    }

    /// Pairs the entries of a table with the fields that they are.
    fn fields(
        &self,
        table: &'a Table,
        fields: &'static [&'static str],
    ) -> Result<Vec<(&'a str, &'a Entry)>, Fault> {
        let mut known = Vec::with_capacity(table.entries.len());
        for entry in &table.entries {
            let is_field = |field: &&&str| {
                if entry.exact {
                    **field == entry.key
                } else {
                    suggest::normal_form(field) == entry.key
                }
            };
            if let Some(field) = fields.iter().find(is_field) {
                known.push((*field, entry));
            } else if self.section.is_none() || !matches!(entry.value.node, Node::Table(_)) {
                let names = fields.iter().copied();
                return Err(Fault::Placed(unknown_key(&self.path, entry, names)));
            }
        }
        Ok(known)
    }
}

/// A key that its table does not have.
pub(super) fn unknown_key<'a>(
    table: &Path,
    entry: &Entry,
    known: impl IntoIterator<Item = &'a str> + Clone,
) -> ConfigError {
    let key = table.key(&entry.key).to_string();
    let hint = suggest::hint(&entry.key, known, "known keys", |nearest| {
        written_like(&entry.key_origin, nearest)
    });
    let shown = format!("`{key}`");
    ConfigError::unknown("key", key, &shown, entry.key_origin.clone()).with_hint(hint)
}

/// How a key is written where the wrong one stands: in a file, or at the end of a variable's name.
pub(super) fn written_like(origin: &Origin, key: &str) -> String {
    match origin {
        Origin::Environment { variable } => match variable.rsplit_once("__") {
            Some((tables, _)) => {
                format!(
                    "{tables}__{}",
                    suggest::normal_form(key).to_uppercase().replace('-', "_")
                )
            }
            None => format!("`{key}`"),
        },
        _ => format!("`{key}`"),
    }
}

/// What to do instead of setting a whole table by a variable.
pub(super) fn keys_one_by_one(origin: &Origin) -> String {
    match origin {
        Origin::Environment { variable } => {
            format!("set its keys one by one, as in {variable}__<KEY>")
        }
        _ => "set its keys one by one".to_owned(),
    }
}

macro_rules! whole_numbers {
    ($($deserialize:ident, $visit:ident, $number:ty, $what:expr;)*) => {$(
        fn $deserialize<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            let number: $number = self.whole_number($what)?;
            visitor.$visit(number)
        }
    )*};
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value.node {
            Node::Table(table) => {
                let entries = table.entries.iter();
                visitor.visit_map(Entries::new(
                    self.path,
                    entries.map(|entry| (entry.key.as_str(), entry)).collect(),
                ))
            }
            Node::Array(values) => visitor.visit_seq(Items::new(self.path, values)),
            Node::Text(text) | Node::Datetime(text) => visitor.visit_str(text),
            Node::Boolean(yes) => visitor.visit_bool(*yes),
            Node::Float(number) => visitor.visit_f64(*number),
            Node::Integer(number) => {
                if let Ok(number) = u64::try_from(*number) {
                    visitor.visit_u64(number)
                } else if let Ok(number) = i64::try_from(*number) {
                    visitor.visit_i64(number)
                } else {
                    visitor.visit_i128(*number)
                }
            }
            Node::Variable(text) => match self.value.parse_variable() {
                Some(parsed) if !matches!(parsed.node, Node::Text(_) | Node::Datetime(_)) => {
                    Reader::at(self.path, &parsed).deserialize_any(visitor)
                }
                _ => visitor.visit_str(text),
            },
        }
    }

    whole_numbers! {
        deserialize_u8, visit_u8, u8, "a whole number from 0 to 255";
        deserialize_u16, visit_u16, u16, "a whole number from 0 to 65535";
        deserialize_u32, visit_u32, u32, "a whole number from 0 to 4294967295";
        deserialize_u64, visit_u64, u64, "a whole number, 0 or more";
        deserialize_i8, visit_i8, i8, "a whole number from -128 to 127";
        deserialize_i16, visit_i16, i16, "a whole number from -32768 to 32767";
        deserialize_i32, visit_i32, i32, "a whole number from -2147483648 to 2147483647";
        deserialize_i64, visit_i64, i64, "a whole number of 64 bits";
        deserialize_u128, visit_u128, u128, "a whole number, 0 or more";
        deserialize_i128, visit_i128, i128, "a whole number";
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let parsed = self.value.parse_variable();
        let number = match parsed
            .as_ref()
            .map_or(&self.value.node, |value| &value.node)
        {
            Node::Float(number) => Some(*number),
            // Through text, because `as` would round a number that `f64` cannot hold.
            Node::Integer(number) => number.to_string().parse().ok(),
            _ => None,
        };
        visitor.visit_f64(number.ok_or_else(|| Fault::must_be("a number"))?)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let parsed = self.value.parse_variable();
        match parsed
            .as_ref()
            .map_or(&self.value.node, |value| &value.node)
        {
            Node::Boolean(yes) => visitor.visit_bool(*yes),
            _ => Err(Fault::must_be("true or false")),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value.node {
            // The text of a variable is taken as it is: a password may look like a number, or
            // begin with a quote.
            Node::Text(text) | Node::Variable(text) => visitor.visit_str(text),
            _ => Err(Fault::must_be(&(&visitor as &dyn Expected).to_string())),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let parsed = self.value.parse_variable();
        match parsed
            .as_ref()
            .map_or(&self.value.node, |value| &value.node)
        {
            Node::Array(values) => visitor.visit_seq(Items::new(self.path, values)),
            _ => Err(Fault::must_be("an array, such as [\"a\", \"b\"]")),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.table()?;
        self.deserialize_any(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if let Some(section) = self.section {
            section.set(Fields::Known(fields));
        }
        let known = self.fields(self.table()?, fields)?;
        visitor.visit_map(Entries::new(self.path, known))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.value.node {
            Node::Text(text) | Node::Variable(text) => {
                visitor.visit_enum(StrDeserializer::<Fault>::new(text))
            }
            Node::Table(table) if table.entries.len() == 1 => visitor.visit_enum(Variant {
                path: self.path,
                entry: &table.entries[0],
            }),
            _ => Err(<Fault as de::Error>::unknown_variant("", variants)),
        }
    }

    /// Only types that read every key ask for this, about a key that they don't know.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Fault> {
        let key = self.path.to_string();
        let shown = format!("`{key}`");
        let origin = self.value.origin.clone();
        Err(Fault::Placed(ConfigError::unknown(
            "key", key, &shown, origin,
        )))
    }

    forward_to_deserialize_any! { bytes byte_buf unit unit_struct identifier }
}

/// The entries of a table, under the names that the reading type uses.
struct Entries<'a> {
    path: Path,
    rest: std::vec::IntoIter<(&'a str, &'a Entry)>,
    current: Option<(&'a str, &'a Entry)>,
}

impl<'a> Entries<'a> {
    fn new(path: Path, entries: Vec<(&'a str, &'a Entry)>) -> Self {
        Self {
            path,
            rest: entries.into_iter(),
            current: None,
        }
    }
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        self.current = self.rest.next();
        let Some((name, entry)) = self.current else {
            return Ok(None);
        };
        seed.deserialize(StrDeserializer::<Fault>::new(name))
            .map(Some)
            .map_err(|fault| {
                let fault = fault.place(&self.path.key(name), &entry.value);
                Fault::Placed(fault)
            })
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let (name, entry) = self
            .current
            .take()
            .expect("serde asks for a value right after its key");
        let path = self.path.key(name);
        seed.deserialize(Reader::at(path.clone(), &entry.value))
            .map_err(|fault| Fault::Placed(fault.place(&path, &entry.value)))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

/// The items of an array.
struct Items<'a> {
    path: Path,
    rest: std::iter::Enumerate<std::slice::Iter<'a, Value>>,
}

impl<'a> Items<'a> {
    fn new(path: Path, values: &'a [Value]) -> Self {
        Self {
            path,
            rest: values.iter().enumerate(),
        }
    }
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let Some((index, value)) = self.rest.next() else {
            return Ok(None);
        };
        let path = self.path.index(index);
        seed.deserialize(Reader::at(path.clone(), value))
            .map(Some)
            .map_err(|fault| Fault::Placed(fault.place(&path, value)))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

/// A variant with content, written as a table with the variant's name as its only key.
struct Variant<'a> {
    path: Path,
    entry: &'a Entry,
}

impl<'a, 'de> EnumAccess<'de> for Variant<'a> {
    type Error = Fault;
    type Variant = Reader<'a>;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Reader<'a>), Fault> {
        let name = seed.deserialize(StrDeserializer::<Fault>::new(&self.entry.key))?;
        let path = self.path.key(&self.entry.key);
        Ok((name, Reader::at(path, &self.entry.value)))
    }
}

impl<'de> VariantAccess<'de> for Reader<'_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        let fault = Fault::must_be("written as a text, without anything below it");
        Err(Fault::Placed(fault.place(&self.path, self.value)))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        let (path, value) = (self.path.clone(), self.value);
        seed.deserialize(self)
            .map_err(|fault| Fault::Placed(fault.place(&path, value)))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Fault> {
        let (path, value) = (self.path.clone(), self.value);
        self.deserialize_tuple(len, visitor)
            .map_err(|fault| Fault::Placed(fault.place(&path, value)))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let (path, value) = (self.path.clone(), self.value);
        self.deserialize_struct("", fields, visitor)
            .map_err(|fault| Fault::Placed(fault.place(&path, value)))
    }
}

/// Notes the field names of a struct and gives up.
struct Probe<'a> {
    keys: &'a Cell<&'static [&'static str]>,
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("not a struct"))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.keys.set(fields);
        Err(de::Error::custom("the names are enough"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
