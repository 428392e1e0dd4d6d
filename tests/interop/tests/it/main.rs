//! What perennial makes of tables that Pekko wrote, and what it writes itself for the same commands.

mod columns;
mod documents;
mod golden;
mod pekko;
mod turns;
