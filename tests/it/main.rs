//! Behaviour across crates, on real files, servers and processes.

mod bad_input;
mod bank;
mod bank_crash_recovery;
mod bank_service;
mod bulk_processor_command_line;
mod bulk_processor_crash_recovery;
mod bulk_processor_outages;
mod configuration_errors;
mod flights_command_line;
mod flights_crash_recovery;
mod flights_outages;
mod guide;
mod passivation_under_fire;
mod postgres_outages;
mod reminders_crash_recovery;
mod repeated_requests;
mod signals;
mod starts;
mod two_systems_one_database;
mod web;

/// The flights example.
const FLIGHTS: &str = env!("CARGO_BIN_EXE_it-flights");

/// The bulk processor example.
const BULK_PROCESSOR: &str = env!("CARGO_BIN_EXE_it-bulk-processor");

/// The bank example.
const BANK: &str = env!("CARGO_BIN_EXE_it-bank");
