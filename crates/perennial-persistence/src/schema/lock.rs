//! A file with samples of everything that was ever written, checked by the user's tests.

use std::collections::HashSet;
use std::error::Error as StdError;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::{env, fs, io};

use serde::{Deserialize, Serialize};

use crate::codec::de::{Origin, from_tree};
use crate::codec::json::{self, JsonSink};
use crate::codec::ser::serialize;
use crate::payload::SerializedPayload;
use crate::schema::Named;

/// With this environment variable set to `1` a [`SchemaLock`] adds what is new to its file.
pub const UPDATE_LOCK_VARIABLE: &str = "PERENNIAL_UPDATE_SCHEMA_LOCK";

/// A file with samples of every version of every payload that was ever written.
///
/// A test calls [`check`](Self::check) with a sample of each event. It fails when the encoding of a
/// sample changed without a new version, when something that was written once can no longer be
/// read, and when something new is not in the file yet. The file is part of the repository; its
/// lines are only ever added to:
///
/// ```sh
/// PERENNIAL_UPDATE_SCHEMA_LOCK=1 cargo test
/// ```
///
/// ```
/// use perennial_persistence::{MessagePack, SchemaLock};
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("schema.lock");
/// # std::fs::write(&path, concat!(
/// #     r#"{"schema":"prices","sample":"one cent","serializer_id":1299408720,"#,
/// #     r#""manifest":"Price","hex":"01"}"#,
/// # ))?;
/// // In a test of yours: SchemaLock::file("tests/schema.lock").
/// let codec = MessagePack::<i64>::new("Price");
/// SchemaLock::file(path).check("prices", &codec, [("one cent", 1)])?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// It stands beside the codecs, not in the testkit: a file of formats belongs to those who define
/// them, and a test of formats alone needs no other part of perennial.
#[derive(Debug, Clone)]
pub struct SchemaLock {
    path: PathBuf,
}

/// A line of the file, and what it means today.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Locked<T> {
    /// What the sample is called.
    pub sample: String,
    /// Its name and version.
    pub manifest: String,
    /// Its values.
    pub values: Vec<T>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    schema: String,
    sample: String,
    serializer_id: i32,
    manifest: String,
    /// The bytes, if they are text that a reader would like to see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hex: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Check,
    Update,
}

impl SchemaLock {
    /// A lock in this file. In a test the working directory is that of the package.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Checks a codec against the lines that are called `schema`, and gives what they mean today,
    /// so that a test can look at that too.
    ///
    /// There is a sample for every name that the codec writes, best several, each with a label of
    /// its own. Two runs must encode a sample equally: a `HashMap` with several keys does not.
    ///
    /// # Errors
    /// [`LockError::Broken`] with everything that does not fit and what to do about it;
    /// [`LockError::Malformed`] and [`LockError::Io`] for the file itself.
    pub fn check<'a, T, C: Named<T>>(
        &self,
        schema: &str,
        codec: &C,
        samples: impl IntoIterator<Item = (&'a str, T)>,
    ) -> Result<Vec<Locked<T>>, LockError> {
        let update = env::var(UPDATE_LOCK_VARIABLE).is_ok_and(|value| value == "1");
        let mode = if update { Mode::Update } else { Mode::Check };
        self.run(mode, schema, codec, samples)
    }

    fn run<'a, T, C: Named<T>>(
        &self,
        mode: Mode,
        schema: &str,
        codec: &C,
        samples: impl IntoIterator<Item = (&'a str, T)>,
    ) -> Result<Vec<Locked<T>>, LockError> {
        /// Tests of one process share files.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);

        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(self.io(source)),
        };
        let mut lines = self.parse(&text)?;
        lines.retain(|line| line.schema == schema);

        let mut problems = Vec::new();
        let added = self.compare(mode, schema, codec, samples, &lines, &mut problems);
        lines.extend(added.iter().cloned());
        let locked = read_lines(codec, &lines, &mut problems);
        if !problems.is_empty() {
            return Err(LockError::Broken {
                path: self.path.clone(),
                problems,
            });
        }
        if !added.is_empty() {
            self.append(text, &added)?;
        }
        Ok(locked)
    }

    /// The lines that the samples lack.
    fn compare<'a, T, C: Named<T>>(
        &self,
        mode: Mode,
        schema: &str,
        codec: &C,
        samples: impl IntoIterator<Item = (&'a str, T)>,
        lines: &[Line],
        problems: &mut Vec<String>,
    ) -> Vec<Line> {
        let written = codec.written();
        let (mut labels, mut seen, mut added) = (HashSet::new(), HashSet::new(), Vec::new());
        for (label, value) in samples {
            if !labels.insert(label) {
                problems.push(format!("two samples are called \"{label}\""));
                continue;
            }
            let payload = match codec.encode(&value) {
                Ok(payload) => payload,
                Err(error) => {
                    problems.push(format!("\"{label}\" cannot be encoded: {}", chain(&error)));
                    continue;
                }
            };
            seen.insert(payload.manifest.to_string());
            if !comes_back(codec, &payload) {
                problems.push(format!(
                    "\"{label}\" is another value when it is read again: in flattened and \
                     internally tagged types serde does not see what a field is (`Decimal`, bytes, \
                     NaN); describe the field otherwise"
                ));
            }
            let line = Line::of(schema, label, &payload);
            let locked = lines.iter().find(|locked| {
                locked.sample == label
                    && locked.serializer_id == line.serializer_id
                    && locked.manifest == line.manifest
            });
            match locked {
                Some(locked) if locked.payload() == Ok(payload) => {}
                Some(_) => problems.push(format!(
                    "\"{label}\" is encoded differently than before, still as \"{}\": give that \
                     name its next version and an upcast from this one, or undo the change",
                    line.manifest
                )),
                None if mode == Mode::Update => added.push(line),
                None => problems.push(format!(
                    "\"{label}\" as \"{}\" is not in the file: run `{UPDATE_LOCK_VARIABLE}=1 cargo \
                     test` and commit what it adds",
                    line.manifest
                )),
            }
        }
        for manifest in &written {
            if !seen.contains(manifest) {
                problems.push(format!("there is no sample of \"{manifest}\": add one"));
            }
        }
        for line in lines {
            if written.contains(&line.manifest) && !labels.contains(line.sample.as_str()) {
                problems.push(format!(
                    "the sample \"{}\" of \"{}\" is gone: put it back, so that its encoding stays \
                     as it is",
                    line.sample, line.manifest
                ));
            }
        }
        added
    }

    fn parse(&self, text: &str) -> Result<Vec<Line>, LockError> {
        let mut lines = Vec::new();
        for (index, text) in text.lines().enumerate() {
            if text.trim().is_empty() {
                continue;
            }
            let line = json::read(text.as_bytes())
                .and_then(|tree| from_tree::<Line>(tree, Origin::Json))
                .map_err(|error| error.to_string())
                .and_then(|line| line.payload().map(|_| line));
            lines.push(line.map_err(|problem| LockError::Malformed {
                path: self.path.clone(),
                line: index + 1,
                problem,
            })?);
        }
        Ok(lines)
    }

    /// Adds lines behind those that are there, which stay as they are.
    fn append(&self, mut text: String, added: &[Line]) -> Result<(), LockError> {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        let mut bytes = text.into_bytes();
        for line in added {
            serialize(line, None, &mut JsonSink(&mut bytes)).map_err(|error| {
                self.io(io::Error::other(format!(
                    "a line cannot be written: {error}"
                )))
            })?;
            bytes.push(b'\n');
        }
        // Whole or not at all: the file is the only record of old versions.
        let mut name = self.path.clone().into_os_string();
        name.push(".new");
        let new = Path::new(&name);
        fs::write(new, bytes)
            .and_then(|()| fs::rename(new, &self.path))
            .map_err(|source| self.io(source))
    }

    fn io(&self, source: io::Error) -> LockError {
        LockError::Io {
            path: self.path.clone(),
            source,
        }
    }
}

/// Whether what was written is the same when it is read and written once more. A payload that
/// stands for none or several values has no other form to compare, and one that cannot be read is
/// reported with its line.
fn comes_back<T, C: Named<T>>(codec: &C, payload: &SerializedPayload) -> bool {
    let mut values = Vec::new();
    let read = codec.decode_each(payload, &mut |value| values.push(value));
    match (read, values.as_slice()) {
        (Ok(()), [value]) => codec.encode(value).is_ok_and(|again| again == *payload),
        _ => true,
    }
}

/// What the lines mean today.
fn read_lines<T, C: Named<T>>(
    codec: &C,
    lines: &[Line],
    problems: &mut Vec<String>,
) -> Vec<Locked<T>> {
    let mut read = Vec::new();
    for line in lines {
        let mut values = Vec::new();
        let result = match line.payload() {
            Ok(payload) => codec
                .decode_each(&payload, &mut |value| values.push(value))
                .map_err(|error| chain(&error)),
            Err(problem) => Err(problem),
        };
        match result {
            Ok(()) => read.push(Locked {
                sample: line.sample.clone(),
                manifest: line.manifest.clone(),
                values,
            }),
            Err(problem) => problems.push(format!(
                "\"{}\", written as \"{}\" (serializer id {}), can no longer be read: {problem}; \
                 stored payloads never change, so keep its name and an upcast from its version",
                line.sample, line.manifest, line.serializer_id
            )),
        }
    }
    read
}

/// An error with all its sources.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        // Writing to a string cannot fail.
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}

impl Line {
    fn of(schema: &str, sample: &str, payload: &SerializedPayload) -> Self {
        let text = std::str::from_utf8(&payload.bytes)
            .ok()
            .filter(|text| !text.chars().any(char::is_control));
        let hex = payload.bytes.iter().fold(String::new(), |mut hex, byte| {
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        Self {
            schema: schema.to_owned(),
            sample: sample.to_owned(),
            serializer_id: payload.serializer_id,
            manifest: payload.manifest.to_string(),
            hex: text.is_none().then_some(hex),
            text: text.map(ToOwned::to_owned),
        }
    }

    fn payload(&self) -> Result<SerializedPayload, String> {
        let bytes = match (&self.text, &self.hex) {
            (Some(text), None) => text.clone().into_bytes(),
            (None, Some(hex)) => unhex(hex).ok_or("`hex` is not hexadecimal")?,
            _ => return Err("either `text` or `hex` is needed".to_owned()),
        };
        Ok(SerializedPayload::new(
            self.serializer_id,
            self.manifest.as_str(),
            bytes,
        ))
    }
}

fn unhex(hex: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()
    };
    rest.is_empty().then(|| pairs.iter().map(byte).collect())?
}

/// Why a lock does not hold.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// The codec and the file differ.
    #[error("{} does not fit:\n- {}", path.display(), problems.join("\n- "))]
    Broken {
        /// The file.
        path: PathBuf,
        /// Every difference, and what to do about it.
        problems: Vec<String>,
    },
    /// A line of the file is none.
    #[error("line {line} of {} is damaged: {problem}; restore it from version control", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// The file cannot be read or written.
    #[error("{} cannot be read or written", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Format, Named, Schema, Versions};

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct First {
        amount: i64,
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Second {
        cents: i64,
    }

    fn first(format: Format) -> Schema<First> {
        let schema = Schema::of(Versions::new("Deposited")).format(format);
        schema.build().expect("a schema")
    }

    fn second() -> Schema<Second> {
        let versions = Versions::new("Deposited").version(2);
        Schema::of(versions.upcast(1, |event| event.rename("amount", "cents")))
            .format(Format::JacksonJson)
            .build()
            .expect("a schema")
    }

    struct Fixture {
        dir: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            Self { dir }
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("schema.lock")
        }

        fn run<T, C: Named<T>>(
            &self,
            mode: Mode,
            codec: &C,
            samples: Vec<(&str, T)>,
        ) -> Result<Vec<Locked<T>>, LockError> {
            SchemaLock::file(self.path()).run(mode, "account", codec, samples)
        }

        fn text(&self) -> String {
            fs::read_to_string(self.path()).unwrap_or_default()
        }
    }

    fn check_broken<T: std::fmt::Debug>(result: Result<T, LockError>, parts: &[&str]) {
        let error = result.expect_err("broken");
        let LockError::Broken { problems, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(problems.len(), parts.len(), "{error}");
        for part in parts {
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn new_versions_are_added_and_old_lines_stay() {
        let lock = Fixture::new();
        let old = || vec![("plain", First { amount: 5 })];
        let new = || vec![("plain", Second { cents: 5 })];
        let json = first(Format::JacksonJson);
        check_broken(
            lock.run(Mode::Check, &json, old()),
            &["PERENNIAL_UPDATE_SCHEMA_LOCK=1 cargo test"],
        );
        lock.run(Mode::Update, &json, old()).expect("a new line");
        let before = lock.text();
        assert_eq!(
            before,
            concat!(
                r#"{"schema":"account","sample":"plain","serializer_id":31,"#,
                r#""manifest":"Deposited","text":"{\"amount\":5}"}"#,
                "\n"
            )
        );
        lock.run(Mode::Check, &json, old()).expect("nothing new");

        check_broken(
            lock.run(Mode::Check, &second(), new()),
            &["\"Deposited#2\" is not in the file"],
        );
        lock.run(Mode::Update, &second(), new())
            .expect("a new line");
        let after = lock.text();
        assert!(after.starts_with(&before));
        assert_eq!(after.lines().count(), 2);
        lock.run(Mode::Update, &second(), new())
            .expect("nothing new");
        assert_eq!(lock.text(), after);

        let locked = lock.run(Mode::Check, &second(), new()).expect("a lock");
        let meaning: Vec<_> = locked
            .iter()
            .map(|line| (&*line.manifest, &line.values))
            .collect();
        let five = vec![Second { cents: 5 }];
        assert_eq!(meaning, [("Deposited", &five), ("Deposited#2", &five)]);
    }

    #[test]
    fn a_changed_encoding_without_a_new_version_is_broken() {
        let lock = Fixture::new();
        let json = first(Format::JacksonJson);
        let samples = vec![("plain", First { amount: 5 })];
        lock.run(Mode::Update, &json, samples).expect("a new line");
        let before = lock.text();
        let changed: Schema<Second> = Schema::of(Versions::new("Deposited"))
            .format(Format::JacksonJson)
            .build()
            .expect("a schema");
        for mode in [Mode::Check, Mode::Update] {
            check_broken(
                lock.run(mode, &changed, vec![("plain", Second { cents: 5 })]),
                &["give that name its next version", "can no longer be read"],
            );
        }
        assert_eq!(lock.text(), before);
    }

    #[test]
    fn a_version_that_is_no_longer_read_is_broken() {
        let lock = Fixture::new();
        let samples = vec![("plain", First { amount: 5 })];
        lock.run(Mode::Update, &first(Format::JacksonJson), samples)
            .expect("a new line");
        let forgetful: Schema<Second> = Schema::of(Versions::new("Deposited").version(2).oldest(2))
            .format(Format::JacksonJson)
            .build()
            .expect("a schema");
        check_broken(
            lock.run(
                Mode::Update,
                &forgetful,
                vec![("plain", Second { cents: 5 })],
            ),
            &["keep its name and an upcast"],
        );
    }

    #[test]
    fn samples_are_complete_and_stay() {
        let lock = Fixture::new();
        let json = first(Format::JacksonJson);
        check_broken(
            lock.run(Mode::Update, &json, vec![]),
            &["no sample of \"Deposited\""],
        );
        let both = vec![("one", First { amount: 1 }), ("two", First { amount: 2 })];
        lock.run(Mode::Update, &json, both).expect("two new lines");
        let one = || ("one", First { amount: 1 });
        check_broken(
            lock.run(Mode::Check, &json, vec![one()]),
            &["the sample \"two\" of \"Deposited\" is gone"],
        );
        check_broken(
            lock.run(
                Mode::Check,
                &json,
                vec![one(), one(), ("two", First { amount: 2 })],
            ),
            &["two samples are called \"one\""],
        );
    }

    #[test]
    fn a_value_that_does_not_come_back_is_broken() {
        #[derive(Debug, Serialize, Deserialize)]
        #[serde(tag = "kind")]
        enum Blob {
            Raw { raw: serde_bytes::ByteBuf },
        }

        let lock = Fixture::new();
        let blob = || Blob::Raw {
            raw: serde_bytes::ByteBuf::from(vec![1]),
        };
        let of = |format| Schema::<Blob>::of(Versions::new("Blob")).format(format);
        let json = of(Format::JacksonJson).build().expect("a schema");
        check_broken(
            lock.run(Mode::Update, &json, vec![("raw", blob())]),
            &["another value when it is read again"],
        );
        let cbor = of(Format::JacksonCbor).build().expect("a schema");
        lock.run(Mode::Update, &cbor, vec![("raw", blob())])
            .expect("bytes are bytes there");
    }

    #[test]
    fn another_format_of_the_same_version_is_another_line() {
        let lock = Fixture::new();
        let samples = || vec![("plain", First { amount: 5 })];
        lock.run(Mode::Update, &first(Format::JacksonJson), samples())
            .expect("a new line");
        let pack = first(Format::MessagePack);
        lock.run(Mode::Update, &pack, samples())
            .expect("a new line");
        let text = lock.text();
        assert!(text.contains(r#""hex":"81a6616d6f756e7405""#), "{text}");
        assert_eq!(
            lock.run(Mode::Check, &pack, samples())
                .expect("a lock")
                .len(),
            2
        );
    }

    #[test]
    fn a_damaged_file_says_which_line() {
        let lock = Fixture::new();
        let json = first(Format::JacksonJson);
        for line in [
            "no json",
            "{}",
            r#"{"schema":"x","sample":"y","serializer_id":31,"manifest":"z"}"#,
            r#"{"schema":"x","sample":"y","serializer_id":31,"manifest":"z","hex":"0"}"#,
            r#"{"schema":"x","sample":"y","serializer_id":31,"manifest":"z","hex":"+1"}"#,
        ] {
            fs::write(lock.path(), format!("\n{line}\n")).expect("a file");
            let samples = vec![("plain", First { amount: 5 })];
            let error = lock.run(Mode::Update, &json, samples).expect_err("damaged");
            assert!(
                matches!(error, LockError::Malformed { line: 2, .. }),
                "{error}"
            );
        }
        fs::remove_file(lock.path()).expect("a file");
        fs::create_dir(lock.path()).expect("a directory");
        let error = lock.run(Mode::Check, &json, vec![]).expect_err("no file");
        assert!(matches!(error, LockError::Io { .. }), "{error}");
    }
}
