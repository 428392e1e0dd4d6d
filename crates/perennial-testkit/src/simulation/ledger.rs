//! What was sent, answered and stored, and the rules that tie them together.

use std::time::Duration;

use perennial_core::{AskError, Asking, PersistFailure};
use perennial_persistence::{Codec, PersistenceId, Timestamp, WriterId};

use super::Report;
use super::entity::{
    Action, Answer, Command, Digest, FOREIGN_TOKENS, Link, LinkCodec, Note, Step, StepCodec,
    StepKind, TICK_TOKENS, TOKENS,
};
use super::storage::{History, keeps_state};
use crate::MemoryStore;

/// A promise that was not kept.
#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) rule: &'static str,
    pub(crate) detail: String,
}

pub(crate) type Checked = Result<(), Violation>;

fn broken(rule: &'static str, detail: impl Into<String>) -> Checked {
    Err(Violation {
        rule,
        detail: detail.into(),
    })
}

/// A command that was sent.
pub(crate) struct Sent {
    pub(crate) command: Command,
    pub(crate) entity: usize,
    pub(crate) system: usize,
    at: Duration,
    /// The shortest chain that an answer may have seen.
    floor: u64,
    pub(crate) fate: Fate,
    handled: bool,
    future_ran: bool,
    ran: bool,
    ticked: bool,
}

/// What its caller knows of a command.
pub(crate) enum Fate {
    /// Nothing yet.
    Open(Asking<Answer>),
    /// Nothing, and it does not want to.
    Unasked,
    /// It was answered.
    Answered,
    /// It was told that there is no answer, on purpose.
    Silent,
    /// It failed.
    Failed(AskError),
}

/// A row of the journal, or a change of a state.
struct Stored {
    step: Step,
    digest: Digest,
    timestamp: Timestamp,
    writer: WriterId,
}

/// What may have happened to an entity, and excuses errors.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Troubles {
    /// Somebody besides the one system may have written.
    pub(crate) contended: bool,
    pub(crate) rejected: bool,
    /// Writes were not answered as stored.
    pub(crate) unavailable: bool,
    /// Reads gave what is no history.
    pub(crate) unreadable: bool,
    /// Reads failed, to be tried again.
    pub(crate) unread: bool,
}

/// How it stands with the way to an entity.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Situation {
    pub(crate) standing: Standing,
    /// Whether it can be at no worker any more.
    pub(crate) has_ended: bool,
    /// Whether its worker has found the store down at least once, or is gone.
    pub(crate) store_failed: bool,
    /// Whether a store that only takes its time may count as down.
    pub(crate) slow_is_down: bool,
    /// The longest time until a command may come back to a store that is down.
    pub(crate) reset: Duration,
    /// Whether as many futures run for its worker as may.
    pub(crate) futures_are_full: bool,
    /// Which worker of its system.
    pub(crate) worker: usize,
    /// How many commands may wait for the worker.
    pub(crate) inbox: usize,
    /// How many may wait for the entity.
    pub(crate) mailbox: usize,
    /// How many it may put aside.
    pub(crate) stash: usize,
}

/// How it stands with a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    Running,
    Stopping,
    /// It was stopped in an orderly way.
    Stopped,
    Crashed,
}

pub(crate) struct Ledger {
    memory: MemoryStore,
    history: History,
    /// Whether a deleted state keeps its revision.
    leaves_markers: bool,
    ids: Vec<PersistenceId>,
    journal: Vec<Vec<Stored>>,
    pub(crate) troubles: Vec<Troubles>,
    sent: Vec<Sent>,
    /// Indexes of the commands whose callers wait.
    open: Vec<usize>,
    /// The longest chain in any answer, by entity.
    seen: Vec<u64>,
    /// The longest chain that a system has to know, by system and entity: what anybody had seen
    /// when it started, and what its own callers have seen since. Two systems that run at the same
    /// time may each serve what it knows until one finds out at its next write.
    floors: Vec<Vec<u64>>,
    pub(crate) report: Report,
}

impl Ledger {
    pub(crate) fn new(
        memory: MemoryStore,
        history: History,
        leaves_markers: bool,
        ids: Vec<PersistenceId>,
    ) -> Self {
        let entities = ids.len();
        Self {
            memory,
            history,
            leaves_markers,
            journal: ids.iter().map(|_| Vec::new()).collect(),
            ids,
            troubles: vec![Troubles::default(); entities],
            sent: Vec::new(),
            open: Vec::new(),
            seen: vec![0; entities],
            floors: Vec::new(),
            report: Report::default(),
        }
    }

    pub(crate) fn index_of(&self, id: &PersistenceId) -> usize {
        let found = self.ids.iter().position(|known| known == id);
        found.expect("only entities of the simulation have rows")
    }

    /// A system has started.
    pub(crate) fn system_started(&mut self) {
        self.floors.push(self.seen.clone());
    }

    /// The id of the next command.
    pub(crate) fn next_command(&self) -> u64 {
        self.sent.len() as u64 + 1
    }

    pub(crate) fn sent(
        &mut self,
        command: Command,
        entity: usize,
        system: usize,
        at: Duration,
        asking: Option<Asking<Answer>>,
    ) {
        self.report.commands += 1;
        if asking.is_some() {
            self.open.push(self.sent.len());
        }
        self.sent.push(Sent {
            command,
            entity,
            system,
            at,
            floor: self.floors[system][entity],
            fate: asking.map_or(Fate::Unasked, Fate::Open),
            handled: false,
            future_ran: false,
            ran: false,
            ticked: false,
        });
    }

    /// The latest commands with ids, and whose they are.
    pub(crate) fn latest_with_ids(&self, most: usize) -> Vec<(usize, Action)> {
        let sent = self.sent.iter().rev();
        sent.filter(|sent| sent.command.action.first_attempt().is_some())
            .map(|sent| (sent.entity, sent.command.action))
            .take(most)
            .collect()
    }

    pub(crate) fn open(&self) -> &[usize] {
        &self.open
    }

    pub(crate) fn command(&self, index: usize) -> &Sent {
        &self.sent[index]
    }

    /// The caller of an open command stops waiting, as its deadline would make it; or without a
    /// word.
    pub(crate) fn give_up(&mut self, at: usize, dropped: bool) -> Result<String, Violation> {
        let index = self.open.remove(at);
        let sent = &mut self.sent[index];
        let Fate::Open(mut asking) = std::mem::replace(&mut sent.fate, Fate::Unasked) else {
            return Ok("closed".to_owned());
        };
        if dropped {
            return Ok(format!("c{} dropped", sent.command.id));
        }
        match asking.expire() {
            Err(AskError::Unknown { .. }) => {
                self.report.expired_unknown += 1;
                Ok(format!("c{} out of time, unknown", sent.command.id))
            }
            Err(AskError::Expired) => {
                self.report.expired += 1;
                sent.fate = Fate::Failed(AskError::Expired);
                Ok(format!("c{} expired", sent.command.id))
            }
            other => Err(Violation {
                rule: "an expiring ask says that it expired",
                detail: format!("c{} got {other:?}", sent.command.id),
            }),
        }
    }

    /// Reads what is new in the journal of an entity, or of the changes of its state.
    pub(crate) fn read_journal(&mut self, entity: usize) -> Checked {
        if keeps_state(&self.ids[entity]) {
            return self.read_changes(entity);
        }
        let rows = self.memory.rows(&self.ids[entity]);
        let known = &mut self.journal[entity];
        // Rows that were read before may be deleted by now, and a marker stand for them.
        for row in rows.iter() {
            if row.seq_nr.value() <= known.len() as u64 {
                continue;
            }
            let expected = known.len() as u64 + 1;
            let number = row.seq_nr.value();
            if number != expected {
                return broken(
                    "sequence numbers have no gaps",
                    format!("{} has {number} where {expected} belongs", self.ids[entity]),
                );
            }
            let Some((writer, event)) = &row.event else {
                return broken(
                    "only events that were there are deleted",
                    format!("row {number} is a marker"),
                );
            };
            let Ok(step) = StepCodec.decode(&event.payload) else {
                return broken("every row is an event", format!("row {number} is none"));
            };
            let before = known.last().map_or(Digest::default(), |last| last.digest);
            known.push(Stored {
                step,
                digest: before.and(step),
                timestamp: row.timestamp,
                writer: *writer,
            });
        }
        Ok(())
    }

    /// Reads what is new of the changes of a state. Each is built on the one before, the row says
    /// what the last one made, and the journal has an event for each if the type tells of them.
    fn read_changes(&mut self, entity: usize) -> Checked {
        let id = &self.ids[entity];
        let history = self.history.borrow();
        let changes = history.get(id).map_or(&[][..], Vec::as_slice);
        let told = if id.entity_type() == "Told" {
            self.memory.rows(id)
        } else {
            Vec::new()
        };
        let known = &mut self.journal[entity];
        for change in &changes[known.len()..] {
            let last = known.last();
            let before = last.map_or(Digest::default(), |last| last.digest);
            let was_deleted = last.is_some_and(|last| last.step.kind == StepKind::Delete);
            let begins_anew = change.revision == 1 && was_deleted && !self.leaves_markers;
            if change.revision != before.count + 1 && !begins_anew {
                return broken(
                    "revisions have no gaps",
                    format!("{id} has {} after {}", change.revision, before.count),
                );
            }
            let count = change.revision - 1;
            let digest = Digest { count, ..before }.and(change.step);
            let made = (change.step.kind != StepKind::Delete).then_some(digest.hash);
            if change.hash != made {
                return broken(
                    "a change is built on the one before",
                    format!(
                        "{id} at {} is {:?}, not {made:?}",
                        change.revision, change.hash
                    ),
                );
            }
            let mut timestamp = change.timestamp;
            if id.entity_type() == "Told" {
                let row = told.get(known.len());
                let event = row.and_then(|row| row.event.as_ref());
                let is_told = row.is_some_and(|row| row.seq_nr.value() == change.revision)
                    && event.is_some_and(|(writer, event)| {
                        *writer == change.writer
                            && StepCodec.decode(&event.payload).ok() == Some(change.step)
                    });
                if !is_told {
                    return broken(
                        "every change is told",
                        format!("{id} at {}: {row:?}", change.revision),
                    );
                }
                timestamp = row.map_or(timestamp, |row| row.timestamp);
            }
            known.push(Stored {
                step: change.step,
                digest,
                timestamp,
                writer: change.writer,
            });
        }
        if told.len() > known.len() {
            return broken(
                "what is told is stored",
                format!("{id} has {} changes, {} are told", known.len(), told.len()),
            );
        }
        let row = self.memory.state(id).map(|row| {
            let payload = row.payload.as_ref();
            let link = payload.map(|payload| LinkCodec.decode(payload).ok());
            let hash = link.map(|link: Option<Link<false>>| link.map(|link| link.hash));
            (row.revision.value(), hash)
        });
        let expected = known.last().and_then(|last| match last.step.kind {
            StepKind::Delete if self.leaves_markers => Some((last.digest.count, None)),
            StepKind::Delete => None,
            _ => Some((last.digest.count, Some(Some(last.digest.hash)))),
        });
        if row == expected {
            Ok(())
        } else {
            broken(
                "the row is what the last change made",
                format!("{id} is {row:?}, not {expected:?}"),
            )
        }
    }

    /// Looks whether callers were answered, and checks what they were told. `situation` says how
    /// it stands with a system and an entity.
    pub(crate) fn look_at_answers(
        &mut self,
        now: Duration,
        situation: impl Fn(usize, usize) -> Situation,
        trace: &mut impl FnMut(String),
    ) -> Checked {
        let mut still_open = Vec::with_capacity(self.open.len());
        for index in std::mem::take(&mut self.open) {
            let sent = &mut self.sent[index];
            let sent_system = sent.system;
            let Fate::Open(asking) = &mut sent.fate else {
                continue;
            };
            let way = situation(sent.system, sent.entity);
            match asking.try_take() {
                None if way.has_ended => {
                    return broken(
                        "a worker that ends answers everybody",
                        format!("c{} still waits for s{}", sent.command.id, sent.system),
                    );
                }
                None => still_open.push(index),
                Some(result) => {
                    trace(format!("c{} <- {result:?}", sent.command.id));
                    match result {
                        Ok(answer) => {
                            sent.fate = Fate::Answered;
                            self.report.answered += 1;
                            self.check_answer(index, answer)?;
                        }
                        Err(error) => {
                            let same_worker =
                                |entity| situation(sent_system, entity).worker == way.worker;
                            self.check_error(index, error, now, way, same_worker)?;
                        }
                    }
                }
            }
        }
        self.open = still_open;
        Ok(())
    }

    /// Takes over what user code did.
    pub(crate) fn take_notes(&mut self, notes: Vec<Note>) -> Checked {
        for note in notes {
            match note {
                Note::Handled { command } => {
                    let sent = self.by_id(command);
                    if std::mem::replace(&mut sent.handled, true) {
                        return broken("a command is handled once", format!("c{command} twice"));
                    }
                    let is_certain =
                        matches!(&sent.fate, Fate::Failed(error) if error.is_not_handled());
                    if is_certain {
                        return broken(
                            "what was told not to be handled is not",
                            format!("c{command} was handled"),
                        );
                    }
                }
                Note::Future { command } => {
                    let sent = self.by_id(command);
                    if std::mem::replace(&mut sent.future_ran, true) {
                        return broken("a future runs once", format!("c{command} twice"));
                    }
                }
                Note::Overtaken { command } => {
                    let entity = self.by_id(command).entity;
                    let troubles = self.troubles[entity];
                    if !troubles.contended && !troubles.unavailable {
                        return broken(
                            "commands wait for a future that is not interleaved",
                            format!("c{command} was overtaken"),
                        );
                    }
                }
                Note::TickedOnce { command } => {
                    let sent = self.by_id(command);
                    if std::mem::replace(&mut sent.ticked, true) {
                        return broken("a single timer fires once", format!("c{command} twice"));
                    }
                }
                Note::Ran { command, saw } => self.check_side_effect(command, saw)?,
            }
        }
        Ok(())
    }

    fn by_id(&mut self, command: u64) -> &mut Sent {
        let index = usize::try_from(command - 1).expect("a small number");
        &mut self.sent[index]
    }

    fn check_side_effect(&mut self, command: u64, saw: Digest) -> Checked {
        self.report.side_effects += 1;
        let sent = self.by_id(command);
        if std::mem::replace(&mut sent.ran, true) {
            return broken("a side effect runs once", format!("c{command} twice"));
        }
        if !matches!(sent.fate, Fate::Answered | Fate::Unasked | Fate::Silent) {
            return broken(
                "a side effect runs after its reply is out",
                format!("c{command} ran before"),
            );
        }
        let (entity, steps) = (sent.entity, sent.command.steps());
        let who = || format!("the side effect of c{command}");
        let places = self.check_prefix(entity, saw, who)?;
        let stored = &self.journal[entity];
        let is_own = |&place: &usize| stored[..place].ends_with_steps(&steps);
        if !places.iter().any(is_own) {
            return broken(
                "a side effect sees the state of its own events",
                format!("c{command} saw {saw:?}"),
            );
        }
        Ok(())
    }

    /// The state with this digest is the fold of stored events. Gives after how many of them; several
    /// places are possible for a state that was deleted where nothing keeps its revision.
    fn check_prefix(
        &mut self,
        entity: usize,
        saw: Digest,
        who: impl Fn() -> String,
    ) -> Result<Vec<usize>, Violation> {
        self.read_journal(entity)?;
        let journal = &self.journal[entity];
        let places: Vec<usize> = (0..=journal.len())
            .filter(|&place| self.is_at(entity, place, saw))
            .collect();
        if !places.is_empty() {
            return Ok(places);
        }
        let last = journal.last().map_or(Digest::default(), |last| last.digest);
        let (who, stored) = (who(), journal.len());
        Err(if saw.count > last.count {
            Violation {
                rule: "what is told is durable",
                detail: format!("{who} saw {saw:?}, stored are {stored}"),
            }
        } else {
            Violation {
                rule: "what is told is the fold of stored events",
                detail: format!("{who} saw {saw:?}, stored are {stored}, the last is {last:?}"),
            }
        })
    }

    /// Whether the state after so many steps has this digest.
    fn is_at(&self, entity: usize, place: usize, saw: Digest) -> bool {
        let Some(last) = place.checked_sub(1) else {
            return saw == Digest::default();
        };
        let stored = &self.journal[entity][last];
        let is_forgotten = stored.step.kind == StepKind::Delete && !self.leaves_markers;
        stored.digest == saw || is_forgotten && saw == Digest::default()
    }

    fn check_answer(&mut self, index: usize, answer: Answer) -> Checked {
        let sent = &self.sent[index];
        let (command, entity, floor) = (sent.command, sent.entity, sent.floor);
        let system = sent.system;
        let who = || format!("c{} {:?}", command.id, command.action);
        if command.action.panics() || command.action.is_unstorable() || command.action.is_silent() {
            return broken("only what succeeds is answered", who());
        }
        if command.action.is_unhandled_at(answer.before) {
            return broken("the answer is that of serial execution", who());
        }
        let after = self.check_prefix(entity, answer.after, who)?;
        let before = self.check_prefix(entity, answer.before, who)?;
        let steps = command.steps();
        if answer.before.count + steps.len() as u64 != answer.after.count {
            return broken(
                "the answer is that of serial execution",
                format!("{} saw {answer:?}", who()),
            );
        }
        let journal = &self.journal[entity];
        let is_stored = |&place: &usize| journal[..place].ends_with_steps(&steps);
        let after: Vec<usize> = after.into_iter().filter(is_stored).collect();
        if after.is_empty() {
            return broken(
                "what is acknowledged is stored",
                format!("{} saw {answer:?}", who()),
            );
        }
        let is_serial = |&place: &usize| before.contains(&(place - steps.len()));
        let places: Vec<usize> = after.into_iter().filter(is_serial).collect();
        if places.is_empty() {
            return broken(
                "the answer is that of serial execution",
                format!("{} saw {answer:?}", who()),
            );
        }
        let is_repetition = command.action.first_attempt().is_some() && !self.sent[index].handled;
        self.report.repeated += u64::from(is_repetition);
        let of_states = keeps_state(&self.ids[entity]);
        self.report.repeated_of_states += u64::from(is_repetition && of_states);
        // A repetition has the answer of an earlier attempt.
        let is_fresh = |place: &u64| is_repetition || *place - steps.len() as u64 >= floor;
        let mut places = places.into_iter().map(|place| place as u64);
        let Some(place) = places.find(is_fresh) else {
            return broken(
                "an answer is not older than what was seen before it was asked for",
                format!("{} saw {answer:?}, the floor is {floor}", who()),
            );
        };
        self.raise_floor(system, entity, place);
        Ok(())
    }

    fn raise_floor(&mut self, system: usize, entity: usize, count: u64) {
        let seen = &mut self.seen[entity];
        *seen = count.max(*seen);
        let floor = &mut self.floors[system][entity];
        *floor = count.max(*floor);
    }

    fn check_error(
        &mut self,
        index: usize,
        error: AskError,
        now: Duration,
        situation: Situation,
        same_worker: impl Fn(usize) -> bool,
    ) -> Checked {
        let standing = situation.standing;
        let sent = &self.sent[index];
        let (command, entity) = (sent.command, sent.entity);
        let action = command.action;
        let who = || format!("c{} {action:?} got \"{error}\"", command.id);
        if error.is_not_handled() {
            // A full bound on futures is noticed after the handler, which had no effect then.
            let refused_future = matches!(error, AskError::Busy { .. }) && action.has_future();
            // So is a store that is down, after a handler that wants something stored.
            let refused_write = matches!(
                error,
                AskError::Busy {
                    what: "the store",
                    ..
                }
            ) && !command.steps().is_empty();
            if sent.handled && !refused_future && !refused_write {
                return broken("what was told not to be handled is not", who());
            }
            if sent.future_ran {
                return broken(
                    "a command whose future ran is not told to be untouched",
                    who(),
                );
            }
        }
        let waited = now.saturating_sub(sent.at);
        // What is held back is given up together, once the first of it has waited for too long.
        let since = now.saturating_sub(self.report.outcome_timeout);
        let has_waited = self.sent.iter().any(|other| {
            let is_same = other.system == sent.system && same_worker(other.entity);
            is_same && other.at <= since && !matches!(other.fate, Fate::Answered | Fate::Silent)
        });
        let troubles = self.troubles[entity];
        let mut entities = self.troubles.iter().enumerate();
        let troubles_of_worker = entities.any(|(other, troubles)| {
            same_worker(other) && (troubles.unavailable || troubles.unread)
        });
        let excused = match &error {
            AskError::Busy { what, retry_after } => {
                self.report.busy += 1;
                self.report.store_busy += u64::from(*what == "the store");
                let waiting = self.maybe_waiting(index);
                match *what {
                    "the store" => {
                        let is_in_time = *retry_after <= situation.reset;
                        let is_down = situation.slow_is_down || troubles_of_worker;
                        situation.store_failed && is_down && is_in_time
                    }
                    "the entity's mailbox" => {
                        waiting.filter(|&of| of == entity).count() >= situation.mailbox
                    }
                    "the worker's inbox" => {
                        waiting.filter(|&of| same_worker(of)).count() >= situation.inbox
                    }
                    "the entity's stash" => {
                        waiting.filter(|&of| of == entity).count() >= situation.stash
                    }
                    // Of a worker that ended in the same turn nobody can tell any more.
                    _ => {
                        let is_full = situation.futures_are_full || standing == Standing::Stopped;
                        action.has_future() && is_full
                    }
                }
            }
            AskError::Stopped => {
                self.report.stopped += 1;
                standing != Standing::Running
            }
            AskError::Unknown { reason } => {
                self.report.unknown += 1;
                if reason.contains("future") || reason.contains("entity stopped") {
                    action.has_future()
                } else if reason.contains("store could not say") {
                    self.report.given_up += 1;
                    // With an earlier write that failed for good, a later one is not pursued.
                    let is_built_on_failed = troubles.contended || troubles.rejected;
                    let is_late = waited >= self.report.outcome_timeout;
                    troubles.unavailable && (is_late || is_built_on_failed)
                } else if reason.contains("another writer was there") {
                    self.report.superseded_unknown += 1;
                    troubles.contended && troubles.unavailable
                } else {
                    standing == Standing::Crashed
                }
            }
            AskError::PersistFailed(failed) => {
                self.report.persist_failed += 1;
                match failed.kind {
                    PersistFailure::Conflict => {
                        self.report.conflicts += 1;
                        troubles.contended
                    }
                    PersistFailure::Rejected => troubles.rejected || action.is_unstorable(),
                    PersistFailure::Unavailable => {
                        self.report.given_up += 1;
                        // What is held back for that long counts as tried.
                        let is_away = troubles.unavailable || situation.store_failed;
                        is_away && has_waited
                    }
                    PersistFailure::Earlier => {
                        self.report.taken_back += 1;
                        let is_away = troubles.unavailable || situation.store_failed;
                        troubles.contended || troubles.rejected || is_away
                    }
                    _ => false,
                }
            }
            AskError::RecoveryFailed(_) => {
                self.report.recovery_failed += 1;
                troubles.unreadable
            }
            AskError::Unhandled => {
                self.report.unhandled += 1;
                self.check_unhandled(index)?;
                true
            }
            AskError::NoReply => {
                self.report.answered += 1;
                self.sent[index].fate = Fate::Silent;
                return self.check_silence(index);
            }
            AskError::Panicked { .. } => {
                self.report.panicked += 1;
                action.panics()
            }
            _ => false,
        };
        if !excused {
            return broken("an error has its reason", who());
        }
        self.sent[index].fate = if error.is_outcome_unknown() {
            Fate::Unasked
        } else {
            Fate::Failed(error)
        };
        Ok(())
    }

    /// The entities of all other commands to the same system that may stand in a queue or stash.
    fn maybe_waiting(&self, index: usize) -> impl Iterator<Item = usize> {
        let system = self.sent[index].system;
        let may_wait = |sent: &Sent| {
            let is_out = match &sent.fate {
                Fate::Open(_) | Fate::Unasked => false,
                // It is noticed only when its turn comes.
                Fate::Failed(error) => *error != AskError::Expired,
                Fate::Answered | Fate::Silent => true,
            };
            !is_out && !sent.handled
        };
        let sent = self.sent.iter().enumerate();
        sent.filter(move |(other, sent)| *other != index && sent.system == system && may_wait(sent))
            .map(|(_, sent)| sent.entity)
    }

    /// A command without a reply is done once its events are durable.
    fn check_silence(&mut self, index: usize) -> Checked {
        let sent = &self.sent[index];
        let (command, entity, system) = (sent.command, sent.entity, sent.system);
        self.read_journal(entity)?;
        let steps = command.steps();
        let journal = &self.journal[entity];
        let end = (1..=journal.len()).find(|&end| journal[..end].ends_with_steps(&steps));
        match end {
            Some(end) if command.action.is_silent() => {
                self.raise_floor(system, entity, end as u64);
                Ok(())
            }
            _ => broken(
                "what is acknowledged is stored",
                format!("c{} {:?} was done", command.id, command.action),
            ),
        }
    }

    /// The command has no meaning in some state that was durable and is not too old.
    fn check_unhandled(&mut self, index: usize) -> Checked {
        let sent = &self.sent[index];
        let (command, entity) = (sent.command, sent.entity);
        let floor = usize::try_from(sent.floor).expect("a small number");
        self.read_journal(entity)?;
        let states = std::iter::once(Digest::default())
            .chain(self.journal[entity].iter().map(|stored| stored.digest));
        let is_true = states
            .skip(floor)
            .any(|digest| command.action.is_unhandled_at(digest));
        if is_true {
            Ok(())
        } else {
            broken(
                "a refusal tells of durable state alone",
                format!(
                    "c{} {:?} is handled in all of it",
                    command.id, command.action
                ),
            )
        }
    }

    /// How many steps of an entity are stored.
    pub(crate) fn length(&mut self, entity: usize) -> Result<usize, Violation> {
        self.read_journal(entity)?;
        Ok(self.journal[entity].len())
    }

    /// The digest of the stored chain of an entity.
    pub(crate) fn stored(&mut self, entity: usize) -> Result<Digest, Violation> {
        self.read_journal(entity)?;
        let last = self.journal[entity].last();
        Ok(last.map_or(Digest::default(), |last| last.digest))
    }

    /// At the end: what is stored is what it must be, looked at as a whole.
    pub(crate) fn check_journal(&mut self) -> Checked {
        for entity in 0..self.ids.len() {
            self.read_journal(entity)?;
        }
        let mut places: Vec<Option<(usize, usize)>> = vec![None; self.sent.len()];
        let mut others = std::collections::BTreeSet::new();
        for (entity, journal) in self.journal.iter().enumerate() {
            let id = &self.ids[entity];
            let times = Times {
                may_be_equal: id.entity_type() == "Kept",
                forget_deleted: !self.leaves_markers,
            };
            if keeps_state(id) {
                self.report.changes += journal.len() as u64;
                let deletions = journal
                    .iter()
                    .filter(|stored| stored.step.kind == StepKind::Delete);
                self.report.deleted_states += deletions.count() as u64;
                let told = self.memory.rows(id).len() as u64;
                self.report.told += told;
            } else {
                self.report.events += journal.len() as u64;
            }
            let mut at = 0;
            while let Some(stored) = journal.get(at) {
                let token = stored.step.token;
                if token >= TICK_TOKENS {
                    self.report.ticks += u64::from(token < FOREIGN_TOKENS);
                    if !others.insert(token) {
                        return broken("no event is stored twice", format!("token {token:#x}"));
                    }
                    check_times(journal, at, 1, times)?;
                    at += 1;
                    continue;
                }
                let index = usize::try_from(token / TOKENS - 1).expect("a small number");
                let sent = &self.sent[index];
                let steps = sent.command.steps();
                if sent.entity != entity || !journal[at..].starts_with_steps(&steps) {
                    return broken(
                        "a command's events are stored whole, in order and side by side",
                        format!("c{} at {}", sent.command.id, at + 1),
                    );
                }
                if places[index].replace((entity, at)).is_some() {
                    return broken("no event is stored twice", format!("c{}", sent.command.id));
                }
                check_times(journal, at, steps.len(), times)?;
                at += steps.len();
            }
        }
        for (index, sent) in self.sent.iter().enumerate() {
            let Command { id, action } = sent.command;
            let first = action
                .first_attempt()
                .and_then(|id| usize::try_from(id - 1).ok());
            let is_stored = places[first.unwrap_or(index)].is_some();
            if first.is_some() {
                self.check_once(sent, is_stored)?;
                continue;
            }
            let must_be = !sent.command.steps().is_empty()
                && matches!(sent.fate, Fate::Answered | Fate::Silent);
            if must_be && !is_stored {
                return broken(
                    "what is acknowledged is stored",
                    format!("c{id} {action:?}"),
                );
            }
            if let Fate::Failed(error) = &sent.fate
                && is_stored
            {
                return broken(
                    "what certainly failed is not stored",
                    format!("c{id} {action:?} was told \"{error}\""),
                );
            }
            if is_stored && (action.is_unstorable() || action.panics()) {
                return broken("what panics is not stored", format!("c{id} {action:?}"));
            }
            if sent.future_ran && !action.has_future() {
                return broken("only futures run as futures", format!("c{id} {action:?}"));
            }
        }
        Ok(())
    }
}

impl Ledger {
    /// What holds of a command with an id, whose attempts may have different fates.
    fn check_once(&self, sent: &Sent, is_stored: bool) -> Checked {
        let who = || format!("c{} {:?}", sent.command.id, sent.command.action);
        if matches!(sent.fate, Fate::Answered) && !is_stored {
            return broken("what is acknowledged is stored", who());
        }
        let of_all = |other: &Sent| {
            let is_same = other.command.action == sent.command.action;
            !is_same || matches!(other.fate, Fate::Failed(_))
        };
        if is_stored && self.sent.iter().all(of_all) {
            return broken("what certainly failed is not stored", who());
        }
        Ok(())
    }
}

/// How the time of a write follows that of the one before.
#[derive(Debug, Clone, Copy)]
struct Times {
    /// Several changes of a state in one batch are one row, with one time.
    may_be_equal: bool,
    /// Nothing keeps the time of a row that was removed.
    forget_deleted: bool,
}

/// All events of a write have one time, later than that of the write before, or as `times` allows.
fn check_times(journal: &[Stored], at: usize, count: usize, times: Times) -> Checked {
    let of_write = &journal[at..at + count];
    let first = &of_write[0];
    let is_one = of_write
        .iter()
        .all(|stored| stored.timestamp == first.timestamp && stored.writer == first.writer);
    let is_later = match at.checked_sub(1).map(|before| &journal[before]) {
        None => true,
        Some(before) if before.timestamp == first.timestamp => times.may_be_equal,
        Some(before) => {
            let was_deleted = before.step.kind == StepKind::Delete;
            before.timestamp < first.timestamp || was_deleted && times.forget_deleted
        }
    };
    if is_one && is_later {
        Ok(())
    } else {
        broken(
            "a write has one writer and one time, later than the one before",
            format!("the write at {} of token {:#x}", at + 1, first.step.token),
        )
    }
}

trait Steps {
    fn starts_with_steps(&self, steps: &[Step]) -> bool;
    fn ends_with_steps(&self, steps: &[Step]) -> bool;
}

impl Steps for [Stored] {
    fn starts_with_steps(&self, steps: &[Step]) -> bool {
        self.len() >= steps.len()
            && !steps.is_empty()
            && self
                .iter()
                .zip(steps)
                .all(|(stored, step)| stored.step == *step)
    }

    fn ends_with_steps(&self, steps: &[Step]) -> bool {
        let from = self.len().checked_sub(steps.len());
        from.is_some_and(|from| {
            let end = self[from..].iter();
            end.zip(steps).all(|(stored, step)| stored.step == *step)
        })
    }
}

impl Ledger {
    /// Whether an entity is locked, going by its journal.
    pub(crate) fn is_locked(&mut self, entity: usize) -> Result<bool, Violation> {
        self.read_journal(entity)?;
        let lock = self.journal[entity]
            .iter()
            .rev()
            .find_map(|stored| match stored.step.kind {
                StepKind::Lock => Some(true),
                StepKind::Unlock | StepKind::Delete => Some(false),
                _ => None,
            });
        Ok(lock.unwrap_or(false))
    }

    /// When a command may be sent again that was refused as busy.
    pub(crate) fn may_come_back_after(&self, index: usize) -> Option<Duration> {
        match &self.sent[index].fate {
            Fate::Failed(AskError::Busy { retry_after, .. }) => Some(*retry_after),
            _ => None,
        }
    }

    /// Whether a command was answered.
    pub(crate) fn is_answered(&self, index: usize) -> bool {
        matches!(self.sent[index].fate, Fate::Answered)
    }
}
