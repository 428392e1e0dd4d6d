//! The durable state store on the table `durable_state`.

use std::ops::ControlFlow;
use std::sync::Arc;

use perennial_persistence::{
    BoxFuture, DurableStateDelete, DurableStateStore, Error, FoldedWrite, NO_PAYLOAD_ID,
    PersistenceId, SequenceNr, SerializedPayload, StateWrite, StoredState, Timestamp, Written,
};
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;
use tracing::Instrument;

use crate::batch::{self, StatementBounds};
use crate::error::Failure;
use crate::executor::{Executor, Sql, sql};
use crate::row::{Micros, PayloadBytes, corrupt};
use crate::state_batch::StateBatch;

const LOAD: Sql = sql!("durable_state_store/load.sql");
const INSERT: Sql = sql!("durable_state_store/insert.sql");
const UPDATE: Sql = sql!("durable_state_store/update.sql");
const DELETE: Sql = sql!("durable_state_store/delete.sql");
const REMOVE: Sql = sql!("durable_state_store/remove.sql");

#[derive(Debug)]
pub(crate) struct PostgresDurableStateStore {
    executor: Arc<Executor>,
    bounds: StatementBounds,
    delete: DurableStateDelete,
}

impl PostgresDurableStateStore {
    pub(crate) fn new(
        executor: Arc<Executor>,
        bounds: StatementBounds,
        delete: DurableStateDelete,
    ) -> Self {
        Self {
            executor,
            bounds,
            delete,
        }
    }

    async fn load(&self, persistence_id: &PersistenceId) -> Result<Option<StoredState>, Error> {
        let mut rows = Vec::new();
        self.executor
            .read(&LOAD, &[&persistence_id.as_str()], |row| {
                rows.push(row);
                ControlFlow::Continue(())
            })
            .await
            .map_err(|failure| failure.into_error(persistence_id))?;
        the_only_state(persistence_id, rows.iter())
    }

    async fn write(&self, batch: &[StateWrite]) -> Vec<Result<Written, Error>> {
        let mut states = StateBatch::new(&self.executor, batch, self.delete);
        let mut failure = None;
        if let Some(write) = states.lone() {
            match self.write_one(write).await {
                Ok(Some(timestamp)) => return vec![Ok(Written { timestamp })],
                // Not the row that is expected.
                Ok(None) => {}
                Err(Failure::Duplicate(refusal)) => failure = Some(Failure::Duplicate(refusal)),
                Err(failure) => return vec![Err(failure.into_error(write.persistence_id()))],
            }
        }
        batch::write(&mut states, self.bounds, failure).await;
        states.answers()
    }

    /// A lone state costs one round trip and a one-row statement, and nothing else. `None` if the
    /// row is not the one that is expected.
    async fn write_one(&self, write: FoldedWrite<'_, '_>) -> Result<Option<Timestamp>, Failure> {
        let id = write.persistence_id();
        let revision = write.revision().to_i64();
        let expected = write.expected().to_i64();
        let (serializer_id, manifest, bytes) = payload_columns(write.payload());
        let bytes = PayloadBytes(bytes);
        let tags = write.tags().filter(|tags| !tags.is_empty());
        let rows = if write.payload().is_none() && self.delete == DurableStateDelete::Row {
            self.executor
                .call(&DELETE, &[&id.as_str(), &expected])
                .await?
        } else if write.expected() == SequenceNr::ZERO {
            self.executor
                .call(
                    &INSERT,
                    &[
                        &i32::from(id.slice()),
                        &id.entity_type(),
                        &id.as_str(),
                        &revision,
                        &serializer_id,
                        &manifest,
                        &bytes,
                        &tags,
                    ],
                )
                .await?
        } else {
            self.executor
                .call(
                    &UPDATE,
                    &[
                        &id.as_str(),
                        &expected,
                        &revision,
                        &serializer_id,
                        &manifest,
                        &bytes,
                        &write.tags().is_none(),
                        &tags,
                    ],
                )
                .await?
        };
        rows.first().map(|row| timestamp(row.get(0))).transpose()
    }

    async fn remove(&self, persistence_id: &PersistenceId) -> Result<(), Error> {
        self.executor
            .call(&REMOVE, &[&persistence_id.as_str()])
            .await
            .map(drop)
            .map_err(|failure| failure.into_error(persistence_id))
    }
}

impl DurableStateStore for PostgresDurableStateStore {
    fn deletion_leaves(&self) -> DurableStateDelete {
        self.delete
    }

    fn load<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
    ) -> BoxFuture<'a, Result<Option<StoredState>, Error>> {
        Box::pin(self.load(persistence_id))
    }

    fn write_states<'a>(
        &'a self,
        batch: &'a [StateWrite],
    ) -> BoxFuture<'a, Vec<Result<Written, Error>>> {
        let span =
            tracing::debug_span!("durable_state.postgres.write_states", writes = batch.len());
        Box::pin(self.write(batch).instrument(span))
    }

    fn remove<'a>(&'a self, persistence_id: &'a PersistenceId) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.remove(persistence_id))
    }
}

/// Serializer id, manifest and bytes of a row; those of a marker without a payload.
pub(crate) fn payload_columns(payload: Option<&SerializedPayload>) -> (i32, &str, &[u8]) {
    payload.map_or((NO_PAYLOAD_ID, "", &[]), |payload| {
        (payload.serializer_id, &payload.manifest, &payload.bytes)
    })
}

/// The time of a state that was just stored.
pub(crate) fn timestamp(stored: Micros) -> Result<Timestamp, Failure> {
    stored.timestamp().ok_or_else(|| {
        Failure::unknown(
            "the server answered with a time that is none, after storing the state",
            None,
        )
    })
}

/// The state in the rows of an id, of which there may be one.
pub(crate) fn the_only_state<'r>(
    id: &PersistenceId,
    rows: impl IntoIterator<Item = &'r Row>,
) -> Result<Option<StoredState>, Error> {
    let mut rows = rows.into_iter();
    let Some(row) = rows.next() else {
        return Ok(None);
    };
    let state = state(id, row)?;
    if rows.next().is_some() {
        return Err(corrupt(
            id,
            state.revision,
            "it is not the only row of this id; delete the stale ones",
        ));
    }
    Ok(Some(state))
}

fn state(id: &PersistenceId, row: &Row) -> Result<StoredState, Error> {
    let number: i64 = column(id, row, 0, SequenceNr::ZERO)?;
    let revision = SequenceNr::try_from(number)
        .map_err(|negative| corrupt(id, SequenceNr::ZERO, negative.to_string()))?;
    let timestamp = column::<Micros>(id, row, 1, revision)?
        .timestamp()
        .ok_or_else(|| {
            corrupt(
                id,
                revision,
                "its db_timestamp is infinite or above the year 9999",
            )
        })?;
    let serializer_id: i32 = column(id, row, 2, revision)?;
    let manifest: Option<&str> = column(id, row, 3, revision)?;
    let bytes: Option<&[u8]> = column(id, row, 4, revision)?;
    let bytes = bytes.unwrap_or_default();
    let tags: Option<Vec<String>> = column(id, row, 5, revision)?;
    let is_marker = serializer_id == NO_PAYLOAD_ID;
    if is_marker && !bytes.is_empty() {
        return Err(corrupt(
            id,
            revision,
            "it has serializer id 0, which means no payload, and bytes",
        ));
    }
    let payload =
        || SerializedPayload::new(serializer_id, manifest.unwrap_or_default(), bytes.to_vec());
    Ok(StoredState {
        revision,
        timestamp,
        payload: (!is_marker).then(payload),
        tags: tags.unwrap_or_default(),
    })
}

fn column<'r, T: FromSql<'r>>(
    id: &PersistenceId,
    row: &'r Row,
    index: usize,
    revision: SequenceNr,
) -> Result<T, Error> {
    crate::row::column(row, index, id, revision)
}
