//! Rows and columns on the wire, to and from the contracts' types.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use perennial_persistence::{
    AtomicWrite, Error, NewEvent, PersistenceId, SequenceNr, SerializedPayload, Timestamp, WriterId,
};
use postgres_protocol::types::{
    ArrayDimension, array_to_sql, timestamp_from_sql, timestamp_to_sql,
};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, WrongType};

use crate::error::source_of;

type BoxError = Box<dyn StdError + Sync + Send>;

/// A `timestamptz`: microseconds since 2000-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Micros(i64);

/// 2000-01-01 UTC in microseconds since 1970.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

impl Micros {
    pub(crate) fn of(timestamp: Timestamp) -> Self {
        // Cannot overflow: timestamps end with the year 9999.
        Self(timestamp.as_microsecond() - POSTGRES_EPOCH)
    }

    /// `count` microseconds later, at the latest at the end of time.
    pub(crate) fn plus(self, count: usize) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(count).unwrap_or(i64::MAX)),
        )
    }

    /// Appends the value as it stands on the wire.
    pub(crate) fn put(self, out: &mut BytesMut) {
        timestamp_to_sql(self.0, out);
    }

    /// The contracts' timestamp; `None` for what they have none for: `infinity`, or a year above
    /// 9999.
    pub(crate) fn timestamp(self) -> Option<Timestamp> {
        Timestamp::from_microsecond(self.0.checked_add(POSTGRES_EPOCH)?).ok()
    }
}

impl<'a> FromSql<'a> for Micros {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, BoxError> {
        timestamp_from_sql(raw).map(Self)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }
}

impl ToSql for Micros {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, BoxError> {
        self.put(out);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }

    tokio_postgres::types::to_sql_checked!();
}

/// A payload's bytes as a parameter. The driver can log parameters, so `Debug` shows the length.
pub(crate) struct PayloadBytes<'a>(pub(crate) &'a [u8]);

impl fmt::Debug for PayloadBytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl ToSql for PayloadBytes<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, BoxError> {
        out.extend_from_slice(self.0);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::BYTEA
    }

    tokio_postgres::types::to_sql_checked!();
}

/// A writer id as text, without an allocation.
#[derive(Clone, Copy)]
pub(crate) struct WriterText([u8; Self::LENGTH]);

impl WriterText {
    const LENGTH: usize = 36;

    pub(crate) fn of(write: &AtomicWrite) -> Self {
        Self::of_writer(write.writer())
    }

    pub(crate) fn of_writer(writer: WriterId) -> Self {
        let mut text = [0; Self::LENGTH];
        writer.as_uuid().hyphenated().encode_lower(&mut text);
        Self(text)
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hexadecimal digits and hyphens are ASCII")
    }
}

/// An event on its way into a statement of many.
#[derive(Clone, Copy)]
pub(crate) struct NewRow<'a> {
    pub(crate) write: &'a AtomicWrite,
    pub(crate) event: &'a NewEvent,
    pub(crate) seq_nr: SequenceNr,
    /// The write's place in the batch.
    pub(crate) position: usize,
    /// The earliest time allowed.
    pub(crate) not_before: Option<Micros>,
}

/// One column of many rows as an array parameter, encoded straight from where the values are.
///
/// `F` appends one row's value, or says that it is NULL.
pub(crate) struct Column<'a, R, F> {
    rows: &'a [R],
    element: Type,
    encode: F,
}

impl<'a, R: Sync, F> Column<'a, R, F>
where
    F: Fn(&R, &mut BytesMut) -> IsNull + Sync,
{
    pub(crate) fn new(rows: &'a [R], element: Type, encode: F) -> Self {
        Self {
            rows,
            element,
            encode,
        }
    }
}

impl<R, F> fmt::Debug for Column<'_, R, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} values of type {}", self.rows.len(), self.element)
    }
}

impl<R: Sync, F> ToSql for Column<'_, R, F>
where
    F: Fn(&R, &mut BytesMut) -> IsNull + Sync,
{
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, BoxError> {
        let dimension = ArrayDimension {
            len: i32::try_from(self.rows.len())?,
            lower_bound: 1,
        };
        array_to_sql(
            Some(dimension),
            self.element.oid(),
            self.rows,
            |row, out| {
                Ok(match (self.encode)(row, out) {
                    IsNull::Yes => postgres_protocol::IsNull::Yes,
                    IsNull::No => postgres_protocol::IsNull::No,
                })
            },
            out,
        )?;
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        // Which array type it is only the value knows; `to_sql_checked` looks.
        true
    }

    fn to_sql_checked(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, BoxError> {
        match ty.kind() {
            tokio_postgres::types::Kind::Array(element) if *element == self.element => {
                self.to_sql(ty, out)
            }
            _ => Err(Box::new(WrongType::new::<Vec<String>>(ty.clone()))),
        }
    }
}

/// A text, which is never NULL.
pub(crate) fn put_text(text: &str, out: &mut BytesMut) -> IsNull {
    out.extend_from_slice(text.as_bytes());
    IsNull::No
}

/// An interval of as many microseconds.
pub(crate) fn put_microseconds(count: usize, out: &mut BytesMut) -> IsNull {
    out.put_i64(i64::try_from(count).unwrap_or(i64::MAX));
    // No days and no months.
    out.put_i32(0);
    out.put_i32(0);
    IsNull::No
}

/// Tags as the text of an array, since PostgreSQL has no arrays of arrays of different lengths.
/// `IsNull::Yes` when there are none.
pub(crate) fn put_tags(tags: &[String], out: &mut BytesMut) -> IsNull {
    if tags.is_empty() {
        return IsNull::Yes;
    }
    out.extend_from_slice(b"{");
    for (index, tag) in tags.iter().enumerate() {
        out.extend_from_slice(if index == 0 { b"\"" } else { b",\"" });
        for byte in tag.bytes() {
            // Both are single bytes of UTF-8 that are no part of another character.
            if byte == b'"' || byte == b'\\' {
                out.extend_from_slice(b"\\");
            }
            out.extend_from_slice(&[byte]);
        }
        out.extend_from_slice(b"\"");
    }
    out.extend_from_slice(b"}");
    IsNull::No
}

/// Says what is wrong with a stored row.
pub(crate) fn corrupt(
    persistence_id: &PersistenceId,
    seq_nr: SequenceNr,
    reason: impl Into<String>,
) -> Error {
    Error::Corrupt {
        persistence_id: persistence_id.clone(),
        seq_nr,
        reason: reason.into(),
        source: None,
    }
}

/// A column of a stored row.
pub(crate) fn column<'r, T: FromSql<'r>>(
    row: &'r Row,
    index: usize,
    persistence_id: &PersistenceId,
    seq_nr: SequenceNr,
) -> Result<T, Error> {
    row.try_get(index).map_err(|error| {
        let name = row.columns().get(index).map_or("", |column| column.name());
        Error::Corrupt {
            persistence_id: persistence_id.clone(),
            seq_nr,
            reason: format!("its column {name} is not as it must be"),
            source: Some(source_of(&error)),
        }
    })
}

/// Payloads of one page: their bytes in one allocation, equal manifests shared.
#[derive(Default)]
pub(crate) struct Payloads {
    bytes: BytesMut,
    manifest: Option<Arc<str>>,
}

impl Payloads {
    /// A payload, to be given its bytes by [`Self::freeze`]'s result.
    pub(crate) fn add(&mut self, serializer_id: i32, manifest: &str, bytes: &[u8]) -> Pending {
        let manifest = match &self.manifest {
            Some(last) if **last == *manifest => Arc::clone(last),
            _ => {
                let shared: Arc<str> = manifest.into();
                self.manifest = Some(Arc::clone(&shared));
                shared
            }
        };
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        Pending {
            serializer_id,
            manifest,
            start,
            end: self.bytes.len(),
        }
    }

    /// All bytes, of which each payload takes its part.
    pub(crate) fn freeze(self) -> Bytes {
        self.bytes.freeze()
    }
}

/// A payload whose bytes are still being gathered.
pub(crate) struct Pending {
    serializer_id: i32,
    manifest: Arc<str>,
    start: usize,
    end: usize,
}

impl Pending {
    pub(crate) fn payload(self, bytes: &Bytes) -> SerializedPayload {
        SerializedPayload {
            serializer_id: self.serializer_id,
            manifest: self.manifest,
            bytes: bytes.slice(self.start..self.end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_keep_their_microseconds() {
        for text in [
            "1969-12-31T23:59:59.999999Z",
            "2000-01-01T00:00:00Z",
            "2024-02-29T12:34:56.789012Z",
            "9999-12-30T21:59:59.999999Z",
        ] {
            let timestamp: Timestamp = text.parse().expect("valid");
            assert_eq!(Micros::of(timestamp).timestamp(), Some(timestamp));
        }
        let cut: Timestamp = "2024-01-01T00:00:00.000001999Z".parse().expect("valid");
        assert_eq!(
            Micros::of(cut).timestamp(),
            "2024-01-01T00:00:00.000001Z".parse().ok()
        );
        assert_eq!(Micros(i64::MAX).timestamp(), None, "infinity");
        assert_eq!(Micros(i64::MIN).timestamp(), None, "-infinity");
        assert_eq!(Micros(0).plus(3), Micros(3));
    }

    #[test]
    fn tags_become_an_array_literal() {
        let literal = |tags: &[&str]| {
            let tags: Vec<String> = tags.iter().map(|&tag| tag.to_owned()).collect();
            let mut out = BytesMut::new();
            match put_tags(&tags, &mut out) {
                IsNull::Yes => None,
                IsNull::No => Some(String::from_utf8_lossy(&out).into_owned()),
            }
        };
        assert_eq!(literal(&[]), None);
        assert_eq!(literal(&["a"]), Some(r#"{"a"}"#.to_owned()));
        assert_eq!(
            literal(&["출금 out", "", "NULL", r#"a"b\c,{}"#]),
            Some(r#"{"출금 out","","NULL","a\"b\\c,{}"}"#.to_owned())
        );
    }

    #[test]
    fn parameters_show_no_payload() {
        let text = format!("{:?}", PayloadBytes(b"secret"));
        assert_eq!(text, "6 bytes");
    }

    #[test]
    fn equal_manifests_of_a_page_are_shared() {
        let mut payloads = Payloads::default();
        let pending = [
            payloads.add(1, "A", b"one"),
            payloads.add(1, "A", b""),
            payloads.add(2, "B", b"three"),
        ];
        let bytes = payloads.freeze();
        let [a, b, c] = pending.map(|pending| pending.payload(&bytes));
        assert_eq!(a, SerializedPayload::new(1, "A", &b"one"[..]));
        assert_eq!(b, SerializedPayload::new(1, "A", &b""[..]));
        assert_eq!(c, SerializedPayload::new(2, "B", &b"three"[..]));
        assert!(Arc::ptr_eq(&a.manifest, &b.manifest));
    }
}
