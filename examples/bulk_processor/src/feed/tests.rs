use std::cell::{Cell, RefCell};

use flight_table::ahead::Batches;
use tokio::sync::{mpsc, oneshot};

use super::*;

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

/// Batches as the reader gives them.
fn batches(sizes: &[i64]) -> Batches<Item> {
    let (sender, receiver) = mpsc::channel(sizes.len().max(1));
    let mut first = 1;
    for size in sizes {
        let batch = (first..first + size).map(item).collect();
        sender.try_send(Ok(batch)).expect("there is room");
        first += size;
    }
    receiver
}

fn patience() -> Patience {
    Patience::new(Duration::from_secs(60), |_| ())
}

fn options(patience: &Patience) -> Feed<'_> {
    Feed {
        under_way: 4,
        rate: None,
        sample: 3,
        patience,
    }
}

#[tokio::test]
async fn every_item_is_taken_once_and_no_more_than_allowed_are_on_their_way() {
    let patience = patience();
    let (now, most) = (Cell::new(0), Cell::new(0));
    let taken = RefCell::new(Vec::new());
    let take = |item: Item| {
        let (now, most, taken) = (&now, &most, &taken);
        async move {
            now.set(now.get() + 1);
            most.set(most.get().max(now.get()));
            tokio::task::yield_now().await;
            taken.borrow_mut().push(item.line);
            now.set(now.get() - 1);
            Ok(())
        }
    };
    let rows = batches(&[3, 0, 10, 1]);
    let fed = feed(options(&patience), rows, take, std::future::pending()).await;
    assert!(matches!(fed.end, End::Complete));
    assert_eq!((fed.items, most.get()), (14, 4));
    let sample: Vec<i64> = fed.sample.iter().map(|(line, _)| *line).collect();
    assert_eq!(sample, [1, 2, 3]);
    let mut taken = taken.into_inner();
    taken.sort_unstable();
    assert_eq!(taken, Vec::from_iter(1..=14));
}

#[tokio::test(start_paused = true)]
async fn no_more_items_go_than_the_rate_allows() {
    let patience = patience();
    let begun = Instant::now();
    let times = RefCell::new(Vec::new());
    let take = |_| {
        times.borrow_mut().push(begun.elapsed().as_millis());
        std::future::ready(Ok(()))
    };
    let held_back = Feed {
        rate: Some(10.0),
        ..options(&patience)
    };
    feed(held_back, batches(&[4, 1]), take, std::future::pending()).await;
    for (number, at) in times.into_inner().into_iter().enumerate() {
        let due = number as u128 * 100;
        // To the millisecond, which a timer may be late.
        assert!((due..=due + 2).contains(&at), "item {number} at {at} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn an_item_that_is_not_taken_is_offered_again_and_given_up_in_time() {
    let patience = patience();
    let attempts = Cell::new(0);
    let take = |_| {
        attempts.set(attempts.get() + 1);
        std::future::ready(match attempts.get() {
            2..=4 => Err(AskFailure::Busy),
            _ => Ok(()),
        })
    };
    let fed = feed(
        options(&patience),
        batches(&[2]),
        take,
        std::future::pending(),
    )
    .await;
    assert!(matches!(fed.end, End::Complete));
    assert_eq!((fed.items, attempts.get()), (2, 5));

    let take = |_| std::future::ready(Err(AskFailure::Busy));
    let fed = feed(
        options(&patience),
        batches(&[2]),
        take,
        std::future::pending(),
    )
    .await;
    let End::Failed(error) = fed.end else {
        panic!("{fed:?}");
    };
    assert!(error.to_string().ends_with("is not taken"), "{error}");
}

#[tokio::test]
async fn what_comes_before_a_broken_file_is_taken() {
    let patience = patience();
    let (sender, rows) = mpsc::channel(2);
    sender.try_send(Ok(vec![item(1)])).expect("there is room");
    let broken = input::Error::Read {
        name: "in.csv".into(),
        rows: 1,
        source: std::io::Error::other("cut"),
    };
    sender.try_send(Err(broken)).expect("there is room");
    let take = |_| std::future::ready(Ok(()));
    let fed = feed(options(&patience), rows, take, std::future::pending()).await;
    assert_eq!(fed.items, 1);
    assert!(matches!(fed.end, End::Failed(Error::Input(_))));
}

#[tokio::test(start_paused = true)]
async fn a_stop_takes_no_more_and_waits_for_what_is_on_its_way() {
    let patience = patience();
    let (stop, stopped) = oneshot::channel::<()>();
    let stop = RefCell::new(Some(stop));
    let begun = Cell::new(0);
    let take = |_: Item| {
        let (begun, stop) = (&begun, &stop);
        async move {
            begun.set(begun.get() + 1);
            if begun.get() == 3 {
                drop(stop.borrow_mut().take());
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(())
        }
    };
    let stopped = async {
        let _ = stopped.await;
    };
    let fed = feed(options(&patience), batches(&[100]), take, stopped).await;
    assert!(matches!(fed.end, End::Stopped));
    assert_eq!((fed.items, begun.get()), (4, 4));
}
