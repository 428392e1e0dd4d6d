//! One entity's whole life on one worker.
//!
//! A cell is created by its first command, waits for a permit, recovers, handles commands, and is
//! forgotten when it has been idle for long or its entity stops. Its state may be ahead of the
//! journal: it is *tentative* until the writes in flight are stored. What is built on it stays
//! inside the cell until then, and is taken back with it when a write fails.

mod leaving;
mod status;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use perennial_persistence::{
    AtomicWrite, CommandId, Error, NewEvent, NewReminder, NewReply, Previous, ReminderChange,
    ReminderKey, SequenceNr, SerializedPayload, Snapshot, SnapshotCriteria, WriterId, telemetry,
};
use tracing::Span;

use crate::engine::command_window::{CommandWindow, Seen};
use crate::engine::core::{CellTimer, Core, TimerKey};
use crate::engine::envelope::{Handled, Held, Queued};
use crate::engine::journal_writer::{Gathered, Settled, WriteItem};
use crate::engine::mailbox::Address;
use crate::engine::recovery::{Gaps, PageRead, Part, Recovering, Stopped};
use crate::engine::{
    Bounded, CellKey, Deletion, DeletionDone, Expired, LaterDone, LaterFailure, LaterRequest,
    ReadDone, ReplyCleanup, panic_message,
};
use crate::error::{AskError, PersistFailed, PersistFailure, RecoveryFailed, chain};
use crate::event_sourced::{
    Action, Body, Cx, EntityDef, EventSourced, Kept, LaterWork, Recovery, ReminderOp, Signal,
    TimerOp,
};
use crate::fsm::{Machine, MachineAction, MachineHooks, STATE_TIMEOUT};
use crate::pubsub::Unpublished;
use crate::reply::Fired;

/// One entity.
pub(crate) struct Cell<E: EventSourced> {
    key: CellKey,
    address: Arc<Address>,
    writer: WriterId,
    phase: Phase,
    /// The tentative state.
    state: E,
    /// The number of the last event in the tentative state.
    seq_nr: SequenceNr,
    /// What is known of the event before the next write.
    previous: Previous,
    queue: VecDeque<Box<dyn Queued<E>>>,
    stash: VecDeque<Box<dyn Queued<E>>>,
    /// Writes that are gathered or in flight, oldest first.
    in_flight: VecDeque<InFlight<E>>,
    /// How many writes there were.
    writes: u64,
    /// What has to wait until nothing is in flight; nothing is handled meanwhile.
    barrier: Option<Box<Barrier<E>>>,
    laters: Vec<OpenLater<E>>,
    timers: Vec<UserTimer<E>>,
    last_active: Duration,
    /// When its phase began.
    phase_since: Duration,
    /// Failures in a row.
    failures: u32,
    /// What is being done about a snapshot.
    upkeep: Upkeep,
    /// Deletions that are under way, by token, each with the number up to which.
    deletions: Vec<(u64, SequenceNr)>,
    /// The commands with ids that it knows; there from the first one on.
    commands: Option<Box<CommandWindow<E>>>,
    /// What is still to be told to the entity; nothing is handled meanwhile.
    signals: VecDeque<Signal>,
    /// There while it has been told to leave; when it is ended all the same.
    leaving: Option<TimerKey>,
    /// There if it is a state machine.
    machine: Option<MachineHooks<E>>,
    /// How often it has entered a state, or begun in one, since it is in memory.
    entries: u64,
    scheduled: bool,
    /// The incarnation under which it stands among the idle ones.
    listed_as_idle: Option<u64>,
    /// The entity's own span, from the first command on that has one.
    span: Option<Box<Span>>,
}

enum Phase {
    /// Waits for a permit to recover.
    Waiting,
    /// Reads its history.
    Recovering(Box<Recovering>),
    /// Handles commands.
    Ready,
    /// Handles nothing more; what is in flight is awaited.
    Draining(Next),
    /// Failed, and waits before it tries again. With a failure to recover, commands are refused
    /// meanwhile; after another failure they wait.
    Backoff {
        until: Duration,
        failure: Option<Box<RecoveryFailed>>,
    },
    /// Not in memory, except for its failures; the next command starts it.
    Down,
    /// Stopped; to be forgotten.
    Stopped,
    /// Goes to another worker as soon as everything has come that was sent to it here.
    Left,
}

#[derive(Clone, Copy)]
enum Next {
    /// Recovers after a while. If a write has failed, the later ones are doomed.
    Restart { after: Duration, doomed: bool },
    /// Ends, unless commands have come in the meantime.
    Stop,
    /// Goes to another worker. If a write has failed, the later ones are doomed.
    Move { doomed: bool },
}

/// What is being done about a snapshot; one thing at a time.
#[derive(Clone, Copy)]
enum Upkeep {
    None,
    /// The snapshot of this incarnation is being saved.
    Saving {
        incarnation: u64,
        seq_nr: SequenceNr,
        /// Up to where events are to be deleted after that.
        delete_to: SequenceNr,
    },
    /// Events are being deleted after it was saved.
    Deleting {
        token: u64,
    },
}

struct InFlight<E: EventSourced> {
    /// Which of the cell's writes it is.
    number: u64,
    last: SequenceNr,
    since: Duration,
    /// Whether it stores more than changes of reminders.
    has_events: bool,
    /// What it does to the entity's reminders.
    reminders: Vec<ReminderChange>,
    /// Replies without events that saw the state up to this write.
    waiters: Vec<Box<dyn Queued<E>>>,
    /// The state right after this write, if a snapshot is due there.
    snapshot: Option<DueSnapshot>,
    /// Its events, if somebody wants to be told of them.
    unpublished: Option<Box<dyn Unpublished>>,
}

struct DueSnapshot {
    payload: SerializedPayload,
    /// Whether events are deleted once it is saved.
    retention: bool,
}

struct Barrier<E: EventSourced> {
    actions: Vec<Action<E>>,
    stop: bool,
    later: Option<(Box<dyn Queued<E>>, LaterWork)>,
}

struct OpenLater<E: EventSourced> {
    token: u64,
    since: Duration,
    interleaved: bool,
    command: Box<dyn Queued<E>>,
}

struct UserTimer<E: EventSourced> {
    key: Cow<'static, str>,
    token: u64,
    /// Its next time.
    due: TimerKey,
    period: Option<Duration>,
    make: crate::event_sourced::MakeCommand<E>,
    /// What it sent last.
    fired: Option<Arc<dyn Fired>>,
}

impl<E: EventSourced> UserTimer<E> {
    /// Whether what it sent last is still to be handled.
    fn is_waiting(&self) -> bool {
        self.fired.as_ref().is_some_and(|fired| fired.is_waiting())
    }

    /// Whether nothing more comes of it.
    fn is_over(&self) -> bool {
        self.period.is_none() && self.fired.is_some() && !self.is_waiting()
    }

    /// Ends it with what it has sent. Gives whether that stands in the queue for nothing now.
    fn cancel(self, core: &mut Core) -> bool {
        core.cancel_timer(self.due);
        self.fired.is_some_and(|fired| fired.cancel())
    }
}

/// What the test kit sees of an entity in memory.
#[derive(Debug)]
pub struct Peek<'a, E> {
    /// The state, if the entity handles commands; ahead of the store by the unsettled writes.
    pub state: Option<&'a E>,
    /// The number of the last event in the state.
    pub seq_nr: SequenceNr,
    /// Why it could not be brought back.
    pub failure: Option<&'a RecoveryFailed>,
    /// Writes that are gathered or in flight.
    pub unsettled: usize,
    /// Commands that are put aside.
    pub stashed: usize,
}

/// What is to be done with a cell.
pub(crate) enum Whereabouts {
    /// It has something to do right now.
    Runnable,
    /// It will be woken.
    Waiting,
    /// It has nothing to do and is not waited for.
    Idle,
    /// It is to be forgotten.
    Gone,
    /// It may go to another worker.
    Left,
}

/// Why a command fails whose own events were never tried.
const BUILT_ON_FAILED: &str =
    "events of an earlier command, on which this one was built, were not stored";

/// After a failed write the entity recovers at once, and reads what is stored.
const NOT_STORED: Next = Next::Restart {
    after: Duration::ZERO,
    doomed: true,
};

/// An entity whose state is not what is stored recovers at once; the writes in flight are good.
const ANEW: Next = Next::Restart {
    after: Duration::ZERO,
    doomed: false,
};

impl<E: EventSourced> Cell<E> {
    /// A cell that will recover.
    ///
    /// # Errors
    /// The panic of the state's `Default`.
    pub(crate) fn new(
        key: CellKey,
        address: Arc<Address>,
        core: &mut Core,
    ) -> Result<Self, Arc<str>> {
        let state = catch_unwind(E::default).map_err(|panic| panic_message(&*panic))?;
        Ok(Self {
            key,
            address,
            writer: core.new_writer(),
            phase: Phase::Down,
            state,
            seq_nr: SequenceNr::ZERO,
            previous: Previous::Unknown,
            queue: VecDeque::new(),
            stash: VecDeque::new(),
            in_flight: VecDeque::new(),
            writes: 0,
            barrier: None,
            laters: Vec::new(),
            timers: Vec::new(),
            last_active: core.now,
            phase_since: core.now,
            failures: 0,
            upkeep: Upkeep::None,
            deletions: Vec::new(),
            commands: None,
            signals: VecDeque::new(),
            leaving: None,
            machine: E::machine(),
            entries: 0,
            scheduled: false,
            listed_as_idle: None,
            span: None,
        })
    }

    pub(crate) fn key(&self) -> CellKey {
        self.key
    }

    pub(crate) fn address(&self) -> &Arc<Address> {
        &self.address
    }

    pub(crate) fn last_active(&self) -> Duration {
        self.last_active
    }

    /// What the cell wants to happen to it.
    pub(crate) fn whereabouts(&self, entity: &EntityDef<E>, draining: bool) -> Whereabouts {
        match &self.phase {
            Phase::Waiting | Phase::Draining(_) => Whereabouts::Waiting,
            Phase::Left => Whereabouts::Left,
            Phase::Recovering(recovering) => {
                if recovering.has_work() {
                    Whereabouts::Runnable
                } else {
                    Whereabouts::Waiting
                }
            }
            Phase::Ready => {
                if self.can_handle(entity) {
                    Whereabouts::Runnable
                } else if self.is_idle() {
                    if draining || self.leaving.is_some() {
                        Whereabouts::Gone
                    } else {
                        Whereabouts::Idle
                    }
                } else {
                    Whereabouts::Waiting
                }
            }
            Phase::Backoff { .. } if draining && self.is_idle() => Whereabouts::Gone,
            Phase::Backoff { .. } => Whereabouts::Waiting,
            Phase::Down if draining && self.is_idle() => Whereabouts::Gone,
            Phase::Down => Whereabouts::Idle,
            Phase::Stopped => Whereabouts::Gone,
        }
    }

    fn can_handle(&self, entity: &EntityDef<E>) -> bool {
        !self.queue.is_empty()
            && self.barrier.is_none()
            && self.signals.is_empty()
            && !self
                .commands
                .as_ref()
                .is_some_and(|known| known.is_reading())
            && self.in_flight.len() < entity.config.pipeline.max(1)
            && self.laters.iter().all(|later| later.interleaved)
    }

    fn is_idle(&self) -> bool {
        self.queue.is_empty()
            && self.stash.is_empty()
            && self.in_flight.is_empty()
            && self.barrier.is_none()
            && self.laters.is_empty()
            && self.deletions.is_empty()
            && matches!(self.upkeep, Upkeep::None)
            && !self.is_timing_a_state()
    }

    /// Whether the time-out of a machine's state is still to come, which nobody would bring it back
    /// for.
    fn is_timing_a_state(&self) -> bool {
        let mut timers = self.timers.iter();
        timers.any(|timer| timer.key == STATE_TIMEOUT && !timer.is_over())
    }

    /// Puts the cell into the run queue unless it is there.
    pub(crate) fn schedule(&mut self, core: &mut Core) {
        if !self.scheduled {
            self.scheduled = true;
            core.schedule(self.key);
        }
    }

    /// Notes that the cell stands among the idle ones; `false` if it did already.
    pub(crate) fn list_as_idle(&mut self) -> bool {
        let is_new = self.listed_as_idle.is_none();
        if is_new {
            self.listed_as_idle = Some(self.key.incarnation);
        }
        is_new
    }

    /// Whether the entry `key` among the idle ones is this cell's.
    pub(crate) fn is_listed_as(&self, key: CellKey) -> bool {
        self.listed_as_idle == Some(key.incarnation)
    }

    /// Goes on with the machine of an earlier cell of the entity, and with who observes it.
    pub(crate) fn take_over(&mut self, machine: MachineHooks<E>) {
        self.machine = Some(machine);
    }

    /// The machine, if somebody observes it who is to be told when the entity is back.
    pub(crate) fn observed_machine(&mut self) -> Option<MachineHooks<E>> {
        let is_observed = |machine: &mut MachineHooks<E>| {
            machine.0.begin_again();
            machine.0.is_observed()
        };
        self.machine.take_if(is_observed)
    }

    /// The entry `key` among the idle ones is gone. Gives whether it was this cell's.
    pub(crate) fn unlist(&mut self, key: CellKey) -> bool {
        // A cell that was removed has left its entry behind, and another may have its place now; a
        // restarted cell keeps the entry of an earlier incarnation.
        let own = self.listed_as_idle == Some(key.incarnation);
        if own {
            self.listed_as_idle = None;
        }
        own
    }

    /// Gives back the memory of queues that were long once.
    pub(crate) fn shrink(&mut self) {
        const KEPT: usize = 4;
        if self.queue.capacity() > KEPT {
            self.queue.shrink_to(KEPT);
        }
        if self.signals.capacity() > 0 {
            self.signals = VecDeque::new();
        }
        if self.in_flight.capacity() > KEPT {
            self.in_flight.shrink_to(KEPT);
        }
    }

    /// Whether a command can be answered without the store: from the state, or as that of an
    /// entity that cannot be brought back.
    pub(crate) fn needs_no_recovery(&self) -> bool {
        matches!(
            self.phase,
            Phase::Ready
                | Phase::Backoff {
                    failure: Some(_),
                    ..
                }
        )
    }

    /// A command has come.
    pub(crate) fn enqueue(&mut self, core: &mut Core, command: Box<dyn Queued<E>>) {
        self.last_active = core.now;
        match &self.phase {
            Phase::Backoff {
                failure: Some(failure),
                ..
            } => {
                command.fail(AskError::RecoveryFailed((**failure).clone()));
            }
            Phase::Backoff { failure: None, .. } if core.draining => {
                command.fail(AskError::Stopped);
            }
            Phase::Down => {
                self.queue.push_back(command);
                self.want_recovery(core);
            }
            Phase::Ready if command.only_starts() && self.leaving.is_none() => {
                let mut command = command;
                if command.take_place() {
                    self.address.leave_queue(1);
                }
                if command.claim() {
                    command.release();
                }
            }
            Phase::Ready => self.queue.push_back(command),
            // Those before it may take their time when the entity is there.
            _ if command.only_starts() => self.queue.push_front(command),
            _ => self.queue.push_back(command),
        }
    }

    /// The cell's share of a turn.
    pub(crate) fn run(&mut self, entity: &EntityDef<E>, core: &mut Core) {
        self.scheduled = false;
        match &self.phase {
            Phase::Waiting => self.start_recovery(entity, core),
            Phase::Recovering(_) => self.replay(entity, core),
            Phase::Ready => {
                let mut left = core.settings.messages_per_run;
                let mut places = 0;
                let end = core.now.saturating_add(core.settings.turn_budget);
                while left > 0 && core.now < end && self.is_ready() && self.can_handle(entity) {
                    left -= 1;
                    self.handle_next(entity, core, &mut places);
                }
                self.address.leave_queue(places);
            }
            _ => {}
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready)
    }

    /// Handles the command at the front. Adds its place in the bounded queues to `places`, which
    /// are given back together, as other threads count at the other end; but not after the last
    /// reply is out, whose caller may come back at once.
    fn handle_next(&mut self, entity: &EntityDef<E>, core: &mut Core, places: &mut usize) {
        let next = self.queue.front();
        if next.is_some_and(|next| next.command_key().is_some()) {
            self.handle_once(entity, core, places);
        } else if let Some(command) = self.next_command(places) {
            self.handle_claimed(entity, core, command);
        }
    }

    /// Takes the command at the front, unless its caller has given up.
    fn next_command(&mut self, places: &mut usize) -> Option<Box<dyn Queued<E>>> {
        let mut command = self.queue.pop_front()?;
        *places += usize::from(command.take_place());
        if self.queue.is_empty() {
            self.address.leave_queue(std::mem::take(places));
        }
        command.claim().then_some(command)
    }

    fn handle_claimed(
        &mut self,
        entity: &EntityDef<E>,
        core: &mut Core,
        mut command: Box<dyn Queued<E>>,
    ) {
        if !self.is_due(core, &*command) {
            // Another one has its place, or it was taken back.
            command.release();
            return;
        }
        self.last_active = core.now;
        let name = command.command_name();
        let stamp = core.timings.as_ref().and_then(|_| command.take_stamp());
        let queued = stamp.map(|stamp| self.address.registry().sampling().since(stamp));
        let before = core.now;
        let span = self.command_span(name);
        span.in_scope(|| self.handle(entity, core, command));
        let elapsed = core.look_at_clock().saturating_sub(before);
        core.note_busy(
            self.key.host,
            self.address.persistence_id().slice(),
            elapsed,
        );
        if let (Some(queued), Some(timings)) = (queued, &core.timings) {
            timings.types[self.key.host].record(queued, elapsed);
        }
        if elapsed >= core.settings.slow_handler {
            core.stats.slow_handlers.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                persistence_id = %self.address.persistence_id(),
                command = name,
                elapsed_ms = elapsed.as_millis(),
                "a handler took long; all entities of its worker waited"
            );
        }
    }

    /// The span of a command, if somebody wants it. It is a root: in that of the entity, all commands
    /// of its life would be one trace.
    fn command_span(&mut self, command: &'static str) -> Span {
        let span = tracing::trace_span!(
            target: telemetry::MESSAGE_TARGET,
            parent: None,
            telemetry::span::HANDLE,
            persistence_id = %self.address.persistence_id(),
            seq_nr = self.seq_nr.value(),
            command,
        );
        if !span.is_disabled() {
            let of_entity = self.span.get_or_insert_with(|| {
                Box::new(tracing::trace_span!(
                    target: telemetry::MESSAGE_TARGET,
                    parent: None,
                    telemetry::span::ENTITY,
                    persistence_id = %self.address.persistence_id(),
                ))
            });
            span.follows_from(&**of_entity);
        }
        span
    }

    fn handle(&mut self, entity: &EntityDef<E>, core: &mut Core, command: Box<dyn Queued<E>>) {
        let is_last = self.leaving.is_some() && command.is_last();
        self.handle_any(entity, core, command);
        if is_last {
            self.last_handled(entity, core);
        }
    }

    fn handle_any(
        &mut self,
        entity: &EntityDef<E>,
        core: &mut Core,
        mut command: Box<dyn Queued<E>>,
    ) {
        let handled = self.call(entity, core, |state, cx| command.handle(state, cx));
        match handled {
            Ok(Handled::Effect(body)) => self.effect(entity, core, command, body),
            // Its reminder is deleted.
            Ok(Handled::Unhandled(body)) if command.reminder().is_some() => {
                self.effect(entity, core, command, body);
            }
            Ok(Handled::Unhandled(body)) => {
                tracing::debug!(
                    persistence_id = %self.address.persistence_id(),
                    command = command.command_name(),
                    "unhandled command"
                );
                // The refusal tells of the state, so it waits for it like an answer.
                self.hold(core, command);
                self.after(entity, core, body);
            }
            Ok(Handled::Stash(body)) => {
                if self.stash.len() >= entity.config.stash {
                    self.stash.retain(|stashed| !stashed.is_abandoned());
                }
                if core.draining {
                    command.fail(AskError::Stopped);
                } else if self.stash.len() < entity.config.stash {
                    self.stash.push_back(command.put_aside());
                } else {
                    command.fail(core.busy("the entity's stash", Bounded::Stash));
                }
                self.after(entity, core, body);
            }
            Ok(Handled::Later(work)) => {
                self.set_barrier(
                    entity,
                    core,
                    Barrier {
                        actions: Vec::new(),
                        stop: false,
                        later: Some((command, work)),
                    },
                );
            }
            Err(message) => self.panicked(entity, core, Some(command), "handle", message),
        }
    }

    /// Carries out what a handler said, except for its reply's value.
    fn effect(
        &mut self,
        entity: &EntityDef<E>,
        core: &mut Core,
        mut command: Box<dyn Queued<E>>,
        mut body: Body<E>,
    ) {
        let reminders = match self.reminder_changes(entity, core, &mut body, &*command) {
            Ok(changes) => changes,
            Err(reason) => {
                command.fail(self.not_stored(PersistFailure::Rejected, reason));
                return;
            }
        };
        if body.events.is_empty() && !reminders.is_empty() {
            self.change_reminders(entity, core, command, body, reminders);
            return;
        }
        if body.events.is_empty() {
            if command.needs_state()
                && let Err(message) = self.call(entity, core, |state, _| command.compute(state))
            {
                self.panicked(entity, core, Some(command), "reply", message);
                return;
            }
            self.hold(core, command);
            self.after(entity, core, body);
            return;
        }

        if let Err(busy) = core.admit(entity.store) {
            // Nothing was applied yet, so the entity goes on as if the command never came.
            return command.fail(busy);
        }
        let mut write = match self.encode(entity, core, &body) {
            Ok(write) => write,
            Err(reason) => {
                // Nothing was applied yet, so the entity goes on as if the command never came.
                command.fail(self.not_stored(PersistFailure::Rejected, reason));
                return;
            }
        };
        let applied = catch_unwind(AssertUnwindSafe(|| {
            let machine = self.machine.as_mut();
            apply(entity, &mut self.state, machine, &body, &mut write)
        }));
        let before = self.seq_nr;
        let wants_snapshot = match applied {
            Ok(Ok(wants_snapshot)) => wants_snapshot,
            Ok(Err(reason)) => {
                // The state has changed, so it is built anew from what is stored.
                command.fail(self.not_stored(PersistFailure::Rejected, reason));
                self.give_up(core, ANEW);
                return;
            }
            Err(panic) => {
                self.panicked(entity, core, Some(command), "apply", panic_message(&*panic));
                return;
            }
        };
        self.seq_nr = write.last();
        if command.needs_state()
            && let Err(message) = self.call(entity, core, |state, _| command.compute(state))
        {
            self.panicked(entity, core, Some(command), "reply", message);
            return;
        }
        if command.command_key().is_some()
            && let Err(reason) = self.attach_reply(entity, core, &*command, &mut write)
        {
            // As above, for a tag.
            command.fail(self.not_stored(PersistFailure::Rejected, reason));
            self.give_up(core, ANEW);
            return;
        }

        if let Err(error) = write.set_reminders(reminders.clone()) {
            command.fail(self.not_stored(PersistFailure::Rejected, chain(&error)));
            self.give_up(core, ANEW);
            return;
        }

        let snapshot = self.due_snapshot(entity, before, wants_snapshot);
        let unpublished = self.keep_for_subscribers(entity, &mut body, before.next());
        let in_flight = InFlight {
            number: 0,
            last: self.seq_nr,
            since: core.now,
            has_events: true,
            reminders,
            waiters: Vec::new(),
            snapshot,
            unpublished,
        };
        self.gather(entity, core, write, command, in_flight);
        if let Some(machine) = &self.machine
            && machine.0.has_moved()
        {
            self.entries += 1;
            body.actions.splice(0..0, of_transition());
        }
        self.after(entity, core, body);
    }

    /// A write joins the next batch of its lane.
    fn gather(
        &mut self,
        entity: &EntityDef<E>,
        core: &mut Core,
        write: AtomicWrite,
        command: Box<dyn Queued<E>>,
        in_flight: InFlight<E>,
    ) {
        self.writes += 1;
        let number = self.writes;
        self.in_flight.push_back(InFlight {
            number,
            ..in_flight
        });
        let lane = core.lane_of(entity.store, self.address.persistence_id().slice());
        let gathered = Gathered {
            key: self.key,
            number,
            write,
            held: Some(command),
        };
        core.gather(lane, gathered);
    }

    fn encode(
        &self,
        entity: &EntityDef<E>,
        core: &Core,
        body: &Body<E>,
    ) -> Result<AtomicWrite, Arc<str>> {
        let limit = core.settings.events_per_write;
        if body.events.len() > limit {
            return Err(format!(
                "{} events are more than the {limit} that one command may have \
                 (`persistence.max-events-per-write`)",
                body.events.len()
            )
            .into());
        }
        let mut events = Vec::with_capacity(body.events.len());
        for (index, event) in body.events.iter().enumerate() {
            let payload = catch_unwind(AssertUnwindSafe(|| entity.event_codec.encode(event)))
                .map_err(|panic| panic_message(&*panic))?
                .map_err(|error| chain(&error))?;
            let limit = core.settings.event_bytes;
            if payload.bytes.len() > limit {
                return Err(format!(
                    "an event of {} bytes is larger than {limit} (`persistence.max-event-bytes`)",
                    payload.bytes.len()
                )
                .into());
            }
            let mut new = NewEvent::new(payload);
            new.metadata = body.metadata.get(index).cloned().flatten();
            if entity.kept == Kept::State {
                if new.metadata.is_some() {
                    return Err("only its state is kept, which has no place for metadata".into());
                }
                // It takes the place of metadata on its way to the store.
                new.metadata = self.change_event(entity, core, body, index)?;
            }
            events.push(new);
        }
        AtomicWrite::new(
            self.address.persistence_id().clone(),
            self.writer,
            self.seq_nr.next(),
            events,
        )
        .map_err(|error| chain(&error))
    }

    /// What tells of the change with this index, if something is to.
    fn change_event(
        &self,
        entity: &EntityDef<E>,
        core: &Core,
        body: &Body<E>,
        index: usize,
    ) -> Result<Option<SerializedPayload>, Arc<str>> {
        let Some(tell) = &entity.tell else {
            return Ok(None);
        };
        let earlier = index.checked_sub(1).map(|earlier| &body.events[earlier]);
        let told = catch_unwind(AssertUnwindSafe(|| {
            tell(&self.state, earlier, &body.events[index])
        }));
        let payload = told
            .map_err(|panic| panic_message(&*panic))?
            .map_err(|error| chain(&error))?;
        let limit = core.settings.event_bytes;
        if payload.bytes.len() > limit {
            return Err(format!(
                "a change event of {} bytes is larger than {limit} (`persistence.max-event-bytes`)",
                payload.bytes.len()
            )
            .into());
        }
        Ok(Some(payload))
    }

    /// The state as a snapshot, if the events since `before` make one due or the entity `wants`
    /// one.
    fn due_snapshot(
        &mut self,
        entity: &EntityDef<E>,
        before: SequenceNr,
        wants: bool,
    ) -> Option<DueSnapshot> {
        let every = entity.config.snapshot_every;
        let retention = before
            .value()
            .checked_div(every)
            .zip(self.seq_nr.value().checked_div(every))
            .is_some_and(|(before, after)| before < after);
        if !(retention || wants) || !entity.recovery.is_whole() {
            return None;
        }
        // One at a time: the next one that is due covers this one.
        let under_way = !matches!(self.upkeep, Upkeep::None)
            || self.in_flight.iter().any(|write| write.snapshot.is_some());
        if under_way {
            return None;
        }
        let payload = self.encode_state(entity)?;
        Some(DueSnapshot { payload, retention })
    }

    /// Takes the events of a write for those who want to be told of them when it is stored.
    fn keep_for_subscribers(
        &self,
        entity: &EntityDef<E>,
        body: &mut Body<E>,
        first: SequenceNr,
    ) -> Option<Box<dyn Unpublished>> {
        let publisher = entity.publisher.as_ref()?;
        let is_wanted = publisher.is_wanted(self.address.registry().topics());
        is_wanted.then(|| publisher.keep(body.events.drain(..).collect(), first))
    }

    fn encode_state(&mut self, entity: &EntityDef<E>) -> Option<SerializedPayload> {
        let codec = entity.state_codec.as_ref()?;
        let encoded = catch_unwind(AssertUnwindSafe(|| codec.encode(&self.state)));
        let error = match encoded {
            Ok(Ok(payload)) => return Some(payload),
            Ok(Err(error)) => chain(&error),
            Err(panic) => panic_message(&*panic),
        };
        tracing::warn!(
            persistence_id = %self.address.persistence_id(),
            seq_nr = self.seq_nr.value(),
            %error,
            "the state cannot be encoded, no snapshot is taken"
        );
        let seq_nr = self.seq_nr;
        let reason = error.to_string();
        self.remember(entity, Signal::SnapshotFailed { seq_nr, reason });
        None
    }

    /// Lets a reply without events out, once what it saw is durable.
    fn hold(&mut self, core: &Core, command: Box<dyn Queued<E>>) {
        #[cfg(feature = "defects")]
        if core.defects.show_tentative_state {
            command.release();
            return;
        }
        let _ = core;
        match self.in_flight.back_mut() {
            Some(write) => write.waiters.push(command),
            None => command.release(),
        }
    }

    /// What a command wants to happen once everything before it is durable.
    fn after(&mut self, entity: &EntityDef<E>, core: &mut Core, body: Body<E>) {
        if body.is_barrier() {
            self.set_barrier(
                entity,
                core,
                Barrier {
                    actions: body.actions,
                    stop: body.stop,
                    later: None,
                },
            );
        }
    }

    fn set_barrier(&mut self, entity: &EntityDef<E>, core: &mut Core, barrier: Barrier<E>) {
        self.barrier = Some(Box::new(barrier));
        if self.in_flight.is_empty() {
            self.pass_barrier(entity, core);
            self.tell(entity, core);
        }
    }

    /// Everything before the barrier is durable.
    fn pass_barrier(&mut self, entity: &EntityDef<E>, core: &mut Core) {
        let Some(barrier) = self.barrier.take() else {
            return;
        };
        for action in barrier.actions {
            match action {
                Action::Run(action) => {
                    let ran = self.call(entity, core, |state, cx| action(state, cx));
                    if let Err(message) = ran {
                        self.panicked(entity, core, None, "then_run", message);
                        return;
                    }
                }
                Action::UnstashAll => self.unstash_all(),
                Action::DeleteEvents(to) => self.delete_events(entity, core, to),
                Action::Machine(action) => {
                    if let Err(message) = self.with_machine(entity, core, action) {
                        self.panicked(entity, core, None, "entered", message);
                        return;
                    }
                }
            }
        }
        if let Some((command, work)) = barrier.later {
            self.start_later(core, command, work);
        }
        if barrier.stop {
            self.give_up(core, Next::Stop);
        }
    }

    /// Runs code about the entity's machine, if it is one.
    fn with_machine(
        &mut self,
        entity: &EntityDef<E>,
        core: &mut Core,
        action: impl FnOnce(&mut dyn Machine<E>, &E, &Cx<'_, E>),
    ) -> Result<(), Arc<str>> {
        let Some(mut machine) = self.machine.take() else {
            return Ok(());
        };
        let done = self.call(entity, core, |state, cx| action(&mut *machine.0, state, cx));
        self.machine = Some(machine);
        done
    }

    fn unstash_all(&mut self) {
        while let Some(command) = self.stash.pop_back() {
            self.queue.push_front(command);
        }
    }

    fn start_later(&mut self, core: &mut Core, command: Box<dyn Queued<E>>, work: LaterWork) {
        if core.open_laters >= core.settings.laters {
            let is_last = command.is_last();
            command.fail(core.busy("the number of open futures", Bounded::LaterLimit));
            if is_last {
                self.give_up(core, Next::Stop);
            }
            return;
        }
        if let (Some(key), Some(known)) = (command.command_key(), &mut self.commands) {
            known.begin(key.id.clone());
        }
        core.open_laters += 1;
        let token = core.next_later();
        core.out.laters.push(LaterRequest {
            key: self.key,
            token,
            work: command.call(!work.interleaved).of_work(work.work),
            timeout: work.timeout.unwrap_or(core.settings.later_timeout),
        });
        self.laters.push(OpenLater {
            token,
            since: core.now,
            interleaved: work.interleaved,
            command,
        });
    }

    /// The future of a `later` has ended.
    pub(crate) fn later_done(&mut self, core: &mut Core, done: LaterDone) {
        let Some(at) = self.laters.iter().position(|open| open.token == done.token) else {
            return;
        };
        let OpenLater {
            mut command,
            interleaved,
            ..
        } = self.laters.swap_remove(at);
        self.last_active = core.now;
        match done.output {
            Ok(output) => {
                command.arrive(output);
                // A continuation at the front may be one that all other commands wait for.
                let first = self.queue.front();
                let waits = interleaved && first.is_some_and(|first| first.has_arrived());
                self.queue.insert(usize::from(waits), command);
            }
            Err(failure) => {
                let key = command.command_key().cloned();
                let is_last = command.is_last();
                command.fail(AskError::Unknown {
                    reason: match failure {
                        LaterFailure::Panicked => "the command's future panicked",
                        LaterFailure::TimedOut => "the command's future took too long",
                    },
                });
                if is_last {
                    self.give_up(core, Next::Stop);
                }
                if let Some(key) = key {
                    self.end_first(&key.id);
                    self.let_repetitions_go_on();
                }
            }
        }
    }

    /// Runs user code that looks at the state, and carries out what it asked of its timers.
    fn call<T>(
        &mut self,
        entity: &EntityDef<E>,
        core: &mut Core,
        code: impl FnOnce(&E, &Cx<'_, E>) -> T,
    ) -> Result<T, Arc<str>> {
        let timer_ops = RefCell::new(Vec::new());
        let cx = Cx {
            address: &self.address,
            seq_nr: self.seq_nr,
            services: entity.services.as_ref(),
            now: core.wall,
            entry: self.entries,
            timer_ops: &timer_ops,
        };
        let result = catch_unwind(AssertUnwindSafe(|| code(&self.state, &cx)));
        match result {
            Ok(value) => {
                for op in timer_ops.into_inner() {
                    self.set_timer(core, op);
                }
                Ok(value)
            }
            Err(panic) => Err(panic_message(&*panic)),
        }
    }

    fn set_timer(&mut self, core: &mut Core, op: TimerOp<E>) {
        match op {
            TimerOp::Start { .. } if core.draining => {}
            TimerOp::Start {
                key,
                delay,
                period,
                make,
            } => {
                self.cancel_timer(core, &key);
                let token = core.next_later();
                let due = core.start_cell_timer(delay, self.key, CellTimer::User(token));
                self.timers.retain(|timer| !timer.is_over());
                self.timers.push(UserTimer {
                    key,
                    token,
                    due,
                    period,
                    make,
                    fired: None,
                });
            }
            TimerOp::Cancel(key) => self.cancel_timer(core, &key),
            TimerOp::CancelAll => self.cancel_own_timers(core),
        }
    }

    fn cancel_timer(&mut self, core: &mut Core, key: &str) {
        self.cancel_timers_if(core, |of| of == key);
    }

    /// Cancels the timers that the entity's code has started, but not that of a machine's state.
    fn cancel_own_timers(&mut self, core: &mut Core) {
        self.cancel_timers_if(core, |key| key != STATE_TIMEOUT);
    }

    /// Cancels all timers of the entity.
    pub(crate) fn cancel_timers(&mut self, core: &mut Core) {
        self.cancel_timers_if(core, |_| true);
    }

    /// Cancels the timers with such keys, and what they have sent.
    fn cancel_timers_if(&mut self, core: &mut Core, is_meant: impl Fn(&str) -> bool) {
        let meant = self.timers.extract_if(.., |timer| is_meant(&timer.key));
        let left = meant.map(|timer| timer.cancel(core)).filter(|left| *left);
        if left.count() > 0 {
            self.forget_abandoned();
        }
    }

    /// Takes what need not be handled any more out of the queue, so that it keeps nobody here.
    fn forget_abandoned(&mut self) {
        let mut places = 0;
        self.queue.retain_mut(|command| {
            let is_over =
                command.is_abandoned() && !command.has_arrived() && command.command_key().is_none();
            if is_over {
                places += usize::from(command.take_place());
            }
            !is_over
        });
        self.address.leave_queue(places);
    }

    /// A timer of the cell has fired.
    pub(crate) fn timer(&mut self, entity: &EntityDef<E>, core: &mut Core, timer: CellTimer) {
        match (timer, &mut self.phase) {
            (CellTimer::Backoff, Phase::Backoff { .. }) => {
                self.enter(core, Phase::Down);
                if !self.queue.is_empty() {
                    self.want_recovery(core);
                }
            }
            (CellTimer::Read, Phase::Recovering(recovering)) => {
                if let Some(part) = recovering.ask_again.take() {
                    recovering.ask(core, self.key, self.address.persistence_id(), part);
                }
            }
            (CellTimer::RecoveryTimeout, Phase::Recovering(_)) => {
                let reason = format!(
                    "the store gave no answer within {:?} (`recovery-timeout`)",
                    entity.config.recovery_timeout
                );
                self.recovery_failed(entity, core, None, reason.into());
            }
            // What was held back as the store was away comes as for a recovery.
            (CellTimer::Replies | CellTimer::Read, Phase::Ready) => {
                if let Some(known) = &self.commands
                    && known.is_reading()
                {
                    let failures = known.failures();
                    self.ask_for_replies(entity, core, failures);
                }
            }
            (CellTimer::Leave, Phase::Ready) => self.force_end(entity, core),
            (CellTimer::User(token), Phase::Ready) => {
                let Some(at) = self.timers.iter().position(|timer| timer.token == token) else {
                    return;
                };
                let timer = &mut self.timers[at];
                if let Some(period) = timer.period {
                    timer.due = core.start_cell_timer(period, self.key, CellTimer::User(token));
                }
                // What the entity cannot keep up with would pile up for ever.
                if timer.is_waiting() {
                    return;
                }
                let address = &self.address;
                let made = catch_unwind(AssertUnwindSafe(|| (timer.make)(address)));
                match made {
                    Ok(Some((command, fired))) => {
                        timer.fired = Some(fired);
                        self.queue.push_back(command);
                    }
                    Ok(None) => {}
                    Err(panic) => {
                        self.panicked(entity, core, None, "clone", panic_message(&*panic));
                    }
                }
            }
            _ => {}
        }
    }

    /// What is known of the event before the write that is sent next; `None` if nothing more may
    /// be written.
    pub(crate) fn previous(&mut self, core: &Core, has_events: bool) -> Option<Previous> {
        let previous = self.previous;
        if has_events {
            // It has no time yet, for a second write in the same batch.
            self.previous = Previous::Unknown;
        }
        #[cfg(feature = "defects")]
        if core.defects.keep_later_writes {
            return Some(previous);
        }
        let _ = core;
        (!self.is_doomed()).then_some(previous)
    }

    /// Whether an earlier write has failed, so that nothing built on it may be stored.
    pub(crate) fn is_doomed(&self) -> bool {
        matches!(
            self.phase,
            Phase::Draining(Next::Restart { doomed: true, .. } | Next::Move { doomed: true })
        )
    }

    /// A gathered write was not sent because an earlier one failed.
    pub(crate) fn overtaken(&mut self, core: &mut Core, gathered: Gathered) {
        self.take_back(core, gathered.number, gathered.held, None);
        self.drained(core);
    }

    /// The fate of a write is known.
    pub(crate) fn settled(
        &mut self,
        entity: &EntityDef<E>,
        core: &mut Core,
        item: WriteItem,
        outcome: Settled,
    ) {
        self.last_active = core.now;
        match outcome {
            Settled::Stored(written) => {
                let stored = &core.stats.types[self.key.host].stored;
                stored.fetch_add(item.events, Ordering::Relaxed);
                if item.events > 0 {
                    self.previous = Previous::At(written.timestamp);
                }
                if let Some(held) = item.held {
                    held.release();
                }
                while self
                    .in_flight
                    .front()
                    .is_some_and(|write| write.number <= item.write)
                    && let Some(write) = self.in_flight.pop_front()
                {
                    for waiter in write.waiters {
                        waiter.release();
                    }
                    if !write.reminders.is_empty() {
                        let id = self.address.persistence_id();
                        core.reminders.stored(self.key.host, id, &write.reminders);
                    }
                    if let Some(events) = write.unpublished {
                        events.publish(self.address.persistence_id(), written.timestamp);
                    }
                    if let Some(snapshot) = write.snapshot {
                        self.save(entity, core, write.last, snapshot);
                    }
                }
                self.tidy_replies(core);
            }
            // The journal refuses what follows a refused write of the same batch with it; to its
            // caller it is as if it had never been sent.
            Settled::Refused {
                maybe_stored: false,
                ..
            } if self.is_doomed() => self.take_back(core, item.write, item.held, None),
            Settled::Refused {
                error,
                maybe_stored,
            } => {
                let kind = match error {
                    Error::Conflict { .. }
                    | Error::Superseded { .. }
                    | Error::StaleRevision { .. }
                    | Error::CommandTaken { .. } => PersistFailure::Conflict,
                    _ => PersistFailure::Rejected,
                };
                let failure = self.persist_failed(kind, chain(&error));
                if !self.is_doomed() {
                    self.note_failure(core);
                    tracing::warn!(
                        persistence_id = %self.address.persistence_id(),
                        seq_nr = item.last.value(),
                        error = %chain(&error),
                        maybe_stored,
                        "events were not stored, the entity recovers"
                    );
                    self.remember(
                        entity,
                        match kind {
                            PersistFailure::Rejected => Signal::PersistRejected(failure.clone()),
                            _ => Signal::PersistFailed(failure.clone()),
                        },
                    );
                }
                let failure = if maybe_stored {
                    AskError::Unknown {
                        reason: "another writer was there before it was known whether the events \
                                 were stored, and what it left does not tell",
                    }
                } else {
                    AskError::PersistFailed(failure)
                };
                self.take_back(core, item.write, item.held, Some(failure));
                self.give_up(core, NOT_STORED);
            }
            Settled::GivenUp {
                error,
                maybe_stored,
            } => {
                if !self.is_doomed() {
                    self.note_failure(core);
                    tracing::error!(
                        persistence_id = %self.address.persistence_id(),
                        seq_nr = item.last.value(),
                        error = %chain(&error),
                        maybe_stored,
                        "the store was not available for too long, the entity recovers"
                    );
                    let failure = self.persist_failed(PersistFailure::Unavailable, chain(&error));
                    self.remember(entity, Signal::PersistFailed(failure));
                }
                let failure = if maybe_stored {
                    AskError::Unknown {
                        reason: "the store could not say whether the events were stored",
                    }
                } else {
                    self.not_stored(PersistFailure::Unavailable, chain(&error))
                };
                self.take_back(core, item.write, item.held, Some(failure));
                self.give_up(core, NOT_STORED);
            }
        }
        self.drained(core);
        if self.in_flight.is_empty() && self.is_ready() {
            self.pass_barrier(entity, core);
            self.tell(entity, core);
        }
    }

    /// Keeps a signal for the entity, if its type takes signals.
    fn remember(&mut self, entity: &EntityDef<E>, signal: Signal) {
        if entity.on_signal.is_some() {
            self.signals.push_back(signal);
        }
    }

    /// Tells the entity what is to be told, once everything that its state says is stored.
    fn tell(&mut self, entity: &EntityDef<E>, core: &mut Core) {
        let Some(on_signal) = &entity.on_signal else {
            return;
        };
        while self.is_ready()
            && self.in_flight.is_empty()
            && let Some(signal) = self.signals.pop_front()
        {
            let told = self.call(entity, core, |state, cx| on_signal(state, &signal, cx));
            if let Err(message) = told {
                self.panicked(entity, core, None, "on_signal", message);
            }
        }
    }

    /// Fails a write that is not stored, and the replies that saw its state.
    fn take_back(
        &mut self,
        core: &mut Core,
        number: u64,
        held: Option<Box<dyn Held>>,
        failure: Option<AskError>,
    ) {
        let earlier = self.not_stored(PersistFailure::Earlier, BUILT_ON_FAILED.into());
        let is_open = matches!(failure, Some(AskError::Unknown { .. }));
        if let Some(held) = held {
            held.fail(failure.unwrap_or_else(|| earlier.clone()));
        }
        let mut writes = self.in_flight.iter();
        if let Some(at) = writes.position(|write| write.number == number)
            && let Some(write) = self.in_flight.remove(at)
        {
            if is_open && !write.reminders.is_empty() {
                let id = self.address.persistence_id();
                core.reminders.doubt(self.key.host, id, &write.reminders);
            }
            for waiter in write.waiters {
                waiter.fail(earlier.clone());
            }
        }
    }

    fn persist_failed(&self, kind: PersistFailure, reason: Arc<str>) -> PersistFailed {
        PersistFailed {
            persistence_id: self.address.persistence_id().clone(),
            kind,
            reason,
        }
    }

    fn not_stored(&self, kind: PersistFailure, reason: Arc<str>) -> AskError {
        AskError::PersistFailed(self.persist_failed(kind, reason))
    }

    /// Goes on if nothing is in flight any more.
    fn drained(&mut self, core: &mut Core) {
        if self.in_flight.is_empty()
            && let Phase::Draining(next) = self.phase
        {
            self.begin_again(core, next);
        }
    }

    fn panicked(
        &mut self,
        entity: &EntityDef<E>,
        core: &mut Core,
        command: Option<Box<dyn Queued<E>>>,
        place: &'static str,
        message: Arc<str>,
    ) {
        tracing::error!(
            persistence_id = %self.address.persistence_id(),
            place,
            error = %message,
            "the entity panicked, it will be restarted"
        );
        if let Some(command) = command {
            command.fail(AskError::Panicked {
                persistence_id: self.address.persistence_id().clone(),
                place,
                message,
            });
        }
        let after = self.next_backoff(entity, core);
        self.give_up(
            core,
            Next::Restart {
                after,
                doomed: false,
            },
        );
    }

    fn note_failure(&self, core: &Core) {
        let failures = &core.stats.types[self.key.host].failures;
        failures.fetch_add(1, Ordering::Relaxed);
    }

    /// The time until the next start; it grows from failure to failure, until the entity has run
    /// for as long as it can be.
    fn next_backoff(&mut self, entity: &EntityDef<E>, core: &mut Core) -> Duration {
        self.note_failure(core);
        let config = &entity.config;
        let ran_for = core.now.saturating_sub(self.phase_since);
        if matches!(self.phase, Phase::Ready) && ran_for >= config.restart_max {
            self.failures = 0;
        }
        let after = core.backoff(self.failures, config.restart_min, config.restart_max);
        self.failures = self.failures.saturating_add(1);
        after
    }

    /// Handles nothing more. What is in flight is still awaited, unless it is doomed.
    fn give_up(&mut self, core: &mut Core, next: Next) {
        if let Some(barrier) = self.barrier.take()
            && let Some((command, _)) = barrier.later
        {
            // Its future has not started.
            command.fail(self.not_stored(PersistFailure::Earlier, BUILT_ON_FAILED.into()));
        }
        let lost = AskError::Unknown {
            reason: "the entity stopped while the command's future was running",
        };
        for later in self.laters.drain(..) {
            later.command.fail(lost.clone());
        }
        // Their futures have run, so what waits for its continuation is not as good as new.
        if self.queue.iter().any(|command| command.has_arrived()) {
            for command in std::mem::take(&mut self.queue) {
                if command.has_arrived() {
                    command.fail(lost.clone());
                } else {
                    self.queue.push_back(command);
                }
            }
        }
        self.cancel_timers(core);
        let next = match (&self.phase, next) {
            // A write failed while a panic's backoff was coming.
            (Phase::Draining(Next::Restart { after, .. }), Next::Restart { doomed, .. }) => {
                Next::Restart {
                    after: *after,
                    doomed,
                }
            }
            // A write failed while the entity was leaving.
            (Phase::Draining(Next::Move { .. }), Next::Restart { doomed, .. }) => {
                Next::Move { doomed }
            }
            (_, next) => next,
        };
        self.enter(core, Phase::Draining(next));
        self.drained(core);
    }

    /// Nothing is in flight any more: becomes what it was to become.
    fn begin_again(&mut self, core: &mut Core, next: Next) {
        self.unstash_all();
        let leaves = self.end_leaving(core);
        if let Err(reason) = self.forget_state(core) {
            let failure = RecoveryFailed {
                persistence_id: self.address.persistence_id().clone(),
                seq_nr: None,
                reason,
            };
            tracing::error!(
                persistence_id = %failure.persistence_id,
                error = %failure.reason,
                "the entity panicked while it was being restarted"
            );
            self.refuse_all(&AskError::RecoveryFailed(failure));
            self.enter(core, Phase::Stopped);
            return;
        }
        match next {
            Next::Stop if self.queue.is_empty() => self.enter(core, Phase::Stopped),
            Next::Restart { .. } if (core.draining || leaves) && self.queue.is_empty() => {
                self.enter(core, Phase::Stopped);
            }
            Next::Restart { after, .. } if !after.is_zero() => {
                if core.draining {
                    self.refuse_all(&AskError::Stopped);
                }
                self.back_off(core, after, None);
            }
            Next::Move { .. } => self.enter(core, Phase::Left),
            Next::Stop | Next::Restart { .. } => self.want_recovery(core),
        }
    }

    /// Whether the entity has nothing under way but writes, so that it may go to another worker.
    /// What an entity is about to do at its time would be lost on the way.
    pub(crate) fn may_move(&self) -> bool {
        matches!(self.phase, Phase::Ready | Phase::Waiting)
            && self.leaving.is_none()
            && self.barrier.is_none()
            && self.laters.is_empty()
            && self.signals.is_empty()
            && self.deletions.is_empty()
            && matches!(self.upkeep, Upkeep::None)
            && self.timers.iter().all(UserTimer::is_over)
            && self.in_flight.iter().all(|write| write.snapshot.is_none())
            && !self.queue.iter().any(|command| command.has_arrived())
    }

    /// The entity goes to another worker: handles nothing more here. Gives how many of the admitted
    /// commands are here already.
    pub(crate) fn leave_for_another_worker(&mut self, core: &mut Core) -> usize {
        // Before it gives up: with a state that cannot be dropped nothing is left afterwards.
        let repetitions = self
            .commands
            .as_ref()
            .map_or(0, |known| known.with_places());
        let queued = self.queue.iter().filter(|command| command.has_place());
        let here = queued.count() + repetitions;
        self.give_up(core, Next::Move { doomed: false });
        here
    }

    /// What is still to be told to the entity.
    pub(crate) fn take_signals(&mut self) -> VecDeque<Signal> {
        std::mem::take(&mut self.signals)
    }

    /// What an earlier cell of the entity has not been told.
    pub(crate) fn add_signals(&mut self, signals: VecDeque<Signal>) {
        self.signals.extend(signals);
    }

    /// Something that was sent here before the entity left.
    pub(crate) fn arrived_late(&mut self, command: Box<dyn Queued<E>>) {
        self.queue.push_back(command);
    }

    /// What goes with the entity to its new worker.
    pub(crate) fn take_queue(&mut self) -> VecDeque<Box<dyn Queued<E>>> {
        std::mem::take(&mut self.queue)
    }

    /// Becomes another incarnation, whose state is not known yet. What is still under way for the
    /// old one does not reach this one.
    ///
    /// # Errors
    /// The panic of the old state's destructor or the new one's `Default`; the cell is to be
    /// forgotten then.
    fn forget_state(&mut self, core: &mut Core) -> Result<(), Arc<str>> {
        if let Some(known) = self.commands.take() {
            let (known, waiting) = known.begin_again();
            self.commands = Some(Box::new(known));
            for command in waiting.into_iter().rev() {
                self.queue.push_front(command);
            }
        }
        self.key.incarnation = core.next_incarnation();
        self.scheduled = false;
        self.writer = core.new_writer();
        self.seq_nr = SequenceNr::ZERO;
        self.previous = Previous::Unknown;
        if let Some(machine) = &mut self.machine {
            machine.0.begin_again();
        }
        catch_unwind(AssertUnwindSafe(|| self.state = E::default()))
            .map_err(|panic| panic_message(&*panic))
    }

    fn refuse_all(&mut self, error: &AskError) {
        self.unstash_all();
        for command in self.queue.drain(..) {
            command.fail(error.clone());
        }
    }

    /// A phase begins.
    fn enter(&mut self, core: &Core, phase: Phase) {
        self.phase = phase;
        self.phase_since = core.now;
    }

    /// Waits before it begins anew.
    fn back_off(&mut self, core: &mut Core, after: Duration, failure: Option<Box<RecoveryFailed>>) {
        let until = core.now.saturating_add(after);
        self.enter(core, Phase::Backoff { until, failure });
        core.start_cell_timer(after, self.key, CellTimer::Backoff);
    }

    fn want_recovery(&mut self, core: &mut Core) {
        self.enter(core, Phase::Waiting);
        core.want_permit(self.key, !self.queue.is_empty());
    }

    fn start_recovery(&mut self, entity: &EntityDef<E>, core: &mut Core) {
        if !core.take_permit() {
            self.want_recovery(core);
            return;
        }
        let gaps = if entity.state_codec.is_some() && entity.recovery.reads_snapshots() {
            Gaps::Suspected
        } else {
            Gaps::Accepted
        };
        self.begin_recovery(entity, core, gaps);
    }

    /// Asks for the beginning of the entity's history.
    fn begin_recovery(&mut self, entity: &EntityDef<E>, core: &mut Core, gaps: Gaps) {
        let snapshots = entity.state_codec.is_some();
        let start = |snapshot| Part::Start {
            snapshot,
            from: SequenceNr::ZERO,
        };
        let part = match entity.recovery {
            Recovery::Latest => start(snapshots.then_some(SnapshotCriteria::ANY)),
            Recovery::FromSnapshot(criteria) => start(snapshots.then_some(criteria)),
            Recovery::WithoutSnapshot => start(None),
            Recovery::FromSequenceNr(from) => Part::Start {
                snapshot: None,
                from,
            },
            Recovery::LastEvent => Part::Last,
            Recovery::Disabled => Part::Highest,
        };
        let mut recovering = Recovering::new(entity.store, entity.config.recovery_timeout, gaps);
        recovering.ask(core, self.key, self.address.persistence_id(), part);
        self.enter(core, Phase::Recovering(Box::new(recovering)));
    }

    /// A part of the entity's history has come.
    pub(crate) fn read_done(&mut self, entity: &EntityDef<E>, core: &mut Core, read: ReadDone) {
        if matches!(read.request.part, Part::Replies { .. }) {
            self.replies_read(entity, core, read.result);
            return;
        }
        let Phase::Recovering(recovering) = &mut self.phase else {
            return;
        };
        recovering.wait_no_more(core);
        let id = self.address.persistence_id();
        let PageRead { snapshot, page, .. } = match read.result {
            Ok(read) => read,
            Err(error) if error.is_retryable() => {
                // An outage meets every entity that recovers; one of them tells of it.
                if !std::mem::replace(&mut core.reads_fail, true) {
                    tracing::warn!(persistence_id = %id, error = %chain(&error),
                        "the store is not available for recovery, it will be asked again");
                } else if recovering.failures == 0 {
                    tracing::debug!(persistence_id = %id, error = %chain(&error),
                        "the store is still not available for recovery");
                }
                let (min, max) = core.settings.retry;
                let delay = core.backoff(recovering.failures, min, max);
                recovering.failures = recovering.failures.saturating_add(1);
                recovering.ask_again = Some(read.request.part);
                core.start_cell_timer(delay, self.key, CellTimer::Read);
                return;
            }
            Err(error) => {
                let seq_nr = match &error {
                    Error::Corrupt { seq_nr, .. } => Some(*seq_nr),
                    _ => None,
                };
                self.recovery_failed(entity, core, seq_nr, chain(&error));
                return;
            }
        };
        recovering.failures = 0;
        core.reads_fail = false;
        if matches!(read.request.part, Part::Start { .. }) {
            recovering.found = snapshot.as_ref().map(|snapshot| snapshot.seq_nr);
            if let Gaps::SuspectedUnlessFrom(before) = recovering.gaps {
                recovering.gaps = if recovering.found == before {
                    Gaps::Accepted
                } else {
                    Gaps::Suspected
                };
            }
        }
        if let Some((snapshot, codec)) = snapshot.zip(entity.state_codec.as_ref()) {
            let decoded = catch_unwind(AssertUnwindSafe(|| codec.decode(&snapshot.payload)));
            let reason = match decoded {
                Ok(Ok(state)) => {
                    self.state = state;
                    self.seq_nr = snapshot.seq_nr;
                    recovering.snapshot = Some(snapshot.seq_nr);
                    recovering.take_page(core, self.key, id, page);
                    return;
                }
                Ok(Err(error)) => chain(&error),
                Err(panic) => panic_message(&*panic),
            };
            tracing::warn!(
                persistence_id = %id,
                seq_nr = snapshot.seq_nr.value(),
                error = %reason,
                "the snapshot cannot be decoded, all events are replayed instead"
            );
            recovering.skipped = Some((snapshot.seq_nr, reason));
            let from = SequenceNr::ZERO;
            recovering.ask(core, self.key, id, Part::Page { from });
            return;
        }
        recovering.take_page(core, self.key, id, page);
    }

    /// Applies what has been read, within the turn's budget.
    fn replay(&mut self, entity: &EntityDef<E>, core: &mut Core) {
        /// Events between two looks at the clock.
        const CHUNK: usize = 64;
        let end = core.now.saturating_add(core.settings.turn_budget);
        while core.now < end {
            let Phase::Recovering(recovering) = &mut self.phase else {
                return;
            };
            if !recovering.applying
                && !recovering.begin_next_page(core, self.key, self.address.persistence_id())
            {
                return;
            }
            let state = &mut self.state;
            let seq_nr = &mut self.seq_nr;
            let applied = catch_unwind(AssertUnwindSafe(|| {
                recovering.apply(CHUNK, entity, state, seq_nr)
            }))
            .unwrap_or_else(|panic| Err(Stopped::Failed(panic_message(&*panic))));
            if let Err(stopped) = applied {
                let at = self.seq_nr.next();
                self.stop_replay(entity, core, at, stopped);
                return;
            }
            core.look_at_clock();
            if recovering.events.len() == 0 {
                recovering.applying = false;
                if let Err((at, stopped)) = recovering.end_page(&mut self.seq_nr) {
                    self.stop_replay(entity, core, at, stopped);
                    return;
                }
                if let Some(timestamp) = recovering.highest_timestamp {
                    self.previous = Previous::At(timestamp);
                }
                if !recovering.more {
                    self.recovered(entity, core);
                    return;
                }
            }
        }
    }

    /// The replay cannot go on at the event `at`.
    fn stop_replay(
        &mut self,
        entity: &EntityDef<E>,
        core: &mut Core,
        at: SequenceNr,
        stopped: Stopped,
    ) {
        let reason = match stopped {
            Stopped::Failed(reason) => reason,
            Stopped::Gap => {
                let Phase::Recovering(recovering) = &mut self.phase else {
                    return;
                };
                recovering.wait_no_more(core);
                let found = recovering.found;
                tracing::debug!(
                    persistence_id = %self.address.persistence_id(),
                    seq_nr = at.value(),
                    "events are missing, looking for a newer snapshot"
                );
                match self.forget_state(core) {
                    Ok(()) => {
                        let gaps = Gaps::SuspectedUnlessFrom(found);
                        return self.begin_recovery(entity, core, gaps);
                    }
                    Err(reason) => reason,
                }
            }
        };
        self.recovery_failed(entity, core, Some(at), reason);
    }

    fn recovered(&mut self, entity: &EntityDef<E>, core: &mut Core) {
        let Phase::Recovering(recovering) = std::mem::replace(&mut self.phase, Phase::Ready) else {
            return;
        };
        core.return_permit();
        if self.seq_nr == SequenceNr::ZERO {
            self.previous = Previous::None;
        }
        self.phase_since = core.now;
        self.last_active = core.now;
        let replayed = recovering.replayed;
        core.stats.recovered.fetch_add(1, Ordering::Relaxed);
        core.stats.replayed.fetch_add(replayed, Ordering::Relaxed);
        let of_type = &core.stats.types[self.key.host];
        of_type.recovered.fetch_add(1, Ordering::Relaxed);
        of_type.replayed.fetch_add(replayed, Ordering::Relaxed);
        tracing::debug!(
            persistence_id = %self.address.persistence_id(),
            seq_nr = self.seq_nr.value(),
            events = recovering.replayed,
            "recovered"
        );
        let every = entity.config.snapshot_every;
        if every > 0
            && recovering.replayed >= every
            && entity.recovery.is_whole()
            && matches!(self.upkeep, Upkeep::None)
            && let Some(payload) = self.encode_state(entity)
        {
            // No events are deleted for it: that is the retention's part.
            let retention = false;
            self.save(
                entity,
                core,
                self.seq_nr,
                DueSnapshot { payload, retention },
            );
        }
        self.entries += 1;
        let begun = self.with_machine(entity, core, |machine, state, cx| {
            machine.recovered(state, cx);
        });
        if let Err(message) = begun {
            return self.panicked(entity, core, None, "state_timeout", message);
        }
        self.remember(
            entity,
            Signal::RecoveryCompleted {
                snapshot: recovering.snapshot,
                replayed: recovering.replayed,
            },
        );
        self.tell(entity, core);
    }

    fn recovery_failed(
        &mut self,
        entity: &EntityDef<E>,
        core: &mut Core,
        seq_nr: Option<SequenceNr>,
        reason: Arc<str>,
    ) {
        let failure = RecoveryFailed {
            persistence_id: self.address.persistence_id().clone(),
            seq_nr,
            reason,
        };
        let after = self.next_backoff(entity, core);
        tracing::error!(
            persistence_id = %failure.persistence_id,
            seq_nr = failure.seq_nr.map(SequenceNr::value),
            error = %failure.reason,
            retry_ms = after.as_millis(),
            "recovery failed"
        );
        core.return_permit();
        if let Phase::Recovering(recovering) = &mut self.phase {
            recovering.wait_no_more(core);
        }
        self.refuse_all(&AskError::RecoveryFailed(failure.clone()));
        if self.forget_state(core).is_err() {
            self.enter(core, Phase::Stopped);
            return;
        }
        self.back_off(core, after, Some(Box::new(failure.clone())));
        if let Some(on_signal) = &entity.on_signal {
            let signal = Signal::RecoveryFailed(failure);
            let told = self.call(entity, core, |state, cx| on_signal(state, &signal, cx));
            if let Err(message) = told {
                // It waits for its next start already.
                tracing::error!(
                    persistence_id = %self.address.persistence_id(),
                    place = "on_signal",
                    error = %message,
                    "the entity panicked"
                );
            }
        }
    }

    fn save(
        &mut self,
        entity: &EntityDef<E>,
        core: &mut Core,
        seq_nr: SequenceNr,
        snapshot: DueSnapshot,
    ) {
        if !matches!(self.upkeep, Upkeep::None) {
            return;
        }
        let config = &entity.config;
        let delete_to = if snapshot.retention && config.delete_events {
            let kept = config.keep_snapshots.saturating_mul(config.snapshot_every);
            let to = seq_nr.value().saturating_sub(kept);
            SequenceNr::new(to).unwrap_or(SequenceNr::ZERO)
        } else {
            SequenceNr::ZERO
        };
        self.upkeep = Upkeep::Saving {
            incarnation: self.key.incarnation,
            seq_nr,
            delete_to,
        };
        let snapshot = Snapshot {
            persistence_id: self.address.persistence_id().clone(),
            seq_nr,
            write_timestamp: core.wall,
            payload: snapshot.payload,
            metadata: None,
        };
        core.out.snapshots.push((self.key, snapshot));
    }

    /// A snapshot was stored or not.
    pub(crate) fn snapshot_saved(
        &mut self,
        entity: &EntityDef<E>,
        core: &mut Core,
        key: CellKey,
        result: Result<(), Error>,
    ) {
        let Upkeep::Saving {
            incarnation,
            seq_nr,
            delete_to,
        } = self.upkeep
        else {
            return;
        };
        if incarnation != key.incarnation {
            return;
        }
        self.upkeep = Upkeep::None;
        match result {
            Ok(()) => {
                core.stats.snapshots.fetch_add(1, Ordering::Relaxed);
                let of_type = &core.stats.types[self.key.host];
                of_type.snapshots.fetch_add(1, Ordering::Relaxed);
                self.remember(entity, Signal::SnapshotCompleted { seq_nr });
                if delete_to > SequenceNr::ZERO {
                    let token = self.start_deletion(core, delete_to);
                    self.upkeep = Upkeep::Deleting { token };
                }
            }
            Err(error) => {
                tracing::warn!(
                    persistence_id = %self.address.persistence_id(),
                    error = %chain(&error),
                    "the snapshot was not saved; the next one that is due covers it"
                );
                let reason = chain(&error).to_string();
                self.remember(entity, Signal::SnapshotFailed { seq_nr, reason });
            }
        }
        self.tell(entity, core);
    }

    /// Deletes events because a command asked for it.
    fn delete_events(&mut self, entity: &EntityDef<E>, core: &mut Core, to: SequenceNr) {
        if to > self.seq_nr {
            let reason = format!(
                "the last event is {}, so there is none with number {to}",
                self.seq_nr
            );
            tracing::warn!(
                persistence_id = %self.address.persistence_id(),
                error = reason,
                "events were not deleted"
            );
            self.remember(entity, Signal::EventsDeletionFailed { to, reason });
        } else if to > SequenceNr::ZERO {
            self.start_deletion(core, to);
        }
    }

    fn start_deletion(&mut self, core: &mut Core, to: SequenceNr) -> u64 {
        let token = core.next_later();
        self.deletions.push((token, to));
        core.out.deletions.push(Deletion {
            key: self.key,
            token,
            persistence_id: self.address.persistence_id().clone(),
            to,
        });
        token
    }

    /// Events were deleted or not.
    pub(crate) fn events_deleted(
        &mut self,
        entity: &EntityDef<E>,
        core: &mut Core,
        done: DeletionDone,
    ) {
        let ours = |&(token, _): &(u64, SequenceNr)| token == done.token;
        let Some(at) = self.deletions.iter().position(ours) else {
            return;
        };
        let (token, to) = self.deletions.swap_remove(at);
        if matches!(self.upkeep, Upkeep::Deleting { token: last } if last == token) {
            self.upkeep = Upkeep::None;
        }
        match done.result {
            Ok(()) => self.remember(entity, Signal::EventsDeleted { to }),
            Err(error) => {
                let reason = chain(&error).to_string();
                tracing::warn!(
                    persistence_id = %self.address.persistence_id(),
                    to = to.value(),
                    error = reason,
                    "events were not deleted"
                );
                self.remember(entity, Signal::EventsDeletionFailed { to, reason });
            }
        }
        self.tell(entity, core);
    }

    /// Brings the entity back without a command.
    pub(crate) fn wake(&mut self, core: &mut Core) {
        if matches!(self.phase, Phase::Down) {
            self.want_recovery(core);
        }
    }

    /// What is to be seen from outside.
    pub(crate) fn peek(&self) -> Peek<'_, E> {
        Peek {
            state: self.is_ready().then_some(&self.state),
            seq_nr: self.seq_nr,
            failure: match &self.phase {
                Phase::Backoff { failure, .. } => failure.as_deref(),
                _ => None,
            },
            unsettled: self.in_flight.len(),
            stashed: self.stash.len(),
        }
    }

    /// How many commands wait and how many have begun, of those whose callers have no answer yet.
    pub(crate) fn unfinished(&self) -> (usize, usize) {
        let queued = self.queue.iter();
        let arrived = queued.filter(|command| command.has_arrived()).count();
        let writes = self.in_flight.iter();
        let held: usize = writes.map(|write| 1 + write.waiters.len()).sum();
        let barrier = self.barrier.as_ref();
        let later = usize::from(barrier.is_some_and(|barrier| barrier.later.is_some()));
        let waiting = self.queue.len() - arrived + self.stash.len();
        (waiting, held + later + arrived + self.laters.len())
    }

    /// The system stops: what waits for something that will not come any more is refused.
    pub(crate) fn drain(&mut self, core: &mut Core) {
        self.cancel_timers(core);
        match self.phase {
            Phase::Backoff { .. } | Phase::Down => self.refuse_all(&AskError::Stopped),
            // It would recover for nobody, from a store that may not be there.
            Phase::Waiting | Phase::Recovering(_) if self.queue.is_empty() => {
                if let Phase::Recovering(recovering) = &mut self.phase {
                    recovering.wait_no_more(core);
                    core.return_permit();
                }
                self.enter(core, Phase::Stopped);
            }
            _ => {
                for command in self.stash.drain(..) {
                    command.fail(AskError::Stopped);
                }
            }
        }
    }
}

/// Reminders.
impl<E: EventSourced> Cell<E> {
    /// Whether a command is to be handled, if a reminder has sent it: it must still be the one that
    /// the entity has, by what is stored and by what is on its way there.
    fn is_due(&self, core: &mut Core, command: &dyn Queued<E>) -> bool {
        let Some(fired) = command.reminder() else {
            return true;
        };
        // Its future has run.
        if command.has_arrived() {
            return true;
        }
        let changes = self.in_flight.iter().flat_map(|write| &write.reminders);
        let mut of_key = changes.filter(|change| change.key() == fired.key());
        let is_changed = of_key.any(|change| match change {
            ReminderChange::Set(_) => true,
            ReminderChange::Forget { due, .. } => due.is_none_or(|due| due == fired.due()),
        });
        if is_changed {
            let again_at = core.wall.checked_add(core.settings.retry.0);
            let again_at = again_at.unwrap_or(core.wall);
            core.reminders.put_back(self.key.host, fired, again_at);
            return false;
        }
        core.reminders.is_current(self.key.host, fired)
    }

    /// What the effect of a command does to reminders; the one that has sent it is over with it,
    /// unless it is set again.
    ///
    /// # Errors
    /// Why they cannot be stored.
    fn reminder_changes(
        &self,
        entity: &EntityDef<E>,
        core: &Core,
        body: &mut Body<E>,
        command: &dyn Queued<E>,
    ) -> Result<Vec<ReminderChange>, Arc<str>> {
        let fired = command.reminder();
        if body.reminders.is_empty() && fired.is_none() {
            return Ok(Vec::new());
        }
        if entity.kept == Kept::State {
            return Err("only its state is kept, and reminders go with events".into());
        }
        let limit = core.settings.events_per_write;
        if body.reminders.len() > limit {
            return Err(format!(
                "{} reminders are more than the {limit} changes that one command may make \
                 (`persistence.max-events-per-write`)",
                body.reminders.len()
            )
            .into());
        }
        let mut changes = Vec::with_capacity(body.reminders.len() + 1);
        for op in std::mem::take(&mut body.reminders) {
            let key = ReminderKey::new(op.key()).map_err(|error| chain(&error))?;
            changes.push(match op {
                ReminderOp::Forget(_) => ReminderChange::Forget { key, due: None },
                ReminderOp::Remind {
                    due,
                    type_id,
                    type_name,
                    command,
                    ..
                } => {
                    let due = due.at(core.wall);
                    let commands = &entity.commands;
                    let encode = || commands.encode(type_id, &*command, type_name);
                    let payload = catch_unwind(AssertUnwindSafe(encode))
                        .map_err(|panic| panic_message(&*panic))?
                        .map_err(|error| chain(&error))?;
                    let limit = core.settings.event_bytes;
                    if payload.bytes.len() > limit {
                        return Err(format!(
                            "a reminder of {} bytes is larger than {limit} \
                             (`persistence.max-event-bytes`)",
                            payload.bytes.len()
                        )
                        .into());
                    }
                    let new = NewReminder::new(E::TYPE, key, due, payload);
                    ReminderChange::Set(new.map_err(|error| chain(&error))?)
                }
            });
        }
        if let Some(fired) = fired
            && changes.iter().all(|change| change.key() != fired.key())
        {
            changes.push(ReminderChange::Forget {
                key: fired.key().clone(),
                due: Some(fired.due()),
            });
        }
        Ok(changes)
    }

    /// Carries out the effect of a command that persists no event and changes reminders: a write of
    /// its own, between the events before and after it.
    fn change_reminders(
        &mut self,
        entity: &EntityDef<E>,
        core: &mut Core,
        mut command: Box<dyn Queued<E>>,
        body: Body<E>,
        changes: Vec<ReminderChange>,
    ) {
        if let Err(busy) = core.admit(entity.store) {
            return command.fail(busy);
        }
        let write = AtomicWrite::of_reminders(
            self.address.persistence_id().clone(),
            self.writer,
            self.seq_nr.next(),
            changes.clone(),
        );
        let write = match write {
            Ok(write) => write,
            Err(error) => {
                command.fail(self.not_stored(PersistFailure::Rejected, chain(&error)));
                return;
            }
        };
        if command.needs_state()
            && let Err(message) = self.call(entity, core, |state, _| command.compute(state))
        {
            self.panicked(entity, core, Some(command), "reply", message);
            return;
        }
        let in_flight = InFlight {
            number: 0,
            last: self.seq_nr,
            since: core.now,
            has_events: false,
            reminders: changes,
            waiters: Vec::new(),
            snapshot: None,
            unpublished: None,
        };
        self.gather(entity, core, write, command, in_flight);
        self.after(entity, core, body);
    }
}

/// Commands with ids.
impl<E: EventSourced> Cell<E> {
    /// Handles the command at the front, which has an id, unless it was handled before.
    fn handle_once(&mut self, entity: &EntityDef<E>, core: &mut Core, places: &mut usize) {
        let Some(command) = self.queue.front() else {
            return;
        };
        let Some(known) = self.commands.as_mut().filter(|known| known.is_read()) else {
            self.ask_for_replies(entity, core, 0);
            return;
        };
        let Some(key) = command.command_key() else {
            return;
        };
        if command.has_arrived() {
            // The first one itself.
            let id = key.id.clone();
            self.end_first(&id);
            if let Some(command) = self.next_command(places) {
                self.handle_claimed(entity, core, command);
            }
            self.let_repetitions_go_on();
            return;
        }
        let (seen, id) = (
            known.look_up(key, &entity.config, core.wall),
            key.id.clone(),
        );
        #[cfg(feature = "defects")]
        let seen = if core.defects.handle_again {
            Seen::Never
        } else {
            seen
        };
        if matches!(seen, Seen::UnderWay) {
            // It keeps its place in the bounded queues.
            if let Some(command) = self.queue.pop_front() {
                known.wait_for_first(command);
            }
            return;
        }
        let Some(mut command) = self.next_command(places) else {
            return;
        };
        match seen {
            Seen::Never | Seen::UnderWay => self.handle_claimed(entity, core, command),
            Seen::Handled(seq_nr, payload) => {
                command.repeat(payload.as_ref());
                self.answer_again(core, seq_nr, command);
            }
            Seen::Another(seq_nr) => {
                command.answer_with(AskError::CommandIdReused {
                    persistence_id: self.address.persistence_id().clone(),
                    command_id: id,
                });
                self.answer_again(core, seq_nr, command);
            }
        }
    }

    /// Lets an answer out that says what the write up to `seq_nr` did, once that is stored.
    fn answer_again(&mut self, core: &Core, seq_nr: SequenceNr, command: Box<dyn Queued<E>>) {
        self.last_active = core.now;
        // The first one with that number has the event; one behind it changes reminders only.
        let write = self.in_flight.iter_mut().find(|write| write.last == seq_nr);
        match write.filter(|write| write.has_events) {
            Some(write) => write.waiters.push(command),
            None => command.release(),
        }
    }

    /// Has the reply of a command stored with its events.
    fn attach_reply(
        &mut self,
        entity: &EntityDef<E>,
        core: &mut Core,
        command: &dyn Queued<E>,
        write: &mut AtomicWrite,
    ) -> Result<(), Arc<str>> {
        let (Some(key), Some(known)) = (command.command_key(), &mut self.commands) else {
            return Err("the commands that were handled before are not known".into());
        };
        let payload = command.encode_reply()?;
        let bytes = payload.as_ref().map_or(0, |payload| payload.bytes.len());
        let limit = core.settings.event_bytes;
        if bytes > limit {
            return Err(format!(
                "a reply of {bytes} bytes is larger than {limit} (`persistence.max-event-bytes`)"
            )
            .into());
        }
        let replaces_to = known.forgotten_to();
        let reply = NewReply::new(
            key.id.clone(),
            key.fingerprint,
            payload.clone(),
            replaces_to,
        )
        .map_err(|error| chain(&error))?;
        write.set_reply(reply);
        known.insert(key, write.last(), payload, &entity.config, core.wall);
        core.sweep(self.key.host, E::TYPE, entity.config.command_window_age);
        Ok(())
    }

    /// Asks the store for the replies to the latest commands with ids.
    fn ask_for_replies(&mut self, entity: &EntityDef<E>, core: &mut Core, failures: u32) {
        let limit = entity.config.command_window.saturating_add(1);
        let part = Part::Replies { limit };
        core.read(entity.store, self.key, self.address.persistence_id(), part);
        self.wait_for_replies(core, entity.config.recovery_timeout, failures);
    }

    fn wait_for_replies(&mut self, core: &mut Core, after: Duration, failures: u32) {
        let timer = core.start_cell_timer(after, self.key, CellTimer::Replies);
        let known = self.commands.get_or_insert_default();
        if let Some(before) = known.wait(timer, failures) {
            core.cancel_timer(before);
        }
    }

    /// The replies have come, or not.
    fn replies_read(
        &mut self,
        entity: &EntityDef<E>,
        core: &mut Core,
        result: Result<PageRead, Error>,
    ) {
        let Some(known) = self.commands.as_mut().filter(|known| known.is_reading()) else {
            return;
        };
        let timer = match result {
            Ok(PageRead { replies, .. }) if known.is_overtaken(&replies, self.seq_nr) => {
                tracing::debug!(
                    persistence_id = %self.address.persistence_id(),
                    "another writer has handled commands, the entity recovers"
                );
                if let Some(timer) = known.give_up_reading() {
                    core.cancel_timer(timer);
                }
                // Whoever gets one of these replies must not see an older state afterwards.
                self.give_up(core, ANEW);
                return;
            }
            Ok(PageRead { replies, .. }) => known.take(replies, &entity.config, core.wall),
            Err(error) if error.is_retryable() => {
                let failures = known.failures();
                tracing::debug!(
                    persistence_id = %self.address.persistence_id(),
                    error = %chain(&error),
                    "the store is not available for stored replies, it will be asked again"
                );
                let (min, max) = core.settings.retry;
                let after = core.backoff(failures, min, max);
                self.wait_for_replies(core, after, failures.saturating_add(1));
                return;
            }
            Err(error) => {
                let timer = known.give_up_reading();
                tracing::error!(
                    persistence_id = %self.address.persistence_id(),
                    error = %chain(&error),
                    "the stored replies cannot be read"
                );
                // A continuation of another command may stand before the one that asked.
                let mut waiting = self.queue.iter();
                let at = waiting.position(|command| command.command_key().is_some());
                if let Some(command) = at.and_then(|at| self.queue.remove(at)) {
                    command.fail(AskError::CommandIdRefused {
                        reason: chain(&error),
                    });
                }
                timer
            }
        };
        if let Some(timer) = timer {
            core.cancel_timer(timer);
        }
        self.tidy_replies(core);
        core.sweep(self.key.host, E::TYPE, entity.config.command_window_age);
    }

    /// Has the rows of what has left the window deleted, some at a time.
    fn tidy_replies(&mut self, core: &mut Core) {
        if let Some(known) = &mut self.commands
            && let Some(to) = known.tidy()
        {
            let expired = Expired::UpTo(self.address.persistence_id().clone(), to);
            let host = self.key.host;
            core.out.cleanups.push(ReplyCleanup { host, expired });
        }
    }

    /// The future of a command with an id has ended.
    fn end_first(&mut self, id: &CommandId) {
        if let Some(known) = &mut self.commands {
            known.end(id);
        }
    }

    /// Lets commands be handled that waited for a future of the same command.
    fn let_repetitions_go_on(&mut self) {
        if let Some(known) = &mut self.commands {
            for command in known.no_longer_waiting().into_iter().rev() {
                self.queue.push_front(command);
            }
        }
    }
}

/// What comes once the events of a transition are durable, before what their command wants.
fn of_transition<E: EventSourced>() -> [Action<E>; 2] {
    let transitioned: MachineAction<E> =
        Box::new(|machine, state, cx| machine.transitioned(state, cx));
    [Action::Machine(transitioned), Action::UnstashAll]
}

/// Applies a command's events to the state and tags them. Gives whether the entity wants a
/// snapshot after them.
///
/// # Errors
/// A tag that cannot be stored.
fn apply<E: EventSourced>(
    entity: &EntityDef<E>,
    state: &mut E,
    mut machine: Option<&mut MachineHooks<E>>,
    body: &Body<E>,
    write: &mut AtomicWrite,
) -> Result<bool, Arc<str>> {
    let mut wants_snapshot = false;
    for (index, event) in body.events.iter().enumerate() {
        let new = &write.events()[index];
        if let Some(machine) = &mut machine {
            machine.0.before_event(state);
        }
        state.apply_with_metadata(event, new.metadata.as_ref());
        if let Some(machine) = &mut machine {
            machine.0.after_event(state);
        }
        if let Some(tag) = &entity.tag {
            let tags = tag(state, event);
            write.set_tags(index, tags).map_err(|error| chain(&error))?;
        }
        if let Some(when) = &entity.snapshot_when {
            wants_snapshot |= when(state, event, write.first().plus(index as u64));
        }
    }
    Ok(wants_snapshot)
}
