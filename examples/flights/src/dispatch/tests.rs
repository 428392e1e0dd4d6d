use std::cell::Cell;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::mpsc;

use crate::aircraft::Aircraft;
use crate::fold::{Check, Fold};
use crate::input::{Input, Line};

use super::*;

/// Aircraft behind a line that loses, delays and refuses at random.
struct Fleet {
    aircraft: RefCell<HashMap<String, Aircraft>>,
    random: RefCell<StdRng>,
    trouble: f64,
    under_way: RefCell<HashSet<String>>,
    most_under_way: Cell<usize>,
}

impl Fleet {
    fn new(seed: u64, trouble: f64) -> Self {
        Self {
            aircraft: RefCell::default(),
            random: RefCell::new(StdRng::seed_from_u64(seed)),
            trouble,
            under_way: RefCell::default(),
            most_under_way: Cell::new(0),
        }
    }

    async fn ask(&self, flight: Arc<Flight>) -> Answer {
        let tail = flight.tailnum.clone();
        let is_alone = self.under_way.borrow_mut().insert(tail.clone());
        assert!(is_alone, "two commands for {tail} at once");
        let count = self.under_way.borrow().len();
        self.most_under_way
            .set(self.most_under_way.get().max(count));
        let (delay, fault) = {
            let mut random = self.random.borrow_mut();
            let fault = random
                .random_bool(self.trouble)
                .then(|| random.random_range(0..5));
            (random.random_range(0..20), fault)
        };
        sleep(Duration::from_millis(delay)).await;
        self.under_way.borrow_mut().remove(&tail);
        match fault {
            Some(0) => return Err(AskFailure::Busy),
            Some(1) => return Err(AskFailure::Expired),
            Some(2) => return Err(AskFailure::Unavailable("down".into())),
            Some(3) => return Err(AskFailure::Unknown("lost on the way there".into())),
            _ => {}
        }
        let mut fleet = self.aircraft.borrow_mut();
        let aircraft = fleet.entry(tail).or_default();
        let answer = aircraft.decide(&flight).map(|event| {
            aircraft.apply(&event);
            aircraft.totals().clone()
        });
        match fault {
            Some(_) => Err(AskFailure::Unknown("lost on the way back".into())),
            None => Ok(answer),
        }
    }

    fn differences(&self, fold: &Fold, start: Start, dispatched: &Dispatched) -> Vec<String> {
        let mut check = Check::new(fold, start, dispatched.overflowed.clone());
        check.counts(&dispatched.counts);
        for (tail, aircraft) in self.aircraft.borrow().iter() {
            if aircraft.totals().flights > 0 {
                check.aircraft(tail, &aircraft.logbook());
            }
        }
        check.finish()
    }
}

/// Remembers what was settled.
#[derive(Default)]
struct Log(Vec<(u64, Result<(), Reason>)>);

impl Sink for Log {
    fn settle(&mut self, row: &Row, verdict: Result<(), Reason>) -> Result<(), output::Error> {
        self.0.push((row.line, verdict));
        Ok(())
    }
}

fn row(line: u64, text: &str) -> Row {
    Row::new(Line {
        number: line,
        text: text.into(),
        is_truncated: false,
    })
}

/// A row of `tail` that is told from others by `number`.
fn flight(line: u64, tail: &str, number: u64) -> Row {
    let text = format!(
        "2013,1,1,517,515,2,830,819,11,UA,{number},{tail},EWR,D{number},227,1400,5,15,2013-01-01T10:00:00Z"
    );
    row(line, &text)
}

/// A small table of everything: few aircraft, true duplicates, cancelled and malformed rows.
fn table(seed: u64, length: u64) -> Vec<Row> {
    let mut random = StdRng::seed_from_u64(seed);
    (2..length + 2)
        .map(|line| {
            let crowd = random.random_range(1..12);
            let tail = format!("N{}", random.random_range(0..crowd));
            let good = flight(line, &tail, random.random_range(0..length / 4 + 1));
            match random.random_range(0..20) {
                0 => row(line, ""),
                1 => row(line, &good.text.replace(&tail, "NA")),
                2 => row(line, &good.text.replace(",517,", ",NA,")),
                3 => row(line, &good.text.replace("1400", &i64::MAX.to_string())),
                _ => good,
            }
        })
        .collect()
}

fn channel(rows: &[Row]) -> Rows {
    let (sender, receiver) = mpsc::channel(rows.len().max(1));
    for batch in rows.chunks(7) {
        sender.try_send(Ok(batch.to_vec())).expect("room for all");
    }
    receiver
}

fn fold(rows: &[Row]) -> Fold {
    let mut fold = Fold::default();
    rows.iter().for_each(|row| fold.add(row));
    fold
}

/// What each row must become, by aircraft that are asked one after the other without trouble.
fn model(rows: &[Row], aircraft: &mut HashMap<String, Aircraft>) -> Vec<(u64, Result<(), Reason>)> {
    rows.iter()
        .map(|row| {
            let verdict = row.content.clone().and_then(|flight| {
                let aircraft = aircraft.entry(flight.tailnum.clone()).or_default();
                let event = aircraft.decide(&flight).map_err(Refusal::reason)?;
                aircraft.apply(&event);
                Ok(())
            });
            (row.line, verdict)
        })
        .collect()
}

async fn run(
    fleet: &Fleet,
    rows: Rows,
    in_flight: usize,
    start: Start,
    stop: impl Future<Output = ()>,
) -> (Dispatched, Log) {
    let patience = Patience::new(Duration::from_secs(60), |_| ());
    let mut log = Log::default();
    let options = Dispatch {
        in_flight,
        start,
        patience: &patience,
    };
    let ask = |flight| fleet.ask(flight);
    let dispatched = dispatch(options, rows, ask, &mut log, stop).await;
    (dispatched, log)
}

#[tokio::test(start_paused = true)]
async fn whatever_fails_every_row_is_answered_once_in_order_and_rightly() {
    for seed in 0..200 {
        let rows = table(seed, 150);
        let fleet = Fleet::new(seed, 0.3);
        let in_flight = usize::try_from(seed % 9 + 1).expect("small");
        let never = std::future::pending();
        let (dispatched, log) = run(&fleet, channel(&rows), in_flight, Start::Fresh, never).await;
        assert!(matches!(dispatched.end, End::Complete), "seed {seed}");
        let mut expected = HashMap::new();
        assert_eq!(log.0, model(&rows, &mut expected), "seed {seed}");
        assert!(fleet.most_under_way.get() <= in_flight);
        assert!(dispatched.repetitions > 0, "seed {seed}");
        // The same flights in the same order, and so the same last destination.
        for (tail, aircraft) in fleet.aircraft.borrow().iter() {
            assert_eq!(aircraft.logbook(), expected[tail].logbook(), "seed {seed}");
        }
        let differences = fleet.differences(&fold(&rows), Start::Fresh, &dispatched);
        assert_eq!(differences, Vec::<String>::new(), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_continued_run_ends_where_an_undisturbed_one_does() {
    for seed in 0..50 {
        let rows = table(seed, 120);
        let fleet = Fleet::new(seed, 0.3);
        let cut = usize::try_from(seed).expect("small") * 2;
        let never = std::future::pending;
        run(&fleet, channel(&rows[..cut]), 8, Start::Fresh, never()).await;
        let (dispatched, _) = run(&fleet, channel(&rows), 8, Start::Continued, never()).await;
        let mut expected = HashMap::new();
        model(&rows[..cut], &mut expected);
        model(&rows, &mut expected);
        for (tail, aircraft) in fleet.aircraft.borrow().iter() {
            assert_eq!(aircraft.logbook(), expected[tail].logbook(), "seed {seed}");
        }
        let differences = fleet.differences(&fold(&rows), Start::Continued, &dispatched);
        assert_eq!(differences, Vec::<String>::new(), "seed {seed}");
    }
}

/// Answers each ask with the next of a list of answers.
async fn verdicts(start: Start, rows: &[Row], answers: Vec<Answer>) -> Vec<Result<(), Reason>> {
    let answers = RefCell::new(answers.into_iter());
    let patience = Patience::new(Duration::from_secs(60), |_| ());
    let mut log = Log::default();
    let options = Dispatch {
        in_flight: 1,
        start,
        patience: &patience,
    };
    let ask = |_| std::future::ready(answers.borrow_mut().next().expect("as many as asked for"));
    dispatch(
        options,
        channel(rows),
        ask,
        &mut log,
        std::future::pending(),
    )
    .await;
    assert_eq!(answers.into_inner().len(), 0, "all answers were asked for");
    log.0.into_iter().map(|(_, verdict)| verdict).collect()
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_after_a_lost_answer_is_told_from_a_true_one() {
    let accepted = |flights| {
        Ok(Ok(Totals {
            flights,
            ..Totals::default()
        }))
    };
    let duplicate = |nth| Ok(Err(Refusal::Duplicate { nth }));
    let lost = || Err(AskFailure::Unknown("lost".into()));
    let refused = Err(Reason::Duplicate);
    let two = [flight(2, "N1", 1), flight(3, "N1", 2)];

    // Recorded by the first attempt, as flight 1 of 0 known ones, then as flight 2 of 1.
    let answers = vec![lost(), duplicate(1), lost(), lost(), duplicate(2)];
    assert_eq!(
        verdicts(Start::Fresh, &two, answers).await,
        [Ok(()), Ok(())]
    );
    // Flight 1 was there before the row whose answer was lost.
    let answers = vec![accepted(1), lost(), duplicate(1)];
    assert_eq!(
        verdicts(Start::Fresh, &two, answers).await,
        [Ok(()), refused]
    );
    // A queue that was full, an expired command and a failed write have recorded nothing.
    for failure in [
        AskFailure::Busy,
        AskFailure::Expired,
        AskFailure::Unavailable("down".into()),
    ] {
        let answers = vec![accepted(1), Err(failure), duplicate(1)];
        assert_eq!(
            verdicts(Start::Fresh, &two, answers).await,
            [Ok(()), refused]
        );
    }
    // Nobody knows how many flights an earlier run has recorded, until the first answer.
    let answers = vec![lost(), duplicate(7), lost(), duplicate(7)];
    assert_eq!(
        verdicts(Start::Continued, &two, answers).await,
        [Ok(()), refused]
    );
    let answers = vec![duplicate(7), lost(), duplicate(8)];
    assert_eq!(
        verdicts(Start::Continued, &two, answers).await,
        [refused, Ok(())]
    );
}

#[tokio::test(start_paused = true)]
async fn one_hot_aircraft_does_not_make_the_whole_table_wait_in_memory() {
    const IN_FLIGHT: usize = 4;
    const MOST: usize = IN_FLIGHT * WINDOW_PER_COMMAND + 1;
    let (sender, receiver) = mpsc::channel(1);
    let sent = Cell::new(0);
    let feed = async {
        for line in 0..500 {
            let rows = vec![flight(line + 2, "N1", line)];
            sender.send(Ok(rows)).await.expect("taken in the end");
            sent.set(sent.get() + 1);
        }
        drop(sender);
    };
    struct Watch<'a> {
        settled: usize,
        sent: &'a Cell<usize>,
    }
    impl Sink for Watch<'_> {
        fn settle(&mut self, _: &Row, verdict: Result<(), Reason>) -> Result<(), output::Error> {
            assert_eq!(verdict, Ok(()));
            // One more waits in the channel.
            assert!(self.sent.get() - self.settled <= MOST + 1);
            self.settled += 1;
            Ok(())
        }
    }
    let fleet = Fleet::new(1, 0.0);
    let patience = Patience::new(Duration::from_secs(60), |_| ());
    let options = Dispatch {
        in_flight: IN_FLIGHT,
        start: Start::Fresh,
        patience: &patience,
    };
    let mut watch = Watch {
        settled: 0,
        sent: &sent,
    };
    let ask = |flight| fleet.ask(flight);
    let work = dispatch(options, receiver, ask, &mut watch, std::future::pending());
    let (dispatched, ()) = tokio::join!(work, feed);
    assert!(matches!(dispatched.end, End::Complete));
    assert_eq!(watch.settled, 500);
    assert_eq!(fleet.most_under_way.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn as_many_commands_as_allowed_are_under_way() {
    let rows: Vec<Row> = (0..200)
        .map(|line| flight(line + 2, &format!("N{line}"), 1))
        .collect();
    let fleet = Fleet::new(1, 0.0);
    let never = std::future::pending();
    run(&fleet, channel(&rows), 32, Start::Fresh, never).await;
    assert_eq!(fleet.most_under_way.get(), 32);
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_what_is_under_way_and_starts_nothing() {
    for millis in 0..60 {
        let rows = table(millis, 200);
        let fleet = Fleet::new(millis, 0.3);
        let stop = sleep(Duration::from_millis(millis));
        let (dispatched, log) = run(&fleet, channel(&rows), 4, Start::Fresh, stop).await;
        assert!(matches!(dispatched.end, End::Stopped));
        assert!(fleet.under_way.borrow().is_empty(), "nothing is dropped");
        assert!(log.0.len() < rows.len());
        assert!(log.0.is_sorted_by_key(|(line, _)| *line));
        assert_eq!(
            dispatched.counts.rows,
            u64::try_from(log.0.len()).expect("small")
        );
        // What was settled as accepted is recorded; at most a lost answer is recorded beyond it.
        let recorded: u64 = fleet
            .aircraft
            .borrow()
            .values()
            .map(|a| a.totals().flights)
            .sum();
        assert!(recorded >= dispatched.counts.accepted);
        assert!(recorded <= dispatched.counts.accepted + 4);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_ever() {
    let rows = [flight(2, "N1", 1)];
    let patience = Patience::new(Duration::from_secs(60), |_| ());
    let mut log = Log::default();
    let options = Dispatch {
        in_flight: 1,
        start: Start::Fresh,
        patience: &patience,
    };
    let ask = |_| std::future::pending::<Answer>();
    let begun = Instant::now();
    let stop = sleep(Duration::from_secs(1));
    let dispatched = dispatch(options, channel(&rows), ask, &mut log, stop).await;
    assert!(matches!(dispatched.end, End::Stopped));
    assert_eq!(dispatched.counts, Counts::default());
    assert!(begun.elapsed() < Duration::from_secs(7));
}

#[tokio::test(start_paused = true)]
async fn a_stop_during_an_outage_asks_nothing_again() {
    let patience = Patience::new(Duration::from_secs(60), |_| ());
    let mut log = Log::default();
    let options = Dispatch {
        in_flight: 1,
        start: Start::Fresh,
        patience: &patience,
    };
    let ask = |_| std::future::ready(Err(AskFailure::Unavailable("down".into())));
    let begun = Instant::now();
    let stop = sleep(Duration::from_secs(10));
    let rows = channel(&[flight(2, "N1", 1)]);
    let dispatched = dispatch(options, rows, ask, &mut log, stop).await;
    assert!(matches!(dispatched.end, End::Stopped));
    assert!(
        begun.elapsed() < Duration::from_secs(13),
        "no longer than a pause"
    );
}

#[tokio::test(start_paused = true)]
async fn an_aircraft_that_never_answers_ends_the_run_with_its_name() {
    let rows = [row(2, ""), flight(3, "N1", 1), flight(4, "N2", 1)];
    let patience = Patience::new(Duration::from_secs(60), |_| ());
    let mut log = Log::default();
    let options = Dispatch {
        in_flight: 2,
        start: Start::Fresh,
        patience: &patience,
    };
    let ask = |flight: Arc<Flight>| {
        std::future::ready(if flight.tailnum == "N1" {
            Err(AskFailure::Unavailable("the server is down".into()))
        } else {
            Ok(Ok(Totals::default()))
        })
    };
    let begun = Instant::now();
    let dispatched = dispatch(
        options,
        channel(&rows),
        ask,
        &mut log,
        std::future::pending(),
    )
    .await;
    let End::Failed(error) = dispatched.end else {
        panic!("{:?}", dispatched.end);
    };
    assert_eq!(
        error.to_string(),
        "aircraft \"N1\" does not answer for line 3"
    );
    assert!(begun.elapsed() >= Duration::from_secs(60));
    // What was answered behind it still counts.
    assert_eq!(log.0, [(2, Err(Reason::Malformed)), (4, Ok(()))]);
}

#[tokio::test(start_paused = true)]
async fn a_table_that_breaks_off_is_settled_as_far_as_it_goes() {
    let (sender, receiver) = mpsc::channel(2);
    sender.try_send(Ok(table(1, 20))).expect("room");
    let error = input::Error::Open {
        name: "flights.csv.gz".into(),
        source: std::io::Error::other("cut"),
    };
    sender.try_send(Err(error)).expect("room");
    drop(sender);
    let fleet = Fleet::new(1, 0.2);
    let never = std::future::pending();
    let (dispatched, log) = run(&fleet, receiver, 4, Start::Fresh, never).await;
    assert!(matches!(dispatched.end, End::Failed(Error::Input(_))));
    assert_eq!(log.0.len(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_fails_ends_the_run() {
    struct Full;
    impl Sink for Full {
        fn settle(&mut self, _: &Row, _: Result<(), Reason>) -> Result<(), output::Error> {
            let full = std::io::ErrorKind::StorageFull.into();
            Err(output::Error::new(
                std::path::Path::new("rejects.csv"),
                full,
            ))
        }
    }
    let fleet = Fleet::new(1, 0.0);
    let patience = Patience::new(Duration::from_secs(60), |_| ());
    let options = Dispatch {
        in_flight: 2,
        start: Start::Fresh,
        patience: &patience,
    };
    let ask = |flight| fleet.ask(flight);
    let rows = channel(&table(1, 50));
    let dispatched = dispatch(options, rows, ask, &mut Full, std::future::pending()).await;
    let End::Failed(error) = dispatched.end else {
        panic!("{:?}", dispatched.end);
    };
    assert_eq!(error.to_string(), "cannot write rejects.csv");
}

#[tokio::test]
async fn the_bundled_month_is_read_ahead_and_dispatched() {
    let input = Input::bundled().expect("part of the program");
    let (rows, thread) = read_ahead(input);
    let fleet = Fleet::new(1, 0.0);
    let patience = Patience::new(Duration::from_secs(60), |_| ());
    let options = Dispatch {
        in_flight: 256,
        start: Start::Fresh,
        patience: &patience,
    };
    let ask = |flight: Arc<Flight>| {
        let mut fleet = fleet.aircraft.borrow_mut();
        let aircraft = fleet.entry(flight.tailnum.clone()).or_default();
        let answer = aircraft.decide(&flight).map(|event| {
            aircraft.apply(&event);
            aircraft.totals().clone()
        });
        std::future::ready(Ok(answer))
    };
    let mut log = Log::default();
    let dispatched = dispatch(options, rows, ask, &mut log, std::future::pending()).await;
    assert!(matches!(dispatched.end, End::Complete));
    let fold = thread.join().expect("nobody panics");
    assert_eq!(log.0.len(), 27_004);
    assert_eq!(dispatched.counts.accepted, 26_483);
    assert_eq!(
        fleet.differences(&fold, Start::Fresh, &dispatched),
        Vec::<String>::new()
    );
}
