//! Making and checking the tables, and what makes writing to them faster.
//!
//! A runner of our own, because a migration tool like refinery runs each file once and all of them
//! or none, and takes no lock: here several nodes start at the same time on tables that another
//! program may have made and filled, and a step that cannot be taken yet (two rows for one id
//! stand in the way of a unique index) is reported and tried again at the next start.

use std::fmt::Write as _;
use std::time::Duration;

use perennial_persistence::OpenError;
use tokio::time::{Instant, sleep};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Transaction};

use crate::error::{describe, source_of};
use crate::event_batch::Fence;
use crate::executor::{Sql, sql};

const CREATE_HISTORY: Sql = sql!("migrate/create_history.sql");
const READ_COLUMNS: Sql = sql!("migrate/read_columns.sql");
const READ_UNIQUE_INDEXES: Sql = sql!("migrate/read_unique_indexes.sql");
const READ_DOUBLED_IDS: Sql = sql!("migrate/read_doubled_ids.sql");
const READ_FENCE: Sql = sql!("migrate/read_fence.sql");
const READ_JOURNAL_SIZE: Sql = sql!("migrate/read_journal_size.sql");

const CREATE_TABLES: Migration = Migration {
    version: 1,
    name: "create_tables",
    text: include_str!("../migrations/0001_create_tables.sql"),
};
const GUARD_DURABLE_STATE: Migration = Migration {
    version: 2,
    name: "guard_durable_state",
    text: include_str!("../migrations/0002_guard_durable_state.sql"),
};
const CREATE_COMMAND_REPLY: Migration = Migration {
    version: 3,
    name: "create_command_reply",
    text: include_str!("../migrations/0003_create_command_reply.sql"),
};
const CREATE_REMINDER: Migration = Migration {
    version: 6,
    name: "create_reminder",
    text: include_str!("../migrations/0006_create_reminder.sql"),
};
const FENCE_FILE: &str = "migrations/postgres/0004_create_journal_fence.sql";
const CREATE_JOURNAL_FENCE: Migration = Migration {
    version: 4,
    name: "create_journal_fence",
    text: include_str!("../migrations/0004_create_journal_fence.sql"),
};
const INDEX_FILE: &str = "migrations/postgres/0005_index_delete_markers.sql";
const INDEX_DELETE_MARKERS: Migration = Migration {
    version: 5,
    name: "index_delete_markers",
    text: include_str!("../migrations/0005_index_delete_markers.sql"),
};

struct Migration {
    version: i32,
    name: &'static str,
    text: &'static str,
}

/// The advisory lock under which tables are changed: the ASCII letters "perennia".
const LOCK: i64 = 0x7065_7265_6e6e_6961;

/// How long to wait for the lock and for tables in use.
const LOCK_TIMEOUT: &str = "60s";

/// The advisory lock under which the journal gets an index: the letters "perennij". Another one, as
/// an index that is made without holding up writers waits for whoever waits for a lock in a
/// transaction.
const INDEX_LOCK: i64 = 0x7065_7265_6e6e_696a;

/// How long the start waits for an index that another node makes, or for transactions that were
/// there before one of its own.
const INDEX_PATIENCE: Duration = Duration::from_secs(5);

/// Up to which size, in bytes, the journal is read through for an index at the start. That takes
/// seconds; a larger one gets its index by hand.
const LARGEST_INDEXED_JOURNAL: i64 = 1 << 30;

/// What to do about missing tables.
const HOW_TO_MAKE_TABLES: &str = "to make missing tables set `schema-check = \"create\"` or apply \
     migrations/postgres; if they are in another schema, set `schema`";

/// Why it is a pity if a fence is missing.
const SLOWER_WITHOUT_FENCE: &str = "large batches of events are written more slowly than they could \
     be, without the function perennial_journal_fence and the index on delete markers";

/// How many ids with two rows are named.
const NAMED_IDS: usize = 10;

/// What makes a step impossible.
#[derive(Debug)]
enum Obstacle {
    /// A sentence about what is wrong with the tables or rights.
    Problem(String),
    /// The server did not do it.
    Server(tokio_postgres::Error),
}

impl From<tokio_postgres::Error> for Obstacle {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(server) if *server.code() == SqlState::INSUFFICIENT_PRIVILEGE => {
                Self::Problem(format!(
                    "the user may not create what is missing ({}); give it the right, or apply \
                     migrations/postgres by hand and set `schema-check = \"verify\"`",
                    describe(server)
                ))
            }
            _ => Self::Server(error),
        }
    }
}

impl Obstacle {
    fn into_open_error(self, target: &str) -> OpenError {
        match self {
            Self::Problem(problem) => OpenError::Schema {
                target: target.to_owned(),
                problems: vec![problem],
            },
            Self::Server(error) => unreachable_during(target, "made", &error),
        }
    }
}

fn unreachable_during(target: &str, done: &str, error: &tokio_postgres::Error) -> OpenError {
    let said = error
        .as_db_error()
        .map(|server| format!(" ({})", describe(server)))
        .unwrap_or_default();
    OpenError::Unreachable {
        target: target.to_owned(),
        reason: format!("the tables could not be {done}{said}"),
        source: Some(source_of(error)),
    }
}

/// Creates what is missing. Returns warnings.
pub(crate) async fn create(
    client: &mut Client,
    target: &str,
    schema: Option<&str>,
) -> Result<Vec<String>, OpenError> {
    apply(client, schema)
        .await
        .map_err(|obstacle| obstacle.into_open_error(target))
}

async fn apply(client: &mut Client, schema: Option<&str>) -> Result<Vec<String>, Obstacle> {
    // Nothing to do is the normal case, and needs no lock and no rights.
    let applied = applied(client).await?;
    if !applied.contains(&CREATE_TABLES.version) {
        let transaction = locked(client).await?;
        if let Some(schema) = schema {
            create_schema(&transaction, schema).await?;
        }
        transaction.batch_execute(CREATE_HISTORY.text).await?;
        // Another program's tables need nothing, not even the locks of IF NOT EXISTS.
        if !all_there(&transaction).await? {
            transaction.batch_execute(CREATE_TABLES.text).await?;
        }
        record(&transaction, &CREATE_TABLES).await?;
        transaction.commit().await?;
    }
    for own in [&CREATE_COMMAND_REPLY, &CREATE_REMINDER] {
        if !applied.contains(&own.version) {
            let transaction = locked(client).await?;
            transaction.batch_execute(own.text).await?;
            record(&transaction, own).await?;
            transaction.commit().await?;
        }
    }
    let mut warnings = if applied.contains(&GUARD_DURABLE_STATE.version) {
        Vec::new()
    } else {
        guard_durable_state(client).await?
    };
    warnings.extend(fence_journal(client).await?);
    Ok(warnings)
}

/// Makes the function and the index with which large batches are written faster, if they are not
/// there. Without them the store works all the same, so what stands in the way is a warning.
async fn fence_journal(client: &mut Client) -> Result<Option<String>, Obstacle> {
    let made = async {
        let there = read_fence(client).await?;
        if !there.function {
            let transaction = locked(client).await?;
            transaction.batch_execute(CREATE_JOURNAL_FENCE.text).await?;
            record(&transaction, &CREATE_JOURNAL_FENCE).await?;
            transaction.commit().await?;
        }
        if there.index == Some(true) {
            return Ok(());
        }
        index_delete_markers(client).await
    };
    let reason = match made.await {
        Ok(()) => return Ok(None),
        Err(Obstacle::Problem(problem)) => problem,
        Err(Obstacle::Server(error)) => match error.as_db_error() {
            Some(server) => describe(server),
            None => return Err(error.into()),
        },
    };
    Ok(Some(format!("{SLOWER_WITHOUT_FENCE}: {reason}")))
}

/// Makes the index on delete markers, outside of any transaction. One that is there and not valid is
/// the rest of an attempt that broke off.
async fn index_delete_markers(client: &mut Client) -> Result<(), Obstacle> {
    let size: Option<i64> = client.query_one(READ_JOURNAL_SIZE.text, &[]).await?.get(0);
    if let Some(problem) = too_large_to_index(size.unwrap_or_default()) {
        return Err(Obstacle::Problem(problem));
    }
    let patience = format!("{}ms", INDEX_PATIENCE.as_millis());
    client
        .query(
            "SELECT set_config('lock_timeout', $1, false), \
                    set_config('statement_timeout', '0', false)",
            &[&patience],
        )
        .await?;
    let until = Instant::now() + INDEX_PATIENCE;
    while !try_index_lock(client).await? {
        if Instant::now() >= until {
            return Err(Obstacle::Problem(
                "another node is making the index; the next start finds it".to_owned(),
            ));
        }
        sleep(Duration::from_millis(50)).await;
    }
    // The lock ends with the connection, which is there for the start only.
    match read_fence(client).await?.index {
        Some(true) => return Ok(()),
        Some(false) => client.batch_execute(DROP_MARKER_INDEX).await?,
        None => {}
    }
    client.batch_execute(INDEX_DELETE_MARKERS.text).await?;
    let transaction = client.transaction().await?;
    record(&transaction, &INDEX_DELETE_MARKERS).await?;
    transaction.commit().await?;
    Ok(())
}

/// Why a journal of so many bytes gets no index at the start.
fn too_large_to_index(size: i64) -> Option<String> {
    (size > LARGEST_INDEXED_JOURNAL).then(|| {
        format!(
            "event_journal has {} MiB, which takes too long to read through at the start; apply \
             {INDEX_FILE} by hand, which holds up nobody",
            size >> 20
        )
    })
}

const DROP_MARKER_INDEX: &str =
    "DROP INDEX CONCURRENTLY IF EXISTS perennial_event_journal_marker_idx";

async fn try_index_lock(client: &Client) -> Result<bool, tokio_postgres::Error> {
    let row = client
        .query_one("SELECT pg_try_advisory_lock($1)", &[&INDEX_LOCK])
        .await?;
    Ok(row.get(0))
}

/// What of the fence of large batches is there.
struct FoundFence {
    function: bool,
    /// `Some(false)` if the making of it broke off.
    index: Option<bool>,
}

async fn read_fence(client: &Client) -> Result<FoundFence, tokio_postgres::Error> {
    let row = client.query_one(READ_FENCE.text, &[]).await?;
    Ok(FoundFence {
        function: row.get(0),
        index: row.get(1),
    })
}

/// How large batches keep stale writers out, by what there is.
pub(crate) async fn fence(client: &Client, target: &str) -> Result<Fence, OpenError> {
    let found = read_fence(client)
        .await
        .map_err(|error| unreachable_during(target, "looked at", &error))?;
    Ok(if found.function && found.index == Some(true) {
        Fence::Markers
    } else {
        Fence::Rows
    })
}

/// Makes a second row for one id impossible, unless there is one already.
async fn guard_durable_state(client: &mut Client) -> Result<Vec<String>, Obstacle> {
    let transaction = locked(client).await?;
    let doubled = doubled_ids(&transaction).await?;
    if let Some(warning) = doubled {
        return Ok(vec![warning]);
    }
    let guarded = is_unique(&transaction, "durable_state", &["persistence_id"]).await?;
    if !guarded && let Err(error) = transaction.batch_execute(GUARD_DURABLE_STATE.text).await {
        return match error.code() {
            // A row slipped in, or the table is in use: the next start tries again.
            Some(&SqlState::UNIQUE_VIOLATION | &SqlState::LOCK_NOT_AVAILABLE) => Ok(vec![format!(
                "durable_state has no unique index on persistence_id yet, as it could not be \
                     made now ({}); the next start tries again",
                error.as_db_error().map(describe).unwrap_or_default()
            )]),
            _ => Err(error.into()),
        };
    }
    record(&transaction, &GUARD_DURABLE_STATE).await?;
    transaction.commit().await?;
    Ok(Vec::new())
}

async fn doubled_ids(transaction: &Transaction<'_>) -> Result<Option<String>, Obstacle> {
    let limit = i64::try_from(NAMED_IDS + 1).unwrap_or(i64::MAX);
    let rows = transaction.query(READ_DOUBLED_IDS.text, &[&limit]).await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let mut warning = "durable_state has more than one row for these ids, of which only one can \
                       be right: "
        .to_owned();
    for (index, row) in rows.iter().take(NAMED_IDS).enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        let _ = write!(warning, "{separator}{}", row.get::<_, &str>(0));
    }
    if rows.len() > NAMED_IDS {
        warning.push_str(" and more");
    }
    warning
        .push_str("; delete the wrong rows, and the next start adds the index that forbids them");
    Ok(Some(warning))
}

/// The versions that were applied; none if there is no history.
async fn applied(client: &Client) -> Result<Vec<i32>, Obstacle> {
    let there = client
        .query_one("SELECT to_regclass('perennial_migration') IS NOT NULL", &[])
        .await?;
    if !there.get::<_, bool>(0) {
        return Ok(Vec::new());
    }
    let rows = client
        .query("SELECT version FROM perennial_migration", &[])
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// A transaction that holds the lock until its end, so that of several nodes that start at the
/// same time one makes the tables.
async fn locked(client: &mut Client) -> Result<Transaction<'_>, Obstacle> {
    let transaction = client.transaction().await?;
    transaction
        .query(
            "SELECT set_config('lock_timeout', $1, true), set_config('statement_timeout', '0', true)",
            &[&LOCK_TIMEOUT],
        )
        .await?;
    transaction
        .query("SELECT pg_advisory_xact_lock($1)", &[&LOCK])
        .await?;
    Ok(transaction)
}

async fn create_schema(transaction: &Transaction<'_>, schema: &str) -> Result<(), Obstacle> {
    let row = transaction
        .query_one(
            "SELECT to_regnamespace(quote_ident($1)) IS NOT NULL, \
                    'CREATE SCHEMA ' || quote_ident($1)",
            &[&schema],
        )
        .await?;
    if !row.get::<_, bool>(0) {
        transaction.batch_execute(row.get(1)).await?;
    }
    Ok(())
}

async fn all_there(transaction: &Transaction<'_>) -> Result<bool, Obstacle> {
    let names: Vec<&str> = TABLES
        .iter()
        .filter(|table| !table.is_ours)
        .map(|table| table.name)
        .chain(["event_journal_slice_idx", "durable_state_slice_idx"])
        .collect();
    let row = transaction
        .query_one(
            "SELECT bool_and(to_regclass(name) IS NOT NULL) FROM unnest($1::text[]) AS name",
            &[&names],
        )
        .await?;
    Ok(row.get(0))
}

async fn record(transaction: &Transaction<'_>, migration: &Migration) -> Result<(), Obstacle> {
    transaction
        .execute(
            "INSERT INTO perennial_migration (version, name, applied_at) \
             VALUES ($1, $2, transaction_timestamp()) ON CONFLICT (version) DO NOTHING",
            &[&migration.version, &migration.name],
        )
        .await?;
    Ok(())
}

async fn is_unique(
    transaction: &Transaction<'_>,
    table: &str,
    columns: &[&str],
) -> Result<bool, Obstacle> {
    let rows = transaction
        .query(READ_UNIQUE_INDEXES.text, &[&vec![table]])
        .await?;
    Ok(rows
        .iter()
        .any(|row| row.get::<_, Vec<String>>(1) == columns))
}

/// Checks every table and column, by name and type, and the keys that the store relies on.
///
/// Returns warnings.
pub(crate) async fn verify(client: &Client, target: &str) -> Result<Vec<String>, OpenError> {
    let names: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
    let read = async {
        let columns = client.query(READ_COLUMNS.text, &[&names]).await?;
        let indexes = client.query(READ_UNIQUE_INDEXES.text, &[&names]).await?;
        let fence = read_fence(client).await?;
        Ok((columns, indexes, fence))
    };
    let (columns, indexes, fence) = read
        .await
        .map_err(|error| unreachable_during(target, "checked", &error))?;
    let found: Vec<FoundColumn> = columns
        .iter()
        .map(|row| FoundColumn {
            table: row.get(0),
            name: row.get(1),
            type_name: row.get(2),
            not_null: row.get(3),
            has_default: row.get(4),
        })
        .collect();
    let unique: Vec<(String, Vec<String>)> = indexes
        .iter()
        .map(|row| (row.get(0), row.get::<_, Option<_>>(1).unwrap_or_default()))
        .collect();
    let mut problems = differences(&found, &unique);
    let is_missing = |table: &Table| found.iter().all(|column| column.table != table.name);
    if TABLES.iter().any(is_missing) {
        problems.push(HOW_TO_MAKE_TABLES.to_owned());
    }
    if problems.is_empty() {
        let mut warnings = missing_guard(&unique);
        if !fence.function || fence.index != Some(true) {
            warnings.push(format!(
                "{SLOWER_WITHOUT_FENCE}; apply {FENCE_FILE} and {INDEX_FILE}"
            ));
        }
        Ok(warnings)
    } else {
        Err(OpenError::Schema {
            target: target.to_owned(),
            problems,
        })
    }
}

/// A column as it stands in the database.
#[derive(Debug, Clone)]
struct FoundColumn {
    table: String,
    name: String,
    type_name: String,
    not_null: bool,
    has_default: bool,
}

/// One sentence per difference that would make the store fail or, worse, not fail.
fn differences(found: &[FoundColumn], unique: &[(String, Vec<String>)]) -> Vec<String> {
    let mut problems = Vec::new();
    for table in TABLES {
        let name = table.name;
        let of_table = || found.iter().filter(|column| column.table == name);
        if of_table().next().is_none() {
            problems.push(format!("table {name} is missing"));
            continue;
        }
        for &Column {
            name: column,
            type_name,
            nullable,
        } in table.columns
        {
            match of_table().find(|found| found.name == column) {
                None => problems.push(format!("column {name}.{column} is missing")),
                Some(found) if found.type_name != type_name => problems.push(format!(
                    "column {name}.{column} is {} and must be {type_name}",
                    found.type_name
                )),
                Some(found) if found.not_null && nullable => problems.push(format!(
                    "column {name}.{column} is NOT NULL and must allow NULL"
                )),
                Some(_) => {}
            }
        }
        for column in of_table() {
            let known = table
                .columns
                .iter()
                .any(|wanted| wanted.name == column.name);
            if !known && column.not_null && !column.has_default {
                problems.push(format!(
                    "column {name}.{} is not known here and NOT NULL without a default, so that \
                     no row could be written",
                    column.name
                ));
            }
        }
        if let Some(key) = table.fence
            && !is_guarded(unique, name, key)
        {
            problems.push(format!(
                "table {name} has no unique index on ({}), which keeps two writers apart",
                key.join(", ")
            ));
        }
    }
    problems
}

fn missing_guard(unique: &[(String, Vec<String>)]) -> Vec<String> {
    if is_guarded(unique, "durable_state", &["persistence_id"]) {
        return Vec::new();
    }
    vec![
        "durable_state has no unique index on persistence_id, so that a stale writer can add a \
         second row for one id"
            .to_owned(),
    ]
}

/// `columns` are sorted by name.
fn is_guarded(unique: &[(String, Vec<String>)], table: &str, columns: &[&str]) -> bool {
    unique
        .iter()
        .any(|(of, found)| of == table && found == columns)
}

/// A table as it must be.
struct Table {
    name: &'static str,
    /// The columns, sorted by name, that no two rows may have in common; only for tables whose
    /// key this crate relies on.
    fence: Option<&'static [&'static str]>,
    /// Whether other programs don't know it.
    is_ours: bool,
    columns: &'static [Column],
}

#[derive(Clone, Copy)]
struct Column {
    name: &'static str,
    type_name: &'static str,
    nullable: bool,
}

const fn required(name: &'static str, type_name: &'static str) -> Column {
    Column {
        name,
        type_name,
        nullable: false,
    }
}

const fn nullable(name: &'static str, type_name: &'static str) -> Column {
    Column {
        name,
        type_name,
        nullable: true,
    }
}

const TEXT: &str = "character varying(255)";
const TIME: &str = "timestamp with time zone";

const TABLES: &[Table] = &[
    Table {
        name: "event_journal",
        fence: Some(&["persistence_id", "seq_nr"]),
        is_ours: false,
        columns: &[
            required("slice", "integer"),
            required("entity_type", TEXT),
            required("persistence_id", TEXT),
            required("seq_nr", "bigint"),
            required("db_timestamp", TIME),
            required("event_ser_id", "integer"),
            required("event_ser_manifest", TEXT),
            required("event_payload", "bytea"),
            required("deleted", "boolean"),
            required("writer", TEXT),
            required("adapter_manifest", TEXT),
            nullable("tags", "text[]"),
            nullable("meta_ser_id", "integer"),
            nullable("meta_ser_manifest", TEXT),
            nullable("meta_payload", "bytea"),
        ],
    },
    Table {
        name: "snapshot",
        fence: Some(&["persistence_id"]),
        is_ours: false,
        columns: &[
            required("slice", "integer"),
            required("entity_type", TEXT),
            required("persistence_id", TEXT),
            required("seq_nr", "bigint"),
            required("write_timestamp", "bigint"),
            required("ser_id", "integer"),
            required("ser_manifest", TEXT),
            required("snapshot", "bytea"),
            nullable("meta_ser_id", "integer"),
            nullable("meta_ser_manifest", TEXT),
            nullable("meta_payload", "bytea"),
        ],
    },
    Table {
        name: "durable_state",
        fence: None,
        is_ours: false,
        columns: &[
            required("slice", "integer"),
            required("entity_type", TEXT),
            required("persistence_id", TEXT),
            required("revision", "bigint"),
            required("db_timestamp", TIME),
            required("state_ser_id", "integer"),
            required("state_ser_manifest", TEXT),
            required("state_payload", "bytea"),
            nullable("tags", "text[]"),
        ],
    },
    Table {
        name: "projection_offset_store",
        fence: None,
        is_ours: false,
        columns: &[
            required("projection_name", TEXT),
            required("projection_key", TEXT),
            required("current_offset", TEXT),
            required("manifest", "character varying(32)"),
            required("mergeable", "boolean"),
            required("last_updated", "bigint"),
        ],
    },
    Table {
        name: "projection_timestamp_offset_store",
        fence: None,
        is_ours: false,
        columns: &[
            required("projection_name", TEXT),
            required("projection_key", TEXT),
            required("slice", "integer"),
            required("persistence_id", TEXT),
            required("seq_nr", "bigint"),
            required("timestamp_offset", TIME),
            required("timestamp_consumed", TIME),
        ],
    },
    Table {
        name: "projection_management",
        fence: None,
        is_ours: false,
        columns: &[
            required("projection_name", TEXT),
            required("projection_key", TEXT),
            required("paused", "boolean"),
            required("last_updated", "bigint"),
        ],
    },
    Table {
        name: "perennial_command_reply",
        fence: Some(&["command_id", "persistence_id"]),
        is_ours: true,
        columns: &[
            required("slice", "integer"),
            required("entity_type", TEXT),
            required("persistence_id", TEXT),
            required("command_id", TEXT),
            required("fingerprint", "bytea"),
            required("seq_nr", "bigint"),
            required("db_timestamp", TIME),
            required("reply_ser_id", "integer"),
            required("reply_ser_manifest", TEXT),
            required("reply_payload", "bytea"),
        ],
    },
    Table {
        name: "perennial_reminder",
        fence: Some(&["persistence_id", "reminder_key"]),
        is_ours: true,
        columns: &[
            required("slice", "integer"),
            required("entity_type", TEXT),
            required("persistence_id", TEXT),
            required("reminder_key", TEXT),
            required("due", TIME),
            required("reminder_ser_id", "integer"),
            required("reminder_ser_manifest", TEXT),
            required("reminder_payload", "bytea"),
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn as_wanted() -> (Vec<FoundColumn>, Vec<(String, Vec<String>)>) {
        let mut found = Vec::new();
        let mut unique = Vec::new();
        for table in TABLES {
            for column in table.columns {
                found.push(FoundColumn {
                    table: table.name.to_owned(),
                    name: column.name.to_owned(),
                    type_name: column.type_name.to_owned(),
                    not_null: !column.nullable,
                    has_default: false,
                });
            }
            if let Some(key) = table.fence {
                let key = key.iter().map(|&column| column.to_owned()).collect();
                unique.push((table.name.to_owned(), key));
            }
        }
        (found, unique)
    }

    fn check(
        change: impl Fn(&mut Vec<FoundColumn>, &mut Vec<(String, Vec<String>)>),
        expected: &[&str],
    ) {
        let (mut found, mut unique) = as_wanted();
        change(&mut found, &mut unique);
        assert_eq!(differences(&found, &unique), expected);
    }

    fn of<'a>(found: &'a mut [FoundColumn], table: &str, name: &str) -> &'a mut FoundColumn {
        found
            .iter_mut()
            .find(|column| column.table == table && column.name == name)
            .expect("a known column")
    }

    #[test]
    fn every_difference_is_one_sentence() {
        check(|_, _| {}, &[]);
        check(
            |found, _| found.retain(|column| column.table != "snapshot"),
            &["table snapshot is missing"],
        );
        check(
            |found, _| found.retain(|column| column.name != "writer"),
            &["column event_journal.writer is missing"],
        );
        check(
            |found, _| {
                of(found, "event_journal", "event_payload").type_name = "jsonb".to_owned();
                of(found, "durable_state", "tags").not_null = true;
            },
            &[
                "column event_journal.event_payload is jsonb and must be bytea",
                "column durable_state.tags is NOT NULL and must allow NULL",
            ],
        );
        check(
            |_, unique| unique.clear(),
            &[
                "table event_journal has no unique index on (persistence_id, seq_nr), which keeps \
                 two writers apart",
                "table snapshot has no unique index on (persistence_id), which keeps two writers \
                 apart",
                "table perennial_command_reply has no unique index on (command_id, persistence_id), \
                 which keeps two writers apart",
                "table perennial_reminder has no unique index on (persistence_id, reminder_key), \
                 which keeps two writers apart",
            ],
        );
    }

    #[test]
    fn a_large_journal_gets_its_index_by_hand() {
        assert_eq!(too_large_to_index(0), None);
        assert_eq!(too_large_to_index(LARGEST_INDEXED_JOURNAL), None);
        let problem = too_large_to_index(LARGEST_INDEXED_JOURNAL + 1).expect("a problem");
        assert!(problem.contains("1024 MiB"), "{problem}");
        assert!(problem.contains(INDEX_FILE), "{problem}");
    }

    #[test]
    fn unknown_columns_matter_only_if_they_need_a_value() {
        let more = |not_null, has_default| FoundColumn {
            table: "snapshot".to_owned(),
            name: "db_timestamp".to_owned(),
            type_name: TIME.to_owned(),
            not_null,
            has_default,
        };
        check(|found, _| found.push(more(false, false)), &[]);
        check(|found, _| found.push(more(true, true)), &[]);
        check(
            |found, _| found.push(more(true, false)),
            &[
                "column snapshot.db_timestamp is not known here and NOT NULL without a default, so \
                 that no row could be written",
            ],
        );
    }
}
