//! The flights example as people use and misuse it.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use perennial::prelude::*;
use perennial_it::{Ended, Example, Note, Notebook, TestStore, until};
use perennial_testkit::postgres::PrivateServer;
use serde_json::json;

use crate::FLIGHTS;

const HEADER: &str = "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,\
                      arr_delay,carrier,flight,tailnum,origin,dest,air_time,distance,hour,minute,\
                      time_hour";
const GOOD: &str =
    "2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z";

fn flights() -> Example {
    Example::new("flights", FLIGHTS).with(&["--report", "report.json", "--rejects", "rejects.csv"])
}

fn ended_with(ended: &Ended, code: i32, parts: &[&str]) {
    assert_eq!(ended.code, Some(code), "{}", ended.said);
    for part in parts {
        assert!(ended.said.contains(part), "no {part:?} in:\n{}", ended.said);
    }
}

#[test]
fn a_month_is_recorded_in_the_working_directory_and_shown() {
    let flights = flights();
    let ended = flights.run(&[]);
    ended_with(&ended, 0, &["flights.sqlite", "All aircraft came back"]);
    for part in [
        "rows",
        "27,004",
        "26,483",
        "3,141",
        "recoveries/s",
        "N328AA 84,473",
    ] {
        assert!(ended.out.contains(part), "{part}: {}", ended.out);
    }
    assert!(flights.path("flights.sqlite").exists());
    for beside in ["flights.sqlite-wal", "flights.sqlite-shm"] {
        assert!(!flights.path(beside).exists(), "{beside} is left");
    }
    let report = flights.report();
    assert_eq!(
        report["refused"],
        json!({"cancelled": 366, "no-tail-number": 155, "duplicate": 0, "malformed": 0})
    );
    assert_eq!(
        report["aircraft"]["N14228"],
        json!({"flights": 15, "miles": 16_479, "air_minutes": 2437,
               "departure_delay_minutes": 144, "last_destination": "PDX"})
    );
    assert_eq!(flights.read("rejects.csv").lines().count(), 1 + 366 + 155);

    // Once more: from nothing without --keep, from everything with it.
    ended_with(&flights.run(&[]), 0, &[]);
    assert_eq!(flights.report(), report);
    ended_with(&flights.run(&["--keep"]), 0, &["on what is there already"]);
    let kept = flights.report();
    assert_eq!(kept["aircraft"], report["aircraft"]);
    assert_eq!(kept["accepted"], 0);
    assert_eq!(kept["refused"]["duplicate"], report["accepted"]);
}

#[test]
fn keeping_what_is_missing_empty_or_half_made_begins_with_nothing() {
    let flights = flights().with_rows(300).with(&["--keep"]);
    ended_with(
        &flights.run(&[]),
        0,
        &["Recording rows.csv in flights.sqlite."],
    );
    let report = flights.report();
    for half in [0, 4096] {
        let whole = std::fs::read(flights.path("flights.sqlite")).expect("made by the run");
        for ending in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(flights.path(&format!("flights.sqlite{ending}")));
        }
        if half == 0 {
            flights.write("flights.sqlite", "");
        } else {
            // The tables of a process that was killed right after it had made them.
            let connection =
                rusqlite::Connection::open(flights.path("flights.sqlite")).expect("a usable file");
            connection
                .execute_batch(
                    "CREATE TABLE event_journal_draft (x); DROP TABLE event_journal_draft",
                )
                .expect("good SQL");
        }
        ended_with(&flights.run(&[]), 0, &[]);
        assert_eq!(flights.report(), report, "{half} of {}", whole.len());
    }
}

#[test]
fn a_table_of_garbage_rows_is_read_to_its_end() {
    let flights = flights();
    let mut table = b"\xef\xbb\xbf".to_vec();
    let mut long = GOOD
        .replace("N14228", "N9")
        .replace("IAH", &"x".repeat(100_000));
    long.push_str(",too,many");
    for line in [
        format!("{HEADER}\r\n").as_bytes(),
        GOOD.as_bytes(),
        b"\r\n\r",
        b"\0\0\0\n",
        b"\xff\xfe\xfd\n",
        b"\"\n",
        long.as_bytes(),
        b"\n",
        GOOD.replace("N14228", "N1\0").as_bytes(),
        b"\n",
        GOOD.replace("N14228", "N1|2").as_bytes(),
        b"\n",
        GOOD.replace("N14228", &"N".repeat(300)).as_bytes(),
        b"\n",
        GOOD.replace(",1400,", ",9223372036854775808,").as_bytes(),
        b"\n",
        GOOD.replace(",1400,", ",9223372036854775807,")
            .replace("1545", "2")
            .as_bytes(),
        b"\n",
        GOOD.replace("N14228", "NA").as_bytes(),
        b"\r",
        GOOD.replace(",517,", ",NA,").as_bytes(),
        b"\n",
        GOOD.as_bytes(),
    ] {
        table.extend(line);
    }
    table.extend(b"\n2013,1,2,517,515,NA,830,819,11,UA,1545,N14228,EWR,P\xc3X,NA,1,5,15,x");
    flights.write("in.csv", table);
    ended_with(&flights.run(&["--input", "in.csv"]), 0, &[]);
    let report = flights.report();
    assert_eq!(
        report["refused"],
        json!({"cancelled": 1, "no-tail-number": 1, "duplicate": 1, "malformed": 10})
    );
    assert_eq!(
        report["aircraft"],
        json!({"N14228": {"flights": 2, "miles": 1401, "air_minutes": 227,
                          "departure_delay_minutes": 2, "last_destination": "P\u{FFFD}X"}})
    );
    let rejects = flights.read("rejects.csv");
    assert!(rejects.starts_with("line,reason,row\n3,malformed,\n4,malformed,\0\0\0\n"));
}

#[test]
fn files_that_are_no_table_end_the_run_before_anything_is_touched() {
    let flights = flights();
    flights.write("empty.csv", "");
    flights.write("noise.csv", [0_u8, 255, 254, 10, 13, 0, 200]);
    flights.write("other.csv", "a,b\n1,2\n");
    flights.write("short.csv.gz", [0x1f, 0x8b, 8]);
    for (file, part) in [
        ("empty.csv", "the file is empty"),
        ("noise.csv", "noise.csv is not the flight table"),
        ("other.csv", "its first line must be year,month"),
        ("short.csv.gz", "cannot read short.csv.gz"),
        ("missing.csv", "cannot open missing.csv"),
        (".", "cannot read ."),
    ] {
        let ended = flights.run(&["--input", file]);
        ended_with(&ended, 1, &["error: ", part]);
    }
    assert!(!flights.path("flights.sqlite").exists());
    let ended = flights.run(&["--keep", "--reset"]);
    ended_with(&ended, 2, &["cannot be used with"]);
}

#[test]
fn what_a_cut_file_still_holds_is_recorded_and_said() {
    let flights = flights().with_rows(3000);
    let mut whole = GzEncoder::new(Vec::new(), Compression::default());
    whole
        .write_all(flights.read("rows.csv").as_bytes())
        .expect("memory");
    let whole = whole.finish().expect("memory");
    flights.write("cut.csv.gz", &whole[..whole.len() / 2]);
    let cut = Example::new("flights", FLIGHTS);
    cut.write("cut.csv.gz", &whole[..whole.len() / 2]);
    cut.write("whole.csv.gz", &whole);
    let ended = cut.run(&["--input", "cut.csv.gz"]);
    ended_with(
        &ended,
        1,
        &[
            "cannot read cut.csv.gz any further after ",
            "Before it failed, ",
        ],
    );
    // The rest follows with the whole file.
    let args = [
        "--input",
        "whole.csv.gz",
        "--keep",
        "--report",
        "report.json",
    ];
    ended_with(&cut.run(&args), 0, &[]);
    ended_with(&flights.run(&[]), 0, &[]);
    assert_eq!(cut.report()["aircraft"], flights.report()["aircraft"]);
    assert!(cut.report()["refused"]["duplicate"].as_u64() > Some(500));
}

#[test]
fn an_interrupted_run_says_what_it_did_and_can_be_continued() {
    let flights = flights().with_rows(6000);
    ended_with(&flights.run(&[]), 0, &[]);
    let undisturbed = flights.report();
    std::fs::remove_file(flights.path("report.json")).expect("just written");

    // One after the other, so that it is not over before it is interrupted.
    let mut run = flights.start(&["--in-flight", "1"]);
    assert!(run.wait_for("Recording "), "{}", run.said());
    until("some events are stored", || stored_events(&flights) > 20);
    run.interrupt();
    let ended = run.end();
    let parts = [
        "Stopping; press ctrl-c again",
        "rows were answered",
        "--keep",
    ];
    ended_with(&ended, 130, &parts);
    assert!(!flights.path("report.json").exists());
    let stored = stored_events(&flights);
    assert!((20..5000).contains(&stored), "{stored}");

    ended_with(&flights.run(&["--keep"]), 0, &[]);
    let report = flights.report();
    assert_eq!(report["aircraft"], undisturbed["aircraft"]);
    assert_eq!(report["refused"]["duplicate"], stored);
}

fn stored_events(flights: &Example) -> u64 {
    let Ok(connection) = rusqlite::Connection::open_with_flags(
        flights.path("flights.sqlite"),
        rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE,
    ) else {
        return 0;
    };
    // Without the tables there are no events.
    connection
        .query_row("SELECT count(*) FROM event_journal", [], |row| {
            row.get::<_, i64>(0)
        })
        .map_or(0, |count| u64::try_from(count).expect("a count"))
}

#[test]
fn a_run_that_waits_for_its_server_can_be_interrupted() {
    let flights = flights().on_postgres("postgres://nobody:secret@127.0.0.1:1/nothing");
    let mut run = flights.start(&["--keep"]);
    assert!(run.wait_for("trying again for up to"), "{}", run.said());
    run.interrupt();
    let ended = run.end();
    ended_with(
        &ended,
        130,
        &["postgres://nobody@127.0.0.1:1/nothing does not answer"],
    );
    assert!(!ended.said.contains("secret"), "{}", ended.said);

    let ended = flights.run(&["--patience", "1s"]);
    ended_with(
        &ended,
        1,
        &["error: cannot prepare the store: nothing was answered for 1s"],
    );
}

#[test]
fn a_file_that_is_not_ours_is_not_made_anew() {
    let flights = flights().with_rows(10);
    flights.write("flights.sqlite", "Dear diary, this is no database.");
    for args in [&[][..], &["--keep"], &["--reset"]] {
        ended_with(&flights.run(args), 1, &["flights.sqlite"]);
        assert_eq!(
            flights.read("flights.sqlite"),
            "Dear diary, this is no database."
        );
    }
}

#[test]
fn a_file_that_cannot_be_made_ends_the_run_at_once() {
    let flights = flights().with_rows(10);
    for (path, part) in [
        ("nowhere/flights.sqlite", "its directory does not exist"),
        (".", "Is a directory"),
    ] {
        flights.write("c.toml", format!("[persistence.sqlite]\npath = {path:?}"));
        ended_with(
            &flights.run(&["--config", "c.toml"]),
            1,
            &["error: ", path, part],
        );
    }
}

#[tokio::test]
async fn other_entities_of_the_database_stay() {
    let store = TestStore::sqlite();
    let system = store
        .system()
        .entity(Entity::<Notebook>::new(()))
        .start()
        .await
        .expect("a usable store");
    let noted = system.entity::<Notebook>("diary").ask(Note(1)).await;
    assert_eq!(noted, Ok(1));
    system.shutdown().await.expect("idle");

    let flights = flights().with_rows(10);
    flights.write("store.toml", store.toml());
    let flights = flights.with(&["--config", "store.toml"]);
    let ended = flights.run(&[]);
    ended_with(
        &ended,
        1,
        &[
            "holds other entities than aircraft",
            "Notebook|diary",
            "--reset",
        ],
    );
    ended_with(&flights.run(&["--keep"]), 0, &[]);
    ended_with(&flights.run(&["--reset"]), 0, &[]);
    assert_eq!(flights.report()["accepted"], 10);
    assert_eq!(store.events_of(Notebook::TYPE, "diary").await.len(), 1);
}

/// The server takes protected connections only; its certificate and the password are where libpq
/// looks for them.
#[test]
fn a_protected_server_needs_no_secret_in_the_url() {
    let certificate = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])
        .expect("a certificate for a name");
    let server = PrivateServer::start();
    server.configure(
        &[
            ("server.crt", &certificate.cert.pem()),
            ("server.key", &certificate.signing_key.serialize_pem()),
            ("pg_hba.conf", "hostssl all all all scram-sha-256\n"),
        ],
        &["ssl = on"],
    );
    let (credentials, place) = server.url().rsplit_once('@').expect("a password");
    let (user, password) = credentials.rsplit_once(':').expect("a password");
    let place = place.replace("127.0.0.1", "localhost");
    let url = format!("{user}@{place}?sslmode=verify-full");

    let with_rows = |url: &str| flights().with_rows(10).on_postgres(url);
    let plain = with_rows(&format!("{credentials}@{place}?sslmode=disable"));
    ended_with(&plain.run(&[]), 1, &["no pg_hba.conf entry"]);

    let by_files = with_rows(&url);
    let ended = by_files.run(&[]);
    ended_with(&ended, 1, &["no trusted authority issued", "`sslrootcert`"]);
    std::fs::create_dir(by_files.path(".postgresql")).expect("a folder");
    by_files.write(".postgresql/root.crt", certificate.cert.pem());
    ended_with(&by_files.run(&[]), 1, &["asks for a password", ".pgpass"]);
    by_files.write(".pgpass", format!("localhost:*:*:perennial:{password}\n"));
    ended_with(&by_files.run(&[]), 1, &["chmod 600"]);
    let only_ours = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(by_files.path(".pgpass"), only_ours).expect("ours");
    ended_with(
        &by_files.run(&[]),
        0,
        &["Recording rows.csv in postgres://"],
    );
    ended_with(&by_files.run(&["--reset"]), 0, &[]);
    assert_eq!(by_files.report()["accepted"], 10);

    let root = by_files.path(".postgresql/root.crt");
    let by_variable = with_rows(&format!("{url}&sslrootcert={}", root.display()))
        .with_variable("PGPASSWORD", password);
    ended_with(&by_variable.run(&["--keep"]), 0, &[]);
    let wrong = with_rows(&format!("{url}&sslrootcert={}", root.display()))
        .with_variable("PGPASSWORD", "wrong-secret");
    let ended = wrong.run(&["--keep"]);
    ended_with(&ended, 1, &["the password in the variable PGPASSWORD"]);
    assert!(!ended.said.contains("wrong-secret"), "{}", ended.said);
}

#[test]
fn existing_aircraft_on_postgres_are_kept_or_deleted_as_told() {
    let store = TestStore::postgres();
    let url = store.url().expect("a server");
    let flights = flights().with_rows(200).on_postgres(url);
    ended_with(&flights.run(&[]), 0, &["Recording rows.csv in postgres://"]);
    let report = flights.report();
    let ended = flights.run(&[]);
    ended_with(
        &ended,
        1,
        &["aircraft already; use --keep", "--reset", "error: "],
    );
    assert!(
        !ended.said.contains(url),
        "the password is shown: {}",
        ended.said
    );
    ended_with(&flights.run(&["--keep"]), 0, &[]);
    assert_eq!(flights.report()["accepted"], 0);
    ended_with(&flights.run(&["--reset"]), 0, &[]);
    assert_eq!(flights.report(), report);
}

#[test]
fn a_wrong_configuration_is_named_before_a_file_is_touched() {
    let flights = flights().with_rows(10);
    ended_with(&flights.run(&[]), 0, &[]);
    let before = std::fs::read(flights.path("flights.sqlite")).expect("made by the run");
    for (toml, parts) in [
        (
            "[system]\nworkerz = 2",
            &["`system.workerz`", "c.toml, line 2", "`workers`"][..],
        ),
        (
            "[system]\nworkers = \"two\"",
            &["system.workers", "c.toml, line 2"],
        ),
        (
            "[entity.Aircraft]\npipline = 2",
            &["pipline", "c.toml, line 2", "`pipeline`"],
        ),
        (
            "[entity.Airplane]\npipeline = 2",
            &["\"Airplane\"", "c.toml, line 1"],
        ),
        (
            "[persistence]\nplugin = \"sqlit\"",
            &["sqlit", "c.toml, line 2", "sqlite"],
        ),
        (
            "[persistence]\nplugin = \"postgres\"",
            &["persistence.postgres.url", "DATABASE_URL"],
        ),
        (
            "[persistence.sqlite]\nreaders = 0",
            &["persistence.sqlite.readers", "c.toml, line 2"],
        ),
        ("[system", &["c.toml", "line 1"]),
    ] {
        flights.write("c.toml", toml);
        let ended = flights.run(&["--config", "c.toml"]);
        ended_with(&ended, 1, &["error: "]);
        ended_with(&ended, 1, parts);
        let after = std::fs::read(flights.path("flights.sqlite")).expect("still there");
        assert_eq!(before, after, "{toml}");
    }
    ended_with(
        &flights.run(&["--config", "none.toml"]),
        1,
        &["none.toml", "no such file"],
    );
}
