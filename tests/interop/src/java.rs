//! What Java does to values on their way, where it shows in a row.

use std::cmp::Ordering;
use std::fmt;

use perennial_persistence::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

/// Text in the order of a Java `TreeMap` or `TreeSet`: by UTF-16 units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Text(pub(crate) String);

impl Ord for Text {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.encode_utf16().cmp(other.0.encode_utf16())
    }
}

impl PartialOrd for Text {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// A moment in the one form that `java.time.Instant` has for it: no fraction, or three, six or nine
/// digits of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Instant(String);

impl Instant {
    /// The beginning of 1970.
    pub(crate) fn epoch() -> Self {
        Self("1970-01-01T00:00:00Z".to_owned())
    }

    fn new(text: &str) -> Self {
        // Java knows years that we don't; those are left as they are.
        let Ok(time) = text.parse::<Timestamp>() else {
            return Self(text.to_owned());
        };
        let plain = time.to_string();
        let Some((seconds, fraction)) = plain.trim_end_matches('Z').split_once('.') else {
            return Self(plain);
        };
        let digits = fraction.len().next_multiple_of(3);
        Self(format!("{seconds}.{fraction:0<digits$}Z"))
    }
}

impl<'de> Deserialize<'de> for Instant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self::new(&text))
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_has_a_fraction_of_three_six_or_nine_digits() {
        for (text, expected) in [
            ("2024-02-29T12:00:00Z", "2024-02-29T12:00:00Z"),
            ("2024-02-29T12:00:00.000Z", "2024-02-29T12:00:00Z"),
            ("2024-02-29T12:00:00.5Z", "2024-02-29T12:00:00.500Z"),
            ("1969-12-31T23:59:59.1234Z", "1969-12-31T23:59:59.123400Z"),
            (
                "2024-02-29T12:00:00.1234567Z",
                "2024-02-29T12:00:00.123456700Z",
            ),
            ("+1000000000-12-31T23:59:59Z", "+1000000000-12-31T23:59:59Z"),
        ] {
            assert_eq!(Instant::new(text).to_string(), expected);
        }
    }

    #[test]
    fn texts_are_in_the_order_of_their_utf_16_units() {
        // U+1F600 begins with 0xD83D, which comes before U+FF01.
        let mut texts = [
            Text::from("\u{FF01}"),
            Text::from("\u{1F600}"),
            Text::from("a"),
        ];
        texts.sort();
        assert_eq!(texts.map(|text| text.0), ["a", "\u{1F600}", "\u{FF01}"]);
    }
}
