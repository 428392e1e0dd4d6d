//! Keeping passwords out of everything that people read.

use std::ops::Range;

/// What stands in place of a secret.
pub(super) const MASK: &str = "***";

/// Parts of a key's name that make its whole value a secret.
const SECRET_KEYS: [&str; 8] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "credential",
    "api-key",
    "private-key",
];

/// Words after which `=` and a secret follow within a text, as in a connection string.
const SECRET_WORDS: [&str; 6] = ["password", "passwd", "pwd", "passphrase", "secret", "token"];

/// Whether what stands under this key is nobody's business.
pub(super) fn is_secret_key(key: &str) -> bool {
    let key = key.to_lowercase().replace('_', "-");
    SECRET_KEYS.iter().any(|part| key.contains(part))
}

/// The text with every password in it replaced.
pub(super) fn mask(text: &str) -> String {
    mask_ranges(text, url_password(text).into_iter().collect())
}

/// A sentence with every password in it replaced.
///
/// A URL ends at white space here, so that the rest of the sentence stays readable whatever
/// characters it mentions. Secrets with white space in them have to be replaced before.
pub(super) fn mask_sentence(text: &str) -> String {
    let mut start = 0;
    let mut ranges = Vec::new();
    for word in text.split_inclusive(char::is_whitespace) {
        ranges.extend(url_password(word).map(|range| start + range.start..start + range.end));
        start += word.len();
    }
    mask_ranges(text, ranges)
}

fn mask_ranges(text: &str, url_passwords: Vec<Range<usize>>) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut done = 0;
    for range in in_order(text, url_passwords) {
        if range.start >= done {
            masked.push_str(&text[done..range.start]);
            masked.push_str(MASK);
        }
        done = done.max(range.end);
    }
    masked.push_str(&text[done..]);
    masked
}

/// The passwords in a text.
pub(super) fn secrets_in(text: &str) -> Vec<String> {
    in_order(text, url_password(text).into_iter().collect())
        .into_iter()
        .map(|range| text[range].to_owned())
        .collect()
}

/// Where the passwords are, in order. Rather too much than too little.
fn in_order(text: &str, url_passwords: Vec<Range<usize>>) -> Vec<Range<usize>> {
    let mut ranges: Vec<_> = url_passwords
        .into_iter()
        .chain(assigned_secrets(text))
        .filter(|range| !range.is_empty())
        .collect();
    ranges.sort_by_key(|range| range.start);
    ranges
}

/// The password in `scheme://user:password@host`.
///
/// It is taken to end at the last `@` of the text, since people forget to escape `/`, `?` and `@`
/// in a password. With several URLs in one text everything between is masked as well.
fn url_password(text: &str) -> Option<Range<usize>> {
    let start = text.find("://")? + "://".len();
    let end = start + text[start..].rfind('@')?;
    let colon = start + text[start..end].find(':')?;
    Some(colon + 1..end)
}

/// Secrets written as `password=…` in a URL's query, or `password = '…'` in a list of settings.
fn assigned_secrets(text: &str) -> Vec<Range<usize>> {
    // ASCII only, so that every index is one of `text` too.
    let lower = text.to_ascii_lowercase();
    let mut ranges = Vec::new();
    for word in SECRET_WORDS {
        for (at, _) in lower.match_indices(word) {
            let after_word = at + word.len();
            let after_name = skip(text, after_word, |c| c.is_alphanumeric() || c == '_');
            let equals = skip(text, after_name, char::is_whitespace);
            if !text[equals..].starts_with('=') {
                continue;
            }
            let start = skip(text, equals + 1, char::is_whitespace);
            ranges.push(assigned_value(text, start));
        }
    }
    ranges
}

fn skip(text: &str, from: usize, passed: impl Fn(char) -> bool) -> usize {
    text[from..]
        .find(|c| !passed(c))
        .map_or(text.len(), |offset| from + offset)
}

/// The value that begins at `start`: what is between quotes, or all up to white space or `&`.
/// A backslash protects what follows it.
fn assigned_value(text: &str, start: usize) -> Range<usize> {
    let quote = text[start..].chars().next().filter(|c| "'\"".contains(*c));
    let start = start + quote.map_or(0, char::len_utf8);
    let mut escaped = false;
    for (offset, c) in text[start..].char_indices() {
        let ends = match quote {
            Some(quote) => c == quote,
            None => c == '&' || c.is_whitespace(),
        };
        if ends && !escaped {
            return start..start + offset;
        }
        escaped = c == '\\' && !escaped;
    }
    start..text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_masked_wherever_they_stand() {
        for (text, masked) in [
            ("postgres://bank@db/bank", "postgres://bank@db/bank"),
            ("postgres://db:5432/bank", "postgres://db:5432/bank"),
            (
                "postgres://bank:hunter2@db/bank",
                "postgres://bank:***@db/bank",
            ),
            (
                "postgres://bank:hun/t?e#r@2@db/bank",
                "postgres://bank:***@db/bank",
            ),
            ("postgres://bank:@db/bank", "postgres://bank:@db/bank"),
            (
                "at postgres://b:hunter2@db: refused",
                "at postgres://b:***@db: refused",
            ),
            ("nats://a:one@x,nats://b:two@y", "nats://a:***@y"),
            (
                "postgres://db/bank?user=b&password=hunter2&sslmode=disable",
                "postgres://db/bank?user=b&password=***&sslmode=disable",
            ),
            (
                "host=db PASSWORD = 'hunter 2' user=b",
                "host=db PASSWORD = '***' user=b",
            ),
            ("password='it\\'s hunter2' user=b", "password='***' user=b"),
            ("password=hunter\\ 2 user=b", "password=*** user=b"),
            ("sslpassword=hunter2", "sslpassword=***"),
            ("token_file=/run/x", "token_file=***"),
            ("pässword=x password=hünter2", "pässword=x password=***"),
            ("password", "password"),
            ("password=", "password="),
            ("no password is needed", "no password is needed"),
            ("", ""),
        ] {
            assert_eq!(mask(text), masked, "{text}");
        }
    }

    #[test]
    fn a_sentence_about_a_url_stays_readable() {
        for (text, masked) in [
            (
                "is `postgres://b:one@two@db`; write postgres://user:password@host, with %40 for @",
                "is `postgres://b:***@db`; write postgres://user:***@host, with %40 for @",
            ),
            (
                "at host=db password='hunter 2' user=b",
                "at host=db password='***' user=b",
            ),
        ] {
            assert_eq!(mask_sentence(text), masked);
        }
    }

    #[test]
    fn secrets_are_found_one_by_one() {
        assert_eq!(
            secrets_in("postgres://b:one@db/x?password=two"),
            ["one", "two"]
        );
        assert!(secrets_in("postgres://b@db/x").is_empty());
    }

    #[test]
    fn keys_tell_by_their_name_that_they_are_secret() {
        for key in [
            "password",
            "db_password",
            "API_KEY",
            "client-secret",
            "Token",
        ] {
            assert!(is_secret_key(key), "{key}");
        }
        for key in ["url", "user", "passivate-after", "name"] {
            assert!(!is_secret_key(key), "{key}");
        }
    }
}
