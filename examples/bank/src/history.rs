//! What stands in the journal of an account, read by the entity itself.

use std::sync::{Arc, OnceLock};

use perennial::persistence::{
    Codec, Journal, PageLimit, PersistenceId, SequenceNr, Store, StoredEvent, Timestamp,
};
use perennial::{ConfigError, ConfigSource, OpenStore, StorePlugin};

use crate::account::{AccountEvent, Decision, Page, codec};
use crate::money::TransferId;

/// Rows of one call, and bytes after which it gives what it has.
const PAGE: PageLimit = PageLimit {
    rows: 500,
    bytes: 1 << 20,
};

/// The journals of accounts. Cheap to clone; there is something to read once the store is open.
#[derive(Debug, Clone, Default)]
pub struct History {
    store: Arc<OnceLock<Arc<dyn Store>>>,
}

/// An event with its number and time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAccountEvent {
    /// Its number, from 1.
    pub sequence_nr: u64,
    /// When it was stored, by the database's clock.
    pub time: Timestamp,
    /// What happened.
    pub event: AccountEvent,
}

/// The journal cannot be read now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the journal of the account cannot be read: {reason}")]
pub struct Unreadable {
    /// Why.
    pub reason: String,
}

impl Unreadable {
    fn new(error: impl ToString) -> Self {
        let reason = error.to_string();
        Self { reason }
    }
}

impl History {
    /// Says which store it is, once it is open. The first one counts, which is the system's own.
    pub fn is(&self, store: Arc<dyn Store>) {
        let _ = self.store.set(store);
    }

    /// The stores that the system may choose from; the one that it opens is the one to read.
    pub fn watching(&self, plugins: Vec<Box<dyn StorePlugin>>) -> Vec<Box<dyn StorePlugin>> {
        let watch = |plugin| -> Box<dyn StorePlugin> {
            Box::new(Watched {
                plugin,
                history: self.clone(),
            })
        };
        plugins.into_iter().map(watch).collect()
    }

    /// Up to `limit` events of an account after number `after`.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub async fn page(
        &self,
        id: &PersistenceId,
        after: u64,
        limit: usize,
    ) -> Result<Page, Unreadable> {
        let mut page = Page {
            events: Vec::new(),
            more: false,
        };
        let mut reader = self.reader(id, after, SequenceNr::MAX)?;
        while page.events.len() < limit {
            let rows = PAGE.rows.min(limit - page.events.len());
            let Some(events) = reader.next(rows).await? else {
                return Ok(page);
            };
            for event in events {
                page.events.push(StoredAccountEvent {
                    sequence_nr: event.seq_nr.value(),
                    time: event.timestamp,
                    event: decoded(&event)?,
                });
            }
        }
        page.more = reader.more;
        Ok(page)
    }

    /// The last decision about a transfer among the events after number `after` up to `to`.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub async fn decision(
        &self,
        id: &PersistenceId,
        transfer: TransferId,
        after: u64,
        to: u64,
    ) -> Result<Option<Decision>, Unreadable> {
        let to = SequenceNr::new(to).unwrap_or(SequenceNr::MAX);
        let mut reader = self.reader(id, after, to)?;
        let mut last = None;
        while let Some(events) = reader.next(PAGE.rows).await? {
            for event in events {
                if let Some((of, decision)) = decoded(&event)?.decision()
                    && of == transfer
                {
                    last = Some(decision);
                }
            }
        }
        Ok(last)
    }

    fn reader<'a>(
        &self,
        id: &'a PersistenceId,
        after: u64,
        to: SequenceNr,
    ) -> Result<Reader<'a>, Unreadable> {
        let store = self.store.get();
        let store = store.ok_or_else(|| Unreadable::new("the store is not open"))?;
        let after = SequenceNr::new(after).unwrap_or(SequenceNr::MAX);
        Ok(Reader {
            journal: store.journal(),
            id,
            // There is nothing after the highest number, so it reads nothing.
            more: after < to,
            from: if after < to { after.next() } else { to },
            to,
        })
    }
}

fn decoded(event: &StoredEvent) -> Result<AccountEvent, Unreadable> {
    let decoded = codec().decode(&event.payload);
    decoded.map_err(|error| Unreadable::new(format_args!("event {}: {error}", event.seq_nr)))
}

/// Reads an account's events page by page.
struct Reader<'a> {
    journal: Arc<dyn Journal>,
    id: &'a PersistenceId,
    from: SequenceNr,
    to: SequenceNr,
    more: bool,
}

impl Reader<'_> {
    /// Further events, up to `rows`; `None` if there are none.
    async fn next(&mut self, rows: usize) -> Result<Option<Vec<StoredEvent>>, Unreadable> {
        if !self.more {
            return Ok(None);
        }
        let limit = PageLimit { rows, ..PAGE };
        let page = self
            .journal
            .replay_events(self.id, self.from, self.to, limit)
            .await
            .map_err(Unreadable::new)?;
        self.more = page.more && page.highest < self.to;
        if self.more {
            self.from = page.highest.next();
        }
        Ok(Some(page.events))
    }
}

/// A store that is told to a [`History`] when it is opened.
#[derive(Debug)]
struct Watched {
    plugin: Box<dyn StorePlugin>,
    history: History,
}

impl StorePlugin for Watched {
    fn name(&self) -> &'static str {
        self.plugin.name()
    }

    fn configure(&self, source: &ConfigSource) -> Result<OpenStore, ConfigError> {
        let open = self.plugin.configure(source)?;
        let history = self.history.clone();
        Ok(Box::new(move || {
            let opening = open();
            Box::pin(async move {
                let store = opening.await?;
                history.is(Arc::clone(&store));
                Ok(store)
            })
        }))
    }
}
