//! The tables in an SQLite file.

use std::sync::Arc;
use std::time::Instant;

use flight_table::database::File;
use flight_table::patience::AskFailure;
use perennial::sqlite::Synchronous;
use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params,
    params_from_iter,
};

use crate::buffer::ENTITY_TYPE;
use crate::item::{Item, Row};
use crate::split::Split;
use crate::table::{
    Begin, Held, ITEM_COLUMNS, REJECTED_COLUMNS, SAMPLE_TIME, Singles, Sorted, Stored, other_table,
    sorted, whole,
};

/// The columns of a row, for the table and for the one in which single rows are measured.
const ROW: &str = "line INTEGER PRIMARY KEY,
    tailnum TEXT,
    origin TEXT NOT NULL,
    dest TEXT NOT NULL,
    distance INTEGER NOT NULL CHECK (distance > 0)";

const REJECTED: &str = "line INTEGER PRIMARY KEY, reason TEXT NOT NULL";

/// Tables that may be in a file which is made anew: the program's own, and those of the store, whose
/// entities are looked at besides.
const OURS: [&str; 3] = ["bulk_item", "bulk_rejected", "bulk_single"];
const OF_THE_STORE: [&str; 6] = [
    "event_journal",
    "snapshot",
    "durable_state",
    "projection_offset_store",
    "projection_timestamp_offset_store",
    "projection_management",
];

/// The tables in a file.
#[derive(Debug)]
pub struct SqliteTable {
    file: File,
    /// None while it is used, and after it has failed.
    connection: Option<Connection>,
}

impl SqliteTable {
    pub(super) async fn prepare(file: &File, begin: Begin) -> Result<Self, AskFailure> {
        let mut table = Self {
            file: file.clone(),
            connection: None,
        };
        if begin == Begin::Anew {
            let file = file.clone();
            File::blocking(move || file.remove(find_stranger)).await?;
        }
        table.with(|_| Ok(())).await?;
        Ok(table)
    }

    pub(super) async fn store(&mut self, items: Arc<[Item]>) -> Result<Stored, AskFailure> {
        self.with(move |connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let stored = store(&transaction, &items)?;
            transaction.commit()?;
            Ok(stored)
        })
        .await
    }

    pub(super) async fn held(&mut self, rows: i64, examples: i64) -> Result<Held, AskFailure> {
        self.with(move |connection| {
            let count = |table: &str| {
                let sql = format!("SELECT count(*) FROM {table} WHERE line BETWEEN 1 AND ?1");
                connection.query_row(&sql, [rows], |row| row.get(0))
            };
            let (stored, set_aside) = (count("bulk_item")?, count("bulk_rejected")?);
            let mut statement = connection.prepare(
                "SELECT line, reason FROM bulk_rejected WHERE line BETWEEN 1 AND ?1
                 ORDER BY line LIMIT ?2",
            )?;
            let examples =
                statement.query_map([rows, examples], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(Held {
                stored: whole(stored),
                set_aside: whole(set_aside),
                examples: examples.collect::<Result<_, _>>()?,
            })
        })
        .await
    }

    pub(super) async fn insert_one_by_one(
        &mut self,
        rows: Arc<[(i64, Row)]>,
    ) -> Result<Singles, AskFailure> {
        self.with(move |connection| {
            connection.execute_batch(&format!(
                "DROP TABLE IF EXISTS bulk_single; CREATE TABLE bulk_single ({ROW})"
            ))?;
            let singles = insert_singles(connection, &rows)?;
            connection.execute_batch("DROP TABLE bulk_single")?;
            Ok(singles)
        })
        .await
    }

    /// Runs statements on a thread that may be blocked.
    async fn with<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, AskFailure> {
        let (connection, file) = (self.connection.take(), self.file.clone());
        let (connection, result) = File::blocking(move || {
            let mut connection = match connection {
                Some(connection) => connection,
                None => open(&file)?,
            };
            let result = work(&mut connection).map_err(|error| file.failed(&error))?;
            Ok((connection, result))
        })
        .await?;
        self.connection = Some(connection);
        Ok(result)
    }
}

/// A connection to the file, which is made if there is none, with both tables in it.
fn open(file: &File) -> Result<Connection, AskFailure> {
    let folder = file.path().parent();
    if folder.is_some_and(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
        return Err(AskFailure::Fatal(format!(
            "{file} cannot be made, as its directory does not exist; make it, or name another file \
             as `persistence.sqlite.path`"
        )));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let failed = |error: rusqlite::Error| file.failed(&error);
    let mut connection = Connection::open_with_flags(file.path(), flags).map_err(failed)?;
    let config = file.config();
    let prepare = |connection: &mut Connection| {
        connection.busy_timeout(config.busy_timeout)?;
        let synchronous = match config.synchronous {
            Synchronous::Normal => "NORMAL",
            _ => "FULL",
        };
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", synchronous)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(&format!(
            "CREATE TABLE IF NOT EXISTS bulk_item ({ROW});
             CREATE TABLE IF NOT EXISTS bulk_rejected ({REJECTED});"
        ))?;
        let found = [
            columns(&transaction, "bulk_item")?,
            columns(&transaction, "bulk_rejected")?,
        ];
        transaction.commit()?;
        Ok(found)
    };
    let [items, rejected] = prepare(&mut connection).map_err(failed)?;
    if items != ITEM_COLUMNS {
        return Err(other_table(file, "bulk_item", &items, &ITEM_COLUMNS));
    }
    if rejected != REJECTED_COLUMNS {
        return Err(other_table(
            file,
            "bulk_rejected",
            &rejected,
            &REJECTED_COLUMNS,
        ));
    }
    Ok(connection)
}

fn columns(connection: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement =
        connection.prepare("SELECT name FROM pragma_table_info(?1) ORDER BY cid")?;
    let names = statement.query_map([table], |row| row.get(0))?;
    names.collect()
}

/// Stores items within a transaction. A statement that is refused leaves no trace of its own.
fn store(transaction: &Transaction<'_>, items: &[Item]) -> rusqlite::Result<Stored> {
    let Sorted { rows, malformed } = sorted(items);
    let mut stored = Stored::default();
    for (line, reason) in malformed {
        stored.set_aside += set_aside(transaction, line, reason)?;
    }
    let mut split = Split::of(rows.len());
    while let Some(part) = split.next_part() {
        match insert(transaction, &rows[part.clone()]) {
            Ok(inserted) => stored.stored += inserted,
            Err(error) if is_refusal(&error) => {
                if let Some(culprit) = split.refused(part) {
                    let reason = reason_of(&error);
                    stored.set_aside += set_aside(transaction, rows[culprit].0, &reason)?;
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(stored)
}

/// One insert of many rows; those whose line is there are passed over before they are looked at.
fn insert(transaction: &Transaction<'_>, rows: &[(i64, &Row)]) -> rusqlite::Result<u64> {
    const VALUES: &str = "(?, ?, ?, ?, ?)";
    let values = vec![VALUES; rows.len()].join(", ");
    let sql = format!(
        "INSERT INTO bulk_item (line, tailnum, origin, dest, distance)
         SELECT * FROM (VALUES {values}) AS new
         WHERE NOT EXISTS (SELECT 1 FROM bulk_item AS old WHERE old.line = new.column1)
           AND NOT EXISTS (SELECT 1 FROM bulk_rejected AS old WHERE old.line = new.column1)
         ON CONFLICT (line) DO NOTHING"
    );
    let mut statement = transaction.prepare_cached(&sql)?;
    let mut parameters: Vec<&dyn rusqlite::ToSql> = Vec::with_capacity(rows.len() * 5);
    for (line, row) in rows {
        parameters.extend([
            line as &dyn rusqlite::ToSql,
            &row.tailnum,
            &row.origin,
            &row.dest,
            &row.distance,
        ]);
    }
    let inserted = statement.execute(params_from_iter(parameters))?;
    Ok(u64::try_from(inserted).unwrap_or(u64::MAX))
}

fn set_aside(transaction: &Transaction<'_>, line: i64, reason: &str) -> rusqlite::Result<u64> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO bulk_rejected (line, reason)
         SELECT ?1, ?2 WHERE NOT EXISTS (SELECT 1 FROM bulk_item WHERE line = ?1)
         ON CONFLICT (line) DO NOTHING",
    )?;
    let inserted = statement.execute(params![line, reason])?;
    Ok(u64::try_from(inserted).unwrap_or(u64::MAX))
}

fn insert_singles(connection: &Connection, rows: &[(i64, Row)]) -> rusqlite::Result<Singles> {
    let mut statement = connection.prepare(
        "INSERT INTO bulk_single (line, tailnum, origin, dest, distance) VALUES (?, ?, ?, ?, ?)",
    )?;
    let begun = Instant::now();
    let mut singles = Singles::default();
    for (line, row) in rows {
        let inserted = statement.execute(params![
            line,
            row.tailnum,
            row.origin,
            row.dest,
            row.distance
        ]);
        match inserted {
            Ok(_) => singles.rows += 1,
            // It was set aside before.
            Err(error) if is_refusal(&error) => {}
            Err(error) => return Err(error),
        }
        if begun.elapsed() >= SAMPLE_TIME {
            break;
        }
    }
    singles.elapsed = begun.elapsed();
    Ok(singles)
}

/// Whether it is about the rows, and not about the database.
fn is_refusal(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig)
    )
}

fn reason_of(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        error => error.to_string(),
    }
}

/// Why a file is not to be made anew.
fn find_stranger(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let mut statement = connection.prepare(
        "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%'",
    )?;
    let tables = statement
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<String>>>()?;
    let hint = "and is not made anew; use --keep to add to it, or another file";
    for table in &tables {
        let name = table.as_str();
        if !OURS.contains(&name) && !OF_THE_STORE.contains(&name) && !name.starts_with("perennial_")
        {
            return Ok(Some(format!("holds another table, {table:?}, {hint}")));
        }
    }
    for table in ["event_journal", "snapshot", "durable_state"] {
        if !tables.iter().any(|found| found == table) {
            continue;
        }
        let sql = format!("SELECT persistence_id FROM {table} WHERE entity_type <> ?1 LIMIT 1");
        let stranger: Option<String> = connection
            .query_row(&sql, [ENTITY_TYPE], |row| row.get(0))
            .optional()?;
        if let Some(stranger) = stranger {
            return Ok(Some(format!("holds another entity, {stranger:?}, {hint}")));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
