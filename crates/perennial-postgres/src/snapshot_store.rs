//! The snapshot store on the table `snapshot`.

use std::ops::ControlFlow;
use std::sync::Arc;

use perennial_persistence::{
    BoxFuture, Error, PersistenceId, SequenceNr, SerializedPayload, Snapshot, SnapshotCriteria,
    SnapshotStore, Timestamp,
};
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use crate::batch::LARGEST_WRITE;
use crate::executor::{Executor, Sql, sql};
use crate::row::{PayloadBytes, corrupt};

const LOAD: Sql = sql!("snapshot_store/load.sql");
const SAVE: Sql = sql!("snapshot_store/save.sql");
const DELETE: Sql = sql!("snapshot_store/delete.sql");

#[derive(Debug)]
pub(crate) struct PostgresSnapshotStore {
    executor: Arc<Executor>,
}

impl PostgresSnapshotStore {
    pub(crate) fn new(executor: Arc<Executor>) -> Self {
        Self { executor }
    }

    async fn load(
        &self,
        persistence_id: &PersistenceId,
        criteria: SnapshotCriteria,
    ) -> Result<Option<Snapshot>, Error> {
        let (min_time, max_time) = bounds_in_milliseconds(criteria);
        let mut found = None;
        self.executor
            .read(
                &LOAD,
                &[
                    &persistence_id.as_str(),
                    &criteria.min_seq_nr.to_i64(),
                    &criteria.max_seq_nr.to_i64(),
                    &min_time,
                    &max_time,
                ],
                |row| {
                    found = Some(row);
                    ControlFlow::Continue(())
                },
            )
            .await
            .map_err(|failure| failure.into_error(persistence_id))?;
        found.map(|row| snapshot(persistence_id, &row)).transpose()
    }

    async fn save(&self, snapshot: &Snapshot) -> Result<(), Error> {
        let id = &snapshot.persistence_id;
        let payload = &snapshot.payload;
        let metadata = snapshot.metadata.as_ref();
        let size = payload.bytes.len() + metadata.map_or(0, |metadata| metadata.bytes.len());
        if size > LARGEST_WRITE {
            return Err(Error::Rejected {
                persistence_id: id.clone(),
                reason: format!(
                    "a snapshot of {size} bytes is too large; at most {LARGEST_WRITE} fit a \
                     statement"
                ),
                source: None,
            });
        }
        self.executor
            .call(
                &SAVE,
                &[
                    &i32::from(id.slice()),
                    &id.entity_type(),
                    &id.as_str(),
                    &snapshot.seq_nr.to_i64(),
                    &snapshot.write_timestamp.as_millisecond(),
                    &payload.serializer_id,
                    &&*payload.manifest,
                    &PayloadBytes(&payload.bytes),
                    &metadata.map(|metadata| metadata.serializer_id),
                    &metadata.map(|metadata| &*metadata.manifest),
                    &metadata.map(|metadata| PayloadBytes(&metadata.bytes)),
                ],
            )
            .await
            .map(drop)
            .map_err(|failure| failure.into_error(id))
    }

    async fn delete(
        &self,
        persistence_id: &PersistenceId,
        criteria: SnapshotCriteria,
    ) -> Result<(), Error> {
        let (min_time, max_time) = bounds_in_milliseconds(criteria);
        self.executor
            .call(
                &DELETE,
                &[
                    &persistence_id.as_str(),
                    &criteria.min_seq_nr.to_i64(),
                    &criteria.max_seq_nr.to_i64(),
                    &min_time,
                    &max_time,
                ],
            )
            .await
            .map(drop)
            .map_err(|failure| failure.into_error(persistence_id))
    }
}

impl SnapshotStore for PostgresSnapshotStore {
    fn load<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        criteria: SnapshotCriteria,
    ) -> BoxFuture<'a, Result<Option<Snapshot>, Error>> {
        Box::pin(self.load(persistence_id, criteria))
    }

    fn save<'a>(&'a self, snapshot: &'a Snapshot) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.save(snapshot))
    }

    fn delete<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        criteria: SnapshotCriteria,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.delete(persistence_id, criteria))
    }
}

fn bounds_in_milliseconds(criteria: SnapshotCriteria) -> (i64, i64) {
    let min = criteria.min_timestamp;
    let max = criteria.max_timestamp;
    (
        min.map_or(i64::MIN, Timestamp::as_millisecond),
        max.map_or(i64::MAX, Timestamp::as_millisecond),
    )
}

fn snapshot(persistence_id: &PersistenceId, row: &Row) -> Result<Snapshot, Error> {
    let number: i64 = column(persistence_id, row, 0, SequenceNr::ZERO)?;
    let seq_nr = SequenceNr::try_from(number)
        .map_err(|negative| corrupt(persistence_id, SequenceNr::ZERO, negative.to_string()))?;
    let write_timestamp = Timestamp::from_millisecond(column(persistence_id, row, 1, seq_nr)?)
        .map_err(|_| {
            corrupt(
                persistence_id,
                seq_nr,
                "its write_timestamp lies outside of the years -9999 to 9999",
            )
        })?;
    let manifest: &str = column(persistence_id, row, 3, seq_nr)?;
    let bytes: &[u8] = column(persistence_id, row, 4, seq_nr)?;
    // As in Pekko, metadata is there if its serializer id is.
    let metadata = match column::<Option<i32>>(persistence_id, row, 5, seq_nr)? {
        Some(serializer_id) => {
            let manifest: Option<&str> = column(persistence_id, row, 6, seq_nr)?;
            let bytes: Option<&[u8]> = column(persistence_id, row, 7, seq_nr)?;
            Some(SerializedPayload::new(
                serializer_id,
                manifest.unwrap_or(""),
                bytes.unwrap_or_default().to_vec(),
            ))
        }
        None => None,
    };
    Ok(Snapshot {
        persistence_id: persistence_id.clone(),
        seq_nr,
        write_timestamp,
        payload: SerializedPayload::new(
            column(persistence_id, row, 2, seq_nr)?,
            manifest,
            bytes.to_vec(),
        ),
        metadata,
    })
}

fn column<'r, T: FromSql<'r>>(
    persistence_id: &PersistenceId,
    row: &'r Row,
    index: usize,
    seq_nr: SequenceNr,
) -> Result<T, Error> {
    crate::row::column(row, index, persistence_id, seq_nr)
}
