//! Batches of states: one statement for many, and what their rows say about those it left out.

use std::ops::Range;

use bytes::{BufMut, BytesMut};
use perennial_persistence::{
    Companion, DurableStateDelete, Error, FoldedBatch, FoldedOutcome, FoldedWrite, PersistenceId,
    SequenceNr, StateChange, StateWrite, Written,
};
use tokio_postgres::Row;
use tokio_postgres::types::{IsNull, ToSql, Type};

use crate::batch::{Batch, LARGEST_WRITE, Size};
use crate::companions;
use crate::durable_state_store::{payload_columns, the_only_state, timestamp};
use crate::error::{Failure, Refusal};
use crate::executor::{Executor, Sql, ordinality, sql};
use crate::row::{Column, put_microseconds, put_tags, put_text};

const CHANGE_BATCH: Sql = sql!("durable_state_store/change_batch.sql");
const WRITE_BATCH: Sql = sql!("durable_state_store/write_batch.sql");
const WRITE_BATCH_WITH_COMPANIONS: Sql =
    sql!("durable_state_store/write_batch_with_companions.sql");
const READ_CURRENT: Sql = sql!("durable_state_store/read_current.sql");

/// A batch of states while it is being written. All writes of an id are one write of its row, as
/// long as nothing speaks against it.
pub(crate) struct StateBatch<'a> {
    executor: &'a Executor,
    folded: FoldedBatch<'a>,
    delete: DurableStateDelete,
    /// One per id, in their order.
    progress: Vec<Progress>,
}

/// How far the writes of one id are.
#[derive(Debug)]
struct Progress {
    /// How many of them are stored, and when the last of these was.
    stored: usize,
    latest: Option<Written>,
    /// How many are written at once.
    at_once: usize,
    /// Whether it is known that there is no row, whatever the writes expect.
    row_is_gone: bool,
    failure: Option<Error>,
}

/// What a write does to the table.
enum Effect {
    Change,
    Add,
    Remove,
}

/// What a row says of the writes of its id.
enum Judged {
    /// It is the one that they expect.
    Expected,
    /// So many of them have made it, if it is theirs.
    Made(usize, Written),
}

/// Something that goes with a state, and what its place is to tell.
struct Question<'a> {
    id: usize,
    one: Companion<'a>,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    /// Whether so many writes have made the row that is there.
    IsOwn(usize, Written),
    /// Whether anything is in the way of the write with this index.
    IsFree(usize),
}

impl<'a> StateBatch<'a> {
    pub(crate) fn new(
        executor: &'a Executor,
        batch: &'a [StateWrite],
        delete: DurableStateDelete,
    ) -> Self {
        let folded = FoldedBatch::new(batch, |write| {
            write.refused_company(delete).or_else(|| too_large(write))
        });
        let progress = (0..folded.len()).map(|id| Progress {
            stored: 0,
            latest: None,
            at_once: most_at_once(folded.get(id)),
            row_is_gone: false,
            failure: None,
        });
        Self {
            executor,
            progress: progress.collect(),
            folded,
            delete,
        }
    }

    /// The only write of the batch, if there is no more to it.
    pub(crate) fn lone(&self) -> Option<FoldedWrite<'a, '_>> {
        if self.folded.len() != 1 {
            return None;
        }
        let write = self.folded.get(0);
        let is_lone = write.len() == 1 && self.folded.writes() == 1 && !write.has_company();
        is_lone.then_some(write)
    }

    /// The answers, in the order of the batch.
    pub(crate) fn answers(self) -> Vec<Result<Written, Error>> {
        let outcomes = self.progress.into_iter().map(|progress| {
            match (progress.failure, progress.latest) {
                (None, Some(written)) => Ok(written).into(),
                (Some(error), Some(written)) => {
                    FoldedOutcome::after(progress.stored, written, Err(error))
                }
                (Some(error), None) => Err(error).into(),
                // Nothing of this id was to be sent, so nobody asks.
                (None, None) => Err(Error::unavailable("nothing was sent", None)).into(),
            }
        });
        self.folded.answers(outcomes)
    }

    /// What is to be sent for an id.
    fn part(&self, id: usize) -> FoldedWrite<'a, '_> {
        let progress = &self.progress[id];
        self.folded.get(id).part(progress.stored, progress.at_once)
    }

    fn effect(&self, id: usize, write: FoldedWrite<'_, '_>) -> Effect {
        if write.payload().is_none() && self.delete == DurableStateDelete::Row {
            Effect::Remove
        } else if self.progress[id].row_is_gone || write.expected() == SequenceNr::ZERO {
            Effect::Add
        } else {
            Effect::Change
        }
    }

    /// What was sent for an id is in the table.
    fn note_stored(&mut self, id: usize, written: Written) {
        let part = self.part(id);
        let (count, is_deletion) = (part.len(), part.payload().is_none());
        let progress = &mut self.progress[id];
        progress.stored += count;
        progress.latest = Some(written);
        progress.row_is_gone = is_deletion && self.delete == DurableStateDelete::Row;
    }

    /// Judges a write that was left out by the rows of its id; `None` if it is answered with that.
    fn judge(&mut self, id: usize, rows: &[&Row]) -> Result<Option<Judged>, Failure> {
        let part = self.part(id);
        let Some(first) = rows.first() else {
            // The left join gives every id at least one row; what it did not ask stays open.
            return Ok(None);
        };
        let is_there = first.get::<_, Option<i64>>(0).is_some();
        let row = match the_only_state(
            part.persistence_id(),
            rows.iter().copied().filter(|_| is_there),
        ) {
            Ok(row) => row,
            Err(damage) => {
                self.progress[id].failure = Some(damage);
                return Ok(None);
            }
        };
        let counted = part.count_stored(row.as_ref(), self.delete);
        let nothing_to_remove = row.is_none() && matches!(self.effect(id, part), Effect::Remove);
        let progress = &mut self.progress[id];
        progress.row_is_gone = row.is_none();
        match counted {
            Err(stale) => progress.failure = Some(stale),
            Ok(0) if nothing_to_remove => {
                let written = Written {
                    timestamp: timestamp(first.get(7))?,
                };
                self.note_stored(id, written);
            }
            Ok(0) => return Ok(Some(Judged::Expected)),
            Ok(count) => {
                return Ok(row.map(|row| {
                    let timestamp = row.timestamp;
                    Judged::Made(count, Written { timestamp })
                }));
            }
        }
        Ok(None)
    }

    /// The row of an id is that of the first `count` of the writes that are to be sent.
    fn note_made(&mut self, id: usize, count: usize, written: Written) {
        let progress = &mut self.progress[id];
        progress.stored += count;
        progress.latest = Some(written);
    }

    /// Finds out whose rows are, and what is in the way, by what stands in the places of what goes
    /// with the states.
    async fn answer(&mut self, questions: Vec<Question<'a>>) -> Result<(), Failure> {
        if questions.is_empty() {
            return Ok(());
        }
        let ones: Vec<(&PersistenceId, Companion<'_>)> = questions
            .iter()
            .map(|question| {
                let id = self.folded.get(question.id).persistence_id();
                (id, question.one)
            })
            .collect();
        let occupants = companions::occupants(self.executor, &ones).await?;
        for (Question { id, one, what }, there) in questions.into_iter().zip(occupants) {
            let persistence_id = self.folded.get(id).persistence_id();
            let error = match (there, what) {
                _ if self.progress[id].failure.is_some() => continue,
                (Err(damage), _) => Some(damage),
                (Ok(there), What::IsOwn(count, written)) => {
                    match one.is_own(persistence_id, there.as_ref()) {
                        Ok(()) => {
                            self.note_made(id, count, written);
                            None
                        }
                        Err(other) => Some(other),
                    }
                }
                (Ok(there), What::IsFree(index)) => {
                    let obstacle = one.obstacle(persistence_id, there.as_ref());
                    if obstacle.is_some() && index > 0 {
                        // Those before it go alone.
                        let at_once = &mut self.progress[id].at_once;
                        *at_once = index.min(*at_once);
                        None
                    } else {
                        obstacle
                    }
                }
            };
            if error.is_some() {
                self.progress[id].failure = error;
            }
        }
        Ok(())
    }
}

impl Batch for StateBatch<'_> {
    /// The index of an id.
    type Pending = usize;

    fn len(&self) -> usize {
        self.folded.len()
    }

    fn size(&self, place: usize) -> Size {
        let write = self.folded.get(place);
        let state = size(write.payload().map_or(0, |p| p.bytes.len()), write.tags());
        let (rows, bytes) = write
            .companions()
            .fold((1, state), |(rows, bytes), (_, one)| {
                (rows + 1, bytes + one.bytes())
            });
        Size { rows, bytes }
    }

    fn pending(&mut self, part: &Range<usize>) -> Vec<usize> {
        let is_pending = |&id: &usize| {
            let progress = &self.progress[id];
            progress.failure.is_none() && progress.stored < self.folded.get(id).len()
        };
        part.clone().filter(is_pending).collect()
    }

    fn place(pending: &usize) -> usize {
        *pending
    }

    async fn send(&mut self, pending: &[usize]) -> Result<Option<Refusal>, Failure> {
        let (mut changes, mut additions, mut removals) = (Vec::new(), Vec::new(), Vec::new());
        for &id in pending {
            let write = self.part(id);
            match self.effect(id, write) {
                Effect::Change => changes.push(write),
                Effect::Add => additions.push(write),
                Effect::Remove => removals.push(write),
            }
        }
        let rows = write_batch(self.executor, &changes, &additions, &removals).await?;
        let left_out = pending.len() - rows.len().min(pending.len());
        let mut next = 0;
        for row in &rows {
            let name: &str = row.get(0);
            let name_of = |id: usize| self.folded.get(id).persistence_id().as_str();
            // They come in the order in which they were sent, as a rule and not by promise.
            let found = match pending.get(next) {
                Some(&id) if name_of(id) == name => Ok(next),
                _ => pending.binary_search_by(|&id| name_of(id).cmp(name)),
            };
            if let Ok(at) = found {
                next = at + 1;
                let id = pending[at];
                match timestamp(row.get(1)) {
                    Ok(timestamp) => self.note_stored(id, Written { timestamp }),
                    Err(failure) => self.fail(&id, &failure),
                }
            }
        }
        Ok((left_out > 0).then(Refusal::left_out))
    }

    async fn explain(&mut self, pending: &[usize]) -> Result<(), Failure> {
        let writes = pending.iter().map(|&id| self.part(id));
        let (names, maybe_stored): (Vec<&str>, Vec<bool>) = writes
            .map(|write| (write.persistence_id().as_str(), write.maybe_stored()))
            .unzip();
        let rows = self
            .executor
            .call(&READ_CURRENT, &[&names, &maybe_stored])
            .await?;
        let mut of_each: Vec<Vec<&Row>> = vec![Vec::new(); pending.len()];
        for row in &rows {
            if let Some(rows) = ordinality(row.get(6)).and_then(|at| of_each.get_mut(at)) {
                rows.push(row);
            }
        }
        let mut questions = Vec::new();
        for (&id, rows) in pending.iter().zip(of_each) {
            match self.judge(id, &rows)? {
                None => {}
                Some(Judged::Made(count, written)) => match self.part(id).witness(count) {
                    Some(one) => questions.push(Question {
                        id,
                        one,
                        what: What::IsOwn(count, written),
                    }),
                    None => self.note_made(id, count, written),
                },
                Some(Judged::Expected) => {
                    let companions = self.part(id).companions();
                    questions.extend(companions.map(|(index, one)| Question {
                        id,
                        one,
                        what: What::IsFree(index),
                    }));
                }
            }
        }
        self.answer(questions).await
    }

    /// Of several writes of an id the last one is refused, perhaps not the first ones.
    fn divide(&mut self, &id: &usize) -> bool {
        let is_divisible = self.part(id).len() > 1;
        if is_divisible {
            self.progress[id].at_once = 1;
        }
        is_divisible
    }

    fn fail(&mut self, &id: &usize, failure: &Failure) {
        let persistence_id = self.folded.get(id).persistence_id();
        self.progress[id].failure = Some(failure.clone().into_error(persistence_id));
    }

    fn fail_rest(&mut self, failure: &Failure) {
        for id in self.pending(&(0..self.folded.len())) {
            self.fail(&id, failure);
        }
    }
}

fn size(payload: usize, tags: Option<&[String]>) -> usize {
    let tags = tags.unwrap_or_default();
    payload + tags.iter().map(String::len).sum::<usize>()
}

fn size_of_write(write: &StateWrite) -> usize {
    let state = match write.change() {
        StateChange::Put { payload, tags } => size(payload.bytes.len(), Some(tags)),
        StateChange::Delete => 0,
    };
    let company: usize = write.companions().map(|one| one.bytes()).sum();
    state + company
}

fn too_large(write: &StateWrite) -> Option<Error> {
    let size = size_of_write(write);
    (size > LARGEST_WRITE).then(|| Error::Rejected {
        persistence_id: write.persistence_id().clone(),
        reason: format!(
            "a state of {size} bytes is too large; at most {LARGEST_WRITE} fit a statement"
        ),
        source: None,
    })
}

/// How many writes of an id may go as one. Only the last state is sent, but all that goes with them.
fn most_at_once(write: FoldedWrite<'_, '_>) -> usize {
    if !write.has_company() {
        return write.len();
    }
    let mut of_each = vec![0; write.len()];
    for (index, one) in write.companions() {
        of_each[index] += one.bytes();
    }
    let largest = of_each.into_iter().max().unwrap_or(0);
    let fitting = LARGEST_WRITE.checked_div(largest).unwrap_or(usize::MAX);
    fitting.clamp(1, write.len().max(1))
}

/// Stores states in one transaction. Gives id and time of each that it has stored.
async fn write_batch(
    executor: &Executor,
    changes: &[FoldedWrite<'_, '_>],
    additions: &[FoldedWrite<'_, '_>],
    removals: &[FoldedWrite<'_, '_>],
) -> Result<Vec<Row>, Failure> {
    type Write<'a> = FoldedWrite<'a, 'a>;

    fn id(write: &Write<'_>, out: &mut BytesMut) -> IsNull {
        put_text(write.persistence_id().as_str(), out)
    }
    fn number(number: SequenceNr, out: &mut BytesMut) -> IsNull {
        out.put_i64(number.to_i64());
        IsNull::No
    }
    fn expected(write: &Write<'_>, out: &mut BytesMut) -> IsNull {
        number(write.expected(), out)
    }
    fn revision(write: &Write<'_>, out: &mut BytesMut) -> IsNull {
        number(write.revision(), out)
    }
    fn later_by(write: &Write<'_>, out: &mut BytesMut) -> IsNull {
        put_microseconds(write.position(), out)
    }
    fn serializer_id(write: &Write<'_>, out: &mut BytesMut) -> IsNull {
        out.put_i32(payload_columns(write.payload()).0);
        IsNull::No
    }
    fn manifest(write: &Write<'_>, out: &mut BytesMut) -> IsNull {
        put_text(payload_columns(write.payload()).1, out)
    }
    fn payload(write: &Write<'_>, out: &mut BytesMut) -> IsNull {
        out.put_slice(payload_columns(write.payload()).2);
        IsNull::No
    }
    fn tags(write: &Write<'_>, out: &mut BytesMut) -> IsNull {
        put_tags(write.tags().unwrap_or_default(), out)
    }
    fn keeps_tags(write: &Write<'_>, out: &mut BytesMut) -> IsNull {
        out.put_u8(write.tags().is_none().into());
        IsNull::No
    }
    fn slice(write: &Write<'_>, out: &mut BytesMut) -> IsNull {
        out.put_i32(write.persistence_id().slice().into());
        IsNull::No
    }
    fn entity_type(write: &Write<'_>, out: &mut BytesMut) -> IsNull {
        put_text(write.persistence_id().entity_type(), out)
    }

    fn position(write: &Write<'_>, out: &mut BytesMut) -> IsNull {
        out.put_i32(i32::try_from(write.position()).unwrap_or(i32::MAX));
        IsNull::No
    }
    fn steps(write: &Write<'_>, out: &mut BytesMut) -> IsNull {
        out.put_i32(i32::try_from(write.time_steps()).unwrap_or(i32::MAX));
        IsNull::No
    }

    let mut writes = changes.iter().chain(additions);
    if writes.any(FoldedWrite::has_company) {
        let states: [&(dyn ToSql + Sync); 19] = [
            &Column::new(changes, Type::TEXT, id),
            &Column::new(changes, Type::INT8, expected),
            &Column::new(changes, Type::INT8, revision),
            &Column::new(changes, Type::INT4, position),
            &Column::new(changes, Type::INT4, steps),
            &Column::new(changes, Type::INT4, serializer_id),
            &Column::new(changes, Type::TEXT, manifest),
            &Column::new(changes, Type::BYTEA, payload),
            &Column::new(changes, Type::BOOL, keeps_tags),
            &Column::new(changes, Type::TEXT, tags),
            &Column::new(additions, Type::INT4, slice),
            &Column::new(additions, Type::TEXT, entity_type),
            &Column::new(additions, Type::TEXT, id),
            &Column::new(additions, Type::INT8, revision),
            &Column::new(additions, Type::INT4, position),
            &Column::new(additions, Type::INT4, serializer_id),
            &Column::new(additions, Type::TEXT, manifest),
            &Column::new(additions, Type::BYTEA, payload),
            &Column::new(additions, Type::TEXT, tags),
        ];
        // Where rows are removed nothing goes with any.
        debug_assert!(removals.is_empty(), "rows are removed and have company");
        let sql = &WRITE_BATCH_WITH_COMPANIONS;
        let writes = changes.iter().chain(additions);
        return companions::write_with(executor, sql, &states, writes).await;
    }
    let changed: [&(dyn ToSql + Sync); 9] = [
        &Column::new(changes, Type::TEXT, id),
        &Column::new(changes, Type::INT8, expected),
        &Column::new(changes, Type::INT8, revision),
        &Column::new(changes, Type::INTERVAL, later_by),
        &Column::new(changes, Type::INT4, serializer_id),
        &Column::new(changes, Type::TEXT, manifest),
        &Column::new(changes, Type::BYTEA, payload),
        &Column::new(changes, Type::BOOL, keeps_tags),
        &Column::new(changes, Type::TEXT, tags),
    ];
    if additions.is_empty() && removals.is_empty() {
        return executor.call(&CHANGE_BATCH, &changed).await;
    }
    let others: [&(dyn ToSql + Sync); 11] = [
        &Column::new(additions, Type::INT4, slice),
        &Column::new(additions, Type::TEXT, entity_type),
        &Column::new(additions, Type::TEXT, id),
        &Column::new(additions, Type::INT8, revision),
        &Column::new(additions, Type::INTERVAL, later_by),
        &Column::new(additions, Type::INT4, serializer_id),
        &Column::new(additions, Type::TEXT, manifest),
        &Column::new(additions, Type::BYTEA, payload),
        &Column::new(additions, Type::TEXT, tags),
        &Column::new(removals, Type::TEXT, id),
        &Column::new(removals, Type::INT8, expected),
    ];
    executor
        .call(&WRITE_BATCH, &[&changed[..], &others[..]].concat())
        .await
}
