//! What happened in a run, line by line.

use std::collections::VecDeque;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::Duration;

/// The lines of a run: all of them, or the last ones and a hash over all.
pub(crate) struct Trace {
    whole: bool,
    lines: VecDeque<String>,
    hasher: DefaultHasher,
}

impl Trace {
    /// How many lines are kept of a run that is not kept whole.
    const TAIL: usize = 60;

    pub(crate) fn new(whole: bool) -> Self {
        Self {
            whole,
            lines: VecDeque::new(),
            // With fixed keys: the same lines have the same hash.
            hasher: DefaultHasher::new(),
        }
    }

    pub(crate) fn add(&mut self, at: Duration, line: String) {
        let line = format!("{:>10.3} ms  {line}", at.as_secs_f64() * 1000.0);
        line.hash(&mut self.hasher);
        if !self.whole && self.lines.len() == Self::TAIL {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hasher.finish()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }
}
