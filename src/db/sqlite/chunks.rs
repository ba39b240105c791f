//! Chunks: claims, leases, ends.

use std::{cmp::Reverse, time::Duration};

use sqlx::{AssertSqlSafe, Row, SqlitePool};

use super::{Tx, jobs, micros, rows, rows::document, webhooks};
use crate::{
    db::{ChunkLease, ClaimedChunk, Error, Result, Written},
    domain::{Chunk, ChunkId, ChunkResult, EventKind, Isolation, JobId, Problem, chunk::Usage},
};

/// A job that has something to claim.
struct Candidate {
    id: String,
    priority: i64,
    running: i64,
    served_at: i64,
    max_parallel: Option<i64>,
}

/// Claims chunks; says also how many leases had run out.
pub(super) async fn claim(tx: &mut Tx<'_>, worker: &str, limit: u32, ttl: Duration) -> Result<(Vec<ClaimedChunk>, u64)> {
    let expired = rescue(tx).await?;
    // Index: job_to_run. More than `limit` jobs can never have a turn in this claim, but some may have nothing due.
    let found: Vec<(String, i64, i64, i64, Option<i64>)> = sqlx::query_as(
        "SELECT id, priority, running, served_at, max_parallel FROM job \
         WHERE finished_at IS NULL AND pending > 0 AND paused_at IS NULL AND state = 'in_progress' AND ending IS NULL \
           AND (max_parallel IS NULL OR running < max_parallel) \
         ORDER BY priority DESC, running, served_at, id LIMIT ?",
    )
    .bind(i64::from(limit) + 256)
    .fetch_all(&mut *tx.db)
    .await
    .map_err(Error::Unavailable)?;
    let candidates = found.into_iter().map(|(id, priority, running, served_at, max_parallel)| Candidate {
        id,
        priority,
        running,
        served_at,
        max_parallel,
    });
    let mut candidates: Vec<Candidate> = candidates.collect();
    let mut claimed = Vec::new();
    while claimed.len() < limit as usize {
        // Highest priority, then the job with the fewest chunks running, counting those of this claim, then the one that has waited
        // longest: with a single slot none ever has a chunk running when it is free.
        let turn = |c: &Candidate| (Reverse(c.priority), c.running, c.served_at, c.id.clone());
        let next = candidates.iter().enumerate().min_by_key(|(_, c)| turn(c)).map(|(at, _)| at);
        let Some(at) = next else { break };
        match claim_one(tx, &candidates[at].id, worker, ttl).await? {
            Some(chunk) => {
                claimed.push(chunk);
                let candidate = &mut candidates[at];
                candidate.running += 1;
                candidate.served_at = tx.now;
                if candidate.max_parallel.is_some_and(|most| candidate.running >= most) {
                    candidates.swap_remove(at);
                }
            }
            None => {
                candidates.swap_remove(at);
            }
        }
    }
    Ok((claimed, expired))
}

/// Takes the first chunk of a job that waits and is due.
async fn claim_one(tx: &mut Tx<'_>, job: &str, worker: &str, ttl: Duration) -> Result<Option<ClaimedChunk>> {
    // Index: chunk_pending.
    let row = sqlx::query(AssertSqlSafe(format!(
        "UPDATE chunk SET state = 'running', claims = claims + 1, lease_epoch = lease_epoch + 1, lease_until = ?, worker = ?, started_at = ? \
         WHERE job_id = ? AND seq = (SELECT seq FROM chunk WHERE job_id = ? AND state = 'pending' AND (not_before IS NULL OR not_before <= ?) \
                                     ORDER BY seq LIMIT 1) \
         RETURNING {}",
        rows::CHUNK
    )))
    .bind(tx.now + micros(ttl))
    .bind(worker)
    .bind(tx.now)
    .bind(job)
    .bind(job)
    .bind(tx.now)
    .fetch_optional(&mut *tx.db)
    .await
    .map_err(Error::Unavailable)?;
    let Some(row) = row else { return Ok(None) };
    sqlx::query("UPDATE job SET pending = pending - 1, running = running + 1, served_at = ? WHERE id = ?")
        .bind(tx.now)
        .bind(job)
        .execute(&mut *tx.db)
        .await
        .map_err(Error::Unavailable)?;
    let epoch = row.try_get("lease_epoch").map_err(Error::Unavailable)?;
    let chunk = rows::chunk(&row)?;
    let started = sqlx::query("UPDATE job SET started_at = ? WHERE id = ? AND started_at IS NULL")
        .bind(tx.now)
        .bind(job)
        .execute(&mut *tx.db)
        .await
        .map_err(Error::Unavailable)?;
    if started.rows_affected() == 1 {
        webhooks::announce(tx, &chunk.id.job, EventKind::Started).await?;
    }
    Ok(Some(ClaimedChunk { lease: ChunkLease { chunk: chunk.id.clone(), epoch }, chunk }))
}

/// Returns what dead workers held: chunks under expired leases wait again, at no cost to them. Says how many.
async fn rescue(tx: &mut Tx<'_>) -> Result<u64> {
    // Index: chunk_running.
    let expired: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT job_id, seq, lease_epoch FROM chunk WHERE state = 'running' AND lease_until <= ? ORDER BY lease_until LIMIT 1000",
    )
    .bind(tx.now)
    .fetch_all(&mut *tx.db)
    .await
    .map_err(Error::Unavailable)?;
    let count = expired.len() as u64;
    for (job, seq, epoch) in expired {
        let Some(job) = JobId::parse(&job) else { continue };
        let lease = ChunkLease { chunk: ChunkId { job, seq: seq as u64 }, epoch };
        let _held = give_back(tx, &lease, Back::default()).await?;
        tracing::info!(job.id = %lease.chunk.job, chunk.seq = lease.chunk.seq, "the lease on chunk {} ran out", lease.chunk);
    }
    Ok(count)
}

pub(super) async fn renew(tx: &mut Tx<'_>, leases: Vec<ChunkLease>, ttl: Duration) -> Result<Vec<ChunkLease>> {
    let mut lost = Vec::new();
    for lease in leases {
        let renewed = sqlx::query(
            "UPDATE chunk SET lease_until = ? WHERE job_id = ? AND seq = ? AND lease_epoch = ? AND state = 'running' \
             AND EXISTS (SELECT 1 FROM job WHERE id = chunk.job_id AND ending IS NULL)",
        )
        .bind(tx.now + micros(ttl))
        .bind(lease.chunk.job.as_str())
        .bind(lease.chunk.seq as i64)
        .bind(lease.epoch)
        .execute(&mut *tx.db)
        .await
        .map_err(Error::Unavailable)?;
        if renewed.rows_affected() == 0 {
            lost.push(lease);
        }
    }
    Ok(lost)
}

/// Sets the state of a running chunk under its lease; false when the lease is lost.
async fn settle(
    tx: &mut Tx<'_>,
    lease: &ChunkLease,
    state: &'static str,
    result: Option<&ChunkResult>,
    error: Option<&Problem>,
) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE chunk SET state = ?, result = ?, error = COALESCE(?, error), finished_at = ?, lease_until = NULL \
         WHERE job_id = ? AND seq = ? AND lease_epoch = ? AND state = 'running'",
    )
    .bind(state)
    .bind(result.map(document))
    .bind(error.map(document))
    .bind(tx.now)
    .bind(lease.chunk.job.as_str())
    .bind(lease.chunk.seq as i64)
    .bind(lease.epoch)
    .execute(&mut *tx.db)
    .await
    .map_err(Error::Unavailable)?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query("UPDATE job SET running = running - 1 WHERE id = ?")
        .bind(lease.chunk.job.as_str())
        .execute(&mut *tx.db)
        .await
        .map_err(Error::Unavailable)?;
    Ok(true)
}

pub(super) async fn commit(tx: &mut Tx<'_>, lease: &ChunkLease, result: &ChunkResult) -> Result<Written> {
    if !settle(tx, lease, "done", Some(result), None).await? {
        return Ok(Written::Fenced);
    }
    let job = jobs::existing(tx, &lease.chunk.job).await?;
    let mut usage: Usage = job.usage.clone();
    usage.add(&result.usage);
    let mut summary = job.summary.clone();
    summary.merge(&result.summary);
    let codes: String = sqlx::query_scalar("SELECT error_codes FROM job WHERE id = ?")
        .bind(job.id.as_str())
        .fetch_one(&mut *tx.db)
        .await
        .map_err(Error::Unavailable)?;
    let mut codes: std::collections::BTreeMap<String, u64> = serde_json::from_str(&codes).unwrap_or_default();
    for (code, count) in &result.error_codes {
        *codes.entry(code.clone()).or_default() += count;
    }
    sqlx::query(
        "UPDATE job SET chunks_done = chunks_done + 1, succeeded = succeeded + ?, failed = failed + ?, usage = ?, summary = ?, error_codes = ?, \
         first_error = COALESCE(first_error, ?) WHERE id = ?",
    )
    .bind(result.succeeded as i64)
    .bind(result.failed as i64)
    .bind(document(&usage))
    .bind(document(&summary))
    .bind(document(&codes))
    .bind(&result.first_error)
    .bind(job.id.as_str())
    .execute(&mut *tx.db)
    .await
    .map_err(Error::Unavailable)?;
    let failed = job.counts.failed + result.failed;
    if let Some(most) = job.spec.error_policy.max_failed_records.filter(|most| failed > *most) {
        let why = jobs::summary(tx, &job.id).await?;
        let detail = format!("{failed} records failed so far; error_policy.max_failed_records allows {most}; {why}");
        let problem = Problem::new(jobs::POLICY_VIOLATED, "More records failed than the job allows", detail);
        jobs::break_job(tx, &job.id, &problem).await?;
    }
    jobs::complete_if_done(tx, &lease.chunk.job).await?;
    Ok(Written::Done)
}

pub(super) async fn fail(tx: &mut Tx<'_>, lease: &ChunkLease, error: &Problem) -> Result<Written> {
    if !settle(tx, lease, "failed", None, Some(error)).await? {
        return Ok(Written::Fenced);
    }
    jobs::break_job(tx, &lease.chunk.job, error).await?;
    Ok(Written::Done)
}

pub(super) async fn retry(tx: &mut Tx<'_>, lease: &ChunkLease, error: &Problem, delay: Duration) -> Result<Written> {
    let Some(failures) = failures(tx, lease).await? else { return Ok(Written::Fenced) };
    let attempts = jobs::existing(tx, &lease.chunk.job).await?.spec.execution.max_attempts;
    if failures + 1 >= attempts {
        let detail = format!("{} (chunk {}, attempt {} of {attempts})", error.detail, lease.chunk.seq, failures + 1);
        return fail(tx, lease, &Problem { detail, ..error.clone() }).await;
    }
    let not_before = Some(tx.now + micros(delay));
    give_back(tx, lease, Back { failures: 1, not_before, error: Some(error), ..Back::default() }).await
}

pub(super) async fn crash(tx: &mut Tx<'_>, lease: &ChunkLease, error: &Problem, isolation: Option<&Isolation>) -> Result<Written> {
    give_back(tx, lease, Back { crashes: 1, error: Some(error), isolation, ..Back::default() }).await
}

pub(super) async fn release(tx: &mut Tx<'_>, lease: &ChunkLease) -> Result<Written> {
    give_back(tx, lease, Back::default()).await
}

/// Failures of a chunk so far; `None` when the lease is lost.
async fn failures(tx: &mut Tx<'_>, lease: &ChunkLease) -> Result<Option<u32>> {
    sqlx::query_scalar("SELECT failures FROM chunk WHERE job_id = ? AND seq = ? AND lease_epoch = ? AND state = 'running'")
        .bind(lease.chunk.job.as_str())
        .bind(lease.chunk.seq as i64)
        .bind(lease.epoch)
        .fetch_optional(&mut *tx.db)
        .await
        .map_err(Error::Unavailable)
}

/// What a chunk that waits again takes with it.
#[derive(Default)]
struct Back<'p> {
    failures: i64,
    crashes: i64,
    not_before: Option<i64>,
    error: Option<&'p Problem>,
    /// What is known of it now, if that is news.
    isolation: Option<&'p Isolation>,
}

/// Puts a running chunk back to `pending`, or to `cancelled` when its job has an ending.
async fn give_back(tx: &mut Tx<'_>, lease: &ChunkLease, back: Back<'_>) -> Result<Written> {
    let state: Option<String> = sqlx::query_scalar(
        "UPDATE chunk SET state = CASE WHEN (SELECT ending IS NULL FROM job WHERE id = chunk.job_id) THEN 'pending' ELSE 'cancelled' END, \
         failures = failures + ?, crashes = crashes + ?, not_before = ?, error = COALESCE(?, error), isolation = COALESCE(?, isolation), \
         lease_until = NULL WHERE job_id = ? AND seq = ? AND lease_epoch = ? AND state = 'running' RETURNING state",
    )
    .bind(back.failures)
    .bind(back.crashes)
    .bind(back.not_before)
    .bind(back.error.map(document))
    .bind(back.isolation.map(document))
    .bind(lease.chunk.job.as_str())
    .bind(lease.chunk.seq as i64)
    .bind(lease.epoch)
    .fetch_optional(&mut *tx.db)
    .await
    .map_err(Error::Unavailable)?;
    let Some(state) = state else { return Ok(Written::Fenced) };
    sqlx::query("UPDATE job SET running = running - 1, pending = pending + ? WHERE id = ?")
        .bind(i64::from(state == "pending"))
        .bind(lease.chunk.job.as_str())
        .execute(&mut *tx.db)
        .await
        .map_err(Error::Unavailable)?;
    Ok(Written::Done)
}

pub(super) async fn list(readers: &SqlitePool, job: &JobId, from_seq: u64, limit: u32) -> Result<Vec<Chunk>> {
    let query = format!("SELECT {} FROM chunk WHERE job_id = ? AND seq >= ? ORDER BY seq LIMIT ?", rows::CHUNK);
    let found = sqlx::query(AssertSqlSafe(query))
        .bind(job.as_str())
        .bind(i64::try_from(from_seq).unwrap_or(i64::MAX))
        .bind(i64::from(limit))
        .fetch_all(readers)
        .await
        .map_err(Error::Unavailable)?;
    found.iter().map(rows::chunk).collect()
}
