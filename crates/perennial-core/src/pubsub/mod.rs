//! Publish and subscribe: named topics, and the event stream of the system.

mod event_stream;
mod shelf;
mod topic;

pub use event_stream::{EventStream, Published, UnhandledCommand};
pub(crate) use event_stream::{PublishEvents, ToStream, Topics, Unpublished};
pub(crate) use shelf::{Shelf, Shelved};
use topic::Shared;
pub(crate) use topic::TopicsLife;
pub use topic::{
    Backlog, Overflow, SubscriberStatus, Subscription, SubscriptionEnd, Topic, TopicStatus,
};
