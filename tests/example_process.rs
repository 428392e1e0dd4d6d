//! An example as a process of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use flight_table::input::Input;
use flight_table::row::COLUMNS;
use serde_json::Value;
use tempfile::TempDir;

use crate::wait::until;

/// A folder to run an example in, and what it is run with.
#[derive(Debug)]
pub struct Example {
    name: &'static str,
    program: &'static str,
    folder: TempDir,
    always: Vec<String>,
    url: Option<String>,
    variables: Vec<(String, String)>,
    runs: std::cell::Cell<u32>,
}

/// A run that has ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit status; `None` if it was killed.
    pub code: Option<i32>,
    /// The table.
    pub out: String,
    /// What it said.
    pub said: String,
    /// How long it took.
    pub elapsed: Duration,
}

/// A run that is going on; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    start: Instant,
    out: PathBuf,
    said: PathBuf,
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
            runs: std::cell::Cell::new(0),
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
        let run = self.runs.get();
        self.runs.set(run + 1);
        let (out, said) = (
            self.path(&format!("run-{run}.out")),
            self.path(&format!("run-{run}.said")),
        );
        let file = |path: &Path| Stdio::from(File::create(path).expect("room"));
        let mut command = Command::new(self.program);
        command
            .current_dir(self.folder.path())
            .args(&self.always)
            .args(args)
            .stdin(Stdio::null())
            .stdout(file(&out))
            .stderr(file(&said))
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
        Running {
            child: command.spawn().expect("the example is built"),
            start: Instant::now(),
            out,
            said,
        }
    }

    /// A run to its end.
    ///
    /// # Panics
    /// If it does not end.
    pub fn run(&self, args: &[&str]) -> Ended {
        self.start(args).end()
    }
}

impl Running {
    /// What it has said so far.
    ///
    /// # Panics
    /// If its folder is gone.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.said).expect("it says something")
    }

    /// Waits until it says this, or has ended. Gives whether it has said it.
    ///
    /// # Panics
    /// If neither happens.
    pub fn wait_for(&mut self, part: &str) -> bool {
        until(part, || self.said().contains(part) || self.has_ended());
        self.said().contains(part)
    }

    /// Whether it has ended.
    ///
    /// # Panics
    /// If the system cannot say.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_some()
    }

    /// Ends it without warning.
    ///
    /// # Panics
    /// If the system refuses.
    pub fn kill(mut self) -> Ended {
        self.child.kill().expect("our own child");
        self.end()
    }

    /// Presses ctrl-c.
    ///
    /// # Panics
    /// If the system refuses.
    pub fn interrupt(&self) {
        let sent = Command::new("kill")
            .args(["-s", "INT", &self.child.id().to_string()])
            .status();
        assert!(sent.is_ok_and(|status| status.success()), "kill failed");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If that takes more than two minutes.
    pub fn end(mut self) -> Ended {
        const LONGEST: Duration = Duration::from_secs(120);
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                break status;
            }
            assert!(self.start.elapsed() < LONGEST, "hangs: {}", self.said());
            std::thread::sleep(Duration::from_millis(2));
        };
        Ended {
            code: status.code(),
            out: fs::read_to_string(&self.out).expect("its output"),
            said: self.said(),
            elapsed: self.start.elapsed(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
