//! Commands that an entity sends to itself later. Time is a clock that the tests move.

use std::sync::Arc;
use std::time::Duration;

use perennial_core::{ActorSystem, Cx, Effect, EntityRef, Handle};
use perennial_testkit::ManualClock;
use tokio::sync::oneshot;

use crate::fixture::{
    Bed, Ledger, Note, Panic, Pending, Read, Record, ledger, mark, run, send, settle, until,
};

const SECOND: Duration = Duration::from_secs(1);

struct Timed {
    clock: ManualClock,
    system: ActorSystem,
    entity: EntityRef<Ledger>,
    record: Record,
}

impl Timed {
    async fn start(entity: perennial_core::Entity<Ledger>) -> Self {
        let bed = Bed::new();
        let clock = ManualClock::new();
        let system = bed.start_on(Arc::new(clock.clone()), entity, &[]).await;
        Self {
            clock,
            entity: system.entity("a"),
            system,
            record: Record::default(),
        }
    }

    async fn pass(&self, seconds: u32) {
        self.clock.advance(SECOND * seconds);
        settle(&self.system).await;
    }

    async fn start_single(&self, key: &'static str, seconds: u32, line: &'static str) {
        let mark = mark(line, &self.record);
        let ask = run(move |_, cx| {
            cx.timers().start_single(key, SECOND * seconds, mark);
            cx.reply(())
        });
        assert_eq!(self.entity.ask(ask).await, Ok(()));
    }

    async fn start_repeated(&self, key: &'static str, seconds: u32, line: &'static str) {
        let mark = mark(line, &self.record);
        let ask = run(move |_, cx| {
            cx.timers().start_repeated(key, SECOND * seconds, mark);
            cx.reply(())
        });
        assert_eq!(self.entity.ask(ask).await, Ok(()));
    }
}

#[tokio::test]
async fn a_single_timer_fires_once() {
    let t = Timed::start(ledger()).await;
    t.start_single("key", 10, "fired").await;
    t.pass(9).await;
    assert_eq!(t.record.lines(), [] as [&str; 0]);
    t.pass(1).await;
    assert_eq!(t.record.lines(), ["fired"]);
    t.pass(100).await;
    assert_eq!(t.record.lines(), ["fired"]);
}

#[tokio::test]
async fn a_repeated_timer_fires_every_period() {
    let t = Timed::start(ledger()).await;
    t.start_repeated("key", 10, "tick").await;
    for ticks in 1..=3 {
        t.pass(9).await;
        assert_eq!(t.record.lines().len(), ticks - 1);
        t.pass(1).await;
        assert_eq!(t.record.lines().len(), ticks);
    }
}

#[tokio::test]
async fn timers_fire_in_the_order_of_their_times() {
    let t = Timed::start(ledger()).await;
    t.start_single("third", 30, "third").await;
    t.start_single("first", 10, "first").await;
    t.start_single("second", 20, "second").await;
    t.pass(60).await;
    assert_eq!(t.record.lines(), ["first", "second", "third"]);
}

#[tokio::test]
async fn a_timer_replaces_the_one_with_its_key() {
    let t = Timed::start(ledger()).await;
    t.start_single("key", 10, "replaced").await;
    t.start_repeated("other", 15, "other").await;
    t.start_single("key", 20, "replacement").await;
    t.start_single("other", 25, "single now").await;
    t.pass(19).await;
    assert_eq!(t.record.lines(), [] as [&str; 0]);
    t.pass(1).await;
    assert_eq!(t.record.lines(), ["replacement"]);
    t.pass(100).await;
    assert_eq!(t.record.lines(), ["replacement", "single now"]);
}

#[tokio::test]
async fn a_cancelled_timer_does_not_fire() {
    let t = Timed::start(ledger()).await;
    t.start_single("single", 10, "single").await;
    t.start_repeated("repeated", 10, "repeated").await;
    t.start_repeated("kept", 10, "kept").await;
    let cancel = run(|_, cx| {
        cx.timers().cancel("single");
        cx.timers().cancel("repeated");
        cx.timers().cancel("never started");
        cx.reply(())
    });
    assert_eq!(t.entity.ask(cancel).await, Ok(()));
    t.pass(10).await;
    assert_eq!(t.record.lines(), ["kept"]);

    let cancel_all = run(|_, cx| {
        cx.timers().cancel_all();
        cx.reply(())
    });
    assert_eq!(t.entity.ask(cancel_all).await, Ok(()));
    t.pass(100).await;
    assert_eq!(t.record.lines(), ["kept"]);
}

#[tokio::test]
async fn timers_end_with_a_restart() {
    let t = Timed::start(ledger()).await;
    t.start_repeated("key", 10, "tick").await;
    assert!(t.entity.ask(Panic).await.is_err());
    t.pass(100).await;
    assert_eq!(t.entity.ask(Read).await, Ok(vec![]));
    t.pass(100).await;
    assert_eq!(t.record.lines(), [] as [&str; 0]);
}

#[tokio::test]
async fn timers_of_a_handler_that_panics_are_not_started() {
    let t = Timed::start(ledger()).await;
    let mark = mark("tick", &t.record);
    let ask = run(move |_, cx| {
        cx.timers().start_single("key", SECOND, mark);
        assert_eq!(cx.sequence_nr().value(), 1, "the handler panics");
        cx.reply(())
    });
    assert!(t.entity.ask(ask).await.is_err());
    t.pass(100).await;
    assert_eq!(t.record.lines(), [] as [&str; 0]);
}

#[tokio::test]
async fn timers_end_with_passivation_and_do_not_prevent_it() {
    let t = Timed::start(ledger().passivate_after(Some(SECOND * 60))).await;
    t.start_single("key", 300, "fired").await;
    // The bystander, which shows the time to the worker, stays itself.
    for _ in 0..4 {
        t.pass(50).await;
    }
    until("the entity has left", || t.system.stats().resident == 1).await;
    t.pass(500).await;
    assert_eq!(t.entity.ask(Read).await, Ok(vec![]));
    t.pass(500).await;
    assert_eq!(t.record.lines(), [] as [&str; 0]);
}

#[tokio::test]
async fn a_timer_that_fires_counts_as_a_command_for_passivation() {
    let t = Timed::start(ledger().passivate_after(Some(SECOND * 60))).await;
    t.start_repeated("key", 20, "tick").await;
    for _ in 0..30 {
        t.pass(20).await;
    }
    assert_eq!(t.record.lines().len(), 30);
}

#[tokio::test]
async fn a_timer_may_be_started_again_by_its_own_command() {
    let t = Timed::start(ledger()).await;
    t.start_single("key", 10, "first").await;
    t.pass(10).await;
    t.start_single("key", 10, "second").await;
    t.pass(10).await;
    assert_eq!(t.record.lines(), ["first", "second"]);
}

#[tokio::test]
async fn actions_and_continuations_may_start_timers() {
    let t = Timed::start(ledger()).await;
    let (of_action, of_continuation) = (mark("action", &t.record), mark("continuation", &t.record));
    let ask = run(move |_, cx| {
        cx.later(async {}, move |(), _, cx| {
            cx.timers()
                .start_single("continuation", SECOND * 10, of_continuation);
            cx.reply(())
        })
        .then_run(move |_, cx| cx.timers().start_single("action", SECOND * 20, of_action))
    });
    assert_eq!(t.entity.ask(ask).await, Ok(()));
    t.pass(10).await;
    t.pass(10).await;
    assert_eq!(t.record.lines(), ["continuation", "action"]);
}

/// An entity that is busy until it is let go on.
struct Busy {
    done: oneshot::Sender<()>,
    answer: Pending<()>,
}

impl Busy {
    async fn begin(t: &Timed) -> Self {
        let (done, wait) = oneshot::channel::<()>();
        let busy = run(move |_, cx| cx.later(wait, |_, _, cx| cx.reply(())));
        let answer = send(&t.entity, busy);
        settle(&t.system).await;
        Self { done, answer }
    }

    async fn end(self, t: &Timed) {
        self.done.send(()).expect("the future waits");
        assert_eq!(self.answer.answer().await, Ok(()));
        settle(&t.system).await;
    }
}

#[tokio::test]
async fn times_are_passed_over_at_which_the_one_before_still_waits() {
    let t = Timed::start(ledger()).await;
    t.start_repeated("key", 1, "tick").await;
    let busy = Busy::begin(&t).await;
    for _ in 0..20 {
        t.pass(1).await;
    }
    assert_eq!(t.record.lines(), [] as [&str; 0]);
    busy.end(&t).await;
    assert_eq!(t.record.lines().len(), 1);
    // It goes on ticking.
    t.pass(1).await;
    assert_eq!(t.record.lines().len(), 2);
    assert_eq!(t.entity.ask(Note(1)).await, Ok(vec![1]));
}

#[tokio::test]
async fn nothing_of_a_timer_is_handled_once_it_is_cancelled_or_replaced() {
    let t = Timed::start(ledger()).await;
    t.start_single("cancelled", 1, "cancelled").await;
    t.start_repeated("replaced", 1, "replaced").await;
    t.start_single("kept", 1, "kept").await;
    let busy = Busy::begin(&t).await;
    // Stands before what the timers send.
    let replacement = mark("replacement", &t.record);
    let cancel = run(move |_, cx| {
        cx.timers().cancel("cancelled");
        cx.timers()
            .start_single("replaced", SECOND * 5, replacement);
        cx.reply(())
    });
    t.entity.tell(cancel).expect("room");
    t.pass(1).await;
    busy.end(&t).await;
    assert_eq!(t.record.lines(), ["kept"]);
    t.pass(5).await;
    assert_eq!(t.record.lines(), ["kept", "replacement"]);

    // All of them.
    t.start_single("one", 1, "one").await;
    t.start_repeated("other", 1, "other").await;
    let busy = Busy::begin(&t).await;
    let cancel = run(move |_, cx| {
        cx.timers().cancel_all();
        cx.reply(())
    });
    t.entity.tell(cancel).expect("room");
    t.pass(1).await;
    busy.end(&t).await;
    t.pass(5).await;
    assert_eq!(t.record.lines(), ["kept", "replacement"]);
}

#[tokio::test]
async fn what_a_timer_has_sent_ends_with_a_restart_and_with_a_stop() {
    let t = Timed::start(ledger()).await;
    for ends in [false, true] {
        t.start_single("single", 1, "single").await;
        t.start_repeated("repeated", 1, "repeated").await;
        let busy = Busy::begin(&t).await;
        if ends {
            let stop = run(|_, cx| cx.reply(()).then_stop());
            t.entity.tell(stop).expect("room");
        } else {
            t.entity.tell(Panic).expect("room");
        }
        t.pass(1).await;
        busy.end(&t).await;
        t.pass(100).await;
        // What comes for nothing brings no entity back: the bystander alone is there.
        if ends {
            until("the entity has left", || t.system.stats().resident == 1).await;
        }
        assert_eq!(t.entity.ask(Read).await, Ok(vec![]));
        assert_eq!(t.record.lines(), [] as [&str; 0]);
    }
}

#[tokio::test]
async fn what_a_timer_has_sent_and_was_put_aside_is_a_command_like_any_other() {
    #[derive(Clone)]
    struct AsideOnce(Record, bool);
    impl Handle<AsideOnce> for Ledger {
        type Reply = ();
        fn handle(&self, once: AsideOnce, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
            let AsideOnce(record, is_aside) = once;
            if is_aside {
                record.add("handled");
                cx.reply(())
            } else {
                cx.stash(AsideOnce(record, true))
            }
        }
    }

    let t = Timed::start(ledger()).await;
    let aside = AsideOnce(t.record.clone(), false);
    let start = run(move |_, cx| {
        cx.timers().start_single("key", SECOND, aside);
        cx.reply(())
    });
    assert_eq!(t.entity.ask(start).await, Ok(()));
    t.pass(1).await;
    let go_on = run(|_, cx| {
        cx.timers().cancel("key");
        cx.reply(()).then_unstash_all()
    });
    assert_eq!(t.entity.ask(go_on).await, Ok(()));
    settle(&t.system).await;
    assert_eq!(t.record.lines(), ["handled"]);
}

#[tokio::test]
async fn a_command_that_cannot_be_cloned_restarts_its_entity_only() {
    struct Fragile;
    impl Clone for Fragile {
        fn clone(&self) -> Self {
            panic!("this command cannot be cloned")
        }
    }
    impl Handle<Fragile> for Ledger {
        type Reply = ();
        fn handle(&self, _: Fragile, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
            cx.reply(())
        }
    }

    let t = Timed::start(ledger()).await;
    let start = run(|_, cx| {
        cx.timers().start_repeated("key", SECOND, Fragile);
        cx.reply(())
    });
    assert_eq!(t.entity.ask(start).await, Ok(()));
    t.pass(1).await;
    let note = send(&t.entity, Note(1));
    t.pass(1).await;
    assert_eq!(note.answer().await, Ok(vec![1]));
    t.pass(10).await;
    assert_eq!(t.entity.ask(Note(2)).await, Ok(vec![1, 2]));
}

#[tokio::test]
async fn a_timer_beyond_all_time_is_allowed() {
    let bed = Bed::new();
    // Nothing else wakes the worker, which could hide this.
    let system = bed.start_with(ledger().passivate_after(None), &[]).await;
    let entity = system.entity::<Ledger>("a");
    let start = run(|_, cx| {
        cx.timers().start_single("single", Duration::MAX, Read);
        cx.timers().start_repeated("repeated", Duration::MAX, Read);
        cx.reply(())
    });
    assert_eq!(entity.ask(start).await, Ok(()));
    let later = run(|_, cx| {
        cx.later(async {}, |(), _, cx| cx.reply(()))
            .timeout(Duration::MAX)
    });
    assert_eq!(entity.ask(later).await, Ok(()));
    settle(&system).await;
    assert_eq!(entity.ask(Note(1)).await, Ok(vec![1]));
    assert_eq!(system.shutdown().await, Ok(()));
}
