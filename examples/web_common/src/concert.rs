//! A concert whose seats are reserved: a persistent entity.

use perennial::Repeatable;
use perennial::prelude::*;
use serde::{Deserialize, Serialize};

/// A concert, named by whoever puts it on sale.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Concert {
    /// `None` while it is not on sale.
    seats: Option<u32>,
    taken: u32,
    reservations: u64,
}

/// What happened to a concert.
#[derive(Debug, Serialize, Deserialize)]
pub enum ConcertEvent {
    /// It can be booked.
    OnSale {
        /// How many seats there are.
        seats: u32,
    },
    /// Somebody has seats.
    Reserved {
        /// Who.
        name: String,
        /// How many.
        seats: u32,
    },
}

impl EventSourced for Concert {
    const TYPE: &'static str = "Concert";
    type Event = ConcertEvent;
    type Services = ();

    fn apply(&mut self, event: &ConcertEvent) {
        match event {
            ConcertEvent::OnSale { seats } => self.seats = Some(*seats),
            ConcertEvent::Reserved { seats, .. } => {
                self.taken += seats;
                self.reservations += 1;
            }
        }
    }
}

/// Puts a concert on sale.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PutOnSale {
    /// How many seats there are, from 1 to 100,000.
    pub seats: u32,
}

/// Reserves seats of a concert.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reserve {
    /// For whom, 1 to 100 characters.
    pub name: String,
    /// How many seats, from 1 to 10.
    pub seats: u32,
}

/// Tells how it stands with a concert.
#[derive(Debug)]
pub struct Look;

// Stored with each request that has a key, so not to be changed.
impl Repeatable for PutOnSale {
    const NAME: &'static str = "PutOnSale";
}

impl Repeatable for Reserve {
    const NAME: &'static str = "Reserve";
}

/// How it stands with a concert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// All seats.
    pub seats: u32,
    /// Those that nobody has.
    pub left: u32,
    /// How often seats were reserved.
    pub reservations: u64,
}

/// Seats that somebody has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// Its number, from 1 for each concert.
    pub number: u64,
    /// How many seats.
    pub seats: u32,
    /// How many nobody had after it.
    pub left: u32,
}

/// Why a concert refuses a command. Nothing is stored then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refused {
    /// There is no such concert, or not yet.
    #[error("the concert is not on sale")]
    NotOnSale,
    /// It is not put on sale twice.
    #[error("the concert is on sale already")]
    OnSaleAlready,
    /// There are too few.
    #[error("{left} seats are left")]
    TooFewLeft {
        /// So many are there.
        left: u32,
    },
    /// The command makes no sense.
    #[error("`{field}` must be {expected}")]
    Invalid {
        /// What of it.
        field: String,
        /// What would.
        expected: String,
    },
}

impl Concert {
    fn left(&self) -> u32 {
        self.seats.unwrap_or(0) - self.taken
    }

    fn offer(&self) -> Result<Offer, Refused> {
        Ok(Offer {
            seats: self.seats.ok_or(Refused::NotOnSale)?,
            left: self.left(),
            reservations: self.reservations,
        })
    }

    fn may_be_put_on_sale(&self, command: &PutOnSale) -> Result<(), Refused> {
        within("seats", command.seats, 1, 100_000)?;
        match self.seats {
            Some(_) => Err(Refused::OnSaleAlready),
            None => Ok(()),
        }
    }

    fn may_reserve(&self, command: &Reserve) -> Result<(), Refused> {
        let name = command.name.chars().count();
        within("name", u32::try_from(name).unwrap_or(u32::MAX), 1, 100).map_err(|_| {
            Refused::Invalid {
                field: "name".to_owned(),
                expected: "1 to 100 characters".to_owned(),
            }
        })?;
        within("seats", command.seats, 1, 10)?;
        let left = self.offer()?.left;
        if command.seats > left {
            return Err(Refused::TooFewLeft { left });
        }
        Ok(())
    }
}

fn within(field: &str, value: u32, least: u32, most: u32) -> Result<(), Refused> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Refused::Invalid {
        field: field.to_owned(),
        expected: format!("from {least} to {most}"),
    })
}

impl Handle<PutOnSale> for Concert {
    type Reply = Result<Offer, Refused>;

    fn handle(&self, command: PutOnSale, cx: &Cx<'_, Self>) -> Effect<Self, Self::Reply> {
        match self.may_be_put_on_sale(&command) {
            Ok(()) => cx
                .persist([ConcertEvent::OnSale {
                    seats: command.seats,
                }])
                .reply(Concert::offer),
            Err(refused) => cx.reply(Err(refused)),
        }
    }
}

impl Handle<Reserve> for Concert {
    type Reply = Result<Ticket, Refused>;

    fn handle(&self, command: Reserve, cx: &Cx<'_, Self>) -> Effect<Self, Self::Reply> {
        if let Err(refused) = self.may_reserve(&command) {
            return cx.reply(Err(refused));
        }
        let Reserve { name, seats } = command;
        cx.persist([ConcertEvent::Reserved { name, seats }])
            .reply(move |concert| {
                Ok(Ticket {
                    number: concert.reservations,
                    seats,
                    left: concert.left(),
                })
            })
    }
}

impl Handle<Look> for Concert {
    type Reply = Result<Offer, Refused>;

    fn handle(&self, _: Look, cx: &Cx<'_, Self>) -> Effect<Self, Self::Reply> {
        cx.reply(self.offer())
    }
}
