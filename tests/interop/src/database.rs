//! Where the database is: the variables that the JVM's program reads too.

use std::env::{self, VarError};

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use perennial_postgres::{Config, SslMode};

/// A database by the parts that the variables `INTEROP_DB_*` name.
#[derive(Clone)]
pub struct Database {
    host: String,
    port: String,
    name: String,
    user: String,
    password: String,
}

/// A variable is no text.
#[derive(Debug)]
pub struct UnusableVariable(pub &'static str);

impl std::fmt::Display for UnusableVariable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the environment variable {} is no UTF-8", self.0)
    }
}

impl std::error::Error for UnusableVariable {}

impl Database {
    /// The database that the environment names, with the defaults of the JVM's program.
    ///
    /// # Errors
    /// If a variable is no text.
    pub fn from_environment() -> Result<Self, UnusableVariable> {
        let read = |name, default: &str| match env::var(name) {
            Ok(value) => Ok(value),
            Err(VarError::NotPresent) => Ok(default.to_owned()),
            Err(VarError::NotUnicode(_)) => Err(UnusableVariable(name)),
        };
        Ok(Self {
            host: read("INTEROP_DB_HOST", "127.0.0.1")?,
            port: read("INTEROP_DB_PORT", "5432")?,
            name: read("INTEROP_DB_NAME", "postgres")?,
            user: read("INTEROP_DB_USER", "postgres")?,
            password: read("INTEROP_DB_PASSWORD", "")?,
        })
    }

    /// The database of a URL as `perennial_testkit` makes them:
    /// `postgres://user:password@host:port/name`.
    pub fn from_url(url: &str) -> Option<Self> {
        let (who, place) = url.strip_prefix("postgres://")?.split_once('@')?;
        let (user, password) = who.split_once(':')?;
        let (host_and_port, name) = place.split_once('/')?;
        let (host, port) = host_and_port.rsplit_once(':')?;
        let plain = |part| Some(percent_decode_str(part).decode_utf8().ok()?.into_owned());
        Some(Self {
            host: plain(host)?,
            port: port.to_owned(),
            name: plain(name)?,
            user: plain(user)?,
            password: plain(password)?,
        })
    }

    /// The variables that name this database.
    pub fn variables(&self) -> [(&'static str, &str); 5] {
        [
            ("INTEROP_DB_HOST", &self.host),
            ("INTEROP_DB_PORT", &self.port),
            ("INTEROP_DB_NAME", &self.name),
            ("INTEROP_DB_USER", &self.user),
            ("INTEROP_DB_PASSWORD", &self.password),
        ]
    }

    /// How the store connects: protected where the server offers it.
    pub fn config(&self) -> Config {
        let part = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
        let password = if self.password.is_empty() {
            String::new()
        } else {
            format!(":{}", part(&self.password))
        };
        let (user, host, name) = (part(&self.user), host(&self.host), part(&self.name));
        let url = format!("postgres://{user}{password}@{host}:{}/{name}", self.port);
        Config::default()
            .with_url(url)
            .with_sslmode(SslMode::Prefer)
            .with_application_name("interop")
    }
}

/// Without the password.
impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("name", &self.name)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// A folder with a socket is encoded, an address is not.
fn host(host: &str) -> String {
    if host.starts_with('/') {
        utf8_percent_encode(host, NON_ALPHANUMERIC).to_string()
    } else {
        host.to_owned()
    }
}
