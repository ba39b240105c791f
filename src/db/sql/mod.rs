//! The promises of [`Store`], kept once for both databases.
//!
//! Statements and the order in which rows are locked are the same; [`driver`] says what differs between the two dialects, [`sqlite`] and
//! [`postgres`] open the database and run transactions. In PostgreSQL transactions run side by side: one that changes a job or its chunks
//! holds the job's row first, and one that looks for work passes over rows that another holds.

mod backlog;
mod changes;
mod chunks;
mod costs;
mod covered;
mod driver;
mod inspect;
mod janitor;
mod jobs;
mod keys;
mod pauses;
#[cfg(test)]
mod plans;
mod postgres;
mod registry;
mod rows;
mod schedules;
mod sqlite;
mod waits;
mod webhooks;

pub use inspect::{Inspection, inspect};
#[cfg(test)]
pub(super) use plans::reads;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::future::BoxFuture;
use tokio::sync::Notify;

use self::{
    driver::{Db, Reader},
    postgres::Postgres,
    sqlite::Sqlite,
};
use super::{
    AliasMoved, AttemptResult, Changed, ChunkLease, ClaimedChunk, ClaimedDelivery, ClaimedRun, Created, Database, DeliveryFilter,
    DeliveryLease, DeliveryRecord, Followed, IdempotencyKey, JobFilter, JobLease, NewDelivery, NewJob, NewSchedule, NewVersion,
    PendingEvent, Result, Retried, RunLease, ScheduleChange, ScheduleFilter, Store, Unmade, UsageFilter, UsageReport, Written,
};
use crate::domain::{
    Backlog, Chunk, ChunkId, ChunkResult, Compared, Delivery, DeliveryId, Event, Isolation, Job, JobId, ObjectSlice, Pipeline, Problem,
    Progress, Rate, Run, Schedule, ScheduleId, Spent, StateChange, Timestamp, Uri,
    covered::{Block, Change, Entry},
    delivery::JobSnapshot,
    job::{Ending, PlanCursor},
    registry::{ModelEntry, ModelVersion, Name, Which},
    schedule::{Due, Kept},
    spec::OutputSpec,
};

/// All durable state in a database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SqlStore {
    backend: Backend,
    /// Added to the database's clock: tests turn it.
    clock_offset_us: Arc<AtomicI64>,
    /// Leases that had run out when this process looked.
    expiries: Arc<AtomicU64>,
}

#[derive(Debug, Clone)]
enum Backend {
    Sqlite(Sqlite),
    Postgres(Postgres),
}

/// One write transaction.
struct Tx<'c> {
    db: Db<'c>,
    /// The time at which it began, by the database's clock.
    now: i64,
    /// Whether it makes work for others.
    rings: bool,
    /// States that jobs came to, written as the last thing before the commit.
    changes: Vec<JobSnapshot>,
}

impl<'c> Tx<'c> {
    fn begun(db: Db<'c>, now: i64) -> Self {
        Self { db, now, rings: false, changes: Vec::new() }
    }

    /// Other nodes are to look for work once this is committed.
    fn ring(&mut self) {
        self.rings = true;
    }
}

/// What a transaction does.
trait Work<T>: for<'t> FnOnce(&'t mut Tx<'_>) -> BoxFuture<'t, Result<T>> + Send + 'static {}
impl<T, W: for<'t> FnOnce(&'t mut Tx<'_>) -> BoxFuture<'t, Result<T>> + Send + 'static> Work<T> for W {}

impl SqlStore {
    /// Opens a database and brings its tables up to date. A file is made if it is missing, and locked.
    ///
    /// # Errors
    /// [`Error::InUse`] when another process has the file open; [`Error::Unavailable`] when the database does not answer or refuses.
    pub async fn open(database: &Database) -> Result<Self> {
        let backend = match database {
            Database::Sqlite(path) => Backend::Sqlite(Sqlite::open(path).await?),
            Database::Postgres { url, connections } => Backend::Postgres(Postgres::connect(url, *connections).await?),
        };
        Ok(Self { backend, clock_offset_us: Arc::default(), expiries: Arc::default() })
    }

    /// Turns the database's clock forward, as if that much time had passed.
    pub fn advance_clock(&self, time: Duration) {
        self.clock_offset_us.fetch_add(micros(time), Ordering::Relaxed);
    }

    fn clock_offset_us(&self) -> i64 {
        self.clock_offset_us.load(Ordering::Relaxed)
    }

    /// Runs `work` in one write transaction, to its end even when the caller is dropped.
    async fn write<T: Send + 'static>(&self, work: impl Work<T>) -> Result<T> {
        let (backend, offset) = (self.backend.clone(), self.clock_offset_us());
        let transaction = tokio::spawn(async move {
            match backend {
                Backend::Sqlite(sqlite) => sqlite.write(offset, work).await,
                Backend::Postgres(postgres) => postgres.write(offset, work).await,
            }
        });
        // The task is never aborted: a join error is a panic in `work`, which is a fault of this room.
        transaction.await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))
    }

    async fn reader(&self) -> Result<Reader> {
        match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.reader().await,
            Backend::Postgres(postgres) => postgres.reader().await,
        }
    }

    /// A cheap look from a reader: most calls of an idle service end here, without a write transaction.
    async fn finds(&self, query: String) -> Result<bool> {
        driver::sql(query).exists(&mut self.reader().await?.db()).await
    }

    /// The same, of what is due: `?` is the present. The order says which index is meant: a planner that takes what it looks for to be
    /// frequent would read the table until it meets one.
    async fn finds_due(&self, query: &str) -> Result<bool> {
        let mut reader = self.reader().await?;
        let mut db = reader.db();
        let now = format!("{} + ?", db.clock());
        driver::sql(query.replacen('?', &now, 1)).bind(self.clock_offset_us()).exists(&mut db).await
    }
}

/// A duration in the tables' unit.
fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX / 4)
}

#[async_trait]
impl Store for SqlStore {
    async fn ping(&self) -> Result<()> {
        // A write lock is what jobs need: a database that can only be read is not ready.
        self.write(|_| Box::pin(async { Ok(()) })).await
    }

    async fn backlog(&self) -> Result<Backlog> {
        let backlog = backlog::read(&mut self.reader().await?.db(), self.clock_offset_us()).await?;
        Ok(Backlog { lease_expiries: self.expiries.load(Ordering::Relaxed), ..backlog })
    }

    async fn is_quiet(&self) -> Result<bool> {
        backlog::is_quiet(&mut self.reader().await?.db()).await
    }

    async fn create_job(&self, new: NewJob) -> Result<Created> {
        self.write(move |tx| Box::pin(async move { jobs::create(tx, &new).await })).await
    }

    async fn replay(&self, key: &IdempotencyKey) -> Result<Option<Created>> {
        keys::find(&mut self.reader().await?.db(), key).await
    }

    async fn output_claim(&self, output: &OutputSpec) -> Result<Option<(JobId, Uri)>> {
        jobs::claimant(&mut self.reader().await?.db(), output).await
    }

    async fn job(&self, id: &JobId) -> Result<Option<Job>> {
        jobs::find(&mut self.reader().await?.db(), id).await
    }

    async fn versioned_job(&self, id: &JobId) -> Result<Option<(Job, Option<i64>)>> {
        // Told before the job is read: it is not newer than the job.
        let version = match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.version(),
            Backend::Postgres(_) => None,
        };
        let found = jobs::versioned(&mut self.reader().await?.db(), id).await?;
        Ok(found.map(|(job, row)| (job, row.or(version))))
    }

    async fn job_version(&self, id: &JobId) -> Result<Option<i64>> {
        match &self.backend {
            Backend::Sqlite(sqlite) => Ok(sqlite.version()),
            Backend::Postgres(_) => jobs::version(&mut self.reader().await?.db(), id).await,
        }
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>> {
        jobs::list(&mut self.reader().await?.db(), filter).await
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
        if !self
            .finds_due(
                "SELECT 1 FROM job WHERE finished_at IS NULL AND ending IS NULL AND deadline_at IS NOT NULL AND deadline_at <= ? ORDER BY deadline_at LIMIT 1",
            )
            .await?
        {
            return Ok(Vec::new());
        }
        self.write(|tx| Box::pin(jobs::expire(tx))).await
    }

    async fn claim_planning(&self, worker: &str, ttl: Duration) -> Result<Option<(JobLease, Job)>> {
        let waits = format!("SELECT 1 FROM job WHERE {} AND COALESCE(lease_until, 0) <= ? ORDER BY id LIMIT 1", jobs::TO_PLAN);
        if !self.finds_due(&waits).await? {
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
        if limit == 0 {
            return Ok(Vec::new());
        }
        let (waiting, expired) = chunks::waiting(&mut self.reader().await?.db(), self.clock_offset_us()).await?;
        if expired {
            let rescued = self.write(|tx| Box::pin(chunks::rescue(tx))).await?;
            self.expiries.fetch_add(rescued, Ordering::Relaxed);
        } else if !waiting {
            return Ok(Vec::new());
        }
        let worker = worker.to_owned();
        self.write(move |tx| Box::pin(async move { chunks::claim(tx, &worker, limit, ttl).await })).await
    }

    async fn renew_chunks(&self, leases: &[ChunkLease], ttl: Duration) -> Result<Vec<ChunkLease>> {
        let leases = leases.to_vec();
        self.write(move |tx| Box::pin(async move { chunks::renew(tx, &leases, ttl).await })).await
    }

    async fn commit_chunk(&self, lease: &ChunkLease, result: &ChunkResult) -> Result<Written> {
        let (lease, result) = (lease.clone(), result.clone());
        self.write(move |tx| Box::pin(async move { chunks::commit(tx, &lease, &result).await })).await
    }

    async fn retry_chunk(&self, lease: &ChunkLease, error: &Problem, delay: Duration, spent: &Spent) -> Result<Written> {
        let (lease, error, spent) = (lease.clone(), error.clone(), spent.clone());
        self.write(move |tx| Box::pin(async move { chunks::retry(tx, &lease, &error, delay, &spent).await })).await
    }

    async fn crash_chunk(&self, lease: &ChunkLease, error: &Problem, isolation: Option<&Isolation>, spent: &Spent) -> Result<Written> {
        let (lease, error, isolation, spent) = (lease.clone(), error.clone(), isolation.cloned(), spent.clone());
        self.write(move |tx| Box::pin(async move { chunks::crash(tx, &lease, &error, isolation.as_ref(), &spent).await })).await
    }

    async fn fail_chunk(&self, lease: &ChunkLease, error: &Problem, spent: &Spent) -> Result<Written> {
        let (lease, error, spent) = (lease.clone(), error.clone(), spent.clone());
        self.write(move |tx| Box::pin(async move { chunks::fail(tx, &lease, &error, &spent).await })).await
    }

    async fn release_chunk(&self, lease: &ChunkLease, spent: &Spent) -> Result<Written> {
        let (lease, spent) = (lease.clone(), spent.clone());
        self.write(move |tx| Box::pin(async move { chunks::release(tx, &lease, &spent).await })).await
    }

    async fn postpone_chunk(&self, lease: &ChunkLease, away: &Problem, delay: Duration, spent: &Spent) -> Result<Written> {
        let (lease, away, spent) = (lease.clone(), away.clone(), spent.clone());
        self.write(move |tx| Box::pin(async move { chunks::postpone(tx, &lease, &away, delay, &spent).await })).await
    }

    async fn chunks(&self, job: &JobId, from_seq: u64, limit: u32) -> Result<Vec<Chunk>> {
        chunks::list(&mut self.reader().await?.db(), job, from_seq, limit).await
    }

    async fn chunk(&self, id: &ChunkId) -> Result<Option<Chunk>> {
        let found = chunks::list(&mut self.reader().await?.db(), &id.job, id.seq, 1).await?;
        Ok(found.into_iter().next().filter(|chunk| chunk.id == *id))
    }

    async fn claim_finalizing(&self, worker: &str, ttl: Duration) -> Result<Option<(JobLease, Job)>> {
        if !self
            .finds_due("SELECT 1 FROM job WHERE state IN ('finalizing', 'cancelling') AND COALESCE(lease_until, 0) <= ? LIMIT 1")
            .await?
        {
            return Ok(None);
        }
        let worker = worker.to_owned();
        self.write(move |tx| Box::pin(async move { jobs::claim_finalizing(tx, &worker, ttl).await })).await
    }

    async fn earlier_run(&self, job: &Job) -> Result<Option<Job>> {
        let Some(fire) = &job.fire else { return Ok(None) };
        jobs::earlier_run(&mut self.reader().await?.db(), fire).await
    }

    async fn keep_drift(&self, lease: &JobLease, compared: Option<&Compared>) -> Result<Written> {
        let (lease, compared) = (lease.clone(), compared.cloned());
        self.write(move |tx| Box::pin(async move { jobs::keep_drift(tx, &lease, compared.as_ref()).await })).await
    }

    async fn finish_job(&self, lease: &JobLease, ending: Ending, error: Option<&Problem>) -> Result<Written> {
        let (lease, error) = (lease.clone(), error.cloned());
        self.write(move |tx| Box::pin(async move { jobs::finish(tx, &lease, ending, error.as_ref()).await })).await
    }

    async fn pending_events(&self, limit: u32) -> Result<Vec<PendingEvent>> {
        webhooks::pending_events(&mut self.reader().await?.db(), limit).await
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
        if limit == 0 || !webhooks::any_due(&mut self.reader().await?.db(), self.clock_offset_us()).await? {
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
        webhooks::list(&mut self.reader().await?.db(), filter).await
    }

    async fn delivery(&self, id: &DeliveryId) -> Result<Option<DeliveryRecord>> {
        webhooks::get(&mut self.reader().await?.db(), id).await
    }

    async fn changes(&self, job: Option<&JobId>, after: i64, limit: u32) -> Result<Vec<StateChange>> {
        changes::list(&mut self.reader().await?.db(), job, after, limit).await
    }

    async fn last_change(&self) -> Result<i64> {
        changes::last(&mut self.reader().await?.db()).await
    }

    async fn progress(&self, of: &Followed) -> Result<Vec<Progress>> {
        changes::progress(&mut self.reader().await?.db(), of).await
    }

    async fn now(&self) -> Result<Timestamp> {
        let mut reader = self.reader().await?;
        let mut db = reader.db();
        let now: i64 = driver::sql(format!("SELECT {}", db.clock())).scalar(&mut db).await?;
        Ok(Timestamp(now + self.clock_offset_us()))
    }

    async fn create_schedule(&self, new: NewSchedule) -> Result<Schedule> {
        self.write(move |tx| Box::pin(async move { schedules::create(tx, &new).await })).await
    }

    async fn schedule(&self, id: &ScheduleId) -> Result<Option<Kept>> {
        schedules::find(&mut self.reader().await?.db(), id.as_str()).await
    }

    async fn schedules(&self, filter: &ScheduleFilter) -> Result<Vec<Kept>> {
        schedules::list(&mut self.reader().await?.db(), filter).await
    }

    async fn change_schedule(&self, id: &ScheduleId, revision: u64, change: ScheduleChange) -> Result<Option<Schedule>> {
        let id = id.clone();
        self.write(move |tx| Box::pin(async move { schedules::change(tx, &id, revision, &change).await })).await
    }

    async fn delete_schedule(&self, id: &ScheduleId) -> Result<bool> {
        let id = id.clone();
        self.write(move |tx| Box::pin(async move { schedules::delete(tx, &id).await })).await
    }

    async fn due_schedules(&self, limit: u32) -> Result<(Timestamp, Vec<Kept>)> {
        schedules::due(&mut self.reader().await?.db(), self.clock_offset_us(), limit).await
    }

    async fn open_runs(&self, schedule: &Schedule, due: &Due) -> Result<Written> {
        let (schedule, due) = (schedule.clone(), due.clone());
        self.write(move |tx| Box::pin(async move { schedules::open(tx, &schedule, &due).await })).await
    }

    async fn run_now(&self, id: &ScheduleId) -> Result<Option<Run>> {
        let id = id.clone();
        self.write(move |tx| Box::pin(async move { schedules::run_now(tx, &id).await })).await
    }

    async fn runs(&self, id: &ScheduleId, before: Option<Timestamp>, limit: u32) -> Result<Vec<Run>> {
        schedules::runs(&mut self.reader().await?.db(), id, before, limit).await
    }

    async fn claim_run(&self, ttl: Duration) -> Result<Option<ClaimedRun>> {
        if !self.finds_due("SELECT 1 FROM schedule_run WHERE state = 'waiting' AND due_at <= ? ORDER BY due_at LIMIT 1").await? {
            return Ok(None);
        }
        self.write(move |tx| schedules::claim(tx, ttl)).await
    }

    async fn renew_run(&self, lease: &RunLease, ttl: Duration) -> Result<Written> {
        let lease = lease.clone();
        self.write(move |tx| Box::pin(async move { schedules::renew(tx, &lease, ttl).await })).await
    }

    async fn settle_run(&self, lease: &RunLease, unmade: &Unmade) -> Result<Written> {
        let (lease, unmade) = (lease.clone(), unmade.clone());
        self.write(move |tx| Box::pin(async move { schedules::settle(tx, &lease, &unmade).await })).await
    }

    async fn delay_run(&self, lease: &RunLease, problem: Option<&Problem>, delay: Duration) -> Result<Written> {
        let (lease, problem) = (lease.clone(), problem.cloned());
        self.write(move |tx| Box::pin(async move { schedules::delay(tx, &lease, problem.as_ref(), delay).await })).await
    }

    async fn covered_block(&self, schedule: &ScheduleId, name: &str) -> Result<Option<Block>> {
        covered::block_of(&mut self.reader().await?.db(), schedule, name).await
    }

    async fn cover(&self, schedule: &ScheduleId, job: &JobId, change: Change, entries: Vec<Entry>) -> Result<()> {
        let mut rest = entries;
        loop {
            let (schedule, job, entries) = (schedule.clone(), job.clone(), rest);
            rest = self.write(move |tx| Box::pin(async move { covered::change(tx, &schedule, &job, change, entries).await })).await?;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    async fn job_to_cover(&self, schedule: &ScheduleId) -> Result<Option<(JobId, Change)>> {
        covered::due(&mut self.reader().await?.db(), schedule).await
    }

    async fn job_is_covered(&self, job: &JobId, change: Change) -> Result<()> {
        let job = job.clone();
        self.write(move |tx| Box::pin(async move { covered::done(tx, &job, change).await })).await
    }

    async fn claim_waiting(&self, worker: &str, ttl: Duration) -> Result<Option<(JobLease, Job)>> {
        if !self.finds_due(&format!("SELECT 1 FROM job WHERE {} AND look_at <= ? ORDER BY look_at LIMIT 1", waits::TO_LOOK)).await? {
            return Ok(None);
        }
        let worker = worker.to_owned();
        self.write(move |tx| Box::pin(async move { waits::claim(tx, &worker, ttl).await })).await
    }

    async fn wait_again(&self, lease: &JobLease) -> Result<Written> {
        let lease = lease.clone();
        self.write(move |tx| Box::pin(async move { waits::again(tx, &lease).await })).await
    }

    async fn wait_is_over(&self, lease: &JobLease) -> Result<Written> {
        let lease = lease.clone();
        self.write(move |tx| Box::pin(async move { waits::over(tx, &lease).await })).await
    }

    async fn settle_dependencies(&self) -> Result<u64> {
        if !self.finds(format!("SELECT 1 FROM job WHERE {} ORDER BY id LIMIT 1", waits::ENDED)).await? {
            return Ok(0);
        }
        self.write(|tx| waits::settle(tx)).await
    }

    async fn release_all(&self) -> Result<()> {
        match &self.backend {
            Backend::Sqlite(_) => self.write(|tx| Box::pin(jobs::release_all(tx))).await,
            // Others may be at work.
            Backend::Postgres(_) => Ok(()),
        }
    }

    async fn purge(&self, age: Duration, limit: u32) -> Result<u64> {
        let offset = self.clock_offset_us();
        let Some(job) = janitor::due(&mut self.reader().await?.db(), age, offset).await? else { return Ok(0) };
        self.write(move |tx| Box::pin(async move { janitor::purge(tx, &job, age, limit).await })).await
    }

    async fn usage(&self, filter: &UsageFilter) -> Result<UsageReport> {
        costs::report(&mut self.reader().await?.db(), filter).await
    }

    async fn rate(&self, model: &str, pipeline: &Pipeline, providers: &[String]) -> Result<Option<(String, Rate)>> {
        costs::rate(&mut self.reader().await?.db(), model, pipeline, providers).await
    }

    async fn register_model(&self, new: &NewVersion) -> Result<(ModelVersion, bool)> {
        let new = new.clone();
        self.write(move |tx| Box::pin(async move { registry::register(tx, &new).await })).await
    }

    async fn registered_models(&self, after: Option<&Name>, limit: u32) -> Result<Vec<ModelEntry>> {
        registry::list(&mut self.reader().await?.db(), after, limit).await
    }

    async fn model_versions(&self, name: &Name, before: Option<u64>, limit: u32) -> Result<Vec<ModelVersion>> {
        registry::versions(&mut self.reader().await?.db(), name, before, limit).await
    }

    async fn model_version(&self, name: &Name, which: &Which) -> Result<Option<ModelVersion>> {
        registry::find(&mut self.reader().await?.db(), name, which).await
    }

    async fn move_alias(&self, name: &Name, alias: &Name, version: u64) -> Result<AliasMoved> {
        let (name, alias) = (name.clone(), alias.clone());
        self.write(move |tx| Box::pin(async move { registry::move_alias(tx, &name, &alias, version).await })).await
    }

    async fn remove_alias(&self, name: &Name, alias: &Name) -> Result<bool> {
        let (name, alias) = (name.clone(), alias.clone());
        self.write(move |tx| Box::pin(async move { registry::remove_alias(tx, &name, &alias).await })).await
    }

    fn wake(&self, bell: Arc<Notify>) {
        // With one process whoever makes work rings the bell himself.
        if let Backend::Postgres(postgres) = &self.backend {
            tokio::spawn(postgres.clone().listen(bell));
        }
    }
}
