//! Claims chunks, has them run, commits their ends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, field::Empty};

use super::{
    commit::Committer,
    lease::{self, Held},
    runners::Runners,
    supervisor::{Ended, Ran},
};
use crate::{
    db::{self, ClaimedChunk, Store},
    domain::{Job, JobId, PartNames, Pricing, Problem, Spent},
    model::{self, Models},
    objects::Stores,
    runner::{
        featurize::ImageLimits,
        protocol::{ChunkTask, TableTask},
    },
    tables::{self, ChunkOf},
    telemetry::{Metrics, traces},
};

/// How long a chunk is kept whose model cannot be cached, before it is given back.
const CACHE_PAUSE: Duration = Duration::from_secs(5);

/// How to execute.
#[derive(Debug, Clone)]
pub struct Options {
    /// Chunks in flight at once: the next one is read while the last one is written.
    pub slots: usize,
    /// How long a chunk may go unrenewed before another worker may take it.
    pub lease_ttl: Duration,
    /// How often to look for work when nobody says that there is some.
    pub poll: Duration,
    /// How long chunks in flight may go on after a stop is asked for; then they are released.
    pub drain: Duration,
    /// Execution providers for jobs that name none.
    pub providers: Vec<String>,
    /// What a picture may cost.
    pub image_limits: ImageLimits,
    /// What this node's devices cost.
    pub pricing: Option<Pricing>,
}

/// Runs chunks on supervised runners.
#[derive(Debug)]
pub struct Executor {
    /// Hands out the chunks.
    pub store: Arc<dyn Store>,
    /// Reaches outputs, to drop parts that lost their lease.
    pub stores: Stores,
    /// Has the models' files.
    pub models: Arc<Models>,
    /// Runs the chunks.
    pub runners: Runners,
    /// This process's name in leases.
    pub worker: String,
    /// Rung when there may be work, or when chunks may have to stop.
    pub wake: Arc<Notify>,
    /// Counts what became of chunks.
    pub metrics: Metrics,
    /// How to execute.
    pub options: Options,
}

impl Executor {
    /// Executes until told to stop, then drains: finishes what it can, releases the rest, ends the runner.
    pub async fn run(self, stop: CancellationToken) {
        let executor = Arc::new(self);
        let held = Arc::new(Held::default());
        let leases_stop = CancellationToken::new();
        let leases = tokio::spawn(lease::keep(
            executor.store.clone(),
            held.clone(),
            executor.runners.clone(),
            executor.options.lease_ttl,
            executor.wake.clone(),
            leases_stop.clone(),
        ));
        let mut running = JoinSet::new();
        while !stop.is_cancelled() {
            let free = executor.options.slots.saturating_sub(running.len());
            // Subscribed before looking: work that appears in between rings and is not missed.
            let wake = executor.wake.clone();
            let rung = wake.notified();
            tokio::pin!(rung);
            rung.as_mut().enable();
            let claimed = if free == 0 { Vec::new() } else { executor.claim(free).await };
            let idle = claimed.is_empty();
            for chunk in claimed {
                let (executor, held, stop) = (executor.clone(), held.clone(), stop.clone());
                running.spawn(async move { executor.process(chunk, &held, &stop).await });
            }
            if !idle {
                continue;
            }
            tokio::select! {
                () = &mut rung => {}
                Some(_) = running.join_next() => {}
                () = db::pause(&*executor.store, executor.options.poll) => {}
                () = stop.cancelled() => {}
            }
        }
        executor.drain(&held, &mut running).await;
        leases_stop.cancel();
        let _joined = leases.await;
        executor.runners.shutdown().await;
    }

    async fn claim(&self, limit: usize) -> Vec<ClaimedChunk> {
        match self.store.claim_chunks(&self.worker, limit as u32, self.options.lease_ttl).await {
            Ok(claimed) => claimed,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot claim chunks");
                Vec::new()
            }
        }
    }

    async fn drain(&self, held: &Held, running: &mut JoinSet<()>) {
        let finish = async { while running.join_next().await.is_some() {} };
        if tokio::time::timeout(self.options.drain, finish).await.is_ok() {
            return;
        }
        // The supervisor kills a runner that does not let go within seconds, so every attempt ends. Said again each second: one that was
        // about to be handed to a runner has not heard it.
        loop {
            for attempt in held.attempts() {
                self.runners.cancel(attempt).await;
            }
            tokio::select! {
                ended = running.join_next() => if ended.is_none() { return },
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
    }

    /// One chunk, from its claim to the record of its end.
    async fn process(&self, claimed: ClaimedChunk, held: &Held, stop: &CancellationToken) {
        let job = match self.job(&claimed.lease.chunk.job).await {
            Some(job) => job,
            // The database is away, or the job is: the lease runs out and the chunk is claimed again.
            None => return,
        };
        let attempt = next_attempt();
        let span = tracing::info_span!(
            target: traces::TARGET, "run chunk", job.id = %job.id, chunk.seq = claimed.lease.chunk.seq, attempt,
            outcome = Empty, records.succeeded = Empty, records.failed = Empty, otel.status_code = Empty, otel.status_description = Empty,
        );
        traces::adopt(&span, job.trace.as_ref());
        self.attempt(attempt, claimed, &job, held, stop).instrument(span).await;
    }

    async fn attempt(&self, attempt: u64, claimed: ClaimedChunk, job: &Job, held: &Held, stop: &CancellationToken) {
        let ClaimedChunk { lease, chunk } = claimed;
        let output = job.spec.output.clone();
        let token = PartNames::token(&lease.chunk.job, rand::random());
        let names = PartNames::new(lease.chunk.seq, &token, output.format, output.compression);
        held.insert(attempt, lease.clone());
        // A model that is still being fetched is given up when the service stops: fetching may take longer than a stop.
        let ensured = tokio::select! {
            biased;
            ensured = self.models.ensure(&job.model) => Some(ensured),
            () = stop.cancelled() => None,
        };
        let ran = match ensured {
            None => Ran::nowhere(Ended::Stopped),
            Some(Ok(model_dir)) => {
                let (names, providers) = (names.clone(), &self.options.providers);
                let of = ChunkOf { job: job.id.to_string(), chunk: lease.chunk.seq as i64, epoch: lease.epoch };
                let task = ChunkTask {
                    attempt,
                    chunk: lease.chunk.to_string(),
                    inputs: chunk.inputs.clone(),
                    isolation: chunk.isolation.clone(),
                    ..ChunkTask::of(&job.spec, &job.model, &job.pipeline, names, model_dir, providers, self.options.image_limits)
                };
                tracing::debug!(job.id = %lease.chunk.job, chunk.seq = lease.chunk.seq, attempt, "running chunk {}", lease.chunk);
                let task = ChunkTask { table: task.table.map(|table| TableTask { of, ..table }), ..task };
                match self.runners.run(task).await {
                    // The database's trouble and not the chunk's: the job waits for it, as long as its deadline lets it.
                    Ran { ended: Ended::Failed { problem, .. }, held } if problem.code == tables::UNAVAILABLE => {
                        Ran { ended: Ended::Away(problem), held }
                    }
                    ran => ran,
                }
            }
            // This machine's trouble and not the chunk's: it costs no attempt, and whoever has room for the model may run it.
            Some(Err(error @ model::Error::Cache { .. })) => {
                tracing::warn!(job.id = %job.id, error = &error as &dyn std::error::Error, "chunk {} is given back: its model cannot be cached", lease.chunk);
                pause(CACHE_PAUSE, stop).await;
                Ran::nowhere(Ended::Stopped)
            }
            Some(Err(error)) => Ran::nowhere(model_failure(&error)),
        };
        let Ran { mut ended, held: devices } = ran;
        let spent = Spent::new(&devices.provider, devices.device_seconds, self.options.pricing.as_ref());
        if let Ended::Done(result) = &mut ended {
            result.usage.charge(&spent);
        }
        let committer = Committer { store: self.store.clone(), stores: self.stores.clone(), metrics: self.metrics.clone() };
        committer.apply(&lease, &chunk, (&output, &names), (ended, spent), stop).await;
        held.remove(attempt);
        // The finaliser waits for the last chunk, and other executors for a job's turn.
        self.wake.notify_waiters();
    }

    async fn job(&self, id: &JobId) -> Option<Job> {
        match self.store.job(id).await {
            Ok(job) => job,
            Err(error) => {
                tracing::warn!(job.id = %id, error = &error as &dyn std::error::Error, "cannot read {id}");
                None
            }
        }
    }
}

/// Waits for that long, or until told to stop.
async fn pause(time: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        () = stop.cancelled() => {}
    }
}

pub(super) fn model_failure(error: &model::Error) -> Ended {
    let (code, retryable) = match error {
        model::Error::Store(error) => (error.code(), error.retryable()),
        model::Error::Refused(_) => ("model_changed", false),
        model::Error::Cache { .. } => ("model_cache_failed", true),
    };
    let detail = match error {
        model::Error::Refused(faults) => faults.iter().map(|f| f.detail.as_str()).collect::<Vec<_>>().join("; "),
        other => other.whole(),
    };
    Ended::Failed { problem: Problem::new(code, "The pinned model cannot be had", detail), retryable }
}

fn next_attempt() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
