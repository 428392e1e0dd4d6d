//! Rows to values and back.

use std::sync::Arc;

use bytes::Bytes;
use perennial_persistence::{Error, PersistenceId, SequenceNr, SerializedPayload, Timestamp};
use rusqlite::Row;
use rusqlite::types::ValueRef;

/// A column that does not hold what it must; the text says which and what, never its content.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Damage(pub(crate) String);

/// A stored row of an id is damaged.
pub(crate) fn corrupt(id: &PersistenceId, seq_nr: SequenceNr, Damage(reason): Damage) -> Error {
    Error::Corrupt {
        persistence_id: id.clone(),
        seq_nr,
        reason,
        source: None,
    }
}

/// A column of one of our own statements: its place and, for messages, its name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column(pub(crate) usize, pub(crate) &'static str);

impl Column {
    fn value<'r>(self, row: &'r Row<'_>) -> ValueRef<'r> {
        // The places are those of our own SQL, so they are there.
        row.get_ref_unwrap(self.0)
    }

    fn damage(self, found: ValueRef<'_>, expected: &str) -> Damage {
        Damage(format!(
            "{} is {}, not {expected}",
            self.1,
            found.data_type()
        ))
    }

    pub(crate) fn is_null(self, row: &Row<'_>) -> bool {
        self.value(row) == ValueRef::Null
    }

    pub(crate) fn integer(self, row: &Row<'_>) -> Result<i64, Damage> {
        match self.value(row) {
            ValueRef::Integer(value) => Ok(value),
            other => Err(self.damage(other, "an integer")),
        }
    }

    pub(crate) fn seq_nr(self, row: &Row<'_>) -> Result<SequenceNr, Damage> {
        SequenceNr::try_from(self.integer(row)?).map_err(|e| Damage(e.to_string()))
    }

    pub(crate) fn micros(self, row: &Row<'_>) -> Result<Timestamp, Damage> {
        Timestamp::from_microsecond(self.integer(row)?)
            .map_err(|_| Damage(format!("{} lies outside the years -9999 to 9999", self.1)))
    }

    pub(crate) fn millis(self, row: &Row<'_>) -> Result<Timestamp, Damage> {
        Timestamp::from_millisecond(self.integer(row)?)
            .map_err(|_| Damage(format!("{} lies outside the years -9999 to 9999", self.1)))
    }

    pub(crate) fn text<'r>(self, row: &'r Row<'_>) -> Result<&'r str, Damage> {
        match self.value(row) {
            ValueRef::Text(bytes) => {
                std::str::from_utf8(bytes).map_err(|_| Damage(format!("{} is no UTF-8", self.1)))
            }
            other => Err(self.damage(other, "a text")),
        }
    }

    pub(crate) fn bytes(self, row: &Row<'_>) -> Result<Bytes, Damage> {
        match self.value(row) {
            ValueRef::Blob(bytes) => Ok(Bytes::copy_from_slice(bytes)),
            other => Err(self.damage(other, "a blob")),
        }
    }

    fn serializer_id(self, row: &Row<'_>) -> Result<i32, Damage> {
        i32::try_from(self.integer(row)?)
            .map_err(|_| Damage(format!("{} is no 32-bit number", self.1)))
    }
}

/// The three columns of a payload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PayloadColumns {
    pub(crate) serializer_id: Column,
    pub(crate) manifest: Column,
    pub(crate) bytes: Column,
}

/// Reads payloads; a manifest that follows an equal one is shared, as those of a page mostly are.
#[derive(Debug, Default)]
pub(crate) struct PayloadReader {
    manifest: Option<Arc<str>>,
}

impl PayloadReader {
    pub(crate) fn read(
        &mut self,
        row: &Row<'_>,
        columns: PayloadColumns,
    ) -> Result<SerializedPayload, Damage> {
        self.read_with(row, columns, columns.manifest.text(row)?)
    }

    /// The same for a table whose manifest may be NULL, which is the empty one.
    pub(crate) fn read_nullable(
        &mut self,
        row: &Row<'_>,
        columns: PayloadColumns,
    ) -> Result<SerializedPayload, Damage> {
        let manifest = if columns.manifest.is_null(row) {
            ""
        } else {
            columns.manifest.text(row)?
        };
        self.read_with(row, columns, manifest)
    }

    fn read_with(
        &mut self,
        row: &Row<'_>,
        columns: PayloadColumns,
        text: &str,
    ) -> Result<SerializedPayload, Damage> {
        let manifest = match &self.manifest {
            Some(shared) if **shared == *text => Arc::clone(shared),
            _ => Arc::clone(self.manifest.insert(text.into())),
        };
        Ok(SerializedPayload {
            serializer_id: columns.serializer_id.serializer_id(row)?,
            manifest,
            bytes: columns.bytes.bytes(row)?,
        })
    }
}

/// Tags as their column holds them: a JSON array, NULL when there are none.
pub(crate) fn tags_text(tags: &[String]) -> Option<String> {
    (!tags.is_empty()).then(|| serde_json::to_string(tags).expect("texts are always valid JSON"))
}

/// The tags that [`tags_text`] has written.
pub(crate) fn tags_of(row: &Row<'_>, column: Column) -> Result<Vec<String>, Damage> {
    if column.is_null(row) {
        return Ok(Vec::new());
    }
    serde_json::from_str(column.text(row)?)
        .map_err(|_| Damage(format!("{} is no JSON array of texts", column.1)))
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    const ONE: Column = Column(0, "db_timestamp");

    fn check<T: std::fmt::Debug + PartialEq>(
        sql: &str,
        read: impl Fn(&Row<'_>) -> Result<T, Damage>,
        expected: Result<T, &str>,
    ) {
        let connection = Connection::open_in_memory().expect("memory");
        let found = connection
            .query_row(sql, [], |row| Ok(read(row)))
            .expect("a row");
        let expected = expected.map_err(|reason| Damage(reason.to_owned()));
        assert_eq!(found, expected, "{sql}");
    }

    #[test]
    fn what_does_not_fit_a_column_is_named_without_its_content() {
        check("SELECT 7", |r| ONE.integer(r), Ok(7));
        check(
            "SELECT 'x'",
            |r| ONE.integer(r),
            Err("db_timestamp is Text, not an integer"),
        );
        check(
            "SELECT 9223372036854775807",
            |r| ONE.micros(r),
            Err("db_timestamp lies outside the years -9999 to 9999"),
        );
        check(
            "SELECT 9223372036854775807",
            |r| ONE.millis(r),
            Err("db_timestamp lies outside the years -9999 to 9999"),
        );
        check(
            "SELECT -1",
            |r| ONE.seq_nr(r),
            Err("-1 is not a sequence number: it is negative"),
        );
        check(
            "SELECT x'00'",
            |r| ONE.text(r).map(str::to_owned),
            Err("db_timestamp is Blob, not a text"),
        );
        check(
            "SELECT CAST(x'ff' AS TEXT)",
            |r| ONE.text(r).map(str::to_owned),
            Err("db_timestamp is no UTF-8"),
        );
        check(
            "SELECT NULL",
            |r| ONE.bytes(r),
            Err("db_timestamp is Null, not a blob"),
        );
        check(
            "SELECT 2147483648",
            |r| ONE.serializer_id(r),
            Err("db_timestamp is no 32-bit number"),
        );
    }

    #[test]
    fn tags_are_a_json_array_or_null() {
        assert_eq!(tags_text(&[]), None);
        assert_eq!(
            tags_text(&["a\"b".to_owned(), "ü".to_owned()]).as_deref(),
            Some(r#"["a\"b","ü"]"#)
        );
        let tags = Column(0, "tags");
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        check("SELECT NULL", |r| tags_of(r, tags), Ok(vec![]));
        check(
            r#"SELECT '["a\"b","ü"]'"#,
            |r| tags_of(r, tags),
            Ok(texts(&["a\"b", "ü"])),
        );
        for other in ["SELECT '{a}'", "SELECT '[1]'", "SELECT ''"] {
            let expected = Err("tags is no JSON array of texts");
            check(other, |r| tags_of(r, tags), expected);
        }
    }
}
