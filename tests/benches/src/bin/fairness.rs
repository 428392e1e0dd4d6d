//! How long an actor waits beside a busy neighbour on its thread, with perennial and with bare actix.
//!
//! The neighbour has 10,000 messages queued that take 50 µs each. Another actor of the same thread is
//! asked once every millisecond meanwhile, whatever became of the asks before, and what is measured is
//! the time of each ask.
//!
//! ```text
//! cargo run --release -p perennial-bench --bin fairness
//! ```

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use perennial::prelude::*;
use perennial::{ConfigSource, Placement};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const QUEUED: usize = 10_000;
const WORK: Duration = Duration::from_micros(50);

/// Takes the time of its thread.
fn work() {
    let start = Instant::now();
    while start.elapsed() < WORK {
        std::hint::spin_loop();
    }
}

struct Busy(Arc<AtomicUsize>);

impl Actor for Busy {}

struct Work;

impl Receive<Work> for Busy {
    type Reply = ();

    fn receive(&mut self, _: Work, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        work();
        self.0.fetch_sub(1, Ordering::Relaxed);
        cx.reply(())
    }
}

struct Quick;

impl Actor for Quick {}

struct Look;

impl Receive<Look> for Quick {
    type Reply = ();

    fn receive(&mut self, _: Look, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        cx.reply(())
    }
}

mod bare {
    use super::{Arc, AtomicUsize, Look, Ordering, Work, work};
    use actix::{Actor, Context, Handler, Message};

    pub(super) struct Busy(pub(super) Arc<AtomicUsize>);

    impl Actor for Busy {
        type Context = Context<Self>;
    }

    impl Message for Work {
        type Result = ();
    }

    impl Handler<Work> for Busy {
        type Result = ();

        fn handle(&mut self, _: Work, _: &mut Self::Context) {
            work();
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(super) struct Quick;

    impl Actor for Quick {
        type Context = Context<Self>;
    }

    impl Message for Look {
        type Result = ();
    }

    impl Handler<Look> for Quick {
        type Result = ();

        fn handle(&mut self, _: Look, _: &mut Self::Context) {}
    }
}

/// Asks once every millisecond, whether the asks before are answered or not, until nothing is left to
/// do for the neighbour.
async fn waits<F: Future<Output = Result<()>> + Send + 'static>(
    left: &AtomicUsize,
    ask: impl Fn() -> F,
) -> Result<Histogram<u64>> {
    let mut interval = tokio::time::interval(Duration::from_millis(1));
    let mut asks = Vec::new();
    while left.load(Ordering::Relaxed) > 0 {
        interval.tick().await;
        let ask = ask();
        asks.push(tokio::spawn(async move {
            let start = Instant::now();
            ask.await?;
            Ok::<_, Box<dyn Error + Send + Sync>>(start.elapsed())
        }));
    }
    let mut waits = Histogram::new(3)?;
    for ask in asks {
        waits.record(u64::try_from(ask.await??.as_micros())?)?;
    }
    Ok(waits)
}

fn print(name: &str, waits: &Histogram<u64>) {
    println!(
        "{name:<10} {:>6} asks  p50 {:>8} µs  p99 {:>8} µs  max {:>8} µs",
        waits.len(),
        waits.value_at_quantile(0.5),
        waits.value_at_quantile(0.99),
        waits.max()
    );
}

#[tokio::main]
async fn main() -> Result<()> {
    let source = ConfigSource::empty()
        .set("system.workers", 1)?
        .set("system.ask-timeout", "60s")?
        .with_environment(std::env::vars_os())?;
    let system = ActorSystem::in_memory(source).start().await?;
    let left = Arc::new(AtomicUsize::new(QUEUED));
    let counter = Arc::clone(&left);
    let props = Props::new(move || Busy(Arc::clone(&counter))).mailbox(QUEUED);
    let busy = system.spawn("busy", props.placement(Placement::Worker(0)))?;
    let quick = system.spawn(
        "quick",
        Props::new(|| Quick).placement(Placement::Worker(0)),
    )?;
    quick.ask(Look).await?;
    for _ in 0..QUEUED {
        busy.tell(Work)?;
    }
    let ours = waits(&left, || {
        let quick = quick.clone();
        async move { Ok(quick.ask(Look).await?) }
    })
    .await?;
    print("perennial", &ours);
    system.shutdown().await?;

    let left = Arc::new(AtomicUsize::new(QUEUED));
    let counter = Arc::clone(&left);
    let (started, start) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        actix::System::new().block_on(async move {
            use actix::Actor as _;
            let arbiter = actix::Arbiter::new();
            let handle = arbiter.handle();
            let busy = bare::Busy::start_in_arbiter(&handle, |_| bare::Busy(counter));
            let quick = bare::Quick::start_in_arbiter(&handle, |_| bare::Quick);
            let _ = started.send((busy, quick));
            std::future::pending::<()>().await;
        });
    });
    let (busy, quick) = start.await?;
    quick.send(Look).await?;
    for _ in 0..QUEUED {
        busy.do_send(Work);
    }
    let theirs = waits(&left, || {
        let quick = quick.clone();
        async move { Ok(quick.send(Look).await?) }
    })
    .await?;
    print("actix", &theirs);
    Ok(())
}
