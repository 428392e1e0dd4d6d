//! The document from which every part of the system reads its section.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::de::{self, Fields};
use super::error::{ConfigError, Origin};
use super::secret;
use super::suggest::{self, normal_form};
use super::tree::{Entry, InsertError, Node, Path, Step, Table, Value, shown_text};
use super::value::Violation;

/// What an environment variable begins with to be a setting.
const VARIABLE_PREFIX: &str = "PERENNIAL__";

/// A parsed configuration in which every value knows where it comes from.
///
/// It is read in sections by those who know their keys; [`ConfigSource::finish`] then finds what
/// nobody read. Its `Debug` output shows every setting with its origin, and `***` for secrets.
///
/// ```
/// use perennial_core::config::{ConfigSource, SystemConfig};
///
/// let source = ConfigSource::from_toml("bank.toml", "[system]\nworkers = 2")?
///     .with_environment([("PERENNIAL__SYSTEM__NAME", "bank")])?;
/// let system = SystemConfig::read(&source)?;
/// assert_eq!((system.name.as_str(), system.workers), ("bank", 2));
///
/// let source = ConfigSource::from_toml("bank.toml", "[system]\nworker = 2")?;
/// let error = SystemConfig::read(&source).expect_err("there is no such key");
/// assert_eq!(
///     error.to_string(),
///     "unknown key `system.worker` in bank.toml, line 2; did you mean `workers`?"
/// );
/// # Ok::<(), perennial_core::config::ConfigError>(())
/// ```
pub struct ConfigSource {
    /// The file, as messages call it.
    name: Option<Arc<str>>,
    root: Table,
    read: Mutex<Sections>,
}

/// The sections that somebody knows.
#[derive(Clone, Default)]
struct Sections {
    /// Those read, with the keys that were looked for.
    read: BTreeMap<Path, Fields>,
    /// Those that nobody needs to read, with everything below them.
    ignored: Vec<Path>,
}

impl ConfigSource {
    /// No file: every setting has its default until something else sets it.
    pub fn empty() -> Self {
        Self {
            name: None,
            root: Table::default(),
            read: Mutex::default(),
        }
    }

    /// Reads a TOML file.
    ///
    /// # Errors
    /// [`ConfigError`] if there is no such file, it cannot be read, or it is no valid TOML; then
    /// with line and column.
    pub fn from_file(path: impl AsRef<std::path::Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let cannot_read = |reason: String| {
            ConfigError::unreadable(format!("cannot read configuration file {name}"), reason)
        };
        let bytes = std::fs::read(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                let error = cannot_read("there is no such file".to_owned());
                match std::env::current_dir() {
                    Ok(directory) if path.is_relative() => error.with_hint(format!(
                        "the path is relative to the current directory, {}",
                        directory.display()
                    )),
                    _ => error,
                }
            }
            _ => cannot_read(error.to_string()),
        })?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = before.split(|byte| *byte == b'\n').count();
            cannot_read(format!("line {line} is not UTF-8 text")).with_hint("save it as UTF-8")
        })?;
        Self::from_toml(&name, &text)
    }

    /// Reads a TOML document that messages call `name`.
    ///
    /// # Errors
    /// [`ConfigError`] with line and column if it is no valid TOML.
    pub fn from_toml(name: &str, text: &str) -> Result<Self, ConfigError> {
        let name: Arc<str> = name.into();
        Ok(Self {
            root: Table::parse(&name, text)?,
            name: Some(name),
            read: Mutex::default(),
        })
    }

    /// Applies the environment variables that begin with `PERENNIAL__`, and ignores all others.
    ///
    /// `PERENNIAL__PERSISTENCE__POSTGRES__MAX_CONNECTIONS=10` sets
    /// `persistence.postgres.max-connections`: a double underscore separates keys, a single one
    /// stands for `-` or any other character that variables cannot have, and upper and lower case
    /// are the same. A value for a text is taken as it is, without quotes; others are
    /// written as in TOML. What is applied later wins, so the usual order is file, environment,
    /// then [`ConfigSource::set`].
    ///
    /// The caller reads the environment: normally `std::env::vars_os()`.
    ///
    /// # Errors
    /// [`ConfigError`] naming the variable if it sets a whole table, could mean two keys, sets
    /// what another variable sets, or is not UTF-8.
    pub fn with_environment<N, V>(
        mut self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, ConfigError>
    where
        N: Into<OsString>,
        V: Into<OsString>,
    {
        let mut ours = Vec::new();
        for (variable, value) in variables {
            let (variable, value) = (variable.into(), value.into());
            if variable.to_string_lossy().starts_with(VARIABLE_PREFIX) {
                ours.push((variable, value));
            }
        }
        // The environment has no order, but which of two problems is reported should not vary.
        ours.sort();
        for (variable, value) in ours {
            self.apply_variable(&variable.to_string_lossy(), value)?;
        }
        Ok(self)
    }

    fn apply_variable(&mut self, variable: &str, value: OsString) -> Result<(), ConfigError> {
        let refused = |message: String| {
            ConfigError::unreadable(format!("environment variable {variable}"), message)
        };
        let keys: Vec<String> = variable[VARIABLE_PREFIX.len()..]
            .split("__")
            .map(normal_form)
            .collect();
        if keys.iter().any(String::is_empty) {
            return Err(refused("names no key".to_owned()).with_hint(
                "keys are separated by two underscores, as in PERENNIAL__SYSTEM__NAME",
            ));
        }
        let text = value
            .into_string()
            .map_err(|_| refused("is not UTF-8 text".to_owned()))?;
        let origin = Origin::Environment {
            variable: variable.into(),
        };
        let value = Value {
            origin: origin.clone(),
            node: Node::Variable(text),
        };
        self.root
            .insert(&keys, false, value)
            .map_err(|error| match error {
                InsertError::IsTable { path } => {
                    refused(format!("`{path}` is a table")).with_hint(de::keys_one_by_one(&origin))
                }
                InsertError::NotTable { path, origin } => refused(format!(
                    "`{path}` {origin} is not a table, so no key can be set in it"
                )),
                InsertError::Ambiguous { keys } => {
                    let quoted: Vec<_> = keys.iter().map(|key| format!("`{key}`")).collect();
                    refused(format!("could mean {}", quoted.join(" or ")))
                        .with_hint("set the key in the file instead")
                }
                InsertError::SetTwice { path, variable } => {
                    refused(format!("`{path}` is set by {variable} as well"))
                        .with_hint("unset one of them")
                }
            })
    }

    /// Sets a key, whatever was said about it so far.
    ///
    /// The key is a path as in TOML, such as `persistence.postgres.url`.
    ///
    /// ```
    /// use perennial_core::config::ConfigSource;
    ///
    /// let source = ConfigSource::empty().set("persistence.postgres.url", "postgres://localhost/bank")?;
    /// assert!(source.contains("persistence.postgres.url")?);
    /// # Ok::<(), perennial_core::config::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// [`ConfigError`] if `key` is no path, or a table is in the way.
    pub fn set(mut self, key: &str, value: impl Into<ConfigValue>) -> Result<Self, ConfigError> {
        let path = Path::parse(key)?;
        let keys: Vec<String> = path
            .0
            .into_iter()
            .filter_map(|step| match step {
                Step::Key(key) => Some(key),
                Step::Index(_) => None,
            })
            .collect();
        let value = Value {
            origin: Origin::Code,
            node: value.into().0,
        };
        let refused = |message: &str| ConfigError::invalid(key.into(), None, Origin::Code, message);
        match self.root.insert(&keys, true, value) {
            Ok(()) => Ok(self),
            Err(InsertError::IsTable { .. }) => {
                Err(refused("is a table").with_hint("set its keys one by one"))
            }
            Err(InsertError::NotTable { path, origin }) => {
                Err(refused(&format!("`{path}` {origin} is not a table")))
            }
            // Exact keys are never ambiguous, and only variables contradict each other.
            Err(InsertError::Ambiguous { .. } | InsertError::SetTwice { .. }) => {
                Err(refused("is set already"))
            }
        }
    }

    /// Whether something sets this key, or something below it.
    ///
    /// # Errors
    /// [`ConfigError`] if `key` is no path.
    pub fn contains(&self, key: &str) -> Result<bool, ConfigError> {
        Ok(self.root.find(&Path::parse(key)?).is_some())
    }

    /// Reads a section, such as `persistence.postgres`; `T::default()` if there is none.
    ///
    /// `T` is a plain serde struct, normally with `#[serde(default, rename_all = "kebab-case")]`;
    /// its crate needs to know nothing of this one. A key that is no field of `T` is an error,
    /// also in tables that are fields of `T`; any other table in the section is left to those who
    /// read it as a section of its own. In types with `#[serde(flatten)]` unknown keys are not
    /// noticed, as serde doesn't tell their names.
    ///
    /// # Errors
    /// [`ConfigError`] for an unknown key, a wrong type, or whatever `T` does not accept.
    pub fn section<T: DeserializeOwned + Default>(&self, section: &str) -> Result<T, ConfigError> {
        self.section_at(&Path::parse(section)?)
    }

    pub(super) fn section_at<T: DeserializeOwned + Default>(
        &self,
        path: &Path,
    ) -> Result<T, ConfigError> {
        let (read, fields) = match self.root.find(path) {
            Some(value) => de::read_section(path, value)?,
            None => (T::default(), Fields::Known(de::known_keys::<T>())),
        };
        self.sections(|sections| sections.read.insert(path.clone(), fields));
        Ok(read)
    }

    /// Declares that a section may stand in the file although nobody reads it.
    ///
    /// # Errors
    /// [`ConfigError`] if `section` is no path.
    pub fn ignore_section(&self, section: &str) -> Result<(), ConfigError> {
        self.ignore_section_at(Path::parse(section)?);
        Ok(())
    }

    pub(super) fn ignore_section_at(&self, path: Path) {
        self.sections(|sections| sections.ignored.push(path));
    }

    fn sections<R>(&self, work: impl FnOnce(&mut Sections) -> R) -> R {
        work(&mut self.read.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// An error about a key whose value its reader refuses, with the place where it is set.
    ///
    /// `reason` follows the key, as in "must be a URL like …"; a password of the value that
    /// appears in it is hidden. This is how a store's own complaint about a setting gets its
    /// file and line.
    pub fn invalid(&self, key: &str, reason: &str) -> ConfigError {
        match Path::parse(key) {
            Ok(path) => self.invalid_at(&path, None, reason),
            Err(_) => ConfigError::unreadable(format!("{key:?}"), secret::mask_sentence(reason)),
        }
    }

    /// `in_effect` is the value as written and where it comes from if nothing in the tree sets it.
    pub(super) fn invalid_at(
        &self,
        path: &Path,
        in_effect: Option<(&str, Origin)>,
        reason: &str,
    ) -> ConfigError {
        if let Some(value) = self.root.find(path) {
            let reason = value
                .secrets(path)
                .iter()
                .fold(reason.to_owned(), |reason, text| {
                    reason.replace(text, secret::MASK)
                });
            let reason = secret::mask_sentence(&reason);
            let shown = value.shown(path);
            let origin = value.origin.clone();
            return ConfigError::invalid(path.to_string(), shown.as_deref(), origin, reason);
        }
        let reason = secret::mask_sentence(reason);
        let (shown, origin) = match in_effect {
            Some((shown, origin)) => (Some(shown), origin),
            None => (None, self.unset()),
        };
        ConfigError::invalid(path.to_string(), shown, origin, reason)
    }

    /// That nothing sets a key, in this file.
    pub(super) fn unset(&self) -> Origin {
        Origin::Unset {
            name: self.name.clone(),
        }
    }

    /// The error about a setting of a section that is out of its range.
    pub(super) fn violated(&self, section: &Path, violation: &Violation) -> ConfigError {
        let first = section.key(violation.key);
        // Of two that contradict each other, the one that somebody wrote is to be named.
        match violation.other.map(|other| section.key(other)) {
            Some(other) if self.root.find(&first).is_none() && self.root.find(&other).is_some() => {
                self.invalid_at(&other, None, &violation.message)
            }
            _ => {
                let in_effect = (violation.value.as_str(), Origin::Code);
                self.invalid_at(&first, Some(in_effect), &violation.message)
            }
        }
    }

    /// Checks that somebody read every section and key.
    ///
    /// To be called after all sections were read. `entity_types` are those that the system knows:
    /// their sections are checked here if nobody read them before.
    ///
    /// # Errors
    /// [`ConfigError`] for the first section or key that means nothing, with the nearest known
    /// one, such as `[persistance]` or `[entity.Acount]`.
    pub fn finish(&self, entity_types: &[&str]) -> Result<(), ConfigError> {
        let entities = Path::of_keys(["entity"]);
        for entity_type in entity_types {
            let path = entities.key(entity_type);
            if !self.sections(|sections| sections.read.contains_key(&path)) {
                self.section_at::<super::EntityOverrides>(&path)?;
            }
        }
        self.check_variables_of_entities(entity_types)?;
        let mut sections = self.sections(|sections| sections.clone());
        // Nobody reads this table itself, but the entity types may stand in it, even if none does.
        sections.read.entry(entities).or_insert(Fields::Known(&[]));
        self.find_unread(&sections, &Path::default(), &self.root)
    }

    /// A variable does not tell `Account` from `ACCOUNT`, which are two entity types.
    fn check_variables_of_entities(&self, entity_types: &[&str]) -> Result<(), ConfigError> {
        let Some(Node::Table(entities)) = self.root.get("entity").map(|entry| &entry.value.node)
        else {
            return Ok(());
        };
        for entry in &entities.entries {
            let mut same: Vec<_> = entity_types
                .iter()
                .filter(|entity_type| normal_form(entity_type) == normal_form(&entry.key))
                .map(|entity_type| format!("`{entity_type}`"))
                .collect();
            same.sort();
            same.dedup();
            let mut variable = None;
            if let Node::Table(table) = &entry.value.node {
                table.for_each_leaf(&Path::default(), &mut |_, value| {
                    if let Origin::Environment { variable: name } = &value.origin {
                        variable = Some(name.clone());
                    }
                });
            }
            if let (Some(variable), true) = (variable, same.len() > 1) {
                return Err(ConfigError::unreadable(
                    format!("environment variable {variable}"),
                    format!("could mean the entity types {}", same.join(" or ")),
                )
                .with_hint("set the key in the file instead"));
            }
        }
        Ok(())
    }

    fn find_unread(
        &self,
        sections: &Sections,
        path: &Path,
        table: &Table,
    ) -> Result<(), ConfigError> {
        for entry in &table.entries {
            let below = sections.name_of(path, entry);
            if sections.ignored.contains(&below) || sections.is_field(path, entry) {
                continue;
            }
            match &entry.value.node {
                // A section that was read was told all its keys, except for tables.
                Node::Table(inner) if sections.is_known(&below) => {
                    self.find_unread(sections, &below, inner)?;
                }
                Node::Table(_) => return Err(sections.unknown_section(path, entry)),
                _ => return Err(sections.unknown_key(path, entry)),
            }
        }
        Ok(())
    }
}

impl Sections {
    /// Whether this is a section that was read, or one with such sections in it.
    fn is_known(&self, path: &Path) -> bool {
        self.paths().any(|known| known.starts_with(path))
    }

    fn paths(&self) -> impl Iterator<Item = &Path> + Clone {
        self.read.keys().chain(&self.ignored)
    }

    /// Whether the section at `path` was read by someone who knows this key.
    fn is_field(&self, path: &Path, entry: &Entry) -> bool {
        match self.read.get(path) {
            Some(Fields::Any) => true,
            Some(Fields::Known(fields)) => fields.iter().any(|field| matches(entry, field)),
            None => false,
        }
    }

    /// The path of an entry, spelled as its section is known.
    fn name_of(&self, path: &Path, entry: &Entry) -> Path {
        let spelled = self
            .sections_in(path)
            .find(|section| matches(entry, section));
        path.key(spelled.unwrap_or(&entry.key))
    }

    /// The names of the known sections right below `path`.
    fn sections_in<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = &'a str> + Clone {
        self.paths()
            .filter(move |known| known.starts_with(path))
            .filter_map(|known| match known.0.get(path.0.len()) {
                Some(Step::Key(key)) => Some(key.as_str()),
                _ => None,
            })
    }

    fn unknown_section(&self, path: &Path, entry: &Entry) -> ConfigError {
        let origin = entry.key_origin.clone();
        let key = path.key(&entry.key).to_string();
        if *path == Path::of_keys(["entity"]) {
            let write = |name: &str| match &origin {
                Origin::Environment { .. } => format!("`{name}`"),
                _ => format!("`[{}]`", path.key(name)),
            };
            let hint = suggest::hint(
                &entry.key,
                self.sections_in(path),
                "registered entity types",
                write,
            );
            let shown = shown_text(&entry.key);
            return ConfigError::unknown("entity type", key, &shown, origin).with_hint(hint);
        }
        let hint = suggest::hint(
            &entry.key,
            self.sections_in(path),
            "known sections",
            |name| format!("`[{}]`", path.key(name)),
        );
        let shown = format!("`[{key}]`");
        ConfigError::unknown("section", key, &shown, origin).with_hint(hint)
    }

    /// A key outside of every section; mostly one whose section was forgotten.
    fn unknown_key(&self, path: &Path, entry: &Entry) -> ConfigError {
        let home = self.read.iter().find_map(|(section, fields)| match fields {
            Fields::Known(fields) => fields
                .iter()
                .any(|field| matches(entry, field))
                .then_some(section),
            Fields::Any => None,
        });
        let key = path.key(&entry.key).to_string();
        let shown = format!("`{key}`");
        let origin = entry.key_origin.clone();
        let error = ConfigError::unknown("key", key, &shown, origin);
        match home {
            Some(section) => {
                error.with_hint(format!("did you mean `{}` in `[{section}]`?", entry.key))
            }
            None => {
                let known = self.sections_in(path);
                error.with_hint(suggest::hint(&entry.key, known, "known sections", |name| {
                    format!("the section `[{}]`", path.key(name))
                }))
            }
        }
    }
}

/// Whether an entry has this key.
fn matches(entry: &Entry, key: &str) -> bool {
    if entry.exact {
        entry.key == key
    } else {
        entry.key == normal_form(key)
    }
}

impl Clone for ConfigSource {
    fn clone(&self) -> Self {
        Self {
            name: self.name.clone(),
            root: self.root.clone(),
            read: Mutex::new(self.sections(|sections| sections.clone())),
        }
    }
}

impl fmt::Debug for ConfigSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        self.root
            .for_each_leaf(&Path::default(), &mut |path, value| {
                let shown = value.shown(path).unwrap_or_else(|| secret::MASK.to_owned());
                map.entry(
                    &format_args!("{path}"),
                    &format_args!("{shown} {}", value.origin),
                );
            });
        map.finish()
    }
}

/// A value that the program sets; see [`ConfigSource::set`].
pub struct ConfigValue(Node);

/// Shows no value, as it may be a secret.
impl fmt::Debug for ConfigValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConfigValue(***)")
    }
}

impl From<&str> for ConfigValue {
    fn from(text: &str) -> Self {
        Self(Node::Text(text.to_owned()))
    }
}

impl From<String> for ConfigValue {
    fn from(text: String) -> Self {
        Self(Node::Text(text))
    }
}

impl From<bool> for ConfigValue {
    fn from(yes: bool) -> Self {
        Self(Node::Boolean(yes))
    }
}

impl From<i32> for ConfigValue {
    fn from(number: i32) -> Self {
        Self(Node::Integer(number.into()))
    }
}

impl From<u32> for ConfigValue {
    fn from(number: u32) -> Self {
        Self(Node::Integer(number.into()))
    }
}

impl From<u64> for ConfigValue {
    fn from(number: u64) -> Self {
        Self(Node::Integer(number.into()))
    }
}

impl From<usize> for ConfigValue {
    fn from(number: usize) -> Self {
        let number = u64::try_from(number).expect("no machine has addresses above 64 bits");
        number.into()
    }
}

impl From<f64> for ConfigValue {
    fn from(number: f64) -> Self {
        Self(Node::Float(number))
    }
}

impl From<Duration> for ConfigValue {
    fn from(duration: Duration) -> Self {
        Self(Node::Text(humantime::format_duration(duration).to_string()))
    }
}
