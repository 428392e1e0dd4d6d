//! One of the programs, with its verb `command -` kept open.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::database::Database;

/// How long one answer may take; a JVM starts before its first.
const PATIENCE: Duration = Duration::from_secs(120);

/// A program that answers a command per line.
#[derive(Debug)]
pub struct Peer {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    output: Receiver<io::Result<String>>,
}

impl Peer {
    /// Starts `program command -` on a database. `name` is for messages.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn start(name: &str, mut program: Command, database: &Database) -> io::Result<Self> {
        let mut child = program
            .args(["command", "-"])
            .envs(database.variables())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take();
        let lines = child.stdout.take().expect("its output is a pipe");
        let (sender, output) = channel();
        thread::spawn(move || {
            for line in BufReader::new(lines).lines() {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            name: name.to_owned(),
            child,
            input,
            output,
        })
    }

    /// Who it is.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends a command and gives the answer to it.
    ///
    /// # Errors
    /// If the program has ended, says something that is no JSON, or nothing for two minutes.
    pub fn ask(&mut self, command: &Value) -> Result<Value, String> {
        let name = &self.name;
        let input = self.input.as_mut().ok_or("its input is closed")?;
        writeln!(input, "{command}")
            .and_then(|()| input.flush())
            .map_err(|error| format!("{name} does not listen: {error}"))?;
        let line = match self.output.recv_timeout(PATIENCE) {
            Ok(line) => line.map_err(|error| format!("{name} cannot be read: {error}"))?,
            Err(RecvTimeoutError::Timeout) => {
                return Err(format!("{name} said nothing for {PATIENCE:?} to {command}"));
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(format!("{name} has ended before it answered {command}"));
            }
        };
        serde_json::from_str(&line).map_err(|error| format!("{name} said {line:?}: {error}"))
    }

    /// Ends the input, and with it the program.
    ///
    /// # Errors
    /// If it ends with an error.
    pub fn end(mut self) -> Result<(), String> {
        self.input = None;
        let status = self.child.wait();
        let status = status.map_err(|error| format!("{} is gone: {error}", self.name))?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("{} ended with {status}", self.name))
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if self.input.is_some() {
            // Given up in the middle: nobody waits for it any more.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
