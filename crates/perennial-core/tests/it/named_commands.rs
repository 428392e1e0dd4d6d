//! Commands with names: what is checked at the start, and how they come from elsewhere.

use std::error::Error as _;
use std::sync::Arc;

use perennial_core::config::ConfigSource;
use perennial_core::{
    ActorSystem, AskError, CommandError, Cx, Effect, Entity, EventSourced, Handle, InvalidCommands,
};
use perennial_persistence::{
    MESSAGE_PACK_ID, MessagePack, PersistenceId, Schema, SerializedPayload, Versions,
};
use perennial_testkit::MemoryStore;
use serde::{Deserialize, Serialize};

#[derive(Default)]
struct Sum(i64);

impl EventSourced for Sum {
    const TYPE: &'static str = "Sum";
    type Event = i64;
    type Services = ();

    fn apply(&mut self, number: &i64) {
        self.0 += number;
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Add {
    number: i64,
}

impl Handle<Add> for Sum {
    type Reply = i64;

    fn handle(&self, add: Add, cx: &Cx<'_, Self>) -> Effect<Self, i64> {
        cx.persist([add.number]).reply(|sum| sum.0)
    }
}

#[derive(Serialize, Deserialize)]
struct Get;

impl Handle<Get> for Sum {
    type Reply = i64;

    fn handle(&self, _: Get, cx: &Cx<'_, Self>) -> Effect<Self, i64> {
        cx.reply(self.0)
    }
}

async fn start(entity: Entity<Sum>) -> Result<ActorSystem, perennial_core::StartError> {
    let store = Arc::new(MemoryStore::default());
    let system = ActorSystem::with_store(ConfigSource::empty(), store);
    system.entity(entity).start().await
}

fn sum() -> Entity<Sum> {
    Entity::<Sum>::new(())
}

#[tokio::test]
async fn names_that_cannot_be_are_found_at_the_start() {
    let check = async |entity: Entity<Sum>, expected: InvalidCommands| {
        let error = start(entity).await.expect_err("wrong names");
        assert!(error.to_string().contains("\"Sum\""), "{error}");
        let source = error.source().expect("what is wrong");
        let found = source.downcast_ref::<InvalidCommands>();
        assert_eq!(found, Some(&expected));
    };
    let (add, get) = (std::any::type_name::<Add>(), std::any::type_name::<Get>());
    let twice = sum().command::<Add>("a").command::<Add>("b");
    check(twice, InvalidCommands::Twice { command: add }).await;
    for name in ["", "a\0", &"ü".repeat(256)] {
        let manifest = name.to_owned();
        let command = add;
        let wrong = InvalidCommands::Name { command, manifest };
        check(sum().command::<Add>(name), wrong).await;
    }
    let same = sum().command::<Add>("a").command::<Get>("a#2");
    let (name, first, second) = ("a".to_owned(), add, get);
    check(
        same,
        InvalidCommands::SameName {
            name,
            first,
            second,
        },
    )
    .await;
    let good = sum().command::<Add>(&"ü".repeat(255)).command::<Get>("a");
    let system = start(good).await.expect("good names");
    system.shutdown().await.expect("ends");
}

#[tokio::test]
async fn a_command_from_elsewhere_is_handled_and_answered() {
    // Both ends are the same release here.
    let system = start(sum().command::<Add>("sum.Add"))
        .await
        .expect("starts");
    let registry = system.registry();
    let id = PersistenceId::new("Sum", "a").expect("valid");
    let command = registry.encode_command::<Sum, Add>(&Add { number: 7 });
    let command = command.expect("it has a name");
    assert_eq!(&*command.manifest, "sum.Add");
    for expected in [7, 14] {
        let answer = registry.ask_encoded("Sum", id.clone(), &command, None);
        let reply = answer.expect("it is known").await.expect("it is handled");
        assert_eq!(&*reply.manifest, "sum.Add.Reply");
        let reply = registry.decode_reply::<Sum, Add>(&reply);
        assert_eq!(reply.expect("a reply"), expected);
    }
    assert_eq!(system.entity::<Sum>("a").ask(Get).await, Ok(14));
    system.shutdown().await.expect("ends");
    let answer = registry.ask_encoded("Sum", id, &command, None);
    let answer = answer.expect("it is known").await;
    assert_eq!(answer, Err(AskError::Stopped));
}

#[tokio::test]
async fn what_is_not_known_is_an_error_that_names_it() {
    let system = start(sum().command::<Add>("sum.Add"))
        .await
        .expect("starts");
    let registry = system.registry();
    let id = PersistenceId::new("Sum", "a").expect("valid");
    let payload = |manifest: &str| SerializedPayload::new(MESSAGE_PACK_ID, manifest, &b"\x80"[..]);
    let ask = |entity_type: &str, manifest: &str| {
        let answer = registry.ask_encoded(entity_type, id.clone(), &payload(manifest), None);
        let Err(error) = answer else {
            panic!("{manifest} of {entity_type} is not known");
        };
        error
    };
    let error = ask("Sum", "sum.Multiply");
    assert!(
        matches!(error, CommandError::UnknownName { .. }),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(
        text.contains("\"sum.Multiply\"") && text.contains("sum.Add"),
        "{text}"
    );
    let error = ask("Difference", "sum.Add");
    assert!(
        matches!(error, CommandError::UnknownEntityType { .. }),
        "{error:?}"
    );
    // A version that this release does not have, and bytes that are no command.
    for manifest in ["sum.Add#2", "sum.Add"] {
        let error = ask("Sum", manifest);
        assert!(matches!(error, CommandError::Codec { .. }), "{error:?}");
        assert!(error.to_string().contains(manifest), "{error}");
    }
    let error = registry
        .encode_command::<Sum, Get>(&Get)
        .expect_err("no name");
    assert!(matches!(error, CommandError::Unnamed { .. }), "{error:?}");
    system.shutdown().await.expect("ends");
}

#[tokio::test]
async fn a_command_of_an_older_release_is_brought_up_to_date() {
    let versions = Versions::new("sum.Add")
        .version(2)
        .upcast(1, |add| add.rename("n", "number"));
    let schema = Schema::<Add>::of(versions).build().expect("a good schema");
    let entity = sum().command_with::<Add>(schema, MessagePack::new("sum.Add.Reply"));
    let system = start(entity).await.expect("starts");
    let registry = system.registry();
    let id = PersistenceId::new("Sum", "a").expect("valid");
    // {"n": 5}
    let old = SerializedPayload::new(MESSAGE_PACK_ID, "sum.Add", &b"\x81\xa1n\x05"[..]);
    let new = registry.encode_command::<Sum, Add>(&Add { number: 1 });
    let new = new.expect("it has a name");
    assert_eq!(&*new.manifest, "sum.Add#2");
    for (command, expected) in [(old, 5), (new, 6)] {
        let answer = registry.ask_encoded("Sum", id.clone(), &command, None);
        let reply = answer.expect("it is known").await.expect("it is handled");
        let reply = registry.decode_reply::<Sum, Add>(&reply);
        assert_eq!(reply.expect("a reply"), expected);
    }
    system.shutdown().await.expect("ends");
}
