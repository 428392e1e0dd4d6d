//! From a [`Tree`] to a Rust type, as tolerant as Jackson where that loses nothing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::value::{SeqDeserializer, StringDeserializer};
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Expected, IntoDeserializer,
    MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
};

use crate::codec::tree::{DECIMAL, Tree, TreeError};

/// Where a tree came from: it decides how types that differ between formats are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Json,
    Cbor,
    MessagePack,
    Primitive,
}

/// Makes a value of a tree.
pub(crate) fn from_tree<T: DeserializeOwned>(tree: Tree, origin: Origin) -> Result<T, TreeError> {
    T::deserialize(TreeDeserializer {
        tree,
        origin,
        key: false,
    })
}

impl de::Error for TreeError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    // Serde's own texts would quote the payload.
    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let found = match unexpected {
            Unexpected::Bool(_) => "a truth value",
            Unexpected::Unsigned(_) | Unexpected::Signed(_) => "a whole number",
            Unexpected::Float(_) => "a number",
            Unexpected::Char(_) | Unexpected::Str(_) => "text",
            Unexpected::Bytes(_) => "bytes",
            Unexpected::Unit | Unexpected::Option => "null",
            Unexpected::Seq => "a list",
            Unexpected::Map => "a map",
            _ => "something else",
        };
        Self::new(format!("found {found}, expected {expected}"))
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        match unexpected {
            Unexpected::Bool(_)
            | Unexpected::Unsigned(_)
            | Unexpected::Signed(_)
            | Unexpected::Float(_)
            | Unexpected::Char(_)
            | Unexpected::Str(_)
            | Unexpected::Bytes(_) => {
                Self::new(format!("the value does not fit, expected {expected}"))
            }
            other => Self::invalid_type(other, expected),
        }
    }

    fn unknown_variant(_variant: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!("unknown variant, expected one of {expected:?}"))
    }

    fn unknown_field(_field: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!("unknown field, expected one of {expected:?}"))
    }
}

struct TreeDeserializer {
    tree: Tree,
    origin: Origin,
    /// A map's key: JSON writes every key as text.
    key: bool,
}

impl TreeDeserializer {
    fn with(&self, tree: Tree) -> Self {
        Self {
            tree,
            origin: self.origin,
            key: false,
        }
    }

    fn integer(&self) -> Option<i128> {
        match &self.tree {
            Tree::Text(text) if self.key => text.parse().ok(),
            tree => tree.as_integer(),
        }
    }

    /// The bytes of a number of 128 bits in MessagePack, which has none so wide.
    fn wide(&self) -> Option<[u8; 16]> {
        match (&self.tree, self.origin) {
            (Tree::Bytes(bytes), Origin::MessagePack) => bytes.as_slice().try_into().ok(),
            _ => None,
        }
    }

    fn visit_integer<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        match self.integer() {
            Some(value) => visit_integer(value, visitor),
            None => self.deserialize_any(visitor),
        }
    }

    fn visit_map<'de, V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        match self.tree {
            Tree::Map(entries) => visitor.visit_map(Entries {
                entries: entries.into_iter(),
                value: None,
                origin: self.origin,
                fields,
            }),
            _ => self.deserialize_any(visitor),
        }
    }
}

fn visit_integer<'de, V: Visitor<'de>>(value: i128, visitor: V) -> Result<V::Value, TreeError> {
    match (i64::try_from(value), u64::try_from(value)) {
        (Ok(value), _) => visitor.visit_i64(value),
        (_, Ok(value)) => visitor.visit_u64(value),
        _ => visitor.visit_i128(value),
    }
}

/// The numbers that JSON cannot write, in the words of Java.
fn non_finite(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

macro_rules! integers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
            self.visit_integer(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for TreeDeserializer {
    type Error = TreeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        match self.tree {
            Tree::Null => visitor.visit_unit(),
            Tree::Bool(value) => visitor.visit_bool(value),
            Tree::Integer(value) => visit_integer(value, visitor),
            Tree::Float(value) => visitor.visit_f64(value),
            Tree::Decimal(value) => visitor.visit_f64(value.to_f64()),
            Tree::Text(value) => visitor.visit_string(value),
            Tree::Bytes(value) => visitor.visit_byte_buf(value),
            Tree::List(elements) => visit_list(elements, self.origin, visitor),
            Tree::Map(_) => self.visit_map(&[], visitor),
        }
    }

    integers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }

    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        match self.wide() {
            Some(bytes) => visitor.visit_i128(i128::from_be_bytes(bytes)),
            None => self.visit_integer(visitor),
        }
    }

    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        match self.wide() {
            Some(bytes) => visitor.visit_u128(u128::from_be_bytes(bytes)),
            None => self.visit_integer(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        match self.tree.as_str() {
            Some("true") if self.key => visitor.visit_bool(true),
            Some("false") if self.key => visitor.visit_bool(false),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        match &self.tree {
            // From the digits: by way of f64 it could be rounded twice.
            Tree::Decimal(value) => match value.as_str().parse() {
                Ok(value) => visitor.visit_f32(value),
                Err(_) => self.deserialize_any(visitor),
            },
            _ => self.deserialize_f64(visitor),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        let number = match &self.tree {
            Tree::Text(text) if self.key => text.parse().ok(),
            Tree::Text(text) => non_finite(text),
            tree => tree.as_f64(),
        };
        match number {
            Some(value) => visitor.visit_f64(value),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        self.deserialize_any(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        self.deserialize_string(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        match &self.tree {
            Tree::Integer(value) if self.key => visitor.visit_string(value.to_string()),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        self.deserialize_byte_buf(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        match (&self.tree, self.origin) {
            (Tree::Text(text), Origin::Json | Origin::Cbor) => {
                let bytes = STANDARD.decode(text);
                visitor.visit_byte_buf(bytes.map_err(|_| TreeError::new("the text is no Base64"))?)
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        match self.tree {
            Tree::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        self.deserialize_any(visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        match self.tree {
            // A map in JSON and CBOR, with fields that are ignored; a list in MessagePack.
            Tree::Map(_) => visitor.visit_unit(),
            Tree::List(elements) if elements.is_empty() => visitor.visit_unit(),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        match self.tree {
            Tree::Decimal(value) if name == DECIMAL => {
                let text = value.as_str().to_owned();
                visitor.visit_newtype_struct(StringDeserializer::<TreeError>::new(text))
            }
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        match self.tree {
            Tree::Bytes(bytes) => {
                let mut elements = SeqDeserializer::<_, TreeError>::new(bytes.into_iter());
                let value = visitor.visit_seq(&mut elements)?;
                elements.end()?;
                Ok(value)
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        self.visit_map(&[], visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        self.visit_map(fields, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        let origin = self.origin;
        let (variant, content) = match self.tree {
            Tree::Map(entries) => match <[(Tree, Tree); 1]>::try_from(entries) {
                Ok([(variant, content)]) => (variant, Some(content)),
                Err(entries) => {
                    return Err(TreeError::new(format!(
                        "found a map of {} keys, expected one key that names a variant",
                        entries.len()
                    )));
                }
            },
            tree => (tree, None),
        };
        visitor.visit_enum(Variant {
            variant: Self {
                tree: variant,
                origin,
                key: true,
            },
            content,
        })
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        self.deserialize_string(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        visitor.visit_unit()
    }

    fn is_human_readable(&self) -> bool {
        self.origin == Origin::Json
    }
}

impl<'de> IntoDeserializer<'de, TreeError> for TreeDeserializer {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

fn visit_list<'de, V: Visitor<'de>>(
    elements: Vec<Tree>,
    origin: Origin,
    visitor: V,
) -> Result<V::Value, TreeError> {
    let count = elements.len();
    let mut elements = Elements {
        elements: elements.into_iter(),
        origin,
        next: 0,
    };
    let value = visitor.visit_seq(&mut elements)?;
    match elements.elements.len() {
        0 => Ok(value),
        _ => Err(TreeError::new(format!(
            "found a list of {count}, expected {}",
            elements.next
        ))),
    }
}

struct Elements {
    elements: std::vec::IntoIter<Tree>,
    origin: Origin,
    next: usize,
}

impl<'de> SeqAccess<'de> for &mut Elements {
    type Error = TreeError;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, TreeError> {
        let Some(tree) = self.elements.next() else {
            return Ok(None);
        };
        let index = self.next;
        self.next += 1;
        let element = TreeDeserializer {
            tree,
            origin: self.origin,
            key: false,
        };
        let value = seed.deserialize(element);
        value
            .map(Some)
            .map_err(|error| error.inside(index.to_string()))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.elements.len())
    }
}

struct Entries {
    entries: std::vec::IntoIter<(Tree, Tree)>,
    /// The value of the key that was given last, and the key if it is a field of the type.
    value: Option<(Tree, Option<&'static str>)>,
    origin: Origin,
    fields: &'static [&'static str],
}

impl<'de> MapAccess<'de> for Entries {
    type Error = TreeError;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, TreeError> {
        let Some((tree, value)) = self.entries.next() else {
            return Ok(None);
        };
        let field = self
            .fields
            .iter()
            .find(|name| Some(**name) == tree.as_str());
        self.value = Some((value, field.copied()));
        let key = TreeDeserializer {
            tree,
            origin: self.origin,
            key: true,
        };
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, TreeError> {
        let Some((tree, field)) = self.value.take() else {
            return Err(TreeError::new("a value was asked for before its key"));
        };
        let value = seed.deserialize(TreeDeserializer {
            tree,
            origin: self.origin,
            key: false,
        });
        value.map_err(|error| match field {
            Some(field) => error.inside(field),
            None => error,
        })
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len())
    }
}

struct Variant {
    variant: TreeDeserializer,
    content: Option<Tree>,
}

impl<'de> EnumAccess<'de> for Variant {
    type Error = TreeError;
    type Variant = Content;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Content), TreeError> {
        let content = self.content.map(|tree| self.variant.with(tree));
        Ok((seed.deserialize(self.variant)?, Content(content)))
    }
}

struct Content(Option<TreeDeserializer>);

impl Content {
    fn some(self) -> Result<TreeDeserializer, TreeError> {
        let missing = || TreeError::new("the variant has no content");
        self.0.ok_or_else(missing)
    }
}

impl<'de> VariantAccess<'de> for Content {
    type Error = TreeError;

    fn unit_variant(self) -> Result<(), TreeError> {
        match self.0 {
            None => Ok(()),
            Some(content) if content.tree == Tree::Null => Ok(()),
            Some(content) => Err(TreeError::new(format!(
                "found {}, expected a variant without content",
                content.tree.kind()
            ))),
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, TreeError> {
        seed.deserialize(self.some()?)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, TreeError> {
        self.some()?.deserialize_tuple(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        self.some()?.deserialize_struct("", fields, visitor)
    }
}
