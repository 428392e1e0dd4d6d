//! Aircraft in an SQLite file.

use flight_table::database::File;
use rusqlite::{Connection, OptionalExtension};

use crate::aircraft::ENTITY_TYPE;
use crate::fold::Start;
use crate::patience::AskFailure;
use crate::run::Begin;

pub(super) async fn prepare(file: &File, begin: Begin) -> Result<Start, AskFailure> {
    let file = file.clone();
    File::blocking(move || prepare_now(&file, begin)).await
}

pub(super) async fn persistence_ids(file: &File) -> Result<Vec<String>, AskFailure> {
    let file = file.clone();
    File::blocking(move || persistence_ids_now(&file).map_err(|error| file.failed(&error))).await
}

fn prepare_now(file: &File, begin: Begin) -> Result<Start, AskFailure> {
    if begin == Begin::Anew {
        file.remove(find_stranger)?;
        return Ok(Start::Fresh);
    }
    let failed = |error| file.failed(&error);
    if begin == Begin::Reset {
        delete_aircraft(file).map_err(failed)?;
    }
    let ids = persistence_ids_now(file).map_err(failed)?;
    Ok(if ids.is_empty() {
        Start::Fresh
    } else {
        Start::Continued
    })
}

/// Why the file is to be kept: the id of an entity that is no aircraft.
fn find_stranger(connection: &Connection) -> rusqlite::Result<Option<String>> {
    for table in ["event_journal", "snapshot", "durable_state"] {
        if !has_table(connection, table)? {
            continue;
        }
        let sql = format!("SELECT persistence_id FROM {table} WHERE entity_type <> ?1 LIMIT 1");
        let stranger: Option<String> = connection
            .query_row(&sql, [ENTITY_TYPE], |row| row.get(0))
            .optional()?;
        if let Some(stranger) = stranger {
            return Ok(Some(format!(
                "holds other entities than aircraft, such as {stranger:?}, and is not made anew; \
                 use --reset to delete its aircraft only, or --keep to continue on them"
            )));
        }
    }
    Ok(None)
}

fn delete_aircraft(file: &File) -> rusqlite::Result<()> {
    let Some(mut connection) = file.open()? else {
        return Ok(());
    };
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    for table in ["event_journal", "snapshot"] {
        if has_table(&transaction, table)? {
            let sql = format!("DELETE FROM {table} WHERE entity_type = ?1");
            transaction.execute(&sql, [ENTITY_TYPE])?;
        }
    }
    transaction.commit()
}

fn persistence_ids_now(file: &File) -> rusqlite::Result<Vec<String>> {
    let Some(connection) = file.open()? else {
        return Ok(Vec::new());
    };
    if !has_table(&connection, "event_journal")? {
        return Ok(Vec::new());
    }
    let sql = "SELECT DISTINCT persistence_id FROM event_journal WHERE entity_type = ?1";
    let mut statement = connection.prepare(sql)?;
    let ids = statement.query_map([ENTITY_TYPE], |row| row.get(0))?;
    ids.collect()
}

fn has_table(connection: &Connection, table: &str) -> rusqlite::Result<bool> {
    connection.table_exists(None, table)
}
