//! What workers send while they run.
//!
//! A message from one actor to another of the same worker needs no channel, no wake-up and no next
//! turn: it is put where the running turn finds it. What goes to another worker is gathered and
//! handed over in one piece when the turn ends, or when it is much.

use std::cell::RefCell;
use std::sync::Arc;

use crate::engine::{Input, Registry};

/// How much is gathered for another worker before it is handed over in the midst of a turn.
const HAND_OVER: usize = 128;

thread_local! {
    /// The turns that run on this thread: one, or several if code of a turn drives another worker,
    /// as tests may.
    static TURNS: RefCell<Vec<Local>> = const { RefCell::new(Vec::new()) };
}

/// What a worker's own code has sent and nobody has taken yet.
pub(crate) struct Local {
    registry: Arc<Registry>,
    worker: usize,
    own: Vec<Input>,
    /// By the index of the worker.
    others: Vec<Vec<Input>>,
}

impl Local {
    pub(super) fn new(registry: Arc<Registry>, worker: usize) -> Self {
        let others = (0..registry.workers()).map(|_| Vec::new()).collect();
        Self {
            registry,
            worker,
            own: Vec::new(),
            others,
        }
    }

    /// Whose it is.
    pub(super) fn place(&self) -> (Arc<Registry>, usize) {
        (Arc::clone(&self.registry), self.worker)
    }

    fn hand_over(&mut self) {
        for (worker, inputs) in self.others.iter_mut().enumerate() {
            if !inputs.is_empty() {
                self.registry.hand_over(worker, std::mem::take(inputs));
            }
        }
    }
}

/// The turn that runs on this thread, until it is dropped.
pub(super) struct Turn<'a> {
    /// Back here goes what is in the thread's stack meanwhile.
    home: &'a mut Option<Local>,
}

impl<'a> Turn<'a> {
    pub(super) fn begin(home: &'a mut Option<Local>) -> Self {
        if let Some(local) = home.take() {
            TURNS.with_borrow_mut(|turns| turns.push(local));
        }
        Self { home }
    }

    /// Takes what something of this worker has sent to the worker itself.
    pub(super) fn take(inputs: &mut Vec<Input>) {
        TURNS.with_borrow_mut(|turns| {
            if let Some(turn) = turns.last_mut() {
                std::mem::swap(&mut turn.own, inputs);
            }
        });
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(mut local) = TURNS.with_borrow_mut(Vec::pop) {
            local.hand_over();
            *self.home = Some(local);
        }
    }
}

/// Takes `input` into the turn that runs on this thread, if it is one of `registry`; otherwise gives
/// it back.
pub(super) fn send(registry: &Registry, worker: usize, input: Input) -> Result<(), Input> {
    let full = TURNS.with_borrow_mut(|turns| {
        let turn = match turns.last_mut() {
            Some(turn) if std::ptr::eq(&*turn.registry, registry) => turn,
            _ => return Err(input),
        };
        if worker == turn.worker {
            turn.own.push(input);
            return Ok(None);
        }
        let gathered = &mut turn.others[worker];
        gathered.push(input);
        Ok((gathered.len() >= HAND_OVER).then(|| std::mem::take(gathered)))
    })?;
    if let Some(inputs) = full {
        registry.hand_over(worker, inputs);
    }
    Ok(())
}

/// As [`send`], but only if `worker` itself runs on this thread.
pub(super) fn send_own(registry: &Registry, worker: usize, input: Input) -> Result<(), Input> {
    TURNS.with_borrow_mut(|turns| match turns.last_mut() {
        Some(turn) if std::ptr::eq(&*turn.registry, registry) && worker == turn.worker => {
            turn.own.push(input);
            Ok(())
        }
        _ => Err(input),
    })
}
