//! Schedules and their fires.
//!
//! A fire is opened, that is written as a row, in the transaction that moves its schedule's `next_at` past it; the job is made in the one
//! that moves the row from `waiting`. So each fire is there once and makes one job at most, whoever looks at it and however often.

use std::time::Duration;

use futures::future::BoxFuture;

use super::{
    Tx,
    driver::{Db, sql},
    jobs, micros, rows,
    rows::document,
};
use crate::{
    db::{ClaimedRun, Created, Error, NewSchedule, NextFire, Result, RunLease, ScheduleChange, ScheduleFilter, Unmade, Written},
    domain::{
        Fire, JobId, Problem, Run, RunState, Schedule, ScheduleId, Timestamp,
        schedule::{BrokenSchedule, Due, Kept, Overlap},
    },
};

/// Fires of a schedule that are kept at least; older ones go as new ones come.
const KEPT_RUNS: i64 = 10_000;
/// How long a fire waits for the end of a job that it cancelled, before it looks again.
const REPLACE_US: i64 = 500_000;
/// How long a fire waits whose schedule cannot be read, before it looks again.
const BROKEN_US: i64 = 60_000_000;

pub(super) async fn create(tx: &mut Tx<'_>, new: &NewSchedule) -> Result<Schedule> {
    sql("INSERT INTO schedule (id, spec, overlap, next_at, paused_at, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?)")
        .bind(new.id.as_str())
        .bind(document(&new.spec))
        .bind(word(new.spec.overlap))
        .bind(new.next_at.map(|t| t.0))
        .bind(new.paused.then_some(tx.now))
        .bind(tx.now)
        .bind(tx.now)
        .execute(&mut tx.db)
        .await?;
    tx.ring();
    written(tx, &new.id).await
}

fn word(overlap: Overlap) -> &'static str {
    Overlap::WORDS.into_iter().find(|(_, o)| *o == overlap).map_or("skip", |(word, _)| word)
}

pub(super) async fn find(db: &mut Db<'_>, id: &str) -> Result<Option<Kept>> {
    let row = sql(format!("SELECT {} FROM schedule s WHERE s.id = ?", rows::SCHEDULE)).bind(id).row(db).await?;
    row.as_ref().map(rows::kept_schedule).transpose()
}

/// A schedule that an earlier statement of this transaction vouches for.
async fn existing(tx: &mut Tx<'_>, id: &str) -> Result<Kept> {
    let gone = || Error::Damaged { table: "schedule", id: id.to_owned(), what: "it is gone".to_owned() };
    find(&mut tx.db, id).await?.ok_or_else(gone)
}

/// A schedule that this transaction has written.
async fn written(tx: &mut Tx<'_>, id: &ScheduleId) -> Result<Schedule> {
    match existing(tx, id.as_str()).await? {
        Kept::Whole(schedule) => Ok(*schedule),
        Kept::Broken(broken) => Err(Error::Damaged { table: "schedule", id: broken.id, what: broken.why }),
    }
}

pub(super) async fn list(db: &mut Db<'_>, filter: &ScheduleFilter) -> Result<Vec<Kept>> {
    let mut query = sql(format!("SELECT {} FROM schedule s WHERE true", rows::SCHEDULE));
    if let Some(before) = &filter.before {
        query.push(" AND s.id < ?").value(before.as_str());
    }
    query.push(" ORDER BY s.id DESC LIMIT ?").value(i64::from(filter.limit));
    query.rows(db).await?.iter().map(rows::kept_schedule).collect()
}

pub(super) async fn change(tx: &mut Tx<'_>, id: &ScheduleId, revision: u64, change: &ScheduleChange) -> Result<Option<Schedule>> {
    let (moves, next) = match change.next {
        NextFire::Kept => (0, None),
        NextFire::At(next) => (1, next),
    };
    let changed = sql(
        "UPDATE schedule SET spec = ?, overlap = ?, next_at = CASE WHEN ? = 1 THEN ? ELSE next_at END, \
         paused_at = CASE WHEN ? = 1 THEN COALESCE(paused_at, ?) END, revision = revision + 1, updated_at = ? WHERE id = ? AND revision = ?",
    )
    .bind(document(&change.spec))
    .bind(word(change.spec.overlap))
    .bind(i64::from(moves))
    .bind(next.map(|t| t.0))
    .bind(i64::from(change.paused))
    .bind(tx.now)
    .bind(tx.now)
    .bind(id.as_str())
    .bind(revision as i64)
    .execute(&mut tx.db)
    .await?;
    if changed == 0 {
        return Ok(None);
    }
    if change.paused {
        let problem = Problem::new("schedule_paused", "The schedule was paused", "it was paused before the fire had made a job");
        // What a caller asked for by name goes on.
        sql("UPDATE schedule_run SET state = 'skipped', problem = ?, settled_at = ?, lease_until = NULL \
             WHERE schedule_id = ? AND state = 'waiting' AND manual = 0")
        .bind(document(&problem))
        .bind(tx.now)
        .bind(id.as_str())
        .execute(&mut tx.db)
        .await?;
    }
    tx.ring();
    written(tx, id).await.map(Some)
}

pub(super) async fn delete(tx: &mut Tx<'_>, id: &ScheduleId) -> Result<bool> {
    // Its fires and what it covered go with it; its jobs stay.
    if sql("DELETE FROM schedule WHERE id = ?").bind(id.as_str()).execute(&mut tx.db).await? == 0 {
        return Ok(false);
    }
    // Index: job_unfinished_of.
    let unplanned: Vec<String> = sql(
        "SELECT id FROM job WHERE schedule_id = ? AND only_new > 0 AND plan_done = 0 AND finished_at IS NULL AND ending IS NULL ORDER BY id",
    )
    .bind(id.as_str())
    .scalars(&mut tx.db)
    .await?;
    for job in unplanned.iter().filter_map(|id| JobId::parse(id)) {
        jobs::cancel_unplanned(tx, &job, &id.deleted()).await?;
    }
    Ok(true)
}

/// Schedules whose next fire has come.
pub(super) async fn due(db: &mut Db<'_>, clock_offset_us: i64, limit: u32) -> Result<(Timestamp, Vec<Kept>)> {
    let now: i64 = sql(format!("SELECT {}", db.clock())).scalar(db).await?;
    let now = now + clock_offset_us;
    // Index: schedule_due.
    let found = sql(format!(
        "SELECT {} FROM schedule s WHERE s.next_at IS NOT NULL AND s.paused_at IS NULL AND s.next_at <= ? ORDER BY s.next_at LIMIT ?",
        rows::SCHEDULE
    ))
    .bind(now)
    .bind(i64::from(limit))
    .rows(db)
    .await?;
    Ok((Timestamp(now), found.iter().map(rows::kept_schedule).collect::<Result<_>>()?))
}

/// Writes the fires that are due and moves on, unless another node did so, or the schedule was changed, since it was read.
pub(super) async fn open(tx: &mut Tx<'_>, schedule: &Schedule, due: &Due) -> Result<Written> {
    let id = schedule.id.as_str();
    let moved = sql("UPDATE schedule SET next_at = ? WHERE id = ? AND next_at = ? AND revision = ? AND paused_at IS NULL")
        .bind(due.next.map(|t| t.0))
        .bind(id)
        .bind(schedule.next_at.map(|t| t.0))
        .bind(schedule.revision as i64)
        .execute(&mut tx.db)
        .await?;
    if moved == 0 {
        return Ok(Written::Fenced);
    }
    if let Some((first, last)) = due.missed {
        let detail = format!("nobody was there for the fires from {first} to {last}, and catch_up leaves them out");
        let problem = Problem::new("missed", "The service was not there", detail);
        sql("INSERT INTO schedule_run (schedule_id, fire_at, state, problem, due_at, settled_at) VALUES (?, ?, 'skipped', ?, ?, ?) \
             ON CONFLICT DO NOTHING")
        .bind(id)
        .bind(last.0)
        .bind(document(&problem))
        .bind(tx.now)
        .bind(tx.now)
        .execute(&mut tx.db)
        .await?;
    }
    for fire in &due.fires {
        wait(tx, &schedule.id, *fire, false).await?;
    }
    sql("DELETE FROM schedule_run WHERE schedule_id = ? AND state <> 'waiting' AND fire_at < \
         (SELECT fire_at FROM schedule_run WHERE schedule_id = ? ORDER BY fire_at DESC LIMIT 1 OFFSET ?)")
    .bind(id)
    .bind(id)
    .bind(KEPT_RUNS)
    .execute(&mut tx.db)
    .await?;
    tx.ring();
    Ok(Written::Done)
}

async fn wait(tx: &mut Tx<'_>, schedule: &ScheduleId, fire: Timestamp, manual: bool) -> Result<()> {
    // A caller may have asked for a run at this very moment.
    sql("INSERT INTO schedule_run (schedule_id, fire_at, manual, state, due_at) VALUES (?, ?, ?, 'waiting', ?) ON CONFLICT DO NOTHING")
        .bind(schedule.as_str())
        .bind(fire.0)
        .bind(i64::from(manual))
        .bind(tx.now)
        .execute(&mut tx.db)
        .await
        .map(drop)
}

pub(super) async fn run_now(tx: &mut Tx<'_>, id: &ScheduleId) -> Result<Option<Run>> {
    let lock = tx.db.for_update();
    if !sql(format!("SELECT 1 FROM schedule WHERE id = ?{lock}")).bind(id.as_str()).exists(&mut tx.db).await? {
        return Ok(None);
    }
    let now = Timestamp(tx.now);
    wait(tx, id, now, true).await?;
    tx.ring();
    let row = sql(format!("SELECT {} FROM schedule_run r WHERE r.schedule_id = ? AND r.fire_at = ?", rows::RUN))
        .bind(id.as_str())
        .bind(now.0)
        .row(&mut tx.db)
        .await?;
    row.as_ref().map(rows::run).transpose()
}

pub(super) async fn runs(db: &mut Db<'_>, id: &ScheduleId, before: Option<Timestamp>, limit: u32) -> Result<Vec<Run>> {
    let mut query = sql(format!("SELECT {} FROM schedule_run r WHERE r.schedule_id = ?", rows::RUN)).bind(id.as_str());
    if let Some(before) = before {
        query.push(" AND r.fire_at < ?").value(before.0);
    }
    query.push(" ORDER BY r.fire_at DESC LIMIT ?").value(i64::from(limit));
    query.rows(db).await?.iter().map(rows::run).collect()
}

/// Takes the oldest fire that waits, of a schedule none of whose earlier ones does, and of none of whose fires the job is being made. While
/// a job of the schedule is not over, its policy decides: the fire is skipped, or is left to wait, or that job is cancelled first.
pub(super) fn claim<'t>(tx: &'t mut Tx<'_>, ttl: Duration) -> BoxFuture<'t, Result<Option<ClaimedRun>>> {
    Box::pin(async move {
        loop {
            // Index: schedule_run_waiting. The schedule's row is held as well: fires of one schedule are taken one at a time.
            let found: Option<(String, i64)> = sql(format!(
                "SELECT r.schedule_id, r.fire_at FROM schedule_run r JOIN schedule s ON s.id = r.schedule_id \
                 WHERE r.state = 'waiting' AND r.due_at <= ? AND (r.lease_until IS NULL OR r.lease_until <= ?) \
                 AND NOT EXISTS (SELECT 1 FROM schedule_run e WHERE e.schedule_id = r.schedule_id AND e.state = 'waiting' AND e.fire_at < r.fire_at) \
                 AND NOT EXISTS (SELECT 1 FROM schedule_run e WHERE e.schedule_id = r.schedule_id AND e.state = 'waiting' AND e.lease_until > ?) \
                 AND (s.overlap <> 'queue' OR (SELECT 1 FROM job j WHERE j.schedule_id = r.schedule_id AND j.finished_at IS NULL LIMIT 1) IS NULL) \
                 ORDER BY r.due_at, r.fire_at LIMIT 1{}",
                tx.db.skip_locked()
            ))
            .bind(tx.now)
            .bind(tx.now)
            .bind(tx.now)
            .first(&mut tx.db)
            .await?;
            let Some((id, fire_at)) = found else { return Ok(None) };
            let schedule = match existing(tx, &id).await? {
                Kept::Whole(schedule) => *schedule,
                Kept::Broken(broken) => {
                    put_off(tx, &broken, fire_at).await?;
                    continue;
                }
            };
            // Asked again now that the schedule is held: another node may have taken one between the look and the lock.
            if is_being_made(tx, &schedule.id).await? {
                continue;
            }
            let open = unfinished(tx, &schedule.id).await?;
            let lease = RunLease { schedule: schedule.id.clone(), fire_time: Timestamp(fire_at), epoch: 0 };
            match (open.first(), schedule.spec.overlap) {
                (None, _) => return take(tx, lease, schedule, ttl).await.map(Some),
                (Some(job), Overlap::Skip) => skip(tx, &lease, job).await?,
                (Some(_), Overlap::Queue) => return Ok(None),
                (Some(_), Overlap::Replace) => {
                    for job in &open {
                        jobs::cancel(tx, job).await?;
                    }
                    sql("UPDATE schedule_run SET due_at = ? WHERE schedule_id = ? AND fire_at = ?")
                        .bind(tx.now + REPLACE_US)
                        .bind(&id)
                        .bind(fire_at)
                        .execute(&mut tx.db)
                        .await?;
                }
            }
        }
    })
}

/// Lets a fire wait whose schedule cannot be read: another node may know how to, and who mends it has the fire.
async fn put_off(tx: &mut Tx<'_>, schedule: &BrokenSchedule, fire_at: i64) -> Result<()> {
    let problem = schedule.problem();
    tracing::error!(schedule.id = schedule.id, "a fire of {} waits: {}", schedule.id, problem.detail);
    sql("UPDATE schedule_run SET due_at = ?, problem = ? WHERE schedule_id = ? AND fire_at = ?")
        .bind(tx.now + BROKEN_US)
        .bind(document(&problem))
        .bind(&schedule.id)
        .bind(fire_at)
        .execute(&mut tx.db)
        .await
        .map(drop)
}

/// Whether a node is at making the job of a fire of this schedule.
async fn is_being_made(tx: &mut Tx<'_>, schedule: &ScheduleId) -> Result<bool> {
    // Index: schedule_run_waiting.
    sql("SELECT 1 FROM schedule_run WHERE schedule_id = ? AND state = 'waiting' AND lease_until > ?")
        .bind(schedule.as_str())
        .bind(tx.now)
        .exists(&mut tx.db)
        .await
}

/// The jobs of a schedule that are not over.
pub(super) async fn unfinished(tx: &mut Tx<'_>, schedule: &ScheduleId) -> Result<Vec<JobId>> {
    // Index: job_unfinished_of.
    let open: Vec<String> = sql("SELECT id FROM job WHERE schedule_id = ? AND finished_at IS NULL ORDER BY id")
        .bind(schedule.as_str())
        .scalars(&mut tx.db)
        .await?;
    Ok(open.iter().filter_map(|id| JobId::parse(id)).collect())
}

async fn skip(tx: &mut Tx<'_>, lease: &RunLease, job: &JobId) -> Result<()> {
    let detail = format!("{job} of the same schedule was not over, and overlap is \"skip\"");
    let problem = Problem::new("overlap", "An earlier job was still running", detail);
    end(tx, lease, &Unmade { state: RunState::Skipped, problem }, false).await.map(drop)
}

async fn take(tx: &mut Tx<'_>, lease: RunLease, schedule: Schedule, ttl: Duration) -> Result<ClaimedRun> {
    let row = sql(format!(
        "UPDATE schedule_run AS r SET lease_epoch = lease_epoch + 1, lease_until = ? WHERE r.schedule_id = ? AND r.fire_at = ? \
         RETURNING {}, lease_epoch",
        rows::RUN_RETURNED
    ))
    .bind(tx.now + micros(ttl))
    .bind(lease.schedule.as_str())
    .bind(lease.fire_time.0)
    .row(&mut tx.db)
    .await?
    .ok_or(Error::Unavailable(sqlx::Error::RowNotFound))?;
    let epoch = row.get("lease_epoch").map_err(Error::Unavailable)?;
    Ok(ClaimedRun { run: rows::run(&row)?, lease: RunLease { epoch, ..lease }, schedule })
}

pub(super) async fn renew(tx: &mut Tx<'_>, lease: &RunLease, ttl: Duration) -> Result<Written> {
    let done =
        sql("UPDATE schedule_run SET lease_until = ? WHERE schedule_id = ? AND fire_at = ? AND state = 'waiting' AND lease_epoch = ?")
            .bind(tx.now + micros(ttl))
            .bind(lease.schedule.as_str())
            .bind(lease.fire_time.0)
            .bind(lease.epoch)
            .execute(&mut tx.db)
            .await?;
    Ok(Written::by(done))
}

/// What stands against making the job of a fire: that it is made, or that another of the schedule is not over. Holds the fire.
pub(super) async fn instead(tx: &mut Tx<'_>, fire: &Fire) -> Result<Option<Created>> {
    let lock = tx.db.for_update();
    let found: Option<(String, Option<String>)> =
        sql(format!("SELECT state, job_id FROM schedule_run WHERE schedule_id = ? AND fire_at = ?{lock}"))
            .bind(fire.schedule.as_str())
            .bind(fire.time.0)
            .first(&mut tx.db)
            .await?;
    match found {
        // A job that was retried since the fire was claimed is not over again; or the lease was lost, and another fire has made a job.
        Some((state, _)) if state == RunState::Waiting.name() => {
            let open = unfinished(tx, &fire.schedule).await?;
            Ok(open.into_iter().next().map(|by| Created::Overlaps { by }))
        }
        Some((_, Some(job))) => {
            let id = JobId::parse(&job);
            let job = match &id {
                Some(id) => jobs::find(&mut tx.db, id).await?,
                None => None,
            };
            Ok(Some(job.map_or(Created::Settled, |job| Created::Replay(Box::new(job)))))
        }
        _ => Ok(Some(Created::Settled)),
    }
}

/// Says in the transaction that makes it that the fire has its job.
pub(super) async fn started(tx: &mut Tx<'_>, fire: &Fire, job: &JobId) -> Result<()> {
    sql("UPDATE schedule_run SET state = 'started', job_id = ?, problem = NULL, settled_at = ?, lease_until = NULL \
         WHERE schedule_id = ? AND fire_at = ?")
    .bind(job.as_str())
    .bind(tx.now)
    .bind(fire.schedule.as_str())
    .bind(fire.time.0)
    .execute(&mut tx.db)
    .await?;
    sql("UPDATE job SET schedule_id = ?, fire_at = ?, only_new = ? WHERE id = ?")
        .bind(fire.schedule.as_str())
        .bind(fire.time.0)
        .bind(i64::from(fire.only_new))
        .bind(job.as_str())
        .execute(&mut tx.db)
        .await
        .map(drop)
}

pub(super) async fn settle(tx: &mut Tx<'_>, lease: &RunLease, unmade: &Unmade) -> Result<Written> {
    end(tx, lease, unmade, true).await
}

async fn end(tx: &mut Tx<'_>, lease: &RunLease, unmade: &Unmade, leased: bool) -> Result<Written> {
    let done = sql("UPDATE schedule_run SET state = ?, problem = ?, settled_at = ?, lease_until = NULL \
         WHERE schedule_id = ? AND fire_at = ? AND state = 'waiting' AND (? = 0 OR lease_epoch = ?)")
    .bind(unmade.state.name())
    .bind(document(&unmade.problem))
    .bind(tx.now)
    .bind(lease.schedule.as_str())
    .bind(lease.fire_time.0)
    .bind(i64::from(leased))
    .bind(lease.epoch)
    .execute(&mut tx.db)
    .await?;
    tx.ring();
    Ok(Written::by(done))
}

/// Gives a fire back, to be tried again after a while; with a problem it counts as an attempt. A renewal that is still under way comes
/// too late, by the epoch.
pub(super) async fn delay(tx: &mut Tx<'_>, lease: &RunLease, problem: Option<&Problem>, delay: Duration) -> Result<Written> {
    let done = sql("UPDATE schedule_run SET problem = COALESCE(?, problem), attempts = attempts + ?, due_at = ?, lease_until = NULL, \
         lease_epoch = lease_epoch + 1 WHERE schedule_id = ? AND fire_at = ? AND state = 'waiting' AND lease_epoch = ?")
    .bind(problem.map(document))
    .bind(i64::from(problem.is_some()))
    .bind(tx.now + micros(delay))
    .bind(lease.schedule.as_str())
    .bind(lease.fire_time.0)
    .bind(lease.epoch)
    .execute(&mut tx.db)
    .await?;
    Ok(Written::by(done))
}

pub(super) async fn release_all(tx: &mut Tx<'_>) -> Result<()> {
    sql("UPDATE schedule_run SET lease_until = NULL WHERE state = 'waiting'").execute(&mut tx.db).await.map(drop)
}
