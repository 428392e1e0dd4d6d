//! The journal in memory.

use std::collections::BTreeMap;

use perennial_persistence::{
    AtomicWrite, BoxFuture, Error, Journal, PageLimit, PersistenceId, Previous, ReplayPage,
    SequenceNr, StoredEvent, Timestamp, Written,
};

use super::{Handle, Row, Tables, after, command_replies, reminders};

impl Journal for Handle {
    fn write_events<'a>(
        &'a self,
        batch: &'a [AtomicWrite],
    ) -> BoxFuture<'a, Vec<Result<Written, Error>>> {
        Box::pin(async move {
            match self.tables() {
                Ok(mut tables) => write_batch(&mut tables, self.now(), batch),
                Err(error) => vec![Err(error); batch.len()],
            }
        })
    }

    fn replay_events<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        from: SequenceNr,
        to: SequenceNr,
        limit: PageLimit,
    ) -> BoxFuture<'a, Result<ReplayPage, Error>> {
        Box::pin(async move { Ok(read_page(&*self.tables()?, persistence_id, from, to, limit)) })
    }

    fn highest_sequence_nr<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        from: SequenceNr,
    ) -> BoxFuture<'a, Result<SequenceNr, Error>> {
        Box::pin(async move {
            let highest = highest(&*self.tables()?, persistence_id);
            Ok(if highest >= from {
                highest
            } else {
                SequenceNr::ZERO
            })
        })
    }

    fn delete_events<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        to: SequenceNr,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            delete(&mut *self.tables()?, self.now(), persistence_id, to);
            Ok(())
        })
    }

    fn remove_events<'a>(
        &'a self,
        persistence_id: &'a PersistenceId,
        to: SequenceNr,
        limit: usize,
    ) -> BoxFuture<'a, Result<usize, Error>> {
        Box::pin(async move {
            let mut tables = self.tables()?;
            let Some(rows) = tables.journal.get_mut(persistence_id) else {
                return Ok(0);
            };
            let numbers = rows.keys().copied().take_while(|&seq_nr| seq_nr <= to);
            let lowest: Vec<SequenceNr> = numbers.take(limit).collect();
            for seq_nr in &lowest {
                rows.remove(seq_nr);
            }
            if rows.is_empty() {
                tables.journal.remove(persistence_id);
            }
            Ok(lowest.len())
        })
    }
}

fn write_batch(
    tables: &mut Tables,
    now: Timestamp,
    batch: &[AtomicWrite],
) -> Vec<Result<Written, Error>> {
    let mut failed: BTreeMap<&PersistenceId, Error> = BTreeMap::new();
    let mut timestamp = now;
    batch
        .iter()
        .map(|write| {
            let id = write.persistence_id();
            let answer = match failed.get(id) {
                Some(error) => Err(error.clone()),
                None => store(tables, timestamp, write),
            };
            if let Err(error) = &answer {
                failed.insert(id, error.clone());
            }
            timestamp = after(timestamp);
            answer
        })
        .collect()
}

/// Stores one write whole, or nothing of it.
fn store(tables: &mut Tables, now: Timestamp, write: &AtomicWrite) -> Result<Written, Error> {
    let id = write.persistence_id();
    if let Some(written) = find_written(tables, write)? {
        return Ok(written);
    }
    for event in write.events() {
        tables.check_serializer(id, event.payload.serializer_id)?;
    }
    if let Some(reply) = write.reply() {
        command_replies::check(tables, id, reply)?;
    }
    reminders::check(tables, id, write.reminders())?;

    let mut none = BTreeMap::new();
    let rows = match write.events() {
        [] => tables.journal.get_mut(id).unwrap_or(&mut none),
        _ => tables.journal.entry(id.clone()).or_default(),
    };
    let previous = match write.previous {
        Previous::None => None,
        Previous::At(timestamp) => Some(timestamp),
        Previous::Unknown => {
            // The first number is at least 1, so there is always a number before.
            let before = SequenceNr::new(write.first().value() - 1).unwrap_or_default();
            rows.get(&before).map(|row| row.timestamp)
        }
    };
    let timestamp = previous.map_or(now, |previous| now.max(after(previous)));
    for (seq_nr, event) in write.numbered() {
        let event = Some((write.writer(), event.clone()));
        rows.insert(seq_nr, Row { timestamp, event });
    }
    if let Some(reply) = write.reply() {
        command_replies::insert(tables, id, write.last(), timestamp, reply);
    }
    reminders::change(tables, id, write.reminders());
    Ok(Written { timestamp })
}

/// What was answered to the identical write before; `None` if its numbers are free. The fence is no
/// stronger than the contract demands, so that what works here works on every store.
fn find_written(tables: &Tables, write: &AtomicWrite) -> Result<Option<Written>, Error> {
    let id = write.persistence_id();
    let Some(rows) = tables.journal.get(id) else {
        return Ok(None);
    };
    let (witnesses, last) = write.witnesses();
    let is_free = rows.range(write.first()..=last).next().is_none();
    let mut beyond = rows.range(write.first()..).map(|(_, row)| row);
    let is_deleted = beyond.any(|row| row.event.is_none());
    #[cfg(feature = "defects")]
    let is_deleted = is_deleted && !tables.has_no_fence;
    if is_free && !is_deleted {
        return Ok(None);
    }
    let highest = highest(tables, id);

    let mut timestamp = None;
    let mut found = 0;
    for (&seq_nr, row) in rows.range(write.first()..=last) {
        let index = seq_nr.value() - write.first().value();
        let index = usize::try_from(index).expect("it is below the number of the write's events");
        match &row.event {
            Some((writer, event)) if *writer == write.writer() => {
                if write.events().get(index).is_some_and(|own| event != own) {
                    return Err(Error::Rejected {
                        persistence_id: id.clone(),
                        reason: format!(
                            "sequence number {seq_nr} was written by the same writer with other \
                             content, which no writer may do"
                        ),
                        source: None,
                    });
                }
                found += 1;
                timestamp.get_or_insert(row.timestamp);
            }
            Some(_) => {
                return Err(Error::Conflict {
                    persistence_id: id.clone(),
                    seq_nr,
                });
            }
            None => {}
        }
    }
    match timestamp {
        Some(timestamp) if found == witnesses => Ok(Some(Written { timestamp })),
        _ => Err(Error::Superseded {
            persistence_id: id.clone(),
            seq_nr: write.first(),
            highest,
        }),
    }
}

fn read_page(
    tables: &Tables,
    persistence_id: &PersistenceId,
    from: SequenceNr,
    to: SequenceNr,
    limit: PageLimit,
) -> ReplayPage {
    let mut page = ReplayPage {
        events: Vec::new(),
        highest: SequenceNr::ZERO,
        highest_timestamp: None,
        more: false,
    };
    let Some(rows) = tables.journal.get(persistence_id) else {
        return page;
    };
    if from > to {
        return page;
    }
    let (mut row_count, mut bytes) = (0, 0);
    for (&seq_nr, row) in rows.range(from..=to) {
        // The first row is always read: without it no page would ever go on.
        if row_count > 0 && (row_count >= limit.rows || bytes >= limit.bytes) {
            page.more = true;
            break;
        }
        row_count += 1;
        page.highest = seq_nr;
        page.highest_timestamp = Some(row.timestamp);
        let Some((_, event)) = &row.event else {
            continue;
        };
        bytes += event.payload.bytes.len();
        page.events.push(StoredEvent {
            seq_nr,
            timestamp: row.timestamp,
            payload: event.payload.clone(),
            metadata: event.metadata.clone(),
        });
    }
    page
}

fn delete(tables: &mut Tables, now: Timestamp, persistence_id: &PersistenceId, to: SequenceNr) {
    let to = if to == SequenceNr::MAX {
        highest(tables, persistence_id)
    } else {
        to
    };
    let rows = tables.journal.entry(persistence_id.clone()).or_default();
    // The next event is timed after the marker.
    let mut timestamp = now;
    rows.retain(|&seq_nr, row| {
        let stays = seq_nr > to;
        if !stays {
            timestamp = timestamp.max(row.timestamp);
        }
        stays
    });
    let marker = Row {
        timestamp,
        event: None,
    };
    rows.insert(to, marker);
}

fn highest(tables: &Tables, persistence_id: &PersistenceId) -> SequenceNr {
    let rows = tables.journal.get(persistence_id);
    let last = rows.and_then(BTreeMap::last_key_value);
    last.map_or(SequenceNr::ZERO, |(&seq_nr, _)| seq_nr)
}
