//! What the service does, whatever the web framework.

use perennial::CommandId;
use perennial::prelude::*;

use crate::concert::{Concert, Look, Offer, PutOnSale, Reserve, Ticket};
use crate::popular::{Booked, Bookings, Popular, Top};
use crate::problem::Problem;

/// The requests that the service answers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Api {
    system: ActorSystem,
    popular: ActorRef<Popular>,
}

impl Api {
    /// How many concerts [`Api::popular`] names at the most.
    pub const POPULAR: usize = 10;

    pub(crate) fn new(system: ActorSystem, popular: ActorRef<Popular>) -> Self {
        Self { system, popular }
    }

    /// Puts a concert on sale. `key` is the header `Idempotency-Key`.
    ///
    /// # Errors
    /// A [`Problem`].
    pub async fn put_on_sale(
        &self,
        concert: &str,
        command: PutOnSale,
        key: Option<&[u8]>,
    ) -> Result<Offer, Problem> {
        let ask = self.system.entity::<Concert>(concert).ask(command);
        let offer = match command_id(key)? {
            Some(id) => ask.command_id(id).await??,
            None => ask.await??,
        };
        Ok(offer)
    }

    /// Reserves seats. `key` is the header `Idempotency-Key`.
    ///
    /// # Errors
    /// A [`Problem`].
    pub async fn reserve(
        &self,
        concert: &str,
        command: Reserve,
        key: Option<&[u8]>,
    ) -> Result<Ticket, Problem> {
        let ask = self.system.entity::<Concert>(concert).ask(command);
        let ticket = match command_id(key)? {
            Some(id) => ask.command_id(id).await??,
            None => ask.await??,
        };
        // A count that is lost while the actor is busy is no reason to fail the request.
        let _ = self.popular.tell(Booked(concert.to_owned()));
        Ok(ticket)
    }

    /// Tells how it stands with a concert.
    ///
    /// # Errors
    /// A [`Problem`].
    pub async fn look(&self, concert: &str) -> Result<Offer, Problem> {
        Ok(self.system.entity::<Concert>(concert).ask(Look).await??)
    }

    /// The concerts that were booked most since the start.
    ///
    /// # Errors
    /// A [`Problem`].
    pub async fn popular(&self) -> Result<Vec<Bookings>, Problem> {
        Ok(self.popular.ask(Top(Self::POPULAR)).await?)
    }
}

fn command_id(key: Option<&[u8]>) -> Result<Option<CommandId>, Problem> {
    let Some(key) = key else {
        return Ok(None);
    };
    let text = std::str::from_utf8(key)
        .map_err(|_| Problem::unreadable(400, "Idempotency-Key: it is not UTF-8"))?;
    Ok(Some(CommandId::new(text)?))
}
