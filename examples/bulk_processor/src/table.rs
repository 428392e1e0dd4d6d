//! The real table that items end in, `bulk_item`, and `bulk_rejected` beside it.
//!
//! An item is stored once, by its line: one that is there, in either table, is passed over, whatever
//! it says, and so is never to blame for a refusal. So a batch may be stored again, as a whole or with
//! others, whenever it is not known whether it was.

mod postgres;
mod sqlite;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use flight_table::database::Place;
use flight_table::patience::AskFailure;

use crate::item::{Item, Row};

use self::postgres::PostgresTable;
use self::sqlite::SqliteTable;

/// The columns of `bulk_item`, in their order.
const ITEM_COLUMNS: [&str; 5] = ["line", "tailnum", "origin", "dest", "distance"];

/// The columns of `bulk_rejected`, in their order.
const REJECTED_COLUMNS: [&str; 2] = ["line", "reason"];

/// The most rows of the sample that is inserted one by one, and the longest time for it.
pub const SAMPLE_ROWS: usize = 2_000;
const SAMPLE_TIME: Duration = Duration::from_secs(5);

/// What to do with rows of earlier runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// Forget them.
    Anew,
    /// Continue on them.
    Keep,
}

/// The two tables, on a connection of their own.
#[derive(Debug)]
pub enum Table {
    /// In a file.
    Sqlite(SqliteTable),
    /// On a server.
    Postgres(Box<PostgresTable>),
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stored {
    /// Rows that were not there before.
    pub stored: u64,
    /// Rows set aside that were not there before.
    pub set_aside: u64,
}

/// What the tables hold of the first rows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Held {
    /// How many are stored.
    pub stored: u64,
    /// How many are set aside.
    pub set_aside: u64,
    /// The first of these, with the reasons.
    pub examples: Vec<(i64, String)>,
}

/// How inserting one by one went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Singles {
    /// So many rows.
    pub rows: u64,
    /// In so much time.
    pub elapsed: Duration,
}

impl Table {
    /// Makes the tables ready.
    ///
    /// # Errors
    /// Why they cannot be, now or ever.
    pub async fn prepare(place: &Place, begin: Begin) -> Result<Self, AskFailure> {
        Ok(match place {
            Place::File(file) => Self::Sqlite(SqliteTable::prepare(file, begin).await?),
            Place::Server(server) => {
                Self::Postgres(Box::new(PostgresTable::prepare(server, begin).await?))
            }
        })
    }

    /// Stores items: those that the table takes in `bulk_item`, each of the others in
    /// `bulk_rejected`, both at once. May be called again with the same items.
    ///
    /// # Errors
    /// Why it is not known whether they are stored, or will never be.
    ///
    /// # Cancel safety
    /// A dropped call may have stored its items or not.
    pub async fn store(&mut self, items: Arc<[Item]>) -> Result<Stored, AskFailure> {
        match self {
            Self::Sqlite(table) => table.store(items).await,
            Self::Postgres(table) => table.store(&items).await,
        }
    }

    /// What is there of the first `rows` rows, with so many examples of what is set aside.
    ///
    /// # Errors
    /// Why it cannot be told, now or ever.
    pub async fn held(&mut self, rows: u64, examples: usize) -> Result<Held, AskFailure> {
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        let examples = i64::try_from(examples).unwrap_or(i64::MAX);
        match self {
            Self::Sqlite(table) => table.held(rows, examples).await,
            Self::Postgres(table) => table.held(rows, examples).await,
        }
    }

    /// Inserts rows one by one into a table that is gone afterwards, each durable before the next, for
    /// 5 s at the most.
    ///
    /// # Errors
    /// Why that cannot be done, now or ever.
    pub async fn insert_one_by_one(
        &mut self,
        rows: Arc<[(i64, Row)]>,
    ) -> Result<Singles, AskFailure> {
        match self {
            Self::Sqlite(table) => table.insert_one_by_one(rows).await,
            Self::Postgres(table) => table.insert_one_by_one(&rows).await,
        }
    }
}

/// Items, by what is to be done with them.
struct Sorted<'a> {
    rows: Vec<(i64, &'a Row)>,
    /// Those that are no row, with the reasons.
    malformed: Vec<(i64, &'a str)>,
}

fn sorted(items: &[Item]) -> Sorted<'_> {
    let (mut rows, mut malformed) = (Vec::with_capacity(items.len()), Vec::new());
    for item in items {
        match &item.content {
            Ok(row) => rows.push((item.line, row)),
            Err(reason) => malformed.push((item.line, reason.as_str())),
        }
    }
    Sorted { rows, malformed }
}

/// Why a table that is there cannot be used.
fn other_table(
    place: &dyn fmt::Display,
    table: &str,
    found: &[String],
    expected: &[&str],
) -> AskFailure {
    AskFailure::Fatal(format!(
        "{place} holds a table {table} of another kind, with the columns {} instead of {}; rename it, \
         or use another database",
        found.join(", "),
        expected.join(", ")
    ))
}

fn whole(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}
