//! What has to be true of a run, whatever happens in it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use perennial_core::{AskError, DeadLetterReason, SpawnError};

use super::Report;
use super::player::{Accepted, Ended, Event, How, MessageId, Number, Sender};

/// A promise that was not kept.
#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) rule: &'static str,
    pub(crate) detail: String,
}

fn broken(rule: &'static str, detail: impl Into<String>) -> Result<(), Violation> {
    Err(Violation {
        rule,
        detail: detail.into(),
    })
}

const ORDER: &str = "messages of one sender to one actor keep their order";
const STASH_ORDER: &str = "what is stashed comes back in order";
const ONCE: &str = "no message is handled twice";
const NOT_HANDLED: &str = "what is said not to be handled is not";
const TRUTH: &str = "an answer says what has become of its question";
const IN_TIME: &str = "every question is answered in time";
const LOST: &str = "no message disappears";
const WATCH_ONCE: &str = "who watches is told once, and nobody else";
const WATCH_TRUE: &str = "an end is told when it has come, with its reason";
const WATCH_MISSED: &str = "nobody who watches is forgotten";
const WORDS_FIRST: &str = "what an actor has sent comes before the news of its end";
const TIMERS: &str = "a timer fires at its time, unless it was cancelled or its value is gone";
const VALUES: &str = "an actor has one value at a time";
const CHILDREN: &str = "children end before their parents";
const NAMES: &str = "a name is free when its actor has ended, and not before";

/// How late an answer may be, as the clock is moved before anybody looks at it.
const LATE: Duration = Duration::from_millis(20);

/// What is known of a message.
#[derive(Debug)]
struct Info {
    how: How,
    from: Sender,
    to: Number,
    accepted: Accepted,
    /// Which of all messages that were sent.
    order: u64,
    deliveries: u32,
    last: Option<Ended>,
    begun: bool,
    continued: bool,
    replied: bool,
    gone: bool,
    answer: Option<Result<MessageId, AskError>>,
    given_up: bool,
    /// Deliveries at the time of an answer that says that it was not handled.
    deliveries_then: u32,
}

impl Info {
    /// Whether it was put aside, or never given to its actor.
    fn is_not_handled(&self) -> bool {
        self.deliveries == 0 || self.last == Some(Ended::Stashed)
    }
}

#[derive(Debug)]
struct Timer {
    timer: u64,
    incarnation: u32,
    due: Duration,
    period: Option<Duration>,
}

/// Everything that has happened, as far as it decides about what may happen.
#[derive(Debug, Default)]
pub(super) struct Model {
    messages: HashMap<MessageId, Info>,
    sent: u64,
    /// The order of the last one that was given to an actor, by sender.
    delivered: HashMap<(Sender, Number), u64>,
    /// What an actor has put aside, in order.
    stashes: HashMap<Number, Vec<MessageId>>,
    deadlines: HashMap<MessageId, Duration>,
    parents: BTreeMap<Number, Number>,
    paths: BTreeMap<String, Number>,
    alive: BTreeMap<Number, u32>,
    reasons: BTreeMap<Number, String>,
    watching: BTreeMap<(Number, u32), BTreeSet<Number>>,
    told: HashSet<(Number, Number)>,
    timers: BTreeMap<(Number, u8), Timer>,
    /// Whether the system ends, in whatever way.
    pub(super) ending: bool,
    pub(super) report: Report,
}

impl Model {
    /// The asker of a question waits until then.
    pub(super) fn set_deadline(&mut self, message: MessageId, at: Duration) {
        self.deadlines.insert(message, at);
    }

    pub(super) fn apply(&mut self, at: Duration, event: Event) -> Result<(), Violation> {
        match event {
            Event::Sent {
                message,
                from,
                to,
                how,
                accepted,
            } => {
                self.sent += 1;
                let report = &mut self.report;
                match &accepted {
                    Accepted::Yes => report.accepted += 1,
                    Accepted::No(AskError::Busy { .. }) => report.busy += 1,
                    Accepted::No(_) => report.refused += 1,
                    Accepted::Open => {}
                }
                let info = Info {
                    how,
                    from,
                    to,
                    accepted,
                    order: self.sent,
                    deliveries: 0,
                    last: None,
                    begun: false,
                    continued: false,
                    replied: false,
                    gone: false,
                    answer: None,
                    given_up: false,
                    deliveries_then: 0,
                };
                // A refused one may be gone by then.
                let before = self.messages.insert(message, info);
                if let Some(before) = before {
                    let info = self.info(message)?;
                    info.gone = before.gone;
                }
                Ok(())
            }
            Event::Delivered {
                message,
                to,
                incarnation,
            } => self.delivered(message, to, incarnation),
            Event::Done { message, end } => self.done(message, end),
            Event::Replied { message } => {
                self.info(message)?.replied = true;
                Ok(())
            }
            Event::Begun { message } => {
                self.info(message)?.begun = true;
                Ok(())
            }
            Event::Continued { message } => {
                self.report.continued += 1;
                let info = self.info(message)?;
                if std::mem::replace(&mut info.continued, true) {
                    return broken(ONCE, format!("message {message} is continued twice"));
                }
                Ok(())
            }
            Event::Gone { message } => {
                if let Some(info) = self.messages.get_mut(&message) {
                    info.gone = true;
                    return Ok(());
                }
                // Refused, which is noted next, or never sent.
                self.messages.insert(
                    message,
                    Info {
                        how: How::Told,
                        from: Sender::Elsewhere,
                        to: 0,
                        accepted: Accepted::No(AskError::Stopped),
                        order: 0,
                        deliveries: 0,
                        last: None,
                        begun: false,
                        continued: false,
                        replied: false,
                        gone: true,
                        answer: None,
                        given_up: false,
                        deliveries_then: 0,
                    },
                );
                Ok(())
            }
            Event::Answered { message, answer } => self.answered(at, message, answer),
            Event::GivenUp { message } => {
                self.report.given_up += 1;
                self.info(message)?.given_up = true;
                Ok(())
            }
            event => self.apply_to_actors(at, event),
        }
    }

    fn apply_to_actors(&mut self, at: Duration, event: Event) -> Result<(), Violation> {
        match event {
            Event::Spawned {
                number,
                parent,
                path,
            } => {
                self.report.spawned += 1;
                if let Some(parent) = parent {
                    self.parents.insert(number, parent);
                }
                if let Some(before) = self.paths.insert(path.clone(), number)
                    && self.alive.contains_key(&before)
                {
                    return broken(NAMES, format!("{path} is given twice: {before}, {number}"));
                }
                Ok(())
            }
            Event::NotSpawned { path, error, ended } => match error {
                SpawnError::NameTaken { .. } => {
                    self.report.names_taken += 1;
                    if ended {
                        return broken(NAMES, format!("{path} has ended, and is taken"));
                    }
                    Ok(())
                }
                SpawnError::Stopped if self.ending => Ok(()),
                error => broken(NAMES, format!("{path} is not spawned: {error}")),
            },
            Event::Made {
                number,
                incarnation,
            } => {
                if incarnation > 1 {
                    self.check_childless(number, "begins anew")?;
                }
                match self.alive.insert(number, incarnation) {
                    Some(before) => broken(
                        VALUES,
                        format!("{number} has value {before} and gets {incarnation}"),
                    ),
                    None => Ok(()),
                }
            }
            Event::Started { .. } => {
                self.report.started += 1;
                Ok(())
            }
            Event::FailedStart { .. } => {
                self.report.failed_starts += 1;
                Ok(())
            }
            Event::Restarting {
                number,
                incarnation,
            } => {
                self.report.restarted += 1;
                self.end_value(number, incarnation);
                Ok(())
            }
            Event::Stopped {
                number,
                reason,
                children,
            } => {
                self.report.ended += 1;
                if children > 0 {
                    return broken(CHILDREN, format!("{number} has {children} at its end"));
                }
                self.check_childless(number, "ends")?;
                self.reasons.insert(number, reason);
                if let Some(&incarnation) = self.alive.get(&number) {
                    self.end_value(number, incarnation);
                }
                Ok(())
            }
            Event::Dropped {
                number,
                incarnation,
            } => {
                self.end_value(number, incarnation);
                match self.alive.remove(&number) {
                    Some(alive) if alive == incarnation => Ok(()),
                    alive => broken(
                        VALUES,
                        format!("value {incarnation} of {number} is dropped, and {alive:?} lives"),
                    ),
                }
            }
            Event::Watches {
                watcher,
                incarnation,
                target,
            } => {
                let watching = self.watching.entry((watcher, incarnation)).or_default();
                watching.insert(target);
                Ok(())
            }
            Event::Unwatches {
                watcher,
                incarnation,
                target,
            } => {
                if let Some(watching) = self.watching.get_mut(&(watcher, incarnation)) {
                    watching.remove(&target);
                }
                Ok(())
            }
            Event::Terminated {
                watcher,
                incarnation,
                target,
                reason,
                ended,
            } => {
                self.report.terminated += 1;
                self.told.insert((target, watcher));
                let watching = self.watching.get_mut(&(watcher, incarnation));
                if !watching.is_some_and(|watching| watching.remove(&target)) {
                    return broken(
                        WATCH_ONCE,
                        format!("{watcher} is told of {target}, which it does not watch: {reason}"),
                    );
                }
                self.check_end(target, &reason, ended)
            }
            Event::ToldOutside {
                target,
                reason,
                ended,
            } => self.check_end(target, &reason, ended),
            Event::ChildFailed { .. } => {
                self.report.child_failed += 1;
                Ok(())
            }
            Event::TimedOut { .. } => {
                self.report.timeouts += 1;
                Ok(())
            }
            Event::TimerStarted {
                number,
                incarnation,
                timer,
                key,
                delay,
                repeated,
            } => {
                let period = repeated.then_some(delay.max(Duration::from_millis(1)));
                let started = Timer {
                    timer,
                    incarnation,
                    due: at + period.unwrap_or(delay),
                    period,
                };
                let replaced = self.timers.insert((number, key), started);
                self.report.cancelled += u64::from(replaced.is_some());
                Ok(())
            }
            Event::TimerCancelled { number, key } => {
                let count = self.timers.len();
                self.timers
                    .retain(|&(of, own), _| of != number || key.is_some_and(|key| key != own));
                self.report.cancelled += (count - self.timers.len()) as u64;
                Ok(())
            }
            Event::Ticked {
                number,
                incarnation,
                timer,
                key,
            } => self.ticked(at, number, incarnation, timer, key),
            _ => Ok(()),
        }
    }

    fn info(&mut self, message: MessageId) -> Result<&mut Info, Violation> {
        self.messages.get_mut(&message).ok_or(Violation {
            rule: LOST,
            detail: format!("message {message} was never sent"),
        })
    }

    fn delivered(
        &mut self,
        message: MessageId,
        to: Number,
        incarnation: u32,
    ) -> Result<(), Violation> {
        if self.alive.get(&to) != Some(&incarnation) {
            return broken(
                VALUES,
                format!(
                    "message {message} is handled by value {incarnation} of {to}, which is not there"
                ),
            );
        }
        let stash = self.stashes.entry(to).or_default();
        let position = stash.iter().position(|stashed| *stashed == message);
        let overtaken: Vec<MessageId> = match position {
            Some(position) => stash.drain(..=position).take(position).collect(),
            None => Vec::new(),
        };
        // Those that nobody waits for any more are passed over.
        for earlier in overtaken {
            let info = self.info(earlier)?;
            let is_abandoned = info.given_up || info.answer.is_some() || info.gone;
            if !is_abandoned {
                return broken(
                    STASH_ORDER,
                    format!("message {message} comes before {earlier}, which was stashed first"),
                );
            }
        }
        let info = self.info(message)?;
        if info.to != to {
            return broken(
                LOST,
                format!("message {message} comes to {to}, not {}", info.to),
            );
        }
        if let Accepted::No(error) = &info.accepted {
            return broken(
                NOT_HANDLED,
                format!("message {message} is handled although it was refused: {error}"),
            );
        }
        if info.deliveries > 0 && info.last != Some(Ended::Stashed) {
            return broken(
                ONCE,
                format!("message {message} is handled again: {info:?}"),
            );
        }
        let says_not_handled = info
            .answer
            .as_ref()
            .and_then(|answer| answer.as_ref().err())
            .filter(|error| error.is_not_handled());
        if let Some(error) = says_not_handled {
            return broken(
                NOT_HANDLED,
                format!("message {message} is handled after its asker was told: {error}"),
            );
        }
        let is_first = info.deliveries == 0;
        info.deliveries += 1;
        info.last = None;
        let (from, order) = (info.from, info.order);
        if !is_first {
            return Ok(());
        }
        self.report.handled += 1;
        if let Sender::Actor(sender) = from
            && self.told.contains(&(sender, to))
        {
            return broken(
                WORDS_FIRST,
                format!("message {message} of {sender} comes to {to} after its end"),
            );
        }
        if from == Sender::Elsewhere {
            return Ok(());
        }
        let last = self.delivered.insert((from, to), order);
        if last.is_some_and(|last| last > order) {
            return broken(
                ORDER,
                format!("message {message} of {from:?} comes to {to} after a later one"),
            );
        }
        Ok(())
    }

    fn done(&mut self, message: MessageId, end: Ended) -> Result<(), Violation> {
        match end {
            Ended::Stashed => self.report.stashed += 1,
            Ended::Failed => self.report.failed += 1,
            _ => {}
        }
        let info = self.info(message)?;
        info.last = Some(end);
        info.replied |= end == Ended::Replied;
        let to = info.to;
        if end == Ended::Stashed {
            self.stashes.entry(to).or_default().push(message);
        }
        Ok(())
    }

    fn answered(
        &mut self,
        at: Duration,
        message: MessageId,
        answer: Result<MessageId, AskError>,
    ) -> Result<(), Violation> {
        let ending = self.ending;
        if let Some(&deadline) = self.deadlines.get(&message) {
            if at > deadline + LATE {
                return broken(
                    IN_TIME,
                    format!("message {message} is answered at {at:?}, not {deadline:?}"),
                );
            }
            if answer == Err(AskError::Expired) && at < deadline && !ending {
                return broken(
                    IN_TIME,
                    format!("message {message} expires at {at:?}, not {deadline:?}"),
                );
            }
        }
        let info = self.info(message)?;
        if info.answer.is_some() {
            return broken(TRUTH, format!("message {message} is answered twice"));
        }
        let last = info.last;
        let is_true = match &answer {
            Ok(reply) => *reply == message && info.replied,
            Err(AskError::Failed { .. }) => last == Some(Ended::Failed),
            Err(AskError::NoReply) => last == Some(Ended::NoReply),
            Err(AskError::Unhandled) => last == Some(Ended::Unhandled),
            Err(AskError::Busy { what, .. }) => match *what {
                "the actor's stash" => last == Some(Ended::Stashed),
                "the number of open futures" => last == Some(Ended::Outside) && !info.begun,
                _ => info.deliveries == 0,
            },
            Err(AskError::Expired | AskError::Stopped) => info.is_not_handled(),
            Err(AskError::Cycle { .. }) => info.deliveries == 0,
            // It was begun, or may have been.
            Err(AskError::Unknown { .. }) => info.deliveries > 0,
            Err(_) => false,
        };
        info.deliveries_then = info.deliveries;
        let detail = format!("message {message} is answered {answer:?}: {info:?}");
        info.answer = Some(answer.clone());
        let report = &mut self.report;
        match answer {
            Ok(_) => report.answered += 1,
            Err(AskError::Expired) => report.expired += 1,
            Err(AskError::Unknown { .. }) => report.unknown += 1,
            Err(AskError::Stopped) => report.stopped += 1,
            Err(AskError::Failed { .. }) => report.told_failed += 1,
            Err(AskError::Cycle { .. }) => report.cycles += 1,
            Err(_) => {}
        }
        if is_true {
            Ok(())
        } else {
            broken(TRUTH, detail)
        }
    }

    fn ticked(
        &mut self,
        at: Duration,
        number: Number,
        incarnation: u32,
        timer: u64,
        key: u8,
    ) -> Result<(), Violation> {
        self.report.ticks += 1;
        let Some(active) = self.timers.get_mut(&(number, key)) else {
            return broken(
                TIMERS,
                format!("timer {timer} of {number} is not there any more"),
            );
        };
        if active.timer != timer || active.incarnation != incarnation {
            return broken(
                TIMERS,
                format!("timer {timer} of {number} fires, and {active:?} has its place"),
            );
        }
        if at < active.due {
            return broken(
                TIMERS,
                format!("timer {timer} of {number} fires early: {active:?}"),
            );
        }
        match active.period {
            Some(period) => active.due += period,
            None => {
                self.timers.remove(&(number, key));
            }
        }
        Ok(())
    }

    fn check_end(&self, target: Number, reason: &str, ended: bool) -> Result<(), Violation> {
        if !ended {
            return broken(WATCH_TRUE, format!("{target} has not ended: {reason}"));
        }
        let is_late = reason == "it had ended before";
        let stopped = self.reasons.get(&target);
        if !is_late
            && !self.ending
            && let Some(stopped) = stopped
            && stopped != reason
        {
            return broken(
                WATCH_TRUE,
                format!("{target} ended: {stopped}, not: {reason}"),
            );
        }
        Ok(())
    }

    /// No child of an actor has a value.
    fn check_childless(&self, number: Number, what: &str) -> Result<(), Violation> {
        let child = self
            .parents
            .iter()
            .find(|(child, parent)| **parent == number && self.alive.contains_key(child));
        match child {
            Some((child, _)) => broken(CHILDREN, format!("{number} {what} before {child}")),
            None => Ok(()),
        }
    }

    /// What a value has begun has ended with it.
    fn end_value(&mut self, number: Number, incarnation: u32) {
        let count = self.timers.len();
        self.timers
            .retain(|&(of, _), timer| of != number || timer.incarnation != incarnation);
        self.report.cancelled += (count - self.timers.len()) as u64;
        self.watching.remove(&(number, incarnation));
    }

    /// All is quiet: `is_running` says so of every actor that has not ended.
    pub(super) fn check_rest(
        &self,
        now: Duration,
        has_ended: impl Fn(Number) -> bool,
    ) -> Result<(), Violation> {
        for (&(watcher, incarnation), targets) in &self.watching {
            if self.alive.get(&watcher) != Some(&incarnation) {
                continue;
            }
            if let Some(target) = targets.iter().find(|target| has_ended(**target)) {
                return broken(
                    WATCH_MISSED,
                    format!("{watcher} was never told that {target} has ended"),
                );
            }
        }
        for (&(number, _), timer) in &self.timers {
            if timer.period.is_none() && timer.due <= now {
                return broken(TIMERS, format!("{timer:?} of {number} never fired"));
            }
        }
        Ok(())
    }

    /// Nothing is left: every message has come to an end, and it is known which.
    pub(super) fn check_the_end(
        &mut self,
        counts: &[(DeadLetterReason, u64)],
    ) -> Result<(), Violation> {
        if let Some((number, _)) = self.alive.first_key_value() {
            return broken(VALUES, format!("the value of {number} was never dropped"));
        }
        let mut expected = Expected::default();
        let mut messages: Vec<_> = self.messages.iter().collect();
        messages.sort_by_key(|(message, _)| **message);
        for (message, info) in messages {
            if !info.gone {
                return broken(
                    LOST,
                    format!("message {message} is still somewhere: {info:?}"),
                );
            }
            let is_answered = info.answer.is_some() || info.given_up;
            if info.how == How::Asked && info.accepted == Accepted::Yes && !is_answered {
                return broken(IN_TIME, format!("message {message} was never answered"));
            }
            expected.add(info);
        }
        let counted = |reason| {
            counts
                .iter()
                .find_map(|(of, count)| (*of == reason).then_some(*count))
                .unwrap_or(0)
        };
        let report = &mut self.report;
        report.dead_stopped = counted(DeadLetterReason::Stopped);
        report.dead_stash = counted(DeadLetterReason::StashFull);
        report.dead_unhandled = counted(DeadLetterReason::Unhandled);
        report.dead_futures = counted(DeadLetterReason::TooManyFutures);
        let found = [
            (
                "not handled",
                report.dead_stopped + report.dead_stash,
                expected.not_handled,
            ),
            ("unhandled", report.dead_unhandled, expected.unhandled),
            (
                "with too many futures",
                report.dead_futures,
                expected.futures,
            ),
        ];
        for (what, counted, (least, most)) in found {
            if !(least..=most).contains(&counted) {
                return broken(
                    LOST,
                    format!("{counted} messages are counted as {what}, and {least} to {most} are"),
                );
            }
        }
        Ok(())
    }
}

/// How many dead letters there have to be: the least and the most.
#[derive(Debug, Default)]
struct Expected {
    not_handled: (u64, u64),
    unhandled: (u64, u64),
    futures: (u64, u64),
}

impl Expected {
    fn add(&mut self, info: &Info) {
        if matches!(info.accepted, Accepted::No(_)) {
            return;
        }
        let count = if info.is_not_handled() {
            &mut self.not_handled
        } else if info.last == Some(Ended::Unhandled) {
            &mut self.unhandled
        } else if info.last == Some(Ended::Outside) && !info.begun {
            &mut self.futures
        } else {
            return;
        };
        let (least, most) = match (info.how, &info.answer) {
            (How::Told | How::ToItself, _) => (1, 1),
            // Whoever asked and has gone knows that it was not handled, and so does one whose time
            // was up; but a question may have been counted before its asker has gone.
            (_, None) => (0, 1),
            (_, Some(Err(AskError::Expired | AskError::Cycle { .. })))
            | (How::Asked, Some(Err(AskError::Unknown { .. }))) => (0, 0),
            // Nobody waits any more, but nothing says so.
            (How::AskedByActor, Some(Err(AskError::Unknown { .. }))) => (0, 1),
            // It was refused at once, or counted later; that is not to be seen from here.
            (How::AskedByActor, Some(Err(AskError::Stopped))) => (0, 1),
            (How::AskedByActor, Some(Err(AskError::Busy { what, .. })))
                if *what == "the actor's mailbox" || *what == "the worker's inbox" =>
            {
                (0, 0)
            }
            (_, Some(_)) => (1, 1),
        };
        count.0 += least;
        count.1 += most;
    }
}
