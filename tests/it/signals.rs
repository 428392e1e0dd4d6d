//! SIGTERM and ctrl-c, sent to real processes.

use std::fs;
use std::path::Path;
use std::process::Command;

use perennial::{ActorSystem, ConfigSource, Entity, FromConfig};
use perennial_it::{Notebook, Read, Running};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_it-signals");
const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;

fn start(folder: &Path, runtime: &str, ending: &str) -> Running {
    let mut command = Command::new(PROGRAM);
    command.current_dir(folder).args([runtime, ending]);
    let file = |name| folder.join(name);
    let mut running = Running::start(&mut command, &file("out"), &file("said"));
    running.wait_for_out("ready");
    running
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

async fn stored(folder: &Path) -> Vec<u64> {
    let path = folder.join("notes.sqlite").display().to_string();
    let source = ConfigSource::empty()
        .set("persistence.sqlite.path", path)
        .expect("a key");
    let system = ActorSystem::from_source(source)
        .entity(Entity::<Notebook>::new(()))
        .start()
        .await
        .expect("starts");
    let notes = system.entity::<Notebook>("a").ask(Read).await;
    system.shutdown().await.expect("in time");
    notes.expect("it is there")
}

#[tokio::test]
async fn sigterm_ends_in_order_on_any_runtime_and_what_was_acknowledged_is_there() {
    for runtime in ["plain", "tokio", "actix"] {
        let folder = folder();
        let running = start(folder.path(), runtime, "quick");
        running.terminate();
        let ended = running.end();
        assert_eq!(ended.code, Some(0), "{runtime}: {}", ended.said);
        let lines: Vec<&str> = ended.out.lines().collect();
        let [ready, listener, requests, report] = lines[..] else {
            panic!("{runtime}: {lines:?}");
        };
        let printed = [ready, listener, requests];
        assert_eq!(printed, ["ready", "stops listening", "waits for requests"]);
        let complete = "shutdown (SIGTERM): complete after ";
        assert!(report.starts_with(complete), "{runtime}: {report}");
        let acknowledged = fs::read_to_string(folder.path().join("acknowledged"));
        assert_eq!(acknowledged.expect("it was"), "11");
        assert_eq!(stored(folder.path()).await, Vec::from_iter(0..=10));
    }
}

#[test]
fn another_sigterm_changes_nothing() {
    let folder = folder();
    let mut running = start(folder.path(), "tokio", "gate");
    running.terminate();
    running.wait_for_out("waits for requests");
    running.terminate();
    running.terminate();
    fs::write(folder.path().join("gate"), "").expect("room");
    let ended = running.end();
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert!(ended.out.contains("(SIGTERM): complete"), "{}", ended.out);
}

#[tokio::test]
async fn a_second_ctrl_c_ends_the_process_at_once() {
    for first in [Running::interrupt, Running::terminate] {
        let folder = folder();
        let mut running = start(folder.path(), "tokio", "hang");
        first(&running);
        running.wait_for_out("waits for requests");
        running.interrupt();
        let ended = running.end();
        assert_eq!((ended.code, ended.signal), (None, Some(SIGINT)));
        assert!(!ended.out.contains("shutdown ("), "{}", ended.out);
        assert_eq!(stored(folder.path()).await, Vec::from_iter(0..10));
    }
}

#[test]
fn after_the_end_signals_do_what_they_do_without_a_handler() {
    for (signal, number) in [
        (Running::interrupt as fn(&Running), SIGINT),
        (Running::terminate, SIGTERM),
    ] {
        let folder = folder();
        let mut running = start(folder.path(), "plain", "linger");
        running.interrupt();
        running.wait_for_out("shutdown (ctrl-c): complete");
        signal(&running);
        let ended = running.end();
        assert_eq!((ended.code, ended.signal), (None, Some(number)));
    }
}
