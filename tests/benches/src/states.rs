//! Durable states into PostgreSQL, beside the bare driver.

use std::time::{Duration, Instant};

use perennial::persistence::{MESSAGE_PACK_ID, Slice};
use perennial::prelude::*;
use serde::{Deserialize, Serialize};
use tokio_postgres::{Client, Statement};

use crate::postgres::{at_once, connect, database, ids_of, start_system_with};
use crate::{Result, Side, repeat};

const MANIFEST: &str = "Tally.State";

/// About as large as the other cases' events.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Tally {
    amount: i64,
    reason: String,
}

impl Tally {
    fn of(amount: i64) -> Self {
        Self {
            amount,
            reason: "an order was paid at the counter".to_owned(),
        }
    }
}

impl DurableState for Tally {
    const TYPE: &'static str = "Tally";
    type Services = ();
}

/// Adds to the state.
struct Raise(i64);

impl Handle<Raise> for Durable<Tally> {
    type Reply = i64;

    fn handle(&self, command: Raise, cx: &Cx<'_, Self>) -> Effect<Self, i64> {
        cx.put(Tally::of(self.amount + command.0))
            .reply(|tally| tally.amount)
    }
}

async fn start_system(url: &str) -> Result<ActorSystem> {
    start_system_with(url, Entity::<Durable<Tally>>::durable(())).await
}

/// States that each have one caller waiting.
pub(crate) struct States {
    system: ActorSystem,
    count: usize,
}

impl States {
    pub(crate) async fn start(count: usize) -> Result<Self> {
        let system = start_system(&database().await?).await?;
        Ok(Self { system, count })
    }
}

impl Side for States {
    async fn run(&mut self, time: Duration) -> Result<f64> {
        repeat(self.count, time, |caller| {
            let state = self.system.entity::<Durable<Tally>>(format!("{caller}"));
            move || {
                let ask = state.ask(Raise(1));
                async move {
                    ask.await?;
                    Ok(())
                }
            }
        })
        .await
    }
}

/// Multi-row upserts on some connections at once, each with its share of the rows. As ours, they
/// replace a state only if it has the revision that is expected, and notice if one has not.
pub(crate) struct Upserts {
    connections: Vec<Rows>,
}

impl Upserts {
    pub(crate) async fn start(rows: usize, connections: usize) -> Result<Self> {
        let url = database().await?;
        start_system(&url).await?.shutdown().await?;
        let mut started = Vec::new();
        for connection in 0..connections {
            let client = connect(&url).await?;
            let upsert = client
                .prepare(
                    "INSERT INTO durable_state (slice, entity_type, persistence_id, revision,
                        db_timestamp, state_ser_id, state_ser_manifest, state_payload)
                     SELECT slice, entity_type, persistence_id, revision, transaction_timestamp(),
                        ser_id, manifest, payload
                     FROM unnest($1::int[], $2::text[], $3::text[], $4::bigint[], $5::int[],
                        $6::text[], $7::bytea[])
                        AS new (slice, entity_type, persistence_id, revision, ser_id, manifest,
                            payload)
                     ON CONFLICT (persistence_id) DO UPDATE SET revision = excluded.revision,
                        db_timestamp = excluded.db_timestamp,
                        state_ser_id = excluded.state_ser_id,
                        state_ser_manifest = excluded.state_ser_manifest,
                        state_payload = excluded.state_payload
                     WHERE durable_state.revision = excluded.revision - 1",
                )
                .await?;
            let ids = ids_of("Tally", rows, connection, connections);
            started.push(Rows {
                client,
                upsert,
                slices: ids.iter().map(|id| Slice::of(id).into()).collect(),
                ids,
                revision: 0,
            });
        }
        Ok(Self {
            connections: started,
        })
    }
}

impl Side for Upserts {
    async fn run(&mut self, time: Duration) -> Result<f64> {
        at_once(&mut self.connections, |rows| rows.run(time)).await
    }
}

/// One connection and the rows that it writes again and again.
struct Rows {
    client: Client,
    upsert: Statement,
    ids: Vec<String>,
    slices: Vec<i32>,
    revision: i64,
}

impl Rows {
    async fn run(mut self, time: Duration) -> Result<(Self, f64)> {
        let payload = rmp_serde::to_vec_named(&Tally::of(1))?;
        let count = self.ids.len();
        let start = Instant::now();
        let mut rows = 0_u32;
        while start.elapsed() < time {
            // What a batch has to be put together from, every time anew.
            self.revision += 1;
            let ids: Vec<&str> = self.ids.iter().map(String::as_str).collect();
            let stored = self
                .client
                .execute(
                    &self.upsert,
                    &[
                        &self.slices,
                        &vec!["Tally"; count],
                        &ids,
                        &vec![self.revision; count],
                        &vec![MESSAGE_PACK_ID; count],
                        &vec![MANIFEST; count],
                        &vec![payload.as_slice(); count],
                    ],
                )
                .await?;
            if usize::try_from(stored)? != count {
                return Err(format!("{stored} of {count} states had the expected revision").into());
            }
            rows += u32::try_from(count)?;
        }
        let rate = f64::from(rows) / start.elapsed().as_secs_f64();
        Ok((self, rate))
    }
}
