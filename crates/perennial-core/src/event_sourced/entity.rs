//! What the system has to know of an entity type.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use perennial_persistence::{Codec, MessagePack};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::EntityConfig;
use crate::event_sourced::EventSourced;

/// An entity type as it is given to the system: its services, codecs and settings.
///
/// Settings made here are defaults; `[entity.<TYPE>]` in the configuration file wins. The ranges and
/// what happens when a bound is reached stand in [`EntityConfig`]; a value out of its range is an
/// error when the system starts.
pub struct Entity<E: EventSourced> {
    services: Arc<E::Services>,
    event_codec: Arc<dyn Codec<E::Event>>,
    state_codec: Option<Arc<dyn Codec<E>>>,
    config: EntityConfig,
}

impl<E: EventSourced> Entity<E> {
    /// An entity type with its services; without snapshots, events as MessagePack with the
    /// manifest `<TYPE>.Event`.
    pub fn new(services: E::Services) -> Self {
        Self {
            services: Arc::new(services),
            event_codec: Arc::new(MessagePack::new(format!("{}.Event", E::TYPE))),
            state_codec: None,
            config: EntityConfig::default(),
        }
    }

    /// Takes a snapshot of the state every `every` events, as MessagePack with the manifest
    /// `<TYPE>.State`; 0 takes none, but reads what is there.
    #[must_use]
    pub fn snapshot_every(mut self, every: u64) -> Self
    where
        E: Serialize + DeserializeOwned,
    {
        self.state_codec
            .get_or_insert_with(|| Arc::new(MessagePack::new(format!("{}.State", E::TYPE))));
        self.config.snapshot_every = every;
        self
    }

    /// Encodes events with a codec of your own.
    #[must_use]
    pub fn event_codec(mut self, codec: impl Codec<E::Event>) -> Self {
        self.event_codec = Arc::new(codec);
        self
    }

    /// Encodes snapshots with a codec of your own.
    #[must_use]
    pub fn state_codec(mut self, codec: impl Codec<E>) -> Self {
        self.state_codec = Some(Arc::new(codec));
        self
    }

    /// Forgets an entity that had nothing to do for this long, at the latest after twice that;
    /// `None` keeps it for ever.
    #[must_use]
    pub fn passivate_after(mut self, idle: Option<Duration>) -> Self {
        self.config.passivate_after = idle;
        self
    }

    /// Bounds the commands that wait for one entity; more are refused as `Busy`.
    #[must_use]
    pub fn mailbox(mut self, commands: usize) -> Self {
        self.config.mailbox = commands;
        self
    }

    /// Bounds the stash; a command that finds it full is refused as `Busy`.
    #[must_use]
    pub fn stash(mut self, commands: usize) -> Self {
        self.config.stash = commands;
        self
    }

    /// How many commands may be handled ahead of their writes; 1 handles one at a time.
    #[must_use]
    pub fn pipeline(mut self, commands: usize) -> Self {
        self.config.pipeline = commands;
        self
    }

    /// The shortest and the longest time between a failure and the next start; it doubles from
    /// failure to failure.
    #[must_use]
    pub fn restart_backoff(mut self, min: Duration, max: Duration) -> Self {
        self.config.restart_min = min;
        self.config.restart_max = max;
        self
    }

    pub(crate) fn config(&self) -> &EntityConfig {
        &self.config
    }

    pub(crate) fn has_snapshots(&self) -> bool {
        self.state_codec.is_some()
    }

    pub(crate) fn def(&self, config: EntityConfig) -> EntityDef<E> {
        EntityDef {
            services: Arc::clone(&self.services),
            event_codec: Arc::clone(&self.event_codec),
            state_codec: self.state_codec.clone(),
            config,
        }
    }
}

impl<E: EventSourced> fmt::Debug for Entity<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entity")
            .field("type", &E::TYPE)
            .field("event_codec", &self.event_codec)
            .field("state_codec", &self.state_codec)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// An entity type as the workers share it.
pub(crate) struct EntityDef<E: EventSourced> {
    pub(crate) services: Arc<E::Services>,
    pub(crate) event_codec: Arc<dyn Codec<E::Event>>,
    pub(crate) state_codec: Option<Arc<dyn Codec<E>>>,
    pub(crate) config: EntityConfig,
}
