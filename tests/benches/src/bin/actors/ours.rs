//! perennial.

use perennial::ConfigSource;
use perennial::prelude::*;
use perennial::{Actor, ActorCx, ActorRef, AskError, Placement, Props, Receive, Received};

use crate::latch::Latch;
use crate::{Library, Result};

pub(crate) struct Ours {
    system: ActorSystem,
}

pub(crate) struct Counter {
    count: u64,
    latch: Latch,
}

impl Actor for Counter {}

struct Count;

impl Receive<Count> for Counter {
    type Reply = ();

    fn receive(&mut self, _: Count, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        self.count += 1;
        self.latch.arrive();
        cx.reply(())
    }
}

struct Get;

impl Receive<Get> for Counter {
    type Reply = u64;

    fn receive(&mut self, _: Get, cx: &mut ActorCx<'_, Self>) -> Received<Self, u64> {
        cx.reply(self.count)
    }
}

struct Player {
    other: Option<ActorRef<Player>>,
    latch: Latch,
}

impl Actor for Player {}

struct Meet(ActorRef<Player>);

impl Receive<Meet> for Player {
    type Reply = ();

    fn receive(&mut self, other: Meet, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        self.other = Some(other.0);
        cx.reply(())
    }
}

struct Ball(usize);

impl Receive<Ball> for Player {
    type Reply = ();

    fn receive(&mut self, ball: Ball, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        match (&self.other, ball.0) {
            (Some(other), left @ 1..) => other.tell(Ball(left - 1))?,
            _ => self.latch.arrive(),
        }
        cx.reply(())
    }
}

impl Library for Ours {
    const NAME: &'static str = "perennial";
    type Actor = ActorRef<Counter>;

    async fn start(threads: usize) -> Result<Self> {
        let source = ConfigSource::empty()
            .set("system.workers", threads)?
            // So that other settings can be timed: PERENNIAL__SYSTEM__SPIN_BEFORE_PARK=20us …
            .with_environment(std::env::vars_os())?;
        let system = ActorSystem::in_memory(source).start().await?;
        Ok(Self { system })
    }

    async fn spawn(&self, count: usize, latch: &Latch) -> Result<Vec<Self::Actor>> {
        let mut actors = Vec::with_capacity(count);
        for _ in 0..count {
            let latch = latch.clone();
            let props = Props::new(move || Counter {
                count: 0,
                latch: latch.clone(),
            });
            actors.push(self.system.spawn_anonymous(props.mailbox(1 << 20))?);
        }
        // They start in the order in which they were spawned, on as many workers as there are.
        for actor in actors.iter().rev().take(8) {
            actor.ask(Get).await?;
        }
        Ok(actors)
    }

    fn tell(actor: &Self::Actor) {
        while let Err(AskError::Busy { .. }) = actor.tell(Count) {
            std::thread::yield_now();
        }
    }

    async fn ask(actor: &Self::Actor) -> u64 {
        actor.ask(Get).await.expect("it answers")
    }

    async fn play(&self, balls: usize, throws: usize, latch: &Latch) -> Result<()> {
        let player = || {
            let latch = latch.clone();
            let props = Props::new(move || Player {
                other: None,
                latch: latch.clone(),
            });
            let props = props.mailbox(1 << 20).placement(Placement::Worker(0));
            self.system.spawn_anonymous(props)
        };
        let (one, two) = (player()?, player()?);
        one.ask(Meet(two.clone())).await?;
        two.ask(Meet(one.clone())).await?;
        for _ in 0..balls {
            one.tell(Ball(throws))?;
        }
        latch.wait().await;
        Ok(())
    }

    async fn stop(self) {
        self.system.shutdown().await.expect("it stops in time");
    }
}
