//! The only place that obtains a connection, times calls and maps the driver's errors.
//!
//! Writes take a connection of the pool each. Reads for recovery share a few connections on which
//! many are under way at once; the driver pipelines them.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use deadpool_postgres::{
    ClientWrapper, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime,
    TimeoutType,
};
use futures_util::TryStreamExt;
use perennial_persistence::OpenError;
use tokio::sync::{RwLock, RwLockReadGuard, Semaphore, SemaphorePermit};
use tokio::time::{MissedTickBehavior, timeout};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::Config;
use crate::connect::Connector;
use crate::error::{Failure, judge, source_of};

/// A statement and the name of its file below `sql/`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sql {
    pub(crate) file: &'static str,
    pub(crate) text: &'static str,
}

/// The statement in a file below `sql/`.
macro_rules! sql {
    ($file:literal) => {
        $crate::executor::Sql {
            file: $file,
            text: include_str!(concat!("sql/", $file)),
        }
    };
}
pub(crate) use sql;

/// Parameters of a statement.
pub(crate) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// The index of what `WITH ORDINALITY` has numbered from 1 on.
pub(crate) fn ordinality(number: i64) -> Option<usize> {
    usize::try_from(number).ok()?.checked_sub(1)
}

/// Runs statements.
pub(crate) struct Executor {
    connector: Connector,
    writers: Pool,
    readers: Readers,
    /// Held for reading by every call; taken for writing once, by the end.
    open: RwLock<bool>,
    call_timeout: Duration,
    acquire_timeout: Duration,
    connect_timeout: Duration,
    slow_call: Duration,
}

impl Executor {
    pub(crate) fn new(config: &Config, connector: Connector) -> Result<Arc<Self>, OpenError> {
        let manager = Manager::from_connect(
            connector.postgres.clone(),
            connector.clone(),
            ManagerConfig {
                // Looks whether the connection is closed, and asks the server nothing.
                recycling_method: RecyclingMethod::Fast,
            },
        );
        let writers = Pool::builder(manager)
            .max_size(config.max_connections - config.recovery_connections)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(config.acquire_timeout))
            .create_timeout(Some(config.connect_timeout))
            .build()
            .map_err(|error| OpenError::Config {
                key: "max-connections",
                reason: format!("makes no pool: {error}"),
            })?;
        let executor = Arc::new(Self {
            connector,
            writers,
            readers: Readers::new(config.recovery_connections, config.pipeline_depth),
            open: RwLock::new(true),
            call_timeout: config.call_timeout,
            acquire_timeout: config.acquire_timeout,
            connect_timeout: config.connect_timeout,
            slow_call: config.slow_call,
        });
        executor
            .connector
            .runtime
            .spawn(look_after(Arc::downgrade(&executor)));
        Ok(executor)
    }

    /// Runs one statement in a transaction of its own, on a connection of its own.
    ///
    /// The rows are given back once the server said that it is ready for the next statement. Only
    /// that message comes after the commit: rows and even the statement's completion are sent
    /// before it.
    pub(crate) async fn call(&self, sql: &Sql, params: Params<'_>) -> Result<Vec<Row>, Failure> {
        let _open = self.enter().await?;
        let started = Instant::now();
        let result = self.call_prepared(sql, params).await;
        self.note_slowness(sql, started);
        result
    }

    async fn call_prepared(&self, sql: &Sql, params: Params<'_>) -> Result<Vec<Row>, Failure> {
        let mut prepared_again = false;
        loop {
            let (mut lease, statement) = self.lease(sql).await?;
            let Ok(answer) = timeout(self.call_timeout, lease.query(&statement, params)).await
            else {
                return Err(Failure::unknown(
                    format!("{} got no answer within {:?}", sql.file, self.call_timeout),
                    None,
                ));
            };
            let error = match answer {
                Ok(rows) => {
                    lease.keep();
                    return Ok(rows);
                }
                Err(error) => error,
            };
            let judgement = judge(sql.file, &error);
            if judgement.connection_usable {
                lease.keep();
            }
            if judgement.prepare_again && !prepared_again {
                prepared_again = true;
                continue;
            }
            return Err(judgement.failure);
        }
    }

    /// A pooled connection with the statement prepared on it.
    ///
    /// Connections that turn out to be dead are passed over: nothing was sent on them yet.
    async fn lease(&self, sql: &Sql) -> Result<(Lease, tokio_postgres::Statement), Failure> {
        // All of the pool may be dead after a restart of the server.
        let attempts = self.writers.status().max_size + 1;
        let mut last = None;
        for _ in 0..attempts {
            let object = self
                .writers
                .get()
                .await
                .map_err(|error| self.no_connection(&error))?;
            let mut lease = Lease::of(object);
            match timeout(self.call_timeout, lease.prepare_cached(sql.text)).await {
                Ok(Ok(statement)) => return Ok((lease, statement)),
                Ok(Err(error)) => {
                    let judgement = judge(sql.file, &error);
                    let failure = judgement.failure.of_reading();
                    if judgement.connection_usable {
                        lease.keep();
                        return Err(failure);
                    }
                    last = Some(failure);
                }
                Err(_) => {
                    return Err(Failure::not_sent(
                        format!(
                            "{} could not be prepared within {:?}",
                            sql.file, self.call_timeout
                        ),
                        None,
                    ));
                }
            }
        }
        Err(last.unwrap_or_else(|| Failure::not_sent("every connection was closed", None)))
    }

    fn no_connection(&self, error: &PoolError) -> Failure {
        let target = &self.connector.target;
        match error {
            PoolError::Timeout(TimeoutType::Create) => Failure::not_sent(
                format!(
                    "{target} did not open a connection within {:?}",
                    self.connect_timeout
                ),
                None,
            ),
            PoolError::Timeout(_) => Failure::not_sent(
                format!(
                    "all connections to {target} were busy for {:?}",
                    self.acquire_timeout
                ),
                None,
            ),
            PoolError::Backend(error) => self.not_connected(error),
            PoolError::Closed => closed(),
            other => Failure::not_sent(format!("no connection to {target}: {other}"), None),
        }
    }

    fn not_connected(&self, error: &tokio_postgres::Error) -> Failure {
        Failure::not_sent(
            format!(
                "cannot connect to {}: {}",
                self.connector.target,
                self.connector.why_unreachable(error)
            ),
            Some(source_of(error)),
        )
    }

    /// Runs one query on a shared connection and hands its rows to `each`, until that breaks off.
    ///
    /// A connection that was lost before the first row came is replaced once.
    pub(crate) async fn read(
        &self,
        sql: &Sql,
        params: Params<'_>,
        mut each: impl FnMut(Row) -> ControlFlow<()>,
    ) -> Result<(), Failure> {
        let _open = self.enter().await?;
        let _permit = self.readers.permit(self.acquire_timeout).await?;
        let started = Instant::now();
        let mut rows = 0;
        let mut tried_again = false;
        let result = loop {
            let shared = self.readers.choose();
            let client = match shared.connected(self).await {
                Ok(client) => client,
                Err(failure) => break Err(failure),
            };
            let reading = async {
                let statement = client.prepare_cached(sql.text).await?;
                let stream = client.query_raw(&statement, params.iter().copied()).await?;
                let mut stream = std::pin::pin!(stream);
                while let Some(row) = stream.try_next().await? {
                    rows += 1;
                    if each(row).is_break() {
                        break;
                    }
                }
                Ok(())
            };
            let Ok(read) = timeout(self.call_timeout, reading).await else {
                // The others on this connection wait behind the same answer.
                shared.forget(&client);
                break Err(Failure::not_sent(
                    format!("{} got no answer within {:?}", sql.file, self.call_timeout),
                    None,
                ));
            };
            let Err(error) = read else { break Ok(()) };
            let judgement = judge(sql.file, &error);
            if !judgement.connection_usable {
                shared.forget(&client);
                if rows == 0 && !tried_again {
                    tried_again = true;
                    continue;
                }
            }
            break Err(judgement.failure.of_reading());
        };
        self.note_slowness(sql, started);
        result
    }

    /// Waits for all calls under way, then closes every connection.
    pub(crate) async fn close(&self) {
        let mut open = self.open.write().await;
        *open = false;
        self.writers.close();
        self.readers.close();
    }

    async fn enter(&self) -> Result<RwLockReadGuard<'_, bool>, Failure> {
        let open = self.open.read().await;
        if *open { Ok(open) } else { Err(closed()) }
    }

    fn note_slowness(&self, sql: &Sql, started: Instant) {
        let elapsed = started.elapsed();
        if elapsed >= self.slow_call {
            tracing::warn!(
                sql = sql.file,
                elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
                "slow call"
            );
        }
    }
}

/// Forgets pooled connections that the server closed, for as long as the store is there.
///
/// Its timer has another use. A runtime without any timer is woken whenever a call sets its own
/// time-out, which costs a lone write some percent of its time; with one that is nearer than any
/// call's, it sleeps on.
async fn look_after(executor: Weak<Executor>) {
    const INTERVAL: Duration = Duration::from_secs(1);
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let Some(executor) = executor.upgrade() else {
            return;
        };
        executor.writers.retain(|client, _| !client.is_closed());
    }
}

fn closed() -> Failure {
    Failure::not_sent("the store is closed", None)
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor")
            .field("target", &self.connector.target)
            .field("writers", &self.writers.status())
            .finish_non_exhaustive()
    }
}

/// A connection of the pool. Unless [`Lease::keep`] is called it is closed when dropped: a call
/// that was given up half-way leaves an answer on its way that is nobody's.
struct Lease {
    object: Option<Object>,
    usable: bool,
}

impl Lease {
    fn of(object: Object) -> Self {
        Self {
            object: Some(object),
            usable: false,
        }
    }

    fn keep(&mut self) {
        self.usable = true;
    }
}

impl std::ops::Deref for Lease {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        self.object
            .as_ref()
            .expect("the object is taken only by dropping")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(object) = self.object.take()
            && !self.usable
        {
            // Dropping the connection closes its socket at once.
            drop(Object::take(object));
        }
    }
}

/// The shared connections.
struct Readers {
    shared: Vec<Shared>,
    permits: Semaphore,
}

impl Readers {
    fn new(connections: usize, pipeline_depth: usize) -> Self {
        Self {
            shared: (0..connections).map(|_| Shared::default()).collect(),
            permits: Semaphore::new(
                connections
                    .saturating_mul(pipeline_depth)
                    .min(Semaphore::MAX_PERMITS),
            ),
        }
    }

    async fn permit(&self, longest: Duration) -> Result<SemaphorePermit<'_>, Failure> {
        match timeout(longest, self.permits.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(closed()),
            Err(_) => Err(Failure::not_sent(
                format!("all recovery connections were busy for {longest:?}"),
                None,
            )),
        }
    }

    /// The connection with the fewest reads under way.
    fn choose(&self) -> InUse<'_> {
        let shared = self
            .shared
            .iter()
            .min_by_key(|shared| shared.under_way.load(Ordering::Relaxed))
            .expect("the configuration demands at least one");
        shared.under_way.fetch_add(1, Ordering::Relaxed);
        InUse(shared)
    }

    fn close(&self) {
        for shared in &self.shared {
            *shared.lock() = None;
        }
    }
}

/// A connection that many reads use at once, opened when it is first needed.
#[derive(Default)]
struct Shared {
    client: Mutex<Option<Arc<ClientWrapper>>>,
    /// Held by the one that opens the connection.
    opening: tokio::sync::Mutex<()>,
    under_way: AtomicUsize,
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<ClientWrapper>>> {
        // Nothing panics while holding it, and an `Option` is whole at any time.
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn usable(&self) -> Option<Arc<ClientWrapper>> {
        self.lock()
            .as_ref()
            .filter(|client| !client.is_closed())
            .cloned()
    }
}

/// A shared connection while one read uses it.
struct InUse<'a>(&'a Shared);

impl InUse<'_> {
    async fn connected(&self, executor: &Executor) -> Result<Arc<ClientWrapper>, Failure> {
        if let Some(client) = self.0.usable() {
            return Ok(client);
        }
        let _opening = self.0.opening.lock().await;
        if let Some(client) = self.0.usable() {
            return Ok(client);
        }
        let (client, task) = timeout(
            executor.connect_timeout,
            executor.connector.open_for_calls(),
        )
        .await
        .map_err(|_| executor.no_connection(&PoolError::Timeout(TimeoutType::Create)))?
        .map_err(|error| executor.not_connected(&error))?;
        let client = Arc::new(ClientWrapper::new(client, task));
        *self.0.lock() = Some(Arc::clone(&client));
        Ok(client)
    }

    /// Lets the next read open a new connection; those under way on this one end with it.
    fn forget(&self, client: &Arc<ClientWrapper>) {
        let mut current = self.0.lock();
        if current
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, client))
        {
            *current = None;
        }
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}
