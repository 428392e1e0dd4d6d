//! Topics: what is published reaches everybody who subscribes.
//!
//! A topic is shared memory, not an actor: publishing puts the message into the backlog of each
//! subscriber, on the publisher's thread. An actor's mailbox gets a letter for each, which takes the
//! oldest message out of the backlog when it is handled, so that a backlog can drop old messages and
//! is bounded apart from the mailbox.

use std::collections::VecDeque;
use std::fmt;
use std::iter::Peekable;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::vec;

use futures_util::Stream;
use perennial_persistence::telemetry::{label, metric};

use crate::actor::Recipient;
use crate::call::Party;
use crate::engine::actor::{ActorAddress, Draw, Life, Listener, Order, Watcher};
use crate::engine::{Bound, busy};
use crate::error::AskError;
use crate::pubsub::shelf::Shelved;

/// Publish and subscribe, for messages of one type. Cheap to clone; all clones are the same topic.
///
/// ```
/// use perennial_core::config::ConfigSource;
/// use perennial_core::{ActorSystem, Backlog, Overflow};
///
/// #[derive(Clone, Debug, PartialEq)]
/// struct Price(u64);
///
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let system = ActorSystem::in_memory(ConfigSource::empty()).start().await?;
/// let prices = system.topic::<Price>("prices");
/// // Code outside of actors; an actor subscribes with `subscribe`.
/// let mut latest = prices.stream(Backlog::new(1, Overflow::DropOld));
/// prices.publish(Price(7))?;
/// prices.publish(Price(8))?;
/// assert_eq!(latest.recv().await, Some(Price(8)));
/// assert_eq!(latest.lost(), 1);
/// system.shutdown().await?;
/// assert_eq!(latest.recv().await, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Every subscriber gets the messages of one publisher in their order. What was published before it
/// subscribed it does not get.
pub struct Topic<M> {
    shared: Arc<Shared<M>>,
}

/// How many messages may wait for a subscriber, and what happens when there are as many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    messages: usize,
    overflow: Overflow,
}

/// What happens to a message for a subscriber whose backlog is full. A message that does not reach a
/// subscriber because of it is counted: see [`Subscription::lost`] and [`Topic::status`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// The subscriber does not get it.
    DropNew,
    /// The subscriber does not get the oldest one that waits, and this one instead.
    DropOld,
    /// The publisher waits: [`Topic::send`] until there is room, and [`Topic::publish`] is refused
    /// as [`AskError::Busy`], so that nobody gets the message. What the system itself publishes,
    /// such as dead letters, waits for nobody and is lost to this subscriber.
    Wait,
    /// The subscription ends. What waits by then is still delivered.
    End,
}

impl Overflow {
    /// What it is called in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DropNew => "drop-new",
            Self::DropOld => "drop-old",
            Self::Wait => "wait",
            Self::End => "end",
        }
    }
}

impl Backlog {
    /// At most `messages` wait, at least 1 and at most 1,048,576, within which other values are held.
    pub fn new(messages: usize, overflow: Overflow) -> Self {
        const MOST: usize = 1 << 20;
        Self {
            messages: messages.clamp(1, MOST),
            overflow,
        }
    }
}

/// 1,024 messages, of which the oldest make room.
impl Default for Backlog {
    fn default() -> Self {
        Self::new(1024, Overflow::DropOld)
    }
}

impl<M: Clone + Send + 'static> Topic<M> {
    pub(super) fn of(shared: Arc<Shared<M>>) -> Self {
        Self { shared }
    }

    /// Sends a message to all subscribers. Does not wait.
    ///
    /// # Errors
    /// [`AskError::Busy`] if a subscriber with [`Overflow::Wait`] has no room; nobody gets the
    /// message then. [`AskError::Stopped`] when the system has stopped.
    pub fn publish(&self, message: M) -> Result<(), AskError> {
        let Some(seats) = self.shared.taken_seats()? else {
            return Ok(());
        };
        let mut places = Vec::new();
        for seat in seats.iter().filter(|seat| seat.is_waited_for()) {
            match seat.try_place() {
                Taken::Place(place) => places.push(place),
                Taken::Ended => {}
                Taken::Full => return Err(busy("a subscriber's backlog")),
            }
        }
        self.shared.deliver(message, &seats, places);
        Ok(())
    }

    /// Sends a message to all subscribers, once those with [`Overflow::Wait`] have room for it.
    ///
    /// # Errors
    /// [`AskError::Stopped`] when the system has stopped.
    ///
    /// # Cancel safety
    /// Cancel safe: a message whose future is dropped before it is ready reaches nobody.
    pub async fn send(&self, message: M) -> Result<(), AskError> {
        let Some(seats) = self.shared.taken_seats()? else {
            return Ok(());
        };
        let mut places = Vec::new();
        for seat in seats.iter().filter(|seat| seat.is_waited_for()) {
            let attempt = || match seat.try_place() {
                Taken::Place(place) => Some(Some(place)),
                Taken::Ended => Some(None),
                Taken::Full => None,
            };
            places.extend(seat.places.wait(attempt).await);
        }
        self.shared.deliver(message, &seats, places);
        Ok(())
    }

    /// As [`Topic::publish`], but a subscriber that has no room does not get it.
    pub(crate) fn publish_regardless(&self, message: M) {
        if let Ok(Some(seats)) = self.shared.taken_seats() {
            self.shared.deliver(message, &seats, Vec::new());
        }
    }

    /// Has an actor or entity get what is published from now on. It is taken off when the actor
    /// ends, and stays through restarts; an entity stays until [`Topic::unsubscribe`]. One that
    /// subscribes again gets every message once all the same, under the newer `backlog`.
    ///
    /// Messages wait in the backlog and need no room in the mailbox; they are handled in their order
    /// among what else was sent. A reference counts as one for
    /// [`Props::stop_unreferenced`](crate::Props::stop_unreferenced).
    ///
    /// # Errors
    /// [`AskError::Stopped`] when the system has stopped, and what every command would be told that
    /// is sent to an entity by an id that cannot be one.
    pub fn subscribe(
        &self,
        subscriber: impl Into<Recipient<M>>,
        backlog: Backlog,
    ) -> Result<(), AskError> {
        self.subscribe_from(subscriber.into(), backlog, None)
    }

    /// As [`Topic::subscribe`]; the subscriber gets `first` before anything else.
    pub(crate) fn subscribe_from(
        &self,
        subscriber: Recipient<M>,
        backlog: Backlog,
        first: Option<M>,
    ) -> Result<(), AskError> {
        let party = subscriber.party()?;
        let added = self.shared.add(To::Recipient(subscriber, party), backlog);
        if let Some(first) = first {
            added.seat.put(first, None);
        }
        if let Some(before) = added.before {
            before.stop_listening();
        }
        if added.is_new {
            added.seat.listen(&self.shared);
        }
        self.shared.end_if_ended();
        match self.shared.life.is_over() {
            false => Ok(()),
            true => Err(AskError::Stopped),
        }
    }

    /// Takes an actor or entity off; `false` if it was not subscribed. What waits for it by then is
    /// not delivered any more.
    pub fn unsubscribe(&self, subscriber: impl Into<Recipient<M>>) -> bool {
        let Ok(Some(party)) = subscriber.into().party() else {
            return false;
        };
        let seat = self.shared.seat_of(&party);
        if let Some(seat) = &seat {
            self.shared.remove(seat, SubscriptionEnd::Cancelled);
            seat.stop_listening();
        }
        seat.is_some()
    }

    /// Whether an actor or entity is subscribed.
    pub fn is_subscribed(&self, subscriber: impl Into<Recipient<M>>) -> bool {
        let party = subscriber.into().party();
        matches!(party, Ok(Some(party)) if self.shared.seat_of(&party).is_some())
    }

    /// What is published from now on, for code outside of actors.
    pub fn stream(&self, backlog: Backlog) -> Subscription<M> {
        self.stream_from(backlog, None)
    }

    /// Ends all subscriptions if the system has ended.
    pub(crate) fn end_if_over(&self) {
        self.shared.end_if_ended();
    }

    /// As [`Topic::stream`], with `first` before anything else.
    pub(crate) fn stream_from(&self, backlog: Backlog, first: Option<M>) -> Subscription<M> {
        let seat = self.shared.add(To::Stream, backlog).seat;
        if let Some(first) = first {
            seat.put(first, None);
        }
        self.shared.end_if_ended();
        Subscription {
            topic: Arc::clone(&self.shared),
            seat,
        }
    }
}

impl<M> Topic<M> {
    /// What the topic is called: its name, or the Rust type of the messages for one of the event
    /// stream.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Whether anybody is subscribed at this moment.
    pub fn has_subscribers(&self) -> bool {
        self.shared.count.load(Ordering::Acquire) > 0
    }

    /// How it stands with the topic and with each of its subscribers.
    pub fn status(&self) -> TopicStatus {
        let seats = self.shared.seats();
        TopicStatus {
            published: self.shared.published.load(Ordering::Relaxed),
            lost: self.shared.lost.load(Ordering::Relaxed),
            subscribers: seats.iter().map(|seat| seat.status()).collect(),
        }
    }
}

impl<M> Clone for Topic<M> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<M> fmt::Debug for Topic<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topic")
            .field("name", &self.shared.name)
            .field("subscribers", &self.shared.count)
            .finish_non_exhaustive()
    }
}

/// How it stands with a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicStatus {
    /// Messages that were published while there was a subscriber.
    pub published: u64,
    /// Messages that a subscriber did not get because its backlog was full, counted once for each
    /// such subscriber, those that have gone included.
    pub lost: u64,
    /// The subscribers, in the order in which they came.
    pub subscribers: Vec<SubscriberStatus>,
}

/// How it stands with a subscriber of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscriberStatus {
    /// Which actor or entity, or that it is a stream.
    pub subscriber: String,
    /// Messages that wait for it.
    pub waiting: usize,
    /// Messages that it did not get because its backlog was full.
    pub lost: u64,
}

/// What is published on a topic, for code outside of actors: a stream of messages, and
/// [`Subscription::recv`] for who needs no stream. Dropping it ends the subscription.
pub struct Subscription<M> {
    topic: Arc<Shared<M>>,
    seat: Arc<Seat<M>>,
}

impl<M> Subscription<M> {
    /// The next message; `None` when the subscription has ended and nothing waits any more.
    ///
    /// # Cancel safety
    /// Cancel safe: no message is taken by a future that is dropped before it is ready.
    pub async fn recv(&mut self) -> Option<M> {
        std::future::poll_fn(|cx| self.seat.poll(cx)).await
    }

    /// The next message, if there is one by now.
    pub fn try_recv(&mut self) -> Option<M> {
        self.seat.pop()
    }

    /// How many messages were lost to this subscriber because its backlog was full.
    pub fn lost(&self) -> u64 {
        self.seat.lost.load(Ordering::Relaxed)
    }

    /// Why the subscription has ended, if it has. Messages may still be waiting.
    pub fn end(&self) -> Option<SubscriptionEnd> {
        self.seat.waiting().end
    }
}

impl<M> Stream for Subscription<M> {
    type Item = M;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<M>> {
        self.seat.poll(cx)
    }
}

impl<M> Drop for Subscription<M> {
    fn drop(&mut self) {
        self.topic.remove(&self.seat, SubscriptionEnd::Cancelled);
    }
}

impl<M> fmt::Debug for Subscription<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("topic", &self.topic.name)
            .field("end", &self.end())
            .finish_non_exhaustive()
    }
}

/// Why a subscription has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubscriptionEnd {
    /// Whoever subscribed has ended it, or has ended.
    Cancelled,
    /// Its backlog was full, and it has [`Overflow::End`].
    Overflow,
    /// The system has stopped.
    SystemStopped,
}

/// What all topics of a system share.
#[derive(Debug, Default)]
pub(crate) struct TopicsLife {
    /// Whether nobody publishes any more.
    over: AtomicBool,
    /// Messages that were lost, at all topics.
    lost: AtomicU64,
}

impl TopicsLife {
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

pub(super) struct Shared<M> {
    name: Arc<str>,
    life: Arc<TopicsLife>,
    /// How many seats are taken, to be looked at without the lock.
    count: AtomicUsize,
    seats: Mutex<Seats<M>>,
    published: AtomicU64,
    lost: AtomicU64,
}

/// The seats that are taken, as a whole: publishers go through it without the lock.
type Seats<M> = Arc<[Arc<Seat<M>>]>;

/// What a new subscription got.
struct Added<M> {
    seat: Arc<Seat<M>>,
    is_new: bool,
    /// The seat that it had before and has given up.
    before: Option<Arc<Seat<M>>>,
}

impl<M> Shared<M> {
    pub(super) fn new(name: &str, life: &Arc<TopicsLife>) -> Self {
        Self {
            name: name.into(),
            life: Arc::clone(life),
            count: AtomicUsize::new(0),
            seats: Mutex::new([].into()),
            published: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }
    }

    fn seats(&self) -> MutexGuard<'_, Seats<M>> {
        // Nothing can panic while the lock is held.
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The seats, if any is taken.
    ///
    /// # Errors
    /// [`AskError::Stopped`] when the system has stopped.
    fn taken_seats(&self) -> Result<Option<Seats<M>>, AskError> {
        if self.count.load(Ordering::Acquire) > 0 {
            return Ok(Some(Arc::clone(&self.seats())));
        }
        match self.life.is_over() {
            false => Ok(None),
            true => Err(AskError::Stopped),
        }
    }

    fn seat_of(&self, party: &Party) -> Option<Arc<Seat<M>>> {
        let seats = self.seats();
        seats.iter().find(|seat| seat.is_of(party)).cloned()
    }

    /// Gives a seat. A party that has one with the same backlog keeps it.
    fn add(self: &Arc<Self>, to: To<M>, backlog: Backlog) -> Added<M> {
        let mut seats = self.seats();
        let before = match &to {
            To::Recipient(_, Some(party)) => seats.iter().find(|seat| seat.is_of(party)),
            _ => None,
        };
        let before = before.cloned();
        if let Some(seat) = &before
            && seat.backlog == backlog
        {
            return Added {
                seat: Arc::clone(seat),
                is_new: false,
                before: None,
            };
        }
        let seat = Arc::new(Seat {
            number: match &to {
                To::Recipient(_, Some(Party::Actor(address))) => address.registry().next_actor(),
                _ => 0,
            },
            backlog,
            to,
            places: Bound::default(),
            waiting: Mutex::new(Waiting {
                messages: VecDeque::new(),
                end: None,
                waker: None,
            }),
            lost: AtomicU64::new(0),
            topic: Arc::downgrade(self),
        });
        // What waits at the seat before is still delivered, and what is just being published too.
        self.replace(&mut seats, before.as_deref(), Some(&seat));
        Added {
            seat,
            is_new: true,
            before,
        }
    }

    fn remove(&self, seat: &Seat<M>, end: SubscriptionEnd) {
        self.replace(&mut self.seats(), Some(seat), None);
        seat.leave(end);
        if end == SubscriptionEnd::Cancelled {
            seat.forget_messages();
        }
    }

    fn replace(&self, seats: &mut Seats<M>, old: Option<&Seat<M>>, new: Option<&Arc<Seat<M>>>) {
        let is_old = |seat: &Arc<Seat<M>>| old.is_some_and(|old| std::ptr::eq(&**seat, old));
        let others = seats.iter().filter(|seat| !is_old(seat));
        let all: Arc<[_]> = others.chain(new).cloned().collect();
        self.count.store(all.len(), Ordering::Release);
        *seats = all;
    }

    /// Ends all subscriptions once the system has ended. Whoever subscribes meanwhile is seen by one
    /// of the two, as each looks after it has left its mark.
    fn end_if_ended(&self) {
        if !self.life.is_over() {
            return;
        }
        let all = {
            let mut seats = self.seats();
            self.count.store(0, Ordering::Release);
            std::mem::replace(&mut *seats, [].into())
        };
        for seat in all.iter() {
            seat.leave(SubscriptionEnd::SystemStopped);
        }
    }
}

impl<M: Clone> Shared<M> {
    /// Gives a message to each seat. `places` are those that were taken, in the order of the seats.
    fn deliver(&self, message: M, seats: &[Arc<Seat<M>>], places: Vec<Place<M>>)
    where
        M: Send + 'static,
    {
        self.published.fetch_add(1, Ordering::Relaxed);
        let mut places = places.into_iter().peekable();
        let Some((last, others)) = seats.split_last() else {
            return;
        };
        for seat in others {
            seat.put(message.clone(), place_of(seat, &mut places));
        }
        last.put(message, place_of(last, &mut places));
    }
}

fn place_of<M>(
    seat: &Arc<Seat<M>>,
    places: &mut Peekable<vec::IntoIter<Place<M>>>,
) -> Option<Place<M>> {
    places.next_if(|place| place.is_at(seat))
}

impl<M: Send + 'static> Shelved for Shared<M> {
    fn is_idle(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    fn end(&self) {
        self.end_if_ended();
    }
}

/// A subscriber's place at a topic.
struct Seat<M> {
    number: u64,
    backlog: Backlog,
    to: To<M>,
    /// Those that are taken, of a subscriber that is waited for.
    places: Bound,
    waiting: Mutex<Waiting<M>>,
    lost: AtomicU64,
    topic: Weak<Shared<M>>,
}

enum To<M> {
    Stream,
    /// Each message that waits has a letter on its way or in the mailbox.
    Recipient(Recipient<M>, Option<Party>),
}

struct Waiting<M> {
    messages: VecDeque<M>,
    end: Option<SubscriptionEnd>,
    /// Of a stream that waits for a message.
    waker: Option<Waker>,
}

/// A place in the backlog of a subscriber that is waited for. It is given back unless a message
/// gets it.
struct Place<M>(Option<Arc<Seat<M>>>);

impl<M> Place<M> {
    fn is_at(&self, seat: &Arc<Seat<M>>) -> bool {
        self.0.as_ref().is_some_and(|own| Arc::ptr_eq(own, seat))
    }

    /// A message has it now, and gives it back when it is taken.
    fn keep(mut self) {
        self.0 = None;
    }
}

impl<M> Drop for Place<M> {
    fn drop(&mut self) {
        if let Some(seat) = self.0.take() {
            seat.places.leave(1);
        }
    }
}

enum Taken<M> {
    Place(Place<M>),
    Full,
    Ended,
}

/// What becomes of a message for a seat.
enum Put<M> {
    Waits(Option<Waker>),
    /// A message was lost: this one or an older one.
    Lost(M),
    /// This was lost, and the subscription ends.
    Ends(M),
    /// The subscription has ended before.
    Ended(M),
}

impl<M> Seat<M> {
    fn waiting(&self) -> MutexGuard<'_, Waiting<M>> {
        // Nothing can panic while the lock is held.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_of(&self, party: &Party) -> bool {
        matches!(&self.to, To::Recipient(_, Some(own)) if own == party)
    }

    fn is_waited_for(&self) -> bool {
        self.backlog.overflow == Overflow::Wait
    }

    fn try_place(self: &Arc<Self>) -> Taken<M> {
        if self.waiting().end.is_some() {
            return Taken::Ended;
        }
        match self.places.enter(self.backlog.messages) {
            true => Taken::Place(Place(Some(Arc::clone(self)))),
            false => Taken::Full,
        }
    }

    /// Takes the oldest message.
    fn pop(&self) -> Option<M> {
        let message = self.waiting().messages.pop_front();
        self.popped(message.is_some());
        message
    }

    fn popped(&self, is_some: bool) {
        if is_some && self.is_waited_for() {
            self.places.leave(1);
        }
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<Option<M>> {
        let message = {
            let mut waiting = self.waiting();
            let message = waiting.messages.pop_front();
            if message.is_none() && waiting.end.is_none() {
                waiting.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            message
        };
        self.popped(message.is_some());
        Poll::Ready(message)
    }

    /// Takes no message any more.
    fn leave(&self, end: SubscriptionEnd) {
        let waker = {
            let mut waiting = self.waiting();
            waiting.end.get_or_insert(end);
            waiting.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        // Publishers that wait for it go on without it.
        self.places.wake_all();
    }

    fn forget_messages(&self) {
        let messages = std::mem::take(&mut self.waiting().messages);
        // Here no lock is held.
        drop(messages);
    }

    fn status(&self) -> SubscriberStatus {
        SubscriberStatus {
            subscriber: self.describe(),
            waiting: self.waiting().messages.len(),
            lost: self.lost.load(Ordering::Relaxed),
        }
    }

    fn describe(&self) -> String {
        match &self.to {
            To::Stream => "a stream".to_owned(),
            To::Recipient(recipient, _) => recipient.describe(),
        }
    }

    /// Counts a message that it does not get.
    fn lose(&self) {
        let is_first = self.lost.fetch_add(1, Ordering::Relaxed) == 0;
        let Some(topic) = self.topic.upgrade() else {
            return;
        };
        topic.lost.fetch_add(1, Ordering::Relaxed);
        topic.life.lost.fetch_add(1, Ordering::Relaxed);
        let labels = [(label::OVERFLOW, self.backlog.overflow.as_str())];
        metrics::counter!(metric::TOPIC_LOST, &labels).increment(1);
        if is_first {
            tracing::warn!(
                topic = &*topic.name,
                subscriber = self.describe(),
                backlog = self.backlog.messages,
                overflow = ?self.backlog.overflow,
                "a subscriber is full and loses messages; how many is counted from now on"
            );
        }
    }
}

impl<M: Send + 'static> Seat<M> {
    fn put(self: &Arc<Self>, message: M, place: Option<Place<M>>) {
        match self.try_put(message, place) {
            Put::Waits(waker) => {
                if let Some(waker) = waker {
                    waker.wake();
                }
                if let To::Recipient(recipient, _) = &self.to {
                    let letter = Letter(Some(Arc::clone(self)));
                    if recipient.tell_kept(Box::new(letter)).is_err() {
                        self.lose();
                    }
                }
            }
            // Messages are dropped here, where no lock is held: that is code of the user.
            Put::Lost(_) => self.lose(),
            Put::Ends(_) => {
                self.lose();
                if let Some(topic) = self.topic.upgrade() {
                    topic.remove(self, SubscriptionEnd::Overflow);
                }
                self.stop_listening();
            }
            Put::Ended(_) => {}
        }
    }

    fn try_put(&self, message: M, place: Option<Place<M>>) -> Put<M> {
        let mut waiting = self.waiting();
        if waiting.end.is_some() {
            return Put::Ended(message);
        }
        let has_room = match place {
            Some(place) => {
                place.keep();
                true
            }
            None if self.is_waited_for() => self.places.enter(self.backlog.messages),
            None => waiting.messages.len() < self.backlog.messages,
        };
        if has_room {
            waiting.messages.push_back(message);
            return Put::Waits(waiting.waker.take());
        }
        match self.backlog.overflow {
            Overflow::DropNew | Overflow::Wait => Put::Lost(message),
            Overflow::DropOld => {
                waiting.messages.push_back(message);
                match waiting.messages.pop_front() {
                    Some(oldest) => Put::Lost(oldest),
                    None => Put::Waits(None),
                }
            }
            Overflow::End => Put::Ends(message),
        }
    }

    /// Has the seat given up when its actor ends.
    fn listen(self: &Arc<Self>, topic: &Shared<M>) {
        if let To::Recipient(_, Some(Party::Actor(address))) = &self.to {
            let listener = Watcher::Listener(self.number, Arc::clone(self) as _);
            if !address.order(Order::Watch(listener)) {
                topic.remove(self, SubscriptionEnd::Cancelled);
            }
        }
    }

    fn stop_listening(&self) {
        if let To::Recipient(_, Some(Party::Actor(address))) = &self.to {
            address.order(Order::Unwatch(self.number));
        }
    }
}

/// Follows the life of the actor that has the seat.
impl<M: Send + 'static> Listener for Seat<M> {
    fn life(self: Arc<Self>, _: &Arc<ActorAddress>, life: Life) {
        if life == Life::Ended
            && let Some(topic) = self.topic.upgrade()
        {
            topic.remove(&self, SubscriptionEnd::Cancelled);
        }
    }
}

/// Stands in a mailbox for one message of a backlog: the oldest when it is handled.
struct Letter<M>(Option<Arc<Seat<M>>>);

impl<M: Send> Draw<M> for Letter<M> {
    fn draw(mut self: Box<Self>) -> Option<M> {
        self.0.take()?.pop()
    }
}

impl<M> Drop for Letter<M> {
    fn drop(&mut self) {
        // It was not delivered, and its message will not be.
        if let Some(seat) = self.0.take() {
            drop(seat.pop());
        }
    }
}
