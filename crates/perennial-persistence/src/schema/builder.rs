//! Putting a schema together, and what is wrong with it.

use std::collections::HashMap;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{Compression, Format, Tree, TreeError, Writing};
use crate::payload::MAX_MANIFEST_CHARS;
use crate::schema::versions::{Step, Versions, manifest};
use crate::schema::{DEFAULT_MAX_EXPANDED, Encode, Reader, Route, Schema, Writer};

/// The highest version a name can have.
const MAX_VERSION: u32 = 10_000;

/// Puts a [`Schema`] together.
#[must_use]
pub struct SchemaBuilder<T> {
    format: Format,
    compression: Option<Compression>,
    max_expanded: usize,
    type_property: Option<String>,
    primitives_as: Option<(String, u32)>,
    entries: Vec<Entry<T>>,
}

struct Entry<T> {
    versions: Versions,
    role: Role<T>,
}

enum Role<T> {
    /// What the current version is in Rust, and, unless it is only read, how it is written.
    Current {
        encode: Option<Encode<T>>,
        reader: Reader<T>,
    },
    /// Continues under another name.
    Renamed {
        to: String,
        version: u32,
        step: Step,
    },
}

impl<T> Entry<T> {
    /// Whether new payloads have its name.
    fn is_written(&self) -> bool {
        matches!(
            self.role,
            Role::Current {
                encode: Some(_),
                ..
            }
        )
    }
}

/// A value without content: an empty map in JSON and CBOR.
#[derive(Serialize)]
struct Empty;

impl<T: 'static> Schema<T> {
    /// One name for the whole type.
    pub fn of(versions: Versions) -> SchemaBuilder<T>
    where
        T: Serialize + DeserializeOwned,
    {
        Self::variants().variant(versions, |value| value, |value| Some(value))
    }

    /// A name for each variant, see [`SchemaBuilder::variant`].
    pub fn variants() -> SchemaBuilder<T> {
        SchemaBuilder {
            format: Format::MessagePack,
            compression: None,
            max_expanded: DEFAULT_MAX_EXPANDED,
            type_property: None,
            primitives_as: None,
            entries: Vec::new(),
        }
    }

    /// A type that is written as one value without a manifest, such as [`Format::Text`].
    pub fn primitive(format: Format) -> SchemaBuilder<T>
    where
        T: Serialize + DeserializeOwned,
    {
        Self::of(Versions::new("")).format(format)
    }
}

impl<T: 'static> SchemaBuilder<T> {
    /// How new payloads are written; [`Format::MessagePack`] by default. Every format is read.
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// Whether JSON and CBOR are compressed; by default JSON is as [`Compression::JSON`] says, and
    /// CBOR is not.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = Some(compression);
        self
    }

    /// The most bytes that a compressed payload may have when it is expanded, by default
    /// [`DEFAULT_MAX_EXPANDED`]. A larger one is not compressed into a payload nor read from one.
    pub fn max_expanded(mut self, bytes: usize) -> Self {
        self.max_expanded = bytes;
        self
    }

    /// Writes a property such as `type` with the value of [`Versions::tagged`] as the first in
    /// every JSON or CBOR object.
    ///
    /// Jackson needs it where a class is annotated with `@JsonTypeInfo`, although the manifest
    /// names the class. It is not needed for reading here; MessagePack does not have it.
    pub fn type_property(mut self, key: impl Into<String>) -> Self {
        self.type_property = Some(key.into());
        self
    }

    /// Reads payloads without a manifest ([`Format::Text`] and the like) as this version of this
    /// name.
    pub fn primitives_as(mut self, name: impl Into<String>, version: u32) -> Self {
        self.primitives_as = Some((name.into(), version));
        self
    }

    /// A variant with a name of its own; `wrap` makes the enum of its content, `unwrap` gives the
    /// content if the value is this variant.
    ///
    /// ```
    /// use perennial_persistence::{Codec, Format, Schema, Versions};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Deposited {
    ///     cents: i64,
    /// }
    ///
    /// enum AccountEvent {
    ///     Deposited(Deposited),
    ///     Closed,
    /// }
    ///
    /// let schema = Schema::<AccountEvent>::variants()
    ///     .format(Format::JacksonJson)
    ///     .type_property("type")
    ///     .variant(
    ///         Versions::new("bank.AccountEvent$Deposited").tagged("deposited"),
    ///         AccountEvent::Deposited,
    ///         |event| match event {
    ///             AccountEvent::Deposited(content) => Some(content),
    ///             _ => None,
    ///         },
    ///     )
    ///     .unit_variant(
    ///         Versions::new("bank.AccountEvent$Closed").tagged("closed"),
    ///         || AccountEvent::Closed,
    ///         |event| matches!(event, AccountEvent::Closed),
    ///     )
    ///     .build()?;
    ///
    /// let payload = schema.encode(&AccountEvent::Deposited(Deposited { cents: 5 }))?;
    /// assert_eq!(&*payload.manifest, "bank.AccountEvent$Deposited");
    /// assert_eq!(&payload.bytes[..], br#"{"type":"deposited","cents":5}"#);
    /// let payload = schema.encode(&AccountEvent::Closed)?;
    /// assert_eq!(&payload.bytes[..], br#"{"type":"closed"}"#);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn variant<V: Serialize + DeserializeOwned>(
        self,
        versions: Versions,
        wrap: impl Fn(V) -> T + Send + Sync + 'static,
        unwrap: impl Fn(&T) -> Option<&V> + Send + Sync + 'static,
    ) -> Self {
        let encode: Encode<T> = Box::new(move |value, writing, type_property| {
            unwrap(value).map(|content| writing.write(content, type_property))
        });
        let reader = Reader::Content(Box::new(move |content, each| {
            each(wrap(content.read()?));
            Ok(())
        }));
        self.current(versions, Some(encode), reader)
    }

    /// A variant without content. Whatever stands in its payload is not looked at.
    pub fn unit_variant(
        self,
        versions: Versions,
        make: impl Fn() -> T + Send + Sync + 'static,
        is: impl Fn(&T) -> bool + Send + Sync + 'static,
    ) -> Self {
        let encode: Encode<T> = Box::new(move |value, writing, type_property| {
            is(value).then(|| writing.write(&Empty, type_property))
        });
        let reader = Reader::Constant(Box::new(move |each| each(make())));
        self.current(versions, Some(encode), reader)
    }

    /// A name that is no longer written; its payloads become values of today.
    pub fn read_only<V: DeserializeOwned>(
        self,
        versions: Versions,
        wrap: impl Fn(V) -> T + Send + Sync + 'static,
    ) -> Self {
        self.read_each(versions, move |content| Some(wrap(content)))
    }

    /// A name that is no longer written; each of its payloads becomes any number of values, in
    /// order.
    pub fn read_each<V: DeserializeOwned, I: IntoIterator<Item = T>>(
        self,
        versions: Versions,
        split: impl Fn(V) -> I + Send + Sync + 'static,
    ) -> Self {
        let reader = Reader::Content(Box::new(move |content, each| {
            split(content.read()?).into_iter().for_each(each);
            Ok(())
        }));
        self.current(versions, None, reader)
    }

    /// A name that is no longer written and whose payloads mean nothing any more.
    pub fn ignored(self, versions: Versions) -> Self {
        let reader = Reader::Constant(Box::new(|_| {}));
        self.current(versions, None, reader)
    }

    /// A name that was given up for another: `step` makes version `version` of `to` of its last
    /// version, and the upcasts of `to` do the rest.
    ///
    /// ```
    /// use perennial_persistence::{Codec, Format, Schema, SerializedPayload, Versions};
    ///
    /// # #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    /// # struct Withdrawn { cents: i64 }
    /// let schema = Schema::<Withdrawn>::of(Versions::new("bank.Withdrawn"))
    ///     .format(Format::JacksonJson)
    ///     .renamed(Versions::new("bank.Debited"), "bank.Withdrawn", 1, |event| {
    ///         event.rename("amount", "cents")
    ///     })
    ///     .build()?;
    /// let old = SerializedPayload::new(31, "bank.Debited", &br#"{"amount":5}"#[..]);
    /// assert_eq!(schema.decode(&old)?, Withdrawn { cents: 5 });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn renamed(
        self,
        from: Versions,
        to: impl Into<String>,
        version: u32,
        step: impl Fn(&mut Tree) -> Result<(), TreeError> + Send + Sync + 'static,
    ) -> Self {
        self.entry(
            from,
            Role::Renamed {
                to: to.into(),
                version,
                step: std::sync::Arc::new(step),
            },
        )
    }

    fn current(self, versions: Versions, encode: Option<Encode<T>>, reader: Reader<T>) -> Self {
        self.entry(versions, Role::Current { encode, reader })
    }

    fn entry(mut self, versions: Versions, role: Role<T>) -> Self {
        self.entries.push(Entry { versions, role });
        self
    }

    /// The schema.
    ///
    /// # Errors
    /// [`InvalidSchema`] with everything that does not fit together: a version without an upcast,
    /// a name given twice, a rename that leads nowhere.
    pub fn build(self) -> Result<Schema<T>, InvalidSchema> {
        let mut problems = Vec::new();
        self.check_names(&mut problems);
        self.check_format(&mut problems);
        let next = self.next_of_each_version(&mut problems);
        if !problems.is_empty() {
            return Err(InvalidSchema { problems });
        }
        // Only now, or every missing step would be said twice.
        let (routes, manifests) = resolve(&next, &mut problems);
        let primitives = self.primitives(&manifests, &mut problems);
        if !problems.is_empty() {
            return Err(InvalidSchema { problems });
        }

        let (mut writers, mut readers) = (Vec::new(), Vec::new());
        for entry in self.entries {
            let text = if self.format.is_primitive() {
                String::new()
            } else {
                entry.versions.manifest()
            };
            if let Role::Current { encode, reader } = entry.role {
                readers.push(reader);
                writers.extend(encode.map(|encode| Writer {
                    manifest: text.into(),
                    type_value: entry.versions.type_value,
                    encode,
                }));
            }
        }
        let compression = match self.format {
            Format::JacksonJson => Compression::JSON,
            _ => Compression::Off,
        };
        Ok(Schema {
            writing: Writing {
                format: self.format,
                compression: self.compression.unwrap_or(compression),
                max_expanded: self.max_expanded,
            },
            type_property: self.type_property,
            writers,
            readers,
            routes,
            manifests,
            primitives,
        })
    }

    fn check_names(&self, problems: &mut Vec<String>) {
        for (at, entry) in self.entries.iter().enumerate() {
            let Versions { name, current, .. } = &entry.versions;
            if !(1..=MAX_VERSION).contains(current) {
                problems.push(format!(
                    "\"{name}\" has version {current}; versions are 1 to {MAX_VERSION}"
                ));
            }
            if name.contains(['#', '\0']) {
                problems.push(format!("the name \"{name}\" contains `#` or U+0000"));
            }
            let chars = entry.versions.manifest().chars().count();
            if chars > MAX_MANIFEST_CHARS {
                problems.push(format!(
                    "the name \"{name}\" with its version has {chars} characters; \
                     {MAX_MANIFEST_CHARS} are possible"
                ));
            }
            let same = |other: &Entry<T>| other.versions.name == *name;
            if self.entries[..at].iter().any(same) {
                problems.push(format!("the name \"{name}\" is given twice"));
            }
        }
    }

    fn check_format(&self, problems: &mut Vec<String>) {
        let format = self.format;
        if !format.is_jackson()
            && self
                .compression
                .is_some_and(|compression| compression != Compression::Off)
        {
            problems.push(format!("{format} is never compressed"));
        }
        let mut written = 0;
        for entry in &self.entries {
            let Versions {
                name,
                current,
                type_value,
                ..
            } = &entry.versions;
            let is_written = entry.is_written();
            written += usize::from(is_written);
            match (&self.type_property, type_value) {
                (Some(key), None) if is_written => problems.push(format!(
                    "\"{name}\" has no value for the type property `{key}` (`Versions::tagged`)"
                )),
                (None, Some(_)) => problems.push(format!(
                    "\"{name}\" has a value for a type property, but the schema has none \
                     (`SchemaBuilder::type_property`)"
                )),
                _ => {}
            }
            if format.is_primitive() && is_written && *current != 1 {
                problems.push(format!(
                    "{format} has no manifest that could tell version {current} of \"{name}\""
                ));
            }
        }
        if format.is_primitive() && written != 1 {
            problems.push(format!(
                "{format} has no manifest that could tell {written} names apart"
            ));
        }
        if self.entries.is_empty() {
            problems.push("there is no name in it".to_owned());
        }
    }

    /// What each name and version becomes in one step.
    fn next_of_each_version(&self, problems: &mut Vec<String>) -> HashMap<(String, u32), Next> {
        let mut next = HashMap::new();
        let mut reader = 0;
        for entry in &self.entries {
            let Versions {
                name,
                current,
                oldest,
                upcasts,
                newer,
                ..
            } = &entry.versions;
            let end = match &entry.role {
                Role::Current { .. } => {
                    reader += 1;
                    Next::Reader(reader - 1)
                }
                Role::Renamed { to, version, step } => {
                    Next::Step(step.clone(), (to.clone(), *version))
                }
            };
            next.insert((name.clone(), *current), end);
            for (from, step) in upcasts {
                if !(*oldest..*current).contains(from) {
                    problems.push(format!(
                        "\"{name}\" has an upcast from version {from}, but its versions before the \
                         current one are {oldest} to {}",
                        current.saturating_sub(1)
                    ));
                } else if insert(&mut next, name, *from, *from + 1, step) {
                    problems.push(format!("\"{name}\" has two upcasts from version {from}"));
                }
            }
            for version in *oldest..(*current).min(MAX_VERSION) {
                if !next.contains_key(&(name.clone(), version)) {
                    problems.push(format!(
                        "\"{name}\" has no upcast from version {version}; if it was never stored, \
                         say so with `oldest`"
                    ));
                }
            }
            for (from, step) in newer {
                if from <= current {
                    problems.push(format!(
                        "version {from} of \"{name}\" is not newer than the current one"
                    ));
                } else if insert(&mut next, name, *from, *from - 1, step) {
                    problems.push(format!("\"{name}\" has two steps back from version {from}"));
                }
            }
        }
        next
    }

    fn primitives(
        &self,
        manifests: &HashMap<String, usize>,
        problems: &mut Vec<String>,
    ) -> Option<usize> {
        if let Some((name, version)) = &self.primitives_as {
            let route = manifests.get(&manifest(name, *version)).copied();
            if route.is_none() {
                problems.push(format!(
                    "primitives are to be read as version {version} of \"{name}\", which is unknown"
                ));
            }
            return route;
        }
        if !self.format.is_primitive() {
            return None;
        }
        let entry = self.entries.iter().find(|entry| entry.is_written())?;
        manifests.get(&entry.versions.manifest()).copied()
    }
}

impl<T> std::fmt::Debug for SchemaBuilder<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.entries.iter().map(|entry| &entry.versions).collect();
        f.debug_struct("SchemaBuilder")
            .field("format", &self.format)
            .field("names", &names)
            .finish_non_exhaustive()
    }
}

enum Next {
    /// It is current.
    Reader(usize),
    /// It becomes this name and version.
    Step(Step, (String, u32)),
}

/// Whether there was a step already.
fn insert(
    next: &mut HashMap<(String, u32), Next>,
    name: &str,
    from: u32,
    to: u32,
    step: &Step,
) -> bool {
    let step = Next::Step(step.clone(), (name.to_owned(), to));
    next.insert((name.to_owned(), from), step).is_some()
}

/// The whole way of each name and version, by its manifest.
fn resolve(
    next: &HashMap<(String, u32), Next>,
    problems: &mut Vec<String>,
) -> (Vec<Route>, HashMap<String, usize>) {
    let (mut routes, mut manifests) = (Vec::new(), HashMap::new());
    for (name, version) in next.keys() {
        let mut at = (name.clone(), *version);
        let mut steps = Vec::new();
        let problem = loop {
            match next.get(&at) {
                Some(Next::Reader(reader)) => {
                    manifests.insert(manifest(name, *version), routes.len());
                    routes.push(Route {
                        steps,
                        reader: *reader,
                    });
                    break None;
                }
                Some(Next::Step(step, to)) => {
                    // As many steps as there are versions: one comes again.
                    if steps.len() == next.len() {
                        break Some("leads back to itself".to_owned());
                    }
                    steps.push((at.0, at.1, step.clone()));
                    at = to.clone();
                }
                None => {
                    break Some(format!(
                        "leads to version {} of \"{}\", which is unknown",
                        at.1, at.0
                    ));
                }
            }
        };
        problems
            .extend(problem.map(|problem| format!("version {version} of \"{name}\" {problem}")));
    }
    problems.sort_unstable();
    (routes, manifests)
}

/// Why a schema cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the schema makes no sense: {}", problems.join("; "))]
pub struct InvalidSchema {
    /// Every problem, one sentence each.
    pub problems: Vec<String>,
}
