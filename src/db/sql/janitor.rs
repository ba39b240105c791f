//! Removes jobs that ended long ago, with all that belongs to them.

use std::time::Duration;

use super::{
    Tx, covered,
    driver::{Db, sql},
    micros,
};
use crate::db::Result;

/// A job that ended longer ago than `age`, or whose removal has begun.
pub(super) async fn due(db: &mut Db<'_>, age: Duration, clock_offset_us: i64) -> Result<Option<String>> {
    // Indexes: job_purged, job_finished. The record of a schedule is told by a job's chunks what it read, and
    // those that wait for a job are told by its row what it came to.
    let begun = sql("SELECT id FROM job WHERE purged_at IS NOT NULL LIMIT 1").scalar_or_none(db).await?;
    if begun.is_some() {
        return Ok(begun);
    }
    sql(format!(
        "SELECT id FROM job WHERE finished_at <= {} + ? AND awaited = 0 AND NOT {} ORDER BY finished_at LIMIT 1",
        db.clock(),
        covered::IS_DUE
    ))
    .bind(clock_offset_us - micros(age))
    .scalar_or_none(db)
    .await
}

/// Removes up to `limit` chunks of the job, and the job itself with the last of them. From the first step on nobody sees the job: one that
/// lacks chunks could not be retried. Returns how many rows went. Events, deliveries, labels and keys go with their job.
pub(super) async fn purge(tx: &mut Tx<'_>, job: &str, age: Duration, limit: u32) -> Result<u64> {
    let lock = tx.db.skip_locked();
    let held: Option<i64> =
        sql(format!("SELECT finished_at FROM job WHERE id = ? AND (finished_at <= ? AND awaited = 0 OR purged_at IS NOT NULL){lock}"))
            .bind(job)
            .bind(tx.now - micros(age))
            .scalar_or_none(&mut tx.db)
            .await?;
    if held.is_none() {
        return Ok(0);
    }
    sql("UPDATE job SET purged_at = ? WHERE id = ? AND purged_at IS NULL").bind(tx.now).bind(job).execute(&mut tx.db).await?;
    let chunks = sql("DELETE FROM chunk WHERE job_id = ? AND seq IN (SELECT seq FROM chunk WHERE job_id = ? ORDER BY seq LIMIT ?)")
        .bind(job)
        .bind(job)
        .bind(i64::from(limit))
        .execute(&mut tx.db)
        .await?;
    if chunks == u64::from(limit) {
        return Ok(chunks);
    }
    // Jobs that still wait for others besides this one, or are retried later, know that it completed. Index: job_dependency_parent.
    sql("UPDATE job_dependency SET completed = 1 WHERE parent_id = ? AND EXISTS (SELECT 1 FROM job p WHERE p.id = ? AND p.state = 'completed')")
        .bind(job)
        .bind(job)
        .execute(&mut tx.db)
        .await?;
    let jobs = sql("DELETE FROM job WHERE id = ?").bind(job).execute(&mut tx.db).await?;
    Ok(chunks + jobs)
}
