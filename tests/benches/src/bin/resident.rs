//! What an idle entity costs in memory: brings many entities back from an SQLite file and looks at
//! the process's resident memory on the way.
//!
//! ```text
//! cargo run --release -p perennial-bench --bin resident [ENTITIES]
//! ```
//!
//! The figure is the growth between half and all of them, so that caches and threads, which are
//! there from the beginning, do not count.

use std::error::Error;
use std::path::Path;

use perennial::ConfigSource;
use perennial::persistence::{MESSAGE_PACK_ID, Slice};
use perennial::prelude::*;
use perennial_bench::resident_bytes;
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// A state of eight bytes, so that what is measured is the rest.
#[derive(Debug, Default)]
struct Counter {
    sum: i64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Added(i64);

impl EventSourced for Counter {
    const TYPE: &'static str = "Counter";
    type Event = Added;
    type Services = ();

    fn apply(&mut self, event: &Added) {
        self.sum += event.0;
    }
}

struct Sum;

impl Handle<Sum> for Counter {
    type Reply = i64;

    fn handle(&self, _: Sum, cx: &Cx<'_, Self>) -> Effect<Self, i64> {
        cx.reply(self.sum)
    }
}

fn main() -> Result<()> {
    let entities: u32 = match std::env::args().nth(1) {
        Some(text) => text.parse()?,
        None => 100_000,
    };
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("resident.sqlite");
    perennial::block_on(async {
        start(&path).await?.shutdown().await?;
        write_events(&path, entities)?;
        let system = start(&path).await?;
        recover(&system, 0, entities / 2).await?;
        let half = resident_bytes()?;
        recover(&system, entities / 2, entities).await?;
        let all = resident_bytes()?;
        let stats = system.stats();
        let grown = all.saturating_sub(half);
        let each = grown / u64::from(entities - entities / 2).max(1);
        println!(
            "{} entities resident, {} recovered; the process has {} MiB; {each} bytes per entity",
            stats.resident,
            stats.recovered,
            all >> 20,
        );
        system.shutdown().await?;
        Ok(())
    })
}

async fn start(path: &Path) -> Result<ActorSystem> {
    let source =
        ConfigSource::empty().set("persistence.sqlite.path", path.display().to_string())?;
    Ok(ActorSystem::from_source(source)
        .entity(Entity::<Counter>::new(()).passivate_after(None))
        .start()
        .await?)
}

/// One event for each entity, written by hand: this is not about writing.
fn write_events(path: &Path, entities: u32) -> Result<()> {
    let payload = perennial::persistence::Codec::encode(
        &perennial::persistence::MessagePack::<Added>::new("Counter.Event"),
        &Added(1),
    )?;
    let mut connection = Connection::open(path)?;
    let transaction = connection.transaction()?;
    {
        let mut insert = transaction.prepare(
            "INSERT INTO event_journal (slice, entity_type, persistence_id, seq_nr, db_timestamp,
                event_ser_id, event_ser_manifest, event_payload, writer, adapter_manifest)
             VALUES (?1, 'Counter', ?2, 1, 1, ?3, ?4, ?5, 'resident', '')",
        )?;
        for number in 0..entities {
            let id = format!("Counter|entity-{number}");
            insert.execute(params![
                i32::from(Slice::of(&id)),
                id,
                MESSAGE_PACK_ID,
                &*payload.manifest,
                &*payload.bytes
            ])?;
        }
    }
    transaction.commit()?;
    Ok(())
}

async fn recover(system: &ActorSystem, from: u32, to: u32) -> Result<()> {
    /// Fewer at once than an inbox takes.
    const AT_ONCE: usize = 1000;
    let numbers: Vec<u32> = (from..to).collect();
    for some in numbers.chunks(AT_ONCE) {
        let asks: Vec<_> = some
            .iter()
            .map(|number| {
                let entity = system.entity::<Counter>(format!("entity-{number}"));
                entity.ask(Sum).into_future()
            })
            .collect();
        for ask in asks {
            let sum = ask.await?;
            if sum != 1 {
                return Err(format!("an entity came back with {sum}").into());
            }
        }
    }
    Ok(())
}
