//! Formats: golden bytes, tolerance, bounds, round trips.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::*;
use crate::{Codec, MessagePack, Schema, SchemaBuilder, SerializedPayload, Versions};

const JACKSON: [Format; 2] = [Format::JacksonJson, Format::JacksonCbor];
const NAMED: [Format; 3] = [
    Format::MessagePack,
    Format::JacksonJson,
    Format::JacksonCbor,
];

fn schema<T: Serialize + DeserializeOwned + 'static>(format: Format) -> SchemaBuilder<T> {
    let builder = if format.is_primitive() {
        return Schema::primitive(format);
    } else {
        Schema::of(Versions::new("T"))
    };
    builder.format(format)
}

fn write<T: Serialize + DeserializeOwned + 'static>(format: Format, value: &T) -> Bytes {
    let schema = schema(format).build().expect("a schema");
    schema
        .encode(value)
        .expect("a value that can be written")
        .bytes
}

fn read<T: Serialize + DeserializeOwned + 'static>(
    format: Format,
    bytes: &[u8],
) -> Result<T, String> {
    read_id(format.serializer_id(), bytes)
}

fn read_id<T: Serialize + DeserializeOwned + 'static>(id: i32, bytes: &[u8]) -> Result<T, String> {
    let format = Format::of_serializer_id(id).expect("a format");
    let schema = schema::<T>(format).build().expect("a schema");
    let payload = SerializedPayload::new(id, "T", bytes.to_vec());
    schema.decode(&payload).map_err(|error| {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        format!("{error}: {}", source.unwrap_or_default())
    })
}

fn json<T: Serialize + DeserializeOwned + 'static>(value: &T) -> String {
    String::from_utf8(write(Format::JacksonJson, value).to_vec()).expect("UTF-8")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

fn cbor<T: Serialize + DeserializeOwned + 'static>(value: &T) -> String {
    hex(&write(Format::JacksonCbor, value))
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Empty;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Shape {
    Unit,
    Newtype(i32),
    Tuple(i32, bool),
    Struct { a: Option<String> },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct All {
    unsigned: u64,
    signed: i64,
    wide: i128,
    double: f64,
    single: f32,
    text: String,
    letter: char,
    raw: ByteBuf,
    optional: Option<i32>,
    list: Vec<Shape>,
    tuple: (u8, String),
    by_text: BTreeMap<String, bool>,
    by_number: BTreeMap<i32, i64>,
    decimal: Decimal,
    empty: Empty,
}

#[test]
fn json_is_written_as_jackson_writes_it() {
    let check = |found: String, expected: &str| assert_eq!(found, expected);
    check(
        json(&"a\"\\/\u{8}\t\n\u{c}\r".to_owned()),
        r#""a\"\\/\b\t\n\f\r""#,
    );
    check(
        json(&"\0\u{1f}\u{7f}é\u{2028}".to_owned()),
        "\"\\u0000\\u001F\u{7f}é\u{2028}\"",
    );
    check(json(&"😀𠮷".to_owned()), r#""\uD83D\uDE00\uD842\uDFB7""#);
    check(
        json(&ByteBuf::from(vec![0xFB, 0xFF, 1, 2])),
        r#""+/8BAg==""#,
    );
    check(json(&BTreeMap::from([(-1, 2)])), r#"{"-1":2}"#);
    check(json(&Empty), "{}");
    check(json(&None::<i32>), "null");
    check(json(&Shape::Unit), r#""Unit""#);
    check(json(&Shape::Newtype(1)), r#"{"Newtype":1}"#);
    check(json(&Shape::Tuple(1, true)), r#"{"Tuple":[1,true]}"#);
    check(json(&Shape::Struct { a: None }), r#"{"Struct":{"a":null}}"#);
    let decimal: Decimal = "0.840".parse().expect("a decimal number");
    check(json(&decimal), "0.840");
}

#[test]
fn json_numbers_have_the_form_of_java() {
    let check = |value: f64, expected: &str| assert_eq!(json(&value), expected);
    check(0.0, "0.0");
    check(-0.0, "-0.0");
    check(1.0, "1.0");
    check(-1.5, "-1.5");
    check(100.0, "100.0");
    check(123_456.789, "123456.789");
    check(9_999_999.0, "9999999.0");
    check(1e7, "1.0E7");
    check(12_345_678.9, "1.23456789E7");
    check(0.001, "0.001");
    check(0.001_23, "0.00123");
    check(0.000_999, "9.99E-4");
    check(1e-300, "1.0E-300");
    check(f64::MAX, "1.7976931348623157E308");
    check(f64::NAN, r#""NaN""#);
    check(f64::INFINITY, r#""Infinity""#);
    check(f64::NEG_INFINITY, r#""-Infinity""#);
    assert_eq!(json(&0.1_f32), "0.1");
    assert_eq!(json(&3.4e38_f32), "3.4E38");
}

#[test]
fn cbor_is_written_as_jackson_writes_it() {
    let check = |found: String, expected: &str| assert_eq!(found, expected);
    check(cbor(&23), "17");
    check(cbor(&24), "1818");
    check(cbor(&256), "190100");
    check(cbor(&-1), "20");
    check(cbor(&-500), "3901F3");
    check(cbor(&i64::MIN), "3B7FFFFFFFFFFFFFFF");
    check(cbor(&u64::MAX), "1BFFFFFFFFFFFFFFFF");
    check(cbor(&(1_i128 << 64)), "C249010000000000000000");
    check(cbor(&i128::MAX), "C2507FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF");
    check(cbor(&-(1_i128 << 71)), "C34A00800000000000000000");
    assert_eq!(
        read(
            Format::JacksonCbor,
            &write(Format::JacksonCbor, &-i128::MAX)
        ),
        Ok(-i128::MAX)
    );
    let schema = schema::<i128>(Format::JacksonCbor)
        .build()
        .expect("a schema");
    assert!(schema.encode(&i128::MIN).is_err());
    check(cbor(&1.5_f64), "FB3FF8000000000000");
    check(cbor(&1.5_f32), "FA3FC00000");
    check(cbor(&true), "F5");
    check(cbor(&None::<i32>), "F6");
    check(cbor(&ByteBuf::from(vec![1, 2])), "420102");
    check(cbor(&vec![1, 2]), "820102");
    check(cbor(&Empty), "BFFF");
    check(
        cbor(&BTreeMap::from([("a", 1)].map(|(k, v)| (k.to_owned(), v)))),
        "BF616101FF",
    );
    // A JVM's map of whole numbers has them as keys.
    check(cbor(&BTreeMap::from([(1, 2)])), "BF0102FF");
    let decimal = |text: &str| text.parse::<Decimal>().expect("a decimal number");
    check(cbor(&decimal("0.840")), "C48222190348");
    check(cbor(&decimal("603")), "C4820019025B");
    check(cbor(&decimal("-30000000.00")), "C482213B00000000B2D05DFF");
    check(
        cbor(&decimal("18446744073709551616")),
        "C48200C249010000000000000000",
    );
}

#[test]
fn long_text_in_cbor_comes_in_the_chunks_of_jackson() {
    let text = "a".repeat(3996);
    assert_eq!(write(Format::JacksonCbor, &text)[..3], *b"\x79\x0F\x9C");
    let text = format!("{}😀b", "a".repeat(3995));
    let bytes = write(Format::JacksonCbor, &text);
    // The pair does not fit into the first chunk.
    assert_eq!(bytes[..4], *b"\x7F\x79\x0F\x9B");
    assert_eq!(bytes[4 + 3995..], *b"\x65\xF0\x9F\x98\x80b\xFF");
    assert_eq!(read::<String>(Format::JacksonCbor, &bytes), Ok(text));
}

#[test]
fn primitives_have_the_bytes_of_the_jvm() {
    let check = |found: Bytes, expected: &[u8]| assert_eq!(found, expected);
    check(write(Format::Long, &258_i64), b"\x02\x01\0\0\0\0\0\0");
    check(write(Format::Int, &-2_i32), b"\xFE\xFF\xFF\xFF");
    check(write(Format::Text, &"é".to_owned()), "é".as_bytes());
    check(write(Format::Boolean, &true), b"\x01");
    check(write(Format::Bytes, &vec![0_u8, 255]), b"\x00\xFF");
    check(write(Format::ByteString, &ByteBuf::from(vec![7])), b"\x07");

    assert_eq!(
        read(Format::Long, b"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF"),
        Ok(-1_i64)
    );
    assert_eq!(read(Format::Int, b"\x02\x01\0\0"), Ok(258_i32));
    assert_eq!(
        read(Format::Bytes, b"\x1F\x8B\x08"),
        Ok(vec![0x1F_u8, 0x8B, 8])
    );
    assert_eq!(read(Format::Text, b"a\xFFb"), Ok("a\u{FFFD}b".to_owned()));
    let refused = |result: Result<i64, String>, part: &str| {
        let text = result.expect_err(part);
        assert!(text.contains(part), "{text}");
    };
    refused(read(Format::Long, b"\0\0\0"), "3 bytes, expected 8");
    refused(read(Format::Int, b""), "0 bytes, expected 4");
    assert!(read::<bool>(Format::Boolean, b"\x02").is_err());
    assert!(read::<bool>(Format::Boolean, b"").is_err());
}

#[test]
fn a_value_of_another_kind_is_no_primitive() {
    fn check<T: Serialize + DeserializeOwned + 'static>(format: Format, value: T) {
        let schema = schema::<T>(format).build().expect("a schema");
        assert!(schema.encode(&value).is_err(), "{format}");
    }
    check(Format::Int, i64::from(i32::MAX) + 1);
    check(Format::Long, u64::MAX);
    check(Format::Long, 1.5_f64);
    check(Format::Text, 1);
    check(Format::Boolean, 1);
    check(Format::Bytes, "text".to_owned());
    check(Format::Bytes, vec![256]);
    check(Format::Bytes, 5_u8);
    // One after the other they would be bytes, of which nobody could tell where one ends.
    check(Format::Bytes, vec![vec![5_u8], vec![6]]);
    check(Format::Bytes, vec![ByteBuf::from(vec![5])]);
    check(Format::Text, vec!["text".to_owned()]);
    check(Format::Text, Empty);
    check(Format::Long, None::<i64>);
}

#[test]
fn json_is_read_as_tolerantly_as_pekko_reads_it() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Event {
        cents: i64,
        memo: Option<String>,
        rate: f64,
    }
    let expected = Ok(Event {
        cents: 5,
        memo: None,
        rate: 1.0,
    });
    let check = |text: &str| {
        assert_eq!(
            read::<Event>(Format::JacksonJson, text.as_bytes()),
            expected,
            "{text}"
        );
    };
    check(r#"{"cents":5,"memo":null,"rate":1.0}"#);
    check(r#"{"rate":1,"memo":null,"cents":5}"#);
    check(r#"{"cents":5.0,"rate":1.0}"#);
    check(r#"{"cents":50e-1,"rate":10E-1}"#);
    check("\u{FEFF}{\"cents\":5,\"rate\":1.0}");
    check("  { \"cents\" : 5 ,\r\n\t\"rate\" : 1.0 } \n");
    check(r#"{"type":"event","cents":5,"later":{"a":[1,{}]},"rate":1.0}"#);

    // Under the id of old Akka it is JSON too; under that of CBOR it is not.
    let text = br#"{"cents":5,"rate":1.0}"#;
    assert_eq!(read_id(32, text), expected);
    assert!(read_id::<Event>(33, text).is_err());
}

#[test]
fn what_is_no_json_is_an_error_that_shows_nothing_of_it() {
    let check = |text: &str| {
        let result = read::<BTreeMap<String, i64>>(Format::JacksonJson, text.as_bytes());
        let error = result.expect_err(text);
        assert!(!error.contains("secret"), "{error}");
    };
    check("");
    check("{");
    check(r#"{"secret"}"#);
    check(r#"{"a":"secret"}"#);
    check(r#"{"a":5.5}"#);
    check(r#"{"a":5}{"#);
    check(r#"{"a":NaN}"#);
    check(r#"{"a":"\uD83D secret"}"#);
    check("{\"a\":\"secret\u{1}\"}");
    check(r#"{"a":01}"#);
    check(r#"{"a":1,}"#);
    check("{'a':1}");
}

#[test]
fn numbers_that_json_cannot_write_come_back() {
    for format in NAMED {
        let back = |value: f64| read::<f64>(format, &write(format, &value)).expect("a number");
        assert!(back(f64::NAN).is_nan(), "{format}");
        assert_eq!(back(f64::INFINITY), f64::INFINITY, "{format}");
        assert_eq!(back(f64::NEG_INFINITY), f64::NEG_INFINITY, "{format}");
        assert!(back(-0.0).is_sign_negative(), "{format}");
        let back = read::<f32>(format, &write(format, &f32::NAN)).expect("a number");
        assert!(back.is_nan(), "{format}");
    }
}

#[test]
fn other_forms_of_cbor_are_read() {
    let read = |bytes: &[u8]| super::cbor::read(bytes);
    let number = |value: i128| Ok(Tree::Integer(value));
    // Maps of definite length, half precision, strings in chunks, tags, undefined.
    let map = Ok(Tree::map([("a", Tree::Float(1.5))]));
    assert_eq!(read(b"\xA1\x61a\xF9\x3E\x00"), map);
    assert_eq!(read(b"\x7F\x61a\x61b\xFF"), Ok(Tree::from("ab")));
    assert_eq!(read(b"\x5F\x41a\x41b\xFF"), Ok(Tree::Bytes(b"ab".to_vec())));
    assert_eq!(
        read(b"\x9F\x01\xFF"),
        Ok(Tree::List(vec![Tree::Integer(1)]))
    );
    assert_eq!(read(b"\xD9\xD9\xF7\x05"), number(5));
    assert_eq!(read(b"\xF7"), Ok(Tree::Null));
    assert_eq!(read(b"\xC2\x49\x01\0\0\0\0\0\0\0\0"), number(1 << 64));
    assert_eq!(read(b"\xC3\x42\x01\x00"), number(-256));
    // Java's forms come back as they were, others as Java would show them.
    for (text, shown) in [
        ("0.840", "0.840"),
        ("-0.05", "-0.05"),
        ("603", "603"),
        ("0", "0"),
        ("0.000001", "0.000001"),
        ("0.0000001", "1E-7"),
        ("1E+9", "1E+9"),
        ("-12e8", "-1.2E+9"),
        (
            "-170141183460469231731687303715884105727",
            "-170141183460469231731687303715884105727",
        ),
    ] {
        let value: Decimal = text.parse().expect("a decimal number");
        let back = read(&write(Format::JacksonCbor, &value)).expect("CBOR");
        let expected = shown.parse().expect("a decimal number");
        assert_eq!(back, Tree::Decimal(expected), "{text}");
    }
    for text in [
        "-170141183460469231731687303715884105728",
        "1E+99999999999",
        "-9999999999999999999999999999999999999999.5",
    ] {
        let value: Decimal = text.parse().expect("a decimal number");
        let bytes = write(Format::JacksonCbor, &value);
        assert_eq!(super::tests::read(Format::JacksonCbor, &bytes), Ok(value));
    }
    assert!(read(b"\xC4\x82\x1B\0\0\0\x01\0\0\0\0\x01").is_err());
    // An announced length reserves nothing.
    assert!(read(b"\x9B\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF").is_err());
    assert!(read(b"\x5B\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFF").is_err());
    assert!(read(b"\xBB\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01").is_err());
    assert!(read(b"\x01\x01").is_err());
    assert!(read(b"\xFF").is_err());
    assert!(read(b"").is_err());
}

#[test]
fn a_decimal_keeps_its_digits() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Rate {
        rate: Decimal,
    }
    for text in [
        "0.840",
        "603",
        "1E+3",
        "-0.10",
        "123456789012345678901234567890.12345",
    ] {
        let rate = Rate {
            rate: text.parse().expect("a decimal number"),
        };
        let bytes = write(Format::JacksonJson, &rate);
        assert_eq!(bytes, format!("{{\"rate\":{text}}}").as_bytes());
        assert_eq!(read(Format::JacksonJson, &bytes), Ok(rate));
    }
    for text in ["", "-", "1.", ".5", "01", "1e", "1e+", "NaN", "1_0", "+1"] {
        assert!(text.parse::<Decimal>().is_err(), "{text}");
    }
}

#[test]
fn json_is_compressed_above_the_threshold_and_not_at_it() {
    let text = |bytes: usize| "a".repeat(bytes - 2); // and two quotes
    let at = write(Format::JacksonJson, &text(32_768));
    assert_eq!(at.len(), 32_768);
    let above = write(Format::JacksonJson, &text(32_769));
    // The header as the JVM writes it: no time, no name, unknown system.
    assert_eq!(above[..10], *b"\x1F\x8B\x08\0\0\0\0\0\0\xFF");
    assert_eq!(read(Format::JacksonJson, &above), Ok(text(32_769)));
    assert!(write(Format::JacksonCbor, &text(40_000)).len() > 39_000);
}

#[test]
fn both_compressions_are_recognised_in_both_formats() {
    let text = "perennial ".repeat(100);
    for format in JACKSON {
        for compression in [Compression::GzipAbove(0), Compression::Lz4Above(0)] {
            let builder = schema::<String>(format).compression(compression);
            let payload = builder
                .build()
                .expect("a schema")
                .encode(&text)
                .expect("text");
            assert!(payload.bytes.len() < 100);
            // By a schema that compresses nothing.
            let off = schema::<String>(format).compression(Compression::Off);
            assert_eq!(
                off.build().expect("a schema").decode(&payload).ok(),
                Some(text.clone())
            );
        }
    }
    let lz4 = Compression::Lz4Above(0)
        .apply(b"aaaa")
        .expect("LZ4")
        .into_owned();
    assert_eq!(lz4[..8], *b"\x87\xD9\x6D\xF6\0\0\0\x04");
    // Bytes stay bytes, whatever they look like.
    assert_eq!(read(Format::Bytes, &lz4), Ok(lz4.clone()));
    assert_eq!(read(Format::ByteString, &lz4), Ok(lz4));
}

#[test]
fn what_expands_to_more_than_the_bound_is_refused_and_the_bound_itself_is_not() {
    const MAX: usize = 1000;
    for compression in [Compression::GzipAbove(0), Compression::Lz4Above(0)] {
        let expand = |bytes: usize| {
            let stored = compression
                .apply(&vec![b'a'; bytes])
                .expect("bytes")
                .into_owned();
            super::compression::expand(&stored, MAX).map(|plain| plain.len())
        };
        assert_eq!(expand(MAX), Ok(MAX));
        let error = expand(MAX + 1).expect_err("too large").to_string();
        assert!(error.contains("more than 1000 bytes"), "{error}");
        // A bomb costs no more than the bound.
        assert!(expand(1 << 24).is_err());

        let builder = schema::<String>(Format::JacksonJson).compression(compression);
        let schema = builder.max_expanded(MAX).build().expect("a schema");
        let fits = schema.encode(&"a".repeat(MAX - 2)).expect("at the bound");
        assert!(schema.decode(&fits).is_ok());
        // What could not be read is not written.
        assert!(schema.encode(&"a".repeat(MAX - 1)).is_err());
    }
}

#[test]
fn damaged_compression_is_an_error() {
    let expand = |bytes: &[u8]| super::compression::expand(bytes, 1 << 30).map(|plain| plain.len());
    let magic = b"\x87\xD9\x6D\xF6";
    let lz4 = |rest: &[u8]| expand(&[magic, rest].concat());
    assert!(lz4(b"").is_err());
    assert!(lz4(b"\0\0\0").is_err());
    // A length that the block cannot have; nothing of that size is reserved.
    assert!(lz4(b"\x3F\xFF\xFF\xFF\x10a").is_err());
    assert!(lz4(b"\0\0\0\x05\x10a").is_err());
    assert!(lz4(b"\0\0\0\0\x10a").is_err());
    assert!(expand(b"\x1F\x8B").is_err());
    assert!(expand(b"\x1F\x8B\x08\0\0\0\0\0\0\xFFgarbage").is_err());
    assert_eq!(expand(b"\x1F"), Ok(1));
    assert_eq!(expand(b""), Ok(0));
}

/// Nested once per level.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Chain {
    End,
    List(Vec<Chain>),
    Next(Box<Chain>),
}

fn chain(links: usize) -> Chain {
    (0..links).fold(Chain::End, |chain, _| Chain::Next(Box::new(chain)))
}

#[test]
fn nesting_is_bounded_when_written_and_when_read() {
    for format in NAMED {
        let schema = schema::<Chain>(format).build().expect("a schema");
        let deepest = schema.encode(&chain(MAX_NESTING)).expect("at the bound");
        assert_eq!(
            schema.decode(&deepest).expect("at the bound"),
            chain(MAX_NESTING)
        );
        assert!(schema.encode(&chain(MAX_NESTING + 1)).is_err(), "{format}");
    }
    let codec = MessagePack::<Chain>::new("T");
    assert!(codec.encode(&chain(MAX_NESTING)).is_ok());
    assert!(codec.encode(&chain(MAX_NESTING + 1)).is_err());

    // Far beyond what the stack could bear.
    let refused = |format: Format, bytes: Vec<u8>| {
        let error = read::<Chain>(format, &bytes).expect_err("too deep");
        assert!(error.contains("nested deeper than 128"), "{error}");
    };
    let links = 1_000_000;
    refused(Format::MessagePack, b"\x81\xA4Next".repeat(links));
    refused(
        Format::MessagePack,
        [b"\x81\xA4List".as_slice(), &[0x91; 1_000_000]].concat(),
    );
    refused(Format::JacksonJson, b"{\"Next\":".repeat(links));
    refused(Format::JacksonJson, vec![b'['; links]);
    refused(Format::JacksonCbor, b"\xBF\x64Next".repeat(links));
    refused(Format::JacksonCbor, vec![0x81; links]);
    refused(Format::JacksonCbor, vec![0xC6; links]);
}

/// A value in that many lists.
struct Nested<'a, T>(usize, &'a T);

impl<T: Serialize> Serialize for Nested<'_, T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            0 => self.1.serialize(serializer),
            lists => [Nested(lists - 1, self.1)].serialize(serializer),
        }
    }
}

#[test]
fn numbers_with_tags_are_read_from_the_innermost_list_of_cbor() {
    fn check<T: Serialize>(number: T) {
        let write = |lists| {
            let mut bytes = Vec::new();
            let mut sink = CborSink::new(&mut bytes);
            ser::serialize(&Nested(lists, &number), None, &mut sink).map(|()| bytes)
        };
        let bytes = write(MAX_NESTING).expect("at the bound");
        super::cbor::read(&bytes).expect("what was written");
        assert!(write(MAX_NESTING + 1).is_err());
        assert!(super::cbor::read(&[b"\x81", &bytes[..]].concat()).is_err());
    }
    check(5);
    check(i128::MAX);
    let decimal = |text: &str| text.parse::<Decimal>().expect("a decimal number");
    check(decimal("0.840"));
    check(decimal("18446744073709551616"));
}

#[test]
fn every_kind_of_field_comes_back_in_every_format() {
    let all = All {
        unsigned: u64::MAX,
        signed: i64::MIN,
        wide: -5,
        double: 0.1,
        single: 0.1,
        text: "text 😀".to_owned(),
        letter: '\u{10FFFF}',
        raw: ByteBuf::from(vec![0, 255]),
        optional: None,
        list: vec![
            Shape::Unit,
            Shape::Newtype(-1),
            Shape::Tuple(1, true),
            Shape::Struct {
                a: Some(String::new()),
            },
        ],
        tuple: (7, "seven".to_owned()),
        by_text: BTreeMap::from([("a".to_owned(), true)]),
        by_number: BTreeMap::from([(i32::MIN, i64::MAX)]),
        decimal: "0.840".parse().expect("a decimal number"),
        empty: Empty,
    };
    for format in NAMED {
        assert_eq!(
            read(format, &write(format, &all)),
            Ok(all.clone()),
            "{format}"
        );
    }
    assert_eq!(by_way_of_a_tree(&all), Ok(all));
    assert_eq!(by_way_of_a_tree(&i128::MIN), Ok(i128::MIN));
    assert_eq!(by_way_of_a_tree(&u128::MAX), Ok(u128::MAX));
}

/// MessagePack without a type and back: what an upcast works on.
fn by_way_of_a_tree<T: Serialize + DeserializeOwned + 'static>(value: &T) -> Result<T, TreeError> {
    let bytes = write(Format::MessagePack, value);
    let tree = message_pack::read_tree(&bytes).expect("MessagePack");
    super::de::from_tree(tree, Origin::MessagePack)
}

#[test]
fn an_error_names_the_field() {
    #[derive(Debug, Serialize, Deserialize)]
    struct Inner {
        cents: i64,
    }
    #[derive(Debug, Serialize, Deserialize)]
    struct Outer {
        limits: Vec<Inner>,
    }
    #[derive(Debug, Serialize, Deserialize)]
    struct Other {
        limits: Vec<BTreeMap<String, String>>,
    }
    let limit = BTreeMap::from([("cents".to_owned(), "secret".to_owned())]);
    let other = Other {
        limits: vec![limit],
    };
    for format in NAMED {
        let bytes = write(format, &other);
        let error = read::<Outer>(format, &bytes).expect_err("text is no number");
        let expected = "in `limits.0.cents`: found text, expected i64";
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn a_tree_takes_no_more_memory_than_is_said() {
    /// What a tree has reserved beside its own place.
    fn reserved(tree: &Tree) -> usize {
        match tree {
            Tree::Text(text) => text.capacity(),
            Tree::Bytes(bytes) => bytes.capacity(),
            Tree::List(list) => {
                list.capacity() * size_of::<Tree>() + list.iter().map(reserved).sum::<usize>()
            }
            Tree::Map(map) => {
                let entries = map
                    .iter()
                    .map(|(key, value)| reserved(key) + reserved(value));
                map.capacity() * size_of::<(Tree, Tree)>() + entries.sum::<usize>()
            }
            _ => 0,
        }
    }

    assert_eq!(size_of::<Tree>(), 32);
    // What costs most is room for four where there is one: as many lists as possible.
    let many = |begin: &[u8], end: &[u8]| {
        let deep = [&begin.repeat(126), &b"\0"[..], &end.repeat(126)].concat();
        deep.repeat(1000)
    };
    let message_pack = |begin| [b"\xDC\x03\xE8", &many(begin, b"")[..]].concat();
    let cbor = |begin, end| [b"\x99\x03\xE8", &many(begin, end)[..]].concat();
    for (format, bytes) in [
        (Format::MessagePack, message_pack(b"\x91")),
        (Format::MessagePack, message_pack(b"\x81\0")),
        (Format::JacksonCbor, cbor(b"\x81", b"")),
        (Format::JacksonCbor, cbor(b"\xA1\0", b"")),
        (Format::JacksonCbor, cbor(b"\xBF\0", b"\xFF")),
        (Format::JacksonJson, [b'[', b']'].map(|c| [c; 128]).concat()),
    ] {
        let tree = read_tree(format, &bytes, 0).expect("a tree");
        let per_byte = (size_of::<Tree>() + reserved(&tree)) / bytes.len();
        assert!(per_byte <= 128, "{format}: {per_byte}");
    }
}

#[test]
fn an_own_codec_needs_an_own_id() {
    #[derive(Debug)]
    struct Own(i32);

    impl Codec<i64> for Own {
        fn encode(&self, value: &i64) -> Result<SerializedPayload, CodecError> {
            let text: Arc<str> = "".into();
            Ok(SerializedPayload::new(
                self.0,
                text,
                value.to_be_bytes().to_vec(),
            ))
        }

        fn decode(&self, payload: &SerializedPayload) -> Result<i64, CodecError> {
            let bytes = payload.bytes.as_ref().try_into();
            Ok(i64::from_be_bytes(bytes.map_err(CodecError::undecodable)?))
        }
    }

    for id in [-1, 0, 4, 31, 40, MESSAGE_PACK_ID] {
        let refused = Registry::writing(id, Own(id)).expect_err("reserved");
        assert_eq!(refused, InvalidRegistry::Reserved { serializer_id: id });
    }
    let registry = Registry::writing(41, Own(41)).expect("the first own id");
    let taken = registry.reading(41, Own(41)).expect_err("taken");
    assert_eq!(taken, InvalidRegistry::Taken { serializer_id: 41 });

    let long = || schema::<i64>(Format::Long).build().expect("a schema");
    let registry = Registry::writing(41, Own(41)).expect("the first own id");
    let registry = registry.reading_schema(long()).expect("one schema");
    let own = registry.encode(&7).expect("a number");
    assert_eq!(registry.decode(&own).ok(), Some(7));
    assert_eq!(
        registry.decode(&long().encode(&8).expect("a number")).ok(),
        Some(8)
    );
    let unknown = SerializedPayload::new(4712, "bank.Event", &b""[..]);
    let error = registry.decode(&unknown).expect_err("unknown").to_string();
    assert!(error.contains("serializer id 4712"), "{error}");
    assert!(error.contains("\"bank.Event\""), "{error}");
    assert!(error.contains("41, 4, 18"), "{error}");

    // A codec that writes under another id than it was given could not read its own rows.
    let registry = Registry::writing(42, Own(43)).expect("an own id");
    assert!(registry.encode(&7).is_err());
}

fn decimals() -> impl Strategy<Value = Decimal> {
    // Without -0, which is 0 in CBOR.
    "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,12})?"
        .prop_filter("-0", |text| {
            !text.starts_with('-') || text.contains(|c| matches!(c, '1'..='9'))
        })
        .prop_map(|text| text.parse().expect("a number"))
}

fn shapes() -> impl Strategy<Value = Shape> {
    prop_oneof![
        Just(Shape::Unit),
        any::<i32>().prop_map(Shape::Newtype),
        any::<(i32, bool)>().prop_map(|(a, b)| Shape::Tuple(a, b)),
        any::<Option<String>>().prop_map(|a| Shape::Struct { a }),
    ]
}

prop_compose! {
    fn values()(
        (unsigned, signed, wide) in (any::<u64>(), any::<i64>(), any::<i64>()),
        (double, single) in (any::<f64>(), any::<f32>()),
        (text, letter, raw) in (any::<String>(), any::<char>(), vec(any::<u8>(), 0..40)),
        (optional, list) in (any::<Option<i32>>(), vec(shapes(), 0..4)),
        tuple in any::<(u8, String)>(),
        by_text in btree_map(any::<String>(), any::<bool>(), 0..4),
        by_number in btree_map(any::<i32>(), any::<i64>(), 0..4),
        decimal in decimals(),
    ) -> All {
        All {
            unsigned, signed, wide: i128::from(wide), double, single, text, letter,
            raw: ByteBuf::from(raw), optional, list, tuple, by_text, by_number, decimal,
            empty: Empty,
        }
    }
}

fn round_trip<T>(format: Format, value: &T) -> Result<(), TestCaseError>
where
    T: Serialize + DeserializeOwned + Debug + PartialEq + 'static,
{
    let back = read::<T>(format, &write(format, value));
    prop_assert_eq!(back.as_ref(), Ok(value), "{}", format);
    Ok(())
}

/// Reads bytes in every way; there is nothing to see but that it ends.
fn read_everything(bytes: &[u8]) {
    for format in Format::ALL {
        let _ = read_tree(format, bytes, 1 << 16);
        let _ = read::<All>(format, bytes);
        let _ = read::<Chain>(format, bytes);
        let _ = read::<Vec<Shape>>(format, bytes);
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(all in values()) {
        for format in NAMED {
            round_trip(format, &all)?;
        }
        let by_tree = by_way_of_a_tree(&all);
        prop_assert_eq!(by_tree.as_ref(), Ok(&all));
        round_trip(Format::Long, &all.signed)?;
        round_trip(Format::Int, &all.single.to_bits().cast_signed())?;
        round_trip(Format::Text, &all.text)?;
        round_trip(Format::Bytes, &all.raw)?;
        round_trip(Format::ByteString, &all.raw)?;
        round_trip(Format::Boolean, &all.optional.is_some())?;
    }

    #[test]
    fn written_json_is_json(all in values()) {
        let text = write(Format::JacksonJson, &all);
        let value: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        prop_assert_eq!(value["text"].as_str(), Some(all.text.as_str()));
        // The other parser may round the last digit.
        let double = value["double"].as_f64().expect("a number");
        prop_assert!((double - all.double).abs() <= all.double.abs() * 1e-15);
    }

    #[test]
    fn json_of_others_is_read(text in any::<String>(), number in any::<f64>(), signed in any::<i64>()) {
        let written = serde_json::to_vec(&(&text, number, signed)).expect("JSON");
        prop_assert_eq!(read(Format::JacksonJson, &written), Ok((text, number, signed)));
    }

    #[test]
    fn what_is_compressed_is_expanded(plain in vec(any::<u8>(), 0..2000)) {
        for compression in [Compression::GzipAbove(0), Compression::Lz4Above(0)] {
            let stored = compression.apply(&plain).expect("bytes").into_owned();
            if !plain.is_empty() {
                prop_assert_eq!(&*super::compression::expand(&stored, plain.len()).expect("bytes"), &plain);
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        read_everything(&bytes);
        read_everything(&[b"\x1F\x8B\x08\0\0\0\0\0\0\xFF", &bytes[..]].concat());
        read_everything(&[b"\x87\xD9\x6D\xF6\0\0", &bytes[..]].concat());
    }

    #[test]
    fn damaged_payloads_never_panic(all in values(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        for format in JACKSON {
            let mut bytes = write(format, &all).to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            read_everything(&bytes);
            read_everything(&bytes[..at]);
        }
    }
}
