//! A database of each kind, new and empty.

use std::sync::Arc;

use perennial::config::ConfigSource;
use perennial::persistence::{PageLimit, PersistenceId, SequenceNr, Store, StoredEvent};
use perennial::postgres::Postgres;
use perennial::sqlite::Sqlite;
use perennial::{ActorSystem, FromConfig, SystemBuilder};
use perennial_testkit::postgres::TestPostgres;
use tempfile::TempDir;

/// A database that several systems may use, and that tests look into.
#[derive(Debug)]
pub enum TestStore {
    /// A file in a folder of its own.
    Sqlite(TempDir),
    /// A database on the tests' server.
    Postgres(TestPostgres),
}

/// Runs a test on a new database of each kind.
///
/// # Panics
/// If the test does.
pub async fn on_every_store(test: impl AsyncFn(&TestStore)) {
    test(&TestStore::sqlite()).await;
    test(&TestStore::postgres()).await;
}

impl TestStore {
    /// An SQLite file that is not there yet.
    ///
    /// # Panics
    /// Without a temporary folder.
    pub fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().expect("a temporary folder"))
    }

    /// An empty PostgreSQL database.
    ///
    /// # Panics
    /// Without a server.
    pub fn postgres() -> Self {
        Self::Postgres(TestPostgres::new())
    }

    /// The configuration that leads here.
    ///
    /// # Panics
    /// Never in practice: the keys are constants.
    pub fn source(&self) -> ConfigSource {
        let source = ConfigSource::empty();
        let source = match self {
            Self::Sqlite(folder) => source.set(
                "persistence.sqlite.path",
                folder.path().join("it.sqlite").display().to_string(),
            ),
            Self::Postgres(database) => source
                .set("persistence.plugin", "postgres")
                .and_then(|source| source.set("persistence.postgres.url", database.url())),
        };
        source.expect("the keys are constants")
    }

    /// The configuration that leads here, as a file's text. Only for SQLite: a password would
    /// stand in it.
    ///
    /// # Panics
    /// For PostgreSQL.
    pub fn toml(&self) -> String {
        match self {
            Self::Sqlite(folder) => {
                format!(
                    "[persistence.sqlite]\npath = {:?}\n",
                    folder.path().join("it.sqlite")
                )
            }
            Self::Postgres(_) => panic!("a URL belongs into the environment"),
        }
    }

    /// Where the server is, if it is one.
    pub fn url(&self) -> Option<&str> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(database) => Some(database.url()),
        }
    }

    /// A system on this database, to be given its entities.
    pub fn system(&self) -> SystemBuilder {
        ActorSystem::from_source(self.source())
    }

    /// The store alone.
    ///
    /// # Panics
    /// If it cannot be opened.
    pub async fn open(&self) -> Arc<dyn Store> {
        let source = self.source();
        match self {
            Self::Sqlite(_) => {
                let config = source.section("persistence.sqlite").expect("our own keys");
                Arc::new(Sqlite::open(config).await.expect("a usable file"))
            }
            Self::Postgres(_) => {
                let config = source
                    .section("persistence.postgres")
                    .expect("our own keys");
                Arc::new(Postgres::open(config).await.expect("a usable database"))
            }
        }
    }

    /// All events of an id, in order.
    ///
    /// # Panics
    /// If they cannot be read.
    pub async fn events(&self, id: &PersistenceId) -> Vec<StoredEvent> {
        let store = self.open().await;
        let limit = PageLimit {
            rows: 1000,
            bytes: 1 << 20,
        };
        let mut events = Vec::new();
        let mut from = SequenceNr::ZERO;
        loop {
            let page = store
                .journal()
                .replay_events(id, from, SequenceNr::MAX, limit)
                .await
                .expect("readable rows");
            from = page.highest.next();
            events.extend(page.events);
            if !page.more {
                break;
            }
        }
        store.close().await;
        events
    }

    /// All events of an entity, in order.
    ///
    /// # Panics
    /// If they cannot be read.
    pub async fn events_of(&self, entity_type: &str, entity_id: &str) -> Vec<StoredEvent> {
        let id = PersistenceId::new(entity_type, entity_id).expect("a valid id");
        self.events(&id).await
    }

    /// Bytes, given in hexadecimal, as this database writes them in SQL.
    pub fn bytes(&self, hexadecimal: &str) -> String {
        match self {
            Self::Sqlite(_) => format!("x'{hexadecimal}'"),
            Self::Postgres(_) => format!("'\\x{hexadecimal}'::bytea"),
        }
    }

    /// Runs SQL statements that both databases understand.
    ///
    /// # Panics
    /// If one fails.
    pub fn execute(&self, sql: &str) {
        match self {
            Self::Sqlite(folder) => {
                let connection = rusqlite::Connection::open(folder.path().join("it.sqlite"))
                    .expect("a usable file");
                connection.execute_batch(sql).expect("good SQL");
            }
            Self::Postgres(database) => database.execute(sql),
        }
    }
}
