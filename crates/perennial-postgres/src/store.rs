//! Opening and closing.

use std::sync::Arc;

use perennial_persistence::{
    BoxFuture, CommandReplyStore, DurableStateStore, Journal, OpenError, ReminderStore,
    SchemaCheck, SnapshotStore, Store,
};
use tokio_postgres::Client;

use crate::Config;
use crate::batch::StatementBounds;
use crate::command_replies::PostgresCommandReplies;
use crate::connect::Connector;
use crate::durable_state_store::PostgresDurableStateStore;
use crate::error::source_of;
use crate::executor::{Executor, Sql, sql};
use crate::journal::PostgresJournal;
use crate::migrate;
use crate::reminders::PostgresReminders;
use crate::snapshot_store::PostgresSnapshotStore;

const READ_DURABILITY: Sql = sql!("session/read_durability.sql");

/// An opened PostgreSQL database.
#[derive(Debug)]
pub struct Postgres {
    executor: Arc<Executor>,
    journal: Arc<PostgresJournal>,
    snapshot_store: Arc<PostgresSnapshotStore>,
    durable_state_store: Arc<PostgresDurableStateStore>,
    command_replies: Arc<PostgresCommandReplies>,
    reminders: Arc<PostgresReminders>,
    warnings: Vec<String>,
}

impl Postgres {
    /// Connects, makes or checks the tables, and looks at the server's settings.
    ///
    /// Must be called on a tokio runtime with I/O and time; all connections of the store live on
    /// that runtime, and end with it.
    ///
    /// # Errors
    /// [`OpenError::Config`] for a setting that makes no sense, [`OpenError::Unreachable`] if no
    /// connection comes about (also when the password is wrong or the database missing),
    /// [`OpenError::Schema`] if the tables do not fit, [`OpenError::NotDurable`] if the server can
    /// lose acknowledged events and the configuration forbids that. None shows a password.
    ///
    /// # Cancel safety
    /// Cancel safe: tables are made in one transaction. The index on delete markers is made by itself,
    /// and by the next start if that broke off.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        config.check()?;
        let connector = Connector::new(&config)?;
        let target = connector.target.clone();
        let (mut client, _connection) = connector.open_in_time(config.connect_timeout).await?;

        let mut warnings = connector.warnings.clone();
        match config.schema_check {
            SchemaCheck::Create => {
                let schema = config.schema.as_deref();
                warnings.extend(migrate::create(&mut client, &target, schema).await?);
                // It would repeat what `create` has said about the guard.
                migrate::verify(&client, &target).await?;
            }
            SchemaCheck::Verify => warnings.extend(migrate::verify(&client, &target).await?),
            _ => {}
        }
        let fence = migrate::fence(&client, &target).await?;
        let settings =
            settings_that_lose(&client)
                .await
                .map_err(|error| OpenError::Unreachable {
                    target: target.clone(),
                    reason: "the server's settings could not be read".to_owned(),
                    source: Some(source_of(&error)),
                })?;
        if config.require_durable && !settings.is_empty() {
            return Err(OpenError::NotDurable { target, settings });
        }
        warnings.extend(settings.into_iter().map(|setting| {
            format!(
                "the server runs with {setting}: acknowledged events can be lost when it crashes"
            )
        }));
        for warning in &warnings {
            tracing::warn!(target_url = target, "{warning}");
        }

        let bounds = StatementBounds {
            rows: config.max_statement_events,
            bytes: config.max_statement_bytes,
        };
        let executor = Executor::new(&config, connector)?;
        Ok(Self {
            journal: Arc::new(PostgresJournal::new(Arc::clone(&executor), bounds, fence)),
            snapshot_store: Arc::new(PostgresSnapshotStore::new(Arc::clone(&executor))),
            durable_state_store: Arc::new(PostgresDurableStateStore::new(
                Arc::clone(&executor),
                bounds,
                config.durable_state_delete,
            )),
            command_replies: Arc::new(PostgresCommandReplies::new(Arc::clone(&executor))),
            reminders: Arc::new(PostgresReminders::new(Arc::clone(&executor))),
            executor,
            warnings,
        })
    }
}

impl Store for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn journal(&self) -> Arc<dyn Journal> {
        Arc::clone(&self.journal) as Arc<dyn Journal>
    }

    fn snapshot_store(&self) -> Arc<dyn SnapshotStore> {
        Arc::clone(&self.snapshot_store) as Arc<dyn SnapshotStore>
    }

    fn durable_state_store(&self) -> Arc<dyn DurableStateStore> {
        Arc::clone(&self.durable_state_store) as Arc<dyn DurableStateStore>
    }

    fn command_replies(&self) -> Arc<dyn CommandReplyStore> {
        Arc::clone(&self.command_replies) as Arc<dyn CommandReplyStore>
    }

    fn reminders(&self) -> Arc<dyn ReminderStore> {
        Arc::clone(&self.reminders) as Arc<dyn ReminderStore>
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.executor.close())
    }
}

/// The settings with which the server answers a commit before it is safe, as `name = value`.
///
/// `synchronous_commit` values other than `off` wait at least for the server's own disk.
async fn settings_that_lose(client: &Client) -> Result<Vec<String>, tokio_postgres::Error> {
    let row = client.query_one(READ_DURABILITY.text, &[]).await?;
    let names = ["fsync", "full_page_writes", "synchronous_commit"];
    let settings = names.iter().enumerate().map(|(index, name)| {
        let value: String = row.get(index);
        (name, value)
    });
    Ok(settings
        .filter(|(_, value)| value == "off")
        .map(|(name, value)| format!("{name} = {value}"))
        .collect())
}
