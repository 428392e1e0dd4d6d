//! perennial beside its floors.
//!
//! Every case does the same work twice: through perennial, and by the bare driver or bare actix.
//! Both sides run in turn, round by round, so that a machine whose speed drifts treats them alike;
//! what counts is the ratio of the medians. `scripts/bench` starts a PostgreSQL of its own for
//! the cases that need one, and prints a line of JSON per case at the end.

mod ask;
mod counter;
mod postgres;
mod recover;
mod sqlite;
mod states;

use std::error::Error;
use std::time::Duration;

use clap::Parser;
use serde::Serialize;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Times perennial beside its floors.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Args {
    /// Cases to run; all if none is named
    cases: Vec<String>,
    /// Seconds per side and round
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Rounds; in each of them ours and the floor run once
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Runs only this side, for a profiler; gives no ratio
    #[arg(long)]
    only: Option<Only>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Only {
    Ours,
    Floor,
}

/// One side of a case: does its work for about `time` and gives how much it did per second.
trait Side {
    async fn run(&mut self, time: Duration) -> Result<f64>;
}

/// The cases in the order in which they run.
const CASES: [&str; 14] = [
    "persist-1",
    "persist-64",
    "persist-1000",
    "persist-10000",
    "persist-hot",
    "state-1",
    "state-64",
    "state-1000",
    "recover-10000x100",
    "ask-1",
    "ask-1000",
    "sqlite-persist-1",
    "sqlite-persist-64",
    "sqlite-persist-1000",
];

#[derive(Debug, Serialize)]
struct Outcome {
    case: String,
    ours: f64,
    floor: f64,
    floor_is: &'static str,
    ratio: f64,
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
    if args.rounds == 0 || args.seconds.is_nan() || args.seconds <= 0.0 {
        return Err("--rounds and --seconds must be above 0".to_owned());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    // The callers run on the runtime's own threads, as those of a service would.
    let done = runtime.block_on(async move { tokio::spawn(run_all(args)).await });
    match done {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(error) = source {
                text = format!("{text}: {error}");
                source = error.source();
            }
            Err(text)
        }
        Err(error) => Err(error.to_string()),
    }
}

async fn run_all(args: Args) -> Result<()> {
    let mut outcomes = Vec::new();
    for case in CASES {
        if args.cases.is_empty() || args.cases.iter().any(|wanted| wanted == case) {
            eprintln!("{case}");
            outcomes.extend(run_case(case, &args).await?);
        }
    }
    println!(
        "{:<20} {:>12} {:>12} {:>6} {:>7}  floor",
        "case", "ours", "floor", "ratio", "spread"
    );
    for outcome in &outcomes {
        println!(
            "{:<20} {:>12.0} {:>12.0} {:>6.2} {:>6.0}%  {}",
            outcome.case,
            outcome.ours,
            outcome.floor,
            outcome.ratio,
            outcome.spread * 100.0,
            outcome.floor_is
        );
    }
    for outcome in &outcomes {
        println!("{}", serde_json::to_string(outcome)?);
    }
    Ok(())
}

async fn run_case(case: &str, args: &Args) -> Result<Option<Outcome>> {
    let many = |prefix: &str| -> Option<usize> { case.strip_prefix(prefix)?.parse().ok() };
    let dir = tempfile::tempdir()?;
    match case {
        "persist-1" => {
            let ours = postgres::Entities::start(1, 1).await?;
            let floor = postgres::OneByOne::start().await?;
            alternate(
                case,
                args,
                ours,
                floor,
                "bare tokio-postgres, one prepared INSERT at a time",
                "events/s",
            )
            .await
        }
        "persist-hot" => {
            let ours = postgres::Entities::start(1, 1000).await?;
            let floor = postgres::MultiRow::start(1000, 1, postgres::Ids::One).await?;
            alternate(
                case,
                args,
                ours,
                floor,
                "bare tokio-postgres, INSERT of 1,000 rows of one id",
                "events/s",
            )
            .await
        }
        "recover-10000x100" => {
            let rows = recover::Rows::write().await?;
            let ours = recover::Entities::new(&rows);
            let floor = recover::Selects::start(&rows).await?;
            alternate(case, args, ours, floor, "bare tokio-postgres, SELECTs of the same ids, 16 pipelined on each of 2 connections", "events/s").await
        }
        "ask-1" | "ask-1000" => {
            let callers = many("ask-").unwrap_or(1);
            let ours = ask::Entity::start(callers, dir.path()).await?;
            let floor = ask::BareActix::start(callers);
            alternate(
                case,
                args,
                ours,
                floor,
                "bare actix, an actor on its own arbiter",
                "asks/s",
            )
            .await
        }
        _ => {
            if let Some(entities) = many("sqlite-persist-") {
                let ours = sqlite::Entities::start(entities, dir.path()).await?;
                let floor = sqlite::Bare::start(entities, dir.path())?;
                return alternate(
                    case,
                    args,
                    ours,
                    floor,
                    "bare rusqlite, the same rows per transaction, synchronous = FULL",
                    "events/s",
                )
                .await;
            }
            if let Some(count) = many("state-") {
                let ours = states::States::start(count).await?;
                let floor = states::Upserts::start(count, count.min(2)).await?;
                return alternate(
                    case,
                    args,
                    ours,
                    floor,
                    "bare tokio-postgres, multi-row upsert of as many rows, 2 connections",
                    "states/s",
                )
                .await;
            }
            let entities = many("persist-").unwrap_or(1);
            let ours = postgres::Entities::start(entities, 1).await?;
            let floor = postgres::MultiRow::start(entities, 2, postgres::Ids::Many).await?;
            alternate(
                case,
                args,
                ours,
                floor,
                "bare tokio-postgres, multi-row INSERT, as many rows waiting, 2 connections",
                "events/s",
            )
            .await
        }
    }
}

async fn alternate(
    case: &str,
    args: &Args,
    mut ours: impl Side,
    mut floor: impl Side,
    floor_is: &'static str,
    unit: &'static str,
) -> Result<Option<Outcome>> {
    let time = Duration::from_secs_f64(args.seconds);
    if let Some(only) = args.only {
        let mut rates = Vec::new();
        for _ in 0..args.rounds {
            rates.push(match only {
                Only::Ours => ours.run(time).await?,
                Only::Floor => floor.run(time).await?,
            });
        }
        eprintln!("  {only:?}: {:.0} {unit}", median(rates));
        return Ok(None);
    }
    let warm_up = time.min(Duration::from_millis(500));
    ours.run(warm_up).await?;
    floor.run(warm_up).await?;
    let mut our_rates = Vec::new();
    let mut floor_rates = Vec::new();
    for round in 0..args.rounds {
        // Who goes first changes, so that neither always follows the other.
        if round % 2 == 0 {
            our_rates.push(ours.run(time).await?);
            floor_rates.push(floor.run(time).await?);
        } else {
            floor_rates.push(floor.run(time).await?);
            our_rates.push(ours.run(time).await?);
        }
        eprintln!(
            "  round {}: ours {:.0}, floor {:.0} {unit}",
            round + 1,
            our_rates[round],
            floor_rates[round]
        );
    }
    let ratios: Vec<f64> = our_rates
        .iter()
        .zip(&floor_rates)
        .map(|(ours, floor)| ours / floor)
        .collect();
    let largest = ratios.iter().copied().fold(f64::MIN, f64::max);
    let smallest = ratios.iter().copied().fold(f64::MAX, f64::min);
    let ours = median(our_rates);
    let floor = median(floor_rates);
    Ok(Some(Outcome {
        case: case.to_owned(),
        ours,
        floor,
        floor_is,
        ratio: ours / floor,
        spread: (largest - smallest) / median(ratios),
        unit,
    }))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) {
        f64::midpoint(values[middle - 1], values[middle])
    } else {
        values[middle]
    }
}

/// Runs `callers` tasks for about `time`; each repeats what `make` gives it. Gives how often all
/// of them did it per second.
async fn repeat<F, W>(callers: usize, time: Duration, make: impl Fn(usize) -> W) -> Result<f64>
where
    F: Future<Output = Result<()>> + Send,
    W: FnMut() -> F + Send + 'static,
{
    let start = std::time::Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let mut work = make(caller);
            tokio::spawn(async move {
                let mut count = 0_u32;
                while start.elapsed() < time {
                    work().await?;
                    count += 1;
                }
                Ok::<u32, Box<dyn Error + Send + Sync>>(count)
            })
        })
        .collect();
    let mut sum = 0.0;
    for task in tasks {
        sum += f64::from(task.await??);
    }
    Ok(sum / start.elapsed().as_secs_f64())
}
