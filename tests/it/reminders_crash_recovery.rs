//! Entities that go on by reminders, killed at random moments, take every step once.
//!
//! `PERENNIAL_TEST_KILLS` is the number of rounds, 3 by default. A round kills a run and its successors
//! up to six times and lets the last one end.

use std::process::Command;
use std::time::Duration;

use perennial::{ActorSystem, ConfigSource, FromConfig};
use perennial_it::{Relay, Running, Steps, number_from};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const PROGRAM: &str = env!("CARGO_BIN_EXE_it-reminders");
const ENTITIES: u64 = 10;
const STEPS: u64 = 60;
const MOST_KILLS: usize = 6;

#[tokio::test]
async fn killed_entities_take_every_step_once() {
    let mut kills = 0;
    for seed in 0..number_from("PERENNIAL_TEST_KILLS", 3) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut random = StdRng::seed_from_u64(seed);
        for attempt in 0..=MOST_KILLS {
            let mut command = Command::new(PROGRAM);
            let args = [ENTITIES.to_string(), STEPS.to_string()];
            command.current_dir(folder.path()).args(args);
            let file = |name| folder.path().join(name);
            let mut run = Running::start(&mut command, &file("out"), &file("said"));
            if attempt == MOST_KILLS {
                let ended = run.end();
                assert_eq!(ended.code, Some(0), "seed {seed}: {}", ended.said);
                break;
            }
            run.wait_for_out("started");
            std::thread::sleep(Duration::from_millis(random.random_range(0..150)));
            kills += usize::from(run.kill().signal.is_some());
        }
        let path = folder.path().join("relay.sqlite").display().to_string();
        let source = ConfigSource::empty()
            .set("persistence.sqlite.path", path)
            .expect("a key");
        let system = ActorSystem::from_source(source)
            .entity(Relay::entity())
            .start()
            .await
            .expect("starts");
        for entity in 0..ENTITIES {
            let relay = system.entity::<Relay>(entity.to_string());
            let steps = relay.ask(Steps).await.expect("it is there");
            assert_eq!(steps, (0..=STEPS).collect::<Vec<_>>(), "seed {seed}");
        }
        system.shutdown().await.expect("in time");
    }
    assert!(kills > 0, "every run had ended before it was to be killed");
}
