//! Files that cannot be opened, and those that can.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use perennial_persistence::{SchemaCheck, Store};
use perennial_sqlite::{Config, Synchronous};

use super::*;

#[tokio::test]
async fn a_missing_directory_is_named() {
    let file = File::new();
    let path = file.directory.path().join("missing").join("a.sqlite");
    let config = Config::default().with_path(&path);
    check_unreachable(config, &path, "directory does not exist").await;
}

#[tokio::test]
async fn a_directory_is_no_database() {
    let file = File::new();
    let path = file.directory.path().to_owned();
    let config = Config::default().with_path(&path);
    check_unreachable(config, &path, "is a directory").await;
}

#[tokio::test]
async fn a_file_of_something_else_is_refused_and_left_as_it_is() {
    let file = File::new();
    let garbage = b"this is no database, however long it is. ".repeat(100);
    for check in [SchemaCheck::Create, SchemaCheck::Verify, SchemaCheck::Off] {
        fs::write(file.path(), &garbage).expect("a file");
        let config = file.config().with_schema_check(check);
        check_unreachable(config, &file.path(), "not an SQLite database").await;
        assert_eq!(fs::read(file.path()).expect("still there"), garbage);
    }
}

#[tokio::test]
async fn a_missing_file_is_made_only_by_create() {
    let file = File::new();
    for check in [SchemaCheck::Verify, SchemaCheck::Off] {
        let config = file.config().with_schema_check(check);
        check_unreachable(config, &file.path(), "no such file").await;
        assert!(!file.path().exists());
    }
    open(file.config()).await.close().await;
    assert!(file.path().exists());
}

#[tokio::test]
async fn an_empty_file_is_a_new_database() {
    let file = File::new();
    fs::write(file.path(), b"").expect("a file");
    let store = file.open().await;
    store.journal();
    assert_eq!(store.warnings(), [""; 0]);
}

#[tokio::test]
async fn a_name_that_sqlite_would_read_in_its_own_way_is_a_plain_name() {
    let file = File::new();
    let path = file.directory.path().join("file:a.sqlite?mode=memory");
    let store = open(Config::default().with_path(&path)).await;
    assert_eq!(store.path(), path);
    assert!(path.exists());
}

#[tokio::test]
async fn a_setting_out_of_range_is_refused_by_its_key() {
    let error = refused(File::new().config().with_readers(0)).await;
    assert_eq!(
        error.to_string(),
        "`readers` is out of range; write a number from 1 to 64"
    );
}

#[tokio::test]
async fn a_lock_that_is_held_too_long_is_named() {
    let file = File::new();
    let holder = file.connection();
    holder
        .execute_batch("CREATE TABLE other (a); BEGIN EXCLUSIVE")
        .expect("nobody else is there");
    let config = file.config().with_busy_timeout(Duration::from_millis(50));
    check_unreachable(config.clone(), &file.path(), "busy-timeout").await;

    holder.execute_batch("COMMIT").expect("an open transaction");
    open(config).await;
}

#[tokio::test]
async fn stores_that_start_at_once_on_a_new_file_all_open() {
    for _ in 0..10 {
        let file = File::new();
        let starts: Vec<_> = (0..8)
            .map(|_| tokio::spawn(Sqlite::open(file.config())))
            .collect();
        for start in starts {
            let store = start.await.expect("no panic").expect("each opens");
            assert_eq!(store.warnings(), [""; 0]);
        }
    }
}

#[tokio::test]
async fn less_than_full_durability_is_warned_of() {
    let file = File::new();
    for (synchronous, warned) in [
        (Synchronous::Normal, true),
        (Synchronous::Full, false),
        (Synchronous::Extra, false),
    ] {
        let store = open(file.config().with_synchronous(synchronous)).await;
        let warnings = store.warnings();
        assert_eq!(!warnings.is_empty(), warned, "{warnings:?}");
        assert!(warnings.iter().all(|w| w.contains("can be lost")));
        store.close().await;
    }
}

/// Says to a test that it is the process that was started for it, and names the file.
const READ_ONLY_FILE: &str = "PERENNIAL_TEST_READ_ONLY_FILE";

/// Root may write everything, so the test goes on in a process of another user then.
#[tokio::test]
async fn a_file_that_can_only_be_read_is_refused() {
    if let Some(path) = std::env::var_os(READ_ONLY_FILE) {
        let path = PathBuf::from(path);
        for check in [SchemaCheck::Create, SchemaCheck::Verify, SchemaCheck::Off] {
            let config = Config::default().with_path(&path).with_schema_check(check);
            check_unreachable(config, &path, "can only be read").await;
        }
        return;
    }

    let file = File::new();
    file.open().await.close().await;
    let allow = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own file");
    };
    allow(file.directory.path(), 0o755);
    allow(&file.path(), 0o444);
    // The build's directory may be closed to others, the test's is not.
    let program = file.directory.path().join("test");
    let own = std::env::current_exe().expect("a running program");
    fs::copy(own, &program).expect("room for a copy");
    allow(&program, 0o755);

    let mut child = Command::new(&program);
    child
        .args([
            "--exact",
            "opening::a_file_that_can_only_be_read_is_refused",
        ])
        .env(READ_ONLY_FILE, file.path())
        .current_dir("/");
    if fs::OpenOptions::new().write(true).open(file.path()).is_ok() {
        const NOBODY: u32 = 65_534;
        child.uid(NOBODY);
    }
    let output = child.output().expect("a program that can be started");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
}
