//! What is wrong with the configuration, said so that a person can put it right.

use std::fmt;
use std::sync::Arc;

/// Something in the configuration that cannot be used.
///
/// The text is one sentence that names the key, where it stands and what to do. Passwords and
/// other secrets never appear in it, neither in `Display` nor in `Debug`.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", .0.text)]
pub struct ConfigError(Box<Report>);

#[derive(Debug, Clone)]
struct Report {
    text: String,
    key: Option<String>,
    origin: Option<Origin>,
    message: String,
    hint: Option<String>,
}

/// Where a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Origin {
    /// It stands in a file.
    File {
        /// The path as it was given.
        name: Arc<str>,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
    },
    /// An environment variable says so.
    Environment {
        /// The whole name of the variable.
        variable: Arc<str>,
    },
    /// The program set it.
    Code,
    /// Nobody said anything, so the default holds.
    Unset {
        /// The file in which it could stand, if one was read.
        name: Option<Arc<str>>,
    },
}

/// Reads as the end of "this setting …".
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { name, line, .. } => write!(f, "in {name}, line {line}"),
            Self::Environment { variable } => write!(f, "in environment variable {variable}"),
            Self::Code => f.write_str("set in code"),
            Self::Unset { name: Some(name) } => write!(f, "(not set in {name})"),
            Self::Unset { name: None } => f.write_str("(not set)"),
        }
    }
}

impl ConfigError {
    /// A file, a variable or a path that cannot be read at all.
    pub(super) fn unreadable(subject: impl Into<String>, message: impl Into<String>) -> Self {
        let (subject, message) = (subject.into(), message.into());
        Self(Box::new(Report {
            text: format!("{subject}: {message}"),
            key: None,
            origin: None,
            message,
            hint: None,
        }))
    }

    /// A key that means nothing; `noun` says what it was taken for and `shown` how it is written.
    pub(super) fn unknown(noun: &str, key: String, shown: &str, origin: Origin) -> Self {
        Self(Box::new(Report {
            text: format!("unknown {noun} {shown} {origin}"),
            key: Some(key),
            origin: Some(origin),
            message: format!("unknown {noun}"),
            hint: None,
        }))
    }

    /// A value that cannot be used. `value` must be masked already.
    pub(super) fn invalid(
        key: String,
        value: Option<&str>,
        origin: Origin,
        message: impl Into<String>,
    ) -> Self {
        let message = message.into();
        let equals = value.map_or_else(String::new, |value| format!(" = {value}"));
        Self(Box::new(Report {
            text: format!("`{key}`{equals} {origin}: {message}"),
            key: Some(key),
            origin: Some(origin),
            message,
            hint: None,
        }))
    }

    /// Adds what to do about it.
    #[must_use]
    pub(super) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        let hint = hint.into();
        self.0.text = format!("{}; {hint}", self.0.text);
        self.0.hint = Some(hint);
        self
    }

    #[must_use]
    pub(super) fn at(mut self, origin: Origin) -> Self {
        self.0.origin = Some(origin);
        self
    }

    /// The key it is about, as a path such as `entity.Account.stash`; `None` for a whole file.
    pub fn key(&self) -> Option<&str> {
        self.0.key.as_deref()
    }

    /// Where the key or its value stands; `None` if no place is known, as for a missing file.
    pub fn origin(&self) -> Option<&Origin> {
        self.0.origin.as_ref()
    }

    /// What is wrong, without the key and the place.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What to do, where there is something to suggest.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}
