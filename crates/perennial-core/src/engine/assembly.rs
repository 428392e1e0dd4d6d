//! Putting workers together: entity types in, workers with their inboxes out.

use std::any::TypeId;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use perennial_persistence::Clock;
use tokio::sync::mpsc;

use crate::config::{ConfigError, ConfigSource, EntityConfig};
use crate::deadline::Deadlines;
use crate::engine::core::{Settings, Stats};
use crate::engine::host::{AnyHost, Host};
use crate::engine::local::Local;
use crate::engine::mailbox::Waits;
use crate::engine::reminders::{Remindable, Reminders};
use crate::engine::worker::Worker;
use crate::engine::{EntityType, Input, Registry};
use crate::event_sourced::{Entity, EventSourced, Kept};

/// The entity types of a system, each with its final settings.
#[derive(Default)]
#[must_use = "workers are made by `build`"]
pub struct Assembly {
    types: Vec<EntityType>,
    hosts: Vec<MakeHost>,
    /// How many entities of each type may be in memory, 0 for any number.
    limits: Vec<usize>,
    /// How many stores they are kept in, events and states counted apart.
    stores: usize,
    /// The names of those that may be slow or down.
    names: Vec<&'static str>,
    /// Those whose entities may have reminders.
    remindable: Vec<Remindable>,
}

/// Makes the host for a worker that may have so many of its entities in memory.
type MakeHost = Box<dyn Fn(usize) -> Box<dyn AnyHost> + Send + Sync>;

/// What holds for all workers of a system.
#[derive(Debug, Clone)]
pub struct Frame {
    /// How many workers; at least 1.
    pub workers: usize,
    /// The bounds of each.
    pub settings: Settings,
    /// How many commands may wait at each.
    pub inbox: usize,
    /// How long callers wait who don't say so themselves.
    pub ask_timeout: Duration,
    /// Ends the waiting of callers; without it nothing does.
    pub deadlines: Option<Arc<Deadlines>>,
    /// Where the workers' time comes from.
    pub clock: Arc<dyn Clock>,
}

/// Workers that nobody drives yet.
#[derive(Debug)]
pub struct Assembled {
    /// Where entities are found.
    pub registry: Arc<Registry>,
    /// The workers, each with the end of its inbox.
    pub workers: Vec<(Worker, mpsc::UnboundedReceiver<Input>)>,
}

impl Assembly {
    /// No entity type yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entity type with the settings that it was given in code. Events and states are kept
    /// in one store, and go out in batches of their own.
    pub fn entity<E: EventSourced>(self, entity: Entity<E>) -> Self {
        let config = entity.config().clone();
        let store = match entity.kept() {
            Kept::Events => 0,
            Kept::State => 1,
        };
        self.configured(&entity, config, store, true)
    }

    /// Adds an entity type with the settings that it was given in code and those of its section in
    /// `source`, which win.
    ///
    /// # Errors
    /// [`ConfigError`] for a setting that is unknown or out of its range.
    pub fn entity_of<E: EventSourced>(
        self,
        entity: &Entity<E>,
        source: &ConfigSource,
    ) -> Result<Self, ConfigError> {
        let config = EntityConfig::read(source, E::TYPE, entity.config().clone())?;
        // Events and states go out in batches of their own.
        let store = usize::from(entity.kept() == Kept::State);
        Ok(self.configured(entity, config, store, true))
    }

    /// Adds an entity type with settings of the configuration, kept in the store with this number.
    /// `command_ids` says whether that store keeps replies with what it keeps of the type.
    pub(crate) fn configured<E: EventSourced>(
        mut self,
        entity: &Entity<E>,
        config: EntityConfig,
        store: usize,
        command_ids: bool,
    ) -> Self {
        self.stores = self.stores.max(store + 1);
        let index = self.hosts.len();
        // Reminders of a slice are read and sent by the worker that owned it at first.
        let is_remindable = entity.kept() == Kept::Events && !entity.commands().is_empty();
        self.types.push(EntityType {
            name: E::TYPE,
            type_id: TypeId::of::<E>(),
            mailbox: config.mailbox,
            command_ids,
            stays: is_remindable,
            commands: Arc::new(entity.commands().clone()),
        });
        self.limits.push(config.entity_limit);
        if is_remindable {
            self.remindable.push(Remindable {
                host: index,
                name: E::TYPE.into(),
                store,
                backoff: (config.restart_min, config.restart_max),
            });
        }
        let def = Arc::new(entity.def(config, store));
        self.hosts.push(Box::new(move |limit| {
            Box::new(Host::new(index, Arc::clone(&def), limit))
        }));
        self
    }

    /// Says which stores there are; one otherwise. Counted on from the last of them, the numbers
    /// begin again with the first.
    pub(crate) fn on_stores(mut self, names: Vec<&'static str>) -> Self {
        self.names = names;
        self
    }

    /// Makes the workers. `seeds` gives each its own chance.
    pub fn build(self, frame: Frame, mut seeds: impl FnMut() -> [u8; 32]) -> Assembled {
        let settings = frame.settings;
        // Every worker has its share.
        let limits: Vec<usize> = self
            .limits
            .iter()
            .map(|limit| limit.div_ceil(frame.workers.max(1)))
            .collect();
        let (registry, inboxes) = Registry::new(
            self.types,
            frame.workers,
            frame.inbox,
            Waits {
                ask_timeout: frame.ask_timeout,
                spin_before_yield: settings.spin_before_yield,
                deadlines: frame.deadlines,
            },
            settings.dead_letter_log,
        );
        let names: &[&str] = match &*self.names {
            [] => &["the store"],
            names => names,
        };
        let make_hosts = || {
            let limited = self.hosts.iter().zip(&limits);
            limited.map(|(host, &limit)| host(limit)).collect()
        };
        let workers = inboxes
            .into_iter()
            .enumerate()
            .map(|(number, inbox)| {
                let mut worker = Worker::new(
                    make_hosts(),
                    Local::new(Arc::clone(&registry), number),
                    settings.clone(),
                    Arc::clone(&frame.clock),
                    seeds(),
                    Arc::new(Stats::new(names, &limits, number)),
                    self.stores,
                );
                let registry = Arc::clone(&registry);
                worker.set_reminders(Reminders::new(registry, number, &self.remindable));
                (worker, inbox)
            })
            .collect::<Vec<_>>();
        let of_workers = workers.iter().map(|(worker, _)| Arc::clone(worker.stats()));
        registry.watch(of_workers.collect(), frame.clock);
        Assembled { registry, workers }
    }
}

impl fmt::Debug for Assembly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assembly")
            .field("types", &self.types)
            .finish_non_exhaustive()
    }
}
