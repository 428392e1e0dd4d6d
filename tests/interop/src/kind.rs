//! One kind of entity: what it keeps, and how it is asked whatever its types are.

use std::error::Error;
use std::marker::PhantomData;
use std::time::Duration;

use perennial_core::{
    ActorSystem, Cx, Durable, DurableState, Effect, Entity, EventSourced, Handle, Retention,
    Signal, SystemBuilder,
};
use perennial_persistence::{
    BoxFuture, Codec, CodecError, Format, PersistenceId, SchemaBuilder, SerializedPayload,
};
use serde_json::value::RawValue;
use tokio::sync::mpsc::UnboundedSender;

use crate::json::Json;

/// The package of the JVM's classes, which stand in manifests.
pub(crate) const PACKAGE: &str = "perennial.golden";

/// How long an entity may take for an answer; the JVM's program waits as long.
const WAIT: Duration = Duration::from_secs(30);

/// Where entities say what happens to them besides commands.
pub(crate) type Notices = UnboundedSender<(PersistenceId, Signal)>;

/// When a kind takes snapshots.
#[derive(Debug, Clone, Copy)]
pub struct Snapshots {
    /// Every so many events.
    pub every: u64,
    /// How many intervals of events stay.
    pub keep: u64,
    /// Whether the events before those are deleted.
    pub delete_events: bool,
}

impl Snapshots {
    fn retention(self) -> Retention {
        let retention = Retention::every(self.every).keep(self.keep);
        if self.delete_events {
            retention.delete_events()
        } else {
            retention
        }
    }
}

/// A kind of which events are kept; the value is the state.
pub(crate) trait Kind: Default + Send + Sync + 'static {
    const NAME: &'static str;
    const SNAPSHOTS: Option<Snapshots> = None;
    /// Why this program does not write it, if it does not.
    const READ_ONLY: Option<&'static str> = None;

    type Event: Send + Sync + 'static;

    /// How events are stored.
    fn events() -> SchemaBuilder<Self::Event>;

    /// How snapshots are stored, if there are any.
    fn states() -> Option<SchemaBuilder<Self>> {
        None
    }

    fn apply(&mut self, event: &Self::Event, metadata: Option<&SerializedPayload>);

    fn tags(_event: &Self::Event) -> Vec<String> {
        Vec::new()
    }

    /// The event of a command, as a payload of its current version; unless said otherwise, of
    /// events without names.
    fn event_payload(json: &RawValue) -> Result<SerializedPayload, String> {
        Ok(json_payload("", json))
    }

    /// An event as the lines show it.
    fn event_json(event: &Self::Event) -> Result<Json, CodecError>;

    /// The state as the lines show it.
    fn state_json(&self) -> Result<Json, CodecError>;
}

/// A kind of which the latest state is kept.
pub(crate) trait StateKind: DurableState<Services = Notices> {
    /// How it is stored.
    fn states() -> SchemaBuilder<Self>;

    /// The state of a command, as a payload.
    fn state_payload(json: &RawValue) -> SerializedPayload;

    /// The state as the lines show it.
    fn state_json(&self) -> Result<Json, CodecError>;

    /// The tag, which is a matter of the id; kept beside the state until it is stored.
    fn tag_of(&mut self, _id: &PersistenceId) {}

    fn tags(&self) -> Vec<String> {
        Vec::new()
    }
}

/// A payload of JSON with a class of the JVM's as manifest.
pub(crate) fn json_payload(manifest: &str, json: &RawValue) -> SerializedPayload {
    let bytes = json.get().as_bytes().to_vec();
    SerializedPayload::new(Format::JacksonJson.serializer_id(), manifest, bytes)
}

/// What an entity is asked.
#[derive(Debug)]
pub enum Question {
    /// What it has in memory.
    Get,
    /// To store these events in one atomic write.
    Persist(Vec<Box<RawValue>>),
    /// To replace its state.
    Put(Box<RawValue>),
    /// To delete its state.
    Delete,
    /// To leave memory.
    Stop,
}

/// An entity's answer.
pub type Answer = Result<Seen, String>;

/// What an entity has in memory.
#[derive(Debug)]
pub struct Seen {
    /// The number of its last event, or the revision of its state.
    pub number: u64,
    /// Its state.
    pub state: Json,
}

/// A kind whose types are not known.
pub trait AnyKind: Send + Sync {
    /// Whether only the latest state is kept.
    fn is_durable(&self) -> bool;

    /// When snapshots are taken.
    fn snapshots(&self) -> Option<Snapshots>;

    /// Why it is not written by this program, if it is not.
    fn read_only(&self) -> Option<&'static str>;

    /// Adds the entity type to a system.
    fn register(&self, builder: SystemBuilder, notices: Notices) -> SystemBuilder;

    /// Asks an entity.
    fn ask<'a>(
        &'a self,
        system: &'a ActorSystem,
        id: PersistenceId,
        question: Question,
    ) -> BoxFuture<'a, Answer>;

    /// A stored event as the lines show it.
    ///
    /// # Errors
    /// If it cannot be decoded.
    fn event(&self, payload: &SerializedPayload) -> Result<Json, CodecError>;

    /// A stored snapshot or durable state as the lines show it.
    ///
    /// # Errors
    /// If it cannot be decoded.
    fn state(&self, payload: &SerializedPayload) -> Result<Json, CodecError>;
}

/// An error with its causes, in one line.
pub(crate) fn describe(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text} <- {cause}");
        source = cause.source();
    }
    text
}

fn built<T: 'static>(builder: SchemaBuilder<T>) -> perennial_persistence::Schema<T> {
    builder
        .build()
        .expect("the schemas of the kinds make sense")
}

/// A [`Kind`] as an entity.
#[derive(Default)]
pub(crate) struct Journaled<K>(K);

impl<K: Kind> EventSourced for Journaled<K> {
    const TYPE: &'static str = K::NAME;
    type Event = K::Event;
    type Services = Notices;

    fn apply(&mut self, event: &K::Event) {
        self.0.apply(event, None);
    }

    fn apply_with_metadata(&mut self, event: &K::Event, metadata: Option<&SerializedPayload>) {
        self.0.apply(event, metadata);
    }
}

/// The codec of a kind's snapshots, for the entity around it.
struct Snapshot<K>(perennial_persistence::Schema<K>);

impl<K> std::fmt::Debug for Snapshot<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl<K: Kind> Codec<Journaled<K>> for Snapshot<K> {
    fn encode(&self, entity: &Journaled<K>) -> Result<SerializedPayload, CodecError> {
        self.0.encode(&entity.0)
    }

    fn decode(&self, payload: &SerializedPayload) -> Result<Journaled<K>, CodecError> {
        self.0.decode(payload).map(Journaled)
    }
}

pub(crate) struct Persist<K: Kind>(Vec<K::Event>);
pub(crate) struct Put<S>(S);
pub(crate) struct Get;
pub(crate) struct Delete;
pub(crate) struct Stop;

fn seen(number: u64, state: Result<Json, CodecError>) -> Answer {
    let state = state.map_err(|error| describe(&error))?;
    Ok(Seen { number, state })
}

impl<K: Kind> Handle<Persist<K>> for Journaled<K> {
    type Reply = Answer;

    fn handle(&self, command: Persist<K>, cx: &Cx<'_, Self>) -> Effect<Self, Answer> {
        let count = u64::try_from(command.0.len()).unwrap_or(u64::MAX);
        let number = cx.sequence_nr().value() + count;
        cx.persist(command.0)
            .reply(move |entity| seen(number, entity.0.state_json()))
    }
}

impl<K: Kind> Handle<Get> for Journaled<K> {
    type Reply = Answer;

    fn handle(&self, _: Get, cx: &Cx<'_, Self>) -> Effect<Self, Answer> {
        cx.reply(seen(cx.sequence_nr().value(), self.0.state_json()))
    }
}

impl<K: Kind> Handle<Stop> for Journaled<K> {
    type Reply = Answer;

    fn handle(&self, _: Stop, cx: &Cx<'_, Self>) -> Effect<Self, Answer> {
        let answer = seen(cx.sequence_nr().value(), self.0.state_json());
        cx.stop().reply(|_| answer)
    }
}

impl<S: StateKind> Handle<Put<S>> for Durable<S> {
    type Reply = Answer;

    fn handle(&self, mut command: Put<S>, cx: &Cx<'_, Self>) -> Effect<Self, Answer> {
        let number = cx.sequence_nr().value() + 1;
        command.0.tag_of(cx.persistence_id());
        cx.put(command.0)
            .reply(move |state| seen(number, state.state_json()))
    }
}

impl<S: StateKind> Handle<Delete> for Durable<S> {
    type Reply = Answer;

    fn handle(&self, _: Delete, cx: &Cx<'_, Self>) -> Effect<Self, Answer> {
        let number = cx.sequence_nr().value() + 1;
        cx.delete()
            .reply(move |state| seen(number, state.state_json()))
    }
}

impl<S: StateKind> Handle<Get> for Durable<S> {
    type Reply = Answer;

    fn handle(&self, _: Get, cx: &Cx<'_, Self>) -> Effect<Self, Answer> {
        cx.reply(seen(cx.sequence_nr().value(), self.state_json()))
    }
}

impl<S: StateKind> Handle<Stop> for Durable<S> {
    type Reply = Answer;

    fn handle(&self, _: Stop, cx: &Cx<'_, Self>) -> Effect<Self, Answer> {
        let answer = seen(cx.sequence_nr().value(), self.state_json());
        cx.stop().reply(|_| answer)
    }
}

/// A journaled kind by its type, with what reads and writes its events.
pub(crate) struct Events<K: Kind>(perennial_persistence::Schema<K::Event>);

impl<K: Kind> Events<K> {
    pub(crate) fn new() -> Self {
        Self(built(K::events()))
    }
}

/// A kind with durable state by its type.
pub(crate) struct States<S>(pub(crate) PhantomData<fn(S)>);

async fn answer_of<E, C>(system: &ActorSystem, id: PersistenceId, command: C) -> Answer
where
    E: Handle<C, Reply = Answer>,
    C: Send + 'static,
{
    let entity = system.entity_with_id::<E>(id);
    match entity.ask(command).timeout(WAIT).await {
        Ok(answer) => answer,
        Err(error) => Err(describe(&error)),
    }
}

impl<K: Kind> AnyKind for Events<K> {
    fn is_durable(&self) -> bool {
        false
    }

    fn snapshots(&self) -> Option<Snapshots> {
        K::SNAPSHOTS
    }

    fn read_only(&self) -> Option<&'static str> {
        K::READ_ONLY
    }

    fn register(&self, builder: SystemBuilder, notices: Notices) -> SystemBuilder {
        let mut entity = Entity::<Journaled<K>>::with_event_codec(notices, built(K::events()))
            .tags(|_, event| K::tags(event))
            .on_signal(|_, signal, cx| tell(cx, signal))
            .passivate_after(None);
        if let Some(states) = K::states() {
            entity = entity.state_codec(Snapshot(built(states)));
        }
        if let Some(snapshots) = K::SNAPSHOTS {
            entity = entity.retention(snapshots.retention());
        }
        builder.entity(entity)
    }

    fn ask<'a>(
        &'a self,
        system: &'a ActorSystem,
        id: PersistenceId,
        question: Question,
    ) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            match question {
                Question::Get => answer_of::<Journaled<K>, _>(system, id, Get).await,
                Question::Stop => answer_of::<Journaled<K>, _>(system, id, Stop).await,
                Question::Persist(events) => {
                    let events = events.iter().map(|json| {
                        let payload = K::event_payload(json)?;
                        self.0.decode(&payload).map_err(|error| describe(&error))
                    });
                    let events = events.collect::<Result<_, String>>()?;
                    answer_of::<Journaled<K>, _>(system, id, Persist::<K>(events)).await
                }
                Question::Put(_) | Question::Delete => {
                    Err(format!("{} keeps events, not its latest state", K::NAME))
                }
            }
        })
    }

    fn event(&self, payload: &SerializedPayload) -> Result<Json, CodecError> {
        K::event_json(&self.0.decode(payload)?)
    }

    fn state(&self, payload: &SerializedPayload) -> Result<Json, CodecError> {
        match K::states() {
            Some(states) => built(states).decode(payload)?.state_json(),
            None => Err(CodecError::undecodable(format!(
                "{} takes no snapshots",
                K::NAME
            ))),
        }
    }
}

impl<S: StateKind> AnyKind for States<S> {
    fn is_durable(&self) -> bool {
        true
    }

    fn snapshots(&self) -> Option<Snapshots> {
        None
    }

    fn read_only(&self) -> Option<&'static str> {
        None
    }

    fn register(&self, builder: SystemBuilder, notices: Notices) -> SystemBuilder {
        let entity = Entity::<Durable<S>>::durable_with_codec(notices, built(S::states()))
            .tags(|state, _| state.tags())
            .on_signal(|_, signal, cx| tell(cx, signal))
            .passivate_after(None);
        builder.entity(entity)
    }

    fn ask<'a>(
        &'a self,
        system: &'a ActorSystem,
        id: PersistenceId,
        question: Question,
    ) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            match question {
                Question::Get => answer_of::<Durable<S>, _>(system, id, Get).await,
                Question::Stop => answer_of::<Durable<S>, _>(system, id, Stop).await,
                Question::Delete => answer_of::<Durable<S>, _>(system, id, Delete).await,
                Question::Put(json) => {
                    let state = built(S::states()).decode(&S::state_payload(&json));
                    let state = state.map_err(|error| describe(&error))?;
                    answer_of::<Durable<S>, _>(system, id, Put(state)).await
                }
                Question::Persist(_) => Err(format!("{} keeps no events", S::TYPE)),
            }
        })
    }

    fn event(&self, _: &SerializedPayload) -> Result<Json, CodecError> {
        Err(CodecError::undecodable(format!(
            "{} keeps no events",
            S::TYPE
        )))
    }

    fn state(&self, payload: &SerializedPayload) -> Result<Json, CodecError> {
        built(S::states()).decode(payload)?.state_json()
    }
}

fn tell<E: EventSourced<Services = Notices>>(cx: &Cx<'_, E>, signal: &Signal) {
    // Nobody listens while the program ends.
    let _ = cx
        .services()
        .send((cx.persistence_id().clone(), signal.clone()));
}
