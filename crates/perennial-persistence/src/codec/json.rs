//! JSON as Jackson writes it, to the byte, and as it reads it.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiter::{Jiter, JiterError, Peek};

use crate::codec::MAX_NESTING;
use crate::codec::ser::Sink;
use crate::codec::tree::{Decimal, Tree, TreeError};

/// Writes JSON without white space.
///
/// As Jackson: hexadecimal escapes in capitals, characters beyond U+FFFF as two escaped halves,
/// numbers in the form of Java's `toString`, numbers that are none as text, bytes as Base64.
pub(crate) struct JsonSink<'a>(pub(crate) &'a mut Vec<u8>);

impl JsonSink<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), TreeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn display(&mut self, value: impl std::fmt::Display) -> Result<(), TreeError> {
        write!(self.0, "{value}").map_err(|error| TreeError::new(error.to_string()))
    }

    fn escape(&mut self, unit: u16) {
        const HEX: &[u8; 16] = b"0123456789ABCDEF";
        self.0.extend_from_slice(b"\\u");
        for shift in [12, 8, 4, 0] {
            self.0.push(HEX[usize::from(unit >> shift & 0xF)]);
        }
    }

    fn quoted(&mut self, text: &str) {
        self.0.push(b'"');
        let mut plain = 0;
        for (at, c) in text.char_indices() {
            if c >= ' ' && c != '"' && c != '\\' && c <= '\u{FFFF}' {
                continue;
            }
            self.0.extend_from_slice(&text.as_bytes()[plain..at]);
            plain = at + c.len_utf8();
            match c {
                '"' => self.0.extend_from_slice(b"\\\""),
                '\\' => self.0.extend_from_slice(b"\\\\"),
                '\u{8}' => self.0.extend_from_slice(b"\\b"),
                '\t' => self.0.extend_from_slice(b"\\t"),
                '\n' => self.0.extend_from_slice(b"\\n"),
                '\u{c}' => self.0.extend_from_slice(b"\\f"),
                '\r' => self.0.extend_from_slice(b"\\r"),
                c => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.escape(*unit);
                    }
                }
            }
        }
        self.0.extend_from_slice(&text.as_bytes()[plain..]);
        self.0.push(b'"');
    }
}

impl Sink for JsonSink<'_> {
    const HUMAN_READABLE: bool = true;

    fn null(&mut self) -> Result<(), TreeError> {
        self.put(b"null")
    }

    fn bool(&mut self, value: bool) -> Result<(), TreeError> {
        self.display(value)
    }

    fn integer(&mut self, value: i128) -> Result<(), TreeError> {
        self.display(value)
    }

    fn f32(&mut self, value: f32) -> Result<(), TreeError> {
        if value.is_finite() {
            self.display(java_number(&format!("{value:e}")))
        } else {
            self.f64(value.into())
        }
    }

    fn f64(&mut self, value: f64) -> Result<(), TreeError> {
        if value.is_nan() {
            self.put(b"\"NaN\"")
        } else if value.is_infinite() {
            self.put(if value > 0.0 {
                b"\"Infinity\""
            } else {
                b"\"-Infinity\""
            })
        } else {
            self.display(java_number(&format!("{value:e}")))
        }
    }

    fn decimal(&mut self, digits: &str) -> Result<(), TreeError> {
        self.put(digits.as_bytes())
    }

    fn text(&mut self, value: &str) -> Result<(), TreeError> {
        self.quoted(value);
        Ok(())
    }

    fn bytes(&mut self, value: &[u8]) -> Result<(), TreeError> {
        self.display(format_args!("\"{}\"", STANDARD.encode(value)))
    }

    fn begin_list(&mut self, _len: Option<usize>) -> Result<(), TreeError> {
        self.put(b"[")
    }

    fn element(&mut self, first: bool) -> Result<(), TreeError> {
        self.put(if first { b"" } else { b"," })
    }

    fn end_list(&mut self, _len: Option<usize>) -> Result<(), TreeError> {
        self.put(b"]")
    }

    fn begin_map(&mut self) -> Result<(), TreeError> {
        self.put(b"{")
    }

    fn entry(&mut self, first: bool) -> Result<(), TreeError> {
        self.element(first)
    }

    fn text_key(&mut self, key: &str) -> Result<(), TreeError> {
        self.text(key)
    }

    fn integer_key(&mut self, key: i128) -> Result<(), TreeError> {
        self.display(format_args!("\"{key}\""))
    }

    fn value(&mut self) -> Result<(), TreeError> {
        self.put(b":")
    }

    fn end_map(&mut self) -> Result<(), TreeError> {
        self.put(b"}")
    }
}

/// A finite number in the form of Java's `Double.toString`, of its shortest digits as Rust's
/// `{:e}` writes them: `1.0`, `0.001`, `1.0E-4`, `1.0E7`.
fn java_number(scientific: &str) -> String {
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        return scientific.to_owned();
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(mantissa) => ("-", mantissa),
        None => ("", mantissa),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let or_zero = |digits: &str| {
        if digits.is_empty() {
            "0".to_owned()
        } else {
            digits.to_owned()
        }
    };
    match exponent {
        0..=6 => {
            let places = usize::try_from(exponent).unwrap_or(0);
            let digits = format!("{whole}{fraction:0<places$}");
            let (whole, fraction) = digits.split_at(1 + places);
            format!("{sign}{whole}.{}", or_zero(fraction))
        }
        -3..=-1 => {
            let zeros = usize::try_from(-1 - exponent).unwrap_or(0);
            format!("{sign}0.{}{whole}{fraction}", "0".repeat(zeros))
        }
        _ => format!("{sign}{whole}.{}E{exponent}", or_zero(fraction)),
    }
}

/// Reads one JSON value; a byte order mark before it and white space around it are accepted.
pub(crate) fn read(bytes: &[u8]) -> Result<Tree, TreeError> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let mut json = Jiter::new(bytes);
    let first = json.peek();
    let tree = first
        .map_err(Problem::from)
        .and_then(|first| read_value(&mut json, first, 0));
    let tree = tree.and_then(|tree| {
        json.finish()?;
        Ok(tree)
    });
    tree.map_err(|problem| match problem {
        Problem::Json(error) => TreeError::new(format!(
            "no JSON at byte {}: {}",
            error.index, error.error_type
        )),
        Problem::Tree(error) => error,
    })
}

enum Problem {
    Json(JiterError),
    Tree(TreeError),
}

impl From<JiterError> for Problem {
    fn from(error: JiterError) -> Self {
        Self::Json(error)
    }
}

fn read_value(json: &mut Jiter<'_>, first: Peek, depth: usize) -> Result<Tree, Problem> {
    match first {
        Peek::Null => {
            json.known_null()?;
            Ok(Tree::Null)
        }
        Peek::True | Peek::False => Ok(Tree::Bool(json.known_bool(first)?)),
        Peek::String => Ok(Tree::from(json.known_str()?)),
        Peek::Array => {
            let depth = deeper(depth)?;
            let mut list = Vec::new();
            let mut next = json.known_array()?;
            while let Some(first) = next {
                list.push(read_value(json, first, depth)?);
                next = json.array_step()?;
            }
            Ok(Tree::List(list))
        }
        Peek::Object => {
            let depth = deeper(depth)?;
            let mut map = Vec::new();
            let mut next = json.known_object()?.map(Tree::from);
            while let Some(key) = next {
                let first = json.peek()?;
                map.push((key, read_value(json, first, depth)?));
                next = json.next_key()?.map(Tree::from);
            }
            Ok(Tree::Map(map))
        }
        number => {
            let digits = std::str::from_utf8(json.known_number_bytes(number)?);
            let digits =
                digits.map_err(|error| Problem::Tree(TreeError::new(error.to_string())))?;
            Ok(match digits.parse() {
                // There is no whole number -0.
                Ok(value) if digits != "-0" => Tree::Integer(value),
                _ => Tree::Decimal(Decimal::of_valid(digits)),
            })
        }
    }
}

fn deeper(depth: usize) -> Result<usize, Problem> {
    if depth == MAX_NESTING {
        return Err(Problem::Tree(TreeError::new(format!(
            "the JSON is nested deeper than {MAX_NESTING} levels"
        ))));
    }
    Ok(depth + 1)
}
