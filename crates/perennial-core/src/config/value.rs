//! How durations and sizes are written, and the ranges that settings must lie in.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};

/// One kibibyte.
pub(super) const KIB: usize = 1024;
/// One mebibyte.
pub(super) const MIB: usize = 1024 * KIB;

/// One millisecond, the least that a time-out may be.
pub(super) const MILLISECOND: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
/// One hour.
pub(super) const HOUR: Duration = Duration::from_secs(3600);
/// One day, the most that a time-out may be.
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

/// A setting out of its range.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Violation {
    /// The key within its section; the first of two that contradict each other.
    pub(super) key: &'static str,
    /// The other one of two that contradict each other.
    pub(super) other: Option<&'static str>,
    /// The value of `key` as a file would have it.
    pub(super) value: String,
    /// What is wrong, to follow "`key` = value: ".
    pub(super) message: String,
}

/// A value as a configuration file would have it.
pub(super) trait Setting: PartialOrd + Copy {
    fn written(self) -> String;
}

impl Setting for usize {
    fn written(self) -> String {
        self.to_string()
    }
}

impl Setting for u32 {
    fn written(self) -> String {
        self.to_string()
    }
}

impl Setting for u64 {
    fn written(self) -> String {
        self.to_string()
    }
}

impl Setting for Duration {
    fn written(self) -> String {
        format!("\"{}\"", humantime::format_duration(self))
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub(super) struct Bytes(pub(super) usize);

impl Setting for Bytes {
    fn written(self) -> String {
        match self.0 {
            bytes if bytes > 0 && bytes.is_multiple_of(MIB) => format!("\"{}MiB\"", bytes / MIB),
            bytes if bytes > 0 && bytes.is_multiple_of(KIB) => format!("\"{}KiB\"", bytes / KIB),
            bytes => bytes.to_string(),
        }
    }
}

/// Checks that a value lies in its range, both ends included.
pub(super) fn within<T: Setting>(
    key: &'static str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<(), Violation> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(Violation {
        key,
        other: None,
        value: value.written(),
        message: format!(
            "must be from {} to {}",
            range.start().written(),
            range.end().written()
        ),
    })
}

/// Checks that a lower bound is not above its upper one.
pub(super) fn in_order<T: Setting>(
    (low_key, low): (&'static str, T),
    (high_key, high): (&'static str, T),
) -> Result<(), Violation> {
    if low <= high {
        return Ok(());
    }
    Err(Violation {
        key: low_key,
        other: Some(high_key),
        value: low.written(),
        message: format!(
            "`{low_key}` ({}) must not be above `{high_key}` ({})",
            low.written(),
            high.written()
        ),
    })
}

/// Reads a duration such as `"2m"`.
pub(super) fn duration<'de, D: Deserializer<'de>>(reader: D) -> Result<Duration, D::Error> {
    reader.deserialize_str(DurationText)
}

/// Reads a duration that the file may leave out.
pub(super) fn some_duration<'de, D: Deserializer<'de>>(
    reader: D,
) -> Result<Option<Duration>, D::Error> {
    duration(reader).map(Some)
}

/// Reads a duration or `"never"`, which the file may leave out.
pub(super) fn some_duration_or_never<'de, D: Deserializer<'de>>(
    reader: D,
) -> Result<Option<Option<Duration>>, D::Error> {
    reader.deserialize_str(DurationOrNever).map(Some)
}

/// Reads a size: a number of bytes, or a text such as `"8MiB"`.
pub(super) fn byte_size<'de, D: Deserializer<'de>>(reader: D) -> Result<usize, D::Error> {
    reader.deserialize_any(ByteSizeText)
}

struct DurationText;

impl Visitor<'_> for DurationText {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration like \"2m\" or \"500ms\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
        humantime::parse_duration(text.trim())
            .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

struct DurationOrNever;

impl Visitor<'_> for DurationOrNever {
    type Value = Option<Duration>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration like \"2m\" or \"500ms\", or \"never\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Option<Duration>, E> {
        if text.trim() == "never" {
            return Ok(None);
        }
        humantime::parse_duration(text.trim())
            .map(Some)
            .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

struct ByteSizeText;

impl Visitor<'_> for ByteSizeText {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of bytes, or a size like \"64KiB\" or \"8MiB\"")
    }

    fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<usize, E> {
        usize::try_from(bytes).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(bytes), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<usize, E> {
        match text.trim().parse::<bytesize::ByteSize>() {
            Ok(size) => self.visit_u64(size.as_u64()),
            Err(_) => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::de::IntoDeserializer;
    use serde::de::value::{Error, StrDeserializer, U64Deserializer};

    use super::*;

    fn text(text: &str) -> StrDeserializer<'_, Error> {
        text.into_deserializer()
    }

    #[test]
    fn durations_need_a_unit() {
        for (written, expected) in [
            ("2m", Duration::from_secs(120)),
            ("500us", Duration::from_micros(500)),
            (" 1h 30m ", Duration::from_secs(5400)),
            ("0s", Duration::ZERO),
        ] {
            assert_eq!(duration(text(written)), Ok(expected), "{written}");
        }
        for written in [
            "",
            "5",
            "soon",
            "-1s",
            "1s2",
            "99999999999999999999s",
            "never",
        ] {
            assert!(duration(text(written)).is_err(), "{written}");
        }
    }

    #[test]
    fn never_is_no_duration() {
        assert_eq!(some_duration_or_never(text("never")), Ok(Some(None)));
        assert_eq!(
            some_duration_or_never(text("1s")),
            Ok(Some(Some(Duration::from_secs(1))))
        );
        assert!(some_duration_or_never(text("Never!")).is_err());
    }

    #[test]
    fn sizes_are_numbers_or_texts_with_a_unit() {
        let number: U64Deserializer<Error> = 4096_u64.into_deserializer();
        assert_eq!(byte_size(number), Ok(4096));
        for (written, expected) in [
            ("1MiB", MIB),
            ("64 KiB", 64 * KIB),
            ("1.5KiB", 1536),
            ("1MB", 1_000_000),
            ("17", 17),
            ("8b", 8),
        ] {
            assert_eq!(byte_size(text(written)), Ok(expected), "{written}");
        }
        for written in ["", "MiB", "-1MiB", "1e3", "1.2.3KiB", "1 QiB", "big"] {
            assert!(byte_size(text(written)).is_err(), "{written}");
        }
    }

    #[test]
    fn ranges_include_both_ends() {
        for (value, good) in [(0, false), (1, true), (8, true), (9, false)] {
            assert_eq!(within("n", value, 1..=8_usize).is_ok(), good, "{value}");
        }
        let violation = within("size", Bytes(MIB + 1), Bytes(KIB)..=Bytes(MIB));
        assert_eq!(
            violation,
            Err(Violation {
                key: "size",
                other: None,
                value: "1048577".to_owned(),
                message: "must be from \"1KiB\" to \"1MiB\"".to_owned(),
            })
        );
    }

    #[test]
    fn a_lower_bound_may_equal_its_upper_one() {
        assert_eq!(in_order(("low", HOUR), ("high", HOUR)), Ok(()));
        assert_eq!(
            in_order(("low", HOUR), ("high", MILLISECOND)).map_err(|violation| violation.message),
            Err("`low` (\"1h\") must not be above `high` (\"1ms\")".to_owned())
        );
    }
}
