//! The configuration: one TOML file and the environment, parsed once into plain structs.
//!
//! [`ConfigSource`] is the parsed document. Each part of the system reads its own section from it
//! into a serde struct ([`ConfigSource::section`]), also stores that know nothing of this crate;
//! the engine's own are [`SystemConfig`], [`ShutdownConfig`], [`PersistenceConfig`] and, for each
//! entity type, [`EntityConfig`]. What nobody reads is an error ([`ConfigSource::finish`]), as is everything
//! that cannot be meant: a [`ConfigError`] names the key, the file and line or the variable, and
//! what to do. `docs/configuration.md` lists every key.
//!
//! ```
//! use perennial_core::config::{ConfigSource, EntityConfig, PersistenceConfig, SystemConfig};
//!
//! let source = ConfigSource::from_toml(
//!     "bank.toml",
//!     r#"
//!     [system]
//!     workers = 2
//!
//!     [entity.Account]
//!     passivate-after = "never"
//!     "#,
//! )?;
//! let system = SystemConfig::read(&source)?;
//! let persistence = PersistenceConfig::read(&source)?;
//! persistence.check_plugin(&source, &["sqlite"])?;
//! let in_code = EntityConfig::default().with_snapshot_every(500);
//! let account = EntityConfig::read(&source, "Account", in_code)?;
//! source.finish(&["Account"])?;
//!
//! assert_eq!(system.workers, 2);
//! assert_eq!(persistence.plugin, "sqlite");
//! assert_eq!((account.passivate_after, account.snapshot_every), (None, 500));
//! # Ok::<(), perennial_core::config::ConfigError>(())
//! ```
//!
//! Not done: reloading while the system runs, including other files, and profiles.

pub use self::de::known_keys;
pub use self::entity::{EntityConfig, EntityOverrides, Replacement};
pub use self::error::{ConfigError, Origin};
pub use self::persistence::{PLUGINS, PersistenceConfig, Plugin};
pub use self::shutdown::ShutdownConfig;
pub use self::source::{ConfigSource, ConfigValue};
pub use self::system::{MetricsLevel, SystemConfig};

/// `with_*` methods, each of which sets the field of the same name.
macro_rules! with_methods {
    ($($method:ident => $field:ident: $type:ty,)*) => {$(
        #[doc = concat!("Sets [`Self::", stringify!($field), "`].")]
        #[must_use]
        pub fn $method(mut self, $field: $type) -> Self {
            self.$field = $field;
            self
        }
    )*};
}

mod de;
mod entity;
mod error;
mod persistence;
mod secret;
mod shutdown;
mod source;
mod suggest;
mod system;
mod tree;
mod value;

#[cfg(test)]
mod documentation;
#[cfg(test)]
mod tests;
