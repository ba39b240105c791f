//! All durable state, behind one trait.
//!
//! In: domain values. Out: domain values. The only home of SQL; nobody else knows that there are tables.
//! Every method is one transaction that runs to its end even when the caller's future is dropped, may be called by any
//! node at any moment, and tells time by the database's clock: a worker's clock decides nothing.
//!
//! The idea a reader could not guess: a lease is a pair (row, epoch). Claiming a row raises its epoch; every write under
//! a lease says `WHERE lease_epoch = $mine`, so a worker that lost its lease, however late it wakes up, changes nothing.

mod address;
mod chunks;
pub(crate) mod conformance;
mod jobs;
mod models;
mod pace;
mod schedules;
mod sql;
mod usage;
mod webhooks;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::Notify;

use crate::domain::{
    Backlog, Chunk, ChunkId, ChunkResult, Compared, Delivery, DeliveryId, Event, Isolation, Job, JobId, ObjectSlice, Pipeline, Problem,
    Progress, Rate, Run, Schedule, ScheduleId, Spent, StateChange, Timestamp, Uri,
    covered::{Block, Change, Entry},
    job::{Ending, PlanCursor},
    registry::{ModelEntry, ModelVersion, Name, Which},
    schedule::{Due, Kept},
    spec::OutputSpec,
};

pub use address::{Database, PostgresUrl};
pub use chunks::{ChunkLease, ClaimedChunk};
pub use jobs::{Changed, Created, Followed, IdempotencyKey, JobFilter, JobLease, KEY_LIFE, NewJob, Retried};
pub use models::{AliasMoved, NewVersion};
pub use pace::pause;
pub use schedules::{ClaimedRun, NewSchedule, NextFire, RunLease, ScheduleChange, ScheduleFilter, Unmade};
pub use sql::{Inspection, SqlStore, inspect};
pub use usage::{UsageBy, UsageFilter, UsageGroup, UsageReport, UsageSums};
pub use webhooks::{
    AttemptResult, ClaimedDelivery, DeliveryFilter, DeliveryLease, DeliveryRecord, MOST_ATTEMPTS, NewDelivery, PendingEvent, Then,
};

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

/// Whether a write under a lease was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Written {
    /// It was.
    Done,
    /// Another owns the row now, or the job has ended: nothing was changed.
    Fenced,
}

impl Written {
    /// By a statement that changes the one row, if the lease on it still holds.
    fn by(rows: u64) -> Self {
        if rows == 1 { Self::Done } else { Self::Fenced }
    }
}

/// All durable state. See the module's header for what holds for every method.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug + 'static {
    /// Answers when the database does.
    async fn ping(&self) -> Result<()>;

    /// How much waits and runs. Cheap enough to be asked every second: it reads the counts that jobs keep of their chunks, and no chunk.
    async fn backlog(&self) -> Result<Backlog>;

    /// Whether nothing is unfinished: no job, no event to be told, no delivery. Then nothing falls due by time alone, and whoever makes work
    /// rings.
    async fn is_quiet(&self) -> Result<bool>;

    // ---- Jobs --------------------------------------------------------------------------------------------------

    /// Accepts a job in state `queued`, claims its output prefix and keeps its key. A second call with the same id returns the job; a
    /// key that is known makes no job, nor does a fire that has made one.
    async fn create_job(&self, new: NewJob) -> Result<Created>;

    /// What [`Store::create_job`] would say of this key: [`Created::Replay`] or [`Created::KeyReused`]; `None` when it is new.
    async fn replay(&self, key: &IdempotencyKey) -> Result<Option<Created>>;

    /// The unfinished job that writes to the prefix of this output or of its review queue, to one above or to one below it, and where it
    /// writes.
    async fn output_claim(&self, output: &OutputSpec) -> Result<Option<(JobId, Uri)>>;

    /// One job.
    async fn job(&self, id: &JobId) -> Result<Option<Job>>;

    /// One job, and its version when it can be told: a number that is another one once the job has changed, whoever changed it, and at times
    /// although it has not.
    async fn versioned_job(&self, id: &JobId) -> Result<Option<(Job, Option<i64>)>>;

    /// The version of a job, far cheaper than the job; any or none of a job that is not there.
    async fn job_version(&self, id: &JobId) -> Result<Option<i64>>;

    /// Jobs, newest first.
    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>>;

    /// Applies `CancelRequested`: sets `cancelling`, ending `cancelled`, and pending chunks to `cancelled`. A job that is
    /// already cancelling stays as it is.
    async fn cancel_job(&self, id: &JobId) -> Result<Changed>;

    /// Applies `PauseRequested`: no chunk is claimed any more and its planner is fenced off; chunks that run go on. A paused job stays
    /// as it is.
    async fn pause_job(&self, id: &JobId) -> Result<Changed>;

    /// Applies `ResumeRequested`, and `AllDone` when the last chunk was done meanwhile. A job that runs stays as it is.
    async fn resume_job(&self, id: &JobId) -> Result<Changed>;

    /// Applies `RetryRequested` to a job that has ended: ending, error and `finished_at` are cleared, the output prefix is claimed again,
    /// a deadline that has passed counts anew from now. Chunks that are not done are `pending` again, with failures and crashes at
    /// zero; so are the chunks with error rows of a completed job and of one that failed by its error rows, and what they came to is
    /// taken out of the job's counts and usage. Planning goes on where it stood. Applies `AllDone` when nothing is left to run.
    async fn retry_job(&self, id: &JobId) -> Result<Retried>;

    /// Applies `DeadlinePassed` to every job whose deadline is over (`deadline_seconds` after it was accepted, or after the retry that
    /// set it anew); returns them.
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
    /// `in_progress` without an ending: higher priority first, then jobs in turn (fewest running chunks first, then
    /// the one that was served longest ago), then `seq`. Respects `max_parallel_chunks`; of a job at which others work
    /// too, a worker gets its share of what is left and no more, but always one if it holds none. Raises `claims` and
    /// the epoch; sets the job's `started_at` once.
    async fn claim_chunks(&self, worker: &str, limit: u32, ttl: Duration) -> Result<Vec<ClaimedChunk>>;

    /// Renews leases; returns those that must stop: fenced, or their job has an ending.
    async fn renew_chunks(&self, leases: &[ChunkLease], ttl: Duration) -> Result<Vec<ChunkLease>>;

    /// Commits a chunk: state `done`, its result, the job's counters and usage, in one transaction. Said again under the same lease it
    /// is done, and changes nothing: whoever lost the answer may ask again. When it was the last
    /// one of a job whose planning is done, applies `AllDone`; the ending is `completed`, or `failed` with a problem when
    /// the error policy is violated or every record failed. Violating `max_failed_records` applies `Broke` at once, and so does a cost
    /// beyond the job's budget while something is left to be done.
    async fn commit_chunk(&self, lease: &ChunkLease, result: &ChunkResult) -> Result<Written>;

    // Every end of an attempt that came to nothing charges its job with what it `spent`, in the same transaction, also when the lease is
    // lost, and once however often it is said. A job that has cost more than its budget thereby breaks with `budget_exceeded`, unless nothing of it is left to be done.

    /// Puts the chunk back to `pending` after an error that may pass, due in `delay`; raises `failures`. With
    /// `failures` = the job's `max_attempts` the chunk is `failed` and the job breaks with the error.
    async fn retry_chunk(&self, lease: &ChunkLease, error: &Problem, delay: Duration, spent: &Spent) -> Result<Written>;

    /// Puts the chunk back to `pending` after its runner died, or a batch of it did not end; raises `crashes`, and keeps what is known of
    /// it now, if that is news. Whether there is a next attempt at all is for [`Isolation::next`] to say.
    async fn crash_chunk(&self, lease: &ChunkLease, error: &Problem, isolation: Option<&Isolation>, spent: &Spent) -> Result<Written>;

    /// Sets the chunk `failed` and breaks the job with the error.
    async fn fail_chunk(&self, lease: &ChunkLease, error: &Problem, spent: &Spent) -> Result<Written>;

    /// Puts the chunk back to `pending`, due at once, at no cost to it: for a drain, or for a chunk that must stop because its
    /// job has an ending (then it becomes `cancelled`).
    async fn release_chunk(&self, lease: &ChunkLease, spent: &Spent) -> Result<Written>;

    /// Puts the chunk back to `pending`, at no cost to it, because something that its job needs is away: what is away is kept as the chunk's
    /// error, and no chunk of the job is handed out for `delay`.
    async fn postpone_chunk(&self, lease: &ChunkLease, away: &Problem, delay: Duration, spent: &Spent) -> Result<Written>;

    /// Chunks of a job in `seq` order, from `from_seq` on.
    async fn chunks(&self, job: &JobId, from_seq: u64, limit: u32) -> Result<Vec<Chunk>>;

    /// One chunk.
    async fn chunk(&self, id: &ChunkId) -> Result<Option<Chunk>>;

    // ---- Finalising --------------------------------------------------------------------------------------------

    /// Leases a job that is `finalizing` or `cancelling` and has no chunk `running` under a live lease.
    async fn claim_finalizing(&self, worker: &str, ttl: Duration) -> Result<Option<(JobLease, Job)>>;

    /// The completed job of the same schedule whose fire came last before this job's, of those with predictions; `None` for a job that no
    /// schedule made.
    async fn earlier_run(&self, job: &Job) -> Result<Option<Job>>;

    /// Keeps how far a job is from an earlier one, for [`Store::finish_job`] to tell; `None` when there is nothing to compare with.
    async fn keep_drift(&self, lease: &JobLease, compared: Option<&Compared>) -> Result<Written>;

    /// Applies `Ended`: final state, `finished_at`; the output prefix is free again. `error` is kept on the job unless it has one.
    async fn finish_job(&self, lease: &JobLease, ending: Ending, error: Option<&Problem>) -> Result<Written>;

    // ---- Webhooks ----------------------------------------------------------------------------------------------
    //
    // What moves a job to a state that is told, or claims its first chunk, writes the event in the same transaction: there is
    // no moment at which one is durable and the other is not.

    /// Events that have not been fanned out, oldest first.
    async fn pending_events(&self, limit: u32) -> Result<Vec<PendingEvent>>;

    /// Makes the deliveries of an event, due at once, and marks it as fanned out; fenced when it was so already.
    async fn fan_out(&self, event: &Event, deliveries: Vec<NewDelivery>) -> Result<Written>;

    /// Claims up to `limit` deliveries that are pending and due, and under no live lease: the longest due first, and no more to
    /// one receiver than leaves it with `per_receiver` in flight, given those that are `taken` already.
    async fn claim_deliveries(
        &self,
        limit: u32,
        per_receiver: u32,
        taken: &BTreeMap<String, u32>,
        ttl: Duration,
    ) -> Result<Vec<ClaimedDelivery>>;

    /// Records an attempt and what follows from it. Under a lost lease the attempt is recorded all the same, as it was made, but
    /// nothing follows.
    async fn record_attempt(&self, lease: &DeliveryLease, result: &AttemptResult) -> Result<Written>;

    /// Makes a delivery due now, at the start of its schedule, under the `webhook-id` that it has; `None` when there is none.
    async fn replay_delivery(&self, id: &DeliveryId) -> Result<Option<Delivery>>;

    /// Deliveries, newest first.
    async fn deliveries(&self, filter: &DeliveryFilter) -> Result<Vec<Delivery>>;

    /// One delivery.
    async fn delivery(&self, id: &DeliveryId) -> Result<Option<DeliveryRecord>>;

    // ---- Live progress -----------------------------------------------------------------------------------------
    //
    // What moves a job to a state writes that in the same transaction. Numbers are in the order in which changes become visible: who has
    // read up to one never misses an earlier one.

    /// State changes after this number, of one job or of all, in their order.
    async fn changes(&self, job: Option<&JobId>, after: i64, limit: u32) -> Result<Vec<StateChange>>;

    /// The number of the latest state change of all jobs; 0 when there is none.
    async fn last_change(&self) -> Result<i64>;

    /// How far jobs are; what is not there is left out. Reads no documents: cheap enough to be asked every second.
    async fn progress(&self, of: &Followed) -> Result<Vec<Progress>>;

    // ---- Schedules ---------------------------------------------------------------------------------------------
    //
    // One that cannot be read stands in no other's way: it is found as such, and its fires wait.

    /// The present, by the database's clock.
    async fn now(&self) -> Result<Timestamp>;

    /// Keeps a schedule.
    async fn create_schedule(&self, new: NewSchedule) -> Result<Schedule>;

    /// One schedule.
    async fn schedule(&self, id: &ScheduleId) -> Result<Option<Kept>>;

    /// Schedules, newest first.
    async fn schedules(&self, filter: &ScheduleFilter) -> Result<Vec<Kept>>;

    /// Changes a schedule; `None` when it is gone, or was changed since this revision.
    async fn change_schedule(&self, id: &ScheduleId, revision: u64, change: ScheduleChange) -> Result<Option<Schedule>>;

    /// Removes a schedule with its fires and what it covered. Its jobs stay; those that are to read only what is new, and are not planned
    /// to the end, are cancelled: what is new cannot be told any more. Whether there was one.
    async fn delete_schedule(&self, id: &ScheduleId) -> Result<bool>;

    /// Schedules that are not paused and whose next fire has come, and the present.
    async fn due_schedules(&self, limit: u32) -> Result<(Timestamp, Vec<Kept>)>;

    /// Writes the fires that are due of a schedule as it was read, and moves its next fire on, in one transaction: fenced when another
    /// node did so, or when the schedule was changed.
    async fn open_runs(&self, schedule: &Schedule, due: &Due) -> Result<Written>;

    /// Writes a fire at this moment; `None` when there is no such schedule.
    async fn run_now(&self, id: &ScheduleId) -> Result<Option<Run>>;

    /// Fires of a schedule, latest first; those before a time.
    async fn runs(&self, id: &ScheduleId, before: Option<Timestamp>, limit: u32) -> Result<Vec<Run>>;

    /// Leases a fire whose job is to be made: of each schedule one at a time, as long as its lease lasts, in their order. While a job of the schedule is not over,
    /// its [`Overlap`](crate::domain::schedule::Overlap) decides: the fire is skipped, it waits, or that job is cancelled and it waits for its end.
    async fn claim_run(&self, ttl: Duration) -> Result<Option<ClaimedRun>>;

    /// Renews the lease on a fire whose job is not made yet.
    async fn renew_run(&self, lease: &RunLease, ttl: Duration) -> Result<Written>;

    /// Records that a fire makes no job.
    async fn settle_run(&self, lease: &RunLease, unmade: &Unmade) -> Result<Written>;

    /// Gives a fire back, to be tried again after a delay; with a problem it counts as an attempt.
    async fn delay_run(&self, lease: &RunLease, problem: Option<&Problem>, delay: Duration) -> Result<Written>;

    // ---- Only what is new --------------------------------------------------------------------------------------

    /// The block of a schedule's record in which an object of this name would be; `None` when the schedule is gone, and its record with it.
    async fn covered_block(&self, schedule: &ScheduleId, name: &str) -> Result<Option<Block>>;

    /// Adds objects of a job, in the order of their names, to its schedule's record, or takes them out of it; doing so again changes nothing.
    /// In as many transactions as it takes, so that nobody waits for all of it.
    async fn cover(&self, schedule: &ScheduleId, job: &JobId, change: Change, entries: Vec<Entry>) -> Result<()>;

    /// A job of the schedule of which the record does not say what it should: one that has completed and is not in it, or one that is in it,
    /// was retried and came to something else; the oldest. Such a job is not purged.
    async fn job_to_cover(&self, schedule: &ScheduleId) -> Result<Option<(JobId, Change)>>;

    /// The change was made for all objects of the job, whatever it has come to meanwhile.
    async fn job_is_covered(&self, job: &JobId, change: Change) -> Result<()>;

    // ---- Waiting -----------------------------------------------------------------------------------------------

    /// Leases a job that waits for an object which is to be looked for now. It stays `queued`.
    async fn claim_waiting(&self, worker: &str, ttl: Duration) -> Result<Option<(JobLease, Job)>>;

    /// The object was not there: gives the lease back until the next look, or breaks the job when its time is over.
    async fn wait_again(&self, lease: &JobLease) -> Result<Written>;

    /// The object is there: gives the lease back, and lets the job be planned.
    async fn wait_is_over(&self, lease: &JobLease) -> Result<Written>;

    /// Takes a step at telling jobs that one which they wait for has ended: those whose last parent has completed may be planned, those of
    /// which a parent came to something else are cancelled. 0 when nobody is to be told anything. A job that is waited for is not purged.
    async fn settle_dependencies(&self) -> Result<u64>;

    // ---- Costs -------------------------------------------------------------------------------------------------
    //
    // A job that ends adds what it took to the sums of that day, and what it took on its provider to the rate of its model and pipeline.
    // A job whose input is listed to the end gets an estimate from that rate.

    /// Sums of what jobs took that ended on these days. They stay when jobs are purged.
    async fn usage(&self, filter: &UsageFilter) -> Result<UsageReport>;

    /// What was measured of the model with this digest and of this pipeline, and on which provider: the first of `providers`, or the one
    /// that was used last where there are none.
    async fn rate(&self, model: &str, pipeline: &Pipeline, providers: &[String]) -> Result<Option<(String, Rate)>>;

    // ---- Models ------------------------------------------------------------------------------------------------

    /// Makes the next version of a name, or gives the one that has the same digest, whose location is the new one from now on. Says
    /// whether it is new. A version stays.
    async fn register_model(&self, new: &NewVersion) -> Result<(ModelVersion, bool)>;

    /// Models, by name, from the one after `after` on.
    async fn registered_models(&self, after: Option<&Name>, limit: u32) -> Result<Vec<ModelEntry>>;

    /// Versions of a model, newest first, from the one before `before` on; empty when there is no such model.
    async fn model_versions(&self, name: &Name, before: Option<u64>, limit: u32) -> Result<Vec<ModelVersion>>;

    /// One version.
    async fn model_version(&self, name: &Name, which: &Which) -> Result<Option<ModelVersion>>;

    /// Lets an alias point at a version, wherever it pointed before.
    async fn move_alias(&self, name: &Name, alias: &Name, version: u64) -> Result<AliasMoved>;

    /// Removes an alias; false when there is none.
    async fn remove_alias(&self, name: &Name, alias: &Name) -> Result<bool>;

    // ---- Start -------------------------------------------------------------------------------------------------

    /// Ends every lease at once, at start, in a database that no other process can have open (SQLite); elsewhere it does nothing.
    async fn release_all(&self) -> Result<()>;

    /// Rings this bell from now on when other nodes make work, or change what this one is at. A hint: work that nobody rings for is found
    /// by looking.
    fn wake(&self, bell: Arc<Notify>);

    // ---- Retention ---------------------------------------------------------------------------------------------

    /// Takes a step at removing a job that ended longer ago than `age`: up to `limit` chunks, then the job with all that belongs to it.
    /// Returns how many rows went; 0 when there is nothing to remove.
    async fn purge(&self, age: Duration, limit: u32) -> Result<u64>;
}
