//! What is wrong with a configuration is said when the system starts: the key, where it stands,
//! and what to do.

use perennial::config::ConfigSource;
use perennial::prelude::*;
use perennial::{FromConfig, StartError};
use perennial_it::{Notebook, TestStore};

async fn failed(source: ConfigSource) -> (StartError, String) {
    let started = ActorSystem::from_source(source)
        .entity(Entity::<Notebook>::new(()))
        .start()
        .await;
    let error = started.expect_err("something is wrong");
    let text = error.to_string();
    (error, text)
}

fn toml(text: &str) -> ConfigSource {
    ConfigSource::from_toml("bank.toml", text).expect("TOML")
}

#[track_caller]
fn check(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

#[tokio::test]
async fn settings_that_make_no_sense_are_named_with_their_line() {
    for (text, parts) in [
        (
            "[system]\nnme = \"bank\"",
            &["`system.nme`", "bank.toml, line 2", "`name`"][..],
        ),
        (
            "[system]\n\nask-timeout = 5",
            &["system.ask-timeout", "bank.toml, line 3"],
        ),
        (
            "[persistence.sqlite]\npath = \"x.sqlite\"\nbusy-timeout = \"soon\"",
            &[
                "persistence.sqlite.busy-timeout",
                "bank.toml, line 3",
                "soon",
            ],
        ),
        (
            "[persistence.sqlite]\nreaders = 65",
            &["persistence.sqlite.readers", "bank.toml, line 2", "1 to 64"],
        ),
        (
            "[persistence]\nplugin = \"memory\"\n[persistence.memory]\ndurable-state-delete = \"no\"",
            &[
                "persistence.memory.durable-state-delete",
                "bank.toml, line 4",
                "marker",
            ],
        ),
        (
            "[persistence.sqlite]\ndurable-state-delete = \"rows\"",
            &["persistence.sqlite.durable-state-delete", "\"row\""],
        ),
        (
            "[persistence]\nplugin = \"postgress\"",
            &[
                "postgress",
                "bank.toml, line 2",
                "did you mean \"postgres\"?",
            ],
        ),
        (
            "[persistence]\nplugin = \"postgres\"",
            &["persistence.postgres.url", "not set", "postgres://"],
        ),
        (
            "[entity.Notebok]\nmailbox = 1",
            &["entity type \"Notebok\"", "bank.toml, line 1", "Notebook"],
        ),
        (
            "[entity.Notebook]\nsnapshot-every = 5",
            &[
                "entity.Notebook.snapshot-every",
                "bank.toml, line 2",
                "registered without",
            ],
        ),
    ] {
        let (error, said) = failed(toml(text)).await;
        assert!(matches!(error, StartError::Config(_)), "{error:?}");
        check(&said, parts);
    }
}

#[tokio::test]
async fn variables_are_named_when_they_are_wrong() {
    let source = ConfigSource::empty()
        .with_environment([("PERENNIAL__SYSTEM__WORKERS", "many")])
        .expect("a known prefix");
    let (_, said) = failed(source).await;
    check(
        &said,
        &["system.workers", "PERENNIAL__SYSTEM__WORKERS", "many"],
    );
}

#[tokio::test]
async fn a_plugin_that_is_not_linked_in_names_its_feature() {
    let mut plugins = perennial::plugins();
    plugins.retain(|plugin| plugin.name() != "postgres");
    let source = toml("[persistence]\nplugin = \"postgres\"");
    let started = ActorSystem::with_plugins(source, plugins).start().await;
    let said = started.expect_err("it is not there").to_string();
    check(
        &said,
        &[
            "persistence.plugin",
            "bank.toml, line 2",
            "feature `postgres`",
        ],
    );
}

#[tokio::test]
async fn a_database_that_cannot_be_reached_is_shown_without_its_password() {
    let store = TestStore::postgres();
    let url = store.url().expect("a server");
    let (head, rest) = url.split_once("://").expect("a URL");
    let (credentials, place) = rest.rsplit_once('@').expect("with a user");
    let (user, password) = credentials.split_once(':').expect("with a password");
    let (host, _) = place.split_once('/').expect("with a database");
    for (url, secret, parts) in [
        (
            format!("{head}://{user}:hunter2@{place}"),
            "hunter2",
            vec![
                "password authentication failed",
                "correct user and password",
                place,
            ],
        ),
        (
            format!("{head}://{user}:{password}@{host}/no_such_database"),
            password,
            vec!["no_such_database", "does not exist", "create it"],
        ),
        (
            format!("{head}://{user}:hunter2@127.0.0.1:1/bank"),
            "hunter2",
            vec![
                "postgres://perennial:***@127.0.0.1:1/bank",
                "start the server",
            ],
        ),
        (
            format!("{head}://{user}:hunter2@bank:port/bank"),
            "hunter2",
            vec!["persistence.postgres.url", "port", "postgres://"],
        ),
    ] {
        let source = toml("[persistence]\nplugin = \"postgres\"")
            .set("persistence.postgres.url", url.as_str())
            .expect("a key");
        let (error, said) = failed(source).await;
        check(&said, &parts);
        check(&said, &["persistence.postgres"]);
        for text in [said, format!("{error:?}")] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(
        folder.path().join("diary"),
        "no database, but long enough to be one",
    )
    .expect("room");
    for (path, part) in [
        (folder.path().join("diary"), "not an SQLite database"),
        (
            folder.path().join("nowhere/bank.sqlite"),
            "its directory does not exist",
        ),
        (folder.path().to_owned(), "it is a directory"),
    ] {
        let source = ConfigSource::empty()
            .set("persistence.sqlite.path", path.display().to_string())
            .expect("a key");
        let (_, said) = failed(source).await;
        check(
            &said,
            &[&path.display().to_string(), part, "persistence.sqlite"],
        );
    }
}

#[tokio::test]
async fn tables_that_are_not_there_are_listed_when_they_may_not_be_made() {
    for store in [TestStore::sqlite(), TestStore::postgres()] {
        let plugin = if store.url().is_some() {
            "postgres"
        } else {
            "sqlite"
        };
        if plugin == "sqlite" {
            // Without the file there would be nothing to look into.
            store.execute("CREATE TABLE something_else (x INTEGER)");
        }
        let key = format!("persistence.{plugin}.schema-check");
        let source = store.source().set(&key, "verify").expect("a key");
        let (_, said) = failed(source).await;
        check(&said, &["event_journal", "snapshot", "durable_state"]);
    }
}
