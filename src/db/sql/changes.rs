//! What followers of jobs hear: state changes in the order in which they become visible, and how far jobs are.
//!
//! A change is kept aside while its transaction goes on and is written as the last thing that it does, by one transaction at a time. So
//! no number becomes visible after a higher one: whoever asks for what comes after the last that he saw misses nothing. A sequence alone
//! would not do in PostgreSQL, where it is drawn from before the commit and in another order.

use super::{
    Tx, Work,
    driver::{Db, sql},
    rows::{self, document},
};
use crate::{
    db::{Followed, Result},
    domain::{JobId, Progress, StateChange},
};

/// Does the work of a transaction, then writes the changes that came of it.
pub(super) async fn finished<T>(tx: &mut Tx<'_>, work: impl Work<T>) -> Result<T> {
    let value = work(tx).await?;
    if tx.changes.is_empty() {
        return Ok(value);
    }
    tx.db.number_changes_alone().await?;
    for job in std::mem::take(&mut tx.changes) {
        // The job's row is this transaction's own: the foreign key waits for nobody.
        sql("INSERT INTO state_change (job_id, data, at) VALUES (?, ?, ?)")
            .bind(job.id.as_str())
            .bind(document(&job))
            .bind(tx.now)
            .execute(&mut tx.db)
            .await?;
    }
    Ok(value)
}

pub(super) async fn list(db: &mut Db<'_>, job: Option<&JobId>, after: i64, limit: u32) -> Result<Vec<StateChange>> {
    // Indexes: state_change_of_job, the primary key.
    let mut query = sql("SELECT seq, data, at FROM state_change WHERE seq > ?").bind(after);
    if let Some(job) = job {
        query.push(" AND job_id = ?").value(job.as_str());
    }
    query.push(" ORDER BY seq LIMIT ?").value(i64::from(limit));
    query.rows(db).await?.iter().map(rows::state_change).collect()
}

pub(super) async fn last(db: &mut Db<'_>) -> Result<i64> {
    sql("SELECT COALESCE(MAX(seq), 0) FROM state_change").scalar(db).await
}

pub(super) async fn progress(db: &mut Db<'_>, of: &Followed) -> Result<Vec<Progress>> {
    let mut query = sql(format!("SELECT {} FROM job WHERE purged_at IS NULL", rows::PROGRESS));
    match of {
        Followed::Jobs(jobs) if jobs.is_empty() => return Ok(Vec::new()),
        Followed::Jobs(jobs) => {
            query.push(" AND id IN (");
            for (at, job) in jobs.iter().enumerate() {
                query.push(if at == 0 { "?" } else { ", ?" }).value(job.as_str());
            }
            query.push(")");
        }
        // Index: job_started.
        Followed::Running(most) => {
            query.push(" AND finished_at IS NULL AND started_at IS NOT NULL ORDER BY id DESC LIMIT ?").value(i64::from(*most));
        }
    }
    query.rows(db).await?.iter().map(rows::progress).collect()
}
