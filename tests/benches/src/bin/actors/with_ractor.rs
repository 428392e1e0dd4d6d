//! ractor.

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::runtime::Runtime;

use crate::bare_tokio::runtime;
use crate::latch::Latch;
use crate::{Library, Result};

pub(crate) struct Ractor {
    runtime: Runtime,
}

struct Counter;

pub(crate) enum Message {
    Count,
    Get(RpcReplyPort<u64>),
}

impl Actor for Counter {
    type Msg = Message;
    type State = (u64, Latch);
    type Arguments = Latch;

    async fn pre_start(
        &self,
        _: ActorRef<Message>,
        latch: Latch,
    ) -> std::result::Result<Self::State, ActorProcessingErr> {
        Ok((0, latch))
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        (count, latch): &mut Self::State,
    ) -> std::result::Result<(), ActorProcessingErr> {
        match message {
            Message::Count => {
                *count += 1;
                latch.arrive();
            }
            Message::Get(reply) => reply.send(*count)?,
        }
        Ok(())
    }
}

struct Player;

enum Play {
    Meet(ActorRef<Play>),
    Ball(usize),
}

impl Actor for Player {
    type Msg = Play;
    type State = (Option<ActorRef<Play>>, Latch);
    type Arguments = Latch;

    async fn pre_start(
        &self,
        _: ActorRef<Play>,
        latch: Latch,
    ) -> std::result::Result<Self::State, ActorProcessingErr> {
        Ok((None, latch))
    }

    async fn handle(
        &self,
        _: ActorRef<Play>,
        message: Play,
        (other, latch): &mut Self::State,
    ) -> std::result::Result<(), ActorProcessingErr> {
        match (message, &other) {
            (Play::Meet(player), _) => *other = Some(player),
            (Play::Ball(left @ 1..), Some(other)) => other.cast(Play::Ball(left - 1))?,
            _ => latch.arrive(),
        }
        Ok(())
    }
}

impl Library for Ractor {
    const NAME: &'static str = "ractor";
    type Actor = ActorRef<Message>;

    async fn start(threads: usize) -> Result<Self> {
        Ok(Self {
            runtime: runtime(threads)?,
        })
    }

    async fn spawn(&self, count: usize, latch: &Latch) -> Result<Vec<Self::Actor>> {
        let latch = latch.clone();
        let spawned = self.runtime.spawn(async move {
            let mut actors = Vec::with_capacity(count);
            for _ in 0..count {
                actors.push(Actor::spawn(None, Counter, latch.clone()).await?.0);
            }
            Ok::<_, ractor::SpawnErr>(actors)
        });
        Ok(spawned.await??)
    }

    fn tell(actor: &Self::Actor) {
        let _ = actor.cast(Message::Count);
    }

    async fn ask(actor: &Self::Actor) -> u64 {
        let called = actor.call(Message::Get, None).await;
        called.expect("it takes it").expect("it answers")
    }

    async fn play(&self, balls: usize, throws: usize, latch: &Latch) -> Result<()> {
        let own = latch.clone();
        let spawned = self.runtime.spawn(async move {
            let (one, _) = Actor::spawn(None, Player, own.clone()).await?;
            let (two, _) = Actor::spawn(None, Player, own).await?;
            Ok::<_, ractor::SpawnErr>((one, two))
        });
        let (one, two) = spawned.await??;
        one.cast(Play::Meet(two.clone()))
            .map_err(|error| error.to_string())?;
        two.cast(Play::Meet(one.clone()))
            .map_err(|error| error.to_string())?;
        for _ in 0..balls {
            one.cast(Play::Ball(throws))
                .map_err(|error| error.to_string())?;
        }
        latch.wait().await;
        Ok(())
    }

    async fn stop(self) {
        self.runtime.shutdown_background();
    }
}
