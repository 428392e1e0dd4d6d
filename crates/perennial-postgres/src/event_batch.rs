//! Batches of events: one statement for many, and what their keys say when it fails.

use std::ops::Range;

use bytes::BufMut;
use perennial_persistence::{AtomicWrite, Error, Previous, SequenceNr, Timestamp, Written};
use tokio_postgres::Row;
use tokio_postgres::types::{IsNull, ToSql, Type};

use crate::batch::{Batch, LARGEST_WRITE, Size};
use crate::command_replies::{self, Reply, replies_of};
use crate::error::{Failure, Refusal};
use crate::executor::{Executor, Sql, ordinality, sql};
use crate::journal::size_of_write;
use crate::reminders::{self, Changes};
use crate::row::{Column, Micros, NewRow, WriterText, put_microseconds, put_tags, put_text};

const WRITE_BATCH: Sql = sql!("journal/write_batch.sql");
const WRITE_LARGE_BATCH: Sql = sql!("journal/write_large_batch.sql");
const WRITE_BATCH_WITH_METADATA: Sql = sql!("journal/write_batch_with_metadata.sql");
const WRITE_LARGE_BATCH_WITH_METADATA: Sql = sql!("journal/write_large_batch_with_metadata.sql");
const WRITE_BATCH_WITH_REPLIES: Sql = sql!("journal/write_batch_with_replies.sql");
const WRITE_BATCH_WITH_REMINDERS: Sql = sql!("journal/write_batch_with_reminders.sql");
const READ_PREVIOUS_TIMESTAMPS: Sql = sql!("journal/read_previous_timestamps.sql");
const READ_TAKEN: Sql = sql!("journal/read_taken.sql");

/// From how many entities on it pays to call a function at the end of a statement instead of probing
/// the primary key for each of them: the call costs as much as 20 to 50 of these probes, the more
/// delete markers there are.
const LARGE_BATCH: usize = 64;

/// What keeps stale writers out of the place of deleted events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fence {
    /// The primary key is probed for every entity.
    Rows,
    /// Large batches look for delete markers, by the function and the index that the migrations
    /// make for that.
    Markers,
}

/// A batch of events while it is being written.
pub(crate) struct EventBatch<'a> {
    executor: &'a Executor,
    fence: Fence,
    writes: &'a [AtomicWrite],
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
pub(crate) struct Pending {
    /// In the order.
    place: usize,
    /// In the batch.
    index: usize,
    base: Base,
}

impl<'a> EventBatch<'a> {
    pub(crate) fn new(executor: &'a Executor, fence: Fence, writes: &'a [AtomicWrite]) -> Self {
        let mut order: Vec<usize> = (0..writes.len()).collect();
        // Stable, so that wrongly repeated numbers keep the batch's order.
        order.sort_by(|&a, &b| {
            let (a, b) = (&writes[a], &writes[b]);
            a.persistence_id()
                .cmp(b.persistence_id())
                .then(a.first().cmp(&b.first()))
        });
        let mut batch = Self {
            executor,
            fence,
            writes,
            order,
            answers: vec![None; writes.len()],
        };
        batch.refuse_the_too_large();
        batch
    }

    /// The answers, in the order of the batch.
    pub(crate) fn answers(self) -> Vec<Result<Written, Error>> {
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

    fn same_entity(&self, a: usize, b: usize) -> bool {
        self.writes[a].persistence_id() == self.writes[b].persistence_id()
    }

    /// Stores the writes in one transaction and says when; `None` if the table has not taken all of
    /// their rows.
    async fn insert(&self, pending: &[Pending]) -> Result<Option<Vec<Timestamp>>, Failure> {
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
            for (seq_nr, event) in write.numbered() {
                with_metadata |= event.metadata.is_some() || !event.tags.is_empty();
                rows.push(NewRow {
                    write,
                    event,
                    seq_nr,
                    position: pending.index,
                    not_before: not_before(base),
                });
            }
        }
        let firsts: Vec<&AtomicWrite> = pending
            .chunk_by(|a, b| self.same_entity(a.index, b.index))
            .map(|of_entity| &self.writes[of_entity[0].index])
            .collect();
        let writes = || pending.iter().map(|pending| &self.writes[pending.index]);
        let replies = replies_of(writes());
        let reminders = Changes::of(writes());
        let new = NewRows {
            rows: &rows,
            firsts: &firsts,
            with_metadata,
            replies: &replies,
            reminders: &reminders,
        };
        let own_time = |pending: &Pending, base, started: Micros| {
            let own = started.plus(pending.index);
            not_before(base)
                .map_or(own, |earliest| own.max(earliest))
                .timestamp()
        };
        let times = match new.insert(self.executor, self.fence).await? {
            Stored::Rows(times) if times.len() == rows.len() => {
                // The rows of a write share a time.
                let mut next = 0;
                let of_write = |pending: &Pending| {
                    let time = times[next];
                    next += self.writes[pending.index].events().len();
                    time.timestamp()
                };
                pending.iter().map(of_write).collect()
            }
            Stored::Since(started, count) if usize::try_from(count) == Ok(rows.len()) => pending
                .iter()
                .zip(bases)
                .map(|(pending, base)| own_time(pending, base, started))
                .collect(),
            Stored::WithReminders(started, times) if times.len() == rows.len() => {
                let mut next = 0;
                let of_write = |(pending, base): (&Pending, _)| {
                    let events = self.writes[pending.index].events().len();
                    if events == 0 {
                        return own_time(pending, base, started);
                    }
                    let time = times[next];
                    next += events;
                    time.timestamp()
                };
                pending.iter().zip(bases).map(of_write).collect()
            }
            Stored::Rows(_) | Stored::Since(..) | Stored::WithReminders(..) | Stored::Nothing => {
                return Ok(None);
            }
        };
        let times: Option<Vec<Timestamp>> = times;
        times
            .map(Some)
            .ok_or_else(|| Failure::unknown("the server's clock is beyond the year 9999", None))
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

    /// Answers the writes that have something at or above their first number: as written if all
    /// their rows are there and their own.
    async fn answer_taken(&mut self, pending: &[Pending]) -> Result<(), Failure> {
        let writes = || pending.iter().map(|pending| &self.writes[pending.index]);
        let ids: Vec<&str> = writes()
            .map(|write| write.persistence_id().as_str())
            .collect();
        let firsts: Vec<i64> = writes().map(|write| write.first().to_i64()).collect();
        let lasts: Vec<i64> = writes().map(|write| write.witnesses().1.to_i64()).collect();
        let writers: Vec<WriterText> = writes().map(WriterText::of).collect();
        let writers: Vec<&str> = writers.iter().map(WriterText::as_str).collect();
        let rows = self
            .executor
            .call(&READ_TAKEN, &[&ids, &firsts, &lasts, &writers])
            .await?;
        for row in rows {
            let Some(pending) = ordinality(row.get(0)).and_then(|at| pending.get(at)) else {
                continue;
            };
            let write = &self.writes[pending.index];
            let own: i64 = row.get(1);
            let timestamp = row
                .get::<_, Option<Micros>>(2)
                .and_then(|stored| stored.timestamp());
            let number = |at: usize| {
                let number: Option<i64> = row.get(at);
                number.and_then(|number| SequenceNr::try_from(number).ok())
            };
            let id = || write.persistence_id().clone();
            let answer = match (number(3), timestamp) {
                (Some(seq_nr), _) => Err(Error::Conflict {
                    persistence_id: id(),
                    seq_nr,
                }),
                (None, Some(timestamp)) if usize::try_from(own) == Ok(write.witnesses().0) => {
                    Ok(Written { timestamp })
                }
                // Of own rows that are not all there, the others were deleted: writes are stored
                // whole.
                _ => Err(Error::Superseded {
                    persistence_id: id(),
                    seq_nr: write.first(),
                    highest: number(4).unwrap_or_else(|| write.first()),
                }),
            };
            self.answers[pending.index] = Some(answer);
        }
        Ok(())
    }
}

/// Commands that carry an id.
impl EventBatch<'_> {
    /// Answers those of the unanswered writes whose commands another writer has handled.
    async fn answer_taken_commands(&mut self, pending: &[Pending]) -> Result<(), Failure> {
        let (indexes, replies): (Vec<usize>, Vec<Reply<'_>>) = pending
            .iter()
            .filter(|pending| self.answers[pending.index].is_none())
            .filter_map(|pending| {
                let write = &self.writes[pending.index];
                Reply::of(write).map(|reply| (pending.index, reply))
            })
            .unzip();
        for taken in command_replies::taken(self.executor, &replies).await? {
            let reply = replies[taken];
            self.answers[indexes[taken]] = Some(Err(Error::CommandTaken {
                persistence_id: reply.id.clone(),
                command_id: reply.new.command_id().clone(),
            }));
        }
        Ok(())
    }
}

impl Batch for EventBatch<'_> {
    type Pending = Pending;

    fn len(&self) -> usize {
        self.order.len()
    }

    fn size(&self, place: usize) -> Size {
        let write = &self.writes[self.order[place]];
        Size {
            rows: write.events().len() + write.reminders().len(),
            bytes: size_of_write(write),
        }
    }

    /// With their bases. A write whose entity's write before it failed gets the same answer and is
    /// left out.
    fn pending(&mut self, part: &Range<usize>) -> Vec<Pending> {
        let mut pending: Vec<Pending> = Vec::with_capacity(part.len());
        for place in part.clone() {
            let index = self.order[place];
            if self.answers[index].is_some() {
                continue;
            }
            let before = place
                .checked_sub(1)
                .map(|before| self.order[before])
                .filter(|&before| self.same_entity(before, index));
            // Without events it has no time, and hands on that of the one before.
            let own = usize::from(!self.writes[index].events().is_empty());
            let base = match before.map(|before| &self.answers[before]) {
                Some(Some(Err(error))) => {
                    self.answers[index] = Some(Err(error.clone()));
                    continue;
                }
                Some(Some(Ok(written))) => Base::After(Micros::of(written.timestamp), own),
                // Unanswered and before this one in the order: the last of `pending`.
                Some(None) => match pending.last().map(|last| last.base) {
                    Some(Base::After(base, step)) => Base::After(base, step + own),
                    Some(Base::AfterUnknown(first, step)) => Base::AfterUnknown(first, step + own),
                    Some(Base::None) | None => Base::None,
                },
                None => match self.writes[index].previous {
                    Previous::None => Base::None,
                    Previous::At(previous) => Base::After(Micros::of(previous), own),
                    Previous::Unknown => Base::AfterUnknown(index, own),
                },
            };
            pending.push(Pending { place, index, base });
        }
        pending
    }

    fn place(pending: &Pending) -> usize {
        pending.place
    }

    async fn send(&mut self, pending: &[Pending]) -> Result<Option<Refusal>, Failure> {
        let Some(timestamps) = self.insert(pending).await? else {
            return Ok(Some(Refusal::left_out()));
        };
        for (pending, timestamp) in pending.iter().zip(timestamps) {
            self.answers[pending.index] = Some(Ok(Written { timestamp }));
        }
        Ok(None)
    }

    async fn explain(&mut self, pending: &[Pending]) -> Result<(), Failure> {
        self.answer_taken(pending).await?;
        self.answer_taken_commands(pending).await
    }

    fn fail(&mut self, pending: &Pending, failure: &Failure) {
        let id = self.writes[pending.index].persistence_id();
        self.answers[pending.index] = Some(Err(failure.clone().into_error(id)));
    }

    fn fail_rest(&mut self, failure: &Failure) {
        for (write, answer) in self.writes.iter().zip(&mut self.answers) {
            let error = || failure.clone().into_error(write.persistence_id());
            answer.get_or_insert_with(|| Err(error()));
        }
    }
}

/// What one statement inserts.
struct NewRows<'a> {
    rows: &'a [NewRow<'a>],
    /// The first writes of each entity.
    firsts: &'a [&'a AtomicWrite],
    with_metadata: bool,
    replies: &'a [Reply<'a>],
    reminders: &'a Changes<'a>,
}

/// What the table has taken.
enum Stored {
    /// The times of the rows, in their order; fewer if it has left some out.
    Rows(Vec<Micros>),
    /// When the transaction began, and how many rows there are.
    Since(Micros, i64),
    /// When the transaction began, and the times of the rows.
    WithReminders(Micros, Vec<Micros>),
    /// The fence let nothing pass.
    Nothing,
}

impl NewRows<'_> {
    /// Inserts all of them in one transaction.
    async fn insert(&self, executor: &Executor, fence: Fence) -> Result<Stored, Failure> {
        let &Self {
            rows,
            firsts,
            with_metadata,
            replies,
            reminders,
        } = self;
        let is_large = fence == Fence::Markers && firsts.len() >= LARGE_BATCH;
        let entity = Column::new(firsts, Type::TEXT, |write: &&AtomicWrite, out| {
            put_text(write.persistence_id().as_str(), out)
        });
        let first = Column::new(firsts, Type::INT8, |write: &&AtomicWrite, out| {
            out.put_i64(write.first().to_i64());
            IsNull::No
        });
        let slice = Column::new(rows, Type::INT4, |row: &NewRow<'_>, out| {
            out.put_i32(row.write.persistence_id().slice().into());
            IsNull::No
        });
        let entity_type = Column::new(rows, Type::TEXT, |row: &NewRow<'_>, out| {
            put_text(row.write.persistence_id().entity_type(), out)
        });
        let id = Column::new(rows, Type::TEXT, |row: &NewRow<'_>, out| {
            put_text(row.write.persistence_id().as_str(), out)
        });
        let seq_nr = Column::new(rows, Type::INT8, |row: &NewRow<'_>, out| {
            out.put_i64(row.seq_nr.to_i64());
            IsNull::No
        });
        let later_by = Column::new(rows, Type::INTERVAL, |row: &NewRow<'_>, out| {
            put_microseconds(row.position, out)
        });
        let not_before = Column::new(rows, Type::TIMESTAMPTZ, |row: &NewRow<'_>, out| {
            match row.not_before {
                Some(time) => {
                    time.put(out);
                    IsNull::No
                }
                None => IsNull::Yes,
            }
        });
        let serializer_id = Column::new(rows, Type::INT4, |row: &NewRow<'_>, out| {
            out.put_i32(row.event.payload.serializer_id);
            IsNull::No
        });
        let manifest = Column::new(rows, Type::TEXT, |row: &NewRow<'_>, out| {
            put_text(&row.event.payload.manifest, out)
        });
        let payload = Column::new(rows, Type::BYTEA, |row: &NewRow<'_>, out| {
            out.put_slice(&row.event.payload.bytes);
            IsNull::No
        });
        let writer = Column::new(rows, Type::TEXT, |row: &NewRow<'_>, out| {
            put_text(WriterText::of(row.write).as_str(), out)
        });
        let plain: [&(dyn ToSql + Sync); 12] = [
            &slice,
            &entity_type,
            &id,
            &seq_nr,
            &later_by,
            &not_before,
            &serializer_id,
            &manifest,
            &payload,
            &writer,
            &entity,
            &first,
        ];
        let answer = if with_metadata || !replies.is_empty() || !reminders.is_empty() {
            let tags = Column::new(rows, Type::TEXT, |row: &NewRow<'_>, out| {
                put_tags(&row.event.tags, out)
            });
            let meta_id = Column::new(rows, Type::INT4, |row: &NewRow<'_>, out| {
                match &row.event.metadata {
                    Some(metadata) => {
                        out.put_i32(metadata.serializer_id);
                        IsNull::No
                    }
                    None => IsNull::Yes,
                }
            });
            let meta_manifest = Column::new(rows, Type::TEXT, |row: &NewRow<'_>, out| {
                match &row.event.metadata {
                    Some(metadata) => put_text(&metadata.manifest, out),
                    None => IsNull::Yes,
                }
            });
            let meta_payload = Column::new(rows, Type::BYTEA, |row: &NewRow<'_>, out| {
                match &row.event.metadata {
                    Some(metadata) => {
                        out.put_slice(&metadata.bytes);
                        IsNull::No
                    }
                    None => IsNull::Yes,
                }
            });
            let events: [&(dyn ToSql + Sync); 16] = [
                &slice,
                &entity_type,
                &id,
                &seq_nr,
                &later_by,
                &not_before,
                &serializer_id,
                &manifest,
                &payload,
                &writer,
                &tags,
                &meta_id,
                &meta_manifest,
                &meta_payload,
                &entity,
                &first,
            ];
            if !reminders.is_empty() {
                let sql = &WRITE_BATCH_WITH_REMINDERS;
                let answer =
                    reminders::change_with(executor, sql, &events, reminders, replies).await?;
                return stored_with_reminders(&answer);
            } else if !replies.is_empty() {
                let sql = &WRITE_BATCH_WITH_REPLIES;
                command_replies::insert_with(executor, sql, &events, replies).await?
            } else if is_large {
                let answer = executor
                    .call(&WRITE_LARGE_BATCH_WITH_METADATA, &events)
                    .await?;
                return stored_since(&answer);
            } else {
                executor.call(&WRITE_BATCH_WITH_METADATA, &events).await?
            }
        } else if is_large {
            return stored_since(&executor.call(&WRITE_LARGE_BATCH, &plain).await?);
        } else {
            executor.call(&WRITE_BATCH, &plain).await?
        };
        Ok(Stored::Rows(answer.iter().map(|row| row.get(0)).collect()))
    }
}

/// The answer of a large batch's statement.
fn stored_since(answer: &[Row]) -> Result<Stored, Failure> {
    let row = answer
        .first()
        .ok_or_else(|| Failure::unknown("the server did not say what it has stored", None))?;
    Ok(Stored::Since(row.get(0), row.get(1)))
}

/// The answer of a statement with reminders.
fn stored_with_reminders(answer: &[Row]) -> Result<Stored, Failure> {
    let row = answer
        .first()
        .ok_or_else(|| Failure::unknown("the server did not say what it has stored", None))?;
    Ok(if row.get(0) {
        Stored::WithReminders(row.get(1), row.get(2))
    } else {
        Stored::Nothing
    })
}
