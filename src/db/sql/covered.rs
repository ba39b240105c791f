//! What the runs of a schedule covered, block by block.

use super::{
    Tx,
    driver::{Db, sql},
};
use crate::{
    db::{Error, Result},
    domain::{
        JobId, ScheduleId,
        covered::{self, Block, Entry, MOST_ENTRIES},
    },
};

/// The block in which an object of this name would be. A schedule that has covered nothing has one without entries.
pub(super) async fn block(db: &mut Db<'_>, schedule: &ScheduleId, name: &str) -> Result<Block> {
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

/// Adds entries, which are in the order of their names. Adding them again changes nothing.
pub(super) async fn add(tx: &mut Tx<'_>, schedule: &ScheduleId, entries: Vec<Entry>) -> Result<()> {
    // Whoever adds holds the schedule; of one that is gone nothing is kept.
    let lock = tx.db.for_update();
    if !sql(format!("SELECT 1 FROM schedule WHERE id = ?{lock}")).bind(schedule.as_str()).exists(&mut tx.db).await? {
        return Ok(());
    }
    let mut rest = entries;
    while let Some(next) = rest.first() {
        let block = block(&mut tx.db, schedule, &next.name).await?;
        let after = rest.split_off(rest.partition_point(|entry| block.spans(&entry.name)));
        let merged = covered::merge(block.entries, std::mem::replace(&mut rest, after));
        // Evenly, so that a block that is full does not leave one behind with a single entry.
        let size = merged.len().div_ceil(merged.len().div_ceil(MOST_ENTRIES));
        for (at, entries) in merged.chunks(size).enumerate() {
            let first = if at == 0 { &block.first } else { &entries[0].name };
            sql("INSERT INTO covered (schedule_id, first, block) VALUES (?, ?, ?) \
                 ON CONFLICT (schedule_id, first) DO UPDATE SET block = excluded.block")
            .bind(schedule.as_str())
            .bind(first)
            .bind(covered::encode(entries))
            .execute(&mut tx.db)
            .await?;
        }
    }
    Ok(())
}

/// A completed run whose objects are not in the record yet; the oldest.
pub(super) async fn missing(db: &mut Db<'_>, schedule: &ScheduleId) -> Result<Option<JobId>> {
    // Index: job_of_schedule.
    let found: Option<String> =
        sql("SELECT id FROM job WHERE schedule_id = ? AND only_new = 1 AND state = 'completed' AND purged_at IS NULL ORDER BY id LIMIT 1")
            .bind(schedule.as_str())
            .scalar_or_none(db)
            .await?;
    Ok(found.and_then(|id| JobId::parse(&id)))
}

/// Not of one that was taken up again meanwhile: it is covered when it has ended again.
pub(super) async fn mark(tx: &mut Tx<'_>, job: &JobId) -> Result<()> {
    sql("UPDATE job SET only_new = 2 WHERE id = ? AND only_new = 1 AND state = 'completed'")
        .bind(job.as_str())
        .execute(&mut tx.db)
        .await
        .map(drop)
}
