//! Jobs that wait for an object, or for other jobs.

use std::time::Duration;

use futures::future::BoxFuture;

use super::{Tx, driver::sql, jobs};
use crate::{
    db::{JobLease, Result, Written},
    domain::{Job, JobId, JobSpec, Problem, Timestamp},
};

/// Jobs looked at in one transaction.
const AT_ONCE: i64 = 100;

/// Lets a job wait that is new, or that is retried from its beginning.
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
        sql("INSERT INTO job_dependency (job_id, parent_id) VALUES (?, ?) ON CONFLICT DO NOTHING")
            .bind(id.as_str())
            .bind(parent.as_str())
            .execute(&mut tx.db)
            .await?;
    }
    Ok(())
}

/// Leases a job whose object is to be looked for now.
pub(super) async fn claim(tx: &mut Tx<'_>, worker: &str, ttl: Duration) -> Result<Option<(JobLease, Job)>> {
    // Index: job_to_look.
    let found: Option<String> = sql(format!(
        "SELECT id FROM job WHERE look_at IS NOT NULL AND finished_at IS NULL AND look_at <= ? AND blocked = 0 AND paused_at IS NULL \
         AND ending IS NULL AND (lease_until IS NULL OR lease_until <= ?) ORDER BY look_at LIMIT 1{}",
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
    Ok(if done == 1 { Written::Done } else { Written::Fenced })
}

/// Lets jobs go on whose parents have all completed, and cancels those of which one came to something else. Safe at any moment and on
/// every node at once; how many it changed.
pub(super) fn settle<'t>(tx: &'t mut Tx<'_>) -> BoxFuture<'t, Result<u64>> {
    const PARENTS: &str = "SELECT d.parent_id FROM job_dependency d LEFT JOIN job p ON p.id = d.parent_id WHERE d.job_id = j.id";
    const BROKEN: &str = "d.completed = 0 AND (p.id IS NULL OR p.state IN ('failed', 'cancelled', 'expired'))";
    const OPEN: &str = "d.completed = 0 AND (p.id IS NULL OR p.state <> 'completed')";
    Box::pin(async move {
        // Index: job_blocked.
        let found: Vec<(String, Option<String>)> = sql(format!(
            "SELECT j.id, ({PARENTS} AND {BROKEN} ORDER BY d.parent_id LIMIT 1) FROM job j \
             WHERE j.blocked = 1 AND j.finished_at IS NULL AND j.ending IS NULL \
             AND (EXISTS ({PARENTS} AND {BROKEN}) OR NOT EXISTS ({PARENTS} AND {OPEN})) \
             ORDER BY j.id LIMIT ?{}",
            tx.db.skip_locked()
        ))
        .bind(AT_ONCE)
        .all(&mut tx.db)
        .await?;
        let mut changed = 0;
        for (id, broken) in found {
            let Some(id) = JobId::parse(&id) else { continue };
            match broken {
                None => {
                    sql("UPDATE job SET blocked = 0 WHERE id = ?").bind(id.as_str()).execute(&mut tx.db).await?;
                }
                Some(parent) => cancel(tx, &id, &parent).await?,
            }
            changed += 1;
            tx.ring();
        }
        Ok(changed)
    })
}

async fn cancel(tx: &mut Tx<'_>, id: &JobId, parent: &str) -> Result<()> {
    let mut job = jobs::existing(tx, id).await?;
    let state = match JobId::parse(parent) {
        Some(parent) => jobs::find(&mut tx.db, &parent).await?.map_or("gone", |parent| parent.state.name()),
        None => "gone",
    };
    let detail = format!("it depends on {parent}, which is {state}");
    let problem = Problem::new("dependency_failed", "A job that this one depends on did not complete", detail);
    jobs::cancel_because(tx, &mut job, &problem).await
}
