//! A client of the bank that does not give up easily.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use ureq::http::Response;
use ureq::{Agent, Body};

use super::report::Counts;

/// How long a request is sent again before it is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long until it is sent again, unless the bank says.
const PAUSE: Duration = Duration::from_millis(200);

/// How often a transfer is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A client.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    url: String,
    counts: Counts,
}

/// A request that was not answered, however often it was sent.
#[derive(Debug, thiserror::Error)]
#[error("{method} {path} has no answer within {PATIENCE:?}: {reason}")]
pub(super) struct Unanswered {
    method: &'static str,
    path: String,
    reason: String,
}

impl Client {
    pub(super) fn new(url: &str) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(15)))
            .build()
            .into();
        Self {
            agent,
            url: url.to_owned(),
            counts: Counts::default(),
        }
    }

    pub(super) fn counts(self) -> Counts {
        self.counts
    }

    /// Whether the bank is there; asked once.
    pub(super) fn must_be_ready(&self) -> Result<(), String> {
        let path = "/readyz";
        match self.try_once("GET", path, None, "") {
            Ok(answer) if answer.status == 200 => Ok(()),
            Ok(answer) => Err(format!(
                "{}{path} answers {}: {}",
                self.url, answer.status, answer.body
            )),
            Err(error) => Err(format!("{}{path}: {error}", self.url)),
        }
    }

    pub(super) fn open(&mut self, account: &str) -> Result<(), Unanswered> {
        let answer = self.send("PUT", &format!("/accounts/{account}"), None, "")?;
        self.must(&answer, &[200, 201]);
        Ok(())
    }

    pub(super) fn balance(&mut self, account: &str) -> Result<u64, Unanswered> {
        let path = format!("/accounts/{account}");
        let answer = self.send("GET", &path, None, "")?;
        answer.body["balance"].as_u64().ok_or(Unanswered {
            method: "GET",
            path,
            reason: format!("status {}: {}", answer.status, answer.body),
        })
    }

    pub(super) fn deposit(
        &mut self,
        account: &str,
        amount: u64,
        key: &str,
    ) -> Result<(), Unanswered> {
        let path = format!("/accounts/{account}/deposits");
        if self.pay(&path, amount, key)? {
            self.counts.deposits += 1;
            self.counts.deposited += amount;
        }
        Ok(())
    }

    pub(super) fn withdraw(
        &mut self,
        account: &str,
        amount: u64,
        key: &str,
    ) -> Result<(), Unanswered> {
        let path = format!("/accounts/{account}/withdrawals");
        if self.pay(&path, amount, key)? {
            self.counts.withdrawals += 1;
            self.counts.withdrawn += amount;
        }
        Ok(())
    }

    fn pay(&mut self, path: &str, amount: u64, key: &str) -> Result<bool, Unanswered> {
        let body = json!({ "amount": amount });
        let answer = self.send("POST", path, Some(&body), key)?;
        self.must(&answer, &[200, 409]);
        self.counts.refusals += u64::from(answer.status == 409);
        Ok(answer.status == 200)
    }

    /// Gives the id, if the transfer was accepted.
    pub(super) fn transfer(
        &mut self,
        from: &str,
        to: &str,
        amount: u64,
        key: &str,
    ) -> Result<Option<String>, Unanswered> {
        let body = json!({ "from": from, "to": to, "amount": amount });
        let answer = self.send("POST", "/transfers", Some(&body), key)?;
        self.must(&answer, &[202]);
        Ok(answer.body["id"].as_str().map(str::to_owned))
    }

    /// Waits until a transfer has ended.
    pub(super) fn wait_for(&mut self, id: &str) -> Result<(), Unanswered> {
        let path = format!("/transfers/{id}");
        let start = Instant::now();
        loop {
            let answer = self.send("GET", &path, None, "")?;
            match answer.body["state"].as_str() {
                Some("completed") => self.counts.completed += 1,
                Some("refused") => self.counts.refused += 1,
                Some("pending") if start.elapsed() < PATIENCE => {
                    thread::sleep(LOOK_EVERY);
                    continue;
                }
                Some("pending") => return Err(self.give_up("GET", &path, "it is pending")),
                _ => self.must(&answer, &[]),
            }
            return Ok(());
        }
    }

    /// Counts an answer with another status as an error.
    fn must(&mut self, answer: &Answer, expected: &[u16]) {
        if !expected.contains(&answer.status) {
            self.counts.errors += 1;
            let body = || format!("status {}: {}", answer.status, answer.body);
            self.counts.first_error.get_or_insert_with(body);
        }
    }

    /// Sends a request until there is an answer. One whose outcome is unknown is sent again with the
    /// same key.
    fn send(
        &mut self,
        method: &'static str,
        path: &str,
        body: Option<&Value>,
        key: &str,
    ) -> Result<Answer, Unanswered> {
        let start = Instant::now();
        loop {
            let sent = Instant::now();
            let result = self.try_once(method, path, body, key);
            self.counts.requests += 1;
            let (reason, pause) = match result {
                Ok(answer) => {
                    self.counts.time(sent.elapsed());
                    if !matches!(answer.status, 503 | 504) {
                        return Ok(answer);
                    }
                    (answer.body.to_string(), answer.retry_after)
                }
                Err(error) => (error.to_string(), None),
            };
            self.counts.sent_again += 1;
            if start.elapsed() > PATIENCE {
                return Err(self.give_up(method, path, &reason));
            }
            thread::sleep(pause.unwrap_or(PAUSE));
        }
    }

    fn give_up(&mut self, method: &'static str, path: &str, reason: &str) -> Unanswered {
        let unanswered = Unanswered {
            method,
            path: path.to_owned(),
            reason: reason.to_owned(),
        };
        self.counts.unknown += 1;
        let text = || unanswered.to_string();
        self.counts.first_error.get_or_insert_with(text);
        unanswered
    }

    fn try_once(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        key: &str,
    ) -> Result<Answer, ureq::Error> {
        let url = format!("{}{path}", self.url);
        let response = match (method, body) {
            ("GET", _) => self.agent.get(url).call(),
            ("PUT", _) => self.agent.put(url).send_empty(),
            (_, body) => self
                .agent
                .post(url)
                .header("Idempotency-Key", key)
                .send_json(body),
        };
        Answer::read(response?)
    }
}

/// An answer of the bank.
#[derive(Debug)]
struct Answer {
    status: u16,
    retry_after: Option<Duration>,
    body: Value,
}

impl Answer {
    fn read(mut response: Response<Body>) -> Result<Self, ureq::Error> {
        let seconds = response.headers().get("retry-after");
        let seconds = seconds.and_then(|seconds| seconds.to_str().ok()?.parse().ok());
        Ok(Self {
            status: response.status().as_u16(),
            retry_after: seconds.map(Duration::from_secs),
            body: response.body_mut().read_json()?,
        })
    }
}
