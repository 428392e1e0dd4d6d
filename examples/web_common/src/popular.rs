//! Which concerts are booked most: a plain actor, which forgets with the process.

use std::collections::HashMap;

use perennial::prelude::*;
use serde::Serialize;

/// Counts reservations since the start.
#[derive(Debug, Default)]
pub struct Popular {
    counts: HashMap<String, u64>,
}

impl Popular {
    /// Concerts that are counted at the most; reservations of others are not.
    pub const CONCERTS: usize = 10_000;
}

impl Actor for Popular {}

/// Seats of a concert were reserved.
#[derive(Debug)]
pub struct Booked(pub String);

impl Receive<Booked> for Popular {
    type Reply = ();

    fn receive(&mut self, booked: Booked, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        if self.counts.len() < Self::CONCERTS || self.counts.contains_key(&booked.0) {
            *self.counts.entry(booked.0).or_default() += 1;
        }
        cx.reply(())
    }
}

/// Asks for the concerts with the most reservations.
#[derive(Debug)]
pub struct Top(pub usize);

/// How often a concert was booked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bookings {
    /// Which one.
    pub concert: String,
    /// How often.
    pub reservations: u64,
}

impl Receive<Top> for Popular {
    type Reply = Vec<Bookings>;

    fn receive(&mut self, top: Top, cx: &mut ActorCx<'_, Self>) -> Received<Self, Vec<Bookings>> {
        let mut all: Vec<_> = self.counts.iter().collect();
        all.sort_by_key(|(concert, count)| (std::cmp::Reverse(**count), concert.as_str()));
        let first = all.into_iter().take(top.0);
        let bookings = first.map(|(concert, count)| Bookings {
            concert: concert.clone(),
            reservations: *count,
        });
        cx.reply(bookings.collect())
    }
}
