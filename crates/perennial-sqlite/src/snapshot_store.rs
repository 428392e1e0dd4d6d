//! The snapshot store on SQLite.

use std::sync::Arc;

use perennial_persistence::{
    BoxFuture, Error, MAX_MANIFEST_CHARS, NO_PAYLOAD_ID, PersistenceId, SequenceNr,
    SerializedPayload, Snapshot, SnapshotCriteria, SnapshotStore,
};
use rusqlite::{Connection, Row, params};

use crate::error::{classify, rejected, unavailable};
use crate::executor::{Executor, WriteTransaction};
use crate::row::{Column, PayloadColumns, PayloadReader, corrupt};

const LOAD: &str = include_str!("sql/snapshot/load.sql");
const SAVE: &str = include_str!("sql/snapshot/save.sql");
const DELETE: &str = include_str!("sql/snapshot/delete.sql");

#[derive(Debug)]
pub(crate) struct SqliteSnapshotStore {
    executor: Arc<Executor>,
}

impl SqliteSnapshotStore {
    pub(crate) fn new(executor: Arc<Executor>) -> Self {
        Self { executor }
    }
}

impl SnapshotStore for SqliteSnapshotStore {
    fn load<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        criteria: SnapshotCriteria,
    ) -> BoxFuture<'a, Result<Option<Snapshot>, Error>> {
        let id = persistence_id.clone();
        Box::pin(self.executor.read("snapshot/load", move |connection| {
            let found = load(connection, &id)?;
            Ok(found.filter(|found| criteria.matches(found.seq_nr, found.write_timestamp)))
        }))
    }

    fn save<'a>(&'a self, snapshot: &'a Snapshot) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            check(snapshot)?;
            let snapshot = snapshot.clone();
            self.executor
                .write("snapshot/save", 1, move |transaction| {
                    save(transaction, &snapshot)
                })
                .await?
        })
    }

    fn delete<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        criteria: SnapshotCriteria,
    ) -> BoxFuture<'a, Result<(), Error>> {
        let id = persistence_id.clone();
        Box::pin(async move {
            self.executor
                .write("snapshot/delete", 1, move |transaction| {
                    delete(transaction, &id, criteria)
                })
                .await?
        })
    }
}

/// Refuses what PostgreSQL's columns would refuse, so that both databases hold the same.
fn check(snapshot: &Snapshot) -> Result<(), Error> {
    let payloads = [Some(&snapshot.payload), snapshot.metadata.as_ref()];
    for payload in payloads.into_iter().flatten() {
        if let Some(reason) = objection(payload) {
            return Err(rejected(&snapshot.persistence_id, reason, None));
        }
    }
    Ok(())
}

fn objection(payload: &SerializedPayload) -> Option<&'static str> {
    if payload.serializer_id == NO_PAYLOAD_ID {
        return Some("serializer id 0 is reserved for \"no payload\"");
    }
    if payload.manifest.contains('\0') {
        return Some("a manifest contains U+0000");
    }
    if payload.manifest.chars().count() > MAX_MANIFEST_CHARS {
        return Some("a manifest has more than 255 characters");
    }
    None
}

fn save(
    transaction: &WriteTransaction<'_>,
    snapshot: &Snapshot,
) -> rusqlite::Result<Result<(), Error>> {
    let id = &snapshot.persistence_id;
    let (payload, metadata) = (&snapshot.payload, snapshot.metadata.as_ref());
    let saved = transaction.prepare(SAVE)?.execute(params![
        id.slice().value(),
        id.entity_type(),
        id.as_str(),
        snapshot.seq_nr.to_i64(),
        snapshot.write_timestamp.as_millisecond(),
        payload.serializer_id,
        &*payload.manifest,
        &*payload.bytes,
        metadata.map(|metadata| metadata.serializer_id),
        metadata.map(|metadata| &*metadata.manifest),
        metadata.map(|metadata| &*metadata.bytes),
    ]);
    Ok(own_result(transaction.triage(saved)?, id))
}

fn delete(
    transaction: &WriteTransaction<'_>,
    id: &PersistenceId,
    criteria: SnapshotCriteria,
) -> rusqlite::Result<Result<(), Error>> {
    let (min, max) = (criteria.min_timestamp, criteria.max_timestamp);
    let deleted = transaction.prepare(DELETE)?.execute(params![
        id.as_str(),
        criteria.min_seq_nr.to_i64(),
        criteria.max_seq_nr.to_i64(),
        min.map_or(i64::MIN, |min| min.as_millisecond()),
        max.map_or(i64::MAX, |max| max.as_millisecond()),
    ]);
    Ok(own_result(transaction.triage(deleted)?, id))
}

fn own_result(result: Result<usize, rusqlite::Error>, id: &PersistenceId) -> Result<(), Error> {
    result
        .map(drop)
        .map_err(|error| rejected(id, classify(&error).1, Some(error)))
}

fn load(connection: &Connection, id: &PersistenceId) -> Result<Option<Snapshot>, Error> {
    let mut statement = connection.prepare_cached(LOAD).map_err(unavailable)?;
    let mut rows = statement.query([id.as_str()]).map_err(unavailable)?;
    match rows.next().map_err(unavailable)? {
        Some(row) => snapshot(row, id).map(Some),
        None => Ok(None),
    }
}

fn snapshot(row: &Row<'_>, id: &PersistenceId) -> Result<Snapshot, Error> {
    const SEQ_NR: Column = Column(0, "seq_nr");
    const WRITE_TIMESTAMP: Column = Column(1, "write_timestamp");
    const SNAPSHOT: PayloadColumns = PayloadColumns {
        serializer_id: Column(2, "ser_id"),
        manifest: Column(3, "ser_manifest"),
        bytes: Column(4, "snapshot"),
    };
    const METADATA: PayloadColumns = PayloadColumns {
        serializer_id: Column(5, "meta_ser_id"),
        manifest: Column(6, "meta_ser_manifest"),
        bytes: Column(7, "meta_payload"),
    };

    let seq_nr = SEQ_NR
        .seq_nr(row)
        .map_err(|damage| corrupt(id, SequenceNr::ZERO, damage))?;
    let damaged = |damage| corrupt(id, seq_nr, damage);
    // Unlike in the journal, it is the serializer id that tells whether there is metadata.
    let metadata = if METADATA.serializer_id.is_null(row) {
        None
    } else {
        let metadata = PayloadReader::default().read(row, METADATA);
        Some(metadata.map_err(damaged)?)
    };
    Ok(Snapshot {
        persistence_id: id.clone(),
        seq_nr,
        write_timestamp: WRITE_TIMESTAMP.millis(row).map_err(damaged)?,
        payload: PayloadReader::default()
            .read(row, SNAPSHOT)
            .map_err(damaged)?,
        metadata,
    })
}
