//! Opening one connection: the URL, TLS, and the settings that every connection gets.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use deadpool_postgres::Connect;
use perennial_persistence::OpenError;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config as driver;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, NoTls, Socket};

use crate::config::without_password;
use crate::conninfo::{Parameters, Split};
use crate::error::{ConnectError, may_pass, source_of, why_unreachable};
use crate::executor::{Sql, sql};
use crate::password::{self, Environment, Origin};
use crate::{Config, SslMode};

const SET: Sql = sql!("session/set.sql");
const PLAN_BY_KEY: Sql = sql!("session/plan_by_key.sql");

/// Opens a connection as a store with these settings does, for a program's own statements.
///
/// The connection has the settings of the store's own (`schema`, time-outs) and the same
/// protection. It ends with the client. Must be called on a tokio runtime with I/O and time.
///
/// `Client` is that of the driver, whose version is thereby part of this crate's interface.
///
/// # Errors
/// [`ConnectError::Refused`] for a setting that makes no sense, and where the server refuses us;
/// [`ConnectError::Unavailable`] if it does not answer. None shows a password.
///
/// # Cancel safety
/// Cancel safe: a connection that nobody gets is closed.
pub async fn connect(config: &Config) -> Result<Client, ConnectError> {
    config.check().map_err(ConnectError::Refused)?;
    let connector = Connector::new(config).map_err(ConnectError::Refused)?;
    connector.warn();
    let (client, _task) = connector.open_in_time(config.connect_timeout).await?;
    Ok(client)
}

/// Opens connections, always on the runtime on which the store was opened: a connection's task
/// must not end with the caller's.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) postgres: tokio_postgres::Config,
    /// The URL without its password, for messages.
    pub(crate) target: String,
    /// What is wrong with the settings, but no reason to refuse them.
    pub(crate) warnings: Vec<String>,
    attempts: Vec<Attempt>,
    password: Origin,
    pub(crate) runtime: Handle,
    lock_timeout: String,
    statement_timeout: String,
    schema: String,
}

/// One of the ways to connect, of which a mode has up to two.
#[derive(Clone)]
struct Attempt {
    postgres: tokio_postgres::Config,
    tls: Tls,
}

impl Connector {
    /// Reads the URL; connects to nothing yet.
    pub(crate) fn new(config: &Config) -> Result<Self, OpenError> {
        let environment = Environment::of_process();
        let target = without_password(&config.url);
        let (split, mut postgres) = read_url(&config.url)?;
        postgres.application_name(&config.application_name);
        if postgres.get_connect_timeout().is_none() {
            postgres.connect_timeout(config.connect_timeout);
        }
        if postgres.get_tcp_user_timeout().is_none() {
            // A dead network is noticed at the latest when nobody waits for the answer any more.
            postgres.tcp_user_timeout(config.call_timeout);
        }
        let parameters = Parameters::new(&split, config, environment.home.as_deref())?;
        let (password, mut warnings) =
            password::complete(&mut postgres, parameters.passfile.as_deref(), &environment)?;
        let attempts = attempts(&postgres, &parameters)?;
        warnings.extend(parameters.warnings);
        Ok(Self {
            postgres,
            target,
            warnings,
            attempts,
            password,
            runtime: Handle::current(),
            lock_timeout: format!("{}ms", config.lock_timeout.as_millis()),
            statement_timeout: format!("{}ms", config.statement_timeout.as_millis()),
            schema: config.schema.clone().unwrap_or_default(),
        })
    }

    /// Opens a connection as [`Self::open`] does, and says what is to be done if there is none.
    pub(crate) async fn open_in_time(
        &self,
        limit: Duration,
    ) -> Result<(Client, JoinHandle<()>), ConnectError> {
        let unreachable = |reason: String, source| OpenError::Unreachable {
            target: self.target.clone(),
            reason,
            source,
        };
        match timeout(limit, self.open()).await {
            Ok(Ok(opened)) => Ok(opened),
            Ok(Err(error)) => {
                let told = unreachable(self.why_unreachable(&error), Some(source_of(&error)));
                Err(if may_pass(&error) {
                    ConnectError::Unavailable(told)
                } else {
                    ConnectError::Refused(told)
                })
            }
            Err(_) => Err(ConnectError::Unavailable(unreachable(
                format!(
                    "nothing answered within {limit:?}; check host and port of `url`, and the \
                     network"
                ),
                None,
            ))),
        }
    }

    /// Opens a connection with its settings. The task ends with the connection; aborting it ends
    /// the connection.
    pub(crate) async fn open(&self) -> Result<(Client, JoinHandle<()>), tokio_postgres::Error> {
        self.within(self.open_here()).await
    }

    /// The same for the statements of the store, which are planned in one way.
    pub(crate) async fn open_for_calls(
        &self,
    ) -> Result<(Client, JoinHandle<()>), tokio_postgres::Error> {
        let opening = async {
            let (client, task) = self.open_here().await?;
            client.query(PLAN_BY_KEY.text, &[]).await?;
            Ok((client, task))
        };
        self.within(opening).await
    }

    async fn open_here(&self) -> Result<(Client, JoinHandle<()>), tokio_postgres::Error> {
        let (client, task) = self.connect_somehow().await?;
        client
            .query(
                SET.text,
                &[&self.lock_timeout, &self.statement_timeout, &self.schema],
            )
            .await?;
        Ok((client, task))
    }

    fn within<'a, T>(&self, future: impl Future<Output = T> + Send + 'a) -> Within<'a, T> {
        Within {
            runtime: self.runtime.clone(),
            future: Box::pin(future),
        }
    }

    /// Why a connection failed, and what to check.
    pub(crate) fn why_unreachable(&self, error: &tokio_postgres::Error) -> String {
        why_unreachable(error, &self.password)
    }

    /// Logs the warnings.
    fn warn(&self) {
        for warning in &self.warnings {
            tracing::warn!(target_url = self.target, "{warning}");
        }
    }

    /// Tries one way after the other, as long as another can help.
    async fn connect_somehow(&self) -> Result<(Client, JoinHandle<()>), tokio_postgres::Error> {
        let mut before = None;
        for attempt in &self.attempts {
            match attempt.connect().await {
                Ok(connected) => return Ok(connected),
                Err(error) if is_about_protection(&error) => {
                    // When the server refuses what is unprotected, the reason why there is no
                    // protection is the interesting one.
                    before = Some(match before {
                        Some(before) if is_tls_failure(&before) => before,
                        _ => error,
                    });
                }
                Err(error) => return Err(error),
            }
        }
        Err(before.expect("a connector has at least one way to connect"))
    }
}

impl Attempt {
    async fn connect(&self) -> Result<(Client, JoinHandle<()>), tokio_postgres::Error> {
        match &self.tls {
            Tls::None => self.open_with(NoTls).await,
            #[cfg(feature = "tls")]
            Tls::Rustls(tls) => self.open_with((**tls).clone()).await,
        }
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
        Box::pin(self.open_for_calls())
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

/// The URL in two parts, ours and the driver's. Says nothing of the settings.
pub(crate) fn read_url(url: &str) -> Result<(Split, tokio_postgres::Config), OpenError> {
    let target = without_password(url);
    let refuse = |cause: String| OpenError::Config {
        key: "url",
        reason: format!(
            "is `{target}`, which is no PostgreSQL URL{cause}; write \
             postgres://user:password@host:port/database, with %40, %3A and %2F for @, : and / in \
             the password"
        ),
    };
    let split = Split::new(url);
    if split.nameless {
        return Err(refuse(" (a value has no key)".to_owned()));
    }
    let mut postgres: tokio_postgres::Config =
        split.rest.parse().map_err(|error: tokio_postgres::Error| {
            // The cause names the part, never its value.
            let cause = std::error::Error::source(&error);
            refuse(cause.map(|cause| format!(" ({cause})")).unwrap_or_default())
        })?;
    if postgres.get_hosts().is_empty() {
        // Certificates are for names, and the driver compares them with hosts alone.
        for address in postgres.get_hostaddrs().to_vec() {
            postgres.host(address.to_string());
        }
    }
    if postgres.get_hosts().is_empty() {
        return Err(OpenError::Config {
            key: "url",
            reason: format!("is `{target}` and names no host; write e.g. localhost"),
        });
    }
    Ok((split, postgres))
}

/// Where a URL leads, without password and parameters.
pub(crate) fn place(url: &str) -> String {
    let Ok((_, postgres)) = read_url(url) else {
        return without_password(url);
    };
    let user = postgres.get_user().map(|user| format!("{user}@"));
    let ports = postgres.get_ports();
    let hosts: Vec<String> = postgres
        .get_hosts()
        .iter()
        .enumerate()
        .map(|(index, host)| {
            let port = ports.get(index).or(ports.first());
            let port = port.map(|port| format!(":{port}")).unwrap_or_default();
            match host {
                driver::Host::Tcp(host) if host.contains(':') => format!("[{host}]{port}"),
                driver::Host::Tcp(host) => format!("{host}{port}"),
                #[cfg(unix)]
                driver::Host::Unix(folder) => format!("{}{port}", folder.display()),
            }
        })
        .collect();
    let database = postgres.get_dbname().map(|name| format!("/{name}"));
    format!(
        "postgres://{}{}{}",
        user.unwrap_or_default(),
        hosts.join(","),
        database.unwrap_or_default()
    )
}

/// What speaks TLS.
#[derive(Clone)]
enum Tls {
    /// Nothing.
    None,
    #[cfg(feature = "tls")]
    Rustls(Box<tokio_postgres_rustls::MakeRustlsConnect>),
}

/// The ways to connect of a mode, in libpq's order.
fn attempts(
    postgres: &tokio_postgres::Config,
    parameters: &Parameters,
) -> Result<Vec<Attempt>, OpenError> {
    let attempt = |mode: driver::SslMode, tls: &Tls| {
        let mut postgres = postgres.clone();
        postgres.ssl_mode(mode);
        let tls = tls.clone();
        Attempt { postgres, tls }
    };
    if postgres.get_ssl_negotiation() == driver::SslNegotiation::Direct
        && !parameters.sslmode.may_verify()
    {
        return Err(OpenError::Config {
            key: "url",
            reason: format!(
                "has sslnegotiation=direct, which goes with sslmode require, verify-ca and \
                 verify-full, not with `{}`",
                parameters.sslmode
            ),
        });
    }
    let plain = || attempt(driver::SslMode::Disable, &Tls::None);
    if parameters.sslmode == SslMode::Disable || only_unix_sockets(postgres) {
        return Ok(vec![plain()]);
    }
    let Some(tls) = tls(postgres, parameters)? else {
        return Ok(vec![plain()]);
    };
    Ok(match parameters.sslmode {
        SslMode::Disable => vec![plain()],
        SslMode::Allow => vec![plain(), attempt(driver::SslMode::Require, &tls)],
        SslMode::Prefer => vec![attempt(driver::SslMode::Prefer, &tls), plain()],
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => {
            vec![attempt(driver::SslMode::Require, &tls)]
        }
    })
}

/// Unix sockets know no TLS; libpq does not look at the mode there.
fn only_unix_sockets(postgres: &tokio_postgres::Config) -> bool {
    let over_network = |host: &driver::Host| matches!(host, driver::Host::Tcp(_));
    postgres.get_hostaddrs().is_empty() && !postgres.get_hosts().iter().any(over_network)
}

#[cfg(feature = "tls")]
fn tls(
    postgres: &tokio_postgres::Config,
    parameters: &Parameters,
) -> Result<Option<Tls>, OpenError> {
    let connector = crate::tls::connector(parameters, postgres.get_ssl_negotiation())?;
    Ok(Some(Tls::Rustls(Box::new(connector))))
}

#[cfg(not(feature = "tls"))]
fn tls(_: &tokio_postgres::Config, parameters: &Parameters) -> Result<Option<Tls>, OpenError> {
    if matches!(parameters.sslmode, SslMode::Allow | SslMode::Prefer) {
        return Ok(None);
    }
    Err(OpenError::Config {
        key: "sslmode",
        reason: format!(
            "is `{}`, and this program was built without TLS; enable the feature `postgres-tls` \
             of perennial (`tls` of perennial-postgres), or write sslmode=disable",
            parameters.sslmode
        ),
    })
}

/// Whether another kind of protection may help.
fn is_about_protection(error: &tokio_postgres::Error) -> bool {
    is_tls_failure(error) || error.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
}

/// Whether the handshake failed. The driver tells it by its words only.
fn is_tls_failure(error: &tokio_postgres::Error) -> bool {
    error
        .to_string()
        .starts_with("error performing TLS handshake")
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
        check("host=h password=secret =x", "a value has no key").await;
        check(
            "postgres://u:secret@h/d?sslnegotiation=direct",
            "not with `prefer`",
        )
        .await;
        check(
            "postgres://u:secret@h/d?sslcrl=x",
            "unknown option `sslcrl`",
        )
        .await;
    }

    #[test]
    fn a_place_has_neither_password_nor_parameters() {
        for (url, expected) in [
            (
                "postgres://u:secret@h:1/d?sslmode=require",
                "postgres://u@h:1/d",
            ),
            ("postgresql://h", "postgres://h:5432"),
            ("postgres://u@[::1]:7,b/d", "postgres://u@[::1]:7,b:5432/d"),
            ("host=/tmp password=secret user=u", "postgres://u@/tmp"),
            ("hostaddr=127.0.0.1 passfile=x", "postgres://127.0.0.1"),
            ("postgres://u:secret@h:port/d", "postgres://u:***@h:port/d"),
        ] {
            assert_eq!(place(url), expected, "{url}");
        }
    }

    #[cfg(not(feature = "tls"))]
    #[tokio::test]
    async fn without_the_feature_protection_is_refused_and_never_silently_left_out() {
        for mode in ["require", "verify-ca&sslrootcert=/ca.pem", "verify-full"] {
            let url = format!("postgres://u:secret@h/d?sslmode={mode}");
            let error = Connector::new(&Config::default().with_url(url)).expect_err(mode);
            let text = error.to_string();
            assert!(text.contains("`postgres-tls`"), "{text}");
        }
        for mode in ["disable", "allow", "prefer"] {
            let url = format!("postgres://u:secret@h/d?sslmode={mode}");
            let connector = Connector::new(&Config::default().with_url(url)).expect(mode);
            assert_eq!(connector.attempts.len(), 1);
        }
    }

    #[tokio::test]
    async fn unix_sockets_are_never_protected() {
        for host in ["%2Ftmp", "%2Fa,%2Fb"] {
            let url = format!("postgres://u:p@{host}/d?sslmode=verify-full&sslrootcert=/none");
            let connector = Connector::new(&Config::default().with_url(url)).expect(host);
            assert!(matches!(
                connector.attempts.as_slice(),
                [Attempt { tls: Tls::None, .. }]
            ));
        }
    }
}
