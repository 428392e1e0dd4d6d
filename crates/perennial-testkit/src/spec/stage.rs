//! What a spec plays on: one worker of the engine with one entity on it, on the thread of the test,
//! in virtual time.

use std::fmt;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use perennial_core::engine::{Assembly, Frame, Peek, Settings};
use perennial_core::{Entity, EntityRef, EventSourced};
use perennial_persistence::Store;

use crate::driver::Driver;
use crate::{ManualClock, MemoryStore};

/// Turns in a row after which an entity counts as one that never comes to rest.
const TURNS: usize = 100_000;

/// A worker with one entity on it.
pub(super) struct Stage<E: EventSourced> {
    driver: Driver,
    entity: EntityRef<E>,
}

impl<E: EventSourced> Stage<E> {
    /// A stage with nobody on it: the entity is brought back by its first command.
    ///
    /// `seed` decides about the ids of writers, so it is never used twice with the same store.
    pub(super) fn new(
        entity: Entity<E>,
        entity_id: &str,
        store: Arc<dyn Store>,
        clock: ManualClock,
        seed: u64,
    ) -> Self {
        let mut settings = Settings::default();
        // Faults concern the one entity; that others would be refused too is not its matter.
        settings.breaker.failures = 0;
        // Time stands still in a turn, so one would never end in which an entity keeps itself busy.
        settings.runs_per_turn = 1;
        let frame = Frame {
            workers: 1,
            settings,
            inbox: usize::MAX,
            ask_timeout: Duration::MAX,
            deadlines: None,
            clock: Arc::new(clock.clone()),
        };
        let mut seeds = [0; 32];
        seeds[..8].copy_from_slice(&seed.to_be_bytes());
        let store = entity.store(store);
        let assembled = Assembly::new().entity(entity).build(frame, || seeds);
        let driver = Driver::new(assembled, vec![store], clock, None, None);
        Self {
            entity: driver.registry().entity(entity_id),
            driver,
        }
    }

    /// The entity of `memory` as it comes back from there, for looking at it only.
    pub(super) fn recovered(entity: Entity<E>, entity_id: &str, memory: MemoryStore) -> Self {
        let store = Arc::new(memory);
        let entity = entity.without_signals();
        let mut stage = Self::new(entity, entity_id, store, ManualClock::new(), 0);
        stage.wake();
        stage.drive(|| {});
        stage
    }

    pub(super) fn entity(&self) -> &EntityRef<E> {
        &self.entity
    }

    /// Brings the entity back without a command.
    pub(super) fn wake(&mut self) {
        if let Some(worker) = self.driver.worker_mut(0) {
            worker.wake(&self.entity);
        }
    }

    /// What the entity is like, if it is in memory.
    pub(super) fn peek(&self) -> Option<Peek<'_, E>> {
        self.driver.worker(0)?.peek(&self.entity)
    }

    pub(super) fn stashed(&self) -> usize {
        self.peek().map_or(0, |peek| peek.stashed)
    }

    /// The state, or why there is none.
    pub(super) fn state(&self) -> Result<&E, String> {
        let Some(peek) = self.peek() else {
            return Err("the entity is not in memory".to_owned());
        };
        match (peek.state, peek.failure) {
            (Some(state), _) => Ok(state),
            (None, Some(failure)) => Err(failure.to_string()),
            (None, None) => Err("the entity has not been brought back yet".to_owned()),
        }
    }

    /// How many calls the store has not answered.
    pub(super) fn open_calls(&self) -> usize {
        self.driver.open_calls()
    }

    /// How many futures of `later` are open.
    pub(super) fn open_futures(&self) -> usize {
        self.driver.open_futures()
    }

    /// Whether the engine waits on its own account and for nobody: to ask the store again, or to
    /// start the entity again.
    pub(super) fn waits_for_time(&self) -> bool {
        self.open_calls() == 0
            && self.peek().is_some_and(|peek| {
                peek.unsettled > 0 || (peek.state.is_none() && peek.failure.is_none())
            })
    }

    /// When something happens next by time alone.
    pub(super) fn next_time(&self) -> Option<Duration> {
        self.driver.next_time()
    }

    /// Wakes `waker` instead of nobody when a future can go on.
    pub(super) fn register(&self, waker: &Waker) {
        self.driver.register(waker);
    }

    /// Lets everything go on until nothing can without more time, more commands, or someone outside.
    /// `answered` is called whenever the store may have changed.
    #[track_caller]
    pub(super) fn drive(&mut self, answered: impl FnMut()) {
        assert!(
            self.driver.drive(TURNS, answered),
            "the entity does not come to rest: it has something to do after {TURNS} turns"
        );
    }
}

impl<E: EventSourced> fmt::Debug for Stage<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage")
            .field("entity", &self.entity)
            .field("driver", &self.driver)
            .finish()
    }
}
