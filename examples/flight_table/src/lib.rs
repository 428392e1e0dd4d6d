//! The flight table, and what the programs on it have in common.
//!
//! [`input`] reads the lines of a table, [`row`] makes flights of them, [`ahead`] does both on a
//! thread of its own. [`database`] says where data are kept, [`patience`] how long that is asked
//! again. [`progress`], [`output`] and [`program`] are the program's ways to people, files and the
//! shell.

pub mod ahead;
pub mod input;
pub mod row;

pub mod database;
pub mod patience;

pub mod output;
pub mod program;
pub mod progress;
