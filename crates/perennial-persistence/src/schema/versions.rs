//! Names and versions, and the steps between them.

use std::fmt;
use std::sync::Arc;

use crate::codec::{Tree, TreeError};

/// Brings a payload from one version to another.
pub(crate) type Step = Arc<dyn Fn(&mut Tree) -> Result<(), TreeError> + Send + Sync>;

/// A stable name with its version, and how payloads of other versions become the current one.
///
/// The name is chosen once and for all; it is not the Rust type's. For a peer on the JVM it is the
/// class name. A payload's manifest is the name, with `#n` behind it from version 2 on.
///
/// ```
/// use perennial_persistence::Versions;
///
/// let deposited = Versions::new("bank.Deposited")
///     .version(3)
///     .upcast(1, |event| event.rename("amount", "cents"))
///     .upcast(2, |event| event.set("channel", "legacy"));
/// assert_eq!(deposited.manifest(), "bank.Deposited#3");
/// ```
#[derive(Clone)]
#[must_use]
pub struct Versions {
    pub(crate) name: String,
    pub(crate) current: u32,
    pub(crate) oldest: u32,
    pub(crate) type_value: Option<String>,
    /// From which version, and how.
    pub(crate) upcasts: Vec<(u32, Step)>,
    pub(crate) newer: Vec<(u32, Step)>,
}

impl Versions {
    /// Version 1 of a name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            current: 1,
            oldest: 1,
            type_value: None,
            upcasts: Vec::new(),
            newer: Vec::new(),
        }
    }

    /// The current version, from 1. Every version before it needs an [upcast](Self::upcast).
    pub fn version(mut self, current: u32) -> Self {
        self.current = current;
        self
    }

    /// The oldest version that was ever stored, if that is not 1; older ones need no upcast.
    pub fn oldest(mut self, oldest: u32) -> Self {
        self.oldest = oldest;
        self
    }

    /// Makes version `from` + 1 of version `from`.
    ///
    /// If nothing has to be changed (a field was added that has a default), the step does nothing:
    /// `|_| Ok(())`.
    pub fn upcast(
        mut self,
        from: u32,
        step: impl Fn(&mut Tree) -> Result<(), TreeError> + Send + Sync + 'static,
    ) -> Self {
        self.upcasts.push((from, Arc::new(step)));
        self
    }

    /// Accepts a version that is newer than the current one, and makes version `from` − 1 of it.
    ///
    /// This lets an old release run beside a new one for a while: the old one is taught to read the
    /// new version first. Without it a newer version is an error.
    pub fn newer(
        mut self,
        from: u32,
        step: impl Fn(&mut Tree) -> Result<(), TreeError> + Send + Sync + 'static,
    ) -> Self {
        self.newer.push((from, Arc::new(step)));
        self
    }

    /// The value of the [type property](crate::SchemaBuilder::type_property) of this name.
    pub fn tagged(mut self, value: impl Into<String>) -> Self {
        self.type_value = Some(value.into());
        self
    }

    /// What stands in the manifest of new payloads.
    pub fn manifest(&self) -> String {
        manifest(&self.name, self.current)
    }
}

impl fmt::Debug for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Versions")
            .field("name", &self.name)
            .field("current", &self.current)
            .field("oldest", &self.oldest)
            .field("type_value", &self.type_value)
            .finish_non_exhaustive()
    }
}

/// The manifest of a name and a version: version 1 has no suffix.
pub(crate) fn manifest(name: &str, version: u32) -> String {
    if version == 1 {
        name.to_owned()
    } else {
        format!("{name}#{version}")
    }
}

/// The name and the version of a manifest, split at the last `#`; none if that is no version.
pub(crate) fn parse(manifest: &str) -> Option<(&str, u32)> {
    let Some((name, version)) = manifest.rsplit_once('#') else {
        return Some((manifest, 1));
    };
    let digits = version.bytes().all(|byte| byte.is_ascii_digit());
    match version.parse() {
        Ok(version) if digits && version > 0 => Some((name, version)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_split_at_its_last_number_sign() {
        let check = |text, expected| assert_eq!(parse(text), expected, "{text}");
        check("bank.Deposited", Some(("bank.Deposited", 1)));
        check("bank.Deposited#1", Some(("bank.Deposited", 1)));
        check("bank.Deposited#23", Some(("bank.Deposited", 23)));
        check("a#b#2", Some(("a#b", 2)));
        check("", Some(("", 1)));
        check("#3", Some(("", 3)));
        check("a#", None);
        check("a#0", None);
        check("a#-1", None);
        check("a#+1", None);
        check("a#two", None);
        check("a#4294967296", None);
    }

    #[test]
    fn version_one_has_no_suffix() {
        assert_eq!(manifest("A", 1), "A");
        assert_eq!(manifest("A", 2), "A#2");
        assert_eq!(manifest("", 2), "#2");
    }
}
