//! Starting a test system.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use perennial_core::config::{
    ConfigError, ConfigSource, ConfigValue, PersistenceConfig, SystemConfig,
};
use perennial_core::engine::{Assembly, DrivenDeadlines, Frame, Settings};
use perennial_core::{Entity, EventSourced};
use perennial_persistence::{Clock, Store};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::{Inner, TestSystem};
use crate::driver::{Driver, Wakes};
use crate::{Faults, FaultyStore, ManualClock, MemoryStore};

/// Workers unless something else is said.
const WORKERS: usize = 2;

/// A test system that is about to start.
#[must_use = "a system runs once it is started"]
pub struct TestSystemBuilder {
    source: ConfigSource,
    workers: Option<usize>,
    seed: u64,
    clock: Option<ManualClock>,
    memory: Option<MemoryStore>,
    entities: Vec<AddEntity>,
    #[cfg(feature = "defects")]
    defects: perennial_core::engine::Defects,
}

/// Adds an entity type to the assembly and its store to the list.
type AddEntity = Box<
    dyn FnOnce(
        Assembly,
        &ConfigSource,
        &Arc<dyn Store>,
        &mut Vec<Arc<dyn Store>>,
    ) -> Result<Assembly, ConfigError>,
>;

impl TestSystemBuilder {
    pub(super) fn new() -> Self {
        Self {
            source: ConfigSource::empty(),
            workers: None,
            seed: 0,
            clock: None,
            memory: None,
            entities: Vec::new(),
            #[cfg(feature = "defects")]
            defects: perennial_core::engine::Defects::default(),
        }
    }

    /// The number of workers, 2 unless the configuration says otherwise. Actors without a parent go
    /// to the next one each.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// What the order of the workers is drawn from, and whatever else is left to chance in the
    /// system, such as the jitter of restarts. 0 by default. A test that holds for any order may be
    /// run with many.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The settings of a program's own file. Those of its stores are passed over.
    pub fn config(mut self, source: ConfigSource) -> Self {
        self.source = source;
        self
    }

    /// Overrides a setting, such as `system.ask-timeout`.
    ///
    /// # Panics
    /// If `key` is not written as one.
    #[track_caller]
    pub fn set(mut self, key: &str, value: impl Into<ConfigValue>) -> Self {
        match self.source.set(key, value) {
            Ok(source) => self.source = source,
            Err(error) => panic!("{error}"),
        }
        self
    }

    /// Adds an entity type, kept in a store in memory.
    ///
    /// # Panics
    /// If the names of its commands cannot be.
    #[track_caller]
    pub fn entity<E: EventSourced>(mut self, entity: Entity<E>) -> Self {
        if let Err(error) = entity.check_commands() {
            panic!("entity type {:?}: {error}", E::TYPE);
        }
        self.entities.push(Box::new(
            move |assembly: Assembly, source, store, stores: &mut Vec<_>| {
                stores.push(entity.store(Arc::clone(store)));
                assembly.entity_of(&entity, source)
            },
        ));
        self
    }

    /// Another clock, such as one that services of entities look at too.
    pub fn clock(mut self, clock: ManualClock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// A store that is there already, with what an earlier system has left in it. It keeps its own
    /// clock for the times of its rows.
    pub fn store(mut self, memory: MemoryStore) -> Self {
        self.memory = Some(memory);
        self
    }

    /// Breaks the engine on purpose.
    #[cfg(feature = "defects")]
    pub fn defects(mut self, defects: perennial_core::engine::Defects) -> Self {
        self.defects = defects;
        self
    }

    /// Starts the system.
    ///
    /// # Panics
    /// If a setting is unknown or out of its range.
    #[track_caller]
    pub fn start(self) -> TestSystem {
        match self.try_start() {
            Ok(system) => system,
            Err(error) => panic!("{error}"),
        }
    }

    fn try_start(self) -> Result<TestSystem, ConfigError> {
        let system = SystemConfig::read(&self.source)?;
        let persistence = PersistenceConfig::read(&self.source)?;
        let clock = self.clock.unwrap_or_default();
        let memory = self
            .memory
            .unwrap_or_else(|| MemoryStore::new(Arc::new(clock.clone())));
        let faults = Faults::default();
        let store: Arc<dyn Store> = Arc::new(FaultyStore::with_faults(
            Arc::new(memory.clone()),
            faults.clone(),
        ));
        let mut stores = Vec::new();
        let mut assembly = Assembly::new();
        for add in self.entities {
            assembly = add(assembly, &self.source, &store, &mut stores)?;
        }

        let workers = self.workers.unwrap_or(system.workers);
        let workers = if workers == 0 { WORKERS } else { workers };
        let mut random = SmallRng::seed_from_u64(self.seed);
        let mut settings = Settings::of(&system, &persistence, workers);
        // Time stands still in a turn, so its budget never ends it.
        settings.runs_per_turn = random.random_range(1..=4);
        let time: Arc<dyn Clock> = Arc::new(clock.clone());
        let deadlines = DrivenDeadlines::new(Arc::clone(&time));
        let frame = Frame {
            workers,
            settings,
            inbox: system.inbox,
            ask_timeout: system.ask_timeout,
            deadlines: Some(Arc::clone(deadlines.deadlines())),
            clock: time,
        };
        #[cfg_attr(not(feature = "defects"), expect(unused_mut))]
        let mut assembled = assembly.build(frame, || random.random());
        #[cfg(feature = "defects")]
        for (worker, _) in &mut assembled.workers {
            worker.set_defects(self.defects);
        }
        let registry = Arc::clone(&assembled.registry);
        let order = Some(random.random());
        let driver = Driver::new(assembled, stores, clock.clone(), Some(deadlines), order);
        Ok(TestSystem {
            inner: Rc::new(Inner {
                driver: RefCell::new(driver),
                registry,
                clock,
                memory,
                faults,
                shutdown_timeout: system.shutdown_timeout,
                tasks: RefCell::default(),
                wakes: Arc::new(Wakes::default()),
            }),
        })
    }
}

impl fmt::Debug for TestSystemBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestSystemBuilder")
            .field("workers", &self.workers)
            .field("seed", &self.seed)
            .field("entities", &self.entities.len())
            .finish_non_exhaustive()
    }
}
