use perennial::testkit::{Spec, WriteFault};
use tokio::sync::mpsc;

use crate::item::Row;
use crate::sink::Batch;

use super::*;

const LINGER: Duration = Duration::from_secs(10);
const BATCH: usize = 3;

fn item(line: i64) -> Item {
    Item {
        line,
        content: Ok(Row {
            tailnum: None,
            origin: "EWR".into(),
            dest: "IAH".into(),
            distance: 1,
        }),
    }
}

fn taken(line: i64) -> Event {
    Event::Taken(item(line))
}

fn spec() -> (Spec<Buffer>, mpsc::Receiver<Batch>) {
    let (sink, batches) = Sink::new();
    let services = Services {
        batch: BATCH,
        linger: LINGER,
        sink,
    };
    (Spec::of(entity(services)).always_check_replay(), batches)
}

fn next(batches: &mut mpsc::Receiver<Batch>) -> (Reason, Vec<i64>, Batch) {
    let batch = batches.try_recv().expect("a batch is on its way");
    let lines = batch.items.iter().map(|item| item.line).collect();
    (batch.reason, lines, batch)
}

fn done(batch: Batch) {
    batch.written.send(()).expect("the buffer waits");
}

#[test]
fn an_item_is_answered_when_it_is_durable() {
    let (mut t, _batches) = spec();
    t.slow_next_write(Duration::from_secs(1));
    let slow = t.when(Take(item(1)));
    assert!(slow.is_open());
    t.advance(Duration::from_secs(1));
    assert_eq!(slow.reply(), &());
    assert_eq!(t.stored_events(), [taken(1)]);
}

#[test]
fn a_full_batch_is_written_and_then_forgotten() {
    let (mut t, mut batches) = spec();
    for line in 1..=3 {
        assert_eq!(t.when(Take(item(line))), ([taken(line)], ()));
    }
    let (reason, lines, batch) = next(&mut batches);
    assert_eq!((reason, &lines[..]), (Reason::Full, &[1, 2, 3][..]));
    // What comes meanwhile waits.
    let waits = t.when(Take(item(4)));
    assert!(waits.result().is_none());
    done(batch);
    assert_eq!(t.run_futures(), vec![Event::Written, taken(4)]);
    assert_eq!(waits.reply(), &());
    assert_eq!(t.state().gathered(), [item(4)]);
}

#[test]
fn the_first_item_lingers_for_so_long_and_no_longer() {
    let (mut t, mut batches) = spec();
    t.when(Take(item(1)));
    t.advance(LINGER - Duration::from_secs(1));
    t.when(Take(item(2)));
    assert!(batches.try_recv().is_err());
    t.advance(Duration::from_secs(1));
    let (reason, lines, batch) = next(&mut batches);
    assert_eq!((reason, &lines[..]), (Reason::Linger, &[1, 2][..]));
    done(batch);
    assert_eq!(t.run_futures(), vec![Event::Written]);
    t.advance(LINGER * 2);
    assert!(batches.try_recv().is_err());
}

#[test]
fn whoever_asks_is_answered_when_everything_is_written() {
    let (mut t, mut batches) = spec();
    assert_eq!(t.when(Flush), ([], ()));
    t.when(Take(item(1)));
    let asked = t.when(Flush);
    assert!(asked.is_open());
    let (reason, lines, batch) = next(&mut batches);
    assert_eq!((reason, &lines[..]), (Reason::Asked, &[1][..]));
    done(batch);
    t.run_futures();
    assert_eq!(asked.reply(), &());
}

#[test]
fn what_has_gathered_is_written_after_a_crash_however_far_it_had_come() {
    let (mut t, mut batches) = spec();
    for line in 1..=3 {
        t.when(Take(item(line)));
    }
    // Killed while it was being written: it comes back full, which is reason enough.
    let (_, _, lost) = next(&mut batches);
    t.crash();
    drop(lost);
    let waits = t.when(Take(item(4)));
    t.advance(Duration::ZERO);
    let (reason, lines, batch) = next(&mut batches);
    assert_eq!((reason, &lines[..]), (Reason::Full, &[1, 2, 3][..]));
    // Killed when it was written, before it was stored that it is.
    t.faults().writes.next(WriteFault::Rejected);
    done(batch);
    t.run_futures();
    t.advance(Duration::ZERO);
    let (reason, lines, batch) = next(&mut batches);
    assert_eq!((reason, &lines[..]), (Reason::Full, &[1, 2, 3][..]));
    done(batch);
    t.run_futures();
    assert_eq!(waits.reply(), &());
    // Killed with a batch that is not full: its time begins.
    t.crash();
    t.when(Flush).give_up();
    let (reason, lines, _batch) = next(&mut batches);
    assert_eq!((reason, &lines[..]), (Reason::Asked, &[4][..]));
}

#[test]
fn what_a_run_with_larger_batches_left_behind_is_written_at_once() {
    let (t, mut batches) = spec();
    let mut t = t.given((1..=5).map(taken));
    let waits = t.when(Take(item(6)));
    assert!(waits.is_stashed());
    t.advance(Duration::ZERO);
    let (reason, lines, _batch) = next(&mut batches);
    assert_eq!((reason, &lines[..]), (Reason::Full, &[1, 2, 3, 4, 5][..]));
}

#[test]
fn it_keeps_what_has_gathered_when_nothing_is_written_any_more() {
    let (mut t, batches) = spec();
    t.when(Take(item(1)));
    drop(batches);
    assert!(t.when(Flush).has_no_reply());
    assert_eq!(t.state().gathered(), [item(1)]);
}
