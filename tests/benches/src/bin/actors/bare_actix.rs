//! Bare actix: actors on arbiters of their own.

use actix::{Actor, Addr, Arbiter, ArbiterHandle, Context, Handler, Message, Recipient};

use crate::latch::Latch;
use crate::{Library, Result};

pub(crate) struct BareActix {
    arbiters: Vec<ArbiterHandle>,
    end: std::sync::mpsc::Sender<()>,
}

pub(crate) struct Counter {
    count: u64,
    latch: Latch,
}

impl Actor for Counter {
    type Context = Context<Self>;
}

struct Count;

impl Message for Count {
    type Result = ();
}

impl Handler<Count> for Counter {
    type Result = ();

    fn handle(&mut self, _: Count, _: &mut Self::Context) {
        self.count += 1;
        self.latch.arrive();
    }
}

struct Get;

impl Message for Get {
    type Result = u64;
}

impl Handler<Get> for Counter {
    type Result = u64;

    fn handle(&mut self, _: Get, _: &mut Self::Context) -> u64 {
        self.count
    }
}

struct Player {
    other: Option<Recipient<Ball>>,
    latch: Latch,
}

impl Actor for Player {
    type Context = Context<Self>;
}

struct Ball(usize);

impl Message for Ball {
    type Result = ();
}

impl Handler<Ball> for Player {
    type Result = ();

    fn handle(&mut self, ball: Ball, _: &mut Self::Context) {
        match (&self.other, ball.0) {
            (Some(other), left @ 1..) => other.do_send(Ball(left - 1)),
            _ => self.latch.arrive(),
        }
    }
}

struct Meet(Recipient<Ball>);

impl Message for Meet {
    type Result = ();
}

impl Handler<Meet> for Player {
    type Result = ();

    fn handle(&mut self, other: Meet, _: &mut Self::Context) {
        self.other = Some(other.0);
    }
}

impl Library for BareActix {
    const NAME: &'static str = "actix";
    type Actor = Addr<Counter>;

    async fn start(threads: usize) -> Result<Self> {
        let (started, start) = tokio::sync::oneshot::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || {
            actix::System::new().block_on(async move {
                let arbiters: Vec<Arbiter> = (0..threads).map(|_| Arbiter::new()).collect();
                let handles = arbiters.iter().map(Arbiter::handle).collect();
                let _ = started.send(handles);
                let _ = tokio::task::spawn_blocking(move || ended.recv()).await;
                for arbiter in arbiters {
                    arbiter.stop();
                    let _ = arbiter.join();
                }
            });
        });
        Ok(Self {
            arbiters: start.await?,
            end,
        })
    }

    async fn spawn(&self, count: usize, latch: &Latch) -> Result<Vec<Self::Actor>> {
        let actors: Vec<_> = (0..count)
            .map(|number| {
                let latch = latch.clone();
                let arbiter = &self.arbiters[number % self.arbiters.len()];
                Counter::start_in_arbiter(arbiter, |_| Counter { count: 0, latch })
            })
            .collect();
        for actor in actors.iter().rev().take(8) {
            actor.send(Get).await?;
        }
        Ok(actors)
    }

    fn tell(actor: &Self::Actor) {
        actor.do_send(Count);
    }

    async fn ask(actor: &Self::Actor) -> u64 {
        actor.send(Get).await.expect("it answers")
    }

    async fn play(&self, balls: usize, throws: usize, latch: &Latch) -> Result<()> {
        let player = || {
            let latch = latch.clone();
            Player::start_in_arbiter(&self.arbiters[0], move |context: &mut Context<Player>| {
                context.set_mailbox_capacity(1 << 20);
                Player { other: None, latch }
            })
        };
        let (one, two) = (player(), player());
        one.send(Meet(two.clone().recipient())).await?;
        two.send(Meet(one.clone().recipient())).await?;
        for _ in 0..balls {
            one.do_send(Ball(throws));
        }
        latch.wait().await;
        Ok(())
    }

    async fn stop(self) {
        let _ = self.end.send(());
    }
}
