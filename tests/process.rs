//! Programs as processes of their own.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::wait::until;

/// A run that has ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit status; `None` if it was killed.
    pub code: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// What it printed.
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

impl Running {
    /// Starts a program, which prints and says into files.
    ///
    /// # Panics
    /// If there is no such program.
    pub fn start(command: &mut Command, out: &Path, said: &Path) -> Self {
        let file = |path: &Path| Stdio::from(File::create(path).expect("room"));
        command
            .stdin(Stdio::null())
            .stdout(file(out))
            .stderr(file(said));
        Self {
            child: command.spawn().expect("the program is built"),
            start: Instant::now(),
            out: out.to_owned(),
            said: said.to_owned(),
        }
    }

    /// What it has printed so far.
    ///
    /// # Panics
    /// If its folder is gone.
    pub fn out(&self) -> String {
        fs::read_to_string(&self.out).expect("it prints something")
    }

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

    /// Waits until it has printed this.
    ///
    /// # Panics
    /// If that does not happen, or it ends before.
    pub fn wait_for_out(&mut self, part: &str) {
        until(part, || self.out().contains(part) || self.has_ended());
        let (out, said) = (self.out(), self.said());
        assert!(out.contains(part), "{part} was not printed: {out}{said}");
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
        self.signal("INT");
    }

    /// Asks it to end, as whoever runs services does.
    ///
    /// # Panics
    /// If the system refuses.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
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
            signal: status.signal(),
            out: self.out(),
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
