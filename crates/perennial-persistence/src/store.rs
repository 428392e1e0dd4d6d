//! An opened database with all its contracts.

use std::fmt::Debug;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::BoxFuture;
use crate::command_reply::CommandReplyStore;
use crate::durable_state_store::DurableStateStore;
use crate::journal::Journal;
use crate::reminder::ReminderStore;
use crate::snapshot_store::SnapshotStore;

/// An opened database.
pub trait Store: Debug + Send + Sync + 'static {
    /// The plugin's name, as in the configuration.
    fn name(&self) -> &'static str;

    /// The events.
    fn journal(&self) -> Arc<dyn Journal>;

    /// The snapshots.
    fn snapshot_store(&self) -> Arc<dyn SnapshotStore>;

    /// The states of entities that keep nothing else.
    fn durable_state_store(&self) -> Arc<dyn DurableStateStore>;

    /// The replies to commands with ids.
    fn command_replies(&self) -> Arc<dyn CommandReplyStore>;

    /// The reminders of entities.
    fn reminders(&self) -> Arc<dyn ReminderStore>;

    /// What was found at the start that someone should look at, one sentence each: settings that
    /// can lose data, rows that cannot be. Also logged as warnings when the store was opened.
    fn warnings(&self) -> Vec<String>;

    /// Ends what was begun and closes every connection. Calls after it fail as unavailable.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// What to do about tables at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SchemaCheck {
    /// Create what is missing, under a lock, then verify.
    #[default]
    Create,
    /// Change nothing; every table and column must be there with its name and type.
    Verify,
    /// Neither look nor change.
    Off,
}
