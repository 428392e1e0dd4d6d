//! A bank over HTTP: accounts and the transfers between them, each a persistent entity.
//!
//! The parts, from the inside out: [`money`] has amounts and ids; an [`account`] is an entity, whose
//! events [`history`] reads; a [`transfer`] is one as well, a saga, and [`open_transfers`] wakes it
//! after a crash. [`api`] is what the service does, [`app`] the way there over HTTP, [`serve`] the
//! program around it, and [`load`] the one that drives it and counts the money.

pub mod money;

pub mod account;
pub mod history;

pub mod open_transfers;
pub mod transfer;

pub mod api;
pub mod app;
pub mod serve;

pub mod load;

pub mod cli;
