//! What the server's and driver's errors mean: the one place that knows SQLSTATE codes.

use std::fmt;
use std::sync::Arc;

use perennial_persistence::{Error, OpenError, PersistenceId, Source};
use tokio_postgres::error::{DbError, Severity, SqlState};

use crate::password::Origin;

/// Why a call did not succeed, before it is known whose data it was about.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// A key is there already. Nothing was stored.
    Duplicate(Refusal),
    /// The server will not take some of this data. Nothing was stored.
    Refused(Refusal),
    /// The server failed, perhaps because of some of this data. Nothing was stored.
    Broken(Refusal),
    /// Not reached, overloaded or lost.
    Unavailable {
        reason: String,
        /// Whether the call may have taken effect.
        outcome_unknown: bool,
        source: Option<Source>,
    },
}

/// What the server said.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) reason: String,
    pub(crate) source: Option<Source>,
}

impl Refusal {
    /// The statement went through and has not stored all of its rows: some are not as their writers
    /// expect, which a look at them tells. This is said if it does not.
    pub(crate) fn left_out() -> Self {
        Self {
            reason: "the table left the row out, as a trigger or another unique index may make it"
                .to_owned(),
            source: None,
        }
    }
}

impl Failure {
    /// Nothing reached the server.
    pub(crate) fn not_sent(reason: impl Into<String>, source: Option<Source>) -> Self {
        Self::Unavailable {
            reason: reason.into(),
            outcome_unknown: false,
            source,
        }
    }

    /// Sent, and nothing certain came back.
    pub(crate) fn unknown(reason: impl Into<String>, source: Option<Source>) -> Self {
        Self::Unavailable {
            reason: reason.into(),
            outcome_unknown: true,
            source,
        }
    }

    /// The same failure of a call that changes nothing.
    pub(crate) fn of_reading(self) -> Self {
        match self {
            Self::Unavailable { reason, source, .. } => Self::not_sent(reason, source),
            other => other,
        }
    }

    /// The contract's error, for a call about the data of one id.
    pub(crate) fn into_error(self, persistence_id: &PersistenceId) -> Error {
        match self {
            Self::Refused(refusal) => Error::Rejected {
                persistence_id: persistence_id.clone(),
                reason: refusal.reason,
                source: refusal.source,
            },
            Self::Duplicate(refusal) | Self::Broken(refusal) => {
                Error::unavailable(refusal.reason, refusal.source)
            }
            Self::Unavailable {
                reason,
                outcome_unknown,
                source,
            } => Error::Unavailable {
                reason,
                outcome_unknown,
                source,
            },
        }
    }
}

/// What a driver's error means for a statement that was sent.
pub(crate) struct Judgement {
    pub(crate) failure: Failure,
    /// Whether the connection can serve the next call.
    pub(crate) connection_usable: bool,
    /// Whether the statement has to be prepared anew, on another connection; nothing was stored.
    pub(crate) prepare_again: bool,
}

/// Judges the error of the statement in `file` (an SQL file's name).
///
/// An answer of severity ERROR means that the server rolled the statement back. Anything else, a
/// FATAL answer included, leaves open whether the commit happened before the connection ended.
pub(crate) fn judge(file: &str, error: &tokio_postgres::Error) -> Judgement {
    let source = source_of(error);
    let Some(server) = error.as_db_error() else {
        let what = if error.is_closed() {
            "the connection was closed"
        } else {
            "the connection failed"
        };
        return Judgement {
            failure: Failure::unknown(format!("{what} while {file} ran"), Some(source)),
            connection_usable: false,
            prepare_again: false,
        };
    };
    let reason = describe(server);
    if server.parsed_severity() != Some(Severity::Error) {
        return Judgement {
            failure: Failure::unknown(
                format!("the server ended the connection while {file} ran: {reason}"),
                Some(source),
            ),
            connection_usable: false,
            prepare_again: false,
        };
    }
    let refusal = Refusal {
        reason,
        source: Some(source),
    };
    let class = classify(server.code().code());
    let failure = match class {
        Class::Duplicate => Failure::Duplicate(refusal),
        Class::Data => Failure::Refused(refusal),
        Class::Broken => Failure::Broken(refusal),
        Class::Busy | Class::Environment | Class::Outdated => Failure::not_sent(
            format!("the server refused {file}: {}", refusal.reason),
            refusal.source,
        ),
    };
    Judgement {
        failure,
        connection_usable: class != Class::Outdated,
        prepare_again: class == Class::Outdated,
    }
}

/// What an SQLSTATE says about a statement that the server rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// A key is there already.
    Duplicate,
    /// The data is the cause: it will be refused again.
    Data,
    /// Passing: load, locks, an administrator, a server that only reads or is full.
    Busy,
    /// The database is not as it must be, whatever the data: a table or a right is missing.
    Environment,
    /// The prepared statement no longer fits or is gone.
    Outdated,
    /// Anything else. It may be passing or caused by one row, which only trying tells.
    Broken,
}

/// The mapping of SQLSTATE codes, by code first and then by class.
///
/// Source: PostgreSQL's documentation, appendix A.
fn classify(code: &str) -> Class {
    match code {
        "23505" => Class::Duplicate,
        // A change of the table while its statements were prepared; a connection pooler or
        // DISCARD ALL that dropped them.
        "0A000" | "26000" => Class::Outdated,
        // Lock time-out, and an object that is in use.
        "55P03" | "55006" => Class::Busy,
        // The WITH CHECK OPTION of a view, a trigger's RAISE, and an index row that is too large.
        "44000" => Class::Data,
        // One statement may be too large as a whole, or stand in another's way; halves of it may not.
        "53200" | "40P01" => Class::Broken,
        _ => match code.get(..2) {
            // Data exception, integrity constraint, triggered action, program limit, PL/pgSQL.
            Some("22" | "23" | "09" | "27" | "54" | "P0" | "38") => Class::Data,
            // Connection, invalid transaction state (read-only), rollback (serialization), resources,
            // operator intervention, system error (disk).
            Some("08" | "25" | "40" | "53" | "57" | "58") => Class::Busy,
            // Authorization, catalog and schema names, missing objects and rights, configuration.
            Some("28" | "3D" | "3F" | "42" | "55" | "F0" | "0L" | "0P") => Class::Environment,
            _ => Class::Broken,
        },
    }
}

/// The server's words without DETAIL, which can contain whole rows, and without HINT and CONTEXT.
pub(crate) fn describe(error: &DbError) -> String {
    let code = error.code().code();
    match error.constraint() {
        Some(constraint) if !error.message().contains(constraint) => {
            format!("{} ({constraint}, SQLSTATE {code})", error.message())
        }
        _ => format!("{} (SQLSTATE {code})", error.message()),
    }
}

/// A driver's error for `source()`: the texts of its chain, and nothing that can hold data.
pub(crate) fn source_of(error: &tokio_postgres::Error) -> Source {
    let text = match error.as_db_error() {
        Some(server) => format!("{}: {}", server.severity(), describe(server)),
        None => {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(error);
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            text
        }
    };
    Arc::new(DriverError(text))
}

/// The text of a driver's error.
struct DriverError(String);

impl fmt::Debug for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DriverError {}

/// Why there is no connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// The server does not answer now, or takes no more connections: trying again may help.
    Unavailable(OpenError),
    /// It stays so until a setting of ours or of the server is changed.
    Refused(OpenError),
}

impl ConnectError {
    /// Whether trying again may help.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(error) | Self::Refused(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unavailable(error) | Self::Refused(error) => error.source(),
        }
    }
}

impl From<ConnectError> for OpenError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Unavailable(error) | ConnectError::Refused(error) => error,
        }
    }
}

/// Whether what kept a connection from coming about may pass by itself.
pub(crate) fn may_pass(error: &tokio_postgres::Error) -> bool {
    if let Some(server) = error.as_db_error() {
        return classify(server.code().code()) == Class::Busy;
    }
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            // Answers that make no sense, certificates that are not trusted among them.
            return !matches!(
                io.kind(),
                std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput
            );
        }
        cause = inner.source();
    }
    error.is_closed()
}

/// Why a connection failed, and what to do about it. `password` says where the password that was
/// used came from.
pub(crate) fn why_unreachable(error: &tokio_postgres::Error, password: &Origin) -> String {
    match error.as_db_error() {
        Some(server) => why_refused(server, password),
        None => why_not_connected(error, password),
    }
}

fn why_not_connected(error: &tokio_postgres::Error, password: &Origin) -> String {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let io = inner.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused) {
            return "nothing listens there; start the server, or correct host and port of `url`"
                .to_owned();
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = io
            .and_then(std::io::Error::get_ref)
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            return crate::tls::why_refused(tls);
        }
        // The driver has no other names for these.
        match inner.to_string().as_str() {
            "password missing" => return why_no_password(password),
            "server does not support TLS" => {
                return "the server does not speak TLS; switch it on there (ssl = on), or write \
                        sslmode=prefer to do without"
                    .to_owned();
            }
            "server did not use channel binding" => {
                return "the server does not support channel binding, which needs TLS and a \
                        password of kind scram-sha-256; provide both, or write \
                        channel_binding=prefer"
                    .to_owned();
            }
            _ => {}
        }
        cause = inner.source();
    }
    "no connection came about; check host, port and sslmode of `url`, and the network".to_owned()
}

fn why_no_password(password: &Origin) -> String {
    let asks = "the server asks for a password; write it into `url`";
    match password {
        Origin::Nowhere(Some(file)) => format!(
            "{asks} or into the password file {}, which has none for this host, port, database \
             and user or could not be read",
            file.display()
        ),
        _ => format!("{asks} or a password file"),
    }
}

fn why_refused(server: &DbError, password: &Origin) -> String {
    let said = describe(server);
    match *server.code() {
        SqlState::INVALID_PASSWORD => format!(
            "{said}; {}, or create the role with this password",
            password.correction()
        ),
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            // The server's language may be another; then both remedies are named.
            let message = server.message();
            if message.contains("pg_hba.conf") {
                format!(
                    "{said}; add a line for this host, user and database to the server's \
                     pg_hba.conf and reload it, or choose an sslmode that it allows"
                )
            } else if message.contains("certificate") {
                format!("{said}; set `sslcert` and `sslkey` to a certificate for this user")
            } else {
                format!(
                    "{said}; create the role (`createuser`), correct the user of `url`, or the \
                     server's pg_hba.conf"
                )
            }
        }
        SqlState::INVALID_CATALOG_NAME => {
            format!("{said}; create it (`createdb`), or correct the database of `url`")
        }
        SqlState::INSUFFICIENT_PRIVILEGE => {
            format!("{said}; give the user the right (GRANT CONNECT ON DATABASE …)")
        }
        SqlState::TOO_MANY_CONNECTIONS => format!(
            "{said}; raise the server's max_connections, or lower `max-connections` of its clients"
        ),
        SqlState::CANNOT_CONNECT_NOW => format!("{said}; try again when the server has started"),
        _ => said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sqlstate_has_its_meaning() {
        for (code, class) in [
            ("23505", Class::Duplicate),
            // value too long, invalid byte sequence, numeric out of range, datetime overflow
            ("22001", Class::Data),
            ("22021", Class::Data),
            ("22003", Class::Data),
            ("22008", Class::Data),
            // not null, foreign key, check, exclusion
            ("23502", Class::Data),
            ("23503", Class::Data),
            ("23514", Class::Data),
            ("23P01", Class::Data),
            // program limit (an index row), RAISE, a view's check option
            ("54000", Class::Data),
            ("P0001", Class::Data),
            ("44000", Class::Data),
            ("27000", Class::Data),
            // serialization, lock time-out, statement time-out, in use
            ("40001", Class::Busy),
            ("55P03", Class::Busy),
            ("57014", Class::Busy),
            ("55006", Class::Busy),
            // shut down, crashed, starting
            ("57P01", Class::Busy),
            ("57P02", Class::Busy),
            ("57P03", Class::Busy),
            // disk full, too many connections, read-only
            ("53100", Class::Busy),
            ("53300", Class::Busy),
            ("25006", Class::Busy),
            ("08006", Class::Busy),
            ("58030", Class::Busy),
            // missing table, column and right
            ("42P01", Class::Environment),
            ("42703", Class::Environment),
            ("42501", Class::Environment),
            ("3F000", Class::Environment),
            ("55000", Class::Environment),
            // a plan or a statement that is gone
            ("0A000", Class::Outdated),
            ("26000", Class::Outdated),
            // out of memory, deadlock, internal error, damaged index
            ("53200", Class::Broken),
            ("40P01", Class::Broken),
            ("XX000", Class::Broken),
            ("XX002", Class::Broken),
            ("", Class::Broken),
        ] {
            assert_eq!(classify(code), class, "{code}");
        }
    }

    #[test]
    fn only_what_was_sent_can_have_an_unknown_outcome() {
        let id = PersistenceId::new("Cart", "a").expect("a valid id");
        assert!(
            !Failure::not_sent("x", None)
                .into_error(&id)
                .is_outcome_unknown()
        );
        let unknown = Failure::unknown("x", None);
        assert!(unknown.clone().into_error(&id).is_outcome_unknown());
        assert!(!unknown.of_reading().into_error(&id).is_outcome_unknown());
    }
}
