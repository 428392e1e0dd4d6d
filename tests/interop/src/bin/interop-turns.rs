//! Lets perennial and the JVM take turns on one throw-away database, for `just interop`.
//!
//! Needs what `scripts/interop` prepares: the JVM's program, built, and a PostgreSQL server.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use clap::Parser;
use interop::peer::Peer;
use interop::turns::{Referee, account_events_of_schema_1, events_of};
use interop::{Database, Engine, Question, cells};
use perennial_core::config::ConfigSource;
use perennial_persistence::PersistenceId;
use perennial_testkit::postgres::TestPostgres;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::task::JoinSet;

const DDL: &str = include_str!("../../../../test-data/pekko-1.2/ddl.sql");

/// Which side of the referee is the JVM.
const JVM: usize = 0;

/// How many entities are written at once.
const BURST: usize = 5_000;

/// perennial and the JVM on one database.
#[derive(Parser)]
struct Arguments {
    /// The JVM's program, `tests/interop/jvm/run.sh`.
    #[arg(long)]
    jvm: PathBuf,
    /// perennial's program; by default the one beside this.
    #[arg(long)]
    ours: Option<PathBuf>,
    /// The JVM's line of versions: 2.7 or 2.8.
    #[arg(long, default_value = "2.7")]
    akka: String,
    /// A file for what the JVM says on standard error.
    #[arg(long)]
    jvm_log: Option<PathBuf>,
    /// Only what comes with this name: recover, rows, turns, versions, burst.
    #[arg(long)]
    only: Option<String>,
}

type Outcome = Result<(), String>;

/// A part of the whole, by its name.
type Part = (&'static str, fn(&Arguments) -> Outcome);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let parts: [Part; 5] = [
        ("recover", recover),
        ("rows", rows),
        ("turns", turns),
        ("versions", versions),
        ("burst", burst),
    ];
    for (name, part) in parts {
        if arguments.only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        let started = Instant::now();
        if let Err(error) = part(&arguments) {
            eprintln!("interop {name}: {error}");
            if let Some(log) = &arguments.jvm_log {
                eprintln!("what the JVM said is in {}", log.display());
            }
            return ExitCode::FAILURE;
        }
        println!("  {name} took {:.0?}", started.elapsed());
    }
    ExitCode::SUCCESS
}

impl Arguments {
    fn jvm(&self, overlay: &str) -> Command {
        let mut command = Command::new(&self.jvm);
        command.env("INTEROP_AKKA", &self.akka);
        command.env("INTEROP_OVERLAY", overlay);
        // What is provoked here is no news.
        command.env("INTEROP_LOG", "ERROR");
        // Nor is what a JVM says of its libraries; without a folder it says so all the same.
        if let Some(log) = self.log() {
            command.stderr(log);
        }
        command
    }

    fn log(&self) -> Option<File> {
        let path = self.jvm_log.as_ref()?;
        File::options().create(true).append(true).open(path).ok()
    }

    fn ours(&self) -> Result<Command, String> {
        let path = match &self.ours {
            Some(path) => path.clone(),
            None => std::env::current_exe()
                .ok()
                .and_then(|path| Some(path.parent()?.join("interop")))
                .ok_or("this program does not know where it is; give --ours")?,
        };
        let mut command = Command::new(path);
        command.env("INTEROP_LOG", "off");
        Ok(command)
    }

    fn peers(&self, database: &Database) -> Result<[Peer; 2], String> {
        let jvm = start("the JVM", self.jvm(""), database)?;
        let ours = start("perennial", self.ours()?, database)?;
        Ok([jvm, ours])
    }
}

fn start(name: &str, program: Command, database: &Database) -> Result<Peer, String> {
    Peer::start(name, program, database).map_err(|error| format!("{name} does not start: {error}"))
}

fn new_database() -> Result<(TestPostgres, Database), String> {
    let server = TestPostgres::new();
    server.execute(DDL);
    let database = Database::from_url(server.url()).ok_or("the test server has an odd URL")?;
    Ok((server, database))
}

/// Both programs recover what Pekko has written, and say the same of all of it.
fn recover(arguments: &Arguments) -> Outcome {
    let (server, database) = new_database()?;
    server.execute(include_str!("../../../../test-data/pekko-1.2/rows.sql"));
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../test-data/pekko-1.2/expected.jsonl");
    let lines = |mut program: Command| -> Result<Vec<Value>, String> {
        let output = program
            .args(["recover".as_ref(), file.as_os_str(), "--full".as_ref()])
            .envs(database.variables())
            .stdout(Stdio::piped())
            .spawn()
            .and_then(Child::wait_with_output)
            .map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(format!("{program:?} ended with {}", output.status));
        }
        json_lines(&output.stdout)
    };
    let (theirs, ours) = (lines(arguments.jvm(""))?, lines(arguments.ours()?)?);
    let mut differences = Vec::new();
    for (theirs, ours) in theirs.iter().zip(&ours) {
        let found = interop::json::differences(theirs, ours).into_iter();
        differences.extend(found.map(|text| format!("{}: {text}", theirs["persistence_id"])));
    }
    if theirs.len() != ours.len() || !differences.is_empty() {
        return Err(format!("the JVM | perennial:\n{}", differences.join("\n")));
    }
    println!(
        "{} entities of Pekko: the same lines from the JVM and from perennial",
        ours.len()
    );
    Ok(())
}

/// The same commands to each program on a database of its own leave the same rows, cell by cell but
/// for times and writer ids.
fn rows(arguments: &Arguments) -> Outcome {
    let (their_server, their_database) = new_database()?;
    let (our_server, our_database) = new_database()?;
    let mut jvm = start("the JVM", arguments.jvm(""), &their_database)?;
    let mut ours = start("perennial", arguments.ours()?, &our_database)?;
    for command in commands() {
        for peer in [&mut jvm, &mut ours] {
            let answer = peer.ask(&command)?;
            if answer.get("error").is_some() {
                return Err(format!("{}: {answer}", peer.name()));
            }
        }
    }
    jvm.end()?;
    ours.end()?;
    let (mut count, mut differing) = (0, Vec::new());
    for (table, number) in [
        ("event_journal", "seq_nr"),
        ("snapshot", "seq_nr"),
        ("durable_state", "revision"),
    ] {
        let theirs = cells::rows(&their_server, table, number);
        let ours = cells::rows(&our_server, table, number);
        let keys: BTreeSet<_> = theirs.keys().chain(ours.keys()).collect();
        for key in keys {
            let what = format!("{table} {} {}", key.0, key.1);
            match (theirs.get(key), ours.get(key)) {
                (Some(theirs), Some(ours)) => {
                    count += theirs.len();
                    differing.extend(cells::differing(&what, theirs, ours, &[]));
                }
                (None, _) => differing.push(format!("{what}: no row | a row")),
                (_, None) => differing.push(format!("{what}: a row | no row")),
            }
        }
    }
    if !differing.is_empty() {
        return Err(format!("the JVM | perennial:\n{}", differing.join("\n")));
    }
    println!("rows: {count} cells, no difference");
    Ok(())
}

/// Commands for every kind that both write, on one entity each.
fn commands() -> Vec<Value> {
    let mut commands = Vec::new();
    for kind in interop::turns::journaled_kinds() {
        let id = format!("{kind}|rows");
        let mut events = events_of(&kind).into_iter().cycle();
        for size in [1, 3, 1, 4, 2, 5, 1, 6] {
            let batch: Vec<Value> = events.by_ref().take(size).collect();
            commands.push(json!({"kind": kind, "id": id, "persist": batch}));
        }
        let last = format!("{kind}|rows-deleted");
        let batch: Vec<Value> = events.by_ref().take(3).collect();
        commands.push(json!({"kind": kind, "id": last, "persist": batch}));
        commands.push(json!({"kind": kind, "id": last, "deleteEvents": 2}));
        commands.push(json!({"kind": kind, "id": last, "deleteEvents": i64::MAX}));
        commands.push(json!({"kind": kind, "id": last, "persist": [events.next()]}));
    }
    for kind in interop::turns::durable_kinds() {
        for (id, last) in [("rows-vip", "put"), ("rows", "delete")] {
            let id = format!("{kind}|{id}");
            let states = interop::turns::states_of(&kind);
            for state in &states {
                commands.push(json!({"kind": kind, "id": id, "put": state}));
            }
            commands.push(json!({"kind": kind, "id": id, last: states[0]}));
        }
    }
    commands
}

/// Turns on every kind.
fn turns(arguments: &Arguments) -> Outcome {
    let (_server, database) = new_database()?;
    let [jvm, ours] = arguments.peers(&database)?;
    let mut referee = Referee::new(jvm, ours);
    referee.play()?;
    referee.replicated(JVM)?;
    println!("turns: {:?}, no difference", referee.counts());
    referee.end()
}

/// The JVM writes what only older programs, or ones with other settings, write; then turns.
fn versions(arguments: &Arguments) -> Outcome {
    const LZ4: &str = "akka.serialization.jackson.jackson-json.compression.algorithm = lz4\n\
        akka.serialization.jackson.jackson-cbor.compression { algorithm = lz4, compress-larger-than = 1 KiB }";
    const GZIP: &str = "akka.serialization.jackson.jackson-cbor.compression { algorithm = gzip, \
        compress-larger-than = 512 B }";
    let (_server, database) = new_database()?;
    let [jvm, ours] = arguments.peers(&database)?;
    let mut referee = Referee::new(jvm, ours);
    let large = |kind: &str| {
        let mut events = events_of(kind);
        events.sort_by_key(|event| std::cmp::Reverse(event.to_string().len()));
        events
    };
    let ids = |kind: &str, what: &str| {
        let ids = (0..2).map(|n| format!("{kind}|{what}-{n}"));
        ids.collect::<Vec<_>>()
    };
    for (what, overlay, kind, events) in [
        (
            "schema-1",
            "interop.schema = 1",
            "Account",
            account_events_of_schema_1(),
        ),
        ("lz4", LZ4, "Doc", large("Doc")),
        ("lz4", LZ4, "Sensor", large("Sensor")),
        ("gzip", GZIP, "Sensor", large("Sensor")),
    ] {
        let mut writer = start(what, arguments.jvm(overlay), &database)?;
        referee.go_on_after(&mut writer, kind, &ids(kind, what), &events)?;
        writer.end()?;
    }
    println!(
        "versions and compression: {:?}, no difference",
        referee.counts()
    );
    referee.end()
}

/// perennial writes to thousands of entities at once; the JVM's projection reads all of it.
fn burst(arguments: &Arguments) -> Outcome {
    let (server, database) = new_database()?;
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    runtime.block_on(write_burst(&database))?;
    let count = |sql: &str| server.query(sql)[0][0].clone().unwrap_or_default();
    let rows = count("SELECT count(*) FROM event_journal");
    let largest = count(
        "SELECT max(rows) FROM (SELECT count(*) AS rows FROM event_journal GROUP BY xmin::text) AS batch",
    );
    let together = count(
        "SELECT max(rows) FROM (SELECT count(*) AS rows FROM event_journal GROUP BY db_timestamp) AS moment",
    );
    let mut program = arguments.jvm("");
    let output = program
        .args([
            "project",
            "burst",
            "--entity-type",
            "Account",
            "--idle",
            "6",
        ])
        .envs(database.variables())
        .stdout(Stdio::piped())
        .spawn()
        .and_then(Child::wait_with_output)
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("the JVM's projection ended with {}", output.status));
    }
    let mut read = HashMap::new();
    for line in json_lines(&output.stdout)? {
        let id = line["persistence_id"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        read.insert(id, (line["events"].clone(), line["last_seq_nr"].clone()));
    }
    let whole = (Value::from(2), Value::from(2));
    let missed = (0..BURST)
        .map(burst_id)
        .filter(|id| read.get(id) != Some(&whole));
    let missed: Vec<_> = missed.collect();
    if !missed.is_empty() {
        return Err(format!(
            "the JVM's projection did not read {} of {BURST} entities whole, such as {}",
            missed.len(),
            missed[0]
        ));
    }
    println!(
        "burst: {BURST} entities, {rows} events, up to {largest} in one transaction and {together} \
         at one time, read whole by the JVM's projection"
    );
    Ok(())
}

fn burst_id(number: usize) -> String {
    format!("Account|burst-{number}")
}

async fn write_burst(database: &Database) -> Outcome {
    // One worker has all entities, so that as many as possible are in one batch.
    let settings = ConfigSource::empty().set("system.workers", 1);
    let settings = settings.map_err(|error| error.to_string())?;
    let engine = Engine::start_with(database, settings).await;
    let engine = engine.map_err(|error| error.to_string())?;
    let engine = std::sync::Arc::new(engine);
    for round in 0..2 {
        let mut waiting = JoinSet::new();
        for number in 0..BURST {
            let engine = std::sync::Arc::clone(&engine);
            waiting.spawn(async move {
                let event = format!(
                    r#"{{"type":"deposited","cents":{number},"memo":"round {round}","labels":[]}}"#
                );
                let event = RawValue::from_string(event).map_err(|error| error.to_string())?;
                let id = PersistenceId::of_unique_id(&burst_id(number));
                let id = id.map_err(|error| error.to_string())?;
                let question = Question::Persist(vec![event]);
                engine
                    .kind("Account")?
                    .ask(engine.system(), id, question)
                    .await
            });
        }
        while let Some(answer) = waiting.join_next().await {
            answer.map_err(|error| error.to_string())??;
        }
    }
    match std::sync::Arc::into_inner(engine) {
        Some(engine) => engine.shutdown().await.map_err(|error| error.to_string()),
        None => Err("a writer of the burst is left".to_owned()),
    }
}

fn json_lines(output: &[u8]) -> Result<Vec<Value>, String> {
    let text = std::str::from_utf8(output).map_err(|error| error.to_string())?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| serde_json::from_str(line).map_err(|error| format!("{line:?}: {error}")))
        .collect()
}
