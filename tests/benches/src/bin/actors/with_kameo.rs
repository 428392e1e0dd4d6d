//! kameo.

use kameo::Actor;
use kameo::actor::{ActorRef, Spawn};
use kameo::error::Infallible;
use kameo::mailbox;
use kameo::message::{Context, Message};
use tokio::runtime::Runtime;

use crate::bare_tokio::runtime;
use crate::latch::Latch;
use crate::{Library, Result};

pub(crate) struct Kameo {
    runtime: Runtime,
}

pub(crate) struct Counter {
    count: u64,
    latch: Latch,
}

impl Actor for Counter {
    type Args = Self;
    type Error = Infallible;

    async fn on_start(args: Self, _: ActorRef<Self>) -> std::result::Result<Self, Infallible> {
        Ok(args)
    }
}

struct Count;

impl Message<Count> for Counter {
    type Reply = ();

    async fn handle(&mut self, _: Count, _: &mut Context<Self, ()>) {
        self.count += 1;
        self.latch.arrive();
    }
}

struct Get;

impl Message<Get> for Counter {
    type Reply = u64;

    async fn handle(&mut self, _: Get, _: &mut Context<Self, u64>) -> u64 {
        self.count
    }
}

struct Player {
    other: Option<ActorRef<Player>>,
    latch: Latch,
}

impl Actor for Player {
    type Args = Self;
    type Error = Infallible;

    async fn on_start(args: Self, _: ActorRef<Self>) -> std::result::Result<Self, Infallible> {
        Ok(args)
    }
}

struct Meet(ActorRef<Player>);

impl Message<Meet> for Player {
    type Reply = ();

    async fn handle(&mut self, other: Meet, _: &mut Context<Self, ()>) {
        self.other = Some(other.0);
    }
}

struct Ball(usize);

impl Message<Ball> for Player {
    type Reply = ();

    async fn handle(&mut self, ball: Ball, _: &mut Context<Self, ()>) {
        match (&self.other, ball.0) {
            (Some(other), left @ 1..) => {
                let _ = other.tell(Ball(left - 1)).try_send();
            }
            _ => self.latch.arrive(),
        }
    }
}

impl Library for Kameo {
    const NAME: &'static str = "kameo";
    type Actor = ActorRef<Counter>;

    async fn start(threads: usize) -> Result<Self> {
        Ok(Self {
            runtime: runtime(threads)?,
        })
    }

    async fn spawn(&self, count: usize, latch: &Latch) -> Result<Vec<Self::Actor>> {
        let actors: Vec<_> = {
            let _inside = self.runtime.enter();
            (0..count)
                .map(|_| {
                    let counter = Counter {
                        count: 0,
                        latch: latch.clone(),
                    };
                    Counter::spawn_with_mailbox(counter, mailbox::unbounded())
                })
                .collect()
        };
        for actor in actors.iter().rev().take(8) {
            Self::ask(actor).await;
        }
        Ok(actors)
    }

    fn tell(actor: &Self::Actor) {
        let _ = actor.tell(Count).try_send();
    }

    async fn ask(actor: &Self::Actor) -> u64 {
        actor.ask(Get).await.expect("it answers")
    }

    async fn play(&self, balls: usize, throws: usize, latch: &Latch) -> Result<()> {
        let (one, two) = {
            let _inside = self.runtime.enter();
            let player = || {
                let player = Player {
                    other: None,
                    latch: latch.clone(),
                };
                Player::spawn_with_mailbox(player, mailbox::unbounded())
            };
            (player(), player())
        };
        one.ask(Meet(two.clone()))
            .await
            .map_err(|error| error.to_string())?;
        two.ask(Meet(one.clone()))
            .await
            .map_err(|error| error.to_string())?;
        for _ in 0..balls {
            one.tell(Ball(throws))
                .try_send()
                .map_err(|error| error.to_string())?;
        }
        latch.wait().await;
        Ok(())
    }

    async fn stop(self) {
        self.runtime.shutdown_background();
    }
}
