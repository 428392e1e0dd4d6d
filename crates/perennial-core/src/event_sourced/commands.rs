//! Commands with stable names: those that an entity gets from outside of this process, or from its
//! own past.

use std::any::{Any, TypeId, type_name};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use perennial_persistence::{
    BoxFuture, Codec, CodecError, MAX_MANIFEST_CHARS, MessagePack, Named, SerializedPayload,
};

use crate::engine::{Address, Delivery, Envelope, FiredReminder};
use crate::entity_ref::EntityRef;
use crate::error::AskError;
use crate::event_sourced::{EventSourced, Handle};

/// The commands of an entity type that have names.
pub(crate) struct Commands<E> {
    list: Vec<Arc<dyn NamedCommand<E>>>,
}

/// One kind of command whose Rust type is forgotten.
trait NamedCommand<E>: Send + Sync {
    /// The type of the command.
    fn command_type(&self) -> TypeId;

    fn type_name(&self) -> &'static str;

    /// What new payloads are called.
    fn written(&self) -> Vec<String>;

    /// Encodes a command, which is of this type.
    fn encode(&self, command: &dyn Any) -> Result<SerializedPayload, CodecError>;

    /// The command in a payload, on its way to an entity that is reminded.
    fn remind(
        &self,
        payload: &SerializedPayload,
        address: &Arc<Address>,
    ) -> Result<MakeDelivery, CodecError>;

    /// Has an entity asked with the command in a payload.
    fn ask(
        &self,
        payload: &SerializedPayload,
        entity: EntityRef<E>,
        timeout: Option<Duration>,
    ) -> Result<AnswerFuture, CodecError>;

    /// The codec of its replies, an `Arc<dyn Codec<E::Reply>>`.
    fn replies(&self) -> &dyn Any;
}

/// Makes what is delivered once it is known who is told of its end.
pub(crate) type MakeDelivery = Box<dyn FnOnce(FiredReminder) -> Box<dyn Delivery>>;

/// The encoded reply.
pub type AnswerFuture = BoxFuture<'static, Result<SerializedPayload, AskError>>;

struct Of<E: Handle<C>, C: Send + 'static> {
    commands: Arc<dyn Named<C>>,
    replies: Arc<dyn Codec<E::Reply>>,
}

impl<E: Handle<C>, C: Send + 'static> NamedCommand<E> for Of<E, C> {
    fn command_type(&self) -> TypeId {
        TypeId::of::<C>()
    }

    fn type_name(&self) -> &'static str {
        type_name::<C>()
    }

    fn written(&self) -> Vec<String> {
        self.commands.written()
    }

    fn encode(&self, command: &dyn Any) -> Result<SerializedPayload, CodecError> {
        let command = command
            .downcast_ref()
            .expect("a command is looked up by its type");
        self.commands.encode(command)
    }

    fn remind(
        &self,
        payload: &SerializedPayload,
        address: &Arc<Address>,
    ) -> Result<MakeDelivery, CodecError> {
        let command = self.commands.decode(payload)?;
        let address = Arc::clone(address);
        Ok(Box::new(move |fired| {
            Box::new(Envelope::<E, C>::reminder(address, command, fired))
        }))
    }

    fn ask(
        &self,
        payload: &SerializedPayload,
        entity: EntityRef<E>,
        timeout: Option<Duration>,
    ) -> Result<AnswerFuture, CodecError> {
        let command = self.commands.decode(payload)?;
        let replies = Arc::clone(&self.replies);
        let mut ask = entity.ask(command);
        if let Some(timeout) = timeout {
            ask = ask.timeout(timeout);
        }
        let asking = ask.into_future();
        Ok(Box::pin(async move {
            let reply = asking.await?;
            replies.encode(&reply).map_err(|error| {
                tracing::error!(
                    command = type_name::<C>(),
                    error = %crate::error::chain(&error),
                    "the reply to a command cannot be encoded"
                );
                AskError::Unknown {
                    reason: "the command was handled, but its reply cannot be encoded",
                }
            })
        }))
    }

    fn replies(&self) -> &dyn Any {
        &self.replies
    }
}

impl<E: EventSourced> Commands<E> {
    pub(crate) fn none() -> Self {
        Self { list: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Adds a kind of command.
    pub(crate) fn add<C: Send + 'static>(
        &mut self,
        commands: Arc<dyn Named<C>>,
        replies: Arc<dyn Codec<E::Reply>>,
    ) where
        E: Handle<C>,
    {
        self.list.push(Arc::new(Of::<E, C> { commands, replies }));
    }

    /// Checks the names.
    ///
    /// # Errors
    /// The first that is wrong.
    pub(crate) fn check(&self) -> Result<(), InvalidCommands> {
        let mut names: Vec<(String, &'static str)> = Vec::new();
        for (at, command) in self.list.iter().enumerate() {
            let (type_id, type_name) = (command.command_type(), command.type_name());
            if self.list[..at]
                .iter()
                .any(|other| other.command_type() == type_id)
            {
                return Err(InvalidCommands::Twice { command: type_name });
            }
            let written = command.written();
            if written.is_empty() {
                return Err(InvalidCommands::Nameless { command: type_name });
            }
            for manifest in written {
                let chars = manifest.chars().count();
                if chars == 0 || chars > MAX_MANIFEST_CHARS || manifest.contains('\0') {
                    let command = type_name;
                    return Err(InvalidCommands::Name { command, manifest });
                }
                let name = base(&manifest).to_owned();
                let taken = names
                    .iter()
                    .find(|(other, of)| *other == name && *of != type_name);
                if let Some((_, first)) = taken {
                    let (first, second) = (*first, type_name);
                    return Err(InvalidCommands::SameName {
                        name,
                        first,
                        second,
                    });
                }
                names.push((name, type_name));
            }
        }
        Ok(())
    }

    /// Encodes a command.
    ///
    /// # Errors
    /// [`CommandError`] if it has no name or its codec fails.
    pub(crate) fn encode(
        &self,
        type_id: TypeId,
        command: &dyn Any,
        command_name: &'static str,
    ) -> Result<SerializedPayload, CommandError> {
        let named = self.of_type(type_id, command_name)?;
        named
            .encode(command)
            .map_err(|error| self.failed(command_name, error))
    }

    /// Decodes the command of a reminder.
    ///
    /// # Errors
    /// [`CommandError`] if nothing is known of it.
    pub(crate) fn remind(
        &self,
        payload: &SerializedPayload,
        address: &Arc<Address>,
    ) -> Result<MakeDelivery, CommandError> {
        self.decode(payload, |command| command.remind(payload, address))
    }

    /// The codec of the replies to one kind of command.
    fn replies<C: Send + 'static>(&self) -> Result<&Arc<dyn Codec<E::Reply>>, CommandError>
    where
        E: Handle<C>,
    {
        let named = self.of_type(TypeId::of::<C>(), type_name::<C>())?;
        let replies = named.replies().downcast_ref();
        Ok(replies.expect("a command has one type of replies"))
    }

    fn of_type(
        &self,
        type_id: TypeId,
        command: &'static str,
    ) -> Result<&Arc<dyn NamedCommand<E>>, CommandError> {
        let mut list = self.list.iter();
        let named = list.find(|named| named.command_type() == type_id);
        named.ok_or(CommandError::Unnamed {
            entity_type: E::TYPE,
            command,
        })
    }

    /// Has a payload decoded by whoever knows its name, or else by the first who can read it: a codec
    /// may know older names than those that it writes.
    fn decode<T>(
        &self,
        payload: &SerializedPayload,
        decode: impl Fn(&dyn NamedCommand<E>) -> Result<T, CodecError>,
    ) -> Result<T, CommandError> {
        let manifest = &*payload.manifest;
        let name = base(manifest);
        let is_named = |command: &Arc<dyn NamedCommand<E>>| {
            let written = command.written();
            written.iter().any(|written| base(written) == name)
        };
        if let Some(command) = self.list.iter().find(|command| is_named(command)) {
            return decode(&**command).map_err(|error| self.failed(manifest, error));
        }
        for command in &self.list {
            match decode(&**command) {
                Ok(decoded) => return Ok(decoded),
                Err(
                    CodecError::UnknownName { .. }
                    | CodecError::UnknownManifest { .. }
                    | CodecError::UnknownSerializer { .. }
                    | CodecError::UnknownFormat { .. },
                ) => {}
                Err(error) => return Err(self.failed(manifest, error)),
            }
        }
        let mut known: Vec<String> = self.list.iter().flat_map(|one| one.written()).collect();
        known.sort_unstable();
        Err(CommandError::UnknownName {
            entity_type: E::TYPE.to_owned(),
            manifest: manifest.to_owned(),
            known: known.join(", "),
        })
    }

    fn failed(&self, command: &str, source: CodecError) -> CommandError {
        CommandError::Codec {
            entity_type: E::TYPE,
            command: command.to_owned(),
            source,
        }
    }
}

/// A manifest without its version.
fn base(manifest: &str) -> &str {
    match manifest.rsplit_once('#') {
        Some((name, version)) if version.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => manifest,
    }
}

impl<E> Clone for Commands<E> {
    fn clone(&self) -> Self {
        Self {
            list: self.list.clone(),
        }
    }
}

impl<E> fmt::Debug for Commands<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.list.iter().flat_map(|command| command.written());
        f.debug_list().entries(names).finish()
    }
}

/// The codecs of a command and its reply that need no more than a name.
pub(crate) fn named<C, R>(name: &str) -> (Arc<dyn Named<C>>, Arc<dyn Codec<R>>)
where
    C: serde::Serialize + serde::de::DeserializeOwned + 'static,
    R: serde::Serialize + serde::de::DeserializeOwned + 'static,
{
    let replies = MessagePack::new(format!("{name}.Reply"));
    (Arc::new(MessagePack::new(name)), Arc::new(replies))
}

/// The commands of an entity type that is forgotten, for what is not typed: what comes from another
/// node.
pub(crate) trait AnyCommands: Any + Send + Sync {
    /// Has the entity at an address asked with the command in a payload.
    ///
    /// # Errors
    /// [`CommandError`] if it cannot be decoded; nothing was sent then.
    fn ask(
        &self,
        address: Arc<Address>,
        payload: &SerializedPayload,
        timeout: Option<Duration>,
    ) -> Result<AnswerFuture, CommandError>;
}

impl<E: EventSourced> AnyCommands for Commands<E> {
    fn ask(
        &self,
        address: Arc<Address>,
        payload: &SerializedPayload,
        timeout: Option<Duration>,
    ) -> Result<AnswerFuture, CommandError> {
        let entity = EntityRef::new(address);
        self.decode(payload, |command| {
            command.ask(payload, entity.clone(), timeout)
        })
    }
}

impl dyn AnyCommands {
    /// Encodes a command for an entity elsewhere.
    ///
    /// # Errors
    /// [`CommandError`] if it has no name or its codec fails.
    pub(crate) fn encode<E: Handle<C>, C: Send + 'static>(
        &self,
        command: &C,
    ) -> Result<SerializedPayload, CommandError> {
        let commands = self.typed::<E>();
        commands.encode(TypeId::of::<C>(), command, type_name::<C>())
    }

    /// Decodes the reply to a command from elsewhere.
    ///
    /// # Errors
    /// [`CommandError`] if the command has no name or its codec fails.
    pub(crate) fn decode_reply<E: Handle<C>, C: Send + 'static>(
        &self,
        payload: &SerializedPayload,
    ) -> Result<E::Reply, CommandError> {
        let commands = self.typed::<E>();
        let replies = commands.replies::<C>()?;
        let decoded = replies.decode(payload);
        decoded.map_err(|error| commands.failed(&payload.manifest, error))
    }

    fn typed<E: EventSourced>(&self) -> &Commands<E> {
        let commands = (self as &dyn Any).downcast_ref();
        commands.expect("commands are looked up by their entity type")
    }
}

/// Why a command cannot be encoded or decoded, or its reply.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The type of the command has no name.
    #[error(
        "command `{command}` of entity type \"{entity_type}\" has no name; give it one with \
         `Entity::command`"
    )]
    Unnamed {
        /// The entity type.
        entity_type: &'static str,
        /// The Rust type of the command.
        command: &'static str,
    },
    /// No command has such a name.
    #[error("entity type \"{entity_type}\" knows no command \"{manifest}\"; known here: {known}")]
    UnknownName {
        /// The entity type.
        entity_type: String,
        /// The payload's manifest.
        manifest: String,
        /// The manifests of new payloads.
        known: String,
    },
    /// There is no such entity type.
    #[error(
        "entity type \"{entity_type}\" is not registered; pass it to `entity(…)` before `start()`"
    )]
    UnknownEntityType {
        /// The name that was given.
        entity_type: String,
    },
    /// The codec failed, for example as the version is newer than those that it knows.
    #[error("\"{command}\" of entity type \"{entity_type}\" cannot be encoded or decoded")]
    Codec {
        /// The entity type.
        entity_type: &'static str,
        /// The manifest, or the Rust type of the command.
        command: String,
        /// What the codec says.
        #[source]
        source: CodecError,
    },
}

/// Why the named commands of an entity type cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidCommands {
    /// A command is given twice.
    #[error("command `{command}` is given two names")]
    Twice {
        /// Its Rust type.
        command: &'static str,
    },
    /// The codec of a command does not say what its payloads are called.
    #[error("the codec of command `{command}` writes no name")]
    Nameless {
        /// Its Rust type.
        command: &'static str,
    },
    /// The name cannot be stored.
    #[error(
        "command `{command}` is called {manifest:?}; a name has 1 to {MAX_MANIFEST_CHARS} \
         characters, without U+0000"
    )]
    Name {
        /// Its Rust type.
        command: &'static str,
        /// What it is called.
        manifest: String,
    },
    /// Two commands have one name.
    #[error("commands `{first}` and `{second}` are both called {name:?}")]
    SameName {
        /// The name without a version.
        name: String,
        /// A command that has it.
        first: &'static str,
        /// Another one.
        second: &'static str,
    },
}
