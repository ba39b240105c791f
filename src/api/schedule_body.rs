//! Schedules and their fires as answers show them.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    problem::{ApiProblem, JobProblem},
    schedule_definition,
    spec::JobDefinition,
    waits::WaitDefinition,
};
use crate::domain::{
    JobId, Run, RunState, Schedule, ScheduleSpec, Timestamp, Uri,
    schedule::{BrokenSchedule, CatchUp, Overlap, Template},
};

/// Fires that are shown ahead.
const AHEAD: usize = 10;

/// A schedule to be kept.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "the document's form of what schedule_definition.rs reads; a test compares the two")]
pub(super) struct ScheduleDefinition {
    /// For people, and for `{{ schedule }}`.
    #[schema(example = "fraud-nightly")]
    name: String,
    /// Minute, hour, day of month, month, day of week; or six fields with seconds first. Numbers, names, ranges, lists, steps. A day that
    /// meets either of two restricted day fields counts. Hours that begin with `*` follow real time over a change of daylight saving;
    /// others follow the wall clock: a time that comes twice fires once, one that is left out fires at the first instant after the gap.
    #[schema(example = "0 2 * * *")]
    cron: String,
    /// A name of the IANA database.
    #[schema(default = "UTC", example = "Europe/Berlin")]
    time_zone: Option<String>,
    /// What each fire makes: the body of `POST /v1/jobs`. In its locations and globs, its name and the values of its labels may stand
    /// `{{ fire_time | minus("1d") | date("%Y-%m-%d") }}`, `{{ schedule }}` and `{{ parent.output }}`.
    job: JobDefinition,
    /// What a fire does while an earlier job of the schedule is not over: `skip` makes no job, `queue` waits for its end, `replace` cancels it.
    #[schema(default = "skip")]
    overlap: Option<String>,
    /// What becomes of fires that were missed by more than a minute because no service was there: `none`, the `last`, or `all` of them, the
    /// latest thousand at most.
    #[schema(default = "last")]
    catch_up: Option<String>,
    /// A job reads only objects that no completed job of the schedule has read as they are now.
    #[schema(default = false)]
    only_new: Option<bool>,
    /// What each job waits for; instead of `wait_for` of the job, and with placeholders like it.
    wait_for: Option<WaitDefinition>,
    /// No fire is later than this; RFC 3339.
    #[schema(example = "2027-12-31T23:59:59Z")]
    end_at: Option<String>,
    /// Whether it is paused: no fire comes then, and none is made up for.
    #[schema(default = false)]
    paused: Option<bool>,
}

/// A schedule.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ScheduleBody {
    /// `sch_` and a UUIDv7.
    #[schema(example = "sch_019ac2f7b0f47e0f8a1b2c3d4e5f6073")]
    id: String,
    /// `active`, `paused`, `ended` when no fire will come any more, or `broken` when its definition, which is shown as far as it is one, cannot
    /// be read: it can be deleted.
    state: &'static str,
    /// As given.
    name: String,
    /// As given.
    cron: String,
    /// As given.
    time_zone: String,
    /// As given, but for a webhook's secret, which is never shown.
    #[schema(value_type = Object)]
    job: Value,
    /// As given.
    overlap: String,
    /// As given.
    catch_up: String,
    /// As given.
    only_new: bool,
    /// As given.
    #[schema(value_type = Option<WaitDefinition>)]
    wait_for: Option<Value>,
    /// RFC 3339, UTC.
    end_at: Option<String>,
    /// The next ten fires; those that a paused schedule would have.
    next_fires: Vec<FireBody>,
    /// RFC 3339, UTC; set while it is paused.
    paused_at: Option<String>,
    /// RFC 3339, UTC.
    created_at: String,
    /// When its definition was last changed; RFC 3339, UTC.
    updated_at: String,
    /// Why it is `broken`.
    problem: Option<JobProblem>,
}

/// A fire to come, and what its job will read and write.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FireBody {
    /// RFC 3339, UTC.
    #[schema(example = "2026-11-24T01:00:00.000000Z")]
    fire_time: String,
    /// The same by the clocks of the time zone.
    #[schema(example = "2026-11-24T02:00:00+01:00")]
    local_time: String,
    /// The job's name.
    name: Option<String>,
    /// Where its model is.
    model: Option<String>,
    /// What it reads.
    input: Option<String>,
    /// Where it writes.
    output: Option<String>,
    /// Where it writes its review queue.
    review: Option<String>,
    /// What it waits for.
    wait_for: Option<String>,
}

/// What a schedule would do.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SchedulePreview {
    /// The next ten fires.
    pub(super) next_fires: Vec<FireBody>,
}

/// A page of schedules, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SchedulePage {
    /// The schedules.
    pub(super) items: Vec<ScheduleBody>,
    /// Give it as `cursor` to get the next page; absent on the last.
    pub(super) next_cursor: Option<String>,
}

/// A fire, and what became of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RunBody {
    /// When it was due; RFC 3339, UTC.
    #[schema(example = "2026-11-24T01:00:00.000000Z")]
    fire_time: String,
    /// Whether a caller asked for it.
    manual: bool,
    /// `waiting` for its job to be made, `started` when it was, `skipped` as the schedule says, or `failed`.
    state: &'static str,
    /// Its job.
    job: Option<String>,
    /// Where that is described, as long as it is kept.
    job_url: Option<String>,
    /// Why it has none, or none yet.
    problem: Option<JobProblem>,
    /// How often its job was to be made, and a store or the database did not answer.
    attempts: u32,
    /// When it was started, skipped or failed; RFC 3339, UTC.
    settled_at: Option<String>,
}

/// A page of fires, latest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RunPage {
    /// The fires.
    pub(super) items: Vec<RunBody>,
    /// Give it as `cursor` to get the next page; absent on the last.
    pub(super) next_cursor: Option<String>,
}

impl ScheduleBody {
    /// `parents` are the jobs that the template depends on.
    pub(super) fn new(schedule: &Schedule, now: Timestamp, parents: &[(JobId, Uri)]) -> Self {
        let spec = &schedule.spec;
        // A fire that has come and is not opened yet is still to come; a paused schedule has none such.
        let next = schedule.next_at.filter(|_| schedule.paused_at.is_none());
        let after = next.map_or(now, |next| Timestamp(now.0.min(next.0 - 1)));
        Self {
            id: schedule.id.to_string(),
            state: schedule.state(),
            name: spec.name.clone(),
            cron: spec.cron.to_string(),
            time_zone: spec.time_zone.name().to_owned(),
            job: schedule_definition::shown(&spec.job),
            overlap: Overlap::WORDS.iter().find(|(_, o)| *o == spec.overlap).map_or("", |(word, _)| word).to_owned(),
            catch_up: CatchUp::WORDS.iter().find(|(_, c)| *c == spec.catch_up).map_or("", |(word, _)| word).to_owned(),
            only_new: spec.only_new,
            wait_for: spec.wait_for.clone(),
            end_at: spec.end_at.map(|t| t.to_string()),
            next_fires: next_fires(spec, after, parents),
            paused_at: schedule.paused_at.map(|t| t.to_string()),
            created_at: schedule.created_at.to_string(),
            updated_at: schedule.updated_at.to_string(),
            problem: None,
        }
    }

    /// A schedule that cannot be read, as far as it can be shown.
    pub(super) fn broken(schedule: &BrokenSchedule) -> Self {
        let text = |field| schedule.text(field).to_owned();
        let definition = &schedule.definition.0;
        Self {
            id: schedule.id.clone(),
            state: "broken",
            name: text("name"),
            cron: text("cron"),
            time_zone: text("time_zone"),
            job: schedule_definition::shown(&Template(definition.get("job").cloned().unwrap_or_default())),
            overlap: text("overlap"),
            catch_up: text("catch_up"),
            only_new: definition.get("only_new").and_then(Value::as_bool).unwrap_or_default(),
            wait_for: definition.get("wait_for").cloned(),
            end_at: None,
            next_fires: Vec::new(),
            paused_at: schedule.paused_at.map(|t| t.to_string()),
            created_at: schedule.created_at.to_string(),
            updated_at: schedule.updated_at.to_string(),
            problem: Some(ApiProblem::of_job(&schedule.problem())),
        }
    }
}

/// The fires after a time.
pub(super) fn next_fires(spec: &ScheduleSpec, after: Timestamp, parents: &[(JobId, Uri)]) -> Vec<FireBody> {
    let fires = std::iter::successors(spec.next(after), |fire| spec.next(*fire));
    fires.take(AHEAD).map(|fire| FireBody::new(spec, fire, parents)).collect()
}

impl FireBody {
    fn new(spec: &ScheduleSpec, fire: Timestamp, parents: &[(JobId, Uri)]) -> Self {
        let (job, _) = spec.definition(fire, parents);
        // A location alone is short for an object that has it.
        let at = |pointers: &[&str]| pointers.iter().find_map(|pointer| job.pointer(pointer)?.as_str().map(str::to_owned));
        let local = spec.time_zone.wall(fire).map(|time| time.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string());
        Self {
            fire_time: fire.to_string(),
            local_time: local.unwrap_or_default(),
            name: at(&["/name"]),
            model: at(&["/model", "/model/uri", "/model/name"]),
            input: at(&["/input", "/input/uri", "/input/manifest"]),
            output: at(&["/output", "/output/uri"]),
            review: at(&["/output/review/uri"]),
            wait_for: at(&["/wait_for/uri"]),
        }
    }
}

impl RunBody {
    pub(super) fn new(run: &Run) -> Self {
        Self {
            fire_time: run.fire_time.to_string(),
            manual: run.manual,
            state: run.state.name(),
            job: run.job.as_ref().map(JobId::to_string),
            job_url: run.job.as_ref().map(|job| format!("/v1/jobs/{job}")),
            problem: run.problem.as_ref().map(ApiProblem::of_job),
            attempts: run.attempts,
            settled_at: run.settled_at.map(|t| t.to_string()),
        }
    }
}

/// The words of these fields, for the document.
pub(super) fn words() -> Vec<(&'static str, &'static str, Vec<&'static str>)> {
    let (overlaps, policies) = (Overlap::WORDS.map(|(word, _)| word).to_vec(), CatchUp::WORDS.map(|(word, _)| word).to_vec());
    vec![
        ("ScheduleDefinition", "overlap", overlaps.clone()),
        ("ScheduleDefinition", "catch_up", policies.clone()),
        ("ScheduleBody", "overlap", overlaps),
        ("ScheduleBody", "catch_up", policies),
        ("ScheduleBody", "state", vec!["active", "paused", "ended", "broken"]),
        ("RunBody", "state", RunState::ALL.map(RunState::name).to_vec()),
    ]
}
