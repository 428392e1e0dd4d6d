//! A keeper on the contracts as they are handed in, with one node.

use std::sync::Arc;
use std::time::Duration;

use perennial_persistence::SerializedPayload;
use perennial_sharding::{
    Answer, CallId, Destination, Frame, Input, Keeper, LeaseError, Leases, Membership, NodeId,
    Output, RemoteCommand, Settings, ShardCount, ShardPhase, SingleNode, Transport, TransportError,
};

/// What a driver of a keeper has.
struct Contracts {
    membership: Arc<dyn Membership>,
    leases: Arc<dyn Leases>,
    transport: Arc<dyn Transport>,
}

fn single(node: &NodeId) -> Contracts {
    let single = Arc::new(SingleNode::new(node.clone()));
    Contracts {
        membership: single.clone(),
        leases: single.clone(),
        transport: single,
    }
}

/// Does what a keeper wants, and gives what it is to be told.
async fn act(contracts: &Contracts, node: &NodeId, output: Output) -> Option<Input> {
    match output {
        Output::Announce(state) => {
            let announced = contracts.membership.announce(state).await;
            announced.expect("it is always there");
            None
        }
        Output::ReadTenures => {
            let tenures = contracts.leases.tenures().await;
            Some(Input::Tenures(tenures.expect("they are in memory")))
        }
        Output::Acquire(request, shard, validity) => {
            let result = contracts.leases.acquire(shard, node, validity).await;
            Some(Input::Acquired(request, shard, result))
        }
        Output::Renew(request, shard, token, validity) => {
            let result = contracts.leases.renew(shard, token, validity).await;
            Some(Input::Renewed(request, shard, result))
        }
        Output::Release(request, shard, token) => {
            let result = contracts.leases.release(shard, token).await;
            Some(Input::Released(request, shard, result))
        }
        Output::Listen(shard) => {
            let listens = contracts.transport.listen(shard).await;
            listens.expect("there is nobody to listen to");
            None
        }
        Output::Frame(to, frame) => {
            // What certainly was not sent is lost, which the keeper reckons with.
            let _ = contracts.transport.send(to, frame).await;
            None
        }
        // The engine answers at once.
        Output::Deliver {
            ticket, command, ..
        } => Some(Input::Answered(ticket, Answer::Reply(command.payload))),
        Output::Drain(shard, token) => Some(Input::Drained(shard, token)),
        _ => None,
    }
}

#[test]
fn a_keeper_alone_owns_every_shard_and_answers_its_own_callers() {
    futures_executor::block_on(async {
        let node = NodeId::new("here", 1);
        let contracts = single(&node);
        let shards = ShardCount::new(8).expect("a power of two");
        let settings = Settings::default().with_shards(shards);
        let mut keeper = Keeper::new(node.clone(), settings, 1).expect("they are sound");
        let view = contracts.membership.changed(0).await;
        let mut inputs = vec![Input::Members(view.expect("it is there"))];
        let payload = SerializedPayload::new(77, "Add", &b"2"[..]);
        for call in 0..100 {
            let id = call.to_string();
            let ask = RemoteCommand::ask("Model", id, payload.clone(), Duration::from_secs(5));
            inputs.push(Input::Send(CallId(call), Box::new(ask)));
        }
        let mut replies = 0;
        while !inputs.is_empty() {
            let outbox = keeper.turn(Duration::ZERO, inputs.drain(..));
            for output in outbox.outputs {
                if let Output::Settled(_, Answer::Reply(reply)) = &output {
                    assert_eq!(*reply, payload);
                    replies += 1;
                }
                inputs.extend(act(&contracts, &node, output).await);
            }
        }
        assert_eq!(replies, 100);
        let status = keeper.status();
        assert_eq!(status.len(), 8);
        assert!(status.iter().all(|one| one.phase == ShardPhase::Serving));

        // Nobody is there to take them, and it leaves all the same.
        let mut has_left = false;
        inputs.push(Input::Leave);
        while !inputs.is_empty() {
            let outbox = keeper.turn(Duration::ZERO, inputs.drain(..));
            for output in outbox.outputs {
                has_left |= matches!(output, Output::Left);
                inputs.extend(act(&contracts, &node, output).await);
            }
        }
        assert!(has_left);
        let tenures = contracts.leases.tenures().await;
        assert_eq!(tenures.expect("they are in memory"), []);
    });
}

#[test]
fn a_lease_of_a_single_node_ends_with_its_release_only() {
    futures_executor::block_on(async {
        let node = NodeId::new("here", 1);
        let leases = single(&node).leases;
        let shard = ShardCount::default().shard(0).expect("there are 64");
        let token = leases.acquire(shard, &node, Duration::ZERO).await;
        let token = token.expect("it is free");
        let renewed = leases.renew(shard, token, Duration::ZERO).await;
        assert_eq!(renewed, Ok(()));
        assert_eq!(leases.release(shard, token).await, Ok(()));
        let lost = Err(LeaseError::Lost { shard, token });
        assert_eq!(leases.release(shard, token).await, lost);
    });
}

#[test]
fn a_single_node_has_nobody_to_send_to() {
    futures_executor::block_on(async {
        let node = NodeId::new("here", 1);
        let transport = single(&node).transport;
        let shard = ShardCount::default().shard(0).expect("there are 64");
        let frame = Frame::Open {
            shard,
            from: node.clone(),
        };
        let sent = transport.send(Destination::Node(node), frame).await;
        assert!(matches!(sent, Err(TransportError::Unavailable { .. })));
    });
}
