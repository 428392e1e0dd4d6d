//! Plain actors beside those of other libraries.
//!
//! Every case does the same work with each library in turn, round by round, so that a machine whose
//! speed drifts treats all alike. Mailboxes are as large as they can be: what is compared is the way
//! of a message, not what happens when there is no room. Memory is measured in a process of its own
//! for each library.
//!
//! ```text
//! cargo run --release -p perennial-bench --bin actors -- [CASE…] [--rounds N]
//! ```
//!
//! Variables such as `PERENNIAL__SYSTEM__SPIN_BEFORE_PARK` apply to perennial.

mod bare_actix;
mod bare_tokio;
mod latch;
mod ours;
mod with_kameo;
mod with_ractor;
mod with_xtra;

use std::error::Error;
use std::time::{Duration, Instant};

use clap::Parser;
use perennial_bench::resident_bytes;
use serde::Serialize;

use crate::latch::Latch;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Times plain actors beside those of other libraries.
#[derive(Debug, Parser)]
#[command(name = "actors")]
struct Args {
    /// Cases to run; all if none is named
    cases: Vec<String>,
    /// Rounds; in each of them every library runs once
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Libraries to run; all if none is named
    #[arg(long)]
    library: Vec<String>,
    /// Multiplies how much is done in a round
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Only spawns so many idle actors and prints the bytes of each; for a process of its own
    #[arg(long, hide = true)]
    idle: Option<usize>,
}

/// The actors of one library. An actor counts what it is told, on the latch that it was given.
trait Library: Sized + Send + Sync + 'static {
    /// What it is called.
    const NAME: &'static str;
    type Actor: Clone + Send + Sync + 'static;

    /// Starts it on `threads` threads.
    fn start(threads: usize) -> impl Future<Output = Result<Self>> + Send;

    /// Spawns actors; ready when all of them run.
    fn spawn(
        &self,
        count: usize,
        latch: &Latch,
    ) -> impl Future<Output = Result<Vec<Self::Actor>>> + Send;

    /// Sends a message without waiting; the actor counts it.
    fn tell(actor: &Self::Actor);

    /// Asks for a number.
    fn ask(actor: &Self::Actor) -> impl Future<Output = u64> + Send;

    /// Two actors of one thread throw `balls` balls to each other, `throws` times each; the latch
    /// counts the balls that are done.
    fn play(
        &self,
        balls: usize,
        throws: usize,
        latch: &Latch,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Ends all of it.
    fn stop(self) -> impl Future<Output = ()> + Send;
}

const CASES: [&str; 7] = [
    "tell-same-thread",
    "tell-across",
    "ask-1",
    "ask-1000",
    "fan-out-10000",
    "spawn",
    "memory",
];

#[derive(Debug, Serialize)]
struct Outcome {
    case: &'static str,
    library: &'static str,
    median: f64,
    spread: f64,
    unit: &'static str,
}

fn main() -> std::result::Result<(), String> {
    let args = Args::parse();
    if let Some(unknown) = args
        .cases
        .iter()
        .find(|case| !CASES.contains(&case.as_str()))
    {
        return Err(format!(
            "no case \"{unknown}\"; there are {}",
            CASES.join(", ")
        ));
    }
    if args.rounds == 0 {
        return Err("--rounds must be above 0".to_owned());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    // The callers run on the runtime's own threads, as those of a service would.
    let run = async move { tokio::spawn(run_all(args)).await };
    match runtime.block_on(run) {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// Calls a function for each library in turn.
macro_rules! for_each_library {
    ($function:ident($($argument:expr),*)) => {
        [
            ($function::<ours::Ours>($($argument),*).await?),
            ($function::<bare_actix::BareActix>($($argument),*).await?),
            ($function::<bare_tokio::BareTokio>($($argument),*).await?),
            ($function::<with_ractor::Ractor>($($argument),*).await?),
            ($function::<with_kameo::Kameo>($($argument),*).await?),
            ($function::<with_xtra::Xtra>($($argument),*).await?),
        ]
    };
}

async fn run_all(args: Args) -> Result<()> {
    if let Some(count) = args.idle {
        for_each_library!(idle(count, &args));
        return Ok(());
    }
    let mut outcomes = Vec::new();
    for case in CASES {
        if !args.cases.is_empty() && args.cases.iter().all(|wanted| wanted != case) {
            continue;
        }
        eprintln!("{case}");
        let mut rates: Vec<(&'static str, Vec<f64>)> = Vec::new();
        for _ in 0..args.rounds {
            let round = for_each_library!(measure(case, &args));
            for (name, rate) in round.into_iter().flatten() {
                match rates.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, rates)) => rates.push(rate),
                    None => rates.push((name, vec![rate])),
                }
            }
        }
        for (library, mut rates) in rates {
            rates.sort_by(f64::total_cmp);
            let median = rates[rates.len() / 2];
            let outcome = Outcome {
                case,
                library,
                median,
                spread: (rates[rates.len() - 1] - rates[0]) / median,
                unit: unit(case),
            };
            println!(
                "{:<18} {:<10} {:>14.0} {} ±{:.0}%",
                outcome.case,
                outcome.library,
                outcome.median,
                outcome.unit,
                outcome.spread * 50.0
            );
            outcomes.push(outcome);
        }
    }
    for outcome in &outcomes {
        println!("{}", serde_json::to_string(outcome)?);
    }
    Ok(())
}

fn unit(case: &str) -> &'static str {
    match case {
        "ask-1" | "ask-1000" => "asks/s",
        "spawn" => "actors/s",
        "memory" => "bytes/actor",
        _ => "messages/s",
    }
}

/// One round of a case with one library.
async fn measure<L: Library>(case: &str, args: &Args) -> Result<Option<(&'static str, f64)>> {
    if !args.library.is_empty() && args.library.iter().all(|wanted| wanted != L::NAME) {
        return Ok(None);
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let scaled = |count: usize| ((count as f64 * args.scale) as usize).max(1);
    let rate = match case {
        "memory" => bytes_each(L::NAME, scaled(100_000))?,
        "tell-same-thread" => {
            let library = L::start(1).await?;
            let (balls, throws) = (64, scaled(10_000));
            let latch = Latch::new(balls);
            let start = Instant::now();
            library.play(balls, throws, &latch).await?;
            latch.wait().await;
            let rate = (balls * throws) as f64 / start.elapsed().as_secs_f64();
            library.stop().await;
            rate
        }
        "tell-across" => {
            let library = L::start(1).await?;
            let latch = Latch::new(0);
            let actors = library.spawn(1, &latch).await?;
            let count = scaled(500_000);
            latch.reset(count);
            let start = Instant::now();
            for _ in 0..count {
                L::tell(&actors[0]);
            }
            latch.wait().await;
            let rate = count as f64 / start.elapsed().as_secs_f64();
            library.stop().await;
            rate
        }
        "ask-1" | "ask-1000" => {
            let callers = if case == "ask-1" { 1 } else { 1000 };
            let library = L::start(1).await?;
            let actors = library.spawn(1, &Latch::new(0)).await?;
            let time = Duration::from_millis(500).mul_f64(args.scale);
            let start = Instant::now();
            let tasks: Vec<_> = (0..callers)
                .map(|_| {
                    let actor = actors[0].clone();
                    tokio::spawn(async move {
                        let mut count = 0_u32;
                        while start.elapsed() < time {
                            L::ask(&actor).await;
                            count += 1;
                        }
                        count
                    })
                })
                .collect();
            let mut sum = 0.0;
            for task in tasks {
                sum += f64::from(task.await?);
            }
            let rate = sum / start.elapsed().as_secs_f64();
            library.stop().await;
            rate
        }
        "fan-out-10000" => {
            let library = L::start(2).await?;
            let latch = Latch::new(0);
            let actors = library.spawn(10_000, &latch).await?;
            let times = scaled(50);
            let start = Instant::now();
            for _ in 0..times {
                latch.reset(actors.len());
                for actor in &actors {
                    L::tell(actor);
                }
                latch.wait().await;
            }
            let rate = (actors.len() * times) as f64 / start.elapsed().as_secs_f64();
            library.stop().await;
            rate
        }
        _ => {
            let library = L::start(2).await?;
            let count = scaled(100_000);
            let latch = Latch::new(0);
            let start = Instant::now();
            let actors = library.spawn(count, &latch).await?;
            let rate = count as f64 / start.elapsed().as_secs_f64();
            drop(actors);
            library.stop().await;
            rate
        }
    };
    Ok(Some((L::NAME, rate)))
}

/// Starts this program again for one library, and reads what it says.
fn bytes_each(library: &str, count: usize) -> Result<f64> {
    let output = std::process::Command::new(std::env::current_exe()?)
        .args(["--library", library, "--idle", &count.to_string()])
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.trim().parse()?)
}

/// Spawns actors and prints by how much the process grew for each.
async fn idle<L: Library>(count: usize, args: &Args) -> Result<()> {
    if args.library.iter().all(|wanted| wanted != L::NAME) {
        return Ok(());
    }
    let library = L::start(2).await?;
    let latch = Latch::new(0);
    // Whatever is made with the first ones is not theirs.
    let first = library.spawn(100, &latch).await?;
    let before = resident_bytes()?;
    let actors = library.spawn(count, &latch).await?;
    // Each has had a message, as those of a program have.
    latch.reset(count);
    for actor in &actors {
        L::tell(actor);
    }
    latch.wait().await;
    let after = resident_bytes()?;
    println!("{}", after.saturating_sub(before) as f64 / count as f64);
    drop((first, actors));
    library.stop().await;
    Ok(())
}
