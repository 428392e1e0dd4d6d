//! A system starts, works and stops wherever its program runs.

use actix::{Actor, Context, Handler, Message, ResponseFuture};
use perennial::prelude::*;
use perennial_it::{Note, Notebook, TestStore};

/// Two lives of a notebook on one database.
async fn live_twice() {
    let store = TestStore::sqlite();
    for place in 1..=2 {
        let system = start(&store).await;
        let noted = system.entity::<Notebook>("diary").ask(Note(7)).await;
        assert_eq!(noted, Ok(place));
        system.shutdown().await.expect("idle");
        // The second shutdown has nothing left to do.
        system.shutdown().await.expect("ended");
        let late = system.entity::<Notebook>("diary").ask(Note(8)).await;
        assert_eq!(late, Err(AskError::Stopped));
    }
}

async fn start(store: &TestStore) -> ActorSystem {
    store
        .system()
        .entity(Entity::<Notebook>::new(()))
        .start()
        .await
        .expect("a usable store")
}

#[test]
fn in_a_plain_main() {
    perennial::block_on(live_twice());
}

#[test]
fn in_a_tokio_main() {
    #[tokio::main]
    async fn main() {
        live_twice().await;
    }
    main();
}

#[test]
fn in_a_tokio_main_of_one_thread() {
    #[tokio::main(flavor = "current_thread")]
    async fn main() {
        live_twice().await;
    }
    main();
}

#[test]
fn in_an_actix_main() {
    #[actix::main]
    async fn main() {
        live_twice().await;
    }
    main();
}

/// An actix actor that asks an entity.
struct Asker(EntityRef<Notebook>);

#[derive(Message)]
#[rtype(result = "Result<usize, AskError>")]
struct PassOn(u64);

impl Actor for Asker {
    type Context = Context<Self>;
}

impl Handler<PassOn> for Asker {
    type Result = ResponseFuture<Result<usize, AskError>>;

    fn handle(&mut self, PassOn(note): PassOn, _: &mut Context<Self>) -> Self::Result {
        let book = self.0.clone();
        Box::pin(async move { book.ask(Note(note)).await })
    }
}

#[test]
fn an_actix_actor_asks_entities() {
    #[actix::main]
    async fn main() {
        let store = TestStore::sqlite();
        let system = start(&store).await;
        let asker = Asker(system.entity::<Notebook>("diary")).start();
        assert_eq!(asker.send(PassOn(1)).await.expect("it lives"), Ok(1));
        system.shutdown().await.expect("idle");
        let late = asker.send(PassOn(2)).await.expect("it lives");
        assert_eq!(late, Err(AskError::Stopped));
    }
    main();
}

#[test]
fn a_system_that_is_dropped_has_stored_what_it_answered() {
    let store = TestStore::sqlite();
    perennial::block_on(async {
        let system = start(&store).await;
        let noted = system.entity::<Notebook>("diary").ask(Note(7)).await;
        assert_eq!(noted, Ok(1));
        drop(system);
        assert_eq!(store.events_of(Notebook::TYPE, "diary").await.len(), 1);
    });
}
