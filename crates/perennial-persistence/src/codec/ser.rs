//! From a Rust type to JSON, CBOR or a primitive, by way of a [`Sink`] for each.

use std::fmt::Display;

use serde::ser::{self, Impossible, Serialize};

use crate::codec::MAX_NESTING;
use crate::codec::tree::{DECIMAL, TreeError};

type Result<T = (), E = TreeError> = std::result::Result<T, E>;

impl ser::Error for TreeError {
    fn custom<T: Display>(message: T) -> Self {
        Self::new(message.to_string())
    }
}

/// Where the parts of a value go, in one format.
pub(crate) trait Sink {
    /// Whether types that differ between text and binary formats show their text.
    const HUMAN_READABLE: bool;

    fn null(&mut self) -> Result;
    fn bool(&mut self, value: bool) -> Result;
    fn integer(&mut self, value: i128) -> Result;
    fn f32(&mut self, value: f32) -> Result;
    fn f64(&mut self, value: f64) -> Result;
    /// The digits of a [`Decimal`](crate::Decimal).
    fn decimal(&mut self, digits: &str) -> Result;
    fn text(&mut self, value: &str) -> Result;
    fn bytes(&mut self, value: &[u8]) -> Result;
    fn begin_list(&mut self, len: Option<usize>) -> Result;
    /// Before an element.
    fn element(&mut self, first: bool) -> Result;
    /// After the last element; `len` as at the beginning.
    fn end_list(&mut self, len: Option<usize>) -> Result;
    fn begin_map(&mut self) -> Result;
    /// Before a key.
    fn entry(&mut self, first: bool) -> Result;
    fn text_key(&mut self, key: &str) -> Result;
    fn integer_key(&mut self, key: i128) -> Result;
    /// Between a key and its value.
    fn value(&mut self) -> Result;
    fn end_map(&mut self) -> Result;
}

/// A key and its text, put in front of the outermost map.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TypeProperty<'a> {
    pub(crate) key: &'a str,
    pub(crate) value: &'a str,
}

/// Sends a value into a sink.
pub(crate) fn serialize<T: Serialize + ?Sized, S: Sink>(
    value: &T,
    type_property: Option<TypeProperty<'_>>,
    sink: &mut S,
) -> Result {
    value.serialize(&mut Serializer {
        sink,
        depth: 0,
        decimal: false,
        type_property,
    })
}

struct Serializer<'s, 'a, S> {
    sink: &'s mut S,
    depth: usize,
    /// Whether the next text is the digits of a [`Decimal`](crate::Decimal).
    decimal: bool,
    /// Until the outermost map has begun.
    type_property: Option<TypeProperty<'a>>,
}

impl<'a, S: Sink> Serializer<'_, 'a, S> {
    /// For everything that is no map: there is no place for a type property.
    fn plain(&self) -> Result {
        match self.type_property {
            None => Ok(()),
            Some(property) => Err(TreeError::new(format!(
                "only a struct or a map has room for the type property `{}`",
                property.key
            ))),
        }
    }

    fn integer(&mut self, value: impl Into<i128>) -> Result {
        self.plain()?;
        self.sink.integer(value.into())
    }

    fn deeper(&mut self) -> Result {
        if self.depth == MAX_NESTING {
            return Err(TreeError::new(format!(
                "the value is nested deeper than {MAX_NESTING} levels, which could not be read again"
            )));
        }
        self.depth += 1;
        Ok(())
    }

    /// Begins a list, and says how it ends.
    fn begin_list(&mut self, len: Option<usize>) -> Result<Shape> {
        self.plain()?;
        self.deeper()?;
        self.sink.begin_list(len)?;
        Ok(Shape::List(len))
    }

    /// Begins a map, with the type property if it is the outermost; gives its key then.
    fn begin_map(&mut self) -> Result<Option<&'a str>> {
        self.deeper()?;
        self.sink.begin_map()?;
        let Some(property) = self.type_property.take() else {
            return Ok(None);
        };
        self.sink.entry(true)?;
        self.sink.text_key(property.key)?;
        self.sink.value()?;
        self.sink.text(property.value)?;
        Ok(Some(property.key))
    }

    fn end_map(&mut self) -> Result {
        self.depth -= 1;
        self.sink.end_map()
    }

    /// Begins the map of one key around a variant with content.
    fn begin_variant(&mut self, variant: &str) -> Result {
        self.plain()?;
        self.deeper()?;
        self.sink.begin_map()?;
        self.sink.entry(true)?;
        self.sink.text_key(variant)?;
        self.sink.value()
    }
}

/// What has begun and must end.
enum Shape {
    /// With the announced length.
    List(Option<usize>),
    Map,
}

/// A list or map that has begun.
struct Compound<'b, 's, 'a, S> {
    serializer: &'b mut Serializer<'s, 'a, S>,
    shape: Shape,
    count: usize,
    /// The key of the type property, which is there already.
    taken: Option<&'a str>,
    /// Whether the map around a variant ends with it.
    variant: bool,
}

impl<'b, 's, 'a, S: Sink> Compound<'b, 's, 'a, S> {
    fn new(
        serializer: &'b mut Serializer<'s, 'a, S>,
        shape: Shape,
        taken: Option<&'a str>,
    ) -> Self {
        Self {
            serializer,
            shape,
            count: usize::from(taken.is_some()),
            taken,
            variant: false,
        }
    }

    fn of_variant(serializer: &'b mut Serializer<'s, 'a, S>, shape: Shape) -> Self {
        Self {
            variant: true,
            ..Self::new(serializer, shape, None)
        }
    }

    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result {
        self.serializer.sink.element(self.count == 0)?;
        self.count += 1;
        value.serialize(&mut *self.serializer)
    }

    fn key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result {
        self.serializer.sink.entry(self.count == 0)?;
        self.count += 1;
        key.serialize(KeySerializer {
            sink: &mut *self.serializer.sink,
            taken: self.taken,
        })
    }

    fn value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result {
        self.serializer.sink.value()?;
        value.serialize(&mut *self.serializer)
    }

    fn finish(self) -> Result {
        match self.shape {
            Shape::Map => self.serializer.end_map()?,
            Shape::List(Some(len)) if len != self.count => {
                return Err(TreeError::new(format!(
                    "a list announced {len} elements and had {}",
                    self.count
                )));
            }
            Shape::List(len) => {
                self.serializer.depth -= 1;
                self.serializer.sink.end_list(len)?;
            }
        }
        if self.variant {
            self.serializer.end_map()?;
        }
        Ok(())
    }
}

macro_rules! integers {
    ($($method:ident: $integer:ty),* $(,)?) => {$(
        fn $method(self, value: $integer) -> Result {
            self.integer(value)
        }
    )*};
}

impl<'b, 's, 'a, S: Sink> ser::Serializer for &'b mut Serializer<'s, 'a, S> {
    type Ok = ();
    type Error = TreeError;
    type SerializeSeq = Compound<'b, 's, 'a, S>;
    type SerializeTuple = Compound<'b, 's, 'a, S>;
    type SerializeTupleStruct = Compound<'b, 's, 'a, S>;
    type SerializeTupleVariant = Compound<'b, 's, 'a, S>;
    type SerializeMap = Compound<'b, 's, 'a, S>;
    type SerializeStruct = Compound<'b, 's, 'a, S>;
    type SerializeStructVariant = Compound<'b, 's, 'a, S>;

    integers! {
        serialize_i8: i8,
        serialize_i16: i16,
        serialize_i32: i32,
        serialize_i64: i64,
        serialize_i128: i128,
        serialize_u8: u8,
        serialize_u16: u16,
        serialize_u32: u32,
        serialize_u64: u64,
    }

    fn serialize_u128(self, value: u128) -> Result {
        let value = i128::try_from(value);
        self.integer(value.map_err(|_| TreeError::new("a whole number is too large"))?)
    }

    fn serialize_bool(self, value: bool) -> Result {
        self.plain()?;
        self.sink.bool(value)
    }

    fn serialize_f32(self, value: f32) -> Result {
        self.plain()?;
        self.sink.f32(value)
    }

    fn serialize_f64(self, value: f64) -> Result {
        self.plain()?;
        self.sink.f64(value)
    }

    fn serialize_char(self, value: char) -> Result {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result {
        self.plain()?;
        if std::mem::take(&mut self.decimal) {
            return self.sink.decimal(value);
        }
        self.sink.text(value)
    }

    fn serialize_bytes(self, value: &[u8]) -> Result {
        self.plain()?;
        self.sink.bytes(value)
    }

    fn serialize_none(self) -> Result {
        self.plain()?;
        self.sink.null()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result {
        match self.type_property {
            None => self.sink.null(),
            Some(_) => self.serialize_unit_struct(""),
        }
    }

    /// A struct without fields is an empty map, as an empty class is to Jackson.
    fn serialize_unit_struct(self, _name: &'static str) -> Result {
        self.begin_map()?;
        self.end_map()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result {
        self.decimal = name == DECIMAL;
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result {
        self.begin_variant(variant)?;
        value.serialize(&mut *self)?;
        self.end_map()
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Self::SerializeSeq> {
        let shape = self.begin_list(len)?;
        Ok(Compound::new(self, shape, None))
    }

    fn serialize_tuple(self, len: usize) -> Result<Self::SerializeTuple> {
        self.serialize_seq(Some(len))
    }

    fn serialize_tuple_struct(
        self,
        _: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleStruct> {
        self.serialize_seq(Some(len))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleVariant> {
        self.begin_variant(variant)?;
        let shape = self.begin_list(Some(len))?;
        Ok(Compound::of_variant(self, shape))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap> {
        let taken = self.begin_map()?;
        Ok(Compound::new(self, Shape::Map, taken))
    }

    fn serialize_struct(self, _: &'static str, len: usize) -> Result<Self::SerializeStruct> {
        self.serialize_map(Some(len))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant> {
        self.begin_variant(variant)?;
        self.begin_map()?;
        Ok(Compound::of_variant(self, Shape::Map))
    }

    fn is_human_readable(&self) -> bool {
        S::HUMAN_READABLE
    }
}

macro_rules! elements {
    ($($name:ident $method:ident),* $(,)?) => {$(
        impl<S: Sink> ser::$name for Compound<'_, '_, '_, S> {
            type Ok = ();
            type Error = TreeError;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result {
                self.element(value)
            }

            fn end(self) -> Result {
                self.finish()
            }
        }
    )*};
}

elements! {
    SerializeSeq serialize_element,
    SerializeTuple serialize_element,
    SerializeTupleStruct serialize_field,
    SerializeTupleVariant serialize_field,
}

impl<S: Sink> ser::SerializeMap for Compound<'_, '_, '_, S> {
    type Ok = ();
    type Error = TreeError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result {
        self.key(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result {
        self.value(value)
    }

    fn end(self) -> Result {
        self.finish()
    }
}

macro_rules! fields {
    ($($name:ident),* $(,)?) => {$(
        impl<S: Sink> ser::$name for Compound<'_, '_, '_, S> {
            type Ok = ();
            type Error = TreeError;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                key: &'static str,
                value: &T,
            ) -> Result {
                self.key(key)?;
                self.value(value)
            }

            fn end(self) -> Result {
                self.finish()
            }
        }
    )*};
}

fields! { SerializeStruct, SerializeStructVariant }

/// Takes what can be a map's key.
struct KeySerializer<'s, 'a, S> {
    sink: &'s mut S,
    taken: Option<&'a str>,
}

fn no_key() -> TreeError {
    TreeError::new("a map's key must be text or a whole number")
}

macro_rules! no_keys {
    ($($method:ident($($argument:ty),*) -> $result:ty;)*) => {$(
        fn $method(self, $(_: $argument),*) -> Result<$result> {
            Err(no_key())
        }
    )*};
}

impl<S: Sink> KeySerializer<'_, '_, S> {
    fn integer(self, value: impl Into<i128>) -> Result {
        self.sink.integer_key(value.into())
    }
}

impl<S: Sink> ser::Serializer for KeySerializer<'_, '_, S> {
    type Ok = ();
    type Error = TreeError;
    type SerializeSeq = Impossible<(), TreeError>;
    type SerializeTuple = Impossible<(), TreeError>;
    type SerializeTupleStruct = Impossible<(), TreeError>;
    type SerializeTupleVariant = Impossible<(), TreeError>;
    type SerializeMap = Impossible<(), TreeError>;
    type SerializeStruct = Impossible<(), TreeError>;
    type SerializeStructVariant = Impossible<(), TreeError>;

    integers! {
        serialize_i8: i8,
        serialize_i16: i16,
        serialize_i32: i32,
        serialize_i64: i64,
        serialize_u8: u8,
        serialize_u16: u16,
        serialize_u32: u32,
        serialize_u64: u64,
    }

    fn serialize_str(self, value: &str) -> Result {
        if self.taken == Some(value) {
            return Err(TreeError::new(format!(
                "`{value}` is the type property already; give the field another name"
            )));
        }
        self.sink.text_key(value)
    }

    fn serialize_char(self, value: char) -> Result {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_bool(self, value: bool) -> Result {
        self.serialize_str(if value { "true" } else { "false" })
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result {
        value.serialize(self)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result {
        Err(no_key())
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result {
        Err(no_key())
    }

    no_keys! {
        serialize_f32(f32) -> ();
        serialize_f64(f64) -> ();
        serialize_bytes(&[u8]) -> ();
        serialize_none() -> ();
        serialize_unit() -> ();
        serialize_unit_struct(&'static str) -> ();
        serialize_seq(Option<usize>) -> Self::SerializeSeq;
        serialize_tuple(usize) -> Self::SerializeTuple;
        serialize_tuple_struct(&'static str, usize) -> Self::SerializeTupleStruct;
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> Self::SerializeTupleVariant;
        serialize_map(Option<usize>) -> Self::SerializeMap;
        serialize_struct(&'static str, usize) -> Self::SerializeStruct;
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> Self::SerializeStructVariant;
    }

    fn is_human_readable(&self) -> bool {
        // Keys are text in every format here.
        true
    }
}
