//! What a spec tells of a command, and of time that went by.

use std::cell::{OnceCell, RefCell};
use std::fmt;
use std::rc::Rc;

use perennial_core::{AskError, Asking, Entity, EventSourced};
use perennial_persistence::{NewEvent, PersistenceId};

use super::stage::Stage;
use crate::MemoryStore;

/// What came of a command: the events that were stored and the reply.
///
/// It equals a tuple of the two, `(vec![event, …], reply)` or `([event, …], reply)`. A comparison
/// with a tuple panics if there is no reply, and says why: in a test that is never meant to be a
/// mere difference. What has no reply is looked at with [`Outcome::is_stashed`],
/// [`Outcome::error`] and the like.
///
/// It is a value of its own: it keeps what it says while the spec goes on. Only a reply that has not
/// come yet, as that of a stashed command, is there as soon as it has come.
pub struct Outcome<E: EventSourced, R> {
    happened: Happened<E>,
    command: &'static str,
    reply: Rc<Reply<R>>,
    open: Option<Open>,
}

/// Why a command had no answer when everything had come to rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Open {
    Stashed,
    Future,
    Store,
    Waits,
}

impl<E: EventSourced, R> Outcome<E, R> {
    pub(super) fn new(
        happened: Happened<E>,
        command: &'static str,
        reply: Rc<Reply<R>>,
        open: Option<Open>,
    ) -> Self {
        Self {
            happened,
            command,
            reply,
            open,
        }
    }

    /// The events that were stored meanwhile, decoded from what is stored: those of the command, and
    /// those of everything that it set going, such as unstashed commands.
    pub fn events(&self) -> &[E::Event] {
        self.happened.events()
    }

    /// The same as they are stored: encoded, with their tags and metadata.
    pub fn stored(&self) -> &[NewEvent] {
        self.happened.stored()
    }

    /// The state after the command as a restart would bring it back; see [`Happened::state`].
    ///
    /// # Panics
    /// If it cannot be brought back from what is stored.
    #[track_caller]
    pub fn state(&self) -> &E {
        self.happened.state()
    }

    /// The reply.
    ///
    /// # Panics
    /// If there is none; the message says why.
    #[track_caller]
    pub fn reply(&self) -> &R {
        match self.result() {
            Some(Ok(reply)) => reply,
            _ => panic!("{}", self.no_reply()),
        }
    }

    /// The answer that a caller has by now: a reply, an error, or none yet.
    pub fn result(&self) -> Option<&Result<R, AskError>> {
        self.reply.answer()
    }

    /// The error that the caller got instead of a reply.
    pub fn error(&self) -> Option<&AskError> {
        self.result()?.as_ref().err()
    }

    /// The caller gives up, as at its deadline: a command that was not begun, or was put aside, is
    /// not handled any more. Gives the answer, which is the one that was there if there was one.
    pub fn give_up(&self) -> &Result<R, AskError> {
        self.reply.give_up()
    }

    /// Whether the handler put the command aside. Its reply comes here once it is unstashed.
    pub fn is_stashed(&self) -> bool {
        self.result().is_none() && self.open == Some(Open::Stashed)
    }

    /// Whether there is neither reply nor error, and the command is not stashed: it waits for a
    /// future, for the store, or behind another command.
    pub fn is_open(&self) -> bool {
        self.result().is_none() && self.open != Some(Open::Stashed)
    }

    /// Whether the command means nothing in the state that it met.
    pub fn is_unhandled(&self) -> bool {
        matches!(self.error(), Some(AskError::Unhandled))
    }

    /// Whether the handler finished without a reply, on purpose.
    pub fn has_no_reply(&self) -> bool {
        matches!(self.error(), Some(AskError::NoReply))
    }

    /// Whether the entity was not in memory after the command, as it had stopped.
    pub fn is_stopped(&self) -> bool {
        !self.happened.in_memory
    }

    fn no_reply(&self) -> String {
        let why = match (self.error(), self.open) {
            (Some(error), _) => error.to_string(),
            (None, Some(Open::Stashed)) => "it was stashed".to_owned(),
            (None, Some(Open::Future)) => {
                "a future of the entity is open; see `run_futures`, or `advance` to its timeout"
                    .to_owned()
            }
            (None, Some(Open::Store)) => {
                "the store has not answered yet; `advance` the time, or open the gate".to_owned()
            }
            (None, _) => "the entity did not come to it".to_owned(),
        };
        let stored = self.events().len();
        format!(
            "{} has no reply (events stored: {stored}): {why}",
            self.command
        )
    }
}

impl<E: EventSourced, R: PartialEq> PartialEq<(Vec<E::Event>, R)> for Outcome<E, R>
where
    E::Event: PartialEq,
{
    #[track_caller]
    fn eq(&self, (events, reply): &(Vec<E::Event>, R)) -> bool {
        let own = self.reply();
        self.events() == events && own == reply
    }
}

impl<E: EventSourced, R: PartialEq, const N: usize> PartialEq<([E::Event; N], R)> for Outcome<E, R>
where
    E::Event: PartialEq,
{
    #[track_caller]
    fn eq(&self, (events, reply): &([E::Event; N], R)) -> bool {
        let own = self.reply();
        self.events() == events && own == reply
    }
}

/// Shows the tuple that it equals.
impl<E: EventSourced, R: fmt::Debug> fmt::Debug for Outcome<E, R>
where
    E::Event: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tuple = f.debug_tuple("");
        tuple.field(&self.events());
        match self.result() {
            Some(Ok(reply)) => tuple.field(reply),
            _ => tuple.field(&format_args!("<{}>", self.no_reply())),
        };
        tuple.finish()
    }
}

/// Events that were stored, decoded and as they are stored.
pub(super) struct News<E: EventSourced> {
    pub(super) events: Vec<E::Event>,
    pub(super) stored: Vec<NewEvent>,
}

impl<E: EventSourced> Default for News<E> {
    fn default() -> Self {
        Self {
            events: Vec::new(),
            stored: Vec::new(),
        }
    }
}

/// What happened while time went by: the events that were stored.
///
/// It equals the events, as a `Vec` or an array.
pub struct Happened<E: EventSourced> {
    news: News<E>,
    in_memory: bool,
    persistence_id: PersistenceId,
    entity: Entity<E>,
    /// What was stored by then.
    memory: MemoryStore,
    recovered: OnceCell<Stage<E>>,
}

impl<E: EventSourced> Happened<E> {
    pub(super) fn new(
        news: News<E>,
        in_memory: bool,
        persistence_id: PersistenceId,
        entity: Entity<E>,
        memory: MemoryStore,
    ) -> Self {
        Self {
            news,
            in_memory,
            persistence_id,
            entity,
            memory,
            recovered: OnceCell::new(),
        }
    }

    /// The events that were stored, decoded from what is stored.
    pub fn events(&self) -> &[E::Event] {
        &self.news.events
    }

    /// The same as they are stored: encoded, with their tags and metadata. An event that an adapter
    /// of the codec splits or drops is one here.
    pub fn stored(&self) -> &[NewEvent] {
        &self.news.stored
    }

    /// The state as a restart would bring it back from what was stored by then, snapshot included.
    /// The state in memory is that of [`Spec::state`]; [`Spec::check_replay`] compares the two.
    ///
    /// # Panics
    /// If it cannot be brought back.
    ///
    /// [`Spec::state`]: super::Spec::state
    /// [`Spec::check_replay`]: super::Spec::check_replay
    #[track_caller]
    pub fn state(&self) -> &E {
        let recovered = self.recovered.get_or_init(|| {
            let entity_id = self.persistence_id.entity_id();
            Stage::recovered(self.entity.clone(), entity_id, self.memory.clone())
        });
        match recovered.state() {
            Ok(state) => state,
            Err(reason) => panic!("{reason}"),
        }
    }

    /// Whether the entity was in memory in the end.
    pub fn is_in_memory(&self) -> bool {
        self.in_memory
    }
}

impl<E: EventSourced> PartialEq<Vec<E::Event>> for Happened<E>
where
    E::Event: PartialEq,
{
    fn eq(&self, events: &Vec<E::Event>) -> bool {
        self.events() == events
    }
}

impl<E: EventSourced, const N: usize> PartialEq<[E::Event; N]> for Happened<E>
where
    E::Event: PartialEq,
{
    fn eq(&self, events: &[E::Event; N]) -> bool {
        self.events() == events
    }
}

/// Shows the events that it equals.
impl<E: EventSourced> fmt::Debug for Happened<E>
where
    E::Event: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.events().fmt(f)
    }
}

/// A reply that has come or will. Dropping it lets a waiting command expire, so the spec keeps it
/// for as long as it is open.
pub(super) struct Reply<R> {
    asking: RefCell<Asking<R>>,
    answer: OnceCell<Result<R, AskError>>,
}

impl<R> Reply<R> {
    pub(super) fn new(asking: Asking<R>) -> Rc<Self> {
        Rc::new(Self {
            asking: RefCell::new(asking),
            answer: OnceCell::new(),
        })
    }

    fn answer(&self) -> Option<&Result<R, AskError>> {
        if self.answer.get().is_none()
            && let Some(answer) = self.asking.borrow_mut().try_take()
        {
            return Some(self.answer.get_or_init(|| answer));
        }
        self.answer.get()
    }

    fn give_up(&self) -> &Result<R, AskError> {
        let expire = || self.asking.borrow_mut().expire();
        self.answer.get_or_init(expire)
    }
}

/// A reply of any type.
pub(super) trait Waiting {
    /// Whether it has not come yet.
    fn is_open(&self) -> bool;
}

impl<R> Waiting for Reply<R> {
    fn is_open(&self) -> bool {
        self.answer().is_none()
    }
}
