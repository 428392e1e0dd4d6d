//! Entities that go on by reminders, until all of them have taken so many steps. Its arguments are how
//! many entities and how many steps.

use std::process::ExitCode;
use std::time::Duration;

use perennial::{ActorSystem, ConfigSource, FromConfig};
use perennial_it::{Begin, Relay, Steps};

type Error = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let numbers: Result<Vec<u64>, _> = std::env::args().skip(1).map(|arg| arg.parse()).collect();
    let Ok([entities, steps]) = numbers.as_deref() else {
        eprintln!("usage: it-reminders ENTITIES STEPS");
        return ExitCode::FAILURE;
    };
    match perennial::block_on(run(*entities, *steps)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(entities: u64, steps: u64) -> Result<(), Error> {
    let source = ConfigSource::empty().set("persistence.sqlite.path", "relay.sqlite")?;
    let system = ActorSystem::from_source(source)
        .entity(Relay::entity())
        .start()
        .await?;
    println!("started");
    for entity in 0..entities {
        let relay = system.entity::<Relay>(entity.to_string());
        relay.ask(Begin(steps)).await?;
    }
    println!("begun");
    for entity in 0..entities {
        let relay = system.entity::<Relay>(entity.to_string());
        while relay.ask(Steps).await?.last() != Some(&steps) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    system.shutdown().await?;
    println!("done");
    Ok(())
}
