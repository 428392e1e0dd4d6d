//! Writing a batch: one statement for all of it, and finding out whose fault a failure is.
//!
//! A statement stores all of its writes or none. When it fails over one of them, the others must
//! not suffer:
//!
//! - A key that is taken: one query reads all of the batch's keys. Writes whose rows are all there
//!   with their own writer are stored already; others with a taken number are conflicts. What is
//!   left is sent again.
//! - Refused data: the batch is halved until the refused write is alone.
//! - No connection: nothing is known about any of the writes, so all of them fail.
//!
//! The writes are sorted by id and number, so that two batches that run at the same time wait for
//! each other's keys in one order and cannot deadlock.

use std::ops::Range;

use bytes::{BufMut, BytesMut};
use perennial_persistence::{AtomicWrite, Error, Previous, Timestamp, Written};
use tokio_postgres::types::{IsNull, Type};

use crate::error::Failure;
use crate::executor::{Executor, Sql, sql};
use crate::journal::{LARGEST_WRITE, StatementBounds, size_of_write};
use crate::row::{Column, Micros, NewRow, WriterText, put_tags};

const WRITE_BATCH: Sql = sql!("journal/write_batch.sql");
const WRITE_BATCH_WITH_METADATA: Sql = sql!("journal/write_batch_with_metadata.sql");
const READ_PREVIOUS_TIMESTAMPS: Sql = sql!("journal/read_previous_timestamps.sql");
const READ_TAKEN: Sql = sql!("journal/read_taken.sql");

/// How often the writes of one statement are sent again after their taken keys were read. Each
/// round answers a write at least, and only racing writers need more than one.
const DUPLICATE_ROUNDS: usize = 4;

/// A batch while it is being written.
pub(crate) struct Batch<'a> {
    executor: &'a Executor,
    writes: &'a [AtomicWrite],
    bounds: StatementBounds,
    /// Indexes of `writes`, sorted by id and number.
    order: Vec<usize>,
    /// One per write, in the order of `writes`.
    answers: Vec<Option<Result<Written, Error>>>,
}

/// The time before which a write may not be.
#[derive(Debug, Clone, Copy)]
enum Base {
    /// Any time is right.
    None,
    /// Later than this by a number of microseconds.
    After(Micros, usize),
    /// Later by a number of microseconds than a row that has to be read: the one before the write
    /// with this index.
    AfterUnknown(usize, usize),
}

/// A write that is about to be sent.
#[derive(Debug, Clone, Copy)]
struct Pending {
    index: usize,
    base: Base,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(
        executor: &'a Executor,
        writes: &'a [AtomicWrite],
        bounds: StatementBounds,
    ) -> Self {
        let mut order: Vec<usize> = (0..writes.len()).collect();
        // Stable, so that wrongly repeated numbers keep the batch's order.
        order.sort_by(|&a, &b| {
            let (a, b) = (&writes[a], &writes[b]);
            a.persistence_id()
                .cmp(b.persistence_id())
                .then(a.first().cmp(&b.first()))
        });
        Self {
            executor,
            writes,
            bounds,
            order,
            answers: vec![None; writes.len()],
        }
    }

    /// Writes everything and answers each write. `failure` is how a first attempt at the whole
    /// batch ended.
    pub(crate) async fn write(
        mut self,
        mut failure: Option<Failure>,
    ) -> Vec<Result<Written, Error>> {
        self.refuse_the_too_large();
        // A stack: the parts that come first in the order lie on top.
        let mut parts = self.parts();
        parts.reverse();
        while let Some(part) = parts.pop() {
            if let Err(failure) = self.write_part(&part, &mut parts, failure.take()).await {
                // Whoever was in the failed statement is answered; the rest was never sent.
                let failure = failure.of_reading();
                for (write, answer) in self.writes.iter().zip(&mut self.answers) {
                    let error = || failure.clone().into_error(write.persistence_id());
                    answer.get_or_insert_with(|| Err(error()));
                }
                break;
            }
        }
        self.answers
            .into_iter()
            .map(|answer| answer.expect("every part answers its writes"))
            .collect()
    }

    fn refuse_the_too_large(&mut self) {
        for (write, answer) in self.writes.iter().zip(&mut self.answers) {
            let size = size_of_write(write);
            if size > LARGEST_WRITE {
                *answer = Some(Err(Error::Rejected {
                    persistence_id: write.persistence_id().clone(),
                    reason: format!(
                        "a write of {size} bytes is too large; at most {LARGEST_WRITE} fit a \
                         statement"
                    ),
                    source: None,
                }));
            }
        }
    }

    /// The order, cut where a statement would become too large.
    fn parts(&self) -> Vec<Range<usize>> {
        let mut parts = Vec::new();
        let (mut start, mut events, mut bytes) = (0, 0, 0);
        for (at, &index) in self.order.iter().enumerate() {
            let write = &self.writes[index];
            let (more_events, more_bytes) = (write.events().len(), size_of_write(write));
            if at > start
                && (events + more_events > self.bounds.events
                    || bytes + more_bytes > self.bounds.bytes)
            {
                parts.push(start..at);
                (start, events, bytes) = (at, 0, 0);
            }
            events += more_events;
            bytes += more_bytes;
        }
        if start < self.order.len() {
            parts.push(start..self.order.len());
        }
        parts
    }

    /// Answers the writes of one part of the order, or pushes its halves onto `parts`.
    ///
    /// Fails if the store is unavailable, after answering those who were sent.
    async fn write_part(
        &mut self,
        part: &Range<usize>,
        parts: &mut Vec<Range<usize>>,
        mut failure: Option<Failure>,
    ) -> Result<(), Failure> {
        let mut unexplained = None;
        for _ in 0..DUPLICATE_ROUNDS {
            let pending = self.pending(part);
            if pending.is_empty() {
                return Ok(());
            }
            let sent = match failure.take() {
                Some(failure) => Err(failure),
                None => self.send(&pending).await,
            };
            let failure = match sent {
                Ok(timestamps) => {
                    for (pending, timestamp) in pending.iter().zip(timestamps) {
                        self.answers[pending.index] = Some(Ok(Written { timestamp }));
                    }
                    return Ok(());
                }
                Err(failure) => failure,
            };
            match failure {
                Failure::Unavailable { .. } => {
                    self.answer_all(&pending, &failure);
                    return Err(failure);
                }
                Failure::Duplicate(refusal) => {
                    unexplained = Some(refusal);
                    if let Err(failure) = self.answer_taken(&pending).await {
                        // The insert itself was refused, so nothing of it is stored.
                        let failure = failure.of_reading();
                        self.answer_all(&pending, &failure);
                        return Err(failure);
                    }
                    // Whatever is left is sent again.
                }
                Failure::Refused(_) | Failure::Broken(_) => {
                    self.halve(part, parts, &pending, failure);
                    return Ok(());
                }
            }
        }
        // Not a row of these keys: another unique index, which refuses like any other constraint.
        let pending = self.pending(part);
        if let Some(refusal) = unexplained {
            self.halve(part, parts, &pending, Failure::Refused(refusal));
        }
        Ok(())
    }

    /// The unanswered writes of a part, with their bases. A write whose entity's write before it
    /// failed gets the same answer and is left out.
    fn pending(&mut self, part: &Range<usize>) -> Vec<Pending> {
        let mut pending: Vec<Pending> = Vec::with_capacity(part.len());
        for at in part.clone() {
            let index = self.order[at];
            if self.answers[index].is_some() {
                continue;
            }
            let before = at
                .checked_sub(1)
                .map(|before| self.order[before])
                .filter(|&before| self.same_entity(before, index));
            let base = match before.map(|before| &self.answers[before]) {
                Some(Some(Err(error))) => {
                    self.answers[index] = Some(Err(error.clone()));
                    continue;
                }
                Some(Some(Ok(written))) => Base::After(Micros::of(written.timestamp), 1),
                // Unanswered and before this one in the order: the last of `pending`.
                Some(None) => match pending.last().map(|last| last.base) {
                    Some(Base::After(base, step)) => Base::After(base, step + 1),
                    Some(Base::AfterUnknown(first, step)) => Base::AfterUnknown(first, step + 1),
                    Some(Base::None) | None => Base::None,
                },
                None => match self.writes[index].previous {
                    Previous::None => Base::None,
                    Previous::At(previous) => Base::After(Micros::of(previous), 1),
                    Previous::Unknown => Base::AfterUnknown(index, 1),
                },
            };
            pending.push(Pending { index, base });
        }
        pending
    }

    fn same_entity(&self, a: usize, b: usize) -> bool {
        self.writes[a].persistence_id() == self.writes[b].persistence_id()
    }

    /// Gives every one of these writes the same failure.
    fn answer_all(&mut self, pending: &[Pending], failure: &Failure) {
        for pending in pending {
            let id = self.writes[pending.index].persistence_id();
            self.answers[pending.index] = Some(Err(failure.clone().into_error(id)));
        }
    }

    /// Answers a lone write, or has the two halves of several tried by themselves.
    fn halve(
        &mut self,
        part: &Range<usize>,
        parts: &mut Vec<Range<usize>>,
        pending: &[Pending],
        failure: Failure,
    ) {
        match pending {
            [] => {}
            [_] => self.answer_all(pending, &failure),
            several => {
                let middle = several[several.len() / 2].index;
                let cut = part
                    .clone()
                    .find(|&at| self.order[at] == middle)
                    .expect("pending writes are from the part");
                parts.push(cut..part.end);
                parts.push(part.start..cut);
            }
        }
    }

    /// Stores the writes in one transaction and says when.
    async fn send(&self, pending: &[Pending]) -> Result<Vec<Timestamp>, Failure> {
        let bases = self.known_bases(pending).await?;
        let not_before = |base: Option<(Micros, usize)>| base.map(|(base, step)| base.plus(step));
        let events = pending
            .iter()
            .map(|pending| self.writes[pending.index].events().len())
            .sum();
        let mut rows = Vec::with_capacity(events);
        let mut with_metadata = false;
        for (pending, &base) in pending.iter().zip(&bases) {
            let write = &self.writes[pending.index];
            let position = i32::try_from(pending.index).unwrap_or(i32::MAX);
            for (seq_nr, event) in write.numbered() {
                with_metadata |= event.metadata.is_some() || !event.tags.is_empty();
                rows.push(NewRow {
                    write,
                    event,
                    seq_nr,
                    position,
                    not_before: not_before(base),
                });
            }
        }
        let started = insert(self.executor, &rows, with_metadata).await?;
        pending
            .iter()
            .zip(bases)
            .map(|(pending, base)| {
                let own = started.plus(pending.index);
                let stored = not_before(base).map_or(own, |earliest| own.max(earliest));
                stored.timestamp().ok_or_else(|| {
                    Failure::unknown("the server's clock is beyond the year 9999", None)
                })
            })
            .collect()
    }

    /// The times after which the writes must be, reading those that no writer knows.
    async fn known_bases(
        &self,
        pending: &[Pending],
    ) -> Result<Vec<Option<(Micros, usize)>>, Failure> {
        let mut unknown: Vec<usize> = pending
            .iter()
            .filter_map(|pending| match pending.base {
                Base::AfterUnknown(first, _) => Some(first),
                _ => None,
            })
            .collect();
        // Neighbours of one entity ask for the same row.
        unknown.dedup();
        let mut read: Vec<Option<Micros>> = vec![None; unknown.len()];
        if !unknown.is_empty() {
            let ids: Vec<&str> = unknown
                .iter()
                .map(|&first| self.writes[first].persistence_id().as_str())
                .collect();
            let numbers: Vec<i64> = unknown
                .iter()
                .map(|&first| self.writes[first].first().to_i64() - 1)
                .collect();
            let rows = self
                .executor
                .call(&READ_PREVIOUS_TIMESTAMPS, &[&ids, &numbers])
                .await
                .map_err(Failure::of_reading)?;
            for row in rows {
                if let Some(place) = ordinality(row.get(0)).and_then(|at| read.get_mut(at)) {
                    *place = Some(row.get(1));
                }
            }
        }
        let mut at = 0;
        Ok(pending
            .iter()
            .map(|pending| match pending.base {
                Base::None => None,
                Base::After(base, step) => Some((base, step)),
                Base::AfterUnknown(first, step) => {
                    while unknown[at] != first {
                        at += 1;
                    }
                    read[at].map(|base| (base, step))
                }
            })
            .collect())
    }

    /// Answers the writes whose keys are taken: as written if all their rows are their own.
    async fn answer_taken(&mut self, pending: &[Pending]) -> Result<(), Failure> {
        let mut ids = Vec::new();
        let mut numbers = Vec::new();
        let mut writers = Vec::new();
        for pending in pending {
            let write = &self.writes[pending.index];
            let writer = WriterText::of(write);
            for (seq_nr, _) in write.numbered() {
                ids.push(write.persistence_id().as_str());
                numbers.push(seq_nr.to_i64());
                writers.push(writer);
            }
        }
        let writers: Vec<&str> = writers.iter().map(WriterText::as_str).collect();
        let rows = self
            .executor
            .call(&READ_TAKEN, &[&ids, &numbers, &writers])
            .await?;
        let mut taken: Vec<Option<(bool, Micros)>> = vec![None; ids.len()];
        for row in rows {
            if let Some(place) = ordinality(row.get(0)).and_then(|at| taken.get_mut(at)) {
                *place = Some((row.get(1), row.get(2)));
            }
        }
        let mut rest = &taken[..];
        for pending in pending {
            let write = &self.writes[pending.index];
            let (rows, after) = rest.split_at(write.events().len());
            rest = after;
            let Some(lowest) = rows.iter().position(Option::is_some) else {
                continue;
            };
            let own = rows.iter().all(|row| matches!(row, Some((true, _))));
            let stored = rows[0].and_then(|(_, timestamp)| timestamp.timestamp());
            self.answers[pending.index] = Some(match stored {
                Some(timestamp) if own => Ok(Written { timestamp }),
                _ => Err(Error::Conflict {
                    persistence_id: write.persistence_id().clone(),
                    seq_nr: write.first().plus(lowest as u64),
                }),
            });
        }
        Ok(())
    }
}

/// `WITH ORDINALITY` counts from 1.
fn ordinality(number: i64) -> Option<usize> {
    usize::try_from(number).ok()?.checked_sub(1)
}

/// Inserts rows in one transaction and says when that began.
async fn insert(
    executor: &Executor,
    rows: &[NewRow<'_>],
    with_metadata: bool,
) -> Result<Micros, Failure> {
    let put_text = |text: &str, out: &mut BytesMut| {
        out.put_slice(text.as_bytes());
        IsNull::No
    };
    let slice = Column::new(rows, Type::INT4, |row, out| {
        out.put_i32(row.write.persistence_id().slice().into());
        IsNull::No
    });
    let entity_type = Column::new(rows, Type::TEXT, |row, out| {
        put_text(row.write.persistence_id().entity_type(), out)
    });
    let id = Column::new(rows, Type::TEXT, |row, out| {
        put_text(row.write.persistence_id().as_str(), out)
    });
    let seq_nr = Column::new(rows, Type::INT8, |row, out| {
        out.put_i64(row.seq_nr.to_i64());
        IsNull::No
    });
    let position = Column::new(rows, Type::INT4, |row, out| {
        out.put_i32(row.position);
        IsNull::No
    });
    let not_before = Column::new(rows, Type::TIMESTAMPTZ, |row, out| match row.not_before {
        Some(time) => {
            time.put(out);
            IsNull::No
        }
        None => IsNull::Yes,
    });
    let serializer_id = Column::new(rows, Type::INT4, |row, out| {
        out.put_i32(row.event.payload.serializer_id);
        IsNull::No
    });
    let manifest = Column::new(rows, Type::TEXT, |row, out| {
        put_text(&row.event.payload.manifest, out)
    });
    let payload = Column::new(rows, Type::BYTEA, |row, out| {
        out.put_slice(&row.event.payload.bytes);
        IsNull::No
    });
    let writer = Column::new(rows, Type::TEXT, |row, out| {
        put_text(WriterText::of(row.write).as_str(), out)
    });
    let answer = if with_metadata {
        let tags = Column::new(rows, Type::TEXT, |row, out| put_tags(&row.event.tags, out));
        let meta_id = Column::new(rows, Type::INT4, |row, out| match &row.event.metadata {
            Some(metadata) => {
                out.put_i32(metadata.serializer_id);
                IsNull::No
            }
            None => IsNull::Yes,
        });
        let meta_manifest = Column::new(rows, Type::TEXT, |row, out| match &row.event.metadata {
            Some(metadata) => put_text(&metadata.manifest, out),
            None => IsNull::Yes,
        });
        let meta_payload = Column::new(rows, Type::BYTEA, |row, out| match &row.event.metadata {
            Some(metadata) => {
                out.put_slice(&metadata.bytes);
                IsNull::No
            }
            None => IsNull::Yes,
        });
        executor
            .call(
                &WRITE_BATCH_WITH_METADATA,
                &[
                    &slice,
                    &entity_type,
                    &id,
                    &seq_nr,
                    &position,
                    &not_before,
                    &serializer_id,
                    &manifest,
                    &payload,
                    &writer,
                    &tags,
                    &meta_id,
                    &meta_manifest,
                    &meta_payload,
                ],
            )
            .await?
    } else {
        executor
            .call(
                &WRITE_BATCH,
                &[
                    &slice,
                    &entity_type,
                    &id,
                    &seq_nr,
                    &position,
                    &not_before,
                    &serializer_id,
                    &manifest,
                    &payload,
                    &writer,
                ],
            )
            .await?
    };
    answer
        .first()
        .map(|row| row.get(0))
        .ok_or_else(|| Failure::unknown("the server stored the batch and gave no time", None))
}
