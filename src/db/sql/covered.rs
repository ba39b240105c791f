//! What the runs of a schedule covered, block by block.
//!
//! A job says in `covered` how much of what it read is in the record. What it is to say follows from its state, which may change at any
//! moment: a completed job is retried, one that failed again completes after all. So nothing is undone when that happens; before the next run
//! is planned, the jobs of which the record says something else are seen to, those whose change was begun and not ended among them.

use super::{
    Tx,
    driver::{Db, sql},
};
use crate::{
    db::{Error, Result},
    domain::{
        JobId, JobState, ScheduleId,
        covered::{self, Block, Change, Entry, MOST_ENTRIES},
    },
};

/// Blocks that one transaction changes at most: where names are random every block gets some, and nobody is to wait for all of them.
const BLOCKS_AT_ONCE: usize = 100;

/// A job of `job` of which its schedule's record does not say what it should.
pub(super) const IS_DUE: &str = "(only_new > 0 AND (state = 'completed' AND covered < 2 \
                                 OR state IN ('failed', 'cancelled', 'expired') AND covered > 0) \
                                 AND EXISTS (SELECT 1 FROM schedule s WHERE s.id = job.schedule_id))";

/// The block in which an object of this name would be; `None` when the schedule is gone.
pub(super) async fn block_of(db: &mut Db<'_>, schedule: &ScheduleId, name: &str) -> Result<Option<Block>> {
    let block = block(db, schedule, name).await?;
    // Asked last: a record that goes while it is looked at would make all of it new.
    let kept = sql("SELECT 1 FROM schedule WHERE id = ?").bind(schedule.as_str()).exists(db).await?;
    Ok(kept.then_some(block))
}

/// A schedule that has covered nothing has one without entries.
async fn block(db: &mut Db<'_>, schedule: &ScheduleId, name: &str) -> Result<Block> {
    let found: Option<(String, Vec<u8>)> =
        sql("SELECT first, block FROM covered WHERE schedule_id = ? AND first <= ? ORDER BY first DESC LIMIT 1")
            .bind(schedule.as_str())
            .bind(name)
            .first(db)
            .await?;
    let Some((first, bytes)) = found else { return Ok(Block { first: String::new(), end: None, entries: Vec::new() }) };
    let damaged = || Error::Damaged { table: "covered", id: schedule.to_string(), what: format!("the block from {first:?} is none") };
    let entries = covered::decode(&bytes).ok_or_else(damaged)?;
    let end = sql("SELECT first FROM covered WHERE schedule_id = ? AND first > ? ORDER BY first LIMIT 1")
        .bind(schedule.as_str())
        .bind(&first)
        .scalar_or_none(db)
        .await?;
    Ok(Block { first, end, entries })
}

/// Adds entries, which are in the order of their names, or takes them out: of so many blocks as one transaction writes. Returns those that
/// are left. Doing so again changes nothing.
pub(super) async fn change(tx: &mut Tx<'_>, schedule: &ScheduleId, job: &JobId, change: Change, entries: Vec<Entry>) -> Result<Vec<Entry>> {
    // Whoever changes it holds the schedule; of one that is gone nothing is kept.
    let lock = tx.db.for_update();
    if !sql(format!("SELECT 1 FROM schedule WHERE id = ?{lock}")).bind(schedule.as_str()).exists(&mut tx.db).await? {
        return Ok(Vec::new());
    }
    // Whoever dies before all of it is done leaves the job to the next one.
    sql("UPDATE job SET covered = 1 WHERE id = ? AND covered <> 1").bind(job.as_str()).execute(&mut tx.db).await?;
    let mut rest = entries;
    for _ in 0..BLOCKS_AT_ONCE {
        let Some(next) = rest.first() else { break };
        let block = block(&mut tx.db, schedule, &next.name).await?;
        let after = rest.split_off(rest.partition_point(|entry| block.spans(&entry.name)));
        let within = std::mem::replace(&mut rest, after);
        match change {
            Change::Add if within.iter().all(|entry| block.covers(entry)) => {}
            Change::Add => {
                let merged = covered::merge(block.entries, within);
                // Evenly, so that a block that is full does not leave one behind with a single entry.
                let size = merged.len().div_ceil(merged.len().div_ceil(MOST_ENTRIES));
                for (at, entries) in merged.chunks(size).enumerate() {
                    let first = if at == 0 { &block.first } else { &entries[0].name };
                    keep(tx, schedule, first, entries).await?;
                }
            }
            // A block stays without entries as well: the ones beside it begin and end where they did.
            Change::TakeBack => keep(tx, schedule, &block.first, &covered::without(block.entries, &within)).await?,
        }
    }
    Ok(rest)
}

async fn keep(tx: &mut Tx<'_>, schedule: &ScheduleId, first: &str, entries: &[Entry]) -> Result<()> {
    sql("INSERT INTO covered (schedule_id, first, block) VALUES (?, ?, ?) ON CONFLICT (schedule_id, first) DO UPDATE SET block = excluded.block")
        .bind(schedule.as_str())
        .bind(first)
        .bind(covered::encode(entries))
        .execute(&mut tx.db)
        .await
        .map(drop)
}

/// A job of which the record does not say what it should; the oldest.
pub(super) async fn due(db: &mut Db<'_>, schedule: &ScheduleId) -> Result<Option<(JobId, Change)>> {
    // Index: job_to_cover.
    let found: Option<(String, String)> =
        sql(format!("SELECT id, state FROM job WHERE schedule_id = ? AND {IS_DUE} AND purged_at IS NULL ORDER BY id LIMIT 1"))
            .bind(schedule.as_str())
            .first(db)
            .await?;
    let change = |state: &str| if state == JobState::Completed.name() { Change::Add } else { Change::TakeBack };
    Ok(found.and_then(|(id, state)| Some((JobId::parse(&id)?, change(&state)))))
}

/// Also of a job that was taken up again meanwhile: this is what the record says, and what it should say shows when the job has ended.
pub(super) async fn done(tx: &mut Tx<'_>, job: &JobId, change: Change) -> Result<()> {
    let covered: i64 = match change {
        Change::Add => 2,
        Change::TakeBack => 0,
    };
    sql("UPDATE job SET covered = ? WHERE id = ?").bind(covered).bind(job.as_str()).execute(&mut tx.db).await.map(drop)
}
