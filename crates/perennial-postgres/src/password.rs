//! Where the password comes from when the URL has none: the variable `PGPASSWORD`, then a password
//! file, both as libpq reads them.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use perennial_persistence::OpenError;
use tokio_postgres::config::Host;

/// The parts of the process's environment that matter to connections.
#[derive(Default)]
pub(crate) struct Environment {
    pub(crate) home: Option<PathBuf>,
    password: Option<String>,
    passfile: Option<PathBuf>,
}

impl Environment {
    pub(crate) fn of_process() -> Self {
        Self {
            home: std::env::home_dir(),
            password: std::env::var("PGPASSWORD").ok(),
            passfile: std::env::var_os("PGPASSFILE").map(PathBuf::from),
        }
    }
}

/// Where the password of a connection was found, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    Url,
    Variable,
    File(PathBuf),
    /// There is none; the file is where one was looked for.
    Nowhere(Option<PathBuf>),
}

impl Origin {
    /// What to do about a password that the server does not take.
    pub(crate) fn correction(&self) -> String {
        let other = |place: &dyn fmt::Display| {
            format!("correct the user of `url` and the password in {place}")
        };
        match self {
            Self::Url | Self::Nowhere(_) => "correct user and password of `url`".to_owned(),
            Self::Variable => other(&"the variable PGPASSWORD"),
            Self::File(file) => other(&format_args!("the password file {}", file.display())),
        }
    }
}

/// Gives the driver's configuration a password if it has none and one is found. Returns where it
/// came from, and warnings.
///
/// # Errors
/// [`OpenError::Config`] if several hosts have different passwords, as the driver knows but one.
pub(crate) fn complete(
    postgres: &mut tokio_postgres::Config,
    named: Option<&Path>,
    environment: &Environment,
) -> Result<(Origin, Vec<String>), OpenError> {
    if postgres.get_password().is_some() {
        return Ok((Origin::Url, Vec::new()));
    }
    // An empty one is none, for libpq as well.
    if let Some(password) = environment.password.as_deref().filter(|it| !it.is_empty()) {
        postgres.password(password);
        return Ok((Origin::Variable, Vec::new()));
    }
    let in_home = || Some(environment.home.as_ref()?.join(".pgpass"));
    let wanted = named.or(environment.passfile.as_deref());
    let Some(file) = wanted.map(Path::to_path_buf).or_else(in_home) else {
        return Ok((Origin::Nowhere(None), Vec::new()));
    };
    let lines = match read(&file, wanted.is_some()) {
        Ok(lines) => lines,
        Err(warning) => {
            return Ok((Origin::Nowhere(Some(file)), warning.into_iter().collect()));
        }
    };
    let mut found = targets(postgres)
        .into_iter()
        .map(|target| lines.lines().find_map(|line| password_in(line, &target)))
        .collect::<Vec<_>>();
    found.dedup();
    match found.as_slice() {
        [Some(password)] => {
            postgres.password(password);
            Ok((Origin::File(file), Vec::new()))
        }
        [] | [None] => Ok((Origin::Nowhere(Some(file)), Vec::new())),
        _ => Err(OpenError::Config {
            key: "passfile",
            reason: format!(
                "{} has different passwords for the hosts of `url`; give them the same one, or \
                 name one host",
                file.display()
            ),
        }),
    }
}

/// Reads a password file that nobody else can read. One that was not asked for by name may be
/// missing.
fn read(file: &Path, wanted: bool) -> Result<String, Option<String>> {
    let unread = |why: &dyn fmt::Display| format!("the password file {} {why}", file.display());
    let metadata = match fs::metadata(file) {
        Ok(metadata) => metadata,
        Err(_) if !wanted => return Err(None),
        Err(error) => return Err(Some(unread(&format_args!("is not read: {error}")))),
    };
    if !metadata.is_file() {
        return Err(Some(unread(&"is not read, as it is no plain file")));
    }
    #[cfg(unix)]
    if std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o077 != 0 {
        return Err(Some(unread(
            &"is not read, as other users have access to it; run `chmod 600` on it",
        )));
    }
    fs::read_to_string(file).map_err(|error| Some(unread(&format_args!("is not read: {error}"))))
}

/// Whom a line of a password file is compared with.
struct Target {
    /// Any of these names.
    hosts: Vec<String>,
    port: String,
    database: String,
    user: String,
}

/// One per host.
fn targets(postgres: &tokio_postgres::Config) -> Vec<Target> {
    let user = match postgres.get_user() {
        Some(user) => user.to_owned(),
        // As the driver does it.
        None => whoami::username().unwrap_or_default(),
    };
    let database = postgres.get_dbname().unwrap_or(&user).to_owned();
    let ports = postgres.get_ports();
    let names = |host: &Host| match host {
        Host::Tcp(name) => vec![name.clone()],
        #[cfg(unix)]
        Host::Unix(folder) => {
            let mut names = vec![folder.display().to_string()];
            // The folders that libpq takes by default; `localhost` stands for those.
            if ["/tmp", "/var/run/postgresql", "/run/postgresql"]
                .iter()
                .any(|default| folder == Path::new(default))
            {
                names.push("localhost".to_owned());
            }
            names
        }
    };
    let hosts: Vec<Vec<String>> = match postgres.get_hosts() {
        [] => {
            let addresses = postgres.get_hostaddrs().iter();
            addresses.map(|address| vec![address.to_string()]).collect()
        }
        hosts => hosts.iter().map(names).collect(),
    };
    hosts
        .into_iter()
        .enumerate()
        .map(|(index, hosts)| Target {
            hosts,
            port: ports
                .get(index)
                .or(ports.first())
                .unwrap_or(&5432)
                .to_string(),
            database: database.clone(),
            user: user.clone(),
        })
        .collect()
}

/// The password of a line `host:port:database:user:password`, if the line is for `target`. `*`
/// stands for anything, and a backslash takes away the meaning of the next character.
fn password_in(line: &str, target: &Target) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let mut rest = line;
    let mut matches = |expected: &[&str]| {
        let (value, literal, after) = field(rest)?;
        rest = after?;
        (literal == "*" || expected.contains(&value.as_str())).then_some(())
    };
    let hosts: Vec<&str> = target.hosts.iter().map(String::as_str).collect();
    matches(&hosts)?;
    matches(&[&target.port])?;
    matches(&[&target.database])?;
    matches(&[&target.user])?;
    let (password, _, _) = field(rest)?;
    (!password.is_empty()).then_some(password)
}

/// The first field of a line, without and with its backslashes, and what follows its colon.
fn field(line: &str) -> Option<(String, &str, Option<&str>)> {
    let mut value = String::new();
    let mut characters = line.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            ':' => return Some((value, &line[..at], Some(&line[at + 1..]))),
            other => value.push(other),
        }
    }
    Some((value, line, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(host: &str) -> Target {
        Target {
            hosts: vec![host.to_owned()],
            port: "5432".to_owned(),
            database: "bank".to_owned(),
            user: "clerk".to_owned(),
        }
    }

    #[test]
    fn lines_are_read_as_libpq_reads_them() {
        for (line, password) in [
            ("db:5432:bank:clerk:secret", Some("secret")),
            ("*:*:*:*:secret", Some("secret")),
            ("db:*:bank:*:secret", Some("secret")),
            ("other:5432:bank:clerk:secret", None),
            ("db:5433:bank:clerk:secret", None),
            ("db:5432:banks:clerk:secret", None),
            ("db:5432:bank:cler:secret", None),
            ("# db:5432:bank:clerk:secret", None),
            ("#*:*:*:*:secret", None),
            // An escaped star is a star.
            ("\\*:*:*:*:secret", None),
            ("d\\b:*:*:*:a\\:b\\\\c", Some("a:b\\c")),
            // A colon ends the password, too.
            ("*:*:*:*:se:cret", Some("se")),
            (
                "*:*:*:*:with space # and more",
                Some("with space # and more"),
            ),
            ("*:*:*:*:", None),
            ("*:*:*:*", None),
            ("*:*:*", None),
            ("", None),
            ("\\", None),
        ] {
            assert_eq!(
                password_in(line, &target("db")).as_deref(),
                password,
                "{line}"
            );
        }
        // The address of IPv6 has to be escaped.
        assert!(password_in("\\:\\:1:*:*:*:x", &target("::1")).is_some());
        assert!(password_in("::1:*:*:*:x", &target("::1")).is_none());
    }

    fn found(
        url: &str,
        named: Option<&Path>,
        environment: &Environment,
    ) -> (Option<String>, Origin, Vec<String>) {
        let mut postgres: tokio_postgres::Config = url.parse().expect("a URL");
        let (origin, warnings) = complete(&mut postgres, named, environment).expect("one password");
        let password = postgres
            .get_password()
            .map(|it| String::from_utf8_lossy(it).into_owned());
        (password, origin, warnings)
    }

    #[cfg(unix)]
    fn write(file: &Path, content: &str, mode: u32) {
        use std::os::unix::fs::PermissionsExt;

        fs::write(file, content).expect("a file");
        fs::set_permissions(file, fs::Permissions::from_mode(mode)).expect("its owner");
    }

    #[cfg(unix)]
    #[test]
    fn the_nearest_password_counts() {
        let home = tempfile::tempdir().expect("a folder");
        let in_home = home.path().join(".pgpass");
        let (by_variable, named) = (home.path().join("variable"), home.path().join("named"));
        let url = "postgres://clerk@db/bank";
        let mut environment = Environment {
            home: Some(home.path().to_owned()),
            ..Environment::default()
        };
        let some = |text: &str| Some(text.to_owned());

        let nowhere = (None, Origin::Nowhere(Some(in_home.clone())), Vec::new());
        assert_eq!(found(url, None, &environment), nowhere);
        write(
            &in_home,
            "x:*:*:*:no\r\n\ndb:5432:bank:clerk:home\r\n*:*:*:*:no\n",
            0o600,
        );
        let (password, origin, _) = found(url, None, &environment);
        assert_eq!((password, origin), (some("home"), Origin::File(in_home)));
        write(&by_variable, "*:*:*:*:variable", 0o600);
        environment.passfile = Some(by_variable);
        assert_eq!(found(url, None, &environment).0, some("variable"));
        write(&named, "*:*:*:*:named", 0o400);
        assert_eq!(found(url, Some(&named), &environment).0, some("named"));
        environment.password = some("");
        assert_eq!(found(url, Some(&named), &environment).0, some("named"));
        environment.password = some("of the environment");
        let (password, origin, _) = found(url, Some(&named), &environment);
        assert_eq!(
            (password, origin),
            (some("of the environment"), Origin::Variable)
        );
        let with_password = "postgres://clerk:url@db/bank";
        let (password, origin, _) = found(with_password, Some(&named), &environment);
        assert_eq!((password, origin), (some("url"), Origin::Url));
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_can_read_is_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("passwords");
        for (mode, good) in [
            (0o600, true),
            (0o400, true),
            (0o640, false),
            (0o620, false),
            (0o604, false),
            (0o601, false),
        ] {
            write(&file, "*:*:*:*:secret", mode);
            let (password, _, warnings) = found("host=db", Some(&file), &Environment::default());
            assert_eq!(password.is_some(), good, "{mode:o}");
            assert_eq!(
                warnings.iter().any(|it| it.contains("chmod 600")),
                !good,
                "{mode:o}"
            );
            assert!(!format!("{warnings:?}").contains("secret"));
        }
        for wrong in [folder.path(), &folder.path().join("none")] {
            let (password, _, warnings) = found("host=db", Some(wrong), &Environment::default());
            assert_eq!(password, None);
            assert!(warnings[0].contains("is not read"), "{warnings:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn several_hosts_share_one_password() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("passwords");
        let hosts = "host=a,b,/tmp,/elsewhere port=1,2,3,4 user=u";
        write(
            &file,
            "a:1:u:u:one\nb:2:u:u:one\nlocalhost:3:*:*:one\n/elsewhere:4:*:*:one",
            0o600,
        );
        let (password, ..) = found(hosts, Some(&file), &Environment::default());
        assert_eq!(password.as_deref(), Some("one"));
        write(&file, "a:*:*:*:one\n*:*:*:*:two", 0o600);
        let mut postgres: tokio_postgres::Config = hosts.parse().expect("a text");
        let error = complete(&mut postgres, Some(&file), &Environment::default());
        let text = error.expect_err("two passwords").to_string();
        assert!(text.contains("different passwords"), "{text}");
        assert!(!text.contains("two"), "{text}");
    }
}
