//! Damaged rows, impossible ids and code that panics, on real stores: each is the trouble of one
//! entity, is named, and goes away with its cause.

use std::time::{Duration, Instant};

use perennial::prelude::*;
use perennial::{PersistFailure, SystemBuilder};
use perennial_it::{Note, Notebook, Read, TestStore, on_every_store};
use serde::{Deserialize, Serialize};

async fn notebooks(store: &TestStore) -> ActorSystem {
    let short = Duration::from_millis(5);
    start(
        store.system().entity(
            Entity::<Notebook>::new(())
                .snapshot_every(2)
                .restart_backoff(short, short),
        ),
    )
    .await
}

async fn start(system: SystemBuilder) -> ActorSystem {
    system.start().await.expect("a usable store")
}

async fn end(system: ActorSystem) {
    system.shutdown().await.expect("idle");
}

/// A store in which the notebooks "a" and "b" have three notes each, with a snapshot at the second.
async fn three_notes_each(store: &TestStore) {
    let system = notebooks(store).await;
    for book in ["a", "b"] {
        for note in 1..=3 {
            let noted = system.entity::<Notebook>(book).ask(Note(note)).await;
            assert!(noted.is_ok(), "{noted:?}");
        }
    }
    end(system).await;
}

/// Asks until the answer is another one than that the entity cannot be recovered.
async fn ask_until_recovered(book: &EntityRef<Notebook>) -> Vec<u64> {
    let start = Instant::now();
    loop {
        match book.ask(Read).await {
            Ok(notes) => return notes,
            Err(error @ AskError::RecoveryFailed(_)) => {
                assert!(start.elapsed() < Duration::from_secs(30), "{error}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_garbage_payload_stops_its_own_entity_until_it_is_repaired() {
    on_every_store(async |store| {
        three_notes_each(store).await;
        let set = |payload: &str| {
            store.execute(&format!(
                "UPDATE event_journal SET event_payload = {} \
                 WHERE persistence_id = 'Notebook|a' AND seq_nr = 3",
                store.bytes(payload)
            ));
        };
        set("c1c1c1");
        let system = notebooks(store).await;
        let book = system.entity::<Notebook>("a");
        match book.ask(Note(4)).await {
            Err(AskError::RecoveryFailed(failed)) => {
                assert_eq!(failed.seq_nr.map(|nr| nr.value()), Some(3));
                let text = failed.to_string();
                assert!(text.contains("Notebook|a"), "{text}");
            }
            other => panic!("{other:?}"),
        }
        let others = system.entity::<Notebook>("b").ask(Read).await;
        assert_eq!(others, Ok(vec![1, 2, 3]));
        set("03");
        assert_eq!(ask_until_recovered(&book).await, [1, 2, 3]);
        assert_eq!(book.ask(Note(4)).await, Ok(4));
        end(system).await;
    })
    .await;
}

#[tokio::test]
async fn a_snapshot_that_does_not_decode_costs_a_replay() {
    on_every_store(async |store| {
        three_notes_each(store).await;
        let garbage = store.bytes("c1");
        store.execute(&format!(
            "UPDATE snapshot SET snapshot = {garbage} WHERE persistence_id = 'Notebook|a'"
        ));
        let system = notebooks(store).await;
        let told = system.entity::<Notebook>("a").ask(Read).await;
        assert_eq!(told, Ok(vec![1, 2, 3]));
        end(system).await;

        // Without the events it covers, nothing else knows the state.
        three_notes_each(store).await;
        store.execute(&format!(
            "UPDATE snapshot SET snapshot = {garbage} WHERE persistence_id = 'Notebook|b';
             DELETE FROM event_journal WHERE persistence_id = 'Notebook|b' AND seq_nr < 2"
        ));
        let system = notebooks(store).await;
        match system.entity::<Notebook>("b").ask(Read).await {
            Err(AskError::RecoveryFailed(failed)) => {
                assert!(failed.reason.contains("are gone"), "{failed}");
            }
            other => panic!("{other:?}"),
        }
        end(system).await;
    })
    .await;
}

#[tokio::test]
async fn ids_are_stored_up_to_their_bound_and_refused_beyond() {
    on_every_store(async |store| {
        let system = notebooks(store).await;
        // Characters count, not bytes.
        let longest = "ö".repeat(255 - "Notebook|".len());
        for (id, fits) in [
            (longest.clone(), true),
            (format!("{longest}o"), false),
            ("a\0b".to_owned(), false),
            (
                " 'quoted\"; DROP TABLE event_journal; --\u{1F6EB}".to_owned(),
                true,
            ),
        ] {
            let book = system.entity::<Notebook>(&id);
            let noted = book.ask(Note(1)).await;
            if fits {
                assert_eq!(noted, Ok(1), "{id:?}");
                assert_eq!(store.events_of(Notebook::TYPE, &id).await.len(), 1);
            } else {
                assert!(
                    matches!(noted, Err(AskError::InvalidId(_))),
                    "{id:?}: {noted:?}"
                );
                assert_eq!(book.tell(Note(2)), noted.map(drop), "{id:?}");
            }
        }
        end(system).await;
    })
    .await;
}

#[tokio::test]
async fn a_stopped_system_refuses_and_stores_nothing() {
    on_every_store(async |store| {
        let system = notebooks(store).await;
        let book = system.entity::<Notebook>("a");
        assert_eq!(book.ask(Note(1)).await, Ok(1));
        end(system).await;
        let late = book.ask(Note(2)).await;
        assert_eq!(late, Err(AskError::Stopped));
        assert!(late.is_err_and(|error| error.is_not_handled()));
        assert_eq!(book.tell(Note(2)), Err(AskError::Stopped));
        assert_eq!(store.events_of(Notebook::TYPE, "a").await.len(), 1);
    })
    .await;
}

/// An entity whose code panics when it is told to.
#[derive(Default)]
struct Fragile {
    said: usize,
}

/// The same entity after its code was put right.
#[derive(Default)]
struct Mended {
    said: usize,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum Word {
    Harmless,
    BreaksApply,
    BreaksHandle,
}

impl EventSourced for Fragile {
    const TYPE: &'static str = "Fragile";
    type Event = Word;
    type Services = ();

    fn apply(&mut self, word: &Word) {
        self.said += 1;
        assert!(!matches!(word, Word::BreaksApply), "broken by an event");
    }
}

impl Handle<Word> for Fragile {
    type Reply = usize;

    fn handle(&self, word: Word, cx: &Cx<'_, Self>) -> Effect<Self, usize> {
        assert!(!matches!(word, Word::BreaksHandle), "broken by a command");
        cx.persist([word]).reply(|fragile| fragile.said)
    }
}

impl EventSourced for Mended {
    const TYPE: &'static str = Fragile::TYPE;
    type Event = Word;
    type Services = ();

    fn apply(&mut self, _: &Word) {
        self.said += 1;
    }
}

impl Handle<Word> for Mended {
    type Reply = usize;

    fn handle(&self, word: Word, cx: &Cx<'_, Self>) -> Effect<Self, usize> {
        cx.persist([word]).reply(|mended| mended.said)
    }
}

async fn fragile(store: &TestStore) -> ActorSystem {
    let backoff = (Duration::from_millis(1), Duration::from_millis(20));
    start(
        store
            .system()
            .entity(Entity::<Fragile>::new(()).restart_backoff(backoff.0, backoff.1))
            .entity(Entity::<Notebook>::new(())),
    )
    .await
}

#[tokio::test]
async fn code_that_panics_every_time_harms_nobody_else_and_stores_nothing() {
    on_every_store(async |store| {
        let system = fragile(store).await;
        let entity = system.entity::<Fragile>("a");
        let mut said = 0;
        for round in 0..10 {
            for (word, place) in [(Word::BreaksHandle, "handle"), (Word::BreaksApply, "apply")] {
                match entity.ask(word).await {
                    Err(AskError::Panicked {
                        place: at, message, ..
                    }) => {
                        assert_eq!(at, place);
                        assert!(message.contains("broken by"), "{message}");
                    }
                    other => panic!("{other:?}"),
                }
                let noted = system.entity::<Notebook>("b").ask(Note(round)).await;
                assert!(noted.is_ok(), "{noted:?}");
            }
            said += 1;
            assert_eq!(entity.ask(Word::Harmless).await, Ok(said));
        }
        end(system).await;
        assert_eq!(store.events_of(Fragile::TYPE, "a").await.len(), said);
        assert_eq!(store.events_of(Notebook::TYPE, "b").await.len(), 20);
    })
    .await;
}

#[tokio::test]
async fn a_stored_event_that_breaks_apply_is_named_and_waits_for_better_code() {
    on_every_store(async |store| {
        let mended = || start(store.system().entity(Entity::<Mended>::new(())));
        let system = mended().await;
        let entity = system.entity::<Mended>("a");
        assert_eq!(entity.ask(Word::Harmless).await, Ok(1));
        assert_eq!(entity.ask(Word::BreaksApply).await, Ok(2));
        end(system).await;

        let system = fragile(store).await;
        let told = system.entity::<Fragile>("a").ask(Word::Harmless).await;
        match told {
            Err(AskError::RecoveryFailed(failed)) => {
                assert_eq!(failed.seq_nr.map(|nr| nr.value()), Some(2));
                assert!(failed.reason.contains("broken by an event"), "{failed}");
            }
            other => panic!("{other:?}"),
        }
        end(system).await;

        let system = mended().await;
        let told = system.entity::<Mended>("a").ask(Word::Harmless).await;
        assert_eq!(told, Ok(3));
        end(system).await;
    })
    .await;
}

#[tokio::test]
async fn a_row_that_the_database_refuses_fails_its_own_command_only() {
    on_every_store(async |store| {
        // The tables are there once a system was.
        end(notebooks(store).await).await;
        refuse_notebook_x(store);
        let system = notebooks(store).await;
        let asks = (0..50).map(|book| {
            let name = if book == 25 {
                "x".to_owned()
            } else {
                book.to_string()
            };
            let book = system.entity::<Notebook>(&name);
            tokio::spawn(async move { (name, book.ask(Note(1)).await) })
        });
        for ask in asks.collect::<Vec<_>>() {
            let (name, told) = ask.await.expect("no panic");
            if name == "x" {
                match told {
                    Err(AskError::PersistFailed(failed)) => {
                        assert_eq!(failed.kind, PersistFailure::Rejected, "{failed}");
                    }
                    other => panic!("{other:?}"),
                }
            } else {
                assert_eq!(told, Ok(1), "{name}");
            }
        }
        end(system).await;
    })
    .await;
}

fn refuse_notebook_x(store: &TestStore) {
    store.execute(match store {
        TestStore::Sqlite(_) => {
            "CREATE TRIGGER refuse BEFORE INSERT ON event_journal
             WHEN NEW.persistence_id = 'Notebook|x' BEGIN SELECT RAISE(ABORT, 'no'); END"
        }
        TestStore::Postgres(_) => {
            "ALTER TABLE event_journal ADD CHECK (persistence_id <> 'Notebook|x')"
        }
    });
}
