//! Lists the input prefix, or reads the manifest of objects, pins the objects and cuts them into chunks.
//!
//! In: a job under a planning lease. Out: chunks in input order, appended to the store while the listing goes on, so that
//! execution starts before planning ends. Reads no records: of large objects the Parquet footer, or the record borders of CSV.
//!
//! Where a chunk begins and ends depends on the listing and the settings alone, and the cursor is written together with the
//! chunks it stands for: a planner that dies is followed by one that goes on where the cursor stands.

mod cut;
mod fresh;
mod gather;
mod list;
mod manifest;
mod preview;
mod snapshot;
mod waits;

use std::{sync::Arc, time::Duration};

use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::{
    db::{self, JobLease, Store, Written},
    domain::{Job, Problem},
    objects::{self, Stores},
    telemetry::traces,
};

pub use preview::{Estimate, Preview, preview};

/// How to cut.
#[derive(Debug, Clone)]
pub struct Options {
    /// About how many bytes a chunk holds.
    pub chunk_bytes: u64,
    /// Most objects in a chunk.
    pub chunk_objects: usize,
    /// How long a planner may be silent before another takes over.
    pub lease_ttl: Duration,
    /// How often to look for work when nobody says that there is some.
    pub poll: Duration,
}

/// Plans jobs.
#[derive(Debug)]
pub struct Planner {
    /// Holds the jobs.
    pub store: Arc<dyn Store>,
    /// Reaches the input.
    pub stores: Stores,
    /// This process's name in leases.
    pub worker: String,
    /// Rung when a job was accepted; rung here when chunks were planned.
    pub wake: Arc<Notify>,
    /// How to cut.
    pub options: Options,
}

/// Jobs planned at once.
const PLANS_SIDE_BY_SIDE: usize = 4;
/// Objects looked for at once. These turns are apart from those of planning: however many jobs wait, and however long a store takes to say
/// that what they wait for is not there, others are planned meanwhile.
const LOOKS_SIDE_BY_SIDE: usize = 16;
/// How long a job is left alone that could not be planned.
const PAUSE: Duration = Duration::from_secs(5);

/// Why planning ended early.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("another node took the job over, or it has ended")]
    Fenced,
    #[error("the service is stopping")]
    Stopping,
    #[error(transparent)]
    Database(#[from] db::Error),
    #[error(transparent)]
    Objects(#[from] objects::Error),
    #[error("{0}")]
    Job(Problem),
}

impl Planner {
    /// Plans until told to stop: several jobs side by side, so that a small one does not wait for a listing of millions.
    pub async fn run(self, stop: CancellationToken) {
        let planner = Arc::new(self);
        let (mut looking, mut planning) = (JoinSet::new(), JoinSet::new());
        while !stop.is_cancelled() {
            // Subscribed before looking: a job that is accepted in between rings and is not missed.
            let rung = planner.wake.notified();
            tokio::pin!(rung);
            rung.as_mut().enable();
            planner.settle_dependencies().await;
            let mut found = false;
            if looking.len() < LOOKS_SIDE_BY_SIDE
                && let Some((lease, job)) = planner.claim_waiting().await
            {
                let (planner, stop) = (planner.clone(), stop.clone());
                looking.spawn(async move { planner.look(&lease, &job, &stop).await });
                found = true;
            }
            if planning.len() < PLANS_SIDE_BY_SIDE
                && let Some((lease, job)) = planner.claim().await
            {
                let span = tracing::info_span!(target: traces::TARGET, "plan job", job.id = %job.id);
                traces::adopt(&span, job.trace.as_ref());
                let (planner, stop) = (planner.clone(), stop.clone());
                planning.spawn(async move { planner.plan(&lease, &job, &stop).await }.instrument(span));
                found = true;
            }
            if found {
                continue;
            }
            tokio::select! {
                () = &mut rung => {}
                // A panic is a fault of this room, which ends with it.
                Some(ended) = looking.join_next() => ended.expect("looking does not panic"),
                Some(ended) = planning.join_next() => ended.expect("planning does not panic"),
                () = db::pause(&*planner.store, planner.options.poll) => {}
                () = stop.cancelled() => {}
            }
        }
        looking.join_all().await;
        planning.join_all().await;
    }

    async fn claim(&self) -> Option<(JobLease, Job)> {
        self.store.claim_planning(&self.worker, self.options.lease_ttl).await.unwrap_or_else(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot look for jobs to plan");
            None
        })
    }

    async fn plan(&self, lease: &JobLease, job: &Job, stop: &CancellationToken) {
        let id = &job.id;
        match snapshot::plan(self, &self.stores.budgeted(), lease, job, stop).await {
            Ok(()) => tracing::info!(job.id = %id, "planned {id}"),
            Err(Error::Fenced) => tracing::debug!(job.id = %id, "planning of {id} was taken over"),
            Err(Error::Stopping) => self.release(lease).await,
            Err(Error::Job(problem)) => self.fail(job, &problem).await,
            Err(Error::Objects(error)) if !error.retryable() => {
                self.fail(job, &Problem::new(error.code(), "The input cannot be listed", error.to_string())).await;
            }
            // May pass: the lease is given back, and whoever claims the job next goes on from the cursor.
            Err(error) => {
                tracing::warn!(job.id = %id, error = &error as &dyn std::error::Error, "planning of {id} was interrupted");
                // Not given back at once: the oldest job would be taken up again before any other, for as long as its trouble lasts.
                if let Err(error) = self.store.renew_job(lease, PAUSE).await {
                    tracing::debug!(error = &error as &dyn std::error::Error, "{id} is free when its lease runs out");
                }
            }
        }
    }

    async fn fail(&self, job: &Job, problem: &Problem) {
        tracing::warn!(job.id = %job.id, code = problem.code, "{} failed: {problem}", job.id);
        if let Err(error) = self.store.fail_job(&job.id, problem).await {
            tracing::warn!(job.id = %job.id, error = &error as &dyn std::error::Error, "cannot record the failure of {}", job.id);
        }
        self.wake.notify_waiters();
    }

    async fn release(&self, lease: &JobLease) {
        match self.store.release_job(lease).await {
            Ok(Written::Done | Written::Fenced) => {}
            Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "cannot release {}", lease.job),
        }
    }
}
