//! What one release stored, a later one with other types reads.

use std::sync::Arc;

use perennial_core::config::ConfigSource;
use perennial_core::{ActorSystem, AskError, Cx, Effect, Entity, EventSourced, Handle};
use perennial_persistence::{
    Format, PersistenceId, Schema, SerializedPayload, Tree, TreeError, Versions,
};
use perennial_testkit::MemoryStore;
use serde::{Deserialize, Serialize};

/// The first release: one event, amounts in whole units.
mod first {
    use super::*;

    #[derive(Default, Serialize, Deserialize)]
    pub(super) struct Account {
        pub(super) total: i64,
    }

    #[derive(Serialize, Deserialize)]
    pub(super) struct Booked {
        pub(super) amount: i64,
    }

    impl EventSourced for Account {
        const TYPE: &'static str = "Account";
        type Event = Booked;
        type Services = ();

        fn apply(&mut self, event: &Booked) {
            self.total += event.amount;
        }
    }

    pub(super) struct Book(pub(super) i64);

    impl Handle<Book> for Account {
        type Reply = i64;

        fn handle(&self, command: Book, cx: &Cx<'_, Self>) -> Effect<Self, i64> {
            cx.persist([Booked { amount: command.0 }])
                .reply(|account| account.total)
        }
    }

    pub(super) fn entity(format: Format) -> Entity<Account> {
        let events = Schema::of(Versions::new("Account.Booked")).format(format);
        let state = Schema::of(Versions::new("Account.State")).format(format);
        Entity::new(())
            .event_codec(events.build().expect("a schema"))
            .state_codec(state.build().expect("a schema"))
            .snapshot_every(4)
    }
}

/// The second release: cents, and two kinds of events.
mod second {
    use super::*;

    #[derive(Default, Serialize, Deserialize)]
    pub(super) struct Account {
        pub(super) cents: i64,
        pub(super) events: u64,
    }

    #[derive(Serialize, Deserialize)]
    pub(super) struct Paid {
        pub(super) cents: i64,
    }

    #[derive(Serialize, Deserialize)]
    pub(super) enum Event {
        In(Paid),
        Out(Paid),
    }

    impl EventSourced for Account {
        const TYPE: &'static str = "Account";
        type Event = Event;
        type Services = ();

        fn apply(&mut self, event: &Event) {
            self.events += 1;
            match event {
                Event::In(paid) => self.cents += paid.cents,
                Event::Out(paid) => self.cents -= paid.cents,
            }
        }
    }

    pub(super) struct PayOut(pub(super) i64);

    impl Handle<PayOut> for Account {
        type Reply = (i64, u64);

        fn handle(&self, command: PayOut, cx: &Cx<'_, Self>) -> Effect<Self, (i64, u64)> {
            cx.persist([Event::Out(Paid { cents: command.0 })])
                .reply(|account| (account.cents, account.events))
        }
    }

    fn to_cents(tree: &mut Tree, from: &str) -> Result<(), TreeError> {
        tree.rename(from, "cents")?;
        let units = tree.get("cents").and_then(Tree::as_i64).unwrap_or(0);
        tree.set("cents", units * 100)
    }

    pub(super) fn entity(format: Format) -> Entity<Account> {
        // What was booked is one event now, or none if it was nothing.
        let booked = Versions::new("Account.Booked")
            .version(2)
            .upcast(1, |event| to_cents(event, "amount"));
        let split = |paid: Paid| match paid.cents {
            0 => None,
            1.. => Some(Event::In(paid)),
            cents => Some(Event::Out(Paid { cents: -cents })),
        };
        let events = Schema::variants()
            .format(format)
            .variant(
                Versions::new("Account.In"),
                Event::In,
                |event| match event {
                    Event::In(paid) => Some(paid),
                    Event::Out(_) => None,
                },
            )
            .variant(
                Versions::new("Account.Out"),
                Event::Out,
                |event| match event {
                    Event::Out(paid) => Some(paid),
                    Event::In(_) => None,
                },
            )
            .read_each(booked, split);
        let state = Versions::new("Account.State")
            .version(2)
            .upcast(1, |state| {
                to_cents(state, "total")?;
                state.set("events", 1000)
            });
        Entity::new(())
            .event_codec(events.build().expect("a schema"))
            .state_codec(Schema::of(state).format(format).build().expect("a schema"))
            .snapshot_every(4)
    }
}

async fn start<E: EventSourced>(store: &MemoryStore, entity: Entity<E>) -> ActorSystem {
    ActorSystem::with_store(ConfigSource::empty(), Arc::new(store.open_again()))
        .entity(entity)
        .start()
        .await
        .expect("a system on memory starts")
}

/// Has the first release book these amounts, and stop.
async fn book(store: &MemoryStore, format: Format, amounts: &[i64]) {
    let system = start(store, first::entity(format)).await;
    let account = system.entity::<first::Account>("4711");
    for amount in amounts {
        account.ask(first::Book(*amount)).await.expect("stored");
    }
    system.shutdown().await.expect("an idle system stops");
}

fn payloads(store: &MemoryStore, id: &PersistenceId) -> Vec<SerializedPayload> {
    let events = store.rows(id).into_iter().filter_map(|row| row.event);
    events.map(|(_, event)| event.payload).collect()
}

#[tokio::test]
async fn events_of_an_earlier_release_become_those_of_today() {
    for (old, new) in [
        (Format::MessagePack, Format::JacksonJson),
        (Format::JacksonJson, Format::JacksonCbor),
        (Format::JacksonCbor, Format::MessagePack),
    ] {
        let store = MemoryStore::default();
        book(&store, old, &[5, 0, -2]).await;
        let system = start(&store, second::entity(new)).await;
        let account = system.entity::<second::Account>("4711");
        // Three rows of which one means nothing any more, and the new event.
        assert_eq!(account.ask(second::PayOut(50)).await, Ok((250, 3)));
        system.shutdown().await.expect("an idle system stops");

        let id = PersistenceId::new("Account", "4711").expect("a valid id");
        let payloads = payloads(&store, &id);
        let manifests: Vec<_> = payloads.iter().map(|payload| &*payload.manifest).collect();
        let booked = "Account.Booked";
        assert_eq!(manifests, [booked, booked, booked, "Account.Out"]);
        let ids: Vec<_> = payloads
            .iter()
            .map(|payload| payload.serializer_id)
            .collect();
        let (old, new) = (old.serializer_id(), new.serializer_id());
        assert_eq!(ids, [old, old, old, new], "stored rows stay as they are");

        // And a third start reads both kinds of rows.
        let system = start(&store, second::entity(Format::MessagePack)).await;
        let account = system.entity::<second::Account>("4711");
        assert_eq!(account.ask(second::PayOut(0)).await, Ok((250, 4)));
        system.shutdown().await.expect("an idle system stops");
    }
}

#[tokio::test]
async fn a_snapshot_of_an_earlier_release_becomes_one_of_today() {
    let store = MemoryStore::default();
    book(&store, Format::JacksonJson, &[1, 2, 3, 4]).await;
    let system = start(&store, second::entity(Format::MessagePack)).await;
    let account = system.entity::<second::Account>("4711");
    // The upcast of the state put a number there that no replay could give.
    assert_eq!(account.ask(second::PayOut(0)).await, Ok((1000, 1001)));
    assert_eq!(system.stats().replayed_events, 0);
    system.shutdown().await.expect("an idle system stops");
}

#[tokio::test]
async fn a_release_that_is_behind_says_so_and_changes_nothing() {
    let store = MemoryStore::default();
    let system = start(&store, second::entity(Format::MessagePack)).await;
    let account = system.entity::<second::Account>("4711");
    account.ask(second::PayOut(50)).await.expect("stored");
    system.shutdown().await.expect("an idle system stops");

    let system = start(&store, first::entity(Format::MessagePack)).await;
    let account = system.entity::<first::Account>("4711");
    let error = account.ask(first::Book(1)).await.expect_err("unknown");
    assert!(matches!(error, AskError::RecoveryFailed(_)));
    let text = error.to_string();
    assert!(text.contains("Account|4711"), "{text}");
    assert!(text.contains("\"Account.Out\""), "{text}");
    // Others are not concerned.
    let other = system.entity::<first::Account>("4712");
    assert_eq!(other.ask(first::Book(1)).await, Ok(1));
    system.shutdown().await.expect("an idle system stops");
    let id = PersistenceId::new("Account", "4711").expect("a valid id");
    assert_eq!(payloads(&store, &id).len(), 1);
}
