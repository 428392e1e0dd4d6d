//! Every aircraft that left New York as a persistent actor, fed with the real flight table.
//!
//! The parts, in the order in which a row meets them: [`input`] reads lines, [`row`] makes flights
//! of them, [`dispatch`] sends these to their aircraft, [`aircraft`] decides and remembers,
//! [`report`] tells, and [`fold`] knows what it must all come to. [`run`] is the whole of it, and
//! [`engine`] puts the actor system of perennial under it, on a [`database`].

pub use flight_table::{input, output, patience, progress};

pub mod row;

pub mod aircraft;
pub mod dispatch;

pub mod fold;

pub mod args;
pub mod report;

pub mod run;

pub mod database;
pub mod engine;

pub mod cli;
