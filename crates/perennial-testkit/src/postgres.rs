//! Throw-away PostgreSQL databases and servers.
//!
//! [`TestPostgres`] is a new, empty database: on the server that `PERENNIAL_TEST_POSTGRES_URL`
//! names, otherwise on a private server that the first one starts for the whole test program.
//! [`PrivateServer`] is a server of one test's own, for tests that stop or restart it.
//!
//! A private server runs as an ordinary user (`postgres` or `nobody` when the tests run as root,
//! since `initdb` refuses root), from a fresh folder below the temporary folder, and ends with the
//! test program even when that is killed: a guard process waits for the end of a pipe.
//!
//! Missing server programs are a panic that says what to install, never a test that passes.
//! All calls block, for about a second where a server is started.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio_postgres::{Config, NoTls, SimpleQueryMessage};

/// The superuser of a private server.
const SUPERUSER: &str = "perennial";

/// A new, empty database, dropped with the value.
#[derive(Debug)]
pub struct TestPostgres {
    server: String,
    name: String,
    url: String,
}

impl TestPostgres {
    /// A database on the server that all tests share.
    ///
    /// # Panics
    /// If there is no server and none can be started.
    #[expect(
        clippy::new_without_default,
        reason = "a database server is nothing to get by default"
    )]
    pub fn new() -> Self {
        static SHARED: OnceLock<Result<PrivateServer, String>> = OnceLock::new();
        match std::env::var("PERENNIAL_TEST_POSTGRES_URL") {
            Ok(url) => Self::on(&url),
            Err(_) => match SHARED.get_or_init(|| PrivateServer::try_start(&[])) {
                Ok(server) => Self::on(&server.url),
                Err(reason) => panic!("{reason}"),
            },
        }
    }

    fn on(server: &str) -> Self {
        let name = format!("perennial_test_{}", unique());
        run_on(server, &format!("CREATE DATABASE {name}"))
            .unwrap_or_else(|error| panic!("no test database: {error}"));
        Self {
            server: server.to_owned(),
            url: with_database(server, &name),
            name,
        }
    }

    /// Where the database is, with user and password.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The database's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs SQL statements, separated by semicolons, on a connection of its own.
    ///
    /// # Panics
    /// If one of them fails.
    pub fn execute(&self, sql: &str) {
        run_on(&self.url, sql).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Runs one query and gives back every value as text.
    ///
    /// # Panics
    /// If it fails.
    pub fn query(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        query_on(&self.url, sql).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Ends all connections to this database as an administrator would, and says how many.
    ///
    /// # Panics
    /// If the server cannot be reached.
    pub fn terminate_connections(&self) -> usize {
        let sql = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'",
            self.name
        );
        query_on(&self.server, &sql)
            .unwrap_or_else(|error| panic!("{error}"))
            .len()
    }
}

impl Drop for TestPostgres {
    fn drop(&mut self) {
        // A server that was stopped on purpose takes its databases with it.
        let _ = run_on(
            &self.server,
            &format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name),
        );
    }
}

/// A server of one test's own, so that stopping it hurts no other test.
#[derive(Debug)]
pub struct PrivateServer {
    programs: PathBuf,
    owner: Owner,
    folder: PathBuf,
    url: String,
    /// Ends the server and deletes the folder once its standard input closes.
    guard: Child,
}

impl PrivateServer {
    /// Starts a server.
    ///
    /// # Panics
    /// If the server programs are missing or the server does not start; the message says why.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with further lines of `postgresql.conf`, such as `fsync = off`.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_with(settings: &[&str]) -> Self {
        Self::try_start(settings).unwrap_or_else(|reason| panic!("{reason}"))
    }

    fn try_start(settings: &[&str]) -> Result<Self, String> {
        let programs = find_programs()?;
        let owner = Owner::find()?;
        let folder = owner.new_folder()?;
        let guard = owner
            .command("sh")
            .arg("-c")
            .arg(
                "trap '' INT TERM HUP; while read -r _; do :; done; \
                 \"$1/pg_ctl\" stop -s -m immediate -D \"$2/data\"; rm -rf \"$2\"",
            )
            .arg("perennial-postgres-guard")
            .args([&programs, &folder])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|error| format!("no guard process for PostgreSQL: {error}"))?;
        let mut server = Self {
            programs,
            owner,
            folder,
            url: String::new(),
            guard,
        };
        let password = unique();
        server.create_cluster(&password, settings)?;
        let port = server.start_on_free_port()?;
        server.url = format!("postgres://{SUPERUSER}:{password}@127.0.0.1:{port}/postgres");
        Ok(server)
    }

    /// The superuser's URL, with password, of the database `postgres`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The cluster's folder.
    pub fn data_folder(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Writes files into the cluster's folder, appends lines to `postgresql.conf`, and restarts the
    /// server.
    ///
    /// # Panics
    /// If the server does not start with them.
    pub fn configure(&self, files: &[(&str, &str)], settings: &[&str]) {
        let data = self.data_folder();
        let conf = data.join("postgresql.conf");
        let written = files
            .iter()
            .try_for_each(|(name, content)| self.owner.write(&data.join(name), content))
            .and_then(|()| append(self.owner, &conf, settings));
        written.unwrap_or_else(|reason| panic!("{reason}"));
        self.restart_immediate();
    }

    /// A new, empty database on this server.
    ///
    /// # Panics
    /// If the server is not running.
    pub fn new_database(&self) -> TestPostgres {
        TestPostgres::on(&self.url)
    }

    /// Restarts the server as a crash would: no connection is waited for, nothing is flushed.
    ///
    /// # Panics
    /// If it does not come back.
    pub fn restart_immediate(&self) {
        self.stop();
        self.start_again();
    }

    /// Stops the server as a crash would. Its data stays.
    ///
    /// # Panics
    /// If it is not running.
    pub fn stop(&self) {
        self.pg_ctl(&["stop", "-m", "immediate"])
            .unwrap_or_else(|reason| panic!("{reason}"));
    }

    /// Starts the server again, on the same port with the same data.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_again(&self) {
        self.pg_ctl(&["start"])
            .unwrap_or_else(|reason| panic!("{reason}"));
    }

    fn create_cluster(&self, password: &str, settings: &[&str]) -> Result<(), String> {
        let password_file = self.folder.join("password");
        self.owner.write(&password_file, password)?;
        let data = self.data_folder();
        run(self
            .owner
            .command(self.programs.join("initdb"))
            .arg("-D")
            .arg(&data)
            .args(["-U", SUPERUSER, "--encoding=UTF8", "--locale=C"])
            .args(["--auth-local=trust", "--auth-host=scram-sha-256"])
            .arg("--no-sync")
            .arg("--pwfile")
            .arg(&password_file))?;

        let fsync =
            std::env::var("PERENNIAL_TEST_POSTGRES_FSYNC").unwrap_or_else(|_| "on".to_owned());
        let own = [
            "listen_addresses = '127.0.0.1'".to_owned(),
            format!("unix_socket_directories = '{}'", self.folder.display()),
            "max_connections = 300".to_owned(),
            format!("fsync = {fsync}"),
        ];
        let lines: Vec<&str> = own
            .iter()
            .map(String::as_str)
            .chain(settings.iter().copied())
            .collect();
        append(self.owner, &data.join("postgresql.conf"), &lines)
    }

    fn start_on_free_port(&self) -> Result<u16, String> {
        const ATTEMPTS: usize = 10;
        let port_file = self.data_folder().join("postgresql.auto.conf");
        let mut refused = String::new();
        for _ in 0..ATTEMPTS {
            let port = free_port()?;
            self.owner.write(&port_file, &format!("port = {port}\n"))?;
            match self.pg_ctl(&["start"]) {
                Ok(()) => return Ok(port),
                // Another program was faster.
                Err(reason) if reason.contains("Address already in use") => refused = reason,
                Err(reason) => return Err(reason),
            }
        }
        Err(refused)
    }

    fn pg_ctl(&self, arguments: &[&str]) -> Result<(), String> {
        let log = self.folder.join("log");
        run(self
            .owner
            .command(self.programs.join("pg_ctl"))
            .args(arguments)
            .args(["-s", "-w", "-t", "60"])
            .arg("-D")
            .arg(self.data_folder())
            .arg("-l")
            .arg(&log))
        .map_err(|reason| {
            let log = fs::read_to_string(&log).unwrap_or_default();
            format!("{reason}\n{log}")
        })
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

/// The ordinary user as whom a server runs.
#[derive(Debug, Clone, Copy)]
enum Owner {
    /// The tests' own user.
    Ourselves,
    /// Another one, as ours is root.
    Other { uid: u32, gid: u32 },
}

impl Owner {
    fn find() -> Result<Self, String> {
        if id(&["-u"])? != 0 {
            return Ok(Self::Ourselves);
        }
        for user in ["postgres", "nobody"] {
            if let (Ok(uid), Ok(gid)) = (id(&["-u", user]), id(&["-g", user])) {
                return Ok(Self::Other { uid, gid });
            }
        }
        Err(
            "the tests run as root, PostgreSQL refuses that, and there is neither a user \
             `postgres` nor `nobody` to run it as"
                .to_owned(),
        )
    }

    fn command(self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        // The tests' folder may be closed to the owner.
        command.current_dir("/");
        if let Self::Other { uid, gid } = self {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn own(self, path: &Path, mode: u32) -> Result<(), String> {
        if let Self::Other { uid, gid } = self {
            chown(path, Some(uid), Some(gid))
                .map_err(|error| format!("{}: {error}", path.display()))?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Writes a file that only the owner reads.
    fn write(self, path: &Path, content: &str) -> Result<(), String> {
        fs::write(path, content).map_err(|error| format!("{}: {error}", path.display()))?;
        self.own(path, 0o600)
    }

    fn new_folder(self) -> Result<PathBuf, String> {
        // Longer paths do not fit a socket's address.
        const LONGEST: usize = 60;
        let temporary = std::env::temp_dir();
        let mut refused = String::new();
        for base in [temporary.as_path(), Path::new("/tmp")] {
            let reachable = self.command("test").arg("-x").arg(base).status();
            if base.as_os_str().len() > LONGEST || !reachable.is_ok_and(|status| status.success()) {
                continue;
            }
            let folder = base.join(format!("perennial-postgres-{}", unique()));
            match fs::create_dir(&folder) {
                Ok(()) => return self.own(&folder, 0o700).map(|()| folder),
                Err(error) => refused = format!("{}: {error}", folder.display()),
            }
        }
        Err(format!(
            "no folder for a throw-away cluster below the temporary folder or /tmp {refused}"
        ))
    }
}

fn append(owner: Owner, file: &Path, lines: &[&str]) -> Result<(), String> {
    let before =
        fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    owner.write(file, &format!("{before}\n{}\n", lines.join("\n")))
}

fn id(arguments: &[&str]) -> Result<u32, String> {
    let output = Command::new("id")
        .args(arguments)
        .stderr(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run `id`: {error}"))?;
    String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .map_err(|_| format!("`id {}` printed no number", arguments.join(" ")))
}

/// The folder of PostgreSQL's server programs, the newest version's where several are installed.
fn find_programs() -> Result<PathBuf, String> {
    let mut candidates: Vec<PathBuf> = Vec::new();
    candidates.extend(std::env::var_os("PERENNIAL_TEST_POSTGRES_BIN").map(PathBuf::from));
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        candidates.push(String::from_utf8_lossy(&output.stdout).trim().into());
    }
    if let Ok(versions) = fs::read_dir("/usr/lib/postgresql") {
        let mut versions: Vec<PathBuf> = versions
            .flatten()
            .map(|version| version.path().join("bin"))
            .collect();
        versions.sort();
        candidates.extend(versions.into_iter().rev());
    }
    if let Some(path) = std::env::var_os("PATH") {
        candidates.extend(std::env::split_paths(&path));
    }
    candidates
        .into_iter()
        .find(|folder| {
            ["initdb", "pg_ctl", "postgres"]
                .iter()
                .all(|program| folder.join(program).is_file())
        })
        .ok_or_else(|| {
            "PostgreSQL's server programs (initdb, pg_ctl, postgres) were not found: install them \
             (Debian: `apt-get install postgresql`), set PERENNIAL_TEST_POSTGRES_BIN to their \
             folder, or set PERENNIAL_TEST_POSTGRES_URL to a server's URL; `scripts/test` does \
             all that"
                .to_owned()
        })
}

/// A port that nothing listens on, below the range from which systems give out their own, so that
/// it is still free when a test starts its server again.
fn free_port() -> Result<u16, String> {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    const ATTEMPTS: u16 = 200;
    let start = u16::try_from(nanoseconds() % u128::from(COUNT)).expect("below COUNT");
    (0..ATTEMPTS)
        .map(|offset| FIRST + (start + offset) % COUNT)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .ok_or_else(|| "no free port for PostgreSQL".to_owned())
}

fn run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    // Not a pipe: the server inherits it and would keep it open.
    let output = tempfile()?;
    let clone = |file: &fs::File| {
        file.try_clone()
            .map_err(|error| format!("{program}: {error}"))
    };
    let status = command
        .stdin(Stdio::null())
        .stdout(clone(&output.0)?)
        .stderr(clone(&output.0)?)
        .status()
        .map_err(|error| format!("cannot run {program}: {error}"))?;
    let said = fs::read_to_string(&output.1).unwrap_or_default();
    let _ = fs::remove_file(&output.1);
    if status.success() {
        Ok(())
    } else {
        Err(format!("{program} failed ({status}): {said}"))
    }
}

fn tempfile() -> Result<(fs::File, PathBuf), String> {
    let path = std::env::temp_dir().join(format!("perennial-output-{}", unique()));
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(|error: io::Error| format!("{}: {error}", path.display()))?;
    Ok((file, path))
}

fn nanoseconds() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos())
}

/// Text that nobody else uses: letters, digits and `_`.
fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    // The hasher's keys are random, which makes the text unguessable too.
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), nanoseconds());
    format!(
        "{}_{}_{random:016x}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
}

/// `url` with another database.
fn with_database(url: &str, name: &str) -> String {
    let (before, query) = match url.split_once('?') {
        Some((before, query)) => (before, format!("?{query}")),
        None => (url, String::new()),
    };
    let authority = before.find("://").map_or(0, |at| at + 3);
    let server = match before[authority..].find('/') {
        Some(at) => &before[..authority + at],
        None => before,
    };
    format!("{server}/{name}{query}")
}

fn run_on(url: &str, sql: &str) -> Result<(), String> {
    query_on(url, sql).map(drop)
}

/// Runs statements on a connection of their own, on a thread and runtime of their own, so that the
/// caller may be inside a runtime or not.
fn query_on(url: &str, sql: &str) -> Result<Vec<Vec<Option<String>>>, String> {
    let config: Config = url
        .parse()
        .map_err(|error| format!("PERENNIAL_TEST_POSTGRES_URL is no URL: {error}"))?;
    let messages = thread::scope(|scope| {
        let work = || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime can be built")
                .block_on(async {
                    let (client, connection) = config.connect(NoTls).await?;
                    let connection = tokio::spawn(connection);
                    let messages = client.simple_query(sql).await;
                    drop(client);
                    // Its own end is no news after the answer has come.
                    let _ = connection.await;
                    messages
                })
        };
        scope.spawn(work).join().expect("the work does not panic")
    })
    .map_err(|error| describe(&error))?;
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some(
            (0..row.len())
                .map(|column| row.get(column).map(str::to_owned))
                .collect(),
        ),
        _ => None,
    };
    Ok(messages.iter().filter_map(row).collect())
}

fn describe(error: &tokio_postgres::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_of_a_url_is_replaced() {
        for (url, expected) in [
            ("postgres://u:p@h:1/postgres", "postgres://u:p@h:1/other"),
            ("postgres://u@h", "postgres://u@h/other"),
            (
                "postgres://h/x?sslmode=disable",
                "postgres://h/other?sslmode=disable",
            ),
        ] {
            assert_eq!(with_database(url, "other"), expected);
        }
    }

    #[test]
    fn every_database_is_its_own_and_gone_afterwards() {
        let first = TestPostgres::new();
        let second = TestPostgres::new();
        first.execute("CREATE TABLE t (x int); INSERT INTO t VALUES (7)");
        assert_eq!(first.query("SELECT x FROM t"), [[Some("7".to_owned())]]);
        assert_eq!(
            second.query("SELECT to_regclass('t')::text"),
            [[None::<String>]]
        );
        let name = first.name().to_owned();
        drop(first);
        let sql = format!("SELECT 1 FROM pg_database WHERE datname = '{name}'");
        assert!(second.query(&sql).is_empty());
    }

    #[test]
    fn a_private_server_keeps_its_data_over_a_crash_and_leaves_nothing() {
        let server = PrivateServer::start();
        let database = server.new_database();
        database.execute("CREATE TABLE t (x int); INSERT INTO t VALUES (7)");
        server.restart_immediate();
        assert_eq!(database.query("SELECT x FROM t"), [[Some("7".to_owned())]]);
        server.stop();
        assert!(query_on(database.url(), "SELECT 1").is_err());
        server.start_again();
        let folder = server.folder.clone();
        let url = server.url().to_owned();
        drop(database);
        drop(server);
        assert!(!folder.exists());
        assert!(query_on(&url, "SELECT 1").is_err());
    }
}
