//! Asks that store nothing, beside those of a bare actix actor.

use std::path::Path;
use std::time::Duration;

use actix::{Actor, Addr, Arbiter, Handler, Message};
use perennial::ConfigSource;
use perennial::prelude::*;

use crate::counter::{Counter, Sum};
use crate::{Result, Side, repeat};

/// An entity that is in memory.
pub(crate) struct Entity {
    system: ActorSystem,
    callers: usize,
}

impl Entity {
    pub(crate) async fn start(callers: usize, dir: &Path) -> Result<Self> {
        let path = dir.join("ask.sqlite").display().to_string();
        let source = ConfigSource::empty()
            .set("persistence.sqlite.path", path)?
            .set("system.workers", 1)?;
        let system = ActorSystem::from_source(source)
            .entity(perennial::Entity::<Counter>::new(()))
            .start()
            .await?;
        Ok(Self { system, callers })
    }
}

impl Side for Entity {
    async fn run(&mut self, time: Duration) -> Result<f64> {
        let entity = self.system.entity::<Counter>("one");
        repeat(self.callers, time, |_| {
            let entity = entity.clone();
            move || {
                let ask = entity.ask(Sum);
                async move {
                    ask.await?;
                    Ok(())
                }
            }
        })
        .await
    }
}

/// An actix actor on an arbiter of its own.
pub(crate) struct BareActix {
    address: Addr<Bare>,
    callers: usize,
}

struct Bare {
    sum: i64,
}

impl Actor for Bare {
    type Context = actix::Context<Self>;
}

struct BareSum;

impl Message for BareSum {
    type Result = i64;
}

impl Handler<BareSum> for Bare {
    type Result = i64;

    fn handle(&mut self, _: BareSum, _: &mut Self::Context) -> i64 {
        self.sum
    }
}

impl BareActix {
    pub(crate) fn start(callers: usize) -> Self {
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            actix::System::new().block_on(async move {
                let arbiter = Arbiter::new();
                let address = Bare::start_in_arbiter(&arbiter.handle(), |_| Bare { sum: 0 });
                let _ = sender.send(address);
                std::future::pending::<()>().await;
            });
        });
        let address = receiver.recv().expect("the thread sends the address");
        Self { address, callers }
    }
}

impl Side for BareActix {
    async fn run(&mut self, time: Duration) -> Result<f64> {
        repeat(self.callers, time, |_| {
            let address = self.address.clone();
            move || {
                let ask = address.send(BareSum);
                async move {
                    ask.await?;
                    Ok(())
                }
            }
        })
        .await
    }
}
