//! The examples `web_axum` and `web_actix`, as processes that get requests and signals.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use perennial_it::{Ended, Running, until};
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;
use ureq::Agent;

const PROGRAMS: [&str; 2] = [
    env!("CARGO_BIN_EXE_it-web-axum"),
    env!("CARGO_BIN_EXE_it-web-actix"),
];

/// A service that runs in a folder of its own.
struct Web {
    folder: TempDir,
    program: &'static str,
    args: Vec<&'static str>,
    running: Option<Running>,
    base: String,
    agent: Agent,
}

/// What came of a request.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The title of a problem.
    #[track_caller]
    fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], status);
        problem["title"].as_str().expect("a title").to_owned()
    }
}

impl Web {
    fn start(program: &'static str, settings: &[(&str, &str)]) -> Self {
        Self::start_with(program, &[], settings)
    }

    fn start_with(program: &'static str, args: &[&'static str], settings: &[(&str, &str)]) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(30)))
            .build()
            .into();
        let mut web = Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
            program,
            args: args.to_vec(),
            running: None,
            base: String::new(),
            agent,
        };
        web.start_again(settings);
        web
    }

    fn start_again(&mut self, settings: &[(&str, &str)]) {
        let mut command = Command::new(self.program);
        command
            .current_dir(self.folder.path())
            .args(["--bind", "127.0.0.1:0"])
            .args(&self.args);
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("PERENNIAL__") {
                command.env_remove(variable);
            }
        }
        command
            .env("PERENNIAL__SYSTEM__METRICS_INTERVAL", "100ms")
            .env_remove("RUST_LOG")
            .envs(settings.iter().copied());
        let file = |name| self.folder.path().join(name);
        let mut running = Running::start(&mut command, &file("out"), &file("said"));
        running.wait_for_out("\n");
        let out = running.out();
        let (_, address) = out.split_once("listening on ").expect("it says where");
        self.base = address.lines().next().expect("an address").to_owned();
        self.running = Some(running);
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("it runs")
    }

    fn get(&self, path: &str) -> Answer {
        answer(self.agent.get(format!("{}{path}", self.base)).call())
    }

    fn put(&self, path: &str, body: &Value) -> Answer {
        let request = self.agent.put(format!("{}{path}", self.base));
        answer(request.send_json(body))
    }

    fn post(&self, path: &str, key: Option<&str>, body: &Value) -> Answer {
        let mut request = self.agent.post(format!("{}{path}", self.base));
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        answer(request.send_json(body))
    }

    fn reserve(&self, concert: &str, key: Option<&str>, seats: u32) -> Answer {
        let path = format!("/concerts/{concert}/reservations");
        self.post(&path, key, &json!({ "name": "Ann", "seats": seats }))
    }

    fn terminate(&mut self) -> Ended {
        let running = self.running.take().expect("it runs");
        running.terminate();
        running.end()
    }
}

fn answer(result: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Answer {
    let mut response = result.expect("an answer");
    let headers = response.headers().iter().map(|(name, value)| {
        let value = value.to_str().expect("a readable header");
        (name.as_str().to_owned(), value.to_owned())
    });
    Answer {
        status: response.status().as_u16(),
        headers: headers.collect(),
        body: response.body_mut().read_to_string().expect("a text"),
    }
}

#[test]
fn requests_are_answered_counted_and_there_after_sigterm() {
    for program in PROGRAMS {
        let mut web = Web::start(program, &[("PERENNIAL__SYSTEM__METRICS", "timings")]);
        assert_eq!(web.get("/concerts/a").problem(404), "not-on-sale");
        let on_sale = web.put("/concerts/a", &json!({ "seats": 5 }));
        assert_eq!(on_sale.status, 201, "{on_sale:?}");
        assert_eq!(
            on_sale.json(),
            json!({ "seats": 5, "left": 5, "reservations": 0 })
        );
        let twice = web.put("/concerts/a", &json!({ "seats": 5 }));
        assert_eq!(twice.problem(409), "on-sale-already");

        let ticket = json!({ "number": 1, "seats": 2, "left": 3 });
        let first = web.reserve("a", Some("key-1"), 2);
        assert_eq!((first.status, first.json()), (201, ticket.clone()));
        // Sent again, it gets the same answer and takes no more seats.
        let again = web.reserve("a", Some("key-1"), 2);
        assert_eq!((again.status, again.json()), (201, ticket));
        assert_eq!(
            web.reserve("a", Some("key-1"), 1).problem(422),
            "key-reused"
        );
        let too_long = "k".repeat(256);
        assert_eq!(web.reserve("a", Some(&too_long), 1).problem(400), "invalid");
        assert_eq!(web.reserve("a", None, 2).json()["left"], 1);
        assert_eq!(web.reserve("a", None, 2).problem(409), "too-few-left");
        assert_eq!(web.reserve("a", None, 11).problem(422), "invalid");
        assert_eq!(web.reserve("b", None, 1).problem(404), "not-on-sale");

        let unreadable = web.post("/concerts/a/reservations", None, &json!({ "seats": "x" }));
        assert!(matches!(unreadable.status, 400 | 422), "{unreadable:?}");
        let large = json!({ "name": "x".repeat(20_000), "seats": 1 });
        let large = web.post("/concerts/a/reservations", None, &large);
        assert_eq!(large.problem(413), "invalid");
        assert_eq!(web.get("/nowhere").problem(404), "not-found");

        // A count may be on its way still.
        let popular = json!([{ "concert": "a", "reservations": 3 }]);
        until("all is counted", || web.get("/popular").json() == popular);
        until("the metrics are told", || {
            let text = web.get("/metrics").body;
            text.contains("perennial_stored_events_total{") && text.contains("\"Concert\"} 3")
        });
        let metrics = web.get("/metrics");
        assert!(metrics.headers["content-type"].starts_with("text/plain"));
        for line in [
            "# TYPE perennial_actors gauge",
            "# HELP perennial_busy_total Commands and messages that were refused as `Busy`.",
            "perennial_actors{system=\"perennial\",worker=\"0\"}",
        ] {
            assert!(
                metrics.body.contains(line),
                "{line} is not in {}",
                metrics.body
            );
        }

        let ended = web.terminate();
        assert_eq!(
            ended.code,
            Some(0),
            "{program}: {}{}",
            ended.out,
            ended.said
        );
        let last = ended.out.lines().last().expect("it says how it went");
        let complete = "shutdown (SIGTERM): complete after ";
        assert!(last.starts_with(complete), "{program}: {last}");
        web.start_again(&[]);
        let offer = json!({ "seats": 5, "left": 1, "reservations": 2 });
        assert_eq!(web.get("/concerts/a").json(), offer);
        // What the plain actor counts is forgotten.
        assert_eq!(web.get("/popular").json(), json!([]));
    }
}

#[test]
fn what_cannot_be_answered_says_whether_it_may_be_sent_again() {
    for program in PROGRAMS {
        let settings = [
            ("PERENNIAL__SYSTEM__ASK_TIMEOUT", "1s"),
            ("PERENNIAL__ENTITY__CONCERT__PIPELINE", "1"),
            ("PERENNIAL__PERSISTENCE__BREAKER_FAILURES", "1"),
            ("PERENNIAL__PERSISTENCE__BREAKER_SLOW_CALL", "100ms"),
            ("PERENNIAL__PERSISTENCE__BREAKER_RESET", "2s"),
            ("PERENNIAL__PERSISTENCE__SQLITE__BUSY_TIMEOUT", "1h"),
        ];
        let web = Web::start(program, &settings);
        for concert in ["a", "b"] {
            let on_sale = web.put(&format!("/concerts/{concert}"), &json!({ "seats": 10 }));
            assert_eq!(on_sale.status, 201, "{on_sale:?}");
        }
        // Another process has the file to itself.
        let lock = Connection::open(web.folder.path().join("concerts.sqlite")).expect("the file");
        lock.execute_batch("BEGIN EXCLUSIVE")
            .expect("nobody else has");
        // One of the two is being stored, and the other waits for it.
        let answers = std::thread::scope(|scope| {
            let [first, second] =
                ["key-1", "key-2"].map(|key| scope.spawn(|| web.reserve("a", Some(key), 1)));
            [first, second].map(|answer| answer.join().expect("an answer"))
        });
        let mut titles = answers.each_ref().map(|answer| answer.problem(504));
        titles.sort();
        assert_eq!(titles, ["expired", "unknown"]);
        for answer in &answers {
            let hint = answer.json()["hint"].as_str().expect("a hint").to_owned();
            let with_key = hint.contains("same Idempotency-Key");
            assert_eq!(with_key, answer.json()["title"] == "unknown", "{hint}");
        }
        // By now the store counts as down, so an entity that needs it is refused at once.
        let refused = web.get("/concerts/not-in-memory");
        assert_eq!(refused.problem(503), "busy");
        let seconds: u64 = refused.headers["retry-after"].parse().expect("a number");
        assert!((1..=2).contains(&seconds), "{seconds}");

        lock.execute_batch("ROLLBACK").expect("it was begun");
        // Both are sent again with their keys, until they are answered.
        for key in ["key-1", "key-2"] {
            let mut answer = None;
            until("it is answered", || {
                let sent = web.reserve("a", Some(key), 1);
                let is_answered = sent.status == 201;
                answer = Some(sent);
                is_answered
            });
        }
        assert_eq!(web.get("/concerts/a").json()["left"], 8);
        assert_eq!(web.get("/concerts/a").json()["reservations"], 2);
    }
}

/// A request that the service waits to read the body of.
fn begin_request(address: &str, length: usize) -> TcpStream {
    const GO_ON: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
    let mut connection = TcpStream::connect(address).expect("it listens");
    let long = Some(Duration::from_secs(30));
    connection.set_read_timeout(long).expect("a time");
    let head = format!(
        "PUT /concerts/slow HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
    );
    connection
        .write_all(head.as_bytes())
        .expect("it is connected");
    let mut answer = [0; GO_ON.len()];
    connection.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer, GO_ON);
    connection
}

#[test]
fn a_request_under_way_is_answered_before_the_end_and_no_other_is_accepted() {
    for program in PROGRAMS {
        let mut web = Web::start(program, &[]);
        let body = json!({ "seats": 3 }).to_string();
        let (_, address) = web.base.split_once("//").expect("a URL");
        let address = address.to_owned();
        let mut slow = begin_request(&address, body.len());
        let (half, rest) = body.split_at(body.len() / 2);
        slow.write_all(half.as_bytes()).expect("it is connected");
        web.running().terminate();
        let start = Instant::now();
        until("it does not listen any more", || {
            TcpStream::connect(&address).is_err()
        });
        slow.write_all(rest.as_bytes()).expect("it is connected");
        let mut answer = String::new();
        slow.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 201"), "{program}: {answer}");
        let ended = web.running.take().expect("it runs").end();
        assert!(start.elapsed() < Duration::from_secs(30));
        assert_eq!(
            ended.code,
            Some(0),
            "{program}: {}{}",
            ended.out,
            ended.said
        );
        web.start_again(&[]);
        assert_eq!(web.get("/concerts/slow").json()["seats"], 3);
    }
}

#[test]
fn more_requests_than_so_many_at_a_time_are_refused_and_metrics_are_told() {
    for program in PROGRAMS {
        let web = Web::start_with(program, &["--requests", "2"], &[]);
        let (_, address) = web.base.split_once("//").expect("a URL");
        let first = begin_request(address, 9);
        // There is room for another one.
        assert_eq!(web.get("/popular").status, 200);
        let second = begin_request(address, 9);
        for path in ["/popular", "/concerts/a"] {
            let refused = web.get(path);
            assert_eq!(refused.problem(503), "busy");
            assert_eq!(refused.headers["retry-after"], "1");
        }
        assert_eq!(web.get("/metrics").status, 200);
        drop(first);
        until("there is room again", || web.get("/popular").status == 200);
        drop(second);
    }
}

#[test]
fn a_request_that_never_ends_is_cut_off_and_named() {
    for program in PROGRAMS {
        let settings = [(
            "PERENNIAL__SYSTEM__SHUTDOWN__SERVICE_REQUESTS_DONE",
            "300ms",
        )];
        let mut web = Web::start(program, &settings);
        let (_, address) = web.base.split_once("//").expect("a URL");
        let mut slow = begin_request(address, 9);
        slow.write_all(b"{").expect("it is connected");
        let ended = web.terminate();
        assert_eq!(
            ended.code,
            Some(1),
            "{program}: {}{}",
            ended.out,
            ended.said
        );
        let cut_off = "\n  service-requests-done: task \"http\" was cut off";
        assert!(ended.out.contains(cut_off), "{program}: {}", ended.out);
        assert!(ended.out.contains("(SIGTERM): incomplete"), "{}", ended.out);
    }
}

#[test]
fn a_program_that_cannot_start_says_why() {
    for program in PROGRAMS {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let taken = other.local_addr().expect("it is bound").to_string();
        let file = |name| folder.path().join(name);
        let mut command = Command::new(program);
        command.current_dir(folder.path()).args(["--bind", &taken]);
        let ended = Running::start(&mut command, &file("out"), &file("said")).end();
        assert_eq!(ended.code, Some(1));
        let expected = format!("error: cannot listen on {taken}: ");
        assert!(ended.said.contains(&expected), "{}", ended.said);
        let mut command = Command::new(program);
        command
            .current_dir(folder.path())
            .args(["--bind", "127.0.0.1:0"])
            .env("PERENNIAL__SYSTEM__METRICS", "loud");
        let ended = Running::start(&mut command, &file("out"), &file("said")).end();
        assert_eq!(ended.code, Some(1));
        assert!(ended.said.contains("`system.metrics`"), "{}", ended.said);
    }
}
