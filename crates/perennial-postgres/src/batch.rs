//! Writing a batch: few statements for all of it, and finding out whose fault a failure is.
//!
//! A statement stores all of its writes or none. When it fails over one of them, the others must
//! not suffer:
//!
//! - A row that is not as a write expects: one query looks at the rows of all of the statement's
//!   writes. What is stored already and what never can be is answered; what is left is sent again.
//! - Refused data, and failures that may be some write's fault: the batch is halved until the
//!   refused write is alone.
//! - No connection: nothing is known about any of the writes, so all of them fail.
//!
//! The writes stand in the order of their ids, so that two batches that run at the same time wait
//! for each other's keys in one order.

use std::future::Future;
use std::ops::Range;

use crate::error::{Failure, Refusal};

/// How often the writes of one statement are sent again after their rows were looked at. Each
/// round answers a write at least, and only racing writers need more than one.
const ROUNDS: usize = 4;

/// How much one statement carries at the most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StatementBounds {
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
}

/// The most bytes of a write. PostgreSQL ends the connection over a message of a gibibyte, which
/// would look like a lost one and be tried again for ever.
pub(crate) const LARGEST_WRITE: usize = 512 << 20;

/// How much of a statement a write takes, columns of fixed size not counted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
}

/// A batch while it is being written. It keeps the answers itself.
pub(crate) trait Batch: Send {
    /// An unanswered write.
    type Pending: Send + Sync;

    /// How many writes there are.
    fn len(&self) -> usize;

    /// What the write with this place in the order takes.
    fn size(&self, place: usize) -> Size;

    /// The unanswered writes of a part of the order.
    fn pending(&mut self, part: &Range<usize>) -> Vec<Self::Pending>;

    /// Its place in the order.
    fn place(pending: &Self::Pending) -> usize;

    /// Stores writes in one transaction and answers them. Says why if it left some out.
    fn send(
        &mut self,
        pending: &[Self::Pending],
    ) -> impl Future<Output = Result<Option<Refusal>, Failure>> + Send;

    /// Looks at the rows of writes that were left out or refused as duplicates, and answers those
    /// that need not be sent again.
    fn explain(
        &mut self,
        pending: &[Self::Pending],
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Makes less of a write that is refused by itself; `false` if that is not possible.
    fn divide(&mut self, _pending: &Self::Pending) -> bool {
        false
    }

    /// Answers a write with a failure.
    fn fail(&mut self, pending: &Self::Pending, failure: &Failure);

    /// Answers with a failure whatever is not answered yet.
    fn fail_rest(&mut self, failure: &Failure);
}

/// Writes everything and answers each write. `failure` is how a first attempt at the whole batch
/// ended.
pub(crate) async fn write<B: Batch>(
    batch: &mut B,
    bounds: StatementBounds,
    mut failure: Option<Failure>,
) {
    // A stack: the parts that come first in the order lie on top.
    let mut parts = parts(batch, bounds);
    parts.reverse();
    while let Some(part) = parts.pop() {
        if let Err(failure) = write_part(batch, &part, &mut parts, failure.take()).await {
            // Whoever was in the failed statement is answered; the rest was never sent.
            batch.fail_rest(&failure.of_reading());
            break;
        }
    }
}

/// The order, cut where a statement would become too large.
fn parts<B: Batch>(batch: &B, bounds: StatementBounds) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let (mut start, mut rows, mut bytes) = (0, 0, 0);
    for place in 0..batch.len() {
        let size = batch.size(place);
        if place > start && (rows + size.rows > bounds.rows || bytes + size.bytes > bounds.bytes) {
            parts.push(start..place);
            (start, rows, bytes) = (place, 0, 0);
        }
        rows += size.rows;
        bytes += size.bytes;
    }
    if start < batch.len() {
        parts.push(start..batch.len());
    }
    parts
}

/// Answers the writes of one part of the order, or pushes what is left to do onto `parts`.
///
/// Fails if the store is unavailable, after answering those who were sent.
async fn write_part<B: Batch>(
    batch: &mut B,
    part: &Range<usize>,
    parts: &mut Vec<Range<usize>>,
    mut failure: Option<Failure>,
) -> Result<(), Failure> {
    let mut unexplained = None;
    for _ in 0..ROUNDS {
        let pending = batch.pending(part);
        if pending.is_empty() {
            return Ok(());
        }
        let sent = match failure.take() {
            Some(failure) => Err(failure),
            None => batch.send(&pending).await,
        };
        match sent {
            Ok(None) => {
                // A divided write goes on with its next piece.
                if !batch.pending(part).is_empty() {
                    parts.push(part.clone());
                }
                return Ok(());
            }
            Ok(Some(refusal)) | Err(Failure::Duplicate(refusal)) => {
                unexplained = Some(refusal);
                let left_out = batch.pending(part);
                if let Err(failure) = batch.explain(&left_out).await {
                    // Nothing of these writes is stored.
                    let failure = failure.of_reading();
                    fail_all(batch, &left_out, &failure);
                    return Err(failure);
                }
                // Whatever is left is sent again.
            }
            Err(failure @ Failure::Unavailable { .. }) => {
                fail_all(batch, &pending, &failure);
                return Err(failure);
            }
            Err(failure @ (Failure::Refused(_) | Failure::Broken(_))) => {
                halve(batch, part, parts, &pending, &failure);
                return Ok(());
            }
        }
    }
    // Not their own rows: another unique index, or a trigger, which refuses like any constraint.
    let pending = batch.pending(part);
    if let Some(refusal) = unexplained {
        halve(batch, part, parts, &pending, &Failure::Refused(refusal));
    }
    Ok(())
}

fn fail_all<B: Batch>(batch: &mut B, pending: &[B::Pending], failure: &Failure) {
    for pending in pending {
        batch.fail(pending, failure);
    }
}

/// Answers a lone write, or has the two halves of several tried by themselves.
fn halve<B: Batch>(
    batch: &mut B,
    part: &Range<usize>,
    parts: &mut Vec<Range<usize>>,
    pending: &[B::Pending],
    failure: &Failure,
) {
    match pending {
        [] => {}
        [one] if batch.divide(one) => parts.push(part.clone()),
        [one] => batch.fail(one, failure),
        several => {
            let cut = B::place(&several[several.len() / 2]);
            parts.push(cut..part.end);
            parts.push(part.start..cut);
        }
    }
}
