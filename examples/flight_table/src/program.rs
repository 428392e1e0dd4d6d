//! What is around the work of a program: its logs, ctrl-c, and how it tells of errors.

use std::error::Error;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use crate::progress::Console;

/// The exit status of a process that ctrl-c ends.
pub const INTERRUPTED: u8 = 130;

/// Sends logs to the console: warnings and errors, or what `RUST_LOG` says.
pub fn log_to(console: &Console) {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::WARN.into())
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer({
            let console = console.clone();
            move || console.writer()
        })
        .init();
}

/// The variable `DATABASE_URL`, unless it is empty.
pub fn database_url() -> Option<String> {
    let url = std::env::var("DATABASE_URL").ok();
    url.filter(|url| !url.trim().is_empty())
}

/// Says what went wrong, for a process that ends with it.
pub fn failed(console: &Console, error: &dyn Error) -> ExitCode {
    console.say(format_args!("error: {}", explain(error)));
    ExitCode::FAILURE
}

/// An error with everything behind it, for people.
pub fn explain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let part = error.to_string();
        // Some errors say themselves what is behind them.
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        source = error.source();
    }
    text
}

/// Becomes true with the first ctrl-c. The second one ends the process at once, which loses
/// nothing either: what was answered is stored.
pub fn stop_on_ctrl_c(console: &Console) -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    let console = console.clone();
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() {
            if sender.send_replace(true) {
                std::process::exit(i32::from(INTERRUPTED));
            }
            console.say("Stopping; press ctrl-c again to end at once.");
        }
    });
    receiver
}

/// Waits until a run is to stop; for ever if nobody can stop it any more.
pub async fn stopping(stop: &watch::Receiver<bool>) {
    if stop.clone().wait_for(|stop| *stop).await.is_err() {
        std::future::pending().await
    }
}

/// Checks that no two options name one file, so that writing one would destroy the other.
///
/// # Errors
/// Which ones do.
pub fn check_files(options: &[(&'static str, Option<&Path>)]) -> Result<(), SameFile> {
    let files: Vec<_> = options
        .iter()
        .filter_map(|&(option, path)| {
            let path = path?;
            // Devices and pipes may well be used twice.
            let is_special = std::fs::metadata(path).is_ok_and(|found| !found.is_file());
            let place = path.canonicalize().or_else(|_| std::path::absolute(path));
            (!is_special).then(|| (option, place.unwrap_or_else(|_| path.to_owned())))
        })
        .collect();
    for (index, (first, place)) in files.iter().enumerate() {
        if let Some((second, _)) = files[index + 1..].iter().find(|(_, other)| other == place) {
            return Err(SameFile {
                first,
                second,
                path: place.clone(),
            });
        }
    }
    Ok(())
}

/// Two options name one file.
#[derive(Debug, thiserror::Error)]
#[error("{first} and {second} are both {}; give them different files", path.display())]
pub struct SameFile {
    first: &'static str,
    second: &'static str,
    path: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_is_read_and_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("flights.csv");
        std::fs::write(&file, "").expect("a file");
        let detour = folder.path().join(".").join("flights.csv");
        let other = folder.path().join("new.csv");
        let check = |first, second| {
            check_files(&[
                ("--one", Some(first)),
                ("--two", None),
                ("--three", Some(second)),
            ])
        };
        let error = check(&file, &detour).expect_err("the same file");
        assert!(error.to_string().starts_with("--one and --three are both "));
        assert!(check(&other, &other).is_err());
        assert!(check(&file, &other).is_ok());
        let null = Path::new("/dev/null");
        assert!(check(null, null).is_ok());
    }
}
