//! Many plain actors alive at once: how long it takes to spawn them, what each costs, and that every
//! one of them answers.
//!
//! ```text
//! cargo run --release -p perennial-bench --bin alive [ACTORS]
//! ```

use std::error::Error;
use std::time::Instant;

use perennial::ConfigSource;
use perennial::prelude::*;
use perennial_bench::resident_bytes;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// A state of eight bytes, so that what is measured is the rest.
struct Number(u64);

impl Actor for Number {}

struct Get;

impl Receive<Get> for Number {
    type Reply = u64;

    fn receive(&mut self, _: Get, cx: &mut ActorCx<'_, Self>) -> Received<Self, u64> {
        cx.reply(self.0)
    }
}

fn main() -> Result<()> {
    let count: u64 = match std::env::args().nth(1) {
        Some(text) => text.parse()?,
        None => 1_000_000,
    };
    perennial::block_on(async {
        let source = ConfigSource::empty().with_environment(std::env::vars_os())?;
        let system = ActorSystem::in_memory(source).start().await?;
        let before = resident_bytes()?;
        let start = Instant::now();
        let mut actors = Vec::new();
        for number in 0..count {
            actors.push(system.spawn_anonymous(move || Number(number))?);
        }
        let mut sum = 0;
        for actor in &actors {
            sum += actor.ask(Get).await?;
        }
        let elapsed = start.elapsed();
        assert_eq!(
            sum,
            count * (count - 1) / 2,
            "every actor gives its own number"
        );
        let grown = resident_bytes()?.saturating_sub(before);
        println!(
            "{} actors alive, each asked once, in {:.1} s; {} bytes each, their references included",
            system.stats().actors,
            elapsed.as_secs_f64(),
            grown / count.max(1),
        );
        drop(actors);
        let start = Instant::now();
        system.shutdown().await?;
        println!(
            "all of them stopped in {:.1} s",
            start.elapsed().as_secs_f64()
        );
        Ok(())
    })
}
