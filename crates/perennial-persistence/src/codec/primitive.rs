//! Payloads that are one number, truth value, text or run of bytes.

use crate::codec::Format;
use crate::codec::ser::Sink;
use crate::codec::tree::{Tree, TreeError};

/// Takes exactly one value of the kind that the format has.
pub(crate) struct PrimitiveSink<'a> {
    format: Format,
    buffer: &'a mut Vec<u8>,
    /// Whether a list of bytes has begun.
    in_list: bool,
}

impl<'a> PrimitiveSink<'a> {
    pub(crate) fn new(format: Format, buffer: &'a mut Vec<u8>) -> Self {
        Self {
            format,
            buffer,
            in_list: false,
        }
    }

    fn refuse<T>(&self, what: &str) -> Result<T, TreeError> {
        let format = self.format;
        Err(TreeError::new(format!(
            "{what} cannot be written as {format}"
        )))
    }

    fn is_bytes(&self) -> bool {
        matches!(self.format, Format::Bytes | Format::ByteString)
    }
}

impl Sink for PrimitiveSink<'_> {
    const HUMAN_READABLE: bool = false;

    fn null(&mut self) -> Result<(), TreeError> {
        self.refuse("nothing")
    }

    fn bool(&mut self, value: bool) -> Result<(), TreeError> {
        if self.format != Format::Boolean {
            return self.refuse("a truth value");
        }
        self.buffer.push(value.into());
        Ok(())
    }

    fn integer(&mut self, value: i128) -> Result<(), TreeError> {
        match (self.format, i32::try_from(value), i64::try_from(value)) {
            (Format::Int, Ok(value), _) => self.buffer.extend_from_slice(&value.to_le_bytes()),
            (Format::Long, _, Ok(value)) => self.buffer.extend_from_slice(&value.to_le_bytes()),
            _ if self.in_list => match u8::try_from(value) {
                Ok(byte) => self.buffer.push(byte),
                Err(_) => return self.refuse("a number beyond a byte"),
            },
            _ => return self.refuse("this whole number"),
        }
        Ok(())
    }

    fn f32(&mut self, _value: f32) -> Result<(), TreeError> {
        self.refuse("floating point")
    }

    fn f64(&mut self, _value: f64) -> Result<(), TreeError> {
        self.refuse("floating point")
    }

    fn decimal(&mut self, digits: &str) -> Result<(), TreeError> {
        self.text(digits)
    }

    fn text(&mut self, value: &str) -> Result<(), TreeError> {
        if self.format != Format::Text {
            return self.refuse("text");
        }
        self.buffer.extend_from_slice(value.as_bytes());
        Ok(())
    }

    fn bytes(&mut self, value: &[u8]) -> Result<(), TreeError> {
        if self.in_list {
            return self.refuse("a list of byte strings");
        }
        if !self.is_bytes() {
            return self.refuse("bytes");
        }
        self.buffer.extend_from_slice(value);
        Ok(())
    }

    /// `Vec<u8>` is a list to serde; its elements are bytes here.
    fn begin_list(&mut self, _len: Option<usize>) -> Result<(), TreeError> {
        if !self.is_bytes() || self.in_list {
            return self.refuse("a list");
        }
        self.in_list = true;
        Ok(())
    }

    fn element(&mut self, _first: bool) -> Result<(), TreeError> {
        Ok(())
    }

    fn end_list(&mut self, _len: Option<usize>) -> Result<(), TreeError> {
        Ok(())
    }

    fn begin_map(&mut self) -> Result<(), TreeError> {
        self.refuse("a struct or map")
    }

    fn entry(&mut self, _first: bool) -> Result<(), TreeError> {
        self.refuse("a struct or map")
    }

    fn text_key(&mut self, _key: &str) -> Result<(), TreeError> {
        self.refuse("a struct or map")
    }

    fn integer_key(&mut self, _key: i128) -> Result<(), TreeError> {
        self.refuse("a struct or map")
    }

    fn value(&mut self) -> Result<(), TreeError> {
        self.refuse("a struct or map")
    }

    fn end_map(&mut self) -> Result<(), TreeError> {
        self.refuse("a struct or map")
    }
}

/// Reads a payload of a primitive format.
pub(crate) fn read(format: Format, bytes: &[u8]) -> Result<Tree, TreeError> {
    let length = |expected: usize| {
        TreeError::new(format!(
            "{} bytes, expected {expected} of {format}",
            bytes.len()
        ))
    };
    match format {
        Format::Bytes | Format::ByteString => Ok(Tree::Bytes(bytes.to_owned())),
        Format::Long => {
            let bytes = bytes.try_into().map_err(|_| length(8))?;
            Ok(Tree::Integer(i64::from_le_bytes(bytes).into()))
        }
        Format::Int => {
            let bytes = bytes.try_into().map_err(|_| length(4))?;
            Ok(Tree::Integer(i32::from_le_bytes(bytes).into()))
        }
        // As the JVM: what is no UTF-8 becomes U+FFFD.
        Format::Text => Ok(Tree::Text(String::from_utf8_lossy(bytes).into_owned())),
        Format::Boolean => match bytes {
            [0] => Ok(Tree::Bool(false)),
            [1] => Ok(Tree::Bool(true)),
            [_] => Err(TreeError::new("a truth value is 0 or 1")),
            _ => Err(length(1)),
        },
        Format::MessagePack | Format::JacksonJson | Format::JacksonCbor => {
            Err(TreeError::new(format!("{format} is no primitive")))
        }
    }
}
