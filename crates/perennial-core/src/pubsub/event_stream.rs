//! The event stream: publish and subscribe by the type of the message.

use std::any::type_name;
use std::fmt;
use std::sync::{Arc, OnceLock};

use perennial_persistence::{PersistenceId, SequenceNr, Timestamp};

use crate::actor::Recipient;
use crate::error::AskError;
use crate::pubsub::{Backlog, Shared, Shelf, Subscription, Topic, TopicsLife};

/// The event stream of a system: publish and subscribe without a name, by the type of the message.
/// Cheap to clone. There is one [`Topic`] per type behind it, which [`EventStream::topic`] gives.
///
/// The system itself publishes here:
///
/// - a [`DeadLetter`](crate::DeadLetter) for each message to an actor that was accepted and is not
///   handled, those that it calls unhandled included;
/// - an [`UnhandledCommand`] for each command that an entity calls unhandled;
/// - a [`Published`] for each event of an entity type with
///   [`Entity::publish_events`](crate::Entity::publish_events), once it is stored.
///
/// ```
/// use perennial_core::config::ConfigSource;
/// use perennial_core::{Actor, ActorCx, ActorSystem, Backlog, DeadLetter, Receive, Received};
///
/// struct Silent;
/// impl Actor for Silent {}
/// struct Hello;
/// impl Receive<Hello> for Silent {
///     type Reply = ();
///     fn receive(&mut self, _: Hello, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
///         cx.unhandled()
///     }
/// }
///
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let system = ActorSystem::in_memory(ConfigSource::empty()).start().await?;
/// let mut letters = system.event_stream().stream::<DeadLetter>(Backlog::default());
/// system.spawn("silent", || Silent)?.tell(Hello)?;
/// let letter = letters.recv().await.expect("the system runs");
/// assert_eq!(letter.to.to_string(), "/silent");
/// # system.shutdown().await?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct EventStream {
    topics: Arc<Topics>,
}

impl EventStream {
    pub(crate) fn new(topics: Arc<Topics>) -> Self {
        Self { topics }
    }

    /// The topic of a message type.
    pub fn topic<M: Clone + Send + 'static>(&self) -> Topic<M> {
        self.topics.of_type()
    }

    /// As [`Topic::publish`], for the topic of the message's type.
    ///
    /// # Errors
    /// As [`Topic::publish`].
    pub fn publish<M: Clone + Send + 'static>(&self, message: M) -> Result<(), AskError> {
        self.topic().publish(message)
    }

    /// As [`Topic::subscribe`], for the topic of a message type.
    ///
    /// # Errors
    /// As [`Topic::subscribe`].
    pub fn subscribe<M: Clone + Send + 'static>(
        &self,
        subscriber: impl Into<Recipient<M>>,
        backlog: Backlog,
    ) -> Result<(), AskError> {
        self.topic().subscribe(subscriber, backlog)
    }

    /// As [`Topic::stream`], for the topic of a message type.
    pub fn stream<M: Clone + Send + 'static>(&self, backlog: Backlog) -> Subscription<M> {
        self.topic().stream(backlog)
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream").finish_non_exhaustive()
    }
}

/// All topics of a system.
#[derive(Default)]
pub(crate) struct Topics {
    named: Shelf,
    by_type: Shelf,
    life: Arc<TopicsLife>,
}

impl Topics {
    pub(crate) fn named<M: Clone + Send + 'static>(&self, name: &str) -> Topic<M> {
        Topic::of(self.named.get(name, || Shared::new(name, &self.life)))
    }

    pub(crate) fn of_type<M: Clone + Send + 'static>(&self) -> Topic<M> {
        let name = type_name::<M>();
        Topic::of(self.by_type.get(name, || Shared::new(name, &self.life)))
    }

    /// A topic that is found nowhere.
    pub(crate) fn unnamed<M: Clone + Send + 'static>(&self, name: &str) -> Topic<M> {
        Topic::of(Arc::new(Shared::new(name, &self.life)))
    }

    pub(crate) fn life(&self) -> &Arc<TopicsLife> {
        &self.life
    }

    /// Ends every subscription: nothing is published any more.
    pub(crate) fn end(&self) {
        self.life.end();
        self.named.end();
        self.by_type.end();
    }
}

/// An event of an entity that is stored. Published on the [`EventStream`] for entity types with
/// [`Entity::publish_events`](crate::Entity::publish_events), by the type of the event.
///
/// It comes after the commit, and those of one entity come in their order, each once. It is news, not
/// a record: what is stored shortly before a crash may never be published, and what a subscriber has
/// no room for is lost to it. Whoever must see every event reads the journal.
pub struct Published<Ev> {
    /// Whose event it is.
    pub persistence_id: PersistenceId,
    /// Its number.
    pub seq_nr: SequenceNr,
    /// When it was stored, by the store.
    pub timestamp: Timestamp,
    /// The event, shared by all subscribers.
    pub event: Arc<Ev>,
}

impl<Ev> Clone for Published<Ev> {
    fn clone(&self) -> Self {
        Self {
            persistence_id: self.persistence_id.clone(),
            seq_nr: self.seq_nr,
            timestamp: self.timestamp,
            event: Arc::clone(&self.event),
        }
    }
}

impl<Ev> fmt::Debug for Published<Ev> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Published")
            .field("persistence_id", &self.persistence_id)
            .field("seq_nr", &self.seq_nr)
            .field("timestamp", &self.timestamp)
            .finish_non_exhaustive()
    }
}

/// A command that its entity called unhandled. Published on the [`EventStream`] when its sender is
/// told. The command itself is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnhandledCommand {
    /// The entity.
    pub persistence_id: PersistenceId,
    /// The command's Rust type.
    pub command: &'static str,
}

/// Publishes the events of an entity type.
pub(crate) trait PublishEvents<Ev>: Send + Sync {
    /// Whether anybody wants them.
    fn is_wanted(&self, topics: &Topics) -> bool;

    /// Keeps the events of one write until it is stored. `first` is the number of the first one.
    fn keep(&self, events: Vec<Ev>, first: SequenceNr) -> Box<dyn Unpublished>;
}

/// Events of one write that is not stored yet.
pub(crate) trait Unpublished: Send {
    /// It is stored.
    fn publish(self: Box<Self>, id: &PersistenceId, timestamp: Timestamp);
}

/// Publishes the events of an entity type on the event stream.
pub(crate) struct ToStream<Ev> {
    /// Found at the first event.
    topic: OnceLock<Topic<Published<Ev>>>,
}

impl<Ev> Default for ToStream<Ev> {
    fn default() -> Self {
        Self {
            topic: OnceLock::new(),
        }
    }
}

impl<Ev: Send + Sync + 'static> PublishEvents<Ev> for ToStream<Ev> {
    fn is_wanted(&self, topics: &Topics) -> bool {
        self.topic
            .get_or_init(|| topics.of_type())
            .has_subscribers()
    }

    fn keep(&self, events: Vec<Ev>, first: SequenceNr) -> Box<dyn Unpublished> {
        Box::new(Kept {
            events,
            first,
            topic: self.topic.get().cloned(),
        })
    }
}

struct Kept<Ev> {
    events: Vec<Ev>,
    first: SequenceNr,
    topic: Option<Topic<Published<Ev>>>,
}

impl<Ev: Send + Sync + 'static> Unpublished for Kept<Ev> {
    fn publish(self: Box<Self>, id: &PersistenceId, timestamp: Timestamp) {
        let Some(topic) = self.topic else {
            return;
        };
        for (index, event) in (0..).zip(self.events) {
            topic.publish_regardless(Published {
                persistence_id: id.clone(),
                seq_nr: self.first.plus(index),
                timestamp,
                event: Arc::new(event),
            });
        }
    }
}
