//! An example as a process of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use flight_table::input::Input;
use flight_table::row::COLUMNS;
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Ended, Running};

/// A folder to run an example in, and what it is run with.
#[derive(Debug)]
pub struct Example {
    name: &'static str,
    program: &'static str,
    folder: TempDir,
    always: Vec<String>,
    url: Option<String>,
    variables: Vec<(String, String)>,
    runs: AtomicU32,
}

impl Example {
    /// A folder without any data for the example of this name; `program` is its executable.
    ///
    /// # Panics
    /// Without a temporary folder.
    pub fn new(name: &'static str, program: &'static str) -> Self {
        Self {
            name,
            program,
            folder: tempfile::tempdir().expect("a temporary folder"),
            always: Vec::new(),
            url: None,
            variables: Vec::new(),
            runs: AtomicU32::new(0),
        }
    }

    /// Every run gets these arguments.
    #[must_use]
    pub fn with(mut self, args: &[&str]) -> Self {
        self.always.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// Every run is on PostgreSQL, by the example's own configuration.
    #[must_use]
    pub fn on_postgres(mut self, url: &str) -> Self {
        let config = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../examples")
            .join(self.name)
            .join("postgres.toml");
        self.url = Some(url.to_owned());
        self.with(&["--config", &config.display().to_string()])
    }

    /// Every run has this variable in its environment.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// Every run reads only the first rows of the bundled month.
    ///
    /// # Panics
    /// Without room.
    #[must_use]
    pub fn with_rows(self, count: usize) -> Self {
        let mut table = COLUMNS.join(",");
        let rows = Input::bundled().expect("part of the example").take(count);
        for row in rows {
            table.push('\n');
            table.push_str(&row.expect("a readable row").text);
        }
        self.write("rows.csv", table);
        self.with(&["--input", "rows.csv"])
    }

    /// A file in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file into the folder.
    ///
    /// # Panics
    /// Without room.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).expect("room");
    }

    /// Reads a text from the folder.
    ///
    /// # Panics
    /// If there is none.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The report that a run wrote as `report.json`.
    ///
    /// # Panics
    /// If there is none.
    pub fn report(&self) -> Value {
        serde_json::from_str(&self.read("report.json")).expect("JSON")
    }

    /// Starts a run in the folder.
    ///
    /// # Panics
    /// If there is no such program.
    pub fn start(&self, args: &[&str]) -> Running {
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        let (out, said) = (
            self.path(&format!("run-{run}.out")),
            self.path(&format!("run-{run}.said")),
        );
        let mut command = Command::new(self.program);
        command
            .current_dir(self.folder.path())
            .args(&self.always)
            .args(args)
            .env_remove("RUST_LOG")
            .env_remove("DATABASE_URL")
            .env_remove("PGPASSWORD")
            .env_remove("PGPASSFILE")
            .env("HOME", self.folder.path());
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("PERENNIAL__") {
                command.env_remove(variable);
            }
        }
        if let Some(url) = &self.url {
            command.env("DATABASE_URL", url);
        }
        for (name, value) in &self.variables {
            command.env(name, value);
        }
        Running::start(&mut command, &out, &said)
    }

    /// A run to its end.
    ///
    /// # Panics
    /// If it does not end.
    pub fn run(&self, args: &[&str]) -> Ended {
        self.start(args).end()
    }
}
