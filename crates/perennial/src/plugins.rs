//! The stores that are linked in, by their names in the configuration.

use perennial_core::StorePlugin;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
use perennial_core::config::{ConfigError, ConfigSource};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
use perennial_persistence::OpenError;

/// Every store that this build knows.
pub fn plugins() -> Vec<Box<dyn StorePlugin>> {
    vec![
        #[cfg(feature = "sqlite")]
        Box::new(sqlite::SqlitePlugin),
        #[cfg(feature = "postgres")]
        Box::new(postgres::PostgresPlugin),
        #[cfg(feature = "testkit")]
        Box::new(memory::MemoryPlugin),
    ]
}

/// A store's complaint about one of its settings, with the place where that is set.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
fn checked(
    source: &ConfigSource,
    section: &str,
    checked: Result<(), OpenError>,
) -> Result<(), ConfigError> {
    match checked {
        Err(OpenError::Config { key, reason }) => {
            Err(source.invalid(&format!("{section}.{key}"), &reason))
        }
        // Anything else would only show when the store is opened.
        _ => Ok(()),
    }
}

#[cfg(feature = "sqlite")]
mod sqlite {
    use std::sync::Arc;

    use perennial_core::config::{ConfigError, ConfigSource};
    use perennial_core::{OpenStore, StorePlugin};
    use perennial_persistence::Store;
    use perennial_sqlite::{Config, Sqlite};

    #[derive(Debug)]
    pub(super) struct SqlitePlugin;

    impl StorePlugin for SqlitePlugin {
        fn name(&self) -> &'static str {
            "sqlite"
        }

        fn configure(&self, source: &ConfigSource) -> Result<OpenStore, ConfigError> {
            let config: Config = source.section("persistence.sqlite")?;
            super::checked(source, "persistence.sqlite", config.check())?;
            Ok(Box::new(|| {
                Box::pin(async {
                    let store: Arc<dyn Store> = Arc::new(Sqlite::open(config).await?);
                    Ok(store)
                })
            }))
        }
    }
}

#[cfg(feature = "postgres")]
mod postgres {
    use std::sync::Arc;

    use perennial_core::config::{ConfigError, ConfigSource};
    use perennial_core::{OpenStore, StorePlugin};
    use perennial_persistence::Store;
    use perennial_postgres::{Config, Postgres};

    #[derive(Debug)]
    pub(super) struct PostgresPlugin;

    impl StorePlugin for PostgresPlugin {
        fn name(&self) -> &'static str {
            "postgres"
        }

        fn configure(&self, source: &ConfigSource) -> Result<OpenStore, ConfigError> {
            let config: Config = source.section("persistence.postgres")?;
            super::checked(source, "persistence.postgres", config.check())?;
            Ok(Box::new(|| {
                Box::pin(async {
                    let store: Arc<dyn Store> = Arc::new(Postgres::open(config).await?);
                    Ok(store)
                })
            }))
        }
    }
}

#[cfg(feature = "testkit")]
mod memory {
    use std::sync::Arc;

    use perennial_core::config::{ConfigError, ConfigSource};
    use perennial_core::{OpenStore, StorePlugin};
    use perennial_persistence::{DurableStateDelete, Store};
    use perennial_testkit::MemoryStore;
    use serde::Deserialize;

    #[derive(Debug)]
    pub(super) struct MemoryPlugin;

    /// The section `[persistence.memory]`.
    #[derive(Debug, Default, Deserialize)]
    #[serde(rename_all = "kebab-case", default)]
    struct Config {
        /// As that of the other stores.
        durable_state_delete: DurableStateDelete,
    }

    impl StorePlugin for MemoryPlugin {
        fn name(&self) -> &'static str {
            "memory"
        }

        fn configure(&self, source: &ConfigSource) -> Result<OpenStore, ConfigError> {
            let config: Config = source.section("persistence.memory")?;
            Ok(Box::new(move || {
                Box::pin(async move {
                    let store = MemoryStore::default();
                    let store = store.with_durable_state_delete(config.durable_state_delete);
                    Ok(Arc::new(store) as Arc<dyn Store>)
                })
            }))
        }
    }
}
