//! One worker: the owner of some slices and all that lives in them.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use perennial_persistence::{Clock, Timestamp};

use crate::actor::{Actor, ActorRef};
use crate::engine::actor::{ACTORS, ActorHost, ActorPeek};
use crate::engine::breaker::{Change, HeldBack};
use crate::engine::cell::Peek;
#[cfg(feature = "defects")]
use crate::engine::core::Defects;
use crate::engine::core::{CellTimer, Core, Settings, Stats, Timed};
use crate::engine::host::{AnyHost, Host};
use crate::engine::journal_writer::{
    BatchBuilder, BatchLimits, Lane, RetrySettings, Settled, SettledBatch, backoff,
};
use crate::engine::local::{Local, Turn};
use crate::engine::reminders::{Ready, Reminders};
use crate::engine::tally::Timings;
use crate::engine::{DueDone, DueRequest, Hold, Input, Outbox, ReadRequest, ReminderFailed};
use crate::entity_ref::EntityRef;
use crate::error::chain;
use crate::event_sourced::EventSourced;

/// A worker's cells and what they need.
pub struct Worker {
    hosts: Vec<Box<dyn AnyHost>>,
    actors: ActorHost,
    core: Core,
    /// What its own code has sent; elsewhere while it runs.
    local: Option<Local>,
}

impl Worker {
    /// A worker with one host per entity type, in the registry's order.
    pub(crate) fn new(
        hosts: Vec<Box<dyn AnyHost>>,
        local: Local,
        settings: Settings,
        clock: Arc<dyn Clock>,
        seed: [u8; 32],
        stats: Arc<Stats>,
        stores: usize,
    ) -> Self {
        let place = local.place();
        Self {
            hosts,
            actors: ActorHost::default(),
            core: Core::new(settings, clock, seed, stats, stores, place),
            local: Some(local),
        }
    }

    /// Says which reminders it looks after; none otherwise.
    pub(crate) fn set_reminders(&mut self, reminders: Reminders) {
        self.core.reminders = reminders;
    }

    /// Breaks the engine on purpose.
    #[cfg(feature = "defects")]
    pub fn set_defects(&mut self, defects: Defects) {
        self.core.defects = defects;
    }

    /// Has times taken of messages that carry a stamp.
    pub(crate) fn set_timings(&mut self, timings: Timings) {
        self.core.timings = Some(timings);
    }

    /// Takes all `inputs`, runs what can run within the turn's budget, and gives what is to be
    /// done outside.
    pub fn turn(&mut self, inputs: impl IntoIterator<Item = Input>) -> Outbox {
        let Self {
            hosts,
            actors,
            core,
            local,
        } = self;
        let _turn = Turn::begin(local);
        let start = core.look_at_clock();
        core.wall = core.clock.now();
        for input in inputs {
            receive(hosts, actors, core, input);
        }
        fire_timers(hosts, actors, core);
        take_own(hosts, actors, core);
        remind(hosts, core);
        take_own(hosts, actors, core);
        let mut runs = core.settings.runs_per_turn;
        while runs > 0
            && let Some(key) = core.next_runnable()
        {
            runs -= 1;
            core.stats.pulse.begin(key, core.now);
            if key.host == ACTORS {
                actors.run(core, key.index, key.incarnation);
            } else {
                hosts[key.host].run(core, key);
            }
            take_own(hosts, actors, core);
            if core.now.saturating_sub(start) >= core.settings.turn_budget {
                break;
            }
        }
        core.stats.pulse.end();
        let flush_at = flush(hosts, core);
        take_own(hosts, actors, core);
        remind(hosts, core);
        take_own(hosts, actors, core);
        core.note_turn(core.now.saturating_sub(start));
        // Only now: a write that is not sent any more may have let its entity recover.
        core.out.busy = core.has_runnable();
        let timer_at = core.timers.keys().next().map(|timer| timer.at);
        core.out.wake_at = [timer_at, flush_at].into_iter().flatten().min();
        std::mem::take(&mut core.out)
    }

    /// Whether everything is flushed and every entity forgotten, after [`Input::Shutdown`].
    pub fn is_done(&self) -> bool {
        self.core.draining
            && !self.core.is_expecting()
            && self.actors.is_empty()
            && self.hosts.iter().all(|host| host.is_empty())
            && self.core.lanes.iter().all(Lane::is_empty)
    }

    /// Brings an entity back without a command, unless it is in memory; for the test kit.
    #[doc(hidden)]
    pub fn wake<E: EventSourced>(&mut self, entity: &EntityRef<E>) {
        let Self { hosts, core, .. } = self;
        if let Some(address) = entity.address()
            && let Some(host) = (&mut *hosts[address.host()] as &mut dyn Any).downcast_mut()
        {
            core.look_at_clock();
            Host::<E>::wake(host, core, address);
        }
    }

    /// Looks into an entity, if it is in memory; for the test kit.
    #[doc(hidden)]
    pub fn peek<E: EventSourced>(&self, entity: &EntityRef<E>) -> Option<Peek<'_, E>> {
        let address = entity.address()?;
        let host = (&*self.hosts[address.host()] as &dyn Any).downcast_ref::<Host<E>>()?;
        host.peek(address.cell()?)
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.core.settings
    }

    /// Looks into an actor of this worker, if it has not ended; for the test kit.
    #[doc(hidden)]
    pub fn peek_actor<A: Actor>(&self, actor: &ActorRef<A>) -> Option<ActorPeek<'_, A>> {
        self.actors.peek(actor.address())
    }

    /// What the worker has and has done.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.core.stats
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("stats", &self.core.stats)
            .finish_non_exhaustive()
    }
}

/// Takes what the worker's own code has sent to the worker. Every such input puts cells into the
/// run queue at the most, and runs none of their handlers, so there is an end.
fn take_own(hosts: &mut [Box<dyn AnyHost>], actors: &mut ActorHost, core: &mut Core) {
    loop {
        let mut own = std::mem::take(&mut core.own);
        Turn::take(&mut own);
        let is_empty = own.is_empty();
        for input in own.drain(..) {
            receive(hosts, actors, core, input);
        }
        core.own = own;
        if is_empty {
            return;
        }
    }
}

fn receive(hosts: &mut [Box<dyn AnyHost>], actors: &mut ActorHost, core: &mut Core, input: Input) {
    match input {
        Input::Parcel(parcel) => actors.receive(core, parcel),
        Input::Actor(input) => actors.order(core, *input),
        Input::Spawn(actor) => actors.spawn(core, actor),
        Input::Many(inputs) => {
            for input in inputs {
                receive(hosts, actors, core, input);
            }
        }
        Input::StopActors => actors.drain(core),
        Input::Command(command) => {
            let host = command.address().host();
            hosts[host].receive(core, command);
        }
        Input::Written(settled) => answered(hosts, core, *settled),
        Input::Read(read) => {
            let ReadRequest { breaker, call, .. } = read.request;
            let error = read
                .result
                .as_ref()
                .err()
                .filter(|error| error.is_retryable());
            let change = core.end_call(breaker, call, error);
            let host = read.request.key.host;
            hosts[host].read(core, *read);
            follow(hosts, core, breaker, change);
        }
        Input::RemindersRead(done) => reminders_read(hosts, core, *done),
        Input::ReminderFailed(failed) => reminder_failed(core, &failed),
        Input::LaterDone(done) => {
            core.open_laters -= 1;
            if done.key.host == ACTORS {
                actors.later_done(core, *done);
            } else {
                hosts[done.key.host].later_done(core, *done);
            }
        }
        Input::SnapshotSaved(key, result) => hosts[key.host].snapshot_saved(core, key, *result),
        Input::EventsDeleted(done) => hosts[done.key.host].events_deleted(core, *done),
        Input::Hold(hold) => keep_out(core, *hold),
        Input::LetGo(id) => {
            core.let_go(&id);
            core.reminders.doubt_all_of(&id);
        }
        Input::GiveSlices(slices, to) => core.give_slices(&slices, to),
        Input::Withdrawn(host, id) => hosts[host].withdrawn(core, &id),
        Input::Arrived(arrival) => hosts[arrival.address.host()].arrived(core, *arrival),
        Input::Look(look) => {
            if let Some(look) = look.of_worker(core.worker()) {
                look.answer(|address| hosts[address.host()].status(core, address));
            }
        }
        Input::Shutdown => {
            core.draining = true;
            actors.drain(core);
            for host in hosts {
                host.drain(core);
            }
        }
    }
}

/// Keeps an entity out of memory that is not in memory here, nor on its way here.
fn keep_out(core: &mut Core, hold: Hold) {
    let id = &hold.persistence_id;
    let home = hold.registry.home_of(id);
    let is_here = home.is_some_and(|home| {
        let is_mine = home.worker() == core.worker();
        home.is_on_its_way() || is_mine && hold.registry.is_resident(id)
    });
    let held = core.hold(id.clone(), is_here);
    // Nobody waits any more: whoever asked would not let it go either.
    if hold.answer.send(held).is_err() && held.is_ok() {
        core.let_go(&hold.persistence_id);
    }
}

fn answered(hosts: &mut [Box<dyn AnyHost>], core: &mut Core, settled: SettledBatch) {
    let retry = RetrySettings {
        min: core.settings.retry.0,
        max: core.settings.retry.1,
        outcome_timeout: core.settings.outcome_timeout,
    };
    let lane = settled.lane();
    let breaker = core.breaker_of_lane(lane);
    let change = core.end_call(breaker, settled.call(), settled.store_failed());
    let jitter = core.jitter();
    let (done, again_at) = core.lanes[lane].answered(settled, core.now, retry, jitter);
    if let Some(at) = again_at {
        core.start_timer(at, Timed::Lane(lane));
    }
    for (item, outcome) in done {
        if let Settled::Stored(_) = outcome {
            core.stats.stored.fetch_add(item.events, Ordering::Relaxed);
        }
        hosts[item.key.host].settled(core, item, outcome);
    }
    follow(hosts, core, breaker, change);
}

/// What was held back goes on when its store's breaker has closed.
fn follow(hosts: &mut [Box<dyn AnyHost>], core: &mut Core, breaker: usize, change: Change) {
    if change == Change::Closed {
        release(hosts, core, breaker);
    }
}

/// Lets go what a breaker holds back: one call as a probe, or everything once it is closed.
fn release(hosts: &mut [Box<dyn AnyHost>], core: &mut Core, breaker: usize) {
    while let Some(held) = core.breakers[breaker].next_held(core.now) {
        match held {
            HeldBack::Lane(lane) => retry(hosts, core, lane),
            HeldBack::Read(key) => hosts[key.host].timer(core, key, CellTimer::Read),
        }
    }
}

/// Sends the writes of a lane again, if it has such and may.
fn retry(hosts: &mut [Box<dyn AnyHost>], core: &mut Core, lane: usize) {
    let Some(since) = core.lanes[lane].waits_since() else {
        return;
    };
    let breaker = core.breaker_of_lane(lane);
    if let Some(call) = core.begin_call(breaker) {
        core.out.writes.extend(core.lanes[lane].retry(call));
        return;
    }
    core.breakers[breaker].hold_back(HeldBack::Lane(lane));
    let give_up_at = since.saturating_add(core.settings.outcome_timeout);
    if give_up_at > core.now {
        core.start_timer(give_up_at, Timed::Lane(lane));
        return;
    }
    for (item, outcome) in core.lanes[lane].give_up() {
        hosts[item.key.host].settled(core, item, outcome);
    }
}

/// What a lane has gathered cannot go out, as its store's breaker is open. Gives when it has waited
/// for too long.
fn hold_gathered(hosts: &mut [Box<dyn AnyHost>], core: &mut Core, lane: usize) -> Duration {
    let breaker = core.breaker_of_lane(lane);
    // What will never be sent must not keep its entity from what it does next.
    for gathered in core.lanes[lane].take_gathered(|key| hosts[key.host].is_doomed(key)) {
        hosts[gathered.key.host].overtaken(core, gathered);
    }
    let since = core.lanes[lane].held_back(core.now);
    let give_up_at = since.saturating_add(core.settings.outcome_timeout);
    if give_up_at <= core.now {
        let error = core.breakers[breaker].last_error();
        for gathered in core.lanes[lane].take_gathered(|_| true) {
            let (item, _) = gathered.split();
            let outcome = Settled::GivenUp {
                error: error.clone(),
                maybe_stored: false,
            };
            hosts[item.key.host].settled(core, item, outcome);
        }
    } else {
        core.breakers[breaker].hold_back(HeldBack::Lane(lane));
    }
    give_up_at
}

fn fire_timers(hosts: &mut [Box<dyn AnyHost>], actors: &mut ActorHost, core: &mut Core) {
    while let Some(timer) = core.timers.first_entry()
        && timer.key().at <= core.now
    {
        match timer.remove() {
            Timed::Lane(lane) => retry(hosts, core, lane),
            Timed::Probe(breaker) => release(hosts, core, breaker),
            Timed::SlowCall(breaker) => {
                let change = core.look_for_slow_calls(breaker);
                follow(hosts, core, breaker, change);
            }
            Timed::Idle(host) => hosts[host].passivate(core),
            // Looked at in every turn.
            Timed::Reminders => core.reminders.timer = None,
            Timed::Cell(key, timer) => hosts[key.host].timer(core, key, timer),
            Timed::Actor(key, timer) => actors.timer(core, key.index, key.incarnation, timer),
        }
    }
}

/// Sends reminders that are due to their entities, and has more of them read.
fn remind(hosts: &mut [Box<dyn AnyHost>], core: &mut Core) {
    /// The two clocks are not read at one instant, so that a time that stays is not quite the same
    /// from turn to turn. A timer that is early by so much is set again when it fires.
    const ALMOST: Duration = Duration::from_millis(1);
    if core.reminders.books.is_empty() {
        return;
    }
    let settings = core.settings.reminders;
    let mut next: Option<Duration> = None;
    for at in 0..core.reminders.books.len() {
        if core.draining {
            continue;
        }
        core.reminders.books[at].forget_the_last(settings.ahead);
        let ready = core.reminders.books[at].fire(core.wall, settings.at_once);
        for ready in ready {
            send_reminder(hosts, core, &ready);
        }
        let book = &mut core.reminders.books[at];
        if book.pause.is_none_or(|until| until <= core.now) {
            book.pause = None;
            read_reminders(core, at);
        }
        let book = &core.reminders.books[at];
        // By the wall clock, as it stood at the beginning of the turn.
        let by_time = book.next_time(&settings).map(|time| {
            let left = time.duration_since(core.wall);
            core.now.saturating_add(left.try_into().unwrap_or_default())
        });
        next = next.into_iter().chain(by_time).chain(book.pause).min();
    }
    let is_set = core.reminders.timer.as_ref().map(|timer| timer.at);
    let stays = match (is_set, next) {
        (Some(is_set), Some(next)) => is_set <= next && next - is_set < ALMOST,
        (None, None) => true,
        _ => false,
    };
    if !stays {
        if let Some(timer) = core.reminders.timer.take() {
            core.cancel_timer(timer);
        }
        core.reminders.timer = next.map(|at| core.start_timer(at, Timed::Reminders));
    }
}

/// Has reminders read, if a book needs more of them and its store may be asked.
fn read_reminders(core: &mut Core, at: usize) {
    let (settings, page) = (core.settings.reminders, core.settings.page.rows);
    let book = &core.reminders.books[at];
    let Some(wanted) = book.wants(core.wall, &settings, page) else {
        return;
    };
    let (host, breaker) = (book.any_host(), core.breaker_of(book.store));
    let Some(call) = core.begin_call(breaker) else {
        let until = core.now.saturating_add(core.settings.retry.1);
        core.reminders.books[at].pause = Some(until);
        return;
    };
    core.reminders.books[at].begin_read(&wanted);
    core.out.reminder_reads.push(DueRequest {
        host,
        wanted,
        breaker,
        call,
    });
}

/// Sends a reminder to its entity, which is brought back for it.
fn send_reminder(hosts: &mut [Box<dyn AnyHost>], core: &mut Core, ready: &Ready) {
    let Some(fired) = core.reminders.fired(ready.host, ready) else {
        return;
    };
    let Some(registry) = core.reminders.registry() else {
        return;
    };
    let address = registry.address(ready.host, ready.place.0.clone());
    if address.host() != ready.host {
        return fired.fail("its id is in use as one of another entity type".into());
    }
    match hosts[ready.host].remind(&ready.payload, &address) {
        Ok(make) => hosts[ready.host].receive(core, make(fired)),
        Err(reason) => fired.fail(reason),
    }
}

fn reminders_read(hosts: &mut [Box<dyn AnyHost>], core: &mut Core, done: DueDone) {
    let error = done.result.as_ref().err();
    let retryable = error.filter(|error| error.is_retryable());
    let change = core.end_call(done.breaker, done.call, retryable);
    let ahead = core.settings.reminders.ahead;
    let (min, max) = core.settings.retry;
    let jitter = core.jitter();
    let now = core.now;
    if let Some(book) = core.reminders.of_host(done.host) {
        match done.result {
            Ok(rows) => {
                book.failures = 0;
                book.read(rows, ahead);
            }
            Err(error) => {
                if book.failures == 0 {
                    tracing::warn!(
                        error = %chain(&error),
                        "reminders could not be read; it will be tried again"
                    );
                }
                book.read_failed();
                book.pause = Some(now.saturating_add(backoff(book.failures, min, max, jitter)));
                book.failures = book.failures.saturating_add(1);
            }
        }
    }
    follow(hosts, core, done.breaker, change);
}

/// A reminder that was sent has failed: it comes again.
fn reminder_failed(core: &mut Core, failed: &ReminderFailed) {
    let jitter = core.jitter();
    let Some(book) = core.reminders.of_host(failed.host) else {
        return;
    };
    // Another one may have its place by now, or its entity has handled it after all.
    let Some(failures) = book.failures_of(failed) else {
        return;
    };
    let (min, max) = book.backoff_of(failed.host);
    let after = backoff(failures, min, max, jitter);
    let again_at = core.wall.checked_add(after).unwrap_or(Timestamp::MAX);
    book.failed(failed, again_at);
    let (id, key) = &failed.place;
    tracing::warn!(
        persistence_id = %id,
        reminder = %key,
        error = %failed.reason,
        retry_ms = after.as_millis(),
        "a reminder failed, it comes again"
    );
}

/// Sends what has gathered in lanes that are idle, unless it is little and more is on its way
/// while the journal or the worker is busy. Gives when to look again then.
fn flush(hosts: &mut [Box<dyn AnyHost>], core: &mut Core) -> Option<Duration> {
    let runs_on = core.has_runnable();
    let mut again_at: Option<Duration> = None;
    let limits = BatchLimits {
        events: core.settings.batch_events,
        bytes: core.settings.batch_bytes,
    };
    for lane in 0..core.lanes.len() {
        while core.lanes[lane].is_due() {
            let busy = runs_on || core.lanes.iter().any(Lane::is_in_flight);
            if busy && let Some(until) = core.lanes[lane].worth_waiting_until(core.now) {
                again_at = Some(again_at.map_or(until, |at| at.min(until)));
                break;
            }
            let breaker = core.breaker_of_lane(lane);
            if !core.breakers[breaker].is_passable(core.now) {
                let give_up_at = hold_gathered(hosts, core, lane);
                again_at = Some(again_at.map_or(give_up_at, |at| at.min(give_up_at)));
                break;
            }
            let mut batch = BatchBuilder::default();
            while let Some(mut gathered) = core.lanes[lane].next_gathered(&batch, limits) {
                let has_events = !gathered.write.events().is_empty();
                match hosts[gathered.key.host].previous(core, gathered.key, has_events) {
                    Some(previous) => {
                        gathered.write.previous = previous;
                        batch.push(gathered);
                    }
                    // An earlier write of the entity has failed: this one must not survive it.
                    None => hosts[gathered.key.host].overtaken(core, gathered),
                }
            }
            if !batch.is_empty()
                && let Some(call) = core.begin_call(breaker)
            {
                let batch = core.lanes[lane].send(batch, call, core.now);
                core.out.writes.push(batch);
            }
        }
    }
    again_at
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use perennial_persistence::ReplayPage;
    use perennial_testkit::ManualClock;
    use tokio::sync::mpsc::UnboundedReceiver;

    use super::*;
    use crate::config::Replacement;
    use crate::engine::{Assembled, Assembly, Frame, PageRead, ReadDone};
    use crate::event_sourced::{Cx, Effect, Entity, EventSourced, Handle};

    #[derive(Default)]
    struct Lamp;

    impl EventSourced for Lamp {
        const TYPE: &'static str = "Lamp";
        type Event = ();
        type Services = ();

        fn apply(&mut self, (): &()) {}
    }

    struct Look;

    impl Handle<Look> for Lamp {
        type Reply = ();

        fn handle(&self, _: Look, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
            cx.reply(())
        }
    }

    struct PutOut;

    impl Handle<PutOut> for Lamp {
        type Reply = ();

        fn handle(&self, _: PutOut, cx: &Cx<'_, Self>) -> Effect<Self, ()> {
            cx.stop().reply(|_| ())
        }
    }

    /// Turns until nothing comes out any more; every history is empty.
    fn turn(worker: &mut Worker, inbox: &mut UnboundedReceiver<Input>) {
        let mut inputs: Vec<Input> = Vec::new();
        loop {
            while let Ok(input) = inbox.try_recv() {
                inputs.push(input);
            }
            let out = worker.turn(inputs.drain(..));
            for request in out.reads {
                let page = ReplayPage {
                    events: Vec::new(),
                    highest: perennial_persistence::SequenceNr::ZERO,
                    highest_timestamp: None,
                    more: false,
                };
                let result = Ok(PageRead {
                    snapshot: None,
                    page,
                    replies: Vec::new(),
                });
                inputs.push(Input::Read(Box::new(ReadDone { request, result })));
            }
            if inputs.is_empty() && !out.busy {
                return;
            }
        }
    }

    #[test]
    fn entities_that_leave_for_others_leave_no_trail_among_the_idle_ones() {
        let frame = Frame {
            workers: 1,
            settings: Settings::default(),
            inbox: 10,
            ask_timeout: Duration::from_secs(1),
            deadlines: None,
            clock: Arc::new(ManualClock::new()),
        };
        let lamp = Entity::<Lamp>::new(()).entity_limit(10, Replacement::Segmented);
        let assembled = Assembly::new().entity(lamp).build(frame, || [0; 32]);
        let Assembled { registry, workers } = assembled;
        let [(mut worker, mut inbox)] = <[_; 1]>::try_from(workers).expect("one worker");
        for number in 0..10_000 {
            let lamp = registry.entity::<Lamp>(&number.to_string());
            lamp.tell(Look).expect("there is room");
            turn(&mut worker, &mut inbox);
            let entries = worker.hosts[0].idle_entries();
            assert!(entries <= 2 * 11 + 64, "{entries} entries");
        }
        assert_eq!(worker.stats().resident.load(Ordering::Relaxed), 10);
        assert_eq!(worker.core.timers.len(), 1, "one timer is enough");
    }

    #[test]
    fn an_entity_that_stops_again_and_again_leaves_no_trail_among_the_idle_ones() {
        const IDLE: Duration = Duration::from_secs(10);
        let clock = ManualClock::new();
        let frame = Frame {
            workers: 1,
            settings: Settings::default(),
            inbox: 10,
            ask_timeout: Duration::from_secs(1),
            deadlines: None,
            clock: Arc::new(clock.clone()),
        };
        let lamp = Entity::<Lamp>::new(()).passivate_after(Some(IDLE));
        let assembled = Assembly::new().entity(lamp).build(frame, || [0; 32]);
        let Assembled { registry, workers } = assembled;
        let [(mut worker, mut inbox)] = <[_; 1]>::try_from(workers).expect("one worker");
        let lamp = registry.entity::<Lamp>("a");
        for _ in 0..100 {
            lamp.tell(Look).expect("there is room");
            turn(&mut worker, &mut inbox);
            clock.advance(Duration::from_secs(1));
            turn(&mut worker, &mut inbox);
            lamp.tell(PutOut).expect("there is room");
            turn(&mut worker, &mut inbox);
        }
        // One for each time that it was there in the last ten seconds.
        let entries = worker.hosts[0].idle_entries();
        assert!(entries <= 11, "{entries} entries");
    }
}
