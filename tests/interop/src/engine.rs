//! The actor system with all kinds, and what the tables hold.

use std::collections::HashSet;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use perennial_core::config::ConfigSource;
use perennial_core::{ActorSystem, Signal};
use perennial_persistence::{
    Journal, PersistenceId, SequenceNr, SnapshotCriteria, SnapshotStore, Store,
};
use perennial_postgres::{Postgres, connect};
use serde_json::value::RawValue;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, timeout_at};

use crate::database::Database;
use crate::kind::{Answer, AnyKind, Question, Snapshots, describe};
use crate::kinds::{self, Kinds};
use crate::tables::Tables;

/// How long a snapshot and the deletion after it may take.
const SETTLE: Duration = Duration::from_secs(10);

/// An actor system with all kinds.
pub struct Engine {
    system: ActorSystem,
    kinds: Kinds,
    journal: Arc<dyn Journal>,
    snapshots: Arc<dyn SnapshotStore>,
    tables: Tables,
    notices: UnboundedReceiver<(PersistenceId, Signal)>,
    /// The entities that are in memory.
    open: HashSet<PersistenceId>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("system", &self.system)
            .field("open", &self.open.len())
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens the database and starts the system. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// If the database cannot be opened.
    pub async fn start(database: &Database) -> Result<Self, Box<dyn Error + Send + Sync>> {
        Self::start_with(database, ConfigSource::empty()).await
    }

    /// As [`Engine::start`], with settings.
    ///
    /// # Errors
    /// If the database cannot be opened, or a setting makes no sense.
    pub async fn start_with(
        database: &Database,
        settings: ConfigSource,
    ) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let config = database.config();
        let store = Arc::new(Postgres::open(config.clone()).await?);
        let tables = Tables::new(connect(&config).await?);
        let (sender, notices) = unbounded_channel();
        let kinds = kinds::all();
        let (journal, snapshots) = (store.journal(), store.snapshot_store());
        let mut builder = ActorSystem::with_store(settings, store);
        for kind in kinds.values() {
            builder = kind.register(builder, sender.clone());
        }
        Ok(Self {
            system: builder.start().await?,
            kinds,
            journal,
            snapshots,
            tables,
            notices,
            open: HashSet::new(),
        })
    }

    /// The running system, for whoever asks entities by themselves.
    pub fn system(&self) -> &ActorSystem {
        &self.system
    }

    /// The kind with a name.
    ///
    /// # Errors
    /// If there is none.
    pub fn kind(&self, name: &str) -> Result<&dyn AnyKind, String> {
        match self.kinds.get(name) {
            Some(kind) => Ok(&**kind),
            None => Err(format!("no kind {name}")),
        }
    }

    pub(crate) fn tables(&self) -> &Tables {
        &self.tables
    }

    /// What an entity has in memory; it is recovered first if it is not there.
    pub(crate) async fn get(&mut self, kind: &str, id: &PersistenceId) -> Answer {
        self.forget_notices();
        let seen = self.ask(kind, id, Question::Get).await?;
        if self.open.insert(id.clone()) {
            self.settle_recovery(kind, id).await?;
        }
        Ok(seen)
    }

    /// Stores events in one atomic write, and waits for the snapshot and the deletion that follow
    /// from it, so that every run leaves the same rows.
    pub(crate) async fn persist(
        &mut self,
        kind: &str,
        id: &PersistenceId,
        events: Vec<Box<RawValue>>,
    ) -> Answer {
        self.refuse_read_only(kind)?;
        refuse_empty_replica(id)?;
        self.get(kind, id).await?;
        let count = u64::try_from(events.len()).unwrap_or(u64::MAX);
        let answer = self.write(kind, id, Question::Persist(events)).await?;
        if let Some(snapshots) = self.kind(kind)?.snapshots() {
            let before = answer.number.saturating_sub(count);
            if answer.number / snapshots.every > before / snapshots.every {
                self.settle_snapshot(id, snapshots, answer.number).await?;
            }
        }
        Ok(answer)
    }

    pub(crate) async fn put(
        &mut self,
        kind: &str,
        id: &PersistenceId,
        state: Box<RawValue>,
    ) -> Answer {
        self.write(kind, id, Question::Put(state)).await
    }

    pub(crate) async fn delete(&mut self, kind: &str, id: &PersistenceId) -> Answer {
        self.write(kind, id, Question::Delete).await
    }

    /// A failed write makes the entity leave memory, as on the JVM: the next command recovers it.
    async fn write(&mut self, kind: &str, id: &PersistenceId, question: Question) -> Answer {
        self.forget_notices();
        let answer = self.ask(kind, id, question).await;
        match &answer {
            Ok(_) => {
                self.open.insert(id.clone());
            }
            Err(_) => self.stop(kind, id).await?,
        }
        answer
    }

    /// Makes an entity leave memory, if it is there.
    pub(crate) async fn stop(&mut self, kind: &str, id: &PersistenceId) -> Result<(), String> {
        if self.open.remove(id) {
            self.ask(kind, id, Question::Stop).await?;
        }
        Ok(())
    }

    /// Stops an entity and deletes its events up to a number, with the answers of a classic actor on
    /// the JVM, which knows the highest number and refuses a higher one.
    pub(crate) async fn delete_events(
        &mut self,
        kind: &str,
        id: &PersistenceId,
        to: i64,
    ) -> Result<String, String> {
        self.refuse_read_only(kind)?;
        self.stop(kind, id).await?;
        let up_to = SequenceNr::try_from(to).map_err(|error| describe(&error))?;
        let journal = self.journal.highest_sequence_nr(id, SequenceNr::ZERO).await;
        let snapshot = self.snapshots.load(id, SnapshotCriteria::ANY).await;
        let snapshot = snapshot.map_err(|error| describe(&error))?;
        let last = journal
            .map_err(|error| describe(&error))?
            .max(snapshot.map_or(SequenceNr::ZERO, |snapshot| snapshot.seq_nr));
        if to != i64::MAX && up_to > last {
            return Ok(format!(
                "failed to {to}: java.lang.RuntimeException: toSequenceNr [{to}] must be less than \
                 or equal to lastSequenceNr [{last}]"
            ));
        }
        let deleted = self.journal.delete_events(id, up_to).await;
        deleted.map_err(|error| describe(&error))?;
        Ok(format!("deleted to {to}"))
    }

    /// Ends the system.
    ///
    /// # Errors
    /// If it did not end in time.
    pub async fn shutdown(self) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(self.system.shutdown().await?)
    }

    fn refuse_read_only(&self, kind: &str) -> Result<(), String> {
        match self.kind(kind)?.read_only() {
            Some(reason) => Err(reason.to_owned()),
            None => Ok(()),
        }
    }

    async fn ask(&self, kind: &str, id: &PersistenceId, question: Question) -> Answer {
        self.kind(kind)?
            .ask(&self.system, id.clone(), question)
            .await
    }

    fn forget_notices(&mut self) {
        while self.notices.try_recv().is_ok() {}
    }

    /// The next signal of an entity.
    async fn notice(&mut self, id: &PersistenceId, deadline: Instant) -> Result<Signal, String> {
        loop {
            match timeout_at(deadline, self.notices.recv()).await {
                Ok(Some((of, signal))) if of == *id => return Ok(signal),
                Ok(Some(_)) => {}
                Ok(None) => return Err("the system has ended".to_owned()),
                Err(_) => {
                    return Err(format!(
                        "a snapshot or deletion of {id} took longer than {SETTLE:?}"
                    ));
                }
            }
        }
    }

    /// A recovery that replayed as many events as stand between two snapshots saves one at once.
    async fn settle_recovery(&mut self, kind: &str, id: &PersistenceId) -> Result<(), String> {
        let Some(snapshots) = self.kind(kind)?.snapshots() else {
            return Ok(());
        };
        let deadline = Instant::now() + SETTLE;
        loop {
            if let Signal::RecoveryCompleted { replayed, .. } = self.notice(id, deadline).await? {
                if replayed < snapshots.every {
                    return Ok(());
                }
                break;
            }
        }
        self.saved(id, deadline).await
    }

    async fn settle_snapshot(
        &mut self,
        id: &PersistenceId,
        snapshots: Snapshots,
        number: u64,
    ) -> Result<(), String> {
        let deadline = Instant::now() + SETTLE;
        self.saved(id, deadline).await?;
        let kept = snapshots.every * snapshots.keep;
        if snapshots.delete_events && number > kept {
            loop {
                match self.notice(id, deadline).await? {
                    Signal::EventsDeleted { .. } => break,
                    Signal::EventsDeletionFailed { reason, .. } => return Err(reason),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    async fn saved(&mut self, id: &PersistenceId, deadline: Instant) -> Result<(), String> {
        loop {
            match self.notice(id, deadline).await? {
                Signal::SnapshotCompleted { .. } => return Ok(()),
                Signal::SnapshotFailed { reason, .. } => return Err(reason),
                _ => {}
            }
        }
    }
}

/// Pekko reads such an id and refuses to write it, as a third part stands for a replica. perennial
/// would write it; who shares the tables with Pekko had better not.
fn refuse_empty_replica(id: &PersistenceId) -> Result<(), String> {
    let parts: Vec<&str> = id.as_str().split('|').collect();
    match parts[..] {
        [_, _, ""] => Err(format!(
            "{id} names a replica with an empty id, which Pekko refuses"
        )),
        _ => Ok(()),
    }
}
