//! Processes that are killed, and disks that fail, while they write.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use futures_util::future::select_all;
use perennial_persistence::Store;

use super::*;

/// Says to a test that it is the process that was started for it, and names the file.
const FILE: &str = "PERENNIAL_TEST_CRASH_FILE";

/// How many callers write at once, each to an entity of its own.
const CALLERS: usize = 4;

fn caller_id(caller: usize) -> PersistenceId {
    id(&format!("{caller}"))
}

/// Writes events without end, one and two at a time in turn, and says on the standard output what was
/// acknowledged. Ends at the first write that fails.
async fn write_and_say(file: PathBuf) {
    let opened = open(Config::default().with_path(file)).await;
    // The name of the test stands on this line already.
    println!();
    let callers = (0..CALLERS).map(|caller| {
        let (journal, id) = (opened.journal(), caller_id(caller));
        tokio::spawn(async move {
            let highest = journal.highest_sequence_nr(&id, SequenceNr::ZERO).await;
            let mut last = highest.expect("a readable journal").value();
            loop {
                let count = if last % 3 == 0 { 1 } else { 2 };
                let payload = SerializedPayload::new(77, "Event", vec![7; 300]);
                let write = AtomicWrite::new(
                    id.clone(),
                    WriterId::from_random_bits(1),
                    seq(last + 1),
                    vec![NewEvent::new(payload); usize::try_from(count).expect("1 or 2")],
                )
                .expect("a valid write");
                match write_one(&*journal, &write).await {
                    Ok(_) => last += count,
                    Err(error) => break error,
                }
                println!("stored {caller} {last}");
            }
        })
    });
    let (failure, ..) = select_all(callers).await;
    let failure = failure.expect("no panic");
    println!("failed {} {failure}", failure.is_outcome_unknown());
}

/// This test in a process of its own, with a file to write to.
fn child(command: &mut Command, test: &str, file: &File) -> Child {
    command
        .args(["--exact", "--nocapture", test])
        .env(FILE, file.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("a program that can be started")
}

/// Notes the highest acknowledged number of each caller.
fn note(line: &str, acknowledged: &mut [u64; CALLERS]) {
    if let Some(rest) = line.strip_prefix("stored ") {
        let (caller, number) = rest.split_once(' ').expect("two numbers");
        let caller: usize = caller.parse().expect("a number");
        acknowledged[caller] = number.parse().expect("a number");
    }
}

/// Opens the file again: everything acknowledged is there, without gaps.
async fn check_file(file: &File, acknowledged: &[u64; CALLERS]) {
    let opened = file.open().await;
    for (caller, acknowledged) in acknowledged.iter().enumerate() {
        let numbers = numbers(&*opened.journal(), &caller_id(caller)).await;
        let stored = u64::try_from(numbers.len()).expect("not so many");
        assert_eq!(numbers, (1..=stored).collect::<Vec<_>>(), "without gaps");
        assert!(
            stored >= *acknowledged,
            "{acknowledged} acknowledged, {stored} there"
        );
        // One, two, one, two: with half of a pair there would be two more than a multiple of three.
        assert_ne!(stored % 3, 2, "{stored} stored: half of an atomic write");
    }
    opened.close().await;
    let sound: String = file
        .connection()
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .expect("a database");
    assert_eq!(sound, "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_event_survives_a_killed_process() {
    if let Some(file) = std::env::var_os(FILE) {
        return write_and_say(file.into()).await;
    }
    let file = File::new();
    let mut acknowledged = [0; CALLERS];
    // Each round goes on with the file of the one before and is killed after another number of
    // answers, which is another place in the work of the writing thread.
    for answers in [1, 7, 50, 333] {
        let own = std::env::current_exe().expect("a running program");
        let test = "crash::every_acknowledged_event_survives_a_killed_process";
        let mut child = child(&mut Command::new(own), test, &file);
        let output = child.stdout.take().expect("it is piped");
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        let stored = lines.by_ref().filter(|line| line.starts_with("stored "));
        for line in stored.take(answers) {
            note(&line, &mut acknowledged);
        }
        child.kill().expect("it does not end by itself");
        // What it said before it died counts too.
        for line in lines {
            note(&line, &mut acknowledged);
        }
        child.wait().expect("a child");
        check_file(&file, &acknowledged).await;
    }
    assert!(acknowledged.iter().sum::<u64>() >= 333, "{acknowledged:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_disk_leaves_open_only_what_was_being_written() {
    if let Some(file) = std::env::var_os(FILE) {
        return write_and_say(file.into()).await;
    }
    let file = File::new();
    file.open().await.close().await;
    let own = std::env::current_exe().expect("a running program");
    let test = "crash::a_failing_disk_leaves_open_only_what_was_being_written";
    // No file may grow beyond 1,000 blocks of 512 bytes; writing on fails then, in the middle of a
    // commit, as it does on a failing disk.
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "trap '' XFSZ; ulimit -f 1000; exec \"$0\" \"$@\""])
        .arg(own);
    let mut child = child(&mut shell, test, &file);
    let mut text = String::new();
    let mut output = child.stdout.take().expect("it is piped");
    output.read_to_string(&mut text).expect("text");
    let status = child.wait().expect("a child");
    assert!(status.success(), "{status}: {text}");

    let mut acknowledged = [0; CALLERS];
    for line in text.lines() {
        note(line, &mut acknowledged);
    }
    assert!(acknowledged.iter().sum::<u64>() > 0, "{text}");
    let failure = text.lines().find(|line| line.starts_with("failed "));
    let failure = failure.expect("the limit is reached at some time");
    assert!(failure.starts_with("failed true "), "{failure}");
    assert!(failure.contains("check the disk"), "{failure}");
    check_file(&file, &acknowledged).await;
}
