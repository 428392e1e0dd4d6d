//! What a keeper does, turn by turn.

use perennial_persistence::{PersistenceId, SerializedPayload};

use super::*;
use crate::allocation::Limits;
use crate::lease::LeaseTable;
use crate::node::Member;
use crate::shard::ShardCount;
use crate::transport::{Failure, FailureEffect, MAX_CHAIN, Wants};

/// Of slice 3, so in the first shard of any number of them up to 256.
const ENTITY: &str = "first";

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Two shards at most, so that all is in sight; leases of 1,000 ms, of which 900 ms are used.
fn settings(shards: u16) -> Settings {
    let mut settings = Settings::default()
        .with_shards(ShardCount::new(shards).expect("a power of two"))
        .with_validity(ms(1000), ms(100));
    settings.drain_timeout = ms(200);
    settings
}

fn node(name: &str) -> NodeId {
    NodeId::new(name, 1)
}

/// The members are these; a later view has more of them.
fn up(names: &[&str]) -> Input {
    let member = |name: &&str| Member::new(node(name), MemberState::Up);
    Input::Members(MemberView {
        version: names.len() as u64,
        members: names.iter().map(member).collect(),
    })
}

fn command() -> Box<RemoteCommand> {
    let payload = SerializedPayload::new(77, "Add", &b"1"[..]);
    Box::new(RemoteCommand::ask("Model", ENTITY, payload, ms(5000)))
}

/// A keeper, the leases that it asks, and what it wanted besides.
struct Stage {
    keeper: Keeper,
    leases: LeaseTable,
    now: Duration,
    shard: ShardId,
}

impl Stage {
    fn new(settings: Settings) -> Self {
        let shard = home(&settings);
        Self {
            keeper: Keeper::new(node("ann"), settings, 1).expect("they are sound"),
            leases: LeaseTable::default(),
            now: Duration::ZERO,
            shard,
        }
    }

    /// One turn, without an answer of the leases.
    fn turn(&mut self, inputs: impl IntoIterator<Item = Input>) -> Vec<Output> {
        self.keeper.turn(self.now, inputs).outputs
    }

    /// Turns until the leases have nothing more to answer.
    fn play(&mut self, inputs: impl IntoIterator<Item = Input>) -> Vec<Output> {
        let mut inputs: Vec<Input> = inputs.into_iter().collect();
        let mut all = Vec::new();
        for _ in 0..10 {
            let outputs = self.turn(std::mem::take(&mut inputs));
            for output in outputs {
                let holder = self.keeper.node().clone();
                match output {
                    Output::Acquire(request, shard, validity) => {
                        let result = self.leases.acquire(self.now, shard, &holder, validity);
                        inputs.push(Input::Acquired(request, shard, result));
                    }
                    Output::Renew(request, shard, token, validity) => {
                        let result = self.leases.renew(self.now, shard, token, validity);
                        inputs.push(Input::Renewed(request, shard, result));
                    }
                    Output::Release(request, shard, token) => {
                        let result = self.leases.release(self.now, shard, token);
                        inputs.push(Input::Released(request, shard, result));
                    }
                    other => all.push(other),
                }
            }
            if inputs.is_empty() {
                break;
            }
        }
        all
    }

    /// The keeper has the shard, alone.
    fn serving(settings: Settings) -> Self {
        let mut stage = Self::new(settings);
        stage.play([up(&["ann"])]);
        assert_eq!(stage.phase(), ShardPhase::Serving);
        stage
    }

    fn status(&self) -> ShardStatus {
        let all = self.keeper.status();
        all[usize::from(self.shard.value())].clone()
    }

    fn phase(&self) -> ShardPhase {
        self.status().phase
    }

    fn token(&self) -> Token {
        self.status().token.expect("it has a tenure")
    }

    /// Bob opens a session, and sends commands with these numbers.
    fn bob_sends(&mut self, numbers: impl IntoIterator<Item = u64>) -> Vec<Output> {
        let (shard, token, from) = (self.shard, self.token(), node("bob"));
        let open = Frame::Open {
            shard,
            from: from.clone(),
        };
        let commands = numbers.into_iter().map(|number| Frame::Command {
            shard,
            from: from.clone(),
            token,
            number,
            command: command(),
        });
        let frames: Vec<Input> = [open]
            .into_iter()
            .chain(commands)
            .map(Input::Frame)
            .collect();
        self.turn(frames)
    }
}

/// Where the entity of these tests is.
fn home(settings: &Settings) -> ShardId {
    let id = PersistenceId::new("Model", ENTITY).expect("it is short");
    settings.shards.shard_of(id.slice())
}

fn tickets(outputs: &[Output]) -> Vec<Ticket> {
    let delivered = outputs.iter().filter_map(|output| match output {
        Output::Deliver { ticket, .. } => Some(*ticket),
        _ => None,
    });
    delivered.collect()
}

fn answers(outputs: &[Output]) -> Vec<(u64, Answer)> {
    let frames = outputs.iter().filter_map(|output| match output {
        Output::Frame(_, Frame::Answer { number, answer, .. }) => Some((*number, answer.clone())),
        _ => None,
    });
    frames.collect()
}

fn closed(outputs: &[Output]) -> Vec<(Token, u64)> {
    let frames = outputs.iter().filter_map(|output| match output {
        Output::Frame(_, Frame::Closed { token, below, .. }) => Some((*token, *below)),
        _ => None,
    });
    frames.collect()
}

fn commands(outputs: &[Output]) -> Vec<(Token, u64)> {
    let frames = outputs.iter().filter_map(|output| match output {
        Output::Frame(_, Frame::Command { token, number, .. }) => Some((*token, *number)),
        _ => None,
    });
    frames.collect()
}

fn settled(outputs: &[Output]) -> Vec<(u64, Option<FailureEffect>)> {
    let calls = outputs.iter().filter_map(|output| match output {
        Output::Settled(CallId(id), Answer::Failed(failure)) => Some((*id, Some(failure.effect))),
        Output::Settled(CallId(id), _) => Some((*id, None)),
        _ => None,
    });
    calls.collect()
}

fn reply() -> Answer {
    Answer::Reply(SerializedPayload::new(77, "Sum", &b"1"[..]))
}

fn effect(answer: &Answer) -> Option<FailureEffect> {
    match answer {
        Answer::Failed(Failure { effect, .. }) => Some(*effect),
        _ => None,
    }
}

#[test]
fn what_comes_for_an_owner_is_answered_once_its_engine_has() {
    let mut stage = Stage::serving(settings(2));
    let outputs = stage.bob_sends([0, 1]);
    let taken = tickets(&outputs);
    assert_eq!(taken.len(), 2);
    assert_eq!(answers(&outputs), []);
    let outputs = stage.turn([Input::Answered(taken[1], reply())]);
    assert_eq!(answers(&outputs), [(1, reply())]);
    assert_eq!(stage.status().taken, 1);
}

#[test]
fn a_number_is_taken_once_and_none_after_a_higher_one() {
    let mut stage = Stage::serving(settings(2));
    assert_eq!(tickets(&stage.bob_sends([0, 0, 3, 2, 3, 4])).len(), 3);
}

#[test]
fn nothing_is_acknowledged_from_the_end_of_the_validity_on() {
    let mut stage = Stage::serving(settings(2));
    let taken = tickets(&stage.bob_sends([0, 1]));
    stage.now = ms(899);
    let outputs = stage.turn([Input::Answered(taken[0], reply())]);
    assert_eq!(answers(&outputs), [(0, reply())]);

    // The answer was there before the turn, but the turn is too late for it.
    stage.now = ms(900);
    let token = stage.token();
    let outputs = stage.turn([Input::Answered(taken[1], reply())]);
    let told: Vec<_> = answers(&outputs).iter().map(|(_, a)| effect(a)).collect();
    assert_eq!(told, [Some(FailureEffect::Unknown)]);
    assert_eq!(closed(&outputs), [(token, 2)]);
    assert_eq!(stage.phase(), ShardPhase::Fenced);

    // It is not asked for again before the engine has forgotten it.
    stage.now = ms(5000);
    assert_eq!(tickets(&stage.play([up(&["ann"])])), []);
    assert_eq!(stage.phase(), ShardPhase::Fenced);
    stage.play([Input::Ended(stage.shard, token)]);
    assert_eq!(stage.phase(), ShardPhase::Serving);
    assert!(stage.token() > token);
}

#[test]
fn a_validity_counts_from_before_the_request_was_sent() {
    let mut stage = Stage::new(settings(1));
    let outputs = stage.turn([up(&["ann"])]);
    let asked = outputs.iter().find_map(|output| match output {
        Output::Acquire(request, shard, _) => Some((*request, *shard)),
        _ => None,
    });
    let (request, shard) = asked.expect("it asks for the shard");
    // The answer comes late, but not too late to be waited for.
    stage.now = ms(500);
    stage.turn([Input::Acquired(request, shard, Ok(Token::new(1)))]);
    assert_eq!(stage.phase(), ShardPhase::Serving);
    stage.now = ms(899);
    stage.turn([]);
    assert_eq!(stage.phase(), ShardPhase::Serving);
    stage.now = ms(900);
    stage.turn([]);
    assert_eq!(stage.phase(), ShardPhase::Fenced);
}

#[test]
fn an_older_view_of_the_members_is_passed_over() {
    let mut stage = Stage::new(settings(2));
    stage.play([up(&["ann", "bob"]), up(&["ann"])]);
    let status = stage.keeper.status();
    let serving = status.iter().filter(|one| one.phase == ShardPhase::Serving);
    assert_eq!(serving.count(), 1);
}

#[test]
fn a_renewed_lease_goes_on() {
    let mut stage = Stage::serving(settings(1));
    let token = stage.token();
    for _ in 0..100 {
        stage.now += ms(100);
        stage.play([]);
    }
    assert_eq!(stage.phase(), ShardPhase::Serving);
    assert_eq!(stage.token(), token);
}

#[test]
fn a_lease_that_is_lost_ends_at_once() {
    let mut stage = Stage::serving(settings(1));
    let (shard, token) = (stage.shard, stage.token());
    stage
        .leases
        .release(ms(1), shard, token)
        .expect("it is its own");
    stage
        .leases
        .acquire(ms(1), shard, &node("bob"), ms(1000))
        .expect("it is free");
    stage.now = ms(300);
    stage.play([]);
    assert_eq!(stage.phase(), ShardPhase::Fenced);
}

#[test]
fn a_shard_that_is_given_away_is_drained_before_it_is_released() {
    let mut stage = Stage::serving(settings(2));
    let (shard, token) = (stage.shard, stage.token());
    let taken = tickets(&stage.bob_sends([0]));
    // Bob is to have one of the two: the lower one, where the entity is.
    let mut outputs = stage.play([up(&["ann", "bob"])]);
    assert_eq!(stage.phase(), ShardPhase::Draining);
    assert_eq!(closed(&outputs), [(token, 1)]);
    assert_eq!(stage.leases.tenures(stage.now).len(), 2);
    // What comes now is not taken, and what was taken is answered.
    // Both the question whether it is there and the command are told so.
    outputs = stage.bob_sends([1]);
    assert_eq!(closed(&outputs), [(token, 1), (token, 1)]);
    outputs = stage.play([
        Input::Answered(taken[0], reply()),
        Input::Drained(shard, token),
    ]);
    assert_eq!(answers(&outputs), [(0, reply())]);
    assert_eq!(stage.phase(), ShardPhase::Elsewhere);
    assert_eq!(stage.leases.tenures(stage.now).len(), 1);
}

#[test]
fn entities_that_do_not_finish_are_given_up_before_the_release() {
    let mut stage = Stage::serving(settings(1));
    let (shard, token) = (stage.shard, stage.token());
    stage.bob_sends([0]);
    stage.play([Input::Leave]);
    assert_eq!(stage.phase(), ShardPhase::Draining);
    stage.now = ms(199);
    stage.play([]);
    assert_eq!(stage.phase(), ShardPhase::Draining);
    stage.now = ms(200);
    let outputs = stage.play([]);
    assert_eq!(stage.phase(), ShardPhase::Forced);
    let told: Vec<_> = answers(&outputs).iter().map(|(_, a)| effect(a)).collect();
    assert_eq!(told, [Some(FailureEffect::Unknown)]);
    assert_eq!(stage.leases.tenures(stage.now).len(), 1);
    let outputs = stage.play([Input::Ended(shard, token)]);
    assert_eq!(stage.leases.tenures(stage.now), []);
    assert!(outputs.iter().any(|output| matches!(output, Output::Left)));
}

#[test]
fn an_engine_that_does_not_let_go_loses_the_lease() {
    let mut stage = Stage::serving(settings(1));
    stage.play([Input::Leave]);
    for _ in 0..30 {
        stage.now += ms(50);
        stage.play([]);
    }
    assert_eq!(stage.phase(), ShardPhase::Fenced);
    assert_eq!(stage.leases.tenures(stage.now), []);
}

#[test]
fn a_full_shard_refuses_what_comes_then() {
    let mut settings = settings(1);
    settings.taken = 2;
    let mut stage = Stage::serving(settings);
    let outputs = stage.bob_sends([0, 1, 2]);
    let taken = tickets(&outputs);
    assert_eq!(taken.len(), 2);
    let told = answers(&outputs);
    assert_eq!(told[0].0, 2);
    assert_eq!(effect(&told[0].1), Some(FailureEffect::NotHandled));
    stage.turn([Input::Answered(taken[0], reply())]);
    assert_eq!(tickets(&stage.bob_sends([3])).len(), 1);
}

#[test]
fn no_more_senders_are_let_in_than_allowed() {
    let mut settings = settings(1);
    settings.senders = 2;
    let mut stage = Stage::serving(settings);
    let shard = stage.shard;
    let mut open = |name: &str| {
        let frame = Frame::Open {
            shard,
            from: node(name),
        };
        let outputs = stage.turn([Input::Frame(frame)]);
        let is_opened = |output: &Output| matches!(output, Output::Frame(_, Frame::Opened { .. }));
        outputs.iter().any(is_opened)
    };
    // The keeper itself is one.
    assert!(open("bob"));
    assert!(!open("cid"));
    assert!(open("bob"));
}

#[test]
fn what_is_to_be_taken_only_is_told_so_at_once() {
    let mut stage = Stage::new(settings(1));
    let mut one_way = command();
    one_way.wants = Wants::Taken;
    let outputs = stage.play([up(&["ann"]), Input::Send(CallId(1), one_way)]);
    let taken = tickets(&outputs);
    assert_eq!(taken.len(), 1);
    assert_eq!(settled(&outputs), [(1, None)]);
    assert_eq!(
        settled(&stage.turn([Input::Answered(taken[0], reply())])),
        []
    );
}

/// Ann has no shard, and sends to Bob's.
fn sending(settings: Settings) -> Stage {
    let mut stage = Stage::new(settings);
    for shard in stage.keeper.settings.shards.iter() {
        stage
            .leases
            .acquire(Duration::ZERO, shard, &node("bob"), ms(100_000))
            .expect("it is free");
    }
    stage
}

fn sends(calls: std::ops::Range<u64>) -> Vec<Input> {
    calls
        .map(|call| Input::Send(CallId(call), command()))
        .collect()
}

impl Stage {
    fn opened(&mut self, token: u64) -> Vec<Output> {
        let (shard, token) = (self.shard, Token::new(token));
        self.turn([Input::Frame(Frame::Opened { shard, token })])
    }

    fn is_closed(&mut self, token: u64, below: u64) -> Vec<Output> {
        let (shard, token) = (self.shard, Token::new(token));
        self.turn([Input::Frame(Frame::Closed {
            shard,
            token,
            below,
        })])
    }
}

#[test]
fn commands_wait_for_an_owner_and_go_in_their_order() {
    let mut stage = sending(settings(1));
    let outputs = stage.turn(sends(0..3));
    assert_eq!(commands(&outputs), []);
    assert_eq!(stage.status().waiting, 3);
    let first = Token::new(1);
    let outputs = stage.opened(1);
    assert_eq!(commands(&outputs), [(first, 0), (first, 1), (first, 2)]);

    // The owner has taken the first; the others go to the next one, before what came since.
    let outputs = stage.is_closed(1, 1);
    assert_eq!(settled(&outputs), []);
    stage.turn(sends(3..4));
    assert_eq!((stage.status().waiting, stage.status().sent), (3, 1));
    let second = Token::new(2);
    let outputs = stage.opened(2);
    assert_eq!(commands(&outputs), [(second, 0), (second, 1), (second, 2)]);

    // The earlier owner still answers what it has taken.
    let shard = stage.shard;
    let answer = Frame::Answer {
        shard,
        token: first,
        number: 0,
        answer: reply(),
    };
    assert_eq!(settled(&stage.turn([Input::Frame(answer)])), [(0, None)]);
}

#[test]
fn what_an_owner_had_that_is_no_more_ends_as_unknown() {
    let mut stage = sending(settings(1));
    stage.turn(sends(0..2));
    stage.opened(1);
    stage.opened(2);
    stage.now = ms(999);
    assert_eq!(settled(&stage.turn([])), []);
    stage.now = ms(1000);
    let unknown = Some(FailureEffect::Unknown);
    assert_eq!(settled(&stage.turn([])), [(0, unknown), (1, unknown)]);
}

#[test]
fn what_an_earlier_owner_refuses_late_is_not_sent_after_later_commands() {
    let mut stage = sending(settings(1));
    stage.turn(sends(0..2));
    stage.opened(1);
    stage.opened(2);
    stage.turn(sends(2..3));
    let outputs = stage.is_closed(1, 1);
    assert_eq!(settled(&outputs), [(1, Some(FailureEffect::NotHandled))]);
    assert_eq!(commands(&outputs), []);
}

#[test]
fn an_earlier_owner_is_not_heard_any_more() {
    let mut stage = sending(settings(1));
    stage.opened(1);
    stage.turn(sends(0..1));
    stage.opened(3);
    stage.is_closed(3, 0);
    // Neither that one nor the one before it opens again.
    for token in [1, 2, 3] {
        assert_eq!(commands(&stage.opened(token)), [], "{token}");
    }
    assert_eq!(commands(&stage.opened(4)).len(), 1);
}

#[test]
fn the_way_to_a_shard_is_bounded() {
    let mut settings = settings(1);
    settings.buffer = 3;
    settings.window = 2;
    let mut stage = sending(settings);
    let outputs = stage.turn(sends(0..4));
    assert_eq!(settled(&outputs), [(3, Some(FailureEffect::NotHandled))]);
    let first = Token::new(1);
    assert_eq!(commands(&stage.opened(1)), [(first, 0), (first, 1)]);
    assert_eq!((stage.status().waiting, stage.status().sent), (1, 2));
    // A place in the window is a place for the next one.
    let shard = stage.shard;
    let answer = Frame::Answer {
        shard,
        token: first,
        number: 1,
        answer: reply(),
    };
    let outputs = stage.turn([Input::Frame(answer)]);
    assert_eq!(settled(&outputs), [(1, None)]);
    assert_eq!(commands(&outputs), [(first, 2)]);
    assert_eq!(settled(&stage.turn(sends(4..6))).len(), 1);
}

#[test]
fn a_silent_owner_is_asked_and_given_nothing_more() {
    let mut stage = sending(settings(1));
    stage.turn(sends(0..1));
    stage.opened(1);
    stage.now = ms(1000);
    let outputs = stage.turn(sends(1..2));
    let is_open = |output: &Output| matches!(output, Output::Frame(_, Frame::Open { .. }));
    assert!(outputs.iter().any(is_open));
    assert_eq!(commands(&outputs), []);
    // It was only slow.
    assert_eq!(commands(&stage.opened(1)), [(Token::new(1), 1)]);
}

#[test]
fn a_call_ends_with_its_time() {
    let mut stage = sending(settings(1));
    stage.turn(sends(0..1));
    stage.opened(1);
    stage.is_closed(1, 1);
    stage.turn(sends(1..2));
    stage.now = ms(4999);
    assert_eq!(settled(&stage.turn([])), []);
    stage.now = ms(5000);
    let outputs = stage.turn([]);
    let (unknown, not_handled) = (FailureEffect::Unknown, FailureEffect::NotHandled);
    assert_eq!(
        settled(&outputs),
        [(0, Some(unknown)), (1, Some(not_handled))]
    );
}

#[test]
fn what_cannot_be_addressed_is_refused() {
    let mut stage = sending(settings(1));
    let mut deep = command();
    deep.chain = vec!["x".into(); MAX_CHAIN];
    assert_eq!(
        settled(&stage.turn([Input::Send(CallId(1), deep.clone())])),
        []
    );
    deep.chain.push("x".into());
    let mut nameless = command();
    nameless.entity_type = "a|b".into();
    let outputs = stage.turn([
        Input::Send(CallId(2), deep),
        Input::Send(CallId(3), nameless),
    ]);
    let not_handled = Some(FailureEffect::NotHandled);
    assert_eq!(settled(&outputs), [(2, not_handled), (3, not_handled)]);
}

#[test]
fn a_grant_that_comes_too_late_is_given_back() {
    let mut stage = Stage::new(settings(1));
    let outputs = stage.turn([up(&["ann"])]);
    let asked = outputs.iter().find_map(|output| match output {
        Output::Acquire(request, shard, _) => Some((*request, *shard)),
        _ => None,
    });
    let (request, shard) = asked.expect("it asks for the shard");
    stage.now = ms(1000);
    stage.turn([]);
    let token = Token::new(1);
    let outputs = stage.turn([Input::Acquired(request, shard, Ok(token))]);
    let is_release =
        |output: &Output| matches!(output, Output::Release(_, _, own) if *own == token);
    assert!(outputs.iter().any(is_release));
}

#[test]
fn a_second_grant_ends_the_tenure_of_the_first_and_is_not_given_back() {
    let mut stage = Stage::new(settings(1));
    let outputs = stage.turn([up(&["ann"])]);
    let asked = outputs.iter().find_map(|output| match output {
        Output::Acquire(request, shard, _) => Some((*request, *shard)),
        _ => None,
    });
    let (request, shard) = asked.expect("it asks for the shard");
    let grant = |token| Input::Acquired(request, shard, Ok(Token::new(token)));
    stage.turn([grant(1)]);
    // The request came twice to the leases: nobody but this node can have the shard meanwhile.
    let outputs = stage.turn([grant(2)]);
    assert_eq!(stage.phase(), ShardPhase::Fenced);
    let is_release = |output: &Output| matches!(output, Output::Release(..));
    assert!(!outputs.iter().any(is_release));
}

#[test]
fn a_grant_that_a_later_one_has_ended_is_not_acted_on() {
    let mut stage = Stage::new(settings(1));
    let mut asked = Vec::new();
    for inputs in [vec![up(&["ann"])], Vec::new()] {
        let outputs = stage.turn(inputs);
        asked.extend(outputs.into_iter().filter_map(|output| match output {
            Output::Acquire(request, shard, _) => Some((request, shard)),
            _ => None,
        }));
        stage.now += ms(1000);
    }
    stage.now -= ms(1000);
    // The second request got to the leases first, and the answers have changed their places as well.
    let [(first, shard), (second, _)] = asked[..] else {
        panic!("it asks again when there is no answer: {asked:?}");
    };
    stage.turn([Input::Acquired(first, shard, Ok(Token::new(2)))]);
    stage.turn([Input::Acquired(second, shard, Ok(Token::new(1)))]);
    assert_eq!(stage.phase(), ShardPhase::Elsewhere);
}

#[test]
fn a_shard_that_nobody_takes_is_claimed_in_the_end() {
    let mut stage = Stage::new(settings(2));
    // Bob is to have one of the two, and is known to nobody else.
    stage.play([up(&["ann", "bob"]), Input::Tenures(Vec::new())]);
    let serving = |stage: &Stage| {
        let status = stage.keeper.status();
        let own = status.iter().filter(|one| one.phase == ShardPhase::Serving);
        own.count()
    };
    assert_eq!(serving(&stage), 1);
    for _ in 0..98 {
        stage.now += ms(100);
        let tenures = stage.leases.tenures(stage.now);
        stage.play([Input::Tenures(tenures)]);
    }
    assert_eq!(serving(&stage), 1);
    stage.now += ms(200);
    let tenures = stage.leases.tenures(stage.now);
    stage.play([Input::Tenures(tenures)]);
    assert_eq!(serving(&stage), 2);
}

#[test]
fn no_more_shards_are_given_away_at_a_time_than_allowed() {
    let settings = settings(8).with_limits(Limits::default().with_moves(3));
    let mut stage = Stage::serving(settings);
    stage.play([up(&["ann", "bob"])]);
    let count = |stage: &Stage, phase| {
        let status = stage.keeper.status();
        status.iter().filter(|status| status.phase == phase).count()
    };
    assert_eq!(count(&stage, ShardPhase::Draining), 3);
    let drained = stage.keeper.status().into_iter().find_map(|status| {
        let is_draining = status.phase == ShardPhase::Draining;
        is_draining.then(|| Input::Drained(status.shard, status.token.expect("it has one")))
    });
    stage.play(drained);
    assert_eq!(count(&stage, ShardPhase::Serving), 4);
    assert_eq!(count(&stage, ShardPhase::Draining), 3);
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let check = |settings: Settings| settings.check().err().map(|error| error.to_string());
    assert_eq!(check(Settings::default()), None);
    let sound = || Settings::default().with_validity(ms(1000), ms(999));
    assert_eq!(check(sound()), None);
    assert!(check(Settings::default().with_validity(ms(1000), ms(1000))).is_some());
    let mut settings = sound();
    settings.renew_every = ms(1);
    assert!(check(settings).is_some());
    let mut settings = sound();
    settings.buffer = 0;
    assert!(check(settings).is_some());
}

/// Two nodes that take turns with one shard, and a third that sends to it; every frame arrives, in
/// order, whenever the test says so.
struct Relay {
    keepers: Vec<Keeper>,
    leases: LeaseTable,
    now: Duration,
    /// By sender and receiver.
    ways: BTreeMap<(usize, usize), Vec<Frame>>,
    listens: [bool; 3],
    inputs: [Vec<Input>; 3],
    /// What each engine has and has not answered.
    engines: [Vec<(Ticket, u64)>; 3],
    draining: [Option<Token>; 3],
    views: u64,
    sent: u64,
    /// The numbers of the commands in the order in which they were handled.
    handled: Vec<u64>,
    settled: Vec<(u64, Option<FailureEffect>)>,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Send,
    /// A frame of one way arrives.
    Arrive(usize, usize),
    /// An engine handles its first command.
    Handle(usize),
    /// The shard is to go to the other one.
    Move,
    Turn(usize),
    Wait,
}

impl Relay {
    const NAMES: [&'static str; 3] = ["ann", "bob", "cid"];

    fn new() -> Self {
        let mut settings = settings(1);
        settings.window = 4;
        settings.drain_timeout = ms(100_000);
        let keeper = |name: &&str| Keeper::new(node(name), settings.clone(), 1).expect("sound");
        let mut relay = Self {
            keepers: Self::NAMES.iter().map(keeper).collect(),
            leases: LeaseTable::default(),
            now: Duration::ZERO,
            ways: BTreeMap::new(),
            listens: [false; 3],
            inputs: Default::default(),
            engines: Default::default(),
            draining: [None; 3],
            views: 0,
            sent: 0,
            handled: Vec::new(),
            settled: Vec::new(),
        };
        relay.step(Step::Move);
        relay
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send => {
                let payload = SerializedPayload::new(77, "Add", self.sent.to_be_bytes().to_vec());
                let ask = RemoteCommand::ask("Model", ENTITY, payload, ms(10_000_000));
                self.inputs[2].push(Input::Send(CallId(self.sent), Box::new(ask)));
                self.sent += 1;
                self.turn(2);
            }
            Step::Arrive(from, to) => {
                if let Some(way) = self.ways.get_mut(&(from, to))
                    && !way.is_empty()
                {
                    let frame = way.remove(0);
                    self.inputs[to].push(Input::Frame(frame));
                    self.turn(to);
                }
            }
            Step::Handle(node) => self.handle(node),
            Step::Move => {
                self.views += 1;
                let owner = usize::from(self.views.is_multiple_of(2));
                let members = Self::NAMES.iter().enumerate().map(|(number, name)| {
                    let state = if number == owner {
                        MemberState::Up
                    } else {
                        MemberState::Joining
                    };
                    Member::new(node(name), state)
                });
                let members: Vec<Member> = members.collect();
                for inputs in &mut self.inputs {
                    inputs.push(Input::Members(MemberView {
                        version: self.views,
                        members: members.clone(),
                    }));
                }
            }
            Step::Turn(node) => self.turn(node),
            Step::Wait => {
                self.now += ms(60);
                (0..3).for_each(|node| self.turn(node));
            }
        }
    }

    fn handle(&mut self, node: usize) {
        if !self.engines[node].is_empty() {
            let (ticket, number) = self.engines[node].remove(0);
            self.handled.push(number);
            self.inputs[node].push(Input::Answered(ticket, reply()));
        }
        self.end_draining(node);
        self.turn(node);
    }

    fn end_draining(&mut self, node: usize) {
        if self.engines[node].is_empty()
            && let Some(token) = self.draining[node].take()
        {
            let shard = home(&self.keepers[node].settings);
            self.inputs[node].push(Input::Drained(shard, token));
        }
    }

    fn turn(&mut self, number: usize) {
        let inputs = std::mem::take(&mut self.inputs[number]);
        let now = self.now;
        let outputs = self.keepers[number].turn(now, inputs).outputs;
        let holder = self.keepers[number].node().clone();
        for output in outputs {
            let input = match output {
                Output::Acquire(request, shard, validity) => {
                    let result = self.leases.acquire(now, shard, &holder, validity);
                    Input::Acquired(request, shard, result)
                }
                Output::Renew(request, shard, token, validity) => {
                    let result = self.leases.renew(now, shard, token, validity);
                    Input::Renewed(request, shard, result)
                }
                Output::Release(request, shard, token) => {
                    let result = self.leases.release(now, shard, token);
                    Input::Released(request, shard, result)
                }
                Output::ReadTenures => Input::Tenures(self.leases.tenures(now)),
                Output::Deliver {
                    ticket, command, ..
                } => {
                    let bytes = command.payload.bytes[..].try_into().expect("eight bytes");
                    self.engines[number].push((ticket, u64::from_be_bytes(bytes)));
                    continue;
                }
                Output::Drain(_, token) => {
                    self.draining[number] = Some(token);
                    self.end_draining(number);
                    continue;
                }
                Output::Listen(_) => {
                    self.listens[number] = true;
                    continue;
                }
                Output::Silence(_) => {
                    self.listens[number] = false;
                    continue;
                }
                Output::Frame(to, frame) => {
                    for other in 0..3 {
                        let is_meant = match &to {
                            Destination::Node(id) => *id == node(Self::NAMES[other]),
                            Destination::Shard(_) => other != number && self.listens[other],
                        };
                        if is_meant {
                            let way = self.ways.entry((number, other)).or_default();
                            way.push(frame.clone());
                        }
                    }
                    continue;
                }
                Output::Settled(CallId(id), answer) => {
                    self.settled.push((id, effect(&answer)));
                    continue;
                }
                _ => continue,
            };
            self.inputs[number].push(input);
        }
    }
}

mod hand_off {
    use proptest::prelude::*;

    use super::*;

    fn steps() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => Just(Step::Send),
            10 => (0_usize..3, 0_usize..3).prop_map(|(from, to)| Step::Arrive(from, to)),
            4 => (0_usize..2).prop_map(Step::Handle),
            1 => Just(Step::Move),
            4 => (0_usize..3).prop_map(Step::Turn),
            1 => Just(Step::Wait),
        ]
    }

    proptest! {
        /// However hand-offs, frames and turns fall together: where no frame is lost, each command is
        /// handled once at most, in the order of its sender, and its caller is told the truth.
        #[test]
        fn loses_doubles_and_reorders_nothing(steps in prop::collection::vec(steps(), 0..300)) {
            let mut relay = Relay::new();
            for step in steps {
                relay.step(step);
            }
            let mut rounds = 0;
            while relay.settled.len() < usize::try_from(relay.sent).expect("a small number") {
                rounds += 1;
                prop_assert!(rounds < 1000, "{} of {}", relay.settled.len(), relay.sent);
                relay.step(Step::Wait);
                for from in 0..3 {
                    for to in 0..3 {
                        relay.step(Step::Arrive(from, to));
                        relay.step(Step::Arrive(from, to));
                    }
                    relay.step(Step::Handle(from));
                }
            }
            let handled = &relay.handled;
            prop_assert!(handled.is_sorted_by(|a, b| a < b), "{handled:?}");
            for (id, failed) in &relay.settled {
                let was_handled = handled.contains(id);
                match failed {
                    None => prop_assert!(was_handled, "{id} was answered"),
                    Some(FailureEffect::NotHandled) => prop_assert!(!was_handled, "{id} was not"),
                    // The next owner was heard of long before the last word of the one before it.
                    Some(effect) => prop_assert_eq!(*effect, FailureEffect::Unknown),
                }
            }
        }
    }

    #[test]
    fn loses_nothing_when_frames_arrive_soon() {
        let mut relay = Relay::new();
        for round in 0..200 {
            relay.step(Step::Send);
            if round % 10 == 5 {
                relay.step(Step::Move);
            }
            relay.step(Step::Wait);
            for from in 0..3 {
                for to in 0..3 {
                    relay.step(Step::Arrive(from, to));
                    relay.step(Step::Arrive(from, to));
                }
                relay.step(Step::Handle(from));
            }
        }
        let mut rounds = 0;
        while relay.settled.len() < 200 {
            rounds += 1;
            assert!(rounds < 2000, "{} of 200", relay.settled.len());
            relay.step(Step::Wait);
            for from in 0..3 {
                (0..3).for_each(|to| relay.step(Step::Arrive(from, to)));
                relay.step(Step::Handle(from));
            }
        }
        assert_eq!(relay.handled, (0..200).collect::<Vec<_>>());
        let replied: Vec<_> = (0..200).map(|id| (id, None)).collect();
        assert_eq!(relay.settled, replied);
    }
}
