//! The journal on the table `event_journal`.

use std::ops::ControlFlow;
use std::sync::Arc;

use perennial_persistence::{
    AtomicWrite, BoxFuture, Error, Journal, NO_PAYLOAD_ID, NewEvent, PageLimit, PersistenceId,
    Previous, ReplayPage, SequenceNr, SerializedPayload, StoredEvent, Timestamp, Written,
    telemetry,
};
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;
use tracing::Instrument;

use crate::batch::{self, LARGEST_WRITE, StatementBounds};
use crate::command_replies::size_of_reply;
use crate::error::{Failure, Refusal};
use crate::event_batch::{EventBatch, Fence};
use crate::executor::{Executor, Sql, sql};
use crate::reminders::size_of_reminders;
use crate::row::{Micros, PayloadBytes, Payloads, Pending, WriterText, column, corrupt};

const WRITE_ONE: Sql = sql!("journal/write_one.sql");
const WRITE_ONE_AFTER_UNKNOWN: Sql = sql!("journal/write_one_after_unknown.sql");
const REPLAY: Sql = sql!("journal/replay.sql");
const READ_HIGHEST: Sql = sql!("journal/read_highest.sql");
const REMOVE: Sql = sql!("journal/remove.sql");
const DELETE: Sql = sql!("journal/delete.sql");

/// How often a deletion is tried when another one of the same id runs at the same time.
const DELETE_ATTEMPTS: usize = 3;

#[derive(Debug)]
pub(crate) struct PostgresJournal {
    executor: Arc<Executor>,
    bounds: StatementBounds,
    fence: Fence,
}

impl PostgresJournal {
    pub(crate) fn new(executor: Arc<Executor>, bounds: StatementBounds, fence: Fence) -> Self {
        Self {
            executor,
            bounds,
            fence,
        }
    }

    async fn write(&self, batch: &[AtomicWrite]) -> Vec<Result<Written, Error>> {
        let mut failure = None;
        if let [write] = batch
            && let [event] = write.events()
            && write.reply().is_none()
            && write.reminders().is_empty()
            && size_of_write(write) <= LARGEST_WRITE
        {
            match self.write_one(write, event).await {
                Ok(timestamp) => return vec![Ok(Written { timestamp })],
                Err(Failure::Duplicate(refusal)) => failure = Some(Failure::Duplicate(refusal)),
                Err(failure) => return vec![Err(failure.into_error(write.persistence_id()))],
            }
        }
        let mut batch = EventBatch::new(&self.executor, self.fence, batch);
        batch::write(&mut batch, self.bounds, failure).await;
        batch.answers()
    }

    /// A lone event costs one round trip and a one-row statement, and nothing else.
    async fn write_one(&self, write: &AtomicWrite, event: &NewEvent) -> Result<Timestamp, Failure> {
        let id = write.persistence_id();
        let slice = i32::from(id.slice());
        let (entity_type, id) = (id.entity_type(), id.as_str());
        let seq_nr = write.first().to_i64();
        let payload = &event.payload;
        let manifest = &*payload.manifest;
        let bytes = PayloadBytes(&payload.bytes);
        let writer = WriterText::of(write);
        let writer = writer.as_str();
        let tags = (!event.tags.is_empty()).then_some(&event.tags);
        let metadata = event.metadata.as_ref();
        let meta_id = metadata.map(|metadata| metadata.serializer_id);
        let meta_manifest = metadata.map(|metadata| &*metadata.manifest);
        let meta_bytes = metadata.map(|metadata| PayloadBytes(&metadata.bytes));
        let not_before = match write.previous {
            Previous::Unknown => {
                let rows = self
                    .executor
                    .call(
                        &WRITE_ONE_AFTER_UNKNOWN,
                        &[
                            &slice,
                            &entity_type,
                            &id,
                            &seq_nr,
                            &payload.serializer_id,
                            &manifest,
                            &bytes,
                            &writer,
                            &tags,
                            &meta_id,
                            &meta_manifest,
                            &meta_bytes,
                        ],
                    )
                    .await?;
                return the_timestamp(&rows);
            }
            Previous::None => None,
            Previous::At(previous) => Some(Micros::of(previous).plus(1)),
        };
        let rows = self
            .executor
            .call(
                &WRITE_ONE,
                &[
                    &slice,
                    &entity_type,
                    &id,
                    &seq_nr,
                    &not_before,
                    &payload.serializer_id,
                    &manifest,
                    &bytes,
                    &writer,
                    &tags,
                    &meta_id,
                    &meta_manifest,
                    &meta_bytes,
                ],
            )
            .await?;
        the_timestamp(&rows)
    }

    async fn replay(
        &self,
        persistence_id: &PersistenceId,
        from: SequenceNr,
        to: SequenceNr,
        limit: PageLimit,
    ) -> Result<ReplayPage, Error> {
        let rows = limit.rows.max(1);
        let row_limit = i64::try_from(rows).unwrap_or(i64::MAX);
        let mut page = PageBuilder::new(persistence_id, rows, limit.bytes);
        self.executor
            .read(
                &REPLAY,
                &[
                    &persistence_id.as_str(),
                    &from.to_i64(),
                    &to.to_i64(),
                    &row_limit,
                ],
                |row| page.add(&row),
            )
            .await
            .map_err(|failure| failure.into_error(persistence_id))?;
        page.finish(to)
    }

    async fn highest(
        &self,
        persistence_id: &PersistenceId,
        from: SequenceNr,
    ) -> Result<SequenceNr, Error> {
        let mut highest: Option<i64> = None;
        self.executor
            .read(
                &READ_HIGHEST,
                &[&persistence_id.as_str(), &from.to_i64()],
                |row| {
                    highest = row.get(0);
                    ControlFlow::Continue(())
                },
            )
            .await
            .map_err(|failure| failure.into_error(persistence_id))?;
        match highest {
            Some(number) => SequenceNr::try_from(number).map_err(|negative| {
                corrupt(persistence_id, SequenceNr::ZERO, negative.to_string())
            }),
            None => Ok(SequenceNr::ZERO),
        }
    }

    async fn delete(&self, persistence_id: &PersistenceId, to: SequenceNr) -> Result<(), Error> {
        let slice = i32::from(persistence_id.slice());
        let mut attempt = 1;
        loop {
            let deleted = self
                .executor
                .call(
                    &DELETE,
                    &[
                        &slice,
                        &persistence_id.entity_type(),
                        &persistence_id.as_str(),
                        &to.to_i64(),
                    ],
                )
                .await;
            match deleted {
                Ok(_) => return Ok(()),
                // Another deletion left its marker after ours had looked; now it is seen.
                Err(Failure::Duplicate(_)) if attempt < DELETE_ATTEMPTS => attempt += 1,
                Err(failure) => return Err(failure.into_error(persistence_id)),
            }
        }
    }
}

impl Journal for PostgresJournal {
    fn write_events<'a>(
        &'a self,
        batch: &'a [AtomicWrite],
    ) -> BoxFuture<'a, Vec<Result<Written, Error>>> {
        let span = tracing::debug_span!(
            "journal.postgres.write_events",
            writes = batch.len(),
            { telemetry::field::EVENTS } = tracing::field::Empty
        );
        if !span.is_disabled() {
            let events: usize = batch.iter().map(|write| write.events().len()).sum();
            span.record(telemetry::field::EVENTS, events);
        }
        Box::pin(self.write(batch).instrument(span))
    }

    fn replay_events<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        from: SequenceNr,
        to: SequenceNr,
        limit: PageLimit,
    ) -> BoxFuture<'a, Result<ReplayPage, Error>> {
        Box::pin(self.replay(persistence_id, from, to, limit))
    }

    fn highest_sequence_nr<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        from: SequenceNr,
    ) -> BoxFuture<'a, Result<SequenceNr, Error>> {
        Box::pin(self.highest(persistence_id, from))
    }

    fn delete_events<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        to: SequenceNr,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.delete(persistence_id, to))
    }

    fn remove_events<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        to: SequenceNr,
        limit: usize,
    ) -> BoxFuture<'a, Result<usize, Error>> {
        Box::pin(async move {
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            self.executor
                .call(&REMOVE, &[&persistence_id.as_str(), &to.to_i64(), &limit])
                .await
                .map(|removed| removed.len())
                .map_err(|failure| failure.into_error(persistence_id))
        })
    }
}

/// How many bytes of a statement a write takes, apart from columns of fixed size.
pub(crate) fn size_of_write(write: &AtomicWrite) -> usize {
    let sizes = write.events().iter().map(|event| {
        let tags: usize = event.tags.iter().map(String::len).sum();
        let metadata = event.metadata.as_ref().map_or(0, |data| data.bytes.len());
        event.payload.bytes.len() + tags + metadata
    });
    sizes.sum::<usize>() + size_of_reply(write) + size_of_reminders(write)
}

/// The time of a lone event; without a row it was not stored.
fn the_timestamp(rows: &[Row]) -> Result<Timestamp, Failure> {
    let Some(row) = rows.first() else {
        return Err(Failure::Duplicate(Refusal::left_out()));
    };
    row.get::<_, Micros>(0).timestamp().ok_or_else(|| {
        Failure::unknown(
            "the server answered with a time that is none, after storing the event",
            None,
        )
    })
}

/// Gathers the rows of a page.
struct PageBuilder<'a> {
    persistence_id: &'a PersistenceId,
    max_rows: usize,
    max_bytes: usize,
    rows: usize,
    size: usize,
    cut: bool,
    events: Vec<PendingEvent>,
    payloads: Payloads,
    highest: SequenceNr,
    highest_timestamp: Option<Timestamp>,
    damage: Option<Error>,
}

/// An event whose payload's bytes are still being gathered.
struct PendingEvent {
    seq_nr: SequenceNr,
    timestamp: Timestamp,
    payload: Pending,
    metadata: Option<SerializedPayload>,
}

impl<'a> PageBuilder<'a> {
    fn new(persistence_id: &'a PersistenceId, max_rows: usize, max_bytes: usize) -> Self {
        Self {
            persistence_id,
            max_rows,
            max_bytes,
            rows: 0,
            size: 0,
            cut: false,
            events: Vec::new(),
            payloads: Payloads::default(),
            highest: SequenceNr::ZERO,
            highest_timestamp: None,
            damage: None,
        }
    }

    fn add(&mut self, row: &Row) -> ControlFlow<()> {
        match self.try_add(row) {
            Ok(()) if self.size < self.max_bytes => ControlFlow::Continue(()),
            Ok(()) => {
                self.cut = true;
                ControlFlow::Break(())
            }
            Err(damage) => {
                self.damage = Some(damage);
                ControlFlow::Break(())
            }
        }
    }

    fn try_add(&mut self, row: &Row) -> Result<(), Error> {
        let number: i64 = self.column(row, 0, self.highest)?;
        let seq_nr = SequenceNr::try_from(number)
            .map_err(|negative| corrupt(self.persistence_id, self.highest, negative.to_string()))?;
        let timestamp = self
            .column::<Micros>(row, 1, seq_nr)?
            .timestamp()
            .ok_or_else(|| {
                corrupt(
                    self.persistence_id,
                    seq_nr,
                    "its db_timestamp is infinite or above the year 9999",
                )
            })?;
        if !self.column::<bool>(row, 2, seq_nr)? {
            let serializer_id: i32 = self.column(row, 3, seq_nr)?;
            if serializer_id == NO_PAYLOAD_ID {
                return Err(corrupt(
                    self.persistence_id,
                    seq_nr,
                    "it has serializer id 0, which means no payload, but is no delete marker",
                ));
            }
            let manifest: &str = self.column(row, 4, seq_nr)?;
            let bytes: &[u8] = self.column(row, 5, seq_nr)?;
            // As in Pekko, metadata is there if its payload is.
            let metadata = match self.column::<Option<&[u8]>>(row, 8, seq_nr)? {
                Some(metadata) => Some(SerializedPayload::new(
                    self.column::<Option<i32>>(row, 6, seq_nr)?
                        .unwrap_or(NO_PAYLOAD_ID),
                    self.column::<Option<&str>>(row, 7, seq_nr)?.unwrap_or(""),
                    metadata.to_vec(),
                )),
                None => None,
            };
            self.size += bytes.len();
            if self.events.is_empty() {
                // Most pages are short of their limit by far.
                self.events.reserve(self.max_rows.min(128));
            }
            self.events.push(PendingEvent {
                seq_nr,
                timestamp,
                payload: self.payloads.add(serializer_id, manifest, bytes),
                metadata,
            });
        }
        self.rows += 1;
        self.highest = seq_nr;
        self.highest_timestamp = Some(timestamp);
        Ok(())
    }

    fn column<'r, T: FromSql<'r>>(
        &self,
        row: &'r Row,
        index: usize,
        seq_nr: SequenceNr,
    ) -> Result<T, Error> {
        column(row, index, self.persistence_id, seq_nr)
    }

    fn finish(self, to: SequenceNr) -> Result<ReplayPage, Error> {
        if let Some(damage) = self.damage {
            return Err(damage);
        }
        let bytes = self.payloads.freeze();
        Ok(ReplayPage {
            events: self
                .events
                .into_iter()
                .map(|event| StoredEvent {
                    seq_nr: event.seq_nr,
                    timestamp: event.timestamp,
                    payload: event.payload.payload(&bytes),
                    metadata: event.metadata,
                })
                .collect(),
            highest: self.highest,
            highest_timestamp: self.highest_timestamp,
            more: (self.cut || self.rows == self.max_rows) && self.highest < to,
        })
    }
}
