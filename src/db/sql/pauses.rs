//! Jobs that stop and go on: pause, resume, retry.

use super::{
    Tx,
    driver::sql,
    jobs,
    rows::{self, document},
    schedules, waits,
};
use crate::{
    db::{Changed, Error, Result, Retried},
    domain::{
        Job, JobEvent, JobId, JobState, Summary,
        chunk::Usage,
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

/// Results of chunks that are read at once.
const PAGE: i64 = 100;

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
    let lost = if again == Again::UndoneAndFailed { added_up(tx, id, true).await? } else { Results::default() };
    if job.state == JobState::Completed && lost.chunks == 0 {
        return Ok(Retried::Nothing);
    }
    // What the one has read, the other takes for new.
    if let Some(fire) = job.fire.as_ref().filter(|fire| fire.only_new)
        && let Some(by) = schedules::unfinished(tx, &fire.schedule).await?.into_iter().next()
    {
        return Ok(Retried::Overlaps { by });
    }
    if let Some((by, uri)) = jobs::claimant(&mut tx.db, &job.spec.output).await? {
        return Ok(Retried::OutputClaimed { by, uri });
    }
    forget(tx, &job, &lost).await?;
    let waiting = reset_chunks(tx, id, again).await?;
    let deadline_us = job.spec.execution.deadline_seconds.map(|s| i64::try_from(s).unwrap_or(i64::MAX / 2_000_000) * 1_000_000);
    sql("UPDATE job SET ending = NULL, error = NULL, not_before = NULL, pending = ?, running = 0, retries = retries + 1, lease_epoch = lease_epoch + 1, \
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

/// What chunks came to, together.
#[derive(Default)]
struct Results {
    chunks: i64,
    succeeded: i64,
    usage: Usage,
    summary: Summary,
}

/// Adds up what the chunks of a job came to that are done and hold error rows, or hold none. A page at a time: of all chunks together the
/// results are larger than what they add up to.
async fn added_up(tx: &mut Tx<'_>, id: &JobId, with_error_rows: bool) -> Result<Results> {
    let failed = if with_error_rows { "failed > 0" } else { "failed = 0" };
    let (mut sum, mut after) = (Results::default(), -1);
    loop {
        // Index: the primary key.
        let page: Vec<(i64, String)> =
            sql(format!("SELECT seq, result FROM chunk WHERE job_id = ? AND seq > ? AND state = 'done' AND {failed} ORDER BY seq LIMIT ?"))
                .bind(id.as_str())
                .bind(after)
                .bind(PAGE)
                .all(&mut tx.db)
                .await?;
        for (_, text) in &page {
            let result = rows::result(id, text)?;
            sum.chunks += 1;
            sum.succeeded += result.succeeded as i64;
            sum.usage.add(&result.usage);
            sum.summary.merge(&result.summary);
        }
        match page.last() {
            Some((seq, _)) => after = *seq,
            None => return Ok(sum),
        }
    }
}

/// Takes what the chunks with error rows came to out of the job's counts: no error row is left of a job that loses any.
async fn forget(tx: &mut Tx<'_>, job: &Job, lost: &Results) -> Result<()> {
    if lost.chunks == 0 {
        return Ok(());
    }
    let mut usage = job.usage.clone();
    usage.subtract(&lost.usage);
    // A summary cannot be taken out of another.
    let kept = added_up(tx, &job.id, false).await?.summary;
    sql(
        "UPDATE job SET chunks_done = chunks_done - ?, succeeded = succeeded - ?, failed = 0, usage = ?, summary = ?, error_codes = '{}', \
         first_error = NULL WHERE id = ?",
    )
    .bind(lost.chunks)
    .bind(lost.succeeded)
    .bind(document(&usage))
    .bind(document(&kept))
    .bind(job.id.as_str())
    .execute(&mut tx.db)
    .await?;
    Ok(())
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
