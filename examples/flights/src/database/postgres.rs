//! Aircraft in a PostgreSQL database.

use std::time::Duration;

use flight_table::database::{Failed, Server};
use indicatif::HumanCount;

use crate::aircraft::ENTITY_TYPE;
use crate::fold::Start;
use crate::patience::AskFailure;
use crate::run::Begin;

/// Counting or deleting millions of rows takes its time.
const PREPARE_WITHIN: Duration = Duration::from_secs(600);

pub(super) async fn prepare(server: &Server, begin: Begin) -> Result<Start, AskFailure> {
    let aircraft = server
        .within(PREPARE_WITHIN, prepare_now(server, begin))
        .await?;
    match begin {
        _ if aircraft == 0 => Ok(Start::Fresh),
        Begin::Keep => Ok(Start::Continued),
        Begin::Anew | Begin::Reset => Err(AskFailure::Fatal(format!(
            "{server} holds {} aircraft already; use --keep to continue on them, or --reset to \
             delete them and start anew",
            HumanCount(u64::try_from(aircraft).unwrap_or(0))
        ))),
    }
}

/// Deletes the aircraft if that is wanted, and counts them.
async fn prepare_now(server: &Server, begin: Begin) -> Result<i64, Failed> {
    let mut client = server.connected(PREPARE_WITHIN).await?;
    let transaction = client.transaction().await?;
    if !Server::has_table(transaction.client(), "event_journal").await? {
        return Ok(0);
    }
    // What a run that was killed has sent may still be under way in the server; the lock waits
    // for its end.
    transaction
        .batch_execute(
            "SET LOCAL lock_timeout = '10s';
             LOCK TABLE event_journal IN SHARE ROW EXCLUSIVE MODE",
        )
        .await?;
    if begin == Begin::Reset {
        for table in ["event_journal", "snapshot"] {
            if Server::has_table(transaction.client(), table).await? {
                let sql = format!("DELETE FROM {table} WHERE entity_type = $1");
                transaction.execute(&sql, &[&ENTITY_TYPE]).await?;
            }
        }
    }
    let sql = "SELECT count(DISTINCT persistence_id) FROM event_journal WHERE entity_type = $1";
    let row = transaction.query_one(sql, &[&ENTITY_TYPE]).await?;
    transaction.commit().await?;
    Ok(row.try_get(0)?)
}

pub(super) async fn persistence_ids(server: &Server) -> Result<Vec<String>, AskFailure> {
    let list = async {
        let client = server.connected(server.call_timeout()).await?;
        if !Server::has_table(&client, "event_journal").await? {
            return Ok(Vec::new());
        }
        let sql = "SELECT DISTINCT persistence_id FROM event_journal WHERE entity_type = $1";
        let rows = client.query(sql, &[&ENTITY_TYPE]).await?;
        let ids = rows.iter().map(|row| row.try_get(0));
        Ok(ids.collect::<Result<_, _>>()?)
    };
    server.within(server.call_timeout(), list).await
}
