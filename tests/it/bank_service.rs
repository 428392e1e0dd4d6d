//! The bank as a process, requests to it, and what stands in its journal.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use bank::app::OPENAPI;
use perennial_it::{Ended, Example, Running, until};
use perennial_testkit::postgres::TestPostgres;
use serde_json::Value;
use ureq::Agent;
use ureq::http::Request;

use crate::BANK;

/// A bank that may be ended and started again.
pub(crate) struct Service {
    pub(crate) example: Example,
    /// Otherwise it is the file in the folder.
    database: Option<TestPostgres>,
    running: Mutex<Option<Running>>,
    base: Mutex<String>,
    agent: Agent,
    document: Value,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The answer, if it has this status.
    #[track_caller]
    pub(crate) fn ok(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        self.json()
    }

    /// The title of a problem.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], status);
        problem["title"].as_str().expect("a title").to_owned()
    }

    /// What a problem says to people.
    #[track_caller]
    pub(crate) fn detail(&self, status: u16) -> String {
        self.problem(status);
        self.json()["detail"].as_str().expect("a text").to_owned()
    }
}

impl Service {
    /// On a file of its own.
    pub(crate) fn on_sqlite() -> Self {
        Self::new(serving(), None)
    }

    /// On a new database of the tests' server.
    pub(crate) fn on_postgres() -> Self {
        Self::on(TestPostgres::new())
    }

    /// On this database.
    pub(crate) fn on(database: TestPostgres) -> Self {
        let example = serving().on_postgres(database.url());
        Self::new(example, Some(database))
    }

    /// One on each of them.
    pub(crate) fn on_each() -> [Self; 2] {
        [Self::on_sqlite(), Self::on_postgres()]
    }

    fn new(example: Example, database: Option<TestPostgres>) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(30)))
            .build()
            .into();
        Self {
            example,
            database,
            running: Mutex::new(None),
            base: Mutex::new(String::new()),
            agent,
            document: serde_json::from_str(OPENAPI).expect("JSON"),
        }
    }

    /// With this setting.
    pub(crate) fn with(mut self, variable: &str, value: &str) -> Self {
        self.example = self.example.with_variable(variable, value);
        self
    }

    /// Starts it, and waits until it listens.
    pub(crate) fn start(&self) -> &Self {
        let mut running = self.example.start(&[]);
        running.wait_for_out("\n");
        let out = running.out();
        let (_, base) = out.split_once("listening on ").expect("it says where");
        base.lines()
            .next()
            .expect("an address")
            .clone_into(&mut self.base.lock().expect("no panic"));
        *self.running.lock().expect("no panic") = Some(running);
        self
    }

    fn running(&self) -> Running {
        let mut running = self.running.lock().expect("no panic");
        running.take().expect("it runs")
    }

    /// Ends it without warning.
    pub(crate) fn kill(&self) {
        self.running().kill();
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) -> Ended {
        let running = self.running();
        running.terminate();
        running.end()
    }

    /// Where it listens.
    pub(crate) fn base(&self) -> String {
        self.base.lock().expect("no panic").clone()
    }

    /// Sends a request, whose answer must be one that the document describes.
    #[track_caller]
    pub(crate) fn send(&self, method: &str, path: &str, key: Option<&str>, body: &str) -> Answer {
        let answer = self.try_send(method, path, key, body);
        let answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        self.check(method, path, &answer);
        answer
    }

    /// As [`Service::send`], for those that may fail.
    pub(crate) fn try_send(
        &self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: &str,
    ) -> Result<Answer, ureq::Error> {
        let url = format!("{}{path}", self.base());
        let mut request = Request::builder().method(method).uri(url);
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        let mut response = self.agent.run(request.body(body.to_owned())?)?;
        let headers = response.headers().iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            (name.as_str().to_owned(), value.into_owned())
        });
        Ok(Answer {
            status: response.status().as_u16(),
            headers: headers.filter(|(name, _)| name != "date").collect(),
            body: response.body_mut().read_to_string()?,
        })
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send("GET", path, None, "")
    }

    #[track_caller]
    pub(crate) fn put(&self, path: &str) -> Answer {
        self.send("PUT", path, None, "")
    }

    #[track_caller]
    pub(crate) fn post(&self, path: &str, key: Option<&str>, body: &Value) -> Answer {
        self.send("POST", path, key, &body.to_string())
    }

    /// Waits until a transfer has ended.
    pub(crate) fn end_of(&self, id: &str) -> Value {
        let mut end = Value::Null;
        until("the transfer ends", || {
            end = self.get(&format!("/transfers/{id}")).ok(200);
            end["state"] != "pending"
        });
        end
    }

    /// The rows of a query that both databases understand.
    pub(crate) fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        if let Some(database) = &self.database {
            let rows = database.query(sql).into_iter();
            let texts = rows.map(|row| row.into_iter().map(|cell| cell.expect("no NULL")));
            return texts.map(Iterator::collect).collect();
        }
        let connection =
            rusqlite::Connection::open(self.example.path("bank.sqlite")).expect("the file");
        let mut statement = connection.prepare(sql).expect("good SQL");
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| {
            let cells = 0..columns;
            cells.map(|column| row.get::<_, String>(column)).collect()
        });
        let rows = rows.expect("readable").collect::<Result<_, _>>();
        rows.expect("texts")
    }

    /// Bytes as hexadecimal digits, in this database's SQL.
    pub(crate) fn hex(&self, column: &str) -> String {
        match &self.database {
            Some(_) => format!("encode({column}, 'hex')"),
            None => format!("hex({column})"),
        }
    }

    /// Checks an answer against the document.
    #[track_caller]
    fn check(&self, method: &str, path: &str, answer: &Answer) {
        let path = path.split_once('?').map_or(path, |(path, _)| path);
        let paths = self.document["paths"].as_object().expect("paths");
        let fits = |template: &str| {
            let (template, path) = (template.split('/'), path.split('/'));
            template.clone().count() == path.clone().count()
                && template
                    .zip(path)
                    .all(|(part, found)| part.starts_with('{') || part == found)
        };
        let Some((_, operations)) = paths.iter().find(|(template, _)| fits(template)) else {
            assert_eq!(answer.status, 404, "{path} is not described: {answer:?}");
            return;
        };
        let operation = &operations[method.to_lowercase()];
        if operation.is_null() {
            assert_eq!(answer.status, 405, "{method} {path}: {answer:?}");
            return;
        }
        let response = &operation["responses"][answer.status.to_string()];
        assert!(
            !response.is_null(),
            "{method} {path}: not described: {answer:?}"
        );
        let content = self.resolve(response)["content"].as_object();
        let media_type = answer.headers["content-type"].split(';').next();
        let media_type = media_type.expect("never empty");
        let content = content.and_then(|content| content.get(media_type));
        let content = content.unwrap_or_else(|| panic!("{method} {path}: {answer:?}"));
        if media_type.ends_with("json") {
            let found = answer.json();
            if let Err(reason) = self.fits(&content["schema"], &found) {
                panic!("{method} {path}: {reason}: {found}");
            }
        }
    }

    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(place) => {
                let place = place.strip_prefix('#').expect("it is in the document");
                self.document.pointer(place).expect("it is there")
            }
            None => value,
        }
    }

    /// Whether a value has a schema: the keywords that the document uses.
    fn fits(&self, schema: &Value, found: &Value) -> Result<(), String> {
        let schema = self.resolve(schema);
        let is_right = match schema["type"].as_str() {
            Some("object") => found.is_object(),
            Some("array") => found.is_array(),
            Some("integer") => found.is_u64(),
            Some("string") => found.is_string(),
            other => return Err(format!("the document says {other:?}")),
        };
        if !is_right {
            return Err(format!("{found} is no {}", schema["type"]));
        }
        if let Some(values) = schema["enum"].as_array()
            && !values.contains(found)
        {
            return Err(format!("{found} is not one of {values:?}"));
        }
        if let (Some(least), Some(found)) = (schema["minimum"].as_u64(), found.as_u64())
            && found < least
        {
            return Err(format!("{found} is below {least}"));
        }
        for required in schema["required"].as_array().into_iter().flatten() {
            let name = required.as_str().expect("a name");
            if found.get(name).is_none() {
                return Err(format!("{name} is missing"));
            }
        }
        for item in found.as_array().into_iter().flatten() {
            self.fits(&schema["items"], item)?;
        }
        let properties = schema["properties"].as_object();
        for (name, value) in found.as_object().into_iter().flatten() {
            match properties.and_then(|properties| properties.get(name)) {
                Some(schema) => self.fits(schema, value)?,
                None if schema["additionalProperties"] == false => {
                    return Err(format!("{name} is not described"));
                }
                None => {}
            }
        }
        Ok(())
    }
}

fn serving() -> Example {
    Example::new("bank", BANK).with(&["serve", "--listen", "127.0.0.1:0"])
}
