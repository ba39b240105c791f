//! SQLite: one file, one process, one writer.
//!
//! Every write is a `BEGIN IMMEDIATE` transaction on the one writer connection, run on a task of its own: a caller that is
//! dropped half-way leaves no transaction open. Reads go to a small pool; in WAL mode they wait for nobody.

mod backlog;
mod chunks;
mod inspect;
mod jobs;
mod keys;
mod pauses;
mod rows;
mod webhooks;

pub use inspect::{Inspection, inspect};

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    path::Path,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::future::BoxFuture;
use sqlx::{
    Connection, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::Mutex;

use super::{
    AttemptResult, Changed, ChunkLease, ClaimedChunk, ClaimedDelivery, Created, DeliveryFilter, DeliveryLease, DeliveryRecord, Error,
    IdempotencyKey, JobFilter, JobLease, NewDelivery, NewJob, PendingEvent, Result, Retried, Store, Written,
};
use crate::domain::{
    Backlog, Chunk, ChunkId, ChunkResult, Delivery, DeliveryId, Event, Isolation, Job, JobId, ObjectSlice, Problem, Uri,
    job::{Ending, PlanCursor},
    spec::OutputSpec,
};

/// Connections for reading.
const READERS: u32 = 4;

/// The tables, step by step.
static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("migrations/sqlite");

/// All durable state in one SQLite file. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    writer: Arc<Mutex<SqliteConnection>>,
    readers: SqlitePool,
    /// Added to the database's clock: tests turn it.
    clock_offset_us: Arc<AtomicI64>,
    /// Leases that had run out when this process looked.
    expiries: Arc<AtomicU64>,
    /// Held for the store's life: no other process may open this file.
    _lock: Arc<File>,
}

/// One write transaction: its connection, and the time at which it began by the database's clock.
pub(super) struct Tx<'c> {
    pub(super) db: &'c mut SqliteConnection,
    pub(super) now: i64,
}

impl SqliteStore {
    /// Opens the file, makes it and its folder if missing, locks it, and brings its tables up to date.
    ///
    /// # Errors
    /// [`Error::InUse`] when another process has it open.
    pub async fn open(path: &Path) -> Result<Self> {
        let lock = lock(path)?;
        let options = SqliteConnectOptions::from_str("sqlite://")
            .map_err(Error::Unavailable)?
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10));
        let mut writer = SqliteConnection::connect_with(&options).await.map_err(Error::Unavailable)?;
        MIGRATIONS.run(&mut writer).await.map_err(|e| Error::Unavailable(e.into()))?;
        let readers = SqlitePoolOptions::new().max_connections(READERS).connect_with(options.read_only(true)).await;
        let readers = readers.map_err(Error::Unavailable)?;
        Ok(Self {
            writer: Arc::new(Mutex::new(writer)),
            readers,
            clock_offset_us: Arc::default(),
            expiries: Arc::default(),
            _lock: Arc::new(lock),
        })
    }

    /// Turns the database's clock forward, as if that much time had passed.
    pub fn advance_clock(&self, time: Duration) {
        self.clock_offset_us.fetch_add(time.as_micros() as i64, Ordering::Relaxed);
    }

    /// Runs `work` in one write transaction, to its end even when the caller is dropped.
    async fn write<T, W>(&self, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: for<'t> FnOnce(&'t mut Tx<'_>) -> BoxFuture<'t, Result<T>> + Send + 'static,
    {
        let (writer, offset) = (self.writer.clone(), self.clock_offset_us.clone());
        let transaction = tokio::spawn(async move {
            let mut writer = writer.lock().await;
            sqlx::query("BEGIN IMMEDIATE").execute(&mut *writer).await.map_err(Error::Unavailable)?;
            let done = match now(&mut writer, offset.load(Ordering::Relaxed)).await {
                Ok(now) => work(&mut Tx { db: &mut writer, now }).await,
                Err(error) => Err(error),
            };
            let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
            let ended = sqlx::query(end).execute(&mut *writer).await;
            if ended.is_err() {
                // A commit that fails (a full disk) leaves the transaction open; the next BEGIN must not find it.
                let _already_over = sqlx::query("ROLLBACK").execute(&mut *writer).await;
            }
            let value = done?;
            ended.map_err(Error::Unavailable)?;
            Ok(value)
        });
        // The task is never aborted: a join error is a panic in `work`, which is a fault of this room.
        transaction.await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))
    }
}

async fn now(db: &mut SqliteConnection, offset: i64) -> Result<i64> {
    let now: i64 =
        sqlx::query_scalar("SELECT CAST(unixepoch('subsec') * 1000000 AS INTEGER)").fetch_one(db).await.map_err(Error::Unavailable)?;
    Ok(now + offset)
}

fn lock(path: &Path) -> Result<File> {
    let failed = |e: std::io::Error| Error::Unavailable(sqlx::Error::Io(e));
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(name).map_err(failed)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::InUse { path: path.display().to_string() }),
        Err(error) => Err(failed(error.into())),
    }
}

/// A duration in the tables' unit.
pub(super) fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX / 4)
}

#[async_trait]
impl Store for SqliteStore {
    async fn ping(&self) -> Result<()> {
        // A write lock is what jobs need: a database that can only be read is not ready.
        self.write(|_| Box::pin(async { Ok(()) })).await
    }

    async fn backlog(&self) -> Result<Backlog> {
        let offset = self.clock_offset_us.load(Ordering::Relaxed);
        let backlog = backlog::read(&self.readers, offset).await?;
        Ok(Backlog { lease_expiries: self.expiries.load(Ordering::Relaxed), ..backlog })
    }

    async fn create_job(&self, new: NewJob) -> Result<Created> {
        self.write(move |tx| Box::pin(async move { jobs::create(tx, &new).await })).await
    }

    async fn replay(&self, key: &IdempotencyKey) -> Result<Option<Created>> {
        let mut reader = self.readers.acquire().await.map_err(Error::Unavailable)?;
        keys::find(&mut reader, key).await
    }

    async fn output_claim(&self, output: &OutputSpec) -> Result<Option<(JobId, Uri)>> {
        let mut reader = self.readers.acquire().await.map_err(Error::Unavailable)?;
        jobs::claimant(&mut reader, output).await
    }

    async fn job(&self, id: &JobId) -> Result<Option<Job>> {
        jobs::get(&self.readers, id).await
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>> {
        jobs::list(&self.readers, filter).await
    }

    async fn cancel_job(&self, id: &JobId) -> Result<Changed> {
        let id = id.clone();
        self.write(move |tx| Box::pin(async move { jobs::cancel(tx, &id).await })).await
    }

    async fn pause_job(&self, id: &JobId) -> Result<Changed> {
        let id = id.clone();
        self.write(move |tx| Box::pin(async move { pauses::pause(tx, &id).await })).await
    }

    async fn resume_job(&self, id: &JobId) -> Result<Changed> {
        let id = id.clone();
        self.write(move |tx| Box::pin(async move { pauses::resume(tx, &id).await })).await
    }

    async fn retry_job(&self, id: &JobId) -> Result<Retried> {
        let id = id.clone();
        self.write(move |tx| Box::pin(async move { pauses::retry(tx, &id).await })).await
    }

    async fn expire_jobs(&self) -> Result<Vec<JobId>> {
        let waiting = "SELECT count(*) FROM job WHERE finished_at IS NULL AND deadline_at IS NOT NULL";
        if count(&self.readers, waiting).await? == 0 {
            return Ok(Vec::new());
        }
        self.write(|tx| Box::pin(jobs::expire(tx))).await
    }

    async fn claim_planning(&self, worker: &str, ttl: Duration) -> Result<Option<(JobLease, Job)>> {
        let waiting = "SELECT count(*) FROM (SELECT 1 FROM job WHERE finished_at IS NULL AND plan_done = 0 AND paused_at IS NULL LIMIT 1)";
        if count(&self.readers, waiting).await? == 0 {
            return Ok(None);
        }
        let worker = worker.to_owned();
        self.write(move |tx| Box::pin(async move { jobs::claim_planning(tx, &worker, ttl).await })).await
    }

    async fn append_chunks(&self, lease: &JobLease, ttl: Duration, chunks: Vec<Vec<ObjectSlice>>, cursor: &PlanCursor) -> Result<Written> {
        let (lease, cursor) = (lease.clone(), cursor.clone());
        self.write(move |tx| Box::pin(async move { jobs::append_chunks(tx, &lease, ttl, &chunks, &cursor).await })).await
    }

    async fn renew_job(&self, lease: &JobLease, ttl: Duration) -> Result<Written> {
        let lease = lease.clone();
        self.write(move |tx| Box::pin(async move { jobs::renew(tx, &lease, ttl).await })).await
    }

    async fn release_job(&self, lease: &JobLease) -> Result<Written> {
        let lease = lease.clone();
        self.write(move |tx| Box::pin(async move { jobs::release(tx, &lease).await })).await
    }

    async fn fail_job(&self, id: &JobId, error: &Problem) -> Result<()> {
        let (id, error) = (id.clone(), error.clone());
        self.write(move |tx| Box::pin(async move { jobs::break_job(tx, &id, &error).await })).await
    }

    async fn claim_chunks(&self, worker: &str, limit: u32, ttl: Duration) -> Result<Vec<ClaimedChunk>> {
        let work = "SELECT (SELECT count(*) FROM (SELECT 1 FROM job WHERE finished_at IS NULL AND pending > 0 AND paused_at IS NULL LIMIT 1)) \
                    + (SELECT count(*) FROM (SELECT 1 FROM chunk WHERE state = 'running' LIMIT 1))";
        if limit == 0 || count(&self.readers, work).await? == 0 {
            return Ok(Vec::new());
        }
        let worker = worker.to_owned();
        let (claimed, expired) = self.write(move |tx| Box::pin(async move { chunks::claim(tx, &worker, limit, ttl).await })).await?;
        self.expiries.fetch_add(expired, Ordering::Relaxed);
        Ok(claimed)
    }

    async fn renew_chunks(&self, leases: &[ChunkLease], ttl: Duration) -> Result<Vec<ChunkLease>> {
        let leases = leases.to_vec();
        self.write(move |tx| Box::pin(async move { chunks::renew(tx, leases, ttl).await })).await
    }

    async fn commit_chunk(&self, lease: &ChunkLease, result: &ChunkResult) -> Result<Written> {
        let (lease, result) = (lease.clone(), result.clone());
        self.write(move |tx| Box::pin(async move { chunks::commit(tx, &lease, &result).await })).await
    }

    async fn retry_chunk(&self, lease: &ChunkLease, error: &Problem, delay: Duration) -> Result<Written> {
        let (lease, error) = (lease.clone(), error.clone());
        self.write(move |tx| Box::pin(async move { chunks::retry(tx, &lease, &error, delay).await })).await
    }

    async fn crash_chunk(&self, lease: &ChunkLease, error: &Problem, isolation: Option<&Isolation>) -> Result<Written> {
        let (lease, error, isolation) = (lease.clone(), error.clone(), isolation.cloned());
        self.write(move |tx| Box::pin(async move { chunks::crash(tx, &lease, &error, isolation.as_ref()).await })).await
    }

    async fn fail_chunk(&self, lease: &ChunkLease, error: &Problem) -> Result<Written> {
        let (lease, error) = (lease.clone(), error.clone());
        self.write(move |tx| Box::pin(async move { chunks::fail(tx, &lease, &error).await })).await
    }

    async fn release_chunk(&self, lease: &ChunkLease) -> Result<Written> {
        let lease = lease.clone();
        self.write(move |tx| Box::pin(async move { chunks::release(tx, &lease).await })).await
    }

    async fn chunks(&self, job: &JobId, from_seq: u64, limit: u32) -> Result<Vec<Chunk>> {
        chunks::list(&self.readers, job, from_seq, limit).await
    }

    async fn chunk(&self, id: &ChunkId) -> Result<Option<Chunk>> {
        let found = chunks::list(&self.readers, &id.job, id.seq, 1).await?;
        Ok(found.into_iter().next().filter(|chunk| chunk.id == *id))
    }

    async fn claim_finalizing(&self, worker: &str, ttl: Duration) -> Result<Option<(JobLease, Job)>> {
        let waiting = "SELECT count(*) FROM (SELECT 1 FROM job WHERE state IN ('finalizing', 'cancelling') LIMIT 1)";
        if count(&self.readers, waiting).await? == 0 {
            return Ok(None);
        }
        let worker = worker.to_owned();
        self.write(move |tx| Box::pin(async move { jobs::claim_finalizing(tx, &worker, ttl).await })).await
    }

    async fn finish_job(&self, lease: &JobLease, ending: Ending, error: Option<&Problem>) -> Result<Written> {
        let (lease, error) = (lease.clone(), error.cloned());
        self.write(move |tx| Box::pin(async move { jobs::finish(tx, &lease, ending, error.as_ref()).await })).await
    }

    async fn pending_events(&self, limit: u32) -> Result<Vec<PendingEvent>> {
        webhooks::pending_events(&self.readers, limit).await
    }

    async fn fan_out(&self, event: &Event, deliveries: Vec<NewDelivery>) -> Result<Written> {
        let event = event.clone();
        self.write(move |tx| Box::pin(async move { webhooks::fan_out(tx, &event, &deliveries).await })).await
    }

    async fn claim_deliveries(
        &self,
        limit: u32,
        per_receiver: u32,
        taken: &BTreeMap<String, u32>,
        ttl: Duration,
    ) -> Result<Vec<ClaimedDelivery>> {
        let offset = self.clock_offset_us.load(Ordering::Relaxed);
        if limit == 0 || !webhooks::any_due(&self.readers, offset).await? {
            return Ok(Vec::new());
        }
        let taken = taken.clone();
        self.write(move |tx| Box::pin(async move { webhooks::claim(tx, limit, per_receiver, &taken, ttl).await })).await
    }

    async fn record_attempt(&self, lease: &DeliveryLease, result: &AttemptResult) -> Result<Written> {
        let (lease, result) = (lease.clone(), result.clone());
        self.write(move |tx| Box::pin(async move { webhooks::record_attempt(tx, &lease, &result).await })).await
    }

    async fn replay_delivery(&self, id: &DeliveryId) -> Result<Option<Delivery>> {
        let id = id.clone();
        self.write(move |tx| Box::pin(async move { webhooks::replay(tx, &id).await })).await
    }

    async fn deliveries(&self, filter: &DeliveryFilter) -> Result<Vec<Delivery>> {
        webhooks::list(&self.readers, filter).await
    }

    async fn delivery(&self, id: &DeliveryId) -> Result<Option<DeliveryRecord>> {
        webhooks::get(&self.readers, id).await
    }

    async fn release_all(&self) -> Result<()> {
        self.write(|tx| Box::pin(jobs::release_all(tx))).await
    }
}

/// A cheap look from a reader: most calls of an idle service end here, without a write transaction.
async fn count(readers: &SqlitePool, query: &'static str) -> Result<i64> {
    sqlx::query_scalar(query).fetch_one(readers).await.map_err(Error::Unavailable)
}
