//! The bank over HTTP: every route, on both stores.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use bank::app::OPENAPI;
use bank::money::{AccountId, MOST_BALANCE, MOST_CENTS};
use perennial_it::{Example, until};
use perennial_testkit::postgres::PrivateServer;
use serde_json::{Value, json};

use crate::BANK;
use crate::bank_service::{Answer, Service};

fn amount(cents: u64) -> Value {
    json!({ "amount": cents })
}

fn order(from: &str, to: &str, cents: u64) -> Value {
    json!({ "from": from, "to": to, "amount": cents })
}

#[test]
fn every_route_does_what_it_says() {
    for bank in Service::on_each() {
        bank.start();
        assert_eq!(bank.get("/healthz").ok(200), json!({ "status": "ok" }));
        assert_eq!(bank.get("/readyz").ok(200), json!({ "status": "ready" }));
        assert_eq!(bank.get("/accounts/ann").problem(404), "not-open");
        assert_eq!(bank.get("/accounts/ann/events").problem(404), "not-open");
        let deposits = "/accounts/ann/deposits";
        assert_eq!(
            bank.post(deposits, None, &amount(1)).problem(404),
            "not-open"
        );
        let ann = |balance: u64, sequence_nr: u64| json!({ "id": "ann", "balance": balance, "sequence_nr": sequence_nr });
        assert_eq!(bank.put("/accounts/ann").ok(201), ann(0, 1));
        assert_eq!(bank.put("/accounts/ann").ok(200), ann(0, 1));
        assert_eq!(bank.post(deposits, None, &amount(100)).ok(200), ann(100, 2));
        let withdrawals = "/accounts/ann/withdrawals";
        assert_eq!(
            bank.post(withdrawals, None, &amount(30)).ok(200),
            ann(70, 3)
        );
        let refused = bank.post(withdrawals, None, &amount(71));
        assert_eq!(refused.problem(409), "insufficient-funds");
        let reason = "the balance is 70 cents, less than 71";
        assert_eq!(refused.json()["reason"], reason);
        assert_eq!(bank.get("/accounts/ann").ok(200), ann(70, 3));

        bank.put("/accounts/bob").ok(201);
        let accepted = bank.post("/transfers", Some("t-1"), &order("ann", "bob", 20));
        let id = accepted.ok(202)["id"].as_str().expect("an id").to_owned();
        assert_eq!(accepted.headers["location"], format!("/transfers/{id}"));
        assert_eq!(bank.end_of(&id), json!({ "state": "completed" }));
        assert_eq!(bank.get("/accounts/ann").ok(200), ann(50, 4));
        assert_eq!(bank.get("/accounts/bob").ok(200)["balance"], 20);

        let end = |order: &Value| {
            let accepted = bank.post("/transfers", None, order).ok(202);
            bank.end_of(accepted["id"].as_str().expect("an id"))
        };
        let refused = |reason: &str| json!({ "state": "refused", "reason": reason });
        let reason = "from: the balance is 50 cents, less than 51";
        assert_eq!(end(&order("ann", "bob", 51)), refused(reason));
        let reason = "from: the account is not open";
        assert_eq!(end(&order("eve", "bob", 1)), refused(reason));
        // What was taken is back when the end is shown.
        let reason = "to: the account is not open";
        assert_eq!(end(&order("ann", "eve", 10)), refused(reason));
        assert_eq!(bank.get("/accounts/ann").ok(200)["balance"], 50);
        assert_eq!(bank.get("/accounts/eve").problem(404), "not-open");
        let unknown = format!("/transfers/{:032x}", 7);
        for path in [unknown.as_str(), "/transfers/7", "/transfers/"] {
            assert_eq!(bank.get(path).problem(404), "no-transfer");
        }

        let all = bank.get("/accounts/ann/events");
        let events = all.ok(200);
        let kinds: Vec<_> = events.as_array().expect("a list").iter().collect();
        let kinds: Vec<_> = kinds.iter().map(|event| &event["type"]).collect();
        let expected = [
            "opened",
            "deposited",
            "withdrawn",
            "transfer-taken",
            "transfer-declined",
            "transfer-taken",
            "transfer-given-back",
        ];
        assert_eq!(kinds, expected);
        assert_eq!(events[3]["transfer"], id);
        assert_eq!(events[3]["to"], "bob");
        assert!(!all.headers.contains_key("link"));
        // The same in pages.
        let mut paged = Vec::new();
        let mut next = Some("/accounts/ann/events?limit=3".to_owned());
        while let Some(path) = next {
            let page = bank.get(&path);
            paged.extend(page.ok(200).as_array().expect("a list").clone());
            next = page.headers.get("link").map(|link| {
                let link = link.strip_suffix(">; rel=\"next\"").expect("a link");
                link.strip_prefix('<').expect("a link").to_owned()
            });
        }
        assert_eq!(Value::Array(paged), events);
        let none = bank.get("/accounts/ann/events?after=7");
        assert_eq!(none.ok(200), json!([]));
        let none = bank.get(&format!("/accounts/ann/events?after={}", u64::MAX));
        assert_eq!(none.ok(200), json!([]));

        until("the metrics are told", || {
            let metrics = bank.get("/metrics").body;
            metrics.contains("perennial_stored_events_total{") && metrics.contains("\"Transfer\"}")
        });
        let document = bank.get("/openapi.json");
        assert_eq!(document.body, OPENAPI);
        assert_eq!(bank.get("/nowhere").problem(404), "not-found");
        assert_eq!(bank.send("DELETE", "/accounts/ann", None, "").status, 405);
    }
}

#[test]
fn the_document_describes_routes_that_there_are() {
    let bank = Service::on_sqlite();
    bank.start();
    let document: Value = serde_json::from_str(OPENAPI).expect("JSON");
    let mut described = Vec::new();
    for (template, operations) in document["paths"].as_object().expect("paths") {
        for method in operations.as_object().expect("operations").keys() {
            let path = template.replace("{id}", "somebody");
            let answer = bank.send(&method.to_uppercase(), &path, None, "");
            let is_there = answer.status != 405
                && (answer.status != 404 || answer.problem(404) != "not-found");
            assert!(is_there, "{method} {template}: {answer:?}");
            described.push(format!("{method} {template}"));
        }
    }
    // Answers of all tests are compared with the document, so nothing else has to be listed.
    assert_eq!(described.len(), 11, "{described:?}");
}

#[test]
fn a_request_that_is_sent_again_gets_its_first_answer_also_after_a_restart() {
    for bank in Service::on_each() {
        bank.start();
        for account in ["ann", "bob"] {
            bank.put(&format!("/accounts/{account}")).ok(201);
        }
        let deposits = "/accounts/ann/deposits";
        let withdrawals = "/accounts/ann/withdrawals";
        let too_much = bank.post(withdrawals, Some("w-0"), &amount(1));
        assert_eq!(too_much.problem(409), "insufficient-funds");
        let send_all = || {
            [
                bank.post(deposits, Some("d-1"), &amount(100)),
                bank.post(withdrawals, Some("w-1"), &amount(40)),
                // Refused when it came first, although by now there would be enough.
                bank.post(withdrawals, Some("w-0"), &amount(1)),
                bank.post("/transfers", Some("t-1"), &order("ann", "bob", 10)),
                bank.post("/transfers", Some("t-2"), &order("ann", "bob", 10_000)),
            ]
        };
        let first = send_all();
        let statuses = first.each_ref().map(|answer| answer.status);
        assert_eq!(statuses, [200, 200, 409, 202, 202]);
        assert_eq!(first[2], too_much);
        let ended = || {
            [&first[3], &first[4]].map(|answer| {
                let id = answer.json()["id"].as_str().expect("an id").to_owned();
                bank.end_of(&id)["state"].clone()
            })
        };
        assert_eq!(ended(), ["completed", "refused"]);
        assert_eq!(send_all(), first);
        assert_eq!(bank.terminate().code, Some(0));
        bank.start();
        assert_eq!(send_all(), first);
        bank.kill();
        bank.start();
        assert_eq!(send_all(), first);
        assert_eq!(ended(), ["completed", "refused"]);
        assert_eq!(bank.get("/accounts/ann").ok(200)["balance"], 50);
        assert_eq!(bank.get("/accounts/bob").ok(200)["balance"], 10);

        // The keys with other requests.
        for answer in [
            bank.post(deposits, Some("d-1"), &amount(101)),
            bank.post(withdrawals, Some("d-1"), &amount(100)),
            bank.post(withdrawals, Some("w-0"), &amount(2)),
            bank.post("/transfers", Some("t-1"), &order("ann", "bob", 11)),
            bank.post("/transfers", Some("t-1"), &order("bob", "ann", 10)),
        ] {
            assert_eq!(answer.problem(422), "key-reused");
        }
        // Keys of accounts and of transfers are not the same ones.
        bank.post("/accounts/bob/deposits", Some("d-1"), &amount(1))
            .ok(200);
        bank.post("/transfers", Some("d-1"), &order("ann", "bob", 1))
            .ok(202);
        // Without a key each is another one.
        let ids = [(), ()].map(|()| {
            let accepted = bank.post("/transfers", None, &order("ann", "bob", 1));
            accepted.ok(202)["id"].clone()
        });
        assert_ne!(ids[0], ids[1]);
    }
}

#[test]
fn amounts_have_a_bound_and_balances_too() {
    for bank in Service::on_each() {
        bank.start();
        bank.put("/accounts/rich").ok(201);
        bank.put("/accounts/poor").ok(201);
        let deposits = "/accounts/rich/deposits";
        let above = bank.post(deposits, None, &amount(MOST_CENTS + 1));
        let detail = above.detail(400);
        assert!(detail.contains("from 1 to 1000000000000"), "{detail}");
        for number in 1..=MOST_BALANCE / MOST_CENTS {
            let deposited = bank.post(deposits, None, &amount(MOST_CENTS)).ok(200);
            assert_eq!(deposited["balance"], number * MOST_CENTS);
        }
        let refused = bank.post(deposits, None, &amount(1));
        assert_eq!(refused.problem(409), "balance-limit");
        bank.post("/accounts/poor/deposits", None, &amount(5))
            .ok(200);
        let accepted = bank.post("/transfers", None, &order("poor", "rich", 5));
        let end = bank.end_of(accepted.ok(202)["id"].as_str().expect("an id"));
        let reason = end["reason"].as_str().expect("a reason");
        let expected = "to: the balance is 1000000000000000 cents, and would be above";
        assert!(reason.starts_with(expected), "{reason}");
        assert_eq!(bank.get("/accounts/poor").ok(200)["balance"], 5);
        let withdrawals = "/accounts/rich/withdrawals";
        bank.post(withdrawals, None, &amount(1)).ok(200);
        bank.post(deposits, None, &amount(1)).ok(200);
    }
}

#[test]
fn what_is_no_request_is_refused_with_what_and_where() {
    for bank in Service::on_each() {
        bank.start();
        bank.put("/accounts/ann").ok(201);
        bank.put("/accounts/bob").ok(201);
        for path in ["/accounts/ann/deposits", "/accounts/ann/withdrawals"] {
            for (body, expected) in [
                ("", "the body is not a JSON object"),
                ("amount=1", "the body is not a JSON object"),
                ("[1]", "the body is not a JSON object"),
                ("{", "at line 1 column 1"),
                (
                    "{\"amount\": 1}}",
                    "trailing characters at line 1 column 14",
                ),
                ("{}", "missing field `amount`"),
                ("{\"amount\": 0}", "`0`, expected a whole number of cents"),
                ("{\"amount\": -1}", "`-1`, expected a whole number of cents"),
                (
                    "{\"amount\": 1.0}",
                    "`1.0`, expected a whole number of cents",
                ),
                ("{\"amount\": 1e3}", "expected a whole number of cents"),
                (
                    "{\"amount\": \"1\"}",
                    "string \"1\", expected a whole number",
                ),
                ("{\"amount\": null}", "null, expected a whole number"),
                ("{\"amount\": [1]}", "sequence, expected a whole number"),
                (
                    "{\"amount\": 99999999999999999999}",
                    "expected a whole number",
                ),
                ("{\"amount\": 1, \"note\": \"\"}", "unknown field `note`"),
                ("{\"amount\": 1, \"amount\": 2}", "duplicate field `amount`"),
                ("{\"amount\": NaN}", "at line 1 column 12"),
            ] {
                let detail = bank.send("POST", path, None, body).detail(400);
                assert!(detail.contains(expected), "{body}: {detail}");
            }
        }
        let long = "x".repeat(AccountId::MOST_CHARS + 1);
        let too_long = order("ann", &long, 1).to_string();
        for (body, expected) in [
            ("[\"ann\", \"bob\", 1]", "is not a JSON object"),
            (&*order("ann", "ann", 1).to_string(), "are the same account"),
            (
                &*order("ann", "bob", 0).to_string(),
                "whole number of cents",
            ),
            (&*order("a|b", "bob", 1).to_string(), "does not contain `|`"),
            (&*order("", "bob", 1).to_string(), "at least one character"),
            (&*order("ann", "b\0", 1).to_string(), "not contain U+0000"),
            (&*too_long, "at most 247 characters, and this one has 248"),
            (
                "{\"from\": 1, \"to\": \"bob\", \"amount\": 1}",
                "integer `1`",
            ),
            ("{\"to\": \"bob\", \"amount\": 1}", "missing field `from`"),
            (
                "{\"from\": \"\\ud800\", \"to\": \"b\", \"amount\": 1}",
                "line 1",
            ),
        ] {
            let detail = bank.send("POST", "/transfers", None, body).detail(400);
            assert!(detail.contains(expected), "{body}: {detail}");
        }
        let large = format!("{{\"amount\": 1{}}}", " ".repeat(20_000));
        let large = bank.send("POST", "/accounts/ann/deposits", None, &large);
        assert_eq!(large.problem(413), "invalid");
        let key = "k".repeat(256);
        let answer = bank.post("/transfers", Some(&key), &order("ann", "bob", 1));
        let detail = answer.detail(400);
        assert!(detail.starts_with("Idempotency-Key: "), "{detail}");
        let answer = bank.post("/transfers", Some(""), &order("ann", "bob", 1));
        assert_eq!(answer.problem(400), "invalid");
        for query in ["limit=0", "limit=1001", "after=-1", "after=x", "before=1"] {
            let path = format!("/accounts/ann/events?{query}");
            assert_eq!(bank.get(&path).problem(400), "invalid");
        }
        // Nothing of all that did anything.
        let ann = json!({ "id": "ann", "balance": 0, "sequence_nr": 1 });
        assert_eq!(bank.get("/accounts/ann").ok(200), ann);
    }
}

#[test]
fn ids_are_any_text_and_decoded_once() {
    for bank in Service::on_each() {
        bank.start();
        let longest = "%F0%9F%91%9B".repeat(AccountId::MOST_CHARS);
        let whole = "👛".repeat(AccountId::MOST_CHARS);
        for (path, id) in [
            ("a%2Fb", "a/b"),
            ("a%20b", "a b"),
            ("a+b", "a+b"),
            ("%2525", "%25"),
            ("%25", "%"),
            ("%C3%A4%E2%82%AC", "ä€"),
            ("%61", "a"),
            ("..%2F..", "../.."),
            ("%01", "\u{1}"),
            ("%20", " "),
            ("events", "events"),
            (&longest, &whole),
        ] {
            let opened = bank.put(&format!("/accounts/{path}")).ok(201);
            assert_eq!(opened["id"], id);
            bank.post(&format!("/accounts/{path}/deposits"), None, &amount(3))
                .ok(200);
            let events = bank.get(&format!("/accounts/{path}/events?limit=1"));
            assert_eq!(events.ok(200)[0]["type"], "opened");
            let link = &events.headers["link"];
            assert!(link.contains(path), "{link}");
        }
        assert_eq!(bank.get("/accounts/a").ok(200)["balance"], 3);
        let accepted = bank.post("/transfers", None, &order("a/b", &whole, 3));
        let end = bank.end_of(accepted.ok(202)["id"].as_str().expect("an id"));
        assert_eq!(end["state"], "completed");
        for (path, expected) in [
            ("", "at least one character"),
            ("a%7Cb", "does not contain `|`"),
            ("%00", "does not contain U+0000"),
            ("%FF", "this one is not UTF-8"),
            ("%ED%A0%80", "this one is not UTF-8"),
            (&format!("{longest}x"), "has at most 247 characters"),
        ] {
            for (method, rest) in [("PUT", ""), ("GET", ""), ("GET", "/events")] {
                let answer = bank.send(method, &format!("/accounts/{path}{rest}"), None, "");
                let detail = answer.detail(400);
                assert!(detail.contains(expected), "{path}: {detail}");
            }
        }
    }
}

#[test]
fn what_cannot_be_answered_says_whether_it_may_be_sent_again() {
    let bank = Service::on_sqlite()
        .with("PERENNIAL__SYSTEM__ASK_TIMEOUT", "1s")
        .with("PERENNIAL__PERSISTENCE__BREAKER_FAILURES", "1")
        .with("PERENNIAL__PERSISTENCE__BREAKER_SLOW_CALL", "100ms")
        .with("PERENNIAL__PERSISTENCE__BREAKER_RESET", "2s")
        .with("PERENNIAL__PERSISTENCE__SQLITE__BUSY_TIMEOUT", "1h");
    bank.start();
    bank.put("/accounts/ann").ok(201);
    bank.put("/accounts/bob").ok(201);
    bank.post("/accounts/ann/deposits", None, &amount(9))
        .ok(200);
    // Another process has the file to itself.
    let lock = rusqlite::Connection::open(bank.example.path("bank.sqlite")).expect("the file");
    lock.execute_batch("BEGIN EXCLUSIVE")
        .expect("nobody else has");
    let deposits = "/accounts/ann/deposits";
    let unknown = bank.post(deposits, Some("key-1"), &amount(1));
    assert_eq!(unknown.problem(504), "unknown");
    let hint = unknown.json()["hint"].as_str().expect("a hint").to_owned();
    assert!(hint.contains("same Idempotency-Key"), "{hint}");
    // By now the store counts as down, and what needs it is refused at once.
    let busy = bank.get("/accounts/not-in-memory");
    assert_eq!(busy.problem(503), "busy");
    let seconds: u64 = busy.headers["retry-after"].parse().expect("a number");
    assert!((1..=2).contains(&seconds), "{seconds}");
    let busy = bank.post("/transfers", Some("t-1"), &order("ann", "bob", 2));
    assert_eq!(busy.problem(503), "busy");
    assert_eq!(bank.get("/readyz").problem(503), "not-ready");
    bank.get("/healthz").ok(200);
    bank.get("/metrics");

    lock.execute_batch("ROLLBACK").expect("it was begun");
    until("it is ready", || bank.get("/readyz").status == 200);
    let answer = answered(&bank, deposits, "key-1", &amount(1));
    assert_eq!(answer.ok(200)["balance"], 10);
    let answer = answered(&bank, "/transfers", "t-1", &order("ann", "bob", 2));
    let end = bank.end_of(answer.ok(202)["id"].as_str().expect("an id"));
    assert_eq!(end["state"], "completed");
    assert_eq!(bank.get("/accounts/ann").ok(200)["balance"], 8);
}

/// Sends a request with its key until there is an answer.
fn answered(bank: &Service, path: &str, key: &str, body: &Value) -> Answer {
    let mut last = None;
    until("it is answered", || {
        let answer = bank.post(path, Some(key), body);
        let is_answered = !matches!(answer.status, 503 | 504);
        last = Some(answer);
        is_answered
    });
    last.expect("it was sent")
}

#[test]
fn it_is_ready_only_while_the_database_answers_and_goes_on_by_itself() {
    let server = PrivateServer::start_with(&["fsync = off"]);
    let bank = Service::on(server.new_database())
        .with("PERENNIAL__SYSTEM__ASK_TIMEOUT", "1s")
        .with("PERENNIAL__PERSISTENCE__BREAKER_RESET", "200ms");
    bank.start();
    bank.put("/accounts/ann").ok(201);
    bank.put("/accounts/bob").ok(201);
    bank.post("/accounts/ann/deposits", None, &amount(9))
        .ok(200);
    bank.get("/readyz").ok(200);
    server.stop();
    // Nobody has asked for anything since.
    assert_eq!(bank.get("/readyz").problem(503), "not-ready");
    let answer = bank.post("/accounts/ann/deposits", Some("key-1"), &amount(1));
    assert!(matches!(answer.status, 503 | 504), "{answer:?}");
    server.start_again();
    until("it is ready", || bank.get("/readyz").status == 200);
    let answer = answered(&bank, "/accounts/ann/deposits", "key-1", &amount(1));
    assert_eq!(answer.ok(200)["balance"], 10);
    let answer = answered(&bank, "/transfers", "t-1", &order("ann", "bob", 2));
    let end = bank.end_of(answer.ok(202)["id"].as_str().expect("an id"));
    assert_eq!(end["state"], "completed");
}

#[test]
fn sigterm_ends_it_in_time_whatever_clients_do() {
    for bank in Service::on_each() {
        bank.start();
        bank.put("/accounts/ann").ok(201);
        let base = bank.base();
        let (_, address) = base.split_once("//").expect("a URL");
        // One client has a connection and says nothing, another one never ends its request.
        let _idle = TcpStream::connect(address).expect("it listens");
        let mut slow = TcpStream::connect(address).expect("it listens");
        slow.write_all(b"POST /accounts/ann/deposits HTTP/1.1\r\nHost: x\r\nContent-Length: 13\r\nExpect: 100-continue\r\n\r\n")
            .expect("it is connected");
        let mut answer = [0; 25];
        slow.read_exact(&mut answer).expect("it waits for the body");
        let ended = bank.terminate();
        assert_eq!(ended.code, Some(0), "{}{}", ended.out, ended.said);
        let last = ended.out.lines().last().expect("it says how it went");
        assert!(
            last.starts_with("shutdown (SIGTERM): complete after "),
            "{last}"
        );
        assert!(ended.said.is_empty(), "{}", ended.said);
        let seconds = last.split("complete after ").nth(1).expect("a time");
        assert!(seconds < "9", "{seconds}");
    }
}

#[test]
fn a_load_is_counted_and_no_money_is_lost() {
    for bank in Service::on_each() {
        bank.start();
        let load = Example::new("bank", BANK);
        let url = bank.base();
        let ended = load.run(&[
            "load",
            "--url",
            &url,
            "--accounts",
            "10",
            "--clients",
            "4",
            "--seconds",
            "2",
            "--report",
            "report.json",
        ]);
        assert_eq!(ended.code, Some(0), "{}{}", ended.out, ended.said);
        let report = load.report();
        assert_eq!(report["conserved"], true, "{report}");
        for count in ["requests", "deposits", "withdrawals", "transfers_completed"] {
            assert!(report[count].as_u64() > Some(0), "{count}: {report}");
        }
        assert_eq!(
            (&report["errors"], &report["unknown"]),
            (&json!(0), &json!(0))
        );
        let paid = report["deposited"].as_u64().expect("cents")
            - report["withdrawn"].as_u64().expect("cents");
        assert_eq!(report["balances"], paid);
        for line in [
            "requests/s",
            "99 % within",
            "refused",
            "errors",
            "money is conserved",
        ] {
            assert!(ended.out.contains(line), "{}", ended.out);
        }
    }
}

#[test]
fn a_program_that_cannot_do_its_work_says_why() {
    let example = Example::new("bank", BANK);
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = other.local_addr().expect("it is bound").to_string();
    let ended = example.run(&["serve", "--listen", &taken]);
    assert_eq!(ended.code, Some(1));
    let expected = format!("error: cannot listen on {taken}: ");
    assert!(ended.said.contains(&expected), "{}", ended.said);
    drop(other);
    let url = format!("http://{taken}");
    let ended = example.run(&["load", "--url", &url, "--report", "report.json"]);
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.said.contains(&format!("{url}/readyz: ")),
        "{}",
        ended.said
    );
    assert!(!example.path("report.json").exists());

    let listen = ["serve", "--listen", "127.0.0.1:0", "--config"];
    example.write("bank.toml", "[entity.Acount]\nmailbox = 1\n");
    let ended = example.run(&[&listen[..], &["bank.toml"]].concat());
    assert_eq!(ended.code, Some(1));
    assert!(ended.said.contains("Acount"), "{}", ended.said);
    example.write("bank.toml", "[persistence]\nplugin = \"postgres\"\n");
    let ended = example.run(&[&listen[..], &["bank.toml"]].concat());
    assert_eq!(ended.code, Some(1));
    assert!(ended.said.contains("DATABASE_URL"), "{}", ended.said);
    let ended = example.run(&[&listen[..], &["nowhere.toml"]].concat());
    assert_eq!(ended.code, Some(1));
    assert!(ended.said.contains("nowhere.toml"), "{}", ended.said);
    assert!(!example.path("bank.sqlite").exists());
}

/// Runs the lines of the README that begin with `$ curl`, one after the other, and compares what they
/// print with what stands below them.
#[test]
fn what_the_readme_shows_is_what_happens() {
    let readme = include_str!("../../examples/bank/README.md");
    let bank = Service::on_sqlite();
    bank.start();
    let base = bank.base();
    let mut lines = readme.lines().peekable();
    let mut commands = 0;
    while let Some(line) = lines.next() {
        let Some(command) = line.strip_prefix("    $ ") else {
            continue;
        };
        let mut command = command.to_owned();
        while command.ends_with('\\') {
            command.push('\n');
            command.push_str(lines.next().expect("it goes on").trim_start());
        }
        let mut expected = Vec::new();
        while let Some(line) = lines.peek().and_then(|line| line.strip_prefix("    "))
            && !line.starts_with("$ ")
        {
            expected.push(line);
            lines.next();
        }
        let here = command.replace("http://localhost:8080", &base);
        assert_ne!(here, command, "it does not go to the bank");
        let run = || {
            let output = Command::new("sh").args(["-c", &here]).output();
            String::from_utf8(output.expect("there is a shell").stdout).expect("a text")
        };
        let mut found = run();
        // A transfer goes on by itself.
        let is_pending = |found: &str| found.contains("{\"state\":\"pending\"}");
        if is_pending(&found) {
            until("the transfer ends", || {
                found = run();
                !is_pending(&found)
            });
        }
        assert!(matches(&found, &expected), "{command}\n{found}");
        commands += 1;
    }
    assert!(commands >= 10, "{commands} commands");
}

/// Compares texts, in which `…` stands for anything.
fn matches(found: &str, expected: &[&str]) -> bool {
    let found: Vec<_> = found.lines().collect();
    if expected.is_empty() || expected == ["…"] {
        return !found.is_empty();
    }
    found.len() == expected.len()
        && found.iter().zip(expected).all(|(found, expected)| {
            let mut rest = *found;
            let mut parts = expected.split('…');
            let first = parts.next().unwrap_or_default();
            let Some(after) = rest.strip_prefix(first) else {
                return false;
            };
            rest = after;
            let mut is_open = false;
            for part in parts {
                is_open = true;
                match rest.find(part) {
                    Some(place) => rest = &rest[place + part.len()..],
                    None => return false,
                }
            }
            is_open || rest.is_empty()
        })
}
