//! The bulk processor as people use and misuse it.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use flight_table::row::COLUMNS;
use perennial_it::{Bulk, Ended, until};
use serde_json::{Value, json};

use crate::BULK_PROCESSOR;

const GOOD: &str =
    "2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z";

fn bulk() -> Bulk {
    Bulk::on_sqlite(BULK_PROCESSOR).with(&["--report", "report.json"])
}

fn ended_with(ended: &Ended, code: i32, parts: &[&str]) {
    assert_eq!(ended.code, Some(code), "{}", ended.said);
    for part in parts {
        assert!(ended.said.contains(part), "no {part:?} in:\n{}", ended.said);
    }
}

/// Counts of a report; speeds are only seen to be there.
fn counts(bulk: &Bulk) -> Value {
    let mut report = bulk.report();
    let fields = report.as_object_mut().expect("an object");
    for speed in ["rows_per_s", "single_rows_per_s"] {
        let speed = fields.remove(speed).and_then(|speed| speed.as_f64());
        assert!(speed.is_some_and(|speed| speed > 0.0), "{speed:?}");
    }
    report
}

fn lines_of(bulk: &Bulk, table: &str) -> Vec<String> {
    let rows = bulk.rows(&format!("SELECT line FROM {table} ORDER BY line"));
    rows.into_iter()
        .map(|row| row[0].clone().expect("a number"))
        .collect()
}

#[test]
fn a_month_is_stored_in_the_working_directory_and_shown() {
    let bulk = bulk();
    let ended = bulk.run(&["--spoil", "7"]);
    ended_with(
        &ended,
        0,
        &["in bulk.sqlite.", "Every row is stored or set aside."],
    );
    let expected = json!({"items": 27_004, "stored": 26_997, "set_aside": 7,
                          "flushes": {"full": 54, "linger": 0, "asked": 1}});
    assert_eq!(counts(&bulk), expected);
    for part in [
        "27,004",
        "26,997",
        "one insert per row",
        "times as fast",
        "row 3858 is set aside: CHECK constraint failed: distance > 0",
    ] {
        assert!(ended.out.contains(part), "{part}: {}", ended.out);
    }
    for beside in ["bulk.sqlite-wal", "bulk.sqlite-shm"] {
        assert!(!bulk.path(beside).exists(), "{beside} is left");
    }
    let first = bulk.rows("SELECT * FROM bulk_item WHERE line = 1");
    let expected = ["1", "N14228", "EWR", "IAH", "1400"];
    assert_eq!(first, [expected.map(|text| Some(text.to_owned()))]);
    assert_eq!(bulk.number("SELECT max(line) FROM bulk_rejected"), 27_004);
    let nameless = "SELECT count(*) FROM bulk_item WHERE tailnum IS NULL";
    assert!((150..=155).contains(&bulk.number(nameless)));
    assert_eq!(
        bulk.number("SELECT count(*) FROM bulk_item WHERE tailnum = 'NA'"),
        0
    );
    let tables = bulk.rows("SELECT name FROM sqlite_schema WHERE name LIKE 'bulk%' ORDER BY name");
    let expected = ["bulk_item", "bulk_rejected"].map(|name| vec![Some(name.to_owned())]);
    assert_eq!(tables, expected, "the scratch table is gone");
}

#[test]
fn what_is_there_is_kept_or_made_anew_as_told() {
    for durable in [&[][..], &["--durable"]] {
        let bulk = bulk().with_rows(300).with(durable);
        ended_with(&bulk.run(&["--spoil", "4"]), 0, &[]);
        let there = counts(&bulk);
        assert_eq!(there["stored"], 296);
        // A line that is there stays what it was, whatever it says now.
        let ended = bulk.run(&["--keep"]);
        ended_with(&ended, 0, &["on what is there already"]);
        assert!(ended.out.contains("stored by this run"), "{}", ended.out);
        assert_eq!(counts(&bulk), there);
        ended_with(&bulk.run(&["--keep", "--spoil", "100"]), 0, &[]);
        assert_eq!(counts(&bulk), there);
        ended_with(&bulk.run(&[]), 0, &[]);
        assert_eq!(
            (bulk.stored(), counts(&bulk)["set_aside"].clone()),
            (300, json!(0))
        );
    }
}

#[test]
fn keeping_what_is_missing_empty_or_half_made_begins_with_nothing() {
    for durable in [&[][..], &["--durable"]] {
        let bulk = bulk().with_rows(100).with(&["--keep"]).with(durable);
        ended_with(&bulk.run(&[]), 0, &[]);
        let whole = counts(&bulk);
        assert_eq!(whole["stored"], 100);
        for half in [
            None,
            Some(""),
            Some("CREATE TABLE bulk_single (x); CREATE TABLE draft (x); DROP TABLE draft"),
            Some("CREATE TABLE bulk_rejected (line INTEGER PRIMARY KEY, reason TEXT NOT NULL)"),
        ] {
            for ending in ["", "-wal", "-shm"] {
                let _ = std::fs::remove_file(bulk.path(&format!("bulk.sqlite{ending}")));
            }
            if let Some(half) = half {
                bulk.write("bulk.sqlite", "");
                let file = rusqlite::Connection::open(bulk.path("bulk.sqlite"));
                file.expect("a usable file")
                    .execute_batch(half)
                    .expect("good SQL");
            }
            ended_with(&bulk.run(&[]), 0, &[]);
            assert_eq!(counts(&bulk), whole, "{half:?}");
        }
    }
}

#[test]
fn batches_are_full_or_their_time_is_over_or_somebody_asked() {
    for durable in [&[][..], &["--durable"]] {
        let bulk = bulk().with_rows(60).with(durable);
        ended_with(&bulk.run(&["--batch", "7"]), 0, &[]);
        let full = json!({"full": 8, "linger": 0, "asked": 1});
        assert_eq!(counts(&bulk)["flushes"], full);
        ended_with(&bulk.run(&["--batch", "1"]), 0, &[]);
        let full = json!({"full": 60, "linger": 0, "asked": 0});
        assert_eq!(counts(&bulk)["flushes"], full);
        // Sixty rows take more than half a second.
        let ended = bulk.run(&["--rate", "100", "--linger", "100"]);
        ended_with(&ended, 0, &[]);
        assert!(ended.out.contains("held back by --rate"), "{}", ended.out);
        let flushes = &counts(&bulk)["flushes"];
        assert_eq!(flushes["full"], 0);
        let linger = flushes["linger"].as_u64().expect("a count");
        assert!((2..=6).contains(&linger), "{flushes}");
        assert_eq!(bulk.stored(), 60);
    }
}

#[test]
fn a_table_of_garbage_rows_is_read_to_its_end() {
    for durable in [&[][..], &["--durable"]] {
        let bulk = bulk().with(durable);
        let mut table = b"\xef\xbb\xbf".to_vec();
        let long = GOOD.replace("IAH", &"x".repeat((1 << 20) + 1));
        for line in [
            format!("{}\r\n", COLUMNS.join(",")).as_bytes(),
            GOOD.as_bytes(),
            b"\r\n\r",
            b"\0\0\0\n",
            b"\xff\xfe\xfd\n",
            b"\"\n",
            long.as_bytes(),
            b"\n",
            GOOD.replace("N14228", "N1\0|2").as_bytes(),
            b"\n",
            GOOD.replace(",1400,", ",9223372036854775808,").as_bytes(),
            b"\n",
            GOOD.replace(",1400,", ",9223372036854775807,").as_bytes(),
            b"\n",
            GOOD.replace(",1400,", ",0,").as_bytes(),
            b"\n",
            GOOD.replace(",1400,", ",NA,").as_bytes(),
            b"\n",
            GOOD.replace("N14228", "NA").as_bytes(),
            b"\r",
            GOOD.replace(",517,", ",NA,").as_bytes(),
            b"\n",
            GOOD.as_bytes(),
        ] {
            table.extend(line);
        }
        table.extend(b"\n2013,1,2,517,515,NA,830,819,11,UA,1,,EWR,P\xc3X,NA,1,5,15,x");
        bulk.write("in.csv", table);
        let ended = bulk.run(&["--input", "in.csv", "--batch", "4", "--spoil", "1"]);
        ended_with(&ended, 0, &[]);
        assert_eq!(
            lines_of(&bulk, "bulk_rejected"),
            ["2", "3", "4", "5", "6", "8", "10", "11", "15"]
                .map(String::from)
                .to_vec(),
            "{}",
            ended.out
        );
        assert_eq!(lines_of(&bulk, "bulk_item").len(), 6);
        let report = counts(&bulk);
        assert_eq!(
            (&report["items"], &report["set_aside"]),
            (&json!(15), &json!(9))
        );
        for part in [
            "row 2 is set aside: malformed: 1 instead of 19 columns",
            "row 6 is set aside: malformed: longer than 1048576 bytes",
            "row 8 is set aside: malformed: `distance` is no whole number of 64 bits",
            "row 10 is set aside: CHECK constraint failed",
            "row 11 is set aside: malformed: `distance` is NA",
        ] {
            assert!(ended.out.contains(part), "{part}: {}", ended.out);
        }
        let odd = bulk.rows("SELECT tailnum FROM bulk_item WHERE line IN (7, 12) ORDER BY line");
        assert_eq!(odd, [vec![Some("N1\0|2".to_owned())], vec![None]]);
    }
}

#[test]
fn files_that_are_no_table_end_the_run_before_anything_is_touched() {
    let bulk = bulk();
    bulk.write("empty.csv", "");
    bulk.write("noise.csv", [0_u8, 255, 254, 10, 13, 0, 200]);
    bulk.write("short.csv.gz", [0x1f, 0x8b, 8]);
    bulk.write(
        "three.csv",
        format!("{}\n{GOOD}\n{GOOD}\n\n", COLUMNS.join(",")),
    );
    for (args, part) in [
        (&["--input", "empty.csv"][..], "the file is empty"),
        (
            &["--input", "noise.csv"],
            "noise.csv is not the flight table",
        ),
        (&["--input", "short.csv.gz"], "cannot read short.csv.gz"),
        (&["--input", "missing.csv"], "cannot open missing.csv"),
        (&["--input", "."], "cannot read ."),
        (
            &["--input", "three.csv", "--spoil", "3"],
            "only 2 rows of three.csv are good, so 3 cannot be spoiled",
        ),
    ] {
        ended_with(&bulk.run(args), 1, &["error: ", part]);
    }
    assert!(!bulk.path("bulk.sqlite").exists());
    ended_with(&bulk.run(&["--batch", "0"]), 2, &["--batch"]);
    ended_with(
        &bulk.run(&["--input", "report.json"]),
        1,
        &["--input and --report are both"],
    );
}

#[test]
fn what_a_cut_file_still_holds_is_stored_and_said() {
    let bulk = bulk().with_rows(2000);
    let mut whole = GzEncoder::new(Vec::new(), Compression::default());
    whole
        .write_all(bulk.read("rows.csv").as_bytes())
        .expect("memory");
    let whole = whole.finish().expect("memory");
    let cut = Bulk::on_sqlite(BULK_PROCESSOR).with(&["--report", "report.json"]);
    cut.write("cut.csv.gz", &whole[..whole.len() / 2]);
    cut.write("whole.csv.gz", &whole);
    for spoil in [&[][..], &["--spoil", "3"]] {
        let ended = cut.run(&[&["--input", "cut.csv.gz"], spoil].concat());
        let parts = [
            "cannot read cut.csv.gz any further after ",
            "Before it failed, ",
        ];
        ended_with(&ended, 1, &parts);
        let stored = cut.stored();
        assert!((500..1500).contains(&stored), "{stored}");
        assert!(!cut.path("report.json").exists());
    }
    // The rest follows with the whole file.
    ended_with(&cut.run(&["--input", "whole.csv.gz", "--keep"]), 0, &[]);
    assert_eq!(counts(&cut)["stored"], 1997);
}

#[test]
fn an_interrupted_run_writes_what_has_gathered_and_can_be_continued() {
    for durable in [&[][..], &["--durable"]] {
        let bulk = bulk().with_rows(400).with(durable);
        let mut run = bulk.start(&["--rate", "200", "--batch", "30", "--linger", "60000"]);
        assert!(run.wait_for("Storing "), "{}", run.said());
        until("something is stored", || bulk.stored() >= 60);
        run.interrupt();
        let ended = run.end();
        let parts = [
            "Stopping; press ctrl-c again",
            " rows were stored",
            "--keep",
        ];
        ended_with(&ended, 130, &parts);
        assert!(!bulk.path("report.json").exists());
        let stored = bulk.stored();
        assert!((60..400).contains(&stored), "{stored}");
        assert!(
            ended.said.contains(&format!("Stopped: {stored} rows")),
            "{}",
            ended.said
        );
        ended_with(&bulk.run(&["--keep"]), 0, &[]);
        assert_eq!(counts(&bulk)["stored"], 400);
    }
}

/// What was taken is stored by whatever run comes next, also if its input is gone.
#[test]
fn what_the_buffer_holds_needs_no_input_any_more() {
    let bulk = bulk().with(&["--durable"]);
    let slow = ["--rate", "200", "--batch", "5000", "--linger", "86400000"];
    let mut run = bulk.start(&slow);
    assert!(run.wait_for("Storing "), "{}", run.said());
    until("something has gathered", || {
        bulk.number("SELECT count(*) FROM event_journal") >= 50
    });
    run.kill();
    assert_eq!(bulk.stored(), 0);
    let taken = bulk.number("SELECT count(*) FROM event_journal");
    bulk.write("nothing.csv", COLUMNS.join(","));
    ended_with(&bulk.run(&["--keep", "--input", "nothing.csv"]), 0, &[]);
    assert_eq!(bulk.stored(), taken);
    let report = bulk.report();
    assert_eq!(
        (&report["items"], &report["rows_per_s"]),
        (&json!(0), &json!(0.0))
    );
}

#[test]
fn a_file_that_is_not_ours_is_not_made_anew() {
    let bulk = bulk().with_rows(10);
    bulk.write("bulk.sqlite", "Dear diary, this is no database.");
    for args in [
        &[][..],
        &["--keep"],
        &["--durable"],
        &["--durable", "--keep"],
    ] {
        ended_with(&bulk.run(args), 1, &["error: ", "bulk.sqlite"]);
        assert_eq!(bulk.read("bulk.sqlite"), "Dear diary, this is no database.");
    }
    std::fs::remove_file(bulk.path("bulk.sqlite")).expect("just written");
    let file = rusqlite::Connection::open(bulk.path("bulk.sqlite")).expect("a folder");
    file.execute_batch("CREATE TABLE diary (day TEXT); INSERT INTO diary VALUES ('monday')")
        .expect("good SQL");
    drop(file);
    ended_with(&bulk.run(&[]), 1, &["another table, \"diary\"", "--keep"]);
    ended_with(&bulk.run(&["--keep", "--durable"]), 0, &[]);
    assert_eq!(bulk.stored(), 10);
    assert_eq!(bulk.number("SELECT count(*) FROM diary"), 1);
}

#[test]
fn a_wrong_configuration_is_named_before_a_file_is_touched() {
    let bulk = bulk().with_rows(10);
    ended_with(&bulk.run(&[]), 0, &[]);
    let before = std::fs::read(bulk.path("bulk.sqlite")).expect("made by the run");
    for (toml, parts) in [
        (
            "[system]\nworkerz = 2",
            &["`system.workerz`", "c.toml, line 2", "`workers`"][..],
        ),
        (
            "[entity.BulkBuffer]\npipline = 2",
            &["pipline", "c.toml, line 2", "`pipeline`"],
        ),
        (
            "[entity.Aircraft]\npipeline = 2",
            &["\"Aircraft\"", "c.toml, line 1"],
        ),
        (
            "[persistence]\nplugin = \"postgres\"",
            &["persistence.postgres.url", "DATABASE_URL"],
        ),
        ("[system", &["c.toml", "line 1"]),
    ] {
        for durable in [&[][..], &["--durable"]] {
            bulk.write("c.toml", toml);
            let ended = bulk.run(&[&["--config", "c.toml"], durable].concat());
            ended_with(&ended, 1, &["error: "]);
            ended_with(&ended, 1, parts);
            let after = std::fs::read(bulk.path("bulk.sqlite")).expect("still there");
            assert_eq!(before, after, "{toml}");
        }
    }
    // Settings of the entity and of the other store mean nothing without them, and are no error.
    let toml = "[entity.BulkBuffer]\npipeline = 2\n[persistence.sqlite]\npath = \"other.sqlite\"";
    bulk.write("c.toml", toml);
    for durable in [&[][..], &["--durable"]] {
        ended_with(
            &bulk.run(&[&["--config", "c.toml"], durable].concat()),
            0,
            &["other.sqlite"],
        );
    }
    bulk.write(
        "c.toml",
        "[persistence.sqlite]\npath = \"nowhere/bulk.sqlite\"",
    );
    let ended = bulk.run(&["--config", "c.toml"]);
    ended_with(
        &ended,
        1,
        &["nowhere/bulk.sqlite", "its directory does not exist"],
    );
}

#[test]
fn a_run_that_waits_for_its_server_can_be_interrupted() {
    let bulk = Bulk::on_sqlite(BULK_PROCESSOR);
    let url = "url = \"postgres://nobody:secret@127.0.0.1:1/nothing\"";
    bulk.write(
        "c.toml",
        format!("[persistence]\nplugin = \"postgres\"\n[persistence.postgres]\n{url}"),
    );
    let mut run = bulk.start(&["--config", "c.toml"]);
    assert!(run.wait_for("trying again for up to"), "{}", run.said());
    run.interrupt();
    let ended = run.end();
    ended_with(
        &ended,
        130,
        &["postgres://nobody@127.0.0.1:1/nothing does not answer"],
    );
    assert!(!ended.said.contains("secret"), "{}", ended.said);
}

#[test]
fn on_postgres_the_same_rows_are_stored_and_set_aside() {
    let bulk = Bulk::on_postgres(BULK_PROCESSOR).with(&["--report", "report.json"]);
    // A tail number that only SQLite takes.
    let mut table = format!("{}\n", COLUMNS.join(","));
    for number in 1..=40 {
        let row = match number {
            5 => GOOD.replace("N14228", "N1\0"),
            6 => GOOD.replace("N14228", "NA"),
            9 => GOOD.replace(",1400,", ",-3,"),
            12 => "garbage".to_owned(),
            _ => GOOD.to_owned(),
        };
        table += &format!("{row}\n");
    }
    bulk.write("in.csv", table);
    let bulk = bulk.with(&["--input", "in.csv"]);
    for durable in [&[][..], &["--durable"]] {
        let args = [&["--batch", "16", "--spoil", "2"], durable].concat();
        let ended = bulk.run(&args);
        ended_with(&ended, 0, &["Storing in.csv in postgres://"]);
        let url = bulk.database().url();
        assert!(
            !ended.said.contains(url),
            "the password is shown: {}",
            ended.said
        );
        let expected = json!({"items": 40, "stored": 35, "set_aside": 5,
                              "flushes": {"full": 2, "linger": 0, "asked": 1}});
        assert_eq!(counts(&bulk), expected);
        assert_eq!(
            lines_of(&bulk, "bulk_rejected"),
            ["5", "9", "12", "21", "40"].map(String::from).to_vec(),
            "{}",
            ended.out
        );
        for part in [
            "row 5 is set aside: invalid byte sequence",
            "row 9 is set aside: new row for relation \"bulk_item\" violates check constraint",
            "row 12 is set aside: malformed",
        ] {
            assert!(ended.out.contains(part), "{part}: {}", ended.out);
        }
        let nameless = bulk.rows("SELECT line FROM bulk_item WHERE tailnum IS NULL");
        assert_eq!(nameless, [[Some("6".to_owned())]]);
        // Whatever the lines say by now.
        ended_with(
            &bulk.run(&["--keep", "--spoil", "20"]),
            0,
            &["on what is there"],
        );
        assert_eq!(counts(&bulk)["stored"], 35);
    }
}

#[test]
fn what_is_on_a_server_already_is_kept_or_forgotten_as_told() {
    let bulk = Bulk::on_postgres(BULK_PROCESSOR)
        .with(&["--report", "report.json"])
        .with_rows(50);
    // A buffer that was left behind is forgotten with the tables.
    let slow = [
        "--durable",
        "--rate",
        "200",
        "--batch",
        "5000",
        "--linger",
        "86400000",
    ];
    let mut run = bulk.start(&slow);
    assert!(run.wait_for("Storing "), "{}", run.said());
    until("something has gathered", || {
        let there = bulk.rows("SELECT to_regclass('event_journal') IS NOT NULL");
        there[0][0].as_deref() == Some("t")
            && bulk.number("SELECT count(*) FROM event_journal") >= 20
    });
    run.kill();
    ended_with(&bulk.run(&["--spoil", "1"]), 0, &[]);
    assert_eq!(bulk.number("SELECT count(*) FROM event_journal"), 0);
    assert_eq!(counts(&bulk)["stored"], 49);
    // A table of somebody else stays, and so does everything beside it.
    bulk.database()
        .execute("ALTER TABLE bulk_rejected RENAME TO mine; CREATE TABLE bulk_rejected (day text)");
    for args in [&[][..], &["--keep"]] {
        let ended = bulk.run(args);
        ended_with(
            &ended,
            1,
            &[
                "bulk_rejected of another kind",
                "day instead of line, reason",
            ],
        );
    }
    assert_eq!(bulk.stored(), 49);
    bulk.database().execute("DROP TABLE bulk_rejected, mine");
    ended_with(&bulk.run(&[]), 0, &[]);
    assert_eq!(bulk.stored(), 50);
}
