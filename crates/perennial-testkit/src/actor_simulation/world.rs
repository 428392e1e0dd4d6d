//! The test around the actors: what it does next is decided by the seed.

use std::sync::Arc;
use std::time::Duration;

use perennial_core::{ActorRef, Directive, Placement, Supervision};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::model::{Model, Violation};
use super::player::{
    End, Event, GivesUp, How, MessageId, Number, Op, Plan, Player, Role, Sender, Shared, Start,
    Then, WorkPlan,
};
use super::{Options, Report};
use crate::simulation::trace::Trace;
use crate::{TestSystem, TestTask};

const QUIET: &str = "when all is quiet, every actor runs or has ended, and no place is taken";
const ENDS: &str = "every system comes to its end";

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// What is usual in a run; drawn from the seed, so that runs differ in kind.
struct Profile {
    slots: usize,
    mailbox: usize,
    stash: usize,
    /// Of a hundred messages, how many fail.
    failures: u32,
    /// Of a hundred actors, how many have trouble at their start.
    bad_starts: u32,
    /// Whether askers give up.
    impatience: bool,
    /// Whether actors ask each other.
    questions: bool,
    unreferenced: bool,
    exclusive: bool,
}

fn pick<T: Copy>(random: &mut SmallRng, among: &[T]) -> T {
    among[random.random_range(0..among.len())]
}

/// A whole run.
pub(super) struct World {
    random: SmallRng,
    profile: Profile,
    t: TestSystem,
    shared: Arc<Shared>,
    model: Model,
    /// Questions of the test, senders that wait, and ends that it waits for.
    asks: Vec<TestTask<()>>,
    waits: Vec<TestTask<()>>,
    steps: u64,
    limit: u64,
    trace: Trace,
}

impl World {
    pub(super) fn new(seed: u64, options: &Options) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let builder = TestSystem::builder()
            .seed(random.random())
            .workers(random.random_range(1..=3))
            .set("system.ask-timeout", "40ms")
            .set("system.later-timeout", "60ms")
            .set("system.shutdown-timeout", "10s")
            .set("system.inbox", pick(&mut random, &[4, 20, 65_536, 65_536]))
            .set("system.later-limit", pick(&mut random, &[1, 3, 1024]))
            .set("system.messages-per-turn", pick(&mut random, &[1, 2, 64]));
        #[cfg(feature = "defects")]
        let builder = builder.defects(super::defects(options.defect));
        let t = builder.start();
        let profile = Profile {
            slots: random.random_range(2..=8),
            mailbox: pick(&mut random, &[1, 2, 5, 1000, 1000]),
            stash: pick(&mut random, &[0, 1, 3, 1000]),
            failures: pick(&mut random, &[0, 5, 20]),
            bad_starts: pick(&mut random, &[0, 10, 40]),
            impatience: random.random_bool(0.5),
            questions: random.random_bool(0.7),
            unreferenced: random.random_bool(0.3),
            exclusive: random.random_bool(0.6),
        };
        let shared = Shared::new(t.clock().clone(), profile.slots);
        Self {
            random,
            profile,
            t,
            shared,
            model: Model::default(),
            asks: Vec::new(),
            waits: Vec::new(),
            steps: 0,
            limit: options.steps,
            trace: Trace::new(options.whole_trace),
        }
    }

    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    pub(super) fn trace(&self) -> &Trace {
        &self.trace
    }

    pub(super) fn run(&mut self) -> Result<Report, Violation> {
        for slot in 0..self.profile.slots {
            self.spawn(slot);
        }
        while self.steps < self.limit {
            self.steps += 1;
            self.step();
            self.check()?;
        }
        let ending = self.random.random_range(0..6);
        if ending < 4 {
            self.come_to_rest()?;
        }
        self.end(ending)?;
        Ok(self.model.report.clone())
    }

    fn log(&mut self, line: impl Into<String>) {
        self.trace.add(self.t.elapsed(), line.into());
    }

    fn chance(&mut self, per_cent: u32) -> bool {
        self.random.random_ratio(per_cent, 100)
    }

    /// One thing happens.
    fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..14 => self.tell(),
            14..26 => self.ask(),
            26..30 => self.send(),
            30..37 => {
                let slot = self.slot();
                self.spawn(slot);
            }
            37..40 => self.stop(),
            40..42 => self.drop_reference(),
            42..45 => self.watch(),
            45..49 => {
                let opened = self.shared.open_gate();
                self.log(format!("a gate opens: {opened}"));
            }
            49..51 => self.give_up(),
            51..88 => {
                for _ in 0..self.random.random_range(1..=4) {
                    self.t.step();
                }
            }
            88..93 => {
                // Timers may be late then, as where a worker is busy.
                let by = self.random.random_range(0..4);
                self.t.clock().advance(ms(by));
                self.log(format!("{by} ms have gone by"));
            }
            93..97 => {
                let by = self.random.random_range(0..30);
                self.t.advance(ms(by));
                self.log(format!("{by} ms"));
            }
            _ => self.t.run(),
        }
    }

    /// Takes in what has happened, and compares it with what may happen.
    fn check(&mut self) -> Result<(), Violation> {
        for (at, event) in self.shared.take_events() {
            self.trace.add(at, format!("{event:?}"));
            self.model.apply(at, event)?;
        }
        Ok(())
    }

    fn slot(&mut self) -> usize {
        self.random.random_range(0..self.profile.slots)
    }

    fn target(&mut self) -> Option<(Number, ActorRef<Player>)> {
        let slot = self.slot();
        let there = self.shared.slot(slot);
        let is_there = there.as_ref().is_some_and(|(_, actor)| !actor.has_ended());
        if !is_there && self.random.random_bool(0.7) {
            // Otherwise there would soon be nobody left.
            self.spawn(slot);
        }
        self.shared.slot(slot)
    }

    fn tell(&mut self) {
        let Some((to, actor)) = self.target() else {
            return;
        };
        let plan = self.plan(0);
        let message = self.shared.message(plan);
        let sent = message.sent(Sender::Test, to, How::Told);
        sent(actor.tell(message).err());
    }

    fn ask(&mut self) {
        let Some((to, actor)) = self.target() else {
            return;
        };
        let plan = self.plan(0);
        let message = self.shared.message(plan);
        let timeout = ms(self.random.random_range(1..60));
        let id = message.id();
        let sent = message.sent(Sender::Test, to, How::Asked);
        let mut asking = actor.ask(message).timeout(timeout).into_future();
        if let Some(answer) = asking.try_take() {
            sent(answer.as_ref().err().cloned());
            self.shared.log(Event::Answered {
                message: id,
                answer,
            });
            return;
        }
        sent(None);
        self.model.set_deadline(id, self.t.elapsed() + timeout);
        let shared = Arc::clone(&self.shared);
        let task = self.t.task(async move {
            let given_up = GivesUp::new(&shared, id);
            let answer = asking.await;
            given_up.has_waited();
            shared.log(Event::Answered {
                message: id,
                answer,
            });
        });
        self.asks.push(task);
    }

    /// Sends as soon as there is room.
    fn send(&mut self) {
        let Some((to, actor)) = self.target() else {
            return;
        };
        let plan = self.plan(0);
        let message = self.shared.message(plan);
        let id: MessageId = message.id();
        let sent = message.sent(Sender::Test, to, How::Told);
        let actor = actor.downgrade();
        let task = self.t.task(async move {
            // Its reference is not to keep an actor from its end.
            if let Some(actor) = actor.upgrade() {
                sent(actor.send(message).await.err());
            }
        });
        self.log(format!("message {id} waits for room"));
        self.model.report.waited += 1;
        self.waits.push(task);
    }

    fn spawn(&mut self, slot: usize) {
        let role = self.role(0);
        let t = self.t.clone();
        self.shared
            .spawn(slot, role, None, |name, props| match name {
                Some(name) => t.spawn(name, props),
                None => t.spawn_anonymous(props),
            });
    }

    fn stop(&mut self) {
        let now = self.random.random_bool(0.4);
        if let Some((number, actor)) = self.target() {
            self.log(format!("{number} is to stop, now: {now}"));
            if now {
                actor.stop_now();
            } else {
                actor.stop();
            }
        }
    }

    fn drop_reference(&mut self) {
        let slot = self.slot();
        let before = self.shared.set_slot(slot, None);
        if let Some((number, actor)) = before {
            self.log(format!("a reference to {number} is dropped"));
            drop(actor);
        }
    }

    fn watch(&mut self) {
        let Some((target, actor)) = self.target() else {
            return;
        };
        let (actor, shared) = (actor.downgrade(), Arc::clone(&self.shared));
        let task = self.t.task(async move {
            let terminated = actor.terminated().await;
            shared.log(Event::ToldOutside {
                target,
                reason: terminated.reason.to_string(),
                ended: actor.upgrade().is_none(),
            });
        });
        self.waits.push(task);
    }

    fn give_up(&mut self) {
        if !self.profile.impatience {
            return;
        }
        let among = if self.random.random_bool(0.7) {
            &mut self.asks
        } else {
            &mut self.waits
        };
        if !among.is_empty() {
            let at = self.random.random_range(0..among.len());
            drop(among.swap_remove(at));
        }
    }

    // ---- plans ----

    fn plan(&mut self, depth: u32) -> Plan {
        let count = if depth > 2 {
            0
        } else {
            pick(&mut self.random, &[0, 0, 1, 1, 2, 3])
        };
        Plan {
            ops: (0..count).map(|_| self.op(depth + 1)).collect(),
            end: self.plan_of_end(depth + 1),
        }
    }

    fn op(&mut self, depth: u32) -> Op {
        let slot = self.slot();
        match self.random.random_range(0..40) {
            0..8 => Op::Tell(slot, Box::new(self.plan(depth))),
            8..10 => Op::TellMyself(Box::new(self.plan(depth))),
            10..13 => Op::Spawn(slot, Box::new(self.role(depth))),
            13..18 => Op::Watch(slot),
            18..20 => Op::Unwatch(slot),
            20..25 => Op::StartTimer {
                key: self.random.random_range(0..3),
                delay: self.random.random_range(0..40),
                repeated: self.random.random_bool(0.3),
            },
            25..28 => Op::CancelTimer(self.random.random_range(0..3)),
            28 => Op::CancelAllTimers,
            29 => Op::Stop(slot),
            30 => Op::StopNow(slot),
            31 => Op::StopMyself,
            32..35 => Op::UnstashAll,
            35 => Op::ReceiveTimeout(Some(self.random.random_range(0..30))),
            36 => Op::ReceiveTimeout(None),
            37..39 => Op::ReplyKept,
            _ => Op::DropKept,
        }
    }

    fn plan_of_end(&mut self, depth: u32) -> End {
        if self.chance(self.profile.failures) {
            return if self.random.random_bool(0.5) {
                End::Fail
            } else {
                End::Panic
            };
        }
        let exclusive = self.profile.exclusive && self.random.random_bool(0.4);
        let timeout = self
            .random
            .random_bool(0.3)
            .then(|| self.random.random_range(1..50));
        match self.random.random_range(0..20) {
            0..8 => End::Reply,
            8 => End::NoReply,
            9 => End::Unhandled,
            10..13 => End::Stash(self.random.random_range(1..3)),
            13 => End::Keep,
            14..17 if self.profile.questions && depth <= 2 => End::Ask {
                slot: self.slot(),
                plan: Box::new(self.plan(depth)),
                exclusive,
                timeout,
                then: self.then(),
            },
            _ => End::Later {
                work: self.work(depth),
                exclusive,
                timeout,
                then: self.then(),
            },
        }
    }

    fn work(&mut self, depth: u32) -> WorkPlan {
        match self.random.random_range(0..12) {
            0..4 => WorkPlan::Ready,
            4..7 => WorkPlan::Gate,
            7 => WorkPlan::Never,
            8 if self.profile.failures > 0 => WorkPlan::Panics,
            9 => WorkPlan::Blocking,
            10..12 if self.profile.questions && depth <= 2 => {
                WorkPlan::Asks(self.slot(), Box::new(self.plan(depth)))
            }
            _ => WorkPlan::Ready,
        }
    }

    fn then(&mut self) -> Then {
        if self.chance(self.profile.failures) {
            return pick(&mut self.random, &[Then::Fail, Then::Panic]);
        }
        pick(
            &mut self.random,
            &[
                Then::Reply,
                Then::Reply,
                Then::Reply,
                Then::NoReply,
                Then::Unhandled,
            ],
        )
    }

    fn role(&mut self, depth: u32) -> Role {
        let unreferenced = self.profile.unreferenced && self.random.random_bool(0.5);
        let bad_start = self.chance(self.profile.bad_starts);
        let starts = if bad_start {
            let among = [
                Start::Well,
                Start::NoValue,
                Start::FactoryPanics,
                Start::Fails,
                Start::Panics,
            ];
            (0..self.random.random_range(1..=3))
                .map(|_| pick(&mut self.random, &among))
                .collect()
        } else {
            Vec::new()
        };
        let children = if depth == 0 && self.random.random_bool(0.2) {
            vec![(self.slot(), self.role(depth + 1))]
        } else {
            Vec::new()
        };
        Role {
            name: (!unreferenced && self.random.random_bool(0.6))
                .then(|| self.random.random_range(0..4)),
            mailbox: self.profile.mailbox,
            stash: self.profile.stash,
            supervision: self.supervision(),
            placement: pick(
                &mut self.random,
                &[
                    Placement::Near,
                    Placement::Spread,
                    Placement::Worker(0),
                    Placement::Worker(1),
                ],
            ),
            unreferenced,
            starts,
            hooks_panic: self.chance(self.profile.failures),
            children,
        }
    }

    fn supervision(&mut self) -> Supervision {
        let supervision = match self.random.random_range(0..10) {
            0..5 => Supervision::restart(),
            5 => Supervision::resume(),
            6 => Supervision::stop(),
            7 => Supervision::escalate(),
            _ => Supervision::decide(|failure| {
                if failure.is_panic() {
                    Directive::Restart
                } else {
                    Directive::Resume
                }
            }),
        };
        let min = self.random.random_range(0..10);
        let mut supervision = supervision.backoff(ms(min), ms(20));
        if self.random.random_bool(0.2) {
            let restarts = self.random.random_range(0..4);
            supervision = supervision.limit(restarts, ms(50));
        }
        if self.random.random_bool(0.2) {
            supervision = supervision.all_for_one();
        }
        supervision
    }

    // ---- the end ----

    /// The test does nothing more; whatever takes time has time enough.
    fn come_to_rest(&mut self) -> Result<(), Violation> {
        self.log("the test is done");
        self.t.advance(ms(1500));
        self.check()?;
        let everybody = self.shared.everybody();
        let has_ended = |number: Number| {
            let actor = everybody.iter().find(|(of, _)| *of == number);
            actor.is_none_or(|(_, actor)| actor.upgrade().is_none())
        };
        self.model.check_rest(self.t.elapsed(), has_ended)?;
        let quiet = |detail: String| {
            Err(Violation {
                rule: QUIET,
                detail,
            })
        };
        for (number, actor) in &everybody {
            if let Some(actor) = actor.upgrade() {
                if !self.t.is_running(&actor) {
                    return quiet(format!("{number} neither runs nor has ended"));
                }
                if actor.queue_depth() > 0 {
                    let depth = actor.queue_depth();
                    return quiet(format!("{depth} messages wait for {number}"));
                }
            }
        }
        if self.t.waiting() > 0 {
            return quiet(format!("{} places are taken", self.t.waiting()));
        }
        if let Some(at) = self.asks.iter().position(|ask| !ask.is_done()) {
            return quiet(format!("question {at} of the test has no answer"));
        }
        Ok(())
    }

    fn end(&mut self, how: u32) -> Result<(), Violation> {
        self.model.ending = how > 0;
        match how {
            0 => {
                self.log("everybody is to stop");
                for (_, actor) in self.shared.everybody() {
                    if let Some(actor) = actor.upgrade() {
                        actor.stop();
                    }
                }
                self.t.advance(ms(1500));
            }
            1..=3 => {
                self.log("the system is shut down");
                self.model.report.shutdowns += 1;
                if !self.t.shutdown() {
                    return Err(Violation {
                        rule: ENDS,
                        detail: "a shutdown takes too long".to_owned(),
                    });
                }
            }
            _ => {
                self.log("the system crashes");
                self.model.report.crashes += 1;
                self.t.crash();
            }
        }
        self.t.run();
        self.check()?;
        let (actors, waiting) = (self.t.actors(), self.t.waiting());
        if (actors, waiting) != (0, 0) {
            return Err(Violation {
                rule: ENDS,
                detail: format!("{actors} actors and {waiting} messages are left"),
            });
        }
        if let Some(at) = self.asks.iter().position(|ask| !ask.is_done()) {
            return Err(Violation {
                rule: ENDS,
                detail: format!("question {at} of the test has no answer"),
            });
        }
        if let Some(at) = self.waits.iter().position(|wait| !wait.is_done()) {
            return Err(Violation {
                rule: ENDS,
                detail: format!("{at} still waits for room or an end"),
            });
        }
        self.asks.clear();
        self.waits.clear();
        self.check()?;
        let counts = self.t.dead_letter_counts();
        self.model.check_the_end(&counts)
    }
}
