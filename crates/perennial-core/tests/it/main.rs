//! Behaviour of the engine, seen through its public API: a real system with real threads on a
//! store in memory that fails on demand.

mod actor_fixture;
mod fixture;

#[cfg(feature = "actix-interop")]
mod actix_interop;
mod actor_stash;
mod actor_timers;
mod actors;
mod asking;
mod asking_actors;
mod back_pressure;
mod bare;
mod breaker;
mod change_events;
mod chaos;
mod children;
mod cleanup;
mod commands;
mod commands_of_states;
mod coordinated;
mod daemons;
mod durable_state;
mod effects;
mod ending_actors;
mod entity_limit;
mod entity_status;
mod fairness;
mod first_path;
mod formats;
mod fsm;
mod group_commit;
mod later;
mod leaving;
mod moving;
mod named_commands;
mod outcome;
mod passivation;
mod receptionist;
mod recovery;
mod reminders;
mod retention;
mod routers;
mod runtimes;
mod semantics;
mod shutdown;
mod starting;
mod supervision;
mod supervision_of_actors;
mod tentative;
mod timers;
mod topics;
mod watching;
mod work_pulling;
