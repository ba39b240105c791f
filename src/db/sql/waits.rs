//! Jobs that wait for an object, or for other jobs.

use std::time::Duration;

use futures::future::BoxFuture;

use super::{Tx, driver::sql, jobs};
use crate::{
    db::{Error, JobLease, Result, Written},
    domain::{Job, JobId, JobSpec, JobState, Problem, Timestamp},
};

/// Jobs that are told in one transaction that another one has ended.
const AT_ONCE: i64 = 100;
/// For which jobs an object is looked for. Index: job_to_look.
pub(super) const TO_LOOK: &str = "look_at IS NOT NULL AND finished_at IS NULL AND blocked = 0 AND paused_at IS NULL AND ending IS NULL";
/// Which jobs have ended and have others to tell. Index: job_awaited.
pub(super) const ENDED: &str = "awaited = 1 AND finished_at IS NOT NULL";

/// Lets a job wait that is new, or that is retried from its beginning. One that waits for a job that is gone is cancelled.
pub(super) async fn begin(tx: &mut Tx<'_>, id: &JobId, spec: &JobSpec) -> Result<()> {
    let until = spec.wait_for.as_ref().map(|wait| tx.now.saturating_add(wait.timeout_us()));
    if until.is_none() && spec.depends_on.is_empty() {
        return Ok(());
    }
    sql("UPDATE job SET blocked = ?, look_at = ?, wait_until = ? WHERE id = ?")
        .bind(i64::from(!spec.depends_on.is_empty()))
        .bind(until.map(|_| tx.now))
        .bind(until)
        .bind(id.as_str())
        .execute(&mut tx.db)
        .await?;
    for parent in &spec.depends_on {
        // Holds the parent: it ended before this, or ends knowing that somebody waits.
        let there = sql("UPDATE job SET awaited = 1 WHERE id = ? AND purged_at IS NULL").bind(parent.as_str()).execute(&mut tx.db).await?;
        let waits = if there == 1 {
            "INSERT INTO job_dependency (job_id, parent_id) VALUES (?, ?) ON CONFLICT (job_id, parent_id) DO UPDATE SET told = 0"
        } else {
            "UPDATE job_dependency SET told = 1 WHERE job_id = ? AND parent_id = ? \
             AND (completed = 1 OR EXISTS (SELECT 1 FROM job p WHERE p.id = parent_id AND p.state = 'completed'))"
        };
        if sql(waits).bind(id.as_str()).bind(parent.as_str()).execute(&mut tx.db).await? == 0 {
            return cancel(tx, id, parent, "gone").await;
        }
    }
    go_on(tx, id).await
}

/// Leases a job whose object is to be looked for now.
pub(super) async fn claim(tx: &mut Tx<'_>, worker: &str, ttl: Duration) -> Result<Option<(JobLease, Job)>> {
    let found: Option<String> = sql(format!(
        "SELECT id FROM job WHERE {TO_LOOK} AND look_at <= ? AND (lease_until IS NULL OR lease_until <= ?) ORDER BY look_at LIMIT 1{}",
        tx.db.skip_locked()
    ))
    .bind(tx.now)
    .bind(tx.now)
    .scalar_or_none(&mut tx.db)
    .await?;
    let Some(id) = found else { return Ok(None) };
    let lease = jobs::lease(tx, &id, worker, ttl).await?;
    let job = jobs::existing(tx, &lease.job).await?;
    Ok(Some((lease, job)))
}

/// The object was not there: it is looked for again later, or the job fails when its time is over.
pub(super) async fn again(tx: &mut Tx<'_>, lease: &JobLease) -> Result<Written> {
    jobs::hold(tx, &lease.job).await?;
    if !jobs::holds(tx, lease).await? {
        return Ok(Written::Fenced);
    }
    let job = jobs::existing(tx, &lease.job).await?;
    let (Some(wait), Some(Timestamp(until))) = (&job.spec.wait_for, job.waits.object_until) else { return Ok(Written::Fenced) };
    if until <= tx.now {
        let seconds = wait.timeout_seconds;
        let detail = format!("{} was not there after {seconds} s", wait.uri);
        jobs::break_job(tx, &job.id, &Problem::new("wait_timeout", "What the job waited for did not come", detail)).await?;
        return Ok(Written::Done);
    }
    let waited = wait.timeout_us() - (until - tx.now);
    sql("UPDATE job SET look_at = ?, lease_until = NULL WHERE id = ?")
        .bind(until.min(tx.now + wait.pause_us(waited)))
        .bind(lease.job.as_str())
        .execute(&mut tx.db)
        .await?;
    Ok(Written::Done)
}

/// The object is there: the job may be planned.
pub(super) async fn over(tx: &mut Tx<'_>, lease: &JobLease) -> Result<Written> {
    let done = sql(
        "UPDATE job SET look_at = NULL, wait_until = NULL, lease_until = NULL WHERE id = ? AND lease_epoch = ? AND finished_at IS NULL",
    )
    .bind(lease.job.as_str())
    .bind(lease.epoch)
    .execute(&mut tx.db)
    .await?;
    tx.ring();
    Ok(Written::by(done))
}

/// Takes a job that has ended, and tells some of those that wait for it: one whose last parent has completed may be planned, and one of
/// which a parent came to something else is cancelled. Safe at any moment and on every node at once; how many rows it changed.
pub(super) fn settle<'t>(tx: &'t mut Tx<'_>) -> BoxFuture<'t, Result<u64>> {
    Box::pin(async move {
        let lock = tx.db.skip_locked();
        let ended: Option<(String, String)> =
            sql(format!("SELECT id, state FROM job WHERE {ENDED} ORDER BY id LIMIT 1{lock}")).first(&mut tx.db).await?;
        let Some((parent, state)) = ended else { return Ok(0) };
        let damaged = || Error::Damaged { table: "job", id: parent.clone(), what: "its id is none".to_owned() };
        let parent = JobId::parse(&parent).ok_or_else(damaged)?;
        // Index: job_dependency_untold. Those that somebody holds are told at the next look: they may be waiting for this very row.
        let waiting: Vec<(String, i64)> = sql(format!(
            "SELECT j.id, CAST(CASE WHEN j.blocked = 1 AND j.finished_at IS NULL AND j.ending IS NULL THEN 1 ELSE 0 END AS BIGINT) \
             FROM job_dependency d JOIN job j ON j.id = d.job_id WHERE d.parent_id = ? AND d.told = 0 ORDER BY d.job_id LIMIT ?{lock}"
        ))
        .bind(parent.as_str())
        .bind(AT_ONCE)
        .all(&mut tx.db)
        .await?;
        let mut changed = 0;
        for (id, waits) in waiting {
            let Some(id) = JobId::parse(&id) else { continue };
            changed += sql("UPDATE job_dependency SET told = 1 WHERE job_id = ? AND parent_id = ?")
                .bind(id.as_str())
                .bind(parent.as_str())
                .execute(&mut tx.db)
                .await?;
            match waits == 1 {
                true if state == JobState::Completed.name() => go_on(tx, &id).await?,
                true => cancel(tx, &id, &parent, &state).await?,
                // It is over itself, or about to be.
                false => {}
            }
        }
        changed += sql(
            "UPDATE job SET awaited = 0 WHERE id = ? AND NOT EXISTS (SELECT 1 FROM job_dependency WHERE parent_id = job.id AND told = 0)",
        )
        .bind(parent.as_str())
        .execute(&mut tx.db)
        .await?;
        Ok(changed)
    })
}

/// Lets a job be planned, unless it is still to be told of a parent. What it was told before is that its parents completed.
async fn go_on(tx: &mut Tx<'_>, id: &JobId) -> Result<()> {
    sql("UPDATE job SET blocked = 0 WHERE id = ? AND blocked = 1 AND NOT EXISTS (SELECT 1 FROM job_dependency WHERE job_id = job.id AND told = 0)")
        .bind(id.as_str())
        .execute(&mut tx.db)
        .await?;
    tx.ring();
    Ok(())
}

/// Cancels a job of which this parent did not complete.
async fn cancel(tx: &mut Tx<'_>, id: &JobId, parent: &JobId, state: &str) -> Result<()> {
    let mut job = jobs::existing(tx, id).await?;
    let detail = format!("it depends on {parent}, which is {state}");
    let problem = Problem::new("dependency_failed", "A job that this one depends on did not complete", detail);
    jobs::cancel_because(tx, &mut job, &problem).await
}
