//! Rows ↔ domain values.

use serde::{Serialize, de::DeserializeOwned};

use super::driver::{Cell, Row};
use crate::{
    db::{Error, PendingEvent, Result},
    domain::{
        Attempt, Chunk, ChunkId, ChunkResult, ChunkState, Counts, Delivery, DeliveryId, DeliveryState, Event, EventKind, Fire, Job, JobId,
        JobSpec, JobState, Problem, Progress, Run, RunState, Schedule, ScheduleId, StateChange, Timestamp, TraceParent, WebhookUrl,
        job::{Breaks, Ending, Waits},
        schedule::{BrokenSchedule, Kept, Template},
    },
};

/// Columns of [`job`], in one place. A paused job keeps in its row the state that it had before.
pub(super) const JOB: &str = "id, spec, model, pipeline, CASE WHEN paused_at IS NULL THEN state ELSE 'paused' END AS state, ending, error, \
                              plan, objects, bytes, chunks, chunks_done, succeeded, failed, usage, summary, estimate, created_at, started_at, \
                              finished_at, paused_at, idle, retries, trace, drift, schedule_id, fire_at, only_new, blocked, wait_until";
/// Columns of [`schedule`], in one place, of `schedule s`.
pub(super) const SCHEDULE: &str = "s.id, s.spec, s.next_at, s.paused_at, s.revision, s.created_at, s.updated_at";
/// Columns of [`run`], in one place, of `schedule_run r`.
pub(super) const RUN: &str = "r.fire_at, r.manual, r.state, r.job_id, r.problem, r.attempts, r.settled_at";
/// The same of a row that was just changed: SQLite knows no other name of its table there.
pub(super) const RUN_RETURNED: &str = "fire_at, manual, state, job_id, problem, attempts, settled_at";
/// Columns of [`chunk`], in one place.
pub(super) const CHUNK: &str = "job_id, seq, state, claims, failures, crashes, not_before, lease_epoch, worker, started_at, \
                                finished_at, error, result, inputs, isolation";

/// Columns of [`progress`], in one place: those of a job that are no documents.
pub(super) const PROGRESS: &str = "id, labels, CASE WHEN paused_at IS NULL THEN state ELSE 'paused' END AS state, plan_done, objects, bytes, \
                                   chunks, chunks_done, succeeded, failed, started_at, finished_at, paused_at, idle, retries";
/// Columns of [`delivery`], in one place, of `webhook_delivery d` and its last attempt `a`.
pub(super) const DELIVERY: &str = "d.id, d.job_id, d.message_id, d.kind, d.endpoint, d.url, d.state, d.attempts, d.tries, d.next_at, \
                                   d.created_at, d.finished_at, a.number, a.at, a.status, a.error, a.latency_us";

/// What kind of row is being read, for messages on a damaged one.
struct Reader<'r> {
    row: &'r Row,
    table: &'static str,
    id: String,
}

impl Reader<'_> {
    fn damaged(&self, what: impl ToString) -> Error {
        Error::Damaged { table: self.table, id: self.id.clone(), what: what.to_string() }
    }

    fn get<T: Cell>(&self, column: &'static str) -> Result<T> {
        self.row.get(column).map_err(|e| self.damaged(format!("{column}: {e}")))
    }

    fn count(&self, column: &'static str) -> Result<u64> {
        let value: i64 = self.get(column)?;
        u64::try_from(value).map_err(|_| self.damaged(format!("{column} is {value}")))
    }

    fn time(&self, column: &'static str) -> Result<Option<Timestamp>> {
        Ok(self.get::<Option<i64>>(column)?.map(Timestamp))
    }

    fn counts(&self) -> Result<Counts> {
        Ok(Counts {
            objects: self.count("objects")?,
            bytes: self.count("bytes")?,
            chunks: self.count("chunks")?,
            chunks_done: self.count("chunks_done")?,
            succeeded: self.count("succeeded")?,
            failed: self.count("failed")?,
        })
    }

    fn breaks(&self) -> Result<Breaks> {
        Ok(Breaks { paused_at: self.time("paused_at")?, idle_us: self.get("idle")?, retries: self.count("retries")? as u32 })
    }

    fn json<T: DeserializeOwned>(&self, column: &'static str) -> Result<T> {
        let text: String = self.get(column)?;
        serde_json::from_str(&text).map_err(|e| self.damaged(format!("{column}: {e}")))
    }

    fn json_or_none<T: DeserializeOwned>(&self, column: &'static str) -> Result<Option<T>> {
        let text: Option<String> = self.get(column)?;
        text.map(|t| serde_json::from_str(&t)).transpose().map_err(|e| self.damaged(format!("{column}: {e}")))
    }

    fn parse<T>(&self, column: &'static str, parse: impl Fn(&str) -> Option<T>) -> Result<T> {
        let text: String = self.get(column)?;
        parse(&text).ok_or_else(|| self.damaged(format!("{column} is {text:?}")))
    }
}

fn reader<'r>(row: &'r Row, table: &'static str, key: &str) -> Reader<'r> {
    Reader { row, table, id: row.get::<String>(key).unwrap_or_default() }
}

/// A job from a row with the columns of [`JOB`].
pub(super) fn job(row: &Row) -> Result<Job> {
    let r = reader(row, "job", "id");
    let ending: Option<String> = r.get("ending")?;
    let trace: Option<String> = r.get("trace")?;
    Ok(Job {
        id: r.parse("id", JobId::parse)?,
        spec: r.json("spec")?,
        model: r.json("model")?,
        pipeline: r.json("pipeline")?,
        state: r.parse("state", JobState::parse)?,
        ending: ending.map(|e| Ending::parse(&e).ok_or_else(|| r.damaged(format!("ending is {e:?}")))).transpose()?,
        error: r.json_or_none::<Problem>("error")?,
        counts: r.counts()?,
        plan: r.json("plan")?,
        usage: r.json("usage")?,
        summary: r.json("summary")?,
        drift: r.json_or_none("drift")?,
        estimate: r.json_or_none("estimate")?,
        created_at: Timestamp(r.get("created_at")?),
        started_at: r.time("started_at")?,
        finished_at: r.time("finished_at")?,
        breaks: r.breaks()?,
        trace: trace.map(|t| TraceParent::parse(&t).ok_or_else(|| r.damaged(format!("trace is {t:?}")))).transpose()?,
        fire: fire(&r)?,
        waits: Waits { jobs: r.get::<i64>("blocked")? != 0, object_until: r.time("wait_until")? },
    })
}

fn fire(r: &Reader<'_>) -> Result<Option<Fire>> {
    let (schedule, time) = (r.get::<Option<String>>("schedule_id")?, r.time("fire_at")?);
    let (Some(schedule), Some(time)) = (schedule, time) else { return Ok(None) };
    let schedule = ScheduleId::parse(&schedule).ok_or_else(|| r.damaged(format!("schedule_id is {schedule:?}")))?;
    Ok(Some(Fire { schedule, time, only_new: r.get::<i64>("only_new")? != 0 }))
}

/// A schedule from a row with the columns of [`SCHEDULE`].
pub(super) fn schedule(row: &Row) -> Result<Schedule> {
    let r = reader(row, "schedule", "id");
    Ok(Schedule {
        id: r.parse("id", ScheduleId::parse)?,
        spec: r.json("spec")?,
        next_at: r.time("next_at")?,
        paused_at: r.time("paused_at")?,
        revision: r.count("revision")?,
        created_at: Timestamp(r.get("created_at")?),
        updated_at: Timestamp(r.get("updated_at")?),
    })
}

/// A schedule from such a row, or what can be said of one that cannot be read.
pub(super) fn kept_schedule(row: &Row) -> Result<Kept> {
    let why = match schedule(row) {
        Err(Error::Damaged { what, .. }) => what,
        other => return other.map(|schedule| Kept::Whole(Box::new(schedule))),
    };
    let r = reader(row, "schedule", "id");
    Ok(Kept::Broken(BrokenSchedule {
        definition: Template(r.json("spec").unwrap_or_default()),
        why,
        paused_at: r.time("paused_at")?,
        created_at: Timestamp(r.get("created_at")?),
        updated_at: Timestamp(r.get("updated_at")?),
        id: r.id,
    }))
}

/// A fire from a row with the columns of [`RUN`].
pub(super) fn run(row: &Row) -> Result<Run> {
    let r = reader(row, "schedule_run", "fire_at");
    let job: Option<String> = r.get("job_id")?;
    Ok(Run {
        fire_time: Timestamp(r.get("fire_at")?),
        manual: r.get::<i64>("manual")? != 0,
        state: r.parse("state", RunState::parse)?,
        job: job.map(|id| JobId::parse(&id).ok_or_else(|| r.damaged(format!("job_id is {id:?}")))).transpose()?,
        problem: r.json_or_none("problem")?,
        attempts: r.count("attempts")? as u32,
        settled_at: r.time("settled_at")?,
    })
}

/// How far a job is, from a row with the columns of [`PROGRESS`].
pub(super) fn progress(row: &Row) -> Result<Progress> {
    let r = reader(row, "job", "id");
    Ok(Progress {
        job: r.parse("id", JobId::parse)?,
        labels: r.json("labels")?,
        state: r.parse("state", JobState::parse)?,
        counts: r.counts()?,
        planned: r.get::<i64>("plan_done")? != 0,
        started_at: r.time("started_at")?,
        finished_at: r.time("finished_at")?,
        breaks: r.breaks()?,
    })
}

/// A state change from a row of `state_change`.
pub(super) fn state_change(row: &Row) -> Result<StateChange> {
    let seq: i64 = row.get("seq").map_err(Error::Unavailable)?;
    let r = Reader { row, table: "state_change", id: seq.to_string() };
    Ok(StateChange { seq, job: r.json("data")?, at: Timestamp(r.get("at")?) })
}

/// A chunk from a row with the columns of [`CHUNK`].
pub(super) fn chunk(row: &Row) -> Result<Chunk> {
    let r = reader(row, "chunk", "job_id");
    let states = [ChunkState::Pending, ChunkState::Running, ChunkState::Done, ChunkState::Failed, ChunkState::Cancelled];
    Ok(Chunk {
        id: ChunkId { job: r.parse("job_id", JobId::parse)?, seq: r.count("seq")? },
        inputs: r.json("inputs")?,
        state: r.parse("state", |text| states.into_iter().find(|s| s.name() == text))?,
        claims: r.count("claims")? as u32,
        failures: r.count("failures")? as u32,
        crashes: r.count("crashes")? as u32,
        isolation: r.json_or_none("isolation")?,
        epoch: r.get("lease_epoch")?,
        not_before: r.time("not_before")?,
        worker: r.get("worker")?,
        started_at: r.time("started_at")?,
        finished_at: r.time("finished_at")?,
        result: r.json_or_none("result")?,
        error: r.json_or_none("error")?,
    })
}

/// An event and its job's webhook, from a row with the columns of `event` and the job's `spec`.
pub(super) fn pending_event(row: &Row) -> Result<PendingEvent> {
    let r = reader(row, "event", "message_id");
    let event = Event {
        seq: r.get("seq")?,
        message_id: r.get("message_id")?,
        kind: r.parse("kind", EventKind::parse)?,
        job: r.json("data")?,
        at: Timestamp(r.get("at")?),
    };
    Ok(PendingEvent { event, webhook: r.json::<JobSpec>("spec")?.webhook })
}

/// A delivery from a row with the columns of [`DELIVERY`].
pub(super) fn delivery(row: &Row) -> Result<Delivery> {
    let r = reader(row, "webhook_delivery", "id");
    let tried: Option<i64> = r.get("number")?;
    Ok(Delivery {
        id: r.parse("id", DeliveryId::parse)?,
        job: r.parse("job_id", JobId::parse)?,
        message_id: r.get("message_id")?,
        kind: r.parse("kind", EventKind::parse)?,
        endpoint: r.get("endpoint")?,
        url: r.parse("url", |text| WebhookUrl::parse(text).ok())?,
        state: r.parse("state", DeliveryState::parse)?,
        attempts: r.count("attempts")? as u32,
        tries: r.count("tries")? as u32,
        next_at: Timestamp(r.get("next_at")?),
        created_at: Timestamp(r.get("created_at")?),
        finished_at: r.time("finished_at")?,
        last: tried.map(|_| attempt_of(&r)).transpose()?,
    })
}

/// An attempt from a row of `webhook_attempt`.
pub(super) fn attempt(row: &Row) -> Result<Attempt> {
    attempt_of(&reader(row, "webhook_attempt", "delivery_id"))
}

fn attempt_of(r: &Reader<'_>) -> Result<Attempt> {
    Ok(Attempt {
        number: r.count("number")? as u32,
        at: Timestamp(r.get("at")?),
        status: r
            .get::<Option<i64>>("status")?
            .map(|status| u16::try_from(status).map_err(|e| r.damaged(format!("status: {e}"))))
            .transpose()?,
        error: r.get("error")?,
        latency_us: r.count("latency_us")?,
    })
}

/// What a chunk of this job came to, as its row keeps it.
pub(super) fn result(job: &JobId, text: &str) -> Result<ChunkResult> {
    serde_json::from_str(text).map_err(|e| Error::Damaged { table: "chunk", id: job.to_string(), what: format!("result: {e}") })
}

/// A document as the tables keep it. Domain types have string keys and finite numbers, so this cannot fail.
pub(super) fn document(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("domain values are JSON")
}
