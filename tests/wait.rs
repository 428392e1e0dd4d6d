//! Waiting for what must happen, and sizes from the environment.

use std::time::{Duration, Instant};

/// Waits until `condition` holds.
///
/// # Panics
/// With `what` if that takes longer than a minute.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    const LONGEST: Duration = Duration::from_secs(60);
    const PAUSE: Duration = Duration::from_millis(5);
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONGEST, "waited in vain: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// The size of a test: `default`, unless the environment variable says otherwise.
///
/// # Panics
/// If the variable holds no number.
pub fn number_from(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{variable} is {text:?} and no number")),
        Err(_) => default,
    }
}
