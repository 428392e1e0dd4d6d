//! Which transfers have not ended, so that they go on after a crash.
//!
//! Nothing wakes an entity that nobody asks. So a transfer enters itself in a list before it begins,
//! and leaves the list once its end is stored; [`wake`] reads the lists, at the start and then
//! regularly, and tells whoever is in one to go on. A transfer that is in a list without having
//! begun, or after its end, leaves it then. The lists are persistent entities, sixteen of them, so
//! that no single one has to take part in everything.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use perennial::Retention;
use perennial::prelude::*;
use serde::{Deserialize, Serialize};

use crate::money::TransferId;
use crate::transfer::{GoOn, Transfer};

/// How many lists there are. A format, as it decides in which one a transfer is.
const LISTS: u8 = 16;

/// How many transfers may be in one list.
pub const MOST_LISTED: usize = 10_000;

/// How many transfers may be under way. A further one is refused as busy.
pub const MOST_OPEN: usize = MOST_LISTED * LISTS as usize;

/// How long nobody looks after a transfer that got stuck without a crash. Those of a crash go on at
/// once.
const ROUND: Duration = Duration::from_secs(5);

/// How many are woken at the same time.
const AT_A_TIME: usize = 64;

/// A list of transfers that have not ended.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct OpenTransfers(BTreeSet<TransferId>);

/// What happened to a list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ListEvent {
    /// A transfer is about to begin.
    Entered(TransferId),
    /// It has ended, or has not begun.
    Left(TransferId),
}

impl EventSourced for OpenTransfers {
    const TYPE: &'static str = "OpenTransfers";
    type Event = ListEvent;
    type Services = ();

    fn apply(&mut self, event: &ListEvent) {
        match event {
            ListEvent::Entered(transfer) => self.0.insert(*transfer),
            ListEvent::Left(transfer) => self.0.remove(transfer),
        };
    }
}

/// The entity type, to be given to the system. What happened to a list is of no use later.
pub fn entity() -> Entity<OpenTransfers> {
    Entity::new(())
        .snapshot_every(1_000)
        .retention(Retention::every(1_000).keep(1).delete_events())
}

/// The list that a transfer belongs in.
pub fn list_of(system: &ActorSystem, transfer: TransferId) -> EntityRef<OpenTransfers> {
    list(system, transfer.part(LISTS))
}

fn list(system: &ActorSystem, number: u8) -> EntityRef<OpenTransfers> {
    system.entity(number.to_string())
}

/// Enters a transfer, if it is not in the list.
#[derive(Debug)]
pub struct Enter(pub TransferId);

/// The list is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl Handle<Enter> for OpenTransfers {
    type Reply = Result<(), Full>;

    fn handle(&self, command: Enter, cx: &Cx<'_, Self>) -> Effect<Self, Self::Reply> {
        if self.0.contains(&command.0) {
            return cx.reply(Ok(()));
        }
        if self.0.len() >= MOST_LISTED {
            return cx.reply(Err(Full));
        }
        cx.persist([ListEvent::Entered(command.0)])
            .reply(|_| Ok(()))
    }
}

/// Takes a transfer out, if it is in the list.
#[derive(Debug)]
pub struct Leave(pub TransferId);

impl Handle<Leave> for OpenTransfers {
    type Reply = ();

    fn handle(&self, command: Leave, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
        if !self.0.contains(&command.0) {
            return cx.reply(());
        }
        cx.persist([ListEvent::Left(command.0)]).reply(|_| ())
    }
}

/// Tells who is in the list.
#[derive(Debug)]
pub struct List;

impl Handle<List> for OpenTransfers {
    type Reply = BTreeSet<TransferId>;

    fn handle(&self, _: List, cx: &Cx<'_, Self>) -> Effect<Self, Self::Reply> {
        cx.reply(self.0.clone())
    }
}

/// Has transfers go on that have not ended, until the system stops: at first all, then those that
/// were there already a round ago.
pub async fn wake(system: ActorSystem) {
    let mut before: BTreeMap<u8, BTreeSet<TransferId>> = BTreeMap::new();
    loop {
        for number in 0..LISTS {
            let listed = match list(&system, number).ask(List).await {
                Ok(listed) => listed,
                Err(AskError::Stopped) => return,
                Err(error) => {
                    // The next round sees to it.
                    tracing::warn!(list = number, %error, "open transfers cannot be listed");
                    continue;
                }
            };
            let before = before.insert(number, listed.clone());
            let is_stuck = |id: &TransferId| before.as_ref().is_none_or(|ids| ids.contains(id));
            let woken = stream::iter(listed.into_iter().filter(is_stuck)).map(|id| {
                let transfer = system.entity::<Transfer>(id.to_string());
                // What comes of it is seen in the next round.
                async move { transfer.ask(GoOn).await.is_ok() }
            });
            woken.buffer_unordered(AT_A_TIME).count().await;
        }
        tokio::time::sleep(ROUND).await;
    }
}
