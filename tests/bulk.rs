//! The bulk processor in a folder of its own, with the database that it writes to.

use std::ops::Deref;

use perennial_testkit::postgres::TestPostgres;
use rusqlite::types::ValueRef;

use crate::example_process::Example;

/// The bulk processor and its tables.
#[derive(Debug)]
pub struct Bulk {
    example: Example,
    /// Otherwise it is the file in the folder.
    database: Option<TestPostgres>,
}

/// The rows of a query, as texts.
pub type Rows = Vec<Vec<Option<String>>>;

impl Bulk {
    /// On the file in its folder; `program` is its executable.
    pub fn on_sqlite(program: &'static str) -> Self {
        Self {
            example: Example::new("bulk_processor", program),
            database: None,
        }
    }

    /// On a new database of the tests' server.
    pub fn on_postgres(program: &'static str) -> Self {
        Self::on(program, TestPostgres::new())
    }

    /// On this database.
    pub fn on(program: &'static str, database: TestPostgres) -> Self {
        let example = Example::new("bulk_processor", program);
        Self {
            example: example.on_postgres(database.url()),
            database: Some(database),
        }
    }

    /// As [`Example::with`].
    #[must_use]
    pub fn with(mut self, args: &[&str]) -> Self {
        self.example = self.example.with(args);
        self
    }

    /// As [`Example::with_rows`].
    #[must_use]
    pub fn with_rows(mut self, count: usize) -> Self {
        self.example = self.example.with_rows(count);
        self
    }

    /// The server's database.
    ///
    /// # Panics
    /// If it is on a file.
    pub fn database(&self) -> &TestPostgres {
        self.database.as_ref().expect("it is on a server")
    }

    /// The rows of a query that both databases understand; none if it fails, as before there are
    /// tables.
    pub fn rows(&self, sql: &str) -> Rows {
        match &self.database {
            Some(database) => database.query(sql),
            None => self.rows_of_file(sql).unwrap_or_default(),
        }
    }

    fn rows_of_file(&self, sql: &str) -> rusqlite::Result<Rows> {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE;
        let connection = rusqlite::Connection::open_with_flags(self.path("bulk.sqlite"), flags)?;
        let mut statement = connection.prepare(sql)?;
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| {
            (0..columns)
                .map(|column| {
                    Ok(match row.get_ref(column)? {
                        ValueRef::Null => None,
                        ValueRef::Integer(number) => Some(number.to_string()),
                        ValueRef::Real(number) => Some(number.to_string()),
                        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
                            Some(String::from_utf8_lossy(bytes).into_owned())
                        }
                    })
                })
                .collect()
        })?;
        rows.collect()
    }

    /// The number that a query gives; 0 if there is none.
    pub fn number(&self, sql: &str) -> u64 {
        let rows = self.rows(sql);
        let cell = rows.first().and_then(|row| row.first());
        let text = cell.and_then(Option::as_deref);
        text.map_or(0, |text| text.parse().expect("a count"))
    }

    /// How many rows are in the table.
    pub fn stored(&self) -> u64 {
        self.number("SELECT count(*) FROM bulk_item")
    }
}

impl Deref for Bulk {
    type Target = Example;

    fn deref(&self) -> &Example {
        &self.example
    }
}
