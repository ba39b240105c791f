//! All durable state, behind one trait.
//!
//! In: domain values. Out: domain values. The only home of SQL; nobody else knows that there are tables.
//! Every method is one transaction that runs to its end even when the caller's future is dropped, may be called by any
//! node at any moment, and tells time by the database's clock: a worker's clock decides nothing.
//!
//! The idea a reader could not guess: a lease is a pair (row, epoch). Claiming a row raises its epoch; every write under
//! a lease says `WHERE lease_epoch = $mine`, so a worker that lost its lease, however late it wakes up, changes nothing.

mod conformance;
mod sqlite;

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;

use crate::domain::{
    Backlog, Chunk, ChunkId, ChunkResult, Job, JobId, JobSpec, JobState, ObjectSlice, Pipeline, Problem, TraceParent, Uri,
    job::{Conflict, Ending, PinnedModel, PlanCursor},
};

pub use sqlite::SqliteStore;

/// What can go wrong below every method.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database did not answer or refused.
    #[error("the database did not answer")]
    Unavailable(#[source] sqlx::Error),
    /// A row holds what no version of this program wrote.
    #[error("{table} {id}: {what}")]
    Damaged {
        /// Which table.
        table: &'static str,
        /// Which row.
        id: String,
        /// What is wrong with it.
        what: String,
    },
    /// Another process has this database open.
    #[error("{path} is in use by another process: stop it, or point this one at another --data-dir")]
    InUse {
        /// The database file.
        path: String,
    },
}

/// Shorthand for this room.
pub type Result<T> = std::result::Result<T, Error>;

/// A job to be accepted.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Made by the caller, so that a repeated call is recognised.
    pub id: JobId,
    /// As validated.
    pub spec: JobSpec,
    /// As pinned.
    pub model: PinnedModel,
    /// As resolved.
    pub pipeline: Pipeline,
    /// The trace it belongs to.
    pub trace: Option<TraceParent>,
}

/// What became of [`Store::create_job`].
#[derive(Debug)]
pub enum Created {
    /// It is durable now.
    Job(Box<Job>),
    /// An unfinished job writes to this prefix, to one above it or to one below it.
    OutputClaimed {
        /// That job.
        by: JobId,
        /// Its output prefix.
        uri: Uri,
    },
}

/// What became of a request to change a job's state.
#[derive(Debug)]
pub enum Changed {
    /// The job as it is now.
    Job(Box<Job>),
    /// No such job.
    Missing,
    /// The job's state does not allow it.
    Conflict(Conflict),
}

/// Which jobs to list; newest first.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Only those in this state.
    pub state: Option<JobState>,
    /// Only those that carry all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Only those created before this one (ids sort by creation).
    pub before: Option<JobId>,
    /// At most this many.
    pub limit: u32,
}

/// A lease on a job, for planning or for finalising.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobLease {
    /// Which job.
    pub job: JobId,
    /// The fencing token.
    pub epoch: i64,
}

/// A lease on a chunk.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ChunkLease {
    /// Which chunk.
    pub chunk: ChunkId,
    /// The fencing token.
    pub epoch: i64,
}

/// A claimed chunk.
#[derive(Debug, Clone)]
pub struct ClaimedChunk {
    /// The lease that was won.
    pub lease: ChunkLease,
    /// The chunk as it stands.
    pub chunk: Chunk,
}

/// Whether a write under a lease was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Written {
    /// It was.
    Done,
    /// Another owns the row now, or the job has ended: nothing was changed.
    Fenced,
}

/// All durable state. See the module's header for what holds for every method.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug + 'static {
    /// Answers when the database does.
    async fn ping(&self) -> Result<()>;

    /// How much waits and runs. Cheap enough to be asked every second: it reads the counts that jobs keep of their chunks, and no chunk.
    async fn backlog(&self) -> Result<Backlog>;

    // ---- Jobs --------------------------------------------------------------------------------------------------

    /// Accepts a job in state `queued` and claims its output prefix. A second call with the same id returns the job.
    async fn create_job(&self, new: NewJob) -> Result<Created>;

    /// One job.
    async fn job(&self, id: &JobId) -> Result<Option<Job>>;

    /// Jobs, newest first.
    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>>;

    /// Applies `CancelRequested`: sets `cancelling`, ending `cancelled`, and pending chunks to `cancelled`. A job that is
    /// already cancelling stays as it is.
    async fn cancel_job(&self, id: &JobId) -> Result<Changed>;

    /// Applies `DeadlinePassed` to every job whose deadline is over (`created_at + deadline_seconds`); returns them.
    async fn expire_jobs(&self) -> Result<Vec<JobId>>;

    // ---- Planning ----------------------------------------------------------------------------------------------

    /// Leases the oldest job whose planning is not done (`queued`, or `validating`/`in_progress` with an expired or
    /// released lease), applies `PlanningBegan`.
    async fn claim_planning(&self, worker: &str, ttl: Duration) -> Result<Option<(JobLease, Job)>>;

    /// Adds chunks (numbered on from the stored cursor's `next_seq`) and moves the cursor, in one transaction; renews the
    /// lease; applies `ChunksPlanned` when `chunks` is not empty. When `cursor.done` and every chunk is done already (or
    /// there is none) applies `AllDone` with ending `completed`.
    async fn append_chunks(&self, lease: &JobLease, ttl: Duration, chunks: Vec<Vec<ObjectSlice>>, cursor: &PlanCursor) -> Result<Written>;

    /// Renews a planning or finalising lease.
    async fn renew_job(&self, lease: &JobLease, ttl: Duration) -> Result<Written>;

    /// Gives a planning or finalising lease back, so that another node may take it at once.
    async fn release_job(&self, lease: &JobLease) -> Result<Written>;

    /// Applies `Broke` with this error: ending `failed`, pending chunks `cancelled`. Needs no lease; a job that is
    /// finalising or finished stays as it is.
    async fn fail_job(&self, id: &JobId, error: &Problem) -> Result<()>;

    // ---- Chunks ------------------------------------------------------------------------------------------------

    /// Claims up to `limit` chunks that are `pending` and due, or `running` under an expired lease, of jobs in state
    /// `in_progress` without an ending: higher priority first, then jobs in turn (fewest running chunks first), then
    /// `seq`. Respects `max_parallel_chunks`. Raises `claims` and the epoch; sets the job's `started_at` once.
    async fn claim_chunks(&self, worker: &str, limit: u32, ttl: Duration) -> Result<Vec<ClaimedChunk>>;

    /// Renews leases; returns those that must stop: fenced, or their job has an ending.
    async fn renew_chunks(&self, leases: &[ChunkLease], ttl: Duration) -> Result<Vec<ChunkLease>>;

    /// Commits a chunk: state `done`, its result, the job's counters and usage, in one transaction. When it was the last
    /// one of a job whose planning is done, applies `AllDone`; the ending is `completed`, or `failed` with a problem when
    /// the error policy is violated or every record failed. Violating `max_failed_records` applies `Broke` at once.
    async fn commit_chunk(&self, lease: &ChunkLease, result: &ChunkResult) -> Result<Written>;

    /// Puts the chunk back to `pending` after an error that may pass, due in `delay`; raises `failures`. With
    /// `failures` = the job's `max_attempts` the chunk is `failed` and the job breaks with the error.
    async fn retry_chunk(&self, lease: &ChunkLease, error: &Problem, delay: Duration) -> Result<Written>;

    /// Puts the chunk back to `pending` after its runner died; raises `crashes`. With `crashes` = `limit` the chunk is
    /// `failed` and the job breaks with the error.
    async fn crash_chunk(&self, lease: &ChunkLease, error: &Problem, limit: u32) -> Result<Written>;

    /// Sets the chunk `failed` and breaks the job with the error.
    async fn fail_chunk(&self, lease: &ChunkLease, error: &Problem) -> Result<Written>;

    /// Puts the chunk back to `pending`, due at once, at no cost to it: for a drain, or for a chunk that must stop because its
    /// job has an ending (then it becomes `cancelled`).
    async fn release_chunk(&self, lease: &ChunkLease) -> Result<Written>;

    /// Chunks of a job in `seq` order, from `from_seq` on.
    async fn chunks(&self, job: &JobId, from_seq: u64, limit: u32) -> Result<Vec<Chunk>>;

    /// One chunk.
    async fn chunk(&self, id: &ChunkId) -> Result<Option<Chunk>>;

    // ---- Finalising --------------------------------------------------------------------------------------------

    /// Leases a job that is `finalizing` or `cancelling` and has no chunk `running` under a live lease.
    async fn claim_finalizing(&self, worker: &str, ttl: Duration) -> Result<Option<(JobLease, Job)>>;

    /// Applies `Ended`: final state, `finished_at`; the output prefix is free again. `error` is kept on the job unless it has one.
    async fn finish_job(&self, lease: &JobLease, ending: Ending, error: Option<&Problem>) -> Result<Written>;

    // ---- Start -------------------------------------------------------------------------------------------------

    /// Ends every lease at once. Only for a store that no other process can have open (SQLite), at start.
    async fn release_all(&self) -> Result<()>;
}
