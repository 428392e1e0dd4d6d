//! Connections that are protected by TLS: every mode with every kind of server, and what is said
//! when there is no connection.

#![cfg(feature = "tls")]

mod common;

use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use perennial_persistence::{OpenError, Store};
use perennial_postgres::{Config, ConnectError, Postgres, SslMode, connect};
use perennial_testkit::postgres::PrivateServer;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use tempfile::TempDir;

// ---- certificates ----

/// A certificate and its key.
struct Identity {
    certificate: String,
    key: String,
}

fn params(common_name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
    let mut params = CertificateParams::new(hosts).expect("valid names");
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params
}

fn params_of_authority(common_name: &str) -> CertificateParams {
    let mut params = params(common_name, &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = params_of_authority(name);
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        let issuer = Issuer::new(params, key);
        Self {
            certificate,
            issuer,
        }
    }

    /// An authority that this one certifies.
    fn below(&self, name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = params_of_authority(name);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Self {
            certificate: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    fn issue(&self, params: &CertificateParams) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

/// What `openssl req -x509` makes: it claims to be an authority, and has a common name only.
fn self_signed(expired: bool) -> Identity {
    let key = KeyPair::generate().expect("a key");
    let mut params = params_of_authority("localhost");
    if expired {
        params.not_after = date_time_ymd(2020, 1, 1);
    }
    Identity {
        certificate: params.self_signed(&key).expect("a certificate").pem(),
        key: key.serialize_pem(),
    }
}

// ---- a server in many shapes ----

struct Fixture {
    server: PrivateServer,
    folder: TempDir,
    authority: Authority,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Self {
            server: PrivateServer::start(),
            folder: tempfile::tempdir().expect("a folder"),
            authority: Authority::new("The authority"),
        };
        fixture.write("ca.pem", &fixture.authority.certificate);
        fixture
    }

    /// A file that nobody else can read.
    fn write(&self, name: &str, content: &str) -> PathBuf {
        let file = self.folder.path().join(name);
        fs::write(&file, content).expect("a file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("its owner");
        file
    }

    fn serve(&self, identity: &Identity, settings: &[&str]) {
        let files = [
            ("server.crt", identity.certificate.as_str()),
            ("server.key", identity.key.as_str()),
        ];
        let settings = [&["ssl = on"], settings].concat();
        self.server.configure(&files, &settings);
    }

    fn serve_good(&self, settings: &[&str]) {
        let good = self.authority.issue(&params("db", &["localhost"]));
        self.serve(&good, settings);
    }

    /// Replaces `pg_hba.conf`.
    fn admit(&self, lines: &str) {
        self.server.configure(&[("pg_hba.conf", lines)], &[]);
    }

    /// The server's URL under the name `localhost`, with parameters.
    fn url(&self, parameters: &str) -> String {
        let url = self.server.url().replace("127.0.0.1", "localhost");
        format!("{url}?{parameters}")
    }

    fn password(&self) -> &str {
        let (credentials, _) = self.server.url().rsplit_once('@').expect("credentials");
        credentials.rsplit_once(':').expect("a password").1
    }

    /// The URL without the password.
    fn url_without_password(&self) -> String {
        self.url("").replace(&format!(":{}", self.password()), "")
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }
}

/// How a connection ends up.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    Protected,
    Plain,
    /// The reason has this text.
    Refused(&'static str),
}
use Outcome::{Plain, Protected, Refused};

async fn is_protected(config: &Config) -> Result<bool, ConnectError> {
    let client = connect(config).await?;
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let row = client.query_one(sql, &[]).await.expect("a row");
    Ok(row.get(0))
}

/// Everything that an error shows, which must not be the password.
fn all_of(error: &(dyn Error + 'static), password: &str) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text} {inner}");
        source = inner.source();
    }
    assert!(!text.contains(password), "{text}");
    text
}

async fn check(fixture: &Fixture, shape: &str, config: Config, expected: Outcome) {
    let what = format!("{shape}: {config:?}");
    match (is_protected(&config).await, expected) {
        (Ok(true), Protected) | (Ok(false), Plain) => {}
        (Err(error), Refused(part)) => {
            let text = all_of(&error, fixture.password());
            assert!(error.to_string().contains(part), "{what}: {text}");
            // All of it is wrong until somebody changes something.
            assert!(!error.is_retryable(), "{what}: {text}");
        }
        (result, expected) => panic!("{what}: expected {expected:?}, got {result:?}"),
    }
}

const EXPIRED: &str = "has expired; renew it";
const UNKNOWN: &str = "no trusted authority issued the server's certificate; set `sslrootcert`";
const OTHER_HOST: &str = "not for `localhost` but for DnsName(\"db.example\")";
const NO_TLS: &str = "does not speak TLS; switch it on there (ssl = on)";
const NOT_ADMITTED: &str =
    "add a line for this host, user and database to the server's pg_hba.conf";

#[tokio::test]
async fn every_mode_with_every_server_does_as_libpq() {
    let fixture = Fixture::new();
    let stranger = Authority::new("A stranger");
    fixture.write("other-ca.pem", &stranger.certificate);
    let ca = format!("sslrootcert={}", fixture.path("ca.pem"));
    let other_ca = format!("sslrootcert={}", fixture.path("other-ca.pem"));
    let own = format!("sslrootcert={}", fixture.path("own.pem"));
    let unverified = [
        ("sslmode=disable", Plain),
        ("sslmode=allow", Plain),
        ("sslmode=prefer", Protected),
        ("", Protected),
        ("sslmode=require", Protected),
    ];
    let verified = |root: &str, require: Outcome, ca: Outcome, full: Outcome| {
        ["require", "verify-ca", "verify-full"]
            .map(|mode| format!("sslmode={mode}&{root}"))
            .into_iter()
            .zip([require, ca, full])
            .collect::<Vec<_>>()
    };
    let run = async |shape: &str, cells: &[(&str, Outcome)], more: Vec<(String, Outcome)>| {
        let more = more.iter().map(|(text, outcome)| (text.as_str(), *outcome));
        for (parameters, outcome) in cells.iter().copied().chain(more) {
            let config = Config::default().with_url(fixture.url(parameters));
            check(&fixture, shape, config, outcome).await;
        }
    };

    let no_tls = [
        ("sslmode=disable", Plain),
        ("sslmode=allow", Plain),
        ("sslmode=prefer", Plain),
        ("", Plain),
        ("sslmode=require", Refused(NO_TLS)),
        ("sslmode=verify-full&sslrootcert=system", Refused(NO_TLS)),
    ];
    let refused = Refused(NO_TLS);
    run(
        "without TLS",
        &no_tls,
        verified(&ca, refused, refused, refused),
    )
    .await;

    fixture.serve_good(&[]);
    run(
        "good",
        &unverified,
        verified(&ca, Protected, Protected, Protected),
    )
    .await;
    let refused = Refused(UNKNOWN);
    run("good", &[], verified(&other_ca, refused, refused, refused)).await;
    let system = [
        ("sslmode=verify-full", refused),
        ("sslmode=verify-full&sslrootcert=system", refused),
        ("sslrootcert=system", refused),
        (
            "sslmode=verify-ca&sslrootcert=system",
            Refused("write verify-full"),
        ),
    ];
    run("good", &system, Vec::new()).await;

    let mut old = params("db", &["localhost"]);
    old.not_after = date_time_ymd(2020, 1, 1);
    fixture.serve(&fixture.authority.issue(&old), &[]);
    let refused = Refused(EXPIRED);
    run(
        "expired",
        &unverified,
        verified(&ca, refused, refused, refused),
    )
    .await;

    let elsewhere = fixture
        .authority
        .issue(&params("localhost", &["db.example"]));
    fixture.serve(&elsewhere, &[]);
    let refused = Refused(OTHER_HOST);
    run(
        "other host",
        &unverified,
        verified(&ca, Protected, Protected, refused),
    )
    .await;

    let common_name_only = fixture.authority.issue(&params("localhost", &[]));
    fixture.serve(&common_name_only, &[]);
    run(
        "common name",
        &unverified,
        verified(&ca, Protected, Protected, Protected),
    )
    .await;

    fixture.serve(&stranger.issue(&params("db", &["localhost"])), &[]);
    let refused = Refused(UNKNOWN);
    run(
        "other authority",
        &unverified,
        verified(&ca, refused, refused, refused),
    )
    .await;

    let below = fixture.authority.below("A department");
    let mut chain = below.issue(&params("db", &["localhost"]));
    chain.certificate.push_str(&below.certificate);
    fixture.serve(&chain, &[]);
    run(
        "chain",
        &unverified,
        verified(&ca, Protected, Protected, Protected),
    )
    .await;

    let identity = self_signed(false);
    fixture.write("own.pem", &identity.certificate);
    fixture.serve(&identity, &[]);
    run(
        "self-signed",
        &unverified,
        verified(&own, Protected, Protected, Protected),
    )
    .await;
    run("self-signed", &[], verified(&ca, refused, refused, refused)).await;

    let identity = self_signed(true);
    fixture.write("own.pem", &identity.certificate);
    fixture.serve(&identity, &[]);
    let refused = Refused(EXPIRED);
    run(
        "self-signed, expired",
        &unverified,
        verified(&own, refused, refused, refused),
    )
    .await;
}

#[tokio::test]
async fn what_pg_hba_allows_decides_where_the_mode_leaves_a_choice() {
    let fixture = Fixture::new();
    fixture.serve_good(&[]);
    let run = async |shape: &str, cells: &[(&str, Outcome)]| {
        for (mode, outcome) in cells {
            let config = Config::default().with_url(fixture.url(&format!("sslmode={mode}")));
            check(&fixture, shape, config, *outcome).await;
        }
    };
    fixture.admit("hostssl all all all scram-sha-256\n");
    run(
        "hostssl",
        &[
            ("disable", Refused(NOT_ADMITTED)),
            ("allow", Protected),
            ("prefer", Protected),
            ("require", Protected),
        ],
    )
    .await;
    fixture.admit("hostnossl all all all scram-sha-256\n");
    run(
        "hostnossl",
        &[
            ("disable", Plain),
            ("allow", Plain),
            ("prefer", Plain),
            ("require", Refused(NOT_ADMITTED)),
        ],
    )
    .await;

    // A handshake that cannot succeed: the library knows no TLS as old as that.
    let old = [
        "ssl_min_protocol_version = 'TLSv1'",
        "ssl_max_protocol_version = 'TLSv1.1'",
    ];
    fixture.serve_good(&old);
    run(
        "old",
        &[
            ("prefer", Plain),
            ("require", Refused("ssl_max_protocol_version")),
        ],
    )
    .await;
    // Why there is no protection is said, not that the server wants some.
    fixture.admit("hostssl all all all scram-sha-256\n");
    run(
        "old, hostssl",
        &[("prefer", Refused("ssl_max_protocol_version"))],
    )
    .await;
}

#[tokio::test]
async fn settings_do_as_the_parameters_of_the_url() {
    let fixture = Fixture::new();
    fixture.serve_good(&["ssl_max_protocol_version = 'TLSv1.2'"]);
    let ca = fixture.path("ca.pem");
    let config = Config::default().with_url(fixture.url(""));
    for (mode, expected) in [
        (SslMode::Disable, Plain),
        (SslMode::Prefer, Protected),
        (SslMode::VerifyFull, Protected),
    ] {
        let config = config.clone().with_sslmode(mode).with_sslrootcert(&ca);
        check(&fixture, "TLS 1.2", config, expected).await;
    }
    // The other form of the text, and a file whose name needs quotes.
    let odd = fixture.write("it's a root.pem", &fixture.authority.certificate);
    let quoted = odd.display().to_string().replace('\'', "\\'");
    let (_, place) = fixture.server.url().rsplit_once('@').expect("a host");
    let port = place.split(['/', ':']).nth(1).expect("a port");
    let pairs = format!(
        "host=localhost port={port} user=perennial password={} dbname=postgres \
         sslmode = verify-full sslrootcert='{quoted}'",
        fixture.password(),
    );
    check(
        &fixture,
        "pairs",
        Config::default().with_url(&pairs),
        Protected,
    )
    .await;
    let by_address = pairs.replace("host=localhost", "hostaddr=127.0.0.1");
    let config = Config::default().with_url(by_address);
    check(
        &fixture,
        "by address",
        config,
        Refused("not for `127.0.0.1`"),
    )
    .await;

    // A store's own connections, and not just the first.
    let config = Config::default()
        .with_url(fixture.url("sslmode=verify-full"))
        .with_sslrootcert(&ca)
        .with_application_name("protected store");
    let store = Postgres::open(config).await.expect("a trusted server");
    let journal = store.journal();
    let written = common::write(&common::id("a"), 1, &["one"]);
    common::write_one(&*journal, &written)
        .await
        .expect("a good write");
    common::replay(&*journal, &common::id("a"))
        .await
        .expect("a page");
    let client = connect(&Config::default().with_url(fixture.url("")))
        .await
        .expect("a client");
    let sql = "SELECT count(*) FILTER (WHERE ssl), count(*) FROM pg_stat_ssl \
               JOIN pg_stat_activity USING (pid) WHERE application_name = 'protected store'";
    let row = client.query_one(sql, &[]).await.expect("a row");
    let (protected, all): (i64, i64) = (row.get(0), row.get(1));
    assert!(all >= 2, "{all}");
    assert_eq!(protected, all);
    store.close().await;
}

#[tokio::test]
async fn scram_binds_itself_to_the_channel() {
    let fixture = Fixture::new();
    let bound = "channel_binding=require";
    let config = |parameters: &str| Config::default().with_url(fixture.url(parameters));
    check(
        &fixture,
        "plain",
        config(bound),
        Refused("channel_binding=prefer"),
    )
    .await;
    fixture.serve_good(&[]);
    check(&fixture, "protected", config(bound), Protected).await;
    let without = config("channel_binding=disable");
    check(&fixture, "unbound", without, Protected).await;
}

#[tokio::test]
async fn a_certificate_can_identify_us() {
    let fixture = Fixture::new();
    let ca = fixture.authority.certificate.as_str();
    let admit = "hostssl all all all cert\n";
    let files = [("ca.crt", ca), ("pg_hba.conf", admit)];
    fixture
        .server
        .configure(&files, &["ssl_ca_file = 'ca.crt'"]);
    fixture.serve_good(&[]);
    let identity = |authority: &Authority, user: &str| {
        let mut params = params(user, &[]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        authority.issue(&params)
    };
    let config = |name: &str, identity: &Identity| {
        let certificate = fixture.write(&format!("{name}.crt"), &identity.certificate);
        let key = fixture.write(&format!("{name}.key"), &identity.key);
        Config::default()
            .with_url(fixture.url("sslmode=require"))
            .with_sslcert(certificate)
            .with_sslkey(key)
    };
    let ours = identity(&fixture.authority, "perennial");
    let good = config("ours", &ours);
    check(&fixture, "ours", good.clone(), Protected).await;
    let other = config("other", &identity(&fixture.authority, "somebody"));
    check(
        &fixture,
        "another user's",
        other,
        Refused("a certificate for this user"),
    )
    .await;
    let stranger = config(
        "strange",
        &identity(&Authority::new("A stranger"), "perennial"),
    );
    let refused = Refused("the server does not accept our certificate");
    check(&fixture, "a stranger's", stranger, refused).await;
    let none = Config::default().with_url(fixture.url("sslmode=require"));
    check(
        &fixture,
        "none",
        none,
        Refused("set `sslcert` and `sslkey`"),
    )
    .await;

    let swapped = good.clone().with_sslkey(fixture.path("other.key"));
    check(
        &fixture,
        "swapped",
        swapped,
        Refused("does not go with the certificate"),
    )
    .await;
    let open = fixture.write("open.key", &ours.key);
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).expect("its owner");
    let config = good.clone().with_sslkey(&open);
    check(&fixture, "open key", config, Refused("chmod 600")).await;
    let locked = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----";
    let config = good.with_sslkey(fixture.write("locked.key", locked));
    check(
        &fixture,
        "locked key",
        config,
        Refused("without a passphrase"),
    )
    .await;
}

#[tokio::test]
async fn files_without_certificates_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let empty = folder.path().join("empty.pem");
    fs::write(&empty, "").expect("a file");
    let config = Config::default().with_url("postgres://localhost/bank?sslmode=require");
    for file in [empty, folder.path().join("none.pem")] {
        match Postgres::open(config.clone().with_sslrootcert(&file)).await {
            Err(OpenError::Config { key, reason }) => {
                assert_eq!(key, "sslrootcert");
                assert!(reason.contains(&file.display().to_string()), "{reason}");
            }
            other => panic!("{}: {other:?}", file.display()),
        }
    }
}

// ---- passwords, and who is refused ----

#[tokio::test]
async fn a_server_that_is_away_is_worth_another_try() {
    let server = PrivateServer::start();
    let config = Config::default().with_url(server.url());
    connect(&config).await.expect("a client");
    server.stop();
    let error = connect(&config).await.expect_err("stopped");
    assert!(error.is_retryable(), "{error:?}");
    assert!(error.to_string().contains("start the server"), "{error}");
    server.start_again();
    connect(&config).await.expect("a client");
}

#[tokio::test]
async fn a_password_file_opens_the_store() {
    let fixture = Fixture::new();
    let line = |password: &str| format!("# ours\nlocalhost:*:postgres:perennial:{password}\n");
    let right = fixture.write("right", &line(fixture.password()));
    let bare = Config::default().with_url(fixture.url_without_password());
    let opened = Postgres::open(bare.clone().with_passfile(&right)).await;
    assert_eq!(opened.expect("a store").warnings(), Vec::<String>::new());
    let by_url = fixture.url_without_password() + "passfile=" + &right.display().to_string();
    check(
        &fixture,
        "in the URL",
        Config::default().with_url(by_url),
        Plain,
    )
    .await;

    let wrong = fixture.write("wrong", &line("wrong-secret"));
    let error = connect(&bare.clone().with_passfile(&wrong))
        .await
        .expect_err("wrong");
    let text = all_of(&error, "wrong-secret");
    assert!(
        text.contains(&format!("the password file {}", wrong.display())),
        "{text}"
    );

    let elsewhere = fixture.write("elsewhere", "db.example:*:*:*:wrong-secret\n");
    let error = connect(&bare.clone().with_passfile(&elsewhere))
        .await
        .expect_err("none");
    let text = all_of(&error, "wrong-secret");
    assert!(text.contains("the server asks for a password"), "{text}");
    assert!(text.contains(&elsewhere.display().to_string()), "{text}");

    // What others can read is not used, and the store says so.
    fs::set_permissions(&right, fs::Permissions::from_mode(0o640)).expect("its owner");
    let error = connect(&bare.with_passfile(&right))
        .await
        .expect_err("not read");
    all_of(&error, fixture.password());
    let with_password = Config::default().with_url(fixture.url(""));
    fixture.admit("host all all all trust\n");
    let bare = Config::default()
        .with_url(fixture.url_without_password())
        .with_passfile(&right);
    let store = Postgres::open(bare).await.expect("no password needed");
    assert!(
        store.warnings()[0].contains("chmod 600"),
        "{:?}",
        store.warnings()
    );
    let store = Postgres::open(with_password.with_passfile(&right)).await;
    assert_eq!(
        store.expect("nobody looks at the file").warnings(),
        Vec::<String>::new()
    );
}

#[tokio::test]
async fn every_refusal_names_the_remedy_and_not_the_secret() {
    let fixture = Fixture::new();
    let client = connect(&Config::default().with_url(fixture.url("")))
        .await
        .expect("a client");
    let make = "CREATE ROLE clerk LOGIN PASSWORD 'clerks-secret'; CREATE DATABASE closed; \
                REVOKE CONNECT ON DATABASE closed FROM PUBLIC";
    for statement in make.split("; ") {
        client.simple_query(statement).await.expect("a superuser");
    }
    drop(client);
    fixture.admit(
        "host all perennial all scram-sha-256\n\
         host postgres clerk all scram-sha-256\n\
         host closed clerk all scram-sha-256\n\
         host postgres nobody all trust\n",
    );
    let (_, place) = fixture.server.url().rsplit_once('@').expect("a host");
    let place = place.strip_suffix("/postgres").expect("the database");
    let missing_tables = Config::default()
        .with_schema("empty")
        .with_schema_check(perennial_persistence::SchemaCheck::Verify);
    for (user, database, base, parts) in [
        (
            "clerk:wrong-secret",
            "postgres",
            Config::default(),
            [
                "password authentication failed",
                "correct user and password",
            ],
        ),
        (
            "nobody:any-secret",
            "postgres",
            Config::default(),
            ["role \"nobody\" does not exist", "createuser"],
        ),
        (
            "perennial:PASSWORD",
            "missing",
            Config::default(),
            ["database \"missing\" does not exist", "createdb"],
        ),
        (
            "clerk:clerks-secret",
            "closed",
            Config::default(),
            ["permission denied for database", "GRANT CONNECT"],
        ),
        (
            "clerk:clerks-secret",
            "template1",
            Config::default(),
            [
                "no pg_hba.conf entry",
                "add a line for this host, user and database",
            ],
        ),
        (
            "perennial:PASSWORD",
            "postgres",
            missing_tables,
            [
                "table event_journal is missing",
                "`schema-check = \"create\"`",
            ],
        ),
    ] {
        let user = user.replace("PASSWORD", fixture.password());
        let (_, secret) = user.split_once(':').expect("a password");
        let url = format!("postgres://{user}@{place}/{database}");
        let error = Postgres::open(base.with_url(url))
            .await
            .expect_err("refused");
        all_of(&error, secret);
        for part in parts {
            assert!(error.to_string().contains(part), "{part}: {error}");
        }
    }
}
