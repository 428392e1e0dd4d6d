//! Events into PostgreSQL, beside the bare driver.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use perennial::ConfigSource;
use perennial::persistence::{MESSAGE_PACK_ID, Slice};
use perennial::prelude::*;
use tokio_postgres::{Client, NoTls, Statement};

use crate::counter::{Add, Added, Counter, MANIFEST};
use crate::{Result, Side, repeat};

/// Makes an empty database on the server of `PERENNIAL_TEST_POSTGRES_URL` and gives its URL.
pub(crate) async fn database() -> Result<String> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let url = std::env::var("PERENNIAL_TEST_POSTGRES_URL").map_err(
        |_| "PERENNIAL_TEST_POSTGRES_URL is not set; `scripts/bench` starts a server and sets it",
    )?;
    let client = connect(&url).await?;
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("bench_{}_{count}", std::process::id());
    client
        .batch_execute(&format!("CREATE DATABASE {name}"))
        .await?;
    let (server, query) = match url.split_once('?') {
        Some((server, query)) => (server, format!("?{query}")),
        None => (url.as_str(), String::new()),
    };
    let authority = server.find("://").map_or(0, |at| at + 3);
    let server = server[authority..]
        .find('/')
        .map_or(server, |at| &server[..authority + at]);
    Ok(format!("{server}/{name}{query}"))
}

pub(crate) async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// A database with the same tables, made by perennial itself.
async fn database_with_tables() -> Result<String> {
    let url = database().await?;
    start_system(&url).await?.shutdown().await?;
    Ok(url)
}

pub(crate) async fn start_system(url: &str) -> Result<ActorSystem> {
    start_system_with(url, Entity::<Counter>::new(())).await
}

pub(crate) async fn start_system_with<E: EventSourced>(
    url: &str,
    entity: Entity<E>,
) -> Result<ActorSystem> {
    let source = ConfigSource::empty()
        .set("persistence.plugin", "postgres")?
        .set("persistence.postgres.url", url)?
        .set("system.workers", 1)?
        .set("system.ask-timeout", "60s")?
        // So that other settings can be timed: PERENNIAL__PERSISTENCE__WRITERS=2 scripts/bench …
        .with_environment(std::env::vars_os())?;
    Ok(ActorSystem::from_source(source)
        .entity(entity)
        .start()
        .await?)
}

/// Entities that each have some callers waiting.
pub(crate) struct Entities {
    system: ActorSystem,
    count: usize,
    callers_each: usize,
}

impl Entities {
    pub(crate) async fn start(count: usize, callers_each: usize) -> Result<Self> {
        let system = start_system(&database().await?).await?;
        Ok(Self {
            system,
            count,
            callers_each,
        })
    }
}

impl Side for Entities {
    async fn run(&mut self, time: Duration) -> Result<f64> {
        repeat(self.count * self.callers_each, time, |caller| {
            let number = caller % self.count;
            let entity = self.system.entity::<Counter>(format!("{number}"));
            move || {
                let ask = entity.ask(Add(1));
                async move {
                    ask.await?;
                    Ok(())
                }
            }
        })
        .await
    }
}

/// One prepared INSERT after the other.
pub(crate) struct OneByOne {
    client: Client,
    insert: Statement,
    seq_nr: i64,
}

impl OneByOne {
    pub(crate) async fn start() -> Result<Self> {
        let client = connect(&database_with_tables().await?).await?;
        let insert = client
            .prepare(
                "INSERT INTO event_journal (slice, entity_type, persistence_id, seq_nr,
                    db_timestamp, event_ser_id, event_ser_manifest, event_payload, writer,
                    adapter_manifest)
                 VALUES ($1, $2, $3, $4, transaction_timestamp(), $5, $6, $7, $8, '')",
            )
            .await?;
        Ok(Self {
            client,
            insert,
            seq_nr: 0,
        })
    }
}

impl Side for OneByOne {
    async fn run(&mut self, time: Duration) -> Result<f64> {
        let payload = Added::encoded();
        let writer = uuid::Uuid::from_u128(7).to_string();
        let id = "Counter|0";
        let slice = i32::from(Slice::of(id));
        let start = Instant::now();
        let mut rows = 0_u32;
        while start.elapsed() < time {
            self.seq_nr += 1;
            rows += 1;
            self.client
                .execute(
                    &self.insert,
                    &[
                        &slice,
                        &"Counter",
                        &id,
                        &self.seq_nr,
                        &MESSAGE_PACK_ID,
                        &MANIFEST,
                        &payload,
                        &writer,
                    ],
                )
                .await?;
        }
        Ok(f64::from(rows) / start.elapsed().as_secs_f64())
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Ids {
    One,
    Many,
}

/// The ids of one connection's share of `count` rows, sorted.
pub(crate) fn ids_of(
    entity_type: &str,
    count: usize,
    connection: usize,
    connections: usize,
) -> Vec<String> {
    let mut ids: Vec<String> = (connection..count)
        .step_by(connections)
        .map(|number| format!("{entity_type}|{number}"))
        .collect();
    ids.sort_unstable();
    ids
}

/// Lets every connection write its rows at the same time, and gives the sum of their rates.
pub(crate) async fn at_once<R, F>(connections: &mut Vec<R>, run: impl Fn(R) -> F) -> Result<f64>
where
    R: Send + 'static,
    F: Future<Output = Result<(R, f64)>> + Send + 'static,
{
    let tasks: Vec<_> = connections
        .drain(..)
        .map(|rows| tokio::spawn(run(rows)))
        .collect();
    let mut sum = 0.0;
    for task in tasks {
        let (rows, rate) = task.await??;
        connections.push(rows);
        sum += rate;
    }
    Ok(sum)
}

/// Multi-row INSERTs on some connections at once, each with its share of the waiting rows.
pub(crate) struct MultiRow {
    connections: Vec<Rows>,
}

impl MultiRow {
    pub(crate) async fn start(waiting: usize, connections: usize, ids: Ids) -> Result<Self> {
        let url = database_with_tables().await?;
        let mut started = Vec::new();
        for connection in 0..connections {
            let client = connect(&url).await?;
            let insert = client
                .prepare(
                    "INSERT INTO event_journal (slice, entity_type, persistence_id, seq_nr,
                        db_timestamp, event_ser_id, event_ser_manifest, event_payload, writer,
                        adapter_manifest)
                     SELECT slice, entity_type, persistence_id, seq_nr, transaction_timestamp(),
                        ser_id, manifest, payload, writer, ''
                     FROM unnest($1::int[], $2::text[], $3::text[], $4::bigint[], $5::int[],
                        $6::text[], $7::bytea[], $8::text[])
                        AS t (slice, entity_type, persistence_id, seq_nr, ser_id, manifest,
                            payload, writer)",
                )
                .await?;
            let ids = match ids {
                Ids::One => vec!["Counter|0".to_owned(); waiting],
                Ids::Many => ids_of("Counter", waiting, connection, connections),
            };
            started.push(Rows {
                client,
                insert,
                slices: ids.iter().map(|id| Slice::of(id).into()).collect(),
                ids,
                seq_nr: 0,
            });
        }
        Ok(Self {
            connections: started,
        })
    }
}

impl Side for MultiRow {
    async fn run(&mut self, time: Duration) -> Result<f64> {
        at_once(&mut self.connections, |rows| rows.run(time)).await
    }
}

/// One connection and the rows that it writes again and again, with other numbers.
struct Rows {
    client: Client,
    insert: Statement,
    ids: Vec<String>,
    slices: Vec<i32>,
    seq_nr: i64,
}

impl Rows {
    async fn run(mut self, time: Duration) -> Result<(Self, f64)> {
        let payload = Added::encoded();
        let writer = uuid::Uuid::from_u128(7).to_string();
        let count = self.ids.len();
        let one_id = self.ids.windows(2).all(|pair| pair[0] == pair[1]) && count > 1;
        let ids: Vec<&str> = self.ids.iter().map(String::as_str).collect();
        let start = Instant::now();
        let mut rows = 0_u32;
        while start.elapsed() < time {
            // What a batch has to be put together from, every time anew.
            let first = self.seq_nr + 1;
            let seq_nrs: Vec<i64> = if one_id {
                let count = i64::try_from(count)?;
                self.seq_nr += count;
                (first..first + count).collect()
            } else {
                self.seq_nr += 1;
                vec![first; count]
            };
            let types = vec!["Counter"; count];
            let ser_ids = vec![MESSAGE_PACK_ID; count];
            let manifests = vec![MANIFEST; count];
            let payloads = vec![payload.as_slice(); count];
            let writers = vec![writer.as_str(); count];
            self.client
                .execute(
                    &self.insert,
                    &[
                        &self.slices,
                        &types,
                        &ids,
                        &seq_nrs,
                        &ser_ids,
                        &manifests,
                        &payloads,
                        &writers,
                    ],
                )
                .await?;
            rows += u32::try_from(count)?;
        }
        let rate = f64::from(rows) / start.elapsed().as_secs_f64();
        Ok((self, rate))
    }
}
