//! Protection of a connection: whose certificates are accepted, who we are, and what the failures
//! mean.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use perennial_persistence::OpenError;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{self, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
};
use tokio_postgres::config::SslNegotiation;
use tokio_postgres_rustls::MakeRustlsConnect;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::der::asn1::{PrintableStringRef, TeletexStringRef, Utf8StringRef};
use x509_cert::der::oid::db::rfc4519::COMMON_NAME;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::SslMode;
use crate::conninfo::{Parameters, Roots};

/// What makes protected connections as `parameters` say.
pub(crate) fn connector(
    parameters: &Parameters,
    negotiation: SslNegotiation,
) -> Result<MakeRustlsConnect, OpenError> {
    // The provider is named, so that a program with several linked in does not panic.
    let provider = Arc::new(crypto::ring::default_provider());
    let verifier = Verifier {
        algorithms: provider.signature_verification_algorithms,
        trusted: parameters.roots.as_ref().map(Trusted::new).transpose()?,
        name_matters: parameters.sslmode == SslMode::VerifyFull,
    };
    let unusable = |key: &'static str, reason: String| OpenError::Config { key, reason };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable("sslmode", format!("cannot be used: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut tls = match &parameters.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(certificates("sslcert", certificate)?, private_key(key)?)
            .map_err(|error| {
                unusable(
                    "sslkey",
                    format!("does not go with the certificate of `sslcert`: {error}"),
                )
            })?,
    };
    if negotiation == SslNegotiation::Direct {
        // The server takes no direct handshake without it.
        tls.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(MakeRustlsConnect::new(tls))
}

/// The certificates of a PEM file, at least one.
fn certificates(key: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, OpenError> {
    let refuse = |reason: String| OpenError::Config { key, reason };
    let found = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| refuse(format!("cannot be read from {}: {error}", file.display())))?;
    if found.is_empty() {
        return Err(refuse(format!(
            "names {}, which has no certificate; name a PEM file",
            file.display()
        )));
    }
    Ok(found)
}

/// The key of a PEM file that, as libpq wants it, nobody else can read.
fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, OpenError> {
    let refuse = |reason: String| OpenError::Config {
        key: "sslkey",
        reason,
    };
    let unreadable = |error: &dyn std::fmt::Display| {
        refuse(format!("cannot be read from {}: {error}", file.display()))
    };
    let metadata = fs::metadata(file).map_err(|error| unreadable(&error))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;

        // A key of root may be shared with a group.
        let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
        if metadata.mode() & forbidden != 0 {
            return Err(refuse(format!(
                "names {}, to which other users have access; run `chmod 600` on it",
                file.display()
            )));
        }
    }
    if !metadata.is_file() {
        return Err(refuse(format!(
            "names {}, which is no file",
            file.display()
        )));
    }
    PrivateKeyDer::from_pem_file(file).map_err(|error| {
        // The error of an encrypted key would speak of a missing one.
        let text = fs::read_to_string(file).unwrap_or_default();
        if text.contains("ENCRYPTED") {
            refuse(format!(
                "names {}, which is encrypted; that is not supported, store the key without a \
                 passphrase",
                file.display()
            ))
        } else {
            unreadable(&error)
        }
    })
}

/// The authorities that may certify a server.
#[derive(Debug)]
struct Trusted {
    anchors: RootCertStore,
    /// The certificates of a file, one of which may be the server's own.
    named: Vec<CertificateDer<'static>>,
}

impl Trusted {
    fn new(roots: &Roots) -> Result<Self, OpenError> {
        let refuse = |reason: String| OpenError::Config {
            key: "sslrootcert",
            reason,
        };
        let mut anchors = RootCertStore::empty();
        let named = match roots {
            Roots::File(file) => {
                let named = certificates("sslrootcert", file)?;
                for certificate in &named {
                    anchors.add(certificate.clone()).map_err(|error| {
                        refuse(format!(
                            "names {}, which has an unusable certificate: {error}",
                            file.display()
                        ))
                    })?;
                }
                named
            }
            Roots::System => {
                // Systems carry odd certificates; the usable ones count.
                anchors.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if anchors.is_empty() {
                    return Err(refuse(
                        "is not set, and the operating system has no certificates; install them \
                         (Debian: ca-certificates), or name a PEM file"
                            .to_owned(),
                    ));
                }
                Vec::new()
            }
        };
        Ok(Self { anchors, named })
    }
}

/// Verifies as much of a server's certificate as the mode asks for. That the server holds the
/// certificate's key is always verified: channel binding rests on it.
#[derive(Debug)]
struct Verifier {
    algorithms: WebPkiSupportedAlgorithms,
    /// None accepts any certificate.
    trusted: Option<Trusted>,
    name_matters: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(trusted) = &self.trusted else {
            return Ok(ServerCertVerified::assertion());
        };
        let parsed = ParsedCertificate::try_from(certificate)?;
        if trusted.named.iter().any(|named| named == certificate) {
            // The server's own certificate is trusted as such. As an authority's, which a
            // certificate that signs itself often claims to be, it would be refused.
            verify_validity(certificate, now)?;
        } else {
            verify_server_cert_signed_by_trust_anchor(
                &parsed,
                &trusted.anchors,
                intermediates,
                now,
                self.algorithms.all,
            )
            .map_err(|error| {
                if signs_itself(certificate) {
                    CertificateError::UnknownIssuer.into()
                } else {
                    error
                }
            })?;
        }
        if self.name_matters && !(trusted.has_common_name(certificate, name)) {
            verify_server_name(&parsed, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl Trusted {
    /// Whether the certificate is for `name` by its common name, which counts as with libpq: if it
    /// has no alternative names. Only for authorities that were named, as public ones are bound
    /// to write alternative names.
    fn has_common_name(&self, certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
        !self.named.is_empty()
            && common_name(certificate).is_some_and(|common| is_name(&common, &name.to_str()))
    }
}

/// The common name of a certificate without alternative names.
fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = Certificate::from_der(certificate).ok()?.tbs_certificate;
    if let Some((_, names)) = certificate.get::<SubjectAltName>().ok()? {
        let counts = |name: &GeneralName| {
            matches!(name, GeneralName::DnsName(_) | GeneralName::IpAddress(_))
        };
        if names.0.iter().any(counts) {
            return None;
        }
    }
    let mut parts = certificate.subject.0.iter().flat_map(|part| part.0.iter());
    let value = &parts.rfind(|part| part.oid == COMMON_NAME)?.value;
    let text = value
        .decode_as::<Utf8StringRef<'_>>()
        .map(|text| text.as_str().to_owned())
        .or_else(|_| {
            value
                .decode_as::<PrintableStringRef<'_>>()
                .map(|text| text.as_str().to_owned())
        })
        .or_else(|_| {
            value
                .decode_as::<TeletexStringRef<'_>>()
                .map(|text| text.as_str().to_owned())
        })
        .ok()?;
    (!text.contains('\0')).then_some(text)
}

/// `*.` at the beginning stands for one label.
fn is_name(pattern: &str, name: &str) -> bool {
    let same = pattern.eq_ignore_ascii_case(name);
    let by_label = pattern.strip_prefix("*.").is_some_and(|domain| {
        name.parse::<std::net::IpAddr>().is_err()
            && name
                .split_once('.')
                .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(domain))
    });
    same || by_label
}

fn verify_validity(
    certificate: &CertificateDer<'_>,
    now: UnixTime,
) -> Result<(), CertificateError> {
    let parsed = Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let validity = parsed.tbs_certificate.validity;
    let not_before = UnixTime::since_unix_epoch(validity.not_before.to_unix_duration());
    let not_after = UnixTime::since_unix_epoch(validity.not_after.to_unix_duration());
    if now < not_before {
        return Err(CertificateError::NotValidYetContext {
            time: now,
            not_before,
        });
    }
    if now > not_after {
        return Err(CertificateError::ExpiredContext {
            time: now,
            not_after,
        });
    }
    Ok(())
}

fn signs_itself(certificate: &CertificateDer<'_>) -> bool {
    Certificate::from_der(certificate)
        .is_ok_and(|it| it.tbs_certificate.subject == it.tbs_certificate.issuer)
}

/// Why no protected connection came about, and what to do.
pub(crate) fn why_refused(error: &rustls::Error) -> String {
    let problem = match error {
        rustls::Error::InvalidCertificate(problem) => problem,
        rustls::Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateRequired
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError,
        ) => {
            return format!(
                "the server does not accept our certificate ({error}); set `sslcert` and `sslkey` \
                 to one that an authority in its ssl_ca_file issued"
            );
        }
        _ => {
            return format!(
                "the TLS handshake failed ({error}); look at ssl_min_protocol_version, \
                 ssl_max_protocol_version and ssl_ciphers of the server, which has to speak \
                 TLS 1.2 or 1.3"
            );
        }
    };
    match problem {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the server's certificate has expired; renew it (ssl_cert_file of the server) and \
             reload the server"
                .to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet; correct the clock of this machine, or the \
             certificate"
                .to_owned()
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "no trusted authority issued the server's certificate; set `sslrootcert` to a PEM file \
             with the certificate of the authority that did"
                .to_owned()
        }
        CertificateError::NotValidForName => {
            "the server's certificate is for another host; connect to a host name that it has, or \
             write sslmode=verify-ca"
                .to_owned()
        }
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => format!(
            "the server's certificate is not for `{}` but for {}; connect to a host name that it \
             has, issue one with this name, or write sslmode=verify-ca",
            expected.to_str(),
            if presented.is_empty() {
                "no host at all".to_owned()
            } else {
                presented.join(", ")
            }
        ),
        other => format!(
            "the server's certificate is not accepted ({other}); issue another one \
             (ssl_cert_file of the server)"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_names_are_compared_label_by_label() {
        for (pattern, name, same) in [
            ("db", "db", true),
            ("DB.example", "db.Example", true),
            ("db", "db2", false),
            ("*.example", "db.example", true),
            ("*.example", "a.db.example", false),
            ("*.example", ".example", false),
            ("*.example", "example", false),
            ("*.0.0.1", "127.0.0.1", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("*", "db", false),
        ] {
            assert_eq!(is_name(pattern, name), same, "{pattern} {name}");
        }
    }
}
