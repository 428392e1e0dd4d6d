//! What the system has to know of an entity type.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use perennial_persistence::{
    Codec, CodecError, MessagePack, Named, SequenceNr, SerializedPayload, Store,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::{EntityConfig, Replacement};
use crate::durable_state::StateAsEvents;
use crate::engine::{Address, Envelope, Queued};
use crate::event_sourced::commands::{self, Commands};
use crate::event_sourced::{
    Cx, EventSourced, Handle, InvalidCommands, Recovery, Retention, Signal,
};
use crate::pubsub::{PublishEvents, ToStream};

/// Gives the tags of an event; the state is the one right after it.
pub(crate) type Tag<E> = Arc<dyn Fn(&E, &<E as EventSourced>::Event) -> Vec<String> + Send + Sync>;

/// Says whether a snapshot is to be taken after an event.
pub(crate) type SnapshotWhen<E> =
    Arc<dyn Fn(&E, &<E as EventSourced>::Event, SequenceNr) -> bool + Send + Sync>;

/// Makes what tells of a state's change: of the state, the command's change before that one if there
/// is one, and the change.
pub(crate) type Tell<E> = Arc<
    dyn Fn(
            &E,
            Option<&<E as EventSourced>::Event>,
            &<E as EventSourced>::Event,
        ) -> Result<SerializedPayload, CodecError>
        + Send
        + Sync,
>;

/// Takes signals.
pub(crate) type OnSignal<E> = Arc<dyn Fn(&E, &Signal, &Cx<'_, E>) + Send + Sync>;

/// Makes the command after which an entity leaves.
pub(crate) type LastCommand<E> = Arc<dyn Fn(&Arc<Address>) -> Box<dyn Queued<E>> + Send + Sync>;

/// Publishes events.
pub(crate) type Publisher<E> = Arc<dyn PublishEvents<<E as EventSourced>::Event>>;

/// An entity type as it is given to the system: its services, codecs and settings.
///
/// Settings made here are defaults; `[entity.<TYPE>]` in the configuration file wins. The ranges and
/// what happens when a bound is reached stand in [`EntityConfig`]; a value out of its range is an
/// error when the system starts.
pub struct Entity<E: EventSourced> {
    services: Arc<E::Services>,
    event_codec: Arc<dyn Codec<E::Event>>,
    state_codec: Option<Arc<dyn Codec<E>>>,
    tag: Option<Tag<E>>,
    snapshot_when: Option<SnapshotWhen<E>>,
    on_signal: Option<OnSignal<E>>,
    last_command: Option<LastCommand<E>>,
    tell: Option<Tell<E>>,
    commands: Commands<E>,
    /// Makes a publisher for a system.
    publisher: Option<fn() -> Publisher<E>>,
    recovery: Recovery,
    kept: Kept,
    config: EntityConfig,
}

/// What a store keeps of an entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Its events, and snapshots of the state.
    Events,
    /// Its latest state only.
    State,
}

impl<E: EventSourced> Entity<E> {
    /// An entity type with its services; without snapshots, events as MessagePack with the
    /// manifest `<TYPE>.Event`.
    pub fn new(services: E::Services) -> Self
    where
        E::Event: Serialize + DeserializeOwned,
    {
        let codec = MessagePack::new(format!("{}.Event", E::TYPE));
        Self::with_event_codec(services, codec)
    }

    /// As [`Entity::new`], with a codec of your own for events, which then need no serde.
    pub fn with_event_codec(services: E::Services, codec: impl Codec<E::Event>) -> Self {
        Self {
            services: Arc::new(services),
            event_codec: Arc::new(codec),
            kept: Kept::Events,
            state_codec: None,
            tag: None,
            snapshot_when: None,
            on_signal: None,
            last_command: None,
            tell: None,
            commands: Commands::none(),
            publisher: None,
            recovery: Recovery::Latest,
            config: EntityConfig::default(),
        }
    }

    /// Takes a snapshot of the state every `every` events, as MessagePack with the manifest
    /// `<TYPE>.State`; 0 takes none, but reads what is there.
    #[must_use]
    pub fn snapshot_every(mut self, every: u64) -> Self
    where
        E: Serialize + DeserializeOwned,
    {
        self.state_codec
            .get_or_insert_with(|| Arc::new(MessagePack::new(format!("{}.State", E::TYPE))));
        self.config.snapshot_every = every;
        self
    }

    /// Takes snapshots, and deletes events once they are saved, as `retention` says. Give a codec
    /// for the state with [`Entity::state_codec`], or make one with [`Entity::snapshot_every`];
    /// without one the system does not start.
    #[must_use]
    pub fn retention(mut self, retention: Retention) -> Self {
        self.config.snapshot_every = retention.every;
        self.config.keep_snapshots = retention.keep;
        self.config.delete_events = retention.delete_events;
        self
    }

    /// Takes a snapshot after a write if `when` says so for one of its events, besides those of the
    /// retention; no events are deleted for it. `when` sees the state right after the event, which
    /// may be ahead of the store. It needs a codec as [`Entity::retention`] does.
    #[must_use]
    pub fn snapshot_when(
        mut self,
        when: impl Fn(&E, &E::Event, SequenceNr) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.snapshot_when = Some(Arc::new(when));
        self
    }

    /// Tags new events, for queries and projections. `tag` gets the state right after the event.
    ///
    /// A tag with U+0000 cannot be stored: the command is refused and the entity recovers.
    #[must_use]
    pub fn tags(
        mut self,
        tag: impl Fn(&E, &E::Event) -> Vec<String> + Send + Sync + 'static,
    ) -> Self {
        self.tag = Some(Arc::new(tag));
        self
    }

    /// Has `on_signal` told what happens to the entity besides commands.
    ///
    /// It sees a state that is stored: commands wait until the writes before the signal are. It
    /// runs on the worker, so it must not block. A panic restarts the entity.
    #[must_use]
    pub fn on_signal(
        mut self,
        on_signal: impl Fn(&E, &Signal, &Cx<'_, E>) + Send + Sync + 'static,
    ) -> Self {
        self.on_signal = Some(Arc::new(on_signal));
        self
    }

    /// Publishes each event on the system's [`EventStream`](crate::EventStream) once it is stored, as
    /// [`Published`](crate::Published). Of a durable state that is each change.
    ///
    /// While nobody subscribes, events are not even kept for it. A subscriber gets those of every
    /// command that is sent after it has subscribed.
    #[must_use]
    pub fn publish_events(mut self) -> Self
    where
        E::Event: Sync,
    {
        self.publisher = Some(|| Arc::new(ToStream::default()));
        self
    }

    /// What an entity is brought back from; by default its latest snapshot and the events after it.
    #[must_use]
    pub fn recovery(mut self, recovery: Recovery) -> Self {
        self.recovery = recovery;
        self
    }

    /// How long a recovery waits for an answer of the store before it fails and is tried again with
    /// the backoff of a restart.
    #[must_use]
    pub fn recovery_timeout(mut self, timeout: Duration) -> Self {
        self.config.recovery_timeout = timeout;
        self
    }

    /// Encodes events with a codec of your own.
    #[must_use]
    pub fn event_codec(mut self, codec: impl Codec<E::Event>) -> Self {
        self.event_codec = Arc::new(codec);
        self
    }

    /// Encodes snapshots with a codec of your own.
    #[must_use]
    pub fn state_codec(mut self, codec: impl Codec<E>) -> Self {
        self.state_codec = Some(Arc::new(codec));
        self
    }

    /// Gives a kind of command a name, under which it can be a [reminder](crate::Then::remind) and
    /// come from another node: both, and its reply, are encoded as MessagePack, with the name and
    /// `<name>.Reply` as their manifests. The name is stored, so it is never to be changed; 1 to 255
    /// characters without U+0000, and of this entity type no two the same. That is checked when the
    /// system starts.
    #[must_use]
    pub fn command<C>(self, name: &str) -> Self
    where
        E: Handle<C, Reply: Serialize + DeserializeOwned>,
        C: Serialize + DeserializeOwned + Send + 'static,
    {
        let (commands, replies) = commands::named(name);
        self.add_command(commands, replies)
    }

    /// As [`Entity::command`], with codecs of your own, such as a
    /// [`Schema`](perennial_persistence::Schema) with names and versions. The names are those that
    /// the codec of the command writes, each without its version; it may read others as well.
    #[must_use]
    pub fn command_with<C>(
        self,
        commands: impl Named<C>,
        replies: impl Codec<<E as Handle<C>>::Reply>,
    ) -> Self
    where
        E: Handle<C>,
        C: Send + 'static,
    {
        self.add_command(Arc::new(commands), Arc::new(replies))
    }

    fn add_command<C: Send + 'static>(
        mut self,
        commands: Arc<dyn Named<C>>,
        replies: Arc<dyn Codec<<E as Handle<C>>::Reply>>,
    ) -> Self
    where
        E: Handle<C>,
    {
        self.commands.add(commands, replies);
        self
    }

    pub(crate) fn commands(&self) -> &Commands<E> {
        &self.commands
    }

    /// Checks the names of its commands, as the start of a system does; for those who drive the
    /// engine themselves.
    ///
    /// # Errors
    /// [`InvalidCommands`] for the first that is wrong.
    #[doc(hidden)]
    pub fn check_commands(&self) -> Result<(), InvalidCommands> {
        self.commands.check()
    }

    /// Forgets an entity that had nothing to do for this long, at the latest after twice that;
    /// `None` keeps it for ever.
    #[must_use]
    pub fn passivate_after(mut self, idle: Option<Duration>) -> Self {
        self.config.passivate_after = idle;
        self
    }

    /// Bounds how many entities of this type are in memory, in the whole system, and says who leaves
    /// when another one comes; 0 sets no bound. See [`EntityConfig::entity_limit`].
    #[must_use]
    pub fn entity_limit(mut self, entities: usize, replacement: Replacement) -> Self {
        self.config.entity_limit = entities;
        self.config.replacement = replacement;
        self
    }

    /// Has an entity handle a command before it leaves memory although it has not asked for it:
    /// because it was idle for long, because there were too many, or as the system ends. An entity
    /// that stops itself, or begins anew after a failure, does not get it.
    ///
    /// It is a command like any other: it may persist events, which are stored before the entity
    /// ends, run a future, or put itself aside. The entity stops after it. Commands that come in the
    /// meantime are handled by its next incarnation, none is lost and none is handled twice. If it
    /// panics or its events cannot be stored, the entity leaves all the same, with a warning; so it
    /// does after [`Entity::stop_timeout`], without waiting for its future any longer, but a write that
    /// is under way is awaited.
    ///
    /// ```
    /// use perennial_core::{Cx, Effect, Entity, EventSourced, Handle};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Default)]
    /// struct Visit {
    ///     is_open: bool,
    /// }
    ///
    /// #[derive(Serialize, Deserialize)]
    /// enum VisitEvent {
    ///     Opened,
    ///     Closed,
    /// }
    ///
    /// impl EventSourced for Visit {
    ///     const TYPE: &'static str = "Visit";
    ///     type Event = VisitEvent;
    ///     type Services = ();
    ///
    ///     fn apply(&mut self, event: &VisitEvent) {
    ///         self.is_open = matches!(event, VisitEvent::Opened);
    ///     }
    /// }
    ///
    /// struct Close;
    ///
    /// impl Handle<Close> for Visit {
    ///     type Reply = ();
    ///
    ///     fn handle(&self, _: Close, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
    ///         if self.is_open {
    ///             cx.persist([VisitEvent::Closed]).no_reply()
    ///         } else {
    ///             cx.no_reply()
    ///         }
    ///     }
    /// }
    ///
    /// let visits = Entity::<Visit>::new(()).on_passivate(|| Close);
    /// ```
    #[must_use]
    pub fn on_passivate<C: Send + 'static>(
        mut self,
        command: impl Fn() -> C + Send + Sync + 'static,
    ) -> Self
    where
        E: Handle<C>,
    {
        self.last_command = Some(Arc::new(move |address| {
            Box::new(Envelope::last(Arc::clone(address), command()))
        }));
        self
    }

    /// How long an entity may take for the command of [`Entity::on_passivate`].
    #[must_use]
    pub fn stop_timeout(mut self, timeout: Duration) -> Self {
        self.config.stop_timeout = timeout;
        self
    }

    /// Bounds the commands that wait for one entity; more are refused as `Busy`.
    #[must_use]
    pub fn mailbox(mut self, commands: usize) -> Self {
        self.config.mailbox = commands;
        self
    }

    /// Bounds the stash; a command that finds it full is refused as `Busy`.
    #[must_use]
    pub fn stash(mut self, commands: usize) -> Self {
        self.config.stash = commands;
        self
    }

    /// How many commands with ids are known of one entity, and for how long; one that is sent again
    /// within that window is answered as before.
    #[must_use]
    pub fn command_window(mut self, commands: usize, age: Duration) -> Self {
        self.config.command_window = commands;
        self.config.command_window_age = age;
        self
    }

    /// How many commands may be handled ahead of their writes; 1 handles one at a time.
    #[must_use]
    pub fn pipeline(mut self, commands: usize) -> Self {
        self.config.pipeline = commands;
        self
    }

    /// The shortest and the longest time between a failure and the next start; it doubles from
    /// failure to failure.
    #[must_use]
    pub fn restart_backoff(mut self, min: Duration, max: Duration) -> Self {
        self.config.restart_min = min;
        self.config.restart_max = max;
        self
    }

    /// Keeps only the latest state; events are changes of it.
    pub(crate) fn keeping_state(mut self) -> Self {
        self.kept = Kept::State;
        self
    }

    /// Has an event stored with every change of the state.
    pub(crate) fn telling(mut self, tell: Tell<E>) -> Self {
        self.tell = Some(tell);
        self
    }

    /// Whether events are stored with the changes of the state.
    pub(crate) fn tells(&self) -> bool {
        self.tell.is_some()
    }

    /// `store` as the engine uses it for this entity type. For those who drive the engine
    /// themselves.
    #[doc(hidden)]
    pub fn store(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        match self.kept {
            Kept::Events => store,
            Kept::State => Arc::new(StateAsEvents::new(store)),
        }
    }

    /// Whether only its latest state is kept; for the test kit.
    #[doc(hidden)]
    pub fn keeps_state(&self) -> bool {
        self.kept == Kept::State
    }

    pub(crate) fn kept(&self) -> Kept {
        self.kept
    }

    /// The settings made in code.
    pub fn config(&self) -> &EntityConfig {
        &self.config
    }

    /// The same without signals, to be brought back without anybody's notice; for the test kit.
    #[doc(hidden)]
    #[must_use]
    pub fn without_signals(mut self) -> Self {
        self.on_signal = None;
        self
    }

    /// What it is brought back from; for the test kit.
    #[doc(hidden)]
    pub fn way_back(&self) -> Recovery {
        self.recovery
    }

    /// What its events are encoded with; for the test kit.
    #[doc(hidden)]
    pub fn codec_of_events(&self) -> &Arc<dyn Codec<E::Event>> {
        &self.event_codec
    }

    /// What its snapshots are encoded with, if it has any; for the test kit.
    #[doc(hidden)]
    pub fn codec_of_states(&self) -> Option<&Arc<dyn Codec<E>>> {
        self.state_codec.as_ref()
    }

    pub(crate) fn has_snapshots(&self) -> bool {
        self.state_codec.is_some()
    }

    /// Whether a codec for the state is needed for what it was told in code.
    #[doc(hidden)]
    pub fn wants_snapshots(&self) -> bool {
        self.snapshot_when.is_some()
    }

    pub(crate) fn def(&self, config: EntityConfig, store: usize) -> EntityDef<E> {
        EntityDef {
            store,
            services: Arc::clone(&self.services),
            event_codec: Arc::clone(&self.event_codec),
            state_codec: self.state_codec.clone(),
            tag: self.tag.clone(),
            snapshot_when: self.snapshot_when.clone(),
            on_signal: self.on_signal.clone(),
            last_command: self.last_command.clone(),
            tell: self.tell.clone(),
            commands: self.commands.clone(),
            kept: self.kept,
            publisher: self.publisher.map(|publisher| publisher()),
            recovery: self.recovery,
            config,
        }
    }
}

/// The same entity type for another system; both share the services.
impl<E: EventSourced> Clone for Entity<E> {
    fn clone(&self) -> Self {
        Self {
            services: Arc::clone(&self.services),
            event_codec: Arc::clone(&self.event_codec),
            state_codec: self.state_codec.clone(),
            tag: self.tag.clone(),
            snapshot_when: self.snapshot_when.clone(),
            on_signal: self.on_signal.clone(),
            last_command: self.last_command.clone(),
            tell: self.tell.clone(),
            commands: self.commands.clone(),
            publisher: self.publisher,
            recovery: self.recovery,
            kept: self.kept,
            config: self.config.clone(),
        }
    }
}

impl<E: EventSourced> fmt::Debug for Entity<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entity")
            .field("type", &E::TYPE)
            .field("event_codec", &self.event_codec)
            .field("state_codec", &self.state_codec)
            .field("commands", &self.commands)
            .field("recovery", &self.recovery)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// An entity type as the workers share it.
pub(crate) struct EntityDef<E: EventSourced> {
    /// The number of the store that keeps it.
    pub(crate) store: usize,
    pub(crate) services: Arc<E::Services>,
    pub(crate) event_codec: Arc<dyn Codec<E::Event>>,
    pub(crate) state_codec: Option<Arc<dyn Codec<E>>>,
    pub(crate) tag: Option<Tag<E>>,
    pub(crate) snapshot_when: Option<SnapshotWhen<E>>,
    pub(crate) on_signal: Option<OnSignal<E>>,
    pub(crate) last_command: Option<LastCommand<E>>,
    pub(crate) tell: Option<Tell<E>>,
    pub(crate) commands: Commands<E>,
    pub(crate) kept: Kept,
    pub(crate) publisher: Option<Publisher<E>>,
    pub(crate) recovery: Recovery,
    pub(crate) config: EntityConfig,
}
