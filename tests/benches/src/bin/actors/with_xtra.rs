//! xtra.

use std::pin::pin;
use std::task::{Context as TaskContext, Waker};

use tokio::runtime::Runtime;
use xtra::{Actor, Address, Context, Handler, Mailbox};

use crate::bare_tokio::runtime;
use crate::latch::Latch;
use crate::{Library, Result};

pub(crate) struct Xtra {
    runtime: Runtime,
}

pub(crate) struct Counter {
    count: u64,
    latch: Latch,
}

impl Actor for Counter {
    type Stop = ();

    async fn stopped(self) {}
}

struct Count;

impl Handler<Count> for Counter {
    type Return = ();

    async fn handle(&mut self, _: Count, _: &mut Context<Self>) {
        self.count += 1;
        self.latch.arrive();
    }
}

struct Get;

impl Handler<Get> for Counter {
    type Return = u64;

    async fn handle(&mut self, _: Get, _: &mut Context<Self>) -> u64 {
        self.count
    }
}

struct Player {
    other: Option<Address<Player>>,
    latch: Latch,
}

impl Actor for Player {
    type Stop = ();

    async fn stopped(self) {}
}

struct Meet(Address<Player>);

impl Handler<Meet> for Player {
    type Return = ();

    async fn handle(&mut self, other: Meet, _: &mut Context<Self>) {
        self.other = Some(other.0);
    }
}

struct Ball(usize);

impl Handler<Ball> for Player {
    type Return = ();

    async fn handle(&mut self, ball: Ball, _: &mut Context<Self>) {
        match (&self.other, ball.0) {
            (Some(other), left @ 1..) => send_now(other, Ball(left - 1)),
            _ => self.latch.arrive(),
        }
    }
}

/// Sends without waiting: with an unbounded mailbox the first poll does.
fn send_now<A: Handler<M>, M: Send + 'static>(address: &Address<A>, message: M) {
    let mut sending = pin!(address.send(message).detach().into_future());
    let _ = sending
        .as_mut()
        .poll(&mut TaskContext::from_waker(Waker::noop()));
}

impl Library for Xtra {
    const NAME: &'static str = "xtra";
    type Actor = Address<Counter>;

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
                    xtra::spawn_tokio(counter, Mailbox::unbounded())
                })
                .collect()
        };
        for actor in actors.iter().rev().take(8) {
            Self::ask(actor).await;
        }
        Ok(actors)
    }

    fn tell(actor: &Self::Actor) {
        send_now(actor, Count);
    }

    async fn ask(actor: &Self::Actor) -> u64 {
        actor.send(Get).await.expect("it answers")
    }

    async fn play(&self, balls: usize, throws: usize, latch: &Latch) -> Result<()> {
        let (one, two) = {
            let _inside = self.runtime.enter();
            let player = || {
                let player = Player {
                    other: None,
                    latch: latch.clone(),
                };
                xtra::spawn_tokio(player, Mailbox::unbounded())
            };
            (player(), player())
        };
        one.send(Meet(two.clone())).await?;
        two.send(Meet(one.clone())).await?;
        for _ in 0..balls {
            send_now(&one, Ball(throws));
        }
        latch.wait().await;
        Ok(())
    }

    async fn stop(self) {
        self.runtime.shutdown_background();
    }
}
