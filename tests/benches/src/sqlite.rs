//! Events into an SQLite file, beside bare rusqlite.

use std::path::Path;
use std::time::{Duration, Instant};

use perennial::ConfigSource;
use perennial::persistence::{MESSAGE_PACK_ID, Slice};
use perennial::prelude::*;
use rusqlite::{Connection, TransactionBehavior, params};

use crate::counter::{Add, Added, Counter, MANIFEST};
use crate::{Result, Side, repeat};

/// Entities that each have one command waiting.
pub(crate) struct Entities {
    system: ActorSystem,
    count: usize,
}

impl Entities {
    pub(crate) async fn start(count: usize, dir: &Path) -> Result<Self> {
        let path = dir.join("ours.sqlite").display().to_string();
        let source = ConfigSource::empty()
            .set("persistence.sqlite.path", path)?
            .set("system.workers", 1)?;
        let system = ActorSystem::from_source(source)
            .entity(Entity::<Counter>::new(()))
            .start()
            .await?;
        Ok(Self { system, count })
    }
}

impl Side for Entities {
    async fn run(&mut self, time: Duration) -> Result<f64> {
        repeat(self.count, time, |caller| {
            let entity = self.system.entity::<Counter>(format!("{caller}"));
            move || {
                let ask = entity.ask(Add(1)).timeout(Duration::from_secs(60));
                async move {
                    ask.await?;
                    Ok(())
                }
            }
        })
        .await
    }
}

/// The same rows in transactions of `count` rows.
pub(crate) struct Bare {
    connection: Connection,
    count: usize,
    seq_nr: i64,
}

impl Bare {
    pub(crate) fn start(count: usize, dir: &Path) -> Result<Self> {
        let connection = Connection::open(dir.join("floor.sqlite"))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute_batch(
            "CREATE TABLE event_journal (
                slice INTEGER NOT NULL, entity_type TEXT NOT NULL, persistence_id TEXT NOT NULL,
                seq_nr INTEGER NOT NULL, db_timestamp INTEGER NOT NULL,
                event_ser_id INTEGER NOT NULL, event_ser_manifest TEXT NOT NULL,
                event_payload BLOB NOT NULL, deleted INTEGER NOT NULL DEFAULT 0,
                writer TEXT NOT NULL, adapter_manifest TEXT, tags TEXT, meta_ser_id INTEGER,
                meta_ser_manifest TEXT, meta_payload BLOB,
                PRIMARY KEY (persistence_id, seq_nr));
             CREATE INDEX event_journal_slice_idx
                ON event_journal (slice, entity_type, db_timestamp, seq_nr);",
        )?;
        Ok(Self {
            connection,
            count,
            seq_nr: 0,
        })
    }
}

impl Side for Bare {
    async fn run(&mut self, time: Duration) -> Result<f64> {
        let payload = Added::encoded();
        let ids: Vec<(String, i32)> = (0..self.count)
            .map(|number| {
                let id = format!("Counter|{number}");
                let slice = Slice::of(&id).into();
                (id, slice)
            })
            .collect();
        let writer = uuid::Uuid::from_u128(7).to_string();
        tokio::task::block_in_place(|| {
            let start = Instant::now();
            let mut rows = 0_u32;
            while start.elapsed() < time {
                self.seq_nr += 1;
                let transaction = self
                    .connection
                    .transaction_with_behavior(TransactionBehavior::Immediate)?;
                {
                    let mut insert = transaction.prepare_cached(
                        "INSERT INTO event_journal (slice, entity_type, persistence_id, seq_nr,
                            db_timestamp, event_ser_id, event_ser_manifest, event_payload, writer,
                            adapter_manifest)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, '')",
                    )?;
                    for (id, slice) in &ids {
                        insert.execute(params![
                            slice,
                            "Counter",
                            id,
                            self.seq_nr,
                            self.seq_nr,
                            MESSAGE_PACK_ID,
                            MANIFEST,
                            payload,
                            writer
                        ])?;
                        rows += 1;
                    }
                }
                transaction.commit()?;
            }
            Ok(f64::from(rows) / start.elapsed().as_secs_f64())
        })
    }
}
