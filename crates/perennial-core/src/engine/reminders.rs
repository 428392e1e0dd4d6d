//! Reminders: which are due, and which are being handled.
//!
//! A worker has a [`Book`] for each store that may keep reminders of its entities. The book knows
//! every stored reminder up to some time, which is read ahead; what is written here is entered when
//! it is durable. One that is due is sent to its entity and stays in the book until the write that
//! deletes it is durable, or until it fails and waits for its next time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use perennial_persistence::{
    DueReminders, Error, NUMBER_OF_SLICES, PersistenceId, ReminderChange, ReminderKey,
    SerializedPayload, Slice, SliceRange, Store, StoredReminder, Timestamp,
};

use crate::engine::breaker::Call;
use crate::engine::core::TimerKey;
use crate::engine::{Input, Registry};
use crate::error::{AskError, PersistFailure, chain};

/// Whose reminder, and which.
type Place = (PersistenceId, ReminderKey);

/// The reminders of a worker.
#[derive(Default)]
pub(crate) struct Reminders {
    pub(super) books: Vec<Book>,
    /// The timer that wakes the worker for them, and the time that it is set for.
    pub(super) timer: Option<TimerKey>,
    /// How the worker is reached by what ends elsewhere.
    registry: Option<Arc<Registry>>,
    worker: usize,
}

/// An entity type whose entities may have reminders.
#[derive(Debug, Clone)]
pub(crate) struct Remindable {
    /// The index of the type.
    pub(crate) host: usize,
    pub(crate) name: Arc<str>,
    /// The number of the store.
    pub(crate) store: usize,
    /// The shortest and the longest wait after a failure.
    pub(crate) backoff: (Duration, Duration),
}

/// How far ahead, how many, and how many at once.
#[derive(Debug, Clone, Copy)]
pub struct ReminderSettings {
    /// How far ahead reminders are read.
    pub window: Duration,
    /// How many are kept ready by one worker; at least 1.
    pub ahead: usize,
    /// How many of one worker are being handled at once; at least 1.
    pub at_once: usize,
}

impl Default for ReminderSettings {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(60),
            ahead: 10_000,
            at_once: 256,
        }
    }
}

impl Reminders {
    pub(super) fn new(registry: Arc<Registry>, worker: usize, types: &[Remindable]) -> Self {
        let mut books: Vec<Book> = Vec::new();
        if let Some(slices) = slices_of(worker, registry.workers()) {
            for remindable in types {
                let book = books.iter_mut().find(|book| book.store == remindable.store);
                match book {
                    Some(book) => book.types.push(remindable.clone()),
                    None => books.push(Book::new(slices, remindable.clone())),
                }
            }
        }
        Self {
            books,
            timer: None,
            registry: Some(registry),
            worker,
        }
    }

    /// The book with the reminders of an entity type.
    pub(super) fn of_host(&mut self, host: usize) -> Option<&mut Book> {
        let mut books = self.books.iter_mut();
        books.find(|book| book.of_host(host).is_some())
    }

    /// One that was sent is not handled, as it is about to be changed; if it is not, it comes again.
    pub(super) fn put_back(&mut self, host: usize, fired: &FiredReminder, again_at: Timestamp) {
        if let Some(book) = self.of_host(host)
            && book.is_fired(&fired.place, fired.token)
        {
            book.wait(&fired.place, again_at);
        }
    }

    /// Whether a reminder that was sent is still the one that its entity has.
    pub(super) fn is_current(&mut self, host: usize, fired: &FiredReminder) -> bool {
        let book = self.of_host(host);
        book.is_some_and(|book| book.is_fired(&fired.place, fired.token))
    }

    /// Changes are durable.
    pub(super) fn stored(&mut self, host: usize, id: &PersistenceId, changes: &[ReminderChange]) {
        if let Some(book) = self.of_host(host) {
            for change in changes {
                book.stored(host, id, change);
            }
        }
    }

    /// Nobody knows whether changes are durable.
    pub(super) fn doubt(&mut self, host: usize, id: &PersistenceId, changes: &[ReminderChange]) {
        if let Some(book) = self.of_host(host) {
            for change in changes {
                book.doubt(&(id.clone(), change.key().clone()));
            }
            book.look_again();
        }
    }

    /// Whatever an entity had may have been deleted by others.
    pub(super) fn doubt_all_of(&mut self, id: &PersistenceId) {
        for book in &mut self.books {
            let mut of_id = Vec::new();
            for place in book.entries.keys() {
                if place.0 == *id {
                    of_id.push(place.clone());
                }
            }
            if let Some(reading) = &mut book.reading {
                // It may have been read before.
                reading.is_stale = true;
            }
            if !of_id.is_empty() {
                of_id.iter().for_each(|place| book.doubt(place));
                book.look_again();
            }
        }
    }

    /// What becomes of a reminder that is sent.
    pub(super) fn fired(&self, host: usize, due: &Ready) -> Option<FiredReminder> {
        Some(FiredReminder {
            registry: Arc::clone(self.registry.as_ref()?),
            worker: self.worker,
            host,
            place: due.place.clone(),
            due: due.due,
            token: due.token,
            is_over: false,
        })
    }

    pub(super) fn registry(&self) -> Option<&Arc<Registry>> {
        self.registry.as_ref()
    }
}

/// The slices whose entities live on a worker; the inverse of [`Registry::worker_of`].
fn slices_of(worker: usize, workers: usize) -> Option<SliceRange> {
    let first = |worker: usize| (worker * usize::from(NUMBER_OF_SLICES)).div_ceil(workers);
    let (min, end) = (first(worker), first(worker + 1));
    let slice = |number: usize| u16::try_from(number).ok().and_then(Slice::new);
    SliceRange::new(slice(min)?, slice(end.checked_sub(1)?)?)
}

/// A reminder on its way to its entity and through it, which tells its worker if it fails. Its
/// success is the deletion that its command stores.
pub(crate) struct FiredReminder {
    registry: Arc<Registry>,
    worker: usize,
    host: usize,
    place: Place,
    due: Timestamp,
    token: u64,
    is_over: bool,
}

impl FiredReminder {
    /// Its key.
    pub(crate) fn key(&self) -> &ReminderKey {
        &self.place.1
    }

    /// When it was due.
    pub(crate) fn due(&self) -> Timestamp {
        self.due
    }

    /// Its command has ended.
    pub(crate) fn end(mut self, error: Option<&AskError>) {
        self.is_over = true;
        // A command without use or without a reply has been handled.
        let failure =
            error.filter(|error| !matches!(error, AskError::Unhandled | AskError::NoReply));
        if let Some(error) = failure {
            self.tell(is_doubtful(error), chain(error));
        }
    }

    /// It did not come to its entity.
    pub(crate) fn fail(mut self, reason: Arc<str>) {
        self.is_over = true;
        self.tell(false, reason);
    }

    fn tell(&self, is_unknown: bool, reason: Arc<str>) {
        let failed = ReminderFailed {
            host: self.host,
            place: self.place.clone(),
            token: self.token,
            is_unknown,
            reason,
        };
        let input = Input::ReminderFailed(Box::new(failed));
        self.registry.post(self.worker, input);
    }
}

impl Drop for FiredReminder {
    fn drop(&mut self) {
        if !self.is_over {
            self.tell(true, "its command was dropped".into());
        }
    }
}

/// Whether a reminder may be gone although its command failed: with a conflict somebody else has
/// written for its entity, which may have been an earlier attempt at it.
fn is_doubtful(error: &AskError) -> bool {
    match error {
        AskError::Unknown { .. } => true,
        AskError::PersistFailed(failed) => matches!(
            failed.kind,
            PersistFailure::Conflict | PersistFailure::Earlier
        ),
        _ => false,
    }
}

/// A reminder that was sent and did not do what it is for.
pub struct ReminderFailed {
    pub(super) host: usize,
    pub(super) place: Place,
    pub(super) token: u64,
    /// Whether it may have been handled all the same.
    pub(super) is_unknown: bool,
    pub(super) reason: Arc<str>,
}

impl fmt::Debug for ReminderFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, key) = &self.place;
        write!(f, "ReminderFailed({id}, {key:?}, {:?})", self.reason)
    }
}

/// Reminders to be read.
#[derive(Debug)]
pub struct DueRequest {
    /// The index of an entity type that is kept in the store.
    pub(super) host: usize,
    pub(super) wanted: DueReminders,
    pub(super) breaker: usize,
    pub(super) call: Call,
}

impl DueRequest {
    /// The index of an entity type that is kept in the store.
    pub fn host(&self) -> usize {
        self.host
    }

    /// Reads them.
    pub async fn read(self, store: &dyn Store) -> DueDone {
        let result = store.reminders().due(&self.wanted).await;
        DueDone {
            host: self.host,
            breaker: self.breaker,
            call: self.call,
            result,
        }
    }

    /// The answer when reading failed before it reached the store: a function that does not need
    /// the request any more.
    pub fn failing(&self) -> impl FnOnce(Error) -> DueDone + Send + 'static {
        let (host, breaker, call) = (self.host, self.breaker, self.call);
        move |error| DueDone {
            host,
            breaker,
            call,
            result: Err(error),
        }
    }
}

/// The answer to a [`DueRequest`].
#[derive(Debug)]
pub struct DueDone {
    pub(super) host: usize,
    pub(super) breaker: usize,
    pub(super) call: Call,
    pub(super) result: Result<Vec<StoredReminder>, Error>,
}

/// The reminders of one store, for one worker.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) store: usize,
    slices: SliceRange,
    types: Vec<Remindable>,
    entries: BTreeMap<Place, Entry>,
    /// Those that wait, by when they come.
    waiting: BTreeSet<(Timestamp, Place)>,
    /// All of them, by when they are due.
    by_due: BTreeSet<(Timestamp, Place)>,
    known: Known,
    reading: Option<Reading>,
    /// Not to be read again before then, after a failure; and how many in a row.
    pub(super) pause: Option<Duration>,
    pub(super) failures: u32,
    fired: usize,
    tokens: u64,
}

#[derive(Debug)]
struct Entry {
    host: usize,
    due: Timestamp,
    payload: SerializedPayload,
    /// Tells it from earlier ones of its key, and from earlier times that it was sent.
    token: u64,
    failures: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Comes then.
    Waiting(Timestamp),
    /// Was sent, and nothing is known of it yet.
    Fired,
    /// May be gone; if the store still has it, it comes then.
    Doubtful(Timestamp),
}

/// Up to where every stored reminder is in the book.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Known {
    Nothing,
    /// This one and those before it.
    Through(Timestamp, Place),
    /// Those that are due then or before.
    Until(Timestamp),
}

impl Known {
    fn includes(&self, due: Timestamp, place: &Place) -> bool {
        match self {
            Self::Nothing => false,
            Self::Through(last, of) => (due, place) <= (*last, of),
            Self::Until(until) => due <= *until,
        }
    }
}

/// What is being read.
#[derive(Debug)]
struct Reading {
    from: Known,
    until: Timestamp,
    limit: usize,
    /// What became durable since; the answer may be older.
    changed: BTreeMap<Place, Option<New>>,
    /// Whether the answer says nothing any more.
    is_stale: bool,
}

#[derive(Debug, Clone)]
struct New {
    host: usize,
    due: Timestamp,
    payload: SerializedPayload,
}

/// A reminder that is to be sent.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) host: usize,
    pub(super) place: Place,
    pub(super) due: Timestamp,
    pub(super) payload: SerializedPayload,
    pub(super) token: u64,
}

impl Book {
    fn new(slices: SliceRange, first: Remindable) -> Self {
        Self {
            store: first.store,
            slices,
            types: vec![first],
            entries: BTreeMap::new(),
            waiting: BTreeSet::new(),
            by_due: BTreeSet::new(),
            known: Known::Nothing,
            reading: None,
            pause: None,
            failures: 0,
            fired: 0,
            tokens: 0,
        }
    }

    fn of_host(&self, host: usize) -> Option<&Remindable> {
        self.types.iter().find(|of| of.host == host)
    }

    /// An entity type that is kept in its store.
    pub(super) fn any_host(&self) -> usize {
        self.types[0].host
    }

    /// The shortest and the longest wait of an entity type after a failure.
    pub(super) fn backoff_of(&self, host: usize) -> (Duration, Duration) {
        self.of_host(host)
            .map_or_else(Default::default, |of| of.backoff)
    }

    /// What is to be read now, if anything is.
    pub(super) fn wants(
        &self,
        now: Timestamp,
        settings: &ReminderSettings,
        page: usize,
    ) -> Option<DueReminders> {
        let ahead = settings.ahead.max(1);
        let last = self.by_due.last();
        // What is in the book already needs no room.
        let is_beyond = |(due, place): &(Timestamp, Place)| !self.known.includes(*due, place);
        let reads_again = matches!(self.known, Known::Until(_)) || last.is_some_and(is_beyond);
        let room = if reads_again {
            ahead
        } else {
            ahead.saturating_sub(self.entries.len())
        };
        if self.reading.is_some() || room == 0 {
            return None;
        }
        let until = in_micros(now.checked_add(settings.window).unwrap_or(Timestamp::MAX));
        let (from, after) = match &self.known {
            Known::Nothing => (Timestamp::MIN, None),
            Known::Until(known) if now < self.look_at(settings)? => {
                debug_assert!(*known >= now);
                return None;
            }
            // From the beginning, as others may have set and forgotten some meanwhile.
            Known::Until(_) => (Timestamp::MIN, None),
            // In pages that are worth a call.
            Known::Through(..) if room < page.clamp(1, ahead.div_ceil(2)) => return None,
            Known::Through(due, place) => (*due, Some(place.clone())),
        };
        Some(DueReminders {
            slices: self.slices,
            entity_types: self.types.iter().map(|of| Arc::clone(&of.name)).collect(),
            from,
            after,
            until: until.max(from),
            limit: room.min(page.max(1)),
        })
    }

    /// When it has to read on, if everything up to some time is known: in good time before that.
    fn look_at(&self, settings: &ReminderSettings) -> Option<Timestamp> {
        match &self.known {
            Known::Until(until) => until.checked_sub(settings.window / 2).ok(),
            _ => None,
        }
    }

    /// It is being read.
    pub(super) fn begin_read(&mut self, wanted: &DueReminders) {
        self.reading = Some(Reading {
            from: match &self.known {
                Known::Until(_) => Known::Nothing,
                known => known.clone(),
            },
            until: wanted.until,
            limit: wanted.limit,
            changed: BTreeMap::new(),
            is_stale: false,
        });
    }

    /// It could not be read.
    pub(super) fn read_failed(&mut self) {
        self.reading = None;
    }

    /// It has been read.
    pub(super) fn read(&mut self, rows: Vec<StoredReminder>, ahead: usize) {
        let Some(reading) = self.reading.take() else {
            return;
        };
        if reading.is_stale {
            return;
        }
        let is_last = rows.len() < reading.limit;
        let reached = match rows.last() {
            Some(last) if !is_last => {
                Known::Through(last.due, (last.persistence_id.clone(), last.key.clone()))
            }
            _ => Known::Until(reading.until),
        };
        let mut there = BTreeSet::new();
        for row in rows {
            let place = (row.persistence_id, row.key);
            let host = self.types.iter().find(|of| of.name == row.entity_type);
            let Some(host) = host.map(|of| of.host) else {
                continue;
            };
            there.insert((row.due, place.clone()));
            if reading.changed.contains_key(&place) {
                continue;
            }
            match self.entries.get_mut(&place) {
                Some(entry)
                    if entry.due == row.due
                        && entry.host == host
                        && entry.payload == row.payload =>
                {
                    if let State::Doubtful(at) = entry.state {
                        entry.state = State::Waiting(at);
                        self.waiting.insert((at, place));
                    }
                }
                _ => {
                    let (due, payload) = (row.due, row.payload);
                    self.put(place, New { host, due, payload });
                }
            }
        }
        // What the store does not have any more was deleted by somebody else.
        let gone = self.by_due.iter().filter(|(due, place)| {
            let is_read = !reading.from.includes(*due, place) && reached.includes(*due, place);
            is_read
                && !there.contains(&(*due, place.clone()))
                && !reading.changed.contains_key(place)
                && self.entries[place].state != State::Fired
        });
        for (_, place) in gone.cloned().collect::<Vec<_>>() {
            self.remove(&place);
        }
        self.known = reached;
        for (place, new) in reading.changed {
            if let Some(new) = new
                && self.known.includes(new.due, &place)
                && !self.entries.contains_key(&place)
            {
                self.put(place, new);
            }
        }
        self.forget_the_last(ahead);
    }

    /// A change is durable.
    pub(super) fn stored(&mut self, host: usize, id: &PersistenceId, change: &ReminderChange) {
        let place = (id.clone(), change.key().clone());
        let new = match change {
            ReminderChange::Set(new) => Some(New {
                host,
                due: new.due(),
                payload: new.payload().clone(),
            }),
            ReminderChange::Forget { due: Some(due), .. } => {
                // Another one has its place, here as in the store.
                let is_other = self
                    .entries
                    .get(&place)
                    .is_some_and(|entry| entry.due != *due);
                if is_other {
                    return;
                }
                None
            }
            ReminderChange::Forget { due: None, .. } => None,
        };
        if let Some(reading) = &mut self.reading {
            reading.changed.insert(place.clone(), new.clone());
        }
        self.remove(&place);
        if let Some(new) = new
            && self.known.includes(new.due, &place)
        {
            self.put(place, new);
        }
    }

    /// Keeps within its bound: the last ones are read again when there is room.
    pub(super) fn forget_the_last(&mut self, ahead: usize) {
        while self.entries.len() > ahead.max(1)
            && let Some((due, place)) = self.by_due.last().cloned()
        {
            if !matches!(self.entries[&place].state, State::Waiting(_)) {
                return;
            }
            self.remove(&place);
            if !self.known.includes(due, &place) {
                continue;
            }
            self.known = match self.by_due.last().cloned() {
                Some((due, place)) => Known::Through(due, place),
                None => Known::Nothing,
            };
            if let Some(reading) = &mut self.reading {
                // It goes on from a place where nothing is known any more.
                reading.is_stale = true;
            }
        }
    }

    /// Those that are due and may be sent, which are so from now on.
    pub(super) fn fire(&mut self, now: Timestamp, at_once: usize) -> Vec<Ready> {
        let mut ready = Vec::new();
        while self.fired < at_once.max(1)
            && let Some((at, place)) = self.waiting.first()
            && *at <= now
        {
            let place = place.clone();
            self.waiting.pop_first();
            self.tokens += 1;
            let token = self.tokens;
            let Some(entry) = self.entries.get_mut(&place) else {
                continue;
            };
            entry.state = State::Fired;
            entry.token = token;
            self.fired += 1;
            ready.push(Ready {
                host: entry.host,
                place,
                due: entry.due,
                payload: entry.payload.clone(),
                token,
            });
        }
        ready
    }

    fn is_fired(&self, place: &Place, token: u64) -> bool {
        let entry = self.entries.get(place);
        entry.is_some_and(|entry| entry.token == token && entry.state == State::Fired)
    }

    /// How often one that was sent has failed before, if it is the one of this token.
    pub(super) fn failures_of(&self, failed: &ReminderFailed) -> Option<u32> {
        let is_it = self.is_fired(&failed.place, failed.token);
        is_it.then(|| self.entries[&failed.place].failures)
    }

    /// One that was sent has failed, and comes again then.
    pub(super) fn failed(&mut self, failed: &ReminderFailed, again_at: Timestamp) {
        self.wait(&failed.place, again_at);
        if let Some(entry) = self.entries.get_mut(&failed.place) {
            entry.failures = entry.failures.saturating_add(1);
        }
        if failed.is_unknown {
            self.doubt(&failed.place);
            self.look_again();
        }
    }

    /// One that was sent waits again.
    fn wait(&mut self, place: &Place, again_at: Timestamp) {
        if let Some(entry) = self.entries.get_mut(place) {
            self.fired -= 1;
            entry.state = State::Waiting(again_at);
            self.waiting.insert((again_at, place.clone()));
        }
    }

    /// One that is in the book may be gone. If it was sent, that does not count any more.
    fn doubt(&mut self, place: &Place) {
        let Some(entry) = self.entries.get_mut(place) else {
            return;
        };
        entry.state = match entry.state {
            State::Waiting(at) => {
                self.waiting.remove(&(at, place.clone()));
                State::Doubtful(at)
            }
            State::Fired => {
                self.fired -= 1;
                State::Doubtful(entry.due)
            }
            State::Doubtful(at) => State::Doubtful(at),
        };
    }

    /// Reads everything anew.
    fn look_again(&mut self) {
        self.known = Known::Nothing;
        if let Some(reading) = &mut self.reading {
            reading.is_stale = true;
        }
    }

    /// When there is something to do next by time alone.
    pub(super) fn next_time(&self, settings: &ReminderSettings) -> Option<Timestamp> {
        let next = self.waiting.first().map(|(at, _)| *at);
        let next = next.filter(|_| self.fired < settings.at_once.max(1));
        let is_full = self.entries.len() >= settings.ahead.max(1);
        let look = self.look_at(settings);
        let look = look.filter(|_| self.reading.is_none() && self.pause.is_none() && !is_full);
        next.into_iter().chain(look).min()
    }

    fn put(&mut self, place: Place, new: New) {
        self.remove(&place);
        self.waiting.insert((new.due, place.clone()));
        self.by_due.insert((new.due, place.clone()));
        let entry = Entry {
            host: new.host,
            due: new.due,
            payload: new.payload,
            token: 0,
            failures: 0,
            state: State::Waiting(new.due),
        };
        self.entries.insert(place, entry);
    }

    fn remove(&mut self, place: &Place) {
        let Some(entry) = self.entries.remove(place) else {
            return;
        };
        self.by_due.remove(&(entry.due, place.clone()));
        match entry.state {
            State::Waiting(at) => {
                self.waiting.remove(&(at, place.clone()));
            }
            State::Fired => self.fired -= 1,
            State::Doubtful(_) => {}
        }
    }
}

/// A time as the tables hold it.
fn in_micros(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use perennial_persistence::NewReminder;

    use super::*;

    const HOST: usize = 3;

    const SETTINGS: ReminderSettings = ReminderSettings {
        window: Duration::from_secs(60),
        ahead: 4,
        at_once: 2,
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn id() -> PersistenceId {
        PersistenceId::new("Log", "a").expect("valid")
    }

    fn key(name: &str) -> ReminderKey {
        ReminderKey::new(name).expect("valid")
    }

    fn place(name: &str) -> Place {
        (id(), key(name))
    }

    fn payload() -> SerializedPayload {
        SerializedPayload::new(77, "m", &b"x"[..])
    }

    fn row(name: &str, second: i64) -> StoredReminder {
        StoredReminder {
            persistence_id: id(),
            entity_type: "Log".into(),
            key: key(name),
            due: at(second),
            payload: payload(),
        }
    }

    fn set(name: &str, second: i64) -> ReminderChange {
        let new = NewReminder::new("Log", key(name), at(second), payload());
        ReminderChange::Set(new.expect("valid"))
    }

    fn forget(name: &str, due: Option<i64>) -> ReminderChange {
        ReminderChange::Forget {
            key: key(name),
            due: due.map(at),
        }
    }

    fn book() -> Book {
        let remindable = Remindable {
            host: HOST,
            name: "Log".into(),
            store: 0,
            backoff: (Duration::from_secs(1), Duration::from_secs(10)),
        };
        Book::new(SliceRange::ALL, remindable)
    }

    /// Reads what is wanted at a time, from a store with these rows, and gives how many times.
    fn read(book: &mut Book, now: i64, stored: &[(&str, i64)]) -> usize {
        let mut times = 0;
        while let Some(wanted) = book.wants(at(now), &SETTINGS, 100) {
            book.begin_read(&wanted);
            book.read(answer(&wanted, stored), SETTINGS.ahead);
            times += 1;
            assert!(times < 100, "it reads for ever");
        }
        times
    }

    fn answer(wanted: &DueReminders, stored: &[(&str, i64)]) -> Vec<StoredReminder> {
        let mut rows: Vec<_> = stored.iter().map(|(name, due)| row(name, *due)).collect();
        rows.sort_by_key(|row| (row.due, row.key.clone()));
        let rows = rows.into_iter().filter(|row| {
            let place = (row.persistence_id.clone(), row.key.clone());
            let is_after = |after: &Place| row.due > wanted.from || place > *after;
            (wanted.from..=wanted.until).contains(&row.due)
                && wanted.after.as_ref().is_none_or(is_after)
        });
        rows.take(wanted.limit).collect()
    }

    fn fire(book: &mut Book, now: i64) -> Vec<String> {
        let ready = book.fire(at(now), SETTINGS.at_once);
        ready.iter().map(|one| one.place.1.to_string()).collect()
    }

    fn failed(name: &str, token: u64, is_unknown: bool) -> ReminderFailed {
        ReminderFailed {
            host: HOST,
            place: place(name),
            token,
            is_unknown,
            reason: "it was to fail".into(),
        }
    }

    fn keys(book: &Book) -> Vec<&str> {
        book.by_due
            .iter()
            .map(|(_, place)| place.1.as_str())
            .collect()
    }

    #[test]
    fn the_slices_of_all_workers_are_all_slices() {
        for workers in [1, 2, 3, 7, 64, 1000, 1024, 1500] {
            let mut slices = Vec::new();
            for worker in 0..workers {
                let range = slices_of(worker, workers);
                for slice in range
                    .into_iter()
                    .flat_map(|of| of.min().value()..=of.max().value())
                {
                    let owner = usize::from(slice) * workers / usize::from(NUMBER_OF_SLICES);
                    assert_eq!(owner, worker, "of {workers}");
                    slices.push(slice);
                }
            }
            assert_eq!(slices, (0..NUMBER_OF_SLICES).collect::<Vec<_>>());
        }
    }

    #[test]
    fn it_reads_ahead_and_goes_on_when_half_of_the_window_is_over() {
        let mut book = book();
        let stored = [("a", 10), ("b", 59), ("c", 60), ("d", 61)];
        assert_eq!(read(&mut book, 0, &stored), 1);
        assert_eq!(keys(&book), ["a", "b", "c"]);
        assert_eq!(read(&mut book, 29, &stored), 0);
        assert_eq!(book.next_time(&SETTINGS), Some(at(10)));
        assert_eq!(fire(&mut book, 10), ["a"]);
        assert_eq!(book.next_time(&SETTINGS), Some(at(30)));
        assert_eq!(read(&mut book, 30, &stored), 1);
        assert_eq!(keys(&book), ["a", "b", "c", "d"]);
    }

    #[test]
    fn it_keeps_the_first_ones_and_reads_the_others_when_there_is_room() {
        let mut book = book();
        let stored: Vec<(&str, i64)> = ["a", "b", "c", "d", "e", "f", "g"]
            .into_iter()
            .map(|name| (name, 5))
            .collect();
        assert_eq!(read(&mut book, 0, &stored), 1);
        assert_eq!(keys(&book), ["a", "b", "c", "d"]);
        // One that comes before them takes the place of the last.
        book.stored(HOST, &id(), &set("now", 1));
        book.stored(HOST, &id(), &set("later", 6));
        book.forget_the_last(SETTINGS.ahead);
        assert_eq!(keys(&book), ["now", "a", "b", "c"]);
        for (expected, now) in [(vec!["now"], 1), (vec!["a"], 5)] {
            assert_eq!(fire(&mut book, now), expected);
        }
        book.stored(HOST, &id(), &forget("now", Some(1)));
        book.stored(HOST, &id(), &forget("a", Some(5)));
        assert_eq!(read(&mut book, 5, &stored[1..]), 1);
        assert_eq!(keys(&book), ["b", "c", "d", "e"]);
    }

    #[test]
    fn so_many_are_sent_at_once() {
        let mut book = book();
        read(&mut book, 0, &[("a", 1), ("b", 1), ("c", 1)]);
        assert_eq!(fire(&mut book, 1), ["a", "b"]);
        assert_eq!(fire(&mut book, 1), [] as [&str; 0]);
        assert_eq!(book.next_time(&SETTINGS), Some(at(30)), "not by time");
        book.stored(HOST, &id(), &forget("a", Some(1)));
        assert_eq!(fire(&mut book, 1), ["c"]);
    }

    #[test]
    fn what_is_written_while_it_reads_is_newer_than_what_is_read() {
        let mut book = book();
        let wanted = book.wants(at(0), &SETTINGS, 100).expect("nothing is known");
        book.begin_read(&wanted);
        book.stored(HOST, &id(), &set("new", 10));
        book.stored(HOST, &id(), &set("moved", 20));
        book.stored(HOST, &id(), &forget("gone", None));
        book.stored(HOST, &id(), &set("far", 1000));
        let rows = answer(&wanted, &[("gone", 1), ("moved", 2), ("old", 3)]);
        book.read(rows, SETTINGS.ahead);
        assert_eq!(keys(&book), ["old", "new", "moved"]);
        assert_eq!(fire(&mut book, 3), ["old"]);
    }

    #[test]
    fn a_deletion_that_means_another_one_leaves_it() {
        let mut book = book();
        read(&mut book, 0, &[("a", 10)]);
        book.stored(HOST, &id(), &forget("a", Some(9)));
        assert_eq!(keys(&book), ["a"]);
        book.stored(HOST, &id(), &forget("a", Some(10)));
        assert_eq!(keys(&book), [] as [&str; 0]);
    }

    #[test]
    fn one_that_fails_waits_and_one_that_was_replaced_does_not_count() {
        let mut book = book();
        read(&mut book, 0, &[("a", 1)]);
        let [ready] = &book.fire(at(1), 2)[..] else {
            panic!("one is due");
        };
        let failure = failed("a", ready.token, false);
        assert_eq!(book.failures_of(&failure), Some(0));
        book.failed(&failure, at(7));
        assert_eq!(book.failures_of(&failure), None, "it is told once");
        assert_eq!(fire(&mut book, 6), [] as [&str; 0]);
        let [again] = &book.fire(at(7), 2)[..] else {
            panic!("it is due again");
        };
        assert_eq!(book.failures_of(&failed("a", again.token, false)), Some(1));
        book.stored(HOST, &id(), &set("a", 9));
        assert_eq!(book.failures_of(&failed("a", again.token, false)), None);
        assert_eq!(book.fired, 0);
        assert_eq!(fire(&mut book, 9), ["a"]);
    }

    #[test]
    fn one_whose_outcome_is_open_comes_only_if_the_store_still_has_it() {
        for is_there in [true, false] {
            let mut book = book();
            let all = [("a", 1), ("b", 2), ("c", 2)];
            read(&mut book, 0, &all);
            let token = book.fire(at(1), 2)[0].token;
            book.failed(&failed("a", token, true), at(3));
            assert_eq!(fire(&mut book, 9), ["b", "c"], "others are not concerned");
            let stored = if is_there { &all[..] } else { &all[1..] };
            assert_eq!(read(&mut book, 9, stored), 1);
            book.stored(HOST, &id(), &forget("b", Some(2)));
            let expected: &[&str] = if is_there { &["a"] } else { &[] };
            assert_eq!(fire(&mut book, 9), expected);
        }
    }

    #[test]
    fn what_others_set_and_forget_is_noticed_when_it_reads_on() {
        let mut book = book();
        read(&mut book, 0, &[("a", 50), ("b", 55)]);
        // Both within what is known.
        let stored = [("b", 55), ("c", 45)];
        assert_eq!(read(&mut book, 29, &stored), 0);
        assert_eq!(read(&mut book, 30, &stored), 1);
        assert_eq!(keys(&book), ["c", "b"]);
    }

    #[test]
    fn a_doubtful_one_comes_as_the_store_has_it() {
        let mut book = book();
        read(&mut book, 0, &[("a", 1)]);
        book.doubt(&place("a"));
        book.look_again();
        let wanted = book.wants(at(0), &SETTINGS, 100).expect("it is in doubt");
        book.begin_read(&wanted);
        let other = SerializedPayload::new(77, "m", &b"other"[..]);
        let mut rows = answer(&wanted, &[("a", 1)]);
        rows[0].payload = other.clone();
        book.read(rows, SETTINGS.ahead);
        assert_eq!(book.fire(at(1), 2)[0].payload, other);
    }

    #[test]
    fn what_was_read_before_a_clean_up_does_not_come_back() {
        let mut reminders = Reminders {
            books: vec![book()],
            ..Reminders::default()
        };
        let book = &mut reminders.books[0];
        let wanted = book.wants(at(0), &SETTINGS, 100).expect("nothing is known");
        book.begin_read(&wanted);
        reminders.doubt_all_of(&id());
        let book = &mut reminders.books[0];
        book.read(answer(&wanted, &[("a", 1)]), SETTINGS.ahead);
        assert_eq!(keys(book), [] as [&str; 0]);
        assert_eq!(read(book, 0, &[("b", 2)]), 1);
    }

    #[test]
    fn a_command_that_met_a_conflict_leaves_its_reminder_in_doubt() {
        let failed = |kind| {
            AskError::PersistFailed(crate::error::PersistFailed {
                kind,
                persistence_id: id(),
                reason: "".into(),
            })
        };
        for kind in [PersistFailure::Conflict, PersistFailure::Earlier] {
            assert!(is_doubtful(&failed(kind)));
        }
        assert!(is_doubtful(&AskError::Unknown { reason: "" }));
        assert!(!is_doubtful(&failed(PersistFailure::Rejected)));
        assert!(!is_doubtful(&AskError::Unhandled));
    }

    #[test]
    fn a_doubtful_one_is_found_although_there_is_no_room() {
        let mut book = book();
        let mut stored = vec![("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)];
        read(&mut book, 0, &stored);
        assert_eq!(book.entries.len(), SETTINGS.ahead);
        book.doubt(&place("d"));
        book.look_again();
        stored.retain(|(name, _)| *name != "d");
        assert!(read(&mut book, 0, &stored) > 0);
        assert_eq!(keys(&book), ["a", "b", "c", "e"]);
    }

    #[test]
    fn an_answer_from_before_a_doubt_says_nothing() {
        let mut book = book();
        let wanted = book.wants(at(0), &SETTINGS, 100).expect("nothing is known");
        book.begin_read(&wanted);
        book.look_again();
        book.read(answer(&wanted, &[("a", 1)]), SETTINGS.ahead);
        assert_eq!(keys(&book), [] as [&str; 0]);
        assert_eq!(read(&mut book, 0, &[("b", 1)]), 1);
        assert_eq!(keys(&book), ["b"]);
    }

    #[test]
    fn one_that_others_have_taken_back_is_noticed_when_it_is_read() {
        let mut book = book();
        read(&mut book, 0, &[("a", 10), ("b", 20)]);
        book.look_again();
        read(&mut book, 1, &[("b", 30)]);
        assert_eq!(keys(&book), ["b"]);
        assert_eq!(fire(&mut book, 29), [] as [&str; 0]);
        assert_eq!(fire(&mut book, 30), ["b"]);
    }
}
