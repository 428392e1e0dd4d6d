//! Opening one connection: the URL, TLS, and the settings that every connection gets.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use deadpool_postgres::Connect;
use perennial_persistence::OpenError;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, NoTls, Socket};

use crate::Config;
use crate::config::without_password;
use crate::executor::{Sql, sql};

const SET: Sql = sql!("session/set.sql");

/// Opens connections, always on the runtime on which the store was opened: a connection's task
/// must not end with the caller's.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) postgres: tokio_postgres::Config,
    /// The URL without its password, for messages.
    pub(crate) target: String,
    tls: Tls,
    pub(crate) runtime: Handle,
    lock_timeout: String,
    statement_timeout: String,
    schema: String,
}

impl Connector {
    /// Reads the URL; connects to nothing yet.
    pub(crate) fn new(config: &Config) -> Result<Self, OpenError> {
        let target = without_password(&config.url);
        let mut postgres: tokio_postgres::Config = with_known_sslmode(&config.url)
            .parse()
            .map_err(|error: tokio_postgres::Error| OpenError::Config {
                key: "url",
                reason: format!(
                    "is `{target}`, which is no PostgreSQL URL{}; write \
                     postgres://user:password@host:port/database, with %40, %3A and %2F for @, : \
                     and / in the password",
                    // The cause names the part, never its value.
                    std::error::Error::source(&error)
                        .map(|cause| format!(" ({cause})"))
                        .unwrap_or_default()
                ),
            })?;
        if postgres.get_hosts().is_empty() && postgres.get_hostaddrs().is_empty() {
            return Err(OpenError::Config {
                key: "url",
                reason: format!("is `{target}` and names no host; write e.g. localhost"),
            });
        }
        postgres.application_name(&config.application_name);
        if postgres.get_connect_timeout().is_none() {
            postgres.connect_timeout(config.connect_timeout);
        }
        if postgres.get_tcp_user_timeout().is_none() {
            // A dead network is noticed at the latest when nobody waits for the answer any more.
            postgres.tcp_user_timeout(config.call_timeout);
        }
        let tls = if postgres.get_ssl_mode() == SslMode::Require {
            Tls::verified(config)?
        } else {
            Tls::None
        };
        Ok(Self {
            postgres,
            target,
            tls,
            runtime: Handle::current(),
            lock_timeout: format!("{}ms", config.lock_timeout.as_millis()),
            statement_timeout: format!("{}ms", config.statement_timeout.as_millis()),
            schema: config.schema.clone().unwrap_or_default(),
        })
    }

    /// Opens a connection with its settings. The task ends with the connection; aborting it ends
    /// the connection.
    pub(crate) async fn open(&self) -> Result<(Client, JoinHandle<()>), tokio_postgres::Error> {
        let opening = async {
            let (client, task) = match &self.tls {
                Tls::None => self.open_with(NoTls).await?,
                #[cfg(feature = "tls")]
                Tls::Verified(tls) => self.open_with((**tls).clone()).await?,
            };
            client
                .query(
                    SET.text,
                    &[&self.lock_timeout, &self.statement_timeout, &self.schema],
                )
                .await?;
            Ok((client, task))
        };
        Within {
            runtime: self.runtime.clone(),
            future: Box::pin(opening),
        }
        .await
    }

    async fn open_with<T>(&self, tls: T) -> Result<(Client, JoinHandle<()>), tokio_postgres::Error>
    where
        T: MakeTlsConnect<Socket>,
        T::Stream: Send + 'static,
        T::TlsConnect: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let (client, connection) = self.postgres.connect(tls).await?;
        let task = tokio::spawn(async move {
            // Whoever waits for an answer is told; an idle connection is replaced when it is next
            // needed.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to PostgreSQL ended");
            }
        });
        Ok((client, task))
    }
}

impl Connect for Connector {
    fn connect(
        &self,
        _: &tokio_postgres::Config,
    ) -> Pin<
        Box<
            dyn Future<Output = Result<(Client, JoinHandle<()>), tokio_postgres::Error>>
                + Send
                + '_,
        >,
    > {
        Box::pin(self.open())
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

/// A future that is polled as if by a task of `runtime`, so that its sockets, timers and tasks
/// belong there.
struct Within<'a, T> {
    runtime: Handle,
    future: Pin<Box<dyn Future<Output = T> + Send + 'a>>,
}

impl<T> Future for Within<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let this = &mut *self;
        let _entered = this.runtime.enter();
        this.future.as_mut().poll(cx)
    }
}

/// How connections are protected.
#[derive(Clone)]
enum Tls {
    /// Not at all.
    None,
    /// By TLS, with a certificate that one of the trusted authorities issued for this host.
    #[cfg(feature = "tls")]
    Verified(Box<tokio_postgres_rustls::MakeRustlsConnect>),
}

impl Tls {
    #[cfg(not(feature = "tls"))]
    fn verified(_: &Config) -> Result<Self, OpenError> {
        Err(OpenError::Config {
            key: "url",
            reason: "asks for TLS (sslmode), which this program was built without; enable the \
                     feature `postgres-tls` of perennial (`tls` of perennial-postgres), or write sslmode=disable"
                .to_owned(),
        })
    }

    #[cfg(feature = "tls")]
    fn verified(config: &Config) -> Result<Self, OpenError> {
        use std::sync::Arc;

        use rustls::pki_types::CertificateDer;
        use rustls::pki_types::pem::PemObject;

        let mut trusted = rustls::RootCertStore::empty();
        let refuse = |reason: String| OpenError::Config {
            key: "tls-root-certificates",
            reason,
        };
        match &config.tls_root_certificates {
            Some(file) => {
                let certificates = CertificateDer::pem_file_iter(file)
                    .and_then(|found| found.collect::<Result<Vec<_>, _>>())
                    .map_err(|error| {
                        refuse(format!("cannot be read from {}: {error}", file.display()))
                    })?;
                for certificate in certificates {
                    trusted.add(certificate).map_err(|error| {
                        refuse(format!("in {} are unusable: {error}", file.display()))
                    })?;
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                // Systems carry odd certificates; the usable ones count.
                trusted.add_parsable_certificates(found.certs);
            }
        }
        if trusted.is_empty() {
            return Err(refuse(
                "are none; install the system's certificates, or name a PEM file".to_owned(),
            ));
        }
        // The provider is named, so that a program with several linked in does not panic.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| refuse(format!("cannot be used: {error}")))?
            .with_root_certificates(trusted)
            .with_no_client_auth();
        Ok(Self::Verified(Box::new(
            tokio_postgres_rustls::MakeRustlsConnect::new(tls),
        )))
    }
}

/// libpq's `verify-ca` and `verify-full` as the driver's `require`: we always verify both.
fn with_known_sslmode(url: &str) -> String {
    url.replace("sslmode=verify-full", "sslmode=require")
        .replace("sslmode=verify-ca", "sslmode=require")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(url: &str, expected: &str) {
        let error = Connector::new(&Config::default().with_url(url)).expect_err(url);
        let text = error.to_string();
        assert!(text.contains(expected), "{text}");
        assert!(!text.contains("secret"), "{text}");
        assert!(matches!(error, OpenError::Config { key: "url", .. }));
    }

    #[tokio::test]
    async fn a_url_that_is_none_is_shown_without_its_password() {
        check(
            "postgres://u:se@secret@h:port/d",
            "`postgres://u:***@h:port/d`",
        )
        .await;
        check("mysql://u:secret@h/d", "`mysql://u:***@h/d`").await;
        check("host=h password=secret nonsense", "write postgres://").await;
        check("postgres://h/d?sslmode=maybe", "sslmode").await;
        check("user=u password=secret", "names no host").await;
    }

    #[test]
    fn both_verifying_modes_of_libpq_are_known() {
        for mode in ["verify-full", "verify-ca", "require"] {
            let url = format!("postgres://h/d?sslmode={mode}");
            assert_eq!(with_known_sslmode(&url), "postgres://h/d?sslmode=require");
        }
    }
}
