//! Brings the tables to those of this version, or says how they differ.
//!
//! refinery is not used here: it runs what its own history table does not name, so that it would
//! not make again a table that was dropped; it takes no lock over the whole, so that two processes
//! starting at once both run the same migration; and it cannot put one off because of the rows
//! that are there. Instead the tables themselves are asked what is missing.

use std::fmt::Write as _;

use perennial_persistence::SchemaCheck;
use rusqlite::{Connection, TransactionBehavior};

/// How many ids a warning lists.
const LISTED_IDS: i64 = 20;

const DOUBLED_IDS: &str = include_str!("sql/durable_state/doubled_ids.sql");

/// Statements that may be run again on their own result.
#[derive(Debug)]
struct Migration {
    sql: &'static str,
    /// Why it cannot be run on these rows, as a warning; it is tried again at the next start.
    obstacle: fn(&Connection) -> rusqlite::Result<Option<String>>,
}

const MIGRATIONS: [Migration; 4] = [
    Migration {
        sql: include_str!("../migrations/0001_create_tables.sql"),
        obstacle: |_| Ok(None),
    },
    Migration {
        sql: include_str!("../migrations/0002_guard_durable_state_ids.sql"),
        obstacle: doubled_ids,
    },
    Migration {
        sql: include_str!("../migrations/0003_create_command_reply.sql"),
        obstacle: |_| Ok(None),
    },
    Migration {
        sql: include_str!("../migrations/0006_create_reminder.sql"),
        obstacle: |_| Ok(None),
    },
];

/// Why the tables are not ready.
#[derive(Debug)]
pub(crate) enum Failure {
    /// SQLite failed.
    Sqlite(rusqlite::Error),
    /// The tables are others; one sentence for each difference.
    Schema(Vec<String>),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Does what `check` says, and returns warnings.
///
/// `create` changes all or nothing, under the database's write lock.
pub(crate) fn prepare(
    connection: &mut Connection,
    check: SchemaCheck,
) -> Result<Vec<String>, Failure> {
    match check {
        SchemaCheck::Off => Ok(Vec::new()),
        SchemaCheck::Create => create(connection),
        // A check that is added later is no order to change anything.
        _ => verify(connection),
    }
}

fn create(connection: &mut Connection) -> Result<Vec<String>, Failure> {
    if Comparison::of(connection)?.is_equal() {
        // The usual start: no need to wait for the lock.
        return Ok(Vec::new());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let before = Comparison::of(&transaction)?;
    if !before.misfits.is_empty() {
        return Err(Failure::Schema(before.misfits));
    }
    let mut warnings = Vec::new();
    for migration in &MIGRATIONS {
        match (migration.obstacle)(&transaction)? {
            Some(warning) => warnings.push(warning),
            None => transaction.execute_batch(migration.sql)?,
        }
    }
    let after = Comparison::of(&transaction)?;
    if !after.problems().is_empty() {
        return Err(Failure::Schema(after.problems()));
    }
    transaction.commit()?;
    Ok(warnings)
}

fn verify(connection: &Connection) -> Result<Vec<String>, Failure> {
    let found = Comparison::of(connection)?;
    if !found.problems().is_empty() {
        return Err(Failure::Schema(found.problems()));
    }
    let warning = |index| {
        format!("index `{index}` is missing; open once with `schema-check = \"create\"` to make it")
    };
    let mut warnings: Vec<String> = found.missing_indexes.iter().map(warning).collect();
    if !warnings.is_empty() {
        warnings.extend(doubled_ids(connection)?);
    }
    Ok(warnings)
}

fn doubled_ids(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let mut statement = connection.prepare(DOUBLED_IDS)?;
    let mut rows = statement.query([LISTED_IDS])?;
    let mut ids = String::new();
    let mut listed = 0;
    let mut total = 0;
    while let Some(row) = rows.next()? {
        let id: String = row.get(0)?;
        total = row.get::<_, i64>(1)?;
        let comma = if listed == 0 { "" } else { ", " };
        write!(ids, "{comma}{id:?}").expect("a String takes everything");
        listed += 1;
    }
    if total == 0 {
        return Ok(None);
    }
    if total > listed {
        write!(ids, " and {} more", total - listed).expect("a String takes everything");
    }
    Ok(Some(format!(
        "durable_state has several rows for one id ({ids}); delete the stale ones: until then \
         nothing keeps a stale writer from adding another"
    )))
}

/// How the tables differ from those that the migrations make.
#[derive(Debug, Default)]
struct Comparison {
    missing_tables: Vec<String>,
    missing_indexes: Vec<String>,
    /// Differences within tables that are there, as sentences.
    misfits: Vec<String>,
}

impl Comparison {
    /// Compares with an empty database that went through the migrations, so that names and types
    /// stand in one place only.
    fn of(connection: &Connection) -> rusqlite::Result<Self> {
        let reference = Connection::open_in_memory()?;
        for migration in &MIGRATIONS {
            reference.execute_batch(migration.sql)?;
        }
        let mut found = Self::default();
        for table in names(&reference, "table")? {
            let there = columns(connection, &table)?;
            if there.is_empty() {
                found.missing_tables.push(table);
            } else {
                let expected = columns(&reference, &table)?;
                found.misfits.extend(differences(&table, &expected, &there));
            }
        }
        let there = names(connection, "index")?;
        for index in names(&reference, "index")? {
            if !there.iter().any(|name| name.eq_ignore_ascii_case(&index)) {
                found.missing_indexes.push(index);
            }
        }
        Ok(found)
    }

    fn is_equal(&self) -> bool {
        self.problems().is_empty() && self.missing_indexes.is_empty()
    }

    /// What makes it impossible to work with these tables.
    fn problems(&self) -> Vec<String> {
        let missing = self.missing_tables.iter().map(|table| {
            format!(
                "table `{table}` is missing (opening with `schema-check = \"create\"` makes it)"
            )
        });
        missing.chain(self.misfits.iter().cloned()).collect()
    }
}

#[derive(Debug)]
struct Column {
    name: String,
    declared: String,
    must_be_given: bool,
    /// The place in the primary key from 1 on, 0 outside.
    key: i64,
}

fn names(connection: &Connection, kind: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(
        "SELECT name FROM sqlite_master WHERE type = ?1 AND sql IS NOT NULL ORDER BY rowid",
    )?;
    statement.query_map([kind], |row| row.get(0))?.collect()
}

fn columns(connection: &Connection, table: &str) -> rusqlite::Result<Vec<Column>> {
    let mut statement = connection.prepare(
        "SELECT name, type, \"notnull\" AND dflt_value IS NULL, pk FROM pragma_table_info(?1)",
    )?;
    let column = |row: &rusqlite::Row<'_>| {
        Ok(Column {
            name: row.get(0)?,
            declared: row.get(1)?,
            must_be_given: row.get(2)?,
            key: row.get(3)?,
        })
    };
    statement.query_map([table], column)?.collect()
}

fn differences(table: &str, expected: &[Column], found: &[Column]) -> Vec<String> {
    let same = |a: &Column, b: &Column| a.name.eq_ignore_ascii_case(&b.name);
    let mut sentences = Vec::new();
    for column in expected {
        let name = &column.name;
        match found.iter().find(|other| same(column, other)) {
            None => sentences.push(format!("column `{table}.{name}` is missing")),
            Some(other) if !other.declared.eq_ignore_ascii_case(&column.declared) => {
                sentences.push(format!(
                    "column `{table}.{name}` is declared {}, not {}",
                    or_nothing(&other.declared),
                    column.declared
                ));
            }
            Some(_) => {}
        }
    }
    for column in found {
        if column.must_be_given && !expected.iter().any(|other| same(column, other)) {
            sentences.push(format!(
                "column `{table}.{}` is unknown here and has no default, so no row could be stored",
                column.name
            ));
        }
    }
    // The key is what refuses a second writer, so another one is no matter of taste.
    let (wanted, there) = (key(expected), key(found));
    if !wanted.eq_ignore_ascii_case(&there) {
        sentences.push(format!(
            "the primary key of `{table}` is ({there}), not ({wanted})"
        ));
    }
    sentences
}

fn or_nothing(declared: &str) -> &str {
    if declared.is_empty() {
        "without a type"
    } else {
        declared
    }
}

fn key(columns: &[Column]) -> String {
    let mut parts: Vec<&Column> = columns.iter().filter(|column| column.key > 0).collect();
    parts.sort_by_key(|column| column.key);
    let names: Vec<&str> = parts.iter().map(|column| column.name.as_str()).collect();
    names.join(", ")
}
