//! Jobs: acceptance, planning, endings.

use futures::future::BoxFuture;
use std::time::Duration;

use super::{
    Tx, costs,
    driver::{Db, sql},
    keys, micros, rows,
    rows::document,
    schedules, waits, webhooks,
};
use crate::{
    db::{Changed, Created, Error, JobFilter, JobLease, NewJob, Result, Written},
    domain::{
        Compared, EventKind, Fire, Job, JobEvent, JobId, JobState, ObjectSlice, Problem, Timestamp, Uri,
        chunk::Usage,
        delivery::JobSnapshot,
        job::{Conflict, Ending, PlanCursor},
        spec::OutputSpec,
    },
};

/// An id is made on the machine that accepts a job, before the database's clock says when that was: they lie no further apart.
const ID_SLACK_US: i64 = 3_600_000_000;

/// Which jobs a planner may take, if nobody has the lease. Index: job_to_plan.
pub(super) const TO_PLAN: &str =
    "finished_at IS NULL AND plan_done = 0 AND paused_at IS NULL AND blocked = 0 AND look_at IS NULL AND ending IS NULL";

/// Why a job of which no record got a prediction failed.
pub(super) const ALL_RECORDS_FAILED: &str = "all_records_failed";
/// Why a job of which too many records failed did.
pub(super) const POLICY_VIOLATED: &str = "error_policy_violated";

pub(super) async fn create(tx: &mut Tx<'_>, new: &NewJob) -> Result<Created> {
    tx.db.claim_outputs_alone().await?;
    if let Some(job) = find(&mut tx.db, &new.id).await? {
        return Ok(Created::Job(Box::new(job)));
    }
    if let Some(fire) = &new.fire
        && let Some(instead) = schedules::instead(tx, fire).await?
    {
        return Ok(instead);
    }
    // Before the output: a job that is repeated has it claimed itself.
    if let Some(key) = &new.key
        && let Some(known) = keys::find(&mut tx.db, key).await?
    {
        return Ok(known);
    }
    let output = new.spec.output.uri.as_prefix().to_string();
    let review = new.spec.output.review.as_ref().map(|review| review.uri.as_prefix().to_string());
    if let Some((by, uri)) = claimant(&mut tx.db, &new.spec.output).await? {
        return Ok(Created::OutputClaimed { by, uri });
    }
    let execution = &new.spec.execution;
    let deadline = execution.deadline_seconds.map(|s| tx.now.saturating_add(i64::try_from(s).unwrap_or(i64::MAX / 2_000_000) * 1_000_000));
    sql("INSERT INTO job (id, spec, model, pipeline, labels, output, review, state, priority, max_parallel, deadline_at, plan, usage, \
         created_at, trace) VALUES (?, ?, ?, ?, ?, ?, ?, 'queued', ?, ?, ?, ?, ?, ?, ?)")
    .bind(new.id.as_str())
    .bind(document(&new.spec))
    .bind(document(&new.model))
    .bind(document(&new.pipeline))
    .bind(document(&new.spec.labels))
    .bind(output)
    .bind(review)
    .bind(execution.priority)
    .bind(execution.max_parallel_chunks)
    .bind(deadline)
    .bind(document(&PlanCursor::default()))
    .bind(document(&Usage::default()))
    .bind(tx.now)
    .bind(new.trace.map(|trace| trace.to_string()))
    .execute(&mut tx.db)
    .await?;
    for (key, value) in &new.spec.labels {
        sql("INSERT INTO job_label (key, value, job_id) VALUES (?, ?, ?)")
            .bind(key)
            .bind(value)
            .bind(new.id.as_str())
            .execute(&mut tx.db)
            .await?;
    }
    if let Some(key) = &new.key {
        keys::keep(tx, key, &new.id).await?;
    }
    if let Some(fire) = &new.fire {
        schedules::started(tx, fire, &new.id).await?;
    }
    tx.ring();
    let job = existing(tx, &new.id).await?;
    tx.changes.push(JobSnapshot::of(&job));
    waits::begin(tx, &new.id, &new.spec).await?;
    existing(tx, &new.id).await.map(|job| Created::Job(Box::new(job)))
}

/// The unfinished job whose output or review prefix is one of these, above it, or below it.
pub(super) async fn claimant(db: &mut Db<'_>, output: &OutputSpec) -> Result<Option<(JobId, Uri)>> {
    let review = output.review.as_ref().map(|review| &review.uri);
    for prefix in std::iter::once(&output.uri).chain(review) {
        for column in ["output", "review"] {
            if let Some(found) = claimant_of(db, column, &prefix.as_prefix().to_string()).await? {
                return Ok(Some(found));
            }
        }
    }
    Ok(None)
}

/// Index look-ups, one for each kind: the prefixes above are few and known, and those below are one range of `job_output` or `job_review`.
async fn claimant_of(db: &mut Db<'_>, column: &str, output: &str) -> Result<Option<(JobId, Uri)>> {
    let root = output.find("://").map_or(0, |at| at + 3);
    let above = output.char_indices().filter(|(at, c)| *c == '/' && *at >= root).map(|(at, _)| &output[..=at]);
    let claimed = || sql(format!("SELECT id, {column} FROM job WHERE finished_at IS NULL AND {column} IS NOT NULL AND {column}"));
    let mut query = claimed();
    for (at, prefix) in above.enumerate() {
        query.push(if at == 0 { " IN (?" } else { ", ?" }).value(prefix);
    }
    query.push(") LIMIT 1");
    let mut found: Option<(String, String)> = query.first(db).await?;
    if found.is_none() {
        // U+10FFFF sorts after every character that a key can go on with.
        let mut query = claimed();
        query.push(&format!(" >= ? AND {column} < ? LIMIT 1")).value(output).value(format!("{output}\u{10FFFF}"));
        found = query.first(db).await?;
    }
    let Some((id, uri)) = found else { return Ok(None) };
    let damaged = |what: &str| Error::Damaged { table: "job", id: id.clone(), what: what.to_owned() };
    let by = JobId::parse(&id).ok_or_else(|| damaged("its id is none"))?;
    let uri = Uri::parse(&uri).map_err(|e| damaged(&e.to_string()))?;
    Ok(Some((by, uri)))
}

pub(super) async fn find(db: &mut Db<'_>, id: &JobId) -> Result<Option<Job>> {
    Ok(versioned(db, id).await?.map(|(job, _)| job))
}

/// A job, and what [`version`] tells of it.
pub(super) async fn versioned(db: &mut Db<'_>, id: &JobId) -> Result<Option<(Job, Option<i64>)>> {
    read(db, id, "").await
}

/// The transaction that wrote the job's row as it is; `None` where the database does not tell.
pub(super) async fn version(db: &mut Db<'_>, id: &JobId) -> Result<Option<i64>> {
    let version = db.row_version();
    Ok(sql(format!("SELECT {version} FROM job WHERE id = ?")).bind(id.as_str()).scalar_or_none::<Option<i64>>(db).await?.flatten())
}

async fn read(db: &mut Db<'_>, id: &JobId, lock: &str) -> Result<Option<(Job, Option<i64>)>> {
    let version = db.row_version();
    let row = sql(format!("SELECT {}, {version} AS version FROM job WHERE id = ? AND purged_at IS NULL{lock}", rows::JOB));
    let Some(row) = row.bind(id.as_str()).row(db).await? else { return Ok(None) };
    Ok(Some((rows::job(&row)?, row.get("version").map_err(Error::Unavailable)?)))
}

/// Holds a job's row until the end of the transaction: whoever changes a job, or a chunk of it, does so first.
pub(super) async fn hold(tx: &mut Tx<'_>, id: &JobId) -> Result<()> {
    let lock = tx.db.for_update();
    if lock.is_empty() {
        return Ok(());
    }
    sql(format!("SELECT 1 FROM job WHERE id = ?{lock}")).bind(id.as_str()).row(&mut tx.db).await.map(drop)
}

/// A job that is to be changed.
pub(super) async fn take(tx: &mut Tx<'_>, id: &JobId) -> Result<Option<Job>> {
    let lock = tx.db.for_update();
    Ok(read(&mut tx.db, id, lock).await?.map(|(job, _)| job))
}

pub(super) async fn list(db: &mut Db<'_>, filter: &JobFilter) -> Result<Vec<Job>> {
    let mut query = sql(format!("SELECT {} FROM job WHERE purged_at IS NULL", rows::JOB));
    match filter.state {
        Some(JobState::Paused) => drop(query.push(" AND paused_at IS NOT NULL")),
        Some(state) => drop(query.push(" AND paused_at IS NULL AND state = ?").value(state.name())),
        None => {}
    }
    // Ids begin with the time at which they were made: they bound what is looked at, whatever index is used.
    if let Some(after) = filter.created_after {
        let lowest = JobId::lowest_at(Timestamp(after.0.saturating_sub(ID_SLACK_US)));
        query.push(" AND created_at > ? AND id > ?").value(after.0).value(lowest.as_str());
    }
    if let Some(before) = filter.created_before {
        let lowest = JobId::lowest_at(Timestamp(before.0.saturating_add(ID_SLACK_US)));
        query.push(" AND created_at < ? AND id < ?").value(before.0).value(lowest.as_str());
    }
    if let Some(before) = &filter.before {
        query.push(" AND id < ?").value(before.as_str());
    }
    if let Some(schedule) = &filter.schedule {
        // Index: job_of_schedule.
        query.push(" AND schedule_id = ?").value(schedule.as_str());
    }
    for (key, value) in &filter.labels {
        // Index: the table's own, by which the jobs of a rare label are found without looking at the others.
        query.push(" AND id IN (SELECT job_id FROM job_label WHERE key = ? AND value = ?)").value(key).value(value);
    }
    query.push(" ORDER BY id DESC LIMIT ?").value(i64::from(filter.limit));
    query.rows(db).await?.iter().map(rows::job).collect()
}

/// A job that a foreign key or an earlier statement of this transaction vouches for.
pub(super) async fn existing(tx: &mut Tx<'_>, id: &JobId) -> Result<Job> {
    let gone = || Error::Damaged { table: "job", id: id.to_string(), what: "it is gone".to_owned() };
    find(&mut tx.db, id).await?.ok_or_else(gone)
}

/// Moves a job to the state that follows from the event. A state that is told becomes an event in the same transaction; the time in
/// which the job was paused or over is added up as it ends.
pub(super) async fn apply(tx: &mut Tx<'_>, job: &mut Job, event: JobEvent) -> std::result::Result<Result<()>, Conflict> {
    let next = job.state.next(event)?;
    if next == job.state {
        return Ok(Ok(()));
    }
    let kept = (next != JobState::Paused).then(|| next.name().to_owned());
    let moved = sql("UPDATE job SET state = COALESCE(?, state), paused_at = ?, finished_at = ?, \
         idle = idle + CASE WHEN started_at IS NULL THEN 0 ELSE ? - COALESCE(paused_at, finished_at, ?) END WHERE id = ?")
    .bind(kept)
    .bind((next == JobState::Paused).then_some(tx.now))
    .bind(next.is_final().then_some(tx.now))
    .bind(tx.now)
    .bind(tx.now)
    .bind(job.id.as_str())
    .execute(&mut tx.db)
    .await;
    tx.ring();
    job.state = next;
    if let Err(error) = moved {
        return Ok(Err(error));
    }
    match existing(tx, &job.id).await {
        Ok(job) => tx.changes.push(JobSnapshot::of(&job)),
        Err(error) => return Ok(Err(error)),
    }
    match EventKind::of_state(next) {
        Some(kind) => Ok(webhooks::announce(tx, &job.id, kind).await),
        None => Ok(Ok(())),
    }
}

/// Decides how a job ends: no chunk of it will be claimed any more, and those that wait are cancelled.
pub(super) async fn end(tx: &mut Tx<'_>, job: &mut Job, ending: Ending, error: Option<&Problem>) -> Result<()> {
    sql("UPDATE job SET ending = ?, error = COALESCE(error, ?), pending = 0, lease_epoch = lease_epoch + 1, lease_until = NULL WHERE id = ?")
        .bind(ending.name())
        .bind(error.map(document))
        .bind(job.id.as_str())
        .execute(&mut tx.db).await?;
    sql("UPDATE chunk SET state = 'cancelled', finished_at = ? WHERE job_id = ? AND state = 'pending'")
        .bind(tx.now)
        .bind(job.id.as_str())
        .execute(&mut tx.db)
        .await?;
    job.ending = Some(ending);
    Ok(())
}

pub(super) async fn cancel(tx: &mut Tx<'_>, id: &JobId) -> Result<Changed> {
    let Some(mut job) = take(tx, id).await? else { return Ok(Changed::Missing) };
    let first = job.state != JobState::Cancelling;
    match apply(tx, &mut job, JobEvent::CancelRequested).await {
        Err(conflict) => return Ok(Changed::Conflict(conflict)),
        Ok(moved) => moved?,
    }
    if first {
        end(tx, &mut job, Ending::Cancelled, None).await?;
    }
    existing(tx, id).await.map(|job| Changed::Job(Box::new(job)))
}

/// Cancels a job for a reason, unless its input is listed to the end, or it is ending already.
pub(super) async fn cancel_unplanned(tx: &mut Tx<'_>, id: &JobId, why: &Problem) -> Result<()> {
    let Some(mut job) = take(tx, id).await?.filter(|job| !job.plan.done && job.ending.is_none()) else { return Ok(()) };
    cancel_because(tx, &mut job, why).await
}

/// Cancels a job for a reason, if it can be cancelled.
pub(super) async fn cancel_because(tx: &mut Tx<'_>, job: &mut Job, why: &Problem) -> Result<()> {
    match apply(tx, job, JobEvent::CancelRequested).await {
        Err(_over_already) => Ok(()),
        Ok(moved) => {
            moved?;
            end(tx, job, Ending::Cancelled, Some(why)).await
        }
    }
}

pub(super) fn expire<'t>(tx: &'t mut Tx<'_>) -> BoxFuture<'t, Result<Vec<JobId>>> {
    Box::pin(async move {
        // Index: job_deadline.
        let late: Vec<String> = sql(format!(
            "SELECT id FROM job WHERE finished_at IS NULL AND deadline_at IS NOT NULL AND deadline_at <= ? AND ending IS NULL LIMIT 100{}",
            tx.db.skip_locked()
        ))
        .bind(tx.now)
        .scalars(&mut tx.db)
        .await?;
        let mut expired = Vec::new();
        for id in late.iter().filter_map(|id| JobId::parse(id)) {
            let mut job = existing(tx, &id).await?;
            let Ok(moved) = apply(tx, &mut job, JobEvent::DeadlinePassed).await else { continue };
            moved?;
            let limit = job.spec.execution.deadline_seconds.unwrap_or_default();
            let problem = Problem::new(
                "deadline_passed",
                "The job's deadline passed",
                format!("it was not done {limit} s after it was accepted or last retried"),
            );
            end(tx, &mut job, Ending::Expired, Some(&problem)).await?;
            expired.push(id);
        }
        Ok(expired)
    })
}

/// Breaks a job that can still break; one that is ending already stays as it is.
pub(super) async fn break_job(tx: &mut Tx<'_>, id: &JobId, problem: &Problem) -> Result<()> {
    let Some(mut job) = take(tx, id).await? else { return Ok(()) };
    match apply(tx, &mut job, JobEvent::Broke).await {
        Err(_ending_already) => Ok(()),
        Ok(moved) => {
            moved?;
            end(tx, &mut job, Ending::Failed, Some(problem)).await
        }
    }
}

// ---- Leases ------------------------------------------------------------------------------------------------------------------

/// Takes the lease on a job; the epoch fences off whoever held it before.
pub(super) async fn lease(tx: &mut Tx<'_>, id: &str, worker: &str, ttl: Duration) -> Result<JobLease> {
    let epoch: i64 =
        sql("UPDATE job SET lease_epoch = lease_epoch + 1, lease_until = ?, lease_worker = ? WHERE id = ? RETURNING lease_epoch")
            .bind(tx.now + micros(ttl))
            .bind(worker)
            .bind(id)
            .scalar(&mut tx.db)
            .await?;
    let job = JobId::parse(id).ok_or_else(|| Error::Damaged { table: "job", id: id.to_owned(), what: "its id is none".to_owned() })?;
    Ok(JobLease { job, epoch })
}

/// Whether the lease is still the caller's.
pub(super) async fn holds(tx: &mut Tx<'_>, lease: &JobLease) -> Result<bool> {
    sql("SELECT 1 FROM job WHERE id = ? AND lease_epoch = ? AND finished_at IS NULL")
        .bind(lease.job.as_str())
        .bind(lease.epoch)
        .exists(&mut tx.db)
        .await
}

pub(super) async fn renew(tx: &mut Tx<'_>, lease: &JobLease, ttl: Duration) -> Result<Written> {
    set_lease_until(tx, lease, Some(tx.now + micros(ttl))).await
}

pub(super) async fn release(tx: &mut Tx<'_>, lease: &JobLease) -> Result<Written> {
    set_lease_until(tx, lease, None).await
}

async fn set_lease_until(tx: &mut Tx<'_>, lease: &JobLease, until: Option<i64>) -> Result<Written> {
    let done = sql("UPDATE job SET lease_until = ? WHERE id = ? AND lease_epoch = ? AND finished_at IS NULL")
        .bind(until)
        .bind(lease.job.as_str())
        .bind(lease.epoch)
        .execute(&mut tx.db)
        .await?;
    Ok(Written::by(done))
}

// ---- Planning ----------------------------------------------------------------------------------------------------------------

pub(super) async fn claim_planning(tx: &mut Tx<'_>, worker: &str, ttl: Duration) -> Result<Option<(JobLease, Job)>> {
    let found: Option<String> = sql(format!(
        "SELECT id FROM job WHERE {TO_PLAN} AND (lease_until IS NULL OR lease_until <= ?) ORDER BY id LIMIT 1{}",
        tx.db.skip_locked()
    ))
    .bind(tx.now)
    .scalar_or_none(&mut tx.db)
    .await?;
    let Some(id) = found else { return Ok(None) };
    let lease = lease(tx, &id, worker, ttl).await?;
    let mut job = existing(tx, &lease.job).await?;
    // Without an ending the job is in a state that takes this event.
    if let Ok(moved) = apply(tx, &mut job, JobEvent::PlanningBegan).await {
        moved?;
    }
    Ok(Some((lease, job)))
}

pub(super) async fn append_chunks(
    tx: &mut Tx<'_>,
    lease: &JobLease,
    ttl: Duration,
    chunks: &[Vec<ObjectSlice>],
    cursor: &PlanCursor,
) -> Result<Written> {
    let mut job = match take(tx, &lease.job).await? {
        Some(job) if job.ending.is_none() && holds(tx, lease).await? => job,
        _ => return Ok(Written::Fenced),
    };
    for (seq, inputs) in (job.plan.next_seq..).zip(chunks) {
        sql("INSERT INTO chunk (job_id, seq, state, inputs) VALUES (?, ?, 'pending', ?)")
            .bind(lease.job.as_str())
            .bind(seq as i64)
            .bind(document(inputs))
            .execute(&mut tx.db)
            .await?;
    }
    let added = chunks.len() as i64;
    let cursor = PlanCursor { next_seq: job.plan.next_seq + chunks.len() as u64, ..cursor.clone() };
    sql(
        "UPDATE job SET plan = ?, plan_done = ?, objects = ?, bytes = ?, chunks = chunks + ?, pending = pending + ?, lease_until = ? WHERE id = ?",
    )
    .bind(document(&cursor))
    .bind(i64::from(cursor.done))
    .bind(cursor.objects as i64)
    .bind(cursor.bytes as i64)
    .bind(added)
    .bind(added)
    .bind((!cursor.done).then_some(tx.now + micros(ttl)))
    .bind(lease.job.as_str())
    .execute(&mut tx.db).await?;
    if cursor.done {
        costs::estimate(tx, &job, cursor.bytes).await?;
    }
    if added > 0
        && let Ok(moved) = apply(tx, &mut job, JobEvent::ChunksPlanned).await
    {
        moved?;
    }
    tx.ring();
    complete_if_done(tx, &lease.job).await?;
    Ok(Written::Done)
}

/// Applies `AllDone` when planning is over and no chunk is left, and decides between `completed` and `failed`.
pub(super) async fn complete_if_done(tx: &mut Tx<'_>, id: &JobId) -> Result<()> {
    let mut job = existing(tx, id).await?;
    if job.ending.is_some() || !job.plan.done || job.counts.chunks_done < job.counts.chunks {
        return Ok(());
    }
    let verdict = verdict(tx, &job).await?;
    let Ok(moved) = apply(tx, &mut job, JobEvent::AllDone).await else { return Ok(()) };
    moved?;
    let ending = if verdict.is_some() { Ending::Failed } else { Ending::Completed };
    end(tx, &mut job, ending, verdict.as_ref()).await
}

/// Why a job whose chunks are all done is failed all the same.
async fn verdict(tx: &mut Tx<'_>, job: &Job) -> Result<Option<Problem>> {
    let (succeeded, failed) = (job.counts.succeeded, job.counts.failed);
    let ratio = failed as f64 / (succeeded + failed).max(1) as f64;
    let policy = &job.spec.error_policy;
    if failed > 0 && succeeded == 0 {
        let why = summary(tx, &job.id).await?;
        return Ok(Some(Problem::new(
            ALL_RECORDS_FAILED,
            "Every record failed",
            format!("none of {failed} records got a prediction; {why}"),
        )));
    }
    match policy.max_failed_ratio {
        Some(most) if ratio > most => {
            let why = summary(tx, &job.id).await?;
            let detail = format!(
                "{failed} of {} records failed, a share of {ratio:.4}; error_policy.max_failed_ratio allows {most}; {why}",
                succeeded + failed
            );
            Ok(Some(Problem::new(POLICY_VIOLATED, "More records failed than the job allows", detail)))
        }
        _ => Ok(None),
    }
}

/// The first error and the codes by frequency, in words.
pub(super) async fn summary(tx: &mut Tx<'_>, id: &JobId) -> Result<String> {
    let (codes, first): (String, Option<String>) =
        sql("SELECT error_codes, first_error FROM job WHERE id = ?").bind(id.as_str()).only(&mut tx.db).await?;
    let codes: std::collections::BTreeMap<String, u64> = serde_json::from_str(&codes).unwrap_or_default();
    let mut codes: Vec<_> = codes.into_iter().collect();
    codes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let codes: Vec<String> = codes.into_iter().take(5).map(|(code, count)| format!("{code} × {count}")).collect();
    Ok(format!("by code: {}; the first: {}", codes.join(", "), first.unwrap_or_default()))
}

// ---- Finalising --------------------------------------------------------------------------------------------------------------

pub(super) async fn claim_finalizing(tx: &mut Tx<'_>, worker: &str, ttl: Duration) -> Result<Option<(JobLease, Job)>> {
    // Indexes: job_to_finalize, chunk_running_of.
    let found: Option<String> = sql(format!(
        "SELECT id FROM job WHERE state IN ('finalizing', 'cancelling') AND (lease_until IS NULL OR lease_until <= ?) \
         AND NOT EXISTS (SELECT 1 FROM chunk WHERE job_id = job.id AND state = 'running' AND lease_until > ?) ORDER BY id LIMIT 1{}",
        tx.db.skip_locked()
    ))
    .bind(tx.now)
    .bind(tx.now)
    .scalar_or_none(&mut tx.db)
    .await?;
    let Some(id) = found else { return Ok(None) };
    // Whoever still holds an expired lease on a chunk must not commit under the manifest's feet.
    sql("UPDATE chunk SET state = 'cancelled', finished_at = ? WHERE job_id = ? AND state = 'running'")
        .bind(tx.now)
        .bind(&id)
        .execute(&mut tx.db)
        .await?;
    sql("UPDATE job SET running = 0 WHERE id = ?").bind(&id).execute(&mut tx.db).await?;
    let lease = lease(tx, &id, worker, ttl).await?;
    let job = existing(tx, &lease.job).await?;
    Ok(Some((lease, job)))
}

pub(super) async fn earlier_run(db: &mut Db<'_>, fire: &Fire) -> Result<Option<Job>> {
    // Index: job_run_of.
    let row = sql(format!(
        "SELECT {} FROM job WHERE schedule_id = ? AND fire_at < ? AND state = 'completed' AND succeeded > 0 AND purged_at IS NULL \
         ORDER BY fire_at DESC LIMIT 1",
        rows::JOB
    ))
    .bind(fire.schedule.as_str())
    .bind(fire.time.0)
    .row(db)
    .await?;
    row.as_ref().map(rows::job).transpose()
}

pub(super) async fn keep_drift(tx: &mut Tx<'_>, lease: &JobLease, compared: Option<&Compared>) -> Result<Written> {
    hold(tx, &lease.job).await?;
    if !holds(tx, lease).await? {
        return Ok(Written::Fenced);
    }
    sql("UPDATE job SET drift = ? WHERE id = ?").bind(compared.map(document)).bind(lease.job.as_str()).execute(&mut tx.db).await?;
    Ok(Written::Done)
}

pub(super) async fn finish(tx: &mut Tx<'_>, lease: &JobLease, ending: Ending, error: Option<&Problem>) -> Result<Written> {
    hold(tx, &lease.job).await?;
    if !holds(tx, lease).await? {
        return Ok(Written::Fenced);
    }
    let mut job = existing(tx, &lease.job).await?;
    sql("UPDATE job SET ending = ?, error = COALESCE(error, ?), lease_until = NULL WHERE id = ?")
        .bind(ending.name())
        .bind(error.map(document))
        .bind(lease.job.as_str())
        .execute(&mut tx.db)
        .await?;
    match apply(tx, &mut job, JobEvent::Ended(ending)).await {
        Ok(moved) => {
            moved?;
            if ending == Ending::Completed && job.drift.as_ref().is_some_and(Compared::exceeds) {
                webhooks::announce(tx, &lease.job, EventKind::Drift).await?;
            }
            costs::book(tx, &job).await?;
            costs::measure(tx, &job, ending).await?;
            Ok(Written::Done)
        }
        Err(conflict) => Err(Error::Damaged { table: "job", id: lease.job.to_string(), what: conflict.to_string() }),
    }
}

pub(super) fn release_all<'t>(tx: &'t mut Tx<'_>) -> BoxFuture<'t, Result<()>> {
    Box::pin(async move {
        sql("UPDATE job SET lease_until = NULL WHERE finished_at IS NULL AND lease_until IS NOT NULL").execute(&mut tx.db).await?;
        sql("UPDATE chunk SET lease_until = 0 WHERE state = 'running'").execute(&mut tx.db).await?;
        webhooks::release_all(tx).await?;
        schedules::release_all(tx).await
    })
}
