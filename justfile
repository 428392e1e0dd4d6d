# Lists the recipes.
default:
    @just --list

# All tests, with a private PostgreSQL.
test *ARGS:
    scripts/test {{ARGS}}

# What decides about a change.
ci:
    .ci/run

# perennial beside the bare driver and bare actix.
bench *ARGS:
    scripts/bench {{ARGS}}

# Plain actors beside actix, tokio, ractor, kameo and xtra.
bench-actors *ARGS:
    cargo run --release -p perennial-bench --bin actors -- {{ARGS}}

# How long an actor waits beside a busy neighbour, with perennial and with bare actix.
fairness:
    cargo run --release -p perennial-bench --bin fairness

# A million plain actors alive at once.
alive ACTORS="1000000":
    cargo run --release -p perennial-bench --bin alive {{ACTORS}}

# The main job on the embedded store.
flights *ARGS:
    cargo run --release -p flights -- {{ARGS}}

# Rows gathered by an actor and written together.
bulk *ARGS:
    cargo run --release -p bulk_processor -- {{ARGS}}

# Accounts and transfers over HTTP: `serve`, or `load --url URL` to drive it.
bank *ARGS:
    cargo run --release -p bank -- {{ARGS}}

# perennial and the JVM in turns on one database; needs a JDK and Maven.
interop *ARGS:
    scripts/interop {{ARGS}}

# The engine under a seeded order, with many seeds.
simulate SEEDS="10000":
    PERENNIAL_SIMULATION_SEEDS={{SEEDS}} cargo test --release -p perennial-testkit --all-features --test simulation -- --nocapture

# One seed of a test again, with its trace.
simulate-one SEED TEST="every_promise_is_kept":
    PERENNIAL_SIMULATION_SEED={{SEED}} cargo test --release -p perennial-testkit --all-features --test simulation {{TEST}} -- --exact --nocapture

# Plain actors under a seeded order, with many seeds.
simulate-actors SEEDS="10000":
    PERENNIAL_SIMULATION_SEEDS={{SEEDS}} cargo test --release -p perennial-testkit --all-features --test actor_simulation -- --nocapture

# One of these seeds again, with its trace.
simulate-actors-one SEED:
    PERENNIAL_SIMULATION_SEED={{SEED}} cargo test --release -p perennial-testkit --all-features --test actor_simulation every_promise_is_kept -- --nocapture

# A cluster under a seeded order, with many seeds.
simulate-cluster SEEDS="100000":
    PERENNIAL_SIMULATION_SEEDS={{SEEDS}} cargo test --release -p perennial-sharding --all-features --test simulation every_promise_is_kept -- --nocapture

# One of these seeds again, with its trace.
simulate-cluster-one SEED:
    PERENNIAL_SIMULATION_SEED={{SEED}} cargo test --release -p perennial-sharding --all-features --test simulation every_promise_is_kept -- --nocapture

# Property tests with many more cases.
proptest CASES="100000":
    PROPTEST_CASES={{CASES}} cargo test --release --workspace

# Kills the examples again and again, on both stores.
kill ROUNDS="20":
    PERENNIAL_TEST_KILLS={{ROUNDS}} scripts/test -p perennial-it crash_recovery

# The documentation, in the browser.
doc:
    cargo doc --workspace --all-features --no-deps --open

# A decoder against arbitrary bytes: json, cbor, message_pack, primitives, compression, manifest.
# Needs nightly and cargo-fuzz (`cargo install cargo-fuzz`).
fuzz TARGET SECONDS="60":
    cargo +nightly fuzz run --fuzz-dir fuzz {{TARGET}} -- -max_total_time={{SECONDS}} -max_len=4096
