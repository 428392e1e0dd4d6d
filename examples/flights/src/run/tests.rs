use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Mutex;

use clap::Parser;
use flight_table::program::explain;
use serde_json::Value;

use crate::aircraft::Aircraft;
use crate::row::COLUMNS;

use super::*;

/// What would be a database: what is in it survives the fleets that are started on it.
#[derive(Default)]
struct Memory {
    aircraft: Rc<RefCell<HashMap<String, Aircraft>>>,
    started: Cell<u32>,
    /// How many questions of any kind fail before the next answer.
    outage: Rc<Cell<u32>>,
    /// Asked for a flight of this aircraft, the run is stopped.
    stop_at: RefCell<Option<(String, watch::Sender<bool>)>>,
    /// What the last run said and showed.
    said: Arc<Mutex<Vec<u8>>>,
    table: RefCell<String>,
}

struct MemoryFleet<'a> {
    base: &'a Memory,
}

impl Memory {
    fn said(&self) -> String {
        let said = self.said.lock().expect("nobody panics").clone();
        String::from_utf8(said).expect("UTF-8")
    }

    fn reach(&self) -> Result<(), AskFailure> {
        match self.outage.get() {
            0 => Ok(()),
            left => {
                self.outage.set(left - 1);
                Err(AskFailure::Unavailable("the server is down".into()))
            }
        }
    }
}

impl<'a> Base for &'a Memory {
    type Fleet = MemoryFleet<'a>;

    fn place(&self) -> String {
        "memory".to_owned()
    }

    async fn prepare(&self, begin: Begin) -> Result<Start, AskFailure> {
        self.reach()?;
        let mut aircraft = self.aircraft.borrow_mut();
        if begin != Begin::Keep {
            aircraft.clear();
        }
        Ok(if aircraft.is_empty() {
            Start::Fresh
        } else {
            Start::Continued
        })
    }

    async fn start(&self) -> Result<Self::Fleet, AskFailure> {
        self.reach()?;
        self.started.set(self.started.get() + 1);
        // The first questions to each fleet fail too.
        self.outage.set(3);
        Ok(MemoryFleet { base: self })
    }
}

impl Fleet for MemoryFleet<'_> {
    async fn record(&self, flight: Arc<Flight>) -> Answer {
        tokio::task::yield_now().await;
        self.base.reach()?;
        if let Some((tail, stop)) = &*self.base.stop_at.borrow()
            && *tail == flight.tailnum
        {
            stop.send_replace(true);
        }
        let mut fleet = self.base.aircraft.borrow_mut();
        let aircraft = fleet.entry(flight.tailnum.clone()).or_default();
        Ok(aircraft.decide(&flight).map(|event| {
            aircraft.apply(&event);
            aircraft.totals().clone()
        }))
    }

    async fn logbook(&self, tail: &str) -> Result<Logbook, AskFailure> {
        self.base.reach()?;
        Ok(self.base.aircraft.borrow()[tail].logbook())
    }

    async fn tail_numbers(&self) -> Result<Vec<String>, AskFailure> {
        self.base.reach()?;
        Ok(self.base.aircraft.borrow().keys().cloned().collect())
    }

    async fn shutdown(self) -> Result<(), AskFailure> {
        Ok(())
    }
}

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn args(&self, more: &[&str]) -> Args {
        let paths = ["report.json", "rejects.csv"].map(|name| self.path(name));
        let [report, rejects] = paths.map(|path| path.display().to_string());
        let always = ["flights", "--report", &report, "--rejects", &rejects];
        Args::parse_from([&always, more].concat())
    }

    fn table(&self, name: &str, rows: &[&str]) -> String {
        let text = format!("{}\n{}\n", COLUMNS.join(","), rows.join("\n"));
        std::fs::write(self.path(name), text).expect("room");
        self.path(name).display().to_string()
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect("written by the run")
    }

    fn report(&self) -> Value {
        serde_json::from_str(&self.read("report.json")).expect("JSON")
    }
}

async fn run_on(memory: &Memory, args: &Args) -> Result<Exit, Error> {
    let (sender, receiver) = watch::channel(false);
    if let Some((_, stop)) = &mut *memory.stop_at.borrow_mut() {
        *stop = sender;
    }
    let said = Arc::clone(&memory.said);
    said.lock().expect("nobody panics").clear();
    let console = Console::of_lines(said);
    let mut table = Vec::new();
    let result = run(args, &memory, &console, &mut table, &receiver).await;
    *memory.table.borrow_mut() = String::from_utf8(table).expect("UTF-8");
    result
}

const GOOD: &str =
    "2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z";
const NEXT: &str =
    "2013,1,2,517,515,NA,830,819,11,UA,1545,N14228,EWR,PDX,NA,1,5,15,2013-01-02T10:00:00Z";
const OTHER: &str =
    "2013,1,2,517,515,-7,830,819,11,UA,99,N24211,EWR,PDX,100,3,5,15,2013-01-02T10:00:00Z";

#[tokio::test(start_paused = true)]
async fn the_bundled_month_comes_back() {
    let (memory, files) = (Memory::default(), Files::new());
    let exit = run_on(&memory, &files.args(&[])).await.expect("it can");
    assert_eq!(exit, Exit::Right);
    assert_eq!(memory.started.get(), 2, "started anew to recover");
    assert!(
        memory
            .said()
            .ends_with("All aircraft came back with the totals of the table.\n")
    );
    for text in ["27,004", "26,483", "N328AA 84,473"] {
        assert!(memory.table.borrow().contains(text), "{text}");
    }
    let report = files.report();
    assert_eq!(report["rows"], 27_004);
    assert_eq!(report["accepted"], 26_483);
    assert_eq!(
        report["refused"],
        serde_json::json!({"cancelled": 366, "no-tail-number": 155, "duplicate": 0, "malformed": 0})
    );
    assert_eq!(report["aircraft"].as_object().expect("a map").len(), 3141);
    assert_eq!(
        report["aircraft"]["N14228"],
        serde_json::json!({"flights": 15, "miles": 16_479, "air_minutes": 2437,
            "departure_delay_minutes": 144, "last_destination": "PDX"})
    );
    let rejects = files.read("rejects.csv");
    assert_eq!(rejects.lines().count(), 1 + 366 + 155);
    let lines: Vec<u64> = rejects
        .lines()
        .skip(1)
        .map(|line| {
            line.split_once(',')
                .expect("columns")
                .0
                .parse()
                .expect("a number")
        })
        .collect();
    assert!(lines.is_sorted());
    let left: Vec<_> = std::fs::read_dir(files.folder.path())
        .expect("a folder")
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn every_refused_row_is_named_with_its_line_and_reason() {
    let (memory, files) = (Memory::default(), Files::new());
    let cancelled = OTHER.replace(",517,", ",NA,");
    let nobody = OTHER.replace("N24211", "NA");
    let input = files.table(
        "in.csv",
        &[GOOD, "", GOOD, &cancelled, NEXT, &nobody, "a\"b"],
    );
    let exit = run_on(&memory, &files.args(&["--input", &input])).await;
    assert_eq!(exit.expect("it can"), Exit::Right);
    assert_eq!(
        files.read("rejects.csv"),
        format!(
            "line,reason,row\n3,malformed,\n4,duplicate,\"{GOOD}\"\n5,cancelled,\"{cancelled}\"\n\
             7,no-tail-number,\"{nobody}\"\n8,malformed,\"a\"\"b\"\n"
        )
    );
    assert_eq!(
        files.report(),
        serde_json::json!({
            "rows": 7,
            "accepted": 2,
            "refused": {"cancelled": 1, "no-tail-number": 1, "duplicate": 1, "malformed": 2},
            "aircraft": {"N14228": {"flights": 2, "miles": 1401, "air_minutes": 227,
                "departure_delay_minutes": 2, "last_destination": "PDX"}},
        })
    );
}

#[tokio::test(start_paused = true)]
async fn a_stopped_run_is_continued() {
    let (memory, files) = (Memory::default(), Files::new());
    let rows: Vec<String> = (1..=400)
        .map(|day| {
            OTHER
                .replace("N24211", &format!("N{}", day % 40))
                .replace(",99,", &format!(",{day},"))
        })
        .chain([GOOD.to_owned()])
        .chain((1..=5000).map(|day| OTHER.replace(",99,", &format!(",{day},"))))
        .collect();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    let input = files.table("in.csv", &rows);
    let (unused, _) = watch::channel(false);
    *memory.stop_at.borrow_mut() = Some(("N14228".into(), unused));
    let args = ["--input", &input, "--in-flight", "4"];
    let exit = run_on(&memory, &files.args(&args)).await.expect("it can");
    assert_eq!((exit, exit.code()), (Exit::Stopped, 130));
    assert!(!files.path("report.json").exists());
    let said = memory.said();
    assert!(
        said.contains(" rows were answered, ") && said.contains("--keep"),
        "{said}"
    );
    assert!(files.path("rejects.csv").exists(), "what it has is kept");
    let stored: u64 = memory
        .aircraft
        .borrow()
        .values()
        .map(|a| a.totals().flights)
        .sum();
    assert!((1..5000).contains(&stored), "{stored}");

    *memory.stop_at.borrow_mut() = None;
    let args = [&args[..], &["--keep"]].concat();
    let exit = run_on(&memory, &files.args(&args)).await.expect("it can");
    assert_eq!(exit, Exit::Right);
    let report = files.report();
    assert_eq!(report["rows"], 5401);
    assert_eq!(report["refused"]["duplicate"], stored);
    assert_eq!(report["accepted"], 5401 - stored);
    assert_eq!(report["aircraft"]["N24211"]["flights"], 5000);
}

#[tokio::test(start_paused = true)]
async fn without_keep_everything_begins_anew_and_with_it_other_tables_stay() {
    let (memory, files) = (Memory::default(), Files::new());
    let first = files.table("first.csv", &[GOOD]);
    let second = files.table("second.csv", &[OTHER, GOOD]);
    let third = files.table("third.csv", &[NEXT]);
    for (args, names) in [
        (["--input", &first].as_slice(), ["N14228"].as_slice()),
        (&["--input", &second, "--keep"], &["N14228", "N24211"]),
        (&["--input", &third, "--keep"], &["N14228", "N24211"]),
        (&["--input", &third], &["N14228"]),
        (&["--input", &third, "--reset"], &["N14228"]),
    ] {
        let exit = run_on(&memory, &files.args(args)).await.expect("it can");
        assert_eq!(exit, Exit::Right, "{args:?}");
        let report = files.report();
        let aircraft = report["aircraft"].as_object().expect("a map");
        let found: Vec<&str> = aircraft.keys().map(String::as_str).collect();
        assert_eq!(found, names, "{args:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_total_is_status_1_and_still_reported() {
    let (memory, files) = (Memory::default(), Files::new());
    let input = files.table("in.csv", &[GOOD, OTHER]);
    let forged = GOOD.replace("1400", "1399");
    let forger = files.table("forged.csv", &[&forged]);
    run_on(&memory, &files.args(&["--input", &forger]))
        .await
        .expect("it can");
    let exit = run_on(&memory, &files.args(&["--input", &input, "--keep"])).await;
    let exit = exit.expect("it can");
    assert_eq!((exit, exit.code()), (Exit::Wrong, 1));
    let said = memory.said();
    assert!(
        said.contains("N14228 says miles 1399 instead of 1400"),
        "{said}"
    );
    assert_eq!(files.report()["aircraft"]["N14228"]["miles"], 1399);
}

#[tokio::test(start_paused = true)]
async fn an_outage_in_any_phase_only_delays() {
    let (memory, files) = (Memory::default(), Files::new());
    // Each start causes another outage by itself.
    memory.outage.set(30);
    let begun = tokio::time::Instant::now();
    let input = files.table("in.csv", &[GOOD, OTHER]);
    let exit = run_on(&memory, &files.args(&["--input", &input])).await;
    assert_eq!(exit.expect("it can"), Exit::Right);
    assert!(begun.elapsed() > Duration::from_secs(10));

    memory.outage.set(u32::MAX);
    let args = files.args(&["--input", &input, "--patience", "5s"]);
    let error = run_on(&memory, &args).await.expect_err("down for ever");
    assert_eq!(
        explain(&error),
        "cannot prepare the store: nothing was answered for 5s: the server is down"
    );
}

#[tokio::test(start_paused = true)]
async fn wrong_files_are_refused_before_the_store_is_touched() {
    let (memory, files) = (Memory::default(), Files::new());
    let input = files.table("in.csv", &[GOOD]);
    run_on(&memory, &files.args(&["--input", &input]))
        .await
        .expect("it can");
    let started = memory.started.get();
    let no_table = files.path("report.json").display().to_string();
    let args = Args::parse_from(["flights", "--input", &no_table]);
    assert!(matches!(run_on(&memory, &args).await, Err(Error::Input(_))));
    let args = Args::parse_from(["flights", "--report", "/nowhere/report.json"]);
    assert!(matches!(
        run_on(&memory, &args).await,
        Err(Error::Output(_))
    ));
    let args = Args::parse_from(["flights", "--input", &input, "--rejects", &input]);
    assert!(matches!(run_on(&memory, &args).await, Err(Error::Args(_))));
    assert_eq!(memory.started.get(), started);
    assert_eq!(memory.aircraft.borrow().len(), 1);
}
