//! Chunks: claims, leases, ends.
//!
//! Whoever changes a chunk and its job's counts holds the job's row first, then the chunk's: nobody waits in a circle.

use std::{cmp::Reverse, collections::HashSet, time::Duration};

use super::{
    Tx, costs,
    driver::{Db, sql},
    jobs, micros, rows,
    rows::document,
    webhooks,
};
use crate::{
    db::{ChunkLease, ClaimedChunk, Error, Result, Written},
    domain::{Chunk, ChunkId, ChunkResult, EventKind, Isolation, JobId, Problem, Spent, chunk::Usage},
};

/// Which jobs have something to claim; the one value is the time. Index: job_to_run.
const CLAIMABLE: &str = "finished_at IS NULL AND pending > 0 AND paused_at IS NULL AND state = 'in_progress' AND ending IS NULL \
                         AND (max_parallel IS NULL OR running < max_parallel) AND (not_before IS NULL OR not_before <= ?)";
/// Leases renewed in one statement at most.
const RENEWED_AT_ONCE: usize = 500;

/// A job that has something to claim.
struct Candidate {
    id: String,
    priority: i64,
    running: i64,
    served_at: i64,
    max_parallel: Option<i64>,
    pending: i64,
}

impl Candidate {
    /// Chunks of it that may be claimed, due or not.
    fn room(&self) -> i64 {
        self.max_parallel.map_or(i64::MAX, |most| most - self.running).min(self.pending)
    }
}

pub(super) async fn claim(tx: &mut Tx<'_>, worker: &str, limit: u32, ttl: Duration) -> Result<Vec<ClaimedChunk>> {
    let mut candidates = candidates(tx, limit).await?;
    let mut claimed = Vec::new();
    let mut held = HashSet::new();
    while claimed.len() < limit as usize && !candidates.is_empty() {
        let mut none_left = Vec::new();
        for (at, share) in turns(&candidates, limit as usize - claimed.len()) {
            let candidate = &mut candidates[at];
            if !held.contains(&candidate.id) {
                // Waits for the first job alone: two claims that hold several jobs each must not wait for each other.
                let Some((running, pending)) = hold(tx, &candidate.id, held.is_empty()).await? else {
                    none_left.push(candidate.id.clone());
                    continue;
                };
                // What another claim took while this one waited counts.
                (candidate.running, candidate.pending) = (running, pending);
                held.insert(candidate.id.clone());
            }
            let share = share.min(candidate.room()).min(fair_room(tx, candidate, worker).await?);
            if share <= 0 {
                none_left.push(candidate.id.clone());
                continue;
            }
            let taken = claim_of(tx, &candidate.id, share, worker, ttl).await?;
            candidate.running += taken.len() as i64;
            candidate.pending -= taken.len() as i64;
            candidate.served_at = tx.now;
            if (taken.len() as i64) < share {
                none_left.push(candidate.id.clone());
            }
            claimed.extend(taken);
        }
        candidates.retain(|c| c.room() > 0 && !none_left.contains(&c.id));
    }
    Ok(claimed)
}

/// The jobs whose turn it may be, in the order of their turns. More than `limit` can never have a turn in this claim, but some may have
/// nothing due.
async fn candidates(tx: &mut Tx<'_>, limit: u32) -> Result<Vec<Candidate>> {
    let found: Vec<(String, i64, i64, i64, Option<i64>, i64)> = sql(format!(
        "SELECT id, priority, running, served_at, max_parallel, pending FROM job WHERE {CLAIMABLE} \
         ORDER BY priority DESC, running, served_at, id LIMIT ?"
    ))
    .bind(tx.now)
    .bind(i64::from(limit) + 256)
    .all(&mut tx.db)
    .await?;
    let candidate =
        |(id, priority, running, served_at, max_parallel, pending)| Candidate { id, priority, running, served_at, max_parallel, pending };
    Ok(found.into_iter().map(candidate).collect())
}

/// How many chunks of which job: `free` turns are given one by one. Highest priority first, then the job with the fewest chunks running,
/// then the one that has waited longest: with a single slot none ever has a chunk running when it is free.
fn turns(candidates: &[Candidate], free: usize) -> Vec<(usize, i64)> {
    let mut shares: Vec<(usize, i64)> = Vec::new();
    for _ in 0..free {
        let share = |at: usize| shares.iter().find(|(of, _)| *of == at).map_or(0, |(_, share)| *share);
        let room = |(at, c): &(usize, &Candidate)| share(*at) < c.room();
        // One that was given a turn just now is behind those that were not.
        let turn = |(at, c): &(usize, &Candidate)| {
            let given = share(*at);
            (Reverse(c.priority), c.running + given, given > 0, c.served_at, *at)
        };
        let Some((at, _)) = candidates.iter().enumerate().filter(room).min_by_key(turn) else { break };
        match shares.iter_mut().find(|(of, _)| *of == at) {
            Some((_, share)) => *share += 1,
            None => shares.push((at, 1)),
        }
    }
    shares
}

/// Holds a job's row, if something can still be claimed of it; how many of its chunks run and wait.
async fn hold(tx: &mut Tx<'_>, job: &str, wait: bool) -> Result<Option<(i64, i64)>> {
    let lock = if wait { tx.db.for_update() } else { tx.db.skip_locked() };
    sql(format!("SELECT running, pending FROM job WHERE id = ? AND {CLAIMABLE}{lock}")).bind(job).bind(tx.now).first(&mut tx.db).await
}

/// How many more chunks of a job this worker may hold, so that all who work at the job run out of chunks together: what one holds ahead of
/// its turn near the end, another waits for. A worker that holds none may always take one, and one that is alone as many as it likes.
async fn fair_room(tx: &mut Tx<'_>, job: &Candidate, worker: &str) -> Result<i64> {
    // Index: chunk_running_of.
    let (mine, others): (i64, i64) =
        sql("SELECT count(CASE WHEN worker = ? THEN 1 END), count(DISTINCT CASE WHEN worker <> ? THEN worker END) \
                                          FROM chunk WHERE job_id = ? AND state = 'running'")
        .bind(worker)
        .bind(worker)
        .bind(&job.id)
        .only(&mut tx.db)
        .await?;
    if others == 0 {
        return Ok(i64::MAX);
    }
    let fair = (job.running + job.pending) / (others + 1);
    Ok(fair.max(1) - mine)
}

/// Takes the first chunks of a job that wait and are due.
async fn claim_of(tx: &mut Tx<'_>, job: &str, share: i64, worker: &str, ttl: Duration) -> Result<Vec<ClaimedChunk>> {
    // Index: chunk_pending.
    let found = sql(format!(
        "WITH due AS MATERIALIZED (SELECT seq FROM chunk WHERE job_id = ? AND state = 'pending' AND (not_before IS NULL OR not_before <= ?) \
                                   ORDER BY seq LIMIT ?{}) \
         UPDATE chunk SET state = 'running', claims = claims + 1, lease_epoch = lease_epoch + 1, lease_until = ?, worker = ?, started_at = ? \
         WHERE job_id = ? AND seq IN (SELECT seq FROM due) RETURNING {}",
        tx.db.skip_locked(),
        rows::CHUNK
    ))
    .bind(job)
    .bind(tx.now)
    .bind(share)
    .bind(tx.now + micros(ttl))
    .bind(worker)
    .bind(tx.now)
    .bind(job)
    .rows(&mut tx.db)
    .await?;
    let mut claimed = Vec::with_capacity(found.len());
    for row in &found {
        let chunk = rows::chunk(row)?;
        let epoch = row.get("lease_epoch").map_err(Error::Unavailable)?;
        claimed.push(ClaimedChunk { lease: ChunkLease { chunk: chunk.id.clone(), epoch }, chunk });
    }
    claimed.sort_by_key(|c| c.chunk.id.seq);
    let Some(first) = claimed.first() else { return Ok(claimed) };
    sql("UPDATE job SET pending = pending - ?, running = running + ?, served_at = ? WHERE id = ?")
        .bind(claimed.len() as i64)
        .bind(claimed.len() as i64)
        .bind(tx.now)
        .bind(job)
        .execute(&mut tx.db)
        .await?;
    let started =
        sql("UPDATE job SET started_at = ? WHERE id = ? AND started_at IS NULL").bind(tx.now).bind(job).execute(&mut tx.db).await?;
    if started == 1 {
        let id = first.chunk.id.job.clone();
        webhooks::announce(tx, &id, EventKind::Started).await?;
    }
    Ok(claimed)
}

/// Whether there is something to claim, and whether a lease has run out: a look that changes nothing.
pub(super) async fn waiting(db: &mut Db<'_>, clock_offset_us: i64) -> Result<(bool, bool)> {
    // Indexes: job_to_run, chunk_running.
    let (waiting, expired): (i64, i64) = sql(format!(
        "SELECT (SELECT count(*) FROM (SELECT 1 FROM job WHERE finished_at IS NULL AND pending > 0 AND paused_at IS NULL \
                                       ORDER BY priority DESC LIMIT 1) AS waiting), \
                (SELECT count(*) FROM (SELECT 1 FROM chunk WHERE state = 'running' AND lease_until <= {} + ? LIMIT 1) AS expired)",
        db.clock()
    ))
    .bind(clock_offset_us)
    .only(db)
    .await?;
    Ok((waiting > 0, expired > 0))
}

/// Returns what dead workers held: chunks under expired leases wait again, at no cost to them. Says how many. Jobs that another
/// transaction holds are passed over: whoever looks next finds them.
pub(super) async fn rescue(tx: &mut Tx<'_>) -> Result<u64> {
    // Index: chunk_running.
    let expired: Vec<(String, i64, i64)> =
        sql("SELECT job_id, seq, lease_epoch FROM chunk WHERE state = 'running' AND lease_until <= ? ORDER BY lease_until LIMIT 1000")
            .bind(tx.now)
            .all(&mut tx.db)
            .await?;
    let mut count = 0;
    let mut looked_at = std::collections::HashMap::new();
    for (job, seq, epoch) in expired {
        if !looked_at.contains_key(&job) {
            let lock = tx.db.skip_locked();
            let held: Option<i64> =
                sql(format!("SELECT running FROM job WHERE id = ?{lock}")).bind(&job).scalar_or_none(&mut tx.db).await?;
            looked_at.insert(job.clone(), held.is_some());
        }
        let Some(id) = JobId::parse(&job).filter(|_| looked_at[&job]) else { continue };
        let lease = ChunkLease { chunk: ChunkId { job: id, seq: seq as u64 }, epoch };
        let back = Back { expired_by: Some(tx.now), ..Back::default() };
        if give_back(tx, &lease, back).await? == Written::Done {
            count += 1;
            tracing::info!(job.id = %lease.chunk.job, chunk.seq = lease.chunk.seq, "the lease on chunk {} ran out", lease.chunk);
        }
    }
    Ok(count)
}

/// Renews leases and says which must stop. A chunk that another transaction holds at this moment is on its way to an end, or is looked at
/// by one that will see whether the lease has run out: it is not waited for.
pub(super) async fn renew(tx: &mut Tx<'_>, leases: &[ChunkLease], ttl: Duration) -> Result<Vec<ChunkLease>> {
    let mut lost = Vec::new();
    for leases in leases.chunks(RENEWED_AT_ONCE) {
        let mut query = sql("WITH mine AS MATERIALIZED (SELECT job_id, seq FROM chunk WHERE state = 'running' AND ");
        among(&mut query, leases);
        query.push(" AND EXISTS (SELECT 1 FROM job WHERE id = chunk.job_id AND ending IS NULL)").push(tx.db.skip_locked());
        query.push(") UPDATE chunk SET lease_until = ? WHERE (job_id, seq) IN (SELECT job_id, seq FROM mine)").value(tx.now + micros(ttl));
        query.execute(&mut tx.db).await?;
        let mut query = sql("SELECT job_id, seq FROM chunk WHERE state = 'running' AND ");
        among(&mut query, leases);
        query.push(" AND EXISTS (SELECT 1 FROM job WHERE id = chunk.job_id AND ending IS NULL)");
        let kept: HashSet<(String, i64)> = query.all(&mut tx.db).await?.into_iter().collect();
        lost.extend(leases.iter().filter(|l| !kept.contains(&(l.chunk.job.to_string(), l.chunk.seq as i64))).cloned());
    }
    Ok(lost)
}

/// `(job_id, seq, lease_epoch) IN (…)`. Index: the primary key.
fn among(query: &mut super::driver::Query, leases: &[ChunkLease]) {
    query.push("(job_id, seq, lease_epoch) IN (VALUES ");
    for (at, lease) in leases.iter().enumerate() {
        query.push(if at == 0 { "(?, ?, ?)" } else { ", (?, ?, ?)" });
        query.value(lease.chunk.job.as_str()).value(lease.chunk.seq as i64).value(lease.epoch);
    }
    query.push(")");
}

/// Sets the state of a running chunk under its lease; false when the lease is lost.
async fn settle(
    tx: &mut Tx<'_>,
    lease: &ChunkLease,
    state: &'static str,
    result: Option<&ChunkResult>,
    error: Option<&Problem>,
) -> Result<bool> {
    jobs::hold(tx, &lease.chunk.job).await?;
    let done = sql("UPDATE chunk SET state = ?, result = ?, failed = ?, error = COALESCE(?, error), finished_at = ?, lease_until = NULL \
         WHERE job_id = ? AND seq = ? AND lease_epoch = ? AND state = 'running'")
    .bind(state)
    .bind(result.map(document))
    .bind(result.map_or(0, |result| result.failed as i64))
    .bind(error.map(document))
    .bind(tx.now)
    .bind(lease.chunk.job.as_str())
    .bind(lease.chunk.seq as i64)
    .bind(lease.epoch)
    .execute(&mut tx.db)
    .await?;
    if done == 0 {
        return Ok(false);
    }
    sql("UPDATE job SET running = running - 1 WHERE id = ?").bind(lease.chunk.job.as_str()).execute(&mut tx.db).await?;
    Ok(true)
}

pub(super) async fn commit(tx: &mut Tx<'_>, lease: &ChunkLease, result: &ChunkResult) -> Result<Written> {
    if !settle(tx, lease, "done", Some(result), None).await? {
        if committed(tx, lease, result).await? {
            return Ok(Written::Done);
        }
        costs::charge(tx, lease, &result.usage.spent()).await?;
        return Ok(Written::Fenced);
    }
    let job = jobs::existing(tx, &lease.chunk.job).await?;
    let mut usage: Usage = job.usage.clone();
    usage.add(&result.usage);
    let mut summary = job.summary.clone();
    summary.merge(&result.summary);
    let codes: String = sql("SELECT error_codes FROM job WHERE id = ?").bind(job.id.as_str()).scalar(&mut tx.db).await?;
    let mut codes: std::collections::BTreeMap<String, u64> = serde_json::from_str(&codes).unwrap_or_default();
    for (code, count) in &result.error_codes {
        *codes.entry(code.clone()).or_default() += count;
    }
    sql(
        "UPDATE job SET chunks_done = chunks_done + 1, succeeded = succeeded + ?, failed = failed + ?, usage = ?, summary = ?, error_codes = ?, \
         first_error = COALESCE(first_error, ?), not_before = NULL WHERE id = ?",
    )
    .bind(result.succeeded as i64)
    .bind(result.failed as i64)
    .bind(document(&usage))
    .bind(document(&summary))
    .bind(document(&codes))
    .bind(&result.first_error)
    .bind(job.id.as_str())
    .execute(&mut tx.db)
    .await?;
    let failed = job.counts.failed + result.failed;
    if let Some(most) = job.spec.error_policy.max_failed_records.filter(|most| failed > *most) {
        let why = jobs::summary(tx, &job.id).await?;
        let detail = format!("{failed} records failed so far; error_policy.max_failed_records allows {most}; {why}");
        let problem = Problem::new(jobs::POLICY_VIOLATED, "More records failed than the job allows", detail);
        jobs::break_job(tx, &job.id, &problem).await?;
    }
    jobs::complete_if_done(tx, &lease.chunk.job).await?;
    costs::keep_to_budget(tx, &lease.chunk.job).await?;
    Ok(Written::Done)
}

/// Whether this very commit was made already: a connection that breaks while it commits leaves open whether it did, and whoever asks
/// again must not take his own part for another's and drop it.
async fn committed(tx: &mut Tx<'_>, lease: &ChunkLease, result: &ChunkResult) -> Result<bool> {
    let kept: Option<String> = sql("SELECT result FROM chunk WHERE job_id = ? AND seq = ? AND lease_epoch = ? AND state = 'done'")
        .bind(lease.chunk.job.as_str())
        .bind(lease.chunk.seq as i64)
        .bind(lease.epoch)
        .scalar_or_none(&mut tx.db)
        .await?;
    let Some(kept) = kept else { return Ok(false) };
    let kept = rows::result(&lease.chunk.job, &kept)?;
    Ok(kept.part == result.part && kept.errors == result.errors)
}

pub(super) async fn fail(tx: &mut Tx<'_>, lease: &ChunkLease, error: &Problem, spent: &Spent) -> Result<Written> {
    let written = settle_as_failed(tx, lease, error).await?;
    costs::charge(tx, lease, spent).await?;
    Ok(written)
}

async fn settle_as_failed(tx: &mut Tx<'_>, lease: &ChunkLease, error: &Problem) -> Result<Written> {
    if !settle(tx, lease, "failed", None, Some(error)).await? {
        return Ok(Written::Fenced);
    }
    jobs::break_job(tx, &lease.chunk.job, error).await?;
    Ok(Written::Done)
}

pub(super) async fn retry(tx: &mut Tx<'_>, lease: &ChunkLease, error: &Problem, delay: Duration, spent: &Spent) -> Result<Written> {
    jobs::hold(tx, &lease.chunk.job).await?;
    let written = put_off(tx, lease, error, delay).await?;
    costs::charge(tx, lease, spent).await?;
    Ok(written)
}

/// Lets a chunk wait again for that long, unless it has failed too often.
async fn put_off(tx: &mut Tx<'_>, lease: &ChunkLease, error: &Problem, delay: Duration) -> Result<Written> {
    let Some(failures) = failures(tx, lease).await? else { return Ok(Written::Fenced) };
    let attempts = jobs::existing(tx, &lease.chunk.job).await?.spec.execution.max_attempts;
    if failures + 1 >= i64::from(attempts) {
        let detail = format!("{} (chunk {}, attempt {} of {attempts})", error.detail, lease.chunk.seq, failures + 1);
        return settle_as_failed(tx, lease, &Problem { detail, ..error.clone() }).await;
    }
    let not_before = Some(tx.now + micros(delay));
    give_back(tx, lease, Back { failures: 1, not_before, error: Some(error), ..Back::default() }).await
}

pub(super) async fn crash(
    tx: &mut Tx<'_>,
    lease: &ChunkLease,
    error: &Problem,
    isolation: Option<&Isolation>,
    spent: &Spent,
) -> Result<Written> {
    jobs::hold(tx, &lease.chunk.job).await?;
    let written = give_back(tx, lease, Back { crashes: 1, error: Some(error), isolation, ..Back::default() }).await?;
    costs::charge(tx, lease, spent).await?;
    Ok(written)
}

pub(super) async fn release(tx: &mut Tx<'_>, lease: &ChunkLease, spent: &Spent) -> Result<Written> {
    jobs::hold(tx, &lease.chunk.job).await?;
    let written = give_back(tx, lease, Back::default()).await?;
    costs::charge(tx, lease, spent).await?;
    Ok(written)
}

pub(super) async fn postpone(tx: &mut Tx<'_>, lease: &ChunkLease, away: &Problem, delay: Duration, spent: &Spent) -> Result<Written> {
    jobs::hold(tx, &lease.chunk.job).await?;
    let written = give_back(tx, lease, Back { error: Some(away), ..Back::default() }).await?;
    if written == Written::Done {
        // The job's, and not the chunk's alone: each of its chunks would find the same, and hold a slot of other jobs' until it has.
        sql("UPDATE job SET not_before = ? WHERE id = ?")
            .bind(tx.now + micros(delay))
            .bind(lease.chunk.job.as_str())
            .execute(&mut tx.db)
            .await?;
    }
    costs::charge(tx, lease, spent).await?;
    Ok(written)
}

/// Failures of a chunk so far; `None` when the lease is lost.
async fn failures(tx: &mut Tx<'_>, lease: &ChunkLease) -> Result<Option<i64>> {
    sql("SELECT failures FROM chunk WHERE job_id = ? AND seq = ? AND lease_epoch = ? AND state = 'running'")
        .bind(lease.chunk.job.as_str())
        .bind(lease.chunk.seq as i64)
        .bind(lease.epoch)
        .scalar_or_none(&mut tx.db)
        .await
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
    /// Only if its lease has run out by then.
    expired_by: Option<i64>,
}

/// Puts a running chunk back to `pending`, or to `cancelled` when its job has an ending. The job's row is held already.
async fn give_back(tx: &mut Tx<'_>, lease: &ChunkLease, back: Back<'_>) -> Result<Written> {
    let state: Option<String> = sql(
        "UPDATE chunk SET state = CASE WHEN (SELECT ending IS NULL FROM job WHERE id = chunk.job_id) THEN 'pending' ELSE 'cancelled' END, \
         failures = failures + ?, crashes = crashes + ?, not_before = ?, error = COALESCE(?, error), isolation = COALESCE(?, isolation), \
         lease_until = NULL WHERE job_id = ? AND seq = ? AND lease_epoch = ? AND state = 'running' AND COALESCE(lease_until <= ?, true) RETURNING state",
    )
    .bind(back.failures)
    .bind(back.crashes)
    .bind(back.not_before)
    .bind(back.error.map(document))
    .bind(back.isolation.map(document))
    .bind(lease.chunk.job.as_str())
    .bind(lease.chunk.seq as i64)
    .bind(lease.epoch)
    .bind(back.expired_by)
    .scalar_or_none(&mut tx.db)
    .await?;
    let Some(state) = state else { return Ok(Written::Fenced) };
    sql("UPDATE job SET running = running - 1, pending = pending + ? WHERE id = ?")
        .bind(i64::from(state == "pending"))
        .bind(lease.chunk.job.as_str())
        .execute(&mut tx.db)
        .await?;
    tx.ring();
    Ok(Written::Done)
}

pub(super) async fn list(db: &mut Db<'_>, job: &JobId, from_seq: u64, limit: u32) -> Result<Vec<Chunk>> {
    let found = sql(format!("SELECT {} FROM chunk WHERE job_id = ? AND seq >= ? ORDER BY seq LIMIT ?", rows::CHUNK))
        .bind(job.as_str())
        .bind(i64::try_from(from_seq).unwrap_or(i64::MAX))
        .bind(i64::from(limit))
        .rows(db)
        .await?;
    found.iter().map(rows::chunk).collect()
}
