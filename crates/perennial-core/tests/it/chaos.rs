//! Everything at once, on real threads: whatever happens, callers are answered, and truthfully.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use perennial_core::{ActorSystem, AskError, Cx, Effect};
use perennial_testkit::{ChangeFault, ReadFault, WriteFault};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::fixture::{Bed, Entry, Ledger, Read, in_time, ledger, noted, run, until};

const ENTITIES: u64 = 12;
const CALLERS: u64 = 6;

/// How many commands each caller sends per round; more make a longer run.
fn commands() -> u64 {
    std::env::var("PERENNIAL_CHAOS_COMMANDS")
        .ok()
        .map_or(150, |text| text.parse().expect("a number"))
}

/// Sends a command of some kind that stores `number` in some way; `None` for those that store
/// nothing.
async fn send_some(
    system: &ActorSystem,
    random: &mut SmallRng,
    entity: u64,
    number: u64,
) -> Option<Result<(), AskError>> {
    let entity = system.entity::<Ledger>(format!("e{entity}"));
    let timeout = Duration::from_millis(random.random_range(1..2000));
    let kind = random.random_range(0..14);
    let store = move |cx: &Cx<'_, Ledger>| cx.persist(noted([number]));
    macro_rules! ask {
        ($handler:expr) => {
            entity.ask(run($handler)).timeout(timeout).await
        };
    }
    Some(match kind {
        0..=4 => ask!(move |_, cx| store(cx).reply(|_| ())),
        5 => ask!(move |_, cx| store(cx).then_run(|_, _| ()).reply(|_| ())),
        6 => ask!(move |_, cx| store(cx).then_stop().reply(|_| ())),
        7 => ask!(move |_, cx| store(cx).then_unstash_all().reply(|_| ())),
        8 => ask!(move |_, cx| {
            cx.later(tokio::task::yield_now(), move |(), _, cx| {
                store(cx).reply(|_| ())
            })
        }),
        9 => ask!(move |_, cx| {
            let sleep = tokio::time::sleep(Duration::from_millis(number % 5));
            cx.later(sleep, move |(), _, cx| store(cx).reply(|_| ()))
                .interleaved()
        }),
        10 => ask!(
            move |ledger: &Ledger, cx: &Cx<'_, Ledger>| -> Effect<Ledger, ()> {
                assert!(
                    !number.is_multiple_of(3) || ledger.notes.len() > 1_000_000,
                    "it panics"
                );
                store(cx).reply(|_| ())
            }
        ),
        11 => ask!(move |_, cx| {
            cx.persist([Entry::Noted(number), Entry::Poison])
                .reply(|_| ())
        }),
        12 => {
            let mark = crate::fixture::mark_later("stashed", &crate::fixture::Record::default());
            let asked = entity.ask(mark).timeout(timeout).await;
            let _ = asked;
            return None;
        }
        _ => {
            let start = run(move |_, cx| {
                cx.timers()
                    .start_single("key", Duration::from_millis(number % 7), Read);
                cx.reply(())
            });
            let _ = entity.ask(start).timeout(timeout).await;
            let _ = entity.tell(Read);
            return None;
        }
    })
}

fn plan_faults(bed: &Bed, seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    bed.faults.writes.decide(move |_| {
        if !random.random_ratio(1, 12) {
            return None;
        }
        Some(match random.random_range(0..5) {
            0 => WriteFault::Rejected,
            1 => WriteFault::Conflict,
            2 => WriteFault::Unavailable,
            3 => WriteFault::LostRequest,
            _ => WriteFault::LostAnswer,
        })
    });
    let mut random = SmallRng::seed_from_u64(seed + 1);
    bed.faults
        .reads
        .decide(move |_| match random.random_range(0..40) {
            0..5 => Some(ReadFault::Unavailable),
            5 => Some(ReadFault::Corrupt),
            _ => None,
        });
    let mut random = SmallRng::seed_from_u64(seed + 2);
    bed.faults
        .snapshot_saves
        .decide(move |_| random.random_ratio(1, 4).then_some(ChangeFault::LostAnswer));
    let mut random = SmallRng::seed_from_u64(seed + 3);
    bed.faults
        .snapshot_loads
        .decide(move |_| random.random_ratio(1, 10).then_some(ReadFault::Undecodable));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_are_answered_truthfully_whatever_happens() {
    for seed in 0..4 {
        let bed = Bed::new();
        let entity_type = ledger()
            .snapshot_every(7)
            .mailbox(64)
            .stash(3)
            .passivate_after(Some(Duration::from_millis(3)));
        let settings = [
            ("system.workers", "2"),
            ("persistence.outcome-timeout", "20ms"),
            ("persistence.recoveries", "3"),
            ("persistence.replay-rows", "9"),
            ("system.later-limit", "8"),
        ];
        let system = bed.start_with(entity_type, &settings).await;
        plan_faults(&bed, seed);
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let system = system.clone();
                tokio::spawn(async move {
                    let mut random = SmallRng::seed_from_u64(seed * 100 + caller);
                    let mut told = BTreeMap::new();
                    for command in 0..commands() {
                        let number = caller * 1_000_000 + command;
                        let entity = random.random_range(0..ENTITIES);
                        let answer = send_some(&system, &mut random, entity, number).await;
                        if let Some(answer) = answer {
                            told.insert(number, answer);
                        }
                    }
                    told
                })
            })
            .collect();
        let mut told = BTreeMap::new();
        for caller in callers {
            told.extend(in_time("a caller", caller).await.expect("no panic"));
        }
        bed.faults.clear();
        until("all have left memory", || system.stats().resident == 0).await;

        let stored: BTreeMap<String, Arc<Vec<Entry>>> = (0..ENTITIES)
            .map(|entity| format!("e{entity}"))
            .map(|entity_id| (entity_id.clone(), Arc::new(bed.stored(&entity_id))))
            .collect();
        let mut times: BTreeMap<u64, u32> = BTreeMap::new();
        for entry in stored.values().flat_map(|stored| stored.iter()) {
            let Entry::Noted(number) = entry else {
                panic!("{entry:?} must not be stored");
            };
            *times.entry(*number).or_default() += 1;
        }
        for (number, answer) in &told {
            let times = times.get(number).copied().unwrap_or_default();
            let fits = match answer {
                Ok(()) => times == 1,
                Err(AskError::Unknown { .. }) => times <= 1,
                Err(_) => times == 0,
            };
            assert!(
                fits,
                "seed {seed}, {number}: {answer:?}, stored {times} times"
            );
        }
        for (entity_id, stored) in stored {
            let state = system.entity::<Ledger>(&entity_id).ask(Read).await;
            assert_eq!(state.map(noted).as_ref(), Ok(&*stored), "seed {seed}");
            let numbers: Vec<u64> = bed
                .rows(&entity_id)
                .iter()
                .map(|row| row.seq_nr.value())
                .collect();
            assert_eq!(numbers, (1..=stored.len() as u64).collect::<Vec<_>>());
        }
        assert_eq!(in_time("the end", system.shutdown()).await, Ok(()));
    }
}
