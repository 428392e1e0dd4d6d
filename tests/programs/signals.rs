//! A program that runs until a signal comes. Its arguments are the runtime that it runs on, and what
//! it has to do while it ends: `quick`; `gate`, wait for the file `gate`; `hang`, never end; `linger`,
//! go on after the system has ended.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use perennial::{ActorSystem, ConfigSource, Entity, FromConfig, ShutdownPhase};
use perennial_it::{Note, Notebook};

type Error = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [runtime, ending] = &args[..] else {
        eprintln!("usage: it-signals plain|tokio|actix quick|gate|hang|linger");
        return ExitCode::FAILURE;
    };
    let done = match &**runtime {
        "plain" => perennial::block_on(run(ending)),
        "tokio" => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::from)
            .and_then(|runtime| runtime.block_on(run(ending))),
        "actix" => actix::System::new().block_on(run(ending)),
        other => Err(format!("no runtime {other}").into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(ending: &str) -> Result<(), Error> {
    let source = ConfigSource::empty()
        .set("persistence.sqlite.path", "notes.sqlite")?
        .set("system.shutdown.service-requests-done", "1h")?
        .set("system.shutdown.deadline", "1h")?;
    let system = ActorSystem::from_source(source)
        .entity(Entity::<Notebook>::new(()))
        .start()
        .await?;
    let shutdown = system.coordinated_shutdown();
    shutdown.add_task(ShutdownPhase::ServiceUnbind, "listener", async {
        println!("stops listening");
        Ok(())
    })?;
    let requests = requests(ending.to_owned(), system.clone());
    shutdown.add_task(ShutdownPhase::ServiceRequestsDone, "requests", requests)?;
    for number in 0..10 {
        system.entity::<Notebook>("a").ask(Note(number)).await?;
    }
    let waiting = system.run_until_signal();
    println!("ready");
    let report = waiting.await?;
    println!("{report}");
    if ending == "linger" {
        std::thread::sleep(Duration::from_secs(600));
    }
    Ok(())
}

/// What is under way when the signal comes; it still uses the system.
async fn requests(ending: String, system: ActorSystem) -> Result<(), Error> {
    println!("waits for requests");
    match &*ending {
        "gate" => {
            while !Path::new("gate").exists() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        // Not even a handler that hangs keeps a second ctrl-c from ending the process.
        "hang" => std::thread::sleep(Duration::from_secs(600)),
        _ => {}
    }
    let place = system.entity::<Notebook>("a").ask(Note(10)).await?;
    fs::write("acknowledged", place.to_string())?;
    Ok(())
}
