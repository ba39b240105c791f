//! What can be told of a job while it runs: the states it came to, and how far it is.

use std::collections::BTreeMap;

use super::{
    delivery::JobSnapshot,
    job::{Breaks, Counts, Job, JobId, JobState},
    time::Timestamp,
};

/// A state that a job came to, as kept with the change itself.
#[derive(Debug, Clone, PartialEq)]
pub struct StateChange {
    /// Changes of all jobs are numbered in the order in which they became visible.
    pub seq: i64,
    /// The job then.
    pub job: JobSnapshot,
    /// When.
    pub at: Timestamp,
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Which job.
    pub job: JobId,
    /// As given.
    pub labels: BTreeMap<String, String>,
    /// Where it is in its life.
    pub state: JobState,
    /// How much is there and done.
    pub counts: Counts,
    /// Whether all of its chunks are planned.
    pub planned: bool,
    /// When its first chunk was claimed.
    pub started_at: Option<Timestamp>,
    /// Set in final states only.
    pub finished_at: Option<Timestamp>,
    /// When it did not run.
    pub breaks: Breaks,
}

impl Progress {
    /// The job as it is now.
    pub fn of(job: &Job) -> Self {
        Self {
            job: job.id.clone(),
            labels: job.spec.labels.clone(),
            state: job.state,
            counts: job.counts,
            planned: job.plan.done,
            started_at: job.started_at,
            finished_at: job.finished_at,
            breaks: job.breaks,
        }
    }

    /// Seconds from the first claim to the end, or to now, without the time in which the job was paused or had ended.
    pub fn wall_seconds(&self, now: Timestamp) -> f64 {
        self.breaks.wall_seconds(self.started_at, self.finished_at, now)
    }

    /// Share of the work done, 0 to 1: by chunks, so it only grows once planning is over.
    pub fn share(&self) -> f64 {
        self.counts.share_done(self.state)
    }

    /// Seconds to go, once planning is over and something is done.
    pub fn eta_seconds(&self, now: Timestamp) -> Option<f64> {
        let running = matches!(self.state, JobState::InProgress | JobState::Finalizing);
        let share = self.share();
        (running && self.planned && self.counts.chunks_done > 0).then(|| self.wall_seconds(now) / share * (1.0 - share))
    }

    /// Records with an outcome, by wall time.
    pub fn records_per_second(&self, now: Timestamp) -> Option<f64> {
        let (wall, records) = (self.wall_seconds(now), self.counts.succeeded + self.counts.failed);
        (wall > 0.0 && records > 0).then(|| records as f64 / wall)
    }
}
