//! An entity that remembers who told it what, so that nothing can be lost or doubled unnoticed.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use perennial::persistence::{Codec, MessagePack, PersistenceId};
use perennial::prelude::*;
use serde::{Deserialize, Serialize};

use crate::stores::TestStore;

/// Notes in the order in which they came.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct Notebook {
    notes: Vec<u64>,
}

/// The event that a note was taken.
#[derive(Debug, Serialize, Deserialize)]
pub struct Noted(u64);

/// The command to take a note; answered with its place, from 1.
#[derive(Debug)]
pub struct Note(pub u64);

/// The command to tell all notes.
#[derive(Debug)]
pub struct Read;

impl EventSourced for Notebook {
    const TYPE: &'static str = "Notebook";
    type Event = Noted;
    type Services = ();

    fn apply(&mut self, Noted(note): &Noted) {
        self.notes.push(*note);
    }
}

impl Handle<Note> for Notebook {
    type Reply = usize;

    fn handle(&self, Note(note): Note, cx: &Cx<'_, Self>) -> Effect<Self, usize> {
        cx.persist([Noted(note)]).reply(|book| book.notes.len())
    }
}

impl Handle<Read> for Notebook {
    type Reply = Vec<u64>;

    fn handle(&self, Read: Read, cx: &Cx<'_, Self>) -> Effect<Self, Vec<u64>> {
        cx.reply(self.notes.clone())
    }
}

/// What a caller was told about one note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It has this place in this notebook.
    Noted(usize),
    /// It was not taken.
    Failed,
    /// Nobody knows.
    Unknown,
}

/// Callers that take notes without end, each a different one, never the same twice.
#[derive(Debug)]
pub struct Load {
    books: u64,
    next: AtomicU64,
    noted: AtomicU64,
    troubled: AtomicU64,
    stopped: AtomicBool,
    outcomes: Mutex<HashMap<u64, (u64, Outcome)>>,
}

impl Load {
    /// On this many notebooks, which are called 0, 1, 2 …
    pub fn on(books: u64) -> Self {
        Self {
            books,
            next: AtomicU64::new(0),
            noted: AtomicU64::new(0),
            troubled: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            outcomes: Mutex::default(),
        }
    }

    /// How many notes have been acknowledged.
    pub fn noted(&self) -> u64 {
        self.noted.load(Ordering::SeqCst)
    }

    /// How many notes have failed, or may have.
    pub fn troubled(&self) -> u64 {
        self.troubled.load(Ordering::SeqCst)
    }

    /// Ends all callers after their present note.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// One caller, until it is stopped. Gives how many of its notes were acknowledged and how many
    /// lost against another writer.
    ///
    /// # Panics
    /// If a note fails for a reason that no outage and no other writer has.
    pub async fn call(&self, system: &ActorSystem) -> (u64, u64) {
        let (mut noted, mut conflicts) = (0, 0);
        while !self.stopped.load(Ordering::SeqCst) {
            let note = self.next.fetch_add(1, Ordering::SeqCst);
            let book = note % self.books;
            let outcome = match system
                .entity::<Notebook>(book.to_string())
                .ask(Note(note))
                .timeout(Duration::from_secs(3))
                .await
            {
                Ok(place) => {
                    noted += 1;
                    self.noted.fetch_add(1, Ordering::SeqCst);
                    Outcome::Noted(place)
                }
                Err(AskError::PersistFailed(_)) => {
                    conflicts += 1;
                    Outcome::Failed
                }
                Err(error) if error.is_outcome_unknown() => Outcome::Unknown,
                Err(AskError::Busy { retry_after, .. }) => {
                    tokio::time::sleep(retry_after).await;
                    Outcome::Failed
                }
                Err(AskError::Expired) => Outcome::Failed,
                Err(error) => panic!("note {note}: {error}"),
            };
            if !matches!(outcome, Outcome::Noted(_)) {
                self.troubled.fetch_add(1, Ordering::SeqCst);
            }
            let mut outcomes = self.outcomes.lock().expect("no caller panics");
            outcomes.insert(note, (book, outcome));
        }
        (noted, conflicts)
    }

    /// What each caller was told.
    ///
    /// # Panics
    /// If a caller has panicked.
    pub fn outcomes(&self) -> HashMap<u64, (u64, Outcome)> {
        self.outcomes.lock().expect("no caller panics").clone()
    }
}

/// Compares what callers were told with what is stored, and gives how many notes that is.
///
/// Acknowledged means stored once, in the place that was told; failed means not stored; whatever
/// was told, nothing is stored twice, and numbers have no gaps.
///
/// # Panics
/// If any of that is not so.
pub async fn check_notes(store: &TestStore, load: &Load) -> usize {
    let codec = MessagePack::new("Notebook.Event");
    let mut stored = HashMap::new();
    for book in 0..load.books {
        let id = PersistenceId::new(Notebook::TYPE, &book.to_string()).expect("a valid id");
        for (place, event) in (1..).zip(store.events(&id).await) {
            assert_eq!(
                usize::try_from(event.seq_nr.value()).ok(),
                Some(place),
                "{id}"
            );
            let Noted(note) = codec.decode(&event.payload).expect("our own event");
            let twice = stored.insert(note, (book, place));
            assert_eq!(twice, None, "note {note} is stored twice");
        }
    }
    let outcomes = load.outcomes();
    for (note, (book, outcome)) in &outcomes {
        let found = stored.get(note);
        match outcome {
            Outcome::Noted(place) => {
                assert_eq!(
                    found,
                    Some(&(*book, *place)),
                    "note {note} was acknowledged"
                );
            }
            Outcome::Failed => assert_eq!(found, None, "note {note} was said to have failed"),
            Outcome::Unknown => {}
        }
    }
    for note in stored.keys() {
        assert!(outcomes.contains_key(note), "nobody took note {note}");
    }
    stored.len()
}
