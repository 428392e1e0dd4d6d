//! The connection parameters of libpq that the driver does not know: taken out of the URL, and
//! brought together with the settings of the same names.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;
use perennial_persistence::OpenError;

use crate::config::without_password;
use crate::{Config, SslMode};

/// The value of `sslrootcert` that stands for the authorities of the operating system.
const SYSTEM: &str = "system";

/// A URL, or a text in libpq's other form, in two parts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Split {
    /// What is left for the driver.
    pub(crate) rest: String,
    /// Whether there is a value without a key. The driver would silently leave out all that
    /// follows it.
    pub(crate) nameless: bool,
    own: Own,
}

/// The parameters as they stand in the text.
#[derive(Debug, Default, PartialEq, Eq)]
struct Own {
    sslmode: Option<String>,
    sslrootcert: Option<String>,
    sslcert: Option<String>,
    sslkey: Option<String>,
    passfile: Option<String>,
}

impl Own {
    fn of(&mut self, key: &str) -> Option<&mut Option<String>> {
        Some(match key {
            "sslmode" => &mut self.sslmode,
            "sslrootcert" => &mut self.sslrootcert,
            "sslcert" => &mut self.sslcert,
            "sslkey" => &mut self.sslkey,
            "passfile" => &mut self.passfile,
            _ => return None,
        })
    }
}

impl Split {
    /// Takes our parameters out of `text`, in whichever form it is. What cannot be read stays for
    /// the driver, which says what is wrong with it.
    pub(crate) fn new(text: &str) -> Self {
        for scheme in ["postgres://", "postgresql://"] {
            if let Some(rest) = text.strip_prefix(scheme) {
                return Self::of_url(scheme, rest);
            }
        }
        Self::of_pairs(text)
    }

    fn of_url(scheme: &str, rest: &str) -> Self {
        let mut own = Own::default();
        // As the driver reads it: a password may hold anything but `@`, a question mark included.
        let credentials = rest.find('@').map_or(0, |at| at + 1);
        let Some(query) = rest[credentials..].find('?').map(|at| credentials + at) else {
            let rest = format!("{scheme}{rest}");
            return Self {
                rest,
                ..Self::default()
            };
        };
        let foreign: Vec<&str> = rest[query + 1..]
            .split('&')
            .filter(|parameter| {
                let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
                let decoded = (percent_decode_str(key).decode_utf8())
                    .and_then(|key| Ok((key, percent_decode_str(value).decode_utf8()?)));
                match decoded {
                    Ok((key, value)) => match own.of(&key) {
                        Some(place) => {
                            *place = Some(value.into_owned());
                            false
                        }
                        None => true,
                    },
                    Err(_) => true,
                }
            })
            .collect();
        let mark = if foreign.is_empty() { "" } else { "?" };
        let rest = format!("{scheme}{}{mark}{}", &rest[..query], foreign.join("&"));
        Self {
            rest,
            nameless: false,
            own,
        }
    }

    fn of_pairs(text: &str) -> Self {
        let mut own = Own::default();
        let mut rest = String::new();
        let mut unread = text;
        while let Some((pair, key, value)) = first_pair(unread) {
            unread = &unread[pair.len()..];
            match own.of(key) {
                Some(place) => {
                    *place = Some(value);
                    // What stood around a quoted value must not become one word.
                    if !unread.is_empty() && !unread.starts_with(char::is_whitespace) {
                        rest.push(' ');
                    }
                }
                None => rest.push_str(pair),
            }
        }
        rest.push_str(unread);
        Self {
            rest,
            nameless: unread.trim_start().starts_with('='),
            own,
        }
    }
}

/// The first `key = value` of a text: all of it with the white space before, the key, and the value
/// without quotes and escapes. The rules are libpq's.
fn first_pair(text: &str) -> Option<(&str, &str, String)> {
    let from_key = text.trim_start();
    let key_end = from_key.find(|c: char| c == '=' || c.is_whitespace())?;
    let key = Some(&from_key[..key_end]).filter(|key| !key.is_empty())?;
    let from_value = from_key[key_end..].trim_start().strip_prefix('=')?;
    let from_value = from_value.trim_start();
    let quoted = from_value.starts_with('\'');
    let mut characters = from_value.char_indices();
    if quoted {
        characters.next();
    }
    let mut value = String::new();
    let mut end = None;
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => {
                end = Some(at + 1);
                break;
            }
            c if !quoted && c.is_whitespace() => {
                end = Some(at);
                break;
            }
            other => value.push(other),
        }
    }
    let end = match end {
        Some(end) => end,
        None if quoted => return None,
        None => from_value.len(),
    };
    let length = text.len() - from_value.len() + end;
    Some((&text[..length], key, value))
}

/// Which authorities are trusted to certify the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Roots {
    /// Those in a PEM file.
    File(PathBuf),
    /// Those of the operating system.
    System,
}

/// What the connection parameters say about protection and the password file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parameters {
    pub(crate) sslmode: SslMode,
    /// None if nothing is verified.
    pub(crate) roots: Option<Roots>,
    /// Certificate and key with which this program identifies itself.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
    pub(crate) passfile: Option<PathBuf>,
    pub(crate) warnings: Vec<String>,
}

impl Parameters {
    /// Brings the URL's parameters and the settings together. `home` is where libpq keeps
    /// certificates, in `.postgresql`.
    pub(crate) fn new(
        split: &Split,
        config: &Config,
        home: Option<&Path>,
    ) -> Result<Self, OpenError> {
        let own = &split.own;
        let in_url = match own.sslmode.as_deref() {
            None | Some("") => None,
            Some(word) => Some(SslMode::named(word).ok_or_else(|| OpenError::Config {
                key: "url",
                reason: format!(
                    "is `{}`, whose sslmode is none; write disable, allow, prefer, require, \
                     verify-ca or verify-full",
                    without_password(&config.url)
                ),
            })?),
        };
        let sslmode: Option<SslMode> = agreed("sslmode", config.sslmode, in_url)?;
        let rootcert = path("sslrootcert", &config.sslrootcert, &own.sslrootcert)?;
        let system = rootcert.as_deref() == Some(Path::new(SYSTEM));
        let sslmode = match sslmode {
            Some(mode) if system && mode != SslMode::VerifyFull => {
                return Err(OpenError::Config {
                    key: "sslrootcert",
                    reason: format!(
                        "is `system`, with which sslmode `{mode}` is no protection, as anybody can \
                         have a certificate of such an authority; write verify-full"
                    ),
                });
            }
            Some(mode) => mode,
            None if system => SslMode::VerifyFull,
            None => SslMode::Prefer,
        };

        let mut warnings = Vec::new();
        let roots = if !sslmode.may_verify() {
            if let Some(file) = &rootcert {
                warnings.push(format!(
                    "`sslrootcert` ({}) is not looked at with sslmode `{sslmode}`: the server's \
                     certificate is not verified; write sslmode verify-full",
                    file.display()
                ));
            }
            None
        } else if system {
            Some(Roots::System)
        } else {
            let default = || Some(home?.join(".postgresql/root.crt")).filter(|file| file.exists());
            match rootcert.or_else(default) {
                Some(file) => Some(Roots::File(file)),
                None if sslmode == SslMode::VerifyFull => Some(Roots::System),
                None if sslmode == SslMode::VerifyCa => {
                    return Err(OpenError::Config {
                        key: "sslrootcert",
                        reason: "is not set, and sslmode `verify-ca` needs it; name a PEM file \
                                 with the certificate of the server's authority, or write \
                                 verify-full for the authorities of the operating system"
                            .to_owned(),
                    });
                }
                None => None,
            }
        };

        let certificate = path("sslcert", &config.sslcert, &own.sslcert)?;
        let key = path("sslkey", &config.sslkey, &own.sslkey)?;
        let identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => return Err(alone("sslcert", "sslkey")),
            (None, Some(_)) => return Err(alone("sslkey", "sslcert")),
        };
        Ok(Self {
            sslmode,
            roots,
            identity,
            passfile: path("passfile", &config.passfile, &own.passfile)?,
            warnings,
        })
    }
}

fn alone(key: &'static str, missing: &str) -> OpenError {
    OpenError::Config {
        key,
        reason: format!("is set without `{missing}`; a certificate and its key go together"),
    }
}

fn path(
    key: &'static str,
    setting: &Option<PathBuf>,
    in_url: &Option<String>,
) -> Result<Option<PathBuf>, OpenError> {
    let in_url = in_url.as_deref().filter(|path| !path.is_empty());
    agreed(
        key,
        setting.as_deref().map(Cow::Borrowed),
        in_url.map(|path| Cow::Borrowed(Path::new(path))),
    )
    .map(|path| path.map(Cow::into_owned))
}

/// The value from whichever place has one. Two different ones cannot both be meant, and choosing
/// could weaken the protection that somebody relies on.
fn agreed<T: PartialEq>(
    key: &'static str,
    setting: Option<T>,
    in_url: Option<T>,
) -> Result<Option<T>, OpenError> {
    match (setting, in_url) {
        (Some(setting), Some(in_url)) if setting != in_url => Err(OpenError::Config {
            key,
            reason: "says something else than the parameter of `url`; write it in one place"
                .to_owned(),
        }),
        (setting, in_url) => Ok(setting.or(in_url)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn our_parameters_are_taken_out_and_nothing_else_is_touched() {
        for (text, rest, mode, root) in [
            ("postgres://h/d", "postgres://h/d", None, None),
            (
                "postgres://h/d?sslmode=require",
                "postgres://h/d",
                Some("require"),
                None,
            ),
            (
                "postgresql://u:p@h:1/d?a=b&sslmode=verify-ca&c=%2f&sslrootcert=%2Fca%20%26%2Epem",
                "postgresql://u:p@h:1/d?a=b&c=%2f",
                Some("verify-ca"),
                Some("/ca &.pem"),
            ),
            (
                "postgres://h?%73slmode=disable",
                "postgres://h",
                Some("disable"),
                None,
            ),
            // Of several the last counts, as for the driver and libpq.
            (
                "postgres://h/d?sslmode=require&sslmode=disable",
                "postgres://h/d",
                Some("disable"),
                None,
            ),
            // A password, a user, a database and a value that only look so.
            (
                "postgres://u:p?sslmode=require&x@h/d?sslmode=disable",
                "postgres://u:p?sslmode=require&x@h/d",
                Some("disable"),
                None,
            ),
            (
                "postgres://sslmode=require@h/sslmode=require",
                "postgres://sslmode=require@h/sslmode=require",
                None,
                None,
            ),
            (
                "postgres://h/d?password=%26sslmode=require",
                "postgres://h/d?password=%26sslmode=require",
                None,
                None,
            ),
            (
                "postgres://h/d?xsslmode=a",
                "postgres://h/d?xsslmode=a",
                None,
                None,
            ),
            // What cannot be read is left for the driver to complain of.
            (
                "postgres://h/d?sslmode=%ff",
                "postgres://h/d?sslmode=%ff",
                None,
                None,
            ),
            (
                "postgres://h/d?nonsense",
                "postgres://h/d?nonsense",
                None,
                None,
            ),
            (
                "host=h sslmode=verify-full user=u sslrootcert='/a b\\'s.pem'",
                "host=h user=u",
                Some("verify-full"),
                Some("/a b's.pem"),
            ),
            (
                "sslmode = require  host = h",
                "  host = h",
                Some("require"),
                None,
            ),
            (
                "password='x sslmode=require' host=h",
                "password='x sslmode=require' host=h",
                None,
                None,
            ),
            (
                "password=a\\ sslmode=require host=h",
                "password=a\\ sslmode=require host=h",
                None,
                None,
            ),
            (
                "user='u'sslmode='require'postgres://=x",
                "user='u' postgres://=x",
                Some("require"),
                None,
            ),
            ("host=h password='x", "host=h password='x", None, None),
            ("host=h nonsense", "host=h nonsense", None, None),
            ("", "", None, None),
        ] {
            let split = Split::new(text);
            assert_eq!(split.rest, rest, "{text}");
            assert_eq!(split.own.sslmode.as_deref(), mode, "{text}");
            assert_eq!(split.own.sslrootcert.as_deref(), root, "{text}");
        }
        let nameless = Split::new("host=h = sslmode=require");
        assert!(nameless.nameless, "{nameless:?}");
        let split = Split::new("postgres://h?sslcert=c&sslkey=k&passfile=p");
        assert_eq!(split.rest, "postgres://h");
        assert_eq!(split.own.sslcert.as_deref(), Some("c"));
        assert_eq!(split.own.sslkey.as_deref(), Some("k"));
        assert_eq!(split.own.passfile.as_deref(), Some("p"));
    }

    /// Texts of which the driver takes many, in both forms.
    fn some_text() -> impl Strategy<Value = String> {
        let parts = [
            "postgres://",
            "u:p@",
            "h",
            "/d",
            "?",
            "&",
            " ",
            "=",
            "'",
            "\\",
            "%20",
            "%",
            "\u{e9}",
            "sslmode=require",
            "sslmode=disable",
            "sslmode = 'prefer'",
            "ssl%6dode=disable",
            "user=u",
            "password=p",
            "password='a b'",
            "host=h",
            "port=1",
            "@",
            ":1",
        ];
        let part = proptest::sample::select(parts.to_vec());
        let pieces = proptest::collection::vec(part, 0..10);
        (pieces, 0..3).prop_map(|(pieces, form)| match form {
            0 => pieces.concat(),
            1 => pieces.join(" "),
            _ => format!("postgres://u:p@h/d?{}", pieces.join("&")),
        })
    }

    proptest! {
        #[test]
        fn the_driver_reads_the_rest_as_it_read_the_whole(text in some_text()) {
            let split = Split::new(&text);
            if split.nameless {
                return Ok(());
            }
            // Nothing of ours is left to be found.
            prop_assert_eq!(&Split::new(&split.rest).rest, &split.rest);
            if let Ok(whole) = text.parse::<tokio_postgres::Config>() {
                let mut rest: tokio_postgres::Config = split.rest.parse().expect("less of the same");
                rest.ssl_mode(whole.get_ssl_mode());
                prop_assert_eq!(&rest, &whole);
                let word = split.own.sslmode.unwrap_or_else(|| "prefer".to_owned());
                prop_assert_eq!(format!("{:?}", whole.get_ssl_mode()).to_lowercase(), word);
            }
        }
    }

    fn read(config: &Config, home: Option<&Path>) -> Result<Parameters, OpenError> {
        Parameters::new(&Split::new(&config.url), config, home)
    }

    fn of(url: &str) -> Config {
        Config::default().with_url(url)
    }

    #[test]
    fn modes_decide_what_is_verified() {
        let file = Some(Roots::File(PathBuf::from("/ca.pem")));
        let root = "sslrootcert=/ca.pem";
        for (parameters, mode, roots) in [
            ("", SslMode::Prefer, None),
            ("sslmode=disable", SslMode::Disable, None),
            ("sslmode=allow", SslMode::Allow, None),
            ("sslmode=prefer", SslMode::Prefer, None),
            ("sslmode=require", SslMode::Require, None),
            (
                "sslmode=verify-full",
                SslMode::VerifyFull,
                Some(Roots::System),
            ),
            (
                "sslrootcert=system",
                SslMode::VerifyFull,
                Some(Roots::System),
            ),
            (
                &format!("{root}&sslmode=require"),
                SslMode::Require,
                file.clone(),
            ),
            (
                &format!("{root}&sslmode=verify-ca"),
                SslMode::VerifyCa,
                file.clone(),
            ),
            (
                &format!("{root}&sslmode=verify-full"),
                SslMode::VerifyFull,
                file,
            ),
        ] {
            let read = read(&of(&format!("postgres://h/d?{parameters}")), None).expect(parameters);
            assert_eq!((read.sslmode, read.roots), (mode, roots), "{parameters}");
            assert!(read.warnings.is_empty(), "{parameters}");
        }
        // Somebody who names authorities expects to be protected by them.
        let read = read(&of(&format!("postgres://h/d?{root}")), None).expect("readable");
        assert_eq!(read.sslmode, SslMode::Prefer);
        assert_eq!(read.roots, None);
        assert!(read.warnings[0].contains("not verified"), "{read:?}");
    }

    #[test]
    fn the_file_in_the_home_folder_counts_as_with_libpq() {
        let home = tempfile::tempdir().expect("a folder");
        let file = home.path().join(".postgresql/root.crt");
        let check = |mode: &str, roots: Option<Roots>| {
            let read = read(
                &of(&format!("postgres://h?sslmode={mode}")),
                Some(home.path()),
            );
            assert_eq!(read.expect("readable").roots, roots, "{mode}");
        };
        check("require", None);
        check("verify-full", Some(Roots::System));
        std::fs::create_dir(home.path().join(".postgresql")).expect("a folder");
        std::fs::write(&file, "").expect("a file");
        check("prefer", None);
        for mode in ["require", "verify-ca", "verify-full"] {
            check(mode, Some(Roots::File(file.clone())));
        }
    }

    #[test]
    fn settings_and_url_say_the_same_or_one_of_them_nothing() {
        let config = of("postgres://h/d?sslmode=require&sslrootcert=/a").with_sslrootcert("/a");
        let read_both = read(&config, None).expect("they agree");
        assert_eq!(read_both.roots, Some(Roots::File("/a".into())));
        let config = of("postgres://h/d")
            .with_sslmode(SslMode::VerifyFull)
            .with_passfile("/p")
            .with_sslcert("/c")
            .with_sslkey("/k");
        let by_settings = read(&config, None).expect("readable");
        assert_eq!(by_settings.sslmode, SslMode::VerifyFull);
        assert_eq!(by_settings.passfile, Some("/p".into()));
        assert_eq!(by_settings.identity, Some(("/c".into(), "/k".into())));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_key() {
        let url = "postgres://u:secret@h/d";
        for (config, key, part) in [
            (of(&format!("{url}?sslmode=maybe")), "url", "verify-full"),
            (
                of(&format!("{url}?sslmode=disable")).with_sslmode(SslMode::Require),
                "sslmode",
                "one place",
            ),
            (
                of(&format!("{url}?sslmode=verify-ca")),
                "sslrootcert",
                "PEM file",
            ),
            (
                of(&format!("{url}?sslmode=require&sslrootcert=system")),
                "sslrootcert",
                "write verify-full",
            ),
            (of(&format!("{url}?sslcert=c")), "sslcert", "`sslkey`"),
            (of(&format!("{url}?sslkey=c")), "sslkey", "`sslcert`"),
        ] {
            match read(&config, None) {
                Err(OpenError::Config { key: found, reason }) => {
                    assert_eq!(found, key, "{reason}");
                    assert!(reason.contains(part), "{reason}");
                    assert!(!reason.contains("secret"), "{reason}");
                }
                other => panic!("{config:?}: {other:?}"),
            }
        }
    }
}
