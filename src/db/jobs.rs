//! What the store is told of jobs, and what it tells.

use std::{collections::BTreeMap, time::Duration};

use crate::domain::{
    Fire, Job, JobId, JobSpec, JobState, Pipeline, ScheduleId, Timestamp, TraceParent, Uri,
    job::{Conflict, PinnedModel},
};

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
    /// The key of the request that asked for it, if that had one.
    pub key: Option<IdempotencyKey>,
    /// The trace it belongs to.
    pub trace: Option<TraceParent>,
    /// The fire of a schedule that it is made for.
    pub fire: Option<Fire>,
}

/// What makes a repeated request recognisable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// As the client chose it.
    pub key: String,
    /// Of what the client asked for: the same key with another fingerprint is a mistake.
    pub fingerprint: String,
}

/// How long a key is kept at least. Older ones go, a few at a time, as new ones come.
pub const KEY_LIFE: Duration = Duration::from_secs(24 * 3600);

/// What became of [`Store::create_job`](super::Store::create_job).
#[derive(Debug)]
pub enum Created {
    /// It is durable now.
    Job(Box<Job>),
    /// The request was made before, with the same key: this is the job that it made.
    Replay(Box<Job>),
    /// The key was used for something else.
    KeyReused {
        /// The job that it made.
        by: JobId,
    },
    /// The fire that it is made for has been settled without a job, or its schedule is gone.
    Settled,
    /// Another job of the same schedule is not over: the schedule's [`Overlap`](crate::domain::schedule::Overlap) is to decide again.
    Overlaps {
        /// That job.
        by: JobId,
    },
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

/// What became of [`Store::retry_job`](super::Store::retry_job).
#[derive(Debug)]
pub enum Retried {
    /// The job as it is now.
    Job(Box<Job>),
    /// No such job.
    Missing,
    /// It has not ended yet.
    Conflict(Conflict),
    /// It is completed, and every record has a prediction.
    Nothing,
    /// It reads what is new to its schedule, and so does another job, which is not over.
    Overlaps {
        /// That job.
        by: JobId,
    },
    /// Another unfinished job has taken the output prefix since.
    OutputClaimed {
        /// That job.
        by: JobId,
        /// Its output prefix.
        uri: Uri,
    },
}

/// Which jobs to list; newest first.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Only those in this state.
    pub state: Option<JobState>,
    /// Only those that carry all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Only those that this schedule made.
    pub schedule: Option<ScheduleId>,
    /// Only those accepted later than this.
    pub created_after: Option<Timestamp>,
    /// Only those accepted earlier than this.
    pub created_before: Option<Timestamp>,
    /// Only those created before this one (ids sort by creation).
    pub before: Option<JobId>,
    /// At most this many.
    pub limit: u32,
}

/// Whose progress is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    /// Of these jobs, in whatever state; a few hundred at most.
    Jobs(Vec<JobId>),
    /// Of jobs that were started and have not ended, the newest first, at most this many.
    Running(u32),
}

/// A lease on a job, for planning or for finalising.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobLease {
    /// Which job.
    pub job: JobId,
    /// The fencing token.
    pub epoch: i64,
}
