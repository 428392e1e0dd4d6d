//! Rows on their way into a table, gathered by an actor and written together.
//!
//! The parts, in the order in which a row meets them: [`item`] makes items of lines and spoils some,
//! [`feed`] hands them on, as fast as they are taken, to a [`processor`] or a durable [`buffer`],
//! which gather them; the [`sink`] writes what has gathered to a [`table`], whose refusals [`split`]
//! traces to single rows; [`report`] tells. [`run`] is the whole of it, and [`engine`] puts the actor
//! system of perennial under it.

pub mod item;

pub mod buffer;
pub mod processor;

pub mod feed;

pub mod sink;
pub mod split;
pub mod table;

pub mod args;
pub mod report;

pub mod engine;
pub mod run;

pub mod cli;
