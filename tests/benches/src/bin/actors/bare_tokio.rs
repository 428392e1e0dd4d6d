//! Bare tokio: a task and an unbounded channel per actor.

use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use crate::latch::Latch;
use crate::{Library, Result};

pub(crate) struct BareTokio {
    runtime: Runtime,
}

pub(crate) enum Message {
    Count,
    Get(oneshot::Sender<u64>),
}

enum Play {
    Meet(UnboundedSender<Play>),
    Ball(usize),
}

/// A runtime of its own with so many threads.
pub(crate) fn runtime(threads: usize) -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()?)
}

impl Library for BareTokio {
    const NAME: &'static str = "tokio";
    type Actor = UnboundedSender<Message>;

    async fn start(threads: usize) -> Result<Self> {
        Ok(Self {
            runtime: runtime(threads)?,
        })
    }

    async fn spawn(&self, count: usize, latch: &Latch) -> Result<Vec<Self::Actor>> {
        let actors: Vec<_> = (0..count)
            .map(|_| {
                let (sender, mut receiver) = unbounded_channel();
                let latch = latch.clone();
                self.runtime.spawn(async move {
                    let mut count = 0;
                    while let Some(message) = receiver.recv().await {
                        match message {
                            Message::Count => {
                                count += 1;
                                latch.arrive();
                            }
                            Message::Get(reply) => {
                                let _ = reply.send(count);
                            }
                        }
                    }
                });
                sender
            })
            .collect();
        for actor in actors.iter().rev().take(8) {
            Self::ask(actor).await;
        }
        Ok(actors)
    }

    fn tell(actor: &Self::Actor) {
        let _ = actor.send(Message::Count);
    }

    async fn ask(actor: &Self::Actor) -> u64 {
        let (reply, answer) = oneshot::channel();
        let _ = actor.send(Message::Get(reply));
        answer.await.expect("it answers")
    }

    async fn play(&self, balls: usize, throws: usize, latch: &Latch) -> Result<()> {
        let player = || {
            let (sender, mut receiver) = unbounded_channel::<Play>();
            let latch = latch.clone();
            self.runtime.spawn(async move {
                let mut other = None;
                while let Some(message) = receiver.recv().await {
                    match (message, &other) {
                        (Play::Meet(player), _) => other = Some(player),
                        (Play::Ball(left @ 1..), Some(other)) => {
                            let _ = other.send(Play::Ball(left - 1));
                        }
                        _ => latch.arrive(),
                    }
                }
            });
            sender
        };
        let (one, two) = (player(), player());
        one.send(Play::Meet(two.clone()))?;
        two.send(Play::Meet(one.clone()))?;
        for _ in 0..balls {
            one.send(Play::Ball(throws))?;
        }
        latch.wait().await;
        Ok(())
    }

    async fn stop(self) {
        self.runtime.shutdown_background();
    }
}
