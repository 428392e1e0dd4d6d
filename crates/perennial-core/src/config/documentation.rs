//! `docs/configuration.md` says what the code does: each key, its default and its bounds.

use std::fmt::Debug;

use serde::de::DeserializeOwned;

use super::{
    ConfigError, ConfigSource, EntityConfig, EntityOverrides, PersistenceConfig, Replacement,
    ShutdownConfig, SystemConfig, known_keys,
};

const PAGE: &str = include_str!("../../../../docs/configuration.md");

/// A row of the page.
struct Row<'a> {
    key: &'a str,
    default: &'a str,
    from: &'a str,
    to: &'a str,
}

fn rows(heading: &str) -> Vec<Row<'static>> {
    let (_, section) = PAGE.split_once(heading).expect("the page has the section");
    let section = section.split("\n## ").next().unwrap_or_default();
    section
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let cells: Vec<_> = line
                .trim_matches('|')
                .split('|')
                .map(|cell| cell.trim().trim_matches('`'))
                .collect();
            assert_eq!(cells.len(), 6, "{line}");
            Row {
                key: cells[0],
                default: cells[1],
                from: cells[2],
                to: cells[3],
            }
        })
        .collect()
}

fn source(section: &str, lines: &str) -> ConfigSource {
    ConfigSource::from_toml("page.toml", &format!("[{section}]\n{lines}\n"))
        .expect("the page shows valid TOML")
}

fn check<K: DeserializeOwned, T: Debug + PartialEq>(
    heading: &str,
    section: &str,
    default: &T,
    read: impl Fn(&ConfigSource) -> Result<T, ConfigError>,
) {
    let rows = rows(heading);
    let keys: Vec<_> = rows.iter().map(|row| row.key).collect();
    assert_eq!(keys, known_keys::<K>(), "keys in {heading}");

    let line = |key: &str, value: &str| format!("{key} = {value}");
    // A key without a default is one that need not be there.
    let defaults: Vec<_> = rows
        .iter()
        .filter(|row| !row.default.is_empty())
        .map(|row| line(row.key, row.default))
        .collect();
    let as_documented = read(&source(section, &defaults.join("\n"))).expect("defaults are valid");
    assert_eq!(&as_documented, default, "defaults in {heading}");

    for row in rows.iter().filter(|row| !row.from.is_empty()) {
        // The partner of a pair is moved out of the way.
        let partner = match row.key {
            "retry-min" => "retry-max = \"1h\"",
            "retry-max" => "retry-min = \"1ms\"",
            "restart-min" => "restart-max = \"1day\"",
            "restart-max" => "restart-min = \"1ms\"",
            _ => "",
        };
        for bound in [row.from, row.to] {
            let lines = format!("{}\n{partner}", line(row.key, bound));
            read(&source(section, &lines)).expect("the bound itself is accepted");
        }
        for outside in outside(row) {
            let lines = format!("{}\n{partner}", line(row.key, &outside));
            let text = read(&source(section, &lines))
                .expect_err(&outside)
                .to_string();
            let range = format!("must be from {} to {}", row.from, row.to);
            assert!(
                text.contains(&range) || outside == "-1",
                "{text} does not say: {range}"
            );
        }
    }
}

/// Values just below and above the bounds of a row.
fn outside(row: &Row<'_>) -> [String; 2] {
    if let (Ok(from), Ok(to)) = (row.from.parse::<i64>(), row.to.parse::<i64>()) {
        return [(from - 1).to_string(), (to + 1).to_string()];
    }
    let (from, to) = (row.from.trim_matches('"'), row.to.trim_matches('"'));
    match (
        from.parse::<bytesize::ByteSize>(),
        to.parse::<bytesize::ByteSize>(),
    ) {
        (Ok(from), Ok(to)) => [
            (from.as_u64() - 1).to_string(),
            (to.as_u64() + 1).to_string(),
        ],
        _ => {
            let from = humantime::parse_duration(from).expect("a bound is a duration");
            // Nothing is shorter than no time at all.
            let below = match from.as_nanos().checked_sub(1) {
                Some(below) => format!("\"{below}ns\""),
                None => "-1".to_owned(),
            };
            [below, format!("\"{to} 1ns\"")]
        }
    }
}

#[test]
fn page_agrees_with_the_system_section() {
    let default = SystemConfig::default();
    check::<SystemConfig, _>("## `[system]`", "system", &default, SystemConfig::read);
}

#[test]
fn page_agrees_with_the_shutdown_section() {
    check::<ShutdownConfig, _>(
        "## `[system.shutdown]`",
        "system.shutdown",
        &ShutdownConfig::default(),
        ShutdownConfig::read,
    );
}

#[test]
fn page_agrees_with_the_persistence_section() {
    check::<PersistenceConfig, _>(
        "## `[persistence]`",
        "persistence",
        &PersistenceConfig::default(),
        PersistenceConfig::read,
    );
}

#[test]
fn page_agrees_with_the_entity_sections() {
    check::<EntityOverrides, _>(
        "## `[entity.<Type>]`",
        "entity.Account",
        &EntityConfig::default(),
        |source| {
            // Everything that the page shows must come from the file, not from code.
            let in_code = EntityConfig::default()
                .with_passivate_after(None)
                .with_entity_limit(7)
                .with_replacement(Replacement::Frequency)
                .with_protected_percent(7)
                .with_stop_timeout(std::time::Duration::from_secs(7))
                .with_snapshot_every(7)
                .with_keep_snapshots(7)
                .with_delete_events(true)
                .with_recovery_timeout(std::time::Duration::from_secs(7))
                .with_mailbox(7)
                .with_stash(7)
                .with_command_window(7)
                .with_command_window_age(std::time::Duration::from_secs(7))
                .with_pipeline(7);
            EntityConfig::read(source, "Account", in_code)
        },
    );
}

#[test]
fn example_of_the_page_is_accepted() {
    let (_, example) = PAGE
        .split_once("```toml\n")
        .expect("the page has an example");
    let (example, _) = example.split_once("```").expect("the example ends");
    let source = ConfigSource::from_toml("bank.toml", example).expect("the example is TOML");
    SystemConfig::read(&source).expect("[system]");
    let persistence = PersistenceConfig::read(&source).expect("[persistence]");
    persistence
        .check_plugin(&source, &["postgres"])
        .expect("the plugin");
    // Its own crate reads this one.
    source
        .ignore_section("persistence.postgres")
        .expect("a path");
    source.finish(&["Account"]).expect("everything was read");
}
