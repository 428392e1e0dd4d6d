//! perennial's side of a test in which it shares a database with the JVM.
//!
//! The fifteen kinds of entities that a Pekko service wrote into `test-data/pekko-1.2`, as entities
//! of perennial; a program with the verbs of the JVM's (`jvm/README.md`); and a referee that lets
//! the two take turns on one database and compares what they say.

pub mod cells;
mod database;
mod engine;
mod java;
pub mod json;
mod kind;
pub mod kinds;
mod lines;
pub mod peer;
mod tables;
pub mod turns;

pub use database::{Database, UnusableVariable};
pub use engine::Engine;
pub use kind::{Answer, AnyKind, Question, Seen};
pub use lines::{Line, command, recover};
