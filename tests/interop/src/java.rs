//! What Java does to values on their way, where it shows in a row.

use std::cmp::Ordering;
use std::fmt;

use jiff::{SignedDuration, Span, SpanRelativeTo};
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

/// A span of time in the one form that `java.time.Duration` has for it: hours, minutes and seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Duration(String);

impl Duration {
    fn new(text: &str) -> Option<Self> {
        let span: SignedDuration = text.parse().ok().or_else(|| {
            // Days are 24 hours to Java.
            let span: Span = text.parse().ok()?;
            span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()
        })?;
        let seconds = span.as_secs();
        let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
        let mut java = "PT".to_owned();
        for (number, unit) in [(hours, 'H'), (minutes, 'M')] {
            if number != 0 {
                java += &format!("{number}{unit}");
            }
        }
        let (rest, nanos) = (seconds % 60, span.subsec_nanos().unsigned_abs());
        let fraction = format!(".{nanos:09}");
        let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
        if rest != 0 || nanos != 0 || java.len() == 2 {
            let sign = if rest == 0 && span.is_negative() {
                "-"
            } else {
                ""
            };
            java += &format!("{sign}{rest}{fraction}S");
        }
        Some(Self(java))
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // Java knows spans that we don't; those are left as they are.
        Ok(Self::new(&text).unwrap_or(Self(text)))
    }
}

/// An id in the one form that `java.util.UUID` has for it: small letters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Uuid(String);

impl<'de> Deserialize<'de> for Uuid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut text = String::deserialize(deserializer)?;
        text.make_ascii_lowercase();
        Ok(Self(text))
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
    fn a_span_has_hours_minutes_and_seconds() {
        for (text, expected) in [
            ("PT0S", "PT0S"),
            ("PT36H37M4.549S", "PT36H37M4.549S"),
            ("P1DT2H", "PT26H"),
            ("PT90S", "PT1M30S"),
            ("PT-0.5S", "PT-0.5S"),
            ("-PT1M1.5S", "PT-1M-1.5S"),
            ("PT3600S", "PT1H"),
            ("none", "none"),
        ] {
            let read: Duration = serde_json::from_value(text.into()).expect("a text");
            assert_eq!(read.0, expected, "{text}");
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
