//! What is wrong with a system is said when it starts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use perennial_core::config::{ConfigError, ConfigSource};
use perennial_core::{
    ActorSystem, AskError, Cx, Effect, Entity, EntityRef, EventSourced, Handle, OpenStore,
    StartError, StorePlugin, SystemBuilder,
};
use perennial_persistence::Store;
use perennial_testkit::MemoryStore;

use crate::fixture::{Bed, Ledger, Note, ledger};

/// An entity type under any name that counts its commands.
#[derive(Debug, Default)]
pub(crate) struct Named<const TYPE: usize>(u64);

const TYPES: [&str; 4] = ["Other", "a|b", "", "nul\0"];

impl<const TYPE: usize> EventSourced for Named<TYPE> {
    const TYPE: &'static str = TYPES[TYPE];
    type Event = ();
    type Services = ();

    fn apply(&mut self, (): &()) {
        self.0 += 1;
    }
}

pub(crate) struct Count;

impl<const TYPE: usize> Handle<Count> for Named<TYPE> {
    type Reply = u64;

    fn handle(&self, _: Count, cx: &Cx<'_, Self>) -> Effect<Self, u64> {
        cx.persist([()]).reply(|named| named.0)
    }
}

async fn refused(builder: SystemBuilder) -> StartError {
    builder.start().await.expect_err("it cannot start")
}

#[tokio::test]
async fn entities_of_several_types_are_told_apart() {
    let bed = Bed::new();
    let builder = bed.builder(&[]).entity(ledger());
    let system = builder
        .entity(Entity::<Named<0>>::new(()))
        .start()
        .await
        .expect("starts");
    let ledger = system.entity::<Ledger>("a");
    let other: EntityRef<Named<0>> = system.entity("a");
    assert_eq!(ledger.ask(Note(7)).await, Ok(vec![7]));
    assert_eq!(other.ask(Count).await, Ok(1));
    assert_eq!(other.ask(Count).await, Ok(2));
    assert_eq!(ledger.ask(Note(8)).await, Ok(vec![7, 8]));
    let ids: Vec<String> = bed
        .memory
        .persistence_ids()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(ids, ["Ledger|a", "Other|a"]);
}

#[tokio::test]
async fn a_type_whose_name_cannot_be_part_of_an_id_is_refused() {
    let bed = Bed::new();
    for (builder, shown) in [
        (bed.builder(&[]).entity(Entity::<Named<1>>::new(())), "a|b"),
        (bed.builder(&[]).entity(Entity::<Named<2>>::new(())), "\"\""),
        (bed.builder(&[]).entity(Entity::<Named<3>>::new(())), "nul"),
    ] {
        let error = refused(builder).await;
        assert!(matches!(error, StartError::EntityType { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(shown) && text.contains("`TYPE`"), "{text}");
    }
}

#[tokio::test]
async fn a_type_that_is_given_twice_is_refused() {
    let bed = Bed::new();
    let error = refused(bed.builder(&[]).entity(ledger()).entity(ledger())).await;
    assert!(
        matches!(error, StartError::DuplicateEntityType { name: "Ledger" }),
        "{error:?}"
    );
}

#[tokio::test]
async fn settings_that_cannot_be_meant_are_refused() {
    let bed = Bed::new();
    for (settings, parts) in [
        (
            &[("entity.Ledger.snapshot-every", "10")][..],
            ["entity.Ledger.snapshot-every", "Entity::snapshot_every"],
        ),
        (&[("entity.Lager.stash", "1")], ["Lager", "Ledger"]),
        (
            &[("system.later-limit", "0")],
            ["system.later-limit", "1048576"],
        ),
    ] {
        let error = refused(bed.builder(settings).entity(ledger())).await;
        assert!(matches!(error, StartError::Config(_)), "{error:?}");
        let text = error.to_string();
        for part in parts {
            assert!(text.contains(part), "{text}");
        }
    }
    let error = refused(bed.builder(&[]).entity(ledger().mailbox(0))).await;
    let text = error.to_string();
    assert!(text.contains("entity.Ledger.mailbox"), "{text}");
}

/// The state of this type cannot even be made.
#[derive(Debug)]
struct Hopeless;

static MADE: AtomicUsize = AtomicUsize::new(0);

impl Default for Hopeless {
    fn default() -> Self {
        assert!(
            MADE.fetch_add(1, Ordering::SeqCst) % 2 == 1,
            "no state without a reason"
        );
        Self
    }
}

impl EventSourced for Hopeless {
    const TYPE: &'static str = "Hopeless";
    type Event = ();
    type Services = ();

    fn apply(&mut self, (): &()) {}
}

impl Handle<Count> for Hopeless {
    type Reply = u64;

    fn handle(&self, _: Count, cx: &Cx<'_, Self>) -> Effect<Self, u64> {
        cx.stop().reply(|_| 7)
    }
}

impl Handle<Arc<()>> for Hopeless {
    type Reply = u64;

    fn handle(&self, _: Arc<()>, _: &Cx<'_, Self>) -> Effect<Self, u64> {
        panic!("and the handler panics too")
    }
}

#[tokio::test]
async fn a_state_that_cannot_be_made_concerns_its_entity_only() {
    let bed = Bed::new();
    let system = bed
        .builder(&[])
        .entity(ledger())
        .entity(Entity::<Hopeless>::new(()).restart_backoff(
            std::time::Duration::from_millis(1),
            std::time::Duration::from_millis(1),
        ))
        .start()
        .await
        .expect("starts");
    let hopeless = system.entity::<Hopeless>("a");
    let other = system.entity::<Ledger>("other");
    let mut failures = 0;
    for number in 0..20 {
        match hopeless.ask(Arc::new(())).await {
            Err(AskError::Panicked { .. }) => {}
            Err(AskError::RecoveryFailed(failed)) => {
                assert!(failed.reason.contains("no state without"), "{failed}");
                failures += 1;
            }
            answer => panic!("{answer:?}"),
        }
        let notes = other.ask(Note(number)).await.expect("it is not concerned");
        assert_eq!(notes.len() as u64, number + 1);
    }
    assert!(failures > 0);
    assert_eq!(system.shutdown().await, Ok(()));
}

/// A plugin for a store in memory that the test keeps.
#[derive(Debug)]
struct Memory(&'static str, MemoryStore);

impl StorePlugin for Memory {
    fn name(&self) -> &'static str {
        self.0
    }

    fn configure(&self, _: &ConfigSource) -> Result<OpenStore, ConfigError> {
        let store: Arc<dyn Store> = Arc::new(self.1.clone());
        Ok(Box::new(move || Box::pin(async move { Ok(store) })))
    }
}

#[tokio::test]
async fn an_entity_type_may_be_kept_in_a_store_of_its_own() {
    let (first, second) = (MemoryStore::default(), MemoryStore::default());
    let builder = |config: &str| {
        let source = ConfigSource::from_toml("test.toml", config).expect("it is TOML");
        let plugins: Vec<Box<dyn StorePlugin>> = vec![
            Box::new(Memory("first", first.open_again())),
            Box::new(Memory("second", second.open_again())),
        ];
        ActorSystem::with_plugins(source, plugins)
            .entity(ledger().snapshot_every(2))
            .entity(Entity::<Named<0>>::new(()))
    };
    let config = "persistence.plugin = \"first\"\nentity.Ledger.plugin = \"second\"\n";
    for round in 0..2 {
        let system = builder(config).start().await.expect("both open");
        let ledger = system.entity::<Ledger>("a");
        let other: EntityRef<Named<0>> = system.entity("a");
        let expected: Vec<u64> = (0..=round * 2).collect();
        assert_eq!(ledger.ask(Note(round * 2)).await, Ok(expected));
        assert_eq!(other.ask(Count).await, Ok(round + 1));
        ledger.ask(Note(round * 2 + 1)).await.expect("stored");
        assert_eq!(system.shutdown().await, Ok(()));
        assert!(second.snapshot(&crate::fixture::id("a")).is_some());
    }
    let ids = |store: &MemoryStore| -> Vec<String> {
        let ids = store.persistence_ids();
        ids.iter().map(ToString::to_string).collect()
    };
    assert_eq!(ids(&first), ["Other|a"]);
    assert_eq!(ids(&second), ["Ledger|a"]);

    let wrong = config.replace("\"second\"", "\"secnd\"");
    let text = refused(builder(&wrong)).await.to_string();
    for part in ["entity.Ledger.plugin", "test.toml, line 2", "\"second\""] {
        assert!(text.contains(part), "{text}");
    }
    // A program that opens its store itself has no other.
    let bed = Bed::new();
    let other = bed.builder(&[("entity.Ledger.plugin", "second")]);
    let text = refused(other.entity(ledger())).await.to_string();
    assert!(text.contains("entity.Ledger.plugin"), "{text}");
}
