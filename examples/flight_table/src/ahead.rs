//! Reading ahead of who takes the rows.

use std::thread::JoinHandle;

use tokio::sync::mpsc;

use crate::input::{self, Input, Line};

/// A batch of rows ends at either.
const BATCH_ROWS: usize = 256;
const BATCH_BYTES: usize = 256 << 10;
/// Batches between the reading thread and who takes them.
const BATCHES_AHEAD: usize = 4;

/// Rows in batches, and at the end of it what went wrong.
pub type Batches<T> = mpsc::Receiver<Result<Vec<T>, input::Error>>;

/// Reads `input` on a thread of its own, a few batches ahead of who takes them. Each line becomes
/// what `each` makes of it.
///
/// The thread gives `state` back at the end. It ends after an error, and when the receiver is
/// dropped.
pub fn read_ahead<T: Send + 'static, S: Send + 'static>(
    input: Input,
    mut state: S,
    mut each: impl FnMut(&mut S, Line) -> T + Send + 'static,
) -> (Batches<T>, JoinHandle<S>) {
    let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
    let thread = std::thread::spawn(move || {
        let mut batch = Vec::new();
        let mut bytes = 0;
        for line in input {
            match line {
                Ok(line) => {
                    bytes += line.text.len();
                    batch.push(each(&mut state, line));
                }
                Err(error) => {
                    // The rows before it come first. If nobody listens any more, nobody cares.
                    let _ = sender.blocking_send(Ok(batch));
                    let _ = sender.blocking_send(Err(error));
                    return state;
                }
            }
            if batch.len() >= BATCH_ROWS || bytes >= BATCH_BYTES {
                bytes = 0;
                let full = std::mem::take(&mut batch);
                if sender.blocking_send(Ok(full)).is_err() {
                    return state;
                }
            }
        }
        let _ = sender.blocking_send(Ok(batch));
        state
    });
    (receiver, thread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_ahead_is_bounded_and_ends_when_nobody_listens() {
        let input = Input::bundled().expect("part of the program");
        let (rows, thread) = read_ahead(input, 0, |count, _| *count += 1);
        drop(rows);
        let count = thread.join().expect("nobody panics");
        assert!(count <= (BATCHES_AHEAD + 2) * BATCH_ROWS, "{count}");
    }

    #[test]
    fn every_line_comes_once_and_in_order() {
        let input = Input::bundled().expect("part of the program");
        let (mut rows, thread) = read_ahead(input, 0, |count, line| {
            *count += 1;
            line.number
        });
        let mut found = Vec::new();
        while let Some(batch) = rows.blocking_recv() {
            found.extend(batch.expect("readable"));
        }
        assert_eq!(found, Vec::from_iter(2..=27_005));
        assert_eq!(thread.join().expect("nobody panics"), 27_004);
    }
}
