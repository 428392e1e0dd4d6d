//! Connections that are protected by TLS.

#![cfg(feature = "tls")]

mod common;

use common::count;
use perennial_persistence::{OpenError, Store};
use perennial_postgres::{Config, Postgres};
use perennial_testkit::postgres::PrivateServer;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// A certificate authority, and a certificate of it for `localhost`.
struct Certificates {
    authority: String,
    server: String,
    key: String,
}

fn certificates() -> Certificates {
    let authority_key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("valid");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).expect("a certificate");
    let issuer = Issuer::new(params, authority_key);
    let key = KeyPair::generate().expect("a key");
    let server = CertificateParams::new(vec!["localhost".to_owned()])
        .expect("valid")
        .signed_by(&key, &issuer)
        .expect("a certificate");
    Certificates {
        authority: authority.pem(),
        server: server.pem(),
        key: key.serialize_pem(),
    }
}

async fn unreachable(config: Config) -> String {
    match Postgres::open(config).await {
        Err(OpenError::Unreachable { reason, source, .. }) => {
            let source = source.map(|source| source.to_string()).unwrap_or_default();
            format!("{reason} {source}")
        }
        other => panic!("expected no connection, got {other:?}"),
    }
}

#[tokio::test]
async fn certificates_are_verified() {
    let certificates = certificates();
    let server = PrivateServer::start();
    let database = server.new_database();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, &certificates.authority).expect("a file");
    let named = database.url().replace("127.0.0.1", "localhost");
    let protected =
        |url: &str, mode: &str| Config::default().with_url(format!("{url}?sslmode={mode}"));

    let trusting = protected(&named, "require").with_tls_root_certificates(&file);
    let text = unreachable(trusting.clone()).await;
    assert!(text.contains("does not support TLS"), "{text}");

    server.configure(
        &[
            ("server.crt", &certificates.server),
            ("server.key", &certificates.key),
        ],
        &["ssl = on"],
    );
    for mode in ["require", "verify-ca", "verify-full"] {
        let config = protected(&named, mode)
            .with_tls_root_certificates(&file)
            .with_application_name(mode);
        let store = Postgres::open(config).await.expect("a trusted server");
        let journal = store.journal();
        common::write_one(&*journal, &common::write(&common::id(mode), 1, &["one"]))
            .await
            .expect("a good write");
        let plain = format!(
            "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
             WHERE application_name = '{mode}' AND NOT ssl"
        );
        assert_eq!(count(&database, &plain), 0);
        assert!(count(&database, &plain.replace("NOT ssl", "ssl")) > 0);
        store.close().await;
    }

    // Nobody has heard of this authority, and the certificate is not for this name.
    let text = unreachable(protected(&named, "require")).await;
    assert!(text.contains("UnknownIssuer"), "{text}");
    let other_name = protected(database.url(), "require").with_tls_root_certificates(&file);
    let text = unreachable(other_name).await;
    assert!(text.contains("not valid for name"), "{text}");
}

#[tokio::test]
async fn files_without_certificates_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "").expect("a file");
    let config = Config::default().with_url("postgres://localhost/bank?sslmode=require");
    for file in [empty, folder.path().join("none.pem")] {
        match Postgres::open(config.clone().with_tls_root_certificates(&file)).await {
            Err(OpenError::Config { key, .. }) => assert_eq!(key, "tls-root-certificates"),
            other => panic!("{}: {other:?}", file.display()),
        }
    }
}
