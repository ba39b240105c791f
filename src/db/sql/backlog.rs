//! How much waits and runs, from the counts that jobs keep.

use std::collections::BTreeMap;

use super::driver::{Db, sql};
use crate::{
    db::{Error, Result},
    domain::{Backlog, JobState},
};

/// Reads job rows alone: of finished ones the index of states, of unfinished ones, which are few, their counters.
pub(super) async fn read(db: &mut Db<'_>, clock_offset_us: i64) -> Result<Backlog> {
    // Index: job_state, which covers it.
    let states: Vec<(String, i64)> = sql("SELECT state, count(*) FROM job GROUP BY state").all(db).await?;
    let mut jobs = BTreeMap::new();
    for (state, count) in states {
        let damaged = || Error::Damaged { table: "job", id: "(several)".to_owned(), what: format!("state is {state:?}") };
        jobs.insert(JobState::parse(&state).ok_or_else(damaged)?, count as u64);
    }
    // Index: job_paused, by its order: counted by state here, as an index of states would be read from end to end. A paused job keeps in its
    // row the state that it had before.
    let paused: Vec<String> = sql("SELECT state FROM job WHERE paused_at IS NOT NULL ORDER BY id").scalars(db).await?;
    for state in paused {
        if let Some(jobs) = JobState::parse(&state).and_then(|state| jobs.get_mut(&state)) {
            *jobs = jobs.saturating_sub(1);
        }
        *jobs.entry(JobState::Paused).or_default() += 1;
    }
    // Index: job_backlog, which covers it.
    let (pending, running, done, oldest): (i64, i64, i64, Option<i64>) = sql(
        "SELECT CAST(COALESCE(sum(pending), 0) AS BIGINT), CAST(COALESCE(sum(running), 0) AS BIGINT), CAST(COALESCE(sum(chunks_done), 0) AS BIGINT), \
                min(CASE WHEN started_at IS NULL AND ending IS NULL AND blocked = 0 AND look_at IS NULL THEN created_at END) \
         FROM job WHERE finished_at IS NULL",
    )
    .only(db).await?;
    let now: i64 = sql(format!("SELECT {}", db.clock())).scalar(db).await?;
    let waited = oldest.map_or(0, |created| (now + clock_offset_us - created).max(0));
    Ok(Backlog {
        jobs,
        pending: pending as u64,
        running: running as u64,
        done: done as u64,
        oldest_waiting_seconds: waited as f64 / 1e6,
        lease_expiries: 0,
    })
}

/// Three looks at the beginning of an index.
pub(super) async fn is_quiet(db: &mut Db<'_>) -> Result<bool> {
    // Indexes: job_backlog, event_to_fan_out, delivery_pending.
    let unfinished: i64 = sql("SELECT (SELECT count(*) FROM (SELECT 1 FROM job WHERE finished_at IS NULL LIMIT 1) AS a) \
              + (SELECT count(*) FROM (SELECT 1 FROM event WHERE fanned_out = 0 LIMIT 1) AS b) \
              + (SELECT count(*) FROM (SELECT 1 FROM webhook_delivery WHERE state = 'pending' LIMIT 1) AS c)")
    .scalar(db)
    .await?;
    Ok(unfinished == 0)
}
