//! The tables on a PostgreSQL server.

use std::time::{Duration, Instant};

use flight_table::database::{Failed, Server};
use flight_table::patience::AskFailure;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, GenericClient};

use crate::buffer::ENTITY_TYPE;
use crate::item::{Item, Row};
use crate::split::Split;
use crate::table::{
    Begin, Held, ITEM_COLUMNS, REJECTED_COLUMNS, SAMPLE_TIME, Singles, Sorted, Stored, other_table,
    sorted, whole,
};

const ROW: &str = "line BIGINT PRIMARY KEY,
    tailnum TEXT,
    origin TEXT NOT NULL,
    dest TEXT NOT NULL,
    distance BIGINT NOT NULL CHECK (distance > 0)";

const REJECTED: &str = "line BIGINT PRIMARY KEY, reason TEXT NOT NULL";

/// Deleting or counting millions of rows takes its time.
const PREPARE_WITHIN: Duration = Duration::from_secs(600);

/// One insert of many rows; those whose line is there are passed over before they are looked at.
const INSERT: &str = "INSERT INTO bulk_item (line, tailnum, origin, dest, distance)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[])
        AS new (line, tailnum, origin, dest, distance)
    WHERE NOT EXISTS (SELECT 1 FROM bulk_item AS old WHERE old.line = new.line)
      AND NOT EXISTS (SELECT 1 FROM bulk_rejected AS old WHERE old.line = new.line)
    ON CONFLICT (line) DO NOTHING";

const SET_ASIDE: &str = "INSERT INTO bulk_rejected (line, reason)
    SELECT $1::bigint, $2::text
    WHERE NOT EXISTS (SELECT 1 FROM bulk_item WHERE line = $1::bigint)
    ON CONFLICT (line) DO NOTHING";

/// The tables on a server.
#[derive(Debug)]
pub struct PostgresTable {
    server: Server,
    /// None after a failure.
    client: Option<Client>,
}

impl PostgresTable {
    pub(super) async fn prepare(server: &Server, begin: Begin) -> Result<Self, AskFailure> {
        let prepared = server.within(PREPARE_WITHIN, async {
            let mut client = server.connected(PREPARE_WITHIN).await?;
            Ok(prepare(&mut client, begin).await?)
        });
        match prepared.await? {
            None => Ok(Self {
                server: server.clone(),
                client: None,
            }),
            Some(Other {
                table,
                found,
                expected,
            }) => Err(other_table(server, table, &found, expected)),
        }
    }

    pub(super) async fn store(&mut self, items: &[Item]) -> Result<Stored, AskFailure> {
        let limit = self.server.call_timeout();
        self.with(limit, async |client| store(client, items).await)
            .await
    }

    pub(super) async fn held(&mut self, rows: i64, examples: i64) -> Result<Held, AskFailure> {
        let count = async |client: &mut Client| {
            let row = client
                .query_one(
                    "SELECT (SELECT count(*) FROM bulk_item WHERE line BETWEEN 1 AND $1),
                            (SELECT count(*) FROM bulk_rejected WHERE line BETWEEN 1 AND $1)",
                    &[&rows],
                )
                .await?;
            let sql = "SELECT line, reason FROM bulk_rejected WHERE line BETWEEN 1 AND $1
                       ORDER BY line LIMIT $2";
            let found = client.query(sql, &[&rows, &examples]).await?;
            let examples = found
                .iter()
                .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
            Ok(Held {
                stored: whole(row.try_get(0)?),
                set_aside: whole(row.try_get(1)?),
                examples: examples.collect::<Result<_, tokio_postgres::Error>>()?,
            })
        };
        self.with(PREPARE_WITHIN, count).await
    }

    pub(super) async fn insert_one_by_one(
        &mut self,
        rows: &[(i64, Row)],
    ) -> Result<Singles, AskFailure> {
        let limit = SAMPLE_TIME + 3 * self.server.call_timeout();
        self.with(limit, async |client| {
            let make =
                format!("DROP TABLE IF EXISTS bulk_single; CREATE TABLE bulk_single ({ROW})");
            client.batch_execute(&make).await?;
            let singles = insert_singles(client, rows).await?;
            client.batch_execute("DROP TABLE bulk_single").await?;
            Ok(singles)
        })
        .await
    }

    async fn with<T>(
        &mut self,
        limit: Duration,
        work: impl AsyncFnOnce(&mut Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, AskFailure> {
        let Self { server, client } = self;
        // One that has failed, or did not come to its end, is not used again.
        let taken = client.take();
        let done = server.within(limit, async {
            let mut client = match taken {
                Some(client) => client,
                None => server.connected(limit).await?,
            };
            let result = work(&mut client).await.map_err(Failed::from)?;
            Ok((client, result))
        });
        let (used, result) = done.await?;
        *client = Some(used);
        Ok(result)
    }
}

/// A table of the same name that is not ours.
struct Other {
    table: &'static str,
    found: Vec<String>,
    expected: &'static [&'static str],
}

/// Makes the tables, unless there is another one of the same name, which is given then.
async fn prepare(
    client: &mut Client,
    begin: Begin,
) -> Result<Option<Other>, tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    // One run at a time makes or forgets them.
    transaction
        .batch_execute("SET LOCAL lock_timeout = '10s'; SELECT pg_advisory_xact_lock(7362, 1)")
        .await?;
    let ours: [(&'static str, &'static [&'static str]); 2] = [
        ("bulk_item", &ITEM_COLUMNS),
        ("bulk_rejected", &REJECTED_COLUMNS),
    ];
    for (table, expected) in ours {
        let found = columns_of(&transaction, table).await?;
        if !found.is_empty() && found != expected {
            return Ok(Some(Other {
                table,
                found,
                expected,
            }));
        }
    }
    if begin == Begin::Anew {
        transaction
            .batch_execute("DROP TABLE IF EXISTS bulk_item, bulk_rejected, bulk_single")
            .await?;
        for table in ["event_journal", "snapshot"] {
            if !columns_of(&transaction, table).await?.is_empty() {
                let sql = format!("DELETE FROM {table} WHERE entity_type = $1");
                transaction.execute(&sql, &[&ENTITY_TYPE]).await?;
            }
        }
    }
    transaction
        .batch_execute(&format!(
            "CREATE TABLE IF NOT EXISTS bulk_item ({ROW});
             CREATE TABLE IF NOT EXISTS bulk_rejected ({REJECTED})"
        ))
        .await?;
    transaction.commit().await?;
    Ok(None)
}

async fn columns_of(
    client: &impl GenericClient,
    table: &str,
) -> Result<Vec<String>, tokio_postgres::Error> {
    let sql = "SELECT attname::text FROM pg_attribute
               WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped
               ORDER BY attnum";
    let rows = client.query(sql, &[&table]).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// Stores items at once: by one statement, or if that is refused by a transaction in which the parts
/// that are taken stay.
async fn store(client: &mut Client, items: &[Item]) -> Result<Stored, tokio_postgres::Error> {
    let Sorted { rows, malformed } = sorted(items);
    let mut split = Split::of(rows.len());
    if malformed.is_empty()
        && let Some(whole) = split.next_part()
    {
        match insert(client, &rows).await {
            Ok(stored) => {
                let set_aside = 0;
                return Ok(Stored { stored, set_aside });
            }
            // Alone it is tried once more, for the transaction in which it is set aside.
            Err(error) if is_refusal(&error) && rows.len() == 1 => split = Split::of(1),
            Err(error) if is_refusal(&error) => {
                split.refused(whole);
            }
            Err(error) => return Err(error),
        }
    }
    let mut stored = Stored::default();
    let mut transaction = client.transaction().await?;
    for (line, reason) in malformed {
        stored.set_aside += transaction.execute(SET_ASIDE, &[&line, &reason]).await?;
    }
    while let Some(part) = split.next_part() {
        let savepoint = transaction.transaction().await?;
        match insert(&savepoint, &rows[part.clone()]).await {
            Ok(inserted) => {
                savepoint.commit().await?;
                stored.stored += inserted;
            }
            Err(error) if is_refusal(&error) => {
                savepoint.rollback().await?;
                if let Some(culprit) = split.refused(part) {
                    let (line, reason) = (rows[culprit].0, reason_of(&error));
                    stored.set_aside += transaction.execute(SET_ASIDE, &[&line, &reason]).await?;
                }
            }
            Err(error) => return Err(error),
        }
    }
    transaction.commit().await?;
    Ok(stored)
}

async fn insert(
    client: &impl GenericClient,
    rows: &[(i64, &Row)],
) -> Result<u64, tokio_postgres::Error> {
    let lines: Vec<i64> = rows.iter().map(|(line, _)| *line).collect();
    let tails: Vec<Option<&str>> = rows.iter().map(|(_, row)| row.tailnum.as_deref()).collect();
    let origins: Vec<&str> = rows.iter().map(|(_, row)| row.origin.as_str()).collect();
    let dests: Vec<&str> = rows.iter().map(|(_, row)| row.dest.as_str()).collect();
    let distances: Vec<i64> = rows.iter().map(|(_, row)| row.distance).collect();
    client
        .execute(INSERT, &[&lines, &tails, &origins, &dests, &distances])
        .await
}

async fn insert_singles(
    client: &Client,
    rows: &[(i64, Row)],
) -> Result<Singles, tokio_postgres::Error> {
    let statement = client
        .prepare(
            "INSERT INTO bulk_single (line, tailnum, origin, dest, distance)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .await?;
    let begun = Instant::now();
    let mut singles = Singles::default();
    for (line, row) in rows {
        let Row {
            tailnum,
            origin,
            dest,
            distance,
        } = row;
        let row: [&(dyn ToSql + Sync); 5] = [line, tailnum, origin, dest, distance];
        match client.execute(&statement, &row).await {
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

/// Whether it is about the rows, and not about the database: what cannot be represented, what a
/// constraint refuses, and what is too large.
fn is_refusal(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| {
        ["22", "23", "54"]
            .iter()
            .any(|class| code.code().starts_with(class))
    })
}

fn reason_of(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(server) => server.message().to_owned(),
        None => error.to_string(),
    }
}
