//! The store beside the bare driver, in rounds that alternate on one server.
//!
//!     cargo bench -p perennial-postgres -- [CASE…] [--seconds N] [--rounds N]
//!
//! Cases: `lone` (one event at a time, floor: a bare prepared INSERT), `batch-N` (N events of N
//! entities on each of two connections, floor: a bare INSERT … SELECT FROM UNNEST), `state` and
//! `states-N` (the same with durable states, each round on rows that are there; floor: a bare
//! INSERT … SELECT FROM UNNEST ON CONFLICT DO UPDATE under the expected revision), `recover` (10,000 ids of 100 events, floor: bare pipelined SELECTs; `recover-small` has 1,000 ids).
//! Payloads have 100 bytes. The server keeps its default durability (`fsync` and
//! `synchronous_commit` on) unless the fixture's environment says otherwise.
//!
//! Prints events per second and ours divided by the floor, medians of the rounds. Many short rounds
//! give a steadier ratio on a machine that does other things as well.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use perennial_persistence::{
    AtomicWrite, DurableStateStore, Journal, NewEvent, PageLimit, PersistenceId, Previous,
    SequenceNr, SerializedPayload, StateChange, StateWrite, Store, WriterId,
};
use perennial_postgres::{Config, Postgres};
use perennial_testkit::postgres::TestPostgres;
use tokio_postgres::{Client, NoTls, Statement};

const PAYLOAD: [u8; 100] = [b'x'; 100];
const MANIFEST: &str = "Account.Event";
const SERIALIZER: i32 = 77;
const WRITER: &str = "00000000-0000-4000-8000-000000000001";

fn main() {
    let mut cases = Vec::new();
    let (mut seconds, mut rounds): (f64, usize) = (2.0, 5);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("a number follows");
        match argument.as_str() {
            "--seconds" => seconds = value().parse().expect("a number"),
            "--rounds" => rounds = value().parse().expect("a number"),
            "--bench" => {}
            case => cases.push(case.to_owned()),
        }
    }
    if cases.is_empty() {
        cases = [
            "lone",
            "batch-64",
            "batch-1000",
            "batch-5000",
            "state",
            "states-64",
            "states-1000",
            "states-5000",
            "recover",
        ]
        .map(str::to_owned)
        .to_vec();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    for case in cases {
        let time = Duration::from_secs_f64(seconds);
        let (mut ours, mut floor) = (Vec::new(), Vec::new());
        runtime.block_on(async {
            let bench = Bench::new().await;
            match case.split_once('-') {
                Some(("batch", size)) => {
                    let size = size.parse().expect("a size");
                    for round in 0..rounds {
                        floor.push(bench.batches_floor(size, round, time).await);
                        ours.push(bench.batches(size, round, time).await);
                    }
                }
                Some(("states", size)) => {
                    let size = size.parse().expect("a size");
                    for round in 0..rounds {
                        floor.push(bench.states_floor(size, round, time).await);
                        ours.push(bench.states(size, round, time).await);
                    }
                }
                _ if case == "state" => {
                    for round in 0..rounds {
                        floor.push(bench.states_floor(1, round, time).await);
                        ours.push(bench.states(1, round, time).await);
                    }
                }
                _ if case == "lone" => {
                    for round in 0..rounds {
                        floor.push(bench.lone_floor(round, time).await);
                        ours.push(bench.lone(round, time).await);
                    }
                }
                _ => {
                    let ids = if case == "recover" { 10_000 } else { 1_000 };
                    bench.fill(ids, 100).await;
                    for _ in 0..rounds {
                        floor.push(bench.recover_floor(ids).await);
                        ours.push(bench.recover(ids).await);
                    }
                }
            }
        });
        let ratios = ours.iter().zip(&floor).map(|(ours, floor)| ours / floor);
        let ratio = median(ratios.collect());
        let (ours, floor) = (median(ours), median(floor));
        println!("{case:>14}  ours {ours:>10.0}/s  floor {floor:>10.0}/s  ratio {ratio:.3}");
    }
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53 events")]
fn rate(events: usize, started: Instant) -> f64 {
    events as f64 / started.elapsed().as_secs_f64()
}

struct Bench {
    database: TestPostgres,
    /// Dropped with the bench, after the floor's clients have used it.
    _floor: TestPostgres,
    journal: Arc<dyn Journal>,
    states: Arc<dyn DurableStateStore>,
    clients: Vec<Arc<Client>>,
}

impl Bench {
    async fn new() -> Self {
        let ours = TestPostgres::new();
        let floor = TestPostgres::new();
        let open = async |database: &TestPostgres| {
            let config = Config::default().with_url(database.url());
            Postgres::open(config).await.expect("a database")
        };
        let store = open(&ours).await;
        open(&floor).await.close().await;
        let mut clients = Vec::new();
        for _ in 0..2 {
            let (client, connection) = tokio_postgres::connect(floor.url(), NoTls)
                .await
                .expect("a connection");
            tokio::spawn(connection);
            clients.push(Arc::new(client));
        }
        Self {
            journal: store.journal(),
            states: store.durable_state_store(),
            database: ours,
            _floor: floor,
            clients,
        }
    }

    async fn lone(&self, round: usize, time: Duration) -> f64 {
        let id = id(round, 0);
        let mut previous = Previous::None;
        let mut count = 0;
        let started = Instant::now();
        while started.elapsed() < time {
            count += 1;
            let mut write = write(&id, count);
            write.previous = previous;
            let answers = self
                .journal
                .write_events(std::slice::from_ref(&write))
                .await;
            previous = Previous::At(answers[0].as_ref().expect("written").timestamp);
        }
        rate(count, started)
    }

    async fn lone_floor(&self, round: usize, time: Duration) -> f64 {
        let client = &self.clients[0];
        let insert = client
            .prepare(
                "INSERT INTO event_journal (slice, entity_type, persistence_id, seq_nr, \
                 db_timestamp, event_ser_id, event_ser_manifest, event_payload, writer, \
                 adapter_manifest) VALUES ($1, $2, $3, $4, transaction_timestamp(), $5, $6, $7, \
                 $8, '') RETURNING db_timestamp",
            )
            .await
            .expect("a statement");
        let id = id(round, 0);
        let mut count = 0;
        let started = Instant::now();
        while started.elapsed() < time {
            count += 1;
            client
                .query_one(
                    &insert,
                    &[
                        &i32::from(id.slice()),
                        &id.entity_type(),
                        &id.as_str(),
                        &seq(count).to_i64(),
                        &SERIALIZER,
                        &MANIFEST,
                        &&PAYLOAD[..],
                        &WRITER,
                    ],
                )
                .await
                .expect("an insert");
        }
        rate(count, started)
    }

    async fn batches(&self, size: usize, round: usize, time: Duration) -> f64 {
        let started = Instant::now();
        let tasks: Vec<_> = (0..2)
            .map(|task| {
                let journal = Arc::clone(&self.journal);
                let ids = ids(round * 2 + task, size);
                tokio::spawn(async move {
                    let mut times = vec![Previous::None; size];
                    let mut count = 0;
                    while started.elapsed() < time {
                        count += 1;
                        let batch: Vec<AtomicWrite> = ids
                            .iter()
                            .zip(&times)
                            .map(|(id, &previous)| {
                                let mut write = write(id, count);
                                write.previous = previous;
                                write
                            })
                            .collect();
                        for (answer, time) in
                            journal.write_events(&batch).await.iter().zip(&mut times)
                        {
                            *time = Previous::At(answer.as_ref().expect("written").timestamp);
                        }
                    }
                    count * size
                })
            })
            .collect();
        let mut events = 0;
        for task in tasks {
            events += task.await.expect("no panic");
        }
        rate(events, started)
    }

    async fn batches_floor(&self, size: usize, round: usize, time: Duration) -> f64 {
        let started = Instant::now();
        let tasks: Vec<_> = (0..2)
            .map(|task| {
                let client = Arc::clone(&self.clients[task]);
                let ids = ids(round * 2 + task, size);
                tokio::spawn(async move {
                    let insert = client
                        .prepare(
                            "INSERT INTO event_journal (slice, entity_type, persistence_id, \
                             seq_nr, db_timestamp, event_ser_id, event_ser_manifest, \
                             event_payload, writer, adapter_manifest) SELECT slice, entity_type, \
                             persistence_id, seq_nr, transaction_timestamp(), ser_id, \
                             manifest, payload, writer, '' FROM unnest($1::int[], $2::text[], \
                             $3::text[], $4::bigint[], $5::int[], $6::text[], $7::bytea[], \
                             $8::text[]) AS new (slice, entity_type, persistence_id, seq_nr, \
                             ser_id, manifest, payload, writer)",
                        )
                        .await
                        .expect("a statement");
                    let mut count = 0;
                    while started.elapsed() < time {
                        count += 1;
                        // The rows wait in memory on both sides.
                        let batch: Vec<AtomicWrite> =
                            ids.iter().map(|id| write(id, count)).collect();
                        let ids = || batch.iter().map(AtomicWrite::persistence_id);
                        let payloads = || batch.iter().map(|write| &write.events()[0].payload);
                        let slices: Vec<i32> = ids().map(|id| id.slice().into()).collect();
                        let types: Vec<&str> = ids().map(PersistenceId::entity_type).collect();
                        let names: Vec<&str> = ids().map(PersistenceId::as_str).collect();
                        let manifests: Vec<&str> = payloads().map(|one| &*one.manifest).collect();
                        let bytes: Vec<&[u8]> = payloads().map(|one| &*one.bytes).collect();
                        client
                            .execute(
                                &insert,
                                &[
                                    &slices,
                                    &types,
                                    &names,
                                    &vec![seq(count).to_i64(); size],
                                    &vec![SERIALIZER; size],
                                    &manifests,
                                    &bytes,
                                    &vec![WRITER; size],
                                ],
                            )
                            .await
                            .expect("an insert");
                    }
                    count * size
                })
            })
            .collect();
        let mut events = 0;
        for task in tasks {
            events += task.await.expect("no panic");
        }
        rate(events, started)
    }

    /// One task for a lone state at a time, two for batches.
    async fn states(&self, size: usize, round: usize, time: Duration) -> f64 {
        let rounds = (0..state_tasks(size)).map(|task| {
            let states = Arc::clone(&self.states);
            let ids = ids(round * 2 + task, size);
            async move {
                write_states(&*states, &ids, 0).await;
                let started = Instant::now();
                let mut count = 0;
                while started.elapsed() < time {
                    count += 1;
                    write_states(&*states, &ids, count).await;
                }
                (count * size, started)
            }
        });
        together(rounds.map(tokio::spawn).collect()).await
    }

    async fn states_floor(&self, size: usize, round: usize, time: Duration) -> f64 {
        let rounds = (0..state_tasks(size)).map(|task| {
            let client = Arc::clone(&self.clients[task]);
            let ids = ids(round * 2 + task, size);
            async move {
                let upsert = client.prepare(UPSERT_STATES).await.expect("a statement");
                upsert_states(&client, &upsert, &ids, 0).await;
                let started = Instant::now();
                let mut count = 0;
                while started.elapsed() < time {
                    count += 1;
                    upsert_states(&client, &upsert, &ids, count).await;
                }
                (count * size, started)
            }
        });
        together(rounds.map(tokio::spawn).collect()).await
    }

    /// Stores events in the order that traffic leaves them: the entities in turn.
    async fn fill(&self, ids: usize, events: usize) {
        let ids = self::ids(0, ids);
        for number in 1..=events {
            let batch: Vec<AtomicWrite> = ids.iter().map(|id| write(id, number)).collect();
            for mut part in batch.chunks(5_000).map(<[_]>::to_vec) {
                for write in &mut part {
                    // The bench's clock does not step back.
                    write.previous = Previous::None;
                }
                for answer in self.journal.write_events(&part).await {
                    answer.expect("written");
                }
            }
        }
        self.database.execute("VACUUM ANALYZE event_journal");
    }

    async fn recover(&self, count: usize) -> f64 {
        let ids = ids(0, count);
        let started = Instant::now();
        let mut waiting = ids.iter();
        let mut running = FuturesUnordered::new();
        let mut events = 0;
        let replay = |id| {
            let limit = PageLimit {
                rows: 1_000,
                bytes: 1 << 20,
            };
            self.journal
                .replay_events(id, SequenceNr::FIRST, SequenceNr::MAX, limit)
        };
        running.extend(waiting.by_ref().take(32).map(replay));
        while let Some(page) = running.next().await {
            events += page.expect("a page").events.len();
            running.extend(waiting.next().map(replay));
        }
        assert_eq!(events, count * 100);
        rate(events, started)
    }

    async fn recover_floor(&self, count: usize) -> f64 {
        // The floor reads the very same table through bare connections.
        let mut clients = Vec::new();
        for _ in 0..2 {
            let (client, connection) = tokio_postgres::connect(self.database.url(), NoTls)
                .await
                .expect("a connection");
            tokio::spawn(connection);
            let select = client
                .prepare(
                    "SELECT seq_nr, db_timestamp, deleted, event_ser_id, event_ser_manifest, \
                     event_payload, meta_ser_id, meta_ser_manifest, meta_payload FROM \
                     event_journal WHERE persistence_id = $1 AND seq_nr >= $2 AND seq_nr <= $3 \
                     ORDER BY seq_nr LIMIT $4",
                )
                .await
                .expect("a statement");
            clients.push((client, select));
        }
        let ids = ids(0, count);
        let started = Instant::now();
        let mut waiting = ids.iter().zip(clients.iter().cycle());
        let mut running = FuturesUnordered::new();
        let mut events = 0;
        async fn read((id, (client, select)): (&PersistenceId, &(Client, Statement))) -> usize {
            let rows = client
                .query(select, &[&id.as_str(), &1_i64, &i64::MAX, &1_000_i64])
                .await
                .expect("rows");
            rows.iter()
                .filter(|row| row.get::<_, &[u8]>(5).len() == PAYLOAD.len())
                .count()
        }
        running.extend(waiting.by_ref().take(32).map(read));
        while let Some(count) = running.next().await {
            events += count;
            running.extend(waiting.next().map(read));
        }
        assert_eq!(events, count * 100);
        rate(events, started)
    }
}

fn seq(number: usize) -> SequenceNr {
    SequenceNr::new(u64::try_from(number).expect("64 bits")).expect("in range")
}

fn id(group: usize, number: usize) -> PersistenceId {
    PersistenceId::new("Account", &format!("{group}-{number:06}")).expect("a valid id")
}

fn ids(group: usize, count: usize) -> Vec<PersistenceId> {
    (0..count).map(|number| id(group, number)).collect()
}

fn write(id: &PersistenceId, number: usize) -> AtomicWrite {
    let payload = SerializedPayload::new(SERIALIZER, MANIFEST, &PAYLOAD[..]);
    AtomicWrite::new(
        id.clone(),
        WriterId::from_random_bits(1),
        seq(number),
        vec![NewEvent::new(payload)],
    )
    .expect("a valid write")
}

fn state_tasks(size: usize) -> usize {
    if size == 1 { 1 } else { 2 }
}

/// States per second of tasks that ran at the same time.
async fn together(tasks: Vec<tokio::task::JoinHandle<(usize, Instant)>>) -> f64 {
    let mut states = 0;
    let mut first = None;
    for task in tasks {
        let (count, started) = task.await.expect("no panic");
        states += count;
        first = first.min(Some(started)).or(Some(started));
    }
    rate(states, first.expect("a task"))
}

/// Makes revision `revision + 1` of every id.
async fn write_states(states: &dyn DurableStateStore, ids: &[PersistenceId], revision: usize) {
    let batch: Vec<StateWrite> = ids
        .iter()
        .map(|id| {
            let put = StateChange::Put {
                payload: SerializedPayload::new(SERIALIZER, MANIFEST, &PAYLOAD[..]),
                tags: Vec::new(),
            };
            StateWrite::new(id.clone(), seq(revision), seq(revision + 1), put).expect("valid")
        })
        .collect();
    for answer in states.write_states(&batch).await {
        answer.expect("written");
    }
}

const UPSERT_STATES: &str = "INSERT INTO durable_state (slice, entity_type, persistence_id, \
     revision, db_timestamp, state_ser_id, state_ser_manifest, state_payload) SELECT slice, \
     entity_type, persistence_id, revision, transaction_timestamp(), ser_id, manifest, payload \
     FROM unnest($1::int[], $2::text[], $3::text[], $4::bigint[], $5::int[], $6::text[], \
     $7::bytea[]) AS new (slice, entity_type, persistence_id, revision, ser_id, manifest, payload) \
     ON CONFLICT (persistence_id) DO UPDATE SET revision = excluded.revision, db_timestamp = \
     excluded.db_timestamp, state_ser_id = excluded.state_ser_id, state_ser_manifest = \
     excluded.state_ser_manifest, state_payload = excluded.state_payload \
     WHERE durable_state.revision = excluded.revision - 1";

async fn upsert_states(
    client: &Client,
    upsert: &Statement,
    ids: &[PersistenceId],
    revision: usize,
) {
    let slices: Vec<i32> = ids.iter().map(|id| id.slice().into()).collect();
    let types: Vec<&str> = ids.iter().map(PersistenceId::entity_type).collect();
    let names: Vec<&str> = ids.iter().map(PersistenceId::as_str).collect();
    let stored = client
        .execute(
            upsert,
            &[
                &slices,
                &types,
                &names,
                &vec![seq(revision + 1).to_i64(); ids.len()],
                &vec![SERIALIZER; ids.len()],
                &vec![MANIFEST; ids.len()],
                &vec![&PAYLOAD[..]; ids.len()],
            ],
        )
        .await
        .expect("an upsert");
    assert_eq!(
        usize::try_from(stored),
        Ok(ids.len()),
        "the expected revisions"
    );
}
