//! Bringing many entities back from PostgreSQL, beside bare pipelined SELECTs.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use perennial::persistence::{MESSAGE_PACK_ID, Slice};
use tokio_postgres::Client;

use crate::counter::{Added, Counter, MANIFEST, Sum};
use crate::postgres::{connect, database, start_system};
use crate::{Result, Side};

const ENTITIES: u32 = 10_000;
const EVENTS_EACH: u32 = 100;

/// A database with the events of all entities, in the order in which traffic leaves them.
pub(crate) struct Rows {
    url: String,
}

impl Rows {
    pub(crate) async fn write() -> Result<Self> {
        let url = database().await?;
        start_system(&url).await?.shutdown().await?;
        let client = connect(&url).await?;
        let ids: Vec<String> = (0..ENTITIES)
            .map(|number| format!("Counter|{number}"))
            .collect();
        let slices: Vec<i32> = ids.iter().map(|id| Slice::of(id).into()).collect();
        let payload = Added::encoded();
        let writer = uuid::Uuid::from_u128(7).to_string();
        for seq_nr in 1..=i64::from(EVENTS_EACH) {
            client
                .execute(
                    "INSERT INTO event_journal (slice, entity_type, persistence_id, seq_nr,
                        db_timestamp, event_ser_id, event_ser_manifest, event_payload, writer,
                        adapter_manifest)
                     SELECT slice, 'Counter', persistence_id, $3, transaction_timestamp(), $4, $5,
                        $6, $7, ''
                     FROM unnest($1::int[], $2::text[]) AS t (slice, persistence_id)",
                    &[
                        &slices,
                        &ids,
                        &seq_nr,
                        &MESSAGE_PACK_ID,
                        &MANIFEST,
                        &payload,
                        &writer,
                    ],
                )
                .await?;
        }
        client.batch_execute("VACUUM ANALYZE event_journal").await?;
        client.batch_execute("CHECKPOINT").await?;
        Ok(Self { url })
    }
}

/// A new system that is asked for every entity.
pub(crate) struct Entities {
    url: String,
}

impl Entities {
    pub(crate) fn new(rows: &Rows) -> Self {
        Self {
            url: rows.url.clone(),
        }
    }
}

impl Side for Entities {
    async fn run(&mut self, time: Duration) -> Result<f64> {
        let mut spent = Duration::ZERO;
        let mut passes = 0_u32;
        while passes == 0 || spent < time {
            let system = start_system(&self.url).await?;
            let start = Instant::now();
            let asks: Vec<_> = (0..ENTITIES)
                .map(|number| {
                    let entity = system.entity::<Counter>(format!("{number}"));
                    tokio::spawn(async move { entity.ask(Sum).await })
                })
                .collect();
            for ask in asks {
                let sum = ask.await??;
                if sum != i64::from(EVENTS_EACH) {
                    return Err(format!("an entity came back with {sum}").into());
                }
            }
            spent += start.elapsed();
            passes += 1;
            system.shutdown().await?;
        }
        let events = f64::from(passes) * f64::from(ENTITIES) * f64::from(EVENTS_EACH);
        Ok(events / spent.as_secs_f64())
    }
}

/// The rows alone.
pub(crate) struct Selects {
    clients: Vec<Client>,
}

impl Selects {
    const CONNECTIONS: u32 = 2;
    const PIPELINED: u32 = 16;

    pub(crate) async fn start(rows: &Rows) -> Result<Self> {
        let mut clients = Vec::new();
        for _ in 0..Self::CONNECTIONS {
            clients.push(connect(&rows.url).await?);
        }
        Ok(Self { clients })
    }
}

impl Side for Selects {
    async fn run(&mut self, time: Duration) -> Result<f64> {
        let start = Instant::now();
        let mut passes = 0_u32;
        while passes == 0 || start.elapsed() < time {
            let mut tasks = Vec::new();
            for (index, client) in (0_u32..).zip(self.clients.drain(..)) {
                tasks.push(tokio::spawn(select(client, index)));
            }
            for task in tasks {
                self.clients.push(task.await??);
            }
            passes += 1;
        }
        let events = f64::from(passes) * f64::from(ENTITIES) * f64::from(EVENTS_EACH);
        Ok(events / start.elapsed().as_secs_f64())
    }
}

/// One connection's share of the entities, some queries at once.
async fn select(client: Client, connection: u32) -> Result<Client> {
    let select = client
        .prepare(
            "SELECT seq_nr, db_timestamp, event_ser_id, event_ser_manifest, event_payload, deleted,
                meta_ser_id, meta_ser_manifest, meta_payload
             FROM event_journal
             WHERE persistence_id = $1 AND seq_nr >= $2 AND seq_nr <= $3
             ORDER BY seq_nr LIMIT 500",
        )
        .await?;
    let lane = |lane: u32| {
        let (client, select) = (&client, &select);
        async move {
            let mut number = connection + lane * Selects::CONNECTIONS;
            while number < ENTITIES {
                let rows = client
                    .query(select, &[&format!("Counter|{number}"), &0_i64, &i64::MAX])
                    .await?;
                let mut bytes = 0;
                for row in &rows {
                    bytes += row.get::<_, &[u8]>(4).len();
                }
                if rows.len() != EVENTS_EACH as usize || bytes == 0 {
                    return Err(format!("{} rows of an entity", rows.len()).into());
                }
                number += Selects::CONNECTIONS * Selects::PIPELINED;
            }
            Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
        }
    };
    try_join_all((0..Selects::PIPELINED).map(lane)).await?;
    Ok(client)
}
