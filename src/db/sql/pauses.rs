//! Jobs that stop and go on: pause, resume, retry.

use super::{
    Tx,
    driver::sql,
    jobs,
    rows::{self, document},
    waits,
};
use crate::{
    db::{Changed, Error, Result, Retried},
    domain::{
        ChunkResult, Job, JobEvent, JobId, JobState, Summary,
        job::{Conflict, Planned},
    },
};

pub(super) async fn pause(tx: &mut Tx<'_>, id: &JobId) -> Result<Changed> {
    let Some(mut job) = jobs::take(tx, id).await? else { return Ok(Changed::Missing) };
    match jobs::apply(tx, &mut job, JobEvent::PauseRequested).await {
        Err(conflict) => return Ok(Changed::Conflict(conflict)),
        Ok(moved) => moved?,
    }
    // Fences off the planner.
    sql("UPDATE job SET lease_epoch = lease_epoch + 1, lease_until = NULL WHERE id = ?").bind(id.as_str()).execute(&mut tx.db).await?;
    jobs::existing(tx, id).await.map(|job| Changed::Job(Box::new(job)))
}

pub(super) async fn resume(tx: &mut Tx<'_>, id: &JobId) -> Result<Changed> {
    let Some(mut job) = jobs::take(tx, id).await? else { return Ok(Changed::Missing) };
    let planned = job.planned();
    match jobs::apply(tx, &mut job, JobEvent::ResumeRequested(planned)).await {
        Err(conflict) => return Ok(Changed::Conflict(conflict)),
        Ok(moved) => moved?,
    }
    jobs::complete_if_done(tx, id).await?;
    jobs::existing(tx, id).await.map(|job| Changed::Job(Box::new(job)))
}

/// Which of a job's chunks are run again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    /// Those that are not done.
    Undone,
    /// Those, and those that hold error rows.
    UndoneAndFailed,
}

impl Again {
    /// Chunks that are done hold what the job kept, and stay, unless their error rows are what is to be mended.
    fn of(job: &Job) -> Self {
        let by_records = job.error.as_ref().is_some_and(|e| [jobs::ALL_RECORDS_FAILED, jobs::POLICY_VIOLATED].contains(&e.code.as_str()));
        if job.state == JobState::Completed || by_records { Self::UndoneAndFailed } else { Self::Undone }
    }
}

pub(super) async fn retry(tx: &mut Tx<'_>, id: &JobId) -> Result<Retried> {
    tx.db.claim_outputs_alone().await?;
    let Some(mut job) = jobs::take(tx, id).await? else { return Ok(Retried::Missing) };
    if !job.state.is_final() {
        return Ok(Retried::Conflict(Conflict { state: job.state }));
    }
    let again = Again::of(&job);
    let lost = if again == Again::UndoneAndFailed { with_error_rows(tx, id).await? } else { Vec::new() };
    if job.state == JobState::Completed && lost.is_empty() {
        return Ok(Retried::Nothing);
    }
    if let Some((by, uri)) = jobs::claimant(&mut tx.db, &job.spec.output).await? {
        return Ok(Retried::OutputClaimed { by, uri });
    }
    forget(tx, &job, &lost).await?;
    let waiting = reset_chunks(tx, id, again).await?;
    let deadline_us = job.spec.execution.deadline_seconds.map(|s| i64::try_from(s).unwrap_or(i64::MAX / 2_000_000) * 1_000_000);
    sql("UPDATE job SET ending = NULL, error = NULL, pending = ?, running = 0, retries = retries + 1, lease_epoch = lease_epoch + 1, \
         lease_until = NULL, deadline_at = CASE WHEN deadline_at <= ? THEN ? ELSE deadline_at END WHERE id = ?")
    .bind(waiting)
    .bind(tx.now)
    .bind(deadline_us.map(|us| tx.now.saturating_add(us)))
    .bind(id.as_str())
    .execute(&mut tx.db)
    .await?;
    let planned = job.planned();
    match jobs::apply(tx, &mut job, JobEvent::RetryRequested(planned)).await {
        Ok(moved) => moved?,
        Err(conflict) => return Err(Error::Damaged { table: "job", id: id.to_string(), what: conflict.to_string() }),
    }
    if planned == Planned::Nothing {
        waits::begin(tx, id, &job.spec).await?;
    }
    jobs::complete_if_done(tx, id).await?;
    jobs::existing(tx, id).await.map(|job| Retried::Job(Box::new(job)))
}

/// What the chunks that hold error rows came to.
async fn with_error_rows(tx: &mut Tx<'_>, id: &JobId) -> Result<Vec<ChunkResult>> {
    let rows: Vec<String> = sql("SELECT result FROM chunk WHERE job_id = ? AND state = 'done' AND failed > 0 ORDER BY seq")
        .bind(id.as_str())
        .scalars(&mut tx.db)
        .await?;
    rows.iter().map(|text| rows::result(id, text)).collect()
}

/// Takes what chunks came to out of the job's counts. They are all those with error rows, or none: no error row is left of a job
/// that loses any.
async fn forget(tx: &mut Tx<'_>, job: &Job, lost: &[ChunkResult]) -> Result<()> {
    if lost.is_empty() {
        return Ok(());
    }
    let mut usage = job.usage.clone();
    lost.iter().for_each(|result| usage.subtract(&result.usage));
    let succeeded: u64 = lost.iter().map(|result| result.succeeded).sum();
    sql(
        "UPDATE job SET chunks_done = chunks_done - ?, succeeded = succeeded - ?, failed = 0, usage = ?, summary = ?, error_codes = '{}', \
         first_error = NULL WHERE id = ?",
    )
    .bind(lost.len() as i64)
    .bind(succeeded as i64)
    .bind(document(&usage))
    .bind(document(&kept_summary(tx, &job.id).await?))
    .bind(job.id.as_str())
    .execute(&mut tx.db)
    .await?;
    Ok(())
}

/// What the results without error rows are like together: a summary cannot be taken out of another.
async fn kept_summary(tx: &mut Tx<'_>, id: &JobId) -> Result<Summary> {
    let rows: Vec<String> = sql("SELECT result FROM chunk WHERE job_id = ? AND state = 'done' AND failed = 0 ORDER BY seq")
        .bind(id.as_str())
        .scalars(&mut tx.db)
        .await?;
    let mut summary = Summary::default();
    for text in &rows {
        summary.merge(&rows::result(id, text)?.summary);
    }
    Ok(summary)
}

/// Lets chunks wait again as if they were new, but for their claims and epochs: whoever held one is fenced off. Returns how many.
async fn reset_chunks(tx: &mut Tx<'_>, id: &JobId, again: Again) -> Result<i64> {
    let reset = sql(
        "UPDATE chunk SET state = 'pending', failures = 0, crashes = 0, isolation = NULL, not_before = NULL, lease_epoch = lease_epoch + 1, lease_until = NULL, \
         worker = NULL, started_at = NULL, finished_at = NULL, error = NULL, result = NULL, failed = 0 \
         WHERE job_id = ? AND (state IN ('failed', 'cancelled') OR (? = 1 AND state = 'done' AND failed > 0))",
    )
    .bind(id.as_str())
    .bind(i64::from(again == Again::UndoneAndFailed))
    .execute(&mut tx.db).await?;
    Ok(reset as i64)
}
