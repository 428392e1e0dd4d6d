//! JSON as it stands in the lines, and when two values of it are the same.

use perennial_persistence::{
    Codec, CodecError, Compression, Format, Schema, SchemaBuilder, SerializedPayload, Versions,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

/// A value of JSON as text.
pub type Json = Box<RawValue>;

/// A value of JSON from its text.
pub(crate) fn raw(text: String) -> Result<Json, CodecError> {
    RawValue::from_string(text).map_err(CodecError::undecodable)
}

/// A value as serde writes it; for those without floating point.
pub(crate) fn plain(value: &(impl Serialize + ?Sized)) -> Result<Json, CodecError> {
    to_raw_value(value).map_err(CodecError::unencodable)
}

/// A value as Jackson writes it: numbers that are none as text, bytes as Base64.
pub(crate) fn jackson<T: Serialize + DeserializeOwned + 'static>(
    value: &T,
) -> Result<Json, CodecError> {
    text_of(&jackson_payload(Schema::of(Versions::new("value")), value)?)
}

/// A value as Jackson writes it, with the manifest of its variant.
pub(crate) fn jackson_payload<T: 'static>(
    schema: SchemaBuilder<T>,
    value: &T,
) -> Result<SerializedPayload, CodecError> {
    let schema = schema
        .format(Format::JacksonJson)
        .compression(Compression::Off)
        .build()
        .expect("the schemas of the kinds make sense");
    schema.encode(value)
}

/// The JSON of a payload.
pub(crate) fn text_of(payload: &SerializedPayload) -> Result<Json, CodecError> {
    let text = String::from_utf8(payload.bytes.to_vec());
    raw(text.map_err(CodecError::undecodable)?)
}

/// Where two values of JSON differ: numbers are compared by value, `tags` as sets.
///
/// Empty if they are the same.
pub fn differences(left: &Value, right: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", left, right, &mut found);
    found
}

fn compare(path: &str, left: &Value, right: &Value, found: &mut Vec<String>) {
    match (left, right) {
        (Value::Object(left), Value::Object(right)) => compare_maps(path, left, right, found),
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
            let (mut left, mut right): (Vec<_>, Vec<_>) =
                (left.iter().collect(), right.iter().collect());
            if path.ends_with(".tags") {
                left.sort_by_key(|tag| tag.to_string());
                right.sort_by_key(|tag| tag.to_string());
            }
            for (at, (left, right)) in left.into_iter().zip(right).enumerate() {
                compare(&format!("{path}[{at}]"), left, right, found);
            }
        }
        (Value::Number(left), Value::Number(right)) if same_number(left, right) => {}
        (Value::Null | Value::Bool(_) | Value::String(_), _) if left == right => {}
        _ => found.push(format!("{path}: {} | {}", short(left), short(right))),
    }
}

fn compare_maps(
    path: &str,
    left: &Map<String, Value>,
    right: &Map<String, Value>,
    found: &mut Vec<String>,
) {
    for (key, value) in left {
        match right.get(key) {
            Some(other) => compare(&format!("{path}.{key}"), value, other, found),
            None => found.push(format!("{path}.{key}: {} | missing", short(value))),
        }
    }
    for (key, value) in right {
        if !left.contains_key(key) {
            found.push(format!("{path}.{key}: missing | {}", short(value)));
        }
    }
}

/// `1`, `1.0` and `1E0` are one number; `0.0` and `-0.0` are two.
fn same_number(left: &serde_json::Number, right: &serde_json::Number) -> bool {
    match (left.as_i64(), right.as_i64()) {
        (Some(left), Some(right)) => left == right,
        _ => left.as_f64().map(f64::to_bits) == right.as_f64().map(f64::to_bits),
    }
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_the_same_by_value_and_tags_in_any_order() {
        let left = json!({"a": 1, "tags": ["x", "y"], "b": [1.0e-300]});
        let right: Value =
            serde_json::from_str(r#"{"tags":["y","x"],"b":[1.0E-300],"a":1.0}"#).expect("JSON");
        assert_eq!(differences(&left, &right), Vec::<String>::new());
    }

    #[test]
    fn every_difference_is_named() {
        let left = json!({"a": {"b": 0.0}, "tags": ["x"], "only": 1, "list": [1, 2]});
        let right: Value = serde_json::from_str(
            r#"{"a":{"b":-0.0},"tags":["z"],"list":[2,1],"more":9007199254740993}"#,
        )
        .expect("JSON");
        assert_eq!(
            differences(&left, &right),
            [
                ".a.b: 0.0 | -0.0",
                ".list[0]: 1 | 2",
                ".list[1]: 2 | 1",
                ".only: 1 | missing",
                ".tags[0]: \"x\" | \"z\"",
                ".more: missing | 9007199254740993",
            ]
        );
        assert_eq!(differences(&json!([1]), &json!([1, 2])).len(), 1);
        let large = json!(9_007_199_254_740_992_i64);
        assert_eq!(
            differences(&large, &json!(9_007_199_254_740_993_i64)).len(),
            1
        );
    }
}
