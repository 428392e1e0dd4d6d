//! The latest commands with ids of one entity, each with its reply.
//!
//! A cell has a window from its first command with an id on. The replies that are stored are read
//! then, once; from there the window follows the cell's own writes. It may be ahead of the store
//! like the cell's state, and goes with it when a write fails.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use perennial_persistence::{
    CommandId, Fingerprint, SequenceNr, SerializedPayload, StoredReply, Timestamp,
};

use crate::command::CommandKey;
use crate::config::EntityConfig;
use crate::engine::core::TimerKey;
use crate::engine::envelope::Queued;
use crate::event_sourced::EventSourced;

/// How many replies leave the window before their rows are deleted.
const TIDY: usize = 64;

pub(super) struct CommandWindow<E: EventSourced> {
    reading: Reading,
    /// The latest stored reply for which the cell has recovered anew, as it came after all of its
    /// events.
    overtaken: SequenceNr,
    known: HashMap<CommandId, Known>,
    /// By number; one per known command.
    order: VecDeque<(SequenceNr, CommandId)>,
    /// Up to here, replies have left the window.
    forgotten_to: SequenceNr,
    /// How many have since their rows were deleted.
    forgotten: usize,
    /// Commands whose own futures run.
    under_way: Vec<CommandId>,
    /// Commands that were sent again meanwhile.
    waiting: Vec<Box<dyn Queued<E>>>,
}

/// How far reading the stored replies has come.
enum Reading {
    NotBegun,
    /// Until when the store may take, or when it is asked again.
    UnderWay {
        timer: TimerKey,
        failures: u32,
    },
    Done,
}

/// A command that was handled, with its reply.
struct Known {
    fingerprint: Fingerprint,
    seq_nr: SequenceNr,
    at: Timestamp,
    payload: Option<SerializedPayload>,
}

/// What the window says of a command.
pub(super) enum Seen {
    /// It is a new one.
    Never,
    /// Its future runs, or that of the same command before.
    UnderWay,
    /// It was handled, with this number and reply.
    Handled(SequenceNr, Option<SerializedPayload>),
    /// The id stands for another request, with this number.
    Another(SequenceNr),
}

impl<E: EventSourced> Default for CommandWindow<E> {
    fn default() -> Self {
        Self {
            reading: Reading::NotBegun,
            overtaken: SequenceNr::ZERO,
            known: HashMap::new(),
            order: VecDeque::new(),
            forgotten_to: SequenceNr::ZERO,
            forgotten: 0,
            under_way: Vec::new(),
            waiting: Vec::new(),
        }
    }
}

impl<E: EventSourced> CommandWindow<E> {
    pub(super) fn is_read(&self) -> bool {
        matches!(self.reading, Reading::Done)
    }

    pub(super) fn is_reading(&self) -> bool {
        matches!(self.reading, Reading::UnderWay { .. })
    }

    /// How often reading has failed in a row.
    pub(super) fn failures(&self) -> u32 {
        match self.reading {
            Reading::UnderWay { failures, .. } => failures,
            Reading::NotBegun | Reading::Done => 0,
        }
    }

    /// Something is waited for until `timer`. Gives the timer that was set before.
    pub(super) fn wait(&mut self, timer: TimerKey, failures: u32) -> Option<TimerKey> {
        let before = std::mem::replace(&mut self.reading, Reading::UnderWay { timer, failures });
        timer_of(&before)
    }

    /// The stored replies cannot be read; the next command tries again. Gives the timer.
    pub(super) fn give_up_reading(&mut self) -> Option<TimerKey> {
        timer_of(&std::mem::replace(&mut self.reading, Reading::NotBegun))
    }

    /// The stored replies have been read, the latest first. Gives the timer.
    pub(super) fn take(
        &mut self,
        replies: Vec<StoredReply>,
        config: &EntityConfig,
        now: Timestamp,
    ) -> Option<TimerKey> {
        for reply in replies.into_iter().rev() {
            self.order
                .push_back((reply.seq_nr, reply.command_id.clone()));
            let known = Known {
                fingerprint: reply.fingerprint,
                seq_nr: reply.seq_nr,
                at: reply.timestamp,
                payload: reply.payload,
            };
            self.known.insert(reply.command_id, known);
        }
        self.forget(config, now);
        if self.forgotten > 0 {
            self.forgotten = TIDY;
        }
        timer_of(&std::mem::replace(&mut self.reading, Reading::Done))
    }

    /// Forgets what is too much or too old.
    fn forget(&mut self, config: &EntityConfig, now: Timestamp) {
        while let Some((seq_nr, id)) = self.order.front() {
            let too_many = self.order.len() > config.command_window;
            let too_old = || {
                let known = self.known.get(id);
                known.is_none_or(|known| age(known.at, now) >= config.command_window_age)
            };
            if !too_many && !too_old() {
                break;
            }
            self.forgotten_to = self.forgotten_to.max(*seq_nr);
            self.forgotten += 1;
            self.known.remove(id);
            self.order.pop_front();
        }
    }

    /// What is known of a command.
    pub(super) fn look_up(
        &mut self,
        key: &CommandKey,
        config: &EntityConfig,
        now: Timestamp,
    ) -> Seen {
        self.forget(config, now);
        match self.known.get(&key.id) {
            Some(known) if known.fingerprint != key.fingerprint => Seen::Another(known.seq_nr),
            Some(known) => Seen::Handled(known.seq_nr, known.payload.clone()),
            None if self.under_way.contains(&key.id) => Seen::UnderWay,
            None => Seen::Never,
        }
    }

    /// Up to which number a stored reply may be replaced.
    pub(super) fn forgotten_to(&self) -> SequenceNr {
        self.forgotten_to
    }

    /// A command was handled; its reply is on its way to the store.
    pub(super) fn insert(
        &mut self,
        key: &CommandKey,
        seq_nr: SequenceNr,
        payload: Option<SerializedPayload>,
        config: &EntityConfig,
        now: Timestamp,
    ) {
        let known = Known {
            fingerprint: key.fingerprint,
            seq_nr,
            at: now,
            payload,
        };
        self.known.insert(key.id.clone(), known);
        self.order.push_back((seq_nr, key.id.clone()));
        self.forget(config, now);
    }

    /// Up to which number rows are to be deleted now, if enough have left the window.
    pub(super) fn tidy(&mut self) -> Option<SequenceNr> {
        let due = self.forgotten >= TIDY;
        due.then(|| {
            self.forgotten = 0;
            self.forgotten_to
        })
    }

    /// A command's future begins.
    pub(super) fn begin(&mut self, id: CommandId) {
        self.under_way.push(id);
    }

    /// A command's future has ended.
    pub(super) fn end(&mut self, id: &CommandId) {
        if let Some(at) = self.under_way.iter().position(|open| open == id) {
            self.under_way.swap_remove(at);
        }
    }

    /// A command waits for the future of the one that it repeats.
    /// How many of those that wait hold places in the bounded queues.
    pub(super) fn with_places(&self) -> usize {
        let waiting = self.waiting.iter();
        waiting.filter(|command| command.has_place()).count()
    }

    pub(super) fn wait_for_first(&mut self, command: Box<dyn Queued<E>>) {
        self.waiting.push(command);
    }

    /// The commands that wait for no future any more.
    pub(super) fn no_longer_waiting(&mut self) -> Vec<Box<dyn Queued<E>>> {
        let under_way = &self.under_way;
        self.waiting
            .extract_if(.., |command| {
                let key = command.command_key();
                key.is_none_or(|key| !under_way.contains(&key.id))
            })
            .collect()
    }

    /// Whether stored replies tell of events that a cell does not have whose last one is
    /// `seq_nr`. Told once of the same reply: its events may be gone.
    pub(super) fn is_overtaken(&mut self, replies: &[StoredReply], seq_nr: SequenceNr) -> bool {
        let latest = replies
            .first()
            .map_or(SequenceNr::ZERO, |reply| reply.seq_nr);
        let is_news = latest > seq_nr && latest > self.overtaken;
        self.overtaken = self.overtaken.max(latest);
        is_news
    }

    /// The window of the next incarnation, and the commands that wait.
    pub(super) fn begin_again(self) -> (Self, Vec<Box<dyn Queued<E>>>) {
        let window = Self {
            overtaken: self.overtaken,
            ..Self::default()
        };
        (window, self.waiting)
    }
}

fn timer_of(reading: &Reading) -> Option<TimerKey> {
    match reading {
        Reading::UnderWay { timer, .. } => Some(*timer),
        Reading::NotBegun | Reading::Done => None,
    }
}

/// How long ago something was; nothing if it is to come.
fn age(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(at)).unwrap_or(Duration::ZERO)
}
