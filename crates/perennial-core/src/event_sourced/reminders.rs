//! Reminders of an entity: commands that it gets at a time, whatever happens until then.

use std::any::{Any, TypeId, type_name};
use std::borrow::Cow;
use std::time::Duration;

use perennial_persistence::Timestamp;

use crate::event_sourced::effect::Then;
use crate::event_sourced::{Cx, EventSourced, Handle};

/// When a reminder is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Due {
    /// So long after the time at which the handler runs ([`Cx::now`]). Times are kept in
    /// microseconds, rounded up; what would be after all times, in the year 9999, is due at their
    /// end.
    After(Duration),
    /// At this time. One that is past is due at once.
    At(Timestamp),
}

impl Due {
    /// The time in microseconds.
    pub(crate) fn at(self, now: Timestamp) -> Timestamp {
        const ALMOST_A_MICROSECOND: Duration = Duration::from_nanos(999);
        let time = match self {
            Self::After(after) => now.checked_add(after).unwrap_or(Timestamp::MAX),
            Self::At(time) => time,
        };
        let up = time.checked_add(ALMOST_A_MICROSECOND).unwrap_or(time);
        Timestamp::from_microsecond(up.as_microsecond()).unwrap_or(time)
    }
}

impl From<Duration> for Due {
    fn from(after: Duration) -> Self {
        Self::After(after)
    }
}

impl From<Timestamp> for Due {
    fn from(time: Timestamp) -> Self {
        Self::At(time)
    }
}

/// What an effect does to a reminder.
pub(crate) enum ReminderOp {
    Remind {
        key: Cow<'static, str>,
        due: Due,
        type_id: TypeId,
        type_name: &'static str,
        command: Box<dyn Any + Send>,
    },
    Forget(Cow<'static, str>),
}

impl ReminderOp {
    pub(crate) fn key(&self) -> &str {
        match self {
            Self::Remind { key, .. } | Self::Forget(key) => key,
        }
    }
}

impl<E: EventSourced> Then<E> {
    /// Has the entity get `command` at a time, in the transaction of the events: the reminder is
    /// there if and only if they are. It survives restarts, crashes and passivation, and brings its
    /// entity back. `key` names it among those of the entity, in 1 to 255 characters without U+0000;
    /// a reminder with the same key is replaced, also one that is due already and still waits.
    ///
    /// A reminder is handled as a command that nobody waits for. It is deleted in the transaction of
    /// what its handler persists, so that its events are stored once, whatever fails. A handler that
    /// persists nothing may see it again after a crash or when the store did not answer. When the
    /// command fails, it comes again after a wait that doubles, as that of a restart. One that is
    /// overdue after a long pause comes once. A handler that sets a reminder with the key of its
    /// own has it come again and again.
    ///
    /// Without events, the reminders of an effect are a write of their own: the reply leaves once
    /// they are durable. It has no number, and the reply of a command with an id is not stored with
    /// it.
    ///
    /// The command's type needs a name ([`Entity::command`](crate::Entity::command)), and the entity
    /// must keep events: a durable state has no reminders. Otherwise the caller gets
    /// [`AskError::PersistFailed`](crate::AskError::PersistFailed) and nothing of the effect happens;
    /// so it does when one effect has more reminders than `max-events-per-write` or a larger command
    /// than `max-event-bytes`.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use perennial_core::{Cx, Due, Effect, Entity, EventSourced, Handle};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Default)]
    /// struct Cart {
    ///     is_open: bool,
    /// }
    ///
    /// #[derive(Serialize, Deserialize)]
    /// enum CartEvent {
    ///     Opened,
    ///     Expired,
    /// }
    ///
    /// impl EventSourced for Cart {
    ///     const TYPE: &'static str = "Cart";
    ///     type Event = CartEvent;
    ///     type Services = ();
    ///
    ///     fn apply(&mut self, event: &CartEvent) {
    ///         self.is_open = matches!(event, CartEvent::Opened);
    ///     }
    /// }
    ///
    /// struct Open;
    ///
    /// impl Handle<Open> for Cart {
    ///     type Reply = ();
    ///
    ///     fn handle(&self, _: Open, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
    ///         cx.persist([CartEvent::Opened])
    ///             .remind("expire", Due::After(Duration::from_secs(24 * 3600)), Expire)
    ///             .reply(|_| ())
    ///     }
    /// }
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Expire;
    ///
    /// impl Handle<Expire> for Cart {
    ///     type Reply = ();
    ///
    ///     fn handle(&self, _: Expire, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
    ///         match self.is_open {
    ///             true => cx.persist([CartEvent::Expired]).reply(|_| ()),
    ///             false => cx.reply(()),
    ///         }
    ///     }
    /// }
    ///
    /// // What a reminder carries has a name, which is stored with it.
    /// let cart = Entity::<Cart>::new(()).command::<Expire>("cart.Expire");
    /// ```
    pub fn remind<C: Send + 'static>(
        mut self,
        key: impl Into<Cow<'static, str>>,
        due: impl Into<Due>,
        command: C,
    ) -> Self
    where
        E: Handle<C>,
    {
        self.change(ReminderOp::Remind {
            key: key.into(),
            due: due.into(),
            type_id: TypeId::of::<C>(),
            type_name: type_name::<C>(),
            command: Box::new(command),
        });
        self
    }

    /// Takes back the reminder with this key, in the transaction of the events; nothing happens if
    /// there is none. Once the write is durable it does not come any more, also if it was due already
    /// and waited.
    pub fn forget(mut self, key: impl Into<Cow<'static, str>>) -> Self {
        self.change(ReminderOp::Forget(key.into()));
        self
    }

    /// The last one with a key counts.
    fn change(&mut self, op: ReminderOp) {
        let reminders = &mut self.body.reminders;
        reminders.retain(|other| other.key() != op.key());
        reminders.push(op);
    }
}

impl<E: EventSourced> Cx<'_, E> {
    /// As [`Then::remind`], for a command that persists no event.
    pub fn remind<C: Send + 'static>(
        &self,
        key: impl Into<Cow<'static, str>>,
        due: impl Into<Due>,
        command: C,
    ) -> Then<E>
    where
        E: Handle<C>,
    {
        self.none().remind(key, due, command)
    }

    /// As [`Then::forget`], for a command that persists no event.
    pub fn forget(&self, key: impl Into<Cow<'static, str>>) -> Then<E> {
        self.none().forget(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_microseconds_and_never_early() {
        let at = |nanos| Timestamp::new(7, nanos).expect("in range");
        assert_eq!(Due::At(at(1_000)).at(at(0)), at(1_000));
        assert_eq!(Due::At(at(1_001)).at(at(0)), at(2_000));
        let after = Due::After(Duration::from_nanos(500));
        assert_eq!(after.at(at(1_500)), at(2_000));
        assert_eq!(after.at(at(1_501)), at(3_000));
        let end = Due::After(Duration::MAX).at(at(0));
        assert!(end.as_second() > 253_402_000_000, "{end}");
    }
}
