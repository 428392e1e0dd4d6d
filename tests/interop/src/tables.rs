//! What the tables hold of an entity, decoded by perennial's codecs.

use perennial_persistence::{NO_PAYLOAD_ID, PersistenceId, SerializedPayload};
use serde::Serialize;
use tokio_postgres::{Client, Row};

use crate::java::Text;
use crate::json::Json;
use crate::kind::{AnyKind, describe};

/// The tables, past the store.
pub(crate) struct Tables {
    client: Client,
}

/// A row of `event_journal`.
#[derive(Serialize)]
pub(crate) struct EventRow {
    seq_nr: i64,
    ser_id: i32,
    manifest: String,
    tags: Option<Vec<Text>>,
    #[serde(flatten)]
    metadata: Option<Metadata>,
    event: Json,
}

/// The row of `snapshot`.
#[derive(Serialize)]
pub(crate) struct SnapshotRow {
    seq_nr: i64,
    ser_id: i32,
    manifest: String,
    #[serde(flatten)]
    metadata: Option<Metadata>,
    state: Json,
}

/// The row of `durable_state`; the state of a delete marker is null.
#[derive(Serialize)]
pub(crate) struct StateRow {
    revision: i64,
    ser_id: i32,
    manifest: String,
    tags: Option<Vec<Text>>,
    state: Option<Json>,
}

/// What stands beside an event or snapshot of a replicated entity.
#[derive(Serialize)]
struct Metadata {
    meta_ser_id: i32,
    meta_manifest: String,
}

impl Tables {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// The number of the delete marker, if there is one.
    pub(crate) async fn deleted_to(&self, id: &PersistenceId) -> Result<Option<i64>, String> {
        let sql = "SELECT max(seq_nr) FROM event_journal WHERE persistence_id = $1 AND deleted";
        let rows = self.query(sql, id).await?;
        get(&rows[0], 0)
    }

    pub(crate) async fn events(
        &self,
        kind: &dyn AnyKind,
        id: &PersistenceId,
    ) -> Result<Vec<EventRow>, String> {
        let sql = "SELECT seq_nr, event_ser_id, event_ser_manifest, event_payload, tags, \
                   meta_ser_id, meta_ser_manifest FROM event_journal \
                   WHERE persistence_id = $1 AND NOT deleted ORDER BY seq_nr";
        let rows = self.query(sql, id).await?;
        let rows = rows.iter().map(|row| {
            let payload = payload(row, 1)?;
            let event = kind.event(&payload).map_err(|error| describe(&error))?;
            Ok(EventRow {
                seq_nr: get(row, 0)?,
                ser_id: payload.serializer_id,
                manifest: payload.manifest.to_string(),
                tags: tags(row, 4)?,
                metadata: metadata(row, 5)?,
                event,
            })
        });
        rows.collect()
    }

    pub(crate) async fn snapshot(
        &self,
        kind: &dyn AnyKind,
        id: &PersistenceId,
    ) -> Result<Option<SnapshotRow>, String> {
        let sql = "SELECT seq_nr, ser_id, ser_manifest, snapshot, meta_ser_id, meta_ser_manifest \
                   FROM snapshot WHERE persistence_id = $1";
        let rows = self.query(sql, id).await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let payload = payload(row, 1)?;
        let state = kind.state(&payload).map_err(|error| describe(&error))?;
        Ok(Some(SnapshotRow {
            seq_nr: get(row, 0)?,
            ser_id: payload.serializer_id,
            manifest: payload.manifest.to_string(),
            metadata: metadata(row, 4)?,
            state,
        }))
    }

    pub(crate) async fn state(
        &self,
        kind: &dyn AnyKind,
        id: &PersistenceId,
    ) -> Result<Option<StateRow>, String> {
        let sql = "SELECT revision, state_ser_id, state_ser_manifest, state_payload, tags \
                   FROM durable_state WHERE persistence_id = $1";
        let rows = self.query(sql, id).await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let payload = payload(row, 1)?;
        let state = if payload.serializer_id == NO_PAYLOAD_ID {
            None
        } else {
            Some(kind.state(&payload).map_err(|error| describe(&error))?)
        };
        Ok(Some(StateRow {
            revision: get(row, 0)?,
            ser_id: payload.serializer_id,
            manifest: payload.manifest.to_string(),
            tags: tags(row, 4)?,
            state,
        }))
    }

    async fn query(&self, sql: &str, id: &PersistenceId) -> Result<Vec<Row>, String> {
        let rows = self.client.query(sql, &[&id.as_str()]).await;
        rows.map_err(|error| describe(&error))
    }
}

fn get<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a Row,
    column: usize,
) -> Result<T, String> {
    row.try_get(column).map_err(|error| describe(&error))
}

/// The payload whose serializer id, manifest and bytes begin at a column.
fn payload(row: &Row, column: usize) -> Result<SerializedPayload, String> {
    let bytes: &[u8] = get(row, column + 2)?;
    let manifest: &str = get(row, column + 1)?;
    Ok(SerializedPayload::new(
        get(row, column)?,
        manifest,
        bytes.to_vec(),
    ))
}

fn tags(row: &Row, column: usize) -> Result<Option<Vec<Text>>, String> {
    let tags: Option<Vec<String>> = get(row, column)?;
    Ok(tags.map(|tags| {
        let mut tags: Vec<Text> = tags.into_iter().map(Text).collect();
        tags.sort();
        tags
    }))
}

fn metadata(row: &Row, column: usize) -> Result<Option<Metadata>, String> {
    let id: Option<i32> = get(row, column)?;
    let Some(meta_ser_id) = id else {
        return Ok(None);
    };
    let manifest: Option<String> = get(row, column + 1)?;
    Ok(Some(Metadata {
        meta_ser_id,
        meta_manifest: manifest.unwrap_or_default(),
    }))
}
