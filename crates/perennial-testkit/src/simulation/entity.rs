//! The entities of the simulation: their state is a digest of the chain of all steps that they
//! applied.
//!
//! Every step carries a token of its own, and every answer says which part of the chain it saw. So
//! what is stored tells afterwards whether an answer is that of serial execution. A step is an event
//! of a [`Chain`], or the change of a [`Link`], of which only the latest state is kept.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use perennial_core::{
    Cx, Durable, DurableState, Effect, Entity, EventSourced, Handle, Repeatable, StateChange,
};
use perennial_persistence::{Codec, CodecError, SequenceNr, SerializedPayload};
use serde::{Deserialize, Serialize};

use crate::ManualClock;

/// Tokens per command; a command has fewer events than this.
pub(crate) const TOKENS: u64 = 64;
/// From here on tokens are those of timers.
pub(crate) const TICK_TOKENS: u64 = 1 << 40;
/// From here on tokens are those of a foreign writer.
pub(crate) const FOREIGN_TOKENS: u64 = 1 << 41;

/// What all entities of a simulation tell the checker behind the engine's back.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) clock: ManualClock,
    ticks: AtomicU64,
    notes: Mutex<Vec<Note>>,
}

/// Something that user code did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Note {
    /// A handler ran and did not put its command aside.
    Handled { command: u64 },
    /// The future of a `later` ran.
    Future { command: u64 },
    /// A continuation that the other commands had to wait for met another state than its handler.
    Overtaken { command: u64 },
    /// A `then_run` ran and saw this state.
    Ran { command: u64, saw: Digest },
    /// A timer has fired that was to fire once.
    TickedOnce { command: u64 },
}

impl Shared {
    pub(crate) fn new(clock: ManualClock) -> Arc<Self> {
        Arc::new(Self {
            clock,
            ticks: AtomicU64::new(TICK_TOKENS),
            notes: Mutex::default(),
        })
    }

    pub(crate) fn note(&self, note: Note) {
        self.lock().push(note);
    }

    pub(crate) fn take_notes(&self) -> Vec<Note> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Note>> {
        // Nothing panics while it is held.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many steps a chain has, and a hash over all of them in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Digest {
    pub(crate) count: u64,
    pub(crate) hash: u64,
}

impl Digest {
    /// The digest of the chain with one more step. A deletion forgets all steps but their number.
    pub(crate) fn and(self, step: Step) -> Self {
        if step.kind == StepKind::Delete {
            return Self {
                count: self.count + 1,
                hash: 0,
            };
        }
        let kind = u64::from(step.kind.code());
        let mut hash = self.hash ^ step.token.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ kind;
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self {
            count: self.count + 1,
            hash: hash ^ (hash >> 31),
        }
    }
}

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(crate) token: u64,
    pub(crate) kind: StepKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum StepKind {
    Add,
    /// Until the next [`StepKind::Unlock`] commands that add are put aside.
    Lock,
    Unlock,
    /// `apply` panics; never stored.
    Poison,
    /// The codec refuses it; never stored.
    Unencodable,
    /// The codec panics; never stored.
    EncodePanics,
    /// Its payload is larger than allowed; never stored.
    Large,
    /// The state is deleted, of an entity that keeps no events.
    Delete,
}

impl StepKind {
    const ALL: [Self; 8] = [
        Self::Add,
        Self::Lock,
        Self::Unlock,
        Self::Poison,
        Self::Unencodable,
        Self::EncodePanics,
        Self::Large,
        Self::Delete,
    ];

    fn code(self) -> u8 {
        match self {
            Self::Add => 0,
            Self::Lock => 1,
            Self::Unlock => 2,
            Self::Poison => 3,
            Self::Unencodable => 4,
            Self::EncodePanics => 5,
            Self::Large => 6,
            Self::Delete => 7,
        }
    }
}

/// What entities of all types have in common.
trait Model: EventSourced<Services = Arc<Shared>> {
    /// The digest of the state that has this number.
    fn seen(&self, number: SequenceNr) -> Digest;

    fn is_locked(&self) -> bool;

    /// What is to be stored for these steps.
    fn changes(&self, number: SequenceNr, steps: Vec<Step>) -> Vec<Self::Event>;
}

/// The entity's state. `KIND` makes two entity types of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chain<const KIND: u8> {
    pub(crate) digest: Digest,
    pub(crate) locked: bool,
}

impl<const KIND: u8> EventSourced for Chain<KIND> {
    const TYPE: &'static str = if KIND == 0 { "Plain" } else { "Snapped" };
    type Event = Step;
    type Services = Arc<Shared>;

    fn apply(&mut self, step: &Step) {
        match step.kind {
            StepKind::Lock => self.locked = true,
            StepKind::Unlock => self.locked = false,
            StepKind::Poison => panic_quietly("poison"),
            _ => {}
        }
        self.digest = self.digest.and(*step);
    }
}

impl<const KIND: u8> Model for Chain<KIND> {
    fn seen(&self, _: SequenceNr) -> Digest {
        self.digest
    }

    fn is_locked(&self) -> bool {
        self.locked
    }

    fn changes(&self, _: SequenceNr, steps: Vec<Step>) -> Vec<Step> {
        steps
    }
}

/// The state of an entity that keeps nothing else. `TELLS` makes two entity types of it: with change
/// events and without.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Link<const TELLS: bool> {
    /// Of all steps since it was deleted last.
    pub(crate) hash: u64,
    pub(crate) locked: bool,
    /// The step that made it.
    pub(crate) last: Option<Step>,
}

impl<const TELLS: bool> DurableState for Link<TELLS> {
    const TYPE: &'static str = if TELLS { "Told" } else { "Kept" };
    type Services = Arc<Shared>;
}

impl<const TELLS: bool> Link<TELLS> {
    /// The state after one more step.
    pub(crate) fn and(self, step: Step) -> Self {
        let digest = Digest {
            count: 0,
            hash: self.hash,
        };
        Self {
            hash: digest.and(step).hash,
            locked: match step.kind {
                StepKind::Lock => true,
                StepKind::Unlock => false,
                _ => self.locked,
            },
            last: Some(step),
        }
    }
}

impl<const TELLS: bool> Model for Durable<Link<TELLS>> {
    fn seen(&self, number: SequenceNr) -> Digest {
        Digest {
            count: number.value(),
            hash: self.hash,
        }
    }

    fn is_locked(&self) -> bool {
        self.locked
    }

    fn changes(&self, _: SequenceNr, steps: Vec<Step>) -> Vec<StateChange<Link<TELLS>>> {
        let mut state = **self;
        let mut change = |step: Step| {
            if step.kind == StepKind::Delete {
                state = Link::default();
                return StateChange::delete().because(step);
            }
            state = state.and(step);
            StateChange::put(state).because(step)
        };
        steps.into_iter().map(&mut change).collect()
    }
}

/// An entity type of which only the state is kept. Every change has its step as its tag, so that
/// the store's part of the simulation knows it, of a deletion as well.
pub(crate) fn links<const TELLS: bool>(shared: &Arc<Shared>) -> Entity<Durable<Link<TELLS>>> {
    let entity = Entity::durable_with_codec(Arc::clone(shared), LinkCodec).tags(|_, change| {
        let step: Option<&Step> = change.cause();
        step.map(Step::as_tag).into_iter().collect()
    });
    if TELLS {
        entity.change_events_with_codec(StepCodec, |changed| {
            let step: Option<&Step> = changed.cause();
            *step.expect("every change has a step as its cause")
        })
    } else {
        entity
    }
}

impl Step {
    pub(crate) fn as_tag(&self) -> String {
        format!("{} {}", self.kind.code(), self.token)
    }

    /// The step of a change with these tags.
    pub(crate) fn from_tags(tags: &[String]) -> Option<Self> {
        let (code, token) = tags.first()?.split_once(' ')?;
        let kind = StepKind::ALL.get(code.parse::<usize>().ok()?)?;
        Some(Self {
            token: token.parse().ok()?,
            kind: *kind,
        })
    }
}

/// A panic that leaves standard error alone: simulations make many.
fn panic_quietly(message: &'static str) {
    resume_unwind(Box::new(message));
}

/// A command, with an id that no other command has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Command {
    pub(crate) id: u64,
    pub(crate) action: Action,
}

/// What a command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Read,
    ReadThenRun,
    ReadStop,
    Append(u64),
    AppendSilently(u64),
    AppendThenRun(u64),
    AppendStop(u64),
    /// Takes a while, which is noticed in the worker's budget.
    AppendSlowly(u64),
    Lock,
    Unlock,
    Later(u64),
    LaterInterleaved(u64),
    LaterBlocking(u64),
    LaterTwice(u64),
    /// Has an id, that of the first attempt, and may be sent again.
    Once {
        first: u64,
        count: u64,
        later: bool,
        /// Whether its last step deletes the state.
        deletes: bool,
    },
    /// Deletes the state.
    Delete,
    /// Unhandled in about every third state, which one depends on the number.
    UnhandledSometimes(u64),
    StartTimer(Duration),
    StartRepeatedTimer(Duration),
    CancelTimers,
    PanicInHandle,
    PanicInApply(u64),
    PanicInReply(u64),
    PanicInThenRun(u64),
    PanicInContinuation,
    Unencodable(u64),
    EncodePanics(u64),
    Large(u64),
    /// More events than one command may have.
    TooMany(u64),
}

impl Command {
    /// What the command appends if it succeeds.
    pub(crate) fn steps(self) -> Vec<Step> {
        let id = self.action.first_attempt().unwrap_or(self.id);
        let of = |count: u64, last: StepKind| -> Vec<Step> {
            let tokens = id * TOKENS..;
            let mut steps: Vec<Step> = tokens
                .zip(0..count)
                .map(|(token, _)| Step {
                    token,
                    kind: StepKind::Add,
                })
                .collect();
            if let Some(step) = steps.last_mut() {
                step.kind = last;
            }
            steps
        };
        match self.action {
            Action::Append(count)
            | Action::AppendSilently(count)
            | Action::AppendThenRun(count)
            | Action::AppendStop(count)
            | Action::AppendSlowly(count)
            | Action::Later(count)
            | Action::LaterInterleaved(count)
            | Action::LaterBlocking(count)
            | Action::LaterTwice(count)
            | Action::PanicInReply(count)
            | Action::PanicInThenRun(count)
            | Action::Once {
                count,
                deletes: false,
                ..
            }
            | Action::TooMany(count) => of(count, StepKind::Add),
            Action::Once {
                count,
                deletes: true,
                ..
            } => of(count, StepKind::Delete),
            Action::Delete => of(1, StepKind::Delete),
            Action::Lock => of(1, StepKind::Lock),
            Action::Unlock => of(1, StepKind::Unlock),
            Action::PanicInApply(count) => of(count, StepKind::Poison),
            Action::Unencodable(count) => of(count, StepKind::Unencodable),
            Action::EncodePanics(count) => of(count, StepKind::EncodePanics),
            Action::Large(count) => of(count, StepKind::Large),
            _ => Vec::new(),
        }
    }

    /// Whether a locked entity puts it aside.
    fn waits_for_unlock(self) -> bool {
        matches!(
            self.action,
            Action::Append(_)
                | Action::AppendThenRun(_)
                | Action::AppendStop(_)
                | Action::Later(_)
                | Action::Once { .. }
        )
    }
}

/// Tells only what is the same at every attempt.
impl Serialize for Command {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.action {
            Action::Once {
                first,
                count,
                later,
                deletes,
            } => (first, count, later, deletes).serialize(serializer),
            _ => self.id.serialize(serializer),
        }
    }
}

impl Repeatable for Command {
    const NAME: &'static str = "Command";
}

impl Action {
    /// The number of the first attempt, for a command with an id.
    pub(crate) fn first_attempt(self) -> Option<u64> {
        match self {
            Self::Once { first, .. } => Some(first),
            _ => None,
        }
    }

    pub(crate) fn has_future(self) -> bool {
        matches!(
            self,
            Self::Later(_)
                | Self::LaterInterleaved(_)
                | Self::LaterBlocking(_)
                | Self::LaterTwice(_)
                | Self::PanicInContinuation
                | Self::Once { later: true, .. }
        )
    }

    pub(crate) fn panics(self) -> bool {
        matches!(
            self,
            Self::PanicInHandle
                | Self::PanicInApply(_)
                | Self::PanicInReply(_)
                | Self::PanicInContinuation
        )
    }

    pub(crate) fn is_unstorable(self) -> bool {
        matches!(
            self,
            Self::Unencodable(_) | Self::EncodePanics(_) | Self::Large(_) | Self::TooMany(_)
        )
    }

    pub(crate) fn is_silent(self) -> bool {
        matches!(self, Self::AppendSilently(_))
    }

    /// Whether the command, with this number, is unhandled in a state with this digest.
    pub(crate) fn is_unhandled_at(self, digest: Digest) -> bool {
        matches!(self, Self::UnhandledSometimes(salt)
            if (digest.hash ^ salt).is_multiple_of(3))
    }
}

/// What a command saw and made. Stored as four numbers, which stay below [`EVENT_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "[u64; 4]", from = "[u64; 4]")]
pub(crate) struct Answer {
    pub(crate) before: Digest,
    pub(crate) after: Digest,
}

impl From<Answer> for [u64; 4] {
    fn from(Answer { before, after }: Answer) -> Self {
        [before.count, before.hash, after.count, after.hash]
    }
}

impl From<[u64; 4]> for Answer {
    fn from([before, before_hash, after, after_hash]: [u64; 4]) -> Self {
        let digest = |count, hash| Digest { count, hash };
        Self {
            before: digest(before, before_hash),
            after: digest(after, after_hash),
        }
    }
}

impl<const KIND: u8> Handle<Command> for Chain<KIND> {
    type Reply = Answer;

    fn handle(&self, command: Command, cx: &Cx<'_, Self>) -> Effect<Self, Answer> {
        handle(self, command, cx)
    }
}

impl<const TELLS: bool> Handle<Command> for Durable<Link<TELLS>> {
    type Reply = Answer;

    fn handle(&self, command: Command, cx: &Cx<'_, Self>) -> Effect<Self, Answer> {
        handle(self, command, cx)
    }
}

fn handle<E>(entity: &E, command: Command, cx: &Cx<'_, E>) -> Effect<E, Answer>
where
    E: Model + Handle<Command, Reply = Answer> + Handle<Tick>,
{
    if entity.is_locked() && command.waits_for_unlock() {
        return cx.stash(command);
    }
    let Command { id, action } = command;
    let shared = Arc::clone(cx.services());
    shared.note(Note::Handled { command: id });
    let steps = command.steps();
    let before = entity.seen(cx.sequence_nr());
    let changes = entity.changes(cx.sequence_nr(), steps.clone());
    let made = cx.sequence_nr().plus(changes.len() as u64);
    let unchanged = Answer {
        before,
        after: before,
    };
    let answer = move |state: &E| Answer {
        before,
        after: state.seen(made),
    };
    let run = move |state: &E, cx: &Cx<'_, E>| {
        cx.services().note(Note::Ran {
            command: id,
            saw: state.seen(cx.sequence_nr()),
        });
    };
    let work = {
        let shared = Arc::clone(&shared);
        move || shared.note(Note::Future { command: id })
    };
    match action {
        Action::Read => cx.reply(unchanged),
        Action::ReadThenRun => cx.none().then_run(run).reply(move |_| unchanged),
        Action::ReadStop => cx.stop().reply(move |_| unchanged),
        Action::AppendSilently(_) => cx.persist(changes).no_reply(),
        Action::AppendThenRun(_) => cx.persist(changes).reply(answer).then_run(run),
        Action::AppendStop(_) => cx.persist(changes).then_stop().reply(answer),
        Action::AppendSlowly(_) => {
            shared.clock.advance(Duration::from_micros(400));
            cx.persist(changes).reply(answer)
        }
        Action::Unlock => cx.persist(changes).then_unstash_all().reply(answer),
        Action::Later(_) => {
            let then = append(steps);
            cx.later(
                async move { work() },
                move |(), state: &E, cx: &Cx<'_, E>| {
                    if state.seen(cx.sequence_nr()) != before {
                        cx.services().note(Note::Overtaken { command: id });
                    }
                    then((), state, cx)
                },
            )
        }
        Action::LaterInterleaved(_) => {
            let later = cx.later(async move { work() }, append(steps));
            later.interleaved().then_run(run)
        }
        Action::Once { later: true, .. } => {
            let later = cx.later(async move { work() }, append(steps));
            later.interleaved()
        }
        Action::LaterBlocking(_) => cx.blocking(work, append(steps)),
        Action::LaterTwice(_) => cx
            .later(async move { work() }, move |(), _: &E, cx: &Cx<'_, E>| {
                cx.later(async {}, append(steps))
            }),
        Action::PanicInContinuation => {
            cx.later(async move { work() }, move |(), _: &E, cx: &Cx<'_, E>| {
                panic_quietly("continuation");
                cx.reply(unchanged)
            })
        }
        Action::UnhandledSometimes(_) => {
            if action.is_unhandled_at(before) {
                cx.unhandled()
            } else {
                cx.reply(unchanged)
            }
        }
        Action::StartTimer(delay) => {
            cx.timers()
                .start_single("single", delay, Tick { once: Some(id) });
            cx.reply(unchanged)
        }
        Action::StartRepeatedTimer(period) => {
            cx.timers()
                .start_repeated("repeated", period, Tick { once: None });
            cx.reply(unchanged)
        }
        Action::CancelTimers => {
            cx.timers().cancel_all();
            cx.reply(unchanged)
        }
        Action::PanicInHandle => {
            panic_quietly("handle");
            cx.unhandled()
        }
        Action::PanicInReply(_) => cx.persist(changes).reply(move |state| {
            panic_quietly("reply");
            answer(state)
        }),
        Action::PanicInThenRun(_) => cx
            .persist(changes)
            .then_run(|_, _| panic_quietly("then_run"))
            .then_run(|_, _| panic_quietly("never reached"))
            .reply(answer),
        Action::Append(_)
        | Action::Delete
        | Action::Lock
        | Action::PanicInApply(_)
        | Action::Unencodable(_)
        | Action::EncodePanics(_)
        | Action::Large(_)
        | Action::Once { .. }
        | Action::TooMany(_) => cx.persist(changes).reply(answer),
    }
}

/// The continuation of a `later`: appends to what the chain is by then.
fn append<E: Model>(
    steps: Vec<Step>,
) -> impl FnOnce((), &E, &Cx<'_, E>) -> Effect<E, Answer> + Send + 'static {
    move |(), state, cx| {
        let before = state.seen(cx.sequence_nr());
        let changes = state.changes(cx.sequence_nr(), steps);
        let made = cx.sequence_nr().plus(changes.len() as u64);
        cx.persist(changes).reply(move |state: &E| Answer {
            before,
            after: state.seen(made),
        })
    }
}

/// What a timer sends, and what an entity handles last.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tick {
    /// The command that started a timer which fires once.
    once: Option<u64>,
}

impl Tick {
    /// The last command of an entity that leaves.
    pub(crate) fn at_the_end() -> Self {
        Self { once: None }
    }
}

impl<const KIND: u8> Handle<Tick> for Chain<KIND> {
    type Reply = ();

    fn handle(&self, tick: Tick, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        tick_on(self, tick, cx)
    }
}

impl<const TELLS: bool> Handle<Tick> for Durable<Link<TELLS>> {
    type Reply = ();

    fn handle(&self, tick: Tick, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        tick_on(self, tick, cx)
    }
}

fn tick_on<E: Model>(entity: &E, tick: Tick, cx: &Cx<'_, E>) -> Effect<E, ()> {
    if let Some(command) = tick.once {
        cx.services().note(Note::TickedOnce { command });
    }
    let token = cx.services().ticks.fetch_add(1, Ordering::Relaxed);
    let kind = StepKind::Add;
    let changes = entity.changes(cx.sequence_nr(), vec![Step { token, kind }]);
    cx.persist(changes).no_reply()
}

/// The payload size from which an event is too large.
pub(crate) const EVENT_BYTES: usize = 32;

/// Steps as nine bytes.
#[derive(Debug)]
pub(crate) struct StepCodec;

impl StepCodec {
    const ID: i32 = 4711;
    const BYTES: usize = 9;
}

impl Codec<Step> for StepCodec {
    fn encode(&self, step: &Step) -> Result<SerializedPayload, CodecError> {
        let mut bytes = vec![step.kind.code()];
        bytes.extend(step.token.to_be_bytes());
        match step.kind {
            StepKind::Unencodable => return Err(CodecError::unencodable("unencodable")),
            StepKind::EncodePanics => panic_quietly("encode"),
            StepKind::Large => bytes.resize(EVENT_BYTES + 1, 0),
            _ => {}
        }
        Ok(SerializedPayload::new(Self::ID, "Step", bytes))
    }

    fn decode(&self, payload: &SerializedPayload) -> Result<Step, CodecError> {
        let undecodable = || CodecError::undecodable("no step");
        let (&code, token) = payload.bytes.split_first().ok_or_else(undecodable)?;
        let token = token.try_into().map_err(|_| undecodable())?;
        let kind = StepKind::ALL
            .get(usize::from(code))
            .ok_or_else(undecodable)?;
        Ok(Step {
            token: u64::from_be_bytes(token),
            kind: *kind,
        })
    }
}

/// A link as 18 bytes.
#[derive(Debug)]
pub(crate) struct LinkCodec;

impl LinkCodec {
    const ID: i32 = 4713;
}

impl<const TELLS: bool> Codec<Link<TELLS>> for LinkCodec {
    fn encode(&self, link: &Link<TELLS>) -> Result<SerializedPayload, CodecError> {
        let step = link
            .last
            .ok_or_else(|| CodecError::unencodable("no step"))?;
        let mut bytes = StepCodec.encode(&step)?.bytes.to_vec();
        bytes.push(u8::from(link.locked));
        bytes.extend(link.hash.to_be_bytes());
        Ok(SerializedPayload::new(Self::ID, "Link", bytes))
    }

    fn decode(&self, payload: &SerializedPayload) -> Result<Link<TELLS>, CodecError> {
        let undecodable = || CodecError::undecodable("no link");
        let (step, rest) = payload
            .bytes
            .split_at_checked(StepCodec::BYTES)
            .ok_or_else(undecodable)?;
        let (&locked, hash) = rest.split_first().ok_or_else(undecodable)?;
        let step = SerializedPayload::new(StepCodec::ID, "Step", step.to_vec());
        Ok(Link {
            hash: u64::from_be_bytes(hash.try_into().map_err(|_| undecodable())?),
            locked: locked == 1,
            last: Some(StepCodec.decode(&step)?),
        })
    }
}

/// A chain's state as 17 bytes.
#[derive(Debug)]
pub(crate) struct ChainCodec;

/// The encoded state of an entity.
pub(crate) fn state_payload(digest: Digest, locked: bool) -> SerializedPayload {
    let mut bytes = vec![u8::from(locked)];
    bytes.extend(digest.count.to_be_bytes());
    bytes.extend(digest.hash.to_be_bytes());
    SerializedPayload::new(4712, "Chain", bytes)
}

impl<const KIND: u8> Codec<Chain<KIND>> for ChainCodec {
    fn encode(&self, chain: &Chain<KIND>) -> Result<SerializedPayload, CodecError> {
        match chain.digest.hash % 16 {
            0 => return Err(CodecError::unencodable("unencodable")),
            1 => panic_quietly("encode"),
            _ => {}
        }
        Ok(state_payload(chain.digest, chain.locked))
    }

    fn decode(&self, payload: &SerializedPayload) -> Result<Chain<KIND>, CodecError> {
        let undecodable = || CodecError::undecodable("no chain");
        let bytes: [u8; 17] = payload.bytes[..].try_into().map_err(|_| undecodable())?;
        let number = |from: usize| {
            let bytes = bytes[from..from + 8].try_into();
            u64::from_be_bytes(bytes.expect("eight of seventeen bytes"))
        };
        Ok(Chain {
            digest: Digest {
                count: number(1),
                hash: number(9),
            },
            locked: bytes[0] == 1,
        })
    }
}
