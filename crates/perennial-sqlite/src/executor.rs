//! The threads that own the connections, and the way to them.
//!
//! rusqlite blocks, so callers hand their work over and wait for the answer. One thread writes: it
//! takes everything that waits into one transaction and answers after the commit, so that all
//! share one flush of the disk.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use perennial_persistence::{Clock, Error, OpenError, Previous, SchemaCheck, Timestamp};
use rusqlite::types::Value;
use rusqlite::{CachedStatement, Connection, OpenFlags};
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::{Config, Synchronous};
use crate::error::{Kind, classify, outcome_unknown, unavailable};
use crate::migrate;

/// A table whose rows have times, and how to find the latest.
struct Timed {
    table: &'static str,
    index: &'static str,
    latest: &'static str,
    latest_before: &'static str,
}

const TIMED: [Timed; 2] = [
    Timed {
        table: "event_journal",
        index: "event_journal_slice_idx",
        latest: include_str!("sql/event_journal/latest.sql"),
        latest_before: include_str!("sql/event_journal/latest_before.sql"),
    },
    Timed {
        table: "durable_state",
        index: "durable_state_slice_idx",
        latest: include_str!("sql/durable_state/latest.sql"),
        latest_before: include_str!("sql/durable_state/latest_before.sql"),
    },
];

/// More statements than the store has, so that each stays prepared.
const CACHED_STATEMENTS: usize = 48;

/// Hands work to the threads. They end when it is closed or dropped.
#[derive(Debug)]
pub(crate) struct Executor {
    path: PathBuf,
    writer: mpsc::Sender<Request<Box<dyn WriteJob>>>,
    readers: mpsc::Sender<Request<ReadJob>>,
    /// Each reading thread holds a sender, so this one learns when the last has ended.
    readers_ended: watch::Receiver<()>,
    /// The same for the writing thread.
    writer_ended: watch::Receiver<()>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Executor {
    /// Opens the connections on a new thread and returns with warnings.
    pub(crate) async fn start(
        config: Config,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Vec<String>), OpenError> {
        config.check()?;
        // An absolute path means the same file for ever, and is no name that SQLite reads in its
        // own way, such as `:memory:` or a URI.
        let path = std::path::absolute(&config.path)
            .map_err(|e| cannot_start(&config.path, "there is no working directory", e))?;

        let (writer, write_requests) = mpsc::channel(config.waiting_calls);
        let (readers, read_requests) = mpsc::channel(config.waiting_calls);
        let (reader_alive, readers_ended) = watch::channel(());
        let (writer_alive, writer_ended) = watch::channel(());
        let (opened, answer) = oneshot::channel();
        let mut threads = Vec::with_capacity(1 + config.readers);

        let write_thread = {
            let (path, config) = (path.clone(), config.clone());
            move || {
                let _alive = writer_alive;
                match Opened::open(&path, &config) {
                    Err(error) => drop(opened.send(Err(error))),
                    Ok(Opened {
                        writer,
                        readers,
                        warnings,
                    }) => {
                        if opened.send(Ok((readers, warnings))).is_ok() {
                            Writer::new(writer, &config, clock).run(write_requests);
                        }
                    }
                }
            }
        };
        threads.push(spawn("sqlite-writer".to_owned(), &path, write_thread)?);
        let (connections, warnings) = answer.await.unwrap_or_else(|_| {
            Err(OpenError::Unreachable {
                target: path.display().to_string(),
                reason: "the thread that opened it failed".to_owned(),
                source: None,
            })
        })?;

        let read_requests = Arc::new(Mutex::new(read_requests));
        for (index, connection) in connections.into_iter().enumerate() {
            let (requests, alive) = (Arc::clone(&read_requests), reader_alive.clone());
            let slow_call = config.slow_call;
            let read_thread = move || {
                let _alive = alive;
                // Closed before the other side learns that this thread has ended.
                let connection = connection;
                run_reader(&connection, &requests, slow_call);
            };
            let name = format!("sqlite-reader-{index}");
            threads.push(spawn(name, &path, read_thread)?);
        }
        let executor = Self {
            path,
            writer,
            readers,
            readers_ended,
            writer_ended,
            threads: Mutex::new(threads),
        };
        Ok((executor, warnings))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` in a write transaction and returns its result once that is durable.
    ///
    /// `name` is the statement's, for the log; `events` counts towards the size of a transaction.
    /// An error that `work` returns undoes the whole transaction, so an error that concerns its
    /// own data only belongs into `T`, with nothing left behind.
    ///
    /// The work goes on when the future is dropped.
    pub(crate) async fn write<T, F>(
        &self,
        name: &'static str,
        events: usize,
        work: F,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut WriteTransaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job = Box::new(TypedWriteJob {
            name,
            events,
            work: Some(work),
            result: None,
            answer,
        });
        if self.writer.send(Request::Job(job)).await.is_err() {
            return Err(closed());
        }
        answered.await.unwrap_or_else(|_| {
            Err(Error::outcome_unknown(
                "the thread that writes ended before it answered",
                None,
            ))
        })
    }

    /// Runs `work` on a connection that reads.
    pub(crate) async fn read<T, F>(&self, name: &'static str, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job = ReadJob {
            name,
            run: Box::new(move |connection| {
                // Nobody waits any more: don't read for nothing.
                if !answer.is_closed() {
                    let _ = answer.send(work(connection));
                }
            }),
        };
        if self.readers.send(Request::Job(job)).await.is_err() {
            return Err(closed());
        }
        answered.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Refuses new work, waits for what was accepted, and joins the threads.
    pub(crate) async fn close(&self) {
        // An error means that the other side is closed already. The writer's connection is closed
        // last: of two that are closed at once neither is the last one for SQLite, and the files
        // beside the database would stay.
        let _ = self.readers.send(Request::Close).await;
        let mut ended = self.readers_ended.clone();
        while ended.changed().await.is_ok() {}
        let _ = self.writer.send(Request::Close).await;
        let mut ended = self.writer_ended.clone();
        while ended.changed().await.is_ok() {}
        let threads = {
            let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *threads)
        };
        for thread in threads {
            // They dropped their last value, so this does not block; a panic was logged as such.
            let _ = thread.join();
        }
    }
}

fn closed() -> Error {
    Error::unavailable("the store is closed", None)
}

fn spawn(
    name: String,
    path: &Path,
    run: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, OpenError> {
    std::thread::Builder::new()
        .name(name)
        .spawn(run)
        .map_err(|e| cannot_start(path, "the system gives no more threads", e))
}

fn cannot_start(path: &Path, reason: &str, error: std::io::Error) -> OpenError {
    OpenError::Unreachable {
        target: path.display().to_string(),
        reason: reason.to_owned(),
        source: Some(Arc::new(error)),
    }
}

#[derive(Debug)]
enum Request<J> {
    Job(J),
    /// Nothing after this is accepted.
    Close,
}

struct ReadJob {
    name: &'static str,
    run: Box<dyn FnOnce(&Connection) + Send>,
}

impl std::fmt::Debug for ReadJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ReadJob").field(&self.name).finish()
    }
}

/// A part of a write transaction with somebody who waits for its result.
trait WriteJob: Send {
    fn name(&self) -> &'static str;
    fn events(&self) -> usize;
    fn run(&mut self, transaction: &mut WriteTransaction<'_>) -> rusqlite::Result<()>;
    /// Tells the one who waits; `outcome` is that of the whole transaction.
    fn answer(self: Box<Self>, outcome: Result<(), Error>);
}

struct TypedWriteJob<T, F> {
    name: &'static str,
    events: usize,
    work: Option<F>,
    result: Option<T>,
    answer: oneshot::Sender<Result<T, Error>>,
}

impl<T, F> WriteJob for TypedWriteJob<T, F>
where
    T: Send,
    F: FnOnce(&mut WriteTransaction<'_>) -> rusqlite::Result<T> + Send,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn events(&self) -> usize {
        self.events
    }

    fn run(&mut self, transaction: &mut WriteTransaction<'_>) -> rusqlite::Result<()> {
        if let Some(work) = self.work.take() {
            self.result = Some(work(transaction)?);
        }
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), Error>) {
        let Self { result, answer, .. } = *self;
        let result =
            outcome.map(|()| result.expect("a transaction is committed after all its jobs ran"));
        // Who dropped the future does not want to know.
        let _ = answer.send(result);
    }
}

/// The running write transaction.
pub(crate) struct WriteTransaction<'c> {
    connection: &'c Connection,
    next_micros: i64,
}

impl<'c> WriteTransaction<'c> {
    /// A statement that stays prepared.
    pub(crate) fn prepare(&self, sql: &str) -> rusqlite::Result<CachedStatement<'c>> {
        self.connection.prepare_cached(sql)
    }

    /// Tells an error that is about the data of one statement, after which the others go on
    /// (inner), from one that ends the transaction (outer).
    pub(crate) fn triage<T>(
        &self,
        result: rusqlite::Result<T>,
    ) -> rusqlite::Result<Result<T, rusqlite::Error>> {
        match result {
            Ok(value) => Ok(Ok(value)),
            // A trigger or conflict clause that another program added may have rolled back all.
            Err(error) if self.connection.is_autocommit() => Err(error),
            Err(error) if classify(&error).0 == Kind::Unavailable => Err(error),
            Err(error) => Ok(Err(error)),
        }
    }

    /// Runs several statements so that all or none of them take effect; errors as in
    /// [`Self::triage`].
    pub(crate) fn all_or_nothing<T>(
        &self,
        work: impl FnOnce() -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Result<T, rusqlite::Error>> {
        self.undone_if_refused(|| self.triage(work()))
    }

    /// As [`Self::all_or_nothing`], for work that knows the errors of its own statements: with an
    /// inner one of these, nothing that it did takes effect.
    pub(crate) fn undone_if_refused<T, E>(
        &self,
        work: impl FnOnce() -> rusqlite::Result<Result<T, E>>,
    ) -> rusqlite::Result<Result<T, E>> {
        self.prepare("SAVEPOINT all_or_nothing")?.execute([])?;
        let result = work()?;
        if result.is_err() {
            self.prepare("ROLLBACK TO all_or_nothing")?.execute([])?;
        }
        self.prepare("RELEASE all_or_nothing")?.execute([])?;
        Ok(result)
    }

    /// The `db_timestamp` of the next write: later than every other in the tables of events and
    /// states, and later than `previous`. `None` if that is after the last instant there is, in the year 9999.
    pub(crate) fn next_timestamp(&mut self, previous: Previous) -> Option<Timestamp> {
        if let Previous::At(previous) = previous {
            // Normally its row stands in the table; it may be deleted without a marker.
            let after = previous.as_microsecond().saturating_add(1);
            self.next_micros = self.next_micros.max(after);
        }
        let timestamp = Timestamp::from_microsecond(self.next_micros).ok()?;
        self.next_micros = self.next_micros.saturating_add(1);
        Some(timestamp)
    }
}

/// The thread that writes.
struct Writer {
    connection: Connection,
    clock: Arc<dyn Clock>,
    transaction_events: usize,
    slow_call: Duration,
    /// The latest `db_timestamp` there was in the tables or was given out, in microseconds.
    latest_micros: i64,
    /// SQLite's number of what other connections committed when `latest_micros` was read.
    data_version: Option<i64>,
}

impl Writer {
    fn new(connection: Connection, config: &Config, clock: Arc<dyn Clock>) -> Self {
        Self {
            connection,
            clock,
            transaction_events: config.transaction_events,
            slow_call: config.slow_call,
            latest_micros: i64::MIN,
            data_version: None,
        }
    }

    fn run(mut self, mut requests: mpsc::Receiver<Request<Box<dyn WriteJob>>>) {
        let mut jobs: Vec<Box<dyn WriteJob>> = Vec::new();
        while let Some(request) = requests.blocking_recv() {
            let mut events = 0;
            let mut next = Some(request);
            while let Some(request) = next {
                match request {
                    Request::Job(job) => {
                        events += job.events();
                        jobs.push(job);
                    }
                    Request::Close => requests.close(),
                }
                if events >= self.transaction_events {
                    break;
                }
                next = requests.try_recv().ok();
            }
            self.run_together(&mut jobs, events);
        }
        // Without other connections, closing does this too; with others it would not happen.
        if let Err(error) = checkpoint(&self.connection) {
            tracing::warn!(%error, "the write-ahead log stays in its own file");
        }
    }

    /// Runs the jobs in one transaction and answers them after its commit.
    fn run_together(&mut self, jobs: &mut Vec<Box<dyn WriteJob>>, events: usize) {
        let Some(first) = jobs.first() else {
            return;
        };
        let (name, calls) = (first.name(), jobs.len());
        let start = Instant::now();
        let outcome = self.transact(jobs);
        for job in jobs.drain(..) {
            job.answer(outcome.clone());
        }
        let elapsed = start.elapsed();
        if elapsed > self.slow_call {
            let elapsed_ms = elapsed.as_millis();
            tracing::warn!(name, calls, events, elapsed_ms, "a transaction was slow");
        }
    }

    fn transact(&mut self, jobs: &mut [Box<dyn WriteJob>]) -> Result<(), Error> {
        self.begin().map_err(unavailable)?;
        if let Err(error) = self.run_jobs(jobs) {
            // Should this fail too, the next transaction begins with it.
            let _ = self.rollback();
            return Err(unavailable(error));
        }
        let Err(error) = self.execute("COMMIT") else {
            return Ok(());
        };
        // As long as the transaction is open, nothing of it is durable. One that ended with an
        // error may have reached the disk: the write was made, its flush failed.
        let still_open = !self.connection.is_autocommit();
        if still_open && self.rollback().is_ok() {
            Err(unavailable(error))
        } else {
            Err(outcome_unknown(error))
        }
    }

    fn begin(&self) -> rusqlite::Result<()> {
        if !self.connection.is_autocommit() {
            self.rollback()?;
        }
        // Immediate: the lock is there before anything is read, so that nobody can write between
        // the reading of the clock and the commit.
        self.execute("BEGIN IMMEDIATE")
    }

    fn rollback(&self) -> rusqlite::Result<()> {
        if self.connection.is_autocommit() {
            return Ok(());
        }
        self.execute("ROLLBACK")
    }

    fn execute(&self, sql: &str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(sql)?.execute([]).map(drop)
    }

    fn run_jobs(&mut self, jobs: &mut [Box<dyn WriteJob>]) -> rusqlite::Result<()> {
        self.catch_up()?;
        let now = self.clock.now().as_microsecond();
        let mut transaction = WriteTransaction {
            connection: &self.connection,
            next_micros: now.max(self.latest_micros.saturating_add(1)),
        };
        let result = jobs
            .iter_mut()
            .try_for_each(|job| job.run(&mut transaction));
        self.latest_micros = transaction.next_micros.saturating_sub(1);
        result
    }

    /// Learns the latest `db_timestamp` if another connection has written since it was read.
    ///
    /// All pairs of slice and entity type are looked at then, about a microsecond each. What is
    /// cheaper is not right: row ids are used again after deletions, and another program may have
    /// written old rows last.
    fn catch_up(&mut self) -> rusqlite::Result<()> {
        let data_version = self
            .connection
            .prepare_cached("PRAGMA data_version")?
            .query_row([], |row| row.get(0))?;
        if self.data_version != Some(data_version) {
            for timed in &TIMED {
                if let Some(latest) = latest_micros(&self.connection, timed)? {
                    self.latest_micros = self.latest_micros.max(latest);
                }
            }
            self.data_version = Some(data_version);
        }
        Ok(())
    }
}

/// The largest `db_timestamp` of a table.
fn latest_micros(connection: &Connection, timed: &Timed) -> rusqlite::Result<Option<i64>> {
    let has_index = connection
        .prepare_cached("SELECT 1 FROM pragma_index_list(?1) WHERE name = ?2")?
        .exists([timed.table, timed.index])?;
    if !has_index {
        return connection
            .prepare_cached(timed.latest)?
            .query_row([], |row| row.get(0));
    }
    let mut statement = connection.prepare_cached(timed.latest_before)?;
    let mut latest = None;
    let (mut slice, mut entity_type) = (Value::Integer(i64::MAX), Value::Null);
    loop {
        let mut rows = statement.query((&slice, &entity_type))?;
        let Some(row) = rows.next()? else {
            return Ok(latest);
        };
        latest = latest.max(Some(row.get(2)?));
        (slice, entity_type) = (row.get(0)?, row.get(1)?);
    }
}

fn checkpoint(connection: &Connection) -> rusqlite::Result<()> {
    // Passive: takes what it can get without waiting for anybody.
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
}

fn run_reader(
    connection: &Connection,
    requests: &Mutex<mpsc::Receiver<Request<ReadJob>>>,
    slow_call: Duration,
) {
    loop {
        // One idle reader waits for the next request, the others wait for its place.
        let request = {
            let mut requests = requests.lock().unwrap_or_else(PoisonError::into_inner);
            let request = requests.blocking_recv();
            if let Some(Request::Close) = request {
                requests.close();
            }
            request
        };
        match request {
            None => return,
            Some(Request::Close) => {}
            Some(Request::Job(job)) => {
                let start = Instant::now();
                (job.run)(connection);
                let elapsed = start.elapsed();
                if elapsed > slow_call {
                    let elapsed_ms = elapsed.as_millis();
                    tracing::warn!(name = job.name, elapsed_ms, "a read was slow");
                }
            }
        }
    }
}

/// Connections that are ready.
struct Opened {
    writer: Connection,
    readers: Vec<Connection>,
    warnings: Vec<String>,
}

impl Opened {
    fn open(path: &Path, config: &Config) -> Result<Self, OpenError> {
        let unreachable = |error| explain(path, error);
        let may_create = config.schema_check == SchemaCheck::Create;
        if !may_create && path.try_exists().is_ok_and(|exists| !exists) {
            return Err(refuse(
                path,
                "there is no such file; check the path, or open with `schema-check = \"create\"`, \
                 which makes it",
            ));
        }

        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let create = if may_create {
            OpenFlags::SQLITE_OPEN_CREATE
        } else {
            OpenFlags::empty()
        };
        let mut writer = connect(path, flags | create, config).map_err(unreachable)?;
        if writer.is_readonly("main").map_err(unreachable)? {
            return Err(refuse(
                path,
                "it can only be read; give this user the right to write it",
            ));
        }

        let mut warnings = match migrate::prepare(&mut writer, config.schema_check) {
            Ok(warnings) => warnings,
            Err(migrate::Failure::Sqlite(error)) => return Err(unreachable(error)),
            Err(migrate::Failure::Schema(problems)) => {
                return Err(OpenError::Schema {
                    target: path.display().to_string(),
                    problems,
                });
            }
        };

        use_write_ahead_log(&writer, config.busy_timeout).map_err(unreachable)?;
        set_durability(&writer, config.synchronous).map_err(unreachable)?;
        if config.synchronous == Synchronous::Normal {
            warnings.push(
                "with `synchronous = \"normal\"` an acknowledged event can be lost when the \
                 machine fails; `full` prevents that"
                    .to_owned(),
            );
        }
        // A process that was killed may have left events that it wrote but did not flush. They can
        // be read, so they must not vanish any more: this flushes them.
        checkpoint(&writer).map_err(unreachable)?;

        let mut readers = Vec::with_capacity(config.readers);
        for _ in 0..config.readers {
            let reader = connect(path, flags, config).map_err(unreachable)?;
            reader
                .pragma_update(None, "query_only", true)
                .map_err(unreachable)?;
            readers.push(reader);
        }
        Ok(Self {
            writer,
            readers,
            warnings,
        })
    }
}

fn connect(path: &Path, flags: OpenFlags, config: &Config) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(config.busy_timeout)?;
    connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    // Negative: in KiB instead of pages.
    let kib = i64::try_from(config.cache_bytes >> 10).unwrap_or(i64::MAX);
    connection.pragma_update(None, "cache_size", -kib)?;
    // The first look into the file: tells whether it is a database at all.
    connection.query_row("PRAGMA schema_version", [], |_| Ok(()))?;
    Ok(connection)
}

/// Readers and the writer don't wait for each other with a write-ahead log. The file remembers it.
fn use_write_ahead_log(connection: &Connection, busy_timeout: Duration) -> rusqlite::Result<()> {
    let start = Instant::now();
    loop {
        let switched = connection
            .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0));
        match switched {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(_) => return Err(rusqlite::Error::InvalidQuery),
            // SQLite does not wait here by itself: two processes that start at once would refuse
            // each other.
            Err(error) if is_busy(&error) && start.elapsed() < busy_timeout => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error),
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked)
    )
}

fn set_durability(connection: &Connection, synchronous: Synchronous) -> rusqlite::Result<()> {
    let level = match synchronous {
        Synchronous::Normal => "NORMAL",
        Synchronous::Full => "FULL",
        Synchronous::Extra => "EXTRA",
    };
    connection.pragma_update(None, "synchronous", level)?;
    if synchronous != Synchronous::Normal {
        // On macOS a plain flush stays in the drive's cache; elsewhere these say nothing.
        connection.pragma_update(None, "fullfsync", true)?;
        connection.pragma_update(None, "checkpoint_fullfsync", true)?;
    }
    Ok(())
}

fn refuse(path: &Path, reason: &str) -> OpenError {
    OpenError::Unreachable {
        target: path.display().to_string(),
        reason: reason.to_owned(),
        source: None,
    }
}

/// Says why a file cannot be opened; SQLite has one code for most reasons, the file system tells
/// them apart.
fn explain(path: &Path, error: rusqlite::Error) -> OpenError {
    let directory = path.parent();
    let reason = if path.is_dir() {
        "it is a directory; name a file in it"
    } else if directory.is_some_and(|directory| !directory.exists()) {
        "its directory does not exist, or this user may not look into it; make it, or change \
         `path`"
    } else {
        classify(&error).1
    };
    OpenError::Unreachable {
        target: path.display().to_string(),
        reason: reason.to_owned(),
        source: Some(Arc::new(error)),
    }
}

#[cfg(test)]
mod tests {
    use perennial_persistence::SystemClock;

    use super::*;

    /// A job that inserts a row of so many bytes, and where its answer comes.
    fn job(bytes: usize) -> (Box<dyn WriteJob>, oneshot::Receiver<Result<usize, Error>>) {
        let (answer, answered) = oneshot::channel();
        let work = move |transaction: &mut WriteTransaction<'_>| {
            transaction
                .prepare(
                    "INSERT INTO snapshot VALUES (0, '', ?1, 1, 1, 1, '', zeroblob(?1), 0, '', '')",
                )?
                .execute([i64::try_from(bytes).expect("small")])
        };
        let job = TypedWriteJob {
            name: "test",
            events: 1,
            work: Some(work),
            result: None,
            answer,
        };
        (Box::new(job), answered)
    }

    #[test]
    fn a_full_disk_undoes_the_whole_transaction() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let config = Config::default();
        let opened = Opened::open(&directory.path().join("a"), &config).expect("a new file");
        let set_pages = |connection: &Connection, pages: i64| {
            // As long as the database may not grow, it is as if the disk were full.
            connection
                .query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
                .expect("a setting");
        };
        let mut writer = Writer::new(opened.writer, &config, Arc::new(SystemClock::new()));
        set_pages(&writer.connection, 1);
        let ((small, small_answer), (large, large_answer)) = (job(10), job(1_000_000));
        writer.run_together(&mut vec![small, large], 2);
        for mut answer in [small_answer, large_answer] {
            match answer.try_recv().expect("answered") {
                Err(Error::Unavailable {
                    reason,
                    outcome_unknown: false,
                    ..
                }) => assert!(reason.contains("disk is full"), "{reason}"),
                other => panic!("{other:?}"),
            }
        }
        let rows = |writer: &Writer| {
            writer
                .connection
                .query_row("SELECT count(*) FROM snapshot", [], |row| row.get(0))
        };
        assert_eq!(rows(&writer), Ok(0));

        set_pages(&writer.connection, 1_000_000);
        let ((small, small_answer), (large, large_answer)) = (job(10), job(1_000_000));
        writer.run_together(&mut vec![small, large], 2);
        for mut answer in [small_answer, large_answer] {
            assert_eq!(answer.try_recv().expect("answered").expect("stored"), 1);
        }
        assert_eq!(rows(&writer), Ok(2));
    }

    #[test]
    fn an_acknowledged_event_is_flushed_unless_said_otherwise() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for (synchronous, level) in [
            (Synchronous::Normal, 1),
            (Synchronous::Full, 2),
            (Synchronous::Extra, 3),
        ] {
            let config = Config::default().with_synchronous(synchronous);
            let opened = Opened::open(&directory.path().join("a"), &config).expect("a file");
            let ask = |pragma: &str| {
                let sql = format!("PRAGMA {pragma}");
                opened.writer.query_row(&sql, [], |row| row.get(0))
            };
            assert_eq!(ask("synchronous"), Ok(level));
            assert_eq!(ask("checkpoint_fullfsync"), Ok(i64::from(level > 1)));
        }
    }

    #[test]
    fn what_another_process_did_not_flush_is_in_the_file_after_opening() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("a");
        let config = Config::default();
        let other = Opened::open(&path, &config).expect("a new file");
        other
            .writer
            .execute_batch(
                "PRAGMA synchronous = OFF;
                 INSERT INTO snapshot VALUES (0, '', 'not flushed', 1, 1, 1, '', '', 0, '', '')",
            )
            .expect("a row");
        let is_in_file = || {
            let bytes = std::fs::read(&path).expect("a file");
            bytes.windows(11).any(|part| part == b"not flushed")
        };
        assert!(!is_in_file());
        Opened::open(&path, &config).expect("a file");
        assert!(is_in_file());
    }
}
