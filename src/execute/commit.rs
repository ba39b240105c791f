//! Turns the end of an attempt into a write under the chunk's lease.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::supervisor::Ended;
use crate::{
    db::{self, ChunkLease, Store, Written},
    domain::{Chunk, Isolation, PartNames, Problem, Spent, spec::OutputSpec, time::full_jitter},
    objects::Stores,
    tables,
    telemetry::metrics::{AttemptEnd, Metrics, Use},
};

/// First delay before a chunk is tried again; doubled each time, up to [`MOST_DELAY`], and drawn at random below that.
const FIRST_DELAY: Duration = Duration::from_secs(1);
const MOST_DELAY: Duration = Duration::from_secs(60);
/// How long a job is left alone whose database is away: doubled each time that the chunk comes back, up to [`MOST_DELAY`].
const AWAY_DELAY: Duration = Duration::from_secs(5);
/// First delay before rows are tried again that the database was there for and could not take, and by how much each is longer than the one
/// before: a standby that takes over needs a minute, and somebody who makes room on a disk half an hour.
const UNABLE_DELAY: Duration = Duration::from_secs(60);
const UNABLE_FACTOR: u32 = 5;
const MOST_UNABLE_DELAY: Duration = Duration::from_secs(1800);

/// Writes the ends of attempts.
#[derive(Debug, Clone)]
pub(super) struct Committer {
    pub(super) store: Arc<dyn Store>,
    pub(super) stores: Stores,
    pub(super) metrics: Metrics,
}

impl Committer {
    /// Applies the end of an attempt and charges what it took, trying for as long as the database does not answer: the lease's epoch makes a late write
    /// harmless.
    pub(super) async fn apply(
        &self,
        lease: &ChunkLease,
        chunk: &Chunk,
        (output, names): (&OutputSpec, &PartNames),
        (ended, spent): (Ended, Spent),
        stop: &CancellationToken,
    ) {
        let mut delay = Duration::from_millis(200);
        loop {
            match self.write(lease, chunk, &ended, &spent).await {
                Ok(Written::Done) => {
                    self.metrics.spent(&spent, if matches!(ended, Ended::Done(_)) { Use::Kept } else { Use::Lost });
                    self.count(&ended);
                    return log(lease, &ended);
                }
                Ok(Written::Fenced) => {
                    self.metrics.attempt_ended(AttemptEnd::Fenced);
                    self.metrics.spent(&spent, Use::Lost);
                    if matches!(ended, Ended::Done(_)) {
                        self.metrics.commit_fenced();
                    }
                    Span::current().record("outcome", "fenced");
                    tracing::info!(job.id = %lease.chunk.job, chunk.seq = lease.chunk.seq, "chunk {} belongs to another worker or has no job any more: its part is dropped", lease.chunk);
                    return self.drop_parts(output, names).await;
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot record the end of chunk {}", lease.chunk);
                    tokio::select! {
                        () = tokio::time::sleep(delay) => delay = (delay * 2).min(Duration::from_secs(5)),
                        () = stop.cancelled() => return,
                    }
                }
            }
        }
    }

    async fn write(&self, lease: &ChunkLease, chunk: &Chunk, ended: &Ended, spent: &Spent) -> db::Result<Written> {
        match ended {
            Ended::Done(result) => self.store.commit_chunk(lease, result).await,
            Ended::Failed { problem, retryable: true } => {
                self.store.retry_chunk(lease, problem, backoff(problem, chunk.failures), spent).await
            }
            Ended::Failed { problem, retryable: false } => self.store.fail_chunk(lease, problem, spent).await,
            Ended::Stopped => self.store.release_chunk(lease, spent).await,
            Ended::Away(away) => self.store.postpone_chunk(lease, away, until_back(chunk), spent).await,
            Ended::Lost(loss) => match Isolation::next(chunk.crashes, chunk.isolation.as_ref(), loss) {
                Ok(isolation) => self.store.crash_chunk(lease, &loss.problem, isolation.as_ref(), spent).await,
                Err(problem) => self.store.fail_chunk(lease, &problem, spent).await,
            },
        }
    }

    fn count(&self, ended: &Ended) {
        let span = Span::current();
        let (end, outcome) = match ended {
            Ended::Done(result) => {
                self.metrics.committed(result);
                span.record("records.succeeded", result.succeeded).record("records.failed", result.failed);
                (AttemptEnd::Committed, "committed")
            }
            Ended::Failed { retryable: true, .. } => (AttemptEnd::Retried, "retried"),
            Ended::Failed { retryable: false, .. } => (AttemptEnd::Failed, "failed"),
            Ended::Stopped | Ended::Away(_) => (AttemptEnd::Released, "released"),
            Ended::Lost(_) => (AttemptEnd::Crashed, "crashed"),
        };
        self.metrics.attempt_ended(end);
        span.record("outcome", outcome);
        let problem = match ended {
            Ended::Failed { problem, .. } | Ended::Away(problem) => Some(problem),
            Ended::Lost(loss) => Some(&loss.problem),
            Ended::Done(_) | Ended::Stopped => None,
        };
        if let Some(problem) = problem {
            span.record("otel.status_code", "ERROR").record("otel.status_description", &problem.code);
        }
    }

    /// What stays behind when this fails is removed when the job is finalised.
    async fn drop_parts(&self, output: &OutputSpec, names: &PartNames) {
        let review = output.review.iter().map(|review| review.uri.join(&names.part));
        for file in [output.uri.join(&names.part), output.uri.join(&names.errors)].into_iter().chain(review) {
            let Ok(bucket) = self.stores.open(&file) else { continue };
            if let Err(error) = bucket.delete(file.path()).await {
                tracing::debug!(%error, "{file} stays until its job is finalised");
            }
        }
    }
}

fn log(lease: &ChunkLease, ended: &Ended) {
    let (job, seq, chunk) = (&lease.chunk.job, lease.chunk.seq, &lease.chunk);
    match ended {
        Ended::Done(result) => {
            tracing::info!(job.id = %job, chunk.seq = seq, records = result.succeeded, failed = result.failed, "committed chunk {chunk}");
        }
        Ended::Failed { problem, retryable: true } => {
            tracing::warn!(job.id = %job, chunk.seq = seq, code = problem.code, "chunk {chunk} will be tried again: {problem}");
        }
        Ended::Failed { problem, retryable: false } => {
            tracing::warn!(job.id = %job, chunk.seq = seq, code = problem.code, "chunk {chunk} failed: {problem}");
        }
        Ended::Stopped => tracing::info!(job.id = %job, chunk.seq = seq, "released chunk {chunk}"),
        Ended::Away(away) => {
            tracing::warn!(job.id = %job, chunk.seq = seq, code = away.code, "chunk {chunk} is given back, and its job waits: {}", away.detail);
        }
        Ended::Lost(loss) => {
            let (problem, place) = (&loss.problem, loss.place);
            tracing::warn!(job.id = %job, chunk.seq = seq, code = problem.code, ?place, "chunk {chunk} was lost: {problem}");
        }
    }
}

/// How long a chunk waits after an error that may pass, and so many before it.
fn backoff(problem: &Problem, failures: u32) -> Duration {
    if problem.code == tables::UNABLE {
        return UNABLE_DELAY.saturating_mul(UNABLE_FACTOR.saturating_pow(failures)).min(MOST_UNABLE_DELAY);
    }
    full_jitter(FIRST_DELAY, MOST_DELAY, failures, rand::random())
}

/// How long a job waits for what is away, by how often this chunk of it has come back for nothing.
fn until_back(chunk: &Chunk) -> Duration {
    let earlier = chunk.claims.saturating_sub(1 + chunk.failures + chunk.crashes);
    full_jitter(AWAY_DELAY, MOST_DELAY, earlier, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_database_cannot_take_is_tried_for_half_an_hour_with_the_usual_attempts() {
        let problem = |code: &str| Problem::new(code, "", "");
        let delays: Vec<u64> = (0..5).map(|failures| backoff(&problem(tables::UNABLE), failures).as_secs()).collect();
        assert_eq!(delays, [60, 300, 1500, 1800, 1800]);
        assert!(backoff(&problem("store_unavailable"), 0) <= FIRST_DELAY);
    }
}
