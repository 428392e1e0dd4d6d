//! The referee, with perennial on both sides: that it finds no difference is little news, but it
//! shows that the program keeps to its lines. `just interop` puts the JVM on one side.

use std::process::Command;
use std::time::Duration;

use interop::Database;
use interop::peer::Peer;
use interop::turns::Referee;
use perennial_testkit::postgres::TestPostgres;
use serde_json::json;

use crate::golden::DDL;

fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_interop"));
    // What is provoked here is no news.
    program.env("INTEROP_LOG", "off");
    program
}

#[test]
fn two_programs_take_turns_on_every_kind() {
    let database = TestPostgres::new();
    database.execute(DDL);
    let place = Database::from_url(database.url()).expect("a URL of the test kit");
    let start = |name| Peer::start(name, program(), &place).expect("a program");
    let mut referee = Referee::new(start("left"), start("right"));
    referee.play().unwrap_or_else(|error| panic!("{error}"));
    let counts = referee.counts();
    assert!(counts.entities > 30 && counts.refused > 60, "{counts:?}");
    referee.end().expect("both end with their input");
}

#[test]
fn a_difference_is_found_and_named() {
    let databases = [TestPostgres::new(), TestPostgres::new()];
    let [left, right] = ["left", "right"].map(|name| {
        let database = &databases[usize::from(name == "right")];
        database.execute(DDL);
        let place = Database::from_url(database.url()).expect("a URL of the test kit");
        Peer::start(name, program(), &place).expect("a program")
    });
    let mut referee = Referee::new(left, right).patience(Duration::from_millis(1));
    let error = referee.play().expect_err("each sees its own database");
    assert!(
        error.contains("left and right differ about Account|turns-0"),
        "{error}"
    );
    assert!(error.contains(".highest_seq_nr: 1 | 0"), "{error}");
    referee.end().expect("both end with their input");
}

#[test]
fn what_cannot_be_done_is_said_in_a_line() {
    let database = TestPostgres::new();
    database.execute(DDL);
    let place = Database::from_url(database.url()).expect("a URL of the test kit");
    let mut program = Peer::start("interop", program(), &place).expect("a program");
    for (command, part) in [
        (
            json!({"kind": "Nothing", "id": "Nothing|a", "get": true}),
            "no kind Nothing",
        ),
        (json!({"kind": "Note", "id": " ", "get": true}), "U+0020"),
        (json!({"kind": "Note", "id": "Note|a"}), "no command"),
        (
            json!({"kind": "Note", "id": "Note|a", "put": "x"}),
            "keeps events",
        ),
        (
            json!({"kind": "Motto", "id": "Motto|a", "persist": ["x"]}),
            "keeps no events",
        ),
        (
            json!({"kind": "Note", "id": "Note|a", "persist": [7]}),
            "Note|a",
        ),
        (
            json!({"kind": "Tally", "id": "Tally|a", "persist": [{"class": "Gone"}]}),
            "no class Gone",
        ),
        (
            json!({"kind": "Account", "id": "Account|a", "persist": [{"type": "gone"}]}),
            "gone",
        ),
        (
            json!({"kind": "Votes", "id": "Votes|a|DC-A", "persist": ["x"]}),
            "replicated",
        ),
        (
            json!({"kind": "Votes", "id": "Votes|a|DC-A", "deleteEvents": 1}),
            "replicated",
        ),
    ] {
        let answer = program.ask(&command).expect("an answer");
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(
            error.contains(part) || part == "Note|a" && !error.is_empty(),
            "{command}: {answer}"
        );
        assert_eq!(answer["kind"], command["kind"]);
        assert_eq!(answer["persistence_id"], command["id"]);
        assert_eq!(
            answer.as_object().map(serde_json::Map::len),
            Some(3),
            "{answer}"
        );
    }
    // An id belongs to one kind at a time.
    let note = json!({"kind": "Note", "id": "Note|b", "persist": ["x"]});
    assert_eq!(program.ask(&note).expect("an answer")["highest_seq_nr"], 1);
    program.end().expect("an orderly end");
    let rows = database.query("SELECT persistence_id FROM event_journal");
    assert_eq!(rows, [[Some("Note|b".to_owned())]]);
}
