//! The way of a batch into the table.
//!
//! Batches come from the actor through a channel with one place; whoever sends one waits until it is
//! written. The database is asked from here, on the run's own thread or one that may be blocked, and
//! never on a worker of the actor system.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use flight_table::patience::{GaveUp, Patience};
use flight_table::progress::Progress;
use tokio::sync::{mpsc, oneshot};

use crate::item::Item;
use crate::table::{Stored, Table};

/// Why a batch is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It is full.
    Full,
    /// Its first item has waited for long enough.
    Linger,
    /// Somebody asked.
    Asked,
}

/// Where batches are given away. A clone leads to the same place.
#[derive(Debug, Clone)]
pub struct Sink {
    sender: mpsc::Sender<Batch>,
}

/// A batch on its way.
#[derive(Debug)]
pub struct Batch {
    pub(crate) reason: Reason,
    pub(crate) items: Vec<Item>,
    /// To tell that it is written.
    pub(crate) written: oneshot::Sender<()>,
}

/// Nothing is written any more: the run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nothing is written any more")]
pub struct Closed;

impl Sink {
    /// A sink, and where its batches arrive.
    pub fn new() -> (Self, mpsc::Receiver<Batch>) {
        let (sender, receiver) = mpsc::channel(1);
        (Self { sender }, receiver)
    }

    /// Gives a batch away, and waits until it is written: every item of it is in the table, set aside,
    /// or was there.
    ///
    /// # Errors
    /// [`Closed`] when the run ends before. The batch may be written or not.
    pub fn write(
        &self,
        reason: Reason,
        items: Vec<Item>,
    ) -> impl Future<Output = Result<(), Closed>> + Send + use<> {
        let sender = self.sender.clone();
        async move {
            let (written, done) = oneshot::channel();
            let batch = Batch {
                reason,
                items,
                written,
            };
            sender.send(batch).await.map_err(|_| Closed)?;
            done.await.map_err(|_| Closed)
        }
    }
}

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Batches by reason.
    pub full: u64,
    /// See [`Reason::Linger`].
    pub linger: u64,
    /// See [`Reason::Asked`].
    pub asked: u64,
    /// How many items each batch had, by how many batches there were of that size.
    pub sizes: Sizes,
    /// Rows that were not there before.
    pub stored: u64,
    /// Rows set aside that were not there before.
    pub set_aside: u64,
}

impl Tally {
    /// All batches.
    pub fn flushes(&self) -> u64 {
        self.full + self.linger + self.asked
    }

    fn add(&mut self, reason: Reason, items: usize, stored: &Stored) {
        *match reason {
            Reason::Full => &mut self.full,
            Reason::Linger => &mut self.linger,
            Reason::Asked => &mut self.asked,
        } += 1;
        self.sizes.add(items);
        self.stored += stored.stored;
        self.set_aside += stored.set_aside;
    }
}

/// Sizes of batches, of which there are few.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sizes {
    counts: BTreeMap<usize, u64>,
}

impl Sizes {
    fn add(&mut self, size: usize) {
        *self.counts.entry(size).or_default() += 1;
    }

    /// The size of which so large a part of all batches is no larger; 0 without any.
    pub fn quantile(&self, part: f64) -> usize {
        let all: u64 = self.counts.values().sum();
        let mut seen = 0;
        for (size, count) in &self.counts {
            seen += count;
            #[expect(clippy::cast_precision_loss, reason = "nobody flushes 2^53 times")]
            if seen as f64 >= part * all as f64 {
                return *size;
            }
        }
        0
    }
}

/// Writes batches until no [`Sink`] is left. Gives the table back.
///
/// # Errors
/// Why a batch cannot be written. It and what comes after it is refused as [`Closed`].
pub async fn write_all(
    mut table: Table,
    mut batches: mpsc::Receiver<Batch>,
    patience: &Patience,
    tally: &RefCell<Tally>,
    progress: &mut Progress,
) -> Result<Table, GaveUp> {
    while let Some(Batch {
        reason,
        items,
        written,
    }) = batches.recv().await
    {
        let count = items.len();
        let items: Arc<[Item]> = items.into();
        let write = async || table.store(Arc::clone(&items)).await;
        let stored = patience.insist(write, |_| ()).await?;
        tally.borrow_mut().add(reason, count, &stored);
        progress.add(u64::try_from(count).unwrap_or(u64::MAX));
        // Whoever gave it away may have gone.
        let _ = written.send(());
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_by_their_quantiles() {
        let mut sizes = Sizes::default();
        assert_eq!(sizes.quantile(0.5), 0);
        for size in [500, 500, 500, 4, 0, 12] {
            sizes.add(size);
        }
        let told = [0.0, 0.5, 0.6, 1.0].map(|part| sizes.quantile(part));
        assert_eq!(told, [0, 12, 500, 500]);
    }

    #[tokio::test]
    async fn a_sink_that_nobody_empties_is_closed() {
        let (sink, batches) = Sink::new();
        drop(batches);
        assert_eq!(sink.write(Reason::Asked, Vec::new()).await, Err(Closed));
        let (sink, mut batches) = Sink::new();
        let write = tokio::spawn(sink.write(Reason::Full, Vec::new()));
        drop(batches.recv().await.expect("it was sent"));
        assert_eq!(write.await.expect("no panic"), Err(Closed));
    }
}
