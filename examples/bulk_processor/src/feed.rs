//! From the reader to the actor: no faster than items are taken, nor than somebody wants.

use std::pin::pin;
use std::time::Duration;

use flight_table::ahead::Batches;
use flight_table::input;
use flight_table::patience::{AskFailure, GaveUp, Patience};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep_until};

use crate::item::{Item, Row};

/// How long items on their way are waited for after a stop.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// How to hand items over.
#[derive(Debug)]
pub struct Feed<'a> {
    /// How many may be on their way at once, at least 1.
    pub under_way: usize,
    /// How many per second at the most.
    pub rate: Option<f64>,
    /// How many rows are kept for later.
    pub sample: usize,
    /// How long to ask again.
    pub patience: &'a Patience,
}

/// What was handed over.
#[derive(Debug, Default)]
pub struct Fed {
    /// All items that were taken. After [`End::Complete`] these are all there are.
    pub items: u64,
    /// The first good rows.
    pub sample: Vec<(i64, Row)>,
    /// Why it ended.
    pub end: End,
}

/// How it ended.
#[derive(Debug, Default)]
pub enum End {
    /// All items are taken.
    #[default]
    Complete,
    /// It was stopped.
    Stopped,
    /// It cannot go on.
    Failed(Error),
}

/// Why it cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The table cannot be read. All items before are taken.
    #[error(transparent)]
    Input(#[from] input::Error),
    /// An item is not taken.
    #[error("row {line} is not taken")]
    NotTaken {
        /// Which data row.
        line: i64,
        /// Why asking came to an end.
        source: GaveUp,
    },
}

/// Hands every item to `take` until all are taken or `stop` is ready.
///
/// # Cancel safety
/// Items on their way may be taken or not. Let `stop` become ready instead.
pub async fn feed<F>(
    options: Feed<'_>,
    mut batches: Batches<Item>,
    take: impl Fn(Item) -> F,
    stop: impl Future<Output = ()>,
) -> Fed
where
    F: Future<Output = Result<(), AskFailure>>,
{
    let patience = options.patience;
    let begun = Instant::now();
    let mut fed = Fed::default();
    let mut waiting = Vec::new().into_iter();
    let mut next: Option<Item> = None;
    // How many were sent off, for the rate.
    let mut sent: u64 = 0;
    let mut under_way = FuturesUnordered::new();
    let mut stop = pin!(stop);
    let mut is_at_end = false;
    let mut failure = None;

    loop {
        if next.is_none() {
            next = waiting.next();
        }
        let may_go = next.is_some() && under_way.len() < options.under_way.max(1);
        let due = due(begun, sent, options.rate);
        if may_go
            && due <= Instant::now()
            && let Some(item) = next.take()
        {
            if fed.sample.len() < options.sample
                && item.is_good()
                && let Ok(row) = &item.content
            {
                fed.sample.push((item.line, row.clone()));
            }
            sent += 1;
            let take = &take;
            under_way.push(async move {
                let ask = async || take(item.clone()).await;
                (item.line, patience.insist(ask, |_| ()).await)
            });
            continue;
        }
        if next.is_none() && is_at_end && under_way.is_empty() {
            fed.end = failure.map_or(End::Complete, End::Failed);
            return fed;
        }
        tokio::select! {
            biased;
            () = &mut stop => break,
            Some((line, taken)) = under_way.next() => match taken {
                Ok(()) => fed.items += 1,
                Err(source) => {
                    fed.end = End::Failed(Error::NotTaken { line, source });
                    return fed;
                }
            },
            batch = batches.recv(), if next.is_none() && !is_at_end => match batch {
                Some(Ok(batch)) => waiting = batch.into_iter(),
                Some(Err(error)) => {
                    is_at_end = true;
                    failure = Some(error.into());
                }
                None => is_at_end = true,
            },
            () = sleep_until(due), if may_go => {}
        }
    }

    patience.stop();
    let deadline = Instant::now() + STOP_WITHIN;
    let rest = async {
        while let Some((_, taken)) = under_way.next().await {
            fed.items += u64::from(taken.is_ok());
        }
    };
    let _ = tokio::time::timeout_at(deadline, rest).await;
    fed.end = End::Stopped;
    fed
}

/// When the next item may go after `sent` others.
fn due(begun: Instant, sent: u64, rate: Option<f64>) -> Instant {
    const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    let Some(rate) = rate else {
        return begun;
    };
    #[expect(clippy::cast_precision_loss, reason = "nobody waits for 2^53 items")]
    let after = Duration::try_from_secs_f64(sent as f64 / rate);
    begun + after.map_or(LONGEST, |after| after.min(LONGEST))
}

#[cfg(test)]
mod tests;
