//! Behaviour of the engine, seen through its public API: a real system with real threads on a
//! store in memory that fails on demand.

mod fixture;

mod actors;
mod asking;
mod bare;
mod breaker;
mod chaos;
mod cleanup;
mod commands;
mod durable_state;
mod effects;
mod fairness;
mod first_path;
mod formats;
mod fsm;
mod group_commit;
mod later;
mod outcome;
mod passivation;
mod recovery;
mod retention;
mod runtimes;
mod semantics;
mod shutdown;
mod starting;
mod supervision;
mod tentative;
mod timers;
