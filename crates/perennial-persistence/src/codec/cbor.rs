//! CBOR as Jackson writes it, to the byte, and as it reads it.

use std::convert::Infallible;

use minicbor::data::{IanaTag, Int, Tag, Type};
use minicbor::{Decoder, Encoder};

use crate::codec::MAX_NESTING;
use crate::codec::ser::Sink;
use crate::codec::tree::{Decimal, Tree, TreeError};

/// The most UTF-16 units that Jackson writes as one string; a longer one comes in chunks.
const CHUNK_UNITS: usize = 3996;

/// Writes CBOR: maps of indefinite length, lists with theirs, the shortest whole numbers, floating
/// point in its own width.
///
/// Source: Jackson `CBORGenerator`.
pub(crate) struct CborSink<'a>(Encoder<&'a mut Vec<u8>>);

type Written<'e, 'a> =
    Result<&'e mut Encoder<&'a mut Vec<u8>>, minicbor::encode::Error<Infallible>>;

impl<'a> CborSink<'a> {
    pub(crate) fn new(buffer: &'a mut Vec<u8>) -> Self {
        Self(Encoder::new(buffer))
    }

    /// One whole number in its shortest form, as a big number where 64 bits do not hold it.
    fn number(&mut self, value: i128) -> Result<(), TreeError> {
        match Int::try_from(value) {
            Ok(value) => done(self.0.int(value)),
            Err(_) => self.big(value),
        }
    }

    /// A number beyond 64 bits. As Jackson, which writes a negative one by its magnitude.
    fn big(&mut self, value: i128) -> Result<(), TreeError> {
        let tag = if value < 0 {
            IanaTag::NegBignum
        } else {
            IanaTag::PosBignum
        };
        if value == i128::MIN {
            // Its magnitude could not be read again.
            return Err(TreeError::new("a whole number is too large"));
        }
        let bytes = value.unsigned_abs().to_be_bytes();
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        // The bytes are those of a signed number: the first bit is no digit.
        let signed = zeros - usize::from(bytes[zeros..].first().is_some_and(|byte| *byte > 0x7F));
        done(
            self.0
                .tag(tag)
                .and_then(|cbor| cbor.bytes(&bytes[signed..])),
        )
    }

    /// The digits of a decimal: unlike other whole numbers those beyond 32 bits have 64.
    fn mantissa(&mut self, value: i128) -> Result<(), TreeError> {
        match (i32::try_from(value), i64::try_from(value)) {
            (Ok(value), _) => done(self.0.i32(value)),
            (_, Ok(value)) => {
                let (kind, magnitude) = if value < 0 {
                    (0x3B, !value)
                } else {
                    (0x1B, value)
                };
                let buffer = self.0.writer_mut();
                buffer.push(kind);
                buffer.extend_from_slice(&magnitude.to_be_bytes());
                Ok(())
            }
            _ => self.big(value),
        }
    }
}

fn done(written: Written<'_, '_>) -> Result<(), TreeError> {
    written
        .map(|_| ())
        .map_err(|error| TreeError::new(error.to_string()))
}

impl Sink for CborSink<'_> {
    const HUMAN_READABLE: bool = false;

    fn null(&mut self) -> Result<(), TreeError> {
        done(self.0.null())
    }

    fn bool(&mut self, value: bool) -> Result<(), TreeError> {
        done(self.0.bool(value))
    }

    fn integer(&mut self, value: i128) -> Result<(), TreeError> {
        self.number(value)
    }

    fn f32(&mut self, value: f32) -> Result<(), TreeError> {
        done(self.0.f32(value))
    }

    fn f64(&mut self, value: f64) -> Result<(), TreeError> {
        done(self.0.f64(value))
    }

    /// A decimal fraction: tag 4 with the exponent and the digits. More digits than that has room
    /// for are text, which both sides read as a decimal too.
    fn decimal(&mut self, digits: &str) -> Result<(), TreeError> {
        let unscaled = Decimal::of_valid(digits).unscaled();
        let unscaled = unscaled.filter(|(number, _)| *number != i128::MIN);
        let Some((number, Ok(exponent))) =
            unscaled.map(|(number, exponent)| (number, i32::try_from(exponent)))
        else {
            return self.text(digits);
        };
        done(self.0.tag(IanaTag::Decimal).and_then(|cbor| cbor.array(2)))?;
        self.number(exponent.into())?;
        self.mantissa(number)
    }

    fn text(&mut self, value: &str) -> Result<(), TreeError> {
        // There are never more units than bytes.
        if value.len() <= CHUNK_UNITS || value.encode_utf16().count() <= CHUNK_UNITS {
            return done(self.0.str(value));
        }
        done(self.0.begin_str())?;
        let mut rest = value;
        while !rest.is_empty() {
            let mut units = 0;
            let end = rest.char_indices().find(|(_, c)| {
                units += c.len_utf16();
                units > CHUNK_UNITS
            });
            let (chunk, later) = rest.split_at(end.map_or(rest.len(), |(at, _)| at));
            done(self.0.str(chunk))?;
            rest = later;
        }
        done(self.0.end())
    }

    fn bytes(&mut self, value: &[u8]) -> Result<(), TreeError> {
        done(self.0.bytes(value))
    }

    fn begin_list(&mut self, len: Option<usize>) -> Result<(), TreeError> {
        match len.and_then(|len| u64::try_from(len).ok()) {
            Some(len) => done(self.0.array(len)),
            None => done(self.0.begin_array()),
        }
    }

    fn element(&mut self, _first: bool) -> Result<(), TreeError> {
        Ok(())
    }

    fn end_list(&mut self, len: Option<usize>) -> Result<(), TreeError> {
        match len {
            Some(_) => Ok(()),
            None => done(self.0.end()),
        }
    }

    fn begin_map(&mut self) -> Result<(), TreeError> {
        done(self.0.begin_map())
    }

    fn entry(&mut self, _first: bool) -> Result<(), TreeError> {
        Ok(())
    }

    fn text_key(&mut self, key: &str) -> Result<(), TreeError> {
        done(self.0.str(key))
    }

    fn integer_key(&mut self, key: i128) -> Result<(), TreeError> {
        self.number(key)
    }

    fn value(&mut self) -> Result<(), TreeError> {
        Ok(())
    }

    fn end_map(&mut self) -> Result<(), TreeError> {
        done(self.0.end())
    }
}

/// Reads one CBOR value.
pub(crate) fn read(bytes: &[u8]) -> Result<Tree, TreeError> {
    let mut cbor = Decoder::new(bytes);
    let tree = read_value(&mut cbor, 0).map_err(|Problem(error)| error)?;
    match bytes.len() - cbor.position() {
        0 => Ok(tree),
        count => Err(TreeError::new(format!("{count} bytes follow the value"))),
    }
}

/// Keeps the library's errors out of [`TreeError`]'s interface.
struct Problem(TreeError);

impl From<minicbor::decode::Error> for Problem {
    fn from(error: minicbor::decode::Error) -> Self {
        Self(TreeError::new(format!("no CBOR: {error}")))
    }
}

impl From<TreeError> for Problem {
    fn from(error: TreeError) -> Self {
        Self(error)
    }
}

fn read_value(cbor: &mut Decoder<'_>, depth: usize) -> Result<Tree, Problem> {
    match cbor.datatype()? {
        Type::Null => {
            cbor.null()?;
            Ok(Tree::Null)
        }
        Type::Undefined => {
            cbor.undefined()?;
            Ok(Tree::Null)
        }
        Type::Bool => Ok(Tree::Bool(cbor.bool()?)),
        Type::U8
        | Type::U16
        | Type::U32
        | Type::U64
        | Type::I8
        | Type::I16
        | Type::I32
        | Type::I64
        | Type::Int => Ok(Tree::Integer(cbor.int()?.into())),
        Type::F16 | Type::F32 => Ok(Tree::Float(cbor.f32()?.into())),
        Type::F64 => Ok(Tree::Float(cbor.f64()?)),
        Type::String => Ok(Tree::from(cbor.str()?)),
        Type::StringIndef => {
            let mut text = String::new();
            for chunk in cbor.str_iter()? {
                text.push_str(chunk?);
            }
            Ok(Tree::Text(text))
        }
        Type::Bytes => Ok(Tree::Bytes(cbor.bytes()?.to_owned())),
        Type::BytesIndef => {
            let mut bytes = Vec::new();
            for chunk in cbor.bytes_iter()? {
                bytes.extend_from_slice(chunk?);
            }
            Ok(Tree::Bytes(bytes))
        }
        Type::Array | Type::ArrayIndef => read_list(cbor, deeper(depth, MAX_NESTING)?),
        Type::Map | Type::MapIndef => {
            let depth = deeper(depth, MAX_NESTING)?;
            let len = cbor.map()?;
            let mut map = Vec::new();
            while more(cbor, len, map.len())? {
                map.push((read_value(cbor, depth)?, read_value(cbor, depth)?));
            }
            Ok(Tree::Map(map))
        }
        Type::Tag => {
            // A decimal in the innermost list is a tag around a list of its own, in which a big
            // number has a tag again.
            let depth = deeper(depth, MAX_NESTING + 3)?;
            let tag = cbor.tag()?;
            let content = match cbor.datatype()? {
                Type::Array | Type::ArrayIndef if tag == IanaTag::Decimal.tag() => {
                    read_list(cbor, depth + 1)?
                }
                _ => read_value(cbor, depth)?,
            };
            Ok(read_tagged(tag, content)?)
        }
        other => Err(TreeError::new(format!("CBOR's {other} is not supported")).into()),
    }
}

/// The depth inside of what begins at `depth`.
fn deeper(depth: usize, max: usize) -> Result<usize, TreeError> {
    if depth >= max {
        return Err(TreeError::new(format!(
            "the CBOR is nested deeper than {MAX_NESTING} levels"
        )));
    }
    Ok(depth + 1)
}

/// A list whose elements are at `depth`.
fn read_list(cbor: &mut Decoder<'_>, depth: usize) -> Result<Tree, Problem> {
    let len = cbor.array()?;
    // The announced length is not trusted: nothing is reserved.
    let mut list = Vec::new();
    while more(cbor, len, list.len())? {
        list.push(read_value(cbor, depth)?);
    }
    Ok(Tree::List(list))
}

/// Whether another element follows; takes the end mark if there is one.
fn more(cbor: &mut Decoder<'_>, len: Option<u64>, count: usize) -> Result<bool, Problem> {
    if let Some(len) = len {
        return Ok(u64::try_from(count).is_ok_and(|count| count < len));
    }
    if cbor.datatype()? == Type::Break {
        cbor.set_position(cbor.position() + 1);
        return Ok(false);
    }
    Ok(true)
}

fn read_tagged(tag: Tag, content: Tree) -> Result<Tree, TreeError> {
    let kind = IanaTag::try_from(tag).ok();
    match (kind, content) {
        (Some(kind @ (IanaTag::PosBignum | IanaTag::NegBignum)), Tree::Bytes(bytes)) => {
            let too_large = || TreeError::new("a whole number has more than 127 bits");
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            let digits = &bytes[zeros..];
            let mut wide = [0; 16];
            let at = wide.len().checked_sub(digits.len()).ok_or_else(too_large)?;
            wide[at..].copy_from_slice(digits);
            let value = i128::from_be_bytes(wide);
            if value < 0 {
                return Err(too_large());
            }
            // As Jackson, whose negative ones are their magnitude, not one less.
            let negative = kind == IanaTag::NegBignum;
            Ok(Tree::Integer(if negative { -value } else { value }))
        }
        (Some(IanaTag::Decimal), Tree::List(parts)) => match parts.as_slice() {
            [Tree::Integer(exponent), Tree::Integer(number)] => {
                let exponent = i32::try_from(*exponent);
                let exponent = exponent
                    .map_err(|_| TreeError::new("a decimal's exponent has over 32 bits"))?;
                Ok(Tree::Decimal(decimal(*number, exponent)))
            }
            _ => Err(TreeError::new(
                "CBOR's decimal fraction has two whole numbers",
            )),
        },
        // What other tags say of a value (a time, a URI) is said by the type that reads it.
        (_, content) => Ok(content),
    }
}

/// The number in the form of Java's `BigDecimal.toString`.
fn decimal(number: i128, exponent: i32) -> Decimal {
    let sign = if number < 0 { "-" } else { "" };
    let digits = number.unsigned_abs().to_string();
    // The exponent if there is one digit before the point.
    let adjusted = i64::from(exponent) + i64::try_from(digits.len()).unwrap_or(0) - 1;
    let text = match usize::try_from(-i64::from(exponent)) {
        Ok(0) => format!("{sign}{digits}"),
        Ok(places) if adjusted >= -6 => {
            let digits = format!("{digits:0>width$}", width = places + 1);
            let (whole, fraction) = digits.split_at(digits.len() - places);
            format!("{sign}{whole}.{fraction}")
        }
        _ => {
            let (first, others) = digits.split_at(1);
            let point = if others.is_empty() { "" } else { "." };
            format!("{sign}{first}{point}{others}E{adjusted:+}")
        }
    };
    Decimal::of_valid(text)
}
