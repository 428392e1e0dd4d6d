//! Events that tell of the changes of durable states, so that others can follow them.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use perennial_persistence::{Codec, MessagePack};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Durable, DurableState};
use crate::event_sourced::Entity;

/// A change of a state, as the handler of [change events](Entity::change_events) sees it.
pub struct Changed<'a, S> {
    before: Option<&'a S>,
    after: Option<&'a S>,
    cause: Option<&'a (dyn Any + Send + Sync)>,
}

impl<'a, S> Changed<'a, S> {
    /// The state before; `None` if there was none.
    pub fn before(&self) -> Option<&'a S> {
        self.before
    }

    /// The state from now on; `None` if it is deleted.
    pub fn after(&self) -> Option<&'a S> {
        self.after
    }

    /// What the command's handler gave as the cause ([`Cx::put_because`], [`Cx::delete_because`]),
    /// if that is a `C`.
    ///
    /// [`Cx::put_because`]: crate::Cx::put_because
    /// [`Cx::delete_because`]: crate::Cx::delete_because
    pub fn cause<C: 'static>(&self) -> Option<&'a C> {
        self.cause?.downcast_ref()
    }
}

impl<S: fmt::Debug> fmt::Debug for Changed<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changed")
            .field("before", &self.before)
            .field("after", &self.after)
            .finish_non_exhaustive()
    }
}

impl<S: DurableState> Entity<Durable<S>> {
    /// Has an event written for every change of the state, as MessagePack with the manifest
    /// `<TYPE>.Event`, so that projections can follow the entity as they follow one that keeps
    /// events.
    ///
    /// The event stands in the journal under the state's revision, with the tags of the change,
    /// and is stored in the transaction of the state. `tell` makes it before the change is stored;
    /// when it panics, or when what it gives cannot be encoded or is larger than
    /// `max-event-bytes`, the command is refused and nothing of it happens.
    ///
    /// Every change gives an event: readers of the journal take a missing number for an event that
    /// is still to come, and wait for it. So do not take the handler away for a while. Given to an
    /// entity type that has states already, its first event has the next revision as its number,
    /// which readers accept as they accept an entity whose first events were deleted.
    ///
    /// A system whose store removes the rows of deleted states does not start with it, as numbers
    /// would begin again.
    ///
    /// ```
    /// use perennial_core::{Cx, Durable, DurableState, Effect, Entity, Handle};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Default, Serialize, Deserialize)]
    /// struct Profile {
    ///     name: String,
    /// }
    ///
    /// impl DurableState for Profile {
    ///     const TYPE: &'static str = "Profile";
    ///     type Services = ();
    /// }
    ///
    /// struct Rename(String);
    ///
    /// impl Handle<Rename> for Durable<Profile> {
    ///     type Reply = ();
    ///
    ///     fn handle(&self, command: Rename, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
    ///         let name = command.0.clone();
    ///         cx.put_because(Profile { name }, command).reply(|_| ())
    ///     }
    /// }
    ///
    /// #[derive(Serialize, Deserialize)]
    /// enum ProfileEvent {
    ///     Renamed { from: Option<String>, to: String },
    ///     Changed,
    ///     Deleted,
    /// }
    ///
    /// let profiles = Entity::<Durable<Profile>>::durable(()).change_events(|changed| {
    ///     if changed.after().is_none() {
    ///         return ProfileEvent::Deleted;
    ///     }
    ///     match changed.cause::<Rename>() {
    ///         Some(Rename(name)) => ProfileEvent::Renamed {
    ///             from: changed.before().map(|profile| profile.name.clone()),
    ///             to: name.clone(),
    ///         },
    ///         None => ProfileEvent::Changed,
    ///     }
    /// });
    /// ```
    ///
    /// Source: Akka `ChangeEventHandler`.
    #[must_use]
    pub fn change_events<V>(
        self,
        tell: impl Fn(&Changed<'_, S>) -> V + Send + Sync + 'static,
    ) -> Self
    where
        V: Serialize + DeserializeOwned + Send + 'static,
    {
        let codec = MessagePack::new(format!("{}.Event", S::TYPE));
        self.change_events_with_codec(codec, tell)
    }

    /// As [`Entity::change_events`], with a codec of your own.
    #[must_use]
    pub fn change_events_with_codec<V: Send + 'static>(
        self,
        codec: impl Codec<V>,
        tell: impl Fn(&Changed<'_, S>) -> V + Send + Sync + 'static,
    ) -> Self {
        self.telling(Arc::new(move |state, earlier, change| {
            let before = match earlier {
                Some(earlier) => earlier.state(),
                None => state.is_there().then_some(&**state),
            };
            codec.encode(&tell(&Changed {
                before,
                after: change.state(),
                cause: change.cause.as_deref(),
            }))
        }))
    }
}
