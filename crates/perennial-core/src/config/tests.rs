//! What people see when the configuration is wrong, word for word.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::time::Duration;

use serde::Deserialize;

use super::{
    ConfigError, ConfigSource, EntityConfig, Origin, PersistenceConfig, ShutdownConfig,
    SystemConfig, known_keys,
};

/// Settings as a store's crate would define them, knowing nothing of this one.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct StoreConfig {
    url: String,
    password: String,
    max_connections: u16,
    retries: Option<u8>,
    ratio: f64,
    durable: bool,
    check: Check,
    hosts: Vec<String>,
    options: BTreeMap<String, i64>,
    tls: Tls,
    pages: NonZeroU16,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            password: String::new(),
            max_connections: 10,
            retries: None,
            ratio: 0.5,
            durable: false,
            check: Check::Create,
            hosts: Vec::new(),
            options: BTreeMap::new(),
            tls: Tls::default(),
            pages: NonZeroU16::MIN,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Check {
    Create,
    Verify,
    Off,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Tls {
    ca_file: String,
    key_token: String,
}

fn toml(text: &str) -> ConfigSource {
    ConfigSource::from_toml("bank.toml", text).expect("valid TOML")
}

fn environment(text: &str, variables: &[(&str, &str)]) -> Result<ConfigSource, ConfigError> {
    toml(text).with_environment(variables.iter().copied())
}

fn store(source: &ConfigSource) -> Result<StoreConfig, ConfigError> {
    source.section("persistence.store")
}

/// The error about `line` in the store's section, without what is the same for all.
fn refused(line: &str) -> String {
    let source = toml(&format!("[persistence.store]\n{line}"));
    let text = store(&source).expect_err(line).to_string();
    text.strip_prefix("`persistence.store.")
        .unwrap_or(&text)
        .to_owned()
}

/// Reads everything as a system does that knows the type `Account` and has SQLite.
fn start(source: &ConfigSource) -> Result<(), ConfigError> {
    SystemConfig::read(source)?;
    ShutdownConfig::read(source)?;
    let persistence = PersistenceConfig::read(source)?;
    persistence.check_plugin(source, &["sqlite", "store"])?;
    EntityConfig::read(source, "Account", EntityConfig::default())?;
    store(source)?;
    source.finish(&["Account", "Cart"])
}

fn start_error(text: &str) -> String {
    start(&toml(text)).expect_err(text).to_string()
}

#[test]
fn without_any_settings_the_defaults_hold() {
    let source = ConfigSource::empty();
    start(&source).expect("defaults are valid");
    assert_eq!(
        SystemConfig::read(&source).expect("valid"),
        SystemConfig::default()
    );
    assert_eq!(store(&source).expect("valid"), StoreConfig::default());
    start(&toml("")).expect("an empty file is valid");
    start(&toml("[system]\n[persistence]\n[entity]\n[entity.Cart]")).expect("empty sections too");
}

#[test]
fn file_sets_values_of_every_type() {
    let source = toml(
        r#"
        [persistence.store]
        url = "postgres://db/bank"
        max-connections = 0x10
        retries = 3
        ratio = 2
        durable = true
        check = "verify"
        hosts = ["a", 'b']
        options = { x = 1, "y.z" = -2 }
        tls.ca-file = "ca.pem"
        pages = 7
        "#,
    );
    let expected = StoreConfig {
        url: "postgres://db/bank".to_owned(),
        password: String::new(),
        max_connections: 16,
        retries: Some(3),
        ratio: 2.0,
        durable: true,
        check: Check::Verify,
        hosts: vec!["a".to_owned(), "b".to_owned()],
        options: BTreeMap::from([("x".to_owned(), 1), ("y.z".to_owned(), -2)]),
        tls: Tls {
            ca_file: "ca.pem".to_owned(),
            key_token: String::new(),
        },
        pages: NonZeroU16::new(7).expect("not zero"),
    };
    assert_eq!(store(&source).expect("valid"), expected);
    start(&source).expect("nothing is left over");
}

#[test]
fn entity_settings_of_the_file_override_those_of_code() {
    let source = toml("[entity.Account]\npassivate-after = \"never\"\nstash = 0");
    let in_code = EntityConfig::default()
        .with_snapshot_every(500)
        .with_stash(9);
    let expected = in_code.clone().with_passivate_after(None).with_stash(0);
    let read = EntityConfig::read(&source, "Account", in_code.clone()).expect("valid");
    assert_eq!(read, expected);
    let other = EntityConfig::read(&source, "Cart", in_code.clone()).expect("valid");
    assert_eq!(other, in_code);
}

#[test]
fn unknown_key_names_place_and_nearest_key() {
    let source = toml("[system]\nworkers = 2\n\n[entity.Account]\n\n  pasivate-after = \"2m\"");
    let error = EntityConfig::read(&source, "Account", EntityConfig::default())
        .expect_err("there is no such key");
    assert_eq!(
        error.to_string(),
        "unknown key `entity.Account.pasivate-after` in bank.toml, line 6; \
         did you mean `passivate-after`?"
    );
    assert_eq!(error.key(), Some("entity.Account.pasivate-after"));
    assert_eq!(error.message(), "unknown key");
    assert_eq!(error.hint(), Some("did you mean `passivate-after`?"));
    let place = Origin::File {
        name: "bank.toml".into(),
        line: 6,
        column: 3,
    };
    assert_eq!(error.origin(), Some(&place));
}

#[test]
fn unknown_key_without_a_near_one_lists_all() {
    assert_eq!(
        refused("colour = 1"),
        "unknown key `persistence.store.colour` in bank.toml, line 2; the known keys are check, \
         durable, hosts, max-connections, options, pages, password, ratio, retries, tls, url"
    );
    assert_eq!(
        refused("tls = { ca_file = \"x\" }"),
        "unknown key `persistence.store.tls.ca_file` in bank.toml, line 2; did you mean `ca-file`?"
    );
    // A table inside of a field is no section of its own.
    assert_eq!(
        refused("tls.ca.file = 1"),
        "unknown key `persistence.store.tls.ca` in bank.toml, line 2; \
         the known keys are ca-file, key-token"
    );
}

#[test]
fn wrong_types_say_what_is_expected() {
    for (line, text) in [
        ("url = 5", "url` = 5 in bank.toml, line 2: must be a string"),
        (
            "url = { x = 1 }",
            "url` = {…} in bank.toml, line 2: must be a string",
        ),
        (
            "max-connections = \"ten\"",
            "max-connections` = \"ten\" in bank.toml, line 2: must be a whole number from 0 to 65535",
        ),
        (
            "max-connections = 65536",
            "max-connections` = 65536 in bank.toml, line 2: must be a whole number from 0 to 65535",
        ),
        (
            "max-connections = -1",
            "max-connections` = -1 in bank.toml, line 2: must be a whole number from 0 to 65535",
        ),
        (
            "max-connections = 1.0",
            "max-connections` = 1.0 in bank.toml, line 2: must be a whole number from 0 to 65535",
        ),
        (
            "retries = 256",
            "retries` = 256 in bank.toml, line 2: must be a whole number from 0 to 255",
        ),
        (
            "ratio = \"1\"",
            "ratio` = \"1\" in bank.toml, line 2: must be a number",
        ),
        (
            "durable = 1",
            "durable` = 1 in bank.toml, line 2: must be true or false",
        ),
        (
            "check = \"crate\"",
            "check` = \"crate\" in bank.toml, line 2: must be one of \"create\", \"verify\", \
             \"off\"; did you mean \"create\"?",
        ),
        (
            "check = true",
            "check` = true in bank.toml, line 2: must be one of \"create\", \"verify\", \"off\"",
        ),
        (
            "hosts = \"a\"",
            "hosts` = \"a\" in bank.toml, line 2: must be an array, such as [\"a\", \"b\"]",
        ),
        (
            "hosts = [\"a\", 2]",
            "hosts[1]` = 2 in bank.toml, line 2: must be a string",
        ),
        (
            "hosts = [\n\"a\",\n2]",
            "hosts[1]` = 2 in bank.toml, line 4: must be a string",
        ),
        (
            "options = 1",
            "options` = 1 in bank.toml, line 2: must be a table",
        ),
        (
            "options = { \"a b\" = 1.5 }",
            "options.\"a b\"` = 1.5 in bank.toml, line 2: must be a whole number of 64 bits",
        ),
        (
            "tls = []",
            "tls` = […] in bank.toml, line 2: must be a table",
        ),
        (
            "url = 2026-01-01T00:00:00Z",
            "url` = 2026-01-01T00:00:00Z in bank.toml, line 2: must be a string",
        ),
        (
            "pages = 0",
            "pages` = 0 in bank.toml, line 2: must be a nonzero u16",
        ),
    ] {
        assert_eq!(refused(line), text, "{line}");
    }
}

#[test]
fn section_that_is_no_table_says_so() {
    assert_eq!(
        start_error("system = 5"),
        "`system` = 5 in bank.toml, line 1: must be a table"
    );
    assert_eq!(
        start_error("[[system]]\nworkers = 1"),
        "`system` = […] in bank.toml, line 1: must be a table"
    );
    assert_eq!(
        start_error("entity = 5"),
        "unknown key `entity` in bank.toml, line 1; did you mean the section `[entity]`?"
    );
}

#[test]
fn durations_and_sizes_say_how_they_are_written() {
    for (text, expected) in [
        (
            "[system]\nask-timeout = 5",
            "`system.ask-timeout` = 5 in bank.toml, line 2: \
             must be a duration like \"2m\" or \"500ms\"",
        ),
        (
            "[system]\nask-timeout = \"soon\"",
            "`system.ask-timeout` = \"soon\" in bank.toml, line 2: \
             must be a duration like \"2m\" or \"500ms\"",
        ),
        (
            "[entity.Account]\npassivate-after = \"sometimes\"",
            "`entity.Account.passivate-after` = \"sometimes\" in bank.toml, line 2: \
             must be a duration like \"2m\" or \"500ms\", or \"never\"",
        ),
        (
            "[persistence]\nbatch-bytes = \"8 elephants\"",
            "`persistence.batch-bytes` = \"8 elephants\" in bank.toml, line 2: \
             must be a number of bytes, or a size like \"64KiB\" or \"8MiB\"",
        ),
        (
            "[persistence]\nbatch-bytes = -1",
            "`persistence.batch-bytes` = -1 in bank.toml, line 2: \
             must be a number of bytes, or a size like \"64KiB\" or \"8MiB\"",
        ),
    ] {
        assert_eq!(start_error(text), expected);
    }
}

#[test]
fn values_out_of_range_name_the_range() {
    for (text, expected) in [
        (
            "[system]\n\nworkers = 1025",
            "`system.workers` = 1025 in bank.toml, line 3: must be from 0 to 1024",
        ),
        (
            "[system]\nask-timeout = \"25h\"",
            "`system.ask-timeout` = \"25h\" in bank.toml, line 2: must be from \"1ms\" to \"1day\"",
        ),
        (
            "[system]\nname = \"our bank\"",
            "`system.name` = \"our bank\" in bank.toml, line 2: \
             must be 1 to 64 ASCII letters, digits, `-` and `_`",
        ),
        (
            "[persistence]\nreplay-bytes = 1023",
            "`persistence.replay-bytes` = 1023 in bank.toml, line 2: \
             must be from \"1KiB\" to \"256MiB\"",
        ),
        (
            "[entity.Account]\npassivate-after = \"31days\"",
            "`entity.Account.passivate-after` = \"31days\" in bank.toml, line 2: \
             must be from \"1ms\" to \"30days\", or \"never\"",
        ),
        // Both directions of a pair name the key that was written.
        (
            "[persistence]\nretry-min = \"3s\"",
            "`persistence.retry-min` = \"3s\" in bank.toml, line 2: \
             `retry-min` (\"3s\") must not be above `retry-max` (\"2s\")",
        ),
        (
            "[persistence]\nretry-max = \"49ms\"",
            "`persistence.retry-max` = \"49ms\" in bank.toml, line 2: \
             `retry-min` (\"50ms\") must not be above `retry-max` (\"49ms\")",
        ),
    ] {
        assert_eq!(start_error(text), expected);
    }
    for name in ["", &"x".repeat(65)] {
        assert!(
            SystemConfig::default()
                .with_name(name.to_owned())
                .check()
                .is_err()
        );
    }
    let longest = SystemConfig::default().with_name("x".repeat(64));
    longest.check().expect("64 characters fit");
}

#[test]
fn settings_made_in_code_are_checked_too() {
    let in_code = EntityConfig::default().with_mailbox(0);
    let expected = "`entity.Account.mailbox` = 0 set in code: must be from 1 to 1048576";
    let error = in_code.check("Account").expect_err("a mailbox needs room");
    assert_eq!(error.to_string(), expected);
    let error = EntityConfig::read(&toml(""), "Account", in_code).expect_err("as before");
    assert_eq!(error.to_string(), expected);
    let persistence = PersistenceConfig::default().with_retry_min(Duration::from_secs(60));
    assert_eq!(
        persistence
            .check()
            .expect_err("above the maximum")
            .to_string(),
        "`persistence.retry-min` = \"1m\" set in code: \
         `retry-min` (\"1m\") must not be above `retry-max` (\"2s\")"
    );
}

#[test]
fn sections_that_nobody_reads_are_errors() {
    for (text, expected) in [
        (
            "[system]\n[persistance]\nplugin = \"sqlite\"",
            "unknown section `[persistance]` in bank.toml, line 2; did you mean `[persistence]`?",
        ),
        (
            "[entity.Acount]\nstash = 1",
            "unknown entity type \"Acount\" in bank.toml, line 1; did you mean `[entity.Account]`?",
        ),
        (
            "[entity.account]",
            "unknown entity type \"account\" in bank.toml, line 1; \
             did you mean `[entity.Account]`?",
        ),
        (
            "[entity.Order]",
            "unknown entity type \"Order\" in bank.toml, line 1; \
             the registered entity types are Account, Cart",
        ),
        (
            "[metrics]",
            "unknown section `[metrics]` in bank.toml, line 1; \
             the known sections are entity, persistence, system",
        ),
        (
            "[persistence.stor]\nurl = \"x\"",
            "unknown section `[persistence.stor]` in bank.toml, line 1; \
             did you mean `[persistence.store]`?",
        ),
        (
            "[system.workers-of]",
            "unknown section `[system.workers-of]` in bank.toml, line 1; \
             the known sections are shutdown",
        ),
        (
            "[entity.Account.timers]",
            "unknown section `[entity.Account.timers]` in bank.toml, line 1; \
             there are no known sections",
        ),
        (
            "workers = 2",
            "unknown key `workers` in bank.toml, line 1; did you mean `workers` in `[system]`?",
        ),
        (
            "[entity]\nstash = 2",
            "unknown key `entity.stash` in bank.toml, line 2; \
             did you mean `stash` in `[entity.Account]`?",
        ),
    ] {
        assert_eq!(start_error(text), expected);
    }
    let error = toml("[entity.Account]")
        .finish(&[])
        .expect_err("no type is known");
    assert_eq!(
        error.to_string(),
        "unknown entity type \"Account\" in bank.toml, line 1; \
         there are no registered entity types"
    );
}

#[test]
fn section_of_a_known_type_is_checked_even_if_nobody_read_it() {
    assert_eq!(
        start_error("[entity.Cart]\nstahs = 1"),
        "unknown key `entity.Cart.stahs` in bank.toml, line 2; did you mean `stash`?"
    );
}

#[test]
fn plugin_that_does_not_exist_is_named_with_the_nearest() {
    let check = |text: &str, linked: &[&str]| {
        let source = toml(text);
        let persistence = PersistenceConfig::read(&source).expect("valid");
        let error = persistence.check_plugin(&source, linked).expect_err(text);
        error.to_string()
    };
    assert_eq!(
        check("[persistence]\n\n\n\nplugin = \"postgress\"", &["sqlite"]),
        "`persistence.plugin` = \"postgress\" in bank.toml, line 5: no such plugin; \
         did you mean \"postgres\"? Linked in: sqlite"
    );
    assert_eq!(
        check("[persistence]\nplugin = \"oracle\"", &["sqlite", "memory"]),
        "`persistence.plugin` = \"oracle\" in bank.toml, line 2: no such plugin; the plugins are \
         \"sqlite\", \"postgres\", \"memory\". Linked in: sqlite, memory"
    );
    assert_eq!(
        check("[persistence]\nplugin = \"postgres\"", &["sqlite"]),
        "`persistence.plugin` = \"postgres\" in bank.toml, line 2: this plugin is not linked in; \
         enable the cargo feature `postgres` of the crate perennial. Linked in: sqlite"
    );
    assert_eq!(
        check("[persistence]\nplugin = \"memory\"", &["sqlite"]),
        "`persistence.plugin` = \"memory\" in bank.toml, line 2: this plugin is not linked in; \
         enable the cargo feature `testkit` of the crate perennial. Linked in: sqlite"
    );
    assert_eq!(
        check("", &[]),
        "`persistence.plugin` = \"sqlite\" (not set in bank.toml): this plugin is not linked in; \
         enable the cargo feature `sqlite` of the crate perennial. No plugin is linked in"
    );
}

#[test]
fn section_of_another_plugin_may_stand_unread() {
    let text = "[persistence]\nplugin = \"store\"\n[persistence.postgres]\nurl = 1\nx.y = 2";
    start(&toml(text)).expect("postgres is known, and not chosen");
    // The chosen one's section has to be read by somebody.
    let source = toml("[persistence.sqlite]\npath = \"x\"");
    let persistence = PersistenceConfig::read(&source).expect("valid");
    persistence
        .check_plugin(&source, &["sqlite"])
        .expect("linked in");
    assert!(source.finish(&[]).is_err());
}

#[test]
fn environment_overrides_the_file() {
    let source = environment(
        "[persistence.store]\nurl = \"a\"\nhosts = []\n[entity.Account]\nstash = 5",
        &[
            ("PERENNIAL__PERSISTENCE__STORE__URL", "  postgres://db"),
            ("PERENNIAL__PERSISTENCE__STORE__PASSWORD", "007"),
            ("PERENNIAL__PERSISTENCE__STORE__MAX_CONNECTIONS", " 3 "),
            ("PERENNIAL__PERSISTENCE__STORE__RETRIES", "4"),
            ("PERENNIAL__PERSISTENCE__STORE__RATIO", "1"),
            ("PERENNIAL__PERSISTENCE__STORE__DURABLE", "true"),
            ("PERENNIAL__PERSISTENCE__STORE__CHECK", "off"),
            ("PERENNIAL__PERSISTENCE__STORE__HOSTS", "[\"x\", \"y\"]"),
            ("PERENNIAL__PERSISTENCE__STORE__OPTIONS__SOME_KEY", "-1"),
            ("PERENNIAL__PERSISTENCE__STORE__TLS__CA_FILE", "\"quoted\""),
            ("PERENNIAL__PERSISTENCE__REPLAY_BYTES", "2MiB"),
            ("PERENNIAL__PERSISTENCE__BATCH_BYTES", "4096"),
            ("PERENNIAL__ENTITY__ACCOUNT__STASH", "6"),
            ("PERENNIAL__ENTITY__ACCOUNT__PASSIVATE_AFTER", "never"),
            ("PERENNIAL__entity__CART__stash", "7"),
            ("PERENNIAL_TEST_URL", "not ours"),
            ("PATH", "/bin"),
        ],
    )
    .expect("all are settings");
    let expected = StoreConfig {
        url: "  postgres://db".to_owned(),
        password: "007".to_owned(),
        max_connections: 3,
        retries: Some(4),
        ratio: 1.0,
        durable: true,
        check: Check::Off,
        hosts: vec!["x".to_owned(), "y".to_owned()],
        options: BTreeMap::from([("some-key".to_owned(), -1)]),
        tls: Tls {
            ca_file: "\"quoted\"".to_owned(),
            key_token: String::new(),
        },
        pages: NonZeroU16::MIN,
    };
    assert_eq!(store(&source).expect("valid"), expected);
    let persistence = PersistenceConfig::read(&source).expect("valid");
    assert_eq!(
        (persistence.replay_bytes, persistence.batch_bytes),
        (2 * 1024 * 1024, 4096)
    );
    for (entity_type, stash) in [("Account", 6), ("Cart", 7)] {
        let read = EntityConfig::read(&source, entity_type, EntityConfig::default());
        assert_eq!(read.expect("valid").stash, stash);
    }
    start(&source).expect("nothing is left over");
}

#[test]
fn environment_reaches_entity_types_that_variables_cannot_spell() {
    let source = environment(
        "[entity.\"com.acme.Line_Item\"]\nmailbox = 5",
        &[("PERENNIAL__ENTITY__COM_ACME_LINE_ITEM__STASH", "8")],
    )
    .expect("one type is meant");
    let read =
        EntityConfig::read(&source, "com.acme.Line_Item", EntityConfig::default()).expect("valid");
    assert_eq!((read.mailbox, read.stash), (5, 8));
    source.finish(&["com.acme.Line_Item"]).expect("read");
}

#[test]
fn errors_about_the_environment_name_the_variable() {
    for (variable, value, expected) in [
        (
            "PERENNIAL__PERSISTENCE__STORE__ULR",
            "x",
            "unknown key `persistence.store.ulr` in environment variable \
             PERENNIAL__PERSISTENCE__STORE__ULR; \
             did you mean PERENNIAL__PERSISTENCE__STORE__URL?",
        ),
        (
            "PERENNIAL__SYSTEM__ASKTIMEOUT",
            "1s",
            "unknown key `system.asktimeout` in environment variable \
             PERENNIAL__SYSTEM__ASKTIMEOUT; did you mean PERENNIAL__SYSTEM__ASK_TIMEOUT?",
        ),
        (
            "PERENNIAL__SYSTEM__WORKERS",
            "two",
            "`system.workers` = \"two\" in environment variable PERENNIAL__SYSTEM__WORKERS: \
             must be a whole number, 0 or more",
        ),
        (
            "PERENNIAL__SYSTEM__WORKERS",
            "",
            "`system.workers` = \"\" in environment variable PERENNIAL__SYSTEM__WORKERS: \
             must be a whole number, 0 or more",
        ),
        (
            "PERENNIAL__SYSTEM__WORKERS",
            "9999",
            "`system.workers` = \"9999\" in environment variable PERENNIAL__SYSTEM__WORKERS: \
             must be from 0 to 1024",
        ),
        (
            "PERENNIAL__SYSTEM__ASK_TIMEOUT",
            "5",
            "`system.ask-timeout` = \"5\" in environment variable \
             PERENNIAL__SYSTEM__ASK_TIMEOUT: must be a duration like \"2m\" or \"500ms\"",
        ),
        (
            "PERENNIAL__SYSTEM",
            "{}",
            "environment variable PERENNIAL__SYSTEM: `system` is a table; \
             set its keys one by one, as in PERENNIAL__SYSTEM__<KEY>",
        ),
        (
            "PERENNIAL__PERSISTENCE",
            "{}",
            "`persistence` = \"{}\" in environment variable PERENNIAL__PERSISTENCE: must be a \
             table; set its keys one by one, as in PERENNIAL__PERSISTENCE__<KEY>",
        ),
        (
            "PERENNIAL__SYSTEM__NAME__X",
            "1",
            "environment variable PERENNIAL__SYSTEM__NAME__X: `system.name` in bank.toml, line 2 \
             is not a table, so no key can be set in it",
        ),
        (
            "PERENNIAL__",
            "1",
            "environment variable PERENNIAL__: names no key; \
             keys are separated by two underscores, as in PERENNIAL__SYSTEM__NAME",
        ),
        (
            "PERENNIAL__PERSISTANCE__PLUGIN",
            "sqlite",
            "unknown section `[persistance]` in environment variable \
             PERENNIAL__PERSISTANCE__PLUGIN; did you mean `[persistence]`?",
        ),
        (
            "PERENNIAL__ENTITY__ACOUNT__STASH",
            "1",
            "unknown entity type \"acount\" in environment variable \
             PERENNIAL__ENTITY__ACOUNT__STASH; did you mean `Account`?",
        ),
        (
            "PERENNIAL__PERSISTENCE__PLUGIN",
            "postgres",
            "`persistence.plugin` = \"postgres\" in environment variable \
             PERENNIAL__PERSISTENCE__PLUGIN: this plugin is not linked in; \
             enable the cargo feature `postgres` of the crate perennial. Linked in: sqlite, store",
        ),
    ] {
        let source = environment("[system]\nname = \"bank\"", &[(variable, value)]);
        let error = source
            .and_then(|source| start(&source))
            .expect_err(variable);
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn variables_that_could_mean_two_keys_are_errors() {
    let error = environment(
        "[entity.Account]\n[entity.account]",
        &[("PERENNIAL__ENTITY__ACCOUNT__STASH", "1")],
    )
    .expect_err("two types are in the file");
    assert_eq!(
        error.to_string(),
        "environment variable PERENNIAL__ENTITY__ACCOUNT__STASH: could mean `Account` or \
         `account`; set the key in the file instead"
    );

    let source = environment(
        "[entity.Account]",
        &[("PERENNIAL__ENTITY__ACCOUNT__STASH", "1")],
    )
    .expect("one type is in the file");
    let error = source
        .finish(&["account", "Account"])
        .expect_err("two types are registered");
    assert_eq!(
        error.to_string(),
        "environment variable PERENNIAL__ENTITY__ACCOUNT__STASH: could mean the entity types \
         `Account` or `account`; set the key in the file instead"
    );
    source
        .finish(&["Account", "Cart"])
        .expect("one of these is meant");

    let error = environment(
        "",
        &[
            ("PERENNIAL__system__name", "a"),
            ("PERENNIAL__SYSTEM__NAME", "b"),
        ],
    )
    .expect_err("one setting, two values");
    assert_eq!(
        error.to_string(),
        "environment variable PERENNIAL__system__name: `system.name` is set by \
         PERENNIAL__SYSTEM__NAME as well; unset one of them"
    );
}

#[cfg(unix)]
#[test]
fn variables_that_are_not_utf8_are_errors_only_if_ours() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    let bad = || OsString::from_vec(vec![0xff]);
    let source = ConfigSource::empty()
        .with_environment([(OsString::from("LS_COLORS"), bad()), (bad(), bad())])
        .expect("others' variables are not looked at");
    let error = source
        .with_environment([(OsString::from("PERENNIAL__SYSTEM__NAME"), bad())])
        .expect_err("ours must be text");
    assert_eq!(
        error.to_string(),
        "environment variable PERENNIAL__SYSTEM__NAME: is not UTF-8 text"
    );
}

#[test]
fn code_overrides_what_came_before() {
    let source = environment(
        "[persistence.store]\nurl = \"file\"",
        &[
            ("PERENNIAL__PERSISTENCE__STORE__URL", "variable"),
            ("PERENNIAL__ENTITY__ACCOUNT__STASH", "1"),
        ],
    )
    .and_then(|source| source.set("persistence.store.url", "code"))
    .and_then(|source| source.set("persistence.store.max-connections", 7_u32))
    .and_then(|source| source.set("system.ask-timeout", Duration::from_millis(1500)))
    .and_then(|source| source.set("entity.Account.mailbox", 5_usize))
    .expect("all are settings");
    let read = store(&source).expect("valid");
    assert_eq!((read.url.as_str(), read.max_connections), ("code", 7));
    let system = SystemConfig::read(&source).expect("valid");
    assert_eq!(system.ask_timeout, Duration::from_millis(1500));
    let account = EntityConfig::read(&source, "Account", EntityConfig::default()).expect("valid");
    assert_eq!((account.stash, account.mailbox), (1, 5));
    start(&source).expect("nothing is left over");

    assert!(source.contains("persistence.store.url").expect("a path"));
    assert!(source.contains("entity.Account.stash").expect("a path"));
    assert!(!source.contains("persistence.store.hosts").expect("a path"));
    assert!(!source.contains("persistence.store.url.x").expect("a path"));
}

#[test]
fn errors_about_code_say_so() {
    let source = ConfigSource::empty()
        .set("system.workers", "two")
        .expect("a path");
    assert_eq!(
        SystemConfig::read(&source)
            .expect_err("no number")
            .to_string(),
        "`system.workers` = \"two\" set in code: must be a whole number, 0 or more"
    );
    for (key, expected) in [
        (
            "system",
            "`system` set in code: is a table; set its keys one by one",
        ),
        (
            "system.workers.x",
            "`system.workers.x` set in code: `system.workers` set in code is not a table",
        ),
        ("", "\"\": is not the path of a key"),
        ("a..b", "\"a..b\": is not the path of a key"),
        ("a = 1 #", "\"a = 1 #\": is not the path of a key"),
        ("a = 1\nb", "\"a = 1\\nb\": is not the path of a key"),
    ] {
        let error = source.clone().set(key, 1).expect_err(key);
        assert_eq!(error.to_string(), expected);
    }
    assert!(source.section::<Tls>("not a path").is_err());
    assert!(source.contains("[x]").is_err());
}

#[test]
fn readers_can_refuse_a_value_with_its_place() {
    let source = toml("[persistence.store]\nurl = \"postgres://bank:hunter2@db/bank\"");
    assert_eq!(
        source
            .invalid("persistence.store.url", "must name a database, not hunter2")
            .to_string(),
        "`persistence.store.url` = \"postgres://bank:***@db/bank\" in bank.toml, line 2: \
         must name a database, not ***"
    );
    assert_eq!(
        source
            .invalid("persistence.store.hosts", "must be set")
            .to_string(),
        "`persistence.store.hosts` (not set in bank.toml): must be set"
    );
    assert_eq!(
        ConfigSource::empty()
            .invalid("system.name", "must be set")
            .to_string(),
        "`system.name` (not set): must be set"
    );
}

#[test]
fn syntax_errors_name_line_and_column() {
    let error = |text: &str| {
        ConfigSource::from_toml("bank.toml", text)
            .expect_err(text)
            .to_string()
    };
    for (text, place) in [
        (
            "[system]\nworkers = = 2",
            "bank.toml, line 2, column 11: not valid TOML: ",
        ),
        (
            "[system]\r\nname = \"é\r\n",
            "bank.toml, line 2, column 11: not valid TOML: ",
        ),
        (
            "[system]\nname = 1\nname = 2",
            "bank.toml, line 3, column 1: not valid TOML: ",
        ),
        ("[system", "bank.toml, line 1, column 8: not valid TOML: "),
        ("x = ", "bank.toml, line 1, column 5: not valid TOML: "),
    ] {
        assert!(error(text).starts_with(place), "{}", error(text));
    }
    let huge = format!("\nx = {}", "9".repeat(50));
    assert_eq!(
        error(&huge),
        "bank.toml, line 2, column 5: not valid TOML: the number is too large"
    );
    let secret = error("[persistence.store]\npassword = \"hunter2\nx = 1");
    assert!(!secret.contains("hunter2"), "{secret}");
}

#[test]
fn files_that_cannot_be_read_say_why() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("bank.toml");
    let name = path.display().to_string();
    let error = || {
        ConfigSource::from_file(&path)
            .expect_err("not readable")
            .to_string()
    };

    assert_eq!(
        error(),
        format!("cannot read configuration file {name}: there is no such file")
    );
    let relative = ConfigSource::from_file("no-such-bank.toml").expect_err("not there");
    let hint = relative.hint().expect("says where it was looked for");
    assert!(
        hint.starts_with("the path is relative to the current directory, /"),
        "{hint}"
    );

    std::fs::write(&path, b"[system]\nname = \"\xff\"").expect("written");
    assert_eq!(
        error(),
        format!(
            "cannot read configuration file {name}: line 2 is not UTF-8 text; save it as UTF-8"
        )
    );

    std::fs::write(&path, "\u{feff}[system]\nworkers = -1").expect("written");
    let source = ConfigSource::from_file(&path).expect("a byte-order mark is no error");
    assert_eq!(
        SystemConfig::read(&source)
            .expect_err("negative")
            .to_string(),
        format!("`system.workers` = -1 in {name}, line 2: must be a whole number, 0 or more")
    );

    let text = ConfigSource::from_file(directory.path())
        .expect_err("a directory")
        .to_string();
    assert!(
        text.starts_with("cannot read configuration file "),
        "{text}"
    );
}

#[test]
fn secrets_never_appear() {
    let source = environment(
        r#"
        [persistence.store]
        url = "postgres://bank:hunter2@db/bank?password=hunter2"
        hosts = ["nats://a:hunter2@b"]
        tls = { key-token = "hunter2" }
        [entity.AccessToken]
        stash = 5
        "#,
        &[("PERENNIAL__PERSISTENCE__STORE__PASSWORD", "hunter2")],
    )
    .expect("valid");
    let debug = format!("{source:?} {:?}", source.clone().set("a.b", "hunter2"));
    assert!(!format!("{source:?}").contains("hunter2"), "{debug}");
    assert!(
        debug.contains("postgres://bank:***@db/bank?password=***"),
        "{debug}"
    );
    assert!(
        debug.contains("persistence.store.password: *** in environment variable"),
        "{debug}"
    );
    assert!(
        debug.contains("entity.AccessToken.stash: 5 in bank.toml, line 7"),
        "{debug}"
    );
    let value = super::ConfigValue::from("hunter2");
    assert!(!format!("{value:?}").contains("hunter2"));

    for (line, expected) in [
        (
            "password = 4711",
            "password` in bank.toml, line 2: must be a string",
        ),
        (
            "max-connections = \"postgres://bank:hunter2@db\"",
            "max-connections` = \"postgres://bank:***@db\" in bank.toml, line 2: \
             must be a whole number from 0 to 65535",
        ),
        (
            "tls = { key-token = [\"hunter2\"] }",
            "tls.key-token` in bank.toml, line 2: must be a string",
        ),
    ] {
        assert_eq!(refused(line), expected);
    }
}

#[test]
fn readers_own_messages_show_no_secret_either() {
    #[derive(Debug, Default, Deserialize)]
    #[serde(try_from = "String")]
    struct Refusing;

    impl TryFrom<String> for Refusing {
        type Error = String;

        fn try_from(text: String) -> Result<Self, String> {
            Err(format!("cannot use {text}"))
        }
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Section {
        #[serde(rename = "url")]
        _url: Option<Refusing>,
        #[serde(rename = "password")]
        _password: Option<Refusing>,
    }

    let error = |line: &str| {
        let source = toml(&format!("[x]\n{line}"));
        source.section::<Section>("x").expect_err(line).to_string()
    };
    assert_eq!(
        error("url = \"db\""),
        "`x.url` = \"db\" in bank.toml, line 2: cannot use db"
    );
    assert_eq!(
        error("url = \"postgres://bank:hunter2@db\""),
        "`x.url` = \"postgres://bank:***@db\" in bank.toml, line 2: \
         is not accepted (the reason is not shown, as it contains a secret)"
    );
    assert_eq!(
        error("password = \"hunter2\""),
        "`x.password` in bank.toml, line 2: \
         is not accepted (the reason is not shown, as it contains a secret)"
    );
}

#[test]
fn keys_without_a_default_are_named_when_missing() {
    #[derive(Debug, Default, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Section {
        #[serde(rename = "url")]
        _url: String,
    }
    let source = toml("\n[x]\n[x.y]\nz = 1");
    assert_eq!(
        source
            .section::<Section>("x")
            .expect_err("no url")
            .to_string(),
        "`x.url` in bank.toml, line 2: is missing, and there is no default"
    );
}

#[test]
fn enums_may_carry_settings() {
    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Mode {
        Plain,
        Size(u8),
        Pair(u8, u8),
        Full { depth: u8 },
    }
    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Section {
        mode: Option<Mode>,
    }
    let read = |line: &str| {
        toml(&format!("[x]\n{line}"))
            .section::<Section>("x")
            .map(|section| section.mode.expect("it is set"))
            .map_err(|error| error.to_string())
    };
    assert_eq!(read("mode = \"plain\""), Ok(Mode::Plain));
    assert_eq!(read("mode = { size = 5 }"), Ok(Mode::Size(5)));
    assert_eq!(read("mode = { pair = [1, 2] }"), Ok(Mode::Pair(1, 2)));
    assert_eq!(
        read("mode = { full = { depth = 5 } }"),
        Ok(Mode::Full { depth: 5 })
    );
    assert_eq!(
        read("mode = { size = 256 }"),
        Err(
            "`x.mode.size` = 256 in bank.toml, line 2: must be a whole number from 0 to 255".into()
        )
    );
    assert_eq!(
        read("mode = { full = { dept = 5 } }"),
        Err("unknown key `x.mode.full.dept` in bank.toml, line 2; did you mean `depth`?".into())
    );
    assert!(read("mode = { plain = 1 }").is_err());
    assert!(read("mode = {}").is_err());
}

#[test]
fn known_keys_are_those_of_the_struct() {
    assert_eq!(known_keys::<Tls>(), ["ca-file", "key-token"]);
    assert!(known_keys::<BTreeMap<String, u8>>().is_empty());
}

#[test]
fn sources_are_shared_between_threads() {
    fn check<T: Send + Sync + Clone>() {}
    check::<ConfigSource>();
    check::<ConfigError>();
}
