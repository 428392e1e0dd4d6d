//! The coordinated shutdown: phases, tasks, deadlines, and what was cut off.

use std::sync::Arc;
use std::time::Duration;

use perennial_core::{
    Actor, ActorCx, ActorSystem, AddTaskError, AskError, CoordinatedShutdown, Receive, Received,
    ShutdownError, ShutdownPhase, ShutdownReason, ShutdownReport, SpawnError, TaskError,
    TaskOutcome,
};
use tokio::sync::{Barrier, oneshot};

use crate::fixture::{
    Bed, Latch, Ledger, Note, Read, Record, config, hold_writes, in_time, mark_later, run, send,
    settle, until,
};

async fn actors_only(settings: &[(&str, &str)]) -> ActorSystem {
    let builder = ActorSystem::in_memory(config(settings));
    builder.start().await.expect("starts")
}

/// Adds a line to a record when it runs.
fn note(
    record: &Record,
    text: &'static str,
) -> impl Future<Output = Result<(), TaskError>> + use<> {
    let record = record.clone();
    async move {
        record.add(text);
        Ok(())
    }
}

fn outcome_of(report: &ShutdownReport, name: &str) -> TaskOutcome {
    let mut tasks = report.phases.iter().flat_map(|phase| &phase.tasks);
    let task = tasks.find(|task| task.name == name);
    task.expect("the task ran").outcome.clone()
}

/// Does what it is told to.
struct Worker;

impl Actor for Worker {}

/// Never ends.
struct Hang;

impl Receive<Hang> for Worker {
    type Reply = ();

    fn receive(&mut self, _: Hang, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        cx.exclusive()
            .later(std::future::pending::<()>(), |(), _, cx| cx.reply(()))
    }
}

/// Does not return until the latch opens.
struct Block(Latch, Record);

impl Receive<Block> for Worker {
    type Reply = ();

    fn receive(&mut self, block: Block, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        block.1.add("inside");
        block.0.wait();
        cx.reply(())
    }
}

/// Spawns a child that hangs.
struct HangChild;

impl Receive<HangChild> for Worker {
    type Reply = String;

    fn receive(&mut self, _: HangChild, cx: &mut ActorCx<'_, Self>) -> Received<Self, String> {
        let child = cx.spawn("child", || Worker)?;
        child.tell(Hang)?;
        cx.reply(child.path().to_string())
    }
}

/// Shuts the system down.
struct GoHome(ActorSystem);

impl Receive<GoHome> for Worker {
    type Reply = ();

    fn receive(&mut self, go: GoHome, cx: &mut ActorCx<'_, Self>) -> Received<Self, ()> {
        go.0.coordinated_shutdown().begin("nothing left to do");
        cx.reply(())
    }
}

#[tokio::test]
async fn phases_come_in_order_and_the_store_is_closed_in_its_own() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let record = Record::default();
    let shutdown = system.coordinated_shutdown();
    // Registered in the wrong order.
    for phase in ShutdownPhase::ALL.into_iter().rev() {
        shutdown
            .add_task(phase, phase.as_str(), note(&record, phase.as_str()))
            .expect("in time");
    }
    let entity = system.entity::<Ledger>("a");
    entity.ask(Note(1)).await.expect("stored");
    assert_eq!(shutdown.reason(), None);
    let report = in_time("the end", shutdown.run("a test")).await;
    let report = report.expect("no panic");
    assert_eq!(
        record.lines(),
        ShutdownPhase::ALL.map(ShutdownPhase::as_str)
    );
    let phases: Vec<_> = report.phases.iter().map(|phase| phase.phase).collect();
    assert_eq!(phases, ShutdownPhase::ALL);
    assert!(report.is_complete(), "{report}");
    assert_eq!(report.reason, ShutdownReason::from("a test"));
    assert_eq!(shutdown.reason(), Some(ShutdownReason::from("a test")));
    let text = report.to_string();
    assert!(
        text.starts_with("shutdown (a test): complete after "),
        "{text}"
    );
    // Whoever comes later is told the same.
    assert_eq!(system.shutdown().await, Ok(()));
    let again = shutdown.run("another reason").await.expect("no panic");
    assert!(Arc::ptr_eq(&again, &report));
}

#[tokio::test]
async fn tasks_of_a_phase_run_beside_each_other() {
    let system = actors_only(&[]).await;
    let barrier = Arc::new(Barrier::new(3));
    for name in ["a", "b", "c"] {
        let barrier = Arc::clone(&barrier);
        let meet = async move {
            barrier.wait().await;
            Ok(())
        };
        let shutdown = system.coordinated_shutdown();
        shutdown
            .add_task(ShutdownPhase::Flush, name, meet)
            .expect("in time");
    }
    let report = system.coordinated_shutdown().run("a test").await;
    let report = report.expect("no panic");
    assert!(report.is_complete(), "{report}");
}

#[tokio::test]
async fn a_task_that_does_not_succeed_is_named_and_the_shutdown_goes_on() {
    let bed = Bed::new();
    let settings = [
        ("system.shutdown.phase-timeout", "10m"),
        ("system.shutdown.service-unbind", "20ms"),
    ];
    let system = bed.start(&settings).await;
    let shutdown = system.coordinated_shutdown();
    let record = Record::default();
    let (held, is_dropped) = oneshot::channel::<()>();
    let hangs = async move {
        let _held = held;
        std::future::pending().await
    };
    let fails = async { Err("the port is gone".into()) };
    let panics = async { panic!("nobody thought of that") };
    let add = |phase, name: &'static str, task: Result<_, AddTaskError>| {
        task.unwrap_or_else(|error| panic!("{name} in {phase}: {error}"));
    };
    let phase = ShutdownPhase::ServiceUnbind;
    add(phase, "hangs", shutdown.add_task(phase, "hangs", hangs));
    let phase = ShutdownPhase::ServiceRequestsDone;
    add(phase, "fails", shutdown.add_task(phase, "fails", fails));
    add(phase, "panics", shutdown.add_task(phase, "panics", panics));
    let good = note(&record, "good");
    add(phase, "good", shutdown.add_task(phase, "good", good));
    let last = ShutdownPhase::After;
    let after = note(&record, "after");
    add(last, "after", shutdown.add_task(last, "after", after));

    let error = in_time("the end", system.shutdown()).await;
    let names = [
        "service-unbind/hangs",
        "service-requests-done/fails",
        "service-requests-done/panics",
    ];
    let expected = ShutdownError::Tasks {
        tasks: names.map(str::to_owned).to_vec(),
    };
    assert_eq!(error, Err(expected));
    assert!(is_dropped.await.is_err(), "it is dropped");
    let report = shutdown.ended().await.expect("no panic");
    assert_eq!(outcome_of(&report, "hangs"), TaskOutcome::CutOff);
    let failed = TaskOutcome::Failed("the port is gone".into());
    assert_eq!(outcome_of(&report, "fails"), failed);
    let panicked = TaskOutcome::Panicked("nobody thought of that".into());
    assert_eq!(outcome_of(&report, "panics"), panicked);
    assert_eq!(outcome_of(&report, "good"), TaskOutcome::Done);
    assert_eq!(record.lines(), ["good", "after"]);
    let text = report.to_string();
    assert!(
        text.contains("service-unbind: task \"hangs\" was cut off"),
        "{text}"
    );
    assert!(!report.is_complete());
    assert!(report.phases.iter().all(|phase| !phase.timed_out), "{text}");
}

#[tokio::test]
async fn a_task_can_be_taken_back_until_its_phase_begins() {
    let system = actors_only(&[]).await;
    let shutdown = system.coordinated_shutdown();
    let record = Record::default();
    let add = |name: &'static str| {
        let task = note(&record, name);
        shutdown.add_task(ShutdownPhase::Flush, name, task)
    };
    let kept = add("kept").expect("in time");
    let cancelled = add("cancelled").expect("in time");
    assert!(cancelled.cancel());
    assert!(!cancelled.cancel(), "once");
    assert_eq!(system.shutdown().await, Ok(()));
    assert_eq!(record.lines(), ["kept"]);
    assert!(!kept.cancel(), "it has run");
    let late = add("late").expect_err("its phase is over");
    let expected = "task \"late\" comes too late: phase flush of the shutdown has begun";
    assert_eq!(late.to_string(), expected);
}

#[tokio::test]
async fn a_later_phase_takes_tasks_while_an_earlier_one_runs() {
    let system = actors_only(&[]).await;
    let shutdown = system.coordinated_shutdown();
    let record = Record::default();
    let unbind = {
        let (shutdown, record) = (shutdown.clone(), record.clone());
        async move {
            let own = ShutdownPhase::ServiceUnbind;
            assert!(shutdown.add_task(own, "own", note(&record, "own")).is_err());
            shutdown.add_task(ShutdownPhase::Flush, "next", note(&record, "next"))?;
            Ok(())
        }
    };
    shutdown
        .add_task(ShutdownPhase::ServiceUnbind, "unbind", unbind)
        .expect("in time");
    assert_eq!(system.shutdown().await, Ok(()));
    assert_eq!(record.lines(), ["next"]);
}

#[tokio::test]
async fn a_shutdown_has_exactly_so_many_tasks_at_the_most() {
    let system = actors_only(&[]).await;
    let shutdown = system.coordinated_shutdown();
    let record = Record::default();
    let add = || {
        let task = note(&record, "ran");
        shutdown.add_task(ShutdownPhase::After, "one of many", task)
    };
    let first = add().expect("the first one");
    for _ in 1..CoordinatedShutdown::MAX_TASKS {
        add().expect("below the bound");
    }
    let one_more = add().expect_err("one too many");
    assert!(matches!(one_more, AddTaskError::TooMany { .. }));
    assert!(first.cancel());
    add().expect("there is room again");
    assert_eq!(system.shutdown().await, Ok(()));
    assert_eq!(record.lines().len(), CoordinatedShutdown::MAX_TASKS);
}

#[tokio::test]
async fn actors_and_entities_take_everything_until_services_have_ended() {
    let bed = Bed::new();
    let system = bed.start(&[]).await;
    let entity = system.entity::<Ledger>("a");
    let shutdown = system.coordinated_shutdown();
    let requests = {
        let (system, entity) = (system.clone(), entity.clone());
        async move {
            assert_eq!(entity.ask(Note(1)).await?, [1]);
            let actor = system.spawn("late", || Worker)?;
            actor.tell(GoHome(system))?;
            Ok(())
        }
    };
    shutdown
        .add_task(ShutdownPhase::ServiceRequestsDone, "requests", requests)
        .expect("in time");
    // Actors may still ask entities while they stop.
    let stop = {
        let entity = entity.clone();
        async move {
            assert_eq!(entity.ask(Note(2)).await?, [1, 2]);
            Ok(())
        }
    };
    shutdown
        .add_task(ShutdownPhase::StopActors, "asks", stop)
        .expect("in time");
    let drain = {
        let (system, entity) = (system.clone(), entity.clone());
        async move {
            assert_eq!(entity.ask(Note(3)).await, Err(AskError::Stopped));
            assert!(matches!(
                system.spawn("too late", || Worker),
                Err(SpawnError::Stopped)
            ));
            Ok(())
        }
    };
    shutdown
        .add_task(ShutdownPhase::Flush, "refused", drain)
        .expect("in time");
    assert_eq!(in_time("the end", system.shutdown()).await, Ok(()));
    let report = shutdown.ended().await.expect("no panic");
    assert_eq!(
        report.reason,
        ShutdownReason::Program,
        "the first one counts"
    );
    assert_eq!(report.refused, 1);
    assert_eq!(bed.stored("a").len(), 2);
}

#[tokio::test]
async fn what_was_cut_off_is_listed() {
    let bed = Bed::new();
    let settings = [("system.shutdown-timeout", "100ms")];
    let system = bed.start(&settings).await;
    let parent = system.spawn("parent", || Worker).expect("a free name");
    let child = parent.ask(HangChild).await.expect("a child");
    assert_eq!(child, "/parent/child");
    let unnamed = system.spawn_anonymous(|| Worker).expect("it runs");
    unnamed.tell(Hang).expect("there is room");
    let idle = system.spawn("idle", || Worker).expect("a free name");

    let record = Record::default();
    let stashes = system.entity::<Ledger>("stashes");
    let stashed = send(&stashes, mark_later("stashed", &record));
    settle(&system).await;
    let gate = hold_writes(&bed.faults);
    let writes = system.entity::<Ledger>("writes");
    let begun = [1, 2].map(|number| send(&writes, Note(number)));
    gate.wait_for_arrivals(1).await;
    let futures = system.entity::<Ledger>("futures");
    let hang = run(|_, cx| cx.later(std::future::pending::<()>(), |(), _, cx| cx.reply(())));
    let later = send(&futures, hang);
    let behind = send(&futures, Read);
    settle(&system).await;

    let shutdown = system.coordinated_shutdown();
    let report = in_time("the end", shutdown.run("a test")).await;
    let report = report.expect("no panic");
    let mut actors = report.actors.clone();
    actors.sort();
    let unnamed = unnamed.path().to_string();
    assert_eq!(actors, [unnamed.as_str(), "/parent", "/parent/child"]);
    assert!(idle.has_ended());
    let mut entities: Vec<_> = report
        .entities
        .iter()
        .map(|entity| {
            let id = entity.persistence_id.entity_id();
            (id.to_owned(), entity.waiting, entity.begun)
        })
        .collect();
    entities.sort();
    let expected = [("futures", 1, 1), ("writes", 0, 2)];
    assert_eq!(
        entities,
        expected.map(|(id, waiting, begun)| (id.to_owned(), waiting, begun))
    );
    assert_eq!((report.more_actors, report.more_entities), (0, 0));
    // What was stashed is refused when entities begin to drain.
    assert_eq!(stashed.answer().await, Err(AskError::Stopped));
    assert_eq!(report.refused, 1);
    // And everybody is told what the list says.
    assert_eq!(behind.answer().await, Err(AskError::Stopped));
    for ask in begun {
        let answer = ask.answer().await;
        assert!(
            matches!(answer, Err(AskError::Unknown { .. })),
            "{answer:?}"
        );
    }
    let later = later.answer().await;
    assert!(matches!(later, Err(AskError::Unknown { .. })), "{later:?}");
    let timed_out: Vec<_> = report
        .phases
        .iter()
        .filter(|phase| phase.timed_out)
        .map(|phase| phase.phase)
        .collect();
    assert_eq!(
        timed_out,
        [ShutdownPhase::StopActors, ShutdownPhase::DrainEntities]
    );
    let text = report.to_string();
    for line in [
        "shutdown (a test): incomplete after ",
        "\n  stop-actors: the system's part had too little time",
        "\n  actor /parent/child had not ended",
        "\n  entity Ledger|futures had 1 commands under way and 1 waiting",
        "\n  1 commands and messages were refused",
    ] {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
}

#[tokio::test]
async fn whoever_does_not_return_is_listed_with_those_behind_it() {
    let bed = Bed::new();
    let settings = [
        ("system.shutdown-timeout", "50ms"),
        ("system.ask-timeout", "1s"),
    ];
    let latch = Latch::default();
    let record = Record::default();

    let system = bed.start(&settings).await;
    let (blocked, inside) = (latch.clone(), record.clone());
    let hold = run(move |_, cx| {
        inside.add("inside");
        blocked.wait();
        cx.reply(())
    });
    let _stuck = send(&system.entity::<Ledger>("stuck"), hold);
    until("the handler runs", || !record.lines().is_empty()).await;
    let _behind = send(&system.entity::<Ledger>("behind"), Read);
    let report = in_time("the end", system.coordinated_shutdown().run("a test")).await;
    let report = report.expect("no panic");
    let mut entities: Vec<_> = report.entities.iter().map(ToString::to_string).collect();
    entities.sort();
    let expected = [
        "entity Ledger|behind had 0 commands under way and 1 waiting",
        "entity Ledger|stuck had 1 commands under way and 0 waiting",
    ];
    assert_eq!(entities, expected);

    let system = actors_only(&settings).await;
    let stuck = system.spawn("stuck", || Worker).expect("a free name");
    stuck
        .tell(Block(latch.clone(), record.clone()))
        .expect("room");
    until("the handler runs", || record.lines().len() == 2).await;
    let report = in_time("the end", system.coordinated_shutdown().run("a test")).await;
    let report = report.expect("no panic");
    assert_eq!(report.actors, ["/stuck"]);
    latch.open();
}

#[tokio::test]
async fn no_more_than_so_many_are_listed_and_the_others_are_counted() {
    let settings = [
        ("system.shutdown-timeout", "100ms"),
        ("system.later-limit", "4096"),
    ];
    let system = actors_only(&settings).await;
    for _ in 0..=ShutdownReport::LISTED {
        let actor = system.spawn_anonymous(|| Worker).expect("it runs");
        actor.tell(Hang).expect("there is room");
    }
    let count = ShutdownReport::LISTED + 1;
    until("all are there", || system.stats().actors == count).await;
    let report = in_time("the end", system.coordinated_shutdown().run("a test")).await;
    let report = report.expect("no panic");
    assert_eq!(report.actors.len(), ShutdownReport::LISTED);
    assert_eq!(report.more_actors, 1);
}

#[tokio::test]
async fn the_deadline_of_the_whole_cuts_every_phase() {
    let bed = Bed::new();
    let settings = [
        ("system.shutdown.deadline", "50ms"),
        ("system.shutdown.phase-timeout", "10m"),
        ("system.shutdown-timeout", "10m"),
    ];
    let system = bed.start(&settings).await;
    let hang = system.spawn("hang", || Worker).expect("a free name");
    hang.tell(Hang).expect("there is room");
    settle(&system).await;
    let shutdown = system.coordinated_shutdown();
    for phase in [ShutdownPhase::ServiceUnbind, ShutdownPhase::After] {
        shutdown
            .add_task(phase, "hangs", std::future::pending())
            .expect("in time");
    }
    let report = in_time("the end", shutdown.run("a test")).await;
    let report = report.expect("no panic");
    assert!(report.elapsed >= Duration::from_millis(50));
    let not_done: Vec<_> = report.not_done().map(|(phase, _)| phase.phase).collect();
    assert_eq!(
        not_done,
        [ShutdownPhase::ServiceUnbind, ShutdownPhase::After]
    );
    assert_eq!(report.actors, ["/hang"]);
}

#[tokio::test]
async fn an_actor_may_begin_it_and_whoever_drops_the_system_does() {
    let system = actors_only(&[]).await;
    let actor = system.spawn("last", || Worker).expect("a free name");
    assert_eq!(actor.ask(GoHome(system.clone())).await, Ok(()));
    let ended = in_time("the end", system.coordinated_shutdown().ended()).await;
    let reason = ended.expect("no panic").reason.clone();
    assert_eq!(reason.to_string(), "nothing left to do");

    let system = actors_only(&[]).await;
    let record = Record::default();
    let (done, is_done) = oneshot::channel();
    let task = async move {
        done.send(()).map_err(|()| "nobody waits")?;
        Ok(())
    };
    let shutdown = system.coordinated_shutdown();
    shutdown
        .add_task(
            ShutdownPhase::BeforeServiceUnbind,
            "first",
            note(&record, "first"),
        )
        .expect("in time");
    shutdown
        .add_task(ShutdownPhase::After, "last", task)
        .expect("in time");
    drop((shutdown, system));
    in_time("the last phase", is_done).await.expect("it runs");
    assert_eq!(record.lines(), ["first"]);
}
