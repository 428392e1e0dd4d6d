//! The parsed document as a tree in which every key and value knows where it comes from.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Origin};
use super::secret;
use super::suggest::normal_form;

/// A table, in the order of the document.
#[derive(Clone, Default)]
pub(super) struct Table {
    pub(super) entries: Vec<Entry>,
}

/// A key with its value.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    /// Whether the key is spelled as it must be. A key that only an environment variable names is
    /// not, as variables don't tell upper from lower case, nor `-` from `_`.
    pub(super) exact: bool,
    pub(super) key_origin: Origin,
    pub(super) value: Value,
}

/// A value with its origin.
#[derive(Clone)]
pub(super) struct Value {
    pub(super) origin: Origin,
    pub(super) node: Node,
}

#[derive(Clone)]
pub(super) enum Node {
    Table(Table),
    Array(Vec<Value>),
    Text(String),
    /// The text of an environment variable, whose type is whatever its reader expects.
    Variable(String),
    /// Wide enough for `i64` and `u64`.
    Integer(i128),
    Float(f64),
    Boolean(bool),
    Datetime(String),
}

/// Where a key is, outermost first.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Path(pub(super) Vec<Step>);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// Why a value cannot be put where it belongs.
pub(super) enum InsertError {
    /// The key at this path holds a value that is not a table, from `origin`.
    NotTable { path: Path, origin: Origin },
    /// The key at this path is a table, so it cannot be set as a whole.
    IsTable { path: Path },
    /// More than one key may be meant.
    Ambiguous { keys: Vec<String> },
    /// Another environment variable sets the same key.
    SetTwice { path: Path, variable: Arc<str> },
}

impl Path {
    pub(super) fn of_keys<'a>(keys: impl IntoIterator<Item = &'a str>) -> Self {
        Self(
            keys.into_iter()
                .map(|key| Step::Key(key.to_owned()))
                .collect(),
        )
    }

    /// Reads a path as TOML does: dots between keys, quotes around a key with dots of its own.
    pub(super) fn parse(text: &str) -> Result<Self, ConfigError> {
        let refused = || ConfigError::unreadable(format!("{text:?}"), "is not the path of a key");
        let document = format!("{text} = 0");
        let parsed = DeTable::parse(&document).map_err(|_| refused())?;
        let mut path = Self::default();
        let mut table = parsed.into_inner();
        loop {
            let mut entries = table.into_iter();
            let (Some((key, value)), None) = (entries.next(), entries.next()) else {
                return Err(refused());
            };
            path.0.push(Step::Key(key.into_inner().into_owned()));
            let end = value.span().end;
            match value.into_inner() {
                DeValue::Table(inner) => table = inner,
                // Otherwise the text contains a `=` of its own.
                DeValue::Integer(_) if end == document.len() => return Ok(path),
                _ => return Err(refused()),
            }
        }
    }

    pub(super) fn key(&self, key: &str) -> Self {
        self.with(Step::Key(key.to_owned()))
    }

    pub(super) fn index(&self, index: usize) -> Self {
        self.with(Step::Index(index))
    }

    fn with(&self, step: Step) -> Self {
        let mut path = self.clone();
        path.0.push(step);
        path
    }

    pub(super) fn starts_with(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }

    /// Whether the value is a secret by the name of its key or of a table around it.
    pub(super) fn is_secret(&self) -> bool {
        let below_entity = self.0.first() == Some(&Step::Key("entity".to_owned()));
        self.0.iter().enumerate().any(|(depth, step)| match step {
            // An entity type called `AccessToken` has no secret settings.
            Step::Key(_) if below_entity && depth == 1 => false,
            Step::Key(key) => secret::is_secret_key(key),
            Step::Index(_) => false,
        })
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => {
                    if depth > 0 {
                        f.write_str(".")?;
                    }
                    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
                    if !key.is_empty() && key.chars().all(is_bare) {
                        f.write_str(key)?;
                    } else {
                        write!(f, "{key:?}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Table {
    /// Parses a TOML document that is called `name` in messages.
    pub(super) fn parse(name: &Arc<str>, text: &str) -> Result<Self, ConfigError> {
        let places = Places { name, text };
        let document = DeTable::parse(text).map_err(|error| {
            let origin = places.origin(error.span().unwrap_or(text.len()..text.len()));
            // The parser's own text shows the line, which may hold a password.
            syntax_error(origin, error.message())
        })?;
        places.table(document.into_inner())
    }

    /// The entry with this key: spelled like it, or named by an environment variable.
    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        let exact = |entry: &&Entry| entry.exact && entry.key == key;
        self.entries.iter().find(exact).or_else(|| {
            let loose = |entry: &&Entry| !entry.exact && entry.key == normal_form(key);
            self.entries.iter().find(loose)
        })
    }

    /// The value at a path of keys.
    pub(super) fn find(&self, path: &Path) -> Option<&Value> {
        let (last, tables) = path.0.split_last()?;
        let mut table = self;
        for step in tables {
            let Step::Key(key) = step else { return None };
            let Node::Table(inner) = &table.get(key)?.value.node else {
                return None;
            };
            table = inner;
        }
        let Step::Key(key) = last else { return None };
        Some(&table.get(key)?.value)
    }

    /// Puts `value` at `keys` in place of what is there, with tables made on the way.
    ///
    /// With `exact` the keys are spelled as they must be, otherwise they are normal forms.
    pub(super) fn insert(
        &mut self,
        keys: &[String],
        exact: bool,
        value: Value,
    ) -> Result<(), InsertError> {
        self.insert_below(&Path::default(), keys, exact, value)
    }

    fn insert_below(
        &mut self,
        path: &Path,
        keys: &[String],
        exact: bool,
        value: Value,
    ) -> Result<(), InsertError> {
        let Some((key, rest)) = keys.split_first() else {
            return Err(InsertError::IsTable { path: path.clone() });
        };
        let index = self.position(key, exact)?.unwrap_or_else(|| {
            // A table on the way; at the end of the path the value takes its place.
            let mut new = value.clone();
            if !rest.is_empty() {
                new.node = Node::Table(Self::default());
            }
            self.entries.push(Entry {
                key: key.clone(),
                exact,
                key_origin: value.origin.clone(),
                value: new,
            });
            self.entries.len() - 1
        });
        let entry = &mut self.entries[index];
        if exact {
            entry.key.clone_from(key);
            entry.exact = true;
        }
        let path = path.key(&entry.key);
        match &mut entry.value.node {
            Node::Table(table) => table.insert_below(&path, rest, exact, value),
            _ if !rest.is_empty() => Err(InsertError::NotTable {
                path,
                origin: entry.value.origin.clone(),
            }),
            _ => match (&entry.value.origin, &value.origin) {
                (Origin::Environment { variable }, Origin::Environment { variable: other })
                    if variable != other =>
                {
                    Err(InsertError::SetTwice {
                        path,
                        variable: variable.clone(),
                    })
                }
                _ => {
                    entry.value = value;
                    Ok(())
                }
            },
        }
    }

    fn position(&self, key: &str, exact: bool) -> Result<Option<usize>, InsertError> {
        let same = |entry: &Entry| match (exact, entry.exact) {
            (true, true) => entry.key == key,
            (true, false) => entry.key == normal_form(key),
            (false, _) => normal_form(&entry.key) == key,
        };
        let found: Vec<usize> = (0..self.entries.len())
            .filter(|index| same(&self.entries[*index]))
            .collect();
        match found[..] {
            [] => Ok(None),
            [index] => Ok(Some(index)),
            _ => Err(InsertError::Ambiguous {
                keys: found
                    .iter()
                    .map(|index| self.entries[*index].key.clone())
                    .collect(),
            }),
        }
    }

    /// Calls `visit` for every value that is not a table.
    pub(super) fn for_each_leaf(&self, path: &Path, visit: &mut impl FnMut(&Path, &Value)) {
        for entry in &self.entries {
            let path = path.key(&entry.key);
            match &entry.value.node {
                Node::Table(table) => table.for_each_leaf(&path, visit),
                _ => visit(&path, &entry.value),
            }
        }
    }
}

impl Value {
    /// Reads the text of an environment variable as TOML, if it is that.
    pub(super) fn parse_variable(&self) -> Option<Self> {
        let Node::Variable(text) = &self.node else {
            return None;
        };
        let parsed = DeValue::parse(text.trim()).ok()?;
        let name: Arc<str> = "".into();
        let places = Places { name: &name, text };
        let mut value = places.value(parsed).ok()?;
        value.set_origin(&self.origin);
        Some(value)
    }

    fn set_origin(&mut self, origin: &Origin) {
        self.origin = origin.clone();
        match &mut self.node {
            Node::Array(values) => values.iter_mut().for_each(|value| value.set_origin(origin)),
            Node::Table(table) => {
                for entry in &mut table.entries {
                    entry.key_origin = origin.clone();
                    entry.value.set_origin(origin);
                }
            }
            _ => {}
        }
    }

    /// The value as a message may show it; `None` for a secret.
    pub(super) fn shown(&self, path: &Path) -> Option<String> {
        if path.is_secret() {
            return None;
        }
        Some(match &self.node {
            Node::Table(_) => "{…}".to_owned(),
            Node::Array(_) => "[…]".to_owned(),
            Node::Text(text) | Node::Variable(text) => shown_text(text),
            Node::Integer(number) => number.to_string(),
            Node::Float(number) => format!("{number:?}"),
            Node::Boolean(yes) => yes.to_string(),
            Node::Datetime(text) => text.clone(),
        })
    }

    /// Every text in the value that must not be shown.
    pub(super) fn secrets(&self, path: &Path) -> Vec<String> {
        match &self.node {
            Node::Table(table) => table
                .entries
                .iter()
                .flat_map(|entry| entry.value.secrets(&path.key(&entry.key)))
                .collect(),
            Node::Array(values) => values
                .iter()
                .flat_map(|value| value.secrets(path))
                .collect(),
            Node::Text(text) | Node::Variable(text) | Node::Datetime(text) => {
                if path.is_secret() && !text.is_empty() {
                    vec![text.clone()]
                } else {
                    secret::secrets_in(text)
                }
            }
            Node::Integer(number) if path.is_secret() => vec![number.to_string()],
            Node::Float(number) if path.is_secret() => vec![number.to_string()],
            _ => Vec::new(),
        }
    }
}

/// A text as messages show it: quoted, without passwords, not too long.
pub(super) fn shown_text(text: &str) -> String {
    const SHOWN: usize = 60;
    let masked = secret::mask(text);
    match masked.char_indices().nth(SHOWN) {
        None => format!("{masked:?}"),
        Some((end, _)) => format!("{:?}…", &masked[..end]),
    }
}

fn syntax_error(origin: Origin, message: &str) -> ConfigError {
    let subject = match &origin {
        Origin::File { name, line, column } => format!("{name}, line {line}, column {column}"),
        other => other.to_string(),
    };
    ConfigError::unreadable(
        subject,
        format!("not valid TOML: {}", secret::mask(message)),
    )
    .at(origin)
}

/// Turns byte ranges of a document into lines and columns.
struct Places<'a> {
    name: &'a Arc<str>,
    text: &'a str,
}

impl Places<'_> {
    fn origin(&self, span: Range<usize>) -> Origin {
        // An error at the end of the text may lie beyond it, or inside a character.
        let before = (0..=span.start.min(self.text.len()))
            .rev()
            .find_map(|end| self.text.get(..end))
            .unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Origin::File {
            name: self.name.clone(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    fn table(&self, table: DeTable<'_>) -> Result<Table, ConfigError> {
        let mut entries: Vec<_> = table.into_iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let entries = entries
            .into_iter()
            .map(|(key, value)| {
                let key_origin = self.origin(key.span());
                let mut value = self.value(value)?;
                if matches!(value.node, Node::Table(_)) {
                    // The parser gives a table the place of whatever opened it first.
                    value.origin = key_origin.clone();
                }
                Ok(Entry {
                    key: key.into_inner().into_owned(),
                    exact: true,
                    key_origin,
                    value,
                })
            })
            .collect::<Result<_, ConfigError>>()?;
        Ok(Table { entries })
    }

    fn value(&self, value: Spanned<DeValue<'_>>) -> Result<Value, ConfigError> {
        let origin = self.origin(value.span());
        let node = match value.into_inner() {
            DeValue::String(text) => Node::Text(text.into_owned()),
            DeValue::Boolean(yes) => Node::Boolean(yes),
            DeValue::Datetime(time) => Node::Datetime(time.to_string()),
            DeValue::Integer(number) => {
                match i128::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => Node::Integer(number),
                    Err(_) => return Err(syntax_error(origin, "the number is too large")),
                }
            }
            DeValue::Float(number) => match number.as_str().parse() {
                Ok(number) => Node::Float(number),
                Err(_) => return Err(syntax_error(origin, "the number cannot be read")),
            },
            DeValue::Array(values) => Node::Array(
                values
                    .into_iter()
                    .map(|value| self.value(value))
                    .collect::<Result<_, _>>()?,
            ),
            DeValue::Table(table) => Node::Table(self.table(table)?),
        };
        Ok(Value { origin, node })
    }
}
